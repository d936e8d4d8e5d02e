//! The core's records go to Python's `logging`, under the package's name.
//!
//! Promise: a record is only noted where it arises, so that nothing waits for the interpreter there. It is handed over
//! where nothing is held: by the keeper's thread after its round, and before a call on a segment returns. Once the
//! interpreter is about to end nobody enters it any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hypern_shm_core::events::TARGET;
use hypern_shm_core::os::fork;
use hypern_shm_core::os::lock::Lock;
use log::kv::{Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::argument::Arg;

/// Records that wait: more are not kept.
const MOST: usize = 256;
/// How long the end of the interpreter waits for who is just handing over.
const PATIENCE: Duration = Duration::from_secs(1);

/// A value that is told with a record.
enum Told {
    Number(u64),
    Text(String),
}

struct Noted {
    level: u8,
    message: String,
    values: Vec<(String, Told)>,
}

struct Forward;

static NOTED: Lock<VecDeque<Noted>> = Lock::new(VecDeque::new());
static ENDING: AtomicBool = AtomicBool::new(false);
/// The token of a process in which a thread is just handing over; 0: none is.
static HANDING_OVER: AtomicU64 = AtomicU64::new(0);

struct Values(Vec<(String, Told)>);

impl<'kvs> VisitSource<'kvs> for Values {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let told = value.to_u64().map_or_else(|| Told::Text(value.to_string()), Told::Number);
        self.0.push((key.to_string(), told));
        Ok(())
    }
}

/// Python's number of a level.
const fn number(level: Level) -> u8 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    }
}

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut values = Values(Vec::new());
        // Only a visitor fails, and ours does not.
        let _ = record.key_values().visit(&mut values);
        let noted = Noted { level: number(record.level()), message: record.args().to_string(), values: values.0 };
        let mut waiting = NOTED.lock();
        if waiting.len() < MOST {
            waiting.push_back(noted);
        }
    }

    /// Hands over what was noted. Called where nothing is held.
    fn flush(&self) {
        if NOTED.try_look().is_some_and(|noted| noted.is_empty()) {
            return;
        }
        // One thread at a time, so that records keep their order; another one's are not forgotten, but later.
        if HANDING_OVER.compare_exchange(0, fork::token(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // A mark that a parent process left behind is no thread of ours.
            if HANDING_OVER.load(Ordering::Acquire) != fork::token() {
                HANDING_OVER.store(0, Ordering::Release);
            }
            return;
        }
        if !ENDING.load(Ordering::Acquire) {
            Python::try_attach(|py| {
                while let Some(noted) = { NOTED.lock().pop_front() } {
                    if let Err(error) = hand_over(py, &noted) {
                        error.write_unraisable(py, None);
                    }
                }
            });
        }
        HANDING_OVER.store(0, Ordering::Release);
    }
}

fn hand_over(py: Python<'_>, noted: &Noted) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", (TARGET,))?;
    if !logger.call_method1("isEnabledFor", (noted.level,))?.is_truthy()? {
        return Ok(());
    }
    let extra = PyDict::new(py);
    for (key, value) in &noted.values {
        match value {
            Told::Number(number) => extra.set_item(key, number)?,
            Told::Text(text) => extra.set_item(key, PyString::new(py, text))?,
        }
    }
    let options = PyDict::new(py);
    options.set_item("extra", extra)?;
    logger.call_method("log", (noted.level, noted.message.as_str()), Some(&options)).map(drop)
}

/// Hands over what was noted: at the end of calls on segments.
pub fn hand_over_all() {
    log::logger().flush();
}

/// The interpreter is about to end: what was noted is handed over, and nobody enters it for that any more.
#[pyfunction]
fn end_logging(py: Python<'_>) {
    hand_over_all();
    ENDING.store(true, Ordering::Release);
    py.detach(|| {
        let start = Instant::now();
        while HANDING_OVER.load(Ordering::Acquire) == fork::token() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Which share of its channel's buffer a handle may be behind before it is told of; 0: it never is.
#[pyfunction]
fn warn_of_lag_above(share: Arg<f64>) {
    hypern_shm_core::warn_of_lag_above(*share);
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // Fails when it is set already: by an earlier import of this very module.
    if log::set_logger(&Forward).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    m.add_function(wrap_pyfunction!(end_logging, m)?)?;
    m.add_function(wrap_pyfunction!(warn_of_lag_above, m)?)
}
