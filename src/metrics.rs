//! What is counted, for `/metrics`.

use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};

/// The upper bounds of the buckets for requests to destinations, in seconds. None takes longer than 15 s.
const REQUEST_BUCKETS: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];
/// The upper bounds of the buckets for the time from a snapshot to the delivery of its event, in seconds: up to 72 h.
const LATENCY_BUCKETS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0,
];

/// All metrics of the program.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Family<OfKind, Counter>,
    listed: Family<OfKind, Counter>,
    failures: Family<OfKind, Counter>,
    warnings: Counter,
    index_mismatches: Counter,
    snapshots: Family<EnvironmentLabel, Counter>,
    head: Family<EnvironmentLabel, Gauge>,
    frozen: Family<EnvironmentLabel, Gauge>,
    truncated: Counter,
    snapshot_timestamp: Family<EnvironmentLabel, Gauge<f64, AtomicU64>>,
    watch_age: Family<OfKind, Gauge<f64, AtomicU64>>,
    deliveries: Family<OfOutcome, Counter>,
    request_duration: Family<OfDestination, Histogram, Buckets>,
    delivery_latency: Family<OfDestination, Histogram, Buckets>,
    dead_letters: Family<OfDestination, Counter>,
    pending: Family<OfDestination, Gauge>,
    oldest_pending: Family<OfDestination, Gauge<f64, AtomicU64>>,
    overdue: Family<OfDestination, Gauge>,
    settings_by_state: Family<OfSettingState, Gauge>,
    connections: Family<OfPort, Gauge>,
    connections_dropped: Family<OfPort, Counter>,
    http_responses: Family<OfResponse, Counter>,
    token_reviews: Family<OfResult, Counter>,
    panics: Family<OfScope, Counter>,
    leader: Gauge,
    leader_changes: Counter,
    build_info: Family<OfBuild, Gauge>,
    /// What each setting's status says, by the setting's UID.
    settings: Mutex<BTreeMap<String, SettingFacts>>,
}

/// What the status of a setting says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettingFacts {
    /// `Webhook` or `Slack`.
    pub destination: &'static str,
    /// Whether the condition `Ready` is true.
    pub ready: bool,
    /// The condition `Delivered`.
    pub delivered: Option<bool>,
    pub suspended: bool,
    pub pending: i64,
    pub oldest_pending: Option<Timestamp>,
}

/// What a panic is contained in.
const PANIC_SCOPES: [&str; 4] = ["request", "environment", "setting", "log-heads"];
/// The kinds of destinations.
const DESTINATIONS: [&str; 2] = ["Webhook", "Slack"];

/// Makes a histogram with these buckets.
#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDestination {
    destination: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSettingState {
    ready: &'static str,
    delivered: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPort {
    port: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResponse {
    port: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfScope {
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnvironmentLabel {
    environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    destination: &'static str,
    outcome: &'static str,
}

/// Registers histograms with these buckets.
fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: &'static [f64],
) -> Family<OfDestination, Histogram, Buckets> {
    let metric = Family::new_with_constructor(Buckets(buckets));
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a metric at zero.
fn metric<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("shipbell");
        let all = &mut registry;
        Self {
            events: metric(all, "watch_events", "Events read from watches"),
            listed: metric(all, "listed_objects", "Objects read from lists"),
            failures: metric(all, "watch_failures", "Lists and watches that failed"),
            warnings: metric(
                all,
                "unreadable_or_unidentified",
                "Objects that could not be decoded and images that could not be identified",
            ),
            index_mismatches: metric(
                all,
                "index_mismatch",
                "Environments whose running counts were found wrong; anything but 0 is a defect",
            ),
            snapshots: metric(all, "snapshots", "Snapshots appended"),
            head: metric(all, "head_index", "The number of the newest snapshot"),
            frozen: metric(
                all,
                "frozen",
                "1 while nothing is recorded for an environment",
            ),
            truncated: metric(
                all,
                "history_truncated",
                "Snapshots removed although a setting still needed them",
            ),
            snapshot_timestamp: metric(
                all,
                "snapshot_timestamp_seconds",
                "When the newest snapshot was recorded, in Unix seconds",
            ),
            watch_age: metric(
                all,
                "watch_age_seconds",
                "How long ago a kind was last read from the API server",
            ),
            deliveries: metric(all, "deliveries", "Attempts to deliver, by outcome"),
            request_duration: histogram(
                all,
                "request_duration_seconds",
                "Time that destinations took to answer",
                &REQUEST_BUCKETS,
            ),
            delivery_latency: histogram(
                all,
                "delivery_latency_seconds",
                "Time from the snapshot of an event to its delivery",
                &LATENCY_BUCKETS,
            ),
            dead_letters: metric(all, "dead_letters", "Events that were given up"),
            pending: metric(
                all,
                "pending_events",
                "Events that wait, of settings that are not suspended",
            ),
            oldest_pending: metric(
                all,
                "oldest_pending_age_seconds",
                "Age of the oldest event that waits, of settings that are not suspended",
            ),
            overdue: metric(
                all,
                "overdue_settings",
                "Settings whose condition Delivered is False, without the suspended ones",
            ),
            settings_by_state: metric(all, "settings", "Settings by their conditions"),
            connections: metric(all, "http_connections", "Open connections to a port"),
            connections_dropped: metric(
                all,
                "http_connections_dropped",
                "Connections that were closed or refused because a port had too many",
            ),
            http_responses: metric(all, "http_responses", "Answers of a port"),
            token_reviews: metric(
                all,
                "token_reviews",
                "Tokens that the API server was to check, by result",
            ),
            panics: metric(
                all,
                "panics",
                "Panics that were contained; anything but 0 is a defect",
            ),
            leader: metric(all, "leader", "1 while this replica leads: one of all does"),
            leader_changes: metric(
                all,
                "leader_changes",
                "How often this replica began or ceased to lead",
            ),
            build_info: metric(all, "build_info", "1, with the version of the program"),
            settings: Mutex::default(),
            registry,
        }
        .with_known_labels()
    }

    /// Begins at 0 what has a known set of labels: a rate needs a first value.
    fn with_known_labels(self) -> Self {
        for destination in DESTINATIONS {
            let label = OfDestination { destination };
            drop(self.request_duration.get_or_create(&label));
            drop(self.delivery_latency.get_or_create(&label));
            drop(self.dead_letters.get_or_create(&label));
            for outcome in ["delivered", "retry", "held", "refused"] {
                let label = OfOutcome {
                    destination,
                    outcome,
                };
                drop(self.deliveries.get_or_create(&label));
            }
        }
        for scope in PANIC_SCOPES {
            drop(self.panics.get_or_create(&OfScope { scope }));
        }
        for result in ["granted", "denied", "invalid", "limited", "failed"] {
            drop(self.token_reviews.get_or_create(&OfResult { result }));
        }
        for port in ["health", "api"] {
            drop(self.connections.get_or_create(&OfPort { port }));
            drop(self.connections_dropped.get_or_create(&OfPort { port }));
        }
        let version = env!("CARGO_PKG_VERSION");
        self.build_info.get_or_create(&OfBuild { version }).set(1);
        self
    }

    /// The text that Prometheus reads.
    pub fn text(&self, now: Timestamp) -> String {
        self.count_settings(now);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Whether this replica leads now.
    pub(crate) fn leads(&self, leads: bool) {
        if self.leader.set(leads.into()) != i64::from(leads) {
            self.leader_changes.inc();
        }
    }

    pub(crate) fn watched(&self, kind: &'static str) {
        self.events.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn listed(&self, kind: &'static str, count: usize) {
        let label = OfKind { kind };
        self.listed.get_or_create(&label).inc_by(count as u64);
        // Begun at 0: a rate needs a first value.
        drop(self.failures.get_or_create(&label));
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.failures.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn warned(&self) {
        self.warnings.inc();
    }

    pub(crate) fn index_mismatches(&self, count: usize) {
        self.index_mismatches.inc_by(count as u64);
    }

    pub(crate) fn appended(&self, environment: &str, head: (i64, Timestamp)) {
        let label = EnvironmentLabel {
            environment: environment.to_owned(),
        };
        self.snapshots.get_or_create(&label).inc();
        self.head_is(environment, head);
    }

    pub(crate) fn head_is(&self, environment: &str, (index, time): (i64, Timestamp)) {
        let label = EnvironmentLabel {
            environment: environment.to_owned(),
        };
        self.head.get_or_create(&label).set(index);
        self.snapshot_timestamp
            .get_or_create(&label)
            .set(time.as_duration().as_secs_f64());
    }

    pub(crate) fn frozen(&self, environment: &str, frozen: bool) {
        self.frozen
            .get_or_create(&EnvironmentLabel {
                environment: environment.to_owned(),
            })
            .set(i64::from(frozen));
    }

    pub(crate) fn environment_gone(&self, environment: &str) {
        let label = EnvironmentLabel {
            environment: environment.to_owned(),
        };
        self.snapshots.remove(&label);
        self.head.remove(&label);
        self.frozen.remove(&label);
        self.snapshot_timestamp.remove(&label);
    }

    pub(crate) fn watch_age(&self, kind: &'static str, age: Duration) {
        self.watch_age
            .get_or_create(&OfKind { kind })
            .set(age.as_secs_f64());
    }

    pub(crate) fn truncated(&self, count: usize) {
        self.truncated.inc_by(count as u64);
    }

    /// An attempt to deliver was answered after this time.
    pub(crate) fn attempted(
        &self,
        destination: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        self.deliveries
            .get_or_create(&OfOutcome {
                destination,
                outcome,
            })
            .inc();
        self.request_duration
            .get_or_create(&OfDestination { destination })
            .observe(duration.as_secs_f64());
    }

    /// A message was delivered this long after its snapshot.
    pub(crate) fn delivered(&self, destination: &'static str, latency: Duration) {
        self.delivery_latency
            .get_or_create(&OfDestination { destination })
            .observe(latency.as_secs_f64());
    }

    pub(crate) fn dead_lettered(&self, destination: &'static str, count: u64) {
        self.dead_letters
            .get_or_create(&OfDestination { destination })
            .inc_by(count);
    }

    /// What the status of a setting says now.
    pub(crate) fn setting_is(&self, uid: &str, facts: SettingFacts) {
        self.settings.lock().insert(uid.to_owned(), facts);
    }

    pub(crate) fn setting_gone(&self, uid: &str) {
        self.settings.lock().remove(uid);
    }

    fn count_settings(&self, now: Timestamp) {
        let settings = self.settings.lock();
        for destination in DESTINATIONS {
            let label = OfDestination { destination };
            let sending = settings
                .values()
                .filter(|it| it.destination == destination && !it.suspended);
            let (mut pending, mut overdue, mut oldest) = (0_i64, 0, None);
            for facts in sending {
                pending = pending.saturating_add(facts.pending);
                overdue += i64::from(facts.delivered == Some(false));
                oldest = [oldest, facts.oldest_pending].into_iter().flatten().min();
            }
            let age = oldest.map_or(Duration::ZERO, |oldest| {
                Duration::try_from(now.duration_since(oldest)).unwrap_or_default()
            });
            self.pending.get_or_create(&label).set(pending);
            self.overdue.get_or_create(&label).set(overdue);
            self.oldest_pending
                .get_or_create(&label)
                .set(age.as_secs_f64());
        }
        for (ready, ready_label) in [(true, "true"), (false, "false")] {
            for (delivered, delivered_label) in [
                (Some(true), "true"),
                (Some(false), "false"),
                (None, "unknown"),
            ] {
                let count = settings
                    .values()
                    .filter(|it| (it.ready, it.delivered) == (ready, delivered))
                    .count();
                let label = OfSettingState {
                    ready: ready_label,
                    delivered: delivered_label,
                };
                self.settings_by_state
                    .get_or_create(&label)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    pub(crate) fn connections(&self, port: &'static str, open: usize) {
        self.connections
            .get_or_create(&OfPort { port })
            .set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(crate) fn connection_dropped(&self, port: &'static str) {
        self.connections_dropped
            .get_or_create(&OfPort { port })
            .inc();
    }

    pub(crate) fn responded(&self, port: &'static str, code: u16) {
        self.http_responses
            .get_or_create(&OfResponse { port, code })
            .inc();
    }

    pub(crate) fn token_reviewed(&self, result: &'static str) {
        self.token_reviews.get_or_create(&OfResult { result }).inc();
    }

    pub(crate) fn panicked(&self, scope: &'static str) {
        self.panics.get_or_create(&OfScope { scope }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: SettingFacts = SettingFacts {
        destination: "Webhook",
        ready: true,
        delivered: Some(true),
        suspended: false,
        pending: 0,
        oldest_pending: None,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_waits_is_summed_over_the_settings_that_are_not_suspended() {
        let metrics = Metrics::new();
        let waiting = SettingFacts {
            delivered: Some(false),
            pending: 3,
            oldest_pending: Some(at(400)),
            ..WELL
        };
        let later = SettingFacts {
            delivered: Some(true),
            oldest_pending: Some(at(700)),
            ..waiting
        };
        let suspended = SettingFacts {
            suspended: true,
            oldest_pending: Some(at(1)),
            ..waiting
        };
        let not_ready = SettingFacts {
            ready: false,
            delivered: None,
            ..WELL
        };
        for (uid, facts) in [
            ("a", waiting),
            ("b", later),
            ("c", suspended),
            ("d", not_ready),
            ("e", waiting),
        ] {
            metrics.setting_is(uid, facts);
        }
        metrics.setting_gone("e");
        let text = metrics.text(at(1_000));
        for line in [
            "shipbell_pending_events{destination=\"Webhook\"} 6",
            "shipbell_pending_events{destination=\"Slack\"} 0",
            "shipbell_oldest_pending_age_seconds{destination=\"Webhook\"} 600.0",
            "shipbell_overdue_settings{destination=\"Webhook\"} 1",
            "shipbell_settings{ready=\"true\",delivered=\"false\"} 2",
            "shipbell_settings{ready=\"true\",delivered=\"true\"} 1",
            "shipbell_settings{ready=\"false\",delivered=\"unknown\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }

    #[test]
    fn an_environment_that_is_gone_leaves_no_metric_behind() {
        let metrics = Metrics::new();
        metrics.appended("prod", (7, at(1_000)));
        metrics.frozen("prod", false);
        let text = metrics.text(at(1_000));
        let line = "shipbell_snapshot_timestamp_seconds{environment=\"prod\"} 1000.0";
        assert!(text.lines().any(|it| it == line), "{text}");
        assert_eq!(text.matches("environment=\"prod\"").count(), 4, "{text}");
        metrics.environment_gone("prod");
        assert!(!metrics.text(at(1_000)).contains("environment=\"prod\""));
    }
}
