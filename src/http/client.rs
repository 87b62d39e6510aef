#![expect(clippy::disallowed_methods, reason = "waits, and makes requests")]

//! Makes requests over HTTP/1.1, and as little else as possible: no redirect is followed, nothing is sent twice, and only
//! what the guard has seen is dialled.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, PROXY_AUTHORIZATION, USER_AGENT},
};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use url::{Position, Url};

use crate::{
    http::{
        address_guard::Guard,
        certificates::CaBundle,
        config::{SendError, SenderConfig},
        connection::{Body, Connection, NAME, Stream, dial, tls, tunnel},
        destination::Destination,
        error::{LONG_CHAIN, fault},
        proxy::NoProxy,
        resolver::Lookups,
        response::Fault,
    },
    places::{Places, PlacesOfEach},
};

/// How long a connection may take: DNS, TCP and what a proxy does.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. A policy of the guard holds from the next connection on.
const IDLE: Duration = Duration::from_secs(30);
/// At most so many idle connections are kept, whomever they lead to.
const IDLE_TOTAL: usize = 64;
/// How long a connection may take to be ready for another request once its answer was read.
const READY: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take once there is a place for it.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many TLS handshakes may be under way at once: the certificates of one may take ten times what is read of them.
const HANDSHAKES: usize = 128;
/// How many of them for the settings of one namespace.
const HANDSHAKES_OF_NAMESPACE: usize = 16;
/// How many of those with one host and port: what hangs there keeps out nothing else.
const HANDSHAKES_WITH_ONE: usize = 4;

/// At most so many certificates that have a problem are named in the log.
const PROBLEMS: usize = 20;

/// Makes requests, directly or through proxies.
pub(super) struct Client {
    guard: Arc<Guard>,
    lookups: Lookups,
    tls: TlsConnector,
    handshakes: Places<Arc<str>>,
    handshakes_with: PlacesOfEach<Key>,
    https_proxy: Option<Proxy>,
    http_proxy: Option<Proxy>,
    bypass: NoProxy,
    idle: Idle,
}

/// The way to a destination for the settings of a namespace.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) namespace: &'a Arc<str>,
    pub(super) to: &'a Destination,
    pub(super) reach: Reach,
    /// What was judged, and is dialled unless a proxy is; `None`: it is still to be looked up and judged.
    pub(super) addresses: Option<&'a [SocketAddr]>,
}

/// Where a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Public,
    /// At an address that is closed unless a flag opens it.
    Internal,
}

/// The head of an answer, and what to do with the connection when the rest was read.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    connection: Connection,
    key: Key,
}

impl Client {
    /// Reads the system's CA certificates; those of `extra_ca_pem` are trusted besides.
    pub(super) fn new(
        config: &SenderConfig,
        extra_ca_pem: Option<&[u8]>,
        lookups: &Lookups,
    ) -> Result<Self, SendError> {
        Ok(Self {
            guard: Arc::clone(&config.guard),
            lookups: lookups.clone(),
            tls: connector(extra_cas(extra_ca_pem)?)?,
            handshakes: Places::new((HANDSHAKES_OF_NAMESPACE, HANDSHAKES)),
            handshakes_with: PlacesOfEach::new(HANDSHAKES_WITH_ONE),
            https_proxy: Proxy::of(config.proxy.https.as_ref(), "HTTPS_PROXY")?,
            http_proxy: Proxy::of(config.proxy.http.as_ref(), "HTTP_PROXY")?,
            bypass: NoProxy::parse(&config.proxy.no_proxy),
            idle: Idle::default(),
        })
    }

    /// The proxy that a destination is reached through.
    fn proxy(&self, to: &Destination) -> Option<&Proxy> {
        let proxy = if is_https(to) {
            &self.https_proxy
        } else {
            &self.http_proxy
        };
        proxy
            .as_ref()
            .filter(|_| !self.bypass.covers(&to.host(), to.port()))
    }

    /// Whether the way to a destination leads through a proxy.
    pub(super) fn is_proxied(&self, to: &Destination) -> bool {
        self.proxy(to).is_some()
    }

    /// Sends a request, and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        way: Way<'_>,
        mut request: Request<Body>,
    ) -> Result<Answer, Fault> {
        let to = way.to;
        self.address(to, &mut request).ok_or(Fault::Protocol)?;
        let key = Key::new(way);
        loop {
            let idle = self.idle.take(&key);
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(way, &key).await?,
            };
            match connection.send(request).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        connection,
                        key,
                    });
                }
                Err(mut error) => match error.take_message() {
                    // The other side had closed it: nothing was sent.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(fault(error.error())),
                },
            }
        }
    }

    /// Nobody took the connection.
    fn not_connected(&self, to: &Destination) -> Fault {
        match self.is_proxied(to) {
            true => Fault::Proxy,
            false => Fault::Connect,
        }
    }

    /// Keeps the connection for the next request if the answer was read to its end. Ends at the `deadline`.
    pub(super) async fn keep(&self, answer: Answer, deadline: Instant) {
        let Answer {
            response,
            mut connection,
            key,
        } = answer;
        drop(response);
        let deadline = deadline.min(Instant::now() + READY);
        if let Ok(Ok(())) = timeout_at(deadline, connection.rest()).await {
            self.idle.put(key, connection);
        }
    }

    /// Says whom a request is for. `None`: it can't be written.
    fn address(&self, to: &Destination, request: &mut Request<Body>) -> Option<()> {
        let url = to.expose_url();
        let through = self.proxy(to).filter(|_| !is_https(to));
        let from = match through {
            Some(_) => Position::BeforeScheme,
            None => Position::BeforePath,
        };
        *request.uri_mut() = Uri::try_from(&url[from..Position::AfterQuery]).ok()?;
        let headers = request.headers_mut();
        let host = &url[Position::BeforeHost..Position::AfterPort];
        headers.insert(HOST, HeaderValue::try_from(host).ok()?);
        headers.insert(USER_AGENT, NAME);
        if let Some(authorization) = through.and_then(|proxy| proxy.authorization.clone()) {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        Some(())
    }

    async fn connect(&self, way: Way<'_>, key: &Key) -> Result<Connection, Fault> {
        let stream = timeout(CONNECT, self.open(way));
        let stream = stream
            .await
            .unwrap_or_else(|_| Err(self.not_connected(way.to)))?;
        let stream = match is_https(way.to) {
            true => self.secure(way, key, stream).await?,
            false => stream,
        };
        Connection::new(stream).await.map_err(|error| fault(&error))
    }

    async fn open(&self, way: Way<'_>) -> Result<Stream, Fault> {
        match self.proxy(way.to) {
            None => self.dial(way).await,
            Some(proxy) => {
                let reached = self.reach(proxy, way.to).await;
                reached.map_err(|fault| match fault {
                    Fault::ProxyCredentials => fault,
                    _ => Fault::Proxy,
                })
            }
        }
    }

    /// TLS with who must be the destination's host, when there is room for what it may send. The wait for that is not its
    /// fault.
    async fn secure(&self, way: Way<'_>, key: &Key, stream: Stream) -> Result<Stream, Fault> {
        let _one = self.handshakes_with.take(key.clone()).await;
        let _place = self.handshakes.take(Arc::clone(way.namespace)).await;
        let host = way.to.host();
        let secured = timeout(HANDSHAKE, tls(&self.tls, &host, stream)).await;
        secured.unwrap_or_else(|_| Err(self.not_connected(way.to)))
    }

    /// Connects to one of the very addresses that the guard has seen: a second query could give others.
    async fn dial(&self, way: Way<'_>) -> Result<Stream, Fault> {
        let Way { namespace, to, .. } = way;
        let host = to.host();
        let found;
        let addresses = match way.addresses {
            Some(judged) => judged,
            None => {
                found = self.lookups.addresses(&host, namespace).await?;
                &found
            }
        };
        self.guard
            .for_namespace(namespace)
            .permits_all(&host.to_string(), addresses)
            .map_err(Fault::Denied)?;
        let stream = dial(addresses, to.port()).await;
        stream.map_err(|_| Fault::Connect)
    }

    /// Connects to a proxy, and through it to a destination that is reached by a tunnel. The operator's own flags give
    /// the proxy, so it may be anywhere, and its name has a share of the look-ups of its own.
    async fn reach(&self, proxy: &Proxy, to: &Destination) -> Result<Stream, Fault> {
        let host = proxy.url.host().ok_or(Fault::Proxy)?;
        let port = proxy.url.port_or_known_default().ok_or(Fault::Proxy)?;
        let found = self.lookups.addresses(&host, &Arc::default()).await?;
        let mut stream = dial(&found, port).await.map_err(|_| Fault::Proxy)?;
        if proxy.url.scheme() == "https" {
            stream = tls(&self.tls, &host, stream).await?;
        }
        if is_https(to) {
            let to = format!("{}:{}", to.host(), to.port());
            stream = tunnel(stream, &to, proxy.authorization.as_ref()).await?;
        }
        Ok(stream)
    }
}

pub(super) fn is_https(to: &Destination) -> bool {
    to.expose_url().scheme() == "https"
}

/// The certificates of a bundle that can be used; the log names the others.
fn extra_cas(pem: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, SendError> {
    let Some(pem) = pem else {
        return Ok(Vec::new());
    };
    let bundle = CaBundle::read(pem);
    for problem in bundle.problems.iter().take(PROBLEMS) {
        warn!("extra CA bundle: {problem}");
    }
    if let more @ 1.. = bundle.problems.len().saturating_sub(PROBLEMS) {
        warn!("extra CA bundle: {more} more certificates have a problem");
    }
    if bundle.certificates.is_empty() {
        return Err(SendError::BadCa);
    }
    Ok(bundle.certificates)
}

/// At most so many certificates besides the server's own. To find a way among many takes long, and they stay as long as the
/// connection.
const INTERMEDIATES: usize = 8;

/// Refuses long chains before anybody looks for a way through them.
#[derive(Debug)]
struct ShortChains(Verifier);

impl ServerCertVerifier for ShortChains {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if intermediates.len() > INTERMEDIATES {
            return Err(rustls::Error::General(LONG_CHAIN.to_owned()));
        }
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// TLS that trusts the system's authorities and these.
fn connector(extra_cas: Vec<CertificateDer<'static>>) -> Result<TlsConnector, SendError> {
    let builder = ClientConfig::builder();
    let verifier = Verifier::new_with_extra_roots(extra_cas, Arc::clone(builder.crypto_provider()))
        .map_err(|error| match error {
            rustls::Error::General(text) if text.starts_with("No CA certificates") => {
                SendError::NoRoots
            }
            // The system's malformed certificates are passed over.
            _ => SendError::BadCa,
        })?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ShortChains(verifier)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A server may give many tickets, of up to 64 KiB each.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config).into())
}

/// A proxy, and what it is told to let us through.
struct Proxy {
    url: Url,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy of a flag, if it has any.
    fn of(url: Option<&SecretString>, flag: &'static str) -> Result<Option<Self>, SendError> {
        let text = url.map_or("", |url| url.expose_secret().trim());
        if text.is_empty() {
            return Ok(None);
        }
        let proxy = Self::parse(text).ok_or(SendError::BadProxy(flag))?;
        Ok(Some(proxy))
    }

    /// A proxy's URL as people write it: `proxy:3128` is `http://proxy:3128`.
    fn parse(text: &str) -> Option<Self> {
        let url = if text.contains("://") {
            text.parse::<Url>()
        } else {
            format!("http://{text}").parse()
        };
        let url = url
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let (user, password) = (url.username(), url.password());
        let authorization = (!user.is_empty() || password.is_some()).then(|| {
            let mut pair: Vec<u8> = percent_decode_str(user).collect();
            pair.push(b':');
            pair.extend(percent_decode_str(password.unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(pair))
        });
        let mut authorization = authorization.and_then(|text| HeaderValue::try_from(text).ok());
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        Some(Self { url, authorization })
    }
}

/// Who may use an idle connection for what: the namespace for which its address was judged, for the same host and port while
/// that is where it was. A host's name may be a secret, so a hash of it is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Arc<str>, [u8; 32], Reach);

impl Key {
    fn new(way: Way<'_>) -> Self {
        let origin = &way.to.expose_url()[..Position::BeforePath];
        let origin = Sha256::digest(origin).into();
        Self(Arc::clone(way.namespace), origin, way.reach)
    }
}

/// The idle connections, those that are idle for longest first.
#[derive(Default)]
struct Idle(Mutex<VecDeque<(Key, Connection, AbortOnDropHandle<()>)>>);

impl Idle {
    fn take(&self, key: &Key) -> Option<Connection> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().rposition(|(of, ..)| of == key)?;
        all.remove(at).map(|(_, connection, _)| connection)
    }

    /// Keeps a connection, in the place of the oldest one of the namespace that has the most if need be.
    fn put(&self, key: Key, connection: Connection) {
        let closer = connection.closer();
        let closing: JoinHandle<()> = tokio::spawn(async move {
            sleep(IDLE).await;
            closer.abort();
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, connection, _)| !connection.is_closed());
        if all.len() == IDLE_TOTAL {
            let of = |namespace: &str| all.iter().filter(|(key, ..)| *key.0 == *namespace).count();
            let of_most = (0..all.len()).rev().max_by_key(|at| of(&all[*at].0.0));
            all.remove(of_most.unwrap_or_default());
        }
        all.push_back((key, connection, AbortOnDropHandle::new(closing)));
    }
}
