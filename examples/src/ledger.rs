//! The resource that the lock protects: it remembers the greatest fencing token it has seen and refuses smaller ones.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use crate::history::Record;

/// A list of records, in the memory of one process or in a file that several processes append to.
#[derive(Debug)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    greatest: u64,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory { unread: Vec<Record> },
    File { written: Tail, unread: Tail },
}

/// Why the ledger did not take a record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody with a greater token was there already.
    #[error("the ledger refused token {token}: it has seen token {greatest}")]
    Fenced {
        /// The token refused.
        token: u64,
        /// The greatest token seen.
        greatest: u64,
    },
    /// The file cannot be written or read.
    #[error("the ledger's file cannot be used")]
    Io(#[from] io::Error),
}

impl Ledger {
    /// An empty ledger in memory.
    pub fn in_memory() -> Self {
        Self::over(Store::Memory { unread: Vec::new() })
    }

    /// An empty ledger in a file, which is created if need be.
    ///
    /// # Errors
    /// That the file cannot be opened for appending, or is not empty.
    pub fn create(path: &Path) -> io::Result<Self> {
        let ledger = Self::open(path)?;
        if path.metadata()?.len() > 0 {
            let problem = "it is not empty; remove it or name another file";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        Ok(ledger)
    }

    /// The ledger in a file that another process created.
    ///
    /// # Errors
    /// That the file cannot be opened for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::over(Store::File { written: Tail::open(path)?, unread: Tail::open(path)? }))
    }

    fn over(store: Store) -> Self {
        Self { state: Mutex::new(State { greatest: 0, store }) }
    }

    /// Appends what is written under the lock, unless a greater token was seen.
    ///
    /// # Errors
    /// [`Error::Fenced`], and then nothing was written; [`Error::Io`].
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let mut state = self.lock();
        let State { greatest, store } = &mut *state;
        match store {
            Store::Memory { unread } => {
                fence(record, greatest)?;
                unread.push(record.clone());
            }
            Store::File { written, .. } => {
                // Nobody may append between the look at the greatest token and the write.
                let _alone = Alone::with(written.file.clone())?;
                for seen in written.read()? {
                    *greatest = seen.event.writes_with().map_or(*greatest, |token| token.max(*greatest));
                }
                fence(record, greatest)?;
                written.append(record)?;
            }
        }
        Ok(())
    }

    /// The records since the last call, of all who write.
    ///
    /// # Errors
    /// That the file cannot be read.
    pub fn read_new(&self) -> io::Result<Vec<Record>> {
        match &mut self.lock().store {
            Store::Memory { unread } => Ok(std::mem::take(unread)),
            Store::File { unread, .. } => unread.read(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fence(record: &Record, greatest: &mut u64) -> Result<(), Error> {
    if let Some(token) = record.event.writes_with() {
        if token < *greatest {
            return Err(Error::Fenced { token, greatest: *greatest });
        }
        *greatest = token;
    }
    Ok(())
}

/// A file of one JSON record a line, read once from its beginning to wherever its end is by now.
#[derive(Debug)]
struct Tail {
    file: Arc<File>,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        Ok(Self { file: Arc::new(file), offset: 0, partial: Vec::new() })
    }

    fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut buffer = [0; 64 * 1024];
        let mut records = Vec::new();
        loop {
            let size = match self.file.read_at(&mut buffer, self.offset) {
                Ok(0) => return Ok(records),
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.offset += size as u64;
            self.partial.extend_from_slice(&buffer[..size]);
            if let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') {
                let lines = self.partial.drain(..=end).collect::<Vec<_>>();
                // A line that cannot be read was left half written by a process that was killed: it never happened.
                records.extend(lines.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()));
            }
        }
    }

    /// To be called when all is read and nobody else writes.
    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if !self.partial.is_empty() {
            line.insert(0, b'\n');
        }
        (&*self.file).write_all(&line)
    }
}

/// The lock on a file that the operating system takes back from a process that is killed.
struct Alone(Arc<File>);

impl Alone {
    fn with(file: Arc<File>) -> io::Result<Self> {
        rustix::io::retry_on_intr(|| flock(&*file, FlockOperation::LockExclusive))?;
        Ok(Self(file))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // If this fails, the end of the process unlocks the file.
        let _ = flock(&*self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Who};

    fn record(token: u64) -> Record {
        Record { at: token, who: Who { process: 0, worker: 0 }, event: Event::Mark { token } }
    }

    fn tokens(ledger: &Ledger) -> Vec<Option<u64>> {
        ledger.read_new().unwrap().iter().map(|record| record.event.writes_with()).collect()
    }

    #[test]
    fn smaller_tokens_are_refused_whoever_wrote_the_greater_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let memory = Ledger::in_memory();
        let (first, second) = (Ledger::create(&path).unwrap(), Ledger::open(&path).unwrap());
        for (one, other) in [(&memory, &memory), (&first, &second)] {
            one.write(&record(5)).unwrap();
            other.write(&record(5)).unwrap();
            other.write(&record(7)).unwrap();
            let refused = one.write(&record(6)).unwrap_err();
            assert!(matches!(refused, Error::Fenced { token: 6, greatest: 7 }), "{refused}");
            one.write(&Record { event: Event::Lost { why: "no token".into() }, ..record(0) }).unwrap();
            assert_eq!(tokens(one), [Some(5), Some(5), Some(7), None]);
            assert_eq!(tokens(one), []);
        }
        assert!(Ledger::create(&path).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn a_line_that_a_killed_process_left_half_written_hurts_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = Ledger::create(&path).unwrap();
        ledger.write(&record(5)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at\":6,\"proc").unwrap();
        assert_eq!(tokens(&ledger), [Some(5)]);
        ledger.write(&record(7)).unwrap();
        assert_eq!(tokens(&ledger), [Some(7)]);
        assert!(matches!(ledger.write(&record(6)), Err(Error::Fenced { .. })));
    }

    #[test]
    fn many_writers_leave_whole_lines_in_the_order_of_their_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let reader = Ledger::create(&path).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let ledger = Ledger::open(&path).unwrap();
                scope.spawn(move || {
                    for n in 1..200 {
                        let outcome = ledger.write(&record(n * 4 + writer));
                        assert!(matches!(outcome, Ok(()) | Err(Error::Fenced { .. })));
                    }
                });
            }
        });
        let seen = tokens(&reader);
        assert!(seen.is_sorted() && seen.len() >= 199, "{seen:?}");
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), seen.len());
    }
}
