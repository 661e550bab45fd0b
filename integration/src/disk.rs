//! A disk that can be frozen.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Error, Result};

/// A small ext4 file system on a loop device. Frozen, it lets every write wait: a disk that hangs without failing.
///
/// Making one takes root, or `sudo` without a password.
#[derive(Debug)]
pub struct Disk {
    mount: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// Makes and mounts one of 200 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with what `mkfs.ext4` or `mount` complains about.
    pub fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lock-disk-").tempdir();
        let dir = dir.map_err(Error::io("make a directory for a disk"))?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        let file = std::fs::File::create(&image).map_err(Error::io("make the image of a disk"))?;
        file.set_len(200 << 20).map_err(Error::io("make the image of a disk"))?;
        std::fs::create_dir(&mount).map_err(Error::io("make a mount point"))?;
        run("mkfs.ext4", &["-q", "-F"], &image)?;
        let disk = Self { mount, _dir: dir };
        run("mount", &["-o", "loop", "-t", "ext4", &image.display().to_string()], &disk.mount)?;
        run("chmod", &["777"], &disk.mount)?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Lets every write wait from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with what `fsfreeze` complains about.
    pub fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["--freeze"], &self.mount)
    }

    /// Lets writes go on.
    ///
    /// # Errors
    ///
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["--unfreeze"], &self.mount)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may not be frozen, or not even mounted; a process that still writes to it keeps it until it ends.
        let _ = self.thaw();
        let _ = run("umount", &["--lazy"], &self.mount);
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { program } else { "sudo" });
    if !root {
        command.args(["--non-interactive", program]);
    }
    // Debian keeps them out of the users' PATH.
    let path_variable = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.env("PATH", path_variable).args(args).arg(path);
    let output = command.output().map_err(|source| Error::Spawn { program: program.into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("{program} {} {}", args.join(" "), path.display()),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
