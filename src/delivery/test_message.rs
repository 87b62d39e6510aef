//! The test message that an annotation asks for, once for each value of it.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    delivery::environment_queue::Token,
    http::destination::DestinationKind,
    message::{installation::Installation, kosli, slack},
    snapshot::event::base32,
};

/// The test message of one setting.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestMessage {
    state: State,
    /// The request for which the destination was read anew.
    seen: Option<String>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Idle,
    /// Waits for its turn at the destination.
    Waiting { request: String, token: Token },
    Sending {
        request: String,
        token: Token,
        id: String,
    },
}

impl TestMessage {
    /// Whether this request is seen for the first time.
    pub fn is_new(&mut self, request: &str) -> bool {
        let new = self.seen.as_deref() != Some(request);
        if new {
            self.seen = Some(request.to_owned());
        }
        new
    }

    pub fn may_start(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Waits for this turn.
    pub fn wait(&mut self, request: String, token: Token) {
        self.state = State::Waiting { request, token };
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    pub fn waits_for(&self, turn: Token) -> bool {
        matches!(self.state, State::Waiting { token, .. } if token == turn)
    }

    pub fn is_sent_with(&self, turn: Token) -> bool {
        matches!(self.state, State::Sending { token, .. } if token == turn)
    }

    pub fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending { .. })
    }

    /// Gives up what is not on its way yet. The token of the turn that becomes free, if there was one.
    pub fn cancel(&mut self) -> Option<Token> {
        let State::Waiting { token, .. } = self.state else {
            return None;
        };
        self.state = State::Idle;
        Some(token)
    }

    /// The message's id and body. Its turn has come. `setting`: its UID, and its namespace and name.
    pub fn compose(
        &mut self,
        installation: &Installation,
        setting: (&str, &str),
        kind: DestinationKind,
        environments: &[String],
        now: Timestamp,
    ) -> Option<(String, Vec<u8>)> {
        let State::Waiting { request, token } = std::mem::take(&mut self.state) else {
            return None;
        };
        let (uid, title) = setting;
        let hash = Sha256::digest(format!("{uid}\n{request}"));
        let id = format!("test-{}", base32(&hash));
        self.state = State::Sending {
            request,
            token,
            id: id.clone(),
        };
        let body = match kind {
            DestinationKind::Slack => slack::test(installation, title, environments).to_body(),
            DestinationKind::Webhook => {
                let environment = environments.first().map_or("", String::as_str);
                kosli::test_body(installation, environment, now)
            }
        };
        Some((id, body))
    }

    /// It was answered: the request and the message's id.
    pub fn finish(&mut self) -> Option<(String, String)> {
        match std::mem::take(&mut self.state) {
            State::Sending { request, id, .. } => Some((request, id)),
            other => {
                self.state = other;
                None
            }
        }
    }
}
