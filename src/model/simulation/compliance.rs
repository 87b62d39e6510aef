//! Rules, and what becomes of environments that have some.

use super::Cluster;
use crate::{
    api::{
        EnvironmentSnapshotSpec,
        snapshot::{Cause, ComplianceState},
    },
    model::testing::digest,
};

/// A cluster whose environment `prod` asks for provenance, in which `web` runs `v1`, whose record is there.
fn vetted(more: &str) -> Cluster {
    let mut cluster = Cluster::bare(true);
    cluster.record("web-1", &record("v1"));
    cluster.start("web", &["v1"], 1);
    cluster.environment("prod", &ruled(more));
    cluster.begin();
    assert_eq!(cluster.told(), ["silence: Baseline"]);
    cluster.pass(600);
    assert_eq!(cluster.told(), Vec::<String>::new());
    assert_eq!(state(&cluster), ComplianceState::Compliant);
    cluster
}

fn ruled(more: &str) -> String {
    format!("compliance: {{provenance: {{required: true, trustedNamespaces: [ci]}}{more}}}")
}

fn record(image: &str) -> String {
    format!("{{fingerprint: {}, flow: web}}", digest(image))
}

fn state(cluster: &Cluster) -> ComplianceState {
    cluster.recorded("prod").compliance.state
}

fn red(image: &str, words: &str) -> String {
    let digest = digest(image).to_string();
    format!(
        "red: registry.example/{image}:1 ({}): {words}",
        &digest[..12]
    )
}

fn last(cluster: &Cluster) -> EnvironmentSnapshotSpec {
    cluster.log("prod").last().unwrap().spec.clone()
}

const NO_PROVENANCE: &str = "no provenance, not on the allow-list";

/// `web` changes to another image, one pod after the other.
fn roll(cluster: &mut Cluster, to: &str) {
    cluster.roll("web", &[to], to, 1, 2);
}

#[test]
fn an_image_without_a_record_has_its_time_and_then_the_environment_is_red_once() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(60);
    assert_eq!(cluster.told(), ["started v2 0>1, stopped v1 1>0"]);
    assert_eq!(
        state(&cluster),
        ComplianceState::Compliant,
        "it has five minutes"
    );
    cluster.pass(600);
    assert_eq!(cluster.told(), [red("v2", NO_PROVENANCE)]);
    cluster.pass(3_600);
    assert_eq!(cluster.told(), Vec::<String>::new(), "once");
    assert_eq!(last(&cluster).causes, [Cause::GraceExpired]);
}

#[test]
fn a_record_that_comes_late_but_in_time_rings_nothing() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(200);
    cluster.told();
    cluster.record("web-2", &record("v2"));
    cluster.pass(3_600);
    assert_eq!(cluster.told(), ["silence: EvidenceChanged"]);
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn what_is_allow_listed_is_told_and_the_environment_is_green_after_the_window() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(600);
    cluster.told();
    let entry = format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix}}",
        digest("v2")
    );
    cluster.allow("hotfix", &entry);
    cluster.pass(30);
    assert_eq!(cluster.told(), ["allowed v2 1>1"]);
    cluster.pass(60);
    assert_eq!(cluster.told(), ["green"]);
    let last = last(&cluster);
    assert_eq!(last.causes, [Cause::RecoveryElapsed]);
    assert_eq!(last.compliance.resolved.len(), 1, "{:?}", last.compliance);
    assert!(last.compliance.resolved[0].ends_with("on the allow-list: hotfix"));
    cluster.restart();
    cluster.pass(600);
    assert_eq!(cluster.told(), Vec::<String>::new(), "it is told once");
}

#[test]
fn an_image_that_does_not_run_is_allow_listed_aloud_too() {
    let mut cluster = vetted("");
    let entry = format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: soon}}], reason: next week}}",
        digest("v9")
    );
    cluster.allow("soon", &entry);
    cluster.pass(10);
    assert_eq!(cluster.told(), ["allowed soon 0>0"]);
    cluster.disallow("soon");
    cluster.pass(10);
    assert_eq!(cluster.told(), ["silence: AllowListChanged"]);
    assert!(cluster.recorded("prod").allowed.is_empty());
}

#[test]
fn an_allowance_that_ends_while_the_operator_is_down_is_told_as_of_its_end() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    let end = cluster.wall() + jiff::SignedDuration::from_secs(1_000);
    let entry = format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix, expiresAt: '{end}'}}",
        digest("v2")
    );
    cluster.allow("hotfix", &entry);
    cluster.pass(100);
    assert_eq!(
        cluster.told(),
        ["allowed v2 0>0", "started v2 0>1, stopped v1 1>0"]
    );
    cluster.stop();
    cluster.pass(5_000);
    cluster.begin();
    cluster.pass(10);
    assert_eq!(cluster.told(), [red("v2", NO_PROVENANCE)]);
    let last = last(&cluster);
    assert_eq!(
        (last.causes, last.time),
        (vec![Cause::AllowanceExpired], end)
    );
}

#[test]
fn evidence_that_turns_bad_and_a_rejection_are_not_waited_for() {
    let mut cluster = vetted(", evidence: {required: true}");
    let spec = format!(
        "{{fingerprint: {}, flow: web, attestations: [{{name: scan, compliant: false}}]}}",
        digest("v1")
    );
    cluster.record("web-1", &spec);
    cluster.pass(5);
    assert_eq!(cluster.told(), [red("v1", "failed evidence: scan")]);
    cluster.record("web-1", &record("v1"));
    cluster.pass(120);
    assert_eq!(cluster.told(), ["silence: EvidenceChanged", "green"]);
    // A new image, whose grace has just begun.
    cluster.record("web-2", &record("v2"));
    roll(&mut cluster, "v2");
    cluster.pass(10);
    cluster.told();
    let spec = format!(
        "{{fingerprint: {}, state: rejected, reviewer: eve}}",
        digest("v2")
    );
    cluster.review("no", &spec);
    cluster.pass(5);
    assert_eq!(cluster.told(), [red("v2", "rejected by eve")]);
}

#[test]
fn edited_rules_and_a_deleted_record_are_told_at_once() {
    let mut cluster = vetted("");
    cluster.environment("prod", &ruled(", approval: {required: true}"));
    cluster.pass(5);
    assert_eq!(cluster.told(), [red("v1", "no approval")]);
    assert_eq!(last(&cluster).causes, [Cause::PolicyChanged]);
    cluster.environment("prod", &ruled(""));
    cluster.pass(120);
    assert_eq!(cluster.told(), ["silence: PolicyChanged", "green"]);
    cluster.unrecord("web-1");
    cluster.pass(5);
    assert_eq!(cluster.told(), [red("v1", NO_PROVENANCE)]);
    assert_eq!(last(&cluster).causes, [Cause::EvidenceChanged]);
    // Without rules nothing is said; with them again, only what is other than before.
    cluster.environment("prod", "{}");
    cluster.pass(600);
    assert_eq!(cluster.told(), ["silence: PolicyChanged"]);
    assert_eq!(state(&cluster), ComplianceState::Unknown);
    cluster.environment("prod", &ruled(""));
    cluster.pass(600);
    assert_eq!(cluster.told(), ["silence: PolicyChanged"]);
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
}

#[test]
fn one_bad_old_pod_holds_an_environment_until_it_is_gone() {
    let mut cluster = vetted("");
    let old = cluster.running("Pod old", "", &["bad"]);
    cluster.pass(600);
    assert_eq!(
        cluster.told(),
        ["started bad 0>1".to_owned(), red("bad", NO_PROVENANCE)]
    );
    cluster.terminate(&old);
    cluster.pass(600);
    assert_eq!(cluster.told(), Vec::<String>::new());
    cluster.remove(&old);
    cluster.pass(600);
    assert_eq!(cluster.told(), ["stopped bad 1>0", "green"]);
    let digest = digest("bad").to_string();
    let resolved = [format!(
        "registry.example/bad:1 ({}) stopped",
        &digest[..12]
    )];
    assert_eq!(last(&cluster).compliance.resolved, resolved);
}

#[test]
fn frequent_rollouts_do_not_keep_an_environment_red() {
    let mut cluster = vetted(", recoveryWindow: 2m");
    let old = cluster.running("Pod old", "", &["bad"]);
    cluster.pass(600);
    cluster.remove(&old);
    cluster.told();
    for number in 2..6 {
        let image = format!("v{number}");
        roll(&mut cluster, &image);
        cluster.pass(40);
        cluster.record(&format!("web-{number}"), &record(&image));
    }
    cluster.pass(60);
    let told = cluster.told();
    assert_eq!(
        told.iter().filter(|told| told.starts_with("red")).count(),
        0,
        "{told:?}"
    );
    assert_eq!(
        told.iter().filter(|told| *told == "green").count(),
        1,
        "{told:?}"
    );
}

#[test]
fn a_first_look_waits_for_what_may_still_arrive() {
    let mut cluster = Cluster::bare(true);
    cluster.start("web", &["v1"], 1);
    cluster.environment("prod", &ruled(""));
    cluster.begin();
    cluster.pass(100);
    assert_eq!(state(&cluster), ComplianceState::Unknown);
    cluster.record("web-1", &record("v1"));
    cluster.pass(600);
    assert_eq!(
        cluster.told(),
        ["silence: Baseline", "silence: EvidenceChanged"]
    );
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn the_index_and_the_manifests_of_an_image_are_one_artifact_when_ci_says_so() {
    let mut cluster = vetted("");
    cluster.running("web", "v1", &["v1-arm64"]);
    cluster.pass(60);
    assert_eq!(cluster.told(), ["started v1-arm64 0>1"]);
    let both = format!(
        "{{fingerprint: {}, flow: web, aliases: [{}]}}",
        digest("v1"),
        digest("v1-arm64")
    );
    cluster.record("web-1", &both);
    cluster.pass(1_000);
    assert_eq!(cluster.told(), ["silence: IdentityLearned"]);
    assert_eq!(cluster.recorded("prod").total(&digest("v1")), 2);
    // The record goes, the name stays, and nothing vouches for it any more.
    cluster.unrecord("web-1");
    cluster.pass(1_000);
    assert_eq!(cluster.told(), [red("v1", NO_PROVENANCE)]);
    cluster.restart();
    cluster.pass(1_000);
    assert_eq!(cluster.told(), Vec::<String>::new());
    assert_eq!(cluster.recorded("prod").total(&digest("v1")), 2);
    cluster.assert_at_rest();
}

#[test]
fn a_record_in_a_namespace_that_is_not_trusted_changes_nothing() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(20);
    cluster.told();
    let evil = format!(
        "{{fingerprint: {}, flow: evil, aliases: [{}]}}",
        digest("evil"),
        digest("v2")
    );
    cluster.record("tenant/evil", &evil);
    cluster.pass(600);
    let words = "its record is in namespace tenant, which is not trusted here";
    assert_eq!(
        cluster.told(),
        ["silence: EvidenceChanged".to_owned(), red("v2", words)]
    );
}

#[test]
fn containers_that_cannot_be_identified_are_waited_for_and_then_make_it_red() {
    let mut cluster = vetted("");
    let pod = cluster.running("odd", "r", &["odd"]);
    cluster.container(&pod, |c| {
        (c.image_id, c.id) = (String::new(), "containerd://new".to_owned())
    });
    cluster.pass(1_000);
    let told = cluster.told();
    assert_eq!(
        told.last().unwrap(),
        "red: 1 container whose image can't be identified"
    );
    cluster.remove(&pod);
    cluster.pass(1_000);
    assert_eq!(cluster.told().last().unwrap(), "green");
}

#[test]
fn grace_is_not_given_twice_while_the_log_remembers() {
    let mut cluster = vetted("");
    let pod = cluster.running("Pod odd", "", &["odd"]);
    cluster.pass(200);
    cluster.remove(&pod);
    cluster.pass(200);
    cluster.told();
    cluster.running("Pod odd", "", &["odd"]);
    cluster.pass(30);
    assert_eq!(
        cluster.told(),
        ["started odd 0>1".to_owned() + ", " + &red("odd", NO_PROVENANCE)]
    );
}
