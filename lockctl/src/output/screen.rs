//! A part of the terminal that is drawn again when something has changed.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};

use rustix::termios::tcgetwinsize;

use crate::exit::Failure;

/// Assumed where the terminal does not tell.
const HEIGHT: usize = 24;

/// The last lines of a terminal.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    drawn: usize,
}

impl Screen {
    /// The terminal on the standard output; `None` when it is something else, or cannot move its cursor.
    pub(crate) fn on_stdout() -> Option<Self> {
        let moves = env::var_os("TERM").is_some_and(|term| term != "dumb");
        (stdout().is_terminal() && moves).then(Self::default)
    }

    /// Draws lines in place of those drawn before. Lines that are too long are cut by the terminal.
    ///
    /// # Errors
    /// As [`print`](super::print).
    pub(crate) fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let text = frame(self.drawn, lines);
        self.drawn = lines.len();
        super::print(&text)
    }

    /// Clears the terminal, whose size has changed: where the lines are now is not known.
    ///
    /// # Errors
    /// As [`print`](super::print).
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        self.drawn = 0;
        super::print("\x1b[H\x1b[2J")
    }
}

/// Lines of text that fit, with one left for the prompt; `None` when the standard output is no terminal.
pub(crate) fn height() -> Option<usize> {
    let out = stdout();
    if !out.is_terminal() {
        return None;
    }
    let told = tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_row));
    Some(if told == 0 { HEIGHT } else { told }.saturating_sub(1))
}

fn frame(drawn: usize, lines: &[String]) -> String {
    // One write, and without line wrapping, so that each line is one line.
    let mut text = String::from("\x1b[?7l");
    if drawn > 0 {
        // A `String` takes everything.
        let _ = write!(text, "\r\x1b[{drawn}A");
    }
    for line in lines {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J\x1b[?7h");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(frame(0, &lines), "\x1b[?7la\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(frame(2, &lines[..1]), "\x1b[?7l\r\x1b[2Aa\x1b[K\n\x1b[J\x1b[?7h");
    }
}
