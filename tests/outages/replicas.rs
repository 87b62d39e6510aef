//! Two operators on one cluster, of which one leads; and two that both believe they lead: the log must not depend on the Lease.

use crate::{
    ALL, WINDOW, all_is_told, outage,
    restarts::{churn, keep_churning},
    told_all,
};
use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kit::{
    Actor, Answer, Asked, Cluster, HOME, Heard, Receiver, bare_pod,
    cluster::PATIENCE,
    deployment, eventually, hears,
    http1::get,
    operator::Operator,
    ports::Port,
    proxy::{Action, Proxy, failure},
    stage::{Cast, operator},
    stays,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use shipbell::api::Environment;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// So many events of one snapshot wait for a setting: more than a window.
const BACKLOG: usize = 40;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shipbell/leases";
const LOG: &str = "/apis/shipbell.dev/v1alpha1/environmentsnapshots";

/// An API server that tells the truth but for the Lease: there is one that nobody else ever writes. Every other append to
/// the log is late, the first if `is_late`, so that each of two is now the first and now the second.
fn with_a_lease_of_its_own(proxy: &Proxy, is_late: bool) {
    let lease: Arc<Mutex<(u64, Option<Value>)>> = Arc::default();
    let play = move |asked: &Asked, sent: Value| {
        let mut lease = lease.lock().unwrap();
        let (version, stored) = &mut *lease;
        if asked.method != "GET" {
            *version += 1;
            let written = stored.insert(sent);
            written["metadata"]["resourceVersion"] = version.to_string().into();
        }
        match stored {
            Some(stored) => (200, stored.clone()),
            None => (404, failure(404, "NotFound")),
        }
    };
    let play = Action::Play(Arc::new(play));
    let appends = AtomicUsize::new(usize::from(is_late));
    proxy.answer_with(move |asked| {
        if asked.path.starts_with(LEASES) {
            play.clone()
        } else if asked.is("POST", LOG) && appends.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            Action::Delay(Duration::from_millis(300))
        } else {
            Action::Pass
        }
    });
}

/// How often an operator left a setting to another.
fn stood_back(operator: &Operator) -> usize {
    let log = operator.log_text();
    log.matches("someone else writes this setting's status")
        .count()
}

/// Lets events wait: a pod starts while the setting is suspended.
async fn with_a_backlog(actor: &Actor) -> Result<()> {
    actor.edit("all", json!({"suspend": true})).await?;
    actor.handled("all").await?;
    let container = |number| json!({"name": format!("c{number}"), "image": format!("r.example/many-{number}:v1")});
    let containers: Vec<_> = (0..BACKLOG).map(container).collect();
    let pod = bare_pod(&actor.name, "many", "none").set("/spec/containers", json!(containers));
    actor.apply(pod).await?;
    eventually(PATIENCE, "what waits to be recorded", async || {
        let log = actor.log().await?;
        let events: usize = log.iter().map(|entry| entry.events.len()).sum();
        ensure!(events >= BACKLOG, "{events} events");
        Ok(())
    })
    .await
}

/// Lets what waits be sent.
async fn goes_on(actor: &Actor) -> Result<()> {
    actor.edit("all", json!({"suspend": null})).await
}

// F6: the API server tells each of two replicas that it leads.
#[test]
fn two_operators_that_both_believe_they_lead_keep_one_log_and_lose_nothing() {
    outage(async |cluster| {
        let proxies = [Proxy::start(&cluster.plane)?, Proxy::start(&cluster.plane)?];
        let mut operators = vec![];
        for (proxy, pod) in proxies.iter().zip(["one", "two"]) {
            with_a_lease_of_its_own(proxy, pod == "one");
            let cast = Cast {
                name: format!("operator-{pod}"),
                pod: Some(pod),
                kubeconfig: Some(proxy.kubeconfig(None)?),
                ..Cast::default()
            };
            operators.push(operator(cluster, &cast).await?);
        }
        for operator in &operators {
            leads(operator, true).await?;
        }
        let (actor, receiver) = told_all(cluster, "both").await?;
        with_a_backlog(&actor).await?;
        goes_on(&actor).await?;
        // Each of them is the first to append now and then, and the second.
        let has_met = |proxy: &Proxy, status| {
            let answered = proxy.answered();
            let mut answers = answered.iter();
            answers.any(|(asked, answer)| asked.is("POST", LOG) && *answer == status)
        };
        let mut number = 0;
        while number < 8
            || !proxies
                .iter()
                .all(|it| has_met(it, 201) && has_met(it, 409))
        {
            ensure!(number < 60, "not all have been first and second: no test");
            churn(&actor, number).await?;
            number += 1;
            let entries = actor.log().await?.len() + 1;
            let _ = eventually(Duration::from_millis(900), "a snapshot", async || {
                actor.log().await.map(|log| log.len() >= entries)
            })
            .await;
        }
        all_is_told(&actor, &receiver).await?;
        for operator in &operators {
            leads(operator, true).await?;
        }
        let before = actor.log().await?;
        ensure!(before.len() > 5, "too few snapshots: no test");
        // The one who was left out goes on when the other is gone.
        let two = operators.pop();
        let first = operators.pop().context("there are two")?;
        let mut take_overs = stood_back(&first);
        first.kill_9();
        churn(&actor, number).await?;
        churn(&actor, number + 3).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        take_overs += two.as_ref().map_or(0, stood_back) + 1;
        ensure!(
            twice <= WINDOW * take_overs,
            "{twice} were told twice in {take_overs} take-overs"
        );
        ensure!(actor.log().await?.starts_with(&before), "an entry changed");
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

// F4: SIGTERM. What was under way is acknowledged, and the Lease released.
#[test]
fn a_leader_that_is_told_to_stop_hands_over_at_once_and_nothing_is_told_twice() {
    outage(async |cluster| {
        let [mut one, two] = leader_and_standby(cluster, Cast::default()).await?;
        ensure!(holder(cluster).await?.ends_with("_one"));
        let (actor, receiver) = told_all(cluster, "rolling").await?;
        with_a_backlog(&actor).await?;
        // Answers take time: some are under way when it stops.
        receiver.answer_with(|_| Answer::default().after(Duration::from_millis(200)));
        goes_on(&actor).await?;
        let churning = keep_churning(&actor, Duration::from_secs(8), Duration::from_millis(500));
        let handing_over = async {
            receiver.wait_for_count(PATIENCE, 4).await?;
            one.ask_to_stop()?;
            ensure!(one.ended(PATIENCE).await?.success());
            let ended = Timestamp::now();
            let is_after = |heard: &Heard| heard.at > ended;
            let heard = receiver.wait_for(PATIENCE, |heard| heard.iter().any(is_after));
            let heard = heard.await?;
            let next = heard.iter().find(|heard| is_after(heard));
            let silence = next.context("no delivery")?.at.duration_since(ended);
            ensure!(silence.as_secs() < 2, "nobody sent for {silence:?}");
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

// F7: a rolling update with maxSurge, old and new side by side.
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
            ensure!(
                holder(cluster).await?.ends_with("_one"),
                "a new one leads though the old one does"
            );
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

// F5: SIGSTOP past the Lease, then SIGCONT.
#[test]
fn a_leader_that_stood_still_past_its_lease_stands_back_and_what_it_acknowledges_is_refused() {
    outage(async |cluster| {
        let proxy = Proxy::start(&cluster.plane)?;
        let behind = Cast {
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        let [mut one, two] = leader_and_standby(cluster, behind).await?;
        let (actor, receiver) = told_all(cluster, "still").await?;
        keep_churning(&actor, Duration::from_secs(2), Duration::from_millis(500)).await?;
        all_is_told(&actor, &receiver).await?;
        with_a_backlog(&actor).await?;
        // What it acknowledges while it sends is on its way for as long as it stands still.
        let arrives = CancellationToken::new();
        let (late, heard) = (Action::HoldUntil(arrives.clone()), receiver.follow());
        let before = receiver.heard().len();
        let acknowledges =
            |asked: &Asked| asked.method == "PUT" && asked.path.ends_with("/all/status");
        proxy.answer_with(move |asked| {
            if acknowledges(asked) && heard.borrow().len() > before {
                late.clone()
            } else {
                Action::Pass
            }
        });
        goes_on(&actor).await?;
        receiver.wait_for_count(PATIENCE, before + 2).await?;
        let all = receiver.wait_for_count(Duration::from_secs(2), before + BACKLOG);
        ensure!(all.await.is_err(), "it sends on without acknowledging");
        eventually(PATIENCE, "an acknowledgement on its way", async || {
            let asked = proxy.asked().iter().filter(|it| acknowledges(it)).count();
            let answered = proxy.answered();
            asked > answered.iter().filter(|it| acknowledges(&it.0)).count()
        })
        .await?;
        let acknowledged = proxy.answered().len();
        one.pause()?;
        churn(&actor, 7).await?;
        leads(&two, true).await?;
        churn(&actor, 8).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!((1..=WINDOW).contains(&twice), "{twice} were told twice");

        let cursors = actor.status("all").await?.cursors;
        arrives.cancel();
        eventually(PATIENCE, "the old acknowledgement", async || {
            let answered = proxy.answered();
            let mut answers = answered.iter().skip(acknowledged);
            let answer = answers.find(|(asked, _)| acknowledges(asked));
            answer.map(|(_, status)| *status)
        })
        .await
        .and_then(|status| {
            ensure!(status == 409, "it was answered {status}");
            Ok(())
        })?;
        ensure!(actor.status("all").await?.cursors == cursors);

        one.resume()?;
        leads(&one, false).await?;
        churn(&actor, 9).await?;
        let again = all_is_told(&actor, &receiver).await?;
        ensure!(again == twice, "{twice} were told twice, then {again}");
        ensure!(holder(cluster).await?.ends_with("_two"));
        Ok(())
    });
}

// F16: the API server can't be reached, and the receiver can.
#[test]
fn a_leader_without_the_api_server_stops_sending_before_another_leads() {
    outage(async |cluster| {
        let proxy = Proxy::start(&cluster.plane)?;
        let behind = Cast {
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        let [one, mut two] = leader_and_standby(cluster, behind).await?;
        let (actor, receiver) = told_all(cluster, "cut-off").await?;
        churn(&actor, 0).await?;
        all_is_told(&actor, &receiver).await?;
        // It has an event to send again and again, to receivers that it reaches: for each setting after 1, 3, 7 and 15 seconds.
        let others = Receiver::start();
        others.set_standing(503);
        for number in 0..8 {
            let name = format!("other-{number}");
            actor.webhook(&name, &others, ALL).await?;
        }
        churn(&actor, 1).await?;
        others.wait_for_count(PATIENCE, 8).await?;
        two.pause()?;
        proxy.answer_with(|_| Action::Hang);
        proxy.cut();
        let cut = Timestamp::now();
        leads(&one, false).await?;
        let stopped = Timestamp::now();
        ensure!(
            holder(cluster).await?.ends_with("_one"),
            "it stopped too late"
        );
        let before = others.heard().len();
        // One that is on its way may still arrive, and none that was due later.
        let silent = async || {
            let heard = others.heard();
            let late = heard
                .iter()
                .filter(|it| it.at > stopped + Duration::from_millis(500));
            ensure!(late.count() == 0, "it went on to send");
            Ok(())
        };
        stays(Duration::from_secs(9), "the silence", silent).await?;
        let led = stopped.duration_since(cut).as_secs();
        ensure!(led <= 10, "it led for {led} s without the API server");
        ensure!(before > 8, "it sent nothing meanwhile: no test");
        two.resume()?;
        leads(&two, true).await?;
        others.set_standing(200);
        all_is_told(&actor, &receiver).await?;
        // It follows when it reaches the API server again.
        proxy.pass();
        proxy.cut();
        let number =
            keep_churning(&actor, Duration::from_secs(3), Duration::from_millis(500)).await?;
        ensure!(two.terminate(PATIENCE).await?.success());
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
