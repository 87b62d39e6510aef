//! The desk of one setting: what it asks for, how far it has got, and what its status says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::PostParams,
    runtime::events::{Event, EventType},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    api::{
        Environment, NotificationSetting, NotificationSettingStatus, TEST_ANNOTATION,
        condition::{self, READY},
        setting::{Cursor, DeadLetter, Delivery, Failure, SkippedRange},
    },
    carry::{Load, Outcome, Sent, Skipped},
    destination::{self, NoDestination},
    dispatch::Dispatcher,
    environments::Known,
    logbook::LogError,
    model::{
        Moment, backoff,
        destination::{Destination, Kind},
        event::base32,
        outbox::{Ahead, Backlog, Pulse, Start, Wish, is_older, start},
        payload, slack,
        standing::{Amiss, Facts, PATIENCE, Unsound, tell, trouble},
        verdict::{Reason, Verdict},
        view::version,
    },
    send::{Outgoing, Receipt},
};

/// Writes of a status are at least so far apart, unless the window is full.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// A cursor that moved over nothing of interest is written after so long.
const LAZY_INTERVAL: Duration = Duration::from_secs(60);
/// A status that takes longer to write is tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// A destination that was read longer ago is read again before it is used: a rotated Secret is taken up within this.
const DESTINATION_FRESH: Duration = Duration::from_secs(30);
/// What is missing is looked for this often, at first and later.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// After another writer of the status has shown up it is left alone for so long.
const STAND_BACK: Duration = Duration::from_secs(60);
/// So many writes whose answer was lost are remembered.
const UNHEARD: usize = 16;
/// The first write after a new spec waits so long for cursors that can't be placed yet.
const PLACING: Duration = Duration::from_secs(8);
/// More environments than this are not followed by a setting that names none.
const MAX_ENVIRONMENTS: usize = 1_024;
/// So many entries of the log are counted before a write of the status; if more wait, the next write goes on.
const COUNTED: usize = 256;
/// So many are counted to say what is skipped.
const COUNTED_AT_END: usize = 2_000;

/// How far the log of one environment has been sent.
struct Lane {
    /// Tells this lane from an earlier one of the same environment, whose last request may still be under way.
    token: u64,
    cursor: Cursor,
    ahead: Ahead,
    backlog: Backlog,
    busy: bool,
    /// Nothing is left to send up to this snapshot.
    seen: i64,
    head: i64,
    /// How often in a row the log could not be read, and until when it is not read again.
    unread: (u32, Moment),
    /// Its environment is gone since then, so it ends when nothing is left.
    ending: Option<Instant>,
}

/// How soon the status should be written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Never,
    Lazily,
    Soon,
}

enum Done {
    Carried {
        uid: String,
        token: u64,
        /// Which destination it was sent to.
        to: [u8; 32],
        began: (Timestamp, Moment),
        outcome: Box<Outcome>,
    },
    Tested {
        request: String,
        id: String,
        receipt: Receipt,
    },
    Written {
        result: Result<Box<NotificationSetting>, kube::Error>,
        attempt: Attempt,
    },
}

/// A write of the status: its cursors, and how far each lane had been sent ahead then.
#[derive(Clone)]
struct Attempt {
    cursors: Vec<Cursor>,
    counted: Vec<(String, u64, Ahead)>,
}

/// The desk of one setting.
pub struct Desk {
    office: Arc<Dispatcher>,
    setting: watch::Receiver<NotificationSetting>,
    placed: Option<mpsc::Sender<()>>,
    namespace: String,
    name: String,
    uid: String,
    seed: u64,
    /// The spec that is being worked for.
    spec_generation: Option<i64>,
    names: Option<Arc<Vec<String>>>,
    wish: Wish,
    status: NotificationSettingStatus,
    /// The status as the API server has it, and its version.
    written: NotificationSettingStatus,
    version: Option<String>,
    lanes: BTreeMap<String, Lane>,
    tokens: u64,
    /// Where cursors start that can't be placed yet.
    starts: BTreeMap<String, Start>,
    /// All cursors that can be placed are.
    complete: bool,
    /// The status isn't written before this, or before all cursors are placed.
    waiting: Option<Instant>,
    pulse: Pulse,
    /// The lane that failed: it goes first.
    probe: Option<String>,
    /// When the last attempt began that failed.
    failed_at: Option<Timestamp>,
    destination: Option<Destination>,
    destination_read: Option<Instant>,
    amiss: Amiss,
    amiss_since: Option<Instant>,
    look_again: Option<Instant>,
    stand_back: Option<Instant>,
    due: Due,
    wrote_at: Option<Instant>,
    write_pause: Duration,
    write_after: Instant,
    writing: bool,
    conflicts: u32,
    /// Writes that may have been carried out though we never heard of it.
    unheard: Vec<Attempt>,
    testing: bool,
    /// The request for a test for which the destination was read anew.
    test_seen: Option<String>,
}

impl Desk {
    /// The desk of a setting.
    pub fn new(
        office: Arc<Dispatcher>,
        setting: watch::Receiver<NotificationSetting>,
        placed: Option<mpsc::Sender<()>>,
    ) -> Self {
        let first = setting.borrow().clone();
        let status = first.status.clone().unwrap_or_default();
        let uid = first.uid().unwrap_or_default();
        office.passed.put(&uid, status.cursors.clone());
        let (trouble, attempts) = trouble(&status).unzip();
        let mut desk = Self {
            namespace: first.namespace().unwrap_or_default(),
            name: first.name_any(),
            seed: backoff::seed(&uid),
            spec_generation: None,
            names: None,
            wish: Wish::of(&first.spec),
            written: status.clone(),
            version: first.resource_version(),
            lanes: BTreeMap::new(),
            tokens: 0,
            starts: BTreeMap::new(),
            complete: false,
            waiting: None,
            pulse: Pulse::resumed(trouble, attempts.unwrap_or_default()),
            probe: None,
            failed_at: None,
            destination: None,
            destination_read: None,
            amiss: Amiss::default(),
            amiss_since: unsound_since(&status),
            look_again: None,
            stand_back: None,
            due: Due::Never,
            wrote_at: None,
            write_pause: WRITE_INTERVAL,
            write_after: Instant::now(),
            writing: false,
            conflicts: 0,
            unheard: vec![],
            testing: false,
            test_seen: None,
            uid,
            status,
            office,
            setting,
            placed,
        };
        for cursor in desk.status.cursors.clone() {
            desk.open_lane(cursor);
        }
        desk
    }

    /// Works until the setting is gone, or the program is to stop: then nothing new is sent, and what is under way is
    /// finished and written down.
    pub async fn run(mut self) {
        let stop = self.office.stop.clone();
        let mut stopping = false;
        let mut environments = self.office.environments.subscribe();
        // Each in a task of its own: whatever this one waits for, they go on. They end with it.
        let mut tasks: JoinSet<Done> = JoinSet::new();
        self.examine().await;
        loop {
            stopping |= stop.is_cancelled();
            if stopping {
                if tasks.is_empty() {
                    if !self.owes_status() {
                        return;
                    }
                    sleep_until(self.write_after).await;
                    self.write(&mut tasks).await;
                    if tasks.is_empty() {
                        return;
                    }
                }
            } else {
                self.start_lanes(&mut tasks).await;
                self.start_test(&mut tasks).await;
                if self.write_at().is_some_and(|at| at <= Instant::now()) {
                    self.write(&mut tasks).await;
                }
            }
            if self.complete && self.due != Due::Soon && !self.writing {
                self.placed = None; // all cursors are where they should be, and nothing is to be written
            }
            self.plan_look();
            let wake = self.wake();
            tokio::select! {
                Some(done) = tasks.join_next(), if !tasks.is_empty() => self.done(done).await,
                changed = self.setting.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.setting_changed().await;
                }
                () = stop.cancelled(), if !stopping => {}
                _ = environments.changed(), if !stopping => self.environments_changed().await,
                () = sleep_until(wake), if !stopping => self.look().await,
            }
        }
    }

    async fn done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Carried {
                uid,
                token,
                to,
                began,
                outcome,
            }) => self.carried(&uid, token, to, began, *outcome),
            Ok(Done::Tested {
                request,
                id,
                receipt,
            }) => self.tested(request, id, &receipt),
            Ok(Done::Written { result, attempt }) => {
                self.writing = false;
                self.wrote(result, attempt).await;
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {} // the program ends
        }
    }

    fn open_lane(&mut self, cursor: Cursor) -> &mut Lane {
        self.tokens += 1;
        let uid = cursor.environment_uid.clone();
        let lane = Lane::at(self.tokens, cursor);
        self.lanes.insert(uid.clone(), lane);
        self.lanes.get_mut(&uid).expect("it was just put there")
    }

    // ---- what is asked for ----

    async fn setting_changed(&mut self) {
        let (generation, version_now, cursors) = {
            let setting = self.setting.borrow_and_update();
            let cursors = setting.status.as_ref().map(|status| status.cursors.clone());
            (
                setting.metadata.generation,
                setting.resource_version(),
                cursors.unwrap_or_default(),
            )
        };
        // Only the spec or the metadata changed, by someone else. Another one's status is met by a conflict.
        let number = |text: &Option<String>| version(text.as_deref().unwrap_or_default());
        if number(&version_now) > number(&self.version)
            && sorted(&cursors) == sorted(&self.written.cursors)
        {
            self.version = version_now;
        }
        if generation != self.spec_generation {
            self.examine().await;
        }
    }

    async fn environments_changed(&mut self) {
        let news = self.place().await;
        if news
            && (self.pulse.trouble.is_some() || self.amiss.first().is_some() || self.is_suspended())
        {
            self.due = Due::Soon; // more waits
        }
    }

    fn is_suspended(&self) -> bool {
        self.setting.borrow().spec.suspend == Some(true)
    }

    /// A clock has run out: look at what may have changed without a word.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.stand_back.is_some_and(|until| until <= now) {
            self.come_back().await;
        }
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            let Amiss {
                destination,
                denied,
                ..
            } = &self.amiss;
            let troubled =
                destination.is_some() || denied.is_some() || self.pulse.trouble.is_some();
            if troubled || self.destination.is_none() {
                self.read_destination().await;
            }
            self.place().await;
            if troubled || self.amiss.first().is_some() {
                self.due = Due::Soon; // a reason that only holds for a while (Reconciling) is taken back
            }
        }
    }

    /// What may change without a word is looked at again.
    fn plan_look(&mut self) {
        let now = Instant::now();
        let since = self.amiss_since.unwrap_or(now);
        let patient = since.elapsed() < PATIENCE;
        let missing = (self.amiss.destination.is_some() || self.destination.is_none())
            .then_some(if patient { LOOK_AGAIN.0 } else { LOOK_AGAIN.1 });
        let unplaced = (!self.complete).then_some(LOOK_AGAIN.0);
        let troubled = (self.pulse.trouble.is_some() || self.amiss.denied.is_some())
            .then_some(DESTINATION_FRESH);
        let reconciling = (self.amiss.first().is_some() && patient)
            .then(|| PATIENCE.saturating_sub(since.elapsed()));
        let ending = self
            .lanes
            .values()
            .any(|lane| lane.ending.is_some())
            .then_some(LOOK_AGAIN.1);
        let after = [missing, unplaced, troubled, reconciling, ending]
            .into_iter()
            .flatten()
            .min();
        if let Some(after) = after {
            let at = now + after;
            self.look_again = Some(self.look_again.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Takes in a new spec.
    async fn examine(&mut self) {
        let setting = self.setting.borrow().clone();
        let first = self.spec_generation.is_none();
        self.spec_generation = setting.metadata.generation;
        self.wish = Wish::of(&setting.spec);
        self.status.destination = Some(self.wish.kind.as_str().to_owned());
        let names = setting
            .spec
            .environments
            .as_ref()
            .map(|names| names.join(","));
        self.status.environments = Some(shorten_to(names.as_deref().unwrap_or("*"), 256));
        self.names = setting.spec.environments.map(Arc::new);
        self.destination = None;
        self.destination_read = None;
        self.amiss.denied = None;
        if !first {
            self.amiss_since = None; // what is missing now may be on its way
        }
        self.failed_at = None;
        self.pulse.retry_now();
        for lane in self.lanes.values_mut() {
            lane.seen = lane.cursor.index; // other events may be asked for
            lane.backlog = Backlog::default();
        }
        if self.written.observed_generation != self.spec_generation {
            self.waiting = Some(Instant::now() + PLACING);
            self.due = Due::Soon;
        }
        if self.status.conditions.is_empty() {
            self.due = Due::Soon;
        }
        let since = self.amiss_since;
        self.read_destination().await;
        self.place().await;
        if self.amiss.first().is_some() && since.is_some() {
            self.amiss_since = since;
        }
    }

    async fn read_destination(&mut self) {
        let spec = self.setting.borrow().spec.clone();
        let Dispatcher {
            client,
            names,
            courier,
            ..
        } = &*self.office;
        let found = destination::read(client, &self.namespace, &spec, names).await;
        self.destination_read = Some(Instant::now());
        let found = match found {
            Ok(destination) => courier
                .permits(&destination)
                .map_err(|why| Unsound::new("DestinationDenied", why))
                .map(|()| destination),
            Err(NoDestination::Unsound(why)) => Err(why),
            Err(NoDestination::Unknown(why)) => {
                debug!(setting = %self.title(), %why, "can't tell the destination; trying again");
                return;
            }
        };
        match found {
            Ok(destination) => {
                if self.destination.as_ref() != Some(&destination) {
                    self.pulse.retry_now();
                    self.failed_at = None;
                    self.amend(|amiss| amiss.denied = None);
                }
                self.destination = Some(destination);
                self.amend(|amiss| amiss.destination = None);
            }
            Err(why) => {
                self.destination = None;
                self.amend(|amiss| amiss.destination = Some(why));
            }
        }
    }

    /// Notes what is amiss, or no longer.
    fn amend(&mut self, change: impl FnOnce(&mut Amiss)) {
        let before = self.amiss.first().cloned();
        change(&mut self.amiss);
        match self.amiss.first() {
            None => self.amiss_since = None,
            Some(_) => self.amiss_since = self.amiss_since.or_else(|| Some(Instant::now())),
        }
        if self.amiss.first() != before.as_ref() {
            self.due = Due::Soon;
        }
    }

    /// Makes a lane for every environment that is asked for and may be seen, and ends those of others. True if there is
    /// more to send.
    async fn place(&mut self) -> bool {
        let names = self.names.clone();
        let all = self.office.environments.all();
        let (wanted, amiss) = self.wanted(names.as_deref(), &all);
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
            if !self.lanes.contains_key(&known.uid) {
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
                        self.open_lane(cursor);
                        self.starts.remove(&known.uid);
                        self.due = Due::Soon;
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
            self.waiting = None;
        }
        news
    }

    /// The environments that are asked for and may be seen, and what is amiss with others.
    fn wanted<'a>(
        &self,
        names: Option<&'a Vec<String>>,
        all: &'a BTreeMap<String, Known>,
    ) -> (Vec<(&'a str, &'a Known)>, Option<Unsound>) {
        let namespace = &self.namespace;
        let visible = || {
            all.iter()
                .filter(|(_, known)| known.is_visible_to(namespace))
                .map(|(name, known)| (name.as_str(), known))
        };
        let Some(names) = names else {
            let seen: Vec<_> = visible().collect();
            if seen.len() > MAX_ENVIRONMENTS {
                let message = format!(
                    "this namespace may see {} environments, and a setting follows {MAX_ENVIRONMENTS} at most: name them in spec.environments",
                    seen.len()
                );
                return (vec![], Some(Unsound::new("TooManyEnvironments", message)));
            }
            let amiss = seen.is_empty().then(|| {
                let message = format!(
                    "no Environment is visible to namespace {namespace}: add {namespace} to the visibleTo of one"
                );
                Unsound::new("NoEnvironments", message)
            });
            return (seen, amiss);
        };
        let (mut seen, mut missing, mut hidden) = (vec![], vec![], vec![]);
        for name in names {
            match all.get(name) {
                Some(known) if known.is_visible_to(namespace) => seen.push((name.as_str(), known)),
                Some(_) => hidden.push(name.as_str()),
                None => missing.push(name.as_str()),
            }
        }
        let (reason, message) = if !missing.is_empty() {
            let there: Vec<_> = visible().map(|(name, _)| name).collect();
            let there = if there.is_empty() {
                "none is visible here".to_owned()
            } else {
                format!("visible here: {}", there.join(", "))
            };
            let message = format!(
                "spec.environments: there is no Environment {} ({there})",
                missing.join(", ")
            );
            ("EnvironmentNotFound", message)
        } else if !hidden.is_empty() {
            let message = format!(
                "spec.environments: {} may not be seen from namespace {namespace}: a platform admin can add {namespace} to its spec.visibleTo",
                hidden.join(", ")
            );
            ("EnvironmentNotVisible", message)
        } else {
            return (seen, None);
        };
        let amiss = Unsound::new(reason, shorten_to(&message, 1_000));
        (seen, Some(amiss))
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
            ..lane.cursor.clone()
        };
        // Another replica may have appended and sent what ours has not heard of yet.
        let logbook = &self.office.logbook;
        if logbook.read_anew(name, uid, reached).await?.is_some() {
            return Ok(false);
        }
        warn!(setting = %self.title(), environment = name, index, head, "the cursor is ahead of the log; starting at its head");
        self.open_lane(cursor).head = head;
        let skipped = Skipped {
            from: head,
            to: head,
            count: -1,
            reason: "CursorReset",
        };
        self.note_skipped(name, &[skipped]);
        Ok(false)
    }

    /// Where sending starts in an environment that this setting hears of for the first time.
    fn start(&self, known: &Known) -> Start {
        start(
            self.written.observed_generation,
            self.spec_generation.unwrap_or(1),
            known.generation,
        )
    }

    async fn first_cursor(
        &self,
        name: &str,
        known: &Known,
        head: i64,
        start: Start,
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
        let index = if start == Start::AtHead {
            head
        } else {
            let entries = self.office.logbook.entries(name, &known.uid).await?;
            let older = |line: &&crate::logbook::Line| {
                is_older((line.created.as_second(), line.version), (created, version))
            };
            let aged = entries
                .iter()
                .rfind(older)
                .filter(|_| start == Start::AtAge);
            aged.or(entries.first()).map_or(head, |line| line.index)
        };
        Ok(Cursor {
            environment: name.to_owned(),
            environment_uid: known.uid.clone(),
            index,
            ordinal: 0,
        })
    }

    /// Ends the lanes of environments that are not asked for any more or may not be seen; those of deleted ones are
    /// finished first, if that doesn't take too long.
    async fn end_lanes(&mut self, names: Option<&Vec<String>>, all: &BTreeMap<String, Known>) {
        let mut ended = vec![];
        let failing = self.pulse.trouble.is_some() && !self.is_suspended();
        for (uid, lane) in &mut self.lanes {
            let name = &lane.cursor.environment;
            let listed = names.is_none_or(|names| names.contains(name));
            match all.get(name).filter(|known| known.uid == *uid) {
                _ if !listed => ended.push((uid.clone(), "EnvironmentLeft")),
                Some(known) if !known.is_visible_to(&self.namespace) => {
                    ended.push((uid.clone(), "EnvironmentNotVisible"));
                }
                Some(_) => lane.ending = None,
                None => {
                    let since = lane.ending.get_or_insert_with(Instant::now);
                    if failing && since.elapsed() > self.wish.max_age {
                        ended.push((uid.clone(), "EnvironmentDeleted"));
                    }
                }
            }
        }
        for (uid, reason) in ended {
            self.end_lane(&uid, reason).await;
        }
    }

    /// Ends the lanes of deleted environments in which nothing is left to send.
    async fn finish_lanes(&mut self) -> Result<(), LogError> {
        let api: Api<Environment> = Api::all(self.office.client.clone());
        let idle = self.lanes.iter().filter(|(_, lane)| lane.is_through());
        let idle: Vec<_> = idle
            .map(|(uid, lane)| (uid.clone(), lane.cursor.environment.clone()))
            .collect();
        for (uid, environment) in idle {
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
                self.lanes.remove(&uid);
                self.due = Due::Soon;
            }
        }
        Ok(())
    }

    /// Ends a lane, and says what was not sent, if anything was to be.
    async fn end_lane(&mut self, uid: &str, reason: &'static str) {
        let mut budget = COUNTED_AT_END;
        let all = self.count(uid, &mut budget).await;
        let (waiting, _) = self.waiting_in(uid).await;
        let Some(lane) = self.lanes.remove(uid) else {
            return;
        };
        self.due = Due::Soon;
        let count = match waiting {
            0 if all => return,
            count if all => i64::try_from(count).unwrap_or(i64::MAX),
            _ => -1,
        };
        let skipped = Skipped {
            from: lane.cursor.index + 1,
            to: lane.head,
            count,
            reason,
        };
        self.note_skipped(&lane.cursor.environment, &[skipped]);
    }

    // ---- sending ----

    /// Starts a request in every lane that has something to send and may.
    async fn start_lanes(&mut self, tasks: &mut JoinSet<Done>) {
        if self.is_suspended()
            || self.stand_back.is_some()
            || self.written.observed_generation.is_none()
        {
            return; // a setting that was never handled gets its cursors written first
        }
        let now = self.office.hub.now();
        let waits = |lane: &Lane| lane.busy || lane.seen < lane.head;
        if self.pulse.trouble.is_some() && self.complete && !self.lanes.values().any(waits) {
            // Given up, or not asked for any more: nothing is overdue.
            self.pulse = Pulse::default();
            self.failed_at = None;
            self.probe = None;
            self.due = Due::Soon;
            return;
        }
        if self.pulse.may_send(now).is_err() {
            return;
        }
        let cautious = self.pulse.trouble.is_some();
        if cautious && self.lanes.values().any(|lane| lane.busy) {
            return; // one attempt tells whether the destination is well again
        }
        let has_work = |lane: &Lane| {
            !lane.busy && lane.seen < lane.head && lane.ahead.may_send(now) && lane.unread.1 <= now
        };
        let mut ready: Vec<String> = self
            .lanes
            .iter()
            .filter(|(_, lane)| has_work(lane))
            .map(|(uid, _)| uid.clone())
            .collect();
        if cautious {
            let probe = self.probe.clone().filter(|probe| ready.contains(probe));
            ready = probe.into_iter().chain(ready).take(1).collect();
        }
        if ready.is_empty() {
            return;
        }
        if self
            .destination_read
            .is_none_or(|read| read.elapsed() > DESTINATION_FRESH)
        {
            self.read_destination().await;
        }
        let Some(destination) = self.destination.clone() else {
            return;
        };
        let began = (Timestamp::now(), self.office.hub.now());
        let max_age = SignedDuration::try_from(self.wish.max_age).unwrap_or(SignedDuration::MAX);
        let expired_before = self.failed_at.and_then(|at| at.checked_sub(max_age).ok());
        for uid in ready {
            let Some(lane) = self.lanes.get_mut(&uid) else {
                continue;
            };
            lane.busy = true;
            let load = Load {
                logbook: self.office.logbook.clone(),
                courier: self.office.courier.clone(),
                installation: self.office.installation.clone(),
                wish: self.wish.clone(),
                destination: destination.clone(),
                cursor: lane.cursor.clone(),
                head: lane.head,
                expired_before,
            };
            let (token, to) = (lane.token, destination.key());
            tasks.spawn(async move {
                Done::Carried {
                    uid,
                    token,
                    to,
                    began,
                    outcome: Box::new(load.carry().await),
                }
            });
        }
    }

    fn carried(
        &mut self,
        uid: &str,
        token: u64,
        to: [u8; 32],
        began: (Timestamp, Moment),
        outcome: Outcome,
    ) {
        if let Ok(Some(sent)) = &outcome.sent {
            self.office.metrics.delivered(
                self.wish.kind.as_str(),
                outcome_word(&sent.receipt.verdict),
                sent.receipt.latency.as_secs_f64(),
            );
        }
        let now = self.office.hub.now();
        let Some(lane) = self.lanes.get_mut(uid).filter(|lane| lane.token == token) else {
            return; // it ended meanwhile
        };
        lane.busy = false;
        let environment = lane.cursor.environment.clone();
        if lane.cursor != outcome.cursor {
            lane.cursor = outcome.cursor;
            self.due = self.due.max(Due::Lazily);
        }
        lane.seen = lane.cursor.index;
        match outcome.sent {
            Ok(None) => lane.unread = (0, now),
            Ok(Some(sent)) => {
                lane.unread = (0, now);
                self.answered(uid, to, began, sent, now);
            }
            Err(error) => {
                let failures = lane.unread.0.saturating_add(1);
                lane.unread = (failures, now + backoff::delay(failures, self.seed));
                warn!(setting = %self.title(), environment, %error, "can't read the log; trying again");
            }
        }
        if !outcome.skipped.is_empty() {
            self.note_skipped(&environment, &outcome.skipped);
        }
        if self.lanes.get(uid).is_some_and(Lane::is_through) {
            self.look_again = Some(Instant::now());
        }
    }

    fn answered(
        &mut self,
        uid: &str,
        to: [u8; 32],
        began: (Timestamp, Moment),
        sent: Sent,
        now: Moment,
    ) {
        let Sent {
            after,
            events,
            id,
            snapshot,
            receipt,
        } = sent;
        let verdict = &receipt.verdict;
        let time = Timestamp::now();
        let attempts = i64::from(self.pulse.attempts) + 1;
        let before = self.pulse.trouble.clone();
        // What another destination than today's can't take says nothing.
        let current = self.destination.as_ref().map(Destination::key) == Some(to);
        if current {
            self.pulse.after(verdict, self.seed, began.1, now);
        }
        match verdict {
            Verdict::Delivered => {
                self.advance(uid, after, events, now);
                debug!(setting = %self.title(), id, snapshot, "delivered");
                self.status.last_delivery = Some(Delivery {
                    event_id: id,
                    snapshot: Some(snapshot),
                    time,
                    attempts,
                    http_status: receipt.status.map_or(0, i64::from),
                    latency_ms: i64::try_from(receipt.latency.as_millis()).unwrap_or(i64::MAX),
                });
            }
            _ if !current => {
                debug!(setting = %self.title(), id, "not delivered; the destination is another one by now");
            }
            Verdict::Refused { reason, message } => {
                self.advance(uid, after, events, now);
                warn!(setting = %self.title(), id, snapshot, %message, "refused for good; going on with the next");
                let letter = DeadLetter {
                    event_id: id.clone(),
                    snapshot,
                    time,
                    reason: reason.as_str().to_owned(),
                    message: message.clone(),
                };
                self.status.dead_letters.insert(0, letter);
                self.status.dead_letters.truncate(10);
                self.note_failure(id, time, reason.as_str(), message, attempts);
            }
            Verdict::Retry { .. } | Verdict::Hold { .. } | Verdict::Gone { .. } => {
                let reason = verdict.reason().map_or("", Reason::as_str);
                info!(setting = %self.title(), id, attempts, reason, message = verdict.message(), "not delivered; trying again later");
                self.note_failure(id, time, reason, verdict.message(), attempts);
                self.probe = Some(uid.to_owned());
                self.failed_at = self.failed_at.max(Some(began.0));
                self.due = Due::Soon;
            }
        }
        if current {
            self.note_denied(verdict);
        }
        match (&before, &self.pulse.trouble) {
            (None, Some(trouble)) => {
                let rest = if trouble.gone {
                    ""
                } else {
                    " (attempts go on)"
                };
                let note = format!("{}{rest}", trouble.message);
                self.publish(EventType::Warning, "DeliveryFailing", note);
            }
            (Some(_), None) => {
                self.failed_at = None;
                self.probe = None;
                let failures = attempts - 1;
                let times = if failures == 1 { "attempt" } else { "attempts" };
                let note = format!("delivering again after {failures} failed {times}");
                self.publish(EventType::Normal, "DeliveryRecovered", note);
            }
            _ => {}
        }
    }

    /// Whether the destination's name leads to an address that may not be dialled is known after an attempt.
    fn note_denied(&mut self, verdict: &Verdict) {
        let denied = (verdict.reason() == Some(Reason::DestinationDenied))
            .then(|| Unsound::new("DestinationDenied", verdict.message()));
        self.amend(|amiss| amiss.denied = denied);
    }

    fn advance(&mut self, uid: &str, after: Cursor, events: usize, now: Moment) {
        if let Some(lane) = self.lanes.get_mut(uid) {
            lane.cursor = after;
            lane.seen = lane.seen.max(lane.cursor.index);
            lane.ahead.sent(events, now);
        }
        self.due = Due::Soon;
    }

    fn note_failure(
        &mut self,
        event_id: String,
        time: Timestamp,
        reason: &str,
        message: &str,
        attempts: i64,
    ) {
        let (reason, message) = (reason.to_owned(), shorten_to(message, 1_000));
        self.status.last_failure = Some(Failure {
            event_id,
            time,
            reason,
            message,
            attempts,
        });
    }

    fn note_skipped(&mut self, environment: &str, skipped: &[Skipped]) {
        let time = Timestamp::now();
        self.due = Due::Soon;
        for Skipped {
            from,
            to,
            count,
            reason,
        } in skipped
        {
            warn!(setting = %self.title(), environment, from, to, count, reason, "a stretch of the log is not sent");
            let (environment, reason) = (environment.to_owned(), (*reason).to_owned());
            let range = SkippedRange {
                environment,
                from: *from,
                to: *to,
                count: *count,
                reason,
                time,
            };
            // A stretch that goes on is one stretch.
            let same = |last: &&mut SkippedRange| {
                last.environment == range.environment
                    && last.reason == range.reason
                    && last.to + 1 >= range.from
                    && last.count >= 0
            };
            match self.status.skipped_ranges.first_mut().filter(same) {
                Some(last) if range.count >= 0 => {
                    last.count += range.count;
                    last.to = last.to.max(range.to);
                    last.time = time;
                }
                _ => self.status.skipped_ranges.insert(0, range),
            }
        }
        self.status.skipped_ranges.truncate(20);
    }

    // ---- the test message ----

    /// Sends a test message if one is asked for that was not answered yet.
    async fn start_test(&mut self, tasks: &mut JoinSet<Done>) {
        if self.testing || self.stand_back.is_some() {
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
                .values()
                .map(|lane| lane.cursor.environment.clone())
                .collect()
        });
        let installation = self.office.installation.clone();
        let hash = Sha256::digest(format!("{}\n{request}", self.uid));
        let id = format!("test-{}", base32(&hash));
        let now = Timestamp::now();
        let body = match self.wish.kind {
            Kind::Slack => {
                let origin = slack::Origin {
                    cluster: &installation.cluster,
                    links: None,
                };
                slack::test(&origin, &self.title(), &environments).to_body()
            }
            Kind::Webhook => {
                let environment = environments.first().map_or("", String::as_str);
                payload::test_body(&installation, environment, now)
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

    fn tested(&mut self, request: String, id: String, receipt: &Receipt) {
        self.testing = false;
        self.status.last_handled_test = Some(request);
        self.due = Due::Soon;
        let time = Timestamp::now();
        match &receipt.verdict {
            Verdict::Delivered => {
                self.status.last_delivery = Some(Delivery {
                    event_id: id,
                    snapshot: None,
                    time,
                    attempts: 1,
                    http_status: receipt.status.map_or(0, i64::from),
                    latency_ms: i64::try_from(receipt.latency.as_millis()).unwrap_or(i64::MAX),
                });
                self.pulse.retry_now(); // the destination is well: what waits needn't
                let note = "the test message was delivered".to_owned();
                self.publish(EventType::Normal, "TestDelivered", note);
            }
            failed => {
                let reason = failed.reason().map_or("", Reason::as_str);
                self.note_failure(id, time, reason, failed.message(), 1);
                self.publish(
                    EventType::Warning,
                    "TestFailed",
                    failed.message().to_owned(),
                );
            }
        }
        self.note_denied(&receipt.verdict);
    }

    /// Records a Kubernetes Event, without waiting for it.
    fn publish(&self, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Deliver".to_owned(),
            secondary: None,
        };
        let reference = self.setting.borrow().object_ref(&());
        let (office, title) = (self.office.clone(), self.title());
        tokio::spawn(async move {
            let published = office.events.publish(&event, &reference);
            match timeout(WRITE_TIMEOUT, published).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(setting = title, %error, "can't record an Event"),
                Err(_) => debug!(setting = title, "can't record an Event: no answer"),
            }
        });
    }

    // ---- the status ----

    /// When the status is to be written next.
    fn write_at(&self) -> Option<Instant> {
        if self.writing || self.stand_back.is_some() {
            return None;
        }
        // Not before all cursors are placed that can be: a setting that was handled has none that is missing.
        let earliest = self
            .write_after
            .max(self.waiting.unwrap_or(self.write_after));
        let full = self.lanes.values().any(|lane| lane.ahead.is_full());
        let interval = match self.due {
            Due::Never => return None,
            _ if full => return Some(earliest),
            Due::Lazily => LAZY_INTERVAL,
            Due::Soon => WRITE_INTERVAL,
        };
        Some(
            self.wrote_at
                .map_or(earliest, |at| (at + interval).max(earliest)),
        )
    }

    /// Whether the status has to be written before the program may stop.
    fn owes_status(&self) -> bool {
        let placing = self.waiting.is_some() && self.written.observed_generation.is_none();
        let unwritten = self.due != Due::Never || self.lanes.values().any(|lane| lane.ahead.any());
        unwritten && !placing && self.stand_back.is_none()
    }

    /// When to wake up if nothing happens.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(300);
        let hub = &self.office.hub;
        let now = hub.now();
        let next = self.pulse.may_send(now).err().flatten();
        let unread = self.lanes.values().map(|lane| lane.unread.1);
        let moments = unread.chain(next).filter(|moment| *moment > now);
        let moment = moments.min().map(|moment| hub.instant(moment));
        [moment, self.write_at(), self.look_again, self.stand_back]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    /// Puts the status together and begins to write it, if it says anything new.
    async fn write(&mut self, tasks: &mut JoinSet<Done>) {
        self.due = Due::Never;
        self.wrote_at = Some(Instant::now());
        self.waiting = None;
        let (pending, oldest) = self.count_pending().await;
        let wall = Timestamp::now();
        let moment = self.office.hub.now();
        let next_attempt = self
            .pulse
            .next_attempt()
            .filter(|_| self.destination.is_some() && !self.is_suspended())
            .map(|at| {
                wall + SignedDuration::try_from(at.saturating_sub(moment)).unwrap_or_default()
            });
        self.status.cursors = self
            .lanes
            .values()
            .map(|lane| lane.cursor.clone())
            .collect();
        self.status.oldest_pending_time = oldest.map(condition::whole_seconds);
        let since = self
            .amiss_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        let facts = Facts {
            generation: self.spec_generation,
            unsound: self.amiss.first().map(|why| (why, since)),
            trouble: self.pulse.trouble.as_ref(),
            next_attempt,
            suspended: self.is_suspended(),
            pending,
            now: wall,
        };
        tell(&mut self.status, &facts);
        if self.status == self.written {
            return;
        }
        let attempt = Attempt {
            cursors: self.status.cursors.clone(),
            counted: self
                .lanes
                .iter()
                .map(|(uid, lane)| (uid.clone(), lane.token, lane.ahead))
                .collect(),
        };
        if self.unheard.len() >= UNHEARD {
            self.unheard.remove(1); // the first is the likeliest to have been carried out, and then the last
        }
        self.unheard.push(attempt.clone());
        let mut object = self.setting.borrow().clone();
        object.metadata.resource_version.clone_from(&self.version);
        object.metadata.managed_fields = None;
        object.status = Some(self.status.clone());
        let api: Api<NotificationSetting> =
            Api::namespaced(self.office.client.clone(), &self.namespace);
        let name = self.name.clone();
        self.writing = true;
        tasks.spawn(async move {
            let params = PostParams::default();
            let write = api.replace_status(&name, &params, &object);
            let late = || kube::Error::Service("no answer from the API server".into());
            let result = timeout(WRITE_TIMEOUT, write).await;
            let result = result.unwrap_or_else(|_| Err(late())).map(Box::new);
            Done::Written { result, attempt }
        });
    }

    async fn wrote(
        &mut self,
        result: Result<Box<NotificationSetting>, kube::Error>,
        attempt: Attempt,
    ) {
        match result {
            Ok(object) => {
                self.version = object.resource_version();
                self.accept(object.status.unwrap_or_default(), &attempt);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => self.conflict().await,
            Err(kube::Error::Api(status)) if status.code == 404 => {} // the watch will tell
            Err(error) => {
                warn!(setting = %self.title(), %error, "can't write the status; sending stops at the window");
                self.write_after = Instant::now() + self.write_pause;
                self.write_pause = (self.write_pause * 2).min(Duration::from_secs(30));
                self.due = Due::Soon;
            }
        }
    }

    /// The API server has this status, as it was written by this attempt.
    fn accept(&mut self, status: NotificationSettingStatus, attempt: &Attempt) {
        let now = self.office.hub.now();
        self.written = status;
        self.write_pause = WRITE_INTERVAL;
        self.conflicts = 0;
        self.unheard.clear();
        for (uid, token, ahead) in &attempt.counted {
            if let Some(lane) = self.lanes.get_mut(uid).filter(|lane| lane.token == *token) {
                lane.ahead.written(*ahead, now);
            }
        }
        self.office
            .passed
            .put(&self.uid, self.written.cursors.clone());
        if self.lanes.values().any(|lane| lane.ahead.any()) {
            self.due = Due::Soon;
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
    async fn conflict(&mut self) {
        debug!(setting = %self.title(), version = self.version, "the status was written on an older object than there is");
        self.due = Due::Soon;
        self.wrote_at = None;
        // Whoever edits it all the time must not make us run in circles.
        self.conflicts += 1;
        let pause = Duration::from_millis(50) * self.conflicts.saturating_sub(4).min(20);
        self.write_after = Instant::now() + pause;
        let found = match self.find().await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.due = Due::Never; // it is gone, or another setting of this name
                return;
            }
            Err(_) => {
                self.write_after = Instant::now() + WRITE_INTERVAL;
                return;
            }
        };
        self.version = found.resource_version();
        let status = found.status.unwrap_or_default();
        let cursors = sorted(&status.cursors);
        if cursors == sorted(&self.written.cursors) {
            self.written = status;
        } else if let Some(ours) = self
            .unheard
            .iter()
            .find(|attempt| sorted(&attempt.cursors) == cursors)
            .cloned()
        {
            self.accept(status, &ours); // it was written, and only the answer was lost
            self.due = Due::Soon;
        } else {
            warn!(setting = %self.title(), "someone else writes this setting's status; standing back for a while");
            self.stand_back = Some(Instant::now() + STAND_BACK);
        }
    }

    /// Takes the setting up again where another one left it.
    async fn come_back(&mut self) {
        let found = match self.find().await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.stand_back = Some(Instant::now() + STAND_BACK); // the watch will tell
                return;
            }
            Err(_) => {
                self.stand_back = Some(Instant::now() + WRITE_INTERVAL);
                return;
            }
        };
        self.stand_back = None;
        self.version = found.resource_version();
        self.written = found.status.unwrap_or_default();
        self.status = self.written.clone();
        self.unheard.clear();
        let (trouble, attempts) = trouble(&self.status).unzip();
        self.pulse = Pulse::resumed(trouble, attempts.unwrap_or_default());
        // A cursor that was lost altogether is better kept than set anew.
        for cursor in self.status.cursors.clone() {
            self.open_lane(cursor);
        }
        for lane in self.lanes.values_mut() {
            lane.ahead = Ahead::default();
        }
        self.due = Due::Soon;
        self.examine().await;
    }

    /// How many events wait, and when the oldest of them happened.
    async fn count_pending(&mut self) -> (i64, Option<Timestamp>) {
        let mut budget = COUNTED;
        let mut pending = 0;
        let mut oldest: Option<Timestamp> = None;
        let uids: Vec<_> = self.lanes.keys().cloned().collect();
        for uid in uids {
            let all = self.count(&uid, &mut budget).await;
            let (count, time) = self.waiting_in(&uid).await;
            pending += count;
            oldest = [oldest, time].into_iter().flatten().min();
            if !all {
                self.due = Due::Soon; // the rest is counted for the next write
            }
        }
        (i64::try_from(pending).unwrap_or(i64::MAX), oldest)
    }

    /// Counts what waits in a lane, with so many reads at most; false if it takes more.
    async fn count(&mut self, uid: &str, budget: &mut usize) -> bool {
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
    async fn waiting_in(&self, uid: &str) -> (usize, Option<Timestamp>) {
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

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Lane {
    fn at(token: u64, cursor: Cursor) -> Self {
        let index = cursor.index;
        Self {
            token,
            cursor,
            ahead: Ahead::default(),
            backlog: Backlog::default(),
            busy: false,
            seen: index,
            head: index,
            unread: (0, Moment::ZERO),
            ending: None,
        }
    }

    /// Its environment is gone, and nothing that we know of its log is left to send.
    fn is_through(&self) -> bool {
        self.ending.is_some() && !self.busy && self.cursor.index >= self.head
    }
}

/// Since when a setting is not ready, as its status says.
fn unsound_since(status: &NotificationSettingStatus) -> Option<Instant> {
    let ready =
        condition::find(&status.conditions, READY).filter(|ready| ready.status == "False")?;
    let age = Timestamp::now().duration_since(ready.last_transition_time.0);
    Instant::now().checked_sub(Duration::try_from(age).ok()?)
}

fn sorted(cursors: &[Cursor]) -> Vec<Cursor> {
    let mut cursors = cursors.to_vec();
    cursors.sort_by(|a, b| a.environment_uid.cmp(&b.environment_uid));
    cursors
}

fn outcome_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Retry { .. } => "retry",
        Verdict::Refused { .. } => "refused",
        Verdict::Hold { .. } | Verdict::Gone { .. } => "held",
    }
}

/// At most so many characters.
fn shorten_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
