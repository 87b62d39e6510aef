//! Each kind of message has a golden file in `tests/slack/golden`, which the official Slack libraries check as well; and
//! whatever the names are, a message keeps Slack's limits and contains no markup but our own.

use std::{collections::BTreeSet, sync::LazyLock};

use expect_test::{expect, expect_file};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{
    compliance::ComplianceState,
    snapshot::{Change, Compliance, WorkloadChange},
};

const WEB: (&str, &str, &str) = ("Deployment", "shop", "web");
const API: (&str, &str, &str) = ("StatefulSet", "shop", "api");
const JOBS: (&str, &str, &str) = ("Rollout.argoproj.io", "back", "jobs");

/// A change in workloads, each with its instances before and after.
fn change(digest: char, name: &str, cells: &[((&str, &str, &str), i64, i64)]) -> Change {
    let workloads = cells
        .iter()
        .map(|((kind, namespace, name), was, now)| WorkloadChange {
            kind: (*kind).to_owned(),
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            was: *was,
            now: *now,
            rolling: false,
        });
    Change {
        fingerprint: digest.to_string().repeat(64),
        name: name.to_owned(),
        was: cells.iter().map(|(_, was, _)| was).sum(),
        now: cells.iter().map(|(_, _, now)| now).sum(),
        rollout: false,
        workloads: workloads.collect(),
        ..Change::default()
    }
}

fn snapshot(index: i64, changes: Vec<Change>) -> EnvironmentSnapshotSpec {
    EnvironmentSnapshotSpec {
        environment: "prod".to_owned(),
        environment_uid: "6b3c".to_owned(),
        index,
        time: jiff::Timestamp::from_second(1_692_616_493 + 60 * index).unwrap(),
        causes: vec![],
        census_version: 1,
        previous: None,
        content_hash: String::new(),
        read_at: crate::api::snapshot::ReadAt::default(),
        ended_by: None,
        ended_at: vec![],
        totals: crate::api::snapshot::Totals::default(),
        compliance: Compliance {
            state: ComplianceState::Compliant,
            was: ComplianceState::Compliant,
            ..Compliance::default()
        },
        events: changes.iter().enumerate().filter_map(event).collect(),
        changes,
        identities: vec![],
        completed_rollouts: vec![],
        allow_list: vec![],
        checkpoint: None,
        cut: None,
    }
}

/// The event that follows from a change, unless it belongs to a rollout that was reported already.
fn event((at, change): (usize, &Change)) -> Option<Event> {
    let type_ = match (change.was, change.now) {
        (0, 0) => EventType::ArtifactAllowed,
        (0, _) => EventType::ArtifactStarted,
        (_, 0) => EventType::ArtifactStopped,
        _ => EventType::ArtifactScaled,
    };
    (!change.rollout).then(|| Event {
        type_,
        change: i64::try_from(at).ok(),
    })
}

static ORIGIN: LazyLock<Installation> = LazyLock::new(|| of_cluster("eks-1"));

/// An installation that serves no pages.
fn of_cluster(cluster: &str) -> Installation {
    Installation {
        org: "acme".to_owned(),
        cluster: cluster.to_owned(),
        external_url: None,
    }
}

/// The same with pages.
fn linked(cluster: &str) -> Installation {
    Installation {
        external_url: Some("https://shipbell.example.com".to_owned()),
        ..of_cluster(cluster)
    }
}

fn lost(from: i64, to: i64) -> UnreportedGap {
    let time = jiff::Timestamp::from_second(1_692_616_493).unwrap();
    UnreportedGap { from, to, time }
}

fn render(
    design: fn(&Installation, &[SnapshotEvents]) -> Message,
    origin: &Installation,
    snapshots: &[EnvironmentSnapshotSpec],
) -> Message {
    let events: Vec<Vec<&Event>> = snapshots
        .iter()
        .map(|s| s.events.iter().collect())
        .collect();
    let parts: Vec<_> = snapshots
        .iter()
        .zip(&events)
        .map(|(snapshot, events)| SnapshotEvents { snapshot, events })
        .collect();
    design(origin, &parts)
}

fn of(changes: Vec<Change>) -> Message {
    render(artifacts, &ORIGIN, &[snapshot(12, changes)])
}

const NEW: &str = "docker.io/library/nginx:1.27";
const OLD: &str = "docker.io/library/nginx:1.26";
const PROXY: &str = "registry.example:5000/mesh/proxy";

/// Each design by the name of its golden file.
fn designs() -> Vec<(&'static str, Message)> {
    let rolling = |mut change: Change| {
        change.workloads[0].rolling = true;
        change
    };
    let rollout = || {
        vec![
            change('a', OLD, &[(WEB, 3, 0)]),
            change('b', NEW, &[(WEB, 0, 3)]),
        ]
    };
    let cells = |was, now| {
        [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("b", "z")]
            .map(|(namespace, name)| (("Deployment", namespace, name), was, now))
    };
    let backlog = || -> Vec<_> {
        let of = |n: u32| char::from_digit(n, 16).unwrap();
        let step = |n: u32, name: &str, was, now| {
            change(
                of(n),
                &format!("ghcr.io/shop/{name}:{n}"),
                &[(("Deployment", "shop", name), was, now)],
            )
        };
        vec![
            snapshot(50, vec![step(1, "cart", 3, 0), step(2, "cart", 0, 3)]),
            snapshot(51, vec![step(2, "cart", 3, 0), step(3, "cart", 0, 4)]),
            snapshot(52, vec![step(4, "mail", 2, 5)]),
            snapshot(53, vec![step(4, "mail", 5, 2), step(5, "probe", 0, 1)]),
            snapshot(54, vec![step(5, "probe", 1, 0), step(6, "search", 0, 1)]),
            snapshot(55, vec![step(6, "search", 1, 2), step(7, "old", 1, 0)]),
        ]
    };
    let with_compliance = |state, was, reasons: &[&str]| {
        let mut snapshot = snapshot(39, vec![]);
        snapshot.compliance = Compliance {
            state,
            was,
            reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
            ..Compliance::default()
        };
        snapshot
    };
    let linked = linked("prod");
    let environment = |type_| Event {
        type_,
        change: None,
    };
    let reasons: Vec<_> = (1..=12)
        .map(|n| format!("image-{n}: no provenance"))
        .collect();
    let reasons: Vec<_> = reasons.iter().map(String::as_str).collect();
    let broken = with_compliance(
        ComplianceState::NonCompliant,
        ComplianceState::Compliant,
        &reasons,
    );
    let mut compliant_again = with_compliance(
        ComplianceState::Compliant,
        ComplianceState::NonCompliant,
        &[],
    );
    let minutes = jiff::SignedDuration::from_mins(14);
    compliant_again.compliance.was_since = Some(compliant_again.time - minutes);
    compliant_again.compliance.resolved = vec!["creator (a1b2c3d4e5f6) stopped".to_owned()];
    let mut non_compliant = snapshot(40, vec![change('b', NEW, &[(WEB, 0, 1)])]);
    non_compliant.compliance.state = ComplianceState::NonCompliant;
    let hostile = "x` <!channel> <@U1> *b* _i_ ~s~ :fire: &amp; \u{202e}\u{200b}https://e.example|";
    let hostile_cell = [((hostile, hostile, hostile), 0, 1)];
    vec![
        ("started", of(vec![change('b', NEW, &[(WEB, 0, 1)])])),
        (
            "started-non-compliant",
            render(artifacts, &linked, &[non_compliant]),
        ),
        (
            "started-everywhere",
            of(vec![change('b', PROXY, &cells(0, 2))]),
        ),
        (
            "started-with-sidecar",
            of(vec![
                change('b', NEW, &[(WEB, 0, 2)]),
                change('c', PROXY, &[(WEB, 0, 2)]),
            ]),
        ),
        (
            "started-rolling",
            of(vec![
                rolling(change('b', NEW, &[(WEB, 0, 1)])),
                Change {
                    rollout: true,
                    ..rolling(change('a', OLD, &[(WEB, 3, 2)]))
                },
            ]),
        ),
        ("stopped", of(vec![change('a', OLD, &[(WEB, 1, 0)])])),
        ("stopped-sent-again", {
            let mut message = of(vec![change('a', OLD, &[(WEB, 1, 0)])]);
            message.say_sent_again();
            message
        }),
        (
            "stopped-replaced",
            of(vec![
                change('a', OLD, &[(WEB, 2, 0)]),
                Change {
                    rollout: true,
                    ..change('b', NEW, &[(WEB, 1, 3)])
                },
            ]),
        ),
        ("scaled-up", of(vec![change('b', NEW, &[(WEB, 2, 5)])])),
        ("scaled-down", of(vec![change('b', NEW, &[(WEB, 5, 1)])])),
        (
            "scaled-evenly",
            of(vec![change('b', NEW, &[(WEB, 5, 4), (API, 1, 2)])]),
        ),
        (
            "allow-listed",
            of(vec![Change {
                allowed: Some(crate::api::snapshot::Allowed {
                    entry: "hotfix".to_owned(),
                    reason: "hotfix INC-42 <!channel> & co".to_owned(),
                    expires_at: None,
                }),
                ..change('b', NEW, &[])
            }]),
        ),
        ("rollout", of(rollout())),
        (
            "rollout-with-sidecar",
            of([
                rollout(),
                vec![
                    change('c', PROXY, &[(WEB, 3, 0)]),
                    change('d', PROXY, &[(WEB, 0, 3)]),
                ],
            ]
            .concat()),
        ),
        (
            "rollout-under-way",
            of(rollout().into_iter().map(rolling).collect()),
        ),
        (
            "rollout-everywhere",
            of(vec![
                change('c', PROXY, &cells(2, 0)),
                change('d', PROXY, &cells(0, 2)),
            ]),
        ),
        (
            "list",
            of([
                rollout(),
                vec![
                    change('c', PROXY, &[(API, 0, 2)]),
                    change('d', PROXY, &[(JOBS, 2, 6)]),
                ],
            ]
            .concat()),
        ),
        (
            "list-of-images",
            of(vec![change('a', OLD, &[]), change('b', NEW, &[])]),
        ),
        (
            "parts",
            render(
                artifacts,
                &ORIGIN,
                &[
                    snapshot(12, vec![change('a', OLD, &[(WEB, 3, 0)])]),
                    snapshot(13, vec![change('b', NEW, &[(WEB, 0, 3)])]),
                ],
            ),
        ),
        ("digest", render(digest, &ORIGIN, &backlog())),
        ("digest-long", render(digest, &ORIGIN, &long_backlog("svc"))),
        (
            "non-compliant",
            compliance(
                &linked,
                &broken,
                &environment(EventType::EnvironmentNonCompliant),
            ),
        ),
        (
            "compliant",
            compliance(
                &ORIGIN,
                &compliant_again,
                &environment(EventType::EnvironmentCompliant),
            ),
        ),
        (
            "test",
            test(
                &ORIGIN,
                "team-a/chat",
                &["prod".to_owned(), "staging".to_owned()],
            ),
        ),
        (
            "truncated",
            truncated(&ORIGIN, "prod", &lost(12, 40), ("team-a", "chat")),
        ),
        ("hostile", of(vec![change('b', hostile, &hostile_cell)])),
    ]
}

/// 5,000 changes in 50 snapshots: 2,500 workloads with a new image each.
fn long_backlog(name: &str) -> Vec<EnvironmentSnapshotSpec> {
    let one = |snapshot: u32, n: u32| {
        let number = 50 * snapshot + n;
        let workload = format!("{name}-{number:04}");
        let cell = |was, now| [(("Deployment", "shop", workload.as_str()), was, now)];
        let image = format!("ghcr.io/shop/{name}-{number:04}");
        let mut changes = [
            change('a', &format!("{image}:1"), &cell(2, 0)),
            change('b', &format!("{image}:2"), &cell(0, 2)),
        ];
        for change in &mut changes {
            change.fingerprint = format!("{}{number:063}", &change.fingerprint[..1]);
        }
        changes
    };
    let changes = |at| (0..50).flat_map(|n| one(at, n)).collect();
    (0..50)
        .map(|at| snapshot(100 + i64::from(at), changes(at)))
        .collect()
}

/// All that a message shows, in order: texts, fields, labels.
fn shown(message: &Message) -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match value {
                        Value::String(text) if key == "text" || key == "fallback" => {
                            found.push(text.clone());
                        }
                        _ => walk(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&value(message), &mut found);
    found
}

fn value(message: &Message) -> Value {
    serde_json::from_slice(&message.to_body()).unwrap()
}

#[test]
fn the_committed_messages_are_those_that_are_rendered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slack/golden");
    let mut wanted = BTreeSet::new();
    for (name, message) in designs() {
        let file = format!("{name}.json");
        let pretty = serde_json::to_string_pretty(&message).unwrap() + "\n";
        assert_eq!(
            serde_json::from_str::<Value>(&pretty).unwrap(),
            value(&message)
        );
        expect_file![format!("{folder}/{file}")].assert_eq(&pretty);
        wanted.insert(file);
    }
    let found: BTreeSet<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_artifact_that_started_is_reported_as_designed() {
    let text = "nginx started in eks-1/prod: 1 instance (from 0 to 1). Image nginx:1.27, fingerprint bbbbbbbbbbbb, \
        workload shop/deployment/web. Snapshot #12, compliant.";
    assert_eq!(
        value(&of(vec![change('b', NEW, &[(WEB, 0, 1)])])),
        json!({
            "text": text,
            "blocks": [{
                "type": "section",
                "text": {
                    "type": "mrkdwn",
                    "text": "*:arrow_forward: Started* `nginx` in *eks-1/prod* — 1 instance started running (from 0 to 1)",
                    "verbatim": true,
                },
            }],
            "attachments": [{
                "color": "#2EB67D",
                "fallback": text,
                "blocks": [
                    {
                        "type": "section",
                        "fields": [
                            {"type": "mrkdwn", "text": "*Image*\n`docker.io/library/nginx:1.27`", "verbatim": true},
                            {"type": "mrkdwn", "text": "*Fingerprint*\n`bbbbbbbbbbbb…`", "verbatim": true},
                            {"type": "mrkdwn", "text": "*Workload*\n`shop/deployment/web`", "verbatim": true},
                        ],
                    },
                    {
                        "type": "context",
                        "elements": [{
                            "type": "mrkdwn",
                            "text": "*eks-1/prod* · snapshot #12 · :white_check_mark: Compliant · \
                                <!date^1692617213^{date_short_pretty} {time_secs}|2023-08-21 11:26:53 UTC>",
                            "verbatim": true,
                        }],
                    },
                ],
            }],
            "unfurl_links": false,
            "unfurl_media": false,
        })
    );
}

#[test]
#[allow(
    clippy::needless_raw_string_hashes,
    reason = "as UPDATE_EXPECT=1 writes it"
)]
fn every_design_reads_as_meant() {
    let mut all = Vec::new();
    for (name, message) in designs() {
        let headline = match &message.blocks[0] {
            Block::Section {
                text: Some(text), ..
            }
            | Block::Header { text } => serde_json::to_value(text).unwrap()["text"].clone(),
            other => panic!("{name} begins with {other:?}"),
        };
        let (headline, text) = (headline.as_str().unwrap(), &message.text);
        let color = message.attachments[0].color;
        all.push(format!("{name} {color}\n  {headline}\n  {text}\n"));
    }
    expect![[r#"
        started #2EB67D
          *:arrow_forward: Started* `nginx` in *eks-1/prod* — 1 instance started running (from 0 to 1)
          nginx started in eks-1/prod: 1 instance (from 0 to 1). Image nginx:1.27, fingerprint bbbbbbbbbbbb, workload shop/deployment/web. Snapshot #12, compliant.
        started-non-compliant #E01E5A
          *:arrow_forward: Started* `nginx` in *prod* — 1 instance started running (from 0 to 1)
          nginx started in prod: 1 instance (from 0 to 1). Image nginx:1.27, fingerprint bbbbbbbbbbbb, workload shop/deployment/web. Snapshot #40, non-compliant.
        started-everywhere #2EB67D
          *:arrow_forward: Started* `proxy` in *eks-1/prod* — 10 instances started running (from 0 to 10)
          proxy started in eks-1/prod: 10 instances (from 0 to 10). Image proxy, fingerprint bbbbbbbbbbbb, workloads a/deployment/x, a/deployment/y, b/deployment/x and 2 more. Snapshot #12, compliant.
        started-with-sidecar #2EB67D
          *:arrow_forward: Started* `web` in *eks-1/prod* — 2 instances started running (from 0 to 2)
          web started in eks-1/prod: 2 instances (from 0 to 2): image nginx:1.27, fingerprint bbbbbbbbbbbb; image proxy, fingerprint cccccccccccc; workload shop/deployment/web. Snapshot #12, compliant.
        started-rolling #2EB67D
          *:arrow_forward: Started* `nginx` in *eks-1/prod* — 1 instance started running (from 0 to 1)
          nginx started in eks-1/prod: 1 instance (from 0 to 1). Image nginx:1.27, fingerprint bbbbbbbbbbbb, replaces aaaaaaaaaaaa (nginx:1.26), workload shop/deployment/web, still rolling out. Snapshot #12, compliant.
        stopped #8D8D8D
          *:black_square_for_stop: Stopped* `nginx` in *eks-1/prod* — no instance is running (from 1 to 0)
          nginx stopped in eks-1/prod: no instance is running (from 1 to 0). Image nginx:1.26, fingerprint aaaaaaaaaaaa, workload shop/deployment/web. Snapshot #12, compliant.
        stopped-sent-again #8D8D8D
          *:black_square_for_stop: Stopped* `nginx` in *eks-1/prod* — no instance is running (from 1 to 0)
          Sent again on request: nginx stopped in eks-1/prod: no instance is running (from 1 to 0). Image nginx:1.26, fingerprint aaaaaaaaaaaa, workload shop/deployment/web. Snapshot #12, compliant.
        stopped-replaced #8D8D8D
          *:black_square_for_stop: Stopped* `nginx` in *eks-1/prod* — no instance is running (from 2 to 0), another version has taken its place
          nginx stopped in eks-1/prod: no instance is running (from 2 to 0). Image nginx:1.26, fingerprint aaaaaaaaaaaa, replaced by bbbbbbbbbbbb (nginx:1.27), workload shop/deployment/web. Snapshot #12, compliant.
        scaled-up #36C5F0
          *:arrow_up_small: Scaled up* `nginx` in *eks-1/prod* — 5 instances (from 2 to 5)
          nginx scaled up in eks-1/prod: 5 instances (from 2 to 5). Image nginx:1.27, fingerprint bbbbbbbbbbbb, workload shop/deployment/web. Snapshot #12, compliant.
        scaled-down #36C5F0
          *:arrow_down_small: Scaled down* `nginx` in *eks-1/prod* — 1 instance (from 5 to 1)
          nginx scaled down in eks-1/prod: 1 instance (from 5 to 1). Image nginx:1.27, fingerprint bbbbbbbbbbbb, workload shop/deployment/web. Snapshot #12, compliant.
        scaled-evenly #36C5F0
          *:arrow_up_down: Scaled* `nginx` in *eks-1/prod* — 6 instances as before, spread differently
          nginx scaled in eks-1/prod: 6 instances as before, spread differently. Image nginx:1.27, fingerprint bbbbbbbbbbbb, workloads shop/statefulset/api, shop/deployment/web. Snapshot #12, compliant.
        allow-listed #36C5F0
          *:ballot_box_with_check: Allow-listed* `nginx` in *eks-1/prod*
          nginx was added to the allow-list of eks-1/prod. Image nginx:1.27, fingerprint bbbbbbbbbbbb, because “hotfix INC-42 &lt;!channel&gt; &amp; co”. Snapshot #12, compliant.
        rollout #2EB67D
          *:white_check_mark: Rolled out* `web` in *eks-1/prod*
          web rolled out in eks-1/prod: bbbbbbbbbbbb (nginx:1.27) runs with 3 instances; aaaaaaaaaaaa (nginx:1.26) stopped (from 3 to 0); workload shop/deployment/web. Snapshot #12, compliant.
        rollout-with-sidecar #2EB67D
          *:white_check_mark: Rolled out* `web` in *eks-1/prod*
          web rolled out in eks-1/prod: bbbbbbbbbbbb (nginx:1.27) runs with 3 instances; aaaaaaaaaaaa (nginx:1.26) stopped (from 3 to 0); dddddddddddd (proxy) runs with 3 instances; cccccccccccc (proxy) stopped (from 3 to 0); workload shop/deployment/web. Snapshot #12, compliant.
        rollout-under-way #ECB22E
          *:arrows_counterclockwise: Rolling out* `web` in *eks-1/prod*
          web is rolling out in eks-1/prod: bbbbbbbbbbbb (nginx:1.27) runs with 3 instances; aaaaaaaaaaaa (nginx:1.26) stopped (from 3 to 0); workload shop/deployment/web, still rolling out. Snapshot #12, compliant.
        rollout-everywhere #2EB67D
          *:white_check_mark: Rolled out* `proxy` in *eks-1/prod*
          proxy rolled out in eks-1/prod: dddddddddddd (proxy) runs with 10 instances; cccccccccccc (proxy) stopped (from 10 to 0); workloads a/deployment/x, a/deployment/y, b/deployment/x and 2 more. Snapshot #12, compliant.
        list #8D8D8D
          *:package: 3 workloads changed* in *eks-1/prod*
          3 workloads changed in eks-1/prod (2 artifacts started, 1 stopped, 1 scaled): shop/api started proxy cccccccccccc, 2 instances; shop/web rolled out from nginx aaaaaaaaaaaa to bbbbbbbbbbbb, 3 instances; back/jobs scaled up proxy dddddddddddd, 6 instances (from 2 to 6). Snapshot #12, compliant.
        list-of-images #8D8D8D
          *:package: 2 images changed* in *eks-1/prod*
          2 images changed in eks-1/prod (2 artifacts allow-listed): nginx has aaaaaaaaaaaa newly allow-listed; nginx has bbbbbbbbbbbb newly allow-listed. Snapshot #12, compliant.
        parts #2EB67D
          *:white_check_mark: Rolled out* `web` in *eks-1/prod*
          web rolled out in eks-1/prod: bbbbbbbbbbbb (nginx:1.27) runs with 3 instances; aaaaaaaaaaaa (nginx:1.26) stopped (from 3 to 0); workload shop/deployment/web. Snapshots #12–#13, compliant.
        digest #8D8D8D
          *:package: 5 workloads changed* in *eks-1/prod* within 5 min
          5 workloads changed in eks-1/prod within 5 min (2 artifacts started, 2 stopped, 1 as before, 2 started and stopped again): shop/cart rolled out from cart 111111111111 to 333333333333, 4 instances, also started cart 222222222222 and stopped it again; shop/old stopped 777777777777 (from 1 to 0); shop/search started 666666666666, 2 instances; shop/mail runs 444444444444, 2 instances as before; shop/probe started 555555555555 and stopped it again. Snapshots #50–#55, compliant.
        digest-long #8D8D8D
          *:package: 2500 workloads changed* in *eks-1/prod* within 49 min
          2500 workloads changed in eks-1/prod within 49 min (2500 artifacts started, 2500 stopped): shop/svc-0000 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0001 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0002 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0003 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0004 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0005 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0006 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0007 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0008 rolled out from a00000000000 to b00000000000, 2 instances; shop/svc-0009 rolled out from a00000000000 to b00000000000, 2 instances; and 2490 more. Snapshots #100–#149, compliant.
        non-compliant #E01E5A
          🔴 prod is Non-Compliant
          🔴 prod is now Non-Compliant (was Compliant): image-1: no provenance; image-2: no provenance; image-3: no provenance; image-4: no provenance; image-5: no provenance; image-6: no provenance; image-7: no provenance; image-8: no provenance; image-9: no provenance; image-10: no provenance; and 2 more. Snapshot #39.
        compliant #2EB67D
          🟢 eks-1/prod is Compliant again
          🟢 eks-1/prod is Compliant again (was Non-Compliant for 14 min): creator (a1b2c3d4e5f6) stopped. Snapshot #39.
        test #36C5F0
          *:bell: Test message* — Shipbell reaches this channel
          Test message: Shipbell on cluster eks-1 reaches this channel. NotificationSetting team-a/chat, environments prod, staging.
        truncated #ECB22E
          *:warning: History lost* in *eks-1/prod* — snapshots 12 to 40 were removed before they could be delivered
          History lost in eks-1/prod: snapshots 12 to 40 were removed before they could be delivered. Reason: the log had grown to its limit (32 MiB for an environment, 256 MiB for all), or someone deleted entries. kubectl -n team-a describe notifset chat shows why deliveries were late. If nothing failed and nothing was suspended, increase the settle times so that fewer snapshots are recorded.
        hostile #2EB67D
          *:arrow_forward: Started* `x &lt;!channel&gt; &lt;` in *eks-1/prod* — 1 instance started running (from 0 to 1)
          x &lt;!channel&gt; &lt; started in eks-1/prod: 1 instance (from 0 to 1). Image x &lt;!channel&gt; &lt;, fingerprint bbbbbbbbbbbb, workload x &lt;!channel&gt; &lt;@U1&gt; b i s : fire: &amp;amp; https: //e.example|/x &lt;!channel&gt; &lt;@u1&gt; b i s : fire: &amp;amp; https: //…. Snapshot #12, compliant.
    "#]].assert_eq(&all.concat());
}

#[test]
fn the_cluster_is_named_unless_the_environment_bears_its_name() {
    let changes = || vec![snapshot(1, vec![change('b', NEW, &[(WEB, 0, 1)])])];
    for (cluster, place) in [
        ("prod", "*prod*"),
        ("", "*prod*"),
        ("eks:eu:1", "*eks: eu:1/prod*"),
    ] {
        let message = render(artifacts, &of_cluster(cluster), &changes());
        assert!(
            shown(&message).iter().any(|text| text.contains(place)),
            "{cluster}: {message:?}"
        );
    }
}

#[test]
fn a_filter_hides_events_but_the_numbers_stay_true() {
    let snapshots = [
        snapshot(1, vec![change('b', NEW, &[(WEB, 0, 1)])]),
        snapshot(2, vec![change('b', NEW, &[(WEB, 1, 4)])]),
    ];
    let parts = [
        SnapshotEvents {
            snapshot: &snapshots[0],
            events: &[&snapshots[0].events[0]],
        },
        SnapshotEvents {
            snapshot: &snapshots[1],
            events: &[],
        },
    ];
    let text = digest(&ORIGIN, &parts).text;
    assert!(
        text.contains("started nginx bbbbbbbbbbbb, 4 instances"),
        "{text}"
    );
    // And events that nobody asked for are not reported.
    let both = snapshot(
        3,
        vec![
            change('a', OLD, &[(WEB, 1, 0)]),
            change('b', PROXY, &[(API, 0, 1)]),
        ],
    );
    let part = SnapshotEvents {
        snapshot: &both,
        events: &[&both.events[1]],
    };
    let text = artifacts(&ORIGIN, &[part]).text;
    assert!(!text.contains("nginx"), "{text}");
}

#[test]
fn events_of_the_environment_and_of_changes_that_are_not_there_are_left_out() {
    let mut snapshot = snapshot(1, vec![change('b', NEW, &[(WEB, 0, 1)])]);
    let before = render(artifacts, &ORIGIN, std::slice::from_ref(&snapshot));
    for (type_, change) in [
        (EventType::EnvironmentCompliant, None),
        (EventType::EnvironmentNonCompliant, Some(0)),
        (EventType::ArtifactStarted, None),
        (EventType::ArtifactStarted, Some(-1)),
        (EventType::ArtifactStarted, Some(7)),
    ] {
        snapshot.events.push(Event { type_, change });
    }
    assert_eq!(render(artifacts, &ORIGIN, &[snapshot]), before);
}

#[test]
fn a_message_without_events_does_not_panic() {
    for message in [
        artifacts(&ORIGIN, &[]),
        digest(&ORIGIN, &[]),
        render(artifacts, &ORIGIN, &[snapshot(1, vec![])]),
        render(digest, &ORIGIN, &[snapshot(1, vec![]), snapshot(2, vec![])]),
        test(&Installation::default(), "", &[]),
    ] {
        check(&message).unwrap();
    }
}

#[test]
fn workloads_that_a_snapshot_does_not_list_are_counted() {
    let mut changes = vec![
        change('c', PROXY, &[(WEB, 2, 0), (API, 2, 0)]),
        change('d', PROXY, &[(WEB, 0, 2), (API, 0, 2)]),
    ];
    for change in &mut changes {
        change.more_workloads = 298;
        (change.was, change.now) = (change.was * 75, change.now * 75);
    }
    let text = of(changes.clone()).text;
    assert!(text.contains("runs with 300 instances"), "{text}");
    assert!(text.contains("and 298 more"), "{text}");
    changes.push(change('a', OLD, &[(JOBS, 1, 0)]));
    let text = of(changes).text;
    assert!(
        text.starts_with("300+ workloads changed in eks-1/prod"),
        "{text}"
    );
}

#[test]
fn the_fallback_is_the_text_alone() {
    let message = of(vec![change('b', NEW, &[(WEB, 0, 1)])]);
    let body: Value = serde_json::from_slice(&plain(&message)).unwrap();
    assert_eq!(body, json!({"text": message.text}));
}

#[test]
fn the_fallback_is_cut_to_what_every_receiver_takes() {
    for name in ["svc".repeat(60), "&".repeat(253), "é🚀".repeat(126)] {
        let message = render(digest, &ORIGIN, &long_backlog(&name));
        assert!(utf16(&message.text) > 1_900);
        let body: Value = serde_json::from_slice(&plain(&message)).unwrap();
        assert_eq!(body.as_object().unwrap().len(), 1);
        let text = body["text"].as_str().unwrap();
        assert!((1_800..=1_900).contains(&utf16(text)), "{}", utf16(text));
        assert!(message.text.starts_with(text.trim_end_matches('…')));
        check_text(text, false).unwrap();
    }
}

#[test]
fn a_url_that_could_break_a_link_is_refused() {
    for good in [
        "https://x.example",
        "http://x.example:8080/acme/",
        "https://x.example/a%20b/c|d",
        "https://x.example/environments/prod|<x>/../snapshots/7",
    ] {
        let url = text::link(good).unwrap();
        assert!(!url.contains(['|', '<', '>', ' ']), "{url}");
    }
    for bad in [
        "",
        "x.example",
        "ftp://x.example",
        "javascript:alert(1)",
        "https://x.example/?a=1",
        "https://a:b@x.example",
        "https://x.example/a&b",
    ] {
        assert_eq!(text::link(bad), None, "{bad}");
    }
}

#[test]
fn a_digest_of_thousands_of_changes_fits_whatever_its_names_are_like() {
    for name in [
        "svc".to_owned(),
        "&".repeat(253),
        "\"".repeat(253),
        "é🚀".repeat(126),
        "<".repeat(9),
    ] {
        let message = render(digest, &ORIGIN, &long_backlog(&name));
        check(&message).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        assert!(message.text.starts_with("2500 workloads changed in eks-1/prod within 49 min (2500 artifacts started, 2500 stopped): "));
    }
}

#[test]
fn every_design_keeps_the_rules() {
    for (name, message) in designs() {
        check(&message).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
}

#[test]
fn the_rules_refuse_what_breaks_them() {
    for (bad, why) in [
        ("<!channel>", "a < that isn't ours"),
        ("<@U1> x", "a < that isn't ours"),
        ("a > b", "a raw >"),
        ("a & b", "a raw &"),
        ("\u{202e}x", "a hidden character"),
        ("a `b", "inline code that isn't closed"),
        ("*a", "bold that isn't closed"),
        ("~a~", "struck out"),
        ("_a_", "italics"),
        (":fire: x", "an emoji that isn't ours"),
        (":bell: x:package:", "an emoji that isn't ours"),
    ] {
        let found = check_text(bad, true).unwrap_err();
        assert!(found.starts_with(why), "{bad}: {found}");
        let mut message = of(vec![change('b', NEW, &[(WEB, 0, 1)])]);
        message.blocks.push(Block::section(bad.to_owned()));
        assert!(check(&message).is_err(), "{bad}");
    }
    let mut message = of(vec![change('b', NEW, &[(WEB, 0, 1)])]);
    message
        .blocks
        .extend((0..4).map(|_| Block::section("x".repeat(2_900))));
    assert!(check(&message).unwrap_err().starts_with("the size"));
}

fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}

/// What must be true of every message, read from its JSON alone.
fn check(message: &Message) -> Result<(), String> {
    fn ensure(holds: bool, what: &str, value: &dyn std::fmt::Debug) -> Result<(), String> {
        if holds {
            Ok(())
        } else {
            Err(format!("{what}: {value:?}"))
        }
    }
    let body = message.to_body();
    ensure(
        body == message.clone().to_body(),
        "the bytes differ",
        message,
    )?;
    let body: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let keys: Vec<_> = body
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    ensure(
        keys == [
            "attachments",
            "blocks",
            "text",
            "unfurl_links",
            "unfurl_media",
        ],
        "the keys",
        &keys,
    )?;
    ensure(
        body["unfurl_links"] == false && body["unfurl_media"] == false,
        "unfurls",
        &body,
    )?;
    let text = body["text"].as_str().unwrap();
    ensure(
        (1..=3_000).contains(&utf16(text)),
        "the text's length",
        &utf16(text),
    )?;
    check_text(text, false)?;
    let attachments = body["attachments"].as_array().unwrap();
    let size = utf16(&body["blocks"].to_string()) + utf16(&body["attachments"].to_string());
    ensure(size <= 10_000, "the size", &size)?;
    let mut blocks: Vec<&Value> = body["blocks"].as_array().unwrap().iter().collect();
    for attachment in attachments {
        ensure(attachment["fallback"] == text, "the fallback", attachment)?;
        blocks.extend(attachment["blocks"].as_array().unwrap());
    }
    ensure(
        (2..=20).contains(&blocks.len()),
        "the number of blocks",
        &blocks.len(),
    )?;
    for block in blocks {
        let mut texts = Vec::new();
        match block["type"].as_str().unwrap() {
            "header" => texts.push((&block["text"], 150)),
            "section" => {
                let fields = block["fields"].as_array().map_or(&[][..], Vec::as_slice);
                ensure(fields.len() <= 10, "the number of fields", block)?;
                ensure(
                    block["text"].is_object() == fields.is_empty(),
                    "a section",
                    block,
                )?;
                texts.extend(block["text"].is_object().then_some((&block["text"], 3_000)));
                texts.extend(fields.iter().map(|field| (field, 2_000)));
            }
            "context" => {
                let elements = block["elements"].as_array().unwrap();
                ensure((1..=10).contains(&elements.len()), "the elements", block)?;
                texts.extend(elements.iter().map(|element| (element, 3_000)));
            }
            other => return Err(format!("a block of type {other}")),
        }
        for (object, max) in texts {
            let text = object["text"].as_str().unwrap();
            ensure((1..=max).contains(&utf16(text)), "a text's length", object)?;
            match object["type"].as_str().unwrap() {
                "mrkdwn" => ensure(object["verbatim"] == true, "verbatim", object)?,
                _ => ensure(object["emoji"] == false, "emoji", object)?,
            }
            check_text(text, object["type"] == "mrkdwn")?;
        }
    }
    Ok(())
}

/// Whether a text contains no markup but our own.
fn check_text(text: &str, is_mrkdwn: bool) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {text:?}"));
    let mut left = String::new();
    let mut rest = text;
    // Our dates and links.
    while let Some((before, after)) = rest.split_once('<') {
        let Some((inside, after)) = after.split_once('>') else {
            return wrong("an open <");
        };
        let is_date = inside.strip_prefix("!date^").is_some_and(|date| {
            let (unix, shape) = date.split_once('^').unwrap_or_default();
            let shape = shape.strip_prefix("{date_short_pretty} {time_secs}|");
            unix.parse::<i64>().is_ok()
                && shape.is_some_and(|utc| {
                    utc.strip_suffix(" UTC").is_some_and(|utc| {
                        utc.chars().all(|c| c.is_ascii_digit() || " -:".contains(c))
                    })
                })
        });
        let is_link = inside.starts_with("https://shipbell.example.com/acme/environments/");
        if !is_mrkdwn || !(is_date || is_link) {
            return wrong("a < that isn't ours");
        }
        left += before;
        rest = after;
    }
    left += rest;
    if left.contains('>') {
        return wrong("a raw >");
    }
    let entities = ["&amp;", "&lt;", "&gt;"];
    if left
        .match_indices('&')
        .any(|(at, _)| !entities.iter().any(|e| left[at..].starts_with(e)))
    {
        return wrong("a raw &");
    }
    let is_hidden = |c: char| {
        (c.is_control() && !(is_mrkdwn && c == '\n'))
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e0fff}')
    };
    if left.contains(is_hidden) {
        return wrong("a hidden character");
    }
    let spans: Vec<_> = left.split('`').collect();
    if spans.len() % 2 == 0
        || spans
            .iter()
            .skip(1)
            .step_by(2)
            .any(|s| s.is_empty() || s.contains('\n'))
    {
        return wrong("inline code that isn't closed");
    }
    let open: String = spans
        .iter()
        .step_by(2)
        .copied()
        .collect::<Vec<_>>()
        .join("code");
    if !is_mrkdwn && (spans.len() > 1 || open.contains('*')) {
        return wrong("markup in plain words");
    }
    if open.contains('~') {
        return wrong("struck out");
    }
    for line in open.lines() {
        if line.matches('*').count() % 2 != 0 {
            return wrong("bold that isn't closed");
        }
    }
    // Our own emoji: one in a headline, one in a footer.
    let mut foreign = open.clone();
    for name in EMOJI {
        let emoji = format!(":{name}:");
        if is_mrkdwn && foreign.contains(&emoji) {
            foreign = foreign.replacen(&emoji, " ", 1);
            break;
        }
    }
    let mut tokens = foreign.split(':').skip(1).peekable();
    while let Some(token) = tokens.next() {
        let is_name = !token.is_empty() && !token.contains([' ', '\n', '/']);
        if tokens.peek().is_some() && is_name {
            return wrong("an emoji that isn't ours");
        }
    }
    let chars: Vec<_> = foreign.chars().collect();
    let is_word = |at: Option<usize>| {
        at.and_then(|at| chars.get(at))
            .is_some_and(|c| c.is_alphanumeric())
    };
    for at in (0..chars.len()).filter(|at| chars[*at] == '_') {
        if !is_word(at.checked_sub(1)) || !is_word(Some(at + 1)) {
            return wrong("italics");
        }
    }
    Ok(())
}

const EMOJI: [&str; 13] = [
    "arrow_forward",
    "black_square_for_stop",
    "arrow_up_small",
    "arrow_down_small",
    "arrow_up_down",
    "ballot_box_with_check",
    "white_check_mark",
    "arrows_counterclockwise",
    "package",
    "bell",
    "warning",
    "red_circle",
    "white_circle",
];

/// Whatever can be put into a string, and more often what acts in Slack.
fn name() -> impl Strategy<Value = String> {
    let hostile = prop::sample::select(vec![
        "<!channel>",
        "<!here|x>",
        "<@U123>",
        "<#C1|x>",
        "<!subteam^S1>",
        "<https://e.example|x>",
        "&lt;",
        "`",
        "```",
        "*",
        "_",
        "~",
        ":fire:",
        ":a::b:",
        "https://e.example",
        "|",
        "\n",
        "\r",
        "\0",
        "\u{202e}",
        "\u{2066}",
        "\u{200b}",
        "\u{200d}",
        "\u{301}",
        "\u{fe0f}",
        "🚀",
        "👩‍🚀",
        "🇩🇪",
        "é",
        "\"",
        "\\",
        "&",
        ">",
        " ",
        ":",
        "/",
        "@",
        "@here",
        "#general",
        "…",
        "•",
    ]);
    let piece = prop_oneof![
        2 => any::<char>().prop_map(String::from),
        2 => hostile.prop_map(str::to_owned),
        3 => "[a-z0-9.-]{1,9}",
    ];
    prop_oneof![
        3 => prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat()),
        1 => "[a-z0-9-]{1,253}",
        1 => (any::<char>(), 0..300_usize).prop_map(|(c, n)| String::from(c).repeat(n)),
        1 => Just("web".to_owned()),
    ]
    .prop_filter("steps of a path, which no object is called", |name| {
        name != "." && name != ".."
    })
}

prop_compose! {
    fn some_change(names: Vec<String>)(
        digest in prop::sample::select(vec!['a', 'b', 'c', 'd']),
        image in prop::sample::select(names.clone()),
        cells in prop::collection::vec((prop::sample::select(names), 0..3_usize, 0..4_i64, 0..4_i64, any::<bool>()), 0..6),
        more in prop_oneof![9 => Just(0_i64), 1 => any::<i64>()],
        off in prop_oneof![9 => Just(0_i64), 1 => any::<i64>()],
    ) -> Change {
        let known = [WEB, API, JOBS];
        let listed: Vec<_> = cells.iter().map(|(name, known_as, was, now, _)| {
            let (kind, namespace, _) = known[*known_as];
            ((kind, namespace, name.as_str()), *was, *now)
        }).collect();
        let mut change = change(digest, &image, &listed);
        for (workload, cell) in change.workloads.iter_mut().zip(&cells) {
            workload.rolling = cell.4;
        }
        change.more_workloads = more;
        change.now = change.now.saturating_add(off);
        change
    }
}

fn some_snapshots() -> impl Strategy<Value = Vec<EnvironmentSnapshotSpec>> {
    let changes = prop::collection::vec(name(), 1..8).prop_flat_map(|names| {
        prop::collection::vec(prop::collection::vec(some_change(names), 0..20), 1..5)
    });
    let state = prop::sample::select(vec![
        ComplianceState::Compliant,
        ComplianceState::NonCompliant,
        ComplianceState::Unknown,
    ]);
    let reasons = prop::collection::vec(name(), 0..20);
    (changes, name(), state, reasons, any::<bool>()).prop_map(
        |(changes, environment, state, reasons, all_allowed)| {
            changes
                .into_iter()
                .zip(1..)
                .map(|(changes, index)| {
                    let mut snapshot = snapshot(index, changes);
                    snapshot.environment.clone_from(&environment);
                    snapshot.compliance.state = state;
                    snapshot.compliance.reasons.clone_from(&reasons);
                    if all_allowed {
                        let again = snapshot.events.clone();
                        snapshot.events.extend(again.into_iter().map(|event| Event {
                            type_: EventType::ArtifactAllowed,
                            ..event
                        }));
                    }
                    snapshot
                })
                .collect()
        },
    )
}

proptest! {
    #![proptest_config(crate::simulation::testing::tries(256))]

    #[test]
    fn any_names_give_a_message_that_keeps_the_rules(
        snapshots in some_snapshots(),
        cluster in name(),
        setting in name(),
        environments in prop::collection::vec(name(), 0..30),
        has_pages in any::<bool>(),
    ) {
        let origin = if has_pages { linked(&cluster) } else { of_cluster(&cluster) };
        let mut messages = vec![
            render(artifacts, &origin, &snapshots),
            render(artifacts, &origin, &snapshots[..1]),
            render(digest, &origin, &snapshots),
            test(&origin, &setting, &environments),
            truncated(&origin, &setting, &lost(7, 7), (&setting, &cluster)),
        ];
        for type_ in [EventType::EnvironmentCompliant, EventType::EnvironmentNonCompliant] {
            messages.push(compliance(&origin, &snapshots[0], &Event { type_, change: None }));
        }
        // An event on its own, too.
        for event in snapshots[0].events.iter().take(3) {
            messages.push(artifacts(&origin, &[SnapshotEvents { snapshot: &snapshots[0], events: &[event] }]));
        }
        for message in messages {
            prop_assert_eq!(check(&message), Ok(()));
            let body = String::from_utf8(plain(&message)).unwrap();
            prop_assert!(!body.contains('<'));
        }
    }

    #[test]
    fn the_order_of_the_changes_does_not_matter(snapshots in some_snapshots()) {
        // One change for each artifact, as a snapshot has them.
        let mut changes = snapshots[0].changes.clone();
        changes.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        changes.dedup_by(|a, b| a.fingerprint == b.fingerprint);
        let forwards = of(changes.clone());
        changes.reverse();
        prop_assert_eq!(of(changes), forwards);
    }
}
