//! What must be true of a log whatever broke: it has no gaps and adds up to what runs.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kit::{Actor, cluster::rolled_out};
use kube::{Api, ResourceExt as _, api::ListParams};
use shipbell::{api::EnvironmentSnapshotSpec, cluster::fleet::Fleet, snapshot::ledger};
use std::{collections::BTreeMap, time::Duration};

/// Checks a log: numbered without gaps, each entry chained to the one before, its hash its own. What it adds up to.
pub fn sound(log: &[EnvironmentSnapshotSpec]) -> Result<BTreeMap<String, u32>> {
    let mut fleet = Fleet::default();
    let mut state: Option<ledger::Ledger> = None;
    for (at, entry) in log.iter().enumerate() {
        let index = i64::try_from(at)? + 1;
        ensure!(
            entry.index == index,
            "{} is where {index} should be",
            entry.index
        );
        ensure!(
            entry.content_hash == ledger::content_hash(entry),
            "the hash of {index} is not its own"
        );
        let checkpoint = entry.checkpoint.as_ref();
        let data = checkpoint.and_then(|checkpoint| checkpoint.data.as_deref());
        if let Some(mut before) = state.take() {
            ensure!(
                entry.previous.as_ref() == Some(&before.content_hash),
                "{index} does not follow {}",
                before.index
            );
            ensure!(
                entry.time >= before.time,
                "{index} is older than the one before"
            );
            for change in &entry.changes {
                let was = before
                    .artifacts()
                    .find(|(fingerprint, _)| fingerprint.to_string() == change.fingerprint)
                    .map_or(0, |(_, count)| i64::from(count));
                ensure!(change.was == was, "{index}: {change:?} was {was}");
            }
            state = Some(if let Some(data) = data {
                ledger::Ledger::restore(entry, data, &mut fleet)?
            } else {
                before.apply(entry, Duration::from_secs(30), &mut fleet)?;
                before
            });
        } else {
            let data = data.context("the first entry holds no checkpoint")?;
            state = Some(ledger::Ledger::restore(entry, data, &mut fleet)?);
        }
    }
    let state = state.context("the log is empty")?;
    Ok(state
        .artifacts()
        .map(|(fingerprint, count)| (fingerprint.to_string(), count))
        .collect())
}

/// Checks that nothing more is to come, and that the log is sound and adds up to what runs now.
pub async fn recorded(actor: &Actor) -> Result<()> {
    at_rest(actor).await?;
    let recorded = sound(&actor.log().await?)?;
    let runs = running(actor).await?;
    ensure!(recorded == runs, "recorded {recorded:?}, running {runs:?}");
    Ok(())
}

/// Whether all Deployments have rolled out and no pod is on its way.
async fn at_rest(actor: &Actor) -> Result<()> {
    let client = actor.cluster.client();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &actor.name);
    for deployment in deployments.list(&ListParams::default()).await? {
        rolled_out(&deployment)?;
    }
    let pods: Api<Pod> = Api::namespaced(client, &actor.name);
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.name_any();
        ensure!(
            pod.metadata.deletion_timestamp.is_none(),
            "{name} is about to stop"
        );
        let phase = pod.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Running"), "{name} is {phase:?}");
    }
    Ok(())
}

/// What runs in the actor's namespace: digest -> pods.
pub async fn running(actor: &Actor) -> Result<BTreeMap<String, u32>> {
    let pods: Api<Pod> = Api::namespaced(actor.cluster.client(), &actor.name);
    let mut running = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await? {
        for status in pod
            .status
            .unwrap_or_default()
            .container_statuses
            .unwrap_or_default()
        {
            let runs = status.state.is_some_and(|state| state.running.is_some());
            if let Some((_, digest)) = status.image_id.split_once("@sha256:").filter(|_| runs) {
                *running.entry(digest.to_owned()).or_insert(0) += 1;
            }
        }
    }
    Ok(running)
}
