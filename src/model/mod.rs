//! The pure heart: decisions as functions of what is given. No I/O, no clock, no waiting; the fence below is
//! checked by clippy (`clippy.toml` says what it keeps out).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod slack;
