#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! Shares the state between tasks, behind a lock that is never held across a wait, and wakes tasks when it changes.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    cluster::{
        pod_view::Decoded,
        watch::{ObjectSink, StreamSink},
        watch_progress::WatchKind,
    },
    compliance::evidence_state::{EvidenceState, SharedEvidence},
    snapshot::state::{ClusterState, FleetObject},
    time::Moment,
};

/// The shared state.
#[derive(Debug)]
pub struct SharedState {
    start: Instant,
    state: Mutex<ClusterState>,
    changes: Mutex<BTreeMap<String, Arc<Notify>>>,
    relist: [Notify; 3],
    status_news: Notify,
    set_back: watch::Sender<u64>,
}

impl SharedState {
    /// Shares a state.
    pub fn new(state: ClusterState) -> Arc<Self> {
        let relist = [Notify::new(), Notify::new(), Notify::new()];
        Arc::new(Self {
            start: Instant::now(),
            state: Mutex::new(state),
            changes: Mutex::default(),
            relist,
            status_news: Notify::new(),
            set_back: watch::Sender::new(0),
        })
    }

    /// The time of the monotonic clock.
    pub fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }

    /// Converts a moment, to wait until then.
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + moment.since_start())
    }

    /// Reads or changes the state. The tasks of environments that have something new to do are woken.
    pub fn with<T>(&self, work: impl FnOnce(&mut ClusterState, Moment) -> T) -> T {
        let (result, touched, relist, status_news) = {
            let mut state = self.state.lock();
            let result = work(&mut state, self.now());
            let wanted = WatchKind::ALL.map(|kind| state.stream(kind).relist);
            (
                result,
                state.take_touched(),
                wanted,
                state.take_status_news(),
            )
        };
        if !touched.is_empty() {
            let changes = self.changes.lock();
            for name in touched {
                if let Some(notify) = changes.get(&name) {
                    notify.notify_one();
                }
            }
        }
        if status_news {
            self.status_news.notify_one();
        }
        for (wanted, notify) in relist.into_iter().zip(&self.relist) {
            if wanted {
                notify.notify_one();
            }
        }
        result
    }

    /// Is notified when there may be something new to do for an environment.
    pub fn changed(&self, environment: &str) -> Arc<Notify> {
        self.changes
            .lock()
            .entry(environment.to_owned())
            .or_default()
            .clone()
    }

    /// Is notified when the cluster's store was set back to an older state.
    pub fn set_backs(&self) -> watch::Receiver<u64> {
        self.set_back.subscribe()
    }
}

impl StreamSink for SharedState {
    fn now(&self) -> Moment {
        self.now()
    }

    fn version(&self, kind: WatchKind) -> u64 {
        self.with(|state, _| state.stream(kind).version)
    }

    fn is_good(&self, kind: WatchKind) -> bool {
        self.with(|state, now| state.stream(kind).is_good(now))
    }

    fn wants_relist(&self, kind: WatchKind) -> bool {
        self.with(|state, _| state.stream(kind).relist)
    }

    async fn relist_requested(&self, kind: WatchKind) {
        self.relist[kind as usize].notified().await;
    }

    fn list_begins(&self, kind: WatchKind) {
        self.with(|state, _| state.list_begins(kind));
    }

    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> bool {
        let set_back = self.with(|state, now| {
            let set_back = state.list_ends(kind, version, begun, now);
            if set_back {
                state.set_back();
            }
            set_back
        });
        if set_back {
            self.set_back.send_modify(|count| *count += 1);
        }
        set_back
    }

    fn bookmark(&self, kind: WatchKind, version: u64) {
        self.with(|state, now| state.bookmark(kind, version, now));
    }

    fn stream_fails(&self, kind: WatchKind, why: String, forbidden: bool) {
        self.with(|state, now| state.stream_fails(kind, why, forbidden, now));
    }
}

impl<T: FleetObject> ObjectSink<T> for SharedState {
    fn seen(&self, objects: impl IntoIterator<Item = Decoded<T>>, listed: bool) -> Vec<String> {
        self.with(|state, now| {
            let objects = objects.into_iter();
            let warnings = objects.flat_map(|object| state.seen(object, listed, now));
            warnings.collect()
        })
    }

    fn deleted(&self, object: &Decoded<T>) {
        self.with(|state, now| state.deleted(object, now));
    }
}

impl SharedEvidence for SharedState {
    fn with_evidence<T>(&self, work: impl FnOnce(&mut dyn EvidenceState, Moment) -> T) -> T {
        self.with(|state, now| work(state, now))
    }

    async fn status_changed(&self) {
        self.status_news.notified().await;
    }
}
