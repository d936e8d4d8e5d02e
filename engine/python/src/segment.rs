//! `Segment`: one named shared-memory segment, or a private one.

use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::argument::{Arg, arg};
use crate::errors::raise;
use crate::logging::hand_over_all;

/// A shared-memory segment that this process is attached to.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct Segment {
    pub inner: core::Segment,
}

#[pymethods]
impl Segment {
    /// Creates or attaches (``create``), or only attaches; ``name=None``: a private segment.
    #[new]
    #[pyo3(signature = (name, create, *, size, max_processes, unlink_when_unused=false, channels=None, ring_slots=None, members=None, clients=None, waiters=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        name: Option<Arg<&str>>,
        create: Arg<bool>,
        size: Arg<u64>,
        max_processes: Arg<u32>,
        #[pyo3(from_py_with = arg)] unlink_when_unused: bool,
        channels: Option<Arg<u32>>,
        ring_slots: Option<Arg<u32>>,
        members: Option<Arg<u32>>,
        clients: Option<Arg<u32>>,
        waiters: Option<Arg<u32>>,
    ) -> PyResult<Segment> {
        let options = core::Options {
            size: *size,
            max_processes: *max_processes,
            unlink_when_unused,
            channels: channels.map(Arg::into_inner),
            ring_slots: ring_slots.map(Arg::into_inner),
            members: members.map(Arg::into_inner),
            clients: clients.map(Arg::into_inner),
            waiters: waiters.map(Arg::into_inner),
        };
        // May wait for another process that is just attaching.
        let opened = py.detach(|| match (name.as_deref(), *create) {
            (None, _) => core::Segment::private(&options),
            (Some(name), true) => core::Segment::open(name, &options),
            (Some(name), false) => core::Segment::attach(name),
        });
        hand_over_all();
        Ok(Segment { inner: opened.map_err(raise)? })
    }

    /// The name; None: private.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.inner.name()
    }

    /// Bytes in all.
    #[getter]
    fn size(&self) -> u64 {
        self.inner.size()
    }

    /// Was it closed in this process?
    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Detaches this process in order; again is harmless.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let closed = py.detach(|| self.inner.close());
        hand_over_all();
        closed.map_err(raise)
    }

    /// Removes the name; who is attached goes on. False: it was gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.inner.unlink()).map_err(raise)
    }

    /// Settles dead processes now; how many there were.
    fn reap(&self, py: Python<'_>) -> PyResult<usize> {
        let reaped = py.detach(|| self.inner.reap());
        hand_over_all();
        reaped.map_err(raise)
    }

    /// Walks the whole segment and says what is wrong with it, one finding a line; empty: nothing.
    ///
    /// Writes nothing and holds nobody up. On a live segment a finding counts when it lasts over several looks;
    /// what a stopped process was just changing is listed until it goes on.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.check()).map_err(raise)
    }

    /// Starts the background thread that settles dead processes within a second.
    fn start_keeper(&self) -> PyResult<()> {
        self.inner.start_keeper().map_err(raise)
    }

    /// Capacities and use, as a dict of ints.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.inner.stats()).map_err(raise)?;
        let dict = PyDict::new(py);
        dict.set_item("name", stats.name)?;
        for (key, value) in [
            ("size", stats.size),
            ("processes", stats.processes),
            ("max_processes", stats.max_processes),
            ("channels", stats.cells),
            ("max_channels", stats.max_cells),
            ("ring_slots", stats.ring_slots),
            ("max_ring_slots", stats.max_ring_slots),
            ("small_blocks", stats.blocks[0]),
            ("max_small_blocks", stats.max_blocks[0]),
            ("medium_blocks", stats.blocks[1]),
            ("max_medium_blocks", stats.max_blocks[1]),
            ("large_blocks", stats.blocks[2]),
            ("max_large_blocks", stats.max_blocks[2]),
            ("max_members", stats.max_members),
            ("max_clients", stats.max_clients),
            ("waiters", stats.waiters),
            ("max_waiters", stats.max_waiters),
            ("evicted_messages", stats.evicted_messages),
            ("reaped_processes", stats.reaped),
        ] {
            dict.set_item(key, value)?;
        }
        Ok(dict)
    }
}

/// Removes a segment's name. False: there was none.
#[pyfunction]
fn unlink_segment(name: Arg<&str>) -> PyResult<bool> {
    core::Segment::unlink_name(&name).map_err(raise)
}

/// The thread that ends this process, once the program is over.
static EXITING: OnceLock<ThreadId> = OnceLock::new();

/// Is the program over, and this a daemon thread, which goes with the process?
#[pyfunction]
pub fn is_left_over() -> bool {
    EXITING.get().is_some_and(|ending| *ending != thread::current().id())
}

/// Detaches this process from every segment in order: for a clean exit, and for nothing else.
#[pyfunction]
fn detach_all(py: Python<'_>) {
    EXITING.get_or_init(|| thread::current().id());
    py.detach(core::detach_all);
    hand_over_all();
}

/// The world of a namespace in a segment.
pub fn world(segment: &Bound<'_, Segment>, namespace: &str) -> PyResult<core::World> {
    core::World::new(&segment.get().inner, namespace).map_err(raise)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Segment>()?;
    m.add_function(wrap_pyfunction!(unlink_segment, m)?)?;
    m.add_function(wrap_pyfunction!(is_left_over, m)?)?;
    m.add_function(wrap_pyfunction!(detach_all, m)?)
}
