//! `ArtifactApproval`: one review of an image. A kind of its own, because rights can't be given field by field.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Condition;

/// One review of an image: a request, an approval or a rejection. It is never edited: a new review is a new object, and
/// the newest one counts.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
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
    printcolumn(
        name = "Environment",
        type_ = "string",
        json_path = ".spec.environment"
    ),
    printcolumn(name = "Number", type_ = "integer", json_path = ".status.number"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Comment",
        type_ = "string",
        json_path = ".spec.comment",
        priority = 1
    ),
    printcolumn(
        name = "Fingerprint",
        type_ = "string",
        json_path = ".spec.fingerprint",
        priority = 1
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a review is never edited: make a new one, the newest counts"))]
#[serde(rename_all = "camelCase")]
pub struct ArtifactApprovalSpec {
    /// The SHA-256 digest of the image: 64 hex digits without `sha256:`.
    #[schemars(length(min = 64, max = 64), pattern("^[0-9a-f]{64}$"))]
    pub fingerprint: String,
    /// The flow of the record that was reviewed. Omitted: whichever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern("^[a-zA-Z0-9][a-zA-Z0-9._~-]*$"))]
    pub flow: Option<String>,
    /// The environment that it is approved or rejected for. Omitted: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub environment: Option<String>,
    /// The review's number, if another system gave it one; later numbers are newer. Omitted: Shipbell numbers reviews in
    /// the order in which they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub number: Option<i64>,
    /// What the reviewer says.
    pub state: ReviewState,
    /// Who reviewed.
    #[schemars(length(min = 1, max = 253))]
    pub reviewer: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub comment: Option<String>,
    /// A page that shows the review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), pattern("^https?://"))]
    pub url: Option<String>,
    /// When it was reviewed. Omitted: when the object was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Until when an approval holds; it ends at that very instant, without grace. Omitted: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a reviewer says.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ReviewState {
    /// A review is asked for; what was approved before doesn't count any more.
    Requested,
    /// The image may run.
    Approved,
    /// The image must not run.
    Rejected,
}

impl ReviewState {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// What Shipbell makes of the review.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactApprovalStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the review is numbered and counts where its namespace is trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The review's number: that of the spec, else the next one that was free when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
}
