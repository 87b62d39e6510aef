//! `ArtifactProvenance`: the record of an image: who built it, from which commit, and what was attested. Written by
//! CI.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Condition, user_time};

/// The record of an image: the flow that built it, the commit, the build, and what was attested. It counts only in
/// environments that trust its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[rustfmt::skip::attributes(kube)] // one line a column
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "ArtifactProvenance",
    doc = "The record of an image: the flow that built it, the commit, the build, and what was attested. It counts only in environments that trust its namespace.",
    namespaced,
    status = "ArtifactProvenanceStatus",
    shortname = "shipprov",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.fingerprint",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "Whether the record is complete and compliant"),
    printcolumn(name = "Running In", type_ = "string", json_path = ".status.runningIn[*].environment", description = "Environments that run the image"),
    printcolumn(name = "Flow", type_ = "string", json_path = ".spec.flow"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Missing", type_ = "string", json_path = ".status.missing[*]", priority = 1),
    printcolumn(name = "Conflict", type_ = "string", json_path = ".status.conflict", priority = 1),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".spec.fingerprint", priority = 1)
)]
#[x_kube(validation = Rule::new("!has(self.aliases) || !(self.fingerprint in self.aliases)").message("aliases must not hold the fingerprint itself"))]
#[x_kube(validation = Rule::new("!has(oldSelf.repository) || (has(self.repository) && self.repository == oldSelf.repository)").message("repository can't be changed once it is set: make a new record"))]
#[serde(rename_all = "camelCase")]
pub struct ArtifactProvenanceSpec {
    /// The SHA-256 digest of the image: 64 hex digits without `sha256:`. For an image of several platforms, the
    /// digest of the index.
    #[schemars(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("fingerprint can't be changed: make a new record"))]
    pub fingerprint: String,
    /// Other digests of the same image: the manifests of its platforms, and their configurations. Nodes may report
    /// any of them. `docker buildx imagetools inspect --raw` lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$")), extend("x-kubernetes-list-type" = "set"))]
    pub aliases: Option<Vec<String>>,
    /// The name of the artifact in messages. Omitted: the name of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The repository from which the image must be pulled, or else the record does not count: the complete name, with
    /// its registry and without a tag (`ghcr.io/acme/runner`, `docker.io/library/nginx`). Omitted: any repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), pattern("^[a-z0-9A-Z._:/-]+$"))]
    #[x_kube(validation = Rule::new("self.matches('^(localhost|[^/]*[.:A-Z][^/]*)/[^:]+$')").message("repository must be the whole name, with its registry and without a tag: docker.io/acme/web"))]
    pub repository: Option<String>,
    /// The flow (pipeline) that built the image. If there are two records of one flow for one image, the older one
    /// counts.
    #[schemars(length(min = 1, max = 128), pattern("^[a-zA-Z0-9][a-zA-Z0-9._~-]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("flow can't be changed: make a new record"))]
    pub flow: String,
    /// The commit from which the image was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// The build that made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// The names of the attestations without which the record is incomplete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub required_attestations: Option<Vec<String>>,
    /// What was attested, one entry for each name. Each step of a pipeline applies its own entry with its own field
    /// manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub attestations: Option<Vec<Attestation>>,
    /// Deployments of the image to environments, as CI announced them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub deployments: Option<Vec<AnnouncedDeployment>>,
}

impl ArtifactProvenanceSpec {
    /// What counts of a record that can't be read as a whole: the image, what failed, and what is required, as far as each
    /// can be read. What can't be read of a failed attestation is empty.
    pub fn against(spec: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let all = |key: &str| spec[key].as_array().into_iter().flatten();
        let failed = all("attestations").filter(|it| it["compliant"] == false);
        let failed = failed.map(|it| Attestation {
            name: text(&it["name"]).unwrap_or_default(),
            type_: (!it["type"].is_null()).then(|| text(&it["type"]).unwrap_or_default()),
            compliant: false,
            ..Attestation::default()
        });
        Some(Self {
            fingerprint: text(&spec["fingerprint"]).unwrap_or_default(),
            aliases: Some(all("aliases").filter_map(text).collect()),
            flow: text(&spec["flow"]).unwrap_or_default(),
            required_attestations: Some(all("requiredAttestations").filter_map(text).collect()),
            attestations: Some(failed.collect()),
            ..Self::default()
        })
    }
}

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// The hash of the commit.
    #[schemars(length(min = 7, max = 64), pattern("^[0-9a-f]+$"))]
    pub sha: String,
    /// The URL of a page that shows the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
}

/// A build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// The URL of a page that shows the build.
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: String,
    /// When the build started.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub started_at: Option<Timestamp>,
}

/// A statement about an image, for example the result of a test or of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The name of the attestation: `unit-tests`, `snyk-scan`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The type of the attestation, for rules that require a type: `junit`, `snyk`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub type_: Option<String>,
    /// Whether the result is acceptable. If one is `false`, the record is non-compliant.
    pub compliant: bool,
    /// The URL of a page that shows the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// When the attestation was made.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub time: Option<Timestamp>,
}

/// An announced deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedDeployment {
    /// The number of the deployment in the flow.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// The name of the environment.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// When the deployment was announced.
    #[serde(deserialize_with = "user_time::required")]
    pub time: Timestamp,
    /// The URL of a page that shows the build which deploys the image.
    #[serde(default, rename = "buildURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub build_url: Option<String>,
}

/// Whether a record is complete and compliant.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RecordState {
    /// All required attestations are present, and none has `compliant: false`.
    Compliant,
    /// A required attestation is missing.
    Incomplete,
    /// An attestation has `compliant: false`.
    #[serde(rename = "Non-Compliant")]
    NonCompliant,
}

impl RecordState {
    /// The name in statuses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compliant => "Compliant",
            Self::Incomplete => "Incomplete",
            Self::NonCompliant => "Non-Compliant",
        }
    }
}

/// The state of the record, written by Shipbell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactProvenanceStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when the record counts in environments that trust its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Whether the record is complete and compliant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RecordState>,
    /// The required attestations that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub missing: Vec<String>,
    /// The older record of the same flow and image, as namespace/name. It counts instead of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub conflict: Option<String>,
    /// The environments that trust the namespace of this record and run the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environment"]))]
    pub running_in: Vec<RunningIn>,
}

/// An environment that runs an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningIn {
    /// The name of the environment.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The digest under which the environment lists the image.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The compliance of the image there: `Compliant`, `Non-Compliant` or `Unknown`.
    #[schemars(length(max = 32))]
    pub compliance: String,
}
