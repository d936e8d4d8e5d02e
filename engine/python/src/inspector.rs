//! `Inspector`: looks at a segment from outside, read-only. What it sees comes as JSON text, in the shape of the
//! core's structures: `hypern_realtime_shm.inspect` reads it and says what is in it.

use hypern_shm_core as core;
use hypern_shm_core::inspect as seen;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Serialize;

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

fn kind_of(kind: &str) -> PyResult<core::ChannelKind> {
    match kind {
        "channel" => Ok(core::ChannelKind::Channel),
        "broadcast" => Ok(core::ChannelKind::Broadcast),
        _ => Err(PyValueError::new_err(format!("kind is {kind:?}; it must be 'channel' or 'broadcast'"))),
    }
}

#[pymethods]
impl Inspector {
    /// Looks at the segment of this name.
    #[new]
    fn new(py: Python<'_>, name: &str) -> PyResult<Inspector> {
        Ok(Inspector { inner: py.detach(|| seen::Inspector::open(name)).map_err(raise)? })
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
    fn channels(&self, py: Python<'_>, namespace: Option<&str>) -> PyResult<String> {
        py.detach(|| json(&self.inner.channels(namespace)))
    }

    /// One channel or broadcast, whole.
    #[pyo3(signature = (name, namespace="", kind="channel"))]
    fn channel(&self, py: Python<'_>, name: &str, namespace: &str, kind: &str) -> PyResult<String> {
        let wanted = kind_of(kind)?;
        let found = py.detach(|| self.inner.channel(namespace, wanted, name)).map_err(raise)?;
        json(&found.ok_or_else(|| unknown_channel(py, title(wanted), name))?)
    }

    /// The names of the open channels or broadcasts of a namespace.
    fn names(&self, py: Python<'_>, namespace: &str, kind: &str) -> PyResult<Vec<String>> {
        let wanted = kind_of(kind)?;
        py.detach(|| self.inner.names(namespace, wanted)).map_err(raise)
    }

    /// Presence.
    #[pyo3(signature = (channel=None, namespace=None, limit=None))]
    fn members(&self, py: Python<'_>, channel: Option<&str>, namespace: Option<&str>, limit: Option<u64>) -> PyResult<String> {
        py.detach(|| json(&self.inner.members(namespace, channel, limit.unwrap_or(u64::MAX))))
    }

    /// Heartbeats, judged by a configuration.
    fn clients(
        &self,
        py: Python<'_>,
        namespace: Option<&str>,
        interval_secs: f64,
        timeout_secs: f64,
        max_retries: u32,
    ) -> PyResult<String> {
        let beat = core::Beat { interval_secs, timeout_secs, max_retries };
        py.detach(|| json(&self.inner.clients(namespace, &beat)))
    }

    /// Topic patterns.
    #[pyo3(signature = (namespace=None))]
    fn topics(&self, py: Python<'_>, namespace: Option<&str>) -> PyResult<String> {
        py.detach(|| json(&self.inner.topics(namespace)))
    }

    /// What is wrong with the segment; empty: nothing.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.check()).map_err(raise)
    }

    /// At most `limit` messages: the last `last`, or those after an id. Gives them, the id to go on after, how many
    /// were missed, whether the id was unknown, and how many are left.
    #[pyo3(signature = (name, namespace="", kind="channel", *, after=None, last=0, limit=1000))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn tail<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        namespace: &str,
        kind: &str,
        after: Option<&str>,
        last: u64,
        limit: u64,
    ) -> PyResult<(Vec<Seen<'py>>, String, u64, bool, u64)> {
        let wanted = kind_of(kind)?;
        let from = after.map_or(seen::TailFrom::Last(last), seen::TailFrom::After);
        let found = py.detach(|| self.inner.tail(namespace, wanted, name, from, limit)).map_err(raise)?;
        let tail = found.ok_or_else(|| unknown_channel(py, title(wanted), name))?;
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
    size: u64,
    max_processes: u32,
    channels: Option<u32>,
    ring_slots: Option<u32>,
    members: Option<u32>,
    clients: Option<u32>,
    waiters: Option<u32>,
) -> PyResult<(u64, u64, u64, u64, u64, [u64; 3])> {
    let unlink_when_unused = false;
    let options = core::Options { size, max_processes, unlink_when_unused, channels, ring_slots, members, clients, waiters };
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
