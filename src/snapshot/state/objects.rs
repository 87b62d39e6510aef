//! Applies the objects of the cluster that are watched, and notes which environments they concern.

use std::sync::Arc;

use crate::{
    cluster::{
        fleet::{Fleet, PodChange, Workload},
        pod_view::{Decoded, DeploymentView, Meta, NamespaceView, PodView},
        watch::WatchedKind,
        watch_progress::WatchKind,
    },
    compliance::artifact_identity::IdentityResolver,
    snapshot::{
        census::admits,
        settle::Comparison,
        state::{ClusterState, KnownLog},
    },
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
        fleet.keep_pod(meta.uid, mark);
    }

    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment) {
        state.pod_gone(meta.uid, now);
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
        } else if state.fleet.apply_namespace(&self, mark) {
            state.recount_by_namespaces(now);
        }
        vec![]
    }

    fn keep(fleet: &mut Fleet, meta: &Meta, mark: u32) {
        fleet.keep_namespace(&meta.name, mark);
    }

    fn remove(state: &mut ClusterState, meta: &Meta, now: Moment) {
        if state.fleet.remove_namespace(&meta.name) {
            state.recount_by_namespaces(now);
        }
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
                view.apply(self, listed, now)
            }
            Decoded::Bad(meta, why) => {
                let warnings = self.read(T::KIND, Err((&meta, &why)), listed, now);
                let mark = self.stream(T::KIND).list_number;
                T::keep(&mut self.fleet, &meta, mark);
                warnings
            }
        }
    }

    /// An object of a kind was read, or could not be: why. Returns warnings.
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
                stream.readable(meta.uid);
                vec![]
            }
            Err((meta, why)) => {
                stream.advance(meta.version, listed, now);
                stream.unreadable(kind.singular(), meta, why)
            }
        }
    }

    /// An object was deleted.
    pub fn deleted<T: FleetObject>(&mut self, object: &Decoded<T>, now: Moment) {
        let meta = object.meta();
        self.read(T::KIND, Ok(meta), false, now);
        T::remove(self, meta, now);
    }

    pub(super) fn pod_gone(&mut self, uid: u128, now: Moment) {
        if let Some(change) = self.fleet.remove_pod(uid, now) {
            self.pod_changed(&change, now);
        }
    }

    pub(super) fn deployment_gone(&mut self, namespace: &str, name: &str, now: Moment) {
        if let Some(workload) = self.fleet.remove_deployment(namespace, name, now) {
            self.workload_changed(&workload, now);
        }
    }

    pub(super) fn pod_changed(&mut self, change: &PodChange, now: Moment) {
        let renamed = self.learn(&change.learned);
        for (name, env) in &mut self.environments {
            if renamed.contains(name) {
                // Rare: one artifact was counted as two.
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name.clone());
                continue;
            }
            let resolver = IdentityResolver {
                fleet: &self.fleet,
                evidence: &self.evidence,
                trust: &env.trust,
                recorded: &env.recorded,
            };
            let mut cells = vec![];
            let unidentified = env.census.unidentified_in_all();
            for (pod, add) in [(&change.before, false), (&change.now, true)] {
                if let Some(pod) = pod
                    .as_ref()
                    .filter(|pod| admits(&env.scope, &self.fleet, pod))
                {
                    let counted = env.census.count(pod, &env.scope, &resolver, add);
                    cells.extend(counted.cells);
                    env.assessment.touch(counted.known_otherwise);
                }
            }
            let KnownLog::Read(ledger, _) = &env.log else {
                continue;
            };
            let comparison = Comparison {
                census: &env.census,
                ledger,
                fleet: &self.fleet,
                settle: &env.settle,
                now,
            };
            for cell in &cells {
                env.unsettled.observe(cell, comparison);
            }
            // They are in the status.
            let mut waiting =
                env.census.unidentified_in_all() != unidentified || env.assessment.has_work();
            for pod in [&change.before, &change.now].into_iter().flatten() {
                waiting |=
                    env.unsettled
                        .observe_workload(&pod.workload, &self.fleet, &env.settle, now);
                waiting |= ledger.rollouts.contains_key(&pod.workload);
            }
            if waiting || (!cells.is_empty() && !env.unsettled.is_settled()) {
                self.touched.insert(name.clone());
            }
        }
    }

    pub(super) fn workload_changed(&mut self, workload: &Arc<Workload>, now: Moment) {
        for (name, env) in &mut self.environments {
            let waiting = env
                .unsettled
                .observe_workload(workload, &self.fleet, &env.settle, now);
            let open = match &env.log {
                KnownLog::Read(ledger, _) => ledger.rollouts.contains_key(workload),
                _ => false,
            };
            if waiting || open {
                self.touched.insert(name.clone());
            }
        }
    }

    /// Counts those environments again that depend on the labels of namespaces.
    pub(super) fn recount_by_namespaces(&mut self, now: Moment) {
        for (name, env) in &mut self.environments {
            if env.scope.needs_namespaces() {
                env.recount(&self.fleet, &self.evidence, now);
                self.touched.insert(name.clone());
            }
        }
    }
}
