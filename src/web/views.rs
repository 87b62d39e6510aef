//! What the read API answers: the JSON is the serialisation of these views, and the pages are rendered from them. They
//! have the shapes of Kosli's read API, as far as the log has the data. Numbers are numbers here; only the webhook
//! payload is all strings.
//!
//! The fields of a view are in alphabetical order, because this is their order in the JSON.

pub(crate) mod artifact;
pub(crate) mod environment;
pub(crate) mod snapshot;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    api::{
        compliance::ComplianceState,
        snapshot::{Provenance, Verdict},
    },
    message::installation::Installation,
};

/// A time; in the JSON in Unix seconds with fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Timestamp);

impl Seconds {
    fn as_f64(self) -> f64 {
        self.0.as_duration().as_secs_f64()
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

/// Whether something is compliant; in the JSON `true`, `false`, or `null` for Unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compliant(pub(crate) ComplianceState);

impl Serialize for Compliant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ComplianceState::Compliant => serializer.serialize_bool(true),
            ComplianceState::NonCompliant => serializer.serialize_bool(false),
            ComplianceState::Unknown => serializer.serialize_none(),
        }
    }
}

impl Compliant {
    /// The compliance of an artifact with this verdict.
    fn of(verdict: Option<&Verdict>) -> Self {
        verdict.map_or(Self::default(), |verdict| Self(verdict.state))
    }
}

/// A list that Kosli's API has and the log does not: always empty.
type EmptyList = [(); 0];

/// An object that Kosli's API has and the log does not: always empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct EmptyObject {}

/// The URLs of one thing; empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Link {
    pub(crate) html: String,
    #[serde(rename = "self")]
    pub(crate) api: String,
}

impl Link {
    fn to_snapshot(installation: &Installation, environment: &str, index: i64) -> Self {
        Self {
            html: installation.snapshot_html_url(environment, index),
            api: installation.snapshot_api_url(environment, index),
        }
    }

    fn to_artifact(installation: &Installation, flow: &str, fingerprint: &str) -> Self {
        Self {
            html: installation.artifact_html_url(flow, fingerprint),
            api: installation.artifact_api_url(flow, fingerprint),
        }
    }
}

/// The compliance of an artifact, and the reasons for it.
struct VerdictView {
    compliant: Compliant,
    grace_until: Option<Seconds>,
    message: String,
    reason: &'static str,
}

impl VerdictView {
    fn of(verdict: Option<&Verdict>) -> Self {
        Self {
            compliant: Compliant::of(verdict),
            grace_until: verdict.and_then(|it| it.grace_until).map(Seconds),
            message: verdict.map_or(String::new(), |it| it.message.clone()),
            reason: verdict.map_or("", |it| it.reason.as_str()),
        }
    }
}

/// The numbers of the announced deployments.
fn deployment_numbers(known: Option<&Provenance>) -> Vec<i64> {
    let notes = known.map_or(&[][..], |known| &known.deployments);
    notes.iter().map(|note| note.number).collect()
}
