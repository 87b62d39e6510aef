//! Which differences between what runs and what is recorded are ripe to be recorded: so that one rollout reads as one
//! change, and a busy workload never delays a quiet one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Moment,
    census::{Census, cells_of},
    fleet::{Fleet, Workload, WorkloadState},
    image::Fingerprint,
    ledger::{Cell, Ledger},
};
use crate::api::environment;

/// A change of the number of instances alone is recorded after so long even if it never stands still.
const SCALING_MAX: Duration = Duration::from_secs(300);

/// The settle times of an environment, with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// How long a workload must have stood still.
    pub quiet: Duration,
    /// How long an artifact that started or stopped altogether may go unrecorded.
    pub max: Duration,
    /// How long a rollout is waited for.
    pub rollout: Duration,
    /// How long the number of instances must have stood still.
    pub scaling: Duration,
}

impl Settle {
    /// The settle times of a spec.
    pub fn of(spec: Option<&environment::Settle>) -> Self {
        let spec = spec.copied().unwrap_or_default();
        let or = |span: Option<crate::api::Span>, default| {
            span.map_or(Duration::from_secs(default), |span| span.0)
        };
        let max = or(spec.max, 30);
        Self {
            quiet: or(spec.quiet, 5).min(max),
            max,
            rollout: or(spec.rollout, 900),
            scaling: or(spec.scaling, 30),
        }
    }
}

/// A cell whose actual count is not the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// Since when.
    pub since: Moment,
    /// Its workload was rolling at some moment since.
    pub rolled: bool,
}

/// The differences between what runs in an environment and what is recorded.
#[derive(Clone, Debug, Default)]
pub struct Unsettled {
    dirty: BTreeMap<Cell, Dirty>,
    /// Artifacts that run and are not recorded, or the other way round, and since when.
    crossing: BTreeMap<Fingerprint, Moment>,
}

/// What is ripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ripe {
    /// The cells to record now.
    pub cells: BTreeSet<Cell>,
    /// When more may be ripe if nothing happens until then.
    pub next: Option<Moment>,
}

impl Unsettled {
    /// Compares everything anew.
    pub fn rebuild(
        &mut self,
        census: &Census,
        ledger: &Ledger,
        fleet: &Fleet,
        settle: &Settle,
        now: Moment,
    ) {
        let keys: BTreeSet<Cell> = census
            .cells()
            .keys()
            .chain(ledger.cells().keys())
            .chain(self.dirty.keys())
            .cloned()
            .collect();
        let crossing: Vec<Fingerprint> = self.crossing.keys().copied().collect();
        for cell in &keys {
            self.observe(cell, census, ledger, fleet, settle, now);
        }
        for fingerprint in crossing {
            self.observe_total(fingerprint, census, ledger, now);
        }
    }

    /// Compares one cell anew.
    pub fn observe(
        &mut self,
        cell: &Cell,
        census: &Census,
        ledger: &Ledger,
        fleet: &Fleet,
        settle: &Settle,
        now: Moment,
    ) {
        if census.get(cell) == ledger.count(cell) {
            self.dirty.remove(cell);
        } else {
            let dirty = self.dirty.entry(cell.clone()).or_insert(Dirty {
                since: now,
                rolled: false,
            });
            dirty.rolled |= fleet
                .workload(&cell.workload)
                .is_some_and(|state| rolling_until(state, settle) > Some(now));
        }
        self.observe_total(cell.fingerprint, census, ledger, now);
    }

    fn observe_total(
        &mut self,
        fingerprint: Fingerprint,
        census: &Census,
        ledger: &Ledger,
        now: Moment,
    ) {
        if (census.total(&fingerprint) == 0) == (ledger.total(&fingerprint) == 0) {
            self.crossing.remove(&fingerprint);
        } else {
            self.crossing.entry(fingerprint).or_insert(now);
        }
    }

    /// Notes that a workload's rollout may have begun or ended; true if it has anything unrecorded.
    pub fn observe_workload(
        &mut self,
        workload: &Arc<Workload>,
        fleet: &Fleet,
        settle: &Settle,
        now: Moment,
    ) -> bool {
        if self.is_settled() {
            return false; // most environments, most of the time
        }
        let rolling = fleet
            .workload(workload)
            .is_some_and(|state| rolling_until(state, settle) > Some(now));
        let first = Cell {
            workload: workload.clone(),
            fingerprint: Fingerprint([0; 32]),
        };
        let mut any = false;
        for (_, dirty) in self
            .dirty
            .range_mut(first..)
            .take_while(|(cell, _)| cell.workload == *workload)
        {
            dirty.rolled |= rolling;
            any = true;
        }
        any
    }

    /// Whether everything is recorded.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// All differences.
    pub fn dirty(&self) -> &BTreeMap<Cell, Dirty> {
        &self.dirty
    }

    /// What is ripe now.
    pub fn ripe(
        &self,
        census: &Census,
        ledger: &Ledger,
        fleet: &Fleet,
        settle: &Settle,
        now: Moment,
    ) -> Ripe {
        let mut ripe = Ripe::default();
        for (cell, dirty) in &self.dirty {
            let by_workload = workload_ripe_at(cell, *dirty, census, ledger, fleet, settle, now);
            let by_total = self
                .crossing
                .get(&cell.fingerprint)
                .map(|since| *since + settle.max);
            let at = by_total.map_or(by_workload, |at| at.min(by_workload));
            if at <= now {
                ripe.cells.insert(cell.clone());
            } else {
                ripe.next = Some(ripe.next.map_or(at, |next| next.min(at)));
            }
        }
        ripe
    }
}

/// Until when a workload counts as rolling, if it does.
pub fn rolling_until(state: &WorkloadState, settle: &Settle) -> Option<Moment> {
    state.rolling_since.map(|since| since + settle.rollout)
}

/// When a cell is ripe by what its own workload does, if nothing more happens.
fn workload_ripe_at(
    cell: &Cell,
    dirty: Dirty,
    census: &Census,
    ledger: &Ledger,
    fleet: &Fleet,
    settle: &Settle,
    now: Moment,
) -> Moment {
    let Some(state) = fleet.workload(&cell.workload) else {
        return dirty.since + settle.quiet; // nothing is left of it
    };
    let rolling = rolling_until(state, settle).filter(|until| *until > now);
    let same_digests = {
        let actual = cells_of(census.cells(), &cell.workload).map(|(cell, _)| cell.fingerprint);
        let recorded = cells_of(ledger.cells(), &cell.workload).map(|(cell, _)| cell.fingerprint);
        actual.eq(recorded)
    };
    let terminating = state
        .terminating_since
        .map(|since| since + settle.rollout)
        .filter(|until| *until > now);
    let held = rolling.max(terminating).unwrap_or_default();
    if same_digests && rolling.is_none() {
        let still = (state.changed + settle.scaling).max(held);
        return still.min(dirty.since + SCALING_MAX.max(settle.scaling));
    }
    (state.changed + settle.quiet).max(held)
}
