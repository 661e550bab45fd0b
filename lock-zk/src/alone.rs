//! The queues that a session has to itself: nobody else joined between several entries of its own.
//!
//! To follow such a queue costs less than to list it for each entry, and nobody is told anything in vain.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Entries that follow one another before a queue is taken for one that the session has to itself.
const IN_A_ROW: u32 = 8;

/// Entries that come later than this after the one before begin a new row. Shorter than a view lasts that nobody needs.
const WITHIN: Duration = Duration::from_millis(500);

/// Queues that are remembered. A session that uses more of them in turns has none of them to itself for long.
const QUEUES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Alone {
    rows: Mutex<HashMap<String, Row>>,
}

#[derive(Debug)]
struct Row {
    /// The number of the last entry.
    last: i32,
    since: Instant,
    length: u32,
}

impl Alone {
    /// An entry with this number is the first of its queue now. Whether the session has the queue to itself.
    pub(crate) fn is_first(&self, queue: &str, number: i32, now: Instant) -> bool {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get_mut(queue) {
            let follows = number == row.last.wrapping_add(1) && now.duration_since(row.since) <= WITHIN;
            let length = if follows { row.length.saturating_add(1) } else { 1 };
            *row = Row { last: number, since: now, length };
            return length >= IN_A_ROW;
        }
        if rows.len() >= QUEUES {
            rows.clear();
        }
        rows.insert(queue.to_owned(), Row { last: number, since: now, length: 1 });
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which of these entries the session has the queue to itself.
    fn alone(numbers: impl IntoIterator<Item = i32>) -> Vec<i32> {
        let (alone, now) = (Alone::default(), Instant::now());
        numbers.into_iter().filter(|number| alone.is_first("q", *number, now)).collect()
    }

    #[test]
    fn several_entries_in_a_row_are_needed() {
        assert_eq!(alone(0..10), [7, 8, 9]);
        assert_eq!(alone((i32::MAX - 4..=i32::MAX).chain(i32::MIN..i32::MIN + 4)), [i32::MIN + 2, i32::MIN + 3]);
    }

    #[test]
    fn one_entry_of_somebody_else_begins_a_new_row() {
        assert_eq!(alone((0..7).chain(8..16)), [15]);
        assert_eq!(alone((0..9).chain(10..14)), [7, 8]);
        assert_eq!(alone((0..20).map(|n| n * 2)), [] as [i32; 0]);
        assert_eq!(alone([5; 20]), [] as [i32; 0], "the directory was made anew each time");
    }

    #[test]
    fn a_pause_begins_a_new_row() {
        let (alone, mut now) = (Alone::default(), Instant::now());
        for number in 0..20 {
            now += WITHIN;
            assert_eq!(alone.is_first("q", number, now), number >= 7);
        }
        assert!(!alone.is_first("q", 20, now + WITHIN * 2));
    }

    #[test]
    fn many_queues_are_not_remembered() {
        let (alone, now) = (Alone::default(), Instant::now());
        for number in 0..10 {
            for queue in 0..QUEUES * 3 {
                assert!(!alone.is_first(&queue.to_string(), number, now));
            }
        }
        assert!(alone.rows.lock().unwrap().len() <= QUEUES);
    }
}
