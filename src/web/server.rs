#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "serves a port"
)]

//! Serves a port to clients of whom nothing is expected: the number of connections, the size of a request's head and every
//! wait are bounded, and a panic ends one request.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    metrics::Metrics,
    panics::{self, PanicScope},
    web::{
        client_address::ClientAddress,
        connections::{Admission, ConnectionLimits, Connections},
        error_response::Refusal,
        held_body::hold_and_tell,
    },
};

/// How large the head of a request may be.
const HEAD: usize = 16 << 10;
/// How many headers it may have.
const HEADERS: usize = 64;
/// How long to wait after the program could not accept a connection, for example because it has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// At most so many connections wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(5);
/// How long a client may take for an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a client has for the rest of the last answer, which the kernel has.
const CLOSE: Duration = Duration::from_secs(2);
/// How long one has that has closed its side before.
const HALF_CLOSED: Duration = Duration::from_millis(300);
/// How many bytes the kernel keeps for a connection of what is sent, and of what is received. It is asked for half of that,
/// because it doubles the number. By itself it would keep megabytes, which count as memory of the pod.
const SEND_BUFFER: usize = 32 << 10;
const RECEIVE_BUFFER: usize = 32 << 10;

/// The ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// `/livez`, `/readyz` and `/metrics`.
    Health,
    /// The read API.
    Api,
}

impl Port {
    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Api => "api",
        }
    }
}

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimes {
    /// From the beginning of a connection, or the end of an answer, to the end of the next request's head.
    pub(crate) head: Duration,
    /// For how long it takes further requests.
    pub(crate) keep_alive: Duration,
    /// How long its last request and answer may take then.
    pub(crate) finish: Duration,
    /// How long the client may take nothing of an answer.
    pub(crate) stall: Duration,
    /// How long it may take for a whole answer, which is kept meanwhile.
    pub(crate) answer: Duration,
    /// How long it may take what the kernel has of the last answer.
    pub(crate) close: Duration,
}

impl Default for ConnectionTimes {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            finish: Duration::from_secs(30),
            stall: STALL,
            answer: ANSWER,
            close: CLOSE,
        }
    }
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

/// A port that is served.
pub(crate) struct Server {
    pub(crate) port: Port,
    pub(crate) router: Router,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) times: ConnectionTimes,
}

impl Server {
    pub(crate) fn new(port: Port, router: Router, metrics: Arc<Metrics>) -> Self {
        Self {
            port,
            router,
            metrics,
            limits: ConnectionLimits::default(),
            times: ConnectionTimes::default(),
        }
    }

    /// Serves for ever.
    pub(crate) async fn run(self, listener: TcpListener) {
        let connections = Arc::new(Mutex::new(Connections::default()));
        let server = Arc::new(self);
        let mut tasks = JoinSet::new();
        loop {
            let accepted = select! {
                accepted = listener.accept() => accepted,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        server.metrics.panicked(PanicScope::Request.as_str());
                    }
                    continue;
                }
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(port = server.port.as_str(), %error, "can't accept a connection");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let admission = connections.lock().admit(from.ip(), server.limits);
            let (number, close) = match admission {
                Admission::Open(number, close) => (number, close),
                Admission::InPlaceOfAnother(number, close) => {
                    server.metrics.connection_dropped(server.port.as_str());
                    (number, close)
                }
                Admission::Refused => {
                    server.metrics.connection_dropped(server.port.as_str());
                    continue;
                }
            };
            let open = OpenConnection {
                number,
                from: ClientAddress::of(from.ip()),
                connections: connections.clone(),
                server: server.clone(),
                taking: watch::Sender::new(None),
            };
            open.report();
            bound_kernel_buffers(&stream);
            tasks.spawn(open.serve(stream, close));
        }
    }
}

/// A kernel that refuses it has bounds of its own.
fn bound_kernel_buffers(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let bounded = socket
        .set_send_buffer_size(SEND_BUFFER / 2)
        .and_then(|()| socket.set_recv_buffer_size(RECEIVE_BUFFER / 2));
    if let Err(error) = bounded {
        debug!(%error, "can't bound the buffers of a connection");
    }
}

/// Waits until the client has closed its side too, and so has taken what was sent. One that closed it before may still be
/// taking it: that does not show, so it gets a moment.
async fn wait_for_client(stream: &mut TcpStream) {
    let mut rest = [0; 1 << 10];
    if stream.shutdown().await.is_err() {
        return;
    }
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return sleep(HALF_CLOSED).await,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// A connection in the list of those that are open.
struct OpenConnection {
    number: u64,
    from: ClientAddress,
    connections: Arc<Mutex<Connections>>,
    server: Arc<Server>,
    /// Since when the client takes the answer, and when it took the last part; `None` while there is none.
    taking: watch::Sender<Option<(Instant, Instant)>>,
}

impl OpenConnection {
    fn report(&self) {
        let open = self.connections.lock().len();
        self.server
            .metrics
            .connections(self.server.port.as_str(), open);
    }

    /// Serves requests until the client, the time or another client ends it.
    async fn serve(self, stream: TcpStream, close: CancellationToken) {
        let this = Arc::new(self);
        let times = this.server.times;
        let service = {
            let this = this.clone();
            service_fn(move |request| this.clone().answer(request))
        };
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(times.head)
            .max_header_size(HEAD)
            .max_headers(HEADERS)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let work = async {
            select! {
                // An error is the client's: it went away, was too slow, or sent no HTTP.
                _ = &mut connection => return true,
                () = sleep(times.keep_alive) => {}
            }
            Pin::new(&mut connection).graceful_shutdown();
            select! {
                _ = &mut connection => true,
                () = sleep(times.finish) => false,
            }
        };
        let ended = select! {
            ended = work => ended,
            () = close.cancelled() => false,
            () = this.client_is_slow() => {
                debug!(
                    port = this.server.port.as_str(),
                    "a client did not take an answer in time"
                );
                false
            }
        };
        let mut stream = connection.into_parts().io.into_inner();
        if ended {
            select! {
                () = wait_for_client(&mut stream) => {}
                () = sleep(times.close) => {}
                () = close.cancelled() => {}
            }
        }
        // Or else the kernel would keep for minutes what it has not sent, of any number of connections that are closed.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }

    /// Returns when the client has taken too long for an answer.
    async fn client_is_slow(&self) {
        let times = self.server.times;
        let mut taking = self.taking.subscribe();
        loop {
            let now = *taking.borrow_and_update();
            let too_late = async {
                match now {
                    Some((since, last)) => {
                        sleep_until((since + times.answer).min(last + times.stall)).await;
                    }
                    None => pending().await,
                }
            };
            select! {
                () = too_late => return,
                changed = taking.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Answers a request. The connection serves it until its answer is sent.
    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        request.extensions_mut().insert(self.from);
        let serving = Serving::new(self.clone());
        let method = request.method().clone();
        let router = TowerToHyperService::new(self.server.router.clone());
        let answer = hyper::service::Service::call(&router, request);
        let metrics = &self.server.metrics;
        let answer = panics::contain(PanicScope::Request, metrics, answer).await;
        let response = match answer {
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
            None => {
                warn!(port = self.server.port.as_str(), %method, "a request ended in a panic");
                let why = "the request met a defect of Shipbell, which is in its log";
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
            }
        };
        metrics.responded(self.server.port.as_str(), response.status().as_u16());
        serving.is_taken();
        Ok(hold_and_tell(response, serving, Serving::is_taken))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.lock().closed(self.number);
        self.report();
    }
}

/// Marks a connection as one that serves a request.
struct Serving(Arc<OpenConnection>);

impl Serving {
    fn new(connection: Arc<OpenConnection>) -> Self {
        connection.connections.lock().serves(connection.number);
        Self(connection)
    }

    /// The client begins to take the answer, or has taken a part of it.
    fn is_taken(&self) {
        let now = Instant::now();
        self.0.taking.send_modify(|taking| {
            let since = taking.map_or(now, |(since, _)| since);
            *taking = Some((since, now));
        });
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.taking.send_replace(None);
        self.0.connections.lock().served(self.0.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::get;
    use bytes::Bytes;
    use jiff::Timestamp;
    use tokio::{net::TcpSocket, sync::Notify, time::timeout};

    use super::*;
    use crate::web::{access::Access, read_api, request_limits::limit_read_api, testing::lookup};

    /// Times short enough for a test that waits for them.
    const TIMES: ConnectionTimes = ConnectionTimes {
        head: Duration::from_millis(300),
        keep_alive: Duration::from_secs(30),
        finish: Duration::from_secs(30),
        stall: Duration::from_secs(30),
        answer: Duration::from_secs(30),
        close: Duration::from_secs(1),
    };
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn served(
        limits: ConnectionLimits,
        times: ConnectionTimes,
    ) -> (SocketAddr, Arc<Metrics>) {
        let router = Router::new()
            .route("/livez", get(|| async { "ok" }))
            .route("/panic", get(panics))
            .route("/large", get(|| async { vec![b'x'; 64 << 20] }));
        serve(router, limits, times).await
    }

    async fn serve(
        router: Router,
        limits: ConnectionLimits,
        times: ConnectionTimes,
    ) -> (SocketAddr, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let server = Server {
            limits,
            times,
            ..Server::new(Port::Health, router, metrics.clone())
        };
        let listener = bind("127.0.0.1:0".parse().unwrap(), "--listen")
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.run(listener));
        (address, metrics)
    }

    async fn panics() -> &'static str {
        panic!("a handler that panics")
    }

    /// The status line of the answer to a request, on a connection that stays open.
    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut part = [0; 1024];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&part[..read]),
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    async fn lives(address: SocketAddr) -> bool {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = timeout(PATIENCE, ask(&mut stream, "/livez")).await;
        answer.is_ok_and(|answer| answer == "HTTP/1.1 200 OK")
    }

    /// Whether the server closes a connection, with or without an answer.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = vec![];
        timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .is_ok()
    }

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

    #[tokio::test]
    async fn a_panic_ends_one_request_and_is_counted() {
        let (address, metrics) = served(ConnectionLimits::default(), TIMES).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let answer = ask(&mut stream, "/panic").await;
            assert_eq!(answer, "HTTP/1.1 500 Internal Server Error");
        }
        assert!(lives(address).await);
        let text = metrics.text(Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("shipbell_panics_total{scope=\"request\"} 2\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn clients_that_never_end_a_head_are_disconnected_in_time_and_keep_nobody_out() {
        let (address, _) = served(ConnectionLimits::default(), TIMES).await;
        let began = Instant::now();
        let mut attackers = vec![];
        for number in 0..300 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = match number % 3 {
                0 => String::new(),
                1 => "GET / HTTP/1.1\r\nX-A: b\r\n".to_owned(),
                _ => format!("GET / HTTP/1.1\r\nX-A: {}", "a".repeat(15 << 10)),
            };
            // Those that had to give way may be closed already.
            let _ = stream.write_all(head.as_bytes()).await;
            attackers.push(stream);
        }
        assert!(lives(address).await);
        for attacker in &mut attackers {
            assert!(is_closed(attacker).await);
        }
        assert!(began.elapsed() < PATIENCE);
    }

    #[tokio::test]
    async fn a_client_that_sends_one_byte_after_the_other_is_disconnected() {
        let (address, _) = served(ConnectionLimits::default(), TIMES).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        let head = "GET /livez HTTP/1.1\r\nX-A: "
            .bytes()
            .chain(std::iter::repeat(b'a'));
        for byte in head {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            assert!(began.elapsed() < PATIENCE);
            sleep(Duration::from_millis(20)).await;
        }
        assert!(lives(address).await);
    }

    #[tokio::test]
    async fn a_head_of_more_than_16_kib_is_refused() {
        let (address, _) = served(ConnectionLimits::default(), TIMES).await;
        for (head, want) in [
            (format!("X-A: {}", "a".repeat(20 << 10)), "431"),
            ("X-A: a\r\n".repeat(100), "431"),
            (format!("X-A: {}", "a".repeat(8 << 10)), "200"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /livez HTTP/1.1\r\nConnection: close\r\n{head}\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer[9..]), want);
        }
    }

    /// A part of a body without end: of one in chunks, and of one whose length was said.
    fn part_of_a_body(chunked: bool) -> Vec<u8> {
        let part = [b'x'; 4 << 10];
        match chunked {
            true => [b"1000\r\n", &part[..], b"\r\n"].concat(),
            false => part.to_vec(),
        }
    }

    /// The status of the answer to a request on a connection that ends, though its client never stops to send.
    async fn answered_and_closed(stream: TcpStream, part: &[u8]) -> String {
        let (mut reader, mut writer) = stream.into_split();
        let sends = async { while writer.write_all(part).await.is_ok() {} };
        let reads = async {
            let mut answer = [0; 12];
            reader.read_exact(&mut answer).await.unwrap();
            let _ = reader.read_to_end(&mut vec![]).await;
            String::from_utf8_lossy(&answer[9..]).into_owned()
        };
        let both = async { tokio::join!(reads, sends).0 };
        timeout(PATIENCE, both).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_with_a_body_without_end_is_answered_and_its_connection_ends() {
        let client = kube::Client::new(Router::new(), "default");
        let api = |access| read_api::router(lookup(client.clone(), None), access);
        let secret = "0123456789abcdef".into();
        let health = Router::new().route("/livez", get(|| async { "ok" }));
        let times = ConnectionTimes {
            close: Duration::from_millis(200),
            ..TIMES
        };
        for (router, request, status) in [
            (health.clone(), "POST /livez", "405"),
            (health, "GET /livez", "200"),
            (
                api(Access::Everybody),
                "POST /api/v2/environments/acme",
                "405",
            ),
            (
                api(Access::behind_proxy(Some(&secret))),
                "PUT /api/v2/environments/acme",
                "401",
            ),
        ] {
            for framing in [
                "Transfer-Encoding: chunked",
                "Content-Length: 1000000000000",
            ] {
                let (address, _) = serve(router.clone(), ConnectionLimits::default(), times).await;
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = format!("{request} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let part = part_of_a_body(framing.contains("chunked"));
                assert_eq!(answered_and_closed(stream, &part).await, status, "{head}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_is_not_taken_while_its_request_waits() {
        let answer = Arc::new(Notify::new());
        let waits = answer.clone();
        let router = Router::new().route(
            "/waits",
            get(async move || {
                waits.notified().await;
                "ok"
            }),
        );
        for chunked in [true, false] {
            let limits = ConnectionLimits::default();
            let (address, _) = serve(router.clone(), limits, TIMES).await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(16 << 10).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            let framing = match chunked {
                true => "Transfer-Encoding: chunked",
                false => "Content-Length: 1000000000000",
            };
            let head = format!("GET /waits HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let part = part_of_a_body(chunked);
            let mut sent: usize = 0;
            let moment = Duration::from_millis(300);
            while let Ok(wrote) = timeout(moment, stream.write(&part[sent % part.len()..])).await {
                sent += wrote.unwrap();
                // The buffers of both kernels and of the connection take some.
                assert!(sent < 1 << 20, "chunked: {chunked}");
            }
            answer.notify_one();
            assert_eq!(answered_and_closed(stream, &part).await, "200");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_ends_with_the_connection_s_time() {
        let times = ConnectionTimes {
            keep_alive: Duration::from_millis(100),
            finish: Duration::from_millis(200),
            ..TIMES
        };
        let limits = ConnectionLimits {
            total: 1,
            per_address: 1,
        };
        let (address, metrics) = served(limits, times).await;
        let mut stalled = TcpStream::connect(address).await.unwrap();
        stalled
            .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let open = |count| {
            let text = metrics.text(Timestamp::UNIX_EPOCH);
            text.contains(&format!(
                "shipbell_http_connections{{port=\"health\"}} {count}\n"
            ))
        };
        let ends = async {
            while !open(0) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let mut first = [0; 12];
        stalled.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        timeout(PATIENCE, ends).await.unwrap();
        assert!(lives(address).await);
    }

    #[tokio::test]
    async fn the_connections_of_an_address_and_of_all_are_limited() {
        let limits = ConnectionLimits {
            total: 6,
            per_address: 4,
        };
        let (address, metrics) = served(limits, TIMES).await;
        let mut streams = vec![];
        for _ in 0..8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(&mut stream, "/livez").await, "HTTP/1.1 200 OK");
            streams.push(stream);
        }
        let text = metrics.text(Timestamp::UNIX_EPOCH);
        for line in [
            "shipbell_http_connections{port=\"health\"} 4",
            "shipbell_http_connections_dropped_total{port=\"health\"} 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        for (number, stream) in streams.iter_mut().enumerate().take(4) {
            assert!(is_closed(stream).await, "{number}");
        }
    }

    /// What a large answer takes.
    const LARGE: usize = 7 << 20;
    /// How many bytes of large answers there are, and how many there were at most.
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    static MOST_BYTES: AtomicUsize = AtomicUsize::new(0);

    struct Large(Vec<u8>);

    impl Large {
        fn new() -> Self {
            let bytes = BYTES.fetch_add(LARGE, Ordering::SeqCst) + LARGE;
            MOST_BYTES.fetch_max(bytes, Ordering::SeqCst);
            Self(vec![b'x'; LARGE])
        }
    }

    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Large {
        fn drop(&mut self) {
            BYTES.fetch_sub(LARGE, Ordering::SeqCst);
        }
    }

    async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// The answer to a request from an address of its own: its status, and how long it is.
    async fn get_from(last: u8, to: SocketAddr, path: &str) -> (String, usize) {
        let mut stream = connect_from(last, to).await;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await.unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
        (status, answer.len())
    }

    #[tokio::test]
    async fn readers_that_take_nothing_keep_few_bytes_and_for_a_short_time() {
        let large =
            Router::new().route("/large", get(|| async { Bytes::from_owner(Large::new()) }));
        let small = Router::new().route("/small", get(|| async { "small" }));
        let router = limit_read_api(small, large, false);
        let times = ConnectionTimes {
            stall: Duration::from_secs(1),
            ..TIMES
        };
        let address = serve(router, ConnectionLimits::default(), times).await.0;
        let mut slow = vec![];
        for number in 0..12 {
            let mut stream = connect_from(2 + number % 3, address).await;
            stream
                .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            slow.push(stream);
        }
        let began = Instant::now();
        for _ in 0..3 {
            let (status, _) = get_from(9, address, "/small").await;
            assert_eq!(status, "200");
            // Before it are at most the answers to one request of each of three clients.
            let (status, bytes) = get_from(9, address, "/large").await;
            assert_eq!(status, "200");
            assert!(bytes > LARGE);
        }
        println!("{:?}", began.elapsed());
        assert!(began.elapsed() < PATIENCE);
        for stream in &mut slow {
            assert!(is_closed(stream).await);
        }
        // Two are sent, and one is made.
        assert!(MOST_BYTES.load(Ordering::SeqCst) <= 3 * LARGE);
        let all_are_free = async {
            while BYTES.load(Ordering::SeqCst) > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, all_are_free).await.unwrap();
    }

    #[test]
    fn the_connections_of_both_ports_take_at_most_32_mib_of_the_kernel() {
        let of_port = ConnectionLimits::default().total * (SEND_BUFFER + RECEIVE_BUFFER);
        assert_eq!(2 * of_port, 32 << 20);
    }

    /// How many connections of a port the kernel still keeps that are closed and have something to send.
    fn kept_by_the_kernel(port: u16) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let connections = table.lines().skip(1).map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().unwrap();
            let state = columns.nth(1).unwrap();
            let unsent = columns.next().unwrap().split(':').next().unwrap();
            let unsent = u32::from_str_radix(unsent, 16).unwrap();
            // FIN_WAIT1, LAST_ACK, CLOSING
            local.ends_with(&format!(":{port:04X}"))
                && ["04", "09", "0B"].contains(&state)
                && unsent > 0
        });
        connections.filter(|kept| *kept).count()
    }

    #[tokio::test]
    async fn the_kernel_keeps_nothing_of_closed_connections_whose_clients_take_nothing() {
        let router = Router::new()
            .route("/livez", get(|| async { "ok" }))
            .route("/large", get(|| async { vec![b'x'; 1 << 20] }))
            .route("/medium", get(|| async { vec![b'x'; 24 << 10] }));
        let limits = ConnectionLimits {
            total: 8,
            per_address: 8,
        };
        let times = ConnectionTimes {
            keep_alive: Duration::from_secs(1),
            stall: Duration::from_secs(1),
            ..TIMES
        };
        let (address, metrics) = serve(router, limits, times).await;
        let mut clients = vec![];
        for number in 0..60 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(2 << 10).unwrap();
            let mut client = socket.connect(address).await.unwrap();
            // Closed for a slow client; after an answer; for another connection.
            let request: &[u8] = match number % 3 {
                0 => b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
                1 => b"GET /medium HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                _ => b"GET /medium HTTP/1.1\r\nHost: x\r\n\r\n",
            };
            let _ = client.write_all(request).await;
            clients.push(client);
        }
        let all_are_closed = async {
            // Whatever connected before it is accepted.
            while !lives(address).await {
                sleep(Duration::from_millis(10)).await;
            }
            let none = "shipbell_http_connections{port=\"health\"} 0\n";
            while !metrics.text(Timestamp::UNIX_EPOCH).contains(none) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, all_are_closed).await.unwrap();
        assert_eq!(kept_by_the_kernel(address.port()), 0);
    }

    #[tokio::test]
    async fn a_client_that_takes_an_answer_slowly_gets_so_much_time_and_no_more() {
        let times = ConnectionTimes {
            stall: Duration::from_secs(2),
            answer: Duration::from_secs(4),
            ..TIMES
        };
        let (address, _) = served(ConnectionLimits::default(), times).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut every = tokio::time::interval(Duration::from_millis(100));
        let mut part = vec![0; 256 << 10];
        loop {
            every.tick().await;
            assert!(began.elapsed() < PATIENCE);
            if matches!(slow.read(&mut part).await, Err(_) | Ok(0)) {
                break;
            }
        }
        assert!(
            began.elapsed() >= times.answer,
            "it took parts all the time"
        );
    }
}
