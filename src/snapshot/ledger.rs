//! The recorded state of an environment, and how an entry of the log changes it. The state at any index is the nearest
//! checkpoint before it plus the entries since.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        snapshot::{
            AllowListChange, AllowListState, Change, Compliance, IdentitySource, Provenance,
            ReadAt, Totals, Verdict, WorkloadChange,
        },
    },
    cluster::{
        fleet::{Fleet, Workload},
        image::Fingerprint,
        scope::Scope,
    },
    compliance::identity::RecordedIdentities,
};

/// The version of the rules by which instances are counted. Raise it when the same cluster would give other counts.
pub const CENSUS_VERSION: i32 = 1;

/// How long to remember when an artifact was first seen after it stopped. By default the log is pruned after the same time.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(720);
/// Of how many stopped artifacts that is remembered, at most.
const GONE: usize = 5_000;

/// At most how many bytes of JSON a checkpoint has that is read: a larger one can't be ours.
const MAX_STATE: u64 = 64 << 20;

/// An artifact in a workload: the unit of counting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The artifact.
    pub fingerprint: Fingerprint,
}

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

/// Other digests of artifacts, each with the canonical one and how it was found out.
pub type Identities = BTreeMap<Fingerprint, (Fingerprint, IdentitySource)>;

/// The state of the log after one of its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// The index of that entry.
    pub index: i64,
    /// Its content hash.
    pub content_hash: String,
    /// When it was recorded.
    pub time: Timestamp,
    /// How far the cluster had been read.
    pub read_at: ReadAt,
    /// The version of the rules by which instances were counted.
    pub census_version: i32,
    /// The scope that was counted.
    pub scope: Scope,
    /// Recorded instances.
    cells: Cells,
    /// Recorded instances by artifact.
    totals: BTreeMap<Fingerprint, u32>,
    /// The names of the recorded artifacts.
    pub names: BTreeMap<Fingerprint, String>,
    /// Workloads that were recorded during a rollout, and until when their further changes count as part of it.
    pub rollouts: BTreeMap<Arc<Workload>, Timestamp>,
    /// Other digests of recorded artifacts.
    pub identities: Identities,
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
pub enum Unreadable {
    /// A checkpoint is corrupt.
    #[error("the checkpoint of snapshot {0} can't be read: {1}")]
    Checkpoint(i64, String),
    /// An entry does not continue the one before it.
    #[error("snapshot {0} does not continue the log: {1}")]
    Broken(i64, String),
}

/// The cells of a workload: kind, namespace, name, [digest, instances] each.
type StateCells = (String, String, String, Vec<(String, u32)>);

/// The state as a checkpoint holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerState {
    scope: Scope,
    cells: Vec<StateCells>,
    names: BTreeMap<String, String>,
    #[serde(default)]
    rollouts: Vec<(String, String, String, Timestamp)>,
    #[serde(default)]
    identities: BTreeMap<String, String>,
    /// How the keys of `identities` were found out, unless by a runtime.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<String, IdentitySource>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    seen: BTreeMap<String, Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, ArtifactFacts>,
    /// UID of the entry, digest, what is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allowed: Vec<(String, String, Listed)>,
}

impl Ledger {
    /// An empty log of this scope: where the first entry starts from.
    pub fn empty(scope: Scope) -> Self {
        Self {
            index: 0,
            content_hash: String::new(),
            time: Timestamp::MIN,
            read_at: ReadAt::default(),
            census_version: CENSUS_VERSION,
            scope,
            cells: Cells::new(),
            totals: BTreeMap::new(),
            names: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            identities: BTreeMap::new(),
            seen: BTreeMap::new(),
            facts: BTreeMap::new(),
            allowed: BTreeMap::new(),
            unidentified: 0,
            compliance: Compliance::default(),
            since_checkpoint: (0, 0),
            checkpoint_size: 0,
        }
    }

    /// Digests that a provenance record declared to be one image.
    pub fn recorded_identities(&self) -> RecordedIdentities {
        let identities = self.identities.iter();
        RecordedIdentities::of(
            identities
                .filter(|(_, (_, source))| *source == IdentitySource::Record)
                .map(|(alias, (known, _))| (*alias, *known)),
        )
    }

    /// Recorded instances.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The workloads that have recorded instances.
    pub fn workloads(&self) -> BTreeSet<Arc<Workload>> {
        let workloads = self.cells.keys().map(|cell| &cell.workload);
        workloads.cloned().collect()
    }

    /// Recorded instances of a cell.
    pub fn count(&self, cell: &Cell) -> u32 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Recorded instances of an artifact.
    pub fn total(&self, fingerprint: &Fingerprint) -> u32 {
        self.totals.get(fingerprint).copied().unwrap_or(0)
    }

    /// The recorded artifacts.
    pub fn artifacts(&self) -> impl Iterator<Item = (&Fingerprint, u32)> {
        self.totals
            .iter()
            .map(|(fingerprint, total)| (fingerprint, *total))
    }

    /// The totals for an entry.
    pub fn totals(&self) -> Totals {
        Totals {
            artifacts: i64::try_from(self.totals.len()).unwrap_or(i64::MAX),
            instances: self.totals.values().map(|count| i64::from(*count)).sum(),
            unidentified: self.unidentified,
        }
    }

    /// Applies new identities: artifacts that turned out to be one are merged.
    pub fn identify(&mut self, identities: &Identities) {
        for (alias, (fingerprint, source)) in identities {
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
                let count = self.count(&cell) + self.count(&to);
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
            for (known, _) in self.identities.values_mut() {
                if known == alias {
                    *known = *fingerprint;
                }
            }
            self.identities.insert(*alias, (*fingerprint, *source));
        }
        // The same pair may have been learned in the opposite direction before.
        self.identities.retain(|alias, (known, _)| alias != known);
    }

    /// Notes when artifacts were first seen.
    pub fn note_seen(&mut self, fingerprints: impl Iterator<Item = Fingerprint>, time: Timestamp) {
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

    /// Notes a change of the allow-list.
    pub fn note_allowed(&mut self, change: &AllowListChange, fingerprint: Fingerprint) {
        let key = (change.entry_uid.as_str().into(), fingerprint);
        let active = change.state == AllowListState::Active;
        let entry = change.entry.clone();
        match change.state {
            AllowListState::Removed => self.allowed.remove(&key),
            _ => self.allowed.insert(key, Listed { entry, active }),
        };
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
        let total = self.total(&cell.fingerprint) + count - before;
        if total == 0 {
            self.totals.remove(&cell.fingerprint);
        } else {
            self.totals.insert(cell.fingerprint, total);
        }
        if count == 0 {
            self.cells.remove(&cell);
        } else {
            self.cells.insert(cell, count);
        }
    }

    /// Forgets the names and other digests of artifacts that are no longer recorded.
    pub fn tidy(&mut self) {
        let recorded = &self.totals;
        self.names
            .retain(|fingerprint, _| recorded.contains_key(fingerprint));
        self.identities
            .retain(|_, (fingerprint, _)| recorded.contains_key(fingerprint));
        self.facts
            .retain(|fingerprint, _| recorded.contains_key(fingerprint));
    }

    /// The state as compressed JSON in base64.
    pub fn checkpoint(&self) -> String {
        let mut cells: Vec<StateCells> = vec![];
        let mut last: Option<&Arc<Workload>> = None;
        for (cell, count) in &self.cells {
            if last != Some(&cell.workload) {
                let (kind, namespace, name) = names(&cell.workload);
                cells.push((kind, namespace, name, vec![]));
                last = Some(&cell.workload);
            }
            if let Some((_, _, _, counts)) = cells.last_mut() {
                counts.push((cell.fingerprint.to_string(), *count));
            }
        }
        let rollouts = self.rollouts.iter().map(|(workload, until)| {
            let (kind, namespace, name) = names(workload);
            (kind, namespace, name, *until)
        });
        let state = LedgerState {
            scope: self.scope.clone(),
            cells,
            names: self
                .names
                .iter()
                .map(|(fingerprint, name)| (fingerprint.to_string(), name.clone()))
                .collect(),
            rollouts: rollouts.collect(),
            identities: self
                .identities
                .iter()
                .map(|(alias, (known, _))| (alias.to_string(), known.to_string()))
                .collect(),
            sources: self
                .identities
                .iter()
                .filter(|(_, (_, source))| *source != IdentitySource::Runtime)
                .map(|(alias, (_, source))| (alias.to_string(), *source))
                .collect(),
            seen: text_keys(&self.seen),
            facts: text_keys(&self.facts),
            allowed: self
                .allowed
                .iter()
                .map(|((uid, digest), listed)| {
                    (uid.to_string(), digest.to_string(), listed.clone())
                })
                .collect(),
        };
        let json = serde_json::to_vec(&state).expect("plain data");
        STANDARD.encode(zstd::encode_all(json.as_slice(), 3).expect("writing to memory"))
    }

    /// The state after an entry that has a checkpoint. `data`: the checkpoint's text, joined from its chunks.
    pub fn restore(
        spec: &EnvironmentSnapshotSpec,
        data: &str,
        fleet: &mut Fleet,
    ) -> Result<Self, Unreadable> {
        let unreadable = |why: String| Unreadable::Checkpoint(spec.index, why);
        let packed = STANDARD
            .decode(data)
            .map_err(|error| unreadable(error.to_string()))?;
        let mut json = vec![];
        zstd::Decoder::new(packed.as_slice())
            .and_then(|decoder| decoder.take(MAX_STATE).read_to_end(&mut json))
            .map_err(|error| unreadable(error.to_string()))?;
        let state: LedgerState =
            serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
        let digest = |text: &str| {
            Fingerprint::from_hex(text).ok_or_else(|| unreadable(format!("{text} is no digest")))
        };
        let mut ledger = Self::empty(state.scope);
        for (kind, namespace, name, counts) in state.cells {
            let workload = fleet.intern_workload(&kind, &namespace, &name);
            for (fingerprint, count) in counts {
                ledger.set(
                    Cell {
                        workload: workload.clone(),
                        fingerprint: digest(&fingerprint)?,
                    },
                    count,
                );
            }
        }
        for (fingerprint, name) in state.names {
            ledger.names.insert(digest(&fingerprint)?, name);
        }
        for (alias, fingerprint) in state.identities {
            let source = state.sources.get(&alias).copied().unwrap_or_default();
            ledger
                .identities
                .insert(digest(&alias)?, (digest(&fingerprint)?, source));
        }
        for (fingerprint, time) in state.seen {
            ledger.seen.insert(digest(&fingerprint)?, time);
        }
        // A checkpoint of a release that did not have this field.
        let recorded: Vec<_> = ledger.totals.keys().copied().collect();
        ledger.note_seen(recorded.into_iter(), spec.time);
        for (fingerprint, facts) in state.facts {
            ledger.facts.insert(digest(&fingerprint)?, facts);
        }
        for (uid, fingerprint, listed) in state.allowed {
            ledger
                .allowed
                .insert((uid.into(), digest(&fingerprint)?), listed);
        }
        for (kind, namespace, name, until) in state.rollouts {
            ledger
                .rollouts
                .insert(fleet.intern_workload(&kind, &namespace, &name), until);
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
    ) -> Result<(), Unreadable> {
        let broken = |why: &str| Unreadable::Broken(spec.index, why.to_owned());
        if spec.index != self.index + 1
            || spec.previous.as_deref() != Some(self.content_hash.as_str())
        {
            return Err(broken("its predecessor is another"));
        }
        let digest =
            |text: &str| Fingerprint::from_hex(text).ok_or_else(|| broken("a digest is malformed"));
        let mut identities = BTreeMap::new();
        for identity in &spec.identities {
            let known = (digest(&identity.fingerprint)?, identity.source);
            identities.insert(digest(&identity.alias)?, known);
        }
        self.identify(&identities);
        for change in &spec.changes {
            if change.more_workloads > 0 {
                return Err(broken("it should hold a checkpoint"));
            }
            let fingerprint = digest(&change.fingerprint)?;
            for changed in &change.workloads {
                let workload =
                    fleet.intern_workload(&changed.kind, &changed.namespace, &changed.name);
                let count =
                    u32::try_from(changed.now).map_err(|_| broken("a count is out of range"))?;
                self.note_rollout(&workload, changed.rolling, spec.time, rollout);
                self.set(
                    Cell {
                        workload,
                        fingerprint,
                    },
                    count,
                );
            }
            self.names.insert(fingerprint, change.name.clone());
            self.note_seen([fingerprint].into_iter(), spec.time);
            let (verdict, provenance) = (change.verdict.clone(), change.provenance.clone());
            self.note_facts(
                fingerprint,
                ArtifactFacts {
                    verdict,
                    provenance,
                },
            );
        }
        for change in &spec.allow_list {
            self.note_allowed(change, digest(&change.fingerprint)?);
        }
        self.tidy();
        self.advance(spec);
        Ok(())
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
        self.census_version = spec.census_version;
        self.unidentified = spec.totals.unidentified;
        self.compliance = spec.compliance.clone();
        match spec
            .checkpoint
            .as_ref()
            .and_then(|checkpoint| checkpoint.data.as_ref())
        {
            Some(data) => {
                self.since_checkpoint = (0, 0);
                self.checkpoint_size = data.len();
            }
            None if spec.checkpoint.is_some() => self.since_checkpoint = (0, 0),
            None => {
                self.since_checkpoint.0 += 1;
                self.since_checkpoint.1 += spec.changes.iter().map(size_of_change).sum::<usize>();
            }
        }
    }
}

fn text_keys<T: Clone>(map: &BTreeMap<Fingerprint, T>) -> BTreeMap<String, T> {
    map.iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect()
}

fn names(workload: &Workload) -> (String, String, String) {
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
