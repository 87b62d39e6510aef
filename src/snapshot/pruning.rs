#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Removes old entries of the log: slowly, the oldest first.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::{
    api::{Environment, environment::EnvironmentId},
    backoff,
    metrics::Metrics,
    snapshot::{
        delivery_progress::DeliveryProgress,
        log::{EntryMeta, LogError, SnapshotLog, within},
        retention::{ENVIRONMENT_CAP, TOTAL_CAP, cut},
    },
};

/// How many entries are removed in a second, so that the API server hardly notices.
const PER_SECOND: u32 = 5;
/// How long entries are retained by default.
const MAX_AGE: Duration = Duration::from_secs(720 * 3_600);

/// What pruning needs.
pub struct Pruner {
    pub client: Client,
    pub log: SnapshotLog,
    /// How far the settings have got.
    pub progress: Arc<DeliveryProgress>,
    pub metrics: Arc<Metrics>,
    /// How long to wait between rounds.
    pub interval: Duration,
}

impl Pruner {
    /// Prunes for ever.
    pub async fn run(self) {
        loop {
            sleep(self.interval + backoff::part(self.interval / 5, backoff::random())).await;
            if let Err(error) = self.round().await {
                warn!(%error, "can't prune the log; trying again later");
            }
        }
    }

    async fn round(&self) -> Result<(), LogError> {
        let logs = self.log.all_entries().await?;
        let total: u64 = logs.values().flatten().map(|entry| entry.bytes).sum();
        // When all logs together are too big, each must shrink in proportion.
        let share = if total > TOTAL_CAP {
            ENVIRONMENT_CAP * TOTAL_CAP / total
        } else {
            ENVIRONMENT_CAP
        };
        for (environment, entries) in logs {
            self.prune(&environment, &entries, share).await?;
        }
        Ok(())
    }

    /// Removes what need not stay of one log.
    async fn prune(
        &self,
        environment: &EnvironmentId,
        entries: &[EntryMeta],
        cap: u64,
    ) -> Result<(), LogError> {
        // Nothing is removed before the progress of all settings is known.
        if !self.progress.is_complete() {
            return Ok(());
        }
        let below = self.below(environment, entries, cap).await?;
        let mut gone: Vec<_> = entries.iter().filter(|entry| entry.index < below).collect();
        if gone.is_empty() {
            return Ok(());
        }
        // Oldest first; an entry before its chunks, so that no entry lacks a chunk.
        gone.sort_by_key(|entry| (entry.index, entry.chunk));
        let mut pace = interval(Duration::from_secs(1) / PER_SECOND);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for entry in &gone {
            pace.tick().await;
            self.log.remove(&entry.name, &entry.uid).await?;
        }
        info!(
            environment = environment.name,
            count = gone.len(),
            "pruned the log"
        );
        Ok(())
    }

    /// The index below which entries of a log are removed.
    async fn below(
        &self,
        environment: &EnvironmentId,
        entries: &[EntryMeta],
        cap: u64,
    ) -> Result<i64, LogError> {
        let EnvironmentId { name, uid } = environment;
        let delivered = self.progress.least(uid);
        let api: Api<Environment> = Api::all(self.client.clone());
        let existing = within(api.get_opt(name)).await?;
        let Some(existing) = existing.filter(|found| found.uid().as_ref() == Some(uid)) else {
            let head = entries.iter().map(|entry| entry.index).max().unwrap_or(0);
            let complete = delivered.is_none_or(|delivered| delivered >= head);
            // A setting may still have to deliver it.
            return Ok(if complete { i64::MAX } else { 0 });
        };
        let max_age = existing.spec.history.and_then(|history| history.max_age);
        let max_age = max_age.map_or(MAX_AGE, |span| span.0);
        let cut = cut(entries, max_age, delivered, cap, Timestamp::now());
        if let Some(below) = cut.truncated_below {
            let lost = entries.iter().filter(|it| !it.chunk && it.index < below);
            warn!(
                environment = name,
                below, "the log is too big; removing entries that a setting still needs"
            );
            self.metrics.truncated(lost.count());
        }
        Ok(cut.below)
    }
}
