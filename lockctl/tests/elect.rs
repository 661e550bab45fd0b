//! Candidates: who leads, what the others see of it, and whose turn it is next.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Command;

use common::{Running, Stage, lockctl, signal, stdout, wait_for};
use rustix::process::Signal;

/// An election, and a file in which the leaders' commands write what they find.
struct Office {
    stage: Stage,
}

impl Office {
    fn new() -> Self {
        Self { stage: Stage::new() }
    }

    fn lockctl(&self) -> Command {
        lockctl(&self.stage.url())
    }

    fn log(&self) -> PathBuf {
        self.stage.path("log")
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Stands with a command that writes a line, and does `then` after that.
    fn stand(&self, options: &[&str], value: &str, then: &str) -> Running {
        let script = format!("echo {value} $LOCK_TERM $LOCK_TOKEN >> {}; {then}", self.log().display());
        let mut command = self.lockctl();
        Running::start(command.arg("elect").args(options).args(["primary", value, "--", "bash", "-c", &script]))
    }

    /// The same, once it leads.
    fn lead(&self, options: &[&str], value: &str, then: &str) -> Running {
        let before = self.lines().len();
        let candidate = self.stand(options, value, then);
        wait_for(value, || (self.lines().len() > before).then_some(()));
        candidate
    }

    /// Waits until this many stand.
    fn wait_for_candidates(&self, n: usize) {
        let count = || {
            let output = self.lockctl().args(["queue", "primary", "--json"]).output().unwrap();
            (stdout(&output).matches("\"position\"").count() == n).then_some(())
        };
        wait_for(&format!("{n} candidates"), count);
    }

    fn leader(&self) -> String {
        stdout(&self.lockctl().args(["leader", "primary"]).output().unwrap())
    }
}

fn numbers(line: &str) -> [u64; 2] {
    let mut numbers = line.split_whitespace().skip(1).map(|number| number.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

#[test]
fn the_next_one_leads_when_the_command_has_ended() {
    let office = Office::new();
    let first = office.lead(&[], "10.0.0.1", "exec sleep 1000");
    assert!(office.leader().starts_with("10.0.0.1"), "{}", office.leader());
    let second = office.stand(&[], "10.0.0.2", "exit 7");
    office.wait_for_candidates(2);
    assert_eq!(office.lines().len(), 1, "one leads");
    signal(first.id(), Signal::TERM);
    assert_eq!((first.exit_code(), second.exit_code()), (Some(143), Some(7)));
    let lines = office.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let [before, after] = [numbers(&lines[0]), numbers(&lines[1])];
    assert!(after[0] == before[0] + 1 && after[1] > before[1], "{lines:?}");
    let nobody = office.lockctl().args(["leader", "primary"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(75), "{nobody:?}");
}

#[test]
fn who_stands_for_ever_lets_the_others_lead_between() {
    let office = Office::new();
    let candidates = ["a", "b"].map(|value| office.stand(&["--forever"], value, "sleep 0.1"));
    wait_for("six terms", || (office.lines().len() >= 6).then_some(()));
    for candidate in candidates {
        signal(candidate.id(), Signal::TERM);
        let code = candidate.exit_code();
        assert_eq!(code, Some(143), "in office or in the queue");
    }
    let lines = office.lines();
    let terms: Vec<_> = lines.iter().map(|line| numbers(line)[0]).collect();
    assert!(terms.windows(2).all(|pair| pair[1] == pair[0] + 1), "{lines:?}");
    assert!(lines[..6].windows(2).all(|pair| pair[0][..1] != pair[1][..1]), "they take turns: {lines:?}");
    office.wait_for_candidates(0);
}

#[test]
fn a_leader_that_is_removed_is_stopped_and_stands_again_only_for_ever() {
    for (options, code) in [(&[][..], Some(80)), (&["--forever"], None)] {
        let office = Office::new();
        let mut leader = office.lead(options, "a", "exec sleep 1000");
        let [_, token] = numbers(&office.lines()[0]);
        let arguments = ["break", "primary", "--token", &token.to_string()];
        assert!(office.lockctl().args(arguments).output().unwrap().status.success());
        match code {
            Some(code) => assert_eq!(leader.exit_code(), Some(code)),
            None => {
                wait_for("a second term", || (office.lines().len() == 2).then_some(()));
                assert!(leader.try_wait().unwrap().is_none(), "it goes on");
            }
        }
    }
}

#[test]
fn a_leader_that_dies_is_followed_at_once_and_its_command_is_dead() {
    let office = Office::new();
    let pid = office.stage.path("pid");
    let first = office.lead(&[], "a", &format!("echo $$ > {}; exec sleep 1000", pid.display()));
    let pid: u32 = common::wait_for_text(&pid).trim().parse().unwrap();
    let check = format!("kill -0 {pid} 2>/dev/null && exit 99; exit 0");
    let second = office.stand(&[], "b", &check);
    office.wait_for_candidates(2);
    signal(first.id(), Signal::KILL);
    assert_eq!(first.exit_code(), None);
    assert_eq!(second.exit_code(), Some(0), "99: the first one's command ran on");
}

#[test]
fn without_a_command_it_leads_until_somebody_asks_it_to_let_go() {
    let office = Office::new();
    let mut child = Running::start(office.lockctl().args(["elect", "primary", "a", "--json"]));
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let leading: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&leading["name"], &leading["value"]), (&"primary".into(), &"a".into()), "{line}");
    assert!(leading["term"].is_u64() && leading["token"].is_u64(), "{line}");
    assert!(office.lockctl().args(["revoke", "primary"]).output().unwrap().status.success());
    assert_eq!(child.exit_code(), Some(0));
}

#[test]
fn what_cannot_stand_is_told() {
    let office = Office::new();
    let output = office.lockctl().args(["elect", "primary"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let long = "x".repeat(5_000);
    let output = office.lockctl().args(["elect", "primary", &long, "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(common::stderr(&output).contains("5000 bytes"), "{output:?}");
    let output = office.lockctl().args(["elect", "primary", "a", "--", "lockctl-no-such-program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    office.wait_for_candidates(0);
}
