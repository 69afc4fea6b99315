//! Packets byte by byte, written from the standards and not with the crate's wire types.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Ethernet header and payload.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ether_type.to_be_bytes(), payload].concat()
}

/// The same with one VLAN tag.
pub fn tagged(destination: [u8; 6], source: [u8; 6], vlan: u16, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let inner = [&vlan.to_be_bytes()[..], &ether_type.to_be_bytes(), payload].concat();
    ethernet(destination, source, 0x8100, &inner)
}

/// An IPv4 packet; fields not named in a case have the values of `new`.
#[derive(Clone)]
pub struct Ipv4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub tos: u8,
    pub id: u16,
    /// Flags and offset as one field.
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Ipv4 {
    /// UDP, TTL 64, no flags.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, payload: Vec<u8>) -> Self {
        let options = Vec::new();
        Self { source, destination, tos: 0, id: 0, fragment: 0, ttl: 64, protocol: 17, options, payload }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = (header_len + self.payload.len()) as u16;
        let mut packet = vec![0x40 | (header_len / 4) as u8, self.tos];
        packet.extend(total.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&self.payload);
        packet
    }
}

/// An IPv6 packet without extension headers.
#[derive(Clone)]
pub struct Ipv6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub traffic_class: u8,
    pub next_header: u8,
    pub hop_limit: u8,
    pub payload: Vec<u8>,
}

impl Ipv6 {
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, payload: Vec<u8>) -> Self {
        Self { source, destination, traffic_class: 0, next_header: 17, hop_limit: 64, payload }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let word = 6_u32 << 28 | u32::from(self.traffic_class) << 20;
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend((self.payload.len() as u16).to_be_bytes());
        packet.extend([self.next_header, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.payload);
        packet
    }
}

/// A UDP datagram with checksum zero.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    [&header[..], payload].concat()
}

/// The datagram with its checksum: over the pseudo-header of the addresses (RFC 768, RFC 8200 §8.1), too.
pub fn with_udp_checksum(source: &[u8], destination: &[u8], mut udp: Vec<u8>) -> Vec<u8> {
    let length = (udp.len() as u32).to_be_bytes();
    let pseudo = [source, destination, &length, &[0, 0, 0, 17]].concat();
    let sum = checksum(&[pseudo, udp.clone()].concat());
    let sum = if sum == 0 { 0xffff } else { sum };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    udp
}

/// A GTP-U message; `behind` is everything after the mandatory eight bytes.
pub fn gtpu(flags: u8, message: u8, teid: u32, behind: &[u8]) -> Vec<u8> {
    let mut packet = vec![flags, message];
    packet.extend((behind.len() as u16).to_be_bytes());
    packet.extend(teid.to_be_bytes());
    packet.extend(behind);
    packet
}

/// A G-PDU with a PDU Session Container: `pdu_type` 0 downlink, 1 uplink.
pub fn gtpu_with_container(teid: u32, pdu_type: u8, qfi: u8, inner: &[u8]) -> Vec<u8> {
    let behind = [&[0, 0, 0, 0x85, 1, pdu_type << 4, qfi, 0][..], inner].concat();
    gtpu(0x34, 255, teid, &behind)
}

/// The Internet checksum (RFC 1071), the slow and plain way.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// As `xxd -r -p` and Wireshark's import take it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two packets side by side where they differ, for a failed case.
pub fn difference(got: &[u8], wanted: &[u8]) -> String {
    let row = |bytes: &[u8], at: usize| {
        let part = bytes.iter().skip(at).take(16);
        part.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![format!("got {} bytes, wanted {}", got.len(), wanted.len())];
    for at in (0..got.len().max(wanted.len())).step_by(16) {
        let (left, right) = (row(got, at), row(wanted, at));
        if left != right {
            lines.push(format!("{at:4}: got    {left}\n      wanted {right}"));
        }
    }
    lines.join("\n")
}
