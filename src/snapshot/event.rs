//! The id and the description of an event. The id follows from the snapshot that has the event, so it is the same in every
//! retry, restart and replica.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType,
        snapshot::{Change, Event},
    },
    snapshot::reasons::first_few,
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
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// The change that an event is about.
pub fn change<'a>(snapshot: &'a EnvironmentSnapshotSpec, event: &Event) -> Option<&'a Change> {
    snapshot.changes.get(usize::try_from(event.change?).ok()?)
}

/// At most how many reasons are in the description of an event about the environment.
const REASONS: usize = 3;

/// Describes an event. The texts for starts and stops are prescribed by the payload format; those for the others are ours.
pub fn description(snapshot: &EnvironmentSnapshotSpec, event: &Event) -> String {
    let counts = |change: &Change| {
        let number = change.now.abs_diff(change.was);
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
    if reasons.is_empty() {
        return String::new();
    }
    format!(": {}", first_few(reasons.iter().cloned(), REASONS, 0))
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
    fn counts_that_no_log_can_have_are_described_too() {
        for (was, now, number) in [
            (i64::MIN, 1, "9223372036854775809"),
            (1, i64::MIN, "9223372036854775809"),
            (i64::MIN, i64::MAX, "18446744073709551615"),
        ] {
            let mut snapshot = testing::snapshot(1, &[("web", 0, 1)]);
            (snapshot.changes[0].was, snapshot.changes[0].now) = (was, now);
            let said = description(&snapshot, &snapshot.events[0]);
            assert!(said.starts_with(&format!("{number} instances ")), "{said}");
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
