//! Which artifact a container is, whatever its runtime calls it (the scenarios S1 to S11 of the notes on image identity).

use proptest::prelude::*;

use crate::{
    api::{compliance::ComplianceState, snapshot::Cause},
    cluster::image::Fingerprint,
    simulation::{Cluster, Container, Pod, State, image_id, testing::digest},
};

/// A cluster in which `web` runs one instance of what its runtime calls so.
fn with_web(image_id: &str) -> (Cluster, String) {
    let mut cluster = Cluster::new();
    let pod = born(&mut cluster, "web", image_id);
    cluster.pass(60);
    cluster.new_events();
    (cluster, pod)
}

/// A new running pod of `index`, whose runtime calls it so from the first.
fn born(cluster: &mut Cluster, workload: &str, image_id: &str) -> String {
    let pod = cluster.create(workload, "r", &["index"]);
    runs_called(cluster, &pod, &pod, image_id);
    pod
}

fn local(image: &str) -> String {
    format!("sha256:{}", digest(image))
}

fn pinned(image: &str) -> String {
    format!("registry.example/{image}@sha256:{}", digest(image))
}

/// What a runtime reports that pulled an image from its repository and calls it otherwise.
fn called(image: &str, as_digest: &str) -> String {
    format!("registry.example/{image}@sha256:{}", digest(as_digest))
}

/// The recorded artifacts and their instances.
fn recorded(cluster: &Cluster) -> Vec<(Fingerprint, u32)> {
    let artifacts = cluster.recorded("prod").artifacts();
    artifacts
        .map(|(fingerprint, count)| (*fingerprint, count))
        .collect()
}

fn pairs(wanted: &[(&str, u32)]) -> Vec<(Fingerprint, u32)> {
    let mut wanted: Vec<_> = wanted
        .iter()
        .map(|(name, count)| (digest(name), *count))
        .collect();
    wanted.sort();
    wanted
}

#[test]
fn one_container_is_one_artifact_whatever_the_runtime_calls_it_later() {
    for (scenario, first, later, known_as, learned) in [
        (
            "S1",
            image_id("index"),
            format!("0.example/a@sha256:{}", digest("index")),
            "index",
            false,
        ),
        ("S2", image_id("index"), image_id("other"), "index", true),
        ("S3", image_id("index"), local("config"), "index", true),
        (
            "local, then known to a registry",
            local("config"),
            image_id("index"),
            "config",
            true,
        ),
        (
            "unreadable for a moment",
            image_id("index"),
            String::new(),
            "index",
            false,
        ),
    ] {
        for restart in [false, true] {
            let (mut cluster, pod) = with_web(&first);
            cluster.container(&pod, |c| c.image_id = later.clone());
            cluster.pass(60);
            if restart {
                if later.is_empty() {
                    continue; // what was never seen is not known
                }
                cluster.restart(); // S11
                cluster.pass(60);
            }
            let want: &[&str] = if learned {
                &["silence: IdentityLearned"]
            } else {
                &[]
            };
            assert_eq!(cluster.new_events(), want, "{scenario}");
            assert_eq!(recorded(&cluster), pairs(&[(known_as, 1)]), "{scenario}");
            // Another container is what its own node calls it.
            cluster.mark();
            let called = if later.is_empty() { &first } else { &later };
            born(&mut cluster, "web", called);
            cluster.pass(60);
            assert_eq!(cluster.timed().len(), 1, "{scenario}");
            let is = ["index", "other", "config"].into_iter();
            let is = is.filter(|it| called.ends_with(&digest(it).to_string()));
            let mut artifacts: Vec<_> = is.map(|it| (it, 1)).chain([(known_as, 1)]).collect();
            if artifacts[0].0 == known_as {
                artifacts = vec![(known_as, 2)];
            }
            assert_eq!(recorded(&cluster), pairs(&artifacts), "{scenario}");
            if !later.is_empty() {
                cluster.restart();
                cluster.pass(60);
            }
            assert_eq!(recorded(&cluster), pairs(&artifacts), "{scenario}");
            cluster.assert_at_rest();
        }
    }
}

#[test]
fn what_was_learned_survives_a_restart_before_it_is_of_use() {
    // S11: the operator restarts between the steps of S2.
    let (mut cluster, pod) = with_web(&image_id("index"));
    cluster.restart();
    cluster.pass(60);
    cluster.container(&pod, |c| c.image_id = image_id("other"));
    cluster.pass(60);
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: IdentityLearned"]);
    assert_eq!(recorded(&cluster), pairs(&[("index", 1)]));
    cluster.assert_at_rest();
}

#[test]
fn two_digests_that_nothing_ties_together_are_two_artifacts() {
    // S6
    let mut cluster = Cluster::new();
    for image in ["amd64", "index"] {
        born(&mut cluster, "web", &image_id(image));
    }
    cluster.pass(60);
    assert_eq!(recorded(&cluster), pairs(&[("amd64", 1), ("index", 1)]));
}

#[test]
fn two_artifacts_stay_two_though_the_node_of_one_calls_it_like_the_other() {
    let mut cluster = Cluster::new();
    let pods: Vec<_> = ["amd64", "index"]
        .iter()
        .map(|image| born(&mut cluster, "web", &image_id(image)))
        .collect();
    cluster.pass(60);
    cluster.new_events();
    cluster.container(&pods[1], |c| c.image_id = image_id("amd64"));
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: IdentityLearned"]);
    assert_eq!(recorded(&cluster), pairs(&[("amd64", 1), ("index", 1)]));
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    assert_eq!(recorded(&cluster), pairs(&[("amd64", 1), ("index", 1)]));
    cluster.assert_at_rest();
}

#[test]
fn a_pin_names_the_artifact_if_the_spec_cannot_have_been_edited() {
    // S7: the generation of the pod, whether the server counts it, whether the pod was seen before its container, and
    // what the artifact goes by. That a spec was seen before its container proves nothing: it may have been edited before.
    for (generation, counted, seen_early, known_as) in [
        (1, true, false, "index"),
        (1, true, true, "index"),
        (2, true, false, "amd64"),
        (2, true, true, "amd64"),
        (1, false, false, "amd64"),
        (1, false, true, "amd64"),
        (0, false, false, "amd64"),
        (0, false, true, "amd64"),
    ] {
        let case = format!("{generation} {counted} {seen_early}");
        let mut cluster = Cluster::watched(counted, "{}");
        cluster.pass(60);
        cluster.new_events();
        if !seen_early {
            cluster.stop();
        }
        let pod = cluster.create("web", "r", &["index"]);
        cluster.change(&pod, |pod| {
            pod.generation = generation;
            pod.containers[0].image = pinned("index");
        });
        runs_called(&mut cluster, &pod, "one", &called("index", "amd64"));
        if !seen_early {
            cluster.begin();
        }
        cluster.pass(60);
        assert_eq!(recorded(&cluster), pairs(&[(known_as, 1)]), "{case}");
        let log = cluster.log("prod");
        let learned = log
            .iter()
            .filter(|w| w.spec.causes.contains(&Cause::IdentityLearned));
        assert_eq!(learned.count(), 0, "{case}: which tells of no other");
        assert_eq!(log.len(), 2, "{case}: with the start itself");
        cluster.new_events();
        cluster.restart();
        cluster.pass(60);
        assert_eq!(cluster.new_events(), [""; 0], "{case}");
        cluster.assert_at_rest();
    }
}

fn runs_as(cluster: &mut Cluster, pod: &str, container: &str, image: &str) {
    runs_called(cluster, pod, container, &image_id(image));
}

fn runs_called(cluster: &mut Cluster, pod: &str, container: &str, image_id: &str) {
    cluster.change(pod, |pod: &mut Pod| {
        pod.phase = "Running";
        let first: &mut Container = &mut pod.containers[0];
        first.id = format!("containerd://{container}");
        first.image_id = image_id.to_owned();
        first.state = State::Running;
    });
}

#[test]
fn an_edited_spec_does_not_lend_a_good_name_to_a_bad_image() {
    // S8: the pod runs `bad`, and its spec is edited in place to the digest of `good`.
    for (counted, restart) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut cluster = Cluster::watched(counted, "{}");
        let pod = cluster.running("web", "r", &["bad"]);
        cluster.pass(60);
        cluster.new_events();
        cluster.change(&pod, |pod| {
            pod.generation += i64::from(counted);
            pod.containers[0].image = pinned("good");
        });
        cluster.pass(60);
        if restart {
            cluster.restart();
            cluster.pass(60);
        }
        assert_eq!(cluster.new_events(), [""; 0]);
        assert_eq!(recorded(&cluster), pairs(&[("bad", 1)]));
        for image in ["bad", "good"] {
            let known = cluster.state.canonical_everywhere(digest(image));
            assert_eq!(known, [digest(image)]);
        }
        // Then the container is replaced, and the pin is its own.
        runs_as(&mut cluster, &pod, "two", "good");
        cluster.pass(60);
        assert_eq!(cluster.new_events().len(), 1);
        assert_eq!(recorded(&cluster), pairs(&[("good", 1)]));
        let known = cluster.state.canonical_everywhere(digest("bad"));
        assert_eq!(known, [digest("bad")]);
        cluster.assert_at_rest();
    }
}

// ---- what counts for the rules ----

/// A cluster with rules, in which only `good` has a record.
fn ruled(counted: bool) -> Cluster {
    let mut cluster = Cluster::bare(counted);
    record(&mut cluster, "good", &[]);
    let rules = "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 1m, recoveryWindow: 0s}";
    cluster.environment("prod", rules);
    cluster.begin();
    cluster.pass(120);
    cluster.new_events();
    cluster
}

fn record(cluster: &mut Cluster, image: &str, aliases: &[&str]) {
    let aliases: Vec<_> = aliases.iter().map(|it| digest(it).to_string()).collect();
    let spec = format!(
        "{{fingerprint: {}, flow: web, aliases: [{}]}}",
        digest(image),
        aliases.join(", ")
    );
    cluster.record(image, &spec);
}

/// Whether the environment complies when all that is missing has had its time, and after a restart.
fn complies(cluster: &mut Cluster) -> bool {
    cluster.pass(200);
    let before = cluster.recorded("prod").compliance.state;
    cluster.restart();
    cluster.pass(200);
    let after = cluster.recorded("prod").compliance.state;
    assert_eq!(before, after, "a restart changes nothing");
    after == ComplianceState::Compliant
}

/// A pod of the workload whose spec pins it to an image, and whose node calls it otherwise.
fn pinned_to(cluster: &mut Cluster, workload: &str, image: &str, as_digest: &str) -> String {
    let pod = cluster.create(workload, "r", &[image]);
    cluster.change(&pod, |pod| pod.containers[0].image = pinned(image));
    let container = format!("of {pod}");
    runs_called(cluster, &pod, &container, &called(image, as_digest));
    pod
}

#[test]
fn whoever_may_edit_pods_makes_no_bad_image_a_good_one() {
    for counted in [true, false] {
        for when in [
            "before its container is reported",
            "while it runs",
            "between two runs",
        ] {
            let case = format!("{counted}, edited {when}");
            let mut cluster = ruled(counted);
            let other = cluster.running("blog/web", "r", &["bad"]);
            let pod = cluster.create("web", "r", &["bad"]);
            let edit = |cluster: &mut Cluster| {
                cluster.change(&pod, |pod| {
                    pod.generation += i64::from(counted);
                    pod.containers[0].image = pinned("good");
                });
            };
            match when {
                "while it runs" => {
                    runs_as(&mut cluster, &pod, "one", "bad");
                    cluster.pass(5);
                    edit(&mut cluster);
                }
                "between two runs" => {
                    runs_as(&mut cluster, &pod, "one", "bad");
                    cluster.container(&pod, |c| (c.state, c.restarts) = (State::Crashed, 1));
                    edit(&mut cluster);
                    runs_as(&mut cluster, &pod, "two", "bad");
                }
                _ => {
                    edit(&mut cluster);
                    runs_as(&mut cluster, &pod, "one", "bad");
                }
            }
            assert!(!complies(&mut cluster), "{case}");
            assert_eq!(recorded(&cluster), pairs(&[("bad", 2)]), "{case}");
            cluster.remove(&other);
            assert!(!complies(&mut cluster), "{case}: the edited pod alone");
            cluster.remove(&pod);
            assert!(complies(&mut cluster), "{case}");
            // What was edited has taught nothing about the image.
            cluster.running("blog/web", "r", &["bad"]);
            assert!(!complies(&mut cluster), "{case}: wherever it runs");
        }
    }
}

#[test]
fn a_pin_vouches_for_its_own_container_if_its_spec_was_never_edited() {
    for (counted, generation, vouched) in [
        (true, 1, true),
        (true, 2, false),
        (false, 0, false),
        (false, 1, false),
    ] {
        let case = format!("{counted} {generation}");
        let mut cluster = ruled(counted);
        let pod = cluster.create("web", "r", &["good"]);
        cluster.change(&pod, |pod| {
            pod.generation = generation;
            pod.containers[0].image = pinned("good");
        });
        runs_called(&mut cluster, &pod, "one", &called("good", "amd64"));
        assert_eq!(complies(&mut cluster), vouched, "{case}");
        if !vouched {
            record(&mut cluster, "good", &["amd64"]);
            assert!(complies(&mut cluster), "{case}: CI lists it");
        }
    }
}

#[test]
fn a_pin_vouches_for_no_other_container() {
    let mut cluster = ruled(true);
    pinned_to(&mut cluster, "web", "good", "amd64");
    assert!(complies(&mut cluster));
    // The same digest, by a tag that may have been moved.
    let other = born(&mut cluster, "blog/web", &image_id("amd64"));
    assert!(!complies(&mut cluster));
    assert_eq!(
        recorded(&cluster),
        pairs(&[("amd64", 1), ("good", 1)]),
        "nor is another shown as what it asks for"
    );
    cluster.remove(&other);
    assert!(complies(&mut cluster));
    // An index of one's own may hold the good image for one platform, and anything for another.
    pinned_to(&mut cluster, "web", "evil", "good");
    assert!(complies(&mut cluster), "this container is the good image");
    let elsewhere = pinned_to(&mut cluster, "blog/web", "evil", "evil-arm64");
    assert!(!complies(&mut cluster));
    cluster.remove(&elsewhere);
    born(&mut cluster, "blog/web", &image_id("evil"));
    assert!(!complies(&mut cluster));
}

#[test]
fn what_a_node_says_of_one_container_counts_for_that_container_only() {
    let mut cluster = ruled(true);
    let pod = born(&mut cluster, "web", &image_id("evil"));
    cluster.container(&pod, |c| c.image_id = image_id("good"));
    cluster.pass(60);
    born(&mut cluster, "blog/web", &image_id("evil"));
    assert!(!complies(&mut cluster));
}

#[test]
fn what_was_learned_of_a_running_container_outlives_the_operator() {
    for (case, first, later) in [
        (
            "the bare id of the image",
            image_id("good"),
            local("config"),
        ),
        (
            "another name of its node",
            image_id("good"),
            image_id("other"),
        ),
        ("nothing any more", image_id("good"), String::new()),
        (
            "the id, and then a registry",
            local("alias"),
            image_id("other"),
        ),
    ] {
        for before_the_log in [false, true] {
            let mut cluster = ruled(true);
            record(&mut cluster, "good", &["alias"]);
            let pod = born(&mut cluster, "web", &first);
            cluster.pass(60);
            cluster.container(&pod, |c| c.image_id = later.clone());
            cluster.pass(60);
            cluster.new_events();
            for _ in 0..2 {
                if before_the_log {
                    cluster.stop();
                    cluster.begin_before_reading_the_log();
                }
                assert!(complies(&mut cluster), "{case}");
                assert_eq!(cluster.new_events(), [""; 0], "{case}");
            }
            // The next container is another one.
            runs_called(&mut cluster, &pod, "next", &image_id("bad"));
            assert!(!complies(&mut cluster), "{case}");
        }
    }
}

#[test]
fn a_pin_outlives_an_edit_that_did_not_touch_its_container() {
    // `kubectl debug` adds a container: the spec was edited, and the old container still is what it was created from.
    let mut cluster = ruled(true);
    let pod = pinned_to(&mut cluster, "web", "good", "amd64");
    cluster.pass(60);
    cluster.change(&pod, |pod| pod.generation = 2);
    cluster.pass(60);
    cluster.new_events();
    assert!(complies(&mut cluster));
    assert_eq!(cluster.new_events(), [""; 0]);
    // Containers that are gone are forgotten with the next checkpoint.
    cluster.remove(&pod);
    for number in 0..70 {
        cluster.running("Pod one", "", &[&*format!("v{number}")]);
        cluster.pass(60);
        cluster.remove("one");
        cluster.pass(60);
    }
    assert!(cluster.recorded("prod").containers.is_empty());
}

#[test]
fn a_pin_is_shown_where_the_node_reports_no_image_and_trusted_only_if_never_edited() {
    for (counted, generation, unidentified) in [(true, 1, 0), (true, 2, 1), (false, 1, 1)] {
        for id in ["", "virtual"] {
            let case = format!("{counted} {generation} {id:?}");
            let mut cluster = ruled(counted);
            let pod = cluster.create("web", "r", &["good"]);
            cluster.change(&pod, |pod| {
                pod.generation = generation;
                pod.containers[0].image = pinned("good");
            });
            cluster.change(&pod, |pod| {
                pod.phase = "Running";
                (pod.containers[0].state, pod.containers[0].id) = (State::Running, id.to_owned());
            });
            cluster.pass(60);
            assert_eq!(cluster.new_events()[0], "started good 0>1", "{case}");
            let summary = cluster.state.summary("prod").unwrap();
            assert_eq!(summary.unidentified, unidentified, "{case}");
            assert_eq!(complies(&mut cluster), unidentified == 0, "{case}");
            let told = cluster.new_events();
            let restarted = |told: &String| told.contains("0>1") || told.contains("1>0");
            assert!(!told.iter().any(restarted), "{case}: {told:?}");
        }
    }
}

#[test]
fn a_container_that_waits_is_not_there_and_the_others_of_its_pod_are() {
    // S9
    let mut cluster = Cluster::new();
    let pod = cluster.create("web", "r", &["index", "mesh"]);
    cluster.change(&pod, |pod| {
        let mesh = &mut pod.containers[1];
        (mesh.state, mesh.image_id) = (State::Running, image_id("mesh"));
        mesh.id = "containerd://mesh".to_owned();
    });
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started mesh 0>1"]);
    assert_eq!(cluster.recorded("prod").totals().unidentified, 0);
}

#[test]
fn a_node_that_says_nothing_for_a_while_changes_nothing() {
    for (state, restarts) in [
        (State::Running, 0),
        (State::Waiting, 0),
        (State::Crashed, 1),
    ] {
        let mut cluster = ruled(true);
        let pod = cluster.running("web", "r", &["good"]);
        assert!(complies(&mut cluster));
        cluster.new_events();
        let id = cluster.pods[&pod].containers[0].id.clone();
        let says = |cluster: &mut Cluster, state, id: &str, image_id: &str| {
            cluster.container(&pod, |c| {
                (c.state, c.restarts) = (state, restarts);
                (c.id, c.image_id) = (id.to_owned(), image_id.to_owned());
            });
            cluster.pass(600);
        };
        says(&mut cluster, state, "", "");
        assert_eq!(cluster.new_events(), [""; 0], "{state:?}");
        assert_eq!(cluster.state.summary("prod").unwrap().unidentified, 0);
        // It comes back as it was, and as another container of the same image.
        for id in [&*id, "containerd://next"] {
            says(&mut cluster, State::Running, id, &image_id("good"));
            assert_eq!(cluster.new_events(), [""; 0], "{state:?}");
        }
        cluster.assert_at_rest();
        // Another image in the spec is a change, and so is the end of the container.
        says(&mut cluster, State::Waiting, "", "");
        cluster.container(&pod, |c| c.image = "registry.example/next:1".to_owned());
        cluster.pass(600);
        assert_eq!(cluster.new_events()[0], "stopped good 1>0", "{state:?}");
    }
}

#[test]
fn a_container_that_cannot_be_identified_is_in_no_artifact_until_it_can_be() {
    // S10
    let (mut cluster, pod) = with_web("registry.example/a:1");
    assert_eq!(recorded(&cluster), pairs(&[]));
    assert_eq!(cluster.state.summary("prod").unwrap().unidentified, 1);
    cluster.container(&pod, |c| c.image_id = image_id("index"));
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["started index 0>1"]);
    assert_eq!(cluster.state.summary("prod").unwrap().unidentified, 0);
    cluster.assert_at_rest();
}

#[test]
fn an_identity_is_written_with_the_artifact_and_not_before() {
    // A slow rollout of an image that its runtime calls otherwise at once.
    let mut cluster = Cluster::new();
    cluster.deployment("web", |d| d.reason = "ReplicaSetUpdated");
    let pod = born(&mut cluster, "web", &image_id("index"));
    cluster.container(&pod, |c| c.image_id = image_id("amd64"));
    cluster.mark();
    cluster.pass(100);
    assert_eq!(cluster.timed(), ["30s started index 0>1"]);
    let identities = &cluster.log("prod").last().unwrap().spec.identities;
    assert_eq!(identities.len(), 1);
    assert_eq!(identities[0].alias, digest("amd64").to_string());
    assert_eq!(identities[0].fingerprint, digest("index").to_string());
    assert!(
        identities[0].container.is_some(),
        "it is of one container only"
    );
    cluster.deployment("web", |d| d.reason = "NewReplicaSetAvailable");
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn the_identity_of_what_came_and_went_is_never_written() {
    let mut cluster = Cluster::new();
    let pod = born(&mut cluster, "web", &image_id("index"));
    cluster.container(&pod, |c| c.image_id = image_id("amd64"));
    cluster.pass(2);
    cluster.remove(&pod);
    cluster.pass(100);
    assert_eq!(cluster.new_events(), [""; 0]);
    cluster.assert_at_rest();
}

#[test]
fn what_was_learned_of_a_container_is_said_of_no_later_one() {
    let (mut cluster, pod) = with_web(&image_id("index"));
    cluster.container(&pod, |c| c.image_id = image_id("other"));
    cluster.pass(60);
    cluster.remove(&pod);
    cluster.pass(60);
    cluster.new_events();
    for image in ["other", "index"] {
        let pod = born(&mut cluster, "web", &image_id(image));
        cluster.container(&pod, |c| c.image_id = image_id("other"));
        cluster.pass(60);
        cluster.restart();
        cluster.pass(60);
        assert_eq!(cluster.new_events().len(), 1, "{image}");
        assert_eq!(recorded(&cluster), pairs(&[(image, 1)]));
        cluster.remove(&pod);
        cluster.pass(60);
        cluster.new_events();
        cluster.assert_at_rest();
    }
}

#[test]
fn what_a_node_says_of_a_container_of_one_environment_is_said_of_none_in_another() {
    let mut cluster = Cluster::new();
    cluster.environment("blog", "namespaces: {include: [blog]}");
    cluster.environment("shop", "namespaces: {include: [shop]}");
    let pod = cluster.running("web", "r", &["index"]);
    cluster.container(&pod, |c| c.image_id = image_id("other"));
    born(&mut cluster, "blog/web", &image_id("other"));
    cluster.pass(60);
    let told = cluster.new_events_of("blog");
    assert_eq!(told.len(), 2, "{told:?}: the baseline and the start");
    assert!(cluster.recorded("blog").containers.is_empty());
    cluster.environment_gone("shop");
    cluster.environment_gone("prod");
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("blog"), [""; 0]);
    let artifacts: Vec<_> = cluster.recorded("blog").artifacts().collect();
    assert_eq!(artifacts, [(&digest("other"), 1)]);
    cluster.assert_at_rest();
}

#[test]
fn a_baseline_knows_by_which_digest_a_container_was_first_seen() {
    let (mut cluster, pod) = with_web(&image_id("index"));
    cluster.container(&pod, |c| c.image_id = image_id("other"));
    cluster.pass(60);
    cluster.environment("late", "{}");
    cluster.pass(60);
    cluster.environment_gone("prod");
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events_of("late"), ["silence: Baseline"]);
    let artifacts: Vec<_> = cluster.recorded("late").artifacts().collect();
    assert_eq!(artifacts, [(&digest("index"), 1)]);
    cluster.assert_at_rest();
}

#[test]
fn a_pair_that_is_recorded_in_both_directions_makes_no_digest_a_name_of_itself() {
    let (cluster, _) = with_web(&image_id("index"));
    let mut ledger = cluster.recorded("prod").clone();
    ledger.identify(&[(digest("index"), digest("other"))].into());
    ledger.identify(&[(digest("other"), digest("index"))].into());
    let mut identities = ledger.identities.iter();
    assert!(
        identities.all(|(alias, known)| alias != known),
        "{:?}",
        ledger.identities
    );
}

#[test]
fn what_an_artifact_goes_by_stays_when_more_is_learned() {
    // A local digest turns out to be `index` on one node and `other` on another.
    let mut cluster = Cluster::new();
    let pods: Vec<_> = (0..2)
        .map(|_| born(&mut cluster, "web", &local("config")))
        .collect();
    cluster.pass(60);
    cluster.container(&pods[0], |c| c.image_id = image_id("index"));
    cluster.pass(60);
    cluster.new_events();
    cluster.container(&pods[1], |c| c.image_id = image_id("other"));
    cluster.pass(60);
    assert_eq!(cluster.new_events(), ["silence: IdentityLearned"]);
    assert_eq!(recorded(&cluster), pairs(&[("config", 2)]));
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
    assert_eq!(recorded(&cluster), pairs(&[("config", 2)]));
    cluster.assert_at_rest();
}

#[test]
fn names_of_an_artifact_are_the_smallest_and_stay() {
    let mut cluster = Cluster::new();
    for name in ["b.example/x:2", "a.example/x:2", "c.example/x:2"] {
        let pod = cluster.running("web", "r", &["x"]);
        cluster.container(&pod, |c| c.image = name.to_owned());
    }
    cluster.pass(60);
    let name = |cluster: &Cluster| cluster.recorded("prod").names[&digest("x")].clone();
    assert_eq!(name(&cluster), "a.example/x:2");
    let pod = cluster.running("web", "r", &["x"]);
    cluster.container(&pod, |c| c.image = "A.example/x:1".to_owned());
    cluster.pass(60);
    assert_eq!(name(&cluster), "a.example/x:2");
}

// ---- what a pin may rename ----

#[test]
fn a_pin_renames_nothing_that_is_recorded() {
    for edited in [false, true] {
        for restart in [
            "never",
            "with its logs read first",
            "with its logs read later",
        ] {
            let case = format!("edited {edited}, restarts {restart}");
            let mut cluster = Cluster::new();
            cluster.environment("blog", "namespaces: {include: [blog]}");
            cluster.pass(60);
            cluster.running("web", "r", &["amd64"]);
            cluster.pass(60);
            cluster.new_events();
            let pod = pinned_to(&mut cluster, "blog/web", "evil", "amd64");
            cluster.pass(60);
            assert_eq!(cluster.new_events(), ["started evil 0>1"], "{case}");
            if edited {
                cluster.change(&pod, |pod| {
                    pod.generation = 2;
                    pod.containers[0].image = "registry.example/evil:2".to_owned();
                });
                cluster.pass(60);
                let told = cluster.new_events();
                assert_eq!(told, ["silence: IdentityLearned"], "{case}");
            }
            match restart {
                "never" => cluster.change(&pod, |pod| pod.labels.clear()),
                "with its logs read first" => cluster.restart(),
                _ => {
                    cluster.stop();
                    cluster.begin_before_reading_the_log();
                }
            }
            cluster.pass(60);
            let told = cluster.new_events();
            // What an edited spec asked for stands in the log.
            let want: &[&str] = match restart {
                "never" => &["silence: WorkloadsChanged"],
                _ => &[],
            };
            assert_eq!(told, want, "{case}");
            assert!(
                cluster.recorded("prod").total(&digest("amd64")) > 0,
                "{case}"
            );
            cluster.assert_at_rest();
        }
    }
}

#[test]
fn a_pin_renames_nothing_under_which_another_pod_of_its_image_is_recorded() {
    // `index` is recorded, `amd64` is another name of `other`, and a pod pinned to `index` is called `amd64`.
    let mut cluster = Cluster::new();
    let other = born(&mut cluster, "web", &image_id("other"));
    cluster.container(&other, |c| c.image_id = image_id("amd64"));
    born(&mut cluster, "blog/web", &image_id("index"));
    cluster.pass(60);
    assert_eq!(recorded(&cluster), pairs(&[("index", 1), ("other", 1)]));
    cluster.new_events();
    pinned_to(&mut cluster, "web", "index", "amd64");
    cluster.pass(60);
    assert_eq!(recorded(&cluster), pairs(&[("index", 2), ("other", 1)]));
    cluster.restart();
    cluster.pass(60);
    assert_eq!(recorded(&cluster), pairs(&[("index", 2), ("other", 1)]));
}

#[test]
fn a_pin_teaches_only_what_its_own_repository_calls_the_image() {
    for called in [image_id("amd64"), format!("sha256:{}", digest("amd64"))] {
        let mut cluster = Cluster::new();
        let pod = cluster.create("web", "r", &["evil"]);
        cluster.change(&pod, |pod| pod.containers[0].image = pinned("evil"));
        runs_called(&mut cluster, &pod, "one", &called);
        cluster.pass(60);
        cluster.change(&pod, |pod| pod.labels.clear());
        born(&mut cluster, "blog/web", &called);
        cluster.pass(60);
        assert_eq!(
            recorded(&cluster),
            pairs(&[("amd64", 1), ("evil", 1)]),
            "{called}"
        );
        cluster.restart();
        cluster.pass(60);
        assert_eq!(
            recorded(&cluster),
            pairs(&[("amd64", 1), ("evil", 1)]),
            "{called}"
        );
        cluster.assert_at_rest();
    }
}

/// What a pod asks for and what its node says of it: images by their numbers.
#[derive(Clone, Copy, Debug)]
struct Run {
    pin: Option<usize>,
    repository: usize,
    digest: usize,
    edited: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Tenant(Run),
    Own(Run),
    /// The node of the last pod calls its container so from now on.
    TenantsReport(usize),
    OwnReport(usize),
    RemoveTenants,
    RemoveOwn,
    Restart,
    Pass,
}

const DIGESTS: [&str; 4] = ["web", "next", "evil", "index"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let image = || 0..DIGESTS.len();
    let run = (
        proptest::option::of(image()),
        image(),
        image(),
        any::<bool>(),
    );
    let run = run.prop_map(|(pin, repository, digest, edited)| Run {
        pin,
        repository,
        digest,
        edited,
    });
    let step = prop_oneof![
        4 => run.clone().prop_map(Step::Tenant),
        4 => run.prop_map(Step::Own),
        4 => image().prop_map(Step::TenantsReport),
        2 => image().prop_map(Step::OwnReport),
        1 => Just(Step::RemoveTenants),
        1 => Just(Step::RemoveOwn),
        1 => Just(Step::Restart),
        2 => Just(Step::Pass),
    ];
    proptest::collection::vec(step, 1..12)
}

/// What is told of the namespace `shop`, with the pods of the namespace `tenant` and without them.
fn told_of_shop(steps: &[Step], tenants: bool) -> Vec<String> {
    let mut cluster = Cluster::new();
    cluster.environment("shop", "namespaces: {include: [shop]}");
    cluster.pass(60);
    let (mut own, mut others): (Vec<String>, Vec<String>) = (vec![], vec![]);
    for (number, step) in steps.iter().enumerate() {
        let (workload, run, pods) = match step {
            Step::Tenant(run) if tenants => ("tenant/evil", run, &mut others),
            Step::Own(run) => ("web", run, &mut own),
            Step::TenantsReport(digest) | Step::OwnReport(digest) => {
                let pods = match step {
                    Step::OwnReport(_) => &own,
                    _ => &others,
                };
                if let Some(pod) = pods.last() {
                    let reported = image_id(DIGESTS[*digest]);
                    cluster.container(pod, |c| c.image_id = reported);
                }
                cluster.pass(60);
                continue;
            }
            Step::RemoveTenants => {
                others.drain(..).for_each(|pod| cluster.remove(&pod));
                continue;
            }
            Step::RemoveOwn => {
                own.drain(..).for_each(|pod| cluster.remove(&pod));
                continue;
            }
            Step::Restart => {
                cluster.restart();
                continue;
            }
            Step::Tenant(_) | Step::Pass => {
                cluster.pass(60);
                continue;
            }
        };
        let repository = DIGESTS[run.repository];
        let pod = cluster.create(workload, "r", &[repository]);
        if let Some(pin) = run.pin {
            let image = called(repository, DIGESTS[pin]);
            cluster.container(&pod, |c| c.image = image);
        }
        let reported = called(repository, DIGESTS[run.digest]);
        runs_called(
            &mut cluster,
            &pod,
            &format!("container-{number}"),
            &reported,
        );
        cluster.pass(60);
        if run.edited {
            cluster.change(&pod, |pod| {
                pod.generation += 1;
                pod.containers[0].image = "registry.example/edited:1".to_owned();
            });
        }
        pods.push(pod);
    }
    cluster.pass(600);
    cluster.assert_at_rest();
    let told = cluster.log("shop").iter().map(|written| {
        let spec = &written.spec;
        // The names of pods differ, and thereby the hashes of the ids of containers.
        let identities = spec.identities.iter();
        let identities = identities.map(|it| (&it.alias, &it.fingerprint, it.source));
        let mut identities: Vec<_> = identities.collect();
        identities.sort();
        let (causes, changes, events) = (&spec.causes, &spec.changes, &spec.events);
        format!("{causes:?} {changes:?} {events:?} {identities:?}")
    });
    told.collect()
}

proptest! {
    #![proptest_config(crate::simulation::testing::tries(64))]

    #[test]
    fn no_pod_of_another_namespace_changes_what_is_told_of_this_one(steps in steps()) {
        prop_assert_eq!(told_of_shop(&steps, true), told_of_shop(&steps, false));
    }
}

#[test]
fn a_pin_says_nothing_of_other_containers() {
    // A tenant copies the next release of another team into a repository or an index of its own, and pins a pod to that
    // before the release runs; or takes another index from the repository of that team.
    for (repository, case) in [("evil", "its own repository"), ("next", "the same one")] {
        let mut cluster = Cluster::new();
        cluster.pass(60);
        let pod = cluster.create("tenant/evil", "r", &[repository]);
        cluster.container(&pod, |c| c.image = called(repository, "evil"));
        runs_called(&mut cluster, &pod, "evil", &called(repository, "next"));
        cluster.pass(60);
        cluster.new_events();
        cluster.running("web", "r", &["next"]);
        cluster.pass(60);
        assert_eq!(cluster.new_events(), ["started next 0>1"], "{case}");
        for _ in 0..2 {
            let both = pairs(&[("evil", 1), ("next", 1)]);
            assert_eq!(recorded(&cluster), both, "{case}");
            cluster.restart();
            cluster.pass(60);
        }
        assert_eq!(cluster.new_events(), [""; 0], "{case}");
        cluster.assert_at_rest();
    }
}

#[test]
fn evidence_about_what_the_node_reports_of_a_pinned_container_counts_whenever_it_comes() {
    for owner in ["web", "Job web"] {
        for record_of in ["index", "amd64"] {
            let mut cluster = ruled(true);
            pinned_to(&mut cluster, owner, "index", "amd64");
            assert!(!complies(&mut cluster), "{owner} {record_of}");
            record(&mut cluster, record_of, &[]);
            cluster.pass(60);
            let state = cluster.recorded("prod").compliance.state;
            assert_eq!(state, ComplianceState::Compliant, "{owner} {record_of}");
        }
    }
}

// ---- by which names an image is judged ----

/// A cluster with a rule that `registry.example/good` is excepted from.
fn excepting(counted: bool) -> Cluster {
    let rules = "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 1m, recoveryWindow: 0s, exceptions: [{images: [registry.example/good], reason: bought}]}";
    let mut cluster = Cluster::watched(counted, rules);
    cluster.pass(120);
    cluster.new_events();
    cluster
}

#[test]
fn a_name_from_an_edited_spec_makes_no_exception_and_fits_no_record() {
    for counted in [true, false] {
        for owner in ["web", "Job web"] {
            for when in [
                "before its container is reported",
                "as soon as it runs",
                "later",
                "when it terminates",
            ] {
                for recorded in [false, true] {
                    let case = format!("{counted}, {owner}, edited {when}, recorded {recorded}");
                    let mut cluster = match recorded {
                        true => ruled(counted),
                        false => excepting(counted),
                    };
                    if recorded {
                        let spec = format!(
                            "{{fingerprint: {}, flow: web, repository: registry.example/good}}",
                            digest("bad")
                        );
                        cluster.record("bad", &spec);
                    }
                    let pod = cluster.create(owner, "r", &["bad"]);
                    if when != "before its container is reported" {
                        cluster.run(&pod);
                    }
                    if when == "later" {
                        cluster.pass(100);
                    }
                    if when == "when it terminates" {
                        cluster.terminate(&pod);
                    }
                    cluster.change(&pod, |pod| {
                        pod.generation += i64::from(counted);
                        pod.containers[0].image = "registry.example/good:1".to_owned();
                    });
                    if when == "before its container is reported" {
                        runs_as(&mut cluster, &pod, "one", "bad");
                    }
                    assert!(!complies(&mut cluster), "{case}");
                    cluster.remove(&pod);
                    assert!(complies(&mut cluster), "{case}");
                }
            }
        }
    }
}

#[test]
fn an_image_is_excepted_by_the_name_that_its_node_reports_or_that_a_never_edited_spec_asks_for() {
    let by_good = image_id("good");
    let by_other = format!("registry.example/other@sha256:{}", digest("good"));
    let (named, short) = ("registry.example/good:1", "good:1");
    for (case, counted, generation, image, image_id, excepted) in [
        ("a node that names it", false, 0, named, &by_good, true),
        (
            "whatever an edited spec says",
            true,
            2,
            "registry.example/x:1",
            &by_good,
            true,
        ),
        (
            "another name on the node",
            false,
            0,
            named,
            &by_other,
            false,
        ),
        ("an edited spec", true, 2, named, &by_other, false),
        (
            "a spec that was never edited",
            true,
            1,
            named,
            &by_other,
            true,
        ),
        (
            "the other way round",
            true,
            1,
            "registry.example/other:1",
            &by_good,
            false,
        ),
        ("a node without names", true, 1, named, &local("good"), true),
        ("nobody who knows", true, 2, named, &local("good"), false),
        (
            "nobody who knows, again",
            false,
            0,
            named,
            &local("good"),
            false,
        ),
        // The node may look for it in another registry, or among the ids of images.
        (
            "a name without a registry",
            true,
            1,
            short,
            &local("good"),
            false,
        ),
    ] {
        let mut cluster = excepting(counted);
        let pod = cluster.create("web", "r", &["good"]);
        cluster.change(&pod, |pod| {
            pod.generation = generation;
            pod.containers[0].image = image.to_owned();
        });
        runs_called(&mut cluster, &pod, "one", image_id);
        assert_eq!(complies(&mut cluster), excepted, "{case}");
    }
}

#[test]
fn a_container_keeps_the_name_that_counts_while_nobody_who_knows_says_another() {
    let complies = |cluster: &mut Cluster| {
        cluster.pass(200);
        cluster.recorded("prod").compliance.state == ComplianceState::Compliant
    };
    for (case, counted, first) in [
        ("that of its node", false, image_id("good")),
        ("that of a never edited spec", true, local("good")),
    ] {
        let mut cluster = excepting(counted);
        let pod = cluster.create("web", "r", &["good"]);
        cluster.change(&pod, |pod| {
            pod.containers[0].image = "registry.example/good:1".to_owned();
        });
        runs_called(&mut cluster, &pod, "one", &first);
        assert!(complies(&mut cluster), "{case}");
        // The spec is edited, and the node says only the id of the image.
        cluster.change(&pod, |pod| {
            pod.generation += i64::from(counted);
            pod.containers[0].image = "registry.example/x:1".to_owned();
            pod.containers[0].image_id = local("good");
        });
        assert!(complies(&mut cluster), "{case}");
        cluster.container(&pod, |c| c.image_id = called("x", "good"));
        assert!(!complies(&mut cluster), "{case}: its node says another");
        cluster.container(&pod, |c| c.image_id = image_id("good"));
        assert!(complies(&mut cluster), "{case}");
        runs_called(&mut cluster, &pod, "next", &local("good"));
        assert!(!complies(&mut cluster), "{case}: of another container");
    }
}

#[test]
fn the_name_that_counts_of_a_container_outlives_the_operator() {
    let (good, bare) = (image_id("good"), local("good"));
    for (case, counted, first, edited) in [
        ("that of its node, which says the id", false, &good, false),
        ("the same, when the spec is edited", true, &good, true),
        ("that of a never edited spec", true, &bare, true),
        ("that of a node that says nothing", false, &good, false),
    ] {
        for owner in ["web", "Job web"] {
            for (by_record, before_the_log) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let case = format!("{case}, {owner}, {by_record}, {before_the_log}");
                let mut cluster = match by_record {
                    true => ruled(counted),
                    false => excepting(counted),
                };
                if by_record {
                    let spec = format!(
                        "{{fingerprint: {}, flow: web, repository: registry.example/good}}",
                        digest("good")
                    );
                    cluster.record("good", &spec);
                }
                let pod = cluster.create(owner, "r", &["good"]);
                cluster.change(&pod, |pod| {
                    pod.containers[0].image = "registry.example/good:1".to_owned();
                });
                runs_called(&mut cluster, &pod, "one", first);
                assert!(complies(&mut cluster), "{case}");
                assert!(!has_names(&cluster), "{case}: its status tells it");
                cluster.change(&pod, |pod| {
                    pod.generation += i64::from(edited);
                    if edited {
                        pod.containers[0].image = "registry.example/x:1".to_owned();
                    }
                    let silent = case.contains("nothing");
                    pod.containers[0].image_id = if silent { String::new() } else { bare.clone() };
                });
                assert!(complies(&mut cluster), "{case}");
                assert!(has_names(&cluster), "{case}: only the log does");
                cluster.new_events();
                let entries = cluster.log("prod").len();
                for _ in 0..2 {
                    if before_the_log {
                        cluster.stop();
                        cluster.begin_before_reading_the_log();
                    } else {
                        cluster.restart();
                    }
                    assert!(complies(&mut cluster), "{case}");
                    assert_eq!(cluster.new_events(), [""; 0], "{case}");
                    assert_eq!(cluster.log("prod").len(), entries, "{case}");
                }
                cluster.container(&pod, |c| c.image_id = called("x", "good"));
                assert!(!complies(&mut cluster), "{case}: its node says another");
                cluster.container(&pod, |c| c.image_id = good.clone());
                assert!(complies(&mut cluster), "{case}");
                runs_called(&mut cluster, &pod, "next", &bare);
                assert!(!complies(&mut cluster), "{case}: of another container");
            }
        }
    }
}

/// Whether the log holds the name of any container.
fn has_names(cluster: &Cluster) -> bool {
    let mut containers = cluster.recorded("prod").containers.values();
    containers.any(|it| it.repository.is_some())
}

#[test]
fn an_image_that_runs_under_two_names_is_excepted_only_if_both_are() {
    let mut cluster = excepting(true);
    cluster.running("web", "r", &["good"]);
    assert!(complies(&mut cluster));
    for owner in ["blog/web", "Job copy"] {
        let pod = cluster.create(owner, "r", &["good"]);
        cluster.container(&pod, |c| c.image = "registry.example/zcopy:1".to_owned());
        runs_as(&mut cluster, &pod, "two", "good");
        assert!(!complies(&mut cluster), "{owner}");
        cluster.remove(&pod);
        assert!(complies(&mut cluster), "{owner}");
    }
}

// ---- pods with more than can be kept ----

#[test]
fn what_runs_behind_more_containers_than_can_be_kept_is_never_compliant() {
    for (owner, excepted) in [
        ("web", ""),
        ("Job web", ""),
        ("web", ", exceptions: [{images: ['*'], reason: ours}]"),
    ] {
        let mut cluster = Cluster::bare(true);
        record(&mut cluster, "good", &[]);
        let rules = format!(
            "compliance: {{provenance: {{required: true, trustedNamespaces: [ci]}}, grace: 1m, recoveryWindow: 0s{excepted}}}"
        );
        cluster.environment("prod", &rules);
        cluster.begin();
        cluster.pass(120);
        let mut images = vec!["good"; 1_000];
        let pod = cluster.running(owner, "r", &images);
        assert!(
            !complies(&mut cluster),
            "{owner} {excepted}: they are not known"
        );
        cluster.remove(&pod);
        assert!(complies(&mut cluster), "{owner} {excepted}");
        images.truncate(10);
        cluster.running(owner, "r", &images);
        assert!(
            complies(&mut cluster),
            "{owner} {excepted}: so many can be kept"
        );
        assert_eq!(cluster.state.self_check(cluster.now), 0);
    }
}

#[test]
fn a_node_that_says_nothing_for_a_while_makes_none_of_many_containers_stop() {
    // So many that never run, then some that do; all that can be kept, and more.
    for (never, running, more) in [(400, 20, false), (400, 80, false), (0, 1_000, true)] {
        let case = format!("{never} {running}");
        let mut cluster = ruled(true);
        let images: Vec<_> = (0..never + running).map(|_| "good").collect();
        let pod = cluster.create("web", "r", &images);
        cluster.change(&pod, |pod| {
            pod.phase = "Running";
            for (number, container) in pod.containers.iter_mut().enumerate().skip(never) {
                container.id = format!("containerd://{number}");
                container.image_id = image_id("good");
                container.state = State::Running;
            }
        });
        cluster.pass(600);
        cluster.new_events();
        let seen = |cluster: &Cluster| {
            let (fleet, recorded) = (cluster.state.fleet(), cluster.recorded("prod"));
            let unidentified = cluster.state.summary("prod").unwrap().unidentified;
            let state = recorded.compliance.state;
            (
                fleet.kept_containers(),
                unidentified,
                recorded.totals(),
                state,
            )
        };
        let before = seen(&cluster);
        assert_eq!(before.1 > 0, more, "{case}");
        let before_silence = cluster.pods[&pod].containers.clone();
        cluster.change(&pod, |pod| {
            for container in &mut pod.containers {
                (container.id, container.image_id) = (String::new(), String::new());
                container.state = State::Waiting;
            }
        });
        cluster.pass(600);
        assert_eq!(cluster.new_events(), [""; 0], "{case}");
        assert_eq!(seen(&cluster), before, "{case}");
        cluster.change(&pod, |pod| pod.containers = before_silence);
        cluster.pass(600);
        assert_eq!(cluster.new_events(), [""; 0], "{case}");
        assert_eq!(seen(&cluster), before, "{case}");
        assert_eq!(cluster.state.self_check(cluster.now), 0);
    }
}

#[test]
fn of_containers_that_have_never_run_nothing_is_kept() {
    let mut cluster = Cluster::new();
    let names: Vec<String> = (0..100).map(|number| format!("image-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pod = cluster.create("web", "r", &names);
    cluster.change(&pod, |pod| {
        for container in &mut pod.containers {
            container.image = pinned(&container.name);
        }
    });
    cluster.pass(60);
    assert_eq!(cluster.state.fleet().kept_containers(), 0);
    cluster.run(&pod);
    cluster.pass(60);
    let kept = cluster.state.fleet().kept_containers();
    assert!((50..=100).contains(&kept), "{kept}");
    // What a pod with too many runs is said to be unidentified, and told.
    cluster.warnings.clear();
    cluster.running("web", "r", &vec!["index"; 1_000]);
    cluster.pass(60);
    let kept = cluster.state.fleet().kept_containers() - kept;
    let unidentified = cluster.state.summary("prod").unwrap().unidentified;
    let unidentified = usize::try_from(unidentified).unwrap();
    assert!(
        (50..250).contains(&kept) && unidentified >= 1_000 - kept,
        "{kept}"
    );
    let told = cluster
        .warnings
        .iter()
        .filter(|it| it.contains("more than are kept"));
    assert_eq!(told.count(), 1, "{:?}", cluster.warnings);
}
