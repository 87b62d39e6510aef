//! Reports about snapshots that were removed before they could be delivered. A destination gets one such report, before
//! any later event. It follows from the gap alone, which is written into the setting's status before the report is sent,
//! so every attempt has the same id and bytes, also after a crash.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    api::{condition::whole_seconds, notification_setting::UnreportedGap},
    snapshot::{
        event::base32,
        retention::{ENVIRONMENT_CAP, TOTAL_CAP},
    },
};

/// The reason of a skipped range whose snapshots no longer exist.
pub const HISTORY_TRUNCATED: &str = "HistoryTruncated";
/// The `event_type` of the webhook that reports snapshots that were removed before they could be delivered.
pub const EVENT_TYPE: &str = "HISTORY_TRUNCATED";

/// Adds missing snapshots to a gap that was not reported yet.
pub fn widened(
    unreported: Option<&UnreportedGap>,
    from: i64,
    to: i64,
    now: Timestamp,
) -> UnreportedGap {
    match unreported {
        None => UnreportedGap {
            from,
            to,
            time: whole_seconds(now),
        },
        // The time stays that of the first discovery. Otherwise a gap that grows might never expire.
        Some(gap) => UnreportedGap {
            from: gap.from.min(from),
            to: gap.to.max(to),
            time: gap.time,
        },
    }
}

/// The id of the report: the same as long as the gap is the same.
pub fn id(environment_uid: &str, gap: &UnreportedGap) -> String {
    let UnreportedGap { from, to, .. } = gap;
    let named = format!("{environment_uid}\n{HISTORY_TRUNCATED}\n{from}\n{to}");
    base32(&Sha256::digest(named.as_bytes()))
}

/// What happened, as words without markup.
pub fn what(gap: &UnreportedGap) -> String {
    let UnreportedGap { from, to, .. } = gap;
    if from == to {
        format!("snapshot {from} was removed before it could be delivered")
    } else {
        format!("snapshots {from} to {to} were removed before they could be delivered")
    }
}

/// Why this happens.
pub fn why() -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "the log had grown to its limit ({} MiB for an environment, {} MiB for all), or someone deleted entries",
        mib(ENVIRONMENT_CAP),
        mib(TOTAL_CAP)
    )
}

/// The command that shows why deliveries were late. `setting`: its namespace and name.
pub fn command(setting: (&str, &str)) -> String {
    let (namespace, name) = setting;
    format!("kubectl -n {namespace} describe notifset {name}")
}

/// The whole report: the `description` in the payload.
pub fn description(gap: &UnreportedGap, setting: (&str, &str)) -> String {
    format!(
        "{}, and {} events are lost: {}. See why deliveries were late: {}. If they did not fail and were not suspended, increase the settle times, so that less is recorded.",
        what(gap),
        if gap.from == gap.to { "its" } else { "their" },
        why(),
        command(setting)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: i64, to: i64, second: i64) -> UnreportedGap {
        UnreportedGap {
            from,
            to,
            time: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn a_gap_that_grows_before_it_is_reported_is_one_gap_as_old_as_its_beginning() {
        let now = Timestamp::from_millisecond(77_900).unwrap();
        for (unreported, from, to, want) in [
            (None, 5, 9, gap(5, 9, 77)),
            (Some(gap(5, 9, 40)), 10, 12, gap(5, 12, 40)),
            (Some(gap(5, 9, 40)), 2, 3, gap(2, 9, 40)),
        ] {
            assert_eq!(widened(unreported.as_ref(), from, to, now), want);
        }
    }

    #[test]
    fn an_id_is_the_same_as_long_as_the_gap_is() {
        let of = |uid, from, to, second| id(uid, &gap(from, to, second));
        let first = of("u", 5, 9, 40);
        assert_eq!(first, of("u", 5, 9, 41));
        assert_eq!(first.len(), 52);
        for other in [of("v", 5, 9, 40), of("u", 5, 10, 40), of("u", 4, 9, 40)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn the_report_says_what_is_lost_and_why_and_what_to_look_at() {
        let report = description(&gap(5, 9, 40), ("team", "hook"));
        assert_eq!(
            report,
            "snapshots 5 to 9 were removed before they could be delivered, and their events are lost: \
            the log had grown to its limit (32 MiB for an environment, 256 MiB for all), or someone deleted entries. \
            See why deliveries were late: kubectl -n team describe notifset hook. If they did not fail and were not \
            suspended, increase the settle times, so that less is recorded."
        );
        let one = description(&gap(5, 5, 40), ("team", "hook"));
        assert!(
            one.starts_with("snapshot 5 was removed before it could be delivered, and"),
            "{one}"
        );
    }
}
