//! The state machine of one setting. It is told what happened (an [`Input`]) and says what to do (a list of [`Action`]s);
//! whoever executes them feeds the results back. Nothing here waits, reads a clock or talks to anyone.
//!
//! What is decided is decided when it is executed: a message is composed after its turn at the destination has come, and is
//! sent only if the spec, the destination and everything else still allow it then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tracing::{debug, info, warn};

use crate::{
    api::{
        NotificationSetting, NotificationSettingStatus, TEST_ANNOTATION, condition,
        condition::READY,
        setting::{Cursor, StartDecision, StartReason},
    },
    backoff,
    cluster::pod_view::version,
    delivery::{
        conditions::{self, ConditionInput, NotReady, PATIENCE, Problems, shorten},
        environment_queue::{
            Counted, EnvironmentQueue, EnvironmentQueues, Token, Turn, Unreadable, Work,
        },
        history::{self, Attempt, SkippedEntries},
        next_message::{Found, Message, MessageKey, Next, Search},
        pending::{CountedEntry, PendingCount},
        reasons::{EventReason, NotReadyReason, SkipReason},
        retry::{Began, Recovery, RetryState, Verdict},
        start::{self, Age, Handled},
        status_writer::{ConflictOutcome, StatusWrite, StatusWriter, WriteAnswer, WriteDue},
        subscription::Subscription,
        test_message::TestMessage,
        visibility::followed,
    },
    http::{
        destination::{Destination, DestinationKind},
        outcome::{Outcome, Reason},
        sender::Receipt,
    },
    message::{installation::Installation, unreported_gap},
    snapshot::{environments::EnvironmentInfo, log::EntryMeta},
    time::Moment,
};

/// A destination that was read longer ago is read again before it is used: a rotated Secret is taken up within this.
const DESTINATION_FRESH: Duration = Duration::from_secs(30);
/// How often to look for what is missing, at first and later.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// How many messages of one environment may use one turn at a webhook, and for how long: a setting's backlog goes out in
/// bursts, so that one status write acknowledges many events and nobody waits long for a burst to end.
const BURST: (u32, Duration) = (32, Duration::from_millis(250));
/// At most this many entries of the logs are counted before a write of the status; the next write goes on.
const COUNTED: i64 = 256;
/// At most this many entries are counted to say what a queue that ends leaves behind.
const COUNTED_AT_END: i64 = 2_000;
/// A log that can't be read this often in a row is reported.
const UNREADABLE: u32 = 2;
/// At most this many characters of the column ENVIRONMENTS.
const COLUMN: usize = 256;
/// At most this many decisions about starts are kept in the status once their cursors stand there.
const STARTS_KEPT: usize = 32;
/// At most this many characters of the annotation that asks for a test.
const TEST_REQUEST: usize = 256;

/// The time, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub moment: Moment,
    pub wall: Timestamp,
}

/// Where a setting sends to, or why that is not known.
#[derive(Clone, Debug)]
pub(crate) enum DestinationAnswer {
    Known(Destination),
    NotReady(NotReady),
    /// The API server did not say; it will.
    Unknown(String),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The watch shows the setting.
    Setting(Arc<NotificationSetting>),
    /// Environments came, went or were edited.
    Environments(Arc<BTreeMap<String, EnvironmentInfo>>),
    /// The logs of these environments have grown; of all environments nothing else has changed.
    LogsGrew(Arc<BTreeMap<String, EnvironmentInfo>>, BTreeSet<String>),
    /// The destination of this generation of the spec.
    Destination(i64, DestinationAnswer),
    /// What a search found.
    Found(Token, Found),
    /// A turn has come, or the destination may not be dialled.
    Turn(Token, Result<(), String>),
    /// The message is composed; `None`: the log no longer holds it.
    Composed(Token, Result<Option<Message>, String>),
    /// An attempt was answered. When it began.
    Sent(Token, Now, Receipt),
    /// Entries were counted: environment UID, entries, whether all could be read.
    Counted(Vec<(String, Vec<CountedEntry>, bool)>),
    /// The entries of a log for which a start is to be found.
    Entries(String, Result<Vec<EntryMeta>, String>),
    /// Whether the log has the entry that a cursor has reached.
    Compared(String, Result<bool, String>),
    /// Whether an environment that seems to be deleted is, and where its log ends.
    Checked(String, Result<Deleted, String>),
    /// A write of the status was answered.
    Written(Counted, WriteAnswer),
    /// The setting as the API server has it: status and version. `Err`: it could not be read, or is not there.
    Read(Result<(Box<NotificationSettingStatus>, Option<String>), String>),
    /// The program is to stop.
    Stop,
    /// The time has come that [`SettingState::wake_at`] named.
    Wake,
}

/// What is known of an environment that seems to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    No,
    /// It is, and its log ends here.
    Yes(i64),
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Read where this generation of the spec sends to.
    ReadDestination(i64),
    Search(Token, Box<Search>),
    /// Wait for a turn at the destination.
    TakeTurn(Token, Destination),
    /// Give a turn back, or stop waiting for it.
    ReleaseTurn(Token),
    Compose(Token, Box<Search>, MessageKey),
    /// Make one attempt with this turn: the message's id and body.
    Send(Token, Destination, String, bytes::Bytes),
    /// Count what waits: environment, UID, first and last entry.
    Count(Arc<Subscription>, Vec<(String, String, i64, i64)>),
    ListEntries(String, String),
    Compare(String, String, i64),
    CheckDeleted(String, String),
    WriteStatus(Box<StatusWrite>),
    ReadSetting,
    /// Record a Kubernetes Event.
    Publish(EventReason, String),
    /// How far the status says that this setting has got, for pruning.
    Progress(Vec<Cursor>),
}

/// What is known of the destination.
#[derive(Debug, Default)]
struct DestinationState {
    value: Option<Destination>,
    /// When it was asked for last.
    read_at: Option<Moment>,
    reading: bool,
}

/// The state of one setting.
pub(crate) struct SettingState {
    setting: Arc<NotificationSetting>,
    title: String,
    seed: u64,
    installation: Arc<Installation>,
    subscription: Arc<Subscription>,
    environments: Arc<BTreeMap<String, EnvironmentInfo>>,
    status: NotificationSettingStatus,
    writer: StatusWriter,
    queues: EnvironmentQueues,
    /// Environments whose entries are being listed, and when to list again those that could not be.
    listing: BTreeMap<String, Option<Moment>>,
    retry: RetryState,
    /// The queue that failed: it goes first.
    probe: Option<String>,
    destination: DestinationState,
    problems: Problems,
    not_ready_since: Option<Moment>,
    look_again: Option<Moment>,
    test: TestMessage,
    tokens: Token,
    /// The count for the next write: none yet, under way, done.
    counting: Counting,
    stopping: bool,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Counting {
    #[default]
    Not,
    UnderWay,
    Done,
}

impl SettingState {
    /// The state of a setting as it was read, and the first things to do.
    pub fn new(
        setting: Arc<NotificationSetting>,
        environments: Arc<BTreeMap<String, EnvironmentInfo>>,
        installation: Arc<Installation>,
        now: Now,
    ) -> (Self, Vec<Action>) {
        let status = setting.status.clone().unwrap_or_default();
        let meta = &setting.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let mut state = Self {
            title: format!("{namespace}/{name}"),
            seed: backoff::seed(uid),
            subscription: Arc::new(Subscription::of(
                &setting.spec,
                meta.generation.unwrap_or(1),
            )),
            writer: StatusWriter::new(status.clone(), meta.resource_version.clone(), now.moment),
            queues: EnvironmentQueues::default(),
            listing: BTreeMap::new(),
            retry: resumed(&status),
            probe: None,
            destination: DestinationState::default(),
            problems: Problems::default(),
            not_ready_since: not_ready_since(&status, now),
            look_again: None,
            test: TestMessage::default(),
            tokens: 0,
            counting: Counting::Not,
            stopping: false,
            actions: vec![Action::Progress(status.cursors.clone())],
            setting,
            installation,
            environments,
            status,
        };
        for cursor in state.status.cursors.clone() {
            state.queues.open(cursor);
        }
        state.apply_spec(now, false);
        state.advance(now);
        let actions = std::mem::take(&mut state.actions);
        (state, actions)
    }

    /// Takes in what happened; says what to do.
    pub fn step(&mut self, input: Input, now: Now) -> Vec<Action> {
        match input {
            Input::Setting(setting) => self.setting_changed(setting, now),
            Input::Environments(environments) => {
                self.environments = environments;
                self.follow_environments(now);
            }
            Input::LogsGrew(environments, grown) => {
                self.environments = environments.clone();
                for (name, info) in grown
                    .iter()
                    .filter_map(|name| environments.get_key_value(name))
                {
                    if let Some((head, _)) = info.head {
                        self.log_grew(name, &info.uid, head, now);
                    }
                }
            }
            Input::Destination(generation, answer) => {
                self.destination_read(generation, answer, now);
            }
            Input::Found(token, found) => self.found(token, found, now),
            Input::Turn(token, result) => self.turn_came(token, result, now),
            Input::Composed(token, result) => self.composed(token, result, now),
            Input::Sent(token, began, receipt) => self.sent(token, began, &receipt, now),
            Input::Counted(counted) => self.counted(counted, now),
            Input::Entries(uid, result) => self.entries_listed(&uid, result, now),
            Input::Compared(uid, result) => self.compared(&uid, result, now),
            Input::Checked(uid, result) => self.checked(&uid, result, now),
            Input::Written(counted, answer) => self.written(&counted, answer, now),
            Input::Read(result) => self.read(result, now),
            Input::Stop => {
                self.stopping = true;
                self.cancel_unsent();
            }
            Input::Wake => {}
        }
        self.advance(now);
        std::mem::take(&mut self.actions)
    }

    /// Whether another operator is left alone with this setting.
    #[cfg(test)]
    pub fn stands_back(&self) -> bool {
        self.writer.stands_back_until().is_some()
    }

    /// Whether all is done that must be done before the program may stop.
    pub fn is_finished(&self) -> bool {
        self.stopping
            && !self.is_sending()
            && !self.writer.is_writing()
            && !self.writer.owes(self.queues.any_ahead())
    }

    /// Whether every cursor stands in the status that can.
    pub fn is_settled(&self) -> bool {
        self.starts_are_known() && self.writer.rests()
    }

    /// When to wake up if nothing happens before.
    pub fn wake_at(&self, now: Moment) -> Option<Moment> {
        let writing = match self.counting {
            Counting::UnderWay => None,
            _ if self.stopping => Some(self.writer.earliest()),
            _ => self.writer.next_write(self.queues.any_full()),
        };
        let next_list = self.listing.values().flatten().min().copied();
        let sending = self.retry.next_attempt().filter(|_| !self.is_suspended());
        [
            writing,
            self.writer.stands_back_until(),
            self.queues.next_read(),
            next_list,
            sending,
            self.look_again,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now) // what was due has been done, or waits for something else
        .min()
    }

    /// What the destination understands.
    pub fn kind(&self) -> DestinationKind {
        self.subscription.kind
    }

    fn is_suspended(&self) -> bool {
        self.subscription.suspended
    }

    fn is_sending(&self) -> bool {
        self.test.is_sending() || self.queues.iter().any(|(_, queue)| queue.work.is_sending())
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    fn publish(&mut self, reason: EventReason, note: impl Into<String>) {
        self.actions.push(Action::Publish(reason, note.into()));
    }

    // ---- what is asked for ----

    fn setting_changed(&mut self, setting: Arc<NotificationSetting>, now: Now) {
        let cursors = setting.status.as_ref().map(|status| &status.cursors[..]);
        let version = setting.metadata.resource_version.clone();
        self.writer.shown(cursors.unwrap_or_default(), version);
        let generation = setting.metadata.generation.unwrap_or(1);
        self.setting = setting;
        if generation != self.subscription.generation {
            self.subscription = Arc::new(Subscription::of(&self.setting.spec, generation));
            self.apply_spec(now, true);
        }
    }

    /// Takes in a spec. Nothing that was begun for another one is sent.
    fn apply_spec(&mut self, now: Now, edited: bool) {
        self.cancel_unsent();
        let names = self.subscription.environments.as_ref();
        let names = names.map(|names| names.join(","));
        self.status.destination = Some(self.subscription.kind.as_str().to_owned());
        self.status.environments = Some(shorten(names.as_deref().unwrap_or("*"), COLUMN));
        self.destination = DestinationState::default();
        if edited {
            self.problems.denied = None;
            self.not_ready_since = None; // what is missing now may be on its way
            self.retry.retry_now();
        }
        for (_, queue) in self.queues.iter_mut() {
            // Other events may be asked for now.
            queue.searched = queue.cursor.index;
            queue.pending = PendingCount::default();
            queue.pending.pass(queue.cursor.index);
        }
        if self.writer.written().observed_generation != Some(self.subscription.generation) {
            self.writer.wait_for_starts(now.moment);
        }
        if self.status.conditions.is_empty() {
            self.writer.ask(WriteDue::Soon);
        }
        self.follow_environments(now);
        self.read_destination();
    }

    /// Opens a queue for every environment that is asked for and may be seen, and ends those of others.
    fn follow_environments(&mut self, now: Now) {
        let environments = self.environments.clone();
        let names = self.subscription.environments.clone();
        let namespace = self.setting.metadata.namespace.clone().unwrap_or_default();
        let (wanted, problem) = followed(names.as_deref(), &environments, &namespace);
        self.update_problems(now, |problems| problems.environments = problem);
        self.end_queues(names.as_deref(), &environments, &namespace, now);
        let wanted_uid = |uid: &str| wanted.iter().any(|(_, info)| info.uid == uid);
        self.listing.retain(|uid, _| wanted_uid(uid));
        self.status
            .starts
            .retain(|start| wanted_uid(&start.environment_uid));
        for (name, info) in wanted {
            if self.queues.get(&info.uid).is_none() {
                self.decide_start(name, info);
                self.try_start(&info.uid, now);
            } else if let Some((head, _)) = info.head {
                self.log_grew(name, &info.uid, head, now);
            }
        }
        self.note_starts_decided(now);
    }

    /// Ends the queues of environments that are not asked for any more or may not be seen; those of deleted ones are
    /// finished first, if that does not take too long.
    fn end_queues(
        &mut self,
        names: Option<&Vec<String>>,
        environments: &BTreeMap<String, EnvironmentInfo>,
        namespace: &str,
        now: Now,
    ) {
        let mut leaving = vec![];
        for (uid, queue) in self.queues.iter_mut() {
            let name = &queue.cursor.environment;
            let listed = names.is_none_or(|names| names.contains(name));
            match environments.get(name).filter(|info| info.uid == *uid) {
                _ if !listed => leaving.push((uid.clone(), SkipReason::EnvironmentLeft)),
                Some(info) if !info.is_visible_to(namespace) => {
                    leaving.push((uid.clone(), SkipReason::EnvironmentNotVisible));
                }
                Some(_) => (queue.deleted, queue.leaving) = (None, None),
                None => {
                    queue.deleted.get_or_insert(now.moment);
                }
            }
        }
        for (uid, reason) in leaving {
            self.leave(&uid, reason, now);
        }
        self.expire_deleted(now);
    }

    /// Ends the queues of deleted environments whose backlog has failed for too long.
    fn expire_deleted(&mut self, now: Now) {
        if self.retry.problem().is_none() || self.is_suspended() {
            return;
        }
        let max_age = self.subscription.max_age;
        let expired = self.queues.iter().filter(|(_, queue)| {
            queue
                .deleted
                .is_some_and(|since| now.moment.saturating_sub(since) > max_age)
        });
        let expired: Vec<_> = expired.map(|(uid, _)| uid.clone()).collect();
        for uid in expired {
            self.leave(&uid, SkipReason::EnvironmentDeleted, now);
        }
    }

    /// Ends a queue once what waits in it has been counted.
    fn leave(&mut self, uid: &str, reason: SkipReason, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else {
            return;
        };
        if queue.leaving.replace(reason).is_some() {
            return; // being counted already
        }
        if let Some(turn) = queue.work.cancel() {
            self.actions.push(Action::ReleaseTurn(turn));
        }
        let from = queue.pending.next(queue.head);
        match from {
            Some(from) => {
                let to = queue.head.min(from.saturating_add(COUNTED_AT_END - 1));
                let count = (queue.cursor.environment.clone(), uid.to_owned(), from, to);
                let subscription = self.subscription.clone();
                self.actions.push(Action::Count(subscription, vec![count]));
            }
            None => self.close(uid, true, now),
        }
    }

    /// Closes a queue that ends, and says what was not sent, if anything was to be. `all`: everything was counted.
    fn close(&mut self, uid: &str, all: bool, now: Now) {
        let Some(queue) = self.queues.close(uid) else {
            return;
        };
        self.status
            .starts
            .retain(|start| start.environment_uid != uid);
        self.writer.ask(WriteDue::Soon);
        let Some(reason) = queue.leaving else { return };
        let (waiting, _) = queue.pending.sum(&queue.cursor);
        if all && waiting == 0 {
            return;
        }
        let skipped = SkippedEntries {
            from: queue.cursor.index + 1,
            to: queue.head,
            count: all.then(|| i64::try_from(waiting).unwrap_or(i64::MAX)),
            reason,
        };
        self.skip(&queue.cursor.environment, &[skipped], now);
    }

    fn skip(&mut self, environment: &str, skipped: &[SkippedEntries], now: Now) {
        for range in skipped {
            let SkippedEntries {
                from,
                to,
                count,
                reason,
            } = range;
            warn!(setting = %self.title, environment, from, to, ?count, ?reason, "a range of the log is not sent");
            history::skipped(&mut self.status, environment, range, now.wall);
        }
        if !skipped.is_empty() {
            self.writer.ask(WriteDue::Soon);
        }
    }

    // ---- where cursors start ----

    /// Decides why an environment starts where it does, once.
    fn decide_start(&mut self, name: &str, info: &EnvironmentInfo) {
        let decided = |start: &StartDecision| start.environment_uid == info.uid;
        if self.status.starts.iter().any(decided) {
            return;
        }
        let written = self.writer.written();
        let handled = match written.observed_generation {
            None => Handled::Never,
            Some(generation) => Handled::Before {
                decided: written.starts_decided_time,
                same_spec: generation == self.subscription.generation,
            },
        };
        let reason = start::reason(handled, info);
        debug!(setting = %self.title, environment = name, ?reason, "decided where to start");
        self.status.starts.push(StartDecision {
            environment: name.to_owned(),
            environment_uid: info.uid.clone(),
            index: None,
            reason,
        });
        self.writer.ask(WriteDue::Soon);
    }

    /// Opens the queue of an environment if its start can be found now, or lists the log for it.
    fn try_start(&mut self, uid: &str, now: Now) {
        let Some(decision) = self.open_start(uid) else {
            return;
        };
        let (name, reason) = (decision.environment.clone(), decision.reason);
        let info = self.environments.get(&name).filter(|info| info.uid == uid);
        let head = info.and_then(|info| info.head).map(|(head, _)| head);
        match (reason, head) {
            (StartReason::EnvironmentAdded | StartReason::CursorReset, Some(head)) => {
                self.start_at(uid, head, head);
            }
            _ => {
                if self
                    .listing
                    .get(uid)
                    .is_none_or(|again| again.is_some_and(|again| again <= now.moment))
                {
                    self.listing.insert(uid.to_owned(), None);
                    self.actions.push(Action::ListEntries(name, uid.to_owned()));
                }
            }
        }
    }

    fn open_start(&self, uid: &str) -> Option<&StartDecision> {
        let mut starts = self.status.starts.iter();
        starts.find(|start| start.environment_uid == uid && self.queues.get(uid).is_none())
    }

    fn entries_listed(&mut self, uid: &str, result: Result<Vec<EntryMeta>, String>, now: Now) {
        if self.listing.remove(uid).is_none() {
            return;
        }
        let Some(decision) = self.open_start(uid) else {
            return;
        };
        let meta = &self.setting.metadata;
        let created = meta.creation_timestamp.as_ref();
        let setting = Age {
            second: created.map_or(0, |time| time.0.as_second()),
            version: version(meta.resource_version.as_deref().unwrap_or("0")),
        };
        let entries = result.unwrap_or_else(|why| {
            warn!(setting = %self.title, environment = decision.environment, why, "can't find where to start; trying again");
            vec![]
        });
        match start::index(decision.reason, &entries, setting).zip(entries.last()) {
            Some((index, last)) => {
                let head = last.index;
                self.start_at(uid, index, head);
                self.note_starts_decided(now);
            }
            // Its log can't be read, or has no entry yet.
            None => {
                let again = now.moment + LOOK_AGAIN.0;
                self.listing.insert(uid.to_owned(), Some(again));
            }
        }
    }

    /// Opens the queue of an environment at this snapshot.
    fn start_at(&mut self, uid: &str, index: i64, head: i64) {
        let Some(decision) = self
            .status
            .starts
            .iter_mut()
            .find(|start| start.environment_uid == uid)
        else {
            return;
        };
        decision.index = Some(index);
        let environment = decision.environment.clone();
        debug!(setting = %self.title, environment, index, "starts");
        let queue = self.queues.open(Cursor {
            environment,
            environment_uid: uid.to_owned(),
            index,
            ..Cursor::default()
        });
        queue.pending.pass(index);
        queue.head = queue.head.max(head);
        queue.head_known = true;
        self.listing.remove(uid);
        self.writer.ask(WriteDue::Soon);
    }

    fn starts_are_known(&self) -> bool {
        let mut starts = self.status.starts.iter();
        starts.all(|start| start.index.is_some())
    }

    /// Every environment that the spec asks for has its decision: what is created later is new.
    fn note_starts_decided(&mut self, now: Now) {
        if self.starts_are_known() {
            self.writer.starts_known();
        }
        let written = self.writer.written();
        let same_spec = written.observed_generation == Some(self.subscription.generation);
        if !same_spec || self.status.starts_decided_time.is_none() {
            self.status.starts_decided_time = Some(condition::whole_seconds(now.wall));
        }
    }

    // ---- the logs ----

    fn log_grew(&mut self, environment: &str, uid: &str, head: i64, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else {
            self.try_start(uid, now);
            return;
        };
        let reached = queue.cursor.index + i64::from(queue.cursor.ordinal > 0);
        if reached > head {
            // The log may have been set back; or another replica has appended and sent what was not seen here yet.
            if queue.comparing.is_none() && matches!(queue.work, Work::Idle) {
                queue.comparing = Some(head);
                let environment = environment.to_owned();
                self.actions
                    .push(Action::Compare(environment, uid.to_owned(), reached));
            }
            return;
        }
        if !queue.head_known {
            queue.head_known = true;
            self.writer.ask(WriteDue::Counter);
        }
        if queue.head < head {
            queue.head = head;
            let waits = self.retry.problem().is_some()
                || self.problems.first().is_some()
                || self.is_suspended();
            if waits {
                self.writer.ask(WriteDue::Counter);
            }
        }
    }

    /// A cursor that is ahead of its log has lost its log: it starts at the head.
    fn compared(&mut self, uid: &str, result: Result<bool, String>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else {
            return;
        };
        let Some(head) = queue.comparing.take() else {
            return;
        };
        let there = match result {
            Ok(there) => there,
            Err(why) => {
                unreadable(queue, why, self.seed, now);
                return;
            }
        };
        let reached = queue.cursor.index + i64::from(queue.cursor.ordinal > 0);
        if there {
            // Another replica has appended what was not heard of here yet.
            queue.head = queue.head.max(reached);
            queue.head_known = true;
            self.writer.ask(WriteDue::Counter);
            return;
        }
        let name = queue.cursor.environment.clone();
        if reached <= head {
            return;
        }
        warn!(setting = %self.title, environment = name, index = queue.cursor.index, head, "the cursor is ahead of the log; starting at its head");
        self.queues.close(uid);
        self.status
            .starts
            .retain(|start| start.environment_uid != uid);
        self.status.starts.push(StartDecision {
            environment: name.clone(),
            environment_uid: uid.to_owned(),
            index: None,
            reason: StartReason::CursorReset,
        });
        self.start_at(uid, head, head);
        let skipped = SkippedEntries {
            from: head,
            to: head,
            count: None,
            reason: SkipReason::CursorReset,
        };
        self.skip(&name, &[skipped], now);
    }

    fn checked(&mut self, uid: &str, result: Result<Deleted, String>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else {
            return;
        };
        match result {
            Ok(Deleted::Yes(head)) => {
                queue.head = queue.head.max(head);
                queue.head_known = true;
                if queue.deleted.is_some() && queue.is_through() {
                    self.close(uid, true, now);
                }
            }
            Ok(Deleted::No) => {}
            Err(why) => {
                warn!(setting = %self.title, why, "can't tell what is left of a deleted environment; trying again");
            }
        }
    }

    // ---- the destination ----

    fn read_destination(&mut self) {
        if !self.destination.reading {
            self.destination.reading = true;
            let generation = self.subscription.generation;
            self.actions.push(Action::ReadDestination(generation));
        }
    }

    fn destination_read(&mut self, generation: i64, answer: DestinationAnswer, now: Now) {
        if generation != self.subscription.generation {
            return; // of a spec that is no more; that of now is being read
        }
        self.destination.reading = false;
        self.destination.read_at = Some(now.moment);
        let problem = match answer {
            DestinationAnswer::Known(destination) => {
                if self.destination.value.as_ref() != Some(&destination) {
                    // It is another one, or it is back: what waits for a turn must not go to the old one.
                    self.cancel_unsent();
                    let first =
                        self.destination.value.is_none() && self.problems.destination.is_none();
                    if !first {
                        self.retry.retry_now();
                        self.problems.denied = None;
                    }
                    self.destination.value = Some(destination);
                }
                None
            }
            DestinationAnswer::NotReady(why) => {
                self.cancel_unsent();
                self.destination.value = None;
                Some(why)
            }
            DestinationAnswer::Unknown(why) => {
                debug!(setting = %self.title, %why, "can't read the destination; trying again");
                return;
            }
        };
        self.update_problems(now, |problems| problems.destination = problem);
    }

    /// Notes why the setting is not ready, or that it is again.
    fn update_problems(&mut self, now: Now, change: impl FnOnce(&mut Problems)) {
        let before = self.problems.first().cloned();
        change(&mut self.problems);
        let first = self.problems.first();
        self.not_ready_since = first
            .is_some()
            .then(|| self.not_ready_since.unwrap_or(now.moment));
        if first != before.as_ref() {
            self.writer.ask(WriteDue::Soon);
        }
    }

    /// Whether the destination's name leads to an address that may not be dialled is known after an attempt.
    fn note_denied(&mut self, now: Now, reason: Option<Reason>, message: &str) {
        let denied = (reason == Some(Reason::DestinationDenied))
            .then(|| NotReady::new(NotReadyReason::DestinationDenied, message));
        self.update_problems(now, |problems| problems.denied = denied);
    }

    // ---- sending ----

    /// Whether a message may be sent now, as far as the setting as a whole is concerned.
    fn may_send(&self, now: Now) -> bool {
        !self.stopping
            && !self.is_suspended()
            && self.writer.stands_back_until().is_none()
            // The decisions about this spec stand in the status before anything is sent for it.
            && self.writer.written().observed_generation == Some(self.subscription.generation)
            && self.retry.may_send(now.moment)
    }

    /// Gives up whatever is not on its way yet; what still is to be sent is found again.
    fn cancel_unsent(&mut self) {
        let queues = self.queues.iter_mut();
        let mut freed: Vec<_> = queues
            .filter_map(|(_, queue)| queue.work.cancel())
            .collect();
        freed.extend(self.test.cancel());
        self.actions
            .extend(freed.into_iter().map(Action::ReleaseTurn));
    }

    /// The queues that may go on now: all, or, while attempts fail, one that shows whether the destination is well again.
    fn admitted(&self, ready: Vec<String>) -> Vec<String> {
        if self.retry.problem().is_none() {
            return ready;
        }
        if self.queues.iter().any(|(_, queue)| queue.work.has_turn()) {
            return vec![];
        }
        let probe = self.probe.clone().filter(|probe| ready.contains(probe));
        probe.into_iter().chain(ready).take(1).collect()
    }

    fn start_searches(&mut self, now: Now) {
        if !self.may_send(now) {
            return;
        }
        let ready = self
            .queues
            .searchable(&self.writer.written().cursors, now.moment);
        for uid in ready {
            self.search(&uid, None, now);
        }
    }

    fn search(&mut self, uid: &str, turn: Option<Turn>, now: Now) {
        let token = self.token();
        if let Some(search) = self.search_of(uid, now)
            && let Some(queue) = self.queues.get_mut(uid)
        {
            queue.work = Work::Searching { token, turn };
            self.actions.push(Action::Search(token, Box::new(search)));
        }
    }

    fn search_of(&self, uid: &str, now: Now) -> Option<Search> {
        let queue = self.queues.get(uid)?;
        Some(Search {
            subscription: self.subscription.clone(),
            cursor: queue.cursor.clone(),
            head: queue.head,
            expired_before: self.retry.expired_before(self.subscription.max_age),
            deleted: queue.deleted.is_some(),
            now: now.wall,
        })
    }

    fn found(&mut self, token: Token, found: Found, now: Now) {
        let seed = self.seed;
        let Some((uid, queue)) = self.queues.working(token) else {
            return; // cancelled
        };
        let uid = uid.clone();
        let Work::Searching { turn, .. } = std::mem::take(&mut queue.work) else {
            return;
        };
        let environment = queue.cursor.environment.clone();
        let gap = found.cursor.unreported_gap.clone();
        let gap = gap.filter(|gap| queue.cursor.unreported_gap.as_ref() != Some(gap));
        let moved = queue.cursor != found.cursor;
        queue.advance(found.cursor);
        queue.unreadable = match (&found.next, queue.unreadable.take()) {
            (Next::Unreadable(_), before) => before,
            (_, before) => {
                if before.is_some_and(|before| before.failures >= UNREADABLE) {
                    self.writer.ask(WriteDue::Soon);
                }
                None
            }
        };
        match found.next {
            Next::Message(key) => queue.work = Work::Found(key),
            Next::Nothing => {}
            Next::Unreadable(why) => {
                warn!(setting = %self.title, environment, why, "can't read the log; trying again");
                unreadable(queue, why, seed, now);
                if queue
                    .unreadable
                    .as_ref()
                    .is_some_and(|it| it.failures == UNREADABLE)
                {
                    self.writer.ask(WriteDue::Soon);
                }
            }
        }
        if moved {
            self.writer.ask(WriteDue::Lazily);
        }
        self.skip(&environment, &found.skipped, now);
        if let Some(gap) = gap {
            let setting = self.title.split_once('/').unwrap_or_default();
            let note = unreported_gap::description(&gap, setting);
            self.publish(
                EventReason::HistoryTruncated,
                format!("environment {environment}: {note}"),
            );
        }
        if let Some((id, snapshot)) = found.given_up {
            warn!(setting = %self.title, environment, "the report of removed snapshots is given up");
            let attempt = Attempt {
                id,
                snapshot: Some(snapshot),
                attempts: i64::from(self.retry.attempts()),
                time: now.wall,
            };
            let message = "it could not be delivered for as long as retry.maxAge says";
            let reason = SkipReason::RetryExpired.as_str();
            history::dead_lettered(&mut self.status, &attempt, reason, message);
            self.writer.ask(WriteDue::Soon);
        }
        self.use_turn(&uid, turn, now);
    }

    /// A turn that is still held serves the next message, or is given back.
    fn use_turn(&mut self, uid: &str, turn: Option<Turn>, now: Now) {
        let Some(turn) = turn else { return };
        let may_send = self.may_send(now);
        let written = self.writer.written_cursor(uid).cloned();
        let search = self.search_of(uid, now);
        if let Some(queue) = self.queues.get_mut(uid)
            && let Work::Found(key) = &queue.work
            && may_send
            && queue.may_go_on(written.as_ref(), now.moment)
            && let Some(search) = search
        {
            let key = key.clone();
            queue.work = Work::Composing { turn };
            self.actions
                .push(Action::Compose(turn.token, Box::new(search), key));
        } else {
            self.actions.push(Action::ReleaseTurn(turn.token));
        }
    }

    /// Takes turns for the messages that were found.
    fn take_turns(&mut self, now: Now) {
        if !self.may_send(now) {
            return;
        }
        let found = |work: &Work| matches!(work, Work::Found(_));
        let ready = self.queues.iter().filter(|(_, queue)| found(&queue.work));
        let ready = self.admitted(ready.map(|(uid, _)| uid.clone()).collect());
        if ready.is_empty() || !self.destination_is_fresh(now) {
            return;
        }
        let Some(destination) = self.destination.value.clone() else {
            return;
        };
        for uid in ready {
            let token = self.token();
            if let Some(queue) = self.queues.get_mut(&uid)
                && let Work::Found(key) = &queue.work
            {
                let key = key.clone();
                queue.work = Work::Waiting { token, key };
                let destination = destination.clone();
                self.actions.push(Action::TakeTurn(token, destination));
            }
        }
    }

    /// Whether the destination was read a moment ago; if not, it is read.
    fn destination_is_fresh(&mut self, now: Now) -> bool {
        let fresh = self
            .destination
            .read_at
            .is_some_and(|at| now.moment < at + DESTINATION_FRESH);
        if !fresh {
            self.read_destination();
        }
        fresh
    }

    fn turn_came(&mut self, token: Token, result: Result<(), String>, now: Now) {
        if self.test.waits_for(token) {
            self.test_turn_came(token, result, now);
            return;
        }
        let Some((uid, queue)) = self.queues.working(token) else {
            self.actions.push(Action::ReleaseTurn(token)); // cancelled meanwhile
            return;
        };
        let uid = uid.clone();
        let Work::Waiting { key, .. } = std::mem::take(&mut queue.work) else {
            return;
        };
        if let Err(why) = result {
            self.note_denied(now, Some(Reason::DestinationDenied), &why);
            self.destination.value = None;
            return;
        }
        queue.work = Work::Found(key);
        let turn = Turn {
            token,
            since: now.moment,
            messages: 0,
        };
        self.use_turn(&uid, Some(turn), now);
    }

    fn composed(&mut self, token: Token, result: Result<Option<Message>, String>, now: Now) {
        let may_send = self.may_send(now);
        let destination = self.destination.value.clone();
        let seed = self.seed;
        let Some((_, queue)) = self.queues.working(token) else {
            return; // cancelled, and its turn with it
        };
        let Work::Composing { turn } = std::mem::take(&mut queue.work) else {
            return;
        };
        queue.searched = queue.cursor.index; // whatever comes of this, there is more to look at
        match (result, destination) {
            (Ok(Some(message)), Some(destination)) if may_send => {
                let (id, body) = (message.id.clone(), message.body.clone());
                queue.work = Work::Sending {
                    turn,
                    message: Box::new(message),
                    to: destination.key(),
                };
                self.actions
                    .push(Action::Send(turn.token, destination, id, body));
            }
            (result, _) => {
                if let Err(why) = result {
                    warn!(setting = %self.title, environment = queue.cursor.environment, why, "can't read the log; trying again");
                    unreadable(queue, why, seed, now);
                }
                self.actions.push(Action::ReleaseTurn(turn.token));
            }
        }
    }

    fn sent(&mut self, token: Token, began: Now, receipt: &Receipt, now: Now) {
        if self.test.is_sent_with(token) {
            self.test_sent(token, receipt, now);
            return;
        }
        let Some((uid, queue)) = self.queues.working(token) else {
            self.actions.push(Action::ReleaseTurn(token)); // its queue has ended
            return;
        };
        let uid = uid.clone();
        let Work::Sending {
            turn,
            mut message,
            to,
        } = std::mem::take(&mut queue.work)
        else {
            return;
        };
        // A destination may refuse the form of a message and take it without that form.
        if receipt.outcome.is_payload_problem()
            && let Some(plain) = message.plain.take()
            && !self.stopping
            && let Some(destination) = self.destination.value.clone()
        {
            let id = message.id.clone();
            let to = destination.key();
            queue.work = Work::Sending { turn, message, to };
            self.actions
                .push(Action::Send(token, destination, id, plain));
            return;
        }
        let current = self.destination.value.as_ref().map(Destination::key) == Some(to);
        if !current && !matches!(receipt.outcome, Outcome::Delivered { .. }) {
            // What another destination than today's can't take says nothing.
            queue.searched = queue.cursor.index;
            self.actions.push(Action::ReleaseTurn(token));
            return;
        }
        let turn = self.take_answer(&uid, *message, turn, began, receipt, now);
        match turn {
            Some(turn) => self.search(&uid, Some(turn), now),
            None => self.actions.push(Action::ReleaseTurn(token)),
        }
    }

    /// What an answer means for the message, the queue and the setting. The turn, if the next message may use it.
    fn take_answer(
        &mut self,
        uid: &str,
        message: Message,
        turn: Turn,
        began: Now,
        receipt: &Receipt,
        now: Now,
    ) -> Option<Turn> {
        let outcome = &receipt.outcome;
        let before = self.retry.problem().cloned();
        let failures = self.retry.attempts();
        let attempt = Attempt {
            id: message.id.clone(),
            snapshot: Some(message.snapshot.clone()),
            attempts: i64::from(failures) + 1,
            time: now.wall,
        };
        let at = Began {
            id: &message.id,
            moment: began.moment,
            wall: began.wall,
        };
        let verdict = self.retry.answered(outcome, at, self.seed, now.moment);
        let reason = outcome.reason().map_or("", Reason::as_str);
        match verdict {
            Verdict::Delivered => {
                debug!(setting = %self.title, id = message.id, snapshot = message.snapshot, "delivered");
                history::delivered(&mut self.status, attempt, receipt.status, receipt.latency);
            }
            Verdict::SetAside => {
                warn!(setting = %self.title, id = message.id, snapshot = message.snapshot, message = outcome.message(), "refused for good; going on with the next");
                history::dead_lettered(&mut self.status, &attempt, reason, outcome.message());
                history::failed(&mut self.status, attempt, reason, outcome.message());
            }
            Verdict::Keep => {
                info!(setting = %self.title, id = message.id, reason, message = outcome.message(), "not delivered; trying again later");
                history::failed(&mut self.status, attempt, reason, outcome.message());
                self.probe = Some(uid.to_owned());
            }
        }
        if verdict == Verdict::Delivered && before.is_none() {
            self.writer.ask_for_delivered(now.moment);
        } else {
            self.writer.ask(WriteDue::Soon);
        }
        let moved = verdict != Verdict::Keep;
        let mut more = false;
        if let Some(queue) = self.queues.get_mut(uid) {
            queue.searched = queue.cursor.index;
            if moved {
                queue.advance(message.after);
                queue.ahead.sent(message.events, began.moment);
            }
            more = moved && queue.has_more();
        }
        self.note_denied(now, outcome.reason(), outcome.message());
        self.report_change(before.is_some(), failures);
        if verdict == Verdict::Keep {
            self.cancel_unsent(); // one attempt at a time until one succeeds
        }
        let turn = Turn {
            messages: turn.messages + 1,
            ..turn
        };
        let (messages, time) = BURST;
        let may_burst = self.subscription.kind == DestinationKind::Webhook
            && turn.messages < messages
            && now.moment < turn.since + time;
        let written = self.writer.written_cursor(uid);
        let may_go_on = self
            .queues
            .get(uid)
            .is_some_and(|queue| queue.may_go_on(written, now.moment));
        (more && may_burst && may_go_on && self.may_send(now)).then_some(turn)
    }

    /// Records that deliveries have begun to fail, or work again.
    fn report_change(&mut self, failed_before: bool, failures: u32) {
        match (failed_before, self.retry.problem()) {
            (false, Some(problem)) => {
                let rest = match problem.recovery {
                    Recovery::Attempt => " (attempts go on)",
                    Recovery::Change => "",
                };
                let note = format!("{}{rest}", problem.message);
                self.publish(EventReason::DeliveryFailing, note);
            }
            (true, None) => {
                self.probe = None;
                let times = if failures == 1 { "attempt" } else { "attempts" };
                let note = format!("delivering again after {failures} failed {times}");
                self.publish(EventReason::DeliveryRecovered, note);
            }
            _ => {}
        }
    }

    // ---- the test message ----

    fn start_test(&mut self) {
        let annotations = self.setting.metadata.annotations.as_ref();
        let asked = annotations.and_then(|all| all.get(TEST_ANNOTATION));
        let asked = asked.map(|asked| asked.chars().take(TEST_REQUEST).collect::<String>());
        let asked = asked.filter(|asked| {
            !asked.is_empty() && self.status.last_handled_test.as_ref() != Some(asked)
        });
        let Some(request) = asked else { return };
        if self.stopping || self.writer.stands_back_until().is_some() {
            return;
        }
        if self.test.is_new(&request) {
            // Whoever asks for a test may just have changed the Secret.
            self.read_destination();
        }
        if self.destination.reading || !self.test.may_start() {
            return;
        }
        let Some(destination) = self.destination.value.clone() else {
            return; // it is sent when there is a destination
        };
        let token = self.token();
        self.test.wait(request, token);
        self.actions.push(Action::TakeTurn(token, destination));
    }

    fn test_turn_came(&mut self, token: Token, result: Result<(), String>, now: Now) {
        let destination = self.destination.value.clone();
        let (Ok(()), Some(destination)) = (&result, destination) else {
            self.test.cancel();
            if let Err(why) = result {
                self.note_denied(now, Some(Reason::DestinationDenied), &why);
                self.destination.value = None;
            }
            self.actions.push(Action::ReleaseTurn(token));
            return;
        };
        let environments = match self.subscription.environments.as_deref() {
            Some(names) => names.clone(),
            None => {
                let queues = self.queues.iter();
                let names = queues.map(|(_, queue)| queue.cursor.environment.clone());
                names.collect()
            }
        };
        let uid = self.setting.metadata.uid.as_deref().unwrap_or_default();
        let composed = self.test.compose(
            &self.installation,
            (uid, &self.title),
            self.subscription.kind,
            &environments,
            now.wall,
        );
        if let Some((id, body)) = composed {
            let body = body.into();
            self.actions
                .push(Action::Send(token, destination, id, body));
        }
    }

    fn test_sent(&mut self, token: Token, receipt: &Receipt, now: Now) {
        self.actions.push(Action::ReleaseTurn(token));
        let Some((request, id)) = self.test.finish() else {
            return;
        };
        self.status.last_handled_test = Some(request);
        self.writer.ask(WriteDue::Soon);
        let attempt = Attempt {
            id,
            snapshot: None,
            attempts: 1,
            time: now.wall,
        };
        let outcome = &receipt.outcome;
        if matches!(outcome, Outcome::Delivered { .. }) {
            history::delivered(&mut self.status, attempt, receipt.status, receipt.latency);
            self.retry.retry_now(); // the destination is well: what waits needn't
            let note = "the test message was delivered";
            self.publish(EventReason::TestDelivered, note);
        } else {
            let reason = outcome.reason().map_or("", Reason::as_str);
            history::failed(&mut self.status, attempt, reason, outcome.message());
            self.publish(EventReason::TestFailed, outcome.message());
        }
        self.note_denied(now, outcome.reason(), outcome.message());
    }

    // ---- the status ----

    /// Counts what waits if that was not done yet, then writes the status if it is due.
    fn write_if_due(&mut self, now: Now) {
        let full = self.queues.any_full();
        let due = if self.stopping {
            self.writer.owes(self.queues.any_ahead())
                && !self.writer.is_writing()
                && self.writer.earliest() <= now.moment
        } else {
            self.writer
                .next_write(full)
                .is_some_and(|at| at <= now.moment)
        };
        if !due || self.counting == Counting::UnderWay {
            return;
        }
        if self.counting == Counting::Not && !self.stopping {
            let counts = self.uncounted();
            if !counts.is_empty() {
                self.counting = Counting::UnderWay;
                let subscription = self.subscription.clone();
                self.actions.push(Action::Count(subscription, counts));
                return;
            }
        }
        self.counting = Counting::Not;
        self.writer.take_up(now.moment);
        self.compose_status(now);
        if self.status == *self.writer.written() {
            return;
        }
        let uid = self.setting.metadata.uid.as_deref().unwrap_or_default();
        let write = self.writer.begin(uid, &self.status, self.queues.counted());
        self.actions.push(Action::WriteStatus(Box::new(write)));
    }

    /// What is to be counted before the next write: as much as one write may take.
    fn uncounted(&self) -> Vec<(String, String, i64, i64)> {
        let mut budget = COUNTED;
        let mut counts = vec![];
        for (uid, queue) in self.queues.iter() {
            if let Some(from) = queue.pending.next(queue.head)
                && budget > 0
                && queue.leaving.is_none()
                && queue.unreadable.is_none()
            {
                let to = queue.head.min(from + budget - 1);
                budget -= to - from + 1;
                counts.push((queue.cursor.environment.clone(), uid.clone(), from, to));
            }
        }
        counts
    }

    fn counted(&mut self, counted: Vec<(String, Vec<CountedEntry>, bool)>, now: Now) {
        for (uid, entries, complete) in counted {
            let Some(queue) = self.queues.get_mut(&uid) else {
                continue;
            };
            for entry in entries {
                queue.pending.put(entry);
            }
            if queue.leaving.is_some() {
                let all = complete && queue.pending.next(queue.head).is_none();
                self.close(&uid, all, now);
            } else if !complete {
                unreadable(
                    queue,
                    "an entry could not be read".to_owned(),
                    self.seed,
                    now,
                );
            }
        }
        if self.counting == Counting::UnderWay {
            self.counting = Counting::Done;
        }
    }

    fn compose_status(&mut self, now: Now) {
        let mut pending = 0;
        let mut oldest: Option<Timestamp> = None;
        let mut uncounted = false;
        for (_, queue) in self.queues.iter() {
            let (count, time) = queue.pending.sum(&queue.cursor);
            // A gap that is still to be reported waits like an event.
            let gap = queue.cursor.unreported_gap.as_ref();
            pending += count + usize::from(gap.is_some());
            let gap = gap.map(|gap| gap.time);
            oldest = [oldest, time, gap].into_iter().flatten().min();
            uncounted |= queue.pending.next(queue.head).is_some() && queue.unreadable.is_none();
        }
        if uncounted && !self.stopping {
            self.writer.ask(WriteDue::Soon); // the rest is counted for the next write
        }
        if !self.queues.heads_are_known() {
            // Until the logs are known again the status goes on saying what it said.
            let before = usize::try_from(self.status.pending.unwrap_or(0)).unwrap_or(0);
            pending = pending.max(before);
            oldest = [oldest, self.status.oldest_pending_time]
                .into_iter()
                .flatten()
                .min();
        }
        let log_problem = self.log_problem();
        let next_attempt = self
            .retry
            .next_attempt()
            .filter(|_| self.destination.value.is_some() && !self.is_suspended())
            .map(|at| {
                let wait = at.saturating_sub(now.moment);
                now.wall + SignedDuration::try_from(wait).unwrap_or_default()
            });
        self.status.cursors = self.queues.cursors();
        self.keep_newest_starts();
        self.status.oldest_pending_time = oldest.map(condition::whole_seconds);
        let since = self
            .not_ready_since
            .map_or(Duration::ZERO, |since| now.moment.saturating_sub(since));
        let input = ConditionInput {
            generation: Some(self.subscription.generation),
            not_ready: self.problems.first().map(|why| (why, since)),
            problem: self.retry.problem(),
            log_problem: log_problem.as_deref(),
            next_attempt,
            suspended: self.is_suspended(),
            pending: i64::try_from(pending).unwrap_or(i64::MAX),
            now: now.wall,
        };
        conditions::update(&mut self.status, &input);
    }

    /// Why a log can't be read, if it has failed for a while.
    fn log_problem(&self) -> Option<String> {
        self.queues.iter().find_map(|(_, queue)| {
            let unreadable = queue.unreadable.as_ref()?;
            let name = &queue.cursor.environment;
            (unreadable.failures >= UNREADABLE)
                .then(|| format!("environment {name}: {}", unreadable.why))
        })
    }

    /// Decisions whose cursors stand in the status are kept for people, the newest ones.
    fn keep_newest_starts(&mut self) {
        let written = &self.writer.written().cursors;
        let done = |start: &StartDecision| {
            let mut cursors = written.iter();
            cursors.any(|cursor| cursor.environment_uid == start.environment_uid)
        };
        let kept = self
            .status
            .starts
            .iter()
            .filter(|start| done(start))
            .count();
        let mut surplus = kept.saturating_sub(STARTS_KEPT);
        self.status.starts.retain(|start| {
            let goes = surplus > 0 && done(start);
            surplus -= usize::from(goes);
            !goes
        });
    }

    fn written(&mut self, counted: &Counted, answer: WriteAnswer, now: Now) {
        self.writer.answered();
        match answer {
            WriteAnswer::Written { status, version } => {
                self.accepted(*status, version, counted, now);
            }
            WriteAnswer::Conflict => self.conflicted(now),
            // The answer to a patch whose test failed, too.
            WriteAnswer::Refused(_) if self.writer.is_crowded() => self.conflicted(now),
            WriteAnswer::Refused(why) => {
                warn!(setting = %self.title, why, "the API server refuses the status; writing a shorter one");
                self.publish(
                    EventReason::StatusRefused,
                    format!("the API server refuses the status, a shorter one is written: {why}"),
                );
                self.writer.refused(now.moment);
            }
            WriteAnswer::Failed(why) => {
                warn!(setting = %self.title, why, "can't write the status; sending stops when the window is full");
                self.writer.failed(now.moment);
            }
        }
    }

    /// The API server has this status, as it was written by a write that counted this.
    fn accepted(
        &mut self,
        status: NotificationSettingStatus,
        version: Option<String>,
        counted: &Counted,
        now: Now,
    ) {
        self.actions.push(Action::Progress(status.cursors.clone()));
        self.writer.accepted(status, version);
        self.queues.written(counted, now.moment);
        if self.queues.any_ahead() {
            self.writer.ask_for_delivered(now.moment);
        }
    }

    /// The object changed since it was read: it is read to tell who changed it.
    fn conflicted(&mut self, now: Now) {
        debug!(setting = %self.title, "the status was written on an older object than there is");
        self.writer.conflicted(now.moment);
        self.actions.push(Action::ReadSetting);
        self.writer.hold();
    }

    fn read(
        &mut self,
        result: Result<(Box<NotificationSettingStatus>, Option<String>), String>,
        now: Now,
    ) {
        self.writer.answered();
        let standing_back = self.writer.stands_back_until().is_some();
        let (status, version) = match result {
            Ok((status, version)) => (*status, version),
            Err(why) => {
                debug!(setting = %self.title, why, "can't read the setting; trying again");
                if standing_back {
                    self.writer.stand_back_briefly(now.moment);
                } else {
                    self.writer.could_not_read(now.moment);
                }
                return;
            }
        };
        if standing_back {
            self.resume(status, version, now);
            return;
        }
        match self.writer.found(&status, version.clone()) {
            ConflictOutcome::Same => {}
            ConflictOutcome::Ours(counted) => {
                self.accepted(status, version, &counted, now); // only the answer was lost
                self.writer.ask(WriteDue::Soon);
            }
            ConflictOutcome::Others => {
                warn!(setting = %self.title, "someone else writes this setting's status; standing back for a while");
                self.writer.stand_back(now.moment);
                self.cancel_unsent();
            }
        }
    }

    /// Takes the setting up where another writer left it.
    fn resume(&mut self, status: NotificationSettingStatus, version: Option<String>, now: Now) {
        self.retry = resumed(&status);
        self.writer.resume(status.clone(), version);
        // A cursor that the other writer lost altogether is better kept than set anew.
        for cursor in &status.cursors {
            self.queues.close(&cursor.environment_uid);
            self.queues.open(cursor.clone());
        }
        let acknowledged = self.queues.counted();
        self.queues.written(&acknowledged, now.moment);
        self.status = status;
        self.apply_spec(now, false);
    }

    // ---- clocks ----

    /// Does what is due by the clock: what may have changed without a word is looked at. After every input, as another one
    /// may come first when a timer runs out.
    fn do_what_is_due(&mut self, now: Now) {
        if self
            .writer
            .stands_back_until()
            .is_some_and(|until| until <= now.moment)
            && !self.writer.is_writing()
        {
            self.actions.push(Action::ReadSetting);
            self.writer.hold();
        }
        let due: Vec<_> = self.listing.iter().collect();
        let due = due
            .into_iter()
            .filter(|(_, again)| again.is_some_and(|again| again <= now.moment));
        let due: Vec<_> = due.map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.try_start(&uid, now);
        }
        if self.look_again.is_none_or(|at| at > now.moment) {
            return;
        }
        self.look_again = None;
        let troubled = self.problems.destination.is_some()
            || self.problems.denied.is_some()
            || self.retry.problem().is_some();
        if troubled || self.destination.value.is_none() {
            self.read_destination();
        }
        self.expire_deleted(now);
        let through = self.queues.iter().filter(|(_, queue)| {
            queue.deleted.is_some() && queue.leaving.is_none() && queue.is_through()
        });
        let through: Vec<_> = through
            .map(|(uid, queue)| (queue.cursor.environment.clone(), uid.clone()))
            .collect();
        for (environment, uid) in through {
            self.actions.push(Action::CheckDeleted(environment, uid));
        }
        if self.problems.first().is_some() {
            self.writer.ask(WriteDue::Soon); // a reason that only holds for a while (Reconciling) is taken back
        }
    }

    /// When to look again at what may change without a word.
    fn schedule_recheck(&mut self, now: Now) {
        let not_ready_for = self
            .not_ready_since
            .map_or(Duration::ZERO, |since| now.moment.saturating_sub(since));
        let patient = not_ready_for < PATIENCE;
        let (soon, later) = LOOK_AGAIN;
        let missing = self.problems.destination.is_some() || self.destination.value.is_none();
        let missing = missing.then_some(if patient { soon } else { later });
        let troubled = self.retry.problem().is_some() || self.problems.denied.is_some();
        let troubled = troubled.then_some(DESTINATION_FRESH);
        let reconciling = (self.problems.first().is_some() && patient)
            .then(|| PATIENCE.saturating_sub(not_ready_for));
        let mut queues = self.queues.iter();
        let deleted = queues.any(|(_, queue)| queue.deleted.is_some());
        let deleted = deleted.then_some(later);
        let after = [missing, troubled, reconciling, deleted]
            .into_iter()
            .flatten()
            .min();
        if let Some(after) = after {
            let at = now.moment + after.max(Duration::from_millis(1));
            self.look_again = Some(self.look_again.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Now) {
        if !self.stopping {
            self.do_what_is_due(now);
            if self.retry.problem().is_some()
                && self.starts_are_known()
                && self.queues.heads_are_known()
                && !self.queues.any_unfinished()
            {
                // Given up, or not asked for any more: nothing is overdue.
                self.retry.forget();
                self.probe = None;
                self.writer.ask(WriteDue::Soon);
            }
            self.start_searches(now);
            self.take_turns(now);
            self.start_test();
            self.schedule_recheck(now);
        }
        self.write_if_due(now);
    }
}

fn unreadable(queue: &mut EnvironmentQueue, why: String, seed: u64, now: Now) {
    let failures = queue
        .unreadable
        .as_ref()
        .map_or(1, |before| before.failures.saturating_add(1));
    queue.unreadable = Some(Unreadable {
        why,
        failures,
        until: now.moment + backoff::delay(failures, seed),
    });
}

/// How deliveries went, as the status says: after a start one attempt comes first.
fn resumed(status: &NotificationSettingStatus) -> RetryState {
    RetryState::resumed(conditions::problem(status), history::refused_last(status))
}

/// Since when a setting is not ready, as its status says.
fn not_ready_since(status: &NotificationSettingStatus, now: Now) -> Option<Moment> {
    let ready =
        condition::find(&status.conditions, READY).filter(|ready| ready.status == "False")?;
    let age = now.wall.duration_since(ready.last_transition_time.0);
    Some(now.moment.before(Duration::try_from(age).ok()?))
}
