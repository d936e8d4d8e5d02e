//! What subscribers of every kind share: taking messages, and waiting for them with the interpreter released.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hypern_shm_core as core;
use pyo3::exceptions::{PyTimeoutError, PyUnicodeDecodeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::argument::{Arg, Timeout};
use crate::convert::{Data, to_python, with_scratch};
use crate::errors::{channel_closed, raise};
use crate::lists::own_list;
use crate::segment::is_left_over;

/// A receiver of one channel or of a pattern's.
pub enum Receiving {
    One(Arc<core::Receiver>),
    Many(Arc<core::PatternReceiver>),
}

/// One message: where it came from, what it is, and its id.
#[pyclass(frozen, eq, module = "hypern_realtime_shm._engine")]
pub struct Message {
    /// The channel's name.
    #[pyo3(get)]
    channel: String,
    /// The message as it was published: str or bytes.
    #[pyo3(get)]
    data: Py<PyAny>,
    /// Its id: `<epoch>-<sequence>`.
    #[pyo3(get)]
    id: String,
}

impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        let same = || Python::attach(|py| self.data.bind(py).eq(other.data.bind(py)).unwrap_or(false));
        self.id == other.id && self.channel == other.channel && same()
    }
}

impl Message {
    pub fn made(channel: String, data: Py<PyAny>, id: String) -> Message {
        Message { channel, data, id }
    }
}

#[pymethods]
impl Message {
    #[new]
    fn new(channel: Arg<&str>, data: Arg<Data>, id: Arg<&str>) -> Message {
        Message::made(channel.to_string(), data.into_inner().0, id.to_string())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyTuple::new(py, [&self.channel, &self.id])?.hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Message(channel={:?}, data={}, id={:?})", self.channel, self.data.bind(py).repr()?, self.id))
    }
}

/// An open handle: what subscribers of every kind have in common.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct Handle {
    // With it the list that watches it for a foreign event loop.
    receiving: Receiving,
    is_watched: AtomicBool,
    watched: Mutex<Option<(Arc<core::Waitlist>, u64)>>,
}

/// When a wait ends.
pub fn deadline(timeout: Option<Arg<Timeout>>) -> Option<Instant> {
    let Timeout(seconds) = timeout?.into_inner();
    // What is too long for a clock is for ever.
    let duration = Duration::try_from_secs_f64(seconds.max(0.0)).ok()?;
    Instant::now().checked_add(duration)
}

pub fn timed_out() -> PyErr {
    PyTimeoutError::new_err("no message came in time")
}

/// Was a message's text no text? Only damage makes it so.
#[cold]
fn is_spoilt(error: &PyErr) -> bool {
    Python::attach(|py| error.is_instance_of::<PyUnicodeDecodeError>(py))
}

impl Handle {
    pub fn new(receiving: Receiving) -> Handle {
        Handle { receiving, is_watched: AtomicBool::new(false), watched: Mutex::new(None) }
    }

    pub fn one(&self) -> Option<&core::Receiver> {
        match &self.receiving {
            Receiving::One(receiver) => Some(receiver),
            Receiving::Many(_) => None,
        }
    }

    pub fn source(&self) -> Arc<dyn core::Source> {
        match &self.receiving {
            Receiving::One(receiver) => receiver.clone(),
            Receiving::Many(receiver) => receiver.clone(),
        }
    }

    #[inline(always)]
    fn take<R>(&self, found: impl Fn(&[u8], core::Received, &str) -> PyResult<R>) -> PyResult<Option<R>> {
        match &self.receiving {
            Receiving::One(receiver) => {
                while let Some(ready) = receiver.next_ready().map_err(raise)? {
                    let made = with_scratch(|buffer| {
                        let received = ready.take(buffer)?;
                        Some(found(buffer, received, receiver.channel()))
                    });
                    match made {
                        Some(Err(error)) if is_spoilt(&error) => receiver.spoilt(),
                        Some(made) => return made.map(Some),
                        None => break,
                    }
                }
            }
            Receiving::Many(receiver) => {
                let made = with_scratch(|buffer| match receiver.try_recv(buffer) {
                    Ok(Some((received, channel))) => found(buffer, received, &channel).map(Some),
                    Ok(None) => Ok(None),
                    Err(error) => Err(raise(error)),
                })?;
                if made.is_some() {
                    return Ok(made);
                }
            }
        }
        self.found_empty();
        Ok(None)
    }

    /// Waits for what `take` gives. `None`: nothing will come any more.
    fn wait<R>(slf: &Bound<'_, Self>, timeout: Option<Arg<Timeout>>, take: impl Fn(&Handle) -> PyResult<Option<R>>) -> PyResult<Option<R>> {
        waited(slf.py(), Handle::wait_for(slf, timeout, take))
    }

    fn wait_for<R>(
        slf: &Bound<'_, Self>,
        timeout: Option<Arg<Timeout>>,
        take: impl Fn(&Handle) -> PyResult<Option<R>>,
    ) -> PyResult<Option<R>> {
        let this = slf.get();
        if let Some(message) = take(this)? {
            return Ok(Some(message));
        }
        let deadline = deadline(timeout);
        loop {
            if this.ended()? {
                // What was published before the end is there by now.
                return take(this);
            }
            let in_time = wait_for_news(slf.as_any(), &this.source(), deadline)?;
            match take(this)? {
                Some(message) => return Ok(Some(message)),
                None if !in_time => return Err(timed_out()),
                None => {}
            }
        }
    }

    /// A watched handle has nothing: its descriptor need not be readable on its account.
    #[inline(always)]
    fn found_empty(&self) {
        if self.is_watched.load(Ordering::Relaxed) {
            self.tell_empty();
        }
    }

    #[cold]
    fn tell_empty(&self) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((list, token)) = &*watched {
            // Fails in a forked child alone, whose descriptor it is not.
            let _ = list.found_empty(*token);
        }
    }

    pub fn client(&self) -> &str {
        match &self.receiving {
            Receiving::One(receiver) => receiver.client(),
            Receiving::Many(receiver) => receiver.client(),
        }
    }

    pub fn missed(&self) -> u64 {
        match &self.receiving {
            Receiving::One(receiver) => receiver.missed(),
            Receiving::Many(receiver) => receiver.missed(),
        }
    }
}

#[pymethods]
impl Handle {
    /// The next message, as it was published (str or bytes); None: there is none now.
    fn try_recv<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.take(|payload, received, _| to_python(py, payload, received.form))
    }

    /// As `try_recv`, with the channel's name and the id.
    fn try_recv_message(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        self.take(|payload, received, channel| {
            let data = to_python(py, payload, received.form)?.unbind();
            Ok(Message::made(channel.to_owned(), data, received.id.to_string()))
        })
    }

    /// All messages that are there now: never more than the rings hold, however fast others publish.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut all = Vec::new();
        match &self.receiving {
            Receiving::One(receiver) => {
                let most = receiver.capacity();
                // Not the thread's buffer: what is taken outlives the making of an object, which may run other code.
                let (mut buffer, mut messages) = (Vec::new(), Vec::new());
                while (all.len() as u64) < most {
                    let empty = receiver.drain(most - all.len() as u64, &mut buffer, &mut messages).map_err(raise)?;
                    let mut begin = 0;
                    for (end, received) in messages.drain(..) {
                        match to_python(py, &buffer[begin..end], received.form) {
                            Err(error) if is_spoilt(&error) => receiver.spoilt(),
                            made => all.push(made?),
                        }
                        begin = end;
                    }
                    if empty {
                        self.found_empty();
                        break;
                    }
                }
            }
            Receiving::Many(receiver) => {
                let mut most = None;
                while let Some(message) = self.try_recv(py)? {
                    all.push(message);
                    // Which channels there are shows with the first message.
                    if all.len() as u64 >= *most.get_or_insert_with(|| receiver.capacity()) {
                        break;
                    }
                }
            }
        }
        Ok(all)
    }

    /// The next message; waits for it without holding the interpreter.
    #[pyo3(signature = (timeout=None))]
    fn recv<'py>(slf: &Bound<'py, Self>, timeout: Option<Arg<Timeout>>) -> PyResult<Bound<'py, PyAny>> {
        let message = Handle::wait(slf, timeout, |handle| handle.try_recv(slf.py()))?;
        message.ok_or_else(|| channel_closed(slf.py(), slf.get().channel_name()))
    }

    /// As `recv`, with the channel's name and the id.
    #[pyo3(signature = (timeout=None))]
    fn recv_message(slf: &Bound<'_, Self>, timeout: Option<Arg<Timeout>>) -> PyResult<Message> {
        let message = Handle::wait(slf, timeout, |handle| handle.try_recv_message(slf.py()))?;
        message.ok_or_else(|| channel_closed(slf.py(), slf.get().channel_name()))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Iteration ends with the channel, and when the handle is closed.
    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if slf.get().closed() {
            return Ok(None);
        }
        match Handle::wait(slf, None, |handle| handle.try_recv(slf.py())) {
            Err(_) if slf.get().closed() => Ok(None),
            other => other,
        }
    }

    /// A descriptor that is readable when there may be news, for any event loop: this thread's.
    fn fileno(&self) -> PyResult<i32> {
        if self.closed() {
            return Err(raise(core::Error::HandleClosed));
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let list = own_list(&*self.source())?;
        if let Some((watching, _)) = &*watched
            && Arc::ptr_eq(watching, &list)
        {
            return Ok(list.fileno());
        }
        if let Some((before, token)) = watched.take() {
            before.unpark(token);
        }
        let token = list.watch(&self.source()).map_err(raise)?;
        let descriptor = list.fileno();
        *watched = Some((list, token));
        self.is_watched.store(true, Ordering::Release);
        Ok(descriptor)
    }

    /// Closes the handle; a client's registration stays. Again is harmless.
    fn close(&self) -> PyResult<()> {
        if let Some((list, token)) = self.watched.lock().unwrap_or_else(PoisonError::into_inner).take() {
            list.unpark(token);
        }
        match &self.receiving {
            Receiving::One(receiver) => receiver.close(),
            Receiving::Many(receiver) => receiver.close(),
        }
        .map_err(raise)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close()
    }

    /// The channel's name, or the pattern.
    #[getter]
    pub fn channel_name(&self) -> &str {
        match &self.receiving {
            Receiving::One(receiver) => receiver.channel(),
            Receiving::Many(receiver) => receiver.pattern(),
        }
    }

    /// The id of the last message received, or of the last before the first; None: a pattern has none.
    #[getter]
    fn last_event_id(&self) -> Option<String> {
        self.one().map(|receiver| receiver.last_id().to_string())
    }

    /// Messages received.
    #[getter]
    pub fn received_count(&self) -> u64 {
        match &self.receiving {
            Receiving::One(receiver) => receiver.received(),
            Receiving::Many(receiver) => receiver.received(),
        }
    }

    /// Will nothing come any more: removed, unsubscribed or closed, and all that was left received?
    #[getter]
    fn ended(&self) -> PyResult<bool> {
        match &self.receiving {
            Receiving::One(receiver) => receiver.is_ended().map_err(raise),
            Receiving::Many(receiver) => Ok(receiver.is_closed()),
        }
    }

    /// Was it closed?
    #[getter]
    fn closed(&self) -> bool {
        match &self.receiving {
            Receiving::One(receiver) => receiver.is_closed(),
            Receiving::Many(receiver) => receiver.is_closed(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some((list, token)) = self.watched.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            list.unpark(token);
        }
    }
}

/// What a wait gives to who waits. A daemon thread whose program has ended goes with the process, and has nobody to
/// complain to that its segment was closed.
pub fn waited<R>(py: Python<'_>, result: PyResult<R>) -> PyResult<R> {
    if result.is_err() && is_left_over() {
        py.detach(|| {
            loop {
                std::thread::park();
            }
        });
    }
    result
}

/// Waits until there may be news of what `owner` is the handle of; False: the time is over. Where gevent has
/// patched the interpreter, only this greenlet waits.
pub fn wait_for_news(owner: &Bound<'_, PyAny>, source: &Arc<dyn core::Source>, deadline: Option<Instant>) -> PyResult<bool> {
    let py = owner.py();
    if let Some(monkey) = gevent(py)? {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64());
        return monkey.call_method1("wait", (owner, left))?.extract();
    }
    loop {
        let parked = py.detach(|| core::park(source.as_ref(), deadline));
        match parked.map_err(raise)? {
            core::Parked::News => return Ok(true),
            core::Parked::TimedOut => return Ok(false),
            core::Parked::Pause => py.check_signals()?,
        }
    }
}

/// Our module for greenlets, if gevent has patched this process.
fn gevent(py: Python<'_>) -> PyResult<Option<Bound<'_, PyModule>>> {
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    let Some(monkey) = modules.get_item("gevent.monkey")? else {
        return Ok(None);
    };
    let patched: bool = monkey.call_method1("is_module_patched", ("socket",))?.extract()?;
    if patched { Ok(Some(py.import("hypern_realtime_shm._greenlets")?)) } else { Ok(None) }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Message>()?;
    m.add_class::<Handle>()
}
