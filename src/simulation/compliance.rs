//! Rules, and what becomes of environments that have some.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    api::environment::EnvironmentId,
    api::{
        EnvironmentSnapshotSpec, EnvironmentStatus, EventType, compliance::ComplianceState,
        snapshot::Cause,
    },
    cluster::{scope::Scope, watch_progress::WatchKind},
    compliance::evidence_state::EvidenceState as _,
    simulation::{Cluster, empty_state, testing::digest},
    snapshot::{
        environment_status::{StatusInput, new_status, problems},
        ledger::Ledger,
        state::ClusterState,
    },
};

/// A cluster whose environment `prod` asks for provenance, in which `web` runs `v1`, whose record is there.
fn vetted(more: &str) -> Cluster {
    let mut cluster = Cluster::bare(true);
    cluster.record("web-1", &record("v1"));
    cluster.start("web", &["v1"], 1);
    cluster.environment("prod", &ruled(more));
    cluster.begin();
    assert_eq!(cluster.new_events(), ["silence: Baseline"]);
    cluster.pass(600);
    assert_eq!(cluster.new_events(), Vec::<String>::new());
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
    assert_eq!(cluster.new_events(), ["started v2 0>1, stopped v1 1>0"]);
    assert_eq!(
        state(&cluster),
        ComplianceState::Compliant,
        "it has five minutes"
    );
    cluster.pass(600);
    assert_eq!(cluster.new_events(), [red("v2", NO_PROVENANCE)]);
    cluster.pass(3_600);
    assert_eq!(cluster.new_events(), Vec::<String>::new(), "once");
    assert_eq!(last(&cluster).causes, [Cause::GraceExpired]);
}

#[test]
fn a_record_that_comes_late_but_in_time_rings_nothing() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(200);
    cluster.new_events();
    cluster.record("web-2", &record("v2"));
    cluster.pass(3_600);
    assert_eq!(cluster.new_events(), ["silence: EvidenceChanged"]);
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn what_is_allow_listed_is_told_and_the_environment_is_green_after_the_window() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(600);
    cluster.new_events();
    let entry = format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix}}",
        digest("v2")
    );
    cluster.allow("hotfix", &entry);
    cluster.pass(30);
    assert_eq!(cluster.new_events(), ["allowed v2 1>1"]);
    assert_eq!(last(&cluster).causes, [Cause::AllowListChanged]);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["green"]);
    let green = last(&cluster);
    assert_eq!(green.causes, [Cause::RecoveryElapsed]);
    assert_eq!(green.compliance.resolved.len(), 1, "{:?}", green.compliance);
    assert!(green.compliance.resolved[0].ends_with("on the allow-list: hotfix"));
    cluster.restart();
    cluster.pass(600);
    assert_eq!(
        cluster.new_events(),
        Vec::<String>::new(),
        "it is told once"
    );
    cluster.disallow("hotfix");
    cluster.pass(5);
    assert_eq!(
        cluster.new_events(),
        [red("v2", NO_PROVENANCE)],
        "without grace"
    );
    assert_eq!(last(&cluster).causes, [Cause::AllowListChanged]);
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
    assert_eq!(cluster.new_events(), ["allowed soon 0>0"]);
    cluster.disallow("soon");
    cluster.pass(10);
    assert_eq!(cluster.new_events(), ["silence: AllowListChanged"]);
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
        cluster.new_events(),
        ["allowed v2 0>0", "started v2 0>1, stopped v1 1>0"]
    );
    cluster.stop();
    cluster.pass(5_000);
    cluster.begin();
    cluster.pass(10);
    assert_eq!(cluster.new_events(), [red("v2", NO_PROVENANCE)]);
    let last = last(&cluster);
    assert_eq!(
        (last.causes, last.time),
        (vec![Cause::AllowanceExpired], end)
    );
}

#[test]
fn the_end_of_an_allowance_gives_its_entry_another_status_once() {
    let mut cluster = vetted("");
    let end = cluster.wall() + jiff::SignedDuration::from_secs(1_000);
    let entry = format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix, expiresAt: '{end}'}}",
        digest("v2")
    );
    cluster.allow("hotfix", &entry);
    cluster.pass(10);
    let look = |cluster: &mut Cluster| {
        let now = cluster.wall();
        cluster.state.expire_allowances(now);
        let rings = cluster.state.take_status_news();
        (
            rings,
            cluster.state.take_dirty_status(100, cluster.now).len(),
        )
    };
    look(&mut cluster);
    assert_eq!(look(&mut cluster), (false, 0));
    cluster.pass(1_000);
    // What the cut that tells of it brings up.
    cluster.state.take_status_news();
    cluster.state.take_dirty_status(100, cluster.now);
    assert_eq!(look(&mut cluster), (true, 1));
    // Or it would ring for itself, for ever.
    assert_eq!(look(&mut cluster), (false, 0));
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
    assert_eq!(cluster.new_events(), [red("v1", "failed evidence: scan")]);
    cluster.record("web-1", &record("v1"));
    cluster.pass(120);
    assert_eq!(cluster.new_events(), ["silence: EvidenceChanged", "green"]);
    // A new image, whose grace has just begun.
    cluster.record("web-2", &record("v2"));
    roll(&mut cluster, "v2");
    cluster.pass(10);
    cluster.new_events();
    let spec = format!(
        "{{fingerprint: {}, state: rejected, reviewer: eve}}",
        digest("v2")
    );
    cluster.review("no", &spec);
    cluster.pass(5);
    assert_eq!(cluster.new_events(), [red("v2", "rejected by eve")]);
}

#[test]
fn what_cannot_be_read_of_a_record_speaks_for_no_image_and_what_can_speaks_against_one() {
    let record = format!(
        "{{fingerprint: {}, aliases: [{}], flow: web, requiredAttestations: [scan], \
          attestations: [{{name: scan, type: snyk, compliant: true}}], \
          deployments: [{{number: 1, environment: prod, time: 2026-01-01T00:00:00Z}}]}}",
        digest("index"),
        digest("v1")
    );
    let (evidence, provenance) = ("evidence: {required: true}", "provenance: {required: true}");
    let (by_name, by_type) = (
        "attestations: [{name: scan}]",
        "attestations: [{type: snyk}]",
    );
    let (failed, missing) = ("failed evidence: scan", "missing evidence: scan");
    let unread = "not all of its record shipbell/web-1 can be read";
    let unannounced = "its deployment to prod was not announced";
    let attestation = "/spec/attestations/0";
    for (rules, passes, field, want) in [
        // Whatever can't be read, what failed counts.
        (evidence, false, "/spec/build", failed),
        (evidence, false, "/spec/flow", failed),
        (evidence, false, "/spec/aliases/1", failed),
        (evidence, false, "/spec/fingerprint", failed),
        (evidence, false, "/spec/requiredAttestations", failed),
        (evidence, false, "/spec/attestations/1", failed),
        (evidence, false, "/spec/attestations/0/type", failed),
        (
            evidence,
            false,
            "/spec/attestations/0/name",
            "failed evidence: ",
        ),
        (by_name, false, "/spec/build", failed),
        (by_type, false, "/spec/build", failed),
        // What can't be read of it may be what the rule asks for.
        (
            by_name,
            false,
            "/spec/attestations/0/name",
            "failed evidence: ",
        ),
        (by_type, false, "/spec/attestations/0/type", failed),
        // What passed does not count, nor the record, nor a deployment.
        (evidence, true, "/spec/build", missing),
        (evidence, true, "/spec/attestations/0/compliant", missing),
        (evidence, true, "/spec/attestations", missing),
        (by_name, true, "/spec/build", missing),
        (provenance, true, "/spec/build", unread),
        (provenance, true, "/spec/aliases/1", unread),
        (
            "deployment: {expected: true}",
            true,
            "/spec/build",
            unannounced,
        ),
    ] {
        let mut cluster = Cluster::bare(true);
        cluster.record("shipbell/web-1", &record);
        cluster.start("web", &["v1"], 1);
        cluster.environment("prod", &format!("compliance: {{{rules}}}"));
        cluster.begin();
        cluster.pass(1_200);
        let what = format!("{rules}, {passes}, {field}");
        assert_eq!(state(&cluster), ComplianceState::Compliant, "{what}");
        let counts = cluster.misread_record("shipbell/web-1", |record| {
            record.pointer_mut(attestation).unwrap()["compliant"] = passes.into();
            spoil(record, field);
        });
        let part = "it speaks for no image; what could be read of it against one counts";
        assert_eq!(counts, part, "{what}");
        assert_eq!(
            cluster.reason_of_record("shipbell/web-1"),
            "Unreadable",
            "{what}"
        );
        cluster.pass(5);
        assert_eq!(state(&cluster), ComplianceState::NonCompliant, "{what}");
        let facts = cluster.recorded("prod").facts.values().next().cloned();
        let verdict = facts.unwrap().verdict.unwrap();
        assert_eq!(verdict.message, want, "{what}");
        // As it could be read before.
        cluster.record("shipbell/web-1", &record);
        cluster.pass(120);
        assert_eq!(state(&cluster), ComplianceState::Compliant, "{what}");
        assert_eq!(
            cluster.reason_of_record("shipbell/web-1"),
            "Recorded",
            "{what}"
        );
    }
}

/// Writes into a field, or as another element of a list, what can't be read there.
fn spoil(object: &mut Value, field: &str) {
    let (parent, key) = field.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match parent.as_array_mut() {
        Some(list) => list.push(7.into()),
        None => parent[key] = json!({"no": ["such", "thing"]}),
    }
}

#[test]
fn evidence_of_which_not_even_the_image_can_be_read_says_against_images_what_it_said_before() {
    let before = "it speaks for no image; what it said against one before counts";
    let gone = |object: &mut Value| object["spec"] = json!("gone");
    let mut cluster = vetted("");
    cluster.environment(
        "prod",
        "compliance: {provenance: {trustedNamespaces: [ci]}, evidence: {required: true}}",
    );
    cluster.pass(600);
    cluster.new_events();
    let failed = "attestations: [{name: scan, compliant: false}]";
    let bad = format!("{{fingerprint: {}, flow: web, {failed}}}", digest("v1"));
    cluster.record("web-1", &bad);
    cluster.pass(120);
    assert_eq!(cluster.new_events(), [red("v1", "failed evidence: scan")]);
    assert_eq!(cluster.misread_record("web-1", gone), before);
    cluster.pass(600);
    let verdict = |cluster: &Cluster| {
        let facts = cluster.recorded("prod").facts[&digest("v1")].clone();
        facts.verdict.unwrap().message
    };
    assert_eq!(verdict(&cluster), "failed evidence: scan");
    assert_eq!(cluster.new_events(), ["silence: EvidenceChanged"]);

    // An approval ends, a rejection does not.
    let mut cluster = vetted("");
    cluster.environment("prod", &ruled(", approval: {required: true}"));
    let review = |state: &str| {
        let image = digest("v1");
        format!("{{fingerprint: {image}, state: {state}, reviewer: ann}}")
    };
    for (name, then) in [("approved", "no approval"), ("rejected", "rejected by ann")] {
        cluster.review(name, &review(name));
        cluster.pass(120);
        assert_ne!(verdict(&cluster), "no approval");
        assert_eq!(cluster.misread_review(name, gone), before);
        cluster.pass(120);
        assert_eq!(verdict(&cluster), then);
    }
}

#[test]
fn an_entry_of_the_allow_list_allows_nothing_while_not_all_of_it_can_be_read() {
    for field in [
        "/spec/environments/1",
        "/spec/artifacts/1",
        "/spec/artifacts/0/fingerprint",
        "/spec/expiresAt",
        "/spec/reason",
        "/spec",
        "/metadata/generation",
    ] {
        let mut cluster = vetted("");
        cluster.unrecord("web-1");
        let entry = entry_for("v1");
        cluster.allow("hotfix", &entry);
        cluster.pass(120);
        assert_eq!(state(&cluster), ComplianceState::Compliant, "{field}");
        assert_eq!(cluster.reason_of_allowance("hotfix"), "Active");
        let spoilt = |entry: &mut Value| spoil(entry, field);
        let counts = cluster.misread_allowance("hotfix", spoilt);
        assert_eq!(counts, "it allows no image", "{field}");
        assert_eq!(cluster.reason_of_allowance("hotfix"), "Unreadable");
        cluster.pass(5);
        assert_eq!(state(&cluster), ComplianceState::NonCompliant, "{field}");
        cluster.allow("hotfix", &entry);
        cluster.pass(120);
        assert_eq!(state(&cluster), ComplianceState::Compliant, "{field}");
    }
    // A digest that is none.
    let mut cluster = vetted("");
    cluster.unrecord("web-1");
    cluster.allow("hotfix", &entry_for("v1"));
    cluster.pass(120);
    let counts = cluster.misread_allowance("hotfix", |entry| {
        entry["spec"]["artifacts"][0]["fingerprint"] = "?".into();
    });
    assert_eq!(counts, "it allows no image");
    cluster.pass(5);
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
}

#[test]
fn edited_rules_and_a_deleted_record_are_told_at_once() {
    let mut cluster = vetted("");
    cluster.environment("prod", &ruled(", approval: {required: true}"));
    cluster.pass(5);
    assert_eq!(cluster.new_events(), [red("v1", "no approval")]);
    assert_eq!(last(&cluster).causes, [Cause::PolicyChanged]);
    cluster.environment("prod", &ruled(""));
    cluster.pass(120);
    assert_eq!(cluster.new_events(), ["silence: PolicyChanged", "green"]);
    cluster.unrecord("web-1");
    cluster.pass(5);
    assert_eq!(cluster.new_events(), [red("v1", NO_PROVENANCE)]);
    assert_eq!(last(&cluster).causes, [Cause::EvidenceChanged]);
    // Without rules nothing is said; with them again, only what is other than before.
    cluster.environment("prod", "{}");
    cluster.pass(600);
    assert_eq!(cluster.new_events(), ["silence: PolicyChanged"]);
    assert_eq!(state(&cluster), ComplianceState::Unknown);
    cluster.environment("prod", &ruled(""));
    cluster.pass(600);
    assert_eq!(cluster.new_events(), ["silence: PolicyChanged"]);
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
}

#[test]
fn one_bad_old_pod_holds_an_environment_until_it_is_gone() {
    let mut cluster = vetted("");
    let old = cluster.running("Pod old", "", &["bad"]);
    cluster.pass(600);
    assert_eq!(
        cluster.new_events(),
        ["started bad 0>1".to_owned(), red("bad", NO_PROVENANCE)]
    );
    cluster.terminate(&old);
    cluster.pass(600);
    assert_eq!(cluster.new_events(), Vec::<String>::new());
    cluster.remove(&old);
    cluster.pass(600);
    assert_eq!(cluster.new_events(), ["stopped bad 1>0", "green"]);
    let digest = digest("bad").to_string();
    let resolved = [format!(
        "registry.example/bad:1 ({}) stopped",
        &digest[..12]
    )];
    assert_eq!(last(&cluster).compliance.resolved, resolved);
}

#[test]
fn what_was_rolled_back_in_time_is_recorded_as_gone_before_anything_is_judged() {
    // A rollout to an image without a record, taken back 2 seconds before its grace ends, or while the operator is down.
    for down in [false, true] {
        let mut cluster = vetted("");
        roll(&mut cluster, "v2");
        cluster.pass(10);
        let first = cluster.log("prod").last().unwrap().at;
        assert_eq!(cluster.new_events(), ["started v2 0>1, stopped v1 1>0"]);
        let grace = |cluster: &Cluster| 300 - (cluster.now - first).as_secs();
        let left = grace(&cluster);
        cluster.pass(left - 30);
        if down {
            cluster.stop();
        }
        cluster.pass(28);
        for pod in cluster.pods_of("web", "") {
            cluster.remove(&pod);
        }
        cluster.running("web", "v1", &["v1"]);
        if down {
            cluster.pass(1_000);
            cluster.begin();
        }
        cluster.pass(1_000);
        let told = cluster.new_events();
        assert_eq!(told, ["started v1 0>1, stopped v2 1>0"], "down: {down}");
        assert_eq!(state(&cluster), ComplianceState::Compliant);
        cluster.assert_at_rest();
    }
}

#[test]
fn an_image_that_is_away_for_a_moment_is_judged_when_it_is_back() {
    let mut cluster = vetted("");
    let pod = cluster.pods_of("web", "")[0].clone();
    cluster.remove(&pod);
    // Judged while it is away, and back before that is recorded.
    cluster.unrecord("web-1");
    cluster.pass(2);
    cluster.running("web", "v1", &["v1"]);
    cluster.pass(600);
    assert_eq!(cluster.new_events(), [red("v1", NO_PROVENANCE)]);
}

#[test]
fn what_cannot_be_identified_is_noted_though_a_grace_ends_at_the_same_time() {
    for early in 20..=40 {
        let mut cluster = vetted(", grace: 300s");
        cluster.running("bad", "r", &["bad"]);
        cluster.pass(300 - early);
        let pod = cluster.running("odd", "r", &["odd"]);
        cluster.container(&pod, |c| {
            (c.image_id, c.id) = (String::new(), "containerd://new".to_owned());
        });
        cluster.pass(100);
        assert_eq!(state(&cluster), ComplianceState::NonCompliant);
        let noted = last(&cluster).compliance.unidentified_since;
        assert!(noted.is_some(), "{early} s before");
    }
}

#[test]
fn a_pod_that_could_never_be_read_does_not_pass_for_compliant() {
    let mut cluster = vetted("");
    cluster.stop_watch(WatchKind::Pods);
    let pod = cluster.running("odd", "r", &["odd"]);
    cluster.change(&pod, |pod| pod.garbled = true);
    cluster.resume_watch(WatchKind::Pods);
    cluster.list(WatchKind::Pods);
    cluster.pass(600);
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
    assert_eq!(cluster.recorded("prod").unidentified, 1);
    let elsewhere = "namespaces: {include: [blog]}\n".to_owned() + &ruled("");
    for (spec, unidentified) in [(elsewhere, 0), (ruled(""), 1)] {
        cluster.environment("prod", &spec);
        cluster.pass(1);
        assert_eq!(cluster.recorded("prod").unidentified, unidentified);
    }
    cluster.remove(&pod);
    cluster.pass(600);
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn what_could_not_be_identified_before_there_were_rules_is_judged_with_their_first_entry() {
    for garbled in [true, false] {
        let mut cluster = vetted("");
        cluster.environment("prod", "{}");
        cluster.pass(100);
        cluster.stop_watch(WatchKind::Pods);
        let pod = cluster.running("odd", "r", &["odd"]);
        cluster.change(&pod, |pod| pod.garbled = garbled);
        cluster.container(&pod, |c| {
            (c.image_id, c.id) = (String::new(), "containerd://new".to_owned());
        });
        cluster.resume_watch(WatchKind::Pods);
        cluster.list(WatchKind::Pods);
        cluster.pass(600);
        cluster.environment("prod", &ruled(", grace: 0s"));
        cluster.pass(600);
        let log = cluster.log("prod");
        let ruled = log.iter().rev().map(|it| it.spec.compliance.state);
        let since: Vec<_> = ruled
            .take_while(|it| *it != ComplianceState::Unknown)
            .collect();
        assert!(!since.is_empty());
        assert!(
            since.iter().all(|it| *it == ComplianceState::NonCompliant),
            "{garbled}: {since:?}"
        );
    }
}

#[test]
fn containers_without_a_digest_that_are_gone_in_time_turn_nothing() {
    let mut cluster = vetted("");
    let pod = cluster.running("odd", "r", &["odd"]);
    cluster.container(&pod, |c| {
        (c.image_id, c.id) = (String::new(), "containerd://new".to_owned());
    });
    cluster.pass(35);
    let since = last(&cluster).compliance.unidentified_since.unwrap();
    let left = 300 - cluster.wall().duration_since(since).as_secs();
    cluster.pass(u64::try_from(left).unwrap() - 2);
    cluster.remove(&pod);
    cluster.pass(1_000);
    let told = cluster.new_events();
    assert!(!told.iter().any(|told| told.starts_with("red")), "{told:?}");
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn a_clock_that_was_ahead_delays_no_judgement() {
    for restart in [false, true] {
        let mut cluster = vetted("");
        // All of that was written under a clock that was two hours ahead.
        cluster.set_back = std::time::Duration::from_secs(7_200);
        if restart {
            cluster.restart();
        }
        roll(&mut cluster, "v2");
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started v2 0>1, stopped v1 1>0"]);
        cluster.pass(200);
        assert_eq!(
            cluster.new_events(),
            Vec::<String>::new(),
            "it has its grace"
        );
        cluster.pass(60);
        assert_eq!(cluster.new_events(), [red("v2", NO_PROVENANCE)]);
        let end = cluster.wall() + jiff::SignedDuration::from_secs(600);
        let entry = format!(
            "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix, expiresAt: '{end}'}}",
            digest("v2")
        );
        cluster.allow("hotfix", &entry);
        cluster.pass(100);
        assert_eq!(cluster.new_events(), ["allowed v2 1>1", "green"]);
        cluster.pass(480);
        assert_eq!(cluster.new_events(), Vec::<String>::new());
        cluster.pass(40);
        assert_eq!(cluster.new_events(), [red("v2", NO_PROVENANCE)]);
        // The log's order stays: no entry is older than its predecessor, nor younger than it needs to be.
        let times: Vec<_> = cluster.log("prod").iter().map(|it| it.spec.time).collect();
        assert!(times.is_sorted(), "{times:?}");
        cluster.restart();
        cluster.pass(600);
        assert_eq!(cluster.new_events(), Vec::<String>::new());
    }
}

/// A pod that runs an image and is not counted: that of a Job, or one with an init container.
fn uncounted(cluster: &mut Cluster, how: &str, image: &str) -> String {
    if how == "Job" {
        // Whether there is such a Job plays no part: whoever may create pods may name any owner.
        return cluster.running("Job import", "", &[image]);
    }
    let pod = cluster.create("Pod one", "", &["v1"]);
    cluster.change(&pod, |pod| {
        let mut init = pod.containers[0].clone();
        (init.name, init.id) = ("init".to_owned(), "containerd://init".to_owned());
        init.image = format!("registry.example/{image}:1");
        init.image_id = crate::simulation::image_id(image);
        init.state = crate::simulation::State::Running;
        pod.init = vec![init];
    });
    pod
}

#[test]
fn what_is_not_counted_is_judged_all_the_same() {
    for how in ["Job", "init container"] {
        for restart in [false, true] {
            let mut cluster = vetted("");
            let pod = uncounted(&mut cluster, how, "bad");
            cluster.pass(100);
            assert_eq!(cluster.new_events(), ["silence: WorkloadsChanged"], "{how}");
            assert_eq!(
                state(&cluster),
                ComplianceState::Compliant,
                "it has its grace"
            );
            if restart {
                cluster.restart(); // grace is not given anew
            }
            cluster.pass(220);
            assert_eq!(cluster.new_events(), [red("bad", NO_PROVENANCE)], "{how}");
            assert_eq!(cluster.recorded("prod").total(&digest("bad")), 0);
            let (problems, _) = cluster.state.summary("prod").unwrap().problems;
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].fingerprint, digest("bad"));
            if restart {
                cluster.restart();
                cluster.pass(10);
                assert_eq!(cluster.new_events(), Vec::<String>::new());
            }
            cluster.remove(&pod);
            cluster.pass(100);
            let told = cluster.new_events();
            assert_eq!(told.last().unwrap(), "green", "{how}: {told:?}");
            assert_eq!(told.len(), 2, "{told:?}");
            cluster.assert_at_rest();
        }
    }
}

#[test]
fn a_replica_that_does_not_lead_names_what_is_not_counted_as_the_leader_does() {
    let mut cluster = vetted("");
    uncounted(&mut cluster, "Job", "bad");
    for (passed, in_grace) in [(100, true), (300, false)] {
        cluster.pass(passed);
        let status = |state: &ClusterState| {
            let input = StatusInput {
                name: "prod",
                summary: &state.summary("prod").unwrap(),
                frozen: None,
                recovering: false,
                now: cluster.wall(),
            };
            new_status(EnvironmentStatus::default(), input)
        };
        let told = status(&cluster.state);
        assert_eq!(told.reasons.len(), 1);
        assert_eq!(told.reasons[0].grace_until.is_some(), in_grace);
        let env = &cluster.environments["prod"];
        let id = EnvironmentId::new("prod", &env.uid);
        let mut other = empty_state(true, cluster.now);
        other.environment_seen(&id, &env.spec, cluster.now);
        let ledger = Arc::new(cluster.recorded("prod").clone());
        other.log_is_read(&id, ledger, cluster.now);
        other.problems_reported(&id, problems(&told));
        assert_eq!(status(&other).reasons, told.reasons);
        other.begins_to_lead(cluster.now);
        assert!(status(&other).reasons.is_empty(), "it judges for itself");
    }
}

#[test]
fn what_hangs_on_a_dead_node_is_judged_though_it_is_not_counted_any_more() {
    let mut cluster = vetted("");
    let pod = cluster.running("Pod one", "", &["bad"]);
    cluster.pass(400);
    cluster.new_events();
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
    cluster.terminate(&pod);
    cluster.pass(3_600);
    cluster.restart();
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["silence: WorkloadsChanged", "stopped bad 1>0"]
    );
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
    cluster.remove(&pod);
    cluster.pass(60);
    assert_eq!(cluster.new_events().last().unwrap(), "green");
    cluster.assert_at_rest();
}

#[test]
fn more_images_than_are_remembered_have_their_grace_once() {
    let mut cluster = vetted("");
    for number in 0..120 {
        cluster.running(
            &format!("Job run-{number}"),
            "",
            &[&format!("bad-{number}")],
        );
    }
    for round in 0..60 {
        let (job, image) = (format!("Job short-{round}"), format!("short-{round}"));
        let pod = cluster.running(&job, "", &[&image]);
        cluster.pass(5);
        cluster.remove(&pod);
        cluster.pass(5);
    }
    let mut told = cluster.new_events();
    told.retain(|it| !it.starts_with("silence"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("red: "), "{told:?}");
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
    cluster.restart();
    cluster.pass(120);
    assert_eq!(state(&cluster), ComplianceState::NonCompliant);
}

#[test]
fn a_crowd_of_images_in_one_namespace_takes_no_grace_of_another() {
    let mut cluster = vetted("");
    let run = |cluster: &mut Cluster, namespace: &str, image: &str| {
        let pod = cluster.running(&format!("Job {namespace}/run"), "", &[image]);
        cluster.pass(2);
        let (problems, _) = cluster.state.summary("prod").unwrap().problems;
        let found = problems.iter().find(|it| it.fingerprint == digest(image));
        let has_grace = found.map(|it| it.verdict.grace_until.is_some());
        cluster.remove(&pod);
        cluster.pass(1);
        has_grace
    };
    for number in 0..110 {
        let has_grace = run(&mut cluster, "blog", &format!("other-{number}"));
        assert_eq!(has_grace, Some(number < 100), "{number}");
    }
    for restart in [false, true] {
        if restart {
            cluster.restart();
            cluster.pass(10);
        }
        let crowded = run(&mut cluster, "blog", &format!("late-{restart}"));
        assert_eq!(crowded, Some(false), "{restart}");
        // Of another namespace each has its grace, and none is forgotten for what runs in the first.
        let image = format!("bad-{restart}");
        assert_eq!(run(&mut cluster, "shop", &image), Some(true));
        for number in 0..20 {
            run(&mut cluster, "blog", &format!("more-{restart}-{number}"));
        }
        let uncounted = &cluster.recorded("prod").compliance.uncounted;
        assert_eq!(uncounted.len(), 100);
        let bad = digest(&image).to_string();
        assert!(uncounted.iter().any(|it| it.fingerprint == bad));
        cluster.pass(400);
        assert_eq!(run(&mut cluster, "shop", &image), Some(false), "once");
    }
}

#[test]
fn an_image_that_moves_between_namespaces_gets_no_other_grace() {
    for (places, restart, graces) in [
        (vec!["shop", "blog"], false, 1),
        (vec!["shop", "blog"], true, 1),
        (vec!["blog", "shop"], false, 1),
        (vec!["blog"], false, 0),
        (vec!["shop"], false, 1),
    ] {
        let mut cluster = vetted("");
        let crowd = |cluster: &mut Cluster, round: usize| {
            for part in 0..10 {
                let images = (0..12).map(|number| format!("other-{round}-{part}-{number}"));
                let images: Vec<String> = images.collect();
                let images: Vec<&str> = images.iter().map(String::as_str).collect();
                let pod = cluster.running("Job blog/run", "", &images);
                cluster.pass(30);
                cluster.remove(&pod);
                cluster.pass(5);
            }
        };
        crowd(&mut cluster, 0);
        let mut with_grace = 0;
        for round in 1..4 {
            let mut has_grace = false;
            for place in &places {
                let pod = cluster.running(&format!("Job {place}/run"), "", &["bad"]);
                for _ in 0..3 {
                    cluster.pass(20);
                    let (problems, _) = cluster.state.summary("prod").unwrap().problems;
                    let found = problems.iter().find(|it| it.fingerprint == digest("bad"));
                    has_grace |= found.unwrap().verdict.grace_until.is_some();
                }
                cluster.remove(&pod);
                cluster.pass(1);
            }
            with_grace += usize::from(has_grace);
            if restart {
                cluster.restart();
            }
            crowd(&mut cluster, round); // more than are remembered, and longer than a grace
        }
        assert_eq!(with_grace, graces, "{places:?}, restart: {restart}");
    }
}

#[test]
fn what_comes_when_a_namespace_has_its_share_takes_the_grace_of_no_other() {
    let mut cluster = vetted("");
    let names: Vec<String> = (0..100).map(|number| format!("early-{number}")).collect();
    for part in names.chunks(10) {
        let images: Vec<&str> = part.iter().map(String::as_str).collect();
        cluster.running("Job blog/run", "", &images);
    }
    cluster.pass(10);
    let remembered = |cluster: &Cluster| {
        let uncounted = cluster.recorded("prod").compliance.uncounted.clone();
        let mut remembered: Vec<_> = uncounted
            .into_iter()
            .map(|it| (it.fingerprint, it.since))
            .collect();
        remembered.sort();
        remembered
    };
    let early = remembered(&cluster);
    assert_eq!(early.len(), 100);
    cluster.running("Job blog/run", "", &["late"]);
    cluster.pass(5);
    let entries = cluster.log("prod").len();
    for _ in 0..5 {
        assert_eq!(remembered(&cluster), early);
        cluster.pass(5);
    }
    assert_eq!(cluster.log("prod").len(), entries, "nothing else is said");
    let reasons = cluster.recorded("prod").compliance.reasons.clone();
    assert_eq!(reasons.len(), 1, "only the late one has no grace");
}

#[test]
fn an_exception_for_a_namespace_ends_when_the_image_runs_elsewhere_too_and_holds_again_afterwards()
{
    let mut cluster = vetted(", exceptions: [{namespaces: [blog], reason: ours}]");
    cluster.start("blog/web", &["bad"], 1);
    cluster.pass(400);
    assert_eq!(cluster.new_events(), ["started bad 0>1"]);
    cluster.start("api", &["bad"], 1);
    cluster.pass(60);
    let told = cluster.new_events();
    assert_eq!(state(&cluster), ComplianceState::NonCompliant, "{told:?}");
    for pod in cluster.pods_of("api", "") {
        cluster.remove(&pod);
    }
    cluster.pass(200);
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn what_runs_for_a_moment_again_and_again_gets_no_grace_again_and_again() {
    for restart in [false, true] {
        let mut cluster = vetted("");
        for run in 0..8 {
            let job = format!("Job import-{run}");
            let pod = cluster.running(&job, "", &["bad"]);
            cluster.pass(30);
            cluster.remove(&pod);
            cluster.pass(30);
            if restart {
                cluster.restart();
            }
        }
        let told = cluster.new_events();
        assert_eq!(told[0], "silence: WorkloadsChanged");
        assert_eq!(told[1], red("bad", NO_PROVENANCE), "{told:?}");
        // It is forgiven, and forgotten, when it complies.
        cluster.record("bad", &record("bad"));
        let pod = cluster.running("Job import", "", &["bad"]);
        cluster.pass(200);
        assert_eq!(state(&cluster), ComplianceState::Compliant);
        assert!(cluster.recorded("prod").compliance.uncounted.is_empty());
        cluster.remove(&pod);
        cluster.pass(10);
        cluster.assert_at_rest();
    }
}

#[test]
fn an_image_that_never_runs_until_it_is_recorded_is_judged_all_the_same() {
    for restart in [false, true] {
        let mut cluster = vetted("");
        for round in 0..20 {
            let waiting = cluster.create("api", "r", &["bad"]); // the workload is not at rest
            let pod = cluster.running("api", "r", &["bad"]);
            cluster.pass(20);
            cluster.remove(&pod);
            cluster.remove(&waiting);
            cluster.pass(10);
            if restart && round == 3 {
                cluster.restart(); // grace is not given anew
            }
        }
        let told = cluster.new_events();
        assert_eq!(
            told[..2],
            ["silence: WorkloadsChanged", &red("bad", NO_PROVENANCE)]
        );
        let first = &cluster.log("prod")[1].spec.compliance;
        assert_eq!(first.uncounted[0].fingerprint, digest("bad").to_string());
        let turned = cluster.log("prod")[2].spec.time;
        let since = turned.duration_since(first.uncounted[0].since).as_secs();
        assert!((300..=310).contains(&since), "{since}");
        assert_eq!(cluster.recorded("prod").total(&digest("bad")), 0);
        // When it stays, it is recorded, and has no other grace.
        cluster.running("api", "r", &["bad"]);
        cluster.pass(200);
        let told = cluster.new_events();
        assert_eq!(told.last().unwrap(), "started bad 0>1", "{told:?}");
        assert_eq!(state(&cluster), ComplianceState::NonCompliant);
        cluster.restart();
        cluster.pass(60);
        assert_eq!(state(&cluster), ComplianceState::NonCompliant);
        for pod in cluster.pods_of("api", "") {
            cluster.remove(&pod);
        }
        cluster.pass(200);
        assert_eq!(cluster.new_events(), ["stopped bad 1>0", "green"]);
        cluster.assert_at_rest();
    }
}

#[test]
fn no_crowd_of_images_that_run_for_moments_makes_one_forgotten() {
    let excepted = ", exceptions: [{images: ['registry.example/other-*'], reason: ours}]";
    // One of the crowd whose digest comes before that of the bad image: of what ends with a pod, it is looked at first.
    let first = (0..105).map(|number| format!("other-{number}"));
    let first = first.min_by_key(|name| digest(name)).unwrap();
    assert!(digest(&first) < digest("bad"), "no test");
    let bad = &digest("bad").to_string()[..12];
    for (owner, more, is_first, beside) in [
        ("Pod", excepted, true, None),
        ("Job", "", true, None),
        ("Pod", "", false, None),
        ("Pod", excepted, false, Some(&first)),
    ] {
        let mut cluster = vetted(more);
        let mut turned_red = false;
        let mut run = |cluster: &mut Cluster, images: &[&str]| {
            let pod = cluster.running(&format!("{owner} one"), "", images);
            cluster.pass(2);
            turned_red |= cluster
                .recorded("prod")
                .compliance
                .reasons
                .iter()
                .any(|it| it.contains(bad));
            cluster.remove(&pod);
            cluster.pass(1);
        };
        for _ in 0..3 {
            let both: Vec<&str> = beside
                .into_iter()
                .map(String::as_str)
                .chain(["bad"])
                .collect();
            if is_first {
                run(&mut cluster, &both);
            }
            for number in 0..105 {
                run(&mut cluster, &[&format!("other-{number}")]);
            }
            if !is_first {
                run(&mut cluster, &both);
            }
        }
        let case = format!("{owner} {more} {is_first} {beside:?}");
        assert!(turned_red, "{case}");
        let log = cluster.log("prod");
        assert_eq!(cluster.recorded("prod").totals().artifacts, 1, "{log:?}");
        assert!(cluster.recorded("prod").compliance.uncounted.len() <= 100);
    }
}

#[test]
fn an_exception_for_a_namespace_covers_no_workload_elsewhere_that_never_rests() {
    let mut cluster = vetted(", exceptions: [{namespaces: [blog], reason: ours}]");
    cluster.start("blog/web", &["bad"], 1);
    cluster.pass(400);
    assert_eq!(cluster.new_events(), ["started bad 0>1"]);
    let mut pod = cluster.running("api", "r", &["bad"]);
    let mut again = |cluster: &mut Cluster| {
        cluster.pass(3);
        let next = cluster.running("api", "r", &["bad"]);
        cluster.remove(&std::mem::replace(&mut pod, next));
    };
    for _ in 0..20 {
        again(&mut cluster);
    }
    assert_eq!(cluster.new_events(), [red("bad", NO_PROVENANCE)]);
    let in_shop = cluster.recorded("prod").cells().keys();
    let in_shop = in_shop.filter(|cell| &*cell.workload.namespace == "shop");
    assert_eq!(in_shop.count(), 1, "v1 alone");
    for _ in 0..20 {
        again(&mut cluster);
    }
    cluster.restart();
    cluster.pass(2);
    assert_eq!(cluster.new_events(), Vec::<String>::new());
    cluster.remove(&pod);
    cluster.pass(200);
    assert_eq!(cluster.new_events().last().unwrap(), "green");
    cluster.assert_at_rest();
}

#[test]
fn what_was_not_counted_and_is_counted_then_gets_no_other_grace() {
    for how in ["Job", "init container"] {
        let mut cluster = vetted("");
        let pod = uncounted(&mut cluster, how, "bad");
        cluster.pass(400);
        assert_eq!(state(&cluster), ComplianceState::NonCompliant);
        cluster.running("api", "r", &["bad"]);
        cluster.remove(&pod);
        cluster.new_events();
        cluster.pass(40);
        assert_eq!(cluster.new_events(), ["started bad 0>1"], "{how}");
        cluster.restart();
        cluster.pass(200);
        assert_eq!(cluster.new_events(), Vec::<String>::new(), "{how}");
        assert_eq!(state(&cluster), ComplianceState::NonCompliant);
    }
}

#[test]
fn evidence_about_what_is_not_counted_counts_at_once() {
    for how in ["Job", "init container"] {
        let mut cluster = vetted("");
        cluster.record("web-2", &record("v2"));
        uncounted(&mut cluster, how, "v2");
        cluster.pass(600);
        assert_eq!(cluster.new_events(), Vec::<String>::new(), "{how}");
        let no = format!(
            "{{fingerprint: {}, state: rejected, reviewer: eve}}",
            digest("v2")
        );
        cluster.review("no", &no);
        cluster.pass(5);
        assert_eq!(
            cluster.new_events(),
            [red("v2", "rejected by eve")],
            "{how}"
        );
        let end = cluster.wall() + jiff::SignedDuration::from_secs(1_000);
        let entry = format!(
            "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix, expiresAt: '{end}'}}",
            digest("v2")
        );
        cluster.allow("hotfix", &entry);
        cluster.pass(200);
        assert_eq!(state(&cluster), ComplianceState::Compliant, "{how}");
        cluster.new_events();
        cluster.pass(1_000);
        assert_eq!(
            cluster.new_events(),
            [red("v2", "rejected by eve")],
            "{how}"
        );
    }
}

#[test]
fn what_is_not_selected_or_has_no_rules_is_not_judged() {
    for (spec, judged) in [
        (
            "namespaces: {include: [blog]}, ".to_owned() + &ruled(""),
            false,
        ),
        (
            "podSelector: {matchLabels: {app: web}}, ".to_owned() + &ruled(""),
            false,
        ),
        ("{}".to_owned(), false),
        (ruled(""), true),
    ] {
        let mut cluster = Cluster::bare(true);
        let spec = if spec == "{}" {
            spec
        } else {
            format!("{{{spec}}}")
        };
        cluster.environment("prod", &spec);
        cluster.begin();
        cluster.pass(100);
        cluster.new_events();
        uncounted(&mut cluster, "Job", "bad");
        cluster.pass(1_000);
        assert_eq!(!cluster.new_events().is_empty(), judged, "{spec}");
    }
}

#[test]
fn frequent_rollouts_do_not_keep_an_environment_red() {
    let mut cluster = vetted(", recoveryWindow: 2m");
    let old = cluster.running("Pod old", "", &["bad"]);
    cluster.pass(600);
    cluster.remove(&old);
    cluster.new_events();
    for number in 2..6 {
        let image = format!("v{number}");
        roll(&mut cluster, &image);
        cluster.pass(40);
        cluster.record(&format!("web-{number}"), &record(&image));
    }
    cluster.pass(60);
    let told = cluster.new_events();
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
        cluster.new_events(),
        ["silence: Baseline", "silence: EvidenceChanged"]
    );
    assert_eq!(state(&cluster), ComplianceState::Compliant);
}

#[test]
fn the_index_and_the_manifests_of_an_image_are_one_artifact_when_ci_says_so() {
    let mut cluster = vetted("");
    cluster.running("web", "v1", &["v1-arm64"]);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v1-arm64 0>1"]);
    let both = format!(
        "{{fingerprint: {}, flow: web, aliases: [{}]}}",
        digest("v1"),
        digest("v1-arm64")
    );
    cluster.record("web-1", &both);
    cluster.pass(1_000);
    assert_eq!(cluster.new_events(), ["silence: IdentityLearned"]);
    assert_eq!(cluster.recorded("prod").total(&digest("v1")), 2);
    // The record goes, the name stays, and nothing vouches for it any more.
    cluster.unrecord("web-1");
    cluster.pass(1_000);
    assert_eq!(cluster.new_events(), [red("v1", NO_PROVENANCE)]);
    cluster.restart();
    cluster.pass(1_000);
    assert_eq!(cluster.new_events(), Vec::<String>::new());
    assert_eq!(cluster.recorded("prod").total(&digest("v1")), 2);
    cluster.assert_at_rest();
}

#[test]
fn what_is_said_of_a_digest_that_only_the_log_ties_to_its_artifact_counts_at_once() {
    for restart in [false, true] {
        let mut cluster = vetted(", exceptions: [{images: ['*'], reason: ours}]");
        cluster.running("web", "v1", &["v1-arm64"]);
        let both = format!(
            "{{fingerprint: {}, flow: web, aliases: [{}]}}",
            digest("v1"),
            digest("v1-arm64")
        );
        cluster.record("web-1", &both);
        cluster.pass(100);
        cluster.unrecord("web-1");
        cluster.pass(1_000);
        cluster.new_events();
        assert_eq!(cluster.recorded("prod").total(&digest("v1")), 2);
        if restart {
            cluster.stop();
        }
        let no = format!(
            "{{fingerprint: {}, state: rejected, reviewer: eve}}",
            digest("v1-arm64")
        );
        cluster.review("no", &no);
        if restart {
            cluster.begin();
        }
        cluster.pass(5);
        let told = cluster.new_events();
        assert_eq!(told, [red("v1", "rejected by eve")], "restart: {restart}");
    }
}

#[test]
fn a_log_that_cannot_be_built_on_keeps_what_was_known_of_the_environment() {
    let mut cluster = vetted("");
    cluster.allow("a", &entry_for("v7"));
    cluster.pass(10);
    cluster.new_events();
    let end = cluster.recorded("prod").clone();
    let mut blank = Ledger::empty(Scope::default());
    (blank.index, blank.time) = (end.index, end.time);
    blank.content_hash.clone_from(&end.content_hash);
    blank.compliance = end.compliance;
    let uid = cluster.state.uid("prod").unwrap().to_owned();
    let lost = Cause::HistoryLost;
    cluster
        .state
        .log_is_blank(&EnvironmentId::new("prod", &uid), Some(blank), lost);
    cluster.unrecord("web-1");
    cluster.pass(5);
    // What was allowed is known, and what is missing has its time anew: when it began is lost.
    assert_eq!(
        cluster.new_events(),
        ["silence: HistoryLost", "silence: PolicyChanged"]
    );
    cluster.pass(600);
    assert_eq!(cluster.new_events(), [red("v1", NO_PROVENANCE)]);
}

fn entry_for(image: &str) -> String {
    format!(
        "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: hotfix}}",
        digest(image)
    )
}

#[test]
fn a_record_of_one_platform_that_comes_and_goes_renames_and_rings_nothing() {
    let mut cluster = vetted("");
    cluster.running("web", "v1", &["v1-arm64"]);
    let both = format!(
        "{{fingerprint: {}, flow: web, aliases: [{}]}}",
        digest("v1"),
        digest("v1-arm64")
    );
    cluster.record("web-1", &both);
    cluster.pass(100);
    cluster.new_events();
    // Its flow comes first, so the image goes by its digest for as long as it is there.
    let one = format!("{{fingerprint: {}, flow: alpha}}", digest("v1-arm64"));
    cluster.record("arm64", &one);
    cluster.pass(100);
    assert_eq!(cluster.recorded("prod").total(&digest("v1-arm64")), 2);
    cluster.scale("web", 3);
    cluster.pass(100);
    cluster.unrecord("arm64");
    cluster.pass(100);
    let told = cluster.new_events();
    assert_eq!(told.last().unwrap(), "silence: IdentityLearned", "{told:?}");
    assert_eq!(cluster.recorded("prod").total(&digest("v1")), 3);
    cluster.assert_at_rest();
}

#[test]
fn a_record_in_a_namespace_that_is_not_trusted_changes_nothing() {
    let mut cluster = vetted("");
    roll(&mut cluster, "v2");
    cluster.pass(20);
    cluster.new_events();
    let evil = format!(
        "{{fingerprint: {}, flow: evil, aliases: [{}]}}",
        digest("evil"),
        digest("v2")
    );
    cluster.record("tenant/evil", &evil);
    cluster.pass(600);
    let words = "its record is in namespace tenant, which is not trusted here";
    assert_eq!(
        cluster.new_events(),
        ["silence: EvidenceChanged".to_owned(), red("v2", words)]
    );
}

#[test]
fn containers_that_cannot_be_identified_are_waited_for_and_then_make_it_red() {
    let mut cluster = vetted("");
    let pod = cluster.running("odd", "r", &["odd"]);
    cluster.container(&pod, |c| {
        (c.image_id, c.id) = (String::new(), "containerd://new".to_owned());
    });
    cluster.pass(1_000);
    let told = cluster.new_events();
    assert_eq!(
        told.last().unwrap(),
        "red: 1 container or pod that can't be identified"
    );
    cluster.remove(&pod);
    cluster.pass(1_000);
    assert_eq!(cluster.new_events().last().unwrap(), "green");
}

#[test]
fn grace_is_not_given_twice_while_the_log_remembers() {
    let mut cluster = vetted("");
    let pod = cluster.running("Pod odd", "", &["odd"]);
    cluster.pass(200);
    cluster.remove(&pod);
    cluster.pass(200);
    cluster.new_events();
    cluster.running("Pod odd", "", &["odd"]);
    cluster.pass(30);
    assert_eq!(
        cluster.new_events(),
        ["started odd 0>1".to_owned() + ", " + &red("odd", NO_PROVENANCE)]
    );
}

// ---- what holds whatever happens ----

/// Something that happens in a cluster with rules. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Act {
    Run(usize),
    Stop(usize),
    Record(usize, usize),
    Unrecord(usize),
    Review(usize, usize),
    Allow(usize, u64),
    Disallow(usize),
    Rules(usize),
    Pass(u64),
}

const IMAGES: [&str; 4] = ["v1", "v2", "v3", "v4"];
const RULES: [&str; 4] = [
    "",
    ", evidence: {required: true}",
    ", approval: {required: true}, grace: 2m",
    ", recoveryWindow: 0s",
];

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..4_usize).prop_map(Act::Run),
        2 => (0..4_usize).prop_map(Act::Stop),
        4 => (0..4_usize, 0..4_usize).prop_map(|(image, how)| Act::Record(image, how)),
        2 => (0..4_usize).prop_map(Act::Unrecord),
        3 => (0..4_usize, 0..3_usize).prop_map(|(image, how)| Act::Review(image, how)),
        2 => (0..4_usize, 0..900_u64).prop_map(|(image, end)| Act::Allow(image, end)),
        1 => (0..4_usize).prop_map(Act::Disallow),
        1 => (0..5_usize).prop_map(Act::Rules),
        8 => prop_oneof![2..20_u64, 30..400_u64].prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..40)
}

/// An environment that records at once, so that a restart changes nothing about when.
fn at_once() -> Cluster {
    let mut cluster = Cluster::watched(true, &at_once_with(RULES[0]));
    cluster.pass(10);
    cluster
}

fn at_once_with(more: &str) -> String {
    let zero = "settle: {quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}";
    format!("{{{zero}, {}}}", ruled(more))
}

fn act(cluster: &mut Cluster, act: &Act) {
    let pod = |image: &usize| format!("pod-{image}");
    match act {
        Act::Run(image) if !cluster.pods.contains_key(&pod(image)) => {
            cluster.running(&format!("Pod {}", pod(image)), "", &[IMAGES[*image]]);
        }
        Act::Stop(image) if cluster.pods.contains_key(&pod(image)) => {
            cluster.remove(&pod(image));
        }
        Act::Record(image, how) => {
            let more = match how {
                0 => "requiredAttestations: [scan]",
                1 => "attestations: [{name: scan, compliant: false}]",
                2 => "requiredAttestations: [scan], attestations: [{name: scan, compliant: true}]",
                _ => "name: web",
            };
            let spec = format!(
                "{{fingerprint: {}, flow: web, {more}}}",
                digest(IMAGES[*image])
            );
            cluster.record(&format!("r{image}"), &spec);
        }
        Act::Unrecord(image) if cluster.has_record(&format!("r{image}")) => {
            cluster.unrecord(&format!("r{image}"));
        }
        Act::Review(image, how) => {
            let state = ["requested", "approved", "rejected"][*how];
            let spec = format!(
                "{{fingerprint: {}, state: {state}, reviewer: eve}}",
                digest(IMAGES[*image])
            );
            let name = format!("review-{}", cluster.reviews());
            cluster.review(&name, &spec);
        }
        Act::Allow(image, end) => {
            let end =
                cluster.wall() + jiff::SignedDuration::from_secs(i64::try_from(*end).unwrap());
            let spec = format!(
                "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: r, expiresAt: '{end}'}}",
                digest(IMAGES[*image])
            );
            cluster.allow(&format!("a{image}"), &spec);
        }
        Act::Disallow(image) if cluster.has_allowance(&format!("a{image}")) => {
            cluster.disallow(&format!("a{image}"));
        }
        Act::Rules(number) => match RULES.get(*number) {
            Some(more) => cluster.environment("prod", &at_once_with(more)),
            None => cluster.environment(
                "prod",
                "settle: {quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}",
            ),
        },
        Act::Pass(number) => cluster.pass(*number),
        _ => {}
    }
}

/// The events of the environment as a whole, and of the allow-list.
fn turns(cluster: &Cluster) -> Vec<EventType> {
    let entries = cluster.log("prod").iter();
    let events = entries.flat_map(|written| &written.spec.events);
    let types = events.map(|event| event.type_);
    types
        .filter(|type_| type_.is_of_environment() || *type_ == EventType::ArtifactAllowed)
        .collect()
}

proptest! {
    #![proptest_config(crate::simulation::testing::tries(64))]

    /// An event of the environment tells of a change from one known state to the other, every such change is told, and
    /// so they alternate, across Unknown as well.
    #[test]
    fn every_turn_is_told_once_and_nothing_else_is(acts in acts()) {
        let mut cluster = at_once();
        for step in &acts {
            act(&mut cluster, step);
        }
        cluster.pass(2_000);
        let mut known = None;
        for written in cluster.log("prod") {
            let compliance = &written.spec.compliance;
            let told: Vec<_> = written.spec.events.iter().filter(|e| e.type_.is_of_environment()).collect();
            let state = Some(compliance.state).filter(|state| *state != ComplianceState::Unknown);
            let turned = state.is_some() && known.is_some() && state != known;
            prop_assert_eq!(told.len(), usize::from(turned), "{:?}", &written.spec);
            if turned {
                prop_assert_eq!(Some(compliance.was), known);
            }
            known = state.or(known);
            prop_assert_eq!(compliance.last_known, known);
        }
        // What the log says in the end is what a look at everything says.
        let recorded = cluster.recorded("prod").clone();
        cluster.restart();
        cluster.pass(10);
        prop_assert_eq!(&cluster.recorded("prod").facts, &recorded.facts);
        prop_assert_eq!(cluster.recorded("prod").compliance.state, recorded.compliance.state);
    }

    /// An operator that is killed at any point tells the same.
    #[test]
    fn kills_change_nothing_of_what_is_told(acts in acts(), kills in prop::collection::vec(any::<bool>(), 40)) {
        let mut told = vec![];
        for killed in [false, true] {
            let mut cluster = at_once();
            for (step, kill) in acts.iter().zip(&kills) {
                act(&mut cluster, step);
                // Whatever is to be recorded may wait for a second for its turn.
                cluster.pass(2);
                if killed && *kill {
                    cluster.restart();
                }
            }
            cluster.pass(2_000);
            told.push((turns(&cluster), state(&cluster)));
        }
        prop_assert_eq!(&told[0], &told[1]);
    }

    /// What is said in whatever order comes to the same.
    #[test]
    fn the_order_in_which_it_is_said_does_not_matter(acts in acts(), seed in any::<u64>()) {
        let mut cluster = at_once();
        for step in acts.iter().filter(|step| !matches!(step, Act::Pass(_))) {
            act(&mut cluster, step);
        }
        cluster.pass(1_000); // what ends has ended
        cluster.shuffle(seed);
        let before = cluster.recorded("prod").clone();
        cluster.restart();
        cluster.pass(10);
        prop_assert_eq!(&cluster.recorded("prod").facts, &before.facts);
        prop_assert_eq!(&cluster.recorded("prod").compliance.state, &before.compliance.state);
    }

    /// From one compliant image to the next: nothing if the record comes in time, red and green if it doesn't.
    #[test]
    fn a_late_record_turns_the_environment_twice_and_one_in_time_never(lag in 0..900_u64) {
        let mut cluster = vetted("");
        cluster.running("web", "v2", &["v2"]);
        cluster.pass(40);
        let first = cluster.log("prod").last().unwrap().at;
        cluster.pass(lag);
        let waited = (cluster.now - first).as_secs();
        cluster.record("web-2", &record("v2"));
        cluster.pass(2_000);
        if waited != 300 {
            prop_assert_eq!(turns(&cluster).len(), if waited < 300 { 0 } else { 2 }, "{}", waited);
        }
    }

    /// A runtime that calls containers by the other digests of their image rings nothing.
    #[test]
    fn digests_of_one_image_that_change_ring_nothing(flips in prop::collection::vec((0..3_usize, 0..3_usize), 1..20)) {
        let mut cluster = Cluster::bare(true);
        let names = ["v1", "v1-amd64", "v1-arm64"];
        let spec = format!(
            "{{fingerprint: {}, flow: web, aliases: [{}, {}]}}",
            digest(names[0]), digest(names[1]), digest(names[2])
        );
        cluster.record("web-1", &spec);
        cluster.start("web", &["v1"], 3);
        cluster.environment("prod", &ruled(""));
        cluster.begin();
        cluster.pass(100);
        let pods: Vec<String> = cluster.pods.keys().cloned().collect();
        for (pod, name) in flips {
            cluster.container(&pods[pod], |c| c.image_id = crate::simulation::image_id(names[name]));
            cluster.pass(20);
        }
        cluster.restart();
        cluster.pass(1_000);
        let events: Vec<_> = cluster.log("prod").iter().flat_map(|w| w.spec.events.clone()).collect();
        prop_assert_eq!(events, vec![]);
        prop_assert_eq!(state(&cluster), ComplianceState::Compliant);
    }

    /// A rejection is not waited for, however fresh the image.
    #[test]
    fn a_rejection_rings_at_once(after in 0..290_u64) {
        let mut cluster = vetted("");
        cluster.running("web", "v2", &["v2"]);
        cluster.pass(40);
        cluster.pass(after.min(250));
        cluster.new_events();
        let spec = format!("{{fingerprint: {}, state: rejected, reviewer: eve}}", digest("v2"));
        cluster.review("no", &spec);
        cluster.pass(2);
        prop_assert_eq!(cluster.new_events(), [red("v2", "rejected by eve")]);
    }
}
