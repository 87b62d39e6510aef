//! Lists and watches go wrong: by a proxy before the API server, or by missing rights.

use crate::{AT_ONCE, all_is_told, oracle, outage, restarts::churn, server::ready, told_all};
use anyhow::{Context as _, Result, ensure};
use kit::{
    Action, Actor, Asked, Cluster, Line, Operator, Proxy, apply,
    cluster::PATIENCE,
    deployment, hears,
    proxy::change_objects,
    stage::{Cast, HOME, operator, spawn},
    stays,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub const PODS: &str = "/api/v1/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const NAMESPACES: &str = "/api/v1/namespaces";
const SETTINGS: &str = "/apis/shipbell.dev/v1alpha1/notificationsettings";
const APPROVALS: &str = "/apis/shipbell.dev/v1alpha1/artifactapprovals";
const PROVENANCES: &str = "/apis/shipbell.dev/v1alpha1/artifactprovenances";
const ALLOWANCES: &str = "/apis/shipbell.dev/v1alpha1/allowedartifacts";
pub const ENVIRONMENTS: &str = "/apis/shipbell.dev/v1alpha1/environments";

/// An operator behind a proxy.
pub async fn behind_proxy(cluster: &Cluster, args: &[&str]) -> Result<(Proxy, Operator)> {
    let proxy = Proxy::start(&cluster.plane)?;
    let cast = Cast {
        kubeconfig: Some(proxy.kubeconfig(None)?),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Cast::default()
    };
    let operator = operator(cluster, &cast).await?;
    Ok((proxy, operator))
}

/// The value of a metric: the sum of its lines that begin so.
async fn metric(operator: &Operator, name: &str) -> Result<u64> {
    let (_, text) = operator.get("/metrics").await?;
    let values = text
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_state_and_stops_nothing_else() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let (actor, receiver) = told_all(cluster, "unread").await?;
        let ns = actor.name.clone();
        actor
            .apply(deployment(&ns, "bad", "r.example/bad:v1", 1))
            .await?;
        actor
            .apply(deployment(&ns, "good", "r.example/good:v1", 1))
            .await?;
        cluster.rolled_out(&ns, "bad").await?;
        cluster.rolled_out(&ns, "good").await?;
        all_is_told(&actor, &receiver).await?;
        receiver.forget();
        let warned = metric(&alive, "shipbell_unreadable").await?;

        // In watches and in lists, in turn: labels that are an array, containers that are a text, no UID at all.
        let spoils: [fn(&mut Value); 3] = [
            |pod| pod["metadata"]["labels"] = json!(["no", "map"]),
            |pod| pod["spec"]["containers"] = json!("none"),
            |pod| pod["metadata"] = json!(7),
        ];
        for (round, spoil) in (1_u32..).zip(spoils) {
            proxy.answer_with(move |asked| {
                if !asked.follows(PODS) {
                    return Action::Pass;
                }
                Action::lines(move |line| {
                    change_objects(line, |pod| {
                        if pod["metadata"]["labels"]["app"] == "bad" {
                            spoil(pod);
                        }
                    })
                })
            });
            // The list comes first, by a watch that is cut and by one that is forgotten.
            cluster.plane.kill_apiserver();
            cluster.plane.start_apiserver().await?;
            cluster.scale(&ns, "good", 1 + round).await?;
            let want = format!("SCALED good:v1 {round} to {}", 1 + round);
            hears(&receiver, &[&want]).await?;
            // And a watch that tells of it.
            let pod = cluster.pods(&ns, "bad").await?.remove(0);
            let name = pod.metadata.name.context("a name")?;
            let note = format!("--overwrite=true note=r{round}");
            let mut args = vec!["-n", &ns, "annotate", "pod", &name];
            args.extend(note.split(' '));
            cluster.plane.kubectl(&args).await?;
            stays(Duration::from_secs(1), "the bad pod's place", async || {
                ensure!(
                    receiver.heard().len() == 1,
                    "{:?}",
                    kit::told(&receiver.heard())
                );
                Ok(())
            })
            .await?;
            receiver.forget();
        }
        ensure!(
            metric(&alive, "shipbell_unreadable").await? > warned,
            "no metric moved"
        );
        ensure!(alive.log_text().contains("can't read pod"), "no warning");
        ready(&actor, "True Recording").await?;

        proxy.pass();
        proxy.cut();
        cluster.set_image(&ns, "bad", "r.example/bad:v2").await?;
        hears(
            &receiver,
            &["STARTED bad:v2 0 to 1", "STOPPED bad:v1 1 to 0"],
        )
        .await?;
        oracle::recorded(&actor).await?;
        alive.still_runs()
    });
}

#[test]
fn an_object_of_ours_that_cannot_be_read_says_so_on_itself_and_what_it_said_before_still_holds() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let (actor, receiver) = told_all(cluster, "misread").await?;
        let ns = actor.name.clone();
        let web = |tag: u32| deployment(&ns, "web", &format!("r.example/web:v{tag}"), 1);
        actor.apply(web(1)).await?;
        all_is_told(&actor, &receiver).await?;

        // As with CRDs that are older than the operator, or were changed.
        proxy.answer_with(|asked| {
            let (field, spoilt) = match () {
                () if asked.follows(SETTINGS) => ("environments", json!("all of them")),
                () if asked.follows(ENVIRONMENTS) => ("exclude", json!([7])),
                () => return Action::Pass,
            };
            Action::lines(move |line| {
                change_objects(line, |object| object["spec"][field] = spoilt.clone())
            })
        });
        proxy.cut();
        let environment = ["environment", &ns];
        for (object, field) in [
            (
                ["notificationsetting", "all"],
                "spec.environments: invalid type",
            ),
            (environment, "spec.exclude[0]: invalid type"),
        ] {
            let [kind, name] = object;
            actor
                .kubectl(&["annotate", kind, name, "--overwrite", "note=changed"])
                .await?;
            let what = format!("{kind} {name} to say that it can't be read");
            kit::eventually(PATIENCE, &what, async || {
                let told = actor.kubectl(&["describe", kind, name]).await?;
                let event = told.lines().find(|line| line.contains("Unreadable"));
                let named = event.is_some_and(|event| event.contains(field));
                ensure!(named, "{told}");
                Ok(Some(()))
            })
            .await?;
        }
        receiver.forget();
        actor.apply(web(2)).await?;
        let news = ["STARTED web:v2 0 to 1", "STOPPED web:v1 1 to 0"];
        hears(&receiver, &news).await?;

        proxy.pass();
        proxy.cut();
        ready(&actor, "True Recording").await?;
        alive.still_runs()
    });
}

/// Waits until the condition `Compliant` of the environment has this reason.
async fn is_judged(actor: &Actor, want: &str) -> Result<()> {
    kit::eventually(PATIENCE, want, async || {
        let status = actor.environment_status().await?;
        let compliant = status.conditions.iter().find(|it| it.type_ == "Compliant");
        let is = compliant.map(|it| it.reason.as_str());
        ensure!(is == Some(want), "{is:?}");
        Ok(Some(()))
    })
    .await
}

#[test]
fn a_review_against_an_image_counts_even_if_not_all_of_it_can_be_read() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let ci = cluster.namespace("ci").await?;
        let rules = format!(
            "settle: {AT_ONCE}\n\
             compliance: {{provenance: {{required: true, trustedNamespaces: [{ci}]}}, grace: 1h}}"
        );
        let actor = Actor::cast(cluster, "misjudged", &rules).await?;
        let image = "r.example/judged:v1";
        actor
            .apply(deployment(&actor.name, "web", image, 1))
            .await?;
        let verdict = async |want: &str| is_judged(&actor, want).await;
        verdict("WaitingForEvidence").await?;

        // As if another version of Shipbell had written the reviews.
        proxy.answer_with(|asked| {
            if !asked.follows(APPROVALS) {
                return Action::Pass;
            }
            Action::lines(|line| {
                change_objects(line, |object| {
                    object["spec"]["reviewer"] = json!({"team": "a"});
                })
            })
        });
        proxy.cut();
        let review = |state: &str| {
            json!({
                "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactApproval",
                "metadata": {"name": state, "namespace": ci},
                "spec": {"fingerprint": cluster.kubelet.digest_of(image), "state": state, "reviewer": "eve"},
            })
        };
        for (state, reason, counts) in [
            ("approved", "WaitingForEvidence", false),
            ("rejected", "ApprovalRejected", true),
        ] {
            actor.apply(review(state)).await?;
            let what = format!("{state} to say that it can't be read");
            kit::eventually(PATIENCE, &what, async || {
                let told = actor
                    .kubectl(&["-n", &ci, "describe", "artifactapproval", state])
                    .await?;
                let event = told.lines().find(|line| line.contains("Unreadable"));
                let event = event.unwrap_or_default();
                let named = event.contains("spec.reviewer: invalid type");
                let says = event.contains("what could be read of it against one counts");
                let kept = event.contains("what it said against one before counts");
                ensure!(named && says == counts && kept != counts, "{told}");
                Ok(Some(()))
            })
            .await?;
            verdict(reason).await?;
        }
        alive.still_runs()
    });
}

#[test]
fn evidence_that_cannot_be_read_as_a_whole_speaks_for_no_image() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &[]).await?;
        let ci = cluster.namespace("ci").await?;
        let rules = format!(
            "settle: {AT_ONCE}\n\
             compliance: {{provenance: {{trustedNamespaces: [{ci}]}}, evidence: {{required: true}}, recoveryWindow: 1s}}"
        );
        let actor = Actor::cast(cluster, "misvouched", &rules).await?;
        let image = "r.example/vouched:v1";
        let digest = cluster.kubelet.digest_of(image);
        let record = |passed: bool| {
            json!({
                "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactProvenance",
                "metadata": {"name": "web", "namespace": ci},
                "spec": {"fingerprint": digest, "flow": "web", "attestations": [{"name": "scan", "compliant": passed}]},
            })
        };
        actor.apply(record(true)).await?;
        actor
            .apply(deployment(&actor.name, "web", image, 1))
            .await?;
        let verdict = async |want: &str| is_judged(&actor, want).await;
        let tells = async |object: &[&str], field: &str, counts: &str| {
            let described = [&["-n", &ci, "describe"], object].concat();
            kit::eventually(PATIENCE, counts, async || {
                let told = actor.kubectl(&described).await?;
                let event = |line: &str| line.contains(field) && line.contains(counts);
                let is_told = told.lines().any(event);
                let mut words = told.lines().map(|line| line.split_whitespace());
                let reason = words.any(|line| line.eq(["Reason:", "Unreadable"]));
                ensure!(is_told && reason, "{told}");
                Ok(Some(()))
            })
            .await
        };
        verdict("Satisfied").await?;

        // As if another version of Shipbell had written them.
        let spoils = |path: &'static str, field: &'static str| {
            proxy.answer_with(move |asked| {
                if !asked.follows(path) {
                    return Action::Pass;
                }
                Action::lines(move |line| {
                    change_objects(line, |object| object["spec"][field] = json!(7))
                })
            });
            proxy.cut();
        };
        spoils(PROVENANCES, "build");
        actor.apply(record(false)).await?;
        let counts = "what could be read of it against one counts";
        tells(
            &["artifactprovenance", "web"],
            "spec.build: invalid type",
            counts,
        )
        .await?;
        verdict("EvidenceFailed").await?;

        let entry = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "AllowedArtifact",
            "metadata": {"name": actor.name},
            "spec": {"environments": [actor.name], "artifacts": [{"fingerprint": digest, "name": "web"}], "reason": "test"},
        });
        actor.apply(entry).await?;
        verdict("Satisfied").await?;
        spoils(ALLOWANCES, "artifacts");
        let object = ["allowedartifact", &actor.name];
        let edit = [&["annotate", "--overwrite"], &object[..], &["note=changed"]].concat();
        actor.kubectl(&edit).await?;
        tells(
            &object,
            "spec.artifacts: invalid type",
            "it allows no image",
        )
        .await?;
        verdict("EvidenceFailed").await?;

        proxy.pass();
        proxy.cut();
        let edit = [&["annotate", "--overwrite"], &object[..], &["note=again"]].concat();
        actor.kubectl(&edit).await?;
        verdict("Satisfied").await?;
        alive.still_runs()
    });
}

#[test]
fn watches_that_end_forget_fall_silent_or_lose_events_cost_nothing() {
    outage(async |cluster| {
        let args = ["--watch-idle=3s", "--check-interval=1h"];
        let (proxy, alive) = behind_proxy(cluster, &args).await?;
        let (actor, receiver) = told_all(cluster, "watches").await?;

        // Each watch of pods ends after three lines: in the ordinary way, or by a cut.
        for end in [Line::End, Line::Cut] {
            proxy.answer_with(move |asked| {
                if !asked.watches(PODS) {
                    return Action::Pass;
                }
                let (lines, end) = (AtomicUsize::new(0), end.clone());
                Action::lines(move |_| match lines.fetch_add(1, Ordering::Relaxed) {
                    0..3 => Line::Pass,
                    _ => end.clone(),
                })
            });
            proxy.cut();
            for number in 0..4 {
                churn(&actor, number).await?;
            }
            all_is_told(&actor, &receiver).await?;
        }

        // The server forgets where we were, by status and in the stream, once each.
        let forgets = Arc::new(AtomicUsize::new(0));
        let asks = forgets.clone();
        proxy.answer_with(move |asked| {
            if !asked.watches(PODS) {
                return Action::Pass;
            }
            match asks.fetch_add(1, Ordering::Relaxed) {
                0 => Action::Answer(410, 0),
                1 => Action::lines(|_| {
                    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
                    Line::Instead(format!(r#"{{"type":"ERROR","object":{status}}}"#))
                }),
                _ => Action::Pass,
            }
        });
        proxy.cut();
        churn(&actor, 4).await?;
        kit::eventually(PATIENCE, "three watches", async || {
            forgets.load(Ordering::Relaxed) >= 2
        })
        .await?;
        churn(&actor, 5).await?;
        all_is_told(&actor, &receiver).await?;

        // A watch falls silent: nothing comes any more, and the connection stays.
        let silent = Arc::new(AtomicBool::new(true));
        let quiet = silent.clone();
        proxy.answer_with(move |asked| {
            let quiet = quiet.clone();
            if !asked.watches(PODS) {
                return Action::Pass;
            }
            Action::lines(move |_| {
                if quiet.load(Ordering::Relaxed) {
                    Line::Swallow
                } else {
                    Line::Pass
                }
            })
        });
        proxy.cut();
        churn(&actor, 6).await?;
        churn(&actor, 7).await?;
        all_is_told(&actor, &receiver).await?; // by the lists that follow each silence
        silent.store(false, Ordering::Relaxed);
        ready(&actor, "True Recording").await?;
        ensure!(
            alive.log_text().contains("went silent"),
            "no test of silence"
        );

        // One event is lost for good, that of a pod's end: the number of pods tells.
        alive.kill_9();
        let (proxy, mut alive) = behind_proxy(cluster, &["--check-interval=1s"]).await?;
        let lost = Arc::new(AtomicBool::new(false));
        let loses = lost.clone();
        proxy.answer_with(move |asked| {
            let loses = loses.clone();
            if !asked.watches(PODS) {
                return Action::Pass;
            }
            Action::lines(move |line| {
                if line.starts_with(r#"{"type":"DELETED""#) && !loses.swap(true, Ordering::Relaxed)
                {
                    Line::Swallow
                } else {
                    Line::Pass
                }
            })
        });
        proxy.cut();
        actor
            .apply(deployment(&actor.name, "lone", "r.example/lone:v1", 2))
            .await?;
        cluster.rolled_out(&actor.name, "lone").await?;
        cluster.scale(&actor.name, "lone", 1).await?;
        kit::eventually(PATIENCE, "a lost event", async || {
            lost.load(Ordering::Relaxed)
        })
        .await?;
        all_is_told(&actor, &receiver).await?;
        ready(&actor, "True Recording").await?;
        alive.still_runs()
    });
}

#[test]
fn pods_that_come_and_go_all_the_time_are_not_listed_again_because_their_watch_is_late() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &["--check-interval=1s"]).await?;
        let (actor, receiver) = told_all(cluster, "late").await?;
        proxy.answer_with(|asked| match asked.watches(PODS) {
            true => Action::lines(|_| Line::Late(Duration::from_millis(150))),
            false => Action::Pass,
        });
        proxy.cut();
        let counts =
            |asked: &&Asked| asked.lists(PODS) && asked.query.split('&').any(|it| it == "limit=1");
        let checks = || proxy.asked().iter().filter(counts).count();
        let enough = checks() + 30;
        for number in 0.. {
            churn(&actor, number).await?;
            if checks() >= enough {
                break;
            }
        }
        let relisted = alive.log_text().contains("the number of pods differs");
        ensure!(!relisted, "the pods were listed again for nothing");
        proxy.pass();
        proxy.cut();
        all_is_told(&actor, &receiver).await?;
        alive.still_runs()
    });
}

#[test]
fn a_list_whose_pages_fail_half_way_is_begun_again_and_nothing_seems_to_have_stopped() {
    outage(async |cluster| {
        let (proxy, mut alive) = behind_proxy(cluster, &["--check-interval=1h"]).await?;
        let (actor, receiver) = told_all(cluster, "pages").await?;
        for name in ["a", "b", "c"] {
            let image = format!("r.example/{name}:v1");
            actor
                .apply(deployment(&actor.name, name, &image, 3))
                .await?;
            cluster.rolled_out(&actor.name, name).await?;
        }
        all_is_told(&actor, &receiver).await?;
        receiver.forget();
        // There are too few pods for two pages: the proxy makes them, and spoils the second page of the first lists.
        let pages = Arc::new(AtomicUsize::new(0));
        let asked_for = pages.clone();
        proxy.answer_with(move |asked| {
            if asked.watches(PODS) && asked_for.load(Ordering::Relaxed) < 3 {
                return Action::Answer(410, 0);
            }
            if !asked.lists(PODS) || asked.query.split('&').any(|part| part == "limit=1") {
                return Action::Pass;
            }
            if asked.query.contains("continue=") {
                return match asked_for.fetch_add(1, Ordering::Relaxed) {
                    0 => Action::Answer(410, 0),
                    1 => Action::Answer(500, 0),
                    2 => Action::LoseAnswer,
                    _ => Action::lines(|line| Line::Instead(half(line, false))),
                };
            }
            Action::lines(|line| Line::Instead(half(line, true)))
        });
        proxy.cut();
        kit::eventually(PATIENCE, "the second pages", async || {
            pages.load(Ordering::Relaxed) >= 4
        })
        .await?;
        let silence = async || {
            ensure!(
                receiver.heard().is_empty(),
                "{:?}",
                kit::told(&receiver.heard())
            );
            Ok(())
        };
        stays(Duration::from_secs(2), "the silence", silence).await?;
        proxy.pass();
        cluster.scale(&actor.name, "b", 0).await?;
        hears(&receiver, &["STOPPED b:v1 3 to 0"]).await?;
        alive.still_runs()
    });
}

/// The first or the second half of a list; the first says that there is more. The token is the proxy's own: a request with
/// it reaches the API server as one for the whole list again, so the second half is cut from that.
fn half(line: &str, first: bool) -> String {
    let Ok(mut list) = serde_json::from_str::<Value>(line) else {
        return line.to_owned();
    };
    let Some(items) = list["items"].as_array().cloned() else {
        return line.to_owned();
    };
    let middle = items.len() / 2;
    if first {
        list["items"] = items[..middle].into();
        list["metadata"]["continue"] = "more".into();
    } else {
        list["items"] = items[middle..].into();
    }
    list.to_string()
}

/// What the operator may do; `without`: the resource that it may not read.
async fn grant(cluster: &Cluster, without: &str) -> Result<()> {
    let core: Vec<_> = ["pods", "namespaces"]
        .into_iter()
        .filter(|resource| *resource != without)
        .collect();
    let apps: Vec<_> = ["deployments"]
        .into_iter()
        .filter(|resource| *resource != without)
        .collect();
    let mut rules = vec![
        json!({"apiGroups": ["shipbell.dev"], "resources": ["*"], "verbs": ["*"]}),
        json!({"apiGroups": ["", "events.k8s.io"], "resources": ["secrets", "events", "configmaps"], "verbs": ["*"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}),
        json!({"apiGroups": [""], "resources": core, "verbs": ["list", "watch"]}),
    ];
    if !apps.is_empty() {
        rules.push(json!({"apiGroups": ["apps"], "resources": apps, "verbs": ["list", "watch"]}));
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "operator"}, "rules": rules,
    });
    apply(&cluster.client(), role).await?;
    Ok(())
}

/// An account for the operator; its token.
pub async fn account(cluster: &Cluster) -> Result<String> {
    grant(cluster, "nothing").await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": HOME}});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": HOME}],
    });
    apply(&cluster.client(), vec![account, binding]).await?;
    cluster.plane.service_account_token(HOME, "operator").await
}

/// Changes what may be read and cuts the connections, on which rights are not asked for again.
async fn forbid(cluster: &Cluster, proxy: &Proxy, without: &str) -> Result<()> {
    grant(cluster, without).await?;
    // Rights are taken up a moment after they are written.
    let path = match without {
        "pods" => PODS,
        "deployments" => DEPLOYMENTS,
        _ => NAMESPACES,
    };
    let token = cluster
        .plane
        .service_account_token(HOME, "operator")
        .await?;
    let client = cluster.plane.client_for_token(&token)?;
    kit::eventually(PATIENCE, "the right to be gone", async || {
        let request = http::Request::get(format!("{path}?limit=1")).body(vec![])?;
        let answer = client.request_text(request).await;
        ensure!(
            matches!(answer, Err(kube::Error::Api(status)) if status.code == 403),
            "it may still be read"
        );
        Ok(())
    })
    .await?;
    proxy.cut();
    Ok(())
}

#[test]
fn what_may_not_be_read_freezes_what_depends_on_it_and_heals_by_itself() {
    outage(async |cluster| {
        let token = account(cluster).await?;
        grant(cluster, "pods").await?;
        let proxy = Proxy::start(&cluster.plane)?;
        let cast = Cast {
            kubeconfig: Some(proxy.kubeconfig(Some(&token))?),
            ..Cast::default()
        };
        let mut alive = spawn(cluster, &cast)?;
        let actor = Actor {
            cluster,
            name: cluster
                .labelled_namespace("rights", &[("team", "a")])
                .await?,
        };
        let ns = actor.name.clone();
        actor
            .environment(&format!(
                "settle: {AT_ONCE}\nnamespaceSelector: {{matchLabels: {{team: a}}}}"
            ))
            .await?;
        actor
            .apply(deployment(&ns, "web", "r.example/web:v1", 2))
            .await?;
        cluster.rolled_out(&ns, "web").await?;
        let why = ready(&actor, "False NotSynced").await?;
        ensure!(why.contains("pods") && why.contains("ClusterRole"), "{why}");
        ensure!(actor.log().await?.is_empty(), "a baseline of nothing");
        let used = alive.processor_time()?;
        let _ = kit::stays(Duration::from_secs(2), "time", async || true).await;
        let used = alive.processor_time()?.saturating_sub(used);
        ensure!(
            used < Duration::from_millis(100),
            "{used:?} of 2 s to do nothing"
        );

        grant(cluster, "nothing").await?;
        actor.recorded(1).await?;
        ready(&actor, "True Recording").await?;
        let receiver = kit::Receiver::start();
        actor.webhook("all", &receiver, crate::ALL).await?;
        for (round, kind) in (1_u32..).zip(["pods", "namespaces", "deployments"]) {
            forbid(cluster, &proxy, kind).await?;
            if kind == "deployments" {
                kit::eventually(PATIENCE, "readiness to be gone", async || {
                    let (status, why) = alive.get("/readyz").await?;
                    ensure!(status == 503 && why.contains(kind), "{status} {why}");
                    Ok(())
                })
                .await?;
            } else {
                let why = ready(&actor, "False NotSynced").await?;
                ensure!(why.contains(kind), "{why}");
            }
            cluster.scale(&ns, "web", 2 + round).await?;
            cluster.rolled_out(&ns, "web").await?;
            let told = format!("SCALED web:v1 {} to {}", 1 + round, 2 + round);
            if kind == "deployments" {
                hears(&receiver, &[&told]).await?; // the pods are enough
                grant(cluster, "nothing").await?;
            } else {
                let silence = async || {
                    ensure!(
                        receiver.heard().is_empty(),
                        "{:?}",
                        kit::told(&receiver.heard())
                    );
                    Ok(())
                };
                stays(Duration::from_secs(2), "the silence", silence).await?;
                grant(cluster, "nothing").await?;
                hears(&receiver, &[&told]).await?;
            }
            ready(&actor, "True Recording").await?;
            alive.wait_ready(PATIENCE).await?;
            receiver.forget();
        }

        // To list and not to watch is no better.
        proxy.answer_with(|asked| {
            if asked.watches(PODS) {
                Action::Answer(403, 0)
            } else {
                Action::Pass
            }
        });
        proxy.cut();
        ready(&actor, "False NotSynced").await?;
        stays(Duration::from_secs(4), "the condition", async || {
            let status = actor.environment_status().await?;
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
            ensure!(
                ready.is_some_and(|ready| ready.status == "False"),
                "{ready:?}"
            );
            Ok(())
        })
        .await?;
        proxy.pass();
        ready(&actor, "True Recording").await?;
        Ok(())
    });
}
