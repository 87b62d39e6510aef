//! An environment, as far as counting and recording go.

use std::collections::BTreeSet;

use crate::{
    api::snapshot::ComplianceState,
    cluster::{fleet::Fleet, image::Fingerprint},
    compliance::{evidence::Evidence, identity::IdentityResolver},
    snapshot::{
        census::Census,
        ledger::Ledger,
        settle::Unsettled,
        state::{EnvironmentProblem, EnvironmentState, KnownLog, plan::identities},
    },
    time::Moment,
};

impl EnvironmentState {
    /// What its log says, or said before it had to be read again.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match &self.log {
            KnownLog::Read(ledger, _) => Some(ledger),
            _ => self.before.as_deref(),
        }
    }

    /// How it calls images.
    pub(super) fn names<'a>(
        &'a self,
        fleet: &'a Fleet,
        evidence: &'a Evidence,
    ) -> IdentityResolver<'a> {
        IdentityResolver {
            fleet,
            evidence,
            trust: &self.trust,
            recorded: &self.recorded,
        }
    }

    pub(super) fn recount(&mut self, fleet: &Fleet, evidence: &Evidence, now: Moment) {
        self.census = Census::of(&self.scope, &self.names(fleet, evidence));
        // Artifacts may be known by other digests than before.
        self.docket.touch_all();
        match &self.log {
            KnownLog::Read(ledger, _) => {
                self.unsettled
                    .rebuild(&self.census, ledger, fleet, &self.settle, now);
            }
            _ => self.unsettled = Unsettled::default(),
        }
    }

    /// Whether it counts an artifact by one of these digests.
    pub(super) fn counts_any(&self, digests: &[Fingerprint]) -> bool {
        digests.iter().any(|digest| self.census.mentions(digest))
    }

    /// Whether there is anything to record, ripe or not, or will be when a timer runs out.
    pub(super) fn has_work(&self, name: &str, fleet: &Fleet, evidence: &Evidence) -> bool {
        let names = self.names(fleet, evidence);
        let more = match &self.log {
            KnownLog::Read(ledger, _) => {
                let (identities, _) = identities(ledger, &self.census, &names, &BTreeSet::new());
                let timer = self.docket.next_timer(name, ledger, evidence);
                !identities.is_empty() || !ledger.rollouts.is_empty() || timer.is_some()
            }
            _ => true,
        };
        more || self.docket.has_work() || !self.unsettled.is_settled() || self.scope != self.wanted
    }

    /// What breaks the rules now or lacks something, by name.
    pub(super) fn troubles(&self) -> (Vec<EnvironmentProblem>, usize) {
        const LISTED: usize = 20;
        let KnownLog::Read(ledger, _) = &self.log else {
            return (vec![], 0);
        };
        let mut troubles: Vec<EnvironmentProblem> = ledger
            .artifacts()
            .filter_map(|(fingerprint, _)| {
                let recorded = || ledger.facts.get(fingerprint);
                let facts = self.docket.facts(*fingerprint).or_else(recorded)?;
                let verdict = facts.verdict.clone()?;
                let name = ledger.names.get(fingerprint).cloned().unwrap_or_default();
                (verdict.state == ComplianceState::NonCompliant).then_some(EnvironmentProblem {
                    name,
                    fingerprint: *fingerprint,
                    verdict,
                })
            })
            .collect();
        troubles.sort_by(|a, b| (&a.name, a.fingerprint).cmp(&(&b.name, b.fingerprint)));
        let more = troubles.len().saturating_sub(LISTED);
        troubles.truncate(LISTED);
        (troubles, more)
    }
}
