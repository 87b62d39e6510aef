//! Follows the log for each setting and delivers what it asks for.

pub mod conditions;
pub mod dispatcher;
pub mod environment_queue;
pub mod history;
pub mod job;
pub mod outbox;
pub mod secret;
pub mod setting_worker;
pub mod status_writer;
pub mod visibility;
