//! A cut: the next entries of a log, from what is ripe. What is sent later follows from these entries alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Moment,
    census::{Census, cells_of},
    fleet::{Fleet, Workload},
    image::Fingerprint,
    ledger::{CENSUS_VERSION, Cell, Ledger, content_hash, size_of_change},
    scope::Scope,
    settle::{Settle, Unsettled, restless_until, rests_at, rolling_until},
};
use crate::api::{
    EnvironmentSnapshotSpec, EventType,
    snapshot::{
        Cause, Change, Checkpoint, Compliance, Cut, Event, Identity, MAX_CHANGES, MAX_WORKLOADS,
        ReadAt, WorkloadChange,
    },
};

/// An entry holds a checkpoint after so many without, so that a start reads few of them.
const ENTRIES_PER_CHECKPOINT: u32 = 64;
/// Changes of an entry, in bytes: well below the 400 KB of a whole entry.
const MAX_CHANGES_SIZE: usize = 300_000;
/// Another digest of an artifact, in bytes.
const SIZE_OF_IDENTITY: usize = 170;
/// A checkpoint, in bytes of base64, that an entry holds itself.
const MAX_CHECKPOINT: usize = 60_000;
/// A chunk of a bigger one.
const CHUNK: usize = 350_000;

/// Entries to append, in order.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The UID of the environment.
    pub uid: String,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// An entry to append, with what it does to the ledger.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is written.
    pub spec: EnvironmentSnapshotSpec,
    /// The parts of its checkpoint, if that is too big for the entry: written before it.
    pub chunks: Vec<String>,
    /// The ledger after it.
    pub after: Arc<Ledger>,
}

/// What a cut is made from.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// The environment's name.
    pub environment: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// What runs.
    pub census: &'a Census,
    /// The pods behind it.
    pub fleet: &'a Fleet,
    /// The settle times.
    pub settle: &'a Settle,
    /// How far the cluster has been read.
    pub read_at: &'a ReadAt,
    /// Further causes.
    pub causes: &'a [Cause],
    /// The monotonic clock.
    pub now: Moment,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Material<'_> {
    /// A baseline: everything that runs counts as known.
    pub fn baseline(&self, before: Option<&Ledger>, scope: &Scope, cause: Cause) -> Draft {
        let mut after = Ledger::empty(scope.clone());
        for (cell, count) in self.census.cells() {
            after.set(cell.clone(), *count);
        }
        let named: BTreeSet<_> = after
            .artifacts()
            .map(|(fingerprint, _)| *fingerprint)
            .collect();
        after.names = named
            .into_iter()
            .map(|fingerprint| (fingerprint, self.name(fingerprint, before)))
            .collect();
        if let Some(before) = before {
            (after.index, after.time) = (before.index, before.time);
            after.content_hash.clone_from(&before.content_hash);
            after.compliance = before.compliance;
        }
        let aliases = before
            .into_iter()
            .flat_map(|l| l.identities.keys().copied());
        after.identities = aliases
            .chain(self.census.aliases())
            .map(|alias| (alias, self.fleet.canonical(alias)))
            .filter(|(alias, known)| alias != known)
            .collect();
        let time = self.wall.max(after.time);
        for workload in after.workloads() {
            if self.is_rolling(&workload) {
                after.note_rollout(&workload, true, time, self.settle.rollout);
            }
        }
        after.tidy();
        let entry = self.entry(after, vec![], vec![], vec![cause], true, None);
        Draft {
            uid: self.uid.to_owned(),
            entries: vec![entry],
        }
    }

    /// The entries that record `ripe` cells and new `identities`.
    pub fn record(
        &self,
        before: &Ledger,
        unsettled: &Unsettled,
        ripe: &BTreeSet<Cell>,
        identities: &BTreeMap<Fingerprint, Fingerprint>,
    ) -> Draft {
        let mut causes = vec![];
        let mut ledger = before.clone();
        if !identities.is_empty() {
            causes.push(Cause::IdentityLearned);
            ledger.identify(identities);
        }
        let mut identities = identities.clone();
        let mut with: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for known in identities.values() {
            *with.entry(*known).or_default() += SIZE_OF_IDENTITY;
        }
        let parts = split(self.changes(&ledger, unsettled, ripe), &with);
        if parts.iter().any(|part| !part.is_empty()) {
            causes.push(Cause::WorkloadsChanged);
        }
        let of = i64::try_from(parts.len()).unwrap_or(i64::MAX);
        let first = before.index + 1;
        let mut entries = vec![];
        for (part, changes) in (1..).zip(parts) {
            let cut = (of > 1).then_some(Cut { first, part, of });
            for (change, cells) in &changes {
                for (cell, count, rolling) in cells {
                    ledger.note_rollout(
                        &cell.workload,
                        *rolling,
                        self.wall.max(before.time),
                        self.settle.rollout,
                    );
                    ledger.set(cell.clone(), *count);
                }
                if let Some(fingerprint) = Fingerprint::from_hex(&change.fingerprint) {
                    ledger.names.insert(fingerprint, change.name.clone());
                }
            }
            // Each other digest is told with its artifact, or it would be forgotten as one of nothing.
            let told: BTreeMap<_, _> = identities
                .iter()
                .filter(|(alias, known)| {
                    ledger.total(known) > 0 || (part == 1 && before.total(alias) > 0)
                })
                .map(|(alias, known)| (*alias, *known))
                .collect();
            identities.retain(|alias, _| !told.contains_key(alias));
            ledger.identities.extend(&told);
            ledger.tidy();
            let size: usize = changes
                .iter()
                .map(|(change, _)| size_of_change(change))
                .sum();
            let whole = changes.iter().any(|(change, _)| change.more_workloads > 0)
                || ledger.since_checkpoint.0 >= ENTRIES_PER_CHECKPOINT
                || ledger.since_checkpoint.1 + size > ledger.checkpoint_size.max(64_000);
            let changes = changes.into_iter().map(|(change, _)| change).collect();
            let told = identities_of(&told);
            let entry = self.entry(ledger, changes, told, causes.clone(), whole, cut);
            ledger = (*entry.after).clone();
            entries.push(entry);
        }
        Draft {
            uid: self.uid.to_owned(),
            entries,
        }
    }

    /// One change for each artifact with a ripe cell, by name and digest.
    fn changes(
        &self,
        ledger: &Ledger,
        unsettled: &Unsettled,
        ripe: &BTreeSet<Cell>,
    ) -> Vec<Recorded> {
        let mut by_artifact: BTreeMap<Fingerprint, Vec<&Cell>> = BTreeMap::new();
        for cell in ripe
            .iter()
            .filter(|cell| self.census.get(cell) != ledger.count(cell))
        {
            by_artifact.entry(cell.fingerprint).or_default().push(cell);
        }
        let changes = by_artifact.into_iter().map(|(fingerprint, cells)| {
            let mut rollout = true;
            let was = i64::from(ledger.total(&fingerprint));
            let mut now = was;
            let mut recorded = vec![];
            let mut workloads = vec![];
            for cell in cells {
                let (before, after) = (ledger.count(cell), self.census.get(cell));
                // What starts when some of its pods have not come up yet has a tail, too.
                let rolling = self.is_unfinished(&cell.workload, unsettled)
                    || was == 0 && self.is_starting(&cell.workload);
                rollout &= rolling || self.belongs_to_rollout(cell, ledger, unsettled);
                now += i64::from(after) - i64::from(before);
                recorded.push((cell.clone(), after, rolling));
                if workloads.len() < MAX_WORKLOADS {
                    workloads.push(WorkloadChange {
                        kind: cell.workload.kind.to_string(),
                        namespace: cell.workload.namespace.to_string(),
                        name: cell.workload.name.to_string(),
                        was: i64::from(before),
                        now: i64::from(after),
                        rolling,
                    });
                }
            }
            let more_workloads =
                i64::try_from(recorded.len() - workloads.len()).unwrap_or(i64::MAX);
            let name = self.name(fingerprint, Some(ledger));
            let fingerprint = fingerprint.to_string();
            (
                Change {
                    fingerprint,
                    name,
                    was,
                    now,
                    rollout,
                    workloads,
                    more_workloads,
                },
                recorded,
            )
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by(|(a, _), (b, _)| (&a.name, &a.fingerprint).cmp(&(&b.name, &b.fingerprint)));
        changes
    }

    fn is_rolling(&self, workload: &Workload) -> bool {
        let state = self.fleet.workload(workload);
        state.is_some_and(|state| rolling_until(state, self.settle) > Some(self.now))
    }

    fn is_starting(&self, workload: &Workload) -> bool {
        let state = self.fleet.workload(workload);
        state.is_some_and(|state| {
            state.is_starting() && restless_until(state, self.settle) > Some(self.now)
        })
    }

    /// Whether what follows in a workload belongs to the rollout that is recorded now.
    fn is_unfinished(&self, workload: &Arc<Workload>, unsettled: &Unsettled) -> bool {
        let rests = |state| rests_at(state, self.settle) <= self.now;
        self.is_rolling(workload)
            || unsettled.rolled(workload) && !self.fleet.workload(workload).is_none_or(rests)
    }

    /// Whether the change of a cell is a part of a rollout: its workload rolled since, or exchanges digests, or what is
    /// left of a rollout that was recorded before it was over.
    fn belongs_to_rollout(&self, cell: &Cell, ledger: &Ledger, unsettled: &Unsettled) -> bool {
        let rolled = unsettled
            .dirty()
            .get(cell)
            .is_some_and(|dirty| dirty.rolled);
        let open = ledger
            .rollouts
            .get(&cell.workload)
            .is_some_and(|until| *until > self.wall);
        let digests = |cells| {
            cells_of(cells, &cell.workload)
                .map(|(cell, _)| cell.fingerprint)
                .collect::<BTreeSet<_>>()
        };
        let (was, now) = (digests(ledger.cells()), digests(self.census.cells()));
        rolled || open || (was != now && !was.is_empty() && !now.is_empty())
    }

    /// The name of an artifact: the recorded one while it is recorded, so that it doesn't flap.
    fn name(&self, fingerprint: Fingerprint, ledger: Option<&Ledger>) -> String {
        let recorded = ledger.and_then(|ledger| ledger.names.get(&fingerprint).cloned());
        recorded
            .or_else(|| Fleet::name_of(self.census.images(fingerprint)))
            .unwrap_or_else(|| fingerprint.to_string())
    }

    fn entry(
        &self,
        mut after: Ledger,
        changes: Vec<Change>,
        identities: Vec<Identity>,
        causes: Vec<Cause>,
        whole: bool,
        cut: Option<Cut>,
    ) -> Entry {
        let mut causes: Vec<Cause> = causes
            .into_iter()
            .chain(self.causes.iter().copied())
            .collect();
        causes.sort_unstable();
        causes.dedup();
        after.unidentified = i64::try_from(self.census.unidentified()).unwrap_or(i64::MAX);
        let (checkpoint, chunks) = if whole {
            checkpoint(&after)
        } else {
            (None, vec![])
        };
        let mut spec = EnvironmentSnapshotSpec {
            environment: self.environment.to_owned(),
            environment_uid: self.uid.to_owned(),
            index: after.index + 1,
            time: self.wall.max(after.time),
            causes,
            census_version: CENSUS_VERSION,
            previous: (after.index > 0).then(|| after.content_hash.clone()),
            content_hash: String::new(),
            read_at: self.read_at.clone(),
            totals: after.totals(),
            compliance: Compliance {
                state: after.compliance,
                was: after.compliance,
                reasons: vec![],
            },
            events: events(&changes),
            changes,
            identities,
            checkpoint,
            cut,
        };
        spec.content_hash = content_hash(&spec);
        after.advance(&spec);
        if whole && !chunks.is_empty() {
            after.checkpoint_size = chunks.iter().map(String::len).sum();
        }
        Entry {
            spec,
            chunks,
            after: Arc::new(after),
        }
    }
}

/// A change and the cells that it sets: cell, count, whether its workload is still rolling.
type Recorded = (Change, Vec<(Cell, u32, bool)>);

/// Parts that each fit into an entry. At least one, which may be empty. `with`: bytes that are written with an artifact
/// when it changes, and in the first part if it doesn't.
fn split(changes: Vec<Recorded>, with: &BTreeMap<Fingerprint, usize>) -> Vec<Vec<Recorded>> {
    let size_of = |(change, cells): &Recorded| {
        let other = cells
            .first()
            .and_then(|(cell, _, _)| with.get(&cell.fingerprint));
        size_of_change(change) + other.copied().unwrap_or(0)
    };
    let mut parts = vec![vec![]];
    let total: usize = changes.iter().map(size_of).sum();
    let bare: usize = changes.iter().map(|(c, _)| size_of_change(c)).sum();
    let mut size = with.values().sum::<usize>() - (total - bare);
    for recorded in changes {
        size += size_of(&recorded);
        let part = parts.last_mut().filter(|part: &&mut Vec<Recorded>| {
            part.is_empty() || part.len() < MAX_CHANGES && size <= MAX_CHANGES_SIZE
        });
        if let Some(part) = part {
            part.push(recorded);
        } else {
            size = size_of(&recorded);
            parts.push(vec![recorded]);
        }
    }
    parts
}

fn checkpoint(ledger: &Ledger) -> (Option<Checkpoint>, Vec<String>) {
    let data = ledger.checkpoint();
    if data.len() <= MAX_CHECKPOINT {
        return (
            Some(Checkpoint {
                data: Some(data),
                chunks: None,
            }),
            vec![],
        );
    }
    let chunks: Vec<String> = data
        .as_bytes()
        .chunks(CHUNK)
        .map(|chunk| String::from_utf8_lossy(chunk).into_owned())
        .collect();
    let number = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
    (
        Some(Checkpoint {
            data: None,
            chunks: Some(number),
        }),
        chunks,
    )
}

fn identities_of(identities: &BTreeMap<Fingerprint, Fingerprint>) -> Vec<Identity> {
    let identity = |(alias, known): (&Fingerprint, &Fingerprint)| Identity {
        alias: alias.to_string(),
        fingerprint: known.to_string(),
    };
    identities.iter().map(identity).collect()
}

/// What the changes mean, in the order in which it is told: by type, then by change.
pub(super) fn events(changes: &[Change]) -> Vec<Event> {
    let mut events: Vec<Event> = (0..)
        .zip(changes)
        .filter_map(|(position, change)| {
            let type_ = match (change.was, change.now) {
                (0, 0) => return None,
                (0, _) => EventType::ArtifactStarted,
                (_, 0) => EventType::ArtifactStopped,
                (was, now) if was != now && !change.rollout => EventType::ArtifactScaled,
                _ => return None,
            };
            Some(Event {
                type_,
                change: Some(position),
            })
        })
        .collect();
    events.sort_by_key(|event| (event.type_, event.change));
    events
}
