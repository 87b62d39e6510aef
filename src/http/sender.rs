#![expect(clippy::disallowed_methods, reason = "makes requests")]

//! The one outbound client. What leaves this process for a webhook or for Slack leaves here: guarded (addresses are judged
//! when they are dialled), bounded (time, size, number), and quiet (no URL and no body in any message).

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::info;
use url::Host;

use crate::http::{
    address_guard::{Denied, Guard},
    client::{Answer, Client, Reach, Way, is_https},
    connection::Body,
    destination::{Destination, DestinationKind, address},
    error::fault,
    resolver::{Lookups, ResolveFn, system_lookup},
    response::{ANSWER_READ, Fault, Outcome, Reason, of_answer, of_fault},
    slots::Slots,
};
pub use crate::http::{
    config::{ProxyConfig, SendError, SenderConfig, TIMEOUT},
    slots::Slot,
    turns::SendKey,
};

/// How long a webhook's body, which decides nothing, may hold up the next message. Reading it to its end lets the
/// connection be used again.
const DRAIN: Duration = Duration::from_secs(1);

/// One message, ready to be sent.
#[derive(Clone)]
pub struct Outgoing {
    /// The event's id, the same on each attempt: `webhook-id`.
    pub id: String,
    /// The JSON to send, the same on each attempt.
    pub body: Bytes,
    /// When this attempt is made: `webhook-timestamp`.
    pub timestamp: Timestamp,
    /// Whether it is sent again because somebody asked for it: `shipbell-replay`.
    pub replay: bool,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What to do now.
    pub outcome: Outcome,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The time from the request's start to the answer's head or to the fault. Waiting for a slot is not in it.
    pub latency: Duration,
}

/// Delivers messages. Clones share everything.
#[derive(Clone)]
pub struct HttpSender(Arc<Inner>);

struct Inner {
    config: SenderConfig,
    lookups: Lookups,
    client: RwLock<Arc<Client>>,
    slots: Slots,
}

impl HttpSender {
    /// Makes the client. Reads the system's CA certificates; a TLS provider must be installed.
    pub fn new(config: &SenderConfig) -> Result<Self, SendError> {
        Self::with_lookup(config, system_lookup())
    }

    fn with_lookup(config: &SenderConfig, lookup: ResolveFn) -> Result<Self, SendError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SendError::NoTlsProvider);
        }
        let lookups = Lookups::new(lookup);
        let client = Client::new(config, config.extra_ca_pem.as_deref(), &lookups)?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            lookups,
            client: RwLock::new(Arc::new(client)),
            slots: Slots::new(config.limits),
        })))
    }

    /// Trusts these certificates (PEM) instead of [`SenderConfig::extra_ca_pem`] from the next connection on, and reads
    /// the system's again. `Err`: nothing has changed.
    pub fn reload_extra_ca(&self, pem: &[u8]) -> Result<(), SendError> {
        let client = Client::new(&self.0.config, Some(pem), &self.0.lookups)?;
        let current = self.0.client.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        Ok(())
    }

    fn client(&self) -> Arc<Client> {
        let client = self.0.client.read();
        Arc::clone(&client.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a destination may be dialled for a setting of this namespace, as far as that can be told without asking the
    /// DNS.
    pub fn permits(&self, namespace: &str, to: &Destination) -> Result<(), Denied> {
        Guard::permits_port(to.port())?;
        let guard = self.0.config.guard.for_namespace(namespace);
        match self.client().is_proxied(to) {
            true => guard.permits_name(&to.host()),
            false => guard.permits_literal(&to.host()),
        }
    }

    /// Judges the addresses of a destination before it is asked for anything: an idle connection, or a proxy, would be used
    /// without a look at them. Returns those that were looked up.
    async fn judge(
        &self,
        namespace: &Arc<str>,
        to: &Destination,
        proxied: bool,
    ) -> Result<(Reach, Option<Arc<[SocketAddr]>>), Fault> {
        let all = &self.0.config.guard;
        let guard = all.for_namespace(namespace);
        let host = to.host();
        if let Some(ip) = address(&host) {
            return Ok((Reach::of(guard.is_internal(ip)), None));
        }
        let Host::Domain(name) = host else {
            return Ok((Reach::Public, None));
        };
        // Where nothing is opened, whatever is dialled directly is public.
        if !proxied && !all.opens_anything() {
            return Ok((Reach::Public, None));
        }
        let found = match proxied {
            true => self.0.lookups.resolve_if_known(name, namespace).await,
            false => self.0.lookups.resolve(name, namespace).await,
        };
        match found {
            Ok(found) => {
                guard.permits_all(name, &found).map_err(Fault::Denied)?;
                let internal = found.iter().any(|found| guard.is_internal(found.ip()));
                Ok((Reach::of(internal), Some(found)))
            }
            // A proxy may know the name.
            Err(_) if proxied => Ok((Reach::of(guard.opens_host(name)), None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a message of this setting may go to this destination: until the pause that the destination has asked
    /// for is over, its pace allows it, and there is room within the limits. Waits without limit; dropping the future
    /// gives the place up at once. `Err`: the operator's policy denies the destination, as far as that can be told
    /// without asking the DNS.
    pub async fn slot(&self, who: &SendKey, to: &Destination) -> Result<Slot, Denied> {
        self.permits(&who.namespace, to)?;
        Ok(self.0.slots.wait(who, to).await)
    }

    /// Makes exactly one attempt, which ends within [`SenderConfig::timeout`]. `slot`: the permission, from
    /// [`Self::slot`] for the same destination.
    pub async fn send(
        &self,
        slot: &Slot,
        destination: &Destination,
        outgoing: &Outgoing,
    ) -> Receipt {
        slot.sent();
        let client = self.client();
        let proxied = client.is_proxied(destination);
        let started = Instant::now();
        let failed = |fault: &Fault| Receipt {
            outcome: of_fault(fault),
            status: None,
            latency: started.elapsed(),
        };
        let namespace = Arc::clone(&slot.who().namespace);
        let judged = self.judge(&namespace, destination, proxied);
        let deadline = started + self.0.config.timeout;
        let (reach, addresses) = match timeout_at(deadline, judged).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(fault)) => return failed(&fault),
            Err(_) => return failed(&Fault::Dns),
        };
        let answer = match request(destination, outgoing) {
            Some(request) => {
                let way = Way {
                    namespace: &namespace,
                    to: destination,
                    reach,
                    addresses: addresses.as_deref(),
                };
                let answer = client.send(way, request);
                timeout_at(deadline, answer).await
            }
            None => Ok(Err(Fault::Protocol)),
        };
        let answer = match answer.unwrap_or(Err(Fault::Timeout)) {
            Ok(answer) => answer,
            Err(fault) => return reach.shown(slot.who(), failed(&fault)),
        };
        let latency = started.elapsed();
        let status = answer.response.status().as_u16();
        let outcome = match answer.response.status() {
            // Not the destination's own: it is asked by way of the proxy, not through a tunnel.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if proxied && !is_https(destination) => {
                of_fault(&Fault::ProxyCredentials)
            }
            _ => read(answer, destination.kind, deadline, &client).await,
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
        let receipt = Receipt {
            outcome,
            status: Some(status),
            latency,
        };
        reach.shown(slot.who(), receipt)
    }
}

impl Reach {
    fn of(internal: bool) -> Self {
        if internal {
            Self::Internal
        } else {
            Self::Public
        }
    }

    /// What the setting's owner is told: of an internal address no more than the class of the answer, or a setting would
    /// be a port scanner. The operator's log has the rest.
    fn shown(self, who: &SendKey, receipt: Receipt) -> Receipt {
        if self == Self::Public {
            return receipt;
        }
        if let Some(reason) = receipt.outcome.reason() {
            info!(
                namespace = &*who.namespace,
                setting = &*who.setting,
                reason = reason.as_str(),
                "a destination at an internal address failed: {}",
                receipt.outcome.message()
            );
        }
        let delivered = matches!(receipt.outcome, Outcome::Delivered { .. });
        Receipt {
            status: receipt.status.filter(|_| delivered).map(|_| 200),
            outcome: receipt.outcome.class_alone(),
            latency: receipt.latency,
        }
    }
}

/// What is sent, but for whom it is for. `None`: it can't be written.
fn request(to: &Destination, outgoing: &Outgoing) -> Option<Request<Body>> {
    let request = Request::builder()
        .method(Method::POST)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, "identity");
    let mut request = match to.kind {
        DestinationKind::Webhook => request
            .header("webhook-id", &outgoing.id)
            .header("webhook-timestamp", outgoing.timestamp.as_second()),
        DestinationKind::Slack => request,
    };
    if outgoing.replay {
        request = request.header("shipbell-replay", "true");
    }
    request.body(Body::new(outgoing.body.clone())).ok()
}

/// Reads what is needed of an answer, and says what it means.
async fn read(
    mut answer: Answer,
    kind: DestinationKind,
    deadline: Instant,
    client: &Client,
) -> Outcome {
    let head = &answer.response;
    let status = head.status();
    let retry_after = head.headers().get(RETRY_AFTER).cloned();
    let beginning = beginning(answer.response.body_mut());
    let (body, fault) = match kind {
        // The status has decided: nothing that happens to the body changes that.
        DestinationKind::Webhook => {
            let deadline = deadline.min(Instant::now() + DRAIN);
            let _ = timeout_at(deadline, beginning).await;
            (Vec::new(), None)
        }
        DestinationKind::Slack => timeout_at(deadline, beginning)
            .await
            .unwrap_or((Vec::new(), Some(Fault::Timeout))),
    };
    client.keep(answer, deadline).await;
    let retry_after = retry_after.as_ref().map(HeaderValue::as_bytes);
    let outcome = of_answer(kind, status.as_u16(), retry_after, &body, Timestamp::now());
    match fault {
        // Without its body a success of Slack's is none, and may yet be one; unless that begins as one: some servers end
        // the connection instead of the body.
        Some(fault) if status.is_success() && outcome != Outcome::DELIVERED => of_fault(&fault),
        _ => outcome,
    }
}

/// The first [`ANSWER_READ`] bytes of an answer, or those that came before this fault; more is never read, whatever its
/// length.
async fn beginning(body: &mut Incoming) -> (Vec<u8>, Option<Fault>) {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_READ
        && let Some(frame) = body.frame().await
    {
        match frame.as_ref().map(Frame::data_ref) {
            Ok(Some(chunk)) => {
                bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_READ - bytes.len())]);
            }
            Ok(None) => {}
            Err(error) => return (bytes, Some(fault(error))),
        }
    }
    (bytes, None)
}

#[cfg(test)]
mod tests;
