#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Keeps the log of every environment: one task each reads it, asks the world for a plan and appends what is ripe.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{TryStreamExt as _, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        events::{Event, EventType, Recorder as Events},
        watcher::{self, watcher},
    },
};
use serde_json::json;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    api::{
        Environment, EnvironmentSnapshotSpec, EnvironmentStatus,
        condition::{self, READY, RECONCILING, Statement},
        environment::Head,
        snapshot::Cause,
    },
    cluster::watch::jitter,
    metrics::Metrics,
    snapshot::{
        cut::Entry,
        environment_status,
        environments::{EnvironmentInfo, Environments},
        event,
        ledger::Ledger,
        log::{self, Appended, LogError, SnapshotLog, within},
        settle::Settle,
        shared::SharedState,
        state::Plan,
    },
};

/// No entry is written on a head that was read longer ago: a writer that stood still must not fill a name that was
/// pruned meanwhile.
const HEAD_FRESH: Duration = Duration::from_secs(60);
/// Snapshots of all environments together, per second.
const APPENDS_PER_SECOND: u32 = 20;
/// Writes of an environment's status are at least so far apart.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// A head is looked for in so many entries after the one known last; then a list tells.
const STEPS: i64 = 32;
/// So long the first append waits for the cursors of settings at most.
const CURSORS: Duration = Duration::from_secs(15);

/// What recording needs.
#[derive(Clone)]
pub struct Recorder {
    /// For the environments and their status.
    pub client: Client,
    /// The world.
    pub hub: Arc<SharedState>,
    /// The log.
    pub logbook: SnapshotLog,
    /// What delivery is told.
    pub environments: Arc<Environments>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The operator's own namespace: who may see an environment that doesn't say.
    pub namespace: String,
    /// Opens when the settings that exist at start have their cursors: no entry before that.
    pub cursors_ready: tokio::sync::watch::Receiver<bool>,
    /// Spreads appends over time.
    pub bucket: Arc<WriteBudget>,
    /// Kubernetes Events on environments.
    pub events: Events,
    /// Ends recording.
    pub stop: CancellationToken,
}

/// Lets so many a second pass, in the order in which they come.
#[derive(Debug)]
pub struct WriteBudget {
    next: Mutex<Instant>,
    interval: Duration,
}

impl Default for WriteBudget {
    fn default() -> Self {
        Self {
            next: Mutex::new(Instant::now()),
            interval: Duration::from_secs(1) / APPENDS_PER_SECOND,
        }
    }
}

impl WriteBudget {
    async fn pass(&self) {
        let at = {
            let mut next = self.next.lock().await;
            // A burst of one second's worth may pass at once.
            let at = (*next).max(Instant::now() - Duration::from_secs(1));
            *next = at + self.interval;
            at
        };
        sleep_until(at).await;
    }
}

struct EnvironmentRecorder {
    stop: CancellationToken,
    uid: String,
}

impl Recorder {
    /// Follows the environments, and keeps the log of each, until it is stopped.
    pub async fn run(self) {
        let mut set_backs = self.hub.set_backs();
        let tasks = TaskTracker::new();
        let mut keepers: BTreeMap<String, EnvironmentRecorder> = BTreeMap::new();
        loop {
            let stopped = tokio::select! {
                () = self.follow(&mut keepers, &tasks) => true,
                () = self.stop.cancelled() => true,
                _ = set_backs.changed() => false,
            };
            for keeper in std::mem::take(&mut keepers).into_values() {
                keeper.stop.cancel();
            }
            if stopped {
                return;
            }
            // Nothing that was under way when the store was set back must be taken for true afterwards.
            tasks.close();
            tasks.wait().await;
            tasks.reopen();
            self.hub.with(|world, _| world.set_back());
            self.logbook.forget();
            self.environments.begin_anew();
        }
    }

    async fn follow(
        &self,
        keepers: &mut BTreeMap<String, EnvironmentRecorder>,
        tasks: &TaskTracker,
    ) {
        let api: Api<DeserializeGuard<Environment>> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(events);
        let mut listed: Option<Vec<String>> = None;
        loop {
            match events.try_next().await {
                Ok(None) => return,
                Err(error) => warn!(%error, "can't follow the environments; trying again"),
                Ok(Some(watcher::Event::Init)) => listed = Some(vec![]),
                Ok(Some(watcher::Event::InitApply(guarded))) => {
                    if let Some(listed) = &mut listed {
                        listed.push(guarded.name_any());
                    }
                    self.seen(guarded, keepers, tasks);
                }
                Ok(Some(watcher::Event::Apply(guarded))) => self.seen(guarded, keepers, tasks),
                Ok(Some(watcher::Event::Delete(guarded))) => {
                    self.gone(&guarded.name_any(), keepers);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    let there = listed.take().unwrap_or_default();
                    let all = self.environments.all();
                    let known = all.keys().cloned();
                    let gone: Vec<_> = known.filter(|name| !there.contains(name)).collect();
                    for name in gone {
                        self.gone(&name, keepers);
                    }
                    self.environments.set_listed();
                }
            }
        }
    }

    fn seen(
        &self,
        guarded: DeserializeGuard<Environment>,
        keepers: &mut BTreeMap<String, EnvironmentRecorder>,
        tasks: &TaskTracker,
    ) {
        let name = guarded.name_any();
        let environment = match guarded.0 {
            Ok(environment) => environment,
            Err(invalid) => {
                warn!(
                    environment = name,
                    error = invalid.error,
                    "the environment can't be read; its last good state is kept"
                );
                return;
            }
        };
        let Some(uid) = environment.uid() else { return };
        let visible_to = environment
            .spec
            .visible_to
            .clone()
            .unwrap_or_else(|| vec![self.namespace.clone()]);
        let known = EnvironmentInfo {
            uid: uid.clone(),
            generation: environment.metadata.generation.unwrap_or(1),
            created: environment.creation_timestamp().map(|time| time.0),
            visible_to,
            head: None,
        };
        self.environments.put(&name, known);
        self.hub
            .with(|world, now| world.environment_seen(&name, &uid, &environment.spec, now));
        if keepers.get(&name).is_none_or(|keeper| keeper.uid != uid) {
            if let Some(old) = keepers.remove(&name) {
                old.stop.cancel();
            }
            let stop = self.stop.child_token();
            keepers.insert(
                name.clone(),
                EnvironmentRecorder {
                    stop: stop.clone(),
                    uid: uid.clone(),
                },
            );
            let task = Task {
                bell: self.hub.bell(&name),
                head_hint: environment
                    .status
                    .as_ref()
                    .and_then(|status| Some(status.head.as_ref()?.index)),
                status: environment.status.clone().unwrap_or_default(),
                generation: environment.metadata.generation,
                rollout: Settle::of(environment.spec.settle.as_ref()).rollout,
                status_due: Instant::now(),
                frozen_since: None,
                lost: 0,
                recorder: self.clone(),
                name,
                uid,
            };
            tasks.spawn(async move {
                tokio::select! {
                    () = task.run() => {}
                    () = stop.cancelled() => {}
                }
            });
        } else {
            self.hub.bell(&name).notify_one();
        }
    }

    fn gone(&self, name: &str, keepers: &mut BTreeMap<String, EnvironmentRecorder>) {
        let Some(known) = self.environments.get(name) else {
            return;
        };
        info!(
            environment = name,
            "the environment is gone; its log is removed when no setting waits for it"
        );
        if let Some(keeper) = keepers.remove(name) {
            keeper.stop.cancel();
        }
        self.hub
            .with(|world, _| world.environment_gone(name, &known.uid));
        self.environments.remove(name);
        self.metrics.environment_gone(name);
    }
}

/// Keeps the log of one environment.
struct Task {
    recorder: Recorder,
    name: String,
    uid: String,
    bell: Arc<Notify>,
    head_hint: Option<i64>,
    /// The status that was written last.
    status: EnvironmentStatus,
    generation: Option<i64>,
    rollout: Duration,
    status_due: Instant,
    frozen_since: Option<Instant>,
    /// How often in a row another entry had the name of ours.
    lost: u32,
}

impl Task {
    async fn run(mut self) {
        let mut pause = Duration::from_millis(500);
        loop {
            match self.turn().await {
                // That the log can be read doesn't show that it can be written.
                Ok(well) if well => pause = Duration::from_millis(500),
                Ok(_) => {}
                Err(error) => {
                    let reason = if error.is_forbidden() {
                        "LogForbidden"
                    } else {
                        "LogUnavailable"
                    };
                    warn!(environment = self.name, %error, "can't keep the log; trying again");
                    self.report(Some((reason, error.to_string()))).await;
                    // What was tried may have been carried out: the log tells.
                    self.recorder
                        .hub
                        .with(|world, _| world.log_is_stale(&self.name, &self.uid));
                    sleep(pause + jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(30));
                }
            }
        }
    }

    /// One look at the plan, and what follows from it. True if all that was to be written is.
    async fn turn(&mut self) -> Result<bool, LogError> {
        let hub = self.recorder.hub.clone();
        let plan = hub.with(|world, now| world.plan(&self.name, now, Timestamp::now()));
        let mut well = true;
        let (wait, owed) = match plan {
            Plan::Frozen("ReadingLog", _) => {
                self.read_log().await?;
                return Ok(false);
            }
            Plan::Frozen(reason, why) => {
                well = false;
                let owed = self.report(Some((reason, why))).await;
                (Some(Instant::now() + Duration::from_secs(5)), owed)
            }
            Plan::Wait(until) => {
                let owed = self.report(None).await;
                (until.map(|moment| hub.instant(moment)), owed)
            }
            Plan::Append(draft) => {
                self.wait_for_cursors(&draft.entries).await;
                if !self.head_is_head().await? {
                    info!(
                        environment = self.name,
                        "someone else appended to the log; reading it again"
                    );
                    hub.with(|world, _| world.log_is_stale(&self.name, &self.uid));
                    return Ok(false);
                }
                for entry in draft.entries {
                    if !self.append(entry).await? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
        };
        // A status that had to wait for its turn is a reason to wake up, too.
        let until = [wait, owed].into_iter().flatten().min();
        let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(30));
        let _ = timeout_at(until, self.bell.notified()).await;
        Ok(well)
    }

    /// Cursors of settings that exist already are placed before anything new is recorded, or it would be missed.
    async fn wait_for_cursors(&mut self, entries: &[Entry]) {
        let baseline = entries
            .first()
            .is_some_and(|entry| entry.spec.causes.contains(&Cause::Baseline));
        if !baseline && !*self.recorder.cursors_ready.borrow() {
            let limit = Instant::now() + CURSORS;
            let _ = timeout_at(limit, self.recorder.cursors_ready.wait_for(|ready| *ready)).await;
        }
    }

    /// Whether the head that we know is surely the head.
    async fn head_is_head(&mut self) -> Result<bool, LogError> {
        let hub = &self.recorder.hub;
        let Some((ledger, at)) = hub.with(|world, _| world.head_read(&self.name)) else {
            return Ok(true);
        };
        if hub.now().saturating_sub(at) <= HEAD_FRESH {
            return Ok(true);
        }
        let now = hub.now();
        let ours = self
            .recorder
            .logbook
            .read_anew(&self.name, &self.uid, ledger.index)
            .await?;
        let next = self
            .recorder
            .logbook
            .read_anew(&self.name, &self.uid, ledger.index + 1)
            .await?;
        let is_head = ours.is_some_and(|hash| hash == ledger.content_hash) && next.is_none();
        if is_head {
            hub.with(|world, _| world.head_confirmed(&self.name, now));
        }
        Ok(is_head)
    }

    /// Appends an entry; false if the log has to be read again.
    async fn append(&mut self, entry: Entry) -> Result<bool, LogError> {
        let Recorder {
            hub,
            logbook,
            environments,
            metrics,
            bucket,
            ..
        } = self.recorder.clone();
        bucket.pass().await;
        let spec = &entry.spec;
        match logbook.append(&entry).await? {
            Appended::Done => {
                self.lost = 0;
                hub.with(|world, now| {
                    world.appended(&self.name, &self.uid, entry.after.clone(), now);
                });
                environments.set_head(&self.name, &self.uid, (spec.index, spec.time));
                metrics.appended(&self.name, spec.index);
                let events: Vec<_> = spec
                    .events
                    .iter()
                    .map(|event| event.type_.as_str())
                    .collect();
                info!(environment = self.name, index = spec.index, causes = ?spec.causes, ?events, "appended");
                self.publish(spec);
                Ok(true)
            }
            Appended::Taken(uid) if uid == self.uid => {
                info!(
                    environment = self.name,
                    index = spec.index,
                    "someone else appended to the log; reading it again"
                );
                hub.with(|world, _| world.log_is_stale(&self.name, &self.uid));
                self.give_way().await;
                Ok(false)
            }
            Appended::Taken(uid) => {
                // A leftover of a deleted environment, or we are the leftover: the API server knows who lives.
                let api: Api<Environment> = Api::all(self.recorder.client.clone());
                let living = within(api.get_opt(&self.name))
                    .await?
                    .and_then(|environment| environment.uid());
                if living.as_deref() == Some(self.uid.as_str()) {
                    warn!(
                        environment = self.name,
                        index = spec.index,
                        "removing an entry of a deleted environment of this name"
                    );
                    logbook
                        .remove_leftover(&self.name, spec.index, &uid)
                        .await?;
                    self.give_way().await;
                } else {
                    sleep(Duration::from_secs(1)).await; // the watch will tell
                }
                Ok(false)
            }
        }
    }

    /// Records a Kubernetes Event for each turn of the environment's compliance, without waiting for it.
    fn publish(&self, spec: &EnvironmentSnapshotSpec) {
        for told in spec
            .events
            .iter()
            .filter(|told| told.type_.is_of_environment())
        {
            let (type_, reason) = match told.type_ {
                crate::api::EventType::EnvironmentCompliant => (EventType::Normal, "Compliant"),
                _ => (EventType::Warning, "NonCompliant"),
            };
            let note = format!(
                "snapshot {}: {}",
                spec.index,
                event::description(spec, told)
            );
            let event = Event {
                type_,
                reason: reason.to_owned(),
                note: Some(note.chars().take(1_000).collect()),
                action: "Assess".to_owned(),
                secondary: None,
            };
            let reference = ObjectReference {
                api_version: Some("shipbell.dev/v1alpha1".to_owned()),
                kind: Some("Environment".to_owned()),
                name: Some(self.name.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            };
            let (events, name) = (self.recorder.events.clone(), self.name.clone());
            tokio::spawn(async move {
                match timeout(Duration::from_secs(15), events.publish(&event, &reference)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        warn!(environment = name, %error, "can't record a Kubernetes Event");
                    }
                    Err(_) => warn!(
                        environment = name,
                        "no answer when recording a Kubernetes Event"
                    ),
                }
            });
        }
    }

    /// Waits a moment after someone else took the name of an entry, longer if that happens again and again.
    async fn give_way(&mut self) {
        let pause = Duration::from_millis(50) * 2_u32.pow(self.lost.min(8));
        self.lost = self.lost.saturating_add(1);
        sleep(jitter(pause)).await;
    }

    /// Reads the log: its head, and the state after it.
    async fn read_log(&mut self) -> Result<(), LogError> {
        let Recorder {
            hub,
            logbook,
            environments,
            metrics,
            ..
        } = self.recorder.clone();
        let begun = hub.now();
        let Some(head) = self.find_head().await? else {
            hub.with(|world, _| world.log_is_blank(&self.name, &self.uid, None, Cause::Baseline));
            return Ok(());
        };
        self.head_hint = Some(head);
        let replay = logbook.replay(&self.name, &self.uid, head).await?;
        let ledger = replay.and_then(|replay| {
            let ledger = hub.with(|world, _| replay.ledger(self.rollout, world.fleet_mut()));
            ledger.map_err(|error| error.to_string())
        });
        match ledger {
            Ok(ledger) => {
                environments.set_head(&self.name, &self.uid, (ledger.index, ledger.time));
                metrics.head_is(&self.name, ledger.index);
                info!(environment = self.name, head = ledger.index, "read the log");
                hub.with(|world, _| {
                    world.log_is_read(&self.name, &self.uid, Arc::new(ledger), begun);
                });
            }
            Err(why) => {
                error!(environment = self.name, head, %why, "the log can't be built on; what runs now counts as known");
                let Some(spec) = logbook.read(&self.name, &self.uid, head).await? else {
                    return Err(LogError::Vanished(log::name(&self.name, head)));
                };
                let mut end = Ledger::empty(crate::cluster::scope::Scope::default());
                (end.index, end.time) = (spec.index, spec.time);
                end.content_hash.clone_from(&spec.content_hash);
                end.compliance = spec.compliance.clone();
                environments.set_head(&self.name, &self.uid, (end.index, end.time));
                hub.with(|world, _| {
                    world.log_is_blank(&self.name, &self.uid, Some(end), Cause::HistoryLost);
                });
            }
        }
        Ok(())
    }

    /// The number of the newest entry. What the status or an earlier reading says is a hint; it holds if that entry is
    /// there, and the head is then found by going on from it.
    async fn find_head(&mut self) -> Result<Option<i64>, LogError> {
        let logbook = &self.recorder.logbook;
        if let Some(hint) = self.head_hint.take() {
            let mut head = None;
            for index in hint..hint + STEPS {
                let there = logbook.read_anew(&self.name, &self.uid, index).await?;
                match (there, head) {
                    (Some(_), _) => head = Some(index),
                    (None, Some(_)) => return Ok(head),
                    (None, None) => break,
                }
            }
        }
        let entries = logbook.entries(&self.name, &self.uid).await?;
        Ok(entries.last().map(|entry| entry.index))
    }

    /// The status as it should be. `None` while the environment is not known any more.
    fn wanted_status(&self, frozen: Option<&(&'static str, String)>) -> Option<EnvironmentStatus> {
        let picture = self
            .recorder
            .hub
            .with(|world, _| world.picture(&self.name))?;
        let generation = self
            .recorder
            .environments
            .get(&self.name)
            .map(|known| known.generation)
            .or(self.generation);
        let now = Timestamp::now();
        let mut status = EnvironmentStatus {
            observed_generation: generation,
            ..self.status.clone()
        };
        if let Some((index, time)) = picture.head {
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            status.head = Some(Head {
                index,
                name: log::name(&self.name, index),
                time,
            });
            status.artifacts = Some(picture.totals.artifacts);
            status.instances = Some(picture.totals.instances);
            status.unidentified = Some(count(picture.unidentified));
            status.compliance = Some(picture.compliance.state.as_str().to_owned());
            status.pending_until = picture.compliance.pending_until;
            status.reasons = environment_status::reasons(&picture);
            let compliant = environment_status::statement(&picture);
            condition::set(&mut status.conditions, &compliant, generation, now);
        }
        let ready = match frozen {
            Some((reason, why)) => Statement {
                type_: READY,
                status: Some(false),
                reason,
                message: format!("Nothing is recorded until this heals: {why}"),
            },
            None => Statement {
                type_: READY,
                status: Some(true),
                reason: "Recording",
                message: match picture.unidentified {
                    0 => "What runs is known and recorded.".to_owned(),
                    count => format!(
                        "What runs is known and recorded, but for {count} containers whose image has no digest yet."
                    ),
                },
            },
        };
        condition::set(&mut status.conditions, &ready, generation, now);
        let moments = self
            .frozen_since
            .is_some_and(|since| since.elapsed() < Duration::from_secs(120));
        if frozen.is_some() && moments {
            let healing = Statement {
                type_: RECONCILING,
                status: Some(true),
                reason: "Healing",
                message: String::new(),
            };
            condition::set(&mut status.conditions, &healing, generation, now);
        } else {
            condition::remove(&mut status.conditions, RECONCILING);
        }
        Some(status)
    }

    /// Writes the status if it says something new, and not too often. When it is to be tried again, if it still owes that.
    async fn report(&mut self, frozen: Option<(&'static str, String)>) -> Option<Instant> {
        self.recorder.metrics.frozen(&self.name, frozen.is_some());
        match (&frozen, self.frozen_since) {
            (Some(_), None) => self.frozen_since = Some(Instant::now()),
            (None, Some(_)) => self.frozen_since = None,
            _ => {}
        }
        let status = self.wanted_status(frozen.as_ref())?;
        if status == self.status {
            return None;
        }
        if Instant::now() < self.status_due {
            return Some(self.status_due);
        }
        let api: Api<Environment> = Api::all(self.recorder.client.clone());
        let patch = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": self.name, "uid": self.uid}, "status": status,
        });
        let params = PatchParams::apply("shipbell").force();
        let limit = Instant::now() + Duration::from_secs(15);
        match timeout_at(
            limit,
            api.patch_status(&self.name, &params, &Patch::Apply(patch)),
        )
        .await
        {
            Ok(Ok(_)) => {
                self.status = status;
                self.status_due = Instant::now() + STATUS_INTERVAL;
                return None;
            }
            Ok(Err(kube::Error::Api(gone))) if gone.code == 404 || gone.code == 409 => {}
            Ok(Err(error)) => {
                warn!(environment = self.name, %error, "can't write the environment's status");
            }
            Err(_) => warn!(
                environment = self.name,
                "no answer when writing the environment's status"
            ),
        }
        self.status_due = Instant::now() + STATUS_INTERVAL;
        Some(self.status_due)
    }
}
