//! Entering, looking and leaving, alone and with other clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions, WatchOptions};
use integration::{Etcd, EtcdOptions, PATIENCE, eventually};
use lock_core::Error;
use lock_core::backend::{Change, Dequeued, Enqueue, Enqueued, Entry, Kind, Watched};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{
    Attempt, NAMESPACE, OWNER, ahead, dequeue, enqueue, keys, lease, mutex, open, placed, queue, try_open, watch,
};

/// The client of somebody else.
async fn foreign(etcd: &Etcd) -> Client {
    Client::connect([etcd.url(0)], None).await.unwrap()
}

#[tokio::test]
async fn entries_stand_in_the_order_of_their_tokens() {
    let etcd = Etcd::single().await.unwrap();
    let (one, two) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    let first = enqueue(&one, &queue).await;
    assert_eq!(first.ahead, Some(lock_core::backend::Ahead::default()), "one round trip tells that nobody is ahead");
    // Two entries of one session are two entries.
    let second = enqueue(&one, &queue).await;
    let third = enqueue(&two, &queue).await;
    assert!(second.ahead.is_none() && first.token < second.token && second.token < third.token);
    assert_eq!(third.token, third.entry.incarnation);

    let entries = one.entries(&queue, usize::MAX).await.unwrap();
    let order = [&first, &second, &third].map(|placed| placed.entry.clone());
    assert_eq!(entries.iter().map(|entry| entry.entry.clone()).collect::<Vec<_>>(), order);
    assert_eq!(entries.iter().map(|e| e.session.clone()).collect::<Vec<_>>(), [one.id(), one.id(), two.id()]);
    assert_eq!(entries[2].token, Some(third.token));
    assert_eq!(entries[0].value, b"value");
    let key = format!("{NAMESPACE}/{queue}/{}-", one.id());
    assert!(first.entry.key.starts_with(&key), "{} in the layout of other clients", first.entry.key);

    let nearest = ahead(&two, &third.entry, 1).await.unwrap();
    assert_eq!((nearest.nearest, nearest.more), (vec![mutex(&second.entry)], true));
    let all = ahead(&two, &third.entry, 2).await.unwrap();
    assert_eq!((all.nearest, all.more), (vec![mutex(&second.entry), mutex(&first.entry)], false));
    assert_eq!(ahead(&one, &first.entry, 5).await.unwrap(), lock_core::backend::Ahead::default());

    assert_eq!(dequeue(&one, &second.entry).await, Dequeued::Removed);
    assert_eq!(dequeue(&one, &second.entry).await, Dequeued::Absent);
    assert_eq!(ahead(&one, &second.entry, 1).await, None);
    assert_eq!(ahead(&two, &third.entry, 1).await.unwrap().nearest, [mutex(&first.entry)]);
}

#[tokio::test]
async fn trying_places_an_entry_only_in_a_free_queue() {
    let etcd = Etcd::single().await.unwrap();
    let (one, two) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    let first = placed(Attempt::try_only(&queue).enqueue(&one).await);
    assert!(first.ahead.is_some());
    for session in [&one, &two] {
        assert!(matches!(Attempt::try_only(&queue).enqueue(session).await, Ok(Enqueued::Busy)));
    }
    assert_eq!(keys(&one, &queue).await, std::slice::from_ref(&first.entry.key));
    dequeue(&one, &first.entry).await;
    placed(Attempt::try_only(&queue).enqueue(&two).await);
}

/// Go's clients take the keys of lock `a/b` for entries of lock `a`; they are none.
#[tokio::test]
async fn deeper_keys_are_no_entries() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let deeper = || async {
        for i in 0..3 {
            etcd.ctl(&["put", &format!("{NAMESPACE}/{queue}/b/{i}"), "x"]).await.unwrap();
        }
    };
    deeper().await;
    let first = placed(Attempt::try_only(&queue).enqueue(&session).await);
    assert_eq!(ahead(&session, &first.entry, 1).await.unwrap(), lock_core::backend::Ahead::default());
    assert!(matches!(Attempt::try_only(&queue).enqueue(&session).await, Ok(Enqueued::Busy)));
    etcd.ctl(&["del", "--prefix", &format!("{NAMESPACE}/{queue}/b/")]).await.unwrap();
    deeper().await;
    let second = enqueue(&session, &queue).await;
    for limit in 1..5 {
        let ahead = ahead(&session, &second.entry, limit).await.unwrap();
        assert_eq!((ahead.nearest, ahead.more), (vec![mutex(&first.entry)], false), "limit {limit}");
    }
    assert_eq!(keys(&session, &queue).await, [first.entry.key, second.entry.key]);
}

#[tokio::test]
async fn etcdctl_waits_for_us_and_we_for_it() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let name = format!("{NAMESPACE}/{queue}");
    let held = tempfile::NamedTempFile::new().unwrap();
    let ours = enqueue(&session, &queue).await;
    let hold = format!("while [ -e {} ]; do sleep 0.05; done", held.path().display());
    let (command, both) = (["lock", &name, "--", "sh", "-c", &hold], || async {
        (keys(&session, &queue).await.len() == 2).then_some(())
    });
    tokio::join!(
        async {
            etcd.ctl(&command).await.unwrap();
        },
        async {
            eventually("etcdctl to stand behind us", PATIENCE, both).await.unwrap();
            dequeue(&session, &ours.entry).await;
            let behind = enqueue(&session, &queue).await;
            let theirs = ahead(&session, &behind.entry, 1).await.unwrap().nearest.remove(0);
            assert_eq!(theirs.kind, Kind::Unmarked);
            let removed = watch(&session, &theirs.entry).await;
            held.close().unwrap();
            assert_eq!(timeout(PATIENCE, removed).await.unwrap(), Change::Removed);
            assert!(ahead(&session, &behind.entry, 1).await.unwrap().nearest.is_empty());
        }
    );
}

#[tokio::test]
async fn keys_of_any_form_are_contenders() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let mut foreign = foreign(&etcd).await;
    for suffix in [&b""[..], b"\xff\xfe", b"\0", "é".as_bytes(), &[b'x'; 3000], b"hex:zz", b"-", b"%session"] {
        let queue = queue();
        let key = [format!("{NAMESPACE}/{queue}/").as_bytes(), suffix].concat();
        foreign.put(key.clone(), b"\xff{".to_vec(), None).await.unwrap();
        assert!(matches!(Attempt::try_only(&queue).enqueue(&session).await, Ok(Enqueued::Busy)));
        let mine = enqueue(&session, &queue).await;
        let theirs = ahead(&session, &mine.entry, 1).await.unwrap().nearest.remove(0);
        let listed = session.entries(&queue, usize::MAX).await.unwrap();
        assert_eq!((listed.len(), &listed[0].entry, &listed[0].session[..]), (2, &theirs.entry, "0"));
        assert_eq!((theirs.kind, listed[0].kind), (Kind::Unmarked, Kind::Unmarked));
        let removed = watch(&session, &theirs.entry).await;
        foreign.delete(key, None).await.unwrap();
        assert_eq!(timeout(PATIENCE, removed).await.unwrap(), Change::Removed);
        assert!(ahead(&session, &mine.entry, 1).await.unwrap().nearest.is_empty());
    }
    // What was never listed is answered, too.
    let unknown = Entry { key: "\0hex:zz".into(), incarnation: 3 };
    assert!(session.watch(&unknown).await.is_err() && session.dequeue(&unknown).await.is_err());
    let absent = Entry { key: format!("{NAMESPACE}/absent/x").into(), incarnation: 3 };
    assert!(matches!(session.watch(&absent).await, Ok(Watched::Gone)));
    assert_eq!(session.ahead(&absent, 1).await.unwrap(), None);
}

/// A key of ours that somebody else has put is neither adopted nor taken for the end of the session: it is one more that waits.
#[tokio::test]
async fn a_foreign_key_in_our_place_is_one_ahead() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let (next, theirs) = (Attempt::new(&queue), Arc::<str>::from(format!("{NAMESPACE}/{queue}/{}-0", session.id())));
    etcd.ctl(&["put", &theirs, "theirs"]).await.unwrap();
    assert!(next.adopt(&session).await.is_none());
    let ours = placed(next.enqueue(&session).await);
    assert_eq!(keys(&session, &queue).await, [theirs.clone(), ours.entry.key.clone()]);
    let nearest = ahead(&session, &ours.entry, 1).await.unwrap().nearest;
    assert_eq!((nearest.len(), &nearest[0].entry.key), (1, &theirs));
    assert_eq!(dequeue(&session, &ours.entry).await, Dequeued::Removed);
    assert_eq!(keys(&session, &queue).await, [theirs]);
}

/// The server's index keeps every key that was there until the history is compacted, and passes all of a queue to count it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_a_lock_is_taken_it_leaves_few_keys_in_the_index() {
    const TASKS: usize = 4;
    let etcd = Etcd::single().await.unwrap();
    let store = lock_etcd::Etcd::from_url(&format!("etcd://{}/{NAMESPACE}", etcd.endpoint(0))).unwrap();
    let client = lock_core::Client::connect(store).await.unwrap();
    let mutex = client.mutex("busy").unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let mutex = mutex.clone();
        tasks.spawn(async move {
            for round in 0..50 {
                // Given up while waiting, tried, and taken.
                let _ = timeout(Duration::from_micros(fastrand::u64(..2000)), mutex.lock()).await;
                let _ = mutex.try_lock().await.unwrap();
                let guard = mutex.lock().await.unwrap();
                if round % 2 == 0 {
                    guard.release().await;
                }
            }
        });
    }
    tasks.join_all().await;
    client.close().await;
    let keys = ever_put(&etcd, &format!("{NAMESPACE}/busy/")).await;
    // Each task has one that waits or holds, and some that are about to go.
    assert!(keys.len() <= 4 * TASKS, "{} keys: {keys:?}", keys.len());
}

/// Every key with this prefix that was ever put.
async fn ever_put(etcd: &Etcd, prefix: &str) -> BTreeSet<String> {
    let mut client = foreign(etcd).await;
    let now = client.get(prefix, None).await.unwrap().header().unwrap().revision();
    client.put(format!("{prefix}last"), "", None).await.unwrap();
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut history = client.watch(prefix, Some(options)).await.unwrap();
    let mut keys = BTreeSet::new();
    while let Some(answer) = history.message().await.unwrap() {
        for kv in answer.events().iter().filter_map(etcd_client::Event::kv) {
            if kv.mod_revision() > now {
                return keys;
            }
            keys.insert(kv.key_str().unwrap().to_owned());
        }
    }
    panic!("the history ended before {now}");
}

#[tokio::test]
async fn a_later_incarnation_of_a_key_is_left_alone() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    etcd.ctl(&["del", &entry.key]).await.unwrap();
    foreign(&etcd).await.put(&*entry.key, "new", Some(PutOptions::new().with_lease(lease(&session)))).await.unwrap();
    assert_eq!(dequeue(&session, &entry).await, Dequeued::Absent);
    assert_eq!(ahead(&session, &entry, 1).await, None);
    assert!(matches!(session.watch(&entry).await, Ok(Watched::Gone)));
    assert_eq!(keys(&session, &queue).await, [entry.key]);
}

/// More than one answer of the client's default size holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_queue_is_listed_and_looked_at() {
    const N: usize = 1300;
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let mut all = JoinSet::new();
    for _ in 0..N {
        let (session, attempt) = (session.clone(), Attempt::new(&queue));
        all.spawn(async move {
            let request = Enqueue { value: &[b'v'; 4000], ..attempt.request() };
            placed(session.enqueue(&request).await)
        });
    }
    let mut placed = all.join_all().await;
    placed.sort_by_key(|placed| placed.token);
    let listed = keys(&session, &queue).await;
    assert_eq!(listed, placed.iter().map(|placed| placed.entry.key.clone()).collect::<Vec<_>>());
    let last = &placed[N - 1].entry;
    let everything = ahead(&session, last, N).await.unwrap();
    assert_eq!((everything.nearest.len(), everything.more), (N - 1, false));
    session.close().await.unwrap();
    assert!(etcd.keys("").await.unwrap().is_empty());
}

#[tokio::test]
async fn closing_leaves_no_key_and_no_lease() {
    let etcd = Etcd::single().await.unwrap();
    for namespace in ["", "/a/b", "locks"] {
        let session = try_open(&format!("etcd://{}/{namespace}?ttl=60s", etcd.endpoint(0))).await.unwrap();
        let root = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let own = format!("{root}%session/{}", session.id());
        assert_eq!(etcd.ctl(&["get", "--print-value-only", &own]).await.unwrap().trim().as_bytes(), OWNER);
        let queue = queue();
        let entry = enqueue(&session, &queue).await.entry;
        assert!(entry.key.starts_with(&format!("{root}{queue}/")));
        assert_eq!(etcd.lease_list().await.unwrap(), [lease(&session)]);
        session.close().await.unwrap();
        session.close().await.unwrap();
        assert!(etcd.keys("").await.unwrap().is_empty() && etcd.lease_list().await.unwrap().is_empty());
        // The session is over, whatever is asked of it.
        assert!(matches!(session.renew().await, Err(Error::SessionOver { .. })));
        assert!(matches!(Attempt::new(&queue).enqueue(&session).await, Err(Error::SessionOver { .. })));
        let request = Attempt::new(&queue);
        assert!(matches!(session.adopt(&request.request()).await, Err(Error::SessionOver { .. })));
        assert_eq!(dequeue(&session, &entry).await, Dequeued::Absent);
    }
}

/// A full database refuses entries, says how to help it, and still lets entries go.
#[tokio::test]
async fn a_full_database_is_told_and_can_be_left() {
    let extra_args = vec!["--quota-backend-bytes=4194304".to_owned()];
    let etcd = Etcd::start(EtcdOptions { extra_args, ..EtcdOptions::default() }).await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let before = enqueue(&session, &queue).await;
    let mut foreign = foreign(&etcd).await;
    while foreign.put("filler", vec![b'x'; 1 << 20], None).await.is_ok() {}
    let error = Attempt::new(&queue).enqueue(&session).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, Error::Refused { .. }) && source.contains("alarm disarm"), "{error}: {source}");
    assert!(!error.is_retryable());
    // Not settled, as long as the fence cannot be moved.
    let attempt = Attempt::new(&queue);
    assert!(matches!(session.adopt(&attempt.request()).await, Err(Error::Unavailable { .. })));
    let url = format!("etcd://{}/{NAMESPACE}?ttl=60s&connect_timeout=2s", etcd.endpoint(0));
    assert!(matches!(try_open(&url).await, Err(Error::Refused { .. })));
    assert!(session.renew().await.unwrap() > Duration::ZERO);
    assert_eq!(dequeue(&session, &before.entry).await, Dequeued::Removed);
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_request_beyond_the_servers_limit_is_refused() {
    let extra_args = vec!["--max-request-bytes=2000".to_owned()];
    let etcd = Etcd::start(EtcdOptions { extra_args, ..EtcdOptions::default() }).await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let attempt = Attempt::new(&queue);
    let error = session.enqueue(&Enqueue { value: &[b'v'; 4000], ..attempt.request() }).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, Error::Refused { .. }) && source.contains("--max-request-bytes"), "{error}: {source}");
    enqueue(&session, &queue).await;
}
