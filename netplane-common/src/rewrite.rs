//! Changing bytes, after everything has been checked. `None` from here means that the driver gave no
//! room: the frame may be half-changed and must be dropped.

use crate::frame::Frame;
use crate::map::NextHop;
use crate::wire::ethernet::{EtherType, Ethernet, VlanTag};
use crate::wire::gtpu::{Gtpu, GtpuOptional, PduSessionContainer};
use crate::wire::ip::{Ipv4, Ipv6, protocol};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32, Wire, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// TTL and hop limit of packets that start here.
const OUTER_TTL: u8 = 64;

/// What is in front of a T-PDU, in the order of the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Outer4 {
    ip: Ipv4,
    udp: Udp,
    gtpu: Gtpu,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Outer6 {
    ip: Ipv6,
    udp: Udp,
    gtpu: Gtpu,
}

/// The same as its parts.
#[derive(Clone, Copy)]
pub(crate) struct Outer<I> {
    pub(crate) ip: I,
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

/// The IPv6 header of a tunnel that starts here. The flow label stays zero: the UDP source port tells flows
/// apart, for routers that hash labels as well as for those that hash ports (RFC 6438 §3 allows both).
#[inline(always)]
pub(crate) fn outer_ipv6(class: u8, payload_length: Be16, source: [Be32; 4], destination: [Be32; 4]) -> Ipv6 {
    Ipv6 {
        version_class_flow: Be32::new(6 << 28 | (class as u32) << 20),
        payload_length,
        next_header: protocol::UDP,
        hop_limit: OUTER_TTL,
        source,
        destination,
    }
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
pub(crate) struct Hop {
    ttl: u8,
    protocol: u8,
    checksum: Be16,
}

impl Hop {
    /// Offset of the TTL in the IPv4 header (RFC 791 §3.1).
    const OFFSET: usize = 8;

    #[inline(always)]
    pub(crate) const fn of(header: Ipv4) -> Self {
        Self { ttl: header.ttl, protocol: header.protocol, checksum: header.checksum }
    }
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
    let start = Start { ether_type: EtherType::IPV4, bytes: [onward.version_ihl, onward.tos] };
    let l3 = relink(frame, at, end, 0, start, next_hop)?;
    store_hop(frame, l3, Hop::of(onward))
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
    let [a, b, _, _] = onward.version_class_flow.raw().to_ne_bytes();
    let start = Start { ether_type: EtherType::IPV6, bytes: [a, b] };
    let l3 = relink(frame, at, end, 0, start, next_hop)?;
    store_hop_limit(frame, l3, onward.next_header, onward.hop_limit)
}

/// An outer IP header that can be written.
pub(crate) trait OuterIp: Wire {
    const ETHER_TYPE: EtherType;
    type Headers: Wire;
    fn headers(outer: Outer<Self>) -> Self::Headers;
    /// The first two bytes.
    fn start(&self) -> [u8; 2];
    /// The part of the UDP checksum that is not in the packet behind the IP header (RFC 768, RFC 8200 §8.1).
    fn pseudo_header(&self, udp_length: Be16) -> u32;
}

impl OuterIp for Ipv4 {
    const ETHER_TYPE: EtherType = EtherType::IPV4;
    type Headers = Outer4;

    #[inline(always)]
    fn headers(Outer { ip, udp, gtpu }: Outer<Self>) -> Outer4 {
        Outer4 { ip, udp, gtpu }
    }

    #[inline(always)]
    fn start(&self) -> [u8; 2] {
        [self.version_ihl, self.tos]
    }

    #[inline(always)]
    fn pseudo_header(&self, udp_length: Be16) -> u32 {
        let addresses = checksum::halves(self.source.raw()) + checksum::halves(self.destination.raw());
        addresses + u32::from(udp_length.raw()) + u32::from(Be16::new(u16::from(protocol::UDP)).raw())
    }
}

impl OuterIp for Ipv6 {
    const ETHER_TYPE: EtherType = EtherType::IPV6;
    type Headers = Outer6;

    #[inline(always)]
    fn headers(Outer { ip, udp, gtpu }: Outer<Self>) -> Outer6 {
        Outer6 { ip, udp, gtpu }
    }

    #[inline(always)]
    fn start(&self) -> [u8; 2] {
        let [a, b, _, _] = self.version_class_flow.raw().to_ne_bytes();
        [a, b]
    }

    #[inline(always)]
    fn pseudo_header(&self, udp_length: Be16) -> u32 {
        let addresses = checksum::sum(&self.source) + checksum::sum(&self.destination);
        addresses + u32::from(udp_length.raw()) + u32::from(Be16::new(u16::from(protocol::UDP)).raw())
    }
}

/// Puts `outer` and `extra` in front of the packet at `l3` … `end`. Returns the packet's new offset.
#[inline(always)]
pub(crate) fn encapsulated<F: Frame, I: OuterIp, E: Wire>(
    frame: &mut F,
    l3: usize,
    end: usize,
    outer: Outer<I>,
    extra: E,
    next_hop: &NextHop,
) -> Option<usize> {
    let room = size_of::<I::Headers>() + size_of::<E>();
    let start = Start { ether_type: I::ETHER_TYPE, bytes: outer.ip.start() };
    let at = relink(frame, l3, end, room, start, next_hop)?;
    frame.store(at, I::headers(outer))?;
    if size_of::<E>() > 0 {
        frame.store(at + size_of::<I::Headers>(), extra)?;
    }
    Some(at + room)
}

/// Puts `outer` in place of the outer headers that end at `behind`. Returns the offset of `outer`.
#[inline(always)]
pub(crate) fn relayed<F: Frame, I: OuterIp>(
    frame: &mut F,
    behind: usize,
    end: usize,
    outer: Outer<I>,
    next_hop: &NextHop,
) -> Option<usize> {
    let start = Start { ether_type: I::ETHER_TYPE, bytes: outer.ip.start() };
    let at = relink(frame, behind, end, size_of::<I::Headers>(), start, next_hop)?;
    frame.store(at, I::headers(outer))?;
    Some(at)
}

/// Computes the UDP checksum of the finished packet whose UDP header is at `udp`. Of the IP header only the
/// addresses count: `ip` may be the one of the other direction.
#[inline(always)]
pub(crate) fn store_udp_checksum<F: Frame, I: OuterIp>(
    frame: &mut F,
    udp: usize,
    length: Be16,
    ip: &I,
) -> Option<()> {
    let sum = frame.sum(udp, udp + usize::from(length.get()))?;
    let checksum = checksum::finish(ip.pseudo_header(length) + sum);
    // RFC 768: a sum of zero is sent as all ones, for zero says that there is none.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    frame.store(udp + Udp::CHECKSUM, Be16::from_raw(checksum))
}

/// TTL and checksum of the IPv4 header at `l3`.
#[inline(always)]
pub(crate) fn store_hop<F: Frame>(frame: &mut F, l3: usize, hop: Hop) -> Option<()> {
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

/// What comes behind the MACs: the EtherType, and the first two bytes of the packet.
#[derive(Clone, Copy)]
struct Start {
    ether_type: EtherType,
    bytes: [u8; 2],
}

/// The Ethernet header and two bytes more, so that it is sixteen: two stores instead of seven.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LinkStart {
    macs: u64,
    macs_rest: u32,
    ether_type: EtherType,
    bytes: [u8; 2],
}

/// Makes the frame consist of an Ethernet header to the next hop, `room` bytes of undefined content, and
/// what is at `from` … `end` now; writes the first two bytes behind the Ethernet header, too. Returns the
/// offset behind it.
#[inline(always)]
fn relink<F: Frame>(
    frame: &mut F,
    from: usize,
    end: usize,
    room: usize,
    start: Start,
    next_hop: &NextHop,
) -> Option<usize> {
    frame.cut(end)?;
    let NextHop { macs, macs_rest, vlan, .. } = *next_hop;
    if frame.leave_with_vlan(vlan) || vlan == 0 {
        move_head(frame, (Ethernet::LEN + room) as isize - from as isize, start.ether_type)?;
        let Start { ether_type, bytes } = start;
        frame.store(0, LinkStart { macs, macs_rest, ether_type, bytes })?;
        Some(Ethernet::LEN)
    } else {
        let by = (Ethernet::LEN + VlanTag::LEN + room) as isize - from as isize;
        move_head(frame, by, start.ether_type)?;
        let bytes = vlan.to_be_bytes();
        frame.store(0, LinkStart { macs, macs_rest, ether_type: EtherType::VLAN, bytes })?;
        let l3 = Ethernet::LEN + VlanTag::LEN;
        frame.store(l3 - size_of::<EtherType>(), start.ether_type)?;
        frame.store(l3, start.bytes)?;
        Some(l3)
    }
}

/// A relayed packet mostly stays where it is, and the kernel's helper costs as much as a lookup.
#[inline(always)]
fn move_head<F: Frame>(frame: &mut F, by: isize, ether_type: EtherType) -> Option<()> {
    if by == 0 { Some(()) } else { frame.move_head_to(by, ether_type) }
}
