//! Resolves which digests identify one image in an environment, and which of them is canonical.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{fleet::TrustedDigests, image::Fingerprint},
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

    /// Whether it ties this digest to another one.
    pub(crate) fn knows(&self, digest: &Fingerprint) -> bool {
        self.to.contains_key(digest) || self.from.contains_key(digest)
    }
}

/// All digests whose evidence counts for a container: its own [`TrustedDigests`], and what trusted records say of these.
/// Only [`IdentityResolver::trusted`] makes one, so that nothing which is good enough to be shown can decide about rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustedClass(BTreeSet<Fingerprint>);

impl TrustedClass {
    /// The digests.
    pub fn iter(&self) -> impl Iterator<Item = Fingerprint> {
        self.0.iter().copied()
    }
}

/// All digests under which an image may be shown as one artifact.
type ShownClass = BTreeSet<Fingerprint>;

/// Resolves the digests of images in one environment.
#[derive(Clone, Copy, Debug)]
pub struct IdentityResolver<'a> {
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

    /// The canonical digest of an image: that of the record which is shown for it, else the one that the log holds for it.
    /// Pods never tie digests: whoever may create some would choose as which artifact the containers of others are shown.
    pub fn canonical(&self, digest: Fingerprint) -> Fingerprint {
        if !self.recorded.knows(&digest) && self.evidence.records_of(digest).next().is_none() {
            return digest; // nearly all of them
        }
        let class = self.shown(digest);
        let records = self
            .evidence
            .counted(class.iter().copied(), |ns| self.trusts(ns));
        if let Some(record) = records.first() {
            return record.fingerprint;
        }
        let recorded = class
            .iter()
            .filter_map(|digest| self.recorded.to.get(digest));
        recorded.min().copied().unwrap_or(digest)
    }

    /// All digests whose evidence counts for a container with these.
    pub fn trusted(&self, digests: TrustedDigests) -> TrustedClass {
        TrustedClass(close(digests.iter(), |digest| self.of_records(digest)))
    }

    /// All digests under which the image may be shown: those that trusted records declare, and that the log holds.
    pub fn shown(&self, digest: Fingerprint) -> ShownClass {
        close([digest], |digest| {
            let mut others = self.of_records(digest);
            others.extend(self.recorded.to.get(&digest));
            others.extend(self.recorded.from.get(&digest).into_iter().flatten());
            others
        })
    }

    /// The digests that trusted records declare to be one image with this one.
    fn of_records(&self, digest: Fingerprint) -> Vec<Fingerprint> {
        let records = self.evidence.records_of(digest);
        let trusted = records.filter(|record| self.trusts(&record.key.namespace));
        trusted.flat_map(|record| record.digests()).collect()
    }
}

/// What can be reached from some digests, themselves included.
fn close(
    digests: impl IntoIterator<Item = Fingerprint>,
    others: impl Fn(Fingerprint) -> Vec<Fingerprint>,
) -> BTreeSet<Fingerprint> {
    let mut class: BTreeSet<_> = digests.into_iter().collect();
    let mut open: Vec<Fingerprint> = class.iter().copied().collect();
    while let Some(digest) = open.pop() {
        for other in others(digest) {
            if class.len() < MAX_CLASS && class.insert(other) {
                open.push(other);
            }
        }
    }
    class
}
