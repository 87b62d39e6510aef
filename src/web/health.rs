//! `/livez`, `/readyz` and `/metrics`; the read API is on a port of its own.

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
    snapshot::{environments::Environments, shared::SharedState},
};

/// What the pages are made from.
#[derive(Clone)]
pub struct Health {
    /// The world.
    pub hub: Arc<SharedState>,
    /// The environments.
    pub environments: Arc<Environments>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The pages.
pub fn health(state: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn readyz(State(state): State<Health>) -> Response {
    let ready = state.hub.with(|world, now| world.is_ready(now));
    let ready = ready.and_then(|()| {
        state
            .environments
            .is_listed()
            .then_some(())
            .ok_or("environments: not in sync".to_owned())
    });
    match ready {
        Ok(()) => "ok".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(state): State<Health>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.metrics.text()).into_response()
}

/// Takes the address; an error names the flag that chooses another.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; choose another address with {flag}"))
}
