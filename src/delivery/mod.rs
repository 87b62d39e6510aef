//! Follows the log for each setting and delivers what it asks for. [`setting_state`] decides, [`setting_worker`] executes.

mod ack_window;
pub(crate) mod backoff;
mod conditions;
pub(crate) mod dispatcher;
mod environment_queue;
mod heads;
mod history;
mod mailbox;
mod next_message;
mod pending;
pub(crate) mod reasons;
mod retry;
pub(crate) mod secret;
mod setting_state;
mod setting_worker;
mod start;
mod status_writer;
mod subscription;
mod test_message;
mod visibility;
