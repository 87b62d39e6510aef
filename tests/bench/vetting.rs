//! Part D: what an edit costs where much is said: 10,000 records, 1,000 artifacts that run in 100 environments with rules.
//! The model alone, without a server, beside itself judging everything anew.

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shipbell::{
    api::{ArtifactProvenance, EnvironmentSpec, environment::EnvironmentId},
    cluster::{
        image::Fingerprint,
        pod_view::{Decoded, PodView},
        watch_progress::WatchKind,
    },
    compliance::{
        evidence::{EvidenceKey, ProvenanceRecord},
        evidence_state::EvidenceState as _,
    },
    snapshot::state::{ClusterState, Plan},
    time::Moment,
};
use std::{
    fs,
    time::{Duration, Instant},
};

const RECORDS: usize = 10_000;
const ARTIFACTS: usize = 1_000;
const ENVIRONMENTS: usize = 100;
const EDITS: usize = 1_000;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Vetting {
    /// From an edited record to what it changes, ready to be written.
    pub record: Duration,
    /// From edited rules of one environment.
    pub rules: Duration,
    /// From a change that makes all environments judge all their artifacts anew.
    pub all: Duration,
    /// Resident memory a record, in bytes.
    pub memory: usize,
}

struct Bench {
    world: ClusterState,
    now: Moment,
}

/// Measures all of it.
pub fn measure() -> Result<Vetting> {
    let mut bench = Bench {
        world: ClusterState::new(true, "shipbell"),
        now: Moment::from_secs(1_000),
    };
    let before = resident()?;
    for number in 0..RECORDS {
        bench.record(number, true)?;
    }
    let memory = (resident()? - before) / RECORDS;
    bench.start()?;

    let begun = Instant::now();
    for edit in 0..EDITS {
        // Each turns bad, and good the next time.
        bench.record(edit % (ARTIFACTS / 2), (edit / (ARTIFACTS / 2)) % 2 == 1)?;
        bench.settle(1)?;
    }
    let record = begun.elapsed() / u32::try_from(EDITS)?;

    let begun = Instant::now();
    for edit in 0..ENVIRONMENTS {
        bench.environment(edit, true)?;
        bench.settle(1)?;
    }
    let rules = begun.elapsed() / u32::try_from(ENVIRONMENTS)?;

    for edit in 0..ENVIRONMENTS {
        bench.environment(edit, false)?;
    }
    let begun = Instant::now();
    bench.settle(ENVIRONMENTS)?;
    let all = begun.elapsed();
    Ok(Vetting {
        record,
        rules,
        all,
        memory,
    })
}

impl Bench {
    fn record(&mut self, number: usize, compliant: bool) -> Result<()> {
        let spec = json!({
            "fingerprint": digest(number), "flow": format!("flow-{}", number % 200), "name": format!("app-{number}"),
            "commit": {"sha": &digest(number)[..40], "url": format!("https://git.example.com/acme/app-{number}/commit/{}", &digest(number)[..40])},
            "build": {"url": format!("https://ci.example.com/acme/app-{number}/runs/{number}")},
            "requiredAttestations": ["unit-tests", "scan"],
            "attestations": [
                {"name": "unit-tests", "type": "junit", "compliant": true}, {"name": "scan", "type": "snyk", "compliant": compliant},
            ],
            "deployments": [{"number": number + 1, "environment": environment_name(number / 10), "time": "2026-01-01T00:00:00Z"}],
        });
        let mut object =
            ArtifactProvenance::new(&format!("r-{number}"), serde_json::from_value(spec)?);
        object.metadata.namespace = Some("ci".to_owned());
        let record = ProvenanceRecord::of(&object).map_err(anyhow::Error::msg)?;
        self.world
            .record_seen(&EvidenceKey::of(&object), Some(record), self.now);
        Ok(())
    }

    /// Edits an environment; `strict`: it asks for what no record has.
    fn environment(&mut self, number: usize, strict: bool) -> Result<()> {
        let mut spec = json!({
            "namespaces": {"include": [format!("ns-{number}")]},
            "settle": {"quiet": "0s", "max": "0s", "rollout": "0s", "scaling": "0s"},
            "compliance": {
                "provenance": {"required": true, "trustedNamespaces": ["ci"]}, "evidence": {"required": true},
                "deployment": {"expected": true}, "grace": "0s", "recoveryWindow": "0s",
            },
        });
        if strict {
            spec["compliance"]["attestations"] = json!([{"name": "pen-test"}]);
        }
        let spec: EnvironmentSpec = serde_json::from_value(spec)?;
        let name = environment_name(number);
        self.world
            .environment_seen(&EnvironmentId::new(&name, &name), &spec, self.now);
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        for number in 0..ENVIRONMENTS {
            self.environment(number, false)?;
        }
        for kind in WatchKind::ALL {
            self.world.list_begins(kind);
        }
        for number in 0..ARTIFACTS {
            let pod: Decoded<PodView> =
                serde_json::from_value::<PodView>(pod(number)).map(Decoded::Good)?;
            self.world.seen::<PodView>(pod, true, self.now);
        }
        for kind in WatchKind::ALL {
            self.world.list_ends(kind, 1, self.now, self.now);
        }
        for number in 0..ENVIRONMENTS {
            let name = environment_name(number);
            let cause = shipbell::api::snapshot::Cause::Baseline;
            self.world
                .log_is_blank(&EnvironmentId::new(&name, &name), None, cause);
        }
        self.settle(ENVIRONMENTS)?;
        self.settle(0)
    }

    /// Records what there is to record; at least so many environments must have something.
    fn settle(&mut self, at_least: usize) -> Result<()> {
        self.now += Duration::from_secs(2);
        for kind in WatchKind::ALL {
            self.world.bookmark(kind, 1, self.now);
        }
        let wall = Timestamp::from_second(
            1_800_000_000 + i64::try_from(self.now.since_start().as_secs())?,
        )?;
        let mut appended = 0;
        for name in self.world.take_touched() {
            if let Plan::Append(draft) = self.world.plan(&name, self.now, wall) {
                appended += 1;
                for entry in draft {
                    self.world.appended(
                        &EnvironmentId::new(&name, &name),
                        &entry,
                        Duration::ZERO,
                        self.now,
                    );
                }
            }
        }
        if appended < at_least {
            bail!("{appended} environments changed, not {at_least}");
        }
        Ok(())
    }
}

fn environment_name(number: usize) -> String {
    format!("env-{number}")
}

fn digest(number: usize) -> String {
    Fingerprint(Sha256::digest(format!("artifact {number}")).into()).to_string()
}

fn pod(number: usize) -> Value {
    let image = format!("registry.example.com/acme/app-{number}:1");
    json!({
        "metadata": {
            "namespace": format!("ns-{}", number / 10), "name": format!("app-{number}"),
            "uid": format!("00000000-0000-4000-8000-{number:012}"), "resourceVersion": "1", "generation": 1,
        },
        "spec": {"containers": [{"name": "app", "image": image}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "imageID": format!("registry.example.com/acme/app-{number}@sha256:{}", digest(number)),
            "containerID": format!("containerd://{number}"), "restartCount": 0, "state": {"running": {}},
        }]},
    })
}

fn resident() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<usize>()? << 10)
}
