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

use crate::api::{
    compliance::ComplianceState,
    snapshot::{Provenance, Verdict},
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

/// The numbers of the announced deployments.
fn deployment_numbers(known: Option<&Provenance>) -> Vec<i64> {
    let notes = known.map_or(&[][..], |known| &known.deployments);
    notes.iter().map(|note| note.number).collect()
}
