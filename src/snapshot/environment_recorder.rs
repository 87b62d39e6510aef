#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Keeps the log of one environment: reads it, asks the state for a plan, appends what is ready, reports in the status.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, runtime::events::EventType};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    api::{
        Environment, EnvironmentSnapshotSpec, EnvironmentStatus, environment::EnvironmentId,
        snapshot::Cause,
    },
    backoff::{self, Backoff},
    cluster::{
        custom_resource_status::{StatusWriteResult, apply_status},
        kubernetes_events::{Repeated, reference},
        pod_view,
        scope::Scope,
    },
    snapshot::{
        cut::Entry,
        environment_status::{StatusInput, new_status},
        event,
        ledger::Ledger,
        log::{self, Appended, LogError, within},
        reasons::EnvironmentEventReason,
        recorder_context::RecorderContext,
        reduced_entry::reduce,
        settle::SettleTimes,
        state::{Frozen, FrozenReason, Plan},
    },
};

/// How many times the time that a plan took passes before news may lead to another one: a busy cluster has thousands of news a
/// second, and plans are to take no more than a twentieth of a core.
const BETWEEN_PLANS: u32 = 20;
/// At most how long that is: no longer than the shortest time between two snapshots.
const LONGEST_BETWEEN_PLANS: Duration = Duration::from_millis(100);
/// Less can't be waited for exactly: plans that take less than a twentieth of it follow each other as news come.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// How long a head that was read counts as the head. Without a limit a writer that stood still could fill a name that was
/// pruned meanwhile.
const HEAD_FRESH: Duration = Duration::from_secs(60);
/// How long to wait between writes of a status, at least.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// At most how long to wait after one that failed.
const LONGEST_STATUS_PAUSE: Duration = Duration::from_secs(30);
/// At most how long before one that somebody else has changed is written again, if that happens again and again.
const LONGEST_REPAIR_PAUSE: Duration = Duration::from_secs(60);
/// How long a status counts as refused: what refused it may be gone.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// How many entries after the one known last are tried one by one to find the head, before all are listed.
const STEPS: i64 = 32;
/// How many entries that another replica has appended are applied one by one, before the whole log is read.
const FOLLOWED: i64 = 32;
/// How long the first append waits for the cursors of settings, at most.
const CURSORS: Duration = Duration::from_secs(15);
/// How long to wait for a change that nobody announces, at most.
const IDLE: Duration = Duration::from_secs(30);
/// How long a log that can't be kept counts as recovering.
const RECOVERING: Duration = Duration::from_secs(120);

/// Keeps the log of one environment.
pub(crate) struct EnvironmentRecorder {
    context: RecorderContext,
    environment: EnvironmentId,
    changed: Arc<Notify>,
    /// Where the log may end, as the status says.
    head_hint: Option<i64>,
    /// The status that was written last.
    status: EnvironmentStatus,
    /// The version of the object up to which it is known what its status says.
    version: u64,
    /// The status as the watch shows it.
    shown: watch::Receiver<ShownStatus>,
    /// Somebody else has written over it: it is written again, though nothing is new.
    overwritten: bool,
    /// The pauses before that.
    repair_pause: Backoff,
    repaired: Option<Instant>,
    generation: Option<i64>,
    rollout: Duration,
    /// The status that the API server refused for what it holds.
    refused: Option<RefusedStatus>,
    status_due: Instant,
    /// The pauses after writes of it that fail.
    status_pause: Backoff,
    frozen_since: Option<Instant>,
    /// How often in a row another entry had the name of ours.
    lost: u32,
}

/// The status of an environment as the watch shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShownStatus {
    /// The version of the object.
    version: u64,
    pub(crate) status: EnvironmentStatus,
}

impl ShownStatus {
    pub(crate) fn of(environment: &Environment) -> Self {
        let version = environment.metadata.resource_version.as_deref();
        Self {
            version: pod_view::version(version.unwrap_or_default()),
            status: environment.status.clone().unwrap_or_default(),
        }
    }

    /// Where the log ends.
    fn head(&self) -> Option<i64> {
        self.status.head.as_ref().map(|head| head.index)
    }
}

/// A status that the API server refused for what it holds: while there is no other news, a shorter one is written.
struct RefusedStatus {
    news: EnvironmentStatus,
    at: Instant,
    /// No shorter one is written yet: the next one is, whatever it says.
    unanswered: bool,
}

/// What a round of recording, or one of its appends, came to.
enum Round {
    /// All that was to be written is written.
    Complete,
    /// There may be more to do, the log has to be read again, or nothing is recorded at present.
    Incomplete,
}

/// Whether the head that we know is the head of the log.
enum HeadCheck {
    Head,
    LogChanged,
}

impl EnvironmentRecorder {
    /// For an environment as it was read.
    pub(crate) fn new(
        context: &RecorderContext,
        id: EnvironmentId,
        environment: &Environment,
        shown: watch::Receiver<ShownStatus>,
    ) -> Self {
        let newest = shown.borrow().clone();
        Self {
            changed: context.shared.changed(&id.name),
            head_hint: newest.head(),
            status: newest.status,
            version: newest.version,
            shown,
            overwritten: false,
            repair_pause: Backoff::new(STATUS_INTERVAL, LONGEST_REPAIR_PAUSE),
            repaired: None,
            generation: environment.metadata.generation,
            rollout: SettleTimes::of(environment.spec.settle.as_ref()).rollout,
            refused: None,
            status_due: Instant::now(),
            status_pause: Backoff::new(STATUS_INTERVAL, LONGEST_STATUS_PAUSE),
            frozen_since: None,
            lost: 0,
            context: context.clone(),
            environment: id,
        }
    }

    /// Keeps the log for ever.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            match self.round().await {
                // That the log can be read doesn't show that it can be written.
                Ok(Round::Complete) => backoff.reset(),
                Ok(Round::Incomplete) => {}
                Err(error) => {
                    let reason = if error.is_forbidden() {
                        FrozenReason::LogForbidden
                    } else {
                        FrozenReason::LogUnavailable
                    };
                    warn!(environment = self.environment.name, %error, "can't keep the log; trying again");
                    let message = error.to_string();
                    self.report(Some(Frozen { reason, message })).await;
                    // The write may have been carried out: the log shows it.
                    self.forget_log();
                    sleep(backoff.take(backoff::random())).await;
                }
            }
        }
    }

    /// Reads what the leader appends, for ever: whoever asks this process what runs is told the same, and it can go on from
    /// there.
    pub(crate) async fn stand_by(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        // The leader says whether it records.
        let metrics = &self.context.metrics;
        metrics.frozen(&self.environment.name, false);
        loop {
            let head = self.shown.borrow_and_update().head();
            if let Err(error) = self.follow_log(head).await {
                let environment = &self.environment.name;
                warn!(environment, %error, "can't read the log; trying again");
                sleep(backoff.take(backoff::random())).await;
                continue;
            }
            backoff.reset();
            if self.shown.changed().await.is_err() {
                return; // nobody follows the environment any more
            }
        }
    }

    /// Reads what another replica has appended up to `head`. What is known must still be in the log: the store may have been
    /// set back, and have grown beyond what is known since.
    async fn follow_log(&mut self, head: Option<i64>) -> Result<(), LogError> {
        let shared = self.context.shared.clone();
        let now = shared.now();
        if let Some(known) = self.doubtful_head() {
            if self.has_entry(&known).await? {
                shared.with(|state, _| state.head_confirmed(&self.environment.name, now));
            } else {
                let environment = &self.environment.name;
                warn!(
                    environment,
                    "the log no longer holds the snapshot that was its newest here; reading it again"
                );
                self.context.log.forget();
                self.forget_log();
            }
        }
        let known = shared.with(|state, _| state.head_read(&self.environment.name));
        let known = known.map(|(ledger, _)| ledger.index);
        if known.is_none_or(|known| head > Some(known)) {
            self.read_on(known, head).await?;
        }
        Ok(())
    }

    /// Reads the log up to `head`; from `known` on, if the entries after it are few and none has the whole state.
    async fn read_on(&mut self, known: Option<i64>, head: Option<i64>) -> Result<(), LogError> {
        if let (Some(known), Some(head)) = (known, head)
            && head - known <= FOLLOWED
        {
            let context = self.context.clone();
            for index in known + 1..=head {
                let entry = context.log.read(&self.environment, index).await?;
                let Some(entry) = entry.filter(|entry| entry.checkpoint.is_none()) else {
                    break;
                };
                let (environment, rollout) = (&self.environment, self.rollout);
                let goes_on = context
                    .shared
                    .with(|state, now| state.log_goes_on(environment, &entry, rollout, now));
                if !goes_on {
                    // What is remembered of it may be of another history.
                    context.log.forget();
                    break;
                }
            }
            let known = context
                .shared
                .with(|state, _| state.head_read(&self.environment.name));
            if let Some((ledger, _)) = known.filter(|(ledger, _)| ledger.index == head) {
                self.head_is(&ledger);
                return Ok(());
            }
        }
        self.head_hint = head;
        self.read_log().await
    }

    /// Tells all who ask for it where the log ends.
    fn head_is(&self, ledger: &Ledger) {
        let (context, environment) = (&self.context, &self.environment);
        let head = (ledger.index, ledger.time);
        context.environments.set_head(environment, head);
        context.metrics.head_is(&environment.name, head);
    }

    /// Asks for a plan once, and carries it out.
    async fn round(&mut self) -> Result<Round, LogError> {
        let shared = self.context.shared.clone();
        let (plan, took) = shared.with(|state, now| {
            let begun = Instant::now();
            let plan = state.plan(&self.environment.name, now, Timestamp::now());
            (plan, begun.elapsed())
        });
        let (round, wait, status_due) = match plan {
            Plan::Append(entries) => return self.append_all(entries).await,
            Plan::Frozen(frozen) if frozen.reason == FrozenReason::ReadingLog => {
                self.read_log().await?;
                return Ok(Round::Incomplete);
            }
            Plan::Frozen(frozen) => {
                let status_due = self.report(Some(frozen)).await;
                let wait = Some(Instant::now() + Duration::from_secs(5));
                (Round::Incomplete, wait, status_due)
            }
            Plan::Wait(until) => {
                let status_due = self.report(None).await;
                let wait = until.map(|moment| shared.instant(moment));
                (Round::Complete, wait, status_due)
            }
        };
        let until = [wait, status_due].into_iter().flatten().min();
        // Not longer: the clock by which that was found may be corrected meanwhile.
        let idle = Instant::now() + IDLE;
        let until = until.map_or(idle, |until| until.min(idle));
        let pause = (took * BETWEEN_PLANS).min(LONGEST_BETWEEN_PLANS);
        let news = async {
            if pause >= SHORTEST_SLEEP {
                sleep(pause).await;
            }
            self.changed.notified().await;
        };
        let _ = timeout_at(until, news).await;
        Ok(round)
    }

    async fn append_all(&mut self, entries: Vec<Entry>) -> Result<Round, LogError> {
        self.wait_for_cursors(&entries).await;
        if let HeadCheck::LogChanged = self.check_head().await? {
            self.log_changed(None);
            return Ok(Round::Incomplete);
        }
        let mut entries = entries;
        let (mut at, mut reduced) = (0, false);
        while let Some(entry) = entries.get(at) {
            match self.append(entry).await {
                Ok(Round::Complete) => at += 1,
                Ok(Round::Incomplete) => return Ok(Round::Incomplete),
                Err(refused) if refused.refuses_content() && !reduced => {
                    // Whatever somebody wrote into their objects: it must not stop the log.
                    warn!(environment = self.environment.name, index = entry.spec.index, %refused, "the API server refuses a snapshot for its content; recording it without names and texts");
                    reduce(&mut entries[at..]);
                    reduced = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Round::Complete)
    }

    /// Somebody else appended to the log.
    fn log_changed(&self, index: Option<i64>) {
        let environment = &self.environment.name;
        info!(
            environment,
            index, "someone else appended to the log; reading it again"
        );
        self.forget_log();
    }

    /// Reads the log again before anything else is done.
    fn forget_log(&self) {
        let shared = &self.context.shared;
        shared.with(|state, _| state.log_is_stale(&self.environment));
    }

    /// Cursors of settings that exist already are placed before anything new is recorded, or it would be missed.
    async fn wait_for_cursors(&mut self, entries: &[Entry]) {
        let baseline = entries
            .first()
            .is_some_and(|entry| entry.spec.causes.contains(&Cause::Baseline));
        if !baseline && !*self.context.cursors_ready.borrow() {
            let limit = Instant::now() + CURSORS;
            let _ = timeout_at(limit, self.context.cursors_ready.wait_for(|ready| *ready)).await;
        }
    }

    /// The head that is known, if the log may have been set back since it was read, or that is long ago.
    fn doubtful_head(&self) -> Option<Arc<Ledger>> {
        let name = &self.environment.name;
        self.context.shared.with(|state, now| {
            let (ledger, at) = state.head_read(name)?;
            let is_old = now.saturating_sub(at) > HEAD_FRESH;
            (is_old || state.log_is_in_doubt(name)).then_some(ledger)
        })
    }

    /// Whether the log has the entry after which this was the state, whatever is remembered of it.
    async fn has_entry(&self, after: &Ledger) -> Result<bool, LogError> {
        let log = &self.context.log;
        let there = log.read_hash(&self.environment, after.index).await?;
        Ok(there.is_some_and(|hash| hash == after.content_hash))
    }

    /// Checks that the head that we know is surely the head.
    async fn check_head(&self) -> Result<HeadCheck, LogError> {
        let RecorderContext { shared, log, .. } = &self.context;
        let now = shared.now();
        let Some(ledger) = self.doubtful_head() else {
            return Ok(HeadCheck::Head);
        };
        let is_there = self.has_entry(&ledger).await?;
        let next = log.read_hash(&self.environment, ledger.index + 1).await?;
        if !is_there || next.is_some() {
            return Ok(HeadCheck::LogChanged);
        }
        shared.with(|state, _| state.head_confirmed(&self.environment.name, now));
        Ok(HeadCheck::Head)
    }

    async fn append(&mut self, entry: &Entry) -> Result<Round, LogError> {
        let context = self.context.clone();
        let begun = Instant::now();
        context.write_budget.pass(1 + entry.chunks.len()).await;
        if !context.leadership.leads() {
            return Ok(Round::Incomplete); // this task is about to be stopped
        }
        let spec = &entry.spec;
        match context.log.append(entry).await? {
            Appended::Done => {
                self.lost = 0;
                context.shared.with(|state, now| {
                    state.appended(&self.environment, entry, begun.elapsed(), now);
                });
                let head = (spec.index, spec.time);
                context.environments.set_head(&self.environment, head);
                context.metrics.appended(&self.environment.name, head);
                let events = spec.events.iter().map(|event| event.type_.as_str());
                let events: Vec<_> = events.collect();
                info!(environment = self.environment.name, index = spec.index, causes = ?spec.causes, ?events, "appended");
                self.publish(spec);
                Ok(Round::Complete)
            }
            Appended::Taken(uid) if uid == self.environment.uid => {
                self.log_changed(Some(spec.index));
                self.give_way().await;
                Ok(Round::Incomplete)
            }
            Appended::Taken(uid) => {
                self.clear_name(spec.index, uid).await?;
                Ok(Round::Incomplete)
            }
        }
    }

    /// Removes a leftover of a deleted environment that has the name of our entry, unless we are the deleted one: the API
    /// server knows which of them exists.
    async fn clear_name(&mut self, index: i64, uid: String) -> Result<(), LogError> {
        let api: Api<Environment> = Api::all(self.context.client.clone());
        let existing = within(api.get_opt(&self.environment.name)).await?;
        let existing = existing.and_then(|environment| environment.uid());
        if existing.as_ref() != Some(&self.environment.uid) {
            sleep(Duration::from_secs(1)).await; // the watch reports it
            return Ok(());
        }
        warn!(
            environment = self.environment.name,
            index, "removing an entry of a deleted environment of this name"
        );
        let log = &self.context.log;
        let deleted = EnvironmentId::new(&self.environment.name, uid);
        log.remove_entry(&deleted, index).await?;
        self.give_way().await;
        Ok(())
    }

    /// Records a Kubernetes Event for each change of the environment's compliance.
    fn publish(&self, spec: &EnvironmentSnapshotSpec) {
        for event in &spec.events {
            let (type_, reason) = match event.type_ {
                crate::api::EventType::EnvironmentCompliant => {
                    (EventType::Normal, EnvironmentEventReason::Compliant)
                }
                crate::api::EventType::EnvironmentNonCompliant => {
                    (EventType::Warning, EnvironmentEventReason::NonCompliant)
                }
                _ => continue,
            };
            let note = format!(
                "snapshot {}: {}",
                spec.index,
                event::description(spec, event)
            );
            let EnvironmentId { name, uid } = &self.environment;
            let about = reference::<Environment>("", name, uid.clone());
            let events = &self.context.events;
            let reason = reason.as_str();
            events.publish(about, type_, "Assess", reason, note, Repeated::Told);
        }
    }

    /// Waits a moment after someone else took the name of an entry, longer if that happens again and again.
    async fn give_way(&mut self) {
        let pause = Duration::from_millis(50) * 2_u32.pow(self.lost.min(8));
        self.lost = self.lost.saturating_add(1);
        sleep(backoff::part(pause, backoff::random())).await;
    }

    /// Reads the log: its head, and the state after it.
    async fn read_log(&mut self) -> Result<(), LogError> {
        let context = self.context.clone();
        let (shared, environment) = (&context.shared, self.environment.clone());
        let name = &environment.name;
        let begun = shared.now();
        let Some(head) = self.find_head().await? else {
            shared.with(|state, _| state.log_is_blank(&environment, None, Cause::Baseline));
            return Ok(());
        };
        self.head_hint = Some(head);
        let replay = context.log.replay(&environment, head).await?;
        let ledger = replay.and_then(|replay| {
            let ledger = shared.with(|state, _| replay.ledger(self.rollout, state.fleet_mut()));
            ledger.map_err(|error| error.to_string())
        });
        match ledger {
            Ok(ledger) => {
                self.head_is(&ledger);
                info!(environment = name, head = ledger.index, "read the log");
                shared.with(|state, _| state.log_is_read(&environment, Arc::new(ledger), begun));
            }
            Err(why) => {
                error!(environment = name, head, %why, "the log can't be continued; what runs now counts as known");
                let Some(spec) = context.log.read(&environment, head).await? else {
                    return Err(LogError::Vanished(log::name(name, head)));
                };
                let mut end = Ledger::empty(Scope::default());
                (end.index, end.time) = (spec.index, spec.time);
                end.content_hash.clone_from(&spec.content_hash);
                end.compliance = spec.compliance.clone();
                context
                    .environments
                    .set_head(&environment, (end.index, end.time));
                let cause = Cause::HistoryLost;
                shared.with(|state, _| state.log_is_blank(&environment, Some(end), cause));
            }
        }
        Ok(())
    }

    /// The number of the newest entry. What the status or an earlier reading says is a hint; it holds if that entry is
    /// there, and the head is then found by going on from it.
    async fn find_head(&mut self) -> Result<Option<i64>, LogError> {
        let log = &self.context.log;
        if let Some(hint) = self.head_hint.take() {
            let mut head = None;
            for index in hint..hint + STEPS {
                let there = log.read_hash(&self.environment, index).await?;
                match (there, head) {
                    (Some(_), _) => head = Some(index),
                    (None, Some(_)) => return Ok(head),
                    (None, None) => break,
                }
            }
        }
        let entries = log.entries(&self.environment).await?;
        Ok(entries.last().map(|entry| entry.index))
    }

    /// Notes whether the watch shows another status than was written last: whoever led before may have written late. Whoever
    /// writes over it all the time is answered less and less often.
    fn look_at_shown(&mut self) {
        let shown = self.shown.borrow_and_update();
        if shown.version <= self.version {
            return; // of before the last write
        }
        self.version = shown.version;
        let same = shown.status.says_what(&self.status);
        drop(shown);
        if same || self.overwritten {
            self.overwritten &= !same;
            return;
        }
        self.overwritten = true;
        let environment = &self.environment.name;
        info!(
            environment,
            "someone else wrote the environment's status; writing it again"
        );
        let now = Instant::now();
        if self.repaired.is_none_or(|at| now - at > REFUSED_FOR) {
            self.repair_pause.reset();
        }
        self.repaired = Some(now);
        let pause = self.repair_pause.take(backoff::random());
        self.status_due = self.status_due.max(now + pause);
    }

    /// Writes the status if it says something new, and not too often. When to try again, if it is not written yet.
    async fn report(&mut self, frozen: Option<Frozen>) -> Option<Instant> {
        self.look_at_shown();
        let context = &self.context;
        context
            .metrics
            .frozen(&self.environment.name, frozen.is_some());
        if frozen.is_none() {
            self.frozen_since = None;
        } else if self.frozen_since.is_none() {
            self.frozen_since = Some(Instant::now());
        }
        // `None` while the environment is not known any more.
        let summary = context
            .shared
            .with(|state, _| state.summary(&self.environment.name))?;
        let known = context.environments.get(&self.environment.name);
        let status = EnvironmentStatus {
            observed_generation: known.map(|known| known.generation).or(self.generation),
            ..self.status.clone()
        };
        let since = self.frozen_since.map(|since| since.elapsed());
        let recovering = since.is_some_and(|since| since < RECOVERING);
        let input = StatusInput {
            name: &self.environment.name,
            summary: &summary,
            frozen: frozen.as_ref(),
            recovering,
            now: Timestamp::now(),
        };
        let status = new_status(status, input);
        let news = status.news();
        self.refused
            .take_if(|refused| refused.at.elapsed() > REFUSED_FOR);
        let refused = self.refused.as_ref();
        let cut_short = refused.is_some_and(|it| it.unanswered || it.news == news);
        let status = match cut_short {
            true => status.cut_short(),
            false => status,
        };
        if status == self.status && !self.overwritten {
            return None;
        }
        if Instant::now() < self.status_due {
            return Some(self.status_due);
        }
        if !context.leadership.leads() {
            return None; // another one says more by now
        }
        let written = apply_status::<Environment>(
            &context.client,
            "",
            &self.environment.name,
            &self.environment.uid,
            &status,
        )
        .await;
        let pause = match written {
            Ok(StatusWriteResult::Written { version }) => {
                self.status = status;
                self.version = self.version.max(version);
                self.overwritten = false;
                self.status_pause.reset();
                if let Some(refused) = &mut self.refused {
                    refused.unanswered = false;
                }
                self.status_due = Instant::now() + STATUS_INTERVAL;
                return None;
            }
            Ok(StatusWriteResult::Refused(why)) if !cut_short => {
                let environment = &self.environment.name;
                warn!(
                    environment,
                    why, "the API server refuses the environment's status; writing a shorter one"
                );
                self.refused = Some(RefusedStatus {
                    news,
                    at: Instant::now(),
                    unanswered: true,
                });
                STATUS_INTERVAL
            }
            Ok(StatusWriteResult::Gone) => STATUS_INTERVAL,
            Ok(StatusWriteResult::Refused(error) | StatusWriteResult::Denied(error))
            | Err(error) => {
                let environment = &self.environment.name;
                warn!(environment, error, "can't write the environment's status");
                self.status_pause.take(backoff::random())
            }
        };
        self.status_due = Instant::now() + pause;
        Some(self.status_due)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::{
        Router,
        http::{Method, StatusCode, Uri},
    };
    use kube::Client;
    use parking_lot::Mutex;
    use serde_json::json;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        api::EnvironmentSpec,
        cluster::{kubernetes_events::EventPublisher, watch::WatchTimings},
        leader::election::ElectionWatch,
        metrics::Metrics,
        simulation::{empty_state, testing::snapshot},
        snapshot::{
            environments::Environments, log::SnapshotLog, recorder_context::WriteBudget,
            shared_state::SharedState, state::ClusterState,
        },
        time::Moment,
    };

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A snapshot of `prod` with this hash.
    fn spec(index: i64, hash: &str) -> EnvironmentSnapshotSpec {
        EnvironmentSnapshotSpec {
            environment: "prod".to_owned(),
            environment_uid: "u".to_owned(),
            content_hash: hash.to_owned(),
            ..snapshot(index, &[])
        }
    }

    /// The state after it.
    fn after(index: i64, hash: &str) -> Arc<Ledger> {
        let mut ledger = Ledger::empty(Scope::default());
        (ledger.index, ledger.content_hash) = (index, hash.to_owned());
        Arc::new(ledger)
    }

    /// An API server with these snapshots, and what it is asked.
    fn api_server(stored: &[(i64, &str)]) -> (Client, Arc<Mutex<Vec<String>>>) {
        let stored: BTreeMap<String, String> = stored
            .iter()
            .map(|(index, hash)| {
                let name = log::name("prod", *index);
                let mut spec = spec(*index, hash);
                let previous = stored.iter().find(|(it, _)| it + 1 == *index);
                spec.previous = previous.map(|(_, hash)| (*hash).to_owned());
                let object = json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "EnvironmentSnapshot", "metadata": {"name": name}, "spec": spec});
                (name, object.to_string())
            })
            .collect();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let asked = requests.clone();
        let answers = async move |method: Method, uri: Uri, body: String| {
            let named = uri.path().rsplit('/').next().unwrap_or_default();
            let mut asked = asked.lock();
            asked.push(format!("{method} {named}"));
            if method == Method::POST {
                return (StatusCode::CREATED, body);
            }
            if method == Method::PATCH {
                let version = (10 * asked.len()).to_string();
                let object = json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "prod", "resourceVersion": version}});
                return (StatusCode::OK, object.to_string());
            }
            let failure = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "none"});
            match stored.get(named) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => (StatusCode::NOT_FOUND, failure.to_string()),
            }
        };
        let client = Client::new(Router::new().fallback(answers), "default");
        (client, requests)
    }

    /// The recorder of `prod`, which knows that the log ends with this snapshot.
    fn recorder(client: &Client, (index, hash): (i64, &str)) -> EnvironmentRecorder {
        let shared = SharedState::new(empty_state(true, Moment::ZERO));
        let (id, spec) = (EnvironmentId::new("prod", "u"), EnvironmentSpec::default());
        shared.with(|state, now| {
            state.environment_seen(&id, &spec, now);
            state.log_is_read(&id, after(index, hash), now);
        });
        let hour = Duration::from_hours(1);
        let context = RecorderContext {
            client: client.clone(),
            shared,
            log: SnapshotLog::new(client.clone()),
            environments: Arc::new(Environments::default()),
            metrics: Arc::new(Metrics::new()),
            namespace: "shipbell".to_owned(),
            cursors_ready: watch::channel(true).1,
            write_budget: Arc::new(WriteBudget::default()),
            events: EventPublisher::new(client.clone(), None, ElectionWatch::of_leader()),
            watch_timings: WatchTimings {
                relist: hour,
                idle: hour,
            },
            leadership: ElectionWatch::of_leader(),
            stop: CancellationToken::new(),
        };
        let shown = watch::channel(ShownStatus::default()).1;
        EnvironmentRecorder::new(&context, id, &Environment::new("prod", spec), shown)
    }

    #[tokio::test]
    async fn a_replica_that_follows_the_log_goes_on_only_from_what_the_log_still_holds() {
        let (ours, next) = ((7, "ours"), (8, "next"));
        let (seventh, eighth) = ("GET prod-0000000007", "GET prod-0000000008");
        for (in_doubt, stored, reported, want, first) in [
            (false, vec![ours, next], 8, Some(8), vec![eighth]),
            (true, vec![ours, next], 8, Some(8), vec![seventh, eighth]),
            (true, vec![ours], 7, Some(7), vec![seventh]),
            (
                true,
                vec![(7, "other"), next],
                8,
                None,
                vec![seventh, eighth],
            ),
            // The numbers alone say nothing.
            (true, vec![(7, "other")], 7, None, vec![seventh, seventh]),
            (
                true,
                vec![(6, "old")],
                6,
                None,
                vec![seventh, "GET prod-0000000006"],
            ),
        ] {
            let (client, asked) = api_server(&stored);
            let mut recorder = recorder(&client, ours);
            let shared = recorder.context.shared.clone();
            if in_doubt {
                shared.with(ClusterState::interrupted);
            }
            recorder.follow_log(Some(reported)).await.unwrap();
            assert_eq!(asked.lock()[..first.len()], first, "{in_doubt} {stored:?}");
            let head = shared.with(|state, _| state.head_read("prod"));
            let head = head.map(|(ledger, _)| ledger.index);
            assert_eq!(head, want, "{in_doubt} {stored:?}");
            let requests = asked.lock().len();
            if want.is_some() {
                recorder.follow_log(Some(reported)).await.unwrap();
                assert_eq!(asked.lock().len(), requests, "nothing is in doubt any more");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_somebody_else_wrote_is_written_again_but_not_without_end() {
        let (client, asked) = api_server(&[]);
        let mut recorder = recorder(&client, (7, "ours"));
        let (shows, shown) = watch::channel(ShownStatus::default());
        recorder.shown = shown;
        let write = "PATCH status";
        assert_eq!(recorder.report(None).await, None);
        assert_eq!(*asked.lock(), [write]);
        let ours = recorder.status.clone();
        let show = |version, status: &EnvironmentStatus| {
            let status = status.clone();
            shows.send_replace(ShownStatus { version, status });
        };
        let other = EnvironmentStatus {
            artifacts: Some(99),
            ..ours.clone()
        };
        let mut later = ours.clone();
        for condition in &mut later.conditions {
            condition.last_transition_time.0 += Duration::from_secs(1);
        }
        // What the watch shows may be of before the last write, or an edit of the spec.
        for (version, status) in [(9, &other), (10, &ours), (11, &ours), (12, &later)] {
            show(version, status);
            assert_eq!(recorder.report(None).await, None);
            assert_eq!(*asked.lock(), [write], "{version}");
        }
        show(13, &other);
        let due = recorder.report(None).await.unwrap();
        assert!(due <= Instant::now() + 2 * STATUS_INTERVAL);
        tokio::time::advance(due - Instant::now()).await;
        assert_eq!(recorder.report(None).await, None);
        assert_eq!(*asked.lock(), [write; 2]);
        assert_eq!(recorder.report(None).await, None);
        assert_eq!(*asked.lock(), [write; 2], "once");
        // Somebody writes ten times a second, for an hour.
        for tenth in 0..36_000 {
            show(1_000_000 + tenth, &other);
            recorder.report(None).await;
            tokio::time::advance(100 * MILLISECOND).await;
        }
        let writes = asked.lock().len();
        assert!((30..80).contains(&writes), "{writes} in an hour");
        // When that is over the last one is written once.
        for _ in 0..600 {
            recorder.report(None).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let after = asked.lock().len();
        assert!(after - writes <= 1, "{after} after {writes}");
        assert!(!recorder.overwritten);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_was_read_long_ago_is_read_again_before_the_log_is_continued() {
        let (ours, reads) = ((7, "ours"), ["GET prod-0000000007", "GET prod-0000000008"]);
        let write = "POST environmentsnapshots";
        for (age, stored, requests) in [
            (HEAD_FRESH, vec![], vec![write]),
            (
                HEAD_FRESH + MILLISECOND,
                vec![ours],
                [&reads[..], &[write]].concat(),
            ),
            // The name may be free because its snapshot was removed, and the log goes on elsewhere.
            (HEAD_FRESH + MILLISECOND, vec![], reads.to_vec()),
        ] {
            let (client, asked) = api_server(&stored);
            let mut recorder = recorder(&client, ours);
            let shared = recorder.context.shared.clone();
            let begun = shared.with(|state, now| {
                state.head_confirmed("prod", now);
                now
            });
            tokio::time::advance(age).await;
            assert_eq!(shared.now().saturating_sub(begun), age);
            let next = Entry {
                spec: spec(8, "next"),
                chunks: vec![],
                after: after(8, "next"),
            };
            recorder.append_all(vec![next]).await.unwrap();
            assert_eq!(*asked.lock(), requests, "{age:?} {stored:?}");
            let known = shared.with(|state, _| state.head_read("prod"));
            assert_eq!(
                known.is_some(),
                requests.contains(&write),
                "else it is read again"
            );
        }
    }

    #[tokio::test]
    async fn a_log_that_is_in_doubt_is_continued_only_where_it_surely_ends() {
        let (ours, next) = ((7, "ours"), (8, "next"));
        let (seventh, eighth) = ("GET prod-0000000007", "GET prod-0000000008");
        let write = "POST environmentsnapshots";
        for (in_doubt, stored, requests) in [
            (false, vec![], vec![write]),
            (true, vec![ours], vec![seventh, eighth, write]),
            (true, vec![ours, (8, "other")], vec![seventh, eighth]),
            (true, vec![(7, "other")], vec![seventh, eighth]),
            (true, vec![], vec![seventh, eighth]),
        ] {
            let (client, asked) = api_server(&stored);
            let mut recorder = recorder(&client, ours);
            let shared = recorder.context.shared.clone();
            if in_doubt {
                shared.with(ClusterState::interrupted);
            }
            let entry = |(index, hash)| Entry {
                spec: spec(index, hash),
                chunks: vec![],
                after: after(index, hash),
            };
            let round = recorder.append_all(vec![entry(next)]).await.unwrap();
            assert_eq!(*asked.lock(), requests, "{in_doubt} {stored:?}");
            let head = shared.with(|state, _| state.head_read("prod"));
            let head = head.map(|(ledger, _)| ledger.index);
            if !requests.contains(&write) {
                assert!(matches!(round, Round::Incomplete), "{stored:?}");
                assert_eq!(head, None, "the log is read again: {stored:?}");
                continue;
            }
            assert!(matches!(round, Round::Complete), "{stored:?}");
            assert_eq!(head, Some(8));
            // That it was the end is known now.
            recorder.append_all(vec![entry((9, "last"))]).await.unwrap();
            assert_eq!(asked.lock()[requests.len()..], [write], "{stored:?}");
        }
    }
}
