//! `make demo`: the whole story on a real control plane of its own, a line per step and each message as it arrives. It ends
//! by itself and leaves nothing running; `KEEP=1` keeps it up until it is interrupted.
#![allow(clippy::print_stdout)]

mod narrator;

use anyhow::{Context as _, Result, bail, ensure};
use kit::{
    Cluster, Operator, OperatorOptions, PlaneOptions, Receiver, apply, deployment, eventually,
    operator::binary,
};
use kube::Client;
use narrator::{Narrator, note, show, title};
use serde_json::{Value, json};
use shipbell::api::EnvironmentSnapshot;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::runtime::Builder;

/// Long enough for a machine under load, and never waited out when all is well.
const PATIENCE: Duration = Duration::from_secs(60);
/// The namespace of the release.
const RELEASE: &str = "shipbell";
/// The namespace of the shop, whose team listens.
const SHOP: &str = "shop";

fn main() -> ExitCode {
    // The runtime's threads live as long as the demo: what they start dies with them.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(demo()))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    let tell = Narrator::new();
    title(
        "Shipbell notifies people when what runs in your cluster changes. This takes about 40 seconds, once all is built.",
    );

    tell.step("Starting a real control plane: etcd, kube-apiserver, controller manager, scheduler, and a fake node").await;
    let cluster = Cluster::start(PlaneOptions::default()).await?;
    let client = cluster.client();

    tell.step("Two workloads run already: `web` and `worker` in namespace `shop`")
        .await;
    apply(&client, namespace(SHOP)).await?;
    apply(
        &client,
        deployment(SHOP, "web", "registry.example.com/shop/web:v1", 3),
    )
    .await?;
    apply(
        &client,
        deployment(SHOP, "worker", "registry.example.com/shop/worker:v7", 2),
    )
    .await?;
    cluster.rolled_out(SHOP, "web").await?;
    cluster.rolled_out(SHOP, "worker").await?;

    tell.step(
        "Installing examples/install/shipbell.yaml: kinds, service account, and no more rights than it needs",
    )
    .await;
    install(&client).await?;

    let webhook = Receiver::start();
    let slack = Receiver::start();
    tell.listen("webhook", &webhook);
    tell.listen("slack", &slack);

    tell.step(
        "Starting the operator under that service account, as `shipbell run --cluster-name demo`",
    )
    .await;
    let mut operator = start(&cluster).await?;
    shortened(&cluster).await?;
    baseline(&cluster).await?;
    show(&cluster.plane.kubectl(&["get", "shipenv"]).await?);
    note("That is the silent baseline: what ran before counts as known, so nothing is sent.");

    tell.step("The shop's team asks for events: a webhook, and Slack by the six lines of the README; then all examples").await;
    settings(&cluster, &webhook, &slack).await?;
    let _examples = examples(&cluster).await?;
    for setting in ["hook", "team-chat"] {
        handled(&cluster, setting).await?;
    }
    ensure!(
        webhook.heard().is_empty(),
        "something was sent before anything changed"
    );

    let mut expected = Expected::default();
    tell.step("Rolling `web` from v1 to v2: one rollout, one change")
        .await;
    cluster
        .set_image(SHOP, "web", "registry.example.com/shop/web:v2")
        .await?;
    expected.all(&webhook, 2).await?;

    tell.step("Scaling `web` from 3 to 5").await;
    cluster.scale(SHOP, "web", 5).await?;
    expected.all(&webhook, 1).await?;
    acknowledged(&cluster).await?;

    tell.step("kill -9 the operator; while it is down `worker` is rolled, rolled back and rolled again, `cron` starts").await;
    operator.kill_9();
    for image in ["worker:v8", "worker:v7", "worker:v9"] {
        cluster
            .set_image(
                SHOP,
                "worker",
                &format!("registry.example.com/shop/{image}"),
            )
            .await?;
        cluster.rolled_out(SHOP, "worker").await?;
    }
    apply(
        &client,
        deployment(SHOP, "cron", "registry.example.com/shop/cron:v1", 1),
    )
    .await?;
    cluster.rolled_out(SHOP, "cron").await?;
    tell.step("Starting it again: the net change, once").await;
    operator = start(&cluster).await?;
    expected.all(&webhook, 3).await?;

    tell.step("The receiver goes down for 10 seconds (it answers 503), and `web` is rolled to v3")
        .await;
    webhook.set_standing(503);
    let down = tokio::time::Instant::now();
    cluster
        .set_image(SHOP, "web", "registry.example.com/shop/web:v3")
        .await?;
    failing(&cluster).await?;
    show(
        &cluster
            .plane
            .kubectl(&["-n", SHOP, "get", "notifset", "-o", "wide"])
            .await?,
    );
    tokio::time::sleep_until(down + Duration::from_secs(10)).await;
    tell.step("It is back: delivered, with the same ids and the same bytes")
        .await;
    webhook.set_standing(200);
    expected.all(&webhook, 2).await?;

    vetting(&tell, &cluster, &webhook, &mut expected).await?;

    tell.step("What Slack was sent for the rollout of v1 to v2")
        .await;
    let heard = slack.wait_for(PATIENCE, |heard| heard.len() >= 3).await?;
    show(&serde_json::to_string_pretty(&heard[0].json())?);

    tell.step("What the cluster says of it").await;
    acknowledged(&cluster).await?;
    show(
        &cluster
            .plane
            .kubectl(&["get", "shipenv,notifset", "-A"])
            .await?,
    );

    let (got, duplicates) = Expected::count(&webhook);
    let verdict = format!(
        "expected {} events, got {got}, {duplicates} duplicates",
        expected.total
    );
    title(&verdict);
    ensure!(got == expected.total && duplicates == 0, "{verdict}");

    if std::env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()) {
        title(&format!(
            "KUBECONFIG={}",
            cluster.plane.admin_kubeconfig().display()
        ));
        note(
            "Kept up until Ctrl-C. Try: kubectl -n shop set image deployment/web app=registry.example.com/shop/web:v4",
        );
        tokio::signal::ctrl_c().await?;
    }
    operator.terminate(PATIENCE).await?;
    Ok(())
}

/// Rules, an image that breaks them, why, and how it turns green.
async fn vetting(
    tell: &Narrator,
    cluster: &Cluster,
    webhook: &Receiver,
    expected: &mut Expected,
) -> Result<()> {
    let client = cluster.client();
    tell.step("CI records where the running images come from, and the environment asks for that from now on")
        .await;
    apply(&client, namespace("ci")).await?;
    for (name, image) in [
        ("web", "web:v3"),
        ("worker", "worker:v9"),
        ("cron", "cron:v1"),
    ] {
        let digest = cluster
            .kubelet
            .digest_of(&format!("registry.example.com/shop/{image}"));
        let record = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactProvenance",
            "metadata": {"name": image.replace(':', "-"), "namespace": "ci"},
            "spec": {
                "fingerprint": digest, "flow": name,
                "commit": {"sha": "1ac157003dd6fb9ec764daa47726b7bfed65c312"},
                "build": {"url": "https://ci.example.com/runs/42"},
            },
        });
        apply(&client, record).await?;
    }
    let rules = r#"{"spec": {"compliance": {"provenance": {"required": true, "trustedNamespaces": ["ci"]}, "grace": "3s", "recoveryWindow": "2s"}}}"#;
    let patch = ["patch", "shipenv", "demo", "--type=merge", "-p", rules];
    cluster.plane.kubectl(&patch).await?;
    compliance(cluster, "Compliant").await?;
    show(
        &cluster
            .plane
            .kubectl(&["-n", "ci", "get", "shipprov"])
            .await?,
    );

    tell.step("`web` is rolled to v4, of which CI knows nothing: it has its grace, 3 s here")
        .await;
    let image = "registry.example.com/shop/web:v4";
    cluster.set_image(SHOP, "web", image).await?;
    expected.all(webhook, 3).await?;
    compliance(cluster, "Non-Compliant").await?;
    show(
        &cluster
            .plane
            .kubectl(&["get", "shipenv", "demo", "-o", "wide"])
            .await?,
    );

    tell.step(
        "Security allows it, with a reason: told once, and green again after the recovery window",
    )
    .await;
    let entry = json!({
        "apiVersion": "shipbell.dev/v1alpha1", "kind": "AllowedArtifact", "metadata": {"name": "hotfix"},
        "spec": {
            "environments": ["demo"], "reason": "hotfix INC-42",
            "artifacts": [{"fingerprint": cluster.kubelet.digest_of(image), "name": image}],
        },
    });
    apply(&client, entry).await?;
    expected.all(webhook, 2).await?;
    compliance(cluster, "Compliant").await
}

async fn compliance(cluster: &Cluster, wanted: &str) -> Result<()> {
    eventually(
        PATIENCE,
        &format!("the environment to be {wanted}"),
        async || {
            let told = field(cluster, "shipenv/demo", "{.status.compliance}").await?;
            ensure!(told == wanted, "{told}");
            anyhow::Ok(())
        },
    )
    .await
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Applies the install file, but for the Deployment: its image would have to be built, and the operator runs as a process
/// here. The operator may also read the Secrets of the shop, by the same binding as in its own namespace.
async fn install(client: &Client) -> Result<()> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/install/shipbell.yaml"
    );
    let text = std::fs::read_to_string(path).context(path)?;
    let mut objects = serde_saphyr::from_multiple::<Value>(&text)?;
    objects.retain(|object| object.is_object() && object["kind"] != "Deployment");
    let settings = |object: &&Value| {
        object["kind"] == "RoleBinding" && object["metadata"]["name"] == "shipbell-settings"
    };
    let mut binding = objects
        .iter()
        .find(settings)
        .context("the install file has no RoleBinding shipbell-settings")?
        .clone();
    binding["metadata"]["namespace"] = SHOP.into();
    objects.push(binding);
    apply(client, objects).await?;
    Ok(())
}

async fn start(cluster: &Cluster) -> Result<Operator> {
    let kubeconfig: PathBuf = cluster
        .plane
        .service_account_kubeconfig(RELEASE, "shipbell")
        .await?;
    let mut operator = Operator::spawn(&OperatorOptions {
        binary: binary()?,
        kubeconfig,
        args: [
            "run",
            "--cluster-name=demo",
            "--namespace=shipbell",
            "--allow-destination=127.0.0.1",
        ]
        .map(str::to_owned)
        .into(),
        env: vec![],
        log: cluster.plane.directory().join("operator.log"),
    })?;
    operator.wait_ready(PATIENCE).await?;
    Ok(operator)
}

/// The default Environment, with settle times that suit a demo, and visible to the shop.
async fn shortened(cluster: &Cluster) -> Result<()> {
    let patch = r#"{"spec": {"visibleTo": ["shop"], "settle": {"quiet": "1s", "max": "6s", "scaling": "2s"}}}"#;
    eventually(PATIENCE, "the default Environment", async || {
        cluster
            .plane
            .kubectl(&["patch", "shipenv", "demo", "--type=merge", "-p", patch])
            .await
            .map(drop)
    })
    .await
}

async fn baseline(cluster: &Cluster) -> Result<()> {
    eventually(PATIENCE, "the baseline", async || {
        let told = field(cluster, "shipenv/demo", "{.status.instances}").await?;
        ensure!(told == "5", "{told} instances");
        let log = cluster
            .plane
            .kubectl(&["get", "environmentsnapshots", "-o", "json"])
            .await?;
        let log: kube::core::ObjectList<EnvironmentSnapshot> = serde_json::from_str(&log)?;
        ensure!(
            log.items
                .iter()
                .all(|snapshot| snapshot.spec.events.is_empty())
        );
        anyhow::Ok(())
    })
    .await
}

async fn settings(cluster: &Cluster, webhook: &Receiver, slack: &Receiver) -> Result<()> {
    let yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: slack-hook, namespace: {SHOP}}}\nstringData: {{url: '{}'}}\n---\n\
         apiVersion: shipbell.dev/v1alpha1\nkind: NotificationSetting\nmetadata: {{name: team-chat, namespace: {SHOP}}}\nspec: {{slack: {{urlFrom: {{secretKeyRef: {{name: slack-hook}}}}}}}}\n---\n\
         apiVersion: shipbell.dev/v1alpha1\nkind: NotificationSetting\nmetadata: {{name: hook, namespace: {SHOP}}}\nspec:\n  webhook: {{url: '{}'}}\n  eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED, ARTIFACT_ALLOWED, ENVIRONMENT_NON_COMPLIANT, ENVIRONMENT_COMPLIANT]\n",
        slack.url("/services/T0/B0/demo"),
        webhook.url("/hook"),
    );
    apply(&cluster.client(), yaml.as_str()).await?;
    Ok(())
}

/// Applies every example beside the operator. Their URLs are those of hosts that don't exist, so they are turned to a
/// receiver on this machine.
async fn examples(cluster: &Cluster) -> Result<Receiver> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    ensure!(!files.is_empty(), "there are no examples");
    let receiver = Receiver::start();
    for file in files {
        let mut objects = serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(&file)?)?;
        objects.retain(Value::is_object);
        for object in &mut objects {
            localize(object, &receiver);
            if object["kind"] != "Environment" {
                object["metadata"]["namespace"] = RELEASE.into();
            }
        }
        apply(&cluster.client(), objects)
            .await
            .with_context(|| format!("{}", file.display()))?;
    }
    Ok(receiver)
}

/// Turns every URL of an object to a receiver on this machine.
fn localize(value: &mut Value, receiver: &Receiver) {
    match value {
        Value::String(text)
            if text.starts_with("https://") || text.starts_with("PASTE_THE_URL") =>
        {
            *text = receiver.url("/services/T0/B0/example");
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localize(item, receiver)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| localize(field, receiver)),
        _ => {}
    }
}

/// What kubectl prints of an object: an Environment, or a setting of the shop's.
async fn field(cluster: &Cluster, object: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    let args = ["-n", SHOP, "get", object, "-o", &path];
    cluster.plane.kubectl(&args).await
}

async fn handled(cluster: &Cluster, setting: &str) -> Result<()> {
    eventually(
        PATIENCE,
        &format!("setting {setting} to be ready"),
        async || {
            let path =
                "{.status.conditions[?(@.type=='Ready')].status} {.status.cursors[*].environment}";
            let told = field(cluster, &format!("notifset/{setting}"), path).await?;
            ensure!(told.starts_with("True") && told.contains("demo"), "{told}");
            anyhow::Ok(())
        },
    )
    .await
}

/// Waits until the webhook's setting says that it can't deliver.
async fn failing(cluster: &Cluster) -> Result<()> {
    eventually(PATIENCE, "Delivered=False", async || {
        let path = "{.status.conditions[?(@.type=='Delivered')].status} {.status.pending}";
        let told = field(cluster, "notifset/hook", path).await?;
        ensure!(told.starts_with("False") && !told.ends_with(" 0"), "{told}");
        anyhow::Ok(())
    })
    .await
}

/// Waits until the setting's cursor stands at the newest snapshot. A crash before that would send an event again, with
/// the same id: that is the bound on duplicates, and not what this demo is about.
async fn acknowledged(cluster: &Cluster) -> Result<()> {
    eventually(PATIENCE, "everything to be acknowledged", async || {
        let head = field(cluster, "shipenv/demo", "{.status.head.index}").await?;
        let cursor = "{.status.cursors[?(@.environment=='demo')].index}";
        let cursor = field(cluster, "notifset/hook", cursor).await?;
        ensure!(head == cursor, "the head is {head}, the cursor {cursor}");
        anyhow::Ok(())
    })
    .await
}

/// How many events should have arrived by now.
#[derive(Default)]
struct Expected {
    total: usize,
}

impl Expected {
    /// Waits for so many more.
    async fn all(&mut self, receiver: &Receiver, more: usize) -> Result<()> {
        self.total += more;
        let total = self.total;
        let arrived = receiver
            .wait_for(PATIENCE, |heard| narrator::delivered(heard).len() >= total)
            .await;
        if let Err(error) = arrived {
            bail!(
                "{} of {total} events arrived: {error:#}",
                narrator::delivered(&receiver.heard()).len()
            );
        }
        Ok(())
    }

    /// How many different events arrived, and how many of them more than once.
    fn count(receiver: &Receiver) -> (usize, usize) {
        let ids = narrator::delivered(&receiver.heard());
        (ids.len(), ids.values().sum::<usize>() - ids.len())
    }
}
