//! Slim views of Pods, Deployments and Namespaces: the fields that matter here, decoded straight from the JSON of the API
//! server. Decoding never fails: an object that can't be read is named and reported, and stops nothing else.

use std::{borrow::Cow, collections::BTreeMap, ops::Deref};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        condition::shorten,
        cut_to_schema::{self, cut_to_schema},
    },
    cluster::{
        image::{Fingerprint, Reference},
        workload,
    },
};

/// How many bytes of a pod's labels are kept.
const MAX_LABELS: usize = 16 << 10;
/// How many bytes are kept of a pod's containers: their texts, and [`CONTAINER`] for each. With the labels and the owner,
/// which the schema of snapshots bounds, it is all that is kept of a pod.
const MAX_CONTAINERS: usize = 16 << 10;
/// What a container counts for besides its texts.
const CONTAINER: usize = 64;

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Its namespace; empty for one without.
    pub namespace: String,
    pub(crate) name: String,
    /// Its UID as a number.
    pub uid: u128,
    /// Its resource version.
    pub version: u64,
}

/// At most so many characters are said of why an object can't be read: it may name keys and values of the object.
const WHY: usize = 512;

/// An object as it came from the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// It could be read.
    Good(T),
    /// It could not; what is known of it, and why.
    Bad(Meta, String),
    /// It could not, and yet this much of it counts; why.
    Part(T, String),
}

/// An object that has a slim view, which is read in one pass from the object's JSON.
pub trait SlimView: DeserializeOwned + Send {
    /// Its metadata.
    fn meta(&self) -> &Meta;

    /// What counts even of an object that can't be read as a whole. Most objects: nothing.
    fn part_of(_object: &serde_json::Value) -> Option<Self> {
        None
    }
}

impl<T: SlimView> Decoded<T> {
    /// Its metadata, as far as it could be read.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Good(view) | Self::Part(view, _) => view.meta(),
            Self::Bad(meta, _) => meta,
        }
    }
}

/// Never fails on an object, whatever it holds. It scans each text twice, first for its end and then for its content: a
/// list is faster read as `T`, and read like this only if that fails.
impl<'de, T: SlimView> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?.get();
        // From bytes, as elsewhere: all of this is compiled once for each type of input.
        let bytes = raw.as_bytes();
        Ok(match serde_json::from_slice(bytes) {
            Ok(view) => Self::Good(view),
            Err(error) => {
                let why = why_unreadable::<T>(bytes, &error);
                let object = serde_json::from_str(raw).unwrap_or_default();
                match T::part_of(&object) {
                    Some(part) => Self::Part(part, why),
                    None => Self::Bad(salvage(&object), why),
                }
            }
        })
    }
}

/// The error with the field that it is about, which costs a second reading.
fn why_unreadable<T: SlimView>(bytes: &[u8], error: &serde_json::Error) -> String {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let named = serde_path_to_error::deserialize::<_, T>(&mut json);
    let why = named.map_or_else(|named| named.to_string(), |_| error.to_string());
    shorten(&why, WHY)
}

/// As much of the metadata as can be read of an object that can't be read as a whole.
fn salvage(object: &serde_json::Value) -> Meta {
    let text = |key: &str| {
        object["metadata"][key]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Meta {
        namespace: text("namespace"),
        name: text("name"),
        uid: uid(&text("uid")),
        version: version(&text("resourceVersion")),
    }
}

/// A UID as a number: UUIDs as they are, anything else by its hash.
pub fn uid(text: &str) -> u128 {
    let digits = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    if text.len() == 36
        && digits.clone().count() == 32
        && let Some(number) = digits
            .into_iter()
            .try_fold(0, |number, digit| Some(number << 4 | u128::from(digit?)))
    {
        return number;
    }
    let hash = Sha256::digest(text.as_bytes());
    hash.iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The text of a UID that is a UUID.
pub fn uid_text(uid: u128) -> String {
    let digits = format!("{uid:032x}");
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

/// A resource version as a number (they are comparable integers); 0 when it is none.
pub fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// A text that is borrowed unless it has escapes; `Option<Cow<str>>` would be a copy.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// `null` means the same as leaving a field out, as everywhere in the Kubernetes API.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta<'a> {
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(borrow)]
    resource_version: Text<'a>,
    generation: Option<i64>,
    #[serde(borrow)]
    deletion_timestamp: Option<Text<'a>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    owner_references: Vec<RawOwner<'a>>,
}

impl RawMeta<'_> {
    fn meta(&self) -> Meta {
        Meta {
            namespace: self.namespace.as_deref().unwrap_or_default().to_owned(),
            name: self.name.to_string(),
            uid: uid(&self.uid),
            version: version(&self.resource_version),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOwner<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    controller: Option<bool>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    pub(crate) meta: Meta,
    /// The generation of its spec; 0 on servers that don't count it.
    pub generation: i64,
    /// By when its node has to have ended it, in seconds since the epoch; 0 unless it is being deleted.
    pub ends: u32,
    /// Some of its containers have never run yet.
    pub starting: bool,
    /// It has succeeded or failed: none of its containers runs any more.
    pub finished: bool,
    /// It is not started again after it has succeeded, and nothing replaces it.
    pub runs_to_completion: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its controlling owner.
    pub owner: Option<Owner>,
    /// The containers that have been created, and those that may be yet.
    pub containers: Vec<ContainerView>,
}

/// The controlling owner of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `Job.batch`; just `Node` for a kind of the core group.
    pub kind: String,
    pub(crate) name: String,
}

/// A container of a pod, as far as it counts: run-once init containers only while they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name, unique in the pod.
    pub name: String,
    /// The image that the spec asks for.
    pub image: String,
    /// The `imageID` that the runtime reports.
    pub image_id: String,
    /// The runtime's id of the container; empty before it is created.
    pub container_id: String,
    /// It runs, or is about to be restarted.
    pub active: bool,
    /// An init container that runs once: it is no instance of its image, but what it runs is judged.
    pub once: bool,
    /// Its status does not say which container it is, nor of which image, nor that it ended. A node that is being repaired loses
    /// what it knew for a while.
    pub silent: bool,
}

impl ContainerView {
    /// The digest to which the spec pins its image.
    pub fn pin(&self) -> Option<Fingerprint> {
        let reference = Some(&self.image).filter(|image| image.contains("@sha256:"))?;
        reference.parse::<Reference>().ok()?.pin
    }
}

#[derive(Deserialize)]
struct RawPod<'a> {
    #[serde(borrow)]
    metadata: RawMeta<'a>,
    #[serde(borrow)]
    spec: RawPodSpec<'a>,
    #[serde(default, borrow)]
    status: RawPodStatus<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodSpec<'a> {
    #[serde(borrow)]
    restart_policy: Option<Text<'a>>,
    #[serde(borrow)]
    containers: Vec<RawContainer<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    init_containers: Vec<RawContainer<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    ephemeral_containers: Vec<RawContainer<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    image: Option<Text<'a>>,
    #[serde(borrow)]
    restart_policy: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    restart_policy_rules: Vec<RawRestartRule<'a>>,
}

/// A rule of a container that restarts it, or all of its pod, after some exit codes, whatever its policy says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRestartRule<'a> {
    #[serde(borrow)]
    exit_codes: Option<RawExitCodes<'a>>,
}

#[derive(Deserialize)]
struct RawExitCodes<'a> {
    #[serde(borrow)]
    operator: Text<'a>,
    #[serde(default, deserialize_with = "nullable")]
    values: Vec<i64>,
}

impl RawContainer<'_> {
    /// Whether the container is started again after it ended so. `policy`: that of its pod.
    fn restarts(&self, policy: &str, exit_code: Option<i64>) -> bool {
        let by_rule = exit_code.is_some_and(|code| {
            let rules = self.restart_policy_rules.iter();
            let codes = rules.filter_map(|rule| rule.exit_codes.as_ref());
            let mut codes = codes.map(|of| (&*of.operator, of.values.contains(&code)));
            codes.any(|(operator, listed)| {
                matches!((operator, listed), ("In", true) | ("NotIn", false))
            })
        });
        by_rule
            || match self.restart_policy.as_deref().unwrap_or(policy) {
                "Never" => false,
                "OnFailure" => exit_code != Some(0),
                _ => true,
            }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodStatus<'a> {
    #[serde(borrow)]
    phase: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    container_statuses: Vec<RawStatus<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    init_container_statuses: Vec<RawStatus<'a>>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    ephemeral_container_statuses: Vec<RawStatus<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(rename = "imageID", borrow)]
    image_id: Option<Text<'a>>,
    #[serde(rename = "containerID", borrow)]
    container_id: Option<Text<'a>>,
    restart_count: Option<i64>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    state: RawState<'a>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    last_state: RawState<'a>,
}

#[derive(Default, Deserialize)]
struct RawState<'a> {
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<RawTerminated>,
    #[serde(borrow)]
    waiting: Option<RawWaiting<'a>>,
}

#[derive(Deserialize)]
struct RawWaiting<'a> {
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTerminated {
    exit_code: Option<i64>,
}

/// Why the kubelet waits when it does not get an image.
const NO_IMAGE: [&str; 7] = [
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

impl RawStatus<'_> {
    /// Whether the container runs or is about to be restarted. `policy`: that of its pod.
    fn is_active(&self, spec: &RawContainer<'_>, policy: &str, terminating: bool) -> bool {
        if self.state.running.is_some() {
            return true;
        }
        if terminating {
            return false; // nothing is started any more
        }
        match &self.state.terminated {
            Some(end) => spec.restarts(policy, end.exit_code),
            // Waiting: for its first start, or, in a crash loop, for the next.
            None => {
                let has_run =
                    self.restart_count.unwrap_or(0) > 0 || self.last_state.terminated.is_some();
                has_run && !self.lacks_image()
            }
        }
    }

    /// Whether the node does not get the image, perhaps no more: nothing runs, whatever ran before.
    fn lacks_image(&self) -> bool {
        let waiting = self.state.waiting.as_ref();
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        reason.is_some_and(|reason| NO_IMAGE.contains(&reason))
    }

    /// Whether it says neither which container it is, nor of which image, nor that it ended.
    fn is_silent(&self) -> bool {
        let empty = |text: &Option<Text<'_>>| text.as_deref().unwrap_or_default().is_empty();
        self.state.terminated.is_none()
            && empty(&self.image_id)
            && empty(&self.container_id)
            && !self.lacks_image()
    }
}

/// The labels of a pod that are kept, because their size is limited by nothing but that of the object: those that tell its
/// workload, and then the first ones by name.
fn kept_labels(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let size = |(key, value): (&String, &String)| key.len() + value.len();
    if labels.iter().map(size).sum::<usize>() <= MAX_LABELS {
        return labels;
    }
    let mut room = MAX_LABELS;
    let mut kept = BTreeMap::new();
    for identifying in [true, false] {
        let of_this_kind = |key: &String, _: &mut String| workload::identifies(key) == identifying;
        for (key, value) in labels.extract_if(.., of_this_kind) {
            let size = size((&key, &value));
            if size <= room {
                room -= size;
                kept.insert(key, value);
            }
        }
    }
    kept
}

/// What counts against [`MAX_CONTAINERS`].
fn size_of_container(container: &ContainerView) -> usize {
    CONTAINER + container.name.len() + container.image.len() + container.image_id.len()
}

/// What is needed of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It runs and was kept before: it stays, or it would look as if it had stopped.
    Stays,
    /// It runs.
    Runs,
    /// It may be asked for later.
    Other,
}

/// The containers of a pod that are kept, because their number and their images are limited by nothing but the size of the
/// object: those that run, and then the others of which anything is needed. And how many that run are not.
pub fn kept_containers(
    containers: &[ContainerView],
    need: impl Fn(&ContainerView) -> Option<Need>,
) -> (Vec<&ContainerView>, u16) {
    let needed = containers.iter().filter_map(|it| Some((it, need(it)?)));
    let needed: Vec<_> = needed.collect();
    let size = needed.iter().map(|(it, _)| size_of_container(it));
    if size.sum::<usize>() <= MAX_CONTAINERS {
        return (needed.into_iter().map(|(it, _)| it).collect(), 0);
    }
    let mut room = MAX_CONTAINERS;
    let mut kept = vec![false; needed.len()];
    for first in [Need::Stays, Need::Runs, Need::Other] {
        let all = needed.iter().zip(&mut kept);
        for ((container, _), kept) in all.filter(|((_, need), _)| *need == first) {
            let size = size_of_container(container);
            if size <= room {
                room -= size;
                *kept = true;
            }
        }
    }
    let mut unkept = 0_u16;
    let mut found = vec![];
    for ((container, need), kept) in needed.into_iter().zip(kept) {
        match need {
            _ if kept => found.push(container),
            Need::Stays | Need::Runs => unkept = unkept.saturating_add(1),
            Need::Other => {}
        }
    }
    (found, unkept)
}

/// The statuses of a pod's containers by their names. Looking at each for each container would take the square of their
/// number, which is limited by nothing but the size of the object.
fn by_name<'s, 'a>(statuses: &'s [RawStatus<'a>]) -> Vec<&'s RawStatus<'a>> {
    let mut sorted: Vec<_> = statuses.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// The first status of this name.
fn status_of<'s, 'a>(sorted: &[&'s RawStatus<'a>], name: &str) -> Option<&'s RawStatus<'a>> {
    let at = sorted.partition_point(|status| &*status.name < name);
    sorted
        .get(at)
        .copied()
        .filter(|status| &*status.name == name)
}

/// A time of deletion in seconds since the epoch, at least 1. The latest there is if it can't be read: whatever has one is being
/// deleted.
fn ends(deletion: &str) -> u32 {
    let at = deletion.parse::<Timestamp>().map(Timestamp::as_second);
    at.map_or(u32::MAX, |at| u32::try_from(at.max(1)).unwrap_or(u32::MAX))
}

impl<'de> Deserialize<'de> for PodView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawPod::deserialize(deserializer)?;
        let meta = raw.metadata.meta();
        let terminating = raw.metadata.deletion_timestamp.is_some();
        let finished = matches!(raw.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let policy = raw.spec.restart_policy.as_deref().unwrap_or("Always");
        let (spec, status) = (&raw.spec, &raw.status);
        let statuses = by_name(&status.container_statuses);
        let init_statuses = by_name(&status.init_container_statuses);
        let debugger_statuses = by_name(&status.ephemeral_container_statuses);
        let usual = spec.containers.iter();
        let usual = usual.map(|c| (c, &statuses, policy, false));
        let sidecars = spec.init_containers.iter();
        let sidecars = sidecars
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .map(|c| (c, &init_statuses, policy, false));
        // They are started again only after a failure.
        let failed = Some(policy).filter(|policy| *policy != "Always");
        let failed = failed.unwrap_or("OnFailure");
        let once = spec.init_containers.iter();
        let once = once
            .filter(|c| c.restart_policy.as_deref() != Some("Always"))
            .map(|c| (c, &init_statuses, failed, true));
        let debuggers = spec.ephemeral_containers.iter();
        let debuggers = debuggers.map(|c| (c, &debugger_statuses, "Never", false));
        let containers = usual.chain(sidecars).chain(debuggers).chain(once);
        let containers = containers
            .map(|(spec, statuses, policy, once)| {
                let status = status_of(statuses, &spec.name);
                let text =
                    |field: Option<&Text<'_>>| field.map_or_else(String::new, |f| f.to_string());
                ContainerView {
                    name: spec.name.to_string(),
                    image: cut_to_schema(
                        spec.image.as_deref().unwrap_or_default(),
                        cut_to_schema::IMAGE,
                    )
                    .into_owned(),
                    image_id: text(status.and_then(|status| status.image_id.as_ref())),
                    container_id: text(status.and_then(|status| status.container_id.as_ref())),
                    once,
                    active: !finished
                        && status.is_some_and(|status| status.is_active(spec, policy, terminating)),
                    silent: !finished && !terminating && status.is_none_or(RawStatus::is_silent),
                }
            })
            .filter(|container| container.active || !container.once)
            .collect();
        let owner = raw
            .metadata
            .owner_references
            .iter()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| {
                let kind = match owner.api_version.split_once('/') {
                    Some((group, _)) => format!("{}.{group}", &*owner.kind),
                    None => owner.kind.to_string(),
                };
                Owner {
                    kind: cut_to_schema(&kind, cut_to_schema::WORKLOAD_KIND).into_owned(),
                    name: cut_to_schema(&owner.name, cut_to_schema::NAME).into_owned(),
                }
            });
        Ok(Self {
            meta,
            generation: raw.metadata.generation.unwrap_or(0),
            ends: raw.metadata.deletion_timestamp.as_deref().map_or(0, ends),
            starting: !terminating && raw.status.phase.as_deref() == Some("Pending"),
            finished,
            runs_to_completion: workload::runs_to_completion(
                policy,
                owner.as_ref().map(|owner| owner.kind.as_str()),
            ),
            labels: kept_labels(raw.metadata.labels.unwrap_or_default()),
            owner,
            containers,
        })
    }
}

impl SlimView for PodView {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// A Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentView {
    pub(crate) meta: Meta,
    /// What it reports about its rollout.
    pub report: RolloutReport,
}

/// What a Deployment reports about its rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutReport {
    /// The controller has not seen the newest spec, which may be a rollout or a change of replicas only.
    pub unseen: bool,
    /// The controller reports that a rollout is in progress.
    pub progressing: bool,
    /// It is paused, or its rollout has missed its deadline: no further change is expected soon.
    pub halted: bool,
}

#[derive(Deserialize)]
struct RawDeployment<'a> {
    #[serde(borrow)]
    metadata: RawMeta<'a>,
    #[serde(default)]
    spec: RawDeploymentSpec,
    #[serde(default, borrow)]
    status: RawDeploymentStatus<'a>,
}

#[derive(Default, Deserialize)]
struct RawDeploymentSpec {
    paused: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDeploymentStatus<'a> {
    observed_generation: Option<i64>,
    #[serde(default, borrow, deserialize_with = "nullable")]
    conditions: Vec<RawCondition<'a>>,
}

#[derive(Deserialize)]
struct RawCondition<'a> {
    #[serde(rename = "type", borrow)]
    type_: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

impl<'de> Deserialize<'de> for DeploymentView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawDeployment::deserialize(deserializer)?;
        let progressing = raw
            .status
            .conditions
            .iter()
            .find(|condition| &*condition.type_ == "Progressing");
        let reason = progressing.and_then(|condition| condition.reason.as_deref());
        let unseen = raw.metadata.generation > raw.status.observed_generation;
        let missed = reason == Some("ProgressDeadlineExceeded") && !unseen;
        Ok(Self {
            meta: raw.metadata.meta(),
            report: RolloutReport {
                unseen,
                progressing: progressing.is_some_and(|c| &*c.status == "True")
                    && reason != Some("NewReplicaSetAvailable"),
                halted: raw.spec.paused == Some(true) || missed,
            },
        })
    }
}

impl SlimView for DeploymentView {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// A namespace: its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    pub(crate) meta: Meta,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawNamespace<'a> {
    #[serde(borrow)]
    metadata: RawMeta<'a>,
}

impl<'de> Deserialize<'de> for NamespaceView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawNamespace::deserialize(deserializer)?;
        Ok(Self {
            meta: raw.metadata.meta(),
            labels: raw.metadata.labels.unwrap_or_default(),
        })
    }
}

impl SlimView for NamespaceView {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> PodView {
        let mut pod = json!({
            "metadata": {
                "name": "web-7c9f6d5b8-abcde", "namespace": "shop", "uid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
                "resourceVersion": "41", "generation": 1, "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7c9f6d5b8", "controller": true}],
            },
            "spec": {"restartPolicy": "Always", "containers": [{"name": "web", "image": "nginx:1.27"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "web", "imageID": "nginx@sha256:1", "containerID": "containerd://1", "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
            ]},
        });
        change(&mut pod);
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    fn active(change: impl FnOnce(&mut Value)) -> Vec<bool> {
        pod(change)
            .containers
            .iter()
            .map(|container| container.active)
            .collect()
    }

    #[test]
    fn of_more_labels_than_can_be_kept_those_stay_that_tell_the_workload() {
        let many = |number: usize| {
            pod(|pod| {
                for label in 0..number {
                    pod["metadata"]["labels"][format!("a{label}")] = "x".repeat(60).into();
                }
                pod["metadata"]["labels"]["pod-template-hash"] = "7c9f6d5b8".into();
            })
        };
        assert!(many(200).labels.len() > 200, "all of them");
        let labels = many(10_000).labels;
        let size = |labels: &BTreeMap<String, String>| -> usize {
            labels
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum()
        };
        assert_eq!(labels["pod-template-hash"], "7c9f6d5b8");
        assert!((MAX_LABELS / 2..=MAX_LABELS).contains(&size(&labels)));
    }

    fn kept(view: &PodView, before: &[&str]) -> (Vec<String>, u16) {
        let (kept, unkept) = kept_containers(&view.containers, |it| match () {
            () if before.contains(&&*it.name) => Some(Need::Stays),
            () if it.active => Some(Need::Runs),
            () => Some(Need::Other),
        });
        let size: usize = kept.iter().map(|it| size_of_container(it)).sum();
        assert!(size <= MAX_CONTAINERS);
        (kept.iter().map(|it| it.name.clone()).collect(), unkept)
    }

    #[test]
    fn of_more_containers_than_can_be_kept_those_stay_that_run_and_the_others_of_these_are_counted()
    {
        let status = |name: &str| json!({"name": name, "imageID": "x", "containerID": "y", "state": {"running": {}}});
        // So many that never ran, and then so many that run.
        let many = |never: usize, running: usize| {
            pod(|pod| {
                let names = |kind: &str, number: usize| -> Vec<String> {
                    (0..number).map(|it| format!("{kind}-{it}")).collect()
                };
                let (never, running) = (names("never", never), names("runs", running));
                let all = never.iter().chain(&running);
                let all =
                    all.map(|name| json!({"name": name, "image": format!("r.example/{name}")}));
                pod["spec"]["containers"] = all.collect();
                pod["status"]["containerStatuses"] = running.iter().map(|it| status(it)).collect();
            })
        };
        let few = kept(&many(20, 60), &[]);
        assert_eq!((few.0.len(), few.1), (80, 0), "all of them");
        for (never, running) in [(5_000, 10), (5_000, 5_000), (0, 70_000)] {
            let (kept, found) = kept(&many(never, running), &[]);
            assert!(kept.len() > 100, "{never} {running}: as many as fit");
            let kept = kept.iter().filter(|it| it.starts_with("runs")).count();
            let unkept = (running - kept).min(usize::from(u16::MAX));
            assert_eq!(usize::from(found), unkept, "{never} {running}");
            assert_eq!(kept == running, running == 10, "{never} {running}");
        }
        let view = many(10, 5_000);
        let last = ["never-9", "runs-4998", "runs-4999"];
        let (found, _) = kept(&view, &last);
        assert!(last.iter().all(|it| found.iter().any(|found| found == it)));
        let long = pod(|pod| {
            pod["status"]["containerStatuses"][0]["imageID"] = "x".repeat(MAX_CONTAINERS).into();
        });
        assert_eq!(kept(&long, &[]), (vec![], 1));
    }

    #[test]
    fn a_container_counts_while_it_runs_or_will_run_again() {
        let state = |state: Value| {
            move |pod: &mut Value| pod["status"]["containerStatuses"][0]["state"] = state
        };
        assert_eq!(active(|_| ()), [true]);
        assert_eq!(
            active(|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
            [true],
            "still running"
        );
        assert_eq!(
            active(state(json!({"waiting": {"reason": "ContainerCreating"}}))),
            [false],
            "never started"
        );
        assert_eq!(
            active(state(json!({"waiting": {"reason": "ImagePullBackOff"}}))),
            [false]
        );
        assert_eq!(
            active(state(json!({"terminated": {"exitCode": 1}}))),
            [true],
            "is started again"
        );
        let crash = |pod: &mut Value| {
            pod["status"]["containerStatuses"][0]["state"] =
                json!({"waiting": {"reason": "CrashLoopBackOff"}});
            pod["status"]["containerStatuses"][0]["restartCount"] = 3.into();
        };
        assert_eq!(active(crash), [true], "a crash loop must not flap");
        assert_eq!(
            active(|pod| (
                crash(pod),
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()
            )
                .1),
            [false]
        );
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(
                active(|pod| pod["status"]["phase"] = phase.into()),
                [false],
                "{phase}"
            );
        }
        let done = |policy: &'static str, code: i64| {
            active(move |pod| {
                pod["spec"]["restartPolicy"] = policy.into();
                pod["status"]["containerStatuses"][0]["state"] =
                    json!({"terminated": {"exitCode": code}});
            })
        };
        let with = |spec: Value, state: Value| {
            active(move |pod| {
                for (key, value) in spec.as_object().unwrap() {
                    pod["spec"]["containers"][0][key] = value.clone();
                }
                pod["status"]["containerStatuses"][0]["state"] = state;
                pod["status"]["containerStatuses"][0]["restartCount"] = 1.into();
            })
        };
        let ended = |code: i64| json!({"terminated": {"exitCode": code}});
        let rule = |operator: &str| json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}}]});
        for (spec, state, want) in [
            // The container's own policy, and its rules, come before that of the pod, which is Always here.
            (json!({"restartPolicy": "Never"}), ended(1), false),
            (json!({"restartPolicy": "OnFailure"}), ended(0), false),
            (json!({"restartPolicy": "OnFailure"}), ended(1), true),
            (
                json!({"restartPolicy": null, "restartPolicyRules": null}),
                ended(0),
                true,
            ),
            (rule("In"), ended(42), true),
            (rule("In"), ended(1), false),
            (rule("NotIn"), ended(42), false),
            (rule("NotIn"), ended(1), true),
            (rule("Sometimes"), ended(42), false),
            // An image that can't be pulled any more does not run, though it did.
            (
                json!({}),
                json!({"waiting": {"reason": "ImagePullBackOff"}}),
                false,
            ),
            (
                json!({}),
                json!({"waiting": {"reason": "ErrImagePull"}}),
                false,
            ),
            (
                json!({}),
                json!({"waiting": {"reason": "InvalidImageName"}}),
                false,
            ),
            (
                json!({}),
                json!({"waiting": {"reason": "CreateContainerConfigError"}}),
                true,
            ),
            (json!({}), json!({"waiting": {}}), true),
        ] {
            assert_eq!(with(spec.clone(), state.clone()), [want], "{spec} {state}");
        }
        assert_eq!(done("Never", 1), [false]);
        assert_eq!(done("OnFailure", 0), [false]);
        assert_eq!(done("OnFailure", 1), [true]);
    }

    #[test]
    fn the_page_about_environments_says_of_each_state_whether_a_container_counts() {
        let page = include_str!("../../docs/environments.md");
        let (_, table) = page
            .split_once("\n| state | counts |\n|---|---|\n")
            .unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let rows = rows.map(|row| row.trim_matches(['|', ' ']).rsplit_once(" | ").unwrap());
        let state = |state: Value| json!({"status": {"containerStatuses": [{"state": state}]}});
        let again = |reason: &str| json!({"status": {"containerStatuses": [{"state": {"waiting": {"reason": reason}}, "restartCount": 3}]}});
        let deleted = |mut pod: Value| {
            pod["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
            pod
        };
        let ended = |policy: &str| {
            let mut pod = state(json!({"terminated": {"exitCode": 1}}));
            pod["spec"] = json!({"restartPolicy": policy});
            pod
        };
        let running = || state(json!({"running": {}}));
        let phase = |phase: &str| json!({"status": {"phase": phase}});
        let mut seen = 0;
        for (row, counts) in rows {
            let examples = match row.split([',', ' ']).take(4).collect::<Vec<_>>()[..] {
                ["running", "", "also", _] => vec![running()],
                ["running", "in", "a", "pod"] => vec![deleted(running())],
                ["between", ..] => vec![again("CrashLoopBackOff")],
                ["ended", "", "and", "started"] => vec![ended("Always"), ended("OnFailure")],
                ["ended", "", "and", "not"] => {
                    vec![ended("Never"), deleted(again("CrashLoopBackOff"))]
                }
                ["waiting", "for", "its", _] => {
                    vec![state(json!({"waiting": {"reason": "ContainerCreating"}}))]
                }
                ["waiting", "for", "an", _] => {
                    let (_, reasons) = row.split_once('(').unwrap();
                    let mut reasons: Vec<_> = reasons.split('`').skip(1).step_by(2).collect();
                    reasons.sort_unstable();
                    let mut known = NO_IMAGE;
                    known.sort_unstable();
                    assert_eq!(reasons, known);
                    reasons.into_iter().map(again).collect()
                }
                ["counted", "before", ..] => {
                    let silent =
                        json!({"containerID": "", "imageID": "", "state": {"waiting": {}}});
                    vec![json!({"status": {"containerStatuses": [silent]}})]
                }
                ["in", "a", "pod", _] => vec![phase("Succeeded"), phase("Failed")],
                _ => panic!("no example of this row: {row}"),
            };
            for example in examples {
                let view = pod(|pod| merge(pod, &example));
                let container = &view.containers[0];
                // What its node says nothing of stays as it was.
                let stays = row.starts_with("counted before") && container.silent;
                let answer = if container.active || stays {
                    "yes"
                } else {
                    "no"
                };
                assert_eq!(counts.split(',').next(), Some(answer), "{row}: {example}");
            }
            seen += 1;
        }
        assert_eq!(seen, 9);
    }

    /// Puts what is in `by` over what is there.
    fn merge(value: &mut Value, by: &Value) {
        match by {
            Value::Object(fields) => {
                for (key, part) in fields {
                    match key.as_str() {
                        "state" => value[key] = part.clone(), // one of three
                        _ => merge(&mut value[key], part),
                    }
                }
            }
            Value::Array(items) => {
                for (at, part) in items.iter().enumerate() {
                    merge(&mut value[at], part);
                }
            }
            other => *value = other.clone(),
        }
    }

    #[test]
    fn an_init_container_is_judged_while_it_runs_or_runs_again() {
        for (state, restarts, runs) in [
            (json!({"waiting": {"reason": "PodInitializing"}}), 0, false),
            (json!({"running": {}}), 0, true),
            (json!({"terminated": {"exitCode": 0}}), 0, false),
            (json!({"terminated": {"exitCode": 1}}), 0, true),
            (json!({"waiting": {"reason": "CrashLoopBackOff"}}), 1, true),
        ] {
            let view = pod(|pod| {
                pod["spec"]["initContainers"] = json!([{"name": "init", "image": "i"}]);
                pod["status"]["initContainerStatuses"] = json!([{"name": "init", "imageID": "x", "containerID": "y", "state": state, "restartCount": restarts}]);
            });
            let once = view.containers.iter().filter(|it| it.once && it.active);
            assert_eq!(once.count(), usize::from(runs), "{state}");
            assert_eq!(view.containers.len(), 1 + usize::from(runs), "{state}");
        }
    }

    #[test]
    fn sidecars_and_debug_containers_count_and_init_containers_do_not() {
        let running = |name: &str| json!({"name": name, "imageID": "x", "containerID": "y", "state": {"running": {}}});
        let view = pod(|pod| {
            pod["spec"]["initContainers"] = json!([{"name": "init", "image": "i"}, {"name": "mesh", "image": "m", "restartPolicy": "Always"}]);
            pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "d"}]);
            pod["status"]["initContainerStatuses"] = json!([running("init"), running("mesh")]);
            pod["status"]["ephemeralContainerStatuses"] = json!([running("debug")]);
            pod["status"]["phase"] = "Pending".into(); // a sidecar runs before the pod does
        });
        let names: Vec<_> = view
            .containers
            .iter()
            .filter(|c| c.active && !c.once)
            .map(|c| c.name.as_str())
            .collect();
        assert_eq!(names, ["web", "mesh", "debug"]);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_named_and_the_others_are_read() {
        let list = json!([
            {"metadata": {"name": "good", "uid": "u", "resourceVersion": "1"}, "spec": {"containers": []}, "status": null_free()},
            {"metadata": {"name": "bad", "namespace": "n", "uid": "v", "resourceVersion": "2", "labels": ["not", "a", "map"]}, "spec": {"containers": []}},
            {"metadata": {"name": "odd", "uid": "w", "resourceVersion": "3", "new": {"field": 1}, "labels": null}, "spec": {"containers": [], "initContainers": null}},
            {"spec": 7},
        ]);
        let text = list.to_string();
        let seen: Vec<Decoded<PodView>> = serde_json::from_str(&text).unwrap();
        let told: Vec<_> = seen
            .iter()
            .map(|seen| (matches!(seen, Decoded::Good(_)), seen.meta().name.as_str()))
            .collect();
        assert_eq!(
            told,
            [(true, "good"), (false, "bad"), (true, "odd"), (false, "")]
        );
        assert_eq!(seen[1].meta().uid, uid("v"));
        assert_eq!(seen[1].meta().version, 2);
    }

    fn null_free() -> Value {
        json!({"phase": null, "containerStatuses": null})
    }

    #[test]
    fn a_deployment_rolls_until_its_controller_says_that_it_is_done_or_given_up() {
        let told = |generation: i64, seen: i64, status: &str, reason: &str, paused: bool| {
            let view: DeploymentView = serde_json::from_str(
                &json!({
                    "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": generation},
                    "spec": {"paused": paused},
                    "status": {"observedGeneration": seen, "conditions": [
                        {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
                        {"type": "Progressing", "status": status, "reason": reason},
                    ]},
                })
                .to_string(),
            )
            .unwrap();
            let report = view.report;
            (report.unseen, report.progressing, report.halted)
        };
        assert_eq!(
            told(2, 2, "True", "NewReplicaSetAvailable", false),
            (false, false, false)
        );
        assert_eq!(
            told(3, 2, "True", "NewReplicaSetAvailable", false),
            (true, false, false)
        );
        assert_eq!(
            told(2, 2, "True", "ReplicaSetUpdated", false),
            (false, true, false)
        );
        assert_eq!(
            told(2, 2, "False", "ProgressDeadlineExceeded", false),
            (false, false, true)
        );
        assert_eq!(
            told(3, 2, "False", "ProgressDeadlineExceeded", false),
            (true, false, false)
        );
        assert_eq!(
            told(2, 2, "Unknown", "DeploymentPaused", true),
            (false, false, true)
        );
    }
}
