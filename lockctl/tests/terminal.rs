//! `lockctl` on a terminal, under a shell with job control.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::wait_for;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

/// A terminal with an interactive shell, where `l NAME …` is `lockctl run NAME …` on files.
struct Session {
    shell: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
    dir: TempDir,
}

impl Session {
    fn start(ttl: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = || File::from(open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap());
        let shell = Command::new("setsid")
            .args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "--noediting", "-i"])
            .env("PS1", "> ")
            .env("LOCKCTL_BACKEND", format!("file://{}", dir.path().join("locks").display()))
            .env("LOCKCTL_TTL", ttl)
            .stdin(Stdio::from(side()))
            .stdout(Stdio::from(side()))
            .stderr(Stdio::from(side()))
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let mut output = File::from(master.try_clone().unwrap());
        std::thread::spawn({
            let screen = screen.clone();
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    screen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                }
            }
        });
        let mut session = Self { shell, keyboard: File::from(master), screen, dir };
        session.line(&format!("l() {{ {} run \"$@\"; }}; echo re''ady", env!("CARGO_BIN_EXE_lockctl")));
        session.sees("ready");
        session
    }

    fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line. What the line writes is told apart from its echo by quotes within it: `ec''ho`.
    fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\n"));
    }

    /// Waits until this is on the screen, and forgets all up to there.
    fn sees(&self, text: &str) {
        let deadline = Instant::now() + common::PATIENCE;
        loop {
            let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = screen.find(text) {
                screen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} is not on the screen {screen:?}");
            drop(screen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types Ctrl-C, which loses what was typed before the shell has seen it, and waits for the prompt.
    fn interrupt(&mut self) {
        self.keys(CTRL_C);
        self.sees("^C");
        self.sees("> ");
    }

    /// Runs something in the shell to see its `$?`.
    fn code(&mut self) -> String {
        self.line("echo co''de=$?.");
        self.sees("code=");
        wait_for("a code", || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            screen.split_once('.').map(|(code, _)| code.to_owned())
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of the terminal is the end of all on it.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn the_command_reads_from_the_terminal_and_ctrl_d_ends_it() {
    let mut session = Session::start("6s");
    session.line("l lock -- sed -u s/^/got:/");
    session.line("hello");
    session.sees("got:hello");
    session.keys("\x04");
    assert_eq!(session.code(), "0");
}

#[test]
fn ctrl_c_ends_the_command_and_the_script_around_it() {
    let mut session = Session::start("6s");
    let script = session.path("script");
    fs::write(
        &script,
        format!(
            "while :; do {} run lock -- bash -c 'echo begun; exec sleep 1000'; done\n",
            env!("CARGO_BIN_EXE_lockctl")
        ),
    )
    .unwrap();
    session.line(&format!("bash {script}"));
    session.sees("begun");
    session.interrupt();
    assert_eq!(session.code(), "130");
    assert!(!session.screen.lock().unwrap().contains("begun"), "the script went on");
}

#[test]
fn ctrl_c_while_waiting_leaves_the_queue_and_ends_the_script() {
    let mut session = Session::start("6s");
    session.line("l lock -- sleep 1000 &");
    wait_for("the holder", || session.has("sleep 1000").then_some(()));
    let waiting = session.path("waiting");
    session.line(&format!("l lock -- touch {waiting}; echo no''t reached"));
    session.sees("place 2 of 2");
    session.interrupt();
    assert_eq!(session.code(), "130");
    session.line(&format!("{} queue lock; kill %1", env!("CARGO_BIN_EXE_lockctl")));
    session.sees("0 waiting");
    assert!(!fs::exists(&waiting).unwrap());
}

#[test]
fn ctrl_c_that_a_command_handles_is_its_own_business() {
    let mut session = Session::start("6s");
    session.line(r#"l lock -- bash -c 'trap "echo handled; exit 4" INT; echo be""gun; while :; do sleep 0.05; done'"#);
    session.sees("begun");
    session.keys(CTRL_C);
    session.sees("handled");
    assert_eq!(session.code(), "4");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_lets_it_go_on() {
    let mut session = Session::start("20s");
    for _ in 0..2 {
        session.line("l lock -- sed -u s/^/got:/");
        session.line("before");
        session.sees("got:before");
        session.keys(CTRL_Z);
        session.sees("suspended");
        session.sees("Stopped");
        session.line("fg");
        session.line("after");
        session.sees("got:after");
        session.keys("\x04");
        assert_eq!(session.code(), "0");
    }
}

#[test]
fn ctrl_z_stops_a_whole_pipeline_once() {
    let mut session = Session::start("20s");
    let script = r#"echo be""gun; sleep 0.5; read -r answer < /dev/tty; echo "had $answer""#;
    session.line(&format!("l lock -- bash -c '{script}' | cat"));
    session.sees("begun");
    session.keys(CTRL_Z);
    session.sees("Stopped");
    session.sees("> ");
    session.line("fg");
    session.line("again");
    session.sees("had again");
    assert_eq!(session.code(), "0");
}

#[test]
fn a_job_that_is_suspended_for_too_long_is_ended() {
    let mut session = Session::start("3s");
    let pid = session.path("pid");
    session.line(&format!("l lock -- bash -c 'echo $$ > {pid}; exec cat'"));
    let command: u32 = common::wait_for_text(pid.as_ref()).trim().parse().unwrap();
    session.keys(CTRL_Z);
    session.sees("Stopped");
    wait_for("the end of the command", || (!common::is_alive(command)).then_some(()));
    session.line("fg");
    assert_eq!(session.code(), "80");
}

#[test]
fn a_job_in_the_background_gets_the_terminal_with_fg() {
    let mut session = Session::start("20s");
    session.line("set -b");
    session.line("l lock -- sed -u s/^/got:/ &");
    session.sees("Stopped");
    session.line("fg");
    session.line("hello");
    session.sees("got:hello");
    session.interrupt();
    assert_eq!(session.code(), "130");
}

#[test]
fn in_a_pipeline_others_keep_the_terminal() {
    let mut session = Session::start("6s");
    // The last one reads from the terminal while the command runs, as a pager does.
    let pager = r#"read -r line; echo "$line"; read -r answer < /dev/tty; echo "got $answer""#;
    session.line(&format!("l lock -- bash -c 'echo pi\"\"ped; sleep 1000' | bash -c '{pager}'"));
    session.sees("piped");
    session.line("answer");
    session.sees("got answer");
    session.interrupt();
    // The command reads from the terminal beside a pipe, as an editor does.
    session.line("echo x | l lock -- bash -c 'cat; stty -echo < /dev/tty; read -r answer < /dev/tty; stty echo < /dev/tty; echo \"had $answer\"'");
    session.line("again");
    session.sees("had again");
    // The rest of a pipeline is interrupted, too.
    session.line("l lock -- sleep 1000 | sleep 1001; echo ended");
    wait_for("the command", || session.has("sleep 1000").then_some(()));
    session.interrupt();
    assert_eq!(session.code(), "130");
}

impl Session {
    /// Whether the shell has somebody below it that runs this.
    fn has(&self, command: &str) -> bool {
        let mut pids = vec![self.shell.id()];
        while let Some(pid) = pids.pop() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line: Vec<u8> = line.into_iter().map(|byte| if byte == 0 { b' ' } else { byte }).collect();
            if String::from_utf8_lossy(&line).trim() == command {
                return true;
            }
            if fs::exists(format!("/proc/{pid}/task")).unwrap() {
                pids.extend(common::children(pid));
            }
        }
        false
    }
}

#[test]
fn a_shell_with_jobs_of_its_own_can_be_the_command() {
    let mut session = Session::start("20s");
    session.line("l lock -- bash --norc --noediting -i");
    session.line("PS1='inner> '; echo na''me=$LOCK_NAME");
    session.sees("name=lock");
    session.line("sleep 1000");
    wait_for("the command", || session.has("sleep 1000").then_some(()));
    session.keys(CTRL_Z);
    session.sees("Stopped");
    session.sees("inner> ");
    session.line("fg");
    session.sees("sleep 1000");
    session.interrupt();
    session.line("exit 3");
    session.sees("exit");
    session.line("");
    assert_eq!(session.code(), "3");
    assert!(!session.has("sleep 1000"));
}
