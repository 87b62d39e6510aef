//! Restarts, edits of environments, and streams that fail: nothing is lost, nothing is told twice, nothing floods.

use std::sync::Arc;

use crate::{
    api::environment::EnvironmentId,
    api::snapshot::Cause,
    cluster::{
        pod_view::NamespaceView,
        scope::Scope,
        watch_progress::{ListEnd, WatchKind},
    },
    simulation::{Cluster, State, seconds},
    snapshot::ledger::Ledger,
};

fn with_web() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start("web", &["v1"], 3);
    cluster.pass(120);
    assert_eq!(cluster.new_events(), ["started v1 0>3"]);
    cluster.mark();
    cluster
}

fn swap(cluster: &mut Cluster, workload: &str, image: &str) {
    for old in cluster.pods_of(workload, "") {
        cluster.running(workload, image, &[image]);
        cluster.terminate(&old);
        cluster.remove(&old);
    }
}

// ---- restarts ----

#[test]
fn an_unchanged_cluster_tells_nothing_after_a_restart() {
    let mut cluster = with_web();
    for _ in 0..3 {
        cluster.restart();
        cluster.pass(100);
    }
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn what_changed_while_the_operator_was_down_is_told_once() {
    let mut cluster = with_web();
    cluster.start("api", &["a1"], 2);
    cluster.pass(60);
    cluster.new_events();
    cluster.stop();
    swap(&mut cluster, "web", "v2");
    swap(&mut cluster, "web", "v3");
    cluster.scale("api", 4);
    cluster.start("blog/new", &["n1"], 1);
    cluster.pass(1_000);
    cluster.begin();
    cluster.mark();
    cluster.pass(100);
    assert_eq!(
        cluster.timed(),
        [
            "5s started n1 0>1, started v3 0>3, stopped v1 3>0",
            "30s scaled a1 2>4"
        ]
    );
    cluster.assert_at_rest();
}

#[test]
fn a_workload_that_vanished_while_the_operator_was_down_has_stopped() {
    let mut cluster = with_web();
    cluster.stop();
    for pod in cluster.pods_of("web", "") {
        cluster.remove(&pod);
    }
    cluster.deployment_gone("web");
    cluster.begin();
    cluster.pass(100);
    assert_eq!(cluster.new_events(), ["stopped v1 3>0"]);
    cluster.assert_at_rest();
}

#[test]
fn a_restart_before_a_change_was_told_does_not_lose_it() {
    let mut cluster = with_web();
    swap(&mut cluster, "web", "v2");
    cluster.pass(4);
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["9s started v2 0>3, stopped v1 3>0"]);
}

#[test]
fn a_restart_between_any_two_steps_of_a_slow_rollout_tells_one_start_and_one_stop() {
    for at in 0..12 {
        let mut cluster = with_web();
        let mut step = 0;
        let mut rest = |cluster: &mut Cluster| {
            cluster.pass(20);
            if step == at {
                cluster.restart();
            }
            cluster.pass(20);
            step += 1;
        };
        cluster.deployment("web", |d| d.generation += 1);
        cluster.deployment("web", |d| {
            (d.observed, d.reason) = (2, "ReplicaSetUpdated");
        });
        for old in cluster.pods_of("web", "v1") {
            let new = cluster.create("web", "v2", &["v2"]);
            rest(&mut cluster);
            cluster.run(&new);
            rest(&mut cluster);
            cluster.terminate(&old);
            rest(&mut cluster);
            cluster.remove(&old);
            rest(&mut cluster);
        }
        cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
        cluster.pass(120);
        let mut told = cluster.new_events();
        told.retain(|told| !told.starts_with("silence"));
        assert_eq!(
            told,
            ["started v2 0>1", "stopped v1 3>0"],
            "restart at step {at}"
        );
        cluster.assert_at_rest();
        cluster.scale("web", 5);
        cluster.pass(60);
        assert_eq!(
            cluster.new_events(),
            ["scaled v2 3>5"],
            "restart at step {at}"
        );
    }
}

#[test]
fn the_tail_of_a_rollout_that_ends_while_the_operator_is_down_is_no_scaling() {
    for old_pods_left in [false, true] {
        let mut cluster = with_web();
        let old = cluster.pods_of("web", "v1");
        cluster.deployment("web", |d| {
            (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
        });
        cluster.running("web", "v2", &["v2"]);
        for pod in &old[usize::from(old_pods_left)..] {
            cluster.terminate(pod);
            cluster.remove(pod);
        }
        cluster.create("web", "v2", &["v2"]);
        cluster.pass(60);
        cluster.new_events();
        cluster.stop();
        for pod in cluster.pods_of("web", "v1") {
            cluster.remove(&pod);
        }
        for pod in cluster.pods_of("web", "v2") {
            cluster.run(&pod);
        }
        cluster.running("web", "v2", &["v2"]);
        cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
        cluster.begin();
        cluster.pass(100);
        let want = if old_pods_left {
            "stopped v1 3>0"
        } else {
            "silence: WorkloadsChanged"
        };
        assert_eq!(cluster.new_events(), [want]);
        cluster.assert_at_rest();
    }
}

#[test]
fn a_baseline_in_the_middle_of_a_rollout_leaves_its_tail_no_scaling_even_after_a_restart() {
    let mut cluster = Cluster::bare(true);
    cluster.deployment("web", |d| {
        (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
    });
    cluster.running("web", "v2", &["v2"]);
    cluster.create("web", "v2", &["v2"]);
    cluster.environment("prod", "{}");
    cluster.begin();
    assert_eq!(cluster.new_events(), ["silence: Baseline"]);
    cluster.stop();
    for pod in cluster.pods_of("web", "v2") {
        cluster.run(&pod);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.begin();
    cluster.pass(100);
    assert_eq!(cluster.new_events(), ["silence: WorkloadsChanged"]);
    cluster.scale("web", 3);
    cluster.pass(100);
    assert_eq!(cluster.new_events(), ["scaled v2 2>3"]);
}

#[test]
fn the_log_survives_many_checkpoints() {
    let mut cluster = with_web();
    for number in 0..100 {
        let image = format!("w{number}");
        swap(&mut cluster, "web", &image);
        cluster.pass(30);
        if number % 9 == 0 {
            cluster.restart();
        }
    }
    cluster.pass(60);
    assert_eq!(cluster.new_events().len(), 100);
    let checkpoints = cluster
        .log("prod")
        .iter()
        .filter(|written| written.spec.checkpoint.is_some());
    assert_eq!(
        checkpoints.count(),
        2,
        "the baseline, and one after 64 more"
    );
    cluster.assert_at_rest();
}

// ---- environments ----

#[test]
fn a_new_environment_begins_in_silence() {
    let mut cluster = with_web();
    cluster.environment("late", "{}");
    cluster.pass(100);
    assert_eq!(cluster.new_events_of("late"), ["silence: Baseline"]);
    let totals = cluster.recorded("late").totals();
    assert_eq!((totals.artifacts, totals.instances), (1, 3));
    cluster.assert_at_rest();
}

#[test]
fn an_edited_scope_counts_as_known_after_what_changed_under_the_old_one_is_told() {
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    cluster.scale("web", 5); // not settled yet
    cluster.environment("prod", "namespaces: {include: [blog]}");
    cluster.pass(60);
    let told = cluster.new_events();
    assert_eq!(told, ["scaled v1 3>5", "silence: ScopeChanged"]);
    let totals = cluster.recorded("prod").totals();
    assert_eq!((totals.artifacts, totals.instances), (1, 2));
    cluster.mark();
    cluster.scale("blog/web", 1);
    cluster.scale("web", 9);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled b1 2>1"]);
    cluster.assert_at_rest();
}

#[test]
fn an_edited_scope_takes_effect_even_where_something_always_changes() {
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.pass(60);
    cluster.scale("web", 2);
    cluster.environment("prod", "namespaces: {include: [blog]}");
    for number in 4..20 {
        cluster.scale("web", number);
        cluster.pass_span(seconds(1) / 2);
    }
    let scoped = cluster
        .log("prod")
        .iter()
        .filter(|w| w.spec.causes == [Cause::ScopeChanged]);
    assert_eq!(scoped.count(), 1);
}

#[test]
fn a_scope_that_is_edited_twice_ends_as_the_last_one() {
    // The second edit comes while the entry of the first is being written.
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.pass(60);
    cluster.new_events();
    let (now, wall) = (cluster.now, cluster.wall());
    let uid = cluster.state.uid("prod").unwrap().to_owned();
    let spec = |yaml: &str| serde_saphyr::from_str(yaml).unwrap();
    let blog = spec("namespaces: {include: [blog]}");
    cluster
        .state
        .environment_seen(&EnvironmentId::new("prod", &uid), &blog, now);
    let plan = cluster.state.plan("prod", now, wall);
    let crate::snapshot::state::Plan::Append(draft) = plan else {
        panic!("{plan:?}")
    };
    cluster.environment_quietly("prod", "namespaces: {include: [shop]}");
    for entry in draft {
        cluster.append("prod", &entry);
    }
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["silence: ScopeChanged", "silence: ScopeChanged"]
    );
    let totals = cluster.recorded("prod").totals();
    assert_eq!((totals.artifacts, totals.instances), (1, 3));
    cluster.assert_at_rest();
}

#[test]
fn an_environment_that_is_edited_while_its_baseline_is_written_begins_in_silence_too() {
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.environment("late", "namespaces: {include: [nowhere]}");
    assert_eq!(cluster.new_events_of("late"), ["silence: Baseline"]);
    cluster.environment_gone("late");
    cluster.environment_quietly("late", "namespaces: {include: [nowhere]}");
    let (now, wall) = (cluster.now, cluster.wall());
    let uid = cluster.state.uid("late").unwrap().to_owned();
    cluster
        .state
        .log_is_blank(&EnvironmentId::new("late", &uid), None, Cause::Baseline);
    let plan = cluster.state.plan("late", now, wall);
    let crate::snapshot::state::Plan::Append(draft) = plan else {
        panic!("{plan:?}")
    };
    cluster.environment_quietly("late", "namespaces: {include: [blog]}");
    for entry in draft {
        cluster.append("late", &entry);
    }
    cluster.pass(60);
    assert_eq!(
        cluster.new_events_of("late"),
        ["silence: Baseline", "silence: ScopeChanged"]
    );
    cluster.assert_at_rest();
}

#[test]
fn other_settle_times_are_no_other_scope() {
    let mut cluster = with_web();
    cluster.environment("prod", "settle: {scaling: 1m}");
    cluster.scale("web", 4);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["60s scaled v1 3>4"]);
}

#[test]
fn a_scope_that_was_edited_while_the_operator_was_down_counts_as_known() {
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.pass(60);
    cluster.new_events();
    cluster.stop();
    cluster.scale("web", 5);
    cluster.environment("prod", "namespaces: {include: [blog]}");
    cluster.begin();
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["scaled v1 3>5", "silence: ScopeChanged"]
    );
    cluster.assert_at_rest();
}

#[test]
fn an_environment_that_is_created_again_under_its_name_begins_anew_in_silence() {
    let mut cluster = with_web();
    cluster.environment_gone("prod");
    swap(&mut cluster, "web", "v2");
    cluster.environment("prod", "{}");
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: Baseline"]);
    assert_eq!(cluster.log("prod")[0].spec.index, 1);
    cluster.assert_at_rest();
}

#[test]
fn a_late_word_of_the_deletion_of_a_predecessor_changes_nothing() {
    let mut cluster = with_web();
    cluster
        .state
        .environment_gone(&EnvironmentId::new("prod", "another uid"));
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>4"]);
}

#[test]
fn a_relabelled_namespace_is_an_ordinary_change() {
    let mut cluster = with_web();
    cluster.start("blog/web", &["b1"], 2);
    cluster.namespace("shop", &[("stage", "prod")]);
    cluster.environment("staged", "namespaceSelector: {matchLabels: {stage: prod}}");
    cluster.pass(60);
    cluster.new_events();
    assert_eq!(cluster.new_events_of("staged"), ["silence: Baseline"]);
    cluster.namespace("blog", &[("stage", "prod")]);
    cluster.pass(60);
    cluster.namespace("shop", &[]);
    cluster.pass(60);
    assert_eq!(
        cluster.new_events_of("staged"),
        ["started b1 0>2", "stopped v1 3>0"]
    );
    cluster.namespace_gone("blog");
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("staged"), ["stopped b1 2>0"]);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn a_relist_of_namespaces_is_taken_in_as_a_whole() {
    let mut cluster = with_web();
    cluster.namespace("shop", &[("stage", "prod")]);
    cluster.environment("staged", "namespaceSelector: {matchLabels: {stage: prod}}");
    cluster.pass(60);
    cluster.new_events_of("staged");
    // The first page of a list tells of other labels, and before the last one comes a pod is deleted.
    let now = cluster.now;
    cluster.state.list_begins(WatchKind::Namespaces);
    let object = crate::simulation::namespace_json("shop", 9_000, &[].into());
    cluster
        .state
        .seen::<NamespaceView>(crate::simulation::seen(&object), true, now);
    cluster.scale("web", 2);
    assert_eq!(cluster.state.self_check(now), 0);
    cluster.namespace("shop", &[]);
    cluster.list(WatchKind::Namespaces);
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("staged"), ["stopped v1 3>0"]);
    cluster.assert_at_rest();
}

#[test]
fn rules_that_changed_make_a_silent_baseline() {
    let mut cluster = with_web();
    cluster.stop();
    cluster.count_by_older_rules("prod");
    swap(&mut cluster, "web", "v2");
    cluster.begin();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: RulesChanged"]);
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v2 3>4"]);
    cluster.assert_at_rest();
}

#[test]
fn a_log_that_cannot_be_built_on_is_continued_with_a_silent_baseline() {
    let mut cluster = with_web();
    let end = cluster.recorded("prod").clone();
    let mut blank = Ledger::empty(Scope::default());
    (blank.index, blank.time) = (end.index, end.time);
    blank.content_hash.clone_from(&end.content_hash);
    let uid = cluster.state.uid("prod").unwrap().to_owned();
    cluster.state.log_is_blank(
        &EnvironmentId::new("prod", &uid),
        Some(blank),
        Cause::HistoryLost,
    );
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: HistoryLost"]);
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>4"]);
}

#[test]
fn a_change_during_the_write_of_an_entry_joins_the_next() {
    let mut cluster = with_web();
    cluster.hold();
    cluster.start("api", &["a1"], 1);
    while cluster.deliver_quietly(WatchKind::Deployments)
        || cluster.deliver_quietly(WatchKind::Pods)
    {}
    cluster.now += seconds(5);
    let (now, wall) = (cluster.now, cluster.wall());
    let plan = cluster.state.plan("prod", now, wall);
    let crate::snapshot::state::Plan::Append(draft) = plan else {
        panic!("{plan:?}")
    };
    // While that is written, the pod is gone again.
    let pod = cluster.pods_of("api", "")[0].clone();
    cluster.remove(&pod);
    while cluster.deliver_quietly(WatchKind::Pods) {}
    for entry in draft {
        cluster.append("prod", &entry);
    }
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started a1 0>1", "stopped a1 1>0"]);
    cluster.assert_at_rest();
}

// ---- streams ----

#[test]
fn while_pods_cannot_be_read_nothing_is_told_and_it_heals() {
    for forbidden in [true, false] {
        let mut cluster = with_web();
        cluster.stop_watch(WatchKind::Pods);
        if forbidden {
            let now = cluster.now;
            cluster
                .state
                .stream_fails(WatchKind::Pods, "403".to_owned(), true, now);
        }
        cluster.pass(200);
        let reason = if forbidden { "NotSynced" } else { "WatchStale" };
        assert_eq!(cluster.frozen("prod"), Some(reason));
        swap(&mut cluster, "web", "v2");
        cluster.pass(1_000);
        assert_eq!(cluster.new_events(), [""; 0]);
        cluster.resume_watch(WatchKind::Pods);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started v2 0>3, stopped v1 3>0"]);
        cluster.assert_at_rest();
    }
}

#[test]
fn only_environments_by_labels_wait_for_namespaces() {
    let mut cluster = with_web();
    cluster.namespace("shop", &[("stage", "prod")]);
    cluster.environment("staged", "namespaceSelector: {matchLabels: {stage: prod}}");
    cluster.pass(60);
    cluster.new_events_of("staged");
    cluster.stop_watch(WatchKind::Namespaces);
    cluster.pass(200);
    assert_eq!(cluster.frozen("staged"), Some("WatchStale"));
    assert_eq!(cluster.frozen("prod"), None);
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>4"]);
    assert_eq!(cluster.new_events_of("staged"), [""; 0]);
    cluster.resume_watch(WatchKind::Namespaces);
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("staged"), ["scaled v1 3>4"]);
}

#[test]
fn a_list_finds_what_the_watch_lost() {
    let mut cluster = with_web();
    cluster.stop_watch(WatchKind::Pods);
    swap(&mut cluster, "web", "v2");
    cluster.resume_watch(WatchKind::Pods);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v2 0>3, stopped v1 3>0"]);
    cluster.stop_watch(WatchKind::Deployments);
    cluster.deployment_gone("web");
    cluster.resume_watch(WatchKind::Deployments);
    cluster.stop_watch(WatchKind::Namespaces);
    cluster.namespace_gone("blog");
    cluster.resume_watch(WatchKind::Namespaces);
    assert_eq!(cluster.state.fleet().namespace_labels("blog"), None);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn the_deployments_are_listed_anew_when_they_were_silent_for_too_long() {
    let mut cluster = with_web();
    cluster.stop_watch(WatchKind::Deployments);
    cluster.pass(300);
    assert!(!cluster.state.stream(WatchKind::Deployments).synced);
    assert!(cluster.state.stream(WatchKind::Deployments).relist);
}

#[test]
fn a_pod_that_cannot_be_read_keeps_its_last_state_and_is_warned_of_once() {
    let mut cluster = with_web();
    let pod = cluster.pods_of("web", "")[0].clone();
    cluster.warnings.clear();
    cluster.change(&pod, |pod| pod.garbled = true);
    cluster.change(&pod, |_| ());
    cluster.list(WatchKind::Pods);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    assert_eq!(cluster.warnings.len(), 1, "{:?}", cluster.warnings);
    assert!(cluster.warnings[0].starts_with(&format!("can't read pod shop/{pod}: ")));
    assert!(cluster.warnings[0].ends_with("; its last good state is kept"));
    assert_eq!(cluster.state.stream(WatchKind::Pods).unreadable.len(), 1);
    cluster.remove(&pod);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>2"]);
    assert_eq!(cluster.state.stream(WatchKind::Pods).unreadable.len(), 0);
}

#[test]
fn an_unreadable_pod_that_went_unseen_is_forgotten() {
    let mut cluster = with_web();
    let pod = cluster.pods_of("web", "")[0].clone();
    cluster.change(&pod, |pod| pod.garbled = true);
    cluster.stop_watch(WatchKind::Pods);
    cluster.remove(&pod);
    cluster.resume_watch(WatchKind::Pods);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>2"]);
    assert_eq!(cluster.state.stream(WatchKind::Pods).unreadable.len(), 0);
}

#[test]
fn a_running_image_without_a_digest_is_counted_apart_and_warned_of_once() {
    let mut cluster = with_web();
    let pod = cluster.pods_of("web", "")[0].clone();
    cluster.container(&pod, |c| {
        (c.image_id, c.id) = ("nonsense".to_owned(), "other".to_owned());
    });
    cluster.container(&pod, |c| c.restarts = 1);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 3>2"]);
    assert_eq!(cluster.state.summary("prod").unwrap().unidentified, 1);
    assert_eq!(cluster.recorded("prod").totals().unidentified, 1);
    assert_eq!(cluster.warnings.len(), 1, "{:?}", cluster.warnings);
}

#[test]
fn a_reader_that_is_behind_the_log_waits_until_it_has_caught_up() {
    let mut cluster = with_web();
    cluster.stop();
    let version = cluster.version;
    cluster.version -= 100; // the list comes from a server that lags
    cluster.begin();
    assert_eq!(
        cluster.frozen("prod"),
        None,
        "a list after the log was read is no lag"
    );
    cluster.pass(30);
    cluster.version = version;

    // The same, but the log is read after the list.
    let ledger = Arc::new(cluster.recorded("prod").clone());
    let uid = cluster.state.uid("prod").unwrap().to_owned();
    let now = cluster.now;
    cluster.version -= 100;
    cluster.list(WatchKind::Pods);
    cluster.now += seconds(1);
    let read = cluster.now;
    assert!(read > now);
    cluster
        .state
        .log_is_read(&EnvironmentId::new("prod", &uid), ledger, read);
    cluster.pass(5);
    assert_eq!(cluster.frozen("prod"), Some("CatchingUp"));
    cluster.version = version + 1;
    cluster.bookmark();
    cluster.pass(10);
    assert_eq!(
        cluster.frozen("prod"),
        None,
        "the watch has come to where the log is"
    );
    assert_eq!(cluster.new_events(), [""; 0]);
}

#[test]
fn a_cluster_that_was_set_back_is_listed_anew_and_the_next_entry_says_so() {
    let mut cluster = with_web();
    cluster.stop();
    cluster.version = 10;
    swap(&mut cluster, "web", "v2");
    cluster.begin_before_reading_the_log();
    cluster.pass(5);
    assert_eq!(cluster.frozen("prod"), Some("CatchingUp"));
    cluster.pass(60);
    assert_eq!(cluster.frozen("prod"), None);
    assert_eq!(cluster.new_events(), ["started v2 0>3, stopped v1 3>0"]);
    let causes = &cluster.log("prod").last().unwrap().spec.causes;
    assert_eq!(causes, &[Cause::WorkloadsChanged, Cause::Restored]);
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v2 3>4"]);
    let causes = &cluster.log("prod").last().unwrap().spec.causes;
    assert_eq!(causes, &[Cause::WorkloadsChanged], "it is said once");
}

// F21
#[test]
fn a_clock_that_is_set_back_does_not_set_back_the_log() {
    let mut cluster = with_web();
    cluster.scale("web", 4);
    cluster.set_back = seconds(3_600);
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["scaled v1 3>4"],
        "`append` compares the times"
    );
    let pod = cluster.pods_of("web", "")[0].clone();
    cluster.container(&pod, |c| c.state = State::Waiting);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 4>3"]);
}

const RECORD: &str =
    "{fingerprint: \"0000000000000000000000000000000000000000000000000000000000000001\", flow: f}";

/// A cluster whose store was set back to before `v2` was rolled out and `late` was recorded, which nobody has noticed.
fn set_back() -> Cluster {
    let mut cluster = with_web();
    cluster.record("early", RECORD);
    let backup = cluster.backup();
    cluster.record("late", RECORD);
    swap(&mut cluster, "web", "v2");
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v2 0>3, stopped v1 3>0"]);
    cluster.put_back(&backup);
    cluster
}

#[test]
fn whatever_kind_notices_that_the_store_was_set_back_nothing_is_recorded_before_all_were_listed_anew()
 {
    for first in WatchKind::ALL {
        let mut cluster = set_back();
        for kind in WatchKind::ALL {
            cluster.stop_watch(kind);
        }
        cluster.list(first);
        assert_eq!(cluster.state.era(), 1, "{first:?}");
        for kind in WatchKind::ALL
            .into_iter()
            .rev()
            .filter(|kind| kind.decides())
        {
            // As when the list of one kind takes 12 s longer than that of another.
            cluster.pass(12);
            assert_eq!(
                cluster.frozen("prod"),
                Some("NotSynced"),
                "{first:?} before {kind:?}"
            );
            assert!(cluster.state.is_ready(cluster.now).is_err());
            cluster.resume_watch(kind);
        }
        cluster.resume_watch(WatchKind::Settings);
        cluster.pass(60);
        assert_eq!(cluster.frozen("prod"), None, "{first:?}");
        assert_eq!(cluster.new_events(), [""; 0], "{first:?}");
        assert_eq!(
            cluster.state.era(),
            1,
            "it is noticed once, not by each kind"
        );
        let records = cluster.state.evidence().records().keys();
        let records: Vec<_> = records.map(ToString::to_string).collect();
        assert_eq!(
            records,
            ["ci/early"],
            "what was deleted vouches for nothing"
        );
        cluster.scale("web", 4);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["scaled v1 3>4"]);
        let causes = &cluster.log("prod").last().unwrap().spec.causes;
        assert_eq!(causes, &[Cause::WorkloadsChanged, Cause::Restored]);
        cluster.assert_at_rest();
    }
}

#[test]
fn a_store_that_was_set_back_and_has_overtaken_its_old_version_is_noticed_by_its_log() {
    let mut cluster = set_back();
    cluster.version += 100_000;
    cluster.bookmark();
    cluster.scale("web", 4);
    cluster.pass(60);
    assert_eq!(cluster.state.era(), 1);
    assert_eq!(cluster.new_events(), ["scaled v1 3>4"]);
    let causes = &cluster.log("prod").last().unwrap().spec.causes;
    assert_eq!(causes, &[Cause::WorkloadsChanged, Cause::Restored]);
    cluster.assert_at_rest();
}

#[test]
fn a_list_that_began_before_the_store_was_set_back_does_not_count() {
    let mut cluster = set_back();
    cluster.state.list_begins(WatchKind::Pods);
    cluster.state.list_begins(WatchKind::Deployments);
    let (version, now) = (cluster.version, cluster.now);
    let mut ends = |kind| cluster.state.list_ends(kind, version, now, now);
    assert_eq!(ends(WatchKind::Deployments), ListEnd::SetBack);
    assert_eq!(ends(WatchKind::Pods), ListEnd::Outdated);
    let pods = cluster.state.stream(WatchKind::Pods);
    assert!(!pods.synced && pods.relist);
    assert_eq!(
        pods.resumes_at(),
        None,
        "it is not watched from a version of before"
    );
}

#[test]
fn a_kind_that_is_silent_for_too_long_freezes_what_it_decides_and_is_not_ready() {
    for kind in WatchKind::ALL {
        let mut cluster = with_web();
        cluster.environment("staged", "namespaceSelector: {matchLabels: {stage: one}}");
        cluster.pass(60);
        assert_eq!(cluster.state.is_ready(cluster.now), Ok(()));
        cluster.stop_watch(kind);
        cluster.pass(300);
        let why = cluster.state.is_ready(cluster.now).unwrap_err();
        assert!(why.starts_with(kind.as_str()), "{why}");
        // Rollouts are told from pods alone meanwhile, and who is told decides nothing of what is recorded.
        let decides = !matches!(kind, WatchKind::Deployments | WatchKind::Settings);
        let reason = decides.then_some("WatchStale");
        assert_eq!(cluster.frozen("staged"), reason, "{kind:?}");
        let reason = reason.filter(|_| kind != WatchKind::Namespaces);
        assert_eq!(cluster.frozen("prod"), reason, "{kind:?}");
        cluster.resume_watch(kind);
        cluster.pass(60);
        assert_eq!(cluster.frozen("staged"), None);
        assert_eq!(cluster.state.is_ready(cluster.now), Ok(()));
    }
}

#[test]
fn a_replica_that_begins_to_lead_records_nothing_before_it_has_listed_the_evidence_anew() {
    for kind in WatchKind::EVIDENCE {
        let mut cluster = with_web();
        cluster.pass(60);
        cluster.new_events();
        // What this replica knows of the evidence may be older than what the log has seen.
        cluster.stop_watch(kind);
        cluster.running("Pod one", "", &["tool"]);
        cluster.state.begins_to_lead(cluster.now);
        cluster.pass(60);
        assert_eq!(cluster.frozen("prod"), Some("CatchingUp"), "{kind:?}");
        assert_eq!(cluster.new_events(), [""; 0]);
        cluster.resume_watch(kind);
        cluster.pass(60);
        assert_eq!(cluster.frozen("prod"), None);
        assert_eq!(cluster.new_events(), ["started tool 0>1"]);
    }
}
