//! Counts the events that wait, each entry of a log once.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::api::{environment::EnvironmentId, notification_setting::Cursor};

/// Entries of a log, from the first to the last of these numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    pub environment: EnvironmentId,
    pub from: i64,
    pub to: i64,
}

/// What was counted of a range.
#[derive(Debug)]
pub(crate) struct CountedRange {
    pub environment: EnvironmentId,
    pub entries: Vec<CountedEntry>,
    /// All entries of the range could be read.
    pub complete: bool,
}

/// What waits in one environment, as far as it was counted: counting goes on where it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PendingCount {
    counted: i64,
    /// The entries that hold something that is asked for.
    entries: VecDeque<CountedEntry>,
}

/// An entry of the log of which events are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountedEntry {
    pub index: i64,
    /// Positions in the entry's `events` of those that are asked for.
    pub positions: Vec<usize>,
    pub time: Timestamp,
}

impl PendingCount {
    /// All entries up to this one are done.
    pub fn pass(&mut self, index: i64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.index <= index)
        {
            self.entries.pop_front();
        }
        self.counted = self.counted.max(index);
    }

    /// The number of the entry that is counted next, if there is one.
    pub fn next(&self, head: i64) -> Option<i64> {
        (self.counted < head).then_some(self.counted + 1)
    }

    /// The next entry is counted.
    pub fn put(&mut self, entry: CountedEntry) {
        if entry.index != self.counted + 1 {
            return; // counted for a cursor that has moved since
        }
        self.counted = entry.index;
        if !entry.positions.is_empty() {
            self.entries.push_back(entry);
        }
    }

    /// How many events wait after a cursor, and since when the first of them.
    pub fn sum(&self, cursor: &Cursor) -> (usize, Option<Timestamp>) {
        let done = usize::try_from(cursor.ordinal).unwrap_or(usize::MAX);
        let mut sum = 0;
        let mut oldest: Option<Timestamp> = None;
        for CountedEntry {
            index,
            positions,
            time,
        } in &self.entries
        {
            let done = if *index == cursor.index + 1 { done } else { 0 };
            let left = positions.iter().filter(|at| **at >= done).count();
            sum += left;
            if left > 0 {
                oldest = Some(oldest.map_or(*time, |oldest| oldest.min(*time)));
            }
        }
        (sum, oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_once_and_forgotten_when_it_is_done() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |index, positions: &[usize], second| CountedEntry {
            index,
            positions: positions.to_vec(),
            time: at(second),
        };
        let after = |index, ordinal| Cursor {
            index,
            ordinal,
            ..Cursor::default()
        };
        let mut pending = PendingCount::default();
        pending.pass(4);
        assert_eq!((pending.next(4), pending.next(5)), (None, Some(5)));
        pending.put(entry(5, &[0, 1, 3], 50));
        pending.put(entry(6, &[], 60));
        pending.put(entry(7, &[2], 70));
        pending.put(entry(7, &[2], 70));
        assert_eq!(pending.next(8), Some(8));
        assert_eq!(pending.sum(&after(4, 0)), (4, Some(at(50))));
        assert_eq!(pending.sum(&after(4, 2)), (2, Some(at(50))));
        assert_eq!(pending.sum(&after(4, 4)), (1, Some(at(70))));
        pending.pass(5);
        assert_eq!(pending.sum(&after(5, 0)), (1, Some(at(70))));
        pending.pass(9);
        assert_eq!(pending.sum(&after(9, 0)), (0, None));
        assert_eq!(pending.next(9), None);
    }
}
