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
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::future::select_all;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{HOST, PROXY_AUTHORIZATION, USER_AGENT},
};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, join, split},
    net::{TcpSocket, TcpStream},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Host;

use crate::http::{
    error::{SentTooMuch, tls_fault},
    response::{Fault, TlsProblem},
};

/// The longest head of an answer that is read.
const HEAD: usize = 16 << 10;
/// How much of a TLS handshake is read, which is mostly certificates: they stay as long as the connection.
const HANDSHAKE: usize = 16 << 10;
/// How much is read for one request in all: informational answers, the head, what the TLS library keeps or works on, and as
/// much of the body as one look into it reads.
const ANSWER: usize = 40 << 10;
/// How much is read of an idle connection, on which nothing should come but what TLS sends by itself.
const UNASKED: usize = 4 << 10;
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
pub(super) struct Stream {
    io: Box<dyn Io>,
    budget: ReadBudget,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How many more bytes are read of what the other side sends, whatever that is. Clones share it.
#[derive(Clone, Debug)]
struct ReadBudget(Arc<AtomicUsize>);

impl ReadBudget {
    fn left(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn set(&self, bytes: usize) {
        self.0.store(bytes, Relaxed);
    }
}

/// Reads no more than the budget allows; to ask for more is an error.
struct Bounded<R> {
    reader: R,
    budget: ReadBudget,
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { reader, budget } = self.get_mut();
        let left = budget.left();
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(SentTooMuch)));
        }
        let part = left.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(part));
        ready!(Pin::new(reader).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        budget.set(left - read);
        Poll::Ready(Ok(()))
    }
}

pub(super) type Body = Full<Bytes>;

/// A connection that takes one request after the other; closed when it is dropped.
pub(super) struct Connection {
    requests: SendRequest<Body>,
    budget: ReadBudget,
    driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn new(stream: Stream) -> Result<Self, hyper::Error> {
        let (requests, connection) = Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream.io))
            .await?;
        // A tunnel is an upgrade. What goes wrong is told to the one who waits for the answer.
        let driver = tokio::spawn(async { drop(connection.with_upgrades().await) });
        Ok(Self {
            requests,
            budget: stream.budget,
            driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Sends a request, and waits for the head of the answer. The error has the request if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        self.budget.set(ANSWER);
        self.requests.try_send_request(request).await
    }

    /// Waits until it takes another request, if it ever will. Nothing should come until then.
    pub(super) async fn rest(&mut self) -> Result<(), hyper::Error> {
        self.requests.ready().await?;
        self.budget.set(UNASKED);
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// What closes it.
    pub(super) fn closer(&self) -> AbortHandle {
        self.driver.abort_handle()
    }
}

/// Connects to the address that answers first; each has a head start on the one after it. None keeps out those after it.
pub(super) async fn dial(addresses: &[SocketAddr], port: u16) -> io::Result<Stream> {
    let mut rest = addresses.iter();
    let mut under_way = Vec::new();
    let mut problem = io::ErrorKind::AddrNotAvailable.into();
    loop {
        if let Some(address) = rest.next() {
            if under_way.len() == AT_ONCE {
                drop(under_way.remove(0));
            }
            under_way.push(Box::pin(tcp(*address, port)));
        } else if under_way.is_empty() {
            return Err(problem);
        }
        match timeout(NEXT_ADDRESS, select_all(&mut under_way)).await {
            Ok((Ok(stream), ..)) => return Ok(bounded(stream)),
            Ok((Err(error), at, _)) => {
                problem = error;
                drop(under_way.remove(at));
            }
            Err(_) => {}
        }
    }
}

/// As much is read of it as of a handshake; whoever asks something of it sets another bound.
fn bounded(stream: TcpStream) -> Stream {
    let budget = ReadBudget(Arc::new(HANDSHAKE.into()));
    let (reader, writer) = split(stream);
    let reader = Bounded {
        reader,
        budget: budget.clone(),
    };
    Stream {
        io: Box::new(join(reader, writer)),
        budget,
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
    let Stream { io, budget } = stream;
    budget.set(HANDSHAKE);
    match connector.connect(name, io).await {
        Ok(stream) => Ok(Stream {
            io: Box::new(stream),
            budget,
        }),
        Err(_) if budget.left() == 0 => Err(Fault::Tls(TlsProblem::TooLong)),
        Err(error) => Err(tls_fault(&error).unwrap_or(Fault::Connect)),
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
    let budget = connection.budget.clone();
    let answer = connection.send(request).await;
    let answer = answer.map_err(|_| Fault::Proxy)?;
    match answer.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(Fault::ProxyCredentials),
        status if !status.is_success() => return Err(Fault::Proxy),
        _ => {}
    }
    let tunnel = hyper::upgrade::on(answer).await;
    let tunnel = tunnel.map_err(|_| Fault::Proxy)?;
    Ok(Stream {
        io: Box::new(TokioIo::new(tunnel)),
        budget,
    })
}
