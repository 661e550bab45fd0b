//! File backend for [`lock_core`]: a fair queue for the processes of one host, in a directory. Needs no server.
//!
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! use lock_core::Client;
//! use lock_file::Files;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let url = format!("file://{}", directory.path().display());
//! # if false {
//! let url = "file:///var/lib/app/locks";
//! # }
//! let client = Client::connect(Files::from_url(&url)?).await?;
//! let guard = client.mutex("nightly-backup")?.lock().await?;
//! guard.release().await;
//! # Ok(()) }
//! ```
//!
//! A lock is passed on as soon as its holder's process is dead, however it died: the kernel tells. There is no time to live
//! to wait for.
//!
//! # In the store
//! | file | what it is |
//! |---|---|
//! | `%next` | the next number |
//! | `%counter` | a number that was never given out, on disk before any of those below it is |
//! | `%session/<pid>.<number>` | a session; locked by its process for as long as it lives; holds its owner metadata |
//! | `<name>/<number>-<session>-<id>-<kind>` | an entry of a queue; counts while its session lives |
//! | `%record/<name>` | the record of a queue |
//!
//! The directory is locked for the microseconds that a request takes. The number of an entry is its place in the queue and
//! its fencing token. Values stand behind a line with their version.
//!
//! # Requirements
//! Linux, and a file system that is not shared with other hosts; a network file system is refused.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "lock-file is for Linux, whose kernel tells the next in a queue that its predecessor is gone; leave this backend out \
     on other systems"
);

mod backend;
mod config;
#[cfg(test)]
mod crash;
mod ear;
mod error;
mod lifeline;
mod local;
mod names;
mod notices;
mod numbers;
mod own;
mod queue;
mod queues;
mod session;
mod store;
mod sweep;
mod sys;
mod values;
mod watch;

pub use backend::Files;
pub use config::{Access, Config};
pub use lifeline::lifeline;
