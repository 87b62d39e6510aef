//! What all tests of a binary share: one plane with one fake node, started by the first test that asks, on a
//! runtime that lives as long as the process.
//!
//! Every test gets a namespace of its own and runs beside the others; namespaces are never deleted, which
//! would take seconds each.

use crate::{
    kubelet::FakeKubelet,
    plane::{Plane, PlaneOptions},
    wait::eventually,
};
use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;

/// Long enough for a machine under load, and never waited out when all is well.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A plane with a fake node.
#[derive(Debug)]
pub struct Cluster {
    /// The fake node `node-1`.
    pub kubelet: FakeKubelet,
    /// The control plane.
    pub plane: Plane,
    names: AtomicU32,
}

impl Cluster {
    /// Starts a plane and a node of its own, for a test that kills or counts.
    pub async fn start(options: PlaneOptions) -> Result<Self> {
        let plane = Plane::start(options).await?;
        let kubelet = FakeKubelet::start(plane.admin(), "node-1").await?;
        Ok(Cluster {
            kubelet,
            plane,
            names: AtomicU32::new(0),
        })
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.plane.admin()
    }

    /// Creates a namespace, called `name` and a number, that is ready for pods.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        self.labelled_namespace(name, &[]).await
    }

    /// Like [`Cluster::namespace`], with labels.
    pub async fn labelled_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<String> {
        let name = format!("{name}-{}", self.names.fetch_add(1, Ordering::Relaxed) + 1);
        let client = self.client();
        let labels: serde_json::Map<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        eventually(PATIENCE, "the ServiceAccount `default`", async || {
            accounts.get_opt("default").await
        })
        .await?;
        Ok(name)
    }

    /// Waits until a Deployment has rolled out: all replicas updated and available, and no others.
    pub async fn rolled_out(&self, namespace: &str, name: &str) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client(), namespace);
        eventually(
            PATIENCE,
            &format!("the rollout of {namespace}/{name}"),
            async || {
                let deployment = deployments.get(name).await?;
                let wanted = deployment.spec.replicas.unwrap_or(1);
                let status = deployment.status.unwrap_or_default();
                let counts = [
                    status.replicas,
                    status.updated_replicas,
                    status.available_replicas,
                ];
                ensure!(
                    status.observed_generation == deployment.metadata.generation
                        && counts.into_iter().all(|count| count.unwrap_or(0) == wanted),
                    "replicas, updated, available: {counts:?} of {wanted}"
                );
                Ok(())
            },
        )
        .await
    }

    /// Sets a Deployment's first container's image.
    pub async fn set_image(&self, namespace: &str, name: &str, image: &str) -> Result<()> {
        let containers = json!([{"name": "app", "image": image}]);
        let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        self.patch_deployment(namespace, name, patch).await
    }

    /// Sets a Deployment's replicas.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: u32) -> Result<()> {
        self.patch_deployment(namespace, name, json!({"spec": {"replicas": replicas}}))
            .await
    }

    async fn patch_deployment(
        &self,
        namespace: &str,
        name: &str,
        patch: serde_json::Value,
    ) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client(), namespace);
        deployments
            .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        Ok(())
    }

    /// The pods of one `app` label, sorted by name.
    pub async fn pods(&self, namespace: &str, app: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut pods = pods
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await?
            .items;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    /// Waits until the pods of one `app` label are as `check` wants them, and returns them.
    pub async fn pods_when(
        &self,
        namespace: &str,
        app: &str,
        what: &str,
        check: impl Fn(&[Pod]) -> bool,
    ) -> Result<Vec<Pod>> {
        eventually(PATIENCE, what, async || {
            let pods = self.pods(namespace, app).await?;
            let statuses: Vec<_> = pods
                .iter()
                .map(|pod| (&pod.metadata.name, &pod.status))
                .collect();
            ensure!(check(&pods), "{}", serde_json::to_string(&statuses)?);
            Ok(Some(pods))
        })
        .await
    }
}

/// The runtime that outlives every test.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made")
    })
}

/// The cluster all tests of this binary share, with an audit log. Panics when there is no plane to be had.
pub fn shared() -> &'static Cluster {
    // A failure is kept too: not every test has to wait for its own.
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        let options = PlaneOptions {
            audit: true,
            ..PlaneOptions::default()
        };
        let started = runtime().block_on(Cluster::start(options));
        started.map_err(|error| format!("{error:#}"))
    });
    started.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a test on the shared cluster, on the runtime that outlives it; panics on an error.
pub fn story(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    let cluster = shared();
    if let Err(error) = runtime().block_on(test(cluster)) {
        panic!("{error:#}");
    }
}
