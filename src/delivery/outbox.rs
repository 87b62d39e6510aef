//! What a setting is sent next, when, and what comes of an answer. Pure: the log, the answers and the clock are given.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::{EnvironmentSnapshotSpec, EventType, NotificationSettingSpec},
    backoff,
    http::{destination::DestinationKind, outcome::Outcome},
    time::Moment,
};

/// At most so many events of an environment are sent ahead of the cursor in the setting's status: that is the bound on
/// duplicates after a crash.
pub const WINDOW: u32 = 32;
/// At most for so long.
pub const WINDOW_TIME: Duration = Duration::from_secs(1);
/// A Slack backlog of more snapshots than this goes out as a digest.
pub const DIGEST_AFTER: usize = 5;
/// At most so many snapshots make one digest.
pub const DIGEST_MAX: usize = 200;

/// What a setting asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// What the destination understands.
    pub kind: DestinationKind,
    /// The events.
    pub types: BTreeSet<EventType>,
    /// How long to go on trying.
    pub max_age: Duration,
}

impl Subscription {
    /// What a spec asks for, with the defaults filled in.
    pub fn of(spec: &NotificationSettingSpec) -> Self {
        let most = EventType::ALL
            .into_iter()
            .filter(|type_| *type_ != EventType::ArtifactScaled);
        let types = spec
            .event_types
            .as_ref()
            .map_or_else(|| most.collect(), |types| types.iter().copied().collect());
        let max_age = spec
            .retry
            .and_then(|retry| retry.max_age)
            .map_or(Duration::from_secs(72 * 3600), |span| span.0);
        Self {
            kind: if spec.slack.is_some() {
                DestinationKind::Slack
            } else {
                DestinationKind::Webhook
            },
            types,
            max_age,
        }
    }

    /// How many events of a snapshot are asked for, the first `done` left out.
    pub fn count(&self, snapshot: &EnvironmentSnapshotSpec, done: usize) -> usize {
        snapshot
            .events
            .iter()
            .skip(done)
            .filter(|event| self.types.contains(&event.type_))
            .count()
    }
}

/// What is sent in one request: positions in a snapshot's `events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextEvents {
    /// The events that are told.
    pub events: Vec<usize>,
    /// How many of the snapshot's events are done when this is delivered.
    pub done: usize,
}

/// The next thing to send of a snapshot of which `done` events are done: an event; for Slack all events of artifacts at
/// once, while one of the environment stands alone.
pub fn next_item(
    wish: &Subscription,
    snapshot: &EnvironmentSnapshotSpec,
    done: usize,
) -> Option<NextEvents> {
    let wanted = |at: &usize| {
        snapshot
            .events
            .get(*at)
            .is_some_and(|event| wish.types.contains(&event.type_))
    };
    let first = (done..snapshot.events.len()).find(wanted)?;
    let alone =
        wish.kind == DestinationKind::Webhook || snapshot.events[first].type_.is_of_environment();
    if alone {
        return Some(NextEvents {
            events: vec![first],
            done: first + 1,
        });
    }
    let end =
        (first..snapshot.events.len()).find(|at| snapshot.events[*at].type_.is_of_environment());
    let end = end.unwrap_or(snapshot.events.len());
    Some(NextEvents {
        events: (first..end).filter(wanted).collect(),
        done: end,
    })
}

/// Where a cursor starts that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorStart {
    /// At the newest snapshot that is older than the setting, else at the baseline.
    AtAge,
    /// At the baseline: the environment is new, and this setting was there before it.
    AtBaseline,
    /// At the newest snapshot: what happened before is no news.
    AtHead,
}

/// Where a missing cursor starts. `observed`: the generation of the setting that was handled last, if any was.
pub fn start(observed: Option<i64>, generation: i64, environment_generation: i64) -> CursorStart {
    match observed {
        None => CursorStart::AtAge,
        Some(observed) if observed == generation && environment_generation == 1 => {
            CursorStart::AtBaseline
        }
        Some(_) => CursorStart::AtHead,
    }
}

/// Whether a snapshot was there before a setting: by the second of their creation; within one second by the order in
/// which they were written.
pub fn is_older(snapshot: (i64, u64), setting: (i64, u64)) -> bool {
    snapshot.0 < setting.0 || snapshot.0 == setting.0 && snapshot.1 < setting.1
}

/// How a setting's deliveries go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryState {
    /// Failures in a row.
    pub attempts: u32,
    /// Nothing is sent before this.
    until: Option<Moment>,
    /// When the last failure was told.
    failed: Option<Moment>,
    /// What failed.
    pub trouble: Option<DeliveryProblem>,
}

/// Why nothing is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryProblem {
    /// One word of a closed list.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// No attempt is made until the Secret or the spec changes.
    pub gone: bool,
}

impl RetryState {
    /// That of a setting whose status tells of trouble: after a start one attempt comes first.
    pub fn resumed(trouble: Option<DeliveryProblem>, attempts: u32) -> Self {
        let attempts = if trouble.is_some() { attempts } else { 0 };
        Self {
            attempts,
            trouble,
            ..Self::default()
        }
    }

    /// Whether a request may be sent now; `Err`: when next, if ever by itself.
    pub fn may_send(&self, now: Moment) -> Result<(), Option<Moment>> {
        match (&self.trouble, self.until) {
            (Some(trouble), _) if trouble.gone => Err(None),
            (_, Some(until)) if until > now => Err(Some(until)),
            _ => Ok(()),
        }
    }

    /// When the next attempt is made, while attempts fail.
    pub fn next_attempt(&self) -> Option<Moment> {
        self.until
            .filter(|_| self.trouble.as_ref().is_some_and(|trouble| !trouble.gone))
    }

    /// What comes of an answer to a request that began at `began`. `seed` spreads the attempts of different settings.
    ///
    /// Requests of several environments are under way at once. Those that began before a failure was told fail along
    /// with it and count as one, and their success says nothing of what came after.
    pub fn after(&mut self, verdict: &Outcome, seed: u64, began: Moment, now: Moment) {
        let along = self.trouble.is_some() && self.failed.is_some_and(|failed| began < failed);
        let attempts = if along {
            self.attempts
        } else {
            self.attempts.saturating_add(1)
        };
        let (wait, gone) = match verdict {
            Outcome::Delivered | Outcome::Refused { .. } => {
                if !along {
                    *self = Self::default();
                }
                return;
            }
            Outcome::Retry { after, .. } => (
                backoff::obeying(backoff::delay(attempts, seed), *after, seed),
                false,
            ),
            Outcome::Hold { .. } => (backoff::slow_delay(attempts, seed), false),
            Outcome::Gone { .. } => (Duration::ZERO, true),
        };
        if along && self.trouble.as_ref().is_some_and(|trouble| trouble.gone) {
            return;
        }
        let reason = verdict
            .reason()
            .map_or("", crate::http::outcome::Reason::as_str);
        let message = verdict.message().to_owned();
        let until = now + wait;
        *self = Self {
            attempts,
            until: Some(if along {
                self.until.unwrap_or_default().max(until)
            } else {
                until
            }),
            failed: Some(now),
            trouble: Some(DeliveryProblem {
                reason,
                message,
                gone,
            }),
        };
    }

    /// The spec or the Secret changed, or the setting is resumed: one attempt comes first.
    pub fn retry_now(&mut self) {
        self.until = None;
        if let Some(trouble) = &mut self.trouble {
            trouble.gone = false;
        }
    }
}

/// What waits in one environment, as far as it was counted: counting goes on where it ended.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    counted: i64,
    /// The entries that hold something that is asked for: number, events, time.
    entries: VecDeque<(i64, usize, Timestamp)>,
}

impl Backlog {
    /// All entries up to this one are done.
    pub fn pass(&mut self, index: i64) {
        while self.entries.front().is_some_and(|(at, ..)| *at <= index) {
            self.entries.pop_front();
        }
        if self.counted < index {
            self.counted = index;
        }
    }

    /// The number of the entry that is counted next.
    pub fn next(&self, head: i64) -> Option<i64> {
        (self.counted < head).then_some(self.counted + 1)
    }

    /// The next entry holds so many events that are asked for.
    pub fn put(&mut self, index: i64, events: usize, time: Timestamp) {
        self.counted = index;
        if events > 0 {
            self.entries.push_back((index, events, time));
        }
    }

    /// How many events wait, and since when the first of them. `told`: the first entry's number, and how many of its
    /// events are done.
    pub fn sum(&self, told: (i64, usize)) -> (usize, Option<Timestamp>) {
        let left = self.entries.iter().map(|(index, events, time)| {
            let done = if *index == told.0 { told.1 } else { 0 };
            (events.saturating_sub(done), *time)
        });
        let left = left.filter(|(events, _)| *events > 0);
        left.fold(
            (0, None),
            |(sum, oldest): (usize, Option<Timestamp>), (events, time)| {
                let oldest = oldest.map_or(time, |oldest| oldest.min(time));
                (sum + events, Some(oldest))
            },
        )
    }
}

/// How far sending is ahead of the cursor in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckWindow {
    /// Events since.
    events: u32,
    /// Since when.
    since: Option<Moment>,
}

impl AckWindow {
    /// Whether another event may be sent before the cursor is written.
    pub fn may_send(&self, now: Moment) -> bool {
        self.events < WINDOW && self.since.is_none_or(|since| now < since + WINDOW_TIME)
    }

    /// Whether the cursor has to be written before more can be sent.
    pub fn is_full(&self) -> bool {
        self.events >= WINDOW
    }

    /// Whether anything was sent that the cursor doesn't know of.
    pub fn any(&self) -> bool {
        self.events > 0
    }

    /// So many events have been sent.
    pub fn sent(&mut self, events: usize, now: Moment) {
        self.events = self
            .events
            .saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        self.since.get_or_insert(now);
    }

    /// The cursor has been written as it was when so many of them had been sent.
    pub fn written(&mut self, counted: Self, now: Moment) {
        self.events -= counted.events.min(self.events);
        self.since = (self.events > 0).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::outcome::Reason, simulation::testing};

    fn wish(kind: DestinationKind) -> Subscription {
        Subscription {
            kind,
            types: EventType::ALL.into(),
            max_age: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_webhook_is_told_one_event_at_a_time_and_slack_all_of_a_snapshot() {
        let mut snapshot = testing::snapshot(2, &[("a", 0, 1), ("b", 1, 0), ("c", 1, 3)]);
        snapshot.events.push(crate::api::snapshot::Event {
            type_: EventType::EnvironmentNonCompliant,
            change: None,
        });
        let all = |wish: &Subscription| {
            let mut done = 0;
            let mut items = vec![];
            while let Some(item) = next_item(wish, &snapshot, done) {
                done = item.done;
                items.push(item.events);
            }
            items
        };
        assert_eq!(all(&wish(DestinationKind::Webhook)), [[0], [1], [2], [3]]);
        assert_eq!(all(&wish(DestinationKind::Slack)), [vec![0, 1, 2], vec![3]]);
        let no_scaling = Subscription {
            types: [EventType::ArtifactStarted, EventType::ArtifactStopped].into(),
            ..wish(DestinationKind::Slack)
        };
        assert_eq!(all(&no_scaling), [vec![0, 1]]);
        assert_eq!(no_scaling.count(&snapshot, 1), 1);
        assert_eq!(
            next_item(&wish(DestinationKind::Webhook), &snapshot, 4),
            None
        );
    }

    #[test]
    fn a_setting_that_says_nothing_hears_of_all_but_scaling() {
        let spec = NotificationSettingSpec {
            slack: Some(crate::api::setting::Slack::default()),
            ..NotificationSettingSpec::default()
        };
        let wish = Subscription::of(&spec);
        assert_eq!(wish.kind, DestinationKind::Slack);
        assert_eq!(wish.types.len(), 5);
        assert!(!wish.types.contains(&EventType::ArtifactScaled));
        assert_eq!(wish.max_age, Duration::from_secs(72 * 3600));
    }

    #[test]
    fn a_missing_cursor_starts_where_nothing_old_is_sent_and_nothing_new_is_lost() {
        assert_eq!(start(None, 1, 4), CursorStart::AtAge, "never handled");
        assert_eq!(
            start(Some(3), 3, 1),
            CursorStart::AtBaseline,
            "a new environment"
        );
        assert_eq!(
            start(Some(3), 3, 2),
            CursorStart::AtHead,
            "an environment that became visible"
        );
        assert_eq!(
            start(Some(2), 3, 1),
            CursorStart::AtHead,
            "an environment that was added to the setting"
        );
        assert!(is_older((9, 50), (10, 40)));
        assert!(is_older((10, 39), (10, 40)));
        assert!(!is_older((10, 41), (10, 40)));
        assert!(!is_older((11, 1), (10, 40)));
    }

    #[test]
    fn failures_pause_a_setting_longer_and_longer_and_a_success_ends_that() {
        let at = Moment::from_secs;
        let mut pulse = RetryState::default();
        assert_eq!(pulse.may_send(at(0)), Ok(()));
        let fail = Outcome::Retry {
            after: None,
            reason: Reason::ServerError,
            message: "the server is in trouble".to_owned(),
        };
        let mut last = Duration::ZERO;
        for attempt in 1..=6 {
            pulse.after(&fail, 7, at(attempt), at(attempt));
            let until = pulse.may_send(at(attempt)).unwrap_err().unwrap();
            let wait = until.saturating_sub(at(attempt));
            assert!(wait > last, "attempt {attempt}");
            last = wait;
        }
        assert_eq!(pulse.attempts, 6);
        let then = at(6) + last;
        assert_eq!(pulse.may_send(then), Ok(()));
        pulse.after(&Outcome::Delivered, 7, then, then);
        assert_eq!(pulse, RetryState::default());
    }

    #[test]
    fn what_was_under_way_when_one_failed_counts_with_it() {
        let at = Moment::from_secs;
        let fail = |after: Option<u64>| Outcome::Retry {
            after: after.map(Duration::from_secs),
            reason: Reason::ServerError,
            message: "the server is in trouble".to_owned(),
        };
        let mut pulse = RetryState::default();
        pulse.after(&fail(None), 7, at(0), at(10));
        let one = pulse.clone();
        pulse.after(&fail(None), 7, at(1), at(10));
        assert_eq!(pulse, one, "the same failure");
        pulse.after(&Outcome::Delivered, 7, at(1), at(10));
        assert_eq!(pulse, one, "an answer to an older request");
        pulse.after(&fail(Some(60)), 7, at(1), at(11));
        assert_eq!(pulse.attempts, 1);
        assert!(pulse.may_send(at(70)).is_err(), "the longer pause counts");
        pulse.after(&fail(None), 7, at(90), at(91));
        assert_eq!(pulse.attempts, 2);
        pulse.after(&Outcome::Delivered, 7, at(99), at(99));
        assert_eq!(pulse, RetryState::default());
    }

    #[test]
    fn what_waits_is_counted_once_and_forgotten_when_it_is_done() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut backlog = Backlog::default();
        backlog.pass(4);
        assert_eq!((backlog.next(4), backlog.next(5)), (None, Some(5)));
        backlog.put(5, 3, at(50));
        backlog.put(6, 0, at(60));
        backlog.put(7, 1, at(70));
        assert_eq!(backlog.next(8), Some(8));
        assert_eq!(backlog.sum((5, 0)), (4, Some(at(50))));
        assert_eq!(backlog.sum((5, 2)), (2, Some(at(50))));
        assert_eq!(backlog.sum((5, 3)), (1, Some(at(70))));
        backlog.pass(5);
        assert_eq!(backlog.sum((6, 0)), (1, Some(at(70))));
        backlog.pass(9);
        assert_eq!(backlog.sum((10, 0)), (0, None));
        assert_eq!(backlog.next(9), None);
    }

    #[test]
    fn a_destination_that_is_gone_is_left_alone_until_it_changes() {
        let mut pulse = RetryState::default();
        pulse.after(
            &Outcome::Gone {
                message: "gone".to_owned(),
            },
            7,
            Moment::ZERO,
            Moment::ZERO,
        );
        assert_eq!(pulse.may_send(Moment::from_secs(1_000_000)), Err(None));
        pulse.retry_now();
        assert_eq!(pulse.may_send(Moment::ZERO), Ok(()));
        assert_eq!(
            pulse.trouble.unwrap().reason,
            "Gone",
            "until an attempt says otherwise"
        );
    }

    #[test]
    fn sending_is_never_far_ahead_of_the_cursor() {
        let mut ahead = AckWindow::default();
        for _ in 0..WINDOW {
            assert!(ahead.may_send(Moment::ZERO));
            ahead.sent(1, Moment::ZERO);
        }
        assert!(!ahead.may_send(Moment::ZERO));
        assert!(ahead.is_full());
        let counted = ahead;
        ahead.written(counted, Moment::ZERO);
        assert!(!ahead.any() && ahead.may_send(Moment::ZERO));
        ahead.sent(1, Moment::ZERO);
        assert!(
            !ahead.may_send(Moment::ZERO + WINDOW_TIME),
            "however few they are"
        );
    }
}
