//! Cases of packets that are answered and not forwarded: ICMP to senders and users, Echo, Error Indication.

use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::MapTables;
use crate::map::{DownlinkKey4, DownlinkKey6, NO_INDEX, Port, Router, endpoint_flags};
use crate::verdict::{Reason, Verdict};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The pod on N6, which the users know as their router.
const POD_N6: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 2);
const POD_N6_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 2);

/// The standard tables with a pod that answers: it is the users' router, and answers for its endpoints.
pub fn answering() -> MapTables {
    let mut tables = standard();
    let address6 = POD_N6_6.to_bits();
    let word = |shift: u32| crate::wire::Be32::new((address6 >> shift) as u32);
    let router = Router { address4: POD_N6.into(), address6: [word(96), word(64), word(32), word(0)] };
    tables.routers.insert(SCOPE, router);
    // Uplink packets leave by another master, so that is where the users' downlink is looked for.
    let port = Port::new(OTHER_IFINDEX, 0);
    let key6 = tables.downlink6.keys().next().map(|it| it.ue).unwrap_or_default();
    tables.downlink4.insert(DownlinkKey4 { port, ue: UE.into() }, downlink_entry());
    tables.downlink6.insert(DownlinkKey6 { port, ue: key6 }, downlink_entry());
    for endpoint in tables.endpoints.values_mut() {
        endpoint.flags |= endpoint_flags::ECHO;
        endpoint.unknown_teid = 2;
    }
    tables
}

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, out: Option<Vec<u8>>) -> Case {
    Case { name, tables: answering(), packet, verdict, out }
}

const fn back(network: u16, reason: Reason) -> Verdict {
    Verdict::Answer { network, reason, port: NO_INDEX }
}

const fn by_other(reason: Reason) -> Verdict {
    Verdict::Answer { network: N3, reason, port: OTHER_PORT }
}

/// RFC 792: type, code, checksum, four bytes, the header and eight bytes of the packet.
fn icmp(kind: u8, code: u8, mtu: u16, about: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&about[..28]);
    let sum = packet::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The whole packet of a router at `source`.
fn icmp_packet(source: Ipv4Addr, destination: Ipv4Addr, tos: u8, message: Vec<u8>) -> Ipv4 {
    Ipv4 { protocol: 1, fragment: 0x4000, tos, ..Ipv4::new(source, destination, message) }
}

/// RFC 4443 §3.2, §3.3: the same with the fixed header, and with the pseudo-header in the sum.
fn icmp6_packet(destination: Ipv6Addr, kind: u8, mtu: u32, about: &[u8]) -> Vec<u8> {
    icmp6_packet_from(POD_N6_6, destination, kind, mtu, about)
}

pub(super) fn icmp6_packet_from(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    mtu: u32,
    about: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&about[..48]);
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58]].concat();
    let sum = packet::checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ipv6 { next_header: 58, ..Ipv6::new(source, destination, message) }.bytes()
}

fn to_user() -> Ipv4 {
    Ipv4 { id: 0x4321, ..Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"hello to the user")) }
}

fn tunnelled(inner: &[u8]) -> Vec<u8> {
    packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, inner)
}

/// Back out of N6, from the pod to the router that the packet came from.
fn back_on_n6(ether_type: u16, packet: &[u8]) -> Option<Vec<u8>> {
    Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, ether_type, packet))
}

/// Back out of N3, from the pod to the gNB.
fn back_on_n3(packet: &Ipv4) -> Option<Vec<u8>> {
    Some(packet::ethernet(GNB_MAC, POD_N3_MAC, ETHERTYPE_IPV4, &packet.bytes()))
}

/// To whoever sent a packet to a user.
pub(super) fn downlink() -> Vec<Case> {
    let answered = |name, reason, kind, code, mtu, change: &dyn Fn(&mut Ipv4)| {
        let mut inner = to_user();
        change(&mut inner);
        let message = icmp(kind, code, mtu, &inner.bytes());
        let answer = icmp_packet(POD_N6, SERVER, inner.tos & 0xfc, message).bytes();
        case(name, from_router(&inner.bytes()), back(N6, reason), back_on_n6(ETHERTYPE_IPV4, &answer))
    };
    let silent = |name, change: &dyn Fn(&mut Ipv4)| {
        let mut inner = Ipv4 { ttl: 1, ..to_user() };
        change(&mut inner);
        case(name, from_router(&inner.bytes()), drop(N6, Reason::TtlExpired), None)
    };
    let six = Ipv6 { hop_limit: 1, ..Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, b"six")) }.bytes();
    let big6 = Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, &[0; 1400])).bytes();
    let from_router6 = |inner: &[u8]| packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, inner);
    let mut error6 = six.clone();
    (error6[6], error6[40]) = (58, 1);
    let mut tagged = answering();
    let tagged_port = Port::new(IFINDEX, VLAN);
    tagged.downlink4.insert(DownlinkKey4 { port: tagged_port, ue: UE.into() }, downlink_entry());
    let expired = Ipv4 { ttl: 1, ..to_user() };
    let expired_answer = icmp_packet(POD_N6, SERVER, 0, icmp(11, 0, 0, &expired.bytes())).bytes();
    vec![
        answered("answer, TTL 1 to the user: time exceeded (RFC 792)", Reason::TtlExpired, 11, 0, 0, &|it| {
            it.ttl = 1
        }),
        answered(
            "answer, too big for the user: fragmentation needed with the MTU (RFC 1191)",
            Reason::TooBig,
            3,
            4,
            1400,
            &|it| it.payload = packet::udp(53, 40_000, &[7; 1400]),
        ),
        answered("answer, DSCP as the packet's, ECN not", Reason::TtlExpired, 11, 0, 0, &|it| {
            (it.ttl, it.tos) = (1, 0xbb)
        }),
        answered("answer, about an echo request", Reason::TtlExpired, 11, 0, 0, &|it| {
            (it.ttl, it.protocol, it.payload) = (1, 1, vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0])
        }),
        silent("drop, no error about an error (RFC 1122 §3.2.2)", &|it| {
            (it.protocol, it.payload) = (1, vec![3, 1, 0, 0, 0, 0, 0, 0])
        }),
        silent("drop, no error about a later fragment", &|it| it.fragment = 185),
        silent("drop, no error to a multicast source", &|it| it.source = Ipv4Addr::new(224, 0, 0, 9)),
        silent("drop, no error to no source", &|it| it.source = Ipv4Addr::UNSPECIFIED),
        silent("drop, no error about a packet too short to quote", &|it| {
            (it.protocol, it.payload) = (47, vec![0; 7])
        }),
        silent("drop, no error about options", &|it| it.options = vec![1, 1, 1, 0]),
        case(
            "answer, hop limit 1 to the user (RFC 4443 §3.3)",
            from_router6(&six),
            back(N6, Reason::TtlExpired),
            back_on_n6(ETHERTYPE_IPV6, &icmp6_packet(SERVER6, 3, 0, &six)),
        ),
        case(
            "answer, too big for the IPv6 user (RFC 4443 §3.2)",
            from_router6(&big6),
            back(N6, Reason::TooBig),
            back_on_n6(ETHERTYPE_IPV6, &icmp6_packet(SERVER6, 2, 1400, &big6)),
        ),
        case("drop, no IPv6 error about an error", from_router6(&error6), drop(N6, Reason::TtlExpired), None),
        Case {
            tables: tagged,
            ..case(
                "answer, the VLAN tag stays",
                packet::tagged(POD_N6_MAC, ROUTER_MAC, VLAN, ETHERTYPE_IPV4, &expired.bytes()),
                back(N6, Reason::TtlExpired),
                Some(packet::tagged(ROUTER_MAC, POD_N6_MAC, VLAN, ETHERTYPE_IPV4, &expired_answer)),
            )
        },
    ]
}

/// To users, through their own tunnels.
pub(super) fn uplink() -> Vec<Case> {
    let answered = |name, reason, kind, code, mtu, change: &dyn Fn(&mut Ipv4)| {
        let mut inner = user_packet();
        change(&mut inner);
        let message = icmp(kind, code, mtu, &inner.bytes());
        let answer = icmp_packet(POD_N6, UE, inner.tos & 0xfc, message);
        let frame = from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &inner.bytes()));
        case(name, frame, by_other(reason), to_gnb(answer.tos, &tunnelled(&answer.bytes())))
    };
    let six = Ipv6 { hop_limit: 1, ..user_packet6() }.bytes();
    let big6 = Ipv6::new(UE6, SERVER6, packet::udp(40_000, 53, &[0; 1460])).bytes();
    let big = Ipv4::new(UE, SERVER, packet::udp(40_000, 53, &[0; 1465])).bytes();
    let relayed = packet::gtpu(0x30, 255, RELAY_TEID, &big);
    let outer = Ipv4::new(GNB, POD_N3, packet::udp(2152, 2152, &relayed)).bytes();
    let about_outer = icmp_packet(POD_N3, GNB, 0, icmp(3, 4, 1500, &outer));
    vec![
        answered(
            "answer, TTL 1 of the user's: time exceeded in the tunnel",
            Reason::TtlExpired,
            11,
            0,
            0,
            &|it| it.ttl = 1,
        ),
        answered(
            "answer, too big for the data network: MTU in the tunnel",
            Reason::TooBig,
            3,
            4,
            1500,
            &|it| it.payload = packet::udp(40_000, 53, &[1; 1480]),
        ),
        case(
            "answer, hop limit 1 of the user's",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &six)),
            by_other(Reason::TtlExpired),
            to_gnb(0, &tunnelled(&icmp6_packet(UE6, 3, 0, &six))),
        ),
        case(
            "answer, the user's IPv6 packet is too big",
            from_gnb(&packet::gtpu(0x30, 255, TEID, &big6)),
            by_other(Reason::TooBig),
            to_gnb(0, &tunnelled(&icmp6_packet(UE6, 2, 1500, &big6))),
        ),
        case(
            "answer, too big for the relay: the peer is told",
            from_gnb(&relayed),
            back(N3, Reason::TooBig),
            back_on_n3(&about_outer),
        ),
    ]
}

/// From the pod's registered port to a port of the gNB.
fn outer(to: u16, gtpu: &[u8]) -> Ipv4 {
    Ipv4 { fragment: 0x4000, ..Ipv4::new(POD_N3, GNB, packet::udp(2152, to, gtpu)) }
}

/// GTP-U signalling: Echo.
pub(super) fn echo() -> Vec<Case> {
    let response = |sequence: u16| {
        let [high, low] = sequence.to_be_bytes();
        packet::gtpu(0x32, 2, 0, &[high, low, 0, 0, 14, 0])
    };
    let request = packet::gtpu(0x32, 1, 0, &[0x12, 0x34, 0, 0]);
    let padded = |gtpu: &[u8]| [from_gnb(gtpu), vec![0; 6]].concat();
    let other_port = {
        let ip = Ipv4::new(GNB, POD_N3, packet::udp(33_000, 2152, &request));
        packet::ethernet(POD_N3_MAC, GNB_MAC, ETHERTYPE_IPV4, &ip.bytes())
    };
    let private = packet::gtpu(0x32, 1, 0, &[0x12, 0x34, 0, 0, 255, 0, 3, 0, 9, 1]);
    let mut longer = request.clone();
    longer[3] += 1;
    vec![
        case(
            "answer, Echo Request (TS 29.281 §7.2.2)",
            from_gnb(&request),
            back(N3, Reason::EchoAnswered),
            back_on_n3(&outer(2152, &response(0x1234))),
        ),
        case(
            "answer, Echo Request in a padded frame",
            padded(&request),
            back(N3, Reason::EchoAnswered),
            back_on_n3(&outer(2152, &response(0x1234))),
        ),
        case(
            "answer, Echo Request from another port (§4.4.2.2)",
            other_port,
            back(N3, Reason::EchoAnswered),
            back_on_n3(&outer(33_000, &response(0x1234))),
        ),
        case(
            "answer, Echo Request with a private extension",
            from_gnb(&private),
            back(N3, Reason::EchoAnswered),
            back_on_n3(&outer(2152, &response(0x1234))),
        ),
        case(
            "answer, Echo Request without a sequence number",
            from_gnb(&packet::gtpu(0x30, 1, 0, &[])),
            back(N3, Reason::EchoAnswered),
            back_on_n3(&outer(2152, &response(0))),
        ),
        case(
            "pass, Echo Request whose lengths disagree",
            from_gnb(&longer),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "drop, Echo Request from somebody who is no peer",
            from_gnb_with(&request, |it| it.source = PEER),
            drop(N3, Reason::PeerNotAllowed),
            None,
        ),
    ]
}

/// GTP-U signalling: tunnels that nobody knows.
pub(super) fn error_indication() -> Vec<Case> {
    let unknown = packet::gtpu(0x30, 255, 0x9999, &user_packet().bytes());
    let indication = packet::gtpu(0x32, 26, 0, &[0, 0, 0, 0, 16, 0, 0, 0x99, 0x99, 133, 0, 4, 10, 30, 0, 2]);
    vec![
        case(
            "answer, unknown TEID: Error Indication (§7.3.1)",
            from_gnb(&unknown),
            back(N3, Reason::UnknownTeid),
            back_on_n3(&outer(2152, &indication)),
        ),
        case(
            "drop, TEID 0 gets no Error Indication",
            from_gnb(&packet::gtpu(0x30, 255, 0, &user_packet().bytes())),
            drop(N3, Reason::UnknownTeid),
            None,
        ),
        case(
            "pass, Error Indication is never answered by one",
            from_gnb(&indication),
            passed(Reason::PassSignalling),
            None,
        ),
    ]
}
