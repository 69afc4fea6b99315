//! A GTP-U endpoint in user space: a TUN device on the one side, a UDP socket on the other. It is the
//! gNB with its users behind it, and, in a pod, the plain user-space UPF to compare netplane with: table
//! lookups, batches of system calls (recvmmsg, sendmmsg), one thread a direction, no more and no less.
//!
//! It has its own few lines of GTP-U on purpose: as the peer of the code under test it must not share
//! that code's mistakes.

mod config;

mod gtpu;

mod gun;

mod mmsg;

mod sockets;

mod tun;

pub use config::{EndpointConfig, Role, Teid, TunConfig, Tunnel};
pub use gun::{Gun, Shot};

use anyhow::{Context, Result};
use gtpu::Message;
use mmsg::{BATCH, Batch};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// UDP port of GTP-U (TS 29.281 §4.4.2).
pub const GTPU_PORT: u16 = 2152;

/// Socket buffers in bytes: enough that a busy machine loses nothing between two turns of a thread.
const SOCKET_BUFFER: usize = 32 << 20;

/// A running endpoint. It stops, and its TUN device goes, when it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    counters: Arc<Counters>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    /// The packet socket, if there is one.
    data: Option<OwnedFd>,
}

/// What both threads work with.
struct Shared {
    role: Role,
    socket: UdpSocket,
    tun: File,
    by_teid: HashMap<u32, Tunnel>,
    by_address: HashMap<Ipv4Addr, Tunnel>,
    counters: Arc<Counters>,
    stop: Arc<EventFd>,
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        #[derive(Debug, Default)]
        struct Counters { $($name: AtomicU64,)+ }

        /// What an endpoint has done so far, in packets unless said otherwise.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct EndpointCounters { $($(#[$doc])+ pub $name: u64,)+ }

        impl Counters {
            fn snapshot(&self) -> EndpointCounters {
                EndpointCounters { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Taken from the TUN device and sent in a tunnel.
    encapsulated,
    /// Inner bytes of those.
    encapsulated_bytes,
    /// Received in a tunnel and written to the TUN device.
    decapsulated,
    /// Inner bytes of those.
    decapsulated_bytes,
    /// From the TUN device, but of no tunnel's user.
    unknown_address,
    /// G-PDUs with a TEID of no tunnel.
    unknown_teid,
    /// G-PDUs whose inner packet is not the tunnel's user's.
    spoofed,
    /// Not GTP-U, or a header that contradicts itself.
    malformed,
    /// Echo Requests, all answered.
    echo_requests,
    /// Other GTP-U messages, all ignored.
    other_messages,
    /// The socket or the device refused a packet.
    errors,
    /// From the data network, when the socket's buffer was full.
    lost,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Endpoint {
    /// Starts an endpoint in the calling thread's network namespace: makes the TUN device with its routes
    /// and opens the socket.
    ///
    /// # Errors
    /// No TUN device, an address that is not there, no privilege.
    pub fn start(config: &EndpointConfig) -> Result<Self> {
        let local = SocketAddrV4::new(config.local, GTPU_PORT);
        let socket = UdpSocket::bind(local).with_context(|| format!("bind GTP-U socket to {local}"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).context("SO_RCVBUFFORCE")?;
        setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).context("SO_SNDBUFFORCE")?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("eventfd")?;
        let (stop, counters) = (Arc::new(stop), Arc::new(Counters::default()));
        let shared = Arc::new(Shared {
            role: config.role,
            socket,
            tun: tun::open(&config.tun)?,
            by_teid: config.tunnels.iter().map(|it| (it.local_teid.0, it.clone())).collect(),
            by_address: config.tunnels.iter().map(|it| (it.ue, it.clone())).collect(),
            counters: counters.clone(),
            stop: stop.clone(),
        });
        let mut endpoint = Self { counters, stop, threads: Vec::new(), data: None };
        for (name, work) in [("to-tunnel", to_tunnel as fn(&Shared)), ("from-tunnel", from_tunnel)] {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned());
            endpoint.threads.push(thread.spawn(move || work(&shared)).context("start a thread")?);
        }
        Ok(endpoint)
    }

    /// What it has done so far.
    pub fn counters(&self) -> EndpointCounters {
        if let Some(data) = &self.data {
            count(&self.counters.lost, sockets::lost(data.as_fd()));
        }
        self.counters.snapshot()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // An eventfd that nobody reads cannot be full after one write.
        let _written = self.stop.write(1);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed; there is nobody to hand it on to here.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    /// Waits until there is something to read from `source`; false when the endpoint is to stop.
    fn wait(&self, source: BorrowedFd<'_>) -> bool {
        let mut fds =
            [PollFd::new(source, PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => !fds[1].any().unwrap_or(true),
            Err(errno) => errno == Errno::EINTR,
        }
    }
}

/// Users' packets from the TUN device into their tunnels.
fn to_tunnel(shared: &Shared) {
    let mut batch = Batch::new();
    while shared.wait(shared.tun.as_fd()) {
        let n_packets = fill(shared, &mut batch);
        count(&shared.counters.errors, batch.send(shared.socket.as_fd(), n_packets));
    }
}

/// Reads packets until the device has no more or the batch is full, and puts the tunnels' headers in
/// front of them. Returns how many there are to send.
fn fill(shared: &Shared, batch: &mut Batch) -> usize {
    let (mut n_packets, counters) = (0, &shared.counters);
    while n_packets < BATCH {
        let slot = batch.slot(n_packets);
        let Ok(length) = nix::unistd::read(&shared.tun, slot.payload_mut()) else { break };
        let packet = &slot.payload_mut()[..length];
        let user = match shared.role {
            Role::Gnb => gtpu::source(packet),
            Role::Upf => gtpu::destination(packet),
        };
        let Some(tunnel) = user.and_then(|user| shared.by_address.get(&user)) else {
            count(&counters.unknown_address, 1);
            continue;
        };
        let pdu_type = match shared.role {
            Role::Gnb => gtpu::PduType::Uplink,
            Role::Upf => gtpu::PduType::Downlink,
        };
        let header = gtpu::Header::new(tunnel.peer_teid.0, tunnel.qfi.map(|qfi| (pdu_type, qfi)), length);
        slot.prepend(header.bytes(), length);
        slot.set_peer(SocketAddrV4::new(tunnel.peer, GTPU_PORT));
        count(&counters.encapsulated, 1);
        count(&counters.encapsulated_bytes, length as u64);
        n_packets += 1;
    }
    n_packets
}

/// G-PDUs from the socket to the TUN device.
fn from_tunnel(shared: &Shared) {
    let mut batch = Batch::new();
    while shared.wait(shared.socket.as_fd()) {
        let n_messages = batch.receive(shared.socket.as_fd()).unwrap_or_else(|_| {
            // The error that ICMP brought for something sent earlier; reading has cleared it.
            count(&shared.counters.errors, 1);
            0
        });
        for index in 0..n_messages {
            let slot = batch.slot(index);
            receive(shared, slot.bytes(), slot.peer());
        }
    }
}

fn receive(shared: &Shared, message: &[u8], peer: SocketAddrV4) {
    let counters = &shared.counters;
    match gtpu::parse(message) {
        Message::GPdu { teid, packet } => {
            let Some(tunnel) = shared.by_teid.get(&teid) else {
                return count(&counters.unknown_teid, 1);
            };
            let user = match shared.role {
                Role::Gnb => gtpu::destination(packet),
                Role::Upf => gtpu::source(packet),
            };
            if user != Some(tunnel.ue) {
                return count(&counters.spoofed, 1);
            }
            if (&shared.tun).write(packet).is_err() {
                return count(&counters.errors, 1);
            }
            count(&counters.decapsulated, 1);
            count(&counters.decapsulated_bytes, packet.len() as u64);
        }
        Message::EchoRequest { sequence } => {
            count(&counters.echo_requests, 1);
            // TS 29.281 §4.4.2.3: to the port that the request came from.
            if shared.socket.send_to(&gtpu::echo_response(sequence), peer).is_err() {
                count(&counters.errors, 1);
            }
        }
        Message::Other => count(&counters.other_messages, 1),
        Message::Malformed => count(&counters.malformed, 1),
    }
}
