//! Probe: what a recipe on ZooKeeper reaches that reads as little as possible. No library: it neither reconnects nor lets
//! a waiter give up.
//!
//! - Acquire: create and list in one write, so in one round trip. Without a predecessor it is granted.
//! - Wait: watch the predecessor. One of this process wakes its successor at the reply to its delete; having been the
//!   holder, it leaves nothing to read. After the event of a foreign one, list once.
//! - Release: one delete.
//!
//! With `--recipe recursive` a persistent recursive watch per lock (ZooKeeper 3.6 and later) tells this process the queue,
//! so that an acquire is a create and nobody reads.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_peers::zk::{self, ADD_WATCH, CHILDREN, CREATE, DELETE, EPHEMERAL_SEQUENTIAL, EVENT, EXISTS, PERSISTENT};
use lock_peers::{Args, Contender, Peer, Result, workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OnceCell, mpsc, oneshot};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    match args.recipe.as_deref() {
        Some("recursive") => workload::run(&args, &Recursive::connect(&args).await?).await,
        None => workload::run(&args, &Predecessor::connect(&args).await?).await,
        Some(other) => Err(format!("no recipe {other}").into()),
    }
}

struct Reply {
    error: i32,
    body: Vec<u8>,
}

impl Reply {
    fn ok(self) -> Result<Vec<u8>> {
        if self.error == 0 { Ok(self.body) } else { Err(format!("error {}", self.error).into()) }
    }
}

struct Request {
    op: i32,
    body: Vec<u8>,
    reply: oneshot::Sender<Reply>,
}

/// Replies come in the order of the requests.
type Unanswered = Arc<Mutex<VecDeque<oneshot::Sender<Reply>>>>;

/// A session; what is asked for while the writer is busy goes out in one write.
#[derive(Clone)]
struct Session(mpsc::UnboundedSender<Request>);

impl Session {
    async fn connect(args: &Args, on_event: impl FnMut(i32, &str) + Send + 'static) -> Result<Self> {
        let stream = TcpStream::connect(&args.endpoints[0]).await?;
        stream.set_nodelay(true)?;
        let (input, mut output) = stream.into_split();
        let mut input = BufReader::with_capacity(1 << 16, input);
        let hello = zk::connect_body(args.ttl.as_millis() as i32);
        output.write_all(&[&(hello.len() as i32).to_be_bytes(), &hello[..]].concat()).await?;
        read_frame(&mut input).await?;
        let (requests, queue) = mpsc::unbounded_channel();
        let unanswered = Unanswered::default();
        tokio::spawn(write(output, queue, unanswered.clone(), args.ttl / 3));
        tokio::spawn(read(input, unanswered, on_event));
        Ok(Self(requests))
    }

    fn request(&self, op: i32, body: Vec<u8>) -> oneshot::Receiver<Reply> {
        let (reply, answered) = oneshot::channel();
        // If the session has ended, the receiver says so.
        let _ = self.0.send(Request { op, body, reply });
        answered
    }

    fn create(&self, path: &str, flags: i32) -> oneshot::Receiver<Reply> {
        self.request(CREATE, zk::create_body(path, flags))
    }

    fn children(&self, path: &str) -> oneshot::Receiver<Reply> {
        self.request(CHILDREN, zk::read_body(path, false))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.request(DELETE, zk::delete_body(path)).await?.ok()?;
        Ok(())
    }

    async fn create_parents(&self, path: &str) -> Result<()> {
        for path in zk::ancestors(path) {
            self.create(path, PERSISTENT).await?; // it may be there already
        }
        Ok(())
    }

    async fn child_count(&self, path: &str) -> Result<u64> {
        let reply = self.request(EXISTS, zk::read_body(path, false)).await?;
        Ok(if reply.error == zk::NO_NODE { 0 } else { zk::child_count(&reply.ok()?) })
    }
}

async fn write(
    mut output: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Request>,
    unanswered: Unanswered,
    idle: Duration,
) -> Result<()> {
    let mut xid = 0;
    loop {
        let mut bytes = Vec::new();
        let mut frame = |xid: i32, op: i32, body: &[u8]| {
            bytes.extend((body.len() as i32 + 8).to_be_bytes());
            bytes.extend(xid.to_be_bytes());
            bytes.extend(op.to_be_bytes());
            bytes.extend(body);
        };
        match tokio::time::timeout(idle, queue.recv()).await {
            Err(_) => frame(zk::PING_XID, zk::PING, &[]),
            Ok(None) => return Ok(()),
            Ok(Some(first)) => {
                let mut next = Some(first);
                while let Some(request) = next {
                    xid += 1;
                    frame(xid, request.op, &request.body);
                    lock(&unanswered).push_back(request.reply);
                    next = queue.try_recv().ok();
                }
            }
        }
        output.write_all(&bytes).await?;
    }
}

async fn read(
    mut input: BufReader<OwnedReadHalf>,
    unanswered: Unanswered,
    mut on_event: impl FnMut(i32, &str),
) -> Result<()> {
    loop {
        let frame = read_frame(&mut input).await?;
        match zk::int_at(&frame, 0) {
            EVENT => on_event(zk::int_at(&frame, 16), zk::text_at(&frame, 24)),
            zk::PING_XID => {}
            _ => {
                let reply = lock(&unanswered).pop_front().ok_or("a reply that nobody asked for")?;
                // Whoever does not wait for it does not need it.
                let _ = reply.send(Reply { error: zk::int_at(&frame, 12), body: frame[16..].to_vec() });
            }
        }
    }
}

async fn read_frame(input: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>> {
    let mut frame = vec![0; input.read_i32().await? as usize];
    input.read_exact(&mut frame).await?;
    Ok(frame)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Predecessor {
    session: Session,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    /// By the path of a predecessor: who waits. It is told whether the predecessor was the holder.
    waiters: HashMap<String, oneshot::Sender<bool>>,
    /// Held by this process, with the delete under way. Its event may come before the reply.
    releasing: HashSet<String>,
}

impl Watched {
    fn gone(&mut self, path: &str, held: bool) {
        if let Some(waiter) = self.waiters.remove(path) {
            // Nobody is there any more only when the program ends.
            let _ = waiter.send(held);
        }
    }
}

impl Predecessor {
    async fn connect(args: &Args) -> Result<Self> {
        let watched = Arc::<Mutex<Watched>>::default();
        let seen = watched.clone();
        let session = Session::connect(args, move |kind, path| {
            if kind == zk::DELETED {
                let mut watched = lock(&seen);
                let held = watched.releasing.contains(path);
                watched.gone(path, held);
            }
        });
        Ok(Self { session: session.await?, watched })
    }
}

impl Contender for Predecessor {
    type Guard = String;

    async fn acquire(&mut self, name: &str) -> Result<String> {
        let node = format!("{name}/{}", zk::STEM);
        let enqueue = || (self.session.create(&node, EPHEMERAL_SEQUENTIAL), self.session.children(name));
        let (created, mut listed) = enqueue();
        let mut reply = created.await?;
        if reply.error == zk::NO_NODE {
            self.session.create_parents(name).await?;
            let again = enqueue();
            (reply, listed) = (again.0.await?, again.1);
        }
        let own = zk::text_at(&reply.ok()?, 0).to_owned();
        let place = zk::sequence(&own);
        loop {
            let listing = listed.await?.ok()?;
            let ahead = zk::children(&listing).into_iter().filter(|node| zk::sequence(node) < place);
            let Some(last) = ahead.max_by_key(|node| zk::sequence(node)) else { return Ok(own) };
            let predecessor = format!("{name}/{last}");
            let (waiter, woken) = oneshot::channel();
            lock(&self.watched).waiters.insert(predecessor.clone(), waiter);
            if self.session.request(EXISTS, zk::read_body(&predecessor, true)).await?.error == 0 {
                if woken.await? {
                    return Ok(own);
                }
            } else {
                lock(&self.watched).waiters.remove(&predecessor);
            }
            listed = self.session.children(name);
        }
    }

    async fn release(&mut self, own: String) -> Result<()> {
        lock(&self.watched).releasing.insert(own.clone());
        self.session.delete(&own).await?;
        let mut watched = lock(&self.watched);
        watched.releasing.remove(&own);
        watched.gone(&own, true);
        Ok(())
    }
}

impl Peer for Predecessor {
    type Contender = Self;

    async fn contender(&self) -> Result<Self> {
        Ok(self.clone())
    }

    async fn queued(&self, name: &str) -> Result<u64> {
        self.session.child_count(name).await
    }
}

#[derive(Clone)]
struct Recursive {
    session: Session,
    queues: Queues,
}

/// By the name of the lock.
type Queues = Arc<Mutex<HashMap<String, Queue>>>;

/// The nodes of a lock, and who waits here for one of them to be the first.
#[derive(Default)]
struct Queue {
    watched: Arc<OnceCell<()>>,
    nodes: BTreeSet<i64>,
    waiters: HashMap<i64, oneshot::Sender<()>>,
    /// Deleted before the first listing was read, in which they may stand.
    gone: HashSet<i64>,
}

impl Queue {
    fn remove(&mut self, node: i64) {
        if !self.nodes.remove(&node) && !self.watched.initialized() {
            self.gone.insert(node);
        }
        self.wake_first();
    }

    fn wake_first(&mut self) {
        if let Some(waiter) = self.nodes.first().and_then(|first| self.waiters.remove(first)) {
            // Nobody is there any more only when the program ends.
            let _ = waiter.send(());
        }
    }
}

impl Recursive {
    async fn connect(args: &Args) -> Result<Self> {
        let queues = Queues::default();
        let seen = queues.clone();
        let session = Session::connect(args, move |kind, path| {
            let Some((name, node)) = path.rsplit_once('/') else { return };
            let mut queues = lock(&seen);
            let Some(queue) = queues.get_mut(name) else { return };
            match kind {
                zk::CREATED => drop(queue.nodes.insert(zk::sequence(node))),
                zk::DELETED => queue.remove(zk::sequence(node)),
                _ => {}
            }
        });
        Ok(Self { session: session.await?, queues })
    }

    fn with_queue<T>(&self, name: &str, change: impl FnOnce(&mut Queue) -> T) -> T {
        change(lock(&self.queues).entry(name.to_owned()).or_default())
    }

    async fn watch(&self, name: &str) -> Result<()> {
        const PERSISTENT_RECURSIVE: i32 = 1; // the mode of the watch
        self.session.create_parents(name).await?;
        let mut body = Vec::new();
        zk::put_text(&mut body, name);
        body.extend(PERSISTENT_RECURSIVE.to_be_bytes());
        let (watched, listed) = (self.session.request(ADD_WATCH, body), self.session.children(name));
        watched.await?.ok()?;
        let listing = listed.await?.ok()?;
        self.with_queue(name, |queue| {
            let nodes = zk::children(&listing).into_iter().map(zk::sequence);
            queue.nodes.extend(nodes.filter(|node| !queue.gone.contains(node)));
            queue.gone.clear();
        });
        Ok(())
    }
}

impl Contender for Recursive {
    type Guard = (String, String);

    async fn acquire(&mut self, name: &str) -> Result<Self::Guard> {
        let watched = self.with_queue(name, |queue| queue.watched.clone());
        watched.get_or_try_init(|| self.watch(name)).await?;
        let reply = self.session.create(&format!("{name}/{}", zk::STEM), EPHEMERAL_SEQUENTIAL).await?;
        let own = zk::text_at(&reply.ok()?, 0).to_owned();
        let (waiter, woken) = oneshot::channel();
        self.with_queue(name, |queue| {
            queue.nodes.insert(zk::sequence(&own));
            queue.waiters.insert(zk::sequence(&own), waiter);
            queue.wake_first();
        });
        woken.await?;
        Ok((name.to_owned(), own))
    }

    async fn release(&mut self, (name, own): Self::Guard) -> Result<()> {
        self.session.delete(&own).await?;
        self.with_queue(&name, |queue| queue.remove(zk::sequence(&own)));
        Ok(())
    }
}

impl Peer for Recursive {
    type Contender = Self;

    async fn contender(&self) -> Result<Self> {
        Ok(self.clone())
    }

    async fn queued(&self, name: &str) -> Result<u64> {
        self.session.child_count(name).await
    }
}
