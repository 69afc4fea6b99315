//! Packets that are made up, of the crate's own headers.

use super::SENDER;
use netplane_common::map::Port;
use netplane_common::wire::ethernet::{EtherType, Ethernet, Mac, VlanTag};
use netplane_common::wire::gtpu::{self, Gtpu, GtpuOptional, PduSessionContainer, extension, message};
use netplane_common::wire::ip::{self, Ipv4, Ipv6, protocol};
use netplane_common::wire::udp::Udp;
use netplane_common::wire::{Be16, Be32};
use std::net::IpAddr;
use zerocopy::IntoBytes;

const TTL: u8 = 64;

/// What is inside: a datagram to a port of no meaning, 64 bytes.
const PORT: Be16 = Be16::new(40_000);
const PAYLOAD: [u8; 64] = [0; 64];

/// A G-PDU from a peer.
pub(super) struct GPdu {
    /// The endpoint's MAC.
    pub(super) to: Mac,
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
    pub(super) teid: u32,
    pub(super) qfi: Option<u8>,
    /// The user and the correspondent.
    pub(super) inner: (IpAddr, IpAddr),
}

impl std::fmt::Display for GPdu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { peer, local, teid, inner: (ue, to), .. } = self;
        write!(f, "{peer} > {local} TEID {teid:#x} ")?;
        if let Some(qfi) = self.qfi {
            write!(f, "QFI {qfi} ")?;
        }
        write!(f, "[{ue} > {to} UDP]")
    }
}

/// The frame of a G-PDU.
pub(super) fn uplink(g_pdu: &GPdu, port: Port) -> Vec<u8> {
    let inner = datagram(g_pdu.inner.0, g_pdu.inner.1, PORT, &PAYLOAD);
    let mut behind = Vec::new();
    if let Some(qfi) = g_pdu.qfi {
        let optional = GtpuOptional {
            sequence: Be16::new(0),
            n_pdu: 0,
            next_extension: extension::PDU_SESSION_CONTAINER,
        };
        let container = PduSessionContainer {
            length: 1,
            pdu_type: PduSessionContainer::UPLINK,
            qfi,
            next_extension: extension::NONE,
        };
        behind.extend_from_slice(optional.as_bytes());
        behind.extend_from_slice(container.as_bytes());
    }
    behind.extend(inner);
    let header = Gtpu {
        flags: Gtpu::VERSION_1 | if g_pdu.qfi.is_some() { Gtpu::E } else { 0 },
        message: message::G_PDU,
        length: len(behind.len()),
        teid: Be32::new(g_pdu.teid),
    };
    let gtpu = [header.as_bytes(), &behind].concat();
    ethernet(g_pdu.to, port, &datagram(g_pdu.peer, g_pdu.local, gtpu::PORT, &gtpu), g_pdu.local.is_ipv4())
}

/// The frame of a user's packet from the data network.
pub(super) fn downlink(to: Mac, from: IpAddr, ue: IpAddr, port: Port) -> Vec<u8> {
    ethernet(to, port, &datagram(from, ue, PORT, &PAYLOAD), ue.is_ipv4())
}

fn ethernet(destination: Mac, port: Port, packet: &[u8], v4: bool) -> Vec<u8> {
    let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let vlan = port.vlan;
    let outer = if vlan == 0 { ether_type } else { EtherType::VLAN };
    let mut frame = Ethernet { destination, source: SENDER, ether_type: outer }.as_bytes().to_vec();
    if vlan != 0 {
        frame.extend_from_slice(VlanTag { tci: Be16::new(vlan), ether_type }.as_bytes());
    }
    frame.extend_from_slice(packet);
    frame
}

/// An IP packet with a datagram. Addresses of two families do not come.
fn datagram(source: IpAddr, destination: IpAddr, port: Be16, payload: &[u8]) -> Vec<u8> {
    let length = Udp::LEN + payload.len();
    let udp = Udp { source: port, destination: port, length: len(length), checksum: Be16::new(0) };
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4 {
                version_ihl: Ipv4::VERSION_IHL,
                tos: 0,
                total_length: len(Ipv4::LEN + length),
                identification: Be16::new(0),
                fragment: Ipv4::DF,
                ttl: TTL,
                protocol: protocol::UDP,
                checksum: Be16::new(0),
                source: source.into(),
                destination: destination.into(),
            };
            header.checksum = header.compute_checksum();
            header.as_bytes().to_vec()
        }
        (source, destination) => {
            let header = Ipv6 {
                version_class_flow: Be32::new(6 << 28),
                payload_length: len(length),
                next_header: protocol::UDP,
                hop_limit: TTL,
                source: ip::mapped_address(source),
                destination: ip::mapped_address(destination),
            };
            header.as_bytes().to_vec()
        }
    };
    [&header, udp.as_bytes(), payload].concat()
}

fn len(bytes: usize) -> Be16 {
    Be16::new(u16::try_from(bytes).unwrap_or(u16::MAX))
}
