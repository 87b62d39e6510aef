//! Counts and reads one environment.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{compliance::ComplianceState, snapshot::MAX_ENDED_AT},
    cluster::{
        fleet::{Fleet, Pod, Workload},
        hanging::Hanging,
        image::Fingerprint,
        pod_view,
    },
    compliance::{artifact_identity::IdentityResolver, evidence::Evidence},
    snapshot::{
        census::{Census, admits, admits_pod},
        ledger::Ledger,
        settle::{CLOCKS, Comparison, Unsettled},
        state::{
            EnvironmentProblem, EnvironmentState, KnownLog,
            plan::{identities, unwritten_containers},
        },
    },
    time::{Moment, seconds},
};

impl EnvironmentState {
    /// The state of its log, or that before it had to be read again.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match &self.log {
            KnownLog::Read(ledger, _) => Some(ledger),
            _ => self.before.as_deref(),
        }
    }

    /// Its log has to be read again.
    pub(super) fn log_is_stale(&mut self) {
        if let KnownLog::Read(ledger, _) = std::mem::replace(&mut self.log, KnownLog::Unread) {
            self.before = Some(ledger);
        }
    }

    /// What is known of its log, whether it can be continued or not.
    pub(super) fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let known = match &self.log {
            KnownLog::Read(ledger, _) => Some(&**ledger),
            KnownLog::Blank(end, _) => end.as_deref(),
            KnownLog::Unread => None,
        };
        known.into_iter().chain(self.before.as_deref())
    }

    /// Resolves its digests.
    pub(super) fn resolver<'a>(&'a self, evidence: &'a Evidence) -> IdentityResolver<'a> {
        IdentityResolver {
            evidence,
            trust: &self.trust,
            recorded: &self.recorded,
        }
    }

    pub(super) fn recount(&mut self, fleet: &Fleet, evidence: &Evidence, now: Moment) {
        // The old counts go first: there is not always memory for both.
        let hanging = std::mem::take(&mut self.census).into_hanging();
        self.census = Census::of(&self.scope, fleet, &self.resolver(evidence), hanging);
        // Artifacts may have other canonical digests than before.
        self.assessment.touch_all();
        match &self.log {
            KnownLog::Read(ledger, _) => {
                self.unrecorded.rebuild(&self.census, ledger, now);
                self.unsettled.rebuild(Comparison {
                    census: &self.census,
                    ledger,
                    fleet,
                    settle: &self.settle,
                    now,
                });
            }
            _ => self.unsettled = Unsettled::default(),
        }
    }

    /// Counts pods of its scope in or out, one after the other, and notes what there is to record then. Whether that was any.
    pub(super) fn count<'a>(
        &mut self,
        pods: impl Iterator<Item = (&'a Pod, bool)>,
        fleet: &Fleet,
        evidence: &Evidence,
        now: Moment,
    ) -> bool {
        let resolver = IdentityResolver {
            evidence,
            trust: &self.trust,
            recorded: &self.recorded,
        };
        // A pod that changes is taken out and added: most of it is the same again.
        let (mut cells, mut known_otherwise) = (BTreeSet::new(), BTreeSet::new());
        let mut uncounted = BTreeSet::new();
        for (pod, add) in pods.filter(|(pod, _)| admits_pod(&self.scope, pod)) {
            let counted = self.census.count(pod, &self.scope, &resolver, add);
            cells.extend(counted.cells);
            toggle(&mut known_otherwise, counted.known_otherwise);
            toggle(&mut uncounted, counted.uncounted);
        }
        self.assessment
            .touch(uncounted.into_iter().map(|it| it.fingerprint));
        if let KnownLog::Read(ledger, _) = &self.log {
            // Also of what is not recorded yet: that may be on its way into the log, assessed as it was known before.
            let known_otherwise = known_otherwise
                .into_iter()
                .map(|(fingerprint, _)| fingerprint);
            let runs = |it: &Fingerprint| self.census.total(it) > 0;
            self.assessment.touch(known_otherwise.filter(runs));
            let comparison = Comparison {
                census: &self.census,
                ledger,
                fleet,
                settle: &self.settle,
                now,
            };
            for cell in &cells {
                self.unsettled.observe(cell, comparison);
                self.assessment.moved(&cell.place());
                self.unrecorded
                    .observe(cell.place(), &self.census, ledger, now);
            }
        }
        !cells.is_empty()
    }

    /// Leaves out the pods that hang. What was left out stays left out, also after a restart, whatever becomes of the clock and
    /// of the settle times; but nothing that is deleted from now on, though the clock may have been ahead by days. `version`: that
    /// of the pods.
    pub(super) fn leave_out_hanging(
        &mut self,
        fleet: &Fleet,
        evidence: &Evidence,
        version: u64,
        now: Moment,
        wall: Timestamp,
    ) {
        let ago = |span: Duration| {
            let span = u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
            seconds(wall).saturating_sub(span)
        };
        // At the first plan nobody knows when a pod's deletion began: a pod may have changed since.
        let planned = self.planned.replace(version).unwrap_or(version);
        // Another instance may have planned since: up to the end of its log.
        let planned = self.ledger().map_or(planned, |ledger| {
            planned.max(pod_view::version(&ledger.read_at.pods))
        });
        let before = self.census.hanging();
        let by = before
            .by
            .min(ago(CLOCKS))
            .max(ago(self.settle.hangs_after()));
        if by == before.by && before.at.is_empty() {
            return;
        }
        let span = before.by.min(by).saturating_add(1)..before.by.max(by).saturating_add(1);
        let at = before.at.iter().filter(|ends| !span.contains(ends));
        let at = at.flat_map(|ends| fleet.pods_ending(*ends..ends.saturating_add(1)));
        let pods = at.chain(fleet.pods_ending(span.clone()));
        let pods: Vec<_> = pods
            .filter(|(pod, _)| admits(&self.scope, fleet, pod))
            .collect();
        // What was deleted since the last plan may have been deleted after the clock was corrected.
        let later = pods.iter().filter(|(_, deleted)| *deleted <= planned);
        let later = later.filter_map(|(pod, _)| pod.ends());
        let later = later.filter(|ends| *ends > by && before.has(*ends));
        let later: BTreeSet<u32> = later.collect();
        let at = later.into_iter().take(MAX_ENDED_AT).collect();
        let hanging = Hanging { by, at };
        if hanging == *before {
            return;
        }
        let counted = |add| pods.iter().map(move |(pod, _)| (*pod, add));
        self.count(counted(false), fleet, evidence, now);
        self.census.set_hanging(hanging);
        self.count(counted(true), fleet, evidence, now);
    }

    /// Whether something of one of these workloads is still to be recorded, or its rollout was.
    pub(super) fn waits_for<'a>(&self, workloads: impl Iterator<Item = &'a Arc<Workload>>) -> bool {
        let KnownLog::Read(ledger, _) = &self.log else {
            return false;
        };
        let mut workloads =
            workloads.filter(|_| !self.unsettled.is_settled() || !ledger.rollouts.is_empty());
        workloads
            .any(|workload| self.unsettled.has(workload) || ledger.rollouts.contains_key(workload))
    }

    /// Whether there is anything to record, settled or not, or will be when a timer runs out.
    pub(super) fn has_work(&self, name: &str, evidence: &Evidence) -> bool {
        let resolver = self.resolver(evidence);
        let more = match &self.log {
            KnownLog::Read(ledger, _) => {
                let (census, none) = (&self.census, BTreeSet::new());
                let (identities, _) = identities(ledger, census, &resolver, &none);
                let ruled = self.rules.is_some();
                let mut containers = unwritten_containers(ledger, census, &resolver, ruled, &none);
                let timer = self
                    .assessment
                    .next_timer(name, ledger, evidence, &self.census);
                !identities.is_empty()
                    || containers.next().is_some()
                    || !ledger.rollouts.is_empty()
                    || timer.is_some()
            }
            _ => true,
        };
        more || self.assessment.has_work()
            || !self.unsettled.is_settled()
            || self.scope != self.wanted
    }

    /// Artifacts that violate the rules or lack evidence now, by name.
    pub(super) fn problems(&self) -> (Vec<EnvironmentProblem>, usize) {
        const LISTED: usize = 20;
        let KnownLog::Read(ledger, _) = &self.log else {
            return (vec![], 0);
        };
        let mut problems: Vec<EnvironmentProblem> = ledger
            .artifacts()
            .filter_map(|(fingerprint, _)| {
                let recorded = || ledger.facts.get(fingerprint);
                let facts = self.assessment.facts(*fingerprint).or_else(recorded)?;
                let verdict = facts.verdict.clone()?;
                let name = ledger.names.get(fingerprint).cloned().unwrap_or_default();
                (verdict.state == ComplianceState::NonCompliant).then_some(EnvironmentProblem {
                    name,
                    fingerprint: *fingerprint,
                    verdict,
                })
            })
            .collect();
        let uncounted = self.assessment.uncounted().iter();
        problems.extend(uncounted.map(|it| EnvironmentProblem {
            name: it.name.clone(),
            fingerprint: it.fingerprint,
            verdict: it.verdict.clone(),
        }));
        let more = problems.len().saturating_sub(LISTED);
        if !self.reported.is_empty() {
            return (self.reported.clone(), more);
        }
        problems.sort_by(|a, b| (&a.name, a.fingerprint).cmp(&(&b.name, b.fingerprint)));
        problems.truncate(LISTED);
        (problems, more)
    }
}

/// Notes what came or went, or forgets that of what did the opposite before.
fn toggle<T: Ord>(changed: &mut BTreeSet<T>, changes: Vec<T>) {
    for it in changes {
        if !changed.remove(&it) {
            changed.insert(it);
        }
    }
}
