//! Two operators on one cluster: whatever a lease is worth, the log must not depend on it.

use crate::{
    all_is_told, outage,
    restarts::{churn, keep_churning},
    told_all,
};
use anyhow::ensure;
use kit::stage::{Cast, operator};
use std::time::Duration;

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
        let number =
            keep_churning(&actor, Duration::from_secs(10), Duration::from_millis(900)).await?;
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
