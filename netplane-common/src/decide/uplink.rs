//! G-PDUs from a peer: to the data network, to another peer, or to the pod.

use super::outer::Received;
use super::rules::{self, Dues};
use super::{Arrival, Way, icmp, not_forwarded, reachable, relay, resolved, signalling, unfinished, way_out};
use crate::frame::Frame;
use crate::map::{
    EndpointKey, EventKind, FramedKey, GtpuEvent, NO_INDEX, NextHop, PeerKey, RouteKey, SessionAction,
    UnknownTeid, UplinkEntry, endpoint_flags, uplink_flags,
};
use crate::parse::{payload_offset, qfi};
use crate::rewrite;
use crate::tables::Tables;
use crate::verdict::{Packed, Reason};
use crate::wire::Be32;
use crate::wire::gtpu::{Gtpu, GtpuOptional, element, message};
use crate::wire::ip::{Ipv4, Ipv6, ecn, is_not_routable4, is_not_routable6, mapped, prefix64};
use crate::wire::udp::Udp;

/// UDP to port 2152. `None` if the destination is no endpoint of this port.
#[inline(always)]
pub(super) fn gtpu<F: Frame, T: Tables, O: Received>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    outer: O,
    udp: Udp,
) -> Option<Packed> {
    let at = arrival.l3 + O::LEN + Udp::LEN;
    let Some(gtpu) = frame.load::<Gtpu>(at).filter(Gtpu::is_version_1) else {
        return unclaimed(frame, tables, &arrival, Reason::PassNotGtpu);
    };
    if gtpu.message != message::G_PDU && gtpu.message != message::END_MARKER {
        return unclaimed(frame, tables, &arrival, Reason::PassSignalling);
    }
    let Some(entry) = outer.session(tables, arrival.port, gtpu.teid) else {
        let end_marker = gtpu.message == message::END_MARKER;
        let reason = if end_marker { Reason::PassSignalling } else { Reason::PassUnknownTeid };
        return unclaimed(frame, tables, &arrival, reason);
    };
    if entry.mac != arrival.mac {
        return Some(Packed::PASS);
    }
    if !frame.prepare() {
        return Some(unfinished(frame, entry.network));
    }
    let listed = entry.flags & uplink_flags::PEER_LIST != 0;
    let allowed = Peers { network: entry.network, prefix: entry.peer, mask: entry.peer_mask, listed };
    let length = usize::from(gtpu.length.get());
    let udp_length = Udp::LEN + Gtpu::LEN + length;
    let agree = usize::from(udp.length.get()) == udp_length && outer.carries(udp_length);
    if !allowed.contain(tables, &outer) {
        return Some(not_forwarded(entry.network, Reason::PeerNotAllowed));
    }
    if !agree || !frame.reaches(at + Gtpu::LEN + length) {
        return Some(not_forwarded(entry.network, Reason::Malformed));
    }
    let at = frame.opaque(at, arrival.port.ifindex);
    let packet = GPdu { class: outer.traffic_class(), source: outer.source_word(), udp, gtpu, at };
    if F::FORWARDS && entry.flags & uplink_flags::RULES != 0 && gtpu.message == message::G_PDU {
        return Some(if F::RULES {
            rules::uplink(frame, tables, arrival, entry, packet)
        } else {
            Packed::to_rules(entry.network)
        });
    }
    if !F::PLAIN {
        return Some(Packed::to_rules(entry.network));
    }
    Some(decide(frame, tables, arrival, entry, packet))
}

/// A G-PDU or End Marker of a session, whichever family carries it.
#[derive(Clone, Copy)]
pub(super) struct GPdu {
    /// Outer DSCP and ECN.
    pub(super) class: u8,
    /// Of the outer source, for a flow's hash.
    pub(super) source: u32,
    pub(super) udp: Udp,
    pub(super) gtpu: Gtpu,
    /// Offset of the GTP-U header. Its length, UDP's, IP's and the frame's agree.
    pub(super) at: usize,
}

impl GPdu {
    /// Offset behind the last byte.
    #[inline(always)]
    pub(super) fn end(&self) -> usize {
        self.at + Gtpu::LEN + usize::from(self.gtpu.length.get())
    }
}

#[inline(always)]
fn decide<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    packet: GPdu,
) -> Packed {
    match session(frame, tables, arrival, entry, packet, ()) {
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
    entry: &UplinkEntry,
    reason: Reason,
) -> Packed {
    if !matches!(reason, Reason::TtlExpired | Reason::TooBig) {
        not_forwarded(entry.network, reason)
    } else if F::ANSWERS {
        icmp::about_uplink(frame, tables, &arrival, entry, reason).verdict(entry.network, reason)
    } else {
        Packed::to_answer(entry.network, reason)
    }
}

#[inline(always)]
pub(super) fn session<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    packet: GPdu,
    dues: D,
) -> Result<Packed, Reason> {
    match SessionAction::from_number(entry.action) {
        SessionAction::Drop | SessionAction::Buffer => Err(Reason::SessionDrop),
        SessionAction::Relay => relay::forward(frame, tables, arrival, entry, packet, dues),
        // The tunnel ends at the pod: as other messages to it.
        SessionAction::Forward if packet.gtpu.message == message::END_MARKER => {
            if F::FORWARDS && F::PLAIN {
                Ok(unclaimed(frame, tables, &arrival, Reason::PassSignalling).unwrap_or(Packed::PASS))
            } else {
                Err(Reason::PassSignalling)
            }
        }
        SessionAction::Forward => decapsulate(frame, tables, arrival, entry, packet, dues),
    }
}

#[inline(always)]
fn decapsulate<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    packet: GPdu,
    dues: D,
) -> Result<Packed, Reason> {
    let at = payload_offset(frame, packet.at, packet.gtpu)?;
    // Of a session with rules, these have looked at the QFI, and its own entry has none: an answer goes by that.
    let checked = entry.flags & (uplink_flags::CHECK_QFI | uplink_flags::RULES) == uplink_flags::CHECK_QFI;
    if checked && qfi(frame, packet.at, packet.gtpu) != Some(entry.qfi) {
        return Err(Reason::QfiMismatch);
    }
    let inner = Inner { at: frame.opaque(at, arrival.port.ifindex), end: packet.end(), class: packet.class };
    let version: u8 = frame.load(inner.at).ok_or(Reason::Malformed)?;
    match version >> 4 {
        4 => to_ipv4(frame, tables, arrival, entry, inner, dues),
        6 => to_ipv6(frame, tables, arrival, entry, inner, dues),
        _ => Err(Reason::Malformed),
    }
}

/// Where the T-PDU is, and the outer DSCP and ECN.
#[derive(Clone, Copy)]
struct Inner {
    at: usize,
    end: usize,
    class: u8,
}

#[inline(always)]
fn to_ipv4<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    inner: Inner,
    dues: D,
) -> Result<Packed, Reason> {
    let header: Ipv4 = frame.load(inner.at).ok_or(Reason::Malformed)?;
    let total_length = usize::from(header.total_length.get());
    if header.header_len() < Ipv4::LEN
        || total_length < header.header_len()
        || inner.at + total_length > inner.end
    {
        return Err(Reason::Malformed);
    }
    if is_not_routable4(header.destination) {
        return Err(Reason::PassNotRoutable);
    }
    // TS 29.244 §5.4.3 with TS 23.501 §5.8.2.6: a user sends under its own address only.
    if entry.flags & uplink_flags::CHECK_UE != 0
        && header.source != entry.ue4
        && !is_behind4::<F, T>(tables, entry, header.source)
    {
        return Err(Reason::UeSpoofed);
    }
    if header.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let next_hop = route4(tables, entry, header.destination)?;
    reachable::<F>(next_hop)?;
    if total_length > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    let mut onward = header.next_hop();
    if let Some(ecn) = merged_ecn(inner.class, header.tos)? {
        onward = onward.with_ecn(ecn);
    }
    if !F::FORWARDS {
        return Err(Reason::NoRoom);
    }
    dues.owe(tables, total_length as u32)?;
    rewrite::decapsulated_ipv4(frame, inner.at, inner.at + total_length, onward, next_hop)
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, total_length as u32);
    dues.paid(tables, total_length as u32);
    Ok(way_out::<F>(next_hop, arrival))
}

#[inline(always)]
fn to_ipv6<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    inner: Inner,
    dues: D,
) -> Result<Packed, Reason> {
    let header: Ipv6 = frame.load(inner.at).ok_or(Reason::Malformed)?;
    let total_length = Ipv6::LEN + usize::from(header.payload_length.get());
    if inner.at + total_length > inner.end {
        return Err(Reason::Malformed);
    }
    // In front of the source: a Router Solicitation comes from the user's link-local address (RFC 4861 §4.1).
    if is_not_routable6(&header.destination) {
        return Err(Reason::PassNotRoutable);
    }
    if entry.flags & uplink_flags::CHECK_UE != 0
        && prefix64(&header.source) != entry.ue6
        && !is_behind6::<F, T>(tables, entry, header.source)
    {
        return Err(Reason::UeSpoofed);
    }
    if header.hop_limit <= 1 {
        return Err(Reason::TtlExpired);
    }
    let next_hop = route6(tables, entry, header.destination)?;
    reachable::<F>(next_hop)?;
    if total_length > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    let mut onward = Ipv6 { hop_limit: header.hop_limit.wrapping_sub(1), ..header };
    if let Some(ecn) = merged_ecn(inner.class, header.traffic_class())? {
        onward = onward.with_ecn(ecn);
    }
    if !F::FORWARDS {
        return Err(Reason::NoRoom);
    }
    dues.owe(tables, total_length as u32)?;
    rewrite::decapsulated_ipv6(frame, inner.at, inner.at + total_length, onward, next_hop)
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, total_length as u32);
    dues.paid(tables, total_length as u32);
    Ok(way_out::<F>(next_hop, arrival))
}

/// Whether an address is in a framed route of the session's user. A program that only answers does not look again: it has no
/// stack left for the key, and the one that has called it has looked.
#[inline(always)]
fn is_behind4<F: Frame, T: Tables>(tables: &T, entry: &UplinkEntry, source: Be32) -> bool {
    if entry.flags & uplink_flags::FRAMED == 0 || F::ANSWERS && !F::FORWARDS {
        return entry.flags & uplink_flags::FRAMED != 0;
    }
    let key = FramedKey { port: entry.data_port(), address: mapped(source) };
    matches!(tables.framed(&key), Some(it) if it.ue4() == entry.ue4)
}

/// The same for IPv6.
#[inline(always)]
fn is_behind6<F: Frame, T: Tables>(tables: &T, entry: &UplinkEntry, source: [Be32; 4]) -> bool {
    if entry.flags & uplink_flags::FRAMED == 0 || F::ANSWERS && !F::FORWARDS {
        return entry.flags & uplink_flags::FRAMED != 0;
    }
    let key = FramedKey { port: entry.data_port(), address: source };
    matches!(tables.framed(&key), Some(it) if it.ue6() == entry.ue6)
}

/// The next hop for a decapsulated packet: the endpoint's default way, or by trie where that says so.
#[inline(always)]
pub(super) fn route4<'t, T: Tables>(
    tables: &'t T,
    entry: &UplinkEntry,
    destination: Be32,
) -> Result<&'t NextHop, Reason> {
    let default = tables.next_hop(entry.next_hop4).ok_or(Reason::NextHopUnresolved)?;
    if default.looks_up4(destination) {
        looked_up(tables, default.scope, mapped(destination))
    } else if default.is_resolved() {
        Ok(default)
    } else {
        Err(Reason::NextHopUnresolved)
    }
}

/// The same for IPv6.
#[inline(always)]
pub(super) fn route6<'t, T: Tables>(
    tables: &'t T,
    entry: &UplinkEntry,
    destination: [Be32; 4],
) -> Result<&'t NextHop, Reason> {
    let default = tables.next_hop(entry.next_hop6).ok_or(Reason::NextHopUnresolved)?;
    if default.looks_up6(&destination) {
        looked_up(tables, default.scope, destination)
    } else if default.is_resolved() {
        Ok(default)
    } else {
        Err(Reason::NextHopUnresolved)
    }
}

#[inline(always)]
fn looked_up<T: Tables>(tables: &T, scope: u32, destination: [Be32; 4]) -> Result<&NextHop, Reason> {
    let key = RouteKey { scope, destination };
    match tables.route(&key) {
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
    prefix: [Be32; 2],
    mask: [Be32; 2],
    listed: bool,
}

impl Peers {
    #[inline(always)]
    fn contain<T: Tables, O: Received>(&self, tables: &T, outer: &O) -> bool {
        if self.listed {
            tables.peer_listed(&PeerKey { network: u32::from(self.network), address: outer.source() })
        } else {
            outer.is_from(&self.prefix, &self.mask)
        }
    }
}

/// What no session takes, as the network's metadata says. `None`: no endpoint of ours.
#[inline(always)]
fn unclaimed<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: &Arrival,
    reason: Reason,
) -> Option<Packed> {
    if !F::PLAIN {
        return None;
    }
    Packed::from_bits(out_of_line(frame, tables, arrival, reason))
}

/// A function of its own, so that the plain packet does not carry what this needs; it reads the headers again.
/// Returns a verdict's bits, [`Packed::NONE`] for no endpoint of this port.
#[inline(never)]
fn out_of_line<F: Frame, T: Tables>(frame: &mut F, tables: &T, arrival: &Arrival, reason: Reason) -> u64 {
    let outcome = match frame.load::<u8>(arrival.l3).unwrap_or(0) >> 4 {
        4 => no_session::<F, T, Ipv4>(frame, tables, *arrival, reason),
        _ => no_session::<F, T, Ipv6>(frame, tables, *arrival, reason),
    };
    outcome.map_or(Packed::NONE, Packed::bits)
}

#[inline(always)]
fn no_session<F: Frame, T: Tables, O: Received>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    reason: Reason,
) -> Option<Packed> {
    let outer: O = frame.load(arrival.l3)?;
    let entry = tables.endpoint(&EndpointKey { port: arrival.port, address: outer.destination() })?;
    if entry.mac != arrival.mac {
        return Some(Packed::PASS);
    }
    let listed = entry.flags & endpoint_flags::PEER_LIST != 0;
    let allowed = Peers { network: entry.network, prefix: entry.peer, mask: entry.peer_mask, listed };
    if !allowed.contain(tables, &outer) {
        return Some(not_forwarded(entry.network, Reason::PeerNotAllowed));
    }
    if reason == Reason::PassNotGtpu {
        return Some(not_forwarded(entry.network, reason));
    }
    let udp: Udp = frame.load(arrival.l3 + O::LEN)?;
    let at = arrival.l3 + O::LEN + Udp::LEN;
    let gtpu: Gtpu = frame.load(at)?;
    let packet = Request { arrival, outer, udp, gtpu, at };
    // The program that answers decides a second time.
    if F::FORWARDS {
        tell(frame, tables, &packet, u32::from(entry.network), reason);
    }
    let outcome = match reason {
        Reason::PassSignalling
            if gtpu.message == message::ECHO_REQUEST && entry.flags & endpoint_flags::ECHO != 0 =>
        {
            if !frame.prepare() {
                unfinished(frame, entry.network)
            } else if F::ANSWERS {
                let way = signalling::echo(frame, &packet);
                let reason = if way == Way::NONE { Reason::PassSignalling } else { Reason::EchoAnswered };
                way.verdict(entry.network, reason)
            } else {
                Packed::to_answer(entry.network, reason)
            }
        }
        Reason::PassUnknownTeid if entry.unknown_teid == UnknownTeid::Drop as u8 => {
            not_forwarded(entry.network, Reason::UnknownTeid)
        }
        Reason::PassUnknownTeid if entry.unknown_teid == UnknownTeid::ErrorIndication as u8 => {
            if !frame.prepare() {
                unfinished(frame, entry.network)
            } else if F::ANSWERS {
                let way = signalling::error_indication(frame, tables, &packet);
                way.verdict(entry.network, Reason::UnknownTeid)
            } else {
                Packed::to_answer(entry.network, Reason::UnknownTeid)
            }
        }
        reason => not_forwarded(entry.network, reason),
    };
    Some(outcome)
}

/// Tells the agent of a message that its pod's control plane may have to do something about.
#[inline(always)]
fn tell<F: Frame, T: Tables, O: Received>(
    frame: &F,
    tables: &T,
    packet: &Request<O>,
    network: u32,
    reason: Reason,
) {
    let kind = match (reason, packet.gtpu.message) {
        (Reason::PassUnknownTeid, _) => EventKind::UnknownTeid,
        (_, message::END_MARKER) => EventKind::EndMarker,
        (_, message::ERROR_INDICATION) => EventKind::ErrorIndication,
        (_, message::ECHO_RESPONSE) => EventKind::EchoResponse,
        _ => return,
    };
    let mut teid = packet.gtpu.teid;
    if matches!(kind, EventKind::ErrorIndication) {
        // The first element, in ascending order of types (TS 29.281 §8.1).
        let optional = if packet.gtpu.has_optional() { GtpuOptional::LEN } else { 0 };
        let at = packet.at + Gtpu::LEN + optional;
        match (frame.load::<u8>(at), frame.load::<Be32>(at + 1)) {
            (Some(element::TEID_DATA_I), Some(it)) => teid = it,
            _ => return,
        }
    }
    let (local, peer) = (packet.outer.destination(), packet.outer.source());
    tables.tell(&GtpuEvent { kind: kind as u32, network, teid, reserved: 0, local, peer });
}

/// A message that is answered, with its headers and the offset of GTP-U's.
#[derive(Clone, Copy)]
pub(super) struct Request<O> {
    pub(super) arrival: Arrival,
    pub(super) outer: O,
    pub(super) udp: Udp,
    pub(super) gtpu: Gtpu,
    pub(super) at: usize,
}
