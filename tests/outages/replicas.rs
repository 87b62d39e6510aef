//! Two operators on one cluster: whatever a lease is worth, the log must not depend on it.

use crate::{all_is_told, outage, restarts::churn, told_all};
use anyhow::ensure;
use kit::stage::{Cast, operator};
use std::time::{Duration, Instant};

#[test]
fn two_operators_at_once_keep_one_log_and_lose_nothing() {
    outage(async |cluster| {
        let one = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "both").await?;
        let cast = Cast {
            name: "operator-2".to_owned(),
            ..Cast::default()
        };
        let two = operator(cluster, &cast).await?;
        let began = Instant::now();
        let mut number = 0;
        while began.elapsed() < Duration::from_secs(10) {
            churn(&actor, number).await?;
            number += 1;
            let entries = actor.log().await?.len() + 1;
            let _ = kit::eventually(Duration::from_millis(900), "a snapshot", async || {
                actor.log().await.map(|log| log.len() >= entries)
            })
            .await;
        }
        all_is_told(&actor, &receiver).await?;
        ensure!(actor.log().await?.len() > 5, "too few snapshots: no test");
        // The one who was left out goes on when the other is gone.
        one.kill_9();
        churn(&actor, number).await?;
        churn(&actor, number + 3).await?;
        all_is_told(&actor, &receiver).await?;
        drop(two);
        Ok(())
    });
}
