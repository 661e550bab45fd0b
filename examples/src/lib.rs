//! What the example programs share, so that the programs themselves show little but the use of a lock.
//!
//! Start with `src/bin/workers.rs`; come here for the details that it leaves out.

pub mod backend;
pub mod children;
pub mod history;
pub mod ledger;
pub mod report;
pub mod stop;

/// Why a program ends before its work is done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
