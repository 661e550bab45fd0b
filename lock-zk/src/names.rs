//! Node names of a queue: who is a contender, what it asks for, and in which order.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use lock_core::backend::Kind;

/// What stands before the sequence number in Curator's names for the kinds that it has: its mutex, its read-write lock and
/// its `LeaderLatch`. go-zookeeper writes the first, too.
const CURATORS: [(Kind, &str); 4] =
    [(Kind::Exclusive, "-lock-"), (Kind::Read, "-__READ__"), (Kind::Write, "-__WRIT__"), (Kind::Candidate, "-latch-")];

/// The same for kazoo's mutex and the readers of its read-write lock, whose writers look like mutexes.
const KAZOOS: [(Kind, &str); 2] = [(Kind::Exclusive, "__lock__"), (Kind::Read, "__rlock__")];

/// Sequence numbers from here on are not used. Servers number the nodes of a directory with a signed 32-bit counter, and
/// what it does at its end differs by version: it wraps, or it gives the same number again and again, which would let a
/// newcomer overtake the holder. Away from the end, wrapping comparison is exact.
const LAST_SAFE: i32 = i32::MAX - 1_000_000;

/// Characters of a uuid with its dashes.
const UUID: usize = 36;

/// Where a contender stands in its queue. Compared with [`Place::precedes`], for the numbers wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    sequence: i32,
    kind: Kind,
    name: &'a str,
}

impl<'a> Place<'a> {
    /// The place of a contender; `None` for a name that no lock client would count.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let marked = name.trim_end_matches(|last: char| last.is_ascii_digit());
        // A minus sign before the digits belongs to the number, or ends what stands before it.
        [Some(marked), marked.strip_suffix('-')].into_iter().flatten().find_map(|marked| {
            let sequence = sequence(name.strip_prefix(marked)?)?;
            Some(Self { sequence, kind: marked_kind(marked)?, name })
        })
    }

    /// The node's name.
    pub(crate) fn name(self) -> &'a str {
        self.name
    }

    /// What it asks for.
    pub(crate) fn kind(self) -> Kind {
        self.kind
    }

    /// The name of the reader's node that takes the place of this writer's: Curator's, with the writer's number, and with
    /// its token before that, which a listing cannot tell otherwise. `None` for a name that is not a writer's.
    pub(crate) fn as_reader(self, token: u64) -> Option<String> {
        let (before, number) = self.name.rsplit_once(&*marker(Kind::Write)).filter(|_| self.kind == Kind::Write)?;
        Some(format!("{before}-{token}{}{number}", marker(Kind::Read)))
    }

    /// The token of the writer whose place this reader's node took.
    pub(crate) fn former_token(self) -> Option<u64> {
        let (before, _) = self.name.rsplit_once(&*marker(Kind::Read)).filter(|_| self.kind == Kind::Read)?;
        before.strip_prefix("_c_")?.get(UUID..)?.strip_prefix('-')?.parse().ok()
    }

    /// Whether this is the name that `writer` has [as a reader](Self::as_reader).
    pub(crate) fn was(self, writer: Place<'_>) -> bool {
        self.former_token().and_then(|token| writer.as_reader(token)).is_some_and(|name| name == self.name)
    }

    /// Whether the server's counter is so near its end that the order is no longer sure.
    pub(crate) fn is_unsafe(self) -> bool {
        self.sequence > LAST_SAFE
    }

    /// Sorts places in the order of the queue, given the number of any of them: the numbers in one queue are much closer
    /// together than 2^31.
    ///
    /// A writer of Curator that goes on as a reader makes a read node with its own number, and then removes its own: the
    /// write node is ahead. Other equal numbers exist only where somebody made them by hand; the name then decides, for
    /// every client of this library in the same way.
    fn order(self, origin: i32) -> (i32, bool, &'a str) {
        (self.sequence.wrapping_sub(origin), self.kind != Kind::Write, self.name)
    }

    /// The number that the server gave it.
    pub(crate) fn sequence(self) -> i32 {
        self.sequence
    }

    /// Whether it is so near to that number that all places for which this is so have one order, whichever of them is asked.
    pub(crate) fn is_near(self, sequence: i32) -> bool {
        self.sequence.wrapping_sub(sequence).unsigned_abs() < 1 << 30
    }

    /// Whether this place is ahead of `other`.
    pub(crate) fn precedes(self, other: Place<'_>) -> bool {
        self.order(other.sequence) < other.order(other.sequence)
    }
}

/// A [`Place`] to be kept. Those that are kept together are all [near](Place::is_near) one number.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    sequence: i32,
    kind: Kind,
    name: Arc<str>,
}

impl Seat {
    fn place(&self) -> Place<'_> {
        Place { sequence: self.sequence, kind: self.kind, name: &self.name }
    }
}

impl From<Place<'_>> for Seat {
    fn from(place: Place<'_>) -> Self {
        Self { sequence: place.sequence, kind: place.kind, name: place.name.into() }
    }
}

impl Ord for Seat {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().order(other.sequence).cmp(&other.place().order(other.sequence))
    }
}

impl PartialOrd for Seat {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Seat {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Seat {}

/// The contenders among `children` that are ahead of `mine`, nearest first.
pub(crate) fn ahead<'a>(children: &'a [String], mine: Place<'_>) -> Vec<Place<'a>> {
    let mut ahead: Vec<_> =
        children.iter().filter_map(|name| Place::parse(name)).filter(|place| place.precedes(mine)).collect();
    ahead.sort_unstable_by_key(|place| Reverse(place.order(mine.sequence)));
    ahead
}

/// The contenders among `children` in the order of the queue.
pub(crate) fn in_order(children: &[String]) -> Vec<Place<'_>> {
    let mut places: Vec<_> = children.iter().filter_map(|name| Place::parse(name)).collect();
    if let Some(Place { sequence, .. }) = places.first().copied() {
        places.sort_unstable_by_key(|place| place.order(sequence));
    }
    places
}

/// The first part of an entry's node name, which the server completes with the sequence number.
///
/// `id` has 32 hex digits; Curator cuts a fixed 36 characters of a uuid with dashes.
pub(crate) fn prefix(id: &str, kind: Kind) -> String {
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    let marker = marker(kind);
    format!("_c_{}-{}-{}-{}-{}{marker}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// What stands between the uuid and the sequence number.
fn marker(kind: Kind) -> Cow<'static, str> {
    let curators = CURATORS.iter().find(|(of, _)| *of == kind);
    match (curators, kind.tag()) {
        (Some((_, marker)), _) => Cow::Borrowed(marker),
        (None, Some(tag)) => Cow::Owned(format!("-{tag}-")),
        // Every name here tells its kind, and this is the one of those who know only one.
        (None, None) => marker(Kind::Exclusive),
    }
}

/// The kind of a name without its number.
fn marked_kind(marked: &str) -> Option<Kind> {
    let others = CURATORS.iter().chain(&KAZOOS).find(|(_, marker)| marked.ends_with(marker));
    others.map(|(kind, _)| *kind).or_else(|| {
        let kind = Kind::from_tag(marked.strip_suffix('-')?.rsplit_once('-')?.1)?;
        // Curator's name for a kind is the only one.
        marked.ends_with(&*marker(kind)).then_some(kind)
    })
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

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn parsed(name: &str) -> Option<(i32, Kind)> {
        Place::parse(name).map(|place| (place.sequence, place.kind))
    }

    fn named(sequence: i32) -> String {
        of_kind(Kind::Exclusive, sequence)
    }

    fn of_kind(kind: Kind, sequence: i32) -> String {
        format!("{}{sequence:010}", prefix(ID, kind))
    }

    fn names<'a>(places: &[Place<'a>]) -> Vec<&'a str> {
        places.iter().map(|place| place.name()).collect()
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Exclusive),
            Just(Kind::Read),
            Just(Kind::Write),
            (1..=u32::MAX).prop_map(Kind::Permits),
            Just(Kind::Candidate),
            Just(Kind::Member),
            Just(Kind::Party),
            Just(Kind::Sleeper),
        ]
    }

    #[test]
    fn names_of_lock_clients_are_contenders_and_all_else_is_not() {
        let lock = |sequence| Some((sequence, Kind::Exclusive));
        for (name, want) in [
            ("_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000007", lock(7)),
            ("_c_0123456789abcdef0123456789abcdef-lock-0000000008", lock(8)),
            ("0123456789abcdef0123456789abcdef__lock__0000000009", lock(9)),
            ("x-lock-2147483647", lock(i32::MAX)),
            ("x-lock--2147483648", lock(i32::MIN)),
            ("x-lock--1000000000", lock(-1_000_000_000)),
            ("x-lock--000000005", lock(-5)),
            ("x__lock__-2147483648", lock(i32::MIN)),
            ("x-lock-0000000001-lock-0000000002", lock(2)),
            ("x-lock-__lock__0000000003", lock(3)),
            ("-lock-0000000004", lock(4)),
            ("größe-lock-0000000005", lock(5)),
            ("x-latch-0000000007", Some((7, Kind::Candidate))),
            ("x-__READ__0000000007", Some((7, Kind::Read))),
            ("x-__WRIT__-000000007", Some((-7, Kind::Write))),
            ("0123456789abcdef0123456789abcdef__rlock__0000000009", Some((9, Kind::Read))),
            ("x-permits3-0000000007", Some((7, Kind::Permits(3)))),
            ("x-permits3--000000007", Some((-7, Kind::Permits(3)))),
            ("x-permits4294967295-0000000007", Some((7, Kind::Permits(u32::MAX)))),
            ("x-member-0000000007", Some((7, Kind::Member))),
            ("x-party-0000000007", Some((7, Kind::Party))),
            ("x-sleeper-0000000007", Some((7, Kind::Sleeper))),
            ("x-permits0-0000000007", None),
            ("x-permits03-0000000007", None),
            ("x-permits4294967296-0000000007", None),
            ("x-permits0000000007", None),
            ("x-read-0000000007", None),
            ("x-write-0000000007", None),
            ("x-candidate-0000000007", None),
            ("member-0000000007", None),
            ("x--0000000007", None),
            ("0000000007", None),
            ("-0000000007", None),
            ("x-lock-", None),
            ("x-lock-7", None),
            ("x-lock-00000000007", None),
            ("x-lock-9999999999", None),
            ("x-lock-+000000007", None),
            ("x-lock-000000000७", None),
            ("x-lock-0000000007x", None),
            ("x-lease-0000000007", None),
            ("leader", None),
            ("", None),
        ] {
            assert_eq!(parsed(name), want, "{name:?}");
        }
    }

    #[test]
    fn our_own_names_are_curators_where_it_has_one() {
        for (kind, want) in [
            (Kind::Exclusive, "_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000012"),
            (Kind::Unmarked, "_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000012"),
            (Kind::Read, "_c_01234567-89ab-cdef-0123-456789abcdef-__READ__0000000012"),
            (Kind::Write, "_c_01234567-89ab-cdef-0123-456789abcdef-__WRIT__0000000012"),
            (Kind::Candidate, "_c_01234567-89ab-cdef-0123-456789abcdef-latch-0000000012"),
            (Kind::Permits(3), "_c_01234567-89ab-cdef-0123-456789abcdef-permits3-0000000012"),
        ] {
            assert_eq!(of_kind(kind, 12), want);
        }
        let uuid = &named(12)[3..39];
        assert_eq!((uuid.len(), uuid.matches('-').count()), (36, 4));
    }

    #[test]
    fn order_goes_on_where_the_counter_wraps() {
        let listed: Vec<_> = [i32::MIN, i32::MAX, 3 - i32::MAX, i32::MAX - 1].into_iter().map(named).collect();
        let want: Vec<_> = [i32::MAX - 1, i32::MAX, i32::MIN, 3 - i32::MAX].into_iter().map(named).collect();
        assert_eq!(names(&in_order(&listed)), want);
        let mine = Place::parse(&listed[0]).unwrap();
        assert_eq!(names(&ahead(&listed, mine)), [&want[1], &want[0]]);
    }

    #[test]
    fn the_end_of_the_counter_is_not_used() {
        for (sequence, want) in [(0, false), (i32::MAX - 1_000_000, false), (i32::MAX - 999_999, true), (-1, false)] {
            assert_eq!(Place::parse(&named(sequence)).unwrap().is_unsafe(), want, "{sequence}");
        }
    }

    #[test]
    fn a_writer_that_reads_on_keeps_its_place() {
        let (writer, waiting) = (of_kind(Kind::Write, 7), of_kind(Kind::Write, 8));
        let reader = Place::parse(&writer).unwrap().as_reader(4_294_967_301).unwrap();
        assert_eq!(reader, "_c_01234567-89ab-cdef-0123-456789abcdef-4294967301-__READ__0000000007");
        assert_eq!(parsed(&reader), Some((7, Kind::Read)));
        let listed = [waiting.clone(), reader.clone()];
        assert_eq!(names(&in_order(&listed)), [&reader, &waiting]);
        assert_eq!(names(&ahead(&listed, Place::parse(&waiting).unwrap())), [&reader]);
    }

    #[test]
    fn a_former_writer_is_known_by_its_name_and_nobody_else_is() {
        let writer = of_kind(Kind::Write, 7);
        let reader = Place::parse(&writer).unwrap().as_reader(u64::MAX).unwrap();
        let was = |name: &str, writer: &str| Place::parse(name).unwrap().was(Place::parse(writer).unwrap());
        assert!(was(&reader, &writer));
        assert_eq!(Place::parse(&reader).unwrap().former_token(), Some(u64::MAX));
        assert_eq!(Place::parse(&reader).unwrap().as_reader(1), None);
        assert_eq!(Place::parse(&named(7)).unwrap().as_reader(1), None);
        for other in [
            writer.clone(),
            of_kind(Kind::Read, 7),
            reader.replace("0000000007", "0000000008"),
            reader.replace("_c_0", "_c_1"),
            reader.replace("18446744073709551615", "18446744073709551616"),
            reader.replace("18446744073709551615", "018446744073709551615"),
            reader.replace("__READ__", "-lock-"),
        ] {
            assert!(!was(&other, &writer), "{other}");
        }
        assert!(!was(&reader, &of_kind(Kind::Write, 8)));
        assert!(!was(&reader, &named(7)));
    }

    /// Curator makes the read node while the write node is there, with another uuid.
    #[test]
    fn with_one_number_the_writer_is_ahead_and_then_the_name_counts() {
        let want = ["b-__WRIT__0000000007", "a-__READ__0000000007", "c-lock-0000000007", "d-lock-0000000007"];
        for turn in 0..want.len() {
            let mut listed = want.map(str::to_owned);
            listed.rotate_left(turn);
            assert_eq!(names(&in_order(&listed)), want);
            for (at, name) in want.iter().enumerate() {
                let nearest: Vec<_> = want[..at].iter().rev().copied().collect();
                assert_eq!(names(&ahead(&listed, Place::parse(name).unwrap())), nearest);
            }
            let seats: std::collections::BTreeSet<_> =
                listed.iter().filter_map(|name| Place::parse(name)).map(Seat::from).collect();
            assert!(seats.iter().map(|seat| seat.place().name()).eq(want));
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "\\PC{0,40}(-lock-|__lock__|-permits[0-9]{0,12}-)?-?\\PC{0,12}", id in "\\PC{0,40}") {
            let place = Place::parse(&name);
            let _ = (place.map(|place| (place.as_reader(1), place.former_token())), prefix(&id, Kind::Exclusive));
        }

        #[test]
        fn what_a_server_prints_is_read_back(sequence: i32, kind in kinds(), other in kinds()) {
            let name = format!("a-lock-b__lock__{}{sequence:010}{}{sequence:010}", marker(other), marker(kind));
            prop_assert_eq!(parsed(&name), Some((sequence, kind)));
        }

        #[test]
        fn kazoos_names_are_read_too(sequence: i32, reads: bool) {
            let (kind, marker) = KAZOOS[usize::from(reads)];
            prop_assert_eq!(parsed(&format!("a-lock-b{marker}{sequence:010}")), Some((sequence, kind)));
        }

        #[test]
        fn everybody_sees_the_same_order(
            origin: i32,
            offsets in proptest::collection::btree_map(0..1_000_000_000_i32, kinds(), 1..20),
            shuffle: u64,
        ) {
            let want: Vec<_> =
                offsets.iter().map(|(offset, kind)| of_kind(*kind, origin.wrapping_add(*offset))).collect();
            let mut listed = want.clone();
            let hash = |name: &String| {
                let sequence = Place::parse(name).unwrap().sequence;
                (shuffle ^ u64::from(sequence.unsigned_abs())).wrapping_mul(0x9e37_79b9)
            };
            listed.sort_by_key(hash);
            listed.push("garbage".into());
            let places = in_order(&listed);
            prop_assert_eq!(names(&places), want.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(places.iter().map(|place| place.kind).eq(offsets.values().copied()));
            for (i, name) in want.iter().enumerate() {
                let nearest: Vec<_> = want[..i].iter().rev().map(String::as_str).collect();
                prop_assert_eq!(names(&ahead(&listed, Place::parse(name).unwrap())), nearest);
            }
            let mut seats: Vec<_> = listed.iter().filter_map(|name| Place::parse(name)).map(Seat::from).collect();
            seats.sort_unstable();
            prop_assert!(seats.iter().map(|seat| seat.place().name()).eq(&want));
        }
    }
}
