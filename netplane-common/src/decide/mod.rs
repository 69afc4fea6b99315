//! The forwarding decision: frame and tables in, verdict out, the frame rewritten if it is forwarded.
//!
//! The order is always the same: find the session, check everything that can go wrong, and only then
//! change bytes. What is not for one of our endpoints, or not fully understood, passes as it came.

mod downlink;
mod icmp;
mod outer;
mod relay;
mod rules;
mod signalling;
mod uplink;

use crate::frame::Frame;
use crate::map::{NO_INDEX, NextHop, Port};
use crate::tables::Tables;
use crate::verdict::{Packed, Reason, Verdict};
use crate::wire::ethernet::{EtherType, Ethernet, Mac, VlanTag};
use crate::wire::gtpu;
use crate::wire::ip::{Ipv4, Ipv6, protocol};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32};

/// How a frame arrived.
#[derive(Clone, Copy)]
struct Arrival {
    port: Port,
    /// Destination MAC: an endpoint takes only frames to its own.
    mac: Mac,
    /// Offset of the network header.
    l3: usize,
}

/// Decides on one frame that came in by the interface `ifindex`, and rewrites it if it is forwarded.
pub fn decide<F: Frame, T: Tables>(frame: &mut F, tables: &T, ifindex: u32) -> Verdict {
    packed(frame, tables, ifindex).into()
}

/// As [`decide`], for the programs.
#[inline(always)]
pub fn packed<F: Frame, T: Tables>(frame: &mut F, tables: &T, ifindex: u32) -> Packed {
    let Some(ethernet) = frame.load::<Ethernet>(0) else {
        return Packed::PASS;
    };
    let mac = ethernet.destination;
    // Every entry has a MAC, and takes packets to it only.
    if tables.is_nobodys(mac) {
        return Packed::PASS;
    }
    if let Some(tci) = frame.stripped_vlan() {
        let vlan = VlanTag { tci: Be16::new(tci), ether_type: ethernet.ether_type }.id();
        let arrival = Arrival { port: Port::new(ifindex, vlan), mac, l3: Ethernet::LEN };
        return network_layer(frame, tables, arrival, ethernet.ether_type);
    }
    if !ethernet.ether_type.is_vlan() {
        let arrival = Arrival { port: Port::new(ifindex, 0), mac, l3: Ethernet::LEN };
        return network_layer(frame, tables, arrival, ethernet.ether_type);
    }
    let Some(tag) = frame.load::<VlanTag>(Ethernet::LEN) else {
        return Packed::PASS;
    };
    let arrival = Arrival { port: Port::new(ifindex, tag.id()), mac, l3: Ethernet::LEN + VlanTag::LEN };
    // Under a second tag this is no EtherType of ours, and passes.
    network_layer(frame, tables, arrival, tag.ether_type)
}

#[inline(always)]
fn network_layer<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    ether_type: EtherType,
) -> Packed {
    match ether_type {
        EtherType::IPV4 => ipv4(frame, tables, arrival),
        EtherType::IPV6 => ipv6(frame, tables, arrival),
        _ => Packed::PASS,
    }
}

#[inline(always)]
fn ipv4<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: Arrival) -> Packed {
    let Some(header) = frame.load::<Ipv4>(arrival.l3) else {
        return Packed::PASS;
    };
    // Options and fragments in front of GTP-U are the pod's kernel's to take apart.
    if header.version_ihl == Ipv4::VERSION_IHL && header.protocol == protocol::UDP && !header.is_fragment() {
        let Some(udp) = frame.load::<Udp>(arrival.l3 + Ipv4::LEN) else {
            return Packed::PASS;
        };
        // A user's own traffic to port 2152 is no tunnel of ours: then the downlink is asked.
        if udp.destination == gtpu::PORT
            && let Some(verdict) = uplink::gtpu(frame, tables, arrival, header, udp)
        {
            return verdict;
        }
    }
    downlink::ipv4(frame, tables, arrival, header)
}

#[inline(always)]
fn ipv6<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: Arrival) -> Packed {
    let Some(header) = frame.load::<Ipv6>(arrival.l3) else {
        return Packed::PASS;
    };
    // Extension headers, a fragment's among them, in front of GTP-U are the pod's kernel's to take apart.
    if header.version() == 6 && header.next_header == protocol::UDP {
        let Some(udp) = frame.load::<Udp>(arrival.l3 + Ipv6::LEN) else {
            return Packed::PASS;
        };
        if udp.destination == gtpu::PORT
            && let Some(verdict) = uplink::gtpu(frame, tables, arrival, header, udp)
        {
            return verdict;
        }
    }
    downlink::ipv6(frame, tables, arrival, header)
}

/// An IPv6 address in one word, for a flow's hash.
#[inline(always)]
fn fold([a, b, c, d]: [Be32; 4]) -> u32 {
    a.raw() ^ b.raw() ^ c.raw() ^ d.raw()
}

/// A next hop that can be used.
#[inline(always)]
fn resolved<T: Tables>(tables: &T, index: u32) -> Result<&NextHop, Reason> {
    match tables.next_hop(index) {
        Some(next_hop) if next_hop.is_resolved() => Ok(next_hop),
        _ => Err(Reason::NextHopUnresolved),
    }
}

/// Whether a resolved next hop can be reached from this hook. Asked before the first write.
#[inline(always)]
fn reachable<F: Frame>(next_hop: &NextHop) -> Result<(), Reason> {
    if F::DELIVERS || next_hop.is_on_wire() { Ok(()) } else { Err(Reason::PassLocal) }
}

/// Out by where it came from or by another master, or to a pod under it.
#[inline(always)]
fn way_out<F: Frame>(next_hop: &NextHop, arrival: Arrival) -> Packed {
    if F::DELIVERS && next_hop.is_local() {
        Packed::deliver(next_hop.port)
    } else if next_hop.ifindex == arrival.port.ifindex {
        Packed::TRANSMIT
    } else {
        Packed::redirect(next_hop.port)
    }
}

/// The way of an answer, as a number that a BPF function can return.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way(u32);

impl Way {
    /// There is no answer.
    const NONE: Self = Self(u32::MAX - 1);
    /// Out by where the packet came from.
    const BACK: Self = Self(NO_INDEX);

    #[inline(always)]
    fn out(next_hop: &NextHop, arrival: Arrival) -> Self {
        if next_hop.is_local() {
            return Self(next_hop.port | Packed::LOCAL);
        }
        if next_hop.ifindex == arrival.port.ifindex { Self::BACK } else { Self(next_hop.port) }
    }

    /// For a packet that is not forwarded for this reason.
    #[inline(always)]
    fn verdict(self, network: u16, reason: Reason) -> Packed {
        match self {
            Self::NONE => not_forwarded(network, reason),
            Self(port) => Packed::answer(network, reason, port),
        }
    }
}

/// Ours, but [`Frame::prepare`] says that it is not one packet of a wire.
#[inline(always)]
fn unfinished<F: Frame>(frame: &F, network: u16) -> Packed {
    if frame.can_be_finished() { Packed::UNFINISHED } else { not_forwarded(network, Reason::Merged) }
}

/// Passed to the pod or dropped, as the reason says.
#[inline(always)]
fn not_forwarded(network: u16, reason: Reason) -> Packed {
    match reason {
        // TC counts it.
        Reason::PassLocal => Packed::PASS,
        _ if reason.is_drop() => Packed::drop(network, reason),
        _ => Packed::pass_counted(network, reason),
    }
}

/// A source port in the dynamic range (RFC 6335 §6) from the words that tell flows apart, so that
/// routers and NICs downstream can spread one tunnel's flows (TS 29.281 §4.4.2.3).
#[inline(always)]
fn flow_source_port(words: [u32; 3]) -> Be16 {
    // 2^32 over the golden ratio: the upper bits of the product depend on all lower ones.
    const MULTIPLIER: u32 = 0x9e37_79b1;
    let [a, b, c] = words;
    let mixed = (a ^ b.rotate_left(16)).wrapping_mul(MULTIPLIER) ^ c;
    let hash = mixed.wrapping_mul(MULTIPLIER);
    Be16::new(0xc000 | (hash >> 18) as u16)
}
