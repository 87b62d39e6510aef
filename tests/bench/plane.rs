//! Part B: a real control plane, from the API server's acknowledgement of a change to the request that tells of it; and
//! one change that many settings ask for.

use crate::{
    receiver::Receiver,
    subject::{Subject, Who},
};
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, pin_mut, stream};
use k8s_openapi::api::core::v1::Pod;
use kit::{Cluster, PlaneOptions, apply, cluster::PATIENCE, eventually, stub::pods::digest};
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::watcher::{self, watcher},
};
use serde_json::json;
use shipbell::api::NotificationSetting;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// So far apart that no change waits for the snapshot of the one before.
const APART: Duration = Duration::from_millis(1_100);

/// Of each change, in milliseconds: from the sending of the write, and from its acknowledgement. The latter may be less
/// than nothing: the API server tells its watches while it answers, and whoever writes has to read the answer first.
pub type Lag = (f64, f64);

/// How long it took to tell of each change.
#[derive(Debug, Default)]
pub struct Latencies {
    /// The operator.
    pub shipbell: Vec<Lag>,
    /// The stock subject.
    pub stock: Vec<Lag>,
    /// A watch that does nothing: what the API server takes.
    pub watch: Vec<Lag>,
}

/// One change that many settings ask for.
#[derive(Clone, Copy, Debug)]
pub struct Fan {
    /// Settings.
    pub settings: usize,
    /// Events of the one snapshot.
    pub events: usize,
    /// Deliveries a second, from the first to the last.
    pub rate: f64,
    /// CPU time of a delivery, all that goes with it included.
    pub cpu: Duration,
}

/// Changes that follow each other, of which many settings tell one receiver.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// From the last change, acknowledged by the API server, to the last delivery.
    pub took: Duration,
    /// The most memory that the operator ever had, in bytes.
    pub peak: u64,
    /// How often the status of a setting was written, from the first change on.
    pub writes: f64,
}

/// A control plane with the kinds, a namespace and an Environment over it.
pub struct Stage {
    cluster: Cluster,
    namespace: String,
    receiver: Receiver,
    ca: String,
}

impl Stage {
    /// Starts it.
    pub async fn start(directory: &Path) -> Result<Self> {
        let cluster = Cluster::start(PlaneOptions::default()).await?;
        kit::stage::install(&cluster).await?;
        let namespace = cluster.namespace("bench").await?;
        let receiver = Receiver::start(32, true)?;
        let ca = directory.join("receiver-ca.pem");
        std::fs::write(&ca, &receiver.ca_pem)?;
        Ok(Self {
            cluster,
            namespace,
            receiver,
            ca: ca.display().to_string(),
        })
    }

    async fn environment(&self, settle: &str) -> Result<()> {
        let name = &self.namespace;
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {name}}}\nspec: {{namespaces: {{include: [{name}]}}, visibleTo: [{name}], settle: {settle}}}\n"
        );
        apply(&self.cluster.client(), yaml.as_str()).await?;
        Ok(())
    }

    fn setting(&self, name: &str, host: usize) -> serde_json::Value {
        json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "NotificationSetting", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"environments": [self.namespace], "webhook": {"url": self.receiver.url(host, &format!("shipbell/{name}"))}},
        })
    }

    /// Waits until so many settings have their cursors.
    async fn handled(&self, count: usize) -> Result<()> {
        let settings: Api<NotificationSetting> =
            Api::namespaced(self.cluster.client(), &self.namespace);
        eventually(PATIENCE, "the settings to be taken up", async || {
            let all = settings.list(&kube::api::ListParams::default()).await?;
            let handled = all.items.iter().filter(|setting| {
                let status = setting.status.as_ref();
                status.is_some_and(|status| {
                    status.observed_generation == setting.metadata.generation
                        && !status.cursors.is_empty()
                })
            });
            let handled = handled.count();
            ensure!(handled >= count, "{handled} of {count}");
            Ok(())
        })
        .await
    }

    /// Creates a pod of `containers` containers, on a node which nobody keeps: its status is what this program says.
    async fn pod(&self, name: &str, containers: usize) -> Result<()> {
        let containers: Vec<_> = (0..containers)
            .map(|number| json!({"name": format!("app-{number}"), "image": image(name, number)}))
            .collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"nodeName": "nobody", "containers": containers},
        });
        apply(&self.cluster.client(), pod).await?;
        Ok(())
    }

    /// Says that a pod's containers run these digests; when that was sent, and when the API server had acknowledged it.
    async fn runs(&self, name: &str, digests: &[String]) -> Result<(Instant, Instant)> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client(), &self.namespace);
        let statuses = digests.iter().enumerate().map(|(number, digest)| {
            json!({
                "name": format!("app-{number}"), "image": image(name, number), "imageID": format!("registry.example/{name}@sha256:{digest}"),
                "containerID": format!("containerd://{digest}"), "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-07-14T08:15:30Z"}},
            })
        });
        let statuses: Vec<_> = statuses.collect();
        let status = json!({"status": {"phase": "Running", "containerStatuses": statuses}});
        let sent = Instant::now();
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
            .await?;
        Ok((sent, Instant::now()))
    }

    /// Makes `count` changes, one at a time, and looks when each subject tells of it.
    pub async fn latencies(&self, count: usize, directory: &Path) -> Result<Latencies> {
        self.environment("{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}")
            .await?;
        apply(&self.cluster.client(), self.setting("one", 1)).await?;
        let names: Vec<_> = (0..count)
            .map(|number| format!("change-{number}"))
            .collect();
        for name in &names {
            self.pod(name, 1).await?;
        }
        let kubeconfig = self.cluster.plane.admin_kubeconfig();
        let ca = format!("--extra-ca-file={}", self.ca);
        let mut operator = Subject::start(Who::Shipbell, &kubeconfig, &[ca], directory)?;
        operator.ready().await?;
        let stock = [
            format!("--post={}", self.receiver.url(2, "stock")),
            format!("--ca={}", self.ca),
        ];
        let mut stock = Subject::start(Who::Stock, &kubeconfig, &stock, directory)?;
        stock.ready().await?;
        self.handled(1).await?;
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let null = tokio::spawn(null(self.cluster.client(), seen.clone()));
        tokio::time::sleep(Duration::from_secs(3)).await;

        let mut acknowledged = BTreeMap::new();
        for (number, name) in (0..).zip(&names) {
            let digests = [digest(number)];
            let at = self.runs(name, &digests).await?;
            let [digest] = digests;
            acknowledged.insert(digest, at);
            tokio::time::sleep(APART).await;
        }
        let patience = Duration::from_secs(15);
        self.receiver
            .wait(2 * count, patience)
            .await
            .with_context(|| format!("the operator's log ends\n{}", operator.log_tail()))?;
        null.abort();
        let mut latencies = Latencies::default();
        for (path, body, at) in self.receiver.kept() {
            let found = acknowledged
                .iter()
                .find(|(digest, _)| body.contains(*digest));
            let (_, acknowledged) =
                found.with_context(|| format!("an unknown digest in {body}"))?;
            let of = match path.as_str() {
                "/stock" => &mut latencies.stock,
                _ => &mut latencies.shipbell,
            };
            of.push(lag(*acknowledged, at));
        }
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, at) in &acknowledged {
            if let Some(seen) = seen.get(digest) {
                latencies.watch.push(lag(*at, *seen));
            }
        }
        ensure!(
            latencies.shipbell.len() == count && latencies.stock.len() == count,
            "requests for {count} changes: {} and {}",
            latencies.shipbell.len(),
            latencies.stock.len()
        );
        Ok(latencies)
    }

    /// Starts the operator, and waits until it rests with so many settings.
    async fn operator(&self, settings: usize, directory: &Path) -> Result<Subject> {
        let ca = format!("--extra-ca-file={}", self.ca);
        let kubeconfig = self.cluster.plane.admin_kubeconfig();
        let mut operator = Subject::start(Who::Shipbell, &kubeconfig, &[ca], directory)?;
        operator.ready().await?;
        self.handled(settings).await?;
        // The statuses of all of them.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(operator)
    }

    /// Starts `events` artifacts at once, in one pod, of which `settings` settings are told.
    pub async fn fan(&self, settings: usize, events: usize, directory: &Path) -> Result<Fan> {
        self.environment("{quiet: 3s, max: 10s, rollout: 30s, scaling: 3s}")
            .await?;
        for number in 1..settings {
            let setting = self.setting(&format!("many-{number}"), number % 32 + 1);
            apply(&self.cluster.client(), setting).await?;
        }
        self.pod("fan", events).await?;
        let operator = self.operator(settings, directory).await?;
        let (before, cpu) = (self.receiver.count(), operator.cpu()?);
        let digests: Vec<_> = (10_000..).take(events).map(digest).collect();
        self.runs("fan", &digests).await?;
        let all = settings * events;
        self.receiver
            .wait(before + all, Duration::from_secs(120))
            .await
            .with_context(|| format!("the operator's log ends\n{}", operator.log_tail()))?;
        let cpu = (operator.cpu()? - cpu) / u32::try_from(all)?;
        let kept = self.receiver.kept();
        let times = kept[before..].iter().map(|(_, _, at)| *at);
        let (first, last) = (times.clone().min(), times.max());
        let took = last
            .zip(first)
            .map_or(Duration::ZERO, |(last, first)| last - first);
        #[allow(clippy::cast_precision_loss)]
        let rate = all as f64 / took.as_secs_f64();
        Ok(Fan {
            settings,
            events,
            rate,
            cpu,
        })
    }

    /// Makes `changes` changes as fast as they can be made; `settings` settings tell one receiver of each.
    pub async fn burst(&self, settings: usize, changes: usize, directory: &Path) -> Result<Burst> {
        self.environment("{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}")
            .await?;
        let create = |number| async move {
            let setting = self.setting(&format!("burst-{number}"), 1);
            apply(&self.cluster.client(), setting).await
        };
        let created = stream::iter(0..settings).map(create).buffer_unordered(8);
        created.try_collect::<Vec<_>>().await?;
        let names: Vec<_> = (0..changes)
            .map(|number| format!("burst-{number}"))
            .collect();
        for name in &names {
            self.pod(name, 1).await?;
        }
        let operator = self.operator(settings, directory).await?;
        let before = self.receiver.count();
        let writes = Arc::new(AtomicUsize::new(0));
        let counting = tokio::spawn(count_writes(self.cluster.client(), writes.clone()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut last_change = Instant::now();
        for (number, name) in (20_000..).zip(&names) {
            (_, last_change) = self.runs(name, &[digest(number)]).await?;
        }
        self.receiver
            .wait(before + settings * changes, Duration::from_secs(180))
            .await
            .with_context(|| format!("the operator's log ends\n{}", operator.log_tail()))?;
        let kept = self.receiver.kept();
        let last = kept[before..].iter().map(|(_, _, at)| *at).max();
        let took = last.unwrap_or(last_change) - last_change;
        // What is still to be acknowledged.
        tokio::time::sleep(Duration::from_secs(10)).await;
        counting.abort();
        let (_, peak) = operator.memory()?;
        #[allow(clippy::cast_precision_loss)]
        let writes = writes.load(Ordering::Relaxed) as f64 / settings as f64;
        Ok(Burst { took, peak, writes })
    }
}

/// Counts the changes of all settings from now on; only the operator changes them.
async fn count_writes(client: kube::Client, writes: Arc<AtomicUsize>) {
    let settings = Api::<NotificationSetting>::all(client);
    let events = watcher(settings, watcher::Config::default());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(_)) = event {
            writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lag((sent, acknowledged): (Instant, Instant), at: Instant) -> Lag {
    let since = |from: Instant| match at.checked_duration_since(from) {
        Some(after) => after.as_secs_f64() * 1e3,
        None => -(from - at).as_secs_f64() * 1e3,
    };
    (since(sent), since(acknowledged))
}

fn image(pod: &str, container: usize) -> String {
    format!("registry.example/{pod}-{container}:v1")
}

/// Reads and discards: the subject that does nothing.
async fn null(client: kube::Client, seen: Arc<Mutex<BTreeMap<String, Instant>>>) {
    let events = watcher(Api::<Pod>::all(client), watcher::Config::default());
    pin_mut!(events);
    while let Some(Ok(event)) = events.next().await {
        let watcher::Event::Apply(pod) = event else {
            continue;
        };
        let statuses = pod.status.and_then(|status| status.container_statuses);
        for status in statuses.unwrap_or_default() {
            if let Some((_, digest)) = status.image_id.rsplit_once(':') {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.entry(digest.to_owned()).or_insert_with(Instant::now);
            }
        }
    }
}
