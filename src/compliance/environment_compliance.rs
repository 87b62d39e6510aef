//! Decides whether an environment complies with its rules: table E of `docs/decision-tables.md`, with its timers, as a
//! function of the logged state and the present one.

use jiff::Timestamp;

use crate::api::{EventType, compliance::ComplianceState, snapshot::Compliance};

/// The state of all artifacts of an environment taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComplianceInput {
    pub(crate) ruled: bool,
    /// Something violates them, and its grace period is over.
    pub violated: bool,
    /// Whether something complies is not known.
    pub unknown: bool,
    /// When the first of the grace periods ends in which missing evidence may still arrive.
    pub grace_ends: Option<Timestamp>,
}

/// Table E: the state that follows from `before`, and the event that reports it. The caller fills in the texts.
pub fn step(
    before: &Compliance,
    input: ComplianceInput,
    recovery_window: std::time::Duration,
    now: Timestamp,
) -> (Compliance, Option<EventType>) {
    use ComplianceState::{Compliant, NonCompliant, Unknown};
    let raw = match input {
        _ if !input.ruled => Unknown,
        _ if input.violated => NonCompliant,
        _ if input.unknown => Unknown,
        // Missing evidence counts as present during its grace period, or frequent rollouts would block a recovery for ever.
        _ => Compliant,
    };
    let raw_since = if raw == before.raw {
        before.raw_since.map(|since| since.min(now)) // it was written under a clock that was ahead
    } else {
        Some(now)
    };
    let recovered = raw_since.unwrap_or(now).checked_add(recovery_window);
    let recovered = recovered.unwrap_or(Timestamp::MAX);
    #[allow(clippy::match_same_arms, reason = "one arm a row of the table")]
    let (state, pending_until) = match (before.state, raw) {
        (_, Unknown) => (Unknown, None), // E0
        // The first state after `Unknown` is reported only when it can't change any more by evidence that is awaited.
        (Unknown, Compliant) if input.grace_ends.is_some() => (Unknown, input.grace_ends),
        (Unknown, raw) => (raw, None), // E1, E2, E3
        (Compliant, Compliant) => (Compliant, input.grace_ends), // E4, E5
        (NonCompliant, NonCompliant) => (NonCompliant, None), // E4
        (Compliant, NonCompliant) => (NonCompliant, None), // E6
        (NonCompliant, Compliant) if now < recovered => (NonCompliant, Some(recovered)), // E7
        (NonCompliant, Compliant) => (Compliant, input.grace_ends), // E8
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
        uncounted: vec![],
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
            violated: true,
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
        for (row, state, last, raw, since, input, want, event, pending) in [
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
                    violated: true,
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
            let (after, told) = step(&before, input, Duration::from_secs(60), at(500));
            let found = (after.state, told, after.pending_until);
            assert_eq!(found, (want, event, pending.map(at)), "{row}");
        }
    }
}
