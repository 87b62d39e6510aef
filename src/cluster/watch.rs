#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! The list/watch loop of pods, deployments and namespaces. Our own, because the log must know the resource versions of
//! lists and bookmarks, and because one object that can't be read must not stop the others. Nothing slow happens here: the
//! API server closes the watch of a slow reader without a word.

use std::{error::Error, io, sync::Arc, time::Duration};

use futures::{AsyncBufReadExt as _, pin_mut};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::{
    cluster::{
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView, SlimView, version},
        stream::WatchKind,
    },
    metrics::Metrics,
    time::Moment,
};

/// Objects a page. A page is held in memory as text, more than once, while it is read: the peak of a small cluster.
const PAGE: u32 = 200;
/// A page that takes longer will not come.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// The server ends a watch after so long (kube's own choice).
const WATCH_SECONDS: u32 = 290;
/// Pauses between attempts double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Room for a line of a watch that is kept from line to line; few are longer.
const LINE: usize = 64 << 10;

/// A watch that lasted so long, or told anything, has shown that it works.
const PROVEN: Duration = Duration::from_secs(10);

/// How patiently a kind is followed.
#[derive(Clone, Copy, Debug)]
pub struct WatchTimings {
    /// What a watch lost is found by a new list after so long, and up to a fifth more.
    pub relist: Duration,
    /// A watch without an event or a bookmark for so long is dead: bookmarks come about every minute.
    pub idle: Duration,
}

impl Default for WatchTimings {
    fn default() -> Self {
        Self {
            relist: Duration::from_secs(30 * 60),
            idle: Duration::from_secs(150),
        }
    }
}

/// A kind that is watched, and where the API server has it.
pub trait WatchedKind: SlimView {
    /// Which kind.
    const KIND: WatchKind;
    /// The path of all its objects.
    const PATH: &'static str;
}

impl WatchedKind for PodView {
    const KIND: WatchKind = WatchKind::Pods;
    const PATH: &'static str = "/api/v1/pods";
}

impl WatchedKind for DeploymentView {
    const KIND: WatchKind = WatchKind::Deployments;
    const PATH: &'static str = "/apis/apps/v1/deployments";
}

impl WatchedKind for NamespaceView {
    const KIND: WatchKind = WatchKind::Namespaces;
    const PATH: &'static str = "/api/v1/namespaces";
}

/// Keeps how far each kind has been read. Each call is one change.
pub trait StreamSink: Send + Sync {
    /// The time of its clock.
    fn now(&self) -> Moment;
    /// The resource version up to which a kind has been read.
    fn version(&self, kind: WatchKind) -> u64;
    /// Whether what is known of a kind can be relied on.
    fn is_good(&self, kind: WatchKind) -> bool;
    /// Whether a new list of a kind is requested.
    fn wants_relist(&self, kind: WatchKind) -> bool;
    /// Resolves after a new list of a kind was requested. It may have been read meanwhile.
    fn relist_requested(&self, kind: WatchKind) -> impl Future<Output = ()> + Send;
    /// A list begins.
    fn list_begins(&self, kind: WatchKind);
    /// The list that began at `begun` is complete. True if the server is not as far as it was before: its store was set
    /// back to an older state.
    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> bool;
    /// A bookmark: nothing happened up to this version.
    fn bookmark(&self, kind: WatchKind, version: u64);
    /// A list or a watch failed, or is forbidden.
    fn stream_fails(&self, kind: WatchKind, why: String, forbidden: bool);
}

/// Takes in the objects of a kind. Each call is one change.
pub trait ObjectSink<T>: StreamSink {
    /// Objects were listed, or one was added or changed. What to warn of.
    fn seen(&self, objects: impl IntoIterator<Item = Decoded<T>>, listed: bool) -> Vec<String>;
    /// An object was deleted.
    fn deleted(&self, object: &Decoded<T>);
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMeta,
    items: Vec<T>,
}

impl<T: SlimView> List<Decoded<T>> {
    /// Reads a page in one pass; one that holds what can't be read is read once more, object by object.
    fn read(text: &[u8]) -> serde_json::Result<Self> {
        match serde_json::from_slice::<List<T>>(text) {
            Ok(List { metadata, items }) => Ok(Self {
                metadata,
                items: items.into_iter().map(Decoded::Good).collect(),
            }),
            Err(_) => serde_json::from_slice(text),
        }
    }
}

/// A line of a watch that tells of an object: all but a few.
#[derive(Deserialize)]
struct WatchLine<T> {
    #[serde(rename = "type")]
    change: ChangeType,
    object: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// Reads a line of a watch, in the same way.
fn event<T: SlimView>(line: &[u8]) -> serde_json::Result<WatchEvent<Decoded<T>>> {
    let Ok(WatchLine { change, object }) = serde_json::from_slice::<WatchLine<T>>(line) else {
        return serde_json::from_slice(line);
    };
    let seen = Decoded::Good(object);
    Ok(match change {
        ChangeType::Added => WatchEvent::Added(seen),
        ChangeType::Modified => WatchEvent::Modified(seen),
        ChangeType::Deleted => WatchEvent::Deleted(seen),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// How a list or a watch ended.
enum StreamEnd {
    /// The list is complete; or the server ended the watch in the ordinary way: go on from where it was.
    Resume,
    /// A new list is wanted, or the server has forgotten where we were.
    Relist(&'static str),
    /// It failed.
    Failed(StreamFailure),
}

pub(crate) struct StreamFailure {
    why: String,
    /// We may not read this kind at all.
    forbidden: bool,
    /// Some of a list was taken in: going back to the state before it would undo that.
    halfway: bool,
}

impl From<String> for StreamFailure {
    fn from(why: String) -> Self {
        Self {
            why,
            forbidden: false,
            halfway: false,
        }
    }
}

/// Follows one kind for ever.
pub async fn follow<T, S>(
    client: Client,
    sink: Arc<S>,
    metrics: Arc<Metrics>,
    patience: WatchTimings,
) where
    T: WatchedKind,
    S: ObjectSink<T>,
{
    let mut pause = BACKOFF.0;
    let mut relist_at = Instant::now();
    let mut resume = false;
    // The server let us list, and not watch: that is asked first, or each list would look as if all were well.
    let mut barred = false;
    // The last attempt ended at once: the next one waits.
    let mut hasty = false;
    let mut fresh = false;
    loop {
        let begun = Instant::now();
        let listing = !resume || begun >= relist_at;
        let mut proven = false;
        let end = if barred && let Err(failure) = may_watch::<T>(&client, &*sink).await {
            StreamEnd::Failed(failure)
        } else if listing {
            barred = false;
            list::<T>(&client, &*sink, &metrics).await
        } else if !fresh && let Err(end) = ask::<T>(&client, &*sink).await {
            end
        } else {
            let (end, told) = watch::<T>(&client, &*sink, &metrics, relist_at, patience.idle).await;
            proven = told || begun.elapsed() >= PROVEN.min(patience.idle);
            barred = matches!(&end, StreamEnd::Failed(failure) if failure.forbidden);
            end
        };
        fresh = false;
        if proven {
            (pause, hasty) = (BACKOFF.0, false);
        }
        match end {
            StreamEnd::Resume => {
                resume = true;
                if listing {
                    relist_at = Instant::now() + patience.relist + jitter(patience.relist / 5);
                    fresh = true;
                    continue;
                }
            }
            StreamEnd::Relist(why) => {
                info!(kind = T::KIND.as_str(), why, "listing anew");
                resume = false;
            }
            StreamEnd::Failed(failure) => {
                let StreamFailure {
                    why,
                    forbidden,
                    halfway,
                } = failure;
                warn!(kind = T::KIND.as_str(), %why, "can't follow; trying again");
                metrics.watch_failed(T::KIND.as_str());
                sink.stream_fails(T::KIND, why, forbidden);
                // Where we were may still be known to the server: a list is dear, and a watch that can't resume says
                // so. After a long silence only a list shows that what we know is still so.
                resume = !forbidden && !halfway && sink.is_good(T::KIND);
                sleep(pause + jitter(pause)).await;
                pause = (pause * 2).min(BACKOFF.1);
                if listing {
                    relist_at = Instant::now() + pause;
                }
                hasty = false;
                continue;
            }
        }
        if hasty {
            sleep(pause + jitter(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
        hasty = !proven;
    }
}

/// Asks how far the server is. One that is not as far as we are was set back to an older state: a watch from where we are
/// would be answered by silence.
async fn ask<T: WatchedKind>(client: &Client, sink: &impl StreamSink) -> Result<(), StreamEnd> {
    let (there, _) = count(client, T::PATH).await.map_err(StreamEnd::Failed)?;
    if there < sink.version(T::KIND) {
        return Err(StreamEnd::Relist(
            "the server is behind what it told before",
        ));
    }
    Ok(())
}

/// The server's version, and how many objects there are.
pub(crate) async fn count(client: &Client, path: &str) -> Result<(u64, usize), StreamFailure> {
    let request = Request::new(path)
        .list(&ListParams::default().limit(1))
        .map_err(|error| StreamFailure::from(error.to_string()))?;
    let list = match timeout(PAGE_TIMEOUT, client.request::<CountPage>(request)).await {
        Err(_) => return Err(no_answer()),
        Ok(answer) => answer.map_err(|error| failed(&error))?,
    };
    let more = usize::try_from(list.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
    Ok((
        version(&list.metadata.resource_version),
        list.items.len() + more,
    ))
}

/// Whether a watch would be refused.
async fn may_watch<T: WatchedKind>(
    client: &Client,
    sink: &impl StreamSink,
) -> Result<(), StreamFailure> {
    let from = sink.version(T::KIND).to_string();
    let request = Request::new(T::PATH)
        .watch(&WatchParams::default().timeout(1), &from)
        .map_err(|error| StreamFailure::from(error.to_string()))?;
    match timeout(PAGE_TIMEOUT, client.request_stream(request)).await {
        Err(_) => Err(no_answer()),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(failed(&kube::Error::Api(status)))
        }
        Ok(_) => Ok(()),
    }
}

/// Reads a complete list, page by page. A quorum read: no resource version is given, so it is never old.
async fn list<T: WatchedKind>(
    client: &Client,
    sink: &impl ObjectSink<T>,
    metrics: &Metrics,
) -> StreamEnd {
    let begun = sink.now();
    sink.list_begins(T::KIND);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let halfway = params.continue_token.is_some();
        let fails =
            |failure: StreamFailure| StreamEnd::Failed(StreamFailure { halfway, ..failure });
        let request = match Request::new(T::PATH).list(&params) {
            Ok(request) => request,
            Err(error) => return fails(error.to_string().into()),
        };
        let page = match timeout(PAGE_TIMEOUT, client.request_text(request)).await {
            Err(_) => return fails(no_answer()),
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => {
                return StreamEnd::Relist("the list's continue token has expired");
            }
            Ok(Err(error)) => return fails(failed(&error)),
            Ok(Ok(text)) => match List::<Decoded<T>>::read(text.as_bytes()) {
                Ok(page) => page,
                Err(error) => return fails(unreadable(&error)),
            },
        };
        let count = page.items.len();
        let warnings = sink.seen(page.items, true);
        metrics.listed(T::KIND.as_str(), count);
        tell(&warnings, metrics);
        if let Some(next) = page.metadata.next.filter(|next| !next.is_empty()) {
            params = params.continue_token(&next);
        } else {
            let version = version(&page.metadata.resource_version);
            let set_back = sink.list_ends(T::KIND, version, begun);
            debug!(kind = T::KIND.as_str(), "listed");
            if set_back {
                warn!(
                    kind = T::KIND.as_str(),
                    version,
                    "the cluster's store was set back to an older state; reading everything anew"
                );
            }
            return StreamEnd::Resume;
        }
        tokio::task::yield_now().await;
    }
}

/// Follows the changes from where we are; and whether there was anything to be heard.
async fn watch<T: WatchedKind>(
    client: &Client,
    sink: &impl ObjectSink<T>,
    metrics: &Metrics,
    relist_at: Instant,
    idle: Duration,
) -> (StreamEnd, bool) {
    let mut told = false;
    let from = sink.version(T::KIND).to_string();
    let mut request =
        match Request::new(T::PATH).watch(&WatchParams::default().timeout(WATCH_SECONDS), &from) {
            Ok(request) => request,
            Err(error) => return (StreamEnd::Failed(error.to_string().into()), told),
        };
    // A server that zips would make a whole of each event; nothing here unzips that.
    let plain = HeaderValue::from_static("identity");
    request.headers_mut().insert(ACCEPT_ENCODING, plain);
    let stream = match timeout(PAGE_TIMEOUT, client.request_stream(request)).await {
        Err(_) => return (StreamEnd::Failed(no_answer()), told),
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => {
            return (
                StreamEnd::Relist("the server has forgotten where we were"),
                told,
            );
        }
        Ok(Err(error)) => return (StreamEnd::Failed(failed(&error)), told),
        Ok(Ok(stream)) => stream,
    };
    let relist = sleep_until(relist_at);
    pin_mut!(stream, relist);
    let mut line = vec![];
    let end = loop {
        // What was read of a line stays in it when another branch is taken.
        let read = tokio::select! {
            read = timeout(idle, stream.read_until(b'\n', &mut line)) => read,
            () = sink.relist_requested(T::KIND) => {
                // A list may have met the request meanwhile.
                if sink.wants_relist(T::KIND) {
                    break StreamEnd::Relist("it is wanted");
                }
                continue;
            }
            () = &mut relist => break StreamEnd::Relist("it is time"),
        };
        match read {
            // Nobody knows what happened meanwhile.
            Err(_) => {
                metrics.watch_failed(T::KIND.as_str());
                break StreamEnd::Relist("the watch went silent");
            }
            Ok(Err(error)) if is_cut(&error) => break StreamEnd::Resume,
            Ok(Err(error)) => break StreamEnd::Failed(error.to_string().into()),
            Ok(Ok(_)) => {}
        }
        if !line.ends_with(b"\n") {
            break StreamEnd::Resume; // what is left of a line when the server ends the watch is sent again
        }
        let event = match event::<T>(&line) {
            Ok(event) => event,
            Err(error) => break StreamEnd::Failed(unreadable(&error)),
        };
        line.clear();
        line.shrink_to(LINE);
        metrics.watched(T::KIND.as_str());
        match event {
            WatchEvent::Added(seen) | WatchEvent::Modified(seen) => {
                tell(&sink.seen([seen], false), metrics);
            }
            WatchEvent::Deleted(seen) => sink.deleted(&seen),
            WatchEvent::Bookmark(bookmark) => {
                sink.bookmark(T::KIND, version(&bookmark.metadata.resource_version));
            }
            WatchEvent::Error(status) if status.code == 410 => {
                break StreamEnd::Relist("the server has forgotten where we were");
            }
            WatchEvent::Error(status) => {
                break StreamEnd::Failed(failed(&kube::Error::Api(status)));
            }
        }
        told = true;
    };
    (end, told)
}

fn no_answer() -> StreamFailure {
    format!("no answer in {} s", PAGE_TIMEOUT.as_secs()).into()
}

fn unreadable(error: &serde_json::Error) -> StreamFailure {
    format!("the answer can't be read: {error}").into()
}

/// Whether the connection ended in the midst of an answer: so a watch ends when the server stops.
fn is_cut(error: &io::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        next = match cause.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => return true,
            // Its `source` is not what it holds, but the source of that.
            Some(error) => error.get_ref().map(|cause| cause as _),
            None => cause.source(),
        };
    }
    false
}

fn failed(error: &kube::Error) -> StreamFailure {
    match error {
        kube::Error::Api(status) => {
            let forbidden = status.code == 403;
            let cure = if forbidden {
                "; give the operator its ClusterRole again (helm upgrade)"
            } else {
                ""
            };
            StreamFailure {
                why: format!("{}{cure}", status.message),
                forbidden,
                halfway: false,
            }
        }
        error => error.to_string().into(),
    }
}

fn tell(warnings: &[String], metrics: &Metrics) {
    for warning in warnings {
        metrics.warned();
        warn!("{warning}");
    }
}

/// A part of `span` that differs from process to process and from time to time.
pub fn jitter(span: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0) % 1_000;
    span.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0)
}

#[derive(Deserialize)]
struct CountPage {
    metadata: CountPageMeta,
    items: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountPageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    remaining_item_count: Option<i64>,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str) -> Value {
        let status = |name: &str| {
            json!({
                "name": name, "imageID": "r.example/a@sha256:1", "containerID": "containerd://1", "restartCount": 0, "ready": true,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {"terminated": {"exitCode": 1}},
            })
        };
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("6ba7b810-9dad-11d1-80b4-{name:0>12}"), "resourceVersion": "41",
                "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "pod-template-hash": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-x", "controller": true}],
                "managedFields": [{"fieldsV1": {"f:metadata": {"f:labels": {".": {}}}}}],
            },
            "spec": {
                "restartPolicy": "Always", "nodeName": "a",
                "containers": [{"name": "web", "image": "r.example/a:v1", "env": [{"name": "A", "value": "\u{e9}\n"}]}],
                "initContainers": [{"name": "mesh", "image": "m", "restartPolicy": "Always"}], "ephemeralContainers": [{"name": "debug"}],
            },
            "status": {
                "phase": "Running", "containerStatuses": [status("web")], "initContainerStatuses": [status("mesh")],
                "ephemeralContainerStatuses": [status("debug")],
            },
        })
    }

    fn deployment(name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "7", "generation": 2, "labels": {"app": "web"}},
            "spec": {"paused": false, "replicas": 3},
            "status": {"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}]},
        })
    }

    /// All that is in a value, as JSON pointers.
    fn places(value: &Value, at: &str, to: &mut Vec<String>) {
        let parts: Vec<_> = match value {
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(items) => (0..).map(|n: usize| n.to_string()).zip(items).collect(),
            _ => vec![],
        };
        for (key, part) in parts {
            let at = format!("{at}/{}", key.replace('/', "~1"));
            places(part, &at, to);
            to.push(at);
        }
    }

    /// Replaces what is at a place, or takes it out.
    fn change(value: &mut Value, place: &str, by: Option<Value>) {
        match (by, place.rsplit_once('/')) {
            (Some(by), _) => {
                if let Some(there) = value.pointer_mut(place) {
                    *there = by;
                }
            }
            (None, Some((above, key))) => {
                if let Some(Value::Object(fields)) = value.pointer_mut(above) {
                    fields.remove(key);
                }
            }
            (None, None) => {}
        }
    }

    /// An object of which a few parts are gone, null, of another type, or texts that can't be borrowed.
    fn odd(object: Value) -> impl Strategy<Value = Value> {
        let mut at = vec![];
        places(&object, "", &mut at);
        let by = select(vec![
            None,
            Some(json!(null)),
            Some(json!(7)),
            Some(json!(1.5e300)),
            Some(json!(true)),
            Some(json!("")),
            Some(json!("a\"b\\\n\u{1f514}")),
            Some(json!([])),
            Some(json!([null, {}])),
            Some(json!({})),
            Some(json!({"a": "b"})),
        ]);
        vec((select(at), by), 0..4).prop_map(move |changes| {
            let mut object = object.clone();
            for (place, by) in changes {
                change(&mut object, &place, by);
            }
            object
        })
    }

    /// What is read in one pass where that can be is what the tolerant way reads.
    fn agree<T: SlimView + PartialEq + Debug>(objects: &[Value]) -> Result<(), TestCaseError> {
        let list =
            json!({"kind": "List", "metadata": {"resourceVersion": "9", "continue": "c"}, "items": objects})
                .to_string();
        let quick = List::<Decoded<T>>::read(list.as_bytes()).unwrap();
        let tolerant: List<Decoded<T>> = serde_json::from_str(&list).unwrap();
        prop_assert_eq!(&quick.items, &tolerant.items);
        prop_assert_eq!(quick.items.len(), objects.len());
        for (object, seen) in objects.iter().zip(&quick.items) {
            for kind in ["ADDED", "MODIFIED", "DELETED"] {
                let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
                match (kind, event::<T>(line.as_bytes()).unwrap()) {
                    ("ADDED", WatchEvent::Added(told))
                    | ("MODIFIED", WatchEvent::Modified(told))
                    | ("DELETED", WatchEvent::Deleted(told)) => prop_assert_eq!(&told, seen),
                    (kind, told) => prop_assert!(false, "{} became {:?}", kind, told),
                }
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn pods_are_read_alike_in_one_pass_and_tolerantly(pods in vec(odd(pod("1")), 1..4)) {
            agree::<PodView>(&pods)?;
        }

        #[test]
        fn deployments_and_namespaces_are_too(objects in vec(odd(deployment("web")), 1..4)) {
            agree::<DeploymentView>(&objects)?;
            agree::<NamespaceView>(&objects)?;
        }
    }

    #[test]
    fn sound_objects_are_good_and_a_bad_one_among_them_is_named() {
        let bad = |change: fn(&mut Value)| {
            let mut pod = pod("2");
            change(&mut pod);
            pod
        };
        for (bad, name) in [
            (
                bad(|pod| pod["metadata"]["labels"] = json!(["no", "map"])),
                "2",
            ),
            (bad(|pod| pod["spec"]["containers"] = json!("none")), "2"),
            (bad(|pod| pod["metadata"]["uid"] = json!(null)), "2"),
            (bad(|pod| pod["metadata"] = json!(7)), ""),
            (json!(null), ""),
            (json!([[[["deep"]]]]), ""),
        ] {
            let items = [pod("1"), bad.clone(), pod("3")];
            agree::<PodView>(&items).unwrap();
            let list = json!({"metadata": {}, "items": items}).to_string();
            let page = List::<Decoded<PodView>>::read(list.as_bytes()).unwrap();
            let told: Vec<_> = page
                .items
                .iter()
                .map(|seen| (matches!(seen, Decoded::Good(_)), seen.meta().name.as_str()))
                .collect();
            assert_eq!(told, [(true, "1"), (false, name), (true, "3")], "{bad}");
        }
    }

    #[test]
    fn what_is_no_object_is_told_by_a_watch_as_it_is() {
        let bookmark = br#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12","creationTimestamp":null}}}"#;
        assert!(
            matches!(event::<PodView>(bookmark), Ok(WatchEvent::Bookmark(b)) if b.metadata.resource_version == "12")
        );
        let error = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        assert!(
            matches!(event::<PodView>(error), Ok(WatchEvent::Error(status)) if status.code == 410)
        );
        for broken in [
            &b"{\"type\":\"ADDED\",\"object\":{\"metadata\""[..],
            b"",
            b"\n",
            b"no",
        ] {
            assert!(event::<PodView>(broken).is_err());
        }
    }

    #[test]
    fn a_connection_that_ends_in_an_answer_is_a_cut_and_nothing_else_is() {
        let wrapped = |kind: io::ErrorKind| {
            [
                io::Error::from(kind),
                io::Error::other(io::Error::new(kind, "x")),
                io::Error::other(anyhow::Error::from(io::Error::from(kind)).context("a body")),
            ]
        };
        assert!(wrapped(io::ErrorKind::UnexpectedEof).iter().all(is_cut));
        assert!(!wrapped(io::ErrorKind::ConnectionReset).iter().any(is_cut));
    }
}
