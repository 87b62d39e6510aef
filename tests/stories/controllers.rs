//! Rollouts of controllers that do not come with Kubernetes: whoever rolls out, it is one change. The controllers' moves are
//! made here, with kinds that accept everything; their ReplicaSets, StatefulSets and pods are real.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Cluster, Receiver, apply, bare_pod, cluster::PATIENCE, eventually, hears, play,
    stage::SETTLE,
};
use serde_json::{Value, json};

/// Each step of a rollout lasts longer than a scaling takes to be told.
const SLOW_STEPS: &str = "{quiet: 300ms, max: 1s, rollout: 2m, scaling: 2s}";
/// The same, and the rollout takes longer than any may.
const ENDLESS: &str = "{quiet: 300ms, max: 1s, rollout: 2s, scaling: 2s}";

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

    /// Sets how many pods workloads below it have, and waits until they run.
    async fn scale(&self, kind: &str, workloads: &[(&str, Value, &str, usize)]) -> Result<()> {
        for (name, labels, image, replicas) in workloads {
            self.set(kind, name, labels, image, *replicas).await?;
        }
        for (name, _, _, replicas) in workloads {
            self.actor.running(name, *replicas).await?;
        }
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

    /// A pod that it owns itself, and waits until it runs.
    async fn pod(&self, name: &str, labels: &Value, image: &str) -> Result<()> {
        let mut pod = bare_pod(&self.actor.name, name, image)
            .container("mesh", "r.example/mesh:v1")
            .set("/metadata/ownerReferences", self.owner.clone());
        for (key, value) in labels.as_object().into_iter().flatten() {
            pod = pod.pod_label(key, value.as_str().unwrap_or_default());
        }
        self.actor.apply(pod).await?;
        self.actor.running(name, 1).await?;
        Ok(())
    }

    async fn delete(&self, what: &str) -> Result<()> {
        self.actor.kubectl(&["delete", what, "--wait"]).await?;
        Ok(())
    }
}

/// The log holds nothing of the sidecar but that it started: it runs in as many pods after the rollout as before.
async fn no_news_of_the_sidecar(actor: &Actor) -> Result<()> {
    let log = actor.sound_log().await?;
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
        for (name, settle) in [("canary", SLOW_STEPS), ("long-canary", ENDLESS)] {
            let (actor, receiver) = Actor::heard(cluster, name, settle).await?;
            let (v1, v2) = (
                format!("r.example/{name}/web:v1"),
                format!("r.example/{name}/web:v2"),
            );
            let canary = rollout(&actor).await?;
            let sets = |old: usize, new: usize| {
                [
                    ("web-bbb", hash("bbb"), v2.as_str(), new),
                    ("web-aaa", hash("aaa"), v1.as_str(), old),
                ]
            };
            canary.scale("ReplicaSet", &sets(4, 0)).await?;
            begin(&actor, &receiver, 4).await?;
            for new in 1..=3 {
                canary.scale("ReplicaSet", &sets(4 - new, new)).await?;
                // The pause.
                hears_only(&receiver, &["STARTED web:v2"]).await?;
            }
            canary.scale("ReplicaSet", &sets(0, 4)).await?;
            hears_only(&receiver, &["STARTED web:v2", "STOPPED web:v1"]).await?;
            actor.settled(2, 8).await?;
            no_news_of_the_sidecar(&actor).await?;
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
        let sets = |old: usize, new: usize| {
            [
                ("web-bbb", hash("bbb"), v2, new),
                ("web-aaa", hash("aaa"), v1, old),
            ]
        };
        canary.scale("ReplicaSet", &sets(4, 0)).await?;
        begin(&actor, &receiver, 4).await?;
        canary.scale("ReplicaSet", &sets(2, 2)).await?;
        hears_only(&receiver, &["STARTED web:v2"]).await?;
        canary.scale("ReplicaSet", &sets(4, 0)).await?;
        hears_only(&receiver, &["STARTED web:v2", "STOPPED web:v2"]).await?;
        actor.settled(2, 8).await?;
        no_news_of_the_sidecar(&actor).await
    });
}

#[test]
fn a_blue_green_rollout_of_argo_rollouts_is_one_change_though_both_run_for_a_while() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "blue-green", SETTLE).await?;
        let (v1, v2) = ("r.example/blue-green/web:v1", "r.example/blue-green/web:v2");
        let rollout = rollout(&actor).await?;
        rollout
            .scale("ReplicaSet", &[("web-aaa", hash("aaa"), v1, 3)])
            .await?;
        hears(
            &receiver,
            &["STARTED mesh:v1 0 to 3", "STARTED web:v1 0 to 3"],
        )
        .await?;
        receiver.forget();
        rollout
            .scale("ReplicaSet", &[("web-bbb", hash("bbb"), v2, 3)])
            .await?;
        // Until it is promoted.
        hears(&receiver, &[]).await?;
        rollout
            .scale("ReplicaSet", &[("web-aaa", hash("aaa"), v1, 0)])
            .await?;
        hears(
            &receiver,
            &["STARTED web:v2 0 to 3", "STOPPED web:v1 3 to 0"],
        )
        .await?;
        no_news_of_the_sidecar(&actor).await
    });
}

#[test]
fn a_rollout_of_an_openshift_deployment_config_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "config", SETTLE).await?;
        let (v1, v2) = ("r.example/config/web:v1", "r.example/config/web:v2");
        let config = Controller::new(&actor, "apps.openshift.io", "v1", "DeploymentConfig").await?;
        let labels = |name: &str| json!({"deploymentconfig": "web", "deployment": name});
        config
            .scale(
                "ReplicationController",
                &[("web-1", labels("web-1"), v1, 3)],
            )
            .await?;
        hears(
            &receiver,
            &["STARTED mesh:v1 0 to 3", "STARTED web:v1 0 to 3"],
        )
        .await?;
        receiver.forget();
        for step in 1..=3 {
            config
                .scale(
                    "ReplicationController",
                    &[("web-2", labels("web-2"), v2, step)],
                )
                .await?;
            // Longer than a scaling takes to be told.
            hears(&receiver, &[]).await?;
            hears(&receiver, &[]).await?;
            config
                .scale(
                    "ReplicationController",
                    &[("web-1", labels("web-1"), v1, 3 - step)],
                )
                .await?;
        }
        hears(
            &receiver,
            &["STARTED web:v2 0 to 3", "STOPPED web:v1 3 to 0"],
        )
        .await?;
        let log = actor.log().await?;
        let workload = &log.last().unwrap().changes[0].workloads[0];
        assert_eq!(
            (workload.kind.as_str(), workload.name.as_str()),
            ("DeploymentConfig", "web")
        );
        no_news_of_the_sidecar(&actor).await
    });
}

#[test]
fn a_rollout_of_a_leader_worker_set_is_one_change_of_one_workload() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "leader", SETTLE).await?;
        let (v1, v2) = ("r.example/leader/web:v1", "r.example/leader/web:v2");
        let group = "leaderworkerset.x-k8s.io";
        let set = Controller::new(&actor, group, "v1", "LeaderWorkerSet").await?;
        let labels = |revision: &str| json!({"leaderworkerset.sigs.k8s.io/name": "web", "leaderworkerset.sigs.k8s.io/template-revision-hash": revision});
        // The leaders, and the workers of each.
        for name in ["web", "web-0", "web-1"] {
            set.scale("StatefulSet", &[(name, labels("r1"), v1, 2)])
                .await?;
        }
        hears(
            &receiver,
            &["STARTED mesh:v1 0 to 6", "STARTED web:v1 0 to 6"],
        )
        .await?;
        receiver.forget();
        for name in ["web-1", "web-0", "web"] {
            set.delete(&format!("statefulset/{name}")).await?;
            actor.running(name, 0).await?;
            set.scale("StatefulSet", &[(name, labels("r2"), v2, 2)])
                .await?;
            if name != "web" {
                hears(&receiver, &[]).await?;
                hears(&receiver, &[]).await?;
            }
        }
        hears(
            &receiver,
            &["STARTED web:v2 0 to 6", "STOPPED web:v1 6 to 0"],
        )
        .await?;
        let log = actor.log().await?;
        let workloads = &log.last().unwrap().changes[0].workloads;
        assert_eq!(workloads.len(), 1);
        assert_eq!(workloads[0].kind, "LeaderWorkerSet");
        no_news_of_the_sidecar(&actor).await
    });
}

#[test]
fn a_clone_set_that_is_updated_in_place_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "clones", SETTLE).await?;
        let (v1, v2) = ("r.example/clones/web:v1", "r.example/clones/web:v2");
        let set = Controller::new(&actor, "apps.kruise.io", "v1alpha1", "CloneSet").await?;
        let pods = ["web-x1", "web-x2", "web-x3"];
        for pod in pods {
            set.pod(pod, &json!({"controller-revision-hash": "web-1"}), v1)
                .await?;
        }
        hears(
            &receiver,
            &["STARTED mesh:v1 0 to 3", "STARTED web:v1 0 to 3"],
        )
        .await?;
        receiver.forget();
        for pod in pods {
            let image = format!("app={v2}");
            let label = [
                "label",
                "pod",
                pod,
                "--overwrite",
                "controller-revision-hash=web-2",
            ];
            actor.kubectl(&label).await?;
            actor
                .kubectl(&["set", "image", &format!("pod/{pod}"), &image])
                .await?;
            eventually(PATIENCE, "the container to run it", async || {
                let pods = actor.running(pod, 1).await?;
                let statuses = pods[0]
                    .status
                    .as_ref()
                    .and_then(|it| it.container_statuses.as_ref());
                let mut statuses = statuses.into_iter().flatten();
                let runs = statuses.any(|status| status.image == v2);
                if !runs {
                    cluster.kubelet.restart_container(&actor.name, pod, "app")?;
                }
                Ok::<_, anyhow::Error>(runs)
            })
            .await?;
            if pod != "web-x3" {
                hears(&receiver, &[]).await?;
                hears(&receiver, &[]).await?;
            }
        }
        hears(
            &receiver,
            &["STARTED web:v2 0 to 3", "STOPPED web:v1 3 to 0"],
        )
        .await?;
        no_news_of_the_sidecar(&actor).await
    });
}

#[test]
fn pods_that_a_controller_replaces_one_by_one_are_told_when_it_begins_and_when_it_is_over() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "replaced", SLOW_STEPS).await?;
        let (v1, v2) = ("r.example/replaced/web:v1", "r.example/replaced/web:v2");
        // Like virtual machines: pods without a revision, which their controller owns itself.
        let pool = Controller::new(&actor, "example.com", "v1", "MachinePool").await?;
        for number in 1..=3 {
            pool.pod(&format!("old-{number}"), &json!({}), v1).await?;
        }
        begin(&actor, &receiver, 3).await?;
        for number in 1..=3 {
            pool.pod(&format!("new-{number}"), &json!({}), v2).await?;
            pool.delete(&format!("pod/old-{number}")).await?;
            let all = ["STARTED web:v2", "STOPPED web:v1"];
            hears_only(&receiver, &all[..=number / 3]).await?;
        }
        actor.settled(2, 6).await?;
        no_news_of_the_sidecar(&actor).await
    });
}
