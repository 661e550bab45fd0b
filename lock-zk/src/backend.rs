//! Opens sessions on an ensemble.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{Backend, Session};
use lock_core::clock::{BootClock, Clock, Instant};
use lock_core::{Error, Result};
use tokio::time::{Instant as Deadline, sleep, timeout_at};
use zookeeper_client as zk;
use zookeeper_client::Client;

use crate::config::{Access, Config, Credentials, Scheme};
use crate::error::{NoAnswer, Peer};
use crate::probe::{self, Probed};
use crate::session::{Settings, ZkSession};
use crate::tls::Pem;

/// Between two rounds over all servers.
const PAUSE: Duration = Duration::from_millis(100);

/// How many addresses the client gets, some of them several times.
const ADDRESSES: usize = 9;

/// A ZooKeeper ensemble: the backend to give to `lock_core::Client::connect`.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Client, Error};
/// use lock_zk::ZooKeeper;
///
/// let ensemble = ZooKeeper::from_url("zk://127.0.0.1:1?connect_timeout=200ms")?; // where no ZooKeeper is
/// assert!(matches!(Client::connect(ensemble).await, Err(Error::Unreachable { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    config: Config,
    peer: Peer,
}

impl ZooKeeper {
    /// Checks the settings. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the setting, its value and what is expected; also for a PEM file that cannot be read.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use lock_zk::{Config, ZooKeeper};
    ///
    /// let mut config = Config::new(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    /// config.timeout = Duration::from_secs(15);
    /// ZooKeeper::new(config.clone())?;
    /// config.chroot = "locks".into();
    /// assert!(ZooKeeper::new(config).unwrap_err().to_string().starts_with(r#"chroot is "locks""#));
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn new(config: Config) -> Result<Self> {
        config.validate()?;
        if let Some(tls) = &config.tls {
            Pem::read(tls)?.options()?;
        }
        let peer = Peer { endpoints: config.endpoints().into(), who: config.who().into() };
        Ok(Self { config, peer })
    }

    /// As [`new`](Self::new) with the settings of a URL, see [`Config::from_url`].
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong; never showing a password.
    ///
    /// # Examples
    /// ```
    /// # use lock_zk::ZooKeeper;
    /// ZooKeeper::from_url("zk://10.0.0.1,10.0.0.2,10.0.0.3/team/locks?timeout=15s")?;
    /// let error = ZooKeeper::from_url("zks://10.0.0.1?ca=/no/such/file.pem").unwrap_err();
    /// assert!(error.to_string().contains("/no/such/file.pem"), "told now, not by the first lock");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        Self::new(Config::from_url(url)?)
    }

    /// How long a server is waited for at first.
    ///
    /// The client takes this bound for the opening of a connection as well as for silence on it. Below a quarter of the
    /// timeout, so that when a renewal has failed for want of an answer, the next one uses another server; and so that
    /// several silent servers can be tried in time.
    fn patience(&self) -> Duration {
        (self.config.connect_timeout / 4).clamp(self.config.timeout / 20, self.config.timeout / 8)
    }

    /// How long it is waited for after that was not enough: a server that is slow to answer is better than none. Never so
    /// long that a session whose server falls silent has no time left for another one.
    fn more(&self, patience: Duration) -> Duration {
        (patience * 2).min(self.config.timeout * 2 / 5)
    }

    fn connector(&self, pem: Option<&Pem>, per_server: Duration) -> Result<zk::Connector> {
        let config = &self.config;
        let mut connector = Client::connector()
            .with_session_timeout(config.timeout)
            .with_connection_timeout(per_server)
            .with_fail_eagerly();
        if let Some(pem) = pem {
            connector = connector.with_tls(pem.options()?);
        }
        if let Some(Credentials { user, password, scheme: Scheme::Sasl }) = &config.credentials {
            connector = connector.with_sasl(zk::SaslOptions::digest_md5(user.clone(), password.clone()));
        }
        Ok(connector)
    }

    async fn authenticate(&self, client: &Client) -> Result<()> {
        let Some(Credentials { user, password, scheme: Scheme::Digest }) = &self.config.credentials else {
            return Ok(());
        };
        // Not while connecting: a server with TLS may answer it before the connect request, which the client takes for
        // a fault.
        match client.auth("digest", format!("{user}:{password}").as_bytes()).await {
            Ok(()) => Ok(()),
            Err(error @ zk::Error::AuthFailed) => Err(self.peer.denied("the ensemble", error)),
            Err(error) => Err(self.peer.unreachable(self.config.connect_timeout, Arc::new(error))),
        }
    }

    /// The servers as the client takes them.
    ///
    /// After each round over its addresses the client doubles its pause before the next, without a limit: a connection to
    /// one server that was lost for three seconds is tried again after six. With a longer list the tries are closer.
    fn addresses(&self) -> String {
        let times = (ADDRESSES / self.config.hosts.len()).max(1);
        vec![&*self.peer.endpoints; times].join(",")
    }

    /// Connects to one of the servers, trying them again and again until the deadline, with more patience each time. Returns
    /// when it began, too: the session was created after that.
    async fn connect(&self, deadline: Deadline, patience: &mut Duration) -> Result<(Client, Instant)> {
        let pem = self.config.tls.as_ref().map(Pem::read).transpose()?;
        let within = self.config.connect_timeout;
        // The client keeps the reasons of its failures to itself, so some of the time is kept for finding them out.
        let enough = deadline - (within / 4).min(probe::PATIENCE);
        let addresses = self.addresses();
        loop {
            let connector = self.connector(pem.as_ref(), *patience)?;
            let began = BootClock.now();
            let connecting = async {
                match pem {
                    Some(_) => connector.secure_connect(&addresses).await,
                    None => connector.connect(&addresses).await,
                }
            };
            match timeout_at(enough, connecting).await {
                Ok(Ok(client)) => return Ok((client, began)),
                Ok(Err(error @ zk::Error::AuthFailed)) => return Err(self.peer.denied("the ensemble", error)),
                Ok(Err(error)) => tracing::debug!(servers = %self.peer.endpoints, %error, "no server opened a session"),
                Err(_) => {}
            }
            let probed = timeout_at(deadline, probe::servers(&self.config.hosts, pem.as_ref())).await;
            match probed {
                Ok(Probed { reason, hopeless }) => {
                    if hopeless || Deadline::now() + PAUSE >= enough {
                        return Err(self.peer.unreachable(within, Arc::new(reason)));
                    }
                }
                Err(_) => return Err(self.peer.unreachable(within, Arc::new(NoAnswer(within)))),
            }
            *patience = self.more(*patience);
            sleep(PAUSE).await;
        }
    }

    /// Makes a session of the client's: shows who it is, and creates its node.
    async fn register(&self, client: Client, owner: &[u8], began: Instant) -> Result<Arc<ZkSession>> {
        self.authenticate(&client).await?;
        let granted = client.session_timeout();
        if granted != self.config.timeout {
            tracing::warn!(asked = ?self.config.timeout, ?granted, "the ensemble granted another session timeout");
        }
        let acls = match self.config.acl {
            Access::Open => zk::Acls::anyone_all(),
            Access::Creator => zk::Acls::creator_all(),
        };
        let (chroot, peer) = (self.config.chroot.clone(), self.peer.clone());
        let settings = Settings { chroot, acls, peer, views: self.config.views };
        let session = ZkSession::new(client, settings, owner, began);
        session.register().await?;
        tracing::debug!(session = session.id(), timeout = ?granted, "session opened");
        Ok(session)
    }
}

#[async_trait]
impl Backend for ZooKeeper {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let deadline = Deadline::now() + self.config.connect_timeout;
        let within = self.config.connect_timeout;
        let mut patience = self.patience();
        loop {
            let (client, began) = self.connect(deadline, &mut patience).await?;
            match timeout_at(deadline, self.register(client, owner, began)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error @ (Error::AccessDenied { .. } | Error::Refused { .. }))) => return Err(error),
                // The connection was lost, or the server was too slow. The session goes with its client.
                Ok(Err(error)) if Deadline::now() + PAUSE < deadline => {
                    tracing::debug!(servers = %self.peer.endpoints, %error, "a new session was of no use");
                }
                Ok(Err(error @ Error::Unreachable { .. })) => return Err(error),
                Ok(Err(error)) => return Err(self.peer.unreachable(within, Arc::new(error))),
                Err(_) => return Err(self.peer.unreachable(within, Arc::new(NoAnswer(within)))),
            }
            patience = self.more(patience);
            sleep(PAUSE).await;
        }
    }
}
