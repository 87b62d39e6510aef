#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "makes requests"
)]

//! The one outbound client. What leaves this process for a webhook or for Slack leaves here: guarded (addresses are judged
//! when they are dialled), bounded (time, size, number), and quiet (no URL and no body in any message).

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::{
    Client, Response,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use tokio::time::{Instant, timeout};
use tracing::info;
use url::Host;

use crate::http::{
    address_guard::{Denied, Guard},
    client::Clients,
    destination::{Destination, DestinationKind, address},
    error::fault,
    resolver::{LookupError, Lookups, NAMESPACE, ResolveFn, system_lookup},
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
    clients: RwLock<Arc<Clients>>,
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
        let clients = Clients::new(config, config.extra_ca_pem.as_deref(), &lookups)?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            lookups,
            clients: RwLock::new(Arc::new(clients)),
            slots: Slots::new(config.limits),
        })))
    }

    /// Trusts these certificates (PEM) instead of [`SenderConfig::extra_ca_pem`] from the next connection on, and reads
    /// the system's again. `Err`: nothing has changed.
    pub fn reload_extra_ca(&self, pem: &[u8]) -> Result<(), SendError> {
        let clients = Clients::new(&self.0.config, Some(pem), &self.0.lookups)?;
        let mut current = self
            .0
            .clients
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(clients);
        Ok(())
    }

    fn clients(&self) -> Arc<Clients> {
        let clients = self.0.clients.read();
        Arc::clone(&clients.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a destination may be dialled for a setting of this namespace, as far as that can be told without asking the
    /// DNS. Addresses in particular: the connector never shows them to the resolver.
    pub fn permits(&self, namespace: &str, to: &Destination) -> Result<(), Denied> {
        Guard::permits_port(to.port())?;
        let (_, proxied) = self.clients().way_to(to);
        let guard = self.0.config.guard.for_namespace(namespace);
        match proxied {
            true => guard.permits_name(&to.host()),
            false => guard.permits_literal(&to.host()),
        }
    }

    /// Judges the addresses of a destination before it is asked for anything: a connection that another namespace has
    /// opened, or a proxy, would be used without a look at them.
    async fn judge(
        &self,
        namespace: &Arc<str>,
        to: &Destination,
        proxied: bool,
    ) -> Result<Reach, Fault> {
        let all = &self.0.config.guard;
        let guard = all.for_namespace(namespace);
        let host = to.host();
        if let Some(ip) = address(&host) {
            return Ok(Reach::of(guard.is_internal(ip)));
        }
        let Host::Domain(name) = host else {
            return Ok(Reach::Public);
        };
        // Where nothing is opened, whatever is dialled directly is public.
        if !proxied && !all.opens_anything() {
            return Ok(Reach::Public);
        }
        let found = match proxied {
            true => self.0.lookups.resolve_if_known(name, namespace).await,
            false => self.0.lookups.resolve(name, namespace).await,
        };
        match found {
            Ok(found) => {
                let mut addresses = found.iter().map(std::net::SocketAddr::ip);
                let judged = addresses.try_for_each(|ip| guard.permits_ip(name, ip));
                judged.map_err(Fault::Denied)?;
                let internal = found.iter().any(|found| guard.is_internal(found.ip()));
                Ok(Reach::of(internal))
            }
            // A proxy may know the name.
            Err(_) if proxied => Ok(Reach::of(guard.opens_host(name))),
            Err(LookupError::NotFound) => Err(Fault::NameNotFound),
            Err(LookupError::Unavailable) => Err(Fault::Dns),
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
        let clients = self.clients();
        let (client, proxied) = clients.way_to(destination);
        let started = Instant::now();
        let failed = |fault: &Fault| Receipt {
            outcome: of_fault(fault),
            status: None,
            latency: started.elapsed(),
        };
        let namespace = Arc::clone(&slot.who().namespace);
        let judged = self.judge(&namespace, destination, proxied);
        let limit = self.0.config.timeout;
        let reach = match timeout(limit, judged).await {
            Ok(Ok(reach)) => reach,
            Ok(Err(fault)) => return failed(&fault),
            Err(_) => return failed(&Fault::Dns),
        };
        let request = request(client, destination, outgoing)
            .timeout(limit.saturating_sub(started.elapsed()))
            .send();
        let answer = match NAMESPACE.scope(namespace, request).await {
            Ok(answer) => answer,
            Err(error) => return reach.shown(slot.who(), failed(&fault(&error, proxied))),
        };
        let latency = started.elapsed();
        let status = answer.status().as_u16();
        let outcome = read(answer, destination.kind).await;
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

/// Where a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Public,
    /// At an address that is closed unless a flag opens it.
    Internal,
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

fn request(client: &Client, to: &Destination, outgoing: &Outgoing) -> reqwest::RequestBuilder {
    let request = client
        .post(to.expose_url().clone())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .body(outgoing.body.clone());
    match to.kind {
        DestinationKind::Webhook => request
            .header("webhook-id", &outgoing.id)
            .header("webhook-timestamp", outgoing.timestamp.as_second()),
        DestinationKind::Slack => request,
    }
}

/// Reads what is needed of an answer, and says what it means.
async fn read(mut answer: Response, kind: DestinationKind) -> Outcome {
    let status = answer.status();
    let body = match kind {
        // The status has decided: nothing that happens to the body changes that.
        DestinationKind::Webhook => {
            let _ = tokio::time::timeout(DRAIN, beginning(&mut answer)).await;
            Ok(Vec::new())
        }
        DestinationKind::Slack => beginning(&mut answer).await,
    };
    match body {
        // Without its body a success of Slack's is none, and may yet be one.
        Err(error) if status.is_success() => of_fault(&fault(&error, false)),
        body => {
            let retry_after = answer.headers().get(RETRY_AFTER).map(HeaderValue::as_bytes);
            let body = body.unwrap_or_default();
            of_answer(kind, status.as_u16(), retry_after, &body, Timestamp::now())
        }
    }
}

/// The first [`ANSWER_READ`] bytes of an answer; more is never read, whatever its length.
async fn beginning(answer: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < ANSWER_READ
        && let Some(chunk) = answer.chunk().await?
    {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_READ - body.len())]);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
