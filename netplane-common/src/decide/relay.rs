//! G-PDUs and End Markers from one peer to another under a new F-TEID (N9, S5/S8-U): same extension headers,
//! same sequence numbers, over either family on either side.

use super::rules::Dues;
use super::uplink::GPdu;
use super::{Arrival, flow_source_port, reachable, resolved, way_out};
use crate::frame::Frame;
use crate::map::{NextHop, UplinkEntry, next_hop_flags, uplink_flags};
use crate::rewrite::{self, Outer, OuterIp};
use crate::tables::Tables;
use crate::verdict::{Packed, Reason};
use crate::wire::Be16;
use crate::wire::gtpu::{self, Gtpu};
use crate::wire::ip::{Ipv4, Ipv6, ecn};
use crate::wire::udp::Udp;

#[inline(always)]
pub(super) fn forward<F: Frame, T: Tables, D: Dues>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    packet: GPdu,
    dues: D,
) -> Result<Packed, Reason> {
    let next_hop = resolved(tables, entry.next_hop4)?;
    reachable::<F>(next_hop)?;
    let udp_length = packet.udp.length;
    let is_ipv6 = next_hop.has(next_hop_flags::IPV6);
    let outer_length = if is_ipv6 { Ipv6::LEN } else { Ipv4::LEN };
    if outer_length + usize::from(udp_length.get()) > usize::from(next_hop.mtu) {
        return Err(Reason::TooBig);
    }
    if !F::FORWARDS {
        return Err(Reason::NoRoom);
    }
    let behind = u32::from(packet.gtpu.length.get());
    dues.owe(tables, dues.relayed(behind))?;
    // A new outer packet: its TTL starts anew, its ECN goes on as it came.
    let received = packet.class;
    let copied = entry.flags & uplink_flags::COPY_DSCP != 0;
    let dscp = if copied { received & !ecn::MASK } else { entry.dscp };
    let tos = dscp | received & ecn::MASK;
    let done = if is_ipv6 {
        let (local, peer) = next_hop.tunnel6();
        let ip = rewrite::outer_ipv6(tos, udp_length, local, peer);
        readdress(frame, packet, entry, ip, next_hop)
    } else {
        let (local, peer) = next_hop.tunnel4();
        let total_length = Be16::new(udp_length.get().wrapping_add(Ipv4::LEN as u16));
        let ip = rewrite::outer_ipv4(tos, total_length, local, peer);
        readdress(frame, packet, entry, ip, next_hop)
    };
    done.ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, behind);
    dues.paid(tables, dues.relayed(behind));
    Ok(way_out::<F>(next_hop, arrival))
}

#[inline(always)]
fn readdress<F: Frame, I: OuterIp>(
    frame: &mut F,
    packet: GPdu,
    entry: &UplinkEntry,
    ip: I,
    next_hop: &NextHop,
) -> Option<()> {
    // What told the flows apart before, the peer's own source port, goes into the hash.
    let words = [packet.source, packet.gtpu.teid.raw(), u32::from(packet.udp.source.raw())];
    let by_flow = next_hop.has(next_hop_flags::FLOW_SOURCE_PORT);
    let source = if by_flow { flow_source_port(words) } else { gtpu::PORT };
    let udp = Udp { source, destination: gtpu::PORT, length: packet.udp.length, checksum: Be16::new(0) };
    let gtpu = Gtpu { teid: entry.teid, ..packet.gtpu };
    let behind = packet.at + Gtpu::LEN;
    let at = rewrite::relayed(frame, behind, packet.end(), Outer { ip, udp, gtpu }, next_hop)?;
    if next_hop.has(next_hop_flags::UDP_CHECKSUM) {
        rewrite::store_udp_checksum(frame, at + size_of::<I>(), udp.length, &ip)?;
    }
    Some(())
}
