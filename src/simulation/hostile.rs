//! Whatever a cluster holds, nothing panics, and the counts stay right.

use proptest::{collection::vec, prelude::*, sample::select, string::string_regex};
use serde_json::{Value, json};

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Environment,
        environment::EnvironmentId,
    },
    cluster::{
        custom_resource_watch::Slim,
        fleet::Fleet,
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView, SlimView},
    },
    compliance::{
        evidence::{Allowance, Evidence, EvidenceKey, ProvenanceRecord},
        evidence_state::EvidenceState as _,
    },
    simulation::{
        Cluster, empty_state,
        hostile_json::{Edit, edited, edits},
        image_id,
        testing::{digest, reader_tries},
    },
    snapshot::state::FleetObject,
    time::Moment,
};

/// An object as whoever may create it can make it.
#[derive(Clone, Debug)]
enum Hostile {
    /// With whether it is gone.
    Pod(Value, bool),
    Deployment(Value, bool),
    Namespace(Value, bool),
    Environment(Value),
    Record(Value),
    Review(Value),
    Allowance(Value),
}

fn text() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "",
        "\0",
        "@",
        ":",
        "/",
        "@sha256:",
        "sha256:",
        "docker://",
        "docker-pullable://@",
        "\u{202e}\u{e9}@sha256:\u{e9}",
        "pod-template-hash",
        "Job",
        "ReplicaSet",
        "apps/v1",
        "batch/v1",
        "Always",
        "Never",
        "Running",
        "ImagePullBackOff",
        "99999999999999999999",
        "9999-12-31T23:59:59Z",
        "0000-01-01T00:00:00-99:99",
        "approved",
        "rejected",
        "prod",
        "ci",
        "shop",
    ]);
    prop_oneof![
        6 => odd.prop_map(str::to_owned),
        4 => (0..4_u8).prop_map(|number| digest(&format!("v{number}")).to_string()),
        4 => (0..4_u8).prop_map(|number| image_id(&format!("v{number}"))),
        2 => string_regex(".{0,30}").unwrap(),
        1 => (string_regex("[a-z0-9.:/@-]{1,3}").unwrap(), 300..700_usize).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![0..3_i64, any::<i64>()]
}

/// An environment with something in every field.
fn environment() -> Value {
    json!({"metadata": {"name": "prod", "uid": "u", "resourceVersion": "7", "generation": 1}, "spec": {
        "namespaces": {"include": ["n*", "shop"], "exclude": ["blog"]}, "exclude": ["Job.batch"], "visibleTo": ["*"],
        "namespaceSelector": {"matchLabels": {"prod": "ci"}},
        "podSelector": {"matchExpressions": [{"key": "prod", "operator": "NotIn", "values": ["shop"]}]},
        "settle": {"quiet": "5s", "scaling": "30s", "max": "30s", "rollout": "15m"}, "history": {"maxAge": "720h"},
        "compliance": {
            "provenance": {"required": true, "trustedNamespaces": ["ci"]}, "approval": {"required": true}, "grace": "1m",
            "exceptions": [{"rules": ["approval"], "images": ["*"], "reason": "r", "expiresAt": "2026-01-01T00:00:00Z"}],
        },
    }})
}

/// The object with other parts, but for those that the API server bounds.
fn with_edits(mut object: Value, edits: &[Edit]) -> Value {
    for place in ["/spec", "/status", "/metadata/labels"] {
        if let Some(part) = object.pointer_mut(place) {
            *part = edited(part, edits);
        }
    }
    object
}

fn hostile() -> impl Strategy<Value = Hostile> {
    prop_oneof![
        8 => object(),
        1 => edits().prop_map(|edits| Hostile::Environment(with_edits(environment(), &edits))),
    ]
}

fn object() -> impl Strategy<Value = Hostile> {
    let parts = (
        vec(text(), 24),
        vec(number(), 8),
        vec(any::<bool>(), 6),
        0..8_u8,
    );
    parts.prop_map(|(t, n, b, which)| {
        // The API server bounds the names of objects and namespaces; nobody bounds those of owners.
        let elsewhere: String = format!("n{}", t[1]).chars().take(63).collect();
        let metadata = |name: &str| {
            let name: String = format!("n{name}").chars().take(253).collect();
            json!({"name": name, "namespace": if b[0] { "shop" } else { elsewhere.as_str() }, "uid": format!("{}", n[0] % 5), "resourceVersion": t[2],
                "generation": n[1], "creationTimestamp": if b[1] { "2026-01-01T00:00:00Z" } else { "9999-12-31T23:59:59Z" },
                "labels": {t[3].clone(): t[4], "pod-template-hash": t[5]}})
        };
        match which {
            0 => Hostile::Record(json!({"metadata": metadata(&t[0]), "spec": {
                "fingerprint": t[6], "aliases": [t[7], t[8]], "flow": t[9], "name": t[10], "repository": t[11],
                "commit": {"sha": t[12], "url": t[13]}, "build": {"url": t[14], "startedAt": t[15]},
                "attestations": [{"name": t[16], "compliant": b[2], "time": t[17]}],
                "deployments": [{"number": n[2], "environment": t[18], "time": "9999-12-31T23:59:59Z"}],
            }})),
            1 => Hostile::Review(json!({"metadata": metadata(&t[0]), "spec": {
                "fingerprint": t[6], "state": if b[2] { "approved" } else { t[7].as_str() }, "reviewer": t[8], "number": n[2],
                "flow": t[9], "environment": t[10], "expiresAt": "9999-12-31T23:59:59Z", "time": "0000-01-01T00:00:00Z",
            }})),
            2 => Hostile::Allowance(json!({"metadata": metadata(&t[0]), "spec": {
                "environments": ["prod", t[6]], "artifacts": [{"fingerprint": t[7], "name": t[8]}], "reason": t[9],
                "expiresAt": "9999-12-31T23:59:59Z",
            }})),
            3 => Hostile::Deployment(json!({"metadata": metadata(&t[0]), "spec": {"paused": b[2], "replicas": n[2]}, "status": {
                "observedGeneration": n[3], "conditions": [{
                    "type": if b[3] { "Progressing" } else { t[6].as_str() }, "status": if b[4] { "True" } else { t[7].as_str() },
                    "reason": t[8],
                }],
            }}), b[5]),
            4 => Hostile::Namespace(json!({"metadata": metadata(&t[0])}), b[5]),
            _ => {
                let mut metadata = metadata(&t[0]);
                metadata["ownerReferences"] = json!([{"apiVersion": t[6], "kind": t[7], "name": t[8], "uid": t[9], "controller": b[2]}]);
                if b[3] {
                    metadata["deletionTimestamp"] = json!(t[10]);
                }
                let state = match n[2] % 4 {
                    0 => json!({"waiting": {"reason": t[11]}}),
                    1 => json!({"terminated": {"exitCode": n[3]}}),
                    2 => json!({}),
                    _ => json!({"running": {"startedAt": t[12]}}),
                };
                let status = |name: &str, at: usize| {
                    json!({"name": name, "imageID": t[at], "containerID": t[at + 1], "restartCount": n[4], "state": state,
                        "lastState": {"terminated": {"exitCode": n[5]}}})
                };
                let rules = json!([{"action": t[13], "exitCodes": {"operator": t[14], "values": [n[6]]}}]);
                let pod = json!({"metadata": metadata,
                    "spec": {"restartPolicy": t[15], "containers": [
                        {"name": "a", "image": t[16], "restartPolicy": t[17], "restartPolicyRules": rules}, {"name": t[18], "image": t[19]},
                    ], "initContainers": [{"name": "i", "image": t[20], "restartPolicy": t[21]}]},
                    "status": {"phase": if b[4] { "Running" } else { t[22].as_str() },
                        "containerStatuses": [status("a", 19), status(&t[18], 20)], "initContainerStatuses": [status("i", 21)]},
                });
                Hostile::Pod(pod, b[5])
            }
        }
    })
}

fn decoded<T: SlimView>(object: &Value) -> Decoded<T> {
    serde_json::from_str(&object.to_string()).unwrap()
}

fn is_told<T: FleetObject>(cluster: &mut Cluster, object: &Value, gone: bool) {
    let (object, now) = (decoded::<T>(object), cluster.now);
    if gone {
        cluster.state.deleted(&object, now);
    } else {
        cluster.state.seen(object, false, now);
    }
}

fn happens(cluster: &mut Cluster, object: &Hostile) {
    let (state, now) = (&mut cluster.state, cluster.now);
    match object {
        Hostile::Pod(it, gone) => is_told::<PodView>(cluster, it, *gone),
        Hostile::Deployment(it, gone) => is_told::<DeploymentView>(cluster, it, *gone),
        Hostile::Namespace(it, gone) => is_told::<NamespaceView>(cluster, it, *gone),
        Hostile::Environment(value) => {
            if let Ok(object) = serde_json::from_value::<Environment>(value.clone()) {
                cluster.environment_as("prod", object.spec);
            }
        }
        Hostile::Record(value) => {
            if let Ok(object) = serde_json::from_value::<ArtifactProvenance>(value.clone()) {
                let record = ProvenanceRecord::of(&object);
                state.record_seen(&EvidenceKey::of(&object), record.ok(), now);
            }
        }
        Hostile::Review(value) => {
            if let Ok(object) = serde_json::from_value::<ArtifactApproval>(value.clone()) {
                // What is no digest is refused.
                let _ = state.review_seen(&EvidenceKey::of(&object), Some(&object));
            }
        }
        Hostile::Allowance(value) => {
            if let Ok(object) = serde_json::from_value::<AllowedArtifact>(value.clone()) {
                let allowance = Allowance::of(&object);
                state.allowance_seen(&EvidenceKey::of(&object).name, allowance.ok());
            }
        }
    }
}

proptest! {
    #![proptest_config(reader_tries())]

    #[test]
    fn each_object_that_somebody_can_make_is_read_or_refused(
        object in hostile(), edits in edits(), counted in any::<bool>(),
    ) {
        let mut fleet = Fleet::default();
        fleet.trust_generation = counted;
        match object {
            Hostile::Deployment(it, _) => {
                if let Decoded::Good(it) = decoded(&with_edits(it, &edits)) {
                    fleet.apply_deployment(&it, 1, Moment::ZERO);
                    prop_assert_eq!(fleet.apply_deployment(&it, 1, Moment::ZERO), None, "it is the same");
                    fleet.remove_deployment(&it.meta.namespace, &it.meta.name, Moment::ZERO);
                }
            }
            Hostile::Namespace(it, _) => {
                if let Decoded::Good(it) = decoded(&with_edits(it, &edits)) {
                    prop_assert!(fleet.apply_namespace(&it, 1));
                    prop_assert!(!fleet.apply_namespace(&it, 1), "it is the same");
                    prop_assert!(fleet.remove_namespace(&it.meta.name));
                }
            }
            Hostile::Environment(it) => {
                let it = with_edits(it, &edits);
                let read = serde_json::from_value::<Environment>(it.clone());
                let is_good = matches!(decoded::<Slim<Environment>>(&it), Decoded::Good(_));
                prop_assert_eq!(is_good, read.is_ok());
                let mut state = empty_state(counted, Moment::ZERO);
                for name in ["prod", "test"] {
                    let _ = read.as_ref().map(|it| state.environment_seen(&EnvironmentId::new(name, "u"), &it.spec, Moment::ZERO));
                }
                prop_assert_eq!(state.self_check(Moment::ZERO), 0);
            }
            Hostile::Pod(it, _) => {
                if let Decoded::Good(pod) = decoded(&with_edits(it, &edits)) {
                    fleet.apply_pod(&pod, 1, Moment::ZERO);
                    fleet.apply_pod(&pod, 1, Moment::ZERO);
                    prop_assert_eq!(fleet.pod_count(), 1);
                }
            }
            Hostile::Record(it) => {
                let _ = serde_json::from_value(it).map(|it| ProvenanceRecord::of(&it).map(|_| ()));
            }
            Hostile::Review(it) => {
                let object = serde_json::from_value::<ArtifactApproval>(it);
                let _ = object.map(|it| Evidence::default().put_review(&EvidenceKey::of(&it), Some(&it)));
            }
            Hostile::Allowance(it) => {
                let _ = serde_json::from_value(it).map(|it| Allowance::of(&it).map(|_| ()));
            }
        }
    }
}

proptest! {
    #![proptest_config(reader_tries())]

    #[test]
    fn nothing_that_a_cluster_holds_makes_anything_panic(
        objects in vec((hostile(), select(vec![0, 1, 40, 400_u64])), 1..7), counted in any::<bool>(),
    ) {
        let mut cluster = Cluster::bare(counted);
        let rules = "compliance: {provenance: {required: true, trustedNamespaces: [ci, shop]}, approval: {required: true}, grace: 1m}";
        cluster.environment("prod", rules);
        cluster.environment("all", "{namespaces: {exclude: []}, exclude: []}");
        cluster.begin();
        for (object, wait) in &objects {
            happens(&mut cluster, object);
            cluster.pass(*wait);
        }
        cluster.pass(1_000);
        prop_assert_eq!(cluster.state.self_check(cluster.now), 0, "the counts are right");
    }
}
