//! Locks, and what a name stands for at a moment.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, inotify};
use rustix::io::Errno;

use super::step;
use crate::error::Failed;

/// What distinguishes a file from one of the same name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

/// What a file with a name is at a moment. Another one, or the same one written to, differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    identity: Identity,
    changed: (i64, i64),
}

/// Locks a file for this open file alone, until it is closed, which the kernel does when the process dies. `false` when
/// another has locked it.
pub(crate) fn try_lock(file: &File, path: &Path) -> Result<bool, Failed> {
    lock_with(file, path, FlockOperation::NonBlockingLockExclusive)
}

/// The same for as many as only look. Two that look at the same time are not in each other's way.
pub(crate) fn try_lock_shared(file: &File, path: &Path) -> Result<bool, Failed> {
    lock_with(file, path, FlockOperation::NonBlockingLockShared)
}

fn lock_with(file: &File, path: &Path, operation: FlockOperation) -> Result<bool, Failed> {
    match step().and_then(|()| flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(Failed::new("lock", path, errno)),
    }
}

pub(crate) fn unlock(file: &File) {
    if step().is_ok() {
        // It cannot fail on a file that is open, and closing the file unlocks it too.
        let _ = flock(file, FlockOperation::Unlock);
    }
}

/// Which file has this name; `None` when there is none.
pub(crate) fn identity_at(path: &Path) -> Result<Option<Identity>, Failed> {
    let failed = |error| Failed::new("look at", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(Identity { device: found.dev(), inode: found.ino() })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Which directory has this name, perhaps through a symbolic link; `None` when there is none.
pub(crate) fn directory_identity_at(path: &Path) -> Result<Option<Identity>, Failed> {
    let failed = |error| Failed::new("look at", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    match fs::metadata(path) {
        Ok(found) => Ok(Some(Identity { device: found.dev(), inode: found.ino() })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn identity(file: &File, path: &Path) -> Result<Identity, Failed> {
    let failed = |error| Failed::new("look at", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    let found = file.metadata().map_err(failed)?;
    Ok(Identity { device: found.dev(), inode: found.ino() })
}

/// The file with this name; `None` when there is none, or it is being removed.
pub(crate) fn stamp_at(path: &Path) -> Result<Option<Stamp>, Failed> {
    let failed = |error| Failed::new("look at", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    match fs::symlink_metadata(path) {
        Ok(found) => {
            let identity = Identity { device: found.dev(), inode: found.ino() };
            let stamp = Stamp { identity, changed: (found.ctime(), found.ctime_nsec()) };
            Ok((found.nlink() > 0).then_some(stamp))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// An instance of inotify.
pub(crate) fn notices() -> Result<OwnedFd, Errno> {
    step()?;
    inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
}

/// Watches a file or directory, and returns the watch's number.
pub(crate) fn watch(notices: &OwnedFd, path: &Path, events: inotify::WatchFlags) -> Result<i32, Errno> {
    step()?;
    inotify::add_watch(notices, path, events)
}

/// The number of the file system that holds a directory.
pub(crate) fn file_system(path: &Path) -> Result<u64, Failed> {
    let failed = |error: Errno| Failed::new("look at the file system of", path, error);
    step().map_err(failed)?;
    #[cfg(test)]
    if let Some(number) = super::test::pretended_file_system() {
        return Ok(number);
    }
    // The field's type differs by architecture; the numbers have 32 bits.
    let number = rustix::fs::statfs(path).map_err(failed)?.f_type;
    Ok(number as u64 & 0xffff_ffff)
}
