#![expect(clippy::disallowed_methods, reason = "waits")]

//! Sends what waits in the lanes, and takes in the answers.

use jiff::{SignedDuration, Timestamp};
use kube::runtime::events::EventType;
use tokio::{task::JoinSet, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    api::setting::Cursor,
    backoff,
    delivery::{
        conditions::{NotReady, Problems},
        dispatcher::Dispatcher,
        environment_queue::EnvironmentQueue,
        history::{self, Attempt, SkippedEntries},
        job::{DeliveryJob, JobResult, SentMessage},
        outbox::RetryState,
        secret::{self, DestinationError},
        setting_worker::{DESTINATION_FRESH, Done, SettingWorker},
        status_writer::WriteDue,
    },
    http::{
        destination::Destination,
        outcome::{Outcome, Reason},
    },
    message::unreported_gap,
    time::Moment,
};

impl SettingWorker {
    /// Reads where to send to, and whether that may be dialled.
    pub(super) async fn read_destination(&mut self) {
        let spec = self.setting.borrow().spec.clone();
        let Dispatcher {
            client,
            names,
            courier,
            ..
        } = &*self.office;
        let found = secret::read(client, &self.namespace, &spec, names).await;
        self.destination_read = Some(Instant::now());
        let found = match found {
            Ok(destination) => courier
                .permits(&destination)
                .map_err(|why| NotReady::new("DestinationDenied", why))
                .map(|()| destination),
            Err(DestinationError::NotReady(why)) => Err(why),
            Err(DestinationError::Unknown(why)) => {
                debug!(setting = %self.title(), %why, "can't tell the destination; trying again");
                return;
            }
        };
        match found {
            Ok(destination) => {
                if self.destination.as_ref() != Some(&destination) {
                    self.pulse.retry_now();
                    self.failed_at = None;
                    self.amend(|amiss| amiss.denied = None);
                }
                self.destination = Some(destination);
                self.amend(|amiss| amiss.destination = None);
            }
            Err(why) => {
                self.destination = None;
                self.amend(|amiss| amiss.destination = Some(why));
            }
        }
    }

    /// Notes what is amiss, or no longer.
    pub(super) fn amend(&mut self, change: impl FnOnce(&mut Problems)) {
        let before = self.amiss.first().cloned();
        change(&mut self.amiss);
        match self.amiss.first() {
            None => self.amiss_since = None,
            Some(_) => self.amiss_since = self.amiss_since.or_else(|| Some(Instant::now())),
        }
        if self.amiss.first() != before.as_ref() {
            self.pen.ask(WriteDue::Soon);
        }
    }

    /// Starts a request in every lane that has something to send and may.
    pub(super) async fn start_lanes(&mut self, tasks: &mut JoinSet<Done>) {
        if self.is_suspended() || self.pen.stands_back_until().is_some() || !self.pen.has_written()
        {
            return; // a setting that was never handled gets its cursors written first
        }
        let now = self.now();
        if self.pulse.trouble.is_some() && self.complete && !self.lanes.any_unfinished() {
            // Given up, or not asked for any more: nothing is overdue.
            self.pulse = RetryState::default();
            self.failed_at = None;
            self.probe = None;
            self.pen.ask(WriteDue::Soon);
            return;
        }
        if self.pulse.may_send(now).is_err() {
            return;
        }
        let cautious = self.pulse.trouble.is_some();
        if cautious && self.lanes.any_busy() {
            return; // one attempt tells whether the destination is well again
        }
        let mut ready = self.lanes.ready(&self.pen.written().cursors, now);
        if cautious {
            let probe = self.probe.clone().filter(|probe| ready.contains(probe));
            ready = probe.into_iter().chain(ready).take(1).collect();
        }
        if ready.is_empty() {
            return;
        }
        if self
            .destination_read
            .is_none_or(|read| read.elapsed() > DESTINATION_FRESH)
        {
            self.read_destination().await;
        }
        let Some(destination) = self.destination.clone() else {
            return;
        };
        let began = (Timestamp::now(), self.now());
        let max_age = SignedDuration::try_from(self.wish.max_age).unwrap_or(SignedDuration::MAX);
        let expired_before = self.failed_at.and_then(|at| at.checked_sub(max_age).ok());
        for uid in ready {
            let Some(lane) = self.lanes.get_mut(&uid) else {
                continue;
            };
            lane.busy = true;
            let load = DeliveryJob {
                logbook: self.office.logbook.clone(),
                courier: self.office.courier.clone(),
                installation: self.office.installation.clone(),
                setting: (self.namespace.clone(), self.name.clone()),
                wish: self.wish.clone(),
                destination: destination.clone(),
                cursor: lane.cursor.clone(),
                head: lane.head,
                expired_before,
            };
            let (token, to) = (lane.token, destination.key());
            tasks.spawn(async move {
                Done::Carried {
                    uid,
                    token,
                    to,
                    began,
                    outcome: Box::new(load.carry().await),
                }
            });
        }
    }

    pub(super) fn carried(
        &mut self,
        uid: &str,
        token: u64,
        to: [u8; 32],
        began: (Timestamp, Moment),
        outcome: JobResult,
    ) {
        if let Ok(Some(sent)) = &outcome.sent {
            self.office.metrics.delivered(
                self.wish.kind.as_str(),
                outcome_word(&sent.receipt.verdict),
                sent.receipt.latency.as_secs_f64(),
            );
        }
        let now = self.now();
        let Some(lane) = self.lanes.same(uid, token) else {
            return; // it ended meanwhile
        };
        lane.busy = false;
        let environment = lane.cursor.environment.clone();
        let noticed = outcome.cursor.untold.clone();
        let noticed = noticed.filter(|gap| lane.cursor.untold.as_ref() != Some(gap));
        if lane.cursor != outcome.cursor {
            lane.cursor = outcome.cursor;
            self.pen.ask(WriteDue::Lazily);
        }
        lane.seen = lane.cursor.index;
        match outcome.sent {
            Ok(None) => lane.unread = (0, now),
            Ok(Some(sent)) => {
                lane.unread = (0, now);
                self.answered(uid, to, began, sent, now);
            }
            Err(error) => {
                let failures = lane.unread.0.saturating_add(1);
                lane.unread = (failures, now + backoff::delay(failures, self.seed));
                warn!(setting = %self.title(), environment, %error, "can't read the log; trying again");
            }
        }
        if !outcome.skipped.is_empty() {
            self.note_skipped(&environment, &outcome.skipped);
        }
        if let Some(gap) = noticed {
            let note = unreported_gap::description(&gap, (&self.namespace, &self.name));
            let note = format!("environment {environment}: {note}");
            self.publish(EventType::Warning, unreported_gap::HISTORY_TRUNCATED, note);
        }
        if let Some((id, snapshot)) = outcome.given_up {
            let attempt = Attempt {
                id,
                snapshot: Some(snapshot),
                attempts: i64::from(self.pulse.attempts),
                time: Timestamp::now(),
            };
            let message = "it could not be delivered for as long as retry.maxAge says";
            warn!(setting = %self.title(), environment, "the message about removed snapshots is given up");
            history::set_aside(&mut self.status, &attempt, "RetryExpired", message);
            self.pen.ask(WriteDue::Soon);
        }
        if self
            .lanes
            .get(uid)
            .is_some_and(EnvironmentQueue::is_through)
        {
            self.look_again = Some(Instant::now());
        }
    }

    fn answered(
        &mut self,
        uid: &str,
        to: [u8; 32],
        began: (Timestamp, Moment),
        sent: SentMessage,
        now: Moment,
    ) {
        let SentMessage {
            after,
            events,
            id,
            snapshot,
            receipt,
        } = sent;
        let verdict = &receipt.verdict;
        let attempts = i64::from(self.pulse.attempts) + 1;
        let attempt = Attempt {
            id: id.clone(),
            snapshot: Some(snapshot.clone()),
            attempts,
            time: Timestamp::now(),
        };
        let before = self.pulse.trouble.clone();
        // What another destination than today's can't take says nothing.
        let current = self.destination.as_ref().map(Destination::key) == Some(to);
        if current {
            self.pulse.after(verdict, self.seed, began.1, now);
        }
        match verdict {
            Outcome::Delivered => {
                self.advance(uid, after, events, now);
                debug!(setting = %self.title(), id, snapshot, "delivered");
                history::delivered(&mut self.status, attempt, receipt.status, receipt.latency);
            }
            _ if !current => {
                debug!(setting = %self.title(), id, "not delivered; the destination is another one by now");
            }
            Outcome::Refused { reason, message } => {
                self.advance(uid, after, events, now);
                warn!(setting = %self.title(), id, snapshot, %message, "refused for good; going on with the next");
                history::refused(&mut self.status, attempt, reason.as_str(), message);
            }
            Outcome::Retry { .. } | Outcome::Hold { .. } | Outcome::Gone { .. } => {
                let reason = verdict.reason().map_or("", Reason::as_str);
                info!(setting = %self.title(), id, attempts, reason, message = verdict.message(), "not delivered; trying again later");
                history::failed(&mut self.status, attempt, reason, verdict.message());
                self.probe = Some(uid.to_owned());
                self.failed_at = self.failed_at.max(Some(began.0));
                self.pen.ask(WriteDue::Soon);
            }
        }
        if current {
            self.note_denied(verdict);
        }
        match (&before, &self.pulse.trouble) {
            (None, Some(trouble)) => {
                let rest = if trouble.gone {
                    ""
                } else {
                    " (attempts go on)"
                };
                let note = format!("{}{rest}", trouble.message);
                self.publish(EventType::Warning, "DeliveryFailing", note);
            }
            (Some(_), None) => {
                self.failed_at = None;
                self.probe = None;
                let failures = attempts - 1;
                let times = if failures == 1 { "attempt" } else { "attempts" };
                let note = format!("delivering again after {failures} failed {times}");
                self.publish(EventType::Normal, "DeliveryRecovered", note);
            }
            _ => {}
        }
    }

    /// Whether the destination's name leads to an address that may not be dialled is known after an attempt.
    pub(super) fn note_denied(&mut self, verdict: &Outcome) {
        let denied = (verdict.reason() == Some(Reason::DestinationDenied))
            .then(|| NotReady::new("DestinationDenied", verdict.message()));
        self.amend(|amiss| amiss.denied = denied);
    }

    fn advance(&mut self, uid: &str, after: Cursor, events: usize, now: Moment) {
        if let Some(lane) = self.lanes.get_mut(uid) {
            lane.cursor = after;
            lane.seen = lane.seen.max(lane.cursor.index);
            lane.ahead.sent(events, now);
        }
        self.pen.ask(WriteDue::Soon);
    }

    /// Notes stretches of a log that are not sent.
    pub(super) fn note_skipped(&mut self, environment: &str, skipped: &[SkippedEntries]) {
        let time = Timestamp::now();
        self.pen.ask(WriteDue::Soon);
        for stretch in skipped {
            let SkippedEntries {
                from,
                to,
                count,
                reason,
            } = stretch;
            warn!(setting = %self.title(), environment, from, to, count, reason, "a stretch of the log is not sent");
            history::skipped(&mut self.status, environment, stretch, time);
        }
    }
}

fn outcome_word(verdict: &Outcome) -> &'static str {
    match verdict {
        Outcome::Delivered => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Refused { .. } => "refused",
        Outcome::Hold { .. } | Outcome::Gone { .. } => "held",
    }
}
