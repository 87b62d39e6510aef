//! What is known of images, and whether an environment complies with its rules.

pub(crate) mod artifact_identity;
pub(crate) mod artifact_rules;
pub(crate) mod environment_compliance;
pub mod evidence;
pub(crate) mod evidence_resource;
pub mod evidence_state;
pub(crate) mod evidence_status;
pub(crate) mod evidence_watch;
