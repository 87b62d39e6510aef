//! The recorded state of an environment, and how an entry of the log changes it. The state at any index is the nearest
//! checkpoint before it plus the entries since.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{self, BufReader, BufWriter, Read as _},
    sync::Arc,
};

use base64::{engine::general_purpose::STANDARD, read::DecoderReader, write::EncoderStringWriter};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        compliance::ComplianceState,
        snapshot::{
            AllowListChange, AllowListState, Change, CompletedRollout, Compliance, IdentitySource,
            Provenance, ReadAt, Totals, UncountedArtifact, Verdict, WorkloadChange,
        },
    },
    cluster::{
        fleet::{Fleet, LearnedContainer, TrustedDigests, Workload},
        hanging::Hanging,
        image::Fingerprint,
        scope::Scope,
    },
    compliance::artifact_identity::RecordedIdentities,
    time::seconds,
};

/// The version of the rules by which instances are counted. Raise it when the same cluster would give other counts.
pub const CENSUS_VERSION: i32 = 3;

/// How long to remember when an artifact was first seen after it stopped. By default the log is pruned after the same time.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(720);
/// Of how many stopped artifacts that is remembered, at most.
const GONE: usize = 5_000;

/// At most how many bytes of JSON a checkpoint has that is read: a larger one can't be ours.
const MAX_STATE: u64 = 64 << 20;

/// An artifact in a workload: the unit of counting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub(crate) workload: Arc<Workload>,
    /// The artifact.
    pub fingerprint: Fingerprint,
}

impl Cell {
    /// The artifact in the namespace of the workload.
    pub fn place(&self) -> Place {
        (self.fingerprint, self.workload.namespace.clone())
    }
}

/// An artifact in a namespace: what a rule may depend on.
pub type Place = (Fingerprint, Arc<str>);

/// Instances by cell. No entry is zero.
pub type Cells = BTreeMap<Cell, u32>;

/// What is recorded about an artifact besides its counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArtifactFacts {
    /// Whether it complies with the rules, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Where it comes from, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl ArtifactFacts {
    /// Those that a change records.
    fn of(change: &Change) -> Self {
        Self {
            verdict: change.verdict.clone(),
            provenance: change.provenance.clone(),
        }
    }

    /// Whether there are none.
    pub fn is_nothing(&self) -> bool {
        self.verdict.is_none() && self.provenance.is_none()
    }
}

/// What is recorded about an artifact on the allow-list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The AllowedArtifact's name.
    pub entry: String,
    /// Whether it is in force.
    pub active: bool,
}

/// Other digests of artifacts, each with the canonical one, as provenance records declared them.
pub type Identities = BTreeMap<Fingerprint, Fingerprint>;

/// What was learned of containers while they ran, by a hash of their ids.
pub type LearnedContainers = BTreeMap<u64, LearnedContainer>;

/// The count of a cell that a change sets.
#[derive(Clone, Debug)]
pub struct CellCount {
    pub(crate) cell: Cell,
    /// How many instances there are now.
    pub count: u32,
    /// The cell's workload is still rolling.
    pub rolling: bool,
    /// It may replace its pods without showing it: that they are at rest does not tell that it is over.
    pub replacing: bool,
}

/// The state of the log after one of its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The index of that entry.
    pub index: i64,
    /// Its content hash.
    pub content_hash: String,
    /// When it was recorded.
    pub time: Timestamp,
    /// How far the cluster had been read.
    pub read_at: ReadAt,
    /// The pods that were not counted because they hung.
    pub hanging: Hanging,
    /// The version of the rules by which instances were counted.
    pub census_version: i32,
    /// The scope that was counted.
    pub scope: Scope,
    /// Recorded instances.
    cells: Cells,
    /// Recorded instances by artifact.
    totals: BTreeMap<Fingerprint, u64>,
    /// In how many workloads of a namespace an artifact is recorded.
    places: BTreeMap<Place, u32>,
    /// The names of the recorded artifacts.
    pub names: BTreeMap<Fingerprint, String>,
    /// Workloads that were recorded during a rollout, and until when their further changes count as part of it.
    pub rollouts: BTreeMap<Arc<Workload>, Timestamp>,
    /// Those of them that are over as soon as their pods are at rest, even if these show no revisions. Who reads the log does
    /// not know that and waits longer.
    pub resting: BTreeSet<Arc<Workload>>,
    /// Other digests of recorded artifacts.
    pub identities: Identities,
    /// What counts for the rules of containers whose status does not tell it any more.
    pub containers: LearnedContainers,
    /// When artifacts first appeared: those that are recorded, and those that stopped and are still remembered.
    pub seen: BTreeMap<Fingerprint, Timestamp>,
    /// Facts about recorded artifacts.
    pub facts: BTreeMap<Fingerprint, ArtifactFacts>,
    /// The allow-list, by the entry's UID and the digest.
    pub allowed: BTreeMap<(Box<str>, Fingerprint), Listed>,
    /// Running containers that could not be identified.
    pub unidentified: i64,
    /// Whether the environment is compliant.
    pub compliance: Compliance,
    /// Entries since the checkpoint, and their size in bytes.
    pub since_checkpoint: (u32, usize),
    /// The size of that checkpoint in bytes.
    pub checkpoint_size: usize,
}

/// Why a log can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableLog {
    /// A checkpoint is corrupt.
    #[error("the checkpoint of snapshot {0} can't be read: {1}")]
    Checkpoint(i64, String),
    /// An entry does not continue the one before it.
    #[error("snapshot {0} does not continue the log: {1}")]
    Broken(i64, String),
}

/// The cells of a workload: kind, namespace, name, [digest, instances] each.
type StateCells = (String, String, String, Vec<(Fingerprint, u32)>);

/// The state as a checkpoint holds it. That of a large cluster has megabytes: it is written and read without a copy.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerState<'a> {
    scope: Scope,
    cells: Vec<StateCells>,
    names: Cow<'a, BTreeMap<Fingerprint, String>>,
    #[serde(default)]
    rollouts: Vec<(String, String, String, Timestamp)>,
    #[serde(default)]
    identities: BTreeMap<Fingerprint, Fingerprint>,
    /// How the keys of `identities` were found out. A log from before 0.1.0 may hold some that a runtime reported for a
    /// container, which are not here: they tie nothing any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<Fingerprint, IdentitySource>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    containers: Cow<'a, LearnedContainers>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    seen: Cow<'a, BTreeMap<Fingerprint, Timestamp>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    facts: Cow<'a, BTreeMap<Fingerprint, ArtifactFacts>>,
    /// UID of the entry, digest, what is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allowed: Vec<(Box<str>, Fingerprint, Listed)>,
}

impl LedgerState<'_> {
    fn encode(&self) -> String {
        let compressed = || {
            let text = EncoderStringWriter::new(&STANDARD);
            let mut encoder = BufWriter::new(zstd::Encoder::new(text, 3)?);
            serde_json::to_writer(&mut encoder, self)?;
            Ok::<_, io::Error>(encoder.into_inner()?.finish()?.into_inner())
        };
        compressed().expect("plain data, written to memory")
    }

    fn decode(data: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let packed = DecoderReader::new(data.as_bytes(), &STANDARD);
        let json = zstd::Decoder::new(packed)?.take(MAX_STATE);
        Ok(serde_json::from_reader(BufReader::new(json))?)
    }
}

impl Ledger {
    /// An empty log of this scope: where the first entry starts from.
    pub fn empty(scope: Scope) -> Self {
        Self {
            time: Timestamp::MIN,
            census_version: CENSUS_VERSION,
            scope,
            ..Self::default()
        }
    }

    /// Digests that a provenance record declared to be one image.
    pub fn recorded_identities(&self) -> RecordedIdentities {
        let identities = self.identities.iter();
        RecordedIdentities::of(identities.map(|(alias, known)| (*alias, *known)))
    }

    /// The cells that have recorded instances, and how many.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The workloads that have recorded instances.
    pub fn workloads(&self) -> BTreeSet<Arc<Workload>> {
        let workloads = self.cells.keys().map(|cell| &cell.workload);
        workloads.cloned().collect()
    }

    /// How many instances of a cell are recorded; 0 if it is not recorded.
    pub fn count(&self, cell: &Cell) -> u32 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Recorded instances of an artifact.
    pub fn total(&self, fingerprint: &Fingerprint) -> u32 {
        self.totals
            .get(fingerprint)
            .map_or(0, |total| saturated(*total))
    }

    /// Whether an artifact is recorded in a namespace.
    pub fn is_in(&self, place: &Place) -> bool {
        self.places.contains_key(place)
    }

    /// An artifact that was not recorded and did not meet the rules when it ran last.
    pub fn uncounted(&self, artifact: Fingerprint) -> Option<&UncountedArtifact> {
        let mut known = self.compliance.uncounted.iter().peekable();
        known.peek()?; // as nearly always
        let digest = artifact.to_string();
        known.find(|it| it.fingerprint == digest)
    }

    /// Whether an artifact does not meet the rules, or did not when it ran last without being recorded.
    pub fn lacks(&self, artifact: Fingerprint) -> bool {
        let facts = self.facts.get(&artifact);
        let verdict = facts.and_then(|facts| facts.verdict.as_ref());
        verdict.is_some_and(|verdict| verdict.state == ComplianceState::NonCompliant)
            || self.uncounted(artifact).is_some()
    }

    /// The recorded artifacts.
    pub fn artifacts(&self) -> impl Iterator<Item = (&Fingerprint, u32)> {
        self.totals
            .iter()
            .map(|(fingerprint, total)| (fingerprint, saturated(*total)))
    }

    /// The totals for an entry.
    pub fn totals(&self) -> Totals {
        Totals {
            artifacts: i64::try_from(self.totals.len()).unwrap_or(i64::MAX),
            instances: i64::try_from(self.totals.values().sum::<u64>()).unwrap_or(i64::MAX),
            unidentified: self.unidentified,
        }
    }

    /// Applies new identities: artifacts that turned out to be one are merged.
    pub fn identify(&mut self, identities: &Identities) {
        for (alias, fingerprint) in identities {
            let counted = self.total(alias) > 0;
            let cells = self.cells.keys().filter(|_| counted);
            let renamed: Vec<_> = cells
                .filter(|cell| cell.fingerprint == *alias)
                .cloned()
                .collect();
            for cell in renamed {
                let to = Cell {
                    workload: cell.workload.clone(),
                    fingerprint: *fingerprint,
                };
                let count = self.count(&cell).saturating_add(self.count(&to));
                self.set(cell, 0);
                self.set(to, count);
            }
            if let Some(name) = self.names.remove(alias) {
                self.names.entry(*fingerprint).or_insert(name);
            }
            if let Some(facts) = self.facts.remove(alias) {
                self.facts.entry(*fingerprint).or_insert(facts);
            }
            if let Some(seen) = self.seen.remove(alias) {
                let first = self.seen.entry(*fingerprint).or_insert(seen);
                *first = seen.min(*first);
            }
            for known in self.identities.values_mut() {
                if known == alias {
                    *known = *fingerprint;
                }
            }
            self.identities.insert(*alias, *fingerprint);
        }
        // The same pair may have been recorded in the opposite direction before.
        self.identities.retain(|alias, known| alias != known);
    }

    /// Notes when artifacts were first seen.
    pub fn note_seen(
        &mut self,
        fingerprints: impl IntoIterator<Item = Fingerprint>,
        time: Timestamp,
    ) {
        for fingerprint in fingerprints {
            if self.total(&fingerprint) > 0 {
                self.seen.entry(fingerprint).or_insert(time);
            }
        }
    }

    /// Notes facts about an artifact.
    pub fn note_facts(&mut self, fingerprint: Fingerprint, facts: ArtifactFacts) {
        if facts.is_nothing() {
            self.facts.remove(&fingerprint);
        } else {
            self.facts.insert(fingerprint, facts);
        }
    }

    /// Notes a change of the allow-list. `None`: its digest is malformed.
    pub fn note_allowed(&mut self, change: &AllowListChange) -> Option<()> {
        let fingerprint = Fingerprint::from_hex(&change.fingerprint)?;
        let key = (change.entry_uid.as_str().into(), fingerprint);
        let active = change.state == AllowListState::Active;
        let entry = change.entry.clone();
        match change.state {
            AllowListState::Removed => self.allowed.remove(&key),
            _ => self.allowed.insert(key, Listed { entry, active }),
        };
        Some(())
    }

    /// Forgets when artifacts were first seen that stopped long ago. Only right before a checkpoint is made, because readers
    /// of the log begin with one.
    pub fn forget_gone(&mut self, now: Timestamp) {
        let since = now.checked_sub(REMEMBERED).unwrap_or(Timestamp::MIN);
        let recorded = &self.totals;
        let gone = self
            .seen
            .iter()
            .filter(|(fingerprint, _)| !recorded.contains_key(fingerprint));
        let mut times: Vec<Timestamp> = gone.map(|(_, time)| *time).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let since = times.get(GONE).map_or(since, |oldest| since.max(*oldest));
        self.seen
            .retain(|fingerprint, time| recorded.contains_key(fingerprint) || *time > since);
    }

    /// Sets the count of a cell.
    pub fn set(&mut self, cell: Cell, count: u32) {
        let before = self.count(&cell);
        // No cluster has more than a u32 holds, but whoever can write snapshots may have written so.
        let total = self.totals.get(&cell.fingerprint).copied().unwrap_or(0);
        let total = total - u64::from(before) + u64::from(count);
        put_count(&mut self.totals, cell.fingerprint, total);
        let place = cell.place();
        let workloads = self.places.get(&place).copied().unwrap_or(0);
        let workloads = workloads + u32::from(count > 0) - u32::from(before > 0);
        put_count(&mut self.places, place, workloads);
        put_count(&mut self.cells, cell, count);
    }

    /// Forgets the names and other digests of artifacts that are no longer recorded.
    pub fn tidy(&mut self) {
        let is_recorded = |it: &Fingerprint| self.totals.contains_key(it);
        self.resting.retain(|it| self.rollouts.contains_key(it));
        self.names.retain(|it, _| is_recorded(it));
        self.identities.retain(|_, it| is_recorded(it));
        self.facts.retain(|it, _| is_recorded(it));
    }

    /// The state as compressed JSON in base64.
    pub fn checkpoint(&self) -> String {
        let mut cells: Vec<StateCells> = vec![];
        let mut last: Option<&Arc<Workload>> = None;
        for (cell, count) in &self.cells {
            if last != Some(&cell.workload) {
                let (kind, namespace, name) = texts(&cell.workload);
                cells.push((kind, namespace, name, vec![]));
                last = Some(&cell.workload);
            }
            if let Some((_, _, _, counts)) = cells.last_mut() {
                counts.push((cell.fingerprint, *count));
            }
        }
        let rollouts = self.rollouts.iter().map(|(workload, until)| {
            let (kind, namespace, name) = texts(workload);
            (kind, namespace, name, *until)
        });
        let sources = self.identities.keys();
        let sources = sources.map(|alias| (*alias, IdentitySource::Record));
        let allowed = self.allowed.iter();
        let state = LedgerState {
            scope: self.scope.clone(),
            cells,
            names: Cow::Borrowed(&self.names),
            rollouts: rollouts.collect(),
            identities: self.identities.clone(),
            sources: sources.collect(),
            containers: Cow::Borrowed(&self.containers),
            seen: Cow::Borrowed(&self.seen),
            facts: Cow::Borrowed(&self.facts),
            allowed: allowed
                .map(|((uid, digest), listed)| (uid.clone(), *digest, listed.clone()))
                .collect(),
        };
        state.encode()
    }

    /// The state after an entry that has a checkpoint. `data`: the checkpoint's text, joined from its chunks.
    pub fn restore(
        spec: &EnvironmentSnapshotSpec,
        data: &str,
        fleet: &mut Fleet,
    ) -> Result<Self, UnreadableLog> {
        let state = LedgerState::decode(data)
            .map_err(|error| UnreadableLog::Checkpoint(spec.index, error.to_string()))?;
        let mut ledger = Self {
            names: state.names.into_owned(),
            containers: state.containers.into_owned(),
            seen: state.seen.into_owned(),
            facts: state.facts.into_owned(),
            ..Self::empty(state.scope)
        };
        for (kind, namespace, name, counts) in state.cells {
            let workload = fleet.intern_workload(&kind, &namespace, &name);
            for (fingerprint, count) in counts {
                let workload = workload.clone();
                ledger.set(
                    Cell {
                        workload,
                        fingerprint,
                    },
                    count,
                );
            }
        }
        ledger.identities = state.identities;
        let sources = state.sources;
        ledger
            .identities
            .retain(|alias, _| sources.get(alias) == Some(&IdentitySource::Record));
        // A checkpoint of a release that did not have this field.
        let recorded: Vec<_> = ledger.totals.keys().copied().collect();
        ledger.note_seen(recorded, spec.time);
        for (uid, fingerprint, listed) in state.allowed {
            ledger.allowed.insert((uid, fingerprint), listed);
        }
        for (kind, namespace, name, until) in state.rollouts {
            let workload = fleet.intern_workload(&kind, &namespace, &name);
            ledger.rollouts.insert(workload, until);
        }
        ledger.advance(spec);
        ledger.since_checkpoint = (0, 0);
        ledger.checkpoint_size = data.len();
        Ok(ledger)
    }

    /// The state after the next entry, which has no checkpoint.
    pub fn apply(
        &mut self,
        spec: &EnvironmentSnapshotSpec,
        rollout: std::time::Duration,
        fleet: &mut Fleet,
    ) -> Result<(), UnreadableLog> {
        let broken = |why: &str| UnreadableLog::Broken(spec.index, why.to_owned());
        if spec.index.checked_sub(1) != Some(self.index)
            || spec.previous.as_deref() != Some(self.content_hash.as_str())
        {
            return Err(broken("its predecessor is another"));
        }
        let digest =
            |text: &str| Fingerprint::from_hex(text).ok_or_else(|| broken("a digest is malformed"));
        let mut identities = Identities::new();
        let mut of_runtimes = BTreeSet::new();
        for identity in &spec.identities {
            if let Some(container) = &identity.container {
                let id = u64::from_str_radix(container, 16);
                let id = id.map_err(|_| broken("the hash of a container is malformed"))?;
                let also = (!identity.alias.is_empty()).then_some(&identity.alias);
                let also = also.map(|also| digest(also)).transpose()?;
                let first = digest(&identity.fingerprint)?;
                let learned = LearnedContainer {
                    digests: TrustedDigests { first, also },
                    repository: identity.repository.as_deref().map(Into::into),
                };
                self.containers.insert(id, learned);
                continue;
            }
            let alias = digest(&identity.alias)?;
            identities.insert(alias, digest(&identity.fingerprint)?);
            if identity.source == IdentitySource::Runtime {
                of_runtimes.insert(alias); // written before 0.1.0: it renamed what was recorded, and ties nothing any more
            }
        }
        self.identify(&identities);
        self.identities
            .retain(|alias, _| !of_runtimes.contains(alias));
        for change in &spec.changes {
            if change.more_workloads > 0 {
                return Err(broken("it should hold a checkpoint"));
            }
            let fingerprint = digest(&change.fingerprint)?;
            let cells = change.workloads.iter().map(|it| {
                let workload = fleet.intern_workload(&it.kind, &it.namespace, &it.name);
                Ok(CellCount {
                    cell: Cell {
                        workload,
                        fingerprint,
                    },
                    count: u32::try_from(it.now).map_err(|_| broken("a count is out of range"))?,
                    rolling: it.rolling,
                    replacing: true,
                })
            });
            let cells = cells.collect::<Result<Vec<_>, _>>()?;
            self.record(fingerprint, change, cells, spec.time, rollout);
        }
        for completed in &spec.completed_rollouts {
            let CompletedRollout {
                kind,
                namespace,
                name,
            } = completed;
            let workload = fleet.intern_workload(kind, namespace, name);
            self.rollouts.remove(&workload);
        }
        for change in &spec.allow_list {
            let noted = self.note_allowed(change);
            noted.ok_or_else(|| broken("a digest is malformed"))?;
        }
        self.tidy();
        self.advance(spec);
        Ok(())
    }

    /// Records a change of an artifact, and the counts that it sets.
    pub fn record(
        &mut self,
        fingerprint: Fingerprint,
        change: &Change,
        cells: Vec<CellCount>,
        time: Timestamp,
        rollout: std::time::Duration,
    ) {
        for CellCount {
            cell,
            count,
            rolling,
            replacing,
        } in cells
        {
            self.note_rollout(&cell.workload, rolling, time, rollout);
            if rolling && !replacing {
                self.resting.insert(cell.workload.clone());
            } else {
                self.resting.remove(&cell.workload);
            }
            self.set(cell, count);
        }
        self.names.insert(fingerprint, change.name.clone());
        self.note_seen([fingerprint], time);
        self.note_facts(fingerprint, ArtifactFacts::of(change));
    }

    /// Notes whether a workload was recorded during a rollout.
    pub fn note_rollout(
        &mut self,
        workload: &Arc<Workload>,
        rolling: bool,
        time: Timestamp,
        rollout: std::time::Duration,
    ) {
        if rolling {
            let until = time.checked_add(rollout).unwrap_or(Timestamp::MAX);
            self.rollouts.insert(workload.clone(), until);
        } else {
            self.rollouts.remove(workload);
        }
    }

    /// Advances to an entry whose changes are already applied.
    pub fn advance(&mut self, spec: &EnvironmentSnapshotSpec) {
        self.index = spec.index;
        self.content_hash.clone_from(&spec.content_hash);
        self.time = spec.time;
        self.read_at = spec.read_at.clone();
        self.hanging = Hanging {
            by: spec.ended_by.map_or(0, seconds),
            at: spec.ended_at.iter().copied().map(seconds).collect(),
        };
        self.census_version = spec.census_version;
        self.unidentified = spec.totals.unidentified;
        self.compliance = spec.compliance.clone();
        let Some(checkpoint) = &spec.checkpoint else {
            self.since_checkpoint.0 += 1;
            self.since_checkpoint.1 += spec.changes.iter().map(size_of_change).sum::<usize>();
            return;
        };
        self.since_checkpoint = (0, 0);
        if let Some(data) = &checkpoint.data {
            self.checkpoint_size = data.len();
        }
    }
}

fn saturated(total: u64) -> u32 {
    u32::try_from(total).unwrap_or(u32::MAX)
}

/// Keeps a count, unless it is zero.
fn put_count<K: Ord, N: Default + PartialEq>(counts: &mut BTreeMap<K, N>, key: K, count: N) {
    if count == N::default() {
        counts.remove(&key);
    } else {
        counts.insert(key, count);
    }
}

fn texts(workload: &Workload) -> (String, String, String) {
    (
        workload.kind.to_string(),
        workload.namespace.to_string(),
        workload.name.to_string(),
    )
}

/// About how many bytes a change takes in the log.
pub fn size_of_change(change: &Change) -> usize {
    let workload = |w: &WorkloadChange| w.kind.len() + w.namespace.len() + w.name.len() + 80;
    let verdict = change
        .verdict
        .as_ref()
        .map_or(0, |verdict| 260 + verdict.message.len());
    let provenance = change.provenance.as_ref().map_or(0, size_of_provenance);
    let allowed = change
        .allowed
        .as_ref()
        .map_or(0, |it| 120 + it.entry.len() + it.reason.len());
    let workloads = change.workloads.iter().map(workload).sum::<usize>();
    200 + change.name.len() + workloads + verdict + provenance + allowed
}

fn size_of_provenance(it: &Provenance) -> usize {
    let deployments = it.deployments.iter().map(|note| 80 + note.build_url.len());
    let approvals = it
        .approvals
        .iter()
        .map(|note| 120 + note.reviewer.len() + note.comment.len());
    let texts = [&it.flow, &it.commit, &it.commit_url, &it.build_url].map(String::len);
    120 + texts.iter().sum::<usize>() + deployments.chain(approvals).sum::<usize>()
}

/// The content hash of an entry: SHA-256 over its JSON without the hash itself.
pub fn content_hash(spec: &EnvironmentSnapshotSpec) -> String {
    let mut bare = spec.clone();
    bare.content_hash = String::new();
    let json = serde_json::to_vec(&bare).expect("plain data");
    Fingerprint(Sha256::digest(json).into()).to_string()
}
