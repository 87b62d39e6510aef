#![expect(clippy::disallowed_types, reason = "talks to the API server")]

//! Follows one of our own kinds: kube's watcher, folded into a few calls.

use std::{collections::BTreeSet, fmt::Debug};

use futures::{TryStreamExt as _, pin_mut};
use kube::{
    Api, Client, Resource,
    api::ObjectMeta,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::cluster::pod_view::version;

/// Is called for each change of a kind. An object that can't be read changes nothing: its last good state is kept.
pub trait Follower<K>: Send {
    /// Tells objects apart.
    type Key: Ord + Send;

    /// Lists are taken in from the oldest object to the newest, rather than in the order of their names.
    const OLDEST_FIRST: bool = false;

    /// The key of an object.
    fn key(metadata: &ObjectMeta) -> Option<Self::Key>;

    /// An object was created or changed, or is part of a list.
    fn apply(&mut self, object: K, listing: bool);

    /// An object was deleted.
    fn delete(&mut self, key: &Self::Key);

    /// A list is complete: objects other than these are gone.
    fn listed(&mut self, present: &BTreeSet<Self::Key>);

    /// The kind can't be read at present; it is tried again.
    fn failed(&mut self, _error: &watcher::Error) {}
}

/// So many objects are read at once: what a page takes is a multiple of what is kept of it.
const PAGE: u32 = 100;

/// The fields that each client manages can take more memory than all else of an object, and nobody here reads them.
fn forget_managers<K: Resource>(guarded: &mut DeserializeGuard<K>) {
    if let Ok(object) = &mut guarded.0 {
        object.meta_mut().managed_fields = None;
    }
}

/// Follows a kind for ever.
pub async fn follow<K, F>(client: Client, follower: &mut F)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Follower<K>,
{
    let kind = K::plural(&());
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let config = watcher::Config::default().page_size(PAGE);
    let events = watcher(api, config)
        .default_backoff()
        .modify(forget_managers);
    pin_mut!(events);
    let mut present = BTreeSet::new();
    let mut waiting: Vec<DeserializeGuard<K>> = vec![];
    loop {
        match events.try_next().await {
            Ok(None) => return,
            Err(error) => {
                warn!(%kind, %error, "can't follow these objects; trying again");
                follower.failed(&error);
            }
            Ok(Some(Event::Init)) => {
                present.clear();
                waiting.clear();
            }
            Ok(Some(Event::InitApply(guarded))) => {
                present.extend(F::key(guarded.meta()));
                if F::OLDEST_FIRST {
                    waiting.push(guarded);
                } else {
                    apply(guarded, follower, true);
                }
            }
            Ok(Some(Event::InitDone)) => {
                waiting.sort_by_key(|guarded| {
                    let metadata = guarded.meta();
                    let text = metadata.resource_version.as_deref().unwrap_or_default();
                    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
                    (created, version(text))
                });
                for guarded in waiting.drain(..) {
                    apply(guarded, follower, true);
                }
                follower.listed(&present);
                present.clear();
            }
            Ok(Some(Event::Apply(guarded))) => apply(guarded, follower, false),
            Ok(Some(Event::Delete(guarded))) => {
                if let Some(key) = F::key(guarded.meta()) {
                    follower.delete(&key);
                }
            }
        }
    }
}

fn apply<K, F>(guarded: DeserializeGuard<K>, follower: &mut F, listing: bool)
where
    K: Resource<DynamicType = ()>,
    F: Follower<K>,
{
    match guarded.0 {
        Ok(object) => follower.apply(object, listing),
        Err(invalid) => warn!(
            kind = %K::plural(&()),
            namespace = invalid.metadata.namespace,
            name = invalid.metadata.name,
            error = invalid.error,
            "this object can't be read; its last good state is kept"
        ),
    }
}
