//! The terminal: which group of processes has it, and what follows from that.

use std::fs::File;
use std::io;

use rustix::fs::{FileType, fstat};
use rustix::process::{Pid, getpgrp, getppid, getsid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::run::signals::block_terminal_output;
use crate::run::tree;

/// The terminal that controls this process.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: File,
    own: Pid,
}

impl Terminal {
    /// `None` when there is none, as in a job of cron.
    pub(crate) fn open() -> Option<Self> {
        let file = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { file, own: getpgrp() })
    }

    /// Whether the group of this process has the terminal.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_with(self.own)
    }

    /// Whether this group has it.
    pub(crate) fn is_with(&self, group: Pid) -> bool {
        tcgetpgrp(&self.file).is_ok_and(|foreground| foreground == group)
    }

    /// Gives it from this group to another one. A group that is gone cannot take it.
    pub(crate) fn give(&self, group: Pid) {
        if self.is_ours() {
            let _ = tcsetpgrp(&self.file, group);
        }
    }

    /// Takes it back from another group.
    pub(crate) fn take_back(&self, group: Pid) {
        if self.is_with(group) {
            let _ = tcsetpgrp(&self.file, self.own);
        }
    }
}

/// Whether this process is a part of a pipeline, whose other parts may want the terminal.
pub(crate) fn in_pipeline() -> bool {
    let is_pipe = |stat: rustix::io::Result<rustix::fs::Stat>| {
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
    };
    is_pipe(fstat(io::stdin())) || is_pipe(fstat(io::stdout()))
}

/// Takes the terminal for the group of this process, which is about to become the command. Without success, it asks for the
/// terminal when it needs it.
pub(crate) fn take_for_this_group() {
    if block_terminal_output().is_ok()
        && let Some(terminal) = Terminal::open()
    {
        let _ = tcsetpgrp(&terminal.file, terminal.own);
    }
}

/// Whether nobody is there who would let a stopped group of this process go on: no ancestor in another group of this session.
pub(crate) fn is_orphaned() -> bool {
    let (group, Ok(session)) = (getpgrp(), getsid(None)) else { return true };
    let mut ancestor = getppid();
    while let Some(pid) = ancestor {
        let Some((parent, its_group)) = tree::parent_and_group(pid) else { return true };
        if its_group != group.as_raw_nonzero().get() {
            return getsid(Some(pid)) != Ok(session);
        }
        ancestor = parent;
    }
    true
}
