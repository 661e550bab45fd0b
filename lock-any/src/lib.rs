//! Any backend, chosen by a URL when the program runs.
//!
//! For programs that leave the store to whoever deploys them. A program that knows its store uses that store's crate, which
//! also has what only that store can do.
//!
//! | URL | store | feature |
//! |---|---|---|
//! | `memory` | this process ([`lock_core::memory`]) | |
//! | `file:///directory` | a directory of this host (`lock-file`); on Linux | |
//! | `etcd://host:2379/namespace`, `etcds://…` for TLS | etcd (`lock-etcd`) | `etcd` |
//! | `zk://host:2181/chroot`, `zks://…` for TLS | ZooKeeper (`lock-zk`) | `zk` |
//!
//! # Examples
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! use lock_any::{Settings, Store};
//! use lock_core::Client;
//!
//! let url = std::env::var("LOCKS").unwrap_or("memory".into());
//! let client = Client::connect(Store::new(&url, &Settings::default())?).await?;
//! let guard = client.mutex("nightly-backup")?.lock().await?;
//! guard.release().await;
//! # client.close().await; Ok(()) }
//! ```

mod settings;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lock_core::backend::{Backend, Session};
use lock_core::{Error, Result};

pub use settings::Settings;

const EXPECTED: &str =
    "memory, file:///directory, etcd://host:2379 (etcds:// for TLS) or zk://host:2181 (zks:// for TLS)";

/// A store of a kind that is known when the program runs. Clones share it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_any::{Settings, Store};
/// use lock_core::Client;
///
/// let store = Store::new("memory", &Settings::default())?;
/// let (here, there) = (Client::connect(store.clone()).await?, Client::connect(store).await?);
/// let guard = here.mutex("nightly-backup")?.lock().await?;
/// assert!(there.mutex("nightly-backup")?.try_lock().await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl Store {
    /// The store that `url` names, with settings that are given apart from it. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for what cannot be used, was given twice, or was not built in.
    ///
    /// # Examples
    /// ```
    /// use lock_any::{Settings, Store};
    ///
    /// assert!(Store::new("memory", &Settings::default()).is_ok());
    /// let error = Store::new("redis://app:secret@h", &Settings::default()).unwrap_err().to_string();
    /// assert!(error.contains("etcd://host:2379") && !error.contains("secret"));
    /// ```
    pub fn new(url: &str, settings: &Settings) -> Result<Self> {
        let Some((scheme, _)) = url.split_once("://") else {
            return match url {
                "memory" => Ok(Self::of(settings.memory()?)),
                _ => Err(invalid("backend", url, EXPECTED)),
            };
        };
        match scheme {
            "file" => Self::of_files(url, settings),
            #[cfg(feature = "etcd")]
            "etcd" | "etcds" => Ok(Self::of(lock_etcd::Etcd::from_url(&settings.in_url(url, "ttl")?)?)),
            #[cfg(not(feature = "etcd"))]
            "etcd" | "etcds" => Err(not_built_in("etcd", " (needs protoc: protobuf-compiler and libprotobuf-dev)")),
            #[cfg(feature = "zk")]
            "zk" | "zks" => Ok(Self::of(lock_zk::ZooKeeper::from_url(&settings.in_url(url, "timeout")?)?)),
            #[cfg(not(feature = "zk"))]
            "zk" | "zks" => Err(not_built_in("zk", "")),
            // Only the scheme is shown: the rest may hold a password.
            _ => Err(invalid("backend", &format!("{scheme}://…"), EXPECTED)),
        }
    }

    #[cfg(target_os = "linux")]
    fn of_files(url: &str, settings: &Settings) -> Result<Self> {
        settings.only_ttl("a directory")?;
        Ok(Self::of(lock_file::Files::from_url(&settings.in_url(url, "ttl")?)?))
    }

    #[cfg(not(target_os = "linux"))]
    fn of_files(url: &str, _settings: &Settings) -> Result<Self> {
        Err(invalid("backend", url, "another store: directories need Linux"))
    }

    fn of(backend: impl Backend) -> Self {
        Self { backend: Arc::new(backend) }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}

#[async_trait]
impl Backend for Store {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        self.backend.open(owner).await
    }
}

/// A file that keeps a lock from passing on when this process dies, for as long as it is open in another process. `None`
/// where the ttl gives the time for that, or the lock is in the memory of this process.
///
/// # Errors
/// That the process has too many files open.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let guard = client.mutex("backup")?.lock().await?;
/// assert!(lock_any::lifeline(&guard)?.is_none(), "the lock dies with this process");
/// # Ok(()) }
/// ```
#[cfg(target_os = "linux")]
pub fn lifeline(guard: &lock_core::Guard) -> std::io::Result<Option<std::os::fd::OwnedFd>> {
    lock_file::lifeline(guard)
}

/// `url` without user, password and parameters, for people to read.
///
/// # Examples
/// ```
/// assert_eq!(lock_any::shown("etcd://app:secret@h1,h2/locks?ttl=5s"), "etcd://h1,h2/locks");
/// ```
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    format!("{scheme}://{hosts}{path}")
}

#[cfg(not(all(feature = "etcd", feature = "zk")))]
fn not_built_in(feature: &str, needs: &str) -> Error {
    let expected =
        format!("a backend of this build, which has no {feature} support: build with --features {feature}{needs}");
    invalid("backend", &format!("{feature}://…"), &expected)
}

fn invalid(setting: &str, value: &str, expected: &str) -> Error {
    Error::InvalidConfig { setting: setting.to_owned(), value: value.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_chosen_by_its_scheme() {
        let chosen = |url| format!("{:?}", Store::new(url, &Settings::default()).unwrap());
        assert!(chosen("memory").starts_with("Memory"));
        #[cfg(target_os = "linux")]
        assert!(chosen("file:///var/locks").contains("/var/locks"));
        #[cfg(feature = "etcd")]
        assert!(chosen("etcd://h").contains("h:2379"));
        #[cfg(feature = "zk")]
        assert!(chosen("zk://h").contains("h:2181"));
    }

    #[test]
    fn what_is_no_store_is_named_without_its_secrets() {
        for (url, want) in [
            ("", "\"\""),
            ("memroy", "memroy"),
            ("localhost:2379", "localhost:2379"),
            ("redis://u:secret@h", "redis://…"),
            ("://h", "memory"),
        ] {
            let error = Store::new(url, &Settings::default()).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("etcd://") && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_is_no_secret() {
        assert_eq!(shown("memory"), "memory");
        assert_eq!(shown("file:///var/locks?ttl=5s"), "file:///var/locks");
        assert_eq!(shown("etcd://h1:1,h2/ns?ttl=5s"), "etcd://h1:1,h2/ns");
        assert_eq!(shown("zks://app:p@ss@h1,h2?password=x"), "zks://h1,h2");
    }
}
