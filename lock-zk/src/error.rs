//! From the answers of the store to the errors of the contract.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Error, Source};
use zookeeper_client as zk;

/// No answer came in time; the request may still be carried out.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct NoAnswer(pub(crate) Duration);

/// The session is being closed by this process.
#[derive(Debug, thiserror::Error)]
#[error("the session is being closed")]
pub(crate) struct Closing;

/// The directory was removed again and again while an entry was put there.
#[derive(Debug, thiserror::Error)]
#[error("directory {0} was removed each time it had been created")]
pub(crate) struct DirectoryGone(pub(crate) String);

/// The server's counter for the directory is used up.
#[derive(Debug, thiserror::Error)]
#[error("directory {0} has numbered nearly 2^31 entries; delete it once it is empty, to let the numbers start again")]
pub(crate) struct NumbersUsedUp(pub(crate) String);

/// The server's counter of writes to the node is used up.
#[derive(Debug, thiserror::Error)]
#[error("node {0} was written nearly 2^32 times; delete it while nobody uses it, to let the versions start again")]
pub(crate) struct VersionsUsedUp(pub(crate) String);

/// A write would leave the candidate of another client waiting for ever.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} of another client, such as Curator's LeaderLatch, waits right behind and would miss the removal of an entry that \
     was written to; resign instead, or let it go first"
)]
pub(crate) struct DeafCandidate(pub(crate) String);

/// Why no server opened a session, by server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoSession(pub(crate) String);

/// Whom the store talks to, for error messages.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoints: Arc<str>,
    /// Such as `user "app"`. Never a password.
    pub(crate) who: Arc<str>,
}

impl Peer {
    pub(crate) fn denied(&self, what: &str, source: zk::Error) -> Error {
        Error::AccessDenied {
            endpoints: self.endpoints.to_string(),
            who: self.who.to_string(),
            what: what.to_owned(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn unreachable(&self, within: Duration, source: Source) -> Error {
        Error::Unreachable { endpoints: self.endpoints.to_string(), within, source }
    }

    /// The error of a request about `path`, by a white list: what is not on it leaves open whether it was applied.
    pub(crate) fn classify(&self, request: &'static str, path: &str, session: &str, error: zk::Error) -> Error {
        match error {
            zk::Error::SessionExpired | zk::Error::AuthFailed | zk::Error::ClientClosed => {
                Error::SessionOver { session: session.to_owned() }
            }
            zk::Error::NoAuth => self.denied(path, error),
            zk::Error::InvalidAcl
            | zk::Error::BadArguments(_)
            | zk::Error::NoChildrenForEphemerals
            | zk::Error::QuotaExceeded
            | zk::Error::Unimplemented
            | zk::Error::MarshallingError => Error::refused(request, error),
            error => Error::unavailable(request, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_answers_are_definite() {
        let peer = Peer { endpoints: "h:2181".into(), who: "user \"app\"".into() };
        let classify = |error| peer.classify("enter the queue", "/locks/a", "0x1", error);
        assert!(matches!(classify(zk::Error::SessionExpired), Error::SessionOver { session } if session == "0x1"));
        assert!(matches!(classify(zk::Error::ClientClosed), Error::SessionOver { .. }));
        assert!(matches!(classify(zk::Error::InvalidAcl), Error::Refused { .. }));
        let text = classify(zk::Error::NoAuth).to_string();
        assert!(text.contains("user \"app\"") && text.contains("/locks/a"), "{text}");
        for open in [
            zk::Error::ConnectionLoss,
            zk::Error::SessionMoved,
            zk::Error::NotReadOnly,
            zk::Error::Throttled,
            zk::Error::Timeout,
            zk::Error::UnexpectedError("reset".into()),
            zk::Error::UnexpectedErrorCode(-4),
            zk::Error::NoHosts,
        ] {
            assert!(matches!(classify(open.clone()), Error::Unavailable { .. }), "{open:?}");
        }
    }
}
