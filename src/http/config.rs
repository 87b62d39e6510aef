//! How to send, and why nothing can be sent at all.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use thiserror::Error;

use crate::http::{address_guard::Guard, turns::Limits};

/// The default of [`SenderConfig::timeout`]. It must stay below the time that a program that is told to stop has for the
/// requests under way. A leader that loses its Lease drops them.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The default of [`SenderConfig::limits`]. A request takes some 40 KiB, a few times that with TLS.
const LIMITS: Limits = Limits {
    per_destination: 8,
    per_setting: 8,
    per_namespace: 128,
    total: 512,
};

/// How to send.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Which addresses may be dialled.
    pub guard: Arc<Guard>,
    /// Certificates (PEM, any number) of authorities that are trusted besides the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// Proxies; the environment's don't count.
    pub proxy: ProxyConfig,
    /// The time for one attempt from the first byte of the DNS query to the last that is read of the answer.
    pub timeout: Duration,
    /// Requests at once.
    pub(super) limits: Limits,
}

impl SenderConfig {
    /// The defaults, with this guard.
    pub fn new(guard: Guard) -> Self {
        Self {
            guard: Arc::new(guard),
            extra_ca_pem: None,
            proxy: ProxyConfig::default(),
            timeout: TIMEOUT,
            limits: LIMITS,
        }
    }
}

/// The proxies of the outbound side; without any, destinations are dialled directly. URLs may hold credentials, and empty
/// ones count as none.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// The proxy for https destinations, `HTTPS_PROXY`.
    pub https: Option<SecretString>,
    /// The proxy for http destinations, `HTTP_PROXY`.
    pub http: Option<SecretString>,
    /// What is dialled directly, `NO_PROXY`: a list, separated by commas, of names (`example.com` and `.example.com` mean
    /// that domain and all below it), addresses, address ranges, each but the last with an optional port; or `*`.
    pub no_proxy: String,
}

/// Why nothing can be sent at all.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum SendError {
    #[error("no TLS provider is installed; this is a defect of the program")]
    NoTlsProvider,
    #[error(
        "no CA certificates were found on this system; install a CA bundle, or name one in SSL_CERT_FILE, or give one to the operator"
    )]
    NoRoots,
    #[error(
        "the extra CA bundle holds no certificate that can be used; give certificates in PEM form"
    )]
    BadCa,
    #[error("{0} is not the URL of a proxy; give one such as http://proxy.example:3128")]
    BadProxy(&'static str),
}
