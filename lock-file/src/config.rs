//! Where the queues are kept.

use std::path::PathBuf;
use std::time::Duration;

use lock_core::url::BackendUrl;
use lock_core::{Error, Result};

const MIN_TTL: Duration = Duration::from_millis(100);
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Settings of a [`Files`](crate::Files) backend.
///
/// # Examples
/// ```
/// use lock_file::{Access, Config, Files};
///
/// let mut config = Config::new("/var/lib/app/locks");
/// config.access = Access::Group;
/// let files = Files::new(config)?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The directory that holds the queues, created when missing; one that holds other files is refused. On a file system of
    /// this host that outlives a reboot if tokens are to grow across it, and out of reach of programs that delete old
    /// files, as some do in `/tmp`.
    pub directory: PathBuf,
    /// How long a guard stays valid when the directory cannot be read, as with a disk that hangs, or when the process or the
    /// machine is stopped; 10 s by default, 100 ms to 1 h. Requests take at most a third of it, and 5 s. Too short, and a
    /// busy disk costs a lock. A long one costs nothing: a dead process is noticed at once whatever this says.
    pub ttl: Duration,
    /// Who may use the files that this process creates.
    pub access: Access,
}

/// Who may use the store.
///
/// # Examples
/// ```
/// use lock_file::{Access, Config};
///
/// assert_eq!(Config::from_url("file:///var/lib/app/locks")?.access, Access::Owner);
/// assert_eq!(Config::from_url("file:///var/lib/app/locks?access=group")?.access, Access::Group);
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Processes of one user, who owns the directory: directories have mode 0700, files 0600.
    #[default]
    Owner,
    /// Processes of one group, the directory's: directories have mode 2770, files 0660. All of them set this. A directory
    /// that is in use has that mode already.
    Group,
}

impl Access {
    pub(crate) fn directory_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o2770,
        }
    }

    pub(crate) fn file_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }
}

impl Config {
    /// The defaults for this directory. A relative path is taken from the present working directory.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// use lock_file::{Access, Config};
    ///
    /// let config = Config::new("/var/lib/app/locks");
    /// assert_eq!((config.ttl, config.access), (Duration::from_secs(10), Access::Owner));
    /// ```
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ttl: Duration::from_secs(10), access: Access::default() }
    }

    /// Reads `file:///directory[?parameter=value…]`. Parameters: `ttl` and `access` (`owner` or `group`).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong.
    ///
    /// # Examples
    /// ```
    /// # use lock_file::Config;
    /// let config = Config::from_url("file:///var/lib/my%20app/locks?ttl=1m")?;
    /// assert_eq!(config.directory.to_str(), Some("/var/lib/my app/locks"));
    /// assert!(Config::from_url("file:///var/lib/app/locks?ttl=60").is_err(), "60 what?");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        let mut url = BackendUrl::parse_local(url, "file")?;
        let mut config = Self::new(format!("/{}", url.path));
        if let Some(ttl) = url.take_duration("ttl")? {
            config.ttl = ttl;
        }
        if let Some(access) = url.take("access") {
            config.access = match access.as_str() {
                "owner" => Access::Owner,
                "group" => Access::Group,
                _ => return Err(invalid("access", access, "owner or group")),
            };
        }
        url.finish()?;
        config.checked()
    }

    /// These settings with an absolute directory.
    pub(crate) fn checked(mut self) -> Result<Self> {
        if !(MIN_TTL..=MAX_TTL).contains(&self.ttl) {
            return Err(invalid("ttl", format!("{:?}", self.ttl), &format!("{MIN_TTL:?} to {MAX_TTL:?}")));
        }
        let shown = self.directory.display().to_string();
        if shown.contains('\0') {
            return Err(invalid("directory", shown, "a path without the character NUL"));
        }
        self.directory = std::path::absolute(&self.directory)
            .map_err(|error| invalid("directory", shown, &format!("a path that can be made absolute ({error})")))?;
        Ok(self)
    }
}

fn invalid(setting: &str, value: String, expected: &str) -> Error {
    Error::InvalidConfig { setting: setting.into(), value, expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_a_url_are_used() {
        let config = Config::from_url("file:///var/lib/my%20app/locks?ttl=1m&access=group").unwrap();
        assert_eq!(config.directory.to_str(), Some("/var/lib/my app/locks"));
        assert_eq!((config.ttl, config.access), (Duration::from_secs(60), Access::Group));
        let config = Config::from_url("file:///locks").unwrap();
        assert_eq!((config.ttl, config.access), (Duration::from_secs(10), Access::Owner));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (url, want) in [
            ("file://locks", "three slashes"),
            ("file:///l?ttl=0s", "ttl is \"0ns\", expected 100ms to 3600s"),
            ("file:///l?ttl=2h", "ttl"),
            ("file:///l?ttl=5", "\"5\""),
            ("file:///l?access=world", "access is \"world\", expected owner or group"),
            ("file:///l?acces=group", "acces"),
            ("file:///l%00", "NUL"),
        ] {
            let error = Config::from_url(url).unwrap_err().to_string();
            assert!(error.contains(want), "{url}: {error}");
        }
        assert!(Config::new("").checked().is_err());
    }

    #[test]
    fn a_relative_directory_does_not_move_with_the_process() {
        assert!(Config::new("locks").checked().unwrap().directory.is_absolute());
    }
}
