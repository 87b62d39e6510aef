//! What is said of images, and whose status that changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::ArtifactApproval,
    cluster::image::Fingerprint,
    compliance::evidence::{Allowance, EvidenceKey, ProvenanceRecord},
    snapshot::state::{ClusterState, EnvironmentState, EvidenceKind, KnownLog},
    time::Moment,
};

/// After so long nobody waits any more for a log that can't be read: what is said elsewhere is answered.
const LOGS: Moment = Moment::from_secs(30);

impl ClusterState {
    /// Whether there may be more to answer than when this was last asked.
    pub fn take_answers(&mut self) -> bool {
        std::mem::take(&mut self.answers)
    }

    /// Some of the objects whose status may be another now, at most `max`; none before every log has been read, or had its time.
    pub fn take_unanswered(&mut self, max: usize, now: Moment) -> Vec<(EvidenceKind, EvidenceKey)> {
        let known = self.environments.values().all(|env| env.ledger().is_some());
        if self.listed_evidence.len() < EvidenceKind::ALL.len() || !known && now < LOGS {
            return vec![];
        }
        let taken: Vec<_> = self.unanswered.iter().take(max).cloned().collect();
        for object in &taken {
            self.unanswered.remove(object);
        }
        taken
    }

    /// The status of this object may be another now.
    pub fn unanswered(&mut self, kind: EvidenceKind, key: EvidenceKey) {
        self.answers = true;
        self.unanswered.insert((kind, key));
    }

    /// When the next entry of the allow-list ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let entries = self.evidence.allowances().values();
        entries
            .filter_map(|entry| entry.expires)
            .filter(|end| *end > now)
            .min()
    }

    /// Entries of the allow-list that ended since this was last asked have another status now.
    pub fn look_at_ends(&mut self, now: Timestamp) {
        let since = self.ends_seen.replace(now);
        let is_news = |end: Timestamp| end <= now && since.is_none_or(|since| end > since);
        let entries = self.evidence.allowances().values();
        let ended: Vec<_> = entries
            .filter(|entry| entry.expires.is_some_and(is_news))
            .map(|entry| EvidenceKey::of_cluster(&entry.name))
            .collect();
        for key in ended {
            self.unanswered(EvidenceKind::Allowances, key);
        }
    }

    /// The status of all objects may be another now.
    pub(super) fn all_unanswered(&mut self) {
        let records = self.evidence.records().keys();
        self.unanswered
            .extend(records.map(|key| (EvidenceKind::Records, key.clone())));
        let reviews = self.evidence.reviews().keys();
        self.unanswered
            .extend(reviews.map(|key| (EvidenceKind::Reviews, key.clone())));
        self.allowances_unanswered();
    }

    pub(super) fn allowances_unanswered(&mut self) {
        self.answers = true;
        let names = self.evidence.allowances().keys();
        self.unanswered
            .extend(names.map(|name| (EvidenceKind::Allowances, EvidenceKey::of_cluster(name))));
    }

    /// The records of these images have another status now.
    pub(super) fn records_unanswered(&mut self, digests: impl IntoIterator<Item = Fingerprint>) {
        self.answers = true;
        for digest in digests {
            let records = self.evidence.records_of(digest);
            self.unanswered
                .extend(records.map(|record| (EvidenceKind::Records, record.key.clone())));
        }
    }

    /// A kind has been listed, or can't be read: why.
    pub fn evidence_listed(&mut self, kind: EvidenceKind) {
        self.listed_evidence.insert(kind);
        self.answers = true;
        self.evidence_trouble.remove(&kind);
        self.touch_all();
    }

    /// A kind can't be read.
    pub fn evidence_fails(&mut self, kind: EvidenceKind, why: String) {
        self.evidence_trouble.insert(kind, why);
        self.touch_all();
    }

    /// A record was written, edited or deleted.
    pub fn record_seen(
        &mut self,
        key: &EvidenceKey,
        record: Option<ProvenanceRecord>,
        now: Moment,
    ) {
        let old = self.evidence.records().get(key).cloned();
        let digests = old.iter().flat_map(|record| record.digests());
        let digests: BTreeSet<_> = digests
            .chain(record.iter().flat_map(ProvenanceRecord::digests))
            .collect();
        let images = self.images(&digests);
        // What is counted must be called the same when it is taken out as when it was put in.
        let counts = |env: &EnvironmentState| {
            let mut images = images.iter();
            env.trust.contains(&*key.namespace) && images.any(|it| env.census.mentions(it))
        };
        let called = |world: &Self| -> BTreeMap<String, Vec<Fingerprint>> {
            let counting = world.environments.iter().filter(|(_, env)| counts(env));
            let called = counting.map(|(name, env)| {
                let names = world.names(env);
                let called = images.iter().map(|digest| names.canonical(*digest));
                (name.clone(), called.collect())
            });
            called.collect()
        };
        let several = images.len() > 1;
        let before = if several {
            called(self)
        } else {
            BTreeMap::new()
        };
        if !self.evidence.put_record(key, record) {
            return;
        }
        self.unanswered(EvidenceKind::Records, key.clone());
        self.records_unanswered(digests);
        if several {
            for (name, called) in called(self) {
                let Some(env) = self.environments.get_mut(&name) else {
                    continue;
                };
                if before.get(&name) != Some(&called) {
                    env.recount(&self.fleet, &self.evidence, now);
                    self.touched.insert(name);
                }
            }
        }
        self.said_of(&images);
    }

    /// A review was written or deleted. An error says what can't be read in it.
    pub fn review_seen(
        &mut self,
        key: &EvidenceKey,
        object: Option<&ArtifactApproval>,
    ) -> Result<(), String> {
        if let Some(touched) = self.evidence.put_review(key, object)? {
            self.unanswered(EvidenceKind::Reviews, key.clone());
            self.said_of(&self.images(&touched));
        }
        Ok(())
    }

    /// An entry of the allow-list was written, edited or deleted.
    pub fn allowance_seen(&mut self, name: &str, allowance: Option<Allowance>) {
        let Some((touched, environments)) = self.evidence.put_allowance(name, allowance) else {
            return;
        };
        self.unanswered(EvidenceKind::Allowances, EvidenceKey::of_cluster(name));
        for name in environments {
            if let Some(env) = self.environments.get_mut(&*name) {
                env.docket.allow_list_changed();
                self.touched.insert(name.into());
            }
        }
        self.said_of(&self.images(&touched));
    }

    /// All digests that anybody who is trusted anywhere says are one image with one of these.
    fn images(&self, digests: &BTreeSet<Fingerprint>) -> BTreeSet<Fingerprint> {
        let mut images = digests.clone();
        let mut open: Vec<Fingerprint> = digests.iter().copied().collect();
        while let Some(digest) = open.pop() {
            let recorded = self.evidence.records_of(digest);
            let recorded = recorded.filter(|it| self.trusts(&it.key.namespace));
            let recorded = recorded.flat_map(|it| it.digests());
            let others = recorded.chain(self.fleet.called(digest));
            let others = others.chain(self.fleet.pinned_with(digest));
            for other in others.collect::<Vec<_>>() {
                if images.insert(other) {
                    open.push(other);
                }
            }
        }
        images
    }

    /// Those environments have something to judge anew in which an image runs that was spoken of.
    fn said_of(&mut self, images: &BTreeSet<Fingerprint>) {
        for (name, env) in &mut self.environments {
            let KnownLog::Read(ledger, _) = &env.log else {
                continue;
            };
            let runs =
                |digest: &&Fingerprint| ledger.total(digest) > 0 || env.census.total(digest) > 0;
            let concerned: Vec<_> = images.iter().filter(runs).copied().collect();
            if !concerned.is_empty() {
                env.docket.touch(concerned);
                self.touched.insert(name.clone());
            }
        }
    }

    /// What is known of these artifacts of an environment is other than before.
    pub(super) fn artifacts_unanswered(&mut self, name: &str, artifacts: Vec<Fingerprint>) {
        let Some(env) = self.environments.get(name) else {
            return;
        };
        let names = self.names(env);
        let digests: BTreeSet<_> = artifacts
            .into_iter()
            .flat_map(|it| names.called(it))
            .collect();
        self.records_unanswered(digests);
    }
}
