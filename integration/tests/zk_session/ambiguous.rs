//! Creates whose answers are lost, and creates that arrive late.

use std::sync::Arc;
use std::time::Duration;

use integration::{Action, Cut, Direction, Mode, PATIENCE, Proxy, When, ZooKeeper, ZooKeeperOptions, eventually};
use lock_core::Error;
use tokio::time::timeout;

use crate::{Attempt, enqueue, keys, lost, mutex, open, open_with, placed, prefix, queue};

/// Applied, and the answer lost, by an end of file, by a reset and by silence.
#[tokio::test]
async fn an_entry_whose_answer_was_lost_is_found_in_its_place() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let other = open(&zookeeper.endpoint(0)).await;
    for cut in [Some(Cut::Fin), Some(Cut::Rst), None] {
        let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
        let session = open(&proxy.endpoint()).await;
        let queue = queue();
        let first = enqueue(&other, &queue).await;

        let attempt = Arc::new(Attempt::new(&queue));
        let request = When::Contains(prefix(&attempt).into_bytes());
        let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
        let enqueuing = attempt.start(&session);
        sent.fired().await.unwrap();
        // The answers to the create and to the list.
        proxy.wait_for_held(Direction::ToClient, 100).await.unwrap();
        let last = enqueue(&other, &queue).await;
        match cut {
            Some(cut) => {
                proxy.cut(cut).await.unwrap();
                lost(enqueuing).await;
                proxy.heal().await.unwrap();
            }
            None => {
                // The client gives the connection up, and the answers with it.
                proxy.set_both(Mode::Discard);
                lost(enqueuing).await;
                proxy.heal().await.unwrap();
            }
        }
        let mine = attempt.adopt(&session).await.expect("it was applied");
        assert_eq!(
            keys(&other, &queue).await,
            [&first, &mine, &last].map(|placed| placed.entry.key.clone()),
            "{cut:?}"
        );
        assert!(first.token < mine.token && mine.token < last.token);
        assert_eq!(mine.ahead.as_ref().unwrap().nearest, [mutex(&first.entry)]);
        // Asking again changes nothing.
        assert_eq!(attempt.adopt(&session).await.unwrap().entry, mine.entry);
    }
}

/// A create that is delayed on a connection which the session has left is never applied.
async fn delayed_create(nodes: usize) {
    let zookeeper = ZooKeeper::start(ZooKeeperOptions { nodes, ..ZooKeeperOptions::default() }).await.unwrap();
    let observer = open(&zookeeper.connect_string()).await;
    for _ in 0..5 {
        let proxies =
            [Proxy::start(zookeeper.addr(0)).await.unwrap(), Proxy::start(zookeeper.addr(nodes - 1)).await.unwrap()];
        let hosts = format!("{},{}", proxies[0].endpoint(), proxies[1].endpoint());
        let session = open_with(&hosts, "timeout=6s").await;
        let queue = queue();
        enqueue(&session, &queue).await;
        let used = proxies.iter().position(|proxy| proxy.connections() == 1).unwrap();
        let (old, new) = (&proxies[used], &proxies[1 - used]);

        let attempt = Arc::new(Attempt::new(&queue));
        let request = When::Contains(prefix(&attempt).into_bytes());
        let held = old.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
        let enqueuing = attempt.start(&session);
        held.fired().await.unwrap();
        lost(enqueuing).await;
        assert!(attempt.adopt(&session).await.is_none());
        assert_eq!(new.connections(), 1);
        assert!(old.held(Direction::ToServer) > 0);

        // Now the create goes out, and the old connection ends after it.
        let before = old.counters().passed_to_server;
        old.heal().await.unwrap();
        let passed = || async { (old.counters().passed_to_server > before).then_some(()) };
        eventually("the create to go out", PATIENCE, passed).await.unwrap();
        assert_eq!(old.held(Direction::ToServer), 0);
        assert!(attempt.adopt(&session).await.is_none());
        let again = placed(attempt.enqueue(&session).await);
        let all = keys(&observer, &queue).await;
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all[1], again.entry.key);
        session.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_delayed_create_is_fenced_on_the_same_server() {
    delayed_create(1).await;
}

#[tokio::test]
async fn a_delayed_create_is_fenced_on_another_server() {
    delayed_create(3).await;
}

/// The same without a proxy: the create, and requests to reconnect, wait in the buffers of a server that is frozen for a
/// moment.
#[tokio::test]
async fn a_create_that_a_frozen_server_has_not_read_yet_is_fenced() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let observer = open(&zookeeper.connect_string()).await;
    let mut fenced = 0;
    for _ in 0..20 {
        let leader = zookeeper.leader().await.unwrap();
        let frozen = (leader + 1) % 3;
        let hosts = format!("{},{}", zookeeper.endpoint(frozen), zookeeper.endpoint(leader));
        let session = open_with(&hosts, "timeout=4s").await;
        let queue = queue();
        enqueue(&session, &queue).await;
        if !zookeeper.four_letter(frozen, "cons").await.unwrap().contains(&session.id()) {
            continue;
        }
        let attempt = Arc::new(Attempt::new(&queue));
        zookeeper.pause(frozen).unwrap();
        lost(attempt.start(&session)).await;
        let adopted = attempt.adopt(&session).await;
        zookeeper.resume(frozen).unwrap();
        let mine = match adopted {
            Some(placed) => placed,
            None => {
                fenced += 1;
                attempt.enter(&session).await
            }
        };
        zookeeper.wait_ready(frozen).await.unwrap();
        // A write of each session on the frozen server comes after all that it had not read.
        retried_write(&zookeeper, frozen).await;
        let all = keys(&observer, &queue).await;
        assert_eq!((all.len(), &all[1..]), (2, &[mine.entry.key][..]), "{all:?}");
        session.close().await.unwrap();
    }
    assert!(fenced > 0, "the session was never on the frozen server, or never left it");
}

async fn retried_write(zookeeper: &ZooKeeper, node: usize) {
    let other = open(&zookeeper.endpoint(node)).await;
    enqueue(&other, &queue()).await;
    other.close().await.unwrap();
}

/// A create that was given up while it waited in the client for a connection.
#[tokio::test]
async fn a_create_that_waits_for_a_connection_comes_before_the_search_for_it() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let observer = open(&zookeeper.endpoint(0)).await;
    for early in [false, true] {
        let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
        let session = open_with(&proxy.endpoint(), "timeout=12s").await;
        let queue = queue();
        let first = enqueue(&session, &queue).await;
        proxy.refuse(true).await.unwrap();
        proxy.cut(Cut::Fin).await.unwrap();
        // Once the client knows that it is disconnected, requests wait instead of failing.
        let waits = || async {
            let answer = timeout(Duration::from_millis(100), session.ahead(&first.entry, 1)).await;
            answer.is_err().then_some(())
        };
        eventually("requests to wait", PATIENCE, waits).await.unwrap();

        let attempt = Arc::new(Attempt::new(&queue));
        lost(attempt.start(&session)).await;
        let mine = if early {
            // The search waits in the client as well, behind the create.
            let (adopted, healed) = tokio::join!(attempt.adopt(&session), async {
                tokio::task::yield_now().await;
                proxy.heal().await
            });
            healed.unwrap();
            adopted
        } else {
            proxy.heal().await.unwrap();
            attempt.adopt(&session).await
        };
        let mine = mine.expect("the client carried it out after the reconnect");
        let all = keys(&observer, &queue).await;
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], mine.entry.key);
    }
}

/// Whatever is lost, each attempt ends with exactly one entry.
#[tokio::test(flavor = "multi_thread")]
async fn no_cut_makes_two_entries_of_one_attempt_or_none() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open(&proxy.endpoint()).await;
    let observer = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    for round in 0..5 {
        let attempts: Vec<_> = (0..10).map(|_| Arc::new(Attempt::new(&queue))).collect();
        let tasks: Vec<_> = attempts
            .iter()
            .map(|attempt| {
                let (session, attempt) = (session.clone(), attempt.clone());
                tokio::spawn(async move { attempt.enter(&session).await })
            })
            .collect();
        let bytes = fastrand::u64(1..1500);
        let cut = if round % 2 == 0 { Cut::Rst } else { Cut::Fin };
        let _armed = proxy.after(Direction::ToServer, When::Byte(bytes), Action::Cut(cut));
        let mut want = Vec::new();
        for task in tasks {
            want.push(task.await.unwrap());
        }
        want.sort_by_key(|placed| placed.token);
        let want: Vec<_> = want.into_iter().map(|placed| placed.entry).collect();
        assert_eq!(keys(&observer, &queue).await, want.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>());
        for entry in &want {
            crate::dequeue(&session, entry).await;
        }
    }
    assert_eq!(keys(&observer, &queue).await.len(), 0);
}

/// An entry of a former session with the same id is not adopted.
#[tokio::test]
async fn an_entry_of_another_session_is_not_adopted() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (former, session) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let attempt = Attempt::new(&queue());
    let theirs = placed(attempt.enqueue(&former).await);
    assert!(attempt.adopt(&session).await.is_none());
    let ours = placed(attempt.enqueue(&session).await);
    assert_eq!(attempt.adopt(&session).await.unwrap().entry, ours.entry);
    assert_eq!(attempt.adopt(&former).await.unwrap().entry, theirs.entry);
}

/// While the link is silent every method ends by itself within about a third of the timeout.
#[tokio::test]
async fn no_method_hangs_on_a_silent_link() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open_with(&proxy.endpoint(), "timeout=3s").await;
    let queue = queue();
    let mine = enqueue(&session, &queue).await;
    proxy.set_both(Mode::Hold);
    let limit = Duration::from_millis(1200);
    let attempt = Attempt::new(&queue);
    let request = attempt.request();
    let within = |name: &'static str, answered: Result<bool, tokio::time::error::Elapsed>| {
        assert!(answered.unwrap_or_else(|_| panic!("{name} took more than {limit:?}")), "{name} was answered");
    };
    let failed = |error: Option<Error>| matches!(error, Some(Error::Unavailable { .. } | Error::SessionOver { .. }));
    tokio::join!(
        async { within("renew", timeout(limit, async { failed(session.renew().await.err()) }).await) },
        async { within("enqueue", timeout(limit, async { failed(session.enqueue(&request).await.err()) }).await,) },
        async { within("adopt", timeout(limit, async { failed(session.adopt(&request).await.err()) }).await) },
        async { within("ahead", timeout(limit, async { failed(session.ahead(&mine.entry, 1).await.err()) }).await,) },
        async { within("watch", timeout(limit, async { failed(session.watch(&mine.entry).await.err()) }).await) },
        async { within("dequeue", timeout(limit, async { failed(session.dequeue(&mine.entry).await.err()) }).await,) },
        async {
            let answer = async { failed(session.watch_queue(&queue).await.err()) };
            within("watch_queue", timeout(limit, answer).await);
        },
        async { within("read", timeout(limit, async { failed(session.read(&mine.entry).await.err()) }).await) },
        async {
            let answer = async { failed(session.write(&mine.entry, 1, b"").await.err()) };
            within("write", timeout(limit, answer).await);
        },
        async {
            within("downgrade", timeout(limit, async { failed(session.downgrade(&mine.entry).await.err()) }).await)
        },
        async { within("owner", timeout(limit, async { failed(session.owner("0x1").await.err()) }).await) },
        async {
            within("entries", timeout(limit, async { failed(session.entries(&queue, usize::MAX).await.err()) }).await)
        },
    );
    within("close", timeout(limit, async { failed(session.close().await.err()) }).await);
}
