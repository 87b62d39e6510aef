//! What is counted, for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Metric, Registry},
};

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
    deliveries: Family<OfOutcome, Counter>,
    seconds: Counter<f64, AtomicU64>,
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
            deliveries: metric(all, "deliveries", "Attempts to deliver, by outcome"),
            seconds: metric(
                all,
                "delivery_seconds",
                "Time that destinations took to answer",
            ),
            registry,
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn watched(&self, kind: &'static str) {
        self.events.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn listed(&self, kind: &'static str, count: usize) {
        self.listed
            .get_or_create(&OfKind { kind })
            .inc_by(count as u64);
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

    pub(crate) fn appended(&self, environment: &str, index: i64) {
        let label = EnvironmentLabel {
            environment: environment.to_owned(),
        };
        self.snapshots.get_or_create(&label).inc();
        self.head.get_or_create(&label).set(index);
    }

    pub(crate) fn head_is(&self, environment: &str, index: i64) {
        self.head
            .get_or_create(&EnvironmentLabel {
                environment: environment.to_owned(),
            })
            .set(index);
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
    }

    pub(crate) fn truncated(&self, count: usize) {
        self.truncated.inc_by(count as u64);
    }

    pub(crate) fn delivered(&self, destination: &'static str, outcome: &'static str, seconds: f64) {
        self.deliveries
            .get_or_create(&OfOutcome {
                destination,
                outcome,
            })
            .inc();
        self.seconds.inc_by(seconds);
    }
}
