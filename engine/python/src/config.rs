//! `BackpressurePolicy`, `BroadcastConfig`, `HeartbeatConfig`: what belongs to a handle, not to the segment.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::convert::buffer_size;

/// What `send` does when nobody listens.
#[pyclass(frozen, eq, eq_int, hash, from_py_object, module = "hypern_realtime_shm._engine")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackpressurePolicy {
    /// The message goes nowhere and is counted as dropped.
    DropOldest,
    /// RuntimeError.
    Error,
}

/// How a broadcast channel is made.
#[pyclass(frozen, from_py_object, module = "hypern_realtime_shm._engine")]
#[derive(Clone)]
pub struct BroadcastConfig {
    /// Messages retained, as given.
    #[pyo3(get)]
    pub buffer_size: i64,
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

#[pymethods]
impl BroadcastConfig {
    #[new]
    #[pyo3(signature = (buffer_size=256, policy=BackpressurePolicy::DropOldest, dedup_enabled=false, dedup_window=1000))]
    fn new(buffer_size: i64, policy: BackpressurePolicy, dedup_enabled: bool, dedup_window: u32) -> PyResult<BroadcastConfig> {
        crate::config::buffer_size("buffer_size", buffer_size)?;
        Ok(BroadcastConfig { buffer_size, policy, dedup_enabled, dedup_window })
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
#[pyclass(frozen, from_py_object, module = "hypern_realtime_shm._engine")]
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

#[pymethods]
impl HeartbeatConfig {
    #[new]
    #[pyo3(signature = (interval_secs=30.0, timeout_secs=90.0, max_retries=5, sse_retry_ms=3000, send_keepalive=true))]
    pub fn new(
        interval_secs: f64,
        timeout_secs: f64,
        max_retries: u32,
        sse_retry_ms: u64,
        send_keepalive: bool,
    ) -> PyResult<HeartbeatConfig> {
        for (argument, seconds) in [("interval_secs", interval_secs), ("timeout_secs", timeout_secs)] {
            if seconds.is_nan() || seconds < 0.0 {
                return Err(PyValueError::new_err(format!("{argument} is {seconds}; it must be 0 or more seconds")));
            }
        }
        Ok(HeartbeatConfig { interval_secs, timeout_secs, max_retries, sse_retry_ms, send_keepalive })
    }

    fn __repr__(&self) -> String {
        format!(
            "HeartbeatConfig(interval={}s, timeout={}s, retries={}, sse_retry={}ms, keepalive={})",
            self.interval_secs, self.timeout_secs, self.max_retries, self.sse_retry_ms, self.send_keepalive
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<BackpressurePolicy>()?;
    m.add_class::<BroadcastConfig>()?;
    m.add_class::<HeartbeatConfig>()
}
