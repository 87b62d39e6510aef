//! The three kinds of evidence: how each is taken in, and what its status says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::core::object::HasStatus;
use serde::Serialize;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Condition,
        allowed_artifact::{AllowedArtifactStatus, AllowedState},
        approval::{ArtifactApprovalStatus, ReviewState},
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

/// What counts of evidence that can't be read as a whole.
const PART: &str = "it speaks for no image; what could be read of it against one counts";
/// The same, if not even the image can be read.
const BEFORE: &str = "it speaks for no image; what it said against one before counts";
/// The same of an entry of the allow-list.
const NOTHING: &str = "it allows no image";

reasons! {
    /// What the condition `Ready` of a piece of evidence says.
    enum EvidenceReason {
        Recorded, Conflict, Numbered, NamespaceNotTrusted, Active, Expired, EnvironmentNotFound, Unreadable,
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

    /// Takes in that the newest state of an object can't be read as a whole. It speaks for no image any more, as it would not
    /// after a restart. What speaks against one counts: as far as `part` of the object can be read, or as it was said before
    /// if not even the image can be. Returns what counts, in words.
    fn misread(
        key: &EvidenceKey,
        part: Option<&Self>,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> &'static str;

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

    fn misread(
        key: &EvidenceKey,
        part: Option<&Self>,
        state: &mut dyn EvidenceState,
        now: Moment,
    ) -> &'static str {
        let part = part.and_then(ProvenanceRecord::part_of);
        let counts = if part.is_some() { PART } else { BEFORE };
        let before = state.evidence().records().get(key);
        let record = part.or_else(|| Some(before?.against()));
        state.record_seen(key, record, now);
        counts
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
            _ if !record.whole => unreadable(
                "not all of the record can be read, see its Kubernetes Events: it speaks for no image, only against one",
            ),
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

    fn misread(
        key: &EvidenceKey,
        part: Option<&Self>,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> &'static str {
        let against = part.filter(|review| review.spec.state != ReviewState::Approved);
        if against.is_some_and(|review| state.review_seen(key, Some(review)).is_ok()) {
            return PART;
        }
        let before = state.evidence().reviews().get(key);
        if before.is_some_and(|review| review.state == ReviewState::Approved) {
            // Without an object there is nothing that can't be read.
            let _ = state.review_seen(key, None);
        }
        BEFORE
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

    fn misread(
        key: &EvidenceKey,
        part: Option<&Self>,
        state: &mut dyn EvidenceState,
        _: Moment,
    ) -> &'static str {
        let before = state.evidence().allowances().get(key);
        let nothing = part.map(Allowance::nothing_of);
        let nothing = nothing.or_else(|| Some(before?.nothing()));
        state.allowance_seen(&key.name, nothing);
        NOTHING
    }

    fn new_status(
        key: &EvidenceKey,
        state: &dyn EvidenceState,
        now: Timestamp,
    ) -> Option<(Self::Status, Statement)> {
        let entry = state.evidence().allowances().get(key)?;
        if !entry.whole {
            let ready = unreadable(
                "not all of the entry can be read, see its Kubernetes Events: it allows no image",
            );
            return Some((AllowedArtifactStatus::default(), ready));
        }
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

fn unreadable(message: &str) -> Statement {
    ready(false, EvidenceReason::Unreadable, message)
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
