//! How this program ends, and how it tells why.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use lock_core::Error;

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const USAGE: Self = Self(64);
    pub(crate) const UNREACHABLE: Self = Self(69);
    pub(crate) const INTERNAL: Self = Self(70);
    pub(crate) const NOT_ACQUIRED: Self = Self(75);
    pub(crate) const ACCESS_DENIED: Self = Self(77);
    pub(crate) const CONFIGURATION: Self = Self(78);
    pub(crate) const LOST: Self = Self(80);
    pub(crate) const NOT_EXECUTABLE: Self = Self(126);
    pub(crate) const NOT_FOUND: Self = Self(127);

    /// A command's own.
    pub(crate) const fn of_command(code: u8) -> Self {
        Self(code)
    }

    /// Of what was ended by a signal, as shells tell it.
    pub(crate) fn of_signal(signal: i32) -> Self {
        Self(u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}

const CODES: &[(&str, &str)] = &[
    ("0", "success; for run and elect, the command's success"),
    ("64", "the command line cannot be used"),
    ("69", "no server of the store could be reached, or none answered"),
    ("70", "an error of lockctl itself, or of the system it runs on"),
    (
        "75",
        "the lock was not free (--try) or not free in time (--timeout); for who, leader, revoke and break: nobody is there",
    ),
    ("77", "the store refused the user, the password, or what they may do"),
    ("78", "a setting or a name cannot be used: a bad URL, another limit, a name in use by another recipe"),
    ("80", "the lock was lost while the command ran, so the command was stopped"),
    ("126", "the command was found and cannot be executed"),
    ("127", "the command was not found"),
    ("128+n", "signal n ended the command, or lockctl while it waited for the lock (130 is Ctrl-C, 143 is SIGTERM)"),
    ("other", "the command's own"),
];

/// What each code means, for people.
pub(crate) fn table() -> String {
    CODES.iter().map(|(code, meaning)| format!("{code:<6} {meaning}\n")).collect()
}

/// Why this program ends without having done what it was asked to do.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Nothing when there is nobody to tell, or it was told.
    message: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()) }
    }

    /// Ends without a word.
    pub(crate) const fn quiet(exit: Exit) -> Self {
        Self { exit, message: None }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::INTERNAL, message)
    }

    /// Something that the system refused, such as to start a process.
    pub(crate) fn system(doing: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        Self::internal(format!("cannot {doing}: {}", error.into()))
    }

    /// No server answered in time.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::UNREACHABLE, message)
    }

    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// The same with a further sentence.
    pub(crate) fn with(self, hint: &str) -> Self {
        Self { message: self.message.map(|message| format!("{message}; {hint}")), ..self }
    }

    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn tell(&self) {
        if let Some(message) = &self.message {
            say(message);
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::InvalidName { .. }
            | Error::InvalidConfig { .. }
            | Error::MetadataTooLarge { .. }
            | Error::ValueTooLarge { .. }
            | Error::OtherRecipe { .. }
            | Error::LimitMismatch { .. }
            | Error::NumberMismatch { .. } => Exit::CONFIGURATION,
            Error::AccessDenied { .. } => Exit::ACCESS_DENIED,
            Error::Timeout { .. } => Exit::NOT_ACQUIRED,
            Error::Unreachable { .. }
            | Error::Unavailable { .. }
            | Error::SessionOver { .. }
            | Error::SessionLost { .. } => Exit::UNREACHABLE,
            Error::Lost { .. } => Exit::LOST,
            _ => Exit::INTERNAL,
        };
        Self::new(exit, with_causes(&error))
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let further = error.to_string();
        // Some layers repeat what the one below said.
        if !text.ends_with(&further) {
            text = format!("{text}: {further}");
        }
        cause = error.source();
    }
    text
}

/// Tells the user something on the standard error output. If that is gone, nobody listens.
pub(crate) fn say(message: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "lockctl: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_told_as_shells_tell_them() {
        assert_eq!((Exit::of_signal(2), Exit::of_signal(15)), (Exit(130), Exit(143)));
        assert_eq!(Exit::of_signal(999), Exit(255));
    }

    #[test]
    fn every_code_that_is_used_is_in_the_table() {
        let all = [
            Exit::OK,
            Exit::USAGE,
            Exit::UNREACHABLE,
            Exit::INTERNAL,
            Exit::NOT_ACQUIRED,
            Exit::ACCESS_DENIED,
            Exit::CONFIGURATION,
            Exit::LOST,
            Exit::NOT_EXECUTABLE,
            Exit::NOT_FOUND,
        ];
        for Exit(code) in all {
            assert!(CODES.iter().any(|(known, _)| *known == code.to_string()), "{code}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let cause = io::Error::other("no route");
        let error = Error::unavailable("renew", cause);
        assert_eq!(with_causes(&error), "no definite answer from the store, asked to renew: no route");
    }
}
