//! What becomes of workloads, and what is told of it.

use kit::{Actor, Receiver, deployment, hears, play};

#[test]
fn a_deployment_that_starts_scales_rolls_and_stops_is_told_once_each() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "life").await?;
        let receiver = Receiver::start();
        actor
            .webhook(
                "all",
                &receiver,
                "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]",
            )
            .await?;

        actor
            .apply(deployment(&actor.name, "web", "r.example/life:v1", 2))
            .await?;
        hears(&receiver, &["STARTED life:v1 0 to 2"]).await?;

        cluster.scale(&actor.name, "web", 5).await?;
        hears(
            &receiver,
            &["STARTED life:v1 0 to 2", "SCALED life:v1 2 to 5"],
        )
        .await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/life:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED life:v2 0 to 5", "STOPPED life:v1 5 to 0"],
        )
        .await?;
        assert_eq!(
            heard[0].json()["snapshot"]["index"],
            heard[1].json()["snapshot"]["index"],
            "one snapshot"
        );

        receiver.forget();
        cluster.scale(&actor.name, "web", 0).await?;
        hears(&receiver, &["STOPPED life:v2 5 to 0"]).await?;
        Ok(())
    });
}
