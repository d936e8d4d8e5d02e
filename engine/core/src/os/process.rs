//! Processes: who we are, and whether a process that wrote down who it is can still be seen.

/// What identifies a process on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id in its own namespace.
    pub pid: u32,
    /// Clock ticks since boot; tells one use of a pid from the next.
    pub start_time: u64,
    /// Inode of its pid namespace; 0: unknown.
    pub pid_namespace: u64,
}

/// What can be seen of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// It runs, sleeps or is stopped.
    Running,
    /// There is no such process any more, or it is a zombie.
    Gone,
    /// It is in another pid namespace, or /proc cannot be read.
    Unknown,
}

fn namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// State letter and start time from the text of a `stat` file. The name in parentheses may hold
/// anything, parentheses too, so the fields are counted from the last one.
fn parse(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `stat` counts from 1 with the state as field 3; the start time is field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// This process.
pub fn current() -> Identity {
    let start = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse(&stat));
    Identity { pid: std::process::id(), start_time: start.map_or(0, |(_, start)| start), pid_namespace: namespace() }
}

/// Is any other thread of a process whose first thread has ended still there?
fn has_living_thread(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().any(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat"));
        stat.ok().and_then(|stat| parse(&stat)).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X' | 'x'))
    })
}

/// The letter by which the kernel says what a process is doing (proc(5)): R, S, D, T … `None`: it cannot be seen.
pub fn activity(identity: &Identity) -> Option<char> {
    if visible(identity) != Visible::Running {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", identity.pid)).ok()?;
    parse(&stat).filter(|&(_, start)| start == identity.start_time).map(|(state, _)| state)
}

/// The command line of a process that can be seen, at most so many bytes of it.
pub fn command(identity: &Identity, most: usize) -> Option<String> {
    if visible(identity) != Visible::Running {
        return None;
    }
    let words = std::fs::read(format!("/proc/{}/cmdline", identity.pid)).ok()?;
    let words = &words[..words.len().min(most)];
    Some(String::from_utf8_lossy(words).split('\0').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

/// What can be seen of a process.
pub fn visible(identity: &Identity) -> Visible {
    if identity.start_time == 0 || identity.pid_namespace == 0 || identity.pid_namespace != namespace() {
        return Visible::Unknown;
    }
    let stat = match std::fs::read_to_string(format!("/proc/{}/stat", identity.pid)) {
        Ok(stat) => stat,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Visible::Gone,
        // ESRCH: it went while we read.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Visible::Gone,
        Err(_) => return Visible::Unknown,
    };
    match parse(&stat) {
        Some((_, start)) if start != identity.start_time => Visible::Gone,
        Some(('Z' | 'X' | 'x', _)) if !has_living_thread(identity.pid) => Visible::Gone,
        Some(_) => Visible::Running,
        None => Visible::Unknown,
    }
}

/// Stops the process with this thread at this very place. A signal to the process could be taken by another
/// thread, while this one runs on for a while.
#[cfg(crash_points)]
pub fn stop_here() {
    // SAFETY: `raise` takes any signal; this one has no handler that could run here.
    let raised = unsafe { libc::raise(libc::SIGSTOP) };
    assert_eq!(raised, 0, "a thread may signal itself");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_confuse_the_parser() {
        let stat = "7 (a) S 1 (x) R) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse(stat), Some(('Z', 12345)));
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_child_runs_then_is_a_zombie_then_gone() {
        let me = current();
        assert_eq!(visible(&me), Visible::Running);
        assert_eq!(visible(&Identity { start_time: me.start_time + 1, ..me }), Visible::Gone);
        assert_eq!(visible(&Identity { pid_namespace: me.pid_namespace + 1, ..me }), Visible::Unknown);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let identity = Identity { pid: child.id(), start_time: parse(&stat).unwrap().1, ..me };
        assert_eq!(visible(&identity), Visible::Running);
        child.kill().unwrap();
        for _ in 0..1000 {
            if visible(&identity) == Visible::Gone {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(visible(&identity), Visible::Gone, "a zombie is gone");
        child.wait().unwrap();
        assert_eq!(visible(&identity), Visible::Gone);
    }
}
