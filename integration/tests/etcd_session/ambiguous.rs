//! Requests whose answers are lost, and requests that arrive late.

use std::sync::Arc;
use std::time::Duration;

use integration::{Action, Cut, Direction, Etcd, Mode, PATIENCE, Proxy, When, eventually};
use lock_core::Error;
use lock_core::backend::{Dequeued, Kind, Session, Written};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::{
    Attempt, NAMESPACE, enqueue, enqueue_kind, keys, lease, lost, open, open_over_two, placed, queue, read, try_open,
    write,
};

/// Applied, and the answer lost, by an end of file, by a reset and by silence.
#[tokio::test]
async fn an_entry_whose_answer_was_lost_is_found_in_its_place() {
    let etcd = Etcd::single().await.unwrap();
    let other = open(&etcd.endpoint(0)).await;
    for cut in [Some(Cut::Fin), Some(Cut::Rst), None] {
        let (session, proxy, _spare) = open_over_two(&etcd, "ttl=10s").await;
        let queue = queue();
        let first = enqueue(&other, &queue).await;
        let attempt = Arc::new(Attempt::new(&queue));
        let request = When::Contains(queue.to_string().into_bytes());
        let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
        let enqueuing = attempt.start(&session);
        sent.fired().await.unwrap();
        let applied = || async { (keys(&other, &queue).await.len() == 2).then_some(()) };
        eventually("the entry to be there", PATIENCE, applied).await.unwrap();
        let last = enqueue(&other, &queue).await;
        if let Some(cut) = cut {
            proxy.cut(cut).await.unwrap();
        }
        lost(enqueuing).await;
        let mine = attempt.adopt(&session).await.expect("it was applied");
        let order = [&first, &mine, &last].map(|placed| placed.entry.key.clone());
        assert_eq!(keys(&other, &queue).await, order, "{cut:?}");
        assert!(first.token < mine.token && mine.token < last.token);
        // Asking again, in either way, changes nothing.
        assert_eq!(attempt.adopt(&session).await.unwrap().entry, mine.entry);
        assert_eq!(placed(attempt.enqueue(&session).await).entry, mine.entry);
        assert_eq!(keys(&other, &queue).await, order);
    }
}

/// The transactions that the server has begun.
async fn begun(etcd: &Etcd) -> f64 {
    let metrics = etcd.metrics(0).await.unwrap();
    let txn = |name: &&String| name.starts_with("grpc_server_started_total") && name.contains(r#"grpc_method="Txn""#);
    metrics.keys().filter(txn).map(|name| metrics[name]).sum()
}

/// What became of a request that arrived late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// Its connection ended as it arrived, and the server did not begin with it.
    Ignored,
    Rejected,
    Applied,
}

/// Lets an enqueue get stuck on its way, settles it if asked to, and lets it arrive then.
async fn arrive_late(etcd: &Etcd, settle: bool) -> Late {
    let (session, proxy, spare) = open_over_two(etcd, "ttl=3s").await;
    let queue = queue();
    let attempt = Arc::new(Attempt::new(&queue));
    let request = When::Contains(queue.to_string().into_bytes());
    let stuck = proxy.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
    let enqueuing = attempt.start(&session);
    stuck.fired().await.unwrap();
    lost(enqueuing).await;
    if settle {
        assert!(attempt.adopt(&session).await.is_none());
        assert!(spare.counters().passed_to_server > 0, "settled over the other connection");
    }
    let before = begun(etcd).await;
    proxy.heal().await.unwrap();
    let arrived = || async { (begun(etcd).await > before).then_some(()) };
    let begun = eventually("the delayed request to arrive", Duration::from_secs(1), arrived).await.is_ok();
    // What comes through the server's log after the delayed request is applied after it.
    etcd.ctl(&["put", "behind", "it"]).await.unwrap();
    let entries = etcd.keys(&format!("{NAMESPACE}/{queue}/")).await.unwrap();
    if settle {
        // The same attempt can be made again.
        let again = placed(attempt.enqueue(&session).await);
        assert_eq!(keys(&session, &queue).await, [again.entry.key]);
    } else if !entries.is_empty() {
        // Nobody else of the session has its key meanwhile.
        let next = placed(Attempt::new(&queue).enqueue(&session).await);
        let late = attempt.adopt(&session).await.expect("it was applied");
        assert_eq!(keys(&session, &queue).await, [late.entry.key, next.entry.key]);
    }
    session.close().await.unwrap();
    match (begun, entries.is_empty()) {
        (false, true) => Late::Ignored,
        (true, true) => Late::Rejected,
        (_, false) => Late::Applied,
    }
}

/// The contract's "after `None` it can never be applied", with the proof that it would be applied otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_enqueue_is_never_applied_once_settled() {
    const ROUNDS: usize = 60;
    let etcd = Etcd::single().await.unwrap();
    let count = |all: &[Late], what| all.iter().filter(|late| **late == what).count();
    let (mut settled, mut unsettled) = (Vec::new(), Vec::new());
    // Whether a late request gets anywhere depends on how fast the server notices that its connection has ended.
    while count(&settled, Late::Rejected) < 5 || count(&unsettled, Late::Applied) < 3 {
        assert!(settled.len() < ROUNDS, "too few requests arrived: settled {settled:?}, not settled {unsettled:?}");
        settled.push(arrive_late(&etcd, true).await);
        unsettled.push(arrive_late(&etcd, false).await);
        assert!(!settled.contains(&Late::Applied), "{settled:?}");
    }
}

/// Writes that get stuck on their way: to an entry, to a record, and to turn a writer into a reader. Others may write
/// meanwhile. Returns how many the server began with, and which were applied.
async fn write_late(etcd: &Etcd, overtake: bool) -> (f64, [bool; 3]) {
    let (session, proxy, _spare) = open_over_two(etcd, "ttl=3s").await;
    let other = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    let writer = enqueue_kind(&session, &queue, Kind::Write).await.entry;
    let places = [entry, session.record(&queue), writer.clone()];
    let version = async |place| read(&session, place).await.unwrap().version;
    let (of_entry, of_record) = (version(&places[0]).await, version(&places[1]).await);
    let request = When::Contains(b"__READ__".to_vec());
    let stuck = proxy.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
    let writes = async {
        stuck.fired().await.unwrap();
        tokio::join!(session.write(&places[0], of_entry, b"late"), session.write(&places[1], of_record, b"late"))
    };
    let (turned, (first, second)) = tokio::join!(session.downgrade(&writer), writes);
    assert!(matches!(turned, Err(Error::Unavailable { .. })), "{turned:?}");
    for written in [first, second] {
        assert!(matches!(written, Err(Error::Unavailable { .. })), "{written:?}");
    }
    if overtake {
        for place in &places {
            let version = read(&other, place).await.unwrap().version;
            assert_eq!(write(&other, place, version, b"newer").await, Written::Done);
        }
    }
    let before = begun(etcd).await;
    proxy.heal().await.unwrap();
    let all = || async { (begun(etcd).await >= before + 3.0).then_some(()) };
    // Those that have not arrived by then never will: their connection has ended.
    let _ = eventually("the delayed requests to arrive", Duration::from_secs(1), all).await;
    let begun = begun(etcd).await - before;
    // What comes through the server's log after the delayed requests is applied after them.
    etcd.ctl(&["put", "behind", "it"]).await.unwrap();
    let late = async |place| read(&other, place).await.unwrap().value == b"late";
    let turned = other.entries(&queue, 2).await.unwrap()[1].kind == Kind::Read;
    let applied = [late(&places[0]).await, late(&places[1]).await, turned];
    session.close().await.unwrap();
    (begun, applied)
}

/// What a delayed write compares is not there any more, with the proof that it would be applied otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_write_does_not_undo_a_later_one() {
    const ROUNDS: usize = 60;
    let etcd = Etcd::single().await.unwrap();
    let (mut overtaken, mut applied, mut rounds) = (0.0, [0; 3], 0);
    while overtaken < 6.0 || applied.iter().any(|times| *times < 3) {
        assert!(rounds < ROUNDS, "too few requests arrived: {overtaken} overtaken, {applied:?} not");
        rounds += 1;
        let (begun, undone) = write_late(&etcd, true).await;
        assert_eq!(undone, [false; 3], "of {begun} that arrived");
        overtaken += begun;
        for (times, this) in applied.iter_mut().zip(write_late(&etcd, false).await.1) {
            *times += u32::from(this);
        }
    }
    println!("{rounds} rounds, {overtaken} overtaken, {applied:?} not");
}

/// Settling one attempt does not disturb the others that are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueues_go_on_while_others_are_settled() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let mut all = JoinSet::new();
    for i in 0..200 {
        let (session, attempt) = (session.clone(), Attempt::new(&queue));
        all.spawn(async move {
            if i % 2 == 0 {
                assert!(attempt.adopt(&session).await.is_none());
            }
            placed(attempt.enqueue(&session).await).token
        });
    }
    let mut tokens = all.join_all().await;
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!((tokens.len(), keys(&session, &queue).await.len()), (200, 200));
}

/// The answer of a removal is lost; asking again removes nothing else.
#[tokio::test]
async fn a_removal_can_be_repeated() {
    let etcd = Etcd::single().await.unwrap();
    let (session, proxy, _spare) = open_over_two(&etcd, "ttl=3s").await;
    let queue = queue();
    let (mine, other) = (enqueue(&session, &queue).await, enqueue(&session, &queue).await);
    proxy.set(Direction::ToClient, Mode::Hold);
    assert!(matches!(session.dequeue(&mine.entry).await, Err(Error::Unavailable { .. })));
    assert_eq!(session.dequeue(&mine.entry).await.unwrap(), Dequeued::Absent);
    assert_eq!(keys(&session, &queue).await, [other.entry.key]);
}

/// A session that is being opened; its lease is granted, and nothing is answered.
async fn opening_without_answers() -> (Etcd, Proxy, JoinHandle<lock_core::Result<Arc<dyn Session>>>) {
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    proxy.set(Direction::ToClient, Mode::Hold);
    let url = format!("etcd://{}/{NAMESPACE}?ttl=60s&connect_timeout=20s", proxy.endpoint());
    let opening = tokio::spawn(async move { try_open(&url).await });
    let granted = || async { (!etcd.lease_list().await.ok()?.is_empty()).then_some(()) };
    eventually("a lease", PATIENCE, granted).await.unwrap();
    (etcd, proxy, opening)
}

/// The answer to the grant of the lease is lost; the lease is not.
#[tokio::test]
async fn a_lost_grant_leaks_no_lease() {
    let (etcd, proxy, opening) = opening_without_answers().await;
    proxy.cut(Cut::Rst).await.unwrap();
    proxy.heal().await.unwrap();
    let session = opening.await.unwrap().unwrap();
    assert_eq!(etcd.lease_list().await.unwrap(), [lease(&session)]);
    assert_eq!(session.ttl(), Duration::from_secs(60));
    session.close().await.unwrap();
    assert!(etcd.lease_list().await.unwrap().is_empty());
}

/// Opening that is given up takes its lease back.
#[tokio::test]
async fn an_opening_that_is_dropped_leaves_no_lease() {
    let (etcd, proxy, opening) = opening_without_answers().await;
    proxy.heal().await.unwrap();
    opening.abort();
    let gone = || async { etcd.lease_list().await.ok()?.is_empty().then_some(()) };
    eventually("no lease", PATIENCE, gone).await.unwrap();
}

/// Every call ends by itself, whatever becomes of the connection.
#[tokio::test]
async fn every_call_ends_within_half_a_ttl_in_silence() {
    let etcd = Etcd::single().await.unwrap();
    let (session, proxy, spare) = open_over_two(&etcd, "ttl=6s").await;
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    let writer = enqueue_kind(&session, &queue, Kind::Write).await.entry;
    let (record, id) = (session.record(&queue), session.id());
    for proxy in [&proxy, &spare] {
        proxy.set_both(Mode::Hold);
    }
    let attempt = Attempt::new(&queue);
    let request = attempt.request();
    let limit = session.ttl() / 2;
    let all = async {
        tokio::join!(
            async { assert!(matches!(session.renew().await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.enqueue(&request).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.adopt(&request).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.ahead(&entry, 1).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.watch(&entry).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.dequeue(&entry).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.entries(&queue, usize::MAX).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.entries(&queue, 1).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.watch_queue(&queue).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.watch(&record).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.read(&entry).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.write(&record, 0, b"x").await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.write(&writer, 1 << 32, b"x").await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.downgrade(&writer).await, Err(Error::Unavailable { .. }))) },
            async { assert!(matches!(session.owner(&id).await, Err(Error::Unavailable { .. }))) },
        );
    };
    timeout(limit, all).await.expect("every call has ended");
    timeout(limit, session.close()).await.expect("closing has ended").unwrap_err();
}
