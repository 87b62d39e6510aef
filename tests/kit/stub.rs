//! A stub API server: as many pods as are asked for, and as many watch events as fast as they are taken. What is
//! written to it is answered as if it had been stored, and forgotten; only snapshots can be read again, by their names.

pub mod pods;

use crate::tls;
use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{self, Request},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{StreamExt as _, stream};
use pods::{Kind, Population, State, deployment, mix, namespace_name, uuid};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The version of every list.
const VERSION: u64 = 1_000_000;
/// Pods that are being replaced at once.
const WINDOW: usize = 50;
/// Events of a pod that is replaced by another.
pub const LIFE: usize = 9;
const BOOKMARK: Duration = Duration::from_secs(30);

/// Much text in a pod or in the template of a Deployment: as much as etcd stores with everything else in it.
const LARGE: usize = 700_000;
/// The most text that the API server takes as annotations.
const ANNOTATIONS: usize = 256 << 10;

/// What the cluster holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contents {
    /// How many pods, in namespaces of ten workloads of ten each.
    pub pods: usize,
    /// How many of the pods have 700 KB in their spec, and how many of the Deployments have them in their template.
    pub large: usize,
    /// How many NotificationSettings, each with 256 KiB of annotations and a destination that is not open.
    pub settings: usize,
    /// The Environments. Up to a hundred name their namespaces, more choose them by label.
    pub environments: usize,
}

/// The server, which lives as long as the process.
pub struct Stub {
    shared: Arc<Shared>,
    /// How it is reached.
    pub kubeconfig: PathBuf,
}

struct Shared {
    pods: Population,
    contents: Contents,
    /// How many events are wanted in all.
    wanted: watch::Sender<usize>,
    written: Mutex<HashMap<String, Vec<Instant>>>,
    /// The snapshots, by their paths.
    snapshots: Mutex<HashMap<String, String>>,
    versions: Mutex<u64>,
}

type Answer = Response<Body>;

impl Stub {
    /// Starts a server.
    pub fn start(contents: Contents, directory: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            pods: Population::new(contents.pods),
            contents,
            wanted: watch::Sender::new(0),
            written: Mutex::default(),
            snapshots: Mutex::default(),
            versions: Mutex::new(VERSION * 1_000),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let (address, ca_pem) =
            tls::serve("stub-ca", app, "127.0.0.1", &["localhost", "127.0.0.1"])?;
        let kubeconfig = directory.join(format!("kubeconfig-{}", address.port()));
        std::fs::write(directory.join("stub-ca.pem"), &ca_pem)?;
        let ca = directory.join(format!("ca-{}.pem", address.port()));
        std::fs::write(&ca, ca_pem)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": format!("https://{address}"), "certificate-authority": ca}}],
            "users": [{"name": "stub", "user": {"token": "stub"}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub", "namespace": "shipbell"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { shared, kubeconfig })
    }

    /// Lets the watch of pods send so many more events.
    pub fn send_events(&self, count: usize) {
        self.shared.wanted.send_modify(|wanted| *wanted += count);
    }

    /// When objects of a kind were created.
    pub fn created(&self, plural: &str) -> Vec<Instant> {
        let written = self
            .shared
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        written.get(plural).cloned().unwrap_or_default()
    }

    /// The mean size of a pod's JSON, and the part of it that is managedFields.
    pub fn sizes(&self) -> (usize, f64) {
        let (mut all, mut managed) = (0, 0);
        let sample = self.shared.pods.count.min(2_000);
        for number in 0..sample {
            let mut json = String::new();
            self.shared
                .pods
                .write(&mut json, number, 0, State::Ready, VERSION);
            all += json.len();
            let pod: Value = serde_json::from_str(&json).unwrap_or_default();
            managed += pod["metadata"]["managedFields"].to_string().len();
        }
        #[allow(clippy::cast_precision_loss)]
        (all / sample, managed as f64 / all as f64)
    }
}

async fn answer(extract::State(shared): extract::State<Arc<Shared>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: HashMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if parts.method != Method::GET {
        let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
        return shared.write(&parts.method, &path, &body);
    }
    let resource = path.rsplit('/').next().unwrap_or_default();
    if path == "/version" {
        return ok(
            &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-07-01T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64"}),
        );
    }
    let Some(kind) = kind_of(resource) else {
        let snapshots = shared.snapshots.lock();
        let snapshots = snapshots.unwrap_or_else(PoisonError::into_inner);
        let found = snapshots.get(&path).cloned();
        return found.map_or_else(|| missing(&path), |text| json_text(StatusCode::OK, text));
    };
    if query
        .get("watch")
        .is_some_and(|watch| watch == "1" || watch == "true")
    {
        return shared.watch(resource, kind);
    }
    let limit = query
        .get("limit")
        .and_then(|limit| limit.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let from = query
        .get("continue")
        .and_then(|from| from.parse().ok())
        .unwrap_or(0);
    shared.list(&path, resource, kind, from, limit)
}

fn kind_of(resource: &str) -> Option<&'static str> {
    Some(match resource {
        "pods" => "Pod",
        "deployments" => "Deployment",
        "namespaces" => "Namespace",
        "environments" => "Environment",
        "notificationsettings" => "NotificationSetting",
        "environmentsnapshots" => "EnvironmentSnapshot",
        "artifactprovenances" => "ArtifactProvenance",
        "artifactapprovals" => "ArtifactApproval",
        "allowedartifacts" => "AllowedArtifact",
        _ => return None,
    })
}

/// Adds to an object what makes it large, wherever it has a place for it.
fn enlarge(object: &mut String, number: usize) {
    for (place, text) in pods::large_parts(number, LARGE) {
        if let Some(at) = object.find(place) {
            object.insert_str(at + place.len(), &text);
        }
    }
}

/// The JSON of a NotificationSetting.
fn setting(number: usize) -> String {
    json!({
        "metadata": {
            "name": format!("setting-{number}"), "namespace": namespace_name(number), "uid": uuid(mix(number as u64 ^ 0x55)),
            "resourceVersion": "900000", "generation": 1, "creationTimestamp": "2026-01-05T10:00:00Z",
            "annotations": {"note": "x".repeat(ANNOTATIONS - 4)},
        },
        "spec": {"webhook": {"url": "http://127.0.0.1:9/"}},
    })
    .to_string()
}

/// Writes the item of a number.
type Write<'a> = Box<dyn Fn(&mut String, usize) + 'a>;

impl Shared {
    fn list(&self, path: &str, resource: &str, kind: &str, from: usize, limit: usize) -> Answer {
        let api_version = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "apis", group, version, ..] => format!("{group}/{version}"),
            _ => "v1".to_owned(),
        };
        let (total, write): (usize, Write) = match resource {
            "pods" => (
                self.pods.count,
                Box::new(|to, number| self.listed_pod(to, number)),
            ),
            "deployments" => {
                let deployed: Vec<_> = (0..self.pods.workloads())
                    .filter(|workload| Population::kind(*workload) == Kind::Deployment)
                    .collect();
                let count = deployed.len();
                let each = count.checked_div(self.contents.large);
                let write = move |to: &mut String, number: usize| {
                    let mut text = deployment(deployed[number]);
                    if each.is_some_and(|each| number.is_multiple_of(each.max(1))) {
                        enlarge(&mut text, number);
                    }
                    to.push_str(&text);
                };
                (count, Box::new(write))
            }
            "namespaces" => (
                self.pods.namespaces(),
                Box::new(|to, number| to.push_str(&self.namespace(number))),
            ),
            "notificationsettings" => (
                self.contents.settings,
                Box::new(|to, number| to.push_str(&setting(number))),
            ),
            "environments" => (
                self.contents.environments,
                Box::new(|to, number| to.push_str(&self.environment(number))),
            ),
            _ => (0, Box::new(|_, _| {})),
        };
        let to = from.saturating_add(limit).min(total);
        let meta = if to < total {
            format!(r#","continue":"{to}","remainingItemCount":{}"#, total - to)
        } else {
            String::new()
        };
        let mut text = format!(
            r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{VERSION}"{meta}}},"items":["#
        );
        for number in from..to {
            if number > from {
                text.push(',');
            }
            write(&mut text, number);
        }
        text.push_str("]}");
        json_text(StatusCode::OK, text)
    }

    fn listed_pod(&self, to: &mut String, number: usize) {
        let begin = to.len();
        self.pods.write(to, number, 0, State::Ready, VERSION - 1);
        let each = self.pods.count.checked_div(self.contents.large);
        if each.is_some_and(|each| number.is_multiple_of(each)) {
            let mut text = to.split_off(begin);
            enlarge(&mut text, number);
            to.push_str(&text);
        }
    }

    fn environment(&self, number: usize) -> String {
        let all = self.contents.environments;
        let of = (number..self.pods.namespaces()).step_by(all);
        let spec = match all {
            1 => json!({}),
            2..=100 => {
                let names: Vec<_> = of.take(256).map(namespace_name).collect();
                json!({"namespaces": {"include": names}})
            }
            _ => json!({"namespaceSelector": {"matchLabels": {"environment": number.to_string()}}}),
        };
        json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "Environment",
            "metadata": {
                "name": format!("bench-{number}"), "uid": uuid(mix(number as u64 + 7)), "resourceVersion": VERSION.to_string(),
                "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec,
        })
        .to_string()
    }

    fn namespace(&self, number: usize) -> String {
        let name = namespace_name(number);
        let environment = number.checked_rem(self.contents.environments);
        json!({
            "metadata": {
                "name": name, "uid": uuid(mix(number as u64 ^ 0x33)), "resourceVersion": "800000", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {
                    "kubernetes.io/metadata.name": name, "pod-security.kubernetes.io/enforce": "restricted",
                    "environment": environment.unwrap_or_default().to_string(),
                },
            },
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        })
        .to_string()
    }

    /// A watch that begins at the list's version.
    fn watch(self: &Arc<Self>, resource: &str, kind: &'static str) -> Answer {
        let api_version = match resource {
            "pods" | "namespaces" => "v1",
            "deployments" => "apps/v1",
            _ => "shipbell.dev/v1alpha1",
        };
        let bookmark = move |version: u64| {
            let object = json!({"kind": kind, "apiVersion": api_version, "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
            Bytes::from(format!(
                "{}\n",
                json!({"type": "BOOKMARK", "object": object})
            ))
        };
        let body = if resource == "pods" {
            let churn = Churn {
                shared: self.clone(),
                wanted: self.wanted.subscribe(),
                sent: 0,
                lives: VecDeque::new(),
                incarnations: HashMap::new(),
            };
            Body::from_stream(stream::unfold(churn, move |mut churn| async move {
                let bytes = tokio::select! {
                    biased;
                    event = churn.next() => event,
                    () = tokio::time::sleep(BOOKMARK) => bookmark(VERSION + churn.sent as u64),
                };
                Some((Ok::<_, Infallible>(bytes), churn))
            }))
        } else {
            Body::from_stream(
                stream::unfold((), move |()| async move {
                    tokio::time::sleep(BOOKMARK).await;
                    Some((Ok::<_, Infallible>(bookmark(VERSION)), ()))
                })
                .boxed(),
            )
        };
        let mut answer = Response::new(body);
        answer.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        answer
    }

    /// Answers a write as if it had been stored.
    fn write(&self, method: &Method, path: &str, body: &[u8]) -> Answer {
        let mut object: Value = serde_json::from_slice(body).unwrap_or_default();
        let version = {
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            *versions += 1;
            *versions
        };
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = uuid(mix(version)).into();
            object["metadata"]["creationTimestamp"] = "2026-07-14T08:15:00Z".into();
        }
        if path.contains("/environments/") && object["spec"].is_null() {
            object["spec"] = json!({});
        }
        if *method == Method::POST {
            let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
            if plural == "environmentsnapshots" {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let snapshots = self.snapshots.lock();
                let mut snapshots = snapshots.unwrap_or_else(PoisonError::into_inner);
                snapshots.insert(format!("{path}/{name}"), object.to_string());
            }
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.entry(plural).or_default().push(Instant::now());
            return json_text(StatusCode::CREATED, object.to_string());
        }
        ok(&object)
    }
}

/// Pods that are replaced by others, many at once: the events of a rolling restart.
struct Churn {
    shared: Arc<Shared>,
    wanted: watch::Receiver<usize>,
    sent: usize,
    /// Of each pod that is being replaced: its number, and the incarnation that goes.
    lives: VecDeque<(usize, u32)>,
    incarnations: HashMap<usize, u32>,
}

impl Churn {
    async fn next(&mut self) -> Bytes {
        if self.wanted.wait_for(|wanted| *wanted > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
        let sent = self.sent;
        if self.wanted.wait_for(|wanted| *wanted > sent).await.is_err() {
            std::future::pending::<()>().await;
        }
        let (step, slot) = (sent % (LIFE * WINDOW) / WINDOW, sent % WINDOW);
        let pods = &self.shared.pods;
        if step == 0 {
            let life = sent / (LIFE * WINDOW) * WINDOW + slot;
            let number = pods.deployed(life * 7_919);
            let incarnation = self.incarnations.entry(number).or_insert(0);
            if self.lives.len() == WINDOW {
                self.lives.pop_front();
            }
            self.lives.push_back((number, *incarnation));
            *incarnation += 1;
        }
        let (number, old) = self.lives[slot];
        let (kind, incarnation, state) = match step {
            0 => ("ADDED", old + 1, State::Pending),
            1 => ("MODIFIED", old + 1, State::Scheduled),
            2 => ("MODIFIED", old + 1, State::Creating),
            3 => ("MODIFIED", old + 1, State::Running),
            4 => ("MODIFIED", old + 1, State::Ready),
            5 => ("MODIFIED", old, State::Deleting),
            6 => ("MODIFIED", old, State::Unready),
            7 => ("MODIFIED", old, State::Ended),
            _ => ("DELETED", old, State::Ended),
        };
        self.sent += 1;
        let mut text = String::with_capacity(12_288);
        text.push_str(r#"{"type":""#);
        text.push_str(kind);
        text.push_str(r#"","object":"#);
        pods.write(
            &mut text,
            number,
            incarnation,
            state,
            VERSION + self.sent as u64,
        );
        text.push_str("}\n");
        text.into()
    }
}

fn ok(value: &Value) -> Answer {
    json_text(StatusCode::OK, value.to_string())
}

fn json_text(status: StatusCode, text: String) -> Answer {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn missing(path: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("{path} not found"), "reason": "NotFound", "code": 404});
    json_text(StatusCode::NOT_FOUND, status.to_string())
}
