//! Forks: how a child learns that it is one, and how it lets go of what it must not keep.
//!
//! A child made by `fork` runs our `pthread_atfork` handler, which at once puts a new open file
//! description in the place of every guarded descriptor: the parent's locks then die with the parent
//! even where the child never uses the library. A child made by a raw `clone` runs no handler; it
//! notices by a page that the kernel wipes on fork, at its first use. A descriptor that somebody closed
//! (a daemoniser closes all it finds) is noticed by what its number leads to, and left alone.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use super::kept::Identity;
use super::lock::Lock;

/// The page that the kernel wipes in a child; null until `token` first asks.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// Counts processes of this family down every branch; inherited, never wiped.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// All guarded descriptors: nodes are never freed, so the handler may walk them at any time.
static NODES: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());

/// Held by who replaces descriptors in a child whose handler did not run.
static REPLACING: Lock<()> = Lock::new(());

/// A guarded descriptor; -1: none or lost.
struct Node {
    descriptor: AtomicI32,
    /// What the descriptor led to when it was guarded.
    device: AtomicU64,
    inode: AtomicU64,
    token: AtomicU64,
    used: AtomicBool,
    next: AtomicPtr<Node>,
}

impl Node {
    /// The descriptor, if it still leads where it did. Async-signal-safe.
    fn intact(&self) -> Option<RawFd> {
        let descriptor = self.descriptor.load(Ordering::Acquire);
        if descriptor < 0 {
            return None;
        }
        // SAFETY: borrowed for one `fstat`, which asks what the number leads to, and takes any.
        let leads_to = Identity::of(unsafe { BorrowedFd::borrow_raw(descriptor) })?;
        let led_to = Identity { device: self.device.load(Ordering::Acquire), inode: self.inode.load(Ordering::Acquire) };
        (leads_to == led_to).then_some(descriptor)
    }

    fn put(&self, file: File, token: u64) {
        // What leads nowhere is equal to no file.
        let identity = Identity::of(&file).unwrap_or(Identity { device: u64::MAX, inode: u64::MAX });
        self.device.store(identity.device, Ordering::Release);
        self.inode.store(identity.inode, Ordering::Release);
        self.token.store(token, Ordering::Release);
        self.descriptor.store(file.into_raw_fd(), Ordering::Release);
    }
}

/// Where the token stands: a page of its own that is zeroed in every child.
#[cold]
fn page() -> &'static AtomicU64 {
    let present = PAGE.load(Ordering::Acquire);
    if !present.is_null() {
        // SAFETY: PAGE only ever holds null or a page that is never unmapped.
        return unsafe { &*present };
    }
    // SAFETY: asks for a fresh anonymous page at an address of the kernel's choice, and has it wiped in
    // children; on failure a leaked, unwiped word serves, and only raw clones go unnoticed.
    let fresh = unsafe {
        let size = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            Box::into_raw(Box::new(AtomicU64::new(0)))
        } else {
            libc::madvise(page, size, libc::MADV_WIPEONFORK);
            page.cast::<AtomicU64>()
        }
    };
    match PAGE.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // SAFETY: the handlers are async-signal-safe: atomics, open and close only.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            // SAFETY: as above; `fresh` is now the page.
            unsafe { &*fresh }
        }
        // Another thread was first; the spare page stays mapped, one page once.
        // SAFETY: as above.
        Err(present) => unsafe { &*present },
    }
}

/// A number that differs between this process and every process it was forked from, however the fork
/// was made. Never 0.
#[inline(always)]
pub fn token() -> u64 {
    let present = PAGE.load(Ordering::Acquire);
    if !present.is_null() {
        // SAFETY: PAGE only ever holds null or a page that is never unmapped.
        let token = unsafe { (*present).load(Ordering::Relaxed) };
        if token != 0 {
            return token;
        }
    }
    new_token()
}

#[cold]
fn new_token() -> u64 {
    let page = page();
    // The pid makes siblings differ, the generation a child from its ancestors.
    let generation = GENERATION.fetch_add(1, Ordering::AcqRel) + 1;
    let token = generation << 32 | u64::from(std::process::id());
    match page.compare_exchange(0, token, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => token,
        Err(token) => token,
    }
}

/// Runs in a forked child before anything else of it: async-signal-safe work only.
extern "C" fn in_child() {
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: as in `token`. Where the page could not be wiped by the kernel, this does it.
        unsafe { (*page).store(0, Ordering::Release) };
    }
    let token = new_token();
    let mut node = NODES.load(Ordering::Acquire);
    while !node.is_null() {
        // SAFETY: nodes are leaked boxes, never freed.
        let this = unsafe { &*node };
        replace(this, token);
        node = this.next.load(Ordering::Acquire);
    }
}

/// Puts a new open file description in the place of an inherited descriptor. Async-signal-safe.
fn replace(node: &Node, token: u64) {
    let Some(inherited) = node.intact() else {
        node.descriptor.store(-1, Ordering::Release);
        node.token.store(token, Ordering::Release);
        return;
    };
    let mut path = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut digits = [0_u8; 10];
    let (mut count, mut rest) = (0, inherited as u32);
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for (index, digit) in digits[..count].iter().rev().enumerate() {
        path[14 + index] = *digit;
    }
    // SAFETY: a NUL-terminated path; open, fcntl and close are async-signal-safe. The inherited descriptor
    // leads to the guarded file, so it is ours to close.
    let fresh = unsafe {
        let fresh = libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_CLOEXEC);
        libc::close(inherited);
        match fresh {
            // Not among the standard ones: see `above_standard`.
            0..=2 => {
                let above = libc::fcntl(fresh, libc::F_DUPFD_CLOEXEC, 3);
                libc::close(fresh);
                above
            }
            _ => fresh,
        }
    };
    node.descriptor.store(fresh, Ordering::Release);
    node.token.store(token, Ordering::Release);
}

/// A descriptor that a forked child does not share with its parent.
pub struct Guarded(&'static Node);

/// The descriptor as a file, for as long as the guard is borrowed. Does not close it.
pub struct Borrowed<'g>(ManuallyDrop<File>, std::marker::PhantomData<&'g Guarded>);

impl Deref for Borrowed<'_> {
    type Target = File;
    fn deref(&self) -> &File {
        &self.0
    }
}

impl Guarded {
    /// Guards a descriptor.
    pub fn new(file: File) -> Guarded {
        let token = token();
        let mut node = NODES.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: nodes are leaked boxes, never freed.
            let this: &'static Node = unsafe { &*node };
            if this.used.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                this.put(file, token);
                return Guarded(this);
            }
            node = this.next.load(Ordering::Acquire);
        }
        let fresh = Box::into_raw(Box::new(Node {
            descriptor: AtomicI32::new(-1),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            token: AtomicU64::new(token),
            used: AtomicBool::new(true),
            next: AtomicPtr::new(std::ptr::null_mut()),
        }));
        // SAFETY: just leaked, never freed.
        unsafe { (*fresh).put(file, token) };
        let mut head = NODES.load(Ordering::Acquire);
        loop {
            // SAFETY: just leaked, never freed.
            unsafe { (*fresh).next.store(head, Ordering::Release) };
            match NODES.compare_exchange(head, fresh, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: leaked just above, never freed.
                Ok(_) => return Guarded(unsafe { &*fresh }),
                Err(now) => head = now,
            }
        }
    }

    /// The descriptor; in a child whose handler did not run, replaced at this moment. `None`: it is lost, closed
    /// by somebody else.
    pub fn file(&self) -> Option<Borrowed<'_>> {
        let token = token();
        if self.0.token.load(Ordering::Acquire) != token {
            // One thread at a time: no other may meanwhile use, or lock anything with, what is the parent's.
            let _turn = REPLACING.lock();
            if self.0.token.load(Ordering::Acquire) != token {
                replace(self.0, token);
            }
        }
        let descriptor = self.0.intact()?;
        // SAFETY: the descriptor is open and ours as long as the guard lives, and is not closed here.
        let file = unsafe { File::from_raw_fd(descriptor) };
        Some(Borrowed(ManuallyDrop::new(file), std::marker::PhantomData))
    }

    /// Puts the same file, opened again, in the place of a lost descriptor.
    pub fn restore(&self, file: File) {
        self.0.put(file, token());
    }

    /// Is it the file that the descriptor led to?
    pub fn is_same(&self, file: &File) -> bool {
        let led_to = Identity { device: self.0.device.load(Ordering::Acquire), inode: self.0.inode.load(Ordering::Acquire) };
        Identity::of(file) == Some(led_to)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(descriptor) = self.0.intact() {
            // SAFETY: it is open, ours, and no borrow of the guard is left.
            drop(unsafe { File::from_raw_fd(descriptor) });
        }
        self.0.descriptor.store(-1, Ordering::Release);
        self.0.used.store(false, Ordering::Release);
    }
}
