//! What goes over a wire: a packet socket on an interface, and pcap files.

use super::namespace::Namespace;
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, setsockopt, socket, sockopt};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// One frame, from the destination MAC on, without FCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Since 1970.
    pub at: Duration,
    /// Sent by the host with the interface; else received by it.
    pub outgoing: bool,
    pub bytes: Vec<u8>,
}

/// A capture in progress.
#[derive(Debug)]
pub struct Capture(Watch<Vec<Frame>>);

/// Bytes of frames that wait for the capturing thread.
const SOCKET_BUFFER: usize = 64 << 20;

impl Capture {
    /// Starts to capture all frames on an interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        Watch::start(namespace, interface, Vec::new(), Vec::push).map(Self)
    }

    /// Ends it. What has passed the interface before this call is in the result.
    ///
    /// # Errors
    /// The capturing thread panicked.
    pub fn stop(self) -> Result<Vec<Frame>> {
        self.0.stop()
    }
}

/// Somebody who looks at each frame on an interface and keeps what is to be known of them.
#[derive(Debug)]
pub struct Watch<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Watch<T> {
    /// Hands all frames on an interface to `look`, with what was kept so far.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn start(namespace: &Namespace, interface: &str, kept: T, look: fn(&mut T, Frame)) -> Result<Self> {
        let socket = namespace.run(|| open(interface, libc::ETH_P_ALL))??;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || collect(&socket, &seen, kept, look));
        Ok(Self { stop, thread })
    }

    /// Ends it. All that has passed the interface before this call was looked at.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn stop(self) -> Result<T> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok().context("the capturing thread panicked")
    }
}

/// A socket that sends frames as they are, from an interface on.
#[derive(Debug)]
pub struct FrameSender(OwnedFd);

impl FrameSender {
    /// # Errors
    /// There is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        // With protocol 0 it receives nothing.
        Ok(Self(namespace.run(|| open(interface, 0))??))
    }

    /// Whether the kernel took the frame.
    pub fn send(&self, frame: &[u8]) -> bool {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).is_ok()
    }
}

fn open(interface: &str, protocol: libc::c_int) -> Result<OwnedFd> {
    // With protocol 0 it receives nothing until it is bound, so nothing of other interfaces.
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("packet socket (CAP_NET_RAW is needed)")?;
    setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER).context("SO_RCVBUFFORCE")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 50_000))?;
    let index =
        nix::net::if_::if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address lives through the call and its length is its own.
    let bound = unsafe {
        let length = size_of_val(&address) as libc::socklen_t;
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length)
    };
    ensure!(bound == 0, "bind to {interface}: {}", io::Error::last_os_error());
    Ok(fd)
}

fn collect<T>(socket: &OwnedFd, stop: &AtomicBool, mut kept: T, look: fn(&mut T, Frame)) -> T {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // Read before receiving: an empty socket after that means that all has been taken.
        let last = stop.load(Ordering::Acquire);
        match receive(socket, &mut buffer) {
            Ok(frame) => look(&mut kept, frame),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The time-out, or an interface that is gone.
            Err(_) if last => return kept,
            Err(_) => {}
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Frame> {
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut address_length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: buffer and address live through the call, with their lengths.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut address).cast(),
            &raw mut address_length,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Frame {
        at: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        bytes: buffer[..length].to_vec(),
    })
}

/// Writes frames as a pcap file with nanoseconds.
///
/// # Errors
/// The file cannot be written.
pub fn write_pcap(path: &Path, frames: &[Frame]) -> Result<()> {
    const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
    const LINKTYPE_ETHERNET: u32 = 1;
    const SNAPLEN: u32 = 1 << 18;
    let mut bytes = Vec::new();
    bytes.extend(MAGIC_NANOSECONDS.to_ne_bytes());
    bytes.extend([2_u16, 4].map(u16::to_ne_bytes).concat());
    bytes.extend([0_u32, 0, SNAPLEN, LINKTYPE_ETHERNET].map(u32::to_ne_bytes).concat());
    for Frame { at, bytes: frame, .. } in frames {
        let length = u32::try_from(frame.len()).context("frame length")?;
        // The format's seconds are 32 bits wide.
        let seconds = at.as_secs() as u32;
        bytes.extend([seconds, at.subsec_nanos(), length, length].map(u32::to_ne_bytes).concat());
        bytes.extend(frame);
    }
    let mut file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(&bytes).with_context(|| format!("write {}", path.display()))
}
