//! Resolves which digests identify one image in an environment, and which of them is canonical.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::snapshot::IdentitySource,
    cluster::{fleet::Fleet, image::Fingerprint},
    compliance::evidence::Evidence,
};

/// At most how many digests are taken for one image: more can only be a mistake.
const MAX_CLASS: usize = 256;

/// Namespaces whose evidence counts.
pub type TrustedNamespaces = BTreeSet<Box<str>>;

/// Pairs of digests in the log of an environment that a provenance record declared to be one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedIdentities {
    to: BTreeMap<Fingerprint, Fingerprint>,
    from: BTreeMap<Fingerprint, BTreeSet<Fingerprint>>,
}

impl RecordedIdentities {
    /// Collects pairs of another digest and the canonical one.
    pub fn of(pairs: impl Iterator<Item = (Fingerprint, Fingerprint)>) -> Self {
        let mut recorded = Self::default();
        for (alias, fingerprint) in pairs {
            recorded.to.insert(alias, fingerprint);
            recorded.from.entry(fingerprint).or_default().insert(alias);
        }
        recorded
    }

    fn knows(&self, digest: &Fingerprint) -> bool {
        self.to.contains_key(digest) || self.from.contains_key(digest)
    }
}

/// Resolves the digests of images in one environment.
#[derive(Clone, Copy, Debug)]
pub struct IdentityResolver<'a> {
    /// Digests that pods were pinned to, and that runtimes reported for one container.
    pub fleet: &'a Fleet,
    /// Provenance records.
    pub evidence: &'a Evidence,
    /// Namespaces whose records count.
    pub trust: &'a TrustedNamespaces,
    /// What the environment's log holds. The canonical digest stays while an artifact is recorded, even if the record is
    /// deleted.
    pub recorded: &'a RecordedIdentities,
}

impl IdentityResolver<'_> {
    /// Whether records of a namespace count.
    pub fn trusts(&self, namespace: &str) -> bool {
        self.trust.contains(namespace)
    }

    /// The canonical digest of an image: that of the record which is shown for it, else the one by which it was known first.
    pub fn canonical(&self, digest: Fingerprint) -> Fingerprint {
        let root = self.fleet.canonical(digest);
        let known = |digest| {
            self.recorded.knows(&digest) || self.evidence.records_of(digest).next().is_some()
        };
        if root == digest && !self.fleet.has_other_names(digest) && !known(digest) {
            return digest; // nearly all of them
        }
        let class = self.class(digest, true);
        let records = self
            .evidence
            .counted(class.iter().copied(), |ns| self.trusts(ns));
        if let Some(record) = records.first() {
            return record.fingerprint;
        }
        let recorded = class
            .iter()
            .filter_map(|digest| self.recorded.to.get(digest));
        recorded.min().copied().unwrap_or(root)
    }

    /// All digests that count as this one for the rules: those of a trusted record, and those that a pod was pinned to when
    /// the container was created. Digests that runtimes reported for one container at different times are not among them.
    pub fn equivalent(&self, digest: Fingerprint) -> BTreeSet<Fingerprint> {
        self.class(digest, false)
    }

    /// How two digests were found to identify one image.
    pub fn source(&self, alias: Fingerprint, fingerprint: Fingerprint) -> IdentitySource {
        if self
            .fleet
            .pinned_with(alias)
            .any(|other| other == fingerprint)
        {
            IdentitySource::Pin
        } else if self.fleet.canonical(alias) == self.fleet.canonical(fingerprint) {
            IdentitySource::Runtime
        } else {
            IdentitySource::Record
        }
    }

    /// All digests that identify the image in any way.
    pub fn all_digests(&self, digest: Fingerprint) -> BTreeSet<Fingerprint> {
        self.class(digest, true)
    }

    fn class(&self, digest: Fingerprint, for_display: bool) -> BTreeSet<Fingerprint> {
        let mut class = BTreeSet::from([digest]);
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            let mut others: Vec<Fingerprint> = self.fleet.pinned_with(digest).collect();
            for record in self.evidence.records_of(digest) {
                if self.trusts(&record.key.namespace) {
                    others.extend(record.digests());
                }
            }
            if for_display {
                others.extend(self.fleet.all_digests(digest));
                others.extend(self.recorded.to.get(&digest));
                others.extend(self.recorded.from.get(&digest).into_iter().flatten());
            }
            for other in others {
                if class.len() < MAX_CLASS && class.insert(other) {
                    open.push(other);
                }
            }
        }
        class
    }
}
