//! What is known of the destination, and of what keeps the setting from being ready.

use tracing::debug;

use crate::{
    delivery::{
        conditions::{NotReady, Problems},
        environment_queue::UNREADABLE,
        reasons::NotReadyReason,
        setting_state::{Action, DESTINATION_FRESH, DestinationAnswer, Now, SettingState},
        status_writer::WriteDue,
    },
    http::response::Reason,
};

impl SettingState {
    pub(super) fn read_destination(&mut self) {
        if !self.destination.reading {
            self.destination.reading = true;
            let generation = self.subscription.generation;
            self.actions.push(Action::ReadDestination(generation));
        }
    }

    /// Whether the destination was read a moment ago; if not, it is read, unless that has just failed.
    pub(super) fn destination_is_fresh(&mut self, now: Now) -> bool {
        if self.destination.failures > 0 {
            return false;
        }
        let fresh = self
            .destination
            .read_at
            .is_some_and(|at| now.moment < at + DESTINATION_FRESH);
        if !fresh {
            self.read_destination();
        }
        fresh
    }

    pub(super) fn destination_read(
        &mut self,
        generation: i64,
        answer: DestinationAnswer,
        now: Now,
    ) {
        if generation != self.subscription.generation {
            return; // of a spec that is no more; that of now is being read
        }
        self.destination.reading = false;
        self.writer.destination_known();
        let first_answer = self.destination.read_at.is_none();
        if let DestinationAnswer::Unknown(why) = &answer {
            debug!(setting = %self.title, why, "can't read the destination; trying again");
            self.destination.failures = self.destination.failures.saturating_add(1);
            if !first_answer && self.destination.failures < UNREADABLE {
                return; // what was read before holds a little longer
            }
        } else {
            self.destination.failures = 0;
            self.destination.read_at = Some(now.moment);
        }
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
                self.cancel_unsent();
                Some(destination_unknown(&why))
            }
        };
        self.update_problems(now, |problems| problems.destination = problem);
    }

    /// Whether nothing is known of the destination that this spec names.
    pub(super) fn is_destination_unread(&self) -> bool {
        self.destination.read_at.is_none() && self.problems.destination.is_none()
    }

    /// Notes why the setting is not ready, or that it is again.
    pub(super) fn update_problems(&mut self, now: Now, change: impl FnOnce(&mut Problems)) {
        let before = self.problems.first().cloned();
        change(&mut self.problems);
        let first = self.problems.first();
        self.not_ready_since = match first {
            Some(_) => self.not_ready_since.or(Some(now.moment)),
            // What the status says holds until the destination is known.
            None => self
                .not_ready_since
                .filter(|_| self.is_destination_unread()),
        };
        if first != before.as_ref() {
            self.writer.ask(WriteDue::Soon);
        }
    }

    /// Whether the destination's name leads to an address that may not be dialled is known after an attempt.
    pub(super) fn note_denied(&mut self, now: Now, reason: Option<Reason>, message: &str) {
        let denied = (reason == Some(Reason::DestinationDenied))
            .then(|| NotReady::new(NotReadyReason::DestinationDenied, message));
        self.update_problems(now, |problems| problems.denied = denied);
    }
}

/// Nothing is sent while it isn't known where to.
pub(super) fn destination_unknown(why: &str) -> NotReady {
    let message = format!("the Secret with the URL could not be read ({why}); it is tried again");
    NotReady::new(NotReadyReason::DestinationUnknown, message)
}
