//! The receiver is down.

use crate::{
    all_is_told, outage,
    restarts::{churn, keep_churning},
    told_all,
};
use anyhow::ensure;
use kit::{
    Heard,
    cluster::PATIENCE,
    stage::{Cast, operator},
};
use std::{collections::BTreeSet, time::Duration};

#[test]
fn a_receiver_that_is_down_misses_nothing_not_even_when_the_operator_is_restarted_meanwhile() {
    outage(async |cluster| {
        let first = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "down").await?;
        receiver.set_standing(503);
        // Down for twenty seconds, ten on each side of the restart.
        let (half, pace) = (Duration::from_secs(10), Duration::from_millis(1_500));
        keep_churning(&actor, half, pace).await?;
        actor
            .condition("all", "Delivered", "False ServerError")
            .await?;
        let before = ids(&receiver.heard());
        ensure!(before.len() == 1, "it went on to {before:?}");
        let pending = actor.status("all").await?.pending;
        ensure!(pending > Some(2), "{pending:?} pending: no test");

        first.kill_9();
        let attempts = receiver.heard().len();
        let second = operator(cluster, &Cast::default()).await?;
        receiver.wait_for_count(PATIENCE, attempts + 1).await?;
        keep_churning(&actor, half, pace).await?;
        ensure!(ids(&receiver.heard()) == before, "it goes on with another");

        receiver.set_standing(200);
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice == 0, "{twice} were told twice");
        actor.condition("all", "Delivered", "True UpToDate").await?;
        drop(second);
        Ok(())
    });
}

fn ids(heard: &[Heard]) -> BTreeSet<String> {
    heard
        .iter()
        .filter_map(|heard| heard.header("webhook-id").map(str::to_owned))
        .collect()
}

#[test]
fn a_connection_that_is_cut_before_its_answer_is_followed_by_the_same_bytes() {
    outage(async |cluster| {
        let alive = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "cut").await?;
        receiver.answer_next(kit::Answer::hang());
        churn(&actor, 0).await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        receiver.restart()?; // cuts the connection on which an answer is waited for
        receiver.wait_for_count(PATIENCE, 2).await?;
        all_is_told(&actor, &receiver).await?;
        drop(alive);
        Ok(())
    });
}
