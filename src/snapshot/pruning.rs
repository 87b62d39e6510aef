#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Removes old entries of the logs: slowly, the oldest first. `retention` decides which.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::{
    api::{Environment, environment::EnvironmentId},
    backoff,
    metrics::Metrics,
    snapshot::{
        delivery_progress::DeliveryProgress,
        log::{LogError, SnapshotLog, within},
        retention::{
            LogInfo, MAX_AGE, PruneDecision, RetentionPlan, TOTAL_CAP, cut_interval, plan,
            removals_per_second,
        },
        shared_state::SharedState,
    },
};

/// After how many failures in a row a log is left for the next round.
const FAILURES: u32 = 3;

/// What pruning needs.
pub struct Pruner {
    pub client: Client,
    pub log: SnapshotLog,
    pub state: Arc<SharedState>,
    /// How far the settings have got.
    pub progress: Arc<DeliveryProgress>,
    pub metrics: Arc<Metrics>,
    /// How long to wait between rounds; a tenth of it while all logs together are too big.
    pub interval: Duration,
}

impl Pruner {
    /// Prunes for ever.
    pub async fn run(self) {
        let mut cut_intervals = BTreeMap::new();
        let mut wait = self.interval;
        loop {
            sleep(wait + backoff::part(wait / 5, backoff::random())).await;
            match self.round(&mut cut_intervals).await {
                Ok(bytes) if bytes > TOTAL_CAP => wait = self.interval / 10,
                Ok(_) => wait = self.interval,
                Err(error) => warn!(%error, "can't prune the log; trying again later"),
            }
        }
    }

    /// Prunes all logs once. Returns how many bytes stay.
    async fn round(
        &self,
        cut_intervals: &mut BTreeMap<EnvironmentId, Duration>,
    ) -> Result<u64, LogError> {
        // Nothing is removed before the progress of all settings is known.
        if !self.progress.is_complete() {
            return Ok(0);
        }
        let mut logs = BTreeMap::new();
        for (environment, mut entries) in self.log.all_entries().await? {
            let max_age = match self.max_age(&environment).await {
                Ok(max_age) => max_age,
                Err(error) => {
                    warn!(environment = environment.name, %error, "can't read an environment; its log is kept as by default");
                    Some(MAX_AGE)
                }
            };
            // What is not of the log must not decide which of its entries is the newest.
            if max_age.is_some()
                && let Err(error) = self.log.leave_out_foreign(&environment, &mut entries).await
            {
                warn!(environment = environment.name, %error, "can't read the end of a log; it is not pruned this time");
                entries.clear();
            }
            let log = LogInfo {
                entries,
                max_age,
                delivered: self.progress.least(&environment.uid),
            };
            logs.insert(environment, log);
        }
        let plan = plan(&logs, TOTAL_CAP, Timestamp::now());
        self.slow_down(&logs, &plan, cut_intervals);
        let decisions = plan.decisions.iter();
        let removed = decisions.map(|(id, decision)| gone(&logs[id], *decision).count());
        let per_second = removals_per_second(removed.sum(), self.interval);
        let mut pace = interval(Duration::from_secs(1) / per_second);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logs: Vec<_> = logs.iter().collect();
        logs.sort_by_key(|(_, log)| log.max_age.is_some()); // those of deleted environments first
        for (environment, log) in logs {
            self.prune(environment, log, plan.decisions[environment], &mut pace)
                .await;
        }
        Ok(plan.bytes)
    }

    /// Removes what need not stay of one log. What can't be removed stops nothing else.
    async fn prune(
        &self,
        environment: &EnvironmentId,
        log: &LogInfo,
        decision: PruneDecision,
        pace: &mut Interval,
    ) {
        let mut gone: Vec<_> = gone(log, decision).collect();
        if gone.is_empty() {
            return;
        }
        let name = &environment.name;
        if let Some(below) = decision.truncated_below {
            let lost = gone.iter().filter(|entry| !entry.chunk).count();
            warn!(
                environment = name,
                below, "the log is too big or too old; removing entries that a setting still needs"
            );
            self.metrics.truncated(lost);
        }
        // Oldest first; an entry before its chunks, so that no entry lacks a chunk.
        gone.sort_by_key(|entry| (entry.index, entry.chunk));
        let (mut count, mut failures) = (0, 0);
        for entry in gone {
            pace.tick().await;
            match self.log.remove(&entry.name, &entry.uid).await {
                Ok(()) => (count, failures) = (count + 1, 0),
                Err(error) => {
                    warn!(environment = name, snapshot = entry.name, %error, "can't remove a snapshot");
                    failures += 1;
                }
            }
            if failures == FAILURES {
                break;
            }
        }
        info!(environment = name, count, "pruned the log");
    }

    /// Environments that grow too fast are recorded less often.
    fn slow_down(
        &self,
        logs: &BTreeMap<EnvironmentId, LogInfo>,
        plan: &RetentionPlan,
        cut_intervals: &mut BTreeMap<EnvironmentId, Duration>,
    ) {
        cut_intervals.retain(|environment, _| logs.contains_key(environment));
        for environment in logs.keys() {
            let before = cut_intervals.get(environment).copied().unwrap_or_default();
            let is_too_fast = plan.too_fast.contains(environment);
            let next = cut_interval(before, is_too_fast, plan.bytes, TOTAL_CAP);
            if is_too_fast {
                warn!(environment = environment.name, bytes = plan.bytes, interval = ?next, "the logs are too big and nothing older can be removed; recording less often");
            }
            cut_intervals.insert(environment.clone(), next);
            self.state
                .with(|state, _| state.set_cut_interval(environment, next));
        }
    }

    /// How long the entries of an environment are retained; `None` if it was deleted.
    async fn max_age(&self, environment: &EnvironmentId) -> Result<Option<Duration>, LogError> {
        let EnvironmentId { name, uid } = environment;
        let api: Api<Environment> = Api::all(self.client.clone());
        match within(api.get_opt(name)).await {
            Ok(found) => Ok(found
                .filter(|found| found.uid().as_ref() == Some(uid))
                .map(|found| found.spec.history.and_then(|history| history.max_age))
                .map(|max_age| max_age.map_or(MAX_AGE, |span| span.0))),
            // What it holds can't be read; whether it is there can.
            Err(LogError::Api(kube::Error::SerdeError(_))) => {
                let found = within(api.get_metadata_opt(name)).await?;
                let found = found.filter(|found| found.uid().as_ref() == Some(uid));
                Ok(found.map(|_| MAX_AGE))
            }
            Err(error) => Err(error),
        }
    }
}

/// The entries that a decision removes.
fn gone(
    log: &LogInfo,
    decision: PruneDecision,
) -> impl Iterator<Item = &crate::snapshot::log::EntryMeta> {
    let entries = log.entries.iter();
    entries.filter(move |entry| entry.index < decision.below)
}
