//! The test message that an annotation asks for.

use crate::{
    api::TEST_ANNOTATION,
    delivery::{
        environment_queue::Token,
        message_history::{self, Attempt},
        reasons::EventReason,
        setting_state::{Action, Now, SettingState},
        status_writer::WriteDue,
    },
    http::{
        response::{Outcome, Reason},
        sender::Receipt,
    },
};

impl SettingState {
    pub(super) fn start_test(&mut self, now: Now) {
        let asked = self.setting.requested(TEST_ANNOTATION);
        let asked = asked.filter(|asked| self.status.last_handled_test.as_ref() != Some(asked));
        let Some(request) = asked else { return };
        if self.stopping || self.writer.stands_back_until().is_some() {
            return;
        }
        if self.test.is_new(&request) {
            // Whoever asks for a test may just have changed the Secret.
            self.read_destination();
        }
        if !self.test.may_start() || self.destination.reading || !self.destination_is_fresh(now) {
            return;
        }
        let Some(destination) = self.destination.value.clone() else {
            return; // it is sent when there is a destination
        };
        let token = self.token();
        self.test.wait(request, token);
        self.actions.push(Action::TakeTurn(token, destination));
    }

    pub(super) fn test_turn_came(&mut self, token: Token, result: Result<(), String>, now: Now) {
        let destination = self.destination.value.clone();
        let (Ok(()), Some(destination)) = (&result, destination) else {
            self.test.cancel();
            if let Err(why) = result {
                self.note_denied(now, Some(Reason::DestinationDenied), &why);
                self.destination.value = None;
            }
            self.actions.push(Action::ReleaseTurn(token));
            return;
        };
        let environments = match self.subscription.environments.as_deref() {
            Some(names) => names.clone(),
            None => {
                let queues = self.queues.iter();
                let names = queues.map(|(_, queue)| queue.cursor.environment.clone());
                names.collect()
            }
        };
        let uid = self.setting.metadata.uid.as_deref().unwrap_or_default();
        let composed = self.test.compose(
            &self.installation,
            (uid, &self.title),
            self.subscription.kind,
            &environments,
            now.wall,
        );
        if let Some((id, body)) = composed {
            let body = body.into();
            self.actions
                .push(Action::Send(token, destination, id, body));
        }
    }

    pub(super) fn test_sent(&mut self, token: Token, receipt: &Receipt, now: Now) {
        self.actions.push(Action::ReleaseTurn(token));
        let Some((request, id)) = self.test.finish() else {
            return;
        };
        self.status.last_handled_test = Some(request);
        self.writer.ask(WriteDue::Soon);
        let attempt = Attempt {
            id,
            snapshot: None,
            through: None,
            events: 0,
            attempts: 1,
            time: now.wall,
        };
        let outcome = &receipt.outcome;
        if matches!(outcome, Outcome::Delivered { .. }) {
            message_history::delivered(&mut self.status, attempt, receipt.status, receipt.latency);
            self.retry.retry_now(); // the destination is well: what waits needn't
            let note = "the test message was delivered";
            self.publish(EventReason::TestDelivered, note);
        } else {
            let reason = outcome.reason().map_or("", Reason::as_str);
            message_history::failed(&mut self.status, attempt, reason, outcome.message());
            self.publish(EventReason::TestFailed, outcome.message());
        }
        self.note_denied(now, outcome.reason(), outcome.message());
    }
}
