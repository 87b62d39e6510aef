//! What went wrong, read from the HTTP library's errors. Nothing of their text is used: it may hold the URL.

use std::error::Error as StdError;

use crate::http::{
    client::Unresolved,
    guard::Denied,
    outcome::{Fault, TlsProblem},
};

/// What went wrong, told from the chain of causes.
pub(super) fn fault(error: &reqwest::Error, proxied: bool) -> Fault {
    for link in links(error) {
        if let Some(denied) = link.downcast_ref::<Denied>() {
            return Fault::Denied(denied.clone());
        }
        if let Some(error) = link.downcast_ref::<rustls::Error>() {
            return Fault::Tls(distrust(error));
        }
        if link.is::<Unresolved>() {
            return if proxied { Fault::Proxy } else { Fault::Dns };
        }
    }
    if error.is_timeout() {
        Fault::Timeout
    } else if error.is_connect() {
        if proxied {
            Fault::Proxy
        } else {
            Fault::Connect
        }
    } else if links(error).any(<dyn StdError>::is::<std::io::Error>) {
        Fault::Lost
    } else {
        Fault::Protocol
    }
}

/// An error and its causes. An I/O error that wraps another shows that one's cause only, so its inside is taken.
pub(super) fn links(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |&link| {
        let inner = link
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        inner
            .map(|inner| inner as &(dyn StdError + 'static))
            .or_else(|| link.source())
    })
}

fn distrust(error: &rustls::Error) -> TlsProblem {
    use rustls::CertificateError as Of;
    match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            Of::UnknownIssuer => TlsProblem::UnknownAuthority,
            Of::Expired | Of::ExpiredContext { .. } => TlsProblem::Expired,
            Of::NotValidYet | Of::NotValidYetContext { .. } => TlsProblem::NotYetValid,
            Of::NotValidForName | Of::NotValidForNameContext { .. } => TlsProblem::OtherHost,
            // A type of the verifier's own, which it doesn't export.
            Of::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                TlsProblem::AuthorityItself
            }
            _ => TlsProblem::Other,
        },
        _ => TlsProblem::Other,
    }
}
