//! The state of the cluster and of all environments. Changes of objects go in, plans of what to record come out.

mod environment;
mod evidence;
mod objects;
mod plan;
mod summary;
mod write_rate;

pub use objects::FleetObject;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentSpec,
        condition::reasons,
        environment::EnvironmentId,
        snapshot::{Cause, Compliance, EnvironmentSnapshotSpec, Totals, Verdict},
    },
    cluster::{
        fleet::{Fleet, Workload},
        image::Fingerprint,
        pod_view::NamespaceView,
        scope::Scope,
        watch_progress::{ListEnd, StreamState, WatchKind},
    },
    compliance::{
        artifact_identity::{RecordedIdentities, TrustedNamespaces},
        artifact_rules::ArtifactRules,
        evidence::{Evidence, EvidenceKey, EvidenceKind},
    },
    snapshot::{
        assessment::AssessmentState,
        census::Census,
        cut::Entry,
        ledger::{ArtifactFacts, Ledger},
        settle::{Comparison, SettleTimes, Unsettled},
        state::write_rate::WriteRate,
        unrecorded::Unrecorded,
    },
    time::Moment,
};

/// What is counted and recorded of an environment.
#[derive(Debug, Default)]
struct EnvironmentState {
    uid: String,
    /// The scope of the spec. The scope of the ledger is counted until the change is recorded.
    wanted: Scope,
    settle: SettleTimes,
    /// The scope that is counted.
    scope: Scope,
    census: Census,
    unsettled: Unsettled,
    unrecorded: Unrecorded,
    /// The rollouts that were recorded before they were over: until when they are open, and since when that is known.
    open_since: BTreeMap<Arc<Workload>, (Timestamp, Moment)>,
    log: KnownLog,
    /// The rules, if there are any.
    rules: Option<ArtifactRules>,
    /// Whose records count.
    trust: TrustedNamespaces,
    /// Digests in the log that a provenance record declared to be one image.
    recorded: RecordedIdentities,
    /// Facts about the artifacts.
    assessment: AssessmentState,
    /// What does not comply, as the replica says that leads; empty in that one.
    reported: Vec<EnvironmentProblem>,
    /// When the live state first disagreed with the log about unidentified containers.
    unidentified_since: Option<Moment>,
    /// The log as it was before it had to be read again.
    before: Option<Arc<Ledger>>,
    /// Where the log ended before the store was set back.
    ended: Option<LogEnd>,
    /// The version of the pods when it was last planned what to record: which of them hang is known as of then. `None` before
    /// the first plan.
    planned: Option<u64>,
    last_cut: Option<Moment>,
    /// How long the last append took, with its wait for the budget of writes.
    last_append: Duration,
    write_rate: WriteRate,
    /// How long to wait between two cuts at least, because the logs are too big.
    cut_interval: Duration,
    restored: bool,
}

/// Where a log ends: the number of its last entry, and the hash of what that holds.
#[derive(Debug)]
struct LogEnd(i64, String);

impl LogEnd {
    fn of(ledger: &Ledger) -> Self {
        Self(ledger.index, ledger.content_hash.clone())
    }

    /// Whether the log went back from here: it ends before, or another entry has this number.
    fn is_behind(&self, now: Option<&Ledger>) -> bool {
        let Self(index, hash) = self;
        now.is_none_or(|now| now.index < *index || now.index == *index && now.content_hash != *hash)
    }
}

/// What is known of an environment's log.
#[derive(Debug, Default)]
enum KnownLog {
    /// It has not been read.
    #[default]
    Unread,
    /// It has no entry, or none that can be continued: the next one is a baseline, after `Ledger` if there is one.
    Blank(Option<Box<Ledger>>, Cause),
    /// Its state, and when the head was read.
    Read(Arc<Ledger>, Moment),
}

/// Why nothing is recorded. Missing information must never look as if everything had stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The reason of the condition Ready.
    pub reason: FrozenReason,
    /// The same as a sentence.
    pub message: String,
}

reasons! {
    /// Why nothing is recorded: the reasons of the condition Ready of an environment.
    pub enum FrozenReason {
        /// The log is being read.
        ReadingLog,
        /// Not everything that is needed has been listed.
        NotSynced,
        /// A watch was silent for too long.
        WatchStale,
        /// A watch has not reached what the log has seen.
        CatchingUp,
        /// The log may not be read or written.
        LogForbidden,
        /// The log can't be read or written.
        LogUnavailable,
    }
}

impl FrozenReason {
    fn because(self, message: impl Into<String>) -> Frozen {
        Frozen {
            reason: self,
            message: message.into(),
        }
    }
}

/// What to do about an environment.
#[derive(Debug)]
pub enum Plan {
    /// Nothing can be recorded now.
    Frozen(Frozen),
    /// Nothing until then, unless something changes.
    Wait(Option<Moment>),
    /// Append these.
    Append(Vec<Entry>),
}

/// A summary of an environment.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentSummary {
    /// The newest entry: index and time.
    pub head: Option<(i64, Timestamp)>,
    pub(crate) totals: Totals,
    /// Containers that run now and can't be identified.
    pub unidentified: i64,
    /// Whether it complies, according to the log.
    pub compliance: Compliance,
    /// Artifacts that violate the rules or lack evidence now: at most 20, and how many more.
    pub problems: (Vec<EnvironmentProblem>, usize),
    pub(crate) ruled: bool,
}

/// An artifact that does not comply.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentProblem {
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    /// Why, and until when missing evidence may arrive.
    pub verdict: Verdict,
}

/// An artifact that is recorded in an environment.
#[derive(Clone, Copy, Debug)]
pub struct RunningArtifact<'a> {
    pub(crate) environment: &'a str,
    /// The newest entry of its log.
    pub index: i64,
    /// Its canonical digest there.
    pub fingerprint: Fingerprint,
    /// Its name there.
    pub name: &'a str,
    /// How many instances of it are recorded.
    pub instances: u32,
    pub(crate) facts: Option<&'a ArtifactFacts>,
}

impl<'a> RunningArtifact<'a> {
    fn of(environment: &'a str, ledger: &'a Ledger, fingerprint: Fingerprint) -> Self {
        let name = ledger.names.get(&fingerprint);
        Self {
            environment,
            index: ledger.index,
            fingerprint,
            name: name.map(String::as_str).unwrap_or_default(),
            instances: ledger.total(&fingerprint),
            facts: ledger.facts.get(&fingerprint),
        }
    }

    /// Whether it complies with the rules there, if there are any.
    pub fn verdict(&self) -> Option<&'a Verdict> {
        self.facts?.verdict.as_ref()
    }
}

/// The state of the cluster and of all environments.
#[derive(Debug, Default)]
pub struct ClusterState {
    fleet: Fleet,
    /// By kind.
    streams: [StreamState; WatchKind::COUNT],
    /// How often the cluster's store was set back to an older state.
    era: u64,
    /// When a watch was last interrupted: what was known of the ends of logs before that is in doubt.
    interrupted: Option<Moment>,
    /// When this process began to lead.
    leads_since: Moment,
    /// Namespaces of an incomplete list. They are applied together, or pods would be counted by labels of different times.
    listed: Vec<NamespaceView>,
    environments: BTreeMap<String, EnvironmentState>,
    /// Which environments may have pods of a namespace: their places among all, as found so far.
    admitting: BTreeMap<Arc<str>, Arc<[usize]>>,
    evidence: Evidence,
    /// The operator's own namespace: its records count by default.
    own_namespace: String,
    /// Environments that may have something new to do.
    touched: BTreeSet<String>,
    /// Evidence whose status may have changed.
    dirty_status: BTreeSet<(EvidenceKind, EvidenceKey)>,
    /// More statuses may have to be written than when this was last asked.
    status_news: bool,
    /// Until when expired allowances have been dealt with.
    expired_until: Option<Timestamp>,
}

/// The state of an environment, unless another has its name by now.
fn with_id<'a>(
    environments: &'a mut BTreeMap<String, EnvironmentState>,
    environment: &EnvironmentId,
) -> Option<&'a mut EnvironmentState> {
    let known = environments.get_mut(&environment.name);
    known.filter(|env| env.uid == environment.uid)
}

impl ClusterState {
    /// `trust_generation`: the server maintains the generation of pods (1.35 and later). `own_namespace`: the operator's own
    /// namespace.
    pub fn new(trust_generation: bool, own_namespace: &str) -> Self {
        let mut state = Self {
            own_namespace: own_namespace.to_owned(),
            ..Self::default()
        };
        state.fleet.trust_generation = trust_generation;
        state
    }

    /// All evidence.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The pods.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The pods, for building ledgers whose workloads are shared with it.
    pub fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    /// How far a kind has been read.
    pub fn stream(&self, kind: WatchKind) -> &StreamState {
        &self.streams[kind as usize]
    }

    fn stream_mut(&mut self, kind: WatchKind) -> &mut StreamState {
        &mut self.streams[kind as usize]
    }

    /// Takes the environments that may have something new to do.
    pub fn take_touched(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched)
    }

    fn touch_all(&mut self) {
        self.touched.extend(self.environments.keys().cloned());
    }

    // ---- streams ----

    /// A list begins: objects that are not in it are removed when it is complete.
    pub fn list_begins(&mut self, kind: WatchKind) {
        self.stream_mut(kind).list_begins();
        if kind == WatchKind::Namespaces {
            self.listed.clear();
        }
    }

    /// A list that began at `begun` is complete.
    pub fn list_ends(
        &mut self,
        kind: WatchKind,
        version: u64,
        begun: Moment,
        now: Moment,
    ) -> ListEnd {
        let end = self.stream(kind).list_end(version);
        match end {
            ListEnd::Complete => self.list_is_complete(kind, version, begun, now),
            ListEnd::Outdated => {}
            ListEnd::SetBack => {
                self.new_era();
                for env in self.environments.values_mut() {
                    env.restored = true;
                }
            }
        }
        end
    }

    fn list_is_complete(&mut self, kind: WatchKind, version: u64, begun: Moment, now: Moment) {
        let mark = self.stream(kind).list_number;
        match kind {
            // An object that seems to be gone may be the one that can't be read.
            WatchKind::Pods | WatchKind::Deployments | WatchKind::Namespaces
                if self.stream(kind).holds_unknown =>
            {
                self.recount(now);
            }
            WatchKind::Pods => {
                for (namespace, uid) in self.fleet.unmarked_pods(mark) {
                    self.pod_gone(&namespace, uid, now);
                }
            }
            WatchKind::Deployments => {
                for deployment in self.fleet.unmarked_deployments(mark) {
                    self.deployment_gone(&deployment.namespace, &deployment.name, now);
                }
            }
            WatchKind::Namespaces => {
                for view in std::mem::take(&mut self.listed) {
                    self.namespace_seen(&view, mark, now);
                }
                for name in self.fleet.unmarked_namespaces(mark) {
                    self.namespace_gone(&name, now);
                }
            }
            // Whoever follows these has taken in what is gone.
            WatchKind::Environments
            | WatchKind::Settings
            | WatchKind::Provenances
            | WatchKind::Approvals
            | WatchKind::Allowances => {}
        }
        self.admitting.clear(); // namespaces without pods take no room
        let first = !self.stream(kind).synced;
        self.stream_mut(kind).list_ends(version, begun, now);
        if WatchKind::EVIDENCE.contains(&kind) && begun < self.leads_since {
            self.want_relist(kind); // it was under way when this process began to lead
        }
        if kind == WatchKind::Pods && first {
            self.recount(now);
        }
        self.status_news |= WatchKind::EVIDENCE.contains(&kind);
        let used = self.workloads_to_record();
        self.fleet
            .tidy_workloads(|workload| used.contains(workload));
        self.touch_all();
    }

    /// The workloads of which something is still to be recorded.
    fn workloads_to_record(&self) -> BTreeSet<Arc<Workload>> {
        let workloads = self.environments.values().flat_map(|env| {
            let dirty = env.unsettled.dirty().keys().map(|cell| &cell.workload);
            let open = env.ledgers().flat_map(|ledger| ledger.rollouts.keys());
            dirty.chain(open)
        });
        workloads.cloned().collect()
    }

    /// Forgets the workloads and containers that nothing refers to any more.
    pub fn tidy(&mut self) {
        let workloads = self.workloads_to_record();
        let environments = &self.environments;
        self.fleet.tidy(&workloads, |container| {
            let mut ledgers = environments.values().flat_map(EnvironmentState::ledgers);
            ledgers.any(|ledger| ledger.containers.contains_key(&container))
        });
    }

    /// The same when much has been added since the last time.
    fn tidy_in_time(&mut self) {
        if self.fleet.should_tidy() {
            self.tidy();
        }
    }

    /// How often the cluster's store was set back to an older state.
    pub fn era(&self) -> u64 {
        self.era
    }

    /// The cluster's store was set back to an older state, and the logs with it. Nothing is recorded before each kind has
    /// been listed anew, or what is no longer there would look as if it had stopped, and what is there again as if it had
    /// started.
    fn new_era(&mut self) {
        self.era += 1;
        self.listed.clear();
        for stream in &mut self.streams {
            stream.set_back();
        }
        for env in self.environments.values_mut() {
            env.planned = None; // of another count of versions
            if let Some(ledger) = env.ledger() {
                env.ended = Some(LogEnd::of(ledger));
            }
        }
        self.forget_logs();
    }

    /// All logs have to be read again, whatever was known of them.
    pub fn forget_logs(&mut self) {
        for env in self.environments.values_mut() {
            (env.log, env.before) = (KnownLog::Unread, None);
        }
        self.touch_all();
    }

    /// The log of an environment was read. Whether it went back from where it ended: then the cluster's store was set back,
    /// whatever version it has by now.
    fn log_went_back(&mut self, environment: &EnvironmentId, now: Option<&Ledger>) -> bool {
        let Some(env) = with_id(&mut self.environments, environment) else {
            return false;
        };
        let ended = env.ended.take();
        env.restored |= ended.is_some_and(|ended| ended.is_behind(now));
        let before = env.before.as_deref().map(LogEnd::of);
        if !before.is_some_and(|before| before.is_behind(now)) {
            return false;
        }
        env.restored = true;
        self.new_era();
        true
    }

    /// The number of known pods, including those that could never be read.
    pub fn known_pods(&self) -> usize {
        self.fleet.pod_count() + self.unread_pods().count()
    }

    /// The namespaces of the pods that could never be read.
    fn unread_pods(&self) -> impl Iterator<Item = &str> {
        let unreadable = self.stream(WatchKind::Pods).unreadable.iter();
        let unread = unreadable.filter(|(uid, pod)| !self.fleet.has_pod(&pod.namespace, **uid));
        unread.map(|(_, pod)| pod.namespace.as_str())
    }

    /// How many pods of a scope could never be read.
    fn unread_pods_in(&self, scope: &Scope) -> usize {
        let admits = |namespace: &&str| {
            scope.admits_namespace(namespace, self.fleet.namespace_labels(namespace))
        };
        self.unread_pods().filter(admits).count()
    }

    /// A bookmark: nothing happened up to this version.
    pub fn bookmark(&mut self, kind: WatchKind, version: u64, now: Moment) {
        let stream = self.stream_mut(kind);
        stream.advance(version, false, now);
        if stream.trouble.take().is_some() {
            self.touch_all();
        }
    }

    /// Nothing watches a kind just now. Whatever happens to the server meanwhile is not noticed.
    pub fn interrupted(&mut self, now: Moment) {
        self.interrupted = Some(now);
    }

    /// This process begins to lead: until now another one may have appended. What its log says of pods names the version at
    /// which they were read; evidence has none there, so all of it is listed again.
    pub fn begins_to_lead(&mut self, now: Moment) {
        self.interrupted(now);
        self.leads_since = now;
        for env in self.environments.values_mut() {
            env.reported.clear();
        }
        self.mark_all_status_dirty();
        for kind in WatchKind::EVIDENCE {
            self.want_relist(kind);
        }
    }

    /// Whether an environment's log may have been set back since its end was last seen. A store that is set back interrupts
    /// all watches.
    pub fn log_is_in_doubt(&self, name: &str) -> bool {
        match self.environments.get(name).map(|env| &env.log) {
            Some(KnownLog::Read(_, at)) => self.interrupted.is_some_and(|when| when >= *at),
            _ => false,
        }
    }

    /// A stream can't be read; it may never have been.
    pub fn stream_fails(&mut self, kind: WatchKind, why: String, forbidden: bool, now: Moment) {
        let stream = self.stream_mut(kind);
        stream.trouble = Some(why);
        if forbidden {
            stream.forbidden();
            if kind == WatchKind::Deployments {
                self.fleet.forget_deployments(now);
            }
        }
        self.touch_all();
    }

    /// Requests a new list.
    pub fn want_relist(&mut self, kind: WatchKind) {
        self.stream_mut(kind).relist = true;
    }

    /// Checks for streams that have become stale.
    pub fn tick(&mut self, now: Moment) {
        let stream = self.stream_mut(WatchKind::Deployments);
        if !stream.is_good(now) {
            let forgotten = std::mem::take(&mut stream.synced);
            // A watch that resumes does not bring back what was forgotten.
            stream.relist = true;
            if forgotten {
                self.fleet.forget_deployments(now);
            }
        }
        self.touch_all();
    }

    /// Counts every environment again.
    fn recount(&mut self, now: Moment) {
        for env in self.environments.values_mut() {
            env.recount(&self.fleet, &self.evidence, now);
        }
        self.touch_all();
    }

    // ---- environments ----

    /// An environment was listed, added or changed. True if its log has to be read: it is new here.
    pub fn environment_seen(
        &mut self,
        environment: &EnvironmentId,
        spec: &EnvironmentSpec,
        now: Moment,
    ) -> bool {
        let (wanted, settle) = (Scope::of(spec), SettleTimes::of(spec.settle.as_ref()));
        let (rules, trust) = (
            ArtifactRules::of(spec),
            ArtifactRules::trust(spec, &self.own_namespace),
        );
        let name = &environment.name;
        self.touched.insert(name.clone());
        if let Some(env) = with_id(&mut self.environments, environment) {
            env.settle = settle;
            env.wanted = wanted;
            if (&env.rules, &env.trust) != (&rules, &trust) {
                env.assessment.rules_edited();
                env.rules = rules;
            }
            let rescoped = !matches!(env.log, KnownLog::Read(..)) && env.scope != env.wanted;
            if rescoped {
                env.scope = env.wanted.clone();
                self.admitting.clear();
            }
            let retrusted = env.trust != trust;
            if rescoped || retrusted {
                env.trust = trust;
                env.recount(&self.fleet, &self.evidence, now);
            }
            if retrusted {
                self.mark_all_status_dirty();
            }
            return false;
        }
        let mut env = EnvironmentState {
            uid: environment.uid.clone(),
            scope: wanted.clone(),
            wanted,
            settle,
            rules,
            trust,
            ..EnvironmentState::default()
        };
        env.recount(&self.fleet, &self.evidence, now);
        self.environments.insert(name.clone(), env);
        self.admitting.clear();
        self.mark_all_status_dirty();
        true
    }

    /// Sets how long to wait between two cuts of an environment, at least; zero: as long as its settle times ask for.
    pub fn set_cut_interval(&mut self, environment: &EnvironmentId, interval: Duration) {
        if let Some(env) = with_id(&mut self.environments, environment) {
            env.cut_interval = interval;
        }
    }

    /// An environment was deleted.
    pub fn environment_gone(&mut self, environment: &EnvironmentId) {
        if with_id(&mut self.environments, environment).is_some() {
            self.environments.remove(&environment.name);
            self.admitting.clear();
            self.mark_all_status_dirty();
        }
    }

    /// The UID of an environment.
    pub fn uid(&self, name: &str) -> Option<&str> {
        self.environments.get(name).map(|env| env.uid.as_str())
    }

    /// The log of an environment has no entry (`end` is `None`), or none that can be continued (`end` is its last one): the
    /// next one is a baseline.
    pub fn log_is_blank(&mut self, environment: &EnvironmentId, end: Option<Ledger>, cause: Cause) {
        if self.log_went_back(environment, end.as_ref()) {
            return;
        }
        if let Some(env) = with_id(&mut self.environments, environment) {
            env.log = KnownLog::Blank(end.map(Box::new), cause);
            let empty = Ledger::empty(Scope::default());
            env.assessment = AssessmentState::of(&empty);
            self.touched.insert(environment.name.clone());
        }
    }

    /// The log of an environment has been read.
    pub fn log_is_read(&mut self, environment: &EnvironmentId, ledger: Arc<Ledger>, now: Moment) {
        if self.log_went_back(environment, Some(&ledger)) {
            return;
        }
        if with_id(&mut self.environments, environment).is_none() {
            return;
        }
        let corrected = self.fleet.recall(&ledger.containers);
        let Some(env) = with_id(&mut self.environments, environment) else {
            return;
        };
        env.scope = ledger.scope.clone();
        self.admitting.clear();
        env.recorded = ledger.recorded_identities();
        env.assessment = AssessmentState::of(&ledger);
        let artifacts: Vec<_> = ledger.artifacts().map(|(artifact, _)| *artifact).collect();
        let hanging = env.census.hanging().or(&ledger.hanging);
        env.census.set_hanging(hanging);
        (env.log, env.before) = (KnownLog::Read(ledger, now), None);
        env.recount(&self.fleet, &self.evidence, now);
        self.touched.insert(environment.name.clone());
        self.mark_artifacts_dirty(&environment.name, artifacts);
        self.mark_kind_dirty(EvidenceKind::Allowances);
        if corrected {
            self.recount(now);
        }
        self.tidy_in_time();
    }

    /// Another replica has appended an entry without a checkpoint. Whether it follows what is known; if not, the log has to be
    /// read anew. What is planned is not brought up to it: whoever begins to lead reads the log.
    pub fn log_goes_on(
        &mut self,
        environment: &EnvironmentId,
        entry: &EnvironmentSnapshotSpec,
        rollout: Duration,
        now: Moment,
    ) -> bool {
        let Some(env) = with_id(&mut self.environments, environment) else {
            return false;
        };
        let KnownLog::Read(ledger, read) = &mut env.log else {
            return false;
        };
        let after = Arc::make_mut(ledger);
        let follows = after.apply(entry, rollout, &mut self.fleet).is_ok();
        *read = now;
        env.recorded = ledger.recorded_identities();
        env.assessment = AssessmentState::of(ledger);
        follows
    }

    /// The replica that leads says that this does not comply. Not all of it follows from the log: what is not recorded may
    /// violate the rules, too.
    pub(crate) fn problems_reported(
        &mut self,
        environment: &EnvironmentId,
        problems: Vec<EnvironmentProblem>,
    ) {
        if let Some(env) = with_id(&mut self.environments, environment) {
            env.reported = problems;
        }
    }

    /// The log has to be read again.
    pub fn log_is_stale(&mut self, environment: &EnvironmentId) {
        if let Some(env) = with_id(&mut self.environments, environment) {
            env.log_is_stale();
        }
    }

    /// All logs have to be read again.
    pub fn logs_are_stale(&mut self) {
        for env in self.environments.values_mut() {
            env.log_is_stale();
        }
    }

    /// The head, and when it was last read or written.
    pub fn head_read(&self, name: &str) -> Option<(Arc<Ledger>, Moment)> {
        match &self.environments.get(name)?.log {
            KnownLog::Read(ledger, at) => Some((ledger.clone(), *at)),
            _ => None,
        }
    }

    /// The head has been read again and is still the head.
    pub fn head_confirmed(&mut self, name: &str, now: Moment) {
        if let Some(KnownLog::Read(_, at)) = self.environments.get_mut(name).map(|env| &mut env.log)
        {
            *at = now;
        }
    }

    /// An entry has been appended. `took`: how long that took, with the wait for the budget of writes.
    pub fn appended(
        &mut self,
        environment: &EnvironmentId,
        entry: &Entry,
        took: Duration,
        now: Moment,
    ) {
        let Some(env) = with_id(&mut self.environments, environment) else {
            return;
        };
        let after = &entry.after;
        let mut seen = now;
        if let KnownLog::Read(_, at) = &env.log
            && self.interrupted.is_some_and(|when| when >= *at)
        {
            seen = *at; // it may have been appended to a log that was set back meanwhile
        }
        let before = match std::mem::replace(&mut env.log, KnownLog::Read(after.clone(), seen)) {
            KnownLog::Read(before, _) => Some(before),
            KnownLog::Unread | KnownLog::Blank(..) => None,
        };
        (env.last_cut, env.last_append) = (Some(now), took);
        env.write_rate.note(entry.size(), now);
        env.restored = false;
        let recorded = after.recorded_identities();
        let renamed = env.recorded != recorded;
        env.recorded = recorded;
        let mut changed = BTreeSet::new();
        if let Some(before) = &before {
            let differs = |artifact: &Fingerprint| {
                (before.total(artifact) > 0) != (after.total(artifact) > 0)
                    || before.facts.get(artifact) != after.facts.get(artifact)
            };
            let all = before.artifacts().chain(after.artifacts());
            changed.extend(all.map(|(artifact, _)| *artifact).filter(differs));
        }
        let is_other_list = |before: &Arc<Ledger>| before.allowed != after.allowed;
        let listed = before.as_ref().is_none_or(is_other_list);
        if let Some(before) = before.filter(|_| env.scope == after.scope && !renamed) {
            // The counts are right as they are: only what is recorded changed.
            let comparison = Comparison {
                census: &env.census,
                ledger: after,
                fleet: &self.fleet,
                settle: &env.settle,
                now,
            };
            env.unsettled.follow(&before, comparison);
        } else {
            // The spec may ask for another scope by now; the next plan handles that.
            if env.scope != after.scope {
                env.assessment.touch_all();
            }
            env.scope.clone_from(&after.scope);
            self.admitting.clear();
            env.recount(&self.fleet, &self.evidence, now);
        }
        self.touched.insert(environment.name.clone());
        self.mark_artifacts_dirty(&environment.name, changed);
        if listed {
            self.mark_kind_dirty(EvidenceKind::Allowances);
        }
        self.tidy_in_time();
    }

    /// Whether all watches are in sync; an error says which is not.
    pub fn is_ready(&self, now: Moment) -> Result<(), String> {
        for kind in WatchKind::ALL {
            let stream = self.stream(kind);
            if !stream.is_good(now) {
                let why = stream.trouble.as_deref().unwrap_or("not in sync");
                return Err(format!("{}: {why}", kind.as_str()));
            }
        }
        Ok(())
    }

    /// Counts everything again and compares. Returns how many environments had wrong counts; anything but 0 is a defect.
    pub fn self_check(&mut self, now: Moment) -> usize {
        let names = self.environment_names();
        let wrong = names.iter().filter(|name| !self.check_counts(name, now));
        wrong.count()
    }

    /// Counts one environment again, and corrects its counts if they are wrong; false if they were.
    pub fn check_counts(&mut self, name: &str, now: Moment) -> bool {
        if !self.stream(WatchKind::Pods).synced {
            return true; // it is counted when the list is complete
        }
        let Some(env) = self.environments.get_mut(name) else {
            return true;
        };
        let resolver = env.resolver(&self.evidence);
        let right = Census::of(
            &env.scope,
            &self.fleet,
            &resolver,
            env.census.hanging().clone(),
        );
        let right = right == env.census;
        if !right {
            env.recount(&self.fleet, &self.evidence, now);
        }
        right
    }

    /// The names of all environments.
    pub fn environment_names(&self) -> Vec<String> {
        self.environments.keys().cloned().collect()
    }
}
