//! Who sends a request, as far as it decides about shares: one address gets at most a part of what there is for all.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::Extensions;

/// The bits of an IPv6 address that tell clients apart. Whoever has one address usually has all that begin alike.
const IPV6_PREFIX: u32 = 64;

/// The address of a connection's other end: the client, or the proxy before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let mask = u128::MAX << (u128::BITS - IPV6_PREFIX);
                Self(Ipv6Addr::from_bits(address.to_bits() & mask).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }

    /// The address that the server has put to a request. Requests without one share an address.
    pub(crate) fn of_request(extensions: &Extensions) -> Self {
        let known = extensions.get::<Self>().copied();
        known.unwrap_or(Self(Ipv6Addr::UNSPECIFIED.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_known_by_its_first_64_bits_and_an_ipv4_client_by_all() {
        let of = |text: &str| ClientAddress::of(text.parse().unwrap());
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }
}
