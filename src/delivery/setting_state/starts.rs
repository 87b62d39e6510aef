//! Where the cursor of each environment starts.

use std::time::Duration;

use tracing::{debug, warn};

use crate::{
    api::{
        condition,
        environment::EnvironmentId,
        notification_setting::{Cursor, StartDecision, StartReason},
        start_from::StartFrom,
    },
    backoff,
    cluster::pod_view::version,
    delivery::{
        setting_state::{Action, Now, SettingState, StartListing},
        start_position::{self, Age, Handled},
        status_writer::WriteDue,
    },
    snapshot::{environments::EnvironmentInfo, log::EntryMeta},
};

/// At most so long after a log was listed in vain it is listed again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl SettingState {
    /// Decides why an environment starts where it does, once.
    pub(super) fn decide_start(&mut self, name: &str, info: &EnvironmentInfo) {
        let decided = |start: &StartDecision| start.environment_uid == info.uid;
        if self.status.starts.iter().any(decided) {
            return;
        }
        let written = self.writer.written();
        let handled = match written.observed_generation {
            None => Handled::Never,
            Some(generation) => Handled::Before {
                decided: written.starts_decided_time,
                same_spec: generation == self.subscription.generation,
            },
        };
        let reason = start_position::reason(handled, info, self.start_from());
        debug!(setting = %self.title, environment = name, ?reason, "decided where to start");
        self.status.starts.push(StartDecision {
            environment: name.to_owned(),
            environment_uid: info.uid.clone(),
            index: None,
            reason,
        });
        self.writer.ask(WriteDue::Soon);
    }

    /// Opens the queue of an environment if its start can be found now, or lists the log for it. Nothing is done before it
    /// is known where the log ends: there may be no log yet, and when it is heard of, this is tried again.
    pub(super) fn try_start(&mut self, uid: &str, now: Now) {
        let Some(decision) = self.open_start(uid) else {
            return;
        };
        let reason = decision.reason;
        let environment = EnvironmentId::new(&decision.environment, uid);
        let info = self.environments.get(&environment.name);
        let info = info.filter(|info| info.uid == uid);
        let Some((head, _)) = info.and_then(|info| info.head.get()) else {
            return;
        };
        match reason {
            StartReason::EnvironmentAdded | StartReason::CursorReset => {
                self.start_at(uid, head, head);
            }
            StartReason::NewSetting | StartReason::StartFrom | StartReason::NewEnvironment => {
                let listing = self.listing.get(uid);
                if listing.is_none_or(|listing| listing.is_due(now)) {
                    let listing = self.listing.entry(uid.to_owned()).or_default();
                    listing.again = None;
                    self.actions.push(Action::ListEntries(environment));
                }
            }
        }
    }

    /// What the spec says of the start of a new setting.
    fn start_from(&self) -> StartFrom {
        self.setting.spec.start_from.unwrap_or(StartFrom::Now)
    }

    fn open_start(&self, uid: &str) -> Option<&StartDecision> {
        let mut starts = self.status.starts.iter();
        starts.find(|start| start.environment_uid == uid && self.queues.get(uid).is_none())
    }

    pub(super) fn entries_listed(
        &mut self,
        uid: &str,
        result: Result<Vec<EntryMeta>, String>,
        now: Now,
    ) {
        let Some(listing) = self.listing.remove(uid) else {
            return;
        };
        let Some(decision) = self.open_start(uid) else {
            return;
        };
        let meta = &self.setting.metadata;
        let created = meta.creation_timestamp.as_ref();
        let setting = Age {
            second: created.map_or(0, |time| time.0.as_second()),
            version: version(meta.resource_version.as_deref().unwrap_or("0")),
        };
        let entries = result.unwrap_or_else(|why| {
            warn!(setting = %self.title, environment = decision.environment, why, "can't find where to start; trying again");
            vec![]
        });
        let index = start_position::index(decision.reason, &entries, setting, self.start_from());
        match index.zip(entries.last()) {
            Some((index, last)) => {
                let head = last.index;
                self.start_at(uid, index, head);
                self.note_starts_decided(now);
            }
            // Its log can't be read, or is empty though an end was heard of.
            None => {
                let failures = listing.failures.saturating_add(1);
                let pause = backoff::delay(failures, self.seed).min(LONGEST_PAUSE);
                let again = Some(now.moment + pause);
                let listing = StartListing { failures, again };
                self.listing.insert(uid.to_owned(), listing);
            }
        }
    }

    /// Opens the queue of an environment at this snapshot.
    pub(super) fn start_at(&mut self, uid: &str, index: i64, head: i64) {
        let Some(decision) = self
            .status
            .starts
            .iter_mut()
            .find(|start| start.environment_uid == uid)
        else {
            return;
        };
        decision.index = Some(index);
        let environment = decision.environment.clone();
        debug!(setting = %self.title, environment, index, "starts");
        let queue = self.queues.open(Cursor {
            environment,
            environment_uid: uid.to_owned(),
            index,
            ..Cursor::default()
        });
        queue.head = queue.head.max(head);
        queue.head_known = true;
        self.listing.remove(uid);
        self.writer.ask(WriteDue::Soon);
    }

    pub(super) fn starts_are_known(&self) -> bool {
        let mut starts = self.status.starts.iter();
        starts.all(|start| start.index.is_some())
    }

    /// Every environment that the spec asks for has its decision: what is created later is new.
    pub(super) fn note_starts_decided(&mut self, now: Now) {
        if self.starts_are_known() {
            self.writer.starts_known();
        }
        let written = self.writer.written();
        let same_spec = written.observed_generation == Some(self.subscription.generation);
        if !same_spec || self.status.starts_decided_time.is_none() {
            self.status.starts_decided_time = Some(condition::whole_seconds(now.wall));
        }
    }
}
