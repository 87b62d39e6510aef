//! The rules of an environment (`Environment.spec.compliance`), and the states that result from them.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Span, provenance::RecordState, user_time};

/// The compliance of an environment, or of one artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComplianceState {
    /// Everything that runs meets the rules.
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
    /// The name in the log and in statuses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compliant => "Compliant",
            Self::NonCompliant => "Non-Compliant",
            Self::Unknown => "Unknown",
        }
    }

    /// The name in messages and in sentences.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Compliant => "compliant",
            Self::NonCompliant => "non-compliant",
            Self::Unknown => "unknown",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// Requirements for every image that runs in the environment. An image on the allow-list (AllowedArtifact) meets all
/// of them. An image whose newest review is a rejection meets none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.provenance) && has(self.provenance.required) && self.provenance.required \
    || has(self.evidence) && has(self.evidence.required) && self.evidence.required \
    || has(self.approval) && has(self.approval.required) && self.approval.required \
    || has(self.deployment) && has(self.deployment.expected) && self.deployment.expected \
    || has(self.attestations) && size(self.attestations) > 0")
    .message("compliance asks for nothing: set provenance.required, evidence.required, approval.required, deployment.expected or attestations, or leave compliance out"))]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Whether every image needs a provenance record, and in which namespaces records are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ProvenanceRule>,
    /// Whether the attestations that the image's own record requires must be present and must have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceRule>,
    /// Whether reviewers must have approved an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Whether a deployment of the image to this environment must have been announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentRule>,
    /// Attestations that every image in this environment must have, whatever its own record requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub attestations: Option<Vec<AttestationRule>>,
    /// Rules that some images do not need to meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub exceptions: Option<Vec<Exception>>,
    /// How long missing evidence may still arrive after an image first appeared here, before the environment becomes
    /// Non-Compliant. Pods often start before their record is written. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    /// How long the environment must meet all rules again before it becomes Compliant. Default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<Span>,
}

/// Whether every image needs a provenance record, and in which namespaces records are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProvenanceRule {
    /// Whether every image needs an ArtifactProvenance in a trusted namespace. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// The namespaces whose ArtifactProvenances and ArtifactApprovals count here. Whoever may create these objects
    /// there can make this environment compliant. Objects in other namespaces have no effect and are not shown.
    /// Omitted: only Shipbell's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    pub trusted_namespaces: Option<Vec<String>>,
}

/// Whether the attestations that the image's own record requires must be present and must have passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRule {
    /// Whether every attestation in the record's `requiredAttestations` must be present, and none may have
    /// `compliant: false`. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// Whether reviewers must have approved an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRule {
    /// Whether every image needs approvals of `minApprovals` different reviewers. Default false. A rejection has
    /// effect in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// How many different reviewers must have approved since the newest request or rejection. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub min_approvals: Option<i64>,
    /// The reviewers whose reviews count. Omitted: everybody who may create ArtifactApprovals in a trusted namespace.
    /// The reviewer writes the name; the chart value `approvals.tieReviewerToUser` makes sure that it is the name of
    /// the Kubernetes user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub reviewers: Option<Vec<String>>,
}

/// Whether a deployment of the image to this environment must have been announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentRule {
    /// Whether the record of every image must list a deployment to this environment. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<bool>,
}

/// An attestation that every image must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.name) || has(self.type)").message("give the attestation's name, its type, or both"))]
#[serde(rename_all = "camelCase")]
pub struct AttestationRule {
    /// The name of the attestation in the record. Omitted: any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// The type of the attestation in the record. Omitted: any type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub type_: Option<String>,
}

/// A rule that can be waived.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Waivable {
    /// `provenance.required`
    Provenance,
    /// `evidence.required`
    Evidence,
    /// `approval.required`
    Approval,
    /// `deployment.expected`
    Deployment,
    /// `attestations`
    Attestations,
}

/// Rules that some images do not need to meet. A rejected image stays non-compliant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.images) || has(self.namespaces)").message("give images, namespaces, or both: an exception for everything is no rule"))]
#[x_kube(validation = Rule::new("self.reason.trim().size() > 0").message("reason must say why"))]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    /// The rules that are waived. Omitted: all rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub rules: Option<Vec<Waivable>>,
    /// The images: globs that match the complete name of the repository (`docker.io/library/nginx`,
    /// `ghcr.io/acme/*`). Omitted: every image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "set"))]
    pub images: Option<Vec<String>>,
    /// The namespaces: names or globs. An image that also runs in another namespace must meet the rules. Omitted: all
    /// namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Option<Vec<String>>,
    /// The reason for the exception. It is recorded in the log.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// When the exception ends. From that moment on the rules apply again, and there is no grace period. Omitted: it
    /// never ends.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}
