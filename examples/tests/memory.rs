//! The examples as users meet them, on the memory backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// An example.
struct Example {
    program: &'static str,
    path: &'static str,
}

const POOL: Example = Example { program: "connection_pool", path: env!("CARGO_BIN_EXE_connection_pool") };
const CACHE: Example = Example { program: "cache_refresh", path: env!("CARGO_BIN_EXE_cache_refresh") };
const TRANSFER: Example = Example { program: "transfer", path: env!("CARGO_BIN_EXE_transfer") };
const CONSUMER: Example = Example { program: "queue_consumer", path: env!("CARGO_BIN_EXE_queue_consumer") };
const SCHEDULER: Example = Example { program: "job_scheduler", path: env!("CARGO_BIN_EXE_job_scheduler") };
const CONFIG: Example = Example { program: "config_store", path: env!("CARGO_BIN_EXE_config_store") };

const ALL: [&Example; 6] = [&POOL, &CACHE, &SCHEDULER, &TRANSFER, &CONSUMER, &CONFIG];

impl Example {
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(self.path);
        command.args(args.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it; all its claims must hold, and these lines be among what it says.
    fn is_right(&self, args: &str, lines: &[&str]) -> String {
        let output = self.output(args);
        let said = text(&output.stdout);
        assert!(output.status.success() && !said.contains("WRONG"), "{} {args}: {output:?}", self.program);
        for line in lines {
            assert!(said.contains(line), "{} {args}: no {line:?} in {said}", self.program);
        }
        said.to_owned()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_pool_uses_all_its_connections_and_no_more() {
    POOL.is_right("", &["at most 5 of them at once", "queries      960", "right the database never had more than 5"]);
    POOL.is_right("--connections 1 --rounds 2", &["at most 1 of them at once"]);
}

#[test]
fn a_pool_gets_the_connections_of_a_dead_process_back() {
    POOL.is_right("--kill", &["is killed", "at most 5 of them at once", "right the others went on without it"]);
}

#[test]
fn a_cache_is_refreshed_by_one_at_a_time() {
    CACHE.is_right("", &["made  8 pages", "right the page was never made by two at once"]);
}

#[test]
fn a_cache_is_refreshed_by_the_next_when_one_dies_or_stands_still() {
    CACHE.is_right("--kill", &["is killed", "right the others went on without it"]);
    CACHE.is_right("--stall", &["is stopped", "right what came late was refused"]);
}

#[test]
fn jobs_are_done_once_by_one_leader_after_the_other() {
    let said = SCHEDULER.is_right("", &["right each job was done once at each tick", "right all jobs were done"]);
    assert_eq!(said.matches(" for 20 jobs").count(), 3, "each process leads for its term: {said}");
    SCHEDULER.is_right("--ticks 5 --term 1 --workers 2 --every 10ms", &["right all jobs were done"]);
}

#[test]
fn jobs_are_done_once_when_a_leader_dies_or_stands_still() {
    SCHEDULER.is_right("--kill", &["is killed", "right all jobs were done", "right the others went on without it"]);
    SCHEDULER.is_right("--stall", &["is stopped", "right all jobs were done", "right what came late was refused"]);
}

#[test]
fn money_is_moved_and_none_is_made() {
    TRANSFER.is_right("", &["right all accounts together have 600"]);
    TRANSFER.is_right("--accounts 2 --transfers 5", &["right all accounts together have 200"]);
}

#[test]
fn money_is_not_lost_with_a_process() {
    TRANSFER.is_right("--kill", &["is killed", "right all accounts together have 600"]);
    TRANSFER.is_right("--stall", &["is stopped", "right what came late was refused"]);
}

#[test]
fn orders_are_handled_in_their_turns() {
    CONSUMER.is_right("", &["handled  120 orders", "right each order was handled once"]);
    CONSUMER.is_right("--processes 2 --workers 3 --orders 40", &["handled  40 orders"]);
}

#[test]
fn orders_are_handled_in_their_turns_when_a_process_dies_or_stands_still() {
    CONSUMER.is_right("--kill", &["is killed", "handled  120 orders", "right each order was handled once"]);
    CONSUMER.is_right("--stall", &["is stopped", "refused  1 that came late", "right what came late was refused"]);
}

#[test]
fn settings_are_read_whole() {
    CONFIG.is_right("", &["right nobody used settings that were half old and half new"]);
}

#[test]
fn settings_are_read_whole_when_their_writer_dies_or_stands_still() {
    CONFIG.is_right("--kill", &["is killed", "right nobody used settings that were half old"]);
    CONFIG.is_right("--stall", &["is stopped", "right what came late was refused"]);
}

#[test]
fn wrong_usage_says_what_to_do_and_ends_with_2() {
    for run in ALL {
        for (args, want) in [
            ("--processes 0", "'--processes <N>'"),
            ("--workers 0", "'--workers <N>'"),
            ("--ttl fast", "'--ttl <TIME>': expected a number with a unit"),
            ("--ttl 1ms", "at least 10ms"),
            ("--kill --processes 1", "--processes must be at least 2"),
            ("--backend redis://user:secret@localhost", "expected memory, file://"),
            ("--no-such-flag", "--help"),
        ] {
            let output = run.output(args);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{} {args}: {stderr}", run.program);
            assert!(stderr.contains(want) && !stderr.contains("secret"), "{} {args}: {stderr}", run.program);
            assert!(output.stdout.is_empty(), "{} {args}: {output:?}", run.program);
        }
        #[cfg(not(feature = "etcd"))]
        assert!(text(&run.output("--backend etcd://h").stderr).contains("--features etcd"));
        #[cfg(not(feature = "zk"))]
        assert!(text(&run.output("--backend zk://h").stderr).contains("--features zk"));
    }
    for (run, args, want) in [
        (&POOL, "--connections 0", "'--connections <N>'"),
        (&POOL, "--pool=", "it is empty"),
        (&CACHE, "--refreshes 0", "'--refreshes <N>'"),
        (&TRANSFER, "--accounts 1", "'--accounts <N>'"),
        (&TRANSFER, "--kill --stall", "cannot be used with"),
        (&CONSUMER, "--effort 5", "'--effort <TIME>'"),
        (&CONSUMER, "--lock=", "it is empty"),
        (&SCHEDULER, "--ticks 0", "'--ticks <N>'"),
        (&SCHEDULER, "--election=", "it is empty"),
        (&CONFIG, "--changes 0", "'--changes <N>'"),
    ] {
        let output = run.output(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{} {args}: {stderr}", run.program);
        assert!(stderr.contains(want), "{} {args}: {stderr}", run.program);
    }
}

#[test]
fn work_that_is_over_before_a_process_can_be_interrupted_is_no_success() {
    // The four workers that are left never use all five connections, as the others would have to.
    let output = POOL.output("--kill --processes 2 --workers 4 --connections 5 --rounds 1");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("give it more"), "{output:?}");
}

#[test]
fn interrupted_they_tell_what_they_saw_until_then() {
    let endless = [
        "--rounds 1000000",
        "--refreshes 1000000",
        "--ticks 1000000",
        "--transfers 1000000",
        "--orders 1000000",
        "--changes 1000000",
    ];
    for (run, args) in ALL.into_iter().zip(endless) {
        let mut child = run.command(args).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
        stdout.read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{} {args}: {said}", run.program);
        assert!(said.contains("right ") && !said.contains("WRONG"), "{} {args}: {said}", run.program);
    }
}
