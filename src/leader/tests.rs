#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the API server is played by a router, in virtual time"
)]

//! Elections in virtual time, against an API server that compares versions as a real one does, and lies in between.

use std::{future::pending, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use parking_lot::Mutex;
use proptest::{prelude::*, test_runner::Config};
use serde_json::{Value, json};
use tokio::{
    pin,
    runtime::Builder,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::LogFormat,
    leader::election::{Election, ElectionWatch, Instance, Role, Term},
    simulation::testing::{Logged, tries},
};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Numbers that are the same again for a seed.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(f64::from(u32::try_from(self.below(1_001)).unwrap()) / 1_000.0)
    }
}

/// What the API server stores: the Lease, if there is one.
#[derive(Default)]
struct Store {
    version: u64,
    lease: Option<Value>,
    /// What it was, oldest first.
    past: Vec<Option<Value>>,
    /// Writes by instances that count changes wrongly.
    miscounted: Vec<String>,
    requests: usize,
}

impl Store {
    fn holder(&self) -> &str {
        let holder = self
            .lease
            .as_ref()
            .map(|lease| &lease["spec"]["holderIdentity"]);
        holder.and_then(Value::as_str).unwrap_or_default()
    }

    fn transitions(&self) -> i64 {
        let lease = self.lease.as_ref();
        lease.map_or(0, |it| {
            it["spec"]["leaseTransitions"].as_i64().unwrap_or_default()
        })
    }

    fn set(&mut self, lease: Option<Value>) {
        self.past.push(self.lease.clone());
        self.version += 1;
        self.lease = lease.map(|mut lease| {
            lease["metadata"]["resourceVersion"] = self.version.to_string().into();
            lease
        });
    }

    /// What a person or another program writes into it.
    fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        if let Some(mut lease) = self.lease.clone() {
            edit(&mut lease["spec"]);
            self.set(Some(lease));
        }
    }

    /// Restores a backup: the next versions were used before.
    fn set_back(&mut self, random: &mut Random) {
        let versions = u64::try_from(self.past.len()).unwrap();
        self.version = random.below(versions);
        let at = usize::try_from(self.version).unwrap();
        self.lease = self.past[at].clone();
        self.past.truncate(at);
    }

    fn answer(&mut self, method: &Method, body: &str) -> Response {
        self.requests += 1;
        let sent: Value = serde_json::from_str(body).unwrap_or_default();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match (method, &self.lease) {
            (&Method::GET, _) => found(self.lease.clone()),
            (&Method::POST, Some(_)) => failure(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::POST, None) => {
                self.set(Some(sent));
                found(self.lease.clone())
            }
            (_, None) => found(None),
            (_, Some(old)) if version(old) != version(&sent) => {
                failure(StatusCode::CONFLICT, "Conflict")
            }
            (_, Some(old)) => {
                // A write that changes nothing is none.
                if old["spec"] != sent["spec"] {
                    let was_counted = old["spec"]["leaseTransitions"].is_i64();
                    let (before, holder) = (self.transitions(), self.holder().to_owned());
                    self.set(Some(sent));
                    let is_change = !self.holder().is_empty() && self.holder() != holder;
                    let counted = before.max(0) + i64::from(is_change);
                    let counted = counted.min(i32::MAX.into());
                    if was_counted && self.transitions() != counted {
                        let text = format!("{before}, then {:?}", self.lease);
                        self.miscounted.push(text);
                    }
                }
                found(self.lease.clone())
            }
        }
    }
}

fn found(lease: Option<Value>) -> Response {
    match lease {
        Some(lease) => Json(lease).into_response(),
        None => failure(StatusCode::NOT_FOUND, "NotFound"),
    }
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason});
    (code, Json(status)).into_response()
}

/// How an instance reaches the API server.
struct Link {
    random: Random,
    is_silent: bool,
    /// How many requests of a hundred go wrong.
    faults: u64,
    /// The longest that a request, and its answer, take to arrive.
    longest: Duration,
    /// All requests of this method are refused with this code.
    refuses: Option<(Method, StatusCode)>,
}

type Shared<T> = Arc<Mutex<T>>;

/// The API server, as an instance reaches it. Requests go on when their sender does not wait any more.
fn router(store: &Shared<Store>, link: &Shared<Link>) -> Router {
    let (store, link) = (store.clone(), link.clone());
    Router::new().fallback(async move |method: Method, body: String| {
        let request = request(store.clone(), link.clone(), method, body);
        tokio::spawn(request).await.unwrap()
    })
}

async fn request(
    store: Shared<Store>,
    link: Shared<Link>,
    method: Method,
    body: String,
) -> Response {
    let (there, back, fault) = {
        let mut link = link.lock();
        let longest = link.longest;
        let fault = link.faults;
        let fault = link.random.percent(fault).then(|| link.random.below(6));
        let mut ways = || link.random.up_to(longest);
        (ways(), ways(), fault)
    };
    sleep(there).await;
    if fault == Some(0) {
        sleep(seconds(12.0)).await; // something in between holds it back
    }
    let refuses = link.lock().refuses.clone();
    if let Some((_, code)) = refuses.filter(|(refused, _)| *refused == method) {
        return failure(code, "Refused");
    }
    match fault {
        Some(1) => return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Some(2) => return failure(StatusCode::CONFLICT, "Conflict"),
        Some(3) if method == Method::GET => {
            let back = 1 + link.lock().random.below(5);
            let store = store.lock();
            let at = store.past.len().checked_sub(usize::try_from(back).unwrap());
            return found(at.map_or_else(|| store.lease.clone(), |at| store.past[at].clone()));
        }
        _ => {}
    }
    if link.lock().is_silent {
        return pending().await;
    }
    let answer = store.lock().answer(&method, &body);
    sleep(back).await;
    if fault == Some(4) || link.lock().is_silent {
        return pending().await;
    }
    if fault == Some(5) {
        return failure(StatusCode::GATEWAY_TIMEOUT, "Timeout");
    }
    answer
}

/// One instance.
struct Process {
    name: String,
    task: JoinHandle<()>,
    watch: ElectionWatch,
    link: Shared<Link>,
    /// Asks it to end (SIGTERM).
    terminate: CancellationToken,
    /// Whether it stands still (SIGSTOP).
    stands: watch::Sender<bool>,
    /// By how much its wall clock is wrong.
    error: Shared<SignedDuration>,
    is_alive: bool,
}

/// How wall clocks may be wrong: by the hour of a time zone or of summer time, by a leap second, by the ten minutes of a
/// machine without a time server, and by years.
const ERRORS: [SignedDuration; 9] = [
    SignedDuration::ZERO,
    SignedDuration::from_hours(1),
    SignedDuration::from_hours(-1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(-10),
    SignedDuration::from_secs(1),
    SignedDuration::from_secs(-1),
    SignedDuration::from_hours(24 * 365 * 20),
    SignedDuration::from_hours(-24 * 365 * 20),
];

/// Who led from when until when.
type Terms = Vec<(Duration, usize, bool)>;

struct Simulation {
    random: Random,
    store: Shared<Store>,
    processes: Vec<Process>,
    /// The last time of leading of each.
    leads: Shared<Vec<Option<Term>>>,
    /// When more than one led.
    overlaps: Shared<Vec<String>>,
    /// When each began to lead, and stopped.
    terms: Shared<Terms>,
    /// Draws the errors of wall clocks, so that nothing else changes with them.
    errors: Random,
    /// Whether wall clocks may be wrong.
    may_err: bool,
    begin: Instant,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            terms: Shared::default(),
            errors: Random(!seed),
            may_err: true,
            begin: Instant::now(),
            random: Random(seed),
            store: Shared::default(),
            processes: vec![],
            leads: Shared::default(),
            overlaps: Shared::default(),
        }
    }

    /// Starts an instance whose clock runs so fast. For one whose seconds are short, everything it waits for is.
    fn start(&mut self, rate: f64) -> usize {
        let number = self.processes.len();
        let link = Arc::new(Mutex::new(Link {
            random: Random(self.random.below(u64::MAX)),
            is_silent: false,
            faults: 0,
            longest: seconds(0.01),
            refuses: None,
        }));
        let client = Client::new(router(&self.store, &link), "default");
        let pod = format!("pod-{number}");
        let instance = Instance::of_pod(Some(&pod), Some("1"));
        let name = format!("{pod}_1");
        let (mut election, watch) = Election::new(client, "shipbell", "leader", instance);
        election.candidate.second = seconds(1.0 / rate);
        let error = Arc::new(Mutex::new(self.error()));
        let (begin, wrong) = (self.begin, error.clone());
        election.wall_clock = Box::new(move || {
            let right = Timestamp::constant(1_700_000_000, 0) + begin.elapsed();
            right + *wrong.lock()
        });
        let (stands, mut stood) = watch::channel(false);
        let terminate = CancellationToken::new();
        let run = election.run(terminate.clone());
        let task = tokio::spawn(async move {
            pin!(run);
            loop {
                let stands = *stood.borrow_and_update();
                tokio::select! {
                    biased;
                    changed = stood.changed() => changed.unwrap(),
                    () = &mut run, if !stands => return,
                }
            }
        });
        self.observe(number, watch.clone());
        self.processes.push(Process {
            name,
            task,
            watch,
            link,
            terminate,
            stands,
            error,
            is_alive: true,
        });
        number
    }

    /// Starts so many, each with a clock of its own.
    fn start_all(&mut self, instances: usize) {
        for _ in 0..instances {
            let rate = self.rate();
            self.start(rate);
        }
    }

    /// How wrong a wall clock is from now on.
    fn error(&mut self) -> SignedDuration {
        let errors = u64::try_from(ERRORS.len()).unwrap();
        let error = ERRORS[usize::try_from(self.errors.below(errors)).unwrap()];
        if self.may_err {
            error
        } else {
            SignedDuration::ZERO
        }
    }

    /// The wall clock of one jumps.
    fn jump(&mut self, number: usize) {
        *self.processes[number].error.lock() = self.error();
    }

    /// Notes when it leads, and whether another one does then.
    fn observe(&self, number: usize, watch: ElectionWatch) {
        let (leads, overlaps) = (self.leads.clone(), self.overlaps.clone());
        let terms = self.terms.clone();
        leads.lock().push(None);
        let begin = self.begin;
        tokio::spawn(async move {
            loop {
                let term = watch.started().await;
                terms.lock().push((begin.elapsed(), number, true));
                {
                    let mut leads = leads.lock();
                    leads[number] = Some(term.clone());
                    let now = leading(&leads);
                    if now.len() > 1 {
                        overlaps
                            .lock()
                            .push(format!("{:?}: {now:?}", begin.elapsed()));
                    }
                }
                term.ended().await;
                terms.lock().push((begin.elapsed(), number, false));
            }
        });
    }

    /// Who leads.
    fn leaders(&self) -> Vec<usize> {
        leading(&self.leads.lock())
    }

    /// The one that leads.
    fn leader(&self) -> usize {
        let leaders = self.leaders();
        assert_eq!(leaders.len(), 1, "{}", self.text());
        leaders[0]
    }

    fn alive(&self) -> Vec<usize> {
        let all = 0..self.processes.len();
        all.filter(|number| self.processes[*number].is_alive)
            .collect()
    }

    fn any(&mut self) -> usize {
        let alive = self.alive();
        let number = self.random.below(u64::try_from(alive.len()).unwrap());
        alive[usize::try_from(number).unwrap()]
    }

    fn links(&self, of: &[usize], change: impl Fn(&mut Link)) {
        for number in of {
            change(&mut self.processes[*number].link.lock());
        }
    }

    /// Ends it without a word.
    fn kill(&mut self, number: usize) {
        let process = &mut self.processes[number];
        process.task.abort();
        process.is_alive = false;
        self.leads.lock()[number] = None;
    }

    fn terminate(&mut self, number: usize) {
        let process = &mut self.processes[number];
        process.terminate.cancel();
        process.is_alive = false;
    }

    /// No more faults.
    fn recover(&self) {
        self.links(&self.alive(), |link| {
            (link.is_silent, link.faults, link.longest) = (false, 0, seconds(0.01));
        });
        for number in self.alive() {
            self.processes[number].stands.send_replace(false);
        }
    }

    /// How long it takes until one leads.
    async fn until_led(&self, longest: f64) -> Duration {
        self.until(longest, |leaders| leaders.len() == 1).await
    }

    /// How long it takes until that is true of those who lead.
    async fn until(&self, longest: f64, is: impl Fn(&[usize]) -> bool) -> Duration {
        let begin = Instant::now();
        while !is(&self.leaders()) {
            let took = begin.elapsed();
            assert!(took <= seconds(longest), "after {took:?}: {}", self.text());
            sleep(seconds(0.01)).await;
        }
        begin.elapsed()
    }

    fn assert_sound(&self) {
        let (overlaps, store) = (self.overlaps.lock(), self.store.lock());
        assert!(overlaps.is_empty(), "two lead: {overlaps:?}");
        assert!(store.miscounted.is_empty(), "{:?}", store.miscounted);
    }

    fn text(&self) -> String {
        let states = self.alive().into_iter().map(|number| {
            let state = self.processes[number].watch.state();
            format!("{number}: {state:?}")
        });
        let states: Vec<_> = states.collect();
        format!("{states:?}, {:?}", self.store.lock().lease)
    }

    /// Faults that no protocol prevents.
    fn fault(&mut self) {
        let one = self.any();
        match self.random.below(8) {
            0 => self.links(&[one], |link| link.is_silent = !link.is_silent),
            1 => {
                let is_silent = self.random.percent(50);
                self.links(&self.alive(), |link| link.is_silent = is_silent);
            }
            2 => {
                let faults = self.random.below(101);
                self.links(&[one], |link| link.faults = faults);
            }
            3 => {
                let longest = self.random.up_to(seconds(2.0));
                self.links(&[one], |link| link.longest = longest);
            }
            4 | 5 => {
                let stands = &self.processes[one].stands;
                stands.send_modify(|stands| *stands = !*stands);
            }
            6 => self.recover(),
            _ => self.jump(one),
        }
    }

    /// Restarts of instances.
    fn restart(&mut self) {
        let one = self.any();
        if self.random.percent(50) {
            self.kill(one);
        } else {
            self.terminate(one);
        }
        let rate = self.rate();
        self.start(rate);
    }

    /// What a person, or a restored backup, does to the Lease.
    async fn interfere(&mut self) {
        let one = self.any();
        let name = self.processes[one].name.clone();
        let edit = |edit: fn(&mut Value)| self.store.lock().edit(edit);
        match self.random.below(7) {
            0 => edit(|spec| spec["holderIdentity"] = json!("")),
            1 => edit(|spec| *spec = json!({})),
            2 => edit(|spec| spec["leaseDurationSeconds"] = i32::MAX.into()),
            3 => edit(|spec| {
                *spec = json!({"holderIdentity": "x".repeat(1 << 12), "leaseDurationSeconds": -5, "leaseTransitions": -3});
            }),
            4 => {
                let mut store = self.store.lock();
                store.edit(|spec| spec["holderIdentity"] = name.into());
            }
            deleted => {
                // One that could not read the Lease can't tell what it sees then from what it missed.
                self.recover();
                self.until_led(75.0).await;
                sleep(seconds(5.0)).await;
                let mut store = self.store.lock();
                if deleted == 5 {
                    store.set(None);
                } else {
                    store.set_back(&mut self.random);
                }
            }
        }
    }

    /// How fast a clock may run: 10 % either way.
    fn rate(&mut self) -> f64 {
        [0.9, 1.0, 1.1][usize::try_from(self.random.below(3)).unwrap()]
    }

    /// When all is well again, one leads; a killed one is replaced within 20 s, and one that ends at once.
    async fn assert_recovers(&mut self) {
        self.recover();
        // The longest term that is honoured, on the slowest clock.
        sleep(seconds(75.0)).await;
        while self.alive().len() < 3 {
            let rate = self.rate();
            self.start(rate);
        }
        sleep(seconds(3.0)).await;
        let leader = self.leader();
        self.kill(leader);
        self.until_led(20.0).await;
        let leader = self.leader();
        self.terminate(leader);
        self.until(1.5, |leaders| leaders.len() == 1 && leaders[0] != leader)
            .await;
        self.assert_sound();
    }
}

fn leading(leads: &[Option<Term>]) -> Vec<usize> {
    let all = leads.iter().enumerate();
    let now = all.filter(|(_, term)| term.as_ref().is_some_and(Term::lasts));
    now.map(|(number, _)| number).collect()
}

fn in_virtual_time(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(work);
}

/// A seed that fails is as good as another.
fn simulations() -> Config {
    let max_shrink_iters = 0;
    Config {
        max_shrink_iters,
        ..tries(40)
    }
}

proptest! {
    #![proptest_config(simulations())]

    #[test]
    fn never_do_two_lead_whatever_is_lost_late_stale_stopped_or_restarted(seed: u64, instances in 2_usize..=3) {
        in_virtual_time(async {
            let mut simulation = Simulation::new(seed);
            simulation.start_all(instances);
            for _ in 0..60 {
                let pause = simulation.random.up_to(seconds(8.0));
                sleep(pause).await;
                simulation.fault();
                if simulation.random.percent(15) {
                    simulation.restart();
                }
                simulation.assert_sound();
            }
            simulation.assert_recovers().await;
        });
    }

    // F21: wall clocks that jump, or differ between nodes.
    #[test]
    fn what_the_wall_clocks_of_the_instances_say_changes_nothing(seed: u64, instances in 2_usize..=3) {
        let with = |may_err| {
            let mut history = None;
            in_virtual_time(async { history = Some(history_with(seed, instances, may_err).await) });
            history.unwrap()
        };
        let right = with(false);
        prop_assert!(right.0.len() > 2, "too few changes: no test");
        prop_assert_eq!(right, with(true));
    }

    #[test]
    fn never_do_two_lead_whatever_somebody_does_to_the_lease(seed: u64, instances in 2_usize..=3) {
        in_virtual_time(async {
            let mut simulation = Simulation::new(seed);
            simulation.start_all(instances);
            sleep(seconds(5.0)).await;
            for _ in 0..60 {
                let pause = simulation.random.up_to(seconds(8.0));
                sleep(pause).await;
                if simulation.random.percent(50) {
                    simulation.fault();
                } else {
                    simulation.interfere().await;
                }
                simulation.assert_sound();
            }
            simulation.assert_recovers().await;
        });
    }
}

/// What comes of the faults of a seed with wall clocks that are right, or wrong: who led when, and how often the Lease was
/// asked for and written.
async fn history_with(seed: u64, instances: usize, may_err: bool) -> (Terms, usize, u64, i64) {
    let mut simulation = Simulation::new(seed);
    simulation.may_err = may_err;
    simulation.start_all(instances);
    for _ in 0..60 {
        let pause = simulation.random.up_to(seconds(8.0));
        sleep(pause).await;
        simulation.fault();
        for number in simulation.alive() {
            simulation.jump(number);
        }
        if simulation.random.percent(15) {
            simulation.restart();
        }
    }
    simulation.recover();
    simulation.until_led(75.0).await;
    simulation.assert_sound();
    let terms = simulation.terms.lock().clone();
    let store = simulation.store.lock();
    (terms, store.requests, store.version, store.transitions())
}

/// Two instances, of which the first leads.
async fn two() -> Simulation {
    let mut simulation = Simulation::new(1);
    simulation.start(1.0);
    simulation.until_led(0.1).await;
    simulation.start(1.0);
    sleep(seconds(5.0)).await;
    assert_eq!(simulation.leaders(), [0]);
    simulation
}

#[test]
fn nobody_leads_ten_seconds_after_the_api_server_fell_silent() {
    for after in [0.0, 0.7, 1.5, 2.0] {
        in_virtual_time(async {
            let simulation = two().await;
            sleep(seconds(after)).await;
            simulation.links(&[0, 1], |link| link.is_silent = true);
            let term = simulation.leads.lock()[0].clone().unwrap();
            let begin = Instant::now();
            term.ended().await;
            let took = begin.elapsed();
            assert!(took <= seconds(10.0), "{took:?}");
            assert!(
                took > seconds(6.0),
                "tries of 3 s are not given up: {took:?}"
            );
            sleep(seconds(100.0)).await;
            assert_eq!(simulation.leaders(), [0_usize; 0]);
            simulation.recover();
            simulation.until_led(6.0).await;
            assert!(!term.lasts(), "it is another time of leading");
            simulation.assert_sound();
        });
    }
}

#[test]
fn a_leader_that_loses_one_try_goes_on() {
    in_virtual_time(async {
        let simulation = two().await;
        let term = simulation.leads.lock()[0].clone().unwrap();
        simulation.links(&[0, 1], |link| link.is_silent = true);
        sleep(seconds(4.5)).await;
        simulation.links(&[0, 1], |link| link.is_silent = false);
        sleep(seconds(60.0)).await;
        assert!(term.lasts());
        let changes = |number: usize| simulation.processes[number].watch.state().changes;
        assert_eq!(
            [changes(0), changes(1)],
            [1, 1],
            "the other knows who leads"
        );
        assert_eq!(simulation.store.lock().transitions(), 0);
    });
}

#[test]
fn clocks_may_differ_in_speed_by_half() {
    for (slow, fast, are_two) in [
        (0.9, 1.1, false),
        (0.8, 1.2, false),
        (1.0, 1.5, false),
        // So that it is known that this test would see it.
        (0.7, 1.3, true),
    ] {
        in_virtual_time(async {
            let mut simulation = Simulation::new(1);
            simulation.start(slow);
            simulation.until_led(0.1).await;
            simulation.start(fast);
            sleep(seconds(20.0)).await;
            simulation.links(&[0], |link| link.is_silent = true);
            simulation.until(20.0, |leaders| leaders.contains(&1)).await;
            let overlaps = simulation.overlaps.lock();
            assert_eq!(!overlaps.is_empty(), are_two, "{slow} {fast}: {overlaps:?}");
        });
    }
}

#[test]
fn another_instance_leads_within_20_seconds_after_a_kill_and_within_1500_ms_after_a_release() {
    for step in 0..20 {
        in_virtual_time(async {
            for is_killed in [true, false] {
                let mut simulation = two().await;
                sleep(seconds(f64::from(step) / 10.0)).await;
                if is_killed {
                    simulation.kill(0);
                } else {
                    simulation.terminate(0);
                }
                let longest = if is_killed { 20.0 } else { 1.5 };
                simulation.until(longest, |leaders| leaders == [1]).await;
                assert_eq!(simulation.store.lock().transitions(), 1);
                simulation.assert_sound();
            }
        });
    }
}

#[test]
fn a_release_that_fails_is_tried_again_and_given_up_after_two_seconds() {
    in_virtual_time(async {
        let refusal = (Method::PUT, StatusCode::INTERNAL_SERVER_ERROR);
        let mut simulation = two().await;
        simulation.links(&[0], |link| link.refuses = Some(refusal.clone()));
        simulation.terminate(0);
        sleep(seconds(0.5)).await;
        simulation.links(&[0], |link| link.refuses = None);
        simulation.until(1.2, |leaders| leaders == [1]).await;

        let mut simulation = two().await;
        simulation.links(&[0], |link| link.is_silent = true);
        simulation.terminate(0);
        sleep(seconds(0.001)).await;
        assert_eq!(simulation.leaders(), [0_usize; 0], "it stops first");
        sleep(seconds(2.0)).await;
        assert!(simulation.processes[0].task.is_finished());
    });
}

#[test]
fn an_instance_that_does_not_hold_the_lease_ends_without_touching_it() {
    in_virtual_time(async {
        let mut simulation = two().await;
        let term = simulation.leads.lock()[0].clone().unwrap();
        let version = simulation.store.lock().version;
        simulation.kill(0);
        simulation.terminate(1);
        let requests = simulation.store.lock().requests;
        sleep(seconds(5.0)).await;
        let store = simulation.store.lock();
        assert_eq!((store.version, store.requests), (version, requests));
        assert!(!term.lasts(), "an election that ended renews nothing");
    });
}

#[test]
fn a_leader_stops_when_it_reads_that_another_is_named_and_makes_a_deleted_lease_anew() {
    in_virtual_time(async {
        let simulation = two().await;
        let term = simulation.leads.lock()[0].clone().unwrap();
        simulation.store.lock().set(None);
        sleep(seconds(30.0)).await;
        assert!(term.lasts());
        simulation
            .store
            .lock()
            .edit(|spec| spec["holderIdentity"] = json!(""));
        sleep(seconds(30.0)).await;
        assert!(term.lasts());
        simulation
            .store
            .lock()
            .edit(|spec| spec["holderIdentity"] = json!("pod-1_1"));
        sleep(seconds(2.1)).await;
        assert!(!term.lasts());
        simulation.until_led(20.0).await;
        simulation.assert_sound();
    });
}

#[test]
fn a_holder_of_a_megabyte_is_told_in_few_bytes_and_replaced() {
    in_virtual_time(async {
        let mut simulation = two().await;
        let holder = "\u{e9}".repeat(1 << 19);
        let edit = |spec: &mut Value| *spec = json!({"holderIdentity": holder, "leaseDurationSeconds": -1, "leaseTransitions": i32::MAX, "renewTime": "9999-12-31T23:59:59.999999Z"});
        simulation.store.lock().edit(edit);
        sleep(seconds(3.0)).await;
        for process in &simulation.processes {
            let Role::Follower { leader } = process.watch.state().role else {
                panic!("{}", simulation.text());
            };
            assert_eq!(leader.unwrap().len(), 300);
        }
        simulation.until_led(16.0).await;
        assert_eq!(simulation.store.lock().transitions(), i64::from(i32::MAX));
        simulation.assert_recovers().await;
    });
}

#[test]
fn one_line_is_logged_for_each_change_and_says_who_leads_and_why() {
    in_virtual_time(async {
        let log = Logged::begin(LogFormat::Json);
        let lines = || -> Vec<Value> {
            let text = log.text();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            lines
                .filter(|line: &Value| {
                    line["target"] == "shipbell::leader::election" && line["level"] != "DEBUG"
                })
                .collect()
        };
        let mut told = 0;
        let mut new = || -> Vec<(String, String, String)> {
            let lines = lines();
            let new = lines[told..].iter().map(|line| {
                let text = |name: &str| line["fields"][name].as_str().unwrap_or("-").to_owned();
                (text("message"), text("leader"), text("why"))
            });
            let new = new.collect();
            told = lines.len();
            new
        };
        let line = |message: &str, leader: &str, why: &str| {
            (message.to_owned(), leader.to_owned(), why.to_owned())
        };
        let leads = "this instance leads";
        let follows = "another instance leads";
        let unknown = "this instance does not lead, nor does it know who does";

        let mut simulation = two().await;
        sleep(seconds(60.0)).await;
        let first = line(leads, "pod-0_1", "nobody held the Lease");
        assert_eq!(
            new(),
            [first, line(follows, "pod-0_1", "the Lease says so")]
        );

        simulation.links(&[0, 1], |link| link.is_silent = true);
        sleep(seconds(60.0)).await;
        let silent = line(unknown, "-", "no answer within 3 s to get the Lease");
        assert_eq!(new(), [silent.clone(), silent]);

        simulation.recover();
        sleep(seconds(1.0)).await;
        simulation.until_led(6.0).await;
        sleep(seconds(5.0)).await;
        let again = new();
        assert_eq!(again.len(), 2, "{again:?}");

        simulation.terminate(simulation.leader());
        sleep(seconds(60.0)).await;
        let new = new();
        assert_eq!(new[0], line(unknown, "-", "this instance stops"));
        assert_eq!(new[1].0, leads);
        assert_eq!(new[1].2, "the Lease was released");
        assert_eq!(new.len(), 2, "{new:?}");
        let changes = simulation.processes[0].watch.state().changes;
        assert!(changes >= 4, "{changes}");
    });
}

#[test]
fn a_right_that_is_missing_is_named_with_its_cure() {
    for (method, verb) in [(Method::GET, "get"), (Method::POST, "create")] {
        in_virtual_time(async {
            let mut simulation = Simulation::new(1);
            simulation.start(1.0);
            simulation.links(&[0], |link| {
                link.refuses = Some((method.clone(), StatusCode::FORBIDDEN));
            });
            sleep(seconds(60.0)).await;
            let state = simulation.processes[0].watch.state();
            let Role::Unknown { why } = state.role else {
                panic!("{state:?}");
            };
            let begin = format!("the operator may not {verb} the Lease shipbell/leader: its Role");
            assert!(why.starts_with(&begin), "{why}");
            assert_eq!(state.changes, 1);
            simulation.links(&[0], |link| link.refuses = None);
            simulation.until_led(2.0).await;
        });
    }
}

#[test]
fn an_instance_has_another_name_than_the_one_before_it_unless_that_has_surely_ended() {
    let of = |uid| Instance::of_pod(Some("shipbell-0"), uid);
    assert_ne!(of(None), of(None));
    assert_eq!(of(Some("u")), of(Some("u")));
    assert_ne!(of(Some("u")), of(Some("v")));
}

#[test]
fn an_answer_that_is_read_too_late_makes_no_leader() {
    in_virtual_time(async {
        let simulation = two().await;
        simulation.links(&[0], |link| link.longest = seconds(2.0));
        let version = simulation.store.lock().version;
        while simulation.store.lock().version == version {
            sleep(seconds(0.001)).await;
        }
        // The answer is on its way.
        simulation.processes[0].stands.send_replace(true);
        simulation.until(20.0, |leaders| leaders == [1]).await;
        simulation.processes[0].stands.send_replace(false);
        sleep(seconds(10.0)).await;
        assert_eq!(simulation.leaders(), [1]);
        simulation.assert_sound();
    });
}

#[test]
fn a_leader_that_was_stopped_for_longer_than_it_may_lead_begins_anew() {
    in_virtual_time(async {
        let simulation = two().await;
        let term = simulation.leads.lock()[0].clone().unwrap();
        simulation.processes[0].stands.send_replace(true);
        sleep(seconds(12.0)).await;
        assert!(!term.lasts());
        simulation.processes[0].stands.send_replace(false);
        simulation.until(1.0, |leaders| leaders == [0]).await;
        assert!(!term.lasts(), "what was begun before must not go on");
        assert_eq!(simulation.store.lock().transitions(), 0);
    });
}
