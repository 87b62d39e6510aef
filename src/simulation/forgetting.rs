//! What a log tells of containers is forgotten with the last thing that refers to it, and nobody notices.

use crate::simulation::{Cluster, State, image_id, testing::digest};

const RULES: &str = "compliance: {provenance: {required: true, trustedNamespaces: [ci]}, grace: 1m, recoveryWindow: 0s}\nsettle: {quiet: 1s, max: 5s, rollout: 10s}";

/// A cluster with rules, in which a sidecar runs for ever whose node calls it otherwise.
fn with_mesh() -> Cluster {
    let mut cluster = Cluster::watched(true, RULES);
    let mesh = cluster.running("StatefulSet mesh", "r", &["mesh"]);
    cluster.container(&mesh, |c| c.image_id = image_id("mesh of its node"));
    cluster.pass(60);
    cluster
}

/// A pod of six images that are rolled out once comes and goes. Its node calls each of them otherwise than before; one of
/// them is also called otherwise by the spec.
fn roll_out(cluster: &mut Cluster, number: usize) {
    let images =
        ["web", "log", "job", "mail", "cache", "proxy"].map(|name| format!("{name} {number}"));
    let pod = cluster.create(
        "web",
        &number.to_string(),
        &images.each_ref().map(|it| &**it),
    );
    cluster.change(&pod, |pod| pod.containers[0].image = image_id(&images[0]));
    cluster.run(&pod);
    cluster.change(&pod, |pod| {
        for (container, image) in pod.containers.iter_mut().zip(&images) {
            container.image_id = image_id(&format!("{image} of its node"));
        }
    });
    cluster.pass(7);
    if number.is_multiple_of(10) {
        cluster.read_again("prod");
    }
    cluster.remove(&pod);
}

#[test]
fn thousands_of_containers_leave_no_trace_in_memory_and_are_told_as_if_all_were_kept() {
    const ROLLOUTS: usize = 350;
    let (mut forgetting, mut keeping) = (with_mesh(), with_mesh());
    keeping.state.fleet_mut().never_tidy();
    let mut most = 0;
    for number in 0..ROLLOUTS {
        roll_out(&mut forgetting, number);
        roll_out(&mut keeping, number);
        most = most.max(forgetting.state.fleet().remembered());
    }
    assert!(most <= 1_100, "{most}");
    let all = keeping.state.fleet().remembered();
    forgetting.state.tidy();
    let left = forgetting.state.fleet().remembered();
    assert!(all > 1_100, "{all}: no test");
    assert!(left < 10, "{left}");
    // Another of the sidecar is what its own node calls it.
    let mut stories = vec![];
    for mut cluster in [forgetting, keeping] {
        let mesh = cluster.create("StatefulSet mesh", "r", &["mesh"]);
        cluster.change(&mesh, |pod| {
            let first = &mut pod.containers[0];
            (first.id, first.state) = ("containerd://next".to_owned(), State::Running);
            first.image_id = image_id("mesh of its node");
        });
        cluster.pass(60);
        for image in ["mesh", "mesh of its node"] {
            assert_eq!(cluster.recorded("prod").total(&digest(image)), 1);
        }
        assert_eq!(cluster.state.self_check(cluster.now), 0);
        stories.push(cluster.new_events());
    }
    assert!(stories[0].len() > ROLLOUTS, "no test");
    assert!(stories[0] == stories[1], "the same is told");
}

#[test]
fn what_is_forgotten_while_it_is_being_written_comes_back_with_no_later_container() {
    let mut cluster = Cluster::new();
    let pod = cluster.running("web", "r", &["index"]);
    cluster.container(&pod, |c| c.image_id = image_id("amd64"));
    cluster.pass_while_writing(60, move |cluster| {
        cluster.remove(&pod);
        cluster.state.tidy();
        assert_eq!(
            cluster.state.fleet().remembered(),
            0,
            "nothing refers to it"
        );
        // The next is called so from the first.
        let next = cluster.create("web", "r", &["amd64"]);
        cluster.run(&next);
    });
    for restart in [false, true] {
        if restart {
            cluster.new_events();
            cluster.restart();
            cluster.pass(60);
            assert_eq!(cluster.new_events(), [""; 0]);
        }
        for (image, instances) in [("index", 0), ("amd64", 1)] {
            let total = cluster.recorded("prod").total(&digest(image));
            assert_eq!(total, instances, "{image}");
        }
        cluster.assert_at_rest();
    }
}
