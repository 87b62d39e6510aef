#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! The world behind a lock that is never held across a wait, and who is woken when it changes.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    cluster::{
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView},
        stream::WatchKind,
        watch::{ObjectSink, StreamSink},
    },
    compliance::evidence_state::{EvidenceState, SharedEvidence},
    snapshot::state::ClusterState,
    time::Moment,
};

/// The shared world.
#[derive(Debug)]
pub struct SharedState {
    start: Instant,
    world: Mutex<ClusterState>,
    bells: Mutex<BTreeMap<String, Arc<Notify>>>,
    relist: [Notify; 3],
    status_news: Notify,
    set_back: watch::Sender<u64>,
}

impl SharedState {
    /// A hub around an empty world.
    pub fn new(world: ClusterState) -> Arc<Self> {
        let relist = [Notify::new(), Notify::new(), Notify::new()];
        Arc::new(Self {
            start: Instant::now(),
            world: Mutex::new(world),
            bells: Mutex::default(),
            relist,
            status_news: Notify::new(),
            set_back: watch::Sender::new(0),
        })
    }

    /// The monotonic clock of the model.
    pub fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// The instant of a moment, for waiting until then.
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + moment)
    }

    /// Reads or changes the world; environments that are touched by it are woken.
    pub fn with<T>(&self, work: impl FnOnce(&mut ClusterState, Moment) -> T) -> T {
        let (result, touched, relist, status_news) = {
            let mut world = self.world.lock();
            let result = work(&mut world, self.now());
            let wanted = WatchKind::ALL.map(|kind| world.stream(kind).relist);
            (
                result,
                world.take_touched(),
                wanted,
                world.take_status_news(),
            )
        };
        if !touched.is_empty() {
            let bells = self.bells.lock();
            for name in touched {
                if let Some(bell) = bells.get(&name) {
                    bell.notify_one();
                }
            }
        }
        if status_news {
            self.status_news.notify_one();
        }
        for (wanted, bell) in relist.into_iter().zip(&self.relist) {
            if wanted {
                bell.notify_one();
            }
        }
        result
    }

    /// Rings when there is something new to look at in an environment.
    pub fn bell(&self, environment: &str) -> Arc<Notify> {
        self.bells
            .lock()
            .entry(environment.to_owned())
            .or_default()
            .clone()
    }

    /// Is told when the cluster's store was set back to an older state.
    pub fn set_backs(&self) -> watch::Receiver<u64> {
        self.set_back.subscribe()
    }
}

impl StreamSink for SharedState {
    fn now(&self) -> Moment {
        self.now()
    }

    fn version(&self, kind: WatchKind) -> u64 {
        self.with(|world, _| world.stream(kind).version)
    }

    fn is_good(&self, kind: WatchKind) -> bool {
        self.with(|world, now| world.stream(kind).is_good(now))
    }

    fn wants_relist(&self, kind: WatchKind) -> bool {
        self.with(|world, _| world.stream(kind).relist)
    }

    async fn relist_requested(&self, kind: WatchKind) {
        self.relist[kind as usize].notified().await;
    }

    fn list_begins(&self, kind: WatchKind) {
        self.with(|world, _| world.list_begins(kind));
    }

    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> bool {
        let set_back = self.with(|world, now| {
            let set_back = world.list_ends(kind, version, begun, now);
            if set_back {
                world.set_back();
            }
            set_back
        });
        if set_back {
            self.set_back.send_modify(|count| *count += 1);
        }
        set_back
    }

    fn bookmark(&self, kind: WatchKind, version: u64) {
        self.with(|world, now| world.bookmark(kind, version, now));
    }

    fn stream_fails(&self, kind: WatchKind, why: String, forbidden: bool) {
        self.with(|world, now| world.stream_fails(kind, why, forbidden, now));
    }
}

/// Hands the objects of a kind to the state.
macro_rules! object_sink {
    ($view:ty, $seen:ident, $deleted:ident) => {
        impl ObjectSink<$view> for SharedState {
            fn seen(
                &self,
                objects: impl IntoIterator<Item = Decoded<$view>>,
                listed: bool,
            ) -> Vec<String> {
                self.with(|world, now| {
                    let objects = objects.into_iter();
                    objects
                        .flat_map(|object| world.$seen(object, listed, now))
                        .collect()
                })
            }

            fn deleted(&self, object: &Decoded<$view>) {
                self.with(|world, now| world.$deleted(object, now));
            }
        }
    };
}

object_sink!(PodView, pod_seen, pod_deleted);
object_sink!(DeploymentView, deployment_seen, deployment_deleted);
object_sink!(NamespaceView, namespace_seen, namespace_deleted);

impl SharedEvidence for SharedState {
    fn with_evidence<T>(&self, work: impl FnOnce(&mut dyn EvidenceState, Moment) -> T) -> T {
        self.with(|world, now| work(world, now))
    }

    async fn status_changed(&self) {
        self.status_news.notified().await;
    }
}
