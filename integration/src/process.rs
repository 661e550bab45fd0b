//! Child processes that cannot outlive the test which started them.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::wait::eventually;
use crate::{Error, Result};

const STOP_LIMIT: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 40;

/// A running child process; killed and reaped when it is dropped, killed by the kernel when the test's process dies.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    paused: bool,
}

impl Process {
    /// Starts `program` in a process group of its own, with its output appended to the file `log`; `name` stands for it in messages.
    ///
    /// A program that does not exist shows as a process that exits at once, with the reason in its log.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] when `setpriv`, which ties the child to the test's process, is missing; [`Error::Io`] when the log cannot be opened.
    pub fn spawn<A: AsRef<OsStr>>(
        name: &str,
        program: &OsStr,
        args: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(Error::io(format!("open the log {}", log.display())))?;
        let errors = output.try_clone().map_err(Error::io("duplicate the log's descriptor"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        // A server reads its settings from there too, and etcd refuses to start on some.
        for (variable, _) in
            std::env::vars_os().filter(|(variable, _)| variable.as_encoded_bytes().starts_with(b"ETCD_"))
        {
            command.env_remove(variable);
        }
        let child =
            spawn_on_lasting_thread(command).map_err(|source| Error::Spawn { program: "setpriv".into(), source })?;
        Ok(Self { name: name.into(), child, log: log.into(), paused: false })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] with the end of the log.
    pub fn check(&mut self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => Err(Error::Exited { name: self.name.clone(), status, log: self.log_tail() }),
        }
    }

    /// Asks the process to end with SIGTERM, kills it after five seconds, and returns how it ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the process cannot be signalled or waited for.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.resume()?;
        let this = &mut self;
        let ended = eventually("the process to end", STOP_LIMIT, || {
            let status = this.exit_status().transpose();
            async move { status }
        });
        match ended.await {
            Ok(status) => status,
            Err(_) => self.kill(),
        }
    }

    /// Kills the process with SIGKILL, reaps it, and returns how it ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the process cannot be signalled or waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.end().map_err(Error::io(format!("kill {}", self.name)))
    }

    /// Stops the process with SIGSTOP and returns when all its threads stand still; its connections stay open and silent.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the process has ended.
    pub fn pause(&mut self) -> Result<()> {
        if self.paused {
            return Ok(());
        }
        self.check()?;
        self.signal(Signal::STOP)?;
        self.paused = true;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED)
            .map(drop)
            .map_err(|errno| Error::io(format!("wait until {} stands still", self.name))(errno.into()))
    }

    /// Lets a paused process go on with SIGCONT.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the process cannot be signalled.
    pub fn resume(&mut self) -> Result<()> {
        self.paused = false;
        self.signal(Signal::CONT)
    }

    /// Whether the process is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(Error::io(format!("wait for {}", self.name)))
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // A reaped child's id may belong to somebody else by now.
        if self.exit_status()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| Error::io(format!("signal {}", self.name))(errno.into()))
    }

    fn end(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a paused process as well. Nothing can be done about an error here, and the kernel ends the child with this process at the latest.
        let _ = self.end();
    }
}

pub(crate) fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Spawns on a thread that lives as long as this process, because the kernel sends the parent-death signal when the *thread* that spawned the child ends, and a test's thread may end
/// before the test's servers are meant to.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<Sender<Job>> = LazyLock::new(|| {
        let (jobs, queue) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, child) = sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    SPAWNER.send((command, reply)).map_err(|_| gone(()))?;
    child.recv().map_err(|_| gone(()))?
}
