//! Conditions: one list of types and reasons, and the rule that a transition time moves only with the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Whether the object is sound: what it names exists and may be used.
pub const READY: &str = "Ready";
/// Present while something that failed is expected to heal within moments (kstatus).
pub const RECONCILING: &str = "Reconciling";
/// Present when only a change of the spec can help (kstatus).
pub const STALLED: &str = "Stalled";
/// Whether everything that is due has arrived at the destination.
pub const DELIVERED: &str = "Delivered";

/// Whether all that runs in an environment keeps its rules.
pub const COMPLIANT: &str = "Compliant";

/// What a condition says, apart from its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// One of the types above.
    pub type_: &'static str,
    /// `Some(true)` = True, `Some(false)` = False, `None` = Unknown.
    pub status: Option<bool>,
    /// A closed list of words in `CamelCase`, for machines and for looking up in the README.
    pub reason: &'static str,
    /// A sentence for people: what is wrong and what mends it. Never a URL with a secret.
    pub message: String,
}

/// Puts `statement` into `conditions`; the transition time is kept while the status is the same.
pub fn set(
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

/// Takes the condition of this type away: the way kstatus says "no longer so".
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// A `Time` on the wire has whole seconds, so what we hold must have them too, or a
/// status read back would never equal the one we wrote.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
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
            &ready(Some(true), "Sound"),
            Some(2),
            at(30),
        );
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert_eq!(conditions.len(), 1);
        remove(&mut conditions, READY);
        assert_eq!(find(&conditions, READY), None);
    }
}
