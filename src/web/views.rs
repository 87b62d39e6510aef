//! The log as JSON, in the shapes of Kosli's read API: what the log holds, and nothing that it doesn't. Here numbers are
//! numbers; only the webhook payload is all strings.

pub mod artifact;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType,
        snapshot::{Change, ComplianceState, Provenance, Verdict},
    },
    cluster::image::Fingerprint,
    compliance::evidence::{Allowance, Evidence},
    message::installation::Installation,
    snapshot::{event, ledger::Ledger, state::EnvironmentSummary},
};

/// Unix seconds with fractions.
pub fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

fn compliant(state: ComplianceState) -> Value {
    match state {
        ComplianceState::Compliant => true.into(),
        ComplianceState::NonCompliant => false.into(),
        ComplianceState::Unknown => Value::Null,
    }
}

/// Whether an artifact keeps the rules, and why.
fn verdict(verdict: Option<&Verdict>) -> [(&'static str, Value); 4] {
    let state = verdict.map_or(ComplianceState::Unknown, |verdict| verdict.state);
    let grace = verdict.and_then(|verdict| verdict.grace_until);
    [
        ("compliant", compliant(state)),
        (
            "reason",
            verdict.map_or("", |verdict| verdict.reason.as_str()).into(),
        ),
        (
            "message",
            verdict
                .map_or("", |verdict| verdict.message.as_str())
                .into(),
        ),
        ("grace_until", grace.map(seconds).into()),
    ]
}

/// An environment. `picture`: what is known of it, once its log has been read.
pub fn environment(
    installation: &Installation,
    name: &str,
    picture: Option<&EnvironmentSummary>,
) -> Value {
    let compliance = picture.map(|picture| &picture.compliance);
    let state = compliance.map_or(ComplianceState::Unknown, |compliance| compliance.state);
    let head = picture.and_then(|picture| picture.head);
    let (troubles, more) = picture.map_or((&[][..], 0), |picture| {
        (&picture.problems.0[..], picture.problems.1)
    });
    let reasons = troubles.iter().map(|trouble| {
        let mut value = json!({
            "artifact_name": trouble.name,
            "fingerprint": trouble.fingerprint.to_string(),
        });
        for (key, told) in verdict(Some(&trouble.verdict)) {
            value[key] = told;
        }
        value
    });
    let index = head.map(|(index, _)| index);
    let totals = picture.map(|picture| picture.totals);
    json!({
        "org": installation.org,
        "name": name,
        "type": "K8S",
        "state": compliant(state),
        "has_rules": picture.is_some_and(|picture| picture.ruled),
        "last_changed_at": head.map(|(_, time)| seconds(time)),
        "state_since": compliance.and_then(|it| it.since).map(seconds),
        "pending_until": compliance.and_then(|it| it.pending_until).map(seconds),
        "reasons_for_incompliance": compliance.map_or(&[][..], |it| &it.reasons[..]),
        "reasons": reasons.collect::<Vec<_>>(),
        "more_reasons": more,
        "snapshot_index": index,
        "artifacts": totals.map(|totals| totals.artifacts),
        "instances": totals.map(|totals| totals.instances),
        "unidentified": picture.map(|picture| picture.unidentified),
        "html_url": installation.environment_html_url(name),
        "api_url": installation.environment_api_url(name),
        "_links": {"snapshot": {
            "self": index.map_or(String::new(), |index| installation.snapshot_api_url(name, index)),
            "html": index.map_or(String::new(), |index| installation.snapshot_html_url(name, index)),
        }},
    })
}

/// The allow-list of an environment, or of all: the newest entries first.
pub fn allow_list(evidence: &Evidence, environment: Option<&str>, now: Timestamp) -> Vec<Value> {
    let mut entries: Vec<&Allowance> = match environment {
        Some(name) => evidence.allowances_in(name).map(|entry| &**entry).collect(),
        None => evidence.allowances().values().map(|it| &**it).collect(),
    };
    entries.sort_by(|a, b| (b.created, &a.name).cmp(&(a.created, &b.name)));
    let items = entries.into_iter().flat_map(|entry| {
        let environments = entry.environments.iter();
        let environments =
            environments.filter(move |name| environment.is_none_or(|wanted| wanted == &***name));
        environments.flat_map(move |environment| {
            entry.artifacts.iter().map(move |(fingerprint, name)| {
                json!({
                    "artifact_name": name,
                    "fingerprint": fingerprint.to_string(),
                    "environment_name": environment,
                    "timestamp": seconds(entry.created),
                    "user_name": "",
                    "description": entry.reason.trim(),
                    "expires_at": entry.expires.map(seconds),
                    "active": entry.is_active(now),
                    "entry": &*entry.name,
                })
            })
        })
    });
    items.collect()
}

/// One snapshot with all that runs after it; artifacts that it saw leave are in it with `now` 0. `next`: when the one
/// after it was recorded.
pub fn snapshot(
    installation: &Installation,
    spec: &EnvironmentSnapshotSpec,
    after: &Ledger,
    next: Option<Timestamp>,
) -> Value {
    let changed: BTreeMap<&str, &Change> = spec
        .changes
        .iter()
        .map(|change| (change.fingerprint.as_str(), change))
        .collect();
    let running = after
        .artifacts()
        .map(|(fingerprint, total)| (fingerprint.to_string(), i64::from(total)));
    // What was only put on the allow-list never was here.
    let left = spec
        .changes
        .iter()
        .filter(|change| change.now == 0 && change.was > 0)
        .map(|change| (change.fingerprint.clone(), 0));
    let mut artifacts: Vec<(String, String, Value)> = running
        .chain(left)
        .map(|(fingerprint, now)| {
            let change = changed.get(fingerprint.as_str()).copied();
            let name = change.map(|change| change.name.clone());
            let recorded = || {
                Fingerprint::from_hex(&fingerprint)
                    .and_then(|digest| after.names.get(&digest).cloned())
            };
            let name = name.or_else(recorded).unwrap_or_default();
            let digest = Fingerprint::from_hex(&fingerprint);
            let facts = digest.and_then(|digest| after.facts.get(&digest));
            let (verdict, known) = match change {
                Some(change) => (change.verdict.as_ref(), change.provenance.as_ref()),
                None => (
                    facts.and_then(|facts| facts.verdict.as_ref()),
                    facts.and_then(|facts| facts.provenance.as_ref()),
                ),
            };
            let state = verdict.map_or(ComplianceState::Unknown, |verdict| verdict.state);
            let flow = known.map_or("", |known| known.flow.as_str());
            let broken = verdict.filter(|it| it.state == ComplianceState::NonCompliant);
            let deployments = known.map(deployments);
            let page = installation.artifact_html_url(flow, &fingerprint);
            let flows = known.filter(|known| !known.flow.is_empty()).map(|known| {
                json!({
                    "flow_name": known.flow,
                    "git_commit": known.commit,
                    "commit_url": known.commit_url,
                    "html_url": page,
                })
            });
            let value = json!({
                "name": name,
                "fingerprint": fingerprint,
                "compliant": compliant(state),
                "creationTimestamp": [],
                "pods": {},
                "annotation": annotation(change, now),
                "reasons_for_incompliance": broken.iter().map(|it| &it.message).collect::<Vec<_>>(),
                "policy_decisions": [],
                "deployments": deployments.unwrap_or_default(),
                "flow_name": flow,
                "git_commit": known.map_or("", |known| &known.commit),
                "commit_url": known.map_or("", |known| &known.commit_url),
                "html_url": page,
                "flow_html_url": "",
                "deployment_diff": null,
                "commit_lead_time": null,
                "flows": flows.into_iter().collect::<Vec<_>>(),
            });
            (name, fingerprint, value)
        })
        .collect();
    artifacts.sort_by(|(name_a, digest_a, _), (name_b, digest_b, _)| {
        (name_a, digest_a).cmp(&(name_b, digest_b))
    });
    let count = |compliant: Value| {
        let counted = artifacts.iter().filter(|(_, _, value)| {
            value["annotation"]["now"] != 0 && value["compliant"] == compliant
        });
        counted.count()
    };
    json!({
        "index": spec.index,
        "is_latest": next.is_none(),
        "next_snapshot_timestamp": next.map(seconds),
        "timestamp": seconds(spec.time),
        "type": "K8S",
        "compliant": compliant(spec.compliance.state),
        "artifact_compliance_count": {
            "true": count(true.into()), "false": count(false.into()), "null": count(Value::Null),
        },
        "html_url": installation.snapshot_html_url(&spec.environment, spec.index),
        "applied_policies": [],
        "artifacts": artifacts.into_iter().map(|(_, _, value)| value).collect::<Vec<_>>(),
    })
}

/// The numbers of the deployments that were announced.
fn deployments(known: &Provenance) -> Vec<i64> {
    known.deployments.iter().map(|note| note.number).collect()
}

fn annotation(change: Option<&Change>, now: i64) -> Value {
    let (was, now) = change.map_or((now, now), |change| (change.was, change.now));
    let verdict = change.and_then(|change| change.verdict.as_ref());
    let state = verdict.map_or(ComplianceState::Unknown, |verdict| verdict.state);
    let type_ = match (was, now) {
        (0, _) => format!("started-{}", state.word()),
        (_, 0) => "exited".to_owned(),
        (was, now) if was == now && change.is_some() => "changed".to_owned(),
        (was, now) if was == now => "unchanged".to_owned(),
        _ if change.is_some_and(|change| change.rollout) => "changed".to_owned(),
        _ => "scaled".to_owned(),
    };
    json!({"type": type_, "was": was, "now": now})
}

/// A snapshot as the list of an environment's snapshots tells it.
pub fn line(
    index: i64,
    from: Timestamp,
    to: Option<Timestamp>,
    state: ComplianceState,
    now: Timestamp,
) -> Value {
    let duration = seconds(to.unwrap_or(now)) - seconds(from);
    json!({
        "index": index,
        "from": seconds(from),
        "to": to.map_or(0.0, seconds),
        "compliant": compliant(state),
        "duration": duration,
    })
}

/// The events of a snapshot, the last first.
pub fn events(installation: &Installation, spec: &EnvironmentSnapshotSpec) -> Vec<Value> {
    let told = spec.events.iter().rev().map(|told| {
        let change = event::change(spec, told);
        let verdict = change.and_then(|change| change.verdict.as_ref());
        let state = verdict.map_or(ComplianceState::Unknown, |verdict| verdict.state);
        let known = change.and_then(|change| change.provenance.as_ref());
        let flow = known.map_or("", |known| known.flow.as_str());
        let fingerprint = change.map_or("", |change| change.fingerprint.as_str());
        let flows = known.filter(|_| !flow.is_empty());
        let deployments = known.map(deployments);
        let type_ = match told.type_ {
            EventType::ArtifactStarted => format!("started-{}", state.word()),
            EventType::ArtifactStopped => "exited".to_owned(),
            EventType::ArtifactScaled => "scaled".to_owned(),
            EventType::ArtifactAllowed => "allowed".to_owned(),
            EventType::EnvironmentNonCompliant => "became-non-compliant".to_owned(),
            EventType::EnvironmentCompliant => "became-compliant".to_owned(),
        };
        json!({
            "environment_name": spec.environment,
            "snapshot_index": spec.index,
            "artifact_name": change.map_or("", |change| change.name.as_str()),
            "sha256": fingerprint,
            "description": event::description(spec, told),
            "reported_at": seconds(spec.time),
            "pipeline": flow,
            "deployments": deployments.unwrap_or_default(),
            "flows": flows.iter().map(|_| json!({"flow_name": flow, "deployments": null})).collect::<Vec<_>>(),
            "artifact_compliance": compliant(state),
            "snapshot_compliance": compliant(spec.compliance.state),
            "type": type_,
            "code_diff": "",
            "_links": {
                "artifact": {
                    "self": installation.artifact_api_url(flow, fingerprint),
                    "html": installation.artifact_html_url(flow, fingerprint),
                },
                "snapshot": {
                    "self": installation.snapshot_api_url(&spec.environment, spec.index),
                    "html": installation.snapshot_html_url(&spec.environment, spec.index),
                },
            },
        })
    });
    told.collect()
}

/// SnapshotQuery snapshot of a log is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotQuery {
    /// The one of this number.
    Number(i64),
    /// So many before the newest.
    Behind(i64),
    /// The newest that was recorded by then.
    At(Timestamp),
}

/// Reads a snapshot expression: `7`, `#7`, `-1` (the newest), `~1` (one before the newest), `@{2026-11-24T10:00:00}` (UTC),
/// `@{now}`, `@{2.hours.ago}`.
pub fn which(text: &str, now: Timestamp) -> Option<SnapshotQuery> {
    if let Some(number) = text.strip_prefix('~') {
        return number
            .parse()
            .ok()
            .filter(|behind| *behind >= 0)
            .map(SnapshotQuery::Behind);
    }
    if let Some(moment) = text
        .strip_prefix("@{")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return at(moment, now).map(SnapshotQuery::At);
    }
    match text.strip_prefix('#').unwrap_or(text).parse().ok()? {
        number if number > 0 => Some(SnapshotQuery::Number(number)),
        number if number < 0 && !text.starts_with('#') => Some(SnapshotQuery::Behind(-1 - number)),
        _ => None,
    }
}

fn at(moment: &str, now: Timestamp) -> Option<Timestamp> {
    if moment == "now" {
        return Some(now);
    }
    if let Some(ago) = moment.strip_suffix(".ago") {
        let (number, unit) = ago.split_once('.')?;
        let hours = match unit.trim_end_matches('s') {
            "hour" => 1,
            "day" => 24,
            "week" => 24 * 7,
            "month" => 24 * 30,
            _ => return None,
        };
        let hours = number
            .parse::<i64>()
            .ok()
            .filter(|number| *number >= 0)?
            .checked_mul(hours)?;
        return now
            .checked_sub(jiff::SignedDuration::from_hours(hours))
            .ok();
    }
    let civil: jiff::civil::DateTime = moment.parse().ok()?;
    civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{Cluster, testing::digest};

    fn installation() -> Installation {
        Installation {
            org: "acme".to_owned(),
            cluster: "c".to_owned(),
            external_url: Some("https://s.example".to_owned()),
        }
    }

    /// `web` runs an image of which nothing is known; one that doesn't run is on the allow-list.
    fn red() -> Cluster {
        let mut cluster = Cluster::bare(true);
        cluster.environment(
            "prod",
            "compliance: {provenance: {required: true}, grace: 60s, recoveryWindow: 1s}",
        );
        cluster.begin();
        cluster.pass(60);
        cluster.start("web", &["v1"], 2);
        cluster.pass(600);
        let entry = format!(
            "{{environments: [prod, test], artifacts: [{{fingerprint: {}, name: soon}}], reason: ' next week ', expiresAt: '2027-12-01T00:00:00Z'}}",
            digest("v9")
        );
        cluster.allow("soon", &entry);
        cluster.pass(60);
        cluster
    }

    #[test]
    fn an_environment_tells_whether_it_keeps_its_rules_and_why_not() {
        let mut cluster = red();
        let told = |cluster: &Cluster| {
            let picture = cluster.state.summary("prod");
            environment(&installation(), "prod", picture.as_ref())
        };
        let found = told(&cluster);
        let index = cluster.recorded("prod").index;
        assert_eq!(found["state"], false);
        assert_eq!(found["snapshot_index"], index);
        let last = seconds(cluster.recorded("prod").time);
        assert_eq!(found["last_changed_at"], last);
        let reasons = found["reasons_for_incompliance"].as_array().unwrap();
        assert_eq!(reasons.len(), 1, "{found}");
        assert_eq!(
            found["reasons"],
            json!([{
                "artifact_name": "registry.example/v1:1", "fingerprint": digest("v1").to_string(), "compliant": false,
                "reason": "NoProvenance", "message": "no provenance, not on the allow-list", "grace_until": null,
            }])
        );
        assert_eq!(
            (&found["artifacts"], &found["instances"]),
            (&1.into(), &2.into())
        );
        assert_eq!(
            found["_links"]["snapshot"]["html"],
            format!("https://s.example/acme/environments/prod/snapshots/{index}")
        );
        let entry = format!(
            "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: fine}}",
            digest("v1")
        );
        cluster.allow("fine", &entry);
        cluster.pass(60);
        let found = told(&cluster);
        assert_eq!(found["state"], true);
        assert_eq!(found["reasons"], json!([]));
        let unread = environment(&installation(), "prod", None);
        assert_eq!(unread["state"], Value::Null);
        assert_eq!(unread["last_changed_at"], Value::Null);
        assert_eq!(unread["_links"]["snapshot"]["self"], "");
    }

    #[test]
    fn the_allow_list_has_the_shape_of_the_contract_and_what_it_needs_more() {
        let cluster = red();
        let evidence = cluster.state.evidence();
        let now = "2027-11-30T23:59:59Z".parse().unwrap();
        let found = allow_list(evidence, Some("prod"), now);
        let want = json!([{
            "artifact_name": "soon", "fingerprint": digest("v9").to_string(), "environment_name": "prod",
            "timestamp": found[0]["timestamp"], "user_name": "", "description": "next week",
            "expires_at": 1_827_619_200.0, "active": true, "entry": "soon",
        }]);
        assert_eq!(Value::from(found), want);
        assert!(want[0]["timestamp"].is_f64());
        let over = "2027-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(allow_list(evidence, Some("prod"), over)[0]["active"], false);
        assert_eq!(allow_list(evidence, Some("dev"), now), Vec::<Value>::new());
        assert_eq!(allow_list(evidence, None, now).len(), 2);
    }

    #[test]
    fn the_events_of_environment_and_allow_list_link_only_what_there_is() {
        let cluster = red();
        let log = cluster.log("prod");
        let told: Vec<Value> = log
            .iter()
            .flat_map(|entry| events(&installation(), &entry.spec))
            .collect();
        let types: Vec<_> = told.iter().map(|event| &event["type"]).collect();
        assert_eq!(
            types,
            ["started-non-compliant", "became-non-compliant", "allowed"]
        );
        let (red, allowed) = (&told[1], &told[2]);
        assert_eq!(red["artifact_name"], "");
        assert_eq!(red["artifact_compliance"], Value::Null);
        assert_eq!(red["snapshot_compliance"], false);
        assert_eq!(allowed["artifact_name"], "soon");
        assert_eq!(allowed["sha256"], digest("v9").to_string());
        for event in [red, allowed] {
            assert_eq!(event["_links"]["artifact"], json!({"self": "", "html": ""}));
            let page = event["_links"]["snapshot"]["html"].as_str().unwrap();
            assert!(page.starts_with("https://s.example/acme/environments/prod/snapshots/"));
        }
        let last = &log.last().unwrap().spec;
        let found = snapshot(&installation(), last, cluster.recorded("prod"), None);
        let names: Vec<_> = found["artifacts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|artifact| &artifact["name"])
            .collect();
        assert_eq!(
            names,
            ["registry.example/v1:1"],
            "what never ran is not among them"
        );
        assert_eq!(found["compliant"], false);
        assert_eq!(found["artifact_compliance_count"]["false"], 1);
    }

    #[test]
    fn a_snapshot_is_named_in_all_the_ways_that_kosli_knows() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let at = |text: &str| Some(SnapshotQuery::At(text.parse().unwrap()));
        for (text, want) in [
            ("7", Some(SnapshotQuery::Number(7))),
            ("#7", Some(SnapshotQuery::Number(7))),
            ("-1", Some(SnapshotQuery::Behind(0))),
            ("-3", Some(SnapshotQuery::Behind(2))),
            ("~0", Some(SnapshotQuery::Behind(0))),
            ("~2", Some(SnapshotQuery::Behind(2))),
            ("@{now}", at("2026-11-24T12:00:00Z")),
            ("@{2.hours.ago}", at("2026-11-24T10:00:00Z")),
            ("@{1.day.ago}", at("2026-11-23T12:00:00Z")),
            ("@{2026-11-20T08:30:00}", at("2026-11-20T08:30:00Z")),
            ("0", None),
            ("#-1", None),
            ("~-1", None),
            ("seven", None),
            ("@{yesterday}", None),
            ("@{9223372036854775807.weeks.ago}", None),
            ("", None),
        ] {
            assert_eq!(which(text, now), want, "{text}");
        }
    }
}
