//! The read API of the log, and its links in payloads, on a control plane of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod attack;
mod example;
mod large_cluster;

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Cluster, Heard, Receiver, apply,
    cluster::PATIENCE,
    deployment, eventually, hears,
    http1::{get, with_token},
    ports::Port,
    stage::{Cast, SETTLE, alone, operator},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

#[test]
fn every_link_of_a_payload_resolves_for_those_who_may_read_snapshots() {
    alone(story);
}

async fn story(cluster: &'static Cluster) -> Result<()> {
    let port = Port::reserve()?;
    let address = port.address();
    let cast = Cast {
        args: vec![
            format!("--external-url=http://{address}"),
            format!("--api-listen={address}"),
        ],
        ..Cast::default()
    };
    let operator = operator(cluster, &cast).await?;
    let actor = Actor::new(cluster, "archive").await?;
    let environment = actor.name.clone();
    let receiver = Receiver::start();
    actor
        .webhook(
            "all",
            &receiver,
            "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED]",
        )
        .await?;
    actor
        .apply(deployment(&actor.name, "web", "r.example/archive:v1", 2))
        .await?;
    hears(&receiver, &["STARTED archive:v1 0 to 2"]).await?;
    actor
        .apply(deployment(
            &actor.name,
            "api",
            "r.example/archive-api:v1",
            1,
        ))
        .await?;
    let heard = hears(
        &receiver,
        &["STARTED archive:v1 0 to 2", "STARTED archive-api:v1 0 to 1"],
    )
    .await?;

    let reader = reader(cluster).await?;
    let stranger = cluster
        .plane
        .token_for_audience(&actor.name, "default", Some("shipbell"))
        .await?;
    // The reader's, but for the API server: whoever got hold of it here could use it there.
    let cluster_token = cluster
        .plane
        .service_account_token("shipbell", "default")
        .await?;
    let links = &heard[0].json()["snapshot"];
    let path = |link: &Value| {
        Some(
            link.as_str()?
                .strip_prefix(&format!("http://{address}"))?
                .to_owned(),
        )
    };
    let api = path(&links["api_url"]).context("no api_url")?;
    let html = path(&links["html_url"]).context("no html_url")?;

    let fetch = async |path: &str, token: Option<&str>| get(address, path, token).await;
    for (token, want) in [
        (None, 401),
        (Some("nonsense"), 401),
        (Some(cluster_token.as_str()), 401),
        (Some(stranger.as_str()), 403),
        (Some(reader.as_str()), 200),
    ] {
        for link in [&api, &html] {
            let (status, body) = fetch(link, token).await?;
            ensure!(status == want, "{link}: {status}, not {want}: {body}");
        }
    }
    let json = async |path: &str| -> Result<Value> {
        let (status, body) = fetch(path, Some(&reader)).await?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    };

    let second = json(&api).await?;
    ensure!(
        second["index"] == 2 && second["is_latest"] == false && second["type"] == "K8S",
        "{second}"
    );
    ensure!(
        second["artifacts"][0]["annotation"]
            == json!({"type": "started-unknown", "was": 0, "now": 2}),
        "{second}"
    );
    ensure!(second["next_snapshot_timestamp"].is_f64(), "{second}");
    let newest = json(&format!("/api/v2/snapshots/acme/{environment}/-1")).await?;
    ensure!(
        newest["index"] == 3
            && newest["is_latest"] == true
            && newest["next_snapshot_timestamp"].is_null(),
        "{newest}"
    );
    let annotations: Vec<_> = newest["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|artifact| artifact["annotation"]["type"].clone())
        .collect();
    ensure!(annotations == ["started-unknown", "unchanged"], "{newest}");
    ensure!(
        newest["artifact_compliance_count"] == json!({"true": 0, "false": 0, "null": 2}),
        "{newest}"
    );

    let list = json(&format!("/api/v2/snapshots/acme/{environment}?per_page=2")).await?;
    let indices: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["index"].as_i64().unwrap())
        .collect();
    ensure!(
        indices == [3, 2] && list[0]["to"] == 0.0 && list[1]["to"] == list[0]["from"],
        "{list}"
    );
    let events = json(&format!("/api/v2/environments/acme/{environment}/events")).await?;
    ensure!(
        events.as_array().unwrap().len() == 2 && events[0]["snapshot_index"] == 3,
        "{events}"
    );
    ensure!(
        events[1]["description"] == "2 instances started running (from 0 to 2)",
        "{events}"
    );

    for (path, want) in [
        (format!("/api/v2/snapshots/acme/{environment}/99"), 404),
        (format!("/api/v2/snapshots/acme/{environment}/seven"), 400),
        (
            format!("/api/v2/snapshots/acme/{environment}?per_page=1000"),
            400,
        ),
        (
            format!("/api/v2/environments/acme/{environment}/events?page=abc"),
            400,
        ),
        ("/api/v2/snapshots/acme/%FF".to_owned(), 400),
        (format!("/api/v2/snapshots/other/{environment}/1"), 404),
        ("/api/v2/snapshots/acme/nowhere/1".to_owned(), 404),
        ("/nothing".to_owned(), 404),
    ] {
        let (status, body) = fetch(&path, Some(&reader)).await?;
        let told: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(
            status == want && told["message"].is_string(),
            "{path}: {status} {body}"
        );
    }
    let (status, body) = with_token(address, "DELETE", &api, Some(&reader)).await?;
    let told: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    ensure!(
        status == 405 && told["message"].is_string(),
        "{status} {body}"
    );
    let (_, page) = fetch(&html, Some(&reader)).await?;
    ensure!(
        page.contains("r.example/archive:v1") && page.contains("snapshot #2"),
        "{page}"
    );
    origins(
        cluster,
        &Crawler {
            address,
            token: reader,
        },
    )
    .await?;
    let (_, metrics) = operator.get("/metrics").await?;
    documented(&metrics)?;
    operator.terminate(PATIENCE).await?;
    Ok(())
}

/// Whether the metrics that are served are those that the documentation has a row for.
fn documented(metrics: &str) -> Result<()> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page)?;
    let rows = page.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `shipbell_")?.split_once("` | ")?;
        Some((format!("shipbell_{name}"), rest.split(' ').next()?))
    });
    let rows: BTreeMap<String, &str> = rows.collect();
    let histograms = rows.iter().filter(|(_, kind)| **kind == "histogram");
    let histograms: Vec<&String> = histograms.map(|(name, _)| name).collect();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let served = samples.map(|line| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let of_histogram = histograms.iter().find(|histogram| {
            let suffix = name.strip_prefix(histogram.as_str());
            matches!(suffix, Some("_bucket" | "_count" | "_sum"))
        });
        of_histogram.map_or(name, |histogram| histogram.as_str())
    });
    let served: BTreeSet<&str> = served.collect();
    let documented: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    ensure!(
        served == documented,
        "{served:#?} are served, {documented:#?} are documented"
    );
    Ok(())
}

/// The digest of an image whose record names it as an alias only.
const ALIAS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Records, reviews, the allow-list and rules: what payloads say of them leads to them, also after they are gone.
async fn origins(cluster: &'static Cluster, crawler: &Crawler) -> Result<()> {
    let client = cluster.client();
    apply(
        &client,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ci"}}),
    )
    .await?;
    let actor = Actor::cast(
        cluster,
        "origin",
        &format!(
            "settle: {SETTLE}\ncompliance: {{provenance: {{required: true, trustedNamespaces: [ci]}}, evidence: {{required: true}}, \
             approval: {{required: true}}, grace: 1s, recoveryWindow: 1s}}"
        ),
    )
    .await?;
    let environment = actor.name.clone();
    let receiver = Receiver::start();
    let all = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_SCALED, ARTIFACT_ALLOWED, ENVIRONMENT_NON_COMPLIANT, ENVIRONMENT_COMPLIANT]";
    actor.webhook("all", &receiver, all).await?;

    // A flow that is called like a path of ours must not get in its way.
    let digest = cluster.kubelet.digest_of("r.example/runner:v1");
    for flow in ["runner", "environments", "flows"] {
        let build = "https://ci.example/<runs>/5891969166";
        let spec = json!({
            "fingerprint": digest, "aliases": [ALIAS], "flow": flow, "name": "runner<b>",
            "commit": {"sha": "1ac157003dd6fb9ec764daa47726b7bfed65c312", "url": "https://git.example/commit/1ac1570"},
            "build": {"url": build}, "requiredAttestations": ["scan"],
            "attestations": [{"name": "scan", "type": "snyk", "compliant": true}],
            "deployments": [{"number": 44, "environment": environment, "time": "2023-08-21T11:50:44Z", "buildURL": build}],
        });
        apply(
            &client,
            of_shipbell("ArtifactProvenance", flow, Some("ci"), &spec),
        )
        .await?;
    }
    let forged = json!({"fingerprint": digest, "flow": "forged"});
    let forged = of_shipbell("ArtifactProvenance", "forged", Some(&environment), &forged);
    apply(&client, forged).await?;
    let review = json!({"fingerprint": digest, "number": 42, "state": "approved", "reviewer": "username", "comment": "lgtm"});
    apply(
        &client,
        of_shipbell("ArtifactApproval", "r42", Some("ci"), &review),
    )
    .await?;
    crawler
        .told("/api/v2/approvals/acme/runner/42", 200)
        .await?;

    actor
        .apply(deployment(&actor.name, "runner", "r.example/runner:v1", 1))
        .await?;
    hears_of(&receiver, &["ARTIFACT_STARTED"]).await?;
    let started = receiver.heard()[0].json();
    let provenance = &started["artifact"]["provenance"];
    // Of the flows of an image the first by name is the one that is shown.
    ensure!(provenance["flow"] == "environments", "{started:#}");
    let links = links_of(&started);
    ensure!(links.len() == 8, "{links:?}");

    actor
        .apply(deployment(&actor.name, "nginx", "r.example/nginx:v1", 1))
        .await?;
    hears_of(
        &receiver,
        &[
            "ARTIFACT_STARTED",
            "ARTIFACT_STARTED",
            "ENVIRONMENT_NON_COMPLIANT",
        ],
    )
    .await?;
    let red = crawler
        .json(&format!("/api/v2/environments/acme/{environment}"))
        .await?;
    ensure!(
        red["state"] == false
            && red["reasons"][0]["reason"] == "NoProvenance"
            && red["last_changed_at"].is_f64(),
        "{red:#}"
    );
    let listed = json!({
        "environments": [environment], "reason": "third <party>", "expiresAt": "2199-01-01T00:00:00Z",
        "artifacts": [{"fingerprint": cluster.kubelet.digest_of("r.example/nginx:v1"), "name": "nginx"}],
    });
    apply(
        &client,
        of_shipbell("AllowedArtifact", "nginx", None, &listed),
    )
    .await?;
    let told = [
        "ARTIFACT_STARTED",
        "ARTIFACT_STARTED",
        "ENVIRONMENT_NON_COMPLIANT",
        "ARTIFACT_ALLOWED",
        "ENVIRONMENT_COMPLIANT",
    ];
    hears_of(&receiver, &told).await?;

    // What the records say.
    let page = |flow: &str| format!("/acme/{flow}/{digest}");
    let api =
        |flow: &str, digest: &str| format!("/api/v2/artifacts/acme/{flow}/fingerprint/{digest}");
    for flow in ["runner", "environments", "flows"] {
        let found = crawler.json(&api(flow, &digest)).await?;
        ensure!(
            found["flow_name"] == flow
                && found["filename"] == "runner<b>"
                && found["state"] == "COMPLIANT"
                && found["compliant"] == true
                && found["source"]["record"] == format!("ci/{flow}")
                && found["deployments"][0]["number"] == 44
                && found["approvals"][0]["number"] == 42
                && found["running"][0]["environment_name"] == environment
                && found["running"][0]["compliant"] == true,
            "{found:#}"
        );
        ensure!(
            crawler.json(&api(flow, ALIAS)).await? == found,
            "{flow}: the alias"
        );
        let page = crawler.told(&page(flow), 200).await?;
        ensure!(
            page.contains("runner&lt;b&gt; of flow")
                && !page.contains("<b>")
                && page.contains("snyk"),
            "{page}"
        );
    }
    for (path, want) in [
        (api("forged", &digest), 404),
        (page("forged"), 404),
        (api("runner", &"f".repeat(64)), 404),
        (api("runner", "nothing"), 400),
        ("/api/v2/deployments/acme/runner/45".to_owned(), 404),
        ("/acme/flows/other/approvals/42".to_owned(), 404),
        ("/api/v2/approvals/acme/runner/many".to_owned(), 400),
        ("/api/v2/approvals/other/runner/42".to_owned(), 404),
        ("/api/v2/environments/acme/nowhere".to_owned(), 404),
        ("/api/v2/allowlists/acme/nowhere".to_owned(), 404),
        ("/acme/environments/nowhere".to_owned(), 404),
    ] {
        let body = crawler.told(&path, want).await?;
        let told: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(
            told["message"].as_str().is_some_and(|it| it.len() > 20),
            "{path}: {body}"
        );
    }
    let (status, _) = get(crawler.address, &page("runner"), None).await?;
    ensure!(status == 401, "behind the guard: {status}");
    let allowed = crawler
        .json(&format!("/api/v2/allowlists/acme/{environment}"))
        .await?;
    ensure!(
        allowed[0]["artifact_name"] == "nginx"
            && allowed[0]["description"] == "third <party>"
            && allowed[0]["user_name"] == ""
            && allowed[0]["active"] == true
            && allowed[0]["timestamp"].is_f64()
            && crawler.json("/api/v2/allowlists/acme").await? == allowed,
        "{allowed:#}"
    );
    let list = crawler.json("/api/v2/environments/acme").await?;
    let states: Vec<_> = list
        .as_array()
        .context("no list")?
        .iter()
        .map(|it| &it["state"])
        .collect();
    ensure!(states == [&Value::Null, &Value::Bool(true)], "{list:#}");
    let shown = crawler
        .told(&format!("/acme/environments/{environment}"), 200)
        .await?;
    ensure!(
        shown.contains("third &lt;party&gt;") && shown.contains("<td>compliant"),
        "{shown}"
    );
    let roots = [
        "/api/v2/environments/acme".to_owned(),
        format!("/api/v2/environments/acme/{environment}/events?per_page=100"),
        format!("/api/v2/snapshots/acme/{environment}/-1"),
        page("runner"),
    ];
    crawler.follow(&receiver.heard(), &roots).await?;

    // All of it is deleted, and then stops.
    actor
        .kubectl(&[
            "-n",
            "ci",
            "delete",
            "artifactprovenances,artifactapprovals",
            "--all",
        ])
        .await?;
    actor
        .kubectl(&["delete", "allowedartifact", "nginx"])
        .await?;
    let mut told: Vec<&str> = told.into();
    told.push("ENVIRONMENT_NON_COMPLIANT");
    hears_of(&receiver, &told).await?;
    let heard = receiver.heard();
    crawler.follow(&heard, &roots[..3]).await?;
    let found = crawler.json(&api("environments", &digest)).await?;
    ensure!(
        found["source"]["record"].is_null()
            && found["source"]["environment_name"] == environment
            && found["filename"] == "runner<b>"
            && found["state"] == "COMPLIANT"
            && found["running"][0]["compliant"] == false
            && found["running"][0]["reason"] == "UntrustedProvenance",
        "{found:#}"
    );
    // A log embeds one flow of an image: what it never told is not there any more.
    let body = crawler.told(&api("runner", &digest), 404).await?;
    ensure!(body.contains("snapshots"), "{body}");
    for app in ["runner", "nginx"] {
        cluster.scale(&actor.name, app, 0).await?;
    }
    eventually(PATIENCE, "both to stop", async || {
        let heard = receiver.heard();
        let stops = heard
            .iter()
            .filter(|it| it.json()["event_type"] == "ARTIFACT_STOPPED");
        let stops = stops.count();
        ensure!(stops == 2, "{stops} stopped");
        Ok(())
    })
    .await?;
    crawler.follow(&receiver.heard(), &roots[..3]).await?;
    Ok(())
}

/// An object of a kind of ours.
fn of_shipbell(kind: &str, name: &str, namespace: Option<&str>, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "shipbell.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

/// Waits until a receiver has heard exactly these types, in this order.
async fn hears_of(receiver: &Receiver, want: &[&str]) -> Result<()> {
    let types = || -> Vec<String> {
        let heard = receiver.heard();
        let types = heard.iter().map(|it| it.json()["event_type"].clone());
        types
            .filter_map(|it| Some(it.as_str()?.to_owned()))
            .collect()
    };
    eventually(PATIENCE, &format!("{want:?}"), async || {
        let heard = types();
        ensure!(heard == want, "{heard:?}");
        Ok(())
    })
    .await
}

/// All links to pages and JSON of ours that a document holds.
fn links_of(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_link = ["html_url", "api_url", "self", "html"].contains(&key.as_str());
                match value.as_str() {
                    Some("") => {}
                    Some(link) if is_link => {
                        found.insert(link.to_owned());
                    }
                    _ => found.extend(links_of(value)),
                }
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(links_of)),
        _ => {}
    }
    found
}

/// Someone with a token who follows links.
struct Crawler {
    address: SocketAddr,
    token: String,
}

impl Crawler {
    /// Gets a path, whose status must be this.
    async fn told(&self, path: &str, want: u16) -> Result<String> {
        eventually(Duration::from_secs(5), path, async || {
            let (status, body) = get(self.address, path, Some(&self.token)).await?;
            ensure!(status == want, "{path}: {status}, not {want}: {body}");
            Ok(Some(body))
        })
        .await
    }

    async fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.told(path, 200).await?)?)
    }

    /// JSON is of what its path names.
    fn is_of(&self, path: &str, value: &Value) -> Result<()> {
        if let Some(own) = value["api_url"].as_str() {
            ensure!(
                own == format!("http://{}{path}", self.address),
                "{path}: {value:#}"
            );
        }
        let snapshot = path.strip_prefix("/api/v2/snapshots/");
        let index = snapshot.and_then(|path| path.rsplit('/').next()?.parse::<i64>().ok());
        if let Some(index) = index.filter(|index| *index > 0) {
            ensure!(value["index"] == index, "{path}: {value:#}");
        }
        Ok(())
    }

    /// What the links of a payload lead to says the same as the payload.
    async fn agrees(&self, provenance: &Value, base: &str) -> Result<()> {
        let at = async |told: &Value| -> Result<Option<Value>> {
            let link = told["api_url"]
                .as_str()
                .and_then(|link| link.strip_prefix(base));
            match link {
                Some(path) => Ok(Some(self.json(path).await?)),
                None => Ok(None),
            }
        };
        if let Some(artifact) = at(provenance).await? {
            for (theirs, ours) in [
                ("flow", "flow_name"),
                ("commit", "git_commit"),
                ("commit_url", "commit_url"),
                ("build_url", "build_url"),
                ("html_url", "html_url"),
            ] {
                ensure!(
                    provenance[theirs] == artifact[ours],
                    "{provenance:#} {artifact:#}"
                );
            }
        }
        for (list, words) in [
            ("deployments", &["build_url", "html_url"][..]),
            (
                "approvals",
                &[
                    "state",
                    "latest_reviewer",
                    "latest_review_comment",
                    "html_url",
                ][..],
            ),
        ] {
            for told in provenance[list].as_array().into_iter().flatten() {
                let Some(found) = at(told).await? else {
                    // A review whose record is gone belongs to no flow, and has no page.
                    ensure!(provenance["flow"] == "", "a note without a link");
                    continue;
                };
                ensure!(
                    words.iter().all(|word| told[word] == found[word]),
                    "{told:#} {found:#}"
                );
                let is_same = |key: &str| {
                    let number = found[key].as_f64().map(|number| number.to_string());
                    told[key].as_str() == number.as_deref()
                };
                ensure!(
                    is_same("number") && is_same("timestamp"),
                    "{told:#} {found:#}"
                );
            }
        }
        Ok(())
    }

    /// Follows every link of what was heard, and every link of ours that stands at what they lead to, and so on.
    async fn follow(&self, heard: &[Heard], roots: &[String]) -> Result<()> {
        let base = format!("http://{}", self.address);
        let mut open: Vec<String> = heard.iter().flat_map(|it| links_of(&it.json())).collect();
        ensure!(open.iter().all(|link| link.starts_with(&base)), "{open:?}");
        open.extend(roots.iter().map(|path| format!("{base}{path}")));
        let mut seen = BTreeSet::new();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        while let Some(link) = open.pop() {
            let Some(path) = link.strip_prefix(&base).map(str::to_owned) else {
                continue; // the build, the commit
            };
            if !seen.insert(path.clone()) {
                continue;
            }
            // At once: a link must not need patience.
            let (status, body) = get(self.address, &path, Some(&self.token)).await?;
            ensure!(status == 200, "{path}: {status}: {body}");
            if path.starts_with("/api/") {
                let value: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
                ensure!(
                    value.is_array() || value.get("message").is_none(),
                    "{path}: {body}"
                );
                open.extend(links_of(&value));
                self.is_of(&path, &value)?;
                *kinds.entry("json").or_default() += 1;
            } else {
                let last = path.rsplit('/').next().unwrap_or_default();
                let title = body.split("</h1>").next().unwrap_or_default();
                let is_of_it =
                    title.contains(last) || body.contains(&format!("<code>{last}</code>"));
                ensure!(
                    body.starts_with("<!doctype html>") && is_of_it,
                    "{path}: {body}"
                );
                let links = body
                    .split("href=\"")
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next());
                open.extend(links.map(str::to_owned));
                *kinds.entry("page").or_default() += 1;
            }
        }
        for request in heard {
            let payload = request.json();
            self.agrees(&payload["artifact"]["provenance"], &base)
                .await?;
        }
        println!("followed {} links: {kinds:?}", seen.len());
        Ok(())
    }
}

/// The token of an account that may get snapshots.
pub(crate) async fn reader(cluster: &Cluster) -> Result<String> {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "readers"},
        "rules": [{"apiGroups": ["shipbell.dev"], "resources": ["environmentsnapshots"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "readers"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "shipbell"}]});
    apply(&cluster.client(), vec![role, binding]).await?;
    eventually(PATIENCE, "a token", async || {
        token_of_reader(cluster).await.map(Some)
    })
    .await
}

/// A new token of that account.
pub(crate) async fn token_of_reader(cluster: &Cluster) -> Result<String> {
    cluster
        .plane
        .token_for_audience("shipbell", "default", Some("shipbell"))
        .await
}
