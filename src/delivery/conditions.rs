//! The conditions and columns of a setting's status. They never hold a URL or a body, and every text is cut to the schema.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        NotificationSettingStatus,
        condition::{self, DELIVERED, MESSAGE, READY, RECONCILING, STALLED, Statement, shorten},
    },
    delivery::{
        reasons::{DeliveredReason, NotReadyReason, ReadyReason},
        retry::{DeliveryProblem, Recovery},
    },
    http::response::Reason,
};

/// How long something that is missing is expected to come by itself: a Secret is often applied a moment later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Why a setting is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotReady {
    pub reason: NotReadyReason,
    /// A sentence that says what to do.
    pub message: String,
    /// Only an edit of the spec helps.
    pub stalled: bool,
}

impl NotReady {
    pub fn new(reason: NotReadyReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            stalled: false,
        }
    }

    pub fn of_spec(reason: NotReadyReason, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::new(reason, message)
        }
    }
}

/// Why a setting is not ready, by where it comes from: each ends on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    /// The spec or the Secret names no destination that may be used.
    pub destination: Option<NotReady>,
    /// An attempt found that the destination's name leads to an address that may not be dialled.
    pub denied: Option<NotReady>,
    /// Environments that are asked for do not exist or may not be seen.
    pub environments: Option<NotReady>,
}

impl Problems {
    /// The one that is reported: without a destination the rest hardly matters.
    pub fn first(&self) -> Option<&NotReady> {
        let Self {
            destination,
            denied,
            environments,
        } = self;
        destination
            .as_ref()
            .or(denied.as_ref())
            .or(environments.as_ref())
    }
}

/// The problem that a status names and the attempts so far, for an operator that takes the setting up.
pub(crate) fn problem(status: &NotificationSettingStatus) -> Option<(DeliveryProblem, u32)> {
    let delivered = condition::find(&status.conditions, DELIVERED)?;
    let reason = Reason::ALL
        .iter()
        .copied()
        .find(|reason| delivered.status == "False" && reason.as_str() == delivered.reason)?;
    let failure = status
        .last_failure
        .as_ref()
        .filter(|failure| failure.reason == reason.as_str());
    let problem = DeliveryProblem {
        reason,
        message: failure.map_or_else(
            || delivered.message.clone(),
            |failure| failure.message.clone(),
        ),
        recovery: Recovery::Attempt,
    };
    let attempts = failure.map_or(1, |failure| failure.attempts);
    Some((problem, u32::try_from(attempts).unwrap_or(1)))
}

/// Whether a status says that a message waits for its turn.
pub(crate) fn says_waiting_for_turn(status: &NotificationSettingStatus) -> bool {
    condition::find(&status.conditions, DELIVERED)
        .is_some_and(|delivered| delivered.reason == DeliveredReason::WaitingForTurn.as_str())
}

/// What the conditions follow from.
#[derive(Clone, Debug)]
pub(crate) struct ConditionInput<'a> {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// Why the setting is not ready, and for how long.
    pub not_ready: Option<(&'a NotReady, Duration)>,
    /// Why nothing is delivered.
    pub problem: Option<&'a DeliveryProblem>,
    /// Why the log can't be read.
    pub log_problem: Option<&'a str>,
    pub next_attempt: Option<Timestamp>,
    pub suspended: bool,
    /// A message has waited long for its turn at the destination.
    pub overdue: bool,
    /// How many events wait.
    pub pending: i64,
    pub now: Timestamp,
}

/// Brings conditions and columns up to date.
pub(crate) fn update(status: &mut NotificationSettingStatus, input: &ConditionInput<'_>) {
    let not_ready = input.not_ready.map(|(not_ready, _)| not_ready);
    let statement = |type_, status, reason, message: &str| Statement {
        type_,
        status,
        reason,
        message: shorten(message, MESSAGE),
    };
    let ready = match not_ready {
        Some(why) => statement(READY, Some(false), why.reason.as_str(), &why.message),
        None => statement(
            READY,
            Some(true),
            ReadyReason::Valid.as_str(),
            "The destination and the environments exist and may be used.",
        ),
    };
    let delivered = {
        let (value, reason, message) = delivered(status, input);
        statement(DELIVERED, value, reason, &message)
    };
    let stalled = not_ready
        .filter(|why| why.stalled)
        .map(|why| statement(STALLED, Some(true), why.reason.as_str(), &why.message));
    let reconciling = input
        .not_ready
        .filter(|(why, since)| !why.stalled && *since < PATIENCE)
        .map(|_| {
            let message = "What is missing may be applied in a moment.";
            statement(
                RECONCILING,
                Some(true),
                ReadyReason::Waiting.as_str(),
                message,
            )
        });
    let column = [&ready, &delivered]
        .into_iter()
        .find(|statement| statement.status == Some(false));
    status.reason = column.map(|statement| statement.reason.to_owned());
    status.message = column.map(|statement| statement.message.clone());
    for (type_, statement) in [
        (READY, Some(ready)),
        (DELIVERED, Some(delivered)),
        (STALLED, stalled),
        (RECONCILING, reconciling),
    ] {
        match statement {
            Some(it) => condition::set(&mut status.conditions, &it, input.generation, input.now),
            None => condition::remove(&mut status.conditions, type_),
        }
    }
    status.observed_generation = input.generation;
    status.pending = Some(input.pending);
    status.next_attempt_time = input.next_attempt.map(condition::whole_seconds);
}

/// The condition `Delivered`: status, reason and message.
fn delivered(
    status: &NotificationSettingStatus,
    input: &ConditionInput<'_>,
) -> (Option<bool>, &'static str, String) {
    let waiting = match input.pending {
        0 => String::new(),
        1 => " 1 event waits.".to_owned(),
        count => format!(" {count} events wait."),
    };
    let sentence = |text: &str| format!("{}.{waiting}", text.trim_end_matches('.'));
    let (value, reason, message) = match (input.problem, input.log_problem) {
        _ if input.suspended && input.pending > 0 => (
            Some(false),
            DeliveredReason::Suspended,
            format!("spec.suspend is true.{waiting} They are sent when it is set to false."),
        ),
        (Some(problem), _) if !input.suspended => {
            return (
                Some(false),
                problem.reason.as_str(),
                sentence(&problem.message),
            );
        }
        (_, Some(why)) => (
            Some(false),
            DeliveredReason::LogUnavailable,
            sentence(&format!("The log of snapshots can't be read: {why}")),
        ),
        // Before any attempt: without a destination there is none.
        (None, None) if input.not_ready.is_some() && input.pending > 0 => (
            Some(false),
            DeliveredReason::NotReady,
            format!("The setting is not ready.{waiting}"),
        ),
        _ if input.overdue && !input.suspended => (
            Some(false),
            DeliveredReason::WaitingForTurn,
            format!("The destination is busy, or has asked for a pause.{waiting}"),
        ),
        _ if status.last_delivery.is_none() => (
            None,
            DeliveredReason::NothingSentYet,
            "Nothing has been delivered yet.".to_owned(),
        ),
        _ => (
            Some(true),
            DeliveredReason::UpToDate,
            "Nothing is overdue.".to_owned(),
        ),
    };
    (value, reason.as_str(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated<'a>(
        change: impl FnOnce(&mut ConditionInput<'a>),
    ) -> (String, String, NotificationSettingStatus) {
        let mut facts = ConditionInput {
            generation: Some(2),
            not_ready: None,
            problem: None,
            log_problem: None,
            next_attempt: None,
            suspended: false,
            overdue: false,
            pending: 0,
            now: Timestamp::from_second(100).unwrap(),
        };
        change(&mut facts);
        let mut status = NotificationSettingStatus::default();
        update(&mut status, &facts);
        let of = |type_| {
            condition::find(&status.conditions, type_)
                .map(|c| format!("{} {}", c.status, c.reason))
                .unwrap()
        };
        (of(READY), of(DELIVERED), status)
    }

    #[test]
    fn a_new_setting_is_ready_and_has_sent_nothing_yet() {
        let (ready, delivered, status) = updated(|_| ());
        assert_eq!(
            (ready.as_str(), delivered.as_str()),
            ("True Valid", "Unknown NothingSentYet")
        );
        assert_eq!(status.reason, None);
        assert_eq!(status.observed_generation, Some(2));
    }

    #[test]
    fn a_destination_in_trouble_is_not_delivered_but_the_setting_is_sound() {
        let problem = DeliveryProblem {
            reason: Reason::ServerError,
            message: "the destination answered 503".to_owned(),
            recovery: Recovery::Attempt,
        };
        let facts = (Some(&problem), 3);
        let (ready, delivered, status) = updated(|f| (f.problem, f.pending) = facts);
        assert_eq!(
            (ready.as_str(), delivered.as_str()),
            ("True Valid", "False ServerError")
        );
        assert_eq!(
            status.message.as_deref(),
            Some("the destination answered 503. 3 events wait.")
        );
    }

    #[test]
    fn what_waits_long_for_its_turn_is_overdue_unless_there_is_a_better_reason() {
        let (_, delivered, status) = updated(|f| (f.overdue, f.pending) = (true, 2));
        assert_eq!(delivered, "False WaitingForTurn");
        assert!(status.message.unwrap().ends_with(" 2 events wait."));
        let problem = DeliveryProblem {
            reason: Reason::RateLimited,
            message: "the destination answered 429".to_owned(),
            recovery: Recovery::Attempt,
        };
        let (_, delivered, _) = updated(|f| (f.overdue, f.problem) = (true, Some(&problem)));
        assert_eq!(delivered, "False RateLimited");
        let (_, delivered, _) = updated(|f| (f.overdue, f.suspended) = (true, true));
        assert_eq!(delivered, "Unknown NothingSentYet");
    }

    #[test]
    fn what_is_missing_may_come_for_two_minutes() {
        let not_ready = NotReady::new(NotReadyReason::SecretNotFound, "create it");
        for (seconds, reconciling) in [(0, true), (119, true), (120, false)] {
            let (ready, _, status) =
                updated(|facts| facts.not_ready = Some((&not_ready, Duration::from_secs(seconds))));
            assert_eq!(ready, "False SecretNotFound");
            assert_eq!(
                condition::find(&status.conditions, RECONCILING).is_some(),
                reconciling,
                "{seconds} s"
            );
        }
    }

    #[test]
    fn what_only_an_edit_mends_is_stalled_and_not_waited_for() {
        let not_ready = NotReady::of_spec(NotReadyReason::UrlInvalid, "spec.webhook.url: no URL");
        let (ready, _, status) =
            updated(|facts| facts.not_ready = Some((&not_ready, Duration::from_secs(1))));
        assert_eq!(ready, "False UrlInvalid");
        assert!(condition::find(&status.conditions, STALLED).is_some());
        assert!(condition::find(&status.conditions, RECONCILING).is_none());
        let mut status = status;
        let facts = ConditionInput {
            generation: Some(3),
            not_ready: None,
            problem: None,
            log_problem: None,
            next_attempt: None,
            suspended: false,
            overdue: false,
            pending: 0,
            now: Timestamp::from_second(101).unwrap(),
        };
        update(&mut status, &facts);
        assert!(condition::find(&status.conditions, STALLED).is_none());
    }

    #[test]
    fn a_problem_is_read_back_from_a_status() {
        let gone = DeliveryProblem {
            reason: Reason::Gone,
            message: "the destination answered 410".to_owned(),
            recovery: Recovery::Change,
        };
        let (_, _, mut status) = updated(|facts| (facts.problem, facts.pending) = (Some(&gone), 2));
        status.last_failure = Some(crate::api::notification_setting::Failure {
            reason: "Gone".to_owned(),
            message: gone.message.clone(),
            attempts: 4,
            ..crate::api::notification_setting::Failure::default()
        });
        let once_more = DeliveryProblem {
            recovery: Recovery::Attempt,
            ..gone
        };
        assert_eq!(problem(&status), Some((once_more, 4)));
        let (_, _, suspended) = updated(|facts| (facts.suspended, facts.pending) = (true, 2));
        assert_eq!(problem(&suspended), None);
        let (_, _, well) = updated(|_| ());
        assert_eq!(problem(&well), None);
    }

    #[test]
    fn one_problem_that_ends_does_not_hide_another() {
        let mut problems = Problems {
            destination: Some(NotReady::new(NotReadyReason::SecretNotFound, "create it")),
            environments: Some(NotReady::new(
                NotReadyReason::EnvironmentNotFound,
                "create it",
            )),
            ..Problems::default()
        };
        let reason = |problems: &Problems| problems.first().map(|why| why.reason);
        assert_eq!(reason(&problems), Some(NotReadyReason::SecretNotFound));
        problems.destination = None;
        assert_eq!(reason(&problems), Some(NotReadyReason::EnvironmentNotFound));
        problems.environments = None;
        assert_eq!(reason(&problems), None);
    }
}
