//! The etcd backend of [`lock_core`].
//!
//! One lease per session; an entry is a key with that lease, and keys are ordered by their create revision, which is also
//! the fencing token. Go's `concurrency.Mutex`, `etcdctl lock` and jetcd order their keys in the same way, so they and this
//! crate can share a lock.
//!
//! ```no_run
//! # async fn example() -> lock_core::Result<()> {
//! use lock_core::Client;
//! use lock_etcd::Etcd;
//!
//! let etcd = Etcd::from_url("etcd://10.0.0.1,10.0.0.2,10.0.0.3/locks?ttl=15s")?;
//! let client = Client::connect(etcd).await?;
//! let guard = client.mutex("nightly-backup")?.lock().await?;
//! guard.release().await;
//! # Ok(()) }
//! ```
//!
//! Needs etcd 3.4 or later.

mod backend;
mod config;
mod downgrade;
mod endpoints;
mod error;
mod keys;
mod queue;
mod renewal;
mod session;
mod table;
mod values;
mod watch;
mod watches;

pub use backend::Etcd;
pub use config::{Config, Tls};
