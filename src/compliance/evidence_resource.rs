//! The three kinds of evidence: how each is taken in, and what its status says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::core::object::HasStatus;
use serde::Serialize;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Condition,
        allowed_artifact::{AllowedArtifactStatus, AllowedState},
        approval::ArtifactApprovalStatus,
        condition::{MESSAGE, READY, Statement, reasons, shorten, shorten_messages},
        cut_to_schema::cut_to_schema,
        provenance::{ArtifactProvenanceStatus, RunningIn},
    },
    cluster::custom_resource_watch::CustomResource,
    compliance::{
        evidence::{Allowance, EvidenceKey, EvidenceKind, ProvenanceRecord},
        evidence_state::EvidenceState,
    },
    time::Moment,
};

/// At most so many environments are listed in a status.
const ENVIRONMENTS: usize = 256;
/// At most so many elements of another list.
const LISTED: usize = 64;
/// At most so many characters of the name of an attestation.
const ATTESTATION: usize = 128;

reasons! {
    /// What the condition `Ready` of a piece of evidence says.
    enum EvidenceReason {
        Recorded, Conflict, Numbered, NamespaceNotTrusted, Active, Expired, EnvironmentNotFound,
    }
}

/// A kind of object that carries evidence.
pub trait EvidenceResource: CustomResource + HasStatus<Status: EvidenceStatus> {
    /// Which of them.
    const KIND: EvidenceKind;

    /// Takes in the newest state of an object; `None`: it was deleted. An error says what can't be read in it.
    fn put(
        key: &EvidenceKey,
        object: Option<&Self>,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> Result<(), String>;

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
    /// What is written when the API server refuses all of it: no lists, and short texts.
    fn cut_short(&mut self);
}

macro_rules! evidence_status {
    ($status:ty $(, $list:ident)*) => {
        impl EvidenceStatus for $status {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }

            fn common(&mut self) -> (&mut Vec<Condition>, &mut Option<i64>) {
                (&mut self.conditions, &mut self.observed_generation)
            }

            fn cut_short(&mut self) {
                shorten_messages(&mut self.conditions);
                $(self.$list.clear();)*
            }
        }
    };
}

evidence_status!(ArtifactProvenanceStatus, missing, running_in);
evidence_status!(ArtifactApprovalStatus);
evidence_status!(AllowedArtifactStatus, announced);

impl EvidenceResource for ArtifactProvenance {
    const KIND: EvidenceKind = EvidenceKind::Records;

    fn put(
        key: &EvidenceKey,
        object: Option<&Self>,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> Result<(), String> {
        let record = object.map(ProvenanceRecord::of).transpose()?;
        state.record_seen(key, record, now);
        Ok(())
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        _: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let record = state.evidence().records().get(key)?;
        let namespace = &*record.key.namespace;
        let digests: Vec<_> = record.digests().collect();
        let running = state.running_in(namespace, &digests);
        let mut named = BTreeSet::new();
        let running_in = running
            .into_iter()
            .filter(|(name, ..)| named.insert(*name))
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
        let flow = &record.flow;
        let ready = match &conflict {
            _ if !state.trusts(namespace) => not_trusted(namespace),
            Some(older) => ready(
                false,
                EvidenceReason::Conflict,
                &format!(
                    "{older} is an older record of flow {flow} for the same image, and counts instead of this one"
                ),
            ),
            None => ready(
                true,
                EvidenceReason::Recorded,
                &format!("The record counts in environments that trust namespace {namespace}."),
            ),
        };
        let missing = record.missing.iter().take(LISTED);
        let missing = missing.map(|name| cut_to_schema(name, ATTESTATION).into_owned());
        let status = ArtifactProvenanceStatus {
            state: Some(record.state),
            missing: missing.collect(),
            conflict,
            running_in: running_in.collect(),
            ..ArtifactProvenanceStatus::default()
        };
        Some((status, ready))
    }
}

impl EvidenceResource for ArtifactApproval {
    const KIND: EvidenceKind = EvidenceKind::Reviews;

    fn put(
        key: &EvidenceKey,
        object: Option<&Self>,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> Result<(), String> {
        state.review_seen(key, object)
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        _: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let review = state.evidence().reviews().get(key)?;
        let namespace = &*review.key.namespace;
        let ready = if state.trusts(namespace) {
            let message =
                format!("The review counts in environments that trust namespace {namespace}.");
            ready(true, EvidenceReason::Numbered, &message)
        } else {
            not_trusted(namespace)
        };
        let status = ArtifactApprovalStatus {
            number: Some(review.number),
            ..ArtifactApprovalStatus::default()
        };
        Some((status, ready))
    }
}

impl EvidenceResource for AllowedArtifact {
    const KIND: EvidenceKind = EvidenceKind::Allowances;

    fn put(
        key: &EvidenceKey,
        object: Option<&Self>,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> Result<(), String> {
        let allowance = object.map(Allowance::of).transpose()?;
        state.allowance_seen(&key.name, allowance);
        Ok(())
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        now: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let entry = state.evidence().allowances().get(key)?;
        let environments = entry.environments.iter().map(|name| &**name);
        let missing = environments.filter(|name| !state.environment_exists(name));
        let missing: Vec<&str> = missing.collect();
        let outcome = if !entry.is_active(now) {
            AllowedState::Expired
        } else if missing.len() == entry.environments.len() {
            AllowedState::EnvironmentNotFound
        } else {
            AllowedState::Active
        };
        let ready = match outcome {
            // What was said is over, not wrong: nobody waits for it to heal.
            AllowedState::Expired => ready(
                true,
                EvidenceReason::Expired,
                "The entry has expired: the rules apply to these images again.",
            ),
            _ if !missing.is_empty() => ready(
                false,
                EvidenceReason::EnvironmentNotFound,
                &format!(
                    "there is no Environment {}; kubectl get environments lists them",
                    missing.join(", ")
                ),
            ),
            _ => ready(true, EvidenceReason::Active, "These images are allowed."),
        };
        let announced: BTreeSet<&str> = entry
            .environments
            .iter()
            .filter(|name| state.announced(name, &entry.uid))
            .map(|name| &**name)
            .collect();
        let status = AllowedArtifactStatus {
            state: Some(outcome),
            announced: announced
                .into_iter()
                .take(LISTED)
                .map(str::to_owned)
                .collect(),
            ..AllowedArtifactStatus::default()
        };
        Some((status, ready))
    }
}

fn ready(status: bool, reason: EvidenceReason, message: &str) -> Statement {
    Statement {
        type_: READY,
        status: Some(status),
        reason: reason.as_str(),
        message: shorten(message, MESSAGE),
    }
}

fn not_trusted(namespace: &str) -> Statement {
    let message = format!(
        "no Environment trusts namespace {namespace}, so this changes nothing; add it to spec.compliance.provenance.trustedNamespaces of an Environment"
    );
    ready(false, EvidenceReason::NamespaceNotTrusted, &message)
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
