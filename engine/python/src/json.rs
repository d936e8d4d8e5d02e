//! Compact JSON of what programs publish: dicts, lists, texts and numbers, written without a detour through Python.
//!
//! Promise: the very text of `json.dumps(data, separators=(",", ":"))`. What is not plainly one of the built-in types
//! (subclasses, other keys than texts, numbers beyond 64 bits, what is not finite, what is nested too deep or in
//! circles, lone surrogates) is left to that function, with its results and its exceptions (whose text
//! begins with the argument's name).

use std::io::Write;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::argument::named;

/// Nested deeper, it is left to Python: it may be a circle.
const DEPTH: u32 = 64;

/// Calls `with` with the compact JSON of `data`.
pub fn with_compact<R>(data: &Bound<'_, PyAny>, with: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    let mut out = Vec::with_capacity(256);
    if write(data, DEPTH, &mut out).is_some() {
        return with(&out);
    }
    let py = data.py();
    let options = PyDict::new(py);
    options.set_item("separators", (",", ":"))?;
    let dumps = py.import("json")?.getattr("dumps")?;
    let text = dumps.call((data,), Some(&options)).map_err(|error| named(py, error, "data is no JSON:"))?;
    with(text.cast::<PyString>()?.to_str()?.as_bytes())
}

/// `None`: not plainly of a built-in type.
fn write(data: &Bound<'_, PyAny>, depth: u32, out: &mut Vec<u8>) -> Option<()> {
    let below = depth.checked_sub(1)?;
    if let Ok(text) = data.cast_exact::<PyString>() {
        write_text(text.to_str().ok()?, out);
    } else if let Ok(dict) = data.cast_exact::<PyDict>() {
        out.push(b'{');
        for (index, (key, value)) in dict.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_text(key.cast_exact::<PyString>().ok()?.to_str().ok()?, out);
            out.push(b':');
            write(&value, below, out)?;
        }
        out.push(b'}');
    } else if let Ok(list) = data.cast_exact::<PyList>() {
        write_items(list.iter(), below, out)?;
    } else if let Ok(tuple) = data.cast_exact::<PyTuple>() {
        write_items(tuple.iter(), below, out)?;
    } else if data.is_none() {
        out.extend_from_slice(b"null");
    } else if let Ok(truth) = data.cast_exact::<PyBool>() {
        out.extend_from_slice(if truth.is_true() { b"true" } else { b"false" });
    } else if let Ok(number) = data.cast_exact::<PyInt>() {
        write!(out, "{}", number.extract::<i64>().ok()?).ok()?;
    } else if let Ok(number) = data.cast_exact::<PyFloat>() {
        if !number.value().is_finite() {
            return None;
        }
        // The shortest text that gives the number back, as Python writes it.
        out.extend_from_slice(number.repr().ok()?.to_str().ok()?.as_bytes());
    } else {
        return None;
    }
    Some(())
}

fn write_items<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>, depth: u32, out: &mut Vec<u8>) -> Option<()> {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(&item, depth, out)?;
    }
    out.push(b']');
    Some(())
}

/// A text in quotes, in ASCII: all else is escaped.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    out.push(b'"');
    if text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for character in text.chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{8}' => out.extend_from_slice(b"\\b"),
                '\u{c}' => out.extend_from_slice(b"\\f"),
                ' '..='~' => out.push(character as u8),
                _ => character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.extend_from_slice(format!("\\u{unit:04x}").as_bytes())),
            }
        }
    }
    out.push(b'"');
}
