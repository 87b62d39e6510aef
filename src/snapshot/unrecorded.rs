//! Remembers what runs without being recorded, and since when. What never settles is never recorded; the rules have to judge
//! it all the same, or whoever keeps a workload restless, or starts it for a moment again and again, would be past them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    cluster::image::Fingerprint,
    snapshot::{
        census::Census,
        ledger::{Ledger, Place},
    },
    time::Moment,
};

/// How many artifacts of a namespace are remembered that are gone without having been recorded.
const GONE: usize = 100;
/// How many of all namespaces.
const MOST: usize = 20_000;

/// What runs without being recorded, or did before it was gone, and when it was seen first.
///
/// What is gone is remembered up to a number, and none of it gives way to another: where no more can be remembered, or once
/// something was not, whatever is seen for the first time may be something that was forgotten, so it is late at once. So no
/// crowd of others makes an artifact forgotten and thereby never judged.
#[derive(Clone, Debug, Default)]
pub struct Unrecorded {
    running: BTreeMap<Place, Moment>,
    gone: BTreeMap<Arc<str>, BTreeMap<Fingerprint, Moment>>,
    /// How many are gone in all namespaces.
    gone_in_all: usize,
    /// The namespaces of which something was forgotten since the start of the program.
    forgetful: BTreeSet<Arc<str>>,
}

impl Unrecorded {
    /// Notes whether an artifact runs without being recorded.
    pub fn observe(&mut self, place: Place, census: &Census, ledger: &Ledger, now: Moment) {
        let first = self.take(&place);
        if ledger.is_in(&place) {
            return;
        }
        if census.is_in(&place) {
            self.running.insert(place, first.unwrap_or(now));
        } else if let Some(first) = first {
            if self.is_full(&place.1) {
                self.forgetful.insert(place.1);
            } else {
                self.gone.entry(place.1).or_default().insert(place.0, first);
                self.gone_in_all += 1;
            }
        }
    }

    /// Forgets an artifact. Returns when it was seen first.
    fn take(&mut self, place: &Place) -> Option<Moment> {
        let (fingerprint, namespace) = place;
        if let Some(first) = self.running.remove(place) {
            return Some(first);
        }
        let gone = self.gone.get_mut(namespace)?;
        let first = gone.remove(fingerprint)?;
        self.gone_in_all -= 1;
        if gone.is_empty() {
            self.gone.remove(namespace);
        }
        Some(first)
    }

    /// Whether no more of what is gone in a namespace can be remembered.
    fn is_full(&self, namespace: &str) -> bool {
        let gone = self.gone.get(namespace).map_or(0, BTreeMap::len);
        gone >= GONE || self.gone_in_all >= MOST
    }

    /// All that is remembered.
    fn all(&self) -> impl Iterator<Item = (Place, Moment)> {
        let gone = self.gone.iter().flat_map(|(namespace, gone)| {
            let gone = gone.iter();
            gone.map(|(fingerprint, first)| ((*fingerprint, namespace.clone()), *first))
        });
        let running = self.running.iter();
        running
            .map(|(place, first)| (place.clone(), *first))
            .chain(gone)
    }

    /// Observes all that runs.
    pub fn rebuild(&mut self, census: &Census, ledger: &Ledger, now: Moment) {
        let known: Vec<Place> = self.all().map(|(place, _)| place).collect();
        for place in census.places().cloned().chain(known) {
            self.observe(place, census, ledger, now);
        }
    }

    /// Forgets what is recorded by now.
    pub fn tidy(&mut self, ledger: &Ledger) {
        self.running.retain(|place, _| !ledger.is_in(place));
        self.gone.retain(|namespace, gone| {
            gone.retain(|fingerprint, _| !ledger.is_in(&(*fingerprint, namespace.clone())));
            !gone.is_empty()
        });
        self.gone_in_all = self.gone.values().map(BTreeMap::len).sum();
    }

    /// What runs without being recorded, and when it was seen first, here or elsewhere: so long ago; or else it `lacks`
    /// something, as far as that is known, or may have been seen before without being remembered. And when the next will have
    /// been seen so long ago.
    pub fn late(
        &self,
        wait: Duration,
        lacks: impl Fn(&Fingerprint) -> bool,
        now: Moment,
    ) -> (BTreeMap<Place, Moment>, Option<Moment>) {
        let mut firsts: BTreeMap<Fingerprint, Moment> = BTreeMap::new();
        for ((fingerprint, _), first) in self.all() {
            let earliest = firsts.entry(fingerprint).or_insert(first);
            *earliest = first.min(*earliest);
        }
        let running = self.running.keys();
        let running = running.filter_map(|place| Some((place, *firsts.get(&place.0)?)));
        let (mut late, mut next) = (BTreeMap::new(), None::<Moment>);
        for (place, first) in running {
            let due = first + wait;
            let namespace = &place.1;
            let may_be_back = self.is_full(namespace) || self.forgetful.contains(namespace);
            if due <= now || may_be_back || lacks(&place.0) {
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
    use crate::{
        cluster::{fleet::Workload, scope::Scope},
        simulation::testing::digest,
        snapshot::ledger::Cell,
    };

    const WAIT: Duration = Duration::from_secs(30);

    /// Runs an artifact for a moment. Whether it would be judged at once.
    fn runs(unrecorded: &mut Unrecorded, place: &Place, now: Moment) -> bool {
        let ledger = Ledger::empty(Scope::default());
        let census = Census::running(std::slice::from_ref(place));
        unrecorded.observe(place.clone(), &census, &ledger, now);
        let (late, _) = unrecorded.late(WAIT, |_| false, now);
        unrecorded.observe(place.clone(), &Census::default(), &ledger, now);
        unrecorded.tidy(&ledger);
        let gone: usize = unrecorded.gone.values().map(BTreeMap::len).sum();
        assert_eq!(gone, unrecorded.gone_in_all);
        assert!(unrecorded.running.is_empty() && gone <= MOST);
        late.contains_key(place)
    }

    fn place(number: usize, namespace: &str) -> Place {
        (digest(&number.to_string()), namespace.into())
    }

    #[test]
    fn whatever_runs_for_moments_is_judged_the_second_time_however_many_others_do() {
        let mut unrecorded = Unrecorded::default();
        for round in 0..3_u64 {
            let now = Moment::from_secs(round * 60);
            for number in 0..GONE + 20 {
                let late = runs(&mut unrecorded, &place(number, "shop"), now);
                assert_eq!(late, round > 0 || number >= GONE, "{round} {number}");
            }
        }
        // Another namespace has a memory of its own.
        let elsewhere = place(GONE + 20, "ci");
        assert!(!runs(&mut unrecorded, &elsewhere, Moment::from_secs(300)));
        assert!(!runs(&mut unrecorded, &elsewhere, Moment::from_secs(329)));
        assert!(runs(&mut unrecorded, &elsewhere, Moment::from_secs(330)));
        assert_eq!(unrecorded.gone_in_all, GONE + 1);
    }

    #[test]
    fn what_is_recorded_makes_room() {
        let mut unrecorded = Unrecorded::default();
        for number in 0..GONE {
            assert!(!runs(&mut unrecorded, &place(number, "shop"), Moment::ZERO));
        }
        assert!(unrecorded.is_full("shop"));
        let mut ledger = Ledger::empty(Scope::default());
        let (fingerprint, namespace) = place(7, "shop");
        let (kind, name) = ("Pod".into(), "one".into());
        let workload = Arc::new(Workload {
            namespace,
            kind,
            name,
        });
        let cell = Cell {
            workload,
            fingerprint,
        };
        ledger.set(cell, 1);
        unrecorded.tidy(&ledger);
        assert!(!unrecorded.is_full("shop"));
        assert_eq!(unrecorded.gone_in_all, GONE - 1);
    }

    #[test]
    fn namespaces_without_number_do_not_make_any_forgotten_either() {
        let mut unrecorded = Unrecorded::default();
        let in_another = |number: usize| (digest("one"), format!("namespace-{number}").into());
        let ledger = Ledger::empty(Scope::default());
        for number in 1..MOST {
            let place: Place = in_another(number);
            let census = Census::running(std::slice::from_ref(&place));
            unrecorded.observe(place.clone(), &census, &ledger, Moment::ZERO);
            unrecorded.observe(place, &Census::default(), &ledger, Moment::ZERO);
        }
        assert!(!runs(&mut unrecorded, &in_another(MOST), Moment::ZERO));
        for number in MOST + 1..MOST + 5 {
            assert!(runs(&mut unrecorded, &in_another(number), Moment::ZERO));
        }
        assert_eq!(unrecorded.gone_in_all, MOST);
    }
}
