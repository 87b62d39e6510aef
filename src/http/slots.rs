#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "waits")]

//! Whose turn it is: limits on what is under way at once, and the pace of messages to one Slack channel. Waiting is
//! first come, first served, and is neither latency nor a failure.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as FairMutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::http::destination::{Destination, DestinationKind};

/// Slack takes one message a second for each incoming webhook, …
const INTERVAL: Duration = Duration::from_secs(1);
/// … and short bursts.
const BURST: u32 = 3;
/// A map is looked through for entries without use when it has grown to this many, and later each time it has doubled.
const SWEEP_AT: usize = 256;

/// The limits, shared by all who send.
pub(super) struct Slots {
    lanes: Keyed<[u8; 32], DestinationQueue>,
    hosts: Keyed<String, Semaphore>,
    per_host: usize,
    total: Arc<Semaphore>,
}

/// Leave to send one message; given back by dropping it.
pub(super) struct Slot {
    _host: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(per_host: usize, total: usize) -> Self {
        Self {
            lanes: Keyed::default(),
            hosts: Keyed::default(),
            per_host: per_host.max(1),
            total: Arc::new(Semaphore::new(total.max(1))),
        }
    }

    /// Waits for a turn. `Err` at once if the destination has asked to be left alone for so long.
    pub(super) async fn wait(&self, to: &Destination) -> Result<Slot, Duration> {
        let lane = self.lanes.get(
            to.key(),
            DestinationQueue::default,
            DestinationQueue::is_idle,
        );
        // Held until this message's moment is fixed: all others to this channel queue up behind, in order.
        let mut pace = match to.kind {
            DestinationKind::Slack => Some(lane.pace.lock().await),
            DestinationKind::Webhook => None,
        };
        lane.is_open()?;
        if let Some(pace) = &pace {
            sleep_until(pace.next()).await;
        }
        // The host's limit first, so that those who wait for a slow host take no place from others.
        let of_host = self.hosts.get(
            to.host().to_string(),
            || Semaphore::new(self.per_host),
            |_| true,
        );
        let host = acquire(of_host).await;
        let total = acquire(Arc::clone(&self.total)).await;
        // Another message may have been answered by "too many" meanwhile.
        lane.is_open()?;
        if let Some(pace) = &mut pace {
            pace.spend(Instant::now());
        }
        Ok(Slot {
            _host: host,
            _total: total,
        })
    }

    /// Leaves a destination alone: it answered "too many" and said for how long.
    pub(super) fn pause(&self, to: &Destination, pause: Duration) {
        let lane = self.lanes.get(
            to.key(),
            DestinationQueue::default,
            DestinationQueue::is_idle,
        );
        *lock(&lane.closed_until) = Some(Instant::now() + pause);
    }
}

async fn acquire(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore
        .acquire_owned()
        .await
        .expect("no semaphore here is ever closed")
}

/// What is known of one destination.
#[derive(Default)]
struct DestinationQueue {
    pace: FairMutex<Pace>,
    closed_until: Mutex<Option<Instant>>,
}

impl DestinationQueue {
    fn is_open(&self) -> Result<(), Duration> {
        let until = *lock(&self.closed_until);
        let left = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        });
        if left.is_zero() { Ok(()) } else { Err(left) }
    }

    /// Whether a new lane would be the same.
    fn is_idle(&self) -> bool {
        let paced = self.pace.try_lock().is_ok_and(|pace| pace.is_full());
        paced && self.is_open().is_ok()
    }
}

/// A bucket of [`BURST`] messages that fills by one each [`INTERVAL`], kept as the moment at which it is full again.
#[derive(Default)]
struct Pace {
    full: Option<Instant>,
}

impl Pace {
    /// When the next message may go.
    fn next(&self) -> Instant {
        let now = Instant::now();
        self.full
            .and_then(|full| full.checked_sub(INTERVAL * (BURST - 1)))
            .map_or(now, |next| next.max(now))
    }

    fn spend(&mut self, now: Instant) {
        self.full = Some(self.full.map_or(now, |full| full.max(now)) + INTERVAL);
    }

    fn is_full(&self) -> bool {
        self.full.is_none_or(|full| full <= Instant::now())
    }
}

/// A map of shared things that are made when asked for, and forgotten when nobody has them and they hold nothing.
struct Keyed<K, V>(Mutex<(HashMap<K, Arc<V>>, usize)>);

impl<K, V> Default for Keyed<K, V> {
    fn default() -> Self {
        Self(Mutex::new((HashMap::new(), SWEEP_AT)))
    }
}

impl<K: Eq + Hash, V> Keyed<K, V> {
    fn get(&self, key: K, new: impl FnOnce() -> V, is_idle: impl Fn(&V) -> bool) -> Arc<V> {
        let (map, sweep_at) = &mut *lock(&self.0);
        if map.len() >= *sweep_at {
            map.retain(|_, value| Arc::strong_count(value) > 1 || !is_idle(value));
            *sweep_at = SWEEP_AT.max(2 * map.len());
        }
        Arc::clone(map.entry(key).or_insert_with(|| Arc::new(new())))
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(kind: DestinationKind, path: usize) -> Destination {
        Destination::parse(kind, &format!("https://h{path}.example/{path}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slack_channel_gets_three_messages_at_once_and_then_one_a_second() {
        let turns = Slots::new(8, 64);
        let start = Instant::now();
        let mut seconds = Vec::new();
        for _ in 0..6 {
            drop(turns.wait(&to(DestinationKind::Slack, 0)).await.unwrap());
            seconds.push((Instant::now() - start).as_secs());
        }
        assert_eq!(seconds, [0, 0, 0, 1, 2, 3]);
        tokio::time::advance(Duration::from_mins(1)).await;
        let start = Instant::now();
        for _ in 0..4 {
            drop(turns.wait(&to(DestinationKind::Slack, 0)).await.unwrap());
        }
        assert_eq!((Instant::now() - start).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_pace_even_when_turns_are_held_up() {
        let turns = Arc::new(Slots::new(1, 64));
        // The host's only place is taken for a minute, while messages to two of its channels queue up.
        let to = |path| {
            Destination::parse(DestinationKind::Slack, &format!("https://h.example/{path}"))
                .unwrap()
        };
        let held = turns.wait(&to(9)).await.unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (turns, sent) = (Arc::clone(&turns), Arc::clone(&sent));
                tokio::spawn(async move {
                    drop(turns.wait(&to(n % 2)).await.unwrap());
                    sent.lock().unwrap().push((n % 2, Instant::now()));
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        let sent = sent.lock().unwrap();
        for channel in 0..2 {
            let times: Vec<_> = sent.iter().filter(|(of, _)| *of == channel).collect();
            assert!(times[3].1 >= times[0].1 + INTERVAL, "{times:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_of_asking_and_channels_do_not_wait_for_each_other() {
        let turns = Arc::new(Slots::new(8, 64));
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..12)
            .map(|n| {
                let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
                let channel = usize::from(n == 11);
                tokio::spawn(async move {
                    drop(
                        turns
                            .wait(&to(DestinationKind::Slack, channel))
                            .await
                            .unwrap(),
                    );
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(
            *order.lock().unwrap(),
            [0, 1, 2, 11, 3, 4, 5, 6, 7, 8, 9, 10]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn webhooks_have_no_pace() {
        let turns = Slots::new(8, 64);
        let start = Instant::now();
        for _ in 0..1000 {
            drop(turns.wait(&to(DestinationKind::Webhook, 0)).await.unwrap());
        }
        assert_eq!(Instant::now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_destination_is_left_alone_and_no_other() {
        let turns = Slots::new(8, 64);
        for kind in [DestinationKind::Webhook, DestinationKind::Slack] {
            turns.pause(&to(kind, 7), Duration::from_secs(30));
            tokio::time::advance(Duration::from_secs(10)).await;
            let left = turns.wait(&to(kind, 7)).await.err();
            assert_eq!(left, Some(Duration::from_secs(20)));
            assert!(turns.wait(&to(kind, 8)).await.is_ok());
            tokio::time::advance(Duration::from_secs(20)).await;
            assert!(turns.wait(&to(kind, 7)).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_are_forgotten_when_they_hold_nothing() {
        let turns = Slots::new(8, 64);
        turns.pause(&to(DestinationKind::Webhook, 0), Duration::from_hours(1));
        for n in 1..10_000 {
            drop(turns.wait(&to(DestinationKind::Webhook, n)).await.unwrap());
        }
        assert!(lock(&turns.lanes.0).0.len() <= SWEEP_AT);
        assert!(lock(&turns.hosts.0).0.len() <= SWEEP_AT);
        assert!(turns.wait(&to(DestinationKind::Webhook, 0)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_nothing() {
        let turns = Slots::new(8, 64);
        for _ in 0..3 {
            drop(turns.wait(&to(DestinationKind::Slack, 0)).await.unwrap());
        }
        for _ in 0..5 {
            let channel = to(DestinationKind::Slack, 0);
            let wait = turns.wait(&channel);
            assert!(
                tokio::time::timeout(Duration::from_millis(100), wait)
                    .await
                    .is_err()
            );
        }
        let start = Instant::now();
        drop(turns.wait(&to(DestinationKind::Slack, 0)).await.unwrap());
        assert_eq!((Instant::now() - start).as_millis(), 500);
    }
}
