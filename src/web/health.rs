#![expect(clippy::disallowed_types, reason = "listens on a port")]

//! `/livez`, `/readyz` and `/metrics`. The read API has a port of its own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    metrics::Metrics,
    snapshot::{environments::Environments, shared_state::SharedState},
};

#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) state: Arc<SharedState>,
    pub(crate) environments: Arc<Environments>,
    pub(crate) metrics: Arc<Metrics>,
}

pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

impl Health {
    /// Whether everything was read that the operator needs; an error says what was not.
    fn readiness(&self) -> Result<(), String> {
        self.state.with(|state, now| state.is_ready(now))?;
        match self.environments.is_listed() {
            true => Ok(()),
            false => Err("environments: not in sync".to_owned()),
        }
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    match health.readiness() {
        Ok(()) => "ok".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        health.metrics.text(),
    )
        .into_response()
}

/// Listens on an address. An error names the flag that chooses another one.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; choose another address with {flag}"))
}
