//! What tables in memory say of a packet, asked the slow and plain way. All that the invariants know of the
//! layout of map values is here.

use super::cases::IFINDEX;
use super::tables::{MapTables, mask, words};
use super::view::{Ip, Link, be16, be32, mapped};
use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, Filter, NO_INDEX, NextHop, PeerKey, Port, RouteKey, Rule,
    RuleKey, UplinkEntry, UplinkKey, UplinkKey6, downlink_flags, filter_has, next_hop_flags, uplink_flags,
};
use crate::tables::Tables;
use crate::verdict::{Packed, Verdict};
use crate::wire::Be32;

fn low(address: u128) -> Be32 {
    Be32::new(address as u32)
}

fn of4(address: Be32) -> u128 {
    mapped(address.get())
}

fn of6(address: [Be32; 4]) -> u128 {
    address.iter().fold(0, |sum, word| sum << 32 | u128::from(word.get()))
}

fn prefix64(address: u128) -> [Be32; 2] {
    let [a, b, _, _] = words(address);
    [a, b]
}

/// Outer addresses and TEID that a tunnelled packet must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    /// IPv4 as IPv4-mapped.
    pub(super) local: u128,
    pub(super) peer: u128,
    pub(super) teid: u32,
    /// The outer source port is the flow's.
    pub(super) by_flow: bool,
    /// The outer UDP checksum is not left out.
    pub(super) checksum: bool,
}

fn tunnel(next_hop: &NextHop, teid: Be32) -> Tunnel {
    let (local, peer) = if next_hop.has(next_hop_flags::IPV6) {
        let (local, peer) = next_hop.tunnel6();
        (of6(local), of6(peer))
    } else {
        let (local, peer) = next_hop.tunnel4();
        (of4(local), of4(peer))
    };
    let by_flow = next_hop.has(next_hop_flags::FLOW_SOURCE_PORT);
    let checksum = next_hop.has(next_hop_flags::UDP_CHECKSUM);
    Tunnel { local, peer, teid: teid.get(), by_flow, checksum }
}

pub(super) fn uplink<'t>(
    tables: &'t MapTables,
    vlan: u16,
    teid: u32,
    outer: &Ip<'_>,
) -> Option<&'t UplinkEntry> {
    let (port, teid) = (Port::new(IFINDEX, vlan), Be32::new(teid));
    match outer.version {
        4 => tables.uplink.get(&UplinkKey { port, teid, local: low(outer.destination) }),
        _ => tables.uplink6.get(&UplinkKey6 { port, teid, local: words(outer.destination) }),
    }
}

pub(super) fn downlink<'t>(tables: &'t MapTables, vlan: u16, to: &Ip<'_>) -> Option<&'t DownlinkEntry> {
    let port = Port::new(IFINDEX, vlan);
    let exact = |user: u128| match to.version {
        4 => tables.downlink4.get(&DownlinkKey4 { port, ue: low(user) }),
        _ => tables.downlink6.get(&DownlinkKey6 { port, ue: prefix64(user) }),
    };
    exact(to.destination).or_else(|| exact(behind(tables, port, to.destination)?))
}

/// The user behind whom an address is on a port: the longest framed route says so.
fn behind(tables: &MapTables, port: Port, address: u128) -> Option<u128> {
    let here =
        tables.framed.iter().filter(|((of, from, len), _)| *of == port && address & mask(*len) == *from);
    here.max_by_key(|((_, _, len), _)| *len).map(|(_, it)| of6(it.ue))
}

/// Whether a session takes packets from this outer source.
pub(super) fn peer_is_allowed(tables: &MapTables, entry: &UplinkEntry, outer: &Ip<'_>) -> bool {
    if entry.flags & uplink_flags::PEER_LIST != 0 {
        let key = PeerKey { network: u32::from(entry.network), address: words(outer.source) };
        return tables.peer_listed(&key);
    }
    matches(outer, outer.source, &entry.peer, &entry.peer_mask)
}

/// Whether an address is in a prefix as entries have it: IPv4 in the first word, IPv6 by its first 64 bits.
fn matches(ip: &Ip<'_>, address: u128, prefix: &[Be32; 2], mask: &[Be32; 2]) -> bool {
    let [high, next] = if ip.version == 4 { [low(address); 2] } else { prefix64(address) };
    let is_in = |word: Be32, at: usize| word.get() & mask[at].get() == prefix[at].get();
    is_in(high, 0) && (ip.version == 4 || is_in(next, 1))
}

/// Whether a user may send this.
pub(super) fn user_may(tables: &MapTables, entry: &UplinkEntry, inner: &Ip<'_>) -> bool {
    let is_user = |address: u128| match inner.version {
        4 => entry.ue4 == low(address),
        _ => entry.ue6 == prefix64(address),
    };
    let port = Port::new(entry.data_ifindex, entry.teid.get() as u16);
    let is_framed =
        || entry.flags & uplink_flags::FRAMED != 0 && behind(tables, port, inner.source).is_some_and(is_user);
    is_user(inner.source) || is_framed() || entry.flags & uplink_flags::CHECK_UE == 0
}

/// The QFI that a packet of a user must carry.
pub(super) fn checked_qfi(entry: &UplinkEntry) -> Option<u8> {
    (entry.flags & uplink_flags::CHECK_QFI != 0).then_some(entry.qfi)
}

pub(super) fn relayed_to(tables: &MapTables, entry: &UplinkEntry) -> Option<Tunnel> {
    way_of_relay(tables, entry).map(|it| tunnel(it, entry.teid))
}

pub(super) fn tunnel_to_user(tables: &MapTables, entry: &DownlinkEntry) -> Option<Tunnel> {
    way_down(tables, entry).map(|it| tunnel(it, entry.teid))
}

/// The QFI that a packet to a user must carry.
pub(super) fn qfi(entry: &DownlinkEntry) -> Option<u8> {
    (entry.flags & downlink_flags::QFI != 0).then_some(entry.qfi & 0x3f)
}

/// The next hop of a decapsulated packet.
pub(super) fn way_up<'t>(tables: &'t MapTables, entry: &UplinkEntry, inner: &Ip<'_>) -> Option<&'t NextHop> {
    let index = if inner.version == 4 { entry.next_hop4 } else { entry.next_hop6 };
    let default = tables.next_hops.get(&index)?;
    let [a, b, c, d, ..] = default.way;
    if default.has(next_hop_flags::LOOK_UP) && matches(inner, inner.destination, &[a, b], &[c, d]) {
        let key = RouteKey { scope: default.scope, destination: words(inner.destination) };
        return tables.next_hops.get(&tables.route(&key)?);
    }
    Some(default)
}

pub(super) fn way_of_relay<'t>(tables: &'t MapTables, entry: &UplinkEntry) -> Option<&'t NextHop> {
    tables.next_hops.get(&entry.next_hop4)
}

pub(super) fn way_down<'t>(tables: &'t MapTables, entry: &DownlinkEntry) -> Option<&'t NextHop> {
    tables.next_hops.get(&entry.next_hop)
}

/// Whether a frame of so many IP bytes that leaves like this takes this next hop.
pub(super) fn takes(way: &NextHop, link: &Link<'_>, verdict: Verdict, len: usize) -> bool {
    let is_out = match verdict {
        Verdict::Deliver { port } => way.is_local() && way.port == port,
        Verdict::Redirect { port } => way.ifindex != IFINDEX && way.port == port,
        Verdict::Answer { port, .. } if way.is_local() => port == way.port | Packed::LOCAL,
        Verdict::Answer { port, .. } if port != NO_INDEX => way.ifindex != IFINDEX && way.port == port,
        _ => way.ifindex == IFINDEX,
    };
    let macs = (way.destination().octets(), way.source().octets());
    let is_link = (link.destination, link.source, link.vlan) == (&macs.0[..], &macs.1[..], way.vlan);
    way.is_resolved() && is_out && is_link && len <= usize::from(way.mtu)
}

/// The rule of a G-PDU's session that is for it, where the session has rules; `inner` is its packet, if it has one.
pub(super) fn uplink_rule<'t>(
    tables: &'t MapTables,
    entry: &UplinkEntry,
    inner: Option<&Ip<'_>>,
    qfi: Option<u8>,
) -> Option<Option<&'t Rule>> {
    (entry.flags & uplink_flags::RULES != 0).then(|| first_rule(tables, entry.rules, inner, qfi))
}

/// The same of a packet to a user.
pub(super) fn downlink_rule<'t>(
    tables: &'t MapTables,
    entry: &DownlinkEntry,
    ip: &Ip<'_>,
) -> Option<Option<&'t Rule>> {
    (entry.flags & downlink_flags::RULES != 0).then(|| first_rule(tables, entry.rules, Some(ip), None))
}

fn first_rule<'t>(tables: &'t MapTables, set: u32, ip: Option<&Ip<'_>>, qfi: Option<u8>) -> Option<&'t Rule> {
    let rules = tables.rules.range(RuleKey { set, number: 0 }..=RuleKey { set, number: u32::MAX });
    let is_of_flow = |it: &Filter| it.qfis == 0 || qfi.is_some_and(|qfi| it.qfis >> qfi & 1 == 1);
    rules.map(|(_, rule)| rule).find(|it| is_of_flow(&it.filter) && is_for(&it.filter, ip))
}

/// Whether a filter is for a packet (TS 29.244 §8.2.5).
fn is_for(filter: &Filter, ip: Option<&Ip<'_>>) -> bool {
    let Some(ip) = ip else {
        // Only one that looks at nothing.
        let mut masks = filter.source_mask.iter().chain(&filter.destination_mask);
        return filter.has == 0 && filter.tos_mask == 0 && masks.all(|it| it.raw() == 0);
    };
    let looks = |at: u8| filter.has & at != 0;
    let matches = |address: u128, prefix: [Be32; 4], mask: [Be32; 4]| address & of6(mask) == of6(prefix);
    let has_transport = ip.version == 6 || be16(ip.whole, 6).is_some_and(|it| it & 0x1fff == 0);
    let transport = if has_transport { ip.payload() } else { &[] };
    let has_ports = matches!(ip.protocol, 6 | 17 | 33 | 132 | 136);
    let port = |at: usize| be16(transport, at).filter(|_| has_ports && transport.len() >= 4);
    let is_in = |at: usize, first: u16, last: u16| port(at).is_some_and(|it| (first..=last).contains(&it));
    let spi = match ip.protocol {
        50 => be32(transport, 0),
        51 => be32(transport, 4),
        _ => None,
    };
    let label = be32(ip.whole, 0).filter(|_| ip.version == 6).map(|it| it & 0xf_ffff);
    let [a, b, c, d] = filter.ports;
    matches(ip.source, filter.source, filter.source_mask)
        && matches(ip.destination, filter.destination, filter.destination_mask)
        && ip.class & filter.tos_mask == filter.tos
        && (!looks(filter_has::VERSION) || ip.version == filter.version)
        && (!looks(filter_has::PROTOCOL) || ip.protocol == filter.protocol)
        && (!looks(filter_has::PORTS) || is_in(0, a, b) && is_in(2, c, d))
        && (!looks(filter_has::SPI) || spi == Some(filter.word))
        && (!looks(filter_has::FLOW_LABEL) || label == Some(filter.word))
}

/// Whether an address is one under which a data endpoint speaks as the users' router.
pub(super) fn is_router(tables: &MapTables, address: u128) -> bool {
    tables.routers.values().any(|it| of4(it.address4) == address || of6(it.address6) == address)
}
