//! From failed system calls to the errors of the contract.

use std::io;
use std::path::{Path, PathBuf};

use lock_core::{Error, Source};
use rustix::io::Errno;

/// A system call on one of the store's files that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub(crate) struct Failed {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
    /// A part of the change may stand all the same.
    unsure: bool,
}

/// No answer came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}: a process was stopped in the middle of a request, or the disk hangs")]
pub(crate) struct NoAnswer(pub(crate) std::time::Duration);

impl Failed {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.to_owned(), source: source.into(), unsure: false }
    }

    /// A failure after which a part of the change may stand.
    pub(crate) fn halfway(mut self) -> Self {
        self.unsure = true;
        self
    }

    pub(crate) fn is(&self, kind: io::ErrorKind) -> bool {
        self.source.kind() == kind
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.is(io::ErrorKind::NotFound)
    }

    /// A file was not opened because its name is a symbolic link.
    pub(crate) fn is_symbolic_link(&self) -> bool {
        self.errno() == Some(Errno::LOOP)
    }

    fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }

    /// The error of a request, by a white list: what is not on it leaves open whether the request was applied.
    pub(crate) fn classify(self, request: &'static str, store: &Path) -> Error {
        match self.errno() {
            _ if self.unsure => Error::unavailable(request, self),
            Some(Errno::ACCESS | Errno::PERM) => denied(store, self),
            Some(errno) if is_definite(errno) => Error::refused(request, self),
            None if matches!(self.source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Unsupported) => {
                Error::refused(request, self)
            }
            _ => Error::unavailable(request, self),
        }
    }
}

/// Whether the call had no effect and would have none if repeated.
fn is_definite(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::MLINK
            | Errno::FBIG
            | Errno::INVAL
            | Errno::OPNOTSUPP
    )
}

fn denied(store: &Path, failed: Failed) -> Error {
    Error::AccessDenied {
        endpoints: store.display().to_string(),
        who: format!("user {}", rustix::process::geteuid().as_raw()),
        what: failed.path.display().to_string(),
        source: Source::from(Box::<dyn std::error::Error + Send + Sync>::from(failed)),
    }
}

/// A directory that cannot be the store.
pub(crate) fn unsuitable(directory: &Path, expected: impl Into<String>) -> Error {
    Error::InvalidConfig {
        setting: "directory".into(),
        value: directory.display().to_string(),
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(errno: Errno) -> Error {
        Failed::new("create", Path::new("/locks/a/1"), errno).classify("enter the queue", Path::new("/locks"))
    }

    #[test]
    fn only_listed_failures_are_definite() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::NAMETOOLONG] {
            let error = classify(errno);
            assert!(matches!(error, Error::Refused { .. }) && !error.is_retryable(), "{error}");
        }
        for errno in [Errno::IO, Errno::NFILE, Errno::MFILE, Errno::NOMEM, Errno::INTR, Errno::NOENT, Errno::STALE] {
            assert!(matches!(classify(errno), Error::Unavailable { .. }), "{errno:?}");
        }
    }

    #[test]
    fn a_change_that_may_stand_in_part_is_not_refused() {
        let failed = Failed::new("write", Path::new("/locks/a/1"), Errno::NOSPC).halfway();
        assert!(matches!(failed.classify("enter the queue", Path::new("/locks")), Error::Unavailable { .. }));
    }

    #[test]
    fn a_missing_permission_names_the_user_and_the_file() {
        let text = classify(Errno::ACCESS).to_string();
        assert!(text.contains("user ") && text.contains("/locks/a/1"), "{text}");
    }
}
