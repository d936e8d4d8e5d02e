//! `ChannelManager`, `Subscriber`, `ChannelStats`.

use std::sync::Arc;

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::argument::{Arg, Of};
use crate::convert::{BufferSize, EventId, dict, show, to_python, with_payload};
use crate::errors::{CHANNEL, raise, shown, unknown_channel};
use crate::handle::{Handle, Message, Receiving};
use crate::json::with_compact;
use crate::publishing::publish;
use crate::segment::{Segment, world};
use crate::topics::TopicMatcher;

/// Named channels of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct ChannelManager {
    channels: core::Channels,
    topics: core::Topics,
    default_buffer_size: u64,
}

impl ChannelManager {
    pub const fn core(&self) -> &core::Channels {
        &self.channels
    }
}

#[pymethods]
impl ChannelManager {
    #[new]
    fn new(default_buffer_size: Arg<BufferSize>, segment: Of<'_, '_, Segment>, namespace: Arg<&str>) -> PyResult<ChannelManager> {
        let world = world(&segment, &namespace)?;
        Ok(ChannelManager {
            channels: core::Channels::new(&world, core::ChannelKind::Channel),
            topics: core::Topics::new(&world, core::TopicsKind::OfManager),
            default_buffer_size: default_buffer_size.rounded(),
        })
    }

    /// Creates a channel. False: there is one of this name, and it is kept as it is.
    #[pyo3(signature = (name, buffer_size=None, metadata=None))]
    fn create_channel(
        &self,
        name: Arg<&str>,
        buffer_size: Option<Arg<BufferSize>>,
        metadata: Option<Arg<Vec<(String, String)>>>,
    ) -> PyResult<bool> {
        let spec = core::ChannelSpec {
            buffer_size: buffer_size.map_or(self.default_buffer_size, |size| size.rounded()),
            metadata: metadata.map(Arg::into_inner).unwrap_or_default(),
            fail_when_unheard: false,
            dedup_window: None,
        };
        self.channels.create(&name, &spec).map_err(raise)
    }

    /// Removes a channel; open subscribers drain what is left. False: there is none.
    fn remove_channel(&self, name: Arg<&str>) -> PyResult<bool> {
        self.channels.remove(&name).map_err(raise)
    }

    /// Is there a channel of this name?
    fn has_channel(&self, name: Arg<&str>) -> PyResult<bool> {
        self.channels.contains(&name).map_err(raise)
    }

    /// Messages that are still there: with an id the first `limit` after it, without one the last `limit`.
    #[pyo3(signature = (channel_name, last_event_id=None, limit=None))]
    fn replay(
        &self,
        py: Python<'_>,
        channel_name: Arg<&str>,
        last_event_id: Option<Arg<EventId<'_>>>,
        limit: Option<Arg<u64>>,
    ) -> PyResult<Vec<Message>> {
        let after = last_event_id.as_deref().map(EventId::text);
        let Some(messages) = self.channels.replay(&channel_name, after, limit.map(Arg::into_inner)).map_err(raise)? else {
            return Err(unknown_channel(py, CHANNEL, &channel_name));
        };
        let message = |(received, payload): (core::Received, Vec<u8>)| {
            let data = to_python(py, &payload, received.form)?.unbind();
            Ok(Message::made(channel_name.to_string(), data, received.id.to_string()))
        };
        messages.into_iter().map(message).collect()
    }

    /// Registers a client and opens a handle.
    ///
    /// Args:
    ///     last_event_id: the id of the last message that the client has seen, as in ``Last-Event-ID``: the
    ///         handle begins with the one after it, whichever worker it was received from. One that is
    ///         overwritten: with the oldest there is, and ``missed_count`` says how many are gone. One that
    ///         means nothing here: with the oldest, and ``unknown_count`` is 1. None: with what is published
    ///         from now on.
    ///
    /// Raises:
    ///     KeyError: there is no such channel.
    #[pyo3(signature = (channel_name, client_id, *, last_event_id=None))]
    fn subscribe(
        &self,
        py: Python<'_>,
        channel_name: Arg<&str>,
        client_id: Arg<&str>,
        last_event_id: Option<Arg<EventId<'_>>>,
    ) -> PyResult<Py<Subscriber>> {
        let after = last_event_id.as_deref().map(EventId::text);
        Subscriber::of_channel(py, &channel_name, self.channels.subscribe(&channel_name, &client_id, after))
    }

    /// Opens a handle on every channel whose name matches, those created later included and from their
    /// first message on. The order within each channel is kept. It is counted by ``publish`` as every
    /// open handle, and registered as no channel's subscriber.
    ///
    /// Args:
    ///     pattern: segments between ``:``; ``*`` is exactly one, ``#`` zero or more.
    fn subscribe_pattern(&self, py: Python<'_>, pattern: Arg<&str>, client_id: Arg<&str>) -> PyResult<Py<Subscriber>> {
        let receiver = self.channels.subscribe_pattern(&pattern, &client_id).map_err(raise)?;
        Subscriber::of(py, Receiving::Many(receiver.into()))
    }

    /// Ends this process's part in a client's registration, which ends with its last. The handles stay.
    fn release(&self, channel_name: Arg<&str>, client_id: Arg<&str>) -> PyResult<()> {
        self.channels.release(&channel_name, &client_id).map_err(raise)
    }

    /// Ends a client's registration and the delivery to its handles. False: it had none.
    fn unsubscribe(&self, channel_name: Arg<&str>, client_id: Arg<&str>) -> PyResult<bool> {
        self.channels.unsubscribe(&channel_name, &client_id).map_err(raise)
    }

    /// Publishes to every open handle in every process; returns how many there are.
    fn publish(&self, channel_name: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_payload(message, |payload, form| publish(&self.channels, channel_name, "channel_name", payload, form))
    }

    /// Publishes data as compact JSON; returns how many handles are open.
    fn publish_json(&self, channel_name: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_compact(data, |payload| publish(&self.channels, channel_name, "channel_name", payload, core::Form::Text))
    }

    /// Publishes once to every channel whose name matches; returns the sum of open handles.
    fn publish_to_topic(&self, topic: Arg<&str>, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        with_payload(message, |payload, form| self.channels.publish_matching(&topic, payload, form).map_err(raise))
    }

    /// What is known of a channel.
    fn get_stats(&self, py: Python<'_>, channel_name: Arg<&str>) -> PyResult<ChannelStats> {
        match self.channels.stats(&channel_name).map_err(raise)? {
            Some(stats) => Ok(ChannelStats { stats }),
            None => Err(unknown_channel(py, CHANNEL, &channel_name)),
        }
    }

    /// All channel names.
    fn list_channels(&self) -> PyResult<Vec<String>> {
        self.channels.names().map_err(raise)
    }

    /// The registered clients of a channel.
    fn get_subscribers(&self, py: Python<'_>, channel_name: Arg<&str>) -> PyResult<Vec<String>> {
        match self.channels.subscribers(&channel_name).map_err(raise)? {
            Some(clients) => Ok(clients),
            None => Err(unknown_channel(py, CHANNEL, &channel_name)),
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

    /// What tells this world, as this process is attached to it, from all others: a forked child's differs.
    fn world_key(&self) -> PyResult<(u64, u32)> {
        self.channels.world().key().map_err(raise)
    }

    /// Removes all channels.
    fn clear(&self) -> PyResult<()> {
        self.channels.clear().map_err(raise)
    }

    fn __repr__(&self) -> PyResult<String> {
        let size = self.default_buffer_size;
        shown("ChannelManager", self.channels.count().map(|channels| format!("ChannelManager(channels={channels}, buffer_size={size})")))
    }
}

/// An open handle on a channel, or on all channels that match a pattern.
///
/// ``try_recv``, ``drain`` never wait; ``recv`` and ``for`` wait in the thread (under gevent, in the greenlet)
/// without holding the interpreter; ``recv_async`` and ``async for`` wait in the event loop; ``fileno()`` is
/// for any other loop. Made by ``ChannelManager.subscribe`` and ``subscribe_pattern``.
#[pyclass(frozen, extends = Handle, module = "hypern_realtime_shm._engine")]
pub struct Subscriber;

impl Subscriber {
    fn of(py: Python<'_>, receiving: Receiving) -> PyResult<Py<Subscriber>> {
        Py::new(py, PyClassInitializer::from(Handle::new(receiving)).add_subclass(Subscriber))
    }

    /// Of what subscribing to a channel gave.
    pub fn of_channel(py: Python<'_>, name: &str, opened: core::Result<Option<Arc<core::Receiver>>>) -> PyResult<Py<Subscriber>> {
        match opened.map_err(raise)? {
            Some(receiver) => Subscriber::of(py, Receiving::One(receiver)),
            None => Err(unknown_channel(py, CHANNEL, name)),
        }
    }
}

#[pymethods]
impl Subscriber {
    /// The client's id.
    #[getter]
    fn client_id(slf: &Bound<'_, Self>) -> String {
        slf.as_super().get().client().to_owned()
    }

    /// Messages overwritten before they were read, those between an event id and the oldest there was included.
    #[getter]
    fn missed_count(slf: &Bound<'_, Self>) -> u64 {
        slf.as_super().get().missed()
    }

    /// 1: the event id it was to go on from means nothing here, so nobody can say how many were missed; else 0.
    #[getter]
    fn unknown_count(slf: &Bound<'_, Self>) -> u64 {
        slf.as_super().get().one().is_some_and(core::Receiver::is_unknown).into()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let handle = slf.as_super().get();
        format!(
            "Subscriber(channel={:?}, client={:?}, received={}, missed={})",
            handle.channel_name(),
            handle.client(),
            handle.received_count(),
            handle.missed()
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
        dict(py, self.stats.metadata.iter().map(|(key, value)| (key, value)))
    }

    fn __repr__(&self) -> String {
        let stats = &self.stats;
        format!(
            "ChannelStats(name={:?}, subscribers={}, total_msgs={}, dropped={}, metadata={})",
            stats.name,
            stats.subscribers,
            stats.published,
            stats.dropped,
            show(stats.metadata.iter().map(|(key, value)| (key, value)))
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ChannelManager>()?;
    m.add_class::<Subscriber>()?;
    m.add_class::<ChannelStats>()
}
