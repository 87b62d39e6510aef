//! Part G: for how long nobody is told of anything when the replica that leads goes: from the last delivery of the old one
//! to the first of the new one, on a real control plane, while something changes ten times a second.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kit::{
    Cluster, PlaneOptions, apply,
    cluster::PATIENCE,
    eventually,
    operator::Operator,
    proxy::{Action, Proxy},
    receiver::{Heard, Receiver},
    stage::{self, Cast},
    stub::pods::digest,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::time::Duration;

/// How the replica that leads goes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// It is told to stop.
    Terminated,
    /// It is killed.
    Killed,
    /// It stands still until another leads, and goes on then.
    StoodStill,
    /// It loses the API server, and not its receiver, until another leads.
    CutOff,
}

impl Way {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Terminated,
        Self::Killed,
        Self::StoodStill,
        Self::CutOff,
    ];
}

/// What take-overs were like.
#[derive(Clone, Debug)]
pub struct TakeOvers {
    /// From the last delivery of the old leader to the first of the new one, the shortest first.
    pub silences: Vec<Duration>,
    /// Events that were delivered more than once.
    pub twice: usize,
}

/// A namespace with an Environment over it and a setting for all that happens in it.
const NAMESPACE: &str = "takeover";
/// So often something changes.
const APART: Duration = Duration::from_millis(100);
/// So many pods run at a time.
const PODS: u64 = 10;

/// Lets the replica that leads go `runs` times.
pub async fn measure(way: Way, runs: usize) -> Result<TakeOvers> {
    let cluster = Cluster::start(PlaneOptions::default()).await?;
    stage::install(&cluster).await?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(&cluster.client(), namespace).await?;
    let receiver = Receiver::start();
    let environment = format!(
        "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {NAMESPACE}}}\nspec: {{namespaces: {{include: [{NAMESPACE}]}}, visibleTo: [{NAMESPACE}], settle: {{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}}}}\n"
    );
    apply(&cluster.client(), environment.as_str()).await?;
    let setting = json!({
        "apiVersion": "shipbell.dev/v1alpha1", "kind": "NotificationSetting", "metadata": {"name": "all", "namespace": NAMESPACE},
        "spec": {"environments": [NAMESPACE], "webhook": {"url": receiver.url("/hook")}},
    });
    apply(&cluster.client(), setting).await?;
    let mut replicas = Replicas {
        cluster: &cluster,
        started: 0,
        leader: None,
    };
    let changing = change(&cluster);
    let measuring = async {
        replicas.begin(way).await?;
        receiver.wait_for_count(PATIENCE, 10).await?;
        let mut silences = vec![];
        for run in 0..runs {
            let begin = Timestamp::now();
            replicas.take_over(way).await?;
            let led = Timestamp::now();
            let heard = receiver.wait_for_count(PATIENCE, receiver.heard().len() + 20);
            silences.push(silence(&heard.await?, begin, led));
            eprintln!("{way:?} {run}: {:?}", silences.last());
        }
        silences.sort();
        Ok(silences)
    };
    let silences = tokio::select! {
        changed = changing => changed.map(|()| vec![]),
        silences = measuring => silences,
    }?;
    let mut ids: Vec<_> = receiver
        .heard()
        .iter()
        .filter_map(|it| it.header("webhook-id").map(str::to_owned))
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    Ok(TakeOvers {
        silences,
        twice: all - ids.len(),
    })
}

/// The longest time without a request, of those that began or ended in between.
fn silence(heard: &[Heard], begin: Timestamp, led: Timestamp) -> Duration {
    let second = SignedDuration::from_secs(1);
    let (begin, end) = (begin - second, led + second * 3);
    let near: Vec<_> = heard
        .iter()
        .map(|it| it.at)
        .filter(|at| (begin..end).contains(at))
        .collect();
    let pairs = near.windows(2);
    let longest = pairs.map(|pair| pair[1].duration_since(pair[0])).max();
    longest.unwrap_or_default().unsigned_abs()
}

/// Starts and deletes a pod again and again.
async fn change(cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let at_once = DeleteParams::default().grace_period(0);
    let mut every = tokio::time::interval(APART);
    for number in 0.. {
        every.tick().await;
        let name = format!("pod-{number}");
        let image = format!("registry.example/{name}:1");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"nodeName": "nobody", "containers": [{"name": "app", "image": image}]},
        });
        apply(&cluster.client(), pod).await?;
        let digest = digest(number);
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "image": image, "imageID": format!("registry.example/{name}@sha256:{digest}"),
            "containerID": format!("containerd://{digest}"), "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-07-14T08:15:30Z"}},
        }]}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await?;
        if let Some(old) = number.checked_sub(PODS) {
            pods.delete(&format!("pod-{old}"), &at_once).await?;
        }
    }
    Ok(())
}

/// A replica, and the proxy between it and the API server if it may be cut off.
struct Replica(Operator, Option<Proxy>);

/// The replicas of one operator.
struct Replicas<'a> {
    cluster: &'a Cluster,
    started: usize,
    leader: Option<Replica>,
}

impl Replicas<'_> {
    async fn begin(&mut self, way: Way) -> Result<()> {
        let first = self.start(way).await?;
        leads(&first.0).await?;
        self.leader = Some(first);
        Ok(())
    }

    async fn start(&mut self, way: Way) -> Result<Replica> {
        self.started += 1;
        let pod: &'static str = format!("pod-{}", self.started).leak();
        let proxy = match way {
            Way::CutOff => Some(Proxy::start(&self.cluster.plane)?),
            _ => None,
        };
        let kubeconfig = proxy.as_ref().map(|proxy| proxy.kubeconfig(None));
        let cast = Cast {
            name: format!("operator-{pod}"),
            pod: Some(pod),
            kubeconfig: kubeconfig.transpose()?,
            ..Cast::default()
        };
        let operator = stage::operator(self.cluster, &cast).await?;
        Ok(Replica(operator, proxy))
    }

    /// Starts another replica, lets the one that leads go, and waits until the other leads.
    async fn take_over(&mut self, way: Way) -> Result<()> {
        let next = self.start(way).await?;
        // It has taken up what there is.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let Replica(mut old, proxy) = self.leader.take().context("nobody leads")?;
        match way {
            Way::Terminated => {
                ensure!(old.terminate(PATIENCE).await?.success(), "it failed");
                leads(&next.0).await?;
            }
            Way::Killed => {
                old.kill_9();
                leads(&next.0).await?;
            }
            Way::StoodStill => {
                old.pause()?;
                leads(&next.0).await?;
                old.resume()?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                old.kill_9();
            }
            Way::CutOff => {
                let proxy = proxy.context("no proxy")?;
                proxy.answer_with(|_| Action::Hang);
                proxy.cut();
                leads(&next.0).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
                old.kill_9();
            }
        }
        self.leader = Some(next);
        Ok(())
    }
}

/// Waits until an operator leads.
async fn leads(operator: &Operator) -> Result<()> {
    eventually(PATIENCE, "a new leader", async || {
        let (_, metrics) = operator.get("/metrics").await?;
        ensure!(metrics.contains("shipbell_leader 1\n"), "it does not lead");
        Ok(())
    })
    .await
}
