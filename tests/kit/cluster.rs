//! What all tests of a binary share: one plane with one fake node, started by the first test that asks, on a
//! runtime that lives as long as the process.
//!
//! Every test gets a namespace of its own and runs beside the others; namespaces are never deleted, which
//! would take seconds each.

use crate::{
    kept_logs::KeptLogs,
    kubelet::FakeKubelet,
    plane::{Plane, PlaneOptions},
    wait::eventually,
};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Long enough for a machine under load, and never waited out when all is well.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// No test that has a control plane of its own may take longer.
const AT_MOST: Duration = Duration::from_mins(3);

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
            async || rolled_out(&deployments.get(name).await?),
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

/// Whether a Deployment has rolled out: all replicas updated and available, and no others.
pub fn rolled_out(deployment: &Deployment) -> Result<()> {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ];
    ensure!(
        status.observed_generation == deployment.metadata.generation
            && counts.into_iter().all(|count| count.unwrap_or(0) == wanted),
        "{}: replicas, updated, available: {counts:?} of {wanted}",
        deployment.name_any()
    );
    Ok(())
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
    let _logs = KeptLogs::of(cluster.plane.directory());
    if let Err(error) = runtime().block_on(test(cluster)) {
        panic!("{error:#}");
    }
}

/// Runs a test on a control plane of its own, which takes some seconds to start: at most two at once.
pub fn alone(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    static PLANES: Semaphore = Semaphore::const_new(2);
    let outcome = runtime().block_on(async {
        let _place = PLANES.acquire().await?;
        let cluster = Cluster::start(PlaneOptions::default()).await?;
        // Actors live as long as the program; what runs is stopped below.
        let cluster: &'static Cluster = Box::leak(Box::new(cluster));
        let logs = KeptLogs::of(cluster.plane.directory());
        let began = Instant::now();
        let outcome = timeout(AT_MOST, test(cluster)).await;
        println!("took {:?}", began.elapsed());
        cluster.kubelet.stop();
        let outcome = outcome
            .context("it took too long")
            .and_then(|outcome| outcome);
        let outcome = outcome.with_context(|| {
            let directory = cluster.plane.directory();
            format!("{}; {}", log_tails(directory), logs.keep())
        });
        drop(logs);
        cluster.plane.discard();
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

/// The ends of what the operators wrote.
fn log_tails(directory: &Path) -> String {
    let mut text = "the operators' logs end".to_owned();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("operator") {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            text = format!("{text}\n--- {name}\n{end}\n");
        }
    }
    text
}
