//! Times as users write them. The API server accepts texts that no [`Timestamp`] can hold, `9999-12-31T23:59:59Z` ("for
//! ever") among them. An object that can't be read is ignored, and with it a rejection, or the rules of an environment. So
//! everything that the API server accepts as `date-time` is read: what is too early or too late becomes the earliest or the
//! last time that there is.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::Offset};
use serde::{Deserialize, Deserializer, de::Error as _};

/// Reads a time.
pub(crate) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    let wrong = || D::Error::custom(format!("{text:?} is not a time like 2027-01-31T00:00:00Z"));
    read(&text).ok_or_else(wrong)
}

/// Reads a time that may be left out.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    struct Written(#[serde(deserialize_with = "required")] Timestamp);
    let written = Option::<Written>::deserialize(deserializer)?;
    Ok(written.map(|Written(time)| time))
}

/// When something ends; `None`: never.
pub(crate) fn end(written: Option<Timestamp>) -> Option<Timestamp> {
    written.filter(|end| *end < Timestamp::MAX)
}

fn read(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| read_like_the_api_server(text))
}

/// Reads what the API server accepts: the part after the first `T` up to a second one counts, offsets have any two digits,
/// and before the digits of a fraction, which is left out here, stands any character.
fn read_like_the_api_server(text: &str) -> Option<Timestamp> {
    let text = text.to_ascii_lowercase();
    let mut parts = text.split('t');
    let (date, time) = (parts.next()?, parts.next()?);
    let offset = match time.strip_suffix('z') {
        Some(_) => 0,
        None => seconds_of(time.get(time.len().checked_sub(6)?..)?)?,
    };
    let local: DateTime = format!("{date}T{}", time.get(..8)?).parse().ok()?;
    let late = local.year() > 0;
    let bound = |late| if late { Timestamp::MAX } else { Timestamp::MIN };
    let at = Offset::UTC.to_timestamp(local).unwrap_or(bound(late));
    let utc = at.checked_sub(SignedDuration::from_secs(offset));
    Some(utc.unwrap_or(bound(late)))
}

/// The seconds of an offset like `+01:30`.
fn seconds_of(offset: &str) -> Option<i64> {
    let (sign, rest) = match offset.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |digits: &str| digits.parse::<u8>().ok().map(i64::from);
    Some(sign * (number(hours)? * 3_600 + number(minutes)? * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_time_that_the_api_server_accepts_is_read() {
        for (text, want) in [
            ("2027-01-31T00:00:00Z", "2027-01-31T00:00:00Z"),
            ("2027-01-31T02:00:00.5+02:00", "2027-01-31T00:00:00.5Z"),
            ("9999-12-31T23:59:59Z", "max"),
            ("9999-12-31T23:59:59.999999999Z", "max"),
            ("9999-12-31t23:59:59z", "max"),
            ("9999-12-31T23:59:59-99:99", "max"),
            ("0000-01-01T00:00:00Z", "-000000-01-01T00:00:00Z"),
            ("2027-01-31T00:00:00+99:00", "2027-01-26T21:00:00Z"),
            ("2027-01-31T00:00:00-99:00", "2027-02-04T03:00:00Z"),
            ("2027-01-31T00:00:00\u{e9}5Z", "2027-01-31T00:00:00Z"),
            ("2027-01-31T00:00:00ZTomorrow", "2027-01-31T00:00:00Z"),
        ] {
            let want = match want {
                "max" => Timestamp::MAX,
                "-000000-01-01T00:00:00Z" => "0000-01-01T00:00:00Z".parse().unwrap(),
                want => want.parse().unwrap(),
            };
            assert_eq!(read(text), Some(want), "{text}");
        }
        for text in [
            "",
            "soon",
            "2027-01-31",
            "2027-13-31T00:00:00Z",
            "T",
            "t+00:00",
            "2027-01-31T\u{e9}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_never_ends_has_no_end() {
        assert_eq!(end(read("9999-12-31T23:59:59Z")), None);
        assert_eq!(end(None), None);
        let some = read("2027-01-31T00:00:00Z");
        assert_eq!(end(some), some);
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        /// As `IsDateTime` of the API server's `strfmt` accepts it.
        #[test]
        fn no_accepted_time_is_unreadable(
            (year, month, day) in (0..10_000_u32, 1..13_u32, 1..29_u32),
            (hour, minute, second) in (0..24_u32, 0..60_u32, 0..60_u32),
            fraction in "([^tT][0-9]{1,12})?", zone in "([zZ]|[+-][0-9]{2}:[0-9]{2})", rest in "([tT].*)?",
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}{rest}");
            prop_assert!(read(&text).is_some(), "{text}");
        }

        #[test]
        fn no_text_is_too_odd_to_be_refused(text in ".*") {
            let _ = read(&text);
        }
    }
}
