//! Many datagrams in one system call. By libc: nix's `recvmmsg` borrows its buffers for as long as its
//! headers live, so they could not be used again.

use super::gtpu::HEADER_MAX;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams in a batch.
pub(super) const BATCH: usize = 64;

/// Bytes of a slot; no frame of a lab is larger, jumbo frames included.
const SLOT_SIZE: usize = 9216;

/// One datagram: a buffer with room for a tunnel's header, the part of it in use, and the other side.
pub(super) struct Slot {
    buffer: [u8; SLOT_SIZE],
    start: usize,
    end: usize,
    peer: libc::sockaddr_in,
}

impl Slot {
    fn new() -> Self {
        Self { buffer: [0; SLOT_SIZE], start: 0, end: 0, peer: no_peer() }
    }

    /// The datagram.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Makes the last `length` bytes the datagram.
    pub(super) fn keep_last(&mut self, length: usize) {
        self.start = self.end - length;
    }

    /// Where a packet goes that is to get a header in front.
    pub(super) fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[HEADER_MAX..]
    }

    /// Makes `header` and the first `length` bytes of the payload the datagram.
    pub(super) fn prepend(&mut self, header: &[u8], length: usize) {
        self.start = HEADER_MAX - header.len();
        self.end = HEADER_MAX + length;
        self.buffer[self.start..HEADER_MAX].copy_from_slice(header);
    }

    pub(super) fn peer(&self) -> SocketAddrV4 {
        let address = Ipv4Addr::from_bits(u32::from_be(self.peer.sin_addr.s_addr));
        SocketAddrV4::new(address, u16::from_be(self.peer.sin_port))
    }

    pub(super) fn set_peer(&mut self, peer: SocketAddrV4) {
        self.peer = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: peer.port().to_be(),
            sin_addr: libc::in_addr { s_addr: peer.ip().to_bits().to_be() },
            sin_zero: [0; 8],
        };
    }
}

const fn no_peer() -> libc::sockaddr_in {
    libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: libc::in_addr { s_addr: 0 }, sin_zero: [0; 8] }
}

/// Up to [`BATCH`] datagrams.
pub(super) struct Batch {
    slots: Box<[Slot]>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { slots: (0..BATCH).map(|_| Slot::new()).collect() }
    }

    pub(super) fn slot(&mut self, index: usize) -> &mut Slot {
        &mut self.slots[index]
    }

    /// Exchanges two slots, or leaves one where it is.
    pub(super) fn swap(&mut self, a: usize, b: usize) {
        if a != b {
            self.slots.swap(a, b);
        }
    }

    /// Takes what has arrived, without waiting. Returns how many datagrams there are.
    ///
    /// # Errors
    /// An error of the socket other than that nothing has arrived.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for slot in &mut self.slots {
            // Room in front, for who puts a tunnel's header there.
            (slot.start, slot.end) = (HEADER_MAX, SLOT_SIZE);
        }
        let (mut headers, _vectors) = self.headers(BATCH);
        // SAFETY: each header points to a slot's address and, through its vector, to a slot's buffer, with
        // their lengths; both outlive the call, and nothing else uses them meanwhile.
        let received = unsafe {
            let no_limit = std::ptr::null_mut();
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                no_limit,
            )
        };
        let Ok(n_received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        };
        for (slot, header) in self.slots.iter_mut().zip(&headers[..n_received]) {
            slot.end = slot.start + header.msg_len as usize;
        }
        Ok(n_received)
    }

    /// Sends the first `n_datagrams`, and returns how many of them the socket refused.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, n_datagrams: usize) -> u64 {
        let (mut headers, _vectors) = self.headers(n_datagrams);
        let (mut rest, mut n_refused) = (&mut headers[..], 0);
        while !rest.is_empty() {
            // SAFETY: as in `receive`; the kernel only reads.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            // The error is the first datagram's, if that one could not be sent.
            let done = usize::try_from(sent).unwrap_or_else(|_| {
                n_refused += 1;
                1
            });
            rest = &mut rest[done..];
        }
        n_refused
    }

    /// Headers of the first `n_datagrams` slots, and the vectors that they point to.
    fn headers(&mut self, n_datagrams: usize) -> (Vec<libc::mmsghdr>, Vec<libc::iovec>) {
        let slots = &mut self.slots[..n_datagrams];
        let part = |slot: &mut Slot| libc::iovec {
            iov_base: slot.buffer[slot.start..].as_mut_ptr().cast(),
            iov_len: slot.end - slot.start,
        };
        let mut vectors: Vec<_> = slots.iter_mut().map(part).collect();
        let headers = slots.iter_mut().zip(&mut vectors).map(|(slot, vector)| {
            // SAFETY: a header of plain numbers and pointers, for which all zero is valid; private padding
            // on some C libraries forbids to name all fields.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut slot.peer).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        (headers.collect(), vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn datagrams_arrive_as_they_were_sent() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => address,
            std::net::SocketAddr::V6(address) => panic!("{address} is not IPv4"),
        };
        let mut batch = Batch::new();
        for (index, text) in ["one", "three"].iter().enumerate() {
            let slot = batch.slot(index);
            slot.payload_mut()[..text.len()].copy_from_slice(text.as_bytes());
            slot.prepend(b"> ", text.len());
            slot.set_peer(address(&b));
        }
        assert_eq!(batch.send(a.as_fd(), 2), 0);
        let mut received = Batch::new();
        assert_eq!(received.receive(b.as_fd()).unwrap(), 2);
        assert_eq!(received.slot(0).bytes(), b"> one");
        assert_eq!(received.slot(1).bytes(), b"> three");
        assert_eq!(received.slot(1).peer(), address(&a));
        assert_eq!(received.receive(b.as_fd()).unwrap(), 0);
    }
}
