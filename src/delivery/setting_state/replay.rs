//! A replay, which an annotation asks for. It has a queue and attempts of its own beside those of the environments: what
//! happens meanwhile is not kept waiting, and while that fails the replay waits.

use std::sync::Arc;

use tracing::{debug, info};

use crate::{
    api::{
        REPLAY_ANNOTATION,
        condition::{MESSAGE, shorten},
        notification_setting::{Cursor, Replay},
    },
    backoff,
    delivery::{
        environment_queue::{Token, UNREADABLE},
        message_history::{self, Attempt},
        next_message::NextMessage,
        reasons::{EventReason, ReplayReason},
        replay::{EVENTS, Locate, Located, Refusal, ReplayRequest},
        setting_state::{Action, Now, SettingState},
        status_writer::WriteDue,
        subscription::Subscription,
    },
    http::{
        response::{LONGEST_RETRY_AFTER, Outcome, Reason},
        sender::Receipt,
    },
};

impl SettingState {
    pub(super) fn is_replaying(&self) -> bool {
        self.running().is_some()
    }

    /// The replay that is under way, as the status says.
    fn running(&self) -> Option<&Replay> {
        let replay = self.status.replay.as_ref();
        replay.filter(|replay| replay.end_time.is_none())
    }

    /// The replay's cursor, if it stands in the status that what is sent is sent again.
    pub(super) fn written_replay(&self) -> Option<&Cursor> {
        let written = self.writer.written().replay.as_ref()?;
        let running = self.running()?;
        let same = (&written.request, written.start_time) == (&running.request, running.start_time);
        written.cursor.as_ref().filter(|_| same)
    }

    /// Begins, ends or resumes what the annotation asks for. One at a time: another value waits until the replay has ended.
    pub(super) fn follow_replay_request(&mut self, now: Now) {
        if self.writer.stands_back_until().is_some() {
            return;
        }
        let asked = self.setting.requested(REPLAY_ANNOTATION);
        let Some(running) = self.running() else {
            let handled = &self.status.last_handled_replay;
            let asked = asked.filter(|asked| handled.as_ref() != Some(asked));
            // What became of the one before is told first.
            let is_told = self.writer.written().last_handled_replay == *handled;
            if let Some(request) = asked.filter(|_| is_told) {
                self.begin_replay(&request, now);
            }
            return;
        };
        let request = running.request.clone();
        let sending = self
            .queues
            .replay()
            .is_some_and(|queue| queue.work.is_sending());
        if sending {
            return; // nothing can be decided
        }
        if asked.is_none() {
            let why = "The annotation was removed.";
            self.end_replay(ReplayReason::Canceled, why, now);
            return;
        }
        let failing = self.replay.failing_since;
        let failing = failing.map(|since| now.moment.saturating_sub(since));
        if failing.is_some_and(|failing| failing > self.subscription.max_age) {
            let why = "It could not be delivered for as long as retry.maxAge says.";
            self.end_replay(ReplayReason::RetryExpired, why, now);
            return;
        }
        match self.queues.replay() {
            Some(_) => {
                if !self.replay_is_followed() {
                    let why = "The setting no longer asks for the environment, or may not see it.";
                    self.end_replay(ReplayReason::EnvironmentNotFollowed, why, now);
                }
            }
            None => self.locate_replay(&request, now),
        }
    }

    fn begin_replay(&mut self, request: &str, now: Now) {
        self.replay.reset();
        self.status.replay = Some(Replay {
            request: request.to_owned(),
            start_time: now.wall,
            reason: ReplayReason::Running.as_str().to_owned(),
            message: "The replay begins.".to_owned(),
            ..Replay::default()
        });
        self.writer.ask(WriteDue::Soon);
        self.locate_replay(request, now);
    }

    /// Finds where the replay begins, or goes on after a restart.
    fn locate_replay(&mut self, request: &str, now: Now) {
        let waits = self.replay.again.is_some_and(|again| again > now.moment);
        if waits || self.replay.locating.is_some() {
            return;
        }
        let request = match ReplayRequest::parse(request) {
            Ok(request) => request,
            Err(refusal) => return self.refuse_replay(&refusal, now),
        };
        if let ReplayRequest::Snapshots { environment, .. } = &request {
            let mut starts = self.status.starts.iter();
            if starts.any(|start| start.environment == *environment && start.index.is_none()) {
                return; // nothing of it has been sent yet; where its log ends is about to be known
            }
        }
        let queues = self.queues.iter().map(|(_, queue)| queue);
        let mut queues: Vec<_> = queues.filter(|queue| !queue.is_leaving()).collect();
        // A name may be that of a deleted environment and of one that was created since.
        queues.sort_by_key(|queue| queue.deleted.is_some());
        let running = self.running();
        let locate = Locate {
            request,
            cursors: queues.iter().map(|queue| queue.cursor.clone()).collect(),
            letters: self.status.dead_letters.clone(),
            begun: running.filter(|replay| replay.cursor.is_some()).cloned(),
            patient: self.replay.failures > UNREADABLE,
        };
        let token = self.token();
        self.replay.locating = Some(token);
        self.replay.wanted = Some(token);
        self.replay.again = None;
        self.actions.push(Action::Locate(token, Box::new(locate)));
    }

    pub(super) fn replay_located(
        &mut self,
        token: Token,
        result: Result<Result<Located, Refusal>, String>,
        now: Now,
    ) {
        self.replay.locating = None;
        if self.replay.wanted != Some(token) {
            return; // of a replay that has ended
        }
        self.replay.wanted = None;
        if self.writer.stands_back_until().is_some() {
            return; // it is looked for again then
        }
        let located = match result {
            Err(why) => {
                debug!(setting = %self.title, why, "can't find what is to be sent again; trying again");
                self.replay.failures = self.replay.failures.saturating_add(1);
                self.replay.failure = Some(why);
                self.replay.again =
                    Some(now.moment + backoff::delay(self.replay.failures, self.seed));
                if self.replay.failures == UNREADABLE {
                    self.writer.ask(WriteDue::Soon);
                }
                return;
            }
            Ok(Err(refusal)) => return self.refuse_replay(&refusal, now),
            Ok(Ok(located)) => located,
        };
        let Some(replay) = self.status.replay.as_mut() else {
            return;
        };
        let resumed = replay.cursor.is_some();
        replay.cursor = Some(located.cursor.clone());
        replay.to = Some(located.to);
        replay.event_id = located.message.as_ref().map(|message| message.id.clone());
        let request = replay.request.clone();
        self.replay.failures = 0;
        self.replay.failure = None;
        self.replay.message = located.message;
        self.queues.open_replay(located.cursor, located.to);
        if !resumed {
            info!(setting = %self.title, request, "a replay begins");
            let note = format!("sending again what {REPLAY_ANNOTATION} asks for: {request}");
            self.publish(EventReason::ReplayStarted, note);
        }
        self.writer.ask(WriteDue::Soon);
        self.end_replay_if_done(now); // if all of it was sent before a restart
    }

    /// Says what a replay waits for.
    pub(super) fn tell_of_replay(&mut self) {
        if !self.is_replaying() {
            return;
        }
        let queue = self.queues.replay();
        let unreadable = match queue {
            Some(queue) => queue.log_problem().map(ToOwned::to_owned),
            None => self
                .replay
                .failure
                .clone()
                .filter(|_| self.replay.failures >= UNREADABLE),
        };
        let message = match unreadable {
            Some(why) => format!("The log can't be read ({why}). It is tried again."),
            None if self.is_suspended() => "It waits: spec.suspend is true.".to_owned(),
            None if self.replay.problem.is_some() => {
                let why = self.replay.problem.as_deref().unwrap_or_default();
                format!(
                    "It waits, and is tried again: {}.",
                    why.trim_end_matches('.')
                )
            }
            None if self.problems.first().is_some() || self.retry.problem().is_some() => {
                "It waits: see the conditions Ready and Delivered.".to_owned()
            }
            None if queue.is_none() => "What it asks for is being looked for.".to_owned(),
            None => "It is being sent.".to_owned(),
        };
        if let Some(replay) = &mut self.status.replay {
            replay.message = shorten(&message, MESSAGE);
        }
    }

    fn refuse_replay(&mut self, refusal: &Refusal, now: Now) {
        self.end_replay(refusal.reason, &refusal.message, now);
    }

    /// Ends a replay, and says what came of it.
    fn end_replay(&mut self, reason: ReplayReason, why: &str, now: Now) {
        self.replay.reset();
        let queue = self.queues.close_replay();
        let Some(replay) = self.status.replay.as_mut() else {
            return;
        };
        if let Some(mut queue) = queue {
            let turn = queue.work.cancel();
            self.actions.extend(turn.map(Action::ReleaseTurn));
            replay.cursor = Some(queue.cursor);
        }
        let sent = match (replay.delivered, replay.refused) {
            (0, 0) if reason == ReplayReason::Delivered => {
                "None of the events is asked for by spec.eventTypes.".to_owned()
            }
            (0, 0) => "Nothing was sent again.".to_owned(),
            (events, 0) => format!("Events delivered again: {events}."),
            (events, refused) => {
                format!("Events delivered again: {events}. Messages refused again: {refused}.")
            }
        };
        let message = match why {
            "" => sent,
            why => format!("{why} {sent}"),
        };
        info!(setting = %self.title, request = replay.request, reason = reason.as_str(), message, "a replay has ended");
        replay.end_time = Some(now.wall);
        reason.as_str().clone_into(&mut replay.reason);
        replay.message = shorten(&message, MESSAGE);
        self.status.last_handled_replay = Some(replay.request.clone());
        let note = format!("{}: {message}", replay.request);
        self.publish(
            match reason {
                ReplayReason::Delivered => EventReason::ReplayDelivered,
                ReplayReason::Canceled => EventReason::ReplayCanceled,
                _ => EventReason::ReplayEnded,
            },
            note,
        );
        self.writer.ask(WriteDue::Soon);
    }

    /// What a replay asks for: what the setting asks for, and the event that is named.
    pub(super) fn replayed(&self) -> Arc<Subscription> {
        let named = self.replay.message.as_ref().map(|message| message.type_);
        match named.filter(|type_| !self.subscription.types.contains(type_)) {
            Some(type_) => {
                let mut subscription = Subscription::clone(&self.subscription);
                subscription.types.insert(type_);
                Arc::new(subscription)
            }
            None => self.subscription.clone(),
        }
    }

    /// Whether the queue of a replay may go on: its environment is still followed.
    pub(super) fn replay_is_followed(&self) -> bool {
        self.queues.replay().is_some_and(|queue| {
            let log = self.queues.get(&queue.cursor.environment_uid);
            log.is_some_and(|log| !log.is_leaving())
        })
    }

    /// The search for the next message of the replay went over entries that are gone.
    pub(super) fn replay_lost(&mut self, from: i64, now: Now) {
        let why = format!("Snapshot {from} was removed from the log in the meantime.");
        self.end_replay(ReplayReason::HistoryTruncated, &why, now);
    }

    /// What an answer means for a message of the replay. It says nothing of what is new: that has attempts of its own.
    /// Whether the message is done.
    pub(super) fn replay_answered(
        &mut self,
        message: &NextMessage,
        attempt: Attempt,
        receipt: &Receipt,
        now: Now,
    ) -> bool {
        let outcome = &receipt.outcome;
        let reason = outcome.reason().map_or("", Reason::as_str);
        self.writer.ask(WriteDue::Soon);
        let attempts = self.replay.attempts.saturating_add(1);
        let (wait, after) = match outcome {
            Outcome::Delivered { .. } => {
                debug!(setting = %self.title, id = message.id, snapshot = message.snapshot, "delivered again");
                let (answer, latency) = (receipt.status, receipt.latency);
                message_history::delivered(&mut self.status, attempt, answer, latency);
                self.replay_moved(message, None);
                return true;
            }
            Outcome::Refused { .. } => {
                message_history::failed(&mut self.status, attempt, reason, outcome.message());
                self.replay_moved(message, Some(outcome.message()));
                return true;
            }
            Outcome::Retry { after, .. } => (backoff::delay(attempts, self.seed), *after),
            Outcome::Hold { .. } | Outcome::Gone { .. } => {
                (backoff::slow_delay(attempts, self.seed), None)
            }
        };
        info!(setting = %self.title, id = message.id, reason, why = outcome.message(), "not delivered again; trying later");
        message_history::failed(&mut self.status, attempt, reason, outcome.message());
        let wait = backoff::obeying(wait, after, LONGEST_RETRY_AFTER, self.seed);
        self.replay.attempts = attempts;
        self.replay.failing_since.get_or_insert(now.moment);
        self.replay.problem = Some(outcome.message().to_owned());
        self.replay.until = Some(now.moment + wait);
        false
    }

    /// A message of the replay was delivered, or refused with this answer.
    fn replay_moved(&mut self, message: &NextMessage, refusal: Option<&str>) {
        self.replay.attempts = 0;
        (self.replay.failing_since, self.replay.problem) = (None, None);
        let Some(replay) = self.status.replay.as_mut() else {
            return;
        };
        replay.cursor = Some(message.after.clone());
        let events = i64::try_from(message.events).unwrap_or(i64::MAX);
        if let Some(one) = &mut self.replay.message {
            one.done = one.done.saturating_add(events);
        }
        self.replay.refused_twice = refusal.is_some() && self.replay.refusal.as_deref() == refusal;
        self.replay.refusal = refusal.map(ToOwned::to_owned);
        if refusal.is_some() {
            replay.refused = replay.refused.saturating_add(1);
        } else {
            replay.delivered = replay.delivered.saturating_add(events);
            let last = message.after.begun();
            message_history::redelivered(&mut self.status, &message.letters, events, last);
        }
    }

    /// Ends the replay if nothing of it is left. Whether it has ended.
    pub(super) fn end_replay_if_done(&mut self, now: Now) -> bool {
        let (Some(queue), Some(replay)) = (self.queues.replay(), self.running()) else {
            return true;
        };
        let is_sent = self.replay.message.as_ref().is_some_and(|message| {
            message.done > 0 && message.events.is_none_or(|events| message.done >= events)
        });
        let position = queue.cursor.index;
        if self.replay.refused_twice {
            let why = "Two messages in a row were refused with the same answer.";
            self.end_replay(ReplayReason::Refused, why, now);
            return true;
        }
        if is_sent || !queue.has_more() {
            let reason = match replay.refused {
                0 => ReplayReason::Delivered,
                _ => ReplayReason::Refused,
            };
            if let (ReplayReason::Delivered, true, Some(one)) =
                (reason, is_sent, &self.replay.message)
            {
                // Perhaps as several messages.
                let letters = &mut self.status.dead_letters;
                letters.retain(|letter| letter.event_id != one.id);
            }
            self.end_replay(reason, "", now);
            return true;
        }
        if replay.delivered >= EVENTS {
            let rest = format!(
                "A replay is of at most {EVENTS} events: ask for those after snapshot {position} next."
            );
            self.end_replay(ReplayReason::TooManyEvents, &rest, now);
            return true;
        }
        false
    }
}
