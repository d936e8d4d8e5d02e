//! `SSEEvent`: one server-sent event as text, by the WHATWG rules.
//! Source: HTML Living Standard, section 9.2 "Server-sent events".

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::argument::{Arg, Argument, out_of_bounds};

/// One server-sent event.
#[pyclass(frozen, module = "hypern_realtime_shm._engine")]
pub struct SSEEvent {
    /// The data; line breaks of any kind become several `data` lines.
    #[pyo3(get)]
    data: String,
    /// The id, or None.
    #[pyo3(get)]
    id: Option<String>,
    /// The event's type, or None.
    #[pyo3(get)]
    event: Option<String>,
    /// Milliseconds after which the client reconnects, or None.
    #[pyo3(get)]
    retry: Option<u64>,
}

/// A field's value: nothing in it ends the field's line, or makes the client ignore it.
struct Line<'a>(&'a str);

impl<'a> Argument<'a, '_> for Line<'a> {
    fn take(value: Borrowed<'a, '_, PyAny>) -> PyResult<Self> {
        match <&str>::take(value)? {
            text if text.contains(['\r', '\n', '\0']) => Err(out_of_bounds(value, "one line without CR, LF and NUL")),
            text => Ok(Line(text)),
        }
    }
}

/// The lines of a text, broken at CR LF, CR or LF.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\n']) {
        lines.push(&rest[..at]);
        let width = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[at + width..];
    }
    lines.push(rest);
    lines
}

#[pymethods]
impl SSEEvent {
    #[new]
    #[pyo3(signature = (data, id=None, event=None, retry=None))]
    fn new(data: Arg<&str>, id: Option<Arg<Line<'_>>>, event: Option<Arg<Line<'_>>>, retry: Option<Arg<u64>>) -> SSEEvent {
        let line = |line: Arg<Line<'_>>| line.into_inner().0.to_owned();
        SSEEvent { data: data.to_string(), id: id.map(line), event: event.map(line), retry: retry.map(Arg::into_inner) }
    }

    /// The event as it goes over the wire.
    fn format(&self) -> String {
        let mut text = String::with_capacity(self.data.len() + 32);
        for (field, value) in [("id", &self.id), ("event", &self.event)] {
            if let Some(value) = value {
                text.push_str(&format!("{field}: {value}\n"));
            }
        }
        if let Some(retry) = self.retry {
            text.push_str(&format!("retry: {retry}\n"));
        }
        // Empty data is one empty line: without a data field the client would dispatch nothing.
        for line in lines(&self.data) {
            text.push_str(&format!("data: {line}\n"));
        }
        text.push('\n');
        text
    }

    /// `format` as UTF-8.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.format().as_bytes())
    }

    fn __repr__(&self) -> String {
        let optional = |value: Option<String>| value.unwrap_or_else(|| "None".to_owned());
        format!(
            "SSEEvent(data={:?}, id={}, event={}, retry={})",
            self.data,
            optional(self.id.as_ref().map(|id| format!("{id:?}"))),
            optional(self.event.as_ref().map(|event| format!("{event:?}"))),
            optional(self.retry.map(|retry| retry.to_string()))
        )
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SSEEvent>()
}
