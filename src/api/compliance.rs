//! What an environment asks of what runs in it: the rules inline in `Environment.spec.compliance`.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Span;

/// What must hold of every image that runs in the environment. An image on the allow-list (AllowedArtifact) keeps every
/// rule; one whose newest review is a rejection keeps none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.provenance) && has(self.provenance.required) && self.provenance.required \
    || has(self.evidence) && has(self.evidence.required) && self.evidence.required \
    || has(self.approval) && has(self.approval.required) && self.approval.required \
    || has(self.deployment) && has(self.deployment.expected) && self.deployment.expected \
    || has(self.attestations) && size(self.attestations) > 0")
    .message("compliance asks for nothing: set provenance.required, evidence.required, approval.required, deployment.expected or attestations, or leave compliance out"))]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Whether it must be known where an image comes from, and whose word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ProvenanceRule>,
    /// Whether the attestations that an image's own record requires must be there and good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceRule>,
    /// Whether people must have approved an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Whether an image's deployment to this environment must have been announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentRule>,
    /// Attestations that every image here must have, whatever its own record requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub attestations: Option<Vec<AttestationRule>>,
    /// Rules that some images need not keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub exceptions: Option<Vec<Exception>>,
    /// So long after an image first appeared here may what is missing arrive, before the environment becomes
    /// Non-Compliant: pods often start before their record is written. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    /// So long must all be well again before the environment becomes Compliant. Default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<Span>,
}

/// Whether it must be known where an image comes from, and whose word counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProvenanceRule {
    /// Every image needs an ArtifactProvenance in a trusted namespace. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// The namespaces whose ArtifactProvenances and ArtifactApprovals count here; whoever may create them there can
    /// make this environment compliant. Records elsewhere change nothing and are shown nowhere. Omitted: only Shipbell's
    /// own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    pub trusted_namespaces: Option<Vec<String>>,
}

/// Whether the attestations that an image's own record requires must be there and good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRule {
    /// Every attestation in the record's `requiredAttestations` must be there, and none may say `compliant: false`.
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// Whether people must have approved an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRule {
    /// Every image needs the approval of `minApprovals` reviewers. Default false; a rejection counts in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// How many different reviewers must have approved since the newest request or rejection. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub min_approvals: Option<i64>,
    /// Whose reviews count. Omitted: everyone's who may create ArtifactApprovals in a trusted namespace. The name is
    /// what the reviewer wrote, unless the chart's `approvals.tieReviewerToUser` ties it to the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub reviewers: Option<Vec<String>>,
}

/// Whether an image's deployment to this environment must have been announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentRule {
    /// Every image's record must list a deployment with the name of this environment. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<bool>,
}

/// An attestation that every image must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.name) || has(self.type)").message("give the attestation's name, its type, or both"))]
#[serde(rename_all = "camelCase")]
pub struct AttestationRule {
    /// The attestation's name in the record. Omitted: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// The attestation's type in the record. Omitted: any.
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

/// Rules that some images need not keep. A rejected image stays non-compliant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.images) || has(self.namespaces)").message("give images, namespaces, or both: an exception for everything is no rule"))]
#[x_kube(validation = Rule::new("self.reason.trim().size() > 0").message("reason must say why"))]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    /// Which rules. Omitted: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub rules: Option<Vec<Waivable>>,
    /// Which images: globs that match the whole repository in its long form (`docker.io/library/nginx`, `ghcr.io/acme/*`).
    /// Omitted: every image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "set"))]
    pub images: Option<Vec<String>>,
    /// In which namespaces: names or globs. An image that also runs elsewhere must keep the rules. Omitted: everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Option<Vec<String>>,
    /// Why; whoever reads the log sees it.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Until when. From that instant on the rules hold again, without grace. Omitted: until it is taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}
