//! Which message may be sent next: a state machine without clock and without waiting.
//!
//! A message may start when its destination is open (no pause is asked for, the pace allows it), and when there is room
//! within the limits of its destination, its setting, its namespace and of all. Of those that may, namespaces take turns;
//! within a namespace its destinations do, and at a destination the settings.
//!
//! Destinations that hang hold a slot until the request times out, so two rules keep slots free for those that don't:
//! - A destination has one slot at first, one more with each quick answer, and half as many with each slow one.
//! - Of all slots, and of each namespace's, half are for quick destinations and half for slow ones. A request that takes
//!   longer than [`SLOW`] moves from the first half to the second.
//!
//! Namespaces that hold many slots leave some to others: one may hold as many as are free, so that a few of them never take
//! all. The first request of a namespace may be a slow one even if half of all slots are taken by those.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::time::Moment;

/// How long one message after another waits: Slack takes one a second for each incoming webhook.
const INTERVAL: Duration = Duration::from_secs(1);
/// At most so many messages go at once after a time without any: Slack takes short bursts.
const BURST: u32 = 3;
/// How long a request may take before it counts as slow.
const SLOW: Duration = Duration::from_secs(1);
/// How long a destination counts as slow after a slow request, unless a quick one comes first.
const STAYS_SLOW: Duration = Duration::from_secs(120);
/// At most so many destinations are known before those without use are forgotten; later, twice as many as were in use.
const SWEEP_AT: usize = 256;

/// How many messages may be under way at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// To one URL.
    pub(super) per_destination: usize,
    /// Of one setting.
    pub(super) per_setting: usize,
    /// Of the settings of one namespace.
    pub(super) per_namespace: usize,
    /// In all.
    pub(super) total: usize,
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendKey {
    /// The setting's namespace.
    pub namespace: Arc<str>,
    /// The setting's name.
    pub setting: Arc<str>,
}

/// A hash of the URL.
pub(super) type DestinationKey = [u8; 32];

/// A message that waits or is under way. Later ones have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What is known of all messages that wait or are under way, and of their destinations.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    limits: Limits,
    /// The number of the last ticket.
    last: u64,
    tickets: BTreeMap<Ticket, ScheduledMessage>,
    destinations: BTreeMap<DestinationKey, DestinationQueue>,
    active: Active,
    /// The namespaces that have messages under way.
    namespaces: BTreeMap<Arc<str>, Active>,
    /// By class.
    turns: [Turns; 2],
    /// When requests that are under way become slow.
    ageing: BTreeSet<(Moment, Ticket)>,
    /// When to look again at destinations for which somebody waits and that are not open, or slow: once for each.
    opening: BTreeSet<(Moment, DestinationKey)>,
    sweep_at: usize,
}

#[derive(Debug)]
struct ScheduledMessage {
    who: SendKey,
    to: DestinationKey,
    state: MessageState,
}

#[derive(Clone, Copy, Debug)]
enum MessageState {
    Waiting,
    /// `since`: when it got its slot, or was sent.
    Active {
        since: Moment,
        class: Class,
        sent: bool,
    },
}

/// Of which half of the slots a message takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Quick,
    Slow,
}

/// How many messages are under way.
#[derive(Clone, Copy, Debug, Default)]
struct Active {
    quick: usize,
    slow: usize,
}

impl Active {
    fn total(self) -> usize {
        self.quick + self.slow
    }

    fn of_mut(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Quick => &mut self.quick,
            Class::Slow => &mut self.slow,
        }
    }

    /// Whether half of so many is not yet of this class. Those that became slow while under way may take more.
    fn has_half(mut self, class: Class, limit: usize) -> bool {
        *self.of_mut(class) < limit / 2
    }
}

/// The destinations to which a message may start as soon as there is room for it, the next first.
#[derive(Debug, Default)]
struct Turns {
    namespaces: VecDeque<Arc<str>>,
    /// Those of each of the namespaces; one that has none any more leaves when its turn comes.
    destinations: BTreeMap<Arc<str>, VecDeque<DestinationKey>>,
}

impl Turns {
    fn add(&mut self, namespace: &Arc<str>, to: DestinationKey) {
        let destinations = self.destinations.entry(Arc::clone(namespace));
        let destinations = destinations.or_insert_with(|| {
            self.namespaces.push_back(Arc::clone(namespace));
            VecDeque::new()
        });
        destinations.push_back(to);
    }

    fn remove(&mut self, namespace: &Arc<str>, to: DestinationKey) {
        if let Some(destinations) = self.destinations.get_mut(namespace) {
            destinations.retain(|other| *other != to);
        }
    }

    /// Takes the next destination of the next namespace that has room.
    fn take(&mut self, has_room: impl Fn(&Arc<str>) -> bool) -> Option<(Arc<str>, DestinationKey)> {
        for _ in 0..self.namespaces.len() {
            let namespace = self.namespaces.pop_front()?;
            let destinations = self.destinations.get_mut(&namespace)?;
            if destinations.is_empty() {
                self.destinations.remove(&namespace);
                continue;
            }
            let has_room = has_room(&namespace);
            self.namespaces.push_back(Arc::clone(&namespace));
            if has_room {
                return destinations.pop_front().map(|to| (namespace, to));
            }
        }
        None
    }
}

/// The messages that wait for one URL, and when it may get them.
#[derive(Debug, Default)]
struct DestinationQueue {
    /// Whether it gets at most [`BURST`] messages at once, and one each [`INTERVAL`].
    paced: bool,
    /// When it could take [`BURST`] messages at once again.
    rested: Moment,
    paused_until: Moment,
    slow_until: Moment,
    /// Where it stands in [`Schedule::opening`].
    noted: Option<Moment>,
    /// How many may be under way now, at most [`Limits::per_destination`].
    window: usize,
    active: usize,
    /// In the order of their turns.
    namespaces: VecDeque<NamespaceQueue>,
}

/// The messages of one namespace for one URL.
#[derive(Debug, Default)]
struct NamespaceQueue {
    namespace: Arc<str>,
    settings: BTreeMap<Arc<str>, SettingQueue>,
    /// The settings that wait, the next first.
    turns: VecDeque<Arc<str>>,
    /// In which of [`Schedule::turns`] it stands.
    stands: Option<Class>,
}

/// The messages of one setting for one URL.
#[derive(Debug, Default)]
struct SettingQueue {
    waiting: BTreeSet<Ticket>,
    active: usize,
}

impl Schedule {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: Limits {
                per_destination: limits.per_destination.max(1),
                per_setting: limits.per_setting.max(1),
                // Halves are made of these two.
                per_namespace: limits.per_namespace.max(2),
                total: limits.total.max(2),
            },
            sweep_at: SWEEP_AT,
            ..Self::default()
        }
    }

    /// A message waits from now on.
    pub(super) fn wait(
        &mut self,
        who: &SendKey,
        to: DestinationKey,
        paced: bool,
        now: Moment,
    ) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.destination(to, paced, now).wait(who, ticket);
        let message = ScheduledMessage {
            who: who.clone(),
            to,
            state: MessageState::Waiting,
        };
        self.tickets.insert(ticket, message);
        self.refresh(to, now);
        ticket
    }

    /// Starts all that may start.
    pub(super) fn start(&mut self, now: Moment) -> Vec<Ticket> {
        self.age(now);
        while let Some(&(at, to)) = self.opening.first()
            && at <= now
        {
            self.opening.pop_first();
            self.refresh(to, now);
        }
        std::iter::from_fn(|| self.start_next(now)).collect()
    }

    /// When [`Self::start`] may start something that it couldn't before, if nothing else happens.
    pub(super) fn next_change(&self) -> Option<Moment> {
        let waits = self.tickets.len() > self.active.total();
        let opening = self.opening.first().map(|(at, _)| *at);
        let ageing = self.ageing.first().map(|(at, _)| *at);
        opening.into_iter().chain(ageing.filter(|_| waits)).min()
    }

    /// A slot is used: an attempt is made.
    pub(super) fn sent(&mut self, ticket: Ticket, now: Moment) {
        let Some(message) = self.tickets.get_mut(&ticket) else {
            return;
        };
        let MessageState::Active { since, sent, .. } = &mut message.state else {
            return;
        };
        // The time before is not the destination's.
        let had_since = std::mem::replace(since, now);
        self.ageing.remove(&(had_since + SLOW, ticket));
        self.ageing.insert((now + SLOW, ticket));
        let again = std::mem::replace(sent, true);
        let to = message.to;
        // The first attempt was counted when the slot was given.
        if again && let Some(destination) = self.destinations.get_mut(&to) {
            destination.spend(now);
            self.refresh(to, now);
        }
    }

    /// A message has been answered, or isn't to be sent any more.
    pub(super) fn end(&mut self, ticket: Ticket, now: Moment) {
        self.age(now);
        let Some(ScheduledMessage { who, to, state }) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(destination) = self.destinations.get_mut(&to) else {
            return;
        };
        if let Some(queue) = destination.queue(&who.namespace) {
            queue.end(&who.setting, ticket);
        }
        if let MessageState::Active { since, class, sent } = state {
            self.ageing.remove(&(since + SLOW, ticket));
            destination.active -= 1;
            if sent && now < since + SLOW {
                destination.slow_until = Moment::ZERO;
                destination.window = (destination.window + 1).min(self.limits.per_destination);
            } else if !sent {
                destination.give_back(since, now);
            }
            self.count(&who.namespace, Some(class), None);
        }
        self.refresh(to, now);
    }

    /// A destination asks everybody to wait. A later, shorter pause doesn't shorten a longer one.
    pub(super) fn pause(&mut self, to: DestinationKey, paced: bool, until: Moment, now: Moment) {
        let destination = self.destination(to, paced, now);
        destination.paused_until = destination.paused_until.max(until);
        self.refresh(to, now);
    }

    /// One destination; now and then, others without use are forgotten.
    fn destination(
        &mut self,
        to: DestinationKey,
        paced: bool,
        now: Moment,
    ) -> &mut DestinationQueue {
        self.sweep(now);
        let destination = self
            .destinations
            .entry(to)
            .or_insert_with(|| DestinationQueue {
                window: 1,
                ..DestinationQueue::default()
            });
        destination.paced |= paced;
        destination
    }

    fn sweep(&mut self, now: Moment) {
        if self.destinations.len() >= self.sweep_at {
            self.destinations
                .retain(|_, destination| !destination.is_idle(now));
            self.sweep_at = SWEEP_AT.max(2 * self.destinations.len());
        }
    }

    /// Requests that have taken long by now take a slot of the slow half instead of one of the quick.
    fn age(&mut self, now: Moment) {
        while let Some(&(at, ticket)) = self.ageing.first()
            && at <= now
        {
            self.ageing.pop_first();
            let Some(message) = self.tickets.get_mut(&ticket) else {
                continue;
            };
            let MessageState::Active { class, sent, .. } = &mut message.state else {
                continue;
            };
            let (was, sent) = (std::mem::replace(class, Class::Slow), *sent);
            let (namespace, to) = (Arc::clone(&message.who.namespace), message.to);
            self.count(&namespace, Some(was), Some(Class::Slow));
            if sent && let Some(destination) = self.destinations.get_mut(&to) {
                destination.slow_until = at + STAYS_SLOW;
                destination.window = (destination.window / 2).max(1);
            }
            self.refresh(to, now);
        }
    }

    /// Counts that a message of a namespace is under way as one class and no more as another.
    fn count(&mut self, namespace: &Arc<str>, from: Option<Class>, to: Option<Class>) {
        let of_namespace = self.namespaces.entry(Arc::clone(namespace)).or_default();
        for active in [&mut self.active, &mut *of_namespace] {
            if let Some(class) = to {
                *active.of_mut(class) += 1;
            }
            if let Some(class) = from {
                *active.of_mut(class) -= 1;
            }
        }
        if of_namespace.total() == 0 {
            self.namespaces.remove(namespace);
        }
    }

    /// Starts the message whose turn it is, if one may.
    fn start_next(&mut self, now: Moment) -> Option<Ticket> {
        let limits = self.limits;
        let free = limits.total.saturating_sub(self.active.total());
        let half = |class| self.active.has_half(class, limits.total);
        let next = |class| {
            let room = |namespace: &Arc<str>| {
                let own = self.namespaces.get(namespace).copied();
                let own = own.unwrap_or_default();
                let first_slow = class == Class::Slow && own.total() == 0;
                free > 0
                    && own.total() <= free
                    && own.total() < limits.per_namespace
                    && own.has_half(class, limits.per_namespace)
                    && (half(class) || first_slow)
            };
            let next = self.turns[class as usize].take(room);
            next.map(|(namespace, to)| (class, namespace, to))
        };
        let (class, namespace, to) = [Class::Quick, Class::Slow].into_iter().find_map(next)?;
        let destination = self.destinations.get_mut(&to)?;
        let ticket = destination.start(&namespace, limits.per_setting, now)?;
        self.tickets.get_mut(&ticket)?.state = MessageState::Active {
            since: now,
            class,
            sent: false,
        };
        self.ageing.insert((now + SLOW, ticket));
        self.count(&namespace, None, Some(class));
        self.refresh(to, now);
        Some(ticket)
    }

    /// Gives the messages for a destination their turns, or takes them away, after anything changed for it.
    fn refresh(&mut self, to: DestinationKey, now: Moment) {
        let Some(destination) = self.destinations.get_mut(&to) else {
            return;
        };
        let opens = destination.opens_at(now);
        let open = opens <= now && destination.active < destination.window;
        let class = destination.class(now);
        let mut awaited = false;
        for queue in &mut destination.namespaces {
            let waits = queue.next(self.limits.per_setting).is_some();
            awaited |= waits;
            let stands = (open && waits).then_some(class);
            let stood = std::mem::replace(&mut queue.stands, stands);
            if stood != stands {
                if let Some(class) = stood {
                    self.turns[class as usize].remove(&queue.namespace, to);
                }
                if let Some(class) = stands {
                    self.turns[class as usize].add(&queue.namespace, to);
                }
            }
        }
        // Time alone makes it open, or quick.
        let changes = [opens, destination.slow_until].into_iter();
        let next = changes.filter(|at| awaited && *at > now).min();
        let noted = std::mem::replace(&mut destination.noted, next);
        if noted != next {
            if let Some(at) = noted {
                self.opening.remove(&(at, to));
            }
            if let Some(at) = next {
                self.opening.insert((at, to));
            }
        }
        destination
            .namespaces
            .retain(|queue| !queue.settings.is_empty());
        if destination.is_idle(now) {
            self.destinations.remove(&to);
        }
    }
}

impl DestinationQueue {
    fn queue(&mut self, namespace: &Arc<str>) -> Option<&mut NamespaceQueue> {
        self.namespaces
            .iter_mut()
            .find(|queue| queue.namespace == *namespace)
    }

    fn wait(&mut self, who: &SendKey, ticket: Ticket) {
        if let Some(queue) = self.queue(&who.namespace) {
            return queue.wait(&who.setting, ticket);
        }
        let mut queue = NamespaceQueue {
            namespace: Arc::clone(&who.namespace),
            ..NamespaceQueue::default()
        };
        queue.wait(&who.setting, ticket);
        self.namespaces.push_back(queue);
    }

    /// Starts the next message of a namespace, whose turn is over then.
    fn start(&mut self, namespace: &Arc<str>, per_setting: usize, now: Moment) -> Option<Ticket> {
        let mut queues = self.namespaces.iter();
        let at = queues.position(|queue| queue.namespace == *namespace)?;
        let mut queue = self.namespaces.remove(at)?;
        queue.stands = None;
        let ticket = queue.start(per_setting);
        self.namespaces.push_back(queue);
        self.active += 1;
        self.spend(now);
        ticket
    }

    fn class(&self, now: Moment) -> Class {
        if self.slow_until > now {
            Class::Slow
        } else {
            Class::Quick
        }
    }

    /// When the next message may go, as far as the destination's own wishes go.
    fn opens_at(&self, now: Moment) -> Moment {
        let paced = self.rested.before(INTERVAL * (BURST - 1));
        now.max(paced).max(self.paused_until)
    }

    fn spend(&mut self, now: Moment) {
        if self.paced {
            self.rested = self.rested.max(now) + INTERVAL;
        }
    }

    /// Takes back what was spent then. Later it may have rested in between, and would take too many.
    fn give_back(&mut self, spent: Moment, now: Moment) {
        if self.paced && now < spent + INTERVAL {
            self.rested = self.rested.before(INTERVAL);
        }
    }

    /// Whether a new one would be the same, but for the number of its slots, which soon comes again.
    fn is_idle(&self, now: Moment) -> bool {
        self.namespaces.is_empty()
            && self.active == 0
            && self.paused_until <= now
            && self.slow_until <= now
            && self.rested <= now
    }
}

impl NamespaceQueue {
    fn wait(&mut self, setting: &Arc<str>, ticket: Ticket) {
        let queue = self.settings.entry(Arc::clone(setting)).or_default();
        if queue.waiting.is_empty() {
            self.turns.push_back(Arc::clone(setting));
        }
        queue.waiting.insert(ticket);
    }

    /// The place of the next setting from which a message may start.
    fn next(&self, per_setting: usize) -> Option<usize> {
        self.turns
            .iter()
            .position(|setting| self.settings[setting].active < per_setting)
    }

    fn start(&mut self, per_setting: usize) -> Option<Ticket> {
        let setting = self.turns.remove(self.next(per_setting)?)?;
        let queue = self.settings.get_mut(&setting)?;
        let ticket = queue.waiting.pop_first()?;
        queue.active += 1;
        if !queue.waiting.is_empty() {
            self.turns.push_back(setting);
        }
        Some(ticket)
    }

    /// A message of a setting waits no more, or is no more under way.
    fn end(&mut self, setting: &Arc<str>, ticket: Ticket) {
        let Some(queue) = self.settings.get_mut(setting) else {
            return;
        };
        if !queue.waiting.remove(&ticket) {
            queue.active -= 1;
        } else if queue.waiting.is_empty() {
            self.turns.retain(|other| other != setting);
        }
        if queue.waiting.is_empty() && queue.active == 0 {
            self.settings.remove(setting);
        }
    }
}

#[cfg(test)]
impl Schedule {
    /// How long a destination has asked everybody to wait.
    pub(super) fn pause_of(&self, to: DestinationKey, now: Moment) -> Option<Duration> {
        let until = self.destinations.get(&to)?.paused_until;
        Some(until.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    /// Whether it holds no more than what it has to.
    pub(super) fn is_forgetful(&self) -> bool {
        self.destinations.len() <= SWEEP_AT && self.namespaces.is_empty() && self.tickets.is_empty()
    }
}

#[cfg(test)]
mod tests;
