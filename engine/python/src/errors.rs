//! Core errors → Python exceptions: one `match`. The classes live in `hypern_realtime_shm.errors`.

use hypern_shm_core::error::shortened;
use hypern_shm_core::{Error, events};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

/// The package's own exceptions, by name: kept here, since finalizers still call when the interpreter has forgotten its
/// modules.
static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

fn classes(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    let copied = || Ok::<_, PyErr>(py.import("hypern_realtime_shm.errors")?.dict().copy()?.unbind());
    CLASSES.get_or_try_init(py, copied).map(|classes| classes.bind(py))
}

/// An instance of one of the package's own exceptions.
fn own<'py>(
    py: Python<'py>,
    class: &str,
    args: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyErr {
    let made = classes(py).and_then(|classes| classes.as_any().get_item(class)?.call1(args.into_pyobject(py)?));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// The exception for a core error.
pub fn raise(error: Error) -> PyErr {
    // Told of here, as a program may swallow it; handed over later, as the caller may hold a lock.
    events::full(&error);
    Python::attach(|py| {
        let text = error.to_string();
        match error {
            Error::Closed => own(py, "SegmentClosed", (text,)),
            Error::HandleClosed => own(py, "SubscriberClosed", (text,)),
            Error::NotFound { .. } => own(py, "SegmentNotFound", (text,)),
            Error::Invalid { .. } => PyValueError::new_err(text),
            Error::Full { what, used, capacity, setting } => own(py, "SegmentFull", (text, what, used, capacity, setting)),
            Error::NoSpace { .. } => own(py, "SegmentNoSpace", (text,)),
            Error::Version { .. } => own(py, "SegmentVersionMismatch", (text,)),
            Error::Corrupt { .. } | Error::Damaged { .. } => own(py, "SegmentCorrupt", (text,)),
            Error::Refused { .. } => own(py, "SegmentRefused", (text,)),
            Error::Os { errno, .. } => PyOSError::new_err((errno, text)),
        }
    })
}

/// What a manager shows of itself; nobody who only looks at it is to meet an exception because it is closed.
pub fn shown(class: &str, text: Result<String, Error>) -> PyResult<String> {
    match text {
        Err(Error::Closed) => Ok(format!("{class}(closed)")),
        other => other.map_err(raise),
    }
}

/// What a channel is called where none is found.
pub const CHANNEL: &str = "Channel";

/// No channel of this name. The text is the original's.
pub fn unknown_channel(py: Python<'_>, kind: &str, name: &str) -> PyErr {
    own(py, "UnknownChannel", (format!("{kind} '{}' does not exist", shortened(name)),))
}

/// Nobody listens and the policy is `Error`. The text is the original's.
pub fn no_subscribers(py: Python<'_>) -> PyErr {
    own(py, "NoSubscribers", ("No active subscribers",))
}

/// Nothing will come any more.
pub fn channel_closed(py: Python<'_>, name: &str) -> PyErr {
    own(py, "ChannelClosed", (format!("channel '{name}' was removed, or the client unsubscribed; nothing will come any more"),))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    classes(m.py()).map(drop)
}
