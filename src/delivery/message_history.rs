//! What a setting's status keeps of single messages: the last that was delivered, the last that failed, those that were
//! refused, and the ranges of a log that were not sent.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        NotificationSettingStatus,
        condition::{MESSAGE, shorten},
        notification_setting::{DeadLetter, Delivery, Failure, SkippedRange},
    },
    delivery::reasons::SkipReason,
};

/// At most this many dead letters are kept.
const DEAD_LETTERS: usize = 10;
/// At most this many skipped ranges are kept.
const SKIPPED_RANGES: usize = 20;

/// An attempt to deliver a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The message's id.
    pub id: String,
    /// The name of the snapshot that it comes from, if it comes from one.
    pub snapshot: Option<String>,
    /// The number of the last snapshot that it holds, if it holds several.
    pub through: Option<i64>,
    /// How many events it holds.
    pub events: usize,
    /// How many attempts were made by now.
    pub attempts: i64,
    /// When this one was answered, or failed.
    pub time: Timestamp,
}

/// A range of the log that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedEntries {
    /// The first snapshot.
    pub from: i64,
    /// The last one.
    pub to: i64,
    /// How many events, if that is known.
    pub count: Option<i64>,
    pub reason: SkipReason,
}

/// Notes a message that was delivered, with the HTTP status of the answer and how long that took.
pub(crate) fn delivered(
    status: &mut NotificationSettingStatus,
    attempt: Attempt,
    answer: Option<u16>,
    latency: Duration,
) {
    status.last_delivery = Some(Delivery {
        event_id: attempt.id,
        snapshot: attempt.snapshot,
        time: attempt.time,
        attempts: attempt.attempts,
        http_status: answer.map_or(0, i64::from),
        latency_ms: i64::try_from(latency.as_millis()).unwrap_or(i64::MAX),
    });
}

/// Notes an attempt that failed.
pub(crate) fn failed(
    status: &mut NotificationSettingStatus,
    attempt: Attempt,
    reason: &str,
    message: &str,
) {
    status.last_failure = Some(Failure {
        event_id: attempt.id,
        time: attempt.time,
        reason: reason.to_owned(),
        message: shorten(message, MESSAGE),
        attempts: attempt.attempts,
    });
}

/// Notes a message that is not sent again by itself.
pub(crate) fn dead_lettered(
    status: &mut NotificationSettingStatus,
    attempt: &Attempt,
    reason: &str,
    message: &str,
) {
    let letter = DeadLetter {
        event_id: attempt.id.clone(),
        snapshot: attempt.snapshot.clone().unwrap_or_default(),
        through: attempt.through,
        events: i64::try_from(attempt.events)
            .ok()
            .filter(|events| *events > 1),
        time: attempt.time,
        reason: reason.to_owned(),
        message: shorten(message, MESSAGE),
    };
    status.dead_letters.insert(0, letter);
    status.dead_letters.truncate(DEAD_LETTERS);
    status.dead_lettered = Some(status.dead_lettered.unwrap_or(0).saturating_add(1));
}

/// A replay has delivered a message with so many events, of snapshots up to `last`. Those of `letters`, which begin with one
/// of these events, are no dead letters any more if the message holds all that they held.
pub(crate) fn redelivered(
    status: &mut NotificationSettingStatus,
    letters: &[String],
    events: i64,
    last: i64,
) {
    status.dead_letters.retain(|letter| {
        let is_whole = letter.through.is_none_or(|through| through <= last)
            && letter.events.is_none_or(|held| held <= events);
        !(is_whole && letters.contains(&letter.event_id))
    });
}

/// The newest dead letter (id and message) if nothing was delivered since.
pub(crate) fn refused_last(status: &NotificationSettingStatus) -> Option<(String, String)> {
    let letter = status.dead_letters.first()?;
    let delivered = status.last_delivery.as_ref();
    let newest = delivered.is_none_or(|delivery| delivery.time <= letter.time);
    newest.then(|| (letter.event_id.clone(), letter.message.clone()))
}

/// Notes a range of an environment's log that is not sent. A range that goes on is one range.
pub(crate) fn skipped(
    status: &mut NotificationSettingStatus,
    environment: &str,
    skipped: &SkippedEntries,
    time: Timestamp,
) {
    let range = SkippedRange {
        environment: environment.to_owned(),
        from: skipped.from,
        to: skipped.to,
        count: skipped.count,
        reason: skipped.reason.as_str().to_owned(),
        time,
    };
    let last = status.skipped_ranges.first_mut().filter(|last| {
        last.environment == range.environment
            && last.reason == range.reason
            && last.to + 1 >= range.from
    });
    match last.and_then(|last| last.count.zip(range.count).map(|counts| (last, counts))) {
        Some((last, (before, more))) => {
            last.count = Some(before.saturating_add(more));
            last.to = last.to.max(range.to);
            last.time = time;
        }
        None => status.skipped_ranges.insert(0, range),
    }
    status.skipped_ranges.truncate(SKIPPED_RANGES);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn attempt(id: &str) -> Attempt {
        Attempt {
            id: id.to_owned(),
            snapshot: Some("prod-0000000007".to_owned()),
            through: None,
            events: 1,
            attempts: 3,
            time: at(50),
        }
    }

    #[test]
    fn the_newest_ten_dead_letters_are_kept_and_all_are_counted() {
        let mut status = NotificationSettingStatus::default();
        assert_eq!(refused_last(&status), None);
        for number in 0..12 {
            let one = attempt(&number.to_string());
            dead_lettered(&mut status, &one, "PayloadRefused", &"x".repeat(2_000));
        }
        let ids: Vec<_> = status
            .dead_letters
            .iter()
            .map(|it| it.event_id.as_str())
            .collect();
        assert_eq!(ids, ["11", "10", "9", "8", "7", "6", "5", "4", "3", "2"]);
        assert_eq!(status.dead_lettered, Some(12));
        assert_eq!(status.dead_letters[0].snapshot, "prod-0000000007");
        assert_eq!(status.dead_letters[0].message.chars().count(), 1_000);
        assert_eq!(refused_last(&status).unwrap().0, "11");
        let later = Attempt {
            time: at(51),
            ..attempt("12")
        };
        delivered(&mut status, later, Some(200), Duration::ZERO);
        assert_eq!(refused_last(&status), None);
    }

    #[test]
    fn a_delivery_without_an_answer_from_a_server_has_the_status_0() {
        let mut status = NotificationSettingStatus::default();
        let latency = Duration::from_millis(12);
        delivered(&mut status, attempt("a"), Some(204), latency);
        assert_eq!(status.last_delivery.as_ref().unwrap().http_status, 204);
        delivered(&mut status, attempt("a"), None, latency);
        let last = status.last_delivery.unwrap();
        assert_eq!((last.http_status, last.latency_ms), (0, 12));
    }

    #[test]
    fn ranges_that_touch_are_one_if_they_have_one_reason_and_are_counted() {
        use SkipReason::{CursorReset, HistoryTruncated, RetryExpired};
        let mut status = NotificationSettingStatus::default();
        for (environment, from, to, count, reason) in [
            ("prod", 1, 2, Some(3), RetryExpired),
            ("prod", 3, 3, Some(1), RetryExpired),
            ("prod", 5, 5, Some(1), RetryExpired),
            ("test", 6, 6, Some(1), RetryExpired),
            ("test", 7, 9, None, HistoryTruncated),
            ("test", 10, 10, Some(1), HistoryTruncated),
        ] {
            let one = SkippedEntries {
                from,
                to,
                count,
                reason,
            };
            skipped(&mut status, environment, &one, at(from));
        }
        let kept: Vec<_> = status
            .skipped_ranges
            .iter()
            .map(|it| (it.environment.as_str(), it.from, it.to, it.count, it.time))
            .collect();
        assert_eq!(
            kept,
            [
                ("test", 10, 10, Some(1), at(10)),
                ("test", 7, 9, None, at(7)),
                ("test", 6, 6, Some(1), at(6)),
                ("prod", 5, 5, Some(1), at(5)),
                ("prod", 1, 3, Some(4), at(3)),
            ]
        );
        for from in 0..30 {
            let one = SkippedEntries {
                from,
                to: from,
                count: None,
                reason: CursorReset,
            };
            skipped(&mut status, "prod", &one, at(from));
        }
        assert_eq!(status.skipped_ranges.len(), SKIPPED_RANGES);
        assert_eq!(status.skipped_ranges[0].from, 29);
    }
}
