//! The state machine of one setting. It is told what happened (an [`Input`]) and says what to do (a list of [`Action`]s);
//! whoever executes them feeds the results back. Nothing here waits, reads a clock or talks to anyone. Only where the logs
//! end it may know before it is told: it shares their heads.
//!
//! What is decided is decided when it is executed: a message is composed after its turn at the destination has come, and is
//! sent only if the spec, the destination and everything else still allow it then.

mod destination;
mod environments;
mod log_changes;
mod replay;
mod sending;
mod starts;
mod status;
mod test_request;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::{
        NotificationSetting, NotificationSettingStatus,
        condition::{self, READY, shorten},
        environment::EnvironmentId,
        notification_setting::Cursor,
    },
    backoff,
    delivery::{
        conditions::{self, NotReady, PATIENCE, Problems},
        environment_queue::{AheadCounts, EnvironmentQueues, QueueId, Token, Work},
        message_history,
        next_message::{Found, MessageKey, NextMessage, Search},
        pending::{CountedRange, LogRange, PendingCount},
        reasons::EventReason,
        replay::{Locate, Located, Refusal, ReplayState},
        retry::RetryState,
        status_writer::{StatusWrite, StatusWriter, WriteAnswer, WriteDue},
        subscription::Subscription,
        test_message::TestMessage,
    },
    http::{
        destination::{Destination, DestinationKind},
        sender::Receipt,
    },
    message::installation::Installation,
    snapshot::{environments::EnvironmentInfo, log::EntryMeta},
    time::Moment,
};

/// A destination that was read longer ago is read again before it is used: a rotated Secret is taken up within this.
const DESTINATION_FRESH: Duration = Duration::from_secs(30);
/// How often to look for what is missing, at first and later.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// A message that waits longer for its turn at the destination is overdue.
const OVERDUE: Duration = Duration::from_secs(10);
/// At most this many characters of the column ENVIRONMENTS.
const COLUMN: usize = 256;

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
    /// The logs of these environments have grown, as their heads say.
    LogsGrew(BTreeSet<String>),
    /// The destination of this generation of the spec.
    Destination(i64, DestinationAnswer),
    /// What a search found.
    Found(Token, Found),
    /// A turn has come, or the destination may not be dialled.
    Turn(Token, Result<(), String>),
    /// The message is composed; `None`: the log no longer holds it.
    Composed(Token, Result<Option<NextMessage>, String>),
    /// An attempt was answered. When it began.
    Sent(Token, Now, Receipt),
    /// What was counted for this generation of the spec.
    Counted(i64, Vec<CountedRange>),
    /// The entries of a log for which a start is to be found.
    Entries(EnvironmentId, Result<Vec<EntryMeta>, String>),
    /// Whether the log has the entry that a cursor has reached.
    Compared(EnvironmentId, Result<bool, String>),
    /// Whether an environment that seems to be deleted is, and where its log ends.
    Checked(EnvironmentId, Result<Deleted, String>),
    /// Where a replay begins and ends, or why it is refused.
    Located(Token, Result<Result<Located, Refusal>, String>),
    /// A write of the status was answered.
    Written(AheadCounts, WriteAnswer),
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
    /// Count what waits in these ranges.
    Count(Arc<Subscription>, Vec<LogRange>),
    ListEntries(EnvironmentId),
    /// Find where a replay begins and ends.
    Locate(Token, Box<Locate>),
    /// Ask whether the log has the entry with this number.
    Compare(EnvironmentId, i64),
    CheckDeleted(EnvironmentId),
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
    /// When the last answer came.
    read_at: Option<Moment>,
    /// How often in a row it could not be read.
    failures: u32,
    reading: bool,
}

/// The listing of a log for a start.
#[derive(Clone, Copy, Debug, Default)]
struct StartListing {
    /// How often it was listed in vain.
    failures: u32,
    /// When to list it again; `None`: it is being listed.
    again: Option<Moment>,
}

impl StartListing {
    fn is_due(&self, now: Now) -> bool {
        self.again.is_some_and(|again| again <= now.moment)
    }
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
    /// The logs that are being listed for a start, or are to be listed again.
    listing: BTreeMap<String, StartListing>,
    retry: RetryState,
    /// The queue that failed: it goes first.
    probe: Option<QueueId>,
    destination: DestinationState,
    problems: Problems,
    not_ready_since: Option<Moment>,
    look_again: Option<Moment>,
    test: TestMessage,
    replay: ReplayState,
    tokens: Token,
    /// The count for the next write: none yet, under way, done.
    counting: Counting,
    stopping: bool,
    /// When it was last told of anything.
    told_at: Moment,
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
        let written = setting.status.clone().unwrap_or_default();
        let mut status = written.clone();
        status.bound();
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
            writer: StatusWriter::new(written, meta.resource_version.clone(), now.moment),
            queues: EnvironmentQueues::default(),
            listing: BTreeMap::new(),
            retry: resumed(&status),
            probe: None,
            destination: DestinationState::default(),
            problems: Problems::default(),
            not_ready_since: not_ready_since(&status, now),
            look_again: None,
            test: TestMessage::default(),
            replay: ReplayState::default(),
            tokens: 0,
            counting: Counting::Not,
            stopping: false,
            told_at: now.moment,
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
        self.told_at = now.moment;
        match input {
            Input::Setting(setting) => self.setting_changed(setting, now),
            Input::Environments(environments) => {
                self.environments = environments;
                self.follow_environments(now);
            }
            Input::LogsGrew(grown) => {
                let environments = self.environments.clone();
                for info in grown.iter().filter_map(|name| environments.get(name)) {
                    if let Some((head, _)) = info.head.get() {
                        self.log_grew(&info.uid, head, now);
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
            Input::Counted(generation, counted) => self.counted(generation, counted, now),
            Input::Entries(id, result) => self.entries_listed(&id.uid, result, now),
            Input::Located(token, result) => self.replay_located(token, result, now),
            Input::Compared(id, result) => self.compared(&id.uid, result, now),
            Input::Checked(id, result) => self.checked(&id.uid, result, now),
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

    /// When to wake up if nothing happens before. Perhaps already past: time goes on after a step, and what became due
    /// since then has not been done.
    pub fn wake_at(&self) -> Option<Moment> {
        let writing = match self.counting {
            Counting::UnderWay => None,
            _ if self.stopping => Some(self.writer.earliest()),
            _ => self.writer.next_write(self.queues.any_full(self.told_at)),
        };
        let next_list = self.listing.values().filter_map(|listing| listing.again);
        let next_list = next_list.filter(|at| *at > self.told_at).min();
        let sending = self.retry.next_attempt().filter(|_| !self.is_suspended());
        [
            writing,
            self.writer.stands_back_until(),
            self.queues.next_read(self.told_at),
            self.overdue_at(),
            next_list,
            sending,
            self.look_again,
            self.replay.again,
            self.replay.until,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.told_at) // what was due then has been done, or waits for something else
        .min()
    }

    /// What the destination understands.
    pub fn kind(&self) -> DestinationKind {
        self.subscription.kind
    }

    /// Whether what is sent with this turn is the test message.
    pub fn is_test(&self, turn: Token) -> bool {
        self.test.is_sent_with(turn)
    }

    /// Whether what is sent with this turn is sent again because somebody asked for it.
    pub fn is_replay(&self, turn: Token) -> bool {
        let replay = self.queues.replay();
        replay.is_some_and(|queue| queue.work.token() == Some(turn))
    }

    /// When the snapshot was recorded whose message is sent with this turn, unless it is sent again.
    pub fn recorded_at(&self, turn: Token) -> Option<Timestamp> {
        self.queues.iter().find_map(|(_, queue)| match &queue.work {
            Work::Sending {
                turn: held,
                message,
                ..
            } if held.token == turn => Some(message.recorded),
            _ => None,
        })
    }

    /// The status as it is now; it may not be written yet.
    pub fn status(&self) -> &NotificationSettingStatus {
        &self.status
    }

    /// Whether the spec says that nothing is sent.
    pub fn is_suspended(&self) -> bool {
        self.subscription.suspended
    }

    fn is_sending(&self) -> bool {
        self.test.is_sending() || self.queues.all().any(|queue| queue.work.is_sending())
    }

    /// When the first of what waits for its turn at the destination is overdue.
    fn overdue_at(&self) -> Option<Moment> {
        self.queues.waiting_since().map(|since| since + OVERDUE)
    }

    /// Whether it is overdue. While attempts fail that is the reason, and no turn is waited for.
    fn is_overdue(&self, now: Now) -> bool {
        self.retry.problem().is_none() && self.overdue_at().is_some_and(|at| at <= now.moment)
    }

    /// Whether something waits for its turn at the destination.
    fn waits_for_turn(&self) -> bool {
        self.test.is_waiting() || self.queues.all().any(|queue| queue.work.is_waiting())
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    fn publish(&mut self, reason: EventReason, note: impl Into<String>) {
        self.actions.push(Action::Publish(reason, note.into()));
    }

    fn setting_changed(&mut self, setting: Arc<NotificationSetting>, now: Now) {
        let version = setting.metadata.resource_version.clone();
        let none = NotificationSettingStatus::default();
        self.writer
            .shown(setting.status.as_ref().unwrap_or(&none), version);
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
        self.problems.destination = None;
        self.writer.wait_for_destination(now.moment);
        if edited {
            self.problems.denied = None;
            self.not_ready_since = None; // what is missing now may be on its way
            self.retry.retry_now();
        }
        if self.counting == Counting::Done {
            self.counting = Counting::Not;
        }
        for queue in self.queues.all_mut() {
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
        let due = self.listing.iter();
        let due = due.filter(|(_, listing)| listing.is_due(now));
        let due: Vec<_> = due.map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.try_start(&uid, now);
        }
        self.read_again(now);
        if self.look_again.is_none_or(|at| at > now.moment) {
            return;
        }
        self.look_again = None;
        let troubled = self.problems.destination.is_some()
            || self.problems.denied.is_some()
            || self.destination.failures > 0
            || self.retry.problem().is_some();
        if troubled || self.destination.value.is_none() || self.waits_for_turn() {
            self.read_destination();
        }
        self.expire_deleted(now);
        let through = self.queues.iter().filter(|(_, queue)| {
            queue.deleted.is_some() && !queue.is_leaving() && queue.is_through()
        });
        let checks = through.map(|(_, queue)| Action::CheckDeleted(queue.cursor.environment_id()));
        self.actions.extend(checks);
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
        let missing = self.problems.destination.is_some()
            || self.destination.value.is_none()
            || self.destination.failures > 0;
        let troubled = self.retry.problem().is_some() || self.problems.denied.is_some();
        let troubled = troubled.then_some(DESTINATION_FRESH);
        // What waits for its turn must not go to an old destination.
        let read_at = self.destination.read_at.unwrap_or(now.moment);
        let stale = (self.waits_for_turn() && !self.destination.reading && !missing)
            .then(|| (read_at + DESTINATION_FRESH).saturating_sub(now.moment));
        let missing = missing.then_some(if patient { soon } else { later });
        let reconciling = (self.problems.first().is_some() && patient)
            .then(|| PATIENCE.saturating_sub(not_ready_for));
        let mut queues = self.queues.iter();
        let deleted = queues.any(|(_, queue)| queue.deleted.is_some());
        let deleted = deleted.then_some(later);
        let after = [missing, troubled, stale, reconciling, deleted]
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
            self.follow_replay_request(now);
            self.start_searches(now);
            self.take_turns(now);
            self.queues.note_waiting(now.moment);
            if self.is_overdue(now) && !conditions::says_waiting_for_turn(&self.status) {
                self.writer.ask(WriteDue::Counter);
            }
            self.start_test(now);
            self.schedule_recheck(now);
        }
        self.write_if_due(now);
    }
}

/// How deliveries went, as the status says: after a start one attempt comes first.
fn resumed(status: &NotificationSettingStatus) -> RetryState {
    RetryState::resumed(
        conditions::problem(status),
        message_history::refused_last(status),
    )
}

/// Since when a setting is not ready, as its status says.
fn not_ready_since(status: &NotificationSettingStatus, now: Now) -> Option<Moment> {
    let ready =
        condition::find(&status.conditions, READY).filter(|ready| ready.status == "False")?;
    let age = now.wall.duration_since(ready.last_transition_time.0);
    Some(now.moment.before(Duration::try_from(age).ok()?))
}
