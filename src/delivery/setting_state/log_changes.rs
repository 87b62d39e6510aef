//! What is heard of the logs: they have grown, were set back, or went with their environments.

use tracing::warn;

use crate::{
    api::notification_setting::{StartDecision, StartReason},
    delivery::{
        environment_queue::{Phase, Work},
        message_history::SkippedEntries,
        reasons::SkipReason,
        setting_state::{Action, Deleted, Now, SettingState},
        status_writer::WriteDue,
    },
};

impl SettingState {
    pub(super) fn log_grew(&mut self, uid: &str, head: i64, now: Now) {
        let overdue = self.is_overdue(now);
        let Some(queue) = self.queues.get_mut(uid) else {
            self.try_start(uid, now);
            if self.queues.get(uid).is_some() {
                self.note_starts_decided(now);
            }
            return;
        };
        let reached = queue.cursor.index + i64::from(queue.cursor.ordinal > 0);
        if reached > head {
            // The log may have been set back; or another replica has appended and sent what was not seen here yet.
            if queue.phase == Phase::Following && matches!(queue.work, Work::Idle) {
                queue.phase = Phase::Comparing(head);
                let environment = queue.cursor.environment_id();
                self.actions.push(Action::Compare(environment, reached));
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
                || overdue
                || self.is_suspended();
            if waits {
                self.writer.ask(WriteDue::Counter);
            }
        }
    }

    /// Logs that could not be read are read again, also while nothing is sent.
    pub(super) fn read_again(&mut self, now: Now) {
        let sends = self.may_send(now); // then the search for the next message tells
        let queues = self.queues.iter();
        let due = queues.filter(|(_, queue)| queue.may_read_again(now.moment));
        let due = due.map(|(uid, queue)| (uid.clone(), queue.cursor.environment.clone()));
        let due: Vec<_> = due.collect();
        for (uid, name) in due {
            let info = self.environments.get(&name).filter(|info| info.uid == uid);
            if let Some((head, _)) = info.and_then(|info| info.head.get()) {
                self.log_grew(&uid, head, now);
            }
            let Some(queue) = self.queues.get_mut(&uid) else {
                continue;
            };
            let uncounted = queue.pending.next(queue.head).is_some();
            if uncounted && !sends {
                self.writer.ask(WriteDue::Counter); // what is left is counted before
            }
            let passed = queue.cursor.index >= queue.head;
            let done = matches!(queue.phase, Phase::Following) && !uncounted && (passed || !sends);
            if done && queue.could_read() {
                self.writer.ask(WriteDue::Soon); // no search would tell
            }
        }
    }

    /// A cursor that is ahead of its log has lost its log: it starts at the head.
    pub(super) fn compared(&mut self, uid: &str, result: Result<bool, String>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else {
            return;
        };
        let Phase::Comparing(head) = queue.phase else {
            return;
        };
        queue.phase = Phase::Following;
        let there = match result {
            Ok(there) => there,
            Err(why) => {
                if queue.could_not_read(why, self.seed, now.moment) {
                    self.writer.ask(WriteDue::Soon);
                }
                return;
            }
        };
        if queue.could_read() {
            self.writer.ask(WriteDue::Soon);
        }
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
        // It may have grown while it was asked, and nobody tells of that again.
        let info = self.environments.get(&name).filter(|info| info.uid == uid);
        if let Some((head, _)) = info.and_then(|info| info.head.get()) {
            self.log_grew(uid, head, now);
        }
    }

    pub(super) fn checked(&mut self, uid: &str, result: Result<Deleted, String>, now: Now) {
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
}
