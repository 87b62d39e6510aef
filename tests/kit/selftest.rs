//! The kit's own tests: one per promise the stories rely on.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, StatefulSet},
    batch::v1::Job,
    core::v1::{ContainerStatus, Pod},
};
use kit::{
    Answer, Cluster, FakeKubelet, Image, Operator, OperatorOptions, PlaneOptions, Receiver, apply,
    bare_pod,
    cluster::{PATIENCE, runtime},
    daemon_set, deployment, eventually, job, stateful_set, stays, story,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The containers' statuses of a pod: init, main, ephemeral.
fn statuses(pod: &Pod) -> Vec<ContainerStatus> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .cloned()
    .collect()
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

fn runs(status: &ContainerStatus) -> bool {
    status
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some())
}

fn waits_for(status: &ContainerStatus) -> &str {
    let state = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    state
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or("")
}

fn image_ids(pods: &[Pod]) -> Vec<String> {
    pods.iter()
        .flat_map(statuses)
        .map(|status| status.image_id)
        .collect()
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[test]
fn a_deployment_becomes_available_rolls_out_and_scales_to_nothing() {
    story(async |cluster| {
        let ns = cluster.namespace("rollout").await?;
        let (v1, v2) = ("registry.example/rollout:v1", "registry.example/rollout:v2");
        let started = Instant::now();
        apply(&cluster.client(), deployment(&ns, "web", v1, 3)).await?;
        cluster.rolled_out(&ns, "web").await?;
        println!("3 of 3 available in {:?}", started.elapsed());
        let digest = cluster.kubelet.digest_of(v1);
        let pods = cluster.pods(&ns, "web").await?;
        assert_eq!(
            image_ids(&pods),
            vec![format!("registry.example/rollout@sha256:{digest}"); 3]
        );

        let started = Instant::now();
        cluster.set_image(&ns, "web", v2).await?;
        cluster.rolled_out(&ns, "web").await?;
        println!("rolled out in {:?}", started.elapsed());
        let digest = cluster.kubelet.digest_of(v2);
        cluster
            .pods_when(&ns, "web", "three pods of v2 alone", |pods| {
                pods.len() == 3 && image_ids(pods).iter().all(|id| id.ends_with(&digest))
            })
            .await?;

        let started = Instant::now();
        cluster.scale(&ns, "web", 0).await?;
        cluster
            .pods_when(&ns, "web", "no pods", <[Pod]>::is_empty)
            .await?;
        println!("scaled to nothing in {:?}", started.elapsed());
        Ok(())
    });
}

#[test]
fn a_moved_tag_has_another_digest_in_new_pods_alone() {
    story(async |cluster| {
        let ns = cluster.namespace("moved").await?;
        let image = "registry.example/moved:latest";
        apply(&cluster.client(), deployment(&ns, "web", image, 1)).await?;
        cluster.rolled_out(&ns, "web").await?;
        let before = cluster.kubelet.digest_of(image);
        cluster.kubelet.image(
            image,
            Image {
                digest: Some("ab".repeat(32)),
                ..Image::default()
            },
        );
        cluster.scale(&ns, "web", 2).await?;
        cluster.rolled_out(&ns, "web").await?;
        let mut ids = image_ids(&cluster.pods(&ns, "web").await?);
        ids.sort();
        let mut expected = [before, "ab".repeat(32)]
            .map(|digest| format!("registry.example/moved@sha256:{digest}"));
        expected.sort();
        assert_eq!(ids, expected);
        Ok(())
    });
}

#[test]
fn a_deleted_pod_keeps_running_for_as_long_as_its_image_says() {
    story(async |cluster| {
        let ns = cluster.namespace("slow-stop").await?;
        let image = "registry.example/slow-stop:v1";
        let slow = Duration::from_secs(2);
        cluster.kubelet.image(
            image,
            Image {
                stops_after: slow,
                ..Image::default()
            },
        );
        apply(&cluster.client(), deployment(&ns, "web", image, 2)).await?;
        cluster.rolled_out(&ns, "web").await?;
        cluster.scale(&ns, "web", 0).await?;
        cluster
            .pods_when(&ns, "web", "two pods on their way out", |pods| {
                pods.len() == 2
                    && pods
                        .iter()
                        .all(|pod| pod.metadata.deletion_timestamp.is_some())
            })
            .await?;
        let since = Instant::now();
        stays(slow / 2, "both still run", async || {
            let pods = cluster.pods(&ns, "web").await?;
            ensure!(
                pods.len() == 2 && pods.iter().flat_map(statuses).all(|status| runs(&status)),
                "{pods:?}"
            );
            Ok(())
        })
        .await?;
        cluster
            .pods_when(&ns, "web", "no pods", <[Pod]>::is_empty)
            .await?;
        assert!(since.elapsed() > slow / 2);
        Ok(())
    });
}

#[test]
fn an_image_that_cannot_be_pulled_has_no_image_id_until_it_can() {
    story(async |cluster| {
        let ns = cluster.namespace("pull").await?;
        let image = "registry.example/pull:v1";
        cluster.kubelet.image(
            image,
            Image {
                pull_fails: true,
                ..Image::default()
            },
        );
        apply(
            &cluster.client(),
            deployment(&ns, "web", image, 1).container("second", "registry.example/fine:v1"),
        )
        .await?;
        let pods = cluster
            .pods_when(&ns, "web", "ImagePullBackOff", |pods| {
                pods.iter()
                    .flat_map(statuses)
                    .any(|status| waits_for(&status) == "ImagePullBackOff")
            })
            .await?;
        let statuses = statuses(&pods[0]);
        assert_eq!(
            (statuses[0].image_id.as_str(), runs(&statuses[1])),
            ("", true)
        );
        assert_eq!(phase(&pods[0]), "Pending");
        cluster.kubelet.image(image, Image::default());
        cluster.rolled_out(&ns, "web").await
    });
}

#[test]
fn a_crash_loop_restarts_with_new_container_ids_and_keeps_the_image_id() {
    story(async |cluster| {
        let ns = cluster.namespace("crash").await?;
        let image = "registry.example/crash:v1";
        cluster.kubelet.image(
            image,
            Image {
                crash_loop: true,
                ..Image::default()
            },
        );
        apply(&cluster.client(), deployment(&ns, "web", image, 1)).await?;
        let crashed = |times: i32| {
            move |pods: &[Pod]| {
                pods.iter().flat_map(statuses).any(|status| {
                    status.restart_count >= times && waits_for(&status) == "CrashLoopBackOff"
                })
            }
        };
        let first =
            statuses(&cluster.pods_when(&ns, "web", "a crash", crashed(0)).await?[0]).remove(0);
        let later = statuses(
            &cluster
                .pods_when(&ns, "web", "two restarts", crashed(2))
                .await?[0],
        )
        .remove(0);
        assert_ne!(first.container_id, later.container_id);
        assert_eq!(first.image_id, later.image_id);
        let last = later.last_state.and_then(|state| state.terminated).unwrap();
        assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
        assert_eq!(last.container_id, later.container_id);
        Ok(())
    });
}

#[test]
fn a_slow_start_and_a_pod_that_never_gets_ready_hold_up_a_rollout() {
    story(async |cluster| {
        let ns = cluster.namespace("stuck").await?;
        let (v1, v2) = ("registry.example/stuck:v1", "registry.example/stuck:v2");
        cluster.kubelet.image(
            v1,
            Image {
                starts_after: Duration::from_millis(700),
                ..Image::default()
            },
        );
        cluster.kubelet.image(
            v2,
            Image {
                ready: false,
                ..Image::default()
            },
        );
        apply(
            &cluster.client(),
            deployment(&ns, "web", v1, 2).rolling(1, 0),
        )
        .await?;
        cluster
            .pods_when(&ns, "web", "ContainerCreating", |pods| {
                pods.iter()
                    .flat_map(statuses)
                    .any(|status| waits_for(&status) == "ContainerCreating")
            })
            .await?;
        cluster.rolled_out(&ns, "web").await?;
        cluster.set_image(&ns, "web", v2).await?;
        cluster
            .pods_when(&ns, "web", "a third pod that runs unready", |pods| {
                let statuses: Vec<_> = pods.iter().flat_map(statuses).collect();
                statuses.iter().filter(|status| runs(status)).count() == 3
                    && statuses.iter().filter(|status| status.ready).count() == 2
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_daemon_set_and_a_stateful_set_run() {
    story(async |cluster| {
        let ns = cluster.namespace("sets").await?;
        let client = cluster.client();
        apply(
            &client,
            daemon_set(&ns, "agent", "registry.example/agent:v1"),
        )
        .await?;
        apply(
            &client,
            stateful_set(&ns, "db", "registry.example/db:v1", 2),
        )
        .await?;
        let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), &ns);
        eventually(PATIENCE, "the DaemonSet to run", async || {
            let status = daemons.get("agent").await?.status.context("no status")?;
            ensure!(status.desired_number_scheduled > 0, "{status:?}");
            ensure!(
                status.number_available == Some(status.desired_number_scheduled),
                "{status:?}"
            );
            Ok(())
        })
        .await?;
        let sets: Api<StatefulSet> = Api::namespaced(client, &ns);
        eventually(PATIENCE, "the StatefulSet to run", async || {
            let status = sets.get("db").await?.status.context("no status")?;
            ensure!(status.available_replicas == Some(2), "{status:?}");
            Ok(())
        })
        .await?;
        // Its pods come again under their names.
        let before = cluster.pods(&ns, "db").await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client(), &ns);
        pods.delete("db-0", &DeleteParams::default()).await?;
        cluster
            .pods_when(&ns, "db", "a new db-0 that runs", |pods| {
                pods.iter().any(|pod| {
                    name(pod) == "db-0"
                        && pod.metadata.uid != before[0].metadata.uid
                        && phase(pod) == "Running"
                })
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_job_succeeds_and_another_fails() {
    story(async |cluster| {
        let ns = cluster.namespace("jobs").await?;
        let client = cluster.client();
        let (good, bad) = ("registry.example/job:good", "registry.example/job:bad");
        let exits_after = Some(Duration::from_millis(200));
        cluster.kubelet.image(
            good,
            Image {
                exits_after,
                ..Image::default()
            },
        );
        cluster.kubelet.image(
            bad,
            Image {
                exits_after,
                exit_code: 3,
                ..Image::default()
            },
        );
        apply(&client, job(&ns, "good", good)).await?;
        apply(&client, job(&ns, "bad", bad)).await?;
        let jobs: Api<Job> = Api::namespaced(client, &ns);
        eventually(PATIENCE, "one Job to succeed and one to fail", async || {
            let succeeded = jobs
                .get("good")
                .await?
                .status
                .and_then(|status| status.succeeded);
            let failed = jobs
                .get("bad")
                .await?
                .status
                .and_then(|status| status.failed);
            ensure!(
                (succeeded, failed) == (Some(1), Some(1)),
                "{succeeded:?} {failed:?}"
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn sidecars_stay_init_containers_end_and_ephemeral_ones_appear() {
    story(async |cluster| {
        let ns = cluster.namespace("roles").await?;
        let pod = bare_pod(&ns, "one", "registry.example/main:v1")
            .init("setup", "registry.example/setup:v1")
            .sidecar("proxy", "registry.example/proxy:v1");
        apply(&cluster.client(), pod).await?;
        let one = |pods: &[Pod]| pods.first().is_some_and(|pod| phase(pod) == "Running");
        let pods = cluster.pods_when(&ns, "one", "a running pod", one).await?;
        let all = statuses(&pods[0]);
        let [setup, proxy, main] = &all[..] else {
            panic!("{all:?}")
        };
        let ended = setup
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .unwrap();
        assert_eq!(
            (ended.exit_code, ended.reason.as_deref()),
            (0, Some("Completed"))
        );
        assert!(runs(proxy) && runs(main));

        let api: Api<Pod> = Api::namespaced(cluster.client(), &ns);
        let debug = json!({"name": "debug", "image": "registry.example/debug:v1"});
        let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debug]}}));
        api.patch_ephemeral_containers("one", &PatchParams::default(), &patch)
            .await?;
        cluster
            .pods_when(&ns, "one", "a running ephemeral container", |pods| {
                pods.iter()
                    .flat_map(statuses)
                    .any(|status| status.name == "debug" && runs(&status))
            })
            .await?;
        api.delete("one", &DeleteParams::default()).await?;
        cluster
            .pods_when(&ns, "one", "no pod", <[Pod]>::is_empty)
            .await?;
        Ok(())
    });
}

#[test]
fn an_edited_image_runs_once_the_container_is_restarted() {
    story(async |cluster| {
        let ns = cluster.namespace("edit").await?;
        let (v1, v2) = ("registry.example/edit:v1", "registry.example/edit:v2");
        apply(&cluster.client(), bare_pod(&ns, "one", v1)).await?;
        let running = |image: &'static str| {
            move |pods: &[Pod]| {
                pods.iter()
                    .flat_map(statuses)
                    .any(|status| runs(&status) && status.image == image)
            }
        };
        let before =
            statuses(&cluster.pods_when(&ns, "one", "v1", running(v1)).await?[0]).remove(0);
        let pods: Api<Pod> = Api::namespaced(cluster.client(), &ns);
        let patch =
            Patch::Strategic(json!({"spec": {"containers": [{"name": "app", "image": v2}]}}));
        pods.patch("one", &PatchParams::default(), &patch).await?;

        cluster
            .kubelet
            .set_image_id(&ns, "one", "app", "mirror.example/edit@sha256:00")?;
        let flipped = cluster
            .pods_when(&ns, "one", "another imageID", |pods| {
                image_ids(pods) == ["mirror.example/edit@sha256:00"]
            })
            .await?;
        assert_eq!(statuses(&flipped[0])[0].container_id, before.container_id);

        // The node may not have seen the edit yet.
        eventually(PATIENCE, "v2", async || {
            cluster.kubelet.restart_container(&ns, "one", "app")?;
            let pods = cluster.pods(&ns, "one").await?;
            ensure!(running(v2)(&pods), "{:?}", image_ids(&pods));
            Ok(())
        })
        .await?;
        let after = statuses(&cluster.pods(&ns, "one").await?[0]).remove(0);
        assert_ne!(before.container_id, after.container_id);
        assert!(after.restart_count > 0 && after.last_state.is_some());
        Ok(())
    });
}

#[test]
fn every_shape_of_image_id_can_be_given() {
    story(async |cluster| {
        let ns = cluster.namespace("shapes").await?;
        for (index, image_id) in ["", "sha256:aa", "bb", "docker://sha256:cc", "!?"]
            .into_iter()
            .enumerate()
        {
            let image = format!("registry.example/shape:{index}");
            let image_id = image_id.to_owned();
            cluster.kubelet.image(
                &image,
                Image {
                    image_id: Some(image_id.clone()),
                    ..Image::default()
                },
            );
            let app = format!("shape-{index}");
            apply(&cluster.client(), bare_pod(&ns, &app, &image)).await?;
            cluster
                .pods_when(&ns, &app, "the imageID", |pods| {
                    pods.iter()
                        .flat_map(statuses)
                        .any(|status| runs(&status) && status.image_id == image_id)
                })
                .await?;
        }
        Ok(())
    });
}

#[test]
fn a_hundred_pods_come_and_go() {
    story(async |cluster| {
        let ns = cluster.namespace("hundred").await?;
        let started = Instant::now();
        apply(
            &cluster.client(),
            deployment(&ns, "web", "registry.example/hundred:v1", 100),
        )
        .await?;
        cluster.rolled_out(&ns, "web").await?;
        println!("100 of 100 available in {:?}", started.elapsed());
        let started = Instant::now();
        cluster.scale(&ns, "web", 0).await?;
        cluster
            .pods_when(&ns, "web", "no pods", <[Pod]>::is_empty)
            .await?;
        println!("100 scaled to nothing in {:?}", started.elapsed());
        Ok(())
    });
}

#[test]
fn custom_resources_can_be_applied_as_soon_as_they_are_defined() {
    story(async |cluster| {
        let ns = cluster.namespace("custom").await?;
        let yaml = format!(
            r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: bells.kit.example}}
spec:
  group: kit.example
  scope: Namespaced
  names: {{kind: Bell, plural: bells, singular: bell}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---
# Nothing but a comment.
---
apiVersion: kit.example/v1
kind: Bell
metadata: {{name: big, namespace: {ns}}}
spec: {{tons: 13}}
"
        );
        let applied = apply(&cluster.client(), yaml.as_str()).await?;
        assert_eq!(applied[1].data["spec"]["tons"], 13);
        let printed = cluster
            .plane
            .kubectl(&["get", "bells", "-A", "-o", "name"])
            .await?;
        assert!(printed.contains("big"), "{printed}");
        let complaint = cluster.plane.kubectl_fails(&["get", "gongs"], "").await?;
        assert!(complaint.contains("gongs"), "{complaint}");
        Ok(())
    });
}

#[test]
fn a_service_account_has_its_rights_and_no_more() {
    story(async |cluster| {
        let ns = cluster.namespace("account").await?;
        let token = cluster.plane.service_account_token(&ns, "default").await?;
        let pods: Api<Pod> = Api::namespaced(cluster.plane.client_for_token(&token)?, &ns);
        match pods.get("any").await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => {}
            other => panic!("{other:?}"),
        }
        let kubeconfig = cluster
            .plane
            .service_account_kubeconfig(&ns, "default")
            .await?;
        assert!(kubeconfig.is_file());
        Ok(())
    });
}

#[test]
fn an_api_server_that_was_killed_comes_back_with_its_data_and_the_node_goes_on() {
    runtime()
        .block_on(async {
            let started = Instant::now();
            let cluster = Cluster::start(PlaneOptions {
                audit: true,
                ..PlaneOptions::default()
            })
            .await?;
            println!("plane and node started in {:?}", started.elapsed());
            let ns = cluster.namespace("outage").await?;
            apply(
                &cluster.client(),
                deployment(&ns, "web", "registry.example/outage:v1", 1),
            )
            .await?;
            cluster.rolled_out(&ns, "web").await?;
            let token = cluster.plane.service_account_token(&ns, "default").await?;
            cluster.plane.kill_apiserver();
            assert!(cluster.pods(&ns, "web").await.is_err());
            let started = Instant::now();
            cluster.plane.start_apiserver().await?;
            println!("API server back in {:?}", started.elapsed());
            assert_eq!(cluster.pods(&ns, "web").await?.len(), 1);
            let client = cluster.plane.client_for_token(&token)?;
            let answer = Api::<Pod>::namespaced(client, &ns).get("any").await;
            assert!(matches!(answer, Err(kube::Error::Api(status)) if status.is_forbidden()));
            cluster.scale(&ns, "web", 2).await?;
            cluster.rolled_out(&ns, "web").await?;
            let registry = cluster.kubelet.registry().clone();
            let second = FakeKubelet::start_with(cluster.client(), "node-2", registry).await?;
            apply(
                &cluster.client(),
                daemon_set(&ns, "agent", "registry.example/agent:v1"),
            )
            .await?;
            cluster
                .pods_when(&ns, "agent", "a pod on each of two nodes", |pods| {
                    pods.len() == 2 && pods.iter().flat_map(statuses).filter(runs).count() == 2
                })
                .await?;
            drop(second);
            cluster.plane.compact_etcd().await?;
            let audit = std::fs::read_to_string(cluster.plane.audit_log())?;
            assert!(
                audit
                    .lines()
                    .any(|line| line.contains("system:kube-scheduler"))
            );
            let started = Instant::now();
            let directory = cluster.plane.directory().to_owned();
            drop(cluster);
            println!("stopped in {:?}", started.elapsed());
            assert!(!directory.exists());
            Ok::<_, anyhow::Error>(())
        })
        .unwrap();
}

/// A stand-in for the operator: a shell that says something and obeys SIGTERM.
fn stand_in(script: &str, log: &str) -> OperatorOptions {
    OperatorOptions {
        binary: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("WORD".into(), "ding".into())],
        log: std::env::temp_dir().join(format!(
            "shipbell-kit-selftest-{log}-{}.log",
            std::process::id()
        )),
        ..OperatorOptions::default()
    }
}

#[tokio::test]
async fn an_operator_is_read_paused_resumed_and_terminated() {
    // `$0` is the argument the kit adds.
    let options = stand_in(
        "trap 'exit 3' TERM; while :; do echo $WORD $0; sleep 0.02; done",
        "signals",
    );
    let mut operator = Operator::spawn(&options).unwrap();
    let said = format!("ding --listen={}", operator.address());
    eventually(PATIENCE, "its log", async || {
        operator.log_text().contains(&said)
    })
    .await
    .unwrap();
    operator.pause().unwrap();
    let paused = operator.log_text();
    stays(Duration::from_millis(300), "the log", async || {
        operator.log_text() == paused
    })
    .await
    .unwrap();
    operator.resume().unwrap();
    eventually(PATIENCE, "more log", async || operator.log_text() != paused)
        .await
        .unwrap();
    let status = operator.terminate(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(3));
    std::fs::remove_file(options.log).unwrap();
}

#[tokio::test]
async fn waiting_for_an_operator_that_ended_fails_at_once_and_shows_its_log() {
    let options = stand_in("echo no configuration; exit 2", "ended");
    let mut operator = Operator::spawn(&options).unwrap();
    let started = Instant::now();
    let error = format!("{:#}", operator.wait_ready(PATIENCE).await.unwrap_err());
    assert!(started.elapsed() < PATIENCE / 2);
    assert!(error.contains("no configuration"), "{error}");
    std::fs::remove_file(options.log).unwrap();
}

/// One request as any client would send it, on loopback.
async fn post(url: &str, body: &str) -> Result<(u16, String)> {
    let address = url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let path = &url["http://".len() + address.len()..];
    let mut connection = tokio::net::TcpStream::connect(&address).await?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).context("no answer")?.parse()?;
    Ok((status, answer))
}

#[tokio::test]
async fn a_receiver_records_and_answers_by_its_script() {
    let receiver = Receiver::start();
    receiver.answer_next(Answer::from(429).header("Retry-After", "7"));
    receiver.answer_next(503);
    let url = receiver.url("/hook?a=b");
    let (status, answer) = post(&url, r#"{"n":1}"#).await.unwrap();
    assert!(
        status == 429 && answer.to_lowercase().contains("retry-after: 7"),
        "{answer}"
    );
    assert_eq!(post(&url, "2").await.unwrap().0, 503);
    let (status, answer) = post(&url, "3").await.unwrap();
    assert!(status == 200 && answer.ends_with("ok"), "{answer}");
    receiver.answer_with(|heard| Answer::from(if heard.text() == "4" { 410 } else { 500 }));
    assert_eq!(post(&url, "4").await.unwrap().0, 410);
    receiver.set_standing(204);
    assert_eq!(post(&url, "5").await.unwrap().0, 204);
    let heard = receiver.wait_for_count(PATIENCE, 5).await.unwrap();
    assert_eq!(
        (heard[0].method.as_str(), heard[0].path.as_str()),
        ("POST", "/hook?a=b")
    );
    assert_eq!(heard[0].json()["n"], 1);
    assert_eq!(heard[0].header("content-length"), Some("7"));
    let missing = receiver
        .wait_for_count(Duration::from_millis(50), 6)
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("heard 5"), "{missing}");
}

#[tokio::test]
async fn a_receiver_that_hangs_has_heard_and_one_that_is_down_refuses() {
    let receiver = Receiver::start();
    receiver.answer_next(Answer::hang());
    let url = receiver.url("/");
    let asking = tokio::spawn({
        let url = url.clone();
        async move { post(&url, "hello").await }
    });
    receiver.wait_for_count(PATIENCE, 1).await.unwrap();
    assert!(!asking.is_finished());
    receiver.stop();
    assert!(asking.await.unwrap().is_err(), "the connection was cut");
    assert!(post(&url, "refused").await.is_err());
    receiver.restart().unwrap();
    assert_eq!(post(&url, "again").await.unwrap().0, 200);
    assert_eq!(receiver.heard().len(), 2);
}

#[tokio::test]
async fn a_tls_receiver_has_a_certificate_of_its_authority() {
    use rustls::{
        RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    };
    let receiver = Receiver::start_tls();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(receiver.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = receiver.url("/");
    let address = url.trim_start_matches("https://").trim_end_matches('/');
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap();
    stream
        .write_all(b"GET /tls HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.0 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(receiver.heard()[0].path, "/tls");
}
