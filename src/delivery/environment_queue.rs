//! The queues of a setting: how far the log of each of its environments has been delivered, and what is being done with the
//! next message. And how far a replay of a part of one of these logs has got.

use std::collections::BTreeMap;

use crate::{
    api::notification_setting::Cursor,
    backoff,
    delivery::{
        ack_window::AckWindow,
        next_message::{MessageKey, NextMessage},
        pending::PendingCount,
        reasons::SkipReason,
    },
    time::Moment,
};

/// A log that can't be read this often in a row is reported.
pub(crate) const UNREADABLE: u32 = 2;

/// Tells one piece of work from all others: an answer to work that was cancelled meanwhile is recognised by it. A turn at
/// the destination has the token of the work that took it.
pub(crate) type Token = u64;

/// What is being done with the next message of a queue.
#[derive(Clone, Debug, Default)]
pub(crate) enum Work {
    #[default]
    Idle,
    /// The next message is looked for. `turn`: held from the message before.
    Searching { token: Token, turn: Option<Turn> },
    /// There is a message; it waits until the setting may send.
    Found(MessageKey),
    /// It waits for its turn at the destination.
    Waiting { token: Token, key: MessageKey },
    /// Its turn has come.
    Composing { turn: Turn },
    /// It is on its way: nothing can be decided any more.
    Sending {
        turn: Turn,
        message: Box<NextMessage>,
        /// The generation of the spec that asks for it.
        generation: i64,
        /// The destination that it is sent to, by its key.
        to: [u8; 32],
    },
}

/// A turn at the destination, which may serve several messages in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub token: Token,
    pub since: Moment,
    /// How many messages it has served.
    pub messages: u32,
}

impl Work {
    pub fn is_sending(&self) -> bool {
        matches!(self, Self::Sending { .. })
    }

    /// Whether there is a message that is not served yet.
    fn is_ready(&self) -> bool {
        matches!(self, Self::Found(_) | Self::Waiting { .. })
    }

    /// Whether it waits for its turn at the destination.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// Whether something is or will be at the destination.
    pub fn has_turn(&self) -> bool {
        match self {
            Self::Idle | Self::Found(_) => false,
            Self::Searching { turn, .. } => turn.is_some(),
            Self::Waiting { .. } | Self::Composing { .. } | Self::Sending { .. } => true,
        }
    }

    /// The token whose answer is awaited.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Idle | Self::Found(_) => None,
            Self::Searching { token, .. } | Self::Waiting { token, .. } => Some(*token),
            Self::Composing { turn } | Self::Sending { turn, .. } => Some(turn.token),
        }
    }

    /// Gives up what is not on its way yet. The token of the turn that becomes free, if there was one.
    pub fn cancel(&mut self) -> Option<Token> {
        let turn = match self {
            Self::Sending { .. } => return None,
            Self::Idle | Self::Found(_) => None,
            Self::Searching { turn, .. } => turn.map(|turn| turn.token),
            Self::Waiting { token, .. } => Some(*token),
            Self::Composing { turn } => Some(turn.token),
        };
        *self = Self::Idle;
        turn
    }
}

/// How far the log of one environment has been delivered.
#[derive(Clone, Debug)]
pub(crate) struct EnvironmentQueue {
    /// Tells this queue from an earlier one of the same environment.
    opened: u64,
    pub cursor: Cursor,
    /// What was delivered that the status does not know of.
    pub ahead: AckWindow,
    pub pending: PendingCount,
    pub work: Work,
    /// Since when there is a message that waits for its turn.
    pub waiting_since: Option<Moment>,
    /// Nothing is left to send up to this snapshot.
    pub searched: i64,
    /// The number of the newest snapshot that is known.
    pub head: i64,
    /// Where the log ends has been learned since the start of the program.
    pub head_known: bool,
    /// Why the log could not be read, if it could not.
    unreadable: Option<Unreadable>,
    /// Since when its environment is gone: the queue ends when nothing is left.
    pub deleted: Option<Moment>,
    pub phase: Phase,
}

/// Whether a queue may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Following,
    /// The log seems to end here, before the cursor: whether it has the entry that the cursor has reached is being asked.
    Comparing(i64),
    /// The queue ends, for this reason, as soon as what waits has been counted.
    Leaving(SkipReason),
}

/// Why a log can't be read.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    pub why: String,
    /// Failures in a row.
    pub failures: u32,
    /// It is not read again before this.
    pub until: Moment,
}

impl EnvironmentQueue {
    fn at(opened: u64, cursor: Cursor) -> Self {
        let index = cursor.index;
        let mut pending = PendingCount::default();
        pending.pass(index);
        Self {
            opened,
            cursor,
            ahead: AckWindow::default(),
            pending,
            work: Work::Idle,
            waiting_since: None,
            searched: index,
            head: index,
            head_known: false,
            unreadable: None,
            deleted: None,
            phase: Phase::Following,
        }
    }

    /// Its log could not be read. Returns whether that has to be reported now: once may be chance.
    #[must_use = "the status has to be written"]
    pub fn could_not_read(&mut self, why: String, seed: u64, now: Moment) -> bool {
        let before = self.unreadable.as_ref();
        let failures = before.map_or(1, |before| before.failures.saturating_add(1));
        self.unreadable = Some(Unreadable {
            why,
            failures,
            until: now + backoff::delay(failures, seed),
        });
        failures == UNREADABLE
    }

    /// Its log could be read, or nothing of it is left to read. Returns whether it was reported that it could not.
    #[must_use = "the status has to be written"]
    pub fn could_read(&mut self) -> bool {
        let before = self.unreadable.take();
        before.is_some_and(|before| before.failures >= UNREADABLE)
    }

    /// Why its log can't be read, if that has to be reported.
    pub fn log_problem(&self) -> Option<&str> {
        let unreadable = self.unreadable.as_ref()?;
        (unreadable.failures >= UNREADABLE).then_some(&unreadable.why)
    }

    /// Whether it is time to read the log again that could not be read.
    pub fn may_read_again(&self, now: Moment) -> bool {
        self.unreadable.is_some() && self.may_read(now)
    }

    /// Whether its log may be read: it was not found unreadable a moment ago.
    pub fn may_read(&self, now: Moment) -> bool {
        let unreadable = self.unreadable.as_ref();
        unreadable.is_none_or(|unreadable| unreadable.until <= now)
    }

    /// Whether the queue ends as soon as what waits has been counted.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving(_))
    }

    /// Whether something may be left to send.
    pub fn has_more(&self) -> bool {
        self.searched < self.head || self.cursor.unreported_gap.is_some()
    }

    /// Whether nothing that is known of its log is left to send.
    pub fn is_through(&self) -> bool {
        matches!(self.work, Work::Idle)
            && self.cursor.index >= self.head
            && self.cursor.unreported_gap.is_none()
    }

    /// Moves the cursor over what was delivered or passed.
    pub fn advance(&mut self, cursor: Cursor) {
        self.pending.pass(cursor.index);
        self.searched = self.searched.max(cursor.index);
        self.cursor = cursor;
    }

    /// Whether the next message may be looked for. `written`: the cursor that stands in the status.
    fn may_search(&self, written: Option<&Cursor>, now: Moment) -> bool {
        matches!(self.work, Work::Idle) && self.has_more() && self.may_go_on(written, now)
    }

    /// Whether there is a message that may be sent now.
    fn may_take_turn(&self, written: Option<&Cursor>, now: Moment) -> bool {
        matches!(self.work, Work::Found(_)) && self.may_go_on(written, now)
    }

    /// Whether it can't go on before its cursor is written.
    fn is_full(&self, now: Moment) -> bool {
        let waits = match self.work {
            Work::Idle => self.has_more(),
            Work::Found(_) => true,
            _ => false,
        };
        self.ahead.is_full() || waits && !self.ahead.may_send(now)
    }

    /// Whether another message may be sent before the status is written. Where the cursor starts must stand in the status
    /// first; so must a gap, because its report follows from the status alone and must be the same after a crash.
    pub fn may_go_on(&self, written: Option<&Cursor>, now: Moment) -> bool {
        let Some(written) = written else { return false };
        let gap = &self.cursor.unreported_gap;
        self.phase == Phase::Following
            && self.ahead.may_send(now)
            && self.may_read(now)
            && (gap.is_none() || *gap == written.unreported_gap)
    }
}

/// How far each queue was ahead of the status at some moment, by when it was opened.
pub(crate) type AheadCounts = Vec<(u64, AckWindow)>;

/// Tells the queues of a setting apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueueId {
    /// That of the log of the environment with this UID.
    Log(String),
    /// That of what is sent once more.
    Replay,
}

/// The cursors that stand in the status.
pub(crate) struct WrittenCursors<'a> {
    pub logs: &'a [Cursor],
    pub replay: Option<&'a Cursor>,
}

/// All queues of a setting: those of its environments, by their UIDs, and that of a replay. What says "queues" means those
/// of the environments, but for what is said of `all` and of a [`QueueId`].
#[derive(Clone, Debug, Default)]
pub(crate) struct EnvironmentQueues {
    /// Boxed: a node of the map has room for eleven, and most settings have one.
    queues: BTreeMap<String, Box<EnvironmentQueue>>,
    replay: Option<Box<EnvironmentQueue>>,
    opened: u64,
}

impl EnvironmentQueues {
    /// Opens a queue at a cursor, unless its environment has one.
    pub fn open(&mut self, cursor: Cursor) -> &mut EnvironmentQueue {
        self.opened += 1;
        let opened = self.opened;
        self.queues
            .entry(cursor.environment_uid.clone())
            .or_insert_with(|| Box::new(EnvironmentQueue::at(opened, cursor)))
    }

    /// Opens the queue of a replay, which ends with this snapshot.
    pub fn open_replay(&mut self, cursor: Cursor, to: i64) {
        self.opened += 1;
        let mut queue = EnvironmentQueue::at(self.opened, cursor);
        queue.head = to;
        queue.head_known = true;
        self.replay = Some(Box::new(queue));
    }

    pub fn replay(&self) -> Option<&EnvironmentQueue> {
        self.replay.as_deref()
    }

    pub fn close_replay(&mut self) -> Option<EnvironmentQueue> {
        self.replay.take().map(|queue| *queue)
    }

    pub fn get(&self, uid: &str) -> Option<&EnvironmentQueue> {
        self.queues.get(uid).map(Box::as_ref)
    }

    pub fn queue(&self, id: &QueueId) -> Option<&EnvironmentQueue> {
        match id {
            QueueId::Log(uid) => self.get(uid),
            QueueId::Replay => self.replay(),
        }
    }

    pub fn queue_mut(&mut self, id: &QueueId) -> Option<&mut EnvironmentQueue> {
        match id {
            QueueId::Log(uid) => self.get_mut(uid),
            QueueId::Replay => self.replay.as_deref_mut(),
        }
    }

    pub fn get_mut(&mut self, uid: &str) -> Option<&mut EnvironmentQueue> {
        self.queues.get_mut(uid).map(Box::as_mut)
    }

    pub fn close(&mut self, uid: &str) -> Option<EnvironmentQueue> {
        self.queues.remove(uid).map(|queue| *queue)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &EnvironmentQueue)> {
        self.queues.iter().map(|(uid, queue)| (uid, &**queue))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut EnvironmentQueue)> {
        let queues = self.queues.iter_mut();
        queues.map(|(uid, queue)| (uid, &mut **queue))
    }

    pub fn all(&self) -> impl Iterator<Item = &EnvironmentQueue> {
        let all = self.queues.values().chain(&self.replay);
        all.map(Box::as_ref)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut EnvironmentQueue> {
        let all = self.queues.values_mut().chain(&mut self.replay);
        all.map(Box::as_mut)
    }

    /// The queue that waits for the answer to this work.
    pub fn working(&mut self, token: Token) -> Option<(QueueId, &mut EnvironmentQueue)> {
        let logs = self.queues.iter_mut();
        let logs = logs.map(|(uid, queue)| (Some(uid), queue));
        let replay = self.replay.iter_mut().map(|queue| (None, queue));
        let (uid, queue) = logs
            .chain(replay)
            .find(|(_, queue)| queue.work.token() == Some(token))?;
        let id = uid.map_or(QueueId::Replay, |uid| QueueId::Log(uid.clone()));
        Some((id, queue))
    }

    pub fn cursors(&self) -> Vec<Cursor> {
        let cursors = self.queues.values().map(|queue| queue.cursor.clone());
        cursors.collect()
    }

    /// Whether anything is on its way, or may be left to send, but for a replay.
    pub fn any_unfinished(&self) -> bool {
        let mut queues = self.queues.values();
        queues.any(|queue| queue.has_more() || queue.work.has_turn())
    }

    /// Whether it is known of every log where it ends, so that what is not known to wait does not wait.
    pub fn heads_are_known(&self) -> bool {
        let mut queues = self.queues.values();
        queues.all(|queue| queue.head_known || queue.is_leaving())
    }

    /// Whether any of all can't go on before its cursor is written.
    pub fn any_full(&self, now: Moment) -> bool {
        self.all().any(|queue| queue.is_full(now))
    }

    /// Whether anything at all was delivered that the status does not know of.
    pub fn any_ahead(&self) -> bool {
        self.all().any(|queue| queue.ahead.any())
    }

    /// Notes which messages wait for their turns, and not for a write of the status.
    pub fn note_waiting(&mut self, now: Moment) {
        for queue in self.queues.values_mut() {
            let waits = queue.work.is_ready() && queue.ahead.may_send(now);
            queue.waiting_since = waits.then(|| queue.waiting_since.unwrap_or(now));
        }
    }

    /// Since when the message waits that has waited longest for its turn.
    pub fn waiting_since(&self) -> Option<Moment> {
        let queues = self.queues.values();
        queues.filter_map(|queue| queue.waiting_since).min()
    }

    pub fn counted(&self) -> AheadCounts {
        let of = |queue: &EnvironmentQueue| (queue.opened, queue.ahead);
        self.all().map(of).collect()
    }

    /// The status knows of what was counted, of all.
    pub fn written(&mut self, counted: &AheadCounts, now: Moment) {
        let counted: BTreeMap<_, _> = counted.iter().copied().collect();
        for queue in self.all_mut() {
            if let Some(ahead) = counted.get(&queue.opened) {
                queue.ahead.written(*ahead, now);
            }
        }
    }

    /// Those of all whose next message may be looked for; a replay comes last.
    pub fn searchable(&self, written: &WrittenCursors<'_>, now: Moment) -> Vec<QueueId> {
        self.those(written, |queue, written| queue.may_search(written, now))
    }

    /// Those of all whose next message may be sent; a replay comes last.
    pub fn sendable(&self, written: &WrittenCursors<'_>, now: Moment) -> Vec<QueueId> {
        self.those(written, |queue, written| queue.may_take_turn(written, now))
    }

    fn those(
        &self,
        written: &WrittenCursors<'_>,
        wanted: impl Fn(&EnvironmentQueue, Option<&Cursor>) -> bool,
    ) -> Vec<QueueId> {
        let logs = written.logs.iter();
        let logs: BTreeMap<_, _> = logs
            .map(|cursor| (cursor.environment_uid.as_str(), cursor))
            .collect();
        let queues = self.queues.iter();
        let queues = queues.filter(|(uid, queue)| wanted(queue, logs.get(uid.as_str()).copied()));
        let replay = self.replay.iter();
        let replay = replay.filter(|queue| wanted(queue, written.replay));
        queues
            .map(|(uid, _)| QueueId::Log(uid.clone()))
            .chain(replay.map(|_| QueueId::Replay))
            .collect()
    }

    /// When, after this moment, the next log that could not be read is read again.
    pub fn next_read(&self, after: Moment) -> Option<Moment> {
        let unreadable = self.all().filter_map(|queue| queue.unreadable.as_ref());
        let until = unreadable.map(|unreadable| unreadable.until);
        until.filter(|until| *until > after).min()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::notification_setting::UnreportedGap;

    type Change = fn(&mut EnvironmentQueue);

    fn cursor(uid: &str, index: i64) -> Cursor {
        Cursor {
            environment: format!("env-{uid}"),
            environment_uid: uid.to_owned(),
            index,
            ..Cursor::default()
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn size_of_value<K, V>(_: &BTreeMap<K, V>) -> usize {
        size_of::<V>()
    }

    #[test]
    fn a_node_of_the_map_does_not_hold_room_for_eleven_queues() {
        let size = size_of_value(&EnvironmentQueues::default().queues);
        assert!(size <= 64, "{size} bytes in the node for each queue");
    }

    #[test]
    fn a_queue_goes_on_when_it_is_idle_and_has_more_and_its_start_is_written() {
        let unreadable = |until| {
            Some(Unreadable {
                why: String::new(),
                failures: 1,
                until,
            })
        };
        let mut queues = EnvironmentQueues::default();
        let cases: [(&str, Change); 7] = [
            ("a", |_| ()),
            ("b", |queue| {
                queue.work = Work::Searching {
                    token: 1,
                    turn: None,
                };
            }),
            ("c", |queue| queue.searched = 9),
            ("d", |_| ()),
            ("e", |_| ()),
            ("f", |queue| queue.ahead.sent(99, at(10))),
            ("g", |queue| {
                queue.phase = Phase::Leaving(SkipReason::EnvironmentLeft);
            }),
        ];
        for (uid, change) in cases {
            let queue = queues.open(cursor(uid, 4));
            queue.head = 9;
            change(queue);
        }
        queues.get_mut("d").unwrap().unreadable = unreadable(at(11));
        queues.get_mut("e").unwrap().unreadable = unreadable(at(10));
        let written: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"]
            .map(|uid| cursor(uid, 4))
            .into();
        let searchable = |written: &[Cursor]| {
            queues.searchable(
                &WrittenCursors {
                    logs: written,
                    replay: None,
                },
                at(10),
            )
        };
        let logs = ["a", "e"].map(|uid| QueueId::Log(uid.to_owned()));
        assert_eq!(searchable(&written), logs);
        assert!(searchable(&[]).is_empty(), "not written yet");
        assert_eq!(queues.next_read(at(9)), Some(at(10)));
        assert_eq!(queues.next_read(at(10)), Some(at(11)));
        assert!(queues.any_full(at(10)) && queues.any_unfinished());
    }

    #[test]
    fn a_gap_is_reported_when_the_status_holds_it_even_at_the_head() {
        let gap = |to| UnreportedGap {
            from: 2,
            to,
            time: Timestamp::UNIX_EPOCH,
        };
        let with = |uid, unreported_gap| Cursor {
            unreported_gap,
            ..cursor(uid, 4)
        };
        let mut queues = EnvironmentQueues::default();
        assert!(!queues.open(with("a", Some(gap(4)))).is_through());
        assert!(queues.any_unfinished());
        for (written, ready) in [
            (vec![], false),
            (vec![cursor("a", 4)], false),
            (vec![with("a", Some(gap(3)))], false),
            (vec![with("b", Some(gap(4)))], false),
            (vec![with("b", None), with("a", Some(gap(4)))], true),
        ] {
            let logs = &written[..];
            let searchable = queues.searchable(&WrittenCursors { logs, replay: None }, at(2));
            assert_eq!(!searchable.is_empty(), ready, "{written:?}");
        }
        queues.get_mut("a").unwrap().cursor.unreported_gap = None;
        assert!(queues.get("a").unwrap().is_through());
    }

    #[test]
    fn a_write_that_counted_an_earlier_queue_of_the_environment_says_nothing_of_the_next() {
        let mut queues = EnvironmentQueues::default();
        queues.open(cursor("a", 4)).ahead.sent(5, at(1));
        let counted = queues.counted();
        queues.close("a");
        queues.open(cursor("a", 9)).ahead.sent(3, at(2));
        queues.written(&counted, at(3));
        assert!(queues.any_ahead());
        let counted = queues.counted();
        queues.written(&counted, at(4));
        assert!(!queues.any_ahead());
    }

    #[test]
    fn what_is_not_on_its_way_yet_can_be_cancelled_and_frees_its_turn() {
        let turn = Turn {
            token: 7,
            since: at(1),
            messages: 0,
        };
        let searching = |turn| Work::Searching { token: 8, turn };
        for (mut work, freed) in [
            (Work::Idle, None),
            (searching(None), None),
            (searching(Some(turn)), Some(7)),
            (Work::Composing { turn }, Some(7)),
        ] {
            assert_eq!(work.cancel(), freed, "{work:?}");
            assert!(matches!(work, Work::Idle));
        }
    }
}
