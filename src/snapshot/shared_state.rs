#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! Shares the state between tasks, behind a lock that is never held across a wait, and wakes tasks when it changes.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;

use crate::{
    cluster::{
        pod_view::{Decoded, Meta},
        watch::{ObjectSink, StreamSink},
        watch_progress::{ListEnd, WatchKind},
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
    relist: [Notify; WatchKind::COUNT],
    status_news: Notify,
    era: watch::Sender<u64>,
}

impl SharedState {
    /// Shares a state.
    pub fn new(state: ClusterState) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            state: Mutex::new(state),
            changes: Mutex::default(),
            relist: WatchKind::ALL.map(|_| Notify::new()),
            status_news: Notify::new(),
            era: watch::Sender::new(0),
        })
    }

    /// The time of the monotonic clock.
    pub fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }

    /// Converts a moment, to wait until then.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.start + moment.since_start()
    }

    /// Reads or changes the state. The tasks of environments that have something new to do are woken.
    pub fn with<T>(&self, work: impl FnOnce(&mut ClusterState, Moment) -> T) -> T {
        let (result, touched, relist, status_news, era) = {
            let mut state = self.state.lock();
            let result = work(&mut state, self.now());
            let wanted = WatchKind::ALL.map(|kind| state.stream(kind).relist);
            (
                result,
                state.take_touched(),
                wanted,
                state.take_status_news(),
                state.era(),
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
        // Another thread may have told of a later era already.
        let news = self.era.send_if_modified(|told| {
            let news = era > *told;
            *told = era.max(*told);
            news
        });
        if news {
            warn!("the cluster's store was set back to an older state; reading everything again");
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
        self.era.subscribe()
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

    fn resumes_at(&self, kind: WatchKind) -> Option<u64> {
        self.with(|state, _| state.stream(kind).resumes_at())
    }

    async fn relist_requested(&self, kind: WatchKind) {
        self.relist[kind as usize].notified().await;
    }

    fn list_begins(&self, kind: WatchKind) {
        self.with(|state, _| state.list_begins(kind));
    }

    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> ListEnd {
        self.with(|state, now| state.list_ends(kind, version, begun, now))
    }

    fn read(
        &self,
        kind: WatchKind,
        object: Result<&Meta, (&Meta, &str)>,
        listed: bool,
    ) -> Vec<String> {
        self.with(|state, now| state.read(kind, object, listed, now))
    }

    fn interrupted(&self, _: WatchKind) {
        self.with(ClusterState::interrupted);
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
