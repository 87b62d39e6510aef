//! The read API of the log, and its links in payloads, on a control plane of its own.
#![allow(missing_docs, clippy::unwrap_used)]

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Cluster, PlaneOptions, Receiver, apply,
    cluster::{PATIENCE, runtime},
    deployment, eventually, hears,
    http1::get,
    ports::Port,
    stage::{Cast, install, operator},
};
use serde_json::{Value, json};

#[test]
fn every_link_of_a_payload_resolves_for_those_who_may_read_snapshots() {
    runtime().block_on(story()).unwrap();
}

async fn story() -> Result<()> {
    let cluster: &'static Cluster =
        Box::leak(Box::new(Cluster::start(PlaneOptions::default()).await?));
    install(cluster).await?;
    let port = Port::reserve()?;
    let address = port.address();
    let cast = Cast {
        args: vec![
            format!("--external-url=http://{address}"),
            format!("--api-listen={address}"),
        ],
        ..Cast::default()
    };
    let operator = operator(cluster, &cast).await?;
    let actor = Actor::new(cluster, "archive").await?;
    let environment = actor.name.clone();
    let receiver = Receiver::start();
    actor
        .webhook(
            "all",
            &receiver,
            "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]",
        )
        .await?;
    actor
        .apply(deployment(&actor.name, "web", "r.example/archive:v1", 2))
        .await?;
    hears(&receiver, &["STARTED archive:v1 0 to 2"]).await?;
    actor
        .apply(deployment(
            &actor.name,
            "api",
            "r.example/archive-api:v1",
            1,
        ))
        .await?;
    let heard = hears(
        &receiver,
        &["STARTED archive:v1 0 to 2", "STARTED archive-api:v1 0 to 1"],
    )
    .await?;

    let reader = reader(cluster).await?;
    let stranger = cluster
        .plane
        .service_account_token(&actor.name, "default")
        .await?;
    let links = &heard[0].json()["snapshot"];
    let path = |link: &Value| {
        Some(
            link.as_str()?
                .strip_prefix(&format!("http://{address}"))?
                .to_owned(),
        )
    };
    let api = path(&links["api_url"]).context("no api_url")?;
    let html = path(&links["html_url"]).context("no html_url")?;

    let fetch = async |path: &str, token: Option<&str>| get(address, path, token).await;
    for (token, want) in [
        (None, 401),
        (Some("nonsense"), 403),
        (Some(stranger.as_str()), 403),
        (Some(reader.as_str()), 200),
    ] {
        for link in [&api, &html] {
            let (status, body) = fetch(link, token).await?;
            ensure!(status == want, "{link}: {status}, not {want}: {body}");
        }
    }
    let json = async |path: &str| -> Result<Value> {
        let (status, body) = fetch(path, Some(&reader)).await?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    };

    let second = json(&api).await?;
    ensure!(
        second["index"] == 2 && second["is_latest"] == false && second["type"] == "K8S",
        "{second}"
    );
    ensure!(
        second["artifacts"][0]["annotation"]
            == json!({"type": "started-unknown", "was": 0, "now": 2}),
        "{second}"
    );
    ensure!(second["next_snapshot_timestamp"].is_f64(), "{second}");
    let newest = json(&format!("/api/v2/snapshots/acme/{environment}/-1")).await?;
    ensure!(
        newest["index"] == 3
            && newest["is_latest"] == true
            && newest["next_snapshot_timestamp"].is_null(),
        "{newest}"
    );
    let annotations: Vec<_> = newest["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|artifact| artifact["annotation"]["type"].clone())
        .collect();
    ensure!(annotations == ["started-unknown", "unchanged"], "{newest}");
    ensure!(
        newest["artifact_compliance_count"] == json!({"true": 0, "false": 0, "null": 2}),
        "{newest}"
    );

    let list = json(&format!("/api/v2/snapshots/acme/{environment}?per_page=2")).await?;
    let indices: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["index"].as_i64().unwrap())
        .collect();
    ensure!(
        indices == [3, 2] && list[0]["to"] == 0.0 && list[1]["to"] == list[0]["from"],
        "{list}"
    );
    let events = json(&format!("/api/v2/environments/acme/{environment}/events")).await?;
    ensure!(
        events.as_array().unwrap().len() == 2 && events[0]["snapshot_index"] == 3,
        "{events}"
    );
    ensure!(
        events[1]["description"] == "2 instances started running (from 0 to 2)",
        "{events}"
    );

    for (path, want) in [
        (format!("/api/v2/snapshots/acme/{environment}/99"), 404),
        (format!("/api/v2/snapshots/acme/{environment}/seven"), 400),
        (
            format!("/api/v2/snapshots/acme/{environment}?per_page=1000"),
            400,
        ),
        (format!("/api/v2/snapshots/other/{environment}/1"), 404),
        ("/api/v2/snapshots/acme/nowhere/1".to_owned(), 404),
        ("/nothing".to_owned(), 404),
    ] {
        let (status, body) = fetch(&path, Some(&reader)).await?;
        let told: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(
            status == want && told["message"].is_string(),
            "{path}: {status} {body}"
        );
    }
    let (_, page) = fetch(&html, Some(&reader)).await?;
    ensure!(
        page.contains("r.example/archive:v1") && page.contains("snapshot #2"),
        "{page}"
    );
    operator.terminate(PATIENCE).await?;
    Ok(())
}

/// The token of an account that may get snapshots.
async fn reader(cluster: &Cluster) -> Result<String> {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "readers"},
        "rules": [{"apiGroups": ["shipbell.dev"], "resources": ["environmentsnapshots"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "readers"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "shipbell"}]});
    apply(&cluster.client(), vec![role, binding]).await?;
    eventually(PATIENCE, "a token", async || {
        cluster
            .plane
            .service_account_token("shipbell", "default")
            .await
            .map(Some)
    })
    .await
}
