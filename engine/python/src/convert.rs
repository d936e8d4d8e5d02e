//! Arguments and results: messages that are `str` or `bytes`, metadata, buffer sizes.

use std::borrow::Cow;
use std::cell::Cell;

use hypern_shm_core::{Form, Metadata};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

/// Largest ring.
const MAX_BUFFER: i64 = 1 << 20;

thread_local! {
    /// Where messages are copied before they become Python objects.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
/// A scratch buffer grown beyond this by one large message is given back.
const SCRATCH_KEPT: usize = 256 << 10;

/// Calls `with` with the message's bytes, in place, and what they are.
#[inline]
pub fn with_payload<R>(message: &Bound<'_, PyAny>, with: impl FnOnce(&[u8], Form) -> PyResult<R>) -> PyResult<R> {
    if let Ok(text) = message.cast::<PyString>() {
        with(text.to_str()?.as_bytes(), Form::Text)
    } else if let Ok(bytes) = message.cast::<PyBytes>() {
        with(bytes.as_bytes(), Form::Bytes)
    } else {
        Err(PyTypeError::new_err(format!(
            "argument 'message': '{}' object is not an instance of 'str' or 'bytes'",
            message.get_type().name()?
        )))
    }
}

/// A buffer to copy messages into before they become Python objects.
pub struct Scratch;

impl Scratch {
    /// Lends the thread's buffer. Taken out meanwhile: making an exception may run finalizers, which may
    /// take messages, too.
    #[inline]
    pub fn with<R>(with: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        SCRATCH.with(|place| {
            let mut buffer = place.take();
            let result = with(&mut buffer);
            if buffer.capacity() <= SCRATCH_KEPT {
                place.set(buffer);
            }
            result
        })
    }
}

/// A payload as what it was published as.
#[inline]
pub fn to_python<'py>(py: Python<'py>, payload: &[u8], form: Form) -> PyResult<Bound<'py, PyAny>> {
    match form {
        Form::Bytes => Ok(PyBytes::new(py, payload).into_any()),
        // Raises where it is no text: the core leaves that to whoever makes an object of it.
        Form::Text => Ok(PyString::from_bytes(py, payload)?.into_any()),
    }
}

/// An event id as a client sent it: whatever is no text is no id either, and never an error.
pub fn event_id<'a>(id: Option<&'a Bound<'_, PyString>>) -> Option<Cow<'a, str>> {
    id.map(|id| id.to_string_lossy())
}

/// Calls `see` with each text pair of a dict.
fn each_pair(metadata: Option<&Bound<'_, PyDict>>, mut see: impl FnMut(&str, &str)) -> PyResult<()> {
    fn text<'a>(object: &'a Bound<'_, PyAny>, what: &str) -> PyResult<&'a str> {
        match object.cast::<PyString>() {
            Ok(text) => text.to_str(),
            Err(_) => Err(PyTypeError::new_err(format!(
                "argument 'metadata': a {what} is '{}', not an instance of 'str'",
                object.get_type().name()?
            ))),
        }
    }
    for (key, value) in metadata.into_iter().flatten() {
        see(text(&key, "key")?, text(&value, "value")?);
    }
    Ok(())
}

/// Text pairs out of a dict.
pub fn pairs(metadata: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    each_pair(metadata, |key, value| pairs.push((key.to_owned(), value.to_owned())))?;
    Ok(pairs)
}

/// A member's metadata out of a dict.
pub fn metadata_of(metadata: Option<&Bound<'_, PyDict>>) -> PyResult<Metadata> {
    let mut encoded = Metadata::default();
    each_pair(metadata, |key, value| encoded.push(key, value))?;
    Ok(encoded)
}

/// A dict out of text pairs.
pub fn dict<'py, T: AsRef<str>>(py: Python<'py>, pairs: impl IntoIterator<Item = (T, T)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, value) in pairs {
        dict.set_item(key.as_ref(), value.as_ref())?;
    }
    Ok(dict)
}

/// Text pairs as the original shows them.
pub fn show<T: AsRef<str>>(pairs: impl IntoIterator<Item = (T, T)>) -> String {
    let shown: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{:?}: {:?}", key.as_ref(), value.as_ref())).collect();
    format!("{{{}}}", shown.join(", "))
}

/// A buffer size, checked and rounded up to a power of two.
pub fn buffer_size(argument: &str, size: i64) -> PyResult<u64> {
    if (1..=MAX_BUFFER).contains(&size) {
        Ok((size as u64).next_power_of_two())
    } else {
        Err(PyValueError::new_err(format!("{argument} is {size}; it must be between 1 and {MAX_BUFFER}")))
    }
}
