//! What is known of images, and whether an environment keeps its rules.

pub mod artifact_rules;
pub mod environment_state;
pub mod evidence;
pub mod evidence_resource;
pub mod evidence_state;
pub mod evidence_status;
pub mod evidence_watch;
pub mod identity;
