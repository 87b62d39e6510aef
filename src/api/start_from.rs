//! Where the deliveries of a new setting start.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The greatest number of a snapshot: its name has ten digits.
const LAST: i64 = 9_999_999_999;

/// What a new setting is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// What happens after its creation.
    Now,
    /// All that the log still holds.
    Oldest,
    /// Everything from the snapshot with this number on.
    Snapshot(i64),
}

impl Serialize for StartFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Now => serializer.serialize_str("Now"),
            Self::Oldest => serializer.serialize_str("Oldest"),
            Self::Snapshot(number) => serializer.serialize_i64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for StartFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Number(i64),
            Text(String),
        }

        let number = match Said::deserialize(deserializer)? {
            Said::Number(number) => Some(number),
            Said::Text(text) => match text.as_str() {
                "Now" => return Ok(Self::Now),
                "Oldest" => return Ok(Self::Oldest),
                text => text.parse().ok(),
            },
        };
        let number = number.filter(|number| (1..=LAST).contains(number));
        let wrong = || D::Error::custom("give Now, Oldest or the number of a snapshot");
        number.map(Self::Snapshot).ok_or_else(wrong)
    }
}

impl JsonSchema for StartFrom {
    fn schema_name() -> Cow<'static, str> {
        "StartFrom".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": LAST,
            "maxLength": 10,
            "pattern": "^(Now|Oldest|[1-9][0-9]{0,9})$",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn it_is_a_word_or_the_number_of_a_snapshot() {
        for (said, want, written) in [
            (json!("Now"), Some(StartFrom::Now), json!("Now")),
            (json!("Oldest"), Some(StartFrom::Oldest), json!("Oldest")),
            (json!(17), Some(StartFrom::Snapshot(17)), json!(17)),
            (json!("17"), Some(StartFrom::Snapshot(17)), json!(17)),
            (json!(LAST), Some(StartFrom::Snapshot(LAST)), json!(LAST)),
            (json!(LAST + 1), None, json!(null)),
            (json!(0), None, json!(null)),
            (json!(-1), None, json!(null)),
            (json!("now"), None, json!(null)),
            (json!(1.5), None, json!(null)),
            (json!([1]), None, json!(null)),
        ] {
            let read = from_value::<StartFrom>(said.clone()).ok();
            assert_eq!(read, want, "{said}");
            assert_eq!(to_value(read).unwrap(), written, "{said}");
        }
    }
}
