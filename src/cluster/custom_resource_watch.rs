#![expect(clippy::disallowed_types, reason = "talks to the API server")]

//! Follows our own kinds: with the loop that follows all others, so with its staleness, its readiness and its bounds. What
//! nobody here reads of their metadata is never kept.

use std::{collections::BTreeSet, mem};

use kube::{
    Client, Resource,
    api::ObjectMeta,
    core::object::{HasSpec, HasStatus},
    runtime::events::EventType,
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Environment, NotificationSetting,
        condition::reasons as closed_list,
    },
    cluster::{
        custom_resource_metadata::SlimMetadata,
        kubernetes_events::{EventPublisher, Repeated, reference},
        pod_view::{Decoded, Meta, SlimView, uid_text},
        watch::{self, ObjectSink, StreamSink, WatchTimings, WatchedKind},
        watch_progress::{ListEnd, WatchKind},
    },
    metrics::Metrics,
    time::Moment,
};

/// One of our own kinds.
pub trait CustomResource:
    Resource<DynamicType = ()>
    + HasSpec<Spec: DeserializeOwned>
    + HasStatus<Status: DeserializeOwned>
    + Send
    + 'static
{
    /// Which kind.
    const WATCH: WatchKind;
    /// The path of all its objects.
    const PATH: &'static str;

    /// Puts an object together.
    fn of_parts(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

macro_rules! custom_resource {
    ($kind:ident, $watch:ident, $plural:literal) => {
        impl CustomResource for $kind {
            const WATCH: WatchKind = WatchKind::$watch;
            const PATH: &'static str = concat!("/apis/shipbell.dev/v1alpha1/", $plural);

            fn of_parts(
                metadata: ObjectMeta,
                spec: Self::Spec,
                status: Option<Self::Status>,
            ) -> Self {
                Self {
                    metadata,
                    spec,
                    status,
                }
            }
        }
    };
}

custom_resource!(Environment, Environments, "environments");
custom_resource!(NotificationSetting, Settings, "notificationsettings");
custom_resource!(ArtifactProvenance, Provenances, "artifactprovenances");
custom_resource!(ArtifactApproval, Approvals, "artifactapprovals");
custom_resource!(AllowedArtifact, Allowances, "allowedartifacts");

/// An object of ours, and its metadata as the loop needs it.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub struct Slim<K> {
    meta: Meta,
    object: K,
}

#[derive(Deserialize)]
struct Raw<S, T> {
    metadata: SlimMetadata,
    spec: S,
    status: Option<T>,
}

impl<'de, K: CustomResource> Deserialize<'de> for Slim<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::<K::Spec, K::Status>::deserialize(deserializer)?;
        Ok(Self {
            meta: raw.metadata.meta(),
            object: K::of_parts(raw.metadata.into(), raw.spec, raw.status),
        })
    }
}

impl<K: CustomResource> SlimView for Slim<K> {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl<K: CustomResource> WatchedKind for Slim<K> {
    const KIND: WatchKind = K::WATCH;
    const PATH: &'static str = K::PATH;
}

closed_list! {
    /// Why a Kubernetes Event is recorded on an object of any kind of ours.
    pub(crate) enum ObjectEventReason { Unreadable }
}

/// Is called for each change of a kind. An object that can't be read changes nothing: its last good state is kept.
pub trait Follower<K>: Send {
    /// Tells objects apart.
    type Key: Ord + Send;

    /// Lists are taken in from the oldest object to the newest, rather than in the order of their names.
    const OLDEST_FIRST: bool = false;

    /// The key of an object.
    fn key(meta: &Meta) -> Self::Key;

    /// An object was created or changed, or is part of a list.
    fn apply(&mut self, object: K, listing: bool);

    /// An object was deleted.
    fn delete(&mut self, key: &Self::Key);

    /// A list is complete: objects other than these are gone.
    fn listed(&mut self, present: &BTreeSet<Self::Key>);
}

/// What it takes to follow a kind.
#[derive(Clone, Copy)]
pub struct Follow<'a, S> {
    /// Asked for the objects.
    pub client: &'a Client,
    /// Keeps how far the kind has been read.
    pub streams: &'a S,
    pub metrics: &'a Metrics,
    /// Records on an object of ours that it can't be read.
    pub events: &'a EventPublisher,
    pub timings: WatchTimings,
}

impl<S: StreamSink> Follow<'_, S> {
    /// Follows a kind for ever.
    pub async fn follow<K: CustomResource, F: Follower<K>>(self, follower: &mut F) {
        let sink = FollowerSink {
            streams: self.streams,
            events: self.events,
            list: Mutex::new(ListedObjects {
                follower,
                present: BTreeSet::new(),
                waiting: vec![],
                holds_unknown: false,
            }),
        };
        watch::follow::<Slim<K>, _>(self.client, &sink, self.metrics, self.timings).await;
    }
}

/// Passes on to a follower what is read of a kind.
struct FollowerSink<'a, K, F: Follower<K>, S> {
    streams: &'a S,
    events: &'a EventPublisher,
    list: Mutex<ListedObjects<'a, K, F>>,
}

/// A follower, and what the list in progress has held so far.
struct ListedObjects<'a, K, F: Follower<K>> {
    follower: &'a mut F,
    present: BTreeSet<F::Key>,
    /// Objects that are to be sorted first.
    waiting: Vec<Slim<K>>,
    /// It holds an object of which not even the name can be read: it may be any of those that are known.
    holds_unknown: bool,
}

impl<K: CustomResource, F: Follower<K>, S: StreamSink> StreamSink for FollowerSink<'_, K, F, S> {
    fn now(&self) -> Moment {
        self.streams.now()
    }

    fn version(&self, kind: WatchKind) -> u64 {
        self.streams.version(kind)
    }

    fn resumes_at(&self, kind: WatchKind) -> Option<u64> {
        self.streams.resumes_at(kind)
    }

    fn is_good(&self, kind: WatchKind) -> bool {
        self.streams.is_good(kind)
    }

    fn relist_requested(&self, kind: WatchKind) -> impl Future<Output = ()> + Send {
        self.streams.relist_requested(kind)
    }

    fn list_begins(&self, kind: WatchKind) {
        let mut list = self.list.lock();
        list.present.clear();
        list.waiting.clear();
        list.holds_unknown = false;
        self.streams.list_begins(kind);
    }

    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> ListEnd {
        let mut list = self.list.lock();
        let mut waiting = mem::take(&mut list.waiting);
        waiting.sort_by_key(|slim| {
            let created = slim.object.meta().creation_timestamp.as_ref();
            (created.map(|time| time.0), slim.meta.version)
        });
        for slim in waiting {
            list.follower.apply(slim.object, true);
        }
        let present = mem::take(&mut list.present);
        if !list.holds_unknown {
            list.follower.listed(&present);
        }
        self.streams.list_ends(kind, version, begun)
    }

    fn bookmark(&self, kind: WatchKind, version: u64) {
        self.streams.bookmark(kind, version);
    }

    fn interrupted(&self, kind: WatchKind) {
        self.streams.interrupted(kind);
    }

    fn stream_fails(&self, kind: WatchKind, why: String, forbidden: bool) {
        self.streams.stream_fails(kind, why, forbidden);
    }

    fn read(
        &self,
        kind: WatchKind,
        object: Result<&Meta, (&Meta, &str)>,
        listed: bool,
    ) -> Vec<String> {
        self.streams.read(kind, object, listed)
    }
}

impl<K: CustomResource, F: Follower<K>, S: StreamSink> ObjectSink<Slim<K>>
    for FollowerSink<'_, K, F, S>
{
    fn seen(
        &self,
        objects: impl IntoIterator<Item = Decoded<Slim<K>>>,
        listed: bool,
    ) -> Vec<String> {
        let mut warnings = vec![];
        let mut list = self.list.lock();
        for object in objects {
            let read = match &object {
                Decoded::Good(slim) => Ok(&slim.meta),
                Decoded::Bad(meta, why) => Err((meta, why.as_str())),
            };
            let news = self.streams.read(K::WATCH, read, listed);
            if let Decoded::Bad(meta, why) = &object
                && !news.is_empty()
            {
                let note = format!("{why}; its last good state is kept");
                let about = reference::<K>(&meta.namespace, &meta.name, uid_text(meta.uid));
                let reason = ObjectEventReason::Unreadable.as_str();
                let (type_, repeated) = (EventType::Warning, Repeated::Told);
                self.events
                    .publish(about, type_, "Read", reason, note, repeated);
            }
            warnings.extend(news);
            let meta = object.meta();
            if listed {
                list.present.insert(F::key(meta));
                list.holds_unknown |= meta.name.is_empty();
            }
            match object {
                Decoded::Good(slim) if listed && F::OLDEST_FIRST => list.waiting.push(slim),
                Decoded::Good(slim) => list.follower.apply(slim.object, listed),
                Decoded::Bad(..) => {}
            }
        }
        warnings
    }

    fn deleted(&self, object: &Decoded<Slim<K>>) {
        let meta = object.meta();
        self.streams.read(K::WATCH, Ok(meta), false);
        self.list.lock().follower.delete(&F::key(meta));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::TEST_ANNOTATION;

    /// An object with everything in its metadata that clients and the API server may put there.
    fn object(spec: &Value, status: &Value) -> Value {
        json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "Any",
            "metadata": {
                "name": "one", "namespace": "team", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}, "finalizers": ["f"],
                "annotations": {"note": "x".repeat(256 << 10), TEST_ANNOTATION: "now".repeat(1_000)},
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": spec, "status": status,
        })
    }

    /// Of an object only the metadata that is read here is kept, and all else as its type has it.
    fn is_slim<K>(spec: &Value, status: &Value)
    where
        K: CustomResource<Spec: serde::Serialize, Status: serde::Serialize>,
    {
        assert_eq!(<K as CustomResource>::PATH, K::url_path(&(), None));
        let json = object(spec, status).to_string();
        let slim: Slim<K> = serde_json::from_str(&json).unwrap();
        assert_eq!((slim.meta.name.as_str(), slim.meta.version), ("one", 7));
        let metadata = slim.object.meta();
        let want = ObjectMeta {
            name: Some("one".to_owned()),
            namespace: Some("team".to_owned()),
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            generation: Some(3),
            creation_timestamp: serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
            annotations: Some(
                [(
                    TEST_ANNOTATION.to_owned(),
                    "now".repeat(86)[..256].to_owned(),
                )]
                .into(),
            ),
            ..ObjectMeta::default()
        };
        assert_eq!(metadata, &want);
        let same = |part: Value, whole: &Value| assert_eq!(part, *whole, "{}", K::kind(&()));
        same(serde_json::to_value(slim.object.spec()).unwrap(), spec);
        same(serde_json::to_value(slim.object.status()).unwrap(), status);
    }

    #[test]
    fn of_the_metadata_of_our_own_kinds_only_what_is_read_is_kept() {
        let digest = "0".repeat(64);
        is_slim::<Environment>(
            &json!({"exclude": ["Pod"]}),
            &json!({"observedGeneration": 3}),
        );
        is_slim::<NotificationSetting>(
            &json!({"webhook": {"url": "https://a.example"}, "environments": ["prod"]}),
            &json!({"observedGeneration": 3, "lastHandledTest": "now"}),
        );
        is_slim::<ArtifactProvenance>(
            &json!({"fingerprint": digest, "flow": "f"}),
            &json!({"observedGeneration": 3}),
        );
        is_slim::<ArtifactApproval>(
            &json!({"fingerprint": digest, "state": "approved", "reviewer": "ann"}),
            &json!({"observedGeneration": 3}),
        );
        is_slim::<AllowedArtifact>(
            &json!({"environments": ["prod"], "artifacts": [{"fingerprint": digest, "name": "a"}], "reason": "r"}),
            &json!({"observedGeneration": 3}),
        );
    }

    #[test]
    fn an_object_of_ours_that_cannot_be_read_is_named() {
        let spec = json!({"webhook": {}, "environments": ["prod", {"name": "test"}]});
        let json = object(&spec, &Value::Null).to_string();
        let read: Decoded<Slim<NotificationSetting>> = serde_json::from_str(&json).unwrap();
        let Decoded::Bad(meta, why) = read else {
            panic!("it was read");
        };
        assert_eq!(
            (meta.namespace.as_str(), meta.name.as_str()),
            ("team", "one")
        );
        assert!(
            why.starts_with("spec.environments[1]: invalid type: map"),
            "{why}"
        );
    }

    #[test]
    fn all_that_a_kubernetes_event_may_say_of_an_object_of_ours_is_explained_in_the_documents() {
        let documents = include_str!("../../docs/troubleshooting.md");
        for reason in ObjectEventReason::ALL {
            let row = format!("\n| `{}` |", reason.as_str());
            assert!(documents.contains(&row), "{row}");
        }
    }

    #[test]
    fn an_event_refers_to_the_object_by_the_uid_that_the_api_server_gave_it() {
        let text = "0e4a6c1e-5d6b-4b0e-9a53-3d1f3f1d7a10";
        assert_eq!(uid_text(crate::cluster::pod_view::uid(text)), text);
        assert_eq!(uid_text(1), "00000000-0000-0000-0000-000000000001");
    }
}
