//! The examples as processes that share locks on real servers, some of which are killed while they run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use examples::history::{Event, Record};
use integration::{Etcd, ZooKeeper, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// Three servers and a dozen busy workers are enough for a small machine.
async fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// `workers` with several processes and its ledger.
struct Run {
    child: Child,
    ledger: PathBuf,
    _dir: TempDir,
}

impl Run {
    fn start(backend: &str, args: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("ledger");
        let child = Command::new(env!("CARGO_BIN_EXE_workers"))
            .args(["--json", "--backend", backend, "--ledger"])
            .arg(&ledger)
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, ledger, _dir: dir }
    }

    fn grants(&self) -> Vec<Record> {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
        records.filter(|record| matches!(record.event, Event::Begin { .. })).collect()
    }

    /// Waits until processes for which `counts` is true have been granted the lock `more` times from now on.
    async fn goes_on(&mut self, what: &str, more: usize, counts: impl Fn(u32) -> bool + Sync) {
        let before = self.grants().len();
        let grown = eventually(format!("{more} grants {what}"), Duration::from_secs(60), || {
            let new = self.grants().split_off(before).iter().filter(|grant| counts(grant.who.process)).count();
            let ended = self.child.try_wait().unwrap().is_some();
            async move { (new >= more || ended).then_some(new) }
        });
        let new = grown.await;
        assert!(matches!(new, Ok(new) if new >= more), "{what}: {new:?}, {:?}", self.stop());
    }

    /// The process of the latest holder, and its pid.
    fn holder(&self) -> (u32, u32) {
        let process = self.grants().last().unwrap().who.process;
        let parent = self.child.id();
        let children = fs::read_dir(format!("/proc/{parent}/task")).unwrap().flat_map(|task| {
            let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
            children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()).collect::<Vec<_>>()
        });
        let number = process.to_string();
        let runs = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').skip_while(|arg| *arg != "--process").nth(1) == Some(&number)
        };
        (process, children.into_iter().find(runs).unwrap())
    }

    fn stop(&mut self) -> Output {
        signal(Signal::INT, self.child.id());
        self.output()
    }

    /// Waits for the end.
    fn output(&mut self) -> Output {
        let placeholder = Command::new("true").spawn().unwrap();
        std::mem::replace(&mut self.child, placeholder).wait_with_output().unwrap()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A test that failed leaves it running; its children stop when it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(signal: Signal, pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// The summary of a run whose ledger must be right.
fn right(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["overlaps", "order_violations", "late_writes"] {
        assert_eq!(json[key], 0, "{json}");
    }
    assert_eq!(json["tokens_increasing"], true, "{json}");
    json
}

/// All turns are taken although the only server is killed and started again in between.
async fn a_restart_is_survived(url: &str, kill: impl Fn(), restart: impl AsyncFn()) {
    let mut run = Run::start(url, "--processes 2 --workers 4 --rounds 30 --hold 5ms");
    run.goes_on("at the start", 40, |_| true).await;
    kill();
    restart().await;
    let json = right(&run.output());
    assert!(json["grants"].as_u64().unwrap() >= 240 && json["killed"] == 0, "{json}");
}

/// The lock goes on when a server and then the process that holds it are killed.
async fn kills_are_survived(url: &str, kill: impl Fn(), restart: impl AsyncFn()) {
    let mut run = Run::start(url, "--processes 3 --workers 3 --rounds 1000000 --hold 20ms --ttl 6s");
    run.goes_on("at the start", 20, |_| true).await;
    kill();
    run.goes_on("without a server", 20, |_| true).await;
    let (process, pid) = run.holder();
    signal(Signal::KILL, pid);
    run.goes_on("without a process", 20, |other| other != process).await;
    restart().await;
    run.goes_on("with all servers", 20, |_| true).await;
    let json = right(&run.stop());
    assert_eq!(json["killed"], 1, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_restarts() {
    let _alone = one_at_a_time().await;
    let etcd = Etcd::single().await.unwrap();
    let url = format!("etcd://{}/locks", etcd.endpoint(0));
    a_restart_is_survived(&url, || etcd.kill(0).unwrap(), async || etcd.restart(0).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_leader_and_a_worker_process_are_killed() {
    let _alone = one_at_a_time().await;
    let etcd = Etcd::cluster(3).await.unwrap();
    let leader = etcd.leader().await.unwrap();
    let hosts: Vec<_> = (0..3).map(|i| etcd.endpoint(i)).collect();
    let url = format!("etcd://{}/locks", hosts.join(","));
    kills_are_survived(&url, || etcd.kill(leader).unwrap(), async || etcd.restart(leader).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_restarts() {
    let _alone = one_at_a_time().await;
    let zk = ZooKeeper::single().await.unwrap();
    let url = format!("zk://{}/locks", zk.endpoint(0));
    a_restart_is_survived(&url, || zk.kill(0).unwrap(), async || zk.restart(0).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_leader_and_a_worker_process_are_killed() {
    let _alone = one_at_a_time().await;
    let zk = ZooKeeper::cluster(3).await.unwrap();
    let leader = zk.leader().await.unwrap();
    let url = format!("zk://{}/locks", zk.connect_string());
    kills_are_survived(&url, || zk.kill(leader).unwrap(), async || zk.restart(leader).await.unwrap()).await;
}

/// The examples beside `workers`, and what makes them run for long enough that others can go on without one process.
const EXAMPLES: [(&str, &str); 6] = [
    (env!("CARGO_BIN_EXE_connection_pool"), "--rounds 200 --connections 8"),
    (env!("CARGO_BIN_EXE_cache_refresh"), ""),
    (env!("CARGO_BIN_EXE_job_scheduler"), ""),
    (env!("CARGO_BIN_EXE_transfer"), ""),
    (env!("CARGO_BIN_EXE_queue_consumer"), ""),
    (env!("CARGO_BIN_EXE_config_store"), ""),
];

/// All claims of all examples hold when a process is killed, and when one is stopped for longer than the ttl.
fn the_examples_survive(url: &str) {
    let run = |fault: &str, (program, args): (&str, &str)| {
        let output = Command::new(program)
            .args(["--backend", url, "--ttl", "5s", fault])
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("WRONG"), "{program} {fault}: {output:?}");
        assert!(said.contains("right the others went on without it"), "{program} {fault}: {said}");
        match fault {
            "--kill" => assert!(said.contains("was killed by signal 9"), "{program}: {said}"),
            _ => assert!(said.contains("right what came late was refused"), "{program}: {said}"),
        }
    };
    // Most of the time they wait for the end of a ttl.
    std::thread::scope(|scope| {
        for pair in EXAMPLES.chunks(2) {
            scope.spawn(|| pair.iter().for_each(|example| run("--kill", *example)));
        }
    });
    std::thread::scope(|scope| {
        // A connection of a stopped process stays open, which no semaphore can prevent.
        for pair in EXAMPLES[1..].chunks(2) {
            scope.spawn(|| pair.iter().for_each(|example| run("--stall", *example)));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_on_etcd() {
    let _alone = one_at_a_time().await;
    let etcd = Etcd::single().await.unwrap();
    let url = format!("etcd://{}/examples", etcd.endpoint(0));
    tokio::task::spawn_blocking(move || the_examples_survive(&url)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_on_zookeeper() {
    let _alone = one_at_a_time().await;
    let zk = ZooKeeper::single().await.unwrap();
    let url = format!("zk://{}/examples", zk.endpoint(0));
    tokio::task::spawn_blocking(move || the_examples_survive(&url)).await.unwrap();
}

/// What the tests above rely on: a run that cannot reach its servers says so.
#[test]
fn servers_that_are_not_there_are_an_error() {
    let port = integration::Port::claim().unwrap().number();
    for url in [format!("etcd://127.0.0.1:{port}"), format!("zk://127.0.0.1:{port}")] {
        let output = Run::start(&url, "--processes 2").output();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr.contains(&format!("127.0.0.1:{port}")), "{stderr}");
    }
}
