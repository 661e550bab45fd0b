//! What the benchmarks of this crate reach that users do not.

use crate::backend::{Ahead, Kind};
use crate::decision::{Decision, Limits, Rule};

/// Whether an entry is granted by what is ahead of it; with this limit, if it is a semaphore's.
pub fn is_granted(kind: Kind, limit: u32, ahead: &Ahead) -> bool {
    Rule { kind, limits: Limits::first(limit) }.decide(ahead) == Decision::Granted
}
