//! Finds the next message for one environment of a setting in the log, and composes it. Nothing is decided here that the
//! state of the setting must decide again: composing happens when the message's turn at the destination has come.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        environment::EnvironmentId,
        notification_setting::{Cursor, UnreportedGap},
        snapshot::Event,
    },
    delivery::{
        message_history::SkippedEntries,
        reasons::SkipReason,
        subscription::{NextEvents, Subscription},
    },
    http::destination::DestinationKind,
    message::{installation::Installation, kosli, slack, unreported_gap},
    snapshot::{
        event,
        log::{self, EntryMeta},
        log_cache::decoded_size,
    },
};

/// At most this many entries without anything to send are passed before the cursor is reported.
const PASSED: usize = 256;
/// A Slack backlog of more snapshots than this goes out as a digest.
const DIGEST_AFTER: usize = 5;
/// At most this many snapshots make one digest.
const DIGEST_MAX: usize = 200;
/// Snapshots are gathered for a message until they take this many bytes in memory.
const GATHERED_BYTES: usize = 2 << 20;

/// What delivery reads of the log. An error is a sentence for people.
pub(crate) trait LogReader {
    /// The entry of this number, unless it was removed.
    async fn read(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, String>;

    /// The entries that are there, oldest first.
    async fn entries(&self, environment: &EnvironmentId) -> Result<Vec<EntryMeta>, String>;
}

/// What to look for, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    pub subscription: Arc<Subscription>,
    pub cursor: Cursor,
    /// The number of the environment's newest snapshot.
    pub head: i64,
    /// Events that happened before this are given up.
    pub expired_before: Option<Timestamp>,
    /// The environment is gone: entries that are missing went with it.
    pub deleted: bool,
    /// It is sent again because somebody asked for it: the ids of the dead letters that there are then.
    pub replay: Option<Vec<String>>,
    pub now: Timestamp,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the cursor stands: after what was passed over, before what is next.
    pub cursor: Cursor,
    /// What was passed over though it was asked for, and why.
    pub skipped: Vec<SkippedEntries>,
    /// The report of removed snapshots if it is given up: its id, and the name of the last of those snapshots.
    pub given_up: Option<(String, String)>,
    pub next: Next,
}

/// What is next after what was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is nothing to send up to the cursor.
    Nothing,
    /// There is a message to send.
    Message(MessageKey),
    /// The log can't be read, and why.
    Unreadable(String),
}

/// What makes a message: the same key leads to the same id and, under one configuration, the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MessageKey {
    /// Events of the snapshot after the cursor's.
    Events(NextEvents),
    /// That snapshots were removed before they could be delivered.
    Gap(UnreportedGap),
}

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NextMessage {
    /// The id of the first event that it holds.
    pub id: String,
    pub body: Bytes,
    /// The message without what a destination may refuse of it, if there is such a form.
    pub plain: Option<Bytes>,
    /// Where the cursor stands when it is delivered.
    pub after: Cursor,
    /// How many events it holds.
    pub events: usize,
    /// The name of the snapshot that it comes from.
    pub snapshot: String,
    /// The number of the last snapshot that it holds, if it holds several.
    pub through: Option<i64>,
    /// Those of the dead letters whose first event it holds.
    pub letters: Vec<String>,
    /// When that was recorded.
    pub recorded: Timestamp,
}

impl Search {
    /// Looks for the next message; the cursor moves over what is not asked for, given up or gone.
    pub async fn find(&self, log: &impl LogReader) -> Found {
        let mut found = Found {
            cursor: self.cursor.clone(),
            skipped: vec![],
            given_up: None,
            next: Next::Nothing,
        };
        found.next = match self.advance(log, &mut found).await {
            Ok(Some(MessageKey::Gap(gap))) if self.is_expired(gap.time) => {
                found.cursor.unreported_gap = None;
                let uid = &self.cursor.environment_uid;
                let last = log::name(&self.cursor.environment, gap.to);
                found.given_up = Some((unreported_gap::id(uid, &gap), last));
                Next::Nothing
            }
            Ok(Some(key)) => Next::Message(key),
            Ok(None) => Next::Nothing,
            Err(why) => Next::Unreadable(why),
        };
        found
    }

    fn is_expired(&self, time: Timestamp) -> bool {
        self.expired_before.is_some_and(|limit| time < limit)
    }

    async fn advance(
        &self,
        log: &impl LogReader,
        found: &mut Found,
    ) -> Result<Option<MessageKey>, String> {
        let cursor = &mut found.cursor;
        let environment = cursor.environment_id();
        let mut passed = 0;
        while cursor.index < self.head && passed < PASSED {
            passed += 1;
            let index = cursor.index + 1;
            let Some(snapshot) = log.read(&environment, index).await? else {
                let hole = self.hole(log, &environment, index).await?;
                if hole.reason == SkipReason::HistoryTruncated {
                    let before = cursor.unreported_gap.as_ref();
                    cursor.unreported_gap = Some(unreported_gap::widened(
                        before, hole.from, hole.to, self.now,
                    ));
                }
                (cursor.index, cursor.ordinal) = (hole.to, 0);
                found.skipped.push(hole);
                return Ok(None); // it is reported when the status holds it
            };
            if cursor.unreported_gap.is_some() {
                break; // before any later event, and only now: the gap might have grown
            }
            let done = usize::try_from(cursor.ordinal).unwrap_or(0);
            let wanted = self.subscription.count(&snapshot, done);
            if wanted > 0 && self.is_expired(snapshot.time) {
                skip_expired(&mut found.skipped, index, wanted);
            } else if let Some(next) = self.subscription.next_events(&snapshot, done) {
                return Ok(Some(MessageKey::Events(next)));
            }
            (cursor.index, cursor.ordinal) = (index, 0);
        }
        Ok(cursor.unreported_gap.clone().map(MessageKey::Gap))
    }

    /// Entries that were still to be passed are gone from the log.
    async fn hole(
        &self,
        log: &impl LogReader,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<SkippedEntries, String> {
        let entries = log.entries(environment).await?;
        let mut there = entries.iter().map(|entry| entry.index);
        let to = there
            .find(|there| *there >= index)
            .map_or(self.head, |next| next - 1);
        if to < index {
            return Err(format!("snapshot {index} is listed but can't be read"));
        }
        Ok(SkippedEntries {
            from: index,
            to,
            count: None,
            reason: if self.deleted {
                SkipReason::EnvironmentDeleted
            } else {
                SkipReason::HistoryTruncated
            },
        })
    }

    /// Composes the message at the cursor. `None`: the log no longer holds what was found.
    pub async fn compose(
        &self,
        log: &impl LogReader,
        key: &MessageKey,
        from: &Origin<'_>,
    ) -> Result<Option<NextMessage>, String> {
        let next = match key {
            MessageKey::Gap(gap) => return Ok(Some(self.gap_message(gap, from))),
            MessageKey::Events(next) => next,
        };
        let (environment, index) = (self.cursor.environment_id(), self.cursor.index + 1);
        let Some(snapshot) = log.read(&environment, index).await? else {
            return Ok(None);
        };
        let id = event::id(&snapshot, next.positions[0]);
        let name = log::name(&snapshot.environment, snapshot.index);
        let mut letters = self.letters(&snapshot, &next.positions);
        let (body, plain, after, events) = match self.subscription.kind {
            DestinationKind::Webhook => {
                let event = &snapshot.events[next.positions[0]];
                let body = kosli::body(from.installation, &snapshot, event);
                (body, None, self.after(&snapshot, next.done), 1)
            }
            DestinationKind::Slack => {
                let (mut message, after, told) =
                    self.slack_message(log, &snapshot, next, from).await?;
                let events = told.iter().map(|(_, next)| next.positions.len()).sum();
                for (other, next) in told.iter().skip(1) {
                    letters.extend(self.letters(other, &next.positions));
                }
                if self.replay.is_some() {
                    message.say_sent_again();
                }
                (
                    message.to_body(),
                    Some(slack::plain(&message)),
                    after,
                    events,
                )
            }
        };
        Ok(Some(NextMessage {
            id,
            body: body.into(),
            plain: plain.map(Bytes::from),
            through: Some(after.begun()).filter(|last| *last > snapshot.index),
            letters,
            after,
            events,
            snapshot: name,
            recorded: snapshot.time,
        }))
    }

    /// The message that reports removed snapshots.
    fn gap_message(&self, gap: &UnreportedGap, from: &Origin<'_>) -> NextMessage {
        let cursor = &self.cursor;
        let (installation, setting) = (from.installation, from.setting);
        let (body, plain) = match self.subscription.kind {
            DestinationKind::Webhook => (
                kosli::truncated_body(installation, &cursor.environment, gap, setting),
                None,
            ),
            DestinationKind::Slack => {
                let message = slack::truncated(installation, &cursor.environment, gap, setting);
                (message.to_body(), Some(slack::plain(&message)))
            }
        };
        NextMessage {
            id: unreported_gap::id(&cursor.environment_uid, gap),
            body: body.into(),
            plain: plain.map(Bytes::from),
            after: Cursor {
                unreported_gap: None,
                ..cursor.clone()
            },
            events: 1,
            snapshot: log::name(&cursor.environment, gap.to),
            through: None,
            letters: vec![],
            recorded: gap.time,
        }
    }

    /// The cursor when this many events of a snapshot are done.
    fn after(&self, snapshot: &EnvironmentSnapshotSpec, done: usize) -> Cursor {
        let mut cursor = self.cursor.clone();
        (cursor.index, cursor.ordinal) = if done >= snapshot.events.len() {
            (snapshot.index, 0)
        } else {
            (snapshot.index - 1, i64::try_from(done).unwrap_or(i64::MAX))
        };
        cursor
    }

    /// A message for Slack: of a snapshot; with the other parts of its cut; or, when many wait, a digest of them. And
    /// where the cursor stands after it, and what it holds.
    async fn slack_message(
        &self,
        log: &impl LogReader,
        snapshot: &Arc<EnvironmentSnapshotSpec>,
        next: &NextEvents,
        from: &Origin<'_>,
    ) -> Result<(slack::Message, Cursor, Vec<Gathered>), String> {
        let first = &snapshot.events[next.positions[0]];
        if first.type_.is_of_environment() {
            let message = slack::compliance(from.installation, snapshot, first);
            let told = vec![(snapshot.clone(), next.clone())];
            return Ok((message, self.after(snapshot, next.done), told));
        }
        let mut gathered = self.gather(log, snapshot, next).await?;
        let telling = gathered
            .iter()
            .filter(|(_, next)| !next.positions.is_empty());
        let digest = telling.count() > DIGEST_AFTER;
        if !digest {
            let cut = snapshot.cut.map(|cut| cut.first);
            let same_cut = |other: &EnvironmentSnapshotSpec| {
                other.index == snapshot.index
                    || cut.is_some() && other.cut.map(|cut| cut.first) == cut
            };
            let end = gathered.iter().position(|(other, _)| !same_cut(other));
            gathered.truncate(end.unwrap_or(gathered.len()));
        }
        let events: Vec<Vec<&Event>> = gathered
            .iter()
            .map(|(snapshot, next)| {
                let positions = next.positions.iter();
                positions.map(|at| &snapshot.events[*at]).collect()
            })
            .collect();
        let parts: Vec<_> = gathered
            .iter()
            .zip(&events)
            .map(|((snapshot, _), events)| slack::SnapshotEvents { snapshot, events })
            .collect();
        let message = if digest {
            slack::digest(from.installation, &parts)
        } else {
            slack::artifacts(from.installation, &parts)
        };
        let after = gathered.last().map_or_else(
            || self.cursor.clone(),
            |(last, next)| self.after(last, next.done),
        );
        Ok((message, after, gathered))
    }

    /// Which dead letters begin with one of these events.
    fn letters(&self, snapshot: &EnvironmentSnapshotSpec, positions: &[usize]) -> Vec<String> {
        let letters = self.replay.as_deref().unwrap_or_default();
        if letters.is_empty() {
            return vec![]; // an id has to be computed
        }
        let ids = positions.iter().map(|at| event::id(snapshot, *at));
        ids.filter(|id| letters.contains(id)).collect()
    }

    /// The artifact events of consecutive snapshots up to the next event of the environment. Snapshots of which nothing is
    /// asked for are gathered, too: a digest nets all that happened. However large it is, the first is gathered.
    async fn gather(
        &self,
        log: &impl LogReader,
        snapshot: &Arc<EnvironmentSnapshotSpec>,
        next: &NextEvents,
    ) -> Result<Vec<Gathered>, String> {
        let mut bytes = decoded_size(snapshot);
        let mut gathered = vec![(snapshot.clone(), next.clone())];
        let mut whole = next.done == snapshot.events.len();
        let environment = self.cursor.environment_id();
        let mut index = snapshot.index;
        while whole && index < self.head && gathered.len() < DIGEST_MAX && bytes < GATHERED_BYTES {
            index += 1;
            let Some(other) = log.read(&environment, index).await? else {
                break;
            };
            let next = match self.subscription.next_events(&other, 0) {
                Some(next) if other.events[next.positions[0]].type_.is_of_environment() => break,
                Some(next) => next,
                None => NextEvents {
                    positions: vec![],
                    done: other.events.len(),
                },
            };
            whole = next.done == other.events.len();
            bytes += decoded_size(&other);
            gathered.push((other, next));
        }
        Ok(gathered)
    }
}

/// A snapshot, and which of its events are told.
type Gathered = (Arc<EnvironmentSnapshotSpec>, NextEvents);

/// What every message says of the one who sends it.
pub(crate) struct Origin<'a> {
    pub installation: &'a Installation,
    /// The namespace and the name of the setting.
    pub setting: (&'a str, &'a str),
}

fn skip_expired(skipped: &mut Vec<SkippedEntries>, index: i64, events: usize) {
    let events = i64::try_from(events).unwrap_or(i64::MAX);
    let expired = |last: &&mut SkippedEntries| last.reason == SkipReason::RetryExpired;
    match skipped.last_mut().filter(expired) {
        Some(last) => {
            last.to = index;
            last.count = last.count.map(|count| count.saturating_add(events));
        }
        None => skipped.push(SkippedEntries {
            from: index,
            to: index,
            count: Some(events),
            reason: SkipReason::RetryExpired,
        }),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::{
        api::{
            NotificationSettingSpec,
            notification_setting::Slack,
            snapshot::{Change, WorkloadChange},
        },
        simulation::testing,
        snapshot::log_cache::decoded_size,
    };

    /// A log whose entries have these numbers of workloads, from 1.
    struct Log(Vec<usize>);

    impl LogReader for Log {
        async fn read(
            &self,
            _: &EnvironmentId,
            index: i64,
        ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, String> {
            let at = usize::try_from(index).unwrap() - 1;
            let workload = WorkloadChange {
                kind: "Deployment".to_owned(),
                namespace: "shop".to_owned(),
                name: "w".repeat(63),
                was: 0,
                now: 1,
                rolling: false,
            };
            Ok(self.0.get(at).map(|workloads| {
                let mut snapshot = testing::snapshot(index, &[("image", 0, 1)]);
                let Change { workloads: of, .. } = &mut snapshot.changes[0];
                *of = vec![workload; *workloads];
                Arc::new(snapshot)
            }))
        }

        async fn entries(&self, _: &EnvironmentId) -> Result<Vec<EntryMeta>, String> {
            unreachable!("nothing is missing")
        }
    }

    #[test]
    fn a_digest_holds_no_more_than_fits_into_memory_and_one_snapshot_at_least() {
        let spec = NotificationSettingSpec {
            slack: Some(Slack::default()),
            ..NotificationSettingSpec::default()
        };
        let subscription = Arc::new(Subscription::of(&spec, 1));
        for (log, gathered) in [
            (vec![1; 500], DIGEST_MAX),
            (vec![100; 20], 20),
            (vec![2_000; 20], 4),
            (vec![100_000, 1, 1], 1),
            (vec![1, 100_000, 1], 2),
        ] {
            let search = Search {
                subscription: subscription.clone(),
                cursor: Cursor::default(),
                head: i64::try_from(log.len()).unwrap(),
                expired_before: None,
                deleted: false,
                replay: None,
                now: Timestamp::UNIX_EPOCH,
            };
            let log = Log(log);
            let environment = search.cursor.environment_id();
            let first = log.read(&environment, 1).now_or_never().unwrap();
            let first = first.unwrap().unwrap();
            let next = search.subscription.next_events(&first, 0).unwrap();
            let found = search.gather(&log, &first, &next).now_or_never().unwrap();
            let found = found.unwrap();
            let sizes = found.iter().map(|(snapshot, _)| decoded_size(snapshot));
            let sizes: Vec<_> = sizes.collect();
            assert_eq!(found.len(), gathered, "{sizes:?}");
        }
    }
}
