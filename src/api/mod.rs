//! The kinds of `shipbell.dev/v1alpha1`: data only, no I/O. Doc comments on their fields are what
//! `kubectl explain` prints, so they are written for that reader.

pub mod allowed;
pub mod approval;
pub mod compliance;
pub mod condition;
pub mod environment;
pub mod provenance;
pub mod selector;
pub mod setting;
pub mod snapshot;
pub mod span;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use allowed::{AllowedArtifact, AllowedArtifactSpec};
pub use approval::{ArtifactApproval, ArtifactApprovalSpec};
pub use condition::Condition;
pub use environment::{Environment, EnvironmentSpec, EnvironmentStatus};
pub use provenance::{ArtifactProvenance, ArtifactProvenanceSpec};
pub use setting::{
    EventType, NotificationSetting, NotificationSettingSpec, NotificationSettingStatus,
};
pub use snapshot::{EnvironmentSnapshot, EnvironmentSnapshotSpec};
pub use span::Span;

/// The API group of every kind.
pub const GROUP: &str = "shipbell.dev";

/// The label that ties a snapshot (and a chunk) to its environment.
pub const ENVIRONMENT_LABEL: &str = "shipbell.dev/environment";

/// The label of a part of a checkpoint that was too big for its snapshot; it is no log entry.
pub const CHUNK_LABEL: &str = "shipbell.dev/chunk";

/// Sends one test message to the setting's destination each time its value changes.
pub const TEST_ANNOTATION: &str = "shipbell.dev/test-requested-at";

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
        // Flux would otherwise read `${...}` in a description as a variable of its own.
        let annotation = ("kustomize.toolkit.fluxcd.io/substitute", "disabled");
        crd.metadata.annotations =
            Some([(annotation.0.to_owned(), annotation.1.to_owned())].into());
        (file, crd)
    })
    .collect()
}

#[cfg(test)]
mod tests;
