//! Which destinations go through a proxy: the meaning of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, given as values.
//! Decided here and not by the HTTP library, because what goes through a proxy is guarded in another way: two opinions
//! on one host name would be a hole.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Host;

use crate::http::destination::address;

/// `NO_PROXY`, parsed.
#[derive(Clone, Debug, Default)]
pub(super) struct NoProxy(Vec<(Pattern, Option<u16>)>);

#[derive(Clone, Debug)]
enum Pattern {
    All,
    Net(IpNet),
    Domain(String),
}

impl NoProxy {
    /// Reads the list; as everywhere, an entry that means nothing matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        Self(list.split(',').filter_map(entry).collect())
    }

    /// Whether this host is dialled directly.
    pub(super) fn covers(&self, host: &Host<&str>, port: u16) -> bool {
        self.0.iter().any(|(pattern, only)| {
            let named = match (pattern, host) {
                (Pattern::All, _) => true,
                (Pattern::Net(net), host) => address(host).is_some_and(|ip| net.contains(&ip)),
                (Pattern::Domain(domain), Host::Domain(name)) => {
                    let name = name.strip_suffix('.').unwrap_or(name);
                    name.strip_suffix(domain.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
                _ => false,
            };
            named && only.is_none_or(|only| only == port)
        })
    }
}

fn entry(text: &str) -> Option<(Pattern, Option<u16>)> {
    let text = text.trim().to_ascii_lowercase();
    if text == "*" {
        return Some((Pattern::All, None));
    }
    if let Ok(net) = text.parse() {
        return Some((Pattern::Net(net), None));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(&text).parse::<IpAddr>() {
        return Some((Pattern::Net(ip.into()), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text.as_str(), None),
    };
    let host = host.trim_start_matches("*.").trim_matches('.');
    let pattern = match Host::parse(host).ok()? {
        Host::Domain(domain) => Pattern::Domain(domain),
        host => Pattern::Net(address(&host)?.into()),
    };
    Some((pattern, port))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn no_proxy_means_what_it_means_elsewhere() {
        for (list, url, covered) in [
            ("", "https://a.example/", false),
            ("*", "https://a.example/", true),
            ("a.example", "https://a.example/", true),
            ("a.example", "https://b.a.example/", true),
            (".a.example", "https://b.a.example/", true),
            ("*.a.example", "https://b.a.example/", true),
            ("a.example", "https://ba.example/", false),
            ("A.Example", "https://a.example./", true),
            ("a.example:8443", "https://a.example:8443/", true),
            ("a.example:8443", "https://a.example/", false),
            ("x, a.example ,y", "https://a.example/", true),
            (".svc,.cluster.local", "http://hook.chat.svc/", true),
            (
                ".svc,.cluster.local",
                "http://hook.chat.svc.cluster.local/",
                true,
            ),
            ("10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/8", "http://11.1.2.3/", false),
            ("10.0.0.0/8", "http://10.example/", false),
            ("10.0.0.5", "http://10.0.0.5/", true),
            ("10.0.0.5:80", "http://10.0.0.5/", true),
            ("10.0.0.5:80", "http://10.0.0.5:81/", false),
            ("::1", "http://[::1]/", true),
            ("[::1]:80", "http://[::1]/", true),
            ("[fd00::5]", "http://[fd00::5]/", true),
            ("[fd00::5]", "http://[fd00::6]/", false),
            ("fd00::/8", "http://[fd00::1]/", true),
            (",,a b,:,x:y,.", "http://a.example/", false),
        ] {
            let url = Url::parse(url).unwrap();
            let port = url.port_or_known_default().unwrap();
            assert_eq!(
                NoProxy::parse(list).covers(&url.host().unwrap(), port),
                covered,
                "{list} {url}"
            );
        }
    }
}
