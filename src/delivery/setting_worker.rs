#![expect(clippy::disallowed_methods, reason = "waits")]

//! The desk of one setting: what it asks for, how far it has got, and what its status says. Here is the life of it; each
//! of its works has a file of its own.

mod deliver;
mod environments;
mod pending;
mod status;
mod test_message;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _, runtime::events::EventType};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    api::{
        NotificationSetting, NotificationSettingStatus,
        condition::{self, READY},
    },
    backoff,
    delivery::{
        conditions::{PATIENCE, Problems, shorten, trouble},
        dispatcher::Dispatcher,
        environment_queue::EnvironmentQueues,
        job::JobResult,
        outbox::{CursorStart, RetryState, Subscription},
        status_writer::{StatusWrite, StatusWriter, WriteDue},
    },
    http::{destination::Destination, sender::Receipt},
    time::Moment,
};

/// A status that takes longer to write is tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// A destination that was read longer ago is read again before it is used: a rotated Secret is taken up within this.
const DESTINATION_FRESH: Duration = Duration::from_secs(30);
/// What is missing is looked for this often, at first and later.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

enum Done {
    Carried {
        uid: String,
        token: u64,
        /// Which destination it was sent to.
        to: [u8; 32],
        began: (Timestamp, Moment),
        outcome: Box<JobResult>,
    },
    Tested {
        request: String,
        id: String,
        receipt: Receipt,
    },
    Written {
        result: Result<Box<NotificationSetting>, kube::Error>,
        attempt: StatusWrite,
    },
}

/// The desk of one setting.
pub struct SettingWorker {
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
    wish: Subscription,
    status: NotificationSettingStatus,
    pen: StatusWriter,
    lanes: EnvironmentQueues,
    /// Where cursors start that can't be placed yet.
    starts: BTreeMap<String, CursorStart>,
    /// All cursors that can be placed are.
    complete: bool,
    pulse: RetryState,
    /// The lane that failed: it goes first.
    probe: Option<String>,
    /// When the last attempt began that failed.
    failed_at: Option<Timestamp>,
    destination: Option<Destination>,
    destination_read: Option<Instant>,
    amiss: Problems,
    amiss_since: Option<Instant>,
    look_again: Option<Instant>,
    testing: bool,
    /// The request for a test for which the destination was read anew.
    test_seen: Option<String>,
}

impl SettingWorker {
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
            wish: Subscription::of(&first.spec),
            pen: StatusWriter::new(status.clone(), first.resource_version(), office.hub.now()),
            lanes: EnvironmentQueues::default(),
            starts: BTreeMap::new(),
            complete: false,
            pulse: RetryState::resumed(trouble, attempts.unwrap_or_default()),
            probe: None,
            failed_at: None,
            destination: None,
            destination_read: None,
            amiss: Problems::default(),
            amiss_since: unsound_since(&status),
            look_again: None,
            testing: false,
            test_seen: None,
            uid,
            status,
            office,
            setting,
            placed,
        };
        for cursor in desk.status.cursors.clone() {
            desk.lanes.open(cursor);
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
                    if !self.pen.owes(self.lanes.any_ahead()) {
                        return;
                    }
                    sleep_until(self.office.hub.instant(self.pen.earliest())).await;
                    self.write(&mut tasks).await;
                    if tasks.is_empty() {
                        return;
                    }
                }
            } else {
                self.start_lanes(&mut tasks).await;
                self.start_test(&mut tasks).await;
                if self.write_at().is_some_and(|at| at <= self.now()) {
                    self.write(&mut tasks).await;
                }
            }
            if self.complete && self.pen.rests() {
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
            Ok(Done::Written { result, attempt }) => self.wrote(result, attempt).await,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {} // the program ends
        }
    }

    // ---- what is asked for ----

    async fn setting_changed(&mut self) {
        let (generation, version, cursors) = {
            let setting = self.setting.borrow_and_update();
            let cursors = setting.status.as_ref().map(|status| status.cursors.clone());
            (
                setting.metadata.generation,
                setting.resource_version(),
                cursors.unwrap_or_default(),
            )
        };
        self.pen.shown(&cursors, version);
        if generation != self.spec_generation {
            self.examine().await;
        }
    }

    async fn environments_changed(&mut self) {
        let news = self.place().await;
        if news
            && (self.pulse.trouble.is_some() || self.amiss.first().is_some() || self.is_suspended())
        {
            self.pen.ask(WriteDue::Soon); // more waits
        }
    }

    fn is_suspended(&self) -> bool {
        self.setting.borrow().spec.suspend == Some(true)
    }

    /// A clock has run out: look at what may have changed without a word.
    async fn look(&mut self) {
        let moment = self.now();
        if self
            .pen
            .stands_back_until()
            .is_some_and(|until| until <= moment)
        {
            self.come_back().await;
        }
        let now = Instant::now();
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            let Problems {
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
                self.pen.ask(WriteDue::Soon); // a reason that only holds for a while (Reconciling) is taken back
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
        let ending = self.lanes.any_ending().then_some(LOOK_AGAIN.1);
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
        self.wish = Subscription::of(&setting.spec);
        self.status.destination = Some(self.wish.kind.as_str().to_owned());
        let names = setting
            .spec
            .environments
            .as_ref()
            .map(|names| names.join(","));
        self.status.environments = Some(shorten(names.as_deref().unwrap_or("*"), 256));
        self.names = setting.spec.environments.map(Arc::new);
        self.destination = None;
        self.destination_read = None;
        self.amiss.denied = None;
        if !first {
            self.amiss_since = None; // what is missing now may be on its way
        }
        self.failed_at = None;
        self.pulse.retry_now();
        self.lanes.ask_anew();
        if self.pen.written().observed_generation != self.spec_generation {
            let now = self.now();
            self.pen.wait_for_cursors(now);
        }
        if self.status.conditions.is_empty() {
            self.pen.ask(WriteDue::Soon);
        }
        let since = self.amiss_since;
        self.read_destination().await;
        self.place().await;
        if self.amiss.first().is_some() && since.is_some() {
            self.amiss_since = since;
        }
    }

    /// Records a Kubernetes Event, without waiting for it.
    fn publish(&self, type_: EventType, reason: &str, note: String) {
        let about = self.setting.borrow().object_ref(&());
        self.office
            .events
            .publish(about, type_, "Deliver", reason, note);
    }

    // ---- clocks ----

    fn now(&self) -> Moment {
        self.office.hub.now()
    }

    /// When the status is to be written next.
    fn write_at(&self) -> Option<Moment> {
        self.pen.next_write(self.lanes.any_full())
    }

    /// When to wake up if nothing happens.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(300);
        let now = self.now();
        let send = self.pulse.may_send(now).err().flatten();
        let moments = [
            send.filter(|moment| *moment > now),
            self.lanes.next_read(now),
            self.write_at(),
            self.pen.stands_back_until(),
        ];
        let moment = moments.into_iter().flatten().min();
        let moment = moment.map(|moment| self.office.hub.instant(moment));
        [moment, self.look_again]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Since when a setting is not ready, as its status says.
fn unsound_since(status: &NotificationSettingStatus) -> Option<Instant> {
    let ready =
        condition::find(&status.conditions, READY).filter(|ready| ready.status == "False")?;
    let age = Timestamp::now().duration_since(ready.last_transition_time.0);
    Instant::now().checked_sub(Duration::try_from(age).ok()?)
}
