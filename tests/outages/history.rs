//! Entries of the log are removed that a setting has still to get.

use crate::outage;
use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Heard, Receiver,
    cluster::PATIENCE,
    deployment, hears,
    stage::{Cast, operator},
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use shipbell::api::EnvironmentSnapshot;

/// Records at once, and nothing of the end of rollouts: an entry for each start.
const NO_ROLLOUTS: &str = "{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}";

/// What stands in for the log's size limit, which leaves alone what is younger than an hour.
async fn remove(actor: &Actor, indexes: &[i64]) -> Result<()> {
    let api: Api<EnvironmentSnapshot> = Api::all(actor.cluster.client());
    for index in indexes {
        let name = format!("{}-{index:010}", actor.name);
        api.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn starts(actor: &Actor, app: &str, entries: usize) -> Result<()> {
    let image = format!("r.example/{app}:v1");
    actor.apply(deployment(&actor.name, app, &image, 1)).await?;
    actor.recorded(entries).await?;
    Ok(())
}

/// An actor with the settings `hook` and `chat`, and a log of a baseline, a change, another, a new baseline, and a change.
/// Nothing of it has been sent.
async fn backlog(actor: &Actor, hook: &Receiver, chat: &Receiver) -> Result<()> {
    actor.webhook("hook", hook, "suspend: true").await?;
    actor.secret("chat", &chat.url("/services/T0/B0/x")).await?;
    actor
        .setting(
            "chat",
            "slack: {urlFrom: {secretKeyRef: {name: chat}}}\nsuspend: true",
        )
        .await?;
    actor.handled("chat").await?;
    starts(actor, "a", 2).await?;
    starts(actor, "b", 3).await?;
    // A change of the scope is a new baseline: from there the log can be read.
    let scope = format!("settle: {NO_ROLLOUTS}\nexclude: [CronJob.batch]");
    actor.environment(&scope).await?;
    actor.recorded(4).await?;
    starts(actor, "c", 5).await
}

async fn unreported(actor: &Actor, setting: &str) -> Result<Vec<Value>> {
    let cursors = actor.status(setting).await?.cursors;
    let unreported = cursors
        .iter()
        .filter_map(|cursor| cursor.unreported_gap.as_ref());
    Ok(unreported.map(|gap| json!([gap.from, gap.to])).collect())
}

fn id(heard: &Heard) -> &str {
    heard.header("webhook-id").unwrap_or_default()
}

#[test]
fn of_removed_snapshots_a_destination_is_told_once_before_what_came_after_them() {
    outage(async |cluster| {
        let first = operator(cluster, &Cast::default()).await?;
        let actor = Actor::with(cluster, "history", NO_ROLLOUTS).await?;
        let (hook, chat) = (Receiver::start(), Receiver::start());
        chat.set_standing(kit::Answer::from(200).body("ok"));
        backlog(&actor, &hook, &chat).await?;
        first.kill_9(); // it remembers what it has recorded
        remove(&actor, &[1, 2, 3]).await?;
        hook.set_standing(503);
        let second = operator(cluster, &Cast::default()).await?;
        actor.edit("hook", json!({"suspend": false})).await?;
        let before = hook.wait_for_count(PATIENCE, 2).await?;
        actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        ensure!(unreported(&actor, "hook").await? == [json!([2, 3])]);
        let note = actor.happened("hook", "HistoryTruncated").await?;
        ensure!(note.contains("snapshots 2 to 3 were removed"), "{note}");

        // It says the same after a crash.
        second.kill_9();
        hook.forget();
        let third = operator(cluster, &Cast::default()).await?;
        let after = hook.wait_for_count(PATIENCE, 1).await?;
        for heard in before.iter().chain(&after) {
            ensure!(id(heard) == id(&before[0]), "another id");
            ensure!(heard.body == before[0].body, "other bytes");
        }
        hook.set_standing(200);
        let is_event = |heard: &Heard| heard.json()["artifact"]["name"] == "r.example/c:v1";
        let heard = hook
            .wait_for(PATIENCE, |heard| heard.iter().any(is_event))
            .await?;
        let (last, tellings) = heard.split_last().context("nothing was heard")?;
        ensure!(is_event(last), "{}", last.text());
        for telling in tellings {
            ensure!(id(telling) == id(&before[0]), "{}", telling.text());
            ensure!(telling.body == before[0].body, "{}", telling.text());
        }
        let told = before[0].json();
        ensure!(told["event_type"] == "HISTORY_TRUNCATED", "{told}");
        ensure!(told["snapshot"]["index"] == "3", "{told}");
        ensure!(told.get("artifact").is_none(), "{told}");
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        ensure!(unreported(&actor, "hook").await?.is_empty());
        let skipped = actor.status("hook").await?.skipped_ranges;
        let skipped: Vec<_> = skipped
            .iter()
            .map(|it| (it.from, it.to, it.count, it.reason.as_str()))
            .collect();
        ensure!(skipped == [(2, 3, None, "HistoryTruncated")], "{skipped:?}");

        // Slack hears it in its way, and without blocks if it refuses them.
        chat.answer_next(kit::Answer::from(400).body("invalid_blocks"));
        actor.edit("chat", json!({"suspend": false})).await?;
        let heard = chat.wait_for_count(PATIENCE, 3).await?;
        for (heard, text) in
            heard
                .iter()
                .zip(["History lost in", "History lost in", "c started in"])
        {
            ensure!(
                heard.json()["text"].to_string().contains(text),
                "{}",
                heard.text()
            );
        }
        drop(third);
        Ok(())
    });
}

#[test]
fn a_destination_that_does_not_take_the_news_of_removed_snapshots_hears_what_comes_after_them() {
    outage(async |cluster| {
        let first = operator(cluster, &Cast::default()).await?;
        let actor = Actor::with(cluster, "refused", NO_ROLLOUTS).await?;
        let (hook, chat) = (Receiver::start(), Receiver::start());
        let short = Receiver::start();
        let fields = "suspend: true\nretry: {maxAge: 2s}";
        actor.webhook("short", &short, fields).await?;
        backlog(&actor, &hook, &chat).await?;
        first.kill_9();
        remove(&actor, &[1, 2, 3]).await?;
        for (receiver, answer) in [(&hook, 422), (&short, 503)] {
            receiver.answer_with(move |heard| {
                let is_told = heard.json()["event_type"] == "HISTORY_TRUNCATED";
                kit::Answer::from(if is_told { answer } else { 200 })
            });
        }
        let second = operator(cluster, &Cast::default()).await?;
        actor.edit("hook", json!({"suspend": false})).await?;
        hook.wait_for_count(PATIENCE, 2).await?;
        actor.edit("short", json!({"suspend": false})).await?;
        for (setting, reason) in [("hook", "PayloadRefused"), ("short", "RetryExpired")] {
            let status = actor
                .status_when(setting, "the cursor is at the head", |it| {
                    it.cursors.first().map(|it| it.index) == Some(5)
                })
                .await?;
            let letters: Vec<_> = status
                .dead_letters
                .iter()
                .map(|it| (it.snapshot.as_str(), it.reason.as_str()))
                .collect();
            let last = format!("{}-0000000003", actor.name);
            ensure!(letters == [(last.as_str(), reason)], "{letters:?}");
        }
        short.forget();
        hook.forget();
        starts(&actor, "d", 3).await?;
        for receiver in [&hook, &short] {
            hears(receiver, &["STARTED d:v1 0 to 1"]).await?;
        }
        drop(second);
        Ok(())
    });
}
