//! The life of a command: what it gets, what it returns, and that nothing of it outlives the lock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Running, Stage, is_alive, lockctl, run_script, signal, stderr, stdout, wait_for, wait_for_text, warden};
use nix::sys::ptrace;
use rustix::process::Signal;

/// Ignores SIGTERM, and has a child in another session. Says its pid and that of the child.
const STUBBORN: &str = "trap '' TERM; setsid sleep 1000 & echo $$ $! > $SAID; while :; do sleep 0.01; done";

fn pids<const N: usize>(said: &str) -> [u32; N] {
    let pids: Vec<u32> = said.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    pids.try_into().unwrap()
}

#[test]
fn the_exit_code_is_the_commands() {
    for code in [0, 1, 3, 80, 255] {
        assert_eq!(run_script(&format!("exit {code}")).status.code(), Some(code));
    }
}

#[test]
fn a_command_that_a_signal_ended_is_told_as_shells_tell_it() {
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("KILL", 137), ("SEGV", 139), ("USR1", 138)] {
        // Without another process in between, so that signals that are blocked would be seen.
        let output = lockctl("memory").args(["run", "lock", "--", "sh", "-c", &format!("kill -{name} $$")]).output();
        assert_eq!(output.unwrap().status.code(), Some(code), "{name}");
    }
}

#[test]
fn what_cannot_be_executed_is_told_as_shells_tell_it() {
    for (program, code, want) in
        [("lockctl-no-such-program", 127, "lockctl-no-such-program"), ("/etc/passwd", 126, "denied"), ("/", 126, "/")]
    {
        let output = lockctl("memory").args(["run", "lock", "--", program]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{program}: {output:?}");
        assert!(stderr(&output).contains(want), "{output:?}");
    }
}

#[test]
fn the_standard_streams_are_the_commands() {
    let mut child = lockctl("memory")
        .args(["run", "lock", "--", "bash", "-c", "cat; echo err >&2"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"first\nlast").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("first\nlast", "err\n"));
}

#[test]
fn arguments_arrive_as_they_are() {
    let odd = std::ffi::OsStr::from_bytes(b"\xff --try 'x' $HOME\n");
    let output = lockctl("memory").args(["run", "lock", "--", "printf", "%s|"]).arg(odd).arg("--").output().unwrap();
    assert_eq!(output.stdout, b"\xff --try 'x' $HOME\n|--|");
}

#[test]
fn a_shell_takes_one_text() {
    let output = lockctl("memory").args(["run", "--shell", "lock", "echo $((6 * 7)) | cat"]).output().unwrap();
    assert_eq!(stdout(&output), "42\n");
    let output = lockctl("memory").args(["run", "--shell", "lock", "echo", "42"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[test]
fn the_command_knows_its_lock() {
    let output = lockctl("memory")
        .args(["run", "my lock", "--", "bash", "-c"])
        .arg(r#"echo "$LOCK_NAME|$LOCK_TOKEN|$LOCK_KEY|$LOCK_VALID_MS|${ETCD_LOCK_KEY-none}|${LOCK_TERM-none}""#)
        .env("ETCD_LOCK_KEY", "of an outer lock")
        .output()
        .unwrap();
    let text = stdout(&output);
    let fields: Vec<&str> = text.trim_end().split('|').collect();
    assert_eq!((fields[0], fields[4], fields[5]), ("my lock", "none", "none"));
    assert!(fields[1].parse::<u64>().unwrap() > 0 && !fields[2].is_empty());
    assert!((1..=60_000).contains(&fields[3].parse::<u64>().unwrap()), "{text}");
}

#[test]
fn no_secret_reaches_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "geheim2\n").unwrap();
    let script = r#"
        tr '\0' '\n' < /proc/$$/environ
        for pid in $$ $PPID; do tr '\0' ' ' < /proc/$pid/cmdline; tr '\0' '\n' < /proc/$pid/environ; done"#;
    // Memory takes no user; the password is for another store then.
    let output = lockctl("memory")
        .args(["run", "lock", "--", "bash", "-c", script])
        .env("LOCKCTL_PASSWORD", "geheim1")
        .env("LOCKCTL_BACKEND", "memory")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("LOCK_TOKEN=") && !stdout(&output).contains("geheim"), "{output:?}");
    assert!(!stdout(&output).contains("LOCKCTL_PASSWORD"), "{output:?}");
}

#[test]
fn the_command_inherits_the_callers_files_and_no_others() {
    let script = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done";
    let without = std::process::Command::new("bash").args(["-c", script]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(stdout(&run_script(script)), stdout(&without));
    // Such as those of a process substitution.
    let script = format!("exec {} run lock -- cat <(echo one) <(echo two)", env!("CARGO_BIN_EXE_lockctl"));
    let output =
        std::process::Command::new("bash").args(["-c", &script]).env("LOCKCTL_BACKEND", "memory").output().unwrap();
    assert_eq!(stdout(&output), "one\ntwo\n", "{output:?}");
}

#[test]
fn the_command_has_the_usual_signals() {
    let output = run_script("grep -E 'Sig(Blk|Ign)' /proc/self/status");
    let text = stdout(&output);
    assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
    // Rust's programs ignore SIGPIPE, and commands should not. The C library keeps 32 and 33 to itself.
    let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{text}");
}

#[test]
fn signals_are_passed_on() {
    let stage = Stage::new();
    for (what, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::WINCH, "WINCH"),
        (Signal::CONT, "CONT"),
    ] {
        let script = format!("trap 'exit 7' {name}; echo ready > $SAID; while :; do sleep 0.01; done");
        let (holder, _) = stage.hold_in_memory(&script);
        signal(holder.id(), what);
        assert_eq!(holder.exit_code(), Some(7), "{name}");
    }
}

#[test]
fn a_signal_reaches_the_whole_group_and_a_command_may_ignore_it() {
    let script = "trap '' TERM; sleep 1000 & echo $! > $SAID; trap 'exit 5' USR1; wait; wait; exit 4";
    let (holder, said) = Stage::new().hold_in_memory(script);
    let [background] = pids(&said);
    signal(holder.id(), Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    // It was started with SIGTERM ignored.
    assert!(is_alive(background));
    signal(holder.id(), Signal::USR1);
    assert_eq!(holder.exit_code(), Some(5));
    assert!(!is_alive(background));
}

#[test]
fn whoever_has_left_the_group_is_asked_to_end_as_well() {
    let stage = Stage::new();
    let (holder, said) = stage.hold(
        &["lock"],
        "setsid bash -c 'trap \"echo asked > $SAID.end; exit\" TERM; echo $$ > $SAID; while :; do sleep 0.01; done' & wait",
    );
    let [_pid] = pids(&said);
    assert!(lockctl(&stage.url()).args(["revoke", "lock"]).output().unwrap().status.success());
    holder.exit_code();
    assert_eq!(fs::read_to_string(stage.path("said.end")).unwrap(), "asked\n", "it had the grace, too");
}

#[test]
fn nothing_of_the_command_outlives_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("locks").display());
    let file = dir.path().join("pids");
    // In its group, in a session of its own, in the background of one that ends at once, and with SIGTERM ignored.
    let script = format!(
        "exec > /dev/null; sleep 1001 & echo $! >> {file}; setsid sleep 1002 & echo $! >> {file};
         (setsid bash -c 'echo $$ >> {file}; trap \"\" TERM; while :; do sleep 1003; done' &) ; sleep 0.2; echo end >> {file}",
        file = file.display()
    );
    let begun = Instant::now();
    let output = lockctl(&url)
        .args(["run", "--ttl", "6s", "--grace", "300ms", "lock", "--", "bash", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300), "the one that ignores SIGTERM got its grace");
    let text = fs::read_to_string(&file).unwrap();
    let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 3, "{text}");
    for pid in pids {
        assert!(!is_alive(pid), "{pid} is left of {text}");
    }
    assert!(stderr(&output).contains("left"), "{output:?}");
}

#[test]
fn whoever_was_a_child_before_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!(
        "sleep 1000 & echo $! > {}; exec {} run lock -- bash -c 'sleep 1000'",
        file.display(),
        env!("CARGO_BIN_EXE_lockctl")
    );
    let mut child = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("LOCKCTL_BACKEND", "memory")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let other: u32 = wait_for_text(&file).trim().parse().unwrap();
    let warden = wait_for("the warden", || common::children(child.id()).into_iter().find(|pid| *pid != other));
    let command = wait_for("the command", || common::children(warden).first().copied());
    signal(warden, Signal::KILL);
    let code = child.wait().unwrap().code();
    let alive = [other, command].map(is_alive);
    // A test that fails leaves nothing behind.
    signal(other, Signal::KILL);
    assert_eq!((code, alive), (Some(80), [true, false]));
}

#[test]
fn the_command_dies_with_lockctl() {
    let (holder, said) = Stage::new().hold_in_memory(STUBBORN);
    let [command, left] = pids(&said);
    let warden = warden(holder.id());
    signal(holder.id(), Signal::KILL);
    assert_eq!(holder.exit_code(), None);
    let killed = Instant::now();
    wait_for("the end of all", || (![command, left, warden].into_iter().any(is_alive)).then_some(()));
    assert!(killed.elapsed() < Duration::from_secs(1), "at once, not after a grace: {:?}", killed.elapsed());
}

#[test]
fn the_command_dies_with_the_warden() {
    let (holder, said) = Stage::new().hold_in_memory(STUBBORN);
    let [command, left] = pids(&said);
    signal(warden(holder.id()), Signal::KILL);
    let output = holder.output();
    assert_eq!(output.status.code(), Some(80), "{output:?}");
    assert!(![command, left].into_iter().any(is_alive), "{output:?}");
    assert!(stderr(&output).contains("warden"), "{output:?}");
}

/// Both would have to be stopped or gone at the same time as the command ignores everything, and even then the system ends it.
#[test]
fn the_command_dies_with_the_warden_even_while_lockctl_is_stopped() {
    let (holder, said) = Stage::new().hold_in_memory(STUBBORN);
    let [command, _] = pids(&said);
    let warden = warden(holder.id());
    signal(holder.id(), Signal::STOP);
    signal(warden, Signal::KILL);
    wait_for("the end of the command", || (!is_alive(command)).then_some(()));
    signal(holder.id(), Signal::CONT);
    assert_eq!(holder.exit_code(), Some(80));
}

#[test]
fn a_command_may_run_for_longer_than_the_ttl() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("locks").display());
    let script = "sleep 2.5; echo done";
    let output = lockctl(&url).args(["run", "--ttl", "1s", "lock", "--", "bash", "-c", script]).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "done\n"), "{output:?}");
}

#[test]
fn signals_to_the_warden_are_for_nobody() {
    let (holder, _) = Stage::new().hold_in_memory("echo ready > $SAID; sleep 0.3; exit 6");
    for what in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::PIPE] {
        signal(warden(holder.id()), what);
    }
    assert_eq!(holder.exit_code(), Some(6));
}

#[test]
fn nohup_is_for_the_command_too() {
    let script = format!(
        "trap '' HUP; exec {} run lock -- bash -c 'kill -HUP $PPID; kill -HUP $$; echo survived'",
        env!("CARGO_BIN_EXE_lockctl")
    );
    let output =
        std::process::Command::new("bash").args(["-c", &script]).env("LOCKCTL_BACKEND", "memory").output().unwrap();
    assert_eq!(stdout(&output), "survived\n", "{output:?}");
}

#[test]
fn a_lock_that_is_not_free_is_not_waited_for_longer_than_asked() {
    let stage = Stage::new();
    let url = stage.url();
    let (holder, _) = stage.hold(&["lock"], "echo held > $SAID; exec sleep 1000");
    let never = stage.path("never");
    for options in [&["--try"][..], &["--timeout", "200ms"]] {
        let output = lockctl(&url).arg("run").args(options).args(["lock", "--", "touch"]).arg(&never).output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        assert!(stderr(&output).contains("\"lock\""), "{output:?}");
    }
    assert!(!never.exists());
    signal(holder.id(), Signal::TERM);
    assert_eq!(holder.exit_code(), Some(143));
    let output = lockctl(&url).args(["run", "--try", "lock", "--", "echo", "mine"]).output().unwrap();
    assert_eq!(stdout(&output), "mine\n", "nobody is left in the queue: {output:?}");
}

/// In a directory, a lock goes with the last process that keeps it, at once.
#[test]
fn a_lock_is_not_passed_on_before_the_command_of_a_killed_lockctl_is_dead() {
    let stage = Stage::new();
    let url = stage.url();
    // Without a pause, which would hide it.
    let now = ["--lock-delay", "0s", "lock"];
    let (holder, said) = stage.hold(&now, "echo $$ > $SAID; exec sleep 1000");
    let [pid] = pids(&said);
    // As a busy machine might. Stopped by a signal, it would be continued by the kernel when its parent dies.
    let warden = nix::unistd::Pid::from_raw(warden(holder.id()).try_into().unwrap());
    ptrace::seize(warden, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(warden).unwrap();
    signal(holder.id(), Signal::KILL);
    assert_eq!(holder.exit_code(), None);
    let output = lockctl(&url).args(["run", "--timeout", "1s"]).args(now).args(["--", "true"]).output().unwrap();
    assert!(is_alive(pid), "the warden stands still");
    assert_eq!(output.status.code(), Some(75), "two at once: {output:?}");
    let check = format!("kill -0 {pid} 2>/dev/null && exit 99; exit 0");
    let next = Running::start(lockctl(&url).arg("run").args(now).args(["--", "bash", "-c", &check]));
    ptrace::detach(warden, None).unwrap();
    assert_eq!(next.exit_code(), Some(0), "99: the command was still there");
}

/// The next one would wait for an hour.
#[test]
fn whoever_ends_in_order_leaves_no_pause() {
    let stage = Stage::new();
    let url = stage.url();
    let run = |options: &[&str], command: &[&str]| {
        let mut lockctl = lockctl(&url);
        lockctl.args(["run", "--lock-delay", "1h"]).args(options).args(["lock", "--"]).args(command);
        lockctl
    };
    let at_once = |what: &str| {
        let output = run(&["--timeout", "20s"], &["true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
    };
    for (code, command) in [
        (3, &["sh", "-c", "exit 3"][..]),
        (137, &["sh", "-c", "kill -KILL $$"]),
        (0, &["sh", "-c", "sleep 1000 & exit 0"]),
        (127, &["lockctl-no-such-program"]),
    ] {
        assert_eq!(run(&[], command).output().unwrap().status.code(), Some(code), "{command:?}");
        at_once(&format!("{command:?}"));
    }
    for what in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (holder, _) = stage.hold(&["--lock-delay", "1h", "lock"], "echo held > $SAID; exec sleep 1000");
        for (options, code) in [(&["--try"][..], 75), (&["--timeout", "300ms"], 75)] {
            assert_eq!(run(options, &["true"]).output().unwrap().status.code(), Some(code));
        }
        let waiter = Running::start(&mut run(&[], &["true"]));
        let queue = || stdout(&lockctl(&url).args(["queue", "--json", "lock"]).output().unwrap());
        wait_for("a waiter", || queue().contains("waiter").then_some(()));
        signal(waiter.id(), what);
        waiter.exit_code();
        signal(holder.id(), what);
        holder.exit_code();
        at_once(&format!("{what:?}"));
    }
    let (holder, _) = stage.hold(&["--lock-delay", "1h", "lock"], "echo held > $SAID; exec sleep 1000");
    assert!(lockctl(&url).args(["revoke", "lock"]).output().unwrap().status.success());
    holder.exit_code();
    at_once("revoke");
}

#[test]
fn a_holder_that_vanished_makes_the_next_one_wait() {
    let stage = Stage::new();
    let url = stage.url();
    let vanish = || {
        let (holder, _) = stage.hold(&["--lock-delay", "3s", "lock"], "echo held > $SAID; exec sleep 1000");
        signal(holder.id(), Signal::KILL);
        holder.exit_code();
        let who = || lockctl(&url).args(["who", "lock"]).output().unwrap().status.code();
        wait_for("the end of its command", || (who() == Some(75)).then_some(()));
    };
    let run = |options: &[&str]| {
        let output = lockctl(&url).arg("run").args(options).args(["lock", "--", "true"]).output().unwrap();
        output.status.code()
    };
    vanish();
    let vanished = Instant::now();
    assert_eq!(run(&["--try"]), Some(0));
    assert!(vanished.elapsed() > Duration::from_millis(2_900), "{:?}", vanished.elapsed());
    vanish();
    let vanished = Instant::now();
    let mut given_up = 0;
    // Each makes a part of the pause.
    while run(&["--timeout", "500ms"]) == Some(75) {
        given_up += 1;
        assert!(given_up < 10, "for ever");
    }
    assert!(vanished.elapsed() > Duration::from_millis(2_900) && given_up > 2, "{given_up} {:?}", vanished.elapsed());
    vanish();
    assert_eq!(run(&["--timeout", "2s", "--lock-delay", "0s"]), Some(0), "it does not ask, and so it does not wait");
}

#[test]
fn a_signal_while_waiting_leaves_the_queue() {
    let stage = Stage::new();
    let url = stage.url();
    let (holder, _) = stage.hold(&["lock"], "echo held > $SAID; exec sleep 1000");
    for (what, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let waiter = Running::start(lockctl(&url).args(["run", "lock", "--", "true"]));
        let waiting = || stdout(&lockctl(&url).args(["queue", "--json", "lock"]).output().unwrap());
        wait_for("a waiter", || waiting().contains("waiter").then_some(()));
        signal(waiter.id(), what);
        let output = waiter.output();
        assert_eq!((output.status.code(), output.status.signal()), (Some(code), None), "{output:?}");
        assert!(!waiting().contains("waiter"), "{}", waiting());
    }
    signal(holder.id(), Signal::TERM);
    holder.exit_code();
}

#[test]
fn readers_share_and_permits_are_counted() {
    let stage = Stage::new();
    let url = stage.url();
    for (name, one, another) in
        [("rw", &["--shared"][..], &["--shared"][..]), ("sem", &["--permits", "1/2"], &["--permits", "1/2"])]
    {
        let arguments: Vec<_> = one.iter().copied().chain([name]).collect();
        let (holder, _) = stage.hold(&arguments, "echo held > $SAID; exec sleep 1000");
        let beside = lockctl(&url).args(["run", "--try"]).args(another).args([name, "--", "true"]).output().unwrap();
        assert_eq!(beside.status.code(), Some(0), "{beside:?}");
        let alone = if name == "rw" { &["--exclusive"][..] } else { &["--permits", "2/2"] };
        let alone = lockctl(&url).args(["run", "--try"]).args(alone).args([name, "--", "true"]).output().unwrap();
        assert_eq!(alone.status.code(), Some(75), "{alone:?}");
        let mutex = lockctl(&url).args(["run", name, "--", "true"]).output().unwrap();
        assert_eq!(mutex.status.code(), Some(78), "{mutex:?}");
        signal(holder.id(), Signal::TERM);
        holder.exit_code();
    }
    let mutex = lockctl(&url).args(["run", "sem", "--", "true"]).output().unwrap();
    assert!(mutex.status.code() == Some(78) && stderr(&mutex).contains("--permits"), "it stays one: {mutex:?}");
}

#[test]
fn whoever_is_asked_to_let_go_asks_the_command_to_end() {
    let stage = Stage::new();
    let url = stage.url();
    for (trap, code) in [("trap 'exit 9' TERM", 9), ("trap '' TERM", 137)] {
        let script = format!("{trap}; echo held > $SAID; while :; do sleep 0.01; done");
        let (holder, _) = stage.hold(&["--ttl", "6s", "--grace", "300ms", "lock"], &script);
        assert!(lockctl(&url).args(["revoke", "lock"]).output().unwrap().status.success());
        let output = holder.output();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains("let go"), "{output:?}");
    }
}

#[test]
fn a_command_without_terminal_that_stops_itself_goes_on_when_it_is_told() {
    let (holder, said) = Stage::new().hold_in_memory("echo $$ > $SAID; kill -STOP $$; exit 8");
    let [pid] = pids(&said);
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
    wait_for("the command to stop", || state().then_some(()));
    // A lockctl that has no part in it goes on.
    signal(holder.id(), Signal::CONT);
    assert_eq!(holder.exit_code(), Some(8));
}

#[test]
fn what_cannot_be_used_is_refused() {
    for (args, code, want) in [
        (&["run"][..], 64, "Usage"),
        (&["run", "lock"], 64, "COMMAND"),
        (&["run", "--tyr", "lock", "true"], 64, "--tyr"),
        (&["run", "--try", "--timeout", "1s", "lock", "true"], 64, "--timeout"),
        (&["run", "--shared", "--exclusive", "lock", "true"], 64, "--exclusive"),
        (&["run", "--shared", "--lock-delay", "1s", "lock", "true"], 64, "--lock-delay"),
        (&["run", "--permits", "3/2", "lock", "true"], 64, "K/N"),
        (&["run", "--timeout", "5", "lock", "true"], 64, "500ms"),
        (&["run", "", "true"], 78, "name"),
        (&["run", "--grace", "1h", "lock", "true"], 78, "--grace"),
        (&["--backend", "redis://u:geheim@h", "run", "lock", "true"], 78, "redis"),
        (&["--backend", "", "run", "lock", "true"], 78, "backend"),
    ] {
        let output = lockctl("memory").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let text = stderr(&output);
        assert!(text.contains(want) && !text.contains("geheim"), "{args:?}: {text}");
    }
    let name = std::ffi::OsStr::from_bytes(b"n\xff");
    let output = lockctl("memory").arg("run").arg(name).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(stderr(&output).contains(r#""n\xFF""#), "{output:?}");
    let output = lockctl("memory").env("LOCKCTL_USER", name).args(["run", "lock", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(stderr(&output).contains(r#"LOCKCTL_USER is "n\xFF""#), "{output:?}");
    let output = lockctl("memory").args(["run", "lock", "--"]).arg(name).output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    assert!(stderr(&output).contains(r#""n\xFF""#), "{output:?}");
}
