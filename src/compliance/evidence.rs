//! Evidence about images: provenance records, reviews and the allow-list, indexed by digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use kube::{ResourceExt as _, api::ObjectMeta};

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance,
        approval::ReviewState,
        provenance::RecordState,
        snapshot::{ApprovalNote, DeploymentNote},
        user_time,
    },
    cluster::image::Fingerprint,
};

/// The kinds of objects that carry evidence about images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvidenceKind {
    /// ArtifactProvenances.
    Records,
    /// ArtifactApprovals.
    Reviews,
    /// AllowedArtifacts.
    Allowances,
}

impl EvidenceKind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Records, Self::Reviews, Self::Allowances];

    /// The plural name in lower case, as kubectl takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "artifactprovenances",
            Self::Reviews => "artifactapprovals",
            Self::Allowances => "allowedartifacts",
        }
    }
}

/// Namespace and name of an object. The namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EvidenceKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl EvidenceKey {
    /// The key of an object.
    pub fn of(object: &impl kube::Resource) -> Self {
        Self::of_metadata(object.meta())
    }

    /// The key of an object with this metadata.
    pub fn of_metadata(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            name: metadata.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// The key of a cluster-wide object.
    pub fn of_cluster(name: &str) -> Self {
        Self {
            namespace: "".into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for EvidenceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A text that most records don't have.
type Maybe = Option<Box<str>>;

/// An ArtifactProvenance, as far as it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenanceRecord {
    pub(crate) key: EvidenceKey,
    pub(crate) uid: Box<str>,
    pub(crate) created: Timestamp,
    /// The digest that it is about.
    pub fingerprint: Fingerprint,
    /// Other digests of the same image.
    pub aliases: Box<[Fingerprint]>,
    /// The flow that made the image.
    pub flow: Box<str>,
    /// Its name for people.
    pub name: Maybe,
    /// The repository that the image must come from.
    pub repository: Maybe,
    pub(crate) commit: Maybe,
    /// A page that shows the commit.
    pub commit_url: Maybe,
    /// A page that shows the build.
    pub build_url: Maybe,
    /// Whether its required attestations are present and none has failed (F1-F3).
    pub state: RecordState,
    /// Required attestations that are missing.
    pub missing: Box<[Box<str>]>,
    pub(crate) attestations: Box<[AttestationRecord]>,
    /// Announced deployments, the newest first.
    pub deployments: Box<[DeploymentRecord]>,
    /// All of it could be read. Of any other one only what speaks against its image is here, as far as that can be read;
    /// its flow, and the name and the type of a failed attestation, are empty if they can't be.
    pub whole: bool,
}

/// An attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationRecord {
    pub(crate) name: Box<str>,
    pub(crate) type_: Maybe,
    /// Whether it passed.
    pub compliant: bool,
}

/// A deployment that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentRecord {
    pub(crate) time: Timestamp,
    /// Its number in the flow.
    pub number: i64,
    pub(crate) environment: Box<str>,
    /// A page that shows the build.
    pub build_url: Maybe,
}

impl DeploymentRecord {
    /// What a snapshot says of it.
    pub(crate) fn note(&self) -> DeploymentNote {
        DeploymentNote {
            number: self.number,
            time: self.time,
            build_url: self.build_url.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

fn digest(text: &str) -> Result<Fingerprint, String> {
    Fingerprint::from_hex(text).ok_or_else(|| format!("{text:?} is no digest"))
}

fn boxed(text: Option<&String>) -> Maybe {
    text.map(|text| text.as_str().into())
}

/// A URL that a browser opens as a page. Others (`javascript:`) could harm whoever clicks.
fn page(url: Option<&String>) -> Maybe {
    let url = url?;
    let scheme = url.split_once("://")?.0;
    let is_page = scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
    let printable = |c: char| c.is_ascii_graphic() || !c.is_ascii() && c.is_alphanumeric();
    (is_page && url.chars().all(printable)).then(|| url.as_str().into())
}

impl ProvenanceRecord {
    /// Parses an object. An error says what can't be read in it.
    pub fn of(object: &ArtifactProvenance) -> Result<Self, String> {
        let spec = &object.spec;
        let attestations = spec.attestations.iter().flatten();
        let attestations: Box<[_]> = attestations
            .map(|attestation| AttestationRecord {
                name: attestation.name.as_str().into(),
                type_: boxed(attestation.type_.as_ref()),
                compliant: attestation.compliant,
            })
            .collect();
        let there = |name: &String| attestations.iter().any(|found| *found.name == **name);
        let required = spec.required_attestations.iter().flatten();
        let missing: Box<[Box<str>]> = required
            .filter(|name| !there(name))
            .map(|name| name.as_str().into())
            .collect();
        let state = if attestations.iter().any(|found| !found.compliant) {
            RecordState::NonCompliant // F1
        } else if !missing.is_empty() {
            RecordState::Incomplete // F2
        } else {
            RecordState::Compliant // F3
        };
        let deployments = spec.deployments.iter().flatten();
        let mut deployments: Vec<_> = deployments
            .map(|deployment| DeploymentRecord {
                time: deployment.time,
                number: deployment.number,
                environment: deployment.environment.as_str().into(),
                build_url: page(deployment.build_url.as_ref()),
            })
            .collect();
        deployments.sort_by_key(|found| std::cmp::Reverse((found.time, found.number)));
        let aliases = spec.aliases.iter().flatten();
        Ok(Self {
            key: EvidenceKey::of(object),
            uid: object.uid().unwrap_or_default().into(),
            created: created(object),
            fingerprint: digest(&spec.fingerprint)?,
            aliases: aliases
                .map(|alias| digest(alias))
                .collect::<Result<_, _>>()?,
            flow: spec.flow.as_str().into(),
            name: boxed(spec.name.as_ref()),
            repository: boxed(spec.repository.as_ref()),
            commit: boxed(spec.commit.as_ref().map(|commit| &commit.sha)),
            commit_url: page(spec.commit.as_ref().and_then(|commit| commit.url.as_ref())),
            build_url: page(spec.build.as_ref().map(|build| &build.url)),
            state,
            missing,
            attestations,
            deployments: deployments.into(),
            whole: true,
        })
    }

    /// What counts of an object that can't be read as a whole. `None`: not even a digest of its image can be read.
    pub fn part_of(object: &ArtifactProvenance) -> Option<Self> {
        let mut readable = object.clone();
        let spec = &mut readable.spec;
        let aliases = spec.aliases.take().unwrap_or_default();
        let fingerprint = [std::mem::take(&mut spec.fingerprint)];
        let digests = fingerprint.into_iter().chain(aliases);
        let mut digests = digests.filter(|text| digest(text).is_ok());
        spec.fingerprint = digests.next()?;
        spec.aliases = Some(digests.collect());
        // What passed is not there: so it is missing, if it is required.
        let attestations = spec.attestations.iter_mut();
        attestations.for_each(|all| all.retain(|it| !it.compliant));
        Some(Self::of(&readable).ok()?.against())
    }

    /// Only what speaks against its image.
    #[must_use]
    pub fn against(&self) -> Self {
        let failed = self.attestations.iter().filter(|it| !it.compliant);
        Self {
            state: self.state.max(RecordState::Incomplete),
            attestations: failed.cloned().collect(),
            deployments: [].into(),
            whole: false,
            ..self.clone()
        }
    }

    /// Its flow; `None`: it can't be read, and may be any.
    pub fn known_flow(&self) -> Option<&str> {
        (self.whole || !self.flow.is_empty()).then_some(&*self.flow)
    }

    /// All its digests, which identify one image.
    pub fn digests(&self) -> impl Iterator<Item = Fingerprint> {
        [self.fingerprint]
            .into_iter()
            .chain(self.aliases.iter().copied())
    }

    /// Orders records of one flow: the oldest counts.
    fn age(&self) -> (Timestamp, &str, &EvidenceKey) {
        (self.created, &self.uid, &self.key)
    }
}

fn created(object: &impl kube::ResourceExt) -> Timestamp {
    object
        .creation_timestamp()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// An ArtifactApproval, as far as it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalReview {
    pub(crate) key: EvidenceKey,
    pub(crate) uid: Box<str>,
    pub(crate) created: Timestamp,
    /// The digest that was reviewed.
    pub fingerprint: Fingerprint,
    /// The flow of the record that was reviewed.
    pub flow: Maybe,
    /// The environment that it is about.
    pub environment: Maybe,
    /// Its number, of the spec or else assigned by Shipbell: a label, which its writer may choose, and no order.
    pub number: i64,
    /// Shipbell has assigned the number.
    pub(crate) numbered_here: bool,
    /// The reviewer's decision.
    pub state: ReviewState,
    pub(crate) reviewer: Box<str>,
    pub(crate) comment: Maybe,
    /// When it was reviewed.
    pub time: Timestamp,
    pub(crate) expires: Option<Timestamp>,
}

impl ApprovalReview {
    /// What a snapshot says of it.
    pub(crate) fn note(&self) -> ApprovalNote {
        ApprovalNote {
            number: self.number,
            time: self.time,
            state: self.state,
            reviewer: self.reviewer.to_string(),
            comment: self.comment.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// Orders reviews from the oldest to the newest, by nothing that their writers can choose at will.
    pub fn order(&self) -> (Timestamp, &str, &str) {
        (self.created, &self.key.name, &self.key.namespace)
    }

    /// Whether it has expired.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// An AllowedArtifact, as far as it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowance {
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    pub(crate) created: Timestamp,
    pub(crate) environments: BTreeSet<Box<str>>,
    /// The images: digest and name.
    pub artifacts: BTreeMap<Fingerprint, Box<str>>,
    pub(crate) reason: Box<str>,
    pub(crate) expires: Option<Timestamp>,
    /// All of it could be read. Any other one allows nothing.
    pub(crate) whole: bool,
}

impl Allowance {
    /// Parses an object. An error says what can't be read in it.
    pub fn of(object: &AllowedArtifact) -> Result<Self, String> {
        let artifacts = object
            .spec
            .artifacts
            .iter()
            .map(|image| Ok((digest(&image.fingerprint)?, image.name.as_str().into())));
        Ok(Self {
            name: object.name_any().into(),
            uid: object.uid().unwrap_or_default().into(),
            created: created(object),
            environments: object
                .spec
                .environments
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            artifacts: artifacts.collect::<Result<_, String>>()?,
            reason: object.spec.reason.as_str().into(),
            expires: user_time::end(object.spec.expires_at),
            whole: true,
        })
    }

    /// What counts of an object that can't be read as a whole: that it is there.
    pub fn nothing_of(object: &AllowedArtifact) -> Self {
        Self {
            name: object.name_any().into(),
            uid: object.uid().unwrap_or_default().into(),
            created: created(object),
            environments: BTreeSet::new(),
            artifacts: BTreeMap::new(),
            reason: "".into(),
            expires: None,
            whole: false,
        }
    }

    /// Allows nothing any more.
    #[must_use]
    pub fn nothing(&self) -> Self {
        Self {
            environments: BTreeSet::new(),
            artifacts: BTreeMap::new(),
            expires: None,
            whole: false,
            ..self.clone()
        }
    }

    /// Whether it is in force.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| end > now)
    }
}

/// The objects of one kind.
type Objects<T> = BTreeMap<EvidenceKey, Arc<T>>;

/// The keys of objects by something that they name.
type Index<K> = BTreeMap<K, BTreeSet<EvidenceKey>>;

/// Changes an index from what an object named to what it names now. Returns both.
fn reindex<K: Ord + Clone>(
    index: &mut Index<K>,
    key: &EvidenceKey,
    before: BTreeSet<K>,
    now: BTreeSet<K>,
) -> BTreeSet<K> {
    for named in before.difference(&now) {
        if let Some(keys) = index.get_mut(named) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(named);
            }
        }
    }
    for named in now.difference(&before) {
        let keys = index.entry(named.clone()).or_default();
        keys.insert(key.clone());
    }
    before.into_iter().chain(now).collect()
}

/// Adds, replaces or removes an object, and indexes it by its digests. Returns the digests that it is or was about; `None`:
/// nothing relevant changed.
fn put<T: PartialEq>(
    objects: &mut Objects<T>,
    index: &mut Index<Fingerprint>,
    key: &EvidenceKey,
    object: Option<T>,
    digests: impl Fn(&T) -> BTreeSet<Fingerprint>,
) -> Option<BTreeSet<Fingerprint>> {
    let before = objects.get(key).map(|object| &**object);
    if before == object.as_ref() {
        return None;
    }
    let (before, now) = (before.map(&digests), object.as_ref().map(&digests));
    let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
    match object {
        Some(object) => objects.insert(key.clone(), Arc::new(object)),
        None => objects.remove(key),
    };
    Some(reindex(index, key, before, now))
}

/// The objects with these keys.
fn at<'a, T>(
    objects: &'a Objects<T>,
    keys: Option<&'a BTreeSet<EvidenceKey>>,
) -> impl Iterator<Item = &'a Arc<T>> {
    let keys = keys.into_iter().flatten();
    keys.filter_map(|key| objects.get(key))
}

/// All evidence.
#[derive(Debug, Default)]
pub struct Evidence {
    records: Objects<ProvenanceRecord>,
    records_of: Index<Fingerprint>,
    reviews: Objects<ApprovalReview>,
    reviews_of: Index<Fingerprint>,
    allowances: Objects<Allowance>,
    allowances_of: Index<Fingerprint>,
    allowances_in: Index<Box<str>>,
}

impl Evidence {
    /// Adds, replaces or removes a record. Returns the digests that it is or was about; `None`: nothing relevant changed.
    pub fn put_record(
        &mut self,
        key: &EvidenceKey,
        record: Option<ProvenanceRecord>,
    ) -> Option<BTreeSet<Fingerprint>> {
        let digests = |record: &ProvenanceRecord| record.digests().collect();
        put(
            &mut self.records,
            &mut self.records_of,
            key,
            record,
            digests,
        )
    }

    /// Adds, replaces or removes a review. Returns the digests that it is or was about; `None`: nothing relevant changed. An
    /// error says what can't be read in it.
    pub fn put_review(
        &mut self,
        key: &EvidenceKey,
        object: Option<&ArtifactApproval>,
    ) -> Result<Option<BTreeSet<Fingerprint>>, String> {
        let review = object
            .map(|object| self.review_of(object, key))
            .transpose()?;
        let digests = |review: &ApprovalReview| BTreeSet::from([review.fingerprint]);
        Ok(put(
            &mut self.reviews,
            &mut self.reviews_of,
            key,
            review,
            digests,
        ))
    }

    /// Parses a review. Its number is that of its spec, the one assigned before, or the next free one.
    fn review_of(
        &self,
        object: &ArtifactApproval,
        key: &EvidenceKey,
    ) -> Result<ApprovalReview, String> {
        let spec = &object.spec;
        let uid = object.uid().unwrap_or_default();
        let given = object.status.as_ref().and_then(|status| status.number);
        let before = self.reviews.get(key).filter(|it| *it.uid == *uid);
        let before = before.map(|before| before.number);
        let number = spec.number.or(given).or(before);
        Ok(ApprovalReview {
            key: key.clone(),
            uid: uid.as_str().into(),
            created: created(object),
            fingerprint: digest(&spec.fingerprint)?,
            flow: boxed(spec.flow.as_ref()),
            environment: boxed(spec.environment.as_ref()),
            number: number.unwrap_or_else(|| self.next_number(&key.namespace)),
            numbered_here: spec.number.is_none(),
            state: spec.state,
            reviewer: spec.reviewer.as_str().into(),
            comment: boxed(spec.comment.as_ref()),
            time: spec.time.unwrap_or_else(|| created(object)),
            expires: user_time::end(spec.expires_at),
        })
    }

    /// The number after those that were assigned in a namespace: numbers that writers chose, and those of namespaces of
    /// others, move nothing.
    fn next_number(&self, namespace: &str) -> i64 {
        let reviews = self.reviews.values();
        let assigned = reviews.filter(|it| it.numbered_here && *it.key.namespace == *namespace);
        let newest = assigned.map(|review| review.number).max();
        newest.unwrap_or(0).saturating_add(1)
    }

    /// Adds, replaces or removes an entry of the allow-list. Returns the digests and the environments that it is or was
    /// about; `None`: nothing relevant changed.
    pub fn put_allowance(
        &mut self,
        name: &str,
        allowance: Option<Allowance>,
    ) -> Option<(BTreeSet<Fingerprint>, BTreeSet<Box<str>>)> {
        let key = EvidenceKey::of_cluster(name);
        let before = self.allowances.get(&key);
        let before = before.map(|it| it.environments.clone()).unwrap_or_default();
        let now = allowance.as_ref().map(|it| it.environments.clone());
        let digests = |entry: &Allowance| entry.artifacts.keys().copied().collect();
        let (objects, index) = (&mut self.allowances, &mut self.allowances_of);
        let digests = put(objects, index, &key, allowance, digests)?;
        let now = now.unwrap_or_default();
        let environments = reindex(&mut self.allowances_in, &key, before, now);
        Some((digests, environments))
    }

    /// All records.
    pub fn records(&self) -> &BTreeMap<EvidenceKey, Arc<ProvenanceRecord>> {
        &self.records
    }

    /// All reviews.
    pub fn reviews(&self) -> &BTreeMap<EvidenceKey, Arc<ApprovalReview>> {
        &self.reviews
    }

    /// All entries of the allow-list.
    pub fn allowances(&self) -> &BTreeMap<EvidenceKey, Arc<Allowance>> {
        &self.allowances
    }

    /// The keys of all objects of a kind.
    pub fn keys(&self, kind: EvidenceKind) -> Vec<EvidenceKey> {
        match kind {
            EvidenceKind::Records => self.records().keys().cloned().collect(),
            EvidenceKind::Reviews => self.reviews().keys().cloned().collect(),
            EvidenceKind::Allowances => self.allowances().keys().cloned().collect(),
        }
    }

    /// The records that name a digest.
    pub fn records_of(&self, digest: Fingerprint) -> impl Iterator<Item = &Arc<ProvenanceRecord>> {
        at(&self.records, self.records_of.get(&digest))
    }

    /// The reviews of a digest.
    pub fn reviews_of(&self, digest: Fingerprint) -> impl Iterator<Item = &Arc<ApprovalReview>> {
        at(&self.reviews, self.reviews_of.get(&digest))
    }

    /// The entries of the allow-list that name a digest.
    pub fn allowances_of(&self, digest: Fingerprint) -> impl Iterator<Item = &Arc<Allowance>> {
        at(&self.allowances, self.allowances_of.get(&digest))
    }

    /// The entries of the allow-list of an environment.
    pub fn allowances_in(&self, environment: &str) -> impl Iterator<Item = &Arc<Allowance>> {
        at(&self.allowances, self.allowances_in.get(environment))
    }

    /// The records that count for some digests: those of trusted namespaces, and of each flow the oldest. They are ordered
    /// by flow and namespace, and the first one is shown.
    pub fn counted(
        &self,
        digests: impl IntoIterator<Item = Fingerprint>,
        trusts: impl Fn(&str) -> bool,
    ) -> Vec<&Arc<ProvenanceRecord>> {
        // A record whose flow can't be read takes the place of no other, and no other takes its place.
        let mut flows: BTreeMap<_, &Arc<ProvenanceRecord>> = BTreeMap::new();
        for digest in digests {
            for record in self.records_of(digest) {
                if !trusts(&record.key.namespace) {
                    continue;
                }
                let flow = record.known_flow().ok_or(&record.key);
                let oldest = flows.entry(flow).or_insert(record);
                if record.age() < oldest.age() {
                    *oldest = record;
                }
            }
        }
        flows.into_values().collect()
    }

    /// The oldest older record of the same flow and image in the same namespace or in a trusted one.
    pub fn conflict(
        &self,
        record: &ProvenanceRecord,
        trusts: impl Fn(&str) -> bool,
    ) -> Option<&EvidenceKey> {
        let namesakes = record.digests().flat_map(|digest| self.records_of(digest));
        let older = namesakes.filter(|other| {
            record.known_flow().is_some()
                && other.known_flow() == record.known_flow()
                && other.age() < record.age()
                && (other.key.namespace == record.key.namespace || trusts(&other.key.namespace))
        });
        older
            .min_by_key(|other| other.age())
            .map(|other| &other.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(yaml: &str) -> ProvenanceRecord {
        let spec = serde_saphyr::from_str(yaml).unwrap();
        ProvenanceRecord::of(&ArtifactProvenance::new("runner", spec)).unwrap()
    }

    #[test]
    fn a_record_is_judged_by_its_own_attestations() {
        let fingerprint = "a".repeat(64);
        for (number, rest, want, missing) in [
            (
                "F1",
                "attestations: [{name: scan, compliant: false}]",
                RecordState::NonCompliant,
                &[][..],
            ),
            (
                "F1",
                "requiredAttestations: [scan, tests]\nattestations: [{name: scan, compliant: false}]",
                RecordState::NonCompliant,
                &["tests"],
            ),
            (
                "F2",
                "requiredAttestations: [scan, tests]\nattestations: [{name: scan, compliant: true}]",
                RecordState::Incomplete,
                &["tests"],
            ),
            (
                "F3",
                "requiredAttestations: [scan]\nattestations: [{name: scan, compliant: true}, {name: more, compliant: true}]",
                RecordState::Compliant,
                &[],
            ),
            ("F3", "{}", RecordState::Compliant, &[]),
        ] {
            let rest = if rest == "{}" { "" } else { rest };
            let record = record(&format!("fingerprint: {fingerprint}\nflow: runner\n{rest}"));
            assert_eq!(record.state, want, "{number}: {rest}");
            let found: Vec<&str> = record.missing.iter().map(|name| &**name).collect();
            assert_eq!(found, missing, "{number}: {rest}");
        }
    }

    #[test]
    fn what_ends_at_a_time_that_no_clock_reaches_never_ends() {
        let metadata = r#""metadata": {"name": "a", "namespace": "ci", "uid": "u"}"#;
        let digest = "a".repeat(64);
        for end in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999-99:99"] {
            let review = format!(
                r#"{{{metadata}, "spec": {{"fingerprint": "{digest}", "state": "rejected", "reviewer": "eve", "time": "{end}", "expiresAt": "{end}"}}}}"#
            );
            let review: ArtifactApproval = serde_json::from_str(&review).unwrap();
            let (mut evidence, key) = (Evidence::default(), EvidenceKey::of(&review));
            evidence.put_review(&key, Some(&review)).unwrap();
            let read = &evidence.reviews()[&key];
            assert_eq!((read.state, read.expires), (ReviewState::Rejected, None));
            let allowance = format!(
                r#"{{{metadata}, "spec": {{"environments": ["prod"], "artifacts": [{{"fingerprint": "{digest}", "name": "a"}}], "reason": "r", "expiresAt": "{end}"}}}}"#
            );
            let allowance: AllowedArtifact = serde_json::from_str(&allowance).unwrap();
            assert_eq!(Allowance::of(&allowance).unwrap().expires, None);
            let record = format!(
                r#"{{{metadata}, "spec": {{"fingerprint": "{digest}", "flow": "f", "build": {{"url": "https://ci", "startedAt": "{end}"}}, "attestations": [{{"name": "a", "compliant": false, "time": "{end}"}}], "deployments": [{{"number": 1, "environment": "prod", "time": "{end}"}}]}}}}"#
            );
            let record: ArtifactProvenance = serde_json::from_str(&record).unwrap();
            let record = ProvenanceRecord::of(&record).unwrap();
            assert_eq!(record.state, RecordState::NonCompliant);
            let rules = format!(
                r#"{{"compliance": {{"provenance": {{"required": true}}, "exceptions": [{{"images": ["*"], "reason": "r", "expiresAt": "{end}"}}]}}}}"#
            );
            let rules: crate::api::EnvironmentSpec = serde_json::from_str(&rules).unwrap();
            let exceptions = rules.compliance.unwrap().exceptions.unwrap();
            assert_eq!(user_time::end(exceptions[0].expires_at), None);
        }
    }

    #[test]
    fn the_newest_review_is_the_one_that_was_created_last_whatever_its_number() {
        let mut evidence = Evidence::default();
        let mut put = |name: &str, second: i64, number: &str| {
            let created = Timestamp::from_second(second).unwrap();
            let (namespace, name) = name.split_once('/').unwrap();
            let review = format!(
                r#"{{"metadata": {{"name": "{name}", "namespace": "{namespace}", "uid": "{namespace}-{name}", "creationTimestamp": "{created}"}},
                    "spec": {{"fingerprint": "{}", "state": "approved", "reviewer": "eve"{number}}}}}"#,
                "a".repeat(64)
            );
            let review: ArtifactApproval = serde_json::from_str(&review).unwrap();
            let key = EvidenceKey::of(&review);
            evidence.put_review(&key, Some(&review)).unwrap();
            evidence.reviews()[&key].number
        };
        assert_eq!(put("ci/a", 100, ""), 1);
        // Numbers that writers choose, and those of other namespaces, move ours by nothing.
        assert_eq!(
            put("ci/y", 100, r#", "number": 9223372036854775807"#),
            i64::MAX
        );
        assert_eq!(
            put("tenant/b", 150, r#", "number": 1000000000000000"#),
            1_000_000_000_000_000
        );
        assert_eq!(put("tenant/c", 150, ""), 1);
        assert_eq!(put("ci/z", 100, ""), 2);
        assert_eq!(put("ci/late", 200, ""), 3);
        assert_eq!(put("ci/early", 50, ""), 4);
        let mut ordered: Vec<_> = evidence.reviews().values().collect();
        ordered.sort_by(|a, b| a.order().cmp(&b.order()));
        let ordered: Vec<_> = ordered.iter().map(|it| &*it.key.name).collect();
        assert_eq!(ordered, ["early", "a", "y", "z", "b", "c", "late"]);
    }

    #[test]
    fn only_links_that_open_as_a_page_are_kept() {
        for (url, kept) in [
            ("https://ci.example.com/runs/1", true),
            ("HTTP://ci.example.com", true),
            ("javascript:alert(1)", false),
            ("https://ci.example.com/a b", false),
            ("https://ci.example.com/\u{202e}gpj", false),
            ("ftp://ci.example.com", false),
        ] {
            assert_eq!(page(Some(&url.to_owned())).is_some(), kept, "{url}");
        }
    }
}
