//! Sending: the next message of each queue is looked for, waits for its turn, is composed, sent, and its answer taken in.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::{
    api::notification_setting::Cursor,
    delivery::{
        environment_queue::{Phase, QueueId, Token, Turn, Work, WrittenCursors},
        message_history::{self, Attempt},
        next_message::{Found, Next, NextMessage, Search},
        reasons::{EventReason, SkipReason},
        retry::{Began, Disposition, Recovery},
        setting_state::{Action, Now, SettingState},
        status_writer::WriteDue,
    },
    http::{
        destination::DestinationKind,
        response::{Outcome, Reason},
        sender::Receipt,
    },
    message::unreported_gap,
};

/// How many messages of one environment may use one turn at a webhook, and for how long: a setting's backlog goes out in
/// bursts, so that one status write acknowledges many events and nobody waits long for a burst to end.
const BURST: (u32, Duration) = (32, Duration::from_millis(250));

impl SettingState {
    /// Whether a message may be sent now, as far as the setting as a whole is concerned.
    pub(super) fn may_send(&self, now: Now) -> bool {
        !self.stopping
            && !self.is_suspended()
            && self.writer.stands_back_until().is_none()
            // The decisions about this spec stand in the status before anything is sent for it.
            && self.writer.written().observed_generation == Some(self.subscription.generation)
            && self.retry.may_send(now.moment)
    }

    /// Gives up whatever is not on its way yet; what still is to be sent is found again.
    pub(super) fn cancel_unsent(&mut self) {
        let queues = self.queues.all_mut();
        let mut freed: Vec<_> = queues.filter_map(|queue| queue.work.cancel()).collect();
        freed.extend(self.test.cancel());
        self.actions
            .extend(freed.into_iter().map(Action::ReleaseTurn));
    }

    /// The queues that may go on now: all, or, while attempts fail, one that shows whether the destination is well again,
    /// which a replay does not: it waits.
    fn admitted(&self, mut ready: Vec<QueueId>, now: Now) -> Vec<QueueId> {
        if self.retry.problem().is_none() {
            ready.retain(|id| *id != QueueId::Replay || self.replay.may_send(now.moment));
            return ready;
        }
        if self.queues.all().any(|queue| queue.work.has_turn()) {
            return vec![];
        }
        ready.retain(|id| *id != QueueId::Replay);
        let probe = self.probe.clone().filter(|probe| ready.contains(probe));
        probe.into_iter().chain(ready).take(1).collect()
    }

    fn written_cursors(&self) -> WrittenCursors<'_> {
        WrittenCursors {
            logs: &self.writer.written().cursors,
            replay: self.written_replay(),
        }
    }

    fn written_cursor(&self, id: &QueueId) -> Option<&Cursor> {
        match id {
            QueueId::Log(uid) => self.writer.written_cursor(uid),
            QueueId::Replay => self.written_replay(),
        }
    }

    pub(super) fn start_searches(&mut self, now: Now) {
        if !self.may_send(now) {
            return;
        }
        let ready = self.queues.searchable(&self.written_cursors(), now.moment);
        for id in ready {
            self.search(&id, None, now);
        }
    }

    fn search(&mut self, id: &QueueId, turn: Option<Turn>, now: Now) {
        let token = self.token();
        if let Some(search) = self.search_of(id, now)
            && let Some(queue) = self.queues.queue_mut(id)
        {
            queue.work = Work::Searching { token, turn };
            self.actions.push(Action::Search(token, Box::new(search)));
        }
    }

    fn search_of(&self, id: &QueueId, now: Now) -> Option<Search> {
        let queue = self.queues.queue(id)?;
        let replay = *id == QueueId::Replay;
        let max_age = self.subscription.max_age;
        Some(Search {
            subscription: match replay {
                true => self.replayed(),
                false => self.subscription.clone(),
            },
            cursor: queue.cursor.clone(),
            head: queue.head,
            // All of a replay is old: it is given up as a whole.
            expired_before: self.retry.expired_before(max_age).filter(|_| !replay),
            deleted: queue.deleted.is_some(),
            replay: replay.then(|| {
                let letters = self.status.dead_letters.iter();
                letters.map(|letter| letter.event_id.clone()).collect()
            }),
            now: now.wall,
        })
    }

    pub(super) fn found(&mut self, token: Token, found: Found, now: Now) {
        let seed = self.seed;
        let Some((queue_id, queue)) = self.queues.working(token) else {
            return; // cancelled
        };
        let Work::Searching { turn, .. } = std::mem::take(&mut queue.work) else {
            return;
        };
        if let (QueueId::Replay, Some(lost)) = (&queue_id, found.skipped.first()) {
            self.actions
                .extend(turn.map(|turn| Action::ReleaseTurn(turn.token)));
            self.replay_lost(lost.from, now);
            return;
        }
        let environment = queue.cursor.environment.clone();
        let gap = found.cursor.unreported_gap.clone();
        let gap = gap.filter(|gap| queue.cursor.unreported_gap.as_ref() != Some(gap));
        let moved = queue.cursor != found.cursor;
        queue.advance(found.cursor);
        let is_read = !matches!(found.next, Next::Unreadable(_));
        if is_read && queue.could_read() {
            self.writer.ask(WriteDue::Soon);
        }
        match found.next {
            Next::Message(key) => queue.work = Work::Found(key),
            Next::Nothing => {}
            Next::Unreadable(why) => {
                warn!(setting = %self.title, environment, why, "can't read the log; trying again");
                if queue.could_not_read(why, seed, now.moment) {
                    self.writer.ask(WriteDue::Soon);
                }
            }
        }
        if moved {
            self.writer.ask(WriteDue::Lazily);
        }
        if queue_id == QueueId::Replay && is_read && self.end_replay_if_done(now) {
            self.actions
                .extend(turn.map(|turn| Action::ReleaseTurn(turn.token)));
            return;
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
                through: None,
                events: 1,
                attempts: i64::from(self.retry.attempts()),
                time: now.wall,
            };
            let message = "it could not be delivered for as long as retry.maxAge says";
            let reason = SkipReason::RetryExpired.as_str();
            message_history::dead_lettered(&mut self.status, &attempt, reason, message);
            self.writer.ask(WriteDue::Soon);
        }
        self.use_turn(&queue_id, turn, now);
    }

    /// A turn that is still held serves the next message, or is given back.
    fn use_turn(&mut self, id: &QueueId, turn: Option<Turn>, now: Now) {
        let Some(turn) = turn else { return };
        let may_send = self.may_send(now);
        let written = self.written_cursor(id).cloned();
        let search = self.search_of(id, now);
        if let Some(queue) = self.queues.queue_mut(id)
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
    pub(super) fn take_turns(&mut self, now: Now) {
        if !self.may_send(now) {
            return;
        }
        let ready = self.queues.sendable(&self.written_cursors(), now.moment);
        let ready = self.admitted(ready, now);
        if ready.is_empty() || !self.destination_is_fresh(now) {
            return;
        }
        let Some(destination) = self.destination.value.clone() else {
            return;
        };
        for id in ready {
            let token = self.token();
            if let Some(queue) = self.queues.queue_mut(&id)
                && let Work::Found(key) = &queue.work
            {
                let key = key.clone();
                queue.work = Work::Waiting { token, key };
                let destination = destination.clone();
                self.actions.push(Action::TakeTurn(token, destination));
            }
        }
    }

    pub(super) fn turn_came(&mut self, token: Token, result: Result<(), String>, now: Now) {
        if self.test.waits_for(token) {
            self.test_turn_came(token, result, now);
            return;
        }
        let Some((id, queue)) = self.queues.working(token) else {
            self.actions.push(Action::ReleaseTurn(token)); // cancelled meanwhile
            return;
        };
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
        self.use_turn(&id, Some(turn), now);
    }

    pub(super) fn composed(
        &mut self,
        token: Token,
        result: Result<Option<NextMessage>, String>,
        now: Now,
    ) {
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
                    generation: self.subscription.generation,
                    to: destination.key(),
                };
                self.actions
                    .push(Action::Send(turn.token, destination, id, body));
            }
            (result, _) => {
                if let Err(why) = result {
                    warn!(setting = %self.title, environment = queue.cursor.environment, why, "can't read the log; trying again");
                    if queue.could_not_read(why, seed, now.moment) {
                        self.writer.ask(WriteDue::Soon);
                    }
                }
                self.actions.push(Action::ReleaseTurn(turn.token));
            }
        }
    }

    pub(super) fn sent(&mut self, token: Token, began: Now, receipt: &Receipt, now: Now) {
        if self.is_test(token) {
            self.test_sent(token, receipt, now);
            return;
        }
        let may_send = self.may_send(now);
        let followed = self.replay_is_followed();
        let Some((id, queue)) = self.queues.working(token) else {
            self.actions.push(Action::ReleaseTurn(token)); // its queue has ended
            return;
        };
        let Work::Sending {
            turn,
            mut message,
            generation,
            to,
        } = std::mem::take(&mut queue.work)
        else {
            return;
        };
        // A destination may refuse the form of a message and take it without that form.
        let plain = message.plain.take();
        let plain = plain.filter(|_| receipt.outcome.is_payload_problem());
        let current = self.destination.value.clone();
        let current = current.filter(|destination| destination.key() == to);
        if let (Some(plain), Some(destination)) = (&plain, &current)
            && may_send
            && queue.phase == Phase::Following
            && (id != QueueId::Replay || followed)
            && generation == self.subscription.generation
        {
            let send = Action::Send(
                token,
                destination.clone(),
                message.id.clone(),
                plain.clone(),
            );
            self.actions.push(send);
            queue.work = Work::Sending {
                turn,
                message,
                generation,
                to,
            };
            return;
        }
        let delivered = matches!(receipt.outcome, Outcome::Delivered { .. });
        if plain.is_some() || current.is_none() && !delivered {
            // The plain form was not tried, or another destination than today's can't take it: that says nothing. If it
            // still is to be sent, it is found again.
            queue.searched = queue.cursor.index;
            self.actions.push(Action::ReleaseTurn(token));
            return;
        }
        let turn = self.take_answer(&id, &message, turn, began, receipt, now);
        match turn {
            Some(turn) => self.search(&id, Some(turn), now),
            None => self.actions.push(Action::ReleaseTurn(token)),
        }
    }

    /// What an answer means for the message, the queue and the setting. The turn, if the next message may use it.
    fn take_answer(
        &mut self,
        queue_id: &QueueId,
        message: &NextMessage,
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
            through: message.through,
            events: message.events,
            attempts: i64::from(failures) + 1,
            time: now.wall,
        };
        let at = Began {
            id: &message.id,
            moment: began.moment,
            wall: began.wall,
        };
        if *queue_id == QueueId::Replay {
            let done = self.replay_answered(message, attempt, receipt, now);
            let more = self.move_on(queue_id, message, began, done);
            self.note_denied(now, outcome.reason(), outcome.message());
            return (!self.end_replay_if_done(now) && more)
                .then_some(turn)
                .and_then(|turn| self.another(queue_id, turn, now));
        }
        let verdict = self.retry.answered(outcome, at, self.seed, now.moment);
        let reason = outcome.reason().map_or("", Reason::as_str);
        match verdict {
            Disposition::Delivered => {
                debug!(setting = %self.title, id = message.id, snapshot = message.snapshot, "delivered");
                message_history::delivered(
                    &mut self.status,
                    attempt,
                    receipt.status,
                    receipt.latency,
                );
            }
            Disposition::SetAside => {
                warn!(setting = %self.title, id = message.id, snapshot = message.snapshot, why = outcome.message(), "refused for good; going on with the next");
                message_history::dead_lettered(
                    &mut self.status,
                    &attempt,
                    reason,
                    outcome.message(),
                );
                message_history::failed(&mut self.status, attempt, reason, outcome.message());
            }
            Disposition::Keep => {
                info!(setting = %self.title, id = message.id, reason, why = outcome.message(), "not delivered; trying again later");
                message_history::failed(&mut self.status, attempt, reason, outcome.message());
                self.probe = Some(queue_id.clone());
            }
        }
        if verdict == Disposition::Delivered && before.is_none() {
            self.writer.ask_for_delivered(now.moment);
        } else {
            self.writer.ask(WriteDue::Soon);
        }
        let more = self.move_on(queue_id, message, began, verdict != Disposition::Keep);
        self.note_denied(now, outcome.reason(), outcome.message());
        self.report_change(before.is_some(), failures);
        if verdict == Disposition::Keep {
            self.cancel_unsent(); // one attempt at a time until one succeeds
        }
        more.then_some(turn)
            .and_then(|turn| self.another(queue_id, turn, now))
    }

    /// Moves the cursor over a message that is done. Whether it is, and more may be left to send.
    fn move_on(&mut self, id: &QueueId, message: &NextMessage, began: Now, done: bool) -> bool {
        let Some(queue) = self.queues.queue_mut(id) else {
            return false;
        };
        queue.searched = queue.cursor.index;
        if done {
            queue.advance(message.after.clone());
            queue.ahead.sent(message.events, began.moment);
        }
        done && queue.has_more()
    }

    /// The turn that has served another message, if the next one may use it.
    fn another(&self, queue_id: &QueueId, turn: Turn, now: Now) -> Option<Turn> {
        let turn = Turn {
            messages: turn.messages + 1,
            ..turn
        };
        let (messages, time) = BURST;
        let may_burst = self.subscription.kind == DestinationKind::Webhook
            && turn.messages < messages
            && now.moment < turn.since + time;
        let written = self.written_cursor(queue_id);
        let may_go_on = self
            .queues
            .queue(queue_id)
            .is_some_and(|queue| queue.may_go_on(written, now.moment));
        (may_burst && may_go_on && self.may_send(now)).then_some(turn)
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
}
