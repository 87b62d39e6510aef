#![expect(clippy::disallowed_types, reason = "talks to the API server")]

//! Gathers what is said of images: ArtifactProvenances, ArtifactApprovals and AllowedArtifacts, as they come and go.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use futures::{TryStreamExt as _, pin_mut};
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::{
    api::{AllowedArtifact, ArtifactApproval, ArtifactProvenance},
    compliance::{
        evidence::{Allowance, EvidenceKey, ProvenanceRecord},
        evidence_status::EvidenceStatuses,
    },
    snapshot::{
        shared::SharedState,
        state::{ClusterState, EvidenceKind},
    },
    time::Moment,
};

/// A kind that says something of images.
pub trait EvidenceResource:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static
{
    /// Which of them.
    const KIND: EvidenceKind;
    /// Takes in the newest state of an object. An error says what can't be read in it.
    fn take_in(
        &self,
        key: &EvidenceKey,
        world: &mut ClusterState,
        now: Moment,
    ) -> Result<(), String>;
    /// Takes out an object that is gone.
    fn take_out(key: &EvidenceKey, world: &mut ClusterState, now: Moment);
    /// The objects that are known.
    fn known(world: &ClusterState) -> Vec<EvidenceKey>;
    /// Notes the status that the object has.
    fn note(&self, key: &EvidenceKey, statuses: &mut EvidenceStatuses);
}

impl EvidenceResource for ArtifactProvenance {
    const KIND: EvidenceKind = EvidenceKind::Records;

    fn take_in(
        &self,
        key: &EvidenceKey,
        world: &mut ClusterState,
        now: Moment,
    ) -> Result<(), String> {
        world.record_seen(key, Some(ProvenanceRecord::of(self)?), now);
        Ok(())
    }

    fn take_out(key: &EvidenceKey, world: &mut ClusterState, now: Moment) {
        world.record_seen(key, None, now);
    }

    fn known(world: &ClusterState) -> Vec<EvidenceKey> {
        world.evidence().records().keys().cloned().collect()
    }

    fn note(&self, key: &EvidenceKey, statuses: &mut EvidenceStatuses) {
        let conditions = self.status.as_ref().map(|status| &status.conditions[..]);
        statuses.seen(Self::KIND, key, &self.metadata, conditions, &self.status);
    }
}

impl EvidenceResource for ArtifactApproval {
    const KIND: EvidenceKind = EvidenceKind::Reviews;

    fn take_in(
        &self,
        key: &EvidenceKey,
        world: &mut ClusterState,
        _: Moment,
    ) -> Result<(), String> {
        world.review_seen(key, Some(self))
    }

    fn take_out(key: &EvidenceKey, world: &mut ClusterState, _: Moment) {
        // Without an object there is nothing that can't be read.
        let _ = world.review_seen(key, None);
    }

    fn known(world: &ClusterState) -> Vec<EvidenceKey> {
        world.evidence().reviews().keys().cloned().collect()
    }

    fn note(&self, key: &EvidenceKey, statuses: &mut EvidenceStatuses) {
        let conditions = self.status.as_ref().map(|status| &status.conditions[..]);
        statuses.seen(Self::KIND, key, &self.metadata, conditions, &self.status);
    }
}

impl EvidenceResource for AllowedArtifact {
    const KIND: EvidenceKind = EvidenceKind::Allowances;

    fn take_in(
        &self,
        key: &EvidenceKey,
        world: &mut ClusterState,
        _: Moment,
    ) -> Result<(), String> {
        world.allowance_seen(&key.name, Some(Allowance::of(self)?));
        Ok(())
    }

    fn take_out(key: &EvidenceKey, world: &mut ClusterState, _: Moment) {
        world.allowance_seen(&key.name, None);
    }

    fn known(world: &ClusterState) -> Vec<EvidenceKey> {
        let names = world.evidence().allowances().keys();
        names.map(|name| EvidenceKey::of_cluster(name)).collect()
    }

    fn note(&self, key: &EvidenceKey, statuses: &mut EvidenceStatuses) {
        let conditions = self.status.as_ref().map(|status| &status.conditions[..]);
        statuses.seen(Self::KIND, key, &self.metadata, conditions, &self.status);
    }
}

/// Follows one kind for ever.
pub async fn follow<K: EvidenceResource>(
    client: Client,
    hub: Arc<SharedState>,
    statuses: Arc<std::sync::Mutex<EvidenceStatuses>>,
) {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let take_in = |guarded: DeserializeGuard<K>| {
        let key = EvidenceKey::of(&guarded);
        let taken = match guarded.0 {
            Ok(object) => {
                object.note(&key, &mut crate::snapshot::shared::lock(&statuses));
                hub.with(|world, now| {
                    world.unanswered(K::KIND, key.clone());
                    object.take_in(&key, world, now)
                })
            }
            Err(invalid) => Err(invalid.error),
        };
        if let Err(error) = taken {
            let kind = K::KIND.as_str();
            warn!(kind, object = %key, error, "this can't be read; its last good state is kept");
        }
        key
    };
    let mut listed: BTreeSet<EvidenceKey> = BTreeSet::new();
    let mut waiting: Vec<DeserializeGuard<K>> = vec![];
    loop {
        match events.try_next().await {
            Ok(None) => return,
            Err(error) => {
                let kind = K::KIND.as_str();
                warn!(kind, %error, "can't follow these; trying again");
                let why = format!("the {kind} can't be read: {error}");
                hub.with(|world, _| world.evidence_fails(K::KIND, why));
            }
            Ok(Some(Event::Init)) => {
                listed.clear();
                waiting.clear();
            }
            // Reviews are numbered in the order in which they came, and lists are in another.
            Ok(Some(Event::InitApply(guarded))) if K::KIND == EvidenceKind::Reviews => {
                waiting.push(guarded);
            }
            Ok(Some(Event::InitApply(guarded))) => {
                listed.insert(take_in(guarded));
            }
            Ok(Some(Event::InitDone)) => {
                waiting.sort_by_key(|guarded| {
                    let metadata = guarded.meta();
                    let version = metadata.resource_version.as_deref().unwrap_or_default();
                    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
                    (created, crate::cluster::pod_view::version(version))
                });
                listed.extend(waiting.drain(..).map(take_in));
                hub.with(|world, now| {
                    for key in K::known(world) {
                        if !listed.contains(&key) {
                            K::take_out(&key, world, now);
                        }
                    }
                    world.evidence_listed(K::KIND);
                });
                listed.clear();
            }
            Ok(Some(Event::Apply(guarded))) => {
                take_in(guarded);
            }
            Ok(Some(Event::Delete(guarded))) => {
                let key = EvidenceKey::of(&guarded);
                crate::snapshot::shared::lock(&statuses).gone(K::KIND, &key);
                hub.with(|world, now| K::take_out(&key, world, now));
            }
        }
    }
}
