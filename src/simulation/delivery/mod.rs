//! Delivery in virtual time: the real state machine of a setting between a scripted log, a scripted receiver and a status
//! store that conflicts, loses replies and refuses. Everything that the machine asks for becomes an event on one clock,
//! drawn from a seed; whatever it does is checked as it does it.

mod conditions;
mod properties;
mod replay;
mod scenarios;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde_json::json;

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType, NotificationSetting, NotificationSettingSpec,
        NotificationSettingStatus, TEST_ANNOTATION, condition,
        environment::EnvironmentId,
        notification_setting::{Cursor, Slack, Webhook},
    },
    delivery::{
        ack_window::WINDOW,
        conditions::NotReady,
        environment_queue::Token,
        next_message::{LogReader, Origin},
        pending::{CountedRange, LogRange},
        reasons::{EventReason, NotReadyReason},
        setting_state::{Action, Deleted, DestinationAnswer, Input, Now, SettingState},
        status_writer::{StatusWrite, WriteAnswer, WriteForm},
        subscription::Subscription,
    },
    http::{
        destination::{Destination, DestinationKind},
        response::{HoldRetry, Outcome, Reason},
        sender::Receipt,
    },
    message::installation::Installation,
    simulation::{schema, testing},
    snapshot::{
        environments::{EnvironmentInfo, Head},
        event,
        ledger::content_hash,
        log::EntryMeta,
    },
    time::Moment,
};

/// Why the API server refuses a status that is too long.
const TOO_LONG: &str = "status.message: Too long";
/// When the clock starts.
const EPOCH: i64 = 1_700_000_000;

fn wall(at: Duration) -> Timestamp {
    let since = SignedDuration::try_from(at).unwrap();
    Timestamp::from_second(EPOCH).unwrap() + since
}

/// What the simulated log answers comes at once.
fn block_on<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("it never waits")
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Status and reason of a condition.
fn says(status: &NotificationSettingStatus, condition: &str) -> String {
    let condition = condition::find(&status.conditions, condition);
    condition.map_or(String::new(), |it| format!("{} {}", it.status, it.reason))
}

/// By how much the wall clock of an operator is wrong at this time.
type ClockError = dyn Fn(usize, Duration) -> SignedDuration;

/// How a receiver answers an attempt: the outcome, how long it takes, and whether it has taken the message.
#[derive(Clone, Debug)]
struct Answer {
    outcome: Outcome,
    after: Duration,
    taken: bool,
}

fn takes() -> Answer {
    Answer {
        outcome: Outcome::DELIVERED,
        after: millis(3),
        taken: true,
    }
}

fn fails(reason: Reason) -> Answer {
    Answer {
        outcome: Outcome::Retry {
            after: None,
            reason,
            message: "the destination is in trouble".to_owned(),
        },
        after: millis(3),
        taken: false,
    }
}

fn refuses(message: &str) -> Answer {
    Answer {
        outcome: Outcome::Refused {
            reason: Reason::PayloadRefused,
            message: message.to_owned(),
        },
        after: millis(3),
        taken: false,
    }
}

fn holds() -> Answer {
    Answer {
        outcome: Outcome::Hold {
            retry: HoldRetry::Slowly,
            reason: Reason::NotFound,
            message: "the destination answered 404".to_owned(),
        },
        after: millis(3),
        taken: false,
    }
}

/// Answers the attempt at this time, at this URL, with this id.
type Receiver = dyn FnMut(Duration, &str, &str) -> Answer;

/// An attempt, as the receiver has seen it.
#[derive(Clone, Debug)]
struct Heard {
    at: Duration,
    url: String,
    id: String,
    body: Bytes,
    taken: bool,
}

impl Heard {
    /// Whether it holds text alone.
    fn is_plain(&self) -> bool {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body.as_object().unwrap().keys().eq(["text"])
    }
}

/// The log of one environment.
#[derive(Clone, Debug, Default)]
struct Log {
    name: String,
    created: Duration,
    generation: i64,
    visible_to: Vec<String>,
    /// Deleted environments keep their log for a while.
    deleted: bool,
    /// What the recorder says of its end.
    head_known: bool,
    entries: BTreeMap<i64, (Arc<EnvironmentSnapshotSpec>, Duration, u64)>,
    unreadable: BTreeSet<i64>,
}

/// What may go wrong, each with so many chances in a thousand.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// The operator dies between two actions and starts again.
    kill: u64,
    /// A write of the status is carried out and its answer lost.
    lost_reply: u64,
    /// A write of the status fails.
    write_fails: u64,
    /// Someone edits the setting's metadata.
    edit: u64,
    /// A read of the log fails.
    read_fails: u64,
    /// The Secret can't be read.
    secret_fails: u64,
}

enum Event {
    /// An operator knows that the logs end here.
    Heads(usize, u64, BTreeMap<String, Option<(i64, Timestamp)>>),
    Input(usize, u64, Box<Input>),
    /// The work of an action is done now.
    Perform(usize, u64, Box<Action>),
    /// A receiver has an answer for an operator.
    Answered(usize, u64, Token, Now, Box<Receipt>),
    Start(usize),
}

struct Operator {
    /// Counts starts: what was begun before a kill is not heard of after it.
    life: u64,
    state: Option<SettingState>,
    waiting: BTreeSet<Token>,
    held: BTreeSet<Token>,
    /// What the operator has been told of the spec.
    suspended: bool,
    stopped: bool,
    generation: i64,
    destination: Option<String>,
    progress: Vec<Cursor>,
    /// Where the logs end, as far as it knows.
    heads: BTreeMap<String, Head>,
    /// When the last of what it was told of environments reaches it.
    news_until: Duration,
}

/// A simulated installation with one setting.
struct Simulation {
    at: Duration,
    clock_error: Box<ClockError>,
    random: u64,
    faults: Faults,
    logs: BTreeMap<String, Log>,
    setting: NotificationSetting,
    setting_created: Duration,
    version: u64,
    /// The resource version of the setting.
    setting_version: u64,
    /// The URL in the Secret; `None`: there is no Secret.
    url: Option<String>,
    receiver: Box<Receiver>,
    /// How long a turn at the destination takes to come.
    turn: Box<dyn FnMut(u64) -> Duration>,
    /// How much longer than usual an action takes.
    slow: Box<dyn Fn(&Action) -> Duration>,
    /// The API server refuses a status that is longer.
    longest_status: usize,
    /// Somebody else wrote the status, and not as the schema has it: what is taken over of it need not fit either.
    foreign_status: bool,
    /// A write or read of the setting answers 404.
    spurious_404: bool,
    /// The watch of settings shows nothing.
    watch_is_silent: bool,
    heard: Vec<Heard>,
    /// How many attempts count as deliveries in the metrics.
    deliveries: usize,
    events: Vec<(EventReason, String)>,
    status_writes: usize,
    /// What was written, in order.
    written: Vec<NotificationSettingStatus>,
    /// How often a log was listed to find a start.
    lists: usize,
    kills: usize,
    /// How often an operator left the setting to another.
    stood_back: usize,
    steps: usize,
    operators: Vec<Operator>,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    installation: Arc<Installation>,
}

struct Reader<'a>(&'a BTreeMap<String, Log>, bool);

impl LogReader for Reader<'_> {
    async fn read(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, String> {
        let log = self
            .0
            .get(&environment.uid)
            .filter(|log| log.name == environment.name);
        let unreadable = log.is_some_and(|log| log.unreadable.contains(&index));
        if self.1 || unreadable {
            return Err("no answer from the API server".to_owned());
        }
        Ok(log.and_then(|log| log.entries.get(&index).map(|(spec, ..)| spec.clone())))
    }

    async fn entries(&self, environment: &EnvironmentId) -> Result<Vec<EntryMeta>, String> {
        if self.1 {
            return Err("no answer from the API server".to_owned());
        }
        let log = self.0.get(&environment.uid);
        let entries = log.into_iter().flat_map(|log| &log.entries);
        let meta = |(index, (_, created, version)): (&i64, &(_, Duration, u64))| EntryMeta {
            index: *index,
            name: String::new(),
            uid: String::new(),
            created: condition::whole_seconds(wall(*created)),
            version: *version,
            checkpoint: false,
            bytes: 0,
            chunk: false,
        };
        Ok(entries.map(meta).collect())
    }
}

fn webhook() -> NotificationSettingSpec {
    NotificationSettingSpec {
        webhook: Some(Webhook::default()),
        ..NotificationSettingSpec::default()
    }
}

fn slack() -> NotificationSettingSpec {
    NotificationSettingSpec {
        slack: Some(Slack::default()),
        ..NotificationSettingSpec::default()
    }
}

fn with_one_environment(spec: NotificationSettingSpec) -> Simulation {
    let mut it = Simulation::new(7, spec);
    it.environment("prod", "u1");
    it.at += seconds(10);
    it.setting_created = it.at;
    it
}

fn change(it: &mut Simulation, uid: &str, name: &str) {
    it.append(uid, &[(name, 0, 1)]);
}

fn reasons(it: &Simulation) -> Vec<String> {
    let status = it.status();
    let ranges = status.skipped_ranges.iter();
    ranges.map(|range| range.reason.clone()).collect()
}

impl Simulation {
    fn new(seed: u64, spec: NotificationSettingSpec) -> Self {
        Self {
            at: seconds(1_000),
            clock_error: Box::new(|_, _| SignedDuration::ZERO),
            random: seed,
            faults: Faults::default(),
            logs: BTreeMap::new(),
            setting: NotificationSetting {
                metadata: ObjectMeta {
                    namespace: Some("team".to_owned()),
                    name: Some("hook".to_owned()),
                    uid: Some("setting-uid".to_owned()),
                    generation: Some(1),
                    ..ObjectMeta::default()
                },
                spec,
                status: None,
            },
            setting_created: seconds(1_000),
            version: 100,
            setting_version: 100,
            url: Some("https://hook.example/a".to_owned()),
            receiver: Box::new(|_, _, _| takes()),
            turn: Box::new(|random| millis(random % 3)),
            slow: Box::new(|_| Duration::ZERO),
            longest_status: usize::MAX,
            foreign_status: false,
            spurious_404: false,
            watch_is_silent: false,
            heard: vec![],
            deliveries: 0,
            events: vec![],
            status_writes: 0,
            written: vec![],
            lists: 0,
            kills: 0,
            stood_back: 0,
            steps: 0,
            operators: vec![],
            queue: BTreeMap::new(),
            sequence: 0,
            installation: Arc::new(Installation {
                org: "org".to_owned(),
                cluster: "cluster".to_owned(),
                external_url: None,
            }),
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.random() % 1000 < per_mille
    }

    fn now(&self, operator: usize) -> Now {
        Now {
            moment: Moment::ZERO + self.at,
            wall: wall(self.at) + (self.clock_error)(operator, self.at),
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.at + after, self.sequence), event);
    }

    fn latency(&mut self) -> Duration {
        millis(1 + self.random() % 5)
    }

    // ---- the cluster ----

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Creates an environment with its baseline.
    fn environment(&mut self, name: &str, uid: &str) {
        let created = self.at;
        let log = Log {
            name: name.to_owned(),
            created,
            generation: 1,
            visible_to: vec!["*".to_owned()],
            head_known: true,
            ..Log::default()
        };
        self.logs.insert(uid.to_owned(), log);
        self.append(uid, &[]);
        self.environments_changed();
    }

    /// Appends a snapshot with these changes: name, was, now.
    fn append(&mut self, uid: &str, changes: &[(&str, i64, i64)]) {
        let version = self.next_version();
        let at = self.at;
        let log = self.logs.get_mut(uid).unwrap();
        let index = log.entries.keys().next_back().map_or(1, |last| last + 1);
        let mut spec = testing::snapshot(index, changes);
        spec.environment.clone_from(&log.name);
        uid.clone_into(&mut spec.environment_uid);
        spec.time = wall(at);
        spec.content_hash = content_hash(&spec);
        log.entries.insert(index, (Arc::new(spec), at, version));
        if !log.head_known {
            return;
        }
        self.log_grew(uid);
    }

    /// Tells where a log ends now.
    fn log_grew(&mut self, uid: &str) {
        let grown = BTreeSet::from([self.logs[uid].name.clone()]);
        for operator in 0..self.operators.len() {
            self.tell(operator, Input::LogsGrew(grown.clone()));
        }
    }

    /// Where each log ends now, as far as that is known.
    fn heads(&self) -> BTreeMap<String, Option<(i64, Timestamp)>> {
        let head = |log: &Log| {
            let (index, (_, created, _)) = log.entries.last_key_value()?;
            log.head_known.then(|| (*index, wall(*created)))
        };
        let heads = self.logs.iter();
        heads.map(|(uid, log)| (uid.clone(), head(log))).collect()
    }

    /// The environments that there are, with the heads that an operator shares.
    fn infos(&mut self, operator: usize) -> Arc<BTreeMap<String, EnvironmentInfo>> {
        let heads = &mut self.operators[operator].heads;
        let living = self.logs.iter().filter(|(_, log)| !log.deleted);
        let info = |(uid, log): (&String, &Log)| {
            let info = EnvironmentInfo {
                uid: uid.clone(),
                generation: log.generation,
                created: Some(condition::whole_seconds(wall(log.created))),
                visible_to: log.visible_to.clone(),
                head: heads.entry(uid.clone()).or_default().clone(),
            };
            (log.name.clone(), info)
        };
        Arc::new(living.map(info).collect())
    }

    fn environments_changed(&mut self) {
        for operator in 0..self.operators.len() {
            let infos = self.infos(operator);
            self.tell(operator, Input::Environments(infos));
        }
    }

    /// Edits the setting's spec.
    fn edit(&mut self, change: impl FnOnce(&mut NotificationSettingSpec)) {
        change(&mut self.setting.spec);
        *self.setting.metadata.generation.as_mut().unwrap() += 1;
        self.setting_changed();
    }

    /// Asks for a test message.
    fn request_test(&mut self, request: &str) {
        let annotations = &mut self.setting.metadata.annotations;
        let annotations = annotations.get_or_insert_default();
        annotations.insert(TEST_ANNOTATION.to_owned(), request.to_owned());
        self.setting_changed();
    }

    /// The setting's namespace may not see this environment any more.
    fn hide(&mut self, uid: &str) {
        let log = self.logs.get_mut(uid).unwrap();
        log.visible_to = vec!["other".to_owned()];
        log.generation += 1;
        self.environments_changed();
    }

    fn setting_changed(&mut self) {
        self.setting_version = self.next_version();
        if self.watch_is_silent {
            return;
        }
        for operator in 0..self.operators.len() {
            let setting = Arc::new(self.object());
            self.tell(operator, Input::Setting(setting));
        }
    }

    fn object(&self) -> NotificationSetting {
        let mut object = self.setting.clone();
        object.metadata.resource_version = Some(self.setting_version.to_string());
        object.metadata.creation_timestamp =
            Some(Time(condition::whole_seconds(wall(self.setting_created))));
        object
    }

    fn status(&self) -> NotificationSettingStatus {
        self.setting.status.clone().unwrap_or_default()
    }

    fn delivered(&self) -> String {
        says(&self.status(), condition::DELIVERED)
    }

    fn ready(&self) -> String {
        says(&self.status(), condition::READY)
    }

    fn tell(&mut self, operator: usize, input: Input) {
        let mut at = self.at + self.latency();
        let life = self.operators[operator].life;
        if matches!(input, Input::Environments(_) | Input::LogsGrew(_)) {
            // What is newer is never heard of before what is older.
            at = at.max(self.operators[operator].news_until);
            self.operators[operator].news_until = at;
            let heads = Event::Heads(operator, life, self.heads());
            self.schedule(at - self.at, heads);
        }
        self.schedule(at - self.at, Event::Input(operator, life, Box::new(input)));
    }

    // ---- the operators ----

    fn start(&mut self) -> usize {
        self.operators.push(Operator {
            life: 0,
            state: None,
            waiting: BTreeSet::new(),
            held: BTreeSet::new(),
            suspended: false,
            stopped: false,
            generation: 0,
            destination: None,
            progress: vec![],
            heads: BTreeMap::new(),
            news_until: Duration::ZERO,
        });
        let operator = self.operators.len() - 1;
        self.begin(operator);
        operator
    }

    fn begin(&mut self, operator: usize) {
        let setting = Arc::new(self.object());
        self.operators[operator].heads.clear();
        self.know_heads(operator, self.heads());
        let infos = self.infos(operator);
        let it = &mut self.operators[operator];
        it.life += 1;
        it.waiting.clear();
        it.held.clear();
        it.destination = None;
        it.stopped = false;
        it.generation = setting.metadata.generation.unwrap();
        it.suspended = setting.spec.suspend == Some(true);
        let (state, actions) = SettingState::new(
            setting,
            infos,
            self.installation.clone(),
            self.now(operator),
        );
        self.operators[operator].state = Some(state);
        self.execute(operator, actions);
    }

    fn know_heads(&mut self, operator: usize, heads: BTreeMap<String, Option<(i64, Timestamp)>>) {
        let known = &mut self.operators[operator].heads;
        for (uid, head) in heads {
            known.entry(uid).or_default().set(head);
        }
    }

    fn kill(&mut self, operator: usize) {
        self.kills += 1;
        self.operators[operator].state = None;
        self.operators[operator].life += 1;
    }

    fn restart(&mut self, operator: usize) {
        self.kill(operator);
        self.schedule(millis(500), Event::Start(operator));
    }

    fn stop(&mut self, operator: usize) {
        self.feed(operator, Input::Stop);
    }

    /// Tells an operator what happened, and does what it says.
    fn feed(&mut self, operator: usize, input: Input) {
        let now = self.now(operator);
        let it = &mut self.operators[operator];
        match &input {
            Input::Setting(setting) => {
                it.suspended = setting.spec.suspend == Some(true);
                it.generation = setting.metadata.generation.unwrap();
            }
            Input::Stop => it.stopped = true,
            Input::Destination(_, DestinationAnswer::Known(destination)) => {
                it.destination = Some(destination.expose_url().to_string());
            }
            Input::Turn(token, Ok(())) => {
                it.waiting.remove(token);
                it.held.insert(*token);
            }
            _ => {}
        }
        self.steps += 1;
        let Some(state) = &mut self.operators[operator].state else {
            return;
        };
        let stood_back = state.stands_back();
        let actions = state.step(input, now);
        self.stood_back += usize::from(state.stands_back() && !stood_back);
        self.execute(operator, actions);
    }

    fn execute(&mut self, operator: usize, actions: Vec<Action>) {
        let life = self.operators[operator].life;
        for action in actions {
            if self.chance(self.faults.kill) {
                self.restart(operator);
            }
            if self.operators[operator].life != life {
                return;
            }
            let mut after = self.latency() + (self.slow)(&action);
            match action {
                Action::ReleaseTurn(token) => {
                    let it = &mut self.operators[operator];
                    it.waiting.remove(&token);
                    it.held.remove(&token);
                    continue;
                }
                Action::Publish(reason, note) => {
                    self.events.push((reason, note));
                    continue;
                }
                Action::Progress(cursors) => {
                    self.operators[operator].progress = cursors;
                    continue;
                }
                Action::Send(token, destination, id, body) => {
                    self.send(operator, token, &destination, id, body);
                    continue;
                }
                Action::TakeTurn(token, _) => {
                    self.operators[operator].waiting.insert(token);
                    let random = self.random();
                    after = (self.turn)(random);
                }
                _ => {}
            }
            self.schedule(after, Event::Perform(operator, life, Box::new(action)));
        }
    }

    fn send(
        &mut self,
        operator: usize,
        token: Token,
        destination: &Destination,
        id: String,
        body: Bytes,
    ) {
        let it = &self.operators[operator];
        assert!(it.held.contains(&token), "sent without a turn");
        assert!(!it.suspended, "sent after spec.suspend was seen");
        assert!(!it.stopped, "sent after stop");
        let url = destination.expose_url().to_string();
        assert_eq!(Some(&url), it.destination.as_ref(), "sent to an old URL");
        let slack = self.setting.spec.slack.is_some();
        if it.generation == self.setting.metadata.generation.unwrap() {
            let kind = destination.kind == DestinationKind::Slack;
            assert_eq!(kind, slack, "a message of another generation");
        }
        let life = it.life;
        let answer = (self.receiver)(self.at, &url, &id);
        self.heard.push(Heard {
            at: self.at,
            url,
            id,
            body,
            taken: answer.taken,
        });
        let receipt = Receipt {
            outcome: answer.outcome,
            status: Some(200),
            latency: answer.after,
        };
        let began = self.now(operator);
        let answered = Event::Answered(operator, life, token, began, Box::new(receipt));
        self.schedule(answer.after, answered);
    }

    /// Does what an action asks for, and schedules the answer.
    fn perform(&mut self, operator: usize, action: Action) {
        let fails = self.chance(self.faults.read_fails);
        let input = match action {
            Action::ReadDestination(generation) => {
                Input::Destination(generation, self.destination())
            }
            Action::Search(token, search) => {
                let found = block_on(search.find(&Reader(&self.logs, fails)));
                Input::Found(token, found)
            }
            Action::TakeTurn(token, _) => {
                if !self.operators[operator].waiting.contains(&token) {
                    return; // given up meanwhile
                }
                Input::Turn(token, Ok(()))
            }
            Action::Compose(token, search, key) => {
                let origin = Origin {
                    installation: &self.installation,
                    setting: ("team", "hook"),
                };
                let reader = Reader(&self.logs, fails);
                Input::Composed(token, block_on(search.compose(&reader, &key, &origin)))
            }
            Action::Count(subscription, ranges) => {
                let counted = self.count(&subscription, ranges, fails);
                Input::Counted(subscription.generation, counted)
            }
            Action::ListEntries(environment) => {
                self.lists += 1;
                let entries = block_on(Reader(&self.logs, fails).entries(&environment));
                Input::Entries(environment, entries)
            }
            Action::Locate(token, locate) => {
                let found = block_on(locate.find(&Reader(&self.logs, fails)));
                Input::Located(token, found)
            }
            Action::Compare(environment, index) => {
                let read = block_on(Reader(&self.logs, fails).read(&environment, index));
                Input::Compared(environment, read.map(|read| read.is_some()))
            }
            Action::CheckDeleted(environment) => {
                let log = self.logs.get(&environment.uid);
                let deleted = match log {
                    Some(log) if !log.deleted => Deleted::No,
                    log => {
                        let last = log.and_then(|log| log.entries.keys().next_back().copied());
                        Deleted::Yes(last.unwrap_or(0))
                    }
                };
                Input::Checked(environment, Ok(deleted))
            }
            Action::WriteStatus(write) => {
                let answer = self.write_status(&write);
                Input::Written(write.counted, answer)
            }
            Action::ReadSetting => Input::Read(if self.spurious_404 {
                Err("it is not there".to_owned())
            } else {
                Ok((
                    Box::new(self.status()),
                    Some(self.setting_version.to_string()),
                ))
            }),
            Action::ReleaseTurn(_)
            | Action::Send(..)
            | Action::Publish(..)
            | Action::Progress(_) => unreachable!("done at once"),
        };
        self.tell(operator, input);
    }

    fn destination(&mut self) -> DestinationAnswer {
        let webhook = self.setting.spec.webhook.as_ref();
        if let Some(url) = webhook.and_then(|webhook| webhook.url.as_deref()) {
            return match Destination::parse(DestinationKind::Webhook, url) {
                Ok(destination) => DestinationAnswer::Known(destination),
                Err(error) => DestinationAnswer::NotReady(NotReady::of_spec(
                    NotReadyReason::UrlInvalid,
                    format!("spec.webhook.url: {error}"),
                )),
            };
        }
        if self.chance(self.faults.secret_fails) {
            return DestinationAnswer::Unknown("no answer from the API server".to_owned());
        }
        let kind = if self.setting.spec.slack.is_some() {
            DestinationKind::Slack
        } else {
            DestinationKind::Webhook
        };
        match &self.url {
            Some(url) => DestinationAnswer::Known(Destination::parse(kind, url).unwrap()),
            None => DestinationAnswer::NotReady(NotReady::new(
                NotReadyReason::SecretNotFound,
                "there is no Secret hook",
            )),
        }
    }

    fn count(
        &self,
        subscription: &Subscription,
        ranges: Vec<LogRange>,
        fails: bool,
    ) -> Vec<CountedRange> {
        let reader = Reader(&self.logs, fails);
        let count = |range: LogRange| {
            let (from, to) = (range.from, range.to);
            let read = |index| block_on(reader.read(&range.environment, index));
            let read = (from..=to).map(|index| (index, read(index)));
            let good: Vec<_> = read.take_while(|(_, read)| read.is_ok()).collect();
            let complete = good.len() == usize::try_from(to - from + 1).unwrap();
            let entry = |(index, read): (i64, Result<Option<Arc<_>>, String>)| {
                subscription.count_entry(index, read.unwrap().as_deref())
            };
            let entries = good.into_iter().map(entry).collect();
            CountedRange {
                environment: range.environment,
                entries,
                complete,
            }
        };
        ranges.into_iter().map(count).collect()
    }

    /// The API server takes a status, or does not.
    fn write_status(&mut self, write: &StatusWrite) -> WriteAnswer {
        self.status_writes += 1;
        if self.spurious_404 {
            return WriteAnswer::Failed("not found".to_owned());
        }
        if self.chance(self.faults.edit) {
            self.setting_changed();
        }
        if self.chance(self.faults.write_fails) {
            return WriteAnswer::Failed("the API server is in trouble".to_owned());
        }
        match &write.form {
            WriteForm::Replace { version } => {
                if version.as_deref() != Some(&*self.setting_version.to_string()) {
                    return WriteAnswer::Conflict;
                }
            }
            WriteForm::Patch(patch) => {
                let status = serde_json::to_value(&self.setting.status).unwrap();
                let whole = json!({"status": status});
                let tests = patch.as_array().unwrap().iter().skip(1);
                for test in tests.filter(|it| it["op"] == "test") {
                    let there = whole.pointer(test["path"].as_str().unwrap());
                    if test["value"] != *there.unwrap_or(&serde_json::Value::Null) {
                        return WriteAnswer::Refused("the test failed".to_owned());
                    }
                }
            }
        }
        // Only the object that is to be written is held against the schema.
        let size = serde_json::to_string(&write.status).unwrap().len();
        if size > self.longest_status {
            return WriteAnswer::Refused(TOO_LONG.to_owned());
        }
        if !self.foreign_status {
            let refusal = schema::refusal("notificationsettings", "status", &write.status);
            assert_eq!(refusal, None, "it is accepted");
        }
        self.setting.status = Some(write.status.clone());
        self.written.push(write.status.clone());
        self.setting_changed();
        if self.chance(self.faults.lost_reply) {
            return WriteAnswer::Failed("no answer from the API server".to_owned());
        }
        WriteAnswer::Written {
            status: Box::new(write.status.clone()),
            version: Some(self.setting_version.to_string()),
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.at + time;
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let states = self.operators.iter().enumerate();
            let wake = states
                .filter_map(|(operator, it)| {
                    // A timer runs out a little late, so that other things may happen first.
                    let wake = it.state.as_ref()?.wake_at()? - Moment::ZERO + millis(1);
                    Some((wake, operator))
                })
                .min();
            let next = [queued, wake.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.at = end;
                return;
            };
            assert!(self.steps < 2_000_000, "it spins");
            self.at = self.at.max(next);
            if let Some((at, operator)) = wake
                && queued.is_none_or(|queued| at < queued)
            {
                self.feed(operator, Input::Wake);
                continue;
            }
            let (_, event) = self.queue.pop_first().unwrap();
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let alive = |it: &Self, operator: usize, life| it.operators[operator].life == life;
        match event {
            Event::Input(operator, life, input) if alive(self, operator, life) => {
                self.feed(operator, *input);
            }
            Event::Perform(operator, life, action) => {
                // A write that was sent may be carried out though its sender is dead.
                if alive(self, operator, life) {
                    self.perform(operator, *action);
                } else if let Action::WriteStatus(write) = *action
                    && self.random().is_multiple_of(2)
                {
                    self.write_status(&write);
                }
            }
            Event::Answered(operator, life, token, began, receipt)
                if alive(self, operator, life) =>
            {
                let state = self.operators[operator].state.as_ref();
                let test = state.is_some_and(|state| state.is_test(token));
                self.deliveries += usize::from(!test);
                self.feed(operator, Input::Sent(token, began, *receipt));
            }
            Event::Heads(operator, life, heads) if alive(self, operator, life) => {
                self.know_heads(operator, heads);
            }
            Event::Start(operator) => self.begin(operator),
            Event::Heads(..) | Event::Input(..) | Event::Answered(..) => {}
        }
    }

    // ---- what is checked ----

    /// The ids of all events of a log that are asked for by default, in order, after this snapshot.
    fn ids_after(&self, uid: &str, index: i64) -> Vec<String> {
        let entries = self.logs[uid].entries.range(index + 1..);
        entries
            .flat_map(|(_, (spec, ..))| {
                let wanted = spec.events.iter().enumerate();
                let wanted = wanted.filter(|(_, it)| it.type_ != EventType::ArtifactScaled);
                wanted
                    .map(|(at, _)| event::id(spec, at))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The ids that the receiver has taken, each once, in the order in which it took them first.
    fn taken(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let taken = self.heard.iter().filter(|heard| heard.taken);
        let first = taken.filter(|heard| seen.insert(heard.id.clone()));
        first.map(|heard| heard.id.clone()).collect()
    }

    /// How many messages the receiver took more than once; each time with the same bytes.
    fn duplicates(&self) -> usize {
        let mut bodies: BTreeMap<&str, &Bytes> = BTreeMap::new();
        let mut duplicates = 0;
        for heard in self.heard.iter().filter(|heard| heard.taken) {
            if let Some(before) = bodies.insert(&heard.id, &heard.body) {
                assert_eq!(before, &heard.body, "a duplicate with another body");
                duplicates += 1;
            }
        }
        duplicates
    }

    /// The most duplicates that kills may have caused, and that one operator took over from another.
    fn allowed_duplicates(&self) -> usize {
        let window = usize::try_from(WINDOW).unwrap() + 1;
        (self.kills + self.stood_back) * window * self.logs.len()
    }
}
