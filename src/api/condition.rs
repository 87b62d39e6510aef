//! Conditions of the custom resources: their types, and how they are updated.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Whether the spec is correct and can be used.
pub const READY: &str = "Ready";
/// Present while a problem is expected to be solved within moments (kstatus).
pub const RECONCILING: &str = "Reconciling";
/// Present if only a change of the spec can help (kstatus).
pub const STALLED: &str = "Stalled";
/// Whether no event is overdue.
pub(crate) const DELIVERED: &str = "Delivered";
/// Whether everything that runs in an environment meets its rules.
pub(crate) const COMPLIANT: &str = "Compliant";

/// Makes an enum of reasons whose names in statuses and metrics are those of its variants.
macro_rules! reasons {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$about:meta])* $variant:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$about])* $variant),* }

        impl $name {
            #[allow(dead_code)] // Some lists are read by tests alone.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in statuses and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }
    };
}
pub(crate) use reasons;

/// The content of a condition, apart from its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// One of the types above.
    pub type_: &'static str,
    /// `Some(true)` = True, `Some(false)` = False, `None` = Unknown.
    pub status: Option<bool>,
    /// A word of a closed list, which docs/troubleshooting.md explains.
    pub reason: &'static str,
    /// A sentence that says what is wrong and how to correct it. It never contains a URL that may hold a secret.
    pub message: String,
}

/// Adds or replaces the condition. The transition time changes only with the status.
pub(crate) fn set(
    conditions: &mut Vec<Condition>,
    statement: &Statement,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = match statement.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let existing = conditions
        .iter()
        .position(|condition| condition.type_ == statement.type_);
    let same = existing
        .map(|at| &conditions[at])
        .filter(|condition| condition.status == status);
    let since = same.map_or(Time(whole_seconds(now)), |condition| {
        condition.last_transition_time.clone()
    });
    let condition = Condition {
        type_: statement.type_.to_owned(),
        status: status.to_owned(),
        reason: statement.reason.to_owned(),
        message: statement.message.clone(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match existing {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Removes the condition of this type, which is how kstatus expresses that it no longer applies.
pub(crate) fn remove(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// Finds the condition of this type.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// At most this many characters of a text in a status.
pub(crate) const MESSAGE: usize = 1_000;
/// At most this many characters of a text once the API server has refused a status.
pub(crate) const MINIMAL_TEXT: usize = 200;

/// Cuts a text to this many characters: no text of any length may stand in a status.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Shortens the messages of a status that the API server refused.
pub(crate) fn shorten_messages(conditions: &mut [Condition]) {
    for condition in conditions {
        condition.message = shorten(&condition.message, MINIMAL_TEXT);
    }
}

/// Cuts the fraction of a second. A `Time` has none in JSON, so a status with fractions would never equal the one
/// that is read back.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The reasons that the tables of a section of docs/troubleshooting.md explain.
#[cfg(test)]
pub(crate) fn documented(section: &str) -> std::collections::BTreeSet<&'static str> {
    let document = include_str!("../../docs/troubleshooting.md");
    let (_, from) = document.split_once(&format!("\n## {section}\n")).unwrap();
    let tables = from.split("\n## ").next().unwrap();
    let reason = |line: &'static str| line.strip_prefix("| `")?.split_once("` |");
    let rows = tables.lines().filter_map(reason);
    rows.map(|(reason, _)| reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ready = |status, reason| Statement {
            type_: READY,
            status,
            reason,
            message: String::new(),
        };
        let mut conditions = vec![];
        set(
            &mut conditions,
            &ready(Some(false), "SecretNotFound"),
            Some(1),
            at(10),
        );
        set(
            &mut conditions,
            &ready(Some(false), "SecretForbidden"),
            Some(2),
            at(20),
        );
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].reason, "SecretForbidden");
        assert_eq!(conditions[0].observed_generation, Some(2));
        set(
            &mut conditions,
            &ready(Some(true), "Valid"),
            Some(2),
            at(30),
        );
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert_eq!(conditions.len(), 1);
        remove(&mut conditions, READY);
        assert_eq!(find(&conditions, READY), None);
    }
}
