//! What is served over HTTP: health and metrics, and the read API as JSON and as pages.

pub(crate) mod access;
mod error_response;
pub(crate) mod health;
mod html;
pub(crate) mod lookup;
pub(crate) mod read_api;
mod snapshot_expression;
#[cfg(test)]
mod testing;
mod views;

#[cfg(test)]
mod tests;
