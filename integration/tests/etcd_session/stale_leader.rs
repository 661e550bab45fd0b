//! H02 and H03: a leader whose log cannot be written is deposed, does not notice, and goes on answering keep-alives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use integration::{Etcd, PATIENCE, eventually};
use lock_core::Error;
use lock_core::backend::Session;
use tokio::time::{Instant, timeout};

use crate::{all_endpoints, enqueue, lease, open_with, queue};

fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory on a file system of its own that can be frozen.
struct Disk {
    mount: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Moves `directory` onto such a file system.
    fn under(directory: &Path) -> Self {
        let (image, copy) = (directory.with_extension("img"), directory.with_extension("copy"));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(512 << 20).unwrap();
        run("mkfs.ext4", &[Path::new("-q"), &image]);
        std::fs::rename(directory, &copy).unwrap();
        std::fs::create_dir(directory).unwrap();
        run("mount", &[Path::new("-o"), Path::new("loop"), &image, directory]);
        let disk = Self { mount: directory.to_owned(), image };
        for entry in std::fs::read_dir(&copy).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
        disk
    }

    fn freeze(&self) {
        run("fsfreeze", &[Path::new("-f"), &self.mount]);
    }

    fn thaw(&self) {
        run("fsfreeze", &[Path::new("-u"), &self.mount]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A panic may have left it frozen, and the server may still be there.
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.mount).output();
        let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Three servers; the leader's log is on the disk.
async fn cluster() -> (Etcd, usize, Disk) {
    let etcd = Etcd::cluster(3).await.unwrap();
    let node = 0;
    let command = std::fs::read(format!("/proc/{}/cmdline", etcd.pid(node).unwrap())).unwrap();
    let mut arguments = command.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    arguments.find(|argument| argument == "--data-dir").unwrap();
    let log = PathBuf::from(arguments.next().unwrap()).join("member/wal");
    etcd.stop(node).await.unwrap();
    let disk = Disk::under(&log);
    etcd.restart(node).await.unwrap();
    etcd.move_leader(node).await.unwrap();
    (etcd, node, disk)
}

/// Freezes the leader's log, and gives the leader something to write there, on which it gets stuck.
async fn freeze(etcd: &Etcd, leader: usize, disk: &Disk) {
    disk.freeze();
    etcd.ctl_at(&etcd.url(leader), &["--command-timeout=300ms", "put", "stuck", "here"]).await.unwrap_err();
}

/// Asks again and again; remembers until when the session was last promised to live.
async fn keep(session: &Arc<dyn Session>, until: &mut Instant) {
    loop {
        let asked = Instant::now();
        match session.renew().await {
            Ok(valid) => *until = (*until).max(asked + valid),
            Err(Error::SessionOver { .. }) => return,
            Err(_) => {}
        }
        tokio::time::sleep(session.ttl() / 30).await;
    }
}

/// What a client sees that trusts keep-alives: when they were answered positively.
async fn keep_alives(url: String, lease: i64) -> Vec<Instant> {
    let mut positive = Vec::new();
    let client = Client::connect([url], None).await.unwrap();
    let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await.unwrap();
    loop {
        keeper.keep_alive().await.unwrap();
        match timeout(Duration::from_secs(3), answers.message()).await {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => positive.push(Instant::now()),
            _ => return positive,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether those that have a quorum say that the lease is gone.
async fn gone(etcd: &Etcd, frozen: usize, lease: i64) -> Option<()> {
    let healthy: Vec<_> = (0..3).filter(|i| *i != frozen).map(|i| etcd.url(i)).collect();
    let answer =
        etcd.ctl_at(&healthy.join(","), &["get", "--prefix", "--keys-only", "--", "locks/%session/"]).await.ok()?;
    (!answer.contains(&format!("{lease:x}"))).then_some(())
}

/// H02: a session that knows no other member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, a loop device and fsfreeze; run with --ignored"]
async fn a_leader_that_was_deposed_unnoticed_proves_nothing() {
    let (etcd, leader, disk) = cluster().await;
    let session = open_with(&etcd.endpoint(leader), "ttl=6s").await;
    enqueue(&session, &queue()).await;
    let mut until = Instant::now();
    let _ = timeout(Duration::from_secs(2), keep(&session, &mut until)).await;
    let id = lease(&session);
    let bare = tokio::spawn(keep_alives(etcd.url(leader), id));
    let ended = async {
        freeze(&etcd, leader, &disk).await;
        eventually("the lease to end", PATIENCE, || gone(&etcd, leader, id)).await.unwrap();
        Instant::now()
    };
    let end = tokio::select! {
        () = keep(&session, &mut until) => panic!("a frozen leader cannot say that the session is over"),
        end = ended => end,
    };
    assert!(end >= until, "ended {:?} before the promise ran out", until - end);
    let mut later = end;
    let _ = timeout(Duration::from_secs(5), keep(&session, &mut later)).await;
    assert_eq!(later, end, "promised after its end");
    disk.thaw();
    let answered = bare.await.unwrap();
    let after = answered.iter().filter(|at| **at > end).count();
    println!(
        "{after} bare keep-alives were answered positively after the end; promised no later than {:?} before",
        end - until
    );
    let over = async { while !matches!(session.renew().await, Err(Error::SessionOver { .. })) {} };
    timeout(PATIENCE, over).await.expect("the session is over for good");
}

/// H03: a session that knows all members leaves the stale one, and lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, a loop device and fsfreeze; run with --ignored"]
async fn a_session_leaves_a_leader_that_was_deposed_unnoticed() {
    let (etcd, leader, disk) = cluster().await;
    for _ in 0..3 {
        let session = open_with(&all_endpoints(&etcd), "ttl=10s").await;
        enqueue(&session, &queue()).await;
        let mut until = Instant::now();
        let _ = timeout(Duration::from_secs(1), keep(&session, &mut until)).await;
        let frozen = Instant::now();
        let id = lease(&session);
        let kept = timeout(session.ttl() * 3 / 2, keep(&session, &mut until));
        let _ = tokio::join!(kept, freeze(&etcd, leader, &disk));
        assert!(gone(&etcd, leader, id).await.is_none(), "the session has lived on");
        assert!(until > frozen + session.ttl() * 3 / 2, "and was proven to");
        let end = eventually("the lease to end", PATIENCE, || gone(&etcd, leader, id)).await.map(|()| Instant::now());
        let end = end.unwrap();
        assert!(end >= until, "ended {:?} before the promise ran out", until - end);
        disk.thaw();
        etcd.wait_ready(leader).await.unwrap();
        etcd.move_leader(leader).await.unwrap();
    }
}
