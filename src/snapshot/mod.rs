//! The log of snapshots: what runs in each environment is counted, settled, cut and appended; old entries are pruned.

pub mod assessment;
pub mod census;
pub mod cut;
pub mod environment_status;
pub mod environments;
pub mod event;
pub mod ledger;
pub mod log;
pub mod progress;
pub mod pruning;
pub mod reasons;
pub mod recorder;
pub mod retention;
pub mod self_check;
pub mod settle;
pub mod shared;
pub mod state;
