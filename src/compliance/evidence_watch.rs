//! Watches provenance, approval and allow-list objects.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::{
    cluster::{
        custom_resource_watch::{Follow, Follower},
        pod_view::Meta,
        watch::StreamSink,
    },
    compliance::{
        evidence::{EvidenceKey, EvidenceKind},
        evidence_resource::EvidenceResource,
        evidence_state::{EvidenceState, SharedEvidence},
        evidence_status::EvidenceStatuses,
    },
    time::Moment,
};

/// Follows one kind for ever.
pub async fn follow<K: EvidenceResource, S: SharedEvidence + StreamSink>(
    follow: Follow<'_, S>,
    shared: Arc<S>,
    statuses: Arc<Mutex<EvidenceStatuses>>,
) {
    let mut watch = EvidenceWatch { shared, statuses };
    follow.follow::<K, _>(&mut watch).await;
}

struct EvidenceWatch<S> {
    shared: Arc<S>,
    statuses: Arc<Mutex<EvidenceStatuses>>,
}

/// Takes in the newest state of an object. An error says what can't be read in it, and what counts of it.
pub(crate) fn take_in<K: EvidenceResource>(
    key: &EvidenceKey,
    object: &K,
    state: &mut dyn EvidenceState,
    now: Moment,
) -> Result<(), String> {
    let taken = K::put(key, Some(object), state, now);
    taken.map_err(|why| format!("{why}; {}", K::misread(key, Some(object), state, now)))
}

fn remove<K: EvidenceResource>(key: &EvidenceKey, state: &mut dyn EvidenceState, now: Moment) {
    // Without an object there is nothing that can't be read.
    let _ = K::put(key, None, state, now);
    state.status_gone(K::KIND, key);
}

impl<K: EvidenceResource, S: SharedEvidence> Follower<K> for EvidenceWatch<S> {
    type Key = EvidenceKey;

    // Reviews are numbered in the order in which they were created.
    const OLDEST_FIRST: bool = matches!(K::KIND, EvidenceKind::Reviews);

    fn key(meta: &Meta) -> EvidenceKey {
        EvidenceKey {
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
        }
    }

    fn apply(&mut self, object: K, _: bool) -> Result<(), String> {
        let metadata = object.meta();
        let key = EvidenceKey::of_metadata(metadata);
        self.statuses
            .lock()
            .seen(K::KIND, &key, metadata, object.status());
        self.shared.with_evidence(|state, now| {
            state.mark_status_dirty(K::KIND, key.clone());
            take_in(&key, &object, state, now)
        })
    }

    fn misread(&mut self, meta: &Meta, part: Option<K>) -> &'static str {
        let key = <Self as Follower<K>>::key(meta);
        if let Some(object) = &part {
            let mut statuses = self.statuses.lock();
            statuses.seen(K::KIND, &key, object.meta(), object.status());
        }
        self.shared.with_evidence(|state, now| {
            state.mark_status_dirty(K::KIND, key.clone());
            K::misread(&key, part.as_ref(), state, now)
        })
    }

    fn delete(&mut self, key: &EvidenceKey) {
        self.statuses.lock().gone(K::KIND, key);
        self.shared
            .with_evidence(|state, now| remove::<K>(key, state, now));
    }

    fn listed(&mut self, present: &BTreeSet<EvidenceKey>) {
        self.shared.with_evidence(|state, now| {
            for key in state.evidence().keys(K::KIND) {
                if !present.contains(&key) {
                    self.statuses.lock().gone(K::KIND, &key);
                    remove::<K>(&key, state, now);
                }
            }
        });
    }
}
