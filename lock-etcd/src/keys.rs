//! The keys of a namespace, and which of them are entries of a queue.

use etcd_client::KeyValue;
use lock_core::backend::{Entry, Kind};
use lock_core::{Error, Name};

/// Digits of a slot in the key of an entry, at most.
const SLOT: usize = 8;

/// The prefix of the keys of a queue.
pub(crate) fn queue_prefix(namespace: &str, queue: &Name) -> String {
    within(namespace, &format!("{}/", queue.segment()))
}

/// The key of an entry in a slot of this session. Other clients ignore what stands behind the prefix.
pub(crate) fn entry_key(prefix: &str, lease: i64, slot: usize, kind: Kind) -> String {
    let mut key = format!("{prefix}{lease:x}-{slot:x}");
    if let Some(tag) = kind.tag().filter(|_| kind != Kind::Exclusive) {
        key.push('-');
        key.push_str(&tag);
    }
    key
}

/// What an entry asks for, as its key tells. A writer may go on as a reader, which its value tells.
pub(crate) fn kind(key: &[u8]) -> Kind {
    let name = &key[prefix_of(key).len()..];
    std::str::from_utf8(name).ok().and_then(marked_kind).unwrap_or(Kind::Unmarked)
}

fn marked_kind(name: &str) -> Option<Kind> {
    match slot_and_tag(name)?.1 {
        None => Some(Kind::Exclusive),
        Some(tag) => Kind::from_tag(tag).filter(|kind| *kind != Kind::Exclusive),
    }
}

/// The slot in the key of an entry, as text; `None` for what is not in the form of [`entry_key`].
pub(crate) fn slot_of(key: &str) -> Option<usize> {
    usize::from_str_radix(slot_and_tag(&key[prefix_of(key.as_bytes()).len()..])?.0, 16).ok()
}

/// `None` for what is not in the form of [`entry_key`].
fn slot_and_tag(name: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = name.splitn(3, '-');
    let (lease, slot, tag) = (parts.next()?, parts.next()?, parts.next());
    let hex = |text: &str| text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if lease.is_empty() || !hex(lease) || !(1..=SLOT).contains(&slot.len()) || !hex(slot) {
        return None;
    }
    Some((slot, tag))
}

/// Whether the key of an entry was made by this session. Its lease may tell otherwise: somebody else may have written to it.
pub(crate) fn is_of_session(key: &[u8], lease: i64) -> bool {
    key[prefix_of(key).len()..].starts_with(format!("{lease:x}-").as_bytes())
}

/// The key of a session itself. `%session` is no escaped name, so no queue has these keys.
pub(crate) fn session_key(namespace: &str, lease: i64) -> String {
    within(namespace, &format!("%session/{lease:x}"))
}

/// The prefix of the keys of records; no escaped name either.
pub(crate) fn record_prefix(namespace: &str) -> String {
    within(namespace, "%record/")
}

/// What all keys of a namespace start with.
pub(crate) fn root(namespace: &str) -> String {
    within(namespace, "")
}

fn within(namespace: &str, key: &str) -> String {
    if namespace.is_empty() { key.to_owned() } else { format!("{namespace}/{key}") }
}

/// The prefix of the queue that an entry stands in.
pub(crate) fn prefix_of(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    &key[..end]
}

/// The same as text; `None` for a key whose prefix is none, as only other clients have.
pub(crate) fn queue_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(prefix_of(key)).ok()
}

/// The first key with `prefix`. No key is empty.
pub(crate) fn start_of(prefix: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.to_vec() }
}

/// The first key behind those with `prefix`, which is text; etcd takes `\0` for the end of all keys.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

/// Whether a key under `prefix` is an entry of that queue. Keys with a further slash belong to other clients' locks of
/// longer names.
pub(crate) fn is_entry(prefix: &[u8], key: &[u8]) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| !rest.contains(&b'/'))
}

/// Keys are bytes, and those of other clients need not be text: such a key is spelled in hex behind a NUL, which no key
/// of ours contains.
const HEX: &str = "\0hex:";

pub(crate) fn entry(kv: &KeyValue) -> Entry {
    Entry { key: text(kv.key()).into(), incarnation: u64::try_from(kv.create_revision()).unwrap_or_default() }
}

pub(crate) fn text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(key) if !key.starts_with(HEX) => key.to_owned(),
        _ => HEX.chars().chain(key.iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>())).collect(),
    }
}

/// The bytes and the create revision that [`entry`] was made of.
pub(crate) fn bytes(entry: &Entry) -> Result<(Vec<u8>, i64), Error> {
    let key = match entry.key.strip_prefix(HEX) {
        None => Some(entry.key.as_bytes().to_vec()),
        Some(hex) if hex.len() % 2 == 0 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            hex.as_bytes().chunks(2).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).ok()?, 16).ok()).collect()
        }
        Some(_) => None,
    };
    match (key, i64::try_from(entry.incarnation)) {
        (Some(key), Ok(revision)) => Ok((key, revision)),
        _ => Err(Error::InvalidConfig {
            setting: "entry".into(),
            value: entry.key.to_string(),
            expected: "an entry that this backend listed".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(namespace: &str, queue: &str, kind: Kind) -> String {
        entry_key(&queue_prefix(namespace, &Name::new(queue).unwrap()), 0x694d, 0x1f, kind)
    }

    #[test]
    fn layout_is_that_of_other_clients() {
        let name = Name::new("a/b").unwrap();
        assert_eq!(queue_prefix("", &name), "a%2Fb/");
        assert_eq!(queue_prefix("ns/x", &name), "ns/x/a%2Fb/");
        assert_eq!(key("", "l", Kind::Exclusive), "l/694d-1f");
        assert_eq!(key("ns", "l", Kind::Permits(3)), "ns/l/694d-1f-permits3");
        assert_eq!(session_key("ns", 255), "ns/%session/ff");
        assert_eq!(record_prefix(""), "%record/");
        assert_eq!(prefix_of(b"ns/l/694d-0f"), b"ns/l/");
        assert_eq!(prefix_of(b"x"), b"");
        assert_eq!((root(""), root("ns/x")), (String::new(), "ns/x/".to_owned()));
        assert_eq!((start_of(b"l/"), end_of(b"l/")), (b"l/".to_vec(), b"l0".to_vec()));
        assert_eq!((start_of(b""), end_of(b"")), (vec![0], vec![0]), "all keys");
    }

    #[test]
    fn each_kind_comes_back() {
        for of in [Kind::Exclusive, Kind::Read, Kind::Write, Kind::Permits(u32::MAX), Kind::Candidate, Kind::Sleeper] {
            assert_eq!(kind(key("ns", "l", of).as_bytes()), of);
            assert_eq!(slot_of(&key("ns", "a-b", of)), Some(0x1f));
        }
        for other in ["ns/l/694d7c3a0a2b1c0d", "l/694d-", "l/694d-xyz", "\0hex:6cff", ""] {
            assert_eq!(slot_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_ours_is_unmarked() {
        let foreign = [
            // Go's clients and etcdctl.
            "694d7c3a0a2b1c0d",
            "",
            "-1f",
            "694D-1f",
            "694d-",
            "694d-1F",
            "694d-123456789",
            "694d-1f-",
            "694d-1f-lock",
            "694d-1f-reader",
            "694d-1f-permits0",
            "694d-1f-read-read",
        ];
        for name in foreign {
            assert_eq!(kind(format!("ns/l/{name}").as_bytes()), Kind::Unmarked, "{name}");
        }
        assert_eq!(kind(b"l/\xff"), Kind::Unmarked);
    }

    #[test]
    fn hex_keys_come_back_and_garbage_does_not_panic() {
        let entry = |key: &str| Entry { key: key.into(), incarnation: 7 };
        assert_eq!(bytes(&entry("\0hex:6cff")).unwrap(), (b"l\xff".to_vec(), 7));
        assert_eq!(bytes(&entry("l/x")).unwrap(), (b"l/x".to_vec(), 7));
        for garbage in ["\0hex:6", "\0hex:zz", "\0hex:é", "\0hex:+f"] {
            assert!(bytes(&entry(garbage)).is_err(), "{garbage:?}");
        }
        assert!(bytes(&Entry { key: "l/x".into(), incarnation: u64::MAX }).is_err());
    }

    #[test]
    fn a_key_tells_its_session() {
        let key = key("ns", "l", Kind::Write);
        assert!(is_of_session(key.as_bytes(), 0x694d));
        assert!(!is_of_session(key.as_bytes(), 0x694) && !is_of_session(key.as_bytes(), 0x694d0));
    }

    #[test]
    fn deeper_keys_are_other_locks() {
        assert!(is_entry(b"l/", b"l/694d"));
        assert!(is_entry(b"l/", b"l/\xff"));
        assert!(!is_entry(b"l/", b"l/b/694d"));
        assert!(!is_entry(b"l/", b"lb/694d"));
    }

    proptest! {
        #[test]
        fn any_key_is_read_and_comes_back(key: Vec<u8>, incarnation in 0..=i64::MAX) {
            let _ = kind(&key);
            let entry = Entry { key: text(&key).into(), incarnation: incarnation.unsigned_abs() };
            prop_assert_eq!(bytes(&entry).unwrap(), (key, incarnation));
        }

        #[test]
        fn a_marked_key_is_the_one_of_its_kind(name in "[0-9a-g]{0,3}-[0-9a-f]{0,9}(-(read|write|lock|permits[0-9]{0,2}))?") {
            let of = kind(format!("l/{name}").as_bytes());
            if of != Kind::Unmarked {
                let written = key("", "l", of);
                let after_id = |key: &str| key.rsplit_once('/').map_or(key, |(_, name)| name).splitn(3, '-').nth(2).map(str::to_owned);
                prop_assert_eq!(after_id(&written), after_id(&name));
            }
        }
    }
}
