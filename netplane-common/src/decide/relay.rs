//! G-PDUs and End Markers from one peer to another under a new F-TEID (N9, S5/S8-U): same length, same
//! extension headers, same sequence numbers.

use super::uplink::GPdu;
use super::{flow_source_port, resolved, way_out};
use crate::frame::Frame;
use crate::map::{UplinkEntry, uplink_flags};
use crate::rewrite;
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::wire::Be16;
use crate::wire::gtpu::{self, Gtpu};
use crate::wire::ip::ecn;
use crate::wire::udp::Udp;

#[inline(always)]
pub(super) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: GPdu,
    entry: &UplinkEntry,
) -> Result<Verdict, Reason> {
    let end = packet.end(frame)?;
    let target = entry.relay_target();
    let next_hop = resolved(tables, entry.next_hop4)?;
    let total_length = packet.outer.total_length;
    if total_length.get() > next_hop.mtu {
        return Err(Reason::TooBig);
    }
    // A new outer packet: its TTL starts anew, its ECN goes on as it came.
    let copied = entry.flags & uplink_flags::COPY_DSCP != 0;
    let dscp = if copied { packet.outer.tos & !ecn::MASK } else { entry.dscp };
    let tos = dscp | packet.outer.tos & ecn::MASK;
    let outer = rewrite::outer_ipv4(tos, total_length, target.local, target.peer);
    // What told the flows apart before, the peer's own source port, goes into the hash.
    let by_flow = entry.flags & uplink_flags::FLOW_SOURCE_PORT != 0;
    let words = [packet.outer.source.raw(), packet.gtpu.teid.raw(), u32::from(packet.udp.source.raw())];
    let source = if by_flow { flow_source_port(words) } else { gtpu::PORT };
    let udp = Udp { source, destination: gtpu::PORT, length: packet.udp.length, checksum: Be16::new(0) };
    let gtpu = Gtpu { teid: target.teid, ..packet.gtpu };
    rewrite::relayed(frame, packet.arrival.l3, end, rewrite::Outer { ip: outer, udp, gtpu }, next_hop)
        .ok_or(Reason::NoRoom)?;
    tables.count_session(entry.counter, u32::from(packet.gtpu.length.get()));
    Ok(way_out(next_hop, packet.arrival))
}
