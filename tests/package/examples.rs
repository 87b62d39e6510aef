//! Every example is one that the API server takes, as it stands in its file.

use crate::{file, helm::objects, root, story};
use anyhow::{Context, Result, ensure};
use kit::{Cluster, cluster::PATIENCE, eventually};
use serde_json::Value;
use shipbell::api::EventType;
use std::fs;

fn examples() -> Vec<String> {
    let directory = fs::read_dir(root().join("examples")).unwrap();
    let mut names: Vec<_> = directory
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "helm")
        .collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    names
}

#[test]
fn every_example_begins_with_two_lines_that_explain_it() {
    for name in examples() {
        let text = file(&format!("examples/{name}"));
        let comments = text
            .lines()
            .take_while(|line| line.starts_with("# "))
            .count();
        assert_eq!(comments, 2, "{name}");
    }
}

#[test]
fn every_example_is_taken_as_it_is() {
    story(async |cluster| {
        let namespace = cluster.namespace("examples").await?;
        for name in examples() {
            let path = root().join("examples").join(&name);
            let strictly = [
                "apply",
                "--server-side",
                "--validate=strict",
                "-n",
                &namespace,
                "-f",
                path.to_str().unwrap(),
            ];
            cluster
                .plane
                .kubectl(&strictly)
                .await
                .with_context(|| name.clone())?;
        }
        columns(cluster, &namespace).await
    });
}

/// The names that people type work.
async fn columns(cluster: &Cluster, namespace: &str) -> Result<()> {
    eventually(PATIENCE, "the short names", async || {
        let settings = cluster
            .plane
            .kubectl(&["get", "notifset", "-n", namespace])
            .await?;
        ensure!(settings.contains("audit"), "{settings}");
        let all = cluster
            .plane
            .kubectl(&["get", "shipbell", "-n", namespace])
            .await?;
        ensure!(all.contains("/prod") && all.contains("/slack"), "{all}");
        Ok(())
    })
    .await
}

#[test]
fn a_setting_in_the_slack_example_is_six_lines_long() {
    let text = file("examples/slack.yaml");
    let (_, setting) = text.split_once("---\n").unwrap();
    assert_eq!(setting.lines().count(), 6);
}

#[test]
fn the_audit_asks_for_every_event_there_is() {
    let all = objects(&file("examples/audit-everything.yaml"));
    let asked: Vec<_> = all[1]["spec"]["eventTypes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event.as_str().unwrap())
        .collect();
    assert_eq!(asked, EventType::ALL.map(EventType::as_str));
}

#[test]
fn no_example_holds_a_secret_of_anyone() {
    for name in examples() {
        for object in objects(&file(&format!("examples/{name}"))) {
            for value in object["stringData"]
                .as_object()
                .into_iter()
                .flat_map(|data| data.values())
            {
                assert!(
                    value
                        .as_str()
                        .is_some_and(|text| text.contains("PASTE_THE_")),
                    "{name}: {value}"
                );
            }
            assert_eq!(object["data"], Value::Null, "{name}");
        }
    }
}

#[test]
fn the_example_of_values_is_one_that_the_chart_takes() {
    let values = root().join("examples/helm/values.yaml");
    let yaml = crate::helm::template(&["-f", values.to_str().unwrap()]).unwrap();
    assert!(yaml.contains("kind: ServiceMonitor"));
}
