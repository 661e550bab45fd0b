//! The keys of a namespace, and which of them are entries of a queue.

use etcd_client::KeyValue;
use lock_core::backend::Entry;
use lock_core::{Error, Name};

/// The prefix of the keys of a queue.
pub(crate) fn queue_prefix(namespace: &str, queue: &Name) -> String {
    within(namespace, &format!("{}/", queue.segment()))
}

/// The key of an entry. Other clients ignore what stands behind the prefix.
pub(crate) fn entry_key(namespace: &str, queue: &Name, lease: i64, id: &str) -> String {
    format!("{}{lease:x}-{id}", queue_prefix(namespace, queue))
}

/// The key of a session itself. `%session` is no escaped name, so no queue has these keys.
pub(crate) fn session_key(namespace: &str, lease: i64) -> String {
    within(namespace, &format!("%session/{lease:x}"))
}

fn within(namespace: &str, key: &str) -> String {
    if namespace.is_empty() { key.to_owned() } else { format!("{namespace}/{key}") }
}

/// The prefix of the queue that an entry stands in.
pub(crate) fn prefix_of(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    &key[..end]
}

/// The first key behind those with `prefix`, which ends with a slash.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
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
    let key = match std::str::from_utf8(kv.key()) {
        Ok(key) => key.to_owned(),
        Err(_) => HEX
            .chars()
            .chain(kv.key().iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>()))
            .collect(),
    };
    Entry { key, incarnation: u64::try_from(kv.create_revision()).unwrap_or_default() }
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
            value: entry.key.clone(),
            expected: "an entry that this backend listed".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_other_clients() {
        let name = Name::new("a/b").unwrap();
        assert_eq!(queue_prefix("", &name), "a%2Fb/");
        assert_eq!(queue_prefix("ns/x", &name), "ns/x/a%2Fb/");
        assert_eq!(entry_key("", &Name::new("l").unwrap(), 0x694d, "0f"), "l/694d-0f");
        assert_eq!(session_key("ns", 255), "ns/%session/ff");
        assert_eq!(prefix_of(b"ns/l/694d-0f"), b"ns/l/");
        assert_eq!(prefix_of(b"x"), b"");
        assert_eq!(end_of(b"l/"), b"l0");
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
    fn deeper_keys_are_other_locks() {
        assert!(is_entry(b"l/", b"l/694d"));
        assert!(is_entry(b"l/", b"l/\xff"));
        assert!(!is_entry(b"l/", b"l/b/694d"));
        assert!(!is_entry(b"l/", b"lb/694d"));
    }
}
