//! The published example, produced from the objects in `examples/`.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Cluster, Image, Receiver, apply,
    cluster::PATIENCE,
    deployment, eventually,
    stage::{Cast, alone, log, operator},
};
use serde_json::json;
use shipbell::message::kosli::Payload;

const EXAMPLE: &str = include_str!("../../src/message/testdata/kosli-v1.0.json");
const IMAGE: &str = "ghcr.io/cyber-dojo/runner:1ac1570";

#[test]
fn the_published_example_is_made_from_the_examples_byte_for_byte() {
    alone(story);
}

async fn story(cluster: &'static Cluster) -> Result<()> {
    let mut wanted: Payload = serde_json::from_str(EXAMPLE)?;
    let artifact = wanted.artifact.as_ref().context("no artifact")?;
    let image = Image {
        digest: Some(artifact.fingerprint.clone()),
        ..Image::default()
    };
    cluster.kubelet.image(IMAGE, image);
    let client = cluster.client();
    for name in ["ci", "cyber-dojo"] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        apply(&client, namespace).await?;
    }
    for file in ["environment-compliance", "provenance", "approval"] {
        let path = format!("{}/../examples/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        apply(&client, std::fs::read_to_string(path)?.as_str()).await?;
    }
    let cast = Cast {
        org: "cyber-dojo",
        args: vec![
            "--external-url=https://app.kosli.com".to_owned(),
            "--api-listen=127.0.0.1:0".to_owned(),
        ],
        ..Cast::default()
    };
    let operator = operator(cluster, &cast).await?;
    eventually(PATIENCE, "the baseline of aws-prod", async || {
        ensure!(!log(cluster, "aws-prod").await?.is_empty());
        anyhow::Ok(())
    })
    .await?;
    let receiver = Receiver::start();
    let setting = json!({
        "apiVersion": "shipbell.dev/v1alpha1", "kind": "NotificationSetting",
        "metadata": {"name": "hook", "namespace": kit::HOME},
        "spec": {"environments": ["aws-prod"], "webhook": {"url": receiver.url("/hook")}},
    });
    apply(&client, setting).await?;
    apply(&client, deployment("cyber-dojo", "runner", IMAGE, 1)).await?;
    let heard = receiver
        .wait_for(PATIENCE, |heard| !heard.is_empty())
        .await?;

    // When it was, and how many snapshots there were before, are the cluster's own.
    let told: Payload = serde_json::from_slice(&heard[0].body)?;
    let index = told.snapshot.index.clone();
    wanted.timestamp = told.timestamp;
    for part in [&mut wanted.snapshot.html_url, &mut wanted.snapshot.api_url] {
        *part = part.replace("/1035", &format!("/{index}"));
    }
    wanted.snapshot.index = index;
    let wanted = serde_json::to_string(&wanted)?;
    assert_eq!(String::from_utf8_lossy(&heard[0].body), wanted);
    drop(operator);
    Ok(())
}
