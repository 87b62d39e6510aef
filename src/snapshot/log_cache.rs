//! Keeps the snapshots that were used last. They are shared, and all together take a bounded amount of memory.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        snapshot::{AllowListChange, Change, CompletedRollout, Event, Identity, UncountedArtifact},
    },
    snapshot::ledger::size_of_change,
};

/// At most how many bytes all cached snapshots take. A snapshot that alone takes more is not cached.
const MAX_BYTES: usize = 8 << 20;

/// By the environment's UID and the snapshot's index.
type Key = (String, i64);

/// A cached snapshot.
#[derive(Debug)]
struct Cached {
    snapshot: Arc<EnvironmentSnapshotSpec>,
    bytes: usize,
    /// When it was used last: its key in `LogCache::by_use`.
    used: u64,
}

/// The snapshots that were used last.
#[derive(Debug, Default)]
pub(crate) struct LogCache {
    snapshots: BTreeMap<Key, Cached>,
    /// The least recently used comes first.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

impl LogCache {
    /// A snapshot, if it is cached.
    pub(crate) fn get(&mut self, uid: &str, index: i64) -> Option<Arc<EnvironmentSnapshotSpec>> {
        let cached = self.snapshots.get_mut(&(uid.to_owned(), index))?;
        let key = self.by_use.remove(&cached.used)?;
        self.uses += 1;
        cached.used = self.uses;
        self.by_use.insert(self.uses, key);
        Some(cached.snapshot.clone())
    }

    /// Caches a snapshot in place of those that were not used for longest.
    pub(crate) fn insert(&mut self, snapshot: Arc<EnvironmentSnapshotSpec>) {
        let key = (snapshot.environment_uid.clone(), snapshot.index);
        let known = self.get(&key.0, key.1);
        if known.is_some_and(|known| Arc::ptr_eq(&known, &snapshot)) {
            return;
        }
        self.remove(&key);
        let bytes = decoded_size(&snapshot);
        if bytes > MAX_BYTES {
            return;
        }
        while self.bytes + bytes > MAX_BYTES
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.remove(&oldest);
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, key.clone());
        let used = self.uses;
        let cached = Cached {
            snapshot,
            bytes,
            used,
        };
        self.snapshots.insert(key, cached);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(cached) = self.snapshots.remove(key) {
            self.by_use.remove(&cached.used);
            self.bytes -= cached.bytes;
        }
    }
}

/// About how many bytes a snapshot takes in memory; rather more than less, because lists are allocated with room to grow.
pub(crate) fn decoded_size(snapshot: &EnvironmentSnapshotSpec) -> usize {
    const DIGEST: usize = 64;
    let compliance = &snapshot.compliance;
    let reasons = compliance.reasons.iter().chain(&compliance.resolved);
    let change = |change: &Change| size_of::<Change>() + 2 * size_of_change(change);
    let listed = |change: &AllowListChange| {
        size_of::<AllowListChange>() + change.entry.len() + change.entry_uid.len() + DIGEST
    };
    let completed = |it: &CompletedRollout| {
        size_of::<CompletedRollout>() + it.kind.len() + it.namespace.len() + it.name.len()
    };
    let uncounted =
        |it: &UncountedArtifact| size_of::<UncountedArtifact>() + DIGEST + it.namespace.len();
    let identity = |it: &Identity| {
        let repository = it.repository.as_ref().map_or(0, String::len);
        size_of::<Identity>() + 2 * DIGEST + repository
    };
    let data = snapshot.checkpoint.as_ref().and_then(|it| it.data.as_ref());
    size_of::<EnvironmentSnapshotSpec>()
        + snapshot.environment.len()
        + reasons
            .map(|it| size_of::<String>() + it.len())
            .sum::<usize>()
        + snapshot.changes.iter().map(change).sum::<usize>()
        + snapshot.allow_list.iter().map(listed).sum::<usize>()
        + snapshot.identities.iter().map(identity).sum::<usize>()
        + compliance.uncounted.iter().map(uncounted).sum::<usize>()
        + snapshot
            .completed_rollouts
            .iter()
            .map(completed)
            .sum::<usize>()
        + snapshot.events.len() * size_of::<Event>()
        + data.map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::snapshot::WorkloadChange, simulation::testing};

    /// A snapshot with so many workloads, each with a name of 200 bytes.
    fn snapshot(index: i64, workloads: usize) -> Arc<EnvironmentSnapshotSpec> {
        let mut snapshot = testing::snapshot(index, &[("runner", 0, 1)]);
        let workload = WorkloadChange {
            kind: "Deployment".to_owned(),
            namespace: "shop".to_owned(),
            name: "w".repeat(200),
            was: 0,
            now: 1,
            rolling: false,
        };
        snapshot.changes[0].workloads = vec![workload; workloads];
        Arc::new(snapshot)
    }

    fn get(
        cache: &mut LogCache,
        snapshot: &EnvironmentSnapshotSpec,
    ) -> Option<Arc<EnvironmentSnapshotSpec>> {
        cache.get(&snapshot.environment_uid, snapshot.index)
    }

    #[test]
    fn large_snapshots_push_out_the_least_recently_used_so_that_the_bound_holds() {
        let mut cache = LogCache::default();
        let first = snapshot(1, 2_000);
        cache.insert(first.clone());
        for index in 2..=40 {
            let next = snapshot(index, 2_000);
            cache.insert(next.clone());
            assert!(get(&mut cache, &first).is_some(), "used again and again");
            let cached: Vec<_> = cache.snapshots.values().collect();
            let sum: usize = cached.iter().map(|it| it.bytes).sum();
            assert_eq!((cache.bytes, cache.by_use.len()), (sum, cached.len()));
            assert!(sum <= MAX_BYTES, "{sum}");
        }
        let json = serde_json::to_vec(&*first).unwrap().len();
        let counted = decoded_size(&first);
        assert!(json < counted, "{json} bytes of JSON count as {counted}");
        assert!(cache.snapshots.len() > 2, "{}", cache.snapshots.len());
        assert!(get(&mut cache, &snapshot(40, 0)).is_some());
        assert!(get(&mut cache, &snapshot(2, 0)).is_none());
    }

    #[test]
    fn a_hit_is_the_same_snapshot_and_not_a_copy() {
        let mut cache = LogCache::default();
        let kept = snapshot(7, 1);
        cache.insert(kept.clone());
        assert!(Arc::ptr_eq(&kept, &get(&mut cache, &kept).unwrap()));
        let newer = snapshot(7, 2);
        cache.insert(newer.clone());
        assert!(Arc::ptr_eq(&newer, &get(&mut cache, &kept).unwrap()));
        assert_eq!(cache.bytes, decoded_size(&newer));
    }

    #[test]
    fn every_list_of_a_snapshot_counts() {
        let digest = "d".repeat(64);
        let empty = testing::snapshot(1, &[]);
        let mut uncounted = empty.clone();
        uncounted.compliance.uncounted = vec![
            UncountedArtifact {
                fingerprint: digest,
                since: uncounted.time,
                namespace: "n".repeat(63),
            };
            100
        ];
        let mut completed = empty.clone();
        completed.completed_rollouts = vec![
            CompletedRollout {
                kind: "k".repeat(317),
                namespace: "n".repeat(63),
                name: "w".repeat(253),
            };
            100
        ];
        for snapshot in [uncounted, completed] {
            let json = serde_json::to_vec(&snapshot).unwrap().len();
            let before = serde_json::to_vec(&empty).unwrap().len();
            let more = decoded_size(&snapshot) - decoded_size(&empty);
            assert!(
                more >= (json - before) * 3 / 4,
                "{more} for {}",
                json - before
            );
        }
    }

    #[test]
    fn a_snapshot_that_exceeds_the_bound_alone_is_not_cached_and_pushes_out_nothing() {
        let mut cache = LogCache::default();
        let kept = snapshot(1, 1);
        cache.insert(kept.clone());
        let huge = snapshot(2, 50_000);
        cache.insert(huge.clone());
        assert!(get(&mut cache, &huge).is_none());
        assert!(get(&mut cache, &kept).is_some());
    }
}
