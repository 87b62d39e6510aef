//! The store is set back to an older state.

use crate::{
    all_is_told, oracle, outage,
    restarts::churn,
    server::ready,
    told_all,
    watches::{PODS, behind_proxy},
};
use anyhow::{Result, ensure};
use kit::{
    Action, Actor, Cluster, Receiver, deployment, hears,
    stage::{Cast, operator},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use shipbell::api::snapshot::Cause;

/// The name of the copy of the store.
const BACKUP: &str = "backup";

/// An actor with a Deployment `old` of two pods, of which all is told, and of which the store has a copy.
async fn backed_up(cluster: &'static Cluster, name: &str) -> Result<(Actor, Receiver)> {
    let (actor, receiver) = told_all(cluster, name).await?;
    let old = deployment(&actor.name, "old", "r.example/old:v1", 2);
    actor.apply(old).await?;
    cluster.rolled_out(&actor.name, "old").await?;
    all_is_told(&actor, &receiver).await?;
    cluster.plane.stop();
    cluster.plane.save_store(BACKUP)?;
    cluster.plane.start_again().await?;
    cluster.kubelet.restart().await?;
    Ok((actor, receiver))
}

#[test]
fn a_store_that_is_set_back_is_noticed_and_what_happens_then_is_told() {
    outage(async |cluster| {
        let mut alive = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = backed_up(cluster, "back").await?;
        let ns = actor.name.as_str();

        for (name, replicas) in [("lost", 1), ("gone", 2)] {
            let image = format!("r.example/{name}:v1");
            actor.apply(deployment(ns, name, &image, replicas)).await?;
            cluster.rolled_out(ns, name).await?;
        }
        all_is_told(&actor, &receiver).await?;
        let head = actor.log().await?.len();
        ensure!(head > 2, "{head} entries");

        cluster.plane.stop();
        cluster.plane.put_store_back(BACKUP)?;
        cluster.plane.start_again().await?;
        cluster.kubelet.restart().await?;
        let log = actor.log().await?;
        ensure!(log.len() < head, "the log was not set back");
        // What was told then is not in this log.
        receiver.forget();
        actor
            .apply(deployment(ns, "new", "r.example/new:v1", 1))
            .await?;
        cluster.scale(ns, "old", 3).await?;
        cluster.rolled_out(ns, "new").await?;
        cluster.rolled_out(ns, "old").await?;
        kit::eventually(kit::cluster::PATIENCE, "the log to go on", async || {
            oracle::recorded(&actor).await?;
            let told = kit::told(&receiver.heard());
            for want in ["STARTED new:v1 0 to 1", "SCALED old:v1 2 to 3"] {
                ensure!(told.iter().any(|told| told == want), "{told:?}");
            }
            ensure!(told.len() == 2, "{told:?}");
            Ok(())
        })
        .await?;
        let after = actor.log().await?;
        ensure!(
            after[log.len()].causes.contains(&Cause::Restored),
            "{:?}",
            after[log.len()].causes
        );
        ready(&actor, "True Recording").await?;
        alive.still_runs()?;
        ensure!(
            alive.log_text().contains("was set back"),
            "it was not noticed"
        );
        Ok(())
    });
}

#[test]
fn a_cursor_ahead_of_the_log_starts_at_its_head_and_says_so() {
    outage(async |cluster| {
        let first = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = told_all(cluster, "ahead").await?;
        churn(&actor, 0).await?;
        all_is_told(&actor, &receiver).await?;
        first.kill_9();
        move_cursor(&actor, 100).await?;
        receiver.forget();
        let second = operator(cluster, &Cast::default()).await?;
        actor
            .apply(deployment(&actor.name, "next", "r.example/next:v1", 1))
            .await?;
        kit::hears(&receiver, &["STARTED next:v1 0 to 1"]).await?;
        let status = actor.status("all").await?;
        let reason = status
            .skipped_ranges
            .first()
            .map(|range| range.reason.as_str());
        ensure!(reason == Some("CursorReset"), "{:?}", status.skipped_ranges);
        drop(second);
        Ok(())
    });
}

async fn move_cursor(actor: &Actor, index: i64) -> Result<()> {
    let mut cursor = actor.status("all").await?.cursors.remove(0);
    cursor.index = index;
    let patch = json!({"status": {"cursors": [cursor]}});
    actor
        .settings()
        .patch_status("all", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

#[test]
fn nothing_is_recorded_of_a_store_that_was_set_back_before_every_kind_was_listed_again() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let (actor, receiver) = backed_up(cluster, "era").await?;
        let ns = actor.name.as_str();
        actor
            .apply(deployment(ns, "lost", "r.example/lost:v1", 2))
            .await?;
        cluster.rolled_out(ns, "lost").await?;
        all_is_told(&actor, &receiver).await?;

        cluster.plane.stop();
        // The pods can't be listed for a while, when all other kinds can.
        proxy.answer_with(|asked| match asked.lists(PODS) {
            true => Action::Answer(500, 0),
            false => Action::Pass,
        });
        let before = proxy.asked().len();
        cluster.plane.put_store_back(BACKUP)?;
        cluster.plane.start_again().await?;
        cluster.kubelet.restart().await?;
        let recorded = actor.log().await?.len();
        receiver.forget();
        let why = ready(&actor, "False NotSynced").await?;
        ensure!(why.contains("set back") && why.contains("pods"), "{why}");
        kit::eventually(kit::cluster::PATIENCE, "lists of all else", async || {
            let asked = proxy.asked();
            for plural in [
                "artifactprovenances",
                "artifactapprovals",
                "allowedartifacts",
                "environments",
                "notificationsettings",
            ] {
                let path = format!("/apis/shipbell.dev/v1alpha1/{plural}");
                let first = |query: &str| query.split('&').any(|part| part == "limit=20");
                let mut asked = asked[before..].iter();
                let listed = asked.any(|asked| asked.lists(&path) && first(&asked.query));
                ensure!(listed, "{plural} were not listed again");
            }
            Ok(())
        })
        .await?;
        ensure!(actor.log().await?.len() == recorded, "it was recorded");
        ensure!(receiver.heard().is_empty(), "it was told");
        proxy.pass();
        cluster.scale(ns, "old", 3).await?;
        hears(&receiver, &["SCALED old:v1 2 to 3"]).await?;
        ready(&actor, "True Recording").await?;
        let noticed = alive
            .log_text()
            .matches("set back to an older state; reading")
            .count();
        ensure!(noticed == 1, "it was noticed {noticed} times");
        alive.still_runs()
    });
}
