//! Servers that speak TLS, each on a thread of its own, so that their work is not counted as a subject's.

use anyhow::{Context as _, Result};
use axum::{Router, serve::Listener};
use kit::pki::Pki;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Serves `app` on any port of `address` until the process ends: where, and the authority to trust.
pub fn serve(app: Router, address: &str, names: &[&str]) -> Result<(SocketAddr, String)> {
    let (acceptor, ca_pem) = acceptor(names)?;
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
                axum::serve(TlsListener::new(listener, acceptor)?, app).await
            })
        })?;
    Ok((bound, ca_pem))
}

fn acceptor(names: &[&str]) -> Result<(TlsAcceptor, String)> {
    let pki = Pki::new("shipbell-bench-ca")?;
    let identity = pki.server(names)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_no_client_auth()
    .with_single_cert(
        vec![CertificateDer::from(identity.cert_der)],
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_der)),
    )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok((acceptor, pki.ca_pem().to_owned()))
}

/// Hands out connections whose handshake is done; a slow one does not hold up the others.
struct TlsListener {
    address: SocketAddr,
    ready: mpsc::UnboundedReceiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    fn new(mut listener: tokio::net::TcpListener, acceptor: TlsAcceptor) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (done, ready) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = Listener::accept(&mut listener).await;
                let _ = stream.set_nodelay(true);
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = done.send((stream, peer));
                    }
                });
            }
        });
        Ok(Self { address, ready })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
