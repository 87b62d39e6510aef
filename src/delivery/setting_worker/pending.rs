//! Counts what waits, for the status: a piece at a time, and each entry of a log once.

use jiff::Timestamp;

use crate::{
    api::setting::Cursor,
    delivery::{setting_worker::SettingWorker, status_writer::WriteDue},
};

/// So many entries of the log are counted before a write of the status; if more wait, the next write goes on.
const COUNTED: usize = 256;

impl SettingWorker {
    /// How many events wait, and when the oldest of them happened.
    pub(super) async fn count_pending(&mut self) -> (i64, Option<Timestamp>) {
        let mut budget = COUNTED;
        let mut pending = 0;
        let mut oldest: Option<Timestamp> = None;
        for uid in self.lanes.uids() {
            let all = self.count(&uid, &mut budget).await;
            let (count, time) = self.waiting_in(&uid).await;
            // A gap that is still to be told waits like an event.
            let gap = self
                .lanes
                .get(&uid)
                .and_then(|lane| lane.cursor.unreported_gap.as_ref());
            pending += count + usize::from(gap.is_some());
            let gap = gap.map(|gap| gap.time);
            oldest = [oldest, time, gap].into_iter().flatten().min();
            if !all {
                self.pen.ask(WriteDue::Soon); // the rest is counted for the next write
            }
        }
        (i64::try_from(pending).unwrap_or(i64::MAX), oldest)
    }

    /// Counts what waits in a lane, with so many reads at most; false if it takes more.
    pub(super) async fn count(&mut self, uid: &str, budget: &mut usize) -> bool {
        while let Some(lane) = self.lanes.get_mut(uid) {
            lane.backlog.pass(lane.cursor.index);
            let Some(next) = lane.backlog.next(lane.head) else {
                break;
            };
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let environment = lane.cursor.environment.clone();
            let Ok(read) = self.office.logbook.read(&environment, uid, next).await else {
                *budget = 0; // it won't tell the next one either, and each may take half a minute
                return false;
            };
            let (events, time) = read.map_or((0, Timestamp::UNIX_EPOCH), |snapshot| {
                (self.wish.count(&snapshot, 0), snapshot.time)
            });
            if let Some(lane) = self.lanes.get_mut(uid) {
                lane.backlog.put(next, events, time);
            }
        }
        true
    }

    /// How many of the events that were counted wait in a lane, and since when.
    pub(super) async fn waiting_in(&self, uid: &str) -> (usize, Option<Timestamp>) {
        let Some(lane) = self.lanes.get(uid) else {
            return (0, None);
        };
        let Cursor {
            environment,
            index,
            ordinal,
            ..
        } = &lane.cursor;
        let mut done = 0;
        if *ordinal > 0
            && let Ok(Some(snapshot)) = self.office.logbook.read(environment, uid, index + 1).await
        {
            let told = usize::try_from(*ordinal).unwrap_or(usize::MAX);
            done = self.wish.count(&snapshot, 0) - self.wish.count(&snapshot, told);
        }
        lane.backlog.sum((index + 1, done))
    }
}
