//! Real servers and a fault proxy for the tests of this workspace.
//!
//! | Fixture | What it gives a test |
//! |---|---|
//! | [`Etcd`] | one or three etcd servers on free loopback ports, with TLS and authentication on demand |
//! | [`ZooKeeper`] | one or three ZooKeeper servers, likewise |
//! | [`Curator`] | Apache Curator itself, driven by lines |
//! | [`Proxy`] | a TCP relay in front of one server, which holds, drops, delays or cuts at an exact point |
//! | [`connect`] | a client of the library by URL |
//! | [`session`] | a backend's session as tests drive it, below the client |
//! | [`ProxyLink`] | a proxy as the conformance suite wants its links |
//! | [`Disk`] | a file system that can be frozen, for a server whose disk hangs |
//! | [`Certs`] | a test CA with server and client certificates, and a second CA that nobody trusts |
//!
//! Both kinds of server share one vocabulary: `single`, `cluster`, `start`, `endpoint`, `kill`, `stop`, `restart`, `pause`, `resume`, `leader`. Servers end with the test that
//! started them, even when the test is killed. A server that cannot be started is an [`Error`] that shows the end of its log, never a skipped test.
//!
//! # Programs
//!
//! The fixtures run `etcd`, `etcdctl`, `java`, `openssl` and `setpriv` (util-linux) from `PATH`. These environment variables choose others, for example to test another release:
//!
//! | Variable | Default | Meaning |
//! |---|---|---|
//! | `ETCD` | `etcd` | the etcd server |
//! | `ETCDCTL` | `etcdctl` | its command-line client |
//! | `JAVA` | `java` | the Java that runs ZooKeeper and, compiled from source, Curator's side of a test |
//! | `ZK_JARS` | `/usr/share/java` | directories with ZooKeeper's and Curator's jars, separated by `:`; the first that holds a jar wins |

mod certs;
mod client;
mod disk;
mod error;
mod etcd;
mod link;
mod ports;
mod process;
mod proxy;
mod server;
pub mod session;
mod wait;
mod zookeeper;

pub use certs::{Certs, Tls};
pub use client::connect;
pub use disk::Disk;
pub use error::Error;
pub use etcd::{Etcd, EtcdOptions};
pub use link::ProxyLink;
pub use ports::Port;
pub use process::Process;
pub use proxy::{Action, Counters, Cut, Direction, Mode, Peer, Proxy, Trigger, When};
pub use server::Server;
pub use wait::{PATIENCE, eventually};
pub use zookeeper::{Admin, Curator, ZooKeeper, ZooKeeperOptions};

/// The result of a fixture's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
