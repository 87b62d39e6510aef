#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Writes the status of a setting: on the version that it was read at, or on the cursors that it was read with, so that of two
//! who write it one succeeds.

use std::time::Duration;

use http::{Method, Request, header::CONTENT_TYPE};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Resource as _, ResourceExt as _};
use tokio::{task::JoinSet, time::timeout};
use tracing::{debug, warn};

use crate::{
    api::{NotificationSetting, NotificationSettingStatus, condition},
    delivery::{
        conditions::{ConditionInput, tell, trouble},
        outbox::RetryState,
        setting_worker::{Done, SettingWorker, WRITE_TIMEOUT},
        status_writer::{ConflictOutcome, StatusWrite, WriteDue},
    },
    snapshot::log::LogError,
};

impl SettingWorker {
    /// Puts the status together and begins to write it, if it says anything new.
    pub(super) async fn write(&mut self, tasks: &mut JoinSet<Done>) {
        let began = self.now();
        self.pen.take_up(began);
        let (pending, oldest) = self.count_pending().await;
        let (wall, moment) = (Timestamp::now(), self.now());
        let next_attempt = self
            .pulse
            .next_attempt()
            .filter(|_| self.destination.is_some() && !self.is_suspended())
            .map(|at| {
                wall + SignedDuration::try_from(at.saturating_sub(moment)).unwrap_or_default()
            });
        self.status.cursors = self.lanes.cursors();
        self.status.oldest_pending_time = oldest.map(condition::whole_seconds);
        let since = self
            .amiss_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        let facts = ConditionInput {
            generation: self.spec_generation,
            unsound: self.amiss.first().map(|why| (why, since)),
            trouble: self.pulse.trouble.as_ref(),
            next_attempt,
            suspended: self.is_suspended(),
            pending,
            now: wall,
        };
        tell(&mut self.status, &facts);
        if self.status == *self.pen.written() {
            return;
        }
        let attempt = StatusWrite {
            cursors: self.status.cursors.clone(),
            counted: self.lanes.counted(),
        };
        self.pen.begin(attempt.clone());
        let request = self.request();
        let client = self.office.client.clone();
        tasks.spawn(async move {
            let write = client.request::<NotificationSetting>(request);
            let late = || kube::Error::Service("no answer from the API server".into());
            let result = timeout(WRITE_TIMEOUT, write).await;
            let result = result.unwrap_or_else(|_| Err(late())).map(Box::new);
            Done::Written { result, attempt }
        });
    }

    /// The request that writes the status: on the version that it was read at, or, when others change the object all the
    /// time, as a patch that holds whatever they change.
    fn request(&self) -> Request<Vec<u8>> {
        let collection = NotificationSetting::url_path(&(), Some(&self.namespace));
        let path = format!("{collection}/{}/status", self.name);
        let (method, type_, body) = if self.pen.is_crowded() {
            let patch = self.pen.patch(&self.uid, &self.status);
            (
                Method::PATCH,
                "application/json-patch+json",
                serde_json::to_vec(&patch),
            )
        } else {
            let mut object = self.setting.borrow().clone();
            object.metadata.resource_version = self.pen.version().map(str::to_owned);
            object.metadata.managed_fields = None;
            object.status = Some(self.status.clone());
            (Method::PUT, "application/json", serde_json::to_vec(&object))
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, type_)
            .body(body.expect("plain data"))
            .expect("names of objects are parts of paths")
    }

    /// Takes in the answer to a write.
    pub(super) async fn wrote(
        &mut self,
        result: Result<Box<NotificationSetting>, kube::Error>,
        attempt: StatusWrite,
    ) {
        self.pen.answered();
        match result {
            Ok(object) => {
                let version = object.resource_version();
                self.accept(object.status.unwrap_or_default(), version, &attempt);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.conflict().await;
            }
            // The answer to a patch whose test failed; or to a status that is malformed, which is tried again later.
            Err(kube::Error::Api(status)) if status.code == 422 && self.pen.is_crowded() => {
                if self.conflict().await {
                    warn!(setting = %self.title(), error = status.message, "can't patch the status; trying again");
                    let now = self.now();
                    self.pen.failed(now);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {} // the watch will tell
            Err(error) => {
                warn!(setting = %self.title(), %error, "can't write the status; sending stops at the window");
                let now = self.now();
                self.pen.failed(now);
            }
        }
    }

    /// The API server has this status, as it was written by this attempt.
    fn accept(
        &mut self,
        status: NotificationSettingStatus,
        version: Option<String>,
        attempt: &StatusWrite,
    ) {
        let now = self.now();
        self.office.passed.put(&self.uid, status.cursors.clone());
        self.pen.accepted(status, version);
        self.lanes.written(&attempt.counted, now);
        if self.lanes.any_ahead() {
            self.pen.ask(WriteDue::Soon);
        }
    }

    async fn find(&self) -> Result<Option<NotificationSetting>, LogError> {
        let api: Api<NotificationSetting> =
            Api::namespaced(self.office.client.clone(), &self.namespace);
        let found = timeout(WRITE_TIMEOUT, api.get_opt(&self.name)).await;
        let found = found.map_err(|_| LogError::Timeout)??;
        Ok(found.filter(|found| found.uid().as_deref() == Some(&self.uid)))
    }

    /// The object changed since it was read: its spec or metadata, and all is well; or its status, and someone else
    /// writes it: then that one is right, and this one stands back.
    ///
    /// True if all is well.
    async fn conflict(&mut self) -> bool {
        debug!(setting = %self.title(), version = self.pen.version(), "the status was written on an older object than there is");
        let now = self.now();
        self.pen.conflicted(now);
        let found = match self.find().await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.pen.gone(); // it is gone, or another setting of this name
                return false;
            }
            Err(_) => {
                let now = self.now();
                self.pen.could_not_read(now);
                return false;
            }
        };
        let version = found.resource_version();
        let status = found.status.unwrap_or_default();
        match self.pen.found(&status, version.clone()) {
            ConflictOutcome::Same => return true,
            ConflictOutcome::Ours(attempt) => {
                self.accept(status, version, &attempt); // it was written, and only the answer was lost
                self.pen.ask(WriteDue::Soon);
            }
            ConflictOutcome::Others => {
                warn!(setting = %self.title(), "someone else writes this setting's status; standing back for a while");
                let now = self.now();
                self.pen.stand_back(now);
            }
        }
        false
    }

    /// Takes the setting up again where another one left it.
    pub(super) async fn come_back(&mut self) {
        let found = self.find().await;
        let now = self.now();
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return self.pen.stand_back(now), // the watch will tell
            Err(_) => return self.pen.stand_back_briefly(now),
        };
        let version = found.resource_version();
        self.status = found.status.unwrap_or_default();
        self.pen.come_back(self.status.clone(), version);
        let (trouble, attempts) = trouble(&self.status).unzip();
        self.pulse = RetryState::resumed(trouble, attempts.unwrap_or_default());
        // A cursor that was lost altogether is better kept than set anew.
        for cursor in self.status.cursors.clone() {
            self.lanes.open(cursor);
        }
        self.lanes.all_written();
        self.examine().await;
    }
}
