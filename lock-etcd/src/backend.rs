//! Opens sessions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, Error as EtcdError, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use lock_core::backend::{Backend, Session};
use lock_core::{Error, Result};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Config;
use crate::endpoints::{Connection, Endpoints};
use crate::error::{Failure, Meaning, all_keys};
use crate::keys::session_key;
use crate::session::EtcdSession;

/// etcd as a backend of [`lock_core::Client`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Client, Error};
/// use lock_etcd::Etcd;
///
/// let etcd = Etcd::from_url("etcd://127.0.0.1:1?connect_timeout=200ms")?; // where no etcd is
/// assert!(matches!(Client::connect(etcd).await, Err(Error::Unreachable { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Etcd {
    config: Config,
}

impl Etcd {
    /// Checks the settings and reads the files they name. Makes no connection.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the setting.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// use lock_etcd::{Config, Etcd};
    ///
    /// let mut config = Config::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]);
    /// config.ttl = Duration::from_secs(20);
    /// Etcd::new(config.clone())?;
    /// config.ttl = Duration::from_secs(1);
    /// assert!(Etcd::new(config).unwrap_err().to_string().starts_with(r#"ttl is "1s", expected 2s to 1h"#));
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn new(config: Config) -> Result<Self> {
        config.dialer()?;
        Ok(Self { config })
    }

    /// As [`new`](Self::new), with the settings of a [URL](Config::from_url).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part of the URL.
    ///
    /// # Examples
    /// ```
    /// # use lock_etcd::Etcd;
    /// Etcd::from_url("etcd://10.0.0.1,10.0.0.2,10.0.0.3/locks?ttl=20s")?;
    /// let error = Etcd::from_url("etcds://10.0.0.1?ca=/no/such/file.pem").unwrap_err();
    /// assert!(error.to_string().contains("/no/such/file.pem"), "told now, not by the first lock");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        Self::new(Config::from_url(url)?)
    }

    fn explain(&self, failure: Failure) -> Error {
        match failure.meaning {
            Meaning::AccessDenied => failure.access_denied(&self.config, all_keys(&self.config)),
            Meaning::Refused | Meaning::NoSpace => failure.explain("open a session", "", &self.config),
            _ => Error::Unreachable {
                endpoints: self.config.endpoints.join(","),
                within: self.config.connect_timeout,
                source: failure.source(),
            },
        }
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let endpoints = Endpoints::new(self.config.clone(), self.config.dialer()?, self.config.opening_timeout());
        let mut opening = Opening {
            endpoints: Arc::new(endpoints),
            // Positive, and chosen here, so that a grant whose answer was lost can be repeated.
            lease: fastrand::i64(1..),
            granted: false,
            last: Mutex::new(Failure::no_answer("any member", self.config.connect_timeout)),
        };
        let opened = timeout_at(deadline, opening.run(&self.config, owner)).await;
        match opened.unwrap_or_else(|_| Err(opening.last())) {
            Ok(session) => Ok(Arc::new(session)),
            Err(failure) => Err(self.explain(failure)),
        }
    }
}

/// A session that is being opened. Dropping it before it is done revokes the lease.
struct Opening {
    endpoints: Arc<Endpoints>,
    lease: i64,
    /// Whether there may be a lease that nobody owns.
    granted: bool,
    /// The last failure, for the time when there is none left.
    last: Mutex<Failure>,
}

impl Opening {
    async fn run(&mut self, config: &Config, owner: &[u8]) -> Result<EtcdSession, Failure> {
        self.granted = true;
        let ttl = self.grant(config.ttl).await?;
        let key = session_key(&config.namespace, self.lease);
        let created = self.create(&key, owner).await?;
        if ttl > config.ttl + Duration::from_secs(1) {
            tracing::warn!(asked = ?config.ttl, granted = ?ttl, "etcd granted a longer ttl");
        }
        tracing::debug!(lease = format_args!("{:x}", self.lease), ?ttl, "session opened");
        self.granted = false;
        self.endpoints.set_request_timeout(Config::request_timeout(ttl));
        Ok(EtcdSession::new(self.endpoints.clone(), self.lease, ttl, created))
    }

    /// Grants the lease and returns its ttl.
    async fn grant(&self, ttl: Duration) -> Result<Duration, Failure> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let granted = self.retry(async || {
            let grant = async |connection: Arc<Connection>| {
                let options = LeaseGrantOptions::new().with_id(self.lease);
                Ok(connection.lease.clone().grant(seconds, Some(options)).await?.ttl())
            };
            let granted = match self.endpoints.request(grant).await {
                // Granted by an earlier request whose answer was lost.
                Err(failure) if failure.meaning == Meaning::LeaseExists => {
                    let look = async |connection: Arc<Connection>| {
                        Ok(connection.lease.clone().time_to_live(self.lease, None).await?.granted_ttl())
                    };
                    self.endpoints.request(look).await?
                }
                granted => granted?,
            };
            match u64::try_from(granted) {
                Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
                _ => Err(Failure::unavailable("the lease that was just granted is gone")),
            }
        });
        granted.await
    }

    /// Creates the session's key and returns its create revision.
    async fn create(&self, key: &str, owner: &[u8]) -> Result<i64, Failure> {
        let created = self.retry(async || {
            let put = TxnOp::put(key, owner, Some(PutOptions::new().with_lease(self.lease)));
            let read = || TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
            let create = Txn::new()
                .when([Compare::create_revision(key, CompareOp::Equal, 0)])
                .and_then([put, read()])
                .or_else([read()]);
            let answer = self.endpoints.txn(create).await?;
            let found = answer.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(get) => get.kvs().first().map(etcd_client::KeyValue::create_revision),
                _ => None,
            });
            found.ok_or_else(|| Failure::unavailable("the session's key that was just created is gone"))
        });
        created.await
    }

    /// Asks one member after the other until one answers. For requests that may be repeated.
    async fn retry<T, F>(&self, request: impl Fn() -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let mut pause = Duration::from_millis(10);
        loop {
            match request().await {
                Err(failure) if failure.asks_for_another_member() || failure.meaning == Meaning::Overloaded => {
                    tracing::debug!(?failure, "no session yet");
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = failure;
                }
                definite => return definite,
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn last(&self) -> Failure {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let (true, Ok(runtime)) = (self.granted, tokio::runtime::Handle::try_current()) else { return };
        let (endpoints, lease) = (self.endpoints.clone(), self.lease);
        runtime.spawn(async move {
            let revoke = async |connection: Arc<Connection>| -> Result<_, EtcdError> {
                connection.lease.clone().revoke(lease).await
            };
            if let Err(failure) = endpoints.request(revoke).await {
                tracing::debug!(?failure, "a lease that may have been granted is left to its ttl");
            }
        });
    }
}
