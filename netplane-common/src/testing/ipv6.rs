//! Cases of tunnels over IPv6, of those with UDP checksums, and of QFIs that are checked.

use super::answers::{answering, icmp6_packet_from};
use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::MapTables;
use crate::map::{NO_INDEX, next_hop_flags, uplink_flags};
use crate::verdict::{Reason, Verdict};
use std::net::Ipv6Addr;

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, out: Option<Vec<u8>>) -> Case {
    Case { name, tables: standard(), packet, verdict, out }
}

/// The gNB's outer headers around a GTP-U message; UDP checksum zero, which receivers of tunnels take
/// (RFC 6935 §5).
fn from_gnb6_with(gtpu: &[u8], change: impl FnOnce(&mut Ipv6)) -> Vec<u8> {
    let mut outer = Ipv6::new(GNB6, POD_N3_6, packet::udp(2152, 2152, gtpu));
    change(&mut outer);
    packet::ethernet(POD_N3_MAC, GNB_MAC, ETHERTYPE_IPV6, &outer.bytes())
}

pub(super) fn from_gnb6(gtpu: &[u8]) -> Vec<u8> {
    from_gnb6_with(gtpu, |_| {})
}

/// As netplane writes it: with a checksum.
fn checked6(source: Ipv6Addr, destination: Ipv6Addr, class: u8, gtpu: &[u8]) -> Vec<u8> {
    let udp = packet::udp(2152, 2152, gtpu);
    let udp = packet::with_udp_checksum(&source.octets(), &destination.octets(), udp);
    Ipv6 { traffic_class: class, ..Ipv6::new(source, destination, udp) }.bytes()
}

fn to_gnb6(class: u8, gtpu: &[u8]) -> Option<Vec<u8>> {
    let packet = checked6(POD_N3_6, GNB6, class, gtpu);
    Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV6, &packet))
}

fn with_next_hop(index: u32, change: impl FnOnce(&mut crate::map::NextHop)) -> MapTables {
    let mut tables = standard();
    if let Some(next_hop) = tables.next_hops.get_mut(&index) {
        change(next_hop);
    }
    tables
}

fn with_uplink6(change: impl FnOnce(&mut crate::map::UplinkEntry)) -> MapTables {
    let mut tables = standard();
    if let Some(entry) = tables.uplink6.get_mut(&uplink_key6(TEID)) {
        change(entry);
    }
    tables
}

/// G-PDUs over IPv6 to the data network.
pub(super) fn uplink() -> Vec<Case> {
    let four = user_packet();
    let six = user_packet6();
    let hop4 = |it: &Ipv4| to_router(&Ipv4 { ttl: it.ttl - 1, ..it.clone() });
    let hop6 = |it: &Ipv6| to_router6(&Ipv6 { hop_limit: it.hop_limit - 1, ..it.clone() });
    let container = |inner: &[u8]| packet::gtpu_with_container(TEID, 1, QFI, inner);
    let gpdu = packet::gtpu(0x30, 255, TEID, &four.bytes());
    let checked = checked6(GNB6, POD_N3_6, 0, &gpdu);
    let on_link = Ipv6 { destination: ON_LINK6, ..six.clone() };
    let to_host = Ipv6 { hop_limit: 63, ..on_link.clone() }.bytes();
    let ect = Ipv6 { traffic_class: 0x29, ..six.clone() };
    let marked = Ipv6 { traffic_class: 0x2b, hop_limit: 63, ..six.clone() };
    vec![
        case("decapsulate, over IPv6, IPv4 user", from_gnb6(&gpdu), REDIRECT, hop4(&four)),
        case("decapsulate, over IPv6, IPv6 user", from_gnb6(&container(&six.bytes())), REDIRECT, hop6(&six)),
        case(
            "decapsulate, over IPv6 with a UDP checksum",
            packet::ethernet(POD_N3_MAC, GNB_MAC, ETHERTYPE_IPV6, &checked),
            REDIRECT,
            hop4(&four),
        ),
        case(
            "decapsulate, IPv6 user to a known host on the data network's subnet",
            from_gnb(&container(&on_link.bytes())),
            REDIRECT,
            Some(packet::ethernet(HOST_MAC, POD_N6_MAC, ETHERTYPE_IPV6, &to_host)),
        ),
        case(
            "decapsulate, over IPv6, ECN: congestion outside reaches the user",
            from_gnb6_with(&container(&ect.bytes()), |it| it.traffic_class = 0x03),
            REDIRECT,
            to_router6(&marked),
        ),
        Case {
            tables: with_next_hop(TO_ROUTER6, |it| it.flags = 0),
            ..case(
                "decapsulate, IPv6 user, nothing is looked up: by the default way",
                from_gnb6(&container(&on_link.bytes())),
                REDIRECT,
                hop6(&on_link),
            )
        },
    ]
}

/// G-PDUs over IPv6 that may not or cannot go on, and users' packets that no router forwards.
pub(super) fn uplink_kept() -> Vec<Case> {
    let four = user_packet();
    let six = user_packet6();
    let container = |inner: &[u8]| packet::gtpu_with_container(TEID, 1, QFI, inner);
    let gpdu = packet::gtpu(0x30, 255, TEID, &four.bytes());
    let unknown_on_link = Ipv6 { destination: ON_LINK6_UNKNOWN, ..six.clone() };
    let link_local = |host| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let solicitation =
        Ipv6 { next_header: 58, ..Ipv6::new(link_local(1), routers, vec![133, 0, 0, 0, 0, 0, 0, 0]) };
    vec![
        case(
            "drop, IPv6 user, no neighbour on link",
            from_gnb6(&container(&unknown_on_link.bytes())),
            drop(N3, Reason::NextHopUnresolved),
            None,
        ),
        case(
            "drop, over IPv6, ECN: congestion outside, user not capable",
            from_gnb6_with(&gpdu, |it| it.traffic_class = 0x03),
            drop(N3, Reason::EcnNotCapable),
            None,
        ),
        case(
            "drop, over IPv6, spoofed user address",
            from_gnb6(&container(&Ipv4 { source: SERVER, ..four.clone() }.bytes())),
            drop(N3, Reason::UeSpoofed),
            None,
        ),
        case(
            "drop, over IPv6, spoofed user prefix",
            from_gnb6(&container(&Ipv6 { source: SERVER6, ..six.clone() }.bytes())),
            drop(N3, Reason::UeSpoofed),
            None,
        ),
        case(
            "drop, over IPv6, longer than its IP header says",
            from_gnb6_with(&gpdu, |it| it.payload.truncate(it.payload.len() - 1)),
            drop(N3, Reason::Malformed),
            None,
        ),
        case(
            "pass, a user's router solicitation from its link-local address",
            from_gnb(&container(&solicitation.bytes())),
            passed(Reason::PassNotRoutable),
            None,
        ),
        case(
            "pass, to a link-local address",
            from_gnb6(&container(&Ipv6 { destination: link_local(7), ..six.clone() }.bytes())),
            passed(Reason::PassNotRoutable),
            None,
        ),
        case(
            "pass, to a multicast group",
            from_gnb6(&container(&Ipv4 { destination: [224, 0, 0, 22].into(), ..four.clone() }.bytes())),
            passed(Reason::PassNotRoutable),
            None,
        ),
        case(
            "pass, to everybody",
            from_gnb(&container(&Ipv4 { destination: [255; 4].into(), ..four.clone() }.bytes())),
            passed(Reason::PassNotRoutable),
            None,
        ),
        Case {
            tables: with_uplink6(|it| it.next_hop6 = NO_INDEX),
            ..case(
                "drop, IPv6 user, no way",
                from_gnb6(&container(&six.bytes())),
                drop(N3, Reason::NextHopUnresolved),
                None,
            )
        },
    ]
}

/// What no session over IPv6 takes.
pub(super) fn not_sessions() -> Vec<Case> {
    let gpdu = packet::gtpu(0x30, 255, TEID, &user_packet().bytes());
    let unknown = packet::gtpu(0x30, 255, 0x9999, &user_packet().bytes());
    let mut listed = with_uplink6(|it| it.flags |= uplink_flags::PEER_LIST);
    listed.peers.insert(super::tables::prefix(u32::from(N3), PEER6.into(), 128), ());
    let to_router = to_router(&Ipv4 { ttl: 63, ..user_packet() });
    let stranger = |it: &mut Ipv6| it.source = PEER6;
    let fragment = |it: &mut Ipv6| {
        it.next_header = 44;
        it.payload = [&[17, 0, 0, 1, 0, 0, 0, 7][..], &it.payload].concat();
    };
    let mut foreign = from_gnb6(&gpdu);
    foreign[..6].copy_from_slice(&ROUTER_MAC);
    vec![
        case("pass, over IPv6, unknown TEID", from_gnb6(&unknown), passed(Reason::PassUnknownTeid), None),
        case(
            "drop, over IPv6, peer not allowed, session",
            from_gnb6_with(&gpdu, stranger),
            drop(N3, Reason::PeerNotAllowed),
            None,
        ),
        case(
            "drop, over IPv6, peer not allowed, no session",
            from_gnb6_with(&unknown, stranger),
            drop(N3, Reason::PeerNotAllowed),
            None,
        ),
        Case {
            tables: listed.clone(),
            ..case(
                "decapsulate, over IPv6, peer in the list",
                from_gnb6_with(&gpdu, stranger),
                REDIRECT,
                to_router,
            )
        },
        Case {
            tables: listed,
            ..case(
                "drop, over IPv6, peer not in the list",
                from_gnb6(&gpdu),
                drop(N3, Reason::PeerNotAllowed),
                None,
            )
        },
        case("pass, over IPv6, fragment", from_gnb6_with(&gpdu, fragment), Verdict::Pass, None),
        case(
            "pass, over IPv6, another address",
            from_gnb6_with(&gpdu, |it| it.destination = SERVER6),
            Verdict::Pass,
            None,
        ),
        case("pass, over IPv6, another MAC", foreign, Verdict::Pass, None),
        case(
            "pass, over IPv6, echo request",
            from_gnb6(&packet::gtpu(0x32, 1, 0, &[0, 1, 0, 0])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, over IPv6, GTP version 2",
            from_gnb6(&packet::gtpu(0x48, 255, TEID, &[0; 20])),
            passed(Reason::PassNotGtpu),
            None,
        ),
    ]
}

/// From peer to peer, over either family on either side.
pub(super) fn relays() -> Vec<Case> {
    let bytes = user_packet().bytes();
    let container = |teid| packet::gtpu_with_container(teid, 1, QFI, &bytes);
    let over6 = |class| {
        let packet = checked6(POD_N3_6, PEER6, class, &container(RELAYED_TEID));
        Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV6, &packet))
    };
    let over4 = |tos| {
        let udp = packet::udp(2152, 2152, &container(RELAYED_TEID));
        let packet = Ipv4 { tos, fragment: 0x4000, ..Ipv4::new(POD_N3, PEER, udp) };
        Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV4, &packet.bytes()))
    };
    let mut to6 = standard();
    to6.uplink.values_mut().for_each(|it| it.next_hop4 = TO_PEER6);
    to6.uplink6.values_mut().for_each(|it| it.next_hop4 = TO_PEER6);
    let class = |it: &mut Ipv6| it.traffic_class = 0xb9;
    let mut padded = from_gnb(&container(RELAY_TEID));
    padded.extend([0xee; 3]);
    vec![
        case(
            "relay, from IPv6 to IPv4",
            from_gnb6_with(&container(RELAY_TEID), class),
            REDIRECT,
            over4(0xb9),
        ),
        Case {
            tables: to6.clone(),
            ..case("relay, from IPv4 to IPv6", from_gnb(&container(RELAY_TEID)), REDIRECT, over6(0))
        },
        Case {
            tables: to6.clone(),
            ..case(
                "relay, from IPv4 to IPv6, trailing bytes of the frame are padding",
                padded,
                REDIRECT,
                over6(0),
            )
        },
        Case {
            tables: to6,
            ..case(
                "relay, from IPv6 to IPv6",
                from_gnb6_with(&container(RELAY_TEID), class),
                REDIRECT,
                over6(0xb9),
            )
        },
    ]
}

/// Packets to users behind tunnels over IPv6.
pub(super) fn downlink() -> Vec<Case> {
    let user =
        Ipv4 { id: 0x4321, ..Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"odd length is summed up")) };
    let inner = Ipv4 { ttl: 63, ..user.clone() }.bytes();
    let six = Ipv6 { traffic_class: 0xbb, ..Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, b"six")) };
    let six_in = packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &six.bytes());
    let six_inner = Ipv6 { hop_limit: 63, ..six }.bytes();
    let container = |inner: &[u8]| packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, inner);
    let over6 = || with_downlink(|it| it.next_hop = TO_GNB6);
    let large = Ipv4 { payload: packet::udp(53, 40_000, &[0xa5; 1351]), ..user.clone() };
    let large_inner = Ipv4 { ttl: 63, ..large.clone() }.bytes();
    let no_container = packet::gtpu(0x30, 255, DOWNLINK_TEID, &inner);
    vec![
        Case {
            tables: over6(),
            ..case(
                "encapsulate, over IPv6, IPv4 user",
                from_router(&user.bytes()),
                REDIRECT,
                to_gnb6(0, &container(&inner)),
            )
        },
        Case {
            tables: over6(),
            ..case(
                "encapsulate, over IPv6, IPv6 user, DSCP and ECN are copied",
                six_in,
                REDIRECT,
                to_gnb6(0xbb, &container(&six_inner)),
            )
        },
        Case {
            tables: over6(),
            ..case(
                "encapsulate, over IPv6, a long packet's checksum",
                from_router(&large.bytes()),
                REDIRECT,
                to_gnb6(0, &container(&large_inner)),
            )
        },
        Case {
            tables: with_downlink(|it| (it.next_hop, it.flags) = (TO_GNB6, 0)),
            ..case(
                "encapsulate, over IPv6, no container",
                from_router(&user.bytes()),
                REDIRECT,
                to_gnb6(0, &no_container),
            )
        },
    ]
}

/// With checksums other than the default, and into a VLAN.
pub(super) fn downlink_ways() -> Vec<Case> {
    let user =
        Ipv4 { id: 0x4321, ..Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"odd length is summed up")) };
    let inner = Ipv4 { ttl: 63, ..user.clone() }.bytes();
    let container = |inner: &[u8]| packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, inner);
    let over6 = || with_downlink(|it| it.next_hop = TO_GNB6);
    let mut unchecked = over6();
    let mut checked4 = standard();
    let mut tagged = over6();
    if let Some(it) = unchecked.next_hops.get_mut(&TO_GNB6) {
        it.flags = next_hop_flags::IPV6;
    }
    if let Some(it) = checked4.next_hops.get_mut(&TO_GNB) {
        it.flags = next_hop_flags::UDP_CHECKSUM;
    }
    if let Some(it) = tagged.next_hops.get_mut(&TO_GNB6) {
        it.vlan = VLAN;
    }
    let plain = Ipv6::new(POD_N3_6, GNB6, packet::udp(2152, 2152, &container(&inner))).bytes();
    let udp = packet::udp(2152, 2152, &container(&inner));
    let udp = packet::with_udp_checksum(&POD_N3.octets(), &GNB.octets(), udp);
    let checked = Ipv4 { fragment: 0x4000, ..Ipv4::new(POD_N3, GNB, udp) }.bytes();
    vec![
        Case {
            tables: unchecked,
            ..case(
                "encapsulate, over IPv6, checksum zero where the network says so (RFC 6935)",
                from_router(&user.bytes()),
                REDIRECT,
                Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV6, &plain)),
            )
        },
        Case {
            tables: checked4,
            ..case(
                "encapsulate, over IPv4, full UDP checksum",
                from_router(&user.bytes()),
                REDIRECT,
                Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV4, &checked)),
            )
        },
        Case {
            tables: tagged,
            ..case(
                "encapsulate, over IPv6 into a VLAN",
                from_router(&user.bytes()),
                REDIRECT,
                Some(packet::tagged(
                    GNB_MAC,
                    POD_N3_MAC,
                    VLAN,
                    ETHERTYPE_IPV6,
                    &checked6(POD_N3_6, GNB6, 0, &container(&inner)),
                )),
            )
        },
    ]
}

/// What the pod says over IPv6.
pub(super) fn answers() -> Vec<Case> {
    let case = |name, packet, verdict, out| Case { tables: answering(), ..case(name, packet, verdict, out) };
    let back = |reason| Verdict::Answer { network: N3, reason, port: NO_INDEX };
    let indication = [&[0, 0, 0, 0, 16, 0, 0, 0x99, 0x99, 133, 0, 16][..], &POD_N3_6.octets()].concat();
    let echo = packet::gtpu(0x32, 1, 0, &[0x12, 0x34, 0, 0]);
    let response = packet::gtpu(0x32, 2, 0, &[0x12, 0x34, 0, 0, 14, 0]);
    let mut to6 = answering();
    to6.uplink6.values_mut().for_each(|it| it.next_hop4 = TO_PEER6);
    let mut narrow = to6.clone();
    for it in narrow.next_hops.values_mut() {
        it.mtu = 1400;
    }
    let mut mixed = answering();
    for it in mixed.next_hops.values_mut() {
        it.mtu = 1400;
    }
    let long = packet::gtpu(0x30, 255, RELAY_TEID, &Ipv4 { payload: vec![0; 1400], ..user_packet() }.bytes());
    let outer = Ipv6::new(GNB6, POD_N3_6, packet::udp(2152, 2152, &long)).bytes();
    let too_big = |mtu| {
        let answer = icmp6_packet_from(POD_N3_6, GNB6, 2, mtu, &outer);
        Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV6, &answer))
    };
    vec![
        case(
            "answer, over IPv6, Echo Request (§7.2.2), with a checksum",
            from_gnb6(&echo),
            back(Reason::EchoAnswered),
            to_gnb6(0, &response),
        ),
        case(
            "answer, over IPv6, unknown TEID: Error Indication with an IPv6 address (§8.4)",
            from_gnb6(&packet::gtpu(0x30, 255, 0x9999, &user_packet().bytes())),
            back(Reason::UnknownTeid),
            to_gnb6(0, &packet::gtpu(0x32, 26, 0, &indication)),
        ),
        Case {
            tables: narrow,
            ..case(
                "answer, relay over IPv6, too big for the way out: packet too big",
                from_gnb6(&long),
                back(Reason::TooBig),
                too_big(1400),
            )
        },
        Case {
            tables: mixed,
            ..case(
                "answer, relay from IPv6 to IPv4, too big: the MTU counts the other header",
                from_gnb6(&long),
                back(Reason::TooBig),
                too_big(1420),
            )
        },
    ]
}

/// The QFI of an uplink, where the session asks for one.
pub(super) fn qfi() -> Vec<Case> {
    let tables = || with_uplink(|it| (it.flags, it.qfi) = (it.flags | uplink_flags::CHECK_QFI, QFI));
    let bytes = user_packet().bytes();
    let wrong = drop(N3, Reason::QfiMismatch);
    let out = || to_router(&Ipv4 { ttl: 63, ..user_packet() });
    let with = |qfi| from_gnb(&packet::gtpu_with_container(TEID, 1, qfi, &bytes));
    let behind = [&[0, 0, 0, 0x20, 1, 9, 9, 0x85, 2, 0x10, 0xc0 | QFI, 0, 0, 0, 0, 0][..], &bytes].concat();
    let case = |name, packet, verdict, out| Case { tables: tables(), ..case(name, packet, verdict, out) };
    vec![
        case("decapsulate, the session's QFI", with(QFI), REDIRECT, out()),
        case(
            "decapsulate, the session's QFI behind another extension",
            from_gnb(&packet::gtpu(0x34, 255, TEID, &behind)),
            REDIRECT,
            out(),
        ),
        case("drop, another QFI", with(QFI + 1), wrong, None),
        case(
            "drop, no QFI where one is asked for",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &bytes)),
            wrong,
            None,
        ),
        case(
            "drop, no container in the chain",
            from_gnb(&packet::gtpu(0x34, 255, TEID, &[&[0, 0, 0, 0x20, 1, 9, 9, 0][..], &bytes].concat())),
            wrong,
            None,
        ),
    ]
}
