//! Cases of framed routes: hosts behind users.

use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::MapTables;
use crate::map::{FramedUser, UplinkEntry, uplink_flags};
use crate::verdict::{Reason, Verdict};
use crate::wire::{Be32, ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 5);
/// In the prefix of another user, within the first one's.
const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 130);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 61, 1, 5);
const BEHIND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x62, 1, 0, 0, 0, 5);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x63, 1, 0, 0, 0, 5);

/// The standard tables, whose user has two prefixes behind it.
fn framed() -> MapTables {
    let mut tables = standard();
    let up = |it: &mut UplinkEntry| {
        it.flags |= uplink_flags::FRAMED;
        it.data_ifindex = port().ifindex;
        it.teid = Be32::new(u32::from(port().vlan));
    };
    tables.uplink.get_mut(&uplink_key(TEID)).into_iter().for_each(up);
    tables.uplink6.get_mut(&uplink_key6(TEID)).into_iter().for_each(up);
    let mut add = |address: IpAddr, len: u8, ue: [Be32; 4]| {
        let (_, address, len) = super::tables::prefix(0, address, len);
        tables.framed.insert((port(), address, len), FramedUser { ue });
    };
    add(Ipv4Addr::new(10, 61, 0, 0).into(), 24, ip::mapped(UE.into()));
    add(Ipv4Addr::new(10, 61, 0, 128).into(), 25, ip::mapped(Ipv4Addr::new(10, 60, 0, 99).into()));
    let [a, b, _, _] = ip::words(UE6);
    add(Ipv6Addr::new(0x2001, 0xdb8, 0x62, 0, 0, 0, 0, 0).into(), 48, [a, b, Be32::new(0), Be32::new(0)]);
    tables
}

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, out: Option<Vec<u8>>) -> Case {
    Case { name, tables: framed(), packet, verdict, out }
}

fn up(inner: &[u8]) -> Vec<u8> {
    from_gnb(&packet::gtpu(0x30, 255, TEID, inner))
}

fn tunnelled(inner: &[u8]) -> Vec<u8> {
    packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, inner)
}

pub(super) fn cases() -> Vec<Case> {
    let from = |source| Ipv4 { source, ..user_packet() };
    let from6 = |source| Ipv6 { source, ..user_packet6() };
    let to = |user| Ipv4::new(SERVER, user, packet::udp(53, 40_000, b"behind"));
    let to6 = |user| Ipv6::new(SERVER6, user, packet::udp(53, 40_000, b"behind"));
    let (down, down6) = (to(BEHIND), to6(BEHIND6));
    let down_out = Ipv4 { ttl: down.ttl - 1, ..down.clone() }.bytes();
    let down_out6 = Ipv6 { hop_limit: 63, ..down6.clone() }.bytes();
    let spoofed = drop(N3, Reason::UeSpoofed);
    let no_routes = Case { tables: standard(), ..case("", Vec::new(), spoofed, None) };
    vec![
        case(
            "decapsulate, from a host behind the user (TS 29.244 §8.2.109)",
            up(&from(BEHIND).bytes()),
            REDIRECT,
            to_router(&Ipv4 { ttl: 63, ..from(BEHIND) }),
        ),
        case("drop, from outside of the framed route", up(&from(OUTSIDE).bytes()), spoofed, None),
        case("drop, from a host behind another user", up(&from(OTHERS).bytes()), spoofed, None),
        case("drop, from outside of the framed IPv6 route", up(&from6(OUTSIDE6).bytes()), spoofed, None),
        Case {
            name: "drop, from a host behind the user, whose session has no framed routes",
            packet: up(&from(BEHIND).bytes()),
            ..no_routes
        },
        case(
            "encapsulate, to a host behind the user",
            from_router(&down.bytes()),
            REDIRECT,
            to_gnb(0, &tunnelled(&down_out)),
        ),
        case(
            "encapsulate, to a host behind the user, IPv6 (TS 29.244 §8.2.111)",
            packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &down6.bytes()),
            REDIRECT,
            to_gnb(0, &tunnelled(&down_out6)),
        ),
        case("pass, to outside of the framed route", from_router(&to(OUTSIDE).bytes()), Verdict::Pass, None),
        case(
            "pass, to a host behind a user who has gone",
            from_router(&to(OTHERS).bytes()),
            Verdict::Pass,
            None,
        ),
    ]
}
