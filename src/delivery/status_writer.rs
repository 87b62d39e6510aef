//! When a setting's status is written, and what an answer to that means: whether a conflict is someone's edit of the spec
//! or the metadata, a write of our own of which we never heard, or another writer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::{NotificationSettingStatus, setting::Cursor},
    cluster::pod_view::version,
    delivery::environment_queue::Counted,
    time::Moment,
};

/// Writes of a status are at least so far apart, unless the window is full.
const INTERVAL: Duration = Duration::from_secs(1);
/// A cursor that moved over nothing of interest is written after so long.
const LAZY_INTERVAL: Duration = Duration::from_secs(60);
/// The longest pause after writes that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After another writer of the status has shown up it is left alone for so long.
const STAND_BACK: Duration = Duration::from_secs(60);
/// After so many conflicts in a row the object is changed too often for a write on its version.
const CROWDED: u32 = 4;
/// So many writes whose answer was lost are remembered.
const UNHEARD: usize = 16;
/// The first write after a new spec waits so long for cursors that can't be placed yet.
const PLACING: Duration = Duration::from_secs(8);

/// How soon the status should be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteDue {
    /// It says all there is to say.
    #[default]
    Never,
    /// Some time.
    Lazily,
    /// As soon as may be.
    Soon,
}

/// A write of the status: its cursors, and how far each lane had been sent ahead then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusWrite {
    /// The cursors.
    pub cursors: Vec<Cursor>,
    /// What they count.
    pub counted: Counted,
}

/// What is found after a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictOutcome {
    /// The status that we wrote last: only the spec or the metadata changed.
    Same,
    /// One of ours whose answer was lost.
    Ours(StatusWrite),
    /// Someone else's.
    Others,
}

/// What writes the status of one setting.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    /// The status as the API server has it.
    written: NotificationSettingStatus,
    /// The version of the object that it was read or written at.
    version: Option<String>,
    due: WriteDue,
    wrote_at: Option<Moment>,
    /// Not before this.
    after: Moment,
    /// The pause after the next write that fails.
    pause: Duration,
    /// Not before this either, or before all cursors are placed.
    placing: Option<Moment>,
    /// Another writer is left alone until then.
    standing_back: Option<Moment>,
    busy: bool,
    conflicts: u32,
    /// Writes that may have been carried out though we never heard of it.
    unheard: Vec<StatusWrite>,
}

impl StatusWriter {
    /// A pen for a setting that was read with this status.
    pub fn new(status: NotificationSettingStatus, version: Option<String>, now: Moment) -> Self {
        Self {
            written: status,
            version,
            due: WriteDue::Never,
            wrote_at: None,
            after: now,
            pause: INTERVAL,
            placing: None,
            standing_back: None,
            busy: false,
            conflicts: 0,
            unheard: vec![],
        }
    }

    /// The status as the API server has it.
    pub fn written(&self) -> &NotificationSettingStatus {
        &self.written
    }

    /// The version of the object to write on.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether the setting was ever handled.
    pub fn has_written(&self) -> bool {
        self.written.observed_generation.is_some()
    }

    /// There is something new to say.
    pub fn ask(&mut self, due: WriteDue) {
        self.due = self.due.max(due);
    }

    /// Cursors are being placed for a new spec: they are waited for, but not for ever.
    pub fn wait_for_cursors(&mut self, now: Moment) {
        self.placing = Some(now + PLACING);
        self.due = WriteDue::Soon;
    }

    /// All cursors that can be placed are.
    pub fn cursors_placed(&mut self) {
        self.placing = None;
    }

    /// Whether nothing is being written or to be written soon.
    pub fn rests(&self) -> bool {
        self.due != WriteDue::Soon && !self.busy
    }

    /// When the status is to be written next. `full`: sending waits for it.
    pub fn next_write(&self, full: bool) -> Option<Moment> {
        if self.busy || self.standing_back.is_some() {
            return None;
        }
        // Not before all cursors are placed that can be: a setting that was handled has none that is missing.
        let earliest = self.after.max(self.placing.unwrap_or(self.after));
        let interval = match self.due {
            WriteDue::Never => return None,
            _ if full => return Some(earliest),
            WriteDue::Lazily => LAZY_INTERVAL,
            WriteDue::Soon => INTERVAL,
        };
        Some(
            self.wrote_at
                .map_or(earliest, |at| (at + interval).max(earliest)),
        )
    }

    /// Nothing is written before this, however urgent it is.
    pub fn earliest(&self) -> Moment {
        self.after
    }

    /// Whether the status has to be written before the program may stop. `ahead`: something was sent of which it doesn't
    /// know.
    pub fn owes(&self, ahead: bool) -> bool {
        let placing = self.placing.is_some() && !self.has_written();
        (self.due != WriteDue::Never || ahead) && !placing && self.standing_back.is_none()
    }

    /// The status is put together: what is asked for from here on is for the next write.
    pub fn take_up(&mut self, now: Moment) {
        self.due = WriteDue::Never;
        self.wrote_at = Some(now);
        self.placing = None;
    }

    /// A write begins.
    pub fn begin(&mut self, attempt: StatusWrite) {
        if self.unheard.len() >= UNHEARD {
            self.unheard.remove(1); // the first is the likeliest to have been carried out, and then the last
        }
        self.unheard.push(attempt);
        self.busy = true;
    }

    /// A write was answered, in whatever way.
    pub fn answered(&mut self) {
        self.busy = false;
    }

    /// Whether someone changes the object so often that a write on the version it was read at hardly ever succeeds.
    pub fn is_crowded(&self) -> bool {
        self.conflicts >= CROWDED
    }

    /// The write that succeeds whatever else of the object changes meanwhile, as long as it is the same object and its
    /// cursors are those that were written last: what a conflict would lead to in the end, in one step. A JSON patch.
    pub fn patch(&self, uid: &str, status: &NotificationSettingStatus) -> Value {
        let cursors = &self.written.cursors;
        // For `test`, null means that there is nothing at that path; an empty list is not written at all.
        let same = if self.written == NotificationSettingStatus::default() {
            json!({"op": "test", "path": "/status", "value": null})
        } else if cursors.is_empty() {
            json!({"op": "test", "path": "/status/cursors", "value": null})
        } else {
            json!({"op": "test", "path": "/status/cursors", "value": cursors})
        };
        json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            same,
            {"op": "add", "path": "/status", "value": status},
        ])
    }

    /// The API server has this status.
    pub fn accepted(&mut self, status: NotificationSettingStatus, version: Option<String>) {
        self.written = status;
        self.version = version;
        self.pause = INTERVAL;
        self.conflicts = 0;
        self.unheard.clear();
    }

    /// The write failed; whether it was carried out is not known.
    pub fn failed(&mut self, now: Moment) {
        self.conflicts = 0;
        self.after = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.due = WriteDue::Soon;
    }

    /// The object was changed since it was read: it is read again, and written again at once.
    pub fn conflicted(&mut self, now: Moment) {
        self.due = WriteDue::Soon;
        self.wrote_at = None;
        // Whoever edits it all the time must not make us run in circles.
        self.conflicts += 1;
        self.after =
            now + Duration::from_millis(50) * self.conflicts.saturating_sub(CROWDED).min(20);
    }

    /// What there is could not be read.
    pub fn could_not_read(&mut self, now: Moment) {
        self.after = now + INTERVAL;
    }

    /// The setting is gone: there is nothing to write on.
    pub fn gone(&mut self) {
        self.due = WriteDue::Never;
    }

    /// Judges what is found after a conflict.
    pub fn found(
        &mut self,
        status: &NotificationSettingStatus,
        version: Option<String>,
    ) -> ConflictOutcome {
        self.version = version;
        let cursors = sorted(&status.cursors);
        if cursors == sorted(&self.written.cursors) {
            self.written = status.clone();
            return ConflictOutcome::Same;
        }
        let ours = |attempt: &&StatusWrite| sorted(&attempt.cursors) == cursors;
        match self.unheard.iter().find(ours) {
            Some(attempt) => ConflictOutcome::Ours(attempt.clone()),
            None => ConflictOutcome::Others,
        }
    }

    /// The watch has shown the object. If only its spec or metadata changed, the next write is on that version; another
    /// one's status is met by a conflict.
    pub fn shown(&mut self, cursors: &[Cursor], shown: Option<String>) {
        let number = |text: Option<&str>| version(text.unwrap_or_default());
        if number(shown.as_deref()) > number(self.version())
            && sorted(cursors) == sorted(&self.written.cursors)
        {
            self.version = shown;
        }
    }

    /// Leaves the status alone for a while: another one writes it.
    pub fn stand_back(&mut self, now: Moment) {
        self.standing_back = Some(now + STAND_BACK);
    }

    /// The same, a little longer: what there is could not be read.
    pub fn stand_back_briefly(&mut self, now: Moment) {
        self.standing_back = Some(now + INTERVAL);
    }

    /// Until when another writer is left alone.
    pub fn stands_back_until(&self) -> Option<Moment> {
        self.standing_back
    }

    /// Goes on from the status that another writer left.
    pub fn come_back(&mut self, status: NotificationSettingStatus, version: Option<String>) {
        self.standing_back = None;
        self.version = version;
        self.written = status;
        self.unheard.clear();
        self.due = WriteDue::Soon;
    }
}

fn sorted(cursors: &[Cursor]) -> Vec<Cursor> {
    let mut cursors = cursors.to_vec();
    cursors.sort_by(|a, b| a.environment_uid.cmp(&b.environment_uid));
    cursors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn status(indexes: &[i64]) -> NotificationSettingStatus {
        let cursor = |(number, index): (usize, &i64)| Cursor {
            environment: format!("env-{number}"),
            environment_uid: number.to_string(),
            index: *index,
            ordinal: 0,
            untold: None,
        };
        NotificationSettingStatus {
            cursors: indexes.iter().enumerate().map(cursor).collect(),
            observed_generation: Some(1),
            ..NotificationSettingStatus::default()
        }
    }

    fn attempt(indexes: &[i64]) -> StatusWrite {
        StatusWrite {
            cursors: status(indexes).cursors,
            counted: vec![],
        }
    }

    fn pen() -> StatusWriter {
        StatusWriter::new(status(&[1, 1]), Some("10".to_owned()), at(0))
    }

    #[test]
    fn what_is_urgent_is_written_a_second_after_the_last_write_and_at_once_when_sending_waits() {
        let mut pen = pen();
        assert_eq!((pen.next_write(false), pen.next_write(true)), (None, None));
        pen.ask(WriteDue::Lazily);
        assert_eq!(
            pen.next_write(false),
            Some(at(0)),
            "nothing was written yet"
        );
        pen.take_up(at(5));
        assert_eq!(pen.next_write(true), None, "nothing new");
        pen.ask(WriteDue::Lazily);
        assert_eq!(pen.next_write(false), Some(at(65)));
        pen.ask(WriteDue::Soon);
        pen.ask(WriteDue::Lazily);
        assert_eq!(pen.next_write(false), Some(at(6)));
        assert_eq!(pen.next_write(true), Some(at(0)));
        pen.begin(attempt(&[2, 1]));
        assert_eq!(pen.next_write(true), None, "one at a time");
    }

    #[test]
    fn a_new_spec_waits_for_its_cursors_but_not_for_ever() {
        let mut pen = StatusWriter::new(NotificationSettingStatus::default(), None, at(0));
        pen.wait_for_cursors(at(1));
        assert_eq!(pen.next_write(true), Some(at(9)));
        assert!(
            !pen.owes(true),
            "a setting that was never handled owes nothing"
        );
        pen.cursors_placed();
        assert_eq!(pen.next_write(false), Some(at(0)));
        assert!(pen.owes(false));
    }

    #[test]
    fn writes_that_fail_are_tried_again_after_longer_and_longer_pauses() {
        let mut pen = pen();
        let mut pauses = vec![];
        for _ in 0..7 {
            pen.failed(at(100));
            pauses.push((pen.next_write(true).unwrap() - at(100)).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        pen.accepted(status(&[1, 1]), Some("11".to_owned()));
        pen.failed(at(200));
        assert_eq!(pen.next_write(true), Some(at(201)));
    }

    #[test]
    fn conflicts_are_answered_at_once_and_after_some_in_a_row_with_a_little_pause() {
        let mut pen = pen();
        let mut pauses = vec![];
        for _ in 0..30 {
            pen.conflicted(at(100));
            pauses.push((pen.next_write(true).unwrap() - at(100)).as_millis());
        }
        assert_eq!(pauses[..6], [0, 0, 0, 0, 50, 100]);
        assert_eq!(pauses[29], 1_000);
    }

    #[test]
    fn an_object_that_is_changed_all_the_time_is_written_whatever_its_version_if_its_cursors_are_ours()
     {
        let mut pen = pen();
        for crowded in [false, false, false, false, true, true] {
            assert_eq!(pen.is_crowded(), crowded);
            pen.conflicted(at(1));
        }
        let next = status(&[2, 1]);
        assert_eq!(
            pen.patch("u", &next),
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/status/cursors", "value": status(&[1, 1]).cursors},
                {"op": "add", "path": "/status", "value": next},
            ])
        );
        let test = |written| StatusWriter::new(written, None, at(0)).patch("u", &next)[1].clone();
        for (written, path) in [
            (NotificationSettingStatus::default(), "/status"),
            (status(&[]), "/status/cursors"),
        ] {
            let want = json!({"op": "test", "path": path, "value": null});
            assert_eq!(test(written), want);
        }
        pen.failed(at(2));
        assert!(
            !pen.is_crowded(),
            "where it may not be patched, the other way is tried again"
        );
    }

    #[test]
    fn after_a_conflict_a_status_is_the_same_or_ours_or_another_writers() {
        let mut pen = pen();
        pen.begin(attempt(&[2, 1]));
        pen.begin(attempt(&[2, 3]));
        let mut swapped = status(&[1, 1]);
        swapped.cursors.reverse();
        for (there, want) in [
            (swapped, ConflictOutcome::Same),
            (status(&[2, 1]), ConflictOutcome::Ours(attempt(&[2, 1]))),
            (status(&[2, 3]), ConflictOutcome::Ours(attempt(&[2, 3]))),
            (status(&[2, 2]), ConflictOutcome::Others),
            (status(&[1]), ConflictOutcome::Others),
        ] {
            assert_eq!(pen.found(&there, Some("12".to_owned())), want, "{there:?}");
            assert_eq!(pen.version(), Some("12"));
        }
    }

    #[test]
    fn of_writes_that_were_never_answered_the_first_and_the_last_are_remembered() {
        let mut pen = pen();
        for index in 2..=40 {
            pen.begin(attempt(&[index, 1]));
        }
        for (index, known) in [(2, true), (3, false), (25, false), (26, true), (40, true)] {
            let found = pen.found(&status(&[index, 1]), None);
            assert_eq!(matches!(found, ConflictOutcome::Ours(_)), known, "{index}");
        }
    }

    #[test]
    fn the_version_that_the_watch_shows_is_taken_if_the_status_is_ours() {
        let mut pen = pen();
        for (indexes, shown, version) in [
            (&[1, 1], "9", "10"),
            (&[1, 1], "11", "11"),
            (&[2, 1], "12", "11"),
        ] {
            pen.shown(&status(indexes).cursors, Some(shown.to_owned()));
            assert_eq!(pen.version(), Some(version));
        }
    }

    #[test]
    fn another_writer_is_left_alone_for_a_minute() {
        let mut pen = pen();
        pen.ask(WriteDue::Soon);
        pen.stand_back(at(10));
        assert_eq!(pen.stands_back_until(), Some(at(70)));
        assert_eq!(pen.next_write(true), None);
        assert!(!pen.owes(true));
        pen.come_back(status(&[5, 5]), Some("20".to_owned()));
        assert_eq!(pen.next_write(true), Some(at(0)));
        assert_eq!(pen.written().cursors[0].index, 5);
    }
}
