//! Helm, as a user runs it, but with a home of its own.

use crate::root;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{env, ffi::OsStr, path::Path, process::Command, sync::LazyLock};
use tempfile::TempDir;

static HOME: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// The values that have to be given.
pub const REQUIRED: [&str; 2] = [
    "--set=clusterName=aws-prod",
    "--set=image.repository=registry.example.com/shipbell",
];

/// Where the chart is.
pub fn chart() -> String {
    root().join("charts/shipbell").to_str().unwrap().to_owned()
}

fn command(args: &[&str]) -> Result<Command> {
    let mut helm = Command::new(kube_assets::helm()?);
    for (name, _) in env::vars_os() {
        if name == "KUBECONFIG" || name.to_string_lossy().starts_with("HELM_") {
            helm.env_remove(name);
        }
    }
    for (name, directory) in [
        ("HELM_CACHE_HOME", "cache"),
        ("HELM_CONFIG_HOME", "config"),
        ("HELM_DATA_HOME", "data"),
    ] {
        helm.env(name, HOME.path().join(directory));
    }
    helm.args(args);
    Ok(helm)
}

fn run(mut helm: Command) -> Result<String> {
    let output = helm.output().context("cannot run helm")?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let args: Vec<_> = helm.get_args().map(OsStr::to_string_lossy).collect();
        bail!("helm {} failed:\n{complaint}", args.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs helm and returns what it printed; the error is what it complained of.
pub fn helm(args: &[&str]) -> Result<String> {
    run(command(args)?)
}

/// Runs helm as the administrator of a cluster. It blocks, which is the test's own thread alone.
pub fn helm_at(kubeconfig: &Path, args: &[&str]) -> Result<String> {
    let mut helm = command(args)?;
    helm.arg("--kubeconfig").arg(kubeconfig);
    run(helm)
}

/// Renders the chart, as release `shipbell` in the namespace `shipbell` unless the arguments say otherwise.
pub fn template(args: &[&str]) -> Result<String> {
    let chart = chart();
    let release = if args.first().is_some_and(|arg| !arg.starts_with('-')) {
        vec![]
    } else {
        vec!["shipbell"]
    };
    let mut all = vec!["template"];
    all.extend(release);
    all.extend(args);
    all.push(&chart);
    let version = kube_assets::KUBERNETES_VERSION.trim_start_matches('v');
    if !args.contains(&"--kube-version") {
        all.extend(["--kube-version", version]);
    }
    if !args.contains(&"-n") {
        all.extend(["-n", "shipbell"]);
    }
    helm(&all)
}

/// Renders the chart with the values that have to be given, and more.
pub fn rendered(args: &[&str]) -> Vec<Value> {
    let all: Vec<_> = REQUIRED.iter().chain(args).copied().collect();
    objects(&template(&all).unwrap())
}

/// The objects in a YAML text.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_saphyr::from_multiple::<Value>(yaml).unwrap();
    documents.into_iter().filter(Value::is_object).collect()
}

/// One object.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects
        .iter()
        .find(is)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}
