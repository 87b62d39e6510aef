//! What holds whatever happens, in whatever order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    api::environment::EnvironmentId,
    api::{EventType, compliance::ComplianceState, snapshot::Cause},
    cluster::{image::Fingerprint, watch_progress::WatchKind},
    simulation::{Cluster, State, image_id, seconds, story, testing::digest},
    snapshot::event,
    time::Moment,
};

const WORKLOADS: [&str; 5] = ["web", "api", "blog/web", "StatefulSet db", "Pod one"];
const IMAGES: [&str; 4] = ["v1", "v2", "v3", "v4"];

/// Something that happens in a cluster. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Happening {
    Create(usize, usize, bool),
    Run(usize),
    Crash(usize),
    Fail(usize),
    Terminate(usize),
    Remove(usize),
    Relabel(usize),
    Garble(usize),
    Called(usize, usize),
    Pinned(usize, usize),
    Deployment(usize, u8),
    Relist(WatchKind),
    Lose(WatchKind, Box<Happening>),
    Namespace(bool),
    Rescope(usize),
    Restart,
    Pass(u64),
}

/// What may happen to pods and Deployments alone.
fn ordinary() -> impl Strategy<Value = Happening> {
    use Happening::{
        Crash, Create, Deployment, Fail, Garble, Pass, Relabel, Remove, Run, Terminate,
    };
    prop_oneof![
        6 => (0..5_usize, 0..4_usize, any::<bool>()).prop_map(|(w, i, s)| Create(w, i, s)),
        6 => (0..40_usize).prop_map(Run),
        1 => (0..40_usize).prop_map(Crash),
        1 => (0..40_usize).prop_map(Fail),
        2 => (0..40_usize).prop_map(Terminate),
        3 => (0..40_usize).prop_map(Remove),
        1 => (0..40_usize).prop_map(Relabel),
        1 => (0..40_usize).prop_map(Garble),
        3 => (0..3_usize, 0..5_u8).prop_map(|(w, s)| Deployment(w, s)),
        8 => prop_oneof![0..8_u64, 20..40_u64, 100..400_u64].prop_map(Pass),
    ]
}

fn kinds() -> impl Strategy<Value = WatchKind> {
    prop_oneof![
        Just(WatchKind::Pods),
        Just(WatchKind::Deployments),
        Just(WatchKind::Namespaces)
    ]
}

fn anything() -> impl Strategy<Value = Happening> {
    use Happening::{Called, Lose, Namespace, Relist, Rescope, Restart};
    prop_oneof![
        30 => ordinary(),
        2 => (0..40_usize, 0..4_usize).prop_map(|(pod, image)| Called(pod, image)),
        1 => kinds().prop_map(Relist),
        2 => (kinds(), ordinary()).prop_map(|(kind, lost)| Lose(kind, Box::new(lost))),
        1 => any::<bool>().prop_map(Namespace),
        1 => (0..3_usize).prop_map(Rescope),
        1 => Just(Restart),
    ]
}

/// The same, with more containers of which more than one digest is known.
fn naming() -> impl Strategy<Value = Happening> {
    use Happening::{Called, Pinned};
    prop_oneof![
        6 => anything(),
        1 => (0..40_usize, 0..4_usize).prop_map(|(pod, image)| Called(pod, image)),
        1 => (0..5_usize, 0..4_usize).prop_map(|(w, i)| Pinned(w, i)),
    ]
}

const SCOPES: [&str; 3] = [
    "{}",
    "namespaceSelector: {matchLabels: {stage: prod}}",
    "podSelector: {matchLabels: {tier: front}}",
];

fn happen(cluster: &mut Cluster, happening: &Happening) {
    use Happening::{
        Called, Crash, Create, Deployment, Fail, Garble, Lose, Namespace, Pass, Pinned, Relabel,
        Relist, Remove, Rescope, Restart, Run, Terminate,
    };
    let pods: Vec<String> = cluster.pods.keys().cloned().collect();
    let pod = |number: &usize| pods.get(number % pods.len().max(1)).cloned();
    match happening {
        Create(workload, image, sidecar) => {
            let (workload, image) = (WORKLOADS[*workload], IMAGES[*image]);
            let images: &[&str] = if *sidecar { &[image, "mesh"] } else { &[image] };
            if !cluster.pods.contains_key("one") || workload != "Pod one" {
                cluster.create(workload, image, images);
            }
        }
        Run(number) => {
            let waits = |pod: &String| cluster.pods[pod].containers[0].state == State::Waiting;
            if let Some(pod) = pod(number).filter(waits) {
                cluster.run(&pod);
            }
        }
        Crash(number) => {
            if let Some(pod) = pod(number).filter(|pod| cluster.pods[pod].runs()) {
                cluster.container(&pod, |c| {
                    (c.state, c.restarts) = (State::Crashed, c.restarts + 1);
                });
            }
        }
        Fail(number) => {
            if let Some(pod) = pod(number) {
                cluster.change(&pod, |pod| pod.phase = "Failed");
            }
        }
        Terminate(number) => {
            if let Some(pod) = pod(number) {
                cluster.terminate(&pod);
            }
        }
        Remove(number) => {
            if let Some(pod) = pod(number) {
                cluster.remove(&pod);
            }
        }
        Relabel(number) => {
            if let Some(pod) = pod(number) {
                cluster.change(&pod, |pod| {
                    if pod.labels.remove("tier").is_none() {
                        pod.labels.insert("tier".to_owned(), "front".to_owned());
                    }
                });
            }
        }
        Garble(number) => {
            if let Some(pod) = pod(number) {
                cluster.change(&pod, |pod| pod.garbled = !pod.garbled);
            }
        }
        Called(number, image) => {
            if let Some(pod) = pod(number).filter(|pod| cluster.pods[pod].runs()) {
                cluster.container(&pod, |c| c.image_id = image_id(IMAGES[*image]));
            }
        }
        Pinned(workload, image) => {
            // Its node calls it by the digest for its platform.
            let (workload, image) = (WORKLOADS[*workload], IMAGES[*image]);
            if !cluster.pods.contains_key("one") || workload != "Pod one" {
                let index = format!("index of {image}");
                let pod = cluster.create(workload, image, &[&index]);
                cluster.change(&pod, |pod| pod.containers[0].image = image_id(&index));
                cluster.run(&pod);
                cluster.container(&pod, |c| c.image_id = image_id(image));
            }
        }
        Deployment(workload, state) => cluster.deployment(WORKLOADS[*workload], |d| match state {
            0 => d.generation += 1,
            1 => (d.observed, d.reason) = (d.generation, "ReplicaSetUpdated"),
            2 => (d.observed, d.reason, d.paused) = (d.generation, "NewReplicaSetAvailable", false),
            3 => (d.observed, d.reason) = (d.generation, "ProgressDeadlineExceeded"),
            _ => d.paused = !d.paused,
        }),
        Relist(kind) => cluster.list(*kind),
        Lose(kind, lost) => {
            cluster.stop_watch(*kind);
            happen(cluster, lost);
            cluster.resume_watch(*kind);
        }
        Namespace(labelled) => {
            let labels: &[_] = if *labelled { &[("stage", "prod")] } else { &[] };
            cluster.namespace("shop", labels);
        }
        Rescope(scope) => cluster.environment("prod", SCOPES[*scope]),
        Restart => cluster.restart(),
        Pass(number) => cluster.pass(*number),
    }
}

/// Everything that is under way comes to its end.
fn calm_down(cluster: &mut Cluster) {
    for pod in cluster.pods.keys().cloned().collect::<Vec<_>>() {
        if cluster.pods[&pod].garbled {
            cluster.change(&pod, |pod| pod.garbled = false);
        }
    }
    cluster.pass(2_000);
    cluster.assert_at_rest();
}

/// A cluster of which other environments choose parts.
fn with_scopes() -> Cluster {
    let mut cluster = Cluster::new();
    for (name, scope) in ["all", "staged", "front"].iter().zip(SCOPES) {
        cluster.environment(name, scope);
    }
    cluster
}

fn a_restart_changes_nothing(cluster: &mut Cluster) -> Result<(), TestCaseError> {
    let recorded =
        |cluster: &Cluster| ["all", "staged", "front", "prod"].map(|name| totals(cluster, name));
    let (before, entries) = (recorded(cluster), cluster.log("all").len());
    cluster.restart();
    cluster.pass(2_000);
    cluster.assert_at_rest();
    prop_assert_eq!(before, recorded(cluster), "a restart changes nothing");
    prop_assert_eq!(cluster.log("all").len(), entries, "and writes nothing");
    Ok(())
}

/// What is recorded of an environment, by artifact.
fn totals(cluster: &Cluster, environment: &str) -> BTreeMap<Fingerprint, u32> {
    let artifacts = cluster.recorded(environment).artifacts();
    artifacts
        .map(|(fingerprint, total)| (*fingerprint, total))
        .collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..crate::simulation::testing::tries(cases)
    }
}

proptest! {
    #![proptest_config(config(32))]

    /// The harness replays and restores every entry that is appended and compares, so this also says that the state
    /// after an entry is that before it and the entry.
    #[test]
    fn the_log_ends_as_the_cluster_is_and_the_running_counts_are_always_right(
        happenings in prop::collection::vec(anything(), 1..60),
    ) {
        let mut cluster = with_scopes();
        for happening in &happenings {
            happen(&mut cluster, happening);
            prop_assert_eq!(cluster.state.self_check(cluster.now), 0, "{:?}", happening);
        }
        calm_down(&mut cluster);
        let called = happenings.iter().any(|h| matches!(h, Happening::Called(..)));
        if !called {
            let of = |cluster: &Cluster, filter: &dyn Fn(&crate::simulation::Pod) -> bool| cluster.actual(filter);
            prop_assert_eq!(totals(&cluster, "all"), of(&cluster, &|_| true));
            prop_assert_eq!(totals(&cluster, "front"), of(&cluster, &|pod| pod.labels.contains_key("tier")));
        }
        a_restart_changes_nothing(&mut cluster)?;
    }

    /// What runs or is recorded is counted and told under the same digests, whenever the rest is forgotten.
    #[test]
    fn whenever_it_is_forgotten_what_nothing_refers_to_the_rest_is_known_as_before(
        happenings in prop::collection::vec((naming(), any::<bool>()), 1..50),
    ) {
        let mut cluster = with_scopes();
        for (happening, tidy) in &happenings {
            happen(&mut cluster, happening);
            if *tidy {
                cluster.state.tidy();
                prop_assert_eq!(cluster.state.self_check(cluster.now), 0, "{:?}", happening);
            }
        }
        calm_down(&mut cluster);
        cluster.state.tidy();
        cluster.assert_at_rest();
        a_restart_changes_nothing(&mut cluster)?;
    }

    #[test]
    fn an_artifact_that_started_or_stopped_is_recorded_in_time(
        happenings in prop::collection::vec(ordinary(), 1..60),
    ) {
        let mut cluster = Cluster::new();
        let mut since: BTreeMap<Fingerprint, Moment> = BTreeMap::new();
        for happening in &happenings {
            happen(&mut cluster, happening);
            // An unreadable pod counts as it last did: what runs is what the model has read.
            if cluster.pods.values().any(|pod| pod.garbled) {
                since.clear();
                continue;
            }
            let (actual, recorded) = (cluster.actual(|_| true), totals(&cluster, "prod"));
            let all: BTreeSet<_> = actual.keys().chain(recorded.keys()).copied().collect();
            let started_or_stopped: BTreeSet<_> = all
                .into_iter()
                .filter(|digest| actual.contains_key(digest) != recorded.contains_key(digest))
                .collect();
            since.retain(|digest, _| started_or_stopped.contains(digest));
            for digest in started_or_stopped {
                let since = *since.entry(digest).or_insert(cluster.now);
                prop_assert!(cluster.now <= since + seconds(31), "since {since:?}");
            }
        }
    }

    /// Whatever a tenant does to keep a workload restless, what runs is judged.
    #[test]
    fn an_artifact_without_a_record_is_no_longer_overlooked_than_one_that_is_recorded_in_time(
        happenings in prop::collection::vec(ordinary(), 1..60),
    ) {
        let mut cluster = Cluster::bare(true);
        for image in ["v2", "v3", "v4", "mesh"] {
            cluster.record(image, &format!("{{fingerprint: {}, flow: web}}", digest(image)));
        }
        cluster.environment(
            "prod",
            "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 0s}",
        );
        cluster.begin();
        let mut since: Option<Moment> = None;
        for happening in &happenings {
            happen(&mut cluster, happening);
            // An unreadable pod counts as it last did: what runs is what the model has read.
            if cluster.pods.values().any(|pod| pod.garbled) {
                return Ok(());
            }
            let recorded = cluster.recorded("prod");
            if recorded.total(&digest("v1")) > 0 {
                since = None;
            } else if cluster.actual(|_| true).contains_key(&digest("v1")) {
                let first = *since.get_or_insert(cluster.now);
                if cluster.now <= first + seconds(31) {
                    continue;
                }
            } else {
                continue;
            }
            prop_assert_eq!(recorded.compliance.state, ComplianceState::NonCompliant, "since {:?}", since);
        }
    }

    // F21
    /// A pod whose deletion has begun may be left out early under a clock that is ahead; it never comes back.
    #[test]
    fn a_clock_that_jumps_by_hours_starts_nothing_and_stops_only_what_is_being_deleted(
        happenings in prop::collection::vec(ordinary(), 1..40),
        jumps in prop::collection::vec((0..9_u64, any::<bool>(), prop_oneof![1..40_u64, 100..2_000_u64]), 1..12),
    ) {
        let mut cluster = with_scopes();
        let right = seconds(4 * 3_600);
        cluster.set_back = right;
        cluster.pass(60);
        // What can be read for the first time when it hangs already is in no entry: it may start under a clock that is behind.
        for happening in happenings.iter().filter(|it| !matches!(it, Happening::Garble(_))) {
            happen(&mut cluster, happening);
        }
        // The entry of its start names what hangs by then; pods may change after it.
        cluster.running("Pod last", "", &["last"]);
        cluster.pass(60);
        prop_assert!(cluster.new_events().iter().any(|told| told.contains("started last")));
        for pod in cluster.pods.keys().cloned().collect::<Vec<_>>() {
            cluster.change(&pod, |_| ());
        }
        cluster.pass(60);
        let deleted = cluster.pods.values().filter(|pod| pod.ends.is_some());
        let deleted = deleted.flat_map(|pod| pod.containers.iter().map(|c| c.image_id.clone()));
        let deleted: BTreeSet<String> = deleted.collect();
        let entries = cluster.log("prod").len();
        for (hours, restart, pause) in jumps {
            cluster.set_back = seconds(hours * 3_600);
            if restart {
                cluster.restart();
            }
            cluster.pass(pause);
        }
        cluster.set_back = right;
        cluster.pass(10_000);
        let mut stopped = BTreeSet::new();
        for written in &cluster.log("prod")[entries..] {
            for told in &written.spec.events {
                let digest = &event::change(&written.spec, told).unwrap().fingerprint;
                prop_assert_ne!(told.type_, EventType::ArtifactStarted, "{}", digest);
                if told.type_ == EventType::ArtifactStopped {
                    prop_assert!(deleted.iter().any(|image| image.ends_with(digest)), "{}", digest);
                    prop_assert!(stopped.insert(digest.clone()), "{} stops once", digest);
                }
            }
        }
        prop_assert_eq!(totals(&cluster, "prod"), cluster.actual(|_| true));
        cluster.assert_at_rest();
    }

    #[test]
    fn starts_and_stops_of_an_artifact_alternate_and_add_up(
        happenings in prop::collection::vec(anything(), 1..60),
    ) {
        let mut cluster = Cluster::new();
        for happening in &happenings {
            happen(&mut cluster, happening);
        }
        calm_down(&mut cluster);
        let mut running: BTreeMap<String, i64> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for written in cluster.log("prod") {
            let spec = &written.spec;
            if spec.causes.contains(&Cause::ScopeChanged) || !spec.identities.is_empty() {
                return Ok(()); // what is known changed without an event
            }
            for change in &spec.changes {
                let before = running.insert(change.fingerprint.clone(), change.now);
                prop_assert_eq!(before.unwrap_or(0), change.was);
            }
            let order: Vec<_> = spec.events.iter().map(|event| (event.type_, event.change)).collect();
            prop_assert!(order.is_sorted());
            for (ordinal, told) in spec.events.iter().enumerate() {
                prop_assert!(ids.insert(event::id(spec, ordinal)), "an id is unique");
                let change = event::change(spec, told).unwrap();
                let want = match (change.was, change.now) {
                    (0, _) => EventType::ArtifactStarted,
                    (_, 0) => EventType::ArtifactStopped,
                    _ => EventType::ArtifactScaled,
                };
                prop_assert_eq!(told.type_, want);
            }
        }
    }

    #[test]
    fn the_order_of_a_list_does_not_matter(
        happenings in prop::collection::vec(ordinary(), 1..40),
        order in prop::collection::vec(any::<u32>(), 60),
    ) {
        let mut cluster = Cluster::bare(true);
        for happening in &happenings {
            happen(&mut cluster, happening);
        }
        for pod in cluster.pods.values_mut() {
            pod.garbled = false;
        }
        let mut states = vec![];
        for shuffled in [false, true] {
            let mut state = crate::simulation::empty_state(true, cluster.now);
            state.environment_seen(&EnvironmentId::new("all", "uid"), &crate::api::EnvironmentSpec::default(), cluster.now);
            let mut pods: Vec<_> = cluster.pods.values().zip(&order).collect();
            if shuffled {
                pods.sort_by_key(|(_, order)| **order);
            }
            state.list_begins(WatchKind::Pods);
            for (pod, _) in pods {
                state.seen::<crate::cluster::pod_view::PodView>(
                    crate::simulation::seen(&pod.json()),
                    true,
                    cluster.now,
                );
            }
            state.list_ends(WatchKind::Pods, 7, cluster.now, cluster.now);
            state.log_is_blank(&EnvironmentId::new("all", "uid"), None, Cause::Baseline);
            let plan = state.plan("all", cluster.now, cluster.wall());
            let crate::snapshot::state::Plan::Append(draft) = plan else { panic!("{plan:?}") };
            states.push(draft[0].spec.clone());
        }
        prop_assert_eq!(&states[0], &states[1]);
    }

    /// The same changes, told one by one or found by lists only, are the same events once they settled.
    #[test]
    fn changes_that_are_found_by_lists_are_told_as_those_that_are_watched(
        periods in prop::collection::vec(prop::collection::vec((ordinary(), any::<bool>()), 1..12), 1..4),
    ) {
        let mut stories = vec![];
        for listed in [false, true] {
            let mut cluster = Cluster::new();
            let mut story = vec![];
            for period in &periods {
                if listed {
                    cluster.stop_watch(WatchKind::Pods);
                }
                for (happening, list) in period {
                    if matches!(happening, Happening::Pass(_) | Happening::Deployment(..) | Happening::Garble(_)) {
                        continue; // time is passed at the end: here everything happens at once
                    }
                    happen(&mut cluster, happening);
                    if listed && *list {
                        cluster.resume_watch(WatchKind::Pods);
                        cluster.stop_watch(WatchKind::Pods);
                    }
                }
                if listed {
                    cluster.resume_watch(WatchKind::Pods);
                }
                cluster.pass(2_000);
                cluster.new_events();
                story.push(totals(&cluster, "prod"));
            }
            stories.push((story, net(&cluster)));
        }
        prop_assert_eq!(&stories[0].0, &stories[1].0);
        prop_assert_eq!(&stories[0].1, &stories[1].1);
    }
}

/// What was told in all: starts and stops, by artifact and time. Whether a mere difference is a scaling or a part of a
/// rollout can't be told by lists that have seen nothing of the rollout.
fn net(cluster: &Cluster) -> Vec<(String, EventType)> {
    let mut told = vec![];
    for written in cluster.log("prod") {
        for event in &written.spec.events {
            if event.type_ != EventType::ArtifactScaled {
                let change = event::change(&written.spec, event).unwrap();
                told.push((change.fingerprint.clone(), event.type_));
            }
        }
    }
    told.sort();
    told
}

/// A rollout of `web`, as events that wait in two streams.
fn held_rollout(cluster: &mut Cluster, sizes: (usize, usize), surge: bool) {
    cluster.hold();
    cluster.deployment("web", |d| d.generation += 1);
    cluster.deployment("web", |d| {
        (d.observed, d.reason) = (d.generation, "ReplicaSetUpdated");
    });
    let mut old = cluster.pods_of("web", "");
    for _ in 0..sizes.1 {
        let drop = |cluster: &mut Cluster, old: &mut Vec<String>| {
            if let Some(pod) = old.pop() {
                cluster.terminate(&pod);
                cluster.remove(&pod);
            }
        };
        if !surge {
            drop(cluster, &mut old);
        }
        let pod = cluster.create("web", "v2", &["v2", "mesh"]);
        cluster.run(&pod);
        if surge {
            drop(cluster, &mut old);
        }
    }
    for pod in old {
        cluster.terminate(&pod);
        cluster.remove(&pod);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
}

proptest! {
    #![proptest_config(config(64))]

    /// The streams may drift apart by less than the time of quiet: at most three words of the Deployment come between two
    /// of its pods.
    #[test]
    fn a_rollout_is_one_start_and_one_stop_whichever_stream_comes_first(
        sizes in (1..5_usize, 1..5_usize),
        surge in any::<bool>(),
        steps in prop::collection::vec((any::<bool>(), 0..2_u64), 60),
        restart in 0..40_usize,
    ) {
        let mut cluster = Cluster::new();
        cluster.start("web", &["v1", "mesh"], sizes.0);
        cluster.start("api", &["a1", "mesh"], 2);
        cluster.pass(120);
        cluster.new_events();
        held_rollout(&mut cluster, sizes, surge);
        let mut steps = steps.into_iter();
        for number in 0.. {
            let (pods_first, rest) = steps.next().unwrap_or((true, 0));
            let order = if pods_first { [WatchKind::Pods, WatchKind::Deployments] } else { [WatchKind::Deployments, WatchKind::Pods] };
            if !order.into_iter().any(|kind| cluster.deliver_next(kind)) {
                break;
            }
            cluster.pass(rest);
            if number == restart {
                // What is still under way is then listed as it is.
                cluster.restart();
                break;
            }
        }
        cluster.delayed = None;
        cluster.pass(2_000);
        let mut counts: BTreeMap<(EventType, String), usize> = BTreeMap::new();
        for written in cluster.log("prod").iter().skip(2) {
            for told in &written.spec.events {
                let change = event::change(&written.spec, told).unwrap();
                *counts.entry((told.type_, change.fingerprint.clone())).or_default() += 1;
            }
        }
        let want = BTreeMap::from([
            ((EventType::ArtifactStarted, digest("v2").to_string()), 1),
            ((EventType::ArtifactStopped, digest("v1").to_string()), 1),
        ]);
        let stories: Vec<_> = cluster.log("prod").iter().map(|w| (w.at, story(&w.spec, &BTreeMap::new()))).collect();
        prop_assert_eq!(counts, want, "{:#?}", stories);
        prop_assert_eq!(totals(&cluster, "prod"), cluster.actual(|_| true));
        cluster.assert_at_rest();
        // What is scaled after that is told.
        cluster.new_events();
        cluster.scale("web", sizes.1 + 1);
        cluster.pass(60);
        let told = cluster.new_events();
        prop_assert_eq!(told.len(), 1);
        prop_assert!(told[0].starts_with("scaled mesh"), "{:?}", told);
    }
}

#[test]
fn logs_that_differ_in_what_a_node_called_a_container_make_no_restart_write_anything() {
    let mut cluster = with_scopes();
    for happening in [
        Happening::Namespace(true),
        Happening::Pinned(0, 0),
        Happening::Pass(310),
        // From here on one of the logs hears no more of it.
        Happening::Namespace(false),
        Happening::Pass(310),
        Happening::Called(0, 2),
    ] {
        happen(&mut cluster, &happening);
    }
    calm_down(&mut cluster);
    a_restart_changes_nothing(&mut cluster).unwrap();
}
