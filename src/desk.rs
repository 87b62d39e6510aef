//! The desk of one setting: what it asks for, how far it has got, and what its status says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::PostParams,
    runtime::events::{Event, EventType},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    api::{
        Environment, NotificationSetting, NotificationSettingStatus, TEST_ANNOTATION,
        setting::{Cursor, DeadLetter, Delivery, Failure, SkippedRange},
    },
    carry::{Load, Outcome, Sent, Skipped},
    destination::{self, NoDestination},
    dispatch::Dispatcher,
    environments::Known,
    logbook::LogError,
    model::{
        backoff,
        destination::{Destination, Kind},
        event::base32,
        outbox::{Ahead, Pulse, Start, Wish, is_older, start},
        payload, slack,
        standing::{Facts, Unsound, tell},
        verdict::{Reason, Verdict},
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
/// More environments than this are not followed by a setting that names none.
const MAX_ENVIRONMENTS: usize = 1_024;

/// How far the log of one environment has been sent.
struct Lane {
    cursor: Cursor,
    ahead: Ahead,
    busy: bool,
    /// Nothing is left to send up to this snapshot.
    seen: i64,
    head: i64,
    /// How the lane ends when nothing is left: its environment is gone.
    ending: bool,
    /// Tells this lane from earlier ones of the same environment: what was begun for those is no news of this one.
    number: u64,
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
        lane: u64,
        began: Timestamp,
        outcome: Outcome,
    },
    Tested {
        request: String,
        id: String,
        receipt: Receipt,
    },
}

type Written = (
    Result<NotificationSetting, kube::Error>,
    Vec<(String, Ahead)>,
);

/// The cursors of a write, and how far each lane was ahead of the one before.
type Attempt = (Vec<Cursor>, Vec<(String, Ahead)>);

/// The desk of one setting.
pub struct Desk {
    office: Arc<Dispatcher>,
    setting: watch::Receiver<NotificationSetting>,
    placed: Option<mpsc::Sender<()>>,
    namespace: String,
    name: String,
    uid: String,
    seed: u64,
    spec_generation: Option<i64>,
    wish: Wish,
    status: NotificationSettingStatus,
    /// The status as the API server has it, and its version.
    written: NotificationSettingStatus,
    version: Option<String>,
    lanes: BTreeMap<String, Lane>,
    pulse: Pulse,
    /// The lane that failed: it goes first.
    probe: Option<String>,
    /// When the last attempt failed.
    failed_at: Option<Timestamp>,
    destination: Option<Destination>,
    destination_read: Option<Instant>,
    unsound: Option<(Unsound, Instant)>,
    look_again: Option<Instant>,
    due: Due,
    wrote_at: Option<Instant>,
    write_pause: Duration,
    write_after: Instant,
    waiting: Option<Instant>,
    counts: BTreeMap<(String, i64), (usize, Timestamp)>,
    /// Writes that may have been carried out though we never heard of it.
    unheard: Vec<Attempt>,
    /// Someone else writes the status: nothing is done until then.
    stand_back: Option<Instant>,
    lanes_made: u64,
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
        Self {
            namespace: first.namespace().unwrap_or_default(),
            name: first.name_any(),
            seed: backoff::seed(&uid),
            spec_generation: None,
            wish: Wish::of(&first.spec),
            written: status.clone(),
            version: first.resource_version(),
            lanes: BTreeMap::new(),
            pulse: Pulse::default(),
            probe: None,
            failed_at: None,
            destination: None,
            destination_read: None,
            unsound: None,
            look_again: None,
            due: Due::Never,
            wrote_at: None,
            write_pause: WRITE_INTERVAL,
            write_after: Instant::now(),
            waiting: Some(Instant::now() + Duration::from_secs(8)),
            counts: BTreeMap::new(),
            unheard: vec![],
            stand_back: None,
            lanes_made: 0,
            uid,
            status,
            office,
            setting,
            placed,
        }
    }

    /// Works until the setting is gone, or the program is to stop: then nothing new is sent, and what is under way is
    /// finished and written down.
    pub async fn run(mut self) {
        let stop = self.office.stop.clone();
        let mut stopping = false;
        let mut environments = self.office.environments.subscribe();
        let mut done: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut writing: Option<BoxFuture<'static, Written>> = None;
        let mut testing = false;
        self.seat_lanes();
        self.examine().await;
        loop {
            stopping |= stop.is_cancelled();
            if stopping {
                if done.is_empty() && writing.is_none() {
                    if !self.owes_status() {
                        return;
                    }
                    sleep_until(self.write_after).await;
                    writing = self.write().await;
                    if writing.is_none() {
                        return;
                    }
                }
            } else {
                self.start_lanes(&mut done).await;
                if !testing && let Some(test) = self.test() {
                    testing = true;
                    done.push(test);
                }
                if writing.is_none() && self.write_at().is_some_and(|at| at <= Instant::now()) {
                    writing = self.write().await;
                }
            }
            if self.waiting.is_none() && self.due == Due::Never && writing.is_none() {
                self.placed = None; // all cursors are where they should be, and nothing is to be written
            }
            let wake = self.wake(writing.is_some());
            tokio::select! {
                Some(finished) = done.next(), if !done.is_empty() => match finished {
                    Done::Carried { uid, lane, began, outcome } => {
                        self.carried(&uid, lane, began, outcome).await;
                    }
                    Done::Tested { request, id, receipt } => {
                        testing = false;
                        self.tested(request, id, receipt).await;
                    }
                },
                written = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                    writing = None;
                    self.wrote(written).await;
                }
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

    // ---- what is asked for ----

    async fn setting_changed(&mut self) {
        let setting = self.setting.borrow_and_update().clone();
        // The watch may tell of what was before our own last write.
        let number = |version: &Option<String>| {
            crate::model::view::version(version.as_deref().unwrap_or_default())
        };
        let seen = setting.resource_version();
        if number(&seen) > number(&self.version) {
            self.version = seen;
        }
        if setting.metadata.generation != self.spec_generation {
            self.examine().await;
        }
    }

    async fn environments_changed(&mut self) {
        let changed = self.place().await;
        if changed || self.pulse.trouble.is_some() || self.is_suspended() {
            self.due = Due::Soon;
        }
    }

    /// A clock has run out: look at what may have changed without a word.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.stand_back.is_some_and(|until| until <= now) {
            self.go_on().await;
        }
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.read_destination().await;
            self.place().await;
        }
    }

    fn is_suspended(&self) -> bool {
        self.setting.borrow().spec.suspend == Some(true)
    }

    /// Takes in a new spec.
    async fn examine(&mut self) {
        let setting = self.setting.borrow().clone();
        let first = self.spec_generation.is_none();
        self.spec_generation = setting.metadata.generation;
        self.wish = Wish::of(&setting.spec);
        self.counts.clear();
        self.status.destination = Some(self.wish.kind.as_str().to_owned());
        let names = setting
            .spec
            .environments
            .as_ref()
            .map(|names| names.join(","));
        self.status.environments = Some(shorten(names.as_deref().unwrap_or("*")));
        self.destination = None;
        self.destination_read = None;
        self.pulse.retry_now();
        for lane in self.lanes.values_mut() {
            lane.seen = lane.cursor.index; // other events may be asked for
        }
        self.read_destination().await;
        self.place().await;
        if !first
            || self.status.observed_generation != self.spec_generation
            || self.status.conditions.is_empty()
        {
            self.due = Due::Soon;
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
                self.look_again = Some(Instant::now() + LOOK_AGAIN.0);
                return;
            }
        };
        match found {
            Ok(destination) => {
                let same = self
                    .destination
                    .as_ref()
                    .is_some_and(|known| known.key() == destination.key());
                if !same {
                    self.pulse.retry_now();
                }
                self.destination = Some(destination);
                self.set_unsound(None);
            }
            Err(why) => {
                self.destination = None;
                self.set_unsound(Some(why));
            }
        }
    }

    /// Why the destination or the environments are not sound; the destination's trouble comes first.
    fn set_unsound(&mut self, why: Option<Unsound>) {
        let before = self.unsound.as_ref().map(|(why, _)| why.clone());
        if before == why {
            return;
        }
        let since = self
            .unsound
            .as_ref()
            .map_or_else(Instant::now, |(_, since)| *since);
        self.unsound = why.map(|why| (why, since));
        self.due = Due::Soon;
    }

    /// Makes a lane for every environment that is asked for and may be seen, and ends those of others. True if any changed.
    async fn place(&mut self) -> bool {
        let spec = self.setting.borrow().spec.clone();
        let all = self.office.environments.all();
        let visible = |known: &Known| known.is_visible_to(&self.namespace);
        let mut amiss = None;
        let wanted: BTreeMap<String, Known> = match &spec.environments {
            None => {
                let mut seen: BTreeMap<_, _> = all
                    .iter()
                    .filter(|(_, known)| visible(known))
                    .map(|(name, known)| (name.clone(), known.clone()))
                    .collect();
                if seen.len() > MAX_ENVIRONMENTS {
                    amiss = Some(Unsound::new(
                        "TooManyEnvironments",
                        format!(
                            "this namespace may see {} environments, and a setting follows {MAX_ENVIRONMENTS} at most: name them in spec.environments",
                            seen.len()
                        ),
                    ));
                    seen.clear();
                } else if seen.is_empty() {
                    amiss = Some(Unsound::new(
                        "NoEnvironments",
                        format!(
                            "no Environment is visible to namespace {0}: add {0} to the visibleTo of one",
                            self.namespace
                        ),
                    ));
                }
                seen
            }
            Some(names) => {
                let missing: Vec<_> = names
                    .iter()
                    .filter(|name| !all.contains_key(*name))
                    .map(String::as_str)
                    .collect();
                let hidden: Vec<_> = names
                    .iter()
                    .filter(|name| all.get(*name).is_some_and(|known| !visible(known)))
                    .map(String::as_str)
                    .collect();
                if !missing.is_empty() {
                    let there: Vec<_> = all
                        .iter()
                        .filter(|(_, known)| visible(known))
                        .map(|(name, _)| name.as_str())
                        .collect();
                    let there = if there.is_empty() {
                        "none is".to_owned()
                    } else {
                        format!("visible here: {}", there.join(", "))
                    };
                    amiss = Some(Unsound::new(
                        "EnvironmentNotFound",
                        shorten_to(
                            &format!(
                                "spec.environments: there is no Environment {} ({there})",
                                missing.join(", ")
                            ),
                            1_000,
                        ),
                    ));
                } else if !hidden.is_empty() {
                    amiss = Some(Unsound::new(
                        "EnvironmentNotVisible",
                        shorten_to(
                            &format!(
                                "spec.environments: {} may not be seen from namespace {1}: a platform admin can add {1} to its spec.visibleTo",
                                hidden.join(", "),
                                self.namespace
                            ),
                            1_000,
                        ),
                    ));
                }
                names
                    .iter()
                    .filter_map(|name| {
                        Some((
                            name.clone(),
                            all.get(name).filter(|known| visible(known))?.clone(),
                        ))
                    })
                    .collect()
            }
        };
        if self.destination.is_some() {
            self.set_unsound(amiss);
        }
        let mut changed = self.end_lanes(&spec.environments, &all);
        let mut complete = true;
        match self.finish_lanes().await {
            Ok(finished) => changed |= finished,
            Err(error) => {
                warn!(setting = %self.title(), %error, "can't tell what is left of a deleted environment; trying again");
                complete = false;
            }
        }
        for (name, known) in wanted {
            let Some((head, _)) = known.head else {
                complete = false;
                continue;
            };
            if self.lanes.contains_key(&known.uid) {
                match self.compare(&name, &known.uid, head).await {
                    Ok(reset) => changed |= reset,
                    Err(error) => {
                        warn!(setting = %self.title(), environment = name, %error, "can't compare the cursor with the log; trying again");
                        complete = false;
                    }
                }
                continue;
            }
            match self.first_cursor(&name, &known, head).await {
                Ok(cursor) => {
                    debug!(setting = %self.title(), environment = name, index = cursor.index, "starts");
                    self.seat(cursor).head = head;
                    changed = true;
                }
                Err(error) => {
                    warn!(setting = %self.title(), environment = name, %error, "can't place the cursor; trying again");
                    complete = false;
                }
            }
        }
        if changed {
            self.due = Due::Soon;
        }
        if complete {
            self.waiting = None;
        }
        changed
    }

    /// Takes up where a log ends now. A cursor that is ahead of it was lost its log: it starts at the head. True if so.
    async fn compare(&mut self, name: &str, uid: &str, head: i64) -> Result<bool, LogError> {
        let Some(lane) = self.lanes.get_mut(uid) else {
            return Ok(false);
        };
        let Cursor { index, ordinal, .. } = lane.cursor;
        let cursor = Cursor {
            index: index.min(head),
            ordinal: 0,
            ..lane.cursor.clone()
        };
        let reached = index + i64::from(ordinal > 0);
        if reached <= head || lane.busy {
            lane.head = lane.head.max(head);
            return Ok(false);
        }
        // Another replica may have appended and sent what ours has not heard of yet.
        if self
            .office
            .logbook
            .read_anew(name, uid, reached)
            .await?
            .is_some()
        {
            return Ok(false);
        }
        warn!(setting = %self.title(), environment = name, index, head, "the cursor is ahead of the log; starting at its head");
        self.seat(cursor).head = head;
        let skipped = Skipped {
            from: head,
            to: head,
            count: -1,
            reason: "CursorReset",
        };
        self.note_skipped(name, &[skipped]);
        Ok(true)
    }

    /// A new lane that starts at a cursor.
    fn seat(&mut self, cursor: Cursor) -> &mut Lane {
        self.lanes_made += 1;
        let uid = cursor.environment_uid.clone();
        let mut lane = Lane::at(cursor);
        lane.number = self.lanes_made;
        self.lanes.insert(uid.clone(), lane);
        self.lanes.get_mut(&uid).expect("just inserted")
    }

    /// Lanes as the status says, and no others.
    fn seat_lanes(&mut self) {
        self.lanes.clear();
        for cursor in self.status.cursors.clone() {
            self.seat(cursor);
        }
    }

    /// Where sending starts in an environment that this setting hears of for the first time.
    async fn first_cursor(&self, name: &str, known: &Known, head: i64) -> Result<Cursor, LogError> {
        let (generation, created, version) = {
            let setting = self.setting.borrow();
            let created = setting
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second());
            let version = setting
                .metadata
                .resource_version
                .as_deref()
                .map_or(0, crate::model::view::version);
            (setting.metadata.generation.unwrap_or(1), created, version)
        };
        let start = start(
            self.written.observed_generation,
            generation,
            known.generation,
        );
        let index = if start == Start::AtHead {
            head
        } else {
            let lines = self.office.logbook.lines(name, Some(&known.uid)).await?;
            let entries = || lines.iter().filter(|line| !line.chunk);
            let older = |line: &&crate::logbook::Line| {
                is_older((line.created.as_second(), line.version), (created, version))
            };
            let aged = entries()
                .filter(older)
                .map(|line| line.index)
                .max()
                .filter(|_| start == Start::AtAge);
            aged.or_else(|| entries().map(|line| line.index).min())
                .unwrap_or(head)
        };
        Ok(Cursor {
            environment: name.to_owned(),
            environment_uid: known.uid.clone(),
            index,
            ordinal: 0,
        })
    }

    /// Ends the lanes of environments that are not asked for any more or may not be seen; those of deleted ones are
    /// finished first. True if any ended.
    fn end_lanes(&mut self, names: &Option<Vec<String>>, all: &BTreeMap<String, Known>) -> bool {
        let mut ended = vec![];
        for (uid, lane) in &mut self.lanes {
            let name = &lane.cursor.environment;
            let listed = names.as_ref().is_none_or(|names| names.contains(name));
            match all.get(name).filter(|known| known.uid == *uid) {
                _ if !listed => ended.push((uid.clone(), "EnvironmentLeft")),
                Some(known) if !known.is_visible_to(&self.namespace) => {
                    ended.push((uid.clone(), "EnvironmentNotVisible"))
                }
                Some(_) => lane.ending = false,
                None => lane.ending = true,
            }
        }
        for (uid, reason) in &ended {
            if let Some(lane) = self.lanes.remove(uid)
                && lane.head > lane.cursor.index
            {
                let skipped = Skipped {
                    from: lane.cursor.index + 1,
                    to: lane.head,
                    count: -1,
                    reason,
                };
                self.note_skipped(&lane.cursor.environment, &[skipped]);
            }
        }
        !ended.is_empty()
    }

    /// Ends the lanes of deleted environments in which nothing is left to send. True if any ended.
    async fn finish_lanes(&mut self) -> Result<bool, LogError> {
        let api: Api<Environment> = Api::all(self.office.client.clone());
        let idle = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.ending && !lane.busy && lane.cursor.index >= lane.head);
        let idle: Vec<_> = idle
            .map(|(uid, lane)| (uid.clone(), lane.cursor.environment.clone()))
            .collect();
        let mut any = false;
        for (uid, environment) in idle {
            // Where its log ends may have escaped us, and it may live without our having heard of it.
            let found = timeout(WRITE_TIMEOUT, api.get_metadata_opt(&environment));
            let found = found.await.map_err(|_| LogError::Timeout)??;
            if found.is_some_and(|found| found.uid().as_deref() == Some(uid.as_str())) {
                continue;
            }
            let lines = self.office.logbook.lines(&environment, Some(&uid)).await?;
            let head = lines
                .iter()
                .filter(|line| !line.chunk)
                .map(|line| line.index)
                .max();
            let Some(lane) = self.lanes.get_mut(&uid) else {
                continue;
            };
            lane.head = lane.head.max(head.unwrap_or(0));
            if lane.cursor.index >= lane.head {
                self.lanes.remove(&uid);
                any = true;
            }
        }
        Ok(any)
    }

    // ---- sending ----

    /// Starts a request in every lane that has something to send and may.
    async fn start_lanes(&mut self, done: &mut FuturesUnordered<BoxFuture<'static, Done>>) {
        if self.is_suspended()
            || self.stand_back.is_some()
            || self.status.observed_generation.is_none()
                && self.written.observed_generation.is_none()
        {
            return; // a setting that was never handled gets its cursors written first
        }
        let now = self.office.hub.now();
        if self.pulse.may_send(now).is_err() {
            return;
        }
        let cautious = self.pulse.trouble.is_some();
        if cautious && self.lanes.values().any(|lane| lane.busy) {
            return; // one attempt tells whether the destination is well again
        }
        let has_work =
            |lane: &Lane| !lane.busy && lane.seen < lane.head && lane.ahead.may_send(now);
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
        let began = Timestamp::now();
        let max_age = SignedDuration::try_from(self.wish.max_age).unwrap_or(SignedDuration::MAX);
        let expired_before = self.failed_at.and_then(|at| at.checked_sub(max_age).ok());
        for uid in ready {
            let Some(lane) = self.lanes.get_mut(&uid) else {
                continue;
            };
            lane.busy = true;
            let number = lane.number;
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
            done.push(
                async move {
                    Done::Carried {
                        uid,
                        lane: number,
                        began,
                        outcome: load.carry().await,
                    }
                }
                .boxed(),
            );
        }
    }

    async fn carried(&mut self, uid: &str, number: u64, began: Timestamp, outcome: Outcome) {
        let now = self.office.hub.now();
        let of = |lane: &&mut Lane| lane.number == number;
        let Some(lane) = self.lanes.get_mut(uid).filter(of) else {
            return;
        };
        lane.busy = false;
        let environment = lane.cursor.environment.clone();
        if lane.cursor != outcome.cursor {
            lane.cursor = outcome.cursor;
            self.due = self.due.max(Due::Lazily);
        }
        match outcome.sent {
            Ok(None) => lane.seen = lane.cursor.index.max(lane.head.min(lane.cursor.index)),
            Ok(Some(sent)) => self.answered(uid, began, sent, now).await,
            Err(error) => {
                warn!(setting = %self.title(), environment, %error, "can't read the log; trying again");
                self.pulse.after(
                    &Verdict::Retry {
                        after: None,
                        reason: Reason::Timeout,
                        message: "the log can't be read".to_owned(),
                    },
                    self.seed,
                    now,
                );
            }
        }
        if !outcome.skipped.is_empty() {
            self.note_skipped(&environment, &outcome.skipped);
            self.due = Due::Soon;
        }
        if self
            .lanes
            .get(uid)
            .is_some_and(|lane| lane.ending && lane.cursor.index >= lane.head)
        {
            self.lanes.remove(uid);
            self.due = Due::Soon;
        }
    }

    async fn answered(
        &mut self,
        uid: &str,
        began: Timestamp,
        sent: Sent,
        now: crate::model::Moment,
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
        self.office.metrics.delivered(
            self.wish.kind.as_str(),
            outcome_word(verdict),
            receipt.latency.as_secs_f64(),
        );
        let attempts = i64::from(self.pulse.attempts) + 1;
        let was_well = self.pulse.trouble.is_none();
        let before = self.pulse.trouble.clone();
        self.pulse.after(verdict, self.seed, now);
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
                self.failed_at = Some(began);
                self.due = Due::Soon;
                if let Some(lane) = self.lanes.get_mut(uid) {
                    lane.seen = lane.cursor.index;
                }
            }
        }
        if verdict.reason() == Some(Reason::DestinationDenied) {
            self.set_unsound(Some(Unsound::new("DestinationDenied", verdict.message())));
        }
        match (&self.pulse.trouble, was_well) {
            (Some(trouble), true) => {
                let note = format!("{} (attempts go on)", trouble.message);
                self.publish(EventType::Warning, "DeliveryFailing", note)
                    .await;
            }
            (None, false) => {
                self.failed_at = None;
                self.probe = None;
                if before
                    .is_some_and(|trouble| trouble.reason == Reason::DestinationDenied.as_str())
                {
                    self.set_unsound(None);
                }
                let failures = attempts - 1;
                self.publish(
                    EventType::Normal,
                    "DeliveryRecovered",
                    format!("delivering again after {failures} failed attempts"),
                )
                .await;
            }
            _ => {}
        }
    }

    fn advance(&mut self, uid: &str, after: Cursor, events: usize, now: crate::model::Moment) {
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

    /// The request for a test message, if there is one that was not answered.
    fn test(&self) -> Option<BoxFuture<'static, Done>> {
        let (request, environments) = {
            let setting = self.setting.borrow();
            let request = setting
                .annotations()
                .get(TEST_ANNOTATION)?
                .chars()
                .take(256)
                .collect::<String>();
            (request, setting.spec.environments.clone())
        };
        if self.status.last_handled_test.as_ref() == Some(&request) || self.stand_back.is_some() {
            return None;
        }
        let destination = self.destination.clone()?;
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
        let test = async move {
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
        };
        Some(test.boxed())
    }

    async fn tested(&mut self, request: String, id: String, receipt: Receipt) {
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
                self.publish(
                    EventType::Normal,
                    "TestDelivered",
                    "the test message was delivered".to_owned(),
                )
                .await;
            }
            failed => {
                let reason = failed.reason().map_or("", Reason::as_str);
                self.note_failure(id, time, reason, failed.message(), 1);
                if failed.reason() == Some(Reason::DestinationDenied) {
                    self.set_unsound(Some(Unsound::new("DestinationDenied", failed.message())));
                }
                self.publish(
                    EventType::Warning,
                    "TestFailed",
                    failed.message().to_owned(),
                )
                .await;
            }
        }
    }

    async fn publish(&self, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Deliver".to_owned(),
            secondary: None,
        };
        let reference = self.setting.borrow().object_ref(&());
        match timeout(
            WRITE_TIMEOUT,
            self.office.events.publish(&event, &reference),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(setting = %self.title(), %error, "can't record an Event"),
            Err(_) => debug!(setting = %self.title(), "can't record an Event: no answer"),
        }
    }

    // ---- the status ----

    /// When the status is to be written next.
    fn write_at(&self) -> Option<Instant> {
        if self.stand_back.is_some() {
            return None;
        }
        let earliest = self.write_after;
        if let Some(until) = self.waiting {
            // Not before all cursors are placed that can be: a setting that was handled has none that is missing.
            if until > Instant::now() && self.written.observed_generation.is_none() {
                return Some(until);
            }
        }
        let full = self.lanes.values().any(|lane| lane.ahead.is_full());
        let interval = match self.due {
            _ if full => return Some(earliest),
            Due::Never => return None,
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
    fn wake(&self, writing: bool) -> Instant {
        let far = Instant::now() + Duration::from_secs(300);
        let hub = &self.office.hub;
        let now = hub.now();
        let next = self
            .pulse
            .may_send(now)
            .err()
            .flatten()
            .map(|moment| hub.instant(moment));
        let write = self.write_at().filter(|_| !writing);
        // A reason that only holds for a while (Reconciling) has to be taken back.
        [next, write, self.look_again, self.stand_back]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    /// Puts the status together and begins to write it; `None` if it says nothing new.
    async fn write(&mut self) -> Option<BoxFuture<'static, Written>> {
        self.due = Due::Never;
        self.wrote_at = Some(Instant::now());
        let (pending, oldest) = self.count_pending().await;
        let wall = Timestamp::now();
        let hub = &self.office.hub;
        let (moment, suspended) = (hub.now(), self.is_suspended());
        let next_attempt = self.pulse.next_attempt().map(|at| {
            wall + SignedDuration::try_from(at.saturating_sub(moment)).unwrap_or_default()
        });
        self.status.cursors = self
            .lanes
            .values()
            .map(|lane| lane.cursor.clone())
            .collect();
        self.status.oldest_pending_time = oldest.map(crate::api::condition::whole_seconds);
        let unsound = self
            .unsound
            .as_ref()
            .map(|(why, since)| (why, since.elapsed()));
        let facts = Facts {
            generation: self.spec_generation,
            unsound,
            trouble: self.pulse.trouble.as_ref(),
            next_attempt,
            suspended,
            pending,
            now: wall,
        };
        tell(&mut self.status, &facts);
        self.plan_look();
        if self.status == self.written {
            self.done_placing();
            return None;
        }
        let counted: Vec<_> = self
            .lanes
            .iter()
            .map(|(uid, lane)| (uid.clone(), lane.ahead))
            .collect();
        if self.unheard.len() >= UNHEARD {
            self.unheard.remove(1); // the first is the likeliest to have been carried out, and then the last
        }
        self.unheard.push((sorted(&self.status), counted.clone()));
        let mut object = self.setting.borrow().clone();
        object.metadata.resource_version.clone_from(&self.version);
        object.metadata.managed_fields = None;
        object.status = Some(self.status.clone());
        let api: Api<NotificationSetting> =
            Api::namespaced(self.office.client.clone(), &self.namespace);
        let name = self.name.clone();
        let write = async move {
            let written = timeout(
                WRITE_TIMEOUT,
                api.replace_status(&name, &PostParams::default(), &object),
            )
            .await;
            let late = || kube::Error::Service("no answer from the API server".into());
            (written.unwrap_or_else(|_| Err(late())), counted)
        };
        Some(write.boxed())
    }

    /// What may change without a word is looked at again.
    fn plan_look(&mut self) {
        let held = self
            .pulse
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.held);
        let after = match &self.unsound {
            Some((_, since)) if since.elapsed() < crate::model::standing::PATIENCE => LOOK_AGAIN.0,
            Some(_) => LOOK_AGAIN.1,
            None if held => DESTINATION_FRESH,
            None => return,
        };
        self.look_again.get_or_insert(Instant::now() + after);
    }

    async fn wrote(&mut self, (written, counted): Written) {
        let now = self.office.hub.now();
        match written {
            Ok(object) => {
                self.version = object.resource_version();
                debug!(setting = %self.title(), version = self.version, "wrote the status");
                self.written = object.status.unwrap_or_default();
                self.write_pause = WRITE_INTERVAL;
                self.acknowledged(counted, now);
                self.done_placing();
                if self.lanes.values().any(|lane| lane.ahead.any()) {
                    self.due = Due::Soon;
                }
                if self.unsound.is_some() || self.pulse.trouble.is_some() {
                    self.plan_look();
                }
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

    /// The object changed since it was read: its spec or metadata, and all is well; or its status, and someone else
    /// writes it: then that one is right, and this one stands back.
    async fn conflict(&mut self) {
        let api: Api<NotificationSetting> =
            Api::namespaced(self.office.client.clone(), &self.namespace);
        debug!(setting = %self.title(), version = self.version, "the status was written on an older object than there is");
        self.due = Due::Soon;
        self.write_after = Instant::now();
        self.wrote_at = None;
        match timeout(WRITE_TIMEOUT, api.get_opt(&self.name)).await {
            Ok(Ok(Some(found))) if found.uid().as_deref() == Some(&self.uid) => {
                self.version = found.resource_version();
                let status = found.status.unwrap_or_default();
                let there = sorted(&status);
                if let Some(at) = self
                    .unheard
                    .iter()
                    .position(|(cursors, _)| *cursors == there)
                {
                    let (_, counted) = self.unheard.swap_remove(at);
                    self.written = status;
                    self.acknowledged(counted, self.office.hub.now());
                } else if there == sorted(&self.written) {
                    self.written = status;
                } else {
                    warn!(setting = %self.title(), "someone else writes this setting's status; standing back for a while");
                    self.stand_back = Some(Instant::now() + STAND_BACK);
                }
            }
            Ok(Ok(_)) => self.due = Due::Never, // it is another setting of this name
            _ => self.write_after = Instant::now() + WRITE_INTERVAL,
        }
    }

    /// The status is written, as it was when so much was ahead of it.
    fn acknowledged(&mut self, counted: Vec<(String, Ahead)>, now: crate::model::Moment) {
        self.unheard.clear();
        for (uid, ahead) in counted {
            if let Some(lane) = self.lanes.get_mut(&uid) {
                lane.ahead.written(ahead, now);
            }
        }
        let cursors = self.written.cursors.clone();
        self.office.passed.put(&self.uid, cursors);
    }

    /// The time of standing back is over: goes on from what the status says now.
    async fn go_on(&mut self) {
        let api: Api<NotificationSetting> =
            Api::namespaced(self.office.client.clone(), &self.namespace);
        let Ok(Ok(Some(found))) = timeout(WRITE_TIMEOUT, api.get_opt(&self.name)).await else {
            self.stand_back = Some(Instant::now() + LOOK_AGAIN.1);
            return;
        };
        self.stand_back = None;
        self.version = found.resource_version();
        self.status = found.status.unwrap_or_default();
        self.written = self.status.clone();
        self.unheard.clear();
        self.seat_lanes();
        self.place().await;
    }

    fn done_placing(&mut self) {
        if self.waiting.is_none_or(|until| until <= Instant::now()) {
            self.waiting = None;
            self.placed = None;
        }
    }

    /// How many events wait, and when the oldest of them happened.
    async fn count_pending(&mut self) -> (i64, Option<Timestamp>) {
        let mut pending = 0;
        let mut oldest: Option<Timestamp> = None;
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|(uid, lane)| (uid.clone(), lane.cursor.clone(), lane.head))
            .collect();
        for (uid, cursor, head) in lanes {
            self.counts
                .retain(|(of, index), _| *of != uid || *index > cursor.index);
            for index in cursor.index + 1..=head {
                let key = (uid.clone(), index);
                let (count, time) = match self.counts.get(&key).filter(|_| index > cursor.index + 1)
                {
                    Some(known) => *known,
                    None => {
                        let read = self
                            .office
                            .logbook
                            .read(&cursor.environment, &uid, index)
                            .await;
                        let snapshot = match read {
                            Ok(Some(snapshot)) => snapshot,
                            Ok(None) => continue,
                            Err(_) => break, // it won't tell the next one either, and each may take half a minute
                        };
                        let done = if index == cursor.index + 1 {
                            usize::try_from(cursor.ordinal).unwrap_or(0)
                        } else {
                            0
                        };
                        let known = (self.wish.count(&snapshot, done), snapshot.time);
                        self.counts.insert(key, known);
                        known
                    }
                };
                if count > 0 {
                    pending += i64::try_from(count).unwrap_or(i64::MAX);
                    oldest = Some(oldest.map_or(time, |oldest| oldest.min(time)));
                }
            }
        }
        (pending, oldest)
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Lane {
    fn at(cursor: Cursor) -> Self {
        let index = cursor.index;
        Self {
            cursor,
            ahead: Ahead::default(),
            busy: false,
            seen: index,
            head: index,
            ending: false,
            number: 0,
        }
    }
}

/// The cursors of a status, in an order that doesn't depend on who wrote it.
fn sorted(status: &NotificationSettingStatus) -> Vec<Cursor> {
    let mut cursors = status.cursors.clone();
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

fn shorten(text: &str) -> String {
    shorten_to(text, 256)
}

/// At most so many characters.
fn shorten_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
