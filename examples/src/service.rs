//! A resource that the processes of an example share: it stands in the first process, and all reach it over loopback.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lock_core::StaleToken;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::setback::Setback;
use crate::trap::Trap;

/// What a lock protects, seen from its own side: it answers requests, and notices when it is used as it must not be.
pub trait Resource: Send + Sync + 'static {
    /// What it is asked.
    type Request: Clone + Serialize + DeserializeOwned + Send + Sync;
    /// What it answers.
    type Answer: Serialize + DeserializeOwned + Send + Sync;

    /// When a process is interrupted on purpose, in words that follow "process 1 is killed".
    const WORST_MOMENT: &'static str;

    /// Whether it refuses tokens that are too old.
    const COMPARES_TOKENS: bool = true;

    /// Whether the sender of this request is at that moment.
    fn is_worst_moment(&self, request: &Self::Request) -> bool;

    /// Whether another process has got as far with this request as the interrupted process would have with its own.
    fn goes_as_far(&self, request: &Self::Request, _interrupted: u32, _its: &Self::Request) -> bool {
        self.is_worst_moment(request)
    }

    /// Takes note of a new connection.
    fn opened(&self, _from: Caller) {}

    /// Takes note of the end of a connection.
    fn closed(&self, _from: Caller) {}

    /// Answers a request, or refuses it because its token is older than one that was seen. Dropped when its sender has gone
    /// away.
    fn answer(
        &self,
        from: Caller,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Answer, StaleToken>> + Send;
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// The number of its process.
    pub process: u32,
    /// The connection, unlike every other one.
    pub connection: u64,
}

/// The resource's answer to a request with a token smaller than one that it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// What is sent to a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Message<Q> {
    Ask(Q),
    /// A request was refused although its sender still held the lock.
    Contest,
}

/// How often tokens were too old.
#[derive(Debug, Default)]
pub struct Tally {
    refused: AtomicU32,
    contested: AtomicU32,
}

impl Tally {
    /// How many requests were refused.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many of them although their senders still held the lock, so that there were two holders.
    pub fn contested(&self) -> u32 {
        self.contested.load(Ordering::Relaxed)
    }
}

/// A resource that is being served. Stops when dropped.
pub struct Service<R: Resource> {
    resource: Arc<R>,
    address: SocketAddr,
    trap: Arc<Trap<R>>,
    tally: Arc<Tally>,
    _serving: JoinSet<()>,
}

impl<R: Resource> fmt::Debug for Service<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<R: Resource> Service<R> {
    /// Serves a resource at a free port of the loopback interface. A service with a trap catches the first process that is
    /// at the worst moment.
    ///
    /// # Errors
    /// That there is no port.
    pub async fn start(resource: R, with_trap: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (resource, trap, tally) = (Arc::new(resource), Arc::new(Trap::new(with_trap)), Arc::default());
        let mut serving = JoinSet::new();
        let desk = Desk { resource: resource.clone(), trap: trap.clone(), tally: Arc::clone(&tally) };
        serving.spawn(serve(listener, desk));
        Ok(Self { resource, address, trap, tally, _serving: serving })
    }

    /// Where it can be reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The resource itself.
    pub fn resource(&self) -> &R {
        &self.resource
    }

    /// How often tokens were too old.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What catches the process to be interrupted.
    pub fn trap(&self) -> &Trap<R> {
        &self.trap
    }
}

/// What answers one connection.
struct Desk<R: Resource> {
    resource: Arc<R>,
    trap: Arc<Trap<R>>,
    tally: Arc<Tally>,
}

impl<R: Resource> Clone for Desk<R> {
    fn clone(&self) -> Self {
        Self { resource: self.resource.clone(), trap: self.trap.clone(), tally: self.tally.clone() }
    }
}

async fn serve<R: Resource>(listener: TcpListener, desk: Desk<R>) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        // A connection that cannot be accepted or breaks off is its client's trouble.
        if let Ok((stream, _)) = accepted {
            connections.spawn(desk.clone().converse(stream, connection));
        }
    }
}

impl<R: Resource> Desk<R> {
    async fn converse(self, stream: TcpStream, connection: u64) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // Dropped last: the client sees the end when it has been taken note of.
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let Some(process) = receive(&mut reader).await? else { return Ok(()) };
        let from = Caller { process, connection };
        self.resource.opened(from);
        let _closed = Closed { resource: &*self.resource, from };
        send(&mut writer, &()).await?;

        while let Some(message) = receive(&mut reader).await? {
            match message {
                Message::Ask(request) => {
                    let answer = tokio::select! {
                        answer = self.answer(from, request) => answer,
                        // The client asks one thing after the other, so this can only be the end.
                        _ = reader.fill_buf() => return Ok(()),
                    };
                    send(&mut writer, &answer).await?;
                }
                Message::Contest => {
                    self.tally.contested.fetch_add(1, Ordering::Relaxed);
                    send(&mut writer, &()).await?;
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, from: Caller, request: R::Request) -> Result<R::Answer, Refused> {
        let caught = self.trap.pass(&self.resource, from.process, &request).await;
        let answer = self.resource.answer(from, request).await;
        if answer.is_err() {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
        }
        if caught {
            self.trap.answered();
        }
        answer.map_err(|stale| Refused(stale.to_string()))
    }
}

struct Closed<'a, R: Resource> {
    resource: &'a R,
    from: Caller,
}

impl<R: Resource> Drop for Closed<'_, R> {
    fn drop(&mut self) {
        self.resource.closed(self.from);
    }
}

/// A connection to a resource.
#[derive(Debug)]
pub struct Connection<R> {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    resource: std::marker::PhantomData<fn() -> R>,
}

impl<R: Resource> Connection<R> {
    /// Opens a connection for a process.
    ///
    /// # Errors
    /// That nobody answers.
    pub async fn open(address: SocketAddr, process: u32) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        send(&mut writer, &process).await?;
        receive::<()>(&mut reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { reader, writer, resource: std::marker::PhantomData })
    }

    /// Asks for something. When this is dropped before the answer has come, the connection is of no use any more.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn ask(&mut self, request: R::Request) -> Result<R::Answer, Setback> {
        Ok(self.exchange::<Result<_, Refused>>(&Message::Ask(request)).await??)
    }

    /// Asks for something that only the holder may have; `check` tells whether this is still the holder.
    ///
    /// # Errors
    /// That the token was too old, or there is no answer.
    pub async fn ask_as_holder(
        &mut self,
        request: R::Request,
        check: impl Fn() -> lock_core::Result<()> + Send,
    ) -> Result<R::Answer, Setback> {
        let answer = self.ask(request).await;
        // The guard of a holder that was replaced must have said so before.
        if matches!(answer, Err(Setback::Refused(_))) && check().is_ok() {
            self.exchange::<()>(&Message::Contest).await?;
        }
        answer
    }

    async fn exchange<T: DeserializeOwned>(&mut self, message: &Message<R::Request>) -> io::Result<T> {
        send(&mut self.writer, message).await?;
        Ok(receive(&mut self.reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?)
    }

    /// Ends the connection and waits until the resource knows it.
    pub async fn close(mut self) {
        // A connection that is broken is closed.
        if self.writer.shutdown().await.is_ok() {
            let _ = self.reader.read(&mut [0]).await;
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, message: &(impl Serialize + Sync)) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// The next message; `None` at the end.
async fn receive<T: DeserializeOwned>(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    Ok(if line.is_empty() { None } else { Some(serde_json::from_slice(&line)?) })
}
