//! The pure heart: decisions as functions of what is given. No I/O, no clock, no waiting; the fence below is
//! checked by clippy (`clippy.toml` says what it keeps out).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod assess;
pub mod backoff;
pub mod because;
pub mod bulletin;
pub mod census;
pub mod compliance;
pub mod cut;
pub mod destination;
pub mod event;
pub mod evidence;
pub mod fleet;
pub mod gap;
pub mod guard;
pub mod image;
pub mod installation;
pub mod intern;
pub mod judge;
pub mod lanes;
pub mod ledger;
pub mod names;
pub mod notes;
pub mod outbox;
pub mod payload;
pub mod pen;
pub mod reach;
pub mod readout;
pub mod retention;
pub mod scope;
pub mod settle;
pub mod slack;
pub mod standing;
pub mod verdict;
pub mod view;
pub mod world;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;

/// A moment on the monotonic clock: the time since an arbitrary start, the same in all of a process.
pub type Moment = std::time::Duration;
