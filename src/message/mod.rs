//! Turns events of snapshots into the bytes that a destination understands.

pub(crate) mod installation;
pub mod kosli;
pub(crate) mod slack;
pub(crate) mod unreported_gap;
