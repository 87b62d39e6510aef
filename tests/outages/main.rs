//! What becomes of it all when things break: the operator, its receivers, the API server, the store, the network between
//! them. Each test has a control plane of its own; two run at once.
#![allow(missing_docs, clippy::unwrap_used)]

mod history;
mod oracle;
mod receivers;
mod replicas;
mod restarts;
mod server;
mod start;
mod stop;
mod store;
mod watches;
mod writes;

use anyhow::{Context as _, Result};
use kit::{
    Actor, Cluster, PlaneOptions, Receiver,
    cluster::{PATIENCE, runtime},
    stage::install,
};
use std::{path::Path, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Records at once: many snapshots, and nothing to wait for.
const AT_ONCE: &str = "{quiet: 0s, max: 0s, rollout: 30s, scaling: 0s}";
/// What an oracle wants to hear: all there is.
const ALL: &str = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]";
/// No test may take longer.
const AT_MOST: Duration = Duration::from_mins(3);

/// Runs a test on a control plane of its own, with the kinds installed.
fn outage(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    bare_outage(async |cluster| {
        install(cluster).await?;
        test(cluster).await
    });
}

/// Runs a test on a control plane of its own.
fn bare_outage(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    static PLANES: Semaphore = Semaphore::const_new(2);
    let outcome = runtime().block_on(async {
        let _place = PLANES.acquire().await?;
        let cluster = Cluster::start(PlaneOptions::default()).await?;
        // Actors live as long as the program; what runs is stopped below.
        let cluster: &'static Cluster = Box::leak(Box::new(cluster));
        let began = Instant::now();
        let outcome = timeout(AT_MOST, test(cluster)).await;
        println!("took {:?}", began.elapsed());
        cluster.kubelet.stop();
        let outcome = outcome
            .context("it took too long")
            .and_then(|outcome| outcome);
        let outcome = outcome.with_context(|| logs(cluster.plane.directory()));
        cluster.plane.discard();
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

/// The ends of what the operators wrote.
fn logs(directory: &Path) -> String {
    let mut text = "the operators' logs end".to_owned();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("operator") {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            text = format!("{text}\n--- {name}\n{end}\n");
        }
    }
    text
}

/// An actor whose every change is recorded at once and told to a receiver.
async fn told_all(cluster: &'static Cluster, name: &str) -> Result<(Actor, Receiver)> {
    let actor = Actor::with(cluster, name, AT_ONCE).await?;
    let receiver = Receiver::start();
    actor.webhook("all", &receiver, ALL).await?;
    Ok((actor, receiver))
}

/// Waits until all that the log says has been told and acknowledged, and checks it; how many were told twice.
async fn all_is_told(actor: &Actor, receiver: &Receiver) -> Result<usize> {
    let what = format!("all that happened in {} to be told", actor.name);
    kit::eventually(PATIENCE, &what, async || {
        oracle::recorded(actor).await?;
        let log = actor.log().await?;
        let twice = oracle::told(&log, &receiver.heard())?;
        let cursors = actor.status("all").await?.cursors;
        let done = cursors.first().map(|cursor| (cursor.index, cursor.ordinal));
        let head = log.last().map(|entry| (entry.index, 0));
        // A cursor moves lazily over entries without an event.
        let quiet = log.iter().rev().take_while(|entry| entry.events.is_empty());
        let newest = log.len() - quiet.count();
        anyhow::ensure!(
            done >= head.min(Some((i64::try_from(newest)?, 0))),
            "the cursor stands at {done:?} of {head:?}"
        );
        Ok(Some(twice))
    })
    .await
}
