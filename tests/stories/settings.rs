//! What a `NotificationSetting` asks for, what it is sent, and what its status says of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kit::{
    Actor, Answer, Drip, Heard, Receiver, apply,
    cluster::PATIENCE,
    deployment, eventually, hears, play,
    stage::{ALL, all_told},
    stays, told,
};
use kube::Api;
use serde_json::json;
use shipbell::api::Environment;

/// Asks for a test message.
pub const TEST: &str = "shipbell.dev/test-requested-at";
/// Asks for events to be sent again.
const REPLAY: &str = "shipbell.dev/replay";

/// A setting that reads its URL from the key `url` of this Secret.
pub fn from_secret(kind: &str, secret: &str) -> String {
    format!("{kind}: {{urlFrom: {{secretKeyRef: {{name: {secret}}}}}}}")
}

fn id(heard: &Heard) -> &str {
    heard.header("webhook-id").unwrap_or_default()
}

/// Checks that nothing but this was heard, for a while.
async fn hears_no_more(receiver: &Receiver, count: usize) -> Result<()> {
    stays(Duration::from_secs(3), "the silence", async || {
        let heard = told(&receiver.heard());
        ensure!(heard.len() == count, "heard {heard:?}");
        Ok(())
    })
    .await
}

/// Checks that an Environment's events, one in each of its snapshots, were heard soon after they were recorded.
async fn in_time(heard: &[Heard], actor: &Actor) -> Result<()> {
    for (heard, entry) in heard.iter().zip(actor.log().await?.iter().skip(1)) {
        let late = heard.at.duration_since(entry.time);
        ensure!(late < SignedDuration::from_secs(5), "{late:#} late");
    }
    Ok(())
}

// ---- what is asked for ----

#[test]
fn a_setting_that_comes_late_hears_nothing_old() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "late").await?;
        actor.starts("old").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        actor.condition("hook", "Ready", "True Valid").await?;
        actor
            .condition("hook", "Delivered", "Unknown NothingSentYet")
            .await?;
        actor.starts("new").await?;
        hears(&receiver, &["STARTED new:v1 0 to 1"]).await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn by_default_all_but_scaling_is_told() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "default").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        cluster.scale(&actor.name, "web", 3).await?;
        actor.settled(1, 3).await?;
        cluster.scale(&actor.name, "web", 0).await?;
        hears(
            &receiver,
            &["STARTED web:v1 0 to 1", "STOPPED web:v1 3 to 0"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn event_types_that_change_while_events_wait_count_for_those() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "types").await?;
        let receiver = Receiver::start();
        receiver.set_standing(503);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        let only_stops = json!({"eventTypes": ["ARTIFACT_STOPPED"]});
        actor.edit("hook", only_stops).await?;
        actor.handled("hook").await?;
        // Nothing that is asked for waits any more, so nothing is overdue.
        actor
            .condition("hook", "Delivered", "Unknown NothingSentYet")
            .await?;
        let status = actor
            .status_when("hook", "nothing pending", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.next_attempt_time, None);
        assert_eq!(status.reason, None);
        receiver.forget();
        receiver.set_standing(200);
        cluster.scale(&actor.name, "web", 0).await?;
        hears(&receiver, &["STOPPED web:v1 1 to 0"]).await?;
        Ok(())
    });
}

#[test]
fn nothing_is_sent_for_a_setting_that_is_deleted_meanwhile() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "deleted").await?;
        let receiver = Receiver::start();
        receiver.answer_next(Answer::hang());
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        actor.delete("hook").await?;
        actor.starts("more").await?;
        hears_no_more(&receiver, 1).await?;
        Ok(())
    });
}

#[test]
fn a_setting_of_the_same_name_again_is_a_new_one() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "again").await?;
        let receiver = Receiver::start();
        receiver.set_standing(503);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("old").await?;
        actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        actor.delete("hook").await?;
        let other = Receiver::start();
        actor.webhook("hook", &other, "").await?;
        actor.starts("new").await?;
        hears(&other, &["STARTED new:v1 0 to 1"]).await?;
        Ok(())
    });
}

#[test]
fn several_settings_of_one_environment_hear_the_same() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "several").await?;
        let receivers = [Receiver::start(), Receiver::start(), Receiver::start()];
        for (number, receiver) in receivers.iter().enumerate() {
            actor
                .webhook(&format!("hook-{number}"), receiver, "")
                .await?;
        }
        actor.starts("web").await?;
        let mut all = vec![];
        for receiver in &receivers {
            let heard = hears(receiver, &["STARTED web:v1 0 to 1"]).await?;
            all.push((id(&heard[0]).to_owned(), heard[0].body.clone()));
        }
        all.dedup();
        assert_eq!(all.len(), 1, "one id, one body");
        Ok(())
    });
}

#[test]
fn what_happens_again_is_told_under_another_id() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "ids").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        let mut want = vec!["STARTED web:v1 0 to 1"];
        for (replicas, told) in [
            (0, "STOPPED web:v1 1 to 0"),
            (1, "STARTED web:v1 0 to 1"),
            (0, "STOPPED web:v1 1 to 0"),
        ] {
            cluster.scale(&actor.name, "web", replicas).await?;
            want.push(told);
            receiver.wait_for_count(PATIENCE, want.len()).await?;
        }
        let heard = hears(&receiver, &want).await?;
        let mut ids: Vec<_> = heard.iter().map(id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), want.len());
        Ok(())
    });
}

// ---- the wire ----

#[test]
fn the_payload_is_the_contract_to_the_letter() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "golden").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        let heard = hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        let heard = &heard[0];
        let name = &actor.name;
        let log = actor.log().await?;
        let time = log.last().context("no log")?.time.as_second();
        let digest = cluster.kubelet.registry().digest_of("r.example/web:v1");
        let want = format!(
            r#"{{"version":"1.0","timestamp":"{time}","org":"acme","environment":"{name}","event_type":"ARTIFACT_STARTED","description":"1 instance started running (from 0 to 1)","snapshot":{{"index":"2","status":"unknown","html_url":"","api_url":""}},"artifact":{{"name":"r.example/web:v1","fingerprint":"{digest}","provenance":{{"flow":"","status":"","commit":"","commit_url":"","html_url":"","api_url":"","build_url":"","deployments":[],"approvals":[]}}}}}}"#
        );
        assert_eq!(heard.text(), want);

        assert_eq!(heard.method, "POST");
        assert_eq!(heard.path, "/hook");
        assert_eq!(heard.header("content-type"), Some("application/json"));
        let agent = heard.header("user-agent").unwrap_or_default();
        assert!(agent.starts_with("shipbell/"), "{agent}");
        let id = id(heard);
        assert!(
            id.len() == 52 && id.chars().all(|c| c.is_ascii_alphanumeric()),
            "{id}"
        );
        let sent: i64 = heard
            .header("webhook-timestamp")
            .context("no webhook-timestamp")?
            .parse()?;
        let age = heard.at.as_second() - sent;
        assert!((0..=5).contains(&age), "{age} s old");
        Ok(())
    });
}

// ---- where the URL comes from ----

#[test]
fn a_url_can_come_from_a_secret() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "secret").await?;
        let receiver = Receiver::start();
        // An editor's newline at the end is no error.
        actor
            .secret("hook", &format!("{}\n", receiver.url("/secret?t=1")))
            .await?;
        actor
            .setting("hook", &from_secret("webhook", "hook"))
            .await?;
        actor.handled("hook").await?;
        actor.starts("web").await?;
        let heard = hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        assert_eq!(heard[0].path, "/secret?t=1");
        Ok(())
    });
}

#[test]
fn a_secret_that_comes_later_heals_the_setting_within_seconds() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "healing").await?;
        let receiver = Receiver::start();
        actor
            .setting("hook", &from_secret("webhook", "later"))
            .await?;
        let message = actor
            .condition("hook", "Ready", "False SecretNotFound")
            .await?;
        let create = format!("kubectl -n {} create secret generic later", actor.name);
        assert!(message.contains(&create), "{message}");
        actor
            .condition("hook", "Reconciling", "True Waiting")
            .await?;
        actor.starts("web").await?;
        actor
            .status_when("hook", "one event waits", |it| it.pending == Some(1))
            .await?;
        actor
            .condition("hook", "Delivered", "False NotReady")
            .await?;
        // Long enough for it to have been looked for several times.
        stays(
            Duration::from_secs(6),
            "the setting is not ready",
            async || {
                let status = actor.status("hook").await?;
                ensure!(
                    status.reason.as_deref() == Some("SecretNotFound"),
                    "{status:?}"
                );
                Ok(())
            },
        )
        .await?;
        actor.secret("later", &receiver.url("/hook")).await?;
        receiver.wait_for_count(Duration::from_secs(20), 1).await?;
        hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        actor.condition("hook", "Ready", "True Valid").await?;
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert!(
            status.conditions.iter().all(|it| it.type_ != "Reconciling"),
            "{status:?}"
        );
        Ok(())
    });
}

#[test]
fn a_key_that_is_added_to_a_secret_heals_the_setting_within_seconds() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "keyed").await?;
        let receiver = Receiver::start();
        actor.secret("hook", &receiver.url("/other")).await?;
        actor
            .setting(
                "hook",
                "webhook: {urlFrom: {secretKeyRef: {name: hook, key: mine}}}",
            )
            .await?;
        let message = actor
            .condition("hook", "Ready", "False SecretKeyMissing")
            .await?;
        assert!(
            message.contains("has no key mine:") && !message.contains("url"),
            "{message}"
        );
        actor.starts("web").await?;
        actor
            .status_when("hook", "one event waits", |it| it.pending == Some(1))
            .await?;
        let mine = json!({"stringData": {"mine": receiver.url("/mine")}}).to_string();
        actor
            .kubectl(&["patch", "secret/hook", "-p", &mine])
            .await?;
        receiver.wait_for_count(Duration::from_secs(20), 1).await?;
        let heard = hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        assert_eq!(heard[0].path, "/mine");
        actor.condition("hook", "Ready", "True Valid").await?;
        Ok(())
    });
}

#[test]
fn a_url_that_is_rotated_while_all_is_well_is_taken_up_and_nothing_is_lost_or_told_twice() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "rotated").await?;
        let (old, new) = (Receiver::start(), Receiver::start());
        actor.secret("hook", &old.url("/old")).await?;
        let fields = format!("{}\n{ALL}", from_secret("webhook", "hook"));
        actor.setting("hook", &fields).await?;
        actor.handled("hook").await?;
        actor.starts("web").await?;
        hears(&old, &["STARTED web:v1 0 to 1"]).await?;
        actor.secret("hook", &new.url("/new")).await?;
        let rotated = Timestamp::now();
        // Both would take what comes, so that whatever is lost or told twice shows.
        let all_is_told = async || {
            eventually(PATIENCE, "all to be told", async || {
                let heard = [old.heard(), new.heard()].concat();
                let twice = all_told(&actor.log().await?, &heard)?;
                ensure!(twice == 0, "{twice} were told twice");
                Ok(())
            })
            .await
        };
        for round in 0.. {
            let replicas = round % 2;
            cluster.scale(&actor.name, "web", replicas).await?;
            let running = i64::from(replicas);
            actor.settled(running, running).await?;
            all_is_told().await?;
            if !new.heard().is_empty() {
                break;
            }
            ensure!(round < 60, "the new URL is not taken up");
        }
        // A URL is used for half a minute at most before its Secret is read again.
        let last = old.heard().last().context("nothing heard")?.at;
        let late = last.duration_since(rotated);
        assert!(late < SignedDuration::from_secs(35), "{late:#}");

        let heard = old.heard().len();
        actor.starts("more").await?;
        all_is_told().await?;
        assert_eq!(old.heard().len(), heard, "the old URL is not used any more");
        assert!(new.heard().iter().all(|it| it.path == "/new"));
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn a_test_message_takes_up_a_rotated_url_at_once() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "tested").await?;
        let (old, new) = (Receiver::start(), Receiver::start());
        actor.secret("hook", &old.url("/old")).await?;
        actor
            .setting("hook", &from_secret("webhook", "hook"))
            .await?;
        actor.handled("hook").await?;
        actor.starts("a").await?;
        hears(&old, &["STARTED a:v1 0 to 1"]).await?;
        actor.secret("hook", &new.url("/new")).await?;
        actor.annotate("hook", TEST, "rotated").await?;
        let heard = new.wait_for_count(PATIENCE, 1).await?;
        assert_eq!(heard[0].json()["event_type"], "TEST");
        new.forget();
        actor.starts("b").await?;
        hears(&new, &["STARTED b:v1 0 to 1"]).await?;
        assert_eq!(old.heard().len(), 1);
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_a_url_is_told_with_its_place_and_its_cure() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "unsound").await?;
        let hook = "https://hooks.slack.com/services/T0/B0/canary";
        for (name, kind, url, reason, place, cure) in [
            (
                "empty",
                "webhook",
                " \n",
                "UrlInvalid",
                "key url of Secret empty",
                "store the complete URL",
            ),
            (
                "userinfo",
                "webhook",
                "https://me:canary@a.example/",
                "UrlInvalid",
                "key url of Secret userinfo",
                "remove everything up to the @",
            ),
            (
                "no-url",
                "webhook",
                "canary",
                "UrlInvalid",
                "key url of Secret no-url",
                "such as https://example.com/hook",
            ),
            (
                "workflow",
                "slack",
                "https://hooks.slack.com/triggers/T0/canary",
                "UrlInvalid",
                "key url of Secret workflow",
                "create an incoming webhook",
            ),
            (
                "misplaced",
                "webhook",
                hook,
                "UrlInvalid",
                "key url of Secret misplaced",
                "use it under spec.slack",
            ),
            (
                "plain",
                "slack",
                "http://hooks.slack.com/services/T0/B0/canary",
                "UrlInvalid",
                "key url of Secret plain",
                "https://",
            ),
            (
                "private",
                "webhook",
                "http://10.0.0.1/canary",
                "DestinationDenied",
                "destination address 10.0.0.1",
                "--allow-destination 10.0.0.0/8",
            ),
            (
                "metadata",
                "slack",
                "https://169.254.169.254/canary",
                "DestinationDenied",
                "destination address 169.254.169.254",
                "--allow-destination",
            ),
            (
                "kubelet",
                "webhook",
                "https://127.0.0.1:10250/canary",
                "DestinationDenied",
                "port 10250",
                "use another port",
            ),
        ] {
            actor.secret(name, url).await?;
            actor.setting(name, &from_secret(kind, name)).await?;
            let message = actor
                .condition(name, "Ready", &format!("False {reason}"))
                .await?;
            assert!(
                message.contains(place) && message.contains(cure),
                "{message}"
            );
            assert!(!message.contains("canary"), "{message}");
        }

        actor
            .secret("keyed", "https://hooks.example/canary")
            .await?;
        actor
            .setting(
                "keyed",
                "webhook: {urlFrom: {secretKeyRef: {name: keyed, key: hook}}}",
            )
            .await?;
        let message = actor
            .condition("keyed", "Ready", "False SecretKeyMissing")
            .await?;
        assert!(
            message.contains("has no key hook:")
                && !message.contains("url")
                && message.contains("secretKeyRef.key"),
            "{message}"
        );

        actor
            .setting("inline", "webhook: {url: 'http://192.168.0.1/'}")
            .await?;
        let message = actor
            .condition("inline", "Ready", "False DestinationDenied")
            .await?;
        assert!(message.contains("--allow-destination"), "{message}");

        // Only an edit of the spec helps here, so nobody should wait (kstatus: Stalled).
        actor
            .setting("never", "webhook: {url: 'https://a.example:0/'}")
            .await?;
        let message = actor
            .condition("never", "Ready", "False UrlInvalid")
            .await?;
        assert!(message.starts_with("spec.webhook.url: "), "{message}");
        actor
            .condition("never", "Stalled", "True UrlInvalid")
            .await?;
        Ok(())
    });
}

// ---- receivers in trouble ----

#[test]
fn a_receiver_in_trouble_is_tried_again_and_hears_all_in_order() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "trouble").await?;
        let receiver = Receiver::start();
        receiver.set_standing(503);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("a").await?;
        actor.starts("b").await?;
        actor.starts("c").await?;
        let message = actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        assert!(
            message.contains("the destination answered 503"),
            "{message}"
        );
        let status = actor
            .status_when("hook", "three events wait", |it| it.pending == Some(3))
            .await?;
        assert!(status.next_attempt_time.is_some(), "{status:?}");
        let log = actor.log().await?;
        assert_eq!(
            status.oldest_pending_time.map(Timestamp::as_second),
            Some(log[1].time.as_second())
        );
        assert_eq!(status.reason.as_deref(), Some("ServerError"));
        let failure = status.last_failure.context("no lastFailure")?;
        assert_eq!(failure.reason, "ServerError");
        let note = actor.happened("hook", "DeliveryFailing").await?;
        assert!(note.contains("503"), "{note}");

        receiver.set_standing(200);
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        let heard = receiver.heard();
        let failed = heard.iter().filter(|it| it.answered == 503).count();
        assert!(failed > 0);
        assert!(
            heard[..=failed]
                .windows(2)
                .all(|two| id(&two[0]) == id(&two[1]) && two[0].body == two[1].body),
            "every attempt has the same id and the same bytes: {:?}",
            told(&heard)
        );
        assert_eq!(
            told(&heard[failed..]),
            [
                "STARTED a:v1 0 to 1",
                "STARTED b:v1 0 to 1",
                "STARTED c:v1 0 to 1"
            ]
        );
        let note = actor.happened("hook", "DeliveryRecovered").await?;
        assert!(note.contains("delivering again"), "{note}");
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.next_attempt_time, None);
        assert_eq!(status.oldest_pending_time, None);
        assert_eq!(status.reason, None);
        let delivery = status.last_delivery.context("no lastDelivery")?;
        assert_eq!(delivery.event_id, id(&heard[failed + 2]));
        assert_eq!(delivery.http_status, 200);
        let snapshot = format!("{}-0000000004", actor.name);
        assert_eq!(delivery.snapshot, Some(snapshot));
        Ok(())
    });
}

#[test]
fn a_snapshot_of_many_events_that_fails_half_way_goes_on_from_there() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "many").await?;
        let receiver = Receiver::start();
        let (taken, well) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        receiver.answer_with({
            let (taken, well) = (taken.clone(), well.clone());
            move |_| {
                let room = well.load(Ordering::Relaxed) || taken.load(Ordering::Relaxed) < 40;
                if room {
                    taken.fetch_add(1, Ordering::Relaxed);
                }
                Answer::from(if room { 200 } else { 503 })
            }
        });
        actor.webhook("hook", &receiver, "").await?;
        let image = |number: usize| format!("r.example/many-{number}:v1");
        let many = (1..70).fold(
            deployment(&actor.name, "many", &image(0), 1),
            |many, number| many.container(&format!("c{number}"), &image(number)),
        );
        actor.apply(many).await?;
        actor.settled(70, 70).await?;
        let log = actor.log().await?;
        assert_eq!(log.len(), 2, "one snapshot");
        let status = actor
            .status_when("hook", "thirty events wait", |it| it.pending == Some(30))
            .await?;
        let cursor = &status.cursors[0];
        assert_eq!((cursor.index, cursor.ordinal), (1, 40));
        actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        well.store(true, Ordering::Relaxed);
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        let cursor = &status.cursors[0];
        assert_eq!((cursor.index, cursor.ordinal), (2, 0));
        let heard = receiver.heard();
        let delivered: Vec<_> = heard.iter().filter(|it| it.answered == 200).collect();
        let names: Vec<_> = delivered
            .iter()
            .map(|it| it.json()["artifact"]["name"].as_str().map(str::to_owned))
            .collect();
        let change = |event: &shipbell::api::snapshot::Event| {
            let at = usize::try_from(event.change?).ok()?;
            Some(log[1].changes[at].name.clone())
        };
        let want: Vec<_> = log[1].events.iter().map(change).collect();
        assert_eq!(names, want, "each once, in the order of the log");
        let mut ids: Vec<_> = delivered.iter().map(|it| id(it)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 70);
        Ok(())
    });
}

#[test]
fn a_receiver_that_is_down_is_told_when_it_is_up() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "down").await?;
        let receiver = Receiver::start();
        receiver.stop();
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        actor
            .condition("hook", "Delivered", "False ConnectFailed")
            .await?;
        receiver.restart()?;
        hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn a_receiver_that_hangs_is_not_felt_by_others() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "hanging").await?;
        let (hanging, healthy) = (Receiver::start(), Receiver::start());
        hanging.set_standing(Answer::hang());
        for number in 0..3 {
            let (name, url) = (
                format!("hanging-{number}"),
                hanging.url(&format!("/{number}")),
            );
            actor
                .setting(&name, &format!("webhook: {{url: '{url}'}}"))
                .await?;
            actor.handled(&name).await?;
        }
        actor.webhook("healthy", &healthy, "").await?;
        actor.starts("a").await?;
        actor.starts("b").await?;
        let heard = hears(&healthy, &["STARTED a:v1 0 to 1", "STARTED b:v1 0 to 1"]).await?;
        in_time(&heard, &actor).await?;
        assert_eq!(
            told(&hanging.heard()),
            ["STARTED a:v1 0 to 1"; 3],
            "one each"
        );
        actor
            .condition("hanging-0", "Delivered", "False Timeout")
            .await?;
        hanging.set_standing(200);
        // Those who hung go on where they were.
        for number in 0..3 {
            let name = format!("hanging-{number}");
            actor.condition(&name, "Delivered", "True UpToDate").await?;
        }
        Ok(())
    });
}

#[test]
fn answers_that_never_end_are_left_in_time_and_not_felt_by_others() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "endless").await?;
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n";
        let often = Duration::from_millis(100);
        let slow_head = || Drip::start("HTTP/1.1 200 OK\r\nx-slow: ", b"x", often);
        let slow_body = || Drip::start(ok, b"x", often);
        let endless = || Drip::start(ok, &[b'x'; 4096], Duration::ZERO);
        // A webhook's status decides; what Slack says stands in the body.
        let table = [
            ("slow-head", "webhook", slow_head()?, "False Timeout"),
            ("slow-body", "webhook", slow_body()?, "True UpToDate"),
            ("slow-chat", "slack", slow_body()?, "False Timeout"),
            ("endless-body", "webhook", endless()?, "True UpToDate"),
            (
                "endless-chat",
                "slack",
                endless()?,
                "False UnexpectedAnswer",
            ),
        ];
        for (name, kind, drip, _) in &table {
            actor.secret(name, &drip.url("/hook")).await?;
            actor.setting(name, &from_secret(kind, name)).await?;
            actor.handled(name).await?;
        }
        let healthy = Receiver::start();
        actor.webhook("healthy", &healthy, "").await?;
        actor.starts("a").await?;
        actor.starts("b").await?;
        let heard = hears(&healthy, &["STARTED a:v1 0 to 1", "STARTED b:v1 0 to 1"]).await?;
        in_time(&heard, &actor).await?;
        for (name, _, drip, want) in &table {
            let message = actor.condition(name, "Delivered", want).await?;
            let delivered = want.starts_with("True");
            assert!(delivered || message.contains("wait"), "{name}: {message}");
            let what = format!("{name} to be left alone");
            eventually(PATIENCE, &what, async || {
                let (heard, left) = (drip.heard(), drip.left());
                ensure!(left > 0, "{heard} requests, none was given up");
                // What was delivered is not sent again, and nobody stays to the end.
                ensure!(!delivered || (heard, left) == (2, 2), "{heard}, {left}");
                Ok(())
            })
            .await?;
            let status = actor.status(name).await?;
            assert_eq!(
                status.pending,
                Some(if delivered { 0 } else { 2 }),
                "{name}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_receiver_that_asks_for_a_pause_gets_it() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "pause").await?;
        let receiver = Receiver::start();
        receiver.answer_next(Answer::from(429).header("Retry-After", "5"));
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("a").await?;
        actor
            .condition("hook", "Delivered", "False RateLimited")
            .await?;
        actor.starts("b").await?;
        let heard = hears(
            &receiver,
            &[
                "STARTED a:v1 0 to 1",
                "STARTED a:v1 0 to 1",
                "STARTED b:v1 0 to 1",
            ],
        )
        .await?;
        assert_eq!(id(&heard[0]), id(&heard[1]));
        let pause = heard[1].at.duration_since(heard[0].at);
        assert!(pause >= SignedDuration::from_secs(5), "{pause:#}");
        assert!(pause <= SignedDuration::from_secs(10), "{pause:#}");
        Ok(())
    });
}

#[test]
fn an_event_that_is_refused_is_set_aside_and_the_next_goes_on() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "refused").await?;
        let receiver = Receiver::start();
        receiver.answer_next(400);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("a").await?;
        actor
            .status_when("hook", "a dead letter", |it| it.dead_letters.len() == 1)
            .await?;
        actor.starts("b").await?;
        let heard = hears(&receiver, &["STARTED a:v1 0 to 1", "STARTED b:v1 0 to 1"]).await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        let letter = &status.dead_letters[0];
        assert_eq!(letter.event_id, id(&heard[0]));
        assert_eq!(letter.reason, "PayloadRefused");
        assert_eq!(letter.snapshot, format!("{}-0000000002", actor.name));
        assert!(letter.message.contains("400"), "{}", letter.message);
        Ok(())
    });
}

#[test]
fn a_wrong_url_is_held_until_its_secret_changes() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "held").await?;
        let receiver = Receiver::start();
        receiver.answer_with(|heard| Answer::from(if heard.path == "/right" { 200 } else { 404 }));
        actor.secret("hook", &receiver.url("/wrong")).await?;
        actor
            .setting("hook", &from_secret("webhook", "hook"))
            .await?;
        actor.handled("hook").await?;
        actor.starts("web").await?;
        let message = actor
            .condition("hook", "Delivered", "False NotFound")
            .await?;
        assert!(message.contains("1 event waits"), "{message}");
        actor.secret("hook", &receiver.url("/right")).await?;
        let heard = receiver
            .wait_for(Duration::from_secs(35), |heard| {
                heard.iter().any(|it| it.path == "/right")
            })
            .await?;
        assert!(
            heard
                .iter()
                .all(|it| id(it) == id(&heard[0]) && it.body == heard[0].body)
        );
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn a_wrong_url_is_held_until_the_spec_changes() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "spec").await?;
        let receiver = Receiver::start();
        receiver.answer_next(401);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        actor
            .condition("hook", "Delivered", "False AuthRefused")
            .await?;
        hears_no_more(&receiver, 1).await?;
        let url = receiver.url("/other");
        actor.edit("hook", json!({"webhook": {"url": url}})).await?;
        let heard = receiver.wait_for_count(Duration::from_secs(10), 2).await?;
        assert_eq!(heard[1].path, "/other");
        assert_eq!(id(&heard[0]), id(&heard[1]));
        Ok(())
    });
}

#[test]
fn a_receiver_that_is_gone_is_left_alone_until_the_spec_changes() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "gone").await?;
        let receiver = Receiver::start();
        receiver.answer_next(410);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("a").await?;
        let message = actor.condition("hook", "Delivered", "False Gone").await?;
        assert!(
            message.contains("until the Secret or the spec changes"),
            "{message}"
        );
        let note = actor.happened("hook", "DeliveryFailing").await?;
        assert!(!note.contains("attempts go on"), "{note}");
        actor.starts("b").await?;
        let status = actor
            .status_when("hook", "two events wait", |it| it.pending == Some(2))
            .await?;
        assert_eq!(status.next_attempt_time, None);
        hears_no_more(&receiver, 1).await?;
        let longer = json!({"retry": {"maxAge": "100h"}});
        actor.edit("hook", longer).await?;
        hears(
            &receiver,
            &[
                "STARTED a:v1 0 to 1",
                "STARTED a:v1 0 to 1",
                "STARTED b:v1 0 to 1",
            ],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn a_redirect_is_never_followed() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "redirect").await?;
        let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
        receiver.set_standing(Answer::from(307).header("Location", &elsewhere.url("/canary")));
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("web").await?;
        let message = actor
            .condition("hook", "Delivered", "False Redirected")
            .await?;
        assert!(
            message.contains("redirects are never followed"),
            "{message}"
        );
        hears_no_more(&receiver, 1).await?;
        assert_eq!(elsewhere.heard().len(), 0);
        Ok(())
    });
}

#[test]
fn while_suspended_events_wait_and_none_expires() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "suspended").await?;
        let receiver = Receiver::start();
        actor
            .webhook("hook", &receiver, "suspend: true\nretry: {maxAge: 1s}")
            .await?;
        actor.starts("a").await?;
        actor.starts("b").await?;
        actor
            .status_when("hook", "two events wait", |it| it.pending == Some(2))
            .await?;
        let message = actor
            .condition("hook", "Delivered", "False Suspended")
            .await?;
        assert!(message.contains("2 events wait"), "{message}");
        hears_no_more(&receiver, 0).await?;
        actor.edit("hook", json!({"suspend": null})).await?;
        hears(&receiver, &["STARTED a:v1 0 to 1", "STARTED b:v1 0 to 1"]).await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.skipped_ranges, []);
        Ok(())
    });
}

#[test]
fn a_setting_that_is_suspended_while_events_wait_sends_them_when_it_is_resumed() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "held-back").await?;
        let receiver = Receiver::start();
        receiver.set_standing(503);
        actor.webhook("hook", &receiver, "").await?;
        actor.starts("a").await?;
        actor
            .condition("hook", "Delivered", "False ServerError")
            .await?;
        actor.edit("hook", json!({"suspend": true})).await?;
        actor
            .condition("hook", "Delivered", "False Suspended")
            .await?;
        receiver.set_standing(200);
        receiver.forget();
        actor.starts("b").await?;
        actor
            .status_when("hook", "two events wait", |it| it.pending == Some(2))
            .await?;
        hears_no_more(&receiver, 0).await?;
        actor.edit("hook", json!({"suspend": false})).await?;
        hears(&receiver, &["STARTED a:v1 0 to 1", "STARTED b:v1 0 to 1"]).await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn what_failed_for_too_long_is_skipped_and_says_so() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "expired").await?;
        let receiver = Receiver::start();
        receiver.set_standing(500);
        actor
            .webhook("hook", &receiver, "retry: {maxAge: 2s}")
            .await?;
        actor.starts("a").await?;
        let status = actor
            .status_when("hook", "a skipped range", |it| {
                !it.skipped_ranges.is_empty()
            })
            .await?;
        let range = &status.skipped_ranges[0];
        assert_eq!(
            (range.from, range.to, range.count, range.reason.as_str()),
            (2, 2, Some(1), "RetryExpired")
        );
        assert_eq!(range.environment, actor.name);
        let status = actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert!(status.last_failure.is_some());
        // What is given up is not overdue.
        actor
            .condition("hook", "Delivered", "Unknown NothingSentYet")
            .await?;
        receiver.set_standing(200);
        receiver.forget();
        actor.starts("b").await?;
        hears(&receiver, &["STARTED b:v1 0 to 1"]).await?;
        Ok(())
    });
}

// ---- the test message ----

#[test]
fn a_test_message_is_sent_once_for_each_request() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "test").await?;
        let (receiver, slack) = (Receiver::start(), Receiver::start());
        actor.webhook("hook", &receiver, "").await?;
        actor.secret("slack", &slack.url("/slack")).await?;
        actor
            .setting("slack", &from_secret("slack", "slack"))
            .await?;
        actor.handled("slack").await?;
        for setting in ["hook", "slack"] {
            actor.annotate(setting, TEST, "one").await?;
            let status = actor
                .status_when(setting, "the test is answered", |it| {
                    it.last_handled_test.as_deref() == Some("one")
                })
                .await?;
            let delivery = status.last_delivery.context("no lastDelivery")?;
            assert_eq!(delivery.snapshot, None);
            actor.happened(setting, "TestDelivered").await?;
        }
        let heard = receiver.heard();
        let payload = heard[0].json();
        assert_eq!(payload["event_type"], "TEST");
        assert_eq!(payload["environment"], actor.name);
        assert!(!id(&heard[0]).is_empty());
        let text = slack.heard()[0].json()["text"].to_string();
        assert!(text.to_lowercase().contains("test"), "{text}");

        // Something else about the object changes: that is no request.
        actor.annotate("hook", "example.com/other", "x").await?;
        actor.annotate("hook", TEST, "one").await?;
        hears_no_more(&receiver, 1).await?;
        actor.annotate("hook", TEST, "two").await?;
        let heard = receiver.wait_for_count(PATIENCE, 2).await?;
        assert_ne!(id(&heard[0]), id(&heard[1]));
        actor
            .status_when("hook", "the test is answered", |it| {
                it.last_handled_test.as_deref() == Some("two")
            })
            .await?;

        receiver.set_standing(500);
        actor.annotate("hook", TEST, "three").await?;
        let note = actor.happened("hook", "TestFailed").await?;
        assert!(note.contains("500"), "{note}");
        let status = actor
            .status_when("hook", "the test is answered", |it| {
                it.last_handled_test.as_deref() == Some("three")
            })
            .await?;
        let failure = status.last_failure.context("no lastFailure")?;
        assert_eq!(failure.reason, "ServerError");
        // It is not tried again.
        hears_no_more(&receiver, 3).await?;
        Ok(())
    });
}

// ---- what is sent again on request ----

#[test]
fn what_is_asked_for_is_sent_again_with_its_own_ids_and_says_so() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "replay").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        for app in ["a", "b", "c"] {
            actor.starts(app).await?;
        }
        let before = receiver.wait_for_count(PATIENCE, 3).await?;
        assert_eq!(before[0].header("shipbell-replay"), None);
        let handled = async |request: &str| {
            actor.annotate("hook", REPLAY, request).await?;
            let status = actor
                .status_when("hook", "the replay has ended", |it| {
                    it.last_handled_replay.as_deref() == Some(request)
                })
                .await?;
            status.replay.context("no replay")
        };

        let replay = handled(&format!("{}/3-4", actor.name)).await?;
        assert_eq!((replay.reason.as_str(), replay.delivered), ("Delivered", 2));
        let heard = receiver.wait_for_count(PATIENCE, 5).await?;
        for (again, before) in heard[3..].iter().zip(&before[1..]) {
            assert_eq!(again.header("shipbell-replay"), Some("true"));
            assert_eq!(id(again), id(before));
            assert_eq!(again.text(), before.text());
        }
        actor.happened("hook", "ReplayStarted").await?;
        actor.happened("hook", "ReplayDelivered").await?;

        let replay = handled(id(&before[0])).await?;
        assert_eq!(replay.reason, "Delivered");
        let heard = receiver.wait_for_count(PATIENCE, 6).await?;
        assert_eq!(id(&heard[5]), id(&before[0]));

        // What isn't there, or isn't for this namespace, is refused.
        let other = Actor::new(cluster, "replay-other").await?;
        for (request, reason) in [
            (format!("{}/1-9", actor.name), "NotSentYet"),
            (format!("{}/1-1", other.name), "EnvironmentNotFollowed"),
            ("all of it".to_owned(), "RequestInvalid"),
        ] {
            let replay = handled(&request).await?;
            assert_eq!(replay.reason, reason, "{}", replay.message);
            assert!(replay.cursor.is_none());
        }
        actor.happened("hook", "ReplayEnded").await?;

        // A refused message is taken out of the list when it is delivered.
        receiver.answer_next(400);
        actor.starts("d").await?;
        let status = actor
            .status_when("hook", "a dead letter", |it| !it.dead_letters.is_empty())
            .await?;
        let letter = status.dead_letters[0].event_id.clone();
        let replay = handled(&letter).await?;
        assert_eq!(replay.reason, "Delivered", "{}", replay.message);
        assert!(actor.status("hook").await?.dead_letters.is_empty());
        let heard = receiver.wait_for_count(PATIENCE, 8).await?;
        assert_eq!((id(&heard[6]), id(&heard[7])), (&*letter, &*letter));
        hears_no_more(&receiver, 8).await?;
        Ok(())
    });
}

#[test]
fn a_new_setting_may_ask_for_what_happened_before_it() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "start-from").await?;
        let receiver = Receiver::start();
        actor.webhook("first", &receiver, "").await?;
        for app in ["a", "b", "c"] {
            actor.starts(app).await?;
        }
        receiver.wait_for_count(PATIENCE, 3).await?;
        let all = told(&receiver.heard());
        for (setting, start_from, count) in [
            ("oldest", "startFrom: Oldest", 3),
            ("third", "startFrom: 3", 2),
            ("text", "startFrom: '4'", 1),
        ] {
            let receiver = Receiver::start();
            actor.webhook(setting, &receiver, start_from).await?;
            receiver.wait_for_count(PATIENCE, count).await?;
            hears_no_more(&receiver, count).await?;
            assert_eq!(told(&receiver.heard()), all[3 - count..], "{setting}");
            let start = &actor.status(setting).await?.starts[0];
            assert_eq!(format!("{:?}", start.reason), "StartFrom");
        }
        Ok(())
    });
}

// ---- environments ----

#[test]
fn an_environment_that_is_added_brings_no_old_events() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "adding").await?;
        let other = Actor::new(cluster, "added").await?;
        other.visible_to(&[&actor.name]).await?;
        other.starts("old").await?;
        let receiver = Receiver::start();
        actor.webhook("hook", &receiver, "").await?;
        let both = json!({"environments": [actor.name, other.name]});
        actor.edit("hook", both).await?;
        actor.handled("hook").await?;
        other.starts("new").await?;
        actor.starts("own").await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        hears(
            &receiver,
            &["STARTED new:v1 0 to 1", "STARTED own:v1 0 to 1"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn a_setting_without_environments_hears_of_all_that_it_may_see() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "all").await?;
        let other = Actor::new(cluster, "seen").await?;
        let hidden = Actor::new(cluster, "hidden").await?;
        other.visible_to(&[&other.name, &actor.name]).await?;
        let receiver = Receiver::start();
        let (namespace, url) = (&actor.name, receiver.url("/hook"));
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: NotificationSetting\nmetadata: {{name: hook, namespace: {namespace}}}\nspec: {{webhook: {{url: '{url}'}}}}\n"
        );
        apply(&cluster.client(), yaml.as_str()).await?;
        actor.handled("hook").await?;
        actor
            .status_when("hook", "two cursors", |it| it.cursors.len() == 2)
            .await?;
        hidden.starts("no").await?;
        actor.starts("one").await?;
        other.starts("two").await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        hears(
            &receiver,
            &["STARTED one:v1 0 to 1", "STARTED two:v1 0 to 1"],
        )
        .await?;
        // One that comes later is heard of, too, from its first change on.
        let later = format!("{namespace}-later");
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {later}}}\nspec: {{namespaces: {{include: [{}]}}, visibleTo: ['*'], settle: {}}}\n",
            hidden.name,
            kit::stage::SETTLE
        );
        apply(&cluster.client(), yaml.as_str()).await?;
        actor
            .status_when("hook", "three cursors", |it| it.cursors.len() == 3)
            .await?;
        hidden.starts("three").await?;
        let heard = receiver.wait_for_count(PATIENCE, 3).await?;
        assert_eq!(heard[2].json()["environment"], later);
        assert_eq!(told(&heard)[2], "STARTED three:v1 0 to 1");
        assert_eq!(
            actor.status("hook").await?.environments.as_deref(),
            Some("*")
        );
        // It would be visible to every other story's settings that ask for all.
        let api: Api<Environment> = Api::all(cluster.client());
        api.delete(&later, &kube::api::DeleteParams::default())
            .await?;
        // Nothing of it waits, so its cursor goes with it.
        actor
            .status_when("hook", "two cursors again", |it| it.cursors.len() == 2)
            .await?;
        Ok(())
    });
}

#[test]
fn an_environment_that_is_missing_does_not_stop_the_others() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "partly").await?;
        let other = Actor::new(cluster, "partner").await?;
        other.visible_to(&[&actor.name]).await?;
        let receiver = Receiver::start();
        let (own, second) = (&actor.name, &other.name);
        let missing = format!("{own}-nowhere");
        let environments = format!("environments: [{own}, {missing}, {second}]");
        actor.webhook("hook", &receiver, &environments).await?;
        let message = actor
            .condition("hook", "Ready", "False EnvironmentNotFound")
            .await?;
        assert!(
            message.contains("spec.environments")
                && message.contains(&missing)
                && message.contains(second.as_str()),
            "{message}"
        );
        actor.starts("one").await?;
        other.starts("two").await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        hears(
            &receiver,
            &["STARTED one:v1 0 to 1", "STARTED two:v1 0 to 1"],
        )
        .await?;
        actor
            .condition("hook", "Delivered", "True UpToDate")
            .await?;
        actor
            .condition("hook", "Ready", "False EnvironmentNotFound")
            .await?;
        // It comes: the setting is valid, and gets what happens from then on.
        let yaml = format!(
            "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\nmetadata: {{name: {missing}}}\nspec: {{namespaces: {{include: [{own}]}}, visibleTo: [{own}], settle: {}}}\n",
            kit::stage::SETTLE
        );
        apply(&cluster.client(), yaml.as_str()).await?;
        actor.condition("hook", "Ready", "True Valid").await?;
        actor
            .status_when("hook", "three cursors", |it| it.cursors.len() == 3)
            .await?;
        receiver.forget();
        other.starts("three").await?;
        actor.starts("four").await?;
        let heard = receiver.wait_for_count(PATIENCE, 3).await?;
        let mut told = told(&heard);
        told.sort();
        assert_eq!(
            told,
            [
                "STARTED four:v1 0 to 1",
                "STARTED four:v1 0 to 1",
                "STARTED three:v1 0 to 1"
            ]
        );
        Ok(())
    });
}

#[test]
fn an_environment_that_becomes_visible_brings_no_old_events() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "viewer").await?;
        let other = Actor::new(cluster, "shown").await?;
        let receiver = Receiver::start();
        let environments = format!("environments: [{}]", other.name);
        actor.webhook("hook", &receiver, &environments).await?;
        let message = actor
            .condition("hook", "Ready", "False EnvironmentNotFound")
            .await?;
        assert!(
            message.contains(&other.name)
                && message.contains(&format!("add {} to its spec.visibleTo", actor.name)),
            "{message}"
        );
        other.starts("old").await?;
        other.visible_to(&[&actor.name]).await?;
        actor.condition("hook", "Ready", "True Valid").await?;
        actor
            .status_when("hook", "a cursor", |it| it.cursors.len() == 1)
            .await?;
        other.starts("new").await?;
        hears(&receiver, &["STARTED new:v1 0 to 1"]).await?;

        // And hidden again: its cursor goes, and nothing more is heard.
        other.visible_to(&[&other.name]).await?;
        actor
            .condition("hook", "Ready", "False EnvironmentNotFound")
            .await?;
        let status = actor
            .status_when("hook", "no cursor", |it| it.cursors.is_empty())
            .await?;
        assert_eq!(status.skipped_ranges, [], "nothing waited");
        other.starts("secret").await?;
        hears_no_more(&receiver, 1).await?;
        Ok(())
    });
}

#[test]
fn an_environment_that_is_taken_away_says_what_was_not_sent() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "staying").await?;
        let other = Actor::new(cluster, "leaving").await?;
        other.visible_to(&[&actor.name]).await?;
        let receiver = Receiver::start();
        receiver.set_standing(503);
        let environments = format!("environments: [{}, {}]", actor.name, other.name);
        actor.webhook("hook", &receiver, &environments).await?;
        other.starts("waits").await?;
        other.starts("too").await?;
        actor
            .status_when("hook", "two events wait", |it| it.pending == Some(2))
            .await?;
        actor
            .edit("hook", json!({"environments": [actor.name]}))
            .await?;
        let status = actor
            .status_when("hook", "a skipped range", |it| {
                !it.skipped_ranges.is_empty()
            })
            .await?;
        let range = &status.skipped_ranges[0];
        assert_eq!(range.environment, other.name);
        assert_eq!(
            (range.from, range.to, range.count, range.reason.as_str()),
            (2, 3, Some(2), "EnvironmentLeft")
        );
        assert_eq!(status.cursors.len(), 1);
        actor
            .status_when("hook", "nothing waits", |it| it.pending == Some(0))
            .await?;
        actor
            .condition("hook", "Delivered", "Unknown NothingSentYet")
            .await?;
        receiver.set_standing(200);
        receiver.forget();
        actor.starts("mine").await?;
        hears(&receiver, &["STARTED mine:v1 0 to 1"]).await?;

        // One of which nothing waits goes without a word.
        actor
            .edit("hook", json!({"environments": [actor.name, other.name]}))
            .await?;
        actor
            .status_when("hook", "two cursors", |it| it.cursors.len() == 2)
            .await?;
        actor
            .edit("hook", json!({"environments": [actor.name]}))
            .await?;
        let status = actor
            .status_when("hook", "one cursor", |it| it.cursors.len() == 1)
            .await?;
        assert_eq!(status.skipped_ranges.len(), 1);
        Ok(())
    });
}

// ---- the status ----

#[test]
fn another_client_that_edits_the_metadata_all_the_time_loses_nothing() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "busy").await?;
        let receiver = Receiver::start();
        // Several at a time, each as fast as it can: no version of the object lasts as long as it takes to write on it.
        let edit = async |number: usize| {
            let key = format!("example.com/number-{number}");
            for number in 0.. {
                // It fails until the setting is there.
                let _ = actor.annotate("hook", &key, &number.to_string()).await;
            }
        };
        let edits = futures::future::join_all((0..12).map(edit));
        let apps = ["a", "b", "c", "d", "e", "f"];
        let changes = async {
            actor.webhook("hook", &receiver, "").await?;
            for app in apps {
                actor.starts(app).await?;
            }
            receiver.wait_for_count(PATIENCE, apps.len()).await?;
            let last = actor.log().await?.len();
            // Written while the edits go on.
            actor
                .status_when("hook", "the cursor is at the head", |it| {
                    it.cursors.first().map(|it| it.index) == i64::try_from(last).ok()
                })
                .await?;
            anyhow::Ok(())
        };
        tokio::select! {
            _ = edits => unreachable!("they go on for ever"),
            ended = changes => ended?,
        }
        let want = apps.map(|app| format!("STARTED {app}:v1 0 to 1"));
        let want: Vec<_> = want.iter().map(String::as_str).collect();
        hears(&receiver, &want).await?;
        let annotations = actor.settings().get("hook").await?.metadata.annotations;
        assert!(
            annotations
                .unwrap_or_default()
                .contains_key("example.com/number-0")
        );
        Ok(())
    });
}

#[test]
fn kubectl_shows_how_things_stand() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "columns").await?;
        let receiver = Receiver::start();
        actor.webhook("well", &receiver, "").await?;
        actor
            .setting("unwell", &from_secret("slack", "nowhere"))
            .await?;
        actor.starts("web").await?;
        actor
            .condition("well", "Delivered", "True UpToDate")
            .await?;
        actor
            .status_when("unwell", "one event waits", |it| it.pending == Some(1))
            .await?;
        let get = async |args: &[&str]| -> Result<Vec<Vec<String>>> {
            let mut all = vec!["-n", &actor.name, "get", "notifset"];
            all.extend(args);
            let printed = cluster.plane.kubectl(&all).await?;
            let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            Ok(printed.lines().map(cells).collect())
        };
        let table = get(&[]).await?;
        assert_eq!(
            table[0],
            [
                "NAME",
                "READY",
                "DELIVERED",
                "TO",
                "ENVIRONMENTS",
                "PENDING",
                "LAST",
                "AGE"
            ]
        );
        let name = actor.name.as_str();
        assert_eq!(
            table[1][..6],
            ["unwell", "False", "False", "Slack", name, "1"]
        );
        assert_eq!(
            table[2][..6],
            ["well", "True", "True", "Webhook", name, "0"]
        );
        assert_eq!(table[2].len(), 8, "{:?}", table[2]);
        let wide = get(&["-o", "wide"]).await?;
        assert_eq!(wide[0][8..], ["REASON", "NEXT", "MESSAGE"]);
        let row = wide[1].join(" ");
        assert!(
            row.contains("SecretNotFound") && row.contains("there is no Secret nowhere"),
            "{row}"
        );
        Ok(())
    });
}

// ---- secrets ----

#[test]
fn a_url_that_changes_to_a_forbidden_one_is_not_used() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "turned").await?;
        let receiver = Receiver::start();
        receiver.set_standing(404);
        actor.secret("hook", &receiver.url("/hook")).await?;
        actor
            .setting("hook", &from_secret("webhook", "hook"))
            .await?;
        actor.handled("hook").await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/web:v1", 1))
            .await?;
        actor
            .condition("hook", "Delivered", "False NotFound")
            .await?;
        actor.secret("hook", "http://169.254.169.254/").await?;
        let message = actor
            .condition("hook", "Ready", "False DestinationDenied")
            .await?;
        assert!(message.contains("169.254.169.254"), "{message}");
        let status = actor.status("hook").await?;
        assert_eq!(status.pending, Some(1));
        Ok(())
    });
}
