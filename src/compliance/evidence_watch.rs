#![expect(clippy::disallowed_types, reason = "talks to the API server")]

//! Watches provenance, approval and allow-list objects.

use std::{collections::BTreeSet, sync::Arc};

use futures::{TryStreamExt as _, pin_mut};
use kube::{
    Api, Client, Resource as _,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use tracing::warn;

use crate::{
    cluster::pod_view::version,
    compliance::{
        evidence::{EvidenceKey, EvidenceKind},
        evidence_resource::EvidenceResource,
        evidence_state::SharedEvidence,
        evidence_status::EvidenceStatuses,
    },
};

/// Follows one kind for ever.
pub async fn follow<K: EvidenceResource, S: SharedEvidence>(
    client: Client,
    shared: Arc<S>,
    statuses: Arc<Mutex<EvidenceStatuses>>,
) {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let apply = |guarded: DeserializeGuard<K>| {
        let key = EvidenceKey::of(&guarded);
        let taken = match guarded.0 {
            Ok(object) => {
                statuses
                    .lock()
                    .seen(K::KIND, &key, object.meta(), object.status());
                shared.with_evidence(|state, now| {
                    state.mark_status_dirty(K::KIND, key.clone());
                    object.apply(&key, state, now)
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
                shared.with_evidence(|state, _| state.evidence_fails(K::KIND, why));
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
                listed.insert(apply(guarded));
            }
            Ok(Some(Event::InitDone)) => {
                waiting.sort_by_key(|guarded| {
                    let metadata = guarded.meta();
                    let text = metadata.resource_version.as_deref().unwrap_or_default();
                    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
                    (created, version(text))
                });
                listed.extend(waiting.drain(..).map(apply));
                shared.with_evidence(|state, now| {
                    for key in K::keys(state) {
                        if !listed.contains(&key) {
                            K::remove(&key, state, now);
                        }
                    }
                    state.evidence_listed(K::KIND);
                });
                listed.clear();
            }
            Ok(Some(Event::Apply(guarded))) => {
                apply(guarded);
            }
            Ok(Some(Event::Delete(guarded))) => {
                let key = EvidenceKey::of(&guarded);
                statuses.lock().gone(K::KIND, &key);
                shared.with_evidence(|state, now| K::remove(&key, state, now));
            }
        }
    }
}
