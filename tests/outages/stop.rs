//! The operator is told to stop.

use crate::{all_is_told, outage, restarts::churn, told_all};
use anyhow::ensure;
use kit::{
    Answer,
    cluster::PATIENCE,
    stage::{Cast, operator},
};
use std::time::{Duration, Instant};

// F4: SIGTERM.
#[test]
fn an_operator_that_is_told_to_stop_finishes_what_is_under_way_and_sends_nothing_new() {
    outage(async |cluster| {
        let mut first = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "stopped").await?;
        receiver.answer_with(|_| Answer::default().after(Duration::from_secs(2)));
        for number in [0, 1, 2] {
            churn(&actor, number).await?;
        }
        receiver.wait_for_count(PATIENCE, 1).await?;
        first.ask_to_stop()?;
        let began = Instant::now();
        let status = first.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        ensure!(
            began.elapsed() < Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
        let heard = receiver.heard().len();
        ensure!(heard <= 2, "{heard} requests");

        receiver.set_standing(200);
        let second = operator(cluster, &Cast::default()).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(
            twice == 0,
            "{twice} were told twice: it was not written down"
        );

        // A receiver that never answers doesn't hold it up for longer than an attempt may take.
        receiver.answer_with(|_| Answer::hang());
        churn(&actor, 5).await?;
        churn(&actor, 6).await?;
        let heard = receiver.heard().len();
        receiver.wait_for_count(PATIENCE, heard + 1).await?;
        let began = Instant::now();
        let status = second.terminate(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        ensure!(
            began.elapsed() < Duration::from_secs(18),
            "{:?}",
            began.elapsed()
        );

        // One that has nothing to do stops at once.
        receiver.set_standing(200);
        let third = operator(cluster, &Cast::default()).await?;
        all_is_told(&actor, &receiver).await?;
        let began = Instant::now();
        let status = third.terminate(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        ensure!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        Ok(())
    });
}
