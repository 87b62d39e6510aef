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

use anyhow::Result;
use kit::{
    Actor, Cluster, Receiver,
    cluster::{PATIENCE, alone as bare_outage},
    stage::{all_told, alone as outage},
};

/// Records at once: many snapshots, and nothing to wait for.
const AT_ONCE: &str = "{quiet: 0s, max: 0s, rollout: 30s, scaling: 0s}";
/// How many events a setting may have sent that are not acknowledged: so many may be told twice after a kill or a take-over.
const WINDOW: usize = 32;
/// What an oracle wants to hear: all there is.
const ALL: &str = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]";

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
        let twice = all_told(&log, &receiver.heard())?;
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
