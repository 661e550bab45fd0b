//! The names of the queues in a namespace.

use etcd_client::{GetOptions, ResponseHeader};
use lock_core::{Name, Result};

use crate::keys;
use crate::session::EtcdSession;

pub(crate) const LIST_NAMES: &str = "list the names of the queues";

/// Keys read at once.
const PAGE: i64 = 4000;

impl EtcdSession {
    pub(crate) async fn names(&self, prefix: &str) -> Result<Vec<Name>> {
        let root = keys::root(self.namespace());
        let all = [root.as_bytes(), Name::common_segment(prefix).as_bytes()].concat();
        let end = keys::end_of(&all);
        let (mut names, mut from, mut revision) = (Vec::new(), keys::start_of(&all), 0);
        loop {
            let options =
                GetOptions::new().with_range(end.as_slice()).with_keys_only().with_limit(PAGE).with_revision(revision);
            let range = self.get(LIST_NAMES, from, options).await?;
            if revision == 0 {
                revision = range.header().map_or(0, ResponseHeader::revision);
            }
            for kv in range.kvs() {
                let Found::Entry(name) = found(root.len(), kv.key()) else { continue };
                // The entries of a queue come one after the other, but for keys of locks of longer names.
                if name.as_str().starts_with(prefix) && names.last() != Some(&name) {
                    names.push(name);
                }
            }
            match range.kvs().last() {
                Some(last) if range.more() => from = behind(root.len(), last.key()),
                _ => break,
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// What a key behind the namespace is.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    Entry(Name),
    /// A key in a place that holds no entries: the part that all keys there start with.
    Other(&'a [u8]),
}

fn found(root: usize, key: &[u8]) -> Found<'_> {
    let slash_behind = |at: usize| key.iter().skip(at).position(|byte| *byte == b'/').map(|slash| at + slash + 1);
    let Some(segment) = slash_behind(root) else { return Found::Other(key) };
    let name = std::str::from_utf8(&key[root..segment - 1]).ok().and_then(Name::from_segment);
    match (name, slash_behind(segment)) {
        (Some(name), None) => Found::Entry(name),
        // Locks of longer names, of other clients.
        (Some(_), Some(deeper)) => Found::Other(&key[..deeper]),
        // Sessions, records, and whatever else is kept there.
        (None, _) => Found::Other(&key[..segment]),
    }
}

/// The first key behind `last` that may tell of another queue.
fn behind(root: usize, last: &[u8]) -> Vec<u8> {
    match found(root, last) {
        Found::Entry(_) => keys::end_of(keys::prefix_of(last)),
        Found::Other(place) if place.ends_with(b"/") => keys::end_of(place),
        Found::Other(_) => [last, b"\0"].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_tell_of_queues() {
        let entry = |name| Found::Entry(Name::new(name).unwrap());
        assert_eq!(found(3, b"ns/a/694d"), entry("a"));
        assert_eq!(found(0, b"a%2Fb/694d-0f"), entry("a/b"));
        assert_eq!(found(0, b"a/"), entry("a"));
        assert_eq!(found(0, b"a/\xff"), entry("a"));
        for (key, place) in [
            (&b"a"[..], &b"a"[..]),
            (b"a/b/694d", b"a/b/"),
            (b"a/b/c/d", b"a/b/"),
            (b"%session/694d", b"%session/"),
            (b"%record/a", b"%record/"),
            (b"a%2fb/694d", b"a%2fb/"),
            (b"\xff/694d", b"\xff/"),
            (b"/registry/pods", b"/"),
        ] {
            assert_eq!(found(0, key), Found::Other(place), "{}", key.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_left_out_tells_of_nothing_new(
            last in "[ab%/]{1,4}(/[a0]{0,2})?", key in "[ab%/0]{1,4}(/[ab%0]{0,2})?",
        ) {
            let (last, key) = (last.as_bytes(), key.as_bytes());
            let next = behind(0, last);
            prop_assert!(next.as_slice() > last);
            if last < key && key < next.as_slice() {
                let skipped = found(0, key);
                prop_assert!(matches!(skipped, Found::Other(_)) || skipped == found(0, last));
            }
        }
    }
}
