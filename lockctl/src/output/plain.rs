//! Text of other people's clients, made fit for a terminal.

use std::fmt::Write as _;

/// The text with everything escaped that a terminal would act upon, or that would turn the rest of the line around.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns_around(c) {
            // A `String` takes everything.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn turns_around(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same, cut to this many characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let text = plain(text);
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(plain("größe 锁 \"x\""), "größe 锁 \"x\"");
        assert_eq!(plain("a\x1b[2J\n\u{9b}31m\u{7f}"), "a\\u{1b}[2J\\n\\u{9b}31m\\u{7f}");
        assert_eq!(plain("user\u{202e}toor"), "user\\u{202e}toor");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!((cut("12345", 5), cut("123456", 5)), ("12345".into(), "1234…".into()));
        assert_eq!(cut("\x1b1234", 6), "\\u{1b…");
    }
}
