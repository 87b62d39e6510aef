//! Follows the log for each setting and delivers what it asks for. [`setting_state`] decides, [`setting_worker`] executes.

pub(crate) mod ack_window;
pub(crate) mod conditions;
pub(crate) mod context;
pub(crate) mod dispatcher;
pub(crate) mod environment_queue;
mod followed_environments;
mod log_heads;
mod mailbox;
mod message_history;
pub(crate) mod next_message;
pub(crate) mod pending;
pub(crate) mod reasons;
pub(crate) mod replay;
pub(crate) mod request_slots;
mod retry;
pub(crate) mod secret;
mod setting_metrics;
pub(crate) mod setting_state;
mod setting_worker;
mod start_position;
pub(crate) mod status_writer;
pub(crate) mod subscription;
mod test_message;
