//! Who holds what, by the guards and by the store, and what an operator did to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::poll_fn;
use std::ops::RangeBounds;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lock_core::backend::{Backend, Content, Entry, Kind, QueueEntry, Session, Watched};
use lock_core::memory::{Link, Memory};
use lock_core::owner::Owner;
use lock_core::{Client, Error, Guard, Loss, Name, State, StateWatch};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::plan::{Plan, What};
use crate::play::{Recipe, TTL};
use crate::spy::Removals;

/// Whoever can go on has to do it within this time, as long as the links work: much longer than anything takes, and much
/// shorter than the next recheck of a watch, which hides a wake-up that was lost.
const PROMPTLY: Duration = Duration::from_millis(500);

/// A holder whose entry was removed by hand notices it within this time.
const NOTICED: Duration = Duration::from_millis(1_050);

/// The queues are looked at whenever they change, and this often if they do not.
const TICK: Duration = Duration::from_millis(200);

/// The store as it is, and everything that the clients have been given from it.
pub(crate) struct World {
    /// Seen over a link that always works and takes no time.
    store: Memory,
    operator: Arc<dyn Session>,
    queues: Vec<Name>,
    /// The queues are semaphores.
    limited: bool,
    /// Those in which whoever can go on has to.
    prompt: &'static [&'static str],
    /// After a holder that vanished, the next grant comes this much later.
    delay: Duration,
    pub(crate) links: Vec<Link>,
    /// Whose links work all the time.
    clean: Vec<bool>,
    began: Instant,
    seen: Mutex<Seen>,
    failed: Notify,
}

#[derive(Default)]
struct Seen {
    /// Guards that were valid when last looked at.
    out: Vec<Held>,
    /// The keys of all entries that were granted.
    granted: HashSet<Arc<str>>,
    /// The keys of those that were given back while they were valid.
    let_go: HashSet<Arc<str>>,
    /// The keys of those that are gone from the store, and since when.
    gone: HashMap<Arc<str>, Instant>,
    greatest: HashMap<String, Greatest>,
    /// The keys of entries that an operator removed, and when.
    by_hand: HashMap<Arc<str>, Instant>,
    /// Whose session was ended by hand.
    ended: HashSet<usize>,
    closing: Vec<JoinHandle<()>>,
    /// Since when these entries could be somebody's or gone.
    late: HashMap<Arc<str>, Instant>,
    /// The clients that own these sessions.
    owners: HashMap<String, Option<usize>>,
    sessions: Vec<String>,
    removals: Removals,
    /// Each semaphore's limit, and since when.
    limits: HashMap<String, Vec<(Instant, u32)>>,
    /// The tokens of all entries that were ever seen.
    arrived: BTreeSet<u64>,
    trace: Vec<Grant>,
    failure: Option<String>,
}

/// A guard that was handed out.
struct Held {
    name: String,
    key: Arc<str>,
    kind: Kind,
    token: u64,
    client: usize,
    state: StateWatch,
}

/// The greatest tokens that were granted.
#[derive(Clone, Copy, Default)]
struct Greatest {
    any: u64,
    exclusive: u64,
}

/// One grant of a schedule: when, to which client, with which token.
pub(crate) type Grant = (Duration, usize, u64);

impl World {
    pub(crate) async fn new<R: Recipe>(
        plan: &Plan<R::Action>,
        store: &Memory,
        removals: Removals,
        clients: &[(Client, Link)],
    ) -> Self {
        let store = store.clone().with_own_link();
        let mut sessions = Vec::new();
        for (client, _) in clients {
            sessions.push(client.session_id().await.expect("connected"));
        }
        let operator = store.open(b"").await.expect("memory opens");
        Self {
            operator,
            store,
            queues: R::QUEUES.iter().map(|name| Name::new(name).expect("a valid name")).collect(),
            limited: R::LIMITED,
            prompt: R::PROMPT,
            delay: R::DELAY,
            links: clients.iter().map(|(_, link)| link.clone()).collect(),
            clean: (0..clients.len()).map(|client| plan.is_clean(client)).collect(),
            began: Instant::now(),
            seen: Mutex::new(Seen { sessions, removals, ..Seen::default() }),
            failed: Notify::new(),
        }
    }

    pub(crate) fn is_clean(&self, client: usize) -> bool {
        self.clean[client]
    }

    /// How many queues there are.
    pub(crate) fn queues(&self) -> u32 {
        self.queues.len() as u32
    }

    /// Says that a promise was broken.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let at = self.began.elapsed();
        self.seen().failure.get_or_insert_with(|| format!("at {at:?}: {}", what.into()));
        self.failed.notify_one();
    }

    pub(crate) fn check(&self, promise: bool, what: impl FnOnce() -> String) {
        if !promise {
            self.fail(what());
        }
    }

    /// Resolves when a promise was broken.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// All grants, or the first promise that was broken.
    pub(crate) fn outcome(&self) -> Result<Vec<Grant>, String> {
        let mut seen = self.seen();
        match seen.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut seen.trace)),
        }
    }

    /// Takes note of a guard that somebody was given.
    pub(crate) async fn granted(&self, client: usize, kind: Kind, guard: &Guard) {
        let name = Name::new(guard.name()).expect("a lock has a valid name");
        self.read_limit(&name).await;
        let (key, token) = (guard.entry().key.clone(), guard.token());
        let mut seen = self.seen();
        seen.trace.push((self.began.elapsed(), client, token));
        seen.granted.insert(key.clone());
        seen.prune();
        let removed = seen.by_hand.contains_key(&key);
        if removed {
            // It never held, and has noticed or will.
            seen.let_go.insert(key.clone());
        }
        // Another hold of the same.
        if guard.check().is_err() || seen.out.iter().any(|other| other.key == key) {
            return;
        }
        let mut broken = Vec::new();
        let vanished = seen.vanished(&name).map(|gone| gone.elapsed()).filter(|ago| *ago < self.delay);
        if let Some(ago) = vanished.filter(|_| !removed) {
            broken.push(format!("token {token} is granted {ago:?} after a holder vanished"));
        }
        for other in seen.out.iter().filter(|other| other.name == guard.name() && excludes(kind, other.kind)) {
            if !removed && !seen.by_hand.contains_key(&other.key) {
                broken.push(format!("tokens {} and {token} are both held", other.token));
            }
        }
        let greatest = seen.greatest.entry(guard.name().to_owned()).or_default();
        let before = if is_exclusive(kind) { greatest.any } else { greatest.exclusive };
        if token <= before && !removed {
            broken.push(format!("token {token} after {before}"));
        }
        greatest.any = greatest.any.max(token);
        if is_exclusive(kind) {
            greatest.exclusive = greatest.exclusive.max(token);
        }
        if !removed {
            let entries = self.store.entries(&name);
            let limit = seen.highest_limit(guard.name(), self.reach(client));
            match entries.iter().position(|entry| entry.entry.key == key) {
                None => broken.push(format!("token {token} is granted, and its entry is gone")),
                Some(at) if !seen.entitled(&entries, limit)[at] => {
                    broken.push(format!("token {token} is granted too early: {}", Shown(&entries)));
                }
                Some(_) => {}
            }
        }
        let held = Held { name: guard.name().to_owned(), key, kind, token, client, state: guard.watch() };
        seen.out.push(held);
        drop(seen);
        broken.into_iter().for_each(|what| self.fail(what));
    }

    /// Takes note of something else that was done.
    pub(crate) fn done(&self, client: usize, what: u64) {
        let grant = (self.began.elapsed(), client, what);
        self.seen().trace.push(grant);
    }

    /// Takes note that from now on a guard stands for less.
    pub(crate) fn turns(&self, guard: &Guard, into: Kind) {
        let key = &guard.entry().key;
        self.seen().out.iter_mut().filter(|held| held.key == *key).for_each(|held| held.kind = into);
    }

    /// Takes note of the guard that another one was turned into.
    pub(crate) fn turned(&self, client: usize, kind: Kind, guard: &Guard) {
        let (name, key, token) = (guard.name().to_owned(), guard.entry().key.clone(), guard.token());
        if guard.check().is_err() {
            return;
        }
        let mut seen = self.seen();
        seen.prune();
        let removed = seen.by_hand.contains_key(&key);
        let greatest = seen.greatest.get(&name).copied().unwrap_or_default();
        let overtaken = !removed && token < greatest.exclusive;
        seen.out.push(Held { name, key, kind, token, client, state: guard.watch() });
        drop(seen);
        self.check(!overtaken, || format!("token {} was granted before {token} was given back", greatest.exclusive));
    }

    /// Takes note that a limit may have been in force for less than a moment, too short for the witness.
    pub(crate) fn limited(&self, name: &str, limit: u32) {
        let mut seen = self.seen();
        let limits = seen.limits.entry(name.to_owned()).or_default();
        let last = limits.last().map_or(limit, |(_, last)| *last);
        limits.extend([(Instant::now(), limit), (Instant::now(), last)]);
    }

    /// Takes note that a guard is given back.
    pub(crate) fn lets_go(&self, guard: &Guard) {
        if guard.check().is_ok() {
            self.seen().let_go.insert(guard.entry().key.clone());
        }
    }

    /// Whether the link of every client works all the time.
    pub(crate) fn all_clean(&self) -> bool {
        self.clean.iter().all(|clean| *clean)
    }

    /// Whether an operator has removed anything.
    pub(crate) fn any_by_hand(&self) -> bool {
        !self.seen().by_hand.is_empty()
    }

    /// How many entries with tokens in this range were ever seen.
    pub(crate) fn arrived(&self, tokens: impl RangeBounds<u64>) -> usize {
        self.seen().arrived.range(tokens).count()
    }

    /// The tokens in a queue.
    pub(crate) fn tokens(&self, queue: &Name) -> Vec<u64> {
        self.store.entries(queue).iter().filter_map(|entry| entry.token).collect()
    }

    /// The value of an entry.
    pub(crate) async fn value(&self, entry: &Entry) -> Option<Vec<u8>> {
        let content = self.operator.read(entry).await.expect("the operator's link works");
        content.map(|content| content.value)
    }

    /// The record of a name.
    pub(crate) async fn record(&self, name: &Name) -> Content {
        let record = self.operator.record(name);
        self.operator.read(&record).await.expect("the operator's link works").unwrap_or_default()
    }

    /// Resolves when the record of a name may have changed since this was called; every now and then at the latest.
    pub(crate) async fn record_changed(&self, name: &Name) {
        let watched = self.operator.watch(&self.operator.record(name)).await;
        let Ok(Watched::Present(changed)) = watched else { panic!("the operator's link works: {watched:?}") };
        let _ = timeout(TICK, changed).await;
    }

    /// The value of the entry with this key.
    pub(crate) fn value_of(&self, key: &str) -> Option<Vec<u8>> {
        let mut entries = self.queues.iter().flat_map(|queue| self.store.entries(queue));
        entries.find(|entry| *entry.entry.key == *key).map(|entry| entry.value)
    }

    /// Whether an entry is in the store.
    pub(crate) fn is_there(&self, entry: &Entry) -> bool {
        self.queues.iter().any(|queue| self.store.entries(queue).iter().any(|other| other.entry == *entry))
    }

    /// Whether anything is in the store.
    pub(crate) fn left(&self) -> Option<String> {
        let left: Vec<_> = self.queues.iter().flat_map(|queue| self.store.entries(queue)).collect();
        (!left.is_empty()).then(|| Shown(&left).to_string())
    }

    pub(crate) fn session_count(&self) -> usize {
        self.store.session_count()
    }

    /// What there is, and otherwise a good excuse.
    pub(crate) fn or_excuse<T>(&self, client: usize, outcome: lock_core::Result<Option<T>>) -> Option<T> {
        outcome.unwrap_or_else(|error| {
            self.excuse(client, &error);
            None
        })
    }

    /// Judges an error: it needs a reason.
    pub(crate) fn excuse(&self, client: usize, error: &Error) {
        let seen = self.seen();
        let excused = match error {
            Error::Timeout { .. } => true,
            Error::EntryRemoved { .. } | Error::Lost { loss: Loss::EntryRemoved, .. } => !seen.by_hand.is_empty(),
            Error::SessionLost { .. } | Error::SessionOver { .. } | Error::Lost { .. } => {
                !self.clean[client] || seen.ended.contains(&client)
            }
            Error::Refused { .. } => !self.clean[client],
            error => !self.clean[client] && error.is_retryable(),
        };
        drop(seen);
        self.check(excused, || format!("client {client}: {error:?}"));
    }

    /// Breaks something.
    pub(crate) async fn break_it(&self, client: usize, what: &What, connected: &Client) {
        match what {
            What::Fault(op, fault) => self.links[client].plan(*op, *fault),
            What::Hold => self.links[client].hold(),
            What::Resume => self.links[client].resume(),
            What::Cut => self.links[client].cut(),
            What::Expire => {
                let session = self.seen().sessions[client].clone();
                self.take_by_hand(|entry| entry.session == session);
                self.seen().ended.insert(client);
                self.store.expire_session(&session);
            }
            What::Close => {
                self.seen().ended.insert(client);
                let client = connected.clone();
                let closing = tokio::spawn(async move { client.close().await });
                self.seen().closing.push(closing);
            }
            What::Remove(nth) => {
                if let Some(key) = self.nth(*nth).map(|entry| entry.key) {
                    self.take_by_hand(|entry| entry.entry.key == key);
                    self.store.remove_entry(&key);
                }
            }
            What::Touch(nth) => {
                if let Some(entry) = self.nth(*nth)
                    && let Ok(Some(content)) = self.operator.read(&entry).await
                {
                    let _ = self.operator.write(&entry, content.version, &content.value).await;
                }
            }
        }
    }

    /// Resolves when every client that was to be closed is closed.
    pub(crate) async fn closed(&self) {
        let closing = std::mem::take(&mut self.seen().closing);
        for client in closing {
            let _ = client.await;
        }
    }

    fn nth(&self, nth: usize) -> Option<Entry> {
        let mut entries: Vec<_> = self.queues.iter().flat_map(|queue| self.store.entries(queue)).collect();
        let at = nth % entries.len().max(1);
        (!entries.is_empty()).then(|| entries.swap_remove(at).entry)
    }

    fn take_by_hand(&self, which: impl Fn(&QueueEntry) -> bool) {
        let entries = self.queues.iter().flat_map(|queue| self.store.entries(queue)).filter(which);
        let removed = entries.map(|entry| (entry.entry.key, Instant::now()));
        self.seen().by_hand.extend(removed);
    }

    /// Looks at the store at every change.
    pub(crate) async fn witness(&self) {
        loop {
            let mut stirs = Vec::new();
            for queue in &self.queues {
                stirs.push(self.operator.watch_queue(queue).await.expect("the operator's link works"));
                let record = self.operator.watch(&self.operator.record(queue)).await;
                let Ok(Watched::Present(changed)) = record else { panic!("the operator's link works: {record:?}") };
                stirs.push(Box::pin(async move {
                    let _ = changed.await;
                }));
            }
            self.look().await;
            let mut tick = pin!(sleep(TICK));
            poll_fn(|cx| {
                let stirred = stirs.iter_mut().any(|stir| stir.as_mut().poll(cx).is_ready());
                if stirred || tick.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    async fn look(&self) {
        for queue in &self.queues {
            self.read_limit(queue).await;
            let entries = self.store.entries(queue);
            self.look_up_owners(&entries).await;
            let prompt = self.prompt.contains(&queue.as_str()).then_some(PROMPTLY + self.delay);
            let broken = self.seen().judge(queue, &entries, &self.clean, prompt);
            broken.into_iter().for_each(|what| self.fail(what));
        }
    }

    async fn look_up_owners(&self, entries: &[QueueEntry]) {
        for entry in entries {
            if self.seen().owners.contains_key(&entry.session) {
                continue;
            }
            let owner = self.operator.owner(&entry.session).await.ok().flatten();
            let client = owner.and_then(|owner| Owner::decode(&owner)?.label?.parse::<usize>().ok());
            let mut seen = self.seen();
            seen.owners.insert(entry.session.clone(), client);
            if let Some(client) = client {
                seen.sessions[client].clone_from(&entry.session);
            }
        }
    }

    async fn read_limit(&self, queue: &Name) {
        if !self.limited {
            return;
        }
        let content = self.record(queue).await;
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(&content.value) else { return };
        let limit = record["limit"].as_u64().expect("a semaphore's record") as u32;
        let mut seen = self.seen();
        let limits = seen.limits.entry(queue.as_str().to_owned()).or_default();
        if limits.last().is_none_or(|(_, last)| *last != limit) {
            limits.push((Instant::now(), limit));
        }
    }

    /// How long ago a client may have learned the limit under which it is granted something.
    fn reach(&self, client: usize) -> Duration {
        if self.clean[client] { Duration::from_millis(100) } else { TTL * 3 }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Forgets the guards that are not valid any more.
    fn prune(&mut self) {
        self.out.retain(|held| !matches!(held.state.state(), State::Lost(_)));
    }

    /// When a holder that had not let go was last gone from a queue.
    fn vanished(&self, queue: &Name) -> Option<Instant> {
        let vanished = self.gone.iter().filter(|(key, _)| is_of(key, queue) && !self.let_go.contains(*key));
        vanished.map(|(_, since)| *since).max()
    }

    /// The highest limit that was in force within this time.
    fn highest_limit(&self, name: &str, within: Duration) -> u64 {
        let Some(limits) = self.limits.get(name) else { return 0 };
        let now = Instant::now();
        let mut highest = 0;
        for (since, limit) in limits.iter().rev() {
            highest = highest.max(u64::from(*limit));
            if now - *since > within {
                break;
            }
        }
        highest
    }

    /// Who may hold in a queue: before the store has removed an entry that was given up, those of the same session need not
    /// count it.
    fn entitled(&self, entries: &[QueueEntry], limit: u64) -> Vec<bool> {
        let mut all = entitled(entries, limit);
        for (at, holds) in all.iter_mut().enumerate() {
            let mine = &entries[at];
            let counts = |other: &&QueueEntry| other.session != mine.session || !self.removals.has(&other.entry.key);
            let ahead = entries[..at].iter().filter(counts).cloned();
            *holds = *holds || entitled(&ahead.chain([mine.clone()]).collect::<Vec<_>>(), limit).ends_with(&[true]);
        }
        all
    }

    /// Compares a queue with what is out, and with what should have happened.
    fn judge(
        &mut self,
        queue: &Name,
        entries: &[QueueEntry],
        clean: &[bool],
        promptly: Option<Duration>,
    ) -> Vec<String> {
        let now = Instant::now();
        let mut broken = Vec::new();
        self.arrived.extend(entries.iter().filter_map(|entry| entry.token));
        let is_there = |key: &str| entries.iter().any(|entry| *entry.entry.key == *key);
        for key in self.granted.iter().filter(|key| is_of(key, queue) && !is_there(key)) {
            let since = self.by_hand.get(key).copied().unwrap_or(now);
            self.gone.entry(key.clone()).or_insert(since);
        }
        self.prune();
        let limit = self.highest_limit(queue.as_str(), Duration::ZERO);
        let entitled = self.entitled(entries, limit);
        for held in self.out.iter().filter(|held| held.name == queue.as_str()) {
            let at = entries.iter().position(|entry| entry.entry.key == held.key);
            // What was granted under a higher limit stays so.
            let holds = at.is_some_and(|at| entitled[at] || matches!(held.kind, Kind::Permits(_)));
            match self.by_hand.get(&held.key) {
                None if !holds => {
                    broken.push(format!("token {} is held, and the queue is {}", held.token, Shown(entries)))
                }
                Some(removed) if clean[held.client] && now - *removed > NOTICED => {
                    broken.push(format!("token {} was removed {:?} ago and is still held", held.token, now - *removed));
                }
                _ => {}
            }
        }
        let Some(promptly) = promptly else { return broken };
        self.late.retain(|key, _| !is_of(key, queue) || is_there(key));
        let mut ahead_is_clean = true;
        for (entry, entitled) in entries.iter().zip(entitled) {
            let owner = self.owners.get(&entry.session).copied().flatten();
            ahead_is_clean &= owner.is_some_and(|owner| clean[owner]);
            let key = &entry.entry.key;
            let granted = self.granted.contains(key);
            let held = self.out.iter().any(|held| held.key == *key);
            let asks_too_much = matches!(entry.kind, Kind::Permits(wanted) if u64::from(wanted) > limit && limit > 0);
            let has_to_move = if granted { !held } else { entitled || asks_too_much };
            if !has_to_move {
                self.late.remove(key);
                continue;
            }
            let since = *self.late.entry(key.clone()).or_insert(now);
            if ahead_is_clean && now - since > promptly {
                let what = if granted { "was given back" } else { "could go on" };
                let token = entry.token.unwrap_or_default();
                broken.push(format!("token {token} {what} {:?} ago: {}", now - since, Shown(entries)));
            }
        }
        broken
    }
}

/// Whether this is the key of an entry of that queue.
fn is_of(key: &str, queue: &Name) -> bool {
    key.strip_prefix(queue.segment()).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether it holds alone.
fn is_exclusive(kind: Kind) -> bool {
    matches!(kind, Kind::Exclusive | Kind::Write | Kind::Candidate)
}

/// Whether two cannot both hold.
fn excludes(one: Kind, other: Kind) -> bool {
    is_exclusive(one) || is_exclusive(other)
}

/// Who holds in a queue, by the definition of the recipe.
fn entitled(entries: &[QueueEntry], limit: u64) -> Vec<bool> {
    let mut taken = 0;
    let mut only_readers = true;
    let holds = |(at, entry): (usize, &QueueEntry)| match entry.kind {
        Kind::Read => only_readers,
        Kind::Permits(wanted) => {
            taken += u64::from(wanted);
            taken <= limit
        }
        kind => {
            only_readers = false;
            !is_exclusive(kind) || at == 0
        }
    };
    entries.iter().enumerate().map(holds).collect()
}

/// A queue for people.
struct Shown<'a>(&'a [QueueEntry]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = |entry: &QueueEntry| (entry.token.unwrap_or_default(), entry.kind, entry.session.clone());
        f.debug_list().entries(self.0.iter().map(entry)).finish()
    }
}
