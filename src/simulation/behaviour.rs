//! What people do to workloads, and what is told of it.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;

use crate::{
    api::{environment::EnvironmentId, snapshot::MAX_ENDED_AT},
    cluster::watch_progress::WatchKind,
    simulation::{Cluster, State, seconds},
    snapshot::state::Plan,
};

/// `web` runs three instances of `v1`, and that is told.
fn with_web() -> Cluster {
    with_web_settling("{}")
}

fn with_web_settling(settle: &str) -> Cluster {
    let mut cluster = Cluster::settling(settle);
    cluster.start("web", &["v1"], 3);
    cluster.pass(120);
    assert_eq!(cluster.new_events(), ["started v1 0>3"]);
    cluster.mark();
    cluster
}

#[test]
fn a_start_is_told_when_it_stood_still() {
    let mut cluster = Cluster::new();
    cluster.mark();
    cluster.start("web", &["v1"], 3);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["5s started v1 0>3"]);
    cluster.assert_at_rest();
}

#[test]
fn a_start_whose_pods_come_one_by_one_is_one_change() {
    let mut cluster = Cluster::new();
    cluster.mark();
    cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
    let pods: Vec<_> = (0..3)
        .map(|_| cluster.create("web", "v1", &["v1"]))
        .collect();
    for pod in &pods {
        cluster.pass(8);
        cluster.run(pod);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["29s started v1 0>3"]);
}

#[test]
fn a_stop_is_told() {
    let mut cluster = with_web();
    for pod in cluster.pods_of("web", "") {
        cluster.terminate(&pod);
        cluster.remove(&pod);
    }
    cluster.deployment_gone("web");
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["5s stopped v1 3>0"]);
    cluster.assert_at_rest();
}

#[test]
fn a_scaling_is_told_when_the_number_stood_still_for_half_a_minute() {
    for (number, told) in [(5, "30s scaled v1 3>5"), (1, "30s scaled v1 3>1")] {
        let mut cluster = with_web();
        cluster.scale("web", number);
        cluster.pass(300);
        assert_eq!(cluster.timed(), [told]);
        cluster.assert_at_rest();
    }
}

#[test]
fn the_steps_of_an_autoscaler_are_one_scaling() {
    let mut cluster = with_web();
    for number in [4, 6, 8, 7] {
        cluster.scale("web", number);
        cluster.pass(20);
    }
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["90s scaled v1 3>7"]);
}

#[test]
fn an_autoscaler_that_never_rests_is_told_of_every_five_minutes() {
    let mut cluster = with_web();
    for number in 4..40 {
        cluster.scale("web", number);
        cluster.pass(20);
    }
    assert_eq!(
        cluster.timed(),
        ["300s scaled v1 3>18", "600s scaled v1 18>33"]
    );
}

#[test]
fn a_number_that_is_as_it_was_is_no_change() {
    let mut cluster = with_web();
    cluster.scale("web", 9);
    cluster.pass(20);
    cluster.scale("web", 3);
    cluster.pass(600);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn a_rollout_is_one_change() {
    let mut cluster = with_web();
    cluster.roll("web", &["v2"], "v2", 3, 6);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["23s started v2 0>3, stopped v1 3>0"]);
    cluster.assert_at_rest();
}

#[test]
fn a_slow_rollout_is_one_start_and_one_stop_and_what_is_scaled_later_is_told() {
    let mut cluster = with_web();
    cluster.roll("web", &["v2"], "v2", 3, 60);
    cluster.pass(120);
    assert_eq!(
        cluster.timed(),
        ["60s started v2 0>1", "185s stopped v1 3>0"],
        "the first v2 runs at 30 s, the last v1 is gone at 180 s"
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 3);
    cluster.assert_at_rest();
    cluster.mark();
    cluster.scale("web", 5);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["30s scaled v2 3>5"]);
}

#[test]
fn a_scaling_soon_after_a_slow_rollout_is_told() {
    let mut cluster = with_web();
    cluster.roll("web", &["v2"], "v2", 3, 60);
    cluster.pass(17);
    assert_eq!(cluster.new_events().len(), 2);
    cluster.mark();
    cluster.scale("web", 5);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["30s scaled v2 3>5"]);
}

#[test]
fn a_scaling_after_a_rollout_whose_pods_were_ready_late_is_told() {
    for (rest, told) in [
        (3, ["33s scaled v2 3>5"]),
        (10, ["40s scaled v2 3>5"]),
        (60, ["90s scaled v2 3>5"]),
    ] {
        let mut cluster = with_web();
        cluster.deployment("web", |d| {
            (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
        });
        for old in cluster.pods_of("web", "v1") {
            cluster.running("web", "v2", &["v2"]);
            cluster.terminate(&old);
            cluster.remove(&old);
        }
        cluster.pass(62);
        assert_eq!(cluster.new_events(), ["started v2 0>3, stopped v1 3>0"]);
        cluster.mark();
        cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
        cluster.pass(rest);
        cluster.scale("web", 5);
        cluster.pass(100);
        assert_eq!(cluster.timed(), told, "{rest} s after the rollout");
        cluster.mark();
        cluster.scale("web", 4);
        cluster.pass(100);
        assert_eq!(cluster.timed(), ["30s scaled v2 5>4"]);
    }
}

#[test]
fn the_word_of_a_deployment_that_comes_before_that_of_its_last_pod_makes_no_scaling() {
    let whole = ["22.5s started v2 0>3, stopped v1 3>0"].as_slice();
    let halves = [
        "30s started v2 0>2, stopped v1 3>0",
        "60s silence: WorkloadsChanged",
    ];
    // The end of the rollout in half seconds: in the middle of nothing, and just before the limit of starts and stops.
    for (half_seconds, told) in [(34, whole), (59, &halves)] {
        let mut cluster = with_web();
        cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
        cluster.running("web", "v2", &["v2"]);
        cluster.running("web", "v2", &["v2"]);
        let last = cluster.create("web", "v2", &["v2"]);
        for old in cluster.pods_of("web", "v1") {
            cluster.terminate(&old);
            cluster.remove(&old);
        }
        cluster.pass_span(seconds(half_seconds) / 2);
        cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
        cluster.pass_span(seconds(1) / 2);
        cluster.run(&last);
        cluster.pass(120);
        assert_eq!(cluster.timed(), told);
        assert_eq!(cluster.recorded("prod").totals().instances, 3);
        cluster.assert_at_rest();
    }
}

#[test]
fn the_tail_of_a_rollout_whose_old_pods_went_early_is_not_scaling() {
    let mut cluster = with_web();
    cluster.deployment("web", |d| d.generation += 1);
    cluster.deployment("web", |d| {
        (d.observed, d.reason) = (2, "ReplicaSetUpdated");
    });
    for pod in cluster.pods_of("web", "v1") {
        cluster.terminate(&pod);
        cluster.remove(&pod);
    }
    let pods: Vec<_> = (0..3)
        .map(|_| cluster.create("web", "v2", &["v2"]))
        .collect();
    for pod in &pods {
        cluster.pass(50);
        cluster.run(pod);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(120);
    assert_eq!(
        cluster.timed(),
        [
            "30s stopped v1 3>0",
            "80s started v2 0>1",
            "180s silence: WorkloadsChanged"
        ]
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 3);
}

#[test]
fn a_step_after_a_long_pause_is_no_scaling_whenever_the_second_half_of_it_follows() {
    for kind in ["Rollout web", "CloneSet web"] {
        for (from, told) in [(4, "started v2 0>1"), (1, "stopped v1 1>0")] {
            // Both run together for less time than a scaling takes to be told. A new pod that starts is waited for.
            for (old_first, longest) in [(false, 29), (true, 45)] {
                for apart in 0..=longest {
                    let mut cluster = Cluster::new();
                    cluster.start(kind, &["v1", "mesh"], from);
                    for _ in from..4 {
                        cluster.running(kind, "v2", &["v2", "mesh"]);
                    }
                    // The pause: longer than a rollout may take.
                    cluster.pass(1_200);
                    cluster.new_events();
                    let new = cluster.create(kind, "v2", &["v2", "mesh"]);
                    let old = &cluster.pods_of(kind, "v1")[0];
                    for goes in [old_first, !old_first] {
                        if goes {
                            cluster.terminate(old);
                            cluster.remove(old);
                        } else {
                            cluster.run(&new);
                        }
                        cluster.pass(apart);
                    }
                    cluster.pass(1_200);
                    let mut heard = cluster.new_events();
                    heard.retain(|it| !it.starts_with("silence")); // recorded, and nothing to tell
                    assert_eq!(heard, [told], "{from} {old_first} {apart}");
                    cluster.assert_at_rest();
                }
            }
        }
    }
}

#[test]
fn a_rollout_that_is_taken_back_in_the_middle_tells_nothing() {
    let mut cluster = with_web();
    let old = cluster.pods_of("web", "");
    cluster.deployment("web", |d| {
        (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
    });
    let new = cluster.running("web", "v2", &["v2"]);
    cluster.pass(10);
    cluster.terminate(&old[0]);
    cluster.remove(&old[0]);
    cluster.pass(10);
    cluster.terminate(&new);
    cluster.remove(&new);
    cluster.running("web", "v1", &["v1"]);
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(300);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn a_rollout_that_was_told_and_is_taken_back_is_a_stop_of_what_had_started() {
    let mut cluster = with_web();
    let old = cluster.pods_of("web", "");
    cluster.deployment("web", |d| {
        (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
    });
    let new = cluster.running("web", "v2", &["v2"]);
    cluster.terminate(&old[0]);
    cluster.remove(&old[0]);
    cluster.pass(100);
    cluster.terminate(&new);
    cluster.remove(&new);
    cluster.running("web", "v1", &["v1"]);
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(300);
    assert_eq!(
        cluster.timed(),
        ["30s started v2 0>1", "105s stopped v2 1>0"]
    );
    cluster.assert_at_rest();
}

#[test]
fn a_rollout_that_is_taken_back_after_a_long_pause_is_no_scaling_whichever_pods_move_first() {
    for (starts, stops, told) in [
        (10, 10, &["15s stopped v2 2>0"][..]),
        (
            50,
            10,
            &["40s stopped v2 2>0", "80s silence: WorkloadsChanged"],
        ),
        (10, 50, &["55s stopped v2 2>0"]),
    ] {
        let mut cluster = Cluster::new();
        cluster.start("Rollout web", &["v1", "mesh"], 4);
        cluster.pass(60);
        for old in &cluster.pods_of("Rollout web", "v1")[2..] {
            cluster.terminate(old);
            cluster.remove(old);
            cluster.running("Rollout web", "v2", &["v2", "mesh"]);
        }
        // The pause: longer than a rollout may take.
        cluster.pass(1_200);
        cluster.new_events();
        cluster.mark();
        let new = cluster.pods_of("Rollout web", "v2");
        for pod in &new {
            cluster.terminate(pod);
        }
        let old: Vec<_> = new
            .iter()
            .map(|_| cluster.create("Rollout web", "v1", &["v1", "mesh"]))
            .collect();
        for second in 1..=60 {
            cluster.pass(1);
            if second == starts {
                for pod in &old {
                    cluster.run(pod);
                }
            }
            if second == stops {
                for pod in &new {
                    cluster.remove(pod);
                }
            }
        }
        cluster.pass(120);
        assert_eq!(cluster.timed(), told, "{starts} {stops}");
        assert_eq!(cluster.recorded("prod").totals().instances, 8);
        cluster.assert_at_rest();
    }
}

#[test]
fn all_old_pods_that_went_early_do_not_make_the_slow_start_of_the_new_ones_scaling() {
    // Whichever of the two digests is the greater one.
    for (old, new) in [("v1", "v2"), ("v2", "v1")] {
        let mut cluster = Cluster::new();
        cluster.start("CloneSet web", &[old], 3);
        cluster.pass(60);
        cluster.new_events();
        cluster.mark();
        for pod in &cluster.pods_of("CloneSet web", "") {
            cluster.terminate(pod);
            cluster.remove(pod);
        }
        let pods: Vec<_> = (0..3)
            .map(|_| cluster.create("CloneSet web", new, &[new]))
            .collect();
        cluster.run(&pods[0]);
        cluster.pass(50);
        for pod in &pods[1..] {
            cluster.run(pod);
        }
        cluster.pass(120);
        let told = format!("30s started {new} 0>1, stopped {old} 3>0");
        assert_eq!(cluster.timed(), [&*told, "80s silence: WorkloadsChanged"]);
        cluster.assert_at_rest();
    }
}

#[test]
fn pods_without_a_revision_that_are_replaced_one_by_one_are_no_scaling() {
    // How long a new pod runs until the old one is deleted, and how long that one takes to end.
    for (beside, ends) in [(0, 0), (3, 1), (3, 60), (10, 1), (20, 60), (29, 0)] {
        let mut cluster = Cluster::new();
        let pods: Vec<_> = (0..3)
            .map(|_| cluster.running("MachinePool web", "", &["v1", "mesh"]))
            .collect();
        cluster.pass(60);
        cluster.new_events();
        for old in &pods {
            cluster.running("MachinePool web", "", &["v2", "mesh"]);
            cluster.pass(beside);
            cluster.terminate(old);
            cluster.pass(ends);
            cluster.remove(old);
            cluster.pass(120);
        }
        let told = cluster.new_events();
        let told: Vec<_> = told
            .iter()
            .filter(|it| !it.starts_with("silence"))
            .collect();
        assert_eq!(
            told,
            ["started v2 0>1", "stopped v1 1>0"],
            "{beside} {ends}"
        );
        assert_eq!(cluster.recorded("prod").totals().instances, 6);
        cluster.assert_at_rest();
        // What follows is scaling.
        cluster.mark();
        cluster.running("MachinePool web", "", &["v2", "mesh"]);
        cluster.pass(60);
        assert_eq!(cluster.timed(), ["30s scaled mesh 3>4, scaled v2 3>4"]);
    }
}

#[test]
fn pods_without_a_revision_that_are_replaced_all_at_once_are_scaled_after_that() {
    let mut cluster = Cluster::new();
    let pods: Vec<_> = (0..3)
        .map(|_| cluster.running("MachinePool web", "", &["v1", "mesh"]))
        .collect();
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    for old in &pods {
        cluster.running("MachinePool web", "", &["v2", "mesh"]);
        cluster.terminate(old);
        cluster.remove(old);
    }
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["5s started v2 0>3, stopped v1 3>0"]);
    cluster.mark();
    cluster.running("MachinePool web", "", &["v2", "mesh"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled mesh 3>4, scaled v2 3>4"]);
}

#[test]
fn a_rollout_that_is_stuck_is_recorded_when_it_missed_its_deadline() {
    let mut cluster = with_web();
    let old = cluster.pods_of("web", "");
    cluster.deployment("web", |d| {
        (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
    });
    cluster.create("web", "v2", &["v2"]); // its image can't be pulled
    cluster.terminate(&old[0]);
    cluster.remove(&old[0]);
    cluster.pass(600);
    assert_eq!(cluster.timed(), [""; 0], "it may still be under way");
    cluster.deployment("web", |d| d.reason = "ProgressDeadlineExceeded");
    cluster.pass(60);
    assert_eq!(
        cluster.timed(),
        ["600s silence: WorkloadsChanged"],
        "a part of a rollout is no scaling"
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 2);
    cluster.mark();
    cluster.roll("web", &["v3"], "v3", 3, 4);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["17s started v3 0>3, stopped v1 2>0"]);
}

#[test]
fn a_paused_rollout_is_recorded_as_it_stands_and_its_end_is_no_scaling() {
    let mut cluster = with_web();
    let old = cluster.pods_of("web", "");
    cluster.deployment("web", |d| {
        (d.generation, d.observed, d.reason) = (2, 2, "ReplicaSetUpdated");
    });
    cluster.running("web", "v2", &["v2"]);
    cluster.terminate(&old[0]);
    cluster.remove(&old[0]);
    cluster.deployment("web", |d| {
        (d.paused, d.reason) = (true, "DeploymentPaused");
    });
    cluster.pass(1_000);
    assert_eq!(cluster.timed(), ["5s started v2 0>1"]);
    assert_eq!(cluster.recorded("prod").totals().instances, 3);
    cluster.mark();
    cluster.deployment("web", |d| {
        (d.paused, d.reason) = (false, "ReplicaSetUpdated");
    });
    for old in &old[1..] {
        cluster.pass(10);
        cluster.running("web", "v2", &["v2"]);
        cluster.terminate(old);
        cluster.remove(old);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["25s stopped v1 2>0"]);
}

#[test]
fn pods_that_take_long_to_end_are_waited_for() {
    let mut cluster = with_web();
    let pods = cluster.pods_of("web", "");
    for pod in &pods[1..] {
        cluster.terminate(pod);
    }
    cluster.pass(30);
    cluster.remove(&pods[1]);
    cluster.pass(40);
    cluster.remove(&pods[2]);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["100s scaled v1 3>1"]);

    cluster.mark();
    cluster.terminate(&pods[0]);
    cluster.pass(30);
    cluster.remove(&pods[0]);
    cluster.pass(60);
    assert_eq!(
        cluster.timed(),
        ["35s stopped v1 1>0"],
        "it runs until it ends"
    );
}

#[test]
fn the_wait_for_pods_that_never_end_is_limited() {
    let mut cluster = with_web();
    let pods = cluster.pods_of("web", "");
    cluster.terminate(&pods[1]);
    cluster.remove(&pods[1]);
    cluster.terminate(&pods[2]); // for ever, its node is gone
    cluster.pass(1_000);
    assert_eq!(cluster.timed(), ["900s scaled v1 3>1"]);
    cluster.mark();
    cluster.start("api", &["a1"], 1);
    let stuck = cluster.running("api", "a1", &["a2"]);
    cluster.terminate(&stuck);
    cluster.pass(1_000);
    assert_eq!(
        cluster.timed(),
        ["30s started a1 0>1, started a2 0>1", "900s stopped a2 1>0"]
    );
}

#[test]
fn recreating_all_pods_is_one_change_if_the_new_ones_come_in_time() {
    let mut cluster = with_web();
    cluster.deployment("web", |d| d.generation += 1);
    cluster.deployment("web", |d| {
        (d.observed, d.reason) = (2, "ReplicaSetUpdated");
    });
    for pod in cluster.pods_of("web", "v1") {
        cluster.terminate(&pod);
    }
    cluster.pass(10);
    for pod in cluster.pods_of("web", "v1") {
        cluster.remove(&pod);
    }
    let pods: Vec<_> = (0..3)
        .map(|_| cluster.create("web", "v2", &["v2"]))
        .collect();
    cluster.pass(15);
    for pod in &pods {
        cluster.run(pod);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["30s started v2 0>3, stopped v1 3>0"]);
}

#[test]
fn a_stateful_set_is_rolled_out_in_one_change() {
    let mut cluster = Cluster::new();
    cluster.start("StatefulSet db", &["v1"], 3);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    // Each pod ends before its successor begins.
    for old in cluster.pods_of("StatefulSet db", "") {
        cluster.terminate(&old);
        cluster.pass(3);
        cluster.remove(&old);
        let new = cluster.create("StatefulSet db", "v2", &["v2"]);
        cluster.pass(4);
        cluster.run(&new);
    }
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["26s started v2 0>3, stopped v1 3>0"]);
    cluster.assert_at_rest();
}

#[test]
fn a_stateful_set_with_a_partition_stays_divided_and_is_scaled_after_that() {
    let mut cluster = Cluster::new();
    cluster.start("StatefulSet db", &["v1"], 3);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    let old = cluster.pods_of("StatefulSet db", "").pop().unwrap();
    cluster.terminate(&old);
    cluster.pass(3);
    cluster.remove(&old);
    cluster.running("StatefulSet db", "v2", &["v2"]);
    cluster.pass(2_000);
    assert_eq!(
        cluster.timed(),
        ["33s started v2 0>1", "903s silence: WorkloadsChanged"],
        "two revisions side by side are a rollout, for a quarter of an hour"
    );
    cluster.assert_at_rest();
    cluster.mark();
    cluster.running("StatefulSet db", "v1", &["v1"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled v1 2>3"]);
}

#[test]
fn a_daemon_set_is_rolled_out_in_one_change_and_grows_with_the_nodes() {
    let mut cluster = Cluster::new();
    cluster.start("DaemonSet agent", &["v1"], 3);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    cluster.roll("DaemonSet agent", &["v2"], "v2", 3, 4);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["17s started v2 0>3, stopped v1 3>0"]);
    cluster.mark();
    cluster.running("DaemonSet agent", "v2", &["v2"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled v2 3>4"]);
}

#[test]
fn a_rollout_of_the_configuration_alone_tells_nothing() {
    for each in [6, 60] {
        let mut cluster = with_web();
        cluster.roll("web", &["v1"], "config2", 3, each);
        cluster.pass(300);
        assert_eq!(cluster.new_events(), [""; 0]);
        cluster.assert_at_rest();
    }
}

#[test]
fn a_rollout_that_also_scales_is_told_as_the_rollout_that_it_is() {
    let mut cluster = with_web();
    cluster.roll("web", &["v2"], "v2", 5, 4);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["21s started v2 0>5, stopped v1 3>0"]);
    cluster.mark();
    cluster.roll("web", &["v2"], "config2", 8, 4);
    cluster.pass(120);
    assert_eq!(
        cluster.timed(),
        ["56s silence: WorkloadsChanged"],
        "another number of the same image is a part of the rollout"
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 8);
}

#[test]
fn a_sidecar_is_scaled_by_the_workloads_that_do_not_roll() {
    let mut cluster = Cluster::new();
    cluster.start("web", &["v1", "mesh"], 3);
    cluster.start("api", &["a1", "mesh"], 2);
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["started a1 0>2, started mesh 0>5, started v1 0>3"]
    );
    cluster.mark();
    cluster.roll("web", &["v2", "mesh"], "v2", 4, 4);
    cluster.pass(120);
    assert_eq!(
        cluster.timed(),
        ["19s started v2 0>4, stopped v1 3>0"],
        "the rollout brings one more sidecar, which is no scaling"
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 12);
    cluster.mark();
    cluster.scale("api", 3);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled a1 2>3, scaled mesh 6>7"]);
}

#[test]
fn a_sidecar_in_a_rolling_workload_does_not_delay_a_quiet_one() {
    let mut cluster = Cluster::new();
    cluster.start("web", &["v1", "mesh"], 3);
    cluster.start("api", &["a1", "mesh"], 2);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    cluster.scale("api", 4);
    cluster.roll("web", &["v2", "mesh"], "v2", 4, 100);
    cluster.pass(120);
    assert_eq!(
        cluster.timed(),
        [
            "30s scaled a1 2>4, scaled mesh 5>7",
            "80s started v2 0>1",
            "330s stopped v1 3>0",
            "380s silence: WorkloadsChanged"
        ]
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 16);
}

#[test]
fn a_busy_workload_does_not_delay_a_quiet_one() {
    let mut cluster = with_web();
    cluster.start("api", &["a1"], 2);
    for _ in 0..20 {
        cluster.pass(2);
        cluster.running("web", "v1", &["v1"]);
    }
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["5s started a1 0>2", "70s scaled v1 3>23"]);
}

#[test]
fn a_workload_that_flaps_for_ever_blocks_nobody_and_starts_and_stops_are_told_in_time() {
    let mut cluster = with_web();
    cluster.start("mad", &["m1"], 1);
    for turn in 0..60 {
        cluster.pass(3);
        if turn == 5 {
            cluster.start("api", &["a1"], 2);
        }
        cluster.scale("mad", 1 + turn % 3 + 1);
    }
    assert_eq!(
        cluster.timed(),
        ["23s started a1 0>2", "30s started m1 0>4"]
    );
    cluster.mark();
    // Now its image stops, and another takes over, without rest.
    for pod in cluster.pods_of("mad", "") {
        cluster.terminate(&pod);
        cluster.remove(&pod);
    }
    cluster.running("mad", "m1", &["m2"]);
    for turn in 0..60 {
        cluster.pass(3);
        cluster.scale("mad", 1 + turn % 3 + 1);
    }
    assert_eq!(cluster.timed(), ["30s started m2 0>4, stopped m1 4>0"]);
}

#[test]
fn an_image_that_flaps_in_and_out_is_told_only_if_it_stays() {
    let mut cluster = with_web();
    for _ in 0..30 {
        let pod = cluster.running("api", "a1", &["a1"]);
        cluster.pass(3);
        cluster.terminate(&pod);
        cluster.remove(&pod);
        cluster.pass(1);
    }
    cluster.pass(120);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn a_namespace_that_is_deleted_is_one_change() {
    let mut cluster = Cluster::new();
    cluster.start("blog/web", &["v1", "mesh"], 2);
    cluster.start("blog/api", &["a1", "mesh"], 2);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    let pods: Vec<_> = ["blog/web", "blog/api"]
        .iter()
        .flat_map(|w| cluster.pods_of(w, ""))
        .collect();
    cluster.deployment_gone("blog/web");
    cluster.deployment_gone("blog/api");
    for pod in &pods {
        cluster.terminate(pod);
    }
    cluster.pass(30);
    for pod in &pods {
        cluster.remove(pod);
    }
    cluster.namespace_gone("blog");
    cluster.pass(60);
    assert_eq!(
        cluster.timed(),
        ["35s stopped a1 2>0, stopped mesh 4>0, stopped v1 2>0"]
    );
    cluster.assert_at_rest();
}

#[test]
fn pods_that_run_to_completion_are_left_out_unless_asked_for() {
    let mut cluster = with_web();
    cluster.environment("all", "exclude: []");
    cluster.environment("some", "exclude: [Job.batch]");
    cluster.pass(10);
    cluster.new_events_of("all");
    cluster.new_events_of("some");
    // A step of a pipeline: nobody owns it, or a controller that starts nothing in its place.
    for workload in ["Pod step", "TaskRun build"] {
        let pod = cluster.create(workload, "", &["ci"]);
        cluster.change(&pod, |pod| pod.restart_policy = "Never");
        cluster.run(&pod);
        cluster.pass(60);
        cluster.change(&pod, |pod| pod.phase = "Succeeded");
        cluster.pass(60);
    }
    assert_eq!(cluster.new_events(), [""; 0]);
    for environment in ["all", "some"] {
        let told = ["started ci 0>1", "stopped ci 1>0"];
        assert_eq!(
            cluster.new_events_of(environment),
            [told, told].concat(),
            "{environment}"
        );
    }
    cluster.assert_at_rest();
}

#[test]
fn jobs_are_left_out_unless_asked_for() {
    let mut cluster = with_web();
    cluster.environment("all", "exclude: []");
    cluster.pass(10);
    cluster.new_events_of("all");
    let pod = cluster.running("Job night", "", &["batch"]);
    cluster.pass(60);
    cluster.change(&pod, |pod| pod.phase = "Succeeded");
    cluster.pass(60);
    cluster.remove(&pod);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    assert_eq!(
        cluster.new_events_of("all"),
        ["started batch 0>1", "stopped batch 1>0"]
    );
    cluster.assert_at_rest();
}

#[test]
fn a_pod_that_nobody_owns_is_a_workload_of_its_own() {
    let mut cluster = with_web();
    let pod = cluster.running("Pod one", "", &["tool"]);
    cluster.pass(60);
    cluster.remove(&pod);
    cluster.pass(60);
    assert_eq!(
        cluster.new_events(),
        ["started tool 0>1", "stopped tool 1>0"]
    );
}

#[test]
fn restarts_and_crash_loops_tell_nothing() {
    let mut cluster = with_web();
    let pod = cluster.pods_of("web", "").pop().unwrap();
    for turn in 0..30 {
        cluster.container(&pod, |c| (c.state, c.restarts) = (State::Crashed, turn + 1));
        cluster.pass(20);
        cluster.container(&pod, |c| {
            (c.state, c.id) = (State::Running, format!("containerd://again {turn}"));
        });
        cluster.pass(5);
    }
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn a_pod_that_fails_is_no_instance_and_its_successor_is() {
    let mut cluster = with_web();
    let pod = cluster.pods_of("web", "").pop().unwrap();
    cluster.change(&pod, |pod| pod.phase = "Failed"); // evicted
    cluster.pass(3);
    cluster.running("web", "v1", &["v1"]);
    cluster.pass(300);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn with_no_settle_times_everything_is_told_at_once_but_at_most_each_100_ms() {
    let mut cluster = Cluster::settling("{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}");
    cluster.mark();
    cluster.start("web", &["v1"], 3);
    cluster.pass(10);
    assert_eq!(cluster.timed(), ["0s started v1 0>1", "0.1s scaled v1 1>3"]);
    cluster.mark();
    for (number, pause) in [(4, 150), (5, 30), (6, 10_000)] {
        cluster.scale("web", number);
        cluster.pass_span(Duration::from_millis(pause));
    }
    assert_eq!(
        cluster.timed(),
        [
            "0s scaled v1 3>4",
            "0.15s scaled v1 4>5",
            "0.25s scaled v1 5>6",
        ]
    );
    cluster.assert_at_rest();
}

#[test]
fn after_an_append_that_took_longer_than_100_ms_the_next_snapshot_is_a_second_later() {
    for (took, told) in [
        (100, ["0s started v1 0>1", "0.1s scaled v1 1>3"]),
        (101, ["0s started v1 0>1", "1s scaled v1 1>3"]),
    ] {
        let mut cluster = Cluster::settling("{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}");
        cluster.mark();
        cluster.append_takes = Duration::from_millis(took);
        cluster.start("web", &["v1"], 3);
        cluster.pass(10);
        assert_eq!(cluster.timed(), told, "{took} ms");
        // The API server is quick again: the last one was slow, this one is not.
        cluster.append_takes = Duration::ZERO;
        cluster.scale("web", 4);
        cluster.pass(10);
        cluster.mark();
        cluster.scale("web", 6);
        cluster.pass(10);
        assert_eq!(
            cluster.timed()[1..],
            ["0s scaled v1 4>5", "0.1s scaled v1 5>6"]
        );
        cluster.assert_at_rest();
    }
}

#[test]
fn while_the_logs_are_too_big_the_changes_of_a_minute_are_one_snapshot_and_none_is_lost() {
    let mut cluster = Cluster::settling("{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}");
    let id = EnvironmentId::new("prod", cluster.state.uid("prod").unwrap());
    cluster.state.set_cut_interval(&id, seconds(60));
    cluster.start("web", &["v1"], 1);
    cluster.start("api", &["a1"], 3);
    cluster.pass(120);
    assert_eq!(
        cluster.new_events(),
        ["started v1 0>1", "started a1 0>3"],
        "the second had to wait for a minute"
    );
    cluster.mark();
    // One every ten seconds; what comes and goes within the minute is no change.
    cluster.scale("web", 2);
    cluster.pass(10);
    cluster.scale("web", 4);
    cluster.pass(10);
    cluster.scale("api", 1);
    cluster.pass(10);
    let brief = cluster.running("brief", "b1", &["b1"]);
    cluster.pass(10);
    cluster.terminate(&brief);
    cluster.remove(&brief);
    cluster.start("db", &["d1"], 2);
    cluster.pass(300);
    assert_eq!(
        cluster.timed(),
        [
            "0s scaled v1 1>2",
            "60s started d1 0>2, scaled a1 3>1, scaled v1 2>4"
        ]
    );
    let recorded = cluster.recorded("prod").artifacts();
    let recorded: BTreeMap<_, _> = recorded.map(|(digest, of)| (*digest, of)).collect();
    assert_eq!(recorded, cluster.actual(|_| true));
    cluster.state.set_cut_interval(&id, Duration::ZERO);
    cluster.mark();
    cluster.scale("web", 5);
    cluster.pass(1);
    cluster.scale("web", 6);
    cluster.pass(1);
    assert_eq!(cluster.timed(), ["0s scaled v1 4>5", "1s scaled v1 5>6"]);
    cluster.assert_at_rest();
}

#[test]
fn without_settle_times_but_that_of_rollouts_the_tail_of_a_rollout_is_still_no_scaling() {
    let mut cluster = Cluster::settling("{quiet: 0s, max: 0s, scaling: 0s}");
    cluster.start("web", &["v1"], 3);
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    cluster.roll("web", &["v2"], "v2", 3, 20);
    cluster.pass(120);
    assert_eq!(
        cluster.new_events(),
        [
            "started v2 0>1",
            "stopped v1 3>0",
            "silence: WorkloadsChanged"
        ]
    );
    assert_eq!(cluster.recorded("prod").totals().instances, 3);
    cluster.mark();
    cluster.scale("web", 4);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["0s scaled v2 3>4"]);
}

#[test]
fn rollouts_are_read_from_pods_alone_when_deployments_cannot_be() {
    for (trouble, each) in [
        ("forbidden", 6),
        ("forbidden", 60),
        ("silent", 6),
        ("silent", 60),
    ] {
        let mut cluster = with_web();
        cluster.stop_watch(WatchKind::Deployments);
        if trouble == "forbidden" {
            let now = cluster.now;
            cluster
                .state
                .stream_fails(WatchKind::Deployments, "403".to_owned(), true, now);
        }
        cluster.pass(300);
        assert_eq!(cluster.frozen("prod"), None, "{trouble}");
        cluster.mark();
        cluster.roll("web", &["v2"], "v2", 3, each);
        cluster.pass(120);
        let told = cluster.timed();
        let want: &[&str] = if each == 6 {
            &["23s started v2 0>3, stopped v1 3>0"]
        } else {
            &["60s started v2 0>1", "185s stopped v1 3>0"]
        };
        assert_eq!(told, want, "{trouble}");
        cluster.resume_watch(WatchKind::Deployments);
        cluster.pass(300);
        assert_eq!(cluster.new_events(), [""; 0]);
        cluster.assert_at_rest();
    }
}

#[test]
fn a_deployment_that_was_rolling_when_the_stream_went_silent_does_not_roll_for_ever() {
    let mut cluster = with_web();
    cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
    cluster.stop_watch(WatchKind::Deployments);
    cluster.scale("web", 5);
    cluster.pass(300);
    assert_eq!(cluster.new_events().len(), 1);
    assert_eq!(cluster.recorded("prod").totals().instances, 5);
}

#[test]
fn a_rollout_that_takes_longer_than_the_limit_is_treated_as_over() {
    let mut cluster = with_web_settling("{rollout: 2m}");
    cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
    cluster.running("web", "config2", &["v1"]);
    cluster.pass(600);
    assert_eq!(cluster.timed(), ["120s silence: WorkloadsChanged"]);
    cluster.mark();
    cluster.running("web", "config2", &["v1"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled v1 4>5"]);
}

#[test]
fn a_relabelled_pod_leaves_and_comes_like_any_other() {
    let mut cluster = Cluster::new();
    cluster.environment("front", "podSelector: {matchLabels: {tier: front}}");
    cluster.start("web", &["v1"], 3);
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("front"), ["silence: Baseline"]);
    for pod in cluster.pods_of("web", "") {
        cluster.change(&pod, |pod| {
            pod.labels.insert("tier".to_owned(), "front".to_owned());
        });
        cluster.pass_span(seconds(3) / 2);
    }
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("front"), ["started v1 0>3"]);
    let pod = cluster.pods_of("web", "").pop().unwrap();
    cluster.change(&pod, |pod| {
        pod.labels.remove("tier");
    });
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("front"), ["scaled v1 3>2"]);
    assert_eq!(cluster.new_events(), ["started v1 0>3"]);
    cluster.assert_at_rest();
}

#[test]
fn events_are_told_by_type_and_name() {
    let mut cluster = with_web();
    cluster.start("old", &["zebra", "ape"], 1);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started ape 0>1, started zebra 0>1"]);
    let old = cluster.pods_of("old", "");
    cluster.start("new", &["mule", "cat"], 1);
    cluster.pass(25);
    cluster.scale("web", 2);
    cluster.pass(4);
    cluster.new_events();
    cluster.environment("late", "{}");
    cluster.stop();
    cluster.terminate(&old[0]);
    cluster.remove(&old[0]);
    cluster.start("newer", &["yak", "bee"], 1);
    cluster.begin();
    cluster.pass(60);
    let mut told = cluster.new_events();
    told.retain(|told| !told.starts_with("scaled"));
    assert_eq!(
        told,
        ["started bee 0>1, started yak 0>1, stopped ape 1>0, stopped zebra 1>0"]
    );
}

#[test]
fn a_pod_that_hangs_on_a_dead_node_and_is_replaced_is_no_news() {
    let mut cluster = with_web();
    let hanging = cluster.pods_of("web", "").remove(0);
    cluster.terminate(&hanging);
    cluster.running("web", "v1", &["v1"]);
    cluster.pass(3_600);
    cluster.restart();
    cluster.pass(3_600);
    cluster.remove(&hanging);
    cluster.pass(3_600);
    assert!(cluster.timed().is_empty());
    cluster.assert_at_rest();
}

#[test]
fn a_pod_that_hangs_and_is_not_replaced_is_told_once_after_the_time_for_a_rollout() {
    for (settle, told) in [("{}", "900s"), ("{rollout: 1h}", "3600s")] {
        let mut cluster = with_web_settling(settle);
        let hanging = cluster.pods_of("web", "").remove(0);
        cluster.terminate(&hanging);
        cluster.pass(7_200);
        assert_eq!(cluster.timed(), [format!("{told} scaled v1 3>2")]);
        cluster.restart();
        cluster.pass(60);
        cluster.remove(&hanging);
        cluster.pass(60);
        assert!(cluster.timed().is_empty());
        cluster.assert_at_rest();
    }
}

#[test]
fn a_pod_that_hangs_and_is_replaced_is_no_news_whatever_its_grace_period() {
    for minutes in [1, 2, 5, 14] {
        let mut cluster = with_web();
        let hanging = cluster.pods_of("web", "").remove(0);
        let ends = cluster.wall() + SignedDuration::from_mins(minutes);
        cluster.change(&hanging, |pod| pod.ends = Some(ends));
        cluster.running("web", "v1", &["v1"]);
        cluster.pass(7_200);
        cluster.remove(&hanging);
        cluster.pass(3_600);
        assert!(cluster.timed().is_empty(), "{minutes} min");
        cluster.assert_at_rest();
    }
}

/// `web` runs two instances of `v1`, and one that hangs on a dead node.
fn with_a_pod_that_hangs() -> Cluster {
    let mut cluster = with_web();
    let hanging = cluster.pods_of("web", "").remove(0);
    cluster.terminate(&hanging);
    cluster.pass(3_600);
    assert_eq!(cluster.new_events(), ["scaled v1 3>2"]);
    cluster.mark();
    cluster
}

fn others_than_hanging(cluster: &Cluster, revision: &str) -> Vec<String> {
    let mut pods = cluster.pods_of("web", revision);
    pods.retain(|pod| cluster.pods[pod].ends.is_none());
    pods
}

/// The Deployment of `web` replaces all pods that don't hang by two of another image, within six seconds.
fn roll_beside_what_hangs(cluster: &mut Cluster, from: &str, to: &str) {
    cluster.deployment("web", |d| d.generation += 1);
    cluster.deployment("web", |d| {
        (d.observed, d.reason) = (d.generation, "ReplicaSetUpdated");
    });
    for old in others_than_hanging(cluster, from) {
        cluster.pass(3);
        cluster.running("web", to, &[to]);
        cluster.terminate(&old);
        cluster.remove(&old);
    }
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_beside_a_pod_that_hangs_is_over_when_its_other_pods_are_at_rest() {
    let mut cluster = with_a_pod_that_hangs();
    // Also back to the revision of the pod that hangs.
    for (from, to) in [("v1", "v2"), ("v2", "v3"), ("v3", "v1"), ("v1", "v2")] {
        roll_beside_what_hangs(&mut cluster, from, to);
        cluster.pass(30);
        let told = format!("11s started {to} 0>2, stopped {from} 2>0");
        assert_eq!(cluster.timed(), [told]);
        cluster.mark();
        cluster.running("web", to, &[to]);
        cluster.pass(60);
        assert_eq!(cluster.timed(), [format!("30s scaled {to} 2>3")]);
        let extra = others_than_hanging(&cluster, to).pop().unwrap();
        cluster.terminate(&extra);
        cluster.remove(&extra);
        cluster.pass(600);
        assert_eq!(cluster.new_events(), [format!("scaled {to} 3>2")]);
        cluster.mark();
    }
    cluster.restart();
    cluster.pass(60);
    assert!(cluster.timed().is_empty());
    cluster.assert_at_rest();
}

#[test]
fn pods_that_take_long_to_end_beside_one_that_hangs_are_waited_for() {
    let mut cluster = with_a_pod_that_hangs();
    cluster.running("web", "v1", &["v1"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled v1 2>3"]);
    cluster.mark();
    let pods = others_than_hanging(&cluster, "v1");
    for pod in &pods[1..] {
        cluster.terminate(pod);
    }
    cluster.pass(20);
    cluster.remove(&pods[1]);
    cluster.pass(50);
    cluster.remove(&pods[2]);
    cluster.pass(120);
    assert_eq!(cluster.timed(), ["100s scaled v1 3>1"]);
}

#[test]
fn a_pod_that_was_left_out_as_hanging_does_not_come_back_when_the_clock_or_the_settings_change() {
    for (why, restart) in [
        ("clock", false),
        ("clock", true),
        ("settings", false),
        ("settings", true),
    ] {
        let mut cluster = Cluster::new();
        let pod = cluster.running("Pod one", "", &["tool"]);
        cluster.start("web", &["v1"], 3);
        let other = cluster.pods_of("web", "").remove(0);
        cluster.pass(60);
        cluster.new_events();
        // The operator's clock is two hours ahead of that of the API server.
        let ahead = SignedDuration::from_hours(if why == "clock" { 2 } else { 0 });
        let ends = cluster.wall() - ahead + SignedDuration::from_mins(3);
        for pod in [&pod, &other] {
            cluster.change(pod, |pod| pod.ends = Some(ends));
        }
        cluster.running("web", "v1", &["v1"]);
        cluster.pass(if why == "clock" { 120 } else { 1_200 });
        assert_eq!(cluster.new_events(), ["stopped tool 1>0"], "{why}");
        if why == "clock" {
            cluster.set_back = seconds(7_200);
        } else {
            cluster.environment("prod", "settle: {rollout: 2h}");
        }
        if restart {
            cluster.restart();
        }
        cluster.pass(3_600);
        let told = cluster.new_events();
        assert_eq!(told, [""; 0], "{why}, restart: {restart}");
        // What terminates from now on counts until it ends or hangs, as ever.
        let late = cluster.running("Pod two", "", &["late"]);
        cluster.pass(60);
        cluster.terminate(&late);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started late 0>1"], "{why}");
        cluster.remove(&late);
        cluster.remove(&pod);
        cluster.remove(&other);
        cluster.pass(600);
        assert_eq!(cluster.new_events(), ["stopped late 1>0"], "{why}");
        cluster.assert_at_rest();
    }
}

/// A pod of `db` moves, one of two images is replaced by the other, and pods of `web` go, all slowly. What was told of that.
fn slow_terminations(cluster: &mut Cluster) -> Vec<String> {
    cluster.mark();
    for moved in cluster.pods_of("StatefulSet db", "") {
        cluster.terminate(&moved);
        cluster.pass(100);
        cluster.remove(&moved);
        cluster.pass(3);
        cluster.running("StatefulSet db", "db", &["db"]);
    }
    for (from, to) in [("v1", "v2"), ("v2", "v1")] {
        let old = cluster.pods_of("web", from);
        for pod in &old {
            cluster.running("web", to, &[to]);
            cluster.terminate(pod);
        }
        cluster.pass(50);
        for pod in &old {
            cluster.remove(pod);
            cluster.pass(20);
        }
        cluster.pass(60);
    }
    cluster.timed()
}

#[test]
fn beside_a_pod_that_hung_by_a_clock_that_was_ahead_all_others_count_until_they_end() {
    let begin = || {
        let mut cluster = Cluster::new();
        cluster.start("web", &["v1"], 3);
        cluster.start("StatefulSet db", &["db"], 1);
        cluster.pass(60);
        cluster.new_events();
        cluster
    };
    let as_ever = slow_terminations(&mut begin());
    let stopped = as_ever.iter().filter(|told| told.contains("stopped"));
    assert_eq!(stopped.count(), 2, "{as_ever:?}");
    for restarts in 0..4 {
        let mut cluster = begin();
        let days = ["Pod one", "Pod two"].map(|pod| cluster.running(pod, "", &["tool"]));
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started tool 0>2"]);
        // The operator's clock is three days ahead, and the pods may take one and two to end.
        for (pod, hours) in days.iter().zip([24, 48]) {
            let ends = cluster.wall() - SignedDuration::from_hours(hours);
            cluster.change(pod, |pod| pod.ends = Some(ends));
        }
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["stopped tool 2>0"]);
        cluster.set_back = seconds(72 * 3_600);
        for round in 0..3 {
            if round < restarts {
                cluster.restart();
            }
            cluster.pass(60);
            let told = slow_terminations(&mut cluster);
            assert_eq!(told, as_ever, "{restarts} restarts, round {round}");
        }
        // They stay left out until they end, in time or not.
        cluster.pass(30 * 3_600);
        cluster.remove(&days[1]);
        cluster.pass(30 * 3_600);
        if restarts > 2 {
            cluster.restart();
        }
        cluster.pass(60);
        cluster.remove(&days[0]);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), [""; 0], "{restarts} restarts");
        cluster.assert_at_rest();
    }
}

/// A cluster with two pods, the second of which is being deleted and hangs at once: the operator's clock is two hours ahead.
fn with_a_pod_that_hangs_by_a_clock_that_is_ahead() -> (Cluster, String, String) {
    let mut cluster = Cluster::new();
    let pod = cluster.running("Pod one", "", &["tool"]);
    let hung = cluster.running("Pod two", "", &["old"]);
    cluster.pass(60);
    cluster.new_events();
    let ends = cluster.wall() - SignedDuration::from_hours(2) + SignedDuration::from_mins(9);
    cluster.change(&hung, |pod| pod.ends = Some(ends));
    cluster.pass(120);
    assert_eq!(cluster.new_events(), ["stopped old 1>0"]);
    (cluster, pod, hung)
}

#[test]
fn a_pod_that_is_deleted_right_after_a_clock_was_corrected_counts_until_it_ends() {
    for passes in [1, 1_000, 60_000] {
        let (mut cluster, pod, hung) = with_a_pod_that_hangs_by_a_clock_that_is_ahead();
        cluster.set_back = seconds(7_200);
        cluster.pass_span(Duration::from_millis(passes));
        let ends = cluster.wall() + SignedDuration::from_mins(5);
        cluster.change(&pod, |pod| pod.ends = Some(ends));
        cluster.pass(240);
        assert_eq!(cluster.new_events(), [""; 0], "{passes} ms later");
        cluster.remove(&pod);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["stopped tool 1>0"]);
        cluster.remove(&hung);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), [""; 0]);
        cluster.assert_at_rest();
    }
}

#[test]
fn what_hung_by_a_clock_that_was_ahead_never_starts_again_though_it_changes_while_nobody_leads() {
    for in_time in [true, false] {
        let (mut cluster, pod, hung) = with_a_pod_that_hangs_by_a_clock_that_is_ahead();
        cluster.stop();
        cluster.set_back = seconds(7_200);
        cluster.pass(20);
        let ends = cluster.wall() + SignedDuration::from_mins(5);
        cluster.change(&pod, |pod| pod.ends = Some(ends));
        cluster.change(&hung, |_| ());
        cluster.pass(20);
        cluster.begin();
        cluster.pass(240);
        // Nobody knows whose deletion began under which clock: what is being deleted stops early rather than starts again.
        assert_eq!(cluster.new_events(), ["stopped tool 1>0"]);
        if in_time {
            cluster.remove(&pod);
        }
        cluster.pass(if in_time { 60 } else { 1_200 });
        cluster.restart();
        cluster.pass(60);
        if !in_time {
            cluster.remove(&pod);
        }
        cluster.remove(&hung);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), [""; 0], "{in_time}");
        cluster.assert_at_rest();
    }
}

#[test]
fn of_the_pods_that_hung_by_a_clock_that_was_ahead_as_many_stay_left_out_as_the_log_can_name() {
    let mut cluster = Cluster::new();
    let pods: Vec<_> = (0..150)
        .map(|number| cluster.running(&format!("Pod {number}"), "", &["tool"]))
        .collect();
    cluster.pass(60);
    let early = cluster.wall() - SignedDuration::from_hours(24);
    for (seconds, pod) in (0..).zip(&pods) {
        let ends = early + SignedDuration::from_secs(seconds);
        cluster.change(pod, |pod| pod.ends = Some(ends));
    }
    cluster.pass(60);
    let told = ["started tool 0>150", "stopped tool 150>0"];
    assert_eq!(cluster.new_events(), told);
    cluster.set_back = seconds(72 * 3_600);
    cluster.pass(2_000);
    assert_eq!(cluster.new_events(), ["started tool 0>50"]);
    let spec = &cluster.log("prod").last().unwrap().spec;
    assert_eq!(spec.ended_at.len(), MAX_ENDED_AT);
    cluster.restart();
    cluster.pass(2_000);
    assert_eq!(cluster.new_events(), [""; 0]);
    for pod in &pods {
        cluster.remove(pod);
    }
    cluster.pass(2_000);
    assert_eq!(cluster.new_events(), ["stopped tool 50>0"]);
    cluster.assert_at_rest();
}

#[test]
fn an_environment_is_not_planned_again_for_a_pod_of_another_that_may_hang() {
    let mut cluster = with_web();
    cluster.environment("blog", "namespaces: {include: [blog]}");
    cluster.pass(60);
    for pod in cluster.pods_of("web", "") {
        cluster.terminate(&pod);
    }
    cluster.pass(60);
    for (environment, waits) in [("prod", true), ("blog", false)] {
        let plan = cluster.state.plan(environment, cluster.now, cluster.wall());
        let is_right = matches!(plan, Plan::Wait(until) if until.is_some() == waits);
        assert!(is_right, "{environment}");
    }
}

#[test]
fn between_two_cuts_it_is_not_forgotten_when_a_pod_will_hang() {
    let mut cluster = with_web();
    let other = cluster.pods_of("web", "").remove(0);
    cluster.terminate(&other);
    cluster.running("web", "v1", &["v1"]);
    cluster.running("Pod one", "", &["tool"]);
    let entries = cluster.log("prod").len();
    while cluster.log("prod").len() == entries {
        cluster.pass_span(Duration::from_millis(100));
    }
    let plan = |cluster: &mut Cluster| cluster.state.plan("prod", cluster.now, cluster.wall());
    let Plan::Wait(Some(next)) = plan(&mut cluster) else {
        panic!("it waits");
    };
    cluster.pass(2);
    let Plan::Wait(Some(hangs)) = plan(&mut cluster) else {
        panic!("it waits");
    };
    assert!(next <= hangs && hangs > cluster.now + seconds(600));
}

#[test]
fn an_open_rollout_that_was_recorded_under_a_clock_that_was_ahead_is_over_in_time() {
    for (before, restart) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut cluster = Cluster::new();
        for _ in 0..3 {
            cluster.running("MachinePool web", "", &["v1"]);
        }
        cluster.pass(60);
        let set_back = |cluster: &mut Cluster, now: bool| {
            if now {
                cluster.set_back = seconds(7_200);
            }
        };
        set_back(&mut cluster, before);
        cluster.running("MachinePool web", "", &["v2"]);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started v1 0>3", "started v2 0>1"]);
        set_back(&mut cluster, !before);
        if restart {
            cluster.restart();
        }
        cluster.pass(1_200);
        cluster.mark();
        cluster.running("MachinePool web", "", &["v2"]);
        cluster.pass(60);
        assert_eq!(cluster.timed(), ["30s scaled v2 1>2"], "{before} {restart}");
    }
}

#[test]
fn a_workload_without_revisions_is_scaled_as_soon_as_its_rollout_is_at_rest() {
    let mut cluster = Cluster::new();
    let old: Vec<_> = (0..3)
        .map(|_| cluster.running("MachinePool web", "", &["v1", "a1"]))
        .collect();
    cluster.pass(60);
    cluster.new_events();
    cluster.mark();
    for pod in &old {
        cluster.terminate(pod);
        cluster.remove(pod);
    }
    cluster.running("MachinePool web", "", &["v2", "a2"]);
    let waiting = cluster.create("MachinePool web", "", &["v2", "a2"]);
    cluster.pass(50);
    cluster.remove(&waiting);
    cluster.pass(60);
    let told = ["30s started a2 0>1, started v2 0>1, stopped a1 3>0, stopped v1 3>0"];
    assert_eq!(cluster.timed(), told, "more may follow");
    cluster.mark();
    cluster.running("MachinePool web", "", &["v2", "a2"]);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["30s scaled a2 1>2, scaled v2 1>2"]);
}

#[test]
fn an_image_that_moves_to_a_workload_that_is_not_at_rest_has_not_stopped() {
    let mut cluster = with_web();
    cluster.running("api", "v1", &["v1"]);
    let waiting = cluster.create("api", "v1", &["v1"]);
    for pod in cluster.pods_of("web", "") {
        cluster.terminate(&pod);
        cluster.remove(&pod);
    }
    cluster.deployment_gone("web");
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["5s scaled v1 3>1"]);
    cluster.mark();
    cluster.run(&waiting);
    cluster.pass(60);
    let told = ["30s silence: WorkloadsChanged"];
    assert_eq!(cluster.timed(), told, "the rest of what had begun to start");
    assert_eq!(cluster.recorded("prod").totals().instances, 2);
    cluster.assert_at_rest();
}

#[test]
fn a_pod_that_takes_its_grace_period_to_end_counts_until_then() {
    let mut cluster = with_web();
    let slow = cluster.pods_of("web", "").remove(0);
    let ends = cluster.wall() + SignedDuration::from_hours(4);
    cluster.change(&slow, |pod| pod.ends = Some(ends));
    cluster.pass(4 * 3_600);
    assert!(cluster.timed().is_empty());
    cluster.remove(&slow);
    cluster.pass(60);
    assert_eq!(cluster.timed(), ["14430s scaled v1 3>2"]);
    cluster.assert_at_rest();
}

#[test]
fn what_changes_while_the_operator_is_down_is_no_end_of_a_rollout_that_was_over_before() {
    let mut cluster = Cluster::new();
    cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
    cluster.running("web", "v1", &["v1"]);
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started v1 0>1"]);
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(60);
    cluster.stop();
    cluster.scale("web", 4);
    cluster.pass(60);
    cluster.begin();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["scaled v1 1>4"]);
    cluster.assert_at_rest();
}
