#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Reads where a setting sends to, from its spec or from a Secret of its own namespace, when it is needed.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{Client, core::Request};
use serde::Deserialize;
use tokio::time::{Duration, timeout};

use crate::{
    api::{NotificationSettingSpec, condition::shorten, notification_setting::SecretKeyRef},
    delivery::{conditions::NotReady, reasons::NotReadyReason},
    http::destination::{Destination, DestinationKind},
};

/// A Secret that takes longer to read is read again later.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What a message needs to name in order to say how to allow Shipbell to read Secrets.
#[derive(Clone, Debug)]
pub(crate) struct RbacHints {
    /// The ClusterRole that allows to read Secrets.
    pub secrets_role: String,
    /// The operator's service account, and its namespace.
    pub service_account: (String, String),
}

/// Why there is no destination.
#[derive(Debug)]
pub(crate) enum DestinationError {
    /// The user can change that.
    NotReady(NotReady),
    /// The API server did not say; it will.
    Unknown(String),
}

/// The destination of a setting.
pub(crate) async fn read(
    client: &Client,
    namespace: &str,
    spec: &NotificationSettingSpec,
    names: &RbacHints,
) -> Result<Destination, DestinationError> {
    let invalid = |message: &str| {
        DestinationError::NotReady(NotReady::of_spec(NotReadyReason::SpecInvalid, message))
    };
    let (kind, source) = match (&spec.webhook, &spec.slack) {
        (Some(webhook), None) => match (&webhook.url, &webhook.url_from) {
            (Some(url), None) => {
                return Destination::parse(DestinationKind::Webhook, url).map_err(|error| {
                    DestinationError::NotReady(NotReady::of_spec(
                        NotReadyReason::UrlInvalid,
                        format!("spec.webhook.url: {error}"),
                    ))
                });
            }
            (None, Some(source)) => (DestinationKind::Webhook, source),
            _ => return Err(invalid("spec.webhook: give exactly one of url and urlFrom")),
        },
        (None, Some(slack)) => (DestinationKind::Slack, &slack.url_from),
        _ => return Err(invalid("spec: give exactly one of webhook and slack")),
    };
    let reference = &source.secret_key_ref;
    let value = secret_value(client, namespace, reference, names).await?;
    Destination::parse_bytes(kind, &value).map_err(|error| {
        let (key, name) = (reference.key(), &reference.name);
        let message = format!("key {key} of Secret {name}: {error}");
        DestinationError::NotReady(NotReady::new(NotReadyReason::UrlInvalid, message))
    })
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

async fn secret_value(
    client: &Client,
    namespace: &str,
    reference: &SecretKeyRef,
    names: &RbacHints,
) -> Result<Vec<u8>, DestinationError> {
    let SecretKeyRef { name, .. } = reference;
    let key = reference.key();
    let not_ready = |reason, message| DestinationError::NotReady(NotReady::new(reason, message));
    let no_name = || {
        let message = format!("secretKeyRef.name: {name:?} can't be the name of a Secret");
        DestinationError::NotReady(NotReady::of_spec(NotReadyReason::SpecInvalid, message))
    };
    // The name becomes a part of a path: it must not lead to another namespace.
    if !is_name(name) {
        return Err(no_name());
    }
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let request = Request::new(path).get(name, &kube::api::GetParams::default());
    let request = request.map_err(|_| no_name())?;
    // As text, so that nothing of it ends up in a log if it is not what it should be.
    let answer = timeout(TIMEOUT, client.request_text(request)).await;
    let text = match answer
        .map_err(|_| DestinationError::Unknown("no answer from the API server".to_owned()))?
    {
        Ok(text) => text,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let message = format!(
                "there is no Secret {name} in namespace {namespace}: kubectl -n {namespace} create secret generic {name} --from-literal={key}=https://..."
            );
            return Err(not_ready(NotReadyReason::SecretNotFound, message));
        }
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let RbacHints {
                secrets_role,
                service_account: (account, own_namespace),
            } = names;
            let message = format!(
                "Shipbell may not read Secrets in namespace {namespace}: add it to the chart's settingsNamespaces, or kubectl -n {namespace} create rolebinding shipbell-secrets --clusterrole={secrets_role} --serviceaccount={own_namespace}:{account}"
            );
            return Err(not_ready(NotReadyReason::SecretForbidden, message));
        }
        Err(kube::Error::Api(status)) => {
            return Err(DestinationError::Unknown(format!(
                "the API server answered {}",
                status.code
            )));
        }
        Err(_) => {
            return Err(DestinationError::Unknown(
                "can't reach the API server".to_owned(),
            ));
        }
    };
    let secret: Secret = serde_json::from_str(&text)
        .map_err(|_| DestinationError::Unknown("the Secret can't be read".to_owned()))?;
    let data = secret.data.unwrap_or_default();
    let Some(value) = data.get(key) else {
        // Which keys it has is for those to know who may read it.
        let message = format!(
            "Secret {name} has no key {}: name one that it has with secretKeyRef.key",
            shorten(key, 253)
        );
        return Err(not_ready(NotReadyReason::SecretKeyMissing, message));
    };
    STANDARD
        .decode(value)
        .map_err(|_| DestinationError::Unknown("the Secret can't be read".to_owned()))
}

/// Whether this can be the name of an object (a DNS subdomain), as the schema asks for, too.
fn is_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let outer = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name = name.as_bytes();
    name.len() <= 253
        && name.iter().copied().all(inner)
        && name.first().is_some_and(outer)
        && name.last().is_some_and(outer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_names_of_objects_are_asked_for() {
        for name in ["hook", "team.chat-2", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "..",
            "../configmaps/x",
            "a/b",
            "Hook",
            "a b",
            "-a",
            "a.",
            "a%2fb",
            "a?b",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn the_key_of_a_secret_is_url_unless_another_is_named() {
        for (reference, key) in [
            (json!({"name": "hook"}), "url"),
            (json!({"name": "hook", "key": "chat"}), "chat"),
        ] {
            let reference: SecretKeyRef = serde_json::from_value(reference).unwrap();
            assert_eq!(reference.key(), key);
        }
    }
}
