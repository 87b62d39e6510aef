//! The one outbound client, and what an answer to it means.

pub mod address_guard;
mod certificates;
mod client;
mod config;
mod connection;
pub mod destination;
pub(crate) mod error;
pub(crate) mod logging;
mod proxy;
mod resolver;
pub mod response;
pub mod sender;
mod slots;
mod turns;
