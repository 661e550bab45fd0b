//! One connection to one member at a time, and the next member when it fails.
//!
//! The client's own balancing would send a third of all requests to a dead member, and mix the answers of members that
//! disagree, which makes them useless as proof of life.

use std::future::Future;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error as EtcdError};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::config::Config;
use crate::error::{Meaning, NoAnswer, meaning};

#[derive(Debug)]
pub(crate) struct Endpoints {
    config: Config,
    options: ConnectOptions,
    request_timeout: Duration,
    /// Counts connections given up. Requests and streams of an older epoch are on a connection that is gone.
    epoch: watch::Sender<u64>,
    connection: Mutex<Option<(u64, Connection)>>,
}

/// A connection to one member.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) epoch: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.epoch)
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Etcd(EtcdError),
    NoAnswer(NoAnswer),
}

impl Endpoints {
    pub(crate) fn new(config: Config, options: ConnectOptions, request_timeout: Duration) -> Self {
        // Clients that start together do not all use the first member.
        let first = fastrand::u64(..config.endpoints.len() as u64);
        let epoch = watch::Sender::new(first);
        Self { config, options, request_timeout, epoch, connection: Mutex::default() }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Makes one request to the present member. A failure that another member may not have moves on to the next one.
    pub(crate) async fn request<T, F>(&self, request: impl FnOnce(Connection) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, EtcdError>> + Send,
    {
        let epoch = *self.epoch.borrow();
        let answer = timeout(self.request_timeout, async {
            let connection = self.connection(epoch).await?;
            request(connection).await
        });
        let failure = match answer.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if meaning(&error) != Meaning::Unavailable => return Err(Failure::Etcd(error)),
            Ok(Err(error)) => Failure::Etcd(error),
            Err(_) => Failure::NoAnswer(NoAnswer { endpoint: self.endpoint(epoch), within: self.request_timeout }),
        };
        self.give_up(epoch);
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
            tracing::info!(from = self.endpoint(epoch), to = self.endpoint(epoch + 1), "etcd endpoint given up");
        }
    }

    fn endpoint(&self, epoch: u64) -> String {
        let endpoints = &self.config.endpoints;
        // Never empty: the configuration was checked.
        endpoints[(epoch % endpoints.len() as u64) as usize].clone()
    }

    async fn connection(&self, epoch: u64) -> Result<Connection, EtcdError> {
        let mut current = self.connection.lock().await;
        if let Some((of, connection)) = &*current
            && *of == epoch
        {
            return Ok(connection.clone());
        }
        let client = Client::connect([self.endpoint(epoch)], Some(self.options.clone())).await?;
        let connection = Connection { client, epoch };
        if *self.epoch.borrow() == epoch {
            *current = Some((epoch, connection.clone()));
        }
        Ok(connection)
    }
}
