#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Takes part in the election: reads the Lease again and again, writes it while this instance leads, and tells who does.
//!
//! The Lease is asked for by name, once a second: a watch would hear of a release a second earlier at most, and would need
//! the same requests beside it to notice that it is deaf.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    backoff,
    leader::lease::{Candidate, LeaseSpec, Step},
    time::Moment,
};

/// How many seconds to wait for an answer: two tries must fit in before a leader has to stop.
const ANSWER: u32 = 3;
/// How many seconds a leader waits before it renews.
const RENEW: u32 = 2;
/// How many seconds others wait before they look again, and a leader after a try that failed.
const RETRY: u32 = 1;
/// How many seconds news of the Lease count.
const NEWS: u32 = 10;
/// How many seconds the release may take when the program stops.
const RELEASE: u32 = 2;
/// At most so many bytes of another's name, or of an error, are told.
const TOLD: usize = 300;

/// Who leads, as far as this instance knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does not lead, and does not know who does.
    Unknown {
        /// Why it does not know.
        why: String,
    },
    /// It waits.
    Follower {
        /// Who leads. None: nobody yet.
        leader: Option<String>,
    },
    /// It leads.
    Leader {
        /// Until then, if it does not renew.
        until: Instant,
    },
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { .. } => {
                f.write_str("this instance does not lead, nor does it know who does")
            }
            Self::Follower { leader: None } => f.write_str("nobody leads yet"),
            Self::Follower { .. } => f.write_str("another instance leads"),
            Self::Leader { .. } => f.write_str("this instance leads"),
        }
    }
}

/// Who leads, since when, and how often that changed.
#[derive(Clone, Debug)]
pub struct ElectionState {
    /// Who leads.
    pub role: Role,
    /// Since when that is so.
    pub since: Instant,
    /// Counts what this instance saw, not what the Lease counts. To lead again after a pause is a change.
    pub changes: u64,
    /// Whether it was ever known who leads.
    pub was_known: bool,
}

/// Tells who leads.
#[derive(Clone, Debug)]
pub struct ElectionWatch(watch::Receiver<ElectionState>);

impl ElectionWatch {
    /// What is known now. A leader whose time is over does not lead, even if that was not told yet.
    pub fn state(&self) -> ElectionState {
        self.0.borrow().clone()
    }

    /// One that leads without an election.
    #[cfg(test)]
    pub(crate) fn of_leader() -> Self {
        let now = Instant::now();
        let until = now + Duration::from_hours(24);
        let state = ElectionState {
            role: Role::Leader { until },
            since: now,
            changes: 0,
            was_known: true,
        };
        Self(watch::channel(state).1)
    }

    /// Why it was never known who leads. Where it was once, this instance is as ready as it can be.
    pub fn never_known(&self) -> Option<String> {
        let state = self.0.borrow();
        match &state.role {
            Role::Unknown { why } if !state.was_known => Some(why.clone()),
            _ => None,
        }
    }

    /// Whether this instance leads. To be asked before everything that only a leader does: a leader whose time is over does not
    /// lead, whatever hangs.
    pub fn leads(&self) -> bool {
        matches!(self.0.borrow().role, Role::Leader { until } if Instant::now() < until)
    }

    /// Waits until it no longer leads, or begins to: until [`Self::leads`] says otherwise than `leads`, or has said so meanwhile.
    pub async fn changed(&self, leads: bool) {
        let mut states = self.0.clone();
        let changes = states.borrow().changes;
        while self.leads() == leads && (!leads || states.borrow().changes == changes) {
            let until = match states.borrow_and_update().role {
                Role::Leader { until } => until,
                // It leads only when that is told.
                _ => Instant::now() + Duration::from_hours(1),
            };
            tokio::select! {
                () = sleep_until(until) => {}
                changed = states.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Does some work while this instance leads: it begins anew each time, and is dropped when the time is over.
    pub async fn during_each_term<F: Future<Output = ()>>(&self, mut work: impl FnMut() -> F) {
        loop {
            let term = self.started().await;
            tokio::select! {
                () = work() => return,
                () = term.ended() => {}
            }
        }
    }

    /// Waits until this instance leads; for ever if the election ends.
    pub(super) async fn started(&self) -> Term {
        let mut states = self.0.clone();
        loop {
            let change = states.borrow_and_update().changes;
            let term = Term {
                states: states.clone(),
                change,
            };
            if term.lasts() {
                return term;
            }
            if states.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// One time of leading, from its begin to its end. It ends by itself when the Lease was not renewed in time, whatever hangs.
#[derive(Clone, Debug)]
pub(super) struct Term {
    states: watch::Receiver<ElectionState>,
    change: u64,
}

impl Term {
    /// Whether it lasts.
    pub(super) fn lasts(&self) -> bool {
        self.until().is_some()
    }

    /// Waits until it has ended, to stop what is under way.
    pub(super) async fn ended(&self) {
        let mut states = self.states.clone();
        while let Some(until) = self.until() {
            tokio::select! {
                () = sleep_until(until) => {}
                changed = states.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Until when it lasts. An election that has ended renews nothing: then it is over.
    fn until(&self) -> Option<Instant> {
        self.states.has_changed().ok()?;
        let state = self.states.borrow();
        match state.role {
            Role::Leader { until } if state.changes == self.change => {
                Some(until).filter(|until| Instant::now() < *until)
            }
            _ => None,
        }
    }
}

/// An instance of the program among those that would lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
    /// Whether another one of this name has surely ended when this one starts.
    is_only_one: bool,
}

impl Instance {
    /// In this pod. If its UID is known, an instance of the same name is a container that ran in it before. Otherwise a number
    /// tells them apart.
    pub fn of_pod(name: Option<&str>, uid: Option<&str>) -> Self {
        let pod = name.unwrap_or("shipbell");
        Self {
            name: match uid {
                Some(uid) => format!("{pod}_{uid}"),
                None => format!("{pod}_{:016x}", backoff::random()),
            },
            is_only_one: uid.is_some(),
        }
    }
}

/// Tells the time that is written into the Lease for people to read. It decides nothing.
type WallClock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// This instance's part in the election.
pub struct Election {
    leases: Api<DynamicObject>,
    /// Of the Lease: its namespace and its name.
    namespace: String,
    name: String,
    pub(super) candidate: Candidate,
    pub(super) wall_clock: WallClock,
    start: Instant,
    /// Until when what was heard of the Lease counts.
    news_until: Instant,
    states: watch::Sender<ElectionState>,
}

impl Election {
    /// This instance, and the Lease that it would hold. The client need not repeat requests by itself.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        instance: Instance,
    ) -> (Self, ElectionWatch) {
        let start = Instant::now();
        let (states, watch) = watch::channel(ElectionState {
            role: Role::Unknown {
                why: "the Lease was not read yet".to_owned(),
            },
            since: start,
            changes: 0,
            was_known: false,
        });
        let election = Self {
            leases: Api::namespaced_with(client, namespace, &ApiResource::erase::<Lease>(&())),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            candidate: Candidate::new(instance.name).going_on(instance.is_only_one),
            wall_clock: Box::new(Timestamp::now),
            start,
            news_until: start,
            states,
        };
        (election, ElectionWatch(watch))
    }

    /// Takes part until it is stopped; then stops to lead, and releases the Lease. To be stopped when the leader's work has
    /// ended: another instance begins with it at once.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let turn = async {
                let pause = self.turn().await;
                sleep(pause).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = turn => {}
            }
        }
        let may_hold = self.candidate.stop(self.now());
        let why = "this instance stops".to_owned();
        self.tell(Role::Unknown { why: why.clone() }, &why);
        let release = timeout(self.seconds(RELEASE), async {
            while let Err(error) = self.release().await {
                debug!(error, "can't release the Lease yet");
                sleep(self.seconds(RETRY) / 10).await;
            }
        });
        if may_hold && release.await.is_err() {
            warn!("can't release the Lease: another instance leads when it has expired");
        }
    }

    /// Reads the Lease, and writes it if this instance may hold it. Says how long to wait then.
    async fn turn(&mut self) -> Duration {
        let result = self.ask().await;
        let now = Instant::now();
        let pause = match result {
            Ok((role, why)) => {
                self.news_until = now + self.seconds(NEWS);
                let leads = matches!(role, Role::Leader { .. });
                self.tell(role, &why);
                if leads { RENEW } else { RETRY }
            }
            Err(why) => {
                debug!(why, "can't read or write the Lease");
                let leads = self.candidate.leads_until(self.now()).is_some();
                if !leads && self.news_until <= now {
                    self.tell(Role::Unknown { why: why.clone() }, &why);
                }
                RETRY
            }
        };
        self.seconds(pause)
    }

    /// Reads the Lease, and writes it if this instance may hold it. Says who leads, and why.
    async fn ask(&mut self) -> Result<(Role, String), String> {
        let found = self.answer("get", self.leases.get_opt(&self.name)).await?;
        let found = found.unwrap_or_else(|| self.lease());
        let spec = LeaseSpec::read(&found.data["spec"]);
        let version = found.resource_version();
        let step = self.candidate.next(version.as_deref(), &spec, self.now());
        let holder = Some(told(spec.holder())).filter(|holder| !holder.is_empty());
        if step == Step::Follow {
            let leader = holder.filter(|_| spec.holder() != self.candidate.name);
            return Ok((Role::Follower { leader }, "the Lease says so".to_owned()));
        }
        let record = self.candidate.record(step, &spec, (self.wall_clock)());
        self.candidate.asks(&record, self.now());
        let written = self.write(found, &record).await?;
        let version = written.resource_version();
        self.candidate
            .wrote(version.as_deref(), &record, self.now());
        let until = self.candidate.leads_until(self.now());
        let until = until.ok_or("the answer came too late")?;
        let why = match (step, holder) {
            (Step::Renew, _) => "the Lease is its own".to_owned(),
            (_, Some(holder)) => format!("{holder} did not renew the Lease in time"),
            (_, None) if spec.is_released() => "the Lease was released".to_owned(),
            (_, None) => "nobody held the Lease".to_owned(),
        };
        let until = self.start + until.since_start();
        Ok((Role::Leader { until }, why))
    }

    /// Releases the Lease if this instance holds it.
    async fn release(&self) -> Result<(), String> {
        let Some(found) = self.answer("get", self.leases.get_opt(&self.name)).await? else {
            return Ok(());
        };
        let spec = LeaseSpec::read(&found.data["spec"]);
        match self.candidate.released(&spec, (self.wall_clock)()) {
            Some(record) => self.write(found, &record).await.map(drop),
            None => Ok(()),
        }
    }

    /// Writes the Lease, unless it changed since it was found.
    async fn write(
        &self,
        mut lease: DynamicObject,
        record: &LeaseSpec,
    ) -> Result<DynamicObject, String> {
        lease.data = json!({"spec": record});
        let params = PostParams::default();
        if lease.metadata.resource_version.is_some() {
            let write = self.leases.replace(&self.name, &params, &lease);
            self.answer("update", write).await
        } else {
            let write = self.leases.create(&params, &lease);
            self.answer("create", write).await
        }
    }

    /// The Lease before there is one.
    fn lease(&self) -> DynamicObject {
        DynamicObject::new(&self.name, &ApiResource::erase::<Lease>(&())).within(&self.namespace)
    }

    /// The answer to a request, or what is wrong.
    async fn answer<T>(
        &self,
        verb: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, String> {
        let seconds = self.seconds(ANSWER);
        match timeout(seconds, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(format!(
                "the operator may not {verb} the Lease {}/{}: its Role there must allow get, create and update of leases.coordination.k8s.io, and be bound to its service account; install the chart again to repair it",
                self.namespace, self.name
            )),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                Err("somebody else wrote the Lease first".to_owned())
            }
            Ok(Err(error)) => Err(format!(
                "can't {verb} the Lease: {}",
                told(&error.to_string())
            )),
            Err(_) => Err(format!(
                "no answer within {} s to {verb} the Lease",
                seconds.as_secs()
            )),
        }
    }

    /// Tells who leads now, and logs that if it is new.
    fn tell(&self, role: Role, why: &str) {
        let now = Instant::now();
        self.states.send_modify(|state| {
            let is_same = match (&state.role, &role) {
                // One whose time was over begins anew.
                (Role::Leader { until }, Role::Leader { .. }) => now < *until,
                (Role::Unknown { .. }, Role::Unknown { .. }) => state.changes > 0,
                (old, new) => old == new,
            };
            state.was_known |= !matches!(role, Role::Unknown { .. });
            state.role = role;
            if !is_same {
                state.since = now;
                state.changes += 1;
                let leader = match &state.role {
                    Role::Unknown { .. } => None,
                    Role::Follower { leader } => leader.as_deref(),
                    Role::Leader { .. } => Some(&*self.candidate.name),
                };
                info!(lease = self.name, leader, why, "{}", state.role);
            }
        });
    }

    fn seconds(&self, seconds: u32) -> Duration {
        self.candidate.second * seconds
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }
}

/// What may be told of a text from outside.
fn told(text: &str) -> String {
    text[..text.floor_char_boundary(TOLD)].to_owned()
}
