//! What is served over HTTP: health and metrics, and the read API as JSON and as pages.

pub(crate) mod access;
mod client_address;
mod connections;
mod error_response;
mod flow_index;
pub(crate) mod health;
mod held_body;
mod html;
pub(crate) mod lookup;
mod parts;
#[cfg(test)]
mod properties;
pub(crate) mod read_api;
mod request_limits;
pub(crate) mod server;
mod snapshot_expression;
#[cfg(test)]
mod testing;
mod token_cache;
mod views;

#[cfg(test)]
mod tests;
