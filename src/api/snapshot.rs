//! `EnvironmentSnapshot`: one immutable entry of an environment's log. What is sent follows from this one object.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{EventType, approval::ReviewState, provenance::RecordState};

/// At most so many changed artifacts in one snapshot; a bigger cut is split into parts.
pub const MAX_CHANGES: usize = 1_000;
/// At most so many workloads are listed with one change.
pub const MAX_WORKLOADS: usize = 200;

/// At most so many other digests in one snapshot; what is left comes with the next.
pub const MAX_IDENTITIES: usize = 1_000;

/// One entry of the log of an environment: what changed, and what that means. Written by Shipbell alone, never edited.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "EnvironmentSnapshot",
    doc = "One entry of the log of an environment: what changed, and what that means. Written by Shipbell alone, never edited.",
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
    /// The environment's name.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// The UID of the Environment object: a deleted and re-created environment starts a log of its own.
    #[serde(rename = "environmentUID")]
    #[schemars(length(min = 1, max = 64))]
    pub environment_uid: String,
    /// The entry's number, from 1, without gaps.
    #[schemars(range(min = 1))]
    pub index: i64,
    /// When the entry was recorded; never before its predecessor.
    pub time: Timestamp,
    /// Why the entry was recorded.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub causes: Vec<Cause>,
    /// The rules by which instances were counted. A release that counts differently starts from a new baseline.
    pub census_version: i32,
    /// The `contentHash` of the entry before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// SHA-256, in hex, over all else in this spec.
    #[schemars(length(max = 64))]
    pub content_hash: String,
    /// How far the operator had read when it took stock.
    pub read_at: ReadAt,
    /// What runs in the environment after this entry.
    pub totals: Totals,
    /// Whether the environment is compliant after this entry.
    pub compliance: Compliance,
    /// What changed since the entry before, one item for each artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub changes: Vec<Change>,
    /// What is told to NotificationSettings, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub events: Vec<Event>,
    /// Digests found to be other names of an artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub identities: Vec<Identity>,
    /// What changed on the environment's allow-list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow_list: Vec<AllowListChange>,
    /// The whole state after this entry; entries without one are read from the nearest earlier one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Present when one change was too big for one entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// Why an entry was recorded.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Cause {
    /// The first entry: what already ran when the environment was first seen.
    Baseline,
    /// What runs in the environment changed.
    WorkloadsChanged,
    /// The environment's spec selects other workloads; what it selects counts as known.
    ScopeChanged,
    /// This release counts differently; what runs counts as known.
    RulesChanged,
    /// Two digests were found to be one artifact.
    IdentityLearned,
    /// Entries were missing or could not be read; what runs counts as known.
    HistoryLost,
    /// The log was continued on a cluster whose store had been set back.
    Restored,
    /// The environment's allow-list changed.
    AllowListChanged,
    /// What was missing had its time to arrive.
    GraceExpired,
    /// All was well again for long enough.
    RecoveryElapsed,
    /// An entry of the allow-list, an exception or an approval expired.
    AllowanceExpired,
    /// The environment's rules were edited.
    PolicyChanged,
    /// A record or a review was written, edited or deleted.
    EvidenceChanged,
}

/// How far each kind had been read, as resource versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadAt {
    /// The resource version of the pods.
    pub pods: String,
    /// The resource version of the deployments; empty while they can't be read.
    pub deployments: String,
    /// The resource version of the namespaces; empty while they can't be read.
    pub namespaces: String,
}

/// What runs in an environment, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Different artifacts.
    pub artifacts: i64,
    /// Instances of them: one pod that runs an artifact is one instance of it.
    pub instances: i64,
    /// Running containers whose image could not be identified by a digest; they are in no artifact.
    pub unidentified: i64,
}

/// Whether an environment keeps its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compliance {
    /// After this entry.
    pub state: ComplianceState,
    /// Before it; if that was Unknown and this entry tells of a change, what was known last.
    pub was: ComplianceState,
    /// Since when it is what `state` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In an entry that tells of a change: since when it had been what `was` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_since: Option<Timestamp>,
    /// Why it is not compliant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    pub reasons: Vec<String>,
    /// What mended it, from the moment on that nothing breaks the rules any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    pub resolved: Vec<String>,
    /// What the artifacts come to, without the recovery window; what may still arrive counts as there.
    #[serde(default, skip_serializing_if = "ComplianceState::is_unknown")]
    pub raw: ComplianceState,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_since: Option<Timestamp>,
    /// The last state that was not Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known: Option<ComplianceState>,
    /// Until when `state` waits for what is missing, or for the recovery window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<Timestamp>,
    /// The edition of the rules: the beginning of a hash of them. Absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rules: Option<String>,
    /// Since when containers run that can't be identified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unidentified_since: Option<Timestamp>,
}

/// Whether an environment keeps its rules; Unknown when it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComplianceState {
    /// All that runs keeps the rules.
    Compliant,
    /// Something that runs breaks a rule.
    #[serde(rename = "Non-Compliant")]
    NonCompliant,
    /// There are no rules, or not enough is known.
    #[default]
    Unknown,
}

impl From<RecordState> for ComplianceState {
    /// An incomplete record is not compliant.
    fn from(state: RecordState) -> Self {
        match state {
            RecordState::Compliant => Self::Compliant,
            RecordState::Incomplete | RecordState::NonCompliant => Self::NonCompliant,
        }
    }
}

impl ComplianceState {
    /// Its name, in the log and in statuses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compliant => "Compliant",
            Self::NonCompliant => "Non-Compliant",
            Self::Unknown => "Unknown",
        }
    }

    /// Its name on the wire, and in sentences.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Compliant => "compliant",
            Self::NonCompliant => "non-compliant",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it is Unknown.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// Whether one artifact keeps the rules of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether it does.
    pub state: ComplianceState,
    /// Why, as one word of a closed list.
    pub reason: VerdictReason,
    /// Why, in a few words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// When it first appeared in the log.
    pub first_seen: Timestamp,
    /// Until when what is missing may arrive; absent when there is no such time, or it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Timestamp>,
    /// When something that this rests on expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// It was on the allow-list, so nothing is waited for when it no longer is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grace_over: bool,
}

/// Why an artifact keeps the rules, or doesn't.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum VerdictReason {
    /// The environment has no rules.
    NoPolicy,
    /// It is on the allow-list.
    AllowListed,
    /// Its image can't be identified by a digest.
    Unidentified,
    /// The newest review rejects it.
    ApprovalRejected,
    /// Its record lies in a namespace that is not trusted, or is for images from another repository.
    UntrustedProvenance,
    /// There is no record of it.
    NoProvenance,
    /// An attestation says that something is wrong with it.
    EvidenceFailed,
    /// An attestation is missing.
    EvidenceMissing,
    /// Its approval expired.
    ApprovalExpired,
    /// It is not approved, or not by enough reviewers.
    ApprovalMissing,
    /// No record says that it was to be deployed here.
    UnexpectedDeployment,
    /// It keeps all rules.
    Satisfied,
    /// It keeps all rules that no exception waives.
    ExceptionApplied,
}

impl VerdictReason {
    /// Its name, for conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "NoPolicy",
            Self::AllowListed => "AllowListed",
            Self::Unidentified => "Unidentified",
            Self::ApprovalRejected => "ApprovalRejected",
            Self::UntrustedProvenance => "UntrustedProvenance",
            Self::NoProvenance => "NoProvenance",
            Self::EvidenceFailed => "EvidenceFailed",
            Self::EvidenceMissing => "EvidenceMissing",
            Self::ApprovalExpired => "ApprovalExpired",
            Self::ApprovalMissing => "ApprovalMissing",
            Self::UnexpectedDeployment => "UnexpectedDeployment",
            Self::Satisfied => "Satisfied",
            Self::ExceptionApplied => "ExceptionApplied",
        }
    }
}

/// Where an artifact comes from, as it was known when this was recorded: a later edit changes nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// The flow that made it; empty when only reviews are known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub flow: String,
    /// What its record calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    /// What its records come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RecordState>,
    /// The commit that it was built from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub commit: String,
    /// A page that shows the commit.
    #[serde(
        default,
        rename = "commitURL",
        skip_serializing_if = "String::is_empty"
    )]
    #[schemars(length(max = 2048))]
    pub commit_url: String,
    /// A page that shows the build.
    #[serde(default, rename = "buildURL", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub build_url: String,
    /// Deployments to this environment that were announced, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub deployments: Vec<DeploymentNote>,
    /// Reviews that count here, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub approvals: Vec<ApprovalNote>,
}

/// A deployment that was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentNote {
    /// Its number in the flow.
    pub number: i64,
    /// When.
    pub time: Timestamp,
    /// A page that shows the build.
    #[serde(default, rename = "buildURL", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub build_url: String,
}

/// A review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalNote {
    /// Its number.
    pub number: i64,
    /// When.
    pub time: Timestamp,
    /// What the reviewer says.
    pub state: ReviewState,
    /// Who.
    #[schemars(length(max = 253))]
    pub reviewer: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub comment: String,
}

/// What changed on an environment's allow-list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowListChange {
    /// The AllowedArtifact.
    #[schemars(length(max = 253))]
    pub entry: String,
    /// Its UID.
    #[serde(rename = "entryUID")]
    #[schemars(length(max = 64))]
    pub entry_uid: String,
    /// The digest.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// What it is now.
    pub state: AllowListState,
}

/// Whether an entry of the allow-list is in force.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AllowListState {
    /// It is.
    Active,
    /// It has expired.
    Expired,
    /// It was taken off the list.
    Removed,
}

/// Why an artifact was allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allowed {
    /// The AllowedArtifact.
    #[schemars(length(max = 253))]
    pub entry: String,
    /// Its reason.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What became of one artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The SHA-256 digest of the image, 64 hex digits without a prefix.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The image's name, as the pods ask for it.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// How many instances of it were recorded before.
    pub was: i64,
    /// How many are recorded now.
    pub now: i64,
    /// The numbers changed as a part of a rollout, so a mere difference is no scaling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,
    /// The workloads whose instances changed.
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "atomic"))]
    pub workloads: Vec<WorkloadChange>,
    /// How many more workloads there are than `workloads` lists; the checkpoint of this entry holds them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_workloads: i64,
    /// It was added to the allow-list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allowed>,
    /// Whether it keeps the rules now; absent when it no longer runs or never was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Where it comes from, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What became of one artifact in one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadChange {
    /// The workload's kind: Deployment, StatefulSet, DaemonSet, Pod or what else owns the pods.
    #[schemars(length(max = 317))]
    pub kind: String,
    /// The workload's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The workload's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// How many instances it was recorded with before.
    pub was: i64,
    /// How many now.
    pub now: i64,
    /// The workload was still rolling out when this was recorded; what follows belongs to the same rollout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolling: bool,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// The position in `changes` of what it happened to; absent for the environment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub change: Option<i64>,
}

/// A digest that was found to be another name of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The other digest, 64 hex digits.
    #[schemars(length(max = 64))]
    pub alias: String,
    /// The digest that the artifact goes by.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// How that was found out.
    #[serde(default, skip_serializing_if = "IdentitySource::is_runtime")]
    pub source: IdentitySource,
}

/// How two digests were found to be one artifact.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum IdentitySource {
    /// A runtime called one container by both at different times. Enough for counting, not for rules.
    #[default]
    Runtime,
    /// A pod was pinned to one, and its container known by the other.
    Pin,
    /// An ArtifactProvenance said so.
    Record,
}

impl IdentitySource {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_runtime(&self) -> bool {
        *self == Self::Runtime
    }
}

/// The whole state of an environment: JSON, compressed with zstd, in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The state, unless it is too big for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400_000))]
    pub data: Option<String>,
    /// In how many objects `{environment}-{index}-{hash}-c{k}`, k from 0, the state lies instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub chunks: Option<i64>,
}

/// The place of an entry in a change that was too big for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The index of the first entry of the change.
    pub first: i64,
    /// Which part this is, from 1.
    pub part: i64,
    /// Of how many.
    pub of: i64,
}
