//! What is served over HTTP: health and metrics, and the read API as JSON and as pages.

pub(crate) mod access;
pub(crate) mod health;
pub(crate) mod lookup;
mod page;
pub(crate) mod read_api;
mod refusal;
mod snapshot_expression;
#[cfg(test)]
mod testing;
mod views;

#[cfg(test)]
mod tests;
