//! All pods of the cluster in little memory: what each runs, and to which workload it belongs. Level-based: the fleet
//! depends on the last state of each object only, not on the order of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    ops::{Deref, Range, RangeInclusive},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    api::cut_to_schema::{self, cut_to_schema},
    cluster::{
        hanging::Hanging,
        image::{Fingerprint, ImageId, Reference, display_name, names_registry},
        intern::Interner,
        pod_view::{
            ContainerView, DeploymentView, NamespaceView, Need, PodView, RolloutReport,
            kept_containers,
        },
        scope::Labels,
        workload::{self, DEPLOYMENT, RUN_TO_COMPLETION, WorkloadIdentity},
    },
    time::Moment,
};

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
    /// They are not started again after they have succeeded, and nothing replaces them.
    runs_to_completion: bool,
    pub(crate) labels: LabelSet,
}

/// A pod, as far as it matters; packed, because there are many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    template: Arc<PodTemplate>,
    containers: Box<[PackedContainer]>,
    /// The number of the list in or after which it was last seen; pods with older numbers are removed when a list ends.
    mark: u32,
    /// By when its node has to have ended it, in seconds since the epoch; 0 unless it is being deleted.
    ends: u32,
    /// How many more of its containers run than can be kept: nobody knows what.
    unkept: u16,
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
    /// A hash of the runtime's id of the container and of where it is; `None` before it is created.
    container: Option<NonZeroU64>,
    /// The digest by which this container is known.
    digest: Option<Arc<Fingerprint>>,
    /// Another digest that its node reported for this container.
    also: Option<Arc<Fingerprint>>,
    /// Its digest counts for the rules: see [`ContainerIdentity::vouched`].
    vouched: bool,
    /// What its status and spec say now would not tell the digests that count for the rules: they were learned while the
    /// container ran.
    learned: bool,
    /// The same of the name of its image.
    named: bool,
    active: bool,
    /// An init container that runs once.
    once: bool,
}

impl PackedContainer {
    /// Whether the node says nothing of it for now: absence of information is no change, while the image in the spec is the
    /// same.
    fn outlasts(&self, view: &ContainerView) -> bool {
        view.silent && self.digest.is_some() && *self.spec.image == *view.image
    }

    /// The repository from which its image was pulled, if its status and its spec do not tell that any more.
    fn learned_repository(&self) -> Option<Box<str>> {
        let image = self.spec.trusted_image.as_ref().filter(|_| self.named)?;
        let repository = image.parse::<Reference>().ok()?.repository;
        Some(cut_to_schema(&repository, cut_to_schema::REPOSITORY).into())
    }

    fn identity(&self) -> Option<ContainerIdentity> {
        Some(ContainerIdentity {
            shown: **self.digest.as_ref()?,
            vouched: self.vouched,
            also: self.also.as_ref().map(|also| **also),
        })
    }
}

/// By which digest a container is known, and by which else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContainerIdentity {
    /// The digest under which it is shown: that with which it was first seen.
    shown: Fingerprint,
    /// It counts for the rules: its node reported it, or the pod's spec asks for it and was never edited, or a log says that
    /// it counts. Else the spec may have been edited, and the node reports nothing.
    vouched: bool,
    /// Another digest that its node reported for it.
    also: Option<Fingerprint>,
}

impl ContainerIdentity {
    fn trusted(self) -> Option<TrustedDigests> {
        self.vouched.then_some(TrustedDigests {
            first: self.shown,
            also: self.also,
        })
    }
}

/// The digests of one container that count for the rules: those that its own node reported for it, and the one to which a
/// spec pins it that was never edited. Nothing passes from one container to another: whoever may create pods, or has a node
/// of their own, would choose how the containers of others are shown and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrustedDigests {
    /// The digest with which the container was first seen.
    pub(crate) first: Fingerprint,
    /// Another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) also: Option<Fingerprint>,
}

impl TrustedDigests {
    /// Those of a container of which one digest is known.
    pub fn only(first: Fingerprint) -> Self {
        Self { first, also: None }
    }

    /// Those of a container of which two digests are known.
    #[cfg(test)]
    pub fn both(first: Fingerprint, also: Fingerprint) -> Self {
        let also = Some(also);
        Self { first, also }
    }

    /// Those of a container that was learned to be `self` and is `known` as that now. Logs may differ in the other digest: what
    /// is known of the running container goes before them.
    fn with_other_of(self, known: Option<Self>) -> Self {
        let mut known = known.into_iter().flat_map(Self::iter);
        let news = known.find(|digest| *digest != self.first);
        Self {
            also: news.or(self.also),
            ..self
        }
    }

    /// The digests.
    pub fn iter(self) -> impl Iterator<Item = Fingerprint> {
        [self.first].into_iter().chain(self.also)
    }
}

/// What counts of a container for the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustedContainer {
    /// Its digests.
    pub digests: TrustedDigests,
    /// The name under which its image was pulled: that which its spec asks for, if that was never edited and names a
    /// registry, else that which its node reports. `None`: whoever may edit pods could have made it up.
    pub(crate) image: Option<Arc<str>>,
}

impl TrustedContainer {
    /// What counts of a container of which one digest is known, and no name.
    pub fn only(first: Fingerprint) -> Self {
        Self {
            digests: TrustedDigests::only(first),
            image: None,
        }
    }

    /// The repository from which its image was pulled.
    pub fn repository(&self) -> Option<String> {
        let reference = self.image.as_ref()?.parse::<Reference>();
        reference.ok().map(|reference| reference.repository)
    }
}

/// What a log holds of a container: what counts of it for the rules, as far as its status and its spec would not tell that
/// again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LearnedContainer {
    /// Its digests.
    #[serde(flatten)]
    pub digests: TrustedDigests,
    /// The repository from which its image was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<Box<str>>,
}

impl LearnedContainer {
    /// Whether this tells all that `other` does. A repository that is told again may be lost again, so it is no news that
    /// `other` lacks it.
    pub fn tells(&self, other: &Self) -> bool {
        self.digests == other.digests
            && (other.repository.is_none() || other.repository == self.repository)
    }
}

/// A running container, in which what is shown and what is trusted are never the same thing.
#[derive(Clone, Debug)]
pub struct RunningContainer<'a> {
    /// The digest under which it is shown.
    pub shown: Option<Fingerprint>,
    /// What counts for the rules. `None`: nobody vouches for any digest.
    pub trusted: Option<TrustedContainer>,
    /// The image that the spec asks for.
    pub image: &'a Arc<str>,
    /// An init container that runs once: no instance of its image.
    pub once: bool,
}

/// What the spec says of a container, and by which name its image was pulled: nearly always the same for all pods of a
/// revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ContainerSpec {
    name: Arc<str>,
    /// The image that the spec asks for.
    image: Arc<str>,
    /// See [`TrustedContainer::image`].
    trusted_image: Option<Arc<str>>,
}

impl Pod {
    /// The running containers. One pod is one instance of an artifact, however many of its containers run it.
    pub fn runs(&self) -> impl Iterator<Item = RunningContainer<'_>> {
        let active = self.containers.iter().filter(|packed| packed.active);
        active.map(|packed| {
            let identity = packed.identity();
            RunningContainer {
                shown: identity.map(|identity| identity.shown),
                trusted: identity
                    .and_then(ContainerIdentity::trusted)
                    .map(|digests| TrustedContainer {
                        digests,
                        image: packed.spec.trusted_image.clone(),
                    }),
                image: &packed.spec.image,
                once: packed.once,
            }
        })
    }

    /// How many more containers run, of which nothing is known because they are too many.
    pub fn unkept(&self) -> usize {
        self.unkept.into()
    }

    /// The digests under which its running containers are shown, with the images of the spec.
    fn shown(&self) -> impl Iterator<Item = (Fingerprint, &Arc<str>)> {
        let counted = self.runs().filter(|it| !it.once);
        counted.filter_map(|it| Some((it.shown?, it.image)))
    }

    /// What was learned of running containers, by a hash of their ids: the log keeps it.
    pub fn learned(&self) -> impl Iterator<Item = (u64, LearnedContainer)> {
        let active = self.containers.iter().filter(|it| it.active);
        active.filter_map(|it| {
            let repository = it.learned_repository();
            let is_news = it.learned || repository.is_some();
            let (id, digests) = (it.container?, it.identity()?.trusted()?);
            let learned = LearnedContainer {
                digests,
                repository,
            };
            is_news.then_some((id.get(), learned))
        })
    }

    /// The names of running containers that can't be identified: nobody who knows reports a digest of their image.
    fn without_digest(&self) -> impl Iterator<Item = &Arc<str>> {
        let trusted = |packed: &PackedContainer| packed.identity()?.trusted();
        let unknown = move |packed: &&PackedContainer| packed.active && trusted(packed).is_none();
        let containers = self.containers.iter().filter(unknown);
        containers.map(|packed| &packed.spec.name)
    }

    /// The kinds of the pod's owners, the nearest first, and `RunToCompletion` if that is how it runs.
    pub fn owners(&self) -> [&str; 3] {
        let above = workload::kind_above(&self.workload.kind, &self.owner);
        let ends = self.runs_to_completion.then_some(RUN_TO_COMPLETION);
        let nearest = &*self.owner;
        [nearest, above.unwrap_or(nearest), ends.unwrap_or(nearest)]
    }

    /// Whether it is being deleted.
    fn is_terminating(&self) -> bool {
        self.ends > 0
    }

    /// By when its node has to have ended it, if it is being deleted: in seconds since the epoch.
    pub fn ends(&self) -> Option<u32> {
        Some(self.ends).filter(|ends| *ends > 0)
    }

    fn same_but_mark(&self, other: &Self) -> bool {
        let Self {
            template,
            containers,
            mark: _,
            ends,
            unkept,
            starting,
            finished,
        } = self;
        (ends, unkept) == (&other.ends, &other.unkept)
            && (starting, finished) == (&other.starting, &other.finished)
            && (Arc::ptr_eq(template, &other.template) || *template == other.template)
            && *containers == other.containers
    }
}

/// What is known of a workload as a whole.
#[derive(Clone, Debug, Default)]
pub struct WorkloadState {
    /// How many pods there are of each revision that are not being deleted, finished ones not included.
    staying: BTreeMap<Arc<str>, u32>,
    /// How many of each are being deleted: nearly always none, and that takes no memory.
    leaving: BTreeMap<Arc<str>, u32>,
    /// The same, by when their nodes have to have ended them, and of which revision they are. Whoever may create pods
    /// chooses how many there are of both: nothing here may look at all of them.
    ending: BTreeMap<u32, BTreeMap<Arc<str>, u32>>,
    starting: u32,
    /// What its Deployment reports, if it has one.
    deployment: RolloutReport,
    /// When any of this, or what its pods run, last changed.
    pub changed: Moment,
    /// When a rollout of it last began or ended, by those signals.
    pub signalled: Moment,
    /// Since when it is rolling, by the signals of its pods and its Deployment; a new revision starts this again. The pods
    /// that hang count here.
    pub rolling_since: Option<Moment>,
    /// Since when further changes are expected, rolling or not: pods that start, or a spec that its controller has not seen.
    pub starting_since: Option<Moment>,
    /// Since when pods terminate, those that hang among them.
    pub terminating_since: Option<Moment>,
}

/// The effect of a changed pod.
#[derive(Debug, Default)]
pub struct PodChange {
    pub(crate) before: Option<Pod>,
    pub(crate) now: Option<Pod>,
    /// Running containers that can't be identified now, and could be or were not there before.
    pub unidentified: Vec<String>,
}

type Deployments = BTreeMap<Arc<Workload>, (u32, RolloutReport)>;

/// Up to how many entries are remembered before the first look for those that nothing refers to.
const FEW_ENTRIES: usize = 1_024;

/// All pods, with what is needed to group them into workloads and environments.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By namespace and UID: what concerns one namespace is done without looking at the others.
    pods: BTreeMap<Arc<str>, BTreeMap<u128, Pod>>,
    pod_count: usize,
    /// The pods that are being deleted, by when their nodes have to have ended them; and the resource version of each when that
    /// was first seen.
    ending: BTreeMap<(u32, Arc<str>, u128), u64>,
    workloads: BTreeMap<Arc<Workload>, WorkloadState>,
    deployments: Deployments,
    namespaces: BTreeMap<Arc<str>, (u32, Arc<Labels>)>,
    /// What logs hold of containers, by a hash of their ids.
    learned: BTreeMap<u64, LearnedContainer>,
    /// How many entries were left when those were last forgotten that nothing refers to.
    left: usize,
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

    /// The pods whose nodes have to have ended them in this span, in seconds since the epoch, the first to end first; and the
    /// resource version of each when it was first seen that it is being deleted.
    pub fn pods_ending(&self, span: Range<u32>) -> impl Iterator<Item = (&Pod, u64)> {
        let first = |ends| (ends, Arc::from(""), 0);
        let ending = self.ending.range(first(span.start)..first(span.end));
        ending.filter_map(|((_, namespace, uid), version)| {
            let pod = self.pods.get(namespace)?.get(uid)?;
            Some((pod, *version))
        })
    }

    /// When the last pod had to have ended up to that time, in seconds since the epoch.
    pub fn last_end(&self, by: u32) -> Option<u32> {
        let after = (by.saturating_add(1), Arc::from(""), 0);
        self.ending
            .range(..after)
            .next_back()
            .map(|((ends, ..), _)| *ends)
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
    pub fn has_pod(&self, namespace: &str, uid: u128) -> bool {
        let pods = self.pods.get(namespace);
        pods.is_some_and(|pods| pods.contains_key(&uid))
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

    /// Takes in what a log holds of containers. True if that says anything new of a container that is known already.
    pub fn recall(&mut self, learned: &BTreeMap<u64, LearnedContainer>) -> bool {
        let known = &mut self.learned;
        let news = learned.iter().filter(|(id, it)| known.get(id) != Some(it));
        let news: BTreeMap<u64, LearnedContainer> =
            news.map(|(id, it)| (*id, it.clone())).collect();
        known.extend(news.clone());
        if news.is_empty() {
            return false;
        }
        let mut corrected = false;
        let pods = self.pods.values_mut().flat_map(BTreeMap::values_mut);
        for packed in pods.flat_map(|pod| pod.containers.iter_mut()) {
            let learned = packed.container.and_then(|id| news.get(&id.get()));
            let Some(learned) = learned else { continue };
            let trusted = packed.identity().and_then(ContainerIdentity::trusted);
            let digests = learned.digests;
            let now = digests.with_other_of(trusted);
            if trusted != Some(now) {
                corrected = true;
                packed.digest = Some(self.digests.intern(now.first));
                packed.also = now.also.map(|also| self.digests.intern(also));
                (packed.vouched, packed.learned) = (true, true);
            }
            if let Some(repository) = &learned.repository
                && packed.spec.trusted_image.is_none()
            {
                corrected = true;
                let spec = ContainerSpec {
                    trusted_image: Some(self.texts.intern(&**repository)),
                    ..(*packed.spec).clone()
                };
                packed.spec = self.container_specs.intern(spec);
                packed.named = true;
            }
        }
        corrected
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
        let pod = self.pack(view, before.as_ref(), mark);
        if before
            .as_ref()
            .is_some_and(|before| before.same_but_mark(&pod))
        {
            self.keep_pod(namespace, uid, mark);
            return None;
        }
        let pods = self.pods.entry(pod.workload.namespace.clone()).or_default();
        self.pod_count += usize::from(pods.insert(uid, pod.clone()).is_none());
        self.note_end(uid, before.as_ref(), Some((&pod, view.meta.version)));
        let known = before.iter().flat_map(Pod::without_digest);
        let known: BTreeSet<&Arc<str>> = known.collect();
        let names = pod.without_digest().filter(|name| !known.contains(name));
        let (namespace, pod_name) = (&view.meta.namespace, &view.meta.name);
        let unidentified = names.map(|name| format!("{namespace}/{pod_name}/{name}"));
        let unkept = Some(pod.unkept).filter(|unkept| {
            let before = before.as_ref().map_or(0, |before| before.unkept);
            *unkept > before
        });
        let unkept = unkept.map(|unkept| {
            format!("{namespace}/{pod_name}/* ({unkept} more than are kept of a pod)")
        });
        let unidentified = unidentified.chain(unkept).collect();
        self.recount(before.as_ref(), Some(&pod), now);
        Some(PodChange {
            before,
            now: Some(pod),
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
        self.note_end(uid, Some(&before), None);
        self.recount(Some(&before), None, now);
        Some(PodChange {
            before: Some(before),
            ..PodChange::default()
        })
    }

    /// Notes when a pod has to end. `now`: the pod as it is, and its resource version.
    fn note_end(&mut self, uid: u128, before: Option<&Pod>, now: Option<(&Pod, u64)>) {
        let ends = |pod: &Pod| {
            let namespace = &pod.workload.namespace;
            pod.ends().map(|ends| (ends, namespace.clone(), uid))
        };
        let first = before
            .and_then(ends)
            .and_then(|before| self.ending.remove(&before));
        let is = now.and_then(|(pod, version)| Some((ends(pod)?, first.unwrap_or(version))));
        self.ending.extend(is);
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

    fn pack(&mut self, view: &PodView, before: Option<&Pod>, mark: u32) -> Pod {
        let template = self.template_of(view, before.map(|pod| &pod.template));
        let unedited = self.trust_generation && view.generation == 1;
        // Looked up several times for each of what may be thousands. Of two of the same name the first counts.
        let packed = before
            .into_iter()
            .flat_map(|pod| pod.containers.iter().rev());
        let packed = packed.map(|packed| (&*packed.spec.name, packed));
        let packed: BTreeMap<&str, &PackedContainer> = packed.collect();
        let known = |container: &ContainerView| packed.get(&*container.name).copied();
        let (kept, unkept) = kept_containers(&view.containers, |container| {
            let packed = known(container);
            let stays = packed.is_some_and(|packed| {
                packed.active && (container.active || packed.outlasts(container))
            });
            match () {
                () if stays => Some(Need::Stays),
                () if container.active => Some(Need::Runs),
                // Of a container that has never run nothing is needed.
                () => {
                    let has_run = !container.container_id.is_empty();
                    (has_run || container.silent && packed.is_some()).then_some(Need::Other)
                }
            }
        });
        // Those that ran without being kept may be among those of which the node says nothing for now.
        let unkept_before = before.map_or(0, |before| before.unkept);
        let silent = view.containers.iter().filter(|container| {
            unkept_before > unkept
                && container.silent
                && !container.active
                && known(container).is_none()
        });
        let silent = u16::try_from(silent.count()).unwrap_or(u16::MAX);
        let unkept = unkept.max(unkept_before.min(unkept.saturating_add(silent)));
        let containers = kept.into_iter().map(|container| {
            let packed = known(container);
            self.pack_container(view.meta.uid, container, packed, unedited)
        });
        Pod {
            template,
            containers: containers.collect(),
            mark,
            ends: view.ends,
            unkept,
            starting: view.starting,
            finished: view.finished,
        }
    }

    /// What a pod shares with the others of its revision; seldom different from before.
    fn template_of(
        &mut self,
        view: &PodView,
        before: Option<&Arc<PodTemplate>>,
    ) -> Arc<PodTemplate> {
        let owner = view.owner.as_ref().map_or("Pod", |owner| &owner.kind);
        let controller = view.owner.as_ref();
        let controller = controller.map(|owner| (owner.kind.as_str(), owner.name.as_str()));
        let namespace = view.meta.namespace.as_str();
        let WorkloadIdentity {
            kind,
            name,
            revision,
        } = workload::identify(&view.meta.name, controller, &view.labels);
        let same = before.filter(|template| {
            let workload = &template.workload;
            (&*workload.namespace, &*workload.kind, &*workload.name) == (namespace, kind, name)
                && (&*template.owner, &*template.revision) == (owner, revision)
                && template.runs_to_completion == view.runs_to_completion
                && template.labels.is(&view.labels)
        });
        if let Some(template) = same {
            return template.clone();
        }
        let template = PodTemplate {
            workload: self.intern_workload(kind, namespace, name),
            revision: self.texts.intern(revision),
            owner: self.texts.intern(owner),
            runs_to_completion: view.runs_to_completion,
            labels: LabelSet::of(&view.labels),
        };
        self.template.intern(template)
    }

    fn pack_container(
        &mut self,
        pod: u128,
        view: &ContainerView,
        before: Option<&PackedContainer>,
        unedited: bool,
    ) -> PackedContainer {
        // Ids are unique on real nodes. On others no container may pass for that of another pod.
        let id = pod.to_be_bytes().into_iter().chain(view.name.bytes());
        let id = id.chain([0]).chain(view.container_id.bytes());
        let container = NonZeroU64::new(short_hash(id)).filter(|_| !view.container_id.is_empty());
        let silent = before.filter(|packed| packed.outlasts(view));
        let same = before.filter(|packed| container.is_some() && packed.container == container);
        let same = same.or(silent);
        let logged = container.and_then(|id| self.learned.get(&id.get()));
        let known = same.and_then(PackedContainer::identity).or_else(|| {
            let digests = logged?.digests;
            Some(ContainerIdentity {
                shown: digests.first,
                vouched: true,
                also: digests.also,
            })
        });
        let pin = || view.pin().map(|digest| Pin { digest, unedited });
        let reported = ImageId::parse(&view.image_id).fingerprint();
        let identity = identify(known, reported, pin);
        let told = match known {
            Some(_) => identify(None, reported, pin),
            None => identity,
        };
        let trusted = |it: Option<ContainerIdentity>| it.and_then(ContainerIdentity::trusted);
        let learned_now = match silent {
            Some(before) => before.learned,
            None => trusted(identity) != trusted(told),
        };
        let asked = Some(view.image.as_str()).filter(|image| unedited && names_registry(image));
        let told = asked.or_else(|| ImageId::name(&view.image_id));
        // While nobody who knows says another, the same container has the same one.
        let before_that = || same?.spec.trusted_image.as_deref();
        let logged_one = || logged?.repository.as_deref();
        let (trusted_image, named) = match silent {
            Some(before) => (before.spec.trusted_image.as_deref(), before.named),
            None => (
                told.or_else(before_that).or_else(logged_one),
                told.is_none(),
            ),
        };
        let spec = before.map(|packed| &packed.spec);
        let same_spec = spec.filter(|spec| {
            (&*spec.name, &*spec.image) == (&view.name, &view.image)
                && spec.trusted_image.as_deref() == trusted_image
        });
        let spec = same_spec.cloned().unwrap_or_else(|| {
            let spec = ContainerSpec {
                name: self.texts.intern(view.name.as_str()),
                image: self.texts.intern(view.image.as_str()),
                trusted_image: trusted_image.map(|image| self.texts.intern(image)),
            };
            self.container_specs.intern(spec)
        });
        let mut interned = |digest: Fingerprint, known: Option<&Arc<Fingerprint>>| match known {
            Some(known) if **known == digest => known.clone(),
            _ => self.digests.intern(digest),
        };
        let digest = same.and_then(|packed| packed.digest.as_ref());
        let also = same.and_then(|packed| packed.also.as_ref());
        PackedContainer {
            spec,
            container: container.or(silent.and_then(|packed| packed.container)),
            digest: identity.map(|identity| interned(identity.shown, digest)),
            also: identity.and_then(|identity| Some(interned(identity.also?, also))),
            vouched: identity.is_some_and(|identity| identity.vouched),
            learned: learned_now,
            named,
            once: view.once,
            active: view.active || silent.is_some_and(|packed| packed.active),
        }
    }

    fn recount(&mut self, before: Option<&Pod>, now_: Option<&Pod>, now: Moment) {
        // Only what matters for settling: a change of labels alone is no activity of the workload.
        let busy = match (before, now_) {
            (Some(before), Some(pod)) => {
                before.workload != pod.workload
                    || before.revision != pod.revision
                    || (before.is_terminating(), before.finished)
                        != (pod.is_terminating(), pod.finished)
                    || !before.shown().eq(pod.shown())
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
            if !state.has_pods() && state.rolling_since.is_none() && now_.is_none() {
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

    /// How many entries are remembered of workloads and containers that may be gone.
    fn entries(&self) -> usize {
        self.workloads.len() + self.learned.len()
    }

    /// Of how many containers a log has told something.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.learned.len()
    }

    /// How many containers of pods are kept.
    #[cfg(test)]
    pub fn kept_containers(&self) -> usize {
        let pods = self.pods.values().flat_map(BTreeMap::values);
        pods.map(|pod| pod.containers.len()).sum()
    }

    /// Keeps all that is remembered from now on, for comparison.
    #[cfg(test)]
    pub fn never_tidy(&mut self) {
        self.left = usize::MAX;
    }

    /// Whether so much is remembered that it is time to look for what nothing refers to.
    pub fn should_tidy(&self) -> bool {
        self.entries() > FEW_ENTRIES.max(self.left.saturating_mul(2))
    }

    /// Forgets workloads and containers that have no pods and are not `used`: of which nothing is still to be recorded, and
    /// whose ids no log holds.
    pub fn tidy(&mut self, used: &BTreeSet<Arc<Workload>>, is_in_a_log: impl Fn(u64) -> bool) {
        self.tidy_workloads(|workload| used.contains(workload));
        let pods = self.pods.values().flat_map(BTreeMap::values);
        let containers = pods.flat_map(|pod| &pod.containers);
        let containers = containers.filter_map(|packed| Some(packed.container?.get()));
        let containers: BTreeSet<u64> = containers.collect();
        self.learned
            .retain(|id, _| containers.contains(id) || is_in_a_log(*id));
        self.left = self.entries();
    }

    /// Forgets workloads that have no pods and no rollout and are not `used`.
    pub fn tidy_workloads(&mut self, used: impl Fn(&Workload) -> bool) {
        self.workloads.retain(|workload, state| {
            state.has_pods()
                || state.rolling_since.is_some()
                || state.starting_since.is_some()
                || state.terminating_since.is_some()
                || used(workload)
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
        let revision = &pod.revision;
        if pod.is_terminating() {
            step(&mut self.leaving, revision, add);
            let ending = self.ending.entry(pod.ends).or_default();
            step(ending, revision, add);
            if ending.is_empty() {
                self.ending.remove(&pod.ends);
            }
        } else {
            if add && !self.staying.contains_key(revision) && self.rolling_since.is_some() {
                self.rolling_since = Some(now); // another rollout, or its next step
            }
            step(&mut self.staying, revision, add);
        }
        let starting = u32::from(pod.starting);
        self.starting = match add {
            true => self.starting + starting,
            false => self.starting - starting,
        };
    }

    /// Whether it is rolling by the signals of its Deployment and its pods, without those that hang.
    pub fn is_rolling(&self, hanging: &Hanging) -> bool {
        let later = self.ending.range(hanging.by.saturating_add(1)..);
        let later = later.filter(|(ends, _)| !hanging.has(**ends));
        let later = later.flat_map(|(_, revisions)| revisions.keys());
        self.rolls(self.staying.keys().chain(later))
    }

    /// Whether it is rolling if it has pods of these revisions.
    fn rolls<'a>(&self, mut revisions: impl Iterator<Item = &'a Arc<str>>) -> bool {
        let mut several = || {
            let first = revisions.next();
            revisions.any(|revision| Some(revision) != first)
        };
        !self.deployment.halted && (self.deployment.progressing || several())
    }

    /// Whether it has pods that hang.
    pub fn hangs(&self, hanging: &Hanging) -> bool {
        let mut at = hanging.at.iter();
        self.ending.range(..=hanging.by).next().is_some()
            || at.any(|ends| self.ending.contains_key(ends))
    }

    /// By when the last of its pods has to have ended of which that is due in this span, in seconds since the epoch, but
    /// those that hang.
    pub fn last_end(&self, span: RangeInclusive<u32>, hanging: &Hanging) -> Option<u32> {
        let first = hanging.by.saturating_add(1).max(*span.start());
        if first > *span.end() {
            return None;
        }
        let mut ends = self
            .ending
            .range(first..=*span.end())
            .map(|(ends, _)| *ends);
        ends.rfind(|ends| !hanging.has(*ends))
    }

    /// Whether it has pods that have not finished.
    fn has_pods(&self) -> bool {
        !self.staying.is_empty() || !self.leaving.is_empty()
    }

    /// Whether some of its pods have not run yet.
    pub fn is_starting(&self) -> bool {
        self.starting > 0
    }

    /// Whether its controller tells its pods apart by revisions.
    pub fn has_revisions(&self) -> bool {
        let last = [&self.staying, &self.leaving].map(|pods| pods.keys().next_back());
        last.into_iter().flatten().any(|last| !last.is_empty())
    }

    fn apply_report(&mut self, report: RolloutReport, now: Moment) {
        if self.deployment.progressing != report.progressing {
            self.signalled = now; // pods that hang may hide that the rollout is over
        }
        self.deployment = report;
        self.signal(now);
    }

    fn signal(&mut self, now: Moment) {
        let rolling = self.rolls(self.staying.keys().chain(self.leaving.keys()));
        if rolling != self.rolling_since.is_some() {
            self.signalled = now;
        }
        let since = |is: bool, since: Option<Moment>| is.then(|| since.unwrap_or(now));
        self.rolling_since = since(rolling, self.rolling_since);
        let starting = (self.deployment.unseen || self.starting > 0) && !self.deployment.halted;
        self.starting_since = since(starting, self.starting_since);
        self.terminating_since = since(!self.ending.is_empty(), self.terminating_since);
    }
}

/// Counts one more or one less of a revision.
fn step(revisions: &mut BTreeMap<Arc<str>, u32>, revision: &Arc<str>, add: bool) {
    let pods = revisions.entry(revision.clone()).or_insert(0);
    *pods = if add { *pods + 1 } else { *pods - 1 };
    if *pods == 0 {
        revisions.remove(revision);
    }
}

/// The digest to which a pod's spec pins a container.
struct Pin {
    digest: Fingerprint,
    /// The spec was never edited, so the container was surely created from it.
    unedited: bool,
}

/// By which digest a container is known now. It keeps the digest with which it was first seen for its whole life: its node
/// may report others for the same image later, and the spec may be edited while the old image runs. `known`: by which it was
/// known before. Nothing that is known of other containers counts.
fn identify(
    known: Option<ContainerIdentity>,
    reported: Option<Fingerprint>,
    pin: impl FnOnce() -> Option<Pin>,
) -> Option<ContainerIdentity> {
    let Some(reported) = reported else {
        // Nothing is reported: that changes nothing.
        return known.or_else(|| {
            pin().map(|pin| ContainerIdentity {
                shown: pin.digest,
                vouched: pin.unedited,
                also: None,
            })
        });
    };
    let known = known.filter(|known| known.vouched).or_else(|| {
        let pin = pin().filter(|pin| pin.unedited);
        pin.map(|pin| ContainerIdentity {
            shown: pin.digest,
            vouched: true,
            also: None,
        })
    });
    let known = known.unwrap_or(ContainerIdentity {
        shown: reported,
        vouched: true,
        also: None,
    });
    let news = Some(reported).filter(|reported| *reported != known.shown);
    Some(ContainerIdentity {
        also: news.or(known.also),
        ..known
    })
}

/// A hash that is the same in every run, to compare ids without storing them (FNV-1a).
fn short_hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
