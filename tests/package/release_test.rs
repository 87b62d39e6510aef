//! `helm test`: what its pod does, with the rights that it has, against the operator with those of the chart.

use crate::{
    helm::{REQUIRED, chart, helm_at, objects, template},
    install::RESTRICTED,
    start,
};
use anyhow::{Context as _, Result, ensure};
use kit::{
    Cluster, Operator, OperatorOptions,
    cluster::{PATIENCE, runtime},
    operator,
    ports::Port,
};
use serde_json::Value;
use std::process::{Command, Output};

/// What a container is started with: its variables, where those of the pod itself are known here.
fn variables(container: &Value, namespace: &str) -> Vec<(String, String)> {
    let all = container["env"].as_array().unwrap().iter();
    all.map(|variable| {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.namespace") => namespace,
            Some(_) => "10.1.2.3",
            None => variable["value"].as_str().unwrap(),
        };
        (
            variable["name"].as_str().unwrap().to_owned(),
            value.to_owned(),
        )
    })
    .collect()
}

/// Runs the pod's command as its service account, but on this machine.
async fn test_delivery(
    cluster: &Cluster,
    pod: &Value,
    port: &Port,
    timeout: &str,
) -> Result<Output> {
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let kubeconfig = cluster
        .plane
        .service_account_kubeconfig(namespace, account)
        .await?;
    let container = &pod["spec"]["containers"][0];
    let mut command = Command::new(operator::binary()?);
    command
        .args(serde_json::from_value::<Vec<String>>(
            container["args"].clone(),
        )?)
        .envs(variables(container, namespace))
        .env("KUBECONFIG", kubeconfig)
        .env("SHIPBELL_TEST_URL", format!("http://{}", port.address()))
        .env("SHIPBELL_TEST_LISTEN", port.address().to_string())
        .env("SHIPBELL_TEST_TIMEOUT", timeout);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

#[test]
fn the_test_of_a_release_passes_with_the_operator_and_says_why_without() {
    let life = async {
        let cluster = start().await?;
        let namespace = cluster
            .labelled_namespace("shipbell", &[RESTRICTED])
            .await?;
        let admin = cluster.plane.admin_kubeconfig();
        let put = |verb: &str, more: &[&str]| {
            let chart = chart();
            let args = [
                verb,
                "shipbell",
                &chart,
                "-n",
                &namespace,
                "--wait",
                "--timeout=60s",
                REQUIRED[0],
                REQUIRED[1],
                "--set=settingsNamespaces={later}",
            ];
            helm_at(&admin, &[&args[..], more].concat())
        };
        // A namespace that does not exist yet breaks nothing, and is named; later the right is given there.
        let opens = "--set-json=outbound.allow=[\"10.1.0.0/16\", {\"to\": \"10.2.0.0/16\", \"namespaces\": [\"later\"]}]";
        let notes = put("install", &[opens])?;
        ensure!(
            notes.contains("do not exist") && notes.contains(": later."),
            "{notes}"
        );
        ensure!(notes.contains("helm test shipbell -n shipbell"), "{notes}");
        // Only what is open for every namespace is warned of.
        let warning = "WARNING: outbound.allow opens 10.1.0.0/16 for every namespace:";
        ensure!(notes.contains(warning), "{notes}");
        cluster
            .plane
            .kubectl(&["create", "namespace", "later"])
            .await?;
        let notes = put("upgrade", &[])?;
        ensure!(!notes.contains("do not exist"), "{notes}");
        ensure!(!notes.contains("for every namespace"), "{notes}");
        let bound = ["get", "rolebinding", "shipbell-settings", "-n", "later"];
        cluster.plane.kubectl(&bound).await?;

        // What helm creates for the test, but for the pod: no kubelet here runs it.
        let rendered = template(&[
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            &namespace,
            "-s",
            "templates/tests/delivery.yaml",
        ])?;
        let all = objects(&rendered);
        let (pods, others): (Vec<_>, Vec<_>) = all.iter().partition(|it| it["kind"] == "Pod");
        ensure!(pods.len() == 1 && others.len() == 4, "{rendered}");
        for object in others {
            let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
            cluster
                .plane
                .kubectl_with_input(&apply, &object.to_string())
                .await?;
        }
        // The pod runs under the restricted standard, too.
        let dry = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        cluster
            .plane
            .kubectl_with_input(&dry, &pods[0].to_string())
            .await?;

        let port = Port::reserve()?;
        let output = test_delivery(&cluster, pods[0], &port, "3s").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{said}");
        ensure!(said.contains("has not looked at the setting"), "{said}");

        let get = ["get", "deployment", "shipbell", "-o=json", "-n", &namespace];
        let deployment: Value = serde_json::from_str(&cluster.plane.kubectl(&get).await?)?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let mut env = variables(container, &namespace);
        let allow = env
            .iter_mut()
            .find(|(name, _)| name == "SHIPBELL_ALLOW_DESTINATION");
        let (_, allow) = allow.context("nothing is opened for the test")?;
        let expected = format!("shipbell-test.{namespace}.svc@{namespace}");
        ensure!(*allow == expected, "{allow}");
        // The receiver has no name here, but an address: opened in the same way, for the release's namespace alone.
        *allow = format!("127.0.0.1@{namespace}");
        let options = OperatorOptions {
            binary: operator::binary()?,
            kubeconfig: cluster
                .plane
                .service_account_kubeconfig(&namespace, "shipbell")
                .await?,
            args: serde_json::from_value(container["args"].clone())?,
            env,
            log: cluster.plane.directory().join("operator.log"),
        };
        let mut operator = Operator::spawn(&options)?;
        operator.wait_ready(PATIENCE).await?;
        let output = test_delivery(&cluster, pods[0], &port, "60s").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}\n{}", operator.log_text());
        ensure!(String::from_utf8_lossy(&output.stdout).contains("the test message came"));
        let left = cluster
            .plane
            .kubectl(&["get", "notifset", "-A", "-o=name"])
            .await?;
        ensure!(left.trim().is_empty(), "{left}");
        operator.terminate(PATIENCE).await?;
        anyhow::Ok(())
    };
    if let Err(error) = runtime().block_on(life) {
        panic!("{error:#}");
    }
}
