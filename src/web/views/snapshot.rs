//! Snapshots and their events, as the read API shows them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    api::{
        EnvironmentSnapshotSpec, EventType,
        compliance::ComplianceState,
        snapshot::{Change, Event, Provenance, Verdict},
    },
    cluster::image::Fingerprint,
    message::installation::{Installation, Link},
    snapshot::{event, ledger::Ledger},
    web::views::{Compliant, EmptyList, EmptyObject, Seconds, deployment_numbers},
};

/// One snapshot with everything that runs after it. Artifacts that stopped with it are listed with `now` 0.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SnapshotView<'a> {
    pub(crate) applied_policies: EmptyList,
    pub(crate) artifact_compliance_count: ComplianceCount,
    pub(crate) artifacts: SnapshotArtifacts<'a>,
    pub(crate) compliant: Compliant,
    pub(crate) html_url: String,
    pub(crate) index: i64,
    pub(crate) is_latest: bool,
    pub(crate) next_snapshot_timestamp: Option<Seconds>,
    pub(crate) timestamp: Seconds,
    #[serde(rename = "type")]
    pub(crate) type_: &'static str,
}

/// How many running artifacts are compliant, are not, or are of unknown compliance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ComplianceCount {
    #[serde(rename = "false")]
    pub(crate) non_compliant: usize,
    #[serde(rename = "null")]
    pub(crate) unknown: usize,
    #[serde(rename = "true")]
    pub(crate) compliant: usize,
}

impl ComplianceCount {
    fn of(states: impl Iterator<Item = ComplianceState>) -> Self {
        let mut count = Self::default();
        for state in states {
            *match state {
                ComplianceState::Compliant => &mut count.compliant,
                ComplianceState::NonCompliant => &mut count.non_compliant,
                ComplianceState::Unknown => &mut count.unknown,
            } += 1;
        }
        count
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SnapshotArtifactView {
    pub(crate) annotation: Annotation,
    pub(crate) commit_lead_time: (),
    pub(crate) commit_url: String,
    pub(crate) compliant: Compliant,
    #[serde(rename = "creationTimestamp")]
    pub(crate) creation_timestamp: EmptyList,
    pub(crate) deployment_diff: (),
    pub(crate) deployments: Vec<i64>,
    pub(crate) fingerprint: String,
    pub(crate) flow_html_url: &'static str,
    pub(crate) flow_name: String,
    pub(crate) flows: Vec<FlowView>,
    pub(crate) git_commit: String,
    pub(crate) html_url: String,
    pub(crate) name: String,
    pub(crate) pods: EmptyObject,
    pub(crate) policy_decisions: EmptyList,
    pub(crate) reasons_for_incompliance: Vec<String>,
}

/// How the number of instances changed with the snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Annotation {
    pub(crate) now: i64,
    #[serde(rename = "type")]
    pub(crate) type_: &'static str,
    pub(crate) was: i64,
}

impl Annotation {
    /// `now`: how many instances run, if nothing changed.
    fn of(change: Option<&Change>, now: i64) -> Self {
        let (was, now) = change.map_or((now, now), |change| (change.was, change.now));
        let type_ = match (was, now) {
            (0, _) => {
                let verdict = change.and_then(|change| change.verdict.as_ref());
                started(Compliant::of(verdict).0)
            }
            (_, 0) => "exited",
            _ if change.is_none() => "unchanged",
            (was, now) if was == now => "changed",
            _ if change.is_some_and(|change| change.rollout) => "changed",
            _ => "scaled",
        };
        Self { now, type_, was }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct FlowView {
    pub(crate) commit_url: String,
    pub(crate) flow_name: String,
    pub(crate) git_commit: String,
    pub(crate) html_url: String,
}

/// The start of an artifact, in Kosli's words.
const fn started(state: ComplianceState) -> &'static str {
    match state {
        ComplianceState::Compliant => "started-compliant",
        ComplianceState::NonCompliant => "started-non-compliant",
        ComplianceState::Unknown => "started-unknown",
    }
}

/// The artifacts of a snapshot, by name. There may be tens of thousands: the view of each is made when its turn comes.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotArtifacts<'a> {
    installation: &'a Installation,
    after: &'a Ledger,
    rows: Vec<Row<'a>>,
}

/// An artifact of a snapshot.
#[derive(Clone, Debug)]
struct Row<'a> {
    name: &'a str,
    fingerprint: String,
    change: Option<&'a Change>,
    /// How many instances run.
    now: i64,
}

impl<'a> SnapshotArtifacts<'a> {
    fn new(
        installation: &'a Installation,
        spec: &'a EnvironmentSnapshotSpec,
        after: &'a Ledger,
    ) -> Self {
        let changes: BTreeMap<&str, &Change> = spec
            .changes
            .iter()
            .map(|change| (change.fingerprint.as_str(), change))
            .collect();
        let running = after.artifacts().map(|(digest, total)| {
            let fingerprint = digest.to_string();
            let change = changes.get(fingerprint.as_str()).copied();
            let recorded = || after.names.get(digest).map(String::as_str);
            let name = change.map(|change| change.name.as_str()).or_else(recorded);
            Row {
                name: name.unwrap_or_default(),
                fingerprint,
                change,
                now: i64::from(total),
            }
        });
        // An image that was only added to the allow-list never ran here.
        let stopped = spec.changes.iter();
        let stopped = stopped.filter(|change| change.now == 0 && change.was > 0);
        let stopped = stopped.map(|change| Row {
            name: &change.name,
            fingerprint: change.fingerprint.clone(),
            change: Some(change),
            now: 0,
        });
        let mut rows: Vec<_> = running.chain(stopped).collect();
        rows.sort_by(|a, b| (a.name, &a.fingerprint).cmp(&(b.name, &b.fingerprint)));
        Self {
            installation,
            after,
            rows,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SnapshotArtifactView> {
        self.rows.iter().map(|row| self.view(row))
    }

    /// What is known of the artifact.
    fn facts(&self, row: &Row<'a>) -> (Option<&'a Verdict>, Option<&'a Provenance>) {
        if let Some(change) = row.change {
            return (change.verdict.as_ref(), change.provenance.as_ref());
        }
        let digest = Fingerprint::from_hex(&row.fingerprint);
        let facts = digest.and_then(|digest| self.after.facts.get(&digest));
        facts.map_or((None, None), |facts| {
            (facts.verdict.as_ref(), facts.provenance.as_ref())
        })
    }

    fn count(&self) -> ComplianceCount {
        let rows = self.rows.iter();
        let running = rows.filter(|row| row.change.map_or(row.now, |change| change.now) != 0);
        ComplianceCount::of(running.map(|row| Compliant::of(self.facts(row).0).0))
    }

    fn view(&self, row: &Row<'a>) -> SnapshotArtifactView {
        let (verdict, known) = self.facts(row);
        let field =
            |of: fn(&Provenance) -> &String| known.map_or(String::new(), |it| of(it).clone());
        let flow_name = field(|known| &known.flow);
        let git_commit = field(|known| &known.commit);
        let commit_url = field(|known| &known.commit_url);
        let html_url = self
            .installation
            .artifact(&flow_name, &row.fingerprint)
            .html;
        let flow = (!flow_name.is_empty()).then(|| FlowView {
            commit_url: commit_url.clone(),
            flow_name: flow_name.clone(),
            git_commit: git_commit.clone(),
            html_url: html_url.clone(),
        });
        let broken = |verdict: &&Verdict| verdict.state == ComplianceState::NonCompliant;
        let broken = verdict.filter(broken).map(|it| it.message.clone());
        SnapshotArtifactView {
            annotation: Annotation::of(row.change, row.now),
            commit_lead_time: (),
            commit_url,
            compliant: Compliant::of(verdict),
            creation_timestamp: [],
            deployment_diff: (),
            deployments: deployment_numbers(known),
            fingerprint: row.fingerprint.clone(),
            flow_html_url: "",
            flow_name,
            flows: flow.into_iter().collect(),
            git_commit,
            html_url,
            name: row.name.to_owned(),
            pods: EmptyObject {},
            policy_decisions: [],
            reasons_for_incompliance: broken.into_iter().collect(),
        }
    }
}

impl Serialize for SnapshotArtifacts<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

/// Describes a snapshot. `after`: the state after it. `next`: when the snapshot after it was recorded.
pub(crate) fn snapshot<'a>(
    installation: &'a Installation,
    spec: &'a EnvironmentSnapshotSpec,
    after: &'a Ledger,
    next: Option<Timestamp>,
) -> SnapshotView<'a> {
    let artifacts = SnapshotArtifacts::new(installation, spec, after);
    SnapshotView {
        applied_policies: [],
        artifact_compliance_count: artifacts.count(),
        artifacts,
        compliant: Compliant(spec.compliance.state),
        html_url: installation.snapshot(&spec.environment, spec.index).html,
        index: spec.index,
        is_latest: next.is_none(),
        next_snapshot_timestamp: next.map(Seconds),
        timestamp: Seconds(spec.time),
        type_: "K8S",
    }
}

/// A snapshot in the list of an environment's snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SnapshotLineView {
    pub(crate) compliant: Compliant,
    pub(crate) duration: f64,
    pub(crate) from: f64,
    pub(crate) index: i64,
    /// 0 for the newest.
    pub(crate) to: f64,
}

/// Describes a snapshot for the list. `next`: when the snapshot after it was recorded.
pub(crate) fn line(
    spec: &EnvironmentSnapshotSpec,
    next: Option<Timestamp>,
    now: Timestamp,
) -> SnapshotLineView {
    let from = Seconds(spec.time).as_f64();
    SnapshotLineView {
        compliant: Compliant(spec.compliance.state),
        duration: Seconds(next.unwrap_or(now)).as_f64() - from,
        from,
        index: spec.index,
        to: next.map_or(0.0, |next| Seconds(next).as_f64()),
    }
}

/// An event of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EventView {
    #[serde(rename = "_links")]
    pub(crate) links: EventLinks,
    pub(crate) artifact_compliance: Compliant,
    pub(crate) artifact_name: String,
    pub(crate) code_diff: &'static str,
    pub(crate) deployments: Vec<i64>,
    pub(crate) description: String,
    pub(crate) environment_name: String,
    pub(crate) flows: Vec<EventFlowView>,
    pub(crate) pipeline: String,
    pub(crate) reported_at: Seconds,
    pub(crate) sha256: String,
    pub(crate) snapshot_compliance: Compliant,
    pub(crate) snapshot_index: i64,
    #[serde(rename = "type")]
    pub(crate) type_: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EventLinks {
    pub(crate) artifact: Link,
    pub(crate) snapshot: Link,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EventFlowView {
    pub(crate) deployments: (),
    pub(crate) flow_name: String,
}

/// Describes the events of a snapshot, the last first.
pub(crate) fn events(
    installation: &Installation,
    spec: &EnvironmentSnapshotSpec,
) -> Vec<EventView> {
    let view = |event| event_view(installation, spec, event);
    spec.events.iter().rev().map(view).collect()
}

fn event_view(
    installation: &Installation,
    spec: &EnvironmentSnapshotSpec,
    event: &Event,
) -> EventView {
    let change = event::change(spec, event);
    let compliant = Compliant::of(change.and_then(|change| change.verdict.as_ref()));
    let known = change.and_then(|change| change.provenance.as_ref());
    let flow = known.map_or("", |known| known.flow.as_str());
    let fingerprint = change.map_or("", |change| change.fingerprint.as_str());
    let event_flow = (!flow.is_empty()).then(|| EventFlowView {
        deployments: (),
        flow_name: flow.to_owned(),
    });
    EventView {
        links: EventLinks {
            artifact: installation.artifact(flow, fingerprint),
            snapshot: installation.snapshot(&spec.environment, spec.index),
        },
        artifact_compliance: compliant,
        artifact_name: change.map_or(String::new(), |change| change.name.clone()),
        code_diff: "",
        deployments: deployment_numbers(known),
        description: event::description(spec, event),
        environment_name: spec.environment.clone(),
        flows: event_flow.into_iter().collect(),
        pipeline: flow.to_owned(),
        reported_at: Seconds(spec.time),
        sha256: fingerprint.to_owned(),
        snapshot_compliance: Compliant(spec.compliance.state),
        snapshot_index: spec.index,
        type_: match event.type_ {
            EventType::ArtifactStarted => started(compliant.0),
            EventType::ArtifactStopped => "exited",
            EventType::ArtifactScaled => "scaled",
            EventType::ArtifactAllowed => "allowed",
            EventType::EnvironmentNonCompliant => "became-non-compliant",
            EventType::EnvironmentCompliant => "became-compliant",
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        simulation::testing::digest,
        web::testing::{installation, non_compliant},
    };

    #[test]
    fn the_events_of_environment_and_allow_list_link_only_what_there_is() {
        let cluster = non_compliant();
        let log = cluster.log("prod");
        let events: Vec<Value> = log
            .iter()
            .flat_map(|entry| events(&installation(), &entry.spec))
            .map(|event| serde_json::to_value(event).unwrap())
            .collect();
        let types: Vec<_> = events.iter().map(|event| &event["type"]).collect();
        assert_eq!(
            types,
            ["started-non-compliant", "became-non-compliant", "allowed"]
        );
        let (red, allowed) = (&events[1], &events[2]);
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
        let installation = installation();
        let found = snapshot(&installation, last, cluster.recorded("prod"), None);
        let found = serde_json::to_value(found).unwrap();
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
}
