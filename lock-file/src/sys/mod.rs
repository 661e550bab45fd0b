//! The system calls on the store's files, one step each: between any two of them the process may be killed.

mod files;
mod looks;
#[cfg(test)]
pub(crate) mod test;

pub(crate) use files::*;
pub(crate) use looks::*;
#[cfg(test)]
use test::step;

/// Stands before each system call, for the tests.
#[cfg(not(test))]
#[inline(always)]
fn step() -> Result<(), rustix::io::Errno> {
    Ok(())
}
