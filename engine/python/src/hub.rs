//! `RealtimeHub`: what it does with channels, presence and heartbeats at once.

use std::sync::OnceLock;

use hypern_shm_core as core;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::argument::{Arg, Of};
use crate::channels::{ChannelManager, Subscriber};
use crate::convert::{EventId, with_metadata, with_payload};
use crate::errors::raise;
use crate::heartbeat::HeartbeatMonitor;
use crate::json::with_compact;
use crate::presence::PresenceTracker;
use crate::publishing::publish;

/// Channels, presence and heartbeats of one world.
#[pyclass(frozen, subclass, name = "RealtimeHub", module = "hypern_realtime_shm._engine")]
pub struct Hub {
    parts: OnceLock<core::Hub>,
}

impl Hub {
    fn parts(&self) -> PyResult<&core::Hub> {
        self.parts.get().ok_or_else(|| PyRuntimeError::new_err("RealtimeHub.__init__ was not called"))
    }

    fn put(&self, channel: &Bound<'_, PyAny>, payload: &[u8], form: core::Form) -> PyResult<u64> {
        publish(self.parts()?.channels(), channel, "channel", payload, form)
    }
}

#[pymethods]
impl Hub {
    /// Takes any arguments: they are those of `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Hub {
        Hub { parts: OnceLock::new() }
    }

    /// Says what it is of; once.
    #[pyo3(name = "_consist_of")]
    fn consist_of(
        &self,
        channels: Of<'_, '_, ChannelManager>,
        presence: Of<'_, '_, PresenceTracker>,
        heartbeat: Of<'_, '_, HeartbeatMonitor>,
    ) -> PyResult<()> {
        let hub = core::Hub::new(channels.get().core().clone(), presence.get().core().clone(), heartbeat.get().core().clone());
        self.parts.set(hub).map_err(|_| PyRuntimeError::new_err("RealtimeHub.__init__ was called before"))
    }

    /// Subscribes, tracks presence and registers the heartbeat of a client.
    ///
    /// Args:
    ///     last_event_id: go on after this message, as in ``ChannelManager.subscribe``.
    ///
    /// Raises:
    ///     KeyError: there is no such channel.
    ///     TypeError: the metadata is not text.
    ///     SegmentFull: there is no room. Nothing of the three is left behind, whatever is raised; a client that
    ///         was there already stays.
    #[pyo3(signature = (channel, client_id, metadata=None, *, last_event_id=None))]
    fn join(
        &self,
        py: Python<'_>,
        channel: Arg<&str>,
        client_id: Arg<&str>,
        metadata: Option<&Bound<'_, PyAny>>,
        last_event_id: Option<Arg<EventId<'_>>>,
    ) -> PyResult<Py<Subscriber>> {
        let after = last_event_id.as_deref().map(EventId::text);
        with_metadata(metadata, |metadata| Subscriber::of_channel(py, &channel, self.parts()?.join(&channel, &client_id, metadata, after)))
    }

    /// Takes a client out of a channel; its heartbeat ends with its last channel.
    fn leave(&self, channel: Arg<&str>, client_id: Arg<&str>) -> PyResult<()> {
        self.parts()?.leave(&channel, &client_id).map_err(raise)
    }

    /// Takes a client out of all channels; returns those it was in.
    fn disconnect<'py>(&self, py: Python<'py>, client_id: Arg<&str>) -> PyResult<Bound<'py, PyList>> {
        let left = self.parts()?.disconnect(&client_id).map_err(raise)?;
        PyList::new(py, left.iter().map(|channel| &**channel))
    }

    /// Publishes; returns how many handles are open in all workers.
    ///
    /// Raises:
    ///     KeyError: there is no such channel.
    fn publish(&self, channel: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_payload(message, |payload, form| self.put(channel, payload, form))
    }

    /// Publishes data as compact JSON.
    fn publish_json(&self, channel: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_compact(data, |payload| self.put(channel, payload, core::Form::Text))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Hub>()
}
