//! What nobody may get at, whoever asks for it: addresses that are closed, URLs that are secret. Each has a control plane and
//! an operator of its own, started in another way than that of the other stories.

use crate::settings::{TEST, from_secret};
use anyhow::{Result, ensure};
use k8s_openapi::{ByteString, api::events::v1::Event};
use kit::{
    Actor, Answer, Cluster, Receiver,
    cluster::PATIENCE,
    eventually, hears,
    stage::{Cast, alone, operator},
    stays, told,
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use shipbell::api::{Environment, EnvironmentSnapshot, NotificationSetting};
use std::time::Duration;

#[test]
fn a_name_that_leads_to_a_closed_address_is_denied_when_it_is_dialled_until_the_address_is_opened()
{
    alone(async |cluster| {
        let cast = |open| Cast {
            open,
            ..Cast::default()
        };
        let strict = operator(cluster, &cast("")).await?;
        let actor = Actor::new(cluster, "closed").await?;
        let receiver = Receiver::start();
        let literal = receiver.url("/hook");
        let name = literal.replace("127.0.0.1", "localhost");
        for (setting, url) in [("literal", &literal), ("name", &name)] {
            actor
                .setting(setting, &format!("webhook: {{url: '{url}'}}"))
                .await?;
        }
        // An address is judged as it stands; where a name leads is not known before it is dialled.
        let message = actor
            .condition("literal", "Ready", "False DestinationDenied")
            .await?;
        let switch = "start the operator with --allow-destination 127.0.0.0/8";
        ensure!(message.contains(switch), "{message}");
        actor.condition("name", "Ready", "True Valid").await?;
        actor.starts("web").await?;
        let message = actor
            .condition("name", "Ready", "False DestinationDenied")
            .await?;
        ensure!(
            message.contains("is a loopback address; start the operator with --allow-destination"),
            "{message}"
        );
        actor
            .condition("name", "Delivered", "False DestinationDenied")
            .await?;
        actor.happened("name", "DeliveryFailing").await?;
        for setting in ["literal", "name"] {
            actor
                .status_when(setting, "one event waits", |it| it.pending == Some(1))
                .await?;
        }
        stays(Duration::from_secs(3), "the silence", async || {
            let heard = told(&receiver.heard());
            ensure!(heard.is_empty(), "heard {heard:?}");
            Ok(())
        })
        .await?;

        strict.terminate(PATIENCE).await?;
        let _open = operator(cluster, &cast("localhost")).await?;
        hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        actor.condition("name", "Ready", "True Valid").await?;
        actor
            .condition("name", "Delivered", "True UpToDate")
            .await?;
        actor
            .condition("literal", "Ready", "False DestinationDenied")
            .await?;
        Ok(())
    });
}

/// All that people can read of settings, environments and the log, and of what happened to them.
async fn all_that_can_be_read(cluster: &Cluster) -> Result<String> {
    let client = cluster.client();
    let all = ListParams::default();
    let settings = Api::<NotificationSetting>::all(client.clone());
    let statuses: Vec<Value> = settings
        .list(&all)
        .await?
        .items
        .into_iter()
        .map(|setting| json!([setting.metadata.name, setting.status]))
        .collect();
    let environments = Api::<Environment>::all(client.clone()).list(&all).await?;
    let snapshots = Api::<EnvironmentSnapshot>::all(client.clone())
        .list(&all)
        .await?;
    let events = Api::<Event>::all(client).list(&all).await?;
    Ok(serde_json::to_string(&(
        statuses,
        environments.items,
        snapshots.items,
        events.items,
    ))?)
}

#[test]
fn a_secret_url_is_found_nowhere_even_when_all_is_logged() {
    alone(async |cluster| {
        let cast = Cast {
            log: "trace",
            ..Cast::default()
        };
        let operator = operator(cluster, &cast).await?;
        let actor = Actor::new(cluster, "quiet").await?;
        let receiver = Receiver::start();
        // It repeats what it was asked, as proxies and debug pages do.
        receiver.answer_with(|heard| {
            let said = format!("no such hook: {} {}", heard.path, heard.text());
            let status = match heard.path.as_str() {
                path if path.contains("/well/") => return Answer::default(),
                path if path.contains("/refused/") => 400,
                path if path.contains("/moved/") => {
                    return Answer::from(302).header("Location", path);
                }
                path if path.contains("/broken/") => 500,
                _ => 404,
            };
            Answer::from(status).body(&said)
        });
        let canary = "xCANARYx";
        let at = |path: &str| receiver.url(&format!("/{path}/{canary}?token={canary}"));
        let urls = [
            ("well", "webhook", at("well")),
            ("well-slack", "slack", at("well")),
            ("refused", "webhook", at("refused")),
            ("refused-slack", "slack", at("refused")),
            ("moved", "webhook", at("moved")),
            ("broken", "webhook", at("broken")),
            ("missing", "webhook", at("missing")),
            ("missing-slack", "slack", at("missing")),
            (
                "userinfo",
                "webhook",
                format!("https://{canary}:{canary}@a.example/"),
            ),
            (
                "no-name",
                "webhook",
                format!("https://{canary}.invalid/{canary}"),
            ),
            ("denied", "webhook", format!("http://10.0.0.1/{canary}")),
            (
                "not-open",
                "webhook",
                format!("http://127.0.0.1:1/{canary}"),
            ),
            ("not-tls", "webhook", at("tls").replace("http:", "https:")),
            ("space", "webhook", format!("https://a.example/ {canary}")),
        ];
        for (name, kind, url) in &urls {
            actor.secret(name, url).await?;
            actor.setting(name, &from_secret(kind, name)).await?;
            actor.annotate(name, TEST, "now").await?;
        }
        for name in ["well", "well-slack", "broken", "missing"] {
            actor.handled(name).await?;
        }
        actor.starts("web").await?;
        for (name, condition, want) in [
            ("well", "Delivered", "True UpToDate"),
            ("well-slack", "Delivered", "True UpToDate"),
            ("moved", "Delivered", "False Redirected"),
            ("broken", "Delivered", "False ServerError"),
            ("missing", "Delivered", "False NotFound"),
            ("missing-slack", "Delivered", "False NotFound"),
            ("userinfo", "Ready", "False UrlInvalid"),
            ("denied", "Ready", "False DestinationDenied"),
            ("not-open", "Delivered", "False ConnectFailed"),
            ("not-tls", "Delivered", "False TlsFailed"),
            ("space", "Ready", "False UrlInvalid"),
        ] {
            actor.condition(name, condition, want).await?;
        }
        for (name, want) in [("refused", 1), ("no-name", 0)] {
            let what = format!("{want} dead letters and a failure");
            actor
                .status_when(name, &what, |it| {
                    it.dead_letters.len() == want && it.last_failure.is_some()
                })
                .await?;
        }
        actor.happened("broken", "DeliveryFailing").await?;
        // Rotated, and gone.
        actor.secret("missing", &at("well")).await?;
        actor
            .condition("missing", "Delivered", "True UpToDate")
            .await?;
        let traces = ["DEBUG shipbell::delivery", "DEBUG shipbell::cluster"];
        let of_broken = format!("{}/broken", actor.name);
        eventually(PATIENCE, "a log of everything", async || {
            let log = operator.log_text();
            let mut all = traces.iter().copied().chain([of_broken.as_str()]);
            let missing = all.find(|it| !log.contains(it));
            ensure!(missing.is_none(), "no {missing:?}");
            Ok(())
        })
        .await?;
        let (_, metrics) = operator.get("/metrics").await?;
        ensure!(metrics.contains("shipbell_deliveries"), "{metrics}");
        let log = operator.log_text();
        // What these say names hosts, and a host may be a secret.
        for library in [" hyper::", " hyper_util::", " rustls::"] {
            ensure!(!log.contains(library), "lines of{library}");
        }
        let read = all_that_can_be_read(cluster).await?;
        // And as Secrets hold them.
        let mut secrets = vec![canary.to_owned()];
        for (_, _, url) in urls {
            let stored = serde_json::to_value(ByteString(url.into_bytes()))?;
            secrets.extend(stored.as_str().map(str::to_owned));
        }
        for (place, text) in [("log", &log), ("metrics", &metrics), ("API", &read)] {
            for secret in &secrets {
                let found = text.find(secret).map(|at| around(text, at));
                ensure!(found.is_none(), "in the {place}: {found:?}");
            }
        }
        Ok(())
    });
}

/// What stands around a place in a text.
fn around(text: &str, at: usize) -> String {
    let text = text.as_bytes();
    let end = (at + 200).min(text.len());
    String::from_utf8_lossy(&text[at.saturating_sub(400)..end]).into_owned()
}
