//! `HeartbeatMonitor`, `HeartbeatStats`.

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::argument::{Arg, Of};
use crate::config::HeartbeatConfig;
use crate::errors::raise;
use crate::segment::{Segment, world};

/// Heartbeats of the clients of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct HeartbeatMonitor {
    heartbeats: core::Heartbeats,
    config: HeartbeatConfig,
}

impl HeartbeatMonitor {
    pub const fn core(&self) -> &core::Heartbeats {
        &self.heartbeats
    }

    fn beat(&self) -> core::Beat {
        core::Beat {
            interval_secs: self.config.interval_secs,
            timeout_secs: self.config.timeout_secs,
            max_retries: self.config.max_retries,
        }
    }
}

#[pymethods]
impl HeartbeatMonitor {
    #[new]
    fn new(config: Option<Of<'_, '_, HeartbeatConfig>>, segment: Of<'_, '_, Segment>, namespace: Arg<&str>) -> PyResult<HeartbeatMonitor> {
        let config = config.map_or_else(HeartbeatConfig::standard, |config| config.get().clone());
        Ok(HeartbeatMonitor { heartbeats: core::Heartbeats::new(&world(&segment, &namespace)?), config })
    }

    /// Starts to watch a client, or starts again.
    #[pyo3(signature = (client_id, last_event_id=None))]
    fn register(&self, client_id: Arg<&str>, last_event_id: Option<Arg<&str>>) -> PyResult<()> {
        self.heartbeats.register(&client_id, last_event_id.map(Arg::into_inner)).map_err(raise)
    }

    /// Stops watching a client. False: it was not watched.
    fn unregister(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.unregister(&client_id).map_err(raise)
    }

    /// Ends this process's part in watching a client, which ends with its last. True: it ended.
    fn release(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.release(&client_id).map_err(raise)
    }

    /// Records that a ping was sent. False: not watched.
    fn ping(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.ping(&client_id).map_err(raise)
    }

    /// Records that the client answered. False: not watched.
    fn pong(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.pong(&client_id).map_err(raise)
    }

    /// Clients with a timeout that nobody has reported yet; each timeout is reported once across workers.
    fn check_timeouts(&self) -> PyResult<Vec<String>> {
        self.heartbeats.check_timeouts(&self.beat()).map_err(raise)
    }

    /// Is a client timed out? True for one that is not watched.
    fn is_timed_out(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.is_timed_out(&client_id, &self.beat()).map_err(raise)
    }

    /// Is a client alive? False for one that is not watched.
    fn is_alive(&self, client_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.is_alive(&client_id, &self.beat()).map_err(raise)
    }

    /// Timeouts since a client's last pong; 0 for one that is not watched.
    fn retry_count(&self, client_id: Arg<&str>) -> PyResult<u32> {
        self.heartbeats.retry_count(&client_id, &self.beat()).map_err(raise)
    }

    /// Clients that used up their retries.
    fn get_dead_clients(&self) -> PyResult<Vec<String>> {
        self.heartbeats.dead(&self.beat()).map_err(raise)
    }

    /// Removes clients that used up their retries; each is given to one caller.
    fn evict_dead(&self) -> PyResult<Vec<String>> {
        self.heartbeats.evict_dead(&self.beat()).map_err(raise)
    }

    /// Clients whose last ping is an interval ago.
    fn clients_needing_ping(&self) -> PyResult<Vec<String>> {
        self.heartbeats.needing_ping(&self.beat()).map_err(raise)
    }

    /// As `clients_needing_ping`, but only this process's clients, and ownerless ones, which it adopts.
    fn own_clients_needing_ping(&self) -> PyResult<Vec<String>> {
        self.heartbeats.own_needing_ping(&self.beat()).map_err(raise)
    }

    /// Where a client's stream resumes, or None.
    fn get_last_event_id(&self, client_id: Arg<&str>) -> PyResult<Option<String>> {
        self.heartbeats.last_event_id(&client_id).map_err(raise)
    }

    /// Sets where a client's stream resumes. False: not watched.
    fn set_last_event_id(&self, client_id: Arg<&str>, event_id: Arg<&str>) -> PyResult<bool> {
        self.heartbeats.set_last_event_id(&client_id, &event_id).map_err(raise)
    }

    /// Ids of the clients watched.
    fn client_ids(&self) -> PyResult<Vec<String>> {
        self.heartbeats.client_ids().map_err(raise)
    }

    /// How many clients are watched.
    fn client_count(&self) -> PyResult<u64> {
        self.heartbeats.client_count().map_err(raise)
    }

    /// What is known of every client, as texts.
    fn client_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let clients = PyDict::new(py);
        for info in self.heartbeats.client_info(&self.beat()).map_err(raise)? {
            let client = PyDict::new(py);
            client.set_item("alive", info.alive.to_string())?;
            client.set_item("retries", info.retries.to_string())?;
            client.set_item("last_pong_ago_secs", format!("{:.1}", info.last_pong_ago_secs))?;
            if let Some(id) = info.last_event_id {
                client.set_item("last_event_id", id)?;
            }
            clients.set_item(info.client, client)?;
        }
        Ok(clients)
    }

    /// Sums over all clients.
    fn stats(&self) -> PyResult<HeartbeatStats> {
        Ok(HeartbeatStats { stats: self.heartbeats.stats(&self.beat()).map_err(raise)? })
    }

    /// Stops watching everybody.
    fn clear(&self) -> PyResult<()> {
        self.heartbeats.clear().map_err(raise)
    }

    /// This handle's configuration.
    #[getter]
    fn config(&self) -> HeartbeatConfig {
        self.config.clone()
    }

    /// An SSE comment that keeps proxies from closing the connection.
    fn sse_keepalive_comment(&self) -> &'static str {
        ": keepalive\n\n"
    }

    /// An SSE field that tells the client when to reconnect.
    fn sse_retry_field(&self) -> String {
        format!("retry: {}\n\n", self.config.sse_retry_ms)
    }

    /// Both in one event.
    fn sse_heartbeat_event(&self) -> String {
        format!("retry: {}\n: heartbeat\n\n", self.config.sse_retry_ms)
    }
}

/// Sums over a namespace's heartbeat clients.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct HeartbeatStats {
    stats: core::BeatStats,
}

#[pymethods]
impl HeartbeatStats {
    /// Clients watched now.
    #[getter]
    fn monitored_clients(&self) -> u64 {
        self.stats.monitored
    }

    /// Pings ever recorded.
    #[getter]
    fn total_pings(&self) -> u64 {
        self.stats.pings
    }

    /// Pongs ever recorded.
    #[getter]
    fn total_pongs(&self) -> u64 {
        self.stats.pongs
    }

    /// Timeouts ever reported.
    #[getter]
    fn total_timeouts(&self) -> u64 {
        self.stats.timeouts
    }

    /// Clients timed out now.
    #[getter]
    fn timed_out_clients(&self) -> u64 {
        self.stats.timed_out
    }

    fn __repr__(&self) -> String {
        let stats = &self.stats;
        format!(
            "HeartbeatStats(monitored={}, pings={}, pongs={}, timeouts={}, timed_out={})",
            stats.monitored, stats.pings, stats.pongs, stats.timeouts, stats.timed_out
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<HeartbeatMonitor>()?;
    m.add_class::<HeartbeatStats>()
}
