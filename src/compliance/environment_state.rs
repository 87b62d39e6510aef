//! Whether an environment keeps its rules: table E, with its timers, as a function of what the log said before and what is
//! so now.

use jiff::Timestamp;

use crate::api::{
    EventType,
    snapshot::{Compliance, ComplianceState},
};

/// What all artifacts of an environment come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComplianceInput {
    /// The environment has rules.
    pub ruled: bool,
    /// Something breaks them, and nothing is waited for.
    pub broken: bool,
    /// Something is not known.
    pub unknown: bool,
    /// Something is missing that may still arrive: the earliest end of that.
    pub grace_ends: Option<Timestamp>,
}

/// Table E: the state after a look, and the event that tells of it. `since` and the texts are for the caller.
pub fn step(
    before: &Compliance,
    look: ComplianceInput,
    recovery_window: std::time::Duration,
    now: Timestamp,
) -> (Compliance, Option<EventType>) {
    use ComplianceState::{Compliant, NonCompliant, Unknown};
    let raw = match look {
        _ if !look.ruled => Unknown,
        _ if look.broken => NonCompliant,
        _ if look.unknown => Unknown,
        // What may still arrive counts as there, or frequent rollouts would block a recovery for ever.
        _ => Compliant,
    };
    let raw_since = if raw == before.raw {
        before.raw_since
    } else {
        Some(now)
    };
    let recovered = raw_since.unwrap_or(now).checked_add(recovery_window);
    let recovered = recovered.unwrap_or(Timestamp::MAX);
    #[allow(clippy::match_same_arms, reason = "one arm a row of the table")]
    let (state, pending_until) = match (before.state, raw) {
        (_, Unknown) => (Unknown, None), // E0
        // Nothing is said of an environment for the first time, or anew, while it may still turn out either way.
        (Unknown, Compliant) if look.grace_ends.is_some() => (Unknown, look.grace_ends),
        (Unknown, raw) => (raw, None), // E1, E2, E3
        (Compliant, Compliant) => (Compliant, look.grace_ends), // E4, E5
        (NonCompliant, NonCompliant) => (NonCompliant, None), // E4
        (Compliant, NonCompliant) => (NonCompliant, None), // E6
        (NonCompliant, Compliant) if now < recovered => (NonCompliant, Some(recovered)), // E7
        (NonCompliant, Compliant) => (Compliant, look.grace_ends), // E8
    };
    let known = |state: ComplianceState| (state != Unknown).then_some(state);
    let was_known = known(before.state).or(before.last_known);
    let event = match (was_known, state) {
        (Some(NonCompliant), Compliant) => Some(EventType::EnvironmentCompliant),
        (Some(Compliant), NonCompliant) => Some(EventType::EnvironmentNonCompliant),
        _ => None,
    };
    let turned = state != before.state;
    let after = Compliance {
        state,
        was: if event.is_some() {
            was_known.unwrap_or_default()
        } else {
            before.state
        },
        since: if turned { Some(now) } else { before.since },
        was_since: before.since.filter(|_| event.is_some()),
        reasons: vec![],
        resolved: vec![],
        raw,
        raw_since,
        last_known: known(state).or(before.last_known),
        pending_until,
        rules: None,
        unidentified_since: None,
    };
    (after, event)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_environment_turns_as_the_table_says() {
        use ComplianceState::{Compliant, NonCompliant, Unknown};
        let (red, green) = (
            EventType::EnvironmentNonCompliant,
            EventType::EnvironmentCompliant,
        );
        let good = ComplianceInput {
            ruled: true,
            ..ComplianceInput::default()
        };
        let bad = ComplianceInput {
            broken: true,
            ..good
        };
        let waits = ComplianceInput {
            grace_ends: Some(at(900)),
            ..good
        };
        let doubt = ComplianceInput {
            unknown: true,
            ..good
        };
        let none = ComplianceInput::default();
        // Before: state, last known, raw and since when. Now is 500, the window 60 s.
        for (row, state, last, raw, since, look, want, event, pending) in [
            (
                "E0",
                Compliant,
                Some(Compliant),
                Compliant,
                100,
                none,
                Unknown,
                None,
                None,
            ),
            (
                "E0",
                NonCompliant,
                Some(NonCompliant),
                NonCompliant,
                100,
                doubt,
                Unknown,
                None,
                None,
            ),
            (
                "E1", Unknown, None, Unknown, 100, good, Compliant, None, None,
            ),
            (
                "E1",
                Unknown,
                None,
                Unknown,
                100,
                bad,
                NonCompliant,
                None,
                None,
            ),
            (
                "E1",
                Unknown,
                None,
                Unknown,
                100,
                waits,
                Unknown,
                None,
                Some(900),
            ),
            (
                "E2",
                Unknown,
                Some(Compliant),
                Unknown,
                100,
                good,
                Compliant,
                None,
                None,
            ),
            (
                "E2",
                Unknown,
                Some(NonCompliant),
                Unknown,
                100,
                bad,
                NonCompliant,
                None,
                None,
            ),
            (
                "E3",
                Unknown,
                Some(Compliant),
                Unknown,
                100,
                bad,
                NonCompliant,
                Some(red),
                None,
            ),
            (
                "E3",
                Unknown,
                Some(NonCompliant),
                Unknown,
                100,
                good,
                Compliant,
                Some(green),
                None,
            ),
            (
                "E4",
                Compliant,
                Some(Compliant),
                Compliant,
                100,
                good,
                Compliant,
                None,
                None,
            ),
            (
                "E4",
                NonCompliant,
                Some(NonCompliant),
                NonCompliant,
                100,
                bad,
                NonCompliant,
                None,
                None,
            ),
            (
                "E5",
                Compliant,
                Some(Compliant),
                Compliant,
                100,
                waits,
                Compliant,
                None,
                Some(900),
            ),
            (
                "E6",
                Compliant,
                Some(Compliant),
                Compliant,
                100,
                bad,
                NonCompliant,
                Some(red),
                None,
            ),
            (
                "E6",
                Compliant,
                Some(Compliant),
                Compliant,
                100,
                ComplianceInput {
                    broken: true,
                    ..waits
                },
                NonCompliant,
                Some(red),
                None,
            ),
            (
                "E7",
                NonCompliant,
                Some(NonCompliant),
                NonCompliant,
                100,
                good,
                NonCompliant,
                None,
                Some(560),
            ),
            (
                "E7",
                NonCompliant,
                Some(NonCompliant),
                Compliant,
                441,
                good,
                NonCompliant,
                None,
                Some(501),
            ),
            // What waits counts as well while it recovers.
            (
                "E7",
                NonCompliant,
                Some(NonCompliant),
                Compliant,
                441,
                waits,
                NonCompliant,
                None,
                Some(501),
            ),
            (
                "E8",
                NonCompliant,
                Some(NonCompliant),
                Compliant,
                440,
                good,
                Compliant,
                Some(green),
                None,
            ),
            (
                "E8",
                NonCompliant,
                Some(NonCompliant),
                Compliant,
                440,
                waits,
                Compliant,
                Some(green),
                Some(900),
            ),
        ] {
            let before = Compliance {
                state,
                last_known: last,
                raw,
                raw_since: Some(at(since)),
                ..Compliance::default()
            };
            let (after, told) = step(&before, look, Duration::from_secs(60), at(500));
            let found = (after.state, told, after.pending_until);
            assert_eq!(found, (want, event, pending.map(at)), "{row}");
        }
    }
}
