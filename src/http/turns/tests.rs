use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    per_destination: 3,
    per_setting: 2,
    per_namespace: 6,
    total: 10,
};

fn who(namespace: &str, setting: usize) -> SendKey {
    SendKey {
        namespace: namespace.into(),
        setting: setting.to_string().into(),
    }
}

fn url(number: usize) -> DestinationKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A schedule with a clock that the test moves.
struct Test {
    schedule: Schedule,
    now: Moment,
}

impl Test {
    fn new(limits: Limits) -> Self {
        Self {
            schedule: Schedule::new(limits),
            now: Moment::from_secs(1000),
        }
    }

    fn wait(&mut self, namespace: &str, setting: usize, to: usize) -> Ticket {
        self.schedule
            .wait(&who(namespace, setting), url(to), false, self.now)
    }

    fn start(&mut self) -> Vec<Ticket> {
        self.schedule.start(self.now)
    }

    /// Starts what may start and sends it.
    fn send(&mut self) -> Vec<Ticket> {
        let started = self.start();
        for ticket in &started {
            self.schedule.sent(*ticket, self.now);
        }
        started
    }

    fn end(&mut self, ticket: Ticket) {
        self.schedule.end(ticket, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn namespaces_are_served_in_turn_however_many_settings_they_have() {
    let mut test = Test::new(Limits { total: 2, ..LIMITS });
    let hostile: Vec<_> = (0..100).map(|n| test.wait("hostile", n, n)).collect();
    let healthy: Vec<_> = (0..3).map(|n| test.wait("healthy", n, 1000 + n)).collect();
    let mut order = Vec::new();
    for _ in 0..7 {
        for ticket in test.send() {
            order.push(ticket);
            test.end(ticket);
        }
    }
    let expected = [
        hostile[0], healthy[0], hostile[1], healthy[1], hostile[2], healthy[2], hostile[3],
    ];
    assert_eq!(order, expected);
}

#[test]
fn within_a_namespace_destinations_and_settings_are_served_in_turn() {
    let mut test = Test::new(Limits { total: 2, ..LIMITS });
    let tickets = [(0, 0), (0, 0), (1, 0), (2, 9), (2, 9)]
        .map(|(setting, to)| test.wait("team", setting, to));
    let mut order = Vec::new();
    for _ in 0..5 {
        for ticket in test.send() {
            order.push(ticket);
            test.end(ticket);
        }
    }
    assert_eq!(order, [0, 3, 2, 4, 1].map(|n| tickets[n]));
}

#[test]
fn messages_of_a_setting_start_in_their_order() {
    let mut test = Test::new(LIMITS);
    let tickets: Vec<_> = (0..20).map(|_| test.wait("team", 0, 0)).collect();
    let mut order = Vec::new();
    while order.len() < tickets.len() {
        for ticket in test.send() {
            order.push(ticket);
            test.end(ticket);
        }
    }
    assert_eq!(order, tickets);
}

#[test]
fn a_destination_has_one_slot_at_first_and_more_with_each_quick_answer() {
    let limits = Limits {
        per_setting: 8,
        per_destination: 4,
        per_namespace: 100,
        total: 100,
    };
    let mut test = Test::new(limits);
    for _ in 0..100 {
        test.wait("team", 0, 0);
    }
    let mut counts = Vec::new();
    for _ in 0..6 {
        let started = test.send();
        counts.push(started.len());
        for ticket in started {
            test.end(ticket);
        }
    }
    assert_eq!(counts, [1, 2, 4, 4, 4, 4]);
    // Those that hang are noticed while they hang.
    let hanging = test.send();
    test.pass(SLOW);
    assert_eq!(test.start(), []);
    for ticket in hanging {
        test.end(ticket);
    }
    assert_eq!(test.send().len(), 1);
}

#[test]
fn destinations_that_hang_leave_half_of_the_slots_to_quick_ones() {
    let limits = Limits {
        total: 40,
        per_namespace: 20,
        ..LIMITS
    };
    let mut test = Test::new(limits);
    // All in one namespace, with a healthy setting beside them, and none known before.
    let mut hanging = BTreeMap::new();
    for n in 0..100 {
        hanging.insert(test.wait("hostile", n, n), n);
    }
    let mut slow_at_most = 0;
    for _ in 0..30 {
        let started = test.send();
        test.pass(SLOW);
        test.start();
        slow_at_most = slow_at_most.max(test.schedule.active.slow);
        // A quick one starts at once, here and elsewhere, while new ones that hang come in.
        if test.schedule.active.total() < limits.per_namespace {
            for namespace in ["hostile", "healthy"] {
                let ticket = test.wait(namespace, 1000, 1000);
                assert!(test.send().contains(&ticket));
                test.end(ticket);
            }
        }
        for ticket in started {
            test.end(ticket);
            let n = hanging[&ticket];
            hanging.insert(test.wait("hostile", n, n), n);
        }
    }
    assert!(slow_at_most >= limits.per_namespace / 2);
}

#[test]
fn namespaces_that_take_what_they_can_leave_slots_to_others() {
    for hostile in [1, 3, 4, 8, 50] {
        let mut test = Test::new(Limits {
            per_destination: 8,
            per_setting: 8,
            per_namespace: 128,
            total: 512,
        });
        // A setting whose one destination was slow.
        let slow = test.wait("healthy", 0, 0);
        test.send();
        test.pass(SLOW);
        test.start();
        test.end(slow);
        // URLs that nobody has seen before and that never answer.
        for namespace in 0..hostile {
            for n in 0..300 {
                test.wait(
                    &format!("hostile {namespace}"),
                    n,
                    1_000_000 + namespace * 1_000 + n,
                );
            }
        }
        for _ in 0..5 {
            test.send();
            test.pass(SLOW);
        }
        test.send();
        assert!(test.schedule.active.total() < 512, "{hostile}");
        let waiting = [test.wait("healthy", 0, 0), test.wait("other", 0, 1)];
        let started = test.send();
        assert!(
            waiting.iter().all(|ticket| started.contains(ticket)),
            "{hostile}"
        );
    }
}

#[test]
fn a_destination_is_no_longer_slow_after_a_time_even_while_it_waits() {
    let mut test = Test::new(LIMITS);
    for n in 0..6 {
        let ticket = test.wait("team", n, n);
        test.send();
        test.pass(SLOW);
        test.end(ticket);
    }
    for n in 0..6 {
        test.wait("team", n, n);
    }
    // As slow ones they get half of the namespace's slots.
    assert_eq!(test.start().len(), 3);
    test.pass(STAYS_SLOW);
    assert_eq!(test.start().len(), 3);
}

#[test]
fn a_slot_that_was_not_used_gives_the_pace_back() {
    let mut test = Test::new(LIMITS);
    let wait = |test: &mut Test| test.schedule.wait(&who("team", 0), url(0), true, test.now);
    for _ in 0..10 {
        let ticket = wait(&mut test);
        assert_eq!(test.start(), [ticket]);
        test.end(ticket);
    }
    for _ in 0..BURST {
        let ticket = wait(&mut test);
        assert_eq!(test.send(), [ticket]);
        test.end(ticket);
    }
    let last = wait(&mut test);
    assert_eq!(test.start(), []);
    assert_eq!(test.schedule.next_change(), Some(test.now + INTERVAL));
    test.pass(INTERVAL);
    assert_eq!(test.send(), [last]);
    // A second attempt with one slot counts as well.
    test.schedule.sent(last, test.now);
    test.end(last);
    wait(&mut test);
    assert_eq!(test.start(), []);
    assert_eq!(test.schedule.next_change(), Some(test.now + 2 * INTERVAL));
}

#[test]
fn a_later_shorter_pause_does_not_shorten_a_longer_one() {
    let mut test = Test::new(LIMITS);
    let now = test.now;
    for (pause, left) in [(60, 60), (5, 60), (90, 90), (0, 90)] {
        test.schedule
            .pause(url(0), false, now + seconds(pause), now);
        let of = test.schedule.pause_of(url(0), now);
        assert_eq!(of, Some(seconds(left)));
    }
    let ticket = test.wait("team", 0, 0);
    let other = test.wait("team", 1, 1);
    assert_eq!(test.send(), [other]);
    test.pass(seconds(89));
    assert_eq!(test.start(), []);
    test.pass(seconds(1));
    assert_eq!(test.start(), [ticket]);
    assert_eq!(test.schedule.pause_of(url(0), test.now), None);
}

#[test]
fn a_url_that_gets_webhooks_too_keeps_the_pace_of_slack() {
    let mut test = Test::new(LIMITS);
    let first = test.wait("team", 0, 0);
    assert_eq!(test.send(), [first]);
    let chat: Vec<_> = (0..5)
        .map(|_| test.schedule.wait(&who("team", 1), url(0), true, test.now))
        .collect();
    test.end(first);
    let mut sent = 0;
    loop {
        let started = test.send();
        if started.is_empty() {
            break;
        }
        sent += started.len();
        for ticket in started {
            test.end(ticket);
        }
    }
    assert_eq!(sent, BURST as usize);
    assert!(sent < chat.len());
}

#[test]
fn namespaces_that_share_a_paced_destination_take_turns() {
    let mut test = Test::new(LIMITS);
    let wait = |test: &mut Test, namespace| {
        let who = who(namespace, 0);
        test.schedule.wait(&who, url(0), true, test.now)
    };
    let first: Vec<_> = (0..4).map(|_| wait(&mut test, "first")).collect();
    let second: Vec<_> = (0..4).map(|_| wait(&mut test, "second")).collect();
    let mut order = Vec::new();
    while order.len() < 8 {
        for ticket in test.send() {
            order.push(ticket);
            test.end(ticket);
        }
        test.pass(INTERVAL);
    }
    let expected: Vec<_> = first.into_iter().zip(second).collect();
    assert_eq!(
        order
            .chunks(2)
            .map(|two| (two[0], two[1]))
            .collect::<Vec<_>>(),
        expected
    );
}

#[derive(Clone, Debug)]
enum Step {
    Wait {
        namespace: usize,
        setting: usize,
        to: usize,
    },
    End(usize),
    Sent(usize),
    Pause(usize, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4usize, 0..3usize, 0..6usize)
            .prop_map(|(namespace, setting, to)| Step::Wait { namespace, setting, to }),
        4 => any::<usize>().prop_map(Step::End),
        3 => any::<usize>().prop_map(Step::Sent),
        1 => (0..6usize, 0..10u64).prop_map(|(to, time)| Step::Pause(to, time)),
        3 => (0..1500u64).prop_map(Step::Pass),
    ]
}

/// Odd destinations are paced.
fn is_paced(to: usize) -> bool {
    to % 2 == 1
}

impl Test {
    fn active(&self) -> impl Iterator<Item = (&ScheduledMessage, Class, bool)> {
        self.schedule
            .tickets
            .values()
            .filter_map(|message| match message.state {
                MessageState::Active { class, sent, .. } => Some((message, class, sent)),
                MessageState::Waiting => None,
            })
    }

    fn is_unsent(&self, ticket: Ticket) -> bool {
        let message = self.schedule.tickets.get(&ticket);
        message.is_some_and(|message| {
            matches!(message.state, MessageState::Active { sent: false, .. })
        })
    }

    fn count(&self, of: impl Fn(&ScheduledMessage, Class) -> bool) -> usize {
        self.active()
            .filter(|(message, class, _)| of(message, *class))
            .count()
    }

    /// Whether this may start by the rules as they are written down, counted anew.
    fn may_start(&self, message: &ScheduledMessage) -> bool {
        let (who, limits) = (&message.who, self.schedule.limits);
        let destination = &self.schedule.destinations[&message.to];
        // The next start makes it quick again when its time as a slow one is over.
        let mut queues = destination.namespaces.iter();
        let queue = queues.find(|queue| queue.namespace == who.namespace);
        let class = queue.unwrap().stands.unwrap_or(destination.class(self.now));
        let same_namespace = |other: &ScheduledMessage| other.who.namespace == who.namespace;
        let own = self.count(|other, _| same_namespace(other));
        let all = self.count(|_, _| true);
        destination.opens_at(self.now) <= self.now
            && self.count(|other, _| other.to == message.to) < destination.window
            && self.count(|other, _| other.to == message.to && other.who == *who)
                < limits.per_setting
            && all < limits.total
            && own <= limits.total - all
            && own < limits.per_namespace
            && self.count(|other, of| same_namespace(other) && of == class)
                < limits.per_namespace / 2
            && (self.count(|_, of| of == class) < limits.total / 2
                || own == 0 && class == Class::Slow)
    }

    fn check(&self) {
        let Schedule { limits, .. } = self.schedule;
        assert_eq!(self.schedule.active.total(), self.active().count());
        assert_eq!(
            self.schedule.active.slow,
            self.count(|_, class| class == Class::Slow)
        );
        assert!(self.schedule.active.total() <= limits.total);
        assert!(self.schedule.opening.len() <= self.schedule.destinations.len());
        assert!(self.count(|_, class| class == Class::Quick) <= limits.total / 2);
        for message in self.schedule.tickets.values() {
            let (who, to) = (&message.who, message.to);
            let of_namespace = |other: &ScheduledMessage| other.who.namespace == who.namespace;
            assert!(self.count(|other, _| other.to == to) <= limits.per_destination);
            assert!(self.count(|other, _| of_namespace(other)) <= limits.per_namespace);
            let quick = self.count(|other, class| of_namespace(other) && class == Class::Quick);
            assert!(quick <= limits.per_namespace / 2);
            let of_setting = self.count(|other, _| other.to == to && other.who == *who);
            assert!(of_setting <= limits.per_setting);
            if matches!(message.state, MessageState::Waiting) {
                assert!(!self.may_start(message), "left waiting: {message:?}");
                // What waits for time alone is woken by it.
                let destination = &self.schedule.destinations[&to];
                let opens = destination.opens_at(self.now);
                if opens > self.now && of_setting < limits.per_setting {
                    assert!(self.schedule.opening.contains(&(opens, to)));
                }
            }
        }
    }
}

proptest! {
    // Each case is checked after each step by counting everything anew, which takes its time.
    #![proptest_config(crate::simulation::testing::tries(32))]

    #[test]
    fn nothing_exceeds_its_limits_and_nothing_waits_that_may_start(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut test = Test::new(LIMITS);
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut paused: BTreeMap<usize, Moment> = BTreeMap::new();
        let mut starts: BTreeMap<Ticket, (usize, Moment)> = BTreeMap::new();
        let mut of: BTreeMap<Ticket, usize> = BTreeMap::new();
        let pick = |tickets: &[Ticket], n: usize| {
            (!tickets.is_empty()).then(|| tickets[n % tickets.len()])
        };
        for step in steps {
            match step {
                Step::Wait { namespace, setting, to } => {
                    let who = who(&namespace.to_string(), setting);
                    let ticket = test.schedule.wait(&who, url(to), is_paced(to), test.now);
                    tickets.push(ticket);
                    of.insert(ticket, to);
                }
                Step::End(n) => if let Some(ticket) = pick(&tickets, n) {
                    if test.is_unsent(ticket) {
                        starts.remove(&ticket);
                    }
                    test.end(ticket);
                    tickets.retain(|other| *other != ticket);
                },
                Step::Sent(n) => if let Some(ticket) = pick(&tickets, n) {
                    test.schedule.sent(ticket, test.now);
                },
                Step::Pause(to, time) => {
                    let until = test.now + seconds(time);
                    test.schedule.pause(url(to), is_paced(to), until, test.now);
                    let pause = paused.entry(to).or_default();
                    *pause = (*pause).max(until);
                }
                Step::Pass(millis) => test.pass(Duration::from_millis(millis)),
            }
            for (n, ticket) in test.start().into_iter().enumerate() {
                let to = of[&ticket];
                prop_assert!(paused.get(&to).is_none_or(|until| *until <= test.now));
                starts.insert(ticket, (to, test.now));
                if n % 2 == 0 {
                    test.schedule.sent(ticket, test.now);
                }
            }
            test.check();
        }
        // All that waits is sent in the end.
        let mut rounds = 0;
        while !tickets.is_empty() {
            for ticket in test.start() {
                starts.insert(ticket, (of[&ticket], test.now));
                test.schedule.sent(ticket, test.now);
            }
            test.check();
            let active: Vec<_> = test.schedule.tickets.iter()
                .filter(|(_, message)| !matches!(message.state, MessageState::Waiting))
                .map(|(ticket, _)| *ticket)
                .collect();
            for ticket in active {
                if test.is_unsent(ticket) {
                    starts.remove(&ticket);
                }
                test.end(ticket);
                tickets.retain(|other| *other != ticket);
            }
            test.pass(Duration::from_millis(500));
            rounds += 1;
            prop_assert!(rounds < 2000, "stuck: {:?}", test.schedule);
        }
        // No destination got more than its pace.
        for to in (0..6).filter(|to| is_paced(*to)) {
            let times: Vec<_> = starts.values().filter(|(of, _)| *of == to).map(|(_, at)| *at).collect();
            let mut times = times;
            times.sort_unstable();
            for window in times.windows(BURST as usize + 1) {
                prop_assert!(window[BURST as usize] >= window[0] + INTERVAL, "{times:?}");
            }
        }
        // Nothing is left.
        test.pass(STAYS_SLOW + seconds(10));
        test.start();
        let schedule = &mut test.schedule;
        schedule.sweep_at = 0;
        schedule.sweep(test.now);
        prop_assert!(schedule.tickets.is_empty() && schedule.destinations.is_empty());
        prop_assert!(schedule.namespaces.is_empty() && schedule.ageing.is_empty());
        for turns in &schedule.turns {
            prop_assert!(turns.namespaces.is_empty() && turns.destinations.is_empty());
        }
        prop_assert!(schedule.opening.is_empty());
        prop_assert_eq!((schedule.active.quick, schedule.active.slow), (0, 0));
    }
}
