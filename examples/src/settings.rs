//! Settings in several files, which can only be written one after the other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{FencingGate, Guard, StaleToken, WriteGuard};
use serde::{Deserialize, Serialize};

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

/// Of each answer, at most; so that who reads without a lock is sooner or later overtaken.
const DELAY: Duration = Duration::from_millis(2);

/// The files. What belongs together has the same version in all.
pub const FILES: [&str; 4] = ["limits", "routes", "features", "contacts"];

/// A file that stands there while a writer is at work: who finds it without a writer knows that the writer died.
const UNFINISHED: &str = "unfinished";

/// Settings as they were read: the version of each file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Of each file.
    pub versions: Vec<u64>,
    /// Whether the last writer died before it was done, so that the files do not belong together.
    pub unfinished: bool,
}

impl Config {
    /// The version, that of the first file.
    pub fn version(&self) -> u64 {
        self.versions.first().copied().unwrap_or(0)
    }

    fn is_torn(&self) -> bool {
        self.unfinished || self.versions.iter().any(|version| *version != self.version())
    }
}

/// Files with versions in them.
#[derive(Debug)]
pub struct Settings {
    last: u64,
    gate: FencingGate,
    seen: Mutex<Seen>,
}

/// What happened to the settings.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    files: BTreeMap<String, u64>,
    writes: u32,
    /// Who has begun to read and not come to the end.
    reading: BTreeMap<Caller, Reading>,
    /// The most that were reading at a time.
    pub readers: usize,
    /// How often somebody used what it had read.
    pub uses: u32,
    /// How often somebody used what it had read, although others had written meanwhile.
    pub disturbed: u32,
    /// What was used although its files do not belong together.
    pub torn: Vec<Config>,
    /// What writers found where they had written something else.
    pub overwritten: Vec<Config>,
}

/// From the first file that somebody reads to the last.
#[derive(Clone, Copy, Debug)]
struct Reading {
    writes_before: u32,
    writes_since: u32,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The version in a file, 0 when it is not there, for the holder of this token.
    Read(String, u64),
    /// With this token, a version is to be in a file; 0 removes it.
    Write(String, u64, u64),
    /// Somebody uses what it has read, and has written it itself if there is a version.
    Use(Config, Option<u64>),
}

const LOCK: &str = "settings";

impl Settings {
    /// Files of version 0, which expect to be written up to version `last`.
    pub fn new(last: u64) -> Self {
        Self { last, gate: FencingGate::new(), seen: Mutex::default() }
    }

    /// What happened so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// The greatest version in a file.
    pub fn version(&self) -> u64 {
        FILES.iter().filter_map(|file| self.lock().files.get(*file).copied()).max().unwrap_or(0)
    }

    fn handle(&self, from: Caller, request: Request) -> Result<u64, StaleToken> {
        let mut seen = self.lock();
        match request {
            Request::Read(file, token) => {
                // Readers share, so that none of them is too late; but a writer from before them is.
                let _ = self.gate.admit(LOCK, token);
                let writes = seen.writes;
                let reading = seen.reading.entry(from).or_insert(Reading { writes_before: writes, writes_since: 0 });
                reading.writes_since = writes - reading.writes_before;
                seen.readers = seen.readers.max(seen.reading.len());
                Ok(seen.files.get(&file).copied().unwrap_or(0))
            }
            Request::Write(file, token, version) => {
                seen.reading.remove(&from);
                self.gate.admit_and(LOCK, token, || {
                    seen.files.insert(file, version);
                    seen.writes += 1;
                    version
                })
            }
            Request::Use(config, written) => {
                let reading = seen.reading.remove(&from);
                seen.disturbed += u32::from(reading.is_some_and(|reading| reading.writes_since > 0));
                seen.uses += 1;
                if written.is_some_and(|written| config.version() != written) {
                    seen.overwritten.push(config.clone());
                }
                if config.is_torn() {
                    seen.torn.push(config);
                }
                Ok(0)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for Settings {
    type Request = Request;
    type Answer = u64;

    const WORST_MOMENT: &'static str = "with two of four files written";

    fn is_worst_moment(&self, request: &Request) -> bool {
        matches!(request, Request::Write(file, _, version) if file == FILES[2] && *version > self.last / 3)
    }

    fn closed(&self, from: Caller) {
        self.lock().reading.remove(&from);
    }

    async fn answer(&self, from: Caller, request: Request) -> Result<u64, StaleToken> {
        tokio::time::sleep(DELAY.mul_f64(fastrand::f64())).await;
        self.handle(from, request)
    }
}

impl Connection<Settings> {
    /// Reads all files, one after the other.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn load(&mut self, lock: &Guard) -> Result<Config, Setback> {
        let unfinished = self.read(lock, UNFINISHED).await? > 0;
        let mut versions = Vec::new();
        for file in FILES {
            versions.push(self.read(lock, file).await?);
        }
        Ok(Config { versions, unfinished })
    }

    /// The version that was written last, or was being written when its writer died.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn version(&mut self, lock: &Guard) -> Result<u64, Setback> {
        self.read(lock, FILES[0]).await
    }

    /// Writes all files, one after the other, whatever is in them. Refused when the settings know a later holder.
    ///
    /// # Errors
    /// That the lock is not held any more, or there is no answer; then some may be written, and are marked as unfinished.
    pub async fn save(&mut self, lock: &WriteGuard, version: u64) -> Result<(), Setback> {
        self.write(lock, UNFINISHED, version).await?;
        for file in FILES {
            self.write(lock, file, version).await?;
        }
        self.write(lock, UNFINISHED, 0).await
    }

    /// Uses what was read, which is the version `written` if its user has written it. The settings look at it closely.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn apply(&mut self, config: Config, written: Option<u64>) -> Result<(), Setback> {
        self.ask(Request::Use(config, written)).await?;
        Ok(())
    }

    async fn read(&mut self, lock: &Guard, file: &str) -> Result<u64, Setback> {
        self.ask(Request::Read(file.to_owned(), lock.token())).await
    }

    async fn write(&mut self, lock: &WriteGuard, file: &str, version: u64) -> Result<(), Setback> {
        self.ask_as_holder(Request::Write(file.to_owned(), lock.token(), version), || lock.check()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Caller = Caller { process: 0, connection: 0 };

    #[test]
    fn files_that_do_not_belong_together_are_noticed() {
        let settings = Settings::new(9);
        for (versions, unfinished, torn) in
            [(vec![3; 4], false, 0), (vec![3, 3, 4, 4], false, 1), (vec![3; 4], true, 2)]
        {
            settings.handle(FROM, Request::Use(Config { versions, unfinished }, None)).unwrap();
            assert_eq!(settings.seen().torn.len(), torn);
        }
        let config = Config { versions: vec![3; 4], unfinished: false };
        settings.handle(FROM, Request::Use(config.clone(), Some(3))).unwrap();
        settings.handle(FROM, Request::Use(config, Some(2))).unwrap();
        assert_eq!((settings.seen().torn.len(), settings.seen().overwritten.len()), (2, 1));
    }

    #[test]
    fn a_write_between_the_first_file_that_is_read_and_the_last_is_noticed() {
        let writer = Caller { process: 1, connection: 1 };
        let settings = Settings::new(9);
        let disturbed = || {
            settings.handle(FROM, Request::Use(Config::default(), None)).unwrap();
            settings.seen().disturbed
        };
        let read = |token| settings.handle(FROM, Request::Read("limits".into(), token)).unwrap();
        let write = |from, token| settings.handle(from, Request::Write("routes".into(), token, 1)).unwrap();
        read(1);
        write(FROM, 1);
        read(1);
        read(1);
        write(writer, 2);
        assert_eq!(disturbed(), 0);
        read(3);
        write(writer, 4);
        read(3);
        assert_eq!(disturbed(), 1);
    }

    #[test]
    fn a_writer_is_too_late_when_others_have_read_since_and_a_reader_never_is() {
        let settings = Settings::new(9);
        settings.handle(FROM, Request::Write("limits".into(), 5, 1)).unwrap();
        for token in [8, 7] {
            assert_eq!(settings.handle(FROM, Request::Read("limits".into(), token)).unwrap(), 1);
        }
        settings.handle(FROM, Request::Write("limits".into(), 5, 2)).unwrap_err();
        assert_eq!(settings.version(), 1);
    }
}
