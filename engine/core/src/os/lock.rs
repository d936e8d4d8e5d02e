//! A mutex for private state that a fork cannot leave locked for ever.
//!
//! A child made while another thread of its parent held the lock inherits it locked, with nobody to unlock it, and
//! with contents that may be half changed. The word says which process holds it; a holder that is another
//! process is such an inheritance. Who only looked (`try_look`) left the contents as they were; after anybody else
//! they begin anew from their default, the old ones neither read nor dropped. Sections are short: who waits spins, then sleeps a little.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fork::token;

/// Looks before a waiting thread lets others run, and sleeps.
const SPINS: u32 = 64;
const YIELDS: u32 = 80;
const NAP: Duration = Duration::from_micros(50);
/// In the word: the holder changes nothing. (A token's top bit is set after 2^31 generations of forks.)
const LOOKING: u64 = 1 << 63;

/// Private state that threads take turns with. Its default is what a forked child finds where another thread of
/// the parent was at it.
pub struct Lock<T> {
    /// The token of the process that holds it; 0: nobody.
    holder: AtomicU64,
    data: UnsafeCell<T>,
}

// SAFETY: the word lets one thread at a time at the data, which may move between threads.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T: Default> Default for Lock<T> {
    fn default() -> Lock<T> {
        Lock::new(T::default())
    }
}

impl<T> Lock<T> {
    /// Unlocked.
    pub const fn new(data: T) -> Lock<T> {
        Lock { holder: AtomicU64::new(0), data: UnsafeCell::new(data) }
    }
}

impl<T: Default> Lock<T> {
    /// The contents of what nobody else has any more, without a swap of the word. What a thread of the parent held when it
    /// forked is begun anew here, too.
    pub fn own(&mut self) -> &mut T {
        if *self.holder.get_mut() != 0 {
            drop(self.lock());
        }
        self.data.get_mut()
    }

    /// Without waiting; `None`: another thread has it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.take(0).then(|| Guard::of(self))
    }

    /// To look only, without waiting; `None`: another thread has it.
    #[inline]
    pub fn try_look(&self) -> Option<Look<'_, T>> {
        self.take(LOOKING).then(|| Look(Guard::of(self)))
    }

    #[inline]
    fn take(&self, how: u64) -> bool {
        let token = token() & !LOOKING;
        // SYNC lock (R): pairs with (W) in the guard's drop.
        match self.holder.compare_exchange(0, token | how, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => true,
            Err(holder) if holder & !LOOKING == token => false,
            Err(holder) => self.inherit(holder, token | how),
        }
    }

    #[cold]
    fn inherit(&self, holder: u64, new: u64) -> bool {
        let ours = self.holder.compare_exchange(holder, new, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if ours && holder & LOOKING == 0 {
            // SAFETY: the swap made us the only holder in this process; the thread that changed the data is not in
            // it. Overwritten without being dropped, half-changed contents are never looked at.
            unsafe { self.data.get().write(T::default()) };
        }
        ours
    }

    /// Waits for its turn.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        if !self.take(0) {
            self.wait(0);
        }
        Guard::of(self)
    }

    /// Waits for its turn, to look only: a child forked meanwhile finds everything as it was.
    #[inline]
    pub fn look(&self) -> Look<'_, T> {
        if !self.take(LOOKING) {
            self.wait(LOOKING);
        }
        Look(Guard::of(self))
    }

    #[cold]
    fn wait(&self, how: u64) {
        for turn in 0_u32.. {
            if self.take(how) {
                return;
            }
            match turn {
                0..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                _ => std::thread::sleep(NAP),
            }
        }
        unreachable!("2^32 naps")
    }
}

/// The turn at a lock's data.
pub struct Guard<'l, T> {
    lock: &'l Lock<T>,
    /// Shared between threads only where a `&mut T` may be.
    _data: PhantomData<&'l mut T>,
}

impl<'l, T> Guard<'l, T> {
    fn of(lock: &'l Lock<T>) -> Guard<'l, T> {
        Guard { lock, _data: PhantomData }
    }
}

/// The same, for who looks only.
pub struct Look<'l, T>(Guard<'l, T>);

impl<T> Deref for Look<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: a guard is made by who locked it, and unlocks when dropped.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SYNC lock (W): what was changed under it; pairs with (R) in `try_lock`.
        self.lock.holder.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time() {
        let lock = Lock::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 40_000);
        let guard = lock.lock();
        // Who is refused takes nothing away from who has it.
        for _ in 0..2 {
            assert!(lock.try_lock().is_none());
            assert!(lock.try_look().is_none());
        }
        drop(guard);
        let look = lock.try_look();
        for _ in 0..2 {
            assert!(lock.try_lock().is_none());
        }
        drop(look);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn what_another_process_holds_is_begun_anew() {
        let lock = Lock::new(vec![1, 2]);
        std::mem::forget(lock.lock());
        assert!(lock.try_lock().is_none());
        // As a child finds it.
        lock.holder.store(token() + 1, Ordering::Release);
        assert_eq!(*lock.lock(), Vec::<i32>::new());
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn who_has_it_alone_finds_what_a_turn_would_find() {
        let mut lock = Lock::new(vec![1]);
        lock.own().push(2);
        assert_eq!(*lock.lock(), [1, 2]);
        std::mem::forget(lock.look());
        lock.holder.store((token() + 1) | LOOKING, Ordering::Release);
        assert_eq!(*lock.own(), [1, 2]);
        std::mem::forget(lock.lock());
        lock.holder.store(token() + 1, Ordering::Release);
        assert_eq!(*lock.own(), Vec::<i32>::new());
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn what_another_process_only_looked_at_is_as_it_was() {
        let lock = Lock::new(vec![1, 2]);
        std::mem::forget(lock.look());
        assert!(lock.try_look().is_none());
        lock.holder.store((token() + 1) | LOOKING, Ordering::Release);
        assert_eq!(*lock.lock(), [1, 2]);
    }
}
