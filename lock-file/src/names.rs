//! File names of a queue: whose an entry is, what it asks for, and in which order.

use lock_core::backend::{Entry, Kind};

/// The directory of the sessions. No lock's segment looks like this one.
pub(crate) const SESSIONS: &str = "%session";

/// The directory of the records.
pub(crate) const RECORDS: &str = "%record";

/// What becomes another directory of the store, and a file of its numbers, within one transaction.
pub(crate) const NEW_DIRECTORY: &str = "%new";
pub(crate) const NEW_NUMBERS: &str = "%numbers.new";

/// What stands between a writer's name and its tag, and the tag that it has once it is a reader.
const WRITER: &str = "-write";
const READER: &str = "-read";

/// An entry by its file's name, `<order>-<session>-<id>-<tag>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) order: u64,
    pub(crate) session: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
}

impl Place {
    /// The entry of a file; `None` for a name that this library does not write.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '-');
        let (order, session, id, tag) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let digits = order.len() == 20 && order.bytes().all(|byte| byte.is_ascii_digit());
        let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !digits || !plain || !is_session(session) {
            return None;
        }
        let kind = Kind::from_tag(tag)?;
        Some(Self { order: order.parse().ok()?, session: session.to_owned(), id: id.to_owned(), kind })
    }

    /// The file's name.
    pub(crate) fn name(&self) -> String {
        // Every name tells its kind, and a mutex is what those mean who know no other.
        let tag = self.kind.tag().unwrap_or_else(|| "lock".to_owned());
        format!("{:020}-{}-{}-{tag}", self.order, self.session, self.id)
    }

    /// The entry as the contract has it.
    pub(crate) fn entry(&self, queue: &str) -> Entry {
        Entry { key: format!("{queue}/{}", self.name()).into(), incarnation: self.order }
    }
}

/// What a key is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Entry { queue: &'a str, place: Place },
    Record { queue: &'a str },
}

impl<'a> Key<'a> {
    /// `None` for a key that this library does not make.
    pub(crate) fn parse(entry: &'a Entry) -> Option<Self> {
        let (directory, name) = entry.key.split_once('/')?;
        match directory {
            RECORDS if is_queue(name) && !name.contains('/') => Some(Self::Record { queue: name }),
            queue if is_queue(queue) => Some(Self::Entry { queue, place: Place::parse(name)? }),
            _ => None,
        }
    }
}

/// The names under which the file of a key may be found: a writer may have gone on as a reader since.
pub(crate) fn names(key: &str) -> impl Iterator<Item = String> {
    let reader = key.strip_suffix(WRITER).map(|stem| format!("{stem}{READER}"));
    std::iter::once(key.to_owned()).chain(reader)
}

/// Where the record of a queue is kept.
pub(crate) fn record(queue: &str) -> Entry {
    Entry { key: format!("{RECORDS}/{queue}").into(), incarnation: 0 }
}

/// Whether a directory's name is the segment of a lock.
pub(crate) fn is_queue(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !is_own(name)
}

/// Whether a name in the store's directory is not a lock's: those begin with `%` and no hex digits.
pub(crate) fn is_own(name: &str) -> bool {
    let escaped = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    name.strip_prefix('%').is_some_and(|rest| !escaped(rest))
}

/// Whether this can be a session's id.
pub(crate) fn is_session(id: &str) -> bool {
    let numbers = id.split_once('.');
    numbers.is_some_and(|(pid, order)| [pid, order].iter().all(|n| n.parse::<u64>().is_ok() && !n.starts_with('+')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn place(kind: Kind) -> Place {
        Place { order: 42, session: "4711.41".into(), id: ID.into(), kind }
    }

    #[test]
    fn names_sort_by_number_and_come_back() {
        for kind in [Kind::Exclusive, Kind::Read, Kind::Write, Kind::Permits(7), Kind::Candidate, Kind::Sleeper] {
            assert_eq!(Place::parse(&place(kind).name()), Some(place(kind)));
        }
        assert_eq!(place(Kind::Exclusive).name(), "00000000000000000042-4711.41-0123456789abcdef0123456789abcdef-lock");
        assert!(place(Kind::Exclusive).name() < Place { order: 100, ..place(Kind::Exclusive) }.name());
        let longest =
            Place { order: u64::MAX, session: format!("{}.{}", u64::MAX, u64::MAX), ..place(Kind::Permits(u32::MAX)) };
        assert!(longest.name().len() <= 255);
        assert_eq!(Place::parse(&longest.name()), Some(longest));
    }

    #[test]
    fn other_names_are_no_entries() {
        for name in [
            "",
            "42-4711.41-0a-lock",
            "0000000000000000004x-4711.41-0a-lock",
            "99999999999999999999-4711.41-0a-lock",
            "00000000000000000042-4711-0a-lock",
            "00000000000000000042-../x.1-0a-lock",
            "00000000000000000042-+1.+2-0a-lock",
            "00000000000000000042-4711.41--lock",
            "00000000000000000042-4711.41-0a-lock.swp",
            "00000000000000000042-4711.41-0a-permits0",
            "00000000000000000042-4711.41-0a",
        ] {
            assert_eq!(Place::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_key_leads_nowhere_else() {
        let key = |key: &str| Key::parse(&Entry { key: key.into(), incarnation: 0 }).is_some();
        let name = place(Kind::Exclusive).name();
        assert!(key(&format!("a/{name}")) && key(&format!("%2E%2E/{name}")) && key("%record/a"));
        for bad in ["../{}", "./{}", "a/../{}", "/{}", "%session/{}", "a/b/{}", "%record/..", "%record/a/b", "a", ""] {
            assert!(!key(&bad.replace("{}", &name)), "{bad}");
        }
    }

    #[test]
    fn a_writer_may_be_found_as_a_reader() {
        let [writer, reader] = [Kind::Write, Kind::Read].map(|kind| place(kind).entry("a").key.to_string());
        assert_eq!(names(&writer).collect::<Vec<_>>(), [writer.clone(), reader.clone()]);
        assert_eq!(names(&reader).collect::<Vec<_>>(), [reader]);
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "\\PC{0,80}|[0-9]{20}-[0-9.]{1,9}-[a-f0-9]{0,9}-[a-z0-9]{0,12}") {
            if let Some(place) = Place::parse(&name) {
                prop_assert_eq!(Place::parse(&place.name()), Some(place));
            }
            let _ = Key::parse(&Entry { key: name.as_str().into(), incarnation: 0 });
            let _ = names(&name).count();
        }
    }
}
