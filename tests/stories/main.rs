//! What the operator does, told as stories on a real control plane. One operator serves all but a few; each has a
//! namespace and an Environment of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod bad_input;
mod compliance;
mod controllers;
mod environments;
mod guarded;
mod metrics;
mod settings;
mod slack;
mod workloads;
