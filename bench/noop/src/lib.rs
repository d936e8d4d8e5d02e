//! The floor of a call from Python: a frozen class whose methods take and return what `publish` and `try_recv` do,
//! and do nothing. Built for `bench/limit.py`; no wheel has it.

#![forbid(unsafe_code)]
#![allow(missing_docs)] // nobody but the benchmark sees it

use pyo3::prelude::*;
use std::hint::black_box;

#[pyclass(frozen)]
struct Noop;

#[pymethods]
impl Noop {
    #[new]
    fn new() -> Noop {
        Noop
    }

    /// Callgrind writes what it has counted whenever this is called.
    fn mark(&self) {
        mark();
    }

    /// As `publish`: two `str` in, an `int` out.
    fn publish(&self, channel_name: &str, message: &str) -> u64 {
        black_box((channel_name.len() + message.len()) as u64)
    }

    /// Not called. PyO3 has one trampoline for all methods with arguments; were there only one such method, the compiler
    /// would make the two one, which no real class gains by.
    fn publish_to_topic(&self, topic: &str, message: &str) -> u64 {
        black_box((topic.len() ^ message.len()) as u64)
    }

    /// As `try_recv` that finds nothing.
    fn try_recv(&self) -> Option<u64> {
        black_box(None)
    }

    /// As `try_recv` that finds a message of 64 bytes: a `str` out.
    fn receive(&self) -> &'static str {
        black_box("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
    }
}

#[inline(never)]
fn mark() {
    black_box(());
}

#[pymodule]
fn hypern_shm_noop(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Noop>()
}
