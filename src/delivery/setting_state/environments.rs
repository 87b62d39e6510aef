//! Which environments a setting follows: their queues are opened, and ended when an environment is not asked for any more,
//! may not be seen or is deleted.

use std::collections::BTreeMap;

use tracing::warn;

use crate::{
    delivery::{
        environment_queue::Phase,
        followed_environments::followed,
        message_history::{self, SkippedEntries},
        pending::LogRange,
        reasons::SkipReason,
        setting_state::{Action, Now, SettingState},
        status_writer::WriteDue,
    },
    snapshot::environments::EnvironmentInfo,
};

/// At most this many entries are counted to say what a queue that ends leaves behind.
const COUNTED_AT_END: i64 = 2_000;

impl SettingState {
    /// Opens a queue for every environment that is asked for and may be seen, and ends those of others.
    pub(super) fn follow_environments(&mut self, now: Now) {
        let environments = self.environments.clone();
        self.correct_names(&environments);
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
            } else if let Some((head, _)) = info.head.get() {
                self.log_grew(&info.uid, head, now);
            }
        }
        self.note_starts_decided(now);
    }

    /// Corrects the names of environments: the UID says which one it is, and somebody else may have written the status.
    fn correct_names(&mut self, environments: &BTreeMap<String, EnvironmentInfo>) {
        let names = environments.iter().map(|(name, info)| (&*info.uid, name));
        let names: BTreeMap<&str, &String> = names.collect();
        let cursors = self.queues.iter_mut().map(|(uid, queue)| {
            let name = &mut queue.cursor.environment;
            (uid.as_str(), name)
        });
        let starts = self.status.starts.iter_mut();
        let starts = starts.map(|start| (start.environment_uid.as_str(), &mut start.environment));
        let mut corrected = false;
        for (uid, name) in cursors.chain(starts) {
            if let Some(right) = names.get(uid).filter(|right| **right != name) {
                name.clone_from(right);
                corrected = true;
            }
        }
        if corrected {
            self.writer.ask(WriteDue::Soon);
        }
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
                Some(_) => {
                    queue.deleted = None;
                    if queue.is_leaving() {
                        queue.phase = Phase::Following;
                    }
                }
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
    pub(super) fn expire_deleted(&mut self, now: Now) {
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
        let before = std::mem::replace(&mut queue.phase, Phase::Leaving(reason));
        if matches!(before, Phase::Leaving(_)) {
            return; // being counted already
        }
        if let Some(turn) = queue.work.cancel() {
            self.actions.push(Action::ReleaseTurn(turn));
        }
        self.count_before_end(uid, now);
    }

    /// Counts what waits in a queue that ends, and closes it when that is done.
    pub(super) fn count_before_end(&mut self, uid: &str, now: Now) {
        let Some(queue) = self.queues.get(uid).filter(|queue| queue.is_leaving()) else {
            return;
        };
        match queue.pending.next(queue.head) {
            Some(next) => {
                let from = *next.start();
                let to = queue.head.min(from.saturating_add(COUNTED_AT_END - 1));
                let environment = queue.cursor.environment_id();
                let count = LogRange {
                    environment,
                    from,
                    to,
                };
                let subscription = self.subscription.clone();
                self.actions.push(Action::Count(subscription, vec![count]));
            }
            None => self.close(uid, true, now),
        }
    }

    /// Closes a queue that ends, and says what was not sent, if anything was to be. `all`: everything was counted.
    pub(super) fn close(&mut self, uid: &str, all: bool, now: Now) {
        let Some(queue) = self.queues.close(uid) else {
            return;
        };
        self.status
            .starts
            .retain(|start| start.environment_uid != uid);
        self.writer.ask(WriteDue::Soon);
        let Phase::Leaving(reason) = queue.phase else {
            return;
        };
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

    pub(super) fn skip(&mut self, environment: &str, skipped: &[SkippedEntries], now: Now) {
        for range in skipped {
            let SkippedEntries {
                from,
                to,
                count,
                reason,
            } = range;
            warn!(setting = %self.title, environment, from, to, ?count, ?reason, "a range of the log is not sent");
            message_history::skipped(&mut self.status, environment, range, now.wall);
        }
        if !skipped.is_empty() {
            self.writer.ask(WriteDue::Soon);
        }
    }
}
