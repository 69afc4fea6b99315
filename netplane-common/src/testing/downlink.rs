//! Cases of packets to users.

use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use crate::map::{SessionAction, downlink_flags};
use crate::verdict::{Reason, Verdict};

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, out: Option<Vec<u8>>) -> Case {
    Case { name, tables: standard(), packet, verdict, out }
}

fn to_user() -> Ipv4 {
    Ipv4 { id: 0x4321, ..Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"hello to the user")) }
}

fn one_hop(inner: &Ipv4) -> Vec<u8> {
    Ipv4 { ttl: inner.ttl - 1, ..inner.clone() }.bytes()
}

fn tunnelled(inner: &[u8]) -> Vec<u8> {
    packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, inner)
}

/// Packets that are encapsulated.
pub(super) fn cases() -> Vec<Case> {
    let user = to_user();
    let simple = |name, change: &dyn Fn(&mut Ipv4)| {
        let mut inner = to_user();
        change(&mut inner);
        case(name, from_router(&inner.bytes()), REDIRECT, to_gnb(inner.tos, &tunnelled(&one_hop(&inner))))
    };
    let icmp = |it: &mut Ipv4| {
        it.protocol = 1;
        it.payload = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    };
    let mut short = Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b""));
    short.id = 1;
    let six = Ipv6 { traffic_class: 0xb8, ..Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, b"six")) };
    let six_out = Ipv6 { hop_limit: 63, ..six.clone() }.bytes();
    vec![
        simple("encapsulate, PDU session container with QFI (TS 38.415 §5.5.2.1)", &|_| {}),
        simple("encapsulate, ICMP", &icmp),
        simple("encapsulate, IPv4 options", &|it| it.options = vec![1, 1, 1, 0]),
        simple("encapsulate, fragment", &|it| it.fragment = 0x2000),
        simple("encapsulate, DSCP and ECN are copied (RFC 6040 §4.1)", &|it| it.tos = 0xbb),
        simple("encapsulate, exactly the MTU", &|it| it.payload = packet::udp(53, 40_000, &[0; 1372])),
        simple("encapsulate, a user's own UDP to port 2152", &|it| {
            it.payload = packet::udp(9, 2152, &[0x30, 255, 0, 0, 0, 0, 0x10, 1])
        }),
        Case {
            tables: with_downlink(|it| it.flags = 0),
            ..case(
                "encapsulate, no QFI: no container",
                from_router(&user.bytes()),
                REDIRECT,
                to_gnb(0, &packet::gtpu(0x30, 255, DOWNLINK_TEID, &one_hop(&user))),
            )
        },
        Case {
            tables: with_downlink(|it| {
                it.flags = downlink_flags::QFI;
                it.dscp = 0x68;
            }),
            ..case(
                "encapsulate, DSCP is set, ECN is copied",
                from_router(&Ipv4 { tos: 0xb9, ..user.clone() }.bytes()),
                REDIRECT,
                to_gnb(0x69, &tunnelled(&one_hop(&Ipv4 { tos: 0xb9, ..user.clone() }))),
            )
        },
        case(
            "encapsulate, the padding of a short frame goes",
            from_router(&[short.bytes(), vec![0; 18]].concat()),
            REDIRECT,
            to_gnb(0, &tunnelled(&one_hop(&short))),
        ),
        case(
            "encapsulate, IPv6 user",
            packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &six.bytes()),
            REDIRECT,
            to_gnb(0xb8, &tunnelled(&six_out)),
        ),
    ]
}

/// Packets to users that do not go on, and packets that are for nobody here.
pub(super) fn not_forwarded() -> Vec<Case> {
    let dropped = |name, reason, change: &dyn Fn(&mut Ipv4)| {
        let mut inner = to_user();
        change(&mut inner);
        case(name, from_router(&inner.bytes()), drop(N6, reason), None)
    };
    let user = to_user().bytes();
    let mut longer = user.clone();
    longer[3] += 1;
    let mut short_header = user.clone();
    short_header[0] = 0x44;
    vec![
        dropped("drop, TTL 1 to the user", Reason::TtlExpired, &|it| it.ttl = 1),
        dropped("drop, larger than the user's MTU", Reason::TooBig, &|it| it.payload = vec![0; 1381]),
        case("drop, longer than its frame", from_router(&longer), drop(N6, Reason::Malformed), None),
        case("drop, header shorter than any", from_router(&short_header), drop(N6, Reason::Malformed), None),
        Case {
            tables: with_downlink(|it| it.action = SessionAction::Drop as u8),
            ..case(
                "drop, the downlink session says so",
                from_router(&user),
                drop(N6, Reason::SessionDrop),
                None,
            )
        },
        Case {
            tables: with_downlink(|it| it.next_hop = UNRESOLVED),
            ..case("drop, gNB unresolved", from_router(&user), drop(N6, Reason::NextHopUnresolved), None)
        },
        case(
            "pass, no such user",
            from_router(&Ipv4 { destination: PEER, ..to_user() }.bytes()),
            Verdict::Pass,
            None,
        ),
        case(
            "pass, a user behind another MAC",
            packet::ethernet(POD_N3_MAC, ROUTER_MAC, ETHERTYPE_IPV4, &user),
            Verdict::Pass,
            None,
        ),
        case(
            "pass, no such IPv6 user",
            packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &user_packet6().bytes()),
            Verdict::Pass,
            None,
        ),
        case("pass, shorter than IPv4", from_router(&user[..19]), Verdict::Pass, None),
    ]
}
