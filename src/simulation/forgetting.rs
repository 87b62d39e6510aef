//! What was learned of digests and containers is forgotten with the last thing that refers to it, and nobody notices.

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

/// A pod of three images that are rolled out once comes and goes. Its node calls each of them otherwise than before; one of
/// them is also called otherwise by the spec.
fn roll_out(cluster: &mut Cluster, number: usize) {
    let images = ["web", "log", "job"].map(|name| format!("{name} {number}"));
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
    if number.is_multiple_of(50) {
        cluster.read_again("prod");
    }
    cluster.remove(&pod);
}

#[test]
fn thousands_of_images_leave_no_trace_in_memory_and_are_told_as_if_all_were_kept() {
    const ROLLOUTS: usize = 400;
    let (mut forgetting, mut keeping) = (with_mesh(), with_mesh());
    keeping.state.fleet_mut().never_tidy();
    let mut most = (0, 0);
    for number in 0..ROLLOUTS {
        roll_out(&mut forgetting, number);
        roll_out(&mut keeping, number);
        let now = forgetting.state.fleet().remembered();
        most = (most.0.max(now.0), most.1.max(now.1));
    }
    assert!(most.0 <= 1_100 && most.1 <= 1_100, "{most:?}");
    let all = keeping.state.fleet().remembered();
    assert!(all.0 > 3 * ROLLOUTS, "{all:?}: no test");
    forgetting.state.tidy();
    let left = forgetting.state.fleet().remembered();
    assert!(left.0 < 10 && left.1 < 400, "{left:?}");
    // Another of the sidecar is the same artifact, by whichever name.
    let mut stories = vec![];
    for mut cluster in [forgetting, keeping] {
        let mesh = cluster.create("StatefulSet mesh", "r", &["mesh"]);
        cluster.change(&mesh, |pod| {
            let first = &mut pod.containers[0];
            (first.id, first.state) = ("containerd://next".to_owned(), State::Running);
            first.image_id = image_id("mesh of its node");
        });
        cluster.pass(60);
        assert_eq!(cluster.recorded("prod").total(&digest("mesh")), 2);
        assert_eq!(cluster.state.self_check(cluster.now), 0);
        stories.push(cluster.new_events());
    }
    assert!(stories[0].len() > ROLLOUTS, "no test");
    assert!(stories[0] == stories[1], "the same is told");
}

#[test]
fn what_is_forgotten_while_it_is_being_written_is_learned_again_from_what_was_written() {
    let mut cluster = Cluster::new();
    let pod = cluster.running("web", "r", &["index"]);
    cluster.container(&pod, |c| c.image_id = image_id("amd64"));
    cluster.pass_while_writing(60, move |cluster| {
        cluster.remove(&pod);
        cluster.state.tidy();
        let left = cluster.state.fleet().remembered().0;
        assert_eq!(left, 0, "nothing refers to it");
        // The next is called so from the first.
        let next = cluster.create("web", "r", &["amd64"]);
        cluster.run(&next);
    });
    assert_eq!(cluster.new_events(), ["started index 0>1"]);
    let total = cluster.recorded("prod").total(&digest("index"));
    assert_eq!(total, 1, "as after a restart");
    cluster.assert_at_rest();
    cluster.restart();
    cluster.pass(60);
    assert_eq!(cluster.new_events(), [""; 0]);
}
