//! Changing bytes, after everything has been checked. `None` from here means that the driver gave no
//! room: the frame may be half-changed and must be dropped.

use crate::frame::Frame;
use crate::map::NextHop;
use crate::wire::ethernet::{EtherType, Ethernet, VlanTag};
use crate::wire::gtpu::{Gtpu, GtpuOptional, PduSessionContainer};
use crate::wire::ip::{Ipv4, Ipv6, protocol};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32, Wire};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// TTL of packets that start here.
const OUTER_TTL: u8 = 64;

/// The headers in front of a T-PDU, in the order of the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Outer {
    pub(crate) ip: Ipv4,
    pub(crate) udp: Udp,
    pub(crate) gtpu: Gtpu,
}

/// The IPv4 header of a tunnel that starts here: no options, not to be fragmented (its identification
/// says nothing then, RFC 6864 §4.1), a TTL of its own.
#[inline(always)]
pub(crate) fn outer_ipv4(tos: u8, total_length: Be16, source: Be32, destination: Be32) -> Ipv4 {
    let mut header = Ipv4 {
        version_ihl: Ipv4::VERSION_IHL,
        tos,
        total_length,
        identification: Be16::new(0),
        fragment: Ipv4::DF,
        ttl: OUTER_TTL,
        protocol: protocol::UDP,
        checksum: Be16::new(0),
        source,
        destination,
    };
    header.checksum = header.compute_checksum();
    header
}

/// What a PDU Session Container puts behind the mandatory GTP-U header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct WithContainer {
    pub(crate) optional: GtpuOptional,
    pub(crate) container: PduSessionContainer,
}

/// The bytes of an IPv4 header that change at a hop, from the TTL to the checksum.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Hop {
    ttl: u8,
    protocol: u8,
    checksum: Be16,
}

impl Hop {
    /// Offset of the TTL in the IPv4 header (RFC 791 §3.1).
    const OFFSET: usize = 8;
}

/// The IPv6 twin of [`Hop`] (RFC 8200 §3).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HopLimit {
    next_header: u8,
    hop_limit: u8,
}

impl HopLimit {
    const OFFSET: usize = 6;
}

/// Takes everything in front of the inner IPv4 packet at `at` … `end` off, puts the Ethernet header on.
#[inline(always)]
pub(crate) fn decapsulated_ipv4<F: Frame>(
    frame: &mut F,
    at: usize,
    end: usize,
    onward: Ipv4,
    next_hop: &NextHop,
) -> Option<()> {
    let l3 = relink(frame, at, end, 0, EtherType::IPV4, next_hop)?;
    frame.store(l3, [onward.version_ihl, onward.tos])?;
    store_hop(frame, l3, onward)
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn decapsulated_ipv6<F: Frame>(
    frame: &mut F,
    at: usize,
    end: usize,
    onward: Ipv6,
    next_hop: &NextHop,
) -> Option<()> {
    let l3 = relink(frame, at, end, 0, EtherType::IPV6, next_hop)?;
    frame.store(l3, onward.version_class_flow)?;
    store_hop_limit(frame, l3, onward.next_header, onward.hop_limit)
}

/// Puts `outer` and `extra` in front of the packet at `l3` … `end`. Returns the packet's new offset.
#[inline(always)]
pub(crate) fn encapsulated<F: Frame, E: Wire>(
    frame: &mut F,
    l3: usize,
    end: usize,
    outer: Outer,
    extra: E,
    next_hop: &NextHop,
) -> Option<usize> {
    let room = size_of::<Outer>() + size_of::<E>();
    let at = relink(frame, l3, end, room, EtherType::IPV4, next_hop)?;
    frame.store(at, outer)?;
    if size_of::<E>() > 0 {
        frame.store(at + size_of::<Outer>(), extra)?;
    }
    Some(at + room)
}

/// Overwrites the outer headers of the packet at `l3` … `end`.
#[inline(always)]
pub(crate) fn relayed<F: Frame>(
    frame: &mut F,
    l3: usize,
    end: usize,
    outer: Outer,
    next_hop: &NextHop,
) -> Option<()> {
    let at = relink(frame, l3, end, 0, EtherType::IPV4, next_hop)?;
    frame.store(at, outer)
}

/// TTL and checksum of the IPv4 header at `l3`.
#[inline(always)]
pub(crate) fn store_hop<F: Frame>(frame: &mut F, l3: usize, header: Ipv4) -> Option<()> {
    let hop = Hop { ttl: header.ttl, protocol: header.protocol, checksum: header.checksum };
    frame.store(l3 + Hop::OFFSET, hop)
}

/// Hop limit of the IPv6 header at `l3`.
#[inline(always)]
pub(crate) fn store_hop_limit<F: Frame>(
    frame: &mut F,
    l3: usize,
    next_header: u8,
    hop_limit: u8,
) -> Option<()> {
    frame.store(l3 + HopLimit::OFFSET, HopLimit { next_header, hop_limit })
}

/// Makes the frame consist of an Ethernet header to the next hop, `room` bytes of undefined content, and
/// what is at `from` … `end` now. Returns the offset behind the Ethernet header.
#[inline(always)]
fn relink<F: Frame>(
    frame: &mut F,
    from: usize,
    end: usize,
    room: usize,
    ether_type: EtherType,
    next_hop: &NextHop,
) -> Option<usize> {
    // Ethernet's padding of short frames, or bytes that no length accounts for.
    if frame.len() > end {
        frame.truncate(end)?;
    }
    if next_hop.vlan == 0 {
        frame.move_head((Ethernet::LEN + room) as isize - from as isize)?;
        link_header(frame, ether_type, next_hop)?;
        Some(Ethernet::LEN)
    } else {
        frame.move_head((Ethernet::LEN + VlanTag::LEN + room) as isize - from as isize)?;
        link_header(frame, EtherType::VLAN, next_hop)?;
        frame.store(Ethernet::LEN, VlanTag { tci: Be16::new(next_hop.vlan), ether_type })?;
        Some(Ethernet::LEN + VlanTag::LEN)
    }
}

#[inline(always)]
fn link_header<F: Frame>(frame: &mut F, ether_type: EtherType, next_hop: &NextHop) -> Option<()> {
    frame.store(0, Ethernet { destination: next_hop.destination, source: next_hop.source, ether_type })
}
