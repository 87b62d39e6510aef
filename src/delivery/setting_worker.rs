#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Executes what the state machine of one setting says, and feeds the results back. Each action is a task of its own, so
//! whatever one waits for, the others go on; they all end with the worker.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header::CONTENT_TYPE};
use jiff::Timestamp;
use kube::{Api, Resource as _, ResourceExt as _, runtime::events::EventType};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    api::{Environment, EnvironmentSnapshotSpec, NotificationSetting, environment::EnvironmentId},
    cluster::{custom_resource_status::refuses_content, kubernetes_events::Repeated},
    delivery::{
        conditions::NotReady,
        context::{Context, ProgressEntry},
        environment_queue::Token,
        mailbox::Mailbox,
        next_message::{LogReader, Origin},
        pending::{CountedRange, LogRange},
        reasons::{EventReason, NotReadyReason},
        request_slots::{FairSlots, RequestSlots},
        secret::{self, DestinationError},
        setting_metrics::SettingMetrics,
        setting_state::{Action, Deleted, DestinationAnswer, Input, Now, SettingState},
        status_writer::{StatusWrite, WriteAnswer, WriteForm},
        subscription::Subscription,
    },
    http::{
        address_guard::Denied,
        destination::Destination,
        response::Outcome,
        sender::{Outgoing, Receipt, SendKey, Slot},
    },
    snapshot::log::{EntryMeta, LogError, SnapshotLog, within_limit},
};

/// A request to the API server that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long to sleep when nothing is planned.
const IDLE: Duration = Duration::from_secs(300);

/// The result of a task.
enum Done {
    Input(Input),
    Turn(Token, Result<Slot, Denied>),
    Sent(Token, Now, Receipt, Slot),
}

/// The worker of one setting.
pub(crate) struct SettingWorker {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    setting: Arc<NotificationSetting>,
    who: SendKey,
    state: SettingState,
    /// Turns at the destination that are held.
    slots: BTreeMap<Token, Slot>,
    /// Turns that are waited for.
    waiting: BTreeMap<Token, AbortHandle>,
    tasks: JoinSet<Done>,
    progress: ProgressEntry,
    metrics: SettingMetrics,
    /// Dropped when the cursors stand in the status.
    settled: Option<mpsc::Sender<()>>,
}

impl SettingWorker {
    pub fn new(
        context: Arc<Context>,
        mailbox: Arc<Mailbox>,
        setting: Arc<NotificationSetting>,
        settled: Option<mpsc::Sender<()>>,
    ) -> Self {
        let uid = setting.uid().unwrap_or_default();
        let who = SendKey {
            namespace: setting.namespace().unwrap_or_default().into(),
            setting: setting.name_any().into(),
        };
        let environments = context.environments.all();
        let installation = context.installation.clone();
        let now = context.now();
        let (state, actions) = SettingState::new(setting.clone(), environments, installation, now);
        let mut worker = Self {
            progress: ProgressEntry::new(context.progress.clone(), &uid),
            metrics: SettingMetrics::new(context.metrics.clone(), &uid, &state),
            context,
            mailbox,
            setting,
            who,
            state,
            slots: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tasks: JoinSet::new(),
            settled,
        };
        for action in actions {
            worker.execute(action);
        }
        worker
    }

    /// Works until the program is to stop: then nothing new is sent, and what is on its way is finished and written down.
    pub async fn run(mut self: Box<Self>) {
        let stop = self.context.stop.clone();
        let mut stopping = false;
        loop {
            if self.state.is_finished() {
                return;
            }
            if self.state.is_settled() {
                self.settled = None;
            }
            let wake = self.wake();
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {} // cancelled
                },
                () = self.mailbox.news(), if !stopping => {
                    for input in self.mailbox.take() {
                        self.feed(input);
                    }
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.feed(Input::Stop);
                }
                () = sleep_until(wake) => self.feed(Input::Wake),
            }
        }
    }

    fn wake(&self) -> Instant {
        self.state.wake_at().map_or_else(
            || Instant::now() + IDLE,
            |moment| self.context.clock.instant(moment),
        )
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Input(input) => self.feed(input),
            Done::Turn(token, result) => {
                self.waiting.remove(&token);
                let result = match result {
                    Ok(slot) => {
                        self.slots.insert(token, slot);
                        Ok(())
                    }
                    Err(denied) => Err(denied.to_string()),
                };
                self.feed(Input::Turn(token, result));
            }
            Done::Sent(token, began, receipt, slot) => {
                self.slots.insert(token, slot);
                self.count(token, &receipt);
                self.feed(Input::Sent(token, began, receipt));
            }
        }
    }

    fn feed(&mut self, input: Input) {
        if let Input::Setting(setting) = &input {
            self.setting = setting.clone();
        }
        let now = self.context.now();
        for action in self.state.step(input, now) {
            self.execute(action);
        }
        self.metrics.update(&self.state);
    }

    /// Counts an answer, unless it is one to a test message.
    fn count(&self, token: Token, receipt: &Receipt) {
        if self.state.is_test(token) {
            return;
        }
        let metrics = &self.context.metrics;
        let destination = self.state.kind().as_str();
        metrics.attempted(
            destination,
            outcome_label(&receipt.outcome),
            receipt.latency,
        );
        if let (Outcome::Delivered { .. }, Some(recorded)) =
            (&receipt.outcome, self.state.recorded_at(token))
        {
            let age = self.context.now().wall.duration_since(recorded);
            metrics.delivered(destination, age.try_into().unwrap_or_default());
        }
    }

    fn spawn(&mut self, task: impl Future<Output = Input> + Send + 'static) {
        self.tasks.spawn(async move { Done::Input(task.await) });
    }

    /// Makes a request to the API server when its turn has come. What waits is small: the request is made then.
    fn spawn_request<R: Future<Output = Input> + Send + 'static>(
        &mut self,
        slots: fn(&RequestSlots) -> &Arc<FairSlots>,
        request: impl FnOnce(Arc<Context>) -> R + Send + 'static,
    ) {
        let namespace = self.who.namespace.clone();
        self.spawn(in_turn(self.context.clone(), namespace, slots, request));
    }

    fn execute(&mut self, action: Action) {
        let context = self.context.clone();
        match action {
            Action::ReadDestination(generation) => {
                let setting = self.setting.clone();
                self.spawn_request(
                    |slots| &slots.reads,
                    async move |context| {
                        let answer = read_destination(&context, &setting).await;
                        Input::Destination(generation, answer)
                    },
                );
            }
            Action::Search(token, search) => self.spawn(async move {
                let found = search.find(&context.log).await;
                Input::Found(token, found)
            }),
            Action::TakeTurn(token, destination) => {
                let who = self.who.clone();
                let task = async move {
                    let slot = context.sender.slot(&who, &destination).await;
                    Done::Turn(token, slot)
                };
                self.waiting.insert(token, self.tasks.spawn(task));
            }
            Action::ReleaseTurn(token) => {
                self.slots.remove(&token);
                if let Some(task) = self.waiting.remove(&token) {
                    task.abort();
                }
            }
            Action::Compose(token, search, key) => {
                let who = self.who.clone();
                self.spawn(async move {
                    let origin = Origin {
                        installation: &context.installation,
                        setting: (&who.namespace, &who.setting),
                    };
                    let composed = search.compose(&context.log, &key, &origin).await;
                    Input::Composed(token, composed)
                });
            }
            Action::Send(token, destination, id, body) => {
                self.send(token, destination, id, body);
            }
            Action::Count(subscription, ranges) => {
                self.spawn(async move {
                    let counted = count(&context.log, &subscription, ranges).await;
                    Input::Counted(subscription.generation, counted)
                });
            }
            Action::ListEntries(environment) => self.spawn_request(
                |slots| &slots.log_lists,
                async move |context| {
                    let entries = LogReader::entries(&context.log, &environment).await;
                    Input::Entries(environment, entries)
                },
            ),
            Action::Locate(token, locate) => {
                let namespace = self.who.namespace.clone();
                self.spawn(async move {
                    let log = LogInTurns { context, namespace };
                    Input::Located(token, locate.find(&log).await)
                });
            }
            Action::Compare(environment, index) => self.spawn_request(
                |slots| &slots.reads,
                async move |context| {
                    let read = context.log.read_hash(&environment, index).await;
                    let there = read.map(|there| there.is_some());
                    Input::Compared(environment, there.map_err(|error| error.to_string()))
                },
            ),
            Action::CheckDeleted(environment) => self.spawn_request(
                |slots| &slots.log_lists,
                async move |context| {
                    let checked = check_deleted(&context, &environment).await;
                    Input::Checked(environment, checked.map_err(|error| error.to_string()))
                },
            ),
            Action::WriteStatus(write) => {
                let setting = self.setting.clone();
                self.spawn_request(
                    |slots| &slots.status_writes,
                    async move |context| {
                        let answer = write_status(&context, &setting, &write).await;
                        Input::Written(write.counted, answer)
                    },
                );
            }
            Action::ReadSetting => {
                let setting = self.setting.clone();
                self.spawn_request(
                    |slots| &slots.reads,
                    async move |context| Input::Read(read_setting(&context, &setting).await),
                );
            }
            Action::Publish(reason, note) => {
                let type_ = match reason {
                    EventReason::DeliveryRecovered
                    | EventReason::TestDelivered
                    | EventReason::ReplayStarted
                    | EventReason::ReplayCanceled
                    | EventReason::ReplayDelivered => EventType::Normal,
                    _ => EventType::Warning,
                };
                let repeated = match reason {
                    EventReason::DeliveryFailing | EventReason::DeliveryRecovered => {
                        Repeated::Counted
                    }
                    _ => Repeated::Told,
                };
                let (about, reason) = (self.setting.object_ref(&()), reason.as_str());
                let events = &context.events;
                events.publish(about, type_, "Deliver", reason, note, repeated);
            }
            Action::Progress(cursors) => self.progress.put(cursors),
        }
    }

    /// Makes one attempt with a turn that is held.
    fn send(&mut self, token: Token, destination: Destination, id: String, body: Bytes) {
        let Some(slot) = self.slots.remove(&token) else {
            debug_assert!(false, "a message is sent without a turn");
            return;
        };
        let context = self.context.clone();
        if !context.leadership.leads() {
            return; // this worker is about to be stopped, and another replica may send this
        }
        let replay = self.state.is_replay(token);
        self.tasks.spawn(async move {
            let began = context.now();
            let outgoing = Outgoing {
                id,
                body,
                timestamp: began.wall,
                replay,
            };
            let receipt = context.sender.send(&slot, &destination, &outgoing).await;
            Done::Sent(token, began, receipt, slot)
        });
    }
}

/// Makes a request when a slot is free, and is small until then.
async fn in_turn<R: Future>(
    context: Arc<Context>,
    namespace: Arc<str>,
    slots: fn(&RequestSlots) -> &Arc<FairSlots>,
    request: impl FnOnce(Arc<Context>) -> R,
) -> R::Output {
    let _slot = slots(&context.requests).take(namespace).await;
    Box::pin(request(context.clone())).await
}

/// How metrics call what came of an attempt.
fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered { .. } => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Refused { .. } => "refused",
        Outcome::Hold { .. } | Outcome::Gone { .. } => "held",
    }
}

impl Context {
    pub(crate) fn now(&self) -> Now {
        Now {
            moment: self.clock.now(),
            wall: Timestamp::now(),
        }
    }
}

/// Where a setting sends to, and whether that may be dialled.
async fn read_destination(context: &Context, setting: &NotificationSetting) -> DestinationAnswer {
    let namespace = setting.namespace().unwrap_or_default();
    let found = secret::read(
        &context.client,
        &namespace,
        &setting.spec,
        &context.rbac_hints,
    );
    match found.await {
        Ok(destination) => match context.sender.permits(&namespace, &destination) {
            Ok(()) => DestinationAnswer::Known(destination),
            Err(denied) => {
                let why = denied.to_string();
                DestinationAnswer::NotReady(NotReady::new(NotReadyReason::DestinationDenied, why))
            }
        },
        Err(DestinationError::NotReady(why)) => DestinationAnswer::NotReady(why),
        Err(DestinationError::Unknown(why)) => DestinationAnswer::Unknown(why),
    }
}

impl LogReader for SnapshotLog {
    async fn read(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, String> {
        let read = SnapshotLog::read(self, environment, index).await;
        read.map_err(|error| error.to_string())
    }

    async fn entries(&self, environment: &EnvironmentId) -> Result<Vec<EntryMeta>, String> {
        // Boxed, as it is large and rarely needed: each search of a setting would be as large.
        let entries = Box::pin(SnapshotLog::entries(self, environment)).await;
        entries.map_err(|error| error.to_string())
    }
}

/// The log for a search of many requests, each of which waits for its turn and takes no room in the cache.
struct LogInTurns {
    context: Arc<Context>,
    namespace: Arc<str>,
}

impl LogReader for LogInTurns {
    async fn read(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, String> {
        let _slot = self
            .context
            .requests
            .reads
            .take(self.namespace.clone())
            .await;
        let read = self.context.log.read_uncached(environment, index).await;
        read.map_err(|error| error.to_string())
    }

    async fn entries(&self, environment: &EnvironmentId) -> Result<Vec<EntryMeta>, String> {
        let slots = &self.context.requests.log_lists;
        let _slot = slots.take(self.namespace.clone()).await;
        LogReader::entries(&self.context.log, environment).await
    }
}

/// Counts what is asked for in ranges of logs.
async fn count(
    log: &impl LogReader,
    subscription: &Subscription,
    ranges: Vec<LogRange>,
) -> Vec<CountedRange> {
    let mut counted = vec![];
    for LogRange {
        environment,
        from,
        to,
    } in ranges
    {
        let mut entries = vec![];
        let mut complete = true;
        for index in from..=to {
            let Ok(read) = log.read(&environment, index).await else {
                complete = false; // it won't tell of the next one either
                break;
            };
            entries.push(subscription.count_entry(index, read.as_deref()));
        }
        counted.push(CountedRange {
            environment,
            entries,
            complete,
        });
    }
    counted
}

/// Whether an environment is deleted, and where its log ends: its newest entries may not have been heard of.
async fn check_deleted(
    context: &Context,
    environment: &EnvironmentId,
) -> Result<Deleted, LogError> {
    let api: Api<Environment> = Api::all(context.client.clone());
    let found = within_limit(TIMEOUT, api.get_metadata_opt(&environment.name)).await?;
    if found.is_some_and(|found| found.uid().as_ref() == Some(&environment.uid)) {
        return Ok(Deleted::No);
    }
    let entries = context.log.entries(environment).await?;
    Ok(Deleted::Yes(entries.last().map_or(0, |entry| entry.index)))
}

async fn write_status(
    context: &Context,
    setting: &NotificationSetting,
    write: &StatusWrite,
) -> WriteAnswer {
    let request = match status_request(setting, write) {
        Ok(request) => request,
        Err(why) => return WriteAnswer::Failed(why),
    };
    let written = timeout(
        TIMEOUT,
        context.client.request::<NotificationSetting>(request),
    )
    .await;
    match written {
        Err(_) => WriteAnswer::Failed("no answer from the API server".to_owned()),
        Ok(Ok(object)) => WriteAnswer::Written {
            version: object.resource_version(),
            status: Box::new(object.status.unwrap_or_default()),
        },
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => WriteAnswer::Conflict,
        Ok(Err(kube::Error::Api(status))) if status.code == 422 => {
            WriteAnswer::Refused(status.message.clone())
        }
        Ok(Err(error)) if refuses_content(&error) => WriteAnswer::TooLarge(error.to_string()),
        Ok(Err(error)) => WriteAnswer::Failed(error.to_string()),
    }
}

fn status_request(
    setting: &NotificationSetting,
    write: &StatusWrite,
) -> Result<Request<Vec<u8>>, String> {
    let namespace = setting.namespace().unwrap_or_default();
    let collection = NotificationSetting::url_path(&(), Some(&namespace));
    let path = format!("{collection}/{}/status", setting.name_any());
    let (method, type_, body) = match &write.form {
        WriteForm::Patch(patch) => (
            Method::PATCH,
            "application/json-patch+json",
            serde_json::to_vec(patch),
        ),
        WriteForm::Replace { version } => {
            let mut object = setting.clone();
            object.metadata.resource_version.clone_from(version);
            object.metadata.managed_fields = None;
            object.status = Some(write.status.clone());
            (Method::PUT, "application/json", serde_json::to_vec(&object))
        }
    };
    let body = body.map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, type_)
        .body(body);
    request.map_err(|error| error.to_string())
}

/// The status and the version of the setting as the API server has it.
async fn read_setting(
    context: &Context,
    setting: &NotificationSetting,
) -> Result<(Box<crate::api::NotificationSettingStatus>, Option<String>), String> {
    let namespace = setting.namespace().unwrap_or_default();
    let api: Api<NotificationSetting> = Api::namespaced(context.client.clone(), &namespace);
    let found = within_limit(TIMEOUT, api.get_opt(&setting.name_any())).await;
    let found = found.map_err(|error| error.to_string())?;
    let found = found.filter(|found| found.uid() == setting.uid());
    let found = found.ok_or("it is not there")?; // the watch tells whether it is gone
    let version = found.resource_version();
    Ok((Box::new(found.status.unwrap_or_default()), version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::next_message::{Found, Search};

    fn size_of_future<T, F: Future>(_: impl Fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_setting_holds_its_state_once() {
        let (task, state) = (
            size_of_future(SettingWorker::run),
            size_of::<SettingWorker>(),
        );
        assert!(task < 1_024, "{task} bytes beside the state's {state}");
    }

    #[test]
    fn a_request_that_waits_for_its_turn_is_small() {
        async fn big(_: Arc<Context>) -> usize {
            let kept = [0_u8; 10_000];
            std::future::ready(()).await;
            kept.len()
        }
        assert!(size_of_future(big) > 10_000);
        let size =
            size_of_future(|context| in_turn(context, "a".into(), |slots| &slots.reads, big));
        assert!(size < 256, "{size} bytes");
    }

    #[test]
    fn a_search_that_finds_its_entries_in_memory_is_small() {
        async fn find((log, search): (SnapshotLog, Search)) -> Found {
            search.find(&log).await
        }
        let size = size_of_future(find);
        assert!(size < 2_048, "{size} bytes");
    }
}
