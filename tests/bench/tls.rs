//! Servers that speak TLS, each on a thread of its own, so that their work is not counted as a subject's.

use anyhow::{Context as _, Result};
use axum::Router;
use kit::tls::{Tls, TlsListener};
use std::net::SocketAddr;

/// Serves `app` on any port of `address` until the process ends: where, and the authority to trust.
pub fn serve(app: Router, address: &str, names: &[&str]) -> Result<(SocketAddr, String)> {
    let Tls { acceptor, ca_pem } = Tls::new("shipbell-bench-ca", names)?;
    let listener = std::net::TcpListener::bind((address, 0)).context("no port to be had")?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(TlsListener::new(listener, acceptor)?, app).await?;
                anyhow::Ok(())
            })
        })?;
    Ok((bound, ca_pem))
}
