//! `ChannelManager`, `Subscriber`, `ChannelStats`.

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::{buffer_size, dict, pairs, receive, receive_all, show, with_payload};
use crate::errors::{raise, unknown_channel};
use crate::segment::{Segment, world};
use crate::topics::TopicMatcher;

const KIND: &str = "Channel";

/// Named channels of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct ChannelManager {
    channels: core::Channels,
    topics: core::Topics,
    default_buffer_size: u64,
}

#[pymethods]
impl ChannelManager {
    #[new]
    fn new(default_buffer_size: i64, segment: &Bound<'_, Segment>, namespace: &str) -> PyResult<ChannelManager> {
        let size = buffer_size("default_buffer_size", default_buffer_size)?;
        let world = world(segment, namespace)?;
        Ok(ChannelManager {
            channels: core::Channels::new(&world, core::ChannelKind::Channel),
            topics: core::Topics::new(&world, core::TopicsKind::OfManager),
            default_buffer_size: size,
        })
    }

    /// Creates a channel. False: there is one of this name, and it is kept as it is.
    #[pyo3(signature = (name, buffer_size=None, metadata=None))]
    fn create_channel(&self, name: &str, buffer_size: Option<i64>, metadata: Option<&Bound<'_, PyDict>>) -> PyResult<bool> {
        let size = match buffer_size {
            Some(size) => crate::convert::buffer_size("buffer_size", size)?,
            None => self.default_buffer_size,
        };
        let spec = core::ChannelSpec { buffer_size: size, metadata: pairs(metadata)?, fail_when_unheard: false, dedup_window: None };
        self.channels.create(name, &spec).map_err(raise)
    }

    /// Removes a channel; open subscribers drain what is left. False: there is none.
    fn remove_channel(&self, name: &str) -> PyResult<bool> {
        self.channels.remove(name).map_err(raise)
    }

    /// Is there a channel of this name?
    fn has_channel(&self, name: &str) -> PyResult<bool> {
        self.channels.contains(name).map_err(raise)
    }

    /// Registers a client and opens a handle that receives what is published from now on.
    fn subscribe(&self, py: Python<'_>, channel_name: &str, client_id: &str) -> PyResult<Subscriber> {
        match self.channels.subscribe(channel_name, client_id).map_err(raise)? {
            Some(receiver) => Ok(Subscriber { receiver }),
            None => Err(unknown_channel(py, KIND, channel_name)),
        }
    }

    /// Ends a client's registration and the delivery to its handles. False: it had none.
    fn unsubscribe(&self, channel_name: &str, client_id: &str) -> PyResult<bool> {
        self.channels.unsubscribe(channel_name, client_id).map_err(raise)
    }

    /// Publishes to every open handle in every process; returns how many there are.
    fn publish(&self, channel_name: &str, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_payload(message, |payload, form| match self.channels.publish(channel_name, payload, form) {
            Ok(Some(heard)) => Ok(heard),
            Ok(None) => Err(unknown_channel(message.py(), KIND, channel_name)),
            Err(error) => Err(raise(error)),
        })
    }

    /// Publishes once to every channel whose name matches; returns the sum of open handles.
    fn publish_to_topic(&self, topic: &str, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_payload(message, |payload, form| self.channels.publish_matching(topic, payload, form).map_err(raise))
    }

    /// What is known of a channel.
    fn get_stats(&self, py: Python<'_>, channel_name: &str) -> PyResult<ChannelStats> {
        match self.channels.stats(channel_name).map_err(raise)? {
            Some(stats) => Ok(ChannelStats { stats }),
            None => Err(unknown_channel(py, KIND, channel_name)),
        }
    }

    /// All channel names.
    fn list_channels(&self) -> PyResult<Vec<String>> {
        self.channels.names().map_err(raise)
    }

    /// The registered clients of a channel.
    fn get_subscribers(&self, py: Python<'_>, channel_name: &str) -> PyResult<Vec<String>> {
        match self.channels.subscribers(channel_name).map_err(raise)? {
            Some(clients) => Ok(clients),
            None => Err(unknown_channel(py, KIND, channel_name)),
        }
    }

    /// The topic matcher that the managers of this namespace share.
    #[getter]
    fn topic_matcher(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        TopicMatcher::public(py, self.topics.clone())
    }

    /// How many channels there are.
    fn channel_count(&self) -> PyResult<u64> {
        self.channels.count().map_err(raise)
    }

    /// Removes all channels.
    fn clear(&self) -> PyResult<()> {
        self.channels.clear().map_err(raise)
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("ChannelManager(channels={}, buffer_size={})", self.channel_count()?, self.default_buffer_size))
    }
}

/// An open handle on a channel.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct Subscriber {
    receiver: core::Receiver,
}

#[pymethods]
impl Subscriber {
    /// The next message, as it was published (str or bytes); None: there is none now.
    fn try_recv<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        receive(py, &self.receiver)
    }

    /// All messages that are there now.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        receive_all(py, &self.receiver)
    }

    /// Closes the handle; the client's registration stays. Again is harmless.
    fn close(&self) -> PyResult<()> {
        self.receiver.close().map_err(raise)
    }

    /// The channel's name.
    #[getter]
    fn channel_name(&self) -> &str {
        self.receiver.channel()
    }

    /// The client's id.
    #[getter]
    fn client_id(&self) -> &str {
        self.receiver.client()
    }

    /// Messages received.
    #[getter]
    fn received_count(&self) -> u64 {
        self.receiver.received()
    }

    /// Messages overwritten before they were read.
    #[getter]
    fn missed_count(&self) -> u64 {
        self.receiver.missed()
    }

    /// Will nothing come any more: removed, unsubscribed or closed, and all that was left received?
    #[getter]
    fn ended(&self) -> PyResult<bool> {
        self.receiver.is_ended().map_err(raise)
    }

    /// Was it closed?
    #[getter]
    fn closed(&self) -> bool {
        self.receiver.is_closed()
    }

    fn __repr__(&self) -> String {
        format!(
            "Subscriber(channel={:?}, client={:?}, received={}, missed={})",
            self.receiver.channel(),
            self.receiver.client(),
            self.receiver.received(),
            self.receiver.missed()
        )
    }
}

/// What is known of a channel.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct ChannelStats {
    stats: core::ChannelStats,
}

#[pymethods]
impl ChannelStats {
    /// The channel's name.
    #[getter]
    fn name(&self) -> &str {
        &self.stats.name
    }

    /// Registered clients.
    #[getter]
    fn subscriber_count(&self) -> u64 {
        self.stats.subscribers
    }

    /// Messages published.
    #[getter]
    fn total_messages(&self) -> u64 {
        self.stats.published
    }

    /// Messages that lagging subscribers missed.
    #[getter]
    fn dropped_messages(&self) -> u64 {
        self.stats.dropped
    }

    /// The metadata given at creation.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dict(py, &self.stats.metadata)
    }

    fn __repr__(&self) -> String {
        let stats = &self.stats;
        format!(
            "ChannelStats(name={:?}, subscribers={}, total_msgs={}, dropped={}, metadata={})",
            stats.name,
            stats.subscribers,
            stats.published,
            stats.dropped,
            show(&stats.metadata)
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ChannelManager>()?;
    m.add_class::<Subscriber>()?;
    m.add_class::<ChannelStats>()
}
