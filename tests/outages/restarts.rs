//! The operator is killed.

use crate::{AT_ONCE, WINDOW, all_is_told, oracle, outage, told_all};
use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use kit::{
    Actor, Cluster,
    cluster::PATIENCE,
    deployment, hears,
    stage::{Cast, operator, spawn},
    stays,
};
use kube::Api;
use serde_json::json;
use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

#[test]
fn what_changed_while_the_operator_was_away_is_told_once_and_an_unchanged_cluster_is_no_news() {
    outage(async |cluster| {
        let first = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "away").await?;
        let ns = actor.name.as_str();
        for (name, replicas) in [("stops", 1), ("scales", 1), ("rolls", 2), ("returns", 2)] {
            let image = format!("r.example/{name}:v1");
            actor.apply(deployment(ns, name, &image, replicas)).await?;
            cluster.rolled_out(ns, name).await?;
        }
        all_is_told(&actor, &receiver).await?;
        first.kill_9();

        cluster.scale(ns, "stops", 0).await?;
        cluster.scale(ns, "scales", 4).await?;
        cluster.set_image(ns, "rolls", "r.example/rolls:v2").await?;
        actor
            .apply(deployment(ns, "starts", "r.example/starts:v1", 1))
            .await?;
        cluster
            .set_image(ns, "returns", "r.example/returns:v2")
            .await?;
        cluster.rolled_out(ns, "returns").await?;
        cluster
            .set_image(ns, "returns", "r.example/returns:v1")
            .await?;
        for name in ["stops", "scales", "rolls", "starts", "returns"] {
            cluster.rolled_out(ns, name).await?;
        }
        cluster
            .pods_when(ns, "returns", "the rollout to be over", |pods| {
                pods.len() == 2
            })
            .await?;

        receiver.forget();
        let second = operator(cluster, &Cast::default()).await?;
        hears(
            &receiver,
            &[
                "STARTED rolls:v2 0 to 2",
                "STARTED starts:v1 0 to 1",
                "STOPPED rolls:v1 2 to 0",
                "STOPPED stops:v1 1 to 0",
                "SCALED scales:v1 1 to 4",
            ],
        )
        .await?;
        oracle::recorded(&actor).await?;

        second.kill_9();
        let before = actor.log().await?;
        receiver.forget();
        let third = operator(cluster, &Cast::default()).await?;
        let same = async || {
            ensure!(receiver.heard().is_empty(), "{:?}", receiver.heard());
            ensure!(actor.log().await? == before, "a snapshot was recorded");
            Ok(())
        };
        stays(Duration::from_secs(3), "the silence", same).await?;
        drop(third);
        Ok(())
    });
}

/// How many pods there are, and how large one is beside what it runs.
const MANY: usize = 5_000;
const ANNOTATION: usize = 6 << 10;
/// What the chart gives.
const MEMORY: u64 = 160 << 20;

/// Makes so many pods, which no node ever starts.
async fn make_many(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("many").await?;
    let (client, text) = (cluster.client(), "x".repeat(ANNOTATION));
    let make = async |number: usize| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("many-{number}"), "annotations": {"text": text}},
            "spec": {"nodeName": "nobody", "containers": [{"name": "app", "image": "r.example/many:v1"}]},
        });
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods"))
            .header("content-type", "application/json")
            .body(pod.to_string().into_bytes())?;
        client.request_text(request).await?;
        anyhow::Ok(())
    };
    let made = stream::iter((0..MANY).map(make)).buffer_unordered(32);
    made.try_collect().await
}

// F8: the kernel kills the operator for want of memory.
#[test]
fn an_operator_that_has_too_little_memory_for_5000_pods_goes_on_when_it_has_some() {
    outage(async |cluster| {
        let cast = |memory| Cast {
            memory: Some(memory),
            ..Cast::default()
        };
        let measured = operator(cluster, &cast(MEMORY)).await?;
        let (actor, receiver) = told_all(cluster, "memory").await?;
        churn(&actor, 0).await?;
        all_is_told(&actor, &receiver).await?;
        let enough_for_few = measured.data_memory()? + (1 << 20);
        // Something waits when it ends.
        receiver.set_standing(503);
        let heard = receiver.heard().len();
        churn(&actor, 1).await?;
        receiver.wait_for_count(PATIENCE, heard + 1).await?;
        measured.kill_9();
        let first = operator(cluster, &cast(enough_for_few)).await?;
        // It may end already while they come.
        let churning = keep_churning(&actor, Duration::from_secs(8), Duration::from_millis(500));
        let (number, ()) = tokio::try_join!(churning, make_many(cluster))?;
        churn(&actor, number).await?;
        first.kill_9();
        let before = actor.log().await?.len();
        // As a container does, it starts again and again.
        for number in [number + 1, number + 2] {
            let mut dies = spawn(cluster, &cast(enough_for_few))?;
            let status = dies.ended(PATIENCE).await?;
            let log = dies.log_text();
            ensure!(
                status.signal() == Some(libc::SIGABRT) && log.contains("memory allocation of"),
                "{status} {log}"
            );
            churn(&actor, number).await?;
        }
        receiver.set_standing(200);
        let mut last = operator(cluster, &cast(MEMORY)).await?;
        churn(&actor, number + 3).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice <= 2 * WINDOW, "{twice} were told twice in 2 kills");
        ensure!(actor.log().await?.len() > before, "no snapshot: no test");
        last.still_runs()
    });
}

#[test]
fn an_operator_that_is_killed_again_and_again_loses_nothing() {
    outage(async |cluster| {
        let mut alive = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "killed").await?;
        let second = told_all(cluster, "beside").await?;
        let began = Instant::now();
        let mut kills = 0;
        while began.elapsed() < Duration::from_secs(15) {
            churn(&actor, kills).await?;
            churn(&second.0, kills + 1).await?;
            let heard = receiver.heard().len() + second.1.heard().len() + 1 + kills % 3;
            // A kill at another moment each time: as soon as so much was heard, or when it is not heard soon.
            let _ = kit::eventually(Duration::from_millis(1_200), "news", async || {
                receiver.heard().len() + second.1.heard().len() >= heard
            })
            .await;
            alive.kill_9();
            kills += 1;
            alive = operator(cluster, &Cast::default()).await?;
        }
        for (actor, receiver) in [(&actor, &receiver), (&second.0, &second.1)] {
            let twice = all_is_told(actor, receiver).await?;
            ensure!(
                twice <= WINDOW * kills,
                "{twice} were told twice in {kills} kills"
            );
            let log = actor.log().await?;
            ensure!(log.len() > 5, "{} snapshots only: no test", log.len());
        }
        ensure!(!alive.log_text().contains("panicked"), "it panicked");
        Ok(())
    });
}

/// Changes something: what, follows from the number.
pub async fn churn(actor: &Actor, number: usize) -> Result<()> {
    let ns = actor.name.as_str();
    let name = format!("app-{}", number % 3);
    let version = number / 3 % 4;
    let replicas = u32::try_from([1, 3, 0, 2][number / 2 % 4])?;
    let image = format!("r.example/{name}:v{version}");
    actor.apply(deployment(ns, &name, &image, replicas)).await?;
    if number % 5 == 4 {
        let deployments: Api<Deployment> = Api::namespaced(actor.cluster.client(), ns);
        let other = format!("app-{}", (number + 1) % 3);
        if deployments.get_opt(&other).await?.is_some() {
            deployments
                .delete(&other, &kube::api::DeleteParams::default())
                .await?;
        }
    }
    Ok(())
}

/// Changes something again and again for so long, each time as soon as the last change is recorded, or after `pace`. How
/// often it was.
pub async fn keep_churning(actor: &Actor, time: Duration, pace: Duration) -> Result<usize> {
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < time {
        churn(actor, number).await?;
        number += 1;
        let entries = actor.log().await?.len() + 1;
        let _ = kit::eventually(pace, "a snapshot", async || {
            actor.log().await.map(|log| log.len() >= entries)
        })
        .await;
    }
    Ok(number)
}

#[test]
fn a_never_handled_setting_and_an_unread_log_survive_a_kill() {
    outage(async |cluster| {
        // Everything is there before the operator is: the first to see it must not take it for news.
        let actor = Actor {
            cluster,
            name: cluster.namespace("early").await?,
        };
        let receiver = kit::Receiver::start();
        actor
            .apply(deployment(&actor.name, "old", "r.example/old:v1", 2))
            .await?;
        cluster.rolled_out(&actor.name, "old").await?;
        actor.environment(&format!("settle: {AT_ONCE}")).await?;
        let url = receiver.url("/hook");
        actor
            .setting("all", &format!("webhook: {{url: '{url}'}}\n{}", crate::ALL))
            .await?;
        for _ in 0..3 {
            let mut alive = kit::stage::spawn(cluster, &Cast::default())?;
            let _ = kit::eventually(Duration::from_millis(600), "its start", async || {
                alive.get("/livez").await.map(|_| true)
            })
            .await;
            alive.still_runs()?;
            alive.kill_9();
        }
        let alive = operator(cluster, &Cast::default()).await?;
        actor.recorded(1).await?;
        actor.handled("all").await?;
        actor
            .apply(deployment(&actor.name, "new", "r.example/new:v1", 1))
            .await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        hears(&receiver, &["STARTED new:v1 0 to 1"]).await?;
        drop(alive);
        Ok(())
    });
}
