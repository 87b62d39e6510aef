//! How far sending may run ahead of the cursor that stands in the status.

use std::time::Duration;

use crate::time::Moment;

/// Nothing more is sent once this many events of an environment are ahead of the cursor in the status: the bound on
/// duplicates after a crash, but for a Slack message, which is sent as a whole (DESIGN.md, "Why one cursor for each setting
/// and environment, in the setting's status?").
pub(crate) const WINDOW: u32 = 32;
/// At most this long.
pub(crate) const WINDOW_TIME: Duration = Duration::from_secs(1);

/// The events of one environment that were delivered and are not acknowledged by a written status yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AckWindow {
    events: u32,
    /// When the first of them was sent.
    since: Option<Moment>,
}

impl AckWindow {
    /// Whether another event may be sent before the status is written.
    pub fn may_send(&self, now: Moment) -> bool {
        self.events < WINDOW && self.since.is_none_or(|since| now < since + WINDOW_TIME)
    }

    /// Whether as many events were sent as may be before the status is written.
    pub fn is_full(&self) -> bool {
        self.events >= WINDOW
    }

    /// Whether anything was sent that the status does not know of.
    pub fn any(&self) -> bool {
        self.events > 0
    }

    pub fn sent(&mut self, events: usize, now: Moment) {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.events = self.events.saturating_add(events);
        self.since.get_or_insert(now);
    }

    /// The status was written as it was when `counted` had been sent.
    pub fn written(&mut self, counted: Self, now: Moment) {
        self.events = self.events.saturating_sub(counted.events);
        self.since = (self.events > 0).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
