#![expect(clippy::disallowed_types, reason = "listens on a port")]

//! `/livez`, `/readyz` and `/metrics`. The read API has a port of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::{
    metrics::Metrics,
    snapshot::{environments::Environments, shared_state::SharedState},
};

/// At most so many connections wait to be accepted.
const BACKLOG: i32 = 1024;

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

/// Listens on an address; `[::]` means all addresses, of IPv4 too. An error names the flag that chooses another one.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listening = if address.is_ipv6() && address.ip().is_unspecified() {
        match listen_everywhere(address) {
            // A kernel without IPv6.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                let ipv4 = (Ipv4Addr::UNSPECIFIED, address.port());
                TcpListener::bind(ipv4).await.map_err(|_| error)
            }
            listening => listening,
        }
    } else {
        TcpListener::bind(address).await
    };
    listening
        .with_context(|| format!("can't listen on {address}; choose another address with {flag}"))
}

/// The system's default is usually the same for an IPv6 socket, but need not be.
fn listen_everywhere(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_ipv4_and_ipv6() {
        let listener = bind("[::]:0".parse().unwrap(), "--listen").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut hosts = vec!["127.0.0.1"];
        if address.is_ipv6() {
            hosts.push("::1");
        }
        for host in hosts {
            let to = (host, address.port());
            let (made, taken) = tokio::join!(TcpStream::connect(to), listener.accept());
            assert!(made.is_ok() && taken.is_ok(), "{host}");
        }
        let taken = bind(address, "--listen").await.unwrap_err().to_string();
        assert!(
            taken.contains("choose another address with --listen"),
            "{taken}"
        );
    }
}
