//! Where messages go: one URL, parsed once. The URL is the secret (whoever holds a Slack hook can post), so nothing
//! here prints more of it than scheme, host and port, and no error holds any of it.

use std::{fmt, net::IpAddr, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use secrecy::{
    ExposeSecret as _, SecretBox,
    zeroize::{Zeroize, Zeroizing},
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use url::{Host, Url};

/// The longest URL that is taken, in bytes. Slack's hooks have about 80; many servers refuse request lines above 8 KiB.
const MAX_URL: usize = 4096;

/// What a destination understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationKind {
    /// JSON by POST, judged by the status of the answer.
    Webhook,
    /// A Slack incoming webhook, judged by the body of the answer.
    Slack,
}

impl DestinationKind {
    /// Its name, as in `status.destination`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "Webhook",
            Self::Slack => "Slack",
        }
    }
}

/// Where to send. Cheap to clone; the URL is wiped from memory with the last clone.
#[derive(Clone)]
pub struct Destination {
    /// What it understands.
    pub kind: DestinationKind,
    url: Arc<SecretBox<SecretUrl>>,
    key: [u8; 32],
}

/// Why a text is no destination. Each message names the problem and the cure; none holds any part of the text, which is
/// a secret even when it is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum BadUrl {
    #[error("the URL is empty; store the complete URL under the key that the setting names")]
    Empty,
    #[error(
        "the URL is not UTF-8 text; store it as plain text (a Secret's `data` takes its base64, `stringData` the text itself)"
    )]
    NotText,
    #[error(
        "the URL is longer than {MAX_URL} bytes; store nothing but the URL under the key that the setting names"
    )]
    TooLong,
    #[error("the URL is UTF-16 text, as some tools on Windows write it; store it as UTF-8")]
    Utf16,
    #[error(
        "the URL holds an invisible character (U+{0:04X}); type it again, or copy it from where the receiver shows it"
    )]
    Invisible(u32),
    #[error("the URL is in quotes or brackets; store it without them")]
    Quoted,
    #[error(
        "this looks like base64 of a URL, so it was encoded once too often; store the URL itself under `stringData`, or its base64 under `data`"
    )]
    Base64,
    /// White space or a control character inside. A URL parser drops some of these in silence: that would be another URL.
    #[error(
        "the URL has white space or a control character inside; store it on one line, without quotes or blanks"
    )]
    WhiteSpace,
    #[error("this is not a URL ({0}); store a complete one, such as https://example.com/hook")]
    Malformed(url::ParseError),
    #[error("the URL's scheme is neither https nor http; use one that starts with https://")]
    Scheme,
    /// `user:password@`, which a reader takes for the host, and which proxies and servers log.
    #[error(
        "the URL holds a user name or password before the host; remove everything up to the @, and put a secret into the path or the query"
    )]
    UserInfo,
    #[error("the URL names port 0; name the receiver's port, or none")]
    Port,
    #[error("the URL's host name is longer than 253 characters, so there is none of that name")]
    LongHost,
    #[error(
        "a Slack URL must start with https://: whoever reads it on the way can post to the channel"
    )]
    PlainSlack,
    #[error(
        "this is a Workflow Builder trigger of Slack, not an incoming webhook; create an incoming webhook, whose path starts with /services/"
    )]
    SlackWorkflow,
    #[error(
        "this is an incoming webhook of Slack, which takes only Slack's own messages; use it under spec.slack instead of spec.webhook"
    )]
    SlackAsWebhook,
}

impl Destination {
    /// Reads the value of a Secret's key, as [`Self::parse`] does.
    pub(crate) fn parse_bytes(kind: DestinationKind, bytes: &[u8]) -> Result<Self, BadUrl> {
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(BadUrl::Utf16);
        }
        Self::parse(kind, str::from_utf8(bytes).map_err(|_| BadUrl::NotText)?)
    }

    /// Reads a URL. White space and invisible characters around it are dropped, as an editor's last newline or its byte
    /// order mark are no error; so is a fragment.
    pub fn parse(kind: DestinationKind, text: &str) -> Result<Self, BadUrl> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
        if text.is_empty() {
            return Err(BadUrl::Empty);
        }
        if text.len() > MAX_URL {
            return Err(BadUrl::TooLong);
        }
        if is_quoted(text) {
            return Err(BadUrl::Quoted);
        }
        if is_base64_of_url(text) {
            return Err(BadUrl::Base64);
        }
        if let Some(c) = text.chars().find(|c| is_invisible(*c)) {
            return Err(BadUrl::Invisible(c.into()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(BadUrl::WhiteSpace);
        }
        let mut url = Url::parse(text).map_err(BadUrl::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadUrl::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadUrl::UserInfo);
        }
        if url.port() == Some(0) {
            return Err(BadUrl::Port);
        }
        // RFC 1035 §2.3.4; the dot at the end does not count.
        let host = url.host_str().unwrap_or_default();
        if host.strip_suffix('.').unwrap_or(host).len() > 253 {
            return Err(BadUrl::LongHost);
        }
        // The HTTP library has a parser of its own: what it can't read could never be sent.
        if url.as_str().parse::<http::Uri>().is_err() {
            return Err(BadUrl::Malformed(url::ParseError::InvalidDomainCharacter));
        }
        of_slack(kind, &url)?;
        url.set_fragment(None);
        let key = Sha256::digest(url.as_str()).into();
        let url = Arc::new(SecretBox::new(Box::new(SecretUrl(url))));
        Ok(Self { kind, url, key })
    }

    /// The URL itself, for the one who sends. Never print it.
    pub(crate) fn expose_url(&self) -> &Url {
        &self.url.expose_secret().0
    }

    /// What the URL's host is: the one decision on it, made by the parser of the URL that is dialled.
    pub(crate) fn host(&self) -> Host<&str> {
        // Both schemes need a host, so the parser has refused any URL without one.
        self.expose_url().host().unwrap_or(Host::Domain(""))
    }

    /// The port that is dialled.
    pub(crate) fn port(&self) -> u16 {
        self.expose_url().port_or_known_default().unwrap_or(0)
    }

    /// Sha256 of the URL: tells destinations apart for pacing. For memory only: it must never be stored or printed, as
    /// a guess at the URL could be checked against it.
    pub(crate) const fn key(&self) -> [u8; 32] {
        self.key
    }

    /// `host` or `host:port`, as much as may be shown.
    pub(crate) fn host_for_people(&self) -> String {
        let port = self.expose_url().port();
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        format!("{}{port}", self.host())
    }
}

/// Characters that show nothing and are no white space: joiners, marks of direction and order, fillers, selectors, tags.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a text is in quotes or brackets, or has lost one of the two.
fn is_quoted(text: &str) -> bool {
    const OPEN: &[char] = &[
        '"', '\'', '`', '<', '(', '[', '{', '“', '”', '„', '‘', '’', '‚', '«', '»', '‹', '›',
    ];
    const CLOSE: &[char] = &['"', '\'', '`', '>', '“', '”', '‘', '’', '«', '»', '‹', '›'];
    text.starts_with(OPEN) || text.ends_with(CLOSE)
}

/// Whether a text is the base64 of a URL, in one line or several.
fn is_base64_of_url(text: &str) -> bool {
    let text: String = text.split_whitespace().collect();
    let text = text.trim_end_matches('=');
    [STANDARD_NO_PAD, URL_SAFE_NO_PAD].iter().any(|base64| {
        base64.decode(text).is_ok_and(|bytes| {
            let bytes = bytes.trim_ascii_start().to_ascii_lowercase();
            bytes.starts_with(b"https://") || bytes.starts_with(b"http://")
        })
    })
}

/// Slack's own demands on a URL, and those on a URL of Slack's.
fn of_slack(kind: DestinationKind, url: &Url) -> Result<(), BadUrl> {
    let at_slack = url.host_str().is_some_and(|host| {
        let host = host.strip_suffix('.').unwrap_or(host);
        ["slack.com", "slack-gov.com"].iter().any(|domain| {
            host.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    });
    let address = url.host().and_then(|host| address(&host));
    let is_loopback = address.is_some_and(|ip| ip.is_loopback());
    let path = url.path();
    match kind {
        DestinationKind::Webhook if at_slack && path.starts_with("/services/") => {
            Err(BadUrl::SlackAsWebhook)
        }
        DestinationKind::Slack
            if at_slack && (path.starts_with("/triggers/") || path.starts_with("/workflows/")) =>
        {
            Err(BadUrl::SlackWorkflow)
        }
        // A test's receiver is an address of this machine, written as such.
        DestinationKind::Slack if url.scheme() == "http" && !is_loopback => Err(BadUrl::PlainSlack),
        DestinationKind::Webhook | DestinationKind::Slack => Ok(()),
    }
}

/// The address that a host is, if it is one.
pub(super) fn address<S>(host: &Host<S>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(ip) => Some((*ip).into()),
        Host::Ipv6(ip) => Some((*ip).into()),
        Host::Domain(_) => None,
    }
}

/// As much as may be shown: `scheme://host[:port]`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.expose_url().scheme();
        write!(f, "{scheme}://{}", self.host_for_people())
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({} {self})", self.kind.as_str())
    }
}

/// Two destinations are the same if kind and URL are.
impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.key) == (other.kind, other.key)
    }
}

impl Eq for Destination {}

struct SecretUrl(Url);

impl Zeroize for SecretUrl {
    fn zeroize(&mut self) {
        // A `Url` can't be wiped in place; its text can, once taken out. Parsing this constant can't fail.
        if let Ok(empty) = Url::parse("data:") {
            drop(Zeroizing::new(String::from(std::mem::replace(
                &mut self.0,
                empty,
            ))));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};
    use url::ParseError;

    use super::*;

    /// The bytes of a Secret: parts of URLs, and anything else.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = select(vec![
            "https://",
            "http://",
            "HTTPS://",
            "hooks.slack.com",
            "/services/T/B/x",
            "/triggers/",
            "example.com",
            "[::1]",
            "127.0.0.1",
            ":0",
            ":443",
            ":99999",
            "user:password@",
            "?a=b",
            "#c",
            "%",
            "%00",
            "\u{feff}",
            "\u{200b}",
            "\0",
            "\n",
            "\"",
            "aHR0cHM6Ly8=",
            "xn--",
            "\u{e9}.example",
            " ",
        ]);
        let parts = vec(part, 0..8).prop_map(|parts| parts.concat().into_bytes());
        prop_oneof![4 => parts, 1 => vec(any::<u8>(), 0..60), 1 => "https://.{0,40}".prop_map(String::into_bytes)]
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn any_value_of_a_secret_is_read_or_refused(bytes in bytes()) {
            for kind in [DestinationKind::Webhook, DestinationKind::Slack] {
                match Destination::parse_bytes(kind, &bytes) {
                    Ok(destination) => {
                        let again = parse(kind, destination.expose_url().as_str());
                        prop_assert_eq!(again, Ok(destination.expose_url().to_string()));
                    }
                    Err(why) => prop_assert!(!why.to_string().is_empty()),
                }
            }
        }
    }

    fn parse(kind: DestinationKind, text: &str) -> Result<String, BadUrl> {
        Destination::parse(kind, text).map(|destination| destination.expose_url().to_string())
    }

    #[test]
    fn a_host_name_is_no_longer_than_names_are() {
        let label = "a".repeat(62);
        for (host, fits) in [
            (format!("{label}.{label}.{label}.{label}.a"), true),
            (format!("{label}.{label}.{label}.{label}.a."), true),
            (format!("{label}.{label}.{label}.{label}.aa"), false),
        ] {
            let read = parse(DestinationKind::Webhook, &format!("https://{host}/"));
            assert_eq!(read.is_ok(), fits, "{} bytes", host.len());
        }
    }

    #[test]
    fn a_url_is_read_as_a_secret_holds_it() {
        for (kind, text, url) in [
            (
                DestinationKind::Webhook,
                "https://a.example/x",
                "https://a.example/x",
            ),
            (
                DestinationKind::Webhook,
                "https://a.example/x?t=1\r\n",
                "https://a.example/x?t=1",
            ),
            (
                DestinationKind::Webhook,
                "  http://10.0.0.5:8080 \n\n",
                "http://10.0.0.5:8080/",
            ),
            (
                DestinationKind::Webhook,
                "https://a.example/x#part",
                "https://a.example/x",
            ),
            (
                DestinationKind::Webhook,
                "HTTPS://BÜCHER.example:443/",
                "https://xn--bcher-kva.example/",
            ),
            (
                DestinationKind::Webhook,
                "https://hooks.slack.com/triggers/T/1",
                "https://hooks.slack.com/triggers/T/1",
            ),
            (
                DestinationKind::Webhook,
                "https://noslack.com/services/x",
                "https://noslack.com/services/x",
            ),
            (
                DestinationKind::Slack,
                "https://hooks.slack.com/services/T0/B0/x\n",
                "https://hooks.slack.com/services/T0/B0/x",
            ),
            (
                DestinationKind::Slack,
                "https://chat.example/triggers/x",
                "https://chat.example/triggers/x",
            ),
            (
                DestinationKind::Slack,
                "http://127.0.0.1:9/x",
                "http://127.0.0.1:9/x",
            ),
            (
                DestinationKind::Slack,
                "http://[::1]:9/x",
                "http://[::1]:9/x",
            ),
        ] {
            assert_eq!(parse(kind, text).as_deref(), Ok(url), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_destination_is_refused_with_its_own_problem() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL));
        let malformed = BadUrl::Malformed;
        for (kind, text, problem) in [
            (DestinationKind::Webhook, "", BadUrl::Empty),
            (DestinationKind::Webhook, " \n", BadUrl::Empty),
            (DestinationKind::Webhook, &long, BadUrl::TooLong),
            (
                DestinationKind::Webhook,
                "https://a.example/x\ny",
                BadUrl::WhiteSpace,
            ),
            (
                DestinationKind::Webhook,
                "https://a.example/x y",
                BadUrl::WhiteSpace,
            ),
            (
                DestinationKind::Webhook,
                "https://a.exam\u{0}ple/",
                BadUrl::WhiteSpace,
            ),
            (
                DestinationKind::Webhook,
                "a.example/x",
                malformed(ParseError::RelativeUrlWithoutBase),
            ),
            (
                DestinationKind::Webhook,
                "https://",
                malformed(ParseError::EmptyHost),
            ),
            (
                DestinationKind::Webhook,
                "https://[fe80::1%25eth0]/",
                malformed(ParseError::InvalidIpv6Address),
            ),
            (
                DestinationKind::Webhook,
                "https://a.example:99999/",
                malformed(ParseError::InvalidPort),
            ),
            (DestinationKind::Webhook, "ftp://a.example/", BadUrl::Scheme),
            (
                DestinationKind::Webhook,
                "file:///etc/passwd",
                BadUrl::Scheme,
            ),
            (
                DestinationKind::Webhook,
                "javascript:alert(1)",
                BadUrl::Scheme,
            ),
            (
                DestinationKind::Webhook,
                "https://user@a.example/",
                BadUrl::UserInfo,
            ),
            (
                DestinationKind::Webhook,
                "https://:pass@a.example/",
                BadUrl::UserInfo,
            ),
            (
                DestinationKind::Webhook,
                "https://a.example@127.0.0.1/",
                BadUrl::UserInfo,
            ),
            (
                DestinationKind::Webhook,
                "https://a.example:0/",
                BadUrl::Port,
            ),
            (
                DestinationKind::Webhook,
                "https://hooks.slack.com/services/T/B/x",
                BadUrl::SlackAsWebhook,
            ),
            (
                DestinationKind::Webhook,
                "https://hooks.slack-gov.com./services/T/B/x",
                BadUrl::SlackAsWebhook,
            ),
            (
                DestinationKind::Slack,
                "http://hooks.slack.com/services/T/B/x",
                BadUrl::PlainSlack,
            ),
            (
                DestinationKind::Slack,
                "http://localhost/x",
                BadUrl::PlainSlack,
            ),
            (
                DestinationKind::Slack,
                "http://10.0.0.1/x",
                BadUrl::PlainSlack,
            ),
            (
                DestinationKind::Slack,
                "https://hooks.slack.com/triggers/T/1/x",
                BadUrl::SlackWorkflow,
            ),
            (
                DestinationKind::Slack,
                "https://hooks.slack.com/workflows/T/1/x",
                BadUrl::SlackWorkflow,
            ),
            (
                DestinationKind::Slack,
                "https://hooks.slack-gov.com/workflows/T/1/x",
                BadUrl::SlackWorkflow,
            ),
        ] {
            assert_eq!(parse(kind, text), Err(problem), "{text:?}");
        }
        assert_eq!(
            Destination::parse_bytes(DestinationKind::Webhook, b"https://a.example/\xff"),
            Err(BadUrl::NotText)
        );
    }

    #[test]
    fn invisible_characters_around_a_url_are_dropped() {
        let url = "https://a.example/x";
        for [before, after] in [
            ["\u{feff}", ""],
            ["", "\u{feff}"],
            ["", "\u{200b}"],
            ["\u{200b}\u{200c}\u{200d}", "\u{2060}"],
            ["\u{a0}", "\u{a0}\u{202f}\n"],
            ["\u{2028}", "\u{2029}"],
            ["\u{200e}", "\u{202c}"],
            ["\u{feff} \n", "\r\n\u{200b} "],
            ["", "\u{fe0f}"],
            ["\u{3000}", "\u{3164}"],
            ["", "\u{e007f}"],
            ["\u{ad}", "\u{180e}"],
        ] {
            let text = format!("{before}{url}{after}");
            assert_eq!(parse(DestinationKind::Webhook, &text).as_deref(), Ok(url));
            assert_eq!(
                Destination::parse_bytes(DestinationKind::Webhook, text.as_bytes()),
                Destination::parse(DestinationKind::Webhook, url)
            );
        }
        for nothing in ["\u{feff}", "\u{200b}\n", "\u{a0}"] {
            assert_eq!(parse(DestinationKind::Webhook, nothing), Err(BadUrl::Empty));
        }
    }

    #[test]
    fn what_people_paste_around_a_url_is_named() {
        for (text, problem, says) in [
            (
                "https://a.exam\u{200b}ple/x",
                BadUrl::Invisible(0x200b),
                "an invisible character (U+200B)",
            ),
            (
                "https://a.example/\u{ad}x",
                BadUrl::Invisible(0xad),
                "an invisible character (U+00AD)",
            ),
            (
                "https://a.example/x\u{feff}/y",
                BadUrl::Invisible(0xfeff),
                "an invisible character",
            ),
            ("\"https://a.example/x\"", BadUrl::Quoted, "is in quotes"),
            (
                "\u{feff}'https://a.example/x'\n",
                BadUrl::Quoted,
                "is in quotes",
            ),
            ("“https://a.example/x”", BadUrl::Quoted, "is in quotes"),
            ("«https://a.example/x»", BadUrl::Quoted, "is in quotes"),
            ("`https://a.example/x`", BadUrl::Quoted, "is in quotes"),
            ("<https://a.example/x>", BadUrl::Quoted, "is in quotes"),
            ("\"https://a.example/x", BadUrl::Quoted, "is in quotes"),
            ("https://a.example/x\"", BadUrl::Quoted, "is in quotes"),
            (
                "aHR0cHM6Ly9hLmV4YW1wbGUveA==",
                BadUrl::Base64,
                "looks like base64 of a URL",
            ),
            (
                "aHR0cHM6Ly9hLmV4YW1wbGUveA",
                BadUrl::Base64,
                "looks like base64 of a URL",
            ),
            (
                "aHR0cHM6Ly9hLmV4\nYW1wbGUveA==\n",
                BadUrl::Base64,
                "looks like base64 of a URL",
            ),
            (
                "SFRUUDovL2EuZXhhbXBsZS8_eD0-Pj4=",
                BadUrl::Base64,
                "looks like base64 of a URL",
            ),
            (
                "\u{feff}aHR0cDovL2EuZXhhbXBsZS8=",
                BadUrl::Base64,
                "looks like base64 of a URL",
            ),
        ] {
            assert_eq!(
                parse(DestinationKind::Webhook, text),
                Err(problem),
                "{text:?}"
            );
            assert!(problem.to_string().contains(says), "{problem}");
        }
        let utf16: Vec<u8> = "\u{feff}https://a.example/x"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let problem = Destination::parse_bytes(DestinationKind::Webhook, &utf16).unwrap_err();
        assert_eq!(problem, BadUrl::Utf16);
        // What a URL may hold is no quote around it.
        for url in [
            "https://a.example/(x)",
            "https://a.example/x=",
            "https://a.example/[x]",
        ] {
            assert!(parse(DestinationKind::Webhook, url).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_looks_like_another_host_is_judged_by_the_host_that_is_dialled() {
        for (text, host) in [
            ("https://example.com\\@127.0.0.1/", "example.com"),
            ("https://127.1/", "127.0.0.1"),
            ("https://2130706433/", "127.0.0.1"),
            ("https://0x7f.1/", "127.0.0.1"),
            ("https://%31%32%37.0.0.1/", "127.0.0.1"),
            ("https:///127.0.0.1/", "127.0.0.1"),
            ("https://①②⑦.0.0.1/", "127.0.0.1"),
            ("https://0/", "0.0.0.0"),
        ] {
            let destination = Destination::parse(DestinationKind::Webhook, text).unwrap();
            assert_eq!(destination.host().to_string(), host, "{text}");
        }
    }

    #[test]
    fn nothing_printed_holds_more_than_scheme_host_and_port() {
        let canary = "c4n4ry";
        let text = format!("https://hooks.example:8443/{canary}?t={canary}#{canary}");
        let destination = Destination::parse(DestinationKind::Slack, &text).unwrap();
        assert_eq!(destination.to_string(), "https://hooks.example:8443");
        assert_eq!(destination.host_for_people(), "hooks.example:8443");
        assert_eq!(
            format!("{destination:?}"),
            "Destination(Slack https://hooks.example:8443)"
        );
        for text in [
            format!("https://{canary}:{canary}@h/"),
            format!("{canary}://h/"),
            format!("https://h/{canary} {canary}"),
            canary.to_owned(),
            format!("https://[{canary}]/"),
            format!("https://h:{canary}/"),
            format!("https://hooks.slack.com/triggers/{canary}"),
        ] {
            let problem = Destination::parse(DestinationKind::Slack, &text).unwrap_err();
            assert!(!format!("{problem} {problem:?}").contains(canary), "{text}");
        }
    }

    #[test]
    fn destinations_are_told_apart_by_the_whole_url() {
        let of = |text| Destination::parse(DestinationKind::Webhook, text).unwrap();
        assert_eq!(of("https://a.example/x"), of("https://A.example:443/x#y\n"));
        assert_ne!(of("https://a.example/x"), of("https://a.example/y"));
        assert_ne!(
            of("https://a.example/x").key(),
            of("http://a.example/x").key()
        );
        assert_eq!(of("https://a.example/").port(), 443);
        assert_eq!(of("http://a.example:81/").port(), 81);
    }

    #[test]
    fn the_url_is_wiped() {
        let mut url = SecretUrl(Url::parse("https://a.example/secret").unwrap());
        url.zeroize();
        assert_eq!(url.0.as_str(), "data:");
    }
}
