//! What is written for people and for programs.

pub(crate) mod json;
pub(crate) mod plain;
pub(crate) mod screen;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod time;

use std::io::{self, Write as _};

use crate::exit::{Exit, Failure};

/// SIGPIPE, which Rust programs do not get.
const PIPE: i32 = 13;

/// Writes to the standard output. A reader that is gone ends the program without a word, as it ends others.
///
/// # Errors
/// That it cannot be written to.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes lines to the standard output.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_lines(lines: &[String]) -> Result<(), Failure> {
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// Writes to the standard output what need not be text.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::quiet(Exit::of_signal(PIPE)),
        _ => Failure::system("write to the standard output", error),
    })
}
