//! `Environment`: a named selection of a cluster's workloads, and the state of its log.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::api::{
    Condition, Span, compliance::Rules, condition::shorten_messages, selector::Selector,
};

/// Which environment is meant: a deleted one and another that was created with its name later have different UIDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvironmentId {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

impl EnvironmentId {
    /// The environment with this name and UID.
    pub fn new(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uid: uid.into(),
        }
    }
}

/// A named selection of the cluster's workloads. Shipbell keeps a numbered log of what runs in it, and reports
/// changes to every NotificationSetting that asks for them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "Environment",
    doc = "A named selection of the cluster's workloads. Shipbell keeps a numbered log of what runs in it, and reports changes to every NotificationSetting that asks for them.",
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
    printcolumn(name = "Compliance Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Compliant')].message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: it is used as a label value")
)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSpec {
    /// The namespaces that belong to the environment, by name. Omitted: all but `kube-*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Namespaces>,
    /// The namespaces that belong to the environment, by their labels. A namespace must match this and `namespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// The pods that belong to the environment, by their labels. Omitted: all pods of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// Kinds of owners whose pods are not counted, as `Kind.group` (`DaemonSet.apps`; a pod without an owner is
    /// `Pod`). `RunToCompletion` means all pods with `restartPolicy: Never` or `OnFailure` that nothing replaces, for
    /// example the steps of CI pipelines. Omitted: `Job.batch` and `RunToCompletion`, so that batch jobs and pipelines
    /// send no events. `[]`: nothing is excluded. The rules of `compliance` apply to these pods, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 317), pattern("^[A-Z][A-Za-z0-9]*([.][a-z0-9.-]+)?$")), extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Option<Vec<String>>,
    /// The namespaces whose NotificationSettings may receive events of this environment. `["*"]` means every
    /// namespace. Omitted: only Shipbell's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), pattern("^([*]|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "set"))]
    pub visible_to: Option<Vec<String>>,
    /// How long a change must be stable before it is recorded, so that one rollout is one change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Settle>,
    /// How long snapshots are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Requirements for every image that runs in the environment. Omitted: there are no rules, and the compliance is
    /// Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<Rules>,
}

/// Namespaces by name. `*` matches any sequence of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Namespaces {
    /// Names or globs; a namespace must match one of them. Omitted: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub include: Option<Vec<String>>,
    /// Names or globs that are excluded even if they match `include`. Omitted: `kube-*`. `[]`: nothing is excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9*-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Option<Vec<String>>,
}

/// How long a change must be stable before it is recorded. With `0s` in every field, changes are recorded at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.quiet) || duration(self.quiet) <= duration(has(self.max) ? self.max : '30s')")
    .message("quiet must not be longer than max, which is 30s if not given"))]
#[serde(rename_all = "camelCase")]
pub struct Settle {
    /// How long a workload that is not rolling out must be unchanged before it is recorded. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Span>,
    /// How long a change may wait at most if an image starts or stops in the whole environment. After this time it is
    /// recorded even if its workloads still change. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// How long a rollout may take. After that it counts as finished, even if it is not. The same limit applies to
    /// waiting for pods that terminate. Default 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Span>,
    /// How long the number of instances must be stable before a scaling is recorded (in total at most 5m). Default
    /// 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Span>,
}

/// How long snapshots are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.maxAge) || duration(self.maxAge) >= duration('1h')").message("maxAge must be at least 1h"))]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Snapshots that are older are removed, except those that a NotificationSetting has not delivered yet. Default
    /// 720h, at least 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// The state of the environment, written by Shipbell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when what runs in the environment is known and recorded. `Compliant` is True when it meets the
    /// rules in `spec.compliance`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The number of different images that run, as in the newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<i64>,
    /// The number of instances, as in the newest snapshot. One pod that runs an image is one instance of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<i64>,
    /// The number of running containers whose image could not be identified by a digest, and of pods that could never be read.
    /// They are not in `artifacts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unidentified: Option<i64>,
    /// The compliance of the environment: `Compliant`, `Non-Compliant` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<String>,
    /// Until when `compliance` waits for missing evidence, or for the recovery window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<Timestamp>,
    /// The images that break the rules, or that lack evidence which may still arrive; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub reasons: Vec<Finding>,
}

impl EnvironmentStatus {
    /// What of it may be refused for what it holds, without numbers and times, which change often.
    pub(crate) fn news(&self) -> Self {
        Self {
            conditions: self.undated(),
            reasons: self.reasons.clone(),
            ..Self::default()
        }
    }

    /// Whether it says the same, whenever that began.
    pub(crate) fn says_what(&self, other: &Self) -> bool {
        let undated = |status: &Self| Self {
            conditions: status.undated(),
            ..status.clone()
        };
        undated(self) == undated(other)
    }

    /// Its conditions without their times.
    fn undated(&self) -> Vec<Condition> {
        let undated = |condition: &Condition| Condition {
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            ..condition.clone()
        };
        self.conditions.iter().map(undated).collect()
    }

    /// What is written when the API server refuses all of it: no lists, and short texts.
    #[must_use]
    pub(crate) fn cut_short(mut self) -> Self {
        shorten_messages(&mut self.conditions);
        self.reasons.clear();
        self
    }
}

/// An image that breaks the rules, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The digest of the image.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// The name of the image.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// The reason, as one word of a closed list. See docs/troubleshooting.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The reason in a few words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Until when missing evidence may arrive before the image breaks the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Timestamp>,
}

/// The newest snapshot of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The number of the snapshot.
    pub index: i64,
    /// The name of the snapshot, for `kubectl get environmentsnapshot NAME`.
    pub name: String,
    /// When the snapshot was recorded.
    pub time: Timestamp,
}
