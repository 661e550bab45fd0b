//! Loopback ports that stay free between the parallel tests of a machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use crate::{Error, Result};

// Below the range from which Linux picks the local ports of outgoing connections by default, so that no client takes the port of a server while that is down.
const CANDIDATES: std::ops::Range<u16> = 15_000..32_000;
const TRIES: usize = 2_000;

/// A claimed loopback port: no other fixture on this machine gets it, in whatever process, until it is dropped.
///
/// The claim is an abstract Unix socket named after the port. The kernel keeps its name unique, as it does with the port, and gives it back when the process ends in whatever way;
/// the port itself stays unbound, for a server to bind and to bind again after a restart.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims a port on which nothing listens.
    ///
    /// # Errors
    ///
    /// [`Error::NoPort`] when no candidate is free.
    pub fn claim() -> Result<Self> {
        (0..TRIES).find_map(|_| Self::try_claim(fastrand::u16(CANDIDATES))).ok_or(Error::NoPort { tried: TRIES })
    }

    fn try_claim(number: u16) -> Option<Self> {
        let name = UnixAddr::from_abstract_name(format!("lock-fixture-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: claim })
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The loopback address with this port.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_cannot_be_claimed_again_until_it_is_dropped() {
        let port = Port::claim().unwrap();
        assert!(Port::try_claim(port.number()).is_none());
        let number = port.number();
        drop(port);
        assert!(Port::try_claim(number).is_some());
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_free() {
        let port = Port::claim().unwrap();
        let number = port.number();
        let _listener = TcpListener::bind(port.addr()).unwrap();
        drop(port);
        assert!(Port::try_claim(number).is_none());
    }
}
