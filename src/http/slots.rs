#![expect(clippy::disallowed_methods, reason = "waits")]

//! Waits for what the schedule decides. Waiting is neither latency nor a failure.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    http::{
        destination::{Destination, DestinationKind},
        turns::{Limits, Schedule, SendKey, Ticket},
    },
    time::Moment,
};

/// The schedule, shared by all who send.
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    schedule: Schedule,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
    /// Starts what may start by the passing of time alone, and when.
    clock: Option<(Moment, AbortOnDropHandle<()>)>,
}

/// The permission to send a message, or a place among those that wait for one; given up by dropping it.
pub struct Slot {
    shared: Arc<Shared>,
    who: SendKey,
    ticket: Ticket,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            state: Mutex::new(State {
                schedule: Schedule::new(limits),
                waiting: BTreeMap::new(),
                clock: None,
            }),
        }))
    }

    /// Waits until a message may be sent, without limit.
    pub(super) async fn wait(&self, who: &SendKey, to: &Destination) -> Slot {
        let (slot, started) = {
            let now = self.0.now();
            let mut state = self.0.state();
            let ticket = state.schedule.wait(who, to.key(), is_paced(to), now);
            let (start, started) = oneshot::channel();
            state.waiting.insert(ticket, start);
            self.0.start(&mut state, now);
            let (shared, who) = (Arc::clone(&self.0), who.clone());
            let slot = Slot {
                shared,
                who,
                ticket,
            };
            (slot, started)
        };
        // The sender is in the map until it is used, or until `slot` is dropped.
        let _ = started.await;
        slot
    }

    /// Lets everybody wait: the destination answered "too many" and said for how long.
    pub(super) fn pause(&self, to: &Destination, pause: Duration) {
        let now = self.0.now();
        let mut state = self.0.state();
        state
            .schedule
            .pause(to.key(), is_paced(to), now + pause, now);
        self.0.start(&mut state, now);
    }
}

/// Only Slack asks for a pace: one message a second for each incoming webhook.
fn is_paced(to: &Destination) -> bool {
    to.kind == DestinationKind::Slack
}

impl Slot {
    /// Who was given it.
    pub(super) fn who(&self) -> &SendKey {
        &self.who
    }

    /// Counts an attempt.
    pub(super) fn sent(&self) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        state.schedule.sent(self.ticket, now);
        self.shared.start(&mut state, now);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        state.waiting.remove(&self.ticket);
        state.schedule.end(self.ticket, now);
        self.shared.start(&mut state, now);
    }
}

impl Shared {
    fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts all that may start, and sees to it that what opens later starts then.
    fn start(self: &Arc<Self>, state: &mut State, now: Moment) {
        for ticket in state.schedule.start(now) {
            if let Some(start) = state.waiting.remove(&ticket) {
                // Whoever waits no longer drops its place, which ends what was started here.
                let _ = start.send(());
            }
        }
        let Some(next) = state.schedule.next_change() else {
            return;
        };
        if let Some((at, clock)) = &state.clock
            && *at <= next
            && !clock.is_finished()
        {
            return;
        }
        // When a runtime ends, its clock does, and slots are dropped outside of any.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (shared, at) = (Arc::downgrade(self), self.start + next.since_start());
        let clock = runtime.spawn(async move {
            sleep_until(at).await;
            if let Some(shared) = shared.upgrade() {
                let now = shared.now();
                let mut state = shared.state();
                if state.clock.take_if(|(at, _)| *at == next).is_some() {
                    shared.start(&mut state, now);
                }
            }
        });
        state.clock = Some((next, AbortOnDropHandle::new(clock)));
    }
}

#[cfg(test)]
impl Slots {
    /// How long the destination has asked everybody to wait.
    pub(super) fn pause_of(&self, to: &Destination) -> Option<Duration> {
        self.0.state().schedule.pause_of(to.key(), self.0.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        per_destination: 8,
        per_setting: 8,
        per_namespace: 64,
        total: 64,
    };

    fn slots() -> Slots {
        Slots::new(LIMITS)
    }

    fn who() -> SendKey {
        SendKey {
            namespace: "team".into(),
            setting: "chat".into(),
        }
    }

    /// Waits for a slot, uses it and gives it back.
    async fn send(slots: &Slots, to: &Destination) {
        slots.wait(&who(), to).await.sent();
    }

    fn to(kind: DestinationKind, path: usize) -> Destination {
        Destination::parse(kind, &format!("https://h{path}.example/{path}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slack_channel_gets_three_messages_at_once_and_then_one_a_second() {
        let slots = slots();
        let start = Instant::now();
        let mut seconds = Vec::new();
        for _ in 0..6 {
            send(&slots, &to(DestinationKind::Slack, 0)).await;
            seconds.push((Instant::now() - start).as_secs());
        }
        assert_eq!(seconds, [0, 0, 0, 1, 2, 3]);
        tokio::time::advance(Duration::from_mins(1)).await;
        let start = Instant::now();
        for _ in 0..4 {
            send(&slots, &to(DestinationKind::Slack, 0)).await;
        }
        assert_eq!((Instant::now() - start).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_pace_even_when_slots_are_held_up() {
        // The only slot is taken, while messages to two channels queue up.
        let slots = Arc::new(Slots::new(Limits { total: 2, ..LIMITS }));
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
                    send(&slots, &to(n % 2)).await;
                    sent.lock().unwrap().push((n % 2, Instant::now()));
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(sent.lock().unwrap().is_empty());
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        let sent = sent.lock().unwrap();
        for channel in 0..2 {
            let times: Vec<_> = sent.iter().filter(|(of, _)| *of == channel).collect();
            assert!(
                times[3].1 >= times[0].1 + Duration::from_secs(1),
                "{times:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_come_in_the_order_of_asking_and_channels_do_not_wait_for_each_other() {
        let slots = Arc::new(slots());
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..12)
            .map(|n| {
                let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
                let channel = usize::from(n == 11);
                tokio::spawn(async move {
                    send(&slots, &to(DestinationKind::Slack, channel)).await;
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
    async fn a_thousand_healthy_settings_feel_nothing_of_a_hundred_that_hang() {
        async fn send(slots: &Slots, namespace: &str, n: usize, time: Duration) -> Duration {
            let who = SendKey {
                namespace: namespace.into(),
                setting: n.to_string().into(),
            };
            let url = format!("https://hooks.example/{n}");
            let to = Destination::parse(DestinationKind::Webhook, &url).unwrap();
            let asked = Instant::now();
            let slot = slots.wait(&who, &to).await;
            slot.sent();
            let waited = asked.elapsed();
            tokio::time::sleep(time).await;
            waited
        }
        let slots = Arc::new(Slots::new(Limits {
            per_destination: 8,
            per_setting: 8,
            per_namespace: 128,
            total: 512,
        }));
        // Half of the bad ones are in one namespace, the others where healthy ones are; each has eight messages under
        // way if it may, all the time, and takes the whole timeout or is just within it.
        let mut bad = tokio::task::JoinSet::new();
        for n in 0..800 {
            let slots = Arc::clone(&slots);
            bad.spawn(async move {
                let namespace = match n % 100 {
                    ..50 => "hostile".to_owned(),
                    n => format!("team-{n}"),
                };
                let time = Duration::from_secs(14 + n as u64 % 2);
                loop {
                    send(&slots, &namespace, n % 100, time).await;
                }
            });
        }
        let mut healthy = tokio::task::JoinSet::new();
        for n in 0..1000 {
            let slots = Arc::clone(&slots);
            healthy.spawn(async move {
                let namespace = match n % 10 {
                    0 => "hostile".to_owned(),
                    _ => format!("team-{}", n % 100),
                };
                let mut waited = Vec::new();
                for _ in 0..8 {
                    let time = Duration::from_millis(50);
                    waited.push(send(&slots, &namespace, 1000 + n, time).await);
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                waited
            });
        }
        let mut waited: Vec<_> = healthy.join_all().await.into_iter().flatten().collect();
        waited.sort_unstable();
        let (p99, most) = (waited[waited.len() * 99 / 100], waited[waited.len() - 1]);
        assert!(p99 < Duration::from_secs(1), "p99 {p99:?}, most {most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn webhooks_have_no_pace() {
        let slots = slots();
        let start = Instant::now();
        for _ in 0..1000 {
            send(&slots, &to(DestinationKind::Webhook, 0)).await;
        }
        assert_eq!(Instant::now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_destination_is_left_alone_and_no_other() {
        let slots = slots();
        for kind in [DestinationKind::Webhook, DestinationKind::Slack] {
            slots.pause(&to(kind, 7), Duration::from_secs(30));
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(slots.pause_of(&to(kind, 7)), Some(Duration::from_secs(20)));
            let start = Instant::now();
            send(&slots, &to(kind, 8)).await;
            assert_eq!(Instant::now(), start);
            send(&slots, &to(kind, 7)).await;
            assert_eq!((Instant::now() - start).as_secs(), 20);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_are_forgotten_when_they_hold_nothing() {
        let slots = slots();
        slots.pause(&to(DestinationKind::Webhook, 0), Duration::from_hours(1));
        for n in 1..10_000 {
            send(&slots, &to(DestinationKind::Webhook, n)).await;
        }
        assert!(slots.0.state().schedule.is_forgetful());
        assert!(slots.pause_of(&to(DestinationKind::Webhook, 0)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_makes_room_without_anything_else_happening() {
        let slots = Slots::new(Limits { total: 2, ..LIMITS });
        let held = slots.wait(&who(), &to(DestinationKind::Webhook, 0)).await;
        held.sent();
        let start = Instant::now();
        send(&slots, &to(DestinationKind::Webhook, 1)).await;
        assert_eq!((Instant::now() - start).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_comes_while_a_message_waits_for_room_is_waited_for() {
        let slots = Slots::new(LIMITS);
        let first = slots.wait(&who(), &to(DestinationKind::Webhook, 0)).await;
        first.sent();
        let start = Instant::now();
        let second = to(DestinationKind::Webhook, 0);
        let second = send(&slots, &second);
        let answered = async {
            slots.pause(&to(DestinationKind::Webhook, 0), Duration::from_secs(30));
            drop(first);
        };
        futures::join!(second, answered);
        assert_eq!((Instant::now() - start).as_secs(), 30);
    }

    #[test]
    fn slots_outlive_the_runtime_that_they_were_waited_for_on() {
        let slots = slots();
        let channel = to(DestinationKind::Slack, 0);
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap()
        };
        let first = runtime();
        let kept = first.block_on(async {
            for _ in 0..3 {
                send(&slots, &channel).await;
            }
            let who = who();
            let waiting = slots.wait(&who, &channel);
            assert!(futures::poll!(Box::pin(waiting)).is_pending());
            slots.wait(&who, &to(DestinationKind::Webhook, 0)).await
        });
        drop(first);
        drop(kept);
        runtime().block_on(send(&slots, &channel));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_nothing() {
        let slots = slots();
        for _ in 0..3 {
            send(&slots, &to(DestinationKind::Slack, 0)).await;
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
        send(&slots, &to(DestinationKind::Slack, 0)).await;
        assert_eq!((Instant::now() - start).as_millis(), 500);
    }
}
