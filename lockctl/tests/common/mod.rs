//! `lockctl` as tests start it.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it, and it is no library")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod contest;

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far more than a healthy machine needs, so that only a fault ends a wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `lockctl` with nothing of the caller's settings, and no signal ignored, as under `nohup`.
pub fn lockctl(backend: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_lockctl")]);
    for variable in ["USER", "PASSWORD", "PASSWORD_FILE", "CA", "CERT", "KEY", "TTL", "CONNECT_TIMEOUT"] {
        command.env_remove(format!("LOCKCTL_{variable}"));
    }
    command.env("LOCKCTL_BACKEND", backend).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that ends with the test, whatever becomes of that.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// How it ended, and what it said.
    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    pub fn exit_code(mut self) -> Option<i32> {
        wait_for("its end", || self.try_wait().unwrap()).code()
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        // One that is stopped, too; the warden of a `lockctl` does the rest.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A directory for the locks of a test and the files of its commands.
pub struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The directory of the locks.
    pub fn url(&self) -> String {
        format!("file://{}", self.path("locks").display())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script under a lock of this stage, and returns what it wrote into `$SAID`, a line or more.
    pub fn hold(&self, arguments: &[&str], script: &str) -> (Running, String) {
        self.hold_on(&self.url(), arguments, script)
    }

    /// The same with a lock in the memory of one process.
    pub fn hold_in_memory(&self, script: &str) -> (Running, String) {
        self.hold_on("memory", &["lock"], script)
    }

    fn hold_on(&self, backend: &str, arguments: &[&str], script: &str) -> (Running, String) {
        let said = self.path("said");
        let _ = fs::remove_file(&said);
        let mut command = lockctl(backend);
        let command = command.env("SAID", &said).arg("run").args(arguments).args(["--", "bash", "-c", script]);
        let running = Running::start(command);
        (running, wait_for_text(&said))
    }
}

/// Runs a script under a lock in the memory of one process.
pub fn run_script(script: &str) -> Output {
    lockctl("memory").args(["run", "lock", "--", "bash", "-c", script]).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The content of a file, once there is some.
pub fn wait_for_text(file: &Path) -> String {
    let text = || fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'));
    wait_for(&format!("a line in {}", file.display()), text)
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {signal:?} to {pid:?}: {error}"));
}

/// Whether a process runs; one that has ended and only waits to be reaped does not.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let children = tasks.flat_map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
    });
    children.collect()
}

/// The warden of a `lockctl` that runs a command.
pub fn warden(lockctl: u32) -> u32 {
    wait_for("the warden", || children(lockctl).first().copied())
}
