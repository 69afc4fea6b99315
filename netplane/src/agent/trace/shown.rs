//! Entries, next hops and verdicts in words.

use netplane_common::frame::{Frame, SliceFrame};
use netplane_common::map::{
    DownlinkEntry, NextHop, SessionAction, UplinkEntry, downlink_flags, next_hop_flags, uplink_flags,
};
use netplane_common::verdict::{Packed, Verdict};
use netplane_common::wire::ethernet::{EtherType, Ethernet, VlanTag};
use netplane_common::wire::gtpu::{self, Gtpu};
use netplane_common::wire::ip::{self, Ipv4, Ipv6, protocol};
use netplane_common::wire::udp::Udp;
use std::net::Ipv4Addr;

fn action(number: u8) -> &'static str {
    match SessionAction::from_number(number) {
        SessionAction::Drop => "drop",
        SessionAction::Forward => "forward",
        SessionAction::Relay => "relay",
        SessionAction::Buffer => "buffer",
    }
}

pub(super) fn uplink(tunnel: &str, entry: &UplinkEntry) -> String {
    let mut text = format!("{tunnel}: {}", action(entry.action));
    if entry.flags & uplink_flags::CHECK_UE != 0 {
        if entry.ue4.get() != 0 {
            text += &format!(", from {}", Ipv4Addr::from(entry.ue4));
        }
        if entry.ue6.iter().any(|it| it.get() != 0) {
            text += &format!(", from {}/64", ip::unmapped([entry.ue6[0], entry.ue6[1], zero(), zero()]));
        }
    }
    if entry.flags & uplink_flags::CHECK_QFI != 0 {
        text += &format!(", QFI {} only", entry.qfi);
    }
    if SessionAction::from_number(entry.action) == SessionAction::Relay {
        text += &format!(", to TEID {:#x}", entry.teid.get());
    }
    text
}

pub(super) fn downlink(user: &str, entry: &DownlinkEntry) -> String {
    let mut text = format!("{user}: {}, to TEID {:#x}", action(entry.action), entry.teid.get());
    if entry.flags & downlink_flags::QFI != 0 {
        text += &format!(", QFI {}", entry.qfi);
    }
    text + &format!(", up to {} bytes", entry.mtu)
}

pub(super) fn next_hop(next_hop: &NextHop, master: String) -> String {
    let state = match next_hop {
        it if it.is_local() => "resolved, a pod under the same master",
        it if it.is_resolved() => "resolved",
        _ => "NOT RESOLVED",
    };
    let vlan = if next_hop.vlan == 0 { String::new() } else { format!(", VLAN {}", next_hop.vlan) };
    let tunnel = if next_hop.has(next_hop_flags::IPV6) {
        let (local, peer) = next_hop.tunnel6();
        format!(" {} > {}", ip::unmapped(local), ip::unmapped(peer))
    } else {
        String::new()
    };
    let (from, to) = (next_hop.source(), next_hop.destination());
    format!("{state}: {from} > {to}{tunnel} out of {master}{vlan}, MTU {}", next_hop.mtu)
}

/// The verdict's name, and what it means. `out` names the master of a port.
pub(super) fn verdict(
    verdict: Verdict,
    back: &str,
    out: impl Fn(u32) -> String,
    frame: &[u8],
) -> (String, String) {
    let leaves = |master: &str| format!("{} out of {master}", headers(frame));
    match verdict {
        Verdict::Pass => ("pass".to_owned(), "to the pod, uncounted: not for an endpoint".to_owned()),
        Verdict::Transmit => ("forwarded".to_owned(), leaves(back)),
        Verdict::Redirect { port } => ("forwarded".to_owned(), leaves(&out(port))),
        Verdict::Deliver { port } => {
            ("forwarded".to_owned(), format!("{} to the pod under {}", headers(frame), out(port)))
        }
        Verdict::PassCounted { reason, .. } => {
            (reason.name().to_owned(), format!("to the pod.{}", reason.sentence()))
        }
        // On memory every frame can be answered, and none is unfinished.
        Verdict::Drop { reason, .. } | Verdict::ToAnswer { reason, .. } => {
            (reason.name().to_owned(), format!("dropped.{}", reason.sentence()))
        }
        Verdict::Answer { reason, port, .. } => {
            let master = if port == netplane_common::map::NO_INDEX {
                back.to_owned()
            } else {
                out(port & !Packed::LOCAL)
            };
            (reason.name().to_owned(), format!("answered: {}", leaves(&master)))
        }
        Verdict::Buffered => ("buffered".to_owned(), "kept by the agent".to_owned()),
        Verdict::Unfinished => ("unfinished".to_owned(), "segmented by the kernel first".to_owned()),
        Verdict::ToRules { .. } => ("unfinished".to_owned(), "its session's rules are asked".to_owned()),
    }
}

/// A frame's headers, as far as they are of this crate.
fn headers(bytes: &[u8]) -> String {
    let frame = SliceFrame::new(bytes);
    let Some(ethernet) = frame.load::<Ethernet>(0) else { return "an empty frame".to_owned() };
    let mut text = format!("{} > {}", ethernet.source, ethernet.destination);
    let (mut at, mut ether_type) = (Ethernet::LEN, ethernet.ether_type);
    if let (true, Some(tag)) = (ether_type.is_vlan(), frame.load::<VlanTag>(at)) {
        text += &format!(" VLAN {}", tag.id());
        (at, ether_type) = (at + VlanTag::LEN, tag.ether_type);
    }
    text += &packet(&frame, at, ether_type == EtherType::IPV4);
    text
}

fn packet(frame: &SliceFrame, at: usize, v4: bool) -> String {
    let (addresses, udp, ttl) = if v4 {
        let Some(it) = frame.load::<Ipv4>(at) else { return String::new() };
        let addresses = format!("{} > {}", Ipv4Addr::from(it.source), Ipv4Addr::from(it.destination));
        (addresses, (it.protocol == protocol::UDP).then_some(at + Ipv4::LEN), it.ttl)
    } else {
        let Some(it) = frame.load::<Ipv6>(at) else { return String::new() };
        let addresses = format!("{} > {}", ip::unmapped(it.source), ip::unmapped(it.destination));
        (addresses, (it.next_header == protocol::UDP).then_some(at + Ipv6::LEN), it.hop_limit)
    };
    let text = format!(" {addresses} TTL {ttl}");
    let Some(at) = udp else { return text };
    let is_gtpu = frame.load::<Udp>(at).is_some_and(|it| it.destination == gtpu::PORT);
    match frame.load::<Gtpu>(at + Udp::LEN).filter(|_| is_gtpu) {
        Some(it) => format!("{text} TEID {:#x}", it.teid.get()),
        None => text,
    }
}

fn zero() -> netplane_common::wire::Be32 {
    netplane_common::wire::Be32::new(0)
}
