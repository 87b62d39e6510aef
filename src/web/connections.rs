//! The open connections of a port: how many there may be, and which one is closed for a new one.

use std::{collections::BTreeMap, net::IpAddr};

use tokio_util::sync::CancellationToken;

/// How many connections a port has at most. Each takes at most about 50 KB, the kernel's buffers left aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Of all clients together.
    pub(crate) total: usize,
    /// Of one client's address.
    pub(crate) per_address: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 256,
            per_address: 64,
        }
    }
}

/// An open connection.
#[derive(Debug)]
struct Connection {
    from: IpAddr,
    /// Since when it serves no request, on a clock that counts what happens; `None` while it serves one.
    idle_since: Option<u64>,
    close: CancellationToken,
}

/// The open connections of a port.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: BTreeMap<u64, Connection>,
    clock: u64,
}

/// What becomes of a new connection.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It is open, under this number, until it is told to close.
    Open(u64, CancellationToken),
    /// It is open, and the one that has served nothing for longest was told to close for it.
    InPlaceOfAnother(u64, CancellationToken),
    /// Every connection that might be closed for it serves a request.
    Refused,
}

impl Connections {
    /// Admits a connection. While it is full, one that serves no request gives way: so a client that opens connections and
    /// sends nothing, or sends slowly, keeps nobody out.
    pub(crate) fn admit(&mut self, from: IpAddr, limits: ConnectionLimits) -> Admission {
        let from = from.to_canonical();
        let of_client = self.count(from);
        let full = of_client >= limits.per_address || self.open.len() >= limits.total;
        if full && !self.close_one(from, of_client >= limits.per_address) {
            return Admission::Refused;
        }
        let number = self.tick();
        let close = CancellationToken::new();
        let connection = Connection {
            from,
            idle_since: Some(number),
            close: close.clone(),
        };
        self.open.insert(number, connection);
        match full {
            true => Admission::InPlaceOfAnother(number, close),
            false => Admission::Open(number, close),
        }
    }

    /// A connection has begun to serve a request.
    pub(crate) fn serves(&mut self, number: u64) {
        if let Some(connection) = self.open.get_mut(&number) {
            connection.idle_since = None;
        }
    }

    /// The answer to a request is sent.
    pub(crate) fn served(&mut self, number: u64) {
        let now = self.tick();
        if let Some(connection) = self.open.get_mut(&number) {
            connection.idle_since = Some(now);
        }
    }

    /// A connection is closed.
    pub(crate) fn closed(&mut self, number: u64) {
        self.open.remove(&number);
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn count(&self, from: IpAddr) -> usize {
        self.open.values().filter(|it| it.from == from).count()
    }

    /// Closes a connection that serves nothing: of this client, if it has too many, or else of the one that has most.
    fn close_one(&mut self, from: IpAddr, own: bool) -> bool {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for connection in self.open.values() {
            *counts.entry(connection.from).or_default() += 1;
        }
        let idle = self.open.iter().filter_map(|(number, it)| {
            let since = it.idle_since?;
            let of_client = counts.get(&it.from).copied().unwrap_or(0);
            (!own || it.from == from).then_some((std::cmp::Reverse(of_client), since, *number))
        });
        let Some((_, _, number)) = idle.min() else {
            return false;
        };
        if let Some(connection) = self.open.remove(&number) {
            connection.close.cancel();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        total: 4,
        per_address: 3,
    };

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn open(connections: &mut Connections, last: u8) -> (u64, CancellationToken) {
        match connections.admit(address(last), LIMITS) {
            Admission::Open(number, close) | Admission::InPlaceOfAnother(number, close) => {
                (number, close)
            }
            Admission::Refused => panic!("refused"),
        }
    }

    #[test]
    fn a_client_with_too_many_connections_loses_its_own_that_served_nothing_for_longest() {
        let mut connections = Connections::default();
        let (other, others) = open(&mut connections, 9);
        let (first, first_closes) = open(&mut connections, 1);
        let (_, second_closes) = open(&mut connections, 1);
        open(&mut connections, 1);
        connections.serves(first);
        connections.served(first);
        open(&mut connections, 1);
        assert!(second_closes.is_cancelled() && !first_closes.is_cancelled());
        assert!(!others.is_cancelled());
        assert_eq!(connections.len(), 4);
        connections.closed(other);
        assert_eq!(connections.len(), 3);
    }

    #[test]
    fn a_full_port_closes_a_connection_of_the_client_that_has_most_for_a_new_client() {
        let mut connections = Connections::default();
        let (_, lone) = open(&mut connections, 9);
        let many: Vec<_> = (0..3).map(|_| open(&mut connections, 1).1).collect();
        let (_, new) = open(&mut connections, 2);
        let closed: Vec<bool> = many.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(closed, [true, false, false]);
        assert!(!lone.is_cancelled() && !new.is_cancelled());
        assert_eq!(connections.len(), LIMITS.total);
    }

    #[test]
    fn a_connection_that_serves_a_request_is_never_closed_for_another() {
        let mut connections = Connections::default();
        for last in 1..=4 {
            let (number, _) = open(&mut connections, last);
            connections.serves(number);
        }
        let refused = connections.admit(address(5), LIMITS);
        assert!(matches!(refused, Admission::Refused));
        connections.served(2);
        assert!(matches!(
            connections.admit(address(5), LIMITS),
            Admission::InPlaceOfAnother(..)
        ));
    }

    #[test]
    fn an_address_of_ipv4_is_the_same_client_however_it_is_written() {
        let mut connections = Connections::default();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        for from in [mapped, address(1), mapped, address(1), mapped] {
            connections.admit(from, LIMITS);
        }
        assert_eq!(connections.len(), LIMITS.per_address);
    }
}
