#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "opens connections"
)]

//! Opens connections and bounds what the other side of one can make this process keep: what the kernel has received,
//! the certificates of a TLS handshake, and the head of an answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{HOST, PROXY_AUTHORIZATION, USER_AGENT},
};
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Host;

use crate::http::{
    error::tls_fault,
    response::{Fault, TlsProblem},
};

/// The longest head of an answer that is read.
const HEAD: usize = 16 << 10;
/// How much of a TLS handshake is read, which is mostly certificates: they stay as long as the connection.
const HANDSHAKE: u64 = 16 << 10;
/// What the kernel may keep of what was received. It takes twice what it is told.
const RECEIVE_BUFFER: u32 = 32 << 10;
/// What the kernel may keep of what is to be sent. It takes twice what it is told.
const SEND_BUFFER: u32 = 32 << 10;
/// How long the kernel keeps what the other side does not acknowledge.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// At most so many addresses of a name are tried at once.
const AT_ONCE: usize = 3;
/// How long one address of a name may take before the next is tried beside it.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// What this program calls itself.
pub(super) const NAME: HeaderValue =
    HeaderValue::from_static(concat!("shipbell/", env!("CARGO_PKG_VERSION")));

/// What requests and answers go through: TCP, a proxy's tunnel, TLS over one of them.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub(super) type Stream = Box<dyn Io>;

pub(super) type Body = Full<Bytes>;

/// A connection that takes one request after the other; closed when it is dropped.
pub(super) struct Connection {
    pub(super) requests: SendRequest<Body>,
    pub(super) driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn new(stream: Stream) -> Result<Self, hyper::Error> {
        let (requests, connection) = Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // A tunnel is an upgrade. What goes wrong is told to the one who waits for the answer.
        let driver = tokio::spawn(async { drop(connection.with_upgrades().await) });
        Ok(Self {
            requests,
            driver: AbortOnDropHandle::new(driver),
        })
    }
}

/// Connects to the address that answers first; each has a head start on the one after it.
pub(super) async fn dial(addresses: &[SocketAddr], port: u16) -> io::Result<Stream> {
    let mut rest = addresses.iter();
    let mut under_way = FuturesUnordered::new();
    let mut problem = io::ErrorKind::AddrNotAvailable.into();
    loop {
        if under_way.len() < AT_ONCE
            && let Some(address) = rest.next()
        {
            under_way.push(tcp(*address, port));
        } else if under_way.is_empty() {
            return Err(problem);
        }
        match timeout(NEXT_ADDRESS, under_way.next()).await {
            Ok(Some(Ok(stream))) => return Ok(Box::new(stream)),
            Ok(Some(Err(error))) => problem = error,
            Ok(None) | Err(_) => {}
        }
    }
}

async fn tcp(mut address: SocketAddr, port: u16) -> io::Result<TcpStream> {
    address.set_port(port);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(RECEIVE_BUFFER / 2)?;
    socket.set_send_buffer_size(SEND_BUFFER / 2)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// TLS with who must be `host`.
pub(super) async fn tls(
    connector: &TlsConnector,
    host: &Host<&str>,
    stream: Stream,
) -> Result<Stream, Fault> {
    let name = match host {
        // What can be no name of a certificate has no server.
        Host::Domain(name) => {
            ServerName::try_from((*name).to_owned()).map_err(|_| Fault::Connect)?
        }
        Host::Ipv4(ip) => IpAddr::from(*ip).into(),
        Host::Ipv6(ip) => IpAddr::from(*ip).into(),
    };
    let (reader, writer) = split(stream);
    let stream = join(reader.take(HANDSHAKE), writer);
    match connector.connect(name, stream).into_fallible().await {
        Ok(mut stream) => {
            stream.get_mut().0.reader_mut().set_limit(u64::MAX);
            Ok(Box::new(stream))
        }
        Err((_, stream)) if stream.reader().limit() == 0 => Err(Fault::Tls(TlsProblem::TooLong)),
        Err((error, _)) => Err(tls_fault(&error).unwrap_or(Fault::Connect)),
    }
}

/// Asks a proxy for a tunnel. `to`: a host and its port.
pub(super) async fn tunnel(
    stream: Stream,
    to: &str,
    authorization: Option<&HeaderValue>,
) -> Result<Stream, Fault> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(to)
        .header(HOST, to)
        .header(USER_AGENT, NAME);
    if let Some(authorization) = authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Body::default()).map_err(|_| Fault::Proxy)?;
    let mut connection = Connection::new(stream).await.map_err(|_| Fault::Proxy)?;
    let answer = connection.requests.send_request(request).await;
    let answer = answer.map_err(|_| Fault::Proxy)?;
    match answer.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(Fault::ProxyCredentials),
        status if !status.is_success() => return Err(Fault::Proxy),
        _ => {}
    }
    let tunnel = hyper::upgrade::on(answer).await;
    Ok(Box::new(TokioIo::new(tunnel.map_err(|_| Fault::Proxy)?)))
}
