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
#[derive(Clone)]
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

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        http::{Method, StatusCode, Uri},
    };
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tokio::{
        spawn,
        sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        time::Instant,
    };

    use super::*;
    use crate::{
        api::{ENVIRONMENT_LABEL, EnvironmentSnapshotSpec},
        simulation::{Cluster, empty_state, seconds, testing::snapshot},
        snapshot::{
            log::{CHECKPOINT_LABEL, SIZE_ANNOTATION, UID_LABEL, name},
            state::Plan,
        },
        time::Moment,
    };

    const LONG_AGO: &str = "2020-01-01T00:00:00Z";

    /// An API server that has snapshots and environments.
    struct ApiServer {
        snapshots: Mutex<BTreeMap<String, Value>>,
        /// What was to be deleted.
        deleted: Mutex<Vec<String>>,
        /// When the snapshots were listed.
        listed: UnboundedSender<Instant>,
    }

    /// An environment that exists, with a UID as in a simulated cluster.
    fn id(name: &str) -> EnvironmentId {
        EnvironmentId::new(name, format!("{name}-0"))
    }

    /// A snapshot that says that it is of this environment.
    fn entry(id: &EnvironmentId, index: i64, created: &str, checkpoint: bool) -> (String, Value) {
        let EnvironmentId { name: of, uid } = id;
        let name = name(of, index);
        let mut labels = BTreeMap::from([(ENVIRONMENT_LABEL, of.as_str()), (UID_LABEL, uid)]);
        if checkpoint {
            labels.insert(CHECKPOINT_LABEL, "true");
        }
        let spec = EnvironmentSnapshotSpec {
            environment: of.clone(),
            environment_uid: uid.clone(),
            ..snapshot(index, &[])
        };
        let object = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "EnvironmentSnapshot", "spec": spec,
            "metadata": {
                "name": name, "uid": format!("uid of {name}"), "resourceVersion": "7",
                "creationTimestamp": created, "labels": labels,
                "annotations": {SIZE_ANNOTATION: "1500000"},
            },
        });
        (name, object)
    }

    impl ApiServer {
        /// The one with these snapshots, and when they are listed.
        fn with(
            snapshots: impl IntoIterator<Item = (String, Value)>,
        ) -> (Arc<Self>, UnboundedReceiver<Instant>) {
            let (listed, lists) = unbounded_channel();
            let server = Self {
                snapshots: Mutex::new(snapshots.into_iter().collect()),
                deleted: Mutex::default(),
                listed,
            };
            (Arc::new(server), lists)
        }

        fn answer(&self, method: &Method, uri: &Uri) -> (StatusCode, String) {
            let path = uri.path().rsplit('/');
            let path: Vec<&str> = path.collect();
            let (fails, none) = (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_FOUND);
            let found = match path[..] {
                ["environmentsnapshots", ..] => Ok(self.list()),
                [name, "environmentsnapshots", ..] if *method == Method::DELETE => {
                    self.deleted.lock().push(name.to_owned());
                    match name.starts_with("stuck-") {
                        true => Err(fails),
                        false => self.snapshots.lock().remove(name).ok_or(none),
                    }
                }
                [name, "environmentsnapshots", ..] if name.starts_with("blurred-") => Err(fails),
                [name, "environmentsnapshots", ..] => {
                    self.snapshots.lock().get(name).cloned().ok_or(none)
                }
                ["unread", "environments", ..] => Err(fails),
                ["gone", "environments", ..] => Err(none),
                [name, "environments", ..] => Ok(json!({
                    "apiVersion": "shipbell.dev/v1alpha1", "kind": "Environment",
                    "metadata": {"name": name, "uid": id(name).uid},
                    "spec": match name {
                        "garbled" => json!("what can't be read"),
                        "short" => json!({"history": {"maxAge": "1h"}}),
                        _ => json!({}),
                    },
                })),
                _ => Err(none),
            };
            let failure = |code: StatusCode| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": if code == none { "NotFound" } else { "InternalError" }, "message": "none"});
            match found {
                Ok(found) => (StatusCode::OK, found.to_string()),
                Err(code) => (code, failure(code).to_string()),
            }
        }

        fn list(&self) -> Value {
            let snapshots = self.snapshots.lock();
            let metadata = snapshots.values().map(|object| &object["metadata"]);
            let items: Vec<Value> = metadata
                .map(|metadata| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}))
                .collect();
            let _ = self.listed.send(Instant::now());
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "9"}, "items": items})
        }

        fn pruner(self: &Arc<Self>, state: Arc<SharedState>) -> Pruner {
            let server = self.clone();
            let answers = async move |method: Method, uri: Uri| server.answer(&method, &uri);
            let client = Client::new(Router::new().fallback(answers), "default");
            let progress = DeliveryProgress::default();
            progress.set_complete(true);
            Pruner {
                log: SnapshotLog::new(client.clone()),
                client,
                state,
                progress: Arc::new(progress),
                metrics: Arc::new(Metrics::new()),
                interval: seconds(600),
            }
        }
    }

    fn nobody() -> Arc<SharedState> {
        SharedState::new(empty_state(true, Moment::ZERO))
    }

    /// Snapshots of 300 MB that are too young to be removed.
    fn too_much(id: &EnvironmentId) -> impl Iterator<Item = (String, Value)> {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        (1..=200).map(move |index| entry(id, index, &now.to_string(), true))
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_pruned_keeps_no_other_from_being_pruned() {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let recent = now.checked_sub(seconds(100 * 3_600)).unwrap().to_string();
        let names = [
            "blurred", "foreign", "garbled", "gone", "short", "stuck", "unread", "well",
        ];
        let mut snapshots = BTreeMap::new();
        for name in names {
            let id = id(name);
            // With checkpoints in 1, 5 and 6.
            let old = (1..=4).map(|index| entry(&id, index, LONG_AGO, index == 1));
            let new = (5..=6).map(|index| entry(&id, index, &recent, true));
            snapshots.extend(old.chain(new));
        }
        // It has the labels of a log of which it is not.
        let (name, mut foreign) = entry(&id("foreign"), 99, LONG_AGO, true);
        foreign["spec"]["environment"] = "other".into();
        snapshots.insert(name, foreign);
        let (server, _lists) = ApiServer::with(snapshots);
        let pruner = server.pruner(nobody());
        pruner.progress.set_complete(false);
        let mut intervals = BTreeMap::new();
        assert_eq!(pruner.round(&mut intervals).await.unwrap(), 0);
        assert_eq!(
            *server.deleted.lock(),
            [""; 0],
            "a setting that is not known yet may need them"
        );
        pruner.progress.set_complete(true);
        pruner.round(&mut intervals).await.unwrap();
        let deleted: Vec<String> = [
            ("gone", 1..=6),
            ("foreign", 1..=4),
            ("garbled", 1..=4),
            ("short", 1..=5),
            ("stuck", 1..=3),
            ("unread", 1..=4),
            ("well", 1..=4),
        ]
        .into_iter()
        .flat_map(|(environment, indices)| indices.map(|index| self::name(environment, index)))
        .collect();
        assert_eq!(*server.deleted.lock(), deleted);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_between_rounds_is_a_tenth_while_all_logs_together_are_too_big() {
        let (server, mut lists) = ApiServer::with(too_much(&id("busy")));
        let mut before = Instant::now();
        let mut pause = async || {
            let listed = lists.recv().await.unwrap();
            listed - std::mem::replace(&mut before, listed)
        };
        let running = spawn(server.pruner(nobody()).run());
        let (long, short) = (seconds(600)..=seconds(720), seconds(60)..=seconds(72));
        assert!(long.contains(&pause().await));
        assert!(short.contains(&pause().await));
        // Only the newest are left: the next round finds it small.
        let newest = name("busy", 191);
        let is_new = |name: &String, _: &mut Value| *name >= newest;
        server.snapshots.lock().retain(is_new);
        assert!(
            short.contains(&pause().await),
            "this one follows a round that found it too big"
        );
        assert!(long.contains(&pause().await));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_environment_that_makes_the_logs_too_big_is_recorded_less_often() {
        let mut cluster = Cluster::new();
        cluster.start("web", &["v1"], 1);
        let (now, wall) = (cluster.now, cluster.wall());
        let id = id("prod");
        assert_eq!(cluster.state.uid("prod"), Some(id.uid.as_str()));
        let (server, _lists) = ApiServer::with(too_much(&id));
        let pruner = server.pruner(SharedState::new(cluster.state));
        let mut intervals = BTreeMap::from([(id.clone(), seconds(60))]);
        assert!(pruner.round(&mut intervals).await.unwrap() > TOTAL_CAP);
        assert_eq!(intervals[&id], seconds(120));
        let plan = pruner.state.with(|state, _| state.plan("prod", now, wall));
        // Its first snapshot was recorded a minute ago.
        let is_later = matches!(plan, Plan::Wait(Some(until)) if until == now + seconds(60));
        assert!(is_later, "{plan:?}");
    }
}
