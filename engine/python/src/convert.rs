//! Arguments and results: messages that are `str` or `bytes`, metadata, buffer sizes.

use std::borrow::Cow;
use std::cell::Cell;
use std::thread::LocalKey;

use hypern_shm_core::{Form, Metadata};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::argument::{Argument, named, whole, wrong_type};

/// What a message may be.
const PAYLOAD: &str = "a str or bytes";
/// Largest ring.
const MAX_BUFFER: u64 = 1 << 20;

thread_local! {
    /// Where messages are copied before they become Python objects.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Where a member's metadata are encoded.
    static METADATA: Cell<Metadata> = const { Cell::new(Metadata::new()) };
}
/// Most bytes that are kept: one large message or dict has no lasting cost.
const KEPT: usize = 256 << 10;

/// Lends what a thread keeps. Taken out meanwhile: making an exception may run finalizers, which may come here, too.
#[inline]
fn lend<T: Default, R>(kept: &'static LocalKey<Cell<T>>, capacity: fn(&T) -> usize, with: impl FnOnce(&mut T) -> R) -> R {
    kept.with(|place| {
        let mut lent = place.take();
        let result = with(&mut lent);
        if capacity(&lent) <= KEPT {
            place.set(lent);
        }
        result
    })
}

/// Calls `with` with the message's bytes, in place, and what they are.
#[inline]
pub fn with_payload<R>(message: &Bound<'_, PyAny>, with: impl FnOnce(&[u8], Form) -> PyResult<R>) -> PyResult<R> {
    if let Ok(text) = message.cast::<PyString>() {
        let text = text.to_str().map_err(|error| named(message.py(), error, "message"))?;
        with(text.as_bytes(), Form::Text)
    } else if let Ok(bytes) = message.cast::<PyBytes>() {
        with(bytes.as_bytes(), Form::Bytes)
    } else {
        Err(named(message.py(), wrong_type(message.as_borrowed(), PAYLOAD), "message"))
    }
}

/// What a message may hold, as an object.
pub struct Data(pub Py<PyAny>);

impl Argument<'_, '_> for Data {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
            Ok(Data(value.to_owned().unbind()))
        } else {
            Err(wrong_type(value, PAYLOAD))
        }
    }
}

/// Lends the thread's buffer to copy messages into before they become Python objects.
#[inline]
pub fn with_scratch<R>(with: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    lend(&SCRATCH, Vec::capacity, with)
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

/// An event id as a client sent it: text that is no Unicode is no id either, and never an error.
pub struct EventId<'a>(Cow<'a, str>);

impl EventId<'_> {
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl<'a> Argument<'a, '_> for EventId<'a> {
    fn take(value: Borrowed<'a, '_, PyAny>) -> PyResult<Self> {
        match value.cast::<PyString>() {
            Ok(text) => Ok(EventId(Cow::Owned(text.to_string_lossy().into_owned()))),
            Err(_) => Err(wrong_type(value, "a str")),
        }
    }
}

/// Calls `see` with each text pair of a dict.
#[inline]
fn each_pair(metadata: Borrowed<'_, '_, PyAny>, mut see: impl FnMut(&str, &str)) -> PyResult<()> {
    #[inline]
    fn text<'a>(object: &'a Bound<'_, PyAny>, what: &str) -> PyResult<&'a str> {
        // Most are just that, which is told quicker.
        match object.cast_exact::<PyString>().or_else(|_| object.cast::<PyString>()) {
            Ok(text) => text.to_str(),
            Err(_) => {
                let class = object.get_type();
                Err(PyTypeError::new_err(format!("must be a dict of str and str; it holds a {what} that is a '{}'", class.name()?)))
            }
        }
    }
    let dict = metadata.cast::<PyDict>().map_err(|_| wrong_type(metadata, "a dict of str and str"))?;
    for (key, value) in dict.iter() {
        see(text(&key, "key")?, text(&value, "value")?);
    }
    Ok(())
}

/// A channel's metadata.
impl Argument<'_, '_> for Vec<(String, String)> {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let mut pairs = Vec::new();
        each_pair(value, |key, value| pairs.push((key.to_owned(), value.to_owned())))?;
        Ok(pairs)
    }
}

/// Calls `with` with a member's metadata, encoded: those of a dict, or none.
#[inline]
pub fn with_metadata<R>(given: Option<&Bound<'_, PyAny>>, with: impl FnOnce(&Metadata) -> PyResult<R>) -> PyResult<R> {
    lend(&METADATA, Metadata::capacity, |metadata| {
        metadata.clear();
        if let Some(given) = given {
            let taken = each_pair(given.as_borrowed(), |key, value| metadata.push(key, value));
            taken.map_err(|error| named(given.py(), error, "metadata"))?;
        }
        with(metadata)
    })
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

/// How many messages a channel retains, as given.
pub struct BufferSize(pub u64);

impl BufferSize {
    /// The size of the ring: a power of two.
    pub fn rounded(&self) -> u64 {
        self.0.next_power_of_two()
    }
}

impl Argument<'_, '_> for BufferSize {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        whole(value, 1, MAX_BUFFER).map(BufferSize)
    }
}
