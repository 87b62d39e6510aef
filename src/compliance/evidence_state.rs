//! What the watches of evidence and the writer of its status need of the state that keeps it.

use jiff::Timestamp;

use crate::{
    api::{ArtifactApproval, compliance::ComplianceState},
    cluster::image::Fingerprint,
    compliance::evidence::{Allowance, Evidence, EvidenceKey, EvidenceKind, ProvenanceRecord},
    time::Moment,
};

/// Keeps evidence, and knows where the images that it is about run.
pub trait EvidenceState {
    /// All evidence.
    fn evidence(&self) -> &Evidence;

    /// A provenance record was written, edited or deleted.
    fn record_seen(&mut self, key: &EvidenceKey, record: Option<ProvenanceRecord>, now: Moment);

    /// A review was written or deleted. An error says what can't be read in it.
    fn review_seen(
        &mut self,
        key: &EvidenceKey,
        object: Option<&ArtifactApproval>,
    ) -> Result<(), String>;

    /// An entry of the allow-list was written, edited or deleted.
    fn allowance_seen(&mut self, name: &str, allowance: Option<Allowance>);

    /// The status of this object may have changed.
    fn mark_status_dirty(&mut self, kind: EvidenceKind, key: EvidenceKey);

    /// This object is gone, and its status with it.
    fn status_gone(&mut self, kind: EvidenceKind, key: &EvidenceKey);

    /// Takes at most `max` objects whose status may have changed; none before every log has been read, or had its time.
    fn take_dirty_status(&mut self, max: usize, now: Moment) -> Vec<(EvidenceKind, EvidenceKey)>;

    /// When the next entry of the allow-list expires.
    fn next_expiry(&self, now: Timestamp) -> Option<Timestamp>;

    /// Marks the status of entries of the allow-list that expired since the last call.
    fn expire_allowances(&mut self, now: Timestamp);

    /// Whether records of a namespace count in any environment.
    fn trusts(&self, namespace: &str) -> bool;

    /// The environments in which an image with one of these digests runs and where records of this namespace count: name,
    /// the digest by which it is known there, and whether it is compliant there.
    fn running_in(
        &self,
        namespace: &str,
        digests: &[Fingerprint],
    ) -> Vec<(&str, Fingerprint, ComplianceState)>;

    /// Whether there is an Environment of this name.
    fn environment_exists(&self, name: &str) -> bool;

    /// Whether the log of an environment has recorded the allow-list entry with this UID.
    fn announced(&self, environment: &str, uid: &str) -> bool;
}

/// Shares an [`EvidenceState`] between tasks.
pub trait SharedEvidence: Send + Sync {
    /// Reads or changes the state; nobody sees a change half-way.
    fn with_evidence<T>(&self, work: impl FnOnce(&mut dyn EvidenceState, Moment) -> T) -> T;

    /// Resolves after the status of an object may have changed.
    fn status_changed(&self) -> impl Future<Output = ()> + Send;
}
