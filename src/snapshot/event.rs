//! What an event is called and how it is told. An event's id follows from the snapshot that holds it, so every retry,
//! restart and replica gives it the same one.

use sha2::{Digest as _, Sha256};

use crate::api::{
    EnvironmentSnapshotSpec, EventType,
    snapshot::{Change, Event},
};

/// The id of an event: the base32 form of a SHA-256 hash, 52 characters. `ordinal`: its position in the snapshot's
/// `events`, from 0.
pub fn id(snapshot: &EnvironmentSnapshotSpec, ordinal: usize) -> String {
    let EnvironmentSnapshotSpec {
        environment_uid,
        index,
        content_hash,
        ..
    } = snapshot;
    let named = format!("{environment_uid}\n{index}\n{content_hash}\n{ordinal}");
    base32(&Sha256::digest(named.as_bytes()))
}

/// Lower-case base32 (RFC 4648) without padding.
pub fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = bytes.len() * 8;
    let digit = |at: usize| {
        let value = (at..at + 5).fold(0_usize, |value, bit| {
            let set = bytes
                .get(bit / 8)
                .is_some_and(|byte| byte >> (7 - bit % 8) & 1 == 1);
            value << 1 | usize::from(set)
        });
        char::from(DIGITS[value])
    };
    (0..bits).step_by(5).map(digit).collect()
}

/// The artifact that an event speaks of.
pub fn change<'a>(snapshot: &'a EnvironmentSnapshotSpec, event: &Event) -> Option<&'a Change> {
    snapshot.changes.get(usize::try_from(event.change?).ok()?)
}

/// At most so many reasons are told with an event of the environment.
const REASONS: usize = 3;

/// The event in words. Those for starts and stops are the contract's; it says nothing of the others.
pub fn description(snapshot: &EnvironmentSnapshotSpec, event: &Event) -> String {
    let counts = |change: &Change| {
        let number = (change.now - change.was).abs();
        let instances = if number == 1 { "instance" } else { "instances" };
        let verb = if change.now > change.was {
            "started"
        } else {
            "stopped"
        };
        format!(
            "{number} {instances} {verb} running (from {} to {})",
            change.was, change.now
        )
    };
    match event.type_ {
        EventType::ArtifactStarted | EventType::ArtifactStopped | EventType::ArtifactScaled => {
            change(snapshot, event).map(counts).unwrap_or_default()
        }
        EventType::ArtifactAllowed => {
            let allowed = change(snapshot, event).and_then(|change| change.allowed.as_ref());
            let why = allowed.map(|allowed| format!(": {}", allowed.reason));
            format!(
                "artifact was added to the allow-list{}",
                why.unwrap_or_default()
            )
        }
        EventType::EnvironmentNonCompliant => {
            let reasons = because(&snapshot.compliance.reasons);
            format!("environment became non-compliant{reasons}")
        }
        EventType::EnvironmentCompliant => {
            let resolved = because(&snapshot.compliance.resolved);
            format!("environment became compliant{resolved}")
        }
    }
}

/// The first few of several reasons.
fn because(reasons: &[String]) -> String {
    let more = reasons.len().saturating_sub(REASONS);
    let mut told: Vec<String> = reasons.iter().take(REASONS).cloned().collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    if told.is_empty() {
        return String::new();
    }
    format!(": {}", told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::testing;

    #[test]
    fn base32_is_that_of_the_rfc() {
        // RFC 4648, section 10, in lower case and without padding.
        for (plain, coded) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(base32(plain.as_bytes()), coded, "{plain}");
        }
    }

    #[test]
    fn an_id_is_stable_and_differs_between_events() {
        let snapshot = testing::snapshot(1035, &[("runner", 0, 1), ("web", 2, 0)]);
        assert_eq!(id(&snapshot, 0), id(&snapshot.clone(), 0));
        assert_ne!(id(&snapshot, 0), id(&snapshot, 1));
        assert_eq!(id(&snapshot, 0).len(), 52);
        let mut other = snapshot.clone();
        other.content_hash.push('0');
        assert_ne!(id(&snapshot, 0), id(&other, 0));
    }

    #[test]
    fn counts_are_told_in_the_words_of_the_contract() {
        for (was, now, words) in [
            (0, 1, "1 instance started running (from 0 to 1)"),
            (0, 3, "3 instances started running (from 0 to 3)"),
            (1, 0, "1 instance stopped running (from 1 to 0)"),
            (3, 0, "3 instances stopped running (from 3 to 0)"),
            (2, 5, "3 instances started running (from 2 to 5)"),
            (5, 4, "1 instance stopped running (from 5 to 4)"),
        ] {
            let snapshot = testing::snapshot(7, &[("runner", was, now)]);
            assert_eq!(description(&snapshot, &snapshot.events[0]), words);
        }
    }
}
