//! What becomes of environments: their scope, their log, their status.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Cluster, Heard, Image, Receiver, apply, bare_pod,
    cluster::PATIENCE,
    deployment, eventually, hears, play,
    stage::{ALL, Cast, SETTLE, alone, log, operator, sound, together},
    stays,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use shipbell::api::{Environment, EnvironmentSnapshot, NotificationSettingStatus, snapshot::Cause};
use std::{collections::BTreeMap, time::Duration};

/// How many bytes all logs together may take.
const TOTAL_CAP: u64 = 256 << 20;
/// How many bytes an object can take.
const BIGGEST: u64 = 3 << 19;

#[test]
fn what_already_runs_is_known_and_not_told() {
    play(async |cluster| {
        let name = cluster.namespace("before").await?;
        let actor = Actor { cluster, name };
        actor
            .apply(deployment(&actor.name, "web", "r.example/before:v1", 2))
            .await?;
        cluster.rolled_out(&actor.name, "web").await?;
        actor.environment(&format!("settle: {SETTLE}")).await?;
        actor.recorded(1).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        hears(&receiver, &[]).await?;

        cluster.scale(&actor.name, "web", 0).await?;
        hears(&receiver, &["STOPPED before:v1 2 to 0"]).await?;
        let log = actor.sound_log().await?;
        assert_eq!(log[0].causes, [Cause::Baseline]);
        assert!(log[0].changes.is_empty() && log[0].events.is_empty());
        assert_eq!((log[0].totals.artifacts, log[0].totals.instances), (1, 2));
        Ok(())
    });
}

#[test]
fn an_environment_made_in_the_midst_of_a_rollout_tells_only_how_it_ends() {
    play(async |cluster| {
        let name = cluster.namespace("midst").await?;
        let actor = Actor { cluster, name };
        let v2 = "r.example/midst:v2";
        let web = deployment(&actor.name, "web", "r.example/midst:v1", 3).rolling(1, 0);
        actor.apply(web).await?;
        cluster.rolled_out(&actor.name, "web").await?;
        let fails = Image {
            pull_fails: true,
            ..Image::default()
        };
        cluster.kubelet.image(v2, fails);
        cluster.set_image(&actor.name, "web", v2).await?;
        let what = "a pod of the new image";
        cluster
            .pods_when(&actor.name, "web", what, |pods| pods.len() == 4)
            .await?;
        actor
            .kubectl(&["rollout", "pause", "deployment/web"])
            .await?;
        cluster.kubelet.image(v2, Image::default());
        actor.running("web", 4).await?;
        actor.environment(&format!("settle: {SETTLE}")).await?;
        let known = actor.recorded(1).await?[0].totals;
        assert_eq!((known.artifacts, known.instances), (2, 4));
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        actor
            .kubectl(&["rollout", "resume", "deployment/web"])
            .await?;
        hears(&receiver, &["STOPPED midst:v1 3 to 0"]).await?;
        actor.settled(1, 3).await?;
        actor.sound_log().await?;
        Ok(())
    });
}

#[test]
fn a_namespace_that_goes_away_is_one_stop() {
    play(async |cluster| {
        let victim = cluster.namespace("victim").await?;
        let (actor, _) = Actor::heard(cluster, "witness", SETTLE).await?;
        let over = format!("{}-over", actor.name);
        let fields = format!("namespaces: {{include: [{victim}]}}\nsettle: {SETTLE}");
        actor.further_environment(&over, &fields).await?;
        let receiver = Receiver::start();
        let fields = format!("environments: [{over}]\n{ALL}");
        actor.webhook("over", &receiver, &fields).await?;
        cluster.kubelet.image(
            "r.example/victim:v1",
            Image {
                stops_after: Duration::from_secs(3),
                ..Image::default()
            },
        );
        apply(
            &cluster.client(),
            deployment(&victim, "web", "r.example/victim:v1", 3),
        )
        .await?;
        hears(&receiver, &["STARTED victim:v1 0 to 3"]).await?;

        receiver.forget();
        cluster
            .plane
            .kubectl(&["delete", "namespace", &victim, "--wait=false"])
            .await?;
        hears(&receiver, &["STOPPED victim:v1 3 to 0"]).await?;
        sound(&kit::stage::log(cluster, &over).await?)?;
        Ok(())
    });
}

#[test]
fn a_namespace_that_is_relabelled_comes_and_goes_with_all_that_runs_in_it() {
    play(async |cluster| {
        let fields =
            format!("namespaceSelector: {{matchLabels: {{tier: gold}}}}\nsettle: {SETTLE}");
        let actor = Actor::cast(cluster, "labelled", &fields).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        let name = actor.name.as_str();
        for app in ["one", "two"] {
            let image = format!("r.example/labelled-{app}:v1");
            actor.apply(deployment(name, app, &image, 2)).await?;
            cluster.rolled_out(name, app).await?;
        }
        hears(&receiver, &[]).await?;

        actor
            .kubectl(&["label", "namespace", name, "tier=gold"])
            .await?;
        let heard = hears(
            &receiver,
            &[
                "STARTED labelled-one:v1 0 to 2",
                "STARTED labelled-two:v1 0 to 2",
            ],
        )
        .await?;
        together(&heard)?;

        receiver.forget();
        actor
            .kubectl(&["label", "namespace", name, "tier=lead", "--overwrite"])
            .await?;
        let heard = hears(
            &receiver,
            &[
                "STOPPED labelled-one:v1 2 to 0",
                "STOPPED labelled-two:v1 2 to 0",
            ],
        )
        .await?;
        together(&heard)?;
        let log = actor.sound_log().await?;
        let causes: Vec<_> = log.iter().flat_map(|entry| &entry.causes).collect();
        let changed = &Cause::WorkloadsChanged;
        assert_eq!(causes, [&Cause::Baseline, changed, changed]);
        Ok(())
    });
}

#[test]
fn a_pod_that_is_relabelled_comes_and_goes() {
    play(async |cluster| {
        let fields = format!("podSelector: {{matchLabels: {{watched: 'yes'}}}}\nsettle: {SETTLE}");
        let actor = Actor::cast(cluster, "badge", &fields).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        actor
            .apply(bare_pod(&actor.name, "solo", "r.example/badge:v1"))
            .await?;
        actor.running("solo", 1).await?;
        actor.kubectl(&["label", "pod/solo", "watched=yes"]).await?;
        hears(&receiver, &["STARTED badge:v1 0 to 1"]).await?;
        actor.kubectl(&["label", "pod/solo", "watched-"]).await?;
        hears(
            &receiver,
            &["STARTED badge:v1 0 to 1", "STOPPED badge:v1 1 to 0"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn an_edited_scope_tells_what_changed_before_and_nothing_of_what_it_brings() {
    play(async |cluster| {
        // Nothing settles by itself for as long as the story lasts.
        let settle = "settle: {quiet: 5m, max: 5m, rollout: 5m, scaling: 5m}";
        let old = format!("podSelector: {{matchLabels: {{app: old}}}}\n{settle}");
        let actor = Actor::cast(cluster, "scope", &old).await?;
        let receiver = Receiver::start();
        actor.webhook("all", &receiver, ALL).await?;
        let name = actor.name.as_str();
        actor
            .apply(bare_pod(name, "new", "r.example/scope-new:v1"))
            .await?;
        actor.running("new", 1).await?;
        // The container without a digest shows in the status that the pod has been seen.
        cluster.kubelet.image(
            "r.example/scope-side:v1",
            Image {
                image_id: Some(String::new()),
                ..Image::default()
            },
        );
        let pod = bare_pod(name, "old", "r.example/scope-old:v1")
            .container("side", "r.example/scope-side:v1");
        actor.apply(pod).await?;
        eventually(PATIENCE, "the pod to be seen", async || {
            let status = actor.environment_status().await?;
            ensure!(status.unidentified == Some(1), "{status:?}");
            Ok(())
        })
        .await?;
        hears(&receiver, &[]).await?;

        let new = format!("podSelector: {{matchLabels: {{app: new}}}}\n{settle}");
        actor.environment(&new).await?;
        hears(&receiver, &["STARTED scope-old:v1 0 to 1"]).await?;
        actor.settled(1, 1).await?;
        let log = actor.sound_log().await?;
        let causes: Vec<_> = log.iter().map(|entry| entry.causes.clone()).collect();
        assert_eq!(
            causes,
            [
                [Cause::Baseline],
                [Cause::WorkloadsChanged],
                [Cause::ScopeChanged]
            ]
        );
        assert!(log[2].events.is_empty() && log[2].changes.is_empty());

        // From now on the new scope is told.
        let quick = format!("podSelector: {{matchLabels: {{app: new}}}}\nsettle: {SETTLE}");
        actor.environment(&quick).await?;
        actor.kubectl(&["delete", "pod/old", "pod/new"]).await?;
        hears(
            &receiver,
            &["STARTED scope-old:v1 0 to 1", "STOPPED scope-new:v1 1 to 0"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn an_edit_that_leaves_the_scope_alone_records_nothing() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "edited", SETTLE).await?;
        actor
            .apply(deployment(&actor.name, "web", "r.example/edited:v1", 1))
            .await?;
        hears(&receiver, &["STARTED edited:v1 0 to 1"]).await?;

        let before = actor.log().await?;
        actor
            .environment("settle: {quiet: 100ms, max: 2s, scaling: 1s}\nexclude: [Job.batch, RunToCompletion]")
            .await?;
        eventually(PATIENCE, "the edit to be seen", async || {
            let status = actor.environment_status().await?;
            ensure!(status.observed_generation == Some(2), "{status:?}");
            Ok(())
        })
        .await?;
        hears(&receiver, &["STARTED edited:v1 0 to 1"]).await?;
        assert_eq!(actor.log().await?, before);
        Ok(())
    });
}

#[test]
fn an_environment_that_is_made_anew_under_its_name_has_a_log_of_its_own() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "phoenix", SETTLE).await?;
        let name = actor.name.as_str();
        actor
            .apply(deployment(name, "web", "r.example/phoenix:v1", 1))
            .await?;
        hears(&receiver, &["STARTED phoenix:v1 0 to 1"]).await?;
        cluster.scale(name, "web", 0).await?;
        hears(
            &receiver,
            &["STARTED phoenix:v1 0 to 1", "STOPPED phoenix:v1 1 to 0"],
        )
        .await?;
        cluster.scale(name, "web", 2).await?;
        actor.settled(1, 2).await?;
        receiver.wait_for_count(PATIENCE, 3).await?;
        let old = actor.sound_log().await?;
        assert_eq!(old.len(), 4);

        receiver.forget();
        actor.kubectl(&["delete", "shipenv", name]).await?;
        actor.environment(&format!("settle: {SETTLE}")).await?;
        let fresh = async || {
            let log = actor.log().await?;
            let uid = actor.uid().await?;
            Ok::<_, anyhow::Error>(
                log.into_iter()
                    .filter(|entry| entry.environment_uid == uid)
                    .collect::<Vec<_>>(),
            )
        };
        eventually(PATIENCE, "the new log's baseline", async || {
            Ok::<_, anyhow::Error>(fresh().await?.len() == 1)
        })
        .await?;
        let log = fresh().await?;
        assert_ne!(log[0].environment_uid, old[0].environment_uid);
        assert_eq!((log[0].index, log[0].totals.instances), (1, 2));
        assert_eq!(log[0].causes, [Cause::Baseline]);
        hears(&receiver, &[]).await?;

        // Its entries take the places of the old log's.
        cluster
            .set_image(name, "web", "r.example/phoenix:v2")
            .await?;
        let heard = hears(
            &receiver,
            &["STARTED phoenix:v2 0 to 2", "STOPPED phoenix:v1 2 to 0"],
        )
        .await?;
        together(&heard)?;
        assert_eq!(heard[0].json()["snapshot"]["index"], "2");
        sound(&fresh().await?)?;

        // The setting has let go of the old log.
        let uid = actor.uid().await?;
        eventually(PATIENCE, "one cursor, of the new log", async || {
            let cursors = actor.status("all").await?.cursors;
            let uids: Vec<_> = cursors.iter().map(|it| &it.environment_uid).collect();
            ensure!(uids == [&uid], "{cursors:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn two_environments_over_one_namespace_each_tell_their_own() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "shared", SETTLE).await?;
        let name = actor.name.as_str();
        let part = format!("{name}-part");
        let fields = format!(
            "namespaces: {{include: ['{}*']}}\npodSelector: {{matchLabels: {{app: api}}}}\nsettle: {SETTLE}",
            &name[..name.len() - 1]
        );
        actor.further_environment(&part, &fields).await?;
        let listener = Receiver::start();
        let fields = format!("environments: [{part}]\n{ALL}");
        actor.webhook("part", &listener, &fields).await?;
        for (app, replicas) in [("web", 2), ("api", 1)] {
            let image = format!("r.example/shared-{app}:v1");
            actor.apply(deployment(name, app, &image, replicas)).await?;
            actor.running(app, replicas as usize).await?;
        }
        receiver.wait_for_count(PATIENCE, 2).await?;
        let mut heard = kit::told(&receiver.heard());
        heard.sort();
        assert_eq!(
            heard,
            [
                "STARTED shared-api:v1 0 to 1",
                "STARTED shared-web:v1 0 to 2"
            ]
        );
        let heard = hears(&listener, &["STARTED shared-api:v1 0 to 1"]).await?;
        assert_eq!(heard[0].json()["environment"], part);
        assert_eq!(receiver.heard().len(), 2);
        assert_eq!(receiver.heard()[0].json()["environment"], name);
        Ok(())
    });
}

#[test]
fn kubectl_shows_that_an_environment_is_alive_and_what_is_in_it() {
    play(async |cluster| {
        let (actor, receiver) = Actor::heard(cluster, "shown", SETTLE).await?;
        let web = deployment(&actor.name, "web", "r.example/shown-app:v1", 2)
            .container("side", "r.example/shown-side:v1");
        actor.apply(web).await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        actor.settled(2, 4).await?;
        let head = actor.log().await?.last().context("no entry")?.clone();
        eventually(PATIENCE, "the status", async || {
            let status = actor.environment_status().await?;
            let shown = status.head.clone().context("no head")?;
            ensure!(shown.index == head.index, "{status:?}");
            Ok(())
        })
        .await?;
        let status = actor.environment_status().await?;
        assert_eq!(
            (status.artifacts, status.instances, status.unidentified),
            (Some(2), Some(4), Some(0))
        );
        assert_eq!(status.compliance.as_deref(), Some("Unknown"));
        assert_eq!(status.observed_generation, Some(1));
        let shown = status.head.context("no head")?;
        assert_eq!(shown.time, head.time);
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str()))
            .collect();
        let want = [
            ("Compliant", "Unknown", "NoPolicy"),
            ("Ready", "True", "Recording"),
        ];
        assert_eq!(conditions, want);

        let printed = actor.kubectl(&["get", "shipenv", &actor.name]).await?;
        let lines: Vec<Vec<_>> = printed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let columns = [
            "NAME",
            "READY",
            "HEAD",
            "ARTIFACTS",
            "INSTANCES",
            "COMPLIANCE",
            "WHY",
            "AGE",
        ];
        assert_eq!(lines[0], columns);
        let index = head.index.to_string();
        assert_eq!(
            lines[1][..6],
            [actor.name.as_str(), "True", &index, "2", "4", "Unknown"]
        );

        // The name in the status leads to the snapshot, whose own columns say what happened.
        let printed = actor.kubectl(&["get", "shipsnap", &shown.name]).await?;
        for word in ["ARTIFACT_STARTED", "WorkloadsChanged", &actor.name] {
            assert!(printed.contains(word), "{word} in {printed}");
        }
        Ok(())
    });
}

#[test]
fn kubectl_explains_the_fields_and_refuses_bad_ones() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "explained").await?;
        let explained = actor
            .kubectl(&["explain", "environment.spec.settle.quiet"])
            .await?;
        let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
        let comment = "How long a workload that is not rolling out must be unchanged before it is recorded. Default 5s.";
        assert!(explained.contains(comment), "{explained}");

        let name = "metadata: {name: refused}";
        for (spec, complaint) in [
            (
                "{settle: {quiet: 10s, max: 5s}}",
                "quiet must not be longer than max",
            ),
            ("{settle: {quiet: soon}}", "spec.settle.quiet"),
            ("{exclude: [job.batch]}", "spec.exclude"),
            ("{namespaces: {include: [Shop]}}", "spec.namespaces.include"),
        ] {
            let yaml = format!(
                "apiVersion: shipbell.dev/v1alpha1\nkind: Environment\n{name}\nspec: {spec}\n"
            );
            let refused = cluster
                .plane
                .kubectl_fails(&["apply", "-f", "-"], &yaml)
                .await?;
            assert!(refused.contains(complaint), "{spec}: {refused}");
        }
        Ok(())
    });
}

#[test]
fn a_snapshot_can_not_be_edited() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "carved").await?;
        let name = format!("{}-0000000001", actor.name);
        let patch = json!({"spec": {"totals": {"instances": 99}}}).to_string();
        let args = ["patch", "shipsnap", &name, "--type=merge", "-p", &patch];
        let refused = cluster.plane.kubectl_fails(&args, "").await?;
        assert!(refused.contains("a snapshot is never edited"), "{refused}");
        Ok(())
    });
}

/// The snapshots of all environments.
fn snapshots(cluster: &Cluster) -> Api<EnvironmentSnapshot> {
    Api::all(cluster.client())
}

/// Writes a copy of the newest snapshot of a log under another number and with this change, as somebody with the right to
/// create snapshots may do. Its name.
async fn forge(
    cluster: &Cluster,
    environment: &str,
    number: i64,
    change: impl FnOnce(&mut Value),
) -> Result<String> {
    let labels = format!("shipbell.dev/environment={environment},!shipbell.dev/chunk");
    let params = ListParams::default().labels(&labels);
    let own = snapshots(cluster).list_metadata(&params).await?;
    let first = own.items.into_iter().next().context("no snapshot")?;
    let first = first.metadata.name.context("no name")?;
    let mut forged = serde_json::to_value(snapshots(cluster).get(&first).await?)?;
    let name = format!("{environment}-{number:010}");
    let metadata = &forged["metadata"];
    forged["metadata"] = json!({
        "name": name, "labels": metadata["labels"], "annotations": metadata["annotations"],
    });
    forged["spec"]["index"] = number.into();
    change(&mut forged);
    apply(&cluster.client(), forged).await?;
    Ok(name)
}

/// Says that it belongs to another environment.
fn of_another(snapshot: &mut Value) {
    snapshot["spec"]["environmentUID"] = "somebody else's".into();
}

/// The same, and holds a time that can't be read.
fn unreadable(snapshot: &mut Value) {
    of_another(snapshot);
    snapshot["spec"]["time"] = "9999-12-31T23:59:59Z".into();
}

/// Says that it takes as much as an object can.
fn big(snapshot: &mut Value) {
    snapshot["metadata"]["annotations"]["shipbell.dev/bytes"] = BIGGEST.to_string().into();
}

#[test]
fn a_snapshot_that_somebody_else_wrote_stops_no_log_and_is_named_in_a_warning() {
    alone(async |cluster| {
        let args = vec!["--prune-interval=1s".to_owned()];
        let cast = |name: &str| Cast {
            name: name.to_owned(),
            args: args.clone(),
            ..Cast::default()
        };
        let first = operator(cluster, &cast("first")).await?;
        let (actor, receiver) = Actor::heard(cluster, "forged", SETTLE).await?;
        let name = actor.name.as_str();
        actor.starts("web").await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        let warned = |log: String, snapshot: &str| {
            let mut lines = log.lines();
            lines.any(|line| {
                line.contains("is not of its log; delete it") && line.contains(snapshot)
            })
        };

        // The labels of the log and a high number; what they hold belongs to another environment.
        let high = forge(cluster, name, 4_000_000_000, of_another).await?;
        let higher = forge(cluster, name, 5_000_000_000, unreadable).await?;
        eventually(PATIENCE, "warnings while the operator runs", async || {
            let log = first.log_text();
            Ok::<_, anyhow::Error>(warned(log.clone(), &high) && warned(log, &higher))
        })
        .await?;
        cluster.scale(name, "web", 2).await?;
        receiver.wait_for_count(PATIENCE, 2).await?;
        first.kill_9();

        // Where the log ends is not even in the status, and the next number is taken, too.
        let environments: Api<Environment> = Api::all(cluster.client());
        let forget = Patch::Merge(json!({"status": {"head": null}}));
        environments
            .patch_status(name, &PatchParams::default(), &forget)
            .await?;
        let next = forge(cluster, name, 4, unreadable).await?;
        let second = operator(cluster, &cast("second")).await?;
        eventually(PATIENCE, "a warning at the start", async || {
            let log = second.log_text();
            let all = [&high, &higher, &next];
            Ok::<_, anyhow::Error>(all.iter().all(|it| warned(log.clone(), it)))
        })
        .await?;
        cluster.scale(name, "web", 3).await?;
        // What was not acknowledged before the end is told again.
        let fourth = |heard: &Heard| heard.json()["snapshot"]["index"] == "4";
        receiver
            .wait_for(PATIENCE, |heard| heard.iter().any(fourth))
            .await?;
        let uid = actor.uid().await?;
        let mut own = vec![];
        for number in 1..=4 {
            own.push(
                snapshots(cluster)
                    .get(&format!("{name}-{number:010}"))
                    .await?
                    .spec,
            );
        }
        assert!(own.iter().all(|entry| entry.environment_uid == uid));
        sound(&own)?;
        let environment = actor.environment_status().await?;
        let ready = environment.conditions.iter().find(|it| it.type_ == "Ready");
        ensure!(
            ready.is_some_and(|ready| ready.status == "True"),
            "{environment:?}"
        );
        let left = snapshots(cluster).get_metadata_opt(&high).await?;
        assert!(left.is_some(), "a person deletes it");
        Ok(())
    });
}

#[test]
fn a_suspended_setting_keeps_the_log_of_a_deleted_environment_only_while_there_is_room() {
    alone(async |cluster| {
        let args = vec!["--prune-interval=1s".to_owned()];
        let running = operator(
            cluster,
            &Cast {
                args,
                ..Cast::default()
            },
        )
        .await?;
        let (actor, receiver) = Actor::heard(cluster, "lives", SETTLE).await?;
        let ns = actor.name.as_str();
        let dead = ["small", "large"].map(|name| format!("{ns}-{name}"));
        let scope = format!("namespaces: {{include: [{ns}]}}\nsettle: {SETTLE}");
        let mut uids = BTreeMap::new();
        let environments: Api<Environment> = Api::all(cluster.client());
        for name in &dead {
            actor.further_environment(name, &scope).await?;
            let uid = environments.get(name).await?.metadata.uid;
            uids.insert(name.clone(), uid.context("no UID")?);
        }
        let fields = format!("environments: [{}]\n{ALL}", dead.join(", "));
        actor.webhook("waits", &receiver, &fields).await?;
        actor.edit("waits", json!({"suspend": true})).await?;
        actor.handled("waits").await?;
        actor.starts("web").await?;
        for name in &dead {
            eventually(PATIENCE, "news for the suspended setting", async || {
                Ok::<_, anyhow::Error>(log(cluster, name).await?.len() == 2)
            })
            .await?;
            actor.kubectl(&["delete", "shipenv", name]).await?;
        }

        // It has still to deliver them: they stay, though their environments are gone.
        let kept = async || {
            for name in &dead {
                ensure!(log(cluster, name).await?.len() >= 2, "{name} is pruned");
            }
            Ok(())
        };
        stays(Duration::from_secs(5), "the logs", kept).await?;

        // As much as all logs together may take, most of it in one of the two; and with the last one more than that.
        let (small, large) = (&dead[0], &dead[1]);
        let fit = i64::try_from(TOTAL_CAP / BIGGEST)? - 1; // each has metadata, too
        for number in 3..3 + fit {
            forge(cluster, large, number, big).await?;
        }
        stays(Duration::from_secs(5), "the logs that just fit", kept).await?;
        for number in 3 + fit..5 + fit {
            forge(cluster, large, number, big).await?;
        }
        eventually(PATIENCE, "the large log to go", async || {
            let left = log(cluster, large).await?.len();
            ensure!(left == 0, "{left} snapshots are left");
            Ok(())
        })
        .await?;
        let all = snapshots(cluster).list(&ListParams::default()).await?;
        let bytes = all.items.iter().filter_map(|it| {
            let annotations = it.metadata.annotations.as_ref()?;
            annotations.get("shipbell.dev/bytes")?.parse::<u64>().ok()
        });
        let bytes: u64 = bytes.sum();
        ensure!(bytes <= TOTAL_CAP, "{bytes} bytes are left");
        assert_eq!(log(cluster, small).await?.len(), 2, "there is room for it");
        assert_eq!(
            actor.sound_log().await?.len(),
            2,
            "it is no older than an hour"
        );
        let warning = "removing entries that a setting still needs";
        ensure!(running.log_text().contains(warning), "nobody is told");

        // The setting goes on with what is left of them, and is told what is lost.
        let settled = |status: &NotificationSettingStatus| {
            let uid = &uids[large];
            !status
                .cursors
                .iter()
                .any(|cursor| cursor.environment_uid == *uid)
        };
        actor.edit("waits", json!({"suspend": null})).await?;
        actor
            .status_when("waits", "no cursor of the large log", settled)
            .await?;
        Ok(())
    });
}
