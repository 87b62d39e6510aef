#![expect(clippy::disallowed_types, reason = "makes requests")]

//! Makes the HTTP library's clients: they do as little as possible by themselves, and dial only what the guard has seen.

use std::{sync::Arc, time::Duration};

use reqwest::{Certificate, Client, Proxy};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::warn;

use crate::http::{
    certificates::CaBundle,
    config::{SendError, SenderConfig},
    destination::Destination,
    error::causes,
    proxy::NoProxy,
    resolver::{Lookups, Resolver},
};

/// How long a connection may take: DNS, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. A policy of the guard holds from the next connection on.
const IDLE: Duration = Duration::from_secs(90);
/// At most so many idle connections to one host are kept.
const IDLE_PER_HOST: usize = 32;

const USER_AGENT: &str = concat!("shipbell/", env!("CARGO_PKG_VERSION"));
/// At most so many certificates that have a problem are named in the log.
const PROBLEMS: usize = 20;

/// One client for each way to a destination.
pub(super) struct Clients {
    direct: Client,
    https_proxy: Option<Client>,
    http_proxy: Option<Client>,
    bypass: NoProxy,
}

impl Clients {
    /// Reads the system's CA certificates; those of `extra_ca_pem` are trusted besides.
    pub(super) fn new(
        config: &SenderConfig,
        extra_ca_pem: Option<&[u8]>,
        lookups: &Lookups,
    ) -> Result<Self, SendError> {
        let extra_cas = extra_cas(extra_ca_pem)?;
        let client = |guard, proxy| {
            let lookups = lookups.clone();
            client(config, &extra_cas, Resolver { guard, lookups }, proxy)
        };
        // All that is given to this client goes through its proxy, so the proxy's is the only name that it resolves.
        let through = |url: &Option<SecretString>, name| {
            let url = url.as_ref().map(|url| url.expose_secret().trim());
            let Some(url) = url.filter(|url| !url.is_empty()) else {
                return Ok(None);
            };
            let proxy = parse_proxy(url).ok_or(SendError::BadProxy(name))?;
            client(None, Some(proxy)).map(Some)
        };
        Ok(Self {
            direct: client(Some(Arc::clone(&config.guard)), None)?,
            https_proxy: through(&config.proxy.https, "HTTPS_PROXY")?,
            http_proxy: through(&config.proxy.http, "HTTP_PROXY")?,
            bypass: NoProxy::parse(&config.proxy.no_proxy),
        })
    }

    /// The client for a destination, and whether it leads through a proxy.
    pub(super) fn way_to(&self, to: &Destination) -> (&Client, bool) {
        let proxy = match to.expose_url().scheme() {
            "https" => &self.https_proxy,
            _ => &self.http_proxy,
        };
        match proxy {
            Some(client) if !self.bypass.covers(&to.host(), to.port()) => (client, true),
            _ => (&self.direct, false),
        }
    }
}

/// The certificates of a bundle that can be used; the log names the others.
fn extra_cas(pem: Option<&[u8]>) -> Result<Vec<Certificate>, SendError> {
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
    let certificates = bundle.certificates.iter();
    certificates
        .map(|der| Certificate::from_der(der).map_err(|_| SendError::BadCa))
        .collect()
}

/// A client that dials directly, or through `proxy` alone.
fn client(
    config: &SenderConfig,
    extra_cas: &[Certificate],
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
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .user_agent(USER_AGENT)
        .tls_certs_merge(extra_cas.iter().cloned());
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| {
        let tls = causes(&error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::General(text)) if text.starts_with("No CA certificates") => {
                SendError::NoRoots
            }
            // The system's malformed certificates are passed over.
            Some(_) => SendError::BadCa,
            None => SendError::Client(error.without_url().to_string()),
        }
    })
}

/// A proxy's URL as people write it: `proxy:3128` is `http://proxy:3128`.
fn parse_proxy(text: &str) -> Option<Proxy> {
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
