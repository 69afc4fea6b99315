//! Large packets, which XDP gets in fragments: for the kernel and slices to agree on.

use super::answers::answering;
use super::cases::*;
use super::ipv6::from_gnb6;
use super::packet::{self, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::MapTables;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of IP packet on all links, and of the users' largest.
pub const MTU: u16 = 9000;
pub const UE_MTU: u16 = MTU - 44;

/// The tables of answering pods on links with large frames. IPv6 users are reached over IPv6, and so is what
/// peers relay over IPv6: with full checksums.
pub fn tables() -> MapTables {
    let mut tables = answering();
    tables.next_hops.values_mut().for_each(|it| it.mtu = MTU);
    tables.downlink4.values_mut().for_each(|it| it.mtu = UE_MTU);
    for entry in tables.downlink6.values_mut() {
        entry.mtu = UE_MTU - 20;
        entry.next_hop = TO_GNB6;
    }
    if let Some(entry) = tables.uplink6.get_mut(&uplink_key6(RELAY_TEID)) {
        entry.next_hop4 = TO_PEER6;
    }
    tables
}

/// What a packet is, with the packet.
pub struct Jumbo {
    pub name: &'static str,
    pub packet: Vec<u8>,
    /// Where the packet ends, by what its headers say.
    pub end: usize,
    /// Whether it goes on if it is not too large.
    pub sound: bool,
}

/// Frames around users' packets of so many bytes, 48 at least.
pub fn frames(size: usize) -> Vec<Jumbo> {
    let data = |header: usize| packet::udp(40_000, 53, &pattern(size - header - 8));
    let four = |source: Ipv4Addr, destination| Ipv4::new(source, destination, data(20)).bytes();
    let six = |source: Ipv6Addr, destination| Ipv6::new(source, destination, data(40)).bytes();
    let up = packet::gtpu_with_container(TEID, 1, QFI, &four(UE, SERVER));
    let up6 = packet::gtpu(0x30, 255, TEID, &six(UE6, SERVER6));
    let relayed = packet::gtpu(0x30, 255, RELAY_TEID, &four(UE, SERVER));
    let to_user6 = packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &six(SERVER6, UE6));
    let sound = |name, packet: Vec<u8>| Jumbo { name, end: packet.len(), packet, sound: true };
    let with_rest = |name, frame: Vec<u8>| {
        let packet = [&frame[..], &pattern(size / 9 + 1)].concat();
        Jumbo { packet, ..sound(name, frame) }
    };
    let short = |name, mut frame: Vec<u8>| {
        let end = frame.len();
        frame.pop();
        Jumbo { name, packet: frame, end, sound: false }
    };
    vec![
        sound("decapsulate", from_gnb(&up)),
        sound("decapsulate, all IPv6", from_gnb6(&up6)),
        sound("encapsulate", from_router(&four(SERVER, UE))),
        sound("encapsulate, all IPv6, full checksum", to_user6.clone()),
        sound("relay", from_gnb(&relayed)),
        sound("relay, all IPv6, full checksum", from_gnb6(&relayed)),
        with_rest("decapsulate, bytes behind the packet", from_gnb(&up)),
        with_rest("encapsulate, full checksum, bytes behind the packet", to_user6.clone()),
        short("a byte is missing of a G-PDU", from_gnb(&up)),
        short("a byte is missing of a packet to a user", to_user6),
    ]
}

/// Bytes none of which could be left out or be twice without a sum that changes.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|it| (it * 7 + it / 256) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::super::invariants::{judge, pass_on_wire};
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn slices_forward_them_up_to_the_mtu() {
        let tables = tables();
        for size in [48, 1500, 8900, 8936, 9001] {
            for Jumbo { name, packet, sound, .. } in frames(size) {
                let passage = pass_on_wire(&tables, &packet);
                judge(&tables, &packet, &passage).unwrap_or_else(|it| panic!("{name}, {size}: {it}"));
                let forwarded = matches!(passage.verdict, Verdict::Transmit | Verdict::Redirect { .. });
                assert_eq!(forwarded, sound && size <= 8936, "{name}, {size}: {:?}", passage.verdict);
            }
        }
    }
}
