//! What a router says of a packet that it does not forward: time exceeded, fragmentation needed, packet
//! too big (RFC 1812 §4.3, RFC 4443 §3). To who sent the frame, or through the tunnel to the user.
//!
//! Nothing here is on the way of a packet that is forwarded: the functions that `decide` calls are not
//! inlined, so that the program's hot part stays small. They return the way out, or [`Way::NONE`] where
//! there is nothing to say or nobody to say it; then the frame may be half-changed and must be dropped.

use super::{Arrival, Way, downlink, resolved, uplink};
use crate::frame::Frame;
use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, NextHop, Port, Router, SessionAction, UplinkEntry,
    next_hop_flags,
};
use crate::parse::payload_offset;
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::ethernet::{EtherType, Ethernet, VlanTag};
use crate::wire::gtpu::Gtpu;
use crate::wire::icmp::{self, IcmpError};
use crate::wire::ip::{Ipv4, Ipv6, protocol};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32, Wire, checksum};
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// TTL of what starts here.
const TTL: u8 = 64;
/// No IPv6 link has a smaller one (RFC 8200 §5).
const IPV6_MIN_MTU: u16 = 1280;

/// Of the packet in question: the header and what tells connections apart (RFC 792).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Quote4 {
    ip: Ipv4,
    transport: [Be32; 2],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Quote6 {
    ip: Ipv6,
    transport: [Be32; 2],
}

/// What is put in front of the quote.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Message4 {
    ip: Ipv4,
    icmp: IcmpError,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Message6 {
    ip: Ipv6,
    icmp: IcmpError,
}

/// What differs between the families.
trait Message: Wire {
    const ETHER_TYPE: EtherType;
    /// Bytes of the packet in question that are quoted.
    const QUOTE: usize;
    const TOTAL: usize = size_of::<Self>() + Self::QUOTE;
    type Address: Copy;

    /// The address under which a data endpoint speaks.
    fn address(router: &Router) -> Self::Address;

    /// About the packet at `at`, from `router` to its source. `None` where no error may be sent, or not one of
    /// this length.
    fn about<F: Frame>(frame: &F, at: usize, router: Self::Address, reason: Reason, mtu: u16)
    -> Option<Self>;

    /// The session of who has sent the packet at `at`, and the way that it would have left by.
    fn sender<'t, F: Frame, T: Tables>(
        frame: &F,
        tables: &'t T,
        entry: &UplinkEntry,
        at: usize,
    ) -> Option<(&'t DownlinkEntry, &'t NextHop)>;

    /// Itself as a packet to a user.
    fn to_user(&self) -> downlink::User;
}

impl Message for Message4 {
    const ETHER_TYPE: EtherType = EtherType::IPV4;
    const QUOTE: usize = size_of::<Quote4>();
    type Address = Be32;

    #[inline(always)]
    fn address(router: &Router) -> Be32 {
        router.address4
    }

    /// `None` where RFC 1122 §3.2.2 forbids it, and for a packet with options, whose quote would have another
    /// length.
    #[inline(always)]
    fn about<F: Frame>(frame: &F, at: usize, router: Be32, reason: Reason, mtu: u16) -> Option<Self> {
        let quote: Quote4 = frame.load(at)?;
        let Ipv4 { source, destination, .. } = quote.ip;
        let is_host = |address: Be32| {
            let first = (address.get() >> 24) as u8;
            first != 0 && first != 127 && first < 224
        };
        let first_fragment = quote.ip.fragment.get() & 0x1fff == 0;
        let kind = (quote.transport[0].get() >> 24) as u8;
        let is_error = quote.ip.protocol == icmp::PROTOCOL_V4 && icmp::v4::is_error(kind);
        // Behind a shorter packet the quote would have the frame's padding.
        let is_long = usize::from(quote.ip.total_length.get()) >= size_of::<Quote4>();
        let allowed = quote.ip.version_ihl == Ipv4::VERSION_IHL
            && is_long
            && is_host(source)
            && is_host(destination)
            && first_fragment
            && !is_error;
        if !allowed || router.raw() == 0 {
            return None;
        }
        let mut icmp = match reason {
            Reason::TtlExpired => error(icmp::v4::TIME_EXCEEDED, 0, 0),
            _ => error(icmp::v4::DESTINATION_UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED, mtu),
        };
        icmp.checksum = Be16::from_raw(checksum::finish(checksum::sum(&icmp) + checksum::sum(&quote)));
        let mut ip = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            // RFC 1812 §4.3.2.5: the class of the packet, or internetwork control; errors are not marked.
            tos: quote.ip.tos & !crate::wire::ip::ecn::MASK,
            total_length: Be16::new(Self::TOTAL as u16),
            identification: Be16::new(0),
            fragment: Ipv4::DF,
            ttl: TTL,
            protocol: icmp::PROTOCOL_V4,
            checksum: Be16::new(0),
            source: router,
            destination: source,
        };
        ip.checksum = ip.compute_checksum();
        Some(Self { ip, icmp })
    }

    #[inline(always)]
    fn sender<'t, F: Frame, T: Tables>(
        frame: &F,
        tables: &'t T,
        entry: &UplinkEntry,
        at: usize,
    ) -> Option<(&'t DownlinkEntry, &'t NextHop)> {
        let header: Ipv4 = frame.load(at)?;
        let next_hop = uplink::route4(tables, entry, header.destination).ok()?;
        let port = Port::new(next_hop.ifindex, next_hop.vlan);
        Some((tables.downlink4(&DownlinkKey4 { port, ue: header.source })?, next_hop))
    }

    #[inline(always)]
    fn to_user(&self) -> downlink::User {
        downlink::User {
            total_length: Self::TOTAL as u16,
            traffic_class: self.ip.tos,
            flow: [self.ip.source.raw(), self.ip.destination.raw(), u32::from(protocol::UDP)],
            onward: downlink::Onward::AsItIs,
        }
    }
}

impl Message for Message6 {
    const ETHER_TYPE: EtherType = EtherType::IPV6;
    const QUOTE: usize = size_of::<Quote6>();
    type Address = [Be32; 4];

    #[inline(always)]
    fn address(router: &Router) -> [Be32; 4] {
        router.address6
    }

    /// `None` where RFC 4443 §2.4 (e) forbids it.
    #[inline(always)]
    fn about<F: Frame>(frame: &F, at: usize, router: [Be32; 4], reason: Reason, mtu: u16) -> Option<Self> {
        let quote: Quote6 = frame.load(at)?;
        let is_multicast = |address: [Be32; 4]| address[0].get() >> 24 == 0xff;
        let is_unspecified = |[a, b, c, d]: [Be32; 4]| a.raw() | b.raw() | c.raw() | d.raw() == 0;
        let kind = (quote.transport[0].get() >> 24) as u8;
        let is_error = quote.ip.next_header == icmp::PROTOCOL_V6 && icmp::v6::is_error(kind);
        let Ipv6 { source, destination, .. } = quote.ip;
        let is_short = usize::from(quote.ip.payload_length.get()) < size_of::<Quote6>() - Ipv6::LEN;
        let forbidden = is_multicast(source)
            || is_unspecified(source)
            || is_multicast(destination)
            || is_error
            || is_short;
        if forbidden || is_unspecified(router) {
            return None;
        }
        let mut icmp = match reason {
            Reason::TtlExpired => error(icmp::v6::TIME_EXCEEDED, 0, 0),
            _ => error(icmp::v6::PACKET_TOO_BIG, 0, if mtu < IPV6_MIN_MTU { IPV6_MIN_MTU } else { mtu }),
        };
        let payload_length = (IcmpError::LEN + size_of::<Quote6>()) as u16;
        let class = quote.ip.traffic_class() & !crate::wire::ip::ecn::MASK;
        let ip = Ipv6 {
            version_class_flow: Be32::new(6 << 28 | u32::from(class) << 20),
            payload_length: Be16::new(payload_length),
            next_header: icmp::PROTOCOL_V6,
            hop_limit: TTL,
            source: router,
            destination: source,
        };
        // RFC 8200 §8.1: addresses, length and protocol count as well.
        let pseudo = u32::from(Be16::new(payload_length).raw())
            + u32::from(Be16::new(u16::from(icmp::PROTOCOL_V6)).raw());
        let sum = pseudo + checksum::sum(&ip.source) + checksum::sum(&ip.destination);
        let sum = sum + checksum::sum(&icmp) + checksum::sum(&quote);
        icmp.checksum = Be16::from_raw(checksum::finish(sum));
        Some(Self { ip, icmp })
    }

    #[inline(always)]
    fn sender<'t, F: Frame, T: Tables>(
        frame: &F,
        tables: &'t T,
        entry: &UplinkEntry,
        at: usize,
    ) -> Option<(&'t DownlinkEntry, &'t NextHop)> {
        // No more than the addresses: there is no stack left for a header.
        let destination = frame.load(at + offset_of!(Ipv6, destination))?;
        let next_hop = uplink::route6(tables, entry, destination).ok()?;
        let port = Port::new(next_hop.ifindex, next_hop.vlan);
        let ue = frame.load(at + offset_of!(Ipv6, source))?;
        Some((tables.downlink6(&DownlinkKey6 { port, ue })?, next_hop))
    }

    #[inline(always)]
    fn to_user(&self) -> downlink::User {
        downlink::User {
            total_length: Self::TOTAL as u16,
            traffic_class: self.ip.traffic_class(),
            flow: [checksum::sum(&self.ip.source), checksum::sum(&self.ip.destination), 0],
            onward: downlink::Onward::AsItIs,
        }
    }
}

#[inline(always)]
fn error(kind: u8, code: u8, mtu: u16) -> IcmpError {
    IcmpError { kind, code, checksum: Be16::new(0), mtu: Be32::new(u32::from(mtu)) }
}

/// A G-PDU that was not forwarded: inside it is what a user sent, or, on a relayed tunnel, the outer packet
/// is what the peer sent.
#[inline(never)]
pub(super) fn about_uplink<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: &Arrival,
    entry: &UplinkEntry,
    reason: Reason,
) -> Way {
    let way = if entry.action == SessionAction::Relay as u8 {
        about_relayed(frame, tables, *arrival, entry, reason)
    } else {
        about_inner(frame, tables, *arrival, entry, reason)
    };
    way.unwrap_or(Way::NONE)
}

#[inline(always)]
fn about_inner<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    reason: Reason,
) -> Option<Way> {
    let is_ipv4 = frame.load::<u8>(arrival.l3)? >> 4 == 4;
    let at = arrival.l3 + Udp::LEN + if is_ipv4 { Ipv4::LEN } else { Ipv6::LEN };
    let gtpu: Gtpu = frame.load(at)?;
    let at = payload_offset(frame, at, gtpu).ok()?;
    if frame.load::<u8>(at)? >> 4 == 4 {
        to_user::<F, T, Message4>(frame, tables, arrival, entry, at, reason)
    } else {
        to_user::<F, T, Message6>(frame, tables, arrival, entry, at, reason)
    }
}

#[inline(always)]
fn about_relayed<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    reason: Reason,
) -> Option<Way> {
    let next_hop = resolved(tables, entry.next_hop4).ok()?;
    // What the outgoing side takes, with the header of the incoming one.
    let outgoing = if next_hop.has(next_hop_flags::IPV6) { Ipv6::LEN } else { Ipv4::LEN };
    let mtu = |incoming: usize| next_hop.mtu.wrapping_add(incoming as u16).wrapping_sub(outgoing as u16);
    // From the address that the peer has sent to.
    if frame.load::<u8>(arrival.l3)? >> 4 == 4 {
        let outer: Ipv4 = frame.load(arrival.l3)?;
        back::<F, T, Message4>(frame, tables, arrival, outer.destination, reason, mtu(Ipv4::LEN))?;
    } else {
        let outer: Ipv6 = frame.load(arrival.l3)?;
        back::<F, T, Message6>(frame, tables, arrival, outer.destination, reason, mtu(Ipv6::LEN))?;
    }
    Some(Way::BACK)
}

/// Through the user's own tunnel, from the data endpoint that its packet would have left by.
#[inline(always)]
fn to_user<F: Frame, T: Tables, M: Message>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    at: usize,
    reason: Reason,
) -> Option<Way> {
    let (user, next_hop) = M::sender(frame, tables, entry, at)?;
    let router = tables.router(user.scope)?;
    let message = M::about(frame, at, M::address(router), reason, next_hop.mtu)?;
    if !tables.may_answer() {
        return None;
    }
    frame.truncate(at + M::QUOTE)?;
    frame.move_head_to((Ethernet::LEN + size_of::<M>()) as isize - at as isize, M::ETHER_TYPE)?;
    frame.store(Ethernet::LEN, message)?;
    let onward = downlink::encapsulate(frame, tables, Ethernet::LEN, user, message.to_user(), ()).ok()?;
    Some(Way::out(onward, arrival))
}

/// A packet to a user that was not forwarded: to who sent it, back the way it came.
#[inline(never)]
pub(super) fn about_downlink<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: &Arrival,
    entry: &DownlinkEntry,
    reason: Reason,
) -> Way {
    back_to_sender(frame, tables, *arrival, entry, reason).unwrap_or(Way::NONE)
}

#[inline(always)]
fn back_to_sender<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    reason: Reason,
) -> Option<Way> {
    let router = tables.router(entry.scope)?;
    let version = frame.load::<u8>(arrival.l3)? >> 4;
    if version == 4 {
        back::<F, T, Message4>(frame, tables, arrival, router.address4, reason, entry.mtu)?;
    } else {
        back::<F, T, Message6>(frame, tables, arrival, router.address6, reason, entry.mtu)?;
    }
    Some(Way::BACK)
}

/// About the packet in the frame, back the way it came.
#[inline(always)]
fn back<F: Frame, T: Tables, M: Message>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    router: M::Address,
    reason: Reason,
    mtu: u16,
) -> Option<()> {
    let message = M::about(frame, arrival.l3, router, reason, mtu)?;
    if !tables.may_answer() {
        return None;
    }
    turn(frame, arrival, size_of::<M>(), M::QUOTE)?;
    frame.store(arrival.l3, message)
}

/// Keeps `quote` bytes of the packet, makes room for `message` bytes in front of them, and turns the
/// Ethernet header around.
#[inline(always)]
fn turn<F: Frame>(frame: &mut F, arrival: Arrival, message: usize, quote: usize) -> Option<()> {
    let ethernet: Ethernet = frame.load(0)?;
    let tag: Option<VlanTag> = if arrival.l3 > Ethernet::LEN { frame.load(Ethernet::LEN) } else { None };
    frame.truncate(arrival.l3 + quote)?;
    frame.move_head(message as isize)?;
    frame.store(0, ethernet.turned())?;
    match tag {
        Some(tag) => frame.store(Ethernet::LEN, tag),
        None => Some(()),
    }
}
