//! Other clients' locks and ours are one lock, in both directions.

use std::sync::Arc;
use std::time::Duration;

use integration::{Etcd, ZooKeeper, connect, eventually};
use lock_core::{Guard, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use zookeeper_client::{Acls, LockPrefix};

const SOON: Duration = Duration::from_secs(10);

async fn queue_length(mutex: &Mutex, n: usize) {
    let length = || async { (mutex.entries().await.ok()?.len() == n).then_some(()) };
    eventually(format!("{n} entries"), SOON, length).await.unwrap_or_else(|error| panic!("{error}"));
}

fn waiter(mutex: &Mutex) -> tokio::task::JoinHandle<lock_core::Result<Guard>> {
    let mutex = mutex.clone();
    tokio::spawn(async move { mutex.lock().await })
}

async fn granted(waiter: tokio::task::JoinHandle<lock_core::Result<Guard>>) -> Guard {
    let outcome = tokio::time::timeout(SOON, waiter).await.expect("the lock is handed over");
    outcome.expect("no panic").expect("the lock is granted")
}

#[tokio::test]
async fn etcdctl_lock() {
    let etcd = Arc::new(Etcd::single().await.expect("etcd starts"));
    let client = connect(&format!("etcd://{}/team?ttl=10s", etcd.endpoint(0))).await.expect("etcd answers");
    let mutex = client.mutex("nightly").expect("a valid name");

    let ours = mutex.lock().await.expect("the lock is free");
    let theirs = tokio::spawn({
        let etcd = etcd.clone();
        async move { etcd.ctl(&["lock", "team/nightly", "echo", "theirs"]).await }
    });
    queue_length(&mutex, 2).await;
    let entries = mutex.entries().await.expect("the queue can be read");
    assert_eq!(lock_core::owner::Owner::decode(&entries[1].value), None, "a foreign entry has no owner metadata");
    assert!(!theirs.is_finished());
    ours.release().await;
    let said = tokio::time::timeout(SOON, theirs).await.expect("in time").expect("no panic").expect("etcdctl has it");
    assert!(said.contains("theirs"), "{said}");
    queue_length(&mutex, 0).await;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let over = dir.path().join("over");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done", over.display());
    let theirs = tokio::spawn({
        let etcd = etcd.clone();
        async move { etcd.ctl(&["lock", "team/nightly", "--", "sh", "-c", &script]).await }
    });
    queue_length(&mutex, 1).await;
    let token = mutex.entries().await.expect("the queue can be read")[0].token;
    assert!(mutex.try_lock().await.expect("etcd answers").is_none());
    let ours = waiter(&mutex);
    queue_length(&mutex, 2).await;
    assert!(!ours.is_finished());
    std::fs::write(&over, "").expect("the file can be written");
    let ours = granted(ours).await;
    assert!(Some(ours.token()) > token);
    theirs.await.expect("no panic").expect("etcdctl ends well");
}

#[tokio::test]
async fn etcdctl_lock_of_a_longer_name_is_another_lock() {
    let etcd = Etcd::single().await.expect("etcd starts");
    let client = connect(&format!("etcd://{}/team", etcd.endpoint(0))).await.expect("etcd answers");
    let mutex = client.mutex("a").expect("a valid name");
    etcd.ctl(&["put", "team/a/b/694d7c3a", "the key of a lock named team/a/b"]).await.expect("etcd answers");
    let guard = mutex.try_lock().await.expect("etcd answers").expect("nobody holds team/a");
    guard.release().await;
    let guard = tokio::time::timeout(SOON, mutex.lock()).await.expect("nobody holds team/a").expect("etcd answers");
    queue_length(&mutex, 1).await;
    guard.release().await;
}

/// Reads what a program prints until a line is `value`.
async fn prints(lines: &mut Lines<BufReader<ChildStdout>>, value: &str) {
    let found = tokio::time::timeout(SOON, async {
        while let Some(line) = lines.next_line().await.expect("its output can be read") {
            if line == value {
                return true;
            }
        }
        false
    });
    assert!(found.await.unwrap_or_else(|_| panic!("no line {value:?} in time")), "ended without a line {value:?}");
}

fn lines(program: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(program.stdout.take().expect("its output is piped")).lines()
}

#[tokio::test]
async fn etcdctl_elect() {
    let etcd = Etcd::single().await.expect("etcd starts");
    let client = connect(&format!("etcd://{}/team?ttl=10s", etcd.endpoint(0))).await.expect("etcd answers");
    let election = client.election("chief").expect("a valid name");
    let candidates = async |n: usize| {
        let all = || async { election.candidates().await.ok().filter(|all| all.len() == n) };
        eventually(format!("{n} candidates"), SOON, all).await.unwrap_or_else(|error| panic!("{error}"))
    };

    // They see whom we elect, and what it proclaims.
    let ours = election.campaign("us").await.expect("nobody leads");
    let mut listener = etcd.ctl_in_background(&["elect", "--listen", "team/chief"]).expect("etcdctl starts");
    let mut heard = lines(&mut listener);
    prints(&mut heard, "us").await;
    ours.proclaim("us, elsewhere").await.expect("we lead");
    prints(&mut heard, "us, elsewhere").await;

    // They stand behind us, and we behind them.
    let mut theirs = etcd.ctl_in_background(&["elect", "team/chief", "them"]).expect("etcdctl starts");
    let mut said = lines(&mut theirs);
    assert_eq!(candidates(2).await[1].value, b"them");
    let next = tokio::spawn(election.campaign("us again"));
    assert_eq!(candidates(3).await[2].value, b"us again");
    let mut observer = election.observe();
    let leader = observer.next().await.expect("etcd answers").expect("we lead");
    assert_eq!((leader.token, &leader.value[..]), (ours.token(), &b"us, elsewhere"[..]));
    let early = tokio::time::timeout(Duration::from_millis(300), said.next_line()).await;
    assert!(early.is_err() && !next.is_finished(), "elected while we lead: {early:?}");

    ours.resign().await;
    prints(&mut said, "them").await;
    prints(&mut heard, "them").await;
    let leader = tokio::time::timeout(SOON, async {
        loop {
            match observer.next().await.expect("etcd answers") {
                Some(leader) if leader.value == b"them" => return leader,
                _ => {}
            }
        }
    });
    let leader = leader.await.expect("they are seen to lead");
    assert!(!next.is_finished());
    // Its way to resign.
    let pid = theirs.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it still runs");
    kill_process(pid, Signal::INT).expect("it can be interrupted");
    let ours = tokio::time::timeout(SOON, next).await.expect("in time").expect("no panic").expect("we are elected");
    assert!(ours.token() > leader.token);
    prints(&mut heard, "us again").await;
    theirs.wait().await.expect("it ends");
    ours.resign().await;
    candidates(0).await;
}

#[tokio::test]
async fn curator_layout() {
    let zookeeper = ZooKeeper::single().await.expect("ZooKeeper starts");
    let client = connect(&format!("zk://{}/team", zookeeper.endpoint(0))).await.expect("ZooKeeper answers");
    let mutex = client.mutex("nightly").expect("a valid name");
    let other = zookeeper_client::Client::connect(&zookeeper.endpoint(0)).await.expect("ZooKeeper answers");
    let curator = || LockPrefix::new_curator("/team/nightly", "lock-").expect("a valid directory");

    let ours = mutex.lock().await.expect("the lock is free");
    let theirs = tokio::spawn({
        let other = other.clone();
        let prefix = curator();
        async move { other.lock(prefix, b"theirs", Acls::anyone_all()).await.map(|lock| lock.lock_path().to_owned()) }
    });
    queue_length(&mutex, 2).await;
    assert!(!theirs.is_finished());
    ours.release().await;
    let path = tokio::time::timeout(SOON, theirs).await.expect("in time").expect("no panic").expect("they have it");
    assert!(path.contains("-lock-"), "{path}");
    queue_length(&mutex, 0).await;

    let theirs = other.lock(curator(), b"theirs", Acls::anyone_all()).await.expect("the lock is free");
    assert!(mutex.try_lock().await.expect("ZooKeeper answers").is_none());
    let ours = waiter(&mutex);
    queue_length(&mutex, 2).await;
    assert!(!ours.is_finished());
    drop(theirs);
    granted(ours).await.release().await;
}
