//! Decides which differences between what runs and what is recorded have settled and can be recorded: one rollout becomes one
//! change, and a busy workload never delays a quiet one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::environment,
    cluster::{
        fleet::{Fleet, Workload, WorkloadState},
        hanging::Hanging,
        image::Fingerprint,
    },
    snapshot::{
        census::{Census, cells_of, range_of},
        ledger::{Cell, Cells, Ledger},
    },
    time::{Moment, seconds},
};

/// How long until a change of the number of instances is recorded even if it never settles, unless its pods are starting or
/// terminating.
const SCALING_MAX: Duration = Duration::from_mins(5);
/// How far the clocks of the API server and of this host may differ.
pub const CLOCKS: Duration = Duration::from_mins(1);
/// How much earlier the state of a Deployment may arrive than that of its pods: the two are watched separately.
const SKEW: Duration = Duration::from_secs(1);

/// The settle times of an environment, with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettleTimes {
    /// How long a workload must be without changes.
    pub quiet: Duration,
    /// How long it takes at most to record that an artifact started or stopped.
    pub max: Duration,
    /// How long to wait for a rollout to complete.
    pub rollout: Duration,
    /// How long the number of instances must be without changes.
    pub scaling: Duration,
}

impl Default for SettleTimes {
    fn default() -> Self {
        Self::of(None)
    }
}

impl SettleTimes {
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

    /// How long after its node had to have ended it a pod no longer counts. Earlier than its workload stops waiting for it,
    /// or the pod that replaces it would be news until then.
    pub fn hangs_after(&self) -> Duration {
        self.rollout.saturating_sub(CLOCKS).max(CLOCKS)
    }
}

/// A cell whose actual count differs from the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// Since when it differs.
    pub since: Moment,
    /// When the actual count last changed, and what it is.
    changed: (Moment, u32),
    /// Its workload was rolling at some time since.
    pub rolled: bool,
}

/// The differences between what runs in an environment and what is recorded.
#[derive(Clone, Debug, Default)]
pub struct Unsettled {
    dirty: BTreeMap<Cell, Dirty>,
    /// Artifacts that run and are not recorded, or are recorded and don't run, and since when.
    started_or_stopped: BTreeMap<Fingerprint, Moment>,
}

/// What runs in an environment beside what is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    pub census: &'a Census,
    pub ledger: &'a Ledger,
    pub fleet: &'a Fleet,
    pub settle: &'a SettleTimes,
    pub now: Moment,
}

/// What has settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The cells to record now.
    pub cells: BTreeSet<Cell>,
    /// When more may have settled, if nothing else happens.
    pub next: Option<Moment>,
}

impl Unsettled {
    /// Compares everything.
    pub fn rebuild(&mut self, with: Comparison) {
        let cells = with.census.cells().keys();
        self.observe_all(cells.chain(with.ledger.cells().keys()), with);
    }

    /// Compares what an appended entry may have changed: what was not recorded `before`, and what is recorded differently.
    pub fn follow(&mut self, before: &Ledger, with: Comparison) {
        fn differ<'l>(cells: &'l Cells, than: &Ledger) -> impl Iterator<Item = &'l Cell> {
            let others = cells.iter().filter(|(cell, n)| than.count(cell) != **n);
            others.map(|(cell, _)| cell)
        }
        let was = differ(before.cells(), with.ledger);
        self.observe_all(was.chain(differ(with.ledger.cells(), before)), with);
    }

    /// Compares these cells, and all that differed before.
    fn observe_all<'c>(&mut self, cells: impl Iterator<Item = &'c Cell>, with: Comparison) {
        let cells: BTreeSet<Cell> = cells.cloned().chain(self.dirty.keys().cloned()).collect();
        let started_or_stopped: Vec<Fingerprint> =
            self.started_or_stopped.keys().copied().collect();
        for cell in &cells {
            self.observe(cell, with);
        }
        for fingerprint in started_or_stopped {
            self.observe_total(fingerprint, with);
        }
    }

    /// Whether a workload has anything unrecorded.
    pub fn has(&self, workload: &Arc<Workload>) -> bool {
        cells_of(&self.dirty, workload).next().is_some()
    }

    /// Whether a workload has anything unrecorded and was rolling since.
    pub fn rolled(&self, workload: &Arc<Workload>) -> bool {
        cells_of(&self.dirty, workload).any(|(_, dirty)| dirty.rolled)
    }

    /// Compares one cell.
    pub fn observe(&mut self, cell: &Cell, with: Comparison) {
        let Comparison { settle, now, .. } = with;
        let actual = with.census.get(cell);
        if actual == with.ledger.count(cell) {
            self.dirty.remove(cell);
        } else {
            let dirty = self.dirty.entry(cell.clone()).or_insert(Dirty {
                since: now,
                changed: (now, actual),
                rolled: false,
            });
            if dirty.changed.1 != actual {
                dirty.changed = (now, actual);
            }
            let hanging = with.census.hanging();
            dirty.rolled =
                dirty.rolled || is_rolling(&cell.workload, with.fleet, settle, hanging, now);
        }
        self.observe_total(cell.fingerprint, with);
    }

    fn observe_total(&mut self, fingerprint: Fingerprint, with: Comparison) {
        let runs = with.census.total(&fingerprint) > 0;
        if runs == (with.ledger.total(&fingerprint) > 0) {
            self.started_or_stopped.remove(&fingerprint);
        } else {
            self.started_or_stopped
                .entry(fingerprint)
                .or_insert(with.now);
        }
    }

    /// Notes that a workload's rollout may have begun or ended; true if it has anything unrecorded.
    pub fn observe_workload(
        &mut self,
        workload: &Arc<Workload>,
        fleet: &Fleet,
        settle: &SettleTimes,
        hanging: &Hanging,
        now: Moment,
    ) -> bool {
        if self.is_settled() {
            return false; // most environments, most of the time
        }
        let mut cells = self.dirty.range_mut(range_of(workload)).peekable();
        if cells.peek().is_none() {
            return false;
        }
        let rolling = is_rolling(workload, fleet, settle, hanging, now);
        for (_, dirty) in cells {
            dirty.rolled |= rolling;
        }
        true
    }

    /// Whether everything is recorded.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// All differences.
    pub fn dirty(&self) -> &BTreeMap<Cell, Dirty> {
        &self.dirty
    }

    /// Since when a cell differs from what is recorded.
    pub fn differs_since(&self, cell: &Cell) -> Option<Moment> {
        self.dirty.get(cell).map(|dirty| dirty.since)
    }

    /// What has settled by now. `wall`: the wall clock.
    pub fn settled(&self, with: Comparison, wall: Timestamp) -> Settled {
        let mut settled = Settled::default();
        let mut last: Option<(&Arc<Workload>, Option<Moment>)> = None; // its cells follow each other
        for (cell, dirty) in &self.dirty {
            let workload = &cell.workload;
            let rolling = match last {
                Some((last, rolling)) if last == workload => rolling,
                _ => with.rolling_until(workload),
            };
            last = Some((workload, rolling));
            let by_workload = with.workload_settles_at(cell, *dirty, rolling, wall);
            let started_or_stopped = self.started_or_stopped.get(&cell.fingerprint);
            let by_total = started_or_stopped.map(|since| *since + with.settle.max);
            let at = by_total.map_or(by_workload, |at| at.min(by_workload));
            if at <= with.now {
                settled.cells.insert(cell.clone());
            } else {
                settled.next = [settled.next, Some(at)].into_iter().flatten().min();
            }
        }
        self.add_what_runs_elsewhere(&mut settled, with);
        settled
    }

    /// Adds where else an artifact runs that would be recorded as stopped otherwise, at rest or not.
    fn add_what_runs_elsewhere(&self, settled: &mut Settled, with: Comparison) {
        let mut totals: BTreeMap<Fingerprint, u32> = BTreeMap::new();
        for cell in &settled.cells {
            let recorded = || with.ledger.total(&cell.fingerprint);
            let total = totals.entry(cell.fingerprint).or_insert_with(recorded);
            *total = (*total + with.census.get(cell)).saturating_sub(with.ledger.count(cell));
        }
        totals.retain(|it, total| *total == 0 && with.census.total(it) > 0);
        if !totals.is_empty() {
            let cells = self.dirty.keys();
            let running = cells.filter(|cell| totals.contains_key(&cell.fingerprint));
            settled.cells.extend(running.cloned());
        }
    }
}

/// Whether a workload is rolling now. Pods that hang don't count.
pub fn is_rolling(
    workload: &Workload,
    fleet: &Fleet,
    settle: &SettleTimes,
    hanging: &Hanging,
    now: Moment,
) -> bool {
    let state = fleet.workload(workload);
    state.is_some_and(|state| rolling_until(state, settle, hanging) > Some(now))
}

/// Until when a workload counts as rolling, if it does.
pub fn rolling_until(
    state: &WorkloadState,
    settle: &SettleTimes,
    hanging: &Hanging,
) -> Option<Moment> {
    let rolling = state.rolling_since.filter(|_| state.is_rolling(hanging));
    rolling.map(|since| since + settle.rollout)
}

/// How long to wait for the pods of a workload that start or terminate.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    pub settle: &'a SettleTimes,
    /// The pods that hang: nobody waits for them.
    pub hanging: &'a Hanging,
    /// When what waits began.
    pub since: Moment,
    pub now: Moment,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Patience<'_> {
    /// Until when further changes of a workload are expected, if any. What is overdue is waited for until it hangs: if it was
    /// replaced, that is no news.
    pub fn restless_until(self, state: &WorkloadState) -> Option<Moment> {
        let Self { since, now, .. } = self;
        let rollout = self.settle.rollout;
        let wall = seconds(self.wall);
        let began = state.starting_since.into_iter();
        let began = began.chain(state.terminating_since).max();
        let waits = began.map(|began| began.min(since) + rollout);
        // Since when others terminate than those that hang is not known.
        let last_end = |span| state.last_end(span, self.hanging);
        let later = wall.saturating_add(1)..=u32::MAX;
        let others = state.hangs(self.hanging) && last_end(later).is_some();
        let others = others.then(|| since + rollout);
        let overdue = last_end(0..=wall).map(|ends| {
            let passed = Duration::from_secs((wall - ends).into());
            now + rollout.saturating_sub(passed)
        });
        [waits, others, overdue].into_iter().flatten().max()
    }
}

/// When a workload is at rest by its pods and its Deployment, if nothing else happens.
pub fn rests_at(state: &WorkloadState, settle: &SettleTimes) -> Moment {
    let skew = settle.quiet.min(SKEW);
    (state.changed + settle.quiet).max(state.signalled + skew)
}

impl Comparison<'_> {
    /// Until when a workload counts as rolling, if it does.
    fn rolling_until(&self, workload: &Workload) -> Option<Moment> {
        let state = self.fleet.workload(workload)?;
        rolling_until(state, self.settle, self.census.hanging())
    }

    /// When a cell has settled by the state of its own workload, if nothing else happens. `rolling`: until when that counts as
    /// rolling.
    fn workload_settles_at(
        &self,
        cell: &Cell,
        dirty: Dirty,
        rolling: Option<Moment>,
        wall: Timestamp,
    ) -> Moment {
        let settle = self.settle;
        let quiet = dirty.changed.0 + settle.quiet; // pods also join and leave by their labels
        let Some(state) = self.fleet.workload(&cell.workload) else {
            return quiet; // nothing is left of it
        };
        let still_waits = |until: &Moment| *until > self.now;
        let hanging = self.census.hanging();
        let rolling = rolling.filter(still_waits);
        let patience = Patience {
            settle,
            hanging,
            since: dirty.since,
            now: self.now,
            wall,
        };
        let restless = patience.restless_until(state).filter(still_waits);
        let waits_until = rolling.max(restless).unwrap_or_default();
        let rests = rests_at(state, settle);
        let actual =
            cells_of(self.census.cells(), &cell.workload).map(|(cell, _)| cell.fingerprint);
        let recorded = cells_of(self.ledger.cells(), &cell.workload);
        let same_digests = actual.eq(recorded.map(|(cell, _)| cell.fingerprint));
        if same_digests && rolling.is_none() {
            let still = state.changed.max(dirty.changed.0) + settle.scaling;
            let longest = dirty.since + SCALING_MAX.max(settle.scaling);
            return still.max(rests).min(longest).max(waits_until);
        }
        quiet.max(rests).max(waits_until)
    }
}
