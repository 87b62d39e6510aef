//! Part E: a namespace that is relabelled, and the self-check, among many environments that choose namespaces by their
//! labels. The model alone, without a server, beside itself counting everything again.

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shipbell::{
    api::{EnvironmentSpec, environment::EnvironmentId, snapshot::Cause},
    cluster::{
        image::Fingerprint,
        pod_view::{Decoded, NamespaceView, PodView},
        watch_progress::WatchKind,
    },
    snapshot::state::ClusterState,
    time::Moment,
};
use std::{
    fs,
    time::{Duration, Instant},
};

use crate::subject::memory;

const ENVIRONMENTS: usize = 200;
const NAMESPACES: usize = 1_000;
const PODS: usize = 150_000;
const EDITS: usize = 100;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces {
    /// From a namespace that moves from one environment to another to the counts of both.
    pub relabelled: Duration,
    /// How long the self-check holds up everything else, at most.
    pub checked: Duration,
    /// To count all environments again.
    pub all: Duration,
    /// The most memory (RSS) that this process had ever, in bytes: the model, and the pods' JSON while it is read.
    pub peak: u64,
}

/// Measures all of it.
pub fn measure() -> Result<Namespaces> {
    // From here on: what was measured before had other peaks.
    fs::write("/proc/self/clear_refs", "5")?;
    let now = Moment::from_secs(1_000);
    let mut state = ClusterState::new(true, "shipbell");
    for number in 0..ENVIRONMENTS {
        let spec = json!({"namespaceSelector": {"matchLabels": {"env": number.to_string()}}});
        let spec: EnvironmentSpec = serde_json::from_value(spec)?;
        let id = EnvironmentId::new(name(number), name(number));
        state.environment_seen(&id, &spec, now);
        state.log_is_blank(&id, None, Cause::Baseline);
    }
    for kind in WatchKind::ALL {
        state.list_begins(kind);
    }
    for number in 0..NAMESPACES {
        state.seen(namespace(number, number % ENVIRONMENTS)?, true, now);
    }
    for number in 0..PODS {
        state.seen(pod(number)?, true, now);
    }
    for kind in WatchKind::ALL {
        state.list_ends(kind, 1, now, now);
    }
    ensure!(state.fleet().pod_count() == PODS, "not all pods are there");

    let begun = Instant::now();
    for edit in 0..EDITS {
        state.seen(namespace(edit, (edit + 1) % ENVIRONMENTS)?, false, now);
    }
    let relabelled = begun.elapsed() / u32::try_from(EDITS)?;
    let (mut checked, begun) = (Duration::ZERO, Instant::now());
    for name in state.environment_names() {
        let begun = Instant::now();
        ensure!(state.check_counts(&name, now), "{name} was counted wrongly");
        checked = checked.max(begun.elapsed());
    }
    Ok(Namespaces {
        relabelled,
        checked,
        all: begun.elapsed(),
        peak: memory("self")?.1,
    })
}

fn name(number: usize) -> String {
    format!("env-{number}")
}

fn namespace(number: usize, environment: usize) -> Result<Decoded<NamespaceView>> {
    let view = serde_json::from_value(json!({"metadata": {
        "name": format!("ns-{number}"), "uid": format!("ns-{number}"), "resourceVersion": "1",
        "labels": {"env": environment.to_string()},
    }}))?;
    Ok(Decoded::Good(view))
}

fn pod(number: usize) -> Result<Decoded<PodView>> {
    let (namespace, app) = (number % NAMESPACES, number / NAMESPACES / 10);
    let digest = Sha256::digest(format!("artifact {}", number % 3_000));
    let view = serde_json::from_value(json!({
        "metadata": {
            "namespace": format!("ns-{namespace}"), "name": format!("app-{app}-{number}"),
            "uid": format!("00000000-0000-4000-8000-{number:012}"), "resourceVersion": "1", "generation": 1,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": format!("app-{app}"), "controller": true}],
        },
        "spec": {"containers": [{"name": "app", "image": format!("registry.example.com/acme/app-{app}:1")}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "imageID": format!("registry.example.com/acme/app@sha256:{}", Fingerprint(digest.into())),
            "containerID": format!("containerd://{number}"), "restartCount": 0, "state": {"running": {}},
        }]},
    }))?;
    Ok(Decoded::Good(view))
}
