//! What the list/watch loop of a kind does next, as a function of what happened so far.

use std::time::Duration;

use crate::{
    backoff::{self, Backoff},
    time::Moment,
};

/// Pauses between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How far the loop has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// A list is needed.
    Unlisted,
    /// The server allows lists and refuses watches. That is checked before the next list, or each list would look as if all
    /// were well.
    WatchForbidden,
    /// A watch can begin.
    Current,
    /// A watch can be resumed, unless the server is behind.
    Interrupted,
}

/// What the loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchAction {
    /// Asks whether watches are still refused.
    ProbeWatch,
    /// Reads a complete list.
    List,
    /// Asks how far the server is. One that is not as far as we are was set back to an older state: a watch from where we
    /// are would be answered by silence.
    CheckServer,
    /// Watches until the stream ends.
    Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it should.
    Done,
    /// A new list is needed.
    Relist,
    /// By an error.
    Failed {
        /// We may not read this kind at all.
        forbidden: bool,
        /// What is known is still good, so a watch can be resumed.
        resumable: bool,
    },
}

/// The state of the loop.
#[derive(Clone, Debug)]
pub(crate) struct FollowState {
    position: Position,
    relist_at: Moment,
    relist_every: Duration,
    backoff: Backoff,
    /// The last watch ended at once: the next one waits.
    unproven: bool,
}

impl FollowState {
    /// Nothing is known. What a watch lost is found by a new list after `relist_every`, and up to a fifth more.
    pub(crate) fn new(relist_every: Duration) -> Self {
        Self {
            position: Position::Unlisted,
            relist_at: Moment::default(),
            relist_every,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            unproven: false,
        }
    }

    /// When the next list is due.
    pub(crate) fn relist_at(&self) -> Moment {
        self.relist_at
    }

    /// What to do next.
    pub(crate) fn next(&self, now: Moment) -> WatchAction {
        match self.position {
            Position::WatchForbidden => WatchAction::ProbeWatch,
            Position::Unlisted => WatchAction::List,
            _ if now >= self.relist_at => WatchAction::List,
            Position::Interrupted => WatchAction::CheckServer,
            Position::Current => WatchAction::Watch,
        }
    }

    /// Takes in how an action ended, and returns how long to wait before the next. `proven`: the action has shown that the
    /// server answers well.
    pub(crate) fn step(
        &mut self,
        action: WatchAction,
        ended: Ended,
        proven: bool,
        now: Moment,
        random: u64,
    ) -> Duration {
        if proven {
            self.backoff.reset();
            self.unproven = false;
        }
        match (action, ended) {
            (WatchAction::ProbeWatch, Ended::Done) => self.position = Position::Unlisted,
            (WatchAction::CheckServer, Ended::Done) => self.position = Position::Current,
            (WatchAction::List, Ended::Done) => {
                self.position = Position::Current;
                let spread = backoff::part(self.relist_every / 5, random);
                self.relist_at = now + self.relist_every + spread;
            }
            (WatchAction::Watch, Ended::Done) => {
                self.position = Position::Interrupted;
                return self.pause_if_unproven(proven, random);
            }
            (_, Ended::Relist) => {
                self.position = Position::Unlisted;
                return self.pause_if_unproven(proven, random);
            }
            (
                _,
                Ended::Failed {
                    forbidden,
                    resumable,
                },
            ) => {
                self.position = match action {
                    WatchAction::ProbeWatch => Position::WatchForbidden,
                    WatchAction::Watch if forbidden => Position::WatchForbidden,
                    // A list is dear, and a watch that can't be resumed says so.
                    _ if resumable => Position::Interrupted,
                    _ => Position::Unlisted,
                };
                self.unproven = false;
                let pause = self.backoff.take(random);
                if action == WatchAction::List {
                    self.relist_at = now + pause + self.backoff.next();
                }
                return pause;
            }
        }
        Duration::ZERO
    }

    fn pause_if_unproven(&mut self, proven: bool, random: u64) -> Duration {
        if std::mem::replace(&mut self.unproven, !proven) {
            self.backoff.take(random)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FAILED: Ended = Ended::Failed {
        forbidden: false,
        resumable: true,
    };
    const LOST: Ended = Ended::Failed {
        forbidden: false,
        resumable: false,
    };
    const FORBIDDEN: Ended = Ended::Failed {
        forbidden: true,
        resumable: false,
    };

    /// Plays actions that end like this at 0 s, without jitter: the pause after the last of them, and what comes then.
    fn play(steps: &[(WatchAction, Ended, bool)]) -> (u128, WatchAction) {
        let mut state = FollowState::new(1_800 * SECOND);
        let mut pause = Duration::ZERO;
        let mut now = Moment::default();
        for (action, ended, proven) in steps {
            assert_eq!(state.next(now), *action, "{steps:?}");
            pause = state.step(*action, *ended, *proven, now, 0);
            now += pause;
        }
        (pause.as_millis(), state.next(now))
    }

    #[test]
    fn each_end_of_an_action_leads_to_the_next() {
        use Ended::{Done, Relist};
        use WatchAction::{CheckServer, List, ProbeWatch, Watch};
        let listed = (List, Done, false);
        for (steps, pause, next) in [
            (&[][..], 0, List),
            (&[listed], 0, Watch),
            (&[(List, Relist, false)], 0, List),
            (&[(List, Relist, false), (List, Relist, false)], 500, List),
            (&[(List, LOST, false)], 500, List),
            (&[(List, LOST, false), (List, LOST, false)], 1_000, List),
            (&[(List, FORBIDDEN, false)], 500, List),
            // A watch that was resumed asks first how far the server is.
            (&[listed, (Watch, Done, true)], 0, CheckServer),
            (
                &[listed, (Watch, Done, true), (CheckServer, Done, false)],
                0,
                Watch,
            ),
            (
                &[listed, (Watch, Done, true), (CheckServer, Relist, false)],
                0,
                List,
            ),
            (
                &[listed, (Watch, Done, true), (CheckServer, FAILED, false)],
                500,
                CheckServer,
            ),
            (&[listed, (Watch, Relist, true)], 0, List),
            (&[listed, (Watch, FAILED, true)], 500, CheckServer),
            (&[listed, (Watch, LOST, true)], 500, List),
            // Watches that end at once come slower and slower.
            (
                &[
                    listed,
                    (Watch, Done, false),
                    (CheckServer, Done, false),
                    (Watch, Done, false),
                ],
                500,
                CheckServer,
            ),
            (
                &[
                    listed,
                    (Watch, Relist, false),
                    listed,
                    (Watch, Relist, false),
                    listed,
                    (Watch, Relist, false),
                ],
                1_000,
                List,
            ),
            // A watch that told something makes up for failures before.
            (
                &[
                    listed,
                    (Watch, FAILED, false),
                    (CheckServer, Done, false),
                    (Watch, FAILED, false),
                    (CheckServer, Done, false),
                    (Watch, FAILED, true),
                ],
                500,
                CheckServer,
            ),
            // Where only watches are refused, no list is read before they are allowed.
            (&[listed, (Watch, FORBIDDEN, false)], 500, ProbeWatch),
            (
                &[
                    listed,
                    (Watch, FORBIDDEN, false),
                    (ProbeWatch, FORBIDDEN, false),
                ],
                1_000,
                ProbeWatch,
            ),
            (
                &[listed, (Watch, FORBIDDEN, false), (ProbeWatch, LOST, false)],
                1_000,
                ProbeWatch,
            ),
            (
                &[listed, (Watch, FORBIDDEN, false), (ProbeWatch, Done, false)],
                0,
                List,
            ),
        ] {
            assert_eq!(play(steps), (pause, next), "{steps:?}");
        }
    }

    #[test]
    fn a_list_is_due_after_its_time_and_when_it_fails_the_watch_goes_on_meanwhile() {
        let at = Moment::from_secs;
        let mut state = FollowState::new(1_800 * SECOND);
        state.step(WatchAction::List, Ended::Done, false, at(10), 0);
        assert_eq!(state.next(at(1_809)), WatchAction::Watch);
        assert_eq!(state.next(at(1_810)), WatchAction::List);
        let pause = state.step(WatchAction::List, FAILED, false, at(1_810), 0);
        assert_eq!(pause, SECOND / 2);
        assert_eq!(state.next(at(1_811)), WatchAction::CheckServer);
        assert_eq!(state.relist_at(), at(1_811) + SECOND / 2);
    }
}
