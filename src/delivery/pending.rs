//! Counts the events that wait, each entry of a log once.

use std::{collections::VecDeque, ops::RangeInclusive};

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

/// At most this many entries are kept one by one, and no further ones when they have this many events.
const KEPT: (usize, usize) = (64, 2_048);
/// A block has this many entries, or more if there would be more blocks than this.
const BLOCK: i64 = 64;
const BLOCKS: usize = 64;

/// What waits in one environment, as far as it was counted: counting goes on where it ended.
///
/// However much waits, this takes about 30 kB at most: the entries next to the cursor are kept one by one, and those after
/// them as the sums of blocks. When the cursor comes to a block, its entries are counted once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PendingCount {
    /// All entries up to this one are done or are among `entries`.
    counted: i64,
    /// The entries that hold something that is asked for.
    entries: VecDeque<CountedEntry>,
    /// What was counted after them. There is a gap before the first block while its predecessor is counted once more.
    blocks: VecDeque<Block>,
}

/// Consecutive entries, and what of them is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    from: i64,
    to: i64,
    events: usize,
    oldest: Option<Timestamp>,
}

impl Block {
    fn len(&self) -> i64 {
        self.to - self.from + 1
    }

    /// This block and the next one.
    fn with(self, next: Self) -> Self {
        Self {
            from: self.from,
            to: next.to,
            events: self.events + next.events,
            oldest: earlier(self.oldest, next.oldest),
        }
    }
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
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
        while self.blocks.front().is_some_and(|block| block.to <= index) {
            self.blocks.pop_front();
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new(); // what it had room for is given back
            if self
                .blocks
                .front()
                .is_some_and(|block| block.from <= self.counted.saturating_add(1))
            {
                self.blocks.pop_front();
            }
        }
    }

    /// The place of the next block, if there is one, and the number of the entry that is counted next.
    fn end(&self) -> (usize, i64) {
        let mut next = self.counted.saturating_add(1);
        for (at, block) in self.blocks.iter().enumerate() {
            if block.from != next {
                return (at, next);
            }
            next = block.to + 1;
        }
        (self.blocks.len(), next)
    }

    /// The numbers of the entries that are counted next, if there are any up to this one.
    pub fn next(&self, head: i64) -> Option<RangeInclusive<i64>> {
        let (at, from) = self.end();
        let to = self.blocks.get(at).map_or(head, |block| block.from - 1);
        (from <= head).then_some(from..=to.min(head))
    }

    /// The next entry is counted.
    pub fn put(&mut self, entry: CountedEntry) {
        let (at, next) = self.end();
        if entry.index != next {
            return; // counted for a cursor that has moved since
        }
        if at == 0 && (entry.positions.is_empty() || self.has_room()) {
            self.counted = entry.index;
            if !entry.positions.is_empty() {
                self.entries.push_back(entry);
            }
            return;
        }
        let block = Block {
            from: entry.index,
            to: entry.index,
            events: entry.positions.len(),
            oldest: (!entry.positions.is_empty()).then_some(entry.time),
        };
        match at.checked_sub(1).and_then(|last| self.blocks.get_mut(last)) {
            Some(last) if last.len() < BLOCK => *last = last.with(block),
            _ => self.blocks.insert(at, block),
        }
        if self.blocks.len() > BLOCKS {
            self.join_the_smallest();
        }
    }

    fn has_room(&self) -> bool {
        let (entries, events) = KEPT;
        let positions = self.entries.iter().map(|entry| entry.positions.len());
        self.entries.len() < entries && positions.sum::<usize>() < events
    }

    /// Makes one block of two that follow each other.
    fn join_the_smallest(&mut self) {
        let pairs = self.blocks.iter().zip(self.blocks.iter().skip(1));
        let pairs = pairs.enumerate();
        let pairs = pairs.filter(|(_, (block, next))| block.to + 1 == next.from);
        let smallest = pairs.min_by_key(|(_, (block, next))| block.len() + next.len());
        if let Some((at, (block, next))) = smallest {
            self.blocks[at] = block.with(*next);
            self.blocks.remove(at + 1);
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
                oldest = earlier(oldest, Some(*time));
            }
        }
        for block in &self.blocks {
            sum += block.events;
            oldest = earlier(oldest, block.oldest);
        }
        (sum, oldest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

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
        assert_eq!((pending.next(4), pending.next(5)), (None, Some(5..=5)));
        pending.put(entry(5, &[0, 1, 3], 50));
        pending.put(entry(6, &[], 60));
        pending.put(entry(7, &[2], 70));
        pending.put(entry(7, &[2], 70));
        assert_eq!(pending.next(8), Some(8..=8));
        assert_eq!(pending.sum(&after(4, 0)), (4, Some(at(50))));
        assert_eq!(pending.sum(&after(4, 2)), (2, Some(at(50))));
        assert_eq!(pending.sum(&after(4, 4)), (1, Some(at(70))));
        pending.pass(5);
        assert_eq!(pending.sum(&after(5, 0)), (1, Some(at(70))));
        pending.pass(9);
        assert_eq!(pending.sum(&after(9, 0)), (0, None));
        assert_eq!(pending.next(9), None);
    }

    #[test]
    fn a_backlog_that_grows_for_ever_takes_a_bounded_amount_of_memory() {
        let mut pending = PendingCount::default();
        for index in 1..=100_000 {
            pending.put(CountedEntry {
                index,
                positions: vec![0],
                time: Timestamp::from_second(index).unwrap(),
            });
        }
        let (waiting, oldest) = pending.sum(&Cursor::default());
        assert_eq!(waiting, 100_000);
        assert_eq!(oldest, Some(Timestamp::from_second(1).unwrap()));
        assert!(pending.entries.len() <= KEPT.0 && pending.blocks.len() <= BLOCKS);
    }

    /// An entry with up to three events that are asked for.
    fn entry(index: i64, seed: u64) -> CountedEntry {
        let random = index
            .unsigned_abs()
            .wrapping_add(seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let events = usize::try_from(random >> 62).unwrap();
        CountedEntry {
            index,
            positions: (0..events).map(|at| at * 2).collect(),
            time: Timestamp::from_second(index / 3).unwrap(),
        }
    }

    /// What waits if every entry is looked at.
    fn all(log: &[CountedEntry], cursor: &Cursor) -> (usize, Option<Timestamp>) {
        let mut sum = 0;
        let mut oldest = None;
        for entry in log.iter().filter(|entry| entry.index > cursor.index) {
            let next = entry.index == cursor.index + 1;
            let done = usize::try_from(cursor.ordinal).unwrap();
            let done = if next { done } else { 0 };
            let left = entry.positions.iter().filter(|at| **at >= done).count();
            sum += left;
            oldest = earlier(oldest, (left > 0).then_some(entry.time));
        }
        (sum, oldest)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Append(usize),
        Count(usize),
        Pass(i64, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..2_000_usize).prop_map(Step::Append),
            (1..3_000_usize).prop_map(Step::Count),
            (0..300_i64, 0..5_i64).prop_map(|(entries, ordinal)| Step::Pass(entries, ordinal)),
            (0..3_i64, 0..5_i64).prop_map(|(entries, ordinal)| Step::Pass(entries, ordinal)),
        ]
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::tries(64))]

        #[test]
        fn what_waits_is_the_same_as_if_every_entry_were_kept(seed: u64, steps in vec(step(), 1..40)) {
            let mut log: Vec<CountedEntry> = vec![];
            let mut head = 0;
            let mut cursor = Cursor::default();
            let mut pending = PendingCount::default();
            for step in steps.into_iter().chain([Step::Count(usize::MAX); 3]) {
                match step {
                    Step::Append(entries) => for _ in 0..entries {
                        head += 1;
                        log.push(entry(head, seed));
                    },
                    Step::Count(budget) => for index in pending.next(head).into_iter().flatten().take(budget) {
                        pending.put(entry(index, seed));
                    },
                    Step::Pass(entries, ordinal) => {
                        cursor.index = head.min(cursor.index + entries);
                        cursor.ordinal = if cursor.index < head { ordinal } else { 0 };
                        pending.pass(cursor.index);
                    }
                }
                prop_assert!(pending.entries.len() <= KEPT.0 && pending.blocks.len() <= BLOCKS);
                let (sum, all) = (pending.sum(&cursor), all(&log, &cursor));
                prop_assert!(sum.0 <= all.0);
                if pending.next(head).is_none() {
                    prop_assert_eq!(sum, all);
                }
            }
            prop_assert_eq!(pending.next(head), None);
        }
    }

    #[test]
    fn a_backlog_that_is_worked_off_is_counted_only_a_few_times() {
        let head = 20_000;
        let mut pending = PendingCount::default();
        let mut counted = 0;
        for index in 0..=head {
            pending.pass(index);
            while let Some(range) = pending.next(head) {
                for index in range {
                    counted += 1;
                    pending.put(entry(index, 0));
                }
            }
        }
        assert!(counted <= 4 * head, "{counted}");
    }
}
