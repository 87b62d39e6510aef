#![expect(clippy::disallowed_methods, reason = "talks to the API server")]

//! Follows the settings and gives each a worker of its own, so that none waits for another; tells each what changes in the
//! environments that it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{ResourceExt as _, api::ObjectMeta};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::NotificationSetting,
    cluster::custom_resource_watch::{self, Follower},
    delivery::{context::Context, log_heads, mailbox::Mailbox, setting_worker::SettingWorker},
    snapshot::environments::{EnvironmentInfo, Environments},
};

/// How long the first cursors are waited for: an API server that does not take them must not stop the log for ever.
const CURSORS: Duration = Duration::from_secs(10);
/// A setting that is being worked for.
struct Worker {
    mailbox: Arc<Mailbox>,
    /// The environments that its spec names; `None`: all.
    environments: Option<BTreeSet<String>>,
    stop: CancellationToken,
}

/// The workers by the UID of their setting, and who wants to hear of what.
#[derive(Default)]
struct Directory {
    workers: BTreeMap<String, Worker>,
    by_environment: BTreeMap<String, BTreeSet<String>>,
    of_all: BTreeSet<String>,
    /// The environments as the workers know them.
    known: Arc<BTreeMap<String, EnvironmentInfo>>,
}

/// Follows the settings until the program stops, and what is on its way then is done. `cursors_ready` is set when those
/// that exist at start have their cursors.
pub(crate) async fn run(context: Context, cursors_ready: watch::Sender<bool>) {
    let context = Arc::new(context);
    let cursors_ready = Arc::new(cursors_ready);
    let environments = context.environments.clone();
    let mut set_backs = environments.set_backs();
    let heads = tokio::spawn(log_heads::find(environments.clone(), context.log.clone()));
    let tasks = TaskTracker::new();
    loop {
        environments.wait_listed().await;
        let directory = Arc::new(Mutex::new(Directory {
            known: environments.all(),
            ..Directory::default()
        }));
        let mut settings = Settings {
            context: context.clone(),
            directory: directory.clone(),
            tasks: tasks.clone(),
            cursors_ready: cursors_ready.clone(),
            first: Some(mpsc::channel(1)),
        };
        tokio::select! {
            () = custom_resource_watch::follow(context.client.clone(), &mut settings) => break,
            () = follow_environments(&environments, &directory) => break,
            () = context.stop.cancelled() => break,
            _ = set_backs.changed() => {}
        }
        // The statuses were set back with the rest: they tell how far each setting has got.
        for worker in directory.lock().workers.values() {
            worker.stop.cancel();
        }
        tasks.close();
        tasks.wait().await;
        tasks.reopen();
        context.progress.set_complete(false);
        cursors_ready.send_replace(false);
    }
    tasks.close();
    tasks.wait().await;
    heads.abort();
}

/// Tells the workers what changes in the environments, for ever.
async fn follow_environments(environments: &Environments, directory: &Mutex<Directory>) {
    let mut changes = environments.subscribe();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        directory.lock().environments_changed(&environments.all());
    }
}

/// Gives each setting its worker.
struct Settings {
    context: Arc<Context>,
    directory: Arc<Mutex<Directory>>,
    tasks: TaskTracker,
    cursors_ready: Arc<watch::Sender<bool>>,
    /// Held by each setting of the first list until its cursors are written; and what then ends.
    first: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl Follower<NotificationSetting> for Settings {
    type Key = String;

    fn key(metadata: &ObjectMeta) -> Option<String> {
        metadata.uid.clone()
    }

    fn apply(&mut self, setting: NotificationSetting, listing: bool) {
        let Some(uid) = setting.uid() else { return };
        let setting = Arc::new(setting);
        let mut directory = self.directory.lock();
        directory.index(&uid, &setting);
        if let Some(worker) = directory.workers.get(&uid) {
            worker.mailbox.setting(setting);
            return;
        }
        let settled = self.first.as_ref().filter(|_| listing);
        let settled = settled.map(|(settled, _)| settled.clone());
        let mailbox = Arc::new(Mailbox::default());
        let stop = CancellationToken::new();
        let worker = Worker {
            mailbox: mailbox.clone(),
            environments: names(&setting),
            stop: stop.clone(),
        };
        directory.workers.insert(uid, worker);
        let worker = SettingWorker::new(self.context.clone(), mailbox, setting, settled);
        self.tasks.spawn(async move {
            tokio::select! {
                () = worker.run() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn delete(&mut self, uid: &String) {
        let mut directory = self.directory.lock();
        if let Some(worker) = directory.workers.remove(uid) {
            worker.stop.cancel();
            directory.unindex(uid);
        }
    }

    fn listed(&mut self, present: &BTreeSet<String>) {
        let gone: Vec<_> = {
            let directory = self.directory.lock();
            let known = directory.workers.keys().cloned();
            known.filter(|uid| !present.contains(uid)).collect()
        };
        for uid in gone {
            self.delete(&uid);
        }
        if let Some((settled, mut all_settled)) = self.first.take() {
            drop(settled);
            let progress = self.context.progress.clone();
            let cursors_ready = self.cursors_ready.clone();
            tokio::spawn(async move {
                // Each setting drops its end when its cursors stand in its status.
                let _ = timeout(CURSORS, all_settled.recv()).await;
                cursors_ready.send_replace(true);
                progress.set_complete(true);
            });
        }
    }
}

impl Directory {
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

    /// Tells the workers what is new: those who ask for a log that has grown, or all of them if an environment came, went
    /// or was edited.
    fn environments_changed(&mut self, now: &Arc<BTreeMap<String, EnvironmentInfo>>) {
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
            if info.head.is_none() || info.head == old.head {
                continue;
            }
            let by_name = self.by_environment.get(name).into_iter().flatten();
            for uid in by_name.chain(&self.of_all) {
                if let Some(worker) = self.workers.get(uid) {
                    worker.mailbox.log_grew(name, now.clone());
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
