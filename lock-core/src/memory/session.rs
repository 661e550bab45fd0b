//! A session of the store in memory, as the backend contract wants it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::link::{Fault, Link, Op};
use super::store::{Offer, Outcome, State, Store, key, record};
use crate::backend::{
    Ahead, Change, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Watch, Watched,
    Written,
};
use crate::error::{Error, Result};
use crate::name::Name;

#[derive(Debug)]
pub(super) struct MemorySession {
    store: Arc<Store>,
    link: Link,
    ttl: Duration,
    id: Arc<str>,
}

#[derive(Debug, thiserror::Error)]
#[error("the link to the store in memory was told to fail")]
struct Told;

fn lost(op: &'static str) -> Error {
    Error::unavailable(op, Told)
}

/// Sends one request over the link. The request is applied even when this future is dropped or has given up on it.
async fn request<T: Send + 'static>(
    store: &Arc<Store>,
    link: &Link,
    patience: Duration,
    (op, name): (Op, &'static str),
    apply: impl FnOnce(&mut State, Option<Fault>) -> T + Send + 'static,
) -> Result<T> {
    let fault = link.next_fault(op);
    let way = link.latency();
    let on_the_way = match fault {
        Some(Fault::Delay(longer) | Fault::Late(longer)) => way + longer,
        _ => way,
    };
    // What takes time is boxed: it is rare, and would make every request large.
    let answer = match fault {
        Some(Fault::DropRequest | Fault::Refuse) => {
            Box::pin(tokio::time::sleep(way)).await;
            let refused = fault == Some(Fault::Refuse);
            return Err(if refused { Error::refused(name, Told) } else { lost(name) });
        }
        _ if on_the_way.is_zero() && !link.is_held() => Some(apply(&mut store.lock(), fault)),
        _ => {
            let replied = carry(store.clone(), link.clone(), (on_the_way, way), move |state| apply(state, fault));
            if let Some(Fault::Late(_)) = fault {
                return Err(lost(name));
            }
            Box::pin(tokio::time::timeout(patience, replied)).await.ok().and_then(|answer| answer.ok())
        }
    };
    let dropped = matches!(fault, Some(Fault::DropReply | Fault::Late(_)));
    answer.filter(|_| !dropped).ok_or_else(|| lost(name))
}

/// Takes a request to the store and its answer back, which takes this long on each way.
fn carry<T: Send + 'static>(
    store: Arc<Store>,
    link: Link,
    (there, back): (Duration, Duration),
    apply: impl FnOnce(&mut State) -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (reply, replied) = oneshot::channel();
    tokio::spawn(async move {
        if !there.is_zero() {
            tokio::time::sleep(there).await;
        }
        link.open().await;
        let answer = apply(&mut store.lock());
        if !back.is_zero() {
            tokio::time::sleep(back).await;
        }
        link.open().await;
        let _ = reply.send(answer);
    });
    replied
}

impl MemorySession {
    pub(super) async fn open(store: Arc<Store>, link: Link, ttl: Duration, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let (owner, server) = (owner.to_vec(), Arc::downgrade(&store));
        let opened = request(&store, &link, ttl / 3, (Op::Open, "open a session"), move |state, _| {
            let id = state.open_session(owner, Instant::now() + ttl);
            // Whoever asked may never learn of it.
            tokio::spawn(expire(server, id.clone()));
            id
        });
        let id = opened.await.map_err(|error| Error::Unreachable {
            endpoints: "the store in memory".into(),
            within: ttl / 3,
            source: Arc::new(error),
        })?;
        Ok(Arc::new(Self { store, link, ttl, id }))
    }

    async fn request<T: Send + 'static>(
        &self,
        op: (Op, &'static str),
        apply: impl FnOnce(&mut State, Option<Fault>) -> T + Send + 'static,
    ) -> Result<T> {
        request(&self.store, &self.link, self.ttl / 3, op, apply).await
    }

    /// A watch that ends with what the store tells, or with the connection.
    fn until_cut(&self, changed: oneshot::Receiver<Change>, fault: Option<Fault>) -> Watch {
        let (link, cut) = (self.link.clone(), self.link.next_cut());
        Box::pin(async move {
            let told = async move {
                let Ok(change) = changed.await else { return std::future::pending().await };
                if fault == Some(Fault::LostEvent) {
                    std::future::pending::<()>().await;
                }
                if link.is_held() {
                    // Boxed: it is rare, and every watch would have room for it.
                    Box::pin(link.open()).await;
                }
                change
            };
            tokio::select! {
                biased;
                change = told => change,
                () = cut => Change::Unknown,
            }
        })
    }

    fn over(&self) -> Error {
        Error::SessionOver { session: self.id() }
    }
}

fn placed(entry: Entry, ahead: Option<Ahead>) -> Placed {
    Placed { token: entry.incarnation, entry, ahead }
}

/// The server's side of a session: ends it when it was not renewed in time.
async fn expire(store: Weak<Store>, id: Arc<str>) {
    loop {
        let Some(expires) = store.upgrade().and_then(|store| store.lock().expiry(&id)) else { return };
        if Instant::now() >= expires {
            if let Some(store) = store.upgrade() {
                store.lock().end_session(&id);
            }
            return;
        }
        tokio::time::sleep_until(expires).await;
    }
}

#[async_trait]
impl Session for MemorySession {
    fn id(&self) -> String {
        self.id.to_string()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&self) -> Result<Duration> {
        let (id, ttl) = (self.id.clone(), self.ttl);
        let alive =
            self.request((Op::Renew, "renew the session"), move |state, _| state.renew(&id, Instant::now() + ttl));
        // A tenth for clocks that run apart, as the real backends do.
        if alive.await? { Ok(ttl - ttl / 10) } else { Err(self.over()) }
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let key = key(request.queue, &self.id, request.id);
        loop {
            let mut offer = Offer {
                key: key.clone(),
                session: self.id.clone(),
                fence: self.store.lock().fence(&self.id),
                kind: request.kind,
                value: request.value.to_vec(),
                only_if_free: request.only_if_free,
            };
            let answer = self.request((Op::Enqueue, "enter the queue"), move |state, fault| {
                offer.only_if_free &= fault != Some(Fault::StaleRead);
                let outcome = state.enqueue(offer);
                let ahead = if let Outcome::Placed(entry) = &outcome { state.ahead(entry, 1, false) } else { None };
                (outcome, ahead)
            });
            return match answer.await? {
                (Outcome::Placed(entry), ahead) => Ok(Enqueued::Placed(placed(entry, ahead))),
                (Outcome::Busy, _) => Ok(Enqueued::Busy),
                (Outcome::SessionOver, _) => Err(self.over()),
                (Outcome::FenceMoved, _) => continue,
            };
        }
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let (session, key) = (self.id.clone(), key(request.queue, &self.id, request.id));
        let found = self.request((Op::Adopt, "settle a lost reply"), move |state, _| {
            state.move_fence(&session).then(|| state.find(&key))
        });
        let found = found.await?.ok_or_else(|| self.over())?;
        Ok(found.map(|entry| placed(entry, None)))
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let mine = mine.clone();
        self.request((Op::Ahead, "read the queue"), move |state, fault| {
            state.ahead(&mine, limit, fault == Some(Fault::StaleRead))
        })
        .await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        let entry = entry.clone();
        let watch =
            self.request((Op::Watch, "watch an entry"), move |state, fault| (state.watch(&entry), fault)).await?;
        let (Some(changed), fault) = watch else { return Ok(Watched::Gone) };
        Ok(Watched::Present(self.until_cut(changed, fault)))
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        let queue = queue.segment().to_owned();
        let watch =
            self.request((Op::WatchQueue, "watch the queue"), move |state, fault| (state.watch_queue(&queue), fault));
        let (changed, fault) = watch.await?;
        let watch = self.until_cut(changed, fault);
        Ok(Box::pin(async move {
            watch.await;
        }))
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        let entry = entry.clone();
        self.request((Op::Dequeue, "leave the queue"), move |state, _| state.dequeue(&entry)).await
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        let queue = queue.clone();
        self.request((Op::Entries, "list the queue"), move |state, _| state.entries(&queue, limit)).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        let prefix = prefix.to_owned();
        self.request((Op::Queues, "list the names"), move |state, _| state.names(&prefix)).await
    }

    fn record(&self, queue: &Name) -> Entry {
        record(queue)
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        let entry = entry.clone();
        self.request((Op::Read, "read a value"), move |state, _| state.read(&entry)).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        let (entry, value) = (entry.clone(), value.to_vec());
        self.request((Op::Write, "write a value"), move |state, _| state.write(&entry, version, &value)).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        let mine = mine.clone();
        self.request((Op::Downgrade, "downgrade an entry"), move |state, _| state.downgrade(&mine)).await
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        let session = session.to_owned();
        self.request((Op::Owner, "read a session's owner"), move |state, _| state.owner(&session)).await
    }

    async fn time_left(&self, session: &str) -> Result<Option<Duration>> {
        let session = session.to_owned();
        let request = (Op::TimeLeft, "read how long a session is kept");
        self.request(request, move |state, _| Some(state.expiry(&session)?.saturating_duration_since(Instant::now())))
            .await
    }

    async fn close(&self) -> Result<()> {
        let id = self.id.clone();
        self.request((Op::Close, "end the session"), move |state, _| {
            state.end_session(&id);
        })
        .await
    }
}
