//! What an answer of etcd means for the request that got it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use etcd_client::Error as EtcdError;
use lock_core::{Error, Source};
use std::sync::Arc;

use crate::config::Config;

/// What a failure says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The lease does not exist.
    LeaseNotFound,
    /// A lease with the id exists already.
    LeaseExists,
    /// The credentials or permissions do not suffice.
    AccessDenied,
    /// The database is full. Usually not applied, but a request that fills it up is applied **and** answered so.
    NoSpace,
    /// Certainly not applied, and asking again will not help.
    Refused,
    /// Not applied for want of a valid token: a new connection brings one.
    StaleLogin,
    /// The member has too much to do; another connection would not help it.
    Overloaded,
    /// Anything else: it may have been applied, and another member may do better.
    Unavailable,
}

/// The reason of a failure, for people: one line, causes included.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Cause(String);

/// Why a request was not answered with success.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) meaning: Meaning,
    cause: Cause,
}

impl Failure {
    /// Something went wrong on this side of the connection; the request may have been applied.
    pub(crate) fn unavailable(cause: impl fmt::Display) -> Self {
        Self { meaning: Meaning::Unavailable, cause: Cause(cause.to_string()) }
    }

    pub(crate) fn no_answer(from: impl fmt::Display, within: Duration) -> Self {
        Self::unavailable(format_args!("no answer from {from} within {within:?}"))
    }

    /// What the server said in a watch's cancellation.
    pub(crate) fn watch_refused(reason: &str) -> Self {
        let says = |text| reason.contains(text);
        let meaning = if says("permission denied") {
            Meaning::AccessDenied
        } else if says("invalid auth token") || says("revision of auth store is old") || says("user name is empty") {
            Meaning::StaleLogin
        } else {
            Meaning::Unavailable
        };
        Self { meaning, cause: Cause(format!("the watch was refused: {reason}")) }
    }

    /// Whether a new connection, to the next member, may do better.
    pub(crate) fn asks_for_another_member(&self) -> bool {
        matches!(self.meaning, Meaning::Unavailable | Meaning::StaleLogin)
    }

    pub(crate) fn source(self) -> Source {
        Arc::new(self.cause)
    }

    /// The error of a session's request.
    pub(crate) fn explain(self, request: &'static str, session: &str, config: &Config) -> Error {
        match self.meaning {
            Meaning::LeaseNotFound => Error::SessionOver { session: session.to_owned() },
            Meaning::AccessDenied => self.access_denied(config, all_keys(config)),
            Meaning::LeaseExists | Meaning::Refused | Meaning::NoSpace => Error::refused(request, self.cause),
            Meaning::StaleLogin | Meaning::Overloaded | Meaning::Unavailable => Error::unavailable(request, self.cause),
        }
    }

    /// `what` was to be used.
    pub(crate) fn access_denied(self, config: &Config, what: String) -> Error {
        Error::AccessDenied {
            endpoints: config.endpoints.join(","),
            who: config.user().map_or_else(|| "a client without a login".into(), |user| format!("user {user:?}")),
            what,
            source: self.source(),
        }
    }
}

/// The keys of a namespace, for error messages.
pub(crate) fn all_keys(config: &Config) -> String {
    let prefix = if config.namespace.is_empty() { String::new() } else { format!("{}/", config.namespace) };
    format!("keys that start with {prefix:?}")
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::GRpcStatus(status) => {
                let meaning = meaning(status.message());
                let mut cause = with_sources(status.message(), status.source());
                if cause.is_empty() {
                    cause = status.code().to_string();
                }
                cause.push_str(remedy(status.message()));
                Self { meaning, cause: Cause(cause) }
            }
            EtcdError::TransportError(error) => Self::unavailable(with_sources(&error.to_string(), error.source())),
            EtcdError::IoError(error) => Self::unavailable(error),
            error => Self::unavailable(error),
        }
    }
}

/// By a white list of what etcd says; it says the same in all releases since 3.4, and nobody else does.
fn meaning(message: &str) -> Meaning {
    match message.strip_prefix("etcdserver: ").unwrap_or_default() {
        "requested lease not found" => Meaning::LeaseNotFound,
        "lease already exists" => Meaning::LeaseExists,
        "permission denied"
        | "authentication failed, invalid user ID or password"
        | "user name is empty"
        | "user name not found"
        | "authentication is not enabled" => Meaning::AccessDenied,
        "mvcc: database space exceeded" => Meaning::NoSpace,
        "request is too large"
        | "too large lease TTL"
        | "too many operations in txn request"
        | "duplicate key given in txn request"
        | "key is not provided" => Meaning::Refused,
        // A user's permissions, or the members' memory of tokens, changed.
        "invalid auth token" | "revision of auth store is old" => Meaning::StaleLogin,
        "too many requests" => Meaning::Overloaded,
        _ => Meaning::Unavailable,
    }
}

fn remedy(message: &str) -> &'static str {
    match meaning(message) {
        Meaning::NoSpace => "; compact and defragment etcd, then disarm its alarm (etcdctl alarm disarm)",
        Meaning::Refused if message.ends_with("too large") => {
            "; send less, such as a shorter label, or raise etcd's --max-request-bytes"
        }
        _ => "",
    }
}

/// `message` with all its causes, each said once.
fn with_sources(message: &str, mut source: Option<&(dyn StdError + 'static)>) -> String {
    let mut text = message.to_owned();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_answers_are_definite() {
        for (message, want) in [
            ("etcdserver: requested lease not found", Meaning::LeaseNotFound),
            ("etcdserver: lease already exists", Meaning::LeaseExists),
            ("etcdserver: permission denied", Meaning::AccessDenied),
            ("etcdserver: authentication failed, invalid user ID or password", Meaning::AccessDenied),
            ("etcdserver: user name is empty", Meaning::AccessDenied),
            ("etcdserver: request is too large", Meaning::Refused),
            ("etcdserver: too many operations in txn request", Meaning::Refused),
            ("etcdserver: duplicate key given in txn request", Meaning::Refused),
            ("etcdserver: key is not provided", Meaning::Refused),
            ("etcdserver: mvcc: database space exceeded", Meaning::NoSpace),
            ("etcdserver: revision of auth store is old", Meaning::StaleLogin),
            ("etcdserver: invalid auth token", Meaning::StaleLogin),
            ("etcdserver: too many requests", Meaning::Overloaded),
            ("etcdserver: no leader", Meaning::Unavailable),
            ("etcdserver: not leader", Meaning::Unavailable),
            ("etcdserver: request timed out", Meaning::Unavailable),
            ("permission denied", Meaning::Unavailable),
            ("Timeout expired", Meaning::Unavailable),
            ("transport error", Meaning::Unavailable),
            ("context deadline exceeded", Meaning::Unavailable),
            ("", Meaning::Unavailable),
        ] {
            assert_eq!(meaning(message), want, "{message}");
        }
    }

    #[test]
    fn errors_say_who_what_and_what_to_do() {
        let mut config = Config::new(["h:1"]);
        config.login = Some(("app".into(), "secret".into()));
        config.namespace = "locks".into();
        let failure = |meaning| Failure { meaning, cause: Cause("etcdserver: so".into()) };
        let text = failure(Meaning::AccessDenied).explain("enter the queue", "1f", &config).to_string();
        assert!(text.contains("user \"app\"") && text.contains("\"locks/\"") && !text.contains("secret"), "{text}");
        let over = failure(Meaning::LeaseNotFound).explain("enter the queue", "1f", &config);
        assert!(matches!(over, Error::SessionOver { session } if session == "1f"));
        assert!(remedy("etcdserver: mvcc: database space exceeded").contains("alarm disarm"));
        assert!(remedy("etcdserver: request is too large").contains("label"));
    }

    #[test]
    fn a_refused_watch_may_be_a_stale_login() {
        let meaning = |reason| Failure::watch_refused(reason).meaning;
        assert_eq!(
            meaning("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
            Meaning::AccessDenied
        );
        assert_eq!(meaning("etcdserver: invalid auth token"), Meaning::StaleLogin);
        assert_eq!(meaning("watch ID exists"), Meaning::Unavailable);
    }
}
