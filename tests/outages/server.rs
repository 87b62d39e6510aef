//! The API server is away.

use crate::{all_is_told, oracle, outage, restarts::churn, told_all};
use anyhow::{Context as _, ensure};
use kit::{
    Actor,
    cluster::PATIENCE,
    stage::{Cast, operator},
};

/// Waits until an Environment's condition Ready reads so.
pub async fn ready(actor: &Actor, want: &str) -> anyhow::Result<String> {
    let what = format!("Environment {}: Ready {want}", actor.name);
    kit::eventually(PATIENCE, &what, async || {
        let status = actor.environment_status().await?;
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .context("no such condition")?;
        let told = format!("{} {}", ready.status, ready.reason);
        ensure!(told == want, "{told}: {}", ready.message);
        Ok(Some(ready.message.clone()))
    })
    .await
}

#[test]
fn an_api_server_that_is_killed_or_stands_still_costs_nothing_but_time() {
    outage(async |cluster| {
        let mut alive = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "server").await?;
        for number in 0..2 {
            churn(&actor, number).await?;
            cluster.plane.kill_apiserver();
            cluster.plane.start_apiserver().await?;
            churn(&actor, number + 3).await?;
            cluster.plane.compact_etcd().await?;
            churn(&actor, number + 7).await?;
        }
        all_is_told(&actor, &receiver).await?;
        ready(&actor, "True Recording").await?;

        for number in 10..12 {
            churn(&actor, number).await?;
            cluster.plane.pause_apiserver()?;
            // Deliveries go on meanwhile, up to the window; nothing else can.
            let _ = receiver
                .wait_for_count(std::time::Duration::from_secs(2), usize::MAX)
                .await;
            cluster.plane.resume_apiserver()?;
            kit::eventually(PATIENCE, "the API server", async || {
                churn(&actor, number + 3).await
            })
            .await?;
        }
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(
            twice == 0,
            "{twice} were told twice though nobody was killed"
        );
        oracle::recorded(&actor).await?;
        ready(&actor, "True Recording").await?;
        alive.still_runs()?;
        ensure!(!alive.log_text().contains("panicked"), "it panicked");
        Ok(())
    });
}
