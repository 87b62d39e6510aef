//! Who may lead, as a function of what was read of the Lease and of this process's own clock.
//!
//! Nobody's wall clock is ever compared; times are written for people. An instance may take over when it saw the record
//! stand still for a term, counted from an answer that had it: the record was written before that. It leads for less than
//! that, counted from before it asked for a write that went through: the record was written after that. So two never lead
//! at once while no instance's clock runs half as fast again as another's (15 s and 10 s), whatever answers are lost, late
//! or stale, because every write names the version that was read. A process that was stopped finds its time run out.
//!
//! A lost answer gives nothing. The next read shows whether the write went through, and then the record is written again:
//! only the answer to a write makes a leader.
//!
//! Three things can be done to a Lease that no instance does: a person deletes it, or writes another holder, or the store is
//! set back. What such a record says about its holder is not believed: who leads writes it anew unless another is named,
//! and everybody else waits a term. Only an instance that has just started, or could not read the Lease meanwhile, can't
//! tell one that was deleted or set back from an honest one; if it leads too early, the other stops when it reads next.
//!
//! A clock that stands still while the machine sleeps (a suspended or moved virtual machine) is beyond this, and so is a
//! request on its way: what leaders write must be harmless when two of them do.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Moment;

/// After so many seconds without a change the record is free.
const TERM: u32 = 15;
/// At most so long a term of others is waited for: a record must not keep everybody from leading for ever. A version of
/// this program with a longer term could not run beside this one.
const LONGEST_TERM: u32 = 60;
/// So many seconds after a write was asked for, who asked stops to lead unless another one went through.
const DEADLINE: u32 = 10;
/// So many records are remembered that were asked for: more than are within a term.
const UNANSWERED: usize = 32;
/// The term in a record that its holder released, as client-go writes it.
const RELEASED: i64 = 1;

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LeaseSpec {
    pub holder_identity: Option<String>,
    pub lease_duration_seconds: Option<i64>,
    pub acquire_time: Option<String>,
    pub renew_time: Option<String>,
    pub lease_transitions: Option<i64>,
}

impl LeaseSpec {
    /// Reads it with care. One that can't be understood is like one whose holder can't: it stands for a term.
    pub fn read(spec: &Value) -> Self {
        let not_understood = Self {
            lease_duration_seconds: Some(TERM.into()),
            ..Self::default()
        };
        Option::deserialize(spec).map_or(not_understood, Option::unwrap_or_default)
    }

    /// Who holds it; empty if nobody.
    pub fn holder(&self) -> &str {
        self.holder_identity.as_deref().unwrap_or_default()
    }

    /// Whether it looks as its holder leaves it, and not as if only the name was removed.
    pub fn is_released(&self) -> bool {
        self.holder().is_empty() && self.lease_duration_seconds == Some(RELEASED)
    }

    /// How many seconds it must stand still.
    fn term(&self) -> u32 {
        let seconds = self.lease_duration_seconds.unwrap_or_default();
        u32::try_from(seconds.clamp(TERM.into(), LONGEST_TERM.into())).unwrap_or(LONGEST_TERM)
    }
}

/// What an instance may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write itself as the new holder.
    Take,
    /// Write that it still holds the Lease.
    Renew,
    /// Wait.
    Follow,
}

/// The record as it was last seen.
#[derive(Clone, Debug)]
struct Seen {
    /// The Lease's version; none if there was no Lease. A store that was set back uses a version again, but not with the
    /// same time.
    version: Option<String>,
    renew_time: Option<String>,
    transitions: i64,
    /// When it is free if it does not change.
    free: Moment,
}

/// One of the instances that would lead.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub name: String,
    /// Whether a record with its name in the first answer is that of its forerunner, which has ended.
    goes_on: bool,
    /// How long a second is. Tests let a clock run fast or slow with it.
    pub second: Duration,
    seen: Option<Seen>,
    /// When it last asked for a write.
    asked: Option<Moment>,
    /// The times in the records that it asked for, which may yet go through or have gone through unheard.
    asked_for: Vec<String>,
    /// Until when it leads.
    until: Option<Moment>,
}

impl Candidate {
    pub fn new(name: String) -> Self {
        Self {
            name,
            goes_on: false,
            second: Duration::from_secs(1),
            seen: None,
            asked: None,
            asked_for: vec![],
            until: None,
        }
    }

    /// Whether it goes on where another of the same name has ended.
    pub fn going_on(self, goes_on: bool) -> Self {
        Self { goes_on, ..self }
    }

    /// Until when it leads, if it does.
    pub fn leads_until(&self, now: Moment) -> Option<Moment> {
        self.until.filter(|until| now < *until)
    }

    /// Takes note of the Lease with this version, or that there is none, and says what may be done. `now` is after the
    /// answer.
    pub fn next(&mut self, version: Option<&str>, spec: &LeaseSpec, now: Moment) -> Step {
        let goes_on = self.goes_on && self.seen.is_none();
        let free = self.see(version, spec, now);
        let holder = spec.holder();
        if holder == self.name && (goes_on || self.is_own(spec, now)) {
            if goes_on {
                self.asked_for.extend(spec.renew_time.clone()); // if the first write fails, it is its own all the same
            }
            Step::Renew
        } else if free <= now || holder.is_empty() && self.leads_until(now).is_some() {
            Step::Take
        } else {
            if !holder.is_empty() {
                // What it asked for before is overwritten, or can't go through any more.
                (self.asked, self.until) = (None, None);
                self.asked_for.clear();
            }
            Step::Follow
        }
    }

    /// What to write for this step. A write that changes nothing would be none to the API server, and others would see the
    /// record stand still: the time in it always differs.
    pub fn record(&self, step: Step, old: &LeaseSpec, wall_clock: Timestamp) -> LeaseSpec {
        let mut time = micros(wall_clock);
        if old.renew_time.as_ref() == Some(&time) {
            time = micros(wall_clock - Duration::from_micros(1));
        }
        let before = self.seen.as_ref().map_or(0, |seen| seen.transitions);
        // The first record counts no change, and what the API server can't count is not counted.
        let changes = i64::from(*old != LeaseSpec::default() || before > 0);
        let is_new = step == Step::Take && old.holder() != self.name;
        let transitions = if is_new { before + changes } else { before };
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(TERM.into()),
            acquire_time: match step {
                Step::Renew => old.acquire_time.clone(),
                _ => Some(time.clone()),
            },
            renew_time: Some(time),
            lease_transitions: Some(transitions.min(i32::MAX.into())),
        }
    }

    /// Asks for this record now.
    pub fn asks(&mut self, record: &LeaseSpec, now: Moment) {
        self.asked = Some(now);
        if self.asked_for.len() >= UNANSWERED {
            self.asked_for.remove(0);
        }
        self.asked_for.extend(record.renew_time.clone());
    }

    /// The write that was asked for went through, and left the Lease at this version.
    pub fn wrote(&mut self, version: Option<&str>, written: &LeaseSpec, now: Moment) {
        self.until = self.asked.map(|asked| asked + self.second * DEADLINE);
        // All before named an older version.
        self.asked_for = written.renew_time.iter().cloned().collect();
        self.see(version, written, now);
    }

    /// Stops to lead, and says whether the Lease may have to be released.
    pub fn stop(&mut self, now: Moment) -> bool {
        self.until = None;
        self.may_hold(now)
    }

    /// What to write to release this Lease; nothing if another holds it, or nobody.
    pub fn released(&self, old: &LeaseSpec, wall_clock: Timestamp) -> Option<LeaseSpec> {
        let time = micros(wall_clock);
        (old.holder() == self.name).then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(RELEASED),
            acquire_time: Some(time.clone()),
            renew_time: Some(time),
            lease_transitions: old.lease_transitions,
        })
    }

    /// Whether a record with its name is its own, and not one into which somebody has written its name: it leads, or asked
    /// for this one.
    fn is_own(&self, record: &LeaseSpec, now: Moment) -> bool {
        let asked_for = |time: &String| self.asked_for.contains(time);
        self.leads_until(now).is_some()
            || self.may_hold(now) && record.renew_time.as_ref().is_some_and(asked_for)
    }

    /// Whether a record with its name can be its own: it asked for one within a term.
    fn may_hold(&self, now: Moment) -> bool {
        let asked = self.asked.map(|asked| now.saturating_sub(asked));
        asked.is_some_and(|ago| ago < self.second * TERM)
    }

    /// Takes note of the Lease, and says when it is free.
    fn see(&mut self, version: Option<&str>, spec: &LeaseSpec, now: Moment) -> Moment {
        let before = self.seen.as_ref();
        let is_same =
            |seen: &&Seen| seen.version.as_deref() == version && seen.renew_time == spec.renew_time;
        if let Some(seen) = before.filter(is_same) {
            return seen.free;
        }
        let known = before.map_or(0, |seen| seen.transitions);
        let transitions = spec
            .lease_transitions
            .map_or(known, |count| count.clamp(0, i32::MAX.into()));
        let is_unused = before.is_none() && *spec == LeaseSpec::default();
        // A count that fell back shows a store that was set back: somebody may hold it by now.
        let is_released = spec.is_released() && known <= transitions;
        let wait = if is_unused || is_released {
            Duration::ZERO
        } else {
            self.second * spec.term()
        };
        let seen = self.seen.insert(Seen {
            version: version.map(str::to_owned),
            renew_time: spec.renew_time.clone(),
            transitions,
            free: now + wait,
        });
        seen.free
    }
}

/// A time of the wall clock as Kubernetes writes it into a Lease.
fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::simulation::testing::reader_tries;

    const RENEWED: &str = "2026-01-01T00:00:00.000000Z";

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn wall_clock() -> Timestamp {
        RENEWED.parse().unwrap()
    }

    /// A record of this holder, with its term and its count of changes.
    fn spec(holder: &str, seconds: i64, transitions: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(RENEWED.to_owned()),
            renew_time: Some(RENEWED.to_owned()),
            lease_transitions: Some(transitions),
        }
    }

    fn nothing() -> LeaseSpec {
        LeaseSpec::default()
    }

    /// An instance that reads these: when, version, record, and what it may do then.
    fn reads(me: &mut Candidate, all: &[(u64, Option<&str>, LeaseSpec, Step)]) {
        for (second, version, spec, step) in all {
            let told = me.next(*version, spec, at(*second));
            assert_eq!(told, *step, "{second} s: {version:?} {spec:?}");
        }
    }

    fn me() -> Candidate {
        Candidate::new("me".to_owned())
    }

    /// An instance that leads since a write of version 1 that it asked for at 0 s.
    fn leader() -> Candidate {
        let mut me = me();
        assert_eq!(me.next(None, &nothing(), at(0)), Step::Take);
        me.asks(&spec("me", 15, 0), at(0));
        me.wrote(Some("1"), &spec("me", 15, 0), at(1));
        me
    }

    #[test]
    fn what_was_never_held_and_what_was_released_is_free_at_once() {
        for (version, free) in [
            (None, nothing()),
            (Some("1"), nothing()),
            (Some("1"), spec("", 1, 3)),
        ] {
            reads(&mut me(), &[(0, version, free, Step::Take)]);
        }
        let held = |version, second| (second, version, spec("other", 15, 3), Step::Follow);
        let released = (6, Some("2"), spec("", 1, 3), Step::Take);
        reads(&mut me(), &[held(Some("1"), 5), released]);
        let missed_one = (6, Some("9"), spec("", 1, 8), Step::Take);
        reads(&mut me(), &[held(Some("1"), 5), missed_one]);
    }

    #[test]
    fn a_record_of_another_is_free_when_it_stood_still_for_a_term() {
        let held = |version, second, step| (second, Some(version), spec("other", 15, 3), step);
        reads(
            &mut me(),
            &[
                held("1", 100, Step::Follow),
                held("1", 114, Step::Follow),
                held("2", 115, Step::Follow),
                held("2", 129, Step::Follow),
                held("2", 130, Step::Take),
                held("1", 131, Step::Follow),
                held("2", 145, Step::Follow),
                held("2", 160, Step::Take),
            ],
        );
    }

    #[test]
    fn a_term_is_waited_for_between_15_and_60_seconds_whatever_the_record_says() {
        let of = |seconds| LeaseSpec {
            lease_duration_seconds: seconds,
            ..spec("other", 0, 0)
        };
        for (seconds, waits) in [
            (None, 15),
            (Some(i64::MIN), 15),
            (Some(-1), 15),
            (Some(0), 15),
            (Some(1), 15),
            (Some(15), 15),
            (Some(30), 30),
            (Some(60), 60),
            (Some(61), 60),
            (Some(i32::MAX.into()), 60),
            (Some(i64::MAX), 60),
        ] {
            let before = (waits - 1, Some("1"), of(seconds), Step::Follow);
            let after = (waits, Some("1"), of(seconds), Step::Take);
            let first = (0, Some("1"), of(seconds), Step::Follow);
            reads(&mut me(), &[first, before, after]);
        }
    }

    #[test]
    fn a_record_that_only_lost_its_holder_stands_for_a_term_to_all_but_its_leader() {
        for emptied in [spec("", 15, 0), spec("", 0, 0), nothing()] {
            let read = |second, step| (second, Some("2"), emptied.clone(), step);
            let held = (0, Some("1"), spec("other", 15, 0), Step::Follow);
            reads(
                &mut me(),
                &[held, read(1, Step::Follow), read(16, Step::Take)],
            );
            reads(&mut leader(), &[read(2, Step::Take)]);
            let too_late = [
                read(10, Step::Follow),
                read(24, Step::Follow),
                read(25, Step::Take),
            ];
            reads(&mut leader(), &too_late);
        }
    }

    #[test]
    fn a_lease_that_was_deleted_is_made_anew_by_its_leader_or_after_a_term() {
        let gone = |second, step| (second, None, nothing(), step);
        let held = (0, Some("1"), spec("other", 15, 7), Step::Follow);
        let mut other = me();
        reads(
            &mut other,
            &[held, gone(1, Step::Follow), gone(15, Step::Follow)],
        );
        reads(&mut other, &[gone(16, Step::Take)]);
        let made = other.record(Step::Take, &nothing(), wall_clock());
        assert_eq!(made.lease_transitions, Some(8));
        reads(&mut leader(), &[gone(2, Step::Take)]);
    }

    #[test]
    fn a_release_in_a_store_that_was_set_back_is_not_believed() {
        let held = (0, Some("9"), spec("other", 15, 7), Step::Follow);
        let back = |second, step| (second, Some("5"), spec("", 1, 6), step);
        reads(
            &mut me(),
            &[held, back(1, Step::Follow), back(15, Step::Follow)],
        );
        let mut leader = leader();
        reads(
            &mut leader,
            &[(2, Some("2"), spec("me", 15, 7), Step::Renew)],
        );
        reads(&mut leader, &[back(3, Step::Take)]);
    }

    #[test]
    fn a_version_that_a_store_uses_again_after_it_was_set_back_is_another_record() {
        let new = LeaseSpec {
            renew_time: Some("2026-01-01T00:01:00.000000Z".to_owned()),
            ..spec("new", 15, 7)
        };
        let new = |second, step| (second, Some("9"), new.clone(), step);
        let held = (0, Some("9"), spec("other", 15, 7), Step::Follow);
        reads(
            &mut me(),
            &[
                held,
                new(14, Step::Follow),
                new(28, Step::Follow),
                new(29, Step::Take),
            ],
        );
    }

    #[test]
    fn a_record_with_its_name_is_its_own_only_if_it_asked_for_it() {
        let mine = |second, step| (second, Some("3"), spec("me", 15, 1), step);
        // Somebody else wrote it.
        let mut follower = me();
        reads(
            &mut follower,
            &[mine(0, Step::Follow), mine(14, Step::Follow)],
        );
        reads(&mut follower, &[mine(15, Step::Take)]);
        // The answer was lost.
        let mut lost = me();
        reads(&mut lost, &[(0, Some("2"), spec("", 1, 0), Step::Take)]);
        lost.asks(&spec("me", 15, 1), at(0));
        assert_eq!(lost.leads_until(at(0)), None);
        reads(&mut lost, &[mine(3, Step::Renew)]);
        assert_eq!(
            lost.leads_until(at(3)),
            None,
            "only an answer makes a leader"
        );
        // It asked for others, and did not see that another one wrote this before a person put its name there.
        let mut stopped = me();
        reads(&mut stopped, &[(0, Some("2"), spec("", 1, 0), Step::Take)]);
        let other = LeaseSpec {
            renew_time: Some("2026-01-01T00:01:00.000000Z".to_owned()),
            ..spec("me", 15, 1)
        };
        stopped.asks(&other, at(0));
        reads(&mut stopped, &[mine(3, Step::Follow)]);
        // Another one was faster, and a person gave it the record of that one.
        let mut slow = me();
        reads(&mut slow, &[(0, Some("2"), spec("", 1, 0), Step::Take)]);
        slow.asks(&spec("me", 15, 1), at(0));
        reads(
            &mut slow,
            &[(1, Some("4"), spec("other", 15, 1), Step::Follow)],
        );
        reads(
            &mut slow,
            &[(2, Some("5"), spec("me", 15, 1), Step::Follow)],
        );
    }

    #[test]
    fn one_that_goes_on_and_whose_first_write_fails_asks_again() {
        let mut me = me().going_on(true);
        let own = |second| (second, Some("3"), spec("me", 15, 1), Step::Renew);
        reads(&mut me, &[own(0)]);
        let asked = LeaseSpec {
            renew_time: Some("2026-01-01T00:01:00.000000Z".to_owned()),
            ..spec("me", 15, 1)
        };
        me.asks(&asked, at(0));
        reads(&mut me, &[own(2)]);
    }

    #[test]
    fn a_leader_leads_until_ten_seconds_after_it_asked_or_until_another_is_named() {
        let mut me = leader();
        assert_eq!(me.leads_until(at(1)), Some(at(10)));
        assert_eq!(me.leads_until(at(10)), None);
        me.asks(&spec("me", 15, 0), at(9));
        assert_eq!(me.leads_until(at(10)), None, "to ask is not enough");
        me.wrote(Some("2"), &spec("me", 15, 0), at(11));
        assert_eq!(me.leads_until(at(11)), Some(at(19)));
        reads(
            &mut me,
            &[(12, Some("3"), spec("other", 15, 1), Step::Follow)],
        );
        assert_eq!(me.leads_until(at(12)), None);
    }

    #[test]
    fn a_leader_that_was_stopped_leads_again_if_nobody_wrote_meanwhile() {
        let stands = |second, step| (second, Some("1"), spec("me", 15, 0), step);
        reads(&mut leader(), &[stands(16, Step::Take)]);
        let mut me = leader();
        me.asks(&spec("me", 15, 4), at(2));
        // Its last write went through, as it learns only now: others may have waited for less than a term.
        let wrote = |second, step| (second, Some("2"), spec("me", 15, 0), step);
        reads(&mut me, &[wrote(60, Step::Follow), wrote(75, Step::Take)]);
        let again = me.record(Step::Take, &spec("me", 15, 4), wall_clock());
        assert_eq!(again.lease_transitions, Some(0), "the holder is the same");
    }

    #[test]
    fn the_record_reads_as_that_of_any_client() {
        let mut me = leader();
        let first = me.record(Step::Take, &nothing(), wall_clock());
        assert_eq!(
            json!(first),
            json!({
                "holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 0,
                "acquireTime": MicroTime(wall_clock()), "renewTime": MicroTime(wall_clock()),
            })
        );
        let later = wall_clock() + Duration::from_secs(2);
        let renewed = me.record(Step::Renew, &first, later);
        let time = Some("2026-01-01T00:00:02.000000Z".to_owned());
        let want = LeaseSpec {
            renew_time: time.clone(),
            ..first
        };
        assert_eq!(renewed, want);
        let released = me.released(&renewed, later).unwrap();
        let want = LeaseSpec {
            acquire_time: time,
            ..spec("", 1, 0)
        };
        assert_eq!(
            released,
            LeaseSpec {
                renew_time: want.acquire_time.clone(),
                ..want
            }
        );
        assert!(released.is_released());
        assert_eq!(me.released(&spec("other", 15, 1), later), None);
        me.next(Some("8"), &spec("other", 15, 8), at(20));
        let taken = me.record(Step::Take, &spec("other", 15, 8), later);
        assert_eq!(taken.lease_transitions, Some(9));
    }

    #[test]
    fn a_clock_that_stands_still_does_not_make_a_record_stand_still() {
        let me = leader();
        let mut record = me.record(Step::Take, &nothing(), wall_clock());
        for _ in 0..5 {
            let renewed = me.record(Step::Renew, &record, wall_clock());
            assert_ne!(renewed, record);
            record = renewed;
        }
    }

    #[test]
    fn what_can_not_be_understood_stands_for_a_term() {
        for not_understood in [
            json!(5),
            json!("held"),
            json!({"holderIdentity": 5}),
            json!({"leaseTransitions": 1e300}),
        ] {
            let spec = LeaseSpec::read(&not_understood);
            let read = |second, step| (second, Some("1"), spec.clone(), step);
            reads(
                &mut me(),
                &[
                    read(0, Step::Follow),
                    read(14, Step::Follow),
                    read(15, Step::Take),
                ],
            );
        }
        for empty in [json!(null), json!({}), json!({"other": 5})] {
            assert_eq!(LeaseSpec::read(&empty), nothing());
        }
    }

    #[test]
    fn changes_are_counted_as_far_as_the_api_server_can() {
        for (count, next) in [
            (i64::MIN, 1),
            (-1, 1),
            (i32::MAX.into(), i32::MAX),
            (i64::MAX, i32::MAX),
        ] {
            let mut me = me();
            let old = spec("other", 15, count);
            me.next(Some("1"), &old, at(0));
            let record = me.record(Step::Take, &old, wall_clock());
            assert_eq!(record.lease_transitions, Some(next.into()), "{count}");
        }
    }

    proptest! {
        #![proptest_config(reader_tries())]

        #[test]
        fn whatever_a_record_says_it_is_waited_for_a_term_and_not_for_ever(
            holder: String,
            seconds: Option<i64>,
            transitions: Option<i64>,
            acquired: Option<String>,
        ) {
            prop_assume!(!holder.is_empty());
            let spec = LeaseSpec {
                holder_identity: Some(holder),
                lease_duration_seconds: seconds,
                acquire_time: acquired.clone(),
                renew_time: acquired,
                lease_transitions: transitions,
            };
            prop_assert_eq!(&LeaseSpec::read(&json!(spec)), &spec);
            let mut me = me();
            for second in 0..15 {
                prop_assert_eq!(me.next(Some("1"), &spec, at(second)), Step::Follow);
            }
            prop_assert_eq!(me.next(Some("1"), &spec, at(60)), Step::Take);
            let count = me.record(Step::Take, &spec, wall_clock()).lease_transitions;
            prop_assert!(count.is_some_and(|count| (0..=i32::MAX.into()).contains(&count)));
        }
    }
}
