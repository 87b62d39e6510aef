//! The net change over one or more snapshots: by artifact, then by workload.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::{
        EventType,
        snapshot::{Allowed, EnvironmentSnapshotSpec, Event, WorkloadChange},
    },
    snapshot::event,
};

/// The events of one snapshot that a message reports.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotEvents<'a> {
    /// The snapshot.
    pub snapshot: &'a EnvironmentSnapshotSpec,
    /// The events that the setting asks for. Events of the environment as a whole have messages of their own.
    pub events: &'a [&'a Event],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NetWorkload<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
}

impl<'a> NetWorkload<'a> {
    pub(crate) fn of(change: &'a WorkloadChange) -> Self {
        Self {
            namespace: &change.namespace,
            name: &change.name,
            kind: &change.kind,
        }
    }

    /// With the kind, but without its API group.
    pub(crate) fn path(&self) -> String {
        let kind = self.kind.split('.').next().unwrap_or_default();
        format!("{}/{}/{}", self.namespace, kind.to_lowercase(), self.name)
    }
}

/// Instances before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) was: i64,
    pub(crate) now: i64,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            was: self.was.saturating_add(other.was),
            now: self.now.saturating_add(other.now),
        }
    }
}

/// The instances of one artifact in one workload.
#[derive(Clone, Copy, Debug)]
struct NetCell {
    count: Count,
    rolling: bool,
}

/// The net change of one artifact that an event reports, over all the snapshots.
#[derive(Debug)]
pub(crate) struct NetArtifact<'a> {
    pub(crate) name: &'a str,
    pub(crate) fingerprint: &'a str,
    pub(crate) count: Count,
    /// Whether an event reports a change of its instances.
    pub(crate) counted: bool,
    /// Whether an event reports that it was allow-listed.
    pub(crate) allowed: bool,
    /// The entry that allows it.
    pub(crate) allowance: Option<&'a Allowed>,
    cells: BTreeMap<NetWorkload<'a>, NetCell>,
    /// How many workloads the snapshot does not list.
    pub(crate) more: i64,
}

impl<'a> NetArtifact<'a> {
    pub(crate) fn workloads(&self) -> Vec<NetWorkload<'a>> {
        self.cells.keys().copied().collect()
    }

    /// In how many workloads it is, listed or not.
    pub(crate) fn size(&self) -> usize {
        self.cells.len() + size(self.more)
    }

    pub(crate) fn rolling(&self) -> bool {
        self.cells.values().any(|cell| cell.rolling)
    }

    /// The change over all its workloads.
    pub(crate) fn what(&self) -> What {
        self.what_of(self.count)
    }

    fn what_of(&self, count: Count) -> What {
        if self.counted {
            What::of(count)
        } else {
            What::Allowed
        }
    }
}

/// A net change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// One artifact took the place of another.
    RolledOut,
    Started,
    Stopped,
    ScaledUp,
    ScaledDown,
    Allowed,
    /// As many instances as before.
    Same,
    /// Started, and stopped again.
    StartedAndStopped,
}

impl What {
    fn of(Count { was, now }: Count) -> Self {
        match (was, now) {
            (0, 0) => Self::StartedAndStopped,
            (0, _) => Self::Started,
            (_, 0) => Self::Stopped,
            _ if was < now => Self::ScaledUp,
            _ if was > now => Self::ScaledDown,
            _ => Self::Same,
        }
    }
}

/// The change of an artifact in the workloads of a group.
#[derive(Debug)]
pub(crate) struct Move<'a> {
    pub(crate) what: What,
    pub(crate) artifact: &'a NetArtifact<'a>,
    pub(crate) count: Count,
    /// The artifact that it replaced.
    pub(crate) old: Option<(&'a NetArtifact<'a>, Count)>,
}

/// Workloads with the same change.
#[derive(Debug, Default)]
pub(crate) struct Group<'a> {
    /// Empty if no workload is known; then the change is about an image.
    pub(crate) workloads: Vec<NetWorkload<'a>>,
    /// How many workloads the snapshot does not list.
    pub(crate) more: usize,
    pub(crate) moves: Vec<Move<'a>>,
    pub(crate) rolling: bool,
}

impl Group<'_> {
    /// How many workloads, or images, are in the group.
    pub(crate) fn size(&self) -> usize {
        (self.workloads.len() + self.more).max(1)
    }
}

/// The artifacts that the events report, from before the first snapshot to after the last one.
pub(crate) fn artifacts<'a>(snapshots: &[SnapshotEvents<'a>]) -> Vec<NetArtifact<'a>> {
    let mut reported: BTreeMap<&str, BTreeSet<EventType>> = BTreeMap::new();
    for SnapshotEvents { snapshot, events } in snapshots {
        for event in *events {
            if let Some(change) = event::change(snapshot, event) {
                let types = reported.entry(&change.fingerprint).or_default();
                types.insert(event.type_);
            }
        }
    }
    // The numbers are those of all changes, reported or not: a filter hides events, it does not change what runs.
    let mut artifacts: BTreeMap<&str, NetArtifact> = BTreeMap::new();
    for change in snapshots.iter().flat_map(|it| &it.snapshot.changes) {
        let Some(types) = reported.get(change.fingerprint.as_str()) else {
            continue;
        };
        let artifact = artifacts
            .entry(&change.fingerprint)
            .or_insert_with(|| NetArtifact {
                name: &change.name,
                fingerprint: &change.fingerprint,
                count: Count {
                    was: change.was.max(0),
                    now: 0,
                },
                counted: types
                    .iter()
                    .any(|type_| *type_ != EventType::ArtifactAllowed),
                allowed: types.contains(&EventType::ArtifactAllowed),
                allowance: None,
                cells: BTreeMap::new(),
                more: 0,
            });
        artifact.name = &change.name;
        artifact.allowance = change.allowed.as_ref().or(artifact.allowance);
        artifact.count.now = change.now.max(0);
        artifact.more = artifact.more.max(change.more_workloads);
        for workload in &change.workloads {
            let was = workload.was.max(0);
            let cell = artifact
                .cells
                .entry(NetWorkload::of(workload))
                .or_insert(NetCell {
                    count: Count { was, now: 0 },
                    rolling: false,
                });
            cell.count.now = workload.now.max(0);
            cell.rolling = workload.rolling;
        }
    }
    let mut artifacts: Vec<_> = artifacts.into_values().collect();
    for artifact in &mut artifacts {
        // A workload that ends as it began is only listed if this is so for all of them.
        let changed = |cell: &NetCell| cell.count.was != cell.count.now;
        if artifact.cells.values().any(changed) {
            artifact.cells.retain(|_, cell| changed(cell));
        }
    }
    artifacts.sort_by_key(|artifact| (artifact.name, artifact.fingerprint));
    artifacts
}

/// Groups the workloads by the changes of the artifacts in them.
pub(crate) fn groups<'a>(artifacts: &'a [NetArtifact<'a>]) -> Vec<Group<'a>> {
    let mut workloads: BTreeMap<NetWorkload, Vec<(&NetArtifact, NetCell)>> = BTreeMap::new();
    let mut groups: BTreeMap<Vec<_>, Group> = BTreeMap::new();
    for artifact in artifacts {
        for (workload, cell) in &artifact.cells {
            let cells = workloads.entry(*workload).or_default();
            cells.push((artifact, *cell));
        }
        if artifact.cells.is_empty() {
            let moved = Move {
                what: artifact.what(),
                artifact,
                count: artifact.count,
                old: None,
            };
            groups.insert(
                vec![key(&moved)],
                Group {
                    moves: vec![moved],
                    ..Group::default()
                },
            );
        }
    }
    for (workload, cells) in workloads {
        let moves = pair(&cells);
        let group: &mut Group = groups.entry(moves.iter().map(key).collect()).or_default();
        group.workloads.push(workload);
        group.rolling |= cells.iter().any(|(_, cell)| cell.rolling);
        if group.moves.is_empty() {
            group.moves = moves;
        } else {
            for (sum, moved) in group.moves.iter_mut().zip(moves) {
                sum.count = sum.count.plus(moved.count);
                if let (Some((_, sum)), Some((_, count))) = (&mut sum.old, moved.old) {
                    *sum = sum.plus(count);
                }
            }
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    for group in &mut groups {
        let listed = group.workloads.len();
        for moved in &mut group.moves {
            // All listed workloads of the artifact are in this group. So the others belong to it as well.
            let whole =
                |artifact: &NetArtifact| artifact.cells.len() == listed && artifact.more > 0;
            if whole(moved.artifact) {
                moved.count = moved.artifact.count;
                group.more = group.more.max(size(moved.artifact.more));
            }
            if let Some((old, count)) = &mut moved.old
                && whole(old)
            {
                *count = old.count;
                group.more = group.more.max(size(old.more));
            }
        }
    }
    // The most important ones come first, because the list is cut.
    groups.sort_by_cached_key(|group| {
        let what = group.moves.iter().map(|moved| moved.what).min();
        let urgency = match what {
            Some(What::RolledOut | What::Started | What::Stopped) => 0,
            Some(What::ScaledUp | What::ScaledDown | What::Allowed) => 1,
            Some(What::Same | What::StartedAndStopped) | None => 2,
        };
        let image = group.moves.first().map(|moved| moved.artifact.name);
        (urgency, group.workloads.clone(), image)
    });
    groups
}

fn key<'a>(moved: &Move<'a>) -> (What, &'a str, Option<&'a str>) {
    let old = moved.old.map(|(artifact, _)| artifact.fingerprint);
    (moved.what, moved.artifact.fingerprint, old)
}

/// Pairs the artifacts of one workload: one that stopped belongs to the one that replaced it, which is the one of the
/// same image, or the only one that started.
fn pair<'a>(cells: &[(&'a NetArtifact<'a>, NetCell)]) -> Vec<Move<'a>> {
    let moves = cells.iter().map(|(artifact, cell)| Move {
        what: artifact.what_of(cell.count),
        artifact,
        count: cell.count,
        old: None,
    });
    let (mut stopped, mut moves): (Vec<_>, Vec<_>) =
        moves.partition(|moved| moved.what == What::Stopped);
    let replace = |moved: &mut Move<'a>, old: Move<'a>| {
        moved.what = What::RolledOut;
        moved.old = Some((old.artifact, old.count));
    };
    for moved in moves.iter_mut().filter(|m| m.what == What::Started) {
        let image = repository(moved.artifact.name);
        let old = stopped
            .iter()
            .position(|old| repository(old.artifact.name) == image);
        if let Some(old) = old {
            replace(moved, stopped.remove(old));
        }
    }
    let mut started = moves.iter_mut().filter(|m| m.what == What::Started);
    if let (Some(moved), None, 1) = (started.next(), started.next(), stopped.len()) {
        replace(moved, stopped.remove(0));
    }
    moves.extend(stopped);
    moves.sort_by_key(|moved| moved.what);
    moves
}

/// A number of workloads, limited so that absurd ones cannot overflow a sum.
pub(crate) fn size(number: i64) -> usize {
    usize::try_from(number.clamp(0, 1_000_000)).unwrap_or_default()
}

/// An image's name without its tag and digest.
pub(crate) fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let segment = image.rfind('/').map_or(0, |slash| slash + 1);
    image[segment..]
        .find(':')
        .map_or(image, |colon| &image[..segment + colon])
}

/// The last segment of an image's name, with its tag.
pub(crate) fn tagged(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    image.rsplit('/').next().unwrap_or(image)
}

/// The last segment of an image's name, without its tag.
pub(crate) fn short(image: &str) -> &str {
    tagged(repository(image))
}
