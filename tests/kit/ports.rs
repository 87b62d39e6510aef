//! Ports that stay ours.
//!
//! A port found by bind-and-close can be taken before its user binds it. So a socket stays bound to it, never
//! listening: the kernel then gives the port to nobody who asks for any port, connecting to it is refused,
//! and whoever names it can still listen on it, as every server sets `SO_REUSEADDR`.

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpSocket;

/// A port on 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Result<Self> {
        let held = TcpSocket::new_v4()?;
        held.set_reuseaddr(true)?;
        held.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Port {
            address: held.local_addr()?,
            _held: held,
        })
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_refuses_until_somebody_listens() {
        let port = Port::reserve().unwrap();
        assert!(TcpStream::connect(port.address()).is_err());
        let listener = TcpListener::bind(port.address()).unwrap();
        assert!(TcpStream::connect(port.address()).is_ok());
        drop(listener);
        assert!(TcpStream::connect(port.address()).is_err());
    }
}
