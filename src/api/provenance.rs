//! `ArtifactProvenance`: what is known of an image: who built it, from what, and what was attested. Written by CI.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Condition;

/// A digest in a spec: 64 lower-case hex digits.
pub const DIGEST: &str = "^[0-9a-f]{64}$";

/// What is known of an image: the flow that built it, the commit, the build, and what was attested of it. Counts only in
/// environments that trust its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "ArtifactProvenance",
    doc = "What is known of an image: the flow that built it, the commit, the build, and what was attested of it. Counts only in environments that trust its namespace.",
    namespaced,
    status = "ArtifactProvenanceStatus",
    shortname = "shipprov",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.fingerprint",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Whether what the record requires is there and good"
    ),
    printcolumn(
        name = "Running In",
        type_ = "string",
        json_path = ".status.runningIn[*].environment",
        description = "Environments in which it runs"
    ),
    printcolumn(name = "Flow", type_ = "string", json_path = ".spec.flow"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.name"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Missing",
        type_ = "string",
        json_path = ".status.missing[*]",
        priority = 1
    ),
    printcolumn(
        name = "Conflict",
        type_ = "string",
        json_path = ".status.conflict",
        priority = 1
    ),
    printcolumn(
        name = "Fingerprint",
        type_ = "string",
        json_path = ".spec.fingerprint",
        priority = 1
    )
)]
#[x_kube(validation = Rule::new("!has(self.aliases) || !(self.fingerprint in self.aliases)").message("aliases must not hold the fingerprint itself"))]
#[x_kube(validation = Rule::new("!has(oldSelf.repository) || (has(self.repository) && self.repository == oldSelf.repository)").message("repository can't be changed once it is set: make a new record"))]
#[serde(rename_all = "camelCase")]
pub struct ArtifactProvenanceSpec {
    /// The SHA-256 digest of the image: 64 hex digits without `sha256:`. For an image of several platforms: the index.
    #[schemars(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("fingerprint can't be changed: make a new record"))]
    pub fingerprint: String,
    /// Other digests of the very same image: the manifests of its platforms, and their configurations. Nodes may report
    /// any of them. `docker buildx imagetools inspect --raw` lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$")), extend("x-kubernetes-list-type" = "set"))]
    pub aliases: Option<Vec<String>>,
    /// What people call it: the artifact's name in webhooks. Omitted: the image's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The record counts only where the image is pulled from here: the whole name, with its registry and without a tag:
    /// `ghcr.io/acme/runner`, `docker.io/library/nginx`. Omitted: from anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), pattern("^[a-z0-9A-Z._:/-]+$"))]
    #[x_kube(validation = Rule::new("self.matches('^(localhost|[^/]*[.:A-Z][^/]*)/[^:]+$')").message("repository must be the whole name, with its registry and without a tag: docker.io/acme/web"))]
    pub repository: Option<String>,
    /// The flow (pipeline) that made the image. Two records of one flow for one image conflict: the older one counts.
    #[schemars(length(min = 1, max = 128), pattern("^[a-zA-Z0-9][a-zA-Z0-9._~-]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("flow can't be changed: make a new record"))]
    pub flow: String,
    /// The commit that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// The build that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// Names of attestations that must be there before the record is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub required_attestations: Option<Vec<String>>,
    /// What was attested, one entry a name. Each step of a pipeline applies its own entry under its own field manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub attestations: Option<Vec<Attestation>>,
    /// Announced deployments to environments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub deployments: Option<Vec<AnnouncedDeployment>>,
}

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Its hash.
    #[schemars(length(min = 7, max = 64), pattern("^[0-9a-f]+$"))]
    pub sha: String,
    /// A page that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
}

/// A build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// A page that shows it.
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// Something that was attested of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// Its name: `unit-tests`, `snyk-scan`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its type, for rules that ask for a type: `junit`, `snyk`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub type_: Option<String>,
    /// Whether what was found is good. One `false` makes the record non-compliant.
    pub compliant: bool,
    /// A page that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// A deployment that was announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedDeployment {
    /// Its number in the flow.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// The environment's name.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// When it was announced.
    pub time: Timestamp,
    /// A page that shows the build which deploys.
    #[serde(default, rename = "buildURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub build_url: Option<String>,
}

/// Whether a record is complete and good.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RecordState {
    /// All that it requires is there, and nothing says `compliant: false`.
    Compliant,
    /// Something that it requires is missing.
    Incomplete,
    /// An attestation says `compliant: false`.
    #[serde(rename = "Non-Compliant")]
    NonCompliant,
}

impl RecordState {
    /// Its name, as in statuses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compliant => "Compliant",
            Self::Incomplete => "Incomplete",
            Self::NonCompliant => "Non-Compliant",
        }
    }
}

/// What Shipbell makes of the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactProvenanceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the record counts where its namespace is trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Whether the record is complete and good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RecordState>,
    /// Required attestations that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub missing: Vec<String>,
    /// The older record of the same flow and image that counts instead of this one, as namespace/name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub conflict: Option<String>,
    /// Environments that trust this record's namespace and in which the image runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environment"]))]
    pub running_in: Vec<RunningIn>,
}

/// An environment in which an image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningIn {
    /// The environment's name.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The digest that it goes by there.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// What it is there: `Compliant`, `Non-Compliant` or `Unknown`.
    #[schemars(length(max = 32))]
    pub compliance: String,
}
