//! Two operators on one cluster, of which one leads; and two that both believe they lead: the log must not depend on the Lease.

use crate::{
    all_is_told, outage,
    restarts::{churn, keep_churning},
    told_all,
};
use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kit::{
    Actor, Answer, Cluster, HOME,
    cluster::PATIENCE,
    deployment, eventually, hears,
    http1::get,
    operator::Operator,
    ports::Port,
    proxy::{Action, Proxy},
    stage::{Cast, operator},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use shipbell::api::Environment;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How many events a setting may have sent that are not confirmed.
const WINDOW: usize = 32;

#[test]
fn two_operators_that_both_believe_they_lead_keep_one_log_and_lose_nothing() {
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

/// Operators in two pods, of which the first leads.
async fn leader_and_standby(cluster: &Cluster, leader: Cast) -> Result<[Operator; 2]> {
    let one = operator(
        cluster,
        &Cast {
            pod: Some("one"),
            ..leader
        },
    )
    .await?;
    leads(&one, true).await?;
    let two = another(cluster, "two").await?;
    leads(&two, false).await?;
    Ok([one, two])
}

/// One more operator, in a pod of this name, that is ready: it needs not lead for that.
async fn another(cluster: &Cluster, pod: &'static str) -> Result<Operator> {
    let cast = Cast {
        name: format!("operator-{pod}"),
        pod: Some(pod),
        ..Cast::default()
    };
    let another = operator(cluster, &cast).await?;
    eventually(PATIENCE, "a replica that is ready", async || {
        let (status, text) = another.get("/readyz").await?;
        ensure!(status == 200, "{status} {text}");
        Ok(())
    })
    .await?;
    Ok(another)
}

/// Waits until an operator leads, or does not.
async fn leads(operator: &Operator, leads: bool) -> Result<()> {
    let want = format!("shipbell_leader {}\n", i32::from(leads));
    eventually(PATIENCE, &want, async || {
        let (status, metrics) = operator.get("/metrics").await?;
        ensure!(
            status == 200 && metrics.contains(&want),
            "{status} {metrics}"
        );
        Ok(())
    })
    .await
}

/// Who leads, as the Lease says.
async fn holder(cluster: &Cluster) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), HOME);
    let spec = leases.get("shipbell").await?.spec.unwrap_or_default();
    Ok(spec.holder_identity.unwrap_or_default())
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_and_nothing_is_told_twice() {
    outage(async |cluster| {
        let [one, two] = leader_and_standby(cluster, Cast::default()).await?;
        ensure!(holder(cluster).await?.ends_with("_one"));
        let (actor, receiver) = told_all(cluster, "rolling").await?;
        // Answers take time: some are under way when it stops.
        receiver.answer_with(|_| Answer::default().after(Duration::from_millis(200)));
        let churning = keep_churning(&actor, Duration::from_secs(8), Duration::from_millis(500));
        let handing_over = async {
            receiver.wait_for_count(PATIENCE, 4).await?;
            ensure!(one.terminate(PATIENCE).await?.success());
            leads(&two, true).await
        };
        tokio::try_join!(churning, handing_over)?;
        ensure!(holder(cluster).await?.ends_with("_two"));
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice == 0, "{twice} were told twice");
        ensure!(actor.log().await?.len() > 5, "too few snapshots: no test");
        Ok(())
    });
}

/// Replaces five pods four times a second, for so long.
async fn replace_20_pods_a_second(actor: &Actor, time: Duration) -> Result<()> {
    let began = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(250));
    let mut number = 0;
    while began.elapsed() < time {
        every.tick().await;
        let name = format!("app-{}", number % 4);
        let image = format!("r.example/{name}:v{}", number / 4);
        let app = deployment(&actor.name, &name, &image, 5);
        actor.apply(app).await?;
        number += 1;
    }
    Ok(())
}

#[test]
fn a_rolling_update_while_20_pods_a_second_are_replaced_loses_nothing_and_tells_nothing_twice() {
    outage(async |cluster| {
        let [one, two] = leader_and_standby(cluster, Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "update").await?;
        receiver.answer_with(|_| Answer::default().after(Duration::from_millis(200)));
        let churning = replace_20_pods_a_second(&actor, Duration::from_secs(12));
        // As with `maxUnavailable: 0`, a new one is ready before an old one is told to stop.
        let updating = async {
            receiver.wait_for_count(PATIENCE, 4).await?;
            let three = another(cluster, "three").await?;
            ensure!(one.terminate(PATIENCE).await?.success());
            let four = another(cluster, "four").await?;
            ensure!(two.terminate(PATIENCE).await?.success());
            eventually(PATIENCE, "a new leader", async || {
                let holder = holder(cluster).await?;
                let is_new = holder.ends_with("_three") || holder.ends_with("_four");
                ensure!(is_new, "{holder}");
                Ok(())
            })
            .await?;
            Ok([three, four])
        };
        let ((), new) = tokio::try_join!(churning, updating)?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice == 0, "{twice} were told twice");
        ensure!(actor.log().await?.len() > 20, "too few snapshots: no test");
        drop(new);
        Ok(())
    });
}

#[test]
fn a_leader_that_dies_is_replaced_and_nothing_is_lost() {
    outage(async |cluster| {
        let [one, two] = leader_and_standby(cluster, Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "dies").await?;
        let number =
            keep_churning(&actor, Duration::from_secs(3), Duration::from_millis(500)).await?;
        one.kill_9();
        churn(&actor, number).await?;
        leads(&two, true).await?;
        churn(&actor, number + 1).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice <= WINDOW, "{twice} were told twice");
        Ok(())
    });
}

#[test]
fn a_leader_that_stood_still_past_its_lease_stands_back_and_the_log_stays_one() {
    outage(async |cluster| {
        let [mut one, two] = leader_and_standby(cluster, Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "still").await?;
        let number =
            keep_churning(&actor, Duration::from_secs(3), Duration::from_millis(500)).await?;
        churn(&actor, number).await?;
        one.pause()?;
        churn(&actor, number + 1).await?;
        leads(&two, true).await?;
        churn(&actor, number + 2).await?;
        one.resume()?;
        leads(&one, false).await?;
        churn(&actor, number + 3).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice <= WINDOW, "{twice} were told twice");
        ensure!(holder(cluster).await?.ends_with("_two"));
        Ok(())
    });
}

#[test]
fn a_leader_without_the_api_server_stops_sending_before_another_leads() {
    outage(async |cluster| {
        let proxy = Proxy::start(&cluster.plane)?;
        let behind = Cast {
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        let [one, two] = leader_and_standby(cluster, behind).await?;
        let (actor, receiver) = told_all(cluster, "cut-off").await?;
        churn(&actor, 0).await?;
        all_is_told(&actor, &receiver).await?;
        // It has an event to send again and again, to a receiver that it reaches.
        receiver.set_standing(503);
        churn(&actor, 1).await?;
        let heard = receiver.heard().len();
        receiver.wait_for_count(PATIENCE, heard + 1).await?;
        proxy.answer_with(|_| Action::Hang);
        proxy.cut();
        leads(&one, false).await?;
        ensure!(
            holder(cluster).await?.ends_with("_one"),
            "it stopped too late"
        );
        leads(&two, true).await?;
        receiver.set_standing(200);
        all_is_told(&actor, &receiver).await?;
        // It follows when it reaches the API server again.
        proxy.pass();
        let number =
            keep_churning(&actor, Duration::from_secs(3), Duration::from_millis(500)).await?;
        two.kill_9();
        leads(&one, true).await?;
        churn(&actor, number).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice <= WINDOW, "{twice} were told twice");
        Ok(())
    });
}

/// Where readers find the read API of all replicas.
const EXTERNAL: &str = "https://shipbell.example";

/// The arguments for a read API at this address, which a proxy guards.
fn readable(address: SocketAddr) -> Vec<String> {
    vec![
        format!("--external-url={EXTERNAL}"),
        format!("--api-listen={address}"),
        "--api-behind-authenticating-proxy=true".to_owned(),
    ]
}

#[test]
fn a_replica_that_does_not_lead_answers_as_the_leader_does() {
    outage(async |cluster| {
        let ports = [Port::reserve()?, Port::reserve()?];
        let [leader, standby] = [ports[0].address(), ports[1].address()];
        let one = Cast {
            pod: Some("one"),
            args: readable(leader),
            ..Cast::default()
        };
        let one = operator(cluster, &one).await?;
        leads(&one, true).await?;
        let proxy = Proxy::start(&cluster.plane)?;
        let two = Cast {
            name: "operator-two".to_owned(),
            pod: Some("two"),
            args: readable(standby),
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        let two = operator(cluster, &two).await?;
        leads(&two, false).await?;
        let (actor, receiver) = told_all(cluster, "reads").await?;
        let name = actor.name.clone();
        let json = async |address, path: &str| -> Result<Value> {
            let (status, body) = get(address, path, None).await?;
            ensure!(status == 200, "{path}: {status}: {body}");
            Ok(serde_json::from_str(&body)?)
        };

        // The pod of a Job is not counted, and judged all the same.
        let rules =
            "settle: {quiet: 0s, max: 1s}\ncompliance: {provenance: {required: true}, grace: 0s}";
        actor.environment(rules).await?;
        let pod = json!({"metadata": {"labels": {"app": "import"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "import", "image": "r.example/import:v1"}]}});
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "import", "namespace": name}, "spec": {"template": pod}});
        actor.apply(job).await?;
        let path = format!("/api/v2/environments/acme/{name}");
        eventually(PATIENCE, "the same reasons", async || {
            let (ours, theirs) = (json(leader, &path).await?, json(standby, &path).await?);
            let reasons = ours["reasons"].to_string();
            ensure!(reasons.contains("import:v1"), "{ours}");
            ensure!(ours == theirs, "{ours} {theirs}");
            Ok(())
        })
        .await?;

        // It does not hear of the next snapshot, and is asked for it.
        let environments = "/apis/shipbell.dev/v1alpha1/environments";
        proxy.answer_with(|asked| match asked.follows(environments) {
            true => Action::Hang,
            false => Action::Pass,
        });
        proxy.cut();
        receiver.forget();
        actor
            .apply(deployment(&name, "web", "r.example/reads:v1", 1))
            .await?;
        let heard = hears(&receiver, &["STARTED reads:v1 0 to 1"]).await?;
        let link = heard[0].json()["snapshot"]["api_url"].to_string();
        let link = link.trim_matches('"').to_owned();
        let path = link.trim_start_matches(EXTERNAL);
        let asked_for = json(leader, path).await?;
        let newest = json(standby, &format!("/api/v2/snapshots/acme/{name}/-1")).await?;
        ensure!(
            newest["index"] != asked_for["index"],
            "it heard of it: no test"
        );
        eventually(PATIENCE, "the same snapshot", async || {
            let theirs = json(standby, path).await?;
            ensure!(asked_for["artifacts"] == theirs["artifacts"], "{theirs}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

#[test]
fn a_status_of_an_environment_that_was_written_late_is_mended_by_the_leader() {
    outage(async |cluster| {
        let [one, two] = leader_and_standby(cluster, Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "overwritten").await?;
        let number =
            keep_churning(&actor, Duration::from_secs(2), Duration::from_millis(500)).await?;
        all_is_told(&actor, &receiver).await?;
        let before = actor.environment_status().await?;
        ensure!(one.terminate(PATIENCE).await?.success());
        leads(&two, true).await?;
        churn(&actor, number).await?;
        all_is_told(&actor, &receiver).await?;
        let right = actor.environment_status().await?;
        ensure!(right.head != before.head, "nothing was recorded: no test");
        // As the leader before writes it.
        let api: Api<Environment> = Api::all(cluster.client());
        let late = json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "Environment", "metadata": {"name": actor.name}, "status": before});
        let params = PatchParams::apply("shipbell").force();
        api.patch_status(&actor.name, &params, &Patch::Apply(late))
            .await?;
        eventually(PATIENCE, "the status of the leader", async || {
            let status = actor.environment_status().await?;
            ensure!(status.head == right.head, "{:?}", status.head);
            Ok(())
        })
        .await
    });
}
