//! The log as JSON, in the shapes of Kosli's read API: what the log holds, and nothing that it doesn't. Here numbers are
//! numbers; only the webhook payload is all strings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    event, image::Fingerprint, installation::Installation, ledger::Ledger, payload::status,
};
use crate::api::{
    EnvironmentSnapshotSpec, EventType,
    snapshot::{Change, ComplianceState},
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
    let left = spec
        .changes
        .iter()
        .filter(|change| change.now == 0)
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
            let value = json!({
                "name": name,
                "fingerprint": fingerprint,
                "compliant": null,
                "creationTimestamp": [],
                "pods": {},
                "annotation": annotation(spec, change, now),
                "reasons_for_incompliance": [],
                "policy_decisions": [],
                "deployments": [],
                "flow_name": "",
                "git_commit": "",
                "commit_url": "",
                "html_url": "",
                "flow_html_url": "",
                "deployment_diff": null,
                "commit_lead_time": null,
                "flows": [],
            });
            (name, fingerprint, value)
        })
        .collect();
    artifacts.sort_by(|(name_a, digest_a, _), (name_b, digest_b, _)| {
        (name_a, digest_a).cmp(&(name_b, digest_b))
    });
    let count = artifacts
        .iter()
        .filter(|(_, _, value)| value["annotation"]["now"] != 0)
        .count();
    json!({
        "index": spec.index,
        "is_latest": next.is_none(),
        "next_snapshot_timestamp": next.map(seconds),
        "timestamp": seconds(spec.time),
        "type": "K8S",
        "compliant": compliant(spec.compliance.state),
        "artifact_compliance_count": {"true": 0, "false": 0, "null": count},
        "html_url": installation.snapshot_html_url(&spec.environment, spec.index),
        "applied_policies": [],
        "artifacts": artifacts.into_iter().map(|(_, _, value)| value).collect::<Vec<_>>(),
    })
}

fn annotation(spec: &EnvironmentSnapshotSpec, change: Option<&Change>, now: i64) -> Value {
    let (was, now) = change.map_or((now, now), |change| (change.was, change.now));
    let type_ = match (was, now) {
        (0, _) => format!("started-{}", status(spec.compliance.state)),
        (_, 0) => "exited".to_owned(),
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
        let type_ = match told.type_ {
            EventType::ArtifactStarted => format!("started-{}", status(spec.compliance.state)),
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
            "sha256": change.map_or("", |change| change.fingerprint.as_str()),
            "description": event::description(spec, told),
            "reported_at": seconds(spec.time),
            "pipeline": "",
            "deployments": [],
            "flows": [],
            "artifact_compliance": null,
            "snapshot_compliance": compliant(spec.compliance.state),
            "type": type_,
            "code_diff": "",
            "_links": {
                "artifact": {"self": "", "html": ""},
                "snapshot": {
                    "self": installation.snapshot_api_url(&spec.environment, spec.index),
                    "html": installation.snapshot_html_url(&spec.environment, spec.index),
                },
            },
        })
    });
    told.collect()
}

/// Which snapshot of a log is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one of this number.
    Number(i64),
    /// So many before the newest.
    Behind(i64),
    /// The newest that was recorded by then.
    At(Timestamp),
}

/// Reads a snapshot expression: `7`, `#7`, `-1` (the newest), `~1` (one before the newest), `@{2026-11-24T10:00:00}` (UTC),
/// `@{now}`, `@{2.hours.ago}`.
pub fn which(text: &str, now: Timestamp) -> Option<Which> {
    if let Some(number) = text.strip_prefix('~') {
        return number
            .parse()
            .ok()
            .filter(|behind| *behind >= 0)
            .map(Which::Behind);
    }
    if let Some(moment) = text
        .strip_prefix("@{")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return at(moment, now).map(Which::At);
    }
    match text.strip_prefix('#').unwrap_or(text).parse().ok()? {
        number if number > 0 => Some(Which::Number(number)),
        number if number < 0 && !text.starts_with('#') => Some(Which::Behind(-1 - number)),
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

    #[test]
    fn a_snapshot_is_named_in_all_the_ways_that_kosli_knows() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let at = |text: &str| Some(Which::At(text.parse().unwrap()));
        for (text, want) in [
            ("7", Some(Which::Number(7))),
            ("#7", Some(Which::Number(7))),
            ("-1", Some(Which::Behind(0))),
            ("-3", Some(Which::Behind(2))),
            ("~0", Some(Which::Behind(0))),
            ("~2", Some(Which::Behind(2))),
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
