//! What an example found out about itself.

use std::fmt::Write as _;

use crate::report::Style;

/// What was seen, and the claims that must hold.
#[derive(Debug)]
pub struct Report {
    finished: bool,
    facts: Vec<(&'static str, String)>,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    what: String,
    instead: Option<String>,
}

impl Report {
    pub(crate) fn new(finished: bool) -> Self {
        Self { finished, facts: Vec::new(), claims: Vec::new() }
    }

    /// Whether every worker that was not killed came to the end of its work: nobody stopped the program, nothing failed.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Adds something to be told.
    pub fn fact(&mut self, name: &'static str, text: impl Into<String>) {
        self.facts.push((name, text.into()));
    }

    /// Adds what must hold, and what is the case if it does not.
    pub fn claim(&mut self, what: impl Into<String>, holds: bool, instead: impl Into<String>) {
        self.claims.push(Claim { what: what.into(), instead: (!holds).then(|| instead.into()) });
    }

    /// Whether all claims hold.
    pub fn is_right(&self) -> bool {
        self.claims.iter().all(|claim| claim.instead.is_none())
    }

    /// All of it for people.
    pub fn text(&self, style: Style) -> String {
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        // Writing to a String cannot fail.
        for (name, fact) in &self.facts {
            let _ = writeln!(text, "{name:<width$}  {fact}");
        }
        text.push('\n');
        for Claim { what, instead } in &self.claims {
            let _ = match instead {
                None => writeln!(text, "{} {what}", style.good("right")),
                Some(instead) => writeln!(text, "{} {what}: {instead}", style.bad("WRONG")),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_that_does_not_hold_is_enough_to_be_wrong() {
        let mut report = Report::new(true);
        report.fact("things", "5");
        report.claim("never more than 3", true, "4");
        assert!(report.is_right());
        report.claim("never less than 1", false, "0");
        assert!(!report.is_right());
        let text = report.text(Style::plain());
        assert_eq!(text, "things  5\n\nright never more than 3\nWRONG never less than 1: 0\n");
    }
}
