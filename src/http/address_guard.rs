//! Which addresses may be dialled. Anyone who may write a `NotificationSetting` chooses where this process connects to,
//! so by default only public addresses are open: no cluster network, no node, no cloud metadata, no API server.
//! (`to_canonical` undoes IPv4-mapped IPv6; ranges are those of the IANA special-purpose registries and the clouds'.)

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use url::Host;

use crate::http::destination::address;

/// The policy: a table of denied ranges, what is denied besides, and what the operator's flags open for every namespace.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    open_nets: Vec<IpNet>,
    open_hosts: Vec<HostPattern>,
    also_denied: Vec<IpAddr>,
    /// For each namespace for which the flags open more: the same with that. Only [`Self::for_namespace`] leads there, so
    /// whoever asks without a namespace gets less.
    scoped: BTreeMap<String, Guard>,
}

/// Why a destination may not be dialled; the message names the switch that opens it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// The address lies in a denied range.
    #[error(
        "destination address {ip} is {}; start the operator with --allow-destination {open} (chart value outbound.allow) to open it",
        .kind.phrase()
    )]
    Address {
        /// The address.
        ip: IpAddr,
        /// What it is.
        kind: RangeKind,
        /// The narrowest entry of `--allow-destination` that is proposed to open it.
        open: IpNet,
    },
    /// The name is one of this machine's.
    #[error(
        "the destination's host name means the operator's own machine; start the operator with --allow-destination {0} (chart value outbound.allow) to open it"
    )]
    OwnName(String),
    /// The name is that of a cloud's metadata service, which no name opens.
    #[error(
        "the destination's host name is that of a cloud metadata service; use another destination"
    )]
    MetadataName,
    /// The port is one of the cluster's own machinery.
    #[error("port {0} belongs to the kubelet or to etcd, never to a receiver; use another port")]
    Port(u16),
}

/// Why an entry of `--allow-destination` is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "--allow-destination {entry:?} is {problem}; give an address range (10.0.0.0/8), an address (10.0.0.5), a host name (hooks.example.com) or a suffix (*.example.com), with the namespaces that may send there (10.0.0.0/8@team-a+team-b)"
)]
pub struct BadEntry {
    entry: String,
    problem: &'static str,
}

/// What an entry of `--allow-destination` opens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opening {
    Net(IpNet),
    Host(HostPattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    /// This name.
    Exact(String),
    /// Every name that ends with this, which starts with a dot.
    Suffix(String),
}

/// A denied range.
#[derive(Clone, Copy)]
struct Range {
    net: IpNet,
    kind: RangeKind,
}

/// What an address is that may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The phrases say it.
pub enum RangeKind {
    Private,
    Loopback,
    LinkLocal,
    Metadata,
    Shared,
    Multicast,
    Reserved,
    Example,
    Transition,
    NotPublic,
    Own,
}

impl RangeKind {
    /// As in "destination address … is {phrase}".
    const fn phrase(self) -> &'static str {
        match self {
            Self::Private => "in a private range",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata address",
            Self::Shared => "in a provider's shared range",
            Self::Multicast => "a multicast address",
            Self::Reserved => "in a reserved range",
            Self::Example => "in a range for documentation or tests",
            Self::Transition => "an IPv6 address that stands for an IPv4 address",
            Self::NotPublic => "in no public range",
            Self::Own => "one of the Kubernetes API server or of the operator itself",
        }
    }

    /// Whether it is opened only by an address or range that lies within it: no wider range and no host name opens it by
    /// accident.
    const fn is_strict(self) -> bool {
        matches!(self, Self::Metadata | Self::LinkLocal | Self::Own)
    }
}

/// The denied ranges. The first that holds an address names it, so single addresses stand before what they lie in.
static DENIED: LazyLock<Vec<Range>> = LazyLock::new(|| {
    let ranges = [
        // AWS, GCP, Azure, OpenStack; ECS tasks; EKS Pod Identity.
        (
            RangeKind::Metadata,
            "169.254.169.254/32 169.254.170.2/32 169.254.170.23/32",
        ),
        // Alibaba; Azure's host, a *public* address; Oracle's old one.
        (
            RangeKind::Metadata,
            "100.100.100.200/32 168.63.129.16/32 192.0.0.192/32",
        ),
        // AWS: metadata and EKS Pod Identity; GCP.
        (
            RangeKind::Metadata,
            "fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128",
        ),
        (RangeKind::LinkLocal, "169.254.0.0/16 fe80::/10"),
        // Linux takes 0.0.0.0 and :: for this machine.
        (RangeKind::Loopback, "127.0.0.0/8 ::1/128 0.0.0.0/8 ::/128"),
        (
            RangeKind::Private,
            "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7",
        ),
        // Site-local, deprecated but still routed by some.
        (RangeKind::Private, "fec0::/10"),
        (RangeKind::Shared, "100.64.0.0/10"),
        (
            RangeKind::Reserved,
            "192.0.0.0/24 192.88.99.0/24 240.0.0.0/4",
        ),
        (RangeKind::Example, "192.0.2.0/24 198.18.0.0/15"),
        (RangeKind::Example, "198.51.100.0/24 203.0.113.0/24"),
        (RangeKind::Multicast, "224.0.0.0/4 ff00::/8"),
        // IPv4-compatible, NAT64 with a prefix of the network's own (where the IPv4 address stands in it is known only
        // there), 6to4. For NAT64 with the well-known prefix see `nat64`.
        (RangeKind::Transition, "::/96 64:ff9b:1::/48 2002::/16"),
        // Discard-only and its dummy prefix; Teredo, ORCHID, benchmarks; SRv6 SIDs.
        (
            RangeKind::Reserved,
            "100::/64 100:0:0:1::/64 2001::/23 5f00::/16",
        ),
        // Old and new.
        (RangeKind::Example, "2001:db8::/32 3fff::/20"),
    ];
    let ranges = ranges.iter().flat_map(|(kind, nets)| {
        nets.split(' ').map(move |net| Range {
            net: net.parse().expect("an address range"),
            kind: *kind,
        })
    });
    ranges.collect()
});

/// All public IPv6 addresses lie in here, so what lies outside is denied even if no row above knows it.
const PUBLIC_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Ports of the kubelet (API, read-only) and of etcd (clients, peers): an opened cluster network must not open these.
const CLUSTER_PORTS: [u16; 4] = [10250, 10255, 2379, 2380];

/// Names of this machine; names below `localhost` count too (RFC 6761).
const OWN_NAMES: [&str; 3] = ["localhost", "ip6-localhost", "ip6-loopback"];

/// Names of the clouds' metadata services: GCP's three and AWS's.
const METADATA_NAMES: [&str; 4] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
];

impl Guard {
    /// A guard that opens `allow` (each an address range, an address, a host name, or `*.` and a suffix of names; with `@`
    /// and the namespaces that may use it, separated by `+`, or else for all) and denies the single addresses
    /// `also_denied` besides the table: the API server's, this pod's.
    pub fn new(allow: &[String], also_denied: Vec<IpAddr>) -> Result<Self, BadEntry> {
        let mut guard = Self {
            also_denied: also_denied
                .into_iter()
                .map(|ip| ip.to_canonical())
                .collect(),
            ..Self::default()
        };
        let mut scoped: Vec<(&str, Opening)> = vec![];
        for entry in allow {
            let bad = |problem| BadEntry {
                entry: entry.clone(),
                problem,
            };
            let (text, namespaces) = match entry.split_once('@') {
                Some((text, namespaces)) => (text, Some(namespaces)),
                None => (entry.as_str(), None),
            };
            let opening = Opening::parse(text.trim()).map_err(bad)?;
            let Some(namespaces) = namespaces else {
                guard.open(opening);
                continue;
            };
            for namespace in namespaces.split('+').map(str::trim) {
                if !is_namespace(namespace) {
                    return Err(bad("without the name of a namespace after @ or +"));
                }
                scoped.push((namespace, opening.clone()));
            }
        }
        for (namespace, opening) in scoped {
            let base = guard.unscoped();
            let scope = guard.scoped.entry(namespace.to_owned());
            scope.or_insert(base).open(opening);
        }
        Ok(guard)
    }

    fn open(&mut self, opening: Opening) {
        match opening {
            Opening::Net(net) => self.open_nets.push(net),
            Opening::Host(host) => self.open_hosts.push(host),
        }
    }

    fn unscoped(&self) -> Self {
        Self {
            open_nets: self.open_nets.clone(),
            open_hosts: self.open_hosts.clone(),
            also_denied: self.also_denied.clone(),
            scoped: BTreeMap::new(),
        }
    }

    /// What holds for the settings of a namespace.
    pub(crate) fn for_namespace(&self, namespace: &str) -> &Self {
        self.scoped.get(namespace).unwrap_or(self)
    }

    /// Whether anything is opened, for whomever.
    pub(crate) fn opens_anything(&self) -> bool {
        !self.open_nets.is_empty() || !self.open_hosts.is_empty() || !self.scoped.is_empty()
    }

    /// Whether an address lies in a network of somebody's own, which only a flag opens: what answers there is nobody's
    /// business but that of those who run it. Loopback addresses are opened for tests alone and don't count.
    pub(crate) fn is_internal(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let ip = nat64(ip).map_or(ip, IpAddr::V4);
        self.range(ip)
            .is_some_and(|range| !matches!(range.kind, RangeKind::Loopback))
    }

    /// Whether `host` may be dialled at what it resolved to: one bad address fails the name.
    pub(crate) fn permits_all(&self, host: &str, found: &[SocketAddr]) -> Result<(), Denied> {
        let mut addresses = found.iter().map(SocketAddr::ip);
        addresses.try_for_each(|ip| self.permits_ip(host, ip))
    }

    /// Whether an address may be dialled that `host` (a name, or the address itself as text) resolved to. To be asked
    /// about the very address that is dialled, or a second answer of the DNS gets round it.
    pub(crate) fn permits_ip(&self, host: &str, ip: IpAddr) -> Result<(), Denied> {
        let ip = ip.to_canonical();
        // A network without IPv4 reaches it through these (DNS64): the address inside is the one that is dialled.
        if let Some(inside) = nat64(ip)
            && !self.also_denied.contains(&ip)
        {
            return self.permits_ip(host, inside.into());
        }
        let Some(range) = self.range(ip) else {
            return Ok(());
        };
        let strict = range.kind.is_strict();
        let named = self
            .open_nets
            .iter()
            .any(|open| open.contains(&ip) && (!strict || range.net.contains(open)));
        if named || (!strict && self.opens_host(host)) {
            // Who opens such a prefix to reach the IPv4 world must not open all of it.
            return embedded(ip).map_or(Ok(()), |ip| self.permits_ip(host, ip.into()));
        }
        let open = if strict && range.net.prefix_len() < range.net.max_prefix_len() {
            ip.into()
        } else {
            range.net
        };
        let kind = range.kind;
        Err(Denied::Address { ip, kind, open })
    }

    /// Whether a URL's host may be dialled, as far as that can be told without the DNS: an address is judged here (the
    /// resolver never sees it), a name is permitted.
    pub(crate) fn permits_literal(&self, host: &Host<&str>) -> Result<(), Denied> {
        match address(host) {
            Some(ip) => self.permits_ip(&ip.to_string(), ip),
            None => Ok(()),
        }
    }

    /// Whether a name may be given to a proxy, which resolves it out of our sight, as far as that can be told without the
    /// DNS: names of this machine and of metadata services are denied here.
    pub(crate) fn permits_name(&self, host: &Host<&str>) -> Result<(), Denied> {
        let Host::Domain(name) = host else {
            return self.permits_literal(host);
        };
        let name = bare(name);
        if METADATA_NAMES.contains(&name.as_str()) {
            return Err(Denied::MetadataName);
        }
        let own = OWN_NAMES.contains(&name.as_str()) || name.ends_with(".localhost");
        if own && !self.opens_host(&name) {
            return Err(Denied::OwnName(name));
        }
        Ok(())
    }

    /// Whether a port may be dialled, on whatever host.
    pub(crate) fn permits_port(port: u16) -> Result<(), Denied> {
        if CLUSTER_PORTS.contains(&port) {
            return Err(Denied::Port(port));
        }
        Ok(())
    }

    fn range(&self, ip: IpAddr) -> Option<Range> {
        let alone = |kind| {
            let net = ip.into();
            Some(Range { net, kind })
        };
        if self.also_denied.contains(&ip) {
            return alone(RangeKind::Own);
        }
        let listed = DENIED.iter().find(|range| range.net.contains(&ip));
        match ip {
            _ if listed.is_some() => listed.copied(),
            IpAddr::V6(v6) if !PUBLIC_V6.contains(&v6) => alone(RangeKind::NotPublic),
            _ => None,
        }
    }

    pub(crate) fn opens_host(&self, host: &str) -> bool {
        let host = bare(host);
        self.open_hosts.iter().any(|open| match open {
            HostPattern::Exact(name) => *name == host,
            HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        })
    }
}

/// Whether this can be the name of a namespace.
fn is_namespace(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Opening {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match net(text) {
            Some(net) => Ok(Self::Net(net)),
            None => HostPattern::parse(text).map(Self::Host),
        }
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (suffix, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.is_empty() {
            return Err("empty");
        }
        if name.contains("://") {
            return Err("a URL");
        }
        if name.contains('/') {
            return Err("not an address range");
        }
        if name.contains(':') {
            return Err("more than a host");
        }
        if name.contains('*') {
            return Err("too wide");
        }
        // The URL parser's own spelling (lower case, punycode), as that is what it is compared with.
        match Host::parse(name) {
            Ok(Host::Domain(name)) if suffix => Ok(Self::Suffix(format!(".{}", bare(&name)))),
            Ok(Host::Domain(name)) => Ok(Self::Exact(bare(&name))),
            Ok(_) => Err("an address in an unusual spelling"),
            Err(_) => Err("not a host name"),
        }
    }
}

/// A name without the dot that marks it as complete, in lower case.
fn bare(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A range, or an address with or without the brackets that a URL puts around IPv6.
fn net(text: &str) -> Option<IpNet> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = || inner.unwrap_or(text).parse::<IpAddr>().ok();
    let net: Option<IpNet> = text.parse().ok();
    let net = net.or_else(|| address().map(IpNet::from))?;
    Some(canonical(net.trunc()))
}

/// A range of IPv4-mapped addresses as the IPv4 range that it means.
fn canonical(net: IpNet) -> IpNet {
    let (IpAddr::V4(ip), Some(len)) = (
        net.network().to_canonical(),
        net.prefix_len().checked_sub(96),
    ) else {
        return net;
    };
    Ipv4Net::new(ip, len).map_or(net, IpNet::V4)
}

/// The IPv4 address that one of NAT64's well-known prefix (RFC 6052) stands for.
fn nat64(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V6(ip) if ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = ip.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

/// The IPv4 address that an IPv6 one of another kind stands for: NAT64 with a prefix of /96 of the network's own, 6to4,
/// IPv4-compatible.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else {
        return None;
    };
    let tail = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 1, _, 0, 0, high, low] | [0x2002, high, low, ..] => Some(tail(high, low)),
        // :: and ::1 are addresses of their own.
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => Some(tail(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    fn guard(allow: &[&str]) -> Guard {
        let allow: Vec<_> = allow.iter().map(|&entry| entry.to_owned()).collect();
        Guard::new(&allow, vec!["10.96.0.1".parse().unwrap()]).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What the guard says of a URL's host when it is an address.
    fn literal_of(guard: &Guard, url: &str) -> Result<(), Denied> {
        guard.permits_literal(&Url::parse(url).unwrap().host().unwrap())
    }

    #[test]
    fn addresses_that_are_not_public_are_denied() {
        let guard = guard(&[]);
        for (address, kind) in [
            ("10.0.0.0", RangeKind::Private),
            ("10.255.255.255", RangeKind::Private),
            ("172.16.0.1", RangeKind::Private),
            ("172.31.255.255", RangeKind::Private),
            ("192.168.1.1", RangeKind::Private),
            ("fc00::1", RangeKind::Private),
            ("fdff:ffff::1", RangeKind::Private),
            ("fec0::1", RangeKind::Private),
            ("127.0.0.1", RangeKind::Loopback),
            ("127.255.255.254", RangeKind::Loopback),
            ("::1", RangeKind::Loopback),
            ("::", RangeKind::Loopback),
            ("0.0.0.0", RangeKind::Loopback),
            ("0.1.2.3", RangeKind::Loopback),
            ("::ffff:127.0.0.1", RangeKind::Loopback),
            ("::ffff:10.0.0.1", RangeKind::Private),
            ("::ffff:169.254.169.254", RangeKind::Metadata),
            ("100.64.0.1", RangeKind::Shared),
            ("100.127.255.255", RangeKind::Shared),
            ("100.100.100.200", RangeKind::Metadata),
            ("169.254.169.254", RangeKind::Metadata),
            ("169.254.170.2", RangeKind::Metadata),
            ("169.254.170.23", RangeKind::Metadata),
            ("168.63.129.16", RangeKind::Metadata),
            ("192.0.0.192", RangeKind::Metadata),
            ("fd00:ec2::254", RangeKind::Metadata),
            ("fd00:ec2::23", RangeKind::Metadata),
            ("fd20:ce::254", RangeKind::Metadata),
            ("169.254.0.1", RangeKind::LinkLocal),
            ("fe80::1", RangeKind::LinkLocal),
            ("febf::1", RangeKind::LinkLocal),
            ("224.0.0.1", RangeKind::Multicast),
            ("239.255.255.255", RangeKind::Multicast),
            ("ff02::1", RangeKind::Multicast),
            ("240.0.0.1", RangeKind::Reserved),
            ("255.255.255.255", RangeKind::Reserved),
            ("192.0.0.1", RangeKind::Reserved),
            ("192.88.99.1", RangeKind::Reserved),
            ("192.0.2.1", RangeKind::Example),
            ("198.18.0.1", RangeKind::Example),
            ("198.19.255.255", RangeKind::Example),
            ("198.51.100.1", RangeKind::Example),
            ("203.0.113.1", RangeKind::Example),
            ("2001:db8::1", RangeKind::Example),
            ("3fff::1", RangeKind::Example),
            ("64:ff9b::127.0.0.1", RangeKind::Loopback),
            ("64:ff9b::10.0.0.1", RangeKind::Private),
            ("64:ff9b::169.254.169.254", RangeKind::Metadata),
            ("64:ff9b::100.64.0.1", RangeKind::Shared),
            ("64:ff9b::10.96.0.1", RangeKind::Own),
            ("64:ff9b::", RangeKind::Loopback),
            ("64:ff9b:1::8.8.8.8", RangeKind::Transition),
            ("64:ff9b:0:1::8.8.8.8", RangeKind::NotPublic),
            ("2002:808:808::1", RangeKind::Transition),
            ("2001:0:808:808::1", RangeKind::Reserved),
            ("64:ff9b:1::1", RangeKind::Transition),
            ("2002:7f00:1::", RangeKind::Transition),
            ("::8.8.8.8", RangeKind::Transition),
            ("::127.0.0.1", RangeKind::Transition),
            ("2001::1", RangeKind::Reserved),
            ("2001:20::1", RangeKind::Reserved),
            ("2001:2::1", RangeKind::Reserved),
            ("100::1", RangeKind::Reserved),
            ("100:0:0:1::1", RangeKind::Reserved),
            ("5f00::1", RangeKind::Reserved),
            ("4000::1", RangeKind::NotPublic),
            ("::ffff:0:127.0.0.1", RangeKind::NotPublic),
            ("10.96.0.1", RangeKind::Own),
            ("::ffff:10.96.0.1", RangeKind::Own),
        ] {
            let denied = guard.permits_ip("a.example", ip(address)).unwrap_err();
            assert!(
                matches!(denied, Denied::Address { kind: is, .. } if is == kind),
                "{address}: {denied:?}"
            );
            // What the message proposes does open it.
            let Denied::Address { open, .. } = denied else {
                unreachable!()
            };
            let mut guard = guard.clone();
            guard.open_nets.push(open);
            guard.open_nets.push(ip("127.0.0.1").into());
            let opened = guard.permits_ip("a.example", ip(address));
            assert!(
                opened.is_ok() || kind == RangeKind::Transition,
                "{address}: {opened:?}"
            );
        }
    }

    #[test]
    fn public_addresses_are_open() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.15",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            // DNS64 gives these beside the address itself.
            "64:ff9b::8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert_eq!(guard(&[]).permits_ip("a.example", ip(address)), Ok(()));
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_seen_through() {
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://0177.0.0.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://127.1/",
            "http://127.0.1/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://①②⑦.0.0.1/",
            "http://127。0。0。1/",
            "http:///127.0.0.1/",
            "http:127.0.0.1/",
            "http://example.com@127.0.0.1/",
            "http://0/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://[2002:7f00:1::]/",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
            "http://10.96.1/",
        ] {
            assert!(literal_of(&guard(&[]), url).is_err(), "{url}");
        }
        for url in [
            "http://127.0.0.1@8.8.8.8/",
            "http://8.8.8.8\\@127.0.0.1/",
            "http://134744072/",
            "http://[2606:4700::1]/",
        ] {
            assert_eq!(literal_of(&guard(&[]), url), Ok(()), "{url}");
        }
        // Names are for the resolver, whatever they look like.
        for url in [
            "http://169.254.169.254.nip.io/",
            "http://localhost./",
            "http://a..b/",
            "http://xn--bcher-kva.example/",
        ] {
            assert_eq!(literal_of(&guard(&[]), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_is_named_is_open_and_nothing_else() {
        for (allow, host, address, open) in [
            ("10.0.0.0/8", "a.example", "10.1.2.3", true),
            ("10.1.2.3/8", "a.example", "10.9.9.9", true),
            ("10.0.0.0/8", "a.example", "192.168.0.1", false),
            ("10.0.0.5", "a.example", "10.0.0.5", true),
            ("10.0.0.5", "a.example", "10.0.0.6", false),
            ("[::1]", "a.example", "::1", true),
            ("10.0.0.0/8", "a.example", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "a.example", "10.0.0.1", true),
            ("::ffff:10.0.0.5", "a.example", "10.0.0.5", true),
            (" 127.0.0.1 ", "a.example", "127.0.0.1", true),
            ("in.example", "in.example", "10.0.0.1", true),
            ("In.Example.", "in.example.", "10.0.0.1", true),
            ("bücher.example", "xn--bcher-kva.example", "10.0.0.1", true),
            ("in.example", "x.in.example", "10.0.0.1", false),
            ("*.in.example", "x.in.example", "10.0.0.1", true),
            ("*.in.example", "x.y.in.example", "127.0.0.1", true),
            ("*.in.example", "in.example", "10.0.0.1", false),
            ("*.in.example", "xin.example", "10.0.0.1", false),
            (
                "*.svc.cluster.local",
                "a.b.svc.cluster.local",
                "10.9.0.1",
                true,
            ),
        ] {
            let permitted = guard(&[allow]).permits_ip(host, ip(address));
            assert_eq!(permitted.is_ok(), open, "{allow} {host} {address}");
        }
    }

    #[test]
    fn metadata_link_local_and_the_api_server_are_opened_only_by_their_own_address() {
        for (allow, address, open) in [
            ("0.0.0.0/0", "10.0.0.1", true),
            ("0.0.0.0/0", "169.254.169.254", false),
            ("0.0.0.0/0", "168.63.129.16", false),
            ("169.254.0.0/16", "169.254.1.1", true),
            ("169.254.0.0/16", "169.254.169.254", false),
            ("169.254.169.254", "169.254.169.254", true),
            ("169.254.169.254/32", "::ffff:169.254.169.254", true),
            ("169.0.0.0/8", "169.254.1.1", false),
            ("100.64.0.0/10", "100.64.0.1", true),
            ("100.64.0.0/10", "100.100.100.200", false),
            ("fd00::/8", "fd00:1::1", true),
            ("fd00::/8", "fd00:ec2::254", false),
            ("::/0", "fe80::1", false),
            ("fe80::/10", "fe80::1", true),
            ("10.0.0.0/8", "10.96.0.1", false),
            ("10.96.0.1", "10.96.0.1", true),
            ("a.example", "169.254.169.254", false),
            ("a.example", "fe80::1", false),
            ("a.example", "10.96.0.1", false),
            ("*.example", "168.63.129.16", false),
            ("a.example", "127.0.0.1", true),
        ] {
            let permitted = guard(&[allow]).permits_ip("a.example", ip(address));
            assert_eq!(permitted.is_ok(), open, "{allow} {address}");
        }
    }

    #[test]
    fn what_is_opened_for_a_namespace_is_open_to_its_settings_alone() {
        let guard = guard(&[
            "10.1.0.0/16@team-a+team-b",
            "*.in.example @ team-a",
            "10.2.0.0/16",
            "10.96.0.1@team-a",
        ]);
        for (namespace, host, address, open) in [
            ("team-a", "a.example", "10.1.2.3", true),
            ("team-b", "a.example", "10.1.2.3", true),
            ("team-c", "a.example", "10.1.2.3", false),
            ("", "a.example", "10.1.2.3", false),
            ("team-a", "x.in.example", "10.3.0.1", true),
            ("team-b", "x.in.example", "10.3.0.1", false),
            ("team-a", "a.example", "10.2.0.1", true),
            ("team-c", "a.example", "10.2.0.1", true),
            ("team-a", "a.example", "10.96.0.1", true),
            ("team-b", "a.example", "10.96.0.1", false),
            ("team-a", "a.example", "10.4.0.1", false),
        ] {
            let permitted = guard.for_namespace(namespace).permits_ip(host, ip(address));
            assert_eq!(permitted.is_ok(), open, "{namespace} {host} {address}");
        }
        // Whoever forgets the namespace opens nothing that is meant for one.
        assert!(guard.permits_ip("a.example", ip("10.1.2.3")).is_err());
    }

    #[test]
    fn an_address_of_a_network_of_somebodys_own_is_internal_whether_or_not_it_is_open() {
        for (address, internal) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::10.1.2.3", true),
            ("fd00::1", true),
            ("100.64.0.1", true),
            ("169.254.1.1", true),
            ("10.96.0.1", true),
            ("8.8.8.8", false),
            ("64:ff9b::8.8.8.8", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(
                guard(&["10.0.0.0/8"]).is_internal(ip(address)),
                internal,
                "{address}"
            );
        }
    }

    #[test]
    fn an_opened_translation_prefix_opens_only_what_the_ipv4_address_may() {
        let guard = guard(&["64:ff9b::/96", "64:ff9b:1::/48", "2002::/16"]);
        for (address, open) in [
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b::10.96.0.1", false),
            ("64:ff9b:1::8.8.8.8", true),
            ("64:ff9b:1::169.254.169.254", false),
            ("2002:808:808::1", true),
            ("2002:a9fe:a9fe::1", false),
        ] {
            let permitted = guard.permits_ip("a.example", ip(address));
            assert_eq!(permitted.is_ok(), open, "{address}");
        }
    }

    #[test]
    fn names_that_a_proxy_must_not_resolve_are_denied() {
        let denied = |allow: &[&str], name| guard(allow).permits_name(&Host::Domain(name)).is_err();
        for name in [
            "localhost",
            "localhost.",
            "LOCALHOST",
            "a.localhost",
            "metadata.google.internal",
            "metadata.google.internal.",
        ] {
            assert!(denied(&[], name), "{name}");
        }
        assert!(!denied(&[], "hooks.slack.com"));
        assert!(!denied(&["localhost"], "localhost"));
        assert!(denied(
            &["metadata.google.internal"],
            "metadata.google.internal"
        ));
        assert!(
            guard(&[])
                .permits_name(&Host::Ipv4(Ipv4Addr::LOCALHOST))
                .is_err()
        );
    }

    #[test]
    fn ports_of_the_kubelet_and_etcd_are_denied() {
        for port in [10250, 10255, 2379, 2380] {
            assert_eq!(Guard::permits_port(port), Err(Denied::Port(port)));
        }
        assert_eq!(Guard::permits_port(443), Ok(()));
    }

    #[test]
    fn a_denial_names_the_switch() {
        let message = |address| {
            let denied = guard(&[]).permits_ip("a.example", ip(address));
            denied.unwrap_err().to_string()
        };
        assert_eq!(
            message("10.0.0.5"),
            "destination address 10.0.0.5 is in a private range; start the operator with --allow-destination 10.0.0.0/8 (chart value outbound.allow) to open it"
        );
        assert_eq!(
            message("169.254.1.1"),
            "destination address 169.254.1.1 is a link-local address; start the operator with --allow-destination 169.254.1.1/32 (chart value outbound.allow) to open it"
        );
    }

    #[test]
    fn a_malformed_entry_is_refused_with_its_problem() {
        for (entry, problem) in [
            ("", "empty"),
            ("*.", "empty"),
            ("*", "too wide"),
            ("a.*.example", "too wide"),
            ("https://a.example", "a URL"),
            ("10.0.0.0/33", "not an address range"),
            ("a.example:443", "more than a host"),
            ("127.1", "an address in an unusual spelling"),
            ("2130706433", "an address in an unusual spelling"),
            ("a b", "not a host name"),
        ] {
            let error = Guard::new(&[entry.to_owned()], vec![]).unwrap_err();
            assert_eq!(error.problem, problem, "{entry}");
            assert!(error.to_string().contains(&format!("{entry:?}")));
        }
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn an_ipv4_address_is_judged_the_same_in_its_mapped_form(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let guard = guard(&["172.16.0.0/12"]);
            prop_assert_eq!(
                guard.permits_ip("a", v4.into()),
                guard.permits_ip("a", v4.to_ipv6_mapped().into())
            );
        }

        #[test]
        fn what_the_standard_library_calls_private_is_denied(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() {
                prop_assert!(guard(&[]).permits_ip("a", v4.into()).is_err());
            }
        }

        #[test]
        fn no_entry_makes_the_guard_panic(entry in ".{0,40}") {
            let _ = Guard::new(&[entry], vec![]);
        }
    }
}
