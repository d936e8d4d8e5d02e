//! `hypern_realtime_shm._engine`: the engine's facades as frozen Python classes.
//!
//! Promise: thin. Each method parses its arguments, calls one method of the core, and turns the
//! result or error into Python's. The interpreter is never released around a call that does not
//! wait, as none of these does; what may wait (attach, detach, reap) releases it.
#![forbid(unsafe_code)]

mod argument;
mod broadcast;
mod channels;
mod config;
mod convert;
mod errors;
mod handle;
mod heartbeat;
mod hub;
mod inspector;
mod json;
mod lists;
mod logging;
mod presence;
mod publishing;
mod segment;
mod sse;
mod topics;
mod waitlist;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The `builtins` of the interpreter that this is of: each interpreter has its own.
static INTERPRETER: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// Refuses every other interpreter of the process. Classes and interned names are kept for one: another one would use
/// its objects, under another lock or after its end.
fn claim_interpreter(py: Python<'_>) -> PyResult<()> {
    let builtins = py.import("builtins")?;
    if INTERPRETER.get_or_init(py, || builtins.clone().unbind()).is(&builtins) {
        return Ok(());
    }
    Err(PyImportError::new_err("hypern_realtime_shm is of the interpreter of this process that imported it first, and of no other"))
}

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    claim_interpreter(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    argument::register(m)?;
    errors::register(m)?;
    segment::register(m)?;
    handle::register(m)?;
    channels::register(m)?;
    topics::register(m)?;
    presence::register(m)?;
    config::register(m)?;
    broadcast::register(m)?;
    heartbeat::register(m)?;
    hub::register(m)?;
    sse::register(m)?;
    inspector::register(m)?;
    logging::register(m)?;
    waitlist::register(m)
}
