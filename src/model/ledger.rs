//! What the log of an environment says: the recorded counts, and how an entry changes them. State at any index = the
//! nearest checkpoint before it + the entries since.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    fleet::{Fleet, Workload},
    image::Fingerprint,
    scope::Scope,
};
use crate::api::{
    EnvironmentSnapshotSpec,
    snapshot::{Change, ComplianceState, ReadAt, Totals, WorkloadChange},
};

/// The rules by which instances are counted. Raise it when the same cluster would give other counts than before.
pub const CENSUS_VERSION: i32 = 1;

/// The largest checkpoint that is read: 64 MiB of JSON. A larger one can't be ours.
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

/// What the log says after one of its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// The number of that entry.
    pub index: i64,
    /// Its content hash.
    pub content_hash: String,
    /// When it was recorded.
    pub time: Timestamp,
    /// How far the cluster had been read.
    pub read_at: ReadAt,
    /// The rules by which was counted.
    pub census_version: i32,
    /// The scope by which was counted.
    pub scope: Scope,
    /// Recorded instances.
    cells: Cells,
    /// The same by artifact.
    totals: BTreeMap<Fingerprint, u32>,
    /// The names of the recorded artifacts.
    pub names: BTreeMap<Fingerprint, String>,
    /// Workloads that were recorded in the midst of a rollout, and until when what follows counts as its tail.
    pub rollouts: BTreeMap<Arc<Workload>, Timestamp>,
    /// Other digests of recorded artifacts.
    pub identities: BTreeMap<Fingerprint, Fingerprint>,
    /// Running containers that could not be identified.
    pub unidentified: i64,
    /// Whether the environment is compliant.
    pub compliance: ComplianceState,
    /// Entries since the checkpoint, and their size in bytes.
    pub since_checkpoint: (u32, usize),
    /// The size of that checkpoint in bytes.
    pub checkpoint_size: usize,
}

/// Why a log can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A checkpoint is not what it should be.
    #[error("the checkpoint of snapshot {0} can't be read: {1}")]
    Checkpoint(i64, String),
    /// An entry doesn't follow the one before.
    #[error("snapshot {0} does not continue the log: {1}")]
    Broken(i64, String),
}

/// The cells of a workload: kind, namespace, name, [digest, instances] each.
type StateCells = (String, String, String, Vec<(String, u32)>);

/// The state as a checkpoint holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    scope: Scope,
    cells: Vec<StateCells>,
    names: BTreeMap<String, String>,
    #[serde(default)]
    rollouts: Vec<(String, String, String, Timestamp)>,
    #[serde(default)]
    identities: BTreeMap<String, String>,
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
            unidentified: 0,
            compliance: ComplianceState::Unknown,
            since_checkpoint: (0, 0),
            checkpoint_size: 0,
        }
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

    /// What the entry's totals say.
    pub fn totals(&self) -> Totals {
        Totals {
            artifacts: i64::try_from(self.totals.len()).unwrap_or(i64::MAX),
            instances: self.totals.values().map(|count| i64::from(*count)).sum(),
            unidentified: self.unidentified,
        }
    }

    /// Renames artifacts that turned out to be others.
    pub fn identify(&mut self, identities: &BTreeMap<Fingerprint, Fingerprint>) {
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
                let count = self.count(&cell) + self.count(&to);
                self.set(cell, 0);
                self.set(to, count);
            }
            if let Some(name) = self.names.remove(alias) {
                self.names.entry(*fingerprint).or_insert(name);
            }
            for known in self.identities.values_mut().filter(|known| *known == alias) {
                *known = *fingerprint;
            }
            self.identities.insert(*alias, *fingerprint);
        }
        // What was learned in the opposite direction before.
        self.identities.retain(|alias, known| alias != known);
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

    /// Forgets the names and other digests of what is not recorded any more.
    pub fn tidy(&mut self) {
        let recorded = &self.totals;
        self.names
            .retain(|fingerprint, _| recorded.contains_key(fingerprint));
        self.identities
            .retain(|_, fingerprint| recorded.contains_key(fingerprint));
    }

    /// The state as text: JSON, compressed, in base64.
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
        let state = State {
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
                .map(|(alias, known)| (alias.to_string(), known.to_string()))
                .collect(),
        };
        let json = serde_json::to_vec(&state).expect("plain data");
        STANDARD.encode(zstd::encode_all(json.as_slice(), 3).expect("writing to memory"))
    }

    /// The state after an entry that holds a checkpoint. `data`: the checkpoint's text, put together from its chunks.
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
        let state: State =
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
            ledger
                .identities
                .insert(digest(&alias)?, digest(&fingerprint)?);
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

    /// The state after the next entry, which holds no checkpoint.
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
            identities.insert(digest(&identity.alias)?, digest(&identity.fingerprint)?);
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
        }
        self.tidy();
        self.advance(spec);
        Ok(())
    }

    /// What a recorded cell says of its workload's rollout.
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

    /// Moves on to an entry whose changes are already taken in.
    pub fn advance(&mut self, spec: &EnvironmentSnapshotSpec) {
        self.index = spec.index;
        self.content_hash.clone_from(&spec.content_hash);
        self.time = spec.time;
        self.read_at = spec.read_at.clone();
        self.census_version = spec.census_version;
        self.unidentified = spec.totals.unidentified;
        self.compliance = spec.compliance.state;
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
    200 + change.name.len() + change.workloads.iter().map(workload).sum::<usize>()
}

/// The content hash of an entry: SHA-256 over its JSON without the hash itself.
pub fn content_hash(spec: &EnvironmentSnapshotSpec) -> String {
    let mut bare = spec.clone();
    bare.content_hash = String::new();
    let json = serde_json::to_vec(&bare).expect("plain data");
    Fingerprint(Sha256::digest(json).into()).to_string()
}
