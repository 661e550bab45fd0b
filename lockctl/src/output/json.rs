//! One line of JSON for programs.

use serde::Serialize;

use crate::exit::Failure;

/// Writes a value as one line of JSON.
///
/// # Errors
/// As [`print`](super::print).
pub(crate) fn print(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::internal(format!("no JSON: {error}")))?;
    super::print(&format!("{line}\n"))
}
