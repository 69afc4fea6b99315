//! Real traffic between two hosts of a lab, by the sockets of their kernels.

pub mod ping;

pub mod tcp;

pub mod udp;

pub use ping::{PingReport, ping};
pub use tcp::TcpReport;
pub use udp::{EchoServer, Stream, StreamReport, UdpReport};

use super::namespace::Namespace;
use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// How long a silent socket is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One address of a host: where traffic starts or ends.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    pub namespace: &'a Namespace,
    pub address: Ipv4Addr,
}

impl Host<'_> {
    /// A socket of the host, bound to the address and `port` (0: any).
    fn socket(&self, kind: SockType, port: u16) -> Result<OwnedFd> {
        let address = SockaddrIn::from(SocketAddrV4::new(self.address, port));
        self.namespace.run(|| {
            let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).context("socket")?;
            // Connections that have just ended do not keep the port from the next ones.
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            bind(fd.as_raw_fd(), &address).with_context(|| format!("bind to {address}"))?;
            Ok(fd)
        })?
    }
}
