//! Decides which entries of a log are removed: old ones, up to a checkpoint that stays, and none that a setting still has to
//! deliver, unless the log is too big.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How old an entry must be before it is removed: a writer that stood still must not find the name of an entry free again.
const YOUNGEST: Duration = Duration::from_secs(3_600);
/// At most how many bytes the log of an environment takes, even if a setting has not delivered it.
pub const ENVIRONMENT_CAP: u64 = 32 << 20;
/// At most how many bytes all logs together take.
pub const TOTAL_CAP: u64 = 256 << 20;

/// An object of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedEntry {
    /// The index of the entry; a chunk has that of its entry.
    pub index: i64,
    pub created: Timestamp,
    pub bytes: u64,
    /// It has or refers to a checkpoint.
    pub checkpoint: bool,
}

/// What to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneDecision {
    /// All entries below this index are removed.
    pub below: i64,
    /// Entries below this index are removed although a setting still has to deliver them.
    pub truncated_below: Option<i64>,
}

/// Decides what is removed of one log. `passed`: the index up to which all settings have delivered, if any follows the log.
/// `cap`: how many bytes may stay.
pub fn cut(
    log: &[RetainedEntry],
    max_age: Duration,
    passed: Option<i64>,
    cap: u64,
    now: Timestamp,
) -> PruneDecision {
    let older_than =
        |limit: Duration| now - SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
    let (aged, young) = (older_than(max_age.max(YOUNGEST)), older_than(YOUNGEST));
    // The highest checkpoint below which every entry was created before `limit`.
    let reach = |limit: Timestamp, highest: i64| {
        let first_younger = log
            .iter()
            .filter(|entry| entry.created >= limit)
            .map(|entry| entry.index)
            .min();
        let highest = first_younger.map_or(highest, |first| highest.min(first));
        log.iter()
            .filter(|entry| entry.checkpoint && entry.index <= highest)
            .map(|entry| entry.index)
            .max()
    };
    let newest = log.iter().map(|entry| entry.index).max().unwrap_or(0);
    let by_age = reach(aged, passed.map_or(newest, |passed| newest.min(passed + 1))).unwrap_or(0);
    let stays = |from: i64| {
        log.iter()
            .filter(|entry| entry.index >= from)
            .map(|entry| entry.bytes)
            .sum::<u64>()
    };
    let mut below = by_age;
    if stays(below) > cap {
        let possible = reach(young, newest).unwrap_or(0);
        let checkpoints = log
            .iter()
            .filter(|entry| entry.checkpoint && entry.index <= possible);
        let small_enough = checkpoints
            .clone()
            .map(|entry| entry.index)
            .filter(|index| stays(*index) <= cap)
            .min();
        below = below.max(small_enough.unwrap_or(possible));
    }
    let truncated_below = passed.filter(|passed| below > passed + 1).map(|_| below);
    PruneDecision {
        below,
        truncated_below,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    /// A log with an entry an hour, the newest made just now, a checkpoint at 1 and then every ten.
    fn log(entries: i64, bytes: u64) -> (Vec<RetainedEntry>, Timestamp) {
        let at = |index| Timestamp::from_second(index * HOUR).unwrap();
        let entry = |index| RetainedEntry {
            index,
            created: at(index),
            bytes,
            checkpoint: index % 10 == 1,
        };
        ((1..=entries).map(entry).collect(), at(entries))
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 24 * 3_600)
    }

    #[test]
    fn what_is_old_goes_up_to_a_checkpoint_that_stays() {
        let (log, now) = log(100, 1);
        assert_eq!(
            cut(&log, days(2), None, u64::MAX, now).below,
            51,
            "52 is the first that is not older than 48 h"
        );
        assert_eq!(
            cut(&log, days(30), None, u64::MAX, now).below,
            1,
            "nothing is old enough"
        );
        assert_eq!(
            cut(&log, Duration::ZERO, None, u64::MAX, now).below,
            91,
            "never what is younger than an hour"
        );
    }

    #[test]
    fn what_a_setting_has_still_to_pass_stays() {
        let (log, now) = log(100, 1);
        let cut = cut(&log, days(1), Some(33), u64::MAX, now);
        assert_eq!(
            cut,
            PruneDecision {
                below: 31,
                truncated_below: None
            }
        );
        assert_eq!(
            crate::snapshot::retention::cut(&log, days(1), Some(30), u64::MAX, now).below,
            31,
            "31 is the next to pass"
        );
        assert_eq!(
            crate::snapshot::retention::cut(&log, days(1), Some(0), u64::MAX, now).below,
            1
        );
    }

    #[test]
    fn beyond_all_bounds_a_lagging_setting_loses_and_it_is_said() {
        let (log, now) = log(100, 1_000);
        let cut = cut(&log, days(30), Some(5), 30_000, now);
        assert_eq!(
            cut,
            PruneDecision {
                below: 71,
                truncated_below: Some(71)
            }
        );
        let cut = crate::snapshot::retention::cut(&log, days(30), Some(100), 30_000, now);
        assert_eq!(
            cut,
            PruneDecision {
                below: 71,
                truncated_below: None
            }
        );
        assert_eq!(
            crate::snapshot::retention::cut(&log, days(30), None, 1, now).below,
            91,
            "and still never what is young"
        );
    }

    #[test]
    fn an_empty_log_loses_nothing() {
        assert_eq!(
            cut(&[], days(1), None, 0, Timestamp::UNIX_EPOCH),
            PruneDecision::default()
        );
    }
}
