//! What went wrong, read from the HTTP library's errors. Nothing of their text is used: it may hold the URL.

use std::{error::Error as StdError, io};

use thiserror::Error;

use crate::http::{
    certificates::algorithm_name,
    response::{Fault, TlsProblem},
};

/// The other side has sent more than is read.
#[derive(Debug, Error)]
#[error("more was sent than is read")]
pub(super) struct SentTooMuch;

/// What the TLS library says when there are too many certificates.
pub(super) const LONG_CHAIN: &str = "too many certificates";

/// What went wrong with a request or its answer.
pub(super) fn fault(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() || causes(error).any(<dyn StdError>::is::<SentTooMuch>) {
        return Fault::LongHead;
    }
    tls_fault(error).unwrap_or_else(|| {
        let mut broken = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
        // A body that isn't well formed is such an error, too.
        let malformed = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData];
        let broke = broken.any(|error| !malformed.contains(&error.kind()));
        if broke || error.is_canceled() || error.is_incomplete_message() {
            Fault::Lost
        } else {
            Fault::Protocol
        }
    })
}

/// What went wrong with TLS, if it did.
pub(super) fn tls_fault(error: &(dyn StdError + 'static)) -> Option<Fault> {
    let error = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    error.map(|error| Fault::Tls(tls_problem(error)))
}

/// An error and its causes. An I/O error that wraps another shows that one's cause only, so its inside is taken.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| {
        let inner = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        inner
            .map(|inner| inner as &(dyn StdError + 'static))
            .or_else(|| cause.source())
    })
}

fn tls_problem(error: &rustls::Error) -> TlsProblem {
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
            Of::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: id,
                ..
            } => unsupported(&[id]),
            Of::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id,
                public_key_algorithm_id,
            } => unsupported(&[public_key_algorithm_id, signature_algorithm_id]),
            _ => TlsProblem::Other,
        },
        rustls::Error::AlertReceived(
            rustls::AlertDescription::CertificateRequired
            | rustls::AlertDescription::BadCertificate,
        ) => TlsProblem::ClientCertificate,
        rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure)
        | rustls::Error::PeerIncompatible(_) => TlsProblem::NothingInCommon,
        rustls::Error::General(text) if text == LONG_CHAIN => TlsProblem::TooLong,
        _ => TlsProblem::Other,
    }
}

fn unsupported(identifiers: &[&Vec<u8>]) -> TlsProblem {
    let name = identifiers.iter().find_map(|id| algorithm_name(id));
    TlsProblem::UnsupportedAlgorithm(name.unwrap_or("an algorithm"))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        pki_types::UnixTime,
    };

    use super::*;
    use crate::http::certificates::{CaBundle, P521};

    #[test]
    fn an_algorithm_that_is_not_supported_is_named() {
        let [authority, server] = CaBundle::read(P521.as_bytes())
            .certificates
            .try_into()
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let in_2040 = UnixTime::since_unix_epoch(Duration::from_secs(2_208_988_800));
        let name = "localhost".try_into().unwrap();
        let error = verifier
            .verify_server_cert(&server, &[], &name, &[], in_2040)
            .unwrap_err();
        let TlsProblem::UnsupportedAlgorithm(name) = tls_problem(&error) else {
            panic!("{error:?}");
        };
        assert!(name.contains("P-521"), "{name}");
    }
}
