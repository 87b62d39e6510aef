#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Records Kubernetes Events.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::timeout;
use tracing::warn;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// At most so many characters of a note are kept: the API server takes 1 kB.
const NOTE: usize = 1_000;

/// Records Kubernetes Events, without anybody waiting for it.
#[derive(Clone)]
pub struct EventPublisher(Recorder);

impl EventPublisher {
    /// Records Events that come from this instance of the operator.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "shipbell".to_owned(),
            instance,
        };
        Self(Recorder::new(client, reporter))
    }

    /// Records an Event about an object.
    pub fn publish(
        &self,
        about: ObjectReference,
        type_: EventType,
        action: &str,
        reason: &str,
        mut note: String,
    ) {
        if let Some((end, _)) = note.char_indices().nth(NOTE) {
            note.truncate(end);
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.0.clone();
        tokio::spawn(async move {
            let error = match timeout(TIMEOUT, recorder.publish(&event, &about)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            let (namespace, name) = (about.namespace, about.name);
            warn!(namespace, name, error, "can't record a Kubernetes Event");
        });
    }
}
