//! Opens sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, ConnectOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use lock_core::backend::{Backend, Session};
use lock_core::{Error, Result};

use crate::config::Config;
use crate::endpoints::{Connection, Endpoints, Failure};
use crate::error::{Meaning, access_denied, meaning};
use crate::keys::session_key;
use crate::session::EtcdSession;

/// etcd as a backend of [`lock_core::Client`].
#[derive(Clone, Debug)]
pub struct Etcd {
    config: Config,
    options: ConnectOptions,
}

impl Etcd {
    /// Checks the settings and reads the files they name. Makes no connection.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the setting.
    pub fn new(config: Config) -> Result<Self> {
        let options = config.connect_options()?;
        Ok(Self { config, options })
    }

    /// As [`new`](Self::new), with the settings of a [URL](Config::from_url).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part of the URL.
    pub fn from_url(url: &str) -> Result<Self> {
        Self::new(Config::from_url(url)?)
    }

    fn explain(&self, failure: Failure) -> Error {
        let unreachable = |source| Error::Unreachable {
            endpoints: self.config.endpoints.join(","),
            within: self.config.connect_timeout,
            source,
        };
        match failure {
            Failure::Etcd(error) => match meaning(&error) {
                Meaning::AccessDenied => access_denied(error, &self.config),
                Meaning::Unavailable => unreachable(Arc::new(error)),
                _ => Error::refused("open a session", error),
            },
            Failure::NoAnswer(error) => unreachable(Arc::new(error)),
        }
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let opening = Opening {
            endpoints: Endpoints::new(
                self.config.clone(),
                self.options.clone(),
                self.config.request_timeout(self.config.ttl),
            ),
            deadline: Instant::now() + self.config.connect_timeout,
            // Positive, and chosen here, so that a grant whose answer was lost can be repeated.
            lease: fastrand::i64(1..),
            ttl: self.config.ttl,
        };
        match opening.run(&session_key(&self.config.namespace, opening.lease), owner).await {
            Ok((ttl, created, version)) => {
                let timeout = self.config.request_timeout(ttl);
                let endpoints = Endpoints::new(self.config.clone(), self.options.clone(), timeout);
                tracing::debug!(lease = format!("{:x}", opening.lease), ?ttl, "session opened");
                Ok(Arc::new(EtcdSession::new(endpoints, opening.lease, ttl, created, version)))
            }
            Err(failure) => {
                opening.undo().await;
                Err(self.explain(failure))
            }
        }
    }
}

/// A session that is being opened.
struct Opening {
    endpoints: Endpoints,
    deadline: Instant,
    lease: i64,
    ttl: Duration,
}

impl Opening {
    /// Grants the lease and creates the session's key: the ttl granted, the key's create revision and version.
    async fn run(&self, key: &str, owner: &[u8]) -> Result<(Duration, i64, i64), Failure> {
        let seconds = i64::try_from(self.ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let ttl = self.retry(async |mut connection: Connection| {
            let options = LeaseGrantOptions::new().with_id(self.lease);
            match connection.client.lease_grant(seconds, Some(options)).await {
                Ok(granted) => Ok(granted.ttl()),
                // Granted by an earlier request whose answer was lost.
                Err(error) if meaning(&error) == Meaning::LeaseExists => {
                    Ok(connection.client.lease_time_to_live(self.lease, None).await?.granted_ttl())
                }
                Err(error) => Err(error),
            }
        });
        let ttl = Duration::from_secs(u64::try_from(ttl.await?).unwrap_or_default());
        let created = self.retry(async |mut connection: Connection| {
            let put = TxnOp::put(key, owner, Some(PutOptions::new().with_lease(self.lease)));
            let create = Txn::new()
                .when([Compare::create_revision(key, CompareOp::Equal, 0)])
                .and_then([put, TxnOp::get(key, None)])
                .or_else([TxnOp::get(key, None)]);
            connection.client.txn(create).await
        });
        let created = created.await?.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| (kv.create_revision(), kv.version())),
            _ => None,
        });
        match created {
            Some((revision, version)) => Ok((ttl, revision, version)),
            None => Err(Failure::Etcd(etcd_client::Error::Internal("the session's key vanished".into()))),
        }
    }

    /// Asks one member after the other until one answers or the deadline passes. For requests that may be repeated.
    async fn retry<T, F>(&self, request: impl Fn(Connection) -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let mut pause = Duration::from_millis(10);
        loop {
            let failure = match self.endpoints.request(&request).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Etcd(error)) if meaning(&error) != Meaning::Unavailable => {
                    return Err(Failure::Etcd(error));
                }
                Err(failure) => failure,
            };
            if Instant::now() + pause >= self.deadline {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Best effort: without an answer the ttl does it.
    async fn undo(&self) {
        let revoked =
            self.endpoints.request(async |mut connection: Connection| connection.client.lease_revoke(self.lease).await);
        if let Err(failure) = revoked.await {
            tracing::debug!(?failure, "a lease that may have been granted was left to its ttl");
        }
    }
}
