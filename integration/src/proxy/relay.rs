//! The tasks that move bytes.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::state::{Armed, Link, Order, Shared, Verdict};
use super::{Cut, Direction, Peer};

const CHUNK: usize = 64 * 1024;
const RETRY: Duration = Duration::from_millis(20);
const GRACE: Duration = Duration::from_millis(200);

/// Accepts connections and relays each in a task of its own; the tasks end with this one.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, addr: SocketAddr) {
    let mut listener = Some(listener);
    let mut links = JoinSet::new();
    for id in 0.. {
        let client = accept(&shared, &mut listener, addr).await;
        while links.try_join_next().is_some() {}
        shared.modify(|state| {
            state.counters.accepted += 1;
            state.links.insert(id, Link::default());
        });
        let shared = shared.clone();
        links.spawn(async move {
            relay(&shared, id, client).await;
            shared.modify(|state| state.links.remove(&id));
        });
    }
}

/// Waits for a client, with the port closed while connections are refused.
async fn accept(shared: &Shared, listener: &mut Option<TcpListener>, addr: SocketAddr) -> TcpStream {
    loop {
        let Some(open) = listener else {
            shared.until(|state| !state.refuse).await;
            match TcpListener::bind(addr).await {
                Ok(bound) => {
                    *listener = Some(bound);
                    shared.modify(|state| state.listening = true);
                }
                Err(_) => sleep(RETRY).await,
            }
            continue;
        };
        tokio::select! {
            biased;
            () = shared.until(|state| state.refuse) => {
                *listener = None;
                shared.modify(|state| state.listening = false);
            }
            accepted = open.accept() => match accepted {
                Ok((client, _)) => return client,
                // Out of descriptors, or the client is gone already.
                Err(_) => sleep(RETRY).await,
            },
        }
    }
}

/// Relays one connection until it ends.
async fn relay(shared: &Shared, id: u64, mut client: TcpStream) {
    tokio::select! {
        biased;
        order = ordered(shared, id) => match order.peer {
            Some(Peer::Server) => return silence(shared, id, client).await,
            _ => return end(client, order.cut),
        },
        () = shared.until(|state| !state.blackhole) => {}
    }
    let Some(mut server) = connect(shared, id).await else { return end(client, Cut::Rst) };
    // Without it the proxy would delay small frames that peers send at once. A peer that is gone shows when read.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));

    let order = {
        let (client_reader, client_writer) = client.split();
        let (server_reader, server_writer) = server.split();
        let both = async {
            tokio::try_join!(
                pump(shared, id, Direction::ToServer, client_reader, server_writer),
                pump(shared, id, Direction::ToClient, server_reader, client_writer),
            )
        };
        tokio::select! {
            biased;
            order = ordered(shared, id) => order,
            ended = both => Order { peer: None, cut: if ended.is_ok() { Cut::Fin } else { Cut::Rst } },
        }
    };
    match order.peer {
        None => {
            end(client, order.cut);
            end(server, order.cut);
        }
        Some(Peer::Client) => {
            end(client, order.cut);
            silence(shared, id, server).await;
        }
        Some(Peer::Server) => {
            end(server, order.cut);
            silence(shared, id, client).await;
        }
    }
}

/// Connects to the server, unless that takes longer than an order to end the link may wait.
async fn connect(shared: &Shared, id: u64) -> Option<TcpStream> {
    let mut connecting = pin!(TcpStream::connect(shared.upstream));
    let connected = tokio::select! {
        biased;
        connected = &mut connecting => connected,
        // The server may have accepted already, and must then see the end that was ordered, not that of a socket that
        // is merely dropped.
        _ = ordered(shared, id) => timeout(GRACE, connecting).await.ok()?,
    };
    connected.ok()
}

/// Waits for the order to end a link.
async fn ordered(shared: &Shared, id: u64) -> Order {
    let mut order = None;
    shared
        .until(|state| {
            order = state.order(id);
            order.is_some()
        })
        .await;
    // `until` returns only when the condition has held.
    order.expect("an order was given")
}

/// Moves bytes in one direction until the sender has closed its half, or fails when the connection was reset.
async fn pump(
    shared: &Shared,
    id: u64,
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> io::Result<()> {
    let mut changes = shared.subscribe();
    let mut chunk = vec![0; CHUNK];
    let mut closed = None;
    loop {
        // Before the state is looked at, so that a change right after the look ends the wait below.
        changes.mark_unchanged();
        let mut verdict = Verdict { pass: shared.take(id, direction), then: Vec::new() };
        if verdict.pass.is_empty() {
            if closed.is_some() && shared.read(|state| state.may_end(id, direction)) {
                break;
            }
            tokio::select! {
                biased;
                read = from.read(&mut chunk), if closed.is_none() => match read {
                    Ok(0) => closed = Some(Ok(())),
                    Ok(n) => verdict = shared.modify(|state| state.arrived(id, direction, &chunk[..n])),
                    Err(error) => closed = Some(Err(error)),
                },
                _ = changes.changed() => {}
            }
        }
        let written = to.write_all(&verdict.pass).await;
        for Armed { action, done, .. } in verdict.then {
            shared.modify(|state| state.perform(action));
            // Nobody may wait for it.
            let _ = done.send(());
        }
        if let Err(error) = written {
            // The receiver is gone. Its reset goes the opposite way, and is held back there as its bytes are.
            shared.until(|state| state.may_end(id, direction.opposite())).await;
            return Err(error);
        }
        shared.count(direction, verdict.pass.len());
    }
    match closed {
        Some(Err(error)) => Err(error),
        _ => to.shutdown().await,
    }
}

/// Keeps one half of a link open and silent after the other has ended.
async fn silence(shared: &Shared, id: u64, mut silent: TcpStream) {
    shared.modify(|state| state.severed(id));
    let mut lost = vec![0; CHUNK];
    let mut closed = false;
    loop {
        tokio::select! {
            biased;
            order = ordered(shared, id) => return end(silent, order.cut),
            read = silent.read(&mut lost), if !closed => match read {
                // It may have closed only its own half, and wait for an end that it must not see.
                Ok(0) => closed = true,
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

/// Closes a connection as told. A connection that is broken already needs no closing, so errors mean nothing.
fn end(stream: TcpStream, cut: Cut) {
    match cut {
        Cut::Rst => {
            let _ = stream.set_zero_linger();
        }
        Cut::Fin => {
            let Ok(mut stream) = stream.into_std() else { return };
            let _ = stream.shutdown(Shutdown::Write);
            // Linux turns the close of a socket with unread bytes into a reset.
            while matches!(stream.read(&mut [0; CHUNK]), Ok(1..)) {}
        }
    }
}
