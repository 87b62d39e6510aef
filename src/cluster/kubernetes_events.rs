#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Records Kubernetes Events.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// At most so many characters of a note are kept: the API server takes 1 kB.
const NOTE: usize = 1_000;

/// At most so many are under way: an API server that does not answer must not fill the memory.
const UNDER_WAY: usize = 64;

/// Records Kubernetes Events, without anybody waiting for it. One that finds too many under way is not recorded.
#[derive(Clone)]
pub struct EventPublisher {
    recorder: Recorder,
    under_way: Arc<Semaphore>,
}

impl EventPublisher {
    /// Records Events that come from this instance of the operator.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "shipbell".to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        }
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
        let (namespace, name) = (about.namespace.clone(), about.name.clone());
        let Ok(place) = self.under_way.clone().try_acquire_owned() else {
            warn!(
                namespace,
                name, reason, note, "too many Kubernetes Events are under way to record this one"
            );
            return;
        };
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
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            let _place = place;
            let error = match timeout(TIMEOUT, recorder.publish(&event, &about)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            warn!(namespace, name, error, "can't record a Kubernetes Event");
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::Router;

    use super::*;

    #[tokio::test]
    async fn an_api_server_that_never_answers_gets_a_bounded_number_of_events() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counts = asked.clone();
        let hangs = Router::new().fallback(move || {
            counts.fetch_add(1, Ordering::Relaxed);
            pending::<()>()
        });
        let events = EventPublisher::new(Client::new(hangs, "default"), None);
        for number in 0..10 * UNDER_WAY {
            let about = ObjectReference {
                name: Some(number.to_string()),
                ..ObjectReference::default()
            };
            events.publish(about, EventType::Normal, "Try", "Tried", String::new());
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), UNDER_WAY);
    }
}
