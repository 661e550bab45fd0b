//! Fair distributed locks over a store that you already run.
//!
//! Pick a backend (the crates `lock-etcd` and `lock-zk`, `lock-file` for one host, or [`memory`] for one process), connect
//! a [`Client`], and make locks from it. The application code is the same for every backend.
//!
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! use lock_core::{Client, memory::Memory};
//!
//! let client = Client::connect(Memory::new()).await?; // or lock_etcd::Etcd::from_url("etcd://…")?
//! let mutex = client.mutex("nightly-backup")?;
//!
//! let guard = mutex.lock().await?;           // strictly first come, first served
//! guard.run(async { /* stopped before the lock can be anybody else's */ }).await?;
//! guard.release().await;                     // or drop it
//! # Ok(()) }
//! ```
//!
//! # What a guard promises
//! * At most one guard of a mutex says "held" at any moment ([`Guard::check`], without I/O), also when processes are
//!   stopped, links are cut, servers restart or leaders change.
//! * Grants go in the order in which the store applied the requests, and each release wakes one waiter.
//! * [`Guard::token`] grows with every grant, so that a resource can refuse a holder that was asleep.
//! * An attempt that ended in any way leaves no entry behind: at once while the store can be reached, else by the ttl.
//!
//! What it cannot promise: a `check` followed by a write is not one step. Between the two a process can be stopped for
//! longer than the ttl. Pass the token to the resource if that matters.
//!
//! # How it is built, in reading order
//! [`Mutex`] → `acquire` (the only wait loop) → `queue` (the decision, pure) → [`backend`] (the contract) → one backend.
//! `session` keeps one session alive and `health` knows until when; [`Guard`] asks it.

mod acquire;
pub mod backend;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod bench;
mod changes;
mod client;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decision;
mod error;
mod fencing;
mod guard;
mod health;
mod locals;
mod lock_delay;
pub mod memory;
mod metrics;
mod name;
pub mod owner;
mod queue;
mod recipes;
mod record;
mod revocation;
mod roll_call;
mod session;
mod signal;
mod state;
mod turn;
mod unwatched;
pub mod url;
mod watching;

pub use client::{Builder, Client};
pub use error::{Error, Loss, Result, Source};
pub use fencing::{FencingGate, StaleToken};
pub use guard::{Guard, Release};
pub use metrics::Metrics;
pub use name::Name;
pub use queue::{Place, Queue, QueueWatch, Role};
pub use recipes::{
    Acquire, Barrier, Campaign, Candidate, Condvar, CountDownLatch, DoubleBarrier, Election, Ending, Group, GroupWatch,
    Leader, LeaderLatch, Leadership, Member, Membership, MultiGuard, MultiLock, Mutex, Observer, Party, Permit,
    Permits, Position, ReadGuard, ReentrantGuard, ReentrantMutex, RwLock, Selector, Semaphore, Stopper, Turn,
    WriteGuard,
};
pub use state::{State, StateWatch};
