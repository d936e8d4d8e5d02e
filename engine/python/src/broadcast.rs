//! `RealtimeBroadcast`, `BroadcastSubscriber`, `BroadcastStats`.

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::argument::{Arg, Of};
use crate::config::{BackpressurePolicy, BroadcastConfig};
use crate::convert::with_payload;
use crate::errors::{no_subscribers, raise, shown, unknown_channel};
use crate::handle::{Handle, Receiving};
use crate::json::with_compact;
use crate::segment::{Segment, world};

const KIND: &str = "Broadcast channel";

/// Broadcast channels of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct RealtimeBroadcast {
    channels: core::Channels,
}

impl RealtimeBroadcast {
    #[inline]
    fn put(&self, py: Python<'_>, name: &str, payload: &[u8], form: core::Form, message_id: Option<&str>) -> PyResult<u64> {
        match self.channels.send(name, payload, form, message_id).map_err(raise)? {
            core::Sent::Delivered(heard) => Ok(heard),
            core::Sent::Duplicate => Ok(0),
            core::Sent::Unheard => Err(no_subscribers(py)),
            core::Sent::Unknown => Err(unknown_channel(py, KIND, name)),
        }
    }
}

#[pymethods]
impl RealtimeBroadcast {
    #[new]
    fn new(segment: Of<'_, '_, Segment>, namespace: Arg<&str>) -> PyResult<RealtimeBroadcast> {
        Ok(RealtimeBroadcast { channels: core::Channels::new(&world(&segment, &namespace)?, core::ChannelKind::Broadcast) })
    }

    /// Creates a broadcast channel. False: there is one of this name, and it is kept as it is.
    #[pyo3(signature = (name, config=None))]
    fn create(&self, name: Arg<&str>, config: Option<Of<'_, '_, BroadcastConfig>>) -> PyResult<bool> {
        let config = config.map_or_else(BroadcastConfig::standard, |config| config.get().clone());
        let spec = core::ChannelSpec {
            buffer_size: config.buffer_size.next_power_of_two(),
            metadata: Vec::new(),
            fail_when_unheard: config.policy == BackpressurePolicy::Error,
            dedup_window: config.dedup_enabled.then_some(config.dedup_window),
        };
        self.channels.create(&name, &spec).map_err(raise)
    }

    /// Removes a broadcast channel; open subscribers drain what is left. False: there is none.
    fn remove(&self, name: Arg<&str>) -> PyResult<bool> {
        self.channels.remove(&name).map_err(raise)
    }

    /// Opens a handle that receives what is sent from now on.
    ///
    /// Raises:
    ///     KeyError: there is no such channel.
    fn subscribe(&self, py: Python<'_>, name: Arg<&str>) -> PyResult<Py<BroadcastSubscriber>> {
        match self.channels.open_handle(&name, None).map_err(raise)? {
            Some(receiver) => {
                let handle = Handle::new(Receiving::One(receiver));
                Py::new(py, PyClassInitializer::from(handle).add_subclass(BroadcastSubscriber))
            }
            None => Err(unknown_channel(py, KIND, &name)),
        }
    }

    /// Sends under the channel's policy and, with an id, once within its dedup window; returns how
    /// many handles are open, 0 for a duplicate.
    #[pyo3(signature = (name, message, message_id=None))]
    fn send(&self, name: Arg<&str>, message: &Bound<'_, PyAny>, message_id: Option<Arg<&str>>) -> PyResult<u64> {
        with_payload(message, |payload, form| self.put(message.py(), &name, payload, form, message_id.map(Arg::into_inner)))
    }

    /// Sends data as compact JSON, as `send` does.
    #[pyo3(signature = (name, data, message_id=None))]
    fn send_json(&self, name: Arg<&str>, data: &Bound<'_, PyAny>, message_id: Option<Arg<&str>>) -> PyResult<u64> {
        with_compact(data, |payload| self.put(data.py(), &name, payload, core::Form::Text, message_id.map(Arg::into_inner)))
    }

    /// Sends to several channels; unknown ones are left out of the result.
    fn send_many<'py>(&self, names: Arg<Vec<String>>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let results = PyDict::new(message.py());
        with_payload(message, |payload, form| {
            for name in names.into_inner() {
                match self.channels.send(&name, payload, form, None).map_err(raise)? {
                    core::Sent::Delivered(heard) => results.set_item(name, heard)?,
                    core::Sent::Duplicate | core::Sent::Unheard => results.set_item(name, 0)?,
                    core::Sent::Unknown => {}
                }
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// What is known of a broadcast channel.
    fn stats(&self, py: Python<'_>, name: Arg<&str>) -> PyResult<BroadcastStats> {
        match self.channels.stats(&name).map_err(raise)? {
            Some(stats) => Ok(BroadcastStats { channels: 1, stats }),
            None => Err(unknown_channel(py, KIND, &name)),
        }
    }

    /// The sums over all broadcast channels.
    fn global_stats(&self) -> PyResult<BroadcastStats> {
        let (channels, stats) = self.channels.totals().map_err(raise)?;
        Ok(BroadcastStats { channels, stats })
    }

    /// All names.
    fn list_channels(&self) -> PyResult<Vec<String>> {
        self.channels.names().map_err(raise)
    }

    /// Is there a broadcast channel of this name?
    fn has_channel(&self, name: Arg<&str>) -> PyResult<bool> {
        self.channels.contains(&name).map_err(raise)
    }

    /// Removes all broadcast channels.
    fn clear(&self) -> PyResult<()> {
        self.channels.clear().map_err(raise)
    }

    fn __repr__(&self) -> PyResult<String> {
        shown("RealtimeBroadcast", self.channels.count().map(|channels| format!("RealtimeBroadcast(channels={channels})")))
    }
}

/// An open handle on a broadcast channel: waits as a ``Subscriber`` does. Made by ``RealtimeBroadcast.subscribe``.
#[pyclass(frozen, extends = Handle, module = "hypern_realtime_shm._engine")]
pub struct BroadcastSubscriber;

#[pymethods]
impl BroadcastSubscriber {
    /// Messages overwritten before they were read.
    #[getter]
    fn lagged_count(slf: &Bound<'_, Self>) -> u64 {
        slf.as_super().get().missed()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let handle = slf.as_super().get();
        format!(
            "BroadcastSubscriber(channel={:?}, received={}, lagged={})",
            handle.channel_name(),
            handle.received_count(),
            handle.missed()
        )
    }
}

/// What is known of a broadcast channel, or of all.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct BroadcastStats {
    channels: u64,
    stats: core::ChannelStats,
}

#[pymethods]
impl BroadcastStats {
    /// Messages sent, those that nobody heard included.
    #[getter]
    fn total_sent(&self) -> u64 {
        self.stats.sent
    }

    /// Messages that nobody heard, and those that lagging handles missed.
    #[getter]
    fn total_dropped(&self) -> u64 {
        self.stats.dropped
    }

    /// Messages skipped as duplicates.
    #[getter]
    fn total_deduped(&self) -> u64 {
        self.stats.deduped
    }

    /// Open handles now.
    #[getter]
    fn active_subscribers(&self) -> u64 {
        self.stats.handles
    }

    /// Channels counted.
    #[getter]
    fn channel_count(&self) -> u64 {
        self.channels
    }

    fn __repr__(&self) -> String {
        let stats = &self.stats;
        format!(
            "BroadcastStats(sent={}, dropped={}, deduped={}, subs={}, channels={})",
            stats.sent, stats.dropped, stats.deduped, stats.handles, self.channels
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<RealtimeBroadcast>()?;
    m.add_class::<BroadcastSubscriber>()?;
    m.add_class::<BroadcastStats>()
}
