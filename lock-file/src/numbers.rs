//! The numbers that order entries and are their tokens: given out once, in ascending order, for ever.
//!
//! The next number stands in `%next` and is written without waiting for the disk; a power cut may bring back an older one.
//! So `%counter` holds a number that is greater than all that were given out, and is on disk before any of those is.
//! When a store is used again of which no session lives, as after a power cut, its numbers go on from there.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Failed;
use crate::names::NEW_NUMBERS;
use crate::store::Transaction;
use crate::sys;

const NEXT: &str = "%next";
const COUNTER: &str = "%counter";

/// Numbers for each of which the disk is waited for once. So many are skipped at most when all sessions have ended.
const RESERVED_AT_ONCE: u64 = 100_000;

/// Twenty digits and a space; twenty digits and a new line.
const STATE_LENGTH: usize = 42;

/// The next number, and the first one that is not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    next: u64,
    end: u64,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "it is missing or damaged, so numbers that were given out could come back; remove the whole directory while nobody uses it"
)]
struct Damaged;

#[derive(Debug, thiserror::Error)]
#[error("all numbers have been given out")]
struct UsedUp;

impl State {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?.strip_suffix('\n')?;
        let (next, end) = text.split_once(' ')?;
        (next.len() == 20 && end.len() == 20).then_some(())?;
        Some(Self { next: next.parse().ok()?, end: end.parse().ok()? })
    }

    fn text(self) -> String {
        format!("{:020} {:020}\n", self.next, self.end)
    }
}

impl Transaction<'_> {
    /// Gives out a number, greater than all before it.
    pub(crate) fn take_number(&mut self) -> Result<u64, Failed> {
        let (file, state) = self.read_state()?;
        let state = match state {
            Some(state) if state.next < state.end => state,
            _ => self.reserve(state, file.is_none())?,
        };
        // First, so that no number is given out twice.
        self.write_state(file, State { next: state.next + 1, ..state })?;
        Ok(state.next)
    }

    /// Forgets the next number, which may be an old one that a power cut brought back.
    pub(crate) fn distrust_numbers(&mut self) -> Result<(), Failed> {
        match self.read_state()? {
            (file, Some(State { end, .. })) => self.write_state(file, State { next: end, end }),
            (_, None) => Ok(()),
        }
    }

    fn read_state(&self) -> Result<(Option<File>, Option<State>), Failed> {
        let path = self.path(NEXT);
        let Some(file) = sys::open_both(&path, self.store.access)? else { return Ok((None, None)) };
        let mut buffer = [0; STATE_LENGTH];
        let length = sys::read_start(&file, &path, &mut buffer)?;
        Ok((Some(file), State::parse(&buffer[..length])))
    }

    fn write_state(&self, file: Option<File>, state: State) -> Result<(), Failed> {
        let path = self.path(NEXT);
        match file {
            Some(file) => sys::write_start(&file, &path, state.text().as_bytes()),
            None => self.replace(&path, &state.text(), |_, _| Ok(())),
        }
    }

    /// Reserves the next numbers.
    fn reserve(&mut self, state: Option<State>, is_new: bool) -> Result<State, Failed> {
        let path = self.path(COUNTER);
        let unusable = |problem| Failed::new("use", &path, problem);
        let reserved = match sys::open(&path)? {
            Some(file) => parse(&sys::read(&file, &path)?),
            None if is_new => Some(1),
            None => None,
        };
        let reserved = reserved.ok_or_else(|| unusable(io::Error::new(io::ErrorKind::InvalidData, Damaged)))?;
        let next = state.map_or(reserved, |state| reserved.max(state.next));
        let end = next.checked_add(RESERVED_AT_ONCE);
        let end = end.ok_or_else(|| unusable(io::Error::new(io::ErrorKind::InvalidData, UsedUp)))?;
        self.replace(&path, &format!("{end}\n"), sys::sync)?;
        sys::sync_directory(&self.store.directory)?;
        if is_new {
            self.sync_above();
        }
        Ok(State { next, end })
    }

    /// Waits until the directory itself is on disk, too.
    fn sync_above(&self) {
        let real = self.store.directory.canonicalize();
        for above in real.iter().flat_map(|real| real.ancestors().skip(1)) {
            // It may be closed to this user, and then it was not made for the store.
            if let Err(failed) = sys::sync_directory(above) {
                tracing::debug!(error = %failed, "made by others, hence on disk before");
            }
        }
    }

    /// Puts a new file in the place of another.
    fn replace(
        &self,
        path: &Path,
        content: &str,
        sync: impl FnOnce(&File, &Path) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let new = self.path(NEW_NUMBERS);
        let file = sys::create_anew(&new, self.store.access)?;
        sys::write(&file, &new, content.as_bytes())?;
        sync(&file, &new)?;
        sys::rename(&new, path)
    }
}

fn parse(counter: &[u8]) -> Option<u64> {
    str::from_utf8(counter).ok()?.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test::{Directory, transact};

    fn take(directory: &Directory) -> Result<u64, Failed> {
        transact(&directory.store(), |store| store.take_number())
    }

    /// Opens a store that nobody uses and takes a number.
    fn reopen(directory: &Directory) -> Result<u64, Failed> {
        let store = directory.store();
        transact(&store, |store| store.open_session(b"").and_then(|own| store.end_session(&own)))?;
        take(directory)
    }

    #[test]
    fn numbers_begin_with_one_and_grow() {
        let directory = Directory::new();
        let numbers: Vec<u64> = (0..5).map(|_| take(&directory).unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_last_reserved_number_is_followed_by_the_next_reservation() {
        let directory = Directory::new();
        take(&directory).unwrap();
        let state = State { next: RESERVED_AT_ONCE, end: RESERVED_AT_ONCE + 1 };
        std::fs::write(directory.path(NEXT), state.text()).unwrap();
        assert_eq!(take(&directory).unwrap(), RESERVED_AT_ONCE);
        assert_eq!(std::fs::read_to_string(directory.path(COUNTER)).unwrap(), format!("{}\n", RESERVED_AT_ONCE + 1));
        assert_eq!(take(&directory).unwrap(), RESERVED_AT_ONCE + 1);
        assert_eq!(
            std::fs::read_to_string(directory.path(COUNTER)).unwrap(),
            format!("{}\n", 2 * RESERVED_AT_ONCE + 1)
        );
    }

    /// What was not yet on disk is an older state, zeros, half of it, or nothing at all.
    #[test]
    fn no_number_comes_back_after_a_power_cut() {
        let older = State { next: 2, end: RESERVED_AT_ONCE + 1 }.text();
        let losses: [(&str, Option<&[u8]>); 5] = [
            ("older", Some(older.as_bytes())),
            ("zeros", Some(&[0; STATE_LENGTH])),
            ("half", Some(&older.as_bytes()[..30])),
            ("empty", Some(b"")),
            ("missing", None),
        ];
        for (what, lost) in losses {
            let directory = Directory::new();
            let before: Vec<u64> = (0..50).map(|_| take(&directory).unwrap()).collect();
            match lost {
                Some(lost) => std::fs::write(directory.path(NEXT), lost).unwrap(),
                None => std::fs::remove_file(directory.path(NEXT)).unwrap(),
            }
            let after = reopen(&directory).unwrap();
            assert!(before.iter().all(|number| *number < after), "{what}: {after} after {before:?}");
        }
    }

    #[test]
    fn without_its_counter_a_store_refuses_to_start_again() {
        for damage in [None, Some("x\n"), Some("")] {
            let directory = Directory::new();
            take(&directory).unwrap();
            match damage {
                None => std::fs::remove_file(directory.path(COUNTER)).unwrap(),
                Some(text) => std::fs::write(directory.path(COUNTER), text).unwrap(),
            }
            let error = reopen(&directory).unwrap_err().classify("open a session", directory.root());
            let source = std::error::Error::source(&error).unwrap();
            assert!(matches!(error, lock_core::Error::Refused { .. }), "{damage:?}: {error}");
            assert!(source.to_string().contains("%counter"), "{source}");
        }
    }

    #[test]
    fn the_last_number_of_all_is_not_followed_by_the_first() {
        let directory = Directory::new();
        take(&directory).unwrap();
        std::fs::write(directory.path(COUNTER), format!("{}\n", u64::MAX - 5)).unwrap();
        assert!(reopen(&directory).is_err());
    }
}
