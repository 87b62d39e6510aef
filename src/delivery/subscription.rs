//! What a setting asks for: the events, of which environments, in which form, and for how long to try.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{EnvironmentSnapshotSpec, EventType, NotificationSettingSpec},
    delivery::pending::CountedEntry,
    http::destination::DestinationKind,
};

/// How long an event is tried unless the spec says otherwise.
const MAX_AGE: Duration = Duration::from_secs(72 * 3600);

/// What one generation of a spec asks for, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// The generation of the spec that asks for it.
    pub generation: i64,
    /// The environments that it names; `None`: all that its namespace may see.
    pub environments: Option<Arc<Vec<String>>>,
    pub types: BTreeSet<EventType>,
    /// What the destination understands.
    pub kind: DestinationKind,
    pub suspended: bool,
    /// How long to go on trying to deliver an event.
    pub max_age: Duration,
}

impl Subscription {
    pub fn of(spec: &NotificationSettingSpec, generation: i64) -> Self {
        let all_but_scaled = || {
            let types = EventType::ALL.into_iter();
            types
                .filter(|type_| *type_ != EventType::ArtifactScaled)
                .collect()
        };
        Self {
            generation,
            environments: spec.environments.clone().map(Arc::new),
            types: spec
                .event_types
                .as_ref()
                .map_or_else(all_but_scaled, |types| types.iter().copied().collect()),
            kind: if spec.slack.is_some() {
                DestinationKind::Slack
            } else {
                DestinationKind::Webhook
            },
            suspended: spec.suspend == Some(true),
            max_age: spec
                .retry
                .and_then(|retry| retry.max_age)
                .map_or(MAX_AGE, |span| span.0),
        }
    }

    /// How many events of a snapshot are asked for, the first `done` left out.
    pub fn count(&self, snapshot: &EnvironmentSnapshotSpec, done: usize) -> usize {
        let events = snapshot.events.iter().skip(done);
        events
            .filter(|event| self.types.contains(&event.type_))
            .count()
    }

    /// Which events of an entry of the log are asked for; none of one that was removed.
    pub fn count_entry(
        &self,
        index: i64,
        snapshot: Option<&EnvironmentSnapshotSpec>,
    ) -> CountedEntry {
        let events = snapshot.map_or(&[][..], |snapshot| &snapshot.events);
        let wanted = events.iter().enumerate();
        let wanted = wanted.filter(|(_, event)| self.types.contains(&event.type_));
        CountedEntry {
            index,
            positions: wanted.map(|(at, _)| at).collect(),
            time: snapshot.map_or(Timestamp::UNIX_EPOCH, |snapshot| snapshot.time),
        }
    }

    /// The next events to send of a snapshot of which `done` events are done: one event for a webhook; for Slack all
    /// artifact events at once, while an event of the environment stands alone.
    pub fn next_events(
        &self,
        snapshot: &EnvironmentSnapshotSpec,
        done: usize,
    ) -> Option<NextEvents> {
        let events = &snapshot.events;
        let wanted = |at: &usize| self.types.contains(&events[*at].type_);
        let of_environment = |at: &usize| events[*at].type_.is_of_environment();
        let first = (done..events.len()).find(wanted)?;
        if self.kind == DestinationKind::Webhook || of_environment(&first) {
            return Some(NextEvents {
                positions: vec![first],
                done: first + 1,
            });
        }
        let end = (first..events.len())
            .find(of_environment)
            .unwrap_or(events.len());
        Some(NextEvents {
            positions: (first..end).filter(wanted).collect(),
            done: end,
        })
    }
}

/// Events of one snapshot that are sent in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NextEvents {
    /// Positions in the snapshot's `events`.
    pub positions: Vec<usize>,
    /// How many of the snapshot's events are done when the message is delivered.
    pub done: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::testing;

    fn subscription(kind: DestinationKind) -> Subscription {
        Subscription {
            generation: 1,
            environments: None,
            types: EventType::ALL.into(),
            kind,
            suspended: false,
            max_age: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_webhook_gets_one_event_at_a_time_and_slack_all_artifact_events_of_a_snapshot() {
        let mut snapshot = testing::snapshot(2, &[("a", 0, 1), ("b", 1, 0), ("c", 1, 3)]);
        snapshot.events.push(crate::api::snapshot::Event {
            type_: EventType::EnvironmentNonCompliant,
            change: None,
        });
        let all = |subscription: &Subscription| {
            let mut done = 0;
            let mut messages = vec![];
            while let Some(next) = subscription.next_events(&snapshot, done) {
                done = next.done;
                messages.push(next.positions);
            }
            messages
        };
        let webhook = subscription(DestinationKind::Webhook);
        assert_eq!(all(&webhook), [[0], [1], [2], [3]]);
        let slack = subscription(DestinationKind::Slack);
        assert_eq!(all(&slack), [vec![0, 1, 2], vec![3]]);
        let no_scaling = Subscription {
            types: [EventType::ArtifactStarted, EventType::ArtifactStopped].into(),
            ..slack
        };
        assert_eq!(all(&no_scaling), [vec![0, 1]]);
        assert_eq!(no_scaling.count(&snapshot, 1), 1);
        assert_eq!(webhook.next_events(&snapshot, 4), None);
    }

    #[test]
    fn a_setting_that_names_no_event_types_gets_all_but_scaling() {
        let spec = NotificationSettingSpec {
            slack: Some(crate::api::notification_setting::Slack::default()),
            ..NotificationSettingSpec::default()
        };
        let subscription = Subscription::of(&spec, 3);
        assert_eq!(subscription.kind, DestinationKind::Slack);
        assert_eq!(subscription.types.len(), 5);
        assert!(!subscription.types.contains(&EventType::ArtifactScaled));
        assert_eq!(subscription.max_age, Duration::from_secs(72 * 3600));
        assert_eq!(subscription.generation, 3);
    }
}
