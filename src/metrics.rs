//! What is counted, for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
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
    snapshots: Family<OfEnvironment, Counter>,
    head: Family<OfEnvironment, Gauge>,
    frozen: Family<OfEnvironment, Gauge>,
    truncated: Counter,
    deliveries: Family<OfOutcome, Counter>,
    seconds: Counter<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEnvironment {
    environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    destination: &'static str,
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("shipbell"),
            events: Family::default(),
            listed: Family::default(),
            failures: Family::default(),
            warnings: Counter::default(),
            index_mismatches: Counter::default(),
            snapshots: Family::default(),
            head: Family::default(),
            frozen: Family::default(),
            truncated: Counter::default(),
            deliveries: Family::default(),
            seconds: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "watch_events",
            "Events read from watches",
            metrics.events.clone(),
        );
        registry.register(
            "listed_objects",
            "Objects read from lists",
            metrics.listed.clone(),
        );
        registry.register(
            "watch_failures",
            "Lists and watches that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "unreadable_or_unidentified",
            "Objects and images that were warned of",
            metrics.warnings.clone(),
        );
        registry.register(
            "index_mismatch",
            "Running counts that were found wrong; always 0",
            metrics.index_mismatches.clone(),
        );
        registry.register("snapshots", "Snapshots appended", metrics.snapshots.clone());
        registry.register(
            "head_index",
            "The number of the newest snapshot",
            metrics.head.clone(),
        );
        registry.register(
            "frozen",
            "1 while nothing can be said of an environment",
            metrics.frozen.clone(),
        );
        registry.register(
            "history_truncated",
            "Snapshots removed though a setting had still to pass them",
            metrics.truncated.clone(),
        );
        registry.register(
            "deliveries",
            "Attempts to deliver, by what came of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "delivery_seconds",
            "Time that destinations took to answer",
            metrics.seconds.clone(),
        );
        metrics
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
        let label = OfEnvironment {
            environment: environment.to_owned(),
        };
        self.snapshots.get_or_create(&label).inc();
        self.head.get_or_create(&label).set(index);
    }

    pub(crate) fn head_is(&self, environment: &str, index: i64) {
        self.head
            .get_or_create(&OfEnvironment {
                environment: environment.to_owned(),
            })
            .set(index);
    }

    pub(crate) fn frozen(&self, environment: &str, frozen: bool) {
        self.frozen
            .get_or_create(&OfEnvironment {
                environment: environment.to_owned(),
            })
            .set(i64::from(frozen));
    }

    pub(crate) fn environment_gone(&self, environment: &str) {
        let label = OfEnvironment {
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
