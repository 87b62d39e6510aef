//! When a setting may send again after its destination failed, and when what can't be delivered is given up.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    backoff,
    http::response::{HoldRetry, LONGEST_RETRY_AFTER, Outcome, Reason},
    time::Moment,
};

/// Why nothing is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryProblem {
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    pub recovery: Recovery,
}

/// What ends a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Another attempt, which comes by itself.
    Attempt,
    /// A change of the Secret or the spec; no attempt is made before.
    Change,
}

/// What an answer means for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The destination has it: go on with the next.
    Delivered,
    /// The destination will never take it: set it aside and go on.
    SetAside,
    /// Send it again later.
    Keep,
}

/// An attempt: the id of the message and when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began<'a> {
    pub id: &'a str,
    pub moment: Moment,
    pub wall: Timestamp,
}

/// How the deliveries of one setting go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryState {
    /// Failures in a row.
    attempts: u32,
    /// Nothing is sent before this.
    until: Option<Moment>,
    /// When the last failure became known.
    failed: Option<Moment>,
    /// When the last attempt began that failed.
    failed_at: Option<Timestamp>,
    problem: Option<DeliveryProblem>,
    /// The message that was refused last, and the answer, while none has been accepted since.
    refused: Option<(String, String)>,
}

impl RetryState {
    /// That of a setting whose status names a problem: after a start one attempt comes first. `refused`: the newest dead
    /// letter (id and message), if nothing was delivered since.
    pub fn resumed(
        problem: Option<(DeliveryProblem, u32)>,
        refused: Option<(String, String)>,
    ) -> Self {
        let (problem, attempts) = problem.unzip();
        Self {
            attempts: attempts.unwrap_or_default(),
            problem,
            refused,
            ..Self::default()
        }
    }

    pub fn problem(&self) -> Option<&DeliveryProblem> {
        self.problem.as_ref()
    }

    /// Failures in a row.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether a message may be sent now.
    pub fn may_send(&self, now: Moment) -> bool {
        let held = self
            .problem
            .as_ref()
            .is_some_and(|problem| problem.recovery == Recovery::Change);
        !held && self.until.is_none_or(|until| until <= now)
    }

    /// When the next attempt is made, while attempts fail.
    pub fn next_attempt(&self) -> Option<Moment> {
        let problem = self.problem.as_ref()?;
        self.until.filter(|_| problem.recovery == Recovery::Attempt)
    }

    /// Events that happened before this are given up: they are older than `max_age`, and an attempt that was made after
    /// they had reached that age has failed.
    pub fn expired_before(&self, max_age: Duration) -> Option<Timestamp> {
        let max_age = SignedDuration::try_from(max_age).unwrap_or(SignedDuration::MAX);
        self.failed_at?.checked_sub(max_age).ok()
    }

    /// The spec or the Secret changed, or the setting is resumed: one attempt comes first.
    pub fn retry_now(&mut self) {
        self.until = None;
        self.failed_at = None;
        if let Some(problem) = &mut self.problem {
            problem.recovery = Recovery::Attempt;
        }
    }

    /// Nothing is left that could fail.
    pub fn forget(&mut self) {
        *self = Self {
            refused: self.refused.take(),
            ..Self::default()
        };
    }

    /// What comes of an answer. `seed` spreads the attempts of different settings.
    ///
    /// Messages of several environments are under way at once. Those that began before a failure became known fail with
    /// it and count as one, and their success says nothing of what came after.
    pub fn answered(
        &mut self,
        outcome: &Outcome,
        began: Began<'_>,
        seed: u64,
        now: Moment,
    ) -> Disposition {
        let along =
            self.problem.is_some() && self.failed.is_some_and(|failed| began.moment < failed);
        let attempts = self.attempts.saturating_add(u32::from(!along));
        let (wait, recovery) = match outcome {
            Outcome::Delivered { .. } => {
                self.refused = None;
                if !along {
                    self.forget();
                }
                return Disposition::Delivered;
            }
            Outcome::Refused { message, .. } => {
                let same = |(id, told): &(String, String)| id != began.id && told == message;
                if !self.refused.as_ref().is_some_and(same) {
                    self.refused = Some((began.id.to_owned(), message.clone()));
                    if !along {
                        self.forget();
                    }
                    return Disposition::SetAside;
                }
                // Two different messages, one answer: it is not the message, the destination is wrong.
                (backoff::slow_delay(attempts, seed), Recovery::Attempt)
            }
            Outcome::Retry { after, .. } => (
                backoff::obeying(
                    backoff::delay(attempts, seed),
                    *after,
                    LONGEST_RETRY_AFTER,
                    seed,
                ),
                Recovery::Attempt,
            ),
            Outcome::Hold {
                retry: HoldRetry::Slowly,
                ..
            } => (backoff::slow_delay(attempts, seed), Recovery::Attempt),
            Outcome::Hold {
                retry: HoldRetry::AfterChange,
                ..
            }
            | Outcome::Gone { .. } => (Duration::ZERO, Recovery::Change),
        };
        self.failed_at = self.failed_at.max(Some(began.wall));
        let held = self
            .problem
            .as_ref()
            .is_some_and(|problem| problem.recovery == Recovery::Change);
        if along && held {
            return Disposition::Keep;
        }
        let until = now + wait;
        self.attempts = attempts;
        self.until = Some(match self.until.filter(|_| along) {
            Some(before) => before.max(until),
            None => until,
        });
        self.failed = Some(now);
        self.problem = outcome.reason().map(|reason| DeliveryProblem {
            reason,
            message: outcome.message().to_owned(),
            recovery,
        });
        Disposition::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn fails(after: Option<u64>) -> Outcome {
        Outcome::Retry {
            after: after.map(Duration::from_secs),
            reason: Reason::ServerError,
            message: "the destination answered 503".to_owned(),
        }
    }

    fn delivered() -> Outcome {
        Outcome::Delivered { note: None }
    }

    fn refused(message: &str) -> Outcome {
        Outcome::Refused {
            reason: Reason::PayloadRefused,
            message: message.to_owned(),
        }
    }

    fn began(id: &str, second: u64) -> Began<'_> {
        let wall = i64::try_from(second).unwrap();
        Began {
            id,
            moment: at(second),
            wall: Timestamp::from_second(wall).unwrap(),
        }
    }

    #[test]
    fn failures_pause_a_setting_longer_and_longer_and_a_success_ends_that() {
        let mut retry = RetryState::default();
        assert!(retry.may_send(at(0)));
        let mut last = Duration::ZERO;
        for attempt in 1..=6 {
            retry.answered(&fails(None), began("a", attempt), 7, at(attempt));
            let wait = retry.next_attempt().unwrap() - at(attempt);
            assert!(wait > last, "attempt {attempt}");
            assert!(!retry.may_send(at(attempt)));
            last = wait;
        }
        assert_eq!(retry.attempts(), 6);
        let then = at(6) + last;
        assert!(retry.may_send(then));
        retry.answered(&delivered(), began("a", 600), 7, then);
        assert_eq!(retry, RetryState::default());
    }

    #[test]
    fn what_was_under_way_when_one_failed_counts_with_it() {
        let mut retry = RetryState::default();
        retry.answered(&fails(None), began("a", 0), 7, at(10));
        let one = retry.clone();
        retry.answered(&fails(None), began("b", 1), 7, at(10));
        assert_eq!(retry.attempts, one.attempts, "the same failure");
        retry.answered(&delivered(), began("b", 1), 7, at(10));
        assert_eq!(retry.problem, one.problem, "an answer to an older request");
        retry.answered(&fails(Some(60)), began("c", 1), 7, at(11));
        assert_eq!(retry.attempts(), 1);
        assert!(!retry.may_send(at(70)), "the longer pause counts");
        retry.answered(&fails(None), began("a", 90), 7, at(91));
        assert_eq!(retry.attempts(), 2);
        retry.answered(&delivered(), began("a", 99), 7, at(99));
        assert_eq!(retry, RetryState::default());
    }

    #[test]
    fn a_destination_that_is_gone_is_left_alone_until_it_changes() {
        let mut retry = RetryState::default();
        let gone = Outcome::Gone {
            message: "gone".to_owned(),
        };
        retry.answered(&gone, began("a", 0), 7, at(0));
        assert!(!retry.may_send(at(1_000_000)));
        assert_eq!(retry.next_attempt(), None);
        retry.retry_now();
        assert!(retry.may_send(at(0)));
        let reason = retry.problem().unwrap().reason;
        assert_eq!(reason, Reason::Gone, "until an attempt says otherwise");
    }

    #[test]
    fn one_refused_message_is_set_aside_and_a_second_with_the_same_answer_means_a_wrong_destination()
     {
        let mut retry = RetryState::default();
        let mut answer = |outcome: &Outcome, id| retry.answered(outcome, began(id, 1), 7, at(1));
        assert_eq!(answer(&refused("400"), "a"), Disposition::SetAside);
        assert_eq!(answer(&refused("422"), "b"), Disposition::SetAside);
        assert_eq!(answer(&delivered(), "c"), Disposition::Delivered);
        assert_eq!(answer(&refused("422"), "d"), Disposition::SetAside);
        assert_eq!(answer(&refused("422"), "e"), Disposition::Keep);
        assert_eq!(
            answer(&refused("422"), "e"),
            Disposition::Keep,
            "tried again"
        );
        assert_eq!(retry.problem().unwrap().reason, Reason::PayloadRefused);
        assert!(!retry.may_send(at(2)) && retry.may_send(at(601)));
    }

    #[test]
    fn nothing_is_given_up_without_an_attempt_that_failed_after_it_had_become_too_old() {
        let hour = Duration::from_secs(3_600);
        let mut retry = RetryState::default();
        assert_eq!(retry.expired_before(hour), None);
        retry.answered(&fails(None), began("a", 10_000), 7, at(10_001));
        let limit = Timestamp::from_second(6_400).unwrap();
        assert_eq!(retry.expired_before(hour), Some(limit));
        retry.retry_now();
        assert_eq!(retry.expired_before(hour), None, "an attempt comes first");
    }
}
