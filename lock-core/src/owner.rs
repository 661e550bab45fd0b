//! Owner metadata: who stands in a queue, for the people who look at it.
//!
//! # Examples
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
//! let guard = client.mutex("reindex")?.labelled("shard 3").lock().await?;
//! for place in client.queue("reindex")?.list().await? {
//!     let owner = place.owner.expect("a client of this library");
//!     println!("{} of {}: {}", owner.pid, owner.host, owner.label.as_deref().unwrap_or_default());
//! #   assert_eq!(owner.label.as_deref(), Some("shard 3"));
//! }
//! # Ok(()) }
//! ```

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::revocation;

/// Bytes that encoded owner metadata may have, and values that candidates and members show.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::owner::MAX_METADATA;
///
/// let group = client.group("workers")?;
/// assert!(group.join([b'x'; MAX_METADATA]).await.is_ok());
/// assert!(group.join([b'x'; MAX_METADATA + 1]).await.is_err());
/// # Ok(()) }
/// ```
pub const MAX_METADATA: usize = 4096;

/// Who owns an entry. Stored as JSON in the entry's value; nothing decides by it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::owner::Owner;
///
/// let guard = client.mutex("reindex")?.labelled("shard 3").lock().await?;
/// let owner = Owner::decode(&client.entries("reindex").await?[0].value).expect("a client of this library");
/// assert_eq!((owner.pid, owner.label.as_deref()), (std::process::id(), Some("shard 3")));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// The user's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When the entry was requested, by the owner's wall clock, in milliseconds since 1970.
    #[serde(default)]
    pub since_unix_ms: u64,
}

impl Owner {
    /// This process, now.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::owner::Owner;
    /// let owner = Owner::current(Some("shard 3"));
    /// assert_eq!(owner.pid, std::process::id());
    /// println!("{} {} {:?}", owner.host, owner.pid, owner.label);
    /// ```
    pub fn current(label: Option<&str>) -> Self {
        let (host, pid) = process();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            host: host.clone(),
            pid: *pid,
            label: label.map(str::to_owned),
            since_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Reads an entry's value; `None` when another kind of client wrote it.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::owner::Owner;
    /// let value = br#"{"host":"db1","pid":4711,"since_unix_ms":1767225600000}"#;
    /// assert_eq!(Owner::decode(value).map(|owner| owner.host).as_deref(), Some("db1"));
    /// assert_eq!(Owner::decode(b"10.0.0.1"), None); // as Curator writes it
    /// ```
    pub fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(revocation::plain(value)).ok()
    }

    /// The value to store.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        // Strings and integers always serialise.
        let mut value = serde_json::to_vec(self).unwrap_or_default();
        // It is kept for as long as somebody waits.
        value.shrink_to_fit();
        value
    }

    /// The value to store, if it is small enough to be kept in memory by every server.
    ///
    /// # Errors
    /// [`Error::MetadataTooLarge`] above 4 KiB.
    pub(crate) fn check_size(&self, of: impl std::fmt::Display) -> Result<Vec<u8>> {
        let value = self.to_value();
        if value.len() > MAX_METADATA {
            return Err(Error::MetadataTooLarge { of: of.to_string(), size: value.len(), limit: MAX_METADATA });
        }
        Ok(value)
    }
}

/// The name of this host and the id of this process, as they were when they were first asked for.
fn process() -> &'static (String, u32) {
    static PROCESS: OnceLock<(String, u32)> = OnceLock::new();
    PROCESS.get_or_init(|| (gethostname::gethostname().to_string_lossy().into_owned(), std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_foreign_values_are_none() {
        let owner = Owner::current(Some("worker 7 \"x\""));
        assert_eq!(Owner::decode(&owner.to_value()), Some(owner));
        for foreign in [&b""[..], b"10.0.0.1", b"\xff", b"{}", b"[1"] {
            assert_eq!(Owner::decode(foreign), None);
        }
    }

    #[test]
    fn two_megabytes_are_refused_before_anything_is_sent() {
        let error = Owner::current(Some(&"x".repeat(2 << 20))).check_size("lock \"l\"").unwrap_err();
        assert!(matches!(error, Error::MetadataTooLarge { limit: 4096, .. }), "{error}");
    }
}
