#![expect(clippy::disallowed_methods, reason = "reads the clock")]

//! Sends the test message that an annotation asks for, once for each value of it.

use jiff::Timestamp;
use kube::{ResourceExt as _, runtime::events::EventType};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use crate::{
    api::TEST_ANNOTATION,
    delivery::{
        history::{self, Attempt},
        setting_worker::{Done, SettingWorker},
        status_writer::WriteDue,
    },
    http::{
        destination::DestinationKind,
        outcome::{Outcome, Reason},
        sender::{Outgoing, Receipt},
    },
    message::{kosli, slack},
    snapshot::event::base32,
};

impl SettingWorker {
    /// Sends a test message if one is asked for that was not answered yet.
    pub(super) async fn start_test(&mut self, tasks: &mut JoinSet<Done>) {
        if self.testing || self.pen.stands_back_until().is_some() {
            return;
        }
        let request = {
            let setting = self.setting.borrow();
            let asked = setting.annotations().get(TEST_ANNOTATION);
            asked.map(|asked| asked.chars().take(256).collect::<String>())
        };
        let Some(request) = request.filter(|request| {
            !request.is_empty() && self.status.last_handled_test.as_ref() != Some(request)
        }) else {
            return;
        };
        if self.test_seen.as_ref() != Some(&request) {
            // Whoever asks for a test may just have changed the Secret.
            self.test_seen = Some(request.clone());
            self.read_destination().await;
        }
        let Some(destination) = self.destination.clone() else {
            return; // answered when there is one
        };
        let environments = self.names.as_deref().cloned();
        let environments = environments.unwrap_or_else(|| {
            self.lanes
                .iter()
                .map(|lane| lane.cursor.environment.clone())
                .collect()
        });
        let installation = self.office.installation.clone();
        let hash = Sha256::digest(format!("{}\n{request}", self.uid));
        let id = format!("test-{}", base32(&hash));
        let now = Timestamp::now();
        let body = match self.wish.kind {
            DestinationKind::Slack => {
                slack::test(&installation, &self.title(), &environments).to_body()
            }
            DestinationKind::Webhook => {
                let environment = environments.first().map_or("", String::as_str);
                kosli::test_body(&installation, environment, now)
            }
        };
        let courier = self.office.courier.clone();
        self.testing = true;
        tasks.spawn(async move {
            let outgoing = Outgoing {
                id: id.clone(),
                body: body.into(),
                timestamp: now,
            };
            let receipt = courier.deliver(&destination, &outgoing).await;
            Done::Tested {
                request,
                id,
                receipt,
            }
        });
    }

    pub(super) fn tested(&mut self, request: String, id: String, receipt: &Receipt) {
        self.testing = false;
        self.status.last_handled_test = Some(request);
        self.pen.ask(WriteDue::Soon);
        let attempt = Attempt {
            id,
            snapshot: None,
            attempts: 1,
            time: Timestamp::now(),
        };
        match &receipt.outcome {
            Outcome::Delivered { .. } => {
                history::delivered(&mut self.status, attempt, receipt.status, receipt.latency);
                self.pulse.retry_now(); // the destination is well: what waits needn't
                let note = "the test message was delivered".to_owned();
                self.publish(EventType::Normal, "TestDelivered", note);
            }
            failed => {
                let (reason, message) =
                    (failed.reason().map_or("", Reason::as_str), failed.message());
                history::failed(&mut self.status, attempt, reason, message);
                self.publish(EventType::Warning, "TestFailed", message.to_owned());
            }
        }
        self.note_denied(&receipt.outcome);
    }
}
