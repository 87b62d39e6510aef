//! `AllowedArtifact`: images that are allowed in environments whatever the rules require, with a reason.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Condition, user_time};

/// An entry of the allow-list: images that are allowed in environments whatever their rules require. Each image is
/// reported once as `ARTIFACT_ALLOWED`. Use it for images that you do not build yourselves.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[rustfmt::skip::attributes(kube)] // one line a column
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "AllowedArtifact",
    doc = "An entry of the allow-list: images that are allowed in environments whatever their rules require. Each image is reported once as ARTIFACT_ALLOWED. Use it for images that you do not build yourselves.",
    status = "AllowedArtifactStatus",
    shortname = "shipallow",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Environments", type_ = "string", json_path = ".spec.environments[*]"),
    printcolumn(name = "Artifacts", type_ = "string", json_path = ".spec.artifacts[*].name"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[x_kube(validation = Rule::new("self.reason.trim().size() > 0").message("reason must say why"))]
#[x_kube(validation = Rule::new("!has(self.expiresAt) || self.expiresAt > timestamp('2020-01-01T00:00:00Z')").message("expiresAt lies long ago"))]
#[serde(rename_all = "camelCase")]
pub struct AllowedArtifactSpec {
    /// The names of the environments.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("environments can't be changed: make a new entry"))]
    pub environments: Vec<String>,
    /// The images.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["fingerprint"]))]
    pub artifacts: Vec<AllowedImage>,
    /// The reason why the images are allowed.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// When the entry ends. From that moment on the rules apply to the images again, and there is no grace period.
    /// Omitted: it ends when it is deleted.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}

impl AllowedArtifactSpec {
    /// What counts of an entry that can't be read as a whole: it allows nothing.
    pub fn nothing(_spec: &serde_json::Value) -> Option<Self> {
        Some(Self::default())
    }
}

/// An image that is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedImage {
    /// The SHA-256 digest of the image: 64 hex digits without `sha256:`.
    #[schemars(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$"))]
    pub fingerprint: String,
    /// The name of the image in messages: `docker.io/library/nginx:1.27`.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
}

/// Whether an entry of the allow-list is active.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AllowedState {
    /// The entry is active.
    Active,
    /// The time `expiresAt` has passed.
    Expired,
    /// None of the environments exists.
    EnvironmentNotFound,
}

/// The state of the entry, written by Shipbell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedArtifactStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when all its environments exist. The entry is then active in all of them until it expires.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Whether the entry is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AllowedState>,
    /// The environments whose log contains the entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub announced: Vec<String>,
}
