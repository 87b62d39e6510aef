//! Whatever somebody has written into a log, it is read or refused, and nothing panics.

use std::{sync::OnceLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use crate::{
    api::EnvironmentSnapshotSpec,
    cluster::fleet::Fleet,
    simulation::{
        Cluster,
        hostile_json::{edited, edits},
        image_id,
        testing::{digest, reader_tries},
    },
    snapshot::ledger::Ledger,
};

/// A log as JSON with something in most fields: its entries, of which the first alone has a checkpoint.
pub fn entries() -> &'static [Value] {
    &log().0
}

fn log() -> &'static (Vec<Value>, Value) {
    static LOG: OnceLock<(Vec<Value>, Value)> = OnceLock::new();
    LOG.get_or_init(|| {
        let rules =
            "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 0s}";
        let mut cluster = Cluster::watched(true, rules);
        let (index, manifest) = (digest("v1"), digest("v1-manifest"));
        let record = format!("{{fingerprint: {index}, aliases: [{manifest}], flow: web}}");
        cluster.record("web-1", &record);
        cluster.start("web", &["v1"], 3);
        let pod = cluster.running("StatefulSet db", "1", &["v2"]);
        cluster.pass(60);
        cluster.container(&pod, |it| it.image_id = image_id("v2-again"));
        let images = format!("[{{fingerprint: {}, name: v3}}]", digest("v3"));
        let allowance = format!("{{environments: [prod], artifacts: {images}, reason: hotfix}}");
        cluster.allow("hotfix", &allowance);
        cluster.pass(600);
        cluster.roll("web", &["v4"], "2", 3, 40);
        cluster.scale("web", 5);
        cluster.pass(2_000);
        // The names of its images are told by the log alone.
        let pod = cluster.running("StatefulSet db", "2", &["v5"]);
        cluster.pass(100);
        cluster.change(&pod, |pod| {
            pod.generation += 1;
            pod.containers[0].image_id = format!("sha256:{}", digest("v5"));
        });
        cluster.pass(100);
        let log = cluster.log("prod");
        let first = log
            .iter()
            .rposition(|it| it.checkpoint().is_some())
            .unwrap();
        let packed = STANDARD.decode(log[first].checkpoint().unwrap()).unwrap();
        let state = zstd::decode_all(packed.as_slice()).unwrap();
        let entries = log[first..]
            .iter()
            .map(|it| serde_json::to_value(&it.spec).unwrap());
        (entries.collect(), serde_json::from_slice(&state).unwrap())
    })
}

fn packed(state: &Value) -> String {
    let json = serde_json::to_vec(state).unwrap();
    STANDARD.encode(zstd::encode_all(json.as_slice(), 1).unwrap())
}

/// Uses a state as a recorder does.
fn is_used(ledger: &mut Ledger, spec: &EnvironmentSnapshotSpec) {
    ledger.forget_gone(Timestamp::MAX);
    ledger.tidy();
    let restored = Ledger::restore(spec, &ledger.checkpoint(), &mut Fleet::default()).unwrap();
    assert_eq!(
        restored.totals(),
        ledger.totals(),
        "what is written is what is read"
    );
}

#[test]
fn the_log_that_is_edited_can_be_read() {
    let (entries, state) = log();
    assert!(entries.len() >= 5, "{}", entries.len());
    let specs: Vec<EnvironmentSnapshotSpec> = entries
        .iter()
        .map(|it| serde_json::from_value(it.clone()).unwrap())
        .collect();
    let mut fleet = Fleet::default();
    let mut ledger = Ledger::restore(&specs[0], &packed(state), &mut fleet).unwrap();
    for spec in &specs[1..] {
        ledger
            .apply(spec, Duration::from_secs(900), &mut fleet)
            .unwrap();
    }
    is_used(&mut ledger, specs.last().unwrap());
    let has = |field: fn(&EnvironmentSnapshotSpec) -> bool| specs.iter().any(field);
    assert!(has(|it| !it.identities.is_empty()) && has(|it| !it.allow_list.is_empty()));
    assert!(has(|it| it
        .identities
        .iter()
        .any(|it| it.repository.is_some())));
    assert!(has(|it| !it.events.is_empty()) && has(|it| !it.changes.is_empty()));
}

proptest! {
    #![proptest_config(reader_tries())]

    #[test]
    fn whatever_a_log_holds_it_is_read_or_refused(
        of_entries in vec(edits(), 16), of_state in edits(), garbage in prop::option::weighted(0.1, any::<String>()),
        rollout in any::<u64>(),
    ) {
        let (entries, state) = log();
        let specs = entries.iter().zip(&of_entries).map_while(|(entry, edits)| {
            serde_json::from_value::<EnvironmentSnapshotSpec>(edited(entry, edits)).ok()
        });
        let specs: Vec<_> = specs.collect();
        let data = garbage.unwrap_or_else(|| packed(&edited(state, &of_state)));
        let mut fleet = Fleet::default();
        let Some((first, others)) = specs.split_first() else { return Ok(()) };
        let Ok(mut ledger) = Ledger::restore(first, &data, &mut fleet) else { return Ok(()) };
        is_used(&mut ledger, first);
        for spec in others {
            if ledger.apply(spec, Duration::from_secs(rollout), &mut fleet).is_err() {
                break;
            }
            is_used(&mut ledger, spec);
        }
    }
}
