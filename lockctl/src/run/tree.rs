//! The processes that a process has started, and those that they have started.
//!
//! Whoever is their subreaper is the parent of those whose own parent has ended, so nobody gets out of this tree. A look
//! at it is not one moment: what was started meanwhile is seen by the next look.

use std::collections::HashSet;
use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    parent: i32,
    pub(crate) group: i32,
    /// When it was started. With the pid, unlike any other process.
    start: u64,
    dead: bool,
}

impl Process {
    fn read(pid: &str) -> Option<Self> {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether both are one process, whatever has become of it.
    fn is(&self, other: &Self) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }

    /// Sends a signal to this process and to no other that got its pid meanwhile.
    pub(crate) fn signal(&self, signal: Signal) {
        let Ok(handle) = pidfd_open(self.pid, PidfdFlags::empty()) else { return };
        let is_same = Self::read(&self.pid.as_raw_nonzero().to_string()).is_some_and(|now| now.is(self));
        if is_same {
            // Ended meanwhile, or another user's, who cannot be helped.
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

/// The parent of a process and its group.
pub(crate) fn parent_and_group(pid: Pid) -> Option<(Option<Pid>, i32)> {
    Process::read(&pid.as_raw_nonzero().to_string()).map(|process| (Pid::from_raw(process.parent), process.group))
}

/// All that a process has started and that is alive, itself left out.
///
/// # Errors
/// That `/proc` cannot be read.
pub(crate) fn below(root: Pid) -> io::Result<Vec<Process>> {
    below_but(root, &HashSet::new())
}

/// The same without these, and without what they have started.
///
/// # Errors
/// That `/proc` cannot be read.
pub(crate) fn below_but(root: Pid, others: &HashSet<Process>) -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        // Those that end meanwhile are gone.
        all.extend(pid.and_then(Process::read).filter(|process| !others.iter().any(|other| other.is(process))));
    }
    Ok(select(root, &all))
}

fn select(root: Pid, all: &[Process]) -> Vec<Process> {
    let mut inside = HashSet::from([root.as_raw_nonzero().get()]);
    loop {
        let before = inside.len();
        inside.extend(
            all.iter()
                .filter(|process| inside.contains(&process.parent))
                .map(|p| p.pid.as_raw_nonzero().get())
                .collect::<Vec<_>>(),
        );
        if inside.len() == before {
            break;
        }
    }
    let is_below = |process: &&Process| process.pid != root && inside.contains(&process.pid.as_raw_nonzero().get());
    all.iter().filter(is_below).filter(|process| !process.dead).copied().collect()
}

/// The fields of `/proc/PID/stat`: `pid (name) state ppid pgrp …`, of which the name may have anything in it.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?)?,
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        Process { pid: Pid::from_raw(pid).unwrap(), parent, group: pid, start: 1, dead: false }
    }

    #[test]
    fn a_name_cannot_disguise_a_process() {
        let stat = "42 (a) Z 1 (b)) S 7 42 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 8 9";
        let process = parse(stat).unwrap();
        assert_eq!((process.pid.as_raw_nonzero().get(), process.parent, process.group), (42, 7, 42));
        assert_eq!((process.start, process.dead), (123_456, false));
        for broken in ["", "42", "42 (a)", "42 (a) ", "42 (a) S 7", "0 (a) S 7 42 7"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_those_below_are_found_in_whatever_order() {
        let all = [process(9, 8), process(8, 2), process(2, 1), process(3, 1), process(4, 2), process(5, 3)];
        let found: Vec<i32> =
            select(Pid::from_raw(2).unwrap(), &all).iter().map(|p| p.pid.as_raw_nonzero().get()).collect();
        assert_eq!(found, [9, 8, 4]);
    }

    #[test]
    fn a_child_is_found_and_ends_by_a_signal() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = below(rustix::process::getpid()).unwrap();
        let process = *found.iter().find(|process| process.pid.as_raw_nonzero().get() == pid).unwrap();
        Process { start: process.start + 1, ..process }.signal(Signal::KILL);
        assert!(child.try_wait().unwrap().is_none(), "that was another process of the same pid");
        process.signal(Signal::KILL);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }
}
