//! Shipbell rings when what runs in your cluster changes.

pub mod api;
pub mod model;
pub mod send;
