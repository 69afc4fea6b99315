//! Cases that nobody had thought of: found by fuzzing, by the differential run, or by users.

use super::answers::answering;
use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV6, Ipv4, Ipv6};
use crate::verdict::{Reason, Verdict};

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict) -> Case {
    Case { name, tables: answering(), packet, verdict, out: None }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cut_unknown = from_gnb(&packet::gtpu(0x30, 255, 0x9999, &user_packet().bytes()));
    cut_unknown.pop();
    let expired = Ipv4 { ttl: 1, ..Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"cut off")) };
    let mut cut_expired = from_router(&expired.bytes());
    cut_expired.pop();
    let mut longest = Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, b"cut off")).bytes();
    longest[4..6].copy_from_slice(&[0xff, 0xff]);
    let longest = packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &longest);
    let short = Ipv4 { ttl: 1, protocol: 47, ..Ipv4::new(SERVER, UE, vec![0; 7]) };
    let padded = [from_router(&short.bytes()), vec![0xee; 20]].concat();
    let sequence_outside = [from_gnb(&packet::gtpu(0x32, 1, 0, &[])), vec![0x12, 0x34, 0, 0]].concat();
    vec![
        // Was answered: half a G-PDU is none (TS 29.281 §5.1).
        case("drop, no Error Indication about half a G-PDU", cut_unknown, drop(N3, Reason::UnknownTeid)),
        // Was answered with ICMP: the TTL was looked at before the length.
        case("drop, half a packet to a user with TTL 1", cut_expired, drop(N6, Reason::Malformed)),
        // Was answered as too big: with its header, it is longer than 16 bits can say.
        case("drop, IPv6 packet to a user that says 65,535 bytes", longest, drop(N6, Reason::Malformed)),
        // Was answered, and the padding quoted to somebody else.
        case("drop, no error that would quote padding", padded, drop(N6, Reason::TtlExpired)),
        // Was answered under the padding's number.
        case(
            "pass, Echo Request whose sequence number is behind its end",
            sequence_outside,
            passed(Reason::PassSignalling),
        ),
    ]
}
