//! Where an image comes from, with its deployments and reviews. The records and reviews say it, or, after they were
//! deleted, the copies of them in the log.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        compliance::ComplianceState,
        provenance::RecordState,
        snapshot::{ApprovalNote, DeploymentNote, Provenance},
    },
    cluster::image::Fingerprint,
    compliance::evidence::{ApprovalReview, DeploymentRecord, EvidenceKey, ProvenanceRecord},
    message::installation::{Installation, Link, NoteKind},
    snapshot::state::{ClusterState, RunningArtifact},
    web::views::{Compliant, EmptyList, Seconds},
};

/// What is looked up in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// An image that the flow built.
    Artifact(Fingerprint),
    /// The deployment with this number.
    Deployment(i64),
    /// The review with this number.
    Approval(i64),
}

/// What is looked up in which flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowQuery {
    pub(crate) flow: String,
    pub(crate) wanted: Wanted,
}

/// The answer to a query: what was looked up, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum FlowAnswer {
    Artifact(Box<ArtifactView>),
    Deployment(AnnouncedDeploymentView),
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

    /// The queries that this answers.
    pub(crate) fn queries(&self) -> impl Iterator<Item = FlowQuery> {
        let known = self.provenance;
        let deployments = known.deployments.iter();
        let approvals = known.approvals.iter();
        [Wanted::Artifact(self.fingerprint)]
            .into_iter()
            .chain(deployments.map(|it| Wanted::Deployment(it.number)))
            .chain(approvals.map(|it| Wanted::Approval(it.number)))
            .map(|wanted| FlowQuery {
                flow: known.flow.clone(),
                wanted,
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
        let environment = logged.environment;
        let deployments = known.deployments.iter();
        let mut deployments = deployments.map(|note| subject.deployment(note, environment));
        let approvals = known.approvals.iter();
        let mut approvals = approvals.map(|note| subject.approval(note, environment));
        let source = Source::snapshot(installation, environment, logged.index);
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
            Wanted::Deployment(number) => FlowAnswer::Deployment(AnnouncedDeploymentView {
                source: Some(source),
                ..deployments.find(|it| it.number == number)?
            }),
            Wanted::Approval(number) => FlowAnswer::Approval(ApprovalView {
                source: Some(source),
                ..approvals.find(|it| it.number == number)?
            }),
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
        let attestations = record.attestations.iter().map(|it| AttestationView {
            compliant: it.compliant,
            name: it.name.to_string(),
            type_: text(it.type_.as_deref()),
        });
        Some(FlowAnswer::Artifact(Box::new(ArtifactView {
            aliases: record.aliases.iter().map(ToString::to_string).collect(),
            approvals: reviews.iter().map(|it| subject.review(it)).collect(),
            attestations: attestations.collect(),
            build_url: text(record.build_url.as_deref()),
            commit_url: text(record.commit_url.as_deref()),
            created_at: Some(Seconds(record.created)),
            deployments: deployments
                .map(|it| subject.recorded_deployment(it))
                .collect(),
            git_commit: text(record.commit.as_deref()),
            missing: record.missing.iter().map(ToString::to_string).collect(),
            running: subject.running(&running),
            ..subject.artifact(Some(record.state), Source::object(&record.key))
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
        Some(FlowAnswer::Deployment(AnnouncedDeploymentView {
            source: Some(Source::object(&record.key)),
            ..subject.recorded_deployment(deployment)
        }))
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
        Some(FlowAnswer::Approval(ApprovalView {
            source: Some(Source::object(&review.key)),
            ..subject.review(review)
        }))
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

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// The name of an image: that of its record, or else the one in the pods.
fn name<'a>(record: &'a ProvenanceRecord, running: Option<&RunningArtifact<'a>>) -> &'a str {
    let in_pods = || running.map_or("", |running| running.name);
    record.name.as_deref().unwrap_or_else(in_pods)
}

/// Where the data of an answer comes from: a record or a review, or, if that was deleted, the copy in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Source {
    pub(crate) api_url: String,
    pub(crate) environment_name: String,
    pub(crate) html_url: String,
    /// The record or the review, as namespace/name.
    pub(crate) record: Option<String>,
    pub(crate) snapshot_index: Option<i64>,
}

impl Source {
    fn object(key: &EvidenceKey) -> Self {
        Self {
            record: Some(key.to_string()),
            ..Self::default()
        }
    }

    fn snapshot(installation: &Installation, environment: &str, index: i64) -> Self {
        let Link { html, api } = installation.snapshot(environment, index);
        Self {
            api_url: api,
            environment_name: environment.to_owned(),
            html_url: html,
            record: None,
            snapshot_index: Some(index),
        }
    }
}

/// An image of a flow, with the keys that Kosli's own client expects.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ArtifactView {
    pub(crate) aliases: Vec<String>,
    pub(crate) api_url: String,
    pub(crate) approvals: Vec<ApprovalView>,
    pub(crate) attestations: Vec<AttestationView>,
    pub(crate) build_url: String,
    pub(crate) commit_url: String,
    pub(crate) compliant: Compliant,
    pub(crate) created_at: Option<Seconds>,
    pub(crate) deployments: Vec<AnnouncedDeploymentView>,
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
pub(crate) struct AnnouncedDeploymentView {
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

/// The image of a flow that an answer is about.
struct Subject<'a> {
    installation: &'a Installation,
    flow: &'a str,
    fingerprint: Fingerprint,
    name: &'a str,
}

impl Subject<'_> {
    fn link(&self) -> Link {
        let fingerprint = self.fingerprint.to_string();
        self.installation.artifact(self.flow, &fingerprint)
    }

    fn links(&self) -> ArtifactLinks {
        ArtifactLinks {
            artifact: self.link(),
        }
    }

    /// An image of which nothing more is known.
    fn artifact(&self, state: Option<RecordState>, source: Source) -> ArtifactView {
        let Link { html, api } = self.link();
        let compliance = state.map_or(ComplianceState::Unknown, ComplianceState::from);
        ArtifactView {
            api_url: api,
            compliant: Compliant(compliance),
            filename: self.name.to_owned(),
            fingerprint: self.fingerprint.to_string(),
            flow_name: self.flow.to_owned(),
            html_url: html,
            source,
            state: state.map_or("", RecordState::as_str).to_uppercase(),
            ..ArtifactView::default()
        }
    }

    fn recorded_deployment(&self, record: &DeploymentRecord) -> AnnouncedDeploymentView {
        self.deployment(&record.note(), &record.environment)
    }

    fn deployment(&self, note: &DeploymentNote, environment: &str) -> AnnouncedDeploymentView {
        let Link { html, api } =
            self.installation
                .note(NoteKind::Deployment, self.flow, note.number);
        AnnouncedDeploymentView {
            links: self.links(),
            api_url: api,
            artifact_name: self.name.to_owned(),
            build_url: note.build_url.clone(),
            environment_name: environment.to_owned(),
            fingerprint: self.fingerprint.to_string(),
            flow_name: self.flow.to_owned(),
            html_url: html,
            number: note.number,
            source: None,
            timestamp: Seconds(note.time),
        }
    }

    fn review(&self, review: &ApprovalReview) -> ApprovalView {
        ApprovalView {
            expires_at: review.expires.map(Seconds),
            ..self.approval(&review.note(), &text(review.environment.as_deref()))
        }
    }

    fn approval(&self, note: &ApprovalNote, environment: &str) -> ApprovalView {
        let Link { html, api } = self
            .installation
            .note(NoteKind::Approval, self.flow, note.number);
        ApprovalView {
            links: self.links(),
            api_url: api,
            artifact_name: self.name.to_owned(),
            environment_name: environment.to_owned(),
            expires_at: None,
            fingerprint: self.fingerprint.to_string(),
            flow_name: self.flow.to_owned(),
            html_url: html,
            latest_review_comment: note.comment.clone(),
            latest_reviewer: note.reviewer.clone(),
            number: note.number,
            source: None,
            state: note.state.as_str(),
            timestamp: Seconds(note.time),
        }
    }

    fn running(&self, running: &[RunningArtifact<'_>]) -> Vec<RunningView> {
        let view = |running: &RunningArtifact<'_>| {
            let verdict = running.verdict();
            let Link { html, api } = self.installation.environment(running.environment);
            RunningView {
                api_url: api,
                compliant: Compliant::of(verdict),
                environment_name: running.environment.to_owned(),
                fingerprint: running.fingerprint.to_string(),
                grace_until: verdict.and_then(|it| it.grace_until).map(Seconds),
                html_url: html,
                instances: running.instances,
                message: verdict.map_or(String::new(), |it| it.message.clone()),
                name: running.name.to_owned(),
                reason: verdict.map_or("", |it| it.reason.as_str()),
                snapshot_index: running.index,
            }
        };
        running.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests;
