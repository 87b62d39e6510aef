//! Decides which entries of a log are removed: old ones, up to a checkpoint that stays, and none that a setting still has to
//! deliver, unless the log is too big.

use std::time::Duration;

use jiff::Timestamp;

use crate::snapshot::log::EntryMeta;

/// How old an entry must be before it is removed: a writer that stood still must not find the name of an entry free again.
const YOUNGEST: Duration = Duration::from_secs(3_600);
/// At most how many bytes the log of an environment takes, even if a setting has not delivered it.
pub const ENVIRONMENT_CAP: u64 = 32 << 20;
/// At most how many bytes all logs together take.
pub const TOTAL_CAP: u64 = 256 << 20;

/// What to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneDecision {
    /// All entries below this index are removed.
    pub below: i64,
    /// Entries below this index are removed although a setting still has to deliver them.
    pub truncated_below: Option<i64>,
}

/// Decides what is removed of one log. `delivered`: the index up to which all settings have delivered, if any follows the
/// log. `cap`: how many bytes may stay.
pub fn cut(
    log: &[EntryMeta],
    max_age: Duration,
    delivered: Option<i64>,
    cap: u64,
    now: Timestamp,
) -> PruneDecision {
    // A length of time may reach back further than any calendar.
    let older_than = |limit: Duration| now.checked_sub(limit).unwrap_or(Timestamp::MIN);
    let (aged, young) = (older_than(max_age.max(YOUNGEST)), older_than(YOUNGEST));
    let checkpoints = || {
        let whole = log.iter().filter(|entry| entry.checkpoint && !entry.chunk);
        whole.map(|entry| entry.index)
    };
    // The highest checkpoint below which every entry was created before `limit`.
    let reach = |limit: Timestamp, highest: i64| {
        let younger = log.iter().filter(|entry| entry.created >= limit);
        let first_younger = younger.map(|entry| entry.index).min();
        let highest = first_younger.map_or(highest, |first| highest.min(first));
        checkpoints().filter(|index| *index <= highest).max()
    };
    let newest = log.iter().map(|entry| entry.index).max().unwrap_or(0);
    let next = delivered.map_or(newest, |delivered| newest.min(delivered + 1));
    let stays = |from: i64| {
        let kept = log.iter().filter(|entry| entry.index >= from);
        kept.map(|entry| entry.bytes).sum::<u64>()
    };
    let mut below = reach(aged, next).unwrap_or(0);
    if stays(below) > cap {
        let possible = reach(young, newest).unwrap_or(0);
        let small_enough = checkpoints().filter(|it| *it <= possible && stays(*it) <= cap);
        below = below.max(small_enough.min().unwrap_or(possible));
    }
    let truncated = delivered.is_some_and(|delivered| below > delivered + 1);
    PruneDecision {
        below,
        truncated_below: truncated.then_some(below),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::duration::Span;

    const HOUR: i64 = 3_600;

    /// A log with an entry an hour, the newest made just now, a checkpoint at 1 and then every ten.
    fn log(entries: i64, bytes: u64) -> (Vec<EntryMeta>, Timestamp) {
        let at = |index| Timestamp::from_second(index * HOUR).unwrap();
        let entry = |index| EntryMeta {
            index,
            name: String::new(),
            uid: String::new(),
            created: at(index),
            version: 0,
            checkpoint: index % 10 == 1,
            bytes,
            chunk: false,
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

    proptest! {
        #[test]
        fn every_length_of_time_that_the_api_server_admits_is_kept(
            text in "([0-9]{1,9}(ms|s|m|h)){1,3}|(9{9}h){1,3}"
        ) {
            let span = text.parse::<Span>().unwrap().0;
            let (log, now) = log(100, 1);
            let below = cut(&log, span, None, u64::MAX, now).below;
            prop_assert!((1..=91).contains(&below));
            if span > days(5) {
                prop_assert_eq!(below, 1, "nothing is as old as that");
            }
        }
    }
}
