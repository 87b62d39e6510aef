//! How to send, and why nothing can be sent at all.

use std::time::Duration;

use secrecy::SecretString;
use thiserror::Error;

use crate::http::guard::Guard;

/// The default of [`SenderConfig::timeout`]. It must stay well below the time between the last renewal of a lease and its end:
/// a leader that has lost its lease may still have a request under way.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The default of [`SenderConfig::per_destination`].
const PER_DESTINATION: usize = 8;
/// The default of [`SenderConfig::per_setting`].
const PER_SETTING: usize = 8;
/// The default of [`SenderConfig::per_namespace`].
const PER_NAMESPACE: usize = 128;
/// The default of [`SenderConfig::total`]. A request takes some 40 KiB, a few times that with TLS.
const TOTAL: usize = 512;

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
    /// Requests at once to one URL.
    pub per_destination: usize,
    /// Requests at once of one setting.
    pub per_setting: usize,
    /// Requests at once of the settings of one namespace: half for quick destinations, half for slow ones.
    pub per_namespace: usize,
    /// Requests at once in all: half for quick destinations, half for slow ones.
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
            per_setting: PER_SETTING,
            per_namespace: PER_NAMESPACE,
            total: TOTAL,
            user_agent: concat!("shipbell/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The proxies of the outbound side. Their URLs may hold credentials.
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
pub enum SendError {
    /// The program must install its TLS provider first.
    #[error("no TLS provider is installed; this is a defect of the program")]
    NoTlsProvider,
    /// The system has no certificates of authorities.
    #[error(
        "no CA certificates were found on this system; install a CA bundle, or name one in SSL_CERT_FILE, or give one to the operator"
    )]
    NoRoots,
    /// [`SenderConfig::extra_ca_pem`] holds nothing that can be used.
    #[error(
        "the extra CA bundle holds no certificate that can be used; give certificates in PEM form"
    )]
    BadCa,
    /// A URL of [`SenderConfig::proxy`] is malformed.
    #[error("{0} is no URL of a proxy; give one such as http://proxy.example:3128")]
    BadProxy(&'static str),
    /// Anything else.
    #[error("the HTTP client could not be made: {0}")]
    Client(String),
}
