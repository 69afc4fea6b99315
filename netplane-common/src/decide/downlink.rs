//! Packets to users: into the tunnel that their session names.

use super::rules::{self, Dues};
use super::{Arrival, flow_source_port, fold, icmp, not_forwarded, reachable, resolved, unfinished, way_out};
use crate::frame::Frame;
use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, FramedKey, NextHop, Port, SessionAction, downlink_flags,
    next_hop_flags,
};
use crate::rewrite::{self, Outer, OuterIp};
use crate::tables::Tables;
use crate::verdict::{Packed, Reason};
use crate::wire::gtpu::{self, Gtpu, GtpuOptional, PduSessionContainer, message};
use crate::wire::ip::{Ipv4, Ipv6, ecn, halves, mapped, prefix64, protocol, words_of};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32, Wire};

/// The session of an address: of the user's own, or behind the user in a framed route.
#[inline(always)]
fn entry4<'t, F: Frame, T: Tables>(tables: &'t T, port: &Port, address: Be32) -> Option<&'t DownlinkEntry> {
    if F::ANSWERS && !F::FORWARDS {
        return out_of_line4(tables, port, address);
    }
    let own = tables.downlink4(&DownlinkKey4 { port: *port, ue: address });
    if own.is_some() { own } else { behind4(tables, port, address) }
}

/// The same for IPv6.
#[inline(always)]
fn entry6<'t, F: Frame, T: Tables>(
    tables: &'t T,
    port: &Port,
    address: [Be32; 4],
) -> Option<&'t DownlinkEntry> {
    let (high, low) = halves(address);
    if F::ANSWERS && !F::FORWARDS {
        return out_of_line6(tables, port, high, low);
    }
    let own = tables.downlink6(&DownlinkKey6 { port: *port, ue: prefix64(&address) });
    if own.is_some() { own } else { behind6(tables, port, high, low) }
}

/// A program that only answers has no stack left for a key.
#[inline(never)]
fn out_of_line4<'t, T: Tables>(tables: &'t T, port: &Port, address: Be32) -> Option<&'t DownlinkEntry> {
    let own = tables.downlink4(&DownlinkKey4 { port: *port, ue: address });
    if own.is_some() { own } else { behind4(tables, port, address) }
}

#[inline(never)]
fn out_of_line6<'t, T: Tables>(tables: &'t T, port: &Port, high: u64, low: u64) -> Option<&'t DownlinkEntry> {
    let own = tables.downlink6(&DownlinkKey6 { port: *port, ue: prefix64(&words_of(high, low)) });
    if own.is_some() { own } else { behind6(tables, port, high, low) }
}

/// The session of the user behind whom an address is.
#[inline(never)]
fn behind4<'t, T: Tables>(tables: &'t T, port: &Port, address: Be32) -> Option<&'t DownlinkEntry> {
    let framed = tables.framed(&FramedKey { port: *port, address: mapped(address) })?;
    tables.downlink4(&DownlinkKey4 { port: *port, ue: framed.ue4() })
}

/// The same for IPv6.
#[inline(never)]
fn behind6<'t, T: Tables>(tables: &'t T, port: &Port, high: u64, low: u64) -> Option<&'t DownlinkEntry> {
    let framed = tables.framed(&FramedKey { port: *port, address: words_of(high, low) })?;
    tables.downlink6(&DownlinkKey6 { port: *port, ue: framed.ue6() })
}

#[inline(always)]
pub(super) fn ipv4<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: Arrival, header: Ipv4) -> Packed {
    match entry4::<F, T>(tables, &arrival.port, header.destination) {
        Some(entry) if entry.mac == arrival.mac && !frame.prepare() => unfinished(frame, entry.network),
        Some(entry) if entry.mac == arrival.mac => match user4(frame, arrival.l3, header) {
            Ok(user) => decide(frame, tables, arrival, entry, user),
            Err(reason) => refused(frame, tables, arrival, entry, reason),
        },
        _ => Packed::PASS,
    }
}

#[inline(always)]
pub(super) fn ipv6<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: Arrival, header: Ipv6) -> Packed {
    match entry6::<F, T>(tables, &arrival.port, header.destination) {
        Some(entry) if entry.mac == arrival.mac && !frame.prepare() => unfinished(frame, entry.network),
        Some(entry) if entry.mac == arrival.mac => match user6(frame, arrival.l3, header) {
            Ok(user) => decide(frame, tables, arrival, entry, user),
            Err(reason) => refused(frame, tables, arrival, entry, reason),
        },
        _ => Packed::PASS,
    }
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    user: User,
) -> Packed {
    if F::FORWARDS && entry.flags & downlink_flags::RULES != 0 {
        return if F::RULES {
            rules::downlink(frame, tables, arrival, entry, user)
        } else {
            Packed::to_rules(entry.network)
        };
    }
    if !F::PLAIN {
        return Packed::to_rules(entry.network);
    }
    match forward(frame, tables, arrival, entry, user, ()) {
        Ok(verdict) => verdict,
        Err(reason) => refused(frame, tables, arrival, entry, reason),
    }
}

/// A packet that goes no further: its sender is told where that is for the sender to mend.
#[inline(always)]
pub(super) fn refused<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    reason: Reason,
) -> Packed {
    if !matches!(reason, Reason::TtlExpired | Reason::TooBig) {
        not_forwarded(entry.network, reason)
    } else if F::ANSWERS {
        icmp::about_downlink(frame, tables, &arrival, entry, reason).verdict(entry.network, reason)
    } else {
        Packed::to_answer(entry.network, reason)
    }
}

#[inline(always)]
pub(super) fn forward<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    user: User,
    dues: D,
) -> Result<Packed, Reason> {
    let next_hop = encapsulate(frame, tables, arrival.l3, entry, user, dues)?;
    tables.count_session(entry.counter, u32::from(user.total_length));
    dues.paid(tables, u32::from(user.total_length));
    Ok(way_out::<F>(next_hop, arrival))
}

#[inline(always)]
fn user4<F: Frame>(frame: &F, l3: usize, header: Ipv4) -> Result<User, Reason> {
    let total_length = header.total_length.get();
    // Before anything that is answered: nobody is told about half a packet.
    let sound = header.version_ihl >> 4 == 4
        && header.header_len() >= Ipv4::LEN
        && usize::from(total_length) >= header.header_len()
        && frame.reaches(l3 + usize::from(total_length));
    if !sound {
        return Err(Reason::Malformed);
    }
    if header.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    // Ports only where they are for sure: no options, no fragments.
    let mut ports = u32::from(header.protocol);
    let has_ports = matches!(header.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if has_ports && header.version_ihl == Ipv4::VERSION_IHL && !header.is_fragment() {
        ports ^= frame.load::<Ports>(l3 + Ipv4::LEN).map_or(0, Ports::word);
    }
    let flow = [header.source.raw(), header.destination.raw(), ports];
    let onward = Onward::V4(rewrite::Hop::of(header.next_hop()));
    Ok(User { total_length, traffic_class: header.tos, flow, onward })
}

#[inline(always)]
fn user6<F: Frame>(frame: &F, l3: usize, header: Ipv6) -> Result<User, Reason> {
    let total_length = Ipv6::LEN + usize::from(header.payload_length.get());
    if header.version() != 6 || !frame.reaches(l3 + total_length) {
        return Err(Reason::Malformed);
    }
    let Ok(total_length) = u16::try_from(total_length) else {
        return Err(Reason::TooBig);
    };
    if header.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    // The flow label tells flows apart where it is set (RFC 6437); extension headers hide ports.
    let flow = [fold(header.source), fold(header.destination), header.version_class_flow.raw()];
    let onward = Onward::V6(header.next_header, header.hop_limit.wrapping_sub(1));
    Ok(User { total_length, traffic_class: header.traffic_class(), flow, onward })
}

/// Source and destination port, wherever the transport protocol has them first.
#[derive(
    Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
struct Ports {
    source: Be16,
    destination: Be16,
}

impl Ports {
    #[inline(always)]
    fn word(self) -> u32 {
        u32::from(self.source.raw()) << 16 | u32::from(self.destination.raw())
    }
}

/// What the outer headers need to know of a user's packet.
#[derive(Clone, Copy)]
pub(super) struct User {
    /// Bytes of the IP packet.
    pub(super) total_length: u16,
    pub(super) traffic_class: u8,
    pub(super) flow: [u32; 3],
    pub(super) onward: Onward,
}

/// The user's own header one hop further.
#[derive(Clone, Copy)]
pub(super) enum Onward {
    V4(rewrite::Hop),
    /// Next header and hop limit.
    V6(u8, u8),
    /// A packet that starts here.
    AsItIs,
}

impl Onward {
    #[inline(always)]
    fn store<F: Frame>(self, frame: &mut F, at: usize) -> Option<()> {
        match self {
            Self::V4(hop) => rewrite::store_hop(frame, at, hop),
            Self::V6(next_header, hop_limit) => rewrite::store_hop_limit(frame, at, next_header, hop_limit),
            Self::AsItIs => Some(()),
        }
    }
}

/// Puts the outer headers in front of the packet, all of which is there. Returns the next hop.
#[inline(always)]
pub(super) fn encapsulate<'t, F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &'t T,
    l3: usize,
    entry: &DownlinkEntry,
    user: User,
    dues: D,
) -> Result<&'t NextHop, Reason> {
    // Of a rule that buffers, only what is released comes here.
    let is_released = D::OF_RULE && entry.action == SessionAction::Buffer as u8;
    if entry.action != SessionAction::Forward as u8 && !is_released {
        return Err(Reason::SessionDrop);
    }
    let end = l3 + usize::from(user.total_length);
    if user.total_length > entry.mtu {
        return Err(Reason::TooBig);
    }
    let next_hop = resolved(tables, entry.next_hop)?;
    reachable::<F>(next_hop)?;
    dues.owe(tables, u32::from(user.total_length))?;
    let packet = Packet { l3, end, user };
    let done = if entry.flags & downlink_flags::QFI != 0 {
        let container = PduSessionContainer {
            length: 1,
            pdu_type: PduSessionContainer::DOWNLINK,
            qfi: entry.qfi & PduSessionContainer::QFI_MASK,
            next_extension: gtpu::extension::NONE,
        };
        let optional = GtpuOptional {
            sequence: Be16::new(0),
            n_pdu: 0,
            next_extension: gtpu::extension::PDU_SESSION_CONTAINER,
        };
        let extra = rewrite::WithContainer { optional, container };
        tunnelled(frame, packet, entry, next_hop, Gtpu::VERSION_1 | Gtpu::E, extra)
    } else {
        tunnelled(frame, packet, entry, next_hop, Gtpu::VERSION_1, ())
    };
    done.ok_or(Reason::NoRoom)?;
    Ok(next_hop)
}

/// Where the user's packet is and what it says.
#[derive(Clone, Copy)]
struct Packet {
    l3: usize,
    end: usize,
    user: User,
}

/// With `extra` between the GTP-U header and the user's packet.
#[inline(always)]
fn tunnelled<F: Frame, E: Wire>(
    frame: &mut F,
    packet: Packet,
    entry: &DownlinkEntry,
    next_hop: &NextHop,
    flags: u8,
    extra: E,
) -> Option<()> {
    let user = &packet.user;
    // The agent keeps entry.mtu so that none of these lengths can overflow; wrapping keeps the
    // verifier's and the compiler's work small.
    let gtpu_length = user.total_length.wrapping_add(size_of::<E>() as u16);
    let udp_length = gtpu_length.wrapping_add((Udp::LEN + Gtpu::LEN) as u16);
    // RFC 6040 §4.1, normal mode: ECN is copied.
    let copied = entry.flags & downlink_flags::COPY_DSCP != 0;
    let dscp = if copied { user.traffic_class & !ecn::MASK } else { entry.dscp };
    let tos = dscp | user.traffic_class & ecn::MASK;
    let by_flow = next_hop.has(next_hop_flags::FLOW_SOURCE_PORT);
    let source = if by_flow { flow_source_port(user.flow) } else { gtpu::PORT };
    let udp = Udp { source, destination: gtpu::PORT, length: Be16::new(udp_length), checksum: Be16::new(0) };
    let gtpu = Gtpu { flags, message: message::G_PDU, length: Be16::new(gtpu_length), teid: entry.teid };
    if next_hop.has(next_hop_flags::IPV6) {
        let (local, peer) = next_hop.tunnel6();
        let ip = rewrite::outer_ipv6(tos, udp.length, local, peer);
        finish(frame, packet, Outer { ip, udp, gtpu }, extra, next_hop)
    } else {
        let (local, peer) = next_hop.tunnel4();
        let total_length = Be16::new(udp_length.wrapping_add(Ipv4::LEN as u16));
        let ip = rewrite::outer_ipv4(tos, total_length, local, peer);
        finish(frame, packet, Outer { ip, udp, gtpu }, extra, next_hop)
    }
}

#[inline(always)]
fn finish<F: Frame, E: Wire, I: OuterIp>(
    frame: &mut F,
    packet: Packet,
    outer: Outer<I>,
    extra: E,
    next_hop: &NextHop,
) -> Option<()> {
    let at = rewrite::encapsulated(frame, packet.l3, packet.end, outer, extra, next_hop)?;
    packet.user.onward.store(frame, at)?;
    if next_hop.has(next_hop_flags::UDP_CHECKSUM) {
        let udp = at - size_of::<E>() - Gtpu::LEN - Udp::LEN;
        rewrite::store_udp_checksum(frame, udp, outer.udp.length, &outer.ip)?;
    }
    Some(())
}
