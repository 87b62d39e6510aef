#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server, listens and waits"
)]

//! `shipbell test-delivery`, which `helm test` runs: a NotificationSetting whose destination is this very process asks the
//! operator for a test message. If it comes, the operator runs, has its rights, and can send.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    api::{
        EventType, NotificationSetting, NotificationSettingSpec, NotificationSettingStatus,
        TEST_ANNOTATION, notification_setting::Webhook,
    },
    config::TestDelivery,
    run::connect,
    web::server,
};

/// How often the setting's status is read.
const LOOK: Duration = Duration::from_secs(2);
/// How long after a failure another message is asked for: until then the DNS may know the receiver.
const AGAIN: Duration = Duration::from_secs(5);

/// Waits until the test message came; an error says what the operator says, or that it says nothing.
pub async fn run(config: TestDelivery) -> anyhow::Result<()> {
    let (tell, mut heard) = mpsc::channel(1);
    let listener = server::bind(config.listen, "--listen").await?;
    let token = Timestamp::now().as_nanosecond().to_string();
    let receiver = Router::new()
        .route(&format!("/{token}"), post(receive))
        .with_state(tell);
    let server = tokio::spawn(axum::serve(listener, receiver).into_future());

    let client = Client::try_from(connect::find().await?)?;
    let settings: Api<NotificationSetting> = Api::namespaced(client, &config.namespace);
    let name = &config.setting;
    // That of a test that was ended before its end.
    remove(&settings, name).await?;
    let url = format!("{}/{token}", config.url.trim_end_matches('/'));
    settings
        .create(&PostParams::default(), &setting(name, url, &token))
        .await
        .with_context(|| {
            format!(
                "can't create the NotificationSetting {name} in {}",
                config.namespace
            )
        })?;
    println!("asked for a test message by the NotificationSetting {name}");
    let deadline = Instant::now() + config.timeout.0;
    let came = tokio::select! {
        came = timeout_at(deadline, heard.recv()) => came.is_ok(),
        error = ask_again(&settings, name) => return Err(error),
    };
    let status = settings.get(name).await.ok().and_then(|it| it.status);
    remove(&settings, name).await?;
    server.abort();
    if !came {
        bail!(
            "no test message came within {} s: {}",
            config.timeout.0.as_secs(),
            explain(status.as_ref())
        );
    }
    println!("the test message came");
    Ok(())
}

/// Takes the test message; anything else is not for us.
async fn receive(State(tell): State<mpsc::Sender<()>>, Json(body): Json<Value>) -> StatusCode {
    if body["event_type"] == "TEST" {
        let _ = tell.try_send(());
    }
    StatusCode::NO_CONTENT
}

fn setting(name: &str, url: String, request: &str) -> NotificationSetting {
    NotificationSetting {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(
                TEST_ANNOTATION.to_owned(),
                request.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: NotificationSettingSpec {
            // An event that hardly ever happens: the test is about the test message alone.
            event_types: Some(vec![EventType::ArtifactAllowed]),
            webhook: Some(Webhook {
                url: Some(url),
                ..Webhook::default()
            }),
            ..NotificationSettingSpec::default()
        },
        status: None,
    }
}

/// Asks for another message whenever one failed. Ends only with an error.
async fn ask_again(settings: &Api<NotificationSetting>, name: &str) -> anyhow::Error {
    let mut asked = 0_u32;
    let mut handled = None;
    loop {
        sleep(LOOK).await;
        let Ok(setting) = settings.get(name).await else {
            continue;
        };
        let now = setting.status.and_then(|status| status.last_handled_test);
        if now.is_none() || now == handled {
            continue;
        }
        handled = now;
        sleep(AGAIN).await;
        asked += 1;
        let patch =
            json!({"metadata": {"annotations": {TEST_ANNOTATION: format!("again {asked}")}}});
        let (how, patch) = (PatchParams::default(), Patch::Merge(patch));
        if let Err(error) = settings.patch(name, &how, &patch).await {
            return anyhow::Error::new(error).context("can't ask for another test message");
        }
    }
}

async fn remove(settings: &Api<NotificationSetting>, name: &str) -> anyhow::Result<()> {
    match settings.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("can't delete the NotificationSetting {name}"))
        }
    }
}

/// Why no message came, as the setting's status says it.
fn explain(status: Option<&NotificationSettingStatus>) -> String {
    let Some(status) = status else {
        return "the operator has not looked at the setting; does it run? kubectl logs deployment/shipbell".to_owned();
    };
    if let Some(failure) = &status.last_failure {
        return format!("{}: {}", failure.reason, failure.message);
    }
    let conditions = status.conditions.iter();
    let said: Vec<_> = conditions
        .map(|it| format!("{}={} {}: {}", it.type_, it.status, it.reason, it.message))
        .collect();
    said.join("; ")
}
