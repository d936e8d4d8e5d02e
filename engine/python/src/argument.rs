//! Arguments, and what is said of one that is refused: its name, its value or type, and what it must be.
//!
//! Promise: `TypeError` for a wrong type, `ValueError` for what is out of its bounds (text that is no Unicode
//! included: `UnicodeEncodeError`), the same text on every Python, and nothing done. Taking an argument that is as
//! it should be costs what PyO3's own way costs. A `bool` is an `int`, as everywhere in Python.

use std::fmt::Display;
use std::ops::Deref;

use hypern_shm_core::error::shortened;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyString, PyTuple};
use pyo3::{PyTypeCheck, intern};

/// What an argument may be.
pub trait Argument<'a, 'py>: Sized {
    /// Takes it; an error's text lacks the name, which comes first.
    fn take(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self>;
}

/// An argument of what Python calls. Taken by PyO3 alone, which then tells its name.
#[derive(Clone, Copy)]
pub struct Arg<T>(pub T);

/// An argument that is an instance of a class.
pub type Of<'a, 'py, T> = Arg<Borrowed<'a, 'py, T>>;

impl<T> Arg<T> {
    /// What it is.
    #[inline]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Arg<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'a, 'py, T: Argument<'a, 'py>> FromPyObject<'a, 'py> for Arg<T> {
    type Error = PyErr;

    #[inline]
    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        T::take(value).map(Arg).map_err(|error| listening(value.py(), error))
    }
}

/// The same as a function, for arguments whose default value is a literal.
pub fn arg<'a, 'py, T: Argument<'a, 'py>>(value: &'a Bound<'py, PyAny>) -> PyResult<T> {
    value.extract().map(|Arg(taken)| taken)
}

/// A refused argument's error with its name. Made by hand where PyO3 knows no name, or only that of the whole.
#[cold]
pub fn named(py: Python<'_>, error: PyErr, name: &str) -> PyErr {
    if !has_place(py, &error) {
        return error;
    }
    match put_name(error.value(py), name) {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

/// Is the error of a kind whose text has a place for a name? What else a caller's own methods raise is passed on.
fn has_place(py: Python<'_>, error: &PyErr) -> bool {
    let class = error.get_type(py);
    class.is(py.get_type::<PyTypeError>()) || class.is(py.get_type::<PyValueError>()) || class.is(py.get_type::<PyUnicodeEncodeError>())
}

/// Puts the name there.
fn put_name(error: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    if error.is_instance_of::<PyUnicodeEncodeError>() {
        let reason = error.getattr("reason")?;
        return error.setattr("reason", format!("{reason} in {name}"));
    }
    let text = error.str()?;
    error.setattr("args", (format!("{name} {text}"),))
}

/// PyO3 tells the name of an argument that could not be taken to nobody but the exception, as a note: which no
/// exception has before Python 3.11, and which is no part of its text. So the exception listens in its place.
#[cold]
fn listening(py: Python<'_>, error: PyErr) -> PyErr {
    if !has_place(py, &error) {
        return error;
    }
    let value = error.value(py).clone().unbind();
    let listen = move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
        let (note,): (String,) = args.extract()?;
        let error = value.bind(args.py());
        error.delattr("add_note")?; // this very function, which refers to the exception
        put_name(error, note.split('\'').nth(1).unwrap_or(&note))
    };
    let made = PyCFunction::new_closure(py, None, None, listen).and_then(|listen| error.value(py).setattr("add_note", listen));
    match made {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

/// The error for a wrong type; `wanted` with its article.
#[cold]
pub fn wrong_type(value: Borrowed<'_, '_, PyAny>, wanted: &str) -> PyErr {
    match value.get_type().name() {
        Ok(name) => PyTypeError::new_err(format!("must be {wanted}, not '{name}'")),
        Err(error) => error,
    }
}

/// The error for what is out of its bounds.
#[cold]
pub fn out_of_bounds(value: Borrowed<'_, '_, PyAny>, bound: &str) -> PyErr {
    // An int may be too long for Python to tell it.
    let told = value.repr().map_or_else(|_| "too large to be shown".to_owned(), |repr| shortened(&repr.to_string_lossy()));
    PyValueError::new_err(format!("is {told}; it must be {bound}"))
}

/// Another error of `error`'s kind: the type was wrong, or the value did not fit. Others are the caller's own.
#[cold]
fn told(value: Borrowed<'_, '_, PyAny>, error: PyErr, wanted: &str, bound: impl FnOnce() -> String) -> PyErr {
    let py = value.py();
    if error.is_instance_of::<PyTypeError>(py) {
        wrong_type(value, wanted)
    } else if error.is_instance_of::<PyOverflowError>(py) {
        out_of_bounds(value, &bound())
    } else {
        error
    }
}

/// A whole number between two others, both included.
#[inline]
pub fn whole<'py, T>(value: Borrowed<'_, 'py, PyAny>, low: T, high: T) -> PyResult<T>
where
    T: FromPyObjectOwned<'py, Error = PyErr> + PartialOrd + Display,
{
    let bound = || format!("between {low} and {high}");
    match value.extract::<T>() {
        Ok(number) if low <= number && number <= high => Ok(number),
        Ok(_) => Err(out_of_bounds(value, &bound())),
        Err(error) => Err(told(value, error, "an int", bound)),
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl<'py> Argument<'_, 'py> for $number {
            #[inline]
            fn take(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                whole(value, <$number>::MIN, <$number>::MAX)
            }
        }
    )*};
}
whole_numbers!(u32, u64);

impl Argument<'_, '_> for f64 {
    #[inline]
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        value.extract().map_err(|error| told(value, error, "a number", || "within the range of a float".to_owned()))
    }
}

impl Argument<'_, '_> for bool {
    #[inline]
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        value.extract().map_err(|error| told(value, error, "a bool", String::new))
    }
}

/// A duration: 0 or more seconds.
pub struct Seconds(pub f64);

impl Argument<'_, '_> for Seconds {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match f64::take(value)? {
            seconds if seconds >= 0.0 => Ok(Seconds(seconds)),
            _ => Err(out_of_bounds(value, "0 or more seconds")),
        }
    }
}

/// How long to wait: any number of seconds. What is below 0 is over at once, what is beyond a clock never.
pub struct Timeout(pub f64);

impl Argument<'_, '_> for Timeout {
    #[inline]
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match f64::take(value)? {
            seconds if seconds.is_nan() => Err(out_of_bounds(value, "a number of seconds, or None")),
            seconds => Ok(Timeout(seconds)),
        }
    }
}

impl<'a> Argument<'a, '_> for &'a str {
    #[inline]
    fn take(value: Borrowed<'a, '_, PyAny>) -> PyResult<Self> {
        value.extract().map_err(|error| told(value, error, "a str", String::new))
    }
}

/// A list of texts: any sequence of them but a `str`.
impl Argument<'_, '_> for Vec<String> {
    fn take(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        const WANTED: &str = "a list of str";
        let items = value.extract::<Vec<Bound<'_, PyAny>>>().map_err(|error| told(value, error, WANTED, String::new))?;
        let text = |item: &Bound<'_, PyAny>| match item.cast::<PyString>() {
            Ok(text) => Ok(text.to_str()?.to_owned()),
            Err(_) => Err(PyTypeError::new_err(format!("must be {WANTED}; it holds a '{}'", item.get_type().name()?))),
        };
        items.iter().map(text).collect()
    }
}

/// An instance of a class.
impl<'a, 'py, T: PyTypeCheck> Argument<'a, 'py> for Borrowed<'a, 'py, T> {
    #[inline]
    fn take(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        value.cast::<T>().map_err(|_| match T::classinfo_object(value.py()).getattr(intern!(value.py(), "__name__")) {
            Ok(name) => wrong_type(value, &format!("a {name}")),
            Err(error) => error,
        })
    }
}

/// Takes what goes by this name and is no argument of the engine's own.
fn taken<'a, 'py, T: Argument<'a, 'py>>(name: &str, value: &'a Bound<'py, PyAny>) -> PyResult<T> {
    T::take(value.as_borrowed()).map_err(|error| named(value.py(), error, name))
}

/// A text that stays in Python.
#[pyfunction]
fn text<'a>(name: &str, value: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    taken(name, value)
}

/// A whole number that stays in Python: 0 or more.
#[pyfunction]
#[pyo3(name = "whole")]
fn whole_number(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    taken(name, value)
}

/// A time-out that Python itself waits for.
#[pyfunction]
fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    taken(name, value).map(|Timeout(seconds)| seconds)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(text, m)?)?;
    m.add_function(wrap_pyfunction!(whole_number, m)?)?;
    m.add_function(wrap_pyfunction!(seconds, m)?)
}
