//! What is etcd's own about values and owners: leases, comparisons of revisions, and what each call costs.

use std::error::Error as _;

use etcd_client::{Client, PutOptions};
use integration::{Etcd, EtcdOptions, PATIENCE, Proxy};
use lock_core::Error;
use lock_core::backend::{Change, Content, Enqueue, Kind, Watched, Written};
use tokio::time::timeout;

use crate::{
    Attempt, NAMESPACE, OWNER, ahead, downgrade, enqueue, enqueue_kind, keys, lease, open, placed, queue, read,
    retried, watch, write,
};

/// What a key has: its lease and its value.
async fn stored(etcd: &Etcd, key: &str) -> Option<(i64, Vec<u8>)> {
    let answer = Client::connect([etcd.url(0)], None).await.unwrap().get(key, None).await.unwrap();
    answer.kvs().first().map(|kv| (kv.lease(), kv.value().to_vec()))
}

/// A put takes a key off its lease unless it says otherwise, and then nothing would ever remove it.
#[tokio::test]
async fn entries_stay_on_their_lease_and_records_have_none() {
    let etcd = Etcd::single().await.unwrap();
    let (a, b) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    for kind in [Kind::Exclusive, Kind::Write] {
        let entry = enqueue_kind(&a, &queue, kind).await.entry;
        let version = read(&b, &entry).await.unwrap().version;
        assert_eq!(write(&b, &entry, version, b"other").await, Written::Done);
        assert_eq!(stored(&etcd, &entry.key).await, Some((lease(&a), b"other".to_vec())));
    }
    let record = a.record(&queue);
    assert_eq!(*record.key, *format!("{NAMESPACE}/%record/{queue}"));
    assert_eq!(write(&a, &record, 0, b"x").await, Written::Done);
    assert_eq!(stored(&etcd, &record.key).await, Some((0, b"x".to_vec())));
    // An operator may have put it on one.
    let mut admin = Client::connect([etcd.url(0)], None).await.unwrap();
    admin.put(&*record.key, "y", Some(PutOptions::new().with_lease(lease(&a)))).await.unwrap();
    let version = read(&b, &record).await.unwrap().version;
    assert_eq!(write(&b, &record, version, b"z").await, Written::Done);
    a.close().await.unwrap();
    assert_eq!(stored(&etcd, &record.key).await, Some((0, b"z".to_vec())));
    assert!(keys(&b, &queue).await.is_empty());
}

#[tokio::test]
async fn a_former_writer_keeps_its_key_with_a_mark() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let writer = enqueue_kind(&session, &queue(), Kind::Write).await;
    assert_eq!(stored(&etcd, &writer.entry.key).await, Some((lease(&session), b"value".to_vec())));
    assert_eq!(downgrade(&session, &writer.entry).await, Some(writer.entry.clone()));
    assert_eq!(stored(&etcd, &writer.entry.key).await, Some((lease(&session), b"__READ__value".to_vec())));
    assert!(matches!(session.watch(&writer.entry).await.unwrap(), Watched::Present(_)));

    // Also when somebody took it off its lease, where it is put back.
    let writer = enqueue_kind(&session, &queue(), Kind::Write).await;
    etcd.ctl(&["put", &writer.entry.key, "__REVOKE__"]).await.unwrap();
    assert_eq!(stored(&etcd, &writer.entry.key).await.unwrap().0, 0);
    assert_eq!(downgrade(&session, &writer.entry).await, Some(writer.entry.clone()));
    assert_eq!(stored(&etcd, &writer.entry.key).await, Some((lease(&session), b"__READ____REVOKE__".to_vec())));
}

#[tokio::test]
async fn a_later_incarnation_of_a_key_is_neither_read_nor_written() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    for kind in [Kind::Exclusive, Kind::Write] {
        let entry = enqueue_kind(&session, &queue(), kind).await.entry;
        etcd.ctl(&["del", &entry.key]).await.unwrap();
        let mut admin = Client::connect([etcd.url(0)], None).await.unwrap();
        let lease = PutOptions::new().with_lease(lease(&session));
        let put = admin.put(&*entry.key, "theirs", Some(lease)).await.unwrap();
        let version = put.header().unwrap().revision().unsigned_abs();
        assert_eq!(read(&session, &entry).await, None);
        for version in [version, entry.incarnation] {
            assert_eq!(write(&session, &entry, version, b"ours").await, Written::Conflict);
        }
        assert_eq!(downgrade(&session, &entry).await, None);
        assert_eq!(stored(&etcd, &entry.key).await.unwrap().1, b"theirs");
    }
}

#[tokio::test]
async fn a_record_that_an_operator_deletes_is_as_if_nobody_had_written_it() {
    let etcd = Etcd::single().await.unwrap();
    let (a, b) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let record = a.record(&queue());
    assert_eq!(write(&a, &record, 0, b"x").await, Written::Done);
    let changed = watch(&b, &record).await;
    etcd.ctl(&["del", &record.key]).await.unwrap();
    assert_eq!(timeout(PATIENCE, changed).await, Ok(Change::Updated));
    assert_eq!(read(&b, &record).await, Some(Content::default()));
    assert!(matches!(b.watch(&record).await.unwrap(), Watched::Present(_)));
    assert_eq!(write(&b, &record, 0, b"y").await, Written::Done);
}

#[tokio::test]
async fn the_owner_of_a_live_session_is_told_and_no_other() {
    let etcd = Etcd::single().await.unwrap();
    let (a, b) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let id = a.id();
    assert_eq!(retried("owner", || b.owner(&id)).await.as_deref(), Some(OWNER));
    // Settling writes the session's key.
    assert!(Attempt::new(&queue()).adopt(&a).await.is_none());
    assert_eq!(retried("owner", || b.owner(&id)).await.as_deref(), Some(OWNER));

    // What others made up: keys without a lease, and with another's.
    for forged in ["0", "77"] {
        etcd.ctl(&["put", &format!("{NAMESPACE}/%session/{forged}"), "forged"]).await.unwrap();
    }
    let lent = format!("--lease={id}");
    etcd.ctl(&["put", &lent, &format!("{NAMESPACE}/%session/78"), "forged"]).await.unwrap();
    let (padded, upper, prefix) = (format!("0{id}"), id.to_uppercase(), &id[..4]);
    let garbage = ["", "0", "77", "78", "..", "-1", "+1", "a/b", "größe", "x", "ffffffffffffffff", "10000000000000000"];
    for other in garbage.into_iter().chain([&*padded, prefix]) {
        assert_eq!(retried("owner", || b.owner(other)).await, None, "{other:?}");
    }
    if upper != id {
        assert_eq!(retried("owner", || b.owner(&upper)).await, None);
    }
    a.close().await.unwrap();
    assert_eq!(retried("owner", || b.owner(&id)).await, None);
}

/// A full database refuses what is written, says how to help it, and changes nothing.
#[tokio::test]
async fn a_full_database_is_told() {
    let extra_args = vec!["--quota-backend-bytes=4194304".to_owned()];
    let etcd = Etcd::start(EtcdOptions { extra_args, ..EtcdOptions::default() }).await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let entry = enqueue_kind(&session, &queue, Kind::Write).await.entry;
    let record = session.record(&queue);
    let mut filler = Client::connect([etcd.url(0)], None).await.unwrap();
    while filler.put("filler", vec![b'x'; 1 << 20], None).await.is_ok() {}
    for place in [&entry, &record] {
        let before = read(&session, place).await.unwrap();
        let error = session.write(place, before.version, b"more").await.unwrap_err();
        let source = error.source().unwrap().to_string();
        assert!(matches!(error, Error::Refused { .. }) && source.contains("alarm disarm"), "{error}: {source}");
        assert_eq!(read(&session, place).await, Some(before));
    }
    assert!(matches!(session.downgrade(&entry).await, Err(Error::Refused { .. })));
    assert_eq!(session.entries(&queue, 1).await.unwrap()[0].kind, Kind::Write);
}

/// Values are read where they tell something, and no more entries than were asked for.
#[tokio::test]
async fn a_look_at_a_long_queue_is_cheap() {
    const N: usize = 300;
    const VALUE: usize = 4000;
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let session = open(&proxy.endpoint()).await;
    for (kind, all_values) in [(Kind::Exclusive, false), (Kind::Candidate, false), (Kind::Write, true)] {
        let queue = queue();
        let mut last = None;
        for _ in 0..=N {
            let attempt = Attempt::of_kind(&queue, kind);
            let request = Enqueue { value: &[b'v'; VALUE], ..attempt.request() };
            last = Some(placed(session.enqueue(&request).await).entry);
        }
        let mine = last.unwrap();
        let mut seen = proxy.counters().passed_to_clients;
        let mut bytes = || {
            let before = std::mem::replace(&mut seen, proxy.counters().passed_to_clients);
            (seen - before) as usize
        };
        bytes();
        assert_eq!(ahead(&session, &mine, N).await.unwrap().nearest.len(), N);
        let all = bytes();
        assert_eq!(all > N * VALUE, all_values, "{kind:?}: {all} bytes for {N}");
        assert_eq!(ahead(&session, &mine, 1).await.unwrap().nearest.len(), 1);
        let nearest = bytes();
        assert!(nearest < 3 * VALUE, "{kind:?}: {nearest} bytes for the nearest");
        assert_eq!(session.entries(&queue, 1).await.unwrap().len(), 1);
        let first = bytes();
        assert!(first < 2 * VALUE, "{kind:?}: {first} bytes for the first");
        assert_eq!(session.entries(&queue, usize::MAX).await.unwrap().len(), N + 1);
    }
}

/// The first entries of a queue are found among the keys of locks of longer names, and beyond a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entries_are_the_first_whatever_stands_between() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let mut admin = Client::connect([etcd.url(0)], None).await.unwrap();
    let mut deeper = async |n: usize| {
        for i in 0..n {
            admin.put(format!("{NAMESPACE}/{queue}/deeper/{i}-{n}"), "x", None).await.unwrap();
        }
    };
    deeper(3).await;
    let mut all = vec![enqueue(&session, &queue).await.entry];
    deeper(4).await;
    for _ in 0..600 {
        all.push(enqueue(&session, &queue).await.entry);
    }
    for limit in [1, 2, 5, 500, 501, 599, 601, 602, usize::MAX] {
        let listed = session.entries(&queue, limit).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|entry| entry.entry).collect();
        assert_eq!(listed, all[..limit.min(all.len())], "limit {limit}");
    }
    assert!(session.entries(&queue, 0).await.unwrap().is_empty());
}
