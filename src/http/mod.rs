//! The one outbound client, and what an answer to it means.

mod client;
pub mod destination;
mod error;
pub mod guard;
pub mod outcome;
mod proxy;
pub mod sender;
mod slots;
