//! All watches of a session, on one stream.
//!
//! Watches are opened "from now": a watch from a revision that has passed is served by etcd in a batch every 100 ms. Nothing
//! is missed, because a watch in force says from which revision on it tells, and the key is read at that revision or later.

use std::sync::Arc;

use etcd_client::{Error as EtcdError, WatchRequestSender, WatchResponseStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints};
use crate::error::{Failure, Meaning};
use crate::table::{Command, Confirmation, Subject, Table, Watching};

#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    stream: tokio::sync::Mutex<Option<Stream>>,
}

impl Watches {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, stream: tokio::sync::Mutex::default() }
    }

    /// Watches for the next change. Returns when the watch is in force, with the revision behind which it misses nothing.
    pub(crate) async fn watch(&self, subject: &Subject) -> Result<(Watching, i64), Failure> {
        let refused = match self.watch_once(subject).await {
            Err(failure) if matches!(failure.meaning, Meaning::AccessDenied | Meaning::StaleLogin) => failure,
            answer => return answer,
        };
        // A stream keeps the token that it was opened with, and the server may have forgotten that one.
        tracing::debug!(?refused, "a watch was refused, logging in again");
        self.watch_once(subject).await
    }

    async fn watch_once(&self, subject: &Subject) -> Result<(Watching, i64), Failure> {
        let within = self.endpoints.request_timeout();
        let (epoch, watching, confirmation) = self.open(subject).await?;
        match timeout(within, confirmation).await {
            Ok(Ok(Ok(revision))) => Ok((watching, revision)),
            Ok(Ok(Err(failure))) => {
                self.endpoints.give_up(epoch);
                Err(failure)
            }
            Ok(Err(_)) => Err(Failure::unavailable("the watch stream ended")),
            Err(_) => {
                self.endpoints.give_up(epoch);
                Err(Failure::no_answer("the watch stream", within))
            }
        }
    }

    /// Ends every watch.
    pub(crate) async fn close(&self) {
        self.stream.lock().await.take();
    }

    /// Asks for a watch on the stream of the present connection, opened if need be.
    async fn open(&self, subject: &Subject) -> Result<(u64, Watching, Confirmation), Failure> {
        let mut current = self.stream.lock().await;
        let epoch = *self.endpoints.epochs().borrow();
        if let Some(stream) = &*current
            && stream.epoch == epoch
            && let Some((watching, confirmation)) = stream.table.add(subject)
        {
            return Ok((epoch, watching, confirmation));
        }
        *current = None;
        let (table, mut queue) = Table::new();
        let Some((watching, confirmation)) = table.add(subject) else {
            return Err(Failure::unavailable("the watch stream ended"));
        };
        // A stream opens with a watch: with this one, which the writer must not ask for again.
        let _ = queue.try_recv();
        let (key, options) = (subject.key().to_vec(), subject.options(watching.id));
        let opening = self.endpoints.request(async |connection: Arc<Connection>| {
            let stream = connection.watch.clone().watch(key, Some(options)).await?;
            Ok((connection.epoch, stream))
        });
        let (epoch, stream) = opening.await?;
        tracing::debug!(epoch, "watch stream opened");
        let task = tokio::spawn(serve(self.endpoints.clone(), epoch, stream.split(), queue, table.clone()));
        *current = Some(Stream { epoch, table, task });
        Ok((epoch, watching, confirmation))
    }
}

#[derive(Debug)]
struct Stream {
    epoch: u64,
    table: Arc<Table>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
        self.table.close();
    }
}

/// The task of one stream. When it ends, every watch on it ends without telling.
async fn serve(
    endpoints: Arc<Endpoints>,
    epoch: u64,
    (requests, answers): (WatchRequestSender, WatchResponseStream),
    commands: mpsc::UnboundedReceiver<Command>,
    table: Arc<Table>,
) {
    let mut epochs = endpoints.epochs();
    let moved = async { epochs.wait_for(|now| *now != epoch).await.map(drop) };
    // Requests and answers side by side: on a stalled connection neither must keep the other waiting.
    let ended = tokio::select! {
        _ = moved => None,
        error = write(requests, commands) => error,
        error = read(answers, &table) => error,
    };
    tracing::debug!(epoch, error = ended.as_ref().map(tracing::field::display), "watch stream ended");
    // First, so that whoever is told of the end uses another connection.
    endpoints.give_up(epoch);
    table.close();
}

async fn write(mut requests: WatchRequestSender, mut commands: mpsc::UnboundedReceiver<Command>) -> Option<EtcdError> {
    while let Some(command) = commands.recv().await {
        let sent = match command {
            Command::Open(id, subject) => requests.watch(subject.key(), Some(subject.options(id))).await,
            Command::Close(id) => requests.cancel(id).await,
        };
        if let Err(error) = sent {
            return Some(error);
        }
    }
    None
}

async fn read(mut answers: WatchResponseStream, table: &Table) -> Option<EtcdError> {
    loop {
        match answers.message().await {
            Ok(Some(answer)) => table.digest(&answer),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}
