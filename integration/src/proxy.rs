//! A TCP relay that fails on command.

mod fault;
mod relay;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::fault::{Action, Cut, Direction, Mode, Peer, When};
use self::state::{Armed, Shared, State};
use crate::{Error, PATIENCE, Port, Result};

/// What went through a proxy since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Bytes that clients sent.
    pub sent_by_clients: u64,
    /// Bytes that the server sent.
    pub sent_by_server: u64,
    /// Bytes passed on to the server.
    pub passed_to_server: u64,
    /// Bytes passed on to clients.
    pub passed_to_clients: u64,
}

/// A relay between clients and one server.
///
/// Modes and actions concern all connections, those live and those to come. All that a method or an action changes,
/// it changes at once: no byte that arrives later is treated by the old rule. Connections end when the proxy is dropped.
///
/// # Examples
///
/// Drop exactly the reply of a request:
///
/// ```no_run
/// # async fn example() -> integration::Result<()> {
/// use integration::{Action, Cut, Direction, Etcd, Mode, Proxy, When};
///
/// let etcd = Etcd::single().await?;
/// let proxy = Proxy::start(etcd.addr(0)).await?;
/// let request = When::Contains(b"locks/a".to_vec());
/// let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
/// // ... the client sends its request ...
/// sent.fired().await?;
/// // ... wait until the server has done what it was asked, then let the client see nothing but the end ...
/// proxy.cut(Cut::Rst).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: Port,
    relay: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream` on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::NoPort`], or [`Error::Io`] when the port cannot be bound.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        // A claimed port, because refusing connections closes the listener for a while.
        let port = Port::claim()?;
        let listener = TcpListener::bind(port.addr()).await.map_err(Error::io("listen for the proxy's clients"))?;
        let shared = Arc::new(Shared::new(upstream));
        let relay = tokio::spawn(relay::serve(shared.clone(), listener, port.addr()));
        Ok(Self { shared, port, relay })
    }

    /// The address for clients.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The `host:port` for clients.
    pub fn endpoint(&self) -> String {
        self.addr().to_string()
    }

    /// Changes what happens to the bytes of one direction.
    pub fn set(&self, direction: Direction, mode: Mode) {
        self.shared.modify(|state| state.perform(Action::Set(direction, mode)));
    }

    /// Changes what happens to the bytes of both directions, as a broken network does.
    pub fn set_both(&self, mode: Mode) {
        self.shared.modify(|state| {
            state.perform(Action::Set(Direction::ToServer, mode));
            state.perform(Action::Set(Direction::ToClient, mode));
        });
    }

    /// Closes all live connections towards both peers, loses what is held for them, and returns when that is done.
    ///
    /// The server may have requests of the connection in hand; a server such as etcd gives those up that it has not
    /// begun. To lose a reply for certain, hold it and wait until the request has had its effect.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the proxy's tasks do not get to run.
    pub async fn cut(&self, cut: Cut) -> Result<()> {
        self.shared.modify(|state| state.perform(Action::Cut(cut)));
        self.shared.wait("the proxy to cut its connections", |state| !state.is_cutting()).await
    }

    /// Closes all live connections towards one peer; the other hears nothing more on its half, which stays open, and
    /// what it sends is lost.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub async fn cut_one(&self, peer: Peer, cut: Cut) -> Result<()> {
        self.shared.modify(|state| state.perform(Action::CutOne(peer, cut)));
        self.shared.wait("the proxy to cut its connections", |state| !state.is_cutting()).await
    }

    /// Refuses new connections as a port does on which nobody listens, or accepts them again; live ones go on.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the port cannot be bound again.
    pub async fn refuse(&self, refuse: bool) -> Result<()> {
        self.shared.modify(|state| state.refuse = refuse);
        self.shared.wait("the proxy's port to open or close", |state| state.listening != refuse).await
    }

    /// Lets new connections find silence, or takes them up again; live ones go on.
    ///
    /// They are accepted, since a listening port cannot do otherwise, but nothing they send is read; those that still
    /// wait when this ends are connected to the server then, as after a lost SYN.
    pub fn blackhole_new(&self, blackhole: bool) {
        self.shared.modify(|state| state.blackhole = blackhole);
    }

    /// Acts on the chunk that `when` describes, before it is passed on: the action decides about this chunk already.
    ///
    /// The trigger fires once, and stays armed when the returned value is dropped.
    pub fn before(&self, direction: Direction, when: When, action: Action) -> Trigger {
        self.arm(direction, when, action, true)
    }

    /// Acts on the chunk that `when` describes, after it was passed on and before any byte that answers it is.
    ///
    /// Chunks that are held or lost do not count. The trigger fires once, and stays armed when the returned value is
    /// dropped.
    pub fn after(&self, direction: Direction, when: When, action: Action) -> Trigger {
        self.arm(direction, when, action, false)
    }

    /// Ends every fault: both directions pass, new connections are accepted and connected, and no trigger is armed.
    ///
    /// # Errors
    ///
    /// As [`refuse`](Self::refuse).
    pub async fn heal(&self) -> Result<()> {
        self.shared.modify(|state| state.armed.clear());
        self.set_both(Mode::Pass);
        self.blackhole_new(false);
        self.refuse(false).await
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        self.shared.read(|state| state.counters)
    }

    /// The number of live connections: those accepted that neither peer nor the proxy has ended.
    pub fn connections(&self) -> usize {
        self.shared.read(State::live)
    }

    /// The number of bytes held in one direction, of all connections together.
    pub fn held(&self, direction: Direction) -> usize {
        self.shared.read(|state| state.held(direction))
    }

    /// Waits until exactly `n` connections are live.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after [`PATIENCE`].
    pub async fn wait_for_connections(&self, n: usize) -> Result<()> {
        self.shared.wait("the proxy's connections", |state| state.live() == n).await
    }

    /// Waits until at least `n` bytes are held in one direction, for example a reply.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after [`PATIENCE`].
    pub async fn wait_for_held(&self, direction: Direction, n: usize) -> Result<()> {
        self.shared.wait("bytes to hold", |state| state.held(direction) >= n).await
    }

    fn arm(&self, direction: Direction, when: When, action: Action, before: bool) -> Trigger {
        let (done, fired) = oneshot::channel();
        self.shared.modify(|state| state.armed.push(Armed { direction, when, action, before, done }));
        Trigger { fired, shared: self.shared.clone() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.relay.abort();
        self.shared.modify(|state| state.armed.clear());
    }
}

/// An armed action of a [`Proxy`].
#[derive(Debug)]
pub struct Trigger {
    fired: oneshot::Receiver<()>,
    shared: Arc<Shared>,
}

impl Trigger {
    /// Waits until the action is done.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after [`PATIENCE`], or at once when the proxy was healed or dropped.
    pub async fn fired(self) -> Result<()> {
        match timeout(PATIENCE, self.fired).await {
            Ok(Ok(())) => self.shared.wait("the proxy to cut its connections", |state| !state.is_cutting()).await,
            Ok(Err(_)) => Err(state::late("a trigger that is no longer armed", Duration::ZERO)),
            Err(_) => Err(state::late("a trigger to fire", PATIENCE)),
        }
    }
}
