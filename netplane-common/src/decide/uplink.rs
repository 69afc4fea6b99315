//! G-PDUs from a peer: to the data network, to another peer, or to the pod.

use super::{Arrival, Way, icmp, not_forwarded, relay, resolved, signalling, way_out};
use crate::frame::Frame;
use crate::map::{
    EndpointKey, NO_INDEX, NextHop, PeerKey, RouteKey, SessionAction, UnknownTeid, UplinkEntry, UplinkKey,
    endpoint_flags, uplink_flags,
};
use crate::parse::payload_offset;
use crate::rewrite;
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::wire::gtpu::{Gtpu, message};
use crate::wire::ip::{Ipv4, Ipv6, ecn, prefix64};
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32};

/// UDP to port 2152. `None` if the destination is no endpoint of this port.
#[inline(always)]
pub(super) fn gtpu<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    outer: Ipv4,
    udp: Udp,
) -> Option<Verdict> {
    let at = arrival.l3 + Ipv4::LEN + Udp::LEN;
    let gtpu = frame.load::<Gtpu>(at).filter(Gtpu::is_version_1);
    let Some(gtpu) = gtpu else {
        let none = Gtpu { flags: 0, message: 0, length: Be16::new(0), teid: Be32::new(0) };
        let packet = GPdu { arrival, outer, udp, gtpu: none, at };
        return no_session(frame, tables, packet, Reason::PassNotGtpu);
    };
    let packet = GPdu { arrival, outer, udp, gtpu, at };
    if gtpu.message != message::G_PDU && gtpu.message != message::END_MARKER {
        return no_session(frame, tables, packet, Reason::PassSignalling);
    }
    let key = UplinkKey { port: arrival.port, teid: gtpu.teid, local: outer.destination };
    let Some(entry) = tables.uplink(&key) else {
        let end_marker = gtpu.message == message::END_MARKER;
        let reason = if end_marker { Reason::PassSignalling } else { Reason::PassUnknownTeid };
        return no_session(frame, tables, packet, reason);
    };
    if entry.mac != arrival.mac {
        return Some(Verdict::Pass);
    }
    let outcome = session(frame, tables, packet, entry);
    Some(outcome.unwrap_or_else(|reason| refused(frame, tables, packet, entry, reason)))
}

/// A packet that goes no further: its sender is told where that is for the sender to mend.
#[inline(always)]
fn refused<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
    reason: Reason,
) -> Verdict {
    if matches!(reason, Reason::TtlExpired | Reason::TooBig) {
        icmp::about_uplink(frame, tables, &packet, entry, reason).verdict(entry.network, reason)
    } else {
        not_forwarded(entry.network, reason)
    }
}

/// The headers of a GTP-U packet, and where the GTP-U header is.
#[derive(Clone, Copy)]
pub(super) struct GPdu {
    pub(super) arrival: Arrival,
    pub(super) outer: Ipv4,
    pub(super) udp: Udp,
    pub(super) gtpu: Gtpu,
    pub(super) at: usize,
}

impl GPdu {
    /// Offset behind the last byte of the packet, if all three lengths and the frame agree on it.
    #[inline(always)]
    pub(super) fn end<F: Frame>(&self, frame: &F) -> Result<usize, Reason> {
        let length = usize::from(self.gtpu.length.get());
        let udp_length = Udp::LEN + Gtpu::LEN + length;
        let end = self.at + Gtpu::LEN + length;
        let agree = usize::from(self.udp.length.get()) == udp_length
            && usize::from(self.outer.total_length.get()) == Ipv4::LEN + udp_length
            && end <= frame.len();
        if agree { Ok(end) } else { Err(Reason::Malformed) }
    }
}

#[inline(always)]
fn session<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
) -> Result<Verdict, Reason> {
    let listed = entry.flags & uplink_flags::PEER_LIST != 0;
    let allowed = Peers { network: entry.network, prefix: entry.peer, mask: entry.peer_mask, listed };
    if !allowed.contain(tables, packet.outer.source) {
        return Err(Reason::PeerNotAllowed);
    }
    match SessionAction::from_number(entry.action) {
        SessionAction::Drop => Err(Reason::SessionDrop),
        SessionAction::Relay => relay::forward(frame, tables, packet, entry),
        SessionAction::Forward if packet.gtpu.message == message::END_MARKER => Err(Reason::PassSignalling),
        SessionAction::Forward => decapsulate(frame, tables, packet, entry),
    }
}

#[inline(always)]
fn decapsulate<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
) -> Result<Verdict, Reason> {
    let end = packet.end(frame)?;
    let at = payload_offset(frame, packet.at, packet.gtpu)?;
    let version: u8 = frame.load(at).ok_or(Reason::Malformed)?;
    match version >> 4 {
        4 => to_ipv4(frame, tables, packet, entry, Inner { at, end }),
        6 => to_ipv6(frame, tables, packet, entry, Inner { at, end }),
        _ => Err(Reason::Malformed),
    }
}

/// Where the T-PDU is.
#[derive(Clone, Copy)]
struct Inner {
    at: usize,
    end: usize,
}

#[inline(always)]
fn to_ipv4<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
    inner: Inner,
) -> Result<Verdict, Reason> {
    let header: Ipv4 = frame.load(inner.at).ok_or(Reason::Malformed)?;
    let total_length = usize::from(header.total_length.get());
    if header.header_len() < Ipv4::LEN
        || total_length < header.header_len()
        || inner.at + total_length > inner.end
    {
        return Err(Reason::Malformed);
    }
    // TS 29.244 §5.4.3 with TS 23.501 §5.8.2.6: a user sends under its own address only.
    if entry.flags & uplink_flags::CHECK_UE != 0 && header.source != entry.ue4 {
        return Err(Reason::UeSpoofed);
    }
    if header.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let next_hop = route(tables, entry, header.destination)?;
    if total_length > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    let mut onward = header.next_hop();
    if let Some(ecn) = merged_ecn(packet.outer.tos, header.tos)? {
        onward = onward.with_ecn(ecn);
    }
    rewrite::decapsulated_ipv4(frame, inner.at, inner.at + total_length, onward, next_hop)
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, total_length as u32);
    Ok(way_out(next_hop, packet.arrival))
}

#[inline(always)]
fn to_ipv6<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
    inner: Inner,
) -> Result<Verdict, Reason> {
    let header: Ipv6 = frame.load(inner.at).ok_or(Reason::Malformed)?;
    let total_length = Ipv6::LEN + usize::from(header.payload_length.get());
    if inner.at + total_length > inner.end {
        return Err(Reason::Malformed);
    }
    if entry.flags & uplink_flags::CHECK_UE != 0 && prefix64(&header.source) != entry.ue6 {
        return Err(Reason::UeSpoofed);
    }
    if header.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    let next_hop = resolved(tables, entry.next_hop6)?;
    if total_length > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    let mut onward = Ipv6 { hop_limit: header.hop_limit.wrapping_sub(1), ..header };
    if let Some(ecn) = merged_ecn(packet.outer.tos, header.traffic_class())? {
        onward = onward.with_ecn(ecn);
    }
    rewrite::decapsulated_ipv6(frame, inner.at, inner.at + total_length, onward, next_hop)
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, total_length as u32);
    Ok(way_out(next_hop, packet.arrival))
}

/// The next hop for a decapsulated packet: by index, or by trie where the pod has more than one way.
#[inline(always)]
pub(super) fn route<'t, T: Tables>(
    tables: &'t T,
    entry: &UplinkEntry,
    destination: Be32,
) -> Result<&'t NextHop, Reason> {
    let target = entry.route_target();
    if destination.raw() & target.mask.raw() != target.prefix.raw() {
        return resolved(tables, entry.next_hop4);
    }
    let key = RouteKey { scope: target.scope, destination };
    match tables.route4(&key) {
        Some(NO_INDEX) => {
            tables.want_neighbour(&key);
            Err(Reason::NextHopUnresolved)
        }
        Some(index) => resolved(tables, index),
        None => Err(Reason::NextHopUnresolved),
    }
}

/// ECN on decapsulation (RFC 6040 §4.2): `Some` where the inner bits must become others. The rare
/// combinations of the table that only call for an alarm change nothing.
#[inline(always)]
fn merged_ecn(outer: u8, inner: u8) -> Result<Option<u8>, Reason> {
    if outer & ecn::MASK != ecn::CE {
        return Ok(None);
    }
    match inner & ecn::MASK {
        ecn::NOT_ECT => Err(Reason::EcnNotCapable),
        _ => Ok(Some(ecn::CE)),
    }
}

/// The outer sources that a network takes packets from.
struct Peers {
    network: u16,
    prefix: Be32,
    mask: Be32,
    listed: bool,
}

impl Peers {
    #[inline(always)]
    fn contain<T: Tables>(&self, tables: &T, source: Be32) -> bool {
        if self.listed {
            tables.peer_listed(&PeerKey { network: u32::from(self.network), address: source })
        } else {
            source.raw() & self.mask.raw() == self.prefix.raw()
        }
    }
}

/// What no session takes, as the network's metadata says. `None`: no endpoint of ours.
#[inline(always)]
fn no_session<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    reason: Reason,
) -> Option<Verdict> {
    let GPdu { arrival, outer, gtpu, .. } = packet;
    let entry = tables.endpoint(&EndpointKey { port: arrival.port, address: outer.destination })?;
    if entry.mac != arrival.mac {
        return Some(Verdict::Pass);
    }
    let listed = entry.flags & endpoint_flags::PEER_LIST != 0;
    let allowed = Peers { network: entry.network, prefix: entry.peer, mask: entry.peer_mask, listed };
    if !allowed.contain(tables, outer.source) {
        return Some(not_forwarded(entry.network, Reason::PeerNotAllowed));
    }
    let verdict = match reason {
        Reason::PassSignalling
            if gtpu.message == message::ECHO_REQUEST && entry.flags & endpoint_flags::ECHO != 0 =>
        {
            let way = signalling::echo(frame, &packet);
            let reason = if way == Way::NONE { Reason::PassSignalling } else { Reason::EchoAnswered };
            way.verdict(entry.network, reason)
        }
        Reason::PassUnknownTeid if entry.unknown_teid == UnknownTeid::Drop as u8 => {
            not_forwarded(entry.network, Reason::UnknownTeid)
        }
        Reason::PassUnknownTeid if entry.unknown_teid == UnknownTeid::ErrorIndication as u8 => {
            signalling::error_indication(frame, tables, &packet).verdict(entry.network, Reason::UnknownTeid)
        }
        reason => not_forwarded(entry.network, reason),
    };
    Some(verdict)
}
