//! Rules of the contract that each backend is tested for in the same way. The program that includes this names its server
//! `crate::Server` and opens sessions with `crate::open`.

mod downgrade;
pub(crate) mod queue_watch;
mod values;
