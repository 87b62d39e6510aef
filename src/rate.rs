//! How often something may be done.

use std::time::{Duration, Instant};

/// How often something may be done: so often a second, and as often at once.
#[derive(Debug)]
pub(crate) struct Rate {
    interval: Duration,
    burst: Duration,
    /// When the next one would be due if all were spread evenly.
    next: Option<Instant>,
}

impl Rate {
    /// `count`: at most a million.
    pub(crate) const fn per_second(count: u32) -> Self {
        Self {
            interval: Duration::from_micros(1_000_000 / count as u64),
            burst: Duration::from_secs(1),
            next: None,
        }
    }

    /// Whether it may be done now.
    pub(crate) fn may(&self, now: Instant) -> bool {
        self.due(now).saturating_duration_since(now) < self.burst
    }

    /// Whether it may be done now. Then it counts as done.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let may = self.may(now);
        if may {
            self.next = Some(self.due(now) + self.interval);
        }
        may
    }

    fn due(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "asks for a moment to count from")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_lets_a_burst_pass_and_then_one_an_interval() {
        let start = Instant::now();
        let mut rate = Rate::per_second(10);
        let at_once = (0..100).filter(|_| rate.take(start)).count();
        assert_eq!(at_once, 10);
        let spread = (1..=100_u32).filter(|step| rate.take(start + *step * SECOND / 100));
        assert_eq!(spread.count(), 10);
        let later = start + 60 * SECOND;
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 10);
    }
}
