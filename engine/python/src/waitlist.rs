//! `Waitlist`: what waits in one event loop, behind one descriptor.

use std::sync::Arc;

use hypern_shm_core as core;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::argument::Arg;
use crate::errors::raise;
use crate::handle::Handle;
use crate::presence::PresenceWatch;

/// What a handle of any kind waits for.
fn source_of(handle: &Bound<'_, PyAny>) -> PyResult<Arc<dyn core::Source>> {
    if let Ok(handle) = handle.cast::<Handle>() {
        Ok(handle.get().source())
    } else if let Ok(watch) = handle.cast::<PresenceWatch>() {
        Ok(watch.get().source())
    } else {
        Err(PyTypeError::new_err(format!("handle must be a subscriber or a watch, not '{}'", handle.get_type().name()?)))
    }
}

/// What waits in one event loop for handles of one segment.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct Waitlist {
    list: Arc<core::Waitlist>,
}

#[pymethods]
impl Waitlist {
    #[new]
    fn new(handle: &Bound<'_, PyAny>) -> PyResult<Waitlist> {
        let source = source_of(handle)?;
        Ok(Waitlist { list: core::Waitlist::new(source.segment()).map_err(raise)? })
    }

    /// The descriptor that is readable when `take` should be called.
    fn fileno(&self) -> i32 {
        self.list.fileno()
    }

    /// Parks a wait; returns its token, or None: there is news already.
    fn park(&self, handle: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        self.list.park(&source_of(handle)?).map_err(raise)
    }

    /// Gives a wait up. False: it was taken already.
    fn unpark(&self, token: Arg<u64>) -> bool {
        self.list.unpark(*token)
    }

    /// The tokens of the waits that have news; they wait no more.
    fn take(&self) -> PyResult<Vec<u64>> {
        self.list.take().map_err(raise)
    }

    /// The tokens of all waits; they wait no more.
    fn take_all(&self) -> Vec<u64> {
        self.list.take_all()
    }

    /// Is it of no use any more: the segment closed, or this a forked child?
    #[getter]
    fn stale(&self) -> bool {
        self.list.is_stale()
    }

    /// Is it for handles of this one's segment?
    fn serves(&self, handle: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.list.is_of(source_of(handle)?.segment()) && !self.list.is_stale())
    }

    fn __len__(&self) -> usize {
        self.list.len()
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Waitlist>()
}
