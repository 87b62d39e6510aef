#![expect(clippy::disallowed_types, reason = "makes requests")]

//! Makes the HTTP library's clients: they do as little as possible by themselves, and dial only what the guard has seen.

use std::{sync::Arc, time::Duration};

use reqwest::{Certificate, Client, Proxy};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};

use crate::http::{
    config::{ProxyConfig, SendError, SenderConfig},
    error::causes,
    guard::Guard,
    resolver::{Lookups, Resolver},
};

/// How long a connection may take: DNS, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. A policy of the guard holds from the next connection on.
const IDLE: Duration = Duration::from_secs(90);
/// At most so many idle connections to one host are kept.
const IDLE_PER_HOST: usize = 32;

/// One client for each way to a destination.
pub(super) struct Clients {
    pub(super) direct: Client,
    pub(super) https_proxy: Option<Client>,
    pub(super) http_proxy: Option<Client>,
}

impl Clients {
    /// Reads the system's CA certificates; `extra_cas` are trusted besides.
    pub(super) fn new(
        config: &SenderConfig,
        extra_cas: &[CertificateDer<'static>],
        guard: &Arc<Guard>,
        lookups: &Lookups,
    ) -> Result<Self, SendError> {
        let resolver = |guard| Resolver {
            guard,
            lookups: lookups.clone(),
        };
        // All that is given to this client goes through its proxy, so the proxy's is the only name that it resolves.
        let through = |proxy: &Option<SecretString>, name| match proxy {
            None => Ok(None),
            Some(url) => {
                let proxy = parse_proxy(url).ok_or(SendError::BadProxy(name))?;
                client(config, extra_cas, resolver(None), Some(proxy)).map(Some)
            }
        };
        let none = ProxyConfig::default();
        let proxies = config.proxy.as_ref().unwrap_or(&none);
        let guarded = resolver(Some(Arc::clone(guard)));
        Ok(Self {
            direct: client(config, extra_cas, guarded, None)?,
            https_proxy: through(&proxies.https, "HTTPS_PROXY")?,
            http_proxy: through(&proxies.http, "HTTP_PROXY")?,
        })
    }
}

/// A client that dials directly, or through `proxy` alone.
fn client(
    config: &SenderConfig,
    extra_cas: &[CertificateDer<'static>],
    resolver: Resolver,
    proxy: Option<Proxy>,
) -> Result<Client, SendError> {
    let extra_cas = extra_cas
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| SendError::BadCa)?;
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
        .user_agent(&config.user_agent)
        .tls_certs_merge(extra_cas);
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
fn parse_proxy(url: &SecretString) -> Option<Proxy> {
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
