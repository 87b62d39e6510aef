//! Where delivery starts in an environment that a setting has no cursor for. The decision is written into the status, with
//! its reason, before the setting counts as handled; it is never inferred again from what the objects look like later.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{notification_setting::StartReason, start_from::StartFrom},
    snapshot::{environments::EnvironmentInfo, log::EntryMeta},
};

/// How far the clocks of the operator and of the API server may differ.
const SKEW: Duration = Duration::from_secs(60);

/// What the status says of an earlier handling of the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    Never,
    Before {
        /// When every start had been decided, if the status tells.
        decided: Option<Timestamp>,
        /// The spec was the one of now.
        same_spec: bool,
    },
}

/// Why delivery starts where it does.
pub(crate) fn reason(
    handled: Handled,
    environment: &EnvironmentInfo,
    asked: StartFrom,
) -> StartReason {
    let Handled::Before { decided, same_spec } = handled else {
        return match asked {
            StartFrom::Now => StartReason::NewSetting,
            StartFrom::Oldest | StartFrom::Snapshot(_) => StartReason::StartFrom,
        };
    };
    // Created after everything else had been decided, and never edited since, so never hidden: all of its log is news.
    let is_new = environment.generation == 1
        && decided
            .zip(environment.created)
            .is_some_and(|(decided, created)| {
                created >= decided.checked_sub(SKEW).unwrap_or(Timestamp::MIN)
            });
    if same_spec && is_new {
        StartReason::NewEnvironment
    } else {
        StartReason::EnvironmentAdded
    }
}

/// When an object was created, in whole seconds, and its resource version then or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    pub second: i64,
    pub version: u64,
}

impl Age {
    /// Within one second the order of writing decides.
    fn is_before(self, other: Self) -> bool {
        (self.second, self.version) < (other.second, other.version)
    }
}

/// The snapshot at which a cursor starts: everything after it is sent. `log`: the entries, oldest first.
pub(crate) fn index(
    reason: StartReason,
    log: &[EntryMeta],
    setting: Age,
    asked: StartFrom,
) -> Option<i64> {
    let baseline = log.first().map(|entry| entry.index);
    let head = log.last().map(|entry| entry.index);
    let older = |entry: &&EntryMeta| {
        let entry = Age {
            second: entry.created.as_second(),
            version: entry.version,
        };
        entry.is_before(setting)
    };
    let newest_older = || log.iter().rfind(older).map(|entry| entry.index);
    match (reason, asked) {
        (StartReason::StartFrom, StartFrom::Oldest) => baseline.map(|first| first - 1),
        // If that is gone, the destination is told so.
        (StartReason::StartFrom, StartFrom::Snapshot(number)) => {
            head.map(|head| head.min(number - 1))
        }
        (StartReason::StartFrom, StartFrom::Now) | (StartReason::NewSetting, _) => {
            newest_older().or(baseline)
        }
        (StartReason::NewEnvironment, _) => baseline,
        (StartReason::EnvironmentAdded | StartReason::CursorReset, _) => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::environments::Head;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn environment(created: i64, generation: i64) -> EnvironmentInfo {
        EnvironmentInfo {
            uid: "u".to_owned(),
            generation,
            created: Some(at(created)),
            visible_to: vec![],
            head: Head::default(),
        }
    }

    #[test]
    fn why_a_cursor_starts_where_it_does() {
        use StartReason::{EnvironmentAdded, NewEnvironment, NewSetting};
        for (case, handled, same_spec, created, generation, want) in [
            ("a new setting", None, true, 5_000, 1, NewSetting),
            ("made later", Some(1_000), true, 5_000, 1, NewEnvironment),
            (
                "made at that time, by another clock",
                Some(1_000),
                true,
                941,
                1,
                NewEnvironment,
            ),
            (
                "there before, and not followed then",
                Some(1_000),
                true,
                900,
                1,
                EnvironmentAdded,
            ),
            (
                "edited since: it may have been hidden",
                Some(1_000),
                true,
                5_000,
                2,
                EnvironmentAdded,
            ),
            (
                "added to the setting",
                Some(1_000),
                false,
                5_000,
                1,
                EnvironmentAdded,
            ),
        ] {
            let of = environment(created, generation);
            let handled = handled.map_or(Handled::Never, |decided| Handled::Before {
                decided: Some(at(decided)),
                same_spec,
            });
            assert_eq!(reason(handled, &of, StartFrom::Now), want, "{case}");
            let asked = match want {
                NewSetting => StartReason::StartFrom,
                of_environment => of_environment,
            };
            for from in [StartFrom::Oldest, StartFrom::Snapshot(7)] {
                assert_eq!(reason(handled, &of, from), asked, "{case}");
            }
        }
        let before_any_calendar = Handled::Before {
            decided: Some(Timestamp::MIN),
            same_spec: true,
        };
        assert_eq!(
            reason(before_any_calendar, &environment(5_000, 1), StartFrom::Now),
            NewEnvironment
        );
        let older_operator = Handled::Before {
            decided: None,
            same_spec: true,
        };
        let of = environment(5_000, 1);
        assert_eq!(
            reason(older_operator, &of, StartFrom::Now),
            EnvironmentAdded
        );
    }

    #[test]
    fn nothing_old_is_sent_and_nothing_new_is_lost() {
        use StartReason::{EnvironmentAdded, NewEnvironment, NewSetting};
        let entry = |(index, second, version)| EntryMeta {
            index,
            name: String::new(),
            uid: String::new(),
            created: at(second),
            version,
            checkpoint: false,
            bytes: 0,
            chunk: false,
        };
        let log = [(3, 8, 30), (4, 10, 39), (5, 10, 41), (6, 12, 50)].map(entry);
        let age = |second, version| Age { second, version };
        for (why, setting, want) in [
            (NewSetting, age(10, 40), Some(4)),
            (NewSetting, age(13, 60), Some(6)),
            (NewSetting, age(1, 1), Some(3)),
            (NewEnvironment, age(10, 40), Some(3)),
            (EnvironmentAdded, age(10, 40), Some(6)),
        ] {
            let found = index(why, &log, setting, StartFrom::Oldest);
            assert_eq!(found, want, "{why:?} {setting:?}");
        }
        for (from, want) in [
            (StartFrom::Oldest, 2),
            (StartFrom::Now, 4),
            (StartFrom::Snapshot(1), 0),
            (StartFrom::Snapshot(5), 4),
            (StartFrom::Snapshot(6), 5),
            (StartFrom::Snapshot(90), 6),
        ] {
            let found = index(StartReason::StartFrom, &log, age(10, 40), from);
            assert_eq!(found, Some(want), "{from:?}");
        }
        assert_eq!(index(NewSetting, &[], age(10, 40), StartFrom::Now), None);
    }
}
