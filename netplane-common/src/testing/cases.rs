//! The table of cases: tables and a packet in, verdict and packet out. It runs on slices here, and on
//! the real programs in the kernel.

use super::packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::{MapTables, prefix as trie_prefix};
use super::{answers, downlink, found, framed, ipv6, rules, uplink};
use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, LookedUp, NO_INDEX, NextHop,
    NextHopState, Port, SessionAction, UplinkEntry, UplinkKey, UplinkKey6, downlink_flags, next_hop_flags,
    uplink_flags,
};
use crate::verdict::{Reason, Verdict};
use crate::wire::{Be32, ethernet::Mac, ip};
use std::net::{Ipv4Addr, Ipv6Addr};

/// BPF_PROG_TEST_RUN makes frames come in by the loopback device, which has index 1 everywhere.
pub const IFINDEX: u32 = 1;
/// Another master.
pub const OTHER_IFINDEX: u32 = 7;
/// Its index in the device map.
pub const OTHER_PORT: u32 = 3;
pub const VLAN: u16 = 100;
pub const N3: u16 = 5;
pub const N6: u16 = 6;

pub const GNB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
pub const POD_N3_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x31];
pub const POD_N6_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x61];

pub const GNB: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);
pub const POD_N3: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 2);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 7);
pub const UE: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// A host on the data network's own subnet, and one whose neighbour is not known.
pub const ON_LINK: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 9);
pub const ON_LINK_UNKNOWN: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 8);
pub const UE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x60, 1, 0, 0, 0, 1);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 1);
pub const GNB6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 0x10);
pub const POD_N3_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 2);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x90, 0, 0, 0, 0, 7);
pub const ON_LINK6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 9);
pub const ON_LINK6_UNKNOWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 8);

pub const TEID: u32 = 0x1001;
pub const RELAY_TEID: u32 = 0x3001;
pub const DROP_TEID: u32 = 0x5001;
pub const DOWNLINK_TEID: u32 = 0x2001;
pub const RELAYED_TEID: u32 = 0x4001;
pub const QFI: u8 = 9;

/// Next hops of the standard tables.
pub const TO_ROUTER: u32 = 1;
pub const TO_GNB: u32 = 2;
pub const UNRESOLVED: u32 = 3;
pub const TO_HOST: u32 = 4;
pub const TO_ROUTER_TAGGED: u32 = 5;
/// Default way for IPv6, tunnels over IPv6 and to the other peer.
pub const TO_ROUTER6: u32 = 6;
pub const TO_GNB6: u32 = 7;
pub const TO_PEER: u32 = 8;
pub const TO_PEER6: u32 = 9;
pub const SCOPE: u32 = 11;
pub const UPLINK_COUNTER: u32 = 20;
pub const DOWNLINK_COUNTER: u32 = 21;

/// One record is the whole test.
pub struct Case {
    pub name: &'static str,
    pub tables: MapTables,
    pub packet: Vec<u8>,
    pub verdict: Verdict,
    /// The frame afterwards; `None`: as it came.
    pub out: Option<Vec<u8>>,
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = uplink::cases();
    cases.extend(uplink::malformed());
    cases.extend(uplink::not_sessions());
    cases.extend(uplink::passed_on());
    cases.extend(uplink::relays());
    cases.extend(downlink::cases());
    cases.extend(downlink::not_forwarded());
    cases.extend(answers::downlink());
    cases.extend(answers::uplink());
    cases.extend(answers::echo());
    cases.extend(answers::error_indication());
    cases.extend(ipv6::uplink());
    cases.extend(ipv6::uplink_kept());
    cases.extend(ipv6::not_sessions());
    cases.extend(ipv6::relays());
    cases.extend(ipv6::downlink());
    cases.extend(ipv6::downlink_ways());
    cases.extend(ipv6::answers());
    cases.extend(ipv6::qfi());
    cases.extend(framed::cases());
    cases.extend(rules::filters());
    cases.extend(rules::what_filters_see());
    cases.extend(rules::uplink());
    cases.extend(rules::no_packets());
    cases.extend(rules::enforced());
    cases.extend(found::cases());
    cases
}

/// Cases of IPv4 headers with a wrong checksum, of which no dissector approves.
pub fn wrong_sums() -> Vec<Case> {
    uplink::wrong_sums()
}

/// The port of untagged frames.
pub fn port() -> Port {
    Port::new(IFINDEX, 0)
}

pub fn drop(network: u16, reason: Reason) -> Verdict {
    Verdict::Drop { network, reason }
}

pub fn passed(reason: Reason) -> Verdict {
    Verdict::PassCounted { network: N3, reason }
}

pub const REDIRECT: Verdict = Verdict::Redirect { port: OTHER_PORT };

pub fn uplink_key(teid: u32) -> UplinkKey {
    UplinkKey { port: port(), teid: Be32::new(teid), local: POD_N3.into() }
}

pub fn uplink_key6(teid: u32) -> UplinkKey6 {
    UplinkKey6 { port: port(), teid: Be32::new(teid), local: ip::words(POD_N3_6) }
}

fn prefix(address: Ipv6Addr) -> [Be32; 2] {
    let bits = address.to_bits();
    [Be32::new((bits >> 96) as u32), Be32::new((bits >> 64) as u32)]
}

/// The session that most cases use.
pub fn uplink_entry() -> UplinkEntry {
    UplinkEntry {
        action: SessionAction::Forward as u8,
        flags: uplink_flags::CHECK_UE,
        network: N3,
        mac: Mac::new(POD_N3_MAC),
        dscp: 0,
        qfi: 0,
        peer: [Ipv4Addr::new(10, 30, 0, 0).into(), Be32::new(0)],
        peer_mask: [Ipv4Addr::new(255, 255, 255, 0).into(), Be32::new(0)],
        ue4: UE.into(),
        ue6: prefix(UE6),
        next_hop4: TO_ROUTER,
        next_hop6: TO_ROUTER6,
        counter: UPLINK_COUNTER,
        teid: Be32::new(0),
        rules: 0,
        data_ifindex: 0,
    }
}

/// The same for peers with IPv6 addresses.
pub fn uplink_entry6() -> UplinkEntry {
    UplinkEntry { peer: prefix(GNB6), peer_mask: [Be32::new(u32::MAX); 2], ..uplink_entry() }
}

pub fn relay_entry() -> UplinkEntry {
    UplinkEntry {
        action: SessionAction::Relay as u8,
        flags: uplink_flags::COPY_DSCP,
        next_hop4: TO_PEER,
        teid: Be32::new(RELAYED_TEID),
        ..uplink_entry()
    }
}

/// Tunnels to the gNB with a fixed source port, so that cases can name every byte.
pub fn downlink_entry() -> DownlinkEntry {
    DownlinkEntry {
        action: SessionAction::Forward as u8,
        flags: downlink_flags::QFI | downlink_flags::COPY_DSCP,
        network: N6,
        mac: Mac::new(POD_N6_MAC),
        dscp: 0,
        qfi: QFI,
        teid: Be32::new(DOWNLINK_TEID),
        next_hop: TO_GNB,
        counter: DOWNLINK_COUNTER,
        mtu: 1400,
        reserved0: 0,
        scope: SCOPE,
        rules: 0,
        reserved1: 0,
    }
}

pub fn endpoint_entry() -> EndpointEntry {
    let uplink = uplink_entry();
    EndpointEntry {
        unknown_teid: 0,
        flags: 0,
        network: N3,
        mac: uplink.mac,
        reserved: 0,
        peer: uplink.peer,
        peer_mask: uplink.peer_mask,
    }
}

fn next_hop(destination: [u8; 6], source: [u8; 6], ifindex: u32) -> NextHop {
    let (macs, macs_rest) = NextHop::macs(Mac::new(destination), Mac::new(source));
    NextHop {
        macs,
        macs_rest,
        ifindex,
        port: OTHER_PORT,
        mtu: 1500,
        state: NextHopState::Resolved as u8,
        ..NextHop::default()
    }
}

/// The default ways of the data endpoint: all but its own subnets.
fn default_ways() -> [NextHop; 2] {
    let base = NextHop {
        scope: SCOPE,
        flags: next_hop_flags::LOOK_UP,
        ..next_hop(ROUTER_MAC, POD_N6_MAC, OTHER_IFINDEX)
    };
    let subnet4 = LookedUp {
        prefix: [Ipv4Addr::new(10, 40, 0, 0).into(), Be32::new(0)],
        mask: [Ipv4Addr::new(255, 255, 255, 0).into(), Be32::new(0)],
    };
    let subnet6 = LookedUp { prefix: prefix(ON_LINK6), mask: [Be32::new(u32::MAX); 2] };
    [subnet4, subnet6].map(|it| NextHop { way: NextHop::default_way(it), ..base })
}

/// Tunnels to the gNB and to the other peer, over either family; fixed source ports, so that cases can name
/// every byte.
fn tunnels() -> [(u32, NextHop); 4] {
    let to_gnb = next_hop(GNB_MAC, POD_N3_MAC, OTHER_IFINDEX);
    let to_peer = next_hop(ROUTER_MAC, POD_N6_MAC, OTHER_IFINDEX);
    let way4 = |peer: Ipv4Addr| NextHop::way4(POD_N3.into(), peer.into());
    let way6 = |peer| NextHop::way6(ip::words(POD_N3_6), ip::words(peer));
    let flags = next_hop_flags::IPV6 | next_hop_flags::UDP_CHECKSUM;
    [
        (TO_GNB, NextHop { way: way4(GNB), ..to_gnb }),
        (TO_GNB6, NextHop { flags, way: way6(GNB6), ..to_gnb }),
        (TO_PEER, NextHop { way: way4(PEER), ..to_peer }),
        (TO_PEER6, NextHop { flags, way: way6(PEER6), ..to_peer }),
    ]
}

/// One access endpoint, one data endpoint, one user, one relay, all on the same master; ways out by
/// another one.
pub fn standard() -> MapTables {
    let mut tables = MapTables::default();
    tables.uplink.insert(uplink_key(TEID), uplink_entry());
    tables.uplink6.insert(uplink_key6(TEID), uplink_entry6());
    tables.uplink.insert(uplink_key(RELAY_TEID), relay_entry());
    let relay6 = UplinkEntry { peer: prefix(GNB6), peer_mask: uplink_entry6().peer_mask, ..relay_entry() };
    tables.uplink6.insert(uplink_key6(RELAY_TEID), relay6);
    let dropping = UplinkEntry { action: SessionAction::Drop as u8, ..uplink_entry() };
    tables.uplink.insert(uplink_key(DROP_TEID), dropping);
    tables.downlink4.insert(DownlinkKey4 { port: port(), ue: UE.into() }, downlink_entry());
    tables.downlink6.insert(DownlinkKey6 { port: port(), ue: prefix(UE6) }, downlink_entry());
    let key = |address| EndpointKey { port: port(), address };
    tables.endpoints.insert(key(ip::mapped(POD_N3.into())), endpoint_entry());
    let UplinkEntry { peer, peer_mask, .. } = uplink_entry6();
    tables.endpoints.insert(key(ip::words(POD_N3_6)), EndpointEntry { peer, peer_mask, ..endpoint_entry() });
    let [default4, default6] = default_ways();
    tables.next_hops.extend([
        (TO_ROUTER, default4),
        (TO_ROUTER6, default6),
        (UNRESOLVED, NextHop { state: NextHopState::Unresolved as u8, ..NextHop::default() }),
        (TO_HOST, next_hop(HOST_MAC, POD_N6_MAC, OTHER_IFINDEX)),
        (TO_ROUTER_TAGGED, NextHop { vlan: VLAN, ..default4 }),
    ]);
    tables.next_hops.extend(tunnels());
    tables.routes.extend([
        (trie_prefix(SCOPE, Ipv4Addr::new(10, 40, 0, 0).into(), 24), NO_INDEX),
        (trie_prefix(SCOPE, ON_LINK.into(), 32), TO_HOST),
        (trie_prefix(SCOPE, Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 0).into(), 64), NO_INDEX),
        (trie_prefix(SCOPE, ON_LINK6.into(), 128), TO_HOST),
    ]);
    tables
}

/// The standard tables with the uplink session changed.
pub fn with_uplink(change: impl FnOnce(&mut UplinkEntry)) -> MapTables {
    let mut tables = standard();
    if let Some(entry) = tables.uplink.get_mut(&uplink_key(TEID)) {
        change(entry);
    }
    tables
}

/// The standard tables with the downlink sessions changed.
pub fn with_downlink(change: impl Fn(&mut DownlinkEntry)) -> MapTables {
    let mut tables = standard();
    tables.downlink4.values_mut().for_each(&change);
    tables.downlink6.values_mut().for_each(change);
    tables
}

/// What a user sends: UDP to the server.
pub fn user_packet() -> Ipv4 {
    Ipv4 { id: 0x1234, ..Ipv4::new(UE, SERVER, packet::udp(40_000, 53, b"hello from the user")) }
}

pub fn user_packet6() -> Ipv6 {
    Ipv6::new(UE6, SERVER6, packet::udp(40_000, 53, b"hello from the user"))
}

/// The gNB's outer headers around a GTP-U message.
pub fn from_gnb(gtpu: &[u8]) -> Vec<u8> {
    from_gnb_with(gtpu, |_| {})
}

pub fn from_gnb_with(gtpu: &[u8], change: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
    let mut outer = Ipv4::new(GNB, POD_N3, packet::udp(2152, 2152, gtpu));
    change(&mut outer);
    packet::ethernet(POD_N3_MAC, GNB_MAC, ETHERTYPE_IPV4, &outer.bytes())
}

/// As it leaves towards the data network's router.
pub fn to_router(inner: &Ipv4) -> Option<Vec<u8>> {
    Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV4, &inner.bytes()))
}

pub fn to_router6(inner: &Ipv6) -> Option<Vec<u8>> {
    Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV6, &inner.bytes()))
}

/// As it arrives from the data network's router.
pub fn from_router(inner: &[u8]) -> Vec<u8> {
    packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV4, inner)
}

/// As it leaves towards the gNB: outer headers as netplane writes them.
pub fn to_gnb(tos: u8, gtpu: &[u8]) -> Option<Vec<u8>> {
    let outer = Ipv4 { tos, fragment: 0x4000, ..Ipv4::new(POD_N3, GNB, packet::udp(2152, 2152, gtpu)) };
    Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV4, &outer.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::frame::SliceFrame;

    #[test]
    fn every_case_holds_on_slices() {
        all().iter().for_each(holds);
    }

    fn holds(case: &Case) {
        let mut frame = SliceFrame::new(&case.packet);
        let verdict = decide(&mut frame, &case.tables, IFINDEX);
        assert_eq!(verdict, case.verdict, "{}", case.name);
        let wanted = case.out.as_deref().unwrap_or(&case.packet);
        if frame.bytes() != wanted {
            panic!("{}: {}", case.name, packet::difference(frame.bytes(), wanted));
        }
    }

    #[test]
    fn a_wrong_header_checksum_is_neither_verified_nor_repaired() {
        wrong_sums().iter().for_each(holds);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|it| it.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn cases_that_the_documents_name_are_there() {
        let text = include_str!("../../../docs/gtpu.md");
        let names: Vec<_> = all().iter().map(|it| it.name).collect();
        let rows = text.lines().filter(|it| it.starts_with('|'));
        let named: Vec<_> = rows.flat_map(|it| it.split('"').skip(1).step_by(2)).collect();
        assert!(named.len() > 50, "docs/gtpu.md names {} cases", named.len());
        let unknown: Vec<_> = named.into_iter().filter(|it| !names.contains(it)).collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn a_frame_cut_anywhere_is_never_forwarded() {
        for case in all() {
            if !matches!(case.verdict, Verdict::Transmit | Verdict::Redirect { .. }) {
                continue;
            }
            let padding = case.name.contains("padding");
            for len in 14..case.packet.len() {
                let mut frame = SliceFrame::new(&case.packet[..len]);
                let verdict = decide(&mut frame, &case.tables, IFINDEX);
                let forwarded = matches!(verdict, Verdict::Transmit | Verdict::Redirect { .. });
                assert!(!forwarded || padding, "{} cut to {len}: {verdict:?}", case.name);
                if !forwarded {
                    assert_eq!(frame.bytes(), &case.packet[..len], "{} cut to {len} was changed", case.name);
                }
            }
        }
    }

    #[test]
    fn forwarded_packets_are_counted_with_their_inner_bytes() {
        let tables = standard();
        let inner = user_packet().bytes();
        let mut up = SliceFrame::new(&from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &inner)));
        assert_eq!(decide(&mut up, &tables, IFINDEX), REDIRECT);
        let mut down = SliceFrame::new(&from_router(&Ipv4::new(SERVER, UE, inner.clone()).bytes()));
        assert_eq!(decide(&mut down, &tables, IFINDEX), REDIRECT);
        let counters = tables.counters.borrow();
        let count = |index| counters.get(&index).copied().unwrap_or_default();
        assert_eq!((count(UPLINK_COUNTER).packets, count(UPLINK_COUNTER).bytes), (1, inner.len() as u64));
        assert_eq!(
            (count(DOWNLINK_COUNTER).packets, count(DOWNLINK_COUNTER).bytes),
            (1, inner.len() as u64 + 20)
        );
    }

    #[test]
    fn an_unknown_neighbour_on_link_is_asked_for() {
        let tables = standard();
        let inner = Ipv4 { destination: ON_LINK_UNKNOWN, ..user_packet() }.bytes();
        let mut frame = SliceFrame::new(&from_gnb(&packet::gtpu(0x30, 255, TEID, &inner)));
        assert_eq!(decide(&mut frame, &tables, IFINDEX), drop(N3, Reason::NextHopUnresolved));
        let wanted = tables.wanted.borrow();
        assert_eq!(
            wanted.iter().map(|it| (it.scope, it.destination)).collect::<Vec<_>>(),
            [(SCOPE, ip::mapped(ON_LINK_UNKNOWN.into()))]
        );
    }

    #[test]
    fn flows_of_one_user_get_different_source_ports_in_the_dynamic_range() {
        let mut tables = standard();
        if let Some(tunnel) = tables.next_hops.get_mut(&TO_GNB) {
            tunnel.flags |= next_hop_flags::FLOW_SOURCE_PORT;
        }
        let source_port = |user_port: u16| {
            let inner = Ipv4::new(SERVER, UE, packet::udp(443, user_port, b"x")).bytes();
            let mut frame = SliceFrame::new(&from_router(&inner));
            assert_eq!(decide(&mut frame, &tables, IFINDEX), REDIRECT);
            u16::from_be_bytes([frame.bytes()[34], frame.bytes()[35]])
        };
        let mut ports: Vec<_> = (1000..1100).map(source_port).collect();
        assert!(ports.iter().all(|port| *port >= 0xc000));
        assert_eq!(source_port(1000), ports[0], "one flow keeps its port");
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() > 90, "100 flows share {} ports", ports.len());
    }
}
