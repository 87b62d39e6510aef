//! What becomes of workloads, and what is told of it.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kit::{
    Actor, Image, Receiver, apply, bare_pod,
    cluster::PATIENCE,
    daemon_set, deployment, eventually, hears, job, play,
    stage::{ALL, SETTLE, together},
    stateful_set, stays, told,
};
use kube::{Api, api::PostParams};
use serde_json::json;
use shipbell::api::EnvironmentSnapshot;
use std::time::Duration;

// A StatefulSet or DaemonSet has moments in which a pod is gone and the next is not there yet: `quiet` must be longer, and on
// a busy machine they can take a second.

/// How often the containers of a pod have been started again.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|status| status.restart_count)
        .sum()
}

/// What a pod's containers wait for.
fn waits_for<'a>(pod: &'a Pod, reason: &str) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let waiting = |status: &'a k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
    };
    statuses
        .into_iter()
        .flatten()
        .any(|status| waiting(status) == Some(reason))
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Waits until all that is recorded has been heard, and forgets it.
async fn forget_all(actor: &Actor, receiver: &Receiver) -> Result<()> {
    eventually(PATIENCE, "everything to be heard", async || {
        let told: usize = actor
            .log()
            .await?
            .iter()
            .map(|entry| entry.events.len())
            .sum();
        let heard = receiver.heard().len();
        ensure!(heard == told, "{heard} of {told}");
        Ok(())
    })
    .await?;
    receiver.forget();
    Ok(())
}

#[test]
fn a_deployment_that_starts_scales_rolls_and_stops_is_told_once_each() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "life", SETTLE).await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/life:v1", 2))
            .await?;
        hears(&receiver, &["STARTED life:v1 0 to 2"]).await?;

        cluster.scale(&actor.name, "web", 5).await?;
        hears(
            &receiver,
            &["STARTED life:v1 0 to 2", "SCALED life:v1 2 to 5"],
        )
        .await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/life:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED life:v2 0 to 5", "STOPPED life:v1 5 to 0"],
        )
        .await?;
        together(&heard)?;

        receiver.forget();
        cluster.scale(&actor.name, "web", 0).await?;
        hears(&receiver, &["STOPPED life:v2 5 to 0"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_rollback_is_told_as_a_rollout_of_its_own() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "back", SETTLE).await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/back:v1", 3))
            .await?;
        hears(&receiver, &["STARTED back:v1 0 to 3"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/back:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED back:v2 0 to 3", "STOPPED back:v1 3 to 0"],
        )
        .await?;
        together(&heard)?;

        receiver.forget();
        actor
            .kubectl(&["rollout", "undo", "deployment/web"])
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED back:v1 0 to 3", "STOPPED back:v2 3 to 0"],
        )
        .await?;
        together(&heard)?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_rollout_that_never_got_far_is_not_told_when_another_takes_its_place() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "overtaken", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/overtaken:v2",
            Image {
                ready: false,
                ..Image::default()
            },
        );
        actor
            .apply(deployment(&actor.name, "web", "r.example/overtaken:v1", 2).rolling(1, 0))
            .await?;
        hears(&receiver, &["STARTED overtaken:v1 0 to 2"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/overtaken:v2")
            .await?;
        actor.running("web", 3).await?;
        cluster
            .set_image(&actor.name, "web", "r.example/overtaken:v3")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED overtaken:v3 0 to 2", "STOPPED overtaken:v1 2 to 0"],
        )
        .await?;
        together(&heard)?;
        Ok(())
    });
}

#[test]
fn a_roll_slower_than_max_is_told_when_it_begins_and_when_it_is_over() {
    play(async |cluster| {
        let settle = "{quiet: 300ms, max: 1s, rollout: 2m, scaling: 2s}";
        let (actor, receiver) = Actor::heard(cluster, "slow", settle).await?;
        cluster.kubelet.image(
            "r.example/slow:v2",
            Image {
                starts_after: Duration::from_millis(2_500),
                ..Image::default()
            },
        );
        actor
            .apply(deployment(&actor.name, "web", "r.example/slow:v1", 3).rolling(1, 0))
            .await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        actor.settled(1, 3).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/slow:v2")
            .await?;
        hears(&receiver, &["STARTED slow:v2 0 to 1"]).await?;
        hears(
            &receiver,
            &["STARTED slow:v2 0 to 1", "STOPPED slow:v1 3 to 0"],
        )
        .await?;
        // The tail of the rollout is recorded, and is no scaling.
        actor.settled(1, 3).await?;
        let log = actor.sound_log().await?;
        let tail = log.iter().flat_map(|entry| &entry.changes);
        let tail: Vec<_> = tail
            .filter(|change| change.name.ends_with("slow:v2"))
            .map(|change| (change.was, change.now, change.rollout))
            .collect();
        assert_eq!(tail, [(0, 1, true), (1, 3, true)]);

        receiver.forget();
        cluster.kubelet.image("r.example/slow:v2", Image::default());
        cluster.scale(&actor.name, "web", 5).await?;
        hears(&receiver, &["SCALED slow:v2 3 to 5"]).await?;
        Ok(())
    });
}

#[test]
fn a_scaling_right_after_a_slow_rollout_is_told() {
    play(async |cluster| {
        let settle = "{quiet: 300ms, max: 1s, rollout: 2m, scaling: 2s}";
        let (actor, receiver) = Actor::heard(cluster, "after", settle).await?;
        // The pods run at once, and the rollout goes on until they have been ready for a while.
        let web = deployment(&actor.name, "web", "r.example/after:v1", 2)
            .set("/spec/minReadySeconds", 5.into());
        actor.apply(web).await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        actor.settled(1, 2).await?;
        cluster.rolled_out(&actor.name, "web").await?;
        forget_all(&actor, &receiver).await?;
        hears(&receiver, &[]).await?;

        cluster.scale(&actor.name, "web", 4).await?;
        hears(&receiver, &["SCALED after:v1 2 to 4"]).await?;
        Ok(())
    });
}

#[test]
fn a_stuck_roll_is_told_as_far_as_it_came_and_the_mended_one_as_a_whole() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "stuck", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/stuck:v2",
            Image {
                ready: false,
                ..Image::default()
            },
        );
        let web = deployment(&actor.name, "web", "r.example/stuck:v1", 2)
            .rolling(1, 0)
            .set("/spec/progressDeadlineSeconds", 3.into());
        actor.apply(web).await?;
        hears(&receiver, &["STARTED stuck:v1 0 to 2"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/stuck:v2")
            .await?;
        hears(&receiver, &["STARTED stuck:v2 0 to 1"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/stuck:v3")
            .await?;
        let heard = hears(
            &receiver,
            &[
                "STARTED stuck:v3 0 to 2",
                "STOPPED stuck:v1 2 to 0",
                "STOPPED stuck:v2 1 to 0",
            ],
        )
        .await?;
        together(&heard)?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_paused_roll_is_told_as_far_as_it_came_and_its_rest_when_it_goes_on() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "paused", SETTLE).await?;
        let v2 = "r.example/paused:v2";
        cluster.kubelet.image(
            v2,
            Image {
                pull_fails: true,
                ..Image::default()
            },
        );
        actor
            .apply(deployment(&actor.name, "web", "r.example/paused:v1", 3).rolling(1, 0))
            .await?;
        hears(&receiver, &["STARTED paused:v1 0 to 3"]).await?;

        receiver.forget();
        cluster.set_image(&actor.name, "web", v2).await?;
        cluster
            .pods_when(&actor.name, "web", "a pod of the new image", |pods| {
                pods.iter().any(|pod| waits_for(pod, "ErrImagePull"))
            })
            .await?;
        actor
            .kubectl(&["rollout", "pause", "deployment/web"])
            .await?;
        cluster.kubelet.image(v2, Image::default());
        hears(&receiver, &["STARTED paused:v2 0 to 1"]).await?;

        actor
            .kubectl(&["rollout", "resume", "deployment/web"])
            .await?;
        hears(
            &receiver,
            &["STARTED paused:v2 0 to 1", "STOPPED paused:v1 3 to 0"],
        )
        .await?;
        actor.settled(1, 3).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_roll_whose_old_pods_are_slow_to_stop_is_one_change() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "lingering", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/lingering:v1",
            Image {
                stops_after: Duration::from_secs(5),
                ..Image::default()
            },
        );
        let web = deployment(&actor.name, "web", "r.example/lingering:v1", 2).grace_period(10);
        actor.apply(web).await?;
        hears(&receiver, &["STARTED lingering:v1 0 to 2"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/lingering:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED lingering:v2 0 to 2", "STOPPED lingering:v1 2 to 0"],
        )
        .await?;
        together(&heard)?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_start_does_not_wait_for_ever_for_old_pods_to_stop() {
    play(async |cluster| {
        let settle = "{quiet: 600ms, max: 3s, rollout: 2m, scaling: 2s}";
        let (actor, receiver) = Actor::heard(cluster, "outstaying", settle).await?;
        cluster.kubelet.image(
            "r.example/outstaying:v1",
            Image {
                stops_after: Duration::from_secs(8),
                ..Image::default()
            },
        );
        let web = deployment(&actor.name, "web", "r.example/outstaying:v1", 1).grace_period(30);
        actor.apply(web).await?;
        hears(&receiver, &["STARTED outstaying:v1 0 to 1"]).await?;

        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/outstaying:v2")
            .await?;
        hears(&receiver, &["STARTED outstaying:v2 0 to 1"]).await?;
        hears(
            &receiver,
            &[
                "STARTED outstaying:v2 0 to 1",
                "STOPPED outstaying:v1 1 to 0",
            ],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn a_scale_down_is_told_once_when_the_last_pod_has_stopped() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "draining", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/draining:v1",
            Image {
                stops_after: Duration::from_secs(4),
                ..Image::default()
            },
        );
        let web = deployment(&actor.name, "web", "r.example/draining:v1", 4).grace_period(10);
        actor.apply(web).await?;
        hears(&receiver, &["STARTED draining:v1 0 to 4"]).await?;

        receiver.forget();
        cluster.scale(&actor.name, "web", 2).await?;
        cluster
            .pods_when(&actor.name, "web", "pods that stop", |pods| {
                pods.iter()
                    .any(|pod| pod.metadata.deletion_timestamp.is_some())
            })
            .await?;
        cluster.scale(&actor.name, "web", 1).await?;
        hears(&receiver, &["SCALED draining:v1 4 to 1"]).await?;

        receiver.forget();
        cluster.scale(&actor.name, "web", 0).await?;
        hears(&receiver, &["STOPPED draining:v1 1 to 0"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_tag_that_moved_to_another_digest_is_another_artifact() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "moved", SETTLE).await?;
        let image = "r.example/moved:latest";
        let before = cluster.kubelet.digest_of(image);
        actor
            .apply(deployment(&actor.name, "web", image, 3))
            .await?;
        hears(&receiver, &["STARTED moved:latest 0 to 3"]).await?;

        receiver.forget();
        let after = "ab".repeat(32);
        cluster.kubelet.image(
            image,
            Image {
                digest: Some(after.clone()),
                ..Image::default()
            },
        );
        actor
            .kubectl(&["rollout", "restart", "deployment/web"])
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED moved:latest 0 to 3", "STOPPED moved:latest 3 to 0"],
        )
        .await?;
        together(&heard)?;
        assert_eq!(heard[0].json()["artifact"]["fingerprint"], after);
        assert_eq!(heard[1].json()["artifact"]["fingerprint"], before);

        // Without a new digest a restart is no news.
        receiver.forget();
        let restarted: Vec<_> = actor.running("web", 3).await?;
        actor
            .kubectl(&["rollout", "restart", "deployment/web"])
            .await?;
        cluster
            .pods_when(&actor.name, "web", "other pods", |pods| {
                pods.len() == 3
                    && pods
                        .iter()
                        .all(|pod| restarted.iter().all(|old| name(old) != name(pod)))
            })
            .await?;
        hears(&receiver, &[]).await?;
        Ok(())
    });
}

#[test]
fn a_scaling_in_steps_is_told_once_when_it_stands_still() {
    play(async |cluster| {
        let settle = "{quiet: 600ms, max: 40s, rollout: 2m, scaling: 5s}";
        let (actor, receiver) = Actor::heard(cluster, "steps", settle).await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/steps:v1", 2))
            .await?;
        hears(&receiver, &["STARTED steps:v1 0 to 2"]).await?;

        receiver.forget();
        actor
            .kubectl(&["scale", "deployment/web", "--replicas=3"])
            .await?;
        actor.running("web", 3).await?;
        for replicas in [5, 8, 7] {
            cluster.scale(&actor.name, "web", replicas).await?;
            actor.running("web", replicas as usize).await?;
        }
        hears(&receiver, &["SCALED steps:v1 2 to 7"]).await?;

        // Up and down again within that time is nothing at all.
        cluster.scale(&actor.name, "web", 9).await?;
        actor.running("web", 9).await?;
        cluster.scale(&actor.name, "web", 7).await?;
        actor.running("web", 7).await?;
        hears(&receiver, &["SCALED steps:v1 2 to 7"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_crash_loop_tells_nothing_after_its_start() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "crashing", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/crashing:v1",
            Image {
                crash_loop: true,
                ..Image::default()
            },
        );
        actor
            .apply(deployment(&actor.name, "web", "r.example/crashing:v1", 2))
            .await?;
        cluster
            .pods_when(&actor.name, "web", "restarts", |pods| {
                pods.len() == 2 && pods.iter().all(|pod| restarts(pod) >= 5)
            })
            .await?;
        hears(&receiver, &["STARTED crashing:v1 0 to 2"]).await?;

        actor.kubectl(&["delete", "deployment/web"]).await?;
        hears(
            &receiver,
            &["STARTED crashing:v1 0 to 2", "STOPPED crashing:v1 2 to 0"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn an_image_that_cannot_be_pulled_tells_nothing_until_it_starts() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "pull", SETTLE).await?;
        let fails = Image {
            pull_fails: true,
            ..Image::default()
        };
        cluster.kubelet.image("r.example/pull:v1", fails.clone());
        cluster.kubelet.image("r.example/pull:v2", fails);
        actor
            .apply(deployment(&actor.name, "web", "r.example/pull:v1", 2).rolling(1, 0))
            .await?;
        let backs_off = |count| {
            move |pods: &[Pod]| {
                let waiting = pods.iter().filter(|pod| waits_for(pod, "ImagePullBackOff"));
                waiting.count() == count
            }
        };
        let what = "pods that can't pull";
        cluster
            .pods_when(&actor.name, "web", what, backs_off(2))
            .await?;
        hears(&receiver, &[]).await?;
        assert_eq!(actor.log().await?.len(), 1, "only the baseline");
        cluster.kubelet.image("r.example/pull:v1", Image::default());
        hears(&receiver, &["STARTED pull:v1 0 to 2"]).await?;

        // A rollout that can't be pulled, and is taken back, never was.
        cluster
            .set_image(&actor.name, "web", "r.example/pull:v2")
            .await?;
        cluster
            .pods_when(&actor.name, "web", what, backs_off(1))
            .await?;
        actor
            .kubectl(&["rollout", "undo", "deployment/web"])
            .await?;
        cluster.rolled_out(&actor.name, "web").await?;
        hears(&receiver, &["STARTED pull:v1 0 to 2"]).await?;
        Ok(())
    });
}

#[test]
fn jobs_are_left_out_unless_the_environment_wants_them() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "batch", SETTLE).await?;
        let name = &actor.name;
        let all = format!("{name}-all");
        let fields = format!("namespaces: {{include: [{name}]}}\nexclude: []\nsettle: {SETTLE}");
        actor.further_environment(&all, &fields).await?;
        let listener = Receiver::start();
        let fields = format!("environments: [{all}]\n{ALL}");
        actor.webhook("jobs-too", &listener, &fields).await?;
        cluster.kubelet.image(
            "r.example/batch:v1",
            Image {
                exits_after: Some(Duration::from_secs(4)),
                ..Image::default()
            },
        );
        actor
            .apply(job(name, "batch", "r.example/batch:v1"))
            .await?;
        hears(
            &listener,
            &["STARTED batch:v1 0 to 1", "STOPPED batch:v1 1 to 0"],
        )
        .await?;
        hears(&receiver, &[]).await?;
        assert_eq!(actor.log().await?.len(), 1, "only the baseline");
        Ok(())
    });
}

#[test]
fn a_daemon_set_that_rolls_is_one_change() {
    play(async |cluster| {
        let settle = "{quiet: 2s, max: 40s, rollout: 2m, scaling: 2s}";
        let (actor, receiver) = Actor::heard(cluster, "agent", settle).await?;
        let agent = daemon_set(&actor.name, "agent", "r.example/agent:v1").set(
            "/spec/template/spec/nodeSelector/kubernetes.io~1hostname",
            "node-1".into(),
        );
        actor.apply(agent).await?;
        hears(&receiver, &["STARTED agent:v1 0 to 1"]).await?;

        receiver.forget();
        actor
            .kubectl(&["set", "image", "daemonset/agent", "app=r.example/agent:v2"])
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED agent:v2 0 to 1", "STOPPED agent:v1 1 to 0"],
        )
        .await?;
        together(&heard)?;
        Ok(())
    });
}

#[test]
fn a_stateful_set_that_rolls_is_one_change_though_its_last_pod_starts_slowly() {
    play(async |cluster| {
        let settle = "{quiet: 3s, max: 60s, rollout: 2m, scaling: 1500ms}";
        let (actor, receiver) = Actor::heard(cluster, "store", settle).await?;
        cluster.kubelet.image(
            "r.example/store:v2",
            Image {
                starts_after: Duration::from_secs(4),
                ..Image::default()
            },
        );
        actor
            .apply(stateful_set(&actor.name, "db", "r.example/store:v1", 3))
            .await?;
        hears(&receiver, &["STARTED store:v1 0 to 3"]).await?;

        receiver.forget();
        actor
            .kubectl(&["set", "image", "statefulset/db", "app=r.example/store:v2"])
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED store:v2 0 to 3", "STOPPED store:v1 3 to 0"],
        )
        .await?;
        together(&heard)?;

        receiver.forget();
        actor
            .kubectl(&["scale", "statefulset/db", "--replicas=1"])
            .await?;
        hears(&receiver, &["SCALED store:v2 3 to 1"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_stateful_set_that_grows_pod_by_pod_is_one_change() {
    play(async |cluster| {
        let settle = "{quiet: 3s, max: 60s, rollout: 2m, scaling: 3s}";
        let (actor, receiver) = Actor::heard(cluster, "grows", settle).await?;
        cluster.kubelet.image(
            "r.example/grows:v1",
            Image {
                starts_after: Duration::from_secs(4),
                ..Image::default()
            },
        );
        let db = |replicas| {
            stateful_set(&actor.name, "db", "r.example/grows:v1", replicas)
                .set("/spec/podManagementPolicy", "OrderedReady".into())
        };
        actor.apply(db(2)).await?;
        hears(&receiver, &["STARTED grows:v1 0 to 2"]).await?;
        actor.apply(db(4)).await?;
        hears(
            &receiver,
            &["STARTED grows:v1 0 to 2", "SCALED grows:v1 2 to 4"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn pods_that_start_after_max_are_no_scaling() {
    play(async |cluster| {
        let settle = "{quiet: 3s, max: 3s, rollout: 2m, scaling: 3s}";
        let (actor, receiver) = Actor::heard(cluster, "late", settle).await?;
        cluster.kubelet.image(
            "r.example/late:v1",
            Image {
                starts_after: Duration::from_secs(5),
                ..Image::default()
            },
        );
        let db = stateful_set(&actor.name, "db", "r.example/late:v1", 3)
            .set("/spec/podManagementPolicy", "OrderedReady".into());
        actor.apply(db).await?;
        hears(&receiver, &["STARTED late:v1 0 to 1"]).await?;
        actor.settled(1, 3).await?;
        hears(&receiver, &["STARTED late:v1 0 to 1"]).await?;
        actor
            .kubectl(&["scale", "statefulset/db", "--replicas=1"])
            .await?;
        hears(
            &receiver,
            &["STARTED late:v1 0 to 1", "SCALED late:v1 3 to 1"],
        )
        .await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_stateful_sets_canary_is_told_and_then_the_roll_of_the_rest() {
    play(async |cluster| {
        let settle = "{quiet: 3s, max: 3s, rollout: 2m, scaling: 3s}";
        let (actor, receiver) = Actor::heard(cluster, "canary", settle).await?;
        actor
            .apply(stateful_set(&actor.name, "db", "r.example/canary:v1", 3).partition(2))
            .await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        actor.settled(1, 3).await?;

        receiver.forget();
        actor
            .kubectl(&["set", "image", "statefulset/db", "app=r.example/canary:v2"])
            .await?;
        hears(&receiver, &["STARTED canary:v2 0 to 1"]).await?;

        actor
            .apply(stateful_set(&actor.name, "db", "r.example/canary:v2", 3).partition(0))
            .await?;
        let want = ["STARTED canary:v2 0 to 1", "STOPPED canary:v1 3 to 0"];
        hears(&receiver, &want).await?;
        actor.settled(1, 3).await?;
        hears(&receiver, &want).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_pod_without_an_owner_is_told() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "bare", SETTLE).await?;
        actor
            .apply(bare_pod(&actor.name, "solo", "r.example/bare:v1"))
            .await?;
        hears(&receiver, &["STARTED bare:v1 0 to 1"]).await?;

        actor.kubectl(&["delete", "pod/solo"]).await?;
        hears(
            &receiver,
            &["STARTED bare:v1 0 to 1", "STOPPED bare:v1 1 to 0"],
        )
        .await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn an_image_that_two_workloads_run_starts_once_and_stops_once() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "both", SETTLE).await?;
        let name = actor.name.as_str();
        actor
            .apply(deployment(name, "web", "r.example/both:v1", 2))
            .await?;
        actor
            .apply(deployment(name, "api", "r.example/both:v1", 3))
            .await?;
        actor.settled(1, 5).await?;
        forget_all(&actor, &receiver).await?;

        cluster.set_image(name, "web", "r.example/both:v2").await?;
        hears(&receiver, &["STARTED both:v2 0 to 2"]).await?;
        cluster.set_image(name, "api", "r.example/both:v2").await?;
        let want = ["STARTED both:v2 0 to 2", "STOPPED both:v1 3 to 0"];
        hears(&receiver, &want).await?;
        actor.settled(1, 5).await?;

        actor.kubectl(&["delete", "deployment/web"]).await?;
        let [started, stopped] = want;
        hears(&receiver, &[started, stopped, "SCALED both:v2 5 to 3"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn an_image_that_is_edited_in_a_pod_is_told_when_the_container_runs_it() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "in-place", SETTLE).await?;
        let name = actor.name.as_str();
        actor
            .apply(bare_pod(name, "solo", "r.example/in-place:v1"))
            .await?;
        hears(&receiver, &["STARTED in-place:v1 0 to 1"]).await?;

        let pinned = format!("r.example/in-place:v2@sha256:{}", "cd".repeat(32));
        let edit = format!("app={pinned}");
        actor.kubectl(&["set", "image", "pod/solo", &edit]).await?;
        hears(&receiver, &["STARTED in-place:v1 0 to 1"]).await?;

        receiver.forget();
        eventually(PATIENCE, "the container to run it", async || {
            let pods = actor.running("solo", 1).await?;
            let statuses = pods[0]
                .status
                .as_ref()
                .and_then(|s| s.container_statuses.as_ref());
            let runs = statuses.is_some_and(|statuses| statuses[0].image == pinned);
            if !runs {
                cluster.kubelet.restart_container(name, "solo", "app")?;
            }
            Ok::<_, anyhow::Error>(runs)
        })
        .await?;
        let heard = hears(
            &receiver,
            &["STARTED in-place:v2 0 to 1", "STOPPED in-place:v1 1 to 0"],
        )
        .await?;
        together(&heard)?;
        assert_eq!(heard[0].json()["artifact"]["fingerprint"], "cd".repeat(32));
        Ok(())
    });
}

#[test]
fn a_deployment_that_is_deleted_and_made_anew_tells_nothing() {
    play(async |cluster| {
        let settle = "{quiet: 2s, max: 40s, rollout: 2m, scaling: 2s}";
        let (actor, receiver) = Actor::heard(cluster, "replaced", settle).await?;
        let web = deployment(&actor.name, "web", "r.example/replaced:v1", 2);
        actor.apply(web.clone()).await?;
        hears(&receiver, &["STARTED replaced:v1 0 to 2"]).await?;

        let before = actor.running("web", 2).await?;
        let yaml = serde_json::Value::from(web).to_string();
        cluster
            .plane
            .kubectl_with_input(&["replace", "--force", "-f", "-"], &yaml)
            .await?;
        cluster
            .pods_when(&actor.name, "web", "other pods", |pods| {
                pods.len() == 2
                    && pods
                        .iter()
                        .all(|pod| before.iter().all(|old| name(old) != name(pod)))
            })
            .await?;
        actor.running("web", 2).await?;
        hears(&receiver, &["STARTED replaced:v1 0 to 2"]).await?;
        assert_eq!(actor.log().await?.len(), 2);
        Ok(())
    });
}

#[test]
fn a_pod_that_is_replaced_tells_nothing() {
    play(async |cluster| {
        let settle = "{quiet: 3s, max: 40s, rollout: 2m, scaling: 5s}";
        let (actor, receiver) = Actor::heard(cluster, "evicted", settle).await?;
        actor
            .apply(deployment(
                &actor.name,
                "one",
                "r.example/evicted-one:v1",
                1,
            ))
            .await?;
        actor
            .apply(deployment(
                &actor.name,
                "two",
                "r.example/evicted-two:v1",
                2,
            ))
            .await?;
        actor.settled(2, 3).await?;
        receiver.wait_for_count(PATIENCE, 2).await?;

        receiver.forget();
        let log = actor.log().await?.len();
        for app in ["one", "two"] {
            let pods = cluster.pods(&actor.name, app).await?;
            actor
                .kubectl(&["delete", "pod", name(&pods[0]), "--wait=false"])
                .await?;
            let replaced = |now: &[Pod]| {
                now.len() == pods.len() && now.iter().all(|pod| name(pod) != name(&pods[0]))
            };
            cluster
                .pods_when(&actor.name, app, "a pod in place of the deleted", replaced)
                .await?;
            actor.running(app, pods.len()).await?;
        }
        stays(Duration::from_secs(6), "the log as it was", async || {
            let now = actor.log().await?.len();
            ensure!(now == log, "{now} entries");
            Ok(())
        })
        .await?;
        hears(&receiver, &[]).await?;
        Ok(())
    });
}

#[test]
fn sidecars_count_and_init_containers_do_not() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "aside", SETTLE).await?;
        let web = deployment(&actor.name, "web", "r.example/aside-app:v1", 2)
            .init("setup", "r.example/aside-init:v1")
            .sidecar("mesh", "r.example/aside-mesh:v1");
        actor.apply(web).await?;
        let heard = hears(
            &receiver,
            &[
                "STARTED aside-app:v1 0 to 2",
                "STARTED aside-mesh:v1 0 to 2",
            ],
        )
        .await?;
        together(&heard)?;

        // The sidecar's roll says nothing of the app, though its pods come and go with it.
        receiver.forget();
        let web = deployment(&actor.name, "web", "r.example/aside-app:v1", 2)
            .init("setup", "r.example/aside-init:v1")
            .sidecar("mesh", "r.example/aside-mesh:v2");
        actor.apply(web).await?;
        let heard = hears(
            &receiver,
            &[
                "STARTED aside-mesh:v2 0 to 2",
                "STOPPED aside-mesh:v1 2 to 0",
            ],
        )
        .await?;
        together(&heard)?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_pod_with_two_containers_of_one_image_is_one_instance() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "twins", SETTLE).await?;
        let web = deployment(&actor.name, "web", "r.example/twins:v1", 2)
            .container("again", "r.example/twins:v1");
        actor.apply(web).await?;
        hears(&receiver, &["STARTED twins:v1 0 to 2"]).await?;
        actor.settled(1, 2).await?;
        Ok(())
    });
}

#[test]
fn an_ephemeral_container_counts() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "debugged", SETTLE).await?;
        actor
            .apply(bare_pod(&actor.name, "solo", "r.example/debugged:v1"))
            .await?;
        hears(&receiver, &["STARTED debugged:v1 0 to 1"]).await?;

        receiver.forget();
        actor.running("solo", 1).await?;
        actor
            .kubectl(&["debug", "pod/solo", "--image=r.example/debugger:v1"])
            .await?;
        hears(&receiver, &["STARTED debugger:v1 0 to 1"]).await?;

        receiver.forget();
        actor.kubectl(&["delete", "pod/solo"]).await?;
        let heard = hears(
            &receiver,
            &["STOPPED debugged:v1 1 to 0", "STOPPED debugger:v1 1 to 0"],
        )
        .await?;
        together(&heard)?;
        Ok(())
    });
}

#[test]
fn a_busy_workload_does_not_delay_a_quiet_one() {
    play(async |cluster| {
        let settle = "{quiet: 600ms, max: 30m, rollout: 30m, scaling: 8s}";
        let (actor, receiver) = Actor::heard(cluster, "beside", settle).await?;
        actor
            .apply(deployment(&actor.name, "busy", "r.example/busy:v1", 1))
            .await?;
        hears(&receiver, &["STARTED busy:v1 0 to 1"]).await?;

        receiver.forget();
        let (mut replicas, mut rounds) = (1, 0);
        // It goes on until the quiet one has started, been told, stopped, and been told.
        while receiver.heard().len() < 2 {
            replicas = replicas % 4 + 1;
            cluster.scale(&actor.name, "busy", replicas).await?;
            actor.running("busy", replicas as usize).await?;
            rounds += 1;
            if rounds == 3 {
                actor
                    .apply(deployment(&actor.name, "quiet", "r.example/quiet:v1", 1))
                    .await?;
            }
            if receiver.heard().len() == 1 {
                cluster.scale(&actor.name, "quiet", 0).await?;
            }
            ensure!(rounds < 300, "heard {:?}", told(&receiver.heard()));
        }
        let quiet = ["STARTED quiet:v1 0 to 1", "STOPPED quiet:v1 1 to 0"];
        assert_eq!(told(&receiver.heard()), quiet);

        cluster.scale(&actor.name, "busy", 6).await?;
        let [started, stopped] = quiet;
        hears(&receiver, &[started, stopped, "SCALED busy:v1 1 to 6"]).await?;
        Ok(())
    });
}

#[test]
fn other_names_of_a_running_image_tell_nothing() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "flips", SETTLE).await?;
        let image = "r.example/flips:v1";
        let known = cluster.kubelet.digest_of(image);
        actor
            .apply(deployment(&actor.name, "web", image, 1))
            .await?;
        hears(&receiver, &["STARTED flips:v1 0 to 1"]).await?;

        let pod = &actor.running("web", 1).await?[0];
        let (index, config) = ("c1".repeat(32), "c2".repeat(32));
        for image_id in [
            format!("r.example/flips@sha256:{index}"),
            format!("sha256:{config}"),
            String::new(),
            format!("r.example/flips@sha256:{known}"),
            format!("docker-pullable://r.example/flips@sha256:{index}"),
        ] {
            cluster
                .kubelet
                .set_image_id(&actor.name, name(pod), "app", &image_id)?;
            let what = format!("imageID {image_id:?}");
            cluster
                .pods_when(&actor.name, "web", &what, |pods| {
                    let statuses = pods[0]
                        .status
                        .as_ref()
                        .and_then(|s| s.container_statuses.as_ref());
                    statuses.is_some_and(|statuses| statuses[0].image_id == image_id)
                })
                .await?;
        }
        hears(&receiver, &["STARTED flips:v1 0 to 1"]).await?;
        actor.settled(1, 1).await?;
        assert_eq!(actor.environment_status().await?.unidentified, Some(0));

        // What a node said of one container is said of no other: a new pod is what its own node reports from the start.
        cluster.kubelet.image(
            image,
            Image {
                digest: Some(index),
                ..Image::default()
            },
        );
        cluster.scale(&actor.name, "web", 2).await?;
        hears(
            &receiver,
            &["STARTED flips:v1 0 to 1", "STARTED flips:v1 0 to 1"],
        )
        .await?;
        actor.settled(2, 2).await?;
        Ok(())
    });
}

#[test]
fn an_image_without_a_digest_is_counted_apart_and_stops_nothing() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "nameless", SETTLE).await?;
        cluster.kubelet.image(
            "r.example/nameless-side:v1",
            Image {
                image_id: Some("nothing that helps".to_owned()),
                ..Image::default()
            },
        );
        let web = deployment(&actor.name, "web", "r.example/nameless-app:v1", 2)
            .container("side", "r.example/nameless-side:v1");
        actor.apply(web).await?;
        hears(&receiver, &["STARTED nameless-app:v1 0 to 2"]).await?;
        actor.settled(1, 2).await?;
        let unidentified = async |count| {
            let what = format!("{count} unidentified containers in the status");
            eventually(PATIENCE, &what, async || {
                let status = actor.environment_status().await?;
                ensure!(status.unidentified == Some(count), "{status:?}");
                Ok(())
            })
            .await
        };
        unidentified(2).await?;
        let log = actor.sound_log().await?;
        assert_eq!(log.last().map(|entry| entry.totals.unidentified), Some(2));

        // A pod of which nothing is known is seen, too.
        actor
            .apply(bare_pod(&actor.name, "solo", "r.example/nameless-side:v1"))
            .await?;
        unidentified(3).await?;
        hears(&receiver, &["STARTED nameless-app:v1 0 to 2"]).await?;

        actor
            .kubectl(&["delete", "pod/solo", "deployment/web"])
            .await?;
        hears(
            &receiver,
            &[
                "STARTED nameless-app:v1 0 to 2",
                "STOPPED nameless-app:v1 2 to 0",
            ],
        )
        .await?;
        unidentified(0).await?;
        Ok(())
    });
}

#[test]
fn a_hundred_pods_scale_and_roll_in_one_change_each() {
    play(async |cluster| {
        let settle = "{quiet: 600ms, max: 2m, rollout: 2m, scaling: 4s}";
        let (actor, receiver) = Actor::heard(cluster, "hundred", settle).await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/hundred:v1", 1))
            .await?;
        hears(&receiver, &["STARTED hundred:v1 0 to 1"]).await?;

        receiver.forget();
        cluster.scale(&actor.name, "web", 100).await?;
        hears(&receiver, &["SCALED hundred:v1 1 to 100"]).await?;
        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/hundred:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED hundred:v2 0 to 100", "STOPPED hundred:v1 100 to 0"],
        )
        .await?;
        together(&heard)?;
        receiver.forget();
        cluster.scale(&actor.name, "web", 2).await?;
        hears(&receiver, &["SCALED hundred:v2 100 to 2"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn with_settle_times_of_zero_everything_is_told_at_once() {
    play(async |cluster| {
        let settle = "{quiet: 0s, max: 0s, rollout: 0s, scaling: 0s}";
        let (actor, receiver) = Actor::heard(cluster, "at-once", settle).await?;
        cluster.kubelet.image(
            "r.example/at-once:v2",
            Image {
                ready: false,
                ..Image::default()
            },
        );
        actor
            .apply(deployment(&actor.name, "web", "r.example/at-once:v1", 1).rolling(1, 0))
            .await?;
        hears(&receiver, &["STARTED at-once:v1 0 to 1"]).await?;
        cluster.scale(&actor.name, "web", 2).await?;
        hears(
            &receiver,
            &["STARTED at-once:v1 0 to 1", "SCALED at-once:v1 1 to 2"],
        )
        .await?;

        // A rollout that never ends is told as it goes.
        receiver.forget();
        cluster
            .set_image(&actor.name, "web", "r.example/at-once:v2")
            .await?;
        hears(&receiver, &["STARTED at-once:v2 0 to 1"]).await?;
        actor.kubectl(&["delete", "deployment/web"]).await?;
        receiver.wait_for_count(PATIENCE, 3).await?;
        actor.settled(0, 0).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_pod_with_names_that_no_schema_allows_stops_no_log() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "names", SETTLE).await?;
        let uid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let owned = |name: &str, image: &str, kind: &str, owner: &str| {
            let owner = json!([{"apiVersion": "example.com/v1", "kind": kind, "name": owner, "uid": uid, "controller": true}]);
            bare_pod(&actor.name, name, image).set("/metadata/ownerReferences", owner)
        };
        let long = |text: &str, times: usize| text.repeat(times);
        actor
            .apply(owned(
                "name",
                "r.example/names:v1",
                "Widget",
                &long("n", 300),
            ))
            .await?;
        hears(&receiver, &["STARTED names:v1 0 to 1"]).await?;
        receiver.forget();
        actor
            .apply(owned("kind", "r.example/names:v2", &long("K", 400), "one"))
            .await?;
        hears(&receiver, &["STARTED names:v2 0 to 1"]).await?;
        receiver.forget();
        let port = format!("r.example:{}/names:v3", long("0", 1_500));
        actor.apply(bare_pod(&actor.name, "port", &port)).await?;
        receiver.wait_for_count(PATIENCE, 1).await?;

        let log = actor.sound_log().await?;
        let changes: Vec<_> = log.iter().flat_map(|entry| &entry.changes).collect();
        let [name, kind, port] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert!(name.workloads[0].name.starts_with(&long("n", 200)));
        assert!(kind.workloads[0].kind.starts_with(&long("K", 200)));
        assert!(port.name.starts_with("r.example:0000"));
        Ok(())
    });
}

#[test]
fn a_snapshot_that_is_refused_for_its_content_is_recorded_without_texts() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "refused", SETTLE).await?;
        let name = &actor.name;
        // An admin's policy refuses what one of the tenants called an image.
        let yaml = format!(
            "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints:
    resourceRules:
      - {{apiGroups: [shipbell.dev], apiVersions: ['*'], operations: [CREATE], resources: [environmentsnapshots]}}
  matchConditions:
    - {{name: here, expression: object.spec.environment == '{name}'}}
  validations:
    - {{expression: '!has(object.spec.changes) || object.spec.changes.all(change, !change.name.contains(\"bad-word\"))'}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec: {{policyName: {name}, validationActions: [Deny]}}
"
        );
        apply(&cluster.client(), yaml.as_str()).await?;
        let api: Api<EnvironmentSnapshot> = Api::all(cluster.client());
        let probe = json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "EnvironmentSnapshot", "metadata": {"name": format!("{name}-probe")}, "spec": probe(name)});
        let probe: EnvironmentSnapshot = serde_json::from_value(probe)?;
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually(PATIENCE, "the policy to be in force", async || {
            let refused = api.create(&dry, &probe).await.is_err();
            ensure!(refused, "it is not");
            Ok(())
        })
        .await?;

        actor
            .apply(deployment(name, "web", "r.example/bad-word:v1", 2))
            .await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        actor.settled(1, 2).await?;
        let log = actor.sound_log().await?;
        let change = &log.last().unwrap().changes[0];
        assert_eq!(change.name, change.fingerprint);
        assert_eq!((change.was, change.now), (0, 2));
        assert_eq!((change.workloads.len(), change.more_workloads), (0, 1));

        // The log goes on from there, with what it may say.
        receiver.forget();
        actor
            .apply(deployment(name, "api", "r.example/refused:v1", 1))
            .await?;
        hears(&receiver, &["STARTED refused:v1 0 to 1"]).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

/// A snapshot of an environment, with an image that has the word.
fn probe(environment: &str) -> serde_json::Value {
    json!({
        "environment": environment, "environmentUID": "none", "index": 1, "time": "2026-01-01T00:00:00Z",
        "causes": ["Baseline"], "censusVersion": 1, "contentHash": "", "readAt": {"pods": "", "deployments": "", "namespaces": ""},
        "totals": {"artifacts": 0, "instances": 0, "unidentified": 0}, "compliance": {"state": "Unknown", "was": "Unknown"},
        "changes": [{"fingerprint": "", "name": "bad-word", "was": 0, "now": 0, "workloads": []}],
    })
}

#[test]
fn pods_that_run_to_completion_are_left_out_unless_the_environment_wants_them() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "steps", SETTLE).await?;
        let name = &actor.name;
        let all = format!("{name}-all");
        let fields = format!("namespaces: {{include: [{name}]}}\nexclude: []\nsettle: {SETTLE}");
        actor.further_environment(&all, &fields).await?;
        let listener = Receiver::start();
        let fields = format!("environments: [{all}]\n{ALL}");
        actor.webhook("steps-too", &listener, &fields).await?;
        cluster.kubelet.image(
            "r.example/steps:v1",
            Image {
                exits_after: Some(Duration::from_secs(4)),
                ..Image::default()
            },
        );
        let step =
            bare_pod(name, "step", "r.example/steps:v1").set("/spec/restartPolicy", "Never".into());
        actor.apply(step).await?;
        hears(
            &listener,
            &["STARTED steps:v1 0 to 1", "STOPPED steps:v1 1 to 0"],
        )
        .await?;
        // A virtual machine's pod is not started again either: its controller replaces it.
        let owner = json!([{"apiVersion": "example.com/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "controller": true}]);
        let machine = bare_pod(name, "vm", "r.example/machine:v1")
            .set("/spec/restartPolicy", "Never".into())
            .set("/metadata/ownerReferences", owner);
        actor.apply(machine).await?;
        hears(&receiver, &["STARTED machine:v1 0 to 1"]).await?;
        Ok(())
    });
}
