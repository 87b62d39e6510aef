#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Follows the settings and gives each a worker of its own, so that none waits for another; tells each what changes in the
//! environments that it asks for.

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
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    api::{NotificationSetting, setting::Cursor},
    delivery::{heads, mailbox::Mailbox, secret::RbacHints, setting_worker::SettingWorker},
    http::sender::HttpSender,
    message::installation::Installation,
    metrics::Metrics,
    snapshot::{
        environments::{EnvironmentInfo, Environments},
        log::SnapshotLog,
        progress::DeliveryProgress,
        shared::SharedState,
    },
};

/// How long the first cursors are waited for: an API server that does not take them must not stop the log for ever.
const CURSORS: Duration = Duration::from_secs(10);
/// At most this many statuses are written at once. A thousand settings that hear of one change must not crowd out all
/// other writes; while they queue, each acknowledges more with one write.
const STATUS_WRITES: usize = 8;

/// What delivery works with.
pub(crate) struct Context {
    pub client: Client,
    /// The monotonic clock.
    pub clock: Arc<SharedState>,
    pub log: SnapshotLog,
    pub environments: Arc<Environments>,
    pub sender: HttpSender,
    pub installation: Arc<Installation>,
    pub metrics: Arc<Metrics>,
    /// Records Kubernetes Events.
    pub events: Events,
    pub rbac_hints: RbacHints,
    /// How far every setting has got, for pruning.
    pub progress: Arc<DeliveryProgress>,
    /// Ends sending: what is on its way is finished first.
    pub stop: CancellationToken,
    pub status_writes: Semaphore,
}

impl Context {
    /// How many statuses may be written at once, for [`Context::status_writes`].
    pub fn status_writes() -> Semaphore {
        Semaphore::new(STATUS_WRITES)
    }
}

/// The progress of one setting: it counts as long as this lives.
#[derive(Debug)]
pub(crate) struct ProgressEntry {
    progress: Arc<DeliveryProgress>,
    setting: String,
}

impl ProgressEntry {
    pub fn new(progress: Arc<DeliveryProgress>, setting_uid: &str) -> Self {
        Self {
            progress,
            setting: setting_uid.to_owned(),
        }
    }

    pub fn put(&self, cursors: Vec<Cursor>) {
        self.progress.put(&self.setting, cursors);
    }
}

impl Drop for ProgressEntry {
    fn drop(&mut self) {
        self.progress.remove(&self.setting);
    }
}

/// A setting that is being worked for.
struct Worker {
    mailbox: Arc<Mailbox>,
    /// The environments that its spec names; `None`: all.
    environments: Option<BTreeSet<String>>,
    stop: CancellationToken,
}

/// The workers, by the UID of their setting.
struct Workers {
    context: Arc<Context>,
    tasks: TaskTracker,
    workers: BTreeMap<String, Worker>,
    /// Which workers want to hear of an environment by its name.
    by_environment: BTreeMap<String, BTreeSet<String>>,
    /// Which want to hear of all.
    of_all: BTreeSet<String>,
    /// The environments as the workers know them.
    known: Arc<BTreeMap<String, EnvironmentInfo>>,
}

/// Follows the settings until the program stops, and what is on its way then is done. `cursors_ready` is set when those
/// that exist at start have their cursors.
pub(crate) async fn run(context: Context, cursors_ready: watch::Sender<bool>) {
    let context = Arc::new(context);
    let cursors_ready = Arc::new(cursors_ready);
    let mut eras = context.environments.eras();
    let heads = tokio::spawn(heads::find(
        context.environments.clone(),
        context.log.clone(),
    ));
    let mut workers = Workers::new(context.clone());
    loop {
        tokio::select! {
            () = workers.follow(&cursors_ready) => break,
            () = context.stop.cancelled() => break,
            _ = eras.changed() => {}
        }
        // The statuses were set back with the rest: they tell how far each setting has got.
        workers.end().await;
        context.progress.set_complete(false);
        cursors_ready.send_replace(false);
    }
    workers.tasks.close();
    workers.tasks.wait().await;
    heads.abort();
}

impl Workers {
    fn new(context: Arc<Context>) -> Self {
        Self {
            known: context.environments.all(),
            context,
            tasks: TaskTracker::new(),
            workers: BTreeMap::new(),
            by_environment: BTreeMap::new(),
            of_all: BTreeSet::new(),
        }
    }

    /// Ends all workers at once.
    async fn end(&mut self) {
        for worker in self.workers.values() {
            worker.stop.cancel();
        }
        self.workers.clear();
        self.by_environment.clear();
        self.of_all.clear();
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn follow(&mut self, cursors_ready: &Arc<watch::Sender<bool>>) {
        let environments = self.context.environments.clone();
        environments.wait_listed().await;
        let mut changes = environments.subscribe();
        changes.mark_changed();
        let api: Api<DeserializeGuard<NotificationSetting>> = Api::all(self.context.client.clone());
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(stream);
        let mut listed: Option<BTreeSet<String>> = None;
        let (settled, all_settled) = mpsc::channel::<()>(1);
        let mut first = Some((settled, all_settled));
        loop {
            let event = tokio::select! {
                event = stream.try_next() => event,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.environments_changed(environments.all());
                    continue;
                }
            };
            match event {
                Ok(None) => return,
                Err(error) => warn!(%error, "can't follow the settings; trying again"),
                Ok(Some(watcher::Event::Init)) => listed = Some(BTreeSet::new()),
                Ok(Some(watcher::Event::InitApply(guarded))) => {
                    if let Some(listed) = &mut listed {
                        listed.extend(guarded.uid());
                    }
                    let settled = first.as_ref().map(|(settled, ..)| settled.clone());
                    self.setting_seen(guarded, settled);
                }
                Ok(Some(watcher::Event::Apply(guarded))) => self.setting_seen(guarded, None),
                Ok(Some(watcher::Event::Delete(guarded))) => {
                    if let Some(uid) = guarded.uid() {
                        self.setting_gone(&uid);
                    }
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    let there = listed.take().unwrap_or_default();
                    let uids = self.workers.keys().cloned();
                    let gone: Vec<_> = uids.filter(|uid| !there.contains(uid)).collect();
                    for uid in gone {
                        self.setting_gone(&uid);
                    }
                    if let Some((settled, all_settled)) = first.take() {
                        drop(settled);
                        self.wait_for_cursors(all_settled, cursors_ready.clone());
                    }
                }
            }
        }
    }

    /// Lets the log go on when each setting has dropped its end: its cursors stand in its status.
    fn wait_for_cursors(
        &self,
        mut all_settled: mpsc::Receiver<()>,
        cursors_ready: Arc<watch::Sender<bool>>,
    ) {
        let progress = self.context.progress.clone();
        tokio::spawn(async move {
            let _ = timeout(CURSORS, all_settled.recv()).await;
            cursors_ready.send_replace(true);
            progress.set_complete(true);
        });
    }

    fn setting_seen(
        &mut self,
        guarded: DeserializeGuard<NotificationSetting>,
        settled: Option<mpsc::Sender<()>>,
    ) {
        let namespace = guarded.namespace().unwrap_or_default();
        let name = guarded.name_any();
        let setting = match guarded.0 {
            Ok(setting) => Arc::new(setting),
            Err(invalid) => {
                let error = invalid.error;
                warn!(setting = %format_args!("{namespace}/{name}"), error, "the setting can't be read; its last good state is kept");
                return;
            }
        };
        let Some(uid) = setting.uid() else { return };
        self.index(&uid, &setting);
        if let Some(worker) = self.workers.get_mut(&uid) {
            worker.mailbox.setting(setting);
            return;
        }
        let mailbox = Arc::new(Mailbox::default());
        let stop = CancellationToken::new();
        let worker = SettingWorker::new(
            self.context.clone(),
            mailbox.clone(),
            setting.clone(),
            settled,
        );
        self.workers.insert(
            uid,
            Worker {
                mailbox,
                environments: names(&setting),
                stop: stop.clone(),
            },
        );
        self.tasks.spawn(async move {
            tokio::select! {
                () = worker.run() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Notes which environments a setting wants to hear of.
    fn index(&mut self, uid: &str, setting: &NotificationSetting) {
        let names = names(setting);
        if let Some(worker) = self.workers.get_mut(uid) {
            if worker.environments == names {
                return;
            }
            worker.environments.clone_from(&names);
        }
        self.unindex(uid);
        match names {
            None => {
                self.of_all.insert(uid.to_owned());
            }
            Some(names) => {
                for name in names {
                    let workers = self.by_environment.entry(name).or_default();
                    workers.insert(uid.to_owned());
                }
            }
        }
    }

    fn unindex(&mut self, uid: &str) {
        self.of_all.remove(uid);
        self.by_environment.retain(|_, workers| {
            workers.remove(uid);
            !workers.is_empty()
        });
    }

    fn setting_gone(&mut self, uid: &str) {
        if let Some(worker) = self.workers.remove(uid) {
            worker.stop.cancel();
            self.unindex(uid);
        }
    }

    /// Tells the workers what is new: those who ask for a log that has grown, or all of them if an environment came, went
    /// or was edited.
    fn environments_changed(&mut self, now: Arc<BTreeMap<String, EnvironmentInfo>>) {
        let before = std::mem::replace(&mut self.known, now.clone());
        let same = |(a, b): (&EnvironmentInfo, &EnvironmentInfo)| {
            (&a.uid, a.generation, &a.visible_to) == (&b.uid, b.generation, &b.visible_to)
        };
        let same_set = before.len() == now.len()
            && before.keys().eq(now.keys())
            && before.values().zip(now.values()).all(same);
        if !same_set {
            for worker in self.workers.values() {
                worker.mailbox.environments(now.clone());
            }
            return;
        }
        for ((name, info), old) in now.iter().zip(before.values()) {
            let Some((head, _)) = info.head.filter(|_| info.head != old.head) else {
                continue;
            };
            let by_name = self.by_environment.get(name).into_iter().flatten();
            for uid in by_name.chain(&self.of_all) {
                if let Some(worker) = self.workers.get(uid) {
                    worker.mailbox.head(name, &info.uid, head);
                }
            }
        }
    }
}

/// The environments that a setting names; `None`: it asks for all.
fn names(setting: &NotificationSetting) -> Option<BTreeSet<String>> {
    let names = setting.spec.environments.as_ref()?;
    Some(names.iter().cloned().collect())
}
