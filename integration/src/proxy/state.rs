//! What all connections of a proxy share, and the rules that decide about each chunk.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{Action, Counters, Cut, Direction, Mode, Peer, When};
use crate::{Error, PATIENCE, Result};

/// The state behind a lock that wakes all tasks when it changes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Debug)]
pub(super) struct State {
    to_server: Mode,
    to_client: Mode,
    pub(super) refuse: bool,
    pub(super) listening: bool,
    pub(super) blackhole: bool,
    pub(super) armed: Vec<Armed>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) counters: Counters,
}

/// One accepted connection and its counterpart.
#[derive(Debug, Default)]
pub(super) struct Link {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Nothing passes any more, because an action is about to cut the link.
    muted: bool,
    order: Option<Order>,
    /// One peer was cut off, the other hears silence.
    severed: bool,
}

/// How to end a link; `peer` is the only one to see it, or both are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) peer: Option<Peer>,
    pub(super) cut: Cut,
}

#[derive(Debug)]
pub(super) struct Armed {
    pub(super) direction: Direction,
    pub(super) when: When,
    pub(super) action: Action,
    pub(super) before: bool,
    pub(super) done: oneshot::Sender<()>,
}

/// What to do with a chunk that has arrived.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Bytes to pass on now.
    pub(super) pass: Vec<u8>,
    /// What to do when they are passed on.
    pub(super) then: Vec<Armed>,
}

impl Shared {
    pub(super) fn new(upstream: SocketAddr) -> Self {
        let state = State {
            to_server: Mode::Pass,
            to_client: Mode::Pass,
            refuse: false,
            listening: true,
            blackhole: false,
            armed: Vec::new(),
            links: BTreeMap::new(),
            counters: Counters::default(),
        };
        Self { upstream, state: watch::Sender::new(state) }
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.borrow())
    }

    pub(super) fn modify<T>(&self, modify: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_modify(|state| result = Some(modify(state)));
        // `send_modify` calls its closure exactly once.
        result.expect("the closure has run")
    }

    /// Takes what may pass now in one direction of a link.
    pub(super) fn take(&self, id: u64, direction: Direction) -> Vec<u8> {
        let mut taken = Vec::new();
        self.state.send_if_modified(|state| {
            taken = state.take(id, direction);
            !taken.is_empty()
        });
        taken
    }

    /// Counts bytes passed on; wakes nobody, because no task waits for the number.
    pub(super) fn count(&self, direction: Direction, n: usize) {
        self.state.send_if_modified(|State { counters, .. }| {
            match direction {
                Direction::ToServer => counters.passed_to_server += n as u64,
                Direction::ToClient => counters.passed_to_clients += n as u64,
            }
            false
        });
    }

    pub(super) async fn until(&self, mut condition: impl FnMut(&State) -> bool + Send) {
        // The sender lives in `self`, so that the channel cannot be closed.
        let _ = self.state.subscribe().wait_for(|state| condition(state)).await;
    }

    pub(super) async fn wait(&self, what: &str, condition: impl FnMut(&State) -> bool + Send) -> Result<()> {
        timeout(PATIENCE, self.until(condition)).await.map_err(|_| late(what, PATIENCE))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

pub(super) fn late(what: &str, limit: Duration) -> Error {
    Error::Timeout { what: what.into(), limit, log: String::new() }
}

impl State {
    pub(super) fn live(&self) -> usize {
        self.links.values().filter(|link| !link.severed).count()
    }

    pub(super) fn is_cutting(&self) -> bool {
        self.links.values().any(|link| link.order.is_some())
    }

    pub(super) fn held(&self, direction: Direction) -> usize {
        self.links.values().map(|link| link.held(direction).len()).sum()
    }

    pub(super) fn mode(&self, direction: Direction) -> Mode {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    pub(super) fn order(&self, id: u64) -> Option<Order> {
        self.links.get(&id)?.order
    }

    /// Notes that the one-sided end of a link is done.
    pub(super) fn severed(&mut self, id: u64) {
        if let Some(link) = self.links.get_mut(&id) {
            *link = Link { severed: true, ..Link::default() };
        }
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Set(direction, mode) => {
                match direction {
                    Direction::ToServer => self.to_server = mode,
                    Direction::ToClient => self.to_client = mode,
                }
                if mode == Mode::Discard {
                    self.links.values_mut().for_each(|link| link.held_mut(direction).clear());
                }
            }
            Action::Cut(cut) => self.end(Order { peer: None, cut }),
            Action::CutOne(peer, cut) => self.end(Order { peer: Some(peer), cut }),
        }
    }

    fn end(&mut self, order: Order) {
        for link in self.links.values_mut() {
            // A half that hears silence already goes on so, or ends.
            if link.severed && order.peer.is_some() {
                continue;
            }
            link.muted = true;
            link.order = Some(order);
        }
    }

    fn take(&mut self, id: u64, direction: Direction) -> Vec<u8> {
        let passes = self.mode(direction) == Mode::Pass;
        let link = self.links.get_mut(&id).filter(|link| passes && !link.muted);
        link.map_or_else(Vec::new, |link| mem::take(link.held_mut(direction)))
    }

    /// Whether a link's end may be shown in one direction: all bytes have passed, and nothing keeps it back.
    pub(super) fn may_end(&self, id: u64, direction: Direction) -> bool {
        let link = self.links.get(&id);
        self.mode(direction) == Mode::Pass && link.is_some_and(|link| !link.muted && link.held(direction).is_empty())
    }

    /// Decides about a chunk that has just been read.
    pub(super) fn arrived(&mut self, id: u64, direction: Direction, chunk: &[u8]) -> Verdict {
        match direction {
            Direction::ToServer => self.counters.sent_by_clients += chunk.len() as u64,
            Direction::ToClient => self.counters.sent_by_server += chunk.len() as u64,
        }
        for Armed { action, done, .. } in self.set_off(direction, chunk, true) {
            self.perform(action);
            // Nobody may wait for it.
            let _ = done.send(());
        }
        let mode = self.mode(direction);
        let Some(link) = self.links.get_mut(&id) else { return Verdict::default() };
        if mode != Mode::Discard {
            link.held_mut(direction).extend(chunk);
        }
        let pass = self.take(id, direction);
        if pass.is_empty() {
            return Verdict::default();
        }
        let then = self.set_off(direction, chunk, false);
        for armed in &then {
            match armed.action {
                // The chunk at hand is taken already; what answers it must find the new rule.
                Action::Set(affected, _) if affected != direction => self.perform(armed.action),
                Action::Set(..) => {}
                Action::Cut(_) | Action::CutOne(..) => self.links.values_mut().for_each(|link| link.muted = true),
            }
        }
        Verdict { pass, then }
    }

    /// Takes out the triggers that a chunk sets off.
    fn set_off(&mut self, direction: Direction, chunk: &[u8], before: bool) -> Vec<Armed> {
        let concerned = |armed: &mut Armed| armed.direction == direction && armed.before == before;
        self.armed.extract_if(.., |armed| concerned(armed) && armed.when.matches(chunk)).collect()
    }
}

impl Link {
    fn held(&self, direction: Direction) -> &[u8] {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    fn held_mut(&mut self, direction: Direction) -> &mut Vec<u8> {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}
