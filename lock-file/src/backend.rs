//! Opens sessions in a directory.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lock_core::backend::{Backend, Session};
use lock_core::{Error, Result};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::{Access, Config};
use crate::error::{Failed, NoAnswer, unsuitable};
use crate::local;
use crate::names::is_own;
use crate::notices::Notices;
use crate::own::Own;
use crate::session::FileSession;
use crate::store::{Store, Transaction};
use crate::sys;

const OPEN: &str = "open a session";

/// How long a process may take to make a directory and then let the group use it.
const SHARING: Duration = Duration::from_millis(200);

/// For the opening of a session, which waits for the disk when it is the first.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// A directory of this host: the backend to give to `lock_core::Client::connect`.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::Client;
/// use lock_file::{Config, Files};
///
/// let directory = tempfile::tempdir().expect("a directory");
/// let files = || Files::new(Config::new(directory.path().join("locks"))); // in any process of this host
/// let (here, there) = (Client::connect(files()?).await?, Client::connect(files()?).await?);
/// let guard = here.mutex("nightly-backup")?.lock().await?;
/// assert!(there.mutex("nightly-backup")?.try_lock().await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    ttl: Duration,
    store: Arc<Store>,
}

impl Files {
    /// Checks the settings. Looks at no file yet.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the setting, its value and what is expected.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// use lock_file::{Config, Files};
    ///
    /// let mut config = Config::new("/var/lib/app/locks");
    /// config.ttl = Duration::from_secs(30);
    /// Files::new(config.clone())?;
    /// config.ttl = Duration::ZERO;
    /// assert!(Files::new(config).unwrap_err().to_string().starts_with(r#"ttl is "0ns", expected 100ms"#));
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn new(config: Config) -> Result<Self> {
        let Config { directory, ttl, access } = config.checked()?;
        Ok(Self { ttl, store: Arc::new(Store::new(directory, access)) })
    }

    /// As [`new`](Self::new) with the settings of a URL, see [`Config::from_url`].
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong.
    ///
    /// # Examples
    /// ```
    /// # use lock_file::Files;
    /// Files::from_url("file:///var/lib/app/locks?ttl=30s&access=group")?;
    /// assert!(Files::from_url("file:///var/lib/app/locks?tll=30s").is_err());
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        Self::new(Config::from_url(url)?)
    }

    fn unreachable(&self, error: Error) -> Error {
        match error {
            Error::Unavailable { source, .. } => {
                Error::Unreachable { endpoints: self.store.directory.display().to_string(), within: OPEN_LIMIT, source }
            }
            error => error,
        }
    }
}

#[async_trait]
impl Backend for Files {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let store = self.store.clone();
        let prepared = timeout(OPEN_LIMIT, spawn_blocking(move || prepare(&store.directory, store.access))).await;
        match prepared {
            Ok(Ok(prepared)) => prepared.map_err(|error| self.unreachable(error))?,
            Ok(Err(error)) => return Err(self.unreachable(Error::unavailable(OPEN, error))),
            Err(_) => return Err(self.unreachable(Error::unavailable(OPEN, NoAnswer(OPEN_LIMIT)))),
        }
        let owner = owner.to_vec();
        let open = move |store: &mut Transaction<'_>| store.open_session(&owner);
        let own: Own = self.store.run(OPEN, OPEN_LIMIT, open).await.map_err(|error| self.unreachable(error))?;
        let notices = Notices::open().inspect_err(|error| {
            tracing::warn!(%error, "no inotify, looking at the files instead; see fs.inotify.max_user_instances");
        });
        tracing::debug!(session = own.id, "session opened");
        Ok(Arc::new(FileSession::new(self.store.clone(), own, self.ttl, notices.ok())))
    }
}

/// What is wrong with a directory whose files this process would share with others: each must be able to read what the
/// others create.
fn wrong_owner(access: Access, (mode, owner): (u32, u32), user: u32) -> Option<String> {
    match access {
        Access::Owner if owner != user => Some(format!(
            "a directory of user {user}, who this process is; it is user {owner}'s. Run as that user, or let all use access=group"
        )),
        Access::Group if mode & 0o2070 != 0o2070 => {
            Some("a directory that its group can use and hand down; run chmod 2770 on it".into())
        }
        _ => None,
    }
}

/// Makes the directories that a store needs, and sees whether it can be one.
pub(crate) fn prepare(directory: &Path, access: Access) -> Result<()> {
    let in_the_way = "a directory; there is a file in its place, or in that of one above it";
    let in_use = "a directory that is empty or was a store before; this one holds other files, so name a new one in it";
    let failed = |failed: Failed| match failed {
        failed if failed.is(io::ErrorKind::NotADirectory) || failed.is(io::ErrorKind::AlreadyExists) => {
            unsuitable(directory, in_the_way)
        }
        failed if failed.is_missing() => unsuitable(directory, "a directory that can be made where it is"),
        failed => failed.classify(OPEN, directory),
    };
    // Before anything is made there.
    if let Some(existing) = directory.ancestors().find(|path| path.exists()) {
        local::check(existing)?;
    }
    if let Some(parent) = directory.parent()
        && let Err(error) = std::fs::create_dir_all(parent)
    {
        return Err(failed(Failed::new("make the directory", parent, error)));
    }
    sys::make_directory(directory, access).map_err(failed)?;
    if !directory.is_dir() {
        return Err(unsuitable(directory, in_the_way));
    }
    local::check(directory)?;
    let user = rustix::process::geteuid().as_raw();
    let look = || std::fs::metadata(directory).map_err(|error| failed(Failed::new("look at", directory, error)));
    let mut found = look()?;
    let names = sys::list(directory).map_err(failed)?;
    let is_new = names.is_empty();
    // Empty directories would be taken for those of queues, and removed.
    if !is_new && !names.iter().any(|name| is_own(name)) {
        return Err(unsuitable(directory, in_use));
    }
    let until = Instant::now() + SHARING;
    while is_new && wrong_owner(access, (found.mode(), found.uid()), user).is_some() && Instant::now() < until {
        // Somebody has made it this very moment, or died in between.
        if found.uid() == user {
            sys::share_directory(directory, access).map_err(failed)?;
        } else {
            std::thread::sleep(SHARING / 10);
        }
        found = look()?;
    }
    wrong_owner(access, (found.mode(), found.uid()), user)
        .map_or(Ok(()), |expected| Err(unsuitable(directory, expected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_where_a_store_cannot_be() {
        let parent = tempfile::tempdir().unwrap();
        sys::test::pretend_file_system(0x6969);
        let error = prepare(&parent.path().join("a/locks"), Access::Owner).unwrap_err();
        assert!(error.to_string().contains("NFS"), "{error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_whose_files_others_could_not_read_is_refused() {
        let wrong = |access, mode, owner, user| wrong_owner(access, (mode, owner), user);
        assert_eq!(wrong(Access::Owner, 0o40700, 1000, 1000), None);
        assert_eq!(wrong(Access::Group, 0o42770, 1000, 1001), None);
        let text = wrong(Access::Owner, 0o40777, 1000, 0).unwrap();
        assert!(text.contains("1000") && text.contains("access=group"), "{text}");
        for mode in [0o40770, 0o42700, 0o42750] {
            assert!(wrong(Access::Group, mode, 1000, 1000).unwrap().contains("2770"), "{mode:o}");
        }
    }
}
