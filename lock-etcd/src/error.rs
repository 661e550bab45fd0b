//! Which of etcd's answers are definite.

use std::sync::Arc;

use etcd_client::Error as EtcdError;
use lock_core::Error;

use crate::config::Config;

/// gRPC codes, as numbers because the client does not re-export their type.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNIMPLEMENTED: i32 = 12;
}

/// What an error of the client means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The lease does not exist.
    LeaseNotFound,
    /// A lease with the id exists already.
    LeaseExists,
    /// The credentials or permissions do not suffice.
    AccessDenied,
    /// Certainly not applied, and asking again will not help.
    Refused,
    /// Anything else: it may have been applied, and another endpoint may do better.
    Unavailable,
}

pub(crate) fn meaning(error: &EtcdError) -> Meaning {
    match error {
        EtcdError::GRpcStatus(status) => meaning_of(status.code() as i32, status.message()),
        EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) => Meaning::Refused,
        _ => Meaning::Unavailable,
    }
}

fn meaning_of(code: i32, message: &str) -> Meaning {
    let says = |text| message.contains(text);
    match code {
        code::NOT_FOUND if says("requested lease not found") => Meaning::LeaseNotFound,
        code::FAILED_PRECONDITION if says("lease already exists") => Meaning::LeaseExists,
        code::PERMISSION_DENIED => Meaning::AccessDenied,
        code::INVALID_ARGUMENT if says("authentication failed") || says("user name is empty") => Meaning::AccessDenied,
        code::FAILED_PRECONDITION if says("authentication is not enabled") => Meaning::AccessDenied,
        // The user's permissions changed a moment ago; the client's token is renewed with the next request.
        code::INVALID_ARGUMENT if says("revision of auth store is old") => Meaning::Unavailable,
        code::RESOURCE_EXHAUSTED if says("space exceeded") => Meaning::Refused,
        code::INVALID_ARGUMENT | code::FAILED_PRECONDITION | code::UNIMPLEMENTED => Meaning::Refused,
        _ => Meaning::Unavailable,
    }
}

/// The error of a request that names nothing but the session's own keys.
pub(crate) fn explain(error: EtcdError, request: &'static str, session: &str, config: &Config) -> Error {
    match meaning(&error) {
        Meaning::LeaseNotFound => Error::SessionOver { session: session.to_owned() },
        Meaning::AccessDenied => access_denied(error, config),
        Meaning::LeaseExists | Meaning::Refused => Error::refused(request, error),
        Meaning::Unavailable => Error::unavailable(request, error),
    }
}

pub(crate) fn access_denied(error: EtcdError, config: &Config) -> Error {
    Error::AccessDenied {
        endpoints: config.endpoints.join(","),
        who: config.user().map_or_else(|| "a client without a login".into(), |user| format!("user {user:?}")),
        what: format!("keys that start with {:?}", format!("{}/", config.namespace)),
        source: Arc::new(error),
    }
}

/// The error of a request that was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {endpoint} within {within:?}")]
pub(crate) struct NoAnswer {
    pub(crate) endpoint: String,
    pub(crate) within: std::time::Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_definite_answers_are_definite() {
        for (code, message, want) in [
            (5, "etcdserver: requested lease not found", Meaning::LeaseNotFound),
            (5, "something else", Meaning::Unavailable),
            (9, "etcdserver: lease already exists", Meaning::LeaseExists),
            (7, "etcdserver: permission denied", Meaning::AccessDenied),
            (3, "etcdserver: authentication failed, invalid user ID or password", Meaning::AccessDenied),
            (3, "etcdserver: user name is empty", Meaning::AccessDenied),
            (3, "etcdserver: revision of auth store is old", Meaning::Unavailable),
            (3, "etcdserver: request is too large", Meaning::Refused),
            (8, "etcdserver: mvcc: database space exceeded", Meaning::Refused),
            (8, "etcdserver: too many requests", Meaning::Unavailable),
            (1, "Timeout expired", Meaning::Unavailable),
            (2, "transport error", Meaning::Unavailable),
            (2, "context deadline exceeded", Meaning::Unavailable),
            (14, "etcdserver: no leader", Meaning::Unavailable),
            (14, "etcdserver: request timed out", Meaning::Unavailable),
            (16, "etcdserver: invalid auth token", Meaning::Unavailable),
        ] {
            assert_eq!(meaning_of(code, message), want, "{code} {message}");
        }
    }
}
