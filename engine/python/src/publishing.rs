//! Publishing to a channel by its name, which is most often the very object that named it the last time: a constant of the
//! program, or what a variable holds. Then neither its text is looked at nor the channel looked for. Per thread.

use std::cell::RefCell;

use hypern_shm_core as core;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::argument::{arg, named};
use crate::errors::{CHANNEL, raise, unknown_channel};

struct Memory {
    /// A name that was published to often, held so that no other object takes its place, and its channel.
    last: Option<(Py<PyAny>, core::Target)>,
    /// Where the last other name was, and how often on end, not counting those of that one.
    other: (usize, u32),
}

/// A name that comes so often on end is remembered. One made for each call anew may be where the one before was, and is not worth it.
const OFTEN: u32 = 8;

impl Memory {
    /// Does another name than the last come often, now that it came once more?
    fn is_often(&mut self, address: usize) -> bool {
        let (other, times) = &mut self.other;
        *times = if *other == address { times.wrapping_add(1) } else { 1 };
        *other = address;
        (*times).is_multiple_of(OFTEN)
    }
}

thread_local! {
    static MEMORY: RefCell<Memory> = const { RefCell::new(Memory { last: None, other: (0, 0) }) };
}

/// Publishes; returns how many handles are open. `argument`: what the name is called, should it be no `str`.
#[inline]
pub fn publish(channels: &core::Channels, name: &Bound<'_, PyAny>, argument: &str, payload: &[u8], form: core::Form) -> PyResult<u64> {
    // Nothing in here runs Python.
    let published = MEMORY.with_borrow_mut(|memory| match &mut memory.last {
        Some((last, target)) if last.is(name) => channels.publish_to(target, payload, form),
        _ => Ok(None),
    });
    match published {
        Ok(Some(heard)) => Ok(heard),
        Ok(None) => by_text(channels, name, argument, payload, form),
        Err(error) => Err(raise(error)),
    }
}

/// By a name that is not the object remembered, or names another channel now.
#[inline(never)]
fn by_text(channels: &core::Channels, name: &Bound<'_, PyAny>, argument: &str, payload: &[u8], form: core::Form) -> PyResult<u64> {
    let text: &str = arg(name).map_err(|error| named(name.py(), error, argument))?;
    let Some(heard) = channels.publish(text, payload, form).map_err(raise)? else {
        MEMORY.with_borrow_mut(|memory| memory.last.take_if(|(last, _)| last.is(name)));
        return Err(unknown_channel(name.py(), CHANNEL, text));
    };
    let is_often = MEMORY.with_borrow_mut(|memory| memory.is_often(name.as_ptr() as usize));
    // No subclass's: it may hold what others want to see freed, and run what it likes when it is.
    if is_often
        && name.is_exact_instance_of::<PyString>()
        && let Some(target) = channels.target(text).map_err(raise)?
    {
        MEMORY.with_borrow_mut(|memory| memory.last = Some((name.clone().unbind(), target)));
    }
    Ok(heard)
}
