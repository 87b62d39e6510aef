#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Which logs a setting follows: a lane is opened for every environment that it asks for and may see, where that begins
//! to matter, and ended when it doesn't any more.

use std::collections::BTreeMap;

use kube::{Api, ResourceExt as _};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::{
    api::{Environment, setting::Cursor},
    cluster::pod_view::version,
    delivery::{
        history::SkippedEntries,
        outbox::{CursorStart, is_older, start},
        setting_worker::{SettingWorker, WRITE_TIMEOUT},
        status_writer::WriteDue,
        visibility::reach,
    },
    snapshot::{
        environments::EnvironmentInfo,
        log::{EntryMeta, LogError},
    },
};

/// So many entries are counted to say what is skipped.
const COUNTED_AT_END: usize = 2_000;

impl SettingWorker {
    /// Makes a lane for every environment that is asked for and may be seen, and ends those of others. True if there is
    /// more to send.
    pub(super) async fn place(&mut self) -> bool {
        let names = self.names.clone();
        let all = self.office.environments.all();
        let (wanted, amiss) = reach(names.as_deref(), &all, &self.namespace);
        self.amend(|it| it.environments = amiss);
        self.end_lanes(names.as_deref(), &all).await;
        let mut complete = true;
        if let Err(error) = self.finish_lanes().await {
            warn!(setting = %self.title(), %error, "can't tell what is left of a deleted environment; trying again");
            complete = false;
        }
        let mut news = false;
        self.starts
            .retain(|uid, _| wanted.iter().any(|(_, known)| known.uid == *uid));
        for (name, known) in wanted {
            if self.lanes.get(&known.uid).is_none() {
                // Decided now, even if it can't be carried out yet: what was asked for then counts.
                let start = self.start(known);
                let start = *self.starts.entry(known.uid.clone()).or_insert(start);
                let Some((head, _)) = known.head else {
                    complete = false; // its log is being read
                    continue;
                };
                match self.first_cursor(name, known, head, start).await {
                    Ok(cursor) => {
                        debug!(setting = %self.title(), environment = name, index = cursor.index, "starts");
                        self.lanes.open(cursor);
                        self.starts.remove(&known.uid);
                        self.pen.ask(WriteDue::Soon);
                    }
                    Err(error) => {
                        warn!(setting = %self.title(), environment = name, %error, "can't place the cursor; trying again");
                        complete = false;
                        continue;
                    }
                }
            }
            let Some((head, _)) = known.head else {
                complete = false;
                continue;
            };
            match self.compare(name, &known.uid, head).await {
                Ok(more) => news |= more,
                Err(error) => {
                    warn!(setting = %self.title(), environment = name, %error, "can't compare the cursor with the log; trying again");
                    complete = false;
                }
            }
        }
        self.complete = complete;
        if complete {
            self.pen.cursors_placed();
        }
        news
    }

    /// Takes up where a log ends now; true if that is further on. A cursor that is ahead of it was lost its log: it starts
    /// at the head.
    async fn compare(&mut self, name: &str, uid: &str, head: i64) -> Result<bool, LogError> {
        let Some(lane) = self.lanes.get_mut(uid) else {
            return Ok(false);
        };
        let Cursor { index, ordinal, .. } = lane.cursor;
        let reached = index + i64::from(ordinal > 0);
        if reached <= head || lane.busy {
            let news = lane.head < head;
            lane.head = lane.head.max(head);
            return Ok(news);
        }
        let cursor = Cursor {
            index: index.min(head),
            ordinal: 0,
            untold: None, // of another log
            ..lane.cursor.clone()
        };
        // Another replica may have appended and sent what ours has not heard of yet.
        let logbook = &self.office.logbook;
        if logbook.read_hash(name, uid, reached).await?.is_some() {
            return Ok(false);
        }
        warn!(setting = %self.title(), environment = name, index, head, "the cursor is ahead of the log; starting at its head");
        self.lanes.open(cursor).head = head;
        let skipped = SkippedEntries {
            from: head,
            to: head,
            count: -1,
            reason: "CursorReset",
        };
        self.note_skipped(name, &[skipped]);
        Ok(false)
    }

    /// Where sending starts in an environment that this setting hears of for the first time.
    fn start(&self, known: &EnvironmentInfo) -> CursorStart {
        start(
            self.pen.written().observed_generation,
            self.spec_generation.unwrap_or(1),
            known.generation,
        )
    }

    async fn first_cursor(
        &self,
        name: &str,
        known: &EnvironmentInfo,
        head: i64,
        start: CursorStart,
    ) -> Result<Cursor, LogError> {
        let (created, version) = {
            let setting = self.setting.borrow();
            let created = setting
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second());
            let version = version(setting.metadata.resource_version.as_deref().unwrap_or("0"));
            (created, version)
        };
        let index = if start == CursorStart::AtHead {
            head
        } else {
            let entries = self.office.logbook.entries(name, &known.uid).await?;
            let older = |line: &&EntryMeta| {
                is_older((line.created.as_second(), line.version), (created, version))
            };
            let aged = entries
                .iter()
                .rfind(older)
                .filter(|_| start == CursorStart::AtAge);
            aged.or(entries.first()).map_or(head, |line| line.index)
        };
        Ok(Cursor {
            environment: name.to_owned(),
            environment_uid: known.uid.clone(),
            index,
            ordinal: 0,
            untold: None,
        })
    }

    /// Ends the lanes of environments that are not asked for any more or may not be seen; those of deleted ones are
    /// finished first, if that doesn't take too long.
    async fn end_lanes(
        &mut self,
        names: Option<&Vec<String>>,
        all: &BTreeMap<String, EnvironmentInfo>,
    ) {
        let failing = self.pulse.trouble.is_some() && !self.is_suspended();
        let failing = failing.then_some(self.wish.max_age);
        let now = self.now();
        let ended = self.lanes.ended(names, all, &self.namespace, failing, now);
        for (uid, reason) in ended {
            self.end_lane(&uid, reason).await;
        }
    }

    /// Ends the lanes of deleted environments in which nothing is left to send.
    async fn finish_lanes(&mut self) -> Result<(), LogError> {
        let api: Api<Environment> = Api::all(self.office.client.clone());
        let through = self.lanes.iter().filter(|lane| lane.is_through());
        let through: Vec<_> = through.map(|lane| lane.cursor.clone()).collect();
        for cursor in through {
            let (environment, uid) = (cursor.environment, cursor.environment_uid);
            // Where its log ends may have escaped us, and it may live without our having heard of it.
            let found = timeout(WRITE_TIMEOUT, api.get_metadata_opt(&environment));
            let found = found.await.map_err(|_| LogError::Timeout)??;
            if found.is_some_and(|found| found.uid().as_deref() == Some(uid.as_str())) {
                continue;
            }
            let entries = self.office.logbook.entries(&environment, &uid).await?;
            let head = entries.last().map(|entry| entry.index);
            let Some(lane) = self.lanes.get_mut(&uid) else {
                continue;
            };
            lane.head = lane.head.max(head.unwrap_or(0));
            if lane.is_through() {
                self.lanes.close(&uid);
                self.pen.ask(WriteDue::Soon);
            }
        }
        Ok(())
    }

    /// Ends a lane, and says what was not sent, if anything was to be.
    async fn end_lane(&mut self, uid: &str, reason: &'static str) {
        let mut budget = COUNTED_AT_END;
        let all = self.count(uid, &mut budget).await;
        let (waiting, _) = self.waiting_in(uid).await;
        let Some(lane) = self.lanes.close(uid) else {
            return;
        };
        self.pen.ask(WriteDue::Soon);
        let count = match waiting {
            0 if all => return,
            count if all => i64::try_from(count).unwrap_or(i64::MAX),
            _ => -1,
        };
        let skipped = SkippedEntries {
            from: lane.cursor.index + 1,
            to: lane.head,
            count,
            reason,
        };
        self.note_skipped(&lane.cursor.environment, &[skipped]);
    }
}
