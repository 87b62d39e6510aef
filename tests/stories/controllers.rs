//! Rollouts of controllers that do not come with Kubernetes: whoever rolls out, it is one change. The controllers' moves are
//! made here, with kinds that accept everything; their ReplicaSets, StatefulSets and pods are real.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Cluster, Image, Receiver, apply, bare_pod, cluster::PATIENCE, eventually, hears, play,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Each step of a rollout lasts longer than a scaling takes to be told.
const SLOW_STEPS: &str = "{quiet: 300ms, max: 1s, rollout: 2m, scaling: 2s}";
/// The same, and the rollout takes longer than any may. Pods may take as long as that to start.
const ENDLESS: &str = "{quiet: 300ms, max: 1s, rollout: 20s, scaling: 2s}";
/// So often [`hears_only`] takes longer than a rollout may.
const LONGER_THAN_A_ROLLOUT: usize = 5;
/// The same, and nothing is told before the rollout is over, however slow the machine.
const ONE_CHANGE: &str = "{quiet: 600ms, max: 3m, rollout: 5m, scaling: 2s}";

/// Serves a kind of objects in namespaces that may hold anything.
async fn serve_kind(cluster: &Cluster, group: &str, version: &str, kind: &str) -> Result<()> {
    let plural = format!("{}s", kind.to_lowercase());
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    apply(&cluster.client(), definition).await?;
    Ok(())
}

/// A controller of a kind, and what it owns in an actor's namespace.
struct Controller<'a> {
    actor: &'a Actor,
    owner: Value,
}

impl<'a> Controller<'a> {
    /// A new object `web` of this kind, which controls what is made below.
    async fn new(actor: &'a Actor, group: &str, version: &str, kind: &str) -> Result<Self> {
        serve_kind(actor.cluster, group, version, kind).await?;
        let api = format!("{group}/{version}");
        let object = json!({
            "apiVersion": api, "kind": kind, "metadata": {"name": "web", "namespace": actor.name},
        });
        let made = apply(&actor.cluster.client(), object).await?;
        let uid = made.first().and_then(|made| made.metadata.uid.clone());
        let uid = uid.context("it has no UID")?;
        let owner = json!([{"apiVersion": api, "kind": kind, "name": "web", "uid": uid, "controller": true}]);
        Ok(Controller { actor, owner })
    }

    /// Sets how many pods workloads below it have, and waits until they run. None starts before all are there.
    async fn scale(&self, kind: &str, workloads: &[(&str, Value, &str, usize)]) -> Result<()> {
        for (name, labels, image, replicas) in workloads {
            self.hold(image);
            self.set(kind, name, labels, image, *replicas).await?;
        }
        for (name, _, _, replicas) in workloads {
            self.exist(name, *replicas).await?;
        }
        for (name, _, image, replicas) in workloads {
            self.release(image);
            self.actor.running(name, *replicas).await?;
        }
        Ok(())
    }

    /// Scales one workload up and another one down. The new pods start when the old ones have gone, so the moves are one
    /// step to whoever watches, however slow the machine.
    async fn shift(
        &self,
        kind: &str,
        (name, labels, image, replicas): (&str, Value, &str, usize),
        down: (&str, Value, &str, usize),
    ) -> Result<()> {
        self.hold(image);
        self.set(kind, name, &labels, image, replicas).await?;
        self.exist(name, replicas).await?;
        self.scale(kind, &[down]).await?;
        self.release(image);
        self.actor.running(name, replicas).await?;
        Ok(())
    }

    /// Containers of an image start only when it is released.
    fn hold(&self, image: &str) {
        let starts_after = Duration::from_hours(1);
        let held = Image {
            starts_after,
            ..Image::default()
        };
        self.actor.cluster.kubelet.image(image, held);
    }

    fn release(&self, image: &str) {
        self.actor.cluster.kubelet.image(image, Image::default());
    }

    /// Waits until there are so many pods, whether they run or not.
    async fn exist(&self, app: &str, count: usize) -> Result<()> {
        let (cluster, namespace) = (self.actor.cluster, &self.actor.name);
        let what = format!("{count} pods of {namespace}/{app}");
        let there = cluster.pods_when(namespace, app, &what, |pods| pods.len() == count);
        there.await?;
        Ok(())
    }

    async fn set(
        &self,
        kind: &str,
        name: &str,
        labels: &Value,
        image: &str,
        replicas: usize,
    ) -> Result<()> {
        let mut labels = labels.clone();
        labels["app"] = name.into();
        let mut spec = json!({
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [
                    {"name": "app", "image": image}, {"name": "mesh", "image": "r.example/mesh:v1"},
                ]},
            },
        });
        let version = match kind {
            "ReplicationController" => {
                spec["selector"] = labels;
                "v1"
            }
            "StatefulSet" => {
                spec["serviceName"] = name.into();
                spec["podManagementPolicy"] = "Parallel".into();
                spec["selector"] = json!({"matchLabels": {"app": name}});
                spec["updateStrategy"] = json!({"type": "OnDelete"});
                "apps/v1"
            }
            _ => "apps/v1",
        };
        let object = json!({
            "apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": self.actor.name, "ownerReferences": self.owner},
            "spec": spec,
        });
        self.actor.apply(object).await
    }

    /// A pod that it owns itself.
    async fn pod(&self, name: &str, labels: &Value, image: &str) -> Result<()> {
        let mut pod = bare_pod(&self.actor.name, name, image)
            .container("mesh", "r.example/mesh:v1")
            .set("/metadata/ownerReferences", self.owner.clone());
        for (key, value) in labels.as_object().into_iter().flatten() {
            pod = pod.pod_label(key, value.as_str().unwrap_or_default());
        }
        self.actor.apply(pod).await
    }

    async fn delete(&self, what: &str) -> Result<()> {
        self.actor.kubectl(&["delete", what, "--wait"]).await?;
        Ok(())
    }
}

/// The log is about one workload, the controller itself, and tells nothing of the sidecar but that it started: it runs in as
/// many pods after the rollout as before.
async fn one_workload(actor: &Actor, kind: &str) -> Result<()> {
    let log = actor.sound_log().await?;
    let changes = || log.iter().flat_map(|entry| &entry.changes);
    for workload in changes().flat_map(|change| &change.workloads) {
        assert_eq!((&*workload.kind, &*workload.name), (kind, "web"));
    }
    let events = log.iter().flat_map(|entry| {
        let about = |event: &shipbell::api::snapshot::Event| {
            let change = event.change.and_then(|at| usize::try_from(at).ok());
            change.and_then(|at| entry.changes.get(at))
        };
        entry.events.iter().filter_map(about)
    });
    let told = events.filter(|change| change.name.ends_with("mesh:v1"));
    assert_eq!(told.count(), 1, "that it started");
    Ok(())
}

/// The first pods run, with the sidecar, and that has been told.
async fn begin(actor: &Actor, receiver: &Receiver, pods: i64) -> Result<()> {
    actor.settled(2, 2 * pods).await?;
    eventually(PATIENCE, "everything to be heard", async || {
        let log = actor.log().await?;
        let told: usize = log.iter().map(|entry| entry.events.len()).sum();
        Ok::<_, anyhow::Error>(receiver.heard().len() == told)
    })
    .await?;
    receiver.forget();
    Ok(())
}

/// Waits until these starts and stops were heard, however many pods each had by then, and nothing else for a while: twice as
/// long as a scaling takes to be told.
async fn hears_only(receiver: &Receiver, want: &[&str]) -> Result<()> {
    receiver.wait_for_count(PATIENCE, want.len()).await?;
    let told = kit::told(&receiver.heard());
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let same = told
        .iter()
        .zip(want)
        .all(|(told, want)| told.starts_with(want));
    ensure!(
        same && told.len() == want.len(),
        "heard {told:?}, not {want:?}"
    );
    for _ in 0..3 {
        hears(receiver, &told).await?;
    }
    Ok(())
}

fn hash(hash: &str) -> Value {
    json!({"rollouts-pod-template-hash": hash})
}

async fn rollout(actor: &Actor) -> Result<Controller<'_>> {
    Controller::new(actor, "argoproj.io", "v1alpha1", "Rollout").await
}

#[test]
fn a_canary_of_argo_rollouts_with_a_pause_is_told_when_it_begins_and_when_it_is_over() {
    play(async |cluster| {
        for (name, settle, pause) in [
            ("canary", SLOW_STEPS, 1),
            ("long-canary", ENDLESS, LONGER_THAN_A_ROLLOUT),
        ] {
            let (actor, receiver) = Actor::heard(cluster, name, settle).await?;
            let (v1, v2) = (
                format!("r.example/{name}/web:v1"),
                format!("r.example/{name}/web:v2"),
            );
            let canary = rollout(&actor).await?;
            let old = |pods: usize| ("web-aaa", hash("aaa"), v1.as_str(), pods);
            let new = |pods: usize| ("web-bbb", hash("bbb"), v2.as_str(), pods);
            canary.scale("ReplicaSet", &[new(0), old(4)]).await?;
            begin(&actor, &receiver, 4).await?;
            for pods in 1..=3 {
                canary.shift("ReplicaSet", new(pods), old(4 - pods)).await?;
                for _ in 0..if pods == 1 { pause } else { 1 } {
                    hears_only(&receiver, &["STARTED web:v2"]).await?;
                }
            }
            canary.shift("ReplicaSet", new(4), old(0)).await?;
            hears_only(&receiver, &["STARTED web:v2", "STOPPED web:v1"]).await?;
            actor.settled(2, 8).await?;
            one_workload(&actor, "Rollout").await?;
        }
        Ok(())
    });
}

#[test]
fn a_canary_of_argo_rollouts_that_is_aborted_is_told_as_a_start_and_a_stop() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "abort", ENDLESS).await?;
        let (v1, v2) = ("r.example/abort/web:v1", "r.example/abort/web:v2");
        let canary = rollout(&actor).await?;
        let old = |pods: usize| ("web-aaa", hash("aaa"), v1, pods);
        let new = |pods: usize| ("web-bbb", hash("bbb"), v2, pods);
        canary.scale("ReplicaSet", &[new(0), old(4)]).await?;
        begin(&actor, &receiver, 4).await?;
        canary.shift("ReplicaSet", new(2), old(2)).await?;
        for _ in 0..LONGER_THAN_A_ROLLOUT {
            hears_only(&receiver, &["STARTED web:v2"]).await?;
        }
        // The canary is gone, and that is told, before the old pods that replace it start.
        canary.hold(v1);
        canary
            .set("ReplicaSet", "web-aaa", &hash("aaa"), v1, 4)
            .await?;
        canary.exist("web-aaa", 4).await?;
        canary.scale("ReplicaSet", &[new(0)]).await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        canary.release(v1);
        actor.running("web-aaa", 4).await?;
        hears_only(&receiver, &["STARTED web:v2", "STOPPED web:v2"]).await?;
        actor.settled(2, 8).await?;
        one_workload(&actor, "Rollout").await
    });
}

#[test]
fn a_blue_green_rollout_of_argo_rollouts_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "green", ONE_CHANGE).await?;
        let (v1, v2) = ("r.example/green/web:v1", "r.example/green/web:v2");
        let blue_green = rollout(&actor).await?;
        let blue = |pods: usize| ("web-aaa", hash("aaa"), v1, pods);
        blue_green.scale("ReplicaSet", &[blue(3)]).await?;
        begin(&actor, &receiver, 3).await?;
        let green = ("web-bbb", hash("bbb"), v2, 3);
        blue_green.scale("ReplicaSet", &[green]).await?;
        // Both run until the old ReplicaSet is scaled down, some time after the promotion.
        hears_only(&receiver, &[]).await?;
        blue_green.scale("ReplicaSet", &[blue(0)]).await?;
        let all = ["STARTED web:v2 0 to 3", "STOPPED web:v1 3 to 0"];
        hears_only(&receiver, &all).await?;
        actor.settled(2, 6).await?;
        one_workload(&actor, "Rollout").await
    });
}

#[test]
fn a_blue_green_rollout_that_waits_longer_than_any_may_is_told_when_it_begins_and_when_it_is_over()
{
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "wait", ENDLESS).await?;
        let (v1, v2) = ("r.example/wait/web:v1", "r.example/wait/web:v2");
        let blue_green = rollout(&actor).await?;
        let blue = |pods: usize| ("web-aaa", hash("aaa"), v1, pods);
        blue_green.scale("ReplicaSet", &[blue(3)]).await?;
        begin(&actor, &receiver, 3).await?;
        let green = ("web-bbb", hash("bbb"), v2, 3);
        blue_green.scale("ReplicaSet", &[green]).await?;
        for _ in 0..LONGER_THAN_A_ROLLOUT {
            hears_only(&receiver, &["STARTED web:v2"]).await?;
        }
        actor.settled(3, 12).await?;
        blue_green.scale("ReplicaSet", &[blue(0)]).await?;
        hears_only(&receiver, &["STARTED web:v2", "STOPPED web:v1"]).await?;
        actor.settled(2, 6).await?;
        one_workload(&actor, "Rollout").await
    });
}

#[test]
fn a_rollout_of_an_openshift_deployment_config_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "config", ONE_CHANGE).await?;
        let (v1, v2) = ("r.example/config/web:v1", "r.example/config/web:v2");
        let config = Controller::new(&actor, "apps.openshift.io", "v1", "DeploymentConfig").await?;
        let labels = |name: &str| json!({"deploymentconfig": "web", "deployment": name});
        let old = |pods: usize| ("web-1", labels("web-1"), v1, pods);
        let new = |pods: usize| ("web-2", labels("web-2"), v2, pods);
        let kind = "ReplicationController";
        config.scale(kind, &[old(3)]).await?;
        begin(&actor, &receiver, 3).await?;
        for pods in 1..=3 {
            config.scale(kind, &[new(pods)]).await?;
            hears_only(&receiver, &[]).await?;
            config.scale(kind, &[old(3 - pods)]).await?;
        }
        let all = ["STARTED web:v2 0 to 3", "STOPPED web:v1 3 to 0"];
        hears_only(&receiver, &all).await?;
        actor.settled(2, 6).await?;
        one_workload(&actor, "DeploymentConfig").await
    });
}

#[test]
fn a_rollout_of_a_leader_worker_set_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "leader", ONE_CHANGE).await?;
        let (v1, v2) = ("r.example/leader/web:v1", "r.example/leader/web:v2");
        let group = "leaderworkerset.x-k8s.io";
        let set = Controller::new(&actor, group, "v1", "LeaderWorkerSet").await?;
        let labels = |revision: &str| {
            json!({
                "leaderworkerset.sigs.k8s.io/name": "web",
                "leaderworkerset.sigs.k8s.io/template-revision-hash": revision,
            })
        };
        let old = |name: &'static str| (name, labels("r1"), v1, 2);
        let new = |name: &'static str| (name, labels("r2"), v2, 2);
        let kind = "StatefulSet";
        // The leaders, and the workers of each.
        let all = [old("web"), old("web-0"), old("web-1")];
        set.scale(kind, &all).await?;
        begin(&actor, &receiver, 6).await?;
        // One group more while the others are replaced.
        set.scale(kind, &[new("web-2")]).await?;
        hears_only(&receiver, &[]).await?;
        for workers in ["web-1", "web-0"] {
            set.delete(&format!("statefulset/{workers}")).await?;
            set.exist(workers, 0).await?;
            set.scale(kind, &[new(workers)]).await?;
            hears_only(&receiver, &[]).await?;
        }
        set.delete("statefulset/web-2").await?;
        set.exist("web-2", 0).await?;
        hears_only(&receiver, &[]).await?;
        // The leaders: each is replaced before any of the new ones starts.
        set.hold(v2);
        set.set(kind, "web", &labels("r2"), v2, 2).await?;
        for leader in ["web-1", "web-0"] {
            set.delete(&format!("pod/{leader}")).await?;
            set.exist("web", 2).await?;
        }
        set.release(v2);
        actor.running("web", 2).await?;
        let all = ["STARTED web:v2 0 to 6", "STOPPED web:v1 6 to 0"];
        hears_only(&receiver, &all).await?;
        actor.settled(2, 12).await?;
        one_workload(&actor, "LeaderWorkerSet").await
    });
}

#[test]
fn a_clone_set_that_is_updated_in_place_is_told_when_it_begins_and_when_it_is_over() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "clones", SLOW_STEPS).await?;
        let (v1, v2) = ("r.example/clones/web:v1", "r.example/clones/web:v2");
        let set = Controller::new(&actor, "apps.kruise.io", "v1alpha1", "CloneSet").await?;
        let pods = ["web-x1", "web-x2", "web-x3"];
        set.hold(v1);
        for pod in pods {
            let labels = json!({"controller-revision-hash": "web-1"});
            set.pod(pod, &labels, v1).await?;
        }
        set.release(v1);
        begin(&actor, &receiver, 3).await?;
        for (number, pod) in (1..).zip(pods) {
            let patch = json!({
                "metadata": {"labels": {"controller-revision-hash": "web-2"}},
                "spec": {"containers": [{"name": "app", "image": v2}]},
            });
            let patch = format!("--patch={patch}");
            actor.kubectl(&["patch", "pod", pod, &patch]).await?;
            restarts_with(&actor, pod, v2).await?;
            let all = ["STARTED web:v2", "STOPPED web:v1"];
            hears_only(&receiver, &all[..=number / 3]).await?;
        }
        actor.settled(2, 6).await?;
        one_workload(&actor, "CloneSet").await
    });
}

/// The node restarts the container of a pod until it runs the image that its spec names now.
async fn restarts_with(actor: &Actor, pod: &str, image: &str) -> Result<()> {
    let what = format!("{pod} to run {image}");
    eventually(PATIENCE, &what, async || {
        let pods = actor.running(pod, 1).await?;
        let status = pods.iter().find_map(|pod| pod.status.as_ref());
        let containers = status.and_then(|status| status.container_statuses.as_ref());
        let mut containers = containers.into_iter().flatten();
        let runs = containers.any(|status| status.image == image);
        if !runs {
            let kubelet = &actor.cluster.kubelet;
            kubelet.restart_container(&actor.name, pod, "app")?;
        }
        Ok::<_, anyhow::Error>(runs)
    })
    .await
}

#[test]
fn pods_that_a_controller_replaces_one_by_one_are_told_when_it_begins_and_when_it_is_over() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "replaced", SLOW_STEPS).await?;
        let (v1, v2) = ("r.example/replaced/web:v1", "r.example/replaced/web:v2");
        // Like virtual machines: pods without a revision, which their controller owns itself.
        let pool = Controller::new(&actor, "example.com", "v1", "MachinePool").await?;
        pool.hold(v1);
        for number in 1..=3 {
            pool.pod(&format!("old-{number}"), &json!({}), v1).await?;
        }
        pool.release(v1);
        begin(&actor, &receiver, 3).await?;
        // Both run for longer than a scaling takes to be told.
        pool.pod("new-1", &json!({}), v2).await?;
        hears_only(&receiver, &["STARTED web:v2"]).await?;
        pool.delete("pod/old-1").await?;
        hears_only(&receiver, &["STARTED web:v2"]).await?;
        // The new pods start when the old ones have gone.
        for number in 2..=3 {
            let new = format!("new-{number}");
            pool.hold(v2);
            pool.pod(&new, &json!({}), v2).await?;
            pool.delete(&format!("pod/old-{number}")).await?;
            pool.release(v2);
            actor.running(&new, 1).await?;
            let all = ["STARTED web:v2", "STOPPED web:v1"];
            hears_only(&receiver, &all[..=number / 3]).await?;
        }
        actor.settled(2, 6).await?;
        one_workload(&actor, "MachinePool").await
    });
}
