//! Where an image comes from, with its deployments and reviews, as JSON: what the records say, or, when they are gone, what
//! the log has embedded of them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        approval::ReviewState,
        provenance::RecordState,
        snapshot::{ComplianceState, Provenance},
    },
    cluster::image::Fingerprint,
    compliance::evidence::{ApprovalReview, AttestationRecord, ProvenanceRecord},
    message::installation::Installation,
    snapshot::state::{ClusterState, RunningArtifact},
    web::views::{compliant, seconds, verdict},
};

/// What is asked for of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An image that it made.
    Artifact(Fingerprint),
    /// The deployment of this number.
    Deployment(i64),
    /// The review of this number.
    Approval(i64),
}

/// A question about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactQuery {
    /// The flow.
    pub flow: String,
    /// What is asked for.
    pub wanted: Wanted,
}

/// What a log tells of where an image comes from.
#[derive(Clone, Copy, Debug)]
pub struct ArtifactAnswer<'a> {
    environment: &'a str,
    index: i64,
    fingerprint: Fingerprint,
    name: &'a str,
    provenance: &'a Provenance,
}

impl<'a> ArtifactAnswer<'a> {
    fn of(held: RunningArtifact<'a>) -> Option<Self> {
        Some(Self {
            environment: held.environment,
            index: held.index,
            fingerprint: held.fingerprint,
            name: held.name,
            provenance: held.facts?.provenance.as_ref()?,
        })
    }

    /// What an entry of a log tells.
    pub fn in_entry(spec: &'a EnvironmentSnapshotSpec) -> impl Iterator<Item = Self> {
        spec.changes.iter().filter_map(|change| {
            Some(Self {
                environment: &spec.environment,
                index: spec.index,
                fingerprint: Fingerprint::from_hex(&change.fingerprint)?,
                name: &change.name,
                provenance: change.provenance.as_ref()?,
            })
        })
    }
}

impl ArtifactQuery {
    /// The answer: by the records and reviews that some environment trusts, else by the newest state of the environments.
    pub fn answer(&self, installation: &Installation, world: &ClusterState) -> Option<Value> {
        let by_records = match self.wanted {
            Wanted::Artifact(digest) => self.artifact(installation, world, digest),
            Wanted::Deployment(number) => self.deployment(installation, world, number),
            Wanted::Approval(number) => self.approval(installation, world, number),
        };
        by_records.or_else(|| {
            let mut told = world.recorded_artifacts().filter_map(ArtifactAnswer::of);
            let told = told.find(|told| self.is_answered_by(told))?;
            Some(self.answer_by(installation, world, &told))
        })
    }

    /// Whether what a log tells is what is asked for.
    pub fn is_answered_by(&self, told: &ArtifactAnswer<'_>) -> bool {
        let known = told.provenance;
        let is_it = match self.wanted {
            Wanted::Artifact(digest) => told.fingerprint == digest,
            Wanted::Deployment(number) => known.deployments.iter().any(|it| it.number == number),
            Wanted::Approval(number) => known.approvals.iter().any(|it| it.number == number),
        };
        is_it && known.flow == self.flow
    }

    /// The answer by what a log tells.
    pub fn answer_by(
        &self,
        installation: &Installation,
        world: &ClusterState,
        told: &ArtifactAnswer<'_>,
    ) -> Value {
        let known = told.provenance;
        let source = json!({
            "record": null,
            "environment_name": told.environment,
            "snapshot_index": told.index,
            "html_url": installation.snapshot_html_url(told.environment, told.index),
            "api_url": installation.snapshot_api_url(told.environment, told.index),
        });
        let subject = Subject {
            flow: &self.flow,
            fingerprint: told.fingerprint,
            name: if known.name.is_empty() {
                told.name
            } else {
                &known.name
            },
        };
        let deployments = known.deployments.iter().map(|note| DeploymentView {
            number: note.number,
            time: note.time,
            environment: told.environment,
            build_url: &note.build_url,
        });
        let approvals = known.approvals.iter().map(|note| ApprovalView {
            number: note.number,
            time: note.time,
            state: note.state,
            reviewer: &note.reviewer,
            comment: &note.comment,
            environment: told.environment,
            expires: None,
        });
        let mut answer = match self.wanted {
            Wanted::Artifact(_) => ArtifactView {
                aliases: vec![],
                state: known.status,
                created: None,
                commit: &known.commit,
                commit_url: &known.commit_url,
                build_url: &known.build_url,
                missing: vec![],
                attestations: &[],
                deployments: deployments.collect(),
                approvals: approvals.collect(),
                running: world.running(&[told.fingerprint]),
            }
            .json(installation, &subject),
            Wanted::Deployment(number) => {
                let mut deployments = deployments.filter(|note| note.number == number);
                let found = deployments.next();
                found.map_or(Value::Null, |it| it.json(installation, &subject))
            }
            Wanted::Approval(number) => {
                let mut approvals = approvals.filter(|note| note.number == number);
                let found = approvals.next();
                found.map_or(Value::Null, |it| it.json(installation, &subject))
            }
        };
        answer["source"] = source;
        answer
    }

    fn artifact(
        &self,
        installation: &Installation,
        world: &ClusterState,
        digest: Fingerprint,
    ) -> Option<Value> {
        let class = world.equivalent(digest);
        let records = counted(world, &class);
        let record = records.iter().find(|record| *record.flow == *self.flow)?;
        let digests: BTreeSet<Fingerprint> =
            class.iter().copied().chain(record.digests()).collect();
        let running = world.running(&digests.iter().copied().collect::<Vec<_>>());
        let mut reviews: Vec<_> = digests
            .iter()
            .flat_map(|digest| world.evidence().reviews_of(*digest))
            .filter(|review| world.trusts(&review.key.namespace))
            .filter(|review| {
                let flow = review.flow.as_deref();
                flow.is_none_or(|flow| records.iter().any(|record| *record.flow == *flow))
            })
            .collect();
        reviews.sort_by(|a, b| b.order().cmp(&a.order()));
        let subject = Subject {
            flow: &self.flow,
            fingerprint: record.fingerprint,
            name: name(record, running.first()),
        };
        let others = record.aliases.iter();
        let mut answer = ArtifactView {
            aliases: others.map(ToString::to_string).collect(),
            state: Some(record.state),
            created: Some(record.created),
            commit: text(record.commit.as_deref()),
            commit_url: text(record.commit_url.as_deref()),
            build_url: text(record.build_url.as_deref()),
            missing: record.missing.iter().map(|name| &**name).collect(),
            attestations: &record.attestations,
            deployments: record.deployments.iter().map(DeploymentView::of).collect(),
            approvals: reviews
                .iter()
                .map(|review| ApprovalView::of(review))
                .collect(),
            running,
        }
        .json(installation, &subject);
        answer["source"] = said_by(&record.key);
        Some(answer)
    }

    fn deployment(
        &self,
        installation: &Installation,
        world: &ClusterState,
        number: i64,
    ) -> Option<Value> {
        let records = world.evidence().records().values();
        let records = records
            .filter(|record| *record.flow == *self.flow && world.trusts(&record.key.namespace));
        let announced = records.flat_map(|record| {
            let deployments = record.deployments.iter();
            deployments.map(move |deployment| (record, deployment))
        });
        let (record, deployment) = announced
            .filter(|(_, deployment)| deployment.number == number)
            .max_by_key(|(_, deployment)| deployment.time)?;
        let running = world.running(&record.digests().collect::<Vec<_>>());
        let subject = Subject {
            flow: &self.flow,
            fingerprint: record.fingerprint,
            name: name(record, running.first()),
        };
        let mut answer = DeploymentView::of(deployment).json(installation, &subject);
        answer["source"] = said_by(&record.key);
        Some(answer)
    }

    /// A review stands under the flow that it names, and under those of its image's records: payloads link it there.
    fn approval(
        &self,
        installation: &Installation,
        world: &ClusterState,
        number: i64,
    ) -> Option<Value> {
        let reviews = world.evidence().reviews().values();
        let reviews =
            reviews.filter(|review| review.number == number && world.trusts(&review.key.namespace));
        let of_flow = reviews.filter_map(|review| {
            let records = counted(world, &world.equivalent(review.fingerprint));
            let record = records.into_iter().find(|it| *it.flow == *self.flow);
            (record.is_some() || review.flow.as_deref() == Some(&*self.flow))
                .then_some((review, record))
        });
        let (review, record) = of_flow.max_by(|(a, _), (b, _)| a.order().cmp(&b.order()))?;
        let fingerprint = record.map_or(review.fingerprint, |record| record.fingerprint);
        let running = world.running(&[fingerprint, review.fingerprint]);
        let image = running.first().map_or("", |held| held.name);
        let subject = Subject {
            flow: &self.flow,
            fingerprint,
            name: record.map_or(image, |record| name(record, running.first())),
        };
        let mut answer = ApprovalView::of(review).json(installation, &subject);
        answer["source"] = said_by(&review.key);
        Some(answer)
    }
}

fn counted<'a>(
    world: &'a ClusterState,
    digests: &BTreeSet<Fingerprint>,
) -> Vec<&'a ProvenanceRecord> {
    let trusts = |namespace: &str| world.trusts(namespace);
    let records = world.evidence().counted(digests.iter().copied(), trusts);
    records.into_iter().map(|record| &**record).collect()
}

fn said_by(key: &impl ToString) -> Value {
    json!({
        "record": key.to_string(), "environment_name": "", "snapshot_index": null, "html_url": "", "api_url": "",
    })
}

fn text(text: Option<&str>) -> &str {
    text.unwrap_or_default()
}

/// What people call an image: by its record, else as pods ask for it.
fn name<'a>(record: &'a ProvenanceRecord, runs: Option<&RunningArtifact<'a>>) -> &'a str {
    let running = || runs.map_or("", |held| held.name);
    record.name.as_deref().unwrap_or_else(running)
}

/// Which image of which flow.
struct Subject<'a> {
    flow: &'a str,
    fingerprint: Fingerprint,
    name: &'a str,
}

impl Subject<'_> {
    fn links(&self, installation: &Installation) -> Value {
        let fingerprint = self.fingerprint.to_string();
        json!({"artifact": {
            "self": installation.artifact_api_url(self.flow, &fingerprint),
            "html": installation.artifact_html_url(self.flow, &fingerprint),
        }})
    }
}

struct ArtifactView<'a> {
    aliases: Vec<String>,
    state: Option<RecordState>,
    created: Option<Timestamp>,
    commit: &'a str,
    commit_url: &'a str,
    build_url: &'a str,
    missing: Vec<&'a str>,
    attestations: &'a [AttestationRecord],
    deployments: Vec<DeploymentView<'a>>,
    approvals: Vec<ApprovalView<'a>>,
    running: Vec<RunningArtifact<'a>>,
}

impl ArtifactView<'_> {
    /// With the keys that Kosli's own client asks for.
    fn json(&self, installation: &Installation, subject: &Subject<'_>) -> Value {
        let fingerprint = subject.fingerprint.to_string();
        let state = self.state.map_or("", RecordState::as_str);
        let is_good = self.state.map(ComplianceState::from);
        let attestations = self.attestations.iter().map(|attested| {
            let type_ = attested.type_.as_deref();
            json!({"name": attested.name, "type": text(type_), "compliant": attested.compliant})
        });
        let deployments = self.deployments.iter();
        let approvals = self.approvals.iter();
        json!({
            "filename": subject.name,
            "flow_name": subject.flow,
            "fingerprint": fingerprint,
            "aliases": self.aliases,
            "state": state.to_uppercase(),
            "compliant": compliant(is_good.unwrap_or(ComplianceState::Unknown)),
            "created_at": self.created.map(seconds),
            "git_commit": self.commit,
            "commit_url": self.commit_url,
            "build_url": self.build_url,
            "html_url": installation.artifact_html_url(subject.flow, &fingerprint),
            "api_url": installation.artifact_api_url(subject.flow, &fingerprint),
            "missing": self.missing,
            "attestations": attestations.collect::<Vec<_>>(),
            "deployments": deployments.map(|it| it.json(installation, subject)).collect::<Vec<_>>(),
            "approvals": approvals.map(|it| it.json(installation, subject)).collect::<Vec<_>>(),
            "running": self.running.iter().map(|held| running(installation, held)).collect::<Vec<_>>(),
            "exited": [],
            "history": [],
        })
    }
}

fn running(installation: &Installation, held: &RunningArtifact<'_>) -> Value {
    let mut value = json!({
        "environment_name": held.environment,
        "snapshot_index": held.index,
        "fingerprint": held.fingerprint.to_string(),
        "name": held.name,
        "instances": held.instances,
        "html_url": installation.environment_html_url(held.environment),
        "api_url": installation.environment_api_url(held.environment),
    });
    for (key, told) in verdict(held.verdict()) {
        value[key] = told;
    }
    value
}

struct DeploymentView<'a> {
    number: i64,
    time: Timestamp,
    environment: &'a str,
    build_url: &'a str,
}

impl<'a> DeploymentView<'a> {
    fn of(announced: &'a crate::compliance::evidence::DeploymentRecord) -> Self {
        Self {
            number: announced.number,
            time: announced.time,
            environment: &announced.environment,
            build_url: text(announced.build_url.as_deref()),
        }
    }

    fn json(&self, installation: &Installation, subject: &Subject<'_>) -> Value {
        let (flow, number) = (subject.flow, self.number);
        json!({
            "number": number,
            "flow_name": flow,
            "artifact_name": subject.name,
            "fingerprint": subject.fingerprint.to_string(),
            "environment_name": self.environment,
            "timestamp": seconds(self.time),
            "build_url": self.build_url,
            "html_url": installation.note_html_url("deployments", flow, number),
            "api_url": installation.note_api_url("deployments", flow, number),
            "_links": subject.links(installation),
        })
    }
}

struct ApprovalView<'a> {
    number: i64,
    time: Timestamp,
    state: ReviewState,
    reviewer: &'a str,
    comment: &'a str,
    /// Empty: all.
    environment: &'a str,
    expires: Option<Timestamp>,
}

impl<'a> ApprovalView<'a> {
    fn of(review: &'a ApprovalReview) -> Self {
        Self {
            number: review.number,
            time: review.time,
            state: review.state,
            reviewer: &review.reviewer,
            comment: text(review.comment.as_deref()),
            environment: text(review.environment.as_deref()),
            expires: review.expires,
        }
    }

    fn json(&self, installation: &Installation, subject: &Subject<'_>) -> Value {
        let (flow, number) = (subject.flow, self.number);
        json!({
            "number": number,
            "flow_name": flow,
            "artifact_name": subject.name,
            "fingerprint": subject.fingerprint.to_string(),
            "environment_name": self.environment,
            "timestamp": seconds(self.time),
            "state": self.state.as_str(),
            "latest_reviewer": self.reviewer,
            "latest_review_comment": self.comment,
            "expires_at": self.expires.map(seconds),
            "html_url": installation.note_html_url("approvals", flow, number),
            "api_url": installation.note_api_url("approvals", flow, number),
            "_links": subject.links(installation),
        })
    }
}

#[cfg(test)]
mod tests;
