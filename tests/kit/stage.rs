//! The stage of the stories: the operator as a process, on a real control plane, and an actor for each test: a
//! namespace, an Environment over it, and settings that lead to recording receivers.

use crate::{
    apply,
    cluster::{self, Cluster, PATIENCE, story},
    operator::{Operator, OperatorOptions, binary},
    receiver::{Heard, Receiver},
    wait::{eventually, stays},
    workloads::deployment,
};
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use shipbell::{
    api::{
        Environment, EnvironmentSnapshot, EnvironmentSnapshotSpec, NotificationSetting,
        NotificationSettingStatus,
    },
    snapshot::{event, ledger::content_hash},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tokio::sync::OnceCell;

/// The namespace the operator runs in.
pub const HOME: &str = "shipbell";

/// Settle times for tests: short, but for `max`: nothing may be told before it is over, however slow the machine.
pub const SETTLE: &str = "{quiet: 600ms, max: 40s, rollout: 2m, scaling: 2s}";

/// Asks for all that can become of an artifact.
pub const ALL: &str = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]";

/// Puts the kinds into a cluster, and an account with the right to do everything that the operator does.
pub async fn install(cluster: &Cluster) -> Result<()> {
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
    let mut files: Vec<_> = std::fs::read_dir(crds)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        apply(&cluster.client(), std::fs::read_to_string(file)?.as_str()).await?;
    }
    let home = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}});
    apply(&cluster.client(), home).await?;
    Ok(())
}

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Its name, for its log file.
    pub name: String,
    /// The UID of its pod, if it is not that of all others.
    pub pod: Option<&'static str>,
    /// The organisation.
    pub org: &'static str,
    /// Further arguments.
    pub args: Vec<String>,
    /// Where it reaches the API server, if not directly as an admin.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// Which destinations are open that are closed by default.
    pub open: &'static str,
    /// Which log lines it writes.
    pub log: &'static str,
    /// How many bytes of data it may have in memory, if that is limited.
    pub memory: Option<u64>,
}

impl Default for Cast {
    fn default() -> Self {
        Cast {
            name: "operator".to_owned(),
            pod: None,
            org: "acme",
            args: vec![],
            kubeconfig: None,
            open: "127.0.0.1",
            log: "shipbell=debug,info",
            memory: None,
        }
    }
}

/// Starts an operator on a cluster, and waits until it is ready.
pub async fn operator(cluster: &Cluster, cast: &Cast) -> Result<Operator> {
    let mut operator = spawn(cluster, cast)?;
    operator.wait_ready(PATIENCE).await?;
    Ok(operator)
}

/// Starts an operator on a cluster, whatever becomes of it.
pub fn spawn(cluster: &Cluster, cast: &Cast) -> Result<Operator> {
    let mut args: Vec<String> = [
        "run",
        "--cluster-name=test-cluster",
        "--default-environment=false",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("--org={}", cast.org));
    args.push(format!("--namespace={HOME}"));
    args.push(format!("--log={}", cast.log));
    if !cast.open.is_empty() {
        args.push(format!("--allow-destination={}", cast.open));
    }
    args.extend(cast.args.clone());
    let kubeconfig = cast.kubeconfig.clone();
    let options = OperatorOptions {
        binary: binary()?,
        kubeconfig: kubeconfig.unwrap_or_else(|| cluster.plane.admin_kubeconfig()),
        args,
        env: cast
            .pod
            .iter()
            .map(|uid| ("SHIPBELL_POD_UID".to_owned(), (*uid).to_owned()))
            .collect(),
        log: cluster.plane.directory().join(format!("{}.log", cast.name)),
    };
    match cast.memory {
        Some(bytes) => Operator::spawn_within(&options, bytes),
        None => Operator::spawn(&options),
    }
}

/// Runs a story on the shared cluster, on which one operator serves all stories of this binary.
pub fn play(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    static OPERATOR: OnceCell<Operator> = OnceCell::const_new();
    story(async |cluster| {
        let started = OPERATOR.get_or_try_init(async || {
            install(cluster).await?;
            operator(cluster, &Cast::default()).await
        });
        started.await?;
        test(cluster).await
    });
}

/// Runs a story on a control plane of its own, on which nobody plays yet: for operators that are killed, or started in
/// another way than that of [`play`].
pub fn alone(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    cluster::alone(async |cluster| {
        install(cluster).await?;
        test(cluster).await
    });
}

/// A namespace with an Environment of the same name over it.
#[derive(Debug)]
pub struct Actor {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The name of the namespace and of the Environment.
    pub name: String,
}

impl Actor {
    /// An actor with the settle times of tests, whose baseline is recorded.
    pub async fn new(cluster: &'static Cluster, name: &str) -> Result<Actor> {
        Self::with(cluster, name, SETTLE).await
    }

    /// An actor with these settle times (YAML), whose baseline is recorded.
    pub async fn with(cluster: &'static Cluster, name: &str, settle: &str) -> Result<Actor> {
        Self::cast(cluster, name, &format!("settle: {settle}")).await
    }

    /// An actor whose Environment has these fields (YAML, one line each), and whose baseline is recorded.
    pub async fn cast(cluster: &'static Cluster, name: &str, fields: &str) -> Result<Actor> {
        let name = cluster.namespace(name).await?;
        let actor = Actor { cluster, name };
        actor.environment(fields).await?;
        actor.recorded(1).await?;
        Ok(actor)
    }

    /// An actor with these settle times, and a receiver that hears of everything.
    pub async fn heard(
        cluster: &'static Cluster,
        name: &str,
        settle: &str,
    ) -> Result<(Actor, Receiver)> {
        let actor = Self::with(cluster, name, settle).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        Ok((actor, receiver))
    }

    /// Applies a further Environment that the actor's namespace may hear of, and waits for its baseline.
    pub async fn further_environment(&self, name: &str, fields: &str) -> Result<()> {
        let visible = &self.name;
        let fields = fields.replace('\n', "\n  ");
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {name}}}\nspec:\n  visibleTo: [{visible}]\n  {fields}\n"
        );
        apply(&self.cluster.client(), yaml.as_str()).await?;
        eventually(PATIENCE, &format!("the baseline of {name}"), async || {
            Ok::<_, anyhow::Error>(!log(self.cluster, name).await?.is_empty())
        })
        .await
    }

    /// Runs kubectl in the actor's namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let namespace = format!("--namespace={}", self.name);
        let args: Vec<&str> = [namespace.as_str()]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        self.cluster.plane.kubectl(&args).await
    }

    /// Waits until so many pods of an `app` label are there and all their containers run.
    pub async fn running(&self, app: &str, count: usize) -> Result<Vec<Pod>> {
        let what = format!("{count} running pods of {}/{app}", self.name);
        let runs = |pod: &Pod| {
            let statuses = pod
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref());
            statuses.is_some_and(|statuses| {
                statuses.iter().all(|status| {
                    status
                        .state
                        .as_ref()
                        .is_some_and(|state| state.running.is_some())
                })
            })
        };
        self.cluster
            .pods_when(&self.name, app, &what, |pods| {
                pods.len() == count && pods.iter().all(runs)
            })
            .await
    }

    /// The log of the actor's Environment, if it is one: see [`sound`].
    pub async fn sound_log(&self) -> Result<Vec<EnvironmentSnapshotSpec>> {
        let log = self.log().await?;
        sound(&log)?;
        Ok(log)
    }

    /// Applies the Environment with further fields of its spec (YAML, one line each).
    pub async fn environment(&self, fields: &str) -> Result<()> {
        let name = &self.name;
        let fields = fields.replace('\n', "\n  ");
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {name}}}\nspec:\n  namespaces: {{include: [{name}]}}\n  visibleTo: [{name}]\n  {fields}\n"
        );
        apply(&self.cluster.client(), yaml.as_str()).await?;
        Ok(())
    }

    /// Applies a webhook setting in the actor's namespace, and waits until its cursors are placed.
    pub async fn webhook(&self, name: &str, receiver: &Receiver, fields: &str) -> Result<()> {
        let url = receiver.url("/hook");
        self.setting(name, &format!("webhook: {{url: '{url}'}}\n{fields}"))
            .await?;
        self.handled(name).await
    }

    /// Applies a setting for the actor's Environment with these further fields (YAML, one line each).
    pub async fn setting(&self, name: &str, fields: &str) -> Result<()> {
        let namespace = &self.name;
        let fields = fields.replace('\n', "\n  ");
        let environments = if fields.contains("environments:") {
            String::new()
        } else {
            format!("\n  environments: [{namespace}]")
        };
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: NotificationSetting\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:{environments}\n  {fields}\n"
        );
        apply(&self.cluster.client(), yaml.as_str()).await?;
        Ok(())
    }

    /// Puts a URL into a Secret of the actor's namespace.
    pub async fn secret(&self, name: &str, url: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": self.name}, "stringData": {"url": url},
        });
        apply(&self.cluster.client(), secret).await?;
        Ok(())
    }

    /// Applies workloads.
    pub async fn apply(&self, workload: impl Into<Value>) -> Result<()> {
        apply(&self.cluster.client(), workload.into()).await?;
        Ok(())
    }

    /// Starts a Deployment of one pod, with an image `r.example/{app}:v1`, and waits until that is recorded.
    pub async fn starts(&self, app: &str) -> Result<()> {
        let image = format!("r.example/{app}:v1");
        let before = self.log().await?.len();
        self.apply(deployment(&self.name, app, &image, 1)).await?;
        let what = format!("the start of {image} to be recorded in {}", self.name);
        eventually(PATIENCE, &what, async || {
            let log = self.log().await?;
            let mut changes = log.iter().skip(before).flat_map(|entry| &entry.changes);
            ensure!(
                changes.any(|change| change.name == image && change.now > 0),
                "{} snapshots",
                log.len()
            );
            Ok(())
        })
        .await
    }

    /// Merges a patch into a setting's spec.
    pub async fn edit(&self, setting: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.settings()
            .patch(setting, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Sets an annotation of a setting.
    pub async fn annotate(&self, setting: &str, key: &str, value: &str) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        self.settings()
            .patch(setting, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Deletes a setting.
    pub async fn delete(&self, setting: &str) -> Result<()> {
        self.settings()
            .delete(setting, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Says which namespaces may hear of the actor's Environment.
    pub async fn visible_to(&self, namespaces: &[&str]) -> Result<()> {
        let api: Api<Environment> = Api::all(self.cluster.client());
        let patch = Patch::Merge(json!({"spec": {"visibleTo": namespaces}}));
        api.patch(&self.name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Waits until the status of a setting is as `check` wants it, and returns it.
    pub async fn status_when(
        &self,
        setting: &str,
        what: &str,
        check: impl Fn(&NotificationSettingStatus) -> bool,
    ) -> Result<NotificationSettingStatus> {
        let what = format!("setting {}/{setting}: {what}", self.name);
        eventually(PATIENCE, &what, async || {
            let status = self.status(setting).await?;
            ensure!(check(&status), "{}", serde_json::to_string(&status)?);
            Ok(Some(status))
        })
        .await
    }

    /// Waits for a Kubernetes Event of this reason on a setting, and returns its note.
    pub async fn happened(&self, setting: &str, reason: &str) -> Result<String> {
        let api: Api<Event> = Api::namespaced(self.cluster.client(), &self.name);
        let what = format!("an Event {reason} on setting {}/{setting}", self.name);
        eventually(PATIENCE, &what, async || {
            let events = api.list(&ListParams::default()).await?.items;
            let of_setting = |event: &&Event| {
                let of = event.regarding.as_ref();
                of.is_some_and(|of| of.name.as_deref() == Some(setting))
            };
            let events: Vec<_> = events.iter().filter(of_setting).collect();
            let found = events
                .iter()
                .find(|event| event.reason.as_deref() == Some(reason))
                .with_context(|| {
                    let reasons: Vec<_> = events.iter().map(|event| &event.reason).collect();
                    format!("{reasons:?}")
                })?;
            anyhow::Ok(Some(found.note.clone().unwrap_or_default()))
        })
        .await
    }

    /// The settings of the actor's namespace.
    pub fn settings(&self) -> Api<NotificationSetting> {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// The status of a setting.
    pub async fn status(&self, setting: &str) -> Result<NotificationSettingStatus> {
        let setting = self.settings().get(setting).await?;
        Ok(setting.status.unwrap_or_default())
    }

    /// Waits until a setting has been handled in its newest form.
    pub async fn handled(&self, setting: &str) -> Result<()> {
        let what = format!("the operator to take up setting {}/{setting}", self.name);
        eventually(PATIENCE, &what, async || {
            let found = self.settings().get(setting).await?;
            let status = found.status.unwrap_or_default();
            ensure!(
                status.observed_generation == found.metadata.generation,
                "{status:?}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until a condition of a setting reads `status reason`, and returns its message.
    pub async fn condition(&self, setting: &str, type_: &str, want: &str) -> Result<String> {
        let what = format!("setting {}/{setting}: {type_} {want}", self.name);
        eventually(PATIENCE, &what, async || {
            let status = self.status(setting).await?;
            let condition = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == type_);
            let condition = condition.context("no such condition")?;
            let told = format!("{} {}", condition.status, condition.reason);
            ensure!(told == want, "{told}: {}", condition.message);
            Ok(Some(condition.message.clone()))
        })
        .await
    }

    /// The log of the actor's Environment, oldest first, without chunks.
    pub async fn log(&self) -> Result<Vec<EnvironmentSnapshotSpec>> {
        log(self.cluster, &self.name).await
    }

    /// Waits until the log has so many entries, and returns it.
    pub async fn recorded(&self, count: usize) -> Result<Vec<EnvironmentSnapshotSpec>> {
        let what = format!("{count} snapshots of {}", self.name);
        eventually(PATIENCE, &what, async || {
            let log = self.log().await?;
            ensure!(log.len() >= count, "{} snapshots", log.len());
            Ok(Some(log))
        })
        .await
    }

    /// Waits until what is recorded has so many artifacts and instances.
    pub async fn settled(&self, artifacts: i64, instances: i64) -> Result<()> {
        let what = format!(
            "{artifacts} artifacts and {instances} instances in {}",
            self.name
        );
        eventually(PATIENCE, &what, async || {
            let log = self.log().await?;
            let totals = log.last().context("no snapshot")?.totals;
            ensure!(
                (totals.artifacts, totals.instances) == (artifacts, instances),
                "{totals:?}"
            );
            Ok(())
        })
        .await
    }

    /// The UID of the actor's Environment.
    pub async fn uid(&self) -> Result<String> {
        let api: Api<Environment> = Api::all(self.cluster.client());
        let environment = api.get(&self.name).await?;
        environment.metadata.uid.context("it has no UID")
    }

    /// The status of the actor's Environment.
    pub async fn environment_status(&self) -> Result<shipbell::api::EnvironmentStatus> {
        let api: Api<Environment> = Api::all(self.cluster.client());
        Ok(api.get(&self.name).await?.status.unwrap_or_default())
    }
}

/// The log of an environment, oldest first, without chunks.
pub async fn log(cluster: &Cluster, environment: &str) -> Result<Vec<EnvironmentSnapshotSpec>> {
    let api: Api<EnvironmentSnapshot> = Api::all(cluster.client());
    let labels = format!("shipbell.dev/environment={environment},!shipbell.dev/chunk");
    let mut log: Vec<_> = api
        .list(&ListParams::default().labels(&labels))
        .await?
        .items
        .into_iter()
        .map(|snapshot| snapshot.spec)
        .collect();
    log.sort_by_key(|snapshot| snapshot.index);
    Ok(log)
}

/// Checks that these entries are a whole log: without a gap, each naming the hash of the one before, times in order, and
/// every change going on from where the last one of its artifact left off.
pub fn sound(log: &[EnvironmentSnapshotSpec]) -> Result<()> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    // Of what is in a baseline we know no more than the totals.
    let mut counted = 0;
    let mut previous: Option<&EnvironmentSnapshotSpec> = None;
    for (index, entry) in (1..).zip(log) {
        ensure!(
            entry.index == index,
            "{} where {index} should be",
            entry.index
        );
        ensure!(
            entry.content_hash == content_hash(entry),
            "the hash of {index} is not its own"
        );
        let before = previous.map(|entry| &entry.content_hash);
        ensure!(
            entry.previous.as_ref() == before,
            "{index} does not follow the one before"
        );
        if let Some(previous) = previous {
            ensure!(
                entry.time >= previous.time,
                "{index} was before the one before"
            );
            ensure!(
                entry.environment_uid == previous.environment_uid,
                "{index} is another log's"
            );
        }
        for change in &entry.changes {
            let was = counts
                .insert(&change.fingerprint, change.now)
                .unwrap_or(change.was);
            ensure!(
                was == change.was,
                "{index}: {} was {was}, not {}",
                change.name,
                change.was
            );
            counted += change.now - change.was;
        }
        if entry.checkpoint.is_some() && entry.changes.is_empty() {
            counts.clear();
            counted = entry.totals.instances;
        }
        let told = entry.totals.instances;
        ensure!(
            told == counted,
            "{index}: {told} instances in all, not {counted}"
        );
        previous = Some(entry);
    }
    Ok(())
}

/// Checks that requests speak of one snapshot.
pub fn together(heard: &[Heard]) -> Result<()> {
    let snapshots: BTreeSet<_> = heard
        .iter()
        .map(|heard| heard.json()["snapshot"]["index"].to_string())
        .collect();
    ensure!(
        snapshots.len() == 1,
        "not in one snapshot: {:?} in {snapshots:?}",
        told(heard)
    );
    Ok(())
}

/// Checks that all events of the log were told: each with its own id, all in order, the same bytes whenever it was told
/// again. How many were taken by the receiver more than once.
pub fn all_told(log: &[EnvironmentSnapshotSpec], heard: &[Heard]) -> Result<usize> {
    let mut expected = vec![];
    for entry in log {
        for ordinal in 0..entry.events.len() {
            expected.push(event::id(entry, ordinal));
        }
    }
    let places: HashMap<&str, usize> = expected
        .iter()
        .enumerate()
        .map(|(place, id)| (id.as_str(), place))
        .collect();
    ensure!(places.len() == expected.len(), "two events have one id");
    let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
    let (mut next, mut twice) = (0, 0);
    for request in heard {
        let id = request.header("webhook-id").context("no webhook-id")?;
        let Some(place) = places.get(id) else {
            bail!("told what the log doesn't say: {}", request.text());
        };
        let body = bodies.entry(id).or_insert(&request.body);
        ensure!(*body == request.body, "{id} was told in other words");
        ensure!(*place <= next, "event {place} was told before event {next}");
        if (200..300).contains(&request.answered) {
            if *place == next {
                next += 1;
            } else {
                twice += 1;
            }
        }
    }
    ensure!(
        next == expected.len(),
        "{next} of {} events were told",
        expected.len()
    );
    Ok(twice)
}

/// What was heard, in short: event type, image name without registry and tag, and the description's counts.
pub fn told(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(short).collect()
}

/// One webhook request in short: `STARTED web 0 to 1`.
pub fn short(heard: &Heard) -> String {
    let payload: Value = serde_json::from_slice(&heard.body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let type_ = text(&payload["event_type"]);
    let name = text(&payload["artifact"]["name"]);
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let description = text(&payload["description"]);
    let counts = description
        .split_once("(from ")
        .and_then(|(_, counts)| counts.strip_suffix(')'))
        .unwrap_or(&description);
    format!("{} {name} {counts}", type_.trim_start_matches("ARTIFACT_"))
}

/// Waits until a receiver has heard exactly these, in this order, and sees that nothing else follows for a while.
pub async fn hears(receiver: &Receiver, want: &[&str]) -> Result<Vec<Heard>> {
    receiver
        .wait_for(PATIENCE, |heard| heard.len() >= want.len())
        .await
        .with_context(|| format!("heard {:?}, waited for {want:?}", told(&receiver.heard())))?;
    let same = async || {
        let heard = told(&receiver.heard());
        ensure!(heard == want, "heard {heard:?}, not {want:?}");
        Ok(())
    };
    stays(Duration::from_millis(1_500), "what was heard", same).await?;
    Ok(receiver.heard())
}
