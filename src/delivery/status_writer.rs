//! When a setting's status is written, and what an answer to that means: whether a conflict is someone's edit of the spec
//! or the metadata, a write of our own whose answer was lost, or another writer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::{
        NotificationSettingStatus,
        condition::{MINIMAL_TEXT, shorten, shorten_messages},
        notification_setting::{Cursor, Replay},
    },
    cluster::pod_view::version,
    delivery::environment_queue::AheadCounts,
    time::Moment,
};

/// Writes of a status are at least this far apart, unless sending waits for one.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long deliveries are gathered for one write: within the time that the window of unacknowledged events leaves.
const GATHER: Duration = Duration::from_millis(700);
/// While only a counter moves, the pauses between writes double from the first to the second.
const COUNTER_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A cursor that moved over nothing of interest is written after this long.
const LAZY_INTERVAL: Duration = Duration::from_secs(60);
/// The longest pause after writes that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Another writer of the status is left alone for this long.
const STAND_BACK: Duration = Duration::from_secs(60);
/// After this many conflicts in a row the object is changed too often for a write on its version.
const CROWDED: u32 = 4;
/// At most this many writes whose answer was lost are remembered.
const UNANSWERED: usize = 16;
/// How long the first write for a new spec waits for cursors whose log is still being read, and for its destination.
const STARTING: Duration = Duration::from_secs(2);

/// How soon the status should be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WriteDue {
    /// It says all there is to say.
    #[default]
    Never,
    /// Within a minute: the cursor moved over nothing of interest.
    Lazily,
    /// When a counter has not been written for a while.
    Counter,
    /// A moment after the first message that it does not know of was delivered.
    Delivered,
    /// As soon as may be.
    Soon,
}

/// A write of the status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StatusWrite {
    pub status: NotificationSettingStatus,
    /// How far each queue was ahead of the status before.
    pub counted: AheadCounts,
    pub form: WriteForm,
}

/// How a status is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WriteForm {
    /// The object as it was read or written at this version.
    Replace { version: Option<String> },
    /// A JSON patch, which succeeds whatever else of the object changes meanwhile.
    Patch(Value),
}

/// What the API server makes of a write.
#[derive(Clone, Debug)]
pub(crate) enum WriteAnswer {
    /// It is written; the object as it is now.
    Written {
        status: Box<NotificationSettingStatus>,
        version: Option<String>,
    },
    /// The object is another than it was.
    Conflict,
    /// The status does not fit the schema, or the test of a patch failed.
    Refused(String),
    /// The API server does not take as much. A patch whose test failed is never answered so.
    TooLarge(String),
    /// Anything else: no answer, no rights, no such object. The watch tells when the setting is gone.
    Failed(String),
}

/// What is found after a conflict.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ConflictOutcome {
    /// The status that we wrote last: only the spec or the metadata changed.
    Same,
    /// That status too, and the test of the patch succeeds on it: so the patch was refused for what it holds, and why.
    Refused(String),
    /// One of ours whose answer was lost, with how far each queue was ahead then.
    Ours(AheadCounts),
    /// What another replica left behind: it wrote after this writer's status was read, and none of ours was accepted yet.
    Predecessors,
    /// Someone else's.
    Others,
}

/// Decides when the status of one setting is written.
#[derive(Clone, Debug)]
pub(crate) struct StatusWriter {
    /// The status as the API server has it.
    written: NotificationSettingStatus,
    /// The version of the object that it was read or written at.
    version: Option<String>,
    due: WriteDue,
    wrote_at: Option<Moment>,
    /// When the first message was delivered that is not written.
    delivered_at: Option<Moment>,
    /// The pause before the next write of a counter.
    counter_interval: Duration,
    /// Not before this.
    after: Moment,
    /// The pause after the next write that fails.
    pause: Duration,
    /// Not before this either, or before all starts are known.
    starting: Option<Moment>,
    /// Nor before this, or before the destination is known.
    reading: Option<Moment>,
    /// Another writer is left alone until then.
    standing_back: Option<Moment>,
    writing: bool,
    /// No status of another writer was met yet, and none of ours was accepted.
    new: bool,
    conflicts: u32,
    /// Why the last patch was refused, if it was: what is read next tells whether its test failed.
    refusal: Option<String>,
    /// The API server refused the last status: texts are cut short until one is accepted.
    minimal: bool,
    /// Writes that may have been carried out though no answer came: their cursors and what they count.
    unanswered: Vec<(Position, AheadCounts)>,
}

impl StatusWriter {
    /// For a setting that was read with this status.
    pub fn new(status: NotificationSettingStatus, version: Option<String>, now: Moment) -> Self {
        Self {
            written: status,
            version,
            due: WriteDue::Never,
            wrote_at: None,
            delivered_at: None,
            counter_interval: COUNTER_INTERVAL.0,
            after: now,
            pause: INTERVAL,
            starting: None,
            reading: None,
            standing_back: None,
            writing: false,
            new: true,
            conflicts: 0,
            refusal: None,
            minimal: false,
            unanswered: vec![],
        }
    }

    /// The status as the API server has it.
    pub fn written(&self) -> &NotificationSettingStatus {
        &self.written
    }

    /// The cursor of an environment as the API server has it.
    pub fn written_cursor(&self, uid: &str) -> Option<&Cursor> {
        let mut cursors = self.written.cursors.iter();
        cursors.find(|cursor| cursor.environment_uid == uid)
    }

    /// There is something new to say.
    pub fn ask(&mut self, due: WriteDue) {
        self.due = self.due.max(due);
    }

    /// A message was delivered.
    pub fn ask_for_delivered(&mut self, now: Moment) {
        self.delivered_at.get_or_insert(now);
        self.ask(WriteDue::Delivered);
    }

    /// A new spec is taken in: its starts are waited for, but not for long.
    pub fn wait_for_starts(&mut self, now: Moment) {
        self.starting = Some(now + STARTING);
        self.due = WriteDue::Soon;
    }

    /// The start of every environment is known.
    pub fn starts_known(&mut self) {
        self.starting = None;
    }

    /// The destination is being read: it is waited for, but not for long.
    pub fn wait_for_destination(&mut self, now: Moment) {
        self.reading = Some(now + STARTING);
    }

    /// The destination is known, or it is known that it can't be read.
    pub fn destination_known(&mut self) {
        self.reading = None;
    }

    /// Whether nothing is being written or to be written soon.
    pub fn rests(&self) -> bool {
        self.due < WriteDue::Delivered && !self.writing
    }

    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// When the status is to be written next. `full`: sending waits for it.
    pub fn next_write(&self, full: bool) -> Option<Moment> {
        if self.writing || self.standing_back.is_some() {
            return None;
        }
        let waits = [self.starting, self.reading].into_iter().flatten();
        let mut earliest = waits.fold(self.after, Moment::max);
        let interval = match self.due {
            WriteDue::Never => return None,
            _ if full => return Some(earliest),
            WriteDue::Lazily => LAZY_INTERVAL,
            WriteDue::Counter => self.counter_interval,
            WriteDue::Delivered => {
                let gathered = self.delivered_at.map_or(earliest, |at| at + GATHER);
                earliest = earliest.max(gathered);
                INTERVAL
            }
            WriteDue::Soon => INTERVAL,
        };
        let next = self.wrote_at.map(|at| at + interval);
        Some(next.map_or(earliest, |next| next.max(earliest)))
    }

    /// Nothing is written before this, however urgent it is.
    pub fn earliest(&self) -> Moment {
        self.after
    }

    /// Whether the status has to be written before the program may stop. `ahead`: something was delivered of which it
    /// does not know.
    pub fn owes(&self, ahead: bool) -> bool {
        (self.due != WriteDue::Never || ahead) && self.standing_back.is_none()
    }

    /// The status is put together: what is asked for from here on is for the next write.
    pub fn take_up(&mut self, now: Moment) {
        self.counter_interval = match self.due {
            WriteDue::Counter => (self.counter_interval * 2).min(COUNTER_INTERVAL.1),
            _ => COUNTER_INTERVAL.0,
        };
        self.due = WriteDue::Never;
        self.delivered_at = None;
        self.wrote_at = Some(now);
        self.starting = None;
        self.reading = None;
    }

    /// Begins to write a status.
    pub fn begin(
        &mut self,
        uid: &str,
        status: &NotificationSettingStatus,
        counted: AheadCounts,
    ) -> StatusWrite {
        let mut status = status.clone();
        if self.minimal {
            shorten_texts(&mut status);
        }
        if self.unanswered.len() >= UNANSWERED {
            self.unanswered.remove(1); // the first is the likeliest to have been carried out, and then the last
        }
        let position = Position::of(&status);
        self.unanswered.push((position, counted.clone()));
        self.writing = true;
        let form = if self.is_crowded() {
            WriteForm::Patch(self.patch(uid, &status))
        } else {
            let version = self.version.clone();
            WriteForm::Replace { version }
        };
        StatusWrite {
            status,
            counted,
            form,
        }
    }

    /// A write was answered, in whatever way.
    pub fn answered(&mut self) {
        self.writing = false;
    }

    /// The object is being read: nothing is written meanwhile.
    pub fn hold(&mut self) {
        self.writing = true;
    }

    /// Whether someone changes the object so often that a write on the version it was read at hardly ever succeeds.
    pub fn is_crowded(&self) -> bool {
        self.conflicts >= CROWDED
    }

    /// The write that succeeds whatever else of the object changes meanwhile, as long as it is the same object and its
    /// cursors are those that were written last. A JSON patch.
    fn patch(&self, uid: &str, status: &NotificationSettingStatus) -> Value {
        let mut patch = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
        patch.extend(tests_of(&self.written));
        patch.push(json!({"op": "add", "path": "/status", "value": status}));
        patch.into()
    }

    /// The API server has this status.
    pub fn accepted(&mut self, status: NotificationSettingStatus, version: Option<String>) {
        self.written = status;
        self.version = version;
        self.unanswered.clear();
        self.pause = INTERVAL;
        self.new = false;
        self.conflicts = 0;
        self.minimal = false;
    }

    /// The write failed: another one follows after a pause.
    pub fn failed(&mut self, now: Moment) {
        self.after = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.conflicts = 0;
        self.due = WriteDue::Soon;
    }

    /// The API server refused the status for what it holds: the next one is cut short.
    pub fn refused(&mut self, now: Moment) {
        self.minimal = true;
        self.failed(now);
    }

    /// The object was changed since it was read: it is read again, and written again at once. `refusal`: that it was
    /// changed is no more than likely, because a patch was refused, and why.
    pub fn conflicted(&mut self, refusal: Option<String>, now: Moment) {
        self.refusal = refusal;
        self.due = WriteDue::Soon;
        self.wrote_at = None;
        self.conflicts += 1;
        // Whoever edits it all the time must not make us run in circles.
        self.after =
            now + Duration::from_millis(50) * self.conflicts.saturating_sub(CROWDED).min(20);
    }

    /// What there is could not be read.
    pub fn could_not_read(&mut self, now: Moment) {
        self.after = now + INTERVAL;
    }

    /// Judges what is found after a conflict.
    pub fn found(
        &mut self,
        status: &NotificationSettingStatus,
        version: Option<String>,
    ) -> ConflictOutcome {
        self.version = version;
        let position = Position::of(status);
        if position == Position::of(&self.written) {
            // The order of the cursors may have changed, or a status without any was written. Had somebody changed the
            // cursors and changed them back, it would cost one short status.
            let succeeds = tests_of(status) == tests_of(&self.written);
            self.written = status.clone();
            let refusal = self.refusal.take().filter(|_| succeeds);
            return refusal.map_or(ConflictOutcome::Same, ConflictOutcome::Refused);
        }
        let ours = |(written, _): &&(Position, AheadCounts)| *written == position;
        match self.unanswered.iter().find(ours) {
            Some((_, counted)) => ConflictOutcome::Ours(counted.clone()),
            None if std::mem::take(&mut self.new) => ConflictOutcome::Predecessors,
            None => ConflictOutcome::Others,
        }
    }

    /// The watch has shown the object. If only its spec or metadata changed, the next write is on that version; another
    /// writer's status is met by a conflict.
    pub fn shown(&mut self, status: &NotificationSettingStatus, shown: Option<String>) {
        let number = |text: Option<&str>| version(text.unwrap_or_default());
        if number(shown.as_deref()) > number(self.version.as_deref())
            && Position::of(status) == Position::of(&self.written)
        {
            self.version = shown;
        }
    }

    /// Leaves the status alone for a while: someone else writes it.
    pub fn stand_back(&mut self, now: Moment) {
        self.standing_back = Some(now + STAND_BACK);
    }

    /// The same for a little longer: what there is could not be read.
    pub fn stand_back_briefly(&mut self, now: Moment) {
        self.standing_back = Some(now + INTERVAL);
    }

    /// Until when another writer is left alone.
    pub fn stands_back_until(&self) -> Option<Moment> {
        self.standing_back
    }

    /// Goes on from the status that another writer left.
    pub fn resume(&mut self, status: NotificationSettingStatus, version: Option<String>) {
        self.standing_back = None;
        self.version = version;
        self.written = status;
        self.unanswered.clear();
        self.due = WriteDue::Soon;
    }
}

/// The operations of a JSON patch that succeed as long as the position is that of this status.
fn tests_of(status: &NotificationSettingStatus) -> Vec<Value> {
    let test = |path, value| json!({"op": "test", "path": path, "value": value});
    if *status == NotificationSettingStatus::default() {
        return vec![test("/status", Value::Null)];
    }
    // For `test`, null means that there is nothing at that path; an empty list is not written at all.
    let cursors = (!status.cursors.is_empty()).then_some(&status.cursors);
    vec![
        test("/status/cursors", json!(cursors)),
        test("/status/replay", json!(status.replay)),
        test(
            "/status/lastHandledReplay",
            json!(status.last_handled_replay),
        ),
    ]
}

/// Keeps of a status what delivery needs, with short texts.
fn shorten_texts(status: &mut NotificationSettingStatus) {
    shorten_messages(&mut status.conditions);
    status.message = status
        .message
        .take()
        .map(|message| shorten(&message, MINIMAL_TEXT));
    if let Some(failure) = &mut status.last_failure {
        failure.message = shorten(&failure.message, MINIMAL_TEXT);
    }
    if let Some(replay) = &mut status.replay {
        replay.message = shorten(&replay.message, MINIMAL_TEXT);
    }
    status.dead_letters.truncate(1);
    for letter in &mut status.dead_letters {
        letter.message = shorten(&letter.message, MINIMAL_TEXT);
    }
    status.skipped_ranges.truncate(1);
}

/// How far deliveries have got, as a status says: what tells the status of one writer from that of another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    /// By UID.
    cursors: Vec<Cursor>,
    replay: Option<Replay>,
    last_handled_replay: Option<String>,
}

impl Position {
    fn of(status: &NotificationSettingStatus) -> Self {
        let mut cursors = status.cursors.clone();
        cursors.sort_by(|a, b| a.environment_uid.cmp(&b.environment_uid));
        Self {
            cursors,
            replay: status.replay.clone(),
            last_handled_replay: status.last_handled_replay.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::ack_window::AckWindow;

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn status(indexes: &[i64]) -> NotificationSettingStatus {
        let cursor = |(number, index): (usize, &i64)| Cursor {
            environment: format!("env-{number}"),
            environment_uid: number.to_string(),
            index: *index,
            ordinal: 0,
            unreported_gap: None,
        };
        NotificationSettingStatus {
            cursors: indexes.iter().enumerate().map(cursor).collect(),
            observed_generation: Some(1),
            ..NotificationSettingStatus::default()
        }
    }

    fn counted(number: u64) -> AheadCounts {
        vec![(number, AckWindow::default())]
    }

    fn writer() -> StatusWriter {
        StatusWriter::new(status(&[1, 1]), Some("10".to_owned()), at(0))
    }

    #[test]
    fn what_is_urgent_is_written_a_second_after_the_last_write_and_at_once_when_sending_waits() {
        let mut writer = writer();
        assert_eq!(
            (writer.next_write(false), writer.next_write(true)),
            (None, None)
        );
        writer.ask(WriteDue::Lazily);
        assert_eq!(
            writer.next_write(false),
            Some(at(0)),
            "nothing was written yet"
        );
        writer.take_up(at(5));
        assert_eq!(writer.next_write(true), None, "nothing new");
        writer.ask(WriteDue::Lazily);
        assert_eq!(writer.next_write(false), Some(at(65)));
        writer.ask(WriteDue::Soon);
        writer.ask(WriteDue::Lazily);
        assert_eq!(writer.next_write(false), Some(at(6)));
        assert_eq!(writer.next_write(true), Some(at(0)));
        writer.begin("u", &status(&[2, 1]), counted(1));
        assert_eq!(writer.next_write(true), None, "one at a time");
    }

    #[test]
    fn a_new_spec_waits_for_its_starts_and_its_destination_but_not_for_long() {
        let mut writer = StatusWriter::new(NotificationSettingStatus::default(), None, at(0));
        writer.wait_for_starts(at(1));
        assert_eq!(writer.next_write(true), Some(at(3)));
        writer.starts_known();
        assert_eq!(writer.next_write(false), Some(at(0)));
        assert!(writer.owes(false));
        writer.wait_for_destination(at(1));
        assert_eq!(writer.next_write(true), Some(at(3)));
        writer.destination_known();
        assert_eq!(writer.next_write(false), Some(at(0)));
    }

    #[test]
    fn a_counter_that_keeps_moving_is_written_less_and_less_often() {
        let mut writer = writer();
        let mut pauses = vec![];
        let mut last = at(0);
        writer.take_up(at(0));
        for _ in 0..6 {
            writer.ask(WriteDue::Counter);
            let next = writer.next_write(false).unwrap();
            pauses.push((next - last).as_secs());
            last = next;
            writer.take_up(next);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        writer.ask(WriteDue::Soon);
        writer.take_up(at(1_000));
        writer.ask(WriteDue::Counter);
        assert_eq!(writer.next_write(false), Some(at(1_005)), "news come first");
    }

    #[test]
    fn a_status_that_is_refused_is_written_with_short_texts_until_one_is_accepted() {
        let mut long = status(&[1]);
        long.message = Some("x".repeat(4_000));
        let mut writer = writer();
        let begin = |writer: &mut StatusWriter| writer.begin("u", &long, vec![]).status;
        assert_eq!(begin(&mut writer), long);
        writer.refused(at(5));
        assert_eq!(writer.next_write(true), None, "one at a time");
        writer.answered();
        assert_eq!(writer.next_write(true), Some(at(6)));
        let short = begin(&mut writer);
        assert_eq!(short.message.unwrap().chars().count(), MINIMAL_TEXT);
        assert_eq!(short.cursors, long.cursors);
        writer.accepted(status(&[1]), None);
        assert_eq!(begin(&mut writer), long);
    }

    #[test]
    fn writes_that_fail_are_tried_again_after_longer_and_longer_pauses() {
        let mut writer = writer();
        let mut pauses = vec![];
        for _ in 0..7 {
            writer.failed(at(100));
            pauses.push((writer.next_write(true).unwrap() - at(100)).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        writer.accepted(status(&[1, 1]), Some("11".to_owned()));
        writer.failed(at(200));
        assert_eq!(writer.next_write(true), Some(at(201)));
    }

    #[test]
    fn conflicts_are_answered_at_once_and_after_some_in_a_row_with_a_little_pause() {
        let mut writer = writer();
        let mut pauses = vec![];
        for _ in 0..30 {
            writer.conflicted(None, at(100));
            pauses.push((writer.next_write(true).unwrap() - at(100)).as_millis());
        }
        assert_eq!(pauses[..6], [0, 0, 0, 0, 50, 100]);
        assert_eq!(pauses[29], 1_000);
    }

    #[test]
    fn an_object_that_is_changed_all_the_time_is_written_whatever_its_version_if_its_cursors_are_ours()
     {
        let mut writer = writer();
        for crowded in [false, false, false, false, true, true] {
            assert_eq!(writer.is_crowded(), crowded);
            writer.conflicted(None, at(1));
        }
        let next = status(&[2, 1]);
        assert_eq!(
            writer.patch("u", &next),
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/status/cursors", "value": status(&[1, 1]).cursors},
                {"op": "test", "path": "/status/replay", "value": null},
                {"op": "test", "path": "/status/lastHandledReplay", "value": null},
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
        writer.failed(at(2));
        assert!(
            !writer.is_crowded(),
            "where it may not be patched, the other way is tried again"
        );
    }

    #[test]
    fn after_a_conflict_a_status_is_the_same_or_ours_or_a_predecessors_or_another_writers() {
        let mut writer = writer();
        writer.begin("u", &status(&[2, 1]), counted(1));
        writer.begin("u", &status(&[2, 3]), counted(2));
        let mut swapped = status(&[1, 1]);
        swapped.cursors.reverse();
        for (there, want) in [
            (swapped, ConflictOutcome::Same),
            (status(&[2, 1]), ConflictOutcome::Ours(counted(1))),
            (status(&[2, 3]), ConflictOutcome::Ours(counted(2))),
            (status(&[2, 2]), ConflictOutcome::Predecessors),
            (status(&[2, 2]), ConflictOutcome::Others),
            (status(&[1]), ConflictOutcome::Others),
        ] {
            assert_eq!(
                writer.found(&there, Some("12".to_owned())),
                want,
                "{there:?}"
            );
            assert_eq!(writer.version.as_deref(), Some("12"));
        }
        let mut writer = self::writer();
        writer.accepted(status(&[2, 1]), None);
        let found = writer.found(&status(&[2, 2]), None);
        assert_eq!(found, ConflictOutcome::Others, "it had the status");
    }

    #[test]
    fn a_patch_that_is_refused_though_its_test_succeeds_is_refused_for_what_it_holds() {
        let refused = ConflictOutcome::Refused("too long".to_owned());
        let said = |mut status: NotificationSettingStatus| {
            status.message = Some("of another writer".to_owned());
            status
        };
        let mut swapped = status(&[1, 2]);
        swapped.cursors.reverse();
        let none = NotificationSettingStatus::default;
        for (written, there, want) in [
            (status(&[1, 2]), status(&[1, 2]), &refused),
            (status(&[1, 2]), said(status(&[1, 2])), &refused),
            (status(&[1, 2]), swapped, &ConflictOutcome::Same),
            (
                status(&[1, 2]),
                status(&[1, 3]),
                &ConflictOutcome::Predecessors,
            ),
            (status(&[]), said(status(&[])), &refused),
            (none(), none(), &refused),
            (none(), said(none()), &ConflictOutcome::Same),
        ] {
            let mut writer = StatusWriter::new(written, None, at(0));
            writer.conflicted(Some("too long".to_owned()), at(1));
            assert_eq!(writer.found(&there, None), *want, "{there:?}");
            assert_ne!(writer.found(&there, None), refused, "it is said once");
            writer.conflicted(None, at(2));
            assert_ne!(writer.found(&there, None), refused, "{there:?}");
        }
    }

    #[test]
    fn of_writes_that_were_never_answered_the_first_and_the_last_are_remembered() {
        let mut writer = writer();
        for index in 2..=40 {
            writer.begin("u", &status(&[index, 1]), vec![]);
        }
        for (index, known) in [(2, true), (3, false), (25, false), (26, true), (40, true)] {
            let found = writer.found(&status(&[index, 1]), None);
            assert_eq!(matches!(found, ConflictOutcome::Ours(_)), known, "{index}");
        }
    }

    #[test]
    fn the_version_that_the_watch_shows_is_taken_if_the_status_is_ours() {
        let mut writer = writer();
        for (indexes, shown, version) in [
            (&[1, 1], "9", "10"),
            (&[1, 1], "11", "11"),
            (&[2, 1], "12", "11"),
        ] {
            writer.shown(&status(indexes), Some(shown.to_owned()));
            assert_eq!(writer.version.as_deref(), Some(version));
        }
    }

    #[test]
    fn another_writer_is_left_alone_for_a_minute() {
        let mut writer = writer();
        writer.ask(WriteDue::Soon);
        writer.stand_back(at(10));
        assert_eq!(writer.stands_back_until(), Some(at(70)));
        assert_eq!(writer.next_write(true), None);
        assert!(!writer.owes(true));
        writer.resume(status(&[5, 5]), Some("20".to_owned()));
        assert_eq!(writer.next_write(true), Some(at(0)));
        assert_eq!(writer.written().cursors[0].index, 5);
    }
}
