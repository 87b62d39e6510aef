//! A small simulated cluster around a real `ClusterState` and a real log, for tests that read as sentences. Objects go in as
//! the JSON that an API server would send. Plans are asked for as the recorder does: when an environment has something new to
//! do, when the last plan says so, and every 30 s. Every entry is checked when it is appended: it continues its predecessor,
//! is small enough, and replaying it gives the state that the recorder expects.

mod behaviour;
mod big;
mod compliance;
mod delivery;
mod evidence;
mod forgetting;
mod hostile;
pub mod hostile_json;
pub mod hostile_log;
mod hostile_texts;
mod identity;
mod properties;
pub mod schema;
pub mod testing;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    api::environment::EnvironmentId,
    api::{EnvironmentSnapshotSpec, EnvironmentSpec, EventType, snapshot::Cause},
    cluster::{
        fleet::Fleet,
        image::Fingerprint,
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView, SlimView},
        watch_progress::WatchKind,
    },
    simulation::testing::digest,
    snapshot::{
        cut::{self, Entry},
        event,
        ledger::{Ledger, content_hash},
        reduced_entry::reduce,
        settle::SettleTimes,
        state::{ClusterState, FrozenReason, Plan},
    },
    time::Moment,
};

/// The operator's own namespace.
const HOME: &str = "shipbell";

/// A duration in seconds.
pub fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// The state of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    Crashed,
}

#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub id: String,
    pub state: State,
    pub restarts: i64,
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    uid: String,
    version: u64,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    owner: Option<(&'static str, String, String)>,
    pub containers: Vec<Container>,
    /// Init containers that run once.
    pub init: Vec<Container>,
    /// Its deletion timestamp, if it is terminating.
    pub ends: Option<Timestamp>,
    pub phase: &'static str,
    pub restart_policy: &'static str,
    /// It is sent in a form that can't be read.
    pub garbled: bool,
    /// Its workload and revision.
    workload: String,
    revision: String,
}

impl Pod {
    fn json(&self) -> String {
        let owners: Vec<Value> = self.owner.iter().map(|(api, kind, name)| json!({"apiVersion": api, "kind": kind, "name": name, "controller": true})).collect();
        let statuses = |containers: &[Container]| -> Vec<Value> {
            containers.iter().map(|c| {
                let state = match c.state {
                    State::Waiting => json!({"waiting": {"reason": "ContainerCreating"}}),
                    State::Running => json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
                    State::Crashed => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                };
                json!({"name": c.name, "imageID": c.image_id, "containerID": c.id, "restartCount": c.restarts, "state": state})
            })
            .collect()
        };
        let specs = |containers: &[Container]| -> Vec<Value> {
            let specs = containers.iter();
            specs
                .map(|c| json!({"name": c.name, "image": c.image}))
                .collect()
        };
        let mut object = json!({
            "metadata": {
                "namespace": self.namespace, "name": self.name, "uid": self.uid, "resourceVersion": self.version.to_string(),
                "labels": self.labels, "ownerReferences": owners,
            },
            "spec": {
                "restartPolicy": self.restart_policy, "containers": specs(&self.containers),
                "initContainers": specs(&self.init),
            },
            "status": {
                "phase": self.phase, "containerStatuses": statuses(&self.containers),
                "initContainerStatuses": statuses(&self.init),
            },
        });
        if self.generation > 0 {
            object["metadata"]["generation"] = self.generation.into();
        }
        if let Some(ends) = self.ends {
            object["metadata"]["deletionTimestamp"] = ends.to_string().into();
        }
        if self.garbled {
            object["metadata"]["labels"] = json!(["not", "a", "map"]);
        }
        object.to_string()
    }

    fn runs(&self) -> bool {
        self.containers.iter().any(|c| c.state != State::Waiting)
    }
}

#[derive(Clone, Debug)]
pub struct Deployment {
    namespace: String,
    name: String,
    version: u64,
    pub generation: i64,
    pub observed: i64,
    pub reason: &'static str,
    pub paused: bool,
}

impl Deployment {
    fn json(&self) -> String {
        let status = match self.reason {
            "ProgressDeadlineExceeded" => "False",
            "DeploymentPaused" => "Unknown",
            _ => "True",
        };
        json!({
            "metadata": {
                "namespace": self.namespace, "name": self.name, "uid": format!("deployment {} {}", self.namespace, self.name),
                "resourceVersion": self.version.to_string(), "generation": self.generation,
            },
            "spec": {"paused": self.paused},
            "status": {"observedGeneration": self.observed, "conditions": [{"type": "Progressing", "status": status, "reason": self.reason}]},
        })
        .to_string()
    }
}

/// A change that a watch reports.
#[derive(Clone, Debug)]
enum WatchedChange {
    Pod(String),
    PodGone(String),
    Deployment(String),
    DeploymentGone(String),
    Namespace(String),
    NamespaceGone(String),
}

impl WatchedChange {
    fn kind(&self) -> WatchKind {
        match self {
            Self::Pod(_) | Self::PodGone(_) => WatchKind::Pods,
            Self::Deployment(_) | Self::DeploymentGone(_) => WatchKind::Deployments,
            Self::Namespace(_) | Self::NamespaceGone(_) => WatchKind::Namespaces,
        }
    }
}

/// Our own kinds.
const OWN: [WatchKind; 5] = [
    WatchKind::Environments,
    WatchKind::Settings,
    WatchKind::Provenances,
    WatchKind::Approvals,
    WatchKind::Allowances,
];

/// An entry in the log.
#[derive(Clone, Debug)]
pub struct Written {
    pub at: Moment,
    pub spec: EnvironmentSnapshotSpec,
    pub chunks: Vec<String>,
}

impl Written {
    /// The checkpoint's text.
    pub fn checkpoint(&self) -> Option<String> {
        let checkpoint = self.spec.checkpoint.as_ref()?;
        let whole = checkpoint.data.clone();
        Some(whole.unwrap_or_else(|| self.chunks.concat()))
    }
}

#[derive(Debug)]
struct Environment {
    uid: String,
    spec: EnvironmentSpec,
    log: Vec<Written>,
    /// The state that a reader of the log has, entry by entry.
    replayed: Option<Ledger>,
    wake: Moment,
    frozen: Option<&'static str>,
    heard: usize,
    last_cut: Option<Moment>,
}

/// What the store of a cluster held at some time.
#[derive(Clone)]
pub struct Backup {
    version: u64,
    pods: BTreeMap<String, Pod>,
    deployments: BTreeMap<String, Deployment>,
    namespaces: BTreeMap<String, (u64, BTreeMap<String, String>)>,
    said: evidence::EvidenceObjects,
    logs: BTreeMap<String, (Vec<Written>, Option<Ledger>)>,
}

/// Something that happens.
type Meanwhile = Box<dyn FnOnce(&mut Cluster)>;

/// The cluster, what watches it, and the log.
pub struct Cluster {
    pub state: ClusterState,
    pub now: Moment,
    /// The server counts the generation of pods.
    trust_generation: bool,
    version: u64,
    serial: u64,
    up: bool,
    pub pods: BTreeMap<String, Pod>,
    deployments: BTreeMap<String, Deployment>,
    namespaces: BTreeMap<String, (u64, BTreeMap<String, String>)>,
    environments: BTreeMap<String, Environment>,
    /// Watches that receive nothing: events and bookmarks are lost.
    stopped_watches: BTreeSet<WatchKind>,
    /// Events that wait to be delivered, by stream.
    delayed: Option<BTreeMap<WatchKind, VecDeque<WatchedChange>>>,
    next_bookmark: Moment,
    mark: Moment,
    names: BTreeMap<Fingerprint, String>,
    reader: Fleet,
    pub warnings: Vec<String>,
    /// The API server refuses entries that hold names.
    pub refusing: bool,
    /// How long an append takes, as the recorder says.
    pub append_takes: Duration,
    /// How far the wall clock was set back.
    pub set_back: Duration,
    /// The latest time that the operator was told.
    told: Timestamp,
    said: evidence::EvidenceObjects,
    /// What happens while the next entries are being written.
    meanwhile: Option<Meanwhile>,
}

impl Cluster {
    /// An empty cluster with the namespaces `shop` and `blog` and the environment `prod` of all that runs, whose silent
    /// baseline is written.
    pub fn new() -> Self {
        Self::settling("{}")
    }

    /// The same with other settle times (YAML).
    pub fn settling(settle: &str) -> Self {
        let mut cluster = Self::watched(true, &format!("settle: {settle}"));
        assert_eq!(cluster.new_events(), ["silence: Baseline"]);
        cluster.pass(60);
        cluster
    }

    /// A cluster with the environment `prod` (YAML), which is being watched.
    pub fn watched(trust_generation: bool, environment: &str) -> Self {
        let mut cluster = Self::bare(trust_generation);
        cluster.environment("prod", environment);
        cluster.begin();
        cluster
    }

    /// A cluster without environments, before the operator runs.
    pub fn bare(trust_generation: bool) -> Self {
        let mut cluster = Self {
            state: empty_state(trust_generation, Moment::from_secs(1_000)),
            now: Moment::from_secs(1_000),
            trust_generation,
            version: 1_000,
            serial: 0,
            up: false,
            pods: BTreeMap::new(),
            deployments: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            environments: BTreeMap::new(),
            stopped_watches: BTreeSet::new(),
            delayed: None,
            next_bookmark: Moment::from_secs(1_060),
            mark: Moment::ZERO,
            names: BTreeMap::new(),
            reader: Fleet::default(),
            warnings: vec![],
            refusing: false,
            append_takes: Duration::ZERO,
            set_back: Duration::ZERO,
            told: Timestamp::UNIX_EPOCH,
            said: evidence::EvidenceObjects::default(),
            meanwhile: None,
        };
        for namespace in ["shop", "blog"] {
            cluster.namespace(namespace, &[]);
        }
        cluster
    }

    /// The wall clock.
    pub fn wall(&self) -> Timestamp {
        let span = |span: Duration| SignedDuration::try_from(span).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + span(self.now.since_start())
            - span(self.set_back)
    }

    // ---- the operator ----

    /// Creates an environment, or edits its spec (YAML).
    pub fn environment(&mut self, name: &str, spec: &str) {
        self.environment_quietly(name, spec);
        self.turn();
    }

    /// The same without running the recorder.
    pub fn environment_quietly(&mut self, name: &str, spec: &str) {
        self.environment_as(name, serde_saphyr::from_str(spec).unwrap());
    }

    /// The same with a spec that was read already.
    fn environment_as(&mut self, name: &str, spec: EnvironmentSpec) {
        let uid = format!("{name}-{}", self.serial);
        let now = self.now;
        let env = self
            .environments
            .entry(name.to_owned())
            .or_insert(Environment {
                uid,
                spec: EnvironmentSpec::default(),
                log: vec![],
                replayed: None,
                wake: now,
                frozen: None,
                heard: 0,
                last_cut: None,
            });
        env.spec = spec;
        if self.up {
            self.state
                .environment_seen(&EnvironmentId::new(name, &env.uid), &env.spec, now);
        }
    }

    /// Deletes an environment.
    pub fn environment_gone(&mut self, name: &str) {
        let env = self.environments.remove(name).unwrap();
        self.state
            .environment_gone(&EnvironmentId::new(name, &env.uid));
        self.serial += 1;
    }

    /// The log of an environment is read again, as after somebody else has written to it.
    pub fn read_again(&mut self, name: &str) {
        let id = EnvironmentId::new(name, &self.environments[name].uid);
        self.state.log_is_stale(&id);
        self.turn();
    }

    /// The operator stops.
    pub fn stop(&mut self) {
        self.up = false;
    }

    /// The operator starts, with nothing but the log and fresh lists.
    pub fn begin(&mut self) {
        self.up = true;
        self.state = empty_state(self.trust_generation, self.now);
        self.list_evidence();
        for (name, env) in &mut self.environments {
            self.state
                .environment_seen(&EnvironmentId::new(name, &env.uid), &env.spec, self.now);
            (env.wake, env.last_cut) = (self.now, None);
        }
        for kind in [
            WatchKind::Namespaces,
            WatchKind::Deployments,
            WatchKind::Pods,
        ] {
            self.list(kind);
        }
    }

    /// The operator starts and has listed everything before it reads the log.
    pub fn begin_before_reading_the_log(&mut self) {
        self.up = true;
        self.state = ClusterState::new(self.trust_generation, HOME);
        for kind in &OWN[1..] {
            self.list_own(*kind);
        }
        self.list_evidence();
        for kind in [
            WatchKind::Pods,
            WatchKind::Deployments,
            WatchKind::Namespaces,
        ] {
            self.list(kind);
        }
        self.now += seconds(1);
        for (name, env) in &mut self.environments {
            self.state
                .environment_seen(&EnvironmentId::new(name, &env.uid), &env.spec, self.now);
            (env.wake, env.last_cut) = (self.now, None);
        }
        self.list_own(WatchKind::Environments);
        self.turn();
    }

    /// A list of one of our own kinds ends.
    fn list_own(&mut self, kind: WatchKind) {
        self.state.list_begins(kind);
        self.state.list_ends(kind, 1, self.now, self.now);
    }

    /// An older release has written the log.
    pub fn count_by_older_rules(&mut self, environment: &str) {
        let log = &mut self.environments.get_mut(environment).unwrap().log;
        let mut previous = None;
        for written in log {
            let spec = &mut written.spec;
            (spec.census_version, spec.previous) = (0, previous);
            spec.content_hash = content_hash(spec);
            previous = Some(spec.content_hash.clone());
        }
    }

    /// The operator stops and starts.
    pub fn restart(&mut self) {
        self.stop();
        self.begin();
    }

    /// Reads a complete list of a kind. A list brings its own version; one that is given instead comes from a cluster
    /// whose store was set back.
    pub fn list(&mut self, kind: WatchKind) {
        self.list_quietly(kind);
        self.turn();
    }

    /// The same without running the recorder.
    fn list_quietly(&mut self, kind: WatchKind) {
        let (now, version) = (self.now, self.version);
        self.state.list_begins(kind);
        match kind {
            WatchKind::Pods => {
                for pod in self.pods.values() {
                    let warned = self.state.seen::<PodView>(seen(&pod.json()), true, now);
                    self.warnings.extend(warned);
                }
            }
            WatchKind::Deployments => {
                for deployment in self.deployments.values() {
                    self.state
                        .seen::<DeploymentView>(seen(&deployment.json()), true, now);
                }
            }
            WatchKind::Namespaces => {
                for (name, (version, labels)) in &self.namespaces {
                    let object = namespace_json(name, *version, labels);
                    self.state.seen::<NamespaceView>(seen(&object), true, now);
                }
            }
            WatchKind::Environments => {
                for (name, env) in &self.environments {
                    let id = EnvironmentId::new(name, &env.uid);
                    self.state.environment_seen(&id, &env.spec, now);
                }
            }
            WatchKind::Settings => {}
            WatchKind::Provenances | WatchKind::Approvals | WatchKind::Allowances => {
                self.take_in_evidence(kind);
            }
        }
        self.state.list_ends(kind, version, now, now);
    }

    /// Runs the recorder as far as it gets now.
    fn turn(&mut self) {
        if !self.up {
            return;
        }
        for rounds in 0.. {
            assert!(rounds < 100, "it never comes to rest");
            for kind in WatchKind::ALL {
                if self.state.stream(kind).relist && !self.stopped_watches.contains(&kind) {
                    self.list(kind);
                }
            }
            let mut due = self.state.take_touched();
            let waiting = self.environments.iter();
            due.extend(
                waiting
                    .filter(|(_, env)| env.wake <= self.now)
                    .map(|(name, _)| name.clone()),
            );
            due.retain(|name| self.environments.contains_key(name));
            if due.is_empty() {
                return;
            }
            for name in due {
                self.keep(&name);
            }
        }
    }

    fn keep(&mut self, name: &str) {
        let (now, wall) = (self.now, self.wall());
        self.told = self.told.max(wall);
        let plan = self.state.plan(name, now, wall);
        let went_back = self.state.log_is_in_doubt(name) && !self.is_head(name);
        let env = self.environments.get_mut(name).unwrap();
        env.frozen = None;
        match plan {
            Plan::Frozen(frozen) if frozen.reason == FrozenReason::ReadingLog => {
                self.read_log(name);
            }
            Plan::Frozen(frozen) => {
                let reason = frozen.reason.as_str();
                env.frozen = Some(reason);
                env.wake = now + seconds(5);
            }
            Plan::Wait(until) => {
                assert!(until.is_none_or(|until| until > now), "a wait that is over");
                let idle = now + seconds(30);
                env.wake = until.map_or(idle, |until| until.min(idle));
            }
            Plan::Append(_) if went_back => {
                self.state.log_is_stale(&EnvironmentId::new(name, &env.uid));
                env.wake = now;
            }
            Plan::Append(mut draft) => {
                if self.refusing {
                    reduce(&mut draft);
                }
                let last = env.last_cut.replace(now);
                let quiet = SettleTimes::of(env.spec.settle.as_ref()).quiet;
                let pause = quiet.clamp(Duration::from_millis(100), seconds(1));
                assert!(
                    last.is_none_or(|last| last + pause <= now),
                    "cuts come too fast"
                );
                if let Some(meanwhile) = self.meanwhile.take() {
                    meanwhile(self);
                }
                for entry in draft {
                    self.append(name, &entry);
                }
            }
        }
    }

    /// Whether the head that the operator knows is the newest entry of the log.
    fn is_head(&self, name: &str) -> bool {
        let known = self.state.head_read(name).map(|(ledger, _)| ledger);
        let known = known.map(|ledger| (ledger.index, ledger.content_hash.clone()));
        let last = self.environments[name].log.last();
        known == last.map(|last| (last.spec.index, last.spec.content_hash.clone()))
    }

    fn append(&mut self, name: &str, entry: &Entry) {
        let env = self.environments.get_mut(name).unwrap();
        let Entry {
            spec,
            chunks,
            after,
        } = entry.clone();
        let json = serde_json::to_string(&spec).unwrap();
        assert!(json.len() < 400_000, "{} bytes", json.len());
        let read: EnvironmentSnapshotSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(read, spec, "it is read as it was written");
        let refusal = schema::refusal("environmentsnapshots", "spec", &spec);
        assert_eq!(refusal, None, "it is accepted");
        assert_eq!(spec.content_hash, content_hash(&spec));
        assert!(!spec.causes.is_empty());
        let before = env.log.last().map(|written| &written.spec);
        assert_eq!(spec.index, before.map_or(1, |before| before.index + 1));
        assert_eq!(
            spec.previous,
            before.map(|before| before.content_hash.clone())
        );
        assert!(before.is_none_or(|before| before.time <= spec.time));
        let of_artifacts = spec.events.iter().filter(|event| event.change.is_some());
        assert!(of_artifacts.eq(&cut::events(&spec.changes)));
        let rollout = SettleTimes::of(env.spec.settle.as_ref()).rollout;
        let written = Written {
            at: self.now,
            spec,
            chunks,
        };
        let rebased = written.spec.causes.iter().any(|cause| {
            matches!(
                cause,
                Cause::Baseline | Cause::ScopeChanged | Cause::RulesChanged | Cause::HistoryLost
            )
        });
        // The entry itself does not tell how big a checkpoint in chunks is.
        let whole = rebased
            || !written.chunks.is_empty()
            || written.spec.changes.iter().any(|c| c.more_workloads > 0);
        let mut replayed = None;
        if !whole {
            let mut ledger = env.replayed.clone().unwrap();
            ledger
                .apply(&written.spec, rollout, &mut self.reader)
                .unwrap();
            assert_same(&ledger, &after, self.told, "replayed");
            // Those that are gone are left out of the next checkpoint.
            let known = |(id, it)| ledger.containers.get(id) == Some(it);
            assert!(after.containers.iter().all(known));
            replayed = Some(ledger);
        }
        if let Some(data) = written.checkpoint() {
            let ledger = Ledger::restore(&written.spec, &data, &mut self.reader).unwrap();
            assert_same(&ledger, &after, self.told, "restored");
            assert_eq!(ledger.containers, after.containers);
            assert_eq!(ledger.rollouts, after.rollouts);
            replayed = Some(ledger);
        }
        env.replayed = replayed;
        env.log.push(written);
        let uid = env.uid.clone();
        self.state.appended(
            &EnvironmentId::new(name, &uid),
            entry,
            self.append_takes,
            self.now,
        );
    }

    fn read_log(&mut self, name: &str) {
        let env = &self.environments[name];
        let Some(base) = env.log.iter().rposition(|w| w.spec.checkpoint.is_some()) else {
            return self.state.log_is_blank(
                &EnvironmentId::new(name, &env.uid),
                None,
                Cause::Baseline,
            );
        };
        let rollout = SettleTimes::of(env.spec.settle.as_ref()).rollout;
        let fleet = self.state.fleet_mut();
        let data = env.log[base].checkpoint().unwrap();
        let mut ledger = Ledger::restore(&env.log[base].spec, &data, fleet).unwrap();
        for written in &env.log[base + 1..] {
            ledger.apply(&written.spec, rollout, fleet).unwrap();
        }
        let now = self.now;
        self.state
            .log_is_read(&EnvironmentId::new(name, &env.uid), Arc::new(ledger), now);
    }

    // ---- time ----

    /// Advances the clock by seconds.
    pub fn pass(&mut self, number: u64) {
        self.pass_span(seconds(number));
    }

    /// The same; this happens while the next entries are being written.
    pub fn pass_while_writing(&mut self, number: u64, meanwhile: impl FnOnce(&mut Self) + 'static) {
        self.meanwhile = Some(Box::new(meanwhile));
        self.pass(number);
    }

    /// Advances the clock.
    pub fn pass_span(&mut self, span: Duration) {
        let end = self.now + span;
        self.turn();
        loop {
            let wakes = self.environments.values().map(|env| env.wake);
            let next = if self.up { wakes.min() } else { None };
            let next = next.map_or(self.next_bookmark, |next| next.min(self.next_bookmark));
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            if self.next_bookmark <= self.now {
                self.bookmark();
            }
            self.turn();
        }
        self.now = end;
        self.turn();
    }

    fn bookmark(&mut self) {
        self.next_bookmark = self.now + seconds(60);
        if self.up {
            for kind in WatchKind::ALL {
                if !self.stopped_watches.contains(&kind) && self.state.stream(kind).synced {
                    self.state.bookmark(kind, self.version, self.now);
                }
            }
            self.state.tick(self.now);
        }
    }

    // ---- the store ----

    /// All that the store of the cluster holds now.
    pub fn backup(&self) -> Backup {
        let logs = self.environments.iter();
        let logs = logs.map(|(name, env)| (name.clone(), (env.log.clone(), env.replayed.clone())));
        Backup {
            version: self.version,
            pods: self.pods.clone(),
            deployments: self.deployments.clone(),
            namespaces: self.namespaces.clone(),
            said: self.said.clone(),
            logs: logs.collect(),
        }
    }

    /// The store is set back. All watches are interrupted by that, and no one hears of what changed.
    pub fn put_back(&mut self, backup: &Backup) {
        let backup = backup.clone();
        self.version = backup.version;
        (self.pods, self.deployments) = (backup.pods, backup.deployments);
        (self.namespaces, self.said) = (backup.namespaces, backup.said);
        for (name, env) in &mut self.environments {
            (env.log, env.replayed) = backup.logs[name].clone();
            env.heard = env.heard.min(env.log.len());
        }
        self.state.interrupted(self.now);
    }

    // ---- watches ----

    /// A watch receives nothing any more.
    pub fn stop_watch(&mut self, kind: WatchKind) {
        self.stopped_watches.insert(kind);
    }

    /// A watch receives events again; what it missed comes with a new list.
    pub fn resume_watch(&mut self, kind: WatchKind) {
        self.stopped_watches.remove(&kind);
        self.list(kind);
    }

    /// Events are delayed from now on.
    pub fn hold(&mut self) {
        self.delayed = Some(BTreeMap::new());
    }

    /// Delivers the next event of a stream; false if there is none.
    pub fn deliver_next(&mut self, kind: WatchKind) -> bool {
        let queue = self
            .delayed
            .as_mut()
            .and_then(|delayed| delayed.get_mut(&kind));
        let Some(told) = queue.and_then(VecDeque::pop_front) else {
            return false;
        };
        self.deliver(&told);
        true
    }

    /// Delivers all events that were delayed, and delays no more.
    pub fn deliver_all(&mut self) {
        let environments = std::mem::take(&mut self.environments);
        for kind in WatchKind::ALL {
            while self.deliver_next(kind) {}
        }
        self.delayed = None;
        self.environments = environments;
        self.turn();
    }

    /// Delivers the next event of a stream without running the recorder.
    pub fn deliver_quietly(&mut self, kind: WatchKind) -> bool {
        let environments = std::mem::take(&mut self.environments);
        let delivered = self.deliver_next(kind);
        self.environments = environments;
        delivered
    }

    fn happens(&mut self, told: WatchedChange) {
        if let Some(delayed) = &mut self.delayed {
            delayed.entry(told.kind()).or_default().push_back(told);
        } else {
            self.deliver(&told);
        }
    }

    fn deliver(&mut self, told: &WatchedChange) {
        if !self.up || self.stopped_watches.contains(&told.kind()) {
            return;
        }
        let (state, now) = (&mut self.state, self.now);
        let warned = match told {
            WatchedChange::Pod(object) => state.seen::<PodView>(seen(object), false, now),
            WatchedChange::Deployment(object) => {
                state.seen::<DeploymentView>(seen(object), false, now)
            }
            WatchedChange::Namespace(object) => {
                state.seen::<NamespaceView>(seen(object), false, now)
            }
            WatchedChange::PodGone(object) => {
                state.deleted::<PodView>(&seen(object), now);
                vec![]
            }
            WatchedChange::DeploymentGone(object) => {
                state.deleted::<DeploymentView>(&seen(object), now);
                vec![]
            }
            WatchedChange::NamespaceGone(object) => {
                state.deleted::<NamespaceView>(&seen(object), now);
                vec![]
            }
        };
        self.warnings.extend(warned);
        self.turn();
    }

    fn step(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    // ---- objects ----

    /// Creates a namespace, or sets its labels.
    pub fn namespace(&mut self, name: &str, labels: &[(&str, &str)]) {
        let version = self.step();
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let object = namespace_json(name, version, &labels);
        self.namespaces.insert(name.to_owned(), (version, labels));
        self.happens(WatchedChange::Namespace(object));
    }

    /// Removes a namespace.
    pub fn namespace_gone(&mut self, name: &str) {
        let (_, labels) = self.namespaces.remove(name).unwrap();
        let object = namespace_json(name, self.step(), &labels);
        self.happens(WatchedChange::NamespaceGone(object));
    }

    /// Creates a Deployment or changes it.
    pub fn deployment(&mut self, workload: &str, change: impl FnOnce(&mut Deployment)) {
        let (_, namespace, name) = parts(workload);
        let version = self.step();
        let deployment = self
            .deployments
            .entry(workload.to_owned())
            .or_insert(Deployment {
                namespace,
                name,
                version,
                generation: 1,
                observed: 1,
                reason: "NewReplicaSetAvailable",
                paused: false,
            });
        change(deployment);
        deployment.version = version;
        let object = deployment.json();
        self.happens(WatchedChange::Deployment(object));
    }

    /// Removes a Deployment.
    pub fn deployment_gone(&mut self, workload: &str) {
        let mut deployment = self.deployments.remove(workload).unwrap();
        deployment.version = self.step();
        self.happens(WatchedChange::DeploymentGone(deployment.json()));
    }

    /// Creates a pod of a workload, whose containers do not run yet; its name. A workload is the name of a Deployment in
    /// `shop`, or what else it is: `blog/web`, `StatefulSet db`, `Pod one`.
    pub fn create(&mut self, workload: &str, revision: &str, images: &[&str]) -> String {
        self.serial += 1;
        let serial = self.serial;
        let (kind, namespace, owner) = parts(workload);
        let mut labels = BTreeMap::from([("app".to_owned(), owner.clone())]);
        let (name, owner) = match kind.as_str() {
            "Deployment" => {
                labels.insert("pod-template-hash".to_owned(), revision.to_owned());
                let set = format!("{owner}-{revision}");
                (
                    format!("{set}-{serial}"),
                    Some(("apps/v1", "ReplicaSet".to_owned(), set)),
                )
            }
            "Pod" => (owner, None),
            "Job" => (
                format!("{owner}-{serial}"),
                Some(("batch/v1", kind.clone(), owner)),
            ),
            _ => {
                labels.insert("controller-revision-hash".to_owned(), revision.to_owned());
                (
                    format!("{owner}-{serial}"),
                    Some(("apps/v1", kind.clone(), owner)),
                )
            }
        };
        let containers = images.iter().zip(0..).map(|(image, number)| {
            self.names.insert(digest(image), (*image).to_owned());
            Container {
                name: format!("c{number}"),
                image: format!("registry.example/{image}:1"),
                image_id: String::new(),
                id: String::new(),
                state: State::Waiting,
                restarts: 0,
            }
        });
        let containers = containers.collect();
        let pod = Pod {
            namespace,
            name: name.clone(),
            uid: format!("pod {serial}"),
            version: 0,
            generation: 1,
            labels,
            owner,
            containers,
            init: vec![],
            ends: None,
            phase: "Pending",
            restart_policy: "Always",
            garbled: false,
            workload: workload.to_owned(),
            revision: revision.to_owned(),
        };
        self.pods.insert(name.clone(), pod);
        self.change(&name, |_| ());
        name
    }

    /// Changes a pod.
    pub fn change(&mut self, pod: &str, change: impl FnOnce(&mut Pod)) {
        let version = self.step();
        let pod = self.pods.get_mut(pod).unwrap();
        change(pod);
        pod.version = version;
        let object = pod.json();
        self.happens(WatchedChange::Pod(object));
    }

    /// Changes the first container of a pod.
    pub fn container(&mut self, pod: &str, change: impl FnOnce(&mut Container)) {
        self.change(pod, |pod| change(&mut pod.containers[0]));
    }

    /// The containers of a pod start.
    pub fn run(&mut self, pod: &str) {
        self.change(pod, |pod| {
            pod.phase = "Running";
            for container in &mut pod.containers {
                let image = container
                    .image
                    .trim_start_matches("registry.example/")
                    .trim_end_matches(":1")
                    .to_owned();
                container.image_id = image_id(&image);
                container.id = format!("containerd://{} {}", pod.uid, container.name);
                container.state = State::Running;
            }
        });
    }

    /// Creates a pod that runs at once.
    pub fn running(&mut self, workload: &str, revision: &str, images: &[&str]) -> String {
        let pod = self.create(workload, revision, images);
        self.run(&pod);
        pod
    }

    /// A pod starts to terminate.
    pub fn terminate(&mut self, pod: &str) {
        let ends = self.wall() + SignedDuration::from_secs(30);
        self.change(pod, |pod| pod.ends = Some(ends));
    }

    /// A pod is gone.
    pub fn remove(&mut self, pod: &str) {
        let mut pod = self.pods.remove(pod).unwrap();
        pod.version = self.step();
        self.happens(WatchedChange::PodGone(pod.json()));
    }

    /// The pods of a workload, the oldest first; of one revision if it is not empty.
    pub fn pods_of(&self, workload: &str, revision: &str) -> Vec<String> {
        let mut pods: Vec<_> = self
            .pods
            .values()
            .filter(|pod| pod.workload == workload)
            .filter(|pod| revision.is_empty() || pod.revision == revision)
            .map(|pod| (pod.uid.len(), pod.uid.clone(), pod.name.clone()))
            .collect();
        pods.sort();
        pods.into_iter().map(|(_, _, name)| name).collect()
    }

    /// A workload of so many running pods appears at once; its revision is called like its first image.
    pub fn start(&mut self, workload: &str, images: &[&str], number: usize) {
        if parts(workload).0 == "Deployment" {
            self.deployment(workload, |_| ());
        }
        for _ in 0..number {
            self.running(workload, images[0], images);
        }
    }

    /// A workload of the only revision that it has grows or shrinks at once, as by `kubectl scale`.
    pub fn scale(&mut self, workload: &str, number: usize) {
        let mut pods = self.pods_of(workload, "");
        let images: Vec<String> = self.pods[&pods[0]]
            .containers
            .iter()
            .map(|c| {
                c.image
                    .trim_start_matches("registry.example/")
                    .trim_end_matches(":1")
                    .to_owned()
            })
            .collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let revision = self.pods[&pods[0]].revision.clone();
        while pods.len() < number {
            pods.push(self.running(workload, &revision, &images));
        }
        while pods.len() > number {
            let pod = pods.pop().unwrap();
            self.terminate(&pod);
            self.remove(&pod);
        }
    }

    /// A Deployment is rolled out to other images, pod by pod, each taking so many seconds; `number` new ones in the end.
    pub fn roll(
        &mut self,
        workload: &str,
        images: &[&str],
        revision: &str,
        number: usize,
        each: u64,
    ) {
        let old = self.pods_of(workload, "");
        let deployment = parts(workload).0 == "Deployment";
        if deployment {
            self.deployment(workload, |d| d.generation += 1);
            self.deployment(workload, |d| {
                (d.observed, d.reason) = (d.generation, "ReplicaSetUpdated");
            });
        }
        for turn in 0..old.len().max(number) {
            if turn < number {
                let pod = self.create(workload, revision, images);
                self.pass_span(seconds(each) / 2);
                self.run(&pod);
            }
            if let Some(old) = old.get(turn) {
                self.terminate(old);
                self.pass_span(seconds(each) / 2);
                self.remove(old);
            }
        }
        if deployment {
            self.deployment(workload, |d| d.reason = "NewReplicaSetAvailable");
        }
    }

    // ---- what is told ----

    /// The log of an environment.
    pub fn log(&self, environment: &str) -> &[Written] {
        &self.environments[environment].log
    }

    /// The state of the log at its head.
    pub fn recorded(&self, environment: &str) -> &Ledger {
        self.environments[environment].replayed.as_ref().unwrap()
    }

    /// Why nothing is recorded of an environment.
    pub fn frozen(&self, environment: &str) -> Option<&'static str> {
        self.environments[environment].frozen
    }

    /// The events of `prod` since the last call, one text for each snapshot.
    pub fn new_events(&mut self) -> Vec<String> {
        self.new_events_of("prod")
    }

    /// The events of an environment since the last call.
    pub fn new_events_of(&mut self, environment: &str) -> Vec<String> {
        let env = self.environments.get_mut(environment).unwrap();
        let fresh = &env.log[env.heard..];
        env.heard = env.log.len();
        let names = &self.names;
        fresh
            .iter()
            .filter(|written| is_news(written))
            .map(|written| story(&written.spec, names))
            .collect()
    }

    /// From here on `timed` counts.
    pub fn mark(&mut self) {
        self.mark = self.now;
    }

    /// The events of `prod` since the last call, with the seconds since the mark.
    pub fn timed(&mut self) -> Vec<String> {
        let heard = self.environments["prod"].heard;
        let told = self.new_events();
        let log = &self.environments["prod"].log[heard..];
        log.iter()
            .filter(|written| is_news(written))
            .zip(told)
            .map(|(written, told)| {
                format!(
                    "{}s {told}",
                    written.at.saturating_sub(self.mark).as_secs_f64()
                )
            })
            .collect()
    }

    /// What runs now, by artifact, counted in the simplest way: running pods of `shop` and `blog` that don't hang by the default
    /// settle times.
    pub fn actual(&self, in_scope: impl Fn(&Pod) -> bool) -> BTreeMap<Fingerprint, u32> {
        let mut counts = BTreeMap::new();
        let wall = self.wall();
        let hangs = |pod: &Pod| {
            pod.ends
                .is_some_and(|ends| ends + SignedDuration::from_mins(14) <= wall)
        };
        let pods = self.pods.values().filter(|pod| in_scope(pod));
        for pod in pods.filter(|pod| !hangs(pod)) {
            let images: BTreeSet<_> = pod
                .containers
                .iter()
                .filter(|c| match c.state {
                    State::Waiting => false,
                    State::Running => true,
                    State::Crashed => pod.ends.is_none(),
                })
                .filter(|_| pod.phase != "Failed")
                .map(|c| c.image_id.clone())
                .collect();
            for image in images {
                let hex = image.rsplit(':').next().unwrap();
                *counts
                    .entry(Fingerprint::from_hex(hex).unwrap())
                    .or_insert(0) += 1;
            }
        }
        counts
    }

    /// Checks that nothing is left to record and that the log agrees with what runs.
    pub fn assert_at_rest(&mut self) {
        assert_eq!(
            self.state.self_check(self.now),
            0,
            "the running counts are right"
        );
        for (name, env) in &self.environments {
            let plan = self.state.plan(name, self.now, self.wall());
            assert!(matches!(plan, Plan::Wait(None)), "{name}: {plan:?}");
            assert_eq!(env.frozen, None);
        }
    }
}

/// A state that has listed our own kinds, of which there are no objects.
pub fn empty_state(trust_generation: bool, now: Moment) -> ClusterState {
    let mut state = ClusterState::new(trust_generation, HOME);
    for kind in OWN {
        state.list_begins(kind);
        state.list_ends(kind, 1, now, now);
    }
    state
}

fn seen<T: SlimView>(object: &str) -> Decoded<T> {
    serde_json::from_str::<Decoded<T>>(object).unwrap()
}

fn namespace_json(name: &str, version: u64, labels: &BTreeMap<String, String>) -> String {
    json!({"metadata": {"name": name, "uid": format!("namespace {name}"), "resourceVersion": version.to_string(), "labels": labels}}).to_string()
}

/// The `imageID` that a runtime reports.
pub fn image_id(image: &str) -> String {
    format!("registry.example/{image}@sha256:{}", digest(image))
}

/// Kind, namespace and name of a workload.
fn parts(workload: &str) -> (String, String, String) {
    let (kind, name) = workload.split_once(' ').unwrap_or(("Deployment", workload));
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    (kind.to_owned(), namespace.to_owned(), name.to_owned())
}

/// The events of a snapshot, in short.
pub fn story(spec: &EnvironmentSnapshotSpec, names: &BTreeMap<Fingerprint, String>) -> String {
    let told: Vec<String> = spec
        .events
        .iter()
        .map(|told| {
            let Some(change) = event::change(spec, told) else {
                return match told.type_ {
                    EventType::EnvironmentCompliant => "green".to_owned(),
                    _ => format!("red: {}", spec.compliance.reasons.join("; ")),
                };
            };
            let verb = match told.type_ {
                EventType::ArtifactStarted => "started",
                EventType::ArtifactStopped => "stopped",
                EventType::ArtifactScaled => "scaled",
                _ => "allowed",
            };
            let name = Fingerprint::from_hex(&change.fingerprint)
                .and_then(|fingerprint| names.get(&fingerprint))
                .unwrap_or(&change.name);
            format!("{verb} {name} {}>{}", change.was, change.now)
        })
        .collect();
    if told.is_empty() {
        let causes: Vec<String> = spec.causes.iter().map(|c| format!("{c:?}")).collect();
        return format!("silence: {}", causes.join(" "));
    }
    told.join(", ")
}

/// That a rollout is over is no news.
fn is_news(written: &Written) -> bool {
    written.spec.causes != [Cause::RolloutCompleted]
}

fn assert_same(read: &Ledger, after: &Ledger, told: Timestamp, how: &str) {
    assert_eq!(read.cells(), after.cells(), "{how}");
    assert_eq!(
        read.artifacts().collect::<Vec<_>>(),
        after.artifacts().collect::<Vec<_>>()
    );
    assert_eq!(read.names, after.names, "{how}");
    assert_eq!(read.identities, after.identities, "{how}");
    assert_eq!(read.scope, after.scope, "{how}");
    assert_eq!(
        (read.index, &read.content_hash, read.time, &read.read_at),
        (after.index, &after.content_hash, after.time, &after.read_at),
        "{how}"
    );
    assert_eq!(
        (read.census_version, read.unidentified, &read.compliance),
        (after.census_version, after.unidentified, &after.compliance),
        "{how}"
    );
    assert_eq!(read.seen, after.seen, "{how}");
    assert_eq!(read.facts, after.facts, "{how}");
    assert_eq!(read.allowed, after.allowed, "{how}");
    assert_eq!(read.totals(), after.totals(), "{how}");
    let open = |ledger: &Ledger| {
        let open = ledger.rollouts.iter();
        let open = open.filter(|(_, until)| **until > told);
        open.map(|(workload, until)| (workload.clone(), *until))
            .collect::<Vec<_>>()
    };
    assert_eq!(open(read), open(after), "{how}");
    assert_eq!(
        (read.since_checkpoint, read.checkpoint_size),
        (after.since_checkpoint, after.checkpoint_size),
        "{how}"
    );
    // A rollout that is over, if only by a clock that was ahead, is forgotten without a word in the log: a reader of the log
    // may wait for more.
    for (workload, until) in &after.rollouts {
        assert_eq!(read.rollouts.get(workload), Some(until), "{how}");
    }
}
