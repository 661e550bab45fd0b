//! Emphasis, on terminals whose users want it.

use std::env;
use std::io::{IsTerminal as _, stdout};

/// How a part of a line stands out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    Bold,
    Good,
    Doubtful,
    Bad,
}

impl Style {
    /// The text in this style, if the standard output is a terminal and the environment has no `NO_COLOR`.
    pub(crate) fn paint(self, text: &str) -> String {
        if stdout().is_terminal() && wanted(env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())) {
            self.painted(text)
        } else {
            text.to_owned()
        }
    }

    fn painted(self, text: &str) -> String {
        let code = match self {
            Self::Bold => "1",
            Self::Good => "32",
            Self::Doubtful => "33",
            Self::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn wanted(no_color: bool) -> bool {
    !no_color && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_ends_with_its_text() {
        assert_eq!(Style::Bad.painted("bad"), "\x1b[1;31mbad\x1b[0m");
        assert!(!wanted(true));
    }
}
