#![expect(clippy::disallowed_types, reason = "makes requests")]

//! How the HTTP library is told to do as little as possible, and to dial only what the guard has seen.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Certificate, Client, Proxy,
    dns::{Addrs, Name, Resolve, Resolving},
};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::http::{
    error::links,
    guard::Guard,
    sender::{SendError, SenderConfig},
};

/// The time for a connection: DNS, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. A policy of the guard holds from the next connection on.
const IDLE: Duration = Duration::from_secs(90);
/// Queries to the DNS at once. Each takes a thread until the system's resolver gives up, even when nobody waits any more.
pub(super) const LOOKUPS: usize = 64;

/// A client that dials directly, or through `proxy` alone.
pub(super) fn client(
    config: &SenderConfig,
    resolver: Resolver,
    proxy: Option<Proxy>,
) -> Result<Client, SendError> {
    let mut builder = Client::builder()
        // Else the environment decides; and a redirect may lead anywhere, with the body and its signature.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(resolver))
        .connect_timeout(CONNECT.min(config.timeout))
        .timeout(config.timeout)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(config.per_destination)
        .user_agent(&config.user_agent);
    if let Some(pem) = &config.extra_ca_pem {
        let extra = Certificate::from_pem_bundle(pem).map_err(|_| SendError::BadCa)?;
        if extra.is_empty() {
            return Err(SendError::BadCa);
        }
        builder = builder.tls_certs_merge(extra);
    }
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| {
        let tls = links(&error).find_map(|link| link.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::General(text)) if text.starts_with("No CA certificates") => {
                SendError::NoRoots
            }
            // Else a certificate of ours: the system's malformed ones are passed over.
            Some(_) if config.extra_ca_pem.is_some() => SendError::BadCa,
            _ => SendError::Client(error.without_url().to_string()),
        }
    })
}

/// A proxy's URL as people write it: `proxy:3128` is `http://proxy:3128`.
pub(super) fn parse_proxy(url: &SecretString) -> Option<Proxy> {
    let text = url.expose_secret().trim();
    let url = if text.contains("://") {
        text.parse::<url::Url>()
    } else {
        format!("http://{text}").parse()
    };
    let url = url
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Proxy::all(url).ok()
}

/// Resolves names and vets the very addresses that are dialled next: to ask twice is to be told something else.
pub(super) struct Resolver {
    /// `None`: for a proxy's name, which the operator's own flags give.
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) lookups: Arc<Semaphore>,
}

/// A name has no address.
#[derive(Debug, Error)]
#[error("the name could not be resolved")]
pub(super) struct Unresolved;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookups) = (self.guard.clone(), Arc::clone(&self.lookups));
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let place = lookups.acquire_owned().await?;
            // Port 0 means that the URL's counts.
            let query = (host.clone(), 0);
            let answer = tokio::task::spawn_blocking(move || {
                // The place is given back when the thread is, not when the one who asked has given up.
                let _place = place;
                query.to_socket_addrs()
            });
            let found: Vec<SocketAddr> = answer.await?.map_err(|_| Unresolved)?.collect();
            if found.is_empty() {
                return Err(Unresolved.into());
            }
            // One bad address fails the name: which of them is dialled is not ours to choose.
            if let Some(guard) = guard {
                found
                    .iter()
                    .try_for_each(|found| guard.permits_ip(&host, found.ip()))?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
