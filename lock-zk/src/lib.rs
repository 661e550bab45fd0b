//! [ZooKeeper](https://zookeeper.apache.org) backend for [`lock_core`].
//!
//! Give a [`ZooKeeper`] to `lock_core::Client::connect`; all recipes are in `lock_core`.
//!
//! # In the store
//! A queue is the directory `<chroot>/<name>`, an entry an ephemeral sequential node in it, named as Apache Curator's
//! `InterProcessMutex` names it: `_c_<uuid>-lock-<sequence>`. Clients of Curator, go-zookeeper and kazoo (with
//! `extra_lock_patterns=["-lock-"]`) queue with this library when they use the same directory. Parents are container
//! nodes, which the servers remove when they stay empty, and persistent nodes before ZooKeeper 3.5.3. A session keeps
//! one more ephemeral node, `<chroot>/%session/<session id>`, with its owner as data.
//!
//! # Requirements
//! ZooKeeper 3.5 or later. Servers must not grant session timeouts below two of their ticks; as shipped they do not.

#![forbid(unsafe_code)]

mod backend;
mod config;
mod error;
mod names;
mod own_node;
mod probe;
mod proof;
mod queue;
mod session;
mod tls;
mod watch;

pub use backend::ZooKeeper;
pub use config::{Access, Config, Credentials, Scheme, Tls};
