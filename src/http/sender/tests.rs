#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real sockets and clocks"
)]

//! The outbound client against real sockets on this machine.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        LazyLock, Mutex, Once,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{
    Router,
    body::{Body, Bytes as AxumBytes},
    extract::State,
    http::{HeaderMap, HeaderName, Uri},
    response::{IntoResponse, Response as AxumResponse},
};
use futures::{FutureExt as _, future::join_all};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc},
};

use secrecy::SecretString;

use super::*;
use crate::{
    http::{
        certificates::{CaBundle, P521},
        logging::may_be_logged,
    },
    simulation::testing::{Lines, another_subscriber},
};

/// In the path of every URL here: no receipt may show it.
const CANARY: &str = "c4n4ry";
const BODY_TEXT: &str = r#"{"type":"ARTIFACT_STARTED","name":"ü"}"#;

/// An authority of our own. The sender's tests trust it besides the system's, so they need none of the system's.
struct Authority(Issuer<'static, KeyPair>, String);

static OURS: LazyLock<Authority> = LazyLock::new(|| Authority::new("ours"));
static OTHER: LazyLock<Authority> = LazyLock::new(|| Authority::new("other"));

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    fn acceptor(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> tokio_rustls::TlsAcceptor {
        self.acceptor_with(name, 0, change)
    }

    /// One that sends its certificate so many times more.
    fn acceptor_with(
        &self,
        name: &str,
        more: usize,
        change: impl FnOnce(&mut CertificateParams),
    ) -> tokio_rustls::TlsAcceptor {
        Arc::new(server_of(self.certificate(name, more, change))).into()
    }

    /// One with other settings.
    fn acceptor_of(
        &self,
        name: &str,
        change: impl FnOnce(&mut rustls::ServerConfig),
    ) -> tokio_rustls::TlsAcceptor {
        let mut config = server_of(self.certificate(name, 0, |_| {}));
        change(&mut config);
        Arc::new(config).into()
    }

    /// A certificate, so many times more, and its key.
    fn certificate(
        &self,
        name: &str,
        more: usize,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certified {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        let key = key.serialize_der().try_into().unwrap();
        (vec![certificate; 1 + more], key)
    }
}

/// A server's certificates and its key.
type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn server_of((chain, key): Certified) -> rustls::ServerConfig {
    let builder = rustls::ServerConfig::builder().with_no_client_auth();
    builder.with_single_cert(chain, key).unwrap()
}

fn config(allow: &[&str]) -> SenderConfig {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let allow: Vec<_> = allow.iter().map(|&entry| entry.to_owned()).collect();
    let mut config = SenderConfig::new(Guard::new(&allow, vec![]).unwrap());
    config.extra_ca_pem = Some(OURS.1.clone().into());
    config
}

fn sender() -> HttpSender {
    HttpSender::new(&config(&["127.0.0.1"])).unwrap()
}

/// One that gives up soon, for receivers that never answer.
fn hasty() -> HttpSender {
    let mut config = config(&["127.0.0.1"]);
    config.timeout = Duration::from_millis(500);
    HttpSender::new(&config).unwrap()
}

fn url(scheme: &str, host: &str, at: SocketAddr) -> String {
    format!("{scheme}://{host}:{}/{CANARY}?t={CANARY}", at.port())
}

fn outgoing() -> Outgoing {
    Outgoing {
        id: "event-1".to_owned(),
        body: Bytes::from_static(BODY_TEXT.as_bytes()),
        timestamp: "2026-11-06T08:49:37.9Z".parse().unwrap(),
        replay: false,
    }
}

/// Waits for a slot and makes one attempt.
async fn deliver(sender: &HttpSender, to: &Destination) -> Receipt {
    deliver_for(sender, "", to).await
}

async fn deliver_for(sender: &HttpSender, namespace: &str, to: &Destination) -> Receipt {
    let who = SendKey {
        namespace: namespace.into(),
        setting: "".into(),
    };
    match sender.slot(&who, to).await {
        Ok(slot) => sender.send(&slot, to, &outgoing()).await,
        Err(denied) => Receipt {
            outcome: denied.into(),
            status: None,
            latency: Duration::ZERO,
        },
    }
}

async fn send(sender: &HttpSender, kind: DestinationKind, url: &str) -> Receipt {
    let destination = Destination::parse(kind, url).unwrap();
    let receipt = deliver(sender, &destination).await;
    assert!(!format!("{receipt:?}").contains(CANARY), "{receipt:?}");
    receipt
}

fn outcome(receipt: &Receipt) -> String {
    let class = match receipt.outcome {
        Outcome::Delivered { note: None } => return "Delivered".to_owned(),
        Outcome::Delivered { note: Some(note) } => return format!("Delivered {note:?}"),
        Outcome::Retry { .. } => "Retry",
        Outcome::Refused { .. } => "Refused",
        Outcome::Hold { .. } => "Hold",
        Outcome::Gone { .. } => "Gone",
    };
    format!("{class} {}", receipt.outcome.reason().unwrap().as_str())
}

async fn outcome_at(sender: &HttpSender, kind: DestinationKind, at: SocketAddr) -> String {
    outcome(&send(sender, kind, &url("http", "127.0.0.1", at)).await)
}

type Heard = (Uri, HeaderMap, AxumBytes);
type Answer = (u16, Vec<(&'static str, String)>, &'static [u8]);

/// A receiver that gives the scripted answers, then 200 `ok`, and tells what it heard.
async fn receiver(script: Vec<Answer>) -> (SocketAddr, mpsc::UnboundedReceiver<Heard>) {
    type Shared = (Arc<Mutex<VecDeque<Answer>>>, mpsc::UnboundedSender<Heard>);
    async fn answer(
        State((script, heard)): State<Shared>,
        uri: Uri,
        headers: HeaderMap,
        body: AxumBytes,
    ) -> AxumResponse {
        heard.send((uri, headers, body)).unwrap();
        let next = script.lock().unwrap().pop_front();
        let (status, headers, body) = next.unwrap_or((200, vec![], b"ok"));
        let mut response = Body::from(body).into_response();
        *response.status_mut() = status.try_into().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
    let (tell, heard) = mpsc::unbounded_channel();
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let app = Router::new().fallback(answer).with_state((script, tell));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (at, heard)
}

/// A receiver that speaks TLS and answers each request well.
async fn answers_over_tls(acceptor: tokio_rustls::TlsAcceptor) -> SocketAddr {
    raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer_ok(stream).await;
            }
        }
    })
    .await
}

/// A receiver that does with each connection as told.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    at
}

/// Reads a request up to the end of the body that this file's tests send, or of its head if it has none.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..count]);
        let bodiless = request.starts_with(b"CONNECT") && request.ends_with(b"\r\n\r\n");
        if count == 0 || bodiless || request.ends_with(BODY_TEXT.as_bytes()) {
            return String::from_utf8(request).unwrap();
        }
    }
}

async fn answer_ok(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    read_request(&mut stream).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
}

/// A receiver that answers with these bytes once it has read a request, then says no more.
async fn says(answer: &'static [u8]) -> SocketAddr {
    raw(move |mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(answer).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_webhook_gets_the_exact_bytes_with_its_headers() {
    let (at, mut heard) = receiver(vec![(204, vec![], b"")]).await;
    let receipt = send(
        &sender(),
        DestinationKind::Webhook,
        &url("http", "127.0.0.1", at),
    )
    .await;
    assert_eq!(receipt.outcome, Outcome::DELIVERED);
    assert_eq!(receipt.status, Some(204));
    assert!(receipt.latency > Duration::ZERO);
    let (uri, headers, body) = heard.recv().await.unwrap();
    assert_eq!(uri, *format!("/{CANARY}?t={CANARY}"));
    assert_eq!(body, BODY_TEXT);
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", "39"),
        ("webhook-id", "event-1"),
        ("webhook-timestamp", "1793954977"),
        ("accept-encoding", "identity"),
        (
            "user-agent",
            concat!("shipbell/", env!("CARGO_PKG_VERSION")),
        ),
    ] {
        assert_eq!(headers[name], value);
    }
    assert!(!headers.contains_key("referer"));
}

#[tokio::test]
async fn slack_is_judged_by_its_body_and_gets_no_headers_of_a_webhook() {
    let (at, mut heard) = receiver(vec![
        (200, vec![], b"ok"),
        (200, vec![], b""),
        (404, vec![], b"no_service"),
    ])
    .await;
    let sender = sender();
    for expected in [
        "Delivered",
        "Delivered WithoutSlackOk",
        "Hold SlackCredential",
    ] {
        assert_eq!(
            outcome_at(&sender, DestinationKind::Slack, at).await,
            expected
        );
        let (_, headers, _) = heard.recv().await.unwrap();
        assert!(
            headers
                .keys()
                .all(|name| !name.as_str().starts_with("webhook-"))
        );
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_or_broken_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Webhook, closed).await,
        "Retry ConnectFailed"
    );
    let reset = raw(|stream| async move {
        stream.readable().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Webhook, reset).await,
        "Retry ConnectionLost"
    );
    let shut = raw(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Webhook, shut).await,
        "Retry ConnectionLost"
    );
}

#[tokio::test]
async fn what_never_answers_is_given_up_in_time() {
    let sender = hasty();
    for at in [
        says(b"").await,
        says(b"HTTP/1.1 200 OK\r\nx-slow").await,
        says(b"HTTP/1.1 100 Continue\r\n\r\n").await,
    ] {
        let receipt = send(
            &sender,
            DestinationKind::Webhook,
            &url("http", "127.0.0.1", at),
        )
        .await;
        assert_eq!(outcome(&receipt), "Retry Timeout");
        assert!(receipt.latency >= Duration::from_millis(500));
    }
}

#[tokio::test]
async fn a_body_that_dribbles_ends_in_time_and_fails_only_slack() {
    let at = raw(|mut stream| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
    let outcome = outcome_at(&hasty(), DestinationKind::Slack, at).await;
    assert_eq!(outcome, "Retry Timeout");
    let started = Instant::now();
    let patient = sender();
    assert_eq!(
        outcome_at(&patient, DestinationKind::Webhook, at).await,
        "Delivered"
    );
    assert!(started.elapsed() < TIMEOUT / 2, "not held up by the body");
}

#[tokio::test]
async fn an_endless_body_is_left_after_its_beginning() {
    let (ended, mut has_ended) = mpsc::unbounded_channel();
    let at = raw(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_request(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            ended.send(()).unwrap();
        }
    })
    .await;
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Webhook, at).await,
        "Delivered"
    );
    has_ended.recv().await.unwrap();
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Slack, at).await,
        "Hold UnexpectedAnswer"
    );
    has_ended.recv().await.unwrap();
}

#[tokio::test]
async fn what_is_no_http_answer_is_tried_again() {
    static HUGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut answer = b"HTTP/1.1 200 OK\r\nx-huge: ".to_vec();
        answer.resize(1 << 20, b'x');
        answer
    });
    static MANY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
        answer.extend(b"x: y\r\n".repeat(300));
        answer.extend(b"\r\n");
        answer
    });
    for answer in [
        b"220 mail.example ESMTP\r\n" as &'static [u8],
        b"HTTP/1.1 099 Odd\r\n\r\n",
        &HUGE,
        &MANY,
    ] {
        let at = says(answer).await;
        assert_eq!(
            outcome_at(&sender(), DestinationKind::Webhook, at).await,
            "Retry UnexpectedAnswer"
        );
    }
}

#[tokio::test]
async fn of_a_head_no_more_than_its_limit_is_read() {
    let header = |length| format!("x: {}\r\n", "x".repeat(length));
    for (headers, is_read) in [
        (header(15 << 10) + "\r\n", true),
        // The receiver says no more, and it is clear that it can't be an answer.
        (header(16 << 10), false),
        (header(400 << 10), false),
        (header(1).repeat(100) + "\r\n", true),
        (header(1).repeat(101) + "\r\n", false),
    ] {
        let answer = format!("HTTP/1.1 204 No Content\r\n{headers}");
        let at = raw(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                std::future::pending::<()>().await;
            }
        })
        .await;
        for kind in [DestinationKind::Webhook, DestinationKind::Slack] {
            let receipt = send(&sender(), kind, &url("http", "127.0.0.1", at)).await;
            assert_eq!(receipt.status.is_some(), is_read, "{receipt:?}");
            if !is_read {
                assert_eq!(outcome(&receipt), "Retry UnexpectedAnswer");
                let told = receipt.outcome.message();
                assert!(told.contains("longer than 16 KiB or has more than 100"));
            }
            assert!(receipt.latency < TIMEOUT / 2, "{:?}", receipt.latency);
        }
    }
}

#[tokio::test]
async fn certificates_without_end_are_not_read() {
    let acceptor = OURS.acceptor("localhost", |params| {
        let names = (0..1200).map(|n| format!("a-name-of-this-server-{n}.example"));
        let names = names.map(|name| rcgen::SanType::DnsName(name.try_into().unwrap()));
        params.subject_alt_names.extend(names);
    });
    let at = raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let _ = acceptor.accept(stream).await;
        }
    })
    .await;
    let allows = HttpSender::new(&config(&["localhost"])).unwrap();
    let to = url("https", "localhost", at);
    let receipt = send(&allows, DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Hold TlsFailed");
    let told = receipt.outcome.message();
    assert!(told.contains("longer than 16 KiB"), "{told}");
}

#[tokio::test]
async fn a_long_chain_of_certificates_is_refused_before_it_is_looked_at() {
    let allows = HttpSender::new(&config(&["localhost"])).unwrap();
    for (more, expected) in [(8, "Delivered"), (9, "Hold TlsFailed")] {
        let at = answers_over_tls(OURS.acceptor_with("localhost", more, |_| {})).await;
        let to = url("https", "localhost", at);
        let receipt = send(&allows, DestinationKind::Webhook, &to).await;
        let told = receipt.outcome.message();
        assert_eq!(outcome(&receipt), expected, "{told}");
        assert!(expected == "Delivered" || told.contains("more than 8 certificates"));
    }
}

#[tokio::test]
async fn informational_answers_without_end_are_not_read() {
    let at = raw(async |mut stream| {
        read_request(&mut stream).await;
        let answers = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000);
        while stream.write_all(&answers).await.is_ok() {}
    })
    .await;
    let to = url("http", "127.0.0.1", at);
    let receipt = send(&sender(), DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Retry UnexpectedAnswer");
    assert!(receipt.latency < TIMEOUT / 2, "{:?}", receipt.latency);
}

#[tokio::test]
async fn what_tls_says_by_itself_is_read_within_a_bound() {
    let allows = HttpSender::new(&config(&["localhost"])).unwrap();
    // A ticket takes some 100 bytes.
    for (tickets, expected) in [(2, "Delivered"), (2_000, "Retry UnexpectedAnswer")] {
        let acceptor = OURS.acceptor_of("localhost", |config| config.send_tls13_tickets = tickets);
        let to = url("https", "localhost", answers_over_tls(acceptor).await);
        let receipt = send(&allows, DestinationKind::Webhook, &to).await;
        assert_eq!(outcome(&receipt), expected, "{tickets} tickets");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_of_the_client_is_named_as_such() {
    let allows = HttpSender::new(&config(&["localhost"])).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let authorities = CaBundle::read(OURS.1.as_bytes()).certificates;
    roots.add_parsable_certificates(authorities);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let clients = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots.clone()));
        let builder = rustls::ServerConfig::builder_with_protocol_versions(&[version]);
        let builder = builder.with_client_cert_verifier(clients.build().unwrap());
        let (chain, key) = OURS.certificate("localhost", 0, |_| {});
        let config = builder.with_single_cert(chain, key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let at = raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                // Its alert must not be lost because something of the client's was not read.
                if let Err((_, mut stream)) = acceptor.accept(stream).into_fallible().await {
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                }
            }
        })
        .await;
        let to = url("https", "localhost", at);
        let receipt = send(&allows, DestinationKind::Webhook, &to).await;
        let told = receipt.outcome.message();
        assert_eq!(outcome(&receipt), "Hold TlsFailed", "{told}");
        assert!(told.contains("certificate of the client"), "{told}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_judged_by_what_came_of_it_if_that_is_enough() {
    let allows = HttpSender::new(&config(&["localhost"])).unwrap();
    for (answer, expected) in [
        // Some servers end TLS without a word.
        ("HTTP/1.1 200 OK\r\n\r\nok", "Delivered"),
        ("HTTP/1.1 200 OK\r\n\r\n", "Retry ConnectionLost"),
        ("HTTP/1.1 200 OK\r\n\r\n<html", "Retry ConnectionLost"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "Retry UnexpectedAnswer",
        ),
    ] {
        let acceptor = OURS.acceptor("localhost", |_| {});
        let at = raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                read_request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        })
        .await;
        let receipt = send(
            &allows,
            DestinationKind::Slack,
            &url("https", "localhost", at),
        )
        .await;
        assert_eq!(outcome(&receipt), expected, "{answer}");
    }
}

/// Sends a message of its own setting.
async fn send_from(sender: &HttpSender, namespace: &str, at: SocketAddr, number: usize) -> Receipt {
    let to = format!("{}{number}", url("https", "localhost", at));
    let to = Destination::parse(DestinationKind::Webhook, &to).unwrap();
    let who = SendKey {
        namespace: namespace.into(),
        setting: number.to_string().into(),
    };
    let slot = sender.slot(&who, &to).await.unwrap();
    sender.send(&slot, &to, &outgoing()).await
}

/// A receiver that never answers the beginning of a handshake. How many have begun one.
async fn hangs() -> (SocketAddr, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let at = raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let _ = stream.read(&mut [0; 1024]).await;
            count.fetch_add(1, SeqCst);
            std::future::pending::<()>().await;
        }
    })
    .await;
    (at, begun)
}

#[tokio::test]
async fn handshakes_that_hang_at_one_host_keep_out_nothing_else_of_the_namespace() {
    let (hanging, begun) = hangs().await;
    let answers = answers_over_tls(OURS.acceptor("localhost", |_| {})).await;
    let sender = HttpSender::new(&config(&["localhost"])).unwrap();
    let all = join_all((0..40).map(|number| send_from(&sender, "a", hanging, number)));
    let other = async {
        while begun.load(SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        let receipt = send_from(&sender, "a", answers, 0).await;
        assert_eq!(outcome(&receipt), "Delivered");
        assert!(receipt.latency < Duration::from_secs(3), "{receipt:?}");
    };
    tokio::select! {
        _ = all => panic!("they hang"),
        () = other => {}
    }
    assert_eq!(begun.load(SeqCst), 4);
}

#[tokio::test]
async fn handshakes_that_hang_in_many_namespaces_fail_nothing_of_another() {
    let answers = answers_over_tls(OURS.acceptor("localhost", |_| {})).await;
    let sender = HttpSender::new(&config(&["localhost"])).unwrap();
    let hosts = join_all((0..4).map(|_| hangs())).await;
    let all = hosts.iter().enumerate().flat_map(|(at, (host, _))| {
        (0..40).map(move |number| (format!("hostile-{}", number % 10), *host, at * 40 + number))
    });
    let all = all
        .map(async |(namespace, host, number)| send_from(&sender, &namespace, host, number).await);
    let begun = || {
        hosts
            .iter()
            .map(|(_, begun)| begun.load(SeqCst))
            .sum::<usize>()
    };
    let other = async {
        while begun() < 128 {
            tokio::task::yield_now().await;
        }
        let receipt = send_from(&sender, "other", answers, 0).await;
        assert_eq!(outcome(&receipt), "Delivered");
    };
    let all = async {
        join_all(all).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        () = other => {}
    }
}

/// An address at this port at which nobody takes connections.
fn takes_no_connection(ip: &str, port: u16) -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let at = SocketAddr::new(ip.parse().unwrap(), port);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&at.into()).unwrap();
    socket.listen(0).unwrap();
    let waits = Duration::from_millis(200);
    let connect = || std::net::TcpStream::connect_timeout(&at, waits).ok();
    let waiting = std::iter::from_fn(connect).collect();
    (socket.into(), waiting)
}

#[tokio::test]
async fn addresses_that_lead_nowhere_keep_out_none_of_the_others() {
    let (at, _heard) = receiver(vec![]).await;
    let nowhere = ["127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5"];
    let _full = nowhere.map(|ip| takes_no_connection(ip, at.port()));
    let lookup = move |_: &str| {
        let all = nowhere.iter().chain(&["127.0.0.1"]);
        Ok(all
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 0))
            .collect())
    };
    let sender = HttpSender::with_lookup(&config(&["127.0.0.0/8"]), Arc::new(lookup)).unwrap();
    let receipt = send(
        &sender,
        DestinationKind::Webhook,
        &url("http", "hook.example", at),
    )
    .await;
    assert_eq!(outcome(&receipt), "Delivered");
}

/// A receiver that closes a connection after this many answers. How many were opened, and how many are open.
async fn counts_connections(answers: usize) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = Arc::clone(&counts);
    let at = raw(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let [opened, open] = &*counted;
            opened.fetch_add(1, SeqCst);
            open.fetch_add(1, SeqCst);
            for _ in 0..answers {
                if read_request(&mut stream).await.is_empty() {
                    break;
                }
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
            open.fetch_sub(1, SeqCst);
        }
    })
    .await;
    (at, counts)
}

#[tokio::test]
async fn a_connection_is_used_again_by_its_namespace_and_replaced_when_it_was_closed() {
    let (at, counts) = counts_connections(2).await;
    let sender = sender();
    let to = url("http", "127.0.0.1", at);
    let to = Destination::parse(DestinationKind::Webhook, &to).unwrap();
    for (namespace, opened) in [("a", 1), ("b", 2), ("a", 2)] {
        let receipt = deliver_for(&sender, namespace, &to).await;
        assert_eq!(receipt.outcome, Outcome::DELIVERED);
        assert_eq!(counts[0].load(SeqCst), opened);
    }
    while counts[1].load(SeqCst) > 1 {
        tokio::task::yield_now().await;
    }
    let receipt = deliver_for(&sender, "a", &to).await;
    assert_eq!(receipt.outcome, Outcome::DELIVERED);
    assert_eq!(counts[0].load(SeqCst), 3);
}

#[tokio::test]
async fn few_idle_connections_are_kept_of_however_many_hosts() {
    let (at, counts) = counts_connections(usize::MAX).await;
    let sender = with_names(config(&["127.0.0.1"]), TIMEOUT);
    for n in 0..100 {
        let to = url("http", &format!("{n}.example"), at);
        let receipt = send(&sender, DestinationKind::Webhook, &to).await;
        assert_eq!(receipt.outcome, Outcome::DELIVERED);
    }
    let [opened, open] = &*counts;
    while open.load(SeqCst) > 64 {
        tokio::task::yield_now().await;
    }
    assert_eq!((opened.load(SeqCst), open.load(SeqCst)), (100, 64));
    tokio::time::pause();
    // Timers are as fine as a millisecond.
    tokio::time::advance(Duration::from_millis(30_001)).await;
    while open.load(SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_idle_connections_of_many_hosts_of_a_namespace_do_not_cost_another_its_own() {
    let (at, counts) = counts_connections(usize::MAX).await;
    let sender = with_names(config(&["127.0.0.1"]), TIMEOUT);
    let to_host = async |namespace: &str, n: usize| {
        let to = url("http", &format!("{n}.example"), at);
        let to = Destination::parse(DestinationKind::Webhook, &to).unwrap();
        let receipt = deliver_for(&sender, namespace, &to).await;
        assert_eq!(receipt.outcome, Outcome::DELIVERED);
    };
    to_host("b", 0).await;
    for n in 0..100 {
        to_host("a", n).await;
    }
    to_host("b", 0).await;
    assert_eq!(counts[0].load(SeqCst), 101);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (target, mut heard) = receiver(vec![]).await;
    for status in [301, 302, 303, 307, 308] {
        let location = url("http", "127.0.0.1", target);
        let (at, _heard) = receiver(vec![(status, vec![("location", location)], b"")]).await;
        let receipt = send(
            &sender(),
            DestinationKind::Webhook,
            &url("http", "127.0.0.1", at),
        )
        .await;
        assert_eq!(outcome(&receipt), "Hold Redirected");
        assert_eq!(receipt.status, Some(status));
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn a_packed_body_is_not_unpacked() {
    // "ok", as gzip packs it.
    const OK: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcf\x06\0\x47\xdd\xdc\x79\x02\0\0\0";
    let headers = vec![("content-encoding", "gzip".to_owned())];
    let (at, _heard) = receiver(vec![(200, headers, OK)]).await;
    assert_eq!(
        outcome_at(&sender(), DestinationKind::Slack, at).await,
        "Hold UnexpectedAnswer"
    );
}

#[tokio::test]
async fn a_name_is_judged_by_the_addresses_that_it_has() {
    let (at, mut heard) = receiver(vec![]).await;
    let denies = HttpSender::new(&config(&[])).unwrap();
    let receipt = send(
        &denies,
        DestinationKind::Webhook,
        &url("http", "localhost", at),
    )
    .await;
    assert_eq!(outcome(&receipt), "Hold DestinationDenied");
    assert!(receipt.outcome.message().contains("--allow-destination"));
    assert!(heard.try_recv().is_err());
    for allow in ["localhost", "127.0.0.0/8"] {
        let allows = HttpSender::new(&config(&[allow, "::1"])).unwrap();
        let receipt = send(
            &allows,
            DestinationKind::Webhook,
            &url("http", "localhost", at),
        )
        .await;
        assert_eq!(receipt.outcome, Outcome::DELIVERED, "{allow}");
    }
}

#[tokio::test]
async fn what_was_judged_is_dialled_and_no_idle_connection_to_elsewhere_is_used() {
    let (at, mut heard) = receiver(vec![]).await;
    let lookup = |_: &str| panic!("it was looked up already");
    let lookups = Lookups::new(Arc::new(lookup));
    let client = Client::new(
        &config(&["hook.example"]),
        Some(OURS.1.as_bytes()),
        &lookups,
    );
    let client = client.unwrap();
    let to = Destination::parse(DestinationKind::Webhook, &url("http", "hook.example", at));
    let to = to.unwrap();
    let closed: SocketAddr = "127.0.0.2:0".parse().unwrap();
    for (reach, addresses, delivered) in [
        (Reach::Public, at, true),
        // The connection is idle now, and used again.
        (Reach::Public, closed, true),
        (Reach::Internal, closed, false),
        (Reach::Internal, at, true),
    ] {
        let way = Way {
            namespace: &"".into(),
            to: &to,
            reach,
            addresses: Some(&[addresses]),
        };
        let answer = client.send(way, request(&to, &outgoing()).unwrap()).await;
        assert_eq!(answer.is_ok(), delivered, "{reach:?} {addresses}");
        if let Ok(answer) = answer {
            heard.recv().await.unwrap();
            let deadline = Instant::now() + DRAIN;
            read(answer, to.kind, deadline, &client).await;
        }
    }
}

#[tokio::test]
async fn a_literal_address_is_judged_in_every_spelling() {
    let (at, mut heard) = receiver(vec![]).await;
    let denies = HttpSender::new(&config(&["localhost"])).unwrap();
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let receipt = send(&denies, DestinationKind::Webhook, &url("http", host, at)).await;
        assert_eq!(outcome(&receipt), "Hold DestinationDenied", "{host}");
        assert_eq!(receipt.status, None);
    }
    let kubelet = send(
        &sender(),
        DestinationKind::Webhook,
        "https://127.0.0.1:10250/run",
    )
    .await;
    assert_eq!(outcome(&kubelet), "Hold DestinationDenied");
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn a_name_without_address_is_held() {
    // No label has more than 63 characters, so no server need be asked.
    let url = format!("http://{}.example/{CANARY}", "a".repeat(64));
    let receipt = send(&sender(), DestinationKind::Webhook, &url).await;
    assert_eq!(outcome(&receipt), "Hold DnsFailed");
}

#[tokio::test]
async fn a_certificate_must_be_sound_and_its_authority_trusted() {
    let allows = HttpSender::new(&config(&["localhost", "127.0.0.1"])).unwrap();
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    for (acceptor, expected, says) in [
        (OURS.acceptor("localhost", |_| {}), "Delivered", ""),
        (
            OTHER.acceptor("localhost", |_| {}),
            "Hold TlsFailed",
            "not trusted",
        ),
        (
            OURS.acceptor("other.example", |_| {}),
            "Hold TlsFailed",
            "another host name",
        ),
        (
            OURS.acceptor("localhost", |params| params.not_after = year(2001)),
            "Hold TlsFailed",
            "expired",
        ),
        (
            OURS.acceptor("localhost", |params| params.not_before = year(4000)),
            "Hold TlsFailed",
            "not valid yet",
        ),
        (
            OURS.acceptor("localhost", |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "Hold TlsFailed",
            "self-signed",
        ),
    ] {
        let at = answers_over_tls(acceptor).await;
        let receipt = send(
            &allows,
            DestinationKind::Webhook,
            &url("https", "localhost", at),
        )
        .await;
        assert_eq!(outcome(&receipt), expected, "{says}");
        assert!(receipt.outcome.message().contains(says), "{receipt:?}");
    }
    let plain = raw(answer_ok_raw).await;
    let receipt = send(
        &allows,
        DestinationKind::Webhook,
        &url("https", "localhost", plain),
    )
    .await;
    assert_eq!(outcome(&receipt), "Hold TlsFailed");
    let stalls = says(b"").await;
    let receipt = send(
        &hasty(),
        DestinationKind::Webhook,
        &url("https", "127.0.0.1", stalls),
    )
    .await;
    assert_eq!(outcome(&receipt), "Retry Timeout");
}

/// A server that speaks plain HTTP to whatever comes.
async fn answer_ok_raw(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]).await;
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
}

#[tokio::test]
async fn a_bundle_without_certificates_is_refused() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let mut config = config(&[]);
        config.extra_ca_pem = Some(pem.into());
        assert!(
            matches!(HttpSender::new(&config), Err(SendError::BadCa)),
            "{pem}"
        );
    }
}

/// The environment belongs to the whole process, so this test runs itself again in a child's.
#[test]
fn a_system_without_certificates_is_a_clear_error() {
    const NAME: &str = "http::sender::tests::a_system_without_certificates_is_a_clear_error";
    let file = std::env::var("SSL_CERT_FILE");
    if file.as_deref() == Ok("/dev/null") {
        let mut config = config(&[]);
        assert!(HttpSender::new(&config).is_ok(), "ours are enough");
        config.extra_ca_pem = None;
        assert!(matches!(HttpSender::new(&config), Err(SendError::NoRoots)));
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env("SSL_CERT_FILE", "/dev/null")
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// A proxy that tunnels and forwards everything to `target`, and tells the first line of each request.
async fn proxy(target: SocketAddr) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (tell, heard) = mpsc::unbounded_channel();
    let at = raw(move |mut client| {
        let tell = tell.clone();
        async move {
            let request = read_request(&mut client).await;
            tell.send(request.clone()).unwrap();
            let mut server = TcpStream::connect(target).await.unwrap();
            if request.starts_with("CONNECT ") {
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            } else {
                server.write_all(request.as_bytes()).await.unwrap();
            }
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    })
    .await;
    (at, heard)
}

fn proxied(allow: &[&str], proxy: SocketAddr, no_proxy: &str) -> HttpSender {
    proxied_with(config(allow), proxy, no_proxy)
}

fn proxied_with(mut config: SenderConfig, proxy: SocketAddr, no_proxy: &str) -> HttpSender {
    let url: SecretString = format!("http://user:{CANARY}@localhost:{}", proxy.port()).into();
    config.proxy = ProxyConfig {
        https: Some(url.clone()),
        http: Some(url),
        no_proxy: no_proxy.to_owned(),
    };
    let lookup = |host: &str| match host {
        "localhost" => Ok(vec!["127.0.0.1:0".parse().unwrap()]),
        "public.example" => Ok(vec!["93.184.215.14:0".parse().unwrap()]),
        "10.0.0.1.nip.example" => Ok(vec!["10.0.0.1:0".parse().unwrap()]),
        "both.example" => Ok(vec![
            "93.184.215.14:0".parse().unwrap(),
            "[fd00::1]:0".parse().unwrap(),
        ]),
        "failing.example" => Err(std::io::Error::other("Try again")),
        _ => Err(std::io::Error::other("Name or service not known")),
    };
    HttpSender::with_lookup(&config, Arc::new(lookup)).unwrap()
}

#[tokio::test]
async fn a_proxy_gets_what_no_proxy_does_not_name() {
    let (target, _heard) = receiver(vec![]).await;
    let (at, mut heard) = proxy(target).await;
    // The proxy's own name may lie in a closed range: the operator's flags give it, not a setting.
    let sender = proxied(&[], at, "");
    let receipt = send(
        &sender,
        DestinationKind::Webhook,
        &format!("http://hook.example/{CANARY}"),
    )
    .await;
    assert_eq!(receipt.outcome, Outcome::DELIVERED);
    let request = heard.recv().await.unwrap();
    let line = format!("POST http://hook.example/{CANARY} HTTP/1.1\r\n");
    assert!(request.starts_with(&line), "{request}");
    assert!(request.contains("proxy-authorization: Basic "), "{request}");
    // A bypass is a direct connection, with all of the guard.
    let direct = proxied(&["127.0.0.1"], at, "127.0.0.0/8,.svc");
    assert_eq!(
        outcome_at(&direct, DestinationKind::Webhook, target).await,
        "Delivered"
    );
    let denied = proxied(&[], at, "127.0.0.0/8,localhost");
    for host in ["127.0.0.1", "localhost"] {
        let receipt = send(
            &denied,
            DestinationKind::Webhook,
            &url("http", host, target),
        )
        .await;
        assert_eq!(outcome(&receipt), "Hold DestinationDenied");
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn tls_goes_through_a_proxys_tunnel() {
    let acceptor = OURS.acceptor("hook.example", |_| {});
    let target = answers_over_tls(acceptor).await;
    let (at, mut heard) = proxy(target).await;
    let sender = proxied(&[], at, "");
    let receipt = send(
        &sender,
        DestinationKind::Slack,
        &format!("https://hook.example/{CANARY}"),
    )
    .await;
    assert_eq!(receipt.outcome, Outcome::DELIVERED);
    let request = heard.recv().await.unwrap();
    assert!(
        request.starts_with("CONNECT hook.example:443 "),
        "{request}"
    );
    assert!(!request.contains(CANARY), "{request}");
    // The certificate is the destination's to show, and to be judged by its name.
    let receipt = send(
        &sender,
        DestinationKind::Slack,
        &format!("https://other.example/{CANARY}"),
    )
    .await;
    assert_eq!(outcome(&receipt), "Hold TlsFailed");
}

#[tokio::test]
async fn a_proxy_may_speak_tls_and_is_blamed_for_its_certificate() {
    for (authority, expected) in [(&OURS, "Delivered"), (&OTHER, "Retry ProxyFailed")] {
        let (target, _heard) = receiver(vec![]).await;
        let tls_target = answers_over_tls(OURS.acceptor("hook.example", |_| {})).await;
        let acceptor = authority.acceptor("localhost", |_| {});
        let at = raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut client) = acceptor.accept(stream).await else {
                    return;
                };
                let request = read_request(&mut client).await;
                assert!(request.contains("proxy-authorization: Basic "), "{request}");
                let mut server = if request.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    TcpStream::connect(tls_target).await.unwrap()
                } else {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    server.write_all(request.as_bytes()).await.unwrap();
                    server
                };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        })
        .await;
        let mut config = config(&["localhost"]);
        let proxy: SecretString = format!("https://user:{CANARY}@localhost:{}", at.port()).into();
        config.proxy.http = Some(proxy.clone());
        config.proxy.https = Some(proxy);
        let sender = HttpSender::new(&config).unwrap();
        for scheme in ["http", "https"] {
            let to = format!("{scheme}://hook.example/{CANARY}");
            let receipt = send(&sender, DestinationKind::Webhook, &to).await;
            assert_eq!(outcome(&receipt), expected, "{scheme} {receipt:?}");
        }
    }
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_what_is_denied() {
    let (target, _heard) = receiver(vec![]).await;
    let (at, mut heard) = proxy(target).await;
    let sender = proxied(&[], at, "");
    for host in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "localhost",
        "metadata.google.internal",
    ] {
        let receipt = send(
            &sender,
            DestinationKind::Webhook,
            &url("http", host, target),
        )
        .await;
        assert_eq!(outcome(&receipt), "Hold DestinationDenied", "{host}");
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn a_name_is_judged_before_a_proxy_is_asked_for_it_where_the_dns_knows_it() {
    let (target, _heard) = receiver(vec![]).await;
    let (at, mut heard) = proxy(target).await;
    for (allow, host, expected) in [
        (&[][..], "public.example", "Delivered"),
        (&[], "unknown.example", "Delivered"),
        (&[], "failing.example", "Delivered"),
        (&[], "10.0.0.1.nip.example", "Hold DestinationDenied"),
        (&[], "both.example", "Hold DestinationDenied"),
        (&["fd00::/8"], "both.example", "Delivered"),
        (&["*.nip.example"], "10.0.0.1.nip.example", "Delivered"),
        (
            &["10.0.0.0/8@team-a"],
            "10.0.0.1.nip.example",
            "Hold DestinationDenied",
        ),
    ] {
        let sender = proxied(allow, at, "");
        let to = format!("http://{host}/{CANARY}");
        let receipt = send(&sender, DestinationKind::Webhook, &to).await;
        assert_eq!(outcome(&receipt), expected, "{host}");
        assert_eq!(heard.try_recv().is_ok(), expected == "Delivered", "{host}");
    }
}

#[tokio::test]
async fn a_range_that_is_opened_for_a_namespace_serves_its_settings_alone() {
    let (at, mut heard) = receiver(vec![]).await;
    let sender = with_names(config(&["127.0.0.1@team-a"]), TIMEOUT);
    for (host, namespace, expected) in [
        // The second finds an open connection of the first to the same name.
        ("a.example", "team-a", "Delivered"),
        ("a.example", "team-b", "Hold DestinationDenied"),
        ("127.0.0.1", "team-a", "Delivered"),
        ("127.0.0.1", "team-b", "Hold DestinationDenied"),
        ("b.example", "team-b", "Hold DestinationDenied"),
    ] {
        let to = Destination::parse(DestinationKind::Webhook, &url("http", host, at)).unwrap();
        let receipt = deliver_for(&sender, namespace, &to).await;
        assert_eq!(outcome(&receipt), expected, "{host} {namespace}");
        assert_eq!(
            heard.try_recv().is_ok(),
            expected == "Delivered",
            "{host} {namespace}"
        );
    }
}

#[tokio::test]
async fn of_an_internal_address_no_more_is_told_than_the_class_of_the_answer() {
    let internal = "http://10.0.0.1.nip.example/";
    let cases = [
        ("HTTP/1.1 204 No Content\r\n\r\n", "Delivered"),
        ("HTTP/1.1 500 Oops\r\n\r\n", "Retry ServerError"),
        ("HTTP/1.1 503 Oops\r\n\r\n", "Retry ServerError"),
        ("HTTP/1.1 429 Slow\r\n\r\n", "Retry ServerError"),
        ("HTTP/1.1 401 No\r\n\r\n", "Hold UnexpectedAnswer"),
        ("HTTP/1.1 404 No\r\n\r\n", "Hold UnexpectedAnswer"),
        (
            "HTTP/1.1 302 No\r\nlocation: /login\r\n\r\n",
            "Hold UnexpectedAnswer",
        ),
        ("HTTP/1.1 410 Gone\r\n\r\n", "Hold UnexpectedAnswer"),
        ("HTTP/1.1 400 No\r\n\r\n", "Refused PayloadRefused"),
        ("HTTP/1.1 422 No\r\n\r\n", "Refused PayloadRefused"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "Retry ConnectFailed"),
        ("", "Retry ConnectFailed"),
    ];
    // Each waits for more of an answer that never ends: all at once, as that takes seconds.
    let checks = cases.map(async |(answer, expected)| {
        let mut config = config(&["10.0.0.0/8"]);
        if !answer.starts_with("HTTP") {
            config.timeout = Duration::from_millis(500);
        }
        let sender = proxied_with(config, says(answer.as_bytes()).await, "");
        let public = "http://public.example/";
        let [receipt, of_public] =
            [internal, public].map(|url| send(&sender, DestinationKind::Webhook, url));
        let (receipt, of_public) = tokio::join!(receipt, of_public);
        assert_eq!(outcome(&receipt), expected, "{answer}");
        let told = receipt.outcome.message();
        assert!(!told.contains(char::is_numeric), "{told}");
        let status = (expected == "Delivered").then_some(200);
        assert_eq!(receipt.status, status, "{answer}");
        // Of a public one all is told.
        let mut words = answer.split(' ');
        let status = words.nth(1).and_then(|status| status.parse().ok());
        assert_eq!(of_public.status, status, "{answer}");
    });
    join_all(checks).await;
}

const WANTS_CREDENTIALS: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";

#[tokio::test]
async fn a_proxy_that_fails_is_named_as_such() {
    let (scheme, http) = ("https://hook.example/", "http://hook.example/");
    for (answer, expected) in [
        (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "Retry ProxyFailed"),
        (WANTS_CREDENTIALS, "Hold ProxyFailed"),
    ] {
        let refuses = says(answer).await;
        let receipt = send(&proxied(&[], refuses, ""), DestinationKind::Webhook, scheme).await;
        assert_eq!(outcome(&receipt), expected);
    }
    let at = says(WANTS_CREDENTIALS).await;
    let receipt = send(&proxied(&[], at, ""), DestinationKind::Webhook, http).await;
    assert_eq!(outcome(&receipt), "Hold ProxyFailed");
    // Where there is no proxy it is none that says so.
    let told = outcome_at(&sender(), DestinationKind::Webhook, at).await;
    assert_eq!(told, "Hold UnexpectedAnswer");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    for url in [scheme, http] {
        let receipt = send(&proxied(&[], closed, ""), DestinationKind::Webhook, url).await;
        assert_eq!(outcome(&receipt), "Retry ProxyFailed");
    }
    let mut config = config(&[]);
    config.proxy = ProxyConfig {
        https: Some("socks5://proxy.example".into()),
        ..ProxyConfig::default()
    };
    assert!(matches!(
        HttpSender::new(&config),
        Err(SendError::BadProxy("HTTPS_PROXY"))
    ));
}

#[tokio::test]
async fn no_destination_gets_more_requests_at_once_than_its_limit() {
    // After the first, answers come in pairs, so two must be under way at once; a third must not.
    let (pair, now, most) = (Barrier::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
    let shared = Arc::new((pair, now, most));
    let counts = Arc::clone(&shared);
    let at = raw(move |mut stream| {
        let counts = Arc::clone(&counts);
        async move {
            let (pair, now, most) = &*counts;
            read_request(&mut stream).await;
            if most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst) > 0 {
                pair.wait().await;
            }
            now.fetch_sub(1, SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let mut config = config(&["127.0.0.1"]);
    config.limits.per_destination = 2;
    let sender = HttpSender::new(&config).unwrap();
    let sends = (0..21).map(|_| outcome_at(&sender, DestinationKind::Webhook, at));
    for outcome in futures::future::join_all(sends).await {
        assert_eq!(outcome, "Delivered");
    }
    assert_eq!(shared.2.load(SeqCst), 2);
}

#[tokio::test]
async fn too_many_pauses_the_destination_for_all_who_send_there() {
    let headers = vec![("retry-after", "30".to_owned())];
    let (at, mut heard) = receiver(vec![(429, headers, b"")]).await;
    let (sender, to) = (sender(), url("http", "127.0.0.1", at));
    let receipt = send(&sender, DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Retry RateLimited");
    let paused = Destination::parse(DestinationKind::Webhook, &to).unwrap();
    let left = sender.0.slots.pause_of(&paused).unwrap();
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20));
    let waits = deliver(&sender, &paused).now_or_never();
    assert!(waits.is_none(), "{waits:?}");
    heard.recv().await.unwrap();
    assert!(heard.try_recv().is_err());
    let other = send(&sender, DestinationKind::Webhook, &format!("{to}&other")).await;
    assert_eq!(other.outcome, Outcome::DELIVERED);
}

#[tokio::test]
async fn a_burst_to_a_slack_channel_arrives_in_order_and_no_faster_than_its_pace() {
    let (at, mut heard) = receiver(vec![]).await;
    let (sender, to) = (sender(), url("http", "127.0.0.1", at));
    let started = Instant::now();
    for _ in 0..4 {
        let receipt = send(&sender, DestinationKind::Slack, &to).await;
        assert_eq!(receipt.outcome, Outcome::DELIVERED);
        assert!(
            receipt.latency < Duration::from_millis(900),
            "waiting is no latency"
        );
        heard.recv().await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// A sender whose names lead to this machine, but for those that don't exist, that can't be asked for, and that hang.
fn with_names(mut config: SenderConfig, timeout: Duration) -> HttpSender {
    config.timeout = timeout;
    let lookup = |host: &str| match host.split('.').next() {
        Some("missing") => Err(std::io::Error::other("Name or service not known")),
        Some("failing") => Err(std::io::Error::other(
            "Temporary failure in name resolution",
        )),
        Some("hanging") => {
            std::thread::sleep(Duration::from_secs(2));
            Err(std::io::Error::other("no answer"))
        }
        _ => Ok(vec!["127.0.0.1:0".parse().unwrap()]),
    };
    HttpSender::with_lookup(&config, Arc::new(lookup)).unwrap()
}

#[tokio::test]
async fn a_dns_in_trouble_is_asked_again_and_a_name_that_does_not_exist_is_held() {
    let (at, mut heard) = receiver(vec![]).await;
    let sender = with_names(config(&["127.0.0.1"]), TIMEOUT);
    for (host, expected) in [
        ("a.example", "Delivered"),
        ("failing.example", "Retry DnsFailed"),
        ("missing.example", "Hold DnsFailed"),
    ] {
        let receipt = send(&sender, DestinationKind::Webhook, &url("http", host, at)).await;
        assert_eq!(outcome(&receipt), expected, "{host}");
    }
    heard.recv().await.unwrap();
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn authorities_are_replaced_while_it_runs() {
    let acceptor = OTHER.acceptor("localhost", |_| {});
    let at = answers_over_tls(acceptor).await;
    let sender = HttpSender::new(&config(&["localhost"])).unwrap();
    let to = url("https", "localhost", at);
    let receipt = send(&sender, DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Hold TlsFailed");
    // What can't be used changes nothing.
    assert!(matches!(
        sender.reload_extra_ca(b"nonsense"),
        Err(SendError::BadCa)
    ));
    sender.reload_extra_ca(OTHER.1.as_bytes()).unwrap();
    let receipt = send(&sender, DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Delivered");
    assert!(sender.reload_extra_ca(b"nonsense").is_err());
    let receipt = send(&sender, DestinationKind::Webhook, &to).await;
    assert_eq!(outcome(&receipt), "Delivered");
}

#[tokio::test]
async fn no_log_line_names_a_destination_at_any_level() {
    use tracing_subscriber::{
        filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };
    let (at, _heard) = receiver(vec![]).await;
    let acceptor = OURS.acceptor(&format!("{CANARY}.example"), |_| {});
    let tls = answers_over_tls(acceptor).await;
    let (proxy, _heard_there) = proxy(at).await;
    let mut through = config(&["127.0.0.1"]);
    through.proxy = ProxyConfig {
        http: Some(format!("http://127.0.0.1:{}", proxy.port()).into()),
        ..ProxyConfig::default()
    };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = closed.local_addr().unwrap();
    drop(closed);
    let _second = another_subscriber();
    let mut texts = Vec::new();
    for filter in [false, true] {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let filter = filter_fn(move |line| !filter || may_be_logged(line.target()));
        let _guard = tracing_subscriber::registry()
            .with(layer)
            .with(filter)
            .set_default();
        for config in [config(&["127.0.0.1"]), through.clone()] {
            let sender = with_names(config, TIMEOUT);
            for (scheme, host, at) in [
                ("http", format!("{CANARY}.example"), at),
                ("https", format!("{CANARY}.example"), tls),
                ("https", format!("{CANARY}.other.example"), tls),
                ("http", format!("{CANARY}.example"), refused),
                ("http", format!("missing.{CANARY}.example"), at),
                ("http", format!("failing.{CANARY}.example"), at),
            ] {
                send(&sender, DestinationKind::Webhook, &url(scheme, &host, at)).await;
            }
            sender.reload_extra_ca(P521.as_bytes()).unwrap();
        }
        texts.push(lines.text());
    }
    // One does name it, so this test would see it.
    let names = |line: &str| line.contains("rustls") && line.contains(CANARY);
    assert!(texts[0].lines().any(names));
    assert!(texts[1].contains("P-521"), "{}", texts[1]);
    assert!(!texts[1].contains(CANARY), "{}", texts[1]);
}

/// What a setting's destination does with a message.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Answers,
    AnswersLate,
    NeverAnswers,
    DoesNotResolve,
}

/// A receiver that behaves as the path says.
async fn receiver_of_many() -> SocketAddr {
    async fn answer(uri: Uri) -> &'static str {
        match uri.path().split('/').nth(1) {
            Some("never") => std::future::pending().await,
            Some("late") => tokio::time::sleep(Duration::from_millis(2500)).await,
            _ => {}
        }
        "ok"
    }
    let app = Router::new().fallback(answer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    at
}

#[tokio::test]
async fn a_thousand_healthy_settings_feel_nothing_of_a_hundred_that_hang_behind_the_same_name() {
    use Behaviour::{Answers, AnswersLate, DoesNotResolve, NeverAnswers};
    const HEALTHY: usize = 1000;
    let at = receiver_of_many().await;
    // Fifteen seconds are three here.
    let sender = with_names(config(&["127.0.0.1"]), Duration::from_secs(3));
    let alone = with_names(config(&["127.0.0.1"]), Duration::from_secs(15));
    let setting = |n: usize, behaviour, namespace: String| {
        let (host, path) = match behaviour {
            Answers => ("hooks.example".to_owned(), "well"),
            AnswersLate => ("hooks.example".to_owned(), "late"),
            NeverAnswers => ("hooks.example".to_owned(), "never"),
            DoesNotResolve => (format!("hanging.{n}.example"), "well"),
        };
        let url = format!("http://{host}:{}/{path}/{n}", at.port());
        let to = Destination::parse(DestinationKind::Webhook, &url).unwrap();
        let who = SendKey {
            namespace: namespace.into(),
            setting: n.to_string().into(),
        };
        (who, to)
    };
    let (stop, stopped) = tokio::sync::watch::channel(());
    // Half of the bad ones in one namespace, the others where healthy ones are. Each wants to send all the time, four
    // messages at once.
    let mut bad = tokio::task::JoinSet::new();
    for n in 0..100 {
        let behaviour = [NeverAnswers, AnswersLate, DoesNotResolve][n % 3];
        let namespace = if n < 50 {
            "hostile".to_owned()
        } else {
            format!("team-{n}")
        };
        let (who, to) = setting(n, behaviour, namespace);
        for _ in 0..4 {
            let (sender, who, to, mut stopped) =
                (sender.clone(), who.clone(), to.clone(), stopped.clone());
            bad.spawn(async move {
                let forever = async {
                    loop {
                        let slot = sender.slot(&who, &to).await.unwrap();
                        let receipt = sender.send(&slot, &to, &outgoing()).await;
                        drop(slot);
                        // Whoever sends waits after a failure.
                        if receipt.outcome.reason().is_some() {
                            tokio::time::sleep(Duration::from_secs(2)).await;
                        }
                    }
                };
                tokio::select! {
                    () = forever => {}
                    _ = stopped.changed() => {}
                }
            });
        }
    }
    // They have what they can get before the others begin.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut healthy = tokio::task::JoinSet::new();
    for n in 0..HEALTHY {
        let namespace = match n % 10 {
            0 => "hostile".to_owned(),
            _ => format!("team-{}", n % 100),
        };
        let (who, to) = setting(1000 + n, Answers, namespace);
        let (sender, alone) = (sender.clone(), alone.clone());
        healthy.spawn(async move {
            tokio::time::sleep(Duration::from_millis(6 * n as u64)).await;
            let delay = async |sender: &HttpSender| {
                let asked = Instant::now();
                let slot = sender.slot(&who, &to).await.unwrap();
                let receipt = sender.send(&slot, &to, &outgoing()).await;
                assert_eq!(outcome(&receipt), "Delivered");
                asked.elapsed()
            };
            let among_bad = delay(&sender).await;
            match n % 5 {
                0 => (among_bad, Some(delay(&alone).await)),
                _ => (among_bad, None),
            }
        });
    }
    let (delays, alone): (Vec<_>, Vec<_>) = healthy.join_all().await.into_iter().unzip();
    let p99 = |mut delays: Vec<Duration>| {
        delays.sort_unstable();
        delays[delays.len() * 99 / 100]
    };
    assert_eq!(delays.len(), HEALTHY);
    // What a busy machine takes is no delay by neighbours.
    let (delay, alone) = (p99(delays), p99(alone.into_iter().flatten().collect()));
    let limit = alone + Duration::from_secs(1);
    assert!(delay < limit, "p99 {delay:?}, {alone:?} without bad ones");
    stop.send(()).unwrap();
    bad.join_all().await;
}
