//! A fake node: it registers, runs the pods bound to it as the [`Registry`] scripts, and takes deleted pods
//! away. No container ever runs.
//!
//! Each pod is driven by a task of its own. The watch does nothing but hand out what it sees, because the API
//! server closes the watch of a reader that is slow, and a kubelet that missed a pod would hang a test.

use crate::{
    pod_run::PodRun,
    registry::{Image, Registry},
};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::AbortHandle,
};

/// So many writes at once: more would only open more connections.
const WRITES: usize = 24;
const RETRY: Duration = Duration::from_millis(100);

/// A fake node. It ends when dropped, and leaves its Node and pods as they are.
#[derive(Debug)]
pub struct FakeKubelet {
    node: Arc<FakeNode>,
    watch: Mutex<AbortHandle>,
}

#[derive(Debug)]
struct FakeNode {
    name: String,
    client: ClientSlot,
    registry: Registry,
    writes: Semaphore,
    /// By UID: a `StatefulSet`'s pods come again under their names.
    pods: Mutex<BTreeMap<String, Driven>>,
}

/// kube's client, which has no Debug.
struct ClientSlot(Client);

impl std::fmt::Debug for ClientSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// One pod, as last seen, and what it is doing.
#[derive(Debug)]
struct Slot {
    state: Mutex<(Pod, PodRun)>,
    poke: Notify,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, (Pod, PodRun)> {
        self.state
            .lock()
            .expect("nobody panics while holding a pod")
    }
}

/// A pod and the task that drives it, which ends with it.
#[derive(Debug)]
struct Driven {
    slot: Arc<Slot>,
    driver: AbortHandle,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl FakeKubelet {
    /// Registers a node with a registry of its own and starts to run pods.
    pub async fn start(client: Client, node: &str) -> Result<Self> {
        Self::start_with(client, node, Registry::default()).await
    }

    /// Registers a further node, which shares the registry of others.
    pub async fn start_with(client: Client, node: &str, registry: Registry) -> Result<Self> {
        register(&client, node).await?;
        let node = Arc::new(FakeNode {
            name: node.to_owned(),
            client: ClientSlot(client),
            registry,
            writes: Semaphore::new(WRITES),
            pods: Mutex::default(),
        });
        let watch = tokio::spawn(watch(node.clone())).abort_handle();
        Ok(FakeKubelet {
            node,
            watch: Mutex::new(watch),
        })
    }

    /// Scripts an image: what containers of it do from now on.
    pub fn image(&self, name: &str, image: Image) {
        self.node.registry.set(name, image);
    }

    /// The digest that containers of an image get from now on, 64 hex digits.
    pub fn digest_of(&self, image: &str) -> String {
        self.node.registry.digest_of(image)
    }

    /// The registry, for a further node.
    pub fn registry(&self) -> &Registry {
        &self.node.registry
    }

    /// Rewrites the imageID of a container that goes on running.
    pub fn set_image_id(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        image_id: &str,
    ) -> Result<()> {
        self.change(namespace, pod, |run| run.set_image_id(container, image_id))
            .with_context(|| format!("no container {container} of {namespace}/{pod}"))
    }

    /// Restarts a running container, which gets a new containerID, and the image its spec names by now.
    pub fn restart_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.change(namespace, pod, |run| {
            run.restart(container, Timestamp::now())
        })
        .with_context(|| format!("no running container {container} of {namespace}/{pod}"))
    }

    fn change(
        &self,
        namespace: &str,
        name: &str,
        change: impl Fn(&mut PodRun) -> bool,
    ) -> Result<()> {
        let pods = self.node.pods();
        let changed = pods.values().any(|Driven { slot, .. }| {
            let mut state = slot.state();
            let metadata = &state.0.metadata;
            let meant = metadata.namespace.as_deref() == Some(namespace)
                && metadata.name.as_deref() == Some(name);
            let changed = meant && change(&mut state.1);
            if changed {
                slot.poke.notify_one();
            }
            changed
        });
        ensure!(changed, "nothing was changed");
        Ok(())
    }
}

impl FakeKubelet {
    /// Stops, as a node that loses its power does.
    pub fn stop(&self) {
        self.watch().abort();
        self.node.pods().clear();
    }

    /// Starts anew on a cluster that may not be as it was: it was set back, say.
    pub async fn restart(&self) -> Result<()> {
        self.stop();
        register(&self.node.client.0, &self.node.name).await?;
        *self.watch() = tokio::spawn(watch(self.node.clone())).abort_handle();
        Ok(())
    }

    fn watch(&self) -> MutexGuard<'_, AbortHandle> {
        self.watch
            .lock()
            .expect("nobody panics while holding the watch")
    }
}

impl Drop for FakeKubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Creates the Node (or takes over one of that name) and makes it schedulable.
async fn register(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }}});
    match nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await
    {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        other => drop(other?),
    }
    let room = json!({"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "2000"});
    let status = json!({"status": {
        "capacity": room,
        "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "nodeInfo": {
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
            "kernelVersion": "6.1.0", "kubeProxyVersion": "", "kubeletVersion": kube_assets::KUBERNETES_VERSION,
            "machineID": "", "operatingSystem": "linux", "osImage": "fake", "systemUUID": "",
        },
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    // A new node is born with a not-ready taint that node-lifecycle-controller, which we don't run, would lift.
    let untainted = json!({"spec": {"taints": null}});
    nodes
        .patch(name, &PatchParams::default(), &Patch::Merge(untainted))
        .await?;
    Ok(())
}

/// Tries again soon, always: a test has no time for exponential patience.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// Follows the node's pods. kube's watcher goes on where a watch ended and lists anew when that is too long ago.
async fn watch(node: Arc<FakeNode>) {
    let pods: Api<Pod> = Api::all(node.client.0.clone());
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name));
    let mut events: BoxStream<_> = watcher::watcher(pods, ours).backoff(Steady).boxed();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                node.apply(pod);
            }
            Ok(Event::InitDone) => node.pods().retain(|uid, _| listed.contains(uid)),
            Ok(Event::Apply(pod)) => node.apply(pod),
            Ok(Event::Delete(pod)) => {
                node.pods()
                    .remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
            // The API server is away; the watcher comes back to it.
            Err(_) => {}
        }
    }
}

impl FakeNode {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Driven>> {
        self.pods
            .lock()
            .expect("nobody panics while holding the pods")
    }

    fn apply(self: &Arc<Self>, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods();
        if let Some(Driven { slot, .. }) = pods.get(&uid) {
            slot.state().0 = pod;
            slot.poke.notify_one();
            return;
        }
        let slot = Arc::new(Slot {
            state: Mutex::new((pod, PodRun::default())),
            poke: Notify::new(),
        });
        let driver = tokio::spawn(drive(self.clone(), slot.clone())).abort_handle();
        pods.insert(uid, Driven { slot, driver });
    }

    async fn write_status(&self, pod: &Pod, status: &PodStatus) -> kube::Result<()> {
        let (pods, name) = self.pod_api(pod);
        // With the UID, so that it is never a namesake's status.
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let _turn = self.writes.acquire().await;
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(body))
            .await
            .map(drop)
    }

    async fn remove(&self, pod: &Pod) -> kube::Result<()> {
        let (pods, name) = self.pod_api(pod);
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        let _turn = self.writes.acquire().await;
        pods.delete(name, &now).await.map(drop)
    }

    fn pod_api<'a>(&self, pod: &'a Pod) -> (Api<Pod>, &'a str) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        (Api::namespaced(self.client.0.clone(), namespace), name)
    }
}

/// Drives one pod: step, write, wait for the next thing to happen, until the pod is gone.
async fn drive(node: Arc<FakeNode>, slot: Arc<Slot>) {
    let mut written = None;
    let mut changes = node.registry.changes();
    loop {
        let (pod, turn) = {
            let (pod, run) = &mut *slot.state();
            (pod.clone(), run.step(pod, &node.registry, Timestamp::now()))
        };
        let work = async {
            if written.as_ref() != Some(&turn.status) {
                node.write_status(&pod, &turn.status).await?;
                written = Some(turn.status);
            }
            if turn.gone {
                node.remove(&pod).await
            } else {
                Ok(())
            }
        };
        match work.await {
            Ok(()) if turn.gone => return,
            Ok(()) => {}
            // Not there any more, or another of that name is.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                return;
            }
            Err(error) => {
                if let kube::Error::Api(status) = &error {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    eprintln!("fake kubelet: {name}: {status}");
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let wake = async {
            match turn.wake {
                Some(at) => {
                    let left = at.duration_since(Timestamp::now());
                    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = slot.poke.notified() => {}
            _ = changes.changed() => {}
            () = wake => {}
        }
    }
}
