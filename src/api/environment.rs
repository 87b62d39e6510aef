//! `Environment`: a named selection of a cluster's workloads, and the head of its log.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::api::{Condition, Span, compliance::Rules, selector::Selector};

/// A named selection of the cluster's workloads. Shipbell keeps a numbered log of what runs in it and
/// tells every NotificationSetting that asks when that changes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "Environment",
    doc = "A named selection of the cluster's workloads. Shipbell keeps a numbered log of what runs in it and tells every NotificationSetting that asks when that changes.",
    status = "EnvironmentStatus",
    shortname = "shipenv",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Head", type_ = "integer", json_path = ".status.head.index", description = "The number of the newest snapshot"),
    printcolumn(name = "Artifacts", type_ = "integer", json_path = ".status.artifacts", description = "Different images that run"),
    printcolumn(name = "Instances", type_ = "integer", json_path = ".status.instances", description = "Pods that run them"),
    printcolumn(name = "Compliance", type_ = "string", json_path = ".status.compliance"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.conditions[?(@.type=='Compliant')].reason", description = "Why it is compliant or not"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Because", type_ = "string", json_path = ".status.conditions[?(@.type=='Compliant')].message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: it is used as a label value")
)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSpec {
    /// Which namespaces belong to the environment, by name. Omitted: all but `kube-*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Namespaces>,
    /// Which namespaces belong to the environment, by their labels; asked in addition to `namespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Which pods belong to the environment, by their labels. Omitted: all pods of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// Kinds of owners whose pods are left out, as `Kind.group` (`DaemonSet.apps`; a bare pod is `Pod`). Omitted:
    /// `Job.batch`, so that batch runs don't ring; `[]`: nothing is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 317), pattern("^[A-Z][A-Za-z0-9]*([.][a-z0-9.-]+)?$")), extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Option<Vec<String>>,
    /// Namespaces whose NotificationSettings may hear of this environment; `["*"]` means every namespace.
    /// Omitted: only Shipbell's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), pattern("^([*]|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "set"))]
    pub visible_to: Option<Vec<String>>,
    /// How long a change must stand still before it is recorded, so that one rollout reads as one change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Settle>,
    /// How much of the log is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// What must hold of every image that runs here. Omitted: there are no rules, and the environment is neither Compliant
    /// nor Non-Compliant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<Rules>,
}

/// Namespaces by name. `*` stands for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Namespaces {
    /// Names or globs; a namespace must match one of them. Omitted: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub include: Option<Vec<String>>,
    /// Names or globs that are left out even if included. Omitted: `kube-*`; `[]`: nothing is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Option<Vec<String>>,
}

/// How long a change must stand still before it is recorded. `0s` everywhere records at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.quiet) || duration(self.quiet) <= duration(has(self.max) ? self.max : '30s')")
    .message("quiet must not be longer than max, which is 30s if not given"))]
#[serde(rename_all = "camelCase")]
pub struct Settle {
    /// A workload that is not rolling out is recorded when it stood still for so long. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Span>,
    /// An image that started or stopped altogether is recorded after so long, whatever its workloads do. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// A rollout that takes longer is treated as over; likewise the wait for pods to terminate. Default 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Span>,
    /// A change of the number of instances alone must be stable for so long (5m at most in all). Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Span>,
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.maxAge) || duration(self.maxAge) >= duration('1h')").message("maxAge must be at least 1h"))]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Snapshots older than this are removed, except those that a notification still waits for. Default 720h,
    /// at least 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// What Shipbell has recorded of the environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: what runs in the environment is known and recorded. `Compliant`: it keeps the rules in `spec.compliance`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// How many different images the newest snapshot holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<i64>,
    /// How many instances of them (one pod that runs an image is one instance of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<i64>,
    /// How many running containers have an image that could not be identified by a digest. They are in no artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unidentified: Option<i64>,
    /// `Compliant`, `Non-Compliant` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<String>,
    /// Until when that waits: for what is missing to arrive, or for all to have been well for long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<Timestamp>,
    /// What breaks the rules, or lacks something that may still arrive; at most 20 images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub reasons: Vec<Finding>,
}

/// Why an image breaks the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The image's digest.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The image's name.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// Why, as one word of a closed list; the README explains each.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, in a few words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Until when what is missing may arrive without harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Timestamp>,
}

/// The newest snapshot of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Its number, from 1.
    pub index: i64,
    /// Its name: `kubectl get environmentsnapshot NAME`.
    pub name: String,
    /// When it was recorded.
    pub time: Timestamp,
}
