//! The log of snapshots: what runs in each environment is counted, settled, cut and appended; old entries are pruned.

pub(crate) mod assessment;
pub(crate) mod census;
pub(crate) mod cut;
pub(crate) mod delivery_progress;
pub(crate) mod environment_recorder;
pub(crate) mod environment_status;
pub(crate) mod environments;
pub mod event;
pub mod ledger;
pub(crate) mod log;
pub(crate) mod log_cache;
pub(crate) mod pruning;
pub(crate) mod reasons;
pub(crate) mod recorder;
pub(crate) mod recorder_context;
pub(crate) mod reduced_entry;
pub(crate) mod retention;
pub(crate) mod self_check;
pub(crate) mod settle;
pub(crate) mod shared_state;
pub mod state;
pub(crate) mod unrecorded;
