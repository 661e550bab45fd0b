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
//! # In the store
//! The keys of a queue start with `<namespace>/<name>/`, and end in what they ask for, if that is not a mutex. Clients of
//! Go's `concurrency.Mutex` and `concurrency.Election`, `etcdctl lock` and `etcdctl elect` queue with this library when they
//! use the same prefix. The record of a queue is the key `<namespace>/%record/<name>`, without a lease. A session keeps one
//! more key, `<namespace>/%session/<lease id>`, with its owner as value.
//!
//! What a lock protects may be in etcd itself: see [`Guarded`].
//!
//! # Requirements
//! etcd 3.4 or later.

mod backend;
mod commits;
mod config;
mod downgrade;
mod endpoints;
mod error;
mod guarded;
mod keys;
mod queue;
mod queues;
mod renewal;
mod session;
mod slots;
mod table;
mod transport;
mod values;
mod view;
mod watch;
mod watches;

pub use backend::Etcd;
pub use config::{Config, Tls};
pub use guarded::{Conflict, Guarded, GuardedError};
