//! The webhook payload: the Kosli v1.0 document. Every scalar is a string. Inside `artifact` every key is always
//! present, and unknown values are `""` or `[]`, so that receivers written for the published example keep working.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        compliance::ComplianceState,
        notification_setting::UnreportedGap,
        snapshot::{self, Change, Event},
    },
    message::{
        installation::{Installation, Link, NoteKind},
        unreported_gap,
    },
    snapshot::event,
};

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Always `1.0`.
    pub version: String,
    /// When the snapshot was recorded, in Unix seconds.
    pub timestamp: String,
    /// `--org`, by default the name of the cluster.
    pub org: String,
    /// The name of the Environment.
    pub environment: String,
    /// The type of the event: one of the six, `TEST` or `HISTORY_TRUNCATED`.
    pub event_type: String,
    /// The event in words.
    pub description: String,
    /// The snapshot that contains the event.
    pub snapshot: SnapshotBody,
    /// The artifact; absent from events of the environment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactBody>,
}

/// The snapshot that contains an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBody {
    /// Its number.
    pub index: String,
    /// `compliant`, `non-compliant` or `unknown`.
    pub status: String,
    /// The URL of the page.
    pub html_url: String,
    /// The URL of the JSON.
    pub api_url: String,
}

/// An artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactBody {
    /// Its name.
    pub name: String,
    /// Its SHA-256 digest: 64 hex digits.
    pub fingerprint: String,
    /// Where it comes from.
    pub provenance: ProvenanceBody,
}

/// Where an artifact comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenanceBody {
    /// The flow that built it.
    pub flow: String,
    /// `compliant` or `non-compliant`.
    pub status: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The URL of the commit.
    pub commit_url: String,
    /// The URL of the page.
    pub html_url: String,
    /// The URL of the JSON.
    pub api_url: String,
    /// The URL of the build.
    pub build_url: String,
    /// Deployments that were announced.
    pub deployments: Vec<DeploymentBody>,
    /// Reviews.
    pub approvals: Vec<ApprovalBody>,
}

/// A deployment that was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentBody {
    /// Its number in the flow.
    pub number: String,
    /// When, in Unix seconds.
    pub timestamp: String,
    /// The URL of the build.
    pub build_url: String,
    /// The URL of the page.
    pub html_url: String,
    /// The URL of the JSON.
    pub api_url: String,
}

/// A review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalBody {
    /// Its number in the flow.
    pub number: String,
    /// When, in Unix seconds.
    pub timestamp: String,
    /// `requested`, `approved` or `rejected`.
    pub state: String,
    /// The reviewer of the newest review.
    pub latest_reviewer: String,
    /// The comment of that reviewer.
    pub latest_review_comment: String,
    /// The URL of the page.
    pub html_url: String,
    /// The URL of the JSON.
    pub api_url: String,
}

/// Makes the body for one event of a snapshot: the same bytes for every attempt.
pub fn body(
    installation: &Installation,
    snapshot: &EnvironmentSnapshotSpec,
    event: &Event,
) -> Vec<u8> {
    let EnvironmentSnapshotSpec {
        environment, index, ..
    } = snapshot;
    to_body(&Payload {
        event_type: event.type_.to_string(),
        description: event::description(snapshot, event),
        snapshot: snapshot_body(
            *index,
            snapshot.compliance.state,
            installation.snapshot(environment, *index),
        ),
        artifact: event::change(snapshot, event).map(|change| artifact(installation, change)),
        ..about_environment(installation, environment, snapshot.time)
    })
}

/// Makes the body of a test message.
pub fn test_body(installation: &Installation, environment: &str, now: Timestamp) -> Vec<u8> {
    to_body(&Payload {
        event_type: "TEST".to_owned(),
        description: "this is a test message from Shipbell; nothing changed".to_owned(),
        ..about_environment(installation, environment, now)
    })
}

/// Makes the body that reports snapshots that were removed before they could be delivered. It is about the whole
/// environment, so it has no artifact; and it has no links, because the snapshots no longer exist. The same bytes for
/// every attempt. `setting`: its namespace and name.
pub fn truncated_body(
    installation: &Installation,
    environment: &str,
    gap: &UnreportedGap,
    setting: (&str, &str),
) -> Vec<u8> {
    to_body(&Payload {
        event_type: unreported_gap::EVENT_TYPE.to_owned(),
        description: unreported_gap::description(gap, setting),
        snapshot: snapshot_body(gap.to, ComplianceState::Unknown, Link::default()),
        ..about_environment(installation, environment, gap.time)
    })
}

/// A document about an environment as a whole and about no snapshot.
fn about_environment(installation: &Installation, environment: &str, time: Timestamp) -> Payload {
    Payload {
        version: "1.0".to_owned(),
        timestamp: time.as_second().to_string(),
        org: installation.org.clone(),
        environment: environment.to_owned(),
        event_type: String::new(),
        description: String::new(),
        snapshot: snapshot_body(0, ComplianceState::Unknown, Link::default()),
        artifact: None,
    }
}

fn snapshot_body(index: i64, state: ComplianceState, Link { html, api }: Link) -> SnapshotBody {
    SnapshotBody {
        index: index.to_string(),
        status: state.word().to_owned(),
        html_url: html,
        api_url: api,
    }
}

fn to_body(payload: &Payload) -> Vec<u8> {
    serde_json::to_vec(payload).expect("plain data")
}

fn artifact(installation: &Installation, change: &Change) -> ArtifactBody {
    let known = change.provenance.as_ref();
    let named = known
        .map(|known| &known.name)
        .filter(|name| !name.is_empty());
    ArtifactBody {
        name: named.unwrap_or(&change.name).clone(),
        fingerprint: change.fingerprint.clone(),
        provenance: known.map_or_else(ProvenanceBody::default, |known| {
            provenance(installation, &change.fingerprint, known)
        }),
    }
}

fn provenance(
    installation: &Installation,
    fingerprint: &str,
    known: &snapshot::Provenance,
) -> ProvenanceBody {
    let flow = &known.flow;
    let status = known
        .status
        .map(|state| ComplianceState::from(state).word());
    let deployments = known.deployments.iter().map(|note| {
        let Link { html, api } = installation.note(NoteKind::Deployment, flow, note.number);
        DeploymentBody {
            number: note.number.to_string(),
            timestamp: note.time.as_second().to_string(),
            build_url: note.build_url.clone(),
            html_url: html,
            api_url: api,
        }
    });
    let approvals = known.approvals.iter().map(|note| {
        let Link { html, api } = installation.note(NoteKind::Approval, flow, note.number);
        ApprovalBody {
            number: note.number.to_string(),
            timestamp: note.time.as_second().to_string(),
            state: note.state.as_str().to_owned(),
            latest_reviewer: note.reviewer.clone(),
            latest_review_comment: note.comment.clone(),
            html_url: html,
            api_url: api,
        }
    });
    let Link { html, api } = installation.artifact(flow, fingerprint);
    ProvenanceBody {
        flow: flow.clone(),
        status: status.unwrap_or_default().to_owned(),
        commit: known.commit.clone(),
        commit_url: known.commit_url.clone(),
        html_url: html,
        api_url: api,
        build_url: known.build_url.clone(),
        deployments: deployments.collect(),
        approvals: approvals.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{api::provenance::RecordState, simulation::testing};

    /// The published example.
    const EXAMPLE: &str = include_str!("testdata/kosli-v1.0.json");

    #[test]
    fn the_published_example_is_read_and_written_back_equal() {
        let payload: Payload = serde_json::from_str(EXAMPLE).unwrap();
        let written: Value = serde_json::to_value(&payload).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(EXAMPLE).unwrap());
    }

    #[test]
    fn what_is_known_of_an_artifact_makes_the_published_example() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let build = "https://github.com/cyber-dojo/runner/actions/runs/5891969166";
        let commit = "1ac157003dd6fb9ec764daa47726b7bfed65c312";
        let mut snapshot = testing::snapshot(1035, &[("docker.io/library/runner:latest", 0, 1)]);
        snapshot.compliance.state = ComplianceState::Compliant;
        let change = &mut snapshot.changes[0];
        change.fingerprint =
            "719defb995c86ad7c406ad74258fe98b9ebd71dfa80cd786870c967cb6c1f08d".to_owned();
        change.provenance = Some(snapshot::Provenance {
            flow: "runner".to_owned(),
            name: "runner".to_owned(),
            status: Some(RecordState::Compliant),
            commit: commit.to_owned(),
            commit_url: format!("https://github.com/cyber-dojo/runner/commit/{commit}"),
            build_url: build.to_owned(),
            deployments: vec![snapshot::DeploymentNote {
                number: 44,
                time: at(1_692_618_644),
                build_url: build.to_owned(),
            }],
            approvals: vec![snapshot::ApprovalNote {
                number: 42,
                time: at(1_692_617_329),
                state: crate::api::approval::ReviewState::Approved,
                reviewer: "username".to_owned(),
                comment: "lgtm".to_owned(),
            }],
        });
        let installation = Installation {
            org: "cyber-dojo".to_owned(),
            cluster: "aws".to_owned(),
            external_url: Some("https://app.kosli.com".to_owned()),
        };
        let found: Value =
            serde_json::from_slice(&body(&installation, &snapshot, &snapshot.events[0])).unwrap();
        assert_eq!(found, serde_json::from_str::<Value>(EXAMPLE).unwrap());
    }

    #[test]
    fn an_event_has_every_key_of_the_example_in_its_order() {
        let installation = Installation {
            org: "cyber-dojo".to_owned(),
            cluster: "aws".to_owned(),
            external_url: Some("https://shipbell.example.com".to_owned()),
        };
        let snapshot = testing::snapshot(1035, &[("runner", 0, 1)]);
        let body = body(&installation, &snapshot, &snapshot.events[0]);
        let fingerprint = &snapshot.changes[0].fingerprint;
        let want = json!({
            "version": "1.0",
            "timestamp": "1692616493",
            "org": "cyber-dojo",
            "environment": "aws-prod",
            "event_type": "ARTIFACT_STARTED",
            "description": "1 instance started running (from 0 to 1)",
            "snapshot": {
                "index": "1035",
                "status": "unknown",
                "html_url": "https://shipbell.example.com/cyber-dojo/environments/aws-prod/snapshots/1035",
                "api_url": "https://shipbell.example.com/api/v2/snapshots/cyber-dojo/aws-prod/1035",
            },
            "artifact": {
                "name": "runner",
                "fingerprint": fingerprint,
                "provenance": {
                    "flow": "", "status": "", "commit": "", "commit_url": "", "html_url": "", "api_url": "", "build_url": "",
                    "deployments": [], "approvals": [],
                },
            },
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), want);
        let order = |text: &str| {
            let keys = text.split('"').skip(1).step_by(2).filter(|word| {
                [
                    "version",
                    "timestamp",
                    "org",
                    "environment",
                    "event_type",
                    "snapshot",
                    "artifact",
                    "name",
                    "fingerprint",
                    "provenance",
                    "flow",
                    "commit",
                    "build_url",
                ]
                .contains(word)
            });
            keys.take(12).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(order(std::str::from_utf8(&body).unwrap()), order(EXAMPLE));
    }

    #[test]
    fn removed_snapshots_are_reported_in_the_same_document_without_an_artifact() {
        let installation = Installation {
            org: "cyber-dojo".to_owned(),
            cluster: "aws".to_owned(),
            external_url: Some("https://shipbell.example.com".to_owned()),
        };
        let gap = UnreportedGap {
            from: 1_000,
            to: 1_034,
            time: Timestamp::from_second(1_692_616_493).unwrap(),
        };
        let body = truncated_body(&installation, "aws-prod", &gap, ("team", "hook"));
        let want = json!({
            "version": "1.0",
            "timestamp": "1692616493",
            "org": "cyber-dojo",
            "environment": "aws-prod",
            "event_type": "HISTORY_TRUNCATED",
            "description": unreported_gap::description(&gap, ("team", "hook")),
            "snapshot": {"index": "1034", "status": "unknown", "html_url": "", "api_url": ""},
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), want);
        assert_eq!(
            body,
            truncated_body(&installation, "aws-prod", &gap, ("team", "hook"))
        );
    }

    #[test]
    fn links_that_nothing_serves_are_empty_and_an_environment_event_has_no_artifact() {
        let mut snapshot = testing::snapshot(2, &[]);
        snapshot.events = vec![Event {
            type_: crate::api::EventType::EnvironmentCompliant,
            change: None,
        }];
        let body = body(&Installation::default(), &snapshot, &snapshot.events[0]);
        let payload: Payload = serde_json::from_slice(&body).unwrap();
        assert_eq!(payload.snapshot.html_url, "");
        assert_eq!(payload.snapshot.api_url, "");
        assert!(
            !serde_json::to_string(&payload)
                .unwrap()
                .contains("\"artifact\"")
        );
    }
}
