#![expect(clippy::disallowed_types, reason = "talks to the API server")]

//! Follows our own kinds: with the loop that follows all others, so with its staleness, its readiness and its bounds. What
//! nobody here reads of their metadata is never kept.

use std::{collections::BTreeSet, mem};

use kube::{
    Client, Resource,
    api::ObjectMeta,
    core::object::{HasSpec, HasStatus},
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use tracing::warn;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Environment, NotificationSetting,
        allowed_artifact::AllowedArtifactSpec, approval::ArtifactApprovalSpec,
        provenance::ArtifactProvenanceSpec,
    },
    cluster::{
        custom_resource_metadata::SlimMetadata,
        kubernetes_events::{EventPublisher, reference},
        pod_view::{Decoded, Meta, SlimView, uid_text},
        watch::{self, ObjectSink, StreamSink, WatchTimings, WatchedKind},
        watch_progress::{LAST_STATE, ListEnd, WatchKind},
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

    /// What counts of a spec that can't be read as a whole. Nothing that can't be read may fail open.
    fn part_of_spec(_spec: &Value) -> Option<Self::Spec> {
        None
    }
}

macro_rules! custom_resource {
    ($kind:ident, $watch:ident, $plural:literal $(, $part:path)?) => {
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

            $(fn part_of_spec(spec: &Value) -> Option<Self::Spec> {
                $part(spec)
            })?
        }
    };
}

custom_resource!(Environment, Environments, "environments");
custom_resource!(NotificationSetting, Settings, "notificationsettings");
custom_resource!(
    ArtifactProvenance,
    Provenances,
    "artifactprovenances",
    ArtifactProvenanceSpec::against
);
custom_resource!(
    ArtifactApproval,
    Approvals,
    "artifactapprovals",
    ArtifactApprovalSpec::against
);
custom_resource!(
    AllowedArtifact,
    Allowances,
    "allowedartifacts",
    AllowedArtifactSpec::nothing
);

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
        Ok(Self::of(raw.metadata, raw.spec, raw.status))
    }
}

impl<K> Slim<K> {
    /// The object.
    #[cfg(test)]
    pub fn object(&self) -> &K {
        &self.object
    }
}

impl<K: CustomResource> Slim<K> {
    fn of(metadata: SlimMetadata, spec: K::Spec, status: Option<K::Status>) -> Self {
        Self {
            meta: metadata.meta(),
            object: K::of_parts(metadata.into(), spec, status),
        }
    }
}

impl<K: CustomResource> SlimView for Slim<K> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn part_of(object: &Value) -> Option<Self> {
        let spec = K::part_of_spec(&object["spec"])?;
        let metadata = SlimMetadata::deserialize(&object["metadata"]).ok()?;
        let status = Option::<K::Status>::deserialize(&object["status"]);
        Some(Self::of(metadata, spec, status.ok().flatten()))
    }
}

impl<K: CustomResource> WatchedKind for Slim<K> {
    const KIND: WatchKind = K::WATCH;
    const PATH: &'static str = K::PATH;
}

/// Is called for each change of a kind.
pub trait Follower<K>: Send {
    /// Tells objects apart.
    type Key: Ord + Send;

    /// Lists are taken in from the oldest object to the newest, rather than in the order of their names.
    const OLDEST_FIRST: bool = false;

    /// The key of an object.
    fn key(meta: &Meta) -> Self::Key;

    /// An object was created or changed, or is part of a list. An error says what can't be read in it, and what counts of
    /// it then.
    fn apply(&mut self, object: K, listing: bool) -> Result<(), String>;

    /// The newest state of an object can't be read as a whole; `part`: what may count of it even so. Returns what counts
    /// then, in words. Of most kinds what they said before.
    fn misread(&mut self, _meta: &Meta, _part: Option<K>) -> &'static str {
        LAST_STATE
    }

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
    /// Objects that are to be sorted first, with why they can't be read as a whole.
    waiting: Vec<(Slim<K>, Option<String>)>,
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
        waiting.sort_by_key(|(slim, _)| {
            let created = slim.object.meta().creation_timestamp.as_ref();
            (created.map(|time| time.0), slim.meta.version)
        });
        for (slim, why) in waiting {
            for warning in self.take(list.follower, slim, why, true) {
                warn!("{warning}");
            }
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

impl<K: CustomResource, F: Follower<K>, S: StreamSink> FollowerSink<'_, K, F, S> {
    /// Passes on an object, of which something may be unreadable. Returns warnings.
    fn take(
        &self,
        follower: &mut F,
        slim: Slim<K>,
        why: Option<String>,
        listed: bool,
    ) -> Vec<String> {
        let Slim { meta, object } = slim;
        if let Some(why) = why {
            let counts = follower.misread(&meta, Some(object));
            return self.unreadable(&meta, &format!("{why}; {counts}"), listed);
        }
        match follower.apply(object, listed) {
            Ok(()) => self.streams.read(K::WATCH, Ok(&meta), listed),
            Err(why) => self.unreadable(&meta, &why, listed),
        }
    }

    /// Says of an object that it can't be read, on itself too if that is new: why, and what counts. Returns warnings.
    fn unreadable(&self, meta: &Meta, why: &str, listed: bool) -> Vec<String> {
        let news = self.streams.read(K::WATCH, Err((meta, why)), listed);
        if !news.is_empty() {
            let about = reference::<K>(&meta.namespace, &meta.name, uid_text(meta.uid));
            self.events.unreadable(about, why.to_owned());
        }
        news
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
            let meta = object.meta();
            if listed {
                list.present.insert(F::key(meta));
                list.holds_unknown |= meta.name.is_empty();
            }
            let (slim, why) = match object {
                Decoded::Good(slim) => (slim, None),
                Decoded::Part(slim, why) => (slim, Some(why)),
                Decoded::Bad(meta, why) => {
                    let counts = list.follower.misread(&meta, None);
                    let why = format!("{why}; {counts}");
                    warnings.extend(self.unreadable(&meta, &why, listed));
                    continue;
                }
            };
            if listed && F::OLDEST_FIRST {
                list.waiting.push((slim, why));
            } else {
                warnings.extend(self.take(list.follower, slim, why, listed));
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
    use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

    use axum::{
        Router,
        http::{Method, Uri},
    };
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        api::TEST_ANNOTATION,
        compliance::{evidence_status::EvidenceStatuses, evidence_watch},
        leader::election::ElectionWatch,
        snapshot::{shared_state::SharedState, state::ClusterState},
    };

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

    /// What is said on each review of a list, by its name.
    #[expect(clippy::disallowed_methods, reason = "waits for a limited time")]
    async fn told_of_reviews(specs: &[(&str, Value)]) -> BTreeMap<String, String> {
        let review = |(name, spec): &(&str, Value)| json!({"metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1"}, "spec": spec});
        let reviews: Vec<_> = specs.iter().map(review).collect();
        let list = json!({"metadata": {"resourceVersion": "7"}, "items": reviews}).to_string();
        let (tell, mut told) = mpsc::unbounded_channel();
        let answers =
            Router::new().fallback(async move |method: Method, uri: Uri, event: String| {
                if method == Method::POST {
                    tell.send(event.clone()).unwrap();
                    event
                } else if uri.query().unwrap_or_default().contains("watch=") {
                    pending().await
                } else {
                    list
                }
            });
        let client = Client::new(answers, "default");
        let state = SharedState::new(ClusterState::new(true, "shipbell"));
        let follow = Follow {
            client: &client,
            streams: &*state,
            metrics: &Metrics::new(),
            events: &EventPublisher::new(client.clone(), None, ElectionWatch::of_leader()),
            timings: WatchTimings {
                relist: Duration::from_hours(1),
                idle: Duration::from_hours(1),
            },
        };
        let statuses = Arc::<Mutex<EvidenceStatuses>>::default();
        let mut notes = BTreeMap::new();
        let hear = async {
            while notes.len() < specs.len() {
                let event: Value = serde_json::from_str(&told.recv().await.unwrap()).unwrap();
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                notes.insert(text(&event["regarding"]["name"]), text(&event["note"]));
            }
        };
        let told = async {
            tokio::select! {
                () = evidence_watch::follow::<ArtifactApproval, _>(follow, state.clone(), statuses) => {}
                () = hear => {}
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), told).await;
        in_time.expect("all are told of");
        notes
    }

    #[tokio::test]
    async fn of_a_review_that_cannot_be_read_as_a_whole_it_is_said_what_counts() {
        let review = |fingerprint: &str, state: &str, reviewer: Value| json!({"fingerprint": fingerprint, "state": state, "reviewer": reviewer});
        let (digest, misread) = ("0".repeat(64), json!({"team": "a"}));
        let notes = told_of_reviews(&[
            ("approved", review(&digest, "approved", misread.clone())),
            ("rejected", review(&digest, "rejected", misread.clone())),
            ("of-nothing", review("?", "rejected", misread)),
            ("undigested", review("?", "rejected", json!("ann"))),
        ])
        .await;
        let (field, digest) = ("spec.reviewer: invalid type", "\"?\" is no digest");
        let (part, kept) = (
            "what could be read of it against one counts",
            "what it said against one before counts",
        );
        for (name, why, counts) in [
            ("approved", field, kept),
            ("rejected", field, part),
            ("of-nothing", field, kept),
            ("undigested", digest, kept),
        ] {
            let note = &notes[name];
            assert!(note.starts_with(why), "{note}");
            let says = [part, kept].map(|claim| note.contains(claim));
            assert_eq!(says, [part == counts, kept == counts], "{note}");
        }
    }

    #[test]
    fn an_event_refers_to_the_object_by_the_uid_that_the_api_server_gave_it() {
        let text = "0e4a6c1e-5d6b-4b0e-9a53-3d1f3f1d7a10";
        assert_eq!(uid_text(crate::cluster::pod_view::uid(text)), text);
        assert_eq!(uid_text(1), "00000000-0000-0000-0000-000000000001");
    }
}
