//! `PresenceTracker`, `PresenceInfo`, `PresenceDiff`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hypern_shm_core as core;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::argument::{Arg, Of, Seconds, Timeout};
use crate::convert::{dict, show, with_metadata};
use crate::errors::{raise, shown};
use crate::handle::{deadline, timed_out, wait_for_news, waited};
use crate::segment::{Segment, world};

/// Who is present in the channels of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct PresenceTracker {
    presence: core::Presence,
}

impl PresenceTracker {
    pub const fn core(&self) -> &core::Presence {
        &self.presence
    }
}

#[pymethods]
impl PresenceTracker {
    #[new]
    fn new(segment: Of<'_, '_, Segment>, namespace: Arg<&str>) -> PyResult<PresenceTracker> {
        Ok(PresenceTracker { presence: core::Presence::new(&world(&segment, &namespace)?) })
    }

    /// Adds a member, or replaces its metadata, keeping when it joined.
    #[pyo3(signature = (channel, client_id, metadata=None))]
    fn track(&self, channel: Arg<&str>, client_id: Arg<&str>, metadata: Option<&Bound<'_, PyAny>>) -> PyResult<PresenceInfo> {
        with_metadata(metadata, |metadata| {
            let member = self.presence.track(&channel, &client_id, metadata).map_err(raise)?;
            Ok(PresenceInfo { member })
        })
    }

    /// Removes a member, whoever tracks it. False: it was not there.
    fn untrack(&self, channel: Arg<&str>, client_id: Arg<&str>) -> PyResult<bool> {
        self.presence.untrack(&channel, &client_id).map_err(raise)
    }

    /// Ends this process's part in a member, who leaves with its last. True: it left.
    fn release(&self, channel: Arg<&str>, client_id: Arg<&str>) -> PyResult<bool> {
        self.presence.release(&channel, &client_id).map_err(raise)
    }

    /// Removes a client from every channel; returns those it was in.
    fn untrack_all<'py>(&self, py: Python<'py>, client_id: Arg<&str>) -> PyResult<Bound<'py, PyList>> {
        let left = self.presence.untrack_all(&client_id).map_err(raise)?;
        PyList::new(py, left.iter().map(|channel| &**channel))
    }

    /// Replaces a member's metadata. False: it is not there.
    fn update(&self, channel: Arg<&str>, client_id: Arg<&str>, metadata: &Bound<'_, PyAny>) -> PyResult<bool> {
        with_metadata(Some(metadata), |metadata| self.presence.update(&channel, &client_id, metadata).map_err(raise))
    }

    /// Sets a member's last seen to now. False: it is not there.
    fn touch(&self, channel: Arg<&str>, client_id: Arg<&str>) -> PyResult<bool> {
        self.presence.touch(&channel, &client_id).map_err(raise)
    }

    /// The members of a channel.
    fn list(&self, channel: Arg<&str>) -> PyResult<Vec<PresenceInfo>> {
        let members = self.presence.list(&channel).map_err(raise)?;
        Ok(members.into_iter().map(|member| PresenceInfo { member }).collect())
    }

    /// The members as dicts, ready for JSON: client_id, channel, metadata, joined_at, last_seen.
    fn list_as_dicts<'py>(&self, py: Python<'py>, channel: Arg<&str>) -> PyResult<Bound<'py, PyList>> {
        let members = self.presence.list(&channel).map_err(raise)?;
        let name = PyString::new(py, &channel);
        let all = PyList::empty(py);
        for member in members {
            let row = PyDict::new(py);
            row.set_item(intern!(py, "client_id"), member.client())?;
            row.set_item(intern!(py, "channel"), &name)?;
            row.set_item(intern!(py, "metadata"), dict(py, member.metadata())?)?;
            row.set_item(intern!(py, "joined_at"), member.joined_at)?;
            row.set_item(intern!(py, "last_seen"), member.last_seen)?;
            all.append(row)?;
        }
        Ok(all)
    }

    /// One member, or None.
    fn get(&self, channel: Arg<&str>, client_id: Arg<&str>) -> PyResult<Option<PresenceInfo>> {
        let member = self.presence.get(&channel, &client_id).map_err(raise)?;
        Ok(member.map(|member| PresenceInfo { member }))
    }

    /// How many members a channel has.
    fn count(&self, channel: Arg<&str>) -> PyResult<u64> {
        self.presence.count(&channel).map_err(raise)
    }

    /// Takes the net change since the last take; each change goes to one taker.
    fn flush_diff(&self, channel: Arg<&str>) -> PyResult<PresenceDiff> {
        Ok(PresenceDiff { diff: self.presence.flush_diff(&channel).map_err(raise)?, updates: Vec::new() })
    }

    /// Does this process have a part in any of a client's memberships?
    fn holds(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.presence.holds(&client_id).map_err(raise)
    }

    /// The channels a client is in.
    fn client_channels<'py>(&self, py: Python<'py>, client_id: Arg<&str>) -> PyResult<Bound<'py, PyList>> {
        let channels = self.presence.client_channels(&client_id).map_err(raise)?;
        PyList::new(py, channels.iter().map(|channel| &**channel))
    }

    /// Is a client in any channel?
    fn is_anywhere(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.presence.is_anywhere(&client_id).map_err(raise)
    }

    /// The channels that have members.
    fn active_channels(&self) -> PyResult<Vec<String>> {
        self.presence.active_channels().map_err(raise)
    }

    /// How many clients are in at least one channel.
    fn total_clients(&self) -> PyResult<u64> {
        self.presence.total_clients().map_err(raise)
    }

    /// Removes members not seen for so many seconds; returns (channel, client_id) pairs, each to one caller.
    fn evict_stale(&self, timeout_secs: Arg<Seconds>) -> PyResult<Vec<(String, String)>> {
        self.presence.evict_stale(timeout_secs.into_inner().0).map_err(raise)
    }

    /// Forgets everybody, without a diff.
    fn clear(&self) -> PyResult<()> {
        self.presence.clear().map_err(raise)
    }

    fn __repr__(&self) -> PyResult<String> {
        let counts = self.presence.active_channels().and_then(|channels| Ok((channels.len(), self.presence.total_clients()?)));
        shown("PresenceTracker", counts.map(|(channels, clients)| format!("PresenceTracker(channels={channels}, clients={clients})")))
    }
}

/// A member of a channel.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
#[derive(Clone)]
pub struct PresenceInfo {
    member: core::Member,
}

#[pymethods]
impl PresenceInfo {
    #[new]
    #[pyo3(signature = (client_id, channel, metadata=None))]
    fn new(client_id: Arg<&str>, channel: Arg<&str>, metadata: Option<&Bound<'_, PyAny>>) -> PyResult<PresenceInfo> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        with_metadata(metadata, |metadata| Ok(PresenceInfo { member: core::Member::new(&channel, &client_id, metadata, now, now) }))
    }

    /// The client's id.
    #[getter]
    fn client_id(&self) -> Cow<'_, str> {
        self.member.client()
    }

    /// The channel's name.
    #[getter]
    fn channel(&self) -> Cow<'_, str> {
        self.member.channel()
    }

    /// The member's metadata.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dict(py, self.member.metadata())
    }

    /// Unix seconds of the join.
    #[getter]
    fn joined_at(&self) -> f64 {
        self.member.joined_at
    }

    /// Unix seconds of the last activity.
    #[getter]
    fn last_seen(&self) -> f64 {
        self.member.last_seen
    }

    fn __repr__(&self) -> String {
        let member = &self.member;
        format!("PresenceInfo(client={:?}, channel={:?}, meta={})", member.client(), member.channel(), show(member.metadata()))
    }
}

/// The net change of a channel's members.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct PresenceDiff {
    diff: core::Diff,
    updates: Vec<core::Member>,
}

impl PresenceDiff {
    fn of(changes: core::Changes) -> PresenceDiff {
        PresenceDiff { diff: core::Diff { joins: changes.joins, leaves: changes.leaves }, updates: changes.updates }
    }
}

#[pymethods]
impl PresenceDiff {
    #[new]
    fn new() -> PresenceDiff {
        PresenceDiff { diff: core::Diff::default(), updates: Vec::new() }
    }

    /// Who joined and is there.
    #[getter]
    fn joins(&self) -> Vec<PresenceInfo> {
        self.diff.joins.iter().map(|member| PresenceInfo { member: member.clone() }).collect()
    }

    /// Ids of those who were there and left.
    #[getter]
    fn leaves(&self) -> Vec<String> {
        self.diff.leaves.clone()
    }

    /// Members whose metadata changed; always empty from `flush_diff`.
    #[getter]
    fn updates(&self) -> Vec<PresenceInfo> {
        self.updates.iter().map(|member| PresenceInfo { member: member.clone() }).collect()
    }

    /// Is there any change?
    fn has_changes(&self) -> bool {
        self.change_count() > 0
    }

    /// How many changes there are.
    fn change_count(&self) -> usize {
        self.diff.joins.len() + self.diff.leaves.len() + self.updates.len()
    }

    fn __repr__(&self) -> String {
        format!("PresenceDiff(joins={}, leaves={})", self.diff.joins.len(), self.diff.leaves.len())
    }
}

/// A watcher of one channel's members: the whole list first, then every change.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct PresenceWatch {
    watch: Arc<core::Watch>,
}

impl PresenceWatch {
    pub fn source(&self) -> Arc<dyn core::Source> {
        self.watch.clone()
    }

    fn wait_for(slf: &Bound<'_, Self>, deadline: Option<Instant>) -> PyResult<PresenceDiff> {
        let this = slf.get();
        loop {
            if let Some(diff) = this.try_next()? {
                return Ok(diff);
            }
            if !wait_for_news(slf.as_any(), &this.source(), deadline)? {
                return this.try_next()?.ok_or_else(timed_out);
            }
        }
    }
}

#[pymethods]
impl PresenceWatch {
    #[new]
    fn new(tracker: Of<'_, '_, PresenceTracker>, channel: Arg<&str>) -> PyResult<PresenceWatch> {
        let watch = core::Watch::new(&tracker.get().presence, &channel).map_err(raise)?;
        Ok(PresenceWatch { watch: Arc::new(watch) })
    }

    /// The next change; None: there is none now.
    fn try_next(&self) -> PyResult<Option<PresenceDiff>> {
        Ok(self.watch.try_next().map_err(raise)?.map(PresenceDiff::of))
    }

    /// The next change; waits for it without holding the interpreter.
    #[pyo3(signature = (timeout=None))]
    fn next(slf: &Bound<'_, Self>, timeout: Option<Arg<Timeout>>) -> PyResult<PresenceDiff> {
        waited(slf.py(), PresenceWatch::wait_for(slf, deadline(timeout)))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<PresenceDiff>> {
        if slf.get().closed() {
            return Ok(None);
        }
        match PresenceWatch::next(slf, None) {
            Ok(diff) => Ok(Some(diff)),
            Err(_) if slf.get().closed() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends watching. Again is harmless.
    fn close(&self) {
        self.watch.close();
    }

    /// Was it closed?
    #[getter]
    fn closed(&self) -> bool {
        self.watch.is_closed()
    }

    /// The channel's name.
    #[getter]
    fn channel_name(&self) -> &str {
        self.watch.channel()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.watch.close();
    }

    fn __repr__(&self) -> String {
        format!("PresenceWatch(channel={:?})", self.watch.channel())
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PresenceTracker>()?;
    m.add_class::<PresenceInfo>()?;
    m.add_class::<PresenceDiff>()?;
    m.add_class::<PresenceWatch>()
}
