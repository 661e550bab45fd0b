//! One server of a cluster: a command line that can be started, stopped and started again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::process::{Process, log_tail};
use crate::{Error, Result};

/// A server process that starts again with the same data and ports.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Server {
    /// Describes a server; nothing runs until [`launch`](Self::launch).
    pub fn new(name: impl Into<String>, program: impl Into<OsString>, args: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.into(), program: program.into(), args, log, process: Mutex::default() }
    }

    /// Starts the process, and does not wait until it serves; the one that ran before is killed.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process();
        *process = None;
        *process = Some(Process::spawn(&self.name, &self.program, &self.args, &self.log)?);
        Ok(())
    }

    /// Waits until `serves` says that the server serves.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] as soon as the process has ended, [`Error::Timeout`] after `limit`; both show the end of the log.
    pub async fn wait_ready<F: Future<Output = bool> + Send>(
        &self,
        limit: Duration,
        mut serves: impl FnMut() -> F + Send,
    ) -> Result<()> {
        let start = Instant::now();
        while !serves().await {
            self.with(Process::check)?;
            if start.elapsed() > limit {
                return Err(Error::Timeout {
                    what: format!("{} to serve", self.name),
                    limit,
                    log: format!("; the end of its log:\n{}", log_tail(&self.log)),
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills the process with SIGKILL and reaps it; does nothing when none runs.
    ///
    /// # Errors
    ///
    /// As [`Process::kill`].
    pub fn kill(&self) -> Result<()> {
        let process = self.process().take();
        process.map_or(Ok(()), |process| process.kill().map(drop))
    }

    /// Stops the process in order, with SIGTERM; does nothing when none runs.
    ///
    /// # Errors
    ///
    /// As [`Process::stop`].
    pub async fn stop(&self) -> Result<()> {
        let process = self.process().take();
        match process {
            Some(process) => process.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// Freezes the process with SIGSTOP.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], or as [`Process::pause`].
    pub fn pause(&self) -> Result<()> {
        self.with(Process::pause)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], or as [`Process::resume`].
    pub fn resume(&self) -> Result<()> {
        self.with(Process::resume)
    }

    /// The process id, while one runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Whether the process runs and is not paused, so that an answer can be expected from it.
    pub fn is_active(&self) -> bool {
        self.process().as_mut().is_some_and(|process| !process.is_paused() && process.check().is_ok())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        self.process().as_mut().map_or_else(|| Err(Error::NotRunning { name: self.name.clone() }), act)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The log goes with the temporary directory; whoever reads the failure needs its end.
        if std::thread::panicking() {
            eprintln!("the end of the log of {}:\n{}\n", self.name, log_tail(&self.log));
        }
    }
}
