//! [ZooKeeper](https://zookeeper.apache.org) backend for [`lock_core`].
//!
//! One ZooKeeper session per client, with an ephemeral sequential node for each place in a queue. The fencing token is the
//! node's creation transaction id.
//!
//! ```no_run
//! # async fn example() -> lock_core::Result<()> {
//! use lock_core::Client;
//! use lock_zk::ZooKeeper;
//!
//! let zookeeper = ZooKeeper::from_url("zk://10.0.0.1,10.0.0.2,10.0.0.3/locks?timeout=10s")?;
//! let client = Client::connect(zookeeper).await?;
//! let guard = client.mutex("nightly-backup")?.lock().await?;
//! guard.release().await;
//! # Ok(()) }
//! ```
//!
//! # In the store
//! A queue is the directory `<chroot>/<name>`, an entry an ephemeral sequential node in it, named as Apache Curator's
//! `InterProcessMutex`, `InterProcessReadWriteLock` and `LeaderLatch` name theirs: `_c_<uuid>-lock-<sequence>`, with
//! `__READ__`, `__WRIT__` or `latch` for `lock`; other recipes have words of their own. Clients of Curator, go-zookeeper and
//! kazoo (with `extra_lock_patterns=["-lock-"]`) queue with this library when they use the same directory. Parents are
//! container nodes, which the servers remove when they stay empty, and persistent nodes before ZooKeeper 3.5.3. The record
//! of a queue is the persistent node `<chroot>/%record/<name>`. A session keeps one more ephemeral node,
//! `<chroot>/%session/<session id>`, with its owner as data; a number is added to its name each time it is replaced,
//! which happens when the answer to an enqueue is lost.
//!
//! What a lock protects may be in ZooKeeper itself: see [`Guarded`].
//!
//! # Requirements
//! ZooKeeper 3.5 or later. Servers must not grant session timeouts below two of their ticks; as shipped they do not.

mod alone;
mod backend;
mod commits;
mod config;
mod downgrade;
mod error;
mod guarded;
mod names;
mod own_node;
mod probe;
mod proof;
mod queue;
mod queues;
mod session;
mod tls;
mod values;
mod view;
mod watch;

pub use backend::ZooKeeper;
pub use config::{Access, Config, Credentials, Scheme, Tls};
pub use guarded::{Conflict, Guarded, GuardedError};
