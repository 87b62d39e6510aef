//! The server's side of TLS, with an authority of its own.

use crate::pki::Pki;
use anyhow::{Context as _, Result};
use axum::{Router, serve::Listener};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A certificate for a server, and the authority that signed it.
pub struct Tls {
    /// Makes handshakes.
    pub acceptor: TlsAcceptor,
    /// The authority's certificate in PEM.
    pub ca_pem: String,
}

impl Tls {
    /// A certificate for these names and addresses, by a new authority called `authority`.
    pub fn new(authority: &str, names: &[&str]) -> Result<Self> {
        let pki = Pki::new(authority)?;
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
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca_pem: pki.ca_pem().to_owned(),
        })
    }
}

/// Hands out connections whose handshake is done; a slow one does not hold up the others.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::UnboundedReceiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Takes connections from now on.
    pub fn new(mut listener: tokio::net::TcpListener, acceptor: TlsAcceptor) -> Result<Self> {
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
        Ok(TlsListener { address, ready })
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

/// Serves `app` on any port of `address` until the process ends: where, and the authority to trust, which is called
/// `authority`. On a thread of its own, so that its work is not counted as a test's.
pub fn serve(
    authority: &str,
    app: Router,
    address: &str,
    names: &[&str],
) -> Result<(SocketAddr, String)> {
    let Tls { acceptor, ca_pem } = Tls::new(authority, names)?;
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
