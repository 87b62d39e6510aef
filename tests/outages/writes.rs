//! Writes go wrong: those of the log, and those of a status.

use crate::{all_is_told, outage, restarts::churn, server::ready, told_all, watches::behind_proxy};
use anyhow::{Result, ensure};
use kit::{
    Action, Actor, Proxy, Receiver, apply,
    cluster::PATIENCE,
    stage::{Cast, operator},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const SETTINGS: &str = "/apis/shipbell.dev/v1alpha1/notificationsettings";
const LOG: &str = "/apis/shipbell.dev/v1alpha1/environmentsnapshots";

/// Lets the first requests that match meet these fates, one each, and all others pass; how many have. Of settings nothing
/// is heard meanwhile: it would heal what is to be seen here, most of the time.
fn fates(
    proxy: &Proxy,
    matches: impl Fn(&kit::Asked) -> bool + Send + Sync + 'static,
    fates: Vec<Action>,
) -> Arc<AtomicUsize> {
    let met = Arc::new(AtomicUsize::new(0));
    let count = met.clone();
    proxy.answer_with(move |asked| {
        if asked.watches(SETTINGS) {
            return Action::lines(|_| kit::Line::Swallow);
        }
        if !matches(asked) {
            return Action::Pass;
        }
        let at = count.fetch_add(1, Ordering::Relaxed);
        fates.get(at).cloned().unwrap_or(Action::Pass)
    });
    met
}

/// Goes on making changes until so many faults were met.
async fn met(actor: &Actor, from: usize, count: &AtomicUsize, number: usize) -> Result<()> {
    for step in 0..20 {
        churn(actor, from + 5 * step).await?;
        let met = async || count.load(Ordering::Relaxed) >= number;
        let waited = kit::eventually(Duration::from_secs(3), "the faults to be met", met);
        if waited.await.is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!(
        "{} of {number} faults were met",
        count.load(Ordering::Relaxed)
    )
}

#[test]
fn entries_whose_answer_is_lost_or_that_are_refused_are_written_once() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let (actor, receiver) = told_all(cluster, "entries").await?;
        let create = |asked: &kit::Asked| asked.is("POST", LOG);
        for (number, all) in [
            vec![Action::LoseAnswer],
            vec![Action::Answer(500, 0), Action::Answer(409, 0)],
            vec![
                Action::Answer(503, 1),
                Action::Answer(429, 1),
                Action::Answer(504, 0),
            ],
            vec![
                Action::LoseAnswer,
                Action::Answer(503, 1),
                Action::LoseAnswer,
            ],
            vec![Action::Answer(403, 0); 3],
        ]
        .into_iter()
        .enumerate()
        {
            let refused = number == 4;
            let count = all.len();
            let faults = fates(&proxy, create, all);
            churn(&actor, number).await?;
            // All but the last: what is told below may need no further attempt.
            met(&actor, number + 5, &faults, count.max(2) - 1).await?;
            if refused {
                ready(&actor, "False LogForbidden").await?;
            }
            let twice = all_is_told(&actor, &receiver).await?;
            ensure!(twice == 0, "{twice} were told twice");
            ready(&actor, "True Recording").await?;
        }
        // The log can't be read either: for a while nothing is known of it.
        proxy.answer_with(|asked| {
            if asked.path.starts_with(LOG) {
                Action::Answer(500, 0)
            } else {
                Action::Pass
            }
        });
        churn(&actor, 11).await?;
        ready(&actor, "False LogUnavailable").await?;
        proxy.pass();
        all_is_told(&actor, &receiver).await?;
        alive.still_runs()
    });
}

#[test]
fn a_status_whose_answer_is_lost_or_that_others_write_around_delays_nothing() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let (actor, receiver) = told_all(cluster, "statuses").await?;
        let write = |asked: &kit::Asked| {
            asked.method == "PUT" && asked.path.contains("/notificationsettings/")
        };
        for (number, all) in [
            vec![Action::LoseAnswer],
            vec![
                Action::LoseAnswer,
                Action::LoseAnswer,
                Action::Answer(500, 0),
            ],
            vec![Action::Answer(409, 0); 5],
        ]
        .into_iter()
        .enumerate()
        {
            let count = all.len();
            let faults = fates(&proxy, write, all);
            proxy.cut();
            met(&actor, number, &faults, count).await?;
            let began = std::time::Instant::now();
            let twice = all_is_told(&actor, &receiver).await?;
            ensure!(twice == 0, "{twice} were told twice");
            ensure!(began.elapsed() < Duration::from_secs(30), "it stood back");
        }
        ensure!(
            !alive.log_text().contains("someone else writes"),
            "its own write looked like someone else's"
        );

        proxy.pass();
        proxy.cut();
        // Somebody writes labels all the time: five times a second, so that a busy machine has a chance between two.
        let settings = actor.settings();
        let storm = async {
            let mut pace = tokio::time::interval(Duration::from_millis(200));
            for number in 0.. {
                pace.tick().await;
                let patch = json!({"metadata": {"labels": {"storm": number.to_string()}}});
                settings
                    .patch("all", &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
            }
            anyhow::Ok(())
        };
        let changes = async {
            for number in 0..4 {
                churn(&actor, number).await?;
            }
            all_is_told(&actor, &receiver).await
        };
        tokio::select! {
            ended = storm => ended?,
            told = changes => ensure!(told? == 0, "told twice"),
        }
        alive.still_runs()
    });
}

#[test]
fn while_no_status_can_be_written_only_a_window_is_sent_and_no_more_is_told_twice() {
    outage(async |cluster| {
        let proxy = Proxy::start(&cluster.plane)?;
        let cast = Cast {
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        let alive = operator(cluster, &cast).await?;
        let actor = Actor::with(cluster, "window", crate::AT_ONCE).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, crate::ALL).await?;
        proxy.answer_with(|asked| match asked.method.as_str() {
            "PUT" if asked.path.contains("/notificationsettings/") => Action::Answer(500, 0),
            _ => Action::Pass,
        });
        // Forty pods that start at once: more events than a window holds.
        let pods: Vec<_> = (0..40)
            .map(|number| {
                let image = format!("r.example/many:{number}");
                kit::bare_pod(&actor.name, &format!("many-{number}"), &image).into()
            })
            .collect::<Vec<serde_json::Value>>();
        apply(&cluster.client(), pods).await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        let window = async || {
            let heard = receiver.heard().len();
            ensure!(heard <= 32, "{heard} were sent");
            Ok(())
        };
        kit::stays(Duration::from_secs(4), "the window", window).await?;
        alive.kill_9();
        proxy.pass();
        let alive = operator(cluster, &cast).await?;
        let twice = all_is_told(&actor, &receiver).await?;
        ensure!(twice <= 32, "{twice} were told twice");
        drop(alive);
        Ok(())
    });
}
