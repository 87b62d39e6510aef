//! The status: what waits is counted, the status composed and written, and conflicts with other writers are met.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use crate::{
    api::{
        NotificationSettingStatus, condition,
        notification_setting::{Cursor, StartDecision},
    },
    delivery::{
        conditions::{self, ConditionInput},
        environment_queue::AheadCounts,
        pending::{CountedRange, LogRange},
        reasons::EventReason,
        setting_state::{
            Action, Counting, Now, SettingState, destination::destination_unknown, resumed,
        },
        status_writer::{ConflictOutcome, WriteAnswer, WriteDue},
    },
};

/// At most this many entries of the logs are counted before a write of the status; the next write goes on.
const COUNTED: i64 = 256;
/// At most this many decisions about starts are kept in the status once their cursors stand there.
const STARTS_KEPT: usize = 32;

impl SettingState {
    /// Counts what waits if that was not done yet, then writes the status if it is due.
    pub(super) fn write_if_due(&mut self, now: Now) {
        let full = self.queues.any_full(now.moment);
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
            let counts = self.uncounted(now);
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
            // Another replica may have got as far as this one.
            let counted = self.queues.counted();
            self.queues.written(&counted, now.moment);
            return;
        }
        let uid = self.setting.metadata.uid.as_deref().unwrap_or_default();
        let write = self.writer.begin(uid, &self.status, self.queues.counted());
        self.actions.push(Action::WriteStatus(Box::new(write)));
    }

    /// What is to be counted before the next write: as much as one write may take.
    fn uncounted(&self, now: Now) -> Vec<LogRange> {
        let mut budget = COUNTED;
        let mut counts = vec![];
        for (_, queue) in self.queues.iter() {
            if let Some(next) = queue.pending.next(queue.head)
                && budget > 0
                && !queue.is_leaving()
                && queue.may_read(now.moment)
            {
                let (from, to) = next.into_inner();
                let to = to.min(from.saturating_add(budget - 1));
                budget -= to - from + 1;
                counts.push(LogRange {
                    environment: queue.cursor.environment_id(),
                    from,
                    to,
                });
            }
        }
        counts
    }

    pub(super) fn counted(&mut self, generation: i64, counted: Vec<CountedRange>, now: Now) {
        if generation != self.subscription.generation {
            // That spec may have asked for other events.
            if self.counting == Counting::UnderWay {
                self.counting = Counting::Not;
            }
            for range in counted {
                self.count_before_end(&range.environment.uid, now);
            }
            return;
        }
        let sends = self.may_send(now);
        for range in counted {
            let uid = range.environment.uid;
            let Some(queue) = self.queues.get_mut(&uid) else {
                continue;
            };
            for entry in range.entries {
                queue.pending.put(entry);
            }
            if queue.is_leaving() {
                let all = range.complete && queue.pending.next(queue.head).is_none();
                self.close(&uid, all, now);
            } else if !range.complete {
                let why = "an entry could not be read".to_owned();
                if queue.could_not_read(why, self.seed, now.moment) {
                    self.writer.ask(WriteDue::Soon);
                }
            } else if !sends && queue.could_read() {
                self.writer.ask(WriteDue::Soon); // while messages are sent, the search for the next one tells
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
            uncounted |= queue.pending.next(queue.head).is_some() && queue.may_read(now.moment);
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
                now.wall.checked_add(wait).unwrap_or(Timestamp::MAX)
            });
        self.status.cursors = self.queues.cursors();
        self.tell_of_replay();
        self.keep_newest_starts();
        self.status.oldest_pending_time = oldest.map(condition::whole_seconds);
        let since = self
            .not_ready_since
            .map_or(Duration::ZERO, |since| now.moment.saturating_sub(since));
        let unread = self
            .is_destination_unread()
            .then(|| destination_unknown("no answer yet"));
        let not_ready = unread.as_ref().or(self.problems.first());
        let input = ConditionInput {
            generation: Some(self.subscription.generation),
            not_ready: not_ready.map(|why| (why, since)),
            problem: self.retry.problem(),
            log_problem: log_problem.as_deref(),
            next_attempt,
            suspended: self.is_suspended(),
            overdue: self.is_overdue(now),
            pending: i64::try_from(pending).unwrap_or(i64::MAX),
            now: now.wall,
        };
        conditions::update(&mut self.status, &input);
    }

    /// Why a log can't be read, if it has failed for a while.
    fn log_problem(&self) -> Option<String> {
        self.queues.iter().find_map(|(_, queue)| {
            let why = queue.log_problem()?;
            Some(format!("environment {}: {why}", queue.cursor.environment))
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

    pub(super) fn written(&mut self, counted: &AheadCounts, answer: WriteAnswer, now: Now) {
        self.writer.answered();
        match answer {
            WriteAnswer::Written { status, version } => {
                self.accepted(*status, version, counted, now);
            }
            WriteAnswer::Conflict => self.conflicted(None, now),
            // The answer to a patch whose test failed, too.
            WriteAnswer::Refused(why) if self.writer.is_crowded() => {
                self.conflicted(Some(why), now);
            }
            WriteAnswer::Refused(why) | WriteAnswer::TooLarge(why) => self.refused(&why, now),
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
        counted: &AheadCounts,
        now: Now,
    ) {
        self.actions.push(Action::Progress(status.cursors.clone()));
        self.writer.accepted(status, version);
        self.queues.written(counted, now.moment);
        if self.queues.any_ahead() {
            self.writer.ask_for_delivered(now.moment);
        }
    }

    /// The API server takes no such status: a shorter one is written.
    fn refused(&mut self, why: &str, now: Now) {
        warn!(setting = %self.title, why, "the API server refuses the status; writing a shorter one");
        self.publish(
            EventReason::StatusRefused,
            format!("the API server refuses the status, a shorter one is written: {why}"),
        );
        self.writer.refused(now.moment);
    }

    /// The object changed since it was read, or a patch was refused, maybe for that: it is read to tell who changed it.
    fn conflicted(&mut self, refusal: Option<String>, now: Now) {
        debug!(setting = %self.title, refusal, "the status was written on an older object than there is");
        self.writer.conflicted(refusal, now.moment);
        self.actions.push(Action::ReadSetting);
        self.writer.hold();
    }

    pub(super) fn read(
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
            self.resume(status, version, false, now);
            return;
        }
        match self.writer.found(&status, version.clone()) {
            ConflictOutcome::Same => {}
            ConflictOutcome::Refused(why) => self.refused(&why, now),
            ConflictOutcome::Ours(counted) => {
                self.accepted(status, version, &counted, now); // only the answer was lost
                self.writer.ask(WriteDue::Soon);
            }
            ConflictOutcome::Predecessors => {
                debug!(setting = %self.title, "another replica wrote the status after it was read here; going on from there");
                self.cancel_unsent();
                // A message that was set aside or passed over stands nowhere yet: it is met again.
                let (ours, before) = (&self.status, self.writer.written());
                let mut letters = ours.dead_letters.iter();
                let further = letters.all(|letter| before.dead_letters.contains(letter))
                    && ours.skipped_ranges == before.skipped_ranges;
                self.resume(status, version, further, now);
            }
            ConflictOutcome::Others => {
                warn!(setting = %self.title, "someone else writes this setting's status; standing back for a while");
                self.writer.stand_back(now.moment);
                self.cancel_unsent();
            }
        }
    }

    /// Takes the setting up where another writer left it, or, with `further`, where it was sent further than that.
    fn resume(
        &mut self,
        mut status: NotificationSettingStatus,
        version: Option<String>,
        further: bool,
        now: Now,
    ) {
        self.retry = resumed(&status);
        self.writer.resume(status.clone(), version);
        status.bound();
        self.queues.close_replay();
        self.replay.reset();
        // A cursor that the other writer lost altogether is better kept than set anew.
        for cursor in status.cursors.iter().cloned() {
            let ours = self.queues.get(&cursor.environment_uid);
            let ours = ours.map(|queue| &queue.cursor).filter(|_| further);
            let place = |cursor: &Cursor| (cursor.index, cursor.ordinal);
            if ours.is_some_and(|ours| place(ours) > place(&cursor) || *ours == cursor) {
                continue;
            }
            self.queues.close(&cursor.environment_uid);
            self.queues.open(cursor);
        }
        if !further {
            let acknowledged = self.queues.counted();
            self.queues.written(&acknowledged, now.moment);
        }
        self.status = status;
        self.apply_spec(now, false);
    }
}
