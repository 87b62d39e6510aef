//! Where the logs say something about a flow: read once, and from then on only what is new. So to look up what is nowhere
//! costs no reading.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    pin::pin,
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use crate::{
    api::{EnvironmentSnapshotSpec, environment::EnvironmentId},
    web::views::artifact::{FlowQuery, LoggedProvenance},
};

/// How many entries of a log are read at once.
const AT_ONCE: usize = 8;
/// At most this much is remembered of all logs together; each takes about 32 bytes.
const REMEMBERED: usize = 100_000;

/// Reads the entries of logs.
pub(crate) trait ReadEntry: Sync {
    type Error: Send;

    /// The entry with this number, if there is one.
    fn entry(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> impl Future<Output = Result<Option<Arc<EnvironmentSnapshotSpec>>, Self::Error>> + Send;
}

/// What the newest entries of all logs say about flows.
#[derive(Debug, Default)]
pub(crate) struct FlowIndex {
    /// By the UID of the environment.
    logs: Mutex<BTreeMap<String, IndexedLog>>,
    hasher: RandomState,
}

/// What the entries of one log from `oldest` to `newest` say.
#[derive(Debug, Default)]
struct IndexedLog {
    oldest: i64,
    newest: i64,
    /// There is nothing older, or no room for it.
    complete: bool,
    /// The newest entry that answers a query, by the query's hash.
    found: BTreeMap<u64, i64>,
}

/// The part of a log that is searched: its newest entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchedPart {
    pub(crate) oldest: i64,
    pub(crate) head: i64,
    /// How many logs there are.
    pub(crate) logs: usize,
}

impl FlowIndex {
    /// The newest entry of a part of a log that answers a query.
    pub(crate) async fn find<L: ReadEntry>(
        &self,
        log: &L,
        environment: &EnvironmentId,
        part: SearchedPart,
        query: &FlowQuery,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, L::Error> {
        let index = {
            // Whoever comes meanwhile waits for the same reading.
            let mut logs = self.logs.lock().await;
            let known = logs.entry(environment.uid.clone()).or_default();
            self.read(known, log, environment, part).await?;
            known.found.get(&self.hasher.hash_one(query)).copied()
        };
        match index {
            Some(index) => log.entry(environment, index).await,
            None => Ok(None),
        }
    }

    /// Forgets the logs of other environments than these.
    pub(crate) async fn keep(&self, uids: impl Fn(&str) -> bool) {
        self.logs.lock().await.retain(|uid, _| uids(uid));
    }

    /// Reads what is not read yet. Whatever stops it, what was read until then counts.
    async fn read<L: ReadEntry>(
        &self,
        known: &mut IndexedLog,
        log: &L,
        environment: &EnvironmentId,
        part: SearchedPart,
    ) -> Result<(), L::Error> {
        let SearchedPart { oldest, head, logs } = part;
        let room = REMEMBERED / logs.max(1);
        if known.newest > head || known.newest < oldest || known.newest == 0 {
            *known = IndexedLog {
                oldest: head + 1,
                newest: head,
                ..IndexedLog::default()
            };
        }
        let newer = (known.newest + 1)..=head;
        let entries = stream::iter(newer.map(|index| log.entry(environment, index)));
        let mut entries = pin!(entries.buffered(AT_ONCE));
        while let Some(entry) = entries.try_next().await? {
            known.newest += 1;
            if let Some(entry) = entry {
                self.take(known, &entry);
                known.forget_beyond(room);
            }
        }
        if known.complete {
            return Ok(());
        }
        let older = (oldest..known.oldest).rev();
        let entries = stream::iter(older.map(|index| log.entry(environment, index)));
        let mut entries = pin!(entries.buffered(AT_ONCE));
        while let Some(entry) = entries.try_next().await? {
            let Some(entry) = entry.filter(|_| known.found.len() < room) else {
                known.complete = true;
                return Ok(());
            };
            known.oldest -= 1;
            self.take(known, &entry);
        }
        Ok(())
    }

    fn take(&self, known: &mut IndexedLog, entry: &EnvironmentSnapshotSpec) {
        for logged in LoggedProvenance::in_entry(entry) {
            for query in logged.queries() {
                let newest = known.found.entry(self.hasher.hash_one(&query));
                let newest = newest.or_insert(entry.index);
                *newest = entry.index.max(*newest);
            }
        }
    }
}

impl IndexedLog {
    /// Makes room by forgetting the older half. The newest entry is kept, however much it says.
    fn forget_beyond(&mut self, room: usize) {
        if self.found.len() <= room {
            return;
        }
        let mut indexes: Vec<i64> = self.found.values().copied().collect();
        indexes.sort_unstable();
        let middle = indexes[indexes.len() / 2];
        self.found.retain(|_, index| *index >= middle);
        self.complete = true;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use parking_lot::Mutex;

    use super::*;
    use crate::{
        api::snapshot::Provenance,
        cluster::image::Fingerprint,
        simulation::testing::{self, digest},
        web::views::artifact::Wanted,
    };

    /// A log, and which of its entries were read.
    #[derive(Default)]
    struct Log {
        entries: BTreeMap<i64, Arc<EnvironmentSnapshotSpec>>,
        read: Mutex<Vec<i64>>,
    }

    impl ReadEntry for Log {
        type Error = Infallible;

        async fn entry(
            &self,
            _: &EnvironmentId,
            index: i64,
        ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, Infallible> {
            self.read.lock().push(index);
            Ok(self.entries.get(&index).cloned())
        }
    }

    impl Log {
        /// Appends an entry in which an image of a flow starts.
        fn append(&mut self, index: i64, flow: &str) {
            let mut entry = testing::snapshot(index, &[("runner", 0, 1)]);
            entry.changes[0].fingerprint = digest(flow).to_string();
            entry.changes[0].provenance = Some(Provenance {
                flow: flow.to_owned(),
                ..Provenance::default()
            });
            self.entries.insert(index, Arc::new(entry));
        }

        fn reads(&self) -> Vec<i64> {
            let mut read = std::mem::take(&mut *self.read.lock());
            read.sort_unstable();
            read
        }
    }

    fn part(oldest: i64, head: i64) -> SearchedPart {
        SearchedPart {
            oldest,
            head,
            logs: 1,
        }
    }

    fn query(flow: &str, digest: Fingerprint) -> FlowQuery {
        FlowQuery {
            flow: flow.to_owned(),
            wanted: Wanted::Artifact(digest),
        }
    }

    async fn found(index: &FlowIndex, log: &Log, part: SearchedPart, flow: &str) -> Option<i64> {
        let prod = EnvironmentId::new("prod", "uid");
        let query = query(flow, digest(flow));
        let found = index.find(log, &prod, part, &query).await.unwrap();
        found.map(|entry| entry.index)
    }

    #[tokio::test]
    async fn what_is_nowhere_is_read_for_once_and_then_only_what_is_new() {
        let mut log = Log::default();
        for index in 1..=20 {
            log.append(index, &format!("flow-{index}"));
        }
        let index = FlowIndex::default();
        assert_eq!(found(&index, &log, part(1, 20), "nowhere").await, None);
        assert_eq!(log.reads(), (1..=20).collect::<Vec<_>>());
        for name in ["nowhere", "elsewhere", "flow-21"] {
            assert_eq!(found(&index, &log, part(1, 20), name).await, None);
        }
        assert_eq!(log.reads(), [0; 0]);
        log.append(21, "flow-21");
        log.append(22, "flow-7");
        assert_eq!(found(&index, &log, part(3, 22), "flow-21").await, Some(21));
        assert_eq!(log.reads(), [21, 21, 22]);
        assert_eq!(found(&index, &log, part(3, 22), "flow-7").await, Some(22));
        assert_eq!(found(&index, &log, part(3, 22), "flow-3").await, Some(3));
        assert_eq!(log.reads(), [3, 22]);
    }

    #[tokio::test]
    async fn a_log_that_was_pruned_or_set_back_is_read_as_far_as_it_goes() {
        let mut log = Log::default();
        for index in 11..=20 {
            log.append(index, &format!("flow-{index}"));
        }
        let index = FlowIndex::default();
        assert_eq!(found(&index, &log, part(1, 20), "flow-11").await, Some(11));
        log.entries.remove(&11);
        assert_eq!(found(&index, &log, part(1, 20), "flow-11").await, None);
        log.append(15, "other");
        assert_eq!(found(&index, &log, part(1, 15), "other").await, Some(15));
        assert_eq!(found(&index, &log, part(1, 15), "flow-16").await, None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_is_kept() {
        let mut known = IndexedLog::default();
        for number in 0..11 {
            known.found.insert(number, number.cast_signed());
        }
        known.forget_beyond(10);
        assert_eq!(
            known.found.keys().copied().collect::<Vec<_>>(),
            [5, 6, 7, 8, 9, 10]
        );
        assert!(known.complete);
    }
}
