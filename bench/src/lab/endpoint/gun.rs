//! Ready-made G-PDUs, sent by the batch from a gNB's address: packets that no honest user sends, and more
//! of them than a user behind a TUN device can.

use super::gtpu::{Header, PduType};
use super::mmsg::{BATCH, Batch};
use super::{GTPU_PORT, SOCKET_BUFFER};
use crate::lab::users::User;
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// One G-PDU with a UDP datagram of zeroes in it.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub teid: u32,
    pub qfi: Option<u8>,
    /// Of the inner packet, as its destination.
    pub source: Ipv4Addr,
    pub destination: SocketAddrV4,
    pub ttl: u8,
    /// Bytes of the inner packet.
    pub length: u16,
}

impl Shot {
    /// An honest packet of a user.
    pub fn of(user: &User, destination: SocketAddrV4, length: u16) -> Self {
        Self { teid: user.uplink.0, qfi: user.qfi, source: user.ue, destination, ttl: 64, length }
    }

    /// GTP-U header and inner packet.
    fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0; usize::from(self.length.max(28))];
        let length = (packet.len() as u16).to_be_bytes();
        // RFC 791 §3.1: version 4, five words; do not fragment.
        packet[..10].copy_from_slice(&[
            0x45,
            0,
            length[0],
            length[1],
            0,
            0,
            0x40,
            0,
            self.ttl,
            libc::IPPROTO_UDP as u8,
        ]);
        packet[12..16].copy_from_slice(&self.source.octets());
        packet[16..20].copy_from_slice(&self.destination.ip().octets());
        let checksum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet[20..22].copy_from_slice(&self.destination.port().to_be_bytes());
        packet[22..24].copy_from_slice(&self.destination.port().to_be_bytes());
        let datagram = (packet.len() - 20) as u16;
        packet[24..26].copy_from_slice(&datagram.to_be_bytes());
        let header = Header::new(self.teid, self.qfi.map(|qfi| (PduType::Uplink, qfi)), packet.len());
        [header.bytes(), &packet].concat()
    }
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// A socket of the calling thread's network namespace, loaded with up to a batch of shots.
pub struct Gun {
    socket: UdpSocket,
    batch: Batch,
    n_shots: usize,
}

impl Gun {
    /// From any port of `local` (TS 29.281 §4.4.2: the source port is the sender's to choose) to `upf`.
    ///
    /// # Errors
    /// No such address, too many shots, or none.
    pub fn load(local: Ipv4Addr, upf: Ipv4Addr, shots: &[Shot]) -> Result<Self> {
        ensure!((1..=BATCH).contains(&shots.len()), "{} shots are not 1 to {BATCH}", shots.len());
        let socket = UdpSocket::bind((local, 0)).with_context(|| format!("bind to {local}"))?;
        setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).context("SO_SNDBUFFORCE")?;
        let mut batch = Batch::new();
        for (index, shot) in shots.iter().enumerate() {
            let (slot, bytes) = (batch.slot(index), shot.bytes());
            slot.payload_mut()[..bytes.len()].copy_from_slice(&bytes);
            slot.prepend(&[], bytes.len());
            slot.set_peer(SocketAddrV4::new(upf, GTPU_PORT));
        }
        Ok(Self { socket, batch, n_shots: shots.len() })
    }

    /// Sends each shot once.
    ///
    /// # Errors
    /// The socket refused some.
    pub fn fire(&mut self) -> Result<()> {
        let n_refused = self.batch.send(self.socket.as_fd(), self.n_shots);
        ensure!(n_refused == 0, "the socket refused {n_refused} of {} packets", self.n_shots);
        Ok(())
    }

    /// Sends them over and over for so long, and returns how many were sent.
    pub fn fire_for(&mut self, time: Duration) -> u64 {
        let (deadline, mut n_sent) = (Instant::now() + time, 0);
        while Instant::now() < deadline {
            n_sent += self.n_shots as u64 - self.batch.send(self.socket.as_fd(), self.n_shots);
        }
        n_sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shot_is_an_ipv4_packet_in_a_tunnel() {
        let shot = Shot {
            teid: 0x1001,
            qfi: Some(9),
            source: Ipv4Addr::new(10, 60, 0, 1),
            destination: SocketAddrV4::new(Ipv4Addr::new(10, 50, 0, 1), 9),
            ttl: 64,
            length: 30,
        };
        let bytes = shot.bytes();
        assert_eq!(bytes[..8], [0x34, 255, 0, 38, 0, 0, 0x10, 1]);
        let packet = &bytes[16..];
        assert_eq!(packet.len(), 30);
        assert_eq!(packet[..10], [0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 17]);
        // A header with its checksum sums up to zero (RFC 1071 §1).
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(packet[20..28], [0, 9, 0, 9, 0, 10, 0, 0]);
    }
}
