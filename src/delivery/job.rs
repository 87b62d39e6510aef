#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! Carries the next message of one environment to one destination: finds it in the log, sends it, says what came of it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        setting::{Cursor, Gap},
        snapshot::Event,
    },
    delivery::{
        history::SkippedEntries,
        outbox::{DIGEST_AFTER, DIGEST_MAX, NextEvents, Subscription, next_item},
    },
    http::{
        destination::{Destination, DestinationKind},
        sender::{HttpSender, Outgoing, Receipt},
    },
    message::{installation::Installation, kosli, slack, unreported_gap},
    snapshot::{
        event,
        log::{self, LogError, SnapshotLog},
    },
};

/// After so many entries without anything to send the cursor is reported before more are passed.
const PASSED: usize = 256;

/// What is carried, and where.
#[derive(Clone)]
pub struct DeliveryJob {
    /// The log.
    pub logbook: SnapshotLog,
    /// The outbound client.
    pub courier: HttpSender,
    /// What each payload says of the installation.
    pub installation: Arc<Installation>,
    /// The namespace and the name of the setting.
    pub setting: (String, String),
    /// What the setting asks for.
    pub wish: Subscription,
    /// Where it wants it.
    pub destination: Destination,
    /// How far it has got.
    pub cursor: Cursor,
    /// The number of the environment's newest snapshot.
    pub head: i64,
    /// Events that are older are given up: an attempt made since has failed.
    pub expired_before: Option<Timestamp>,
}

/// What came of it.
#[derive(Debug)]
pub struct JobResult {
    /// Where the cursor stands: after what was passed over, before what was sent.
    pub cursor: Cursor,
    /// What was not sent, and why.
    pub skipped: Vec<SkippedEntries>,
    /// The message about removed snapshots if it is given up: its id, and the last of those snapshots.
    pub given_up: Option<(String, String)>,
    /// What was sent, if there was anything.
    pub sent: Result<Option<SentMessage>, LogError>,
}

/// A message that was sent.
#[derive(Debug)]
pub struct SentMessage {
    /// Where the cursor stands when it is delivered.
    pub after: Cursor,
    /// How many events it told.
    pub events: usize,
    /// The id of the first of them.
    pub id: String,
    /// The name of the snapshot that it comes from.
    pub snapshot: String,
    /// The answer.
    pub receipt: Receipt,
}

/// What is sent next.
enum NextMessage {
    /// Events of a snapshot.
    Events(Arc<EnvironmentSnapshotSpec>, NextEvents),
    /// That snapshots were removed before they could be delivered.
    Gap(Gap),
}

impl DeliveryJob {
    /// Finds the next message and sends it.
    pub async fn carry(mut self) -> JobResult {
        let mut skipped = vec![];
        let found = self.find(&mut skipped).await;
        let mut given_up = None;
        let sent = match found {
            Ok(Some(NextMessage::Events(snapshot, item))) => {
                self.send(&snapshot, item).await.map(Some)
            }
            Ok(Some(NextMessage::Gap(gap))) if self.is_expired(gap.time) => {
                self.cursor.untold = None;
                given_up = Some((self.gap_id(&gap), self.last_of(&gap)));
                Ok(None)
            }
            Ok(Some(NextMessage::Gap(gap))) => Ok(Some(self.tell(&gap).await)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        JobResult {
            cursor: self.cursor,
            skipped,
            given_up,
            sent,
        }
    }

    /// Whether what happened then is given up.
    fn is_expired(&self, time: Timestamp) -> bool {
        self.expired_before.is_some_and(|limit| time < limit)
    }

    async fn read(&self, index: i64) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, LogError> {
        self.logbook
            .read(
                &self.cursor.environment,
                &self.cursor.environment_uid,
                index,
            )
            .await
    }

    /// The next thing to send; the cursor is moved over what is not asked for.
    async fn find(
        &mut self,
        skipped: &mut Vec<SkippedEntries>,
    ) -> Result<Option<NextMessage>, LogError> {
        let mut passed = 0;
        while self.cursor.index < self.head && passed < PASSED {
            passed += 1;
            let index = self.cursor.index + 1;
            let Some(snapshot) = self.read(index).await? else {
                self.pass_hole(index, skipped).await?;
                return Ok(None); // it is told when the status knows of it
            };
            if self.cursor.untold.is_some() {
                break; // before any later event, and only now: the gap might have grown
            }
            let done = usize::try_from(self.cursor.ordinal).unwrap_or(0);
            let wanted = self.wish.count(&snapshot, done);
            if wanted > 0 && self.is_expired(snapshot.time) {
                skip(skipped, index, i64::try_from(wanted).unwrap_or(i64::MAX));
            } else if let Some(item) = next_item(&self.wish, &snapshot, done) {
                return Ok(Some(NextMessage::Events(snapshot, item)));
            }
            (self.cursor.index, self.cursor.ordinal) = (index, 0);
        }
        Ok(self.cursor.untold.clone().map(NextMessage::Gap))
    }

    /// Entries that were still to be passed are gone from the log.
    async fn pass_hole(
        &mut self,
        index: i64,
        skipped: &mut Vec<SkippedEntries>,
    ) -> Result<(), LogError> {
        let entries = self
            .logbook
            .entries(&self.cursor.environment, &self.cursor.environment_uid)
            .await?;
        let next = entries
            .iter()
            .map(|entry| entry.index)
            .find(|there| *there >= index);
        let to = next.map_or(self.head, |next| next - 1);
        if to < index {
            let odd = format!("snapshot {index} is listed but can't be read");
            return Err(LogError::Api(kube::Error::Service(odd.into())));
        }
        skipped.push(SkippedEntries {
            from: index,
            to,
            count: -1,
            reason: unreported_gap::HISTORY_TRUNCATED,
        });
        let gap = unreported_gap::widened(self.cursor.untold.as_ref(), index, to, Timestamp::now());
        self.cursor.untold = Some(gap);
        (self.cursor.index, self.cursor.ordinal) = (to, 0);
        Ok(())
    }

    async fn send(
        &self,
        snapshot: &EnvironmentSnapshotSpec,
        item: NextEvents,
    ) -> Result<SentMessage, LogError> {
        let first = item.events[0];
        let id = event::id(snapshot, first);
        let (body, plain, events, after) = match self.wish.kind {
            DestinationKind::Webhook => {
                let body = kosli::body(&self.installation, snapshot, &snapshot.events[first]);
                (
                    body,
                    None,
                    item.events.len(),
                    self.after(snapshot, item.done),
                )
            }
            DestinationKind::Slack => {
                let (message, events, after) = self.message(snapshot, item).await?;
                (
                    message.to_body(),
                    Some(slack::plain(&message)),
                    events,
                    after,
                )
            }
        };
        let receipt = self.deliver(&id, body, plain).await;
        let snapshot = log::name(&snapshot.environment, snapshot.index);
        Ok(SentMessage {
            after,
            events,
            id,
            snapshot,
            receipt,
        })
    }

    /// Makes one attempt, and another without what Slack may have refused of the message. `plain`: the message without it.
    async fn deliver(&self, id: &str, body: Vec<u8>, plain: Option<Vec<u8>>) -> Receipt {
        let outgoing = |body: Vec<u8>| Outgoing {
            id: id.to_owned(),
            body: body.into(),
            timestamp: Timestamp::now(),
        };
        let to = &self.destination;
        let receipt = self.courier.deliver(to, &outgoing(body)).await;
        match plain.filter(|_| receipt.outcome.is_payload_problem()) {
            Some(plain) => self.courier.deliver(to, &outgoing(plain)).await,
            None => receipt,
        }
    }

    /// Tells of a gap.
    async fn tell(&self, gap: &Gap) -> SentMessage {
        let Self {
            installation,
            cursor,
            ..
        } = self;
        let setting = (self.setting.0.as_str(), self.setting.1.as_str());
        let environment = &cursor.environment;
        let (body, plain) = match self.wish.kind {
            DestinationKind::Webhook => {
                let body = kosli::truncated_body(installation, environment, gap, setting);
                (body, None)
            }
            DestinationKind::Slack => {
                let message = slack::truncated(installation, environment, gap, setting);
                (message.to_body(), Some(slack::plain(&message)))
            }
        };
        let id = self.gap_id(gap);
        let receipt = self.deliver(&id, body, plain).await;
        SentMessage {
            after: Cursor {
                untold: None,
                ..cursor.clone()
            },
            events: 1,
            id,
            snapshot: self.last_of(gap),
            receipt,
        }
    }

    fn gap_id(&self, gap: &Gap) -> String {
        unreported_gap::id(&self.cursor.environment_uid, gap)
    }

    /// The name that the last of the removed snapshots had.
    fn last_of(&self, gap: &Gap) -> String {
        log::name(&self.cursor.environment, gap.to)
    }

    /// The cursor when so many events of a snapshot are done.
    fn after(&self, snapshot: &EnvironmentSnapshotSpec, done: usize) -> Cursor {
        let mut cursor = self.cursor.clone();
        if done >= snapshot.events.len() {
            (cursor.index, cursor.ordinal) = (snapshot.index, 0);
        } else {
            (cursor.index, cursor.ordinal) =
                (snapshot.index - 1, i64::try_from(done).unwrap_or(i64::MAX));
        }
        cursor
    }

    /// A message for Slack: a snapshot's; with the other parts of its cut; or, when many wait, a digest of them.
    async fn message(
        &self,
        snapshot: &EnvironmentSnapshotSpec,
        item: NextEvents,
    ) -> Result<(slack::Message, usize, Cursor), LogError> {
        let origin = &*self.installation;
        let first = &snapshot.events[item.events[0]];
        if first.type_.is_of_environment() {
            return Ok((
                slack::compliance(origin, snapshot, first),
                1,
                self.after(snapshot, item.done),
            ));
        }
        // Snapshots of which nothing is asked for are gathered, too: a digest nets all that happened meanwhile.
        let mut gathered = vec![(Arc::new(snapshot.clone()), item.events, item.done)];
        let mut index = snapshot.index;
        while index < self.head && gathered.len() < DIGEST_MAX {
            let whole = gathered
                .last()
                .is_some_and(|(snapshot, _, done)| *done == snapshot.events.len());
            index += 1;
            let Some(next) = self.read(index).await?.filter(|_| whole) else {
                break;
            };
            match next_item(&self.wish, &next, 0) {
                Some(item) if next.events[item.events[0]].type_.is_of_environment() => break,
                Some(item) => gathered.push((next, item.events, item.done)),
                None => {
                    let all = next.events.len();
                    gathered.push((next, vec![], all));
                }
            }
        }
        let digest = gathered
            .iter()
            .filter(|(_, events, _)| !events.is_empty())
            .count()
            > DIGEST_AFTER;
        if !digest {
            let cut = snapshot.cut.map(|cut| cut.first);
            let same = |other: &EnvironmentSnapshotSpec| {
                other.index == snapshot.index
                    || cut.is_some() && other.cut.map(|cut| cut.first) == cut
            };
            let end = gathered
                .iter()
                .position(|(other, ..)| !same(other))
                .unwrap_or(gathered.len());
            gathered.truncate(end);
        }
        let events_of =
            |(snapshot, events, _): &(Arc<EnvironmentSnapshotSpec>, Vec<usize>, usize)| {
                events
                    .iter()
                    .map(|at| snapshot.events[*at].clone())
                    .collect::<Vec<_>>()
            };
        let told: Vec<Vec<Event>> = gathered.iter().map(events_of).collect();
        let told: Vec<Vec<&Event>> = told.iter().map(|events| events.iter().collect()).collect();
        let parts: Vec<_> = gathered
            .iter()
            .zip(&told)
            .map(|((snapshot, ..), events)| slack::Part { snapshot, events })
            .collect();
        let message = if digest {
            slack::digest(origin, &parts)
        } else {
            slack::artifacts(origin, &parts)
        };
        let after = gathered.last().map_or_else(
            || self.cursor.clone(),
            |(snapshot, _, done)| self.after(snapshot, *done),
        );
        Ok((message, told.iter().map(Vec::len).sum(), after))
    }
}

fn skip(skipped: &mut Vec<SkippedEntries>, index: i64, count: i64) {
    const REASON: &str = "RetryExpired";
    match skipped.last_mut().filter(|last| last.reason == REASON) {
        Some(last) => {
            last.to = index;
            last.count += count;
        }
        None => skipped.push(SkippedEntries {
            from: index,
            to: index,
            count,
            reason: REASON,
        }),
    }
}
