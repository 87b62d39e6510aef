//! Decides which entries of a log are removed: old ones, up to a checkpoint that stays, and none that a setting still has to
//! deliver, unless the log is too big. All logs together are bounded too, whatever tenants do: the logs of deleted
//! environments go first, then the oldest entries of the largest; and what even that does not keep below the bound is
//! recorded less often.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::{api::environment::EnvironmentId, snapshot::log::EntryMeta};

/// How old an entry must be before it is removed: a writer that stood still must not find the name of an entry free again.
const YOUNGEST: Duration = Duration::from_secs(3_600);
/// At most how many bytes the log of an environment takes, even if a setting has not delivered it.
pub const ENVIRONMENT_CAP: u64 = 32 << 20;
/// At most how many bytes all logs together take.
pub const TOTAL_CAP: u64 = 256 << 20;

/// How long entries are retained by default, and those of a deleted environment that a setting never delivers.
pub const MAX_AGE: Duration = Duration::from_secs(720 * 3_600);

/// How often an environment whose log grows too fast is recorded at most, in the beginning.
const CUT_INTERVAL: Duration = Duration::from_secs(1);
/// How seldom an environment is recorded at most.
const LONGEST_CUT_INTERVAL: Duration = Duration::from_secs(600);

/// How many entries a second are removed, and at most if there is more to remove than that allows.
const PER_SECOND: u32 = 5;
const MOST_PER_SECOND: u32 = 200;

/// What is known of a log.
#[derive(Clone, Debug, Default)]
pub struct LogInfo {
    pub entries: Vec<EntryMeta>,
    /// How long its entries are retained; `None` if its environment was deleted.
    pub max_age: Option<Duration>,
    /// The index up to which all settings have delivered, if any follows the log.
    pub delivered: Option<i64>,
}

impl LogInfo {
    /// How many bytes stay if all entries below an index are removed.
    fn bytes_from(&self, below: i64) -> u64 {
        let kept = self.entries.iter().filter(|entry| entry.index >= below);
        kept.fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    fn head(&self) -> i64 {
        self.entries.iter().map(|it| it.index).max().unwrap_or(0)
    }

    /// Removes everything.
    fn all_of_it(&self) -> PruneDecision {
        let lost = self
            .delivered
            .is_some_and(|delivered| delivered < self.head());
        PruneDecision {
            below: i64::MAX,
            truncated_below: lost.then_some(i64::MAX),
        }
    }

    /// Removes what is old; of a deleted environment everything that no setting needs, and in the end the rest.
    fn decide(&self, cap: u64, now: Timestamp) -> PruneDecision {
        if let Some(max_age) = self.max_age {
            return cut(&self.entries, max_age, self.delivered, cap, now);
        }
        let oldest = now.checked_sub(MAX_AGE).unwrap_or(Timestamp::MIN);
        let is_young = self.entries.iter().any(|entry| entry.created >= oldest);
        let is_needed = self
            .delivered
            .is_some_and(|delivered| delivered < self.head());
        if is_needed && is_young {
            return PruneDecision::default();
        }
        self.all_of_it()
    }
}

/// What to remove of all logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    pub decisions: BTreeMap<EnvironmentId, PruneDecision>,
    /// How many bytes stay.
    pub bytes: u64,
    /// Environments of which more stays than all may have on average, though all together are too big.
    pub too_fast: BTreeSet<EnvironmentId>,
}

/// Decides what is removed of all logs, so that they take at most `total_cap` bytes together: first the logs of deleted
/// environments, the largest first, then the oldest entries of whichever log is the largest, checkpoint by checkpoint.
/// Nothing of a living environment that is younger than an hour.
pub fn plan(
    logs: &BTreeMap<EnvironmentId, LogInfo>,
    total_cap: u64,
    now: Timestamp,
) -> RetentionPlan {
    let decisions = logs.iter();
    let mut decisions: BTreeMap<EnvironmentId, PruneDecision> = decisions
        .map(|(id, log)| (id.clone(), log.decide(ENVIRONMENT_CAP, now)))
        .collect();
    let mut sizes: BTreeSet<(u64, &EnvironmentId)> = logs
        .iter()
        .map(|(id, log)| (log.bytes_from(decisions[id].below), id))
        .collect();
    let mut bytes = sizes.iter().fold(0_u64, |sum, it| sum.saturating_add(it.0));
    let mut stuck = vec![];
    while bytes > total_cap {
        let dead = sizes
            .iter()
            .rev()
            .find(|(size, id)| *size > 0 && logs[*id].max_age.is_none());
        let Some(&largest) = dead.or_else(|| sizes.last()) else {
            break;
        };
        sizes.remove(&largest);
        let (size, id) = largest;
        let log = &logs[id];
        let next = match log.max_age {
            None => Some(log.all_of_it()).filter(|_| size > 0),
            // As far as needed, or until another log is the largest; by one checkpoint at least.
            Some(max_age) => {
                let second = sizes.last().map_or(0, |it| it.0);
                let wanted = size.saturating_sub(bytes - total_cap).max(second);
                let cap = wanted.min(size.saturating_sub(1));
                Some(cut(&log.entries, max_age, log.delivered, cap, now))
                    .filter(|next| next.below > decisions[id].below)
            }
        };
        let Some(next) = next else {
            stuck.push((size, id)); // all that is left is too young
            continue;
        };
        let left = log.bytes_from(next.below);
        bytes = bytes.saturating_sub(size).saturating_add(left);
        decisions.insert(id.clone(), next);
        sizes.insert((left, id));
    }
    let share = total_cap / u64::try_from(logs.len().max(1)).unwrap_or(u64::MAX);
    let too_fast = stuck.into_iter().chain(sizes);
    let too_fast = too_fast.filter(|(size, _)| bytes > total_cap && *size > share);
    let too_fast = too_fast.map(|(_, id)| id.clone()).collect();
    RetentionPlan {
        decisions,
        bytes,
        too_fast,
    }
}

/// How often an environment is recorded at most, after a round of pruning. `before`: as of the last round. While all logs
/// together are too big and it is one of those that grow too fast, it doubles; afterwards it is halved again, and then as its settle times ask for.
pub fn cut_interval(before: Duration, is_too_fast: bool, bytes: u64, total_cap: u64) -> Duration {
    let next = match is_too_fast {
        true => (before * 2).max(CUT_INTERVAL),
        // Until there is room again.
        false if bytes > total_cap / 10 * 9 => before,
        false if before <= CUT_INTERVAL => Duration::ZERO,
        false => before / 2,
    };
    next.min(LONGEST_CUT_INTERVAL)
}

/// How many entries a second are removed, so that a round of so many entries is over long before the next one begins. As
/// few as possible, so that the API server hardly notices; but always more than are appended.
pub fn removals_per_second(entries: usize, interval: Duration) -> u32 {
    let seconds = (interval.as_secs() / 3).max(1);
    let needed = u64::try_from(entries).unwrap_or(u64::MAX).div_ceil(seconds);
    u32::try_from(needed)
        .unwrap_or(u32::MAX)
        .clamp(PER_SECOND, MOST_PER_SECOND)
}

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
        kept.fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes))
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
    use proptest::{collection::vec, prelude::*};

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

    fn id(name: &str) -> EnvironmentId {
        EnvironmentId::new(name, format!("uid of {name}"))
    }

    /// Logs of a hundred entries, an hour each; without a maximal age: of deleted environments.
    fn logs(of: &[(&str, u64, Option<u64>, Option<i64>)]) -> BTreeMap<EnvironmentId, LogInfo> {
        let of = of.iter().map(|(name, bytes, age, delivered)| {
            let info = LogInfo {
                entries: log(100, *bytes).0,
                max_age: age.map(days),
                delivered: *delivered,
            };
            (id(name), info)
        });
        of.collect()
    }

    fn below(plan: &RetentionPlan) -> Vec<(&str, i64, bool)> {
        let decisions = plan.decisions.iter();
        decisions
            .map(|(id, it)| (id.name.as_str(), it.below, it.truncated_below.is_some()))
            .collect()
    }

    #[test]
    fn the_logs_of_deleted_environments_go_first_and_then_the_oldest_entries_of_the_largest() {
        let now = log(100, 1).1;
        let lagging = Some(3);
        let all = logs(&[
            ("big", 40, Some(30), None),
            ("dead", 10, None, lagging),
            ("gone", 20, None, Some(100)),
            ("small", 1, Some(30), lagging),
        ]);
        let whole = |cap| plan(&all, cap, now);
        assert_eq!(
            below(&whole(u64::MAX)),
            [
                ("big", 1, false),
                ("dead", 0, false),
                ("gone", i64::MAX, false),
                ("small", 1, false)
            ],
            "what nobody needs is removed, and what a setting needs stays"
        );
        assert_eq!(
            below(&whole(4_500)),
            [
                ("big", 1, false),
                ("dead", i64::MAX, true),
                ("gone", i64::MAX, false),
                ("small", 1, false)
            ],
        );
        let plan = whole(2_000);
        assert_eq!(
            below(&plan),
            [
                ("big", 61, false),
                ("dead", i64::MAX, true),
                ("gone", i64::MAX, false),
                ("small", 1, false)
            ],
        );
        assert_eq!((plan.bytes, plan.too_fast.len()), (1_700, 0));
    }

    #[test]
    fn a_log_that_is_too_big_is_cut_even_if_all_logs_together_are_not() {
        let now = log(100, 1).1;
        for delivered in [None, Some(100), Some(3)] {
            let all = logs(&[
                ("big", 1 << 20, Some(30), delivered),
                ("small", 1, Some(30), delivered),
            ]);
            let plan = plan(&all, u64::MAX, now);
            let lost = delivered == Some(3);
            assert_eq!(below(&plan), [("big", 71, lost), ("small", 1, false)]);
            let entries = all[&id("big")].entries.iter();
            let stays: Vec<_> = entries.filter(|entry| entry.index >= 71).collect();
            assert_eq!(stays.len(), 30, "40 would be more than 32 MiB");
            assert!(stays[0].checkpoint, "the log can be read from there");
        }
    }

    #[test]
    fn a_log_of_a_deleted_environment_is_not_kept_for_ever_for_a_setting_that_is_suspended() {
        let all = logs(&[("dead", 1, None, Some(3))]);
        let newest = log(100, 1).1;
        for (later, want) in [(29 * 24, 0), (31 * 24, i64::MAX)] {
            let now = newest + jiff::SignedDuration::from_hours(later);
            let plan = plan(&all, u64::MAX, now);
            assert_eq!(below(&plan)[0].1, want, "{later} hours");
        }
    }

    #[test]
    fn what_no_removal_keeps_small_is_recorded_less_often_until_it_is_small() {
        // All of it is younger than an hour.
        let mut all = logs(&[("busy", 100, Some(30), None), ("quiet", 1, Some(30), None)]);
        let now = log(100, 1).1;
        for log in all.values_mut() {
            for entry in &mut log.entries {
                entry.created = now;
            }
        }
        let plan = plan(&all, 5_000, now);
        assert_eq!(plan.bytes, 10_100);
        assert_eq!(plan.too_fast, BTreeSet::from([id("busy")]));
        let mut interval = Duration::ZERO;
        for (is_too_fast, bytes, want) in [
            (true, 10_100, 1),
            (true, 10_100, 2),
            (true, 6_000, 4),
            (false, 4_900, 4),
            (false, 4_000, 2),
            (false, 4_000, 1),
            (false, 4_000, 0),
        ] {
            interval = cut_interval(interval, is_too_fast, bytes, 5_000);
            assert_eq!(interval, Duration::from_secs(want), "{bytes}");
        }
        for _ in 0..20 {
            interval = cut_interval(interval, true, 10_100, 5_000);
        }
        assert_eq!(interval, LONGEST_CUT_INTERVAL);
    }

    #[test]
    fn more_is_removed_in_a_second_than_is_appended() {
        let round = Duration::from_secs(600);
        for (entries, want) in [(0, 5), (100, 5), (12_000, 60), (1_000_000, 200)] {
            assert_eq!(removals_per_second(entries, round), want, "{entries}");
        }
    }

    /// A log of any sizes and ages, with a checkpoint now and then.
    fn any_log() -> impl Strategy<Value = LogInfo> {
        let entry = (0..2_000_u64, any::<bool>(), 0..3_600_000_i64);
        let age = prop_oneof![1 => Just(None), 3 => (0..40_u64).prop_map(|it| Some(days(it)))];
        let delivered = prop_oneof![Just(None), (0..40_i64).prop_map(Some)];
        (vec(entry, 0..40), age, delivered).prop_map(|(entries, max_age, delivered)| {
            let mut ages: Vec<i64> = entries.iter().map(|it| it.2).collect();
            ages.sort_unstable_by(|a, b| b.cmp(a));
            let entries = (1..).zip(entries).zip(ages);
            let entries = entries.map(|((index, (bytes, checkpoint, _)), age)| EntryMeta {
                index,
                name: String::new(),
                uid: String::new(),
                created: Timestamp::from_second(4_000_000 - age).unwrap(),
                version: 0,
                checkpoint: checkpoint || index == 1,
                bytes,
                chunk: false,
            });
            LogInfo {
                entries: entries.collect(),
                max_age,
                delivered,
            }
        })
    }

    proptest! {
        #[test]
        fn all_logs_together_are_bounded_and_what_stays_can_be_read(
            logs in vec(any_log(), 0..8), total in 0..60_000_u64
        ) {
            let now = Timestamp::from_second(4_000_000).unwrap();
            let young = now.checked_sub(YOUNGEST).unwrap();
            let logs: BTreeMap<_, _> = (0..).zip(logs).map(|(n, log)| (id(&format!("{n}")), log)).collect();
            let plan = plan(&logs, total, now);
            let mut bytes = 0;
            for (id, log) in &logs {
                let decision = plan.decisions[id];
                let stays: Vec<_> = log.entries.iter().filter(|it| it.index >= decision.below).collect();
                bytes += stays.iter().map(|it| it.bytes).sum::<u64>();
                let removed = || log.entries.iter().filter(|it| it.index < decision.below);
                if log.max_age.is_some() {
                    prop_assert!(removed().all(|it| it.created < young));
                    prop_assert!(stays.is_empty() == log.entries.is_empty());
                    prop_assert!(stays.first().is_none_or(|it| it.checkpoint), "it begins with a checkpoint");
                }
                let needed = log.delivered.is_some_and(|it| removed().any(|removed| removed.index > it + 1));
                prop_assert!(!needed || decision.truncated_below.is_some(), "no loss is silent");
                // More than the bound stays only of what may not be removed.
                let next = log.entries.iter().find(|it| it.index > decision.below && it.checkpoint);
                let could = next.is_some_and(|next| {
                    let mut below = log.entries.iter().filter(|it| it.index < next.index);
                    below.all(|it| it.created < young)
                });
                if plan.bytes > total {
                    prop_assert!(log.max_age.is_some() || stays.iter().all(|it| it.bytes == 0));
                    prop_assert!(!could || log.bytes_from(decision.below) == log.bytes_from(next.unwrap().index));
                }
            }
            prop_assert_eq!(bytes, plan.bytes);
        }
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

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
