//! Cases of packets from peers.

use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV4, Ipv4, Ipv6};
use super::tables::MapTables;
use crate::map::{Port, UplinkKey, endpoint_flags, uplink_flags};
use crate::verdict::{Reason, Verdict};
use crate::wire::Be32;

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, out: Option<Vec<u8>>) -> Case {
    Case { name, tables: standard(), packet, verdict, out }
}

fn one_hop(inner: &Ipv4) -> Ipv4 {
    Ipv4 { ttl: inner.ttl - 1, ..inner.clone() }
}

/// Optional part, extension chain and T-PDU.
fn behind(optional: [u8; 4], chain: &[u8], inner: &[u8]) -> Vec<u8> {
    [&optional[..], chain, inner].concat()
}

/// Adds one to the header checksum of an IPv4 packet.
fn damaged(mut packet: Vec<u8>) -> Vec<u8> {
    let sum = u16::from_be_bytes([packet[10], packet[11]]) + 1;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// IPv4 headers whose checksum is wrong. It is not verified, and never made right.
pub(super) fn wrong_sums() -> Vec<Case> {
    let inner = user_packet();
    let hop = one_hop(&inner).bytes();
    let down = Ipv4 { source: SERVER, destination: UE, ..user_packet() };
    let tunnelled = packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, &damaged(one_hop(&down).bytes()));
    let gpdu = |inner: &[u8]| packet::gtpu(0x30, 255, TEID, inner);
    let outer = Ipv4::new(GNB, POD_N3, packet::udp(2152, 2152, &gpdu(&inner.bytes())));
    let sent = packet::ethernet(POD_N3_MAC, GNB_MAC, ETHERTYPE_IPV4, &damaged(outer.bytes()));
    vec![
        case(
            "decapsulate, a wrong checksum of the user's header stays as wrong",
            from_gnb(&gpdu(&damaged(inner.bytes()))),
            REDIRECT,
            Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV4, &damaged(hop))),
        ),
        case(
            "encapsulate, a wrong checksum of the header to the user stays as wrong",
            from_router(&damaged(down.bytes())),
            REDIRECT,
            to_gnb(0, &tunnelled),
        ),
        case(
            "decapsulate, a wrong checksum of the outer header",
            sent,
            REDIRECT,
            to_router(&one_hop(&inner)),
        ),
    ]
}

/// G-PDUs that are decapsulated.
pub(super) fn cases() -> Vec<Case> {
    let inner = user_packet();
    let bytes = inner.bytes();
    let out = || to_router(&one_hop(&inner));
    let gpdu = |flags, behind: &[u8]| from_gnb(&packet::gtpu(flags, 255, TEID, behind));
    let mut cases = vec![
        case("decapsulate, no optional part", gpdu(0x30, &bytes), REDIRECT, out()),
        case(
            "decapsulate, PDU session container (TS 38.415 §5.5.2.2)",
            from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &bytes)),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, sequence number only: all four optional bytes are there (TS 29.281 §5.1)",
            gpdu(0x32, &behind([0x12, 0x34, 0xff, 0x85], &[], &bytes)),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, N-PDU number only",
            gpdu(0x31, &behind([0, 0, 7, 0], &[], &bytes)),
            REDIRECT,
            out(),
        ),
        case("decapsulate, spare bit set", gpdu(0x3c, &behind([0, 0, 0, 0], &[], &bytes)), REDIRECT, out()),
        case(
            "decapsulate, extension that need not be understood, then container of 8 bytes",
            gpdu(0x34, &behind([0, 0, 0, 0x20], &[1, 9, 9, 0x85, 2, 0x18, 9, 0, 0, 0, 0, 0], &bytes)),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, UDP port extension (TS 29.281 §5.2.2.1)",
            gpdu(0x34, &behind([0, 0, 0, 0x40], &[1, 0x08, 0x68, 0], &bytes)),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, eight extension headers",
            gpdu(0x34, &behind([0, 0, 0, 0x20], &chain(8), &bytes)),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, trailing bytes of the frame are padding",
            [gpdu(0x30, &bytes), vec![0xee; 5]].concat(),
            REDIRECT,
            out(),
        ),
        case(
            "decapsulate, trailing bytes of the T-PDU are padding",
            gpdu(0x30, &[&bytes[..], &[0xee; 3]].concat()),
            REDIRECT,
            out(),
        ),
    ];
    cases.extend(ways(&inner));
    cases.extend(ecn());
    let six = user_packet6();
    let next = Ipv6 { hop_limit: 63, ..six.clone() };
    cases.push(case(
        "decapsulate, IPv6 user",
        from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &six.bytes())),
        REDIRECT,
        to_router6(&next),
    ));
    cases
}

/// Extension headers of a kind that need not be understood.
fn chain(headers: usize) -> Vec<u8> {
    let mut chain = [1, 0, 0, 0x20].repeat(headers);
    if let Some(last) = chain.last_mut() {
        *last = 0;
    }
    chain
}

/// Ports, next hops and VLANs.
fn ways(inner: &Ipv4) -> Vec<Case> {
    let bytes = inner.bytes();
    let packet = from_gnb(&packet::gtpu(0x30, 255, TEID, &bytes));
    let mut same_master = standard();
    if let Some(next_hop) = same_master.next_hops.get_mut(&TO_ROUTER) {
        next_hop.ifindex = IFINDEX;
    }
    let on_link = Ipv4 { destination: ON_LINK, ..inner.clone() };
    let out = one_hop(inner);
    let mut tagged = MapTables { next_hops: standard().next_hops, ..MapTables::default() };
    let key = UplinkKey { port: Port::new(IFINDEX, VLAN), ..uplink_key(TEID) };
    tagged.uplink.insert(key, uplink_entry());
    let outer = Ipv4::new(GNB, POD_N3, packet::udp(2152, 2152, &packet::gtpu(0x30, 255, TEID, &bytes)));
    let in_tag = packet::tagged(POD_N3_MAC, GNB_MAC, 0x2000 | VLAN, ETHERTYPE_IPV4, &outer.bytes());
    let out_tag = packet::tagged(ROUTER_MAC, POD_N6_MAC, VLAN, ETHERTYPE_IPV4, &out.bytes());
    vec![
        Case {
            tables: same_master,
            ..case("decapsulate, out by the same master", packet.clone(), Verdict::Transmit, to_router(&out))
        },
        case(
            "decapsulate, to a known host on the data network's subnet",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &on_link.bytes())),
            REDIRECT,
            Some(packet::ethernet(HOST_MAC, POD_N6_MAC, ETHERTYPE_IPV4, &one_hop(&on_link).bytes())),
        ),
        Case {
            tables: tagged,
            ..case("decapsulate, session on a VLAN", in_tag.clone(), REDIRECT, to_router(&out))
        },
        case("another VLAN's session is not ours", in_tag, Verdict::Pass, None),
        Case {
            tables: with_uplink(|it| it.next_hop4 = TO_ROUTER_TAGGED),
            ..case("decapsulate, out into a VLAN", packet, REDIRECT, Some(out_tag))
        },
    ]
}

/// RFC 6040 §4.2, figure 4.
fn ecn() -> Vec<Case> {
    let make = |name, outer: u8, inner: u8, out: Option<u8>| {
        let packet = Ipv4 { tos: 0x28 | inner, ..user_packet() };
        let gtpu = packet::gtpu(0x30, 255, TEID, &packet.bytes());
        let expected = out.map(|ecn| Ipv4 { tos: 0x28 | ecn, ..one_hop(&packet) });
        let verdict = if out.is_some() { REDIRECT } else { drop(N3, Reason::EcnNotCapable) };
        case(name, from_gnb_with(&gtpu, |it| it.tos = outer), verdict, expected.as_ref().and_then(to_router))
    };
    vec![
        make("decapsulate, ECN: congestion outside reaches an ECT(0) user", 0x03, 0x02, Some(0x03)),
        make("decapsulate, ECN: congestion outside reaches an ECT(1) user", 0x03, 0x01, Some(0x03)),
        make("decapsulate, ECN: congestion inside stays", 0x02, 0x03, Some(0x03)),
        make("decapsulate, ECN: ECT outside changes nothing", 0x02, 0x00, Some(0x00)),
        make("drop, ECN: congestion outside, user not capable", 0x03, 0x00, None),
    ]
}

/// Packets of a session that contradict themselves, or that may not or cannot go on.
pub(super) fn malformed() -> Vec<Case> {
    let bytes = user_packet().bytes();
    let gpdu = |flags, behind: &[u8]| from_gnb(&packet::gtpu(flags, 255, TEID, behind));
    let bad = |name, packet| case(name, packet, drop(N3, Reason::Malformed), None);
    let inner = |name, reason, change: &dyn Fn(&mut Ipv4)| {
        let mut packet = user_packet();
        change(&mut packet);
        case(name, from_gnb(&packet::gtpu(0x30, 255, TEID, &packet.bytes())), drop(N3, reason), None)
    };
    let mut longer = packet::gtpu(0x30, 255, TEID, &bytes);
    longer[3] += 1;
    let mut no_ip = bytes.clone();
    no_ip[0] = 0x55;
    let mut short_header = bytes.clone();
    short_header[0] = 0x44;
    let mut too_long = bytes.clone();
    too_long[3] += 1;
    vec![
        bad("drop, GTP-U length beyond the datagram", from_gnb(&longer)),
        bad(
            "drop, extension header of length zero",
            gpdu(0x34, &behind([0, 0, 0, 0x85], &[0, 0, 0, 0], &bytes)),
        ),
        bad(
            "drop, extension header beyond the frame",
            gpdu(0x34, &behind([0, 0, 0, 0x85], &[200, 0, 0, 0], &bytes)),
        ),
        bad("drop, nine extension headers", gpdu(0x34, &behind([0, 0, 0, 0x20], &chain(9), &bytes))),
        bad("drop, nothing inside", gpdu(0x30, &[])),
        bad("drop, inside is no IP", gpdu(0x30, &no_ip)),
        bad("drop, inner header shorter than any", gpdu(0x30, &short_header)),
        bad("drop, inner packet longer than the T-PDU", gpdu(0x30, &too_long)),
        case(
            "pass, extension header that must be understood (TS 29.281 §5.2.1)",
            gpdu(0x34, &behind([0, 0, 0, 0xc1], &[1, 0, 0, 0], &bytes)),
            passed(Reason::PassExtensionHeader),
            None,
        ),
        inner("drop, spoofed user address", Reason::UeSpoofed, &|it| it.source = SERVER),
        inner("drop, TTL 1", Reason::TtlExpired, &|it| it.ttl = 1),
        inner("drop, TTL 0", Reason::TtlExpired, &|it| it.ttl = 0),
        inner("drop, no neighbour on link", Reason::NextHopUnresolved, &|it| {
            it.destination = ON_LINK_UNKNOWN
        }),
        inner("drop, larger than the path", Reason::TooBig, &|it| it.payload = vec![0; 1481]),
        Case {
            tables: with_uplink(|it| it.next_hop4 = UNRESOLVED),
            ..case("drop, next hop unresolved", gpdu(0x30, &bytes), drop(N3, Reason::NextHopUnresolved), None)
        },
        Case {
            tables: with_uplink(|it| it.next_hop4 = crate::map::NO_INDEX),
            ..case("drop, no route", gpdu(0x30, &bytes), drop(N3, Reason::NextHopUnresolved), None)
        },
        case(
            "drop, the session says so",
            from_gnb(&packet::gtpu(0x30, 255, DROP_TEID, &bytes)),
            drop(N3, Reason::SessionDrop),
            None,
        ),
        case(
            "drop, spoofed IPv6 user prefix",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &Ipv6 { source: SERVER6, ..user_packet6() }.bytes())),
            drop(N3, Reason::UeSpoofed),
            None,
        ),
        case(
            "drop, hop limit 1",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &Ipv6 { hop_limit: 1, ..user_packet6() }.bytes())),
            drop(N3, Reason::TtlExpired),
            None,
        ),
    ]
}

/// What no session takes.
pub(super) fn not_sessions() -> Vec<Case> {
    let bytes = user_packet().bytes();
    let gpdu = packet::gtpu(0x30, 255, TEID, &bytes);
    let unknown = packet::gtpu(0x30, 255, 0x9999, &bytes);
    let stranger = |it: &mut Ipv4| it.source = PEER;
    let mut dropping = standard();
    dropping.endpoints.values_mut().for_each(|it| it.unknown_teid = 1);
    let mut listed = with_uplink(|it| it.flags |= uplink_flags::PEER_LIST);
    listed.endpoints.values_mut().for_each(|it| it.flags |= endpoint_flags::PEER_LIST);
    listed.peers.insert(super::tables::prefix(u32::from(N3), PEER.into(), 32), ());
    let to_router = to_router(&Ipv4 { ttl: 63, ..user_packet() });
    vec![
        case("pass, unknown TEID", from_gnb(&unknown), passed(Reason::PassUnknownTeid), None),
        Case {
            tables: dropping,
            ..case(
                "drop, unknown TEID where the network says so",
                from_gnb(&unknown),
                drop(N3, Reason::UnknownTeid),
                None,
            )
        },
        case(
            "drop, peer not allowed, session",
            from_gnb_with(&gpdu, stranger),
            drop(N3, Reason::PeerNotAllowed),
            None,
        ),
        case(
            "drop, peer not allowed, no session",
            from_gnb_with(&unknown, stranger),
            drop(N3, Reason::PeerNotAllowed),
            None,
        ),
        Case {
            tables: listed.clone(),
            ..case("decapsulate, peer in the list", from_gnb_with(&gpdu, stranger), REDIRECT, to_router)
        },
        Case {
            tables: listed,
            ..case("drop, peer not in the list", from_gnb(&unknown), drop(N3, Reason::PeerNotAllowed), None)
        },
    ]
}

/// GTP-U that is for the pod, and frames that are for nobody here.
pub(super) fn passed_on() -> Vec<Case> {
    let bytes = user_packet().bytes();
    let gpdu = packet::gtpu(0x30, 255, TEID, &bytes);
    let mut foreign = from_gnb(&gpdu);
    foreign[..6].copy_from_slice(&ROUTER_MAC);
    let arp = packet::ethernet([0xff; 6], GNB_MAC, 0x0806, &[0; 46]);
    let options = from_gnb_with(&gpdu, |it| it.options = vec![1, 1, 1, 0]);
    let double = packet::tagged(POD_N3_MAC, GNB_MAC, VLAN, 0x8100, &[0; 60]);
    vec![
        case(
            "pass, echo request",
            from_gnb(&packet::gtpu(0x32, 1, 0, &[0, 1, 0, 0])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, echo response",
            from_gnb(&packet::gtpu(0x32, 2, 0, &[0, 1, 0, 0, 14, 0])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, error indication",
            from_gnb(&packet::gtpu(0x32, 26, 0, &[0, 0, 0, 0])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, end marker of a session",
            from_gnb(&packet::gtpu(0x30, 254, TEID, &[])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, end marker without session",
            from_gnb(&packet::gtpu(0x30, 254, 0x9999, &[])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "pass, GTP version 2",
            from_gnb(&packet::gtpu(0x48, 255, TEID, &bytes)),
            passed(Reason::PassNotGtpu),
            None,
        ),
        case(
            "pass, GTP' (protocol type 0)",
            from_gnb(&packet::gtpu(0x20, 255, TEID, &bytes)),
            passed(Reason::PassNotGtpu),
            None,
        ),
        case("pass, too short for GTP-U", from_gnb(&[0x30, 255, 0]), passed(Reason::PassNotGtpu), None),
        case("pass, another MAC", foreign, Verdict::Pass, None),
        case(
            "pass, another address",
            from_gnb_with(&gpdu, |it| it.destination = SERVER),
            Verdict::Pass,
            None,
        ),
        case("pass, fragment", from_gnb_with(&gpdu, |it| it.fragment = 0x2000), Verdict::Pass, None),
        case("pass, last fragment", from_gnb_with(&gpdu, |it| it.fragment = 0x00b9), Verdict::Pass, None),
        case("pass, IPv4 options", options, Verdict::Pass, None),
        case("pass, ARP", arp, Verdict::Pass, None),
        case("pass, two VLAN tags", double, Verdict::Pass, None),
    ]
}

/// Packets to another peer.
pub(super) fn relays() -> Vec<Case> {
    let bytes = user_packet().bytes();
    let relayed = |tos, gtpu: &[u8]| {
        let outer = Ipv4 { tos, fragment: 0x4000, ..Ipv4::new(POD_N3, PEER, packet::udp(2152, 2152, gtpu)) };
        Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ETHERTYPE_IPV4, &outer.bytes()))
    };
    let container = |teid| packet::gtpu_with_container(teid, 1, QFI, &bytes);
    let sequence = |teid| packet::gtpu(0x32, 255, teid, &behind([0x12, 0x34, 0, 0], &[], &bytes));
    let unknown = |teid| packet::gtpu(0x34, 255, teid, &behind([0, 0, 0, 0xc1], &[1, 0, 0, 0], &bytes));
    let mut fixed = standard();
    let key = UplinkKey { teid: Be32::new(RELAY_TEID), ..uplink_key(0) };
    if let Some(entry) = fixed.uplink.get_mut(&key) {
        entry.flags = 0;
        entry.dscp = 0x68;
    }
    let marked = |it: &mut Ipv4| {
        it.tos = 0xb9;
        it.ttl = 3;
        it.id = 77;
    };
    vec![
        case(
            "relay, container is kept",
            from_gnb(&container(RELAY_TEID)),
            REDIRECT,
            relayed(0, &container(RELAYED_TEID)),
        ),
        case(
            "relay, sequence number is kept",
            from_gnb(&sequence(RELAY_TEID)),
            REDIRECT,
            relayed(0, &sequence(RELAYED_TEID)),
        ),
        case(
            "relay, extension headers are kept",
            from_gnb(&unknown(RELAY_TEID)),
            REDIRECT,
            relayed(0, &unknown(RELAYED_TEID)),
        ),
        case(
            "relay, end marker",
            from_gnb(&packet::gtpu(0x30, 254, RELAY_TEID, &[])),
            REDIRECT,
            relayed(0, &packet::gtpu(0x30, 254, RELAYED_TEID, &[])),
        ),
        case(
            "relay, DSCP and ECN are copied",
            from_gnb_with(&container(RELAY_TEID), marked),
            REDIRECT,
            relayed(0xb9, &container(RELAYED_TEID)),
        ),
        Case {
            tables: fixed,
            ..case(
                "relay, DSCP is set, ECN is kept",
                from_gnb_with(&container(RELAY_TEID), marked),
                REDIRECT,
                relayed(0x69, &container(RELAYED_TEID)),
            )
        },
        case(
            "pass, echo request at a relay",
            from_gnb(&packet::gtpu(0x32, 1, RELAY_TEID, &[0, 0, 0, 0])),
            passed(Reason::PassSignalling),
            None,
        ),
    ]
}
