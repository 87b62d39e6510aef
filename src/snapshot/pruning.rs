#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Removes what the log may lose: slowly, oldest first.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::{
    api::Environment,
    cluster::watch::jitter,
    metrics::Metrics,
    snapshot::{
        log::{EntryMeta, LogError, SnapshotLog},
        progress::DeliveryProgress,
        retention::{ENVIRONMENT_CAP, RetainedEntry, TOTAL_CAP, cut},
    },
};

/// Removals a second: they must not be felt.
const PER_SECOND: u32 = 5;
/// How long an Environment's word for it is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long entries are kept if the Environment doesn't say.
const MAX_AGE: Duration = Duration::from_secs(720 * 3_600);

/// What pruning needs.
pub struct Pruner {
    /// For the environments.
    pub client: Client,
    /// The log.
    pub logbook: SnapshotLog,
    /// How far the settings have got.
    pub passed: Arc<DeliveryProgress>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How often it is looked.
    pub every: Duration,
}

impl Pruner {
    /// Prunes for ever.
    pub async fn run(self) {
        loop {
            sleep(self.every + jitter(self.every / 5)).await;
            if let Err(error) = self.round().await {
                warn!(%error, "can't prune the log; trying again later");
            }
        }
    }

    async fn round(&self) -> Result<(), LogError> {
        let logs = self.logbook.all_lines().await?;
        let total: u64 = logs.values().flatten().map(|line| line.bytes).sum();
        // When all logs together are too big, each must get smaller by the same measure.
        let share = if total > TOTAL_CAP {
            ENVIRONMENT_CAP * TOTAL_CAP / total
        } else {
            ENVIRONMENT_CAP
        };
        for ((environment, uid), lines) in logs {
            self.prune(&environment, &uid, &lines, share).await?;
        }
        Ok(())
    }

    async fn prune(
        &self,
        environment: &str,
        uid: &str,
        lines: &[EntryMeta],
        cap: u64,
    ) -> Result<(), LogError> {
        // Without knowing of all settings how far they have got, nothing may go.
        if !self.passed.is_complete() {
            return Ok(());
        }
        let passed = self.passed.least(uid);
        let api: Api<Environment> = Api::all(self.client.clone());
        let living = timeout(TIMEOUT, api.get_opt(environment))
            .await
            .map_err(|_| LogError::Timeout)??;
        let living = living.filter(|found| found.uid().as_deref() == Some(uid));
        let head = lines.iter().map(|line| line.index).max().unwrap_or(0);
        let below = match living {
            Some(living) => {
                let max_age = living
                    .spec
                    .history
                    .and_then(|history| history.max_age)
                    .map_or(MAX_AGE, |span| span.0);
                let kept = |line: &EntryMeta| RetainedEntry {
                    index: line.index,
                    created: line.created,
                    bytes: line.bytes,
                    checkpoint: line.checkpoint && !line.chunk,
                };
                let log: Vec<_> = lines.iter().map(kept).collect();
                let cut = cut(&log, max_age, passed, cap, Timestamp::now());
                if let Some(below) = cut.truncated_below {
                    let lost = lines
                        .iter()
                        .filter(|line| !line.chunk && line.index < below)
                        .count();
                    warn!(
                        environment,
                        below,
                        "the log is too big; removing entries that a setting has still to pass"
                    );
                    self.metrics.truncated(lost);
                }
                cut.below
            }
            None if passed.is_none_or(|passed| passed >= head) => i64::MAX,
            None => return Ok(()), // a setting is still told what became of it
        };
        let mut gone: Vec<_> = lines.iter().filter(|line| line.index < below).collect();
        if gone.is_empty() {
            return Ok(());
        }
        // Oldest first; an entry before its chunks, so that none ever lacks one.
        gone.sort_by_key(|line| (line.index, line.chunk));
        let mut every = interval(Duration::from_secs(1) / PER_SECOND);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for line in &gone {
            every.tick().await;
            self.logbook.remove(&line.name, &line.uid).await?;
        }
        info!(environment, count = gone.len(), "pruned the log");
        Ok(())
    }
}
