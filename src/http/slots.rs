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
    destinations: Keyed<[u8; 32], DestinationQueue>,
    hosts: Keyed<String, Semaphore>,
    per_host: usize,
    total: Arc<Semaphore>,
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendKey {
    /// The setting's namespace.
    pub namespace: Arc<str>,
    /// The setting's name.
    pub setting: Arc<str>,
}

/// Leave to send one message; given back by dropping it.
pub struct Slot {
    _host: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(per_host: usize, total: usize) -> Self {
        Self {
            destinations: Keyed::default(),
            hosts: Keyed::default(),
            per_host: per_host.max(1),
            total: Arc::new(Semaphore::new(total.max(1))),
        }
    }

    /// Waits until a message may be sent, without limit.
    pub(super) async fn wait(&self, _who: &SendKey, to: &Destination) -> Slot {
        let queue = self.destination(to);
        // Held until this message's moment is fixed: all others to this channel queue up behind, in order.
        let mut pace = match to.kind {
            DestinationKind::Slack => Some(queue.pace.lock().await),
            DestinationKind::Webhook => None,
        };
        loop {
            while let Some(left) = queue.pause() {
                sleep_until(Instant::now() + left).await;
            }
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
            if queue.pause().is_some() {
                continue;
            }
            if let Some(pace) = &mut pace {
                pace.spend(Instant::now());
            }
            return Slot {
                _host: host,
                _total: total,
            };
        }
    }

    /// How long the destination has asked everybody to wait.
    pub(super) fn pause_of(&self, to: &Destination) -> Option<Duration> {
        self.destination(to).pause()
    }

    fn destination(&self, to: &Destination) -> Arc<DestinationQueue> {
        self.destinations.get(
            to.key(),
            DestinationQueue::default,
            DestinationQueue::is_idle,
        )
    }

    /// Leaves a destination alone: it answered "too many" and said for how long.
    pub(super) fn pause(&self, to: &Destination, pause: Duration) {
        let queue = self.destination(to);
        let mut until = lock(&queue.closed_until);
        *until = (*until).max(Some(Instant::now() + pause));
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
    fn pause(&self) -> Option<Duration> {
        let until = (*lock(&self.closed_until))?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Whether a new one would be the same.
    fn is_idle(&self) -> bool {
        let paced = self.pace.try_lock().is_ok_and(|pace| pace.is_full());
        paced && self.pause().is_none()
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

    fn who() -> SendKey {
        SendKey {
            namespace: "team".into(),
            setting: "chat".into(),
        }
    }

    fn to(kind: DestinationKind, path: usize) -> Destination {
        Destination::parse(kind, &format!("https://h{path}.example/{path}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slack_channel_gets_three_messages_at_once_and_then_one_a_second() {
        let slots = Slots::new(8, 64);
        let start = Instant::now();
        let mut seconds = Vec::new();
        for _ in 0..6 {
            drop(slots.wait(&who(), &to(DestinationKind::Slack, 0)).await);
            seconds.push((Instant::now() - start).as_secs());
        }
        assert_eq!(seconds, [0, 0, 0, 1, 2, 3]);
        tokio::time::advance(Duration::from_mins(1)).await;
        let start = Instant::now();
        for _ in 0..4 {
            drop(slots.wait(&who(), &to(DestinationKind::Slack, 0)).await);
        }
        assert_eq!((Instant::now() - start).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_pace_even_when_slots_are_held_up() {
        let slots = Arc::new(Slots::new(1, 64));
        // The host's only place is taken for a minute, while messages to two of its channels queue up.
        let to = |path| {
            Destination::parse(DestinationKind::Slack, &format!("https://h.example/{path}"))
                .unwrap()
        };
        let held = slots.wait(&who(), &to(9)).await;
        let sent = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (slots, sent) = (Arc::clone(&slots), Arc::clone(&sent));
                tokio::spawn(async move {
                    drop(slots.wait(&who(), &to(n % 2)).await);
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
    async fn slots_come_in_the_order_of_asking_and_channels_do_not_wait_for_each_other() {
        let slots = Arc::new(Slots::new(8, 64));
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..12)
            .map(|n| {
                let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
                let channel = usize::from(n == 11);
                tokio::spawn(async move {
                    drop(
                        slots
                            .wait(&who(), &to(DestinationKind::Slack, channel))
                            .await,
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
        let slots = Slots::new(8, 64);
        let start = Instant::now();
        for _ in 0..1000 {
            drop(slots.wait(&who(), &to(DestinationKind::Webhook, 0)).await);
        }
        assert_eq!(Instant::now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_destination_is_left_alone_and_no_other() {
        let slots = Slots::new(8, 64);
        for kind in [DestinationKind::Webhook, DestinationKind::Slack] {
            slots.pause(&to(kind, 7), Duration::from_secs(30));
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(slots.pause_of(&to(kind, 7)), Some(Duration::from_secs(20)));
            let start = Instant::now();
            drop(slots.wait(&who(), &to(kind, 8)).await);
            assert_eq!(Instant::now(), start);
            drop(slots.wait(&who(), &to(kind, 7)).await);
            assert_eq!((Instant::now() - start).as_secs(), 20);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_are_forgotten_when_they_hold_nothing() {
        let slots = Slots::new(8, 64);
        slots.pause(&to(DestinationKind::Webhook, 0), Duration::from_hours(1));
        for n in 1..10_000 {
            drop(slots.wait(&who(), &to(DestinationKind::Webhook, n)).await);
        }
        assert!(lock(&slots.destinations.0).0.len() <= SWEEP_AT);
        assert!(lock(&slots.hosts.0).0.len() <= SWEEP_AT);
        assert!(slots.pause_of(&to(DestinationKind::Webhook, 0)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_nothing() {
        let slots = Slots::new(8, 64);
        for _ in 0..3 {
            drop(slots.wait(&who(), &to(DestinationKind::Slack, 0)).await);
        }
        for _ in 0..5 {
            let channel = to(DestinationKind::Slack, 0);
            let who = who();
            let wait = slots.wait(&who, &channel);
            assert!(
                tokio::time::timeout(Duration::from_millis(100), wait)
                    .await
                    .is_err()
            );
        }
        let start = Instant::now();
        drop(slots.wait(&who(), &to(DestinationKind::Slack, 0)).await);
        assert_eq!((Instant::now() - start).as_millis(), 500);
    }
}
