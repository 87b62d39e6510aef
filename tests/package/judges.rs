//! What others say of the chart: helm-unittest, and kubeconform with the schemas of a real API server.

use crate::{
    file,
    helm::{REQUIRED, find, rendered, template},
    root, story,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[test]
fn helm_unittest_finds_what_the_suites_expect() {
    let output = Command::new(kube_assets::helm_unittest().unwrap())
        .args([
            "--color=false",
            "--strict",
            "-f",
            "../../tests/chart/*_test.yaml",
        ])
        .arg(root().join("charts/shipbell"))
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    // No suite is as good as none.
    assert!(said.contains("Test Suites: 3 passed, 3 total"), "{said}");
}

/// Kinds that Kubernetes doesn't have: without their operator there is no schema.
const FOREIGN: [&str; 3] = ["ServiceMonitor", "PrometheusRule", "HTTPRoute"];

/// Makes of the API server's description one schema for each kind, in which a field that is not described is an error.
fn write_schemas(openapi: &mut Value, directory: &Path) -> Result<BTreeSet<String>> {
    let mut definitions = openapi["definitions"].take();
    close(&mut definitions);
    let all = definitions.as_object().context("no definitions")?;
    let mut kinds = BTreeSet::new();
    for (name, definition) in all {
        for gvk in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let [group, version, kind] =
                ["group", "version", "kind"].map(|part| gvk[part].as_str().unwrap_or_default());
            // What kubeconform calls the group of the kinds that have none.
            let group = if group.is_empty() { version } else { group };
            let used = reachable(all, name);
            let schema = json!({
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": format!("#/definitions/{name}"),
                "definitions": used,
            });
            let file = format!("{group}_{version}_{}.json", kind.to_lowercase());
            if kind != "DeleteOptions" && kind != "WatchEvent" {
                fs::write(directory.join(file), schema.to_string())?;
                kinds.insert(kind.to_owned());
            }
        }
    }
    Ok(kinds)
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let open = object.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
            if object.get("properties").is_some_and(Value::is_object) && !open {
                object.entry("additionalProperties").or_insert(json!(false));
            }
            if object.get("format") == Some(&json!("int-or-string")) {
                object.insert("type".to_owned(), json!(["string", "integer"]));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The definitions to which this one leads.
fn reachable(all: &Map<String, Value>, name: &str) -> Map<String, Value> {
    fn references(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                if let Some(name) = object.get("$ref").and_then(Value::as_str) {
                    found.extend(name.strip_prefix("#/definitions/").map(str::to_owned));
                }
                object.values().for_each(|it| references(it, found));
            }
            Value::Array(items) => items.iter().for_each(|it| references(it, found)),
            _ => {}
        }
    }
    let mut used = Map::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if let Some(definition) = all.get(&name)
            && !used.contains_key(&name)
        {
            references(definition, &mut open);
            used.insert(name, definition.clone());
        }
    }
    used
}

#[test]
fn kubeconform_finds_nothing_wrong_with_what_the_chart_renders() {
    story(async |cluster| {
        let newest = cluster
            .plane
            .kubectl(&["get", "--raw", "/openapi/v2"])
            .await?;
        let oldest = fs::read_to_string(kube_assets::oldest_openapi()?)?;
        // A field of which the oldest Kubernetes knows nothing yet. It is not in the chart.
        let later = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [], resources: {}}\n";
        for (openapi, later_is_known) in [(newest, true), (oldest, false)] {
            let directory = tempfile::tempdir()?;
            let kinds = write_schemas(&mut serde_json::from_str(&openapi)?, directory.path())?;
            ensure!(kinds.contains("Deployment"), "{kinds:?}");
            let judge = |yaml: &str| -> Result<Output> {
                let file = directory.path().join("rendered.yaml");
                fs::write(&file, yaml)?;
                let schemas = directory.path().display();
                Ok(Command::new(kube_assets::kubeconform()?)
                    .args(["-strict", "-summary", "-skip", &FOREIGN.join(",")])
                    .arg("-schema-location")
                    .arg(format!("{schemas}/{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}_{{{{.ResourceKind}}}}.json"))
                    .arg(&file)
                    .output()?)
            };
            for values in [&[][..], &crate::chart::EVERYTHING[..]] {
                let args: Vec<_> = REQUIRED.iter().chain(values).copied().collect();
                let output = judge(&template(&args)?)?;
                let said = said(&output);
                ensure!(output.status.success(), "{said}");
                ensure!(said.contains("Invalid: 0, Errors: 0"), "{said}");
            }
            // It would see a field that does not exist, and a value of the wrong type.
            for wrong in [
                "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ipFamilyPolice: SingleStack}\n",
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: one}\n",
            ] {
                let output = judge(wrong)?;
                ensure!(!output.status.success(), "{}", said(&output));
            }
            let output = judge(later)?;
            ensure!(
                output.status.success() == later_is_known,
                "{}",
                said(&output)
            );
        }
        Ok(())
    });
}

#[test]
fn the_oldest_kubernetes_whose_schemas_are_used_is_the_oldest_that_the_chart_admits() {
    let chart = file("charts/shipbell/Chart.yaml");
    let minor = kube_assets::OLDEST_KUBERNETES.rsplit_once('.').unwrap().0;
    let admitted = format!("kubeVersion: \">={}.0-0\"", minor.trim_start_matches('v'));
    assert!(chart.contains(&admitted), "{admitted}");
}

/// What Prometheus says of expressions.
fn parsed(expressions: &[String]) -> Output {
    let mut parser = Command::new(kube_assets::promql().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = expressions.join("\n");
    parser
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    parser.wait_with_output().unwrap()
}

#[test]
fn prometheus_can_read_every_expression_of_the_alerts_and_the_dashboard() {
    let objects = rendered(&["--set=prometheusRule.enabled=true"]);
    let rule = find(&objects, "PrometheusRule", "shipbell");
    let groups = rule["spec"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let mut expressions: Vec<String> = rules
        .map(|rule| rule["expr"].as_str().unwrap().to_owned())
        .collect();
    let alerts = expressions.len();
    let dashboard: Value =
        serde_json::from_str(&file("charts/shipbell/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    // Grafana puts values in the places of its variables.
    expressions.extend(targets.map(|target| {
        let expression = target["expr"].as_str().unwrap();
        let expression = expression.replace("$__rate_interval", "5m");
        expression.replace("$environment", ".*")
    }));
    assert!(
        alerts >= 9 && expressions.len() >= alerts + 20,
        "{expressions:?}"
    );
    for expression in &expressions {
        assert!(!expression.contains(['$', '\n']), "{expression}");
    }
    let output = parsed(&expressions);
    assert!(output.status.success(), "{}", said(&output));
    // It would see what is no expression, and a function of the wrong type of series.
    for wrong in [
        "sum(shipbell_settings",
        "rate(shipbell_panics_total)",
        "sums(up)",
    ] {
        let output = parsed(&[wrong.to_owned()]);
        assert!(!output.status.success() && said(&output).contains(wrong));
    }
}
