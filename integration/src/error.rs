//! What can go wrong with a fixture.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A fixture failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be run at all.
    #[error("cannot run {program}; install it, or name it with the environment variable that the crate's docs list")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("{name} ended by itself with {status}; the end of its log:\n{log}")]
    Exited {
        /// The server.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A condition did not come true in time.
    #[error("waited {limit:?} in vain for {what}{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// The end of the log of the server concerned, or empty.
        log: String,
    },
    /// A command-line tool reported failure.
    #[error("`{command}` failed with {status}:\n{stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// A server or tool answered something that the fixture does not understand.
    #[error("cannot read the answer of {from}: {answer}")]
    Answer {
        /// Who answered.
        from: String,
        /// The answer.
        answer: String,
    },
    /// No free port was found.
    #[error("no free loopback port among {tried} candidates")]
    NoPort {
        /// How many were tried.
        tried: usize,
    },
    /// The server is not running.
    #[error("{name} is not running; restart it first")]
    NotRunning {
        /// The server.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The operator's ZooKeeper session failed.
    #[error("the operator's ZooKeeper session cannot {action}")]
    ZooKeeper {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: zookeeper_client::Error,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether a server did not start because a program outside the fixtures took its port.
    pub(crate) fn is_port_taken(&self) -> bool {
        let (Self::Exited { log, .. } | Self::Timeout { log, .. }) = self else { return false };
        log.to_ascii_lowercase().contains("address already in use")
    }
}

// A test that unwraps prints Debug, which would show the log as one line full of `\n`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
