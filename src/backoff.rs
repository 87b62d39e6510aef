//! How long to wait between attempts, as functions of a number that spreads them out. For deliveries that is a function of
//! the event and the attempt, so that a restarted operator keeps to the same plan; elsewhere it is random.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// The first wait of a destination that is in trouble: it may be over in a second.
const FIRST: Duration = Duration::from_secs(1);
/// Its longest wait before jitter. With it at most 5 min, so a receiver that was down for hours is found again soon.
const LONGEST: Duration = Duration::from_secs(250);
/// The first wait of a destination that is wrong: a person has to mend it.
const FIRST_SLOW: Duration = Duration::from_secs(30);
/// Its longest wait before jitter. With it at most 10 min.
const LONGEST_SLOW: Duration = Duration::from_secs(500);
/// Jitter either way, in per mille (Svix: +-20 %).
const JITTER: u64 = 200;

/// Pauses between attempts that double from a first one to a longest one.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause, and the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next pause before jitter.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Takes the next pause, longer by up to as much again; the one after it is twice as long.
    pub fn take(&mut self, random: u64) -> Duration {
        let pause = self.next + part(self.next, random);
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// Begins with the first pause again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random part of a span.
pub fn part(span: Duration, random: u64) -> Duration {
    scaled(span, random % 1_000)
}

/// A number that differs from process to process and from call to call.
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// The wait after the `attempt`-th failure in a row (counted from 1) of a destination in trouble: about 1 s, 2 s, 4 s, …,
/// 5 min at most, each moved by up to 20 % either way.
pub fn delay(attempt: u32, seed: u64) -> Duration {
    exponential(FIRST, LONGEST, attempt, seed)
}

/// The wait after the `attempt`-th failure in a row (counted from 1) of a destination that is wrong: about 30 s, 1 min,
/// 2 min, …, 10 min at most, each moved by up to 20 % either way.
pub fn slow_delay(attempt: u32, seed: u64) -> Duration {
    exponential(FIRST_SLOW, LONGEST_SLOW, attempt, seed)
}

/// The wait that also obeys a `Retry-After`: never less than it asks for, and moved only upwards (by up to 20 %, but not
/// beyond `longest`), as all that were told the same would otherwise come back at once.
pub fn obeying(
    wait: Duration,
    retry_after: Option<Duration>,
    longest: Duration,
    seed: u64,
) -> Duration {
    let asked = retry_after.unwrap_or_default();
    let moved = asked + scaled(asked, scatter(seed) % (JITTER + 1));
    wait.max(asked).max(moved.min(longest))
}

/// The seed of an event's waits.
pub fn seed(event_id: &str) -> u64 {
    let hash = Sha256::digest(event_id);
    hash.iter()
        .take(8)
        .fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

fn exponential(first: Duration, longest: Duration, attempt: u32, seed: u64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let plain = first.saturating_mul(1 << doublings).min(longest);
    let moved = 1000 - JITTER + scatter(seed ^ (u64::from(attempt) << 32)) % (2 * JITTER + 1);
    scaled(plain, moved)
}

fn scaled(wait: Duration, per_mille: u64) -> Duration {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.saturating_mul(per_mille) / 1000)
}

/// Spreads close numbers (attempts 1, 2, 3) over the whole range: the finalizer of `SplitMix64`.
const fn scatter(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_from_a_second_to_five_minutes() {
        for (attempt, seconds) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (8, 128),
            (9, 250),
            (10, 250),
            (u32::MAX, 250),
        ] {
            for seed in 0..50 {
                let wait = delay(attempt, seed);
                assert!(wait >= SECOND * seconds * 8 / 10, "{attempt}: {wait:?}");
                assert!(wait <= SECOND * seconds * 12 / 10, "{attempt}: {wait:?}");
            }
        }
    }

    #[test]
    fn slow_waits_double_from_half_a_minute_to_ten_minutes() {
        for (attempt, seconds) in [(0, 30), (1, 30), (2, 60), (5, 480), (6, 500), (99, 500)] {
            for seed in 0..50 {
                let wait = slow_delay(attempt, seed);
                assert!(wait >= SECOND * seconds * 8 / 10, "{attempt}: {wait:?}");
                assert!(wait <= SECOND * seconds * 12 / 10, "{attempt}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_thousand_settings_do_not_come_back_together() {
        let mut waits: Vec<_> = (0..1000)
            .map(|n| delay(9, seed(&format!("event-{n}"))))
            .collect();
        waits.sort_unstable();
        // 100 s lie between the shortest and the longest: no 1 s of them may hold more than a few of the thousand.
        for pair in waits.windows(40) {
            assert!(pair[39] > pair[0] + SECOND, "{pair:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(SECOND / 2, 3 * SECOND);
        let pauses: Vec<_> = (0..5).map(|_| backoff.take(0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.take(1_999), Duration::from_millis(999));
        assert_eq!(backoff.next(), SECOND);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_never_moved_beyond_the_longest() {
        let longest = Duration::from_hours(1);
        for seed in 0..50 {
            assert_eq!(obeying(SECOND, Some(longest), longest, seed), longest);
            let nearly = obeying(SECOND, Some(longest - SECOND), longest, seed);
            assert!(
                nearly >= longest - SECOND && nearly <= longest,
                "{nearly:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn waits_stay_in_their_bounds_and_are_the_same_again(attempt: u32, seed: u64) {
            let wait = delay(attempt, seed);
            prop_assert!(wait >= Duration::from_millis(800) && wait <= 300 * SECOND);
            prop_assert_eq!(wait, delay(attempt, seed));
            let slow = slow_delay(attempt, seed);
            prop_assert!(slow >= 24 * SECOND && slow <= 600 * SECOND);
        }

        #[test]
        fn waits_grow_until_the_longest_is_reached(attempt in 1_u32..9, seed: u64) {
            prop_assert!(delay(attempt, seed) < delay(attempt + 1, seed));
        }

        #[test]
        fn what_the_destination_asks_for_is_obeyed(millis in 0_u64..300_000, asked in 0_u64..=3600, seed: u64) {
            let (wait, asked) = (Duration::from_millis(millis), Duration::from_secs(asked));
            let longest = Duration::from_hours(1);
            let obeyed = obeying(wait, Some(asked), longest, seed);
            prop_assert!(obeyed >= wait.max(asked) && obeyed <= wait.max(asked * 12 / 10));
            prop_assert!(obeyed <= longest);
            prop_assert_eq!(obeying(wait, None, longest, seed), wait);
        }
    }
}
