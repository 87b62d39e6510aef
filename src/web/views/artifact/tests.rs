use serde_json::{Value, json};

use super::*;
use crate::{
    simulation::{Cluster, testing::digest},
    web::testing::installation,
};

/// `web` runs `v1`, whose record is there, with all that a record can hold.
fn cluster() -> Cluster {
    let mut cluster = Cluster::bare(true);
    let record = format!(
        "{{fingerprint: {}, aliases: ['{}'], flow: runner, name: runner, commit: {{sha: abcdef0, url: 'https://git.example/c'}}, \
         build: {{url: 'https://ci.example/b'}}, requiredAttestations: [scan, tests], \
         attestations: [{{name: scan, type: snyk, compliant: true}}], \
         deployments: [{{number: 44, environment: prod, time: '2023-08-21T11:50:44Z', buildURL: 'https://ci.example/b'}}]}}",
        digest("v1"),
        digest("v1-arm64"),
    );
    cluster.record("runner-1", &record);
    cluster.record(
        "nowhere/forged",
        &format!("{{fingerprint: {}, flow: forged}}", digest("v1")),
    );
    let review = format!(
        "{{fingerprint: {}, number: 42, state: approved, reviewer: mary, comment: lgtm, time: '2023-08-21T11:28:49Z'}}",
        digest("v1")
    );
    cluster.review("r42", &review);
    cluster.start("web", &["v1"], 2);
    cluster.environment(
        "prod",
        "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, evidence: {required: true}, grace: 1s}",
    );
    cluster.begin();
    cluster.pass(600);
    cluster
}

fn ask(cluster: &Cluster, flow: &str, wanted: Wanted) -> Option<Value> {
    let flow = flow.to_owned();
    let answer = FlowQuery { flow, wanted }.answer(&installation(), &cluster.state)?;
    Some(serde_json::to_value(answer).unwrap())
}

fn artifact(name: &str) -> Wanted {
    Wanted::Artifact(digest(name))
}

#[test]
fn a_record_shows_where_an_image_comes_from_and_where_it_runs() {
    let cluster = cluster();
    let fingerprint = digest("v1").to_string();
    let index = cluster.recorded("prod").index;
    let page = format!("https://s.example/acme/runner/{fingerprint}");
    let api = format!("https://s.example/api/v2/artifacts/acme/runner/fingerprint/{fingerprint}");
    let links = json!({"artifact": {"self": api, "html": page}});
    let found = ask(&cluster, "runner", artifact("v1")).unwrap();
    let want = json!({
        "filename": "runner",
        "flow_name": "runner",
        "fingerprint": fingerprint,
        "aliases": [digest("v1-arm64").to_string()],
        "state": "INCOMPLETE",
        "compliant": false,
        "created_at": found["created_at"],
        "git_commit": "abcdef0",
        "commit_url": "https://git.example/c",
        "build_url": "https://ci.example/b",
        "html_url": page,
        "api_url": api,
        "missing": ["tests"],
        "attestations": [{"name": "scan", "type": "snyk", "compliant": true}],
        "deployments": [{
            "number": 44,
            "flow_name": "runner",
            "artifact_name": "runner",
            "fingerprint": fingerprint,
            "environment_name": "prod",
            "timestamp": 1_692_618_644.0,
            "build_url": "https://ci.example/b",
            "html_url": "https://s.example/acme/flows/runner/deployments/44",
            "api_url": "https://s.example/api/v2/deployments/acme/runner/44",
            "_links": links,
        }],
        "approvals": [{
            "number": 42,
            "flow_name": "runner",
            "artifact_name": "runner",
            "fingerprint": fingerprint,
            "environment_name": "",
            "timestamp": 1_692_617_329.0,
            "state": "approved",
            "latest_reviewer": "mary",
            "latest_review_comment": "lgtm",
            "expires_at": null,
            "html_url": "https://s.example/acme/flows/runner/approvals/42",
            "api_url": "https://s.example/api/v2/approvals/acme/runner/42",
            "_links": links,
        }],
        "running": [{
            "environment_name": "prod",
            "snapshot_index": index,
            "fingerprint": fingerprint,
            "name": "registry.example/v1:1",
            "instances": 2,
            "html_url": "https://s.example/acme/environments/prod",
            "api_url": "https://s.example/api/v2/environments/acme/prod",
            "compliant": false,
            "reason": "EvidenceMissing",
            "message": "missing evidence: tests",
            "grace_until": null,
        }],
        "exited": [],
        "history": [],
        "source": {"record": "ci/runner-1", "environment_name": "", "snapshot_index": null, "html_url": "", "api_url": ""},
    });
    assert_eq!(found, want);
    assert!(found["created_at"].is_f64());
}

#[test]
fn another_digest_of_an_image_finds_its_record_and_a_record_that_nobody_trusts_is_not_shown() {
    let cluster = cluster();
    let found = ask(&cluster, "runner", artifact("v1-arm64")).unwrap();
    assert_eq!(found["fingerprint"], digest("v1").to_string());
    assert_eq!(found["running"][0]["environment_name"], "prod");
    assert_eq!(ask(&cluster, "forged", artifact("v1")), None);
    assert_eq!(ask(&cluster, "other", artifact("v1")), None);
    assert_eq!(ask(&cluster, "runner", artifact("v2")), None);
}

#[test]
fn deployments_are_found_by_number_and_reviews_under_the_flow_of_their_image() {
    let cluster = cluster();
    let whole = ask(&cluster, "runner", artifact("v1")).unwrap();
    for (wanted, list) in [
        (Wanted::Deployment(44), "deployments"),
        (Wanted::Approval(42), "approvals"),
    ] {
        let mut found = ask(&cluster, "runner", wanted).unwrap();
        assert!(
            found["source"]["record"]
                .as_str()
                .unwrap()
                .starts_with("ci/r")
        );
        found.as_object_mut().unwrap().remove("source");
        assert_eq!(found, whole[list][0]);
        assert_eq!(ask(&cluster, "other", wanted), None);
    }
    assert_eq!(ask(&cluster, "runner", Wanted::Deployment(42)), None);
    assert_eq!(ask(&cluster, "runner", Wanted::Approval(44)), None);
}

#[test]
fn a_deleted_record_is_shown_from_the_log_that_used_it() {
    let mut cluster = cluster();
    cluster.unrecord("runner-1");
    cluster.pass(60);
    for wanted in [artifact("v1"), Wanted::Deployment(44), Wanted::Approval(42)] {
        assert_eq!(
            ask(&cluster, "runner", wanted),
            None,
            "the newest state has followed"
        );
        let flow = "runner".to_owned();
        let query = FlowQuery { flow, wanted };
        let log = cluster.log("prod");
        let mut entries = log
            .iter()
            .rev()
            .flat_map(|entry| LoggedProvenance::in_entry(&entry.spec));
        let logged = entries.find(|it| query.is_answered_by(it)).unwrap();
        let found = query.answer_by(&installation(), &cluster.state, &logged);
        let found = serde_json::to_value(found.unwrap()).unwrap();
        assert_eq!(found["flow_name"], "runner", "{wanted:?}");
        assert_eq!(found["source"]["record"], Value::Null);
        let snapshot = found["source"]["html_url"].as_str().unwrap();
        assert!(snapshot.starts_with("https://s.example/acme/environments/prod/snapshots/"));
        if matches!(wanted, Wanted::Artifact(_)) {
            assert_eq!(found["filename"], "runner");
            assert_eq!(found["git_commit"], "abcdef0");
            assert_eq!(found["deployments"][0]["number"], 44);
            assert_eq!(found["approvals"][0]["latest_reviewer"], "mary");
            assert_eq!(
                found["running"][0]["reason"], "UntrustedProvenance",
                "of the other record"
            );
        }
    }
}
