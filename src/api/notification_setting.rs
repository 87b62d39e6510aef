//! `NotificationSetting`: which events of which environments are sent to which destination, and the state of their
//! delivery.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Condition, Span, environment::EnvironmentId, start_from::StartFrom};

/// The six types of events. Their names are the same in specs, messages and metrics.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// An image that did not run in the environment now runs.
    ArtifactStarted,
    /// An image that ran in the environment no longer runs.
    ArtifactStopped,
    /// The number of running instances of an image changed, other than as a part of a rollout.
    ArtifactScaled,
    /// An image was added to the environment's allow-list.
    ArtifactAllowed,
    /// The environment went from Compliant to Non-Compliant.
    EnvironmentNonCompliant,
    /// The environment went from Non-Compliant to Compliant.
    EnvironmentCompliant,
}

impl EventType {
    /// All types, in the order in which a snapshot lists its events.
    pub const ALL: [Self; 6] = [
        Self::ArtifactStarted,
        Self::ArtifactStopped,
        Self::ArtifactScaled,
        Self::ArtifactAllowed,
        Self::EnvironmentNonCompliant,
        Self::EnvironmentCompliant,
    ];

    /// The name in specs, messages and metrics.
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

    /// Whether the event is about the whole environment, and not about one artifact.
    pub(crate) const fn is_of_environment(self) -> bool {
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

/// Sends chosen events of chosen environments to one destination, and shows the state of their delivery.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[rustfmt::skip::attributes(kube)] // one line a column
#[kube(
    group = "shipbell.dev",
    version = "v1alpha1",
    kind = "NotificationSetting",
    doc = "Sends chosen events of chosen environments to one destination, and shows the state of their delivery.",
    namespaced,
    status = "NotificationSettingStatus",
    shortname = "notifset",
    category = "shipbell",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Delivered", type_ = "string", json_path = ".status.conditions[?(@.type=='Delivered')].status"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.destination"),
    printcolumn(name = "Environments", type_ = "string", json_path = ".status.environments"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastDelivery.time"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextAttemptTime", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(validation = Rule::new("has(self.webhook) != has(self.slack)").message("give exactly one of webhook and slack"))]
#[x_kube(validation = Rule::new("!has(self.startFrom) || type(self.startFrom) == string && self.startFrom in ['Now', 'Oldest'] || has(self.environments) && self.environments.size() == 1")
    .message("startFrom with the number of a snapshot needs exactly one name in environments"))]
#[serde(rename_all = "camelCase")]
pub struct NotificationSettingSpec {
    /// The names of the environments whose events are sent. Omitted: all environments that are visible to this
    /// namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    pub environments: Option<Vec<String>>,
    /// The types of events that are sent. Omitted: all but `ARTIFACT_SCALED`, which is frequent where autoscalers
    /// run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub event_types: Option<Vec<EventType>>,
    /// Send each event to a URL as a JSON document (the Kosli v1.0 payload).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Send the events of each snapshot to a Slack channel as one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,
    /// What a new setting is sent first: `Now`: what happens after its creation. `Oldest`: everything that the logs of its
    /// environments still hold. A number: everything from the snapshot with this number on; name exactly one environment
    /// then. Default `Now`. It is read once, when the setting is new. A change of it has no effect: to send events again
    /// use the annotation `shipbell.dev/replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StartFrom")]
    pub start_from: Option<StartFrom>,
    /// If true, no events are sent and nothing expires. Events that happen in the meantime are sent afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How long failed deliveries are retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// A webhook. Give exactly one of `url` and `urlFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("give exactly one of url and urlFrom"))]
#[x_kube(validation = Rule::new("!has(self.url) || !self.url.matches('(?i)^https?://hooks[.]slack(-gov)?[.]com[.]?(:[0-9]*)?(/.*)?$')")
    .message("a Slack webhook URL is a secret: put it in a Secret and use slack.urlFrom"))]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// The URL, if it contains no secret. Everybody who may read this object can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 2048),
        pattern(r"^https?://[^/?#@\s]+([/?#]\S*)?$")
    )]
    pub url: Option<String>,
    /// The Secret that holds the URL, if the URL contains a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
}

/// A Slack channel, reached by an incoming webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// The Secret that holds the URL of the incoming webhook.
    pub url_from: UrlSource,
}

/// The source of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// A key of a Secret in the namespace of the setting.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret in the namespace of the setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret.
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
    /// The key, or its default.
    pub(crate) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or("url")
    }
}

/// How long failed deliveries are retried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How old an event may become. If an attempt fails after that, the event is not sent again and is listed in
    /// `skippedRanges`. Default 72h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// The state of the delivery, written by Shipbell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationSettingStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when the spec is correct and can be used. `Delivered` is True when no event is overdue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The type of the destination, `Slack` or `Webhook`, for the column of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The names of the environments, or `*`, for the column of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub environments: Option<String>,
    /// The reason why the setting is not ready or events are not delivered, for the column of `kubectl get`. See
    /// docs/troubleshooting.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
    /// The same as a sentence, for the column of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// The position up to which the log of each environment has been delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environmentUID"]))]
    pub cursors: Vec<Cursor>,
    /// The position at which the delivery of each environment starts, and why. It is decided once, and written before
    /// anything is sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["environmentUID"]))]
    pub starts: Vec<StartDecision>,
    /// When the start was decided for every environment that the spec asks for. All events of an Environment that is
    /// created later are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_decided_time: Option<Timestamp>,
    /// How many events wait for delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// When the oldest waiting event happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_pending_time: Option<Timestamp>,
    /// When the next attempt is made, if attempts fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Timestamp>,
    /// The last successful delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivery: Option<Delivery>,
    /// The last failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// The last 10 messages that will not be sent again by themselves, newest first: events that the destination
    /// refused, and reports about removed snapshots that could not be delivered for `retry.maxAge`. One that a replay
    /// delivers is removed from this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub dead_letters: Vec<DeadLetter>,
    /// How many messages in total were given up, including those that a replay has delivered since. `deadLetters` lists
    /// the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_lettered: Option<i64>,
    /// The last 20 parts of a log that were not sent, and why, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub skipped_ranges: Vec<SkippedRange>,
    /// The value of the annotation `shipbell.dev/test-requested-at` for which the last test message was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_test: Option<String>,
    /// The replay that the annotation `shipbell.dev/replay` asks for, while it runs and after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The value of the annotation `shipbell.dev/replay` whose replay has ended last, or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_replay: Option<String>,
}

/// A replay: events are sent again because the annotation `shipbell.dev/replay` asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// The value of the annotation.
    #[schemars(length(max = 256))]
    pub request: String,
    /// The position up to which the replay has been delivered. Absent if the replay was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// The number of the last snapshot that is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// The id of the event, if the replay is that of one message.
    #[serde(default, rename = "eventID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub event_id: Option<String>,
    /// How many events have been delivered again.
    pub delivered: i64,
    /// How many messages the destination refused again. `lastFailure` has the newest answer.
    pub refused: i64,
    /// When the replay began.
    pub start_time: Timestamp,
    /// When the replay ended, or was refused. Absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// What became of it, as one word of a closed list. See docs/troubleshooting.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The same as a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// The position up to which the log of one environment has been delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// The name of the environment.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The UID of the environment.
    #[serde(rename = "environmentUID")]
    #[schemars(length(max = 64))]
    pub environment_uid: String,
    /// All snapshots up to this number are done.
    pub index: i64,
    /// How many events of the next snapshot are done.
    pub ordinal: i64,
    /// Snapshots that were removed from the log before they could be delivered, until the destination has received the
    /// message that reports this. That message is sent before any later event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreported_gap: Option<UnreportedGap>,
}

/// At most this many characters of an annotation that requests something.
const REQUEST: usize = 256;

impl NotificationSetting {
    /// What an annotation requests.
    pub(crate) fn requested(&self, annotation: &str) -> Option<String> {
        let annotations = self.metadata.annotations.as_ref()?;
        let asked = annotations.get(annotation)?;
        let asked: String = asked.chars().take(REQUEST).collect();
        (!asked.is_empty()).then_some(asked)
    }
}

impl NotificationSettingStatus {
    /// Makes of it one that could be written again, whoever wrote it: with numbers that a log can have, and one element of
    /// each key.
    pub(crate) fn bound(&mut self) {
        fn unique<T>(list: &mut Vec<T>, key: impl Fn(&T) -> &String) {
            let mut keys = BTreeSet::new();
            // No UID and no type of a condition is longer.
            list.retain(|it| key(it).len() <= 64 && keys.insert(key(it).clone()));
        }
        unique(&mut self.cursors, |it| &it.environment_uid);
        unique(&mut self.starts, |it| &it.environment_uid);
        unique(&mut self.conditions, |it| &it.type_);
        self.cursors.iter_mut().for_each(Cursor::bound);
        if let Some(replay) = &mut self.replay {
            replay.cursor.iter_mut().for_each(Cursor::bound);
            replay.delivered = replay.delivered.max(0);
            replay.refused = replay.refused.max(0);
        }
    }
}

impl Cursor {
    /// Puts the numbers between those that a log can have. Whoever may write the status may have written any.
    pub(crate) fn bound(&mut self) {
        let gap = self.unreported_gap.iter_mut();
        let gap = gap.flat_map(|gap| [&mut gap.from, &mut gap.to]);
        for number in [&mut self.index, &mut self.ordinal].into_iter().chain(gap) {
            // The name of a snapshot has ten digits.
            *number = (*number).clamp(0, 9_999_999_999);
        }
    }

    /// The last snapshot of which anything is done.
    pub(crate) fn begun(&self) -> i64 {
        self.index + i64::from(self.ordinal > 0)
    }

    pub(crate) fn environment_id(&self) -> EnvironmentId {
        EnvironmentId::new(&self.environment, &self.environment_uid)
    }
}

/// Snapshots that were removed from a log before they could be delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreportedGap {
    /// The number of the first removed snapshot.
    pub from: i64,
    /// The number of the last removed snapshot.
    pub to: i64,
    /// When the operator noticed that they are missing.
    pub time: Timestamp,
}

/// Why the delivery of an environment starts where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StartReason {
    /// The setting is new. Its first events are those after it was created.
    NewSetting,
    /// The setting is new, and `spec.startFrom` names its first events.
    StartFrom,
    /// The environment was created after the setting. All its events are sent.
    NewEnvironment,
    /// The environment was added to the setting, or became visible to its namespace. Events from now on are sent.
    EnvironmentAdded,
    /// The position was lost, for example after a restore from a backup. Events from now on are sent.
    CursorReset,
}

/// The position at which the delivery of one environment starts.
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
    /// Why the delivery starts there. `NewSetting`: the setting is new; its first events are those after it was
    /// created. `StartFrom`: the setting is new, and `spec.startFrom` names its first events. `NewEnvironment`: the environment was created after the setting; all its events are sent.
    /// `EnvironmentAdded`: the environment was added to the setting, or became visible to it; events from then on are
    /// sent. `CursorReset`: the position was lost; events from then on are sent.
    pub reason: StartReason,
}

/// A successful delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The id of the event, which is sent in the header `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// The name of the snapshot that contains the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub snapshot: Option<String>,
    /// When the destination responded.
    pub time: Timestamp,
    /// How many attempts were needed.
    pub attempts: i64,
    /// The HTTP status of the response.
    pub http_status: i64,
    /// How long the destination took to respond, in milliseconds.
    pub latency_ms: i64,
}

/// A failed attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The id of the event, which is sent in the header `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// When the attempt failed.
    pub time: Timestamp,
    /// The reason, as one word of a closed list. See docs/troubleshooting.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The reason as a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// How many attempts have been made so far.
    pub attempts: i64,
}

/// A message that will not be sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The id of the event, which is sent in the header `webhook-id`.
    #[serde(rename = "eventID")]
    #[schemars(length(max = 128))]
    pub event_id: String,
    /// The name of the snapshot that contains the event.
    #[schemars(length(max = 253))]
    pub snapshot: String,
    /// The number of the last snapshot whose events the message held, if it held those of several snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<i64>,
    /// How many events the message held, if it held several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<i64>,
    /// When the message was given up.
    pub time: Timestamp,
    /// The reason, as one word of a closed list. See docs/troubleshooting.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The reason as a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A part of a log that was not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRange {
    /// The name of the environment.
    #[schemars(length(max = 63))]
    pub environment: String,
    /// The number of the first snapshot that was skipped, completely or in part.
    pub from: i64,
    /// The number of the last snapshot that was skipped.
    pub to: i64,
    /// How many events were skipped. Absent if the number is unknown, because the snapshots no longer exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// The reason, as one word of a closed list. See docs/troubleshooting.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// When the events were skipped.
    pub time: Timestamp,
}
