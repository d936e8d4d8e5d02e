//! `BackpressurePolicy`, `BroadcastConfig`, `HeartbeatConfig`: what belongs to a handle, not to the segment.

use hypern_shm_core as core;
use pyo3::prelude::*;

use crate::argument::{Arg, Argument, Of, Seconds, arg};
use crate::convert::BufferSize;
use crate::errors::raise;

/// What `send` does when nobody listens.
#[pyclass(frozen, eq, eq_int, hash, module = "hypern_realtime_shm._engine")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackpressurePolicy {
    /// The message goes nowhere and is counted as dropped.
    DropOldest,
    /// RuntimeError.
    Error,
}

impl Argument<'_, '_> for BackpressurePolicy {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Borrowed::<BackpressurePolicy>::take(value).map(|policy| *policy.get())
    }
}

/// How a broadcast channel is made.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
#[derive(Clone)]
pub struct BroadcastConfig {
    /// Messages retained, as given.
    #[pyo3(get)]
    pub buffer_size: u64,
    /// What `send` does when nobody listens.
    #[pyo3(get)]
    pub policy: BackpressurePolicy,
    /// Are messages with an id sent once?
    #[pyo3(get)]
    pub dedup_enabled: bool,
    /// How many of the last ids are remembered.
    #[pyo3(get)]
    pub dedup_window: u32,
}

impl BroadcastConfig {
    pub fn standard() -> BroadcastConfig {
        BroadcastConfig { buffer_size: 256, policy: BackpressurePolicy::DropOldest, dedup_enabled: false, dedup_window: 1000 }
    }
}

fn buffer_size(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    arg(value).map(|BufferSize(size)| size)
}

#[pymethods]
impl BroadcastConfig {
    #[new]
    #[pyo3(signature = (buffer_size=256, policy=BackpressurePolicy::DropOldest, dedup_enabled=false, dedup_window=1000))]
    fn new(
        #[pyo3(from_py_with = buffer_size)] buffer_size: u64,
        #[pyo3(from_py_with = arg)] policy: BackpressurePolicy,
        #[pyo3(from_py_with = arg)] dedup_enabled: bool,
        #[pyo3(from_py_with = arg)] dedup_window: u32,
    ) -> BroadcastConfig {
        BroadcastConfig { buffer_size, policy, dedup_enabled, dedup_window }
    }

    fn __repr__(&self) -> String {
        let policy = match self.policy {
            BackpressurePolicy::DropOldest => "DropOldest",
            BackpressurePolicy::Error => "Error",
        };
        format!("BroadcastConfig(buffer={}, policy={policy}, dedup={})", self.buffer_size, self.dedup_enabled)
    }
}

/// When clients are pinged, time out and are dead.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
#[derive(Clone)]
pub struct HeartbeatConfig {
    /// Seconds between pings, and between one timeout and the next.
    #[pyo3(get)]
    pub interval_secs: f64,
    /// Seconds without a pong until the first timeout.
    #[pyo3(get)]
    pub timeout_secs: f64,
    /// Consecutive timeouts after which a client is dead; 0: at the first.
    #[pyo3(get)]
    pub max_retries: u32,
    /// Milliseconds after which an SSE client reconnects.
    #[pyo3(get)]
    pub sse_retry_ms: u64,
    /// Are keepalive comments to be sent?
    #[pyo3(get)]
    pub send_keepalive: bool,
}

impl HeartbeatConfig {
    pub fn standard() -> HeartbeatConfig {
        HeartbeatConfig { interval_secs: 30.0, timeout_secs: 90.0, max_retries: 5, sse_retry_ms: 3000, send_keepalive: true }
    }
}

fn seconds(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    arg(value).map(|Seconds(seconds)| seconds)
}

#[pymethods]
impl HeartbeatConfig {
    #[new]
    #[pyo3(signature = (interval_secs=30.0, timeout_secs=90.0, max_retries=5, sse_retry_ms=3000, send_keepalive=true))]
    fn new(
        #[pyo3(from_py_with = seconds)] interval_secs: f64,
        #[pyo3(from_py_with = seconds)] timeout_secs: f64,
        #[pyo3(from_py_with = arg)] max_retries: u32,
        #[pyo3(from_py_with = arg)] sse_retry_ms: u64,
        #[pyo3(from_py_with = arg)] send_keepalive: bool,
    ) -> HeartbeatConfig {
        HeartbeatConfig { interval_secs, timeout_secs, max_retries, sse_retry_ms, send_keepalive }
    }

    fn __repr__(&self) -> String {
        format!(
            "HeartbeatConfig(interval={}s, timeout={}s, retries={}, sse_retry={}ms, keepalive={})",
            self.interval_secs, self.timeout_secs, self.max_retries, self.sse_retry_ms, self.send_keepalive
        )
    }
}

/// Refuses what no manager can be made with, before a segment is opened for it.
#[pyfunction]
#[pyo3(signature = (*, namespace, default_buffer_size=256, config=None))]
fn check_manager(
    namespace: Arg<&str>,
    #[pyo3(from_py_with = buffer_size)] default_buffer_size: u64,
    config: Option<Of<'_, '_, HeartbeatConfig>>,
) -> PyResult<()> {
    let _ = (default_buffer_size, config);
    core::World::check_name(&namespace).map_err(raise)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<BackpressurePolicy>()?;
    m.add_class::<BroadcastConfig>()?;
    m.add_class::<HeartbeatConfig>()?;
    m.add_function(wrap_pyfunction!(check_manager, m)?)
}
