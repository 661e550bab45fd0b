//! What the Rust peers have in common: the protocol with `bench/compare`, the workloads, and the basics of both servers.

pub mod args;
pub mod etcd;
pub mod protocol;
pub mod workload;
pub mod zk;

pub use args::Args;
pub use protocol::{Clock, Record};
pub use workload::{Contender, Peer};

/// Why a run ends without a result.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Failure>;
