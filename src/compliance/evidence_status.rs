#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Answers those who say something of images: what became of it stands in the status of their objects.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Condition,
        allowed::{AllowedArtifactStatus, AllowedState},
        approval::ArtifactApprovalStatus,
        condition::{self, READY, Statement},
        provenance::{ArtifactProvenanceStatus, RunningIn},
    },
    compliance::evidence::{Allowance, ApprovalReview, EvidenceKey, ProvenanceRecord},
    snapshot::{
        environments::Environments,
        shared::{SharedState, lock},
        state::{ClusterState, EvidenceKind},
    },
};

/// So many objects are looked at before others get a turn.
const BATCH: usize = 64;
/// Status writes are at least so far apart: 20 a second.
const APART: Duration = Duration::from_millis(50);
/// A write that takes longer is given up and tried again.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The list of environments in a status.
const ENVIRONMENTS: usize = 256;

/// What is known of the statuses that objects have: enough to tell whether another would say anything new.
#[derive(Debug, Default)]
pub struct EvidenceStatuses(BTreeMap<(EvidenceKind, EvidenceKey), KnownStatus>);

#[derive(Clone, Debug, Default)]
struct KnownStatus {
    generation: Option<i64>,
    uid: String,
    hash: u64,
    /// The Ready condition, whose transition time is kept.
    ready: Option<Condition>,
}

fn hash(status: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

impl EvidenceStatuses {
    /// Notes the status that an object has.
    pub fn seen(
        &mut self,
        kind: EvidenceKind,
        key: &EvidenceKey,
        metadata: &ObjectMeta,
        conditions: Option<&[Condition]>,
        status: &Option<impl Serialize>,
    ) {
        let mut conditions = conditions.into_iter().flatten();
        let known = KnownStatus {
            generation: metadata.generation,
            uid: metadata.uid.clone().unwrap_or_default(),
            hash: hash(status),
            ready: conditions
                .find(|condition| condition.type_ == READY)
                .cloned(),
        };
        self.0.insert((kind, key.clone()), known);
    }

    /// Forgets an object that is gone.
    pub fn gone(&mut self, kind: EvidenceKind, key: &EvidenceKey) {
        self.0.remove(&(kind, key.clone()));
    }
}

/// What answering needs.
#[derive(Clone)]
pub struct EvidenceStatusWriter {
    /// For writing.
    pub client: Client,
    /// The world.
    pub hub: Arc<SharedState>,
    /// The environments there are.
    pub environments: Arc<Environments>,
    /// The statuses that objects have.
    pub statuses: Arc<Mutex<EvidenceStatuses>>,
}

impl EvidenceStatusWriter {
    /// Answers for ever.
    pub async fn run(self) {
        loop {
            let taken = self
                .hub
                .with(|world, now| world.take_unanswered(BATCH, now));
            if taken.is_empty() {
                let until = Instant::now() + self.until_an_end();
                let _ = timeout_at(until, self.hub.unanswered().notified()).await;
                self.hub
                    .with(|world, _| world.look_at_ends(Timestamp::now()));
                continue;
            }
            for (kind, key) in taken {
                let written = match kind {
                    EvidenceKind::Records => self.answer_record(&key).await,
                    EvidenceKind::Reviews => self.answer_review(&key).await,
                    EvidenceKind::Allowances => self.answer_allowance(&key).await,
                };
                match written {
                    Ok(false) => {}
                    Ok(true) => sleep(APART).await,
                    Err(error) => {
                        let of = kind.as_str();
                        warn!(kind = of, object = %key, error, "can't write a status; trying again");
                        sleep(Duration::from_secs(1)).await;
                        self.hub.with(|world, _| world.unanswered(kind, key));
                    }
                }
            }
        }
    }

    /// How long until an entry of the allow-list ends.
    fn until_an_end(&self) -> Duration {
        let now = Timestamp::now();
        let next = self.hub.with(|world, _| world.next_end(now));
        let wait = next.map_or(Duration::MAX, |end| end.duration_since(now).unsigned_abs());
        wait.min(Duration::from_secs(30)) + Duration::from_millis(10)
    }

    async fn answer_record(&self, key: &EvidenceKey) -> Result<bool, String> {
        let status = self.hub.with(|world, _| {
            let record = world.evidence().records().get(key)?.clone();
            Some(record_status(world, &record))
        });
        let Some((mut status, ready)) = status else {
            return Ok(false);
        };
        let api: Api<ArtifactProvenance> = Api::namespaced(self.client.clone(), &key.namespace);
        let (conditions, generation) = (&mut status.conditions, &mut status.observed_generation);
        let Some(known) = self.begin(EvidenceKind::Records, key, &ready, conditions, generation)
        else {
            return Ok(false);
        };
        self.write(
            &api,
            EvidenceKind::Records,
            key,
            known,
            "ArtifactProvenance",
            status,
        )
        .await
    }

    async fn answer_review(&self, key: &EvidenceKey) -> Result<bool, String> {
        let status = self.hub.with(|world, _| {
            let review = world.evidence().reviews().get(key)?.clone();
            Some(review_status(world, &review))
        });
        let Some((mut status, ready)) = status else {
            return Ok(false);
        };
        let api: Api<ArtifactApproval> = Api::namespaced(self.client.clone(), &key.namespace);
        let (conditions, generation) = (&mut status.conditions, &mut status.observed_generation);
        let Some(known) = self.begin(EvidenceKind::Reviews, key, &ready, conditions, generation)
        else {
            return Ok(false);
        };
        self.write(
            &api,
            EvidenceKind::Reviews,
            key,
            known,
            "ArtifactApproval",
            status,
        )
        .await
    }

    async fn answer_allowance(&self, key: &EvidenceKey) -> Result<bool, String> {
        let there = self.environments.all();
        let status = self.hub.with(|world, _| {
            let entry = world.evidence().allowances().get(&key.name)?.clone();
            let exists = |name: &str| there.contains_key(name);
            Some(allowance_status(world, &entry, exists, Timestamp::now()))
        });
        let Some((mut status, ready)) = status else {
            return Ok(false);
        };
        let api: Api<AllowedArtifact> = Api::all(self.client.clone());
        let (conditions, generation) = (&mut status.conditions, &mut status.observed_generation);
        let Some(known) = self.begin(
            EvidenceKind::Allowances,
            key,
            &ready,
            conditions,
            generation,
        ) else {
            return Ok(false);
        };
        self.write(
            &api,
            EvidenceKind::Allowances,
            key,
            known,
            "AllowedArtifact",
            status,
        )
        .await
    }

    /// Fills in what every status has. `None`: the object is gone.
    fn begin(
        &self,
        kind: EvidenceKind,
        key: &EvidenceKey,
        ready: &Statement,
        conditions: &mut Vec<Condition>,
        generation: &mut Option<i64>,
    ) -> Option<KnownStatus> {
        let known = lock(&self.statuses).0.get(&(kind, key.clone())).cloned()?;
        *generation = known.generation;
        conditions.extend(known.ready.clone());
        condition::set(conditions, ready, known.generation, Timestamp::now());
        Some(known)
    }

    /// Writes a status that says something new. True if there was something to write.
    async fn write<K, S>(
        &self,
        api: &Api<K>,
        kind: EvidenceKind,
        key: &EvidenceKey,
        known: KnownStatus,
        name: &str,
        status: S,
    ) -> Result<bool, String>
    where
        K: Clone + DeserializeOwned + Debug,
        S: Serialize,
    {
        let status = Some(status);
        if hash(&status) == known.hash {
            return Ok(false);
        }
        let patch = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": name,
            "metadata": {"name": &*key.name, "uid": known.uid}, "status": status,
        });
        let params = PatchParams::apply("shipbell").force();
        match timeout(
            TIMEOUT,
            api.patch_status(&key.name, &params, &Patch::Apply(patch)),
        )
        .await
        {
            Ok(Ok(_)) => {
                if let Some(known) = lock(&self.statuses).0.get_mut(&(kind, key.clone())) {
                    known.hash = hash(&status);
                }
                Ok(true)
            }
            // Gone, or another of this name: the watch tells.
            Ok(Err(kube::Error::Api(gone))) if gone.code == 404 || gone.code == 409 => Ok(true),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer from the API server".to_owned()),
        }
    }
}

fn not_trusted(namespace: &str) -> Statement {
    Statement {
        type_: READY,
        status: Some(false),
        reason: "NamespaceNotTrusted",
        message: format!(
            "no Environment trusts namespace {namespace}, so this changes nothing; add it to spec.compliance.provenance.trustedNamespaces of an Environment"
        ),
    }
}

fn record_status(
    world: &ClusterState,
    record: &ProvenanceRecord,
) -> (ArtifactProvenanceStatus, Statement) {
    let namespace = &*record.key.namespace;
    let digests: Vec<_> = record.digests().collect();
    let running = world.running_in(namespace, &digests);
    let running_in = running
        .into_iter()
        .take(ENVIRONMENTS)
        .map(|(name, runs, state)| RunningIn {
            environment: name.to_owned(),
            fingerprint: runs.to_string(),
            compliance: state.as_str().to_owned(),
        });
    let conflict = world
        .evidence()
        .conflict(record, |namespace| world.trusts(namespace));
    let conflict = conflict.map(ToString::to_string);
    let ready = match &conflict {
        _ if !world.trusts(namespace) => not_trusted(namespace),
        Some(older) => Statement {
            type_: READY,
            status: Some(false),
            reason: "Conflict",
            message: format!(
                "{older} is an older record of flow {} for the same image, and counts instead of this one",
                record.flow
            ),
        },
        None => Statement {
            type_: READY,
            status: Some(true),
            reason: "Recorded",
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
    world: &ClusterState,
    review: &ApprovalReview,
) -> (ArtifactApprovalStatus, Statement) {
    let namespace = &*review.key.namespace;
    let ready = if world.trusts(namespace) {
        Statement {
            type_: READY,
            status: Some(true),
            reason: "Numbered",
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
    world: &ClusterState,
    entry: &Allowance,
    exists: impl Fn(&str) -> bool,
    now: Timestamp,
) -> (AllowedArtifactStatus, Statement) {
    let missing: Vec<&str> = entry
        .environments
        .iter()
        .map(|name| &**name)
        .filter(|name| !exists(name))
        .collect();
    let state = if !entry.is_active(now) {
        AllowedState::Expired
    } else if missing.len() == entry.environments.len() {
        AllowedState::EnvironmentNotFound
    } else {
        AllowedState::Active
    };
    let (status, reason, message) = match state {
        // What was said is over, not wrong: nobody waits for it to heal.
        AllowedState::Expired => (
            true,
            "Expired",
            "expiresAt is over: the rules hold for these images.".to_owned(),
        ),
        _ if !missing.is_empty() => (
            false,
            "EnvironmentNotFound",
            format!(
                "there is no Environment {}; kubectl get environments lists them",
                missing.join(", ")
            ),
        ),
        _ => (true, "Active", "These images are allowed.".to_owned()),
    };
    let ready = Statement {
        type_: READY,
        status: Some(status),
        reason,
        message,
    };
    let announced = entry
        .environments
        .iter()
        .filter(|name| world.announced(name, &entry.uid));
    let status = AllowedArtifactStatus {
        state: Some(state),
        announced: announced.map(ToString::to_string).collect(),
        ..AllowedArtifactStatus::default()
    };
    (status, ready)
}
