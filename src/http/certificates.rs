//! Reads a bundle of CA certificates as people put it together: glued without a newline, indented, with comments, a few
//! of them unusable. The good ones are used and the others named: one bad certificate of many must not cost the rest.
//! (The readers of the TLS library stop at the first bad one and lose what is glued to another.)

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{RootCertStore, pki_types::CertificateDer};

/// What a bundle holds.
#[derive(Debug, Default)]
pub(super) struct CaBundle {
    /// What can be trusted.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// What is wrong, each a sentence that names the certificate.
    pub(super) problems: Vec<String>,
}

impl CaBundle {
    /// Reads PEM text.
    pub(super) fn read(pem: &[u8]) -> Self {
        let text = String::from_utf8_lossy(pem);
        let mut bundle = Self::default();
        for (index, (start, begun)) in text.match_indices(BEGIN).enumerate() {
            let line = text[..start].bytes().filter(|b| *b == b'\n').count() + 1;
            let rest = &text[start + begun.len()..];
            // What has no end of its own ends where the next one begins.
            let block = rest.find(BEGIN).map_or(rest, |next| &rest[..next]);
            if let Err(problem) = bundle.add(block) {
                let number = index + 1;
                bundle
                    .problems
                    .push(format!("certificate {number} (line {line}) {problem}"));
            }
        }
        bundle
    }

    /// Adds what follows a [`BEGIN`].
    fn add(&mut self, block: &str) -> Result<(), String> {
        let (label, block) = block
            .split_once("-----")
            .ok_or("has a first line without an end")?;
        if !["CERTIFICATE", "X509 CERTIFICATE"].contains(&label) {
            return Err("is of another kind than CERTIFICATE and is not used".to_owned());
        }
        let (text, _) = block
            .split_once(&format!("-----END {label}-----"))
            .ok_or("has no END line and is not used")?;
        let text: String = text.split_whitespace().collect();
        let der = STANDARD
            .decode(text)
            .map_err(|_| "is not base64 and is not used")?;
        let der = CertificateDer::from(der);
        let mut store = RootCertStore::empty();
        store
            .add(der.clone())
            .map_err(|_| "is malformed and is not used")?;
        self.certificates.push(der);
        let key = &store.roots[0].subject_public_key_info;
        match supported(key) {
            true => Ok(()),
            // Trusted all the same, so that a setting's status can name the algorithm instead of a missing authority.
            false => Err(format!(
                "has a key of {}, which is not supported: no destination can be verified by it",
                algorithm_name(key).unwrap_or("an unknown kind"),
            )),
        }
    }
}

const BEGIN: &str = "-----BEGIN ";

/// Object identifiers as they stand in a certificate, with tag and length.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";

/// Algorithms that are not supported, and what people call them; the first that is found names it.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (b"\x2b\x81\x04\x00\x23", "P-521"),
    (b"\x2b\x81\x04\x00\x0a", "secp256k1"),
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01", "Brainpool"),
    (b"\x2b\x65\x71", "Ed448"),
    (b"\x2a\x86\x48\xce\x38\x04", "DSA"),
    (
        b"\x2a\x86\x48\xce\x3d\x04\x03\x04",
        "ECDSA with SHA-512 (as with keys of P-521)",
    ),
    (b"\x2a\x86\x48\xce\x3d\x04\x01", "ECDSA with SHA-1"),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", "RSA with SHA-1"),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", "RSA with MD5"),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a", "RSA-PSS"),
    (
        b"\x60\x86\x48\x01\x65\x03\x04\x03",
        "ML-DSA or another algorithm of NIST",
    ),
];

fn supported(key: &[u8]) -> bool {
    [RSA, P256, P384, ED25519]
        .iter()
        .any(|known| contains(head(key), known))
}

/// The name of an algorithm that is not supported, from its identifier.
pub(super) fn algorithm_name(identifier: &[u8]) -> Option<&'static str> {
    UNSUPPORTED
        .iter()
        .find(|(oid, _)| contains(head(identifier), oid))
        .map(|(_, name)| *name)
}

/// The beginning of a key's information, which names the algorithm; the key itself, which may hold any bytes, follows.
fn head(key: &[u8]) -> &[u8] {
    match key {
        [0x30, length @ 0..0x80, ..] => key.get(..2 + usize::from(*length)).unwrap_or(key),
        _ => key,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A CA with a key of P-521 and a server's certificate that it signed.
#[cfg(test)]
pub(super) const P521: &str = include_str!("certificates/p521.pem");

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::{collection::vec, prelude::*, sample::select};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::simulation::testing::reader_tries;

    fn ca(name: &str) -> String {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    /// The same each time: a key takes long to make.
    fn one() -> String {
        static ONE: OnceLock<String> = OnceLock::new();
        ONE.get_or_init(|| ca("one")).clone()
    }

    fn read(pem: &str) -> (usize, Vec<String>) {
        let bundle = CaBundle::read(pem.as_bytes());
        (bundle.certificates.len(), bundle.problems)
    }

    #[test]
    fn a_bundle_is_read_however_it_was_put_together() {
        let (a, b) = (ca("a"), ca("b"));
        let indented = format!("\n{a}{b}").replace('\n', "\n    ");
        for pem in [
            format!("{a}{b}"),
            // Glued: `cat` of a file without a last newline.
            format!("{}{}", a.trim_end(), b.trim_end()),
            format!("{a}{b}").replace('\n', "\r\n"),
            format!("\u{feff}# ours\n{a}\nissuer: b\n{b} end"),
            indented,
            format!("{a}{b}").replace("CERTIFICATE", "X509 CERTIFICATE"),
        ] {
            assert_eq!(read(&pem), (2, vec![]), "{pem}");
        }
    }

    #[test]
    fn a_bad_certificate_costs_none_of_the_others_and_is_named() {
        let mut pems: Vec<_> = (0..140).map(|n| ca(&n.to_string())).collect();
        let lines: usize = pems[..70].iter().map(|pem| pem.lines().count()).sum();
        pems[70] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let (good, problems) = read(&pems.concat());
        assert_eq!(good, 139);
        let line = lines + 1;
        let problem = format!("certificate 71 (line {line}) is malformed and is not used");
        assert_eq!(problems, [problem]);
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let good = ca("good");
        for (bad, problem) in [
            ("-----BEGIN CERTIFICATE-----\nMIIB\n", "has no END line"),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                "is not base64",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "is of another kind",
            ),
            ("-----BEGIN CERT", "has a first line without an end"),
        ] {
            for pem in [format!("{good}{bad}"), format!("{bad}\n{good}")] {
                let (count, problems) = read(&pem);
                assert_eq!((count, problems.len()), (1, 1), "{pem}");
                assert!(problems[0].contains(problem), "{problems:?}");
            }
        }
        assert_eq!(read(""), (0, vec![]));
        assert_eq!(read("nonsense"), (0, vec![]));
    }

    #[test]
    fn an_algorithm_that_is_not_supported_is_named() {
        let (count, problems) = read(&format!("{P521}{}", ca("a")));
        assert_eq!(count, 3);
        let problem = "certificate 1 (line 1) has a key of P-521, which is not supported: no destination can be verified by it";
        assert_eq!(problems, [problem]);
    }

    /// Parts of a bundle, and what people and editors do to them.
    fn piece() -> impl Strategy<Value = String> {
        let parts = vec![
            "-----BEGIN CERTIFICATE-----",
            "-----END CERTIFICATE-----",
            "-----BEGIN X509 CERTIFICATE-----",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN ",
            "-----",
            "\n",
            "\r\n",
            "\u{feff}",
            "MIIB",
            "====",
            "\u{e9}",
            "\0",
        ];
        prop_oneof![
            6 => select(parts).prop_map(str::to_owned),
            2 => Just(one()),
            // A certificate with other bytes.
            2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
                let pem = one();
                let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
                let mut der = STANDARD.decode(body).unwrap();
                let at = at.index(der.len());
                der[at] = byte;
                let text = STANDARD.encode(der);
                format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
            }),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(reader_tries())]

        #[test]
        fn whatever_a_bundle_holds_each_certificate_is_used_or_named(
            pieces in vec(piece(), 0..12), bytes in vec(any::<u8>(), 0..8),
        ) {
            let mut pem = pieces.concat().into_bytes();
            pem.extend(bytes);
            let bundle = CaBundle::read(&pem);
            let begun = String::from_utf8_lossy(&pem).matches(BEGIN).count();
            prop_assert!(bundle.certificates.len() <= begun && bundle.problems.len() <= begun);
            prop_assert!(bundle.certificates.len() + bundle.problems.len() >= begun);
            for problem in &bundle.problems {
                prop_assert!(problem.len() < 200, "{}", problem);
            }
        }
    }
}
