//! What the example programs share, so that the programs themselves show little but the use of a lock.
//!
//! Start with `src/bin/workers.rs`; come here for the details that it leaves out.

pub mod backend;
pub mod bank;
pub mod cache;
pub mod children;
pub mod database;
pub mod fault;
pub mod fleet;
pub mod history;
pub mod jobs;
pub mod ledger;
pub mod orders;
pub mod report;
pub mod service;
pub mod setback;
pub mod settings;
pub mod stop;
mod tasks;
mod trap;
pub mod verdict;

/// Why a program ends before its work is done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
