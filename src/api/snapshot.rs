//! `EnvironmentSnapshot`: one immutable entry of the log of an environment. Every message is made from this object
//! alone.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{EventType, approval::ReviewState, condition::reasons, provenance::RecordState};

use crate::api::compliance::ComplianceState;

/// At most this many changed artifacts in one snapshot; a bigger change is split into parts.
pub const MAX_CHANGES: usize = 1_000;
/// At most this many events in one snapshot.
pub const MAX_EVENTS: usize = 1_024;
/// At most this many workloads are listed with one change.
pub const MAX_WORKLOADS: usize = 200;

/// At most this many completed rollouts in one snapshot; further ones are recorded in the next snapshot.
pub const MAX_COMPLETED: usize = 100;

/// At most this many times in `endedAt` of one snapshot.
pub const MAX_ENDED_AT: usize = 100;

/// At most this many identities in one snapshot; further ones are recorded in the next snapshot.
pub const MAX_IDENTITIES: usize = 1_000;

/// One entry of the log of an environment: what changed, and which events follow from it. Only Shipbell writes
/// snapshots, and they cannot be edited.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "EnvironmentSnapshot",
    doc = "One entry of the log of an environment: what changed, and which events follow from it. Only Shipbell writes snapshots, and they cannot be edited.",
    shortname = "shipsnap",
    derive = "PartialEq",
    printcolumn(name = "Environment", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Index", type_ = "integer", json_path = ".spec.index"),
    printcolumn(name = "Artifacts", type_ = "integer", json_path = ".spec.totals.artifacts"),
    printcolumn(name = "Instances", type_ = "integer", json_path = ".spec.totals.instances"),
    printcolumn(name = "Events", type_ = "string", json_path = ".spec.events[*].type"),
    printcolumn(name = "Cause", type_ = "string", json_path = ".spec.causes[*]"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a snapshot is never edited")
)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSnapshotSpec {
    /// The name of the environment.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// The UID of the Environment object. An environment that is deleted and created again starts a new log.
    #[serde(rename = "environmentUID")]
    #[schemars(length(min = 1, max = 64))]
    pub environment_uid: String,
    /// The number of the snapshot. Numbers start at 1 and have no gaps.
    #[schemars(range(min = 1))]
    pub index: i64,
    /// When the snapshot was recorded; never earlier than the previous one.
    pub time: Timestamp,
    /// Why the snapshot was recorded.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub causes: Vec<Cause>,
    /// The version of the rules by which instances are counted. A release with other rules starts with a new
    /// baseline.
    pub census_version: i32,
    /// The `contentHash` of the previous snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The SHA-256 hash, in hex, of everything else in this spec.
    #[schemars(length(max = 64))]
    pub content_hash: String,
    /// The resource versions up to which the operator had read the cluster.
    pub read_at: ReadAt,
    /// Pods that are being deleted and had to have ended by then hang, and are not counted. Absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<Timestamp>,
    /// Pods that have to end at one of these later times are not counted either: they hung by a clock that was ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "set"))]
    pub ended_at: Vec<Timestamp>,
    /// How much runs in the environment after this snapshot.
    pub totals: Totals,
    /// Whether the environment is compliant after this snapshot.
    pub compliance: Compliance,
    /// What changed since the previous snapshot, one item for each artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub changes: Vec<Change>,
    /// The events that NotificationSettings receive, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub events: Vec<Event>,
    /// Digests that belong to the same artifact as another digest, or to one container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub identities: Vec<Identity>,
    /// Workloads whose rollout was recorded before it was over, and is over: further changes of them are new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub completed_rollouts: Vec<CompletedRollout>,
    /// Changes of the environment's allow-list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow_list: Vec<AllowListChange>,
    /// The complete state after this snapshot. The state at a snapshot without one is computed from the nearest
    /// earlier checkpoint and the changes since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Present when a change was too big for one snapshot and was split into parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// Why a snapshot was recorded.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Cause {
    /// The first snapshot of an environment: what already runs. It has no events.
    Baseline,
    /// What runs in the environment changed.
    WorkloadsChanged,
    /// The environment's spec selects other workloads. What it selects now is recorded without events.
    ScopeChanged,
    /// This release counts instances by other rules. What runs is recorded without events.
    RulesChanged,
    /// Two digests belong to one artifact, or a container has a digest that its status will not tell again.
    IdentityLearned,
    /// A rollout is over that had been recorded before.
    RolloutCompleted,
    /// Snapshots were missing or could not be read. What runs is recorded without events.
    HistoryLost,
    /// The cluster was restored from a backup, and the log continues.
    Restored,
    /// The environment's allow-list changed.
    AllowListChanged,
    /// The grace period for missing evidence ended.
    GraceExpired,
    /// The environment has met all rules for the recovery window.
    RecoveryElapsed,
    /// An entry of the allow-list, an exception or an approval expired.
    AllowanceExpired,
    /// The rules of the environment were edited.
    PolicyChanged,
    /// A provenance record or a review was created, edited or deleted.
    EvidenceChanged,
}

/// The resource versions up to which each kind had been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadAt {
    /// The resource version of the pods.
    pub pods: String,
    /// The resource version of the deployments; empty if they cannot be read.
    pub deployments: String,
    /// The resource version of the namespaces; empty if they cannot be read.
    pub namespaces: String,
}

/// How much runs in an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// The number of different artifacts.
    pub artifacts: i64,
    /// The number of instances. One pod that runs an artifact is one instance of it.
    pub instances: i64,
    /// The number of running containers whose image could not be identified by a digest, and of pods that could never be read.
    /// They belong to no artifact.
    pub unidentified: i64,
}

/// Whether an environment complies with its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compliance {
    /// The state after this snapshot.
    pub state: ComplianceState,
    /// The state before this snapshot. If that was Unknown and this snapshot reports a change, the last known state.
    pub was: ComplianceState,
    /// When `state` began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In a snapshot that reports a change: when `was` began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_since: Option<Timestamp>,
    /// Why the environment is not compliant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    pub reasons: Vec<String>,
    /// What resolved the earlier reasons, recorded from the moment on at which no rule is broken any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    pub resolved: Vec<String>,
    /// The state that follows from the artifacts alone, without the recovery window. Evidence that may still arrive
    /// counts as present.
    #[serde(default, skip_serializing_if = "ComplianceState::is_unknown")]
    pub raw: ComplianceState,
    /// When `raw` began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_since: Option<Timestamp>,
    /// The last state that was not Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known: Option<ComplianceState>,
    /// Until when `state` waits for missing evidence, or for the recovery window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<Timestamp>,
    /// The version of the rules: the first characters of a hash of them. Absent if there are no rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rules: Option<String>,
    /// Since when containers run that cannot be identified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unidentified_since: Option<Timestamp>,
    /// Images that are not counted (Jobs, init containers), or that never run long enough to be recorded, and did not meet the
    /// rules when they ran last; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub uncounted: Vec<UncountedArtifact>,
}

/// An image that is not recorded and did not meet the rules when it ran last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UncountedArtifact {
    /// The digest of the image.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// When it first ran without meeting the rules. Its grace period begins here, and only once.
    pub since: Timestamp,
    /// The namespace where its grace began: the images of one namespace take no room from those of another.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
}

/// Whether one artifact complies with the rules of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The compliance of the artifact.
    pub state: ComplianceState,
    /// The reason, as one word of a closed list. See docs/troubleshooting.md.
    pub reason: VerdictReason,
    /// The reason in a few words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// When the artifact first appeared in the log.
    pub first_seen: Timestamp,
    /// Until when missing evidence may arrive. Absent if there is no grace period, or if it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Timestamp>,
    /// When an approval, an exception or an allow-list entry expires on which the compliance depends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Whether the grace period is over because the artifact was on the allow-list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grace_over: bool,
}

reasons! {
    /// Why an artifact complies with the rules, or does not.
    #[derive(Serialize, Deserialize, JsonSchema)]
    pub enum VerdictReason {
        /// The environment has no rules.
        NoPolicy,
        /// The artifact is on the allow-list.
        AllowListed,
        /// The image cannot be identified by a digest.
        Unidentified,
        /// The newest review rejects the artifact.
        ApprovalRejected,
        /// The record is in a namespace that is not trusted, or is for images from another repository.
        UntrustedProvenance,
        /// There is no record of the artifact.
        NoProvenance,
        /// An attestation has `compliant: false`.
        EvidenceFailed,
        /// An attestation is missing.
        EvidenceMissing,
        /// The approval expired.
        ApprovalExpired,
        /// The artifact is not approved, or not by enough reviewers.
        ApprovalMissing,
        /// The record lists no deployment to this environment.
        UnexpectedDeployment,
        /// The artifact meets all rules.
        Satisfied,
        /// The artifact meets all rules that no exception waives.
        ExceptionApplied,
    }
}

/// Where an artifact comes from, as it was known when the snapshot was recorded. Later edits of the record change
/// nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// The flow that built the artifact; empty if only reviews are known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub flow: String,
    /// The name of the artifact in its record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    /// Whether the record is complete and compliant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RecordState>,
    /// The commit from which the artifact was built.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub commit: String,
    /// The URL of a page that shows the commit.
    #[serde(
        default,
        rename = "commitURL",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(length(max = 2048))]
    pub commit_url: String,
    /// The URL of a page that shows the build.
    #[serde(default, rename = "buildURL", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub build_url: String,
    /// Announced deployments to this environment, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub deployments: Vec<DeploymentNote>,
    /// Reviews that count in this environment, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub approvals: Vec<ApprovalNote>,
}

/// An announced deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentNote {
    /// The number of the deployment in the flow.
    pub number: i64,
    /// When the deployment was announced.
    pub time: Timestamp,
    /// The URL of a page that shows the build which deploys the image.
    #[serde(default, rename = "buildURL", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub build_url: String,
}

/// A review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalNote {
    /// The number of the review.
    pub number: i64,
    /// When the image was reviewed.
    pub time: Timestamp,
    /// The decision of the reviewer.
    pub state: ReviewState,
    /// The name of the reviewer.
    #[schemars(length(max = 253))]
    pub reviewer: String,
    /// The reason for the decision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub comment: String,
}

/// A change of the environment's allow-list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowListChange {
    /// The name of the AllowedArtifact.
    #[schemars(length(max = 253))]
    pub entry: String,
    /// The UID of the AllowedArtifact.
    #[serde(rename = "entryUID")]
    #[schemars(length(max = 64))]
    pub entry_uid: String,
    /// The digest of the image.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The state of the entry after the change.
    pub state: AllowListState,
}

/// The state of an entry of the allow-list.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AllowListState {
    /// The entry is active.
    Active,
    /// The entry has expired.
    Expired,
    /// The entry was removed from the list.
    Removed,
}

/// The allow-list entry that allows an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allowed {
    /// The name of the AllowedArtifact.
    #[schemars(length(max = 253))]
    pub entry: String,
    /// The reason in the AllowedArtifact.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// When the entry ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The change of one artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The SHA-256 digest of the image, 64 hex digits without a prefix.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The name of the image, as the pods specify it.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// How many instances were recorded before.
    pub was: i64,
    /// How many instances are recorded now.
    pub now: i64,
    /// Whether the numbers changed as a part of a rollout. A difference alone is then not reported as scaling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,
    /// The workloads whose instances changed.
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "atomic"))]
    pub workloads: Vec<WorkloadChange>,
    /// How many workloads are not listed in `workloads`. The checkpoint of this snapshot lists them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_workloads: i64,
    /// Present if the artifact was added to the allow-list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allowed>,
    /// Whether the artifact complies with the rules. Absent if it no longer runs or was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Where the artifact comes from, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The change of one artifact in one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadChange {
    /// The kind of the workload: Deployment, StatefulSet, DaemonSet, Pod or another owner of the pods.
    #[schemars(length(max = 317))]
    pub kind: String,
    /// The namespace of the workload.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The name of the workload.
    #[schemars(length(max = 253))]
    pub name: String,
    /// How many instances were recorded before.
    pub was: i64,
    /// How many instances are recorded now.
    pub now: i64,
    /// Whether the workload was still rolling out when the snapshot was recorded. Later changes belong to the same
    /// rollout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolling: bool,
}

/// A workload whose rollout is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct CompletedRollout {
    /// The kind of the workload.
    #[schemars(length(max = 317))]
    pub kind: String,
    /// The namespace of the workload.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The name of the workload.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// An event of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The type of the event.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// The position in `changes` of the artifact that the event is about. Absent if the event is about the whole
    /// environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub change: Option<i64>,
}

/// A digest that belongs to the same artifact as another digest, everywhere or for one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The other digest, 64 hex digits.
    #[schemars(length(max = 64))]
    pub alias: String,
    /// The digest under which the artifact is listed.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// How Shipbell knows.
    #[serde(default, skip_serializing_if = "IdentitySource::is_runtime")]
    pub source: IdentitySource,
    /// The beginning of a hash of a container's id, if this is about one container: it was first seen with `fingerprint`, under
    /// which it is shown, and `alias` (which may be empty) is another digest that counts for it. It says nothing of other
    /// containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub container: Option<String>,
    /// The repository from which the container's image was pulled, if neither its status nor its spec will tell that again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub repository: Option<String>,
}

/// How two digests are known to belong together.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum IdentitySource {
    /// A container runtime reported both digests for one container at different times, or its spec asks for one of them:
    /// `container` says for which. Without `container` it has no meaning.
    #[default]
    Runtime,
    /// An ArtifactProvenance lists the digest in its `aliases`.
    Record,
}

impl IdentitySource {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_runtime(&self) -> bool {
        *self == Self::Runtime
    }
}

/// The complete state of an environment: JSON, compressed with zstd, in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The state, unless it is too big for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400_000))]
    pub data: Option<String>,
    /// The number of objects `{environment}-{index}-{hash}-c{k}`, with k from 0, that hold the state if it is too big
    /// for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub chunks: Option<i64>,
}

/// The position of a snapshot in a change that was split into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The index of the first snapshot of the change.
    pub first: i64,
    /// The number of this part, from 1.
    pub part: i64,
    /// The number of parts.
    pub of: i64,
}
