//! Remembers what runs without being recorded, and since when. What never settles is never recorded; the rules have to judge
//! it all the same, or whoever keeps a workload restless, or starts it for a moment again and again, would be past them.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cluster::image::Fingerprint,
    snapshot::{
        census::Census,
        ledger::{Ledger, Place},
    },
    time::Moment,
};

/// How many artifacts in a namespace are remembered that are gone without having been recorded: the newest ones.
const GONE: usize = 100;
/// Of how many at most anything is remembered after they are gone: a log that can't be written for long is not tidied either.
const MOST: usize = 20_000;

/// What runs without being recorded, or did before it was gone.
#[derive(Clone, Debug, Default)]
pub struct Unrecorded(BTreeMap<Place, Sight>);

/// When an artifact was seen that is not recorded.
#[derive(Clone, Copy, Debug)]
struct Sight {
    first: Moment,
    /// Since when it does not run any more.
    gone: Option<Moment>,
}

impl Unrecorded {
    /// Notes whether an artifact runs without being recorded.
    pub fn observe(&mut self, place: Place, census: &Census, ledger: &Ledger, now: Moment) {
        if ledger.is_in(&place) {
            self.0.remove(&place);
        } else if census.is_in(&place) {
            let first = Sight {
                first: now,
                gone: None,
            };
            self.0.entry(place).or_insert(first).gone = None;
        } else if self.0.len() > MOST {
            self.0.remove(&place);
        } else if let Some(sight) = self.0.get_mut(&place) {
            sight.gone.get_or_insert(now);
        }
    }

    /// Observes all that runs.
    pub fn rebuild(&mut self, census: &Census, ledger: &Ledger, now: Moment) {
        let known: Vec<Place> = self.0.keys().cloned().collect();
        for place in census.places().cloned().chain(known) {
            self.observe(place, census, ledger, now);
        }
    }

    /// Forgets what is recorded by now, and what is gone if that is too much.
    pub fn tidy(&mut self, ledger: &Ledger) {
        self.0.retain(|place, _| !ledger.is_in(place));
        if self.0.values().filter(|it| it.gone.is_some()).count() <= GONE {
            return; // as nearly always
        }
        let mut gone: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
        for ((_, namespace), sight) in &self.0 {
            gone.entry(namespace).or_default().extend(sight.gone);
        }
        let oldest = gone.into_iter().filter_map(|(namespace, mut gone)| {
            gone.sort_unstable_by(|a, b| b.cmp(a));
            Some((Box::from(namespace), *gone.get(GONE)?))
        });
        let oldest: BTreeMap<Box<str>, Moment> = oldest.collect();
        self.0.retain(|(_, namespace), sight| {
            let oldest = oldest.get(&**namespace);
            oldest.is_none_or(|oldest| sight.gone.is_none_or(|gone| gone > *oldest))
        });
    }

    /// What runs without being recorded, and when it was seen first, here or elsewhere: so long ago, or else it `lacks`
    /// something, as far as that is known. And when the next will have been seen so long ago.
    pub fn late(
        &self,
        wait: Duration,
        lacks: impl Fn(&Fingerprint) -> bool,
        now: Moment,
    ) -> (BTreeMap<Place, Moment>, Option<Moment>) {
        let mut firsts: BTreeMap<Fingerprint, Moment> = BTreeMap::new();
        for ((fingerprint, _), sight) in &self.0 {
            let first = firsts.entry(*fingerprint).or_insert(sight.first);
            *first = sight.first.min(*first);
        }
        let running = self.0.iter().filter(|(_, sight)| sight.gone.is_none());
        let running = running.filter_map(|(place, _)| Some((place, *firsts.get(&place.0)?)));
        let (mut late, mut next) = (BTreeMap::new(), None::<Moment>);
        for (place, first) in running {
            let due = first + wait;
            if due <= now || lacks(&place.0) {
                late.insert(place.clone(), first);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (late, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::scope::Scope, simulation::testing::digest};

    #[test]
    fn what_is_gone_without_having_been_recorded_is_remembered_up_to_a_number() {
        let ledger = Ledger::empty(Scope::default());
        let place = |number: u64| (digest(&number.to_string()), "shop".into());
        let mut unrecorded = Unrecorded::default();
        let (runs, gone) = (Census::running(&[place(0)]), Census::default());
        unrecorded.observe(place(0), &runs, &ledger, Moment::ZERO);
        let elsewhere: Place = (digest("elsewhere"), "ci".into());
        let runs = Census::running(std::slice::from_ref(&elsewhere));
        unrecorded.observe(elsewhere.clone(), &runs, &ledger, Moment::ZERO);
        unrecorded.observe(elsewhere.clone(), &gone, &ledger, Moment::ZERO);
        let many = u64::try_from(GONE).unwrap() + 20;
        for number in 1..=many {
            let now = Moment::from_secs(number);
            unrecorded.observe(
                place(number),
                &Census::running(&[place(number)]),
                &ledger,
                now,
            );
            unrecorded.observe(place(number), &gone, &ledger, now);
            unrecorded.tidy(&ledger);
        }
        assert!(unrecorded.0.contains_key(&place(0)), "it runs");
        assert_eq!(unrecorded.0.len(), GONE + 2);
        assert!(unrecorded.0.contains_key(&elsewhere), "another namespace");
        assert!(unrecorded.0.contains_key(&place(many)), "the newest stay");
        assert!(!unrecorded.0.contains_key(&place(1)));
    }

    #[test]
    fn what_is_gone_is_remembered_within_bounds_while_the_log_can_t_be_written() {
        let ledger = Ledger::empty(Scope::default());
        let mut unrecorded = Unrecorded::default();
        for number in 0..MOST + 100 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let place: Place = (Fingerprint(bytes), "shop".into());
            let runs = Census::running(std::slice::from_ref(&place));
            unrecorded.observe(place.clone(), &runs, &ledger, Moment::ZERO);
            unrecorded.observe(place, &Census::default(), &ledger, Moment::ZERO);
        }
        assert!(unrecorded.0.len() <= MOST + 1, "{}", unrecorded.0.len());
    }
}
