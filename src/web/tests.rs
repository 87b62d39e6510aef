//! What the read API answers, byte for byte, as JSON and as pages. `UPDATE_EXPECT=1` rewrites the files in `testdata/`.

use std::{fs, path::Path};

use axum::response::Response;
use serde::Serialize;

use super::{
    html,
    testing::installation,
    views::{
        artifact::{FlowQuery, LoggedProvenance, Wanted},
        environment, snapshot,
    },
};
use crate::{
    api::{EnvironmentSnapshotSpec, compliance::ComplianceState},
    simulation::{Cluster, testing, testing::digest},
};

/// Compares with a file in `testdata/`.
fn expect(name: &str, found: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/web/testdata")
        .join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    let want = fs::read(&path).unwrap_or_default();
    assert_eq!(
        String::from_utf8_lossy(found),
        String::from_utf8_lossy(&want),
        "{name}"
    );
}

fn expect_json(name: &str, found: &impl Serialize) {
    expect(&format!("{name}.json"), &serde_json::to_vec(found).unwrap());
}

async fn expect_page(name: &str, response: Response) {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    expect(&format!("{name}.html"), &body.unwrap());
}

/// `web` runs an image that has a review, and a record in which a required attestation is missing.
fn cluster() -> Cluster {
    let mut cluster = Cluster::bare(true);
    cluster.record(
        "runner-1",
        &format!(
            "{{fingerprint: {}, aliases: ['{}'], flow: runner, name: runner, commit: {{sha: abcdef0, url: 'https://git.example/c'}}, \
             build: {{url: 'https://ci.example/b'}}, requiredAttestations: [scan, tests], \
             attestations: [{{name: scan, type: snyk, compliant: true}}, {{name: lint, compliant: true}}], \
             deployments: [{{number: 44, environment: prod, time: '2023-08-21T11:50:44.25Z', buildURL: 'https://ci.example/b'}}]}}",
            digest("v1"),
            digest("v1-arm64"),
        ),
    );
    cluster.review(
        "r42",
        &format!(
            "{{fingerprint: {}, number: 42, state: approved, reviewer: mary, comment: '<b>lgtm</b>', \
             expiresAt: '2027-12-01T00:00:00Z', time: '2023-08-21T11:28:49Z'}}",
            digest("v1")
        ),
    );
    cluster.start("web", &["v1"], 2);
    cluster.environment(
        "prod",
        "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, evidence: {required: true}, grace: 90s, recoveryWindow: 1s}",
    );
    cluster.begin();
    cluster
}

/// The newest entry with all that runs after it.
async fn expect_snapshot(name: &str, cluster: &Cluster) {
    let spec = &cluster.log("prod").last().unwrap().spec;
    let installation = installation();
    let found = snapshot::snapshot(&installation, spec, cluster.recorded("prod"), None);
    let events = snapshot::events(&installation, spec);
    expect_json(&format!("snapshot-{name}"), &found);
    let page = html::snapshot("prod", &found, found.artifacts.iter(), &events);
    expect_page(&format!("snapshot-{name}"), page).await;
}

async fn expect_environment(name: &str, cluster: &Cluster) {
    let now = cluster.wall();
    let environment = cluster.state.summary("prod");
    let found = environment::environment(&installation(), "prod", environment.as_ref());
    let allowed = environment::allow_list(cluster.state.evidence(), Some("prod"), now);
    expect_json(&format!("environment-{name}"), &found);
    expect_page(
        &format!("environment-{name}"),
        html::environment(&found, &allowed),
    )
    .await;
}

#[tokio::test]
async fn environments_and_snapshots_keep_their_shape() {
    let unread = environment::environment(&installation(), "prod", None);
    expect_json("environment-unread", &unread);
    expect_page("environment-unread", html::environment(&unread, &[])).await;

    let mut cluster = cluster();
    cluster.pass(30);
    expect_snapshot("baseline", &cluster).await;
    expect_environment("in-grace", &cluster).await;
    cluster.pass(600);
    expect_environment("non-compliant", &cluster).await;
    cluster.start("other", &["v7"], 3);
    cluster.pass(600);
    expect_snapshot("started", &cluster).await;
    cluster.scale("other", 5);
    cluster.pass(600);
    expect_snapshot("scaled", &cluster).await;
    let spec = &cluster.log("prod").last().unwrap().spec;
    let next = Some(spec.time + std::time::Duration::from_millis(1_250));
    let installation = installation();
    let found = snapshot::snapshot(&installation, spec, cluster.recorded("prod"), next);
    expect_json("snapshot-not-latest", &found);
    cluster.scale("other", 0);
    cluster.pass(600);
    expect_snapshot("stopped", &cluster).await;
    for (name, environments, expires) in [
        (
            "soon",
            "[prod, test]",
            ", expiresAt: '2027-12-01T00:00:00Z'",
        ),
        ("always", "[prod]", ""),
    ] {
        let entry = format!(
            "{{environments: {environments}, artifacts: [{{fingerprint: {}, name: '{name}&co'}}], reason: ' next week '{expires}}}",
            digest("v1")
        );
        cluster.allow(name, &entry);
        cluster.pass(60);
    }
    cluster.pass(600);
    expect_snapshot("allowed", &cluster).await;
    expect_environment("compliant", &cluster).await;
    let evidence = cluster.state.evidence();
    for (name, environment, now) in [
        ("all", None, "2027-11-30T00:00:00Z"),
        ("prod-later", Some("prod"), "2027-12-01T00:00:00Z"),
        ("other", Some("other"), "2027-11-30T00:00:00Z"),
    ] {
        let found = environment::allow_list(evidence, environment, now.parse().unwrap());
        expect_json(&format!("allow-list-{name}"), &found);
    }
    let events: Vec<_> = cluster
        .log("prod")
        .iter()
        .flat_map(|entry| snapshot::events(&installation, &entry.spec))
        .collect();
    expect_json("events", &events);
    let at = |text: &str| text.parse().unwrap();
    let (from, to) = (at("2026-11-24T10:00:00.5Z"), at("2026-11-24T10:00:02Z"));
    let entry = |index, time, state| {
        let mut spec = testing::snapshot(index, &[]);
        (spec.time, spec.compliance.state) = (time, state);
        spec
    };
    let older = entry(7, from, ComplianceState::NonCompliant);
    let newest = entry(8, to, ComplianceState::Unknown);
    let lines = [
        snapshot::line(&older, Some(to), to),
        snapshot::line(&newest, None, at("2026-11-25T10:00:02Z")),
    ];
    expect_json("snapshots", &lines);
}

#[tokio::test]
async fn artifacts_deployments_and_reviews_keep_their_shape() {
    let mut cluster = cluster();
    cluster.pass(600);
    for (name, wanted) in wanted() {
        let query = FlowQuery {
            flow: "runner".to_owned(),
            wanted,
        };
        let found = query.answer(&installation(), &cluster.state).unwrap();
        expect_json(&format!("{name}-by-record"), &found);
        expect_page(&format!("{name}-by-record"), html::flow_answer(&found)).await;
    }
    cluster.unrecord("runner-1");
    cluster.pass(60);
    let specs: Vec<EnvironmentSnapshotSpec> = cluster
        .log("prod")
        .iter()
        .map(|it| it.spec.clone())
        .collect();
    for (name, wanted) in wanted() {
        let query = FlowQuery {
            flow: "runner".to_owned(),
            wanted,
        };
        let mut entries = specs.iter().rev().flat_map(LoggedProvenance::in_entry);
        let entry = entries.find(|it| query.is_answered_by(it)).unwrap();
        let found = query
            .answer_by(&installation(), &cluster.state, &entry)
            .unwrap();
        expect_json(&format!("{name}-by-log"), &found);
        expect_page(&format!("{name}-by-log"), html::flow_answer(&found)).await;
    }
}

fn wanted() -> [(&'static str, Wanted); 3] {
    [
        ("artifact", Wanted::Artifact(digest("v1"))),
        ("deployment", Wanted::Deployment(44)),
        ("approval", Wanted::Approval(42)),
    ]
}
