//! What a replay sends again, as the annotation of a setting asks for it: a part of the log of one of its environments, or one
//! message by the id of its first event.

use std::sync::Arc;

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType,
        notification_setting::{Cursor, DeadLetter, Replay},
    },
    delivery::{environment_queue::Token, next_message::LogReader, reasons::ReplayReason},
    snapshot::{event, log},
    time::Moment,
};

/// A replay is of at most this many snapshots.
pub(crate) const SNAPSHOTS: i64 = 1_000;
/// A replay ends when this many events were sent; the message that reaches the number is the last.
pub(crate) const EVENTS: i64 = 10_000;
/// An event is looked for in this many snapshots, the newest of all environments of the setting.
const SEARCHED: usize = 1_000;
/// In at most this many events of these: each has to be hashed.
const EVENTS_SEARCHED: usize = 20_000;
/// So many of these may be unreadable: more, and the API server is in trouble.
const UNREADABLE: usize = 3;
/// The length of an event's id.
const ID: usize = 52;

/// What is known of a replay beside its queue and what the status says.
#[derive(Debug, Default)]
pub(crate) struct ReplayState {
    /// What it asks for is being looked for, or what an earlier one asked for: one search at a time, also if its result is
    /// not wanted any more.
    pub locating: Option<Token>,
    /// The search whose result is wanted.
    pub wanted: Option<Token>,
    /// It was looked for in vain this often, and why.
    pub failures: u32,
    pub failure: Option<String>,
    /// When to look for it again.
    pub again: Option<Moment>,
    /// The one message that is sent, if it isn't a part of the log.
    pub message: Option<OneMessage>,
    /// What the destination said when it refused the message before.
    pub refusal: Option<String>,
    /// It said the same twice.
    pub refused_twice: bool,
    /// Attempts in a row that failed, the first of them, and what was said of the last.
    pub attempts: u32,
    pub failing_since: Option<Moment>,
    pub problem: Option<String>,
    /// Nothing is sent before this.
    pub until: Option<Moment>,
}

impl ReplayState {
    pub fn may_send(&self, now: Moment) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// The replay has ended, or is to be found anew.
    pub fn reset(&mut self) {
        *self = Self {
            locating: self.locating,
            ..Self::default()
        };
    }
}

/// One message that is sent again. It may be sent as several: the setting may ask for another form by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OneMessage {
    /// The id and the type of the event with which it begins.
    pub id: String,
    pub type_: EventType,
    /// How many events it held, if a dead letter tells.
    pub events: Option<i64>,
    /// How many of these were sent.
    pub done: i64,
}

/// Why a replay is not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: ReplayReason,
    /// A sentence that says what to do.
    pub message: String,
}

impl Refusal {
    fn new(reason: ReplayReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// What is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplayRequest {
    /// The snapshots with these numbers.
    Snapshots {
        environment: String,
        from: i64,
        to: i64,
    },
    /// The message that begins with the event of this id.
    Message(String),
}

impl ReplayRequest {
    /// Reads the value of the annotation. What follows its first word makes it another request and is not read.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(ReplayReason::RequestInvalid, message);
        let Some(first) = value.split_whitespace().next() else {
            return Err(invalid("The value is empty.".to_owned()));
        };
        let Some((environment, snapshots)) = first.split_once('/') else {
            let is_id = first.len() == ID
                && first
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
            return match is_id {
                true => Ok(Self::Message(first.to_owned())),
                false => Err(invalid(format!(
                    "The value is neither <environment>/<from>-<to>, nor <environment>/<snapshot>, nor the id of an event ({ID} letters and digits)."
                ))),
            };
        };
        let (from, to) = snapshots.split_once('-').unwrap_or((snapshots, snapshots));
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = is_number.then(|| text.parse().ok()).flatten();
            number.filter(|number: &i64| *number > 0)
        };
        let (Some(from), Some(to)) = (number(from), number(to)) else {
            return Err(invalid(
                "Give the number of a snapshot after the slash, or two numbers with a hyphen between.".to_owned(),
            ));
        };
        if from > to {
            return Err(invalid(format!("{from} is greater than {to}.")));
        }
        if to - from >= SNAPSHOTS {
            return Err(invalid(format!(
                "A replay is of at most {SNAPSHOTS} snapshots: ask for {from}-{} first.",
                from + SNAPSHOTS - 1
            )));
        }
        Ok(Self::Snapshots {
            environment: environment.to_owned(),
            from,
            to,
        })
    }
}

/// Where a replay begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub cursor: Cursor,
    /// The last snapshot.
    pub to: i64,
    pub message: Option<OneMessage>,
}

/// Finds what a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Locate {
    pub request: ReplayRequest,
    /// How far each log that the setting follows has been delivered: nothing that still waits is sent twice.
    pub cursors: Vec<Cursor>,
    pub letters: Vec<DeadLetter>,
    /// The replay as the status says it, if it has begun already.
    pub begun: Option<Replay>,
    /// It was looked for in vain before: what can't be read is left out.
    pub patient: bool,
}

impl Locate {
    /// `Err`: the log can't be read now, and why.
    pub async fn find(&self, log: &impl LogReader) -> Result<Result<Located, Refusal>, String> {
        match &self.request {
            ReplayRequest::Snapshots {
                environment,
                from,
                to,
            } => self.snapshots(log, environment, *from, *to).await,
            ReplayRequest::Message(id) => self.message(log, id).await,
        }
    }

    async fn snapshots(
        &self,
        log: &impl LogReader,
        environment: &str,
        from: i64,
        to: i64,
    ) -> Result<Result<Located, Refusal>, String> {
        let refused = |reason, message| Ok(Err(Refusal::new(reason, message)));
        let mut cursors = self.cursors.iter();
        let Some(cursor) = cursors.find(|cursor| cursor.environment == environment) else {
            return refused(
                ReplayReason::EnvironmentNotFollowed,
                "The setting does not ask for an environment of this name, or may not see it."
                    .to_owned(),
            );
        };
        if to > cursor.index {
            return refused(
                ReplayReason::NotSentYet,
                format!(
                    "What comes after snapshot {} has not been sent for the first time yet. That needs no replay.",
                    cursor.index
                ),
            );
        }
        let start = Cursor {
            index: from - 1,
            ordinal: 0,
            unreported_gap: None,
            ..cursor.clone()
        };
        let (start, _) = self.reached(start, to);
        let entries = log.entries(&cursor.environment_id()).await?;
        let mut missing = start.index + 1;
        for entry in &entries {
            if entry.index == missing {
                missing += 1;
            }
        }
        if missing <= to {
            let next = entries.iter().find(|entry| entry.index > missing);
            let next = next.map_or(String::new(), |next| {
                format!(" The next that is there is {}.", next.index)
            });
            return refused(
                ReplayReason::HistoryTruncated,
                format!("Snapshot {missing} is no longer in the log.{next}"),
            );
        }
        Ok(Ok(Located {
            cursor: start,
            to,
            message: None,
        }))
    }

    /// Where a replay that begins here goes on: where it has got, if it has begun. And how many events it has sent then.
    fn reached(&self, start: Cursor, to: i64) -> (Cursor, i64) {
        let begun = self.begun.as_ref();
        let reached = begun.and_then(|begun| Some((begun.cursor.as_ref()?, begun.delivered)));
        let place = |cursor: &Cursor| (cursor.index, cursor.ordinal);
        let reached = reached.filter(|(reached, _)| {
            reached.environment_uid == start.environment_uid
                && (place(&start)..=(to, 0)).contains(&place(reached))
        });
        match reached {
            Some((reached, delivered)) => {
                let (index, ordinal) = place(reached);
                let cursor = Cursor {
                    index,
                    ordinal,
                    ..start
                };
                (cursor, delivered)
            }
            None => (start, 0),
        }
    }

    async fn message(
        &self,
        log: &impl LogReader,
        id: &str,
    ) -> Result<Result<Located, Refusal>, String> {
        if let Some(letter) = self.letters.iter().find(|letter| letter.event_id == id) {
            return self.letter(log, letter).await;
        }
        let share = (SEARCHED / self.cursors.len().max(1)).max(1);
        let mut unreadable = None;
        let mut failures = 0;
        for cursor in &self.cursors {
            let newest = cursor.begun();
            let mut hashed = 0;
            for index in (1..=newest).rev().take(share) {
                let snapshot = match log.read(&cursor.environment_id(), index).await {
                    Ok(Some(snapshot)) => snapshot,
                    Ok(None) => break,
                    // One that can't be read hides no other.
                    Err(why) => {
                        failures += 1;
                        if failures > UNREADABLE {
                            return Err(why);
                        }
                        unreadable = Some(why);
                        continue;
                    }
                };
                if let Some(located) = located(cursor, &snapshot, id, index) {
                    return Ok(Ok(located));
                }
                hashed += snapshot.events.len();
                if hashed > EVENTS_SEARCHED / self.cursors.len() {
                    break;
                }
            }
        }
        match unreadable {
            Some(why) if !self.patient => Err(why),
            _ => Ok(Err(not_found())),
        }
    }

    async fn letter(
        &self,
        log: &impl LogReader,
        letter: &DeadLetter,
    ) -> Result<Result<Located, Refusal>, String> {
        let mut reason = ReplayReason::EnvironmentNotFollowed;
        // A name may be that of several, one after the other.
        for cursor in &self.cursors {
            let Some(index) = log::index(&cursor.environment, &letter.snapshot) else {
                continue;
            };
            reason = ReplayReason::HistoryTruncated;
            let snapshot = log.read(&cursor.environment_id(), index).await?;
            let Some(snapshot) = snapshot else { continue };
            let through = letter.through.unwrap_or(index);
            let through = through.min(cursor.begun()).min(index + SNAPSHOTS - 1);
            let to = through.max(index);
            if let Some(mut found) = located(cursor, &snapshot, &letter.event_id, to) {
                let (start, done) = self.reached(found.cursor, to);
                found.cursor = start;
                if let Some(message) = &mut found.message {
                    message.events = Some(letter.events.unwrap_or(1));
                    message.done = done;
                }
                return Ok(Ok(found));
            }
        }
        let message = match reason {
            ReplayReason::HistoryTruncated => "The snapshot of this event is no longer in the log.",
            _ => "The setting no longer asks for the environment of this event, or may not see it.",
        };
        Ok(Err(Refusal::new(reason, message)))
    }
}

fn not_found() -> Refusal {
    let message =
        "No event of this id was sent lately. Ask for its snapshot: <environment>/<snapshot>.";
    Refusal::new(ReplayReason::EventNotFound, message)
}

/// The message that begins with this event of a snapshot, if that has been sent for the first time.
fn located(
    cursor: &Cursor,
    snapshot: &Arc<EnvironmentSnapshotSpec>,
    id: &str,
    to: i64,
) -> Option<Located> {
    let at = (0..snapshot.events.len()).find(|at| event::id(snapshot, *at) == id)?;
    let ordinal = i64::try_from(at).ok()?;
    let before = snapshot.index - 1;
    if (before, ordinal) >= (cursor.index, cursor.ordinal) {
        return None;
    }
    Some(Located {
        cursor: Cursor {
            index: before,
            ordinal,
            unreported_gap: None,
            ..cursor.clone()
        },
        to,
        message: Some(OneMessage {
            id: id.to_owned(),
            type_: snapshot.events[at].type_,
            events: None,
            done: 0,
        }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simulation::testing::reader_tries;

    fn snapshots(environment: &str, from: i64, to: i64) -> ReplayRequest {
        ReplayRequest::Snapshots {
            environment: environment.to_owned(),
            from,
            to,
        }
    }

    #[test]
    fn what_the_annotation_may_say() {
        let id = "37vc3lnvpde4ih5kl756gkjbvvc3tbucyv6kiwhp22ooukjdmkxa";
        for (value, want) in [
            ("prod/17-42", snapshots("prod", 17, 42)),
            (" prod/17\tonce more", snapshots("prod", 17, 17)),
            ("eu-1.prod/1-1000", snapshots("eu-1.prod", 1, 1_000)),
            (id, ReplayRequest::Message(id.to_owned())),
            (&format!("{id} 2"), ReplayRequest::Message(id.to_owned())),
        ] {
            assert_eq!(ReplayRequest::parse(value), Ok(want), "{value}");
        }
    }

    proptest! {
        #![proptest_config(reader_tries())]

        #[test]
        fn any_value_is_a_bounded_request_or_is_refused_with_a_sentence(
            value in "\\PC*|[a-z-]{0,4}/?[0-9]{0,20}-?[0-9]{0,4}( .*)?|[a-z2-7]{50,54}",
        ) {
            match ReplayRequest::parse(&value) {
                Ok(ReplayRequest::Snapshots { from, to, .. }) => {
                    prop_assert!(0 < from && from <= to && to - from < SNAPSHOTS);
                }
                Ok(ReplayRequest::Message(id)) => prop_assert_eq!(id.len(), ID),
                Err(refusal) => {
                    prop_assert_eq!(refusal.reason, ReplayReason::RequestInvalid);
                    prop_assert!(refusal.message.ends_with('.'));
                }
            }
        }
    }
}
