//! An event of a snapshot as the bytes that a destination understands.

pub mod installation;
pub mod kosli;
pub mod slack;
pub mod unreported_gap;
