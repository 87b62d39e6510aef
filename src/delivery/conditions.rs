//! What a setting's status says: conditions and columns, from the facts. Never a URL, never a body.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        NotificationSettingStatus,
        condition::{self, DELIVERED, READY, RECONCILING, STALLED, Statement},
    },
    delivery::outbox::DeliveryProblem,
    http::outcome::Reason,
};

/// So long something that is missing is expected to come by itself: a Secret is often applied a moment later.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Why a setting is not sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// One word of a closed list.
    pub reason: &'static str,
    /// A sentence that says what mends it.
    pub message: String,
    /// Nothing but an edit of the spec mends it.
    pub stalled: bool,
}

impl NotReady {
    /// A reason and what mends it.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            stalled: false,
        }
    }

    /// A reason that only an edit of the spec takes away.
    pub fn of_spec(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::new(reason, message)
        }
    }
}

/// What is amiss with a setting, by where it comes from: each is mended on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The spec or the Secret names no destination that may be used.
    pub destination: Option<NotReady>,
    /// An attempt found that the destination's name leads to an address that may not be dialled.
    pub denied: Option<NotReady>,
    /// Environments that are asked for are not there or may not be seen.
    pub environments: Option<NotReady>,
}

impl Problems {
    /// What is told: without a destination the rest hardly matters.
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

/// What a status says of a setting's deliveries, for the operator that takes them up.
pub fn trouble(status: &NotificationSettingStatus) -> Option<(DeliveryProblem, u32)> {
    let delivered = condition::find(&status.conditions, DELIVERED)?;
    let reason = Reason::ALL
        .into_iter()
        .find(|reason| delivered.status == "False" && reason.as_str() == delivered.reason)?;
    let failure = status
        .last_failure
        .as_ref()
        .filter(|failure| failure.reason == reason.as_str());
    let trouble = DeliveryProblem {
        reason: reason.as_str(),
        message: failure.map_or_else(
            || delivered.message.clone(),
            |failure| failure.message.clone(),
        ),
        gone: false,
    };
    let attempts = failure.map_or(1, |failure| failure.attempts);
    Some((trouble, u32::try_from(attempts).unwrap_or(1)))
}

/// What the conditions follow from.
#[derive(Clone, Debug)]
pub struct ConditionInput<'a> {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// Why the setting is not sound, and for how long it has not been.
    pub unsound: Option<(&'a NotReady, Duration)>,
    /// Why nothing is delivered.
    pub trouble: Option<&'a DeliveryProblem>,
    /// When the next attempt is made.
    pub next_attempt: Option<Timestamp>,
    /// Nothing is to be sent.
    pub suspended: bool,
    /// How many events wait.
    pub pending: i64,
    /// The clock.
    pub now: Timestamp,
}

/// Brings conditions and columns up to date.
pub fn tell(status: &mut NotificationSettingStatus, facts: &ConditionInput<'_>) {
    let ready = match facts.unsound {
        Some((unsound, _)) => Statement {
            type_: READY,
            status: Some(false),
            reason: unsound.reason,
            message: unsound.message.clone(),
        },
        None => Statement {
            type_: READY,
            status: Some(true),
            reason: "Sound",
            message: "The destination and the environments are there and may be used.".to_owned(),
        },
    };
    let delivered = delivered(status, facts);
    condition::set(&mut status.conditions, &ready, facts.generation, facts.now);
    condition::set(
        &mut status.conditions,
        &delivered,
        facts.generation,
        facts.now,
    );
    match facts.unsound.filter(|(unsound, _)| unsound.stalled) {
        Some((unsound, _)) => {
            let stalled = Statement {
                type_: STALLED,
                status: Some(true),
                reason: unsound.reason,
                message: unsound.message.clone(),
            };
            condition::set(
                &mut status.conditions,
                &stalled,
                facts.generation,
                facts.now,
            );
        }
        None => condition::remove(&mut status.conditions, STALLED),
    }
    if facts
        .unsound
        .is_some_and(|(unsound, since)| !unsound.stalled && since < PATIENCE)
    {
        let waits = Statement {
            type_: RECONCILING,
            status: Some(true),
            reason: "Waiting",
            message: "What is missing may be on its way.".to_owned(),
        };
        condition::set(&mut status.conditions, &waits, facts.generation, facts.now);
    } else {
        condition::remove(&mut status.conditions, RECONCILING);
    }
    status.observed_generation = facts.generation;
    status.pending = Some(facts.pending);
    status.next_attempt_time = facts.next_attempt.map(condition::whole_seconds);
    let amiss = [&ready, &delivered]
        .into_iter()
        .find(|statement| statement.status == Some(false));
    status.reason = amiss.map(|statement| statement.reason.to_owned());
    status.message = amiss.map(|statement| statement.message.clone());
}

fn delivered(status: &NotificationSettingStatus, facts: &ConditionInput<'_>) -> Statement {
    let waiting = match facts.pending {
        0 => String::new(),
        1 => " 1 event waits.".to_owned(),
        count => format!(" {count} events wait."),
    };
    let (status, reason, message) = match (facts.trouble, facts.suspended) {
        (_, true) if facts.pending > 0 => (
            Some(false),
            "Suspended",
            format!("spec.suspend is true.{waiting} What waits is sent when it is set to false."),
        ),
        // Before any attempt: without a destination there is none.
        _ if facts.unsound.is_some() && facts.trouble.is_none() && facts.pending > 0 => (
            Some(false),
            "NotReady",
            format!("The setting is not ready.{waiting}"),
        ),
        (Some(trouble), false) => (
            Some(false),
            trouble.reason,
            format!("{}.{waiting}", trouble.message.trim_end_matches('.')),
        ),
        _ if status.last_delivery.is_none() => (
            None,
            "NothingSentYet",
            "Nothing has been delivered yet.".to_owned(),
        ),
        _ => (Some(true), "UpToDate", "Nothing is overdue.".to_owned()),
    };
    Statement {
        type_: DELIVERED,
        status,
        reason,
        message,
    }
}

/// At most so many characters: a status holds no text of any length.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(
        change: impl FnOnce(&mut ConditionInput<'a>),
    ) -> (String, String, NotificationSettingStatus) {
        let mut facts = ConditionInput {
            generation: Some(2),
            unsound: None,
            trouble: None,
            next_attempt: None,
            suspended: false,
            pending: 0,
            now: Timestamp::from_second(100).unwrap(),
        };
        change(&mut facts);
        let mut status = NotificationSettingStatus::default();
        tell(&mut status, &facts);
        let of = |type_| {
            condition::find(&status.conditions, type_)
                .map(|c| format!("{} {}", c.status, c.reason))
                .unwrap()
        };
        (of(READY), of(DELIVERED), status)
    }

    #[test]
    fn a_new_setting_is_ready_and_has_sent_nothing_yet() {
        let (ready, delivered, status) = told(|_| ());
        assert_eq!(
            (ready.as_str(), delivered.as_str()),
            ("True Sound", "Unknown NothingSentYet")
        );
        assert_eq!(status.reason, None);
        assert_eq!(status.observed_generation, Some(2));
    }

    #[test]
    fn a_destination_in_trouble_is_not_delivered_but_the_setting_is_sound() {
        let trouble = DeliveryProblem {
            reason: "ServerError",
            message: "the destination answered 503".to_owned(),
            gone: false,
        };
        let facts = (Some(&trouble), 3);
        let (ready, delivered, status) = told(|f| (f.trouble, f.pending) = facts);
        assert_eq!(
            (ready.as_str(), delivered.as_str()),
            ("True Sound", "False ServerError")
        );
        assert_eq!(
            status.message.as_deref(),
            Some("the destination answered 503. 3 events wait.")
        );
    }

    #[test]
    fn what_is_missing_may_come_for_two_minutes() {
        let unsound = NotReady::new("SecretNotFound", "create it");
        for (seconds, reconciling) in [(0, true), (119, true), (120, false)] {
            let (ready, _, status) =
                told(|facts| facts.unsound = Some((&unsound, Duration::from_secs(seconds))));
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
        let unsound = NotReady::of_spec("UrlInvalid", "spec.webhook.url: no URL");
        let (ready, _, status) =
            told(|facts| facts.unsound = Some((&unsound, Duration::from_secs(1))));
        assert_eq!(ready, "False UrlInvalid");
        assert!(condition::find(&status.conditions, STALLED).is_some());
        assert!(condition::find(&status.conditions, RECONCILING).is_none());
        let mut status = status;
        let facts = ConditionInput {
            generation: Some(3),
            unsound: None,
            trouble: None,
            next_attempt: None,
            suspended: false,
            pending: 0,
            now: Timestamp::from_second(101).unwrap(),
        };
        tell(&mut status, &facts);
        assert!(condition::find(&status.conditions, STALLED).is_none());
    }

    #[test]
    fn trouble_is_read_back_from_a_status() {
        let gone = DeliveryProblem {
            reason: "Gone",
            message: "the destination answered 410".to_owned(),
            gone: true,
        };
        let (_, _, mut status) = told(|facts| (facts.trouble, facts.pending) = (Some(&gone), 2));
        status.last_failure = Some(crate::api::setting::Failure {
            reason: "Gone".to_owned(),
            message: gone.message.clone(),
            attempts: 4,
            ..crate::api::setting::Failure::default()
        });
        let once_more = DeliveryProblem {
            gone: false,
            ..gone
        };
        assert_eq!(trouble(&status), Some((once_more, 4)));
        let (_, _, suspended) = told(|facts| (facts.suspended, facts.pending) = (true, 2));
        assert_eq!(trouble(&suspended), None);
        let (_, _, well) = told(|_| ());
        assert_eq!(trouble(&well), None);
    }

    #[test]
    fn one_mended_thing_does_not_hide_another() {
        let mut amiss = Problems {
            destination: Some(NotReady::new("SecretNotFound", "create it")),
            environments: Some(NotReady::new("EnvironmentNotFound", "create it")),
            ..Problems::default()
        };
        let reason = |amiss: &Problems| amiss.first().map(|unsound| unsound.reason);
        assert_eq!(reason(&amiss), Some("SecretNotFound"));
        amiss.destination = None;
        assert_eq!(reason(&amiss), Some("EnvironmentNotFound"));
        amiss.environments = None;
        assert_eq!(reason(&amiss), None);
    }
}
