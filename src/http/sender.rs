#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "makes requests"
)]

//! The one outbound client. What leaves this process for a webhook or for Slack leaves here: guarded (addresses are judged
//! when they are dialled), bounded (time, size, number), and quiet (no URL and no body in any message).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::{
    Client, Response,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use secrecy::SecretString;
use thiserror::Error;
use tokio::{sync::Semaphore, time::Instant};

use crate::http::{
    client::{LOOKUPS, Resolver, client, parse_proxy},
    destination::{Destination, DestinationKind},
    error::fault,
    guard::{Denied, Guard},
    outcome::{Outcome, Reason, of_answer, of_fault},
    proxy::NoProxy,
    slots::Slots,
};
pub use crate::http::{
    proxy::ProxyConfig,
    slots::{SendKey, Slot},
};

/// The default of [`SenderConfig::timeout`]. It must stay well below the time between the last renewal of a lease and its end:
/// a leader that has lost its lease may still have a request under way.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The default of [`SenderConfig::per_destination`].
pub const PER_DESTINATION: usize = 8;
/// The default of [`SenderConfig::total`]: a hundred destinations that hang must leave places for those that don't.
pub const TOTAL: usize = 256;

/// So much of an answer is read. Slack's codes have at most some 40 bytes; the rest is for people's pages.
const BODY: usize = 4096;
/// How long a webhook's body, which decides nothing, may hold up the next message. Reading it to its end lets the
/// connection be used again.
const DRAIN: Duration = Duration::from_secs(1);

/// How to send.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// Certificates (PEM, any number) of authorities that are trusted besides the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// Proxies; `None`: dial directly, whatever the environment says.
    pub proxy: Option<ProxyConfig>,
    /// The time for one attempt from the first byte of the DNS query to the last that is read of the answer.
    pub timeout: Duration,
    /// Requests at once to one host.
    pub per_destination: usize,
    /// Requests at once in all.
    pub total: usize,
    /// The header `user-agent`: `shipbell/` and the version.
    pub user_agent: String,
}

impl SenderConfig {
    /// The defaults, with this guard.
    pub fn new(guard: Guard) -> Self {
        Self {
            guard,
            extra_ca_pem: None,
            proxy: None,
            timeout: TIMEOUT,
            per_destination: PER_DESTINATION,
            total: TOTAL,
            user_agent: concat!("shipbell/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why nothing can be sent at all.
#[derive(Debug, Error)]
pub enum SendError {
    /// The program must install its TLS provider first.
    #[error("no TLS provider is installed; this is a defect of the program")]
    NoTlsProvider,
    /// The system has no certificates of authorities.
    #[error(
        "no CA certificates were found on this system; install a CA bundle, or name one in SSL_CERT_FILE, or give one to the operator"
    )]
    NoRoots,
    /// [`SenderConfig::extra_ca_pem`] is malformed.
    #[error(
        "the extra CA bundle holds no certificate that can be read; give certificates in PEM form"
    )]
    BadCa,
    /// A URL of [`SenderConfig::proxy`] is malformed.
    #[error("{0} is no URL of a proxy; give one such as http://proxy.example:3128")]
    BadProxy(&'static str),
    /// Anything else.
    #[error("the HTTP client could not be made: {0}")]
    Client(String),
}

/// One message, ready to be sent.
#[derive(Clone)]
pub struct Outgoing {
    /// The event's id, the same on each attempt: `webhook-id`.
    pub id: String,
    /// The JSON to send, the same on each attempt.
    pub body: Bytes,
    /// When this attempt is made: `webhook-timestamp`.
    pub timestamp: Timestamp,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What to do now.
    pub outcome: Outcome,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The time from the request's start to the answer's head or to the fault. Waiting for a turn is not in it.
    pub latency: Duration,
}

/// Delivers messages. Clones share everything.
#[derive(Clone)]
pub struct HttpSender(Arc<Inner>);

struct Inner {
    guard: Arc<Guard>,
    direct: Client,
    https_proxy: Option<Client>,
    http_proxy: Option<Client>,
    bypass: NoProxy,
    slots: Slots,
}

impl HttpSender {
    /// Makes the client. Reads the system's CA certificates once; a TLS provider must be installed.
    pub fn new(config: &SenderConfig) -> Result<Self, SendError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SendError::NoTlsProvider);
        }
        let guard = Arc::new(config.guard.clone());
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        let resolver = |guard| Resolver {
            guard,
            lookups: Arc::clone(&lookups),
        };
        // All that is given to this client goes through its proxy, so the proxy's is the only name that it resolves.
        let through = |proxy: &Option<SecretString>, name| match proxy {
            None => Ok(None),
            Some(url) => {
                let proxy = parse_proxy(url).ok_or(SendError::BadProxy(name))?;
                client(config, resolver(None), Some(proxy)).map(Some)
            }
        };
        let proxies = config.proxy.clone().unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            direct: client(config, resolver(Some(Arc::clone(&guard))), None)?,
            https_proxy: through(&proxies.https, "HTTPS_PROXY")?,
            http_proxy: through(&proxies.http, "HTTP_PROXY")?,
            bypass: NoProxy::parse(&proxies.no_proxy),
            slots: Slots::new(config.per_destination, config.total),
            guard,
        })))
    }

    /// Waits until a message of this setting may go to this destination: until the pause that the destination has asked
    /// for is over, its pace allows it, and there is room within the limits. Waits without limit; dropping the future
    /// gives the place up at once. `Err`: the operator's policy denies the destination, as far as that can be told
    /// without asking the DNS.
    pub async fn slot(&self, who: &SendKey, to: &Destination) -> Result<Slot, Denied> {
        self.0.permits(to, self.0.proxied(to).is_some())?;
        Ok(self.0.slots.wait(who, to).await)
    }

    /// How long the destination has asked everybody to wait.
    pub fn pause_of(&self, to: &Destination) -> Option<Duration> {
        self.0.slots.pause_of(to)
    }

    /// Makes exactly one attempt, which ends within [`SenderConfig::timeout`]. `_slot` is the leave to make it, from
    /// [`Self::slot`] for the same destination.
    pub async fn send(
        &self,
        _slot: &Slot,
        destination: &Destination,
        outgoing: &Outgoing,
    ) -> Receipt {
        let proxied = self.0.proxied(destination);
        let started = Instant::now();
        let request = request(proxied.unwrap_or(&self.0.direct), destination, outgoing);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Receipt {
                    outcome: of_fault(&fault(&error, proxied.is_some())),
                    status: None,
                    latency: started.elapsed(),
                };
            }
        };
        let latency = started.elapsed();
        let status = answer.status();
        let body = match destination.kind {
            // The status has decided: nothing that befalls the body changes it.
            DestinationKind::Webhook => {
                let _ = tokio::time::timeout(DRAIN, beginning(&mut answer)).await;
                Ok(Vec::new())
            }
            DestinationKind::Slack => beginning(&mut answer).await,
        };
        let outcome = match body {
            // Without its body a success of Slack's is none, and may yet be one.
            Err(error) if status.is_success() => of_fault(&fault(&error, false)),
            body => {
                let retry_after = answer.headers().get(RETRY_AFTER).map(HeaderValue::as_bytes);
                let body = body.unwrap_or_default();
                of_answer(
                    destination.kind,
                    status.as_u16(),
                    retry_after,
                    &body,
                    Timestamp::now(),
                )
            }
        };
        if let Outcome::Retry {
            after: Some(after),
            reason: Reason::RateLimited,
            ..
        } = outcome
        {
            // "Too many" is meant for all who send there.
            self.0.slots.pause(destination, after);
        }
        Receipt {
            outcome,
            status: Some(status.as_u16()),
            latency,
        }
    }
}

impl HttpSender {
    /// Waits for a slot and makes one attempt.
    pub async fn deliver(&self, destination: &Destination, outgoing: &Outgoing) -> Receipt {
        let nobody = SendKey {
            namespace: "".into(),
            setting: "".into(),
        };
        match self.slot(&nobody, destination).await {
            Ok(slot) => self.send(&slot, destination, outgoing).await,
            Err(denied) => Receipt {
                outcome: denied.into(),
                status: None,
                latency: Duration::ZERO,
            },
        }
    }

    /// Whether a destination may be dialled, as far as that can be told without asking the DNS; `Err`: what opens it.
    pub fn permits(&self, to: &Destination) -> Result<(), String> {
        let proxied = self.0.proxied(to).is_some();
        self.0
            .permits(to, proxied)
            .map_err(|denied| denied.to_string())
    }
}

impl Inner {
    /// The client for the proxy that the destination is reached through, if any.
    fn proxied(&self, to: &Destination) -> Option<&Client> {
        let client = match to.expose_url().scheme() {
            "https" => self.https_proxy.as_ref(),
            _ => self.http_proxy.as_ref(),
        };
        client.filter(|_| !self.bypass.covers(&to.host(), to.port()))
    }

    /// What can be judged before the DNS. Literals in particular: the connector never shows them to the resolver.
    fn permits(&self, to: &Destination, proxied: bool) -> Result<(), Denied> {
        Guard::permits_port(to.port())?;
        if proxied {
            self.guard.permits_name(&to.host())
        } else {
            self.guard.permits_literal(&to.host())
        }
    }
}

fn request(client: &Client, to: &Destination, outgoing: &Outgoing) -> reqwest::RequestBuilder {
    let request = client
        .post(to.expose_url().clone())
        .header(CONTENT_TYPE, "application/json; charset=utf-8")
        .header(ACCEPT_ENCODING, "identity")
        .body(outgoing.body.clone());
    match to.kind {
        DestinationKind::Webhook => request
            .header("webhook-id", &outgoing.id)
            .header("webhook-timestamp", outgoing.timestamp.as_second()),
        DestinationKind::Slack => request,
    }
}

/// The first [`BODY`] bytes of an answer; more is never read, whatever its length.
async fn beginning(answer: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < BODY
        && let Some(chunk) = answer.chunk().await?
    {
        body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
