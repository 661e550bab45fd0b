//! Files and directories that change.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::step;
use crate::config::Access;
use crate::error::Failed;

/// More than the largest value has; what is longer was not written by this library.
const MAX_READ: u64 = 1 << 20;

/// Makes a directory; `false` when there is one.
pub(crate) fn make_directory(path: &Path, access: Access) -> Result<bool, Failed> {
    let failed = |error| Failed::new("make the directory", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    match DirBuilder::new().mode(access.directory_mode()).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    share_directory(path, access).map(|()| true)
}

/// Gives the group its rights to a directory, which the process's umask has taken.
pub(crate) fn share_directory(path: &Path, access: Access) -> Result<(), Failed> {
    let failed = |error| Failed::new("share", path, error);
    if access == Access::Owner {
        return Ok(());
    }
    step().map_err(|errno| failed(errno.into()))?;
    fs::set_permissions(path, Permissions::from_mode(access.directory_mode())).map_err(failed)
}

/// Creates a file that must not exist, with this content. Leaves nothing behind when it fails, or says so.
pub(crate) fn create(path: &Path, access: Access, content: &[u8]) -> Result<File, Failed> {
    let file = create_empty(path, access)?;
    match write(&file, path, content) {
        Ok(()) => Ok(file),
        Err(failed) => match remove(path) {
            Ok(_) => Err(failed),
            Err(_) => Err(failed.halfway()),
        },
    }
}

pub(crate) fn create_empty(path: &Path, access: Access) -> Result<File, Failed> {
    let file = open_with(path, access, OpenOptions::new().read(true).write(true).create_new(true))?;
    share(&file, path, access).map(|()| file)
}

/// Opens a file for writing, empty; it may be there.
pub(crate) fn create_anew(path: &Path, access: Access) -> Result<File, Failed> {
    let file = open_with(path, access, OpenOptions::new().write(true).create(true).truncate(true))?;
    share(&file, path, access).map(|()| file)
}

/// Opens a file for reading and writing; `None` when there is none.
pub(crate) fn open_both(path: &Path, access: Access) -> Result<Option<File>, Failed> {
    match open_with(path, access, OpenOptions::new().read(true).write(true)) {
        Err(failed) if failed.is_missing() => Ok(None),
        opened => opened.map(Some),
    }
}

/// Opens a directory, to be locked.
pub(crate) fn open_directory(path: &Path) -> Result<File, Failed> {
    let failed = |error| Failed::new("open", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed()).open(path).map_err(failed)
}

/// Gives the group its rights, which the process's umask has taken.
fn share(file: &File, path: &Path, access: Access) -> Result<(), Failed> {
    let failed = |error| Failed::new("share", path, error);
    if access == Access::Owner {
        return Ok(());
    }
    step().map_err(|errno| failed(errno.into()))?;
    file.set_permissions(Permissions::from_mode(access.file_mode())).map_err(failed)
}

fn open_with(path: &Path, access: Access, options: &OpenOptions) -> Result<File, Failed> {
    let failed = |error| Failed::new("open", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    // Not through a symbolic link that somebody left there, and not waiting for a writer if it is a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = options.clone();
    let file = options.mode(access.file_mode()).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
    Ok(file)
}

/// Opens a file for reading; `None` when there is none.
pub(crate) fn open(path: &Path) -> Result<Option<File>, Failed> {
    let failed = |error| Failed::new("open", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn read(file: &File, path: &Path) -> Result<Vec<u8>, Failed> {
    let failed = |error| Failed::new("read", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    let mut content = Vec::new();
    file.take(MAX_READ).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// Reads the beginning of a file, as much as there is.
pub(crate) fn read_start(file: &File, path: &Path, buffer: &mut [u8]) -> Result<usize, Failed> {
    let failed = |error| Failed::new("read", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    file.read_at(buffer, 0).map_err(failed)
}

pub(crate) fn write(mut file: &File, path: &Path, content: &[u8]) -> Result<(), Failed> {
    let failed = |error| Failed::new("write", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    file.write_all(content).map_err(failed)
}

/// Replaces the beginning of a file. Kill or no kill, a few bytes are written whole.
pub(crate) fn write_start(file: &File, path: &Path, content: &[u8]) -> Result<(), Failed> {
    let failed = |error| Failed::new("write", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    file.write_all_at(content, 0).map_err(failed)
}

/// Waits until a file, or a directory's names, are on disk.
pub(crate) fn sync(file: &File, path: &Path) -> Result<(), Failed> {
    let failed = |error| Failed::new("flush", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    file.sync_all().map_err(failed)
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), Failed> {
    let failed = |error| Failed::new("flush", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Moves a file to a name, where it replaces another.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failed> {
    let failed = |error| Failed::new("replace", to, error);
    step().map_err(|errno| failed(errno.into()))?;
    fs::rename(from, to).map_err(failed)
}

/// Removes a file; `false` when there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, Failed> {
    let failed = |error| Failed::new("remove", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Removes a directory if it is empty and nothing is in the way.
pub(crate) fn remove_directory(path: &Path) {
    if step().is_ok() {
        let _ = fs::remove_dir(path);
    }
}

/// The names in a directory that are UTF-8, as all of this library's are; none when there is no directory.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, Failed> {
    let failed = |error| Failed::new("list", path, error);
    step().map_err(|errno| failed(errno.into()))?;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
