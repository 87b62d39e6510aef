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

use futures::{TryStreamExt as _, pin_mut};
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        events::Recorder as Events,
        watcher::{self, watcher},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    api::NotificationSetting,
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
    pub events: Events,
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
            tokio::select! {
                () = this.follow(&mut seats, &desks, &cursors_ready) => break,
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

    async fn follow(
        self: &Arc<Self>,
        seats: &mut BTreeMap<String, TaskHandle>,
        desks: &TaskTracker,
        cursors_ready: &Arc<watch::Sender<bool>>,
    ) {
        self.environments.wait_listed().await;
        let api: Api<DeserializeGuard<NotificationSetting>> = Api::all(self.client.clone());
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(stream);
        let mut listed: Option<BTreeSet<String>> = None;
        let (placed, placed_all) = mpsc::channel::<()>(1);
        let mut first = Some((placed, placed_all));
        loop {
            match stream.try_next().await {
                Ok(None) => return,
                Err(error) => warn!(%error, "can't follow the settings; trying again"),
                Ok(Some(watcher::Event::Init)) => listed = Some(BTreeSet::new()),
                Ok(Some(watcher::Event::InitApply(guarded))) => {
                    if let Some(listed) = &mut listed {
                        listed.extend(guarded.uid());
                    }
                    let placed = first.as_ref().map(|(placed, ..)| placed.clone());
                    self.seen(guarded, seats, desks, placed);
                }
                Ok(Some(watcher::Event::Apply(guarded))) => self.seen(guarded, seats, desks, None),
                Ok(Some(watcher::Event::Delete(guarded))) => {
                    if let Some(uid) = guarded.uid() {
                        self.gone(&uid, seats);
                    }
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    let there = listed.take().unwrap_or_default();
                    let gone: Vec<_> = seats
                        .keys()
                        .filter(|uid| !there.contains(*uid))
                        .cloned()
                        .collect();
                    for uid in gone {
                        self.gone(&uid, seats);
                    }
                    if let Some((placed, mut placed_all)) = first.take() {
                        drop(placed);
                        let passed = self.passed.clone();
                        let cursors_ready = cursors_ready.clone();
                        tokio::spawn(async move {
                            // Each setting drops its end when its cursors are written.
                            let _ = timeout(CURSORS, placed_all.recv()).await;
                            cursors_ready.send_replace(true);
                            passed.set_complete(true);
                        });
                    }
                }
            }
        }
    }

    fn seen(
        self: &Arc<Self>,
        guarded: DeserializeGuard<NotificationSetting>,
        seats: &mut BTreeMap<String, TaskHandle>,
        desks: &TaskTracker,
        placed: Option<mpsc::Sender<()>>,
    ) {
        let name = format!(
            "{}/{}",
            guarded.namespace().unwrap_or_default(),
            guarded.name_any()
        );
        let setting = match guarded.0 {
            Ok(setting) => setting,
            Err(invalid) => {
                warn!(
                    setting = name,
                    error = invalid.error,
                    "the setting can't be read; its last good state is kept"
                );
                return;
            }
        };
        let Some(uid) = setting.uid() else { return };
        if let Some(seat) = seats.get(&uid) {
            seat.setting.send_replace(setting);
            return;
        }
        let stop = CancellationToken::new();
        let (sender, receiver) = watch::channel(setting);
        seats.insert(
            uid.clone(),
            TaskHandle {
                setting: sender,
                stop: stop.clone(),
            },
        );
        let desk = SettingWorker::new(self.clone(), receiver, placed);
        let passed = self.passed.clone();
        desks.spawn(async move {
            tokio::select! {
                () = desk.run() => {}
                () = stop.cancelled() => passed.remove(&uid),
            }
        });
    }

    fn gone(&self, uid: &str, seats: &mut BTreeMap<String, TaskHandle>) {
        if let Some(seat) = seats.remove(uid) {
            seat.stop.cancel();
        }
        self.passed.remove(uid);
    }
}
