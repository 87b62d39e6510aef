//! The custom resources of `shipbell.dev/v1alpha1`: data only. `kubectl explain` prints the doc comments of their
//! fields, so these are written for its readers: plain English, no knowledge of the code.

pub mod allowed_artifact;
pub mod approval;
pub mod compliance;
pub mod condition;
pub mod cut_to_schema;
pub mod duration;
pub mod environment;
pub mod notification_setting;
pub mod provenance;
pub mod selector;
pub mod snapshot;
pub(crate) mod start_from;
pub(crate) mod user_time;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use allowed_artifact::{AllowedArtifact, AllowedArtifactSpec};
pub use approval::{ArtifactApproval, ArtifactApprovalSpec};
pub use condition::Condition;
pub use duration::Span;
pub use environment::{Environment, EnvironmentSpec, EnvironmentStatus};
pub use notification_setting::{
    EventType, NotificationSetting, NotificationSettingSpec, NotificationSettingStatus,
};
pub use provenance::{ArtifactProvenance, ArtifactProvenanceSpec};
pub use snapshot::{EnvironmentSnapshot, EnvironmentSnapshotSpec};

/// The API group of every kind.
pub(crate) const GROUP: &str = "shipbell.dev";

/// The label of snapshots and chunks that names their environment.
pub(crate) const ENVIRONMENT_LABEL: &str = "shipbell.dev/environment";

/// The label of a part of a checkpoint that was too big for its snapshot. Such an object is not an entry of the log.
pub(crate) const CHUNK_LABEL: &str = "shipbell.dev/chunk";

/// The annotation of a setting that requests a test message. Each new value sends one.
pub(crate) const TEST_ANNOTATION: &str = "shipbell.dev/test-requested-at";
/// The annotation of a setting that requests that events are sent again. Its value says which.
pub(crate) const REPLAY_ANNOTATION: &str = "shipbell.dev/replay";

/// The custom resource definitions, each with the name of its file in `crds/`.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    [
        ("allowedartifacts.yaml", AllowedArtifact::crd()),
        ("artifactapprovals.yaml", ArtifactApproval::crd()),
        ("artifactprovenances.yaml", ArtifactProvenance::crd()),
        ("environments.yaml", Environment::crd()),
        ("environmentsnapshots.yaml", EnvironmentSnapshot::crd()),
        ("notificationsettings.yaml", NotificationSetting::crd()),
    ]
    .into_iter()
    .map(|(file, mut crd)| {
        // Otherwise Flux would replace `${...}` in a description as a variable.
        let annotation = ("kustomize.toolkit.fluxcd.io/substitute", "disabled");
        crd.metadata.annotations =
            Some([(annotation.0.to_owned(), annotation.1.to_owned())].into());
        (file, crd)
    })
    .collect()
}

#[cfg(test)]
mod tests;
