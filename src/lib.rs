//! Shipbell notifies people when what runs in your cluster changes.
//!
//! One module for each capability, from the ground up. A module imports only those above it in this list, and no two
//! files import each other; the tests in `module_order.rs` read the imports and check it:
//!
//! - [`time`], [`backoff`], [`rate`], [`metrics`], [`panics`], `places`: moments of the clock, pauses between attempts, how often
//!   something may be done, what is counted, what contains a panic
//! - [`api`]: the custom resources, data only
//! - [`http`]: the outbound client: destination, guard, slots, proxy, what an answer means
//! - [`leader`]: which of several instances leads
//! - [`cluster`]: the list/watch loop, slim views, the packed fleet, image references, scope
//! - [`compliance`]: evidence, identity, the rules for artifacts and environments
//! - [`snapshot`]: census, settle, cut, the log in the API server, the recorder, pruning
//! - [`message`]: an event of a snapshot as bytes: Kosli's JSON, Slack's blocks
//! - [`delivery`]: subscriptions, cursors and the worker of each setting
//! - [`web`]: health and metrics, the read API, pages
//! - [`config`], [`run`]: arguments and environment, the composition root

// Decisions are functions of what they are given: no I/O, no clock, no waiting. A file that does otherwise says so in its
// first line. `clippy.toml` says what this keeps out.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![forbid(unsafe_code)]

pub mod api;
mod backoff;
pub mod cluster;
pub mod compliance;
pub mod config;
pub mod delivery;
pub mod http;
pub mod leader;
pub mod message;
mod metrics;
#[cfg(test)]
mod module_order;
mod panics;
mod places;
mod rate;
pub mod run;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod time;
pub mod web;
