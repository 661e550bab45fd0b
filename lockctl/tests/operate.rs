//! What operators see and do, among the processes of one host; and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod operating;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use operating::{Ran, lockctl, operating};
use tempfile::TempDir;

async fn store() -> (String, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (format!("file://{}", dir.path().display()), dir)
}

operating!(store());

fn run(args: &[&str]) -> Ran {
    Ran::of(lockctl().args(args).output().unwrap())
}

#[test]
fn what_cannot_be_used_is_64_and_help_is_0() {
    for wrong in [
        &["que"][..],
        &["queue"],
        &["queue", "l", "--forever"],
        &["who", "l", "m"],
        &["break", "l"],
        &["break", "l", "--token", "abc"],
        &["revoke", "l", "--token", "-1"],
        &["wait", "l", "--timeout", "5"],
        &["bench", "--workers", "0"],
        &["bench", "--time", "0s"],
        &["bench", "--time", "2h"],
        &["completions", "tcsh"],
        &["ls", "--ttl", "soon"],
        &[],
    ] {
        let ran = run(wrong);
        assert_eq!((ran.code, &*ran.out), (Some(64), ""), "{wrong:?}: {ran:?}");
        assert!(!ran.err.is_empty() && !ran.err.contains("panicked"), "{wrong:?}: {ran:?}");
    }
    for help in [&["--help"][..], &["--version"], &["queue", "--help"], &["help", "break"], &["--exit-codes"]] {
        let ran = run(help);
        assert!(ran.code == Some(0) && ran.err.is_empty() && !ran.out.is_empty(), "{help:?}: {ran:?}");
    }
    let token = run(&["break", "l", "--token", "abc"]);
    assert!(token.err.contains("abc") && token.err.contains("lockctl who"), "{token:?}");
}

#[test]
fn names_that_are_no_text_are_told() {
    for command in ["queue", "who", "wait", "ls", "leader", "revoke"] {
        let output = lockctl().args(["--backend", "memory", command]).arg(OsStr::from_bytes(b"\xff")).output().unwrap();
        let ran = Ran::of(output);
        assert!(ran.code == Some(64) && ran.err.contains("UTF-8"), "{command}: {ran:?}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_78_and_unreachable_servers_69() {
    run(&["--backend", "foo://h", "ls"]).refused(78, &["foo://", "expected"]);
    run(&["--backend", "memory", "who", ""]).refused(78, &["name \"\""]);
    run(&["--backend", "memory", "queue", &"x".repeat(300)]).refused(78, &["255"]);
    #[cfg(feature = "etcd")]
    for command in ["ls", "bench"] {
        // Nobody listens on port 1.
        let unreachable = ["--backend", "etcd://127.0.0.1:1/ns", "--connect-timeout", "500ms", command];
        run(&unreachable).refused(69, &["127.0.0.1:1"]);
    }
}

#[test]
fn doctor_names_what_is_bad_and_ends_with_its_code() {
    for (backend, code) in [
        ("foo://user:secret@h", 78),
        #[cfg(feature = "zk")]
        ("zk://user:secret@127.0.0.1:1/ns", 69),
    ] {
        let args = ["--backend", backend, "--connect-timeout", "500ms", "doctor"];
        let ran = run(&args);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.out.lines().any(|line| line.starts_with("BAD ")), "{ran:?}");
        assert!(!ran.out.contains("secret"), "{ran:?}");
        let ran = run(&[&args[..], &["--json"]].concat());
        assert_eq!(ran.code, Some(code));
        let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(report["findings"][0]["verdict"], "bad", "{report}");
    }
}

#[test]
fn manual_and_completions_know_every_subcommand() {
    let man = run(&["man"]);
    assert!(man.lines()[..].iter().any(|line| line.starts_with(".TH lockctl 1")), "{man:?}");
    let shells = ["bash", "elvish", "fish", "powershell", "zsh"];
    for (what, text) in
        [("man", man.out)].into_iter().chain(shells.map(|shell| (shell, run(&["completions", shell]).out)))
    {
        for command in ["run", "elect", "ls", "queue", "who", "leader", "revoke", "break", "wait", "doctor", "bench"] {
            let heading = if what == "man" { format!(".SH {}", command.to_uppercase()) } else { command.to_owned() };
            assert!(text.contains(&heading), "{command} in {what}");
        }
        for hidden in ["warden", "interrupt"] {
            assert!(what != "man" || !text.to_lowercase().contains(&format!(".sh {hidden}")), "{hidden} in {what}");
        }
    }
}
