//! Lengths of time as users write them: `500ms`, `30s`, `15m`, `72h`, `1h30m`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use jiff::fmt::friendly::{Spacing, SpanPrinter};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The pattern that the API server checks. Months and years have no fixed length, so hours are the largest unit.
pub(crate) const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h))+$";

/// The longest length of time, which is also the longest that can be written with one number. It stands for every longer one.
const LONGEST: Duration = Duration::from_hours(999_999_999);

/// A length of time: one or more whole numbers, each with a unit of `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The error for a text that is not a length of time. It explains the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a length of time is written like 30s, 15m or 1h30m (units ms, s, m, h)")]
pub struct NotASpan;

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(NotASpan)?;
            if digits > 9 {
                return Err(NotASpan);
            }
            let number: u64 = rest[..digits].parse().map_err(|_| NotASpan)?;
            rest = &rest[digits..];
            let (unit, length) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))
                .ok_or(NotASpan)?;
            rest = &rest[unit.len()..];
            total = total.saturating_add(Duration::from_millis(number * length));
        }
        if text.is_empty() {
            Err(NotASpan)
        } else {
            Ok(Self(total.min(LONGEST)))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PRINTER: SpanPrinter = SpanPrinter::new().spacing(Spacing::None);
        f.write_str(&PRINTER.unsigned_duration_to_string(&self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: NotASpan| D::Error::custom(error))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn any_text_is_read_or_refused(text in "(([0-9]{0,11}(ms|s|m|h|d)?){0,6}|.{0,20})") {
            if let Ok(span) = text.parse::<Span>() {
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
    }

    #[test]
    fn a_span_is_read_and_written_in_the_units_people_use() {
        for (text, millis, written) in [
            ("0s", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("5s", 5_000, "5s"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("720h", 2_592_000_000, "720h"),
            ("999999999h1ms", 3_599_999_996_400_000, "999999999h"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_millis(), millis, "{text}");
            assert_eq!(span.to_string(), written);
        }
        for text in [
            "",
            "5",
            "1d",
            "5 s",
            "-5s",
            "1.5h",
            "s",
            "5S",
            "99999999999s",
        ] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan), "{text}");
        }
    }
}
