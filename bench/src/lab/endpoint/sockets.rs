//! A user-space UPF on sockets alone, without the TUN device: both directions in batches from one system call
//! to the next, as fast as sockets are. Users' packets leave by a raw socket and come in by a packet socket.

use super::config::{EndpointConfig, Tunnel};
use super::gtpu::{self, Header, Message, PduType};
use super::mmsg::{BATCH, Batch, Slot};
use super::{Counters, Endpoint, GTPU_PORT, SOCKET_BUFFER, count};
use crate::lab::command::IP;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

struct Sockets {
    gtpu: UdpSocket,
    /// Takes whole IPv4 packets.
    raw: OwnedFd,
    /// Gets all IPv4 packets of the data interface, from the IP header on.
    data: OwnedFd,
    by_teid: HashMap<u32, Tunnel>,
    by_address: HashMap<Ipv4Addr, Tunnel>,
    counters: Arc<Counters>,
    stop: Arc<EventFd>,
}

impl Endpoint {
    /// Starts a UPF in the calling thread's network namespace, whose users' packets go out and come in by the
    /// interface `data`. The kernel throws its own copies of them away (`tun.routes` become black holes).
    ///
    /// # Errors
    /// An address or interface that is not there, no privilege.
    pub fn start_on_sockets(config: &EndpointConfig, data: &str) -> Result<Self> {
        let local = SocketAddrV4::new(config.local, GTPU_PORT);
        let gtpu = UdpSocket::bind(local).with_context(|| format!("bind GTP-U socket to {local}"))?;
        let flags = SockFlag::SOCK_CLOEXEC;
        // IPPROTO_RAW: the packets that are sent have their IP headers (raw(7)).
        let raw =
            socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).context("raw socket")?;
        let sockets = Sockets {
            raw,
            data: open_data(data)?,
            by_teid: config.tunnels.iter().map(|it| (it.local_teid.0, it.clone())).collect(),
            by_address: config.tunnels.iter().map(|it| (it.ue, it.clone())).collect(),
            counters: Arc::default(),
            stop: Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?),
            gtpu,
        };
        for fd in [sockets.gtpu.as_fd(), sockets.raw.as_fd(), sockets.data.as_fd()] {
            setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER).context("SO_RCVBUFFORCE")?;
            setsockopt(&fd, sockopt::SndBufForce, &SOCKET_BUFFER).context("SO_SNDBUFFORCE")?;
        }
        for prefix in &config.tun.routes {
            IP.run(["route", "add", "blackhole", &prefix.to_string()])?;
        }
        let (counters, stop) = (sockets.counters.clone(), sockets.stop.clone());
        let data = Some(sockets.data.try_clone().context("packet socket")?);
        let mut endpoint = Self { counters, stop, threads: Vec::new(), data };
        let sockets = Arc::new(sockets);
        for (name, work) in [("uplink", uplink as fn(&Sockets)), ("downlink", downlink)] {
            let sockets = sockets.clone();
            let thread = std::thread::Builder::new().name(name.to_owned());
            endpoint.threads.push(thread.spawn(move || work(&sockets)).context("start a thread")?);
        }
        Ok(endpoint)
    }
}

fn open_data(interface: &str) -> Result<OwnedFd> {
    // With protocol 0 it receives nothing until it is bound, so nothing of other interfaces.
    let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let fd = fd.context("packet socket")?;
    let index = nix::net::if_::if_nametoindex(interface);
    let index = index.with_context(|| format!("no interface {interface}"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address lives through the call and its length is its own.
    let bound = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    ensure!(bound == 0, "bind to {interface}: {}", io::Error::last_os_error());
    Ok(fd)
}

/// Packets that did not fit the buffer of a packet socket since this was asked last.
pub(super) fn lost(socket: BorrowedFd<'_>) -> u64 {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: value and length live through the call, and the length is the value's.
    unsafe {
        let value = (&raw mut statistics).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_STATISTICS, value, &raw mut length)
    };
    u64::from(statistics.tp_drops)
}

/// Of linux/if_packet.h.
const PACKET_STATISTICS: libc::c_int = 6;

impl Sockets {
    /// Waits until there is something to read; false when the endpoint is to stop.
    fn wait(&self, source: BorrowedFd<'_>) -> bool {
        let mut fds =
            [PollFd::new(source, PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => !fds[1].any().unwrap_or(true),
            Err(errno) => errno == Errno::EINTR,
        }
    }

    /// Takes batches of `from`, keeps the slots that `work` makes a packet of, and sends those to `to`.
    fn pump(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, work: impl Fn(&mut Slot) -> bool) {
        let mut batch = Batch::new();
        while self.wait(from) {
            // Until nothing is left: a system call for each batch and not two.
            loop {
                let received = batch.receive(from).unwrap_or_else(|_| {
                    count(&self.counters.errors, 1);
                    0
                });
                let mut kept = 0;
                for index in 0..received {
                    if work(batch.slot(index)) {
                        batch.swap(kept, index);
                        kept += 1;
                    }
                }
                count(&self.counters.errors, batch.send(to, kept));
                if received < BATCH {
                    break;
                }
            }
        }
    }
}

fn uplink(sockets: &Sockets) {
    sockets.pump(sockets.gtpu.as_fd(), sockets.raw.as_fd(), |slot| {
        let (counters, peer) = (&sockets.counters, slot.peer());
        let inner = match gtpu::parse(slot.bytes()) {
            Message::GPdu { teid, packet } => match sockets.by_teid.get(&teid) {
                Some(tunnel) if gtpu::source(packet) == Some(tunnel.ue) => packet.len(),
                Some(_) => return refuse(&counters.spoofed),
                None => return refuse(&counters.unknown_teid),
            },
            Message::EchoRequest { sequence } => {
                count(&counters.echo_requests, 1);
                // TS 29.281 §4.4.2.3: to the port that the request came from.
                if sockets.gtpu.send_to(&gtpu::echo_response(sequence), peer).is_err() {
                    count(&counters.errors, 1);
                }
                return false;
            }
            Message::Other => return refuse(&counters.other_messages),
            Message::Malformed => return refuse(&counters.malformed),
        };
        count(&counters.decapsulated, 1);
        count(&counters.decapsulated_bytes, inner as u64);
        slot.keep_last(inner);
        let packet = slot.bytes_mut();
        let Some(destination) = gtpu::destination(packet) else { return refuse(&counters.malformed) };
        if !gtpu::hop(packet) {
            return refuse(&counters.malformed);
        }
        slot.set_peer(SocketAddrV4::new(destination, 0));
        true
    });
}

fn downlink(sockets: &Sockets) {
    sockets.pump(sockets.data.as_fd(), sockets.gtpu.as_fd(), |slot| {
        let counters = &sockets.counters;
        let packet = slot.bytes_mut();
        let length = packet.len();
        let tunnel = gtpu::destination(packet).and_then(|user| sockets.by_address.get(&user));
        let Some(tunnel) = tunnel else { return refuse(&counters.unknown_address) };
        if !gtpu::hop(packet) {
            return refuse(&counters.malformed);
        }
        let container = tunnel.qfi.map(|qfi| (PduType::Downlink, qfi));
        slot.prepend(Header::new(tunnel.peer_teid.0, container, length).bytes(), length);
        slot.set_peer(SocketAddrV4::new(tunnel.peer, GTPU_PORT));
        count(&counters.encapsulated, 1);
        count(&counters.encapsulated_bytes, length as u64);
        true
    });
}

fn refuse(counter: &std::sync::atomic::AtomicU64) -> bool {
    count(counter, 1);
    false
}
