//! What a Slack channel is told. The receiver stands in for Slack's incoming webhook: it answers `ok` as text.

use std::time::Duration;

use anyhow::{Result, ensure};
use kit::{Actor, Answer, Heard, Receiver, cluster::PATIENCE, deployment, play, stays};
use serde_json::{Value, json};

const SCALING: &str = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]";

/// Applies a Slack setting whose hook is kept in a Secret of the same name.
async fn slack(actor: &Actor, name: &str, receiver: &Receiver, fields: &str) -> Result<()> {
    actor
        .secret(name, &receiver.url("/services/T0/B0/x"))
        .await?;
    let from = format!("slack: {{urlFrom: {{secretKeyRef: {{name: {name}}}}}}}");
    actor.setting(name, &format!("{from}\n{fields}")).await?;
    actor.handled(name).await
}

fn text(heard: &Heard) -> String {
    heard.json()["text"].as_str().unwrap_or_default().to_owned()
}

/// The first block: what Slack shows largest.
fn headline(heard: &Heard) -> String {
    let message = heard.json();
    let headline = &message["blocks"][0]["text"]["text"];
    headline.as_str().unwrap_or_default().to_owned()
}

/// Checks that so many messages were heard and no more come, and that Slack would take them.
async fn messages(receiver: &Receiver, count: usize) -> Result<Vec<Heard>> {
    receiver.wait_for_count(PATIENCE, count).await?;
    stays(Duration::from_millis(2_500), "the silence", async || {
        let texts: Vec<_> = receiver.heard().iter().map(text).collect();
        ensure!(texts.len() == count, "{texts:#?}");
        Ok(())
    })
    .await?;
    let heard = receiver.heard();
    for message in &heard {
        keeps_to_the_limits(&message.json());
        assert_eq!(message.header("content-type"), Some("application/json"));
    }
    Ok(heard)
}

/// Slack's limits, and the sum that it doesn't document.
fn keeps_to_the_limits(message: &Value) {
    let length = |value: &Value| value.as_str().unwrap_or_default().encode_utf16().count();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    assert!(length(&message["text"]) <= 4_000);
    assert!(length(&message["text"]) > 0, "{message}");
    let attachments = list(&message["attachments"]);
    assert!(attachments.len() <= 20);
    let mut blocks = list(&message["blocks"]);
    for attachment in &attachments {
        blocks.extend(list(&attachment["blocks"]));
    }
    assert!(blocks.len() <= 50, "{} blocks", blocks.len());
    for block in &blocks {
        let text = length(&block["text"]["text"]);
        match block["type"].as_str().unwrap_or_default() {
            "header" => assert!((1..=150).contains(&text)),
            "section" => assert!(text <= 3_000),
            "context" => assert!(list(&block["elements"]).len() <= 10),
            other => panic!("an unknown block: {other}"),
        }
        let fields = list(&block["fields"]);
        assert!(fields.len() <= 10);
        assert!(fields.iter().all(|field| length(&field["text"]) <= 2_000));
    }
    let all = json!([message["blocks"], message["attachments"]]);
    assert!(all.to_string().len() <= 13_000, "{}", all.to_string().len());
    assert_eq!(message["unfurl_links"], false);
}

#[test]
fn a_start_a_scale_and_a_rollout_are_one_message_each() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack").await?;
        let receiver = Receiver::start();
        slack(&actor, "chat", &receiver, SCALING).await?;
        let place = format!("test-cluster/{}", actor.name);

        actor
            .apply(deployment(&actor.name, "web", "r.example/web:v1", 2))
            .await?;
        let heard = messages(&receiver, 1).await?;
        assert!(headline(&heard[0]).contains("Started* `web`"), "{heard:?}");
        assert!(headline(&heard[0]).contains(&place));
        let started = text(&heard[0]);
        assert!(
            started.contains("r.example/web:v1") || started.contains("web:v1"),
            "{started}"
        );
        assert!(
            started.contains(&format!("{}/deployment/web", actor.name)),
            "{started}"
        );

        cluster.scale(&actor.name, "web", 4).await?;
        let heard = messages(&receiver, 2).await?;
        assert!(
            headline(&heard[1]).contains("Scaled up* `web`"),
            "{heard:?}"
        );
        assert!(text(&heard[1]).contains("(from 2 to 4)"));

        cluster
            .set_image(&actor.name, "web", "r.example/web:v2")
            .await?;
        let heard = messages(&receiver, 3).await?;
        assert!(
            headline(&heard[2]).contains("Rolled out* `web`"),
            "{heard:?}"
        );
        let rolled = text(&heard[2]);
        assert!(
            rolled.contains("web:v2") && rolled.contains("web:v1"),
            "{rolled}"
        );

        cluster.scale(&actor.name, "web", 0).await?;
        let heard = messages(&receiver, 4).await?;
        assert!(headline(&heard[3]).contains("Stopped* `web`"), "{heard:?}");
        actor
            .condition("chat", "Delivered", "True UpToDate")
            .await?;
        let status = actor
            .status_when("chat", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.destination.as_deref(), Some("Slack"));
        Ok(())
    });
}

#[test]
fn several_changes_of_one_snapshot_are_one_message() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-many").await?;
        let receiver = Receiver::start();
        slack(&actor, "chat", &receiver, "").await?;
        actor
            .apply(
                deployment(&actor.name, "shop", "r.example/one:v1", 1)
                    .container("second", "r.example/two:v1")
                    .container("third", "r.example/three:v1"),
            )
            .await?;
        actor.settled(3, 3).await?;
        let log = actor.log().await?;
        assert_eq!(log.len(), 2, "one snapshot");
        assert_eq!(log[1].events.len(), 3);
        let heard = messages(&receiver, 1).await?;
        for image in ["one:v1", "two:v1", "three:v1"] {
            assert!(text(&heard[0]).contains(image), "{}", text(&heard[0]));
        }
        let status = actor
            .status_when("chat", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.cursors[0].index, 2);
        Ok(())
    });
}

#[test]
fn a_message_whose_blocks_are_refused_is_sent_as_text() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-blocks").await?;
        let receiver = Receiver::start();
        receiver.answer_with(|heard| {
            if heard.json()["blocks"].is_array() {
                Answer::from(400).body("invalid_blocks")
            } else {
                Answer::default()
            }
        });
        slack(&actor, "chat", &receiver, "").await?;
        actor.starts("web").await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        actor
            .condition("chat", "Delivered", "True UpToDate")
            .await?;
        let heard = receiver.heard();
        assert_eq!(heard.len(), 2);
        let plain = heard[1].json();
        assert_eq!(plain, json!({"text": heard[0].json()["text"]}));
        let status = actor
            .status_when("chat", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.dead_letters, []);
        Ok(())
    });
}

#[test]
fn a_message_that_is_refused_even_as_text_is_set_aside() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-refused").await?;
        let receiver = Receiver::start();
        receiver.answer_next(Answer::from(400).body("invalid_payload"));
        receiver.answer_next(Answer::from(400).body("no_text"));
        slack(&actor, "chat", &receiver, "").await?;
        actor.starts("a").await?;
        actor.starts("b").await?;
        receiver.wait_for_count(PATIENCE, 3).await?;
        actor
            .condition("chat", "Delivered", "True UpToDate")
            .await?;
        let status = actor
            .status_when("chat", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.dead_letters.len(), 1);
        assert!(status.dead_letters[0].message.contains("no_text"));
        let heard = receiver.heard();
        assert!(headline(&heard[2]).contains("`b`"), "{heard:?}");
        Ok(())
    });
}

#[test]
fn a_channel_that_is_no_more_is_held() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-channel").await?;
        let receiver = Receiver::start();
        receiver.set_standing(Answer::from(404).body("channel_not_found"));
        slack(&actor, "chat", &receiver, "").await?;
        actor.starts("web").await?;
        let message = actor
            .condition("chat", "Delivered", "False SlackDestination")
            .await?;
        assert!(
            message.contains("channel_not_found") && message.contains("create a new webhook"),
            "{message}"
        );
        // It is the destination that is wrong, so the setting itself is valid, and the event waits.
        actor.condition("chat", "Ready", "True Valid").await?;
        let status = actor
            .status_when("chat", "one event waits", |it| it.pending == Some(1))
            .await?;
        assert!(status.next_attempt_time.is_some());
        assert_eq!(status.dead_letters, []);
        messages(&receiver, 1).await?;
        Ok(())
    });
}

#[test]
fn a_hook_that_was_removed_is_held_until_the_secret_has_another() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-hook").await?;
        let receiver = Receiver::start();
        receiver.answer_with(|heard| match heard.path.as_str() {
            "/services/T0/B0/new" => Answer::default(),
            _ => Answer::from(404).body("no_service"),
        });
        slack(&actor, "chat", &receiver, "").await?;
        actor.starts("web").await?;
        let message = actor
            .condition("chat", "Delivered", "False SlackCredential")
            .await?;
        assert!(message.contains("no_service"), "{message}");
        actor
            .secret("chat", &receiver.url("/services/T0/B0/new"))
            .await?;
        let heard = receiver
            .wait_for(Duration::from_secs(35), |heard| {
                heard.iter().any(|it| it.path.ends_with("/new"))
            })
            .await?;
        assert_eq!(heard[0].body, heard[heard.len() - 1].body);
        actor
            .condition("chat", "Delivered", "True UpToDate")
            .await?;
        Ok(())
    });
}

#[test]
fn a_long_backlog_comes_as_one_digest() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-digest").await?;
        let receiver = Receiver::start();
        slack(&actor, "chat", &receiver, "suspend: true").await?;
        let apps = ["a", "b", "c", "d", "e", "f", "g"];
        for app in apps {
            actor.starts(app).await?;
        }
        actor
            .status_when("chat", "seven events wait", |it| it.pending == Some(7))
            .await?;
        actor.edit("chat", json!({"suspend": false})).await?;
        let heard = messages(&receiver, 1).await?;
        assert!(
            headline(&heard[0]).contains("7 workloads changed"),
            "{heard:?}"
        );
        for app in apps {
            let workload = format!("{}/{app}", actor.name);
            assert!(text(&heard[0]).contains(&workload), "{}", text(&heard[0]));
        }
        let status = actor
            .status_when("chat", "nothing waits", |it| it.pending == Some(0))
            .await?;
        assert_eq!(status.cursors[0].index, 8);

        // Up to five are told one by one, at Slack's pace.
        actor.edit("chat", json!({"suspend": true})).await?;
        for app in ["x", "y"] {
            actor.starts(app).await?;
        }
        actor.edit("chat", json!({"suspend": false})).await?;
        let heard = messages(&receiver, 3).await?;
        assert!(headline(&heard[1]).contains("`x`") && headline(&heard[2]).contains("`y`"));
        Ok(())
    });
}

#[test]
fn many_changes_at_once_fit_into_one_message() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-crowd").await?;
        let receiver = Receiver::start();
        slack(&actor, "chat", &receiver, "").await?;
        let image = |number: u32| {
            format!(
                "r.example/a-team/a-rather-long-name-that-people-do-give-to-images-{number}:v1.2.3-rc.4"
            )
        };
        let crowd = (1..40).fold(
            deployment(&actor.name, "crowd", &image(0), 1),
            |crowd, number| crowd.container(&format!("c{number}"), &image(number)),
        );
        actor.apply(crowd).await?;
        actor.settled(40, 40).await?;
        assert_eq!(actor.log().await?.len(), 2, "one snapshot");
        let heard = messages(&receiver, 1).await?;
        assert!(text(&heard[0]).contains("more"), "{}", text(&heard[0]));
        Ok(())
    });
}

#[test]
fn slack_that_asks_for_a_pause_gets_it() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "slack-pause").await?;
        let receiver = Receiver::start();
        receiver.answer_next(
            Answer::from(429)
                .header("Retry-After", "4")
                .body("rate_limited"),
        );
        slack(&actor, "chat", &receiver, "").await?;
        actor.starts("web").await?;
        actor
            .condition("chat", "Delivered", "False RateLimited")
            .await?;
        let heard = messages(&receiver, 2).await?;
        let pause = heard[1].at.duration_since(heard[0].at);
        assert!(pause.as_secs() >= 4, "{pause:#}");
        assert_eq!(heard[0].body, heard[1].body);
        Ok(())
    });
}
