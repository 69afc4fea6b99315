//! Packets to users: into the tunnel that their session names.

use super::{Arrival, flow_source_port, icmp, not_forwarded, resolved, way_out};
use crate::frame::Frame;
use crate::map::{DownlinkEntry, DownlinkKey4, DownlinkKey6, SessionAction, downlink_flags};
use crate::rewrite::{self, Outer};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::wire::gtpu::{self, Gtpu, GtpuOptional, PduSessionContainer, message};
use crate::wire::ip::{Ipv4, Ipv6, ecn, prefix64, protocol};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32};

#[inline(always)]
pub(super) fn ipv4<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    header: Ipv4,
) -> Verdict {
    let key = DownlinkKey4 { port: arrival.port, ue: header.destination };
    match tables.downlink4(&key) {
        Some(entry) if entry.mac == arrival.mac => {
            let outcome = encapsulate_ipv4(frame, tables, arrival, header, entry);
            outcome.unwrap_or_else(|reason| refused(frame, tables, arrival, entry, reason))
        }
        _ => Verdict::Pass,
    }
}

/// A packet that goes no further: its sender is told where that is for the sender to mend.
#[inline(always)]
fn refused<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    reason: Reason,
) -> Verdict {
    if matches!(reason, Reason::TtlExpired | Reason::TooBig) {
        icmp::about_downlink(frame, tables, &arrival, entry, reason).verdict(entry.network, reason)
    } else {
        not_forwarded(entry.network, reason)
    }
}

#[inline(always)]
pub(super) fn ipv6<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: Arrival) -> Verdict {
    let Some(header) = frame.load::<Ipv6>(arrival.l3) else {
        return Verdict::Pass;
    };
    let key = DownlinkKey6 { port: arrival.port, ue: prefix64(&header.destination) };
    match tables.downlink6(&key) {
        Some(entry) if entry.mac == arrival.mac => {
            let outcome = encapsulate_ipv6(frame, tables, arrival, header, entry);
            outcome.unwrap_or_else(|reason| refused(frame, tables, arrival, entry, reason))
        }
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn encapsulate_ipv4<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    header: Ipv4,
    entry: &DownlinkEntry,
) -> Result<Verdict, Reason> {
    let total_length = header.total_length.get();
    let sound = header.version_ihl >> 4 == 4
        && header.header_len() >= Ipv4::LEN
        && usize::from(total_length) >= header.header_len();
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
        ports ^= frame.load::<Ports>(arrival.l3 + Ipv4::LEN).map_or(0, Ports::word);
    }
    let user = User {
        total_length,
        traffic_class: header.tos,
        flow: [header.source.raw(), header.destination.raw(), ports],
    };
    let (next_hop, l4) = encapsulate(frame, tables, arrival.l3, entry, user)?;
    rewrite::store_hop(frame, l4, header.next_hop()).ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, u32::from(total_length));
    Ok(way_out(next_hop, arrival))
}

#[inline(always)]
fn encapsulate_ipv6<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    header: Ipv6,
    entry: &DownlinkEntry,
) -> Result<Verdict, Reason> {
    if header.version_class_flow.get() >> 28 != 6 {
        return Err(Reason::Malformed);
    }
    let Some(total_length) = header.payload_length.get().checked_add(Ipv6::LEN as u16) else {
        return Err(Reason::TooBig);
    };
    if header.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    let fold = |[a, b, c, d]: [Be32; 4]| a.raw() ^ b.raw() ^ c.raw() ^ d.raw();
    let user = User {
        total_length,
        traffic_class: header.traffic_class(),
        // The flow label tells flows apart where it is set (RFC 6437); extension headers hide ports.
        flow: [fold(header.source), fold(header.destination), header.version_class_flow.raw()],
    };
    let (next_hop, at) = encapsulate(frame, tables, arrival.l3, entry, user)?;
    rewrite::store_hop_limit(frame, at, header.next_header, header.hop_limit.wrapping_sub(1))
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, u32::from(total_length));
    Ok(way_out(next_hop, arrival))
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
pub(super) struct User {
    /// Bytes of the IP packet.
    pub(super) total_length: u16,
    pub(super) traffic_class: u8,
    pub(super) flow: [u32; 3],
}

/// Puts the outer headers in front of the packet. Returns the next hop and the inner packet's offset.
#[inline(always)]
pub(super) fn encapsulate<'t, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &'t T,
    l3: usize,
    entry: &DownlinkEntry,
    user: User,
) -> Result<(&'t crate::map::NextHop, usize), Reason> {
    if entry.action != SessionAction::Forward as u8 {
        return Err(Reason::SessionDrop);
    }
    let end = l3 + usize::from(user.total_length);
    if end > frame.len() {
        return Err(Reason::Malformed);
    }
    if user.total_length > entry.mtu {
        return Err(Reason::TooBig);
    }
    let next_hop = resolved(tables, entry.next_hop)?;
    let at = if entry.flags & downlink_flags::QFI != 0 {
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
        let outer = outer(entry, &user, Gtpu::VERSION_1 | Gtpu::E, size_of_val(&extra));
        rewrite::encapsulated(frame, l3, end, outer, extra, next_hop)
    } else {
        let outer = outer(entry, &user, Gtpu::VERSION_1, 0);
        rewrite::encapsulated(frame, l3, end, outer, (), next_hop)
    };
    at.map(|at| (next_hop, at)).ok_or(Reason::NoRoom)
}

/// The outer headers for a packet with `extra` bytes between the GTP-U header and the user's packet.
#[inline(always)]
fn outer(entry: &DownlinkEntry, user: &User, flags: u8, extra: usize) -> Outer {
    // The agent keeps entry.mtu so that none of these lengths can overflow; wrapping keeps the
    // verifier's and the compiler's work small.
    let gtpu_length = user.total_length.wrapping_add(extra as u16);
    let udp_length = gtpu_length.wrapping_add((Udp::LEN + Gtpu::LEN) as u16);
    // RFC 6040 §4.1, normal mode: ECN is copied.
    let copied = entry.flags & downlink_flags::COPY_DSCP != 0;
    let dscp = if copied { user.traffic_class & !ecn::MASK } else { entry.dscp };
    let tos = dscp | user.traffic_class & ecn::MASK;
    let ip = rewrite::outer_ipv4(
        tos,
        Be16::new(udp_length.wrapping_add(Ipv4::LEN as u16)),
        entry.local,
        entry.peer,
    );
    let by_flow = entry.flags & downlink_flags::FLOW_SOURCE_PORT != 0;
    let source = if by_flow { flow_source_port(user.flow) } else { gtpu::PORT };
    let udp = Udp { source, destination: gtpu::PORT, length: Be16::new(udp_length), checksum: Be16::new(0) };
    let gtpu = Gtpu { flags, message: message::G_PDU, length: Be16::new(gtpu_length), teid: entry.teid };
    Outer { ip, udp, gtpu }
}
