//! `ArtifactApproval`: one review of an image. It is a kind of its own, because Kubernetes grants rights for kinds,
//! not for fields.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Condition, user_time};

/// One review of an image: a request, an approval or a rejection. It is never edited: a new review is a new object, and
/// the newest one counts.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[rustfmt::skip::attributes(kube)] // one line a column
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "ArtifactApproval",
    doc = "One review of an image: a request, an approval or a rejection. It is never edited: a new review is a new object, and the newest one counts.",
    namespaced,
    status = "ArtifactApprovalStatus",
    shortname = "shipappr",
    category = "shipbell",
    derive = "PartialEq",
    selectable = ".spec.fingerprint",
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Reviewer", type_ = "string", json_path = ".spec.reviewer"),
    printcolumn(name = "Environment", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Number", type_ = "integer", json_path = ".status.number"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Comment", type_ = "string", json_path = ".spec.comment", priority = 1),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".spec.fingerprint", priority = 1)
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a review is never edited: make a new one, the newest counts"))]
#[serde(rename_all = "camelCase")]
pub struct ArtifactApprovalSpec {
    /// The SHA-256 digest of the image: 64 hex digits without `sha256:`.
    #[schemars(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$"))]
    pub fingerprint: String,
    /// The flow of the record that was reviewed. Omitted: the review counts for every flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern("^[a-zA-Z0-9][a-zA-Z0-9._~-]*$"))]
    pub flow: Option<String>,
    /// The environment for which the image is approved or rejected. Omitted: all environments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub environment: Option<String>,
    /// The number of the review, if another system assigns numbers. It is only shown: the newest review is the one that
    /// was created last. Omitted: Shipbell numbers the reviews of a namespace in the order in which they are created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub number: Option<i64>,
    /// The decision of the reviewer.
    pub state: ReviewState,
    /// The name of the reviewer.
    #[schemars(length(min = 1, max = 253))]
    pub reviewer: String,
    /// The reason for the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub comment: Option<String>,
    /// The URL of a page that shows the review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// When the image was reviewed. Omitted: the time at which the object was created.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub time: Option<Timestamp>,
    /// When the approval ends. From that moment on it no longer counts, and there is no grace period. Omitted: it
    /// never ends.
    #[serde(
        default,
        deserialize_with = "user_time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}

impl ArtifactApprovalSpec {
    /// What counts of a review that can't be read as a whole: one that speaks against an image counts as soon as that image
    /// and the decision can be read, for every flow and environment that can't be. An approval must be read as a whole.
    pub fn against(spec: &serde_json::Value) -> Option<Self> {
        let text = |key: &str| spec[key].as_str().map(str::to_owned);
        let state = match spec["state"].as_str()? {
            "requested" => ReviewState::Requested,
            "rejected" => ReviewState::Rejected,
            _ => return None,
        };
        Some(Self {
            fingerprint: text("fingerprint")?,
            flow: text("flow"),
            environment: text("environment"),
            number: spec["number"].as_i64(),
            state,
            reviewer: text("reviewer").unwrap_or_default(),
            comment: text("comment"),
            url: None,
            time: None,
            expires_at: None,
        })
    }
}

/// The decision of a reviewer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ReviewState {
    /// A review is requested. Earlier approvals no longer count.
    Requested,
    /// The image may run.
    Approved,
    /// The image must not run.
    Rejected,
}

impl ReviewState {
    /// The name in messages and in the read API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// The state of the review, written by Shipbell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactApprovalStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when the review has a number. It counts in environments that trust its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The number of the review: the one in the spec, or else the next free number of its namespace when Shipbell first
    /// read the review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
}
