//! Texts that somebody wrote to do harm: whatever they hold, the log goes on. Every entry is judged by the real schemas when
//! it is appended.

use jiff::Timestamp;
use proptest::prelude::*;

use crate::{
    api::EnvironmentStatus,
    simulation::{Cluster, schema, testing::digest},
    snapshot::environment_status::{StatusInput, new_status},
};

/// A text of any characters, sometimes a very long one.
fn hostile() -> impl Strategy<Value = String> {
    let characters = prop_oneof![
        Just("x".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("\u{1}".to_owned()),
        Just("\u{10ffff}".to_owned()),
        Just("0".to_owned()),
        Just("a/".to_owned()),
        Just("<!channel>".to_owned()),
        "\\PC{1,9}",
    ];
    (
        characters,
        prop_oneof![6 => 0..40_usize, 3 => 200..330_usize, 1 => 900..2_100_usize],
    )
        .prop_map(|(text, times)| text.repeat(times).chars().take(2_100).collect())
}

/// The same, but not empty, as the API server asks of names.
fn hostile_name() -> impl Strategy<Value = String> {
    hostile().prop_map(|text| {
        if text.is_empty() {
            "x".to_owned()
        } else {
            text
        }
    })
}

/// An image, perhaps with a host, a tag or a digest.
fn hostile_image() -> impl Strategy<Value = String> {
    let around = prop_oneof![
        Just(("", "")),
        Just(("", ":1")),
        Just(("registry.example:", "/web:1")),
        Just(("registry.example/", "")),
        Just(("", "@sha256:0")),
    ];
    (around, hostile()).prop_map(|((start, end), text)| format!("{start}{text}{end}"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// The status of `prod`.
fn status(cluster: &Cluster) -> EnvironmentStatus {
    let summary = cluster.state.summary("prod").unwrap();
    let input = StatusInput {
        name: "prod",
        summary: &summary,
        frozen: None,
        recovering: false,
        now: Timestamp::UNIX_EPOCH,
    };
    new_status(EnvironmentStatus::default(), input)
}

fn ruled() -> Cluster {
    let rules = "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 0s}";
    let mut cluster = Cluster::watched(true, rules);
    cluster.pass(60);
    cluster.new_events();
    cluster
}

#[test]
fn a_pod_with_an_owner_whose_name_is_too_long_is_recorded_like_any_other() {
    let mut cluster = Cluster::new();
    let pod = cluster.running("StatefulSet db", "1", &["v1"]);
    cluster.change(&pod, |pod| {
        let owner = ("example.com/v1", "K".repeat(400), "n".repeat(300));
        pod.owner = Some(owner);
    });
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v1 0>1"]);
    let workload = cluster.log("prod").last().unwrap().spec.changes[0].workloads[0].clone();
    assert!(workload.name.starts_with(&"n".repeat(200)));
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), Vec::<String>::new());
    cluster.assert_at_rest();
}

#[test]
fn an_image_whose_name_is_too_long_is_recorded_with_the_beginning_of_it() {
    let mut cluster = Cluster::new();
    let pod = cluster.create("web", "1", &["v1"]);
    let port = format!("registry.example:{}/web:1", "0".repeat(1_500));
    cluster.run(&pod);
    cluster.container(&pod, |container| container.image = port);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v1 0>1"]);
    let name = cluster.log("prod").last().unwrap().spec.changes[0]
        .name
        .clone();
    assert!(name.starts_with("registry.example:000"), "{name}");
}

#[test]
fn many_artifacts_that_start_and_are_allowed_at_once_fit_into_entries() {
    let mut cluster = Cluster::new();
    cluster.hold();
    let name = |number: usize| format!("v{number}");
    for number in 0..1_100 {
        cluster.running(&format!("StatefulSet w{number}"), "1", &[&name(number)]);
    }
    for entry in 0..8 {
        let digests = (entry * 64..(entry + 1) * 64)
            .map(|number| format!("{{fingerprint: {}, name: web}}", digest(&name(number))));
        let digests = digests.collect::<Vec<_>>().join(", ");
        let spec = format!("{{environments: [prod], artifacts: [{digests}], reason: all}}");
        cluster.allow_quietly(&format!("entry-{entry}"), &spec);
    }
    cluster.deliver_all();
    cluster.pass(120);
    let log = cluster.log("prod").iter();
    let events: usize = log.map(|written| written.spec.events.len()).sum();
    assert_eq!(events, 1_100 + 8 * 64);
}

#[test]
fn entries_that_are_refused_for_their_content_are_written_without_texts_and_say_the_same() {
    let run = |refusing: bool| {
        let mut cluster = ruled();
        cluster.refusing = refusing;
        cluster.record(
            "web-1",
            &format!("{{fingerprint: {}, flow: web}}", digest("v1")),
        );
        cluster.start("web", &["v1", "mesh"], 3);
        cluster.pass(120);
        cluster.roll("web", &["v2", "mesh"], "v2", 3, 2);
        cluster.pass(600);
        cluster.restart();
        cluster.scale("web", 5);
        cluster.pass(600);
        cluster.assert_at_rest();
        let log = cluster.log("prod").iter();
        let told: Vec<_> = log
            .flat_map(|it| {
                it.spec
                    .events
                    .iter()
                    .map(|event| (event.type_, it.spec.totals))
            })
            .collect();
        (told, cluster.recorded("prod").cells().clone())
    };
    let (told, cells) = run(true);
    assert!(told.len() > 4, "{told:?}");
    assert_eq!((told, cells), run(false));
}

proptest! {
    // Each try holds twenty texts, and takes 20 ms: the real schemas judge all that a cluster writes of them.
    #![proptest_config(crate::simulation::testing::tries(240))]

    #[test]
    fn whatever_texts_the_objects_hold_every_entry_and_status_is_accepted(
        owners in prop::collection::vec((hostile_name(), hostile_name(), hostile_name()), 1..3),
        images in prop::collection::vec(hostile_image(), 1..3),
        texts in prop::collection::vec(hostile(), 8),
    ) {
        let mut cluster = ruled();
        for (number, (api, kind, name)) in owners.iter().enumerate() {
            let api: &'static str = String::leak(api.clone());
            let pod = cluster.create("StatefulSet db", "1", &[&format!("v{number}")]);
            cluster.run(&pod);
            let image = images[number % images.len()].clone();
            cluster.change(&pod, |pod| {
                pod.owner = Some((api, kind.clone(), name.clone()));
                pod.containers[0].image = image;
            });
        }
        let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        let [flow, name, commit, url, reviewer, comment, reason, listed] = &quoted[..] else {
            unreachable!()
        };
        let record = format!(
            "{{fingerprint: {}, flow: {flow}, name: {name}, commit: {{sha: {commit}, url: {url}}}, build: {{url: {url}}}, deployments: [{{number: 1, environment: prod, time: '2026-01-01T00:00:00Z', buildURL: {url}}}], requiredAttestations: [{name}], attestations: [{{name: {comment}, compliant: false}}]}}",
            digest("v0")
        );
        cluster.record("web", &record);
        cluster.review("first", &format!("{{fingerprint: {}, state: rejected, reviewer: {reviewer}, comment: {comment}}}", digest("v0")));
        cluster.allow("entry", &format!("{{environments: [prod], artifacts: [{{fingerprint: {}, name: {listed}}}], reason: {reason}}}", digest("v1")));
        cluster.pass(60);
        // From now on only the log tells the names of their images.
        let pods: Vec<String> = cluster.pods.keys().cloned().collect();
        for pod in pods {
            cluster.change(&pod, |pod| {
                pod.generation += 1;
                for container in &mut pod.containers {
                    container.image_id.clear();
                }
            });
        }
        cluster.pass(60);
        let recorded = cluster.recorded("prod").totals().artifacts;
        prop_assert_eq!(recorded, i64::try_from(owners.len()).unwrap());
        prop_assert_eq!(schema::refusal("environments", "status", &status(&cluster)), None);
        for (kind, status) in cluster.evidence_statuses() {
            prop_assert_eq!(schema::refusal(kind, "status", &status), None, "{}", status);
        }
        cluster.restart();
        cluster.pass(60);
        cluster.assert_at_rest();
    }
}
