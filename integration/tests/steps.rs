//! A fault at every step of acquire, hold and release: the connection is cut in order or by a reset, before or after the
//! k-th message of the client gets through, or falls silent for a while. None of it may cost the guard, the place in the
//! queue or the next grant, since the ttl is never reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration::{Action, Cut, Direction, Etcd, Mode, Proxy, When, ZooKeeper, connect, eventually};
use lock_core::{Client, Guard, Mutex, Release};
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(8);
const SILENCE: Duration = Duration::from_millis(700);
/// More than an acquire, a hold and a release take.
const STEPS: u64 = 16;
/// Long enough for the watch on the own entry to open.
const HOLD: Duration = Duration::from_millis(400);
const AT_ONCE: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Fault {
    CutBefore(Cut),
    CutAfter(Cut),
    /// Neither requests nor replies get through for a while.
    Silence,
    /// Requests get through, replies do not, and then the connection is gone.
    LostReply(Cut),
}

const FAULTS: [Fault; 7] = [
    Fault::CutBefore(Cut::Fin),
    Fault::CutBefore(Cut::Rst),
    Fault::CutAfter(Cut::Fin),
    Fault::CutAfter(Cut::Rst),
    Fault::Silence,
    Fault::LostReply(Cut::Fin),
    Fault::LostReply(Cut::Rst),
];

/// What the contender behind the broken link does.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// Takes a free lock, holds it, and releases it to a waiter.
    Holder,
    /// Waits between a holder and another waiter.
    Waiter,
}

/// Breaks the link at the `step`-th message from now on.
fn arm(proxy: &Arc<Proxy>, step: u64, fault: Fault, struck: &Arc<AtomicUsize>) {
    let (when, to_server) = (When::Chunk(step), Direction::ToServer);
    let hold = |direction| Action::Set(direction, Mode::Hold);
    let trigger = match fault {
        Fault::CutBefore(cut) => proxy.before(to_server, when, Action::Cut(cut)),
        Fault::CutAfter(cut) => proxy.after(to_server, when, Action::Cut(cut)),
        Fault::Silence => proxy.before(to_server, when, hold(to_server)),
        Fault::LostReply(_) => proxy.after(to_server, when, hold(Direction::ToClient)),
    };
    let (proxy, struck) = (proxy.clone(), struck.clone());
    tokio::spawn(async move {
        if trigger.fired().await.is_ok() {
            struck.fetch_add(1, Ordering::Relaxed);
            if let Fault::Silence = fault {
                proxy.set_both(Mode::Hold);
            }
            tokio::time::sleep(SILENCE).await;
            if let Fault::LostReply(cut) = fault {
                let _ = proxy.cut(cut).await;
            }
            proxy.set_both(Mode::Pass);
        }
    });
}

async fn queue_length(mutex: &Mutex, n: usize, what: &str) {
    let length = || async { (mutex.entries().await.ok()?.len() == n).then_some(()) };
    eventually(format!("{n} entries, {what}"), TTL * 2, length).await.unwrap_or_else(|error| panic!("{error}"));
}

fn lock(mutex: &Mutex) -> tokio::task::JoinHandle<lock_core::Result<Guard>> {
    let mutex = mutex.clone();
    tokio::spawn(async move { mutex.lock().await })
}

async fn guard(waiter: tokio::task::JoinHandle<lock_core::Result<Guard>>, what: &str) -> Guard {
    let outcome = tokio::time::timeout(TTL * 2, waiter).await.unwrap_or_else(|_| panic!("no answer: {what}"));
    outcome.expect("no panic").unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// A contender behind a link that breaks, and one that is well.
struct Contest {
    healthy: Client,
    broken: Client,
    link: Arc<Proxy>,
    struck: Arc<AtomicUsize>,
}

async fn contest(contest: &Contest, step: u64, fault: Fault, role: Role) {
    let Contest { healthy, broken, link, struck } = contest;
    let what = format!("{role:?}, step {step}, {fault:?}");
    let name = format!("steps-{:016x}", fastrand::u64(..));
    let (sound, mutex) = (healthy.mutex(&name).expect("a name"), broken.mutex(&name).expect("a name"));
    let first = match role {
        Role::Waiter => Some(sound.lock().await.expect("the lock is free")),
        Role::Holder => None,
    };
    let ahead = usize::from(first.is_some());
    arm(link, step, fault, struck);
    let unlucky = lock(&mutex);
    queue_length(&sound, ahead + 1, &what).await;
    let last = lock(&sound);
    queue_length(&sound, ahead + 2, &what).await;
    if let Some(first) = first {
        tokio::time::sleep(HOLD).await;
        assert!(!unlucky.is_finished() && !last.is_finished(), "granted early: {what}");
        assert_eq!(first.release().await, Release::Released, "{what}");
    }
    let unlucky = guard(unlucky, &what).await;
    let hold = tokio::time::Instant::now() + HOLD;
    while tokio::time::Instant::now() < hold {
        unlucky.check().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!last.is_finished(), "two holders: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let token = unlucky.token();
    let released = unlucky.release().await;
    assert!(matches!(released, Release::Released | Release::Pending), "{released:?}: {what}");
    let last = guard(last, &what).await;
    assert!(last.token() > token, "{what}");
    assert_eq!(last.release().await, Release::Released, "{what}");
    queue_length(&sound, 0, &what).await;
    assert_eq!(broken.metrics().sessions_opened, 1, "the session was kept: {what}");
}

/// `url` makes a backend URL of an endpoint.
async fn sweep(upstream: std::net::SocketAddr, url: fn(&str) -> String) {
    let healthy = connect(&url(&upstream.to_string())).await.unwrap_or_else(|error| panic!("{error}"));
    let struck = Arc::new(AtomicUsize::new(0));
    let mut contests = JoinSet::new();
    for role in [Role::Holder, Role::Waiter] {
        for fault in FAULTS {
            for step in 1..=STEPS {
                if contests.len() == AT_ONCE {
                    contests.join_next().await.expect("one is there").expect("the contest holds");
                }
                let proxy = Proxy::start(upstream).await.unwrap_or_else(|error| panic!("{error}"));
                let link = Arc::new(proxy);
                let broken = connect(&url(&link.endpoint())).await.unwrap_or_else(|error| panic!("{error}"));
                let parties = Contest { healthy: healthy.clone(), broken, link, struck: struck.clone() };
                contests.spawn(async move {
                    contest(&parties, step, fault, role).await;
                    let _ = parties.link.heal().await;
                    parties.broken.close().await;
                });
            }
        }
    }
    while let Some(contest) = contests.join_next().await {
        contest.expect("the contest holds");
    }
    let (struck, planned) = (struck.load(Ordering::Relaxed), 2 * FAULTS.len() * STEPS as usize);
    println!("{struck} of {planned} faults struck");
    // ZooKeeper's client sends seven messages, etcd's fourteen or more.
    assert!(struck > planned / 3, "{struck} of {planned} faults struck");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_faults_at_every_step() {
    let etcd = Etcd::single().await.unwrap_or_else(|error| panic!("{error}"));
    sweep(etcd.addr(0), |endpoint| format!("etcd://{endpoint}/steps?ttl={}s", TTL.as_secs())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_faults_at_every_step() {
    let zookeeper = ZooKeeper::single().await.unwrap_or_else(|error| panic!("{error}"));
    sweep(zookeeper.addr(0), |endpoint| format!("zk://{endpoint}/steps?timeout={}s", TTL.as_secs())).await;
}
