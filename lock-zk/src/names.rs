//! Node names of a queue: who is a contender, and in which order.

/// What stands before the sequence number in the names of those who queue here: this crate, Curator and go-zookeeper
/// write the first, kazoo the second.
const MARKERS: [&str; 2] = ["-lock-", "__lock__"];

/// Sequence numbers from here on are not used. Servers number the nodes of a directory with a signed 32-bit counter, and
/// what it does at its end differs by version: it wraps, or it gives the same number again and again, which would let a
/// newcomer overtake the holder. Away from the end, wrapping comparison is exact.
const LAST_SAFE: i32 = i32::MAX - 1_000_000;

/// Where a contender stands in its queue. Compared with [`Place::precedes`], for the numbers wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    sequence: i32,
    name: &'a str,
}

impl<'a> Place<'a> {
    /// The place of a contender; `None` for a name that no lock client would count.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let sequence = MARKERS.iter().find_map(|marker| sequence(name.rsplit_once(marker)?.1))?;
        Some(Self { sequence, name })
    }

    /// The node's name.
    pub(crate) fn name(self) -> &'a str {
        self.name
    }

    /// Whether the server's counter is so near its end that the order is no longer sure.
    pub(crate) fn is_unsafe(self) -> bool {
        self.sequence > LAST_SAFE
    }

    /// How far this place is behind `other`, negative when it is ahead. Equal numbers exist only where somebody made
    /// them by hand; the name then decides, for every client of this library in the same way.
    fn behind(self, other: Self) -> (i32, std::cmp::Ordering) {
        (self.sequence.wrapping_sub(other.sequence), self.name.cmp(other.name))
    }

    /// Whether this place is ahead of `other`.
    pub(crate) fn precedes(self, other: Self) -> bool {
        self.behind(other) < (0, std::cmp::Ordering::Equal)
    }
}

/// The contenders among `children` that are ahead of `mine`, nearest first.
pub(crate) fn ahead<'a>(children: &'a [String], mine: Place<'_>) -> Vec<&'a str> {
    let mut ahead: Vec<_> =
        children.iter().filter_map(|name| Place::parse(name)).filter(|place| place.precedes(mine)).collect();
    ahead.sort_unstable_by_key(|place| std::cmp::Reverse(place.behind(mine)));
    ahead.into_iter().map(Place::name).collect()
}

/// The contenders among `children` in the order of the queue.
pub(crate) fn in_order(children: &[String]) -> Vec<&str> {
    let mut places: Vec<_> = children.iter().filter_map(|name| Place::parse(name)).collect();
    // Numbers in one queue are much closer together than 2^31, so any of them serves as the origin.
    if let Some(&origin) = places.first() {
        places.sort_unstable_by_key(|place| place.behind(origin));
    }
    places.into_iter().map(Place::name).collect()
}

/// The first part of an entry's node name, which the server completes with the sequence number.
///
/// `id` has 32 hex digits; Curator cuts a fixed 36 characters of a uuid with dashes.
pub(crate) fn prefix(id: &str) -> String {
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    format!("_c_{}-{}-{}-{}-{}-lock-", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// A number as the server prints it, with Java's `%010d`: at least ten characters, a minus sign among them.
fn sequence(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let printed = text.len() >= 10 && digits.len() <= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    if printed { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(name: &str) -> Option<i32> {
        Place::parse(name).map(|place| place.sequence)
    }

    fn named(sequence: i32) -> String {
        format!("{}{sequence:010}", prefix("0123456789abcdef0123456789abcdef"))
    }

    #[test]
    fn names_of_lock_clients_are_contenders_and_all_else_is_not() {
        for (name, want) in [
            ("_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000007", Some(7)),
            ("_c_0123456789abcdef0123456789abcdef-lock-0000000008", Some(8)),
            ("0123456789abcdef0123456789abcdef__lock__0000000009", Some(9)),
            ("x-lock-2147483647", Some(i32::MAX)),
            ("x-lock--2147483648", Some(i32::MIN)),
            ("x-lock--000000005", Some(-5)),
            ("x__lock__-2147483648", Some(i32::MIN)),
            ("x-lock-0000000001-lock-0000000002", Some(2)),
            ("x-lock-__lock__0000000003", Some(3)),
            ("-lock-0000000004", Some(4)),
            ("größe-lock-0000000005", Some(5)),
            ("x-lock-", None),
            ("x-lock-7", None),
            ("x-lock-00000000007", None),
            ("x-lock-9999999999", None),
            ("x-lock-+000000007", None),
            ("x-lock-000000000७", None),
            ("x-lock-0000000007x", None),
            ("x-lease-0000000007", None),
            ("x-latch-0000000007", None),
            ("x-__READ__0000000007", None),
            ("0123456789abcdef0123456789abcdef__rlock__0000000009", None),
            ("leader", None),
            ("", None),
        ] {
            assert_eq!(parsed(name), want, "{name:?}");
        }
    }

    #[test]
    fn our_own_names_are_curators() {
        assert_eq!(named(12), "_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000012");
        assert_eq!(parsed(&named(12)), Some(12));
        let uuid = &named(12)[3..39];
        assert_eq!((uuid.len(), uuid.matches('-').count()), (36, 4));
    }

    #[test]
    fn order_goes_on_where_the_counter_wraps() {
        let names: Vec<_> = [i32::MIN, i32::MAX, 3 - i32::MAX, i32::MAX - 1].into_iter().map(named).collect();
        let want: Vec<_> = [i32::MAX - 1, i32::MAX, i32::MIN, 3 - i32::MAX].into_iter().map(named).collect();
        assert_eq!(in_order(&names), want);
        let mine = Place::parse(&names[0]).unwrap();
        assert_eq!(ahead(&names, mine), [&want[1], &want[0]]);
    }

    #[test]
    fn the_end_of_the_counter_is_not_used() {
        for (sequence, want) in [(0, false), (i32::MAX - 1_000_000, false), (i32::MAX - 999_999, true), (-1, false)] {
            assert_eq!(Place::parse(&named(sequence)).unwrap().is_unsafe(), want, "{sequence}");
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "\\PC{0,40}(-lock-|__lock__)?\\PC{0,12}", id in "\\PC{0,40}") {
            let _ = (Place::parse(&name), prefix(&id));
        }

        #[test]
        fn what_a_server_prints_is_read_back(sequence: i32, kazoo: bool) {
            let marker = MARKERS[usize::from(kazoo)];
            prop_assert_eq!(parsed(&format!("a-lock-b__lock__{marker}{sequence:010}")), Some(sequence));
        }

        #[test]
        fn everybody_sees_the_same_order(
            origin: i32,
            offsets in proptest::collection::btree_set(0..1_000_000_000_i32, 1..20),
            shuffle: u64,
        ) {
            let want: Vec<_> = offsets.iter().map(|offset| named(origin.wrapping_add(*offset))).collect();
            let mut listed = want.clone();
            listed.sort_by_key(|name| (shuffle ^ u64::from(parsed(name).unwrap().unsigned_abs())).wrapping_mul(0x9e37_79b9));
            listed.push("garbage".into());
            prop_assert_eq!(in_order(&listed), want.iter().map(String::as_str).collect::<Vec<_>>());
            for (i, name) in want.iter().enumerate() {
                let nearest: Vec<_> = want[..i].iter().rev().map(String::as_str).collect();
                prop_assert_eq!(ahead(&listed, Place::parse(name).unwrap()), nearest);
            }
        }
    }
}
