//! `workers` as users and scripts meet it, on the memory backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use examples::history::{Record, verify};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn workers(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workers"));
    command.args(args.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(text(&output.stdout).lines().count(), 1, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn signal(signal: Signal, pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn records(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a ledger has so many records.
fn grown_to(path: &Path, lines: usize) {
    let start = Instant::now();
    while std::fs::read_to_string(path).unwrap_or_default().lines().count() < lines {
        assert!(start.elapsed() < Duration::from_secs(30), "no {lines} records in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_turn_is_taken_and_nothing_is_wrong() {
    let output = workers("--workers 5 --rounds 7 --hold 0s --json").output().unwrap();
    let json = json(&output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&json["grants"], &json["lost"]), (&35.into(), &0.into()));
    assert_eq!((&json["overlaps"], &json["order_violations"]), (&0.into(), &0.into()));
    assert_eq!(json["tokens_increasing"], true);

    let output = workers("--workers 5 --rounds 7 --hold 0s").output().unwrap();
    let text = text(&output.stdout);
    assert!(output.status.success() && text.contains("35 grants") && text.contains("The ledger is right"), "{text}");
    assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");
}

#[test]
fn wrong_usage_says_what_to_do_and_ends_with_2() {
    for (args, want) in [
        ("--workers 0", "'--workers <N>'"),
        ("--rounds 0", "'--rounds <N>'"),
        ("--processes 0", "'--processes <N>'"),
        ("--hold 5", "'--hold <TIME>': expected a number with a unit"),
        ("--ttl fast", "'--ttl <TIME>'"),
        ("--ttl 1ms", "at least 10ms"),
        ("--processes 2", "the memory backend is the memory of one process"),
        ("--backend redis://user:secret@localhost", "expected memory, file://"),
        ("--backend localhost:2379", "expected memory, file://"),
        ("--lock=", "it is empty"),
        ("--ledger /", "--ledger /: "),
        ("--no-such-flag", "--help"),
    ] {
        let output = workers(args).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {stderr}");
        assert!(stderr.contains(want) && !stderr.contains("secret"), "{args}: {stderr}");
        assert!(output.stdout.is_empty(), "{args}: {output:?}");
    }
    #[cfg(not(feature = "etcd"))]
    assert!(text(&workers("--backend etcd://h").output().unwrap().stderr).contains("--features etcd"));
    #[cfg(not(feature = "zk"))]
    assert!(text(&workers("--backend zk://h").output().unwrap().stderr).contains("--features zk"));
}

#[cfg(target_os = "linux")]
#[test]
fn processes_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let backend = format!("file://{}/locks", directory.path().display());
    let args = format!("--backend {backend} --processes 3 --workers 2 --rounds 5 --hold 0s --json");
    let output = workers(&args).output().unwrap();
    let json = json(&output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&json["grants"], &json["overlaps"], &json["order_violations"]), (&30.into(), &0.into(), &0.into()));
    assert!(directory.path().join("locks/%counter").exists());
}

#[test]
fn a_ledger_is_kept_in_a_file_and_not_mixed_with_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let args = format!("--workers 2 --rounds 3 --hold 0s --json --ledger {}", path.display());
    assert!(workers(&args).status().unwrap().success());
    let verdict = verify(&records(&path));
    assert!(verdict.is_right() && verdict.grants.len() == 6, "{verdict:?}");
    let output = workers(&args).output().unwrap();
    assert!(text(&output.stderr).contains("not empty") && output.status.code() == Some(2), "{output:?}");
}

#[test]
fn interrupted_it_tells_what_it_did_until_then() {
    let dir = tempfile::tempdir().unwrap();
    for (name, stop) in [("INT", Signal::INT), ("TERM", Signal::TERM), ("HUP", Signal::HUP)] {
        let path = dir.path().join(name);
        let args = format!("--rounds 1000000 --json --ledger {}", path.display());
        let child = workers(&args).spawn().unwrap();
        grown_to(&path, 20);
        signal(stop, child.id());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(json(&output)["grants"].as_u64().unwrap() >= 9, "{name}: {output:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = workers("--rounds 20").spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && !text(&output.stderr).contains("panic"), "{output:?}");
}

/// Stopped for longer than the ttl, everybody loses the lock or the place, and starts over without a wrong entry.
#[test]
fn a_process_that_stood_still_for_longer_than_the_ttl_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let args = format!("--workers 3 --rounds 10 --hold 30ms --ttl 300ms --json --ledger {}", path.display());
    let child = workers(&args).spawn().unwrap();
    grown_to(&path, 5);
    signal(Signal::STOP, child.id());
    std::thread::sleep(Duration::from_millis(600));
    signal(Signal::CONT, child.id());
    let output = child.wait_with_output().unwrap();
    let json = json(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(json["lost"].as_u64().unwrap() > 0 && json["grants"].as_u64().unwrap() >= 30, "{json}");
}

/// Two processes with a lock each share a ledger: the check must not find that right.
#[test]
fn a_lock_that_does_not_lock_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let children = [0, 1].map(|process| {
        let args =
            format!("--process {process} --rounds 1000000 --hold 1ms --patience 30s --ledger {}", path.display());
        workers(&args).stdin(Stdio::piped()).spawn().unwrap()
    });
    grown_to(&path, 200);
    for mut child in children {
        // The end of its standard input is what asks a child to stop.
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let verdict = verify(&records(&path));
    assert!(!verdict.overlaps.is_empty(), "{verdict:?}");
}
