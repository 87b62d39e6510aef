#![expect(clippy::disallowed_methods, reason = "talks to the API server")]

//! Follows the settings and gives each a worker of its own, so that none waits for another; tells each what changes in the
//! environments that it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    api::NotificationSetting,
    cluster::{
        custom_resource_watch::Follower,
        kubernetes_events::reference,
        pod_view::{self, Meta},
    },
    delivery::{context::Context, log_heads, mailbox::Mailbox, setting_worker::SettingWorker},
    panics::{ContainedTasks, PanicScope},
    snapshot::environments::{EnvironmentInfo, Environments},
};

/// How long the first cursors are waited for: an API server that does not take them must not stop the log for ever.
const CURSORS: Duration = Duration::from_secs(10);

/// A setting that is being worked for.
struct Worker {
    mailbox: Arc<Mailbox>,
    /// As it is indexed.
    setting: Arc<NotificationSetting>,
    stop: CancellationToken,
}

/// The workers by the UID of their setting, and who wants to hear of what.
#[derive(Default)]
struct Directory {
    workers: BTreeMap<Arc<str>, Worker>,
    /// Who names an environment, for those that there are: names that are nobody's take no room.
    by_environment: BTreeMap<String, BTreeSet<Arc<str>>>,
    of_all: BTreeSet<Arc<str>>,
    /// The environments as the workers know them.
    known: Arc<BTreeMap<String, EnvironmentInfo>>,
    /// Where the log of each of them ended when the workers were told, in the same order.
    heads: Vec<Option<(i64, Timestamp)>>,
}

/// Follows the settings until the program stops, and what is on its way then is done. They have workers only while this process
/// leads. `cursors_ready` is set when those that exist when it begins to lead have their cursors.
pub(crate) async fn run(context: Context, cursors_ready: watch::Sender<bool>) {
    let context = Arc::new(context);
    let cursors_ready = Arc::new(cursors_ready);
    let environments = context.environments.clone();
    let mut set_backs = environments.set_backs();
    let (search, metrics) = (CancellationToken::new(), &context.metrics);
    let find = {
        let (environments, log) = (environments.clone(), context.log.clone());
        move || log_heads::find(environments.clone(), log.clone())
    };
    ContainedTasks::new(PanicScope::LogHeads, metrics.clone()).spawn(
        String::new(),
        search.clone(),
        find,
        || {},
    );
    let tasks = ContainedTasks::new(PanicScope::Setting, metrics.clone());
    let directory = loop {
        environments.wait_listed().await;
        let leads = context.leadership.leads();
        let directory = Arc::new(Mutex::new(Directory::of(environments.all())));
        let mut settings = Settings {
            context: context.clone(),
            directory: directory.clone(),
            tasks: tasks.clone(),
            cursors_ready: cursors_ready.clone(),
            leads,
            first: leads.then(|| mpsc::channel(1)),
            waits: None,
        };
        tokio::select! {
            () = context.follow().follow(&mut settings) => break directory,
            () = follow_environments(&environments, &directory) => break directory,
            () = context.stop.cancelled() => break directory,
            _ = set_backs.changed() => {}
            () = context.leadership.changed(leads) => {}
        }
        drop(settings);
        // The statuses, which tell how far each setting has got, were set back with the rest, or another process writes them.
        for worker in directory.lock().workers.values() {
            worker.stop.cancel();
        }
        tasks.ended().await;
        context.progress.set_complete(false);
        cursors_ready.send_replace(false);
    };
    tokio::select! {
        () = tasks.ended() => {}
        // They have not ended in time, and another replica is about to send.
        () = context.leadership.changed(true) => {
            for worker in directory.lock().workers.values() {
                worker.stop.cancel();
            }
        }
    }
    search.cancel();
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
    tasks: ContainedTasks,
    cursors_ready: Arc<watch::Sender<bool>>,
    /// Whether this process leads. If not, the settings are only read, to be ready for it.
    leads: bool,
    /// Held by each setting of the first list until its cursors are written; and what then ends.
    first: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
    /// Waits for that. What it waits for says nothing of a later term.
    waits: Option<AbortOnDropHandle<()>>,
}

impl Follower<NotificationSetting> for Settings {
    type Key = u128;

    fn key(meta: &Meta) -> u128 {
        meta.uid
    }

    fn apply(&mut self, setting: NotificationSetting, listing: bool) -> Result<(), String> {
        let Some(uid) = setting.uid().filter(|_| self.leads) else {
            return Ok(());
        };
        let setting = Arc::new(setting);
        let mut directory = self.directory.lock();
        if let Some(mailbox) = directory.edit(&uid, &setting) {
            mailbox.setting(setting);
            return Ok(());
        }
        let settled = self.first.as_ref().filter(|_| listing);
        let settled = settled.map(|(settled, _)| settled.clone());
        let mailbox = Arc::new(Mailbox::default());
        let stop = CancellationToken::new();
        let worker = Worker {
            mailbox: mailbox.clone(),
            setting: setting.clone(),
            stop: stop.clone(),
        };
        directory.add(&uid, worker);
        let (namespace, name) = (setting.namespace().unwrap_or_default(), setting.name_any());
        let about = reference::<NotificationSetting>(&namespace, &name, uid.clone());
        let events = self.context.events.clone();
        let (context, newest) = (self.context.clone(), self.directory.clone());
        let mut settled = settled;
        let work = move || {
            // After a panic it begins with the setting as it is then.
            let setting = newest
                .lock()
                .setting(&uid)
                .unwrap_or_else(|| setting.clone());
            let settled = settled.take();
            let worker = SettingWorker::new(context.clone(), mailbox.clone(), setting, settled);
            Box::new(worker).run() // its task would hold it several times
        };
        let panicked = move || events.panicked(about.clone());
        let title = format!("{namespace}/{name}");
        self.tasks.spawn(title, stop, work, panicked);
        Ok(())
    }

    fn delete(&mut self, uid: &u128) {
        self.directory.lock().stop_where(|known| known == *uid);
    }

    fn listed(&mut self, present: &BTreeSet<u128>) {
        let mut directory = self.directory.lock();
        directory.stop_where(|known| !present.contains(&known));
        drop(directory);
        if let Some((settled, mut all_settled)) = self.first.take() {
            drop(settled);
            let progress = self.context.progress.clone();
            let cursors_ready = self.cursors_ready.clone();
            let waits = tokio::spawn(async move {
                // Each setting drops its end when its cursors stand in its status.
                let _ = timeout(CURSORS, all_settled.recv()).await;
                cursors_ready.send_replace(true);
                progress.set_complete(true);
            });
            self.waits = Some(AbortOnDropHandle::new(waits));
        }
    }
}

impl Directory {
    fn of(environments: Arc<BTreeMap<String, EnvironmentInfo>>) -> Self {
        Self {
            heads: heads(&environments),
            known: environments,
            ..Self::default()
        }
    }

    fn add(&mut self, uid: &str, worker: Worker) {
        let uid = Arc::<str>::from(uid);
        self.index(&uid, &worker.setting);
        self.workers.insert(uid, worker);
    }

    /// Takes in another version of a setting. The mailbox of its worker, if there is one.
    fn edit(&mut self, uid: &str, setting: &Arc<NotificationSetting>) -> Option<Arc<Mailbox>> {
        let (uid, _) = self.workers.get_key_value(uid)?;
        let uid = uid.clone();
        let worker = self.workers.get_mut(&uid)?;
        let mailbox = worker.mailbox.clone();
        let before = std::mem::replace(&mut worker.setting, setting.clone());
        if before.spec.environments != setting.spec.environments {
            self.unindex(&uid, &before);
            self.index(&uid, setting);
        }
        Some(mailbox)
    }

    /// Stops the workers of settings with such a UID, as a number.
    fn stop_where(&mut self, is_gone: impl Fn(u128) -> bool) {
        let known = self.workers.keys();
        let gone: Vec<_> = known
            .filter(|uid| is_gone(pod_view::uid(uid)))
            .cloned()
            .collect();
        for uid in gone {
            if let Some(worker) = self.remove(&uid) {
                worker.stop.cancel();
            }
        }
    }

    fn setting(&self, uid: &str) -> Option<Arc<NotificationSetting>> {
        Some(self.workers.get(uid)?.setting.clone())
    }

    fn remove(&mut self, uid: &str) -> Option<Worker> {
        let worker = self.workers.remove(uid)?;
        self.unindex(uid, &worker.setting);
        Some(worker)
    }

    /// Notes which environments a setting wants to hear of.
    fn index(&mut self, uid: &Arc<str>, setting: &NotificationSetting) {
        let Some(names) = &setting.spec.environments else {
            self.of_all.insert(uid.clone());
            return;
        };
        for name in names.iter().filter(|name| self.known.contains_key(*name)) {
            let workers = self.by_environment.entry(name.clone()).or_default();
            workers.insert(uid.clone());
        }
    }

    fn unindex(&mut self, uid: &str, setting: &NotificationSetting) {
        let Some(names) = &setting.spec.environments else {
            self.of_all.remove(uid);
            return;
        };
        for name in names {
            if let Some(workers) = self.by_environment.get_mut(name) {
                workers.remove(uid);
                if workers.is_empty() {
                    self.by_environment.remove(name);
                }
            }
        }
    }

    /// Brings the index up to date when environments came or went.
    fn reindex(&mut self, before: &BTreeMap<String, EnvironmentInfo>) {
        let known = self.known.clone();
        self.by_environment
            .retain(|name, _| known.contains_key(name));
        let came = known.keys().filter(|name| !before.contains_key(*name));
        let came: BTreeSet<_> = came.collect();
        for (uid, worker) in &self.workers {
            let names = worker.setting.spec.environments.iter().flatten();
            for name in names.filter(|name| came.contains(name)) {
                let workers = self.by_environment.entry(name.clone()).or_default();
                workers.insert(uid.clone());
            }
        }
    }

    /// Tells the workers what is new: those who ask for a log that has grown, or all of them if an environment came, went
    /// or was edited.
    fn environments_changed(&mut self, now: &Arc<BTreeMap<String, EnvironmentInfo>>) {
        let before = std::mem::replace(&mut self.known, now.clone());
        let heads_before = std::mem::replace(&mut self.heads, heads(now));
        let same_names = before.keys().eq(now.keys());
        if !same_names {
            self.reindex(&before);
        }
        if !same_names || !before.values().zip(now.values()).all(|(a, b)| a.is_same(b)) {
            for worker in self.workers.values() {
                worker.mailbox.environments(now.clone());
            }
            return;
        }
        for ((name, head), before) in now.keys().zip(&self.heads).zip(&heads_before) {
            if head.is_none() || head == before {
                continue;
            }
            let by_name = self.by_environment.get(name).into_iter().flatten();
            for uid in by_name.chain(&self.of_all) {
                if let Some(worker) = self.workers.get(uid) {
                    worker.mailbox.log_grew(name);
                }
            }
        }
    }
}

fn heads(environments: &BTreeMap<String, EnvironmentInfo>) -> Vec<Option<(i64, Timestamp)>> {
    environments.values().map(|info| info.head.get()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use kube::api::ObjectMeta;

    use super::*;
    use crate::{
        api::{NotificationSettingSpec, environment::EnvironmentId, notification_setting::Webhook},
        delivery::setting_state::{Now, SettingState},
        message::installation::Installation,
        snapshot::environments::Head,
        time::Moment,
    };

    const NOW: Now = Now {
        moment: Moment::from_secs(1_000),
        wall: Timestamp::UNIX_EPOCH,
    };

    fn setting(uid: &str, environments: &[String]) -> Arc<NotificationSetting> {
        Arc::new(NotificationSetting {
            metadata: ObjectMeta {
                namespace: Some("team".to_owned()),
                name: Some(uid.to_owned()),
                uid: Some(uid.to_owned()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: NotificationSettingSpec {
                webhook: Some(Webhook::default()),
                environments: Some(environments.to_vec()),
                ..NotificationSettingSpec::default()
            },
            status: None,
        })
    }

    /// Environments of these names, each with its name as UID.
    fn create(environments: &Environments, names: &[String]) {
        for name in names {
            let info = EnvironmentInfo {
                uid: name.clone(),
                generation: 1,
                created: None,
                visible_to: vec!["*".to_owned()],
                head: Head::default(),
            };
            environments.put(name, info);
        }
    }

    fn grow(environments: &Environments, name: &str) {
        let id = EnvironmentId::new(name, name);
        environments.set_head(&id, (1, Timestamp::UNIX_EPOCH));
    }

    /// Adds a setting, or edits it.
    fn put(directory: &mut Directory, setting: &Arc<NotificationSetting>) -> Arc<Mailbox> {
        let uid = setting.uid().unwrap();
        directory.edit(&uid, setting).unwrap_or_else(|| {
            let worker = Worker {
                mailbox: Arc::default(),
                setting: setting.clone(),
                stop: CancellationToken::new(),
            };
            let mailbox = worker.mailbox.clone();
            directory.add(&uid, worker);
            mailbox
        })
    }

    fn numbered(prefix: &str, count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("{prefix}{number}"))
            .collect()
    }

    #[test]
    fn settings_that_hear_of_different_logs_hold_one_and_the_same_map_of_environments() {
        let environments = Environments::default();
        let all = numbered("e", 300);
        create(&environments, &all);
        let mut directory = Directory::default();
        directory.environments_changed(&environments.all());
        let installation = Arc::new(Installation {
            org: "org".to_owned(),
            cluster: "cluster".to_owned(),
            external_url: None,
        });
        let settings = all.iter().map(|name| {
            let setting = setting(&format!("of-{name}"), std::slice::from_ref(name));
            let mailbox = put(&mut directory, &setting);
            let (state, _) =
                SettingState::new(setting, environments.all(), installation.clone(), NOW);
            (mailbox, state)
        });
        let mut settings: Vec<_> = settings.collect();
        let mut maps: Vec<Weak<_>> = vec![Arc::downgrade(&environments.all())];
        let mut told = 0;
        for name in &all {
            grow(&environments, name);
            directory.environments_changed(&environments.all());
            maps.push(Arc::downgrade(&environments.all()));
            for (mailbox, state) in &mut settings {
                for input in mailbox.take() {
                    told += 1;
                    state.step(input, NOW);
                }
            }
        }
        assert_eq!(told, 300, "each hears of its own log and of no other");
        let live = maps.iter().filter(|map| map.strong_count() > 0);
        let live: BTreeSet<_> = live.map(Weak::as_ptr).collect();
        assert_eq!(live.len(), 1, "copies of the map");
    }

    #[test]
    fn names_that_no_environment_has_take_no_room_and_are_heard_of_when_one_has_them() {
        let environments = Environments::default();
        let mut directory = Directory::default();
        let invented = numbered("invented", 256);
        let mailboxes: Vec<_> = numbered("s", 100)
            .iter()
            .map(|uid| put(&mut directory, &setting(uid, &invented)))
            .collect();
        assert_eq!(directory.by_environment.len(), 0);
        create(&environments, &invented[7..8]);
        directory.environments_changed(&environments.all());
        assert_eq!(directory.by_environment.len(), 1);
        for mailbox in &mailboxes {
            assert_eq!(mailbox.take().len(), 1, "a new environment");
        }
        grow(&environments, &invented[7]);
        directory.environments_changed(&environments.all());
        for mailbox in &mailboxes {
            assert_eq!(mailbox.take().len(), 1, "its log has grown");
        }
        environments.remove(&invented[7]);
        directory.environments_changed(&environments.all());
        assert_eq!(directory.by_environment.len(), 0);
    }

    #[test]
    fn an_edit_looks_only_at_the_names_of_the_setting_itself() {
        let environments = Environments::default();
        let all = numbered("e", 4);
        create(&environments, &all);
        let mut directory = Directory::default();
        directory.environments_changed(&environments.all());
        put(&mut directory, &setting("a", &all[..2]));
        put(&mut directory, &setting("b", &all));
        // An entry that is not among its names is left alone, because it is not looked at.
        let others = directory.by_environment.get_mut("e3").unwrap();
        others.insert("a".into());
        put(&mut directory, &setting("a", &all[1..3]));
        let of = |name: &str| {
            let uids = directory.by_environment[name].iter();
            uids.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("e0"), ["b"]);
        assert_eq!((of("e1"), of("e2"), of("e3")), (both(), both(), both()));
        directory.remove("b");
        assert!(!directory.by_environment.contains_key("e0"));
    }

    fn both() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }
}
