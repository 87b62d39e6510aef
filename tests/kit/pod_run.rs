//! A pod's life on the fake node, without I/O: [`PodRun::step`] takes the pod, the images and the time, and
//! says which status to write, when to look again and whether the pod has come to its end.
//!
//! It follows the real kubelet in what an observer can tell apart: run-once init containers one after another,
//! sidecars that stay, restarts by policy, phases, conditions with stable times, termination that takes time.

use crate::registry::{Image, Registry, sha256_hex};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::BTreeMap, time::Duration};

/// How long a container that ended waits for its restart, and a failed pull for its back-off.
const BACK_OFF: Duration = Duration::from_secs(1);

/// What one pod is doing.
#[derive(Debug, Default)]
pub struct PodRun {
    containers: BTreeMap<String, Container>,
    started: Option<Timestamp>,
    deleted: Option<Timestamp>,
    /// Since when no main container runs or will: sidecars stop then.
    over: Option<Timestamp>,
    conditions: BTreeMap<&'static str, (bool, Timestamp)>,
}

/// What a step came to.
#[derive(Debug)]
pub struct Turn {
    /// The status to write.
    pub status: PodStatus,
    /// When something will happen by itself.
    pub wake: Option<Timestamp>,
    /// The pod is deleted and its containers have ended: take the object away.
    pub gone: bool,
}

#[derive(Debug, Default)]
struct Container {
    state: State,
    /// Since when it may start.
    eligible: Option<Timestamp>,
    /// Counts starts, so that each has its own containerID.
    starts: u32,
    /// The image as it was at the last start, under which name and with which imageID.
    image: Image,
    image_name: String,
    image_id: String,
    last: Option<Ended>,
}

#[derive(Clone, Debug)]
enum State {
    Waiting(&'static str),
    Running(Timestamp),
    Ended(Ended),
}

impl Default for State {
    fn default() -> Self {
        State::Waiting("PodInitializing")
    }
}

#[derive(Clone, Debug)]
struct Ended {
    code: i32,
    started: Timestamp,
    at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Runs once before the main containers.
    Init,
    /// An init container that stays.
    Sidecar,
    Main,
    Ephemeral,
}

/// What a container may do in this step.
struct Orders {
    may_start: bool,
    may_restart: bool,
    /// Since when it has to stop, and how long that may take.
    stop: Option<(Timestamp, Duration)>,
}

impl PodRun {
    /// Lets time pass until `now`.
    pub fn step(&mut self, pod: &Pod, registry: &Registry, now: Timestamp) -> Turn {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(spec) = &pod.spec else {
            return Turn {
                status: PodStatus::default(),
                wake: None,
                gone: false,
            };
        };
        let started = *self.started.get_or_insert(now);
        if pod.metadata.deletion_timestamp.is_some() {
            self.deleted.get_or_insert(now);
        }
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        let grace = Duration::from_secs(grace.try_into().unwrap_or_default());
        let alive = self.deleted.is_none();
        let mut wakes = Vec::new();

        // Each init container lets the next start; only when all are through do the main ones.
        let mut initialised = true;
        for init in spec.init_containers.iter().flatten() {
            let role = role_of_init(init);
            let orders = Orders {
                may_start: alive && initialised && self.over.is_none(),
                may_restart: alive && self.over.is_none(),
                stop: match role {
                    Role::Sidecar => self.over.map(|over| (over, grace)),
                    _ => self.deleted.map(|since| (since, grace)),
                },
            };
            let container = self.containers.entry(init.name.clone()).or_default();
            wakes.extend(container.advance(role, init, spec, &orders, registry, now));
            initialised &= match role {
                Role::Sidecar => container.starts > 0,
                _ => matches!(&container.state, State::Ended(ended) if ended.code == 0),
            };
        }
        for main in &spec.containers {
            let orders = Orders {
                may_start: alive && initialised,
                may_restart: alive,
                stop: self.deleted.map(|since| (since, grace)),
            };
            let container = self.containers.entry(main.name.clone()).or_default();
            wakes.extend(container.advance(Role::Main, main, spec, &orders, registry, now));
        }
        for ephemeral in spec.ephemeral_containers.iter().flatten() {
            let orders = Orders {
                may_start: alive && initialised,
                may_restart: false,
                stop: self.over.map(|over| (over, grace)),
            };
            let container = self.containers.entry(ephemeral.name.clone()).or_default();
            let name = ephemeral.image.as_deref();
            let like_main = Spec {
                name: ephemeral.name.clone(),
                image: name.map(str::to_owned),
                ..Spec::default()
            };
            wakes.extend(container.advance(
                Role::Ephemeral,
                &like_main,
                spec,
                &orders,
                registry,
                now,
            ));
        }

        let phase = self.phase(spec);
        let over = matches!(phase, "Succeeded" | "Failed")
            || (!alive && !spec.containers.iter().any(|main| self.runs(&main.name)));
        if over && self.over.is_none() {
            self.over = Some(now);
            // The sidecars' orders have changed.
            wakes.push(now);
        }
        Turn {
            status: self.status(spec, uid, phase, initialised, started, now),
            wake: wakes.into_iter().min(),
            gone: !alive && !self.containers.keys().any(|name| self.runs(name)),
        }
    }

    /// Gives a container another imageID, as a runtime that knows the same content by two names may.
    pub fn set_image_id(&mut self, container: &str, image_id: &str) -> bool {
        self.containers
            .get_mut(container)
            .map(|container| image_id.clone_into(&mut container.image_id))
            .is_some()
    }

    /// Ends a running container; the next step starts it anew, from the image its spec then names.
    pub fn restart(&mut self, container: &str, now: Timestamp) -> bool {
        let Some(container) = self.containers.get_mut(container) else {
            return false;
        };
        let State::Running(started) = container.state else {
            return false;
        };
        container.last = Some(Ended {
            code: 0,
            started,
            at: now,
        });
        container.state = State::Waiting("ContainerCreating");
        container.eligible = None;
        true
    }

    fn runs(&self, name: &str) -> bool {
        self.containers
            .get(name)
            .is_some_and(|container| matches!(container.state, State::Running(_)))
    }

    /// As the kubelet's getPhase: a container that never ran holds the pod in Pending.
    fn phase(&self, spec: &PodSpec) -> &'static str {
        let ended = |name: &str| match self.containers.get(name).map(|container| &container.state) {
            Some(State::Ended(ended)) => Some(ended.code),
            _ => None,
        };
        let mut inits = spec.init_containers.iter().flatten();
        if inits.any(|init| {
            role_of_init(init) == Role::Init && ended(&init.name).is_some_and(|code| code != 0)
        }) {
            return "Failed";
        }
        let codes: Vec<_> = spec
            .containers
            .iter()
            .map(|main| ended(&main.name))
            .collect();
        if codes.iter().all(Option::is_some) {
            let failed = codes.iter().flatten().any(|code| *code != 0);
            return if failed { "Failed" } else { "Succeeded" };
        }
        let never_ran = |main: &Spec| {
            self.containers
                .get(&main.name)
                .is_none_or(|it| it.starts == 0)
        };
        if spec.containers.iter().any(never_ran) {
            "Pending"
        } else {
            "Running"
        }
    }

    fn status(
        &mut self,
        spec: &PodSpec,
        uid: &str,
        phase: &'static str,
        initialised: bool,
        started: Timestamp,
        now: Timestamp,
    ) -> PodStatus {
        let statuses =
            |of: &mut dyn Iterator<Item = (Role, &str, Option<&str>)>| -> Option<Vec<_>> {
                let all: Vec<_> = of
                    .filter_map(|(role, name, image)| {
                        Some(self.containers.get(name)?.status(
                            role,
                            uid,
                            name,
                            image.unwrap_or_default(),
                        ))
                    })
                    .collect();
                (!all.is_empty()).then_some(all)
            };
        let inits = statuses(&mut spec.init_containers.iter().flatten().map(|init| {
            (
                role_of_init(init),
                init.name.as_str(),
                init.image.as_deref(),
            )
        }));
        let mains = statuses(
            &mut spec
                .containers
                .iter()
                .map(|main| (Role::Main, main.name.as_str(), main.image.as_deref())),
        );
        let ephemerals = statuses(
            &mut spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|it| (Role::Ephemeral, it.name.as_str(), it.image.as_deref())),
        );
        let sidecars = inits.iter().flatten().filter(|status| {
            let mut specs = spec.init_containers.iter().flatten();
            specs.any(|init| init.name == status.name && role_of_init(init) == Role::Sidecar)
        });
        let ready = phase == "Running"
            && mains
                .iter()
                .flatten()
                .chain(sidecars)
                .all(|status| status.ready);
        let why = (!ready).then_some(if phase == "Succeeded" {
            "PodCompleted"
        } else {
            "ContainersNotReady"
        });
        let conditions = vec![
            self.condition("PodReadyToStartContainers", true, None, now),
            self.condition("Initialized", initialised, None, now),
            self.condition("ContainersReady", ready, why, now),
            self.condition("Ready", ready, why, now),
        ];
        let address = pod_address(uid);
        PodStatus {
            phase: Some(phase.to_owned()),
            host_ip: Some("10.1.0.1".to_owned()),
            pod_ip: Some(address.clone()),
            pod_ips: Some(vec![PodIP { ip: address }]),
            start_time: Some(Time(started)),
            conditions: Some(conditions),
            init_container_statuses: inits,
            container_statuses: mains,
            ephemeral_container_statuses: ephemerals,
            ..PodStatus::default()
        }
    }

    /// A condition whose time moves only when its status does.
    fn condition(
        &mut self,
        type_: &'static str,
        holds: bool,
        why: Option<&str>,
        now: Timestamp,
    ) -> PodCondition {
        let entry = self.conditions.entry(type_).or_insert((holds, now));
        if entry.0 != holds {
            *entry = (holds, now);
        }
        PodCondition {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: why.map(str::to_owned),
            last_transition_time: Some(Time(entry.1)),
            ..PodCondition::default()
        }
    }
}

impl Container {
    /// Changes state as often as the time allows; returns when it will change next.
    fn advance(
        &mut self,
        role: Role,
        container: &Spec,
        pod: &PodSpec,
        orders: &Orders,
        registry: &Registry,
        now: Timestamp,
    ) -> Option<Timestamp> {
        loop {
            match &self.state {
                State::Waiting(reason) => {
                    if !orders.may_start {
                        return None;
                    }
                    let restarts = *reason == "CrashLoopBackOff";
                    let eligible = *self.eligible.get_or_insert(now);
                    let name = container.image.as_deref().unwrap_or_default();
                    let image = registry.get(name);
                    // A restart has waited already, and its image is there.
                    let start = if restarts {
                        eligible
                    } else {
                        eligible + image.starts_after
                    };
                    if now < start {
                        if !restarts {
                            self.state = State::Waiting("ContainerCreating");
                        }
                        return Some(start);
                    }
                    if image.pull_fails {
                        let backs_off = start + BACK_OFF;
                        let waits = now >= backs_off;
                        self.state = State::Waiting(if waits {
                            "ImagePullBackOff"
                        } else {
                            "ErrImagePull"
                        });
                        return (!waits).then_some(backs_off);
                    }
                    self.image_id = image.image_id_as(name);
                    self.image = image;
                    name.clone_into(&mut self.image_name);
                    self.starts += 1;
                    self.state = State::Running(now);
                }
                State::Running(started) => {
                    let started = *started;
                    // A run-once container that is told nothing ends at once, and well.
                    let exit = self
                        .image
                        .exit()
                        .or((role == Role::Init).then_some((Duration::ZERO, 0)));
                    let exit = exit.map(|(after, code)| (started + after, code));
                    let stop = orders.stop.map(|(since, grace)| {
                        let in_time = self.image.stops_after <= grace;
                        (
                            since + self.image.stops_after.min(grace),
                            if in_time { 0 } else { 137 },
                        )
                    });
                    let (at, code) = [exit, stop]
                        .into_iter()
                        .flatten()
                        .min_by_key(|(at, _)| *at)?;
                    if now < at {
                        return Some(at);
                    }
                    let ended = Ended {
                        code,
                        started,
                        at: now,
                    };
                    self.state = if orders.may_restart && restarts(role, container, pod, code) {
                        self.last = Some(ended);
                        self.eligible = Some(now + BACK_OFF);
                        State::Waiting("CrashLoopBackOff")
                    } else {
                        State::Ended(ended)
                    };
                }
                State::Ended(_) => return None,
            }
        }
    }

    fn status(&self, role: Role, uid: &str, name: &str, image: &str) -> ContainerStatus {
        let runs = matches!(self.state, State::Running(_));
        let done = matches!(&self.state, State::Ended(ended) if ended.code == 0);
        ContainerStatus {
            name: name.to_owned(),
            // What runs, which an edited spec no longer says.
            image: if self.starts > 0 {
                self.image_name.clone()
            } else {
                image.to_owned()
            },
            image_id: self.image_id.clone(),
            container_id: (self.starts > 0).then(|| container_id(uid, name, self.starts)),
            ready: match role {
                Role::Init => done,
                Role::Ephemeral => false,
                Role::Main | Role::Sidecar => runs && self.image.ready,
            },
            started: (role != Role::Ephemeral).then_some(runs),
            restart_count: i32::try_from(self.starts.saturating_sub(1)).unwrap_or(i32::MAX),
            state: Some(match &self.state {
                State::Waiting(reason) => ContainerState {
                    waiting: Some(ContainerStateWaiting {
                        reason: Some((*reason).to_owned()),
                        message: None,
                    }),
                    ..ContainerState::default()
                },
                State::Running(since) => ContainerState {
                    running: Some(ContainerStateRunning {
                        started_at: Some(Time(*since)),
                    }),
                    ..ContainerState::default()
                },
                State::Ended(how) => ended(how, container_id(uid, name, self.starts)),
            }),
            last_state: self.last.as_ref().map(|last| {
                let waits = matches!(self.state, State::Waiting(_));
                ended(
                    last,
                    container_id(uid, name, self.starts - u32::from(!waits)),
                )
            }),
            ..ContainerStatus::default()
        }
    }
}

fn container_id(uid: &str, name: &str, start: u32) -> String {
    format!(
        "containerd://{}",
        sha256_hex(&format!("{uid}/{name}/{start}"))
    )
}

fn ended(ended: &Ended, container_id: String) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id),
            exit_code: ended.code,
            reason: Some(
                if ended.code == 0 {
                    "Completed"
                } else {
                    "Error"
                }
                .to_owned(),
            ),
            started_at: Some(Time(ended.started)),
            finished_at: Some(Time(ended.at)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn role_of_init(container: &Spec) -> Role {
    match container.restart_policy.as_deref() {
        Some("Always") => Role::Sidecar,
        _ => Role::Init,
    }
}

fn restarts(role: Role, container: &Spec, pod: &PodSpec, code: i32) -> bool {
    let policy = container
        .restart_policy
        .as_ref()
        .or(pod.restart_policy.as_ref());
    match policy.map_or("Always", String::as_str) {
        "Never" => false,
        "OnFailure" => code != 0,
        // An init container that did its work is never run again.
        _ => role != Role::Init || code != 0,
    }
}

/// Some address of 10.2.0.0/16: nobody connects to it.
fn pod_address(uid: &str) -> String {
    let hash = sha256_hex(uid);
    let byte = |at: usize| u8::from_str_radix(&hash[at..at + 2], 16).unwrap_or_default();
    format!("10.2.{}.{}", byte(0), byte(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod and its run, driven by hand; times are milliseconds.
    struct Fixture {
        pod: Value,
        run: PodRun,
        registry: Registry,
    }

    impl Fixture {
        fn new(spec: &Value) -> Self {
            Fixture {
                pod: json!({"metadata": {"uid": "u", "name": "p"}, "spec": spec}),
                run: PodRun::default(),
                registry: Registry::default(),
            }
        }

        fn delete(&mut self, grace: i64) {
            self.pod["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
            self.pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }

        fn step(&mut self, at: i64) -> Turn {
            let pod = serde_json::from_value(self.pod.clone()).unwrap();
            self.run.step(
                &pod,
                &self.registry,
                Timestamp::from_millisecond(at).unwrap(),
            )
        }

        /// The phase and each container's state in a word.
        fn seen(&mut self, at: i64) -> String {
            let status = self.step(at).status;
            let all = [status.init_container_statuses, status.container_statuses];
            let words = all.into_iter().flatten().flatten().map(|container| {
                let state = container.state.unwrap();
                let word = match (state.waiting, state.terminated) {
                    (Some(waiting), _) => waiting.reason.unwrap(),
                    (_, Some(ended)) => ended.exit_code.to_string(),
                    _ => "runs".to_owned(),
                };
                format!("{}={word}", container.name)
            });
            [status.phase.unwrap()]
                .into_iter()
                .chain(words)
                .collect::<Vec<_>>()
                .join(" ")
        }
    }

    fn images(image: Image) -> Registry {
        let registry = Registry::default();
        registry.set("special", image);
        registry
    }

    #[test]
    fn a_sidecar_starts_before_and_ends_after_the_main_container() {
        let mut pod = Fixture::new(&json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "side", "image": "s", "restartPolicy": "Always"}, {"name": "init", "image": "special"}],
            "containers": [{"name": "main", "image": "special"}],
        }));
        pod.registry = images(Image {
            exits_after: Some(Duration::from_secs(1)),
            ..Image::default()
        });
        assert_eq!(
            pod.seen(0),
            "Pending side=runs init=runs main=PodInitializing"
        );
        assert_eq!(pod.seen(1000), "Running side=runs init=0 main=runs");
        assert_eq!(pod.seen(2000), "Succeeded side=runs init=0 main=0");
        assert_eq!(pod.seen(2000), "Succeeded side=0 init=0 main=0");
    }

    #[test]
    fn a_failing_init_container_fails_a_pod_that_never_restarts() {
        let mut pod = Fixture::new(&json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "init", "image": "special"}],
            "containers": [{"name": "main", "image": "m"}],
        }));
        pod.registry = images(Image {
            exits_after: Some(Duration::ZERO),
            exit_code: 7,
            ..Image::default()
        });
        assert_eq!(pod.seen(0), "Failed init=7 main=PodInitializing");
    }

    #[test]
    fn a_container_that_outstays_its_grace_period_is_killed() {
        let mut pod = Fixture::new(&json!({"containers": [{"name": "main", "image": "special"}]}));
        pod.registry = images(Image {
            stops_after: Duration::from_secs(9),
            ..Image::default()
        });
        assert_eq!(pod.seen(0), "Running main=runs");
        pod.delete(5);
        assert!(!pod.step(1000).gone);
        assert_eq!(pod.seen(5999), "Running main=runs");
        assert_eq!(pod.seen(6000), "Failed main=137");
        assert!(pod.step(6000).gone);
    }

    #[test]
    fn a_pod_that_never_started_is_gone_at_once() {
        let mut pod = Fixture::new(&json!({"containers": [{"name": "main", "image": "special"}]}));
        pod.registry = images(Image {
            starts_after: Duration::from_secs(9),
            ..Image::default()
        });
        assert_eq!(pod.seen(0), "Pending main=ContainerCreating");
        pod.delete(30);
        assert!(pod.step(1).gone);
    }

    #[test]
    fn the_time_of_a_condition_moves_with_its_status_alone() {
        let mut pod = Fixture::new(&json!({"containers": [{"name": "main", "image": "special"}]}));
        pod.registry = images(Image {
            starts_after: Duration::from_secs(2),
            ..Image::default()
        });
        let mut ready = |at: i64| {
            let conditions = pod.step(at).status.conditions.unwrap();
            let ready = conditions
                .into_iter()
                .find(|condition| condition.type_ == "Ready")
                .unwrap();
            (
                ready.status,
                ready.last_transition_time.unwrap().0.as_millisecond(),
            )
        };
        assert_eq!(ready(0), ("False".to_owned(), 0));
        assert_eq!(ready(1000), ("False".to_owned(), 0));
        assert_eq!(ready(2000), ("True".to_owned(), 2000));
        assert_eq!(ready(3000), ("True".to_owned(), 2000));
    }
}
