#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Writes status back to provenance, approval and allow-list objects.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::{Client, api::ObjectMeta};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Condition,
        condition::{self, READY},
    },
    cluster::custom_resource_status::{StatusWriteResult, apply_status},
    compliance::{
        evidence::{EvidenceKey, EvidenceKind},
        evidence_resource::{EvidenceResource, EvidenceStatus},
        evidence_state::SharedEvidence,
    },
};

/// How many objects are taken at once.
const BATCH: usize = 64;
/// How long to wait after each write: at most 20 a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait after the API server failed to answer a write.
const RETRY: Duration = Duration::from_secs(1);
/// How long an object waits whose status the API server does not take: it keeps no other waiting.
const SET_ASIDE: Duration = Duration::from_secs(30);

/// What is known of the statuses that objects have: enough to tell whether another would say anything new.
#[derive(Debug, Default)]
pub struct EvidenceStatuses(BTreeMap<(EvidenceKind, EvidenceKey), KnownStatus>);

#[derive(Clone, Debug, Default)]
struct KnownStatus {
    generation: Option<i64>,
    uid: String,
    hash: u64,
    /// The status that the API server refused for what it holds: while there is no other, a shorter one is written.
    refused: Option<u64>,
    /// The Ready condition, whose transition time is kept.
    ready: Option<Condition>,
}

fn hash(status: Option<&impl Serialize>) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

impl EvidenceStatuses {
    /// Notes the status that an object has.
    pub fn seen<S: EvidenceStatus>(
        &mut self,
        kind: EvidenceKind,
        key: &EvidenceKey,
        metadata: &ObjectMeta,
        status: Option<&S>,
    ) {
        let mut conditions = status.into_iter().flat_map(EvidenceStatus::conditions);
        let before = self.0.get(&(kind, key.clone()));
        let known = KnownStatus {
            refused: before.and_then(|before| before.refused),
            generation: metadata.generation,
            uid: metadata.uid.clone().unwrap_or_default(),
            hash: hash(status),
            ready: conditions
                .find(|condition| condition.type_ == READY)
                .cloned(),
        };
        self.0.insert((kind, key.clone()), known);
    }

    /// Forgets an object that was deleted.
    pub fn gone(&mut self, kind: EvidenceKind, key: &EvidenceKey) {
        self.0.remove(&(kind, key.clone()));
    }
}

/// Writes the status of evidence whenever it changes.
pub struct EvidenceStatusWriter<S> {
    pub client: Client,
    /// The evidence, and where its images run.
    pub shared: Arc<S>,
    /// The statuses that objects have.
    pub statuses: Arc<Mutex<EvidenceStatuses>>,
}

/// Whether a status had to be written.
enum Write {
    Unchanged,
    Sent,
    /// The API server did not take it: it is tried again after this time.
    SetAside(Duration),
}

impl<S: SharedEvidence> EvidenceStatusWriter<S> {
    /// Writes for ever.
    pub async fn run(self) {
        // Those that are not to be written before a time.
        let mut aside: BTreeMap<(EvidenceKind, EvidenceKey), Instant> = BTreeMap::new();
        loop {
            let now = Instant::now();
            for ((kind, key), _) in aside.extract_if(.., |_, at| *at <= now) {
                self.mark(kind, key);
            }
            let taken = self
                .shared
                .with_evidence(|state, now| state.take_dirty_status(BATCH, now));
            if taken.is_empty() {
                let until = Instant::now() + self.until_expiry();
                let until = aside.values().copied().fold(until, Instant::min);
                let _ = timeout_at(until, self.shared.status_changed()).await;
                self.shared
                    .with_evidence(|state, _| state.expire_allowances(Timestamp::now()));
                continue;
            }
            for (kind, key) in taken {
                if aside.contains_key(&(kind, key.clone())) {
                    continue; // it is written then
                }
                let written = match kind {
                    EvidenceKind::Records => self.update::<ArtifactProvenance>(&key).await,
                    EvidenceKind::Reviews => self.update::<ArtifactApproval>(&key).await,
                    EvidenceKind::Allowances => self.update::<AllowedArtifact>(&key).await,
                };
                match written {
                    Ok(Write::Unchanged) => {}
                    Ok(Write::Sent) => sleep(INTERVAL).await,
                    Ok(Write::SetAside(time)) => {
                        aside.insert((kind, key), Instant::now() + time);
                        sleep(INTERVAL).await;
                    }
                    Err(error) => {
                        warn!(kind = kind.as_str(), object = %key, error, "can't write a status; trying again");
                        sleep(RETRY).await;
                        self.mark(kind, key);
                    }
                }
            }
        }
    }

    fn mark(&self, kind: EvidenceKind, key: EvidenceKey) {
        self.shared
            .with_evidence(|state, _| state.mark_status_dirty(kind, key));
    }

    /// How long until an entry of the allow-list expires.
    fn until_expiry(&self) -> Duration {
        let now = Timestamp::now();
        let next = self.shared.with_evidence(|state, _| state.next_expiry(now));
        let wait = next.map_or(Duration::MAX, |end| end.duration_since(now).unsigned_abs());
        wait.min(Duration::from_secs(30)) + Duration::from_millis(10)
    }

    /// Writes the status of an object if it says something new.
    async fn update<K: EvidenceResource>(&self, key: &EvidenceKey) -> Result<Write, String> {
        let now = Timestamp::now();
        let new = self
            .shared
            .with_evidence(|state, _| K::new_status(key, state, now));
        let slot = (K::KIND, key.clone());
        let known = self.statuses.lock().0.get(&slot).cloned();
        let (Some((mut status, ready)), Some(known)) = (new, known) else {
            return Ok(Write::Unchanged); // the object is gone
        };
        // Without times, which change with each attempt.
        let news = hash(Some(&(&status, ready.status, ready.reason, &ready.message)));
        let (conditions, generation) = status.common();
        *generation = known.generation;
        conditions.extend(known.ready);
        condition::set(conditions, &ready, known.generation, now);
        let mut new_hash = hash(Some(&status));
        let refused = known.refused == Some(news);
        if refused {
            status.cut_short();
            new_hash = hash(Some(&status));
        }
        if new_hash == known.hash {
            return Ok(Write::Unchanged);
        }
        let (namespace, name) = (&*key.namespace, &*key.name);
        let written = apply_status::<K>(&self.client, namespace, name, &known.uid, &status).await?;
        let mut statuses = self.statuses.lock();
        let mut forgotten = KnownStatus::default();
        let known = statuses.0.get_mut(&slot).unwrap_or(&mut forgotten);
        Ok(match written {
            StatusWriteResult::Written { .. } => {
                known.hash = new_hash;
                Write::Sent
            }
            StatusWriteResult::Gone => Write::Sent,
            StatusWriteResult::Refused(why) if !refused => {
                known.refused = Some(news);
                warn!(kind = K::KIND.as_str(), object = %key, why, "the API server refuses a status; writing a shorter one");
                Write::SetAside(RETRY)
            }
            StatusWriteResult::Refused(why) | StatusWriteResult::Denied(why) => {
                warn!(kind = K::KIND.as_str(), object = %key, why, "the API server does not take a status; trying again later");
                Write::SetAside(SET_ASIDE)
            }
        })
    }
}
