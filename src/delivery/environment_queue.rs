//! The lanes of a setting: how far the log of each of its environments has been sent, and which of them may go on.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    api::setting::Cursor,
    delivery::outbox::{AckWindow, Backlog},
    snapshot::environments::EnvironmentInfo,
    time::Moment,
};

/// How far the log of one environment has been sent.
#[derive(Clone, Debug)]
pub struct EnvironmentQueue {
    /// Tells this lane from an earlier one of the same environment, whose last request may still be under way.
    pub token: u64,
    /// Where sending stands.
    pub cursor: Cursor,
    /// What was sent that the status doesn't know of.
    pub ahead: AckWindow,
    /// What waits, as far as it was counted.
    pub backlog: Backlog,
    /// A request is under way.
    pub busy: bool,
    /// Nothing is left to send up to this snapshot.
    pub seen: i64,
    /// The number of the newest snapshot.
    pub head: i64,
    /// How often in a row the log could not be read, and until when it is not read again.
    pub unread: (u32, Moment),
    /// Its environment is gone since then, so it ends when nothing is left.
    pub ending: Option<Moment>,
}

impl EnvironmentQueue {
    fn at(token: u64, cursor: Cursor) -> Self {
        let index = cursor.index;
        Self {
            token,
            cursor,
            ahead: AckWindow::default(),
            backlog: Backlog::default(),
            busy: false,
            seen: index,
            head: index,
            unread: (0, Moment::ZERO),
            ending: None,
        }
    }

    /// Its environment is gone, and nothing that we know of its log is left to send.
    pub fn is_through(&self) -> bool {
        self.ending.is_some()
            && !self.busy
            && self.cursor.index >= self.head
            && self.cursor.unreported_gap.is_none()
    }

    /// Whether something may be left to send.
    fn waits(&self) -> bool {
        self.seen < self.head || self.cursor.unreported_gap.is_some()
    }

    /// A gap is told only when the status knows of it: what is told follows from it alone, so that after a crash the same
    /// is told again. A status that has passed it and doesn't hold it is of a definition that is older than this program;
    /// that must not hold it up.
    fn may_tell(&self, written: &[Cursor]) -> bool {
        let here = &self.cursor;
        let knows = |there: &&Cursor| {
            let passed = there.unreported_gap.is_none() && there.index >= here.index;
            there.environment_uid == here.environment_uid
                && (passed || there.unreported_gap == here.unreported_gap)
        };
        here.unreported_gap.is_none() || written.iter().any(|there| knows(&there))
    }

    fn is_ready(&self, written: &[Cursor], now: Moment) -> bool {
        !self.busy
            && self.waits()
            && self.ahead.may_send(now)
            && self.unread.1 <= now
            && self.may_tell(written)
    }
}

/// How far each lane had been sent ahead at some moment.
pub type Counted = Vec<(String, u64, AckWindow)>;

/// All lanes of a setting, by the UID of the environment.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentQueues {
    lanes: BTreeMap<String, EnvironmentQueue>,
    tokens: u64,
}

impl EnvironmentQueues {
    /// Opens a lane at a cursor, in the place of any that its environment had.
    pub fn open(&mut self, cursor: Cursor) -> &mut EnvironmentQueue {
        self.tokens += 1;
        let uid = cursor.environment_uid.clone();
        let lane = EnvironmentQueue::at(self.tokens, cursor);
        self.lanes.insert(uid.clone(), lane);
        self.lanes.get_mut(&uid).expect("it was just put there")
    }

    /// The lane of an environment.
    pub fn get(&self, uid: &str) -> Option<&EnvironmentQueue> {
        self.lanes.get(uid)
    }

    /// The lane of an environment.
    pub fn get_mut(&mut self, uid: &str) -> Option<&mut EnvironmentQueue> {
        self.lanes.get_mut(uid)
    }

    /// The lane of an environment, if it is still the same one.
    pub fn same(&mut self, uid: &str, token: u64) -> Option<&mut EnvironmentQueue> {
        self.lanes.get_mut(uid).filter(|lane| lane.token == token)
    }

    /// Closes a lane.
    pub fn close(&mut self, uid: &str) -> Option<EnvironmentQueue> {
        self.lanes.remove(uid)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &EnvironmentQueue> {
        self.lanes.values()
    }

    /// The UIDs of their environments.
    pub fn uids(&self) -> Vec<String> {
        self.lanes.keys().cloned().collect()
    }

    /// Where they stand.
    pub fn cursors(&self) -> Vec<Cursor> {
        self.iter().map(|lane| lane.cursor.clone()).collect()
    }

    /// Other events may be asked for now: what was passed over as nothing to send may be something.
    pub fn ask_anew(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.seen = lane.cursor.index;
            lane.backlog = Backlog::default();
        }
    }

    /// Whether any request is under way.
    pub fn any_busy(&self) -> bool {
        self.iter().any(|lane| lane.busy)
    }

    /// Whether anything is under way or may be left to send.
    pub fn any_unfinished(&self) -> bool {
        self.iter().any(|lane| lane.busy || lane.waits())
    }

    /// Whether a lane can't go on before its cursor is written.
    pub fn any_full(&self) -> bool {
        self.iter().any(|lane| lane.ahead.is_full())
    }

    /// Whether anything was sent that the status doesn't know of.
    pub fn any_ahead(&self) -> bool {
        self.iter().any(|lane| lane.ahead.any())
    }

    /// How far each is ahead.
    pub fn counted(&self) -> Counted {
        let of = |(uid, lane): (&String, &EnvironmentQueue)| (uid.clone(), lane.token, lane.ahead);
        self.lanes.iter().map(of).collect()
    }

    /// The status knows of what was counted.
    pub fn written(&mut self, counted: &Counted, now: Moment) {
        for (uid, token, ahead) in counted {
            if let Some(lane) = self.same(uid, *token) {
                lane.ahead.written(*ahead, now);
            }
        }
    }

    /// The status knows of all that was sent.
    pub fn all_written(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.ahead = AckWindow::default();
        }
    }

    /// The lanes that have something to send and may. `written`: the cursors that the status has.
    pub fn ready(&self, written: &[Cursor], now: Moment) -> Vec<String> {
        let ready = |(_, lane): &(&String, &EnvironmentQueue)| lane.is_ready(written, now);
        let ready = self.lanes.iter().filter(ready);
        ready.map(|(uid, _)| uid.clone()).collect()
    }

    /// When the next log that could not be read is read again.
    pub fn next_read(&self, now: Moment) -> Option<Moment> {
        let moments = self.iter().map(|lane| lane.unread.1);
        moments.filter(|moment| *moment > now).min()
    }

    /// Whether the environment of any is gone.
    pub fn any_ending(&self) -> bool {
        self.iter().any(|lane| lane.ending.is_some())
    }

    /// The lanes that end now, each with the reason: their environment is not asked for any more, or may not be seen; or it
    /// was deleted, and what is left has failed for too long. `names`: the environments that are asked for; `None`: all.
    /// `failing`: for how long what is left is tried, if attempts fail.
    pub fn ended(
        &mut self,
        names: Option<&Vec<String>>,
        all: &BTreeMap<String, EnvironmentInfo>,
        namespace: &str,
        failing: Option<Duration>,
        now: Moment,
    ) -> Vec<(String, &'static str)> {
        let mut ended = vec![];
        for (uid, lane) in &mut self.lanes {
            let name = &lane.cursor.environment;
            let listed = names.is_none_or(|names| names.contains(name));
            match all.get(name).filter(|known| known.uid == *uid) {
                _ if !listed => ended.push((uid.clone(), "EnvironmentLeft")),
                Some(known) if !known.is_visible_to(namespace) => {
                    ended.push((uid.clone(), "EnvironmentNotVisible"));
                }
                Some(_) => lane.ending = None,
                None => {
                    let since = *lane.ending.get_or_insert(now);
                    if failing.is_some_and(|most| now.saturating_sub(since) > most) {
                        ended.push((uid.clone(), "EnvironmentDeleted"));
                    }
                }
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::setting::UnreportedGap;

    type Change = fn(&mut EnvironmentQueue);

    fn cursor(uid: &str, index: i64) -> Cursor {
        Cursor {
            environment: format!("env-{uid}"),
            environment_uid: uid.to_owned(),
            index,
            ordinal: 0,
            unreported_gap: None,
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    #[test]
    fn a_lane_goes_on_when_it_is_idle_has_more_and_may() {
        let mut lanes = EnvironmentQueues::default();
        let cases: [(&str, Change); 6] = [
            ("a", |_| ()),
            ("b", |lane| lane.busy = true),
            ("c", |lane| lane.seen = 9),
            ("d", |lane| lane.unread = (1, at(11))),
            ("e", |lane| lane.unread = (1, at(10))),
            ("f", |lane| lane.ahead.sent(99, at(10))),
        ];
        for (uid, change) in cases {
            let lane = lanes.open(cursor(uid, 4));
            lane.head = 9;
            change(lane);
        }
        assert_eq!(lanes.ready(&[], at(10)), ["a", "e"]);
        assert_eq!(lanes.next_read(at(10)), Some(at(11)));
        assert!(lanes.any_busy() && lanes.any_full() && lanes.any_unfinished());
    }

    #[test]
    fn a_gap_is_told_when_the_status_knows_of_it_even_at_the_head_and_keeps_a_lane_from_ending() {
        let gap = |to| UnreportedGap {
            from: 2,
            to,
            time: Timestamp::UNIX_EPOCH,
        };
        let with = |uid, unreported_gap| Cursor {
            unreported_gap,
            ..cursor(uid, 4)
        };
        let mut lanes = EnvironmentQueues::default();
        let lane = lanes.open(with("a", Some(gap(4))));
        lane.ending = Some(at(1));
        assert!(!lane.is_through());
        assert!(lanes.any_unfinished());
        for (written, ready) in [
            (vec![], false),
            (vec![cursor("a", 3)], false),
            (vec![cursor("a", 4)], true),
            (vec![with("a", Some(gap(3)))], false),
            (vec![with("b", Some(gap(4)))], false),
            (vec![with("b", None), with("a", Some(gap(4)))], true),
        ] {
            assert_eq!(
                !lanes.ready(&written, at(2)).is_empty(),
                ready,
                "{written:?}"
            );
        }
        let lane = lanes.get_mut("a").unwrap();
        lane.cursor.unreported_gap = None;
        assert!(lane.is_through());
    }

    #[test]
    fn what_was_counted_for_an_earlier_lane_of_an_environment_is_not_taken_for_a_later_one() {
        let mut lanes = EnvironmentQueues::default();
        lanes.open(cursor("a", 4)).ahead.sent(3, at(1));
        let counted = lanes.counted();
        lanes.open(cursor("a", 0)).ahead.sent(3, at(2));
        lanes.written(&counted, at(3));
        assert!(lanes.any_ahead());
        let counted = lanes.counted();
        lanes.written(&counted, at(3));
        assert!(!lanes.any_ahead());
    }

    #[test]
    fn a_lane_ends_when_its_environment_is_not_asked_for_or_not_seen_or_gone_and_failing_for_long()
    {
        let known = |uid: &str, visible: &str| EnvironmentInfo {
            uid: uid.to_owned(),
            generation: 1,
            visible_to: vec![visible.to_owned()],
            head: None,
        };
        let all: BTreeMap<_, _> = [
            ("env-a".to_owned(), known("a", "*")),
            ("env-b".to_owned(), known("b", "other")),
            ("env-c".to_owned(), known("another", "*")),
            ("env-d".to_owned(), known("d", "*")),
        ]
        .into();
        let names = ["env-a", "env-b", "env-c"].map(str::to_owned).to_vec();
        let mut lanes = EnvironmentQueues::default();
        for uid in ["a", "b", "c", "d"] {
            lanes.open(cursor(uid, 4));
        }
        let left = [
            ("b".to_owned(), "EnvironmentNotVisible"),
            ("d".to_owned(), "EnvironmentLeft"),
        ];
        let mut ended = |failing: Option<u64>, now| {
            let failing = failing.map(Duration::from_secs);
            lanes.ended(Some(&names), &all, "team", failing, at(now))
        };
        assert_eq!(ended(Some(5), 10), left);
        assert_eq!(ended(Some(5), 15), left);
        assert_eq!(ended(None, 16), left, "what does not fail is sent");
        let all_three = [
            left[0].clone(),
            ("c".to_owned(), "EnvironmentDeleted"),
            left[1].clone(),
        ];
        assert_eq!(ended(Some(5), 16), all_three);
        assert!(lanes.get("c").unwrap().is_through());
        assert!(!lanes.get("a").unwrap().is_through());
    }
}
