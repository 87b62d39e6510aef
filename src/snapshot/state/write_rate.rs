//! How fast the log of one environment may grow.

use std::time::Duration;

use crate::time::Moment;

/// How many bytes a second are written for an environment, on average. An artifact that changes in more workloads than an
/// entry holds has the whole state written each time: without this, whoever restarts such an artifact all the time could
/// fill the store.
const BYTES_PER_SECOND: u32 = 64 << 10;
/// For how long an environment may save up what it does not write, so that big changes are not delayed: 4 MiB.
const SAVED_UP: Duration = Duration::from_secs(64);

/// How much has been written for an environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteRate {
    /// When so much could have been written at the average rate.
    until: Moment,
}

impl WriteRate {
    /// So many bytes have been written.
    pub fn note(&mut self, bytes: usize, now: Moment) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.until = self.until.max(now) + Duration::from_secs(1) * bytes / BYTES_PER_SECOND;
    }

    /// When a change may be written that takes the whole state.
    pub fn next_whole(self) -> Moment {
        self.until.before(SAVED_UP)
    }

    /// When anything may be written. Other changes may borrow as much as may be saved up, so that they need not wait for
    /// those that take the whole state.
    pub fn next(self) -> Moment {
        self.until.before(2 * SAVED_UP)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_changes_may_be_4_mib_ahead_of_those_that_take_the_whole_state() {
        let written_at_once = |next: fn(WriteRate) -> Moment| {
            let (mut rate, now) = (WriteRate::default(), Moment::from_secs(1_000));
            let mut written = 0;
            while next(rate) <= now {
                rate.note(1 << 10, now);
                written += 1 << 10;
            }
            written
        };
        let whole = written_at_once(WriteRate::next_whole);
        assert_eq!(written_at_once(WriteRate::next) - whole, 4 << 20);
    }

    proptest! {
        #[test]
        fn a_log_grows_by_at_most_the_rate_and_what_was_saved_up_and_borrowed(
            writes in prop::collection::vec((1..2_000_000_usize, 0..100_u64), 1..200),
        ) {
            let mut rate = WriteRate::default();
            let start = Moment::from_secs(1_000);
            let (mut now, mut before) = (start, 0);
            for (bytes, idle) in writes {
                now = (now + Duration::from_secs(idle)).max(rate.next());
                let seconds = (now - start).as_secs_f64() + 2.0 * SAVED_UP.as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let written = before as f64;
                prop_assert!(written <= seconds * f64::from(BYTES_PER_SECOND) + 1_000.0);
                rate.note(bytes, now);
                before += bytes;
            }
        }

        #[test]
        fn a_log_that_grows_more_slowly_is_never_delayed(
            sizes in prop::collection::vec(1..4_000_000_usize, 1..50),
        ) {
            let mut rate = WriteRate::default();
            let mut now = Moment::from_secs(1_000);
            for bytes in sizes {
                prop_assert!(rate.next_whole() <= now);
                rate.note(bytes, now);
                now += SAVED_UP;
            }
        }
    }
}
