//! Applies the objects of the cluster that are watched, and notes which environments they concern.

use std::sync::Arc;

use crate::{
    cluster::{
        fleet::{Fleet, Pod, PodChange, Workload},
        pod_view::{Decoded, DeploymentView, Meta, NamespaceView, PodView, SlimView as _},
        scope::Labels,
        watch::WatchedKind,
        watch_progress::{LAST_STATE, WatchKind},
    },
    snapshot::state::{ClusterState, KnownLog},
    time::Moment,
};

/// A kind of object that the fleet holds.
pub trait FleetObject: WatchedKind {
    /// Applies its newest state. Returns warnings.
    fn apply(self, state: &mut ClusterState, listed: bool, now: Moment) -> Vec<String>;

    /// Keeps it as it is though its newest state could not be read.
    fn keep(fleet: &mut Fleet, meta: &Meta, mark: u32);

    /// Removes it.
    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment);
}

impl FleetObject for PodView {
    fn apply(self, state: &mut ClusterState, _: bool, now: Moment) -> Vec<String> {
        let mark = state.stream(Self::KIND).list_number;
        let Some(change) = state.fleet.apply_pod(&self, mark, now) else {
            return vec![];
        };
        state.pod_changed(&change, now);
        let unidentified = change.unidentified.iter();
        let warning =
            |name| format!("the image of container {name} can't be identified by a digest");
        unidentified.map(warning).collect()
    }

    fn keep(fleet: &mut Fleet, meta: &Meta, mark: u32) {
        fleet.keep_pod(&meta.namespace, meta.uid, mark);
    }

    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment) {
        state.pod_gone(&meta.namespace, meta.uid, now);
    }
}

impl FleetObject for DeploymentView {
    fn apply(self, state: &mut ClusterState, _: bool, now: Moment) -> Vec<String> {
        let mark = state.stream(Self::KIND).list_number;
        if let Some(workload) = state.fleet.apply_deployment(&self, mark, now) {
            state.workload_changed(&workload, now);
        }
        vec![]
    }

    fn keep(fleet: &mut Fleet, meta: &Meta, mark: u32) {
        fleet.keep_deployment(&meta.namespace, &meta.name, mark);
    }

    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment) {
        state.deployment_gone(&meta.namespace, &meta.name, now);
    }
}

impl FleetObject for NamespaceView {
    fn apply(self, state: &mut ClusterState, listed: bool, now: Moment) -> Vec<String> {
        let mark = state.stream(Self::KIND).list_number;
        if listed {
            state.listed.push(self);
        } else {
            state.namespace_seen(&self, mark, now);
        }
        vec![]
    }

    fn keep(fleet: &mut Fleet, meta: &Meta, mark: u32) {
        fleet.keep_namespace(&meta.name, mark);
    }

    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment) {
        state.namespace_gone(&meta.name, now);
    }
}

impl ClusterState {
    /// An object was listed, added or changed. Returns warnings.
    pub fn seen<T: FleetObject>(
        &mut self,
        object: Decoded<T>,
        listed: bool,
        now: Moment,
    ) -> Vec<String> {
        match object {
            Decoded::Good(view) => {
                self.read(T::KIND, Ok(view.meta()), listed, now);
                let warnings = view.apply(self, listed, now);
                self.tidy_in_time();
                warnings
            }
            Decoded::Bad(ref meta, ref why) => self.keep_last::<T>(meta, why, listed, now),
            // Of these kinds all counts, or nothing.
            Decoded::Part(ref view, ref why) => self.keep_last::<T>(view.meta(), why, listed, now),
        }
    }

    /// An object can't be read: its last good state is kept.
    fn keep_last<T: FleetObject>(
        &mut self,
        meta: &Meta,
        why: &str,
        listed: bool,
        now: Moment,
    ) -> Vec<String> {
        let why = format!("{why}; {LAST_STATE}");
        let warnings = self.read(T::KIND, Err((meta, &why)), listed, now);
        let mark = self.stream(T::KIND).list_number;
        T::keep(&mut self.fleet, meta, mark);
        warnings
    }

    /// An object of a kind was read, or could not be: why, and what counts of it. Returns warnings.
    pub(in crate::snapshot) fn read(
        &mut self,
        kind: WatchKind,
        object: Result<&Meta, (&Meta, &str)>,
        listed: bool,
        now: Moment,
    ) -> Vec<String> {
        let stream = self.stream_mut(kind);
        match object {
            Ok(meta) => {
                stream.advance(meta.version, listed, now);
                if stream.readable(meta.uid) && kind == WatchKind::Pods {
                    self.touch_all();
                }
                vec![]
            }
            Err((meta, why)) => {
                stream.advance(meta.version, listed, now);
                let news = stream.unreadable(kind.singular(), meta, why);
                if news.is_some() && kind == WatchKind::Pods {
                    self.touch_all(); // what was never read may count as unidentified
                }
                news.into_iter().collect()
            }
        }
    }

    /// An object was deleted.
    pub fn deleted<T: FleetObject>(&mut self, object: &Decoded<T>, now: Moment) {
        let meta = object.meta();
        self.read(T::KIND, Ok(meta), false, now);
        T::remove(self, meta, now);
    }

    pub(super) fn pod_gone(&mut self, namespace: &str, uid: u128, now: Moment) {
        if let Some(change) = self.fleet.remove_pod(namespace, uid, now) {
            self.pod_changed(&change, now);
        }
    }

    pub(super) fn deployment_gone(&mut self, namespace: &str, name: &str, now: Moment) {
        if let Some(workload) = self.fleet.remove_deployment(namespace, name, now) {
            self.workload_changed(&workload, now);
        }
    }

    pub(super) fn pod_changed(&mut self, change: &PodChange, now: Moment) {
        if !self.stream(WatchKind::Pods).synced {
            return; // everything is counted when the list is complete
        }
        let pods = [&change.before, &change.now].into_iter().flatten();
        let workloads = || pods.clone().map(|pod| &pod.workload);
        let Some(namespace) = workloads()
            .next()
            .map(|workload| workload.namespace.clone())
        else {
            return;
        };
        // It stands in the log.
        let learned = change.now.iter().flat_map(Pod::learned);
        let learned = learned.ne(change.before.iter().flat_map(Pod::learned));
        let admitting = self.admitting(&namespace);
        let mut admitting = admitting.iter().copied().peekable();
        for (place, (name, env)) in self.environments.iter_mut().enumerate() {
            let admits_namespace = admitting.next_if_eq(&place).is_some();
            if !admits_namespace && !env.waits_for(workloads()) {
                continue;
            }
            let unidentified = env.census.unidentified_in_all();
            let before = change.before.iter().map(|pod| (pod, false));
            let pods = before.chain(change.now.iter().map(|pod| (pod, true)));
            let counts_any = admits_namespace && env.count(pods, &self.fleet, &self.evidence, now);
            let KnownLog::Read(ledger, _) = &env.log else {
                continue;
            };
            // They are in the status.
            let mut waiting = learned
                || env.census.unidentified_in_all() != unidentified
                || env.assessment.has_work();
            for pod in [&change.before, &change.now].into_iter().flatten() {
                waiting |= env.unsettled.observe_workload(
                    &pod.workload,
                    &self.fleet,
                    &env.settle,
                    env.census.hanging(),
                    now,
                );
                waiting |= ledger.rollouts.contains_key(&pod.workload);
            }
            if waiting || (counts_any && !env.unsettled.is_settled()) {
                self.touched.insert(name.clone());
            }
        }
    }

    pub(super) fn workload_changed(&mut self, workload: &Arc<Workload>, now: Moment) {
        for (name, env) in &mut self.environments {
            let waiting = env.unsettled.observe_workload(
                workload,
                &self.fleet,
                &env.settle,
                env.census.hanging(),
                now,
            );
            let open = match &env.log {
                KnownLog::Read(ledger, _) => ledger.rollouts.contains_key(workload),
                _ => false,
            };
            if waiting || open {
                self.touched.insert(name.clone());
            }
        }
    }

    /// A namespace was added or changed.
    pub(super) fn namespace_seen(&mut self, view: &NamespaceView, mark: u32, now: Moment) {
        let name = view.meta().name.as_str();
        let before = self.fleet.shared_namespace_labels(name);
        if self.fleet.apply_namespace(view, mark) {
            self.relabelled(name, before.as_deref(), now);
        }
    }

    /// A namespace is gone.
    pub(super) fn namespace_gone(&mut self, name: &str, now: Moment) {
        let before = self.fleet.shared_namespace_labels(name);
        if self.fleet.remove_namespace(name) {
            self.relabelled(name, before.as_deref(), now);
        }
    }

    /// The labels of a namespace changed: all its pods may come into an environment, or leave it.
    fn relabelled(&mut self, namespace: &str, before: Option<&Labels>, now: Moment) {
        self.admitting.remove(namespace);
        if !self.stream(WatchKind::Pods).synced {
            return; // everything is counted when the list is complete
        }
        let labels = self.fleet.namespace_labels(namespace);
        for (name, env) in &mut self.environments {
            if !env.scope.needs_namespaces() {
                continue;
            }
            let was = env.scope.admits_namespace(namespace, before);
            let is = env.scope.admits_namespace(namespace, labels);
            if was == is {
                continue;
            }
            let pods = self.fleet.pods_in(namespace).map(|pod| (pod, is));
            env.count(pods, &self.fleet, &self.evidence, now);
            self.touched.insert(name.clone());
        }
    }

    /// The environments that may have pods of a namespace: their places among all.
    fn admitting(&mut self, namespace: &Arc<str>) -> Arc<[usize]> {
        if let Some(found) = self.admitting.get(namespace) {
            return found.clone();
        }
        let labels = self.fleet.namespace_labels(namespace);
        let all = self.environments.values().enumerate();
        let found = all.filter(|(_, env)| env.scope.admits_namespace(namespace, labels));
        let found: Arc<[usize]> = found.map(|(place, _)| place).collect();
        self.admitting.insert(namespace.clone(), found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::environment::EnvironmentId, simulation::empty_state, snapshot::census::Census,
    };

    const NOW: Moment = Moment::from_secs(1_000);

    fn label(state: &mut ClusterState, namespace: &str, tier: &str) {
        let json = json!({"metadata": {
            "name": namespace, "uid": namespace, "resourceVersion": "1", "labels": {"tier": tier},
        }});
        let view = serde_json::from_value(json).unwrap();
        state.seen::<NamespaceView>(Decoded::Good(view), false, NOW);
    }

    fn run(state: &mut ClusterState, namespace: &str) {
        let json = json!({
            "metadata": {"name": "web", "namespace": namespace, "uid": format!("{namespace} web"), "resourceVersion": "1"},
            "spec": {"containers": [{"name": "web", "image": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "web", "imageID": format!("a@sha256:{}", "1".repeat(64)), "containerID": "c://1", "state": {"running": {}},
            }]},
        });
        let view = serde_json::from_value(json).unwrap();
        state.seen::<PodView>(Decoded::Good(view), false, NOW);
    }

    fn counted(state: &ClusterState, environment: &str) -> Vec<String> {
        let cells = state.environments[environment].census.cells().keys();
        cells
            .map(|cell| cell.workload.namespace.to_string())
            .collect()
    }

    #[test]
    fn a_pod_that_is_listed_again_as_it_was_is_no_change() {
        let mut state = empty_state(true, NOW);
        let called = |digit: &str| format!("r.example/a@sha256:{}", digit.repeat(64));
        let pod = |generation: i64, image: &str, id: &str| -> PodView {
            let json = json!({
                "metadata": {"name": "web", "namespace": "a", "uid": "web", "resourceVersion": "1", "generation": generation},
                "spec": {"containers": [{"name": "web", "image": image}]},
                "status": {"phase": "Running", "containerStatuses": [{
                    "name": "web", "imageID": id, "containerID": "c://1", "state": {"running": {}},
                }]},
            });
            serde_json::from_value(json).unwrap()
        };
        for (generation, image, id) in [
            (1, called("1"), called("2")),
            (1, called("2"), called("1")),
            (1, called("1"), "2".repeat(64)),
            (2, called("3"), called("2")),
            (1, "r.example/a:1".to_owned(), called("4")),
            (1, "r.example/b:1".to_owned(), String::new()),
        ] {
            let pod = pod(generation, &image, &id);
            assert!(
                state.fleet.apply_pod(&pod, 1, NOW).is_some(),
                "{image} {id}"
            );
            assert!(
                state.fleet.apply_pod(&pod, 2, NOW).is_none(),
                "{image} {id}"
            );
        }
    }

    #[test]
    fn a_relabelled_namespace_is_counted_without_a_look_at_any_other() {
        let mut state = empty_state(true, NOW);
        for kind in [WatchKind::Pods, WatchKind::Namespaces] {
            state.list_begins(kind);
            state.list_ends(kind, 1, NOW, NOW);
        }
        for tier in ["front", "back"] {
            let spec = json!({"namespaceSelector": {"matchLabels": {"tier": tier}}});
            let spec = serde_json::from_value(spec).unwrap();
            state.environment_seen(&EnvironmentId::new(tier, tier), &spec, NOW);
        }
        label(&mut state, "a", "front");
        label(&mut state, "b", "back");
        run(&mut state, "a");
        run(&mut state, "b");
        assert_eq!(
            (counted(&state, "front"), counted(&state, "back")),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        // What is not looked at stays as it is, right or wrong.
        state.environments.get_mut("front").unwrap().census = Census::default();
        state.take_touched();
        label(&mut state, "b", "front");
        assert_eq!(
            (counted(&state, "front"), counted(&state, "back")),
            (vec!["b".to_owned()], vec![])
        );
        assert_eq!(state.take_touched().len(), 2);
        label(&mut state, "b", "other");
        assert_eq!(
            state.take_touched().into_iter().collect::<Vec<_>>(),
            ["front"]
        );
        run(&mut state, "b");
        assert_eq!(
            (counted(&state, "front"), counted(&state, "back")),
            (vec![], vec![])
        );
        // The check finds it, one environment at a time.
        assert!(state.check_counts("back", NOW));
        assert!(!state.check_counts("front", NOW));
        assert_eq!(counted(&state, "front"), ["a"]);
        assert_eq!(state.self_check(NOW), 0);
    }
}
