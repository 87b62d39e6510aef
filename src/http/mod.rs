//! The one outbound client, and what an answer to it means.

mod certificates;
mod client;
mod config;
pub mod destination;
pub(crate) mod error;
pub mod guard;
pub(crate) mod logging;
pub mod outcome;
mod proxy;
mod resolver;
mod schedule;
pub mod sender;
mod slots;
