//! Values of entries and records: files that hold a version, a new line, and the value.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lock_core::backend::{Content, Entry, Kind, Written};

use crate::error::Failed;
use crate::names::{Key, names};
use crate::store::{Store, Transaction};
use crate::sys;

/// As many bytes as a version and its new line may have.
const LONGEST_VERSION: usize = 21;

/// A value on its way to its file.
pub(crate) struct Draft {
    path: PathBuf,
    version: u64,
}

/// The content of a file with this version of a value.
pub(crate) fn encode(version: u64, value: &[u8]) -> Vec<u8> {
    [format!("{version}\n").as_bytes(), value].concat()
}

/// What stands in a file. One that does not begin with a version was written by somebody else: it is a value of version 0.
fn decode(mut text: Vec<u8>) -> Content {
    match split(&text) {
        Some((version, length)) => Content { value: text.split_off(length), version },
        None => Content { value: text, version: 0 },
    }
}

/// A version, and how many bytes it takes.
fn split(text: &[u8]) -> Option<(u64, usize)> {
    let end = text.iter().take(LONGEST_VERSION).position(|byte| *byte == b'\n')?;
    let digits = str::from_utf8(&text[..end]).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((digits.parse().ok()?, end + 1))
}

/// The value in a file; `None` when there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Content>, Failed> {
    let Some(file) = sys::open(path)? else { return Ok(None) };
    sys::read(&file, path).map(decode).map(Some)
}

/// The version of the value in a file; `None` when there is no file.
fn version(path: &Path) -> Result<Option<u64>, Failed> {
    let Some(file) = sys::open(path)? else { return Ok(None) };
    let mut start = [0; LONGEST_VERSION];
    let length = sys::read_start(&file, path, &mut start)?;
    Ok(Some(split(&start[..length]).map_or(0, |(version, _)| version)))
}

impl Store {
    /// Puts a value that is to replace version `version` into a file of the session's own. On disk, too, if it is to
    /// outlive the machine: without a transaction, which others would have to wait for.
    pub(crate) fn draft(
        &self,
        session: &str,
        version: u64,
        value: &[u8],
        lasting: bool,
    ) -> Result<Option<Draft>, Failed> {
        let path = self.draft_path(session);
        let Some(version) = version.checked_add(1) else { return Ok(None) };
        let file = sys::create_anew(&path, self.access)?;
        sys::write(&file, &path, &encode(version, value))?;
        if lasting {
            sys::sync(&file, &path)?;
        }
        Ok(Some(Draft { path, version }))
    }
}

impl Transaction<'_> {
    /// The file of an entry that counts, under the name that it has now.
    pub(crate) fn find(&mut self, key: &str, session: &str) -> Result<Option<PathBuf>, Failed> {
        for name in names(key) {
            let path = self.path(&name);
            if sys::identity_at(&path)?.is_none() {
                continue;
            }
            if self.is_alive(session)? {
                return Ok(Some(path));
            }
            self.bury(&path);
        }
        Ok(None)
    }

    pub(crate) fn read_value(&mut self, entry: &Entry) -> Result<Option<Content>, Failed> {
        match Key::parse(entry) {
            None => Ok(None),
            Some(Key::Record { queue }) => Ok(Some(read(&self.record_path(queue))?.unwrap_or_default())),
            Some(Key::Entry { place, .. }) => match self.find(&entry.key, &place.session)? {
                Some(path) => read(&path),
                None => Ok(None),
            },
        }
    }

    /// Lets a draft take the place of the value whose next version it is.
    pub(crate) fn put(&mut self, entry: &Entry, draft: &Draft) -> Result<Written, Failed> {
        let path = match Key::parse(entry) {
            None => None,
            Some(Key::Record { queue }) => Some(self.record_path(queue)),
            Some(Key::Entry { place, .. }) => self.find(&entry.key, &place.session)?,
        };
        let Some(path) = path else { return Ok(Written::Conflict) };
        if version(&path)?.unwrap_or(0) + 1 != draft.version {
            return Ok(Written::Conflict);
        }
        sys::rename(&draft.path, &path)?;
        Ok(Written::Done)
    }

    /// Turns a writer's entry of a session into a reader's, keeping file, number and value.
    pub(crate) fn turn_reader(&mut self, mine: &Entry, session: &str) -> Result<Option<Entry>, Failed> {
        let Some(Key::Entry { queue, place }) = Key::parse(mine) else { return Ok(None) };
        if place.session != session {
            return Ok(None);
        }
        let Some(path) = self.find(&mine.key, session)? else { return Ok(None) };
        if place.kind != Kind::Write {
            return Ok(Some(mine.clone()));
        }
        let reader = crate::names::Place { kind: Kind::Read, ..place }.entry(queue);
        let turned = self.path(&reader.key);
        if path != turned {
            match sys::rename(&path, &turned) {
                Err(failed) if failed.is(ErrorKind::NotFound) => return Ok(None),
                renamed => renamed?,
            }
        }
        Ok(Some(reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_somebody_else_wrote_has_no_version() {
        for text in
            ["", "{\"a\":1}", "\n", "-1\nx", "+1\nx", "1", "99999999999999999999999\nx", "18446744073709551616\n"]
        {
            let text = text.as_bytes().to_vec();
            assert_eq!(decode(text.clone()), Content { value: text, version: 0 });
        }
    }

    proptest! {
        #[test]
        fn values_come_back(version: u64, value: Vec<u8>) {
            let text = encode(version, &value);
            prop_assert_eq!(split(&text).map(|(version, _)| version), Some(version));
            prop_assert_eq!(decode(text), Content { value, version });
        }
    }
}
