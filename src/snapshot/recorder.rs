//! Follows the environments in the API server (through `custom_resource_watch`), and runs one task for each that keeps its
//! log. In a process that does not lead, the task reads the log that the leader writes.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    api::{Environment, environment::EnvironmentId},
    cluster::{custom_resource_watch::Follower, kubernetes_events::reference, pod_view::Meta},
    panics::{ContainedTasks, PanicScope},
    snapshot::{
        environment_recorder::{EnvironmentRecorder, ShownStatus},
        environment_status,
        environments::{EnvironmentInfo, Head},
        recorder_context::RecorderContext,
        state::ClusterState,
    },
};

/// The task of one environment.
struct TaskHandle {
    stop: CancellationToken,
    uid: String,
    /// The status as the watch shows it.
    shown: watch::Sender<ShownStatus>,
}

/// Why the environments are followed anew.
enum Restart {
    /// The cluster's store was set back.
    SetBack,
    /// This process leads now, or does not lead any more.
    Leadership,
}

/// Follows the environments, and keeps the log of each while this process leads, until it is stopped.
pub async fn run(context: RecorderContext) {
    let mut set_backs = context.shared.set_backs();
    let tasks = ContainedTasks::new(PanicScope::Environment, context.metrics.clone());
    let mut led = false;
    loop {
        let leads = context.leadership.leads();
        if leads && !led {
            context.shared.with(ClusterState::begins_to_lead);
        }
        led = leads;
        let mut recorder = Recorder {
            context: &context,
            leads,
            running: BTreeMap::new(),
            tasks: &tasks,
        };
        let restart = tokio::select! {
            () = context.follow().follow(&mut recorder) => None,
            () = context.stop.cancelled() => None,
            _ = set_backs.changed() => Some(Restart::SetBack),
            () = context.leadership.changed(leads) => Some(Restart::Leadership),
        };
        for task in recorder.running.into_values() {
            task.stop.cancel();
        }
        let Some(restart) = restart else {
            return;
        };
        // No result from before may count afterwards.
        tasks.ended().await;
        match restart {
            Restart::SetBack => {
                context.shared.with(|state, _| state.forget_logs());
                context.log.forget();
                context.environments.set_back();
            }
            // What was being appended may be in the log.
            Restart::Leadership => {
                led = false;
                context.shared.with(|state, _| state.logs_are_stale());
                context.log.forget();
            }
        }
    }
}

/// The tasks of all environments.
struct Recorder<'a> {
    context: &'a RecorderContext,
    /// Whether this process leads.
    leads: bool,
    running: BTreeMap<String, TaskHandle>,
    tasks: &'a ContainedTasks,
}

impl Follower<Environment> for Recorder<'_> {
    type Key = String;

    fn key(meta: &Meta) -> String {
        meta.name.clone()
    }

    fn apply(&mut self, environment: Environment, _: bool) -> Result<(), String> {
        let context = self.context;
        let Some(uid) = environment.uid() else {
            return Ok(());
        };
        let id = EnvironmentId::new(environment.name_any(), uid);
        let visible_to = environment.spec.visible_to.clone();
        let info = EnvironmentInfo {
            uid: id.uid.clone(),
            generation: environment.metadata.generation.unwrap_or(1),
            created: environment.creation_timestamp().map(|time| time.0),
            visible_to: visible_to.unwrap_or_else(|| vec![context.namespace.clone()]),
            head: Head::default(),
        };
        context.environments.put(&id.name, info);
        context
            .shared
            .with(|state, now| state.environment_seen(&id, &environment.spec, now));
        let shown = ShownStatus::of(&environment);
        if !self.leads {
            let problems = environment_status::problems(&shown.status);
            context
                .shared
                .with(|state, _| state.problems_reported(&id, problems));
        }
        let known = self.running.get(&id.name);
        if let Some(task) = known.filter(|task| task.uid == id.uid) {
            task.shown.send_replace(shown);
            context.shared.changed(&id.name).notify_one();
            return Ok(());
        }
        let stop = context.stop.child_token();
        let shown = watch::Sender::new(shown);
        let shows = shown.subscribe();
        let handle = TaskHandle {
            stop: stop.clone(),
            uid: id.uid.clone(),
            shown,
        };
        if let Some(old) = self.running.insert(id.name.clone(), handle) {
            old.stop.cancel();
        }
        let name = id.name.clone();
        let about = reference::<Environment>("", &id.name, id.uid.clone());
        let events = context.events.clone();
        let context = context.clone();
        let leads = self.leads;
        let record = move || {
            let recorder =
                EnvironmentRecorder::new(&context, id.clone(), &environment, shows.clone());
            async move {
                match leads {
                    true => recorder.run().await,
                    false => recorder.stand_by().await,
                }
            }
        };
        let panicked = move || events.panicked(about.clone());
        self.tasks.spawn(name, stop, record, panicked);
        Ok(())
    }

    fn delete(&mut self, name: &String) {
        let context = self.context;
        let Some(known) = context.environments.get(name) else {
            return;
        };
        info!(
            environment = name,
            "the environment is deleted; its log is removed when no setting waits for it"
        );
        if let Some(task) = self.running.remove(name) {
            task.stop.cancel();
        }
        let environment = known.id(name);
        context
            .shared
            .with(|state, _| state.environment_gone(&environment));
        context.environments.remove(name);
        context.metrics.environment_gone(name);
    }

    fn listed(&mut self, present: &BTreeSet<String>) {
        let all = self.context.environments.all();
        for name in all.keys().filter(|name| !present.contains(*name)) {
            self.delete(name);
        }
        self.context.environments.set_listed();
    }
}
