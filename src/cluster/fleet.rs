//! All pods of the cluster in little memory: what each runs, and to which workload it belongs. Level-based: the fleet
//! depends on the last state of each object only, not on the order of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    ops::Deref,
    sync::Arc,
};

use crate::{
    cluster::{
        image::{Fingerprint, ImageId, display_name},
        intern::Interner,
        pod_view::{ContainerView, DeploymentView, NamespaceView, PodView, RolloutReport},
        scope::Labels,
    },
    time::Moment,
};

/// The kind of a workload that is a Deployment.
const DEPLOYMENT: &str = "Deployment";

/// The workload that pods belong to: the unit of rollouts and scaling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub(crate) namespace: Arc<str>,
    /// Its kind, without the group.
    pub kind: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// Labels as one text: a tenth of the memory of a map, and they are seldom needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelSet(Box<str>);

impl LabelSet {
    fn of(labels: &Labels) -> Self {
        // Labels can't contain NUL.
        let parts = labels
            .iter()
            .flat_map(|(key, value)| [&**key, "\0", value, "\0"]);
        Self(parts.collect::<String>().into())
    }

    fn is(&self, labels: &Labels) -> bool {
        let mut rest = &*self.0;
        for part in labels.iter().flat_map(|(key, value)| [key, value]) {
            match rest
                .strip_prefix(&**part)
                .and_then(|rest| rest.strip_prefix('\0'))
            {
                Some(more) => rest = more,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// The labels as a map.
    pub fn unpack(&self) -> Labels {
        let mut parts = self.0.split_terminator('\0').map(str::to_owned);
        std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
    }
}

/// What the pods of one revision of a workload share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// The workload that they belong to; its namespace is theirs.
    pub workload: Arc<Workload>,
    /// The revision of the workload that made them; empty when the workload has no revisions.
    revision: Arc<str>,
    /// The kind of their owner, as `Kind.group`; `Pod` if they have none.
    pub owner: Arc<str>,
    pub(crate) labels: LabelSet,
}

/// A pod, as far as it matters; packed, because there are many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    template: Arc<PodTemplate>,
    containers: Box<[PackedContainer]>,
    /// The number of the list in or after which it was last seen; pods with older numbers are removed when a list ends.
    mark: u32,
    terminating: bool,
    starting: bool,
    /// It has succeeded or failed.
    finished: bool,
}

impl Deref for Pod {
    type Target = PodTemplate;

    fn deref(&self) -> &PodTemplate {
        &self.template
    }
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PackedContainer {
    spec: Arc<ContainerSpec>,
    /// The runtime's id of the container; `None` before it is created.
    container: Option<NonZeroU64>,
    /// The digest by which this container is known.
    digest: Option<Arc<Fingerprint>>,
    /// Another digest that was reported for this container.
    also: Option<Arc<Fingerprint>>,
    /// Its digest is known to its node only. Paired with the digest it would cost eight bytes a container.
    local: bool,
    active: bool,
}

/// What the spec says of a container: the same for all pods of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ContainerSpec {
    name: Arc<str>,
    /// The image that the spec asks for.
    image: Arc<str>,
}

impl Pod {
    /// The digests that the pod runs, each once, as they were when the containers were first seen; with the images
    /// of the spec. One pod is one instance of an artifact, however many of its containers run it.
    pub fn runs(&self) -> impl Iterator<Item = (Fingerprint, &Arc<str>)> {
        let active = self.containers.iter().filter(|packed| packed.active);
        active.filter_map(|packed| {
            packed
                .digest
                .as_ref()
                .map(|digest| (**digest, &packed.spec.image))
        })
    }

    /// All digests by which the pod's containers are known or were reported, with repeats.
    pub fn digests(&self) -> impl Iterator<Item = Fingerprint> {
        let active = self.containers.iter().filter(|packed| packed.active);
        active.flat_map(|packed| {
            let known = packed.digest.iter();
            known.chain(&packed.also).map(|digest| **digest)
        })
    }

    /// How many running containers can't be identified by a digest.
    pub fn unidentified(&self) -> usize {
        self.without_digest().count()
    }

    /// The names of running containers that can't be identified by a digest.
    fn without_digest(&self) -> impl Iterator<Item = &Arc<str>> {
        let unknown = |packed: &&PackedContainer| packed.active && packed.digest.is_none();
        let containers = self.containers.iter().filter(unknown);
        containers.map(|packed| &packed.spec.name)
    }

    /// The kinds of the pod's owners, the nearest first.
    pub fn owners(&self) -> [&str; 2] {
        let above = if &*self.workload.kind == DEPLOYMENT {
            "Deployment.apps"
        } else {
            &*self.owner
        };
        [&*self.owner, above]
    }

    fn same_but_mark(&self, other: &Self) -> bool {
        let Self {
            template,
            containers,
            mark: _,
            terminating,
            starting,
            finished,
        } = self;
        (terminating, starting, finished) == (&other.terminating, &other.starting, &other.finished)
            && (Arc::ptr_eq(template, &other.template) || *template == other.template)
            && *containers == other.containers
    }
}

/// What is known of a workload as a whole.
#[derive(Clone, Debug, Default)]
pub struct WorkloadState {
    /// How many pods there are of each revision, terminating ones included, finished ones not.
    revisions: BTreeMap<Arc<str>, u32>,
    terminating: u32,
    starting: u32,
    /// What its Deployment reports, if it has one.
    deployment: RolloutReport,
    /// When any of this, or what its pods run, last changed.
    pub changed: Moment,
    /// When a rollout of it last began or ended, by those signals.
    pub signalled: Moment,
    /// Since when it is rolling, by the signals of its pods and its Deployment; a new revision starts this again.
    pub rolling_since: Option<Moment>,
    /// Since when further changes are expected, rolling or not: pods that start or terminate, or a spec that its
    /// controller has not seen.
    pub restless_since: Option<Moment>,
}

/// A digest that was found to identify the same image as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedIdentity {
    /// The digest that is new.
    pub alias: Fingerprint,
    /// The digest by which the container was known.
    pub known: Fingerprint,
    /// The container was pinned to one and known by the other when it was created. Otherwise a runtime reported both for
    /// one container at different times: good enough for counting, not for rules.
    pub pinned: bool,
}

/// The effect of a changed pod.
#[derive(Debug, Default)]
pub struct PodChange {
    pub(crate) before: Option<Pod>,
    pub(crate) now: Option<Pod>,
    /// Digests that were found to identify the same image as others.
    pub learned: Vec<LearnedIdentity>,
    /// Running containers that can't be identified now, and could be or were not there before.
    pub unidentified: Vec<String>,
}

type Deployments = BTreeMap<Arc<Workload>, (u32, RolloutReport)>;

/// All pods, with what is needed to group them into workloads and environments.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By namespace and UID: what concerns one namespace is done without looking at the others.
    pods: BTreeMap<Arc<str>, BTreeMap<u128, Pod>>,
    pod_count: usize,
    workloads: BTreeMap<Arc<Workload>, WorkloadState>,
    deployments: Deployments,
    namespaces: BTreeMap<Arc<str>, (u32, Arc<Labels>)>,
    /// Other digest -> the canonical digest of the artifact.
    aliases: BTreeMap<Fingerprint, Fingerprint>,
    /// Canonical digest of an artifact -> all its other digests.
    others: BTreeMap<Fingerprint, Vec<Fingerprint>>,
    /// Pairs of digests, in both directions, to which a container was pinned and by which it was known: surely one image.
    pins: BTreeMap<Fingerprint, BTreeSet<Fingerprint>>,
    /// The server maintains the generation of pods, so a pod of generation 1 was never edited.
    pub trust_generation: bool,
    texts: Interner<str>,
    digests: Interner<Fingerprint>,
    label_sets: Interner<Labels>,
    template: Interner<PodTemplate>,
    container_specs: Interner<ContainerSpec>,
    workload_names: Interner<Workload>,
}

impl Fleet {
    /// The number of pods.
    pub fn pod_count(&self) -> usize {
        self.pod_count
    }

    /// The namespaces that have pods.
    pub fn pod_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    /// The pods of a namespace.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The pod of this UID, wherever it is if its namespace is not known.
    fn pod_mut(&mut self, namespace: &str, uid: u128) -> Option<&mut Pod> {
        if self
            .pods
            .get(namespace)
            .is_some_and(|pods| pods.contains_key(&uid))
        {
            return self.pods.get_mut(namespace)?.get_mut(&uid);
        }
        self.pods
            .values_mut()
            .find_map(|pods| pods.get_mut(&uid))
            .filter(|_| namespace.is_empty())
    }

    /// Whether a pod of this UID is known.
    pub fn has_pod(&self, uid: u128) -> bool {
        self.pods.values().any(|pods| pods.contains_key(&uid))
    }

    /// The labels of a namespace.
    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|(_, labels)| &**labels)
    }

    /// The same, to compare them with what they become.
    pub fn shared_namespace_labels(&self, namespace: &str) -> Option<Arc<Labels>> {
        self.namespaces
            .get(namespace)
            .map(|(_, labels)| labels.clone())
    }

    /// The state of a workload that has pods or is rolling.
    pub fn workload(&self, workload: &Workload) -> Option<&WorkloadState> {
        self.workloads.get(workload)
    }

    /// The shared copy of a workload's name.
    pub fn intern_workload(&mut self, kind: &str, namespace: &str, name: &str) -> Arc<Workload> {
        let workload = Workload {
            namespace: self.texts.intern(namespace),
            kind: self.texts.intern(kind),
            name: self.texts.intern(name),
        };
        self.workload_names.intern(workload)
    }

    /// The canonical digest of an artifact.
    pub fn canonical(&self, digest: Fingerprint) -> Fingerprint {
        let mut digest = digest;
        // Chains are short and acyclic: `learn` only ever points a root at another root.
        while let Some(next) = self.aliases.get(&digest) {
            digest = *next;
        }
        digest
    }

    /// Whether there are other digests for the artifact of this one.
    pub fn has_other_names(&self, digest: Fingerprint) -> bool {
        self.others.contains_key(&digest) || self.pins.contains_key(&digest)
    }

    /// All digests that pods report for the same artifact.
    pub fn all_digests(&self, digest: Fingerprint) -> impl Iterator<Item = Fingerprint> {
        let root = self.canonical(digest);
        let others = self.others.get(&root).into_iter().flatten().copied();
        [root].into_iter().chain(others)
    }

    /// The digests that surely identify the same image, because a container was pinned to one and known by the other.
    pub fn pinned_with(&self, digest: Fingerprint) -> impl Iterator<Item = Fingerprint> {
        self.pins.get(&digest).into_iter().flatten().copied()
    }

    /// Notes that two digests identify one image. Returns the digest that is no longer canonical, if that is new.
    pub fn learn(&mut self, learned: LearnedIdentity) -> Option<Fingerprint> {
        let LearnedIdentity {
            alias,
            known,
            pinned,
        } = learned;
        if pinned && alias != known {
            self.pins.entry(alias).or_default().insert(known);
            self.pins.entry(known).or_default().insert(alias);
        }
        let (root, known) = (self.canonical(alias), self.canonical(known));
        if root == known {
            return None;
        }
        // If the alias belongs to an artifact already, that stays canonical.
        let (other, stays) = if root == alias {
            (root, known)
        } else {
            (known, root)
        };
        self.aliases.insert(other, stays);
        let moved = self.others.remove(&other).unwrap_or_default();
        let others = self.others.entry(stays).or_default();
        others.push(other);
        others.extend(moved);
        Some(other)
    }

    /// The name to show for an artifact, of the images in the specs of its pods: the first in text order, so that it does
    /// not change from node to node.
    pub fn name_of(images: impl Iterator<Item = Arc<str>>) -> Option<String> {
        images.map(|image| display_name(&image)).min()
    }

    /// Applies the newest state of a pod. `None`: nothing relevant changed.
    pub fn apply_pod(&mut self, view: &PodView, mark: u32, now: Moment) -> Option<PodChange> {
        let (namespace, uid) = (view.meta.namespace.as_str(), view.meta.uid);
        let before = self
            .pods
            .get(namespace)
            .and_then(|pods| pods.get(&uid))
            .cloned();
        let (pod, learned) = self.pack(view, before.as_ref(), mark);
        if learned.is_empty()
            && before
                .as_ref()
                .is_some_and(|before| before.same_but_mark(&pod))
        {
            self.keep_pod(namespace, uid, mark);
            return None;
        }
        let pods = self.pods.entry(pod.workload.namespace.clone()).or_default();
        self.pod_count += usize::from(pods.insert(uid, pod.clone()).is_none());
        let known = before.iter().flat_map(Pod::without_digest);
        let known: BTreeSet<&Arc<str>> = known.collect();
        let names = pod.without_digest().filter(|name| !known.contains(name));
        let (namespace, pod_name) = (&view.meta.namespace, &view.meta.name);
        let unidentified = names.map(|name| format!("{namespace}/{pod_name}/{name}"));
        let unidentified = unidentified.collect();
        self.recount(before.as_ref(), Some(&pod), now);
        Some(PodChange {
            before,
            now: Some(pod),
            learned,
            unidentified,
        })
    }

    /// Removes a pod. `None`: there was none.
    pub fn remove_pod(&mut self, namespace: &str, uid: u128, now: Moment) -> Option<PodChange> {
        let namespace = self.pod_mut(namespace, uid)?.workload.namespace.clone();
        let pods = self.pods.get_mut(&namespace)?;
        let before = pods.remove(&uid)?;
        if pods.is_empty() {
            self.pods.remove(&namespace);
        }
        self.pod_count -= 1;
        self.recount(Some(&before), None, now);
        Some(PodChange {
            before: Some(before),
            ..PodChange::default()
        })
    }

    /// Keeps a pod as it is though its newest state could not be read.
    pub fn keep_pod(&mut self, namespace: &str, uid: u128, mark: u32) {
        if let Some(pod) = self.pod_mut(namespace, uid) {
            pod.mark = mark;
        }
    }

    /// The pods that a complete list did not hold.
    pub fn unmarked_pods(&self, mark: u32) -> Vec<(Arc<str>, u128)> {
        let all = self.pods.iter().flat_map(|(namespace, pods)| {
            let unmarked = pods.iter().filter(|(_, pod)| pod.mark != mark);
            unmarked.map(|(uid, _)| (namespace.clone(), *uid))
        });
        all.collect()
    }

    fn pack(
        &mut self,
        view: &PodView,
        before: Option<&Pod>,
        mark: u32,
    ) -> (Pod, Vec<LearnedIdentity>) {
        let template = self.template_of(view, before.map(|pod| &pod.template));
        let mut learned = vec![];
        let unedited = self.trust_generation && view.generation == 1;
        let containers = view.containers.iter().map(|container| {
            let mut packed = before.iter().flat_map(|pod| pod.containers.iter());
            let packed = packed.find(|packed| *packed.spec.name == *container.name);
            self.pack_container(container, packed, unedited, &mut learned)
        });
        let pod = Pod {
            template,
            containers: containers.collect(),
            mark,
            terminating: view.terminating,
            starting: view.starting,
            finished: view.finished,
        };
        (pod, learned)
    }

    /// What a pod shares with the others of its revision; seldom different from before.
    fn template_of(
        &mut self,
        view: &PodView,
        before: Option<&Arc<PodTemplate>>,
    ) -> Arc<PodTemplate> {
        let revision = ["pod-template-hash", "controller-revision-hash"]
            .iter()
            .find_map(|label| view.labels.get(*label))
            .map_or("", String::as_str);
        let owner = view.owner.as_ref().map_or("Pod", |owner| &owner.kind);
        let namespace = view.meta.namespace.as_str();
        let (kind, name) = workload_of(view);
        let same = before.filter(|template| {
            let workload = &template.workload;
            (&*workload.namespace, &*workload.kind, &*workload.name) == (namespace, kind, name)
                && (&*template.owner, &*template.revision) == (owner, revision)
                && template.labels.is(&view.labels)
        });
        if let Some(template) = same {
            return template.clone();
        }
        let template = PodTemplate {
            workload: self.intern_workload(kind, namespace, name),
            revision: self.texts.intern(revision),
            owner: self.texts.intern(owner),
            labels: LabelSet::of(&view.labels),
        };
        self.template.intern(template)
    }

    fn pack_container(
        &mut self,
        view: &ContainerView,
        before: Option<&PackedContainer>,
        unedited: bool,
        learned: &mut Vec<LearnedIdentity>,
    ) -> PackedContainer {
        let container = NonZeroU64::new(short_hash(&view.container_id))
            .filter(|_| !view.container_id.is_empty());
        let same = before.filter(|packed| container.is_some() && packed.container == container);
        // The digest in the spec is that of this container only if the spec can't have been edited since it was created.
        // Otherwise whoever may edit pods could pass off a bad image as a good one.
        let created_after =
            same.is_none() && before.is_some_and(|packed| *packed.spec.image == *view.image);
        let may_pin = container.is_some() && (unedited || created_after);
        let pin = || view.pin().filter(|_| may_pin);
        let (digest, identity) = identify(same, ImageId::parse(&view.image_id), pin);
        learned.extend(identity.filter(|identity| !self.knows(identity)));
        let also = identity.map(|identity| identity.alias);
        let also = also.filter(|also| digest.is_some_and(|(digest, _)| digest != *also));
        let also = match also {
            Some(also) => Some(self.digests.intern(also)),
            None => same.and_then(|packed| packed.also.clone()),
        };
        let spec = before.map(|packed| &packed.spec);
        let same_spec =
            spec.filter(|spec| (&*spec.name, &*spec.image) == (&view.name, &view.image));
        let spec = same_spec.cloned().unwrap_or_else(|| {
            let spec = ContainerSpec {
                name: self.texts.intern(view.name.as_str()),
                image: self.texts.intern(view.image.as_str()),
            };
            self.container_specs.intern(spec)
        });
        let known = same.and_then(|packed| packed.digest.as_ref());
        PackedContainer {
            spec,
            container,
            local: digest.is_some_and(|(_, local)| local),
            digest: digest.map(|(digest, _)| match known {
                Some(known) if **known == digest => known.clone(),
                _ => self.digests.intern(digest),
            }),
            also,
            active: view.active,
        }
    }

    /// Whether that two digests identify one image was learned before.
    fn knows(&self, learned: &LearnedIdentity) -> bool {
        let (alias, known) = (learned.alias, learned.known);
        if learned.pinned {
            alias == known || self.pinned_with(alias).any(|other| other == known)
        } else {
            self.canonical(alias) == self.canonical(known)
        }
    }

    fn recount(&mut self, before: Option<&Pod>, now_: Option<&Pod>, now: Moment) {
        // Only what matters for settling: a change of labels alone is no activity of the workload.
        let busy = match (before, now_) {
            (Some(before), Some(pod)) => {
                before.workload != pod.workload
                    || before.revision != pod.revision
                    || (before.terminating, before.finished) != (pod.terminating, pod.finished)
                    || !before.runs().eq(pod.runs())
            }
            _ => true,
        };
        let new = now_.map(|pod| &pod.workload);
        let old = before.map(|pod| &pod.workload);
        for workload in new.into_iter().chain(old.filter(|old| Some(*old) != new)) {
            // The new state first: a pod that stays in its revision must not look like the first one of it.
            let counted = [(now_, true), (before, false)].into_iter();
            let counted = counted.filter_map(|(pod, add)| {
                let pod = pod.filter(|pod| !pod.finished && pod.workload == *workload);
                pod.map(|pod| (pod, add))
            });
            // Looked up once: there are many workloads, and comparing their names takes time.
            let state = if counted.clone().next().is_some() {
                self.workloads.entry(workload.clone()).or_insert_with(|| {
                    let report = self.deployments.get(workload);
                    WorkloadState::new(report.map_or_else(Default::default, |(_, it)| *it), now)
                })
            } else if let Some(state) = self.workloads.get_mut(workload) {
                state
            } else {
                continue;
            };
            for (pod, add) in counted {
                state.count(pod, add, now);
            }
            if busy {
                state.changed = now;
            }
            state.signal(now);
            if state.revisions.is_empty() && state.rolling_since.is_none() && now_.is_none() {
                // Its last pod is gone. The time of its last change still matters for what is not yet recorded.
                state.changed = now;
            }
        }
    }

    /// Applies the newest state of a Deployment. Returns the workload if its state changed.
    pub fn apply_deployment(
        &mut self,
        view: &DeploymentView,
        mark: u32,
        now: Moment,
    ) -> Option<Arc<Workload>> {
        let workload = self.deployment(&view.meta.namespace, &view.meta.name);
        let report = view.report;
        let before = self.deployments.insert(workload.clone(), (mark, report));
        if before.is_some_and(|(_, before)| before == report) {
            return None;
        }
        self.workloads
            .entry(workload.clone())
            .or_insert_with(|| WorkloadState::new(report, now))
            .apply_report(report, now);
        Some(workload)
    }

    /// The shared copy of the workload that a Deployment is.
    fn deployment(&mut self, namespace: &str, name: &str) -> Arc<Workload> {
        self.intern_workload(DEPLOYMENT, namespace, name)
    }

    /// Removes a Deployment.
    pub fn remove_deployment(
        &mut self,
        namespace: &str,
        name: &str,
        now: Moment,
    ) -> Option<Arc<Workload>> {
        let workload = self.deployment(namespace, name);
        self.deployments.remove(&workload)?;
        if let Some(state) = self.workloads.get_mut(&workload) {
            state.apply_report(RolloutReport::default(), now);
        }
        Some(workload)
    }

    /// Keeps a Deployment as it is though its newest state could not be read.
    pub fn keep_deployment(&mut self, namespace: &str, name: &str, mark: u32) {
        let workload = self.deployment(namespace, name);
        if let Some((old, _)) = self.deployments.get_mut(&workload) {
            *old = mark;
        }
    }

    /// The Deployments that a complete list did not hold.
    pub fn unmarked_deployments(&self, mark: u32) -> Vec<Arc<Workload>> {
        let deployments = self.deployments.iter();
        let unmarked = deployments.filter(|(_, (old, _))| *old != mark);
        unmarked.map(|(workload, _)| workload.clone()).collect()
    }

    /// Forgets all Deployments: they can't be read any more, so only pods show rollouts.
    pub fn forget_deployments(&mut self, now: Moment) {
        for workload in std::mem::take(&mut self.deployments).into_keys() {
            if let Some(state) = self.workloads.get_mut(&workload) {
                state.apply_report(RolloutReport::default(), now);
            }
        }
    }

    /// Applies the newest state of a namespace; true if its labels changed.
    pub fn apply_namespace(&mut self, view: &NamespaceView, mark: u32) -> bool {
        let labels = self.label_sets.intern(view.labels.clone());
        let name = self.texts.intern(view.meta.name.as_str());
        let before = self.namespaces.insert(name, (mark, labels));
        before.is_none_or(|(_, labels)| *labels != view.labels)
    }

    /// Removes a namespace; true if there was one.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        self.namespaces.remove(name).is_some()
    }

    /// Keeps a namespace as it is though its newest state could not be read.
    pub fn keep_namespace(&mut self, name: &str, mark: u32) {
        if let Some((old, _)) = self.namespaces.get_mut(name) {
            *old = mark;
        }
    }

    /// The namespaces that a complete list did not hold.
    pub fn unmarked_namespaces(&self, mark: u32) -> Vec<Arc<str>> {
        self.namespaces
            .iter()
            .filter(|(_, (old, _))| *old != mark)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Forgets workloads that have no pods and no rollout and are not `used`.
    pub fn tidy(&mut self, used: impl Fn(&Workload) -> bool) {
        self.workloads.retain(|workload, state| {
            !state.revisions.is_empty() || state.rolling_since.is_some() || used(workload)
        });
    }
}

impl WorkloadState {
    fn new(deployment: RolloutReport, now: Moment) -> Self {
        Self {
            deployment,
            changed: now,
            signalled: now,
            ..Self::default()
        }
    }

    fn count(&mut self, pod: &Pod, add: bool, now: Moment) {
        if add {
            let count = self.revisions.entry(pod.revision.clone()).or_insert(0);
            if *count == 0 && self.rolling_since.is_some() {
                self.rolling_since = Some(now); // another rollout, or its next step
            }
            *count += 1;
            self.terminating += u32::from(pod.terminating);
            self.starting += u32::from(pod.starting);
        } else {
            if let Some(count) = self.revisions.get_mut(&pod.revision) {
                *count -= 1;
                if *count == 0 {
                    self.revisions.remove(&pod.revision);
                }
            }
            self.terminating -= u32::from(pod.terminating);
            self.starting -= u32::from(pod.starting);
        }
    }

    /// Whether some of its pods have not run yet.
    pub fn is_starting(&self) -> bool {
        self.starting > 0
    }

    fn apply_report(&mut self, report: RolloutReport, now: Moment) {
        self.deployment = report;
        self.signal(now);
    }

    fn signal(&mut self, now: Moment) {
        let RolloutReport {
            unseen,
            progressing,
            halted,
        } = self.deployment;
        let rolling = (progressing || self.revisions.len() > 1) && !halted;
        if rolling != self.rolling_since.is_some() {
            self.signalled = now;
        }
        self.rolling_since = rolling.then(|| self.rolling_since.unwrap_or(now));
        let restless = self.terminating > 0 || (unseen || self.starting > 0) && !halted;
        self.restless_since = restless.then(|| self.restless_since.unwrap_or(now));
    }
}

/// The digest by which a container is known and whether only its node knows that; and, if that says anything new, which
/// digests identify one image. A container keeps the digest by which it was first known for its whole life: the runtime may
/// report others for the same image later, and the spec may be edited while the old image runs. `pin`: the digest that it
/// was surely created from.
fn identify(
    same: Option<&PackedContainer>,
    found: ImageId,
    pin: impl FnOnce() -> Option<Fingerprint>,
) -> (Option<(Fingerprint, bool)>, Option<LearnedIdentity>) {
    let learn = |alias, known, pinned| LearnedIdentity {
        alias,
        known,
        pinned,
    };
    let known = same.and_then(|packed| Some((**packed.digest.as_ref()?, packed.local)));
    let reported = found.fingerprint();
    match (known, found) {
        // The registry's digest replaces one that only the node knew.
        (Some((known, true)), ImageId::Repo(repo)) => {
            (Some((repo, false)), Some(learn(known, repo, false)))
        }
        (Some((known, local)), _) => {
            let learned = reported.map(|other| learn(other, known, false));
            (Some((known, local)), learned)
        }
        (None, found) => {
            let local = matches!(found, ImageId::Local(_));
            let pin = pin();
            let pinned = pin.zip(reported);
            let digest = pin.map(|pin| (pin, false));
            let digest = digest.or(reported.map(|digest| (digest, local)));
            (digest, pinned.map(|(pin, found)| learn(found, pin, true)))
        }
    }
}

/// The Deployment above the ReplicaSet, else the controlling owner, else the pod itself: kind and name.
fn workload_of(view: &PodView) -> (&str, &str) {
    let Some(owner) = &view.owner else {
        return ("Pod", &view.meta.name);
    };
    let kind = owner
        .kind
        .split_once('.')
        .map_or(owner.kind.as_str(), |(kind, _)| kind);
    let deployment = view
        .labels
        .get("pod-template-hash")
        .filter(|_| owner.kind == "ReplicaSet.apps")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str()))
        .and_then(|name| name.strip_suffix('-'))
        .filter(|name| !name.is_empty());
    match deployment {
        Some(name) => (DEPLOYMENT, name),
        None => (kind, &owner.name),
    }
}

/// A hash that is the same in every run, to compare ids without storing them (FNV-1a).
fn short_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
