//! Reads the expression that names a snapshot in a path, in all the forms that Kosli knows.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Which snapshot of a log is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotExpression {
    /// The snapshot with this number.
    Number(i64),
    /// The snapshot this many before the newest.
    Behind(i64),
    /// The newest snapshot that was recorded by then.
    At(Timestamp),
}

impl SnapshotExpression {
    /// Reads `7`, `#7`, `-1` (the newest), `~1` (one before the newest), `@{2026-11-24T10:00:00}` (UTC), `@{now}` or
    /// `@{2.hours.ago}`.
    pub(crate) fn parse(text: &str, now: Timestamp) -> Option<Self> {
        if let Some(number) = text.strip_prefix('~') {
            let behind = number.parse().ok().filter(|behind| *behind >= 0);
            return behind.map(Self::Behind);
        }
        if let Some(rest) = text.strip_prefix("@{") {
            return time(rest.strip_suffix('}')?, now).map(Self::At);
        }
        match text.strip_prefix('#').unwrap_or(text).parse().ok()? {
            number if number > 0 => Some(Self::Number(number)),
            number if number < 0 && !text.starts_with('#') => Some(Self::Behind(-1 - number)),
            _ => None,
        }
    }
}

fn time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if text == "now" {
        return Some(now);
    }
    if let Some(ago) = text.strip_suffix(".ago") {
        let (number, unit) = ago.split_once('.')?;
        let hours = match unit.trim_end_matches('s') {
            "hour" => 1,
            "day" => 24,
            "week" => 24 * 7,
            "month" => 24 * 30,
            _ => return None,
        };
        let number = number.parse::<i64>().ok().filter(|number| *number >= 0)?;
        let ago = SignedDuration::try_from_hours(number.checked_mul(hours)?)?;
        return now.checked_sub(ago).ok();
    }
    let civil: DateTime = text.parse().ok()?;
    civil
        .to_zoned(TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_in_all_the_ways_that_kosli_knows() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let at = |text: &str| Some(SnapshotExpression::At(text.parse().unwrap()));
        for (text, want) in [
            ("7", Some(SnapshotExpression::Number(7))),
            ("#7", Some(SnapshotExpression::Number(7))),
            ("-1", Some(SnapshotExpression::Behind(0))),
            ("-3", Some(SnapshotExpression::Behind(2))),
            ("~0", Some(SnapshotExpression::Behind(0))),
            ("~2", Some(SnapshotExpression::Behind(2))),
            ("@{now}", at("2026-11-24T12:00:00Z")),
            ("@{2.hours.ago}", at("2026-11-24T10:00:00Z")),
            ("@{1.day.ago}", at("2026-11-23T12:00:00Z")),
            ("@{2026-11-20T08:30:00}", at("2026-11-20T08:30:00Z")),
            ("0", None),
            ("#-1", None),
            ("~-1", None),
            ("seven", None),
            ("@{yesterday}", None),
            ("@{9223372036854775807.weeks.ago}", None),
            ("@{now", None),
            (
                "-9223372036854775808",
                Some(SnapshotExpression::Behind(i64::MAX)),
            ),
            ("", None),
        ] {
            assert_eq!(SnapshotExpression::parse(text, now), want, "{text}");
        }
    }

    #[test]
    fn a_time_before_any_calendar_is_no_expression() {
        for unit in ["hours", "days", "weeks", "months"] {
            for number in [i64::MAX, i64::MAX / 24, i64::MAX / 720, 99_999_999_999] {
                let text = format!("@{{{number}.{unit}.ago}}");
                assert_eq!(
                    SnapshotExpression::parse(&text, Timestamp::UNIX_EPOCH),
                    None
                );
            }
        }
    }
}
