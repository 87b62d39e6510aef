//! The three kinds of evidence: how each is taken in, and what its status says.

use std::fmt::Debug;

use jiff::Timestamp;
use kube::{Resource, core::object::HasStatus};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Condition,
        allowed::{AllowedArtifactStatus, AllowedState},
        approval::ArtifactApprovalStatus,
        condition::{READY, Statement, reasons},
        provenance::{ArtifactProvenanceStatus, RunningIn},
    },
    compliance::{
        evidence::{Allowance, ApprovalReview, EvidenceKey, EvidenceKind, ProvenanceRecord},
        evidence_state::EvidenceState,
    },
    time::Moment,
};

/// At most so many environments are listed in a status.
const ENVIRONMENTS: usize = 256;

reasons! {
    /// What the condition `Ready` of a piece of evidence says.
    enum EvidenceReason {
        Recorded, Conflict, Numbered, NamespaceNotTrusted, Active, Expired, EnvironmentNotFound,
    }
}

/// A kind of object that carries evidence.
pub trait EvidenceResource:
    Resource<DynamicType = ()>
    + HasStatus<Status: EvidenceStatus>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + 'static
{
    /// Which of them.
    const KIND: EvidenceKind;

    /// Takes in the newest state of an object. An error says what can't be read in it.
    fn apply(
        &self,
        key: &EvidenceKey,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> Result<(), String>;

    /// Removes a deleted object.
    fn remove(key: &EvidenceKey, state: &mut dyn EvidenceState, now: Moment);

    /// The objects that are known.
    fn keys(state: &dyn EvidenceState) -> Vec<EvidenceKey>;

    /// What its status should say, and its condition Ready. `None`: the object is not known any more.
    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        now: Timestamp,
    ) -> Option<(Self::Status, Statement)>;
}

/// What the statuses of evidence have in common.
pub trait EvidenceStatus: Serialize {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// Its conditions and the generation that it speaks of.
    fn common(&mut self) -> (&mut Vec<Condition>, &mut Option<i64>);
}

macro_rules! evidence_status {
    ($status:ty) => {
        impl EvidenceStatus for $status {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }

            fn common(&mut self) -> (&mut Vec<Condition>, &mut Option<i64>) {
                (&mut self.conditions, &mut self.observed_generation)
            }
        }
    };
}

evidence_status!(ArtifactProvenanceStatus);
evidence_status!(ArtifactApprovalStatus);
evidence_status!(AllowedArtifactStatus);

impl EvidenceResource for ArtifactProvenance {
    const KIND: EvidenceKind = EvidenceKind::Records;

    fn apply(
        &self,
        key: &EvidenceKey,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> Result<(), String> {
        state.record_seen(key, Some(ProvenanceRecord::of(self)?), now);
        Ok(())
    }

    fn remove(key: &EvidenceKey, state: &mut dyn EvidenceState, now: Moment) {
        state.record_seen(key, None, now);
    }

    fn keys(state: &dyn EvidenceState) -> Vec<EvidenceKey> {
        state.evidence().records().keys().cloned().collect()
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        _: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let record = state.evidence().records().get(key)?;
        Some(record_status(state, record))
    }
}

impl EvidenceResource for ArtifactApproval {
    const KIND: EvidenceKind = EvidenceKind::Reviews;

    fn apply(
        &self,
        key: &EvidenceKey,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> Result<(), String> {
        state.review_seen(key, Some(self))
    }

    fn remove(key: &EvidenceKey, state: &mut dyn EvidenceState, _: Moment) {
        // Without an object there is nothing that can't be read.
        let _ = state.review_seen(key, None);
    }

    fn keys(state: &dyn EvidenceState) -> Vec<EvidenceKey> {
        state.evidence().reviews().keys().cloned().collect()
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        _: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let review = state.evidence().reviews().get(key)?;
        Some(review_status(state, review))
    }
}

impl EvidenceResource for AllowedArtifact {
    const KIND: EvidenceKind = EvidenceKind::Allowances;

    fn apply(
        &self,
        key: &EvidenceKey,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> Result<(), String> {
        state.allowance_seen(&key.name, Some(Allowance::of(self)?));
        Ok(())
    }

    fn remove(key: &EvidenceKey, state: &mut dyn EvidenceState, _: Moment) {
        state.allowance_seen(&key.name, None);
    }

    fn keys(state: &dyn EvidenceState) -> Vec<EvidenceKey> {
        let names = state.evidence().allowances().keys();
        names.map(|name| EvidenceKey::of_cluster(name)).collect()
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        now: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let entry = state.evidence().allowances().get(&key.name)?;
        Some(allowance_status(state, entry, now))
    }
}

fn not_trusted(namespace: &str) -> Statement {
    Statement {
        type_: READY,
        status: Some(false),
        reason: EvidenceReason::NamespaceNotTrusted.as_str(),
        message: format!(
            "no Environment trusts namespace {namespace}, so this changes nothing; add it to spec.compliance.provenance.trustedNamespaces of an Environment"
        ),
    }
}

fn record_status(
    state: &dyn EvidenceState,
    record: &ProvenanceRecord,
) -> (ArtifactProvenanceStatus, Statement) {
    let namespace = &*record.key.namespace;
    let digests: Vec<_> = record.digests().collect();
    let running = state.running_in(namespace, &digests);
    let running_in = running
        .into_iter()
        .take(ENVIRONMENTS)
        .map(|(name, runs, state)| RunningIn {
            environment: name.to_owned(),
            fingerprint: runs.to_string(),
            compliance: state.as_str().to_owned(),
        });
    let conflict = state
        .evidence()
        .conflict(record, |namespace| state.trusts(namespace));
    let conflict = conflict.map(ToString::to_string);
    let ready = match &conflict {
        _ if !state.trusts(namespace) => not_trusted(namespace),
        Some(older) => Statement {
            type_: READY,
            status: Some(false),
            reason: EvidenceReason::Conflict.as_str(),
            message: format!(
                "{older} is an older record of flow {} for the same image, and counts instead of this one",
                record.flow
            ),
        },
        None => Statement {
            type_: READY,
            status: Some(true),
            reason: EvidenceReason::Recorded.as_str(),
            message: format!("The record counts in environments that trust namespace {namespace}."),
        },
    };
    let status = ArtifactProvenanceStatus {
        state: Some(record.state),
        missing: record.missing.iter().map(ToString::to_string).collect(),
        conflict,
        running_in: running_in.collect(),
        ..ArtifactProvenanceStatus::default()
    };
    (status, ready)
}

fn review_status(
    state: &dyn EvidenceState,
    review: &ApprovalReview,
) -> (ArtifactApprovalStatus, Statement) {
    let namespace = &*review.key.namespace;
    let ready = if state.trusts(namespace) {
        Statement {
            type_: READY,
            status: Some(true),
            reason: EvidenceReason::Numbered.as_str(),
            message: format!("The review counts in environments that trust namespace {namespace}."),
        }
    } else {
        not_trusted(namespace)
    };
    let status = ArtifactApprovalStatus {
        number: Some(review.number),
        ..ArtifactApprovalStatus::default()
    };
    (status, ready)
}

fn allowance_status(
    state: &dyn EvidenceState,
    entry: &Allowance,
    now: Timestamp,
) -> (AllowedArtifactStatus, Statement) {
    let missing: Vec<&str> = entry
        .environments
        .iter()
        .map(|name| &**name)
        .filter(|name| !state.environment_exists(name))
        .collect();
    let outcome = if !entry.is_active(now) {
        AllowedState::Expired
    } else if missing.len() == entry.environments.len() {
        AllowedState::EnvironmentNotFound
    } else {
        AllowedState::Active
    };
    let (status, reason, message) = match outcome {
        // What was said is over, not wrong: nobody waits for it to heal.
        AllowedState::Expired => (
            true,
            EvidenceReason::Expired,
            "The entry has expired: the rules apply to these images again.".to_owned(),
        ),
        _ if !missing.is_empty() => (
            false,
            EvidenceReason::EnvironmentNotFound,
            format!(
                "there is no Environment {}; kubectl get environments lists them",
                missing.join(", ")
            ),
        ),
        _ => (
            true,
            EvidenceReason::Active,
            "These images are allowed.".to_owned(),
        ),
    };
    let ready = Statement {
        type_: READY,
        status: Some(status),
        reason: reason.as_str(),
        message,
    };
    let announced = entry
        .environments
        .iter()
        .filter(|name| state.announced(name, &entry.uid));
    let status = AllowedArtifactStatus {
        state: Some(outcome),
        announced: announced.map(ToString::to_string).collect(),
        ..AllowedArtifactStatus::default()
    };
    (status, ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::documented;

    #[test]
    fn the_documents_explain_exactly_the_reasons_that_are_written() {
        let kinds = ["ArtifactProvenance", "ArtifactApproval", "AllowedArtifact"];
        let explained: std::collections::BTreeSet<_> =
            kinds.into_iter().flat_map(documented).collect();
        let reasons = EvidenceReason::ALL.iter().map(|it| it.as_str());
        assert_eq!(explained, reasons.collect());
    }
}
