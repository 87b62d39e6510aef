//! Shipbell rings when what runs in your cluster changes.
//!
//! The way of the data is the reading order of the modules:
//! [`watch`] reads pods, deployments and namespaces into the [`model::world`], [`gather`] what is said of images, and
//! [`answer`] tells those who said it what became of it; [`record`] appends what is ripe to the log in
//! [`logbook`]; [`dispatch`] follows the log for every setting, each at its own [`desk`],
//! and [`send`] makes the requests. [`api`] holds the kinds,
//! [`model`] every decision, as pure functions; all else is a thin shell around them.

#![forbid(unsafe_code)]

pub mod answer;
pub mod api;
pub mod carry;
pub mod desk;
pub mod destination;
pub mod dispatch;
pub mod environments;
pub mod flags;
pub mod gather;
pub mod hub;
pub mod logbook;
pub mod metrics;
pub mod model;
pub mod prune;
pub mod record;
pub mod run;
pub mod send;
pub mod serve;
pub mod watch;
