#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! The world behind a lock that is never held across a wait, and who is woken when it changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, watch};

use crate::{
    snapshot::state::{ClusterState, WatchKind},
    time::Moment,
};

/// The shared world.
#[derive(Debug)]
pub struct SharedState {
    start: Instant,
    world: Mutex<ClusterState>,
    bells: Mutex<BTreeMap<String, Arc<Notify>>>,
    relist: [Notify; 3],
    unanswered: Notify,
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
            unanswered: Notify::new(),
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
        let (result, touched, relist, unanswered) = {
            let mut world = lock(&self.world);
            let result = work(&mut world, self.now());
            let wanted = WatchKind::ALL.map(|kind| world.stream(kind).relist);
            (result, world.take_touched(), wanted, world.take_answers())
        };
        if !touched.is_empty() {
            let bells = lock(&self.bells);
            for name in touched {
                if let Some(bell) = bells.get(&name) {
                    bell.notify_one();
                }
            }
        }
        if unanswered {
            self.unanswered.notify_one();
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
        lock(&self.bells)
            .entry(environment.to_owned())
            .or_default()
            .clone()
    }

    /// Rings when the status of something that is said of images may be another.
    pub fn unanswered(&self) -> &Notify {
        &self.unanswered
    }

    /// Tells all that the cluster's store was set back to an older state.
    pub fn set_back(&self) {
        self.set_back.send_modify(|count| *count += 1);
    }

    /// Is told when the cluster's store was set back to an older state.
    pub fn set_backs(&self) -> watch::Receiver<u64> {
        self.set_back.subscribe()
    }

    /// Rings when a new list of a kind is wanted.
    pub fn relist_wanted(&self, kind: WatchKind) -> &Notify {
        &self.relist[kind as usize]
    }
}

/// Locks, whatever became of another holder: the program aborts on panic, so nobody can have left it half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
