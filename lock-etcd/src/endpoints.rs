//! One connection to one member at a time, and the next member when it fails.
//!
//! The client's own balancing would send a third of all requests to a dead member, and mix the answers of members that
//! disagree, which makes them useless as proof of life.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    Error as EtcdError, GetOptions, GetResponse, KvClient, LeaseClient, ResponseHeader, Txn, TxnResponse, WatchClient,
};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::config::{Config, Dialer};
use crate::error::Failure;

/// A queue of many thousand entries takes more than the client's default of 4 MiB.
const MAX_ANSWER: usize = 256 << 20;

pub(crate) struct Endpoints {
    config: Config,
    dialer: Dialer,
    /// In nanoseconds.
    request_timeout: AtomicU64,
    /// Counts connections given up. Requests and streams of an older epoch are on a connection that is gone.
    epoch: watch::Sender<u64>,
    connection: Mutex<Option<Arc<Connection>>>,
    /// The cluster that answered first, or 0.
    cluster: AtomicU64,
    /// The latest revision that an answer told of.
    revision: AtomicI64,
}

/// A connection to one member.
pub(crate) struct Connection {
    pub(crate) epoch: u64,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
    /// When the member last answered a request.
    heard: std::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("config", &self.config).field("epoch", &*self.epoch.borrow()).finish()
    }
}

impl Endpoints {
    pub(crate) fn new(config: Config, dialer: Dialer, request_timeout: Duration) -> Self {
        // Clients that start together do not all use the first member.
        let first = fastrand::u64(..config.endpoints.len() as u64);
        let endpoints = Self {
            config,
            dialer,
            request_timeout: AtomicU64::default(),
            epoch: watch::Sender::new(first),
            connection: Mutex::default(),
            cluster: AtomicU64::default(),
            revision: AtomicI64::default(),
        };
        endpoints.set_request_timeout(request_timeout);
        endpoints
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The bound of one request.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_nanos(self.request_timeout.load(Ordering::Relaxed))
    }

    pub(crate) fn set_request_timeout(&self, within: Duration) {
        self.request_timeout.store(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, Failure> {
        let floor = self.revision.load(Ordering::Acquire);
        let request = async |connection: Arc<Connection>| Ok((connection.epoch, connection.kv.clone().txn(txn).await?));
        let (epoch, answer) = self.request(request).await?;
        self.check(epoch, answer.header(), floor)?;
        Ok(answer)
    }

    pub(crate) async fn get(
        &self,
        key: impl Into<Vec<u8>> + Send,
        options: GetOptions,
    ) -> Result<(u64, GetResponse), Failure> {
        let floor = self.revision.load(Ordering::Acquire);
        let request = async |connection: Arc<Connection>| {
            Ok((connection.epoch, connection.kv.clone().get(key, Some(options)).await?))
        };
        let (epoch, answer) = self.request(request).await?;
        self.check(epoch, answer.header(), floor)?;
        Ok((epoch, answer))
    }

    /// Makes one request to the present member. A failure that another member may not have moves on to the next one.
    pub(crate) async fn request<T, F>(&self, request: impl FnOnce(Arc<Connection>) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, EtcdError>> + Send,
    {
        let (sent, within) = (Instant::now(), self.request_timeout());
        let mut epoch = *self.epoch.borrow();
        let mut used = None;
        // Boxed: thousands may have to wait before they make a request, and its state takes kilobytes.
        let answer = timeout(
            within,
            Box::pin(async {
                let connection = self.connection().await?;
                epoch = connection.epoch;
                request(used.insert(connection).clone()).await
            }),
        );
        let failure = match answer.await {
            Ok(Ok(answer)) => {
                if let Some(connection) = used {
                    connection.hear();
                }
                return Ok(answer);
            }
            Ok(Err(error)) => Failure::from(error),
            Err(_) => {
                let failure = Failure::no_answer(self.endpoint(epoch), within);
                // One slow answer among others is no reason to give up a connection with all its streams.
                if used.is_some_and(|connection| connection.heard_since(sent)) {
                    return Err(failure);
                }
                failure
            }
        };
        if failure.asks_for_another_member() {
            self.give_up(epoch);
        }
        Err(failure)
    }

    /// The epoch now; it changes when the connection was given up.
    pub(crate) fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Gives a connection up, unless that has happened already, so that everything moves to the next member.
    pub(crate) fn give_up(&self, epoch: u64) {
        let moved = self.epoch.send_if_modified(|current| {
            let moves = *current == epoch;
            if moves {
                *current += 1;
            }
            moves
        });
        if moved {
            tracing::info!(from = self.endpoint(epoch), to = self.endpoint(epoch + 1), "etcd connection given up");
        }
    }

    /// Answers of another cluster, or of a member that has gone back in time, are no answers: an entry that they do not
    /// show may exist.
    fn check(&self, epoch: u64, header: Option<&ResponseHeader>, floor: i64) -> Result<(), Failure> {
        let problem = match header {
            None => "an answer without a header",
            Some(header) => {
                let first = self.cluster.compare_exchange(0, header.cluster_id(), Ordering::AcqRel, Ordering::Acquire);
                if first.is_err_and(|cluster| cluster != header.cluster_id()) {
                    "an answer of another cluster: the endpoints must be members of one"
                } else if header.revision() < floor {
                    "an answer older than one that was seen before"
                } else {
                    self.revision.fetch_max(header.revision(), Ordering::AcqRel);
                    return Ok(());
                }
            }
        };
        tracing::warn!(endpoint = self.endpoint(epoch), problem);
        self.give_up(epoch);
        Err(Failure::unavailable(problem))
    }

    fn endpoint(&self, epoch: u64) -> &str {
        let endpoints = &self.config.endpoints;
        // Never empty: the configuration was checked.
        &endpoints[(epoch % endpoints.len() as u64) as usize]
    }

    async fn connection(&self) -> Result<Arc<Connection>, EtcdError> {
        let mut current = self.connection.lock().await;
        // Only now: those who waited must not connect to a member that was given up meanwhile.
        let epoch = *self.epoch.borrow();
        if let Some(connection) = &*current
            && connection.epoch == epoch
        {
            return Ok(connection.clone());
        }
        let client = match self.dialer.connect(self.endpoint(epoch), self.request_timeout()).await {
            Ok(client) => client,
            Err(error) => {
                self.give_up(epoch);
                return Err(error);
            }
        };
        let connection = Arc::new(Connection {
            epoch,
            kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
            heard: std::sync::Mutex::default(),
        });
        *current = Some(connection.clone());
        Ok(connection)
    }
}

impl Connection {
    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    fn heard_since(&self, moment: Instant) -> bool {
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some_and(|heard| heard > moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        let config = Config::new(["a:1", "b:1", "c:1"]);
        let dialer = config.dialer().unwrap();
        Endpoints::new(config, dialer, Duration::from_secs(1))
    }

    #[test]
    fn many_failures_of_one_connection_move_on_once() {
        let endpoints = endpoints();
        let first = *endpoints.epoch.borrow();
        let from = endpoints.endpoint(first).to_owned();
        for _ in 0..5 {
            endpoints.give_up(first);
        }
        assert_eq!(*endpoints.epoch.borrow(), first + 1);
        assert_ne!(endpoints.endpoint(first + 1), from);
        assert_eq!(endpoints.endpoint(first + 3), from);
    }

    #[test]
    fn answers_without_a_header_are_no_answers() {
        let endpoints = endpoints();
        let epoch = *endpoints.epoch.borrow();
        assert!(endpoints.check(epoch, None, 0).is_err());
        assert_eq!(*endpoints.epoch.borrow(), epoch + 1, "another member is asked next");
    }
}
