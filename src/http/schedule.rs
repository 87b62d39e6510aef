//! Which message may be sent next: a state machine without clock and without waiting.
//!
//! A message may start when its destination is open (no pause is asked for, the pace allows it), and when there is room
//! within the limits of its destination, its setting, its namespace and of all. Of those that may, the one starts whose
//! namespace was served the longest ago; within a namespace the destination, and of that the setting, that was.
//!
//! Destinations that hang hold a slot until the request times out, so two rules keep slots free for those that don't:
//! - A destination has one slot at first, one more with each quick answer, and half as many with each slow one.
//! - Of all slots, and of each namespace's, half are for quick destinations and half for slow ones. A request that takes
//!   longer than [`SLOW`] moves from the first half to the second.

use std::{
    collections::{BTreeMap, BTreeSet},
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
#[derive(Clone, Copy, Debug)]
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
#[derive(Debug)]
pub(super) struct Schedule {
    limits: Limits,
    /// The last number given to a ticket or to a place in an order.
    last: u64,
    tickets: BTreeMap<Ticket, Message>,
    destinations: BTreeMap<DestinationKey, DestinationQueue>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// The namespaces from which a message may start, those served the longest ago first.
    order: ByClass<BTreeMap<u64, Arc<str>>>,
    active: usize,
    slow: usize,
    /// When requests that are under way become slow.
    ageing: BTreeSet<(Moment, Ticket)>,
    /// When destinations open for which somebody waits.
    opening: BTreeSet<(Moment, DestinationKey)>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Message {
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

#[derive(Debug, Default)]
struct ByClass<T> {
    quick: T,
    slow: T,
}

impl<T> ByClass<T> {
    fn of(&self, class: Class) -> &T {
        match class {
            Class::Quick => &self.quick,
            Class::Slow => &self.slow,
        }
    }

    fn of_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Quick => &mut self.quick,
            Class::Slow => &mut self.slow,
        }
    }
}

/// One URL.
#[derive(Debug)]
struct DestinationQueue {
    pace: Option<Pace>,
    paused_until: Moment,
    slow_until: Moment,
    /// How many may be under way now, at most [`Limits::per_destination`].
    window: usize,
    active: usize,
    namespaces: BTreeMap<Arc<str>, NamespaceQueue>,
    /// As it stands in [`Schedule::opening`].
    opens: Option<Moment>,
}

/// The messages of one namespace for one URL.
#[derive(Debug, Default)]
struct NamespaceQueue {
    settings: BTreeMap<Arc<str>, SettingQueue>,
    /// The settings from which a message may start.
    order: BTreeMap<u64, Arc<str>>,
    /// Its place in the order of its namespace.
    place: u64,
    /// Where it stands there, if a message may start.
    stands: Option<(Class, u64)>,
}

/// The messages of one setting for one URL.
#[derive(Debug, Default)]
struct SettingQueue {
    waiting: BTreeSet<Ticket>,
    active: usize,
    place: u64,
    stands: Option<u64>,
}

#[derive(Debug, Default)]
struct Namespace {
    waiting: usize,
    active: usize,
    slow: usize,
    /// The destinations to which a message may start.
    order: ByClass<BTreeMap<u64, DestinationKey>>,
    /// Its place in the order of all.
    place: u64,
    /// Where it stands there.
    stands: ByClass<Option<u64>>,
}

impl Schedule {
    pub(super) fn new(limits: Limits) -> Self {
        let at_least_one = |limit: usize| limit.max(1);
        Self {
            limits: Limits {
                per_destination: at_least_one(limits.per_destination),
                per_setting: at_least_one(limits.per_setting),
                // Halves are made of these two.
                per_namespace: limits.per_namespace.max(2),
                total: limits.total.max(2),
            },
            last: 0,
            tickets: BTreeMap::new(),
            destinations: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            order: ByClass::default(),
            active: 0,
            slow: 0,
            ageing: BTreeSet::new(),
            opening: BTreeSet::new(),
            sweep_at: SWEEP_AT,
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
        let number = self.next_number();
        let ticket = Ticket(number);
        self.sweep(now);
        let destination = self
            .destinations
            .entry(to)
            .or_insert_with(|| DestinationQueue::new(paced));
        if paced && destination.pace.is_none() {
            // A webhook with the same URL came first.
            destination.pace = Some(Pace::default());
        }
        let queue = destination
            .namespaces
            .entry(Arc::clone(&who.namespace))
            .or_default();
        // Who begins to wait stands last.
        if queue.settings.values().all(|of| of.waiting.is_empty()) {
            queue.place = number;
        }
        let setting = queue.settings.entry(Arc::clone(&who.setting)).or_default();
        if setting.waiting.is_empty() {
            setting.place = number;
        }
        setting.waiting.insert(ticket);
        let namespace = self
            .namespaces
            .entry(Arc::clone(&who.namespace))
            .or_default();
        if namespace.waiting == 0 {
            namespace.place = number;
        }
        namespace.waiting += 1;
        let message = Message {
            who: who.clone(),
            to,
            state: MessageState::Waiting,
        };
        self.tickets.insert(ticket, message);
        self.refresh(to, who, now);
        ticket
    }

    /// Starts all that may start.
    pub(super) fn start(&mut self, now: Moment) -> Vec<Ticket> {
        self.age(now);
        while let Some(&(at, to)) = self.opening.first()
            && at <= now
        {
            self.refresh_destination(to, now);
        }
        let mut started = Vec::new();
        while let Some((ticket, class)) = self.next() {
            self.begin(ticket, class, now);
            started.push(ticket);
        }
        started
    }

    /// When [`Self::start`] may start something that it couldn't before, if nothing else happens.
    pub(super) fn next_change(&self) -> Option<Moment> {
        let waits = self.tickets.len() > self.active;
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
            self.refresh_destination(to, now);
        }
    }

    /// A message has been answered, or isn't to be sent any more.
    pub(super) fn end(&mut self, ticket: Ticket, now: Moment) {
        self.age(now);
        let Some(Message { who, to, state }) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(destination) = self.destinations.get_mut(&to) else {
            return;
        };
        let Some(namespace) = self.namespaces.get_mut(&who.namespace) else {
            return;
        };
        let setting = destination
            .namespaces
            .get_mut(&who.namespace)
            .and_then(|queue| queue.settings.get_mut(&who.setting));
        match state {
            MessageState::Waiting => {
                namespace.waiting -= 1;
                if let Some(setting) = setting {
                    setting.waiting.remove(&ticket);
                }
            }
            MessageState::Active { since, class, sent } => {
                self.ageing.remove(&(since + SLOW, ticket));
                self.active -= 1;
                namespace.active -= 1;
                if class == Class::Slow {
                    self.slow -= 1;
                    namespace.slow -= 1;
                }
                if let Some(setting) = setting {
                    setting.active -= 1;
                }
                destination.active -= 1;
                if !sent {
                    destination.give_back(since, now);
                } else if now < since + SLOW {
                    destination.slow_until = Moment::ZERO;
                    destination.window = (destination.window + 1).min(self.limits.per_destination);
                }
            }
        }
        self.refresh(to, &who, now);
    }

    /// A destination asks everybody to wait. A later, shorter pause doesn't shorten a longer one.
    pub(super) fn pause(&mut self, to: DestinationKey, paced: bool, until: Moment, now: Moment) {
        self.sweep(now);
        let destination = self
            .destinations
            .entry(to)
            .or_insert_with(|| DestinationQueue::new(paced));
        destination.paused_until = destination.paused_until.max(until);
        self.refresh_destination(to, now);
    }

    /// How long a destination has asked everybody to wait.
    pub(super) fn pause_of(&self, to: DestinationKey, now: Moment) -> Option<Duration> {
        let until = self.destinations.get(&to)?.paused_until;
        Some(until.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Forgets destinations without use, now and then.
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
            let sent = *sent;
            let was = std::mem::replace(class, Class::Slow);
            let (who, to) = (message.who.clone(), message.to);
            if was == Class::Quick {
                self.slow += 1;
                if let Some(namespace) = self.namespaces.get_mut(&who.namespace) {
                    namespace.slow += 1;
                }
            }
            if sent && let Some(destination) = self.destinations.get_mut(&to) {
                destination.slow_until = at + STAYS_SLOW;
                destination.window = (destination.window / 2).max(1);
            }
            self.refresh(to, &who, now);
        }
    }

    /// The message that starts next, if one may.
    fn next(&self) -> Option<(Ticket, Class)> {
        let total = self.limits.total;
        if self.active >= total {
            return None;
        }
        let front = |class, room: bool| {
            let (place, name) = self.order.of(class).first_key_value().filter(|_| room)?;
            let namespace = self.namespaces.get(name)?;
            let (second, to) = namespace.order.of(class).first_key_value()?;
            Some((place, second, to, name, class))
        };
        let quick = front(Class::Quick, self.active - self.slow < total / 2);
        let slow = front(Class::Slow, self.slow < total / 2);
        let fronts = quick.into_iter().chain(slow);
        let (.., to, name, class) = fronts.min_by_key(|(first, second, ..)| (*first, *second))?;
        let queue = self.destinations.get(to)?.namespaces.get(name)?;
        let (_, setting) = queue.order.first_key_value()?;
        let ticket = queue.settings.get(setting)?.waiting.first()?;
        Some((*ticket, class))
    }

    fn begin(&mut self, ticket: Ticket, class: Class, now: Moment) {
        let number = self.next_number();
        let Some(message) = self.tickets.get_mut(&ticket) else {
            return;
        };
        let (who, to) = (message.who.clone(), message.to);
        let Some(destination) = self.destinations.get_mut(&to) else {
            return;
        };
        message.state = MessageState::Active {
            since: now,
            class,
            sent: false,
        };
        self.ageing.insert((now + SLOW, ticket));
        self.active += 1;
        destination.active += 1;
        destination.spend(now);
        if let Some(queue) = destination.namespaces.get_mut(&who.namespace) {
            queue.place = number;
            if let Some(setting) = queue.settings.get_mut(&who.setting) {
                setting.waiting.remove(&ticket);
                setting.active += 1;
                setting.place = number;
            }
        }
        if let Some(namespace) = self.namespaces.get_mut(&who.namespace) {
            namespace.waiting -= 1;
            namespace.active += 1;
            namespace.place = number;
        }
        if class == Class::Slow {
            self.slow += 1;
            if let Some(namespace) = self.namespaces.get_mut(&who.namespace) {
                namespace.slow += 1;
            }
        }
        self.refresh(to, &who, now);
    }

    /// Brings all orders up to date after something changed for one setting and its destination.
    fn refresh(&mut self, to: DestinationKey, who: &SendKey, now: Moment) {
        let per_setting = self.limits.per_setting;
        if let Some(destination) = self.destinations.get_mut(&to)
            && let Some(queue) = destination.namespaces.get_mut(&who.namespace)
        {
            queue.refresh_setting(&who.setting, per_setting);
        }
        self.refresh_destination(to, now);
        self.refresh_namespace(&who.namespace);
    }

    fn refresh_destination(&mut self, to: DestinationKey, now: Moment) {
        let Some(destination) = self.destinations.get_mut(&to) else {
            return;
        };
        let opens = destination.opens_at(now);
        let open = opens <= now && destination.active < destination.window;
        let class = destination.class(now);
        let mut changed = Vec::new();
        for (name, queue) in &mut destination.namespaces {
            let stands = (open && !queue.order.is_empty()).then_some((class, queue.place));
            if stands == queue.stands {
                continue;
            }
            let Some(namespace) = self.namespaces.get_mut(name) else {
                continue;
            };
            if let Some((class, place)) = queue.stands {
                namespace.order.of_mut(class).remove(&place);
            }
            if let Some((class, place)) = stands {
                namespace.order.of_mut(class).insert(place, to);
            }
            queue.stands = stands;
            changed.push(Arc::clone(name));
        }
        destination
            .namespaces
            .retain(|_, queue| !queue.settings.is_empty());
        let awaited = destination
            .namespaces
            .values()
            .any(|queue| !queue.order.is_empty());
        let opening = (awaited && opens > now).then_some(opens);
        if opening != destination.opens {
            if let Some(at) = destination.opens {
                self.opening.remove(&(at, to));
            }
            if let Some(at) = opening {
                self.opening.insert((at, to));
            }
            destination.opens = opening;
        }
        if destination.is_idle(now) {
            self.destinations.remove(&to);
        }
        for name in changed {
            self.refresh_namespace(&name);
        }
    }

    fn refresh_namespace(&mut self, name: &Arc<str>) {
        let Some(namespace) = self.namespaces.get_mut(name) else {
            return;
        };
        let limit = self.limits.per_namespace;
        for class in [Class::Quick, Class::Slow] {
            let of_class = match class {
                Class::Quick => namespace.active - namespace.slow,
                Class::Slow => namespace.slow,
            };
            let room = namespace.active < limit && of_class < limit / 2;
            let stands = (room && !namespace.order.of(class).is_empty()).then_some(namespace.place);
            let stood = std::mem::replace(namespace.stands.of_mut(class), stands);
            if stood != stands {
                let order = self.order.of_mut(class);
                if let Some(place) = stood {
                    order.remove(&place);
                }
                if let Some(place) = stands {
                    order.insert(place, Arc::clone(name));
                }
            }
        }
        if namespace.waiting == 0 && namespace.active == 0 {
            self.namespaces.remove(name);
        }
    }
}

impl NamespaceQueue {
    fn refresh_setting(&mut self, name: &Arc<str>, per_setting: usize) {
        let Some(setting) = self.settings.get_mut(name) else {
            return;
        };
        let may_start = !setting.waiting.is_empty() && setting.active < per_setting;
        let stands = may_start.then_some(setting.place);
        if let Some(place) = std::mem::replace(&mut setting.stands, stands) {
            self.order.remove(&place);
        }
        if let Some(place) = stands {
            self.order.insert(place, Arc::clone(name));
        }
        if setting.waiting.is_empty() && setting.active == 0 {
            self.settings.remove(name);
        }
    }
}

impl DestinationQueue {
    fn new(paced: bool) -> Self {
        Self {
            pace: paced.then(Pace::default),
            paused_until: Moment::ZERO,
            slow_until: Moment::ZERO,
            window: 1,
            active: 0,
            namespaces: BTreeMap::new(),
            opens: None,
        }
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
        let paced = self.pace.map_or(now, |pace| pace.next(now));
        paced.max(self.paused_until)
    }

    fn spend(&mut self, now: Moment) {
        if let Some(pace) = &mut self.pace {
            pace.spend(now);
        }
    }

    fn give_back(&mut self, spent: Moment, now: Moment) {
        if let Some(pace) = &mut self.pace {
            pace.give_back(spent, now);
        }
    }

    /// Whether a new one would be the same, but for the number of its slots, which soon comes again.
    fn is_idle(&self, now: Moment) -> bool {
        self.namespaces.is_empty()
            && self.active == 0
            && self.paused_until <= now
            && self.slow_until <= now
            && self.pace.is_none_or(|pace| pace.is_full(now))
    }
}

/// A bucket of [`BURST`] messages that fills by one each [`INTERVAL`], kept as the moment at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    full: Moment,
}

impl Pace {
    /// When the next message may go.
    fn next(self, now: Moment) -> Moment {
        self.full.before(INTERVAL * (BURST - 1)).max(now)
    }

    fn spend(&mut self, now: Moment) {
        self.full = self.full.max(now) + INTERVAL;
    }

    /// Takes back what was spent then. Later the bucket may have been full in between, and would hold too much.
    fn give_back(&mut self, spent: Moment, now: Moment) {
        if now < spent + INTERVAL {
            self.full = self.full.before(INTERVAL);
        }
    }

    fn is_full(self, now: Moment) -> bool {
        self.full <= now
    }
}

#[cfg(test)]
impl Schedule {
    /// Whether it holds no more than what it has to.
    pub(super) fn is_forgetful(&self) -> bool {
        self.destinations.len() <= SWEEP_AT && self.namespaces.is_empty() && self.tickets.is_empty()
    }
}

#[cfg(test)]
mod tests;
