//! Makes the next entries of a log from what has settled. Everything that is delivered later follows from these entries.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType,
        snapshot::{
            Cause, Change, Checkpoint, CompletedRollout, Compliance, Cut, Event, Identity,
            IdentitySource, MAX_CHANGES, MAX_EVENTS, MAX_IDENTITIES, MAX_WORKLOADS, ReadAt,
            WorkloadChange,
        },
    },
    cluster::{
        fleet::{Fleet, LearnedContainer, Workload, WorkloadState},
        image::Fingerprint,
        scope::Scope,
    },
    compliance::artifact_identity::IdentityResolver,
    snapshot::{
        assessment::{Assessment, AssessmentScope as Asked, AssessmentState, Assessor},
        census::{Census, cells_of},
        ledger::{
            CENSUS_VERSION, Cell, CellCount, Identities, LearnedContainers, Ledger, content_hash,
            size_of_change,
        },
        settle::{Patience, SettleTimes, Unsettled, is_rolling, rests_at},
    },
    time::Moment,
};

/// After how many entries without a checkpoint the next one has one, so that a start reads few entries.
const ENTRIES_PER_CHECKPOINT: u32 = 64;
/// At most how many bytes the changes of an entry take: well below the 400 KB of a whole entry.
const MAX_CHANGES_SIZE: usize = 300_000;
/// How many bytes another digest of an artifact takes.
const SIZE_OF_IDENTITY: usize = 170;
/// At most how many bytes of base64 a checkpoint takes that is in the entry itself.
const MAX_CHECKPOINT: usize = 60_000;
/// How many bytes a chunk of a bigger one takes.
const CHUNK: usize = 350_000;
/// At most how many workloads a part lists with all artifacts that change in more than one entry lists.
const MAX_WORKLOADS_OF_ALL: usize = 600;

/// An entry to append, and the ledger after it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is written.
    pub spec: EnvironmentSnapshotSpec,
    /// The parts of its checkpoint, if that is too big for the entry: written before it.
    pub chunks: Vec<String>,
    /// The ledger after it.
    pub after: Arc<Ledger>,
}

impl Entry {
    /// About how many bytes are written for it: its changes, what was learned, and its checkpoint with its parts.
    pub fn size(&self) -> usize {
        let changes = self.spec.changes.iter().map(size_of_change);
        let identities = self.spec.identities.iter();
        let identities = identities.map(|it| size_of_identity(it.repository.as_deref()));
        let checkpoint = self.spec.checkpoint.as_ref();
        let checkpoint = checkpoint.and_then(|it| it.data.as_ref());
        let parts = checkpoint.into_iter().chain(&self.chunks).map(String::len);
        changes.chain(identities).chain(parts).sum()
    }
}

/// What was learned of images, containers and workloads, and is not in the log yet.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Digests that are shown as one artifact.
    pub identities: Identities,
    /// By which digests single containers are known.
    pub containers: LearnedContainers,
    /// Workloads whose rollout was recorded before it was over, and is over. Whoever reads the log can't know that otherwise,
    /// and would take what happened meanwhile for the end of the rollout.
    pub completed: Vec<Arc<Workload>>,
}

impl Learned {
    /// Whether there is nothing new.
    pub fn is_nothing(&self) -> bool {
        self.identities.is_empty() && self.containers.is_empty() && self.completed.is_empty()
    }
}

/// What entries are made from.
#[derive(Clone, Copy)]
pub struct CutInput<'a> {
    pub environment: &'a str,
    pub uid: &'a str,
    /// What runs.
    pub census: &'a Census,
    /// The pods that were counted.
    pub fleet: &'a Fleet,
    /// Assesses it.
    pub assessor: Assessor<'a>,
    /// How many unidentified containers to record.
    pub unidentified: i64,
    pub settle: &'a SettleTimes,
    /// How far the cluster has been read.
    pub read_at: &'a ReadAt,
    pub causes: &'a [Cause],
    pub now: Moment,
    /// The wall clock, by which everything is judged. The time of an entry is never before that of its predecessor, which
    /// may have been written under a clock that was ahead.
    pub wall: Timestamp,
}

impl CutInput<'_> {
    /// How long to wait for the pods of a workload. `since`: when what waits began.
    pub fn patience(&self, since: Moment) -> Patience<'_> {
        Patience {
            settle: self.settle,
            hanging: self.census.hanging(),
            since,
            now: self.now,
            wall: self.wall,
        }
    }

    fn resolver(&self) -> &IdentityResolver<'_> {
        &self.assessor.resolver
    }

    /// A baseline: what runs and what is on the allow-list counts as known, without events. The first one records at once
    /// whether the environment complies; a later one leaves that to the next entry, which may have to report a change.
    pub fn baseline(
        &self,
        before: Option<&Ledger>,
        scope: &Scope,
        cause: Cause,
        assessment: &mut AssessmentState,
    ) -> Vec<Entry> {
        let mut after = Ledger::empty(scope.clone());
        for (cell, count) in self.census.cells() {
            after.set(cell.clone(), *count);
        }
        let named: Vec<_> = after.artifacts().map(|(named, _)| *named).collect();
        let names = named.iter().map(|it| (*it, self.name(*it, before)));
        after.names = names.collect();
        if let Some(before) = before {
            (after.index, after.time) = (before.index, before.time);
            after.content_hash.clone_from(&before.content_hash);
            after.compliance = carried(&before.compliance);
            after.seen.clone_from(&before.seen);
            after.facts.clone_from(&before.facts);
            after.allowed.clone_from(&before.allowed);
        }
        after.identities = self.identities(before);
        let ruled = self.assessor.rules.is_some();
        let of_it = |it: &Fingerprint| after.total(it) > 0;
        after.containers = learned_containers(self.census, self.resolver(), ruled, of_it).collect();
        let time = self.wall.max(after.time);
        for workload in after.workloads() {
            if self.is_rolling(&workload) {
                after.note_rollout(&workload, true, time, self.settle.rollout);
            }
        }
        after.note_seen(named, time);
        after.unidentified = self.unidentified;
        after.tidy();
        let mut compliance = after.compliance.clone();
        if matches!(cause, Cause::Baseline | Cause::HistoryLost) {
            let empty = Ledger::empty(scope.clone());
            let found = self
                .assessor
                .assess(assessment, &empty, &after, Asked::All, self.wall);
            for change in &found.allow_list {
                after.note_allowed(change);
            }
            if cause == Cause::Baseline {
                for (fingerprint, facts) in found.facts {
                    after.note_facts(fingerprint, facts);
                }
                compliance = found.compliance;
            }
        }
        if cause != Cause::Baseline {
            assessment.touch_all(); // the next entry assesses what this one only copies
        }
        let spec = EnvironmentSnapshotSpec {
            time,
            causes: vec![cause],
            compliance,
            ..EnvironmentSnapshotSpec::default()
        };
        vec![self.entry(after, spec, None, true)]
    }

    /// The other digests that are recorded or were reported, with the artifacts that they identify now.
    fn identities(&self, before: Option<&Ledger>) -> Identities {
        let none = Identities::new();
        let known = before.map_or(&none, |before| &before.identities);
        let aliases = known.keys().copied().chain(self.census.aliases());
        let identities = aliases.map(|alias| {
            let fingerprint = self.resolver().canonical(alias);
            (alias, fingerprint)
        });
        identities.filter(|(alias, known)| alias != known).collect()
    }

    /// The entry that records the effect of timers that ran out, each at its own time. `None`: there is no effect.
    pub fn timers(&self, before: &Ledger, assessment: &mut AssessmentState) -> Option<Vec<Entry>> {
        let evidence = self.resolver().evidence;
        let next = |assessment: &AssessmentState| {
            assessment.next_timer(self.environment, before, evidence, self.census)
        };
        while let Some(due) = next(assessment).filter(|due| *due <= self.wall) {
            let at = due.max(before.time);
            let now = at.min(self.wall); // an earlier entry may lie in the future
            let found = self
                .assessor
                .assess(assessment, before, before, Asked::Timers, now);
            if !found.is_nothing() {
                // Only the timers were assessed: what else there is waits for its own entry.
                let timers = CutInput {
                    unidentified: before.unidentified,
                    ..*self
                };
                return Some(timers.write(before, vec![], &Learned::default(), &found, at));
            }
            if next(assessment).is_some_and(|next| next <= due) {
                return None; // no progress: the next assessment of everything decides
            }
        }
        None
    }

    /// The entries that record `settled` cells, what was `learned`, and changed facts about artifacts. `None`: there is
    /// nothing to record.
    pub fn record(
        &self,
        before: &Ledger,
        unsettled: &Unsettled,
        settled: &BTreeSet<Cell>,
        learned: &Learned,
        assessment: &mut AssessmentState,
    ) -> Option<Vec<Entry>> {
        let time = self.wall.max(before.time);
        // A ledger may be large, and nearly always there is nothing to record: it is copied only for what there is.
        let mut ledger = Cow::Borrowed(before);
        if !learned.identities.is_empty() {
            ledger.to_mut().identify(&learned.identities);
        }
        let changes = self.changes(&ledger, unsettled, settled);
        let mut after = Cow::Borrowed(&*ledger);
        for recorded in &changes {
            self.take_in(after.to_mut(), recorded, time);
        }
        if after.unidentified != self.unidentified {
            after.to_mut().unidentified = self.unidentified;
        }
        // Where an artifact runs matters for exceptions.
        assessment.touch(changes.iter().map(|it| it.fingerprint));
        let mut found = self
            .assessor
            .assess(assessment, &ledger, &after, Asked::All, self.wall);
        if changes.is_empty() && learned.is_nothing() && found.is_nothing() {
            return None;
        }
        for RecordedChange { fingerprint, .. } in &changes {
            if let Some(facts) = assessment.facts(*fingerprint) {
                let assessed = found.facts.entry(*fingerprint);
                assessed.or_insert_with(|| facts.clone());
            }
        }
        Some(self.write(before, changes, learned, &found, time))
    }

    fn take_in(&self, ledger: &mut Ledger, recorded: &RecordedChange, time: Timestamp) {
        let (change, cells) = (&recorded.change, recorded.cells.clone());
        let rollout = self.settle.rollout;
        ledger.record(recorded.fingerprint, change, cells, time, rollout);
    }

    /// Makes as many entries as are needed.
    fn write(
        &self,
        before: &Ledger,
        mut changes: Vec<RecordedChange>,
        learned: &Learned,
        found: &Assessment,
        time: Timestamp,
    ) -> Vec<Entry> {
        let mut ledger = before.clone();
        let mut causes: Vec<Cause> = found.causes.iter().copied().collect();
        if !changes.is_empty() {
            causes.push(Cause::WorkloadsChanged);
        }
        if !learned.identities.is_empty() || !learned.containers.is_empty() {
            causes.push(Cause::IdentityLearned);
            ledger.identify(&learned.identities);
        }
        if !learned.completed.is_empty() {
            causes.push(Cause::RolloutCompleted);
        }
        Self::add_what_is_known(&ledger, &mut changes, found);
        let mut identities = learned.identities.clone();
        let mut with: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for known in identities.values() {
            *with.entry(*known).or_default() += SIZE_OF_IDENTITY;
        }
        for container in learned.containers.values() {
            let size = size_of_identity(container.repository.as_deref());
            *with.entry(container.digests.first).or_default() += size;
        }
        let parts = split(changes, &with);
        let of = i64::try_from(parts.len()).unwrap_or(i64::MAX);
        let first = before.index + 1;
        let mut entries = vec![];
        for (part, changes) in (1..).zip(parts) {
            let cut = (of > 1).then_some(Cut { first, part, of });
            for recorded in &changes {
                self.take_in(&mut ledger, recorded, time);
            }
            // Each other digest is recorded together with its artifact, or it would be dropped as one of no artifact.
            let recorded: Identities = identities
                .iter()
                .filter(|(alias, known)| {
                    ledger.total(known) > 0 || (part == 1 && before.total(alias) > 0)
                })
                .map(|(alias, known)| (*alias, *known))
                .collect();
            identities.retain(|alias, _| !recorded.contains_key(alias));
            ledger.identities.extend(&recorded);
            let mut known = identities_of(&recorded);
            if part == 1 {
                ledger.containers.extend(learned.containers.clone());
                known.extend(containers_of(&learned.containers));
            }
            let completed = learned.completed.iter().filter(|_| part == 1);
            let completed_rollouts = completed.map(|workload| CompletedRollout {
                kind: workload.kind.to_string(),
                namespace: workload.namespace.to_string(),
                name: workload.name.to_string(),
            });
            let mut spec = EnvironmentSnapshotSpec {
                time,
                causes: causes.clone(),
                compliance: carried(&ledger.compliance),
                identities: known,
                completed_rollouts: completed_rollouts.collect(),
                cut,
                ..EnvironmentSnapshotSpec::default()
            };
            let is_last = part == of;
            if is_last {
                spec.compliance = found.compliance.clone();
                spec.allow_list.clone_from(&found.allow_list);
                for change in &spec.allow_list {
                    ledger.note_allowed(change);
                }
            }
            ledger.unidentified = self.unidentified;
            ledger.tidy();
            spec.changes = changes.into_iter().map(|it| it.change).collect();
            let size: usize = spec.changes.iter().map(size_of_change).sum();
            let (entries_since, bytes_since) = ledger.since_checkpoint;
            let due = entries_since >= ENTRIES_PER_CHECKPOINT
                || bytes_since + size > ledger.checkpoint_size.max(64_000);
            let whole =
                is_last && due || spec.changes.iter().any(|change| change.more_workloads > 0);
            let event = found.event.filter(|_| is_last);
            let entry = self.entry(ledger, spec, event, whole);
            ledger = (*entry.after).clone();
            entries.push(entry);
        }
        entries
    }

    /// Adds the facts about each changed artifact, and artifacts of which only the facts changed.
    fn add_what_is_known(ledger: &Ledger, changes: &mut Vec<RecordedChange>, found: &Assessment) {
        let place = |changes: &mut Vec<RecordedChange>, fingerprint: Fingerprint, name: &str| {
            let is_it = |recorded: &RecordedChange| recorded.fingerprint == fingerprint;
            let at = changes.iter().position(is_it);
            at.unwrap_or_else(|| {
                let total = i64::from(ledger.total(&fingerprint));
                let change = Change {
                    fingerprint: fingerprint.to_string(),
                    name: name.to_owned(),
                    was: total,
                    now: total,
                    ..Change::default()
                };
                let cells = vec![];
                changes.push(RecordedChange {
                    fingerprint,
                    change,
                    cells,
                });
                changes.len() - 1
            })
        };
        for fingerprint in &found.differs {
            let name = ledger.names.get(fingerprint).map_or("", String::as_str);
            place(changes, *fingerprint, name);
        }
        for addition in &found.allowed {
            let recorded = ledger.names.get(&addition.fingerprint);
            let name = recorded.map_or(&*addition.name, String::as_str);
            let at = place(changes, addition.fingerprint, name);
            let change = &mut changes[at].change;
            change.allowed = Some(addition.allowed.clone());
            change.provenance.clone_from(&addition.provenance);
        }
        for recorded in changes.iter_mut() {
            let (fingerprint, change) = (recorded.fingerprint, &mut recorded.change);
            let known = || ledger.facts.get(&fingerprint);
            if let Some(facts) = found.facts.get(&fingerprint).or_else(known) {
                change.verdict = facts.verdict.clone().filter(|_| change.now > 0);
                change.provenance.clone_from(&facts.provenance);
            }
        }
        // Digests are ordered as their texts are.
        changes
            .sort_by(|a, b| (&a.change.name, a.fingerprint).cmp(&(&b.change.name, b.fingerprint)));
    }

    /// One change for each artifact with a settled cell.
    fn changes(
        &self,
        ledger: &Ledger,
        unsettled: &Unsettled,
        settled: &BTreeSet<Cell>,
    ) -> Vec<RecordedChange> {
        let mut by_artifact: BTreeMap<Fingerprint, Vec<&Cell>> = BTreeMap::new();
        let differs = |cell: &&Cell| self.census.get(cell) != ledger.count(cell);
        let mut moves: BTreeMap<&Arc<Workload>, WorkloadMoves> = BTreeMap::new();
        for cell in settled.iter().filter(differs) {
            by_artifact.entry(cell.fingerprint).or_default().push(cell);
            let moves = moves
                .entry(&cell.workload)
                .or_insert_with(|| self.moves(&cell.workload, ledger, unsettled, settled));
            if let Some(state) = self.fleet.workload(&cell.workload) {
                let starts = ledger.count(cell) == 0;
                moves.begins_replacement |= starts && moves.keeps_all;
                moves.unfinished |= self.is_unfinished(cell, state, ledger, unsettled, *moves);
            }
        }
        let changes = by_artifact.into_iter().map(|(fingerprint, cells)| {
            let was = i64::from(ledger.total(&fingerprint));
            let mut change = Change {
                fingerprint: fingerprint.to_string(),
                name: self.name(fingerprint, Some(ledger)),
                was,
                now: was,
                rollout: true,
                ..Change::default()
            };
            let mut recorded = vec![];
            for cell in cells {
                let (before, count) = (ledger.count(cell), self.census.get(cell));
                // The same in all cells of a workload: the last one that is recorded decides.
                let moves = &moves[&cell.workload];
                let rolled = unsettled.dirty().get(cell).is_some_and(|it| it.rolled);
                change.rollout &= moves.unfinished || rolled || moves.completes;
                change.now += i64::from(count) - i64::from(before);
                if change.workloads.len() < MAX_WORKLOADS {
                    change.workloads.push(WorkloadChange {
                        kind: cell.workload.kind.to_string(),
                        namespace: cell.workload.namespace.to_string(),
                        name: cell.workload.name.to_string(),
                        was: i64::from(before),
                        now: i64::from(count),
                        rolling: moves.unfinished,
                    });
                } else {
                    change.more_workloads += 1;
                }
                let cell = cell.clone();
                recorded.push(CellCount {
                    cell,
                    count,
                    rolling: moves.unfinished,
                    replacing: moves.begins_replacement,
                });
            }
            RecordedChange {
                fingerprint,
                change,
                cells: recorded,
            }
        });
        changes.collect()
    }

    fn is_rolling(&self, workload: &Workload) -> bool {
        let hanging = self.census.hanging();
        is_rolling(workload, self.fleet, self.settle, hanging, self.now)
    }

    /// How a workload moves, and how beside what is recorded now: `settled`. Whoever may create pods chooses how many cells a
    /// workload has: all that looks at all of them is done once.
    fn moves(
        &self,
        workload: &Arc<Workload>,
        ledger: &Ledger,
        unsettled: &Unsettled,
        settled: &BTreeSet<Cell>,
    ) -> WorkloadMoves {
        let state = self.fleet.workload(workload);
        let mut recorded = cells_of(ledger.cells(), workload).peekable();
        let is_open = |until: &Timestamp| *until > self.wall;
        let counts = |cells| {
            let cells = cells_of(cells, workload);
            cells
                .map(|(cell, count)| (cell.fingerprint, count))
                .collect()
        };
        let mut moves = WorkloadMoves {
            unfinished: self.is_rolling(workload),
            rolled: unsettled.rolled(workload),
            completes: ledger.rollouts.get(workload).is_some_and(is_open)
                || replaces(&counts(ledger.cells()), &counts(self.census.cells())),
            keeps_all: state.is_some_and(|state| !state.has_revisions())
                && recorded.peek().is_some()
                && recorded.all(|(cell, _)| self.census.get(cell) > 0),
            ..WorkloadMoves::default()
        };
        let unsettled = cells_of(unsettled.dirty(), workload).map(|(cell, _)| cell);
        for later in unsettled.filter(|cell| !settled.contains(*cell)) {
            let (was, now) = (ledger.count(later), self.census.get(later));
            moves.grows_later |= now > was;
            moves.shrinks_later |= now < was;
        }
        moves
    }

    /// Whether later changes of a cell's workload belong to the change of the cell that is recorded now, even if the workload is
    /// not rolling: the cell starts or stops before its counterpart has moved and come to rest.
    fn is_unfinished(
        &self,
        cell: &Cell,
        state: &WorkloadState,
        ledger: &Ledger,
        unsettled: &Unsettled,
        moves: WorkloadMoves,
    ) -> bool {
        let rolled = moves.rolled && rests_at(state, self.settle) > self.now;
        let patience = self.patience(unsettled.differs_since(cell).unwrap_or(self.now));
        let restless = patience.restless_until(state) > Some(self.now);
        let starts = ledger.count(cell) == 0;
        let stops = self.census.get(cell) == 0;
        rolled
            || starts && (restless || moves.shrinks_later || moves.keeps_all)
            || stops && (restless && state.is_starting() || moves.grows_later)
    }

    /// The name of an artifact: the recorded one while it is recorded, so that it stays the same.
    fn name(&self, fingerprint: Fingerprint, ledger: Option<&Ledger>) -> String {
        let recorded = ledger.and_then(|ledger| ledger.names.get(&fingerprint).cloned());
        recorded
            .or_else(|| Fleet::name_of(self.census.images(fingerprint)))
            .unwrap_or_else(|| fingerprint.to_string())
    }

    /// Completes an entry by what follows from the ledger, and the ledger by the entry. `event`: the one about the
    /// environment as a whole. `whole`: the entry has a checkpoint.
    fn entry(
        &self,
        mut after: Ledger,
        mut spec: EnvironmentSnapshotSpec,
        event: Option<EventType>,
        whole: bool,
    ) -> Entry {
        let causes: BTreeSet<Cause> = spec.causes.iter().chain(self.causes).copied().collect();
        spec.causes = causes.into_iter().collect();
        let mut chunks = vec![];
        if whole {
            after.forget_gone(spec.time);
            let running: BTreeSet<u64> = self.census.learned().map(|(id, _)| *id).collect();
            after.containers.retain(|id, _| running.contains(id));
            let checkpoint;
            (checkpoint, chunks) = make_checkpoint(&after);
            spec.checkpoint = Some(checkpoint);
        }
        self.environment.clone_into(&mut spec.environment);
        self.uid.clone_into(&mut spec.environment_uid);
        spec.index = after.index + 1;
        spec.census_version = CENSUS_VERSION;
        spec.previous = (after.index > 0).then(|| after.content_hash.clone());
        spec.read_at = self.read_at.clone();
        let time = |ends: u32| Timestamp::from_second(ends.into()).ok();
        let hanging = self.census.hanging();
        spec.ended_by = self.fleet.last_end(hanging.by).and_then(time);
        spec.ended_at = hanging.at.iter().filter_map(|ends| time(*ends)).collect();
        spec.totals = after.totals();
        spec.events = events(&spec.changes);
        let change = None;
        let last = event.map(|type_| Event { type_, change });
        spec.events.extend(last);
        spec.content_hash = content_hash(&spec);
        after.advance(&spec);
        if !chunks.is_empty() {
            after.checkpoint_size = chunks.iter().map(String::len).sum();
        }
        Entry {
            spec,
            chunks,
            after: Arc::new(after),
        }
    }
}

/// Whether a workload replaces instances of one digest by those of another, going by the instances of each digest before and
/// now. So a step of a rollout is none of scaling, however long the pause before it, and whoever makes it.
fn replaces(before: &BTreeMap<Fingerprint, u32>, now: &BTreeMap<Fingerprint, u32>) -> bool {
    let grew = |from: &BTreeMap<Fingerprint, u32>, to: &BTreeMap<Fingerprint, u32>| {
        let mut counts = to.iter();
        counts.any(|(digest, count)| *count > from.get(digest).copied().unwrap_or(0))
    };
    let others = !before.keys().eq(now.keys());
    !before.is_empty() && !now.is_empty() && (others || grew(before, now) && grew(now, before))
}

/// The compliance of an entry that does not change it.
fn carried(before: &Compliance) -> Compliance {
    Compliance {
        was: before.state,
        was_since: None,
        ..before.clone()
    }
}

/// How a workload moves.
#[derive(Clone, Copy, Debug, Default)]
struct WorkloadMoves {
    /// It was rolling since something of it differs from what is recorded.
    rolled: bool,
    /// It replaces one digest by another, or a rollout of it was recorded before it was over.
    completes: bool,
    /// All that is recorded of it still runs, and it has no revisions by which its pods would show a rollout. When it starts a
    /// further digest, the pods that are replaced may go much later.
    keeps_all: bool,
    /// It has more instances of something, which is not recorded now.
    grows_later: bool,
    /// It has fewer.
    shrinks_later: bool,
    /// It starts a further digest beside all that is recorded of it.
    begins_replacement: bool,
    /// It is rolling, or its later changes belong to what is recorded now all the same.
    unfinished: bool,
}

/// A change of an artifact, and the cells that it sets.
struct RecordedChange {
    fingerprint: Fingerprint,
    change: Change,
    cells: Vec<CellCount>,
}

impl RecordedChange {
    /// Lists no more than so many workloads.
    fn list_at_most(&mut self, number: usize) {
        let listed = &mut self.change.workloads;
        let more = listed.len().saturating_sub(number);
        listed.truncate(number);
        self.change.more_workloads += i64::try_from(more).unwrap_or(i64::MAX);
    }
}

/// Splits changes into parts that each fit into an entry; at least one, which may be empty. The artifacts that need a
/// checkpoint, because they change in more workloads than an entry lists, are in one part, the last: each checkpoint holds the
/// whole state. `with`: bytes that are written together with an artifact's change, or in the first part if it has none.
fn split(
    mut changes: Vec<RecordedChange>,
    with: &BTreeMap<Fingerprint, usize>,
) -> Vec<Vec<RecordedChange>> {
    // An artifact of which only the facts change has no cells, and is recorded with nothing else.
    let added = |it: &RecordedChange| match it.cells[..] {
        [] => 0,
        _ => with.get(&it.fingerprint).copied().unwrap_or(0),
    };
    let size_of = |it: &RecordedChange| size_of_change(&it.change) + added(it);
    let mut parts = vec![vec![]];
    let mut size = with.values().sum::<usize>() - changes.iter().map(added).sum::<usize>();
    // The next change may have two events, and the environment one.
    let has_room = |part: &[_]| part.len() < MAX_CHANGES && events_of(part) + 3 <= MAX_EVENTS;
    let is_whole = |it: &RecordedChange| it.change.more_workloads > 0;
    let fits =
        has_room(&changes) && size + changes.iter().map(size_of).sum::<usize>() <= MAX_CHANGES_SIZE;
    let whole = changes.iter().filter(|it| !fits && is_whole(it)).count();
    if let Some(listed) = MAX_WORKLOADS_OF_ALL.checked_div(whole) {
        changes.sort_by_key(is_whole);
        for it in changes.iter_mut().filter(|it| is_whole(it)) {
            it.list_at_most(listed);
        }
    }
    for recorded in changes {
        size += size_of(&recorded);
        let part = parts.last_mut().filter(|part: &&mut Vec<RecordedChange>| {
            let begins_whole = !fits && is_whole(&recorded) && !part.last().is_some_and(is_whole);
            part.is_empty() || has_room(part) && size <= MAX_CHANGES_SIZE && !begins_whole
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

/// At most how many events there are about these changes.
fn events_of(changes: &[RecordedChange]) -> usize {
    let allowed = changes.iter().filter(|it| it.change.allowed.is_some());
    changes.len() + allowed.count()
}

/// A checkpoint, and its chunks if it is too big for the entry.
pub(crate) fn make_checkpoint(ledger: &Ledger) -> (Checkpoint, Vec<String>) {
    let data = ledger.checkpoint();
    if data.len() <= MAX_CHECKPOINT {
        let (data, chunks) = (Some(data), None);
        return (Checkpoint { data, chunks }, vec![]);
    }
    let chunks = data.as_bytes().chunks(CHUNK);
    let chunks: Vec<String> = chunks
        .map(|chunk| String::from_utf8_lossy(chunk).into_owned())
        .collect();
    let number = Some(i64::try_from(chunks.len()).unwrap_or(i64::MAX));
    (
        Checkpoint {
            data: None,
            chunks: number,
        },
        chunks,
    )
}

fn identities_of(identities: &Identities) -> Vec<Identity> {
    let identity = |(alias, known): (&Fingerprint, &Fingerprint)| Identity {
        alias: alias.to_string(),
        fingerprint: known.to_string(),
        source: IdentitySource::Record,
        container: None,
        repository: None,
    };
    identities.iter().map(identity).collect()
}

/// About how many bytes a digest takes that belongs to the artifact of another one. A name is counted as if each of its bytes
/// had to be escaped.
fn size_of_identity(repository: Option<&str>) -> usize {
    SIZE_OF_IDENTITY + repository.map_or(0, |repository| 17 + 2 * repository.len())
}

/// As many of these as one entry has room for, beside `identities` others: names may be long.
pub(crate) fn that_fit(
    containers: impl Iterator<Item = (u64, LearnedContainer)>,
    identities: usize,
) -> LearnedContainers {
    let mut room = (MAX_IDENTITIES - identities) * SIZE_OF_IDENTITY;
    let fitting = containers.map_while(|learned| {
        room = room.checked_sub(size_of_identity(learned.1.repository.as_deref()))?;
        Some(learned)
    });
    fitting.collect()
}

/// What was learned of running containers, as far as a log has to hold it. Without rules it matters only if the container
/// would be shown as another artifact without it, and only of artifacts that are recorded; names do not matter.
pub(crate) fn learned_containers<'a>(
    census: &'a Census,
    resolver: &'a IdentityResolver,
    ruled: bool,
    is_recorded: impl Fn(&Fingerprint) -> bool + 'a,
) -> impl Iterator<Item = (u64, LearnedContainer)> + 'a {
    let matters = move |it: &LearnedContainer| {
        let known = resolver.canonical(it.digests.first);
        let also = it.digests.also.map(|also| resolver.canonical(also));
        ruled || also.is_some_and(|also| also != known) && is_recorded(&known)
    };
    census
        .learned()
        .filter(move |(_, it)| matters(it))
        .map(move |(id, it)| {
            let repository = it.repository.clone().filter(|_| ruled);
            (
                *id,
                LearnedContainer {
                    digests: it.digests,
                    repository,
                },
            )
        })
}

fn containers_of(containers: &LearnedContainers) -> impl Iterator<Item = Identity> {
    containers.iter().map(|(id, learned)| Identity {
        alias: learned
            .digests
            .also
            .map_or(String::new(), |also| also.to_string()),
        fingerprint: learned.digests.first.to_string(),
        source: IdentitySource::Runtime,
        container: Some(format!("{id:016x}")),
        repository: learned.repository.as_deref().map(str::to_owned),
    })
}

/// The events of changes, ordered by type, then by change.
pub(crate) fn events(changes: &[Change]) -> Vec<Event> {
    let mut events = vec![];
    for (position, change) in (0..).zip(changes) {
        let counted = match (change.was, change.now) {
            (0, 0) => None,
            (0, _) => Some(EventType::ArtifactStarted),
            (_, 0) => Some(EventType::ArtifactStopped),
            (was, now) if was != now && !change.rollout => Some(EventType::ArtifactScaled),
            _ => None,
        };
        let allowed = change.allowed.as_ref().map(|_| EventType::ArtifactAllowed);
        events.extend([counted, allowed].into_iter().flatten().map(|type_| Event {
            type_,
            change: Some(position),
        }));
    }
    events.sort_by_key(|event| (event.type_, event.change));
    events
}
