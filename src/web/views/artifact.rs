//! Where an image comes from, with its deployments and reviews. The records and reviews say it, or, after they were
//! deleted, the copies of them in the log.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        approval::ReviewState,
        compliance::ComplianceState,
        provenance::RecordState,
        snapshot::{ApprovalNote, DeploymentNote, Provenance},
    },
    cluster::image::Fingerprint,
    compliance::evidence::{ApprovalReview, AttestationRecord, DeploymentRecord, ProvenanceRecord},
    message::installation::Installation,
    snapshot::state::{ClusterState, RunningArtifact},
    web::views::{Compliant, EmptyList, Link, Seconds, VerdictView},
};

/// What is looked up in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An image that the flow built.
    Artifact(Fingerprint),
    /// The deployment with this number.
    Deployment(i64),
    /// The review with this number.
    Approval(i64),
}

/// What is looked up in which flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowQuery {
    pub(crate) flow: String,
    pub(crate) wanted: Wanted,
}

/// The answer to a query: what was looked up, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum FlowAnswer {
    Artifact(Box<ArtifactView>),
    Deployment(DeploymentView),
    Approval(ApprovalView),
}

/// What a log contains about where an image comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedProvenance<'a> {
    environment: &'a str,
    index: i64,
    fingerprint: Fingerprint,
    name: &'a str,
    provenance: &'a Provenance,
}

impl<'a> LoggedProvenance<'a> {
    fn of(running: RunningArtifact<'a>) -> Option<Self> {
        Some(Self {
            environment: running.environment,
            index: running.index,
            fingerprint: running.fingerprint,
            name: running.name,
            provenance: running.facts?.provenance.as_ref()?,
        })
    }

    /// Everything of this kind that an entry of a log contains.
    pub(crate) fn in_entry(spec: &'a EnvironmentSnapshotSpec) -> impl Iterator<Item = Self> {
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

impl FlowQuery {
    /// Answers from the records and reviews that some environment trusts, or else from the newest state of the
    /// environments.
    pub(crate) fn answer(
        &self,
        installation: &Installation,
        state: &ClusterState,
    ) -> Option<FlowAnswer> {
        let by_records = match self.wanted {
            Wanted::Artifact(digest) => self.artifact(installation, state, digest),
            Wanted::Deployment(number) => self.deployment(installation, state, number),
            Wanted::Approval(number) => self.approval(installation, state, number),
        };
        by_records.or_else(|| {
            let mut logged = state.recorded_artifacts().filter_map(LoggedProvenance::of);
            let found = logged.find(|logged| self.is_answered_by(logged))?;
            self.answer_by(installation, state, &found)
        })
    }

    /// Whether the log contains here what is looked up.
    pub(crate) fn is_answered_by(&self, logged: &LoggedProvenance<'_>) -> bool {
        let known = logged.provenance;
        let is_it = match self.wanted {
            Wanted::Artifact(digest) => logged.fingerprint == digest,
            Wanted::Deployment(number) => known.deployments.iter().any(|it| it.number == number),
            Wanted::Approval(number) => known.approvals.iter().any(|it| it.number == number),
        };
        is_it && known.flow == self.flow
    }

    /// Answers from what a log contains.
    pub(crate) fn answer_by(
        &self,
        installation: &Installation,
        state: &ClusterState,
        logged: &LoggedProvenance<'_>,
    ) -> Option<FlowAnswer> {
        let known = logged.provenance;
        let source = Source::snapshot(installation, logged.environment, logged.index);
        let subject = Subject {
            installation,
            flow: &self.flow,
            fingerprint: logged.fingerprint,
            name: if known.name.is_empty() {
                logged.name
            } else {
                &known.name
            },
        };
        let deployments = known
            .deployments
            .iter()
            .map(|note| subject.deployment(&Deployment::of_note(note, logged.environment)));
        let approvals = known
            .approvals
            .iter()
            .map(|note| subject.approval(&Approval::of_note(note, logged.environment)));
        Some(match self.wanted {
            Wanted::Artifact(_) => FlowAnswer::Artifact(Box::new(ArtifactView {
                approvals: approvals.collect(),
                build_url: known.build_url.clone(),
                commit_url: known.commit_url.clone(),
                deployments: deployments.collect(),
                git_commit: known.commit.clone(),
                running: subject.running(&state.running(&[logged.fingerprint])),
                ..subject.artifact(known.status, source)
            })),
            Wanted::Deployment(number) => {
                let mut deployments = deployments;
                let found = deployments.find(|note| note.number == number)?;
                FlowAnswer::Deployment(found.from(source))
            }
            Wanted::Approval(number) => {
                let mut approvals = approvals;
                let found = approvals.find(|note| note.number == number)?;
                FlowAnswer::Approval(found.from(source))
            }
        })
    }

    fn artifact(
        &self,
        installation: &Installation,
        state: &ClusterState,
        digest: Fingerprint,
    ) -> Option<FlowAnswer> {
        let class = state.equivalent(digest);
        let records = counted(state, &class);
        let record = records.iter().find(|record| *record.flow == *self.flow)?;
        let digests: BTreeSet<Fingerprint> =
            class.iter().copied().chain(record.digests()).collect();
        let running = state.running(&digests.iter().copied().collect::<Vec<_>>());
        let mut reviews: Vec<_> = digests
            .iter()
            .flat_map(|digest| state.evidence().reviews_of(*digest))
            .filter(|review| state.trusts(&review.key.namespace))
            .filter(|review| {
                let flow = review.flow.as_deref();
                flow.is_none_or(|flow| records.iter().any(|record| *record.flow == *flow))
            })
            .collect();
        reviews.sort_by(|a, b| b.order().cmp(&a.order()));
        let subject = Subject {
            installation,
            flow: &self.flow,
            fingerprint: record.fingerprint,
            name: name(record, running.first()),
        };
        let deployments = record.deployments.iter();
        let source = Source::Object(record.key.to_string());
        Some(FlowAnswer::Artifact(Box::new(ArtifactView {
            aliases: record.aliases.iter().map(ToString::to_string).collect(),
            approvals: reviews
                .iter()
                .map(|review| subject.approval(&Approval::of_review(review)))
                .collect(),
            attestations: record
                .attestations
                .iter()
                .map(AttestationView::of)
                .collect(),
            build_url: text(record.build_url.as_deref()).to_owned(),
            commit_url: text(record.commit_url.as_deref()).to_owned(),
            created_at: Some(Seconds(record.created)),
            deployments: deployments
                .map(|it| subject.deployment(&Deployment::of_record(it)))
                .collect(),
            git_commit: text(record.commit.as_deref()).to_owned(),
            missing: record.missing.iter().map(ToString::to_string).collect(),
            running: subject.running(&running),
            ..subject.artifact(Some(record.state), source)
        })))
    }

    fn deployment(
        &self,
        installation: &Installation,
        state: &ClusterState,
        number: i64,
    ) -> Option<FlowAnswer> {
        let records = state.evidence().records().values();
        let records = records
            .filter(|record| *record.flow == *self.flow && state.trusts(&record.key.namespace));
        let announced = records.flat_map(|record| {
            let deployments = record.deployments.iter();
            deployments.map(move |deployment| (record, deployment))
        });
        let (record, deployment) = announced
            .filter(|(_, deployment)| deployment.number == number)
            .max_by_key(|(_, deployment)| deployment.time)?;
        let running = state.running(&record.digests().collect::<Vec<_>>());
        let subject = Subject {
            installation,
            flow: &self.flow,
            fingerprint: record.fingerprint,
            name: name(record, running.first()),
        };
        let found = subject.deployment(&Deployment::of_record(deployment));
        let source = Source::Object(record.key.to_string());
        Some(FlowAnswer::Deployment(found.from(source)))
    }

    /// A review is found under the flow that it names, and under the flows of its image's records: payloads link to it
    /// there.
    fn approval(
        &self,
        installation: &Installation,
        state: &ClusterState,
        number: i64,
    ) -> Option<FlowAnswer> {
        let reviews = state.evidence().reviews().values();
        let reviews =
            reviews.filter(|review| review.number == number && state.trusts(&review.key.namespace));
        let of_flow = reviews.filter_map(|review| {
            let records = counted(state, &state.equivalent(review.fingerprint));
            let record = records.into_iter().find(|it| *it.flow == *self.flow);
            (record.is_some() || review.flow.as_deref() == Some(&*self.flow))
                .then_some((review, record))
        });
        let (review, record) = of_flow.max_by(|(a, _), (b, _)| a.order().cmp(&b.order()))?;
        let fingerprint = record.map_or(review.fingerprint, |record| record.fingerprint);
        let running = state.running(&[fingerprint, review.fingerprint]);
        let image = running.first().map_or("", |running| running.name);
        let subject = Subject {
            installation,
            flow: &self.flow,
            fingerprint,
            name: record.map_or(image, |record| name(record, running.first())),
        };
        let found = subject.approval(&Approval::of_review(review));
        let source = Source::Object(review.key.to_string());
        Some(FlowAnswer::Approval(found.from(source)))
    }
}

/// The records with these digests that count in some environment.
fn counted<'a>(
    state: &'a ClusterState,
    digests: &BTreeSet<Fingerprint>,
) -> Vec<&'a ProvenanceRecord> {
    let trusts = |namespace: &str| state.trusts(namespace);
    let records = state.evidence().counted(digests.iter().copied(), trusts);
    records.into_iter().map(|record| &**record).collect()
}

fn text(text: Option<&str>) -> &str {
    text.unwrap_or_default()
}

/// The name of an image: that of its record, or else the one in the pods.
fn name<'a>(record: &'a ProvenanceRecord, running: Option<&RunningArtifact<'a>>) -> &'a str {
    let in_pods = || running.map_or("", |running| running.name);
    record.name.as_deref().unwrap_or_else(in_pods)
}

/// Where the data of an answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The record or the review, as namespace/name.
    Object(String),
    /// The snapshot that contains a copy: the object itself was deleted.
    Snapshot {
        environment: String,
        index: i64,
        html_url: String,
        api_url: String,
    },
}

impl Source {
    fn snapshot(installation: &Installation, environment: &str, index: i64) -> Self {
        Self::Snapshot {
            environment: environment.to_owned(),
            index,
            html_url: installation.snapshot_html_url(environment, index),
            api_url: installation.snapshot_api_url(environment, index),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Default, Serialize)]
        struct Fields<'a> {
            api_url: &'a str,
            environment_name: &'a str,
            html_url: &'a str,
            record: Option<&'a str>,
            snapshot_index: Option<i64>,
        }
        let fields = match self {
            Self::Object(key) => Fields {
                record: Some(key),
                ..Fields::default()
            },
            Self::Snapshot {
                environment,
                index,
                html_url,
                api_url,
            } => Fields {
                api_url,
                environment_name: environment,
                html_url,
                record: None,
                snapshot_index: Some(*index),
            },
        };
        fields.serialize(serializer)
    }
}

/// An image of a flow, with the keys that Kosli's own client expects.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ArtifactView {
    pub(crate) aliases: Vec<String>,
    pub(crate) api_url: String,
    pub(crate) approvals: Vec<ApprovalView>,
    pub(crate) attestations: Vec<AttestationView>,
    pub(crate) build_url: String,
    pub(crate) commit_url: String,
    pub(crate) compliant: Compliant,
    pub(crate) created_at: Option<Seconds>,
    pub(crate) deployments: Vec<DeploymentView>,
    pub(crate) exited: EmptyList,
    pub(crate) filename: String,
    pub(crate) fingerprint: String,
    pub(crate) flow_name: String,
    pub(crate) git_commit: String,
    pub(crate) history: EmptyList,
    pub(crate) html_url: String,
    pub(crate) missing: Vec<String>,
    pub(crate) running: Vec<RunningView>,
    pub(crate) source: Source,
    pub(crate) state: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct AttestationView {
    pub(crate) compliant: bool,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_: String,
}

impl AttestationView {
    fn of(record: &AttestationRecord) -> Self {
        Self {
            compliant: record.compliant,
            name: record.name.to_string(),
            type_: text(record.type_.as_deref()).to_owned(),
        }
    }
}

/// An environment in which an image runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RunningView {
    pub(crate) api_url: String,
    pub(crate) compliant: Compliant,
    pub(crate) environment_name: String,
    pub(crate) fingerprint: String,
    pub(crate) grace_until: Option<Seconds>,
    pub(crate) html_url: String,
    pub(crate) instances: u32,
    pub(crate) message: String,
    pub(crate) name: String,
    pub(crate) reason: &'static str,
    pub(crate) snapshot_index: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ArtifactLinks {
    pub(crate) artifact: Link,
}

/// An announced deployment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DeploymentView {
    #[serde(rename = "_links")]
    pub(crate) links: ArtifactLinks,
    pub(crate) api_url: String,
    pub(crate) artifact_name: String,
    pub(crate) build_url: String,
    pub(crate) environment_name: String,
    pub(crate) fingerprint: String,
    pub(crate) flow_name: String,
    pub(crate) html_url: String,
    pub(crate) number: i64,
    /// Absent where it is a part of another view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    pub(crate) timestamp: Seconds,
}

impl DeploymentView {
    fn from(self, source: Source) -> Self {
        let source = Some(source);
        Self { source, ..self }
    }
}

/// A review.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ApprovalView {
    #[serde(rename = "_links")]
    pub(crate) links: ArtifactLinks,
    pub(crate) api_url: String,
    pub(crate) artifact_name: String,
    /// Empty: all environments.
    pub(crate) environment_name: String,
    pub(crate) expires_at: Option<Seconds>,
    pub(crate) fingerprint: String,
    pub(crate) flow_name: String,
    pub(crate) html_url: String,
    pub(crate) latest_review_comment: String,
    pub(crate) latest_reviewer: String,
    pub(crate) number: i64,
    /// Absent where it is a part of another view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    pub(crate) state: &'static str,
    pub(crate) timestamp: Seconds,
}

impl ApprovalView {
    fn from(self, source: Source) -> Self {
        let source = Some(source);
        Self { source, ..self }
    }
}

/// A deployment, from a record or from the log.
struct Deployment<'a> {
    number: i64,
    time: Timestamp,
    environment: &'a str,
    build_url: &'a str,
}

impl<'a> Deployment<'a> {
    fn of_record(record: &'a DeploymentRecord) -> Self {
        Self {
            number: record.number,
            time: record.time,
            environment: &record.environment,
            build_url: text(record.build_url.as_deref()),
        }
    }

    fn of_note(note: &'a DeploymentNote, environment: &'a str) -> Self {
        Self {
            number: note.number,
            time: note.time,
            environment,
            build_url: &note.build_url,
        }
    }
}

/// A review, from its object or from the log.
struct Approval<'a> {
    number: i64,
    time: Timestamp,
    state: ReviewState,
    reviewer: &'a str,
    comment: &'a str,
    environment: &'a str,
    expires: Option<Timestamp>,
}

impl<'a> Approval<'a> {
    fn of_review(review: &'a ApprovalReview) -> Self {
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

    fn of_note(note: &'a ApprovalNote, environment: &'a str) -> Self {
        Self {
            number: note.number,
            time: note.time,
            state: note.state,
            reviewer: &note.reviewer,
            comment: &note.comment,
            environment,
            expires: None,
        }
    }
}

/// The image of a flow that an answer is about.
struct Subject<'a> {
    installation: &'a Installation,
    flow: &'a str,
    fingerprint: Fingerprint,
    name: &'a str,
}

impl Subject<'_> {
    fn links(&self) -> ArtifactLinks {
        let fingerprint = self.fingerprint.to_string();
        ArtifactLinks {
            artifact: Link::to_artifact(self.installation, self.flow, &fingerprint),
        }
    }

    /// An image of which nothing more is known.
    fn artifact(&self, state: Option<RecordState>, source: Source) -> ArtifactView {
        let Link { html, api } = self.links().artifact;
        let compliance = state.map_or(ComplianceState::Unknown, ComplianceState::from);
        ArtifactView {
            aliases: vec![],
            api_url: api,
            approvals: vec![],
            attestations: vec![],
            build_url: String::new(),
            commit_url: String::new(),
            compliant: Compliant(compliance),
            created_at: None,
            deployments: vec![],
            exited: [],
            filename: self.name.to_owned(),
            fingerprint: self.fingerprint.to_string(),
            flow_name: self.flow.to_owned(),
            git_commit: String::new(),
            history: [],
            html_url: html,
            missing: vec![],
            running: vec![],
            source,
            state: state.map_or("", RecordState::as_str).to_uppercase(),
        }
    }

    fn deployment(&self, deployment: &Deployment) -> DeploymentView {
        let Self {
            installation, flow, ..
        } = *self;
        DeploymentView {
            links: self.links(),
            api_url: installation.note_api_url("deployments", flow, deployment.number),
            artifact_name: self.name.to_owned(),
            build_url: deployment.build_url.to_owned(),
            environment_name: deployment.environment.to_owned(),
            fingerprint: self.fingerprint.to_string(),
            flow_name: flow.to_owned(),
            html_url: installation.note_html_url("deployments", flow, deployment.number),
            number: deployment.number,
            source: None,
            timestamp: Seconds(deployment.time),
        }
    }

    fn approval(&self, approval: &Approval) -> ApprovalView {
        let Self {
            installation, flow, ..
        } = *self;
        ApprovalView {
            links: self.links(),
            api_url: installation.note_api_url("approvals", flow, approval.number),
            artifact_name: self.name.to_owned(),
            environment_name: approval.environment.to_owned(),
            expires_at: approval.expires.map(Seconds),
            fingerprint: self.fingerprint.to_string(),
            flow_name: flow.to_owned(),
            html_url: installation.note_html_url("approvals", flow, approval.number),
            latest_review_comment: approval.comment.to_owned(),
            latest_reviewer: approval.reviewer.to_owned(),
            number: approval.number,
            source: None,
            state: approval.state.as_str(),
            timestamp: Seconds(approval.time),
        }
    }

    fn running(&self, running: &[RunningArtifact<'_>]) -> Vec<RunningView> {
        let view = |running: &RunningArtifact<'_>| {
            let verdict = VerdictView::of(running.verdict());
            let environment = running.environment;
            RunningView {
                api_url: self.installation.environment_api_url(environment),
                compliant: verdict.compliant,
                environment_name: environment.to_owned(),
                fingerprint: running.fingerprint.to_string(),
                grace_until: verdict.grace_until,
                html_url: self.installation.environment_html_url(environment),
                instances: running.instances,
                message: verdict.message,
                name: running.name.to_owned(),
                reason: verdict.reason,
                snapshot_index: running.index,
            }
        };
        running.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests;
