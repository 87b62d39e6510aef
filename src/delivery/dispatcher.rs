#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Follows the settings: one task each, so that none waits for another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{Client, ResourceExt as _, api::ObjectMeta};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::NotificationSetting,
    cluster::{
        events::EventPublisher,
        own_watch::{self, Follower},
    },
    delivery::{secret::RbacHints, setting_worker::SettingWorker},
    http::sender::HttpSender,
    message::installation::Installation,
    metrics::Metrics,
    snapshot::{
        environments::Environments, log::SnapshotLog, progress::DeliveryProgress,
        shared::SharedState,
    },
};

/// The first cursors are waited for so long: an API server that doesn't take them must not stop the log for ever.
const CURSORS: Duration = Duration::from_secs(10);

/// What dispatching needs.
pub struct Dispatcher {
    /// For the settings, their status and their Secrets.
    pub client: Client,
    /// The clock.
    pub hub: Arc<SharedState>,
    /// The log.
    pub logbook: SnapshotLog,
    /// The environments, and where their logs end.
    pub environments: Arc<Environments>,
    /// The outbound client.
    pub courier: HttpSender,
    /// What each payload says of the installation.
    pub installation: Arc<Installation>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Kubernetes Events.
    pub events: EventPublisher,
    /// RbacHints that advice needs.
    pub names: RbacHints,
    /// How far every setting has got, for pruning.
    pub passed: Arc<DeliveryProgress>,
    /// Ends sending: what is under way is finished first.
    pub stop: CancellationToken,
}

struct TaskHandle {
    setting: watch::Sender<NotificationSetting>,
    stop: CancellationToken,
}

impl Dispatcher {
    /// Follows the settings until it is stopped, and what is under way then is done. `cursors_ready` is set when those that
    /// exist at start have their cursors.
    pub async fn run(self, cursors_ready: watch::Sender<bool>) {
        let this = Arc::new(self);
        let cursors_ready = Arc::new(cursors_ready);
        let desks = TaskTracker::new();
        let mut eras = this.environments.eras();
        let mut seats: BTreeMap<String, TaskHandle> = BTreeMap::new();
        loop {
            let mut workers = Workers {
                dispatcher: &this,
                running: &mut seats,
                tracker: &desks,
                cursors_ready: &cursors_ready,
                first: Some(mpsc::channel(1)),
            };
            let follow = async {
                this.environments.wait_listed().await;
                own_watch::follow(this.client.clone(), &mut workers).await;
            };
            tokio::select! {
                () = follow => break,
                () = this.stop.cancelled() => break,
                _ = eras.changed() => {}
            }
            // The statuses were set back with the rest: they tell how far each setting has got.
            for seat in std::mem::take(&mut seats).into_values() {
                seat.stop.cancel();
            }
            desks.close();
            desks.wait().await;
            desks.reopen();
            this.passed.set_complete(false);
            cursors_ready.send_replace(false);
        }
        desks.close();
        desks.wait().await;
    }
}

/// The workers of all settings.
struct Workers<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    running: &'a mut BTreeMap<String, TaskHandle>,
    tracker: &'a TaskTracker,
    cursors_ready: &'a Arc<watch::Sender<bool>>,
    /// Held by each setting of the first list until its cursors are written; and what then ends.
    first: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl Follower<NotificationSetting> for Workers<'_> {
    type Key = String;

    fn key(metadata: &ObjectMeta) -> Option<String> {
        metadata.uid.clone()
    }

    fn apply(&mut self, setting: NotificationSetting, listing: bool) {
        let Some(uid) = setting.uid() else { return };
        if let Some(task) = self.running.get(&uid) {
            task.setting.send_replace(setting);
            return;
        }
        let placed = self.first.as_ref().filter(|_| listing);
        let placed = placed.map(|(placed, _)| placed.clone());
        let stop = CancellationToken::new();
        let (sender, receiver) = watch::channel(setting);
        let handle = TaskHandle {
            setting: sender,
            stop: stop.clone(),
        };
        self.running.insert(uid.clone(), handle);
        let worker = SettingWorker::new(self.dispatcher.clone(), receiver, placed);
        let passed = self.dispatcher.passed.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = worker.run() => {}
                () = stop.cancelled() => passed.remove(&uid),
            }
        });
    }

    fn delete(&mut self, uid: &String) {
        if let Some(task) = self.running.remove(uid) {
            task.stop.cancel();
        }
        self.dispatcher.passed.remove(uid);
    }

    fn listed(&mut self, present: &BTreeSet<String>) {
        let known = self.running.keys().cloned();
        let gone: Vec<_> = known.filter(|uid| !present.contains(uid)).collect();
        for uid in gone {
            self.delete(&uid);
        }
        if let Some((placed, mut placed_all)) = self.first.take() {
            drop(placed);
            let passed = self.dispatcher.passed.clone();
            let cursors_ready = self.cursors_ready.clone();
            tokio::spawn(async move {
                // Each setting drops its end when its cursors are written.
                let _ = timeout(CURSORS, placed_all.recv()).await;
                cursors_ready.send_replace(true);
                passed.set_complete(true);
            });
        }
    }
}
