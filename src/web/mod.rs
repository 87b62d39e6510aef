//! What is served: health and metrics, the read API and its pages.

pub mod health;
mod page;
pub mod read_api;
pub mod views;

#[cfg(test)]
mod tests;
