//! Summaries of environments, and where artifacts run: for statuses and the read API.

use std::collections::BTreeSet;

use crate::{
    api::snapshot::{Compliance, Totals},
    cluster::{fleet::TrustedDigests, image::Fingerprint},
    compliance::artifact_identity::IdentityResolver,
    snapshot::state::{
        ClusterState, EnvironmentState, EnvironmentSummary, KnownLog, RunningArtifact,
        plan::unidentified,
    },
};

impl ClusterState {
    /// A summary of an environment.
    pub fn summary(&self, name: &str) -> Option<EnvironmentSummary> {
        let env = self.environments.get(name)?;
        let (head, totals, compliance) = match &env.log {
            KnownLog::Read(ledger, _) => (
                Some((ledger.index, ledger.time)),
                ledger.totals(),
                ledger.compliance.clone(),
            ),
            _ => (None, Totals::default(), Compliance::default()),
        };
        let unread = self.unread_pods_in(&env.scope);
        let ruled = env.rules.is_some();
        Some(EnvironmentSummary {
            head,
            totals,
            unidentified: unidentified(&env.census, unread, ruled),
            compliance,
            problems: env.problems(),
            ruled,
        })
    }

    /// The artifacts that are recorded in all environments.
    pub fn recorded_artifacts(&self) -> impl Iterator<Item = RunningArtifact<'_>> {
        let logs = self.environments.iter();
        let logs = logs.filter_map(|(name, env)| Some((name, env.ledger()?)));
        logs.flat_map(|(name, ledger)| {
            let artifacts = ledger.artifacts();
            artifacts.map(|(fingerprint, _)| RunningArtifact::of(name, ledger, *fingerprint))
        })
    }

    /// The environments in which an image with one of these digests runs.
    pub fn running(&self, digests: &[Fingerprint]) -> Vec<RunningArtifact<'_>> {
        self.running_where(digests, |_| true)
    }

    pub(super) fn running_where(
        &self,
        digests: &[Fingerprint],
        counts: impl Fn(&EnvironmentState) -> bool,
    ) -> Vec<RunningArtifact<'_>> {
        let mut found = vec![];
        for (name, env) in self.environments.iter().filter(|(_, env)| counts(env)) {
            let Some(ledger) = env.ledger() else {
                continue;
            };
            let resolver = self.resolver(env);
            let known = digests.iter().map(|digest| resolver.canonical(*digest));
            let runs = known.filter(|known| ledger.total(known) > 0).min();
            found.extend(runs.map(|runs| RunningArtifact::of(name, ledger, runs)));
        }
        found
    }

    /// The canonical digest of an image in each environment.
    #[cfg(test)]
    pub fn canonical_everywhere(&self, digest: Fingerprint) -> Vec<Fingerprint> {
        let environments = self.environments.values();
        let known = environments.map(|env| self.resolver(env).canonical(digest));
        known.collect()
    }

    /// All digests that count as this one for the rules of any environment.
    pub fn equivalent(&self, digest: Fingerprint) -> BTreeSet<Fingerprint> {
        let environments = self.environments.values();
        let alone = TrustedDigests::only(digest);
        let classes = environments.map(|env| self.resolver(env).trusted(alone));
        let all = classes.flat_map(|class| class.iter().collect::<Vec<_>>());
        all.chain([digest]).collect()
    }

    /// Whether records of a namespace count in any environment.
    pub fn trusts(&self, namespace: &str) -> bool {
        let mut all = self.environments.values();
        all.any(|env| env.trust.contains(namespace))
    }

    pub(super) fn resolver<'a>(&'a self, env: &'a EnvironmentState) -> IdentityResolver<'a> {
        env.resolver(&self.evidence)
    }
}
