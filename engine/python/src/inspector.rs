//! `Inspector`: looks at a segment from outside, read-only. What it sees comes as JSON text, in the shape of the
//! core's structures: `hypern_realtime_shm.inspect` reads it and says what is in it.

use hypern_shm_core as core;
use hypern_shm_core::inspect as seen;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Serialize;

use crate::argument::{Arg, Argument, Seconds, out_of_bounds};
use crate::convert::to_python;
use crate::errors::{raise, unknown_channel};

/// A segment that is looked at, never attached to.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct Inspector {
    inner: seen::Inspector,
}

/// A message, as (id, payload as `str` or `bytes`).
type Seen<'py> = (String, Bound<'py, PyAny>);

fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A channel's kind by its name.
impl Argument<'_, '_> for core::ChannelKind {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match <&str>::take(value)? {
            "channel" => Ok(core::ChannelKind::Channel),
            "broadcast" => Ok(core::ChannelKind::Broadcast),
            _ => Err(out_of_bounds(value, "'channel' or 'broadcast'")),
        }
    }
}

#[pymethods]
impl Inspector {
    /// Looks at the segment of this name.
    #[new]
    fn new(py: Python<'_>, name: Arg<&str>) -> PyResult<Inspector> {
        Ok(Inspector { inner: py.detach(|| seen::Inspector::open(&name)).map_err(raise)? })
    }

    /// The segment's name.
    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// Does the name still lead to this segment?
    fn is_current(&self) -> PyResult<bool> {
        self.inner.is_current().map_err(raise)
    }

    /// How many processes are attached and alive.
    fn alive(&self) -> u64 {
        self.inner.alive()
    }

    /// The whole at a glance.
    fn overview(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| json(&self.inner.overview()))
    }

    /// Who is attached, and what each holds.
    fn processes(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| json(&self.inner.processes()))
    }

    /// Channels and broadcasts.
    #[pyo3(signature = (namespace=None))]
    fn channels(&self, py: Python<'_>, namespace: Option<Arg<&str>>) -> PyResult<String> {
        py.detach(|| json(&self.inner.channels(namespace.map(Arg::into_inner))))
    }

    /// One channel or broadcast, whole.
    fn channel(&self, py: Python<'_>, name: Arg<&str>, namespace: Arg<&str>, kind: Arg<core::ChannelKind>) -> PyResult<String> {
        let found = py.detach(|| self.inner.channel(&namespace, *kind, &name)).map_err(raise)?;
        json(&found.ok_or_else(|| unknown_channel(py, title(*kind), &name))?)
    }

    /// The names of the open channels or broadcasts of a namespace.
    fn names(&self, py: Python<'_>, namespace: Arg<&str>, kind: Arg<core::ChannelKind>) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.names(&namespace, *kind)).map_err(raise)
    }

    /// Presence.
    #[pyo3(signature = (channel=None, namespace=None, limit=None))]
    fn members(
        &self,
        py: Python<'_>,
        channel: Option<Arg<&str>>,
        namespace: Option<Arg<&str>>,
        limit: Option<Arg<u64>>,
    ) -> PyResult<String> {
        let (channel, namespace) = (channel.map(Arg::into_inner), namespace.map(Arg::into_inner));
        py.detach(|| json(&self.inner.members(namespace, channel, limit.map_or(u64::MAX, Arg::into_inner))))
    }

    /// Heartbeats, judged by a configuration.
    fn clients(
        &self,
        py: Python<'_>,
        namespace: Option<Arg<&str>>,
        interval_secs: Arg<Seconds>,
        timeout_secs: Arg<Seconds>,
        max_retries: Arg<u32>,
    ) -> PyResult<String> {
        let beat = core::Beat { interval_secs: interval_secs.0.0, timeout_secs: timeout_secs.0.0, max_retries: max_retries.0 };
        py.detach(|| json(&self.inner.clients(namespace.map(Arg::into_inner), &beat)))
    }

    /// Topic patterns.
    #[pyo3(signature = (namespace=None))]
    fn topics(&self, py: Python<'_>, namespace: Option<Arg<&str>>) -> PyResult<String> {
        py.detach(|| json(&self.inner.topics(namespace.map(Arg::into_inner))))
    }

    /// What is wrong with the segment; empty: nothing.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.check()).map_err(raise)
    }

    /// At most `limit` messages: the last `last`, or those after an id. Gives them, the id to go on after, how many
    /// were missed, whether the id was unknown, and how many are left.
    #[pyo3(signature = (name, namespace, kind, *, after, last, limit))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn tail<'py>(
        &self,
        py: Python<'py>,
        name: Arg<&str>,
        namespace: Arg<&str>,
        kind: Arg<core::ChannelKind>,
        after: Option<Arg<&str>>,
        last: Arg<u64>,
        limit: Arg<u64>,
    ) -> PyResult<(Vec<Seen<'py>>, String, u64, bool, u64)> {
        let from = after.map_or(seen::TailFrom::Last(*last), |id| seen::TailFrom::After(id.into_inner()));
        let found = py.detach(|| self.inner.tail(&namespace, *kind, &name, from, *limit)).map_err(raise)?;
        let tail = found.ok_or_else(|| unknown_channel(py, title(*kind), &name))?;
        let message = |(received, payload): core::Replayed| Ok((received.id.to_string(), to_python(py, &payload, received.form)?));
        let messages = tail.messages.into_iter().map(message).collect::<PyResult<_>>()?;
        Ok((messages, tail.next, tail.missed, tail.unknown, tail.left))
    }
}

/// As the errors of the managers name it.
const fn title(kind: core::ChannelKind) -> &'static str {
    match kind {
        core::ChannelKind::Channel => "Channel",
        core::ChannelKind::Broadcast => "Broadcast channel",
    }
}

/// The segments of this user.
#[pyfunction]
fn list_segments(py: Python<'_>) -> PyResult<String> {
    json(&py.detach(seen::list).map_err(raise)?)
}

/// Bytes and capacities that a segment would have: size, slots, cells, ring slots, waiters, blocks by size.
#[pyfunction]
#[pyo3(signature = (*, size, max_processes, channels=None, ring_slots=None, members=None, clients=None, waiters=None))]
fn divide(
    size: Arg<u64>,
    max_processes: Arg<u32>,
    channels: Option<Arg<u32>>,
    ring_slots: Option<Arg<u32>>,
    members: Option<Arg<u32>>,
    clients: Option<Arg<u32>>,
    waiters: Option<Arg<u32>>,
) -> PyResult<(u64, u64, u64, u64, u64, [u64; 3])> {
    let options = core::Options {
        size: *size,
        max_processes: *max_processes,
        unlink_when_unused: false,
        channels: channels.map(Arg::into_inner),
        ring_slots: ring_slots.map(Arg::into_inner),
        members: members.map(Arg::into_inner),
        clients: clients.map(Arg::into_inner),
        waiters: waiters.map(Arg::into_inner),
    };
    let geometry = core::geometry::Geometry::divide(&options).map_err(raise)?;
    let slots = u64::from(geometry.units) * core::layout::UNIT_DESCRIPTORS as u64;
    let count = u64::from;
    Ok((geometry.size, count(geometry.slots), count(geometry.cells), slots, count(geometry.bells), geometry.blocks.map(count)))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Inspector>()?;
    m.add_function(wrap_pyfunction!(list_segments, m)?)?;
    m.add("LAYOUT_VERSION", core::layout::LAYOUT_VERSION)?;
    m.add_function(wrap_pyfunction!(divide, m)?)
}
