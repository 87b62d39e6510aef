//! Follows the environments in the API server (through `custom_resource_watch`), and runs one task for each that keeps its
//! log.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    api::{Environment, environment::EnvironmentId},
    cluster::{custom_resource_watch::Follower, kubernetes_events::reference, pod_view::Meta},
    panics::{ContainedTasks, PanicScope},
    snapshot::{
        environment_recorder::EnvironmentRecorder,
        environments::{EnvironmentInfo, Head},
        recorder_context::RecorderContext,
    },
};

/// The task of one environment.
struct TaskHandle {
    stop: CancellationToken,
    uid: String,
}

/// Follows the environments, and keeps the log of each, until it is stopped.
pub async fn run(context: RecorderContext) {
    let mut set_backs = context.shared.set_backs();
    let tasks = ContainedTasks::new(PanicScope::Environment, context.metrics.clone());
    loop {
        let mut recorder = Recorder {
            context: &context,
            running: BTreeMap::new(),
            tasks: &tasks,
        };
        let stopped = tokio::select! {
            () = context.follow().follow(&mut recorder) => true,
            () = context.stop.cancelled() => true,
            _ = set_backs.changed() => false,
        };
        for task in recorder.running.into_values() {
            task.stop.cancel();
        }
        if stopped {
            return;
        }
        // No result from before the store was set back may count afterwards.
        tasks.ended().await;
        context.shared.with(|state, _| state.forget_logs());
        context.log.forget();
        context.environments.set_back();
    }
}

/// The tasks of all environments.
struct Recorder<'a> {
    context: &'a RecorderContext,
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
        let known = self.running.get(&id.name);
        if known.is_some_and(|task| task.uid == id.uid) {
            context.shared.changed(&id.name).notify_one();
            return Ok(());
        }
        let stop = context.stop.child_token();
        let handle = TaskHandle {
            stop: stop.clone(),
            uid: id.uid.clone(),
        };
        if let Some(old) = self.running.insert(id.name.clone(), handle) {
            old.stop.cancel();
        }
        let name = id.name.clone();
        let about = reference::<Environment>("", &id.name, id.uid.clone());
        let events = context.events.clone();
        let context = context.clone();
        let record = move || EnvironmentRecorder::new(&context, id.clone(), &environment).run();
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
