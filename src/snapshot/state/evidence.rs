//! Applies evidence, and notes what it changes: environments to assess again, and statuses to write.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::{ArtifactApproval, compliance::ComplianceState},
    cluster::{image::Fingerprint, watch_progress::WatchKind},
    compliance::{
        evidence::{Allowance, Evidence, EvidenceKey, EvidenceKind, ProvenanceRecord},
        evidence_state::EvidenceState,
    },
    snapshot::state::{ClusterState, EnvironmentState, KnownLog},
    time::Moment,
};

/// How long after start statuses wait for logs that can't be read.
const LOGS: Moment = Moment::from_secs(30);

impl EvidenceState for ClusterState {
    fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    fn trusts(&self, namespace: &str) -> bool {
        self.trusts(namespace)
    }

    fn take_dirty_status(&mut self, max: usize, now: Moment) -> Vec<(EvidenceKind, EvidenceKey)> {
        let known = self.environments.values().all(|env| env.ledger().is_some());
        let mut kinds = WatchKind::EVIDENCE.iter();
        if kinds.any(|kind| !self.stream(*kind).synced) || !known && now < LOGS {
            return vec![];
        }
        let taken: Vec<_> = self.dirty_status.iter().take(max).cloned().collect();
        for object in &taken {
            self.dirty_status.remove(object);
        }
        taken
    }

    fn mark_status_dirty(&mut self, kind: EvidenceKind, key: EvidenceKey) {
        self.status_news = true;
        self.dirty_status.insert((kind, key));
    }

    fn status_gone(&mut self, kind: EvidenceKind, key: &EvidenceKey) {
        // Where nothing is written, because another replica leads, they would pile up.
        self.dirty_status.remove(&(kind, key.clone()));
    }

    fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let entries = self.evidence.allowances().values();
        entries
            .filter_map(|entry| entry.expires)
            .filter(|end| *end > now)
            .min()
    }

    fn expire_allowances(&mut self, now: Timestamp) {
        let since = self.expired_until.replace(now);
        let is_news = |end: Timestamp| end <= now && since.is_none_or(|since| end > since);
        let entries = self.evidence.allowances().iter();
        let ended = entries.filter(|(_, entry)| entry.expires.is_some_and(is_news));
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        for key in ended {
            self.mark_status_dirty(EvidenceKind::Allowances, key);
        }
    }

    fn record_seen(&mut self, key: &EvidenceKey, record: Option<ProvenanceRecord>, now: Moment) {
        let old = self.evidence.records().get(key).cloned();
        let digests = old.iter().flat_map(|record| record.digests());
        let digests: BTreeSet<_> = digests
            .chain(record.iter().flat_map(ProvenanceRecord::digests))
            .collect();
        let images = self.images(&digests);
        // A pod must be removed from the counts under the same digest under which it was added.
        let counts = |env: &EnvironmentState| {
            let mut images = images.iter();
            env.trust.contains(&*key.namespace) && images.any(|it| env.census.mentions(it))
        };
        let canonical = |state: &Self| -> BTreeMap<String, Vec<Fingerprint>> {
            let counting = state.environments.iter().filter(|(_, env)| counts(env));
            let known = counting.map(|(name, env)| {
                let resolver = state.resolver(env);
                let digests = images.iter().map(|digest| resolver.canonical(*digest));
                (name.clone(), digests.collect())
            });
            // One digest alone can have no other name.
            known.filter(|_| images.len() > 1).collect()
        };
        let before = canonical(self);
        if self.evidence.put_record(key, record).is_none() {
            return;
        }
        self.mark_status_dirty(EvidenceKind::Records, key.clone());
        self.mark_records_dirty(digests);
        for (name, digests) in canonical(self) {
            if before.get(&name) != Some(&digests)
                && let Some(env) = self.environments.get_mut(&name)
            {
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name);
            }
        }
        self.reassess(&images);
    }

    fn review_seen(
        &mut self,
        key: &EvidenceKey,
        object: Option<&ArtifactApproval>,
    ) -> Result<(), String> {
        if let Some(touched) = self.evidence.put_review(key, object)? {
            self.mark_status_dirty(EvidenceKind::Reviews, key.clone());
            self.reassess(&self.images(&touched));
        }
        Ok(())
    }

    fn allowance_seen(&mut self, name: &str, allowance: Option<Allowance>) {
        let Some((touched, environments)) = self.evidence.put_allowance(name, allowance) else {
            return;
        };
        self.mark_status_dirty(EvidenceKind::Allowances, EvidenceKey::of_cluster(name));
        for name in environments {
            if let Some(env) = self.environments.get_mut(&*name) {
                env.assessment.allow_list_changed();
                self.touched.insert(name.into());
            }
        }
        self.reassess(&self.images(&touched));
    }

    fn running_in(
        &self,
        namespace: &str,
        digests: &[Fingerprint],
    ) -> Vec<(&str, Fingerprint, ComplianceState)> {
        let found = self.running_where(digests, |env| env.trust.contains(namespace));
        let running = found.into_iter().map(|artifact| {
            let verdict = artifact.verdict();
            let state = verdict.map_or(ComplianceState::Unknown, |verdict| verdict.state);
            (artifact.environment, artifact.fingerprint, state)
        });
        running.collect()
    }

    fn environment_exists(&self, name: &str) -> bool {
        self.environments.contains_key(name)
    }

    fn announced(&self, name: &str, uid: &str) -> bool {
        let Some(KnownLog::Read(ledger, _)) = self.environments.get(name).map(|env| &env.log)
        else {
            return false;
        };
        ledger.allowed.keys().any(|(known, _)| **known == *uid)
    }
}

impl ClusterState {
    /// Whether more statuses may have to be written since the last call.
    pub fn take_status_news(&mut self) -> bool {
        std::mem::take(&mut self.status_news)
    }

    /// The status of all objects may have changed.
    pub(super) fn mark_all_status_dirty(&mut self) {
        for kind in EvidenceKind::ALL {
            self.mark_kind_dirty(kind);
        }
    }

    /// The status of all objects of a kind may have changed.
    pub(super) fn mark_kind_dirty(&mut self, kind: EvidenceKind) {
        self.status_news = true;
        let keys = self.evidence.keys(kind).into_iter();
        self.dirty_status.extend(keys.map(|key| (kind, key)));
    }

    /// The status of the records of these images may have changed.
    pub(super) fn mark_records_dirty(&mut self, digests: impl IntoIterator<Item = Fingerprint>) {
        self.status_news = true;
        for digest in digests {
            let records = self.evidence.records_of(digest);
            self.dirty_status
                .extend(records.map(|record| (EvidenceKind::Records, record.key.clone())));
        }
    }

    /// All digests that identify one image with one of these, by evidence that is trusted in any environment.
    fn images(&self, digests: &BTreeSet<Fingerprint>) -> BTreeSet<Fingerprint> {
        let mut images = digests.clone();
        let mut open: Vec<Fingerprint> = digests.iter().copied().collect();
        while let Some(digest) = open.pop() {
            let recorded = self.evidence.records_of(digest);
            let recorded = recorded.filter(|it| self.trusts(&it.key.namespace));
            for other in recorded.flat_map(|it| it.digests()) {
                if images.insert(other) {
                    open.push(other);
                }
            }
        }
        images
    }

    /// Marks these images in the environments in which they run: they have to be assessed again. They are all that records tie to
    /// each other. A digest may be tied to an artifact by the log alone, if the record that tied them was deleted.
    fn reassess(&mut self, images: &BTreeSet<Fingerprint>) {
        for (name, env) in &mut self.environments {
            let KnownLog::Read(ledger, _) = &env.log else {
                continue;
            };
            let resolver = env.resolver(&self.evidence);
            let tied = images.iter().filter(|it| env.recorded.knows(it));
            let tied = tied.map(|digest| resolver.canonical(*digest));
            let runs = |digest: &Fingerprint| ledger.total(digest) > 0 || env.census.runs(digest);
            let shown = images.iter().flat_map(|it| env.census.shown_as(*it));
            let all = images.iter().copied().chain(tied);
            let concerned: Vec<_> = all.filter(runs).chain(shown).collect();
            if !concerned.is_empty() {
                env.assessment.touch(concerned);
                self.touched.insert(name.clone());
            }
        }
    }

    /// The facts about these artifacts of an environment changed.
    pub(super) fn mark_artifacts_dirty(
        &mut self,
        name: &str,
        artifacts: impl IntoIterator<Item = Fingerprint>,
    ) {
        let Some(env) = self.environments.get(name) else {
            return;
        };
        let resolver = self.resolver(env);
        let digests: BTreeSet<_> = artifacts
            .into_iter()
            .flat_map(|it| resolver.shown(it))
            .collect();
        self.mark_records_dirty(digests);
    }
}
