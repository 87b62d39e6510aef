//! The fleet, the environments that watch over it, and how far each stream has been read. Events go in, plans come out.

mod environment;
mod evidence;
mod plan;
mod summary;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentSpec,
        snapshot::{Cause, Compliance, IdentitySource, Totals, Verdict},
    },
    cluster::{
        fleet::{Fleet, LearnedIdentity, PodChange, Workload},
        image::Fingerprint,
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView},
        scope::Scope,
        stream::{StreamState, WatchKind},
    },
    compliance::{
        artifact_rules::ArtifactRules,
        evidence::{Evidence, EvidenceKey, EvidenceKind},
        identity::{IdentityResolver, RecordedIdentities, TrustedNamespaces},
    },
    snapshot::{
        assessment::AssessmentState,
        census::{Census, admits},
        cut::PendingEntries,
        ledger::{ArtifactFacts, Ledger},
        settle::{Settle, Unsettled},
    },
    time::Moment,
};

/// An environment, as far as counting and recording go.
#[derive(Debug)]
struct EnvironmentState {
    uid: String,
    /// The scope that the spec asks for; what is counted is the ledger's until that is settled.
    wanted: Scope,
    settle: Settle,
    /// The scope that is counted.
    scope: Scope,
    census: Census,
    unsettled: Unsettled,
    log: KnownLog,
    /// The rules, if there are any.
    rules: Option<ArtifactRules>,
    /// Whose records count.
    trust: TrustedNamespaces,
    /// What the log knows to be one image because a record said so.
    recorded: RecordedIdentities,
    /// What is known of the artifacts by now.
    docket: AssessmentState,
    /// Since when there are containers that can't be identified and the log says that there are none, or the other way
    /// round.
    nameless_since: Option<Moment>,
    /// What the log said before it had to be read again.
    before: Option<Arc<Ledger>>,
    last_cut: Option<Moment>,
    restored: bool,
}

/// What is known of an environment's log.
#[derive(Debug)]
enum KnownLog {
    /// Nothing yet.
    Unread,
    /// It has no entry, or none that can be built on: the next one is a baseline, after `Ledger` if there is one.
    Blank(Option<Box<Ledger>>, Cause),
    /// What it says, and when the head was read.
    Read(Arc<Ledger>, Moment),
}

/// What to do about an environment.
#[derive(Debug)]
pub enum Plan {
    /// Nothing can be said now; why, as a reason and a sentence.
    Frozen(&'static str, String),
    /// Nothing until then, if nothing happens.
    Wait(Option<Moment>),
    /// Append these.
    Append(Box<PendingEntries>),
}

/// What an environment looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentSummary {
    /// The newest entry: index and time.
    pub head: Option<(i64, Timestamp)>,
    /// What is recorded.
    pub totals: Totals,
    /// Containers that run now and can't be identified.
    pub unidentified: usize,
    /// Whether it keeps its rules, as the log says.
    pub compliance: Compliance,
    /// What breaks the rules now or lacks something: name, digest, reason, words. At most 20, and how many more.
    pub troubles: (Vec<EnvironmentProblem>, usize),
    /// There are rules.
    pub ruled: bool,
}

/// What is wrong with an artifact.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentProblem {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub fingerprint: Fingerprint,
    /// Why, and until when what is missing may arrive.
    pub verdict: Verdict,
}

/// An artifact that is recorded in an environment.
#[derive(Clone, Copy, Debug)]
pub struct RunningArtifact<'a> {
    /// The environment.
    pub environment: &'a str,
    /// The newest entry of its log.
    pub index: i64,
    /// The digest that it goes by there.
    pub fingerprint: Fingerprint,
    /// Its name there.
    pub name: &'a str,
    /// How many instances of it are recorded.
    pub instances: u32,
    /// What the log knows of it.
    pub facts: Option<&'a ArtifactFacts>,
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

    /// Whether it keeps the rules there, if there are any.
    pub fn verdict(&self) -> Option<&'a Verdict> {
        self.facts?.verdict.as_ref()
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct ClusterState {
    fleet: Fleet,
    pods: StreamState,
    deployments: StreamState,
    namespaces: StreamState,
    /// Namespaces of a list that is not complete: taken in as a whole, or pods would be counted by labels of two times.
    listed: Vec<NamespaceView>,
    environments: BTreeMap<String, EnvironmentState>,
    /// What is said of images.
    evidence: Evidence,
    /// Which kinds of it have been listed.
    listed_evidence: BTreeSet<EvidenceKind>,
    /// What is wrong with reading them.
    evidence_trouble: BTreeMap<EvidenceKind, String>,
    /// The operator's own namespace: whose records count where nothing else is said.
    home: String,
    /// Environments that have something new to look at.
    touched: BTreeSet<String>,
    /// Evidence whose status may have changed.
    dirty_status: BTreeSet<(EvidenceKind, EvidenceKey)>,
    /// More statuses may have to be written than when this was last asked.
    status_news: bool,
    /// Until when expired allowances have been dealt with.
    expired_until: Option<Timestamp>,
}

impl ClusterState {
    /// `trust_generation`: the server counts the generation of pods (1.35 and later do). `home`: the operator's own
    /// namespace.
    pub fn new(trust_generation: bool, home: &str) -> Self {
        let mut world = Self {
            home: home.to_owned(),
            ..Self::default()
        };
        world.fleet.trust_generation = trust_generation;
        world
    }

    /// What is said of images.
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
        match kind {
            WatchKind::Pods => &self.pods,
            WatchKind::Deployments => &self.deployments,
            WatchKind::Namespaces => &self.namespaces,
        }
    }

    fn stream_mut(&mut self, kind: WatchKind) -> &mut StreamState {
        match kind {
            WatchKind::Pods => &mut self.pods,
            WatchKind::Deployments => &mut self.deployments,
            WatchKind::Namespaces => &mut self.namespaces,
        }
    }

    /// The environments that have something new to look at since this was last asked.
    pub fn take_touched(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched)
    }

    fn touch_all(&mut self) {
        self.touched.extend(self.environments.keys().cloned());
    }

    // ---- streams ----

    /// A list begins: what it doesn't hold will be swept when it is complete.
    pub fn list_begins(&mut self, kind: WatchKind) {
        self.stream_mut(kind).list_begins();
        if kind == WatchKind::Namespaces {
            self.listed.clear();
        }
    }

    /// A list that began at `begun` is complete. True if the server is not as far as it was before: its store was set back.
    pub fn list_ends(&mut self, kind: WatchKind, version: u64, begun: Moment, now: Moment) -> bool {
        let mark = self.stream(kind).list_number();
        match kind {
            // What seems to be gone may be what can't be read.
            _ if self.stream(kind).holds_unknown() => self.recount(now),
            WatchKind::Pods => {
                for uid in self.fleet.unmarked_pods(mark) {
                    self.pod_gone(uid, now);
                }
            }
            WatchKind::Deployments => {
                for (namespace, name) in self.fleet.unmarked_deployments(mark) {
                    self.deployment_gone(&namespace, &name, now);
                }
            }
            WatchKind::Namespaces => {
                let mut changed = false;
                for view in std::mem::take(&mut self.listed) {
                    changed |= self.fleet.apply_namespace(&view, mark);
                }
                for name in self.fleet.unmarked_namespaces(mark) {
                    changed |= self.fleet.remove_namespace(&name);
                }
                if changed {
                    self.recount_by_namespaces(now);
                }
            }
        }
        let first = !self.stream(kind).synced;
        let set_back = self.stream_mut(kind).list_ends(version, begun, now);
        if kind == WatchKind::Pods && first {
            self.recount(now);
        }
        let used: BTreeSet<_> = self
            .environments
            .values()
            .flat_map(|env| {
                env.unsettled
                    .dirty()
                    .keys()
                    .map(|cell| cell.workload.clone())
            })
            .collect();
        self.fleet.tidy(|workload| used.contains(workload));
        if set_back {
            // Watches from where the server was before would stay silent.
            for other in WatchKind::ALL {
                if self.stream(other).version > version {
                    self.want_relist(other);
                }
            }
        }
        self.touch_all();
        set_back
    }

    /// The cluster's store was set back to an older state, and the logs with it: all that is known of them is doubtful.
    pub fn set_back(&mut self) {
        for env in self.environments.values_mut() {
            (env.log, env.before) = (KnownLog::Unread, None);
            env.restored = true;
        }
        self.touch_all();
    }

    /// How many pods there are, as far as is known: those that could never be read, too.
    pub fn known_pods(&self) -> usize {
        let unknown = self.pods.unreadable.keys();
        self.fleet.len() + unknown.filter(|uid| !self.fleet.has_pod(**uid)).count()
    }

    /// A bookmark: nothing happened up to this version.
    pub fn bookmark(&mut self, kind: WatchKind, version: u64, now: Moment) {
        let stream = self.stream_mut(kind);
        stream.version = stream.version.max(version);
        stream.progress = now;
        if stream.trouble.take().is_some() {
            self.touch_all();
        }
    }

    /// A stream can't be read; it may never have been.
    pub fn stream_fails(&mut self, kind: WatchKind, why: String, forbidden: bool, now: Moment) {
        let stream = self.stream_mut(kind);
        stream.trouble = Some(why);
        if forbidden {
            // What it said may not be asked for any more, so it may be wrong by now.
            stream.synced = false;
            if kind == WatchKind::Deployments {
                self.fleet.forget_deployments(now);
            }
        }
        self.touch_all();
    }

    /// A new list is wanted.
    pub fn want_relist(&mut self, kind: WatchKind) {
        self.stream_mut(kind).relist = true;
    }

    /// Looks at the clock: a stream may have gone stale.
    pub fn tick(&mut self, now: Moment) {
        if self.deployments.synced && !self.deployments.is_good(now) {
            self.fleet.forget_deployments(now);
            self.deployments.synced = false;
        }
        if !self.deployments.synced {
            // A watch that comes to life again would not tell what has been forgotten.
            self.want_relist(WatchKind::Deployments);
        }
        self.touch_all();
    }

    // ---- objects ----

    /// A pod was listed, added or changed. What is to be warned of.
    pub fn pod_seen(&mut self, seen: Decoded<PodView>, listed: bool, now: Moment) -> Vec<String> {
        let mark = self.pods.list_number();
        self.pods.advance(seen.meta().version, listed, now);
        match seen {
            Decoded::Good(view) => {
                self.pods.unreadable.remove(&view.meta.uid);
                let change = self.fleet.apply_pod(&view, mark, now);
                let Some(change) = change else { return vec![] };
                let warnings = change.unidentified.iter();
                let warnings = warnings
                    .map(|name| {
                        format!("the image of container {name} can't be identified by a digest")
                    })
                    .collect();
                self.pod_changed(&change, now);
                warnings
            }
            Decoded::Bad(meta, why) => {
                self.fleet.keep_pod(meta.uid, mark);
                self.pods.unreadable("pod", &meta, &why)
            }
        }
    }

    /// A pod was deleted.
    pub fn pod_deleted(&mut self, seen: &Decoded<PodView>, now: Moment) {
        self.pods.advance(seen.meta().version, false, now);
        self.pods.unreadable.remove(&seen.meta().uid);
        self.pod_gone(seen.meta().uid, now);
    }

    fn pod_gone(&mut self, uid: u128, now: Moment) {
        if let Some(change) = self.fleet.remove_pod(uid, now) {
            self.pod_changed(&change, now);
        }
    }

    /// A Deployment was listed, added or changed.
    pub fn deployment_seen(
        &mut self,
        seen: Decoded<DeploymentView>,
        listed: bool,
        now: Moment,
    ) -> Vec<String> {
        let mark = self.deployments.list_number();
        self.deployments.advance(seen.meta().version, listed, now);
        match seen {
            Decoded::Good(view) => {
                self.deployments.unreadable.remove(&view.meta.uid);
                if let Some(workload) = self.fleet.apply_deployment(view, mark, now) {
                    self.workload_changed(&workload, now);
                }
                vec![]
            }
            Decoded::Bad(meta, why) => {
                self.fleet
                    .keep_deployment(&meta.namespace, &meta.name, mark);
                self.deployments.unreadable("deployment", &meta, &why)
            }
        }
    }

    /// A Deployment was deleted.
    pub fn deployment_deleted(&mut self, seen: &Decoded<DeploymentView>, now: Moment) {
        let meta = seen.meta().clone();
        self.deployments.advance(meta.version, false, now);
        self.deployments.unreadable.remove(&meta.uid);
        self.deployment_gone(&meta.namespace, &meta.name, now);
    }

    fn deployment_gone(&mut self, namespace: &str, name: &str, now: Moment) {
        if let Some(workload) = self.fleet.remove_deployment(namespace, name, now) {
            self.workload_changed(&workload, now);
        }
    }

    /// A namespace was listed, added or changed.
    pub fn namespace_seen(
        &mut self,
        seen: Decoded<NamespaceView>,
        listed: bool,
        now: Moment,
    ) -> Vec<String> {
        let mark = self.namespaces.list_number();
        self.namespaces.advance(seen.meta().version, listed, now);
        match seen {
            Decoded::Good(view) => {
                self.namespaces.unreadable.remove(&view.meta.uid);
                if listed {
                    self.listed.push(view);
                } else if self.fleet.apply_namespace(&view, mark) {
                    self.recount_by_namespaces(now);
                }
                vec![]
            }
            Decoded::Bad(meta, why) => {
                self.fleet.keep_namespace(&meta.name, mark);
                self.namespaces.unreadable("namespace", &meta, &why)
            }
        }
    }

    /// A namespace was deleted.
    pub fn namespace_deleted(&mut self, seen: &Decoded<NamespaceView>, now: Moment) {
        self.namespaces.advance(seen.meta().version, false, now);
        self.namespaces.unreadable.remove(&seen.meta().uid);
        if self.fleet.remove_namespace(&seen.meta().name) {
            self.recount_by_namespaces(now);
        }
    }

    fn pod_changed(&mut self, change: &PodChange, now: Moment) {
        let learned = change.learned.iter();
        let renamed: Vec<_> = learned
            .filter_map(|learned| self.fleet.learn(*learned))
            .collect();
        let pinned: Vec<_> = change
            .learned
            .iter()
            .filter(|learned| learned.pinned)
            .collect();
        for (name, env) in &mut self.environments {
            for learned in &pinned {
                // What is said of the one is now said of the other.
                env.docket.touch([learned.alias, learned.known]);
            }
            if env.counts_any(&renamed) {
                // Rare: it has counted one artifact as two.
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name.clone());
                continue;
            }
            let names = IdentityResolver {
                fleet: &self.fleet,
                evidence: &self.evidence,
                trust: &env.trust,
                recorded: &env.recorded,
            };
            let mut cells = vec![];
            let unidentified = env.census.unidentified();
            for (pod, add) in [(&change.before, false), (&change.now, true)] {
                if let Some(pod) = pod
                    .as_ref()
                    .filter(|pod| admits(&env.scope, &self.fleet, pod))
                {
                    let counted = env.census.count(pod, &names, add);
                    cells.extend(counted.cells);
                    env.docket.touch(counted.known_otherwise);
                }
            }
            let KnownLog::Read(ledger, _) = &env.log else {
                continue;
            };
            for cell in &cells {
                env.unsettled
                    .observe(cell, &env.census, ledger, &self.fleet, &env.settle, now);
            }
            // The status tells of them.
            let mut waiting = env.census.unidentified() != unidentified || env.docket.has_work();
            for pod in [&change.before, &change.now].into_iter().flatten() {
                waiting |=
                    env.unsettled
                        .observe_workload(&pod.workload, &self.fleet, &env.settle, now);
                waiting |= ledger.rollouts.contains_key(&pod.workload);
            }
            if waiting || (!cells.is_empty() && !env.unsettled.is_settled()) {
                self.touched.insert(name.clone());
            }
        }
    }

    fn workload_changed(&mut self, workload: &Arc<Workload>, now: Moment) {
        for (name, env) in &mut self.environments {
            let waiting = env
                .unsettled
                .observe_workload(workload, &self.fleet, &env.settle, now);
            let open = match &env.log {
                KnownLog::Read(ledger, _) => ledger.rollouts.contains_key(workload),
                _ => false,
            };
            if waiting || open {
                self.touched.insert(name.clone());
            }
        }
    }

    /// Counts those environments anew that depend on the labels of namespaces.
    fn recount_by_namespaces(&mut self, now: Moment) {
        for (name, env) in &mut self.environments {
            if env.scope.needs_namespaces() {
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name.clone());
            }
        }
    }

    /// Counts every environment anew.
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
        name: &str,
        uid: &str,
        spec: &EnvironmentSpec,
        now: Moment,
    ) -> bool {
        let (wanted, settle) = (Scope::of(spec), Settle::of(spec.settle.as_ref()));
        let (rules, trust) = (
            ArtifactRules::of(spec),
            ArtifactRules::trust(spec, &self.home),
        );
        self.touched.insert(name.to_owned());
        if let Some(env) = self.environments.get_mut(name).filter(|env| env.uid == uid) {
            env.settle = settle;
            env.wanted = wanted;
            if (&env.rules, &env.trust) != (&rules, &trust) {
                env.docket.rules_edited();
                env.rules = rules;
            }
            let rescoped = !matches!(env.log, KnownLog::Read(..)) && env.scope != env.wanted;
            if rescoped {
                env.scope = env.wanted.clone();
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
            uid: uid.to_owned(),
            scope: wanted.clone(),
            wanted,
            settle,
            census: Census::default(),
            unsettled: Unsettled::default(),
            log: KnownLog::Unread,
            rules,
            trust,
            recorded: RecordedIdentities::default(),
            docket: AssessmentState::default(),
            nameless_since: None,
            before: None,
            last_cut: None,
            restored: false,
        };
        env.recount(&self.fleet, &self.evidence, now);
        self.environments.insert(name.to_owned(), env);
        self.mark_all_status_dirty();
        true
    }

    /// An environment was deleted.
    pub fn environment_gone(&mut self, name: &str, uid: &str) {
        if self
            .environments
            .get(name)
            .is_some_and(|env| env.uid == uid)
        {
            self.environments.remove(name);
            self.mark_all_status_dirty();
        }
    }

    /// The UID of an environment.
    pub fn uid(&self, name: &str) -> Option<&str> {
        self.environments.get(name).map(|env| env.uid.as_str())
    }

    /// The log of an environment has no entry (`ledger` is `None`), or none that can be built on (`ledger` holds no more
    /// than its end): the next one is a baseline.
    pub fn log_is_blank(&mut self, name: &str, uid: &str, end: Option<Ledger>, cause: Cause) {
        if let Some(env) = self.environments.get_mut(name).filter(|env| env.uid == uid) {
            env.log = KnownLog::Blank(end.map(Box::new), cause);
            let empty = Ledger::empty(Scope::default());
            env.docket = AssessmentState::of(&empty);
            self.touched.insert(name.to_owned());
        }
    }

    /// The log of an environment has been read.
    pub fn log_is_read(&mut self, name: &str, uid: &str, ledger: Arc<Ledger>, now: Moment) {
        let Some(env) = self.environments.get_mut(name).filter(|env| env.uid == uid) else {
            return;
        };
        let of_pods = |source| source != IdentitySource::Record;
        let learned = ledger
            .identities
            .iter()
            .filter(|(_, (_, source))| of_pods(*source));
        let renamed: Vec<_> = learned
            .filter_map(|(alias, (known, source))| {
                self.fleet.learn(LearnedIdentity {
                    alias: *alias,
                    known: *known,
                    pinned: *source == IdentitySource::Pin,
                })
            })
            .collect();
        env.scope = ledger.scope.clone();
        env.recorded = ledger.recorded_identities();
        env.docket = AssessmentState::of(&ledger);
        let artifacts: Vec<_> = ledger
            .artifacts()
            .map(|(fingerprint, _)| *fingerprint)
            .collect();
        (env.log, env.before) = (KnownLog::Read(ledger, now), None);
        env.recount(&self.fleet, &self.evidence, now);
        self.touched.insert(name.to_owned());
        self.mark_artifacts_dirty(name, artifacts);
        self.mark_allowances_dirty();
        for (name, env) in &mut self.environments {
            if env.counts_any(&renamed) {
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name.clone());
            }
        }
    }

    /// Someone else appended to the log: it has to be read again.
    pub fn log_is_stale(&mut self, name: &str, uid: &str) {
        if let Some(env) = self.environments.get_mut(name).filter(|env| env.uid == uid)
            && let KnownLog::Read(ledger, _) = std::mem::replace(&mut env.log, KnownLog::Unread)
        {
            env.before = Some(ledger);
        }
    }

    /// When the head was last read or written, so known to be the head.
    pub fn head_read(&self, name: &str) -> Option<(Arc<Ledger>, Moment)> {
        match &self.environments.get(name)?.log {
            KnownLog::Read(ledger, at) => Some((ledger.clone(), *at)),
            _ => None,
        }
    }

    /// The head has been looked at and is still the head.
    pub fn head_confirmed(&mut self, name: &str, now: Moment) {
        if let Some(KnownLog::Read(_, at)) = self.environments.get_mut(name).map(|env| &mut env.log)
        {
            *at = now;
        }
    }

    /// An entry has been appended.
    pub fn appended(&mut self, name: &str, uid: &str, after: Arc<Ledger>, now: Moment) {
        let Some(env) = self.environments.get_mut(name).filter(|env| env.uid == uid) else {
            return;
        };
        let before = std::mem::replace(&mut env.log, KnownLog::Read(after, now));
        env.last_cut = Some(now);
        env.restored = false;
        let KnownLog::Read(after, _) = &env.log else {
            return;
        };
        let recorded = after.recorded_identities();
        let renamed = env.recorded != recorded;
        env.recorded = recorded;
        let mut changed = vec![];
        let mut listed = true;
        if let KnownLog::Read(before, _) = &before {
            let is_other = |artifact: &&Fingerprint| {
                let runs = |ledger: &Ledger| ledger.total(artifact) > 0;
                runs(before) != runs(after)
                    || before.facts.get(*artifact) != after.facts.get(*artifact)
            };
            let all: BTreeSet<_> = before
                .artifacts()
                .chain(after.artifacts())
                .map(|(it, _)| it)
                .collect();
            changed.extend(all.into_iter().filter(is_other).copied());
            listed = before.allowed != after.allowed;
        }
        if let KnownLog::Read(before, _) = &before
            && env.scope == after.scope
            && !renamed
        {
            // The running counts are right as they are: only what is recorded is other than before.
            env.unsettled
                .follow(before, &env.census, after, &self.fleet, &env.settle, now);
        } else {
            // What is wanted may be another scope by now; that is for the next plan.
            if env.scope != after.scope {
                env.docket.touch_all();
            }
            env.scope.clone_from(&after.scope);
            env.recount(&self.fleet, &self.evidence, now);
        }
        self.touched.insert(name.to_owned());
        self.mark_artifacts_dirty(name, changed);
        if listed {
            self.mark_allowances_dirty();
        }
    }

    /// Whether all that must be known is known.
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

    /// Counts everything anew and compares: the number of environments whose running counts had gone astray. Always 0.
    pub fn self_check(&mut self, now: Moment) -> usize {
        let mut astray = 0;
        for env in self.environments.values_mut() {
            let names = env.names(&self.fleet, &self.evidence);
            if Census::of(&env.scope, &names) != env.census {
                astray += 1;
                env.recount(&self.fleet, &self.evidence, now);
            }
        }
        astray
    }
}
