//! What one setting adds to the metrics, for as long as it has a worker.

use std::sync::Arc;

use crate::{
    api::condition::{self, DELIVERED, READY},
    delivery::setting_state::SettingState,
    metrics::{Metrics, SettingFacts},
};

/// The metrics of one setting.
#[derive(Debug)]
pub(crate) struct SettingMetrics {
    metrics: Arc<Metrics>,
    uid: String,
    said: Option<SettingFacts>,
    dead_lettered: i64,
}

impl SettingMetrics {
    pub fn new(metrics: Arc<Metrics>, uid: &str, state: &SettingState) -> Self {
        Self {
            metrics,
            uid: uid.to_owned(),
            said: None,
            dead_lettered: state.status().dead_lettered.unwrap_or(0),
        }
    }

    /// Takes in what the status says now.
    pub fn update(&mut self, state: &SettingState) {
        let status = state.status();
        let is = |type_, value| {
            condition::find(&status.conditions, type_).is_some_and(|it| it.status == value)
        };
        let delivered = match (is(DELIVERED, "True"), is(DELIVERED, "False")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let facts = SettingFacts {
            destination: state.kind().as_str(),
            ready: is(READY, "True"),
            delivered,
            suspended: state.is_suspended(),
            pending: status.pending.unwrap_or(0),
            oldest_pending: status.oldest_pending_time,
        };
        if self.said != Some(facts) {
            self.metrics.setting_is(&self.uid, facts);
            self.said = Some(facts);
        }
        let count = status.dead_lettered.unwrap_or(0);
        if let Ok(more) = u64::try_from(count - self.dead_lettered)
            && more > 0
        {
            self.metrics.dead_lettered(facts.destination, more);
        }
        self.dead_lettered = count;
    }
}

impl Drop for SettingMetrics {
    fn drop(&mut self) {
        self.metrics.setting_gone(&self.uid);
    }
}
