#![expect(clippy::disallowed_methods, reason = "asks for the time")]

//! `/livez`, `/readyz` and `/metrics`. The read API has a port of its own.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;

use crate::{
    cluster::watch_progress::WatchKind,
    leader::election::ElectionWatch,
    metrics::Metrics,
    snapshot::{environments::Environments, shared_state::SharedState},
    web::request_limits::{self, RequestLimits},
};

#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) state: Arc<SharedState>,
    pub(crate) environments: Arc<Environments>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) leadership: ElectionWatch,
}

pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(
            RequestLimits::of_metrics(),
            request_limits::limit,
        ))
        // Not limited: the kubelet's question must be answered whatever else is asked.
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(health)
}

impl Health {
    /// Whether everything was read that the operator needs; an error says what was not. It need not lead, but be able to: or
    /// an update without the right to the Lease would replace the last replica that can.
    fn readiness(&self) -> Result<(), String> {
        self.state.with(|state, now| state.is_ready(now))?;
        if !self.environments.is_listed() {
            return Err("environments: not in sync".to_owned());
        }
        match self.leadership.never_known() {
            Some(why) => Err(format!("lease: {why}")),
            None => Ok(()),
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
    health.state.with(|state, now| {
        for kind in WatchKind::ALL {
            let age = now.saturating_sub(state.stream(kind).progress);
            health.metrics.watch_age(kind.as_str(), age);
        }
    });
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        health.metrics.text(Timestamp::now()),
    )
        .into_response()
}
