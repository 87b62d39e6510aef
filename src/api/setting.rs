//! `NotificationSetting`: which events of which environments go where, and what became of them.

use std::fmt;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Condition, Span};

/// The six events; the values are the contract's, here, in the payload and in the metrics alike.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// A digest that was not running in the environment now runs.
    ArtifactStarted,
    /// A digest that was running no longer runs.
    ArtifactStopped,
    /// The number of running instances of a digest changed, other than as a part of a rollout.
    ArtifactScaled,
    /// A digest was added to the environment's allow-list.
    ArtifactAllowed,
    /// The environment went from Compliant to Non-Compliant.
    EnvironmentNonCompliant,
    /// The environment went from Non-Compliant to Compliant.
    EnvironmentCompliant,
}

impl EventType {
    /// All six, in the order in which a snapshot tells them.
    pub const ALL: [Self; 6] = [
        Self::ArtifactStarted,
        Self::ArtifactStopped,
        Self::ArtifactScaled,
        Self::ArtifactAllowed,
        Self::EnvironmentNonCompliant,
        Self::EnvironmentCompliant,
    ];

    /// Its name in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ArtifactStarted => "ARTIFACT_STARTED",
            Self::ArtifactStopped => "ARTIFACT_STOPPED",
            Self::ArtifactScaled => "ARTIFACT_SCALED",
            Self::ArtifactAllowed => "ARTIFACT_ALLOWED",
            Self::EnvironmentNonCompliant => "ENVIRONMENT_NON_COMPLIANT",
            Self::EnvironmentCompliant => "ENVIRONMENT_COMPLIANT",
        }
    }

    /// Whether it speaks of the environment as a whole.
    pub const fn is_of_environment(self) -> bool {
        matches!(
            self,
            Self::EnvironmentNonCompliant | Self::EnvironmentCompliant
        )
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sends the chosen events of the chosen environments to one destination, and shows what became of them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "NotificationSetting",
    doc = "Sends the chosen events of the chosen environments to one destination, and shows what became of them.",
    namespaced,
    status = "NotificationSettingStatus",
    shortname = "notifset",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Delivered",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Delivered')].status"
    ),
    printcolumn(name = "To", type_ = "string", json_path = ".status.destination"),
    printcolumn(
        name = "Environments",
        type_ = "string",
        json_path = ".status.environments"
    ),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastDelivery.time"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        priority = 1
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.nextAttemptTime",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    )
)]
#[x_kube(validation = Rule::new("has(self.webhook) != has(self.slack)").message("give exactly one of webhook and slack"))]
#[serde(rename_all = "camelCase")]
pub struct NotificationSettingSpec {
    /// The names of the environments to hear of. Omitted: all that this namespace may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    pub environments: Option<Vec<String>>,
    /// The events to hear of. Omitted: all but `ARTIFACT_SCALED`, which autoscalers make noisy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub event_types: Option<Vec<EventType>>,
    /// Send each event as a JSON document (the Kosli v1.0 payload) to a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Send the events of each snapshot as a message to a Slack channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,
    /// While true nothing is sent and nothing expires; what happens meanwhile is sent afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How long to go on trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// A webhook: exactly one of `url` and `urlFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("give exactly one of url and urlFrom"))]
#[x_kube(validation = Rule::new("!has(self.url) || !self.url.matches('(?i)^https?://hooks[.]slack(-gov)?[.]com[.]?(:[0-9]*)?(/.*)?$')")
    .message("a Slack webhook URL is a secret: put it in a Secret and use slack.urlFrom"))]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// The URL, if it holds no secret. Anyone who may read this object can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 2048),
        pattern(r"^https?://[^/?#@\s]+([/?#]\S*)?$")
    )]
    pub url: Option<String>,
    /// Where the URL is kept, if it holds a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
}

/// A Slack channel, by an incoming webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// Where the URL of the incoming webhook is kept.
    pub url_from: UrlSource,
}

/// Where a URL is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// A key of a Secret in the setting's own namespace.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret in the setting's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The key in the Secret's data. Default `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern("^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

impl SecretKeyRef {
    /// The key, with its default.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or("url")
    }
}

/// How long to go on trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// An event that is older and still can't be delivered is given up, and reported in `skippedRanges`. Default 72h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// What became of the events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationSettingStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the setting is sound. `Delivered`: nothing is overdue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// `Slack` or `Webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The environments, for the column: their names, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub environments: Option<String>,
    /// Why it is not ready or not delivered, for the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
    /// The same in a sentence, for the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// How far each environment's log has been delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environmentUID"]))]
    pub cursors: Vec<Cursor>,
    /// Where the cursor of each environment starts, and why. This is decided once and written before anything is sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environmentUID"]))]
    pub starts: Vec<StartDecision>,
    /// When the start had been decided for every environment that the spec asks for. An Environment that is created
    /// later starts at its first snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_decided_time: Option<Timestamp>,
    /// How many events wait to be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// When the oldest of them happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_pending_time: Option<Timestamp>,
    /// When the next attempt is made, while attempts fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Timestamp>,
    /// The newest delivery that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivery: Option<Delivery>,
    /// The newest attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// Events that the destination refused for good, newest first, at most 10; so is the message that tells of removed
    /// snapshots, if it could not be delivered for `retry.maxAge`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub dead_letters: Vec<DeadLetter>,
    /// How many messages the destination has refused for good since the setting was created. `deadLetters` lists the
    /// newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_lettered: Option<i64>,
    /// Stretches of a log that were not sent, and why, newest first, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub skipped_ranges: Vec<SkippedRange>,
    /// The value of the annotation `shipbell.dev/test-requested-at` that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_test: Option<String>,
}

/// How far the log of one environment has been delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// The environment's name.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The environment's UID.
    #[serde(rename = "environmentUID")]
    #[schemars(length(max = 64))]
    pub environment_uid: String,
    /// All snapshots up to this number are done.
    pub index: i64,
    /// So many events of the next snapshot are done.
    pub ordinal: i64,
    /// Snapshots that were removed from the log before they could be delivered, until the destination has received the
    /// message that reports this. That message is sent before any later event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreported_gap: Option<UnreportedGap>,
}

/// Snapshots that were removed from a log before they could be delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreportedGap {
    /// The number of the first removed snapshot.
    pub from: i64,
    /// The number of the last removed snapshot.
    pub to: i64,
    /// When the operator found that they were missing.
    pub time: Timestamp,
}

/// Why the cursor of an environment starts where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StartReason {
    /// The setting is new. It starts at the newest snapshot that is not younger than the setting, or at the first
    /// snapshot of the environment.
    NewSetting,
    /// The environment was created after the setting. It starts at the environment's first snapshot.
    NewEnvironment,
    /// The environment was added to the setting, or became visible to its namespace. It starts at the newest snapshot.
    EnvironmentAdded,
    /// The cursor existed but its log was lost. It starts again at the newest snapshot.
    CursorReset,
}

/// Where the cursor of an environment starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartDecision {
    /// The name of the environment.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The UID of the environment.
    #[serde(rename = "environmentUID")]
    #[schemars(length(max = 64))]
    pub environment_uid: String,
    /// The number of the snapshot after which events are sent. Absent while the log of the environment cannot be read:
    /// nothing of this environment is sent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,
    /// Why the cursor starts there.
    pub reason: StartReason,
}

/// A delivery that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The event's id, as sent in `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// The snapshot that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub snapshot: Option<String>,
    /// When the destination answered.
    pub time: Timestamp,
    /// How many attempts it took.
    pub attempts: i64,
    /// The HTTP status of the answer.
    pub http_status: i64,
    /// How long the answer took, in milliseconds.
    pub latency_ms: i64,
}

/// An attempt that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The event's id, as sent in `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// When the attempt failed.
    pub time: Timestamp,
    /// Why, as one word of a closed list; the README explains each.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, as a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// How many attempts were made so far.
    pub attempts: i64,
}

/// An event that the destination refused for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The event's id, as sent in `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// The snapshot that it comes from.
    #[schemars(length(max = 253))]
    pub snapshot: String,
    /// When it was refused.
    pub time: Timestamp,
    /// Why, as one word of a closed list.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, as a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A stretch of a log that was not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRange {
    /// The environment's name.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The first snapshot that was skipped, in part or as a whole.
    pub from: i64,
    /// The last one.
    pub to: i64,
    /// How many events were skipped. Absent if this is unknown, because the log no longer holds the snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Why, as one word of a closed list.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// When.
    pub time: Timestamp,
}
