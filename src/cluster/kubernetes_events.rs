#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Records Kubernetes Events.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use crate::{api::condition::reasons as closed_list, leader::election::ElectionWatch};

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// At most so many bytes of a note are kept: the API server takes 1,024.
const NOTE: usize = 1_000;
/// At most so many requests are under way at once.
const UNDER_WAY: usize = 64;
/// At most so many Events wait or are under way: an API server that does not answer must not fill the memory.
const WAITING: usize = 1_024;

closed_list! {
    /// Why a Kubernetes Event is recorded on an object of any kind of ours.
    pub(crate) enum ObjectEventReason { Panicked, Unreadable }
}

/// What becomes of an Event when one of the same reason about the same object was recorded in the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// It is counted there, and the note stays as it was: for what may repeat without end.
    Counted,
    /// It is another Event, with its own note.
    Told,
}

/// Records Kubernetes Events while this process leads, without anybody waiting for it. One that finds too many waiting is only
/// logged.
#[derive(Clone)]
pub struct EventPublisher {
    client: Client,
    reporter: Reporter,
    /// Knows the Events of the last minutes.
    recorder: Recorder,
    leadership: ElectionWatch,
    under_way: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl EventPublisher {
    /// Records Events that come from this instance of the operator.
    pub fn new(client: Client, instance: Option<String>, leadership: ElectionWatch) -> Self {
        let reporter = Reporter {
            controller: "shipbell".to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter.clone()),
            client,
            reporter,
            leadership,
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }

    /// An object of ours can't be read: why.
    pub(crate) fn unreadable(&self, about: ObjectReference, why: String) {
        let reason = ObjectEventReason::Unreadable.as_str();
        let (type_, repeated) = (EventType::Warning, Repeated::Told);
        self.publish(about, type_, "Read", reason, why, repeated);
    }

    /// The task of an object of ours panicked.
    pub(crate) fn panicked(&self, about: ObjectReference) {
        let reason = ObjectEventReason::Panicked.as_str();
        let note = "A defect of Shipbell stopped the work on this object; it begins anew within a minute. Please report what the log says of it.".to_owned();
        let (type_, repeated) = (EventType::Warning, Repeated::Counted);
        self.publish(about, type_, "Restart", reason, note, repeated);
    }

    /// Records an Event about an object.
    pub fn publish(
        &self,
        about: ObjectReference,
        type_: EventType,
        action: &str,
        reason: &str,
        mut note: String,
        repeated: Repeated,
    ) {
        if !self.leadership.leads() {
            return; // the leader sees the same
        }
        let (namespace, name) = (about.namespace.clone(), about.name.clone());
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            warn!(
                namespace,
                name, reason, note, "too many Kubernetes Events wait to record this one"
            );
            return;
        };
        note.truncate(note.floor_char_boundary(NOTE));
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = match repeated {
            Repeated::Counted => self.recorder.clone(),
            Repeated::Told => Recorder::new(self.client.clone(), self.reporter.clone()),
        };
        let under_way = self.under_way.clone();
        tokio::spawn(async move {
            let _place = place;
            // It is never closed.
            let _turn = under_way.acquire().await;
            let error = match timeout(TIMEOUT, recorder.publish(&event, &about)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            warn!(namespace, name, error, "can't record a Kubernetes Event");
        });
    }
}

/// What a Kubernetes Event about an object refers to. An object of the cluster has no namespace, and one that can't be read
/// may have no name.
pub fn reference<K>(namespace: &str, name: &str, uid: String) -> ObjectReference
where
    K: Resource<DynamicType = ()>,
{
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: known(namespace),
        name: known(name),
        uid: Some(uid),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use http::Method;
    use parking_lot::Mutex;
    use serde_json::Value;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        api::Environment,
        metrics::Metrics,
        panics::{ContainedTasks, PanicScope},
        simulation::testing::silent_api_server,
    };

    /// A publisher to an API server that never answers, and how many requests that got.
    fn unanswered() -> (EventPublisher, Arc<AtomicUsize>) {
        let (hangs, asked) = silent_api_server();
        (
            EventPublisher::new(
                Client::new(hangs, "default"),
                None,
                ElectionWatch::of_leader(),
            ),
            asked,
        )
    }

    fn publish(events: &EventPublisher, number: usize, note: String, repeated: Repeated) {
        let about = ObjectReference {
            name: Some(number.to_string()),
            ..ObjectReference::default()
        };
        events.publish(about, EventType::Normal, "Try", "Tried", note, repeated);
    }

    #[test]
    fn all_that_a_kubernetes_event_may_say_of_an_object_of_ours_is_explained_in_the_documents() {
        let documents = include_str!("../../docs/troubleshooting.md");
        for reason in ObjectEventReason::ALL {
            let row = format!("\n| `{}` |", reason.as_str());
            assert!(documents.contains(&row), "{row}");
        }
    }

    #[tokio::test]
    async fn an_api_server_that_never_answers_gets_a_bounded_number_of_events() {
        let (events, asked) = unanswered();
        for number in 0..2 * WAITING {
            publish(&events, number, String::new(), Repeated::Told);
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), UNDER_WAY);
        assert_eq!(events.waiting.available_permits(), 0);
    }

    #[tokio::test]
    async fn an_event_is_told_again_with_its_own_note_or_counted_with_the_first() {
        let heard = Arc::new(Mutex::new(vec![]));
        let hears = heard.clone();
        let answers = Router::new().fallback(async move |method: Method, event: String| {
            let value: serde_json::Value = serde_json::from_str(&event).unwrap();
            hears
                .lock()
                .push((method, value["note"].as_str().map(str::len)));
            event
        });
        let events = EventPublisher::new(
            Client::new(answers, "default"),
            None,
            ElectionWatch::of_leader(),
        );
        for (letters, repeated) in [
            (2, Repeated::Told),
            (600, Repeated::Told),
            (3, Repeated::Counted),
            (4, Repeated::Counted),
        ] {
            // Letters of two bytes: the API server counts bytes.
            publish(&events, 1, "\u{e9}".repeat(letters), repeated);
            let all = u32::try_from(WAITING).unwrap();
            drop(events.waiting.acquire_many(all).await.unwrap());
        }
        let notes = [(Method::POST, 4), (Method::POST, 1_000), (Method::POST, 6)];
        let notes = notes.map(|(method, length)| (method, Some(length)));
        let heard = heard.lock();
        assert_eq!(heard[..3], notes);
        assert_eq!((heard.len(), &heard[3].0), (4, &Method::PATCH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_told_of_in_an_event_about_its_object_that_counts_the_next_ones()
    {
        let (hears, mut heard) = mpsc::unbounded_channel();
        let answers = Router::new().fallback(async move |method: Method, event: String| {
            let value: Value = serde_json::from_str(&event).unwrap();
            hears.send((method, value)).unwrap();
            event
        });
        let events = EventPublisher::new(
            Client::new(answers, "default"),
            None,
            ElectionWatch::of_leader(),
        );
        let about = reference::<Environment>("", "prod", "uid-of-prod".to_owned());
        let panicked = move || events.panicked(about.clone());
        let tasks = ContainedTasks::new(PanicScope::Environment, Arc::new(Metrics::new()));
        let stop = CancellationToken::new();
        let work = || async { panic!("a task that panics") };
        tasks.spawn("prod".to_owned(), stop.clone(), work, panicked);

        let (method, event) = heard.recv().await.unwrap();
        assert_eq!(method, Method::POST);
        for (field, want) in [
            ("type", "Warning"),
            ("reason", "Panicked"),
            ("action", "Restart"),
            ("reportingController", "shipbell"),
        ] {
            assert_eq!(event[field], want, "{event}");
        }
        let regarding = &event["regarding"];
        for (field, want) in [
            ("apiVersion", "shipbell.dev/v1alpha1"),
            ("kind", "Environment"),
            ("name", "prod"),
            ("uid", "uid-of-prod"),
        ] {
            assert_eq!(regarding[field], want, "{event}");
        }
        let note = event["note"].as_str().unwrap();
        assert!(note.contains("what the log says"), "{note}");
        let (method, event) = heard.recv().await.unwrap();
        assert_eq!(
            (method, &event["series"]["count"]),
            (Method::PATCH, &2.into())
        );
        stop.cancel();
        tasks.ended().await;
    }
}
