//! What is sent through which path.

use crate::lab::endpoint::Teid;
use crate::load::scenario::{
    Ethernet, Mac, Order, Scenario as Load, Sending, Sizes, Tunnel, User, UserPacket,
};
use crate::load::template::{Template, Templates};
use anyhow::{Context, Result};
use netplane_common::decide::decide;
use netplane_common::frame::SliceFrame;
use netplane_common::map::{DownlinkKey4, DownlinkKey6, UplinkKey, UplinkKey6};
use netplane_common::testing::{cases, packet};
use netplane_common::verdict::{Reason, Verdict};
use netplane_common::wire::Be32;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A way of a packet through the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Uplink,
    Downlink,
    Relay,
    /// Of users with IPv6 prefixes, in a tunnel over IPv6.
    Uplink6,
    /// The same, with the outer UDP checksum over the whole packet.
    Downlink6,
    /// The same as [`Self::Uplink`] and [`Self::Downlink`], of sessions with a rule.
    UplinkRuled(Extra),
    DownlinkRuled(Extra),
    /// An Echo Request that the program answers.
    Echo,
    /// A packet for nobody here.
    Pass,
    /// A packet that is dropped, or passed to the pod, for a reason that is counted.
    Counted(Reason),
}

/// What a session's rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// An SDF filter: protocol and ports.
    Filter,
    /// A QER with an MBR that is not reached.
    Meter,
    /// A URR.
    Usage,
}

impl Extra {
    pub const ALL: [Self; 3] = [Self::Filter, Self::Meter, Self::Usage];
}

impl Path {
    /// The ways of packets of sessions, and of others'.
    pub const FORWARDED: [Self; 4] = [Self::Uplink, Self::Downlink, Self::Relay, Self::Pass];

    /// The same over IPv6.
    pub const IPV6: [Self; 2] = [Self::Uplink6, Self::Downlink6];

    /// The ways of packets of sessions with rules.
    pub fn ruled() -> impl Iterator<Item = Self> {
        Extra::ALL.into_iter().flat_map(|it| [Self::UplinkRuled(it), Self::DownlinkRuled(it)])
    }

    /// One for each reason that a packet of the case table has in the standard tables.
    pub fn counted() -> Vec<Self> {
        let has_packet = |it: &Self| it.case().is_some();
        Reason::ALL.iter().map(|it| Self::Counted(*it)).filter(has_packet).collect()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Downlink => "downlink",
            Self::Relay => "relay",
            Self::Uplink6 => "uplink, IPv6",
            Self::Downlink6 => "downlink, IPv6",
            Self::UplinkRuled(Extra::Filter) => "uplink, filter",
            Self::UplinkRuled(Extra::Meter) => "uplink, QER",
            Self::UplinkRuled(Extra::Usage) => "uplink, URR",
            Self::DownlinkRuled(Extra::Filter) => "downlink, filter",
            Self::DownlinkRuled(Extra::Meter) => "downlink, QER",
            Self::DownlinkRuled(Extra::Usage) => "downlink, URR",
            Self::Echo => "echo",
            Self::Pass => "pass",
            Self::Counted(reason) => reason.name(),
        }
    }

    /// The floor with an array in place of a hash table.
    pub(super) const fn indexed_floor(self) -> Option<&'static str> {
        match self {
            Self::Uplink => Some("floor_indexed"),
            _ => None,
        }
    }

    /// The floor program beside it.
    pub(super) const fn floor(self) -> Option<&'static str> {
        match self {
            Self::Uplink => Some("floor_uplink"),
            Self::Downlink => Some("floor_downlink"),
            _ => None,
        }
    }

    /// `enum xdp_action` that the program under test must return.
    pub(super) const fn action(self) -> u32 {
        match self {
            Self::Counted(reason) if reason.is_drop() => 1,
            Self::Pass | Self::Counted(_) => 2,
            Self::Echo => 3,
            _ => 4,
        }
    }

    /// What a TC program must return: to another device, or to whoever comes next.
    pub(super) const fn tc_action(self) -> u32 {
        match self.action() {
            4 => 7,
            _ => u32::MAX,
        }
    }

    /// What is least done for it on TC, where that is measured.
    pub(super) const fn least_on_tc(self) -> Option<&'static str> {
        match self {
            Self::Uplink => Some("tc_shorter"),
            Self::Downlink => Some("tc_longer"),
            Self::Relay | Self::Pass => Some("tc_empty"),
            _ => None,
        }
    }

    /// A packet that the standard tables answer so.
    fn case(self) -> Option<Vec<u8>> {
        let Self::Counted(wanted) = self else { return None };
        let tables = cases::standard();
        let is_so = |packet: &Vec<u8>| match decide(&mut SliceFrame::new(packet), &tables, cases::IFINDEX) {
            Verdict::Drop { reason, .. } | Verdict::PassCounted { reason, .. } => reason == wanted,
            _ => false,
        };
        // The wrapper writes 56 bytes at least.
        cases::all().into_iter().map(|it| it.packet).filter(|it| it.len() >= 56).find(is_so)
    }
}

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    pub path: Path,
    pub sessions: u32,
    /// Bytes of the user's IP packet.
    pub size: u16,
    pub order: Order,
}

/// Slots of the arrays in which packets find sessions, less one.
pub(super) const INDEX_MASK: u32 = (1 << 21) - 1;
// Rows for a million sessions, each of which has slots of its own, as with TEIDs and addresses that the agent gives.
const UPLINK_TEIDS: u32 = 0x1000_0000;
const RELAY_TEIDS: u32 = UPLINK_TEIDS + (1 << 20);
/// Of sessions with a rule: of the first kind, and from there to those of the next.
const RULED_TEIDS: u32 = UPLINK_TEIDS + (1 << 20) - 8 * KIND;
const USERS: u32 = 0x6400_0000;
const RULED_USERS: u32 = USERS + (1 << 20) - 8 * KIND;
const KIND: u32 = 1 << 10;

pub(super) fn user(session: u32) -> Ipv4Addr {
    Ipv4Addr::from(USERS + session)
}

/// The upper 64 bits of a user's IPv6 address; the second word counts up.
fn user6(session: u32) -> u64 {
    0x2001_0db8 << 32 | u64::from(0x0060_0001 + session)
}

pub(super) fn uplink_key6(session: u32) -> UplinkKey6 {
    cases::uplink_key6(UPLINK_TEIDS + session)
}

pub(super) fn downlink_key6(session: u32) -> DownlinkKey6 {
    DownlinkKey6 { port: cases::port(), ue: user_prefix(session) }
}

pub(super) fn user_prefix(session: u32) -> [Be32; 2] {
    let prefix = user6(session);
    [Be32::new((prefix >> 32) as u32), Be32::new(prefix as u32)]
}

pub(super) fn uplink_key(session: u32) -> UplinkKey {
    cases::uplink_key(UPLINK_TEIDS + session)
}

pub(super) fn relay_key(session: u32) -> UplinkKey {
    cases::uplink_key(RELAY_TEIDS + session)
}

pub(super) fn downlink_key(session: u32) -> DownlinkKey4 {
    DownlinkKey4 { port: cases::port(), ue: Be32::from(user(session)) }
}

pub(super) fn ruled_uplink_key(extra: Extra, session: u32) -> UplinkKey {
    cases::uplink_key(RULED_TEIDS + extra as u32 * KIND + session)
}

pub(super) fn ruled_user(extra: Extra, session: u32) -> Ipv4Addr {
    Ipv4Addr::from(RULED_USERS + extra as u32 * KIND + session)
}

impl Scenario {
    /// The traffic, in the form that the generators know.
    pub(super) fn load(self, cpu: usize) -> Load {
        let teid = match self.path {
            Path::Uplink | Path::Uplink6 => Some(UPLINK_TEIDS),
            Path::Relay => Some(RELAY_TEIDS),
            Path::UplinkRuled(extra) => Some(RULED_TEIDS + extra as u32 * KIND),
            _ => None,
        };
        let is_v6 = matches!(self.path, Path::Uplink6 | Path::Downlink6);
        let of = |v4: Ipv4Addr, v6: Ipv6Addr| if is_v6 { IpAddr::V6(v6) } else { IpAddr::V4(v4) };
        let tunnel = |teid| Tunnel {
            source: of(cases::GNB, cases::GNB6),
            destination: of(cases::POD_N3, cases::POD_N3_6),
            source_port: crate::lab::endpoint::GTPU_PORT,
            teid: Teid(teid),
            qfi: Some(cases::QFI),
            downlink: false,
            dscp: 0,
        };
        let server = of(cases::SERVER, cases::SERVER6);
        let first = match self.path {
            Path::UplinkRuled(extra) | Path::DownlinkRuled(extra) => ruled_user(extra, 0),
            _ => user(0),
        };
        let user = of(first, Ipv6Addr::from_bits(u128::from(user6(0)) << 64 | 1));
        let (source, destination, is) = match self.path {
            Path::Uplink | Path::Uplink6 | Path::Relay | Path::UplinkRuled(_) => (user, server, User::Source),
            Path::Downlink | Path::Downlink6 | Path::DownlinkRuled(_) => (server, user, User::Destination),
            // To another address.
            Path::Pass | Path::Echo | Path::Counted(_) => {
                (server, IpAddr::V4(cases::PEER), User::Destination)
            }
        };
        let is_one = matches!(self.path, Path::Pass | Path::Echo | Path::Counted(_));
        let sessions = if is_one { 1 } else { self.sessions };
        Load {
            name: self.path.name().to_owned(),
            ethernet: Ethernet::default(),
            gtpu: teid.map(tunnel),
            user: UserPacket { source, destination, source_port: 40_000, destination_port: 53, is },
            sessions,
            flows: 1,
            order: self.order,
            sizes: Sizes::One(self.size),
            send: Sending { cpus: vec![cpu], ..Sending::default() },
        }
    }

    /// A packet that takes this path with the case table's standard tables.
    pub(crate) fn standard_packet(self) -> Option<Vec<u8>> {
        let inner = cases::user_packet().bytes();
        let gpdu = |teid| cases::from_gnb(&packet::gtpu_with_container(teid, 1, cases::QFI, &inner));
        let to_user = |to| packet::Ipv4::new(cases::SERVER, to, packet::udp(53, 40_000, b"hello")).bytes();
        match self.path {
            Path::Uplink => Some(gpdu(cases::TEID)),
            Path::Relay => Some(gpdu(cases::RELAY_TEID)),
            Path::Downlink => Some(cases::from_router(&to_user(cases::UE))),
            Path::Uplink6 | Path::Downlink6 | Path::UplinkRuled(_) | Path::DownlinkRuled(_) => {
                let load = Self { sessions: 1, ..self }.load(0);
                let first = self.template(&load).ok()?.frame;
                Some(first)
            }
            Path::Pass => Some(cases::from_router(&to_user(cases::PEER))),
            Path::Echo => Some(echo_request()),
            Path::Counted(_) => self.path.case(),
        }
    }

    /// The frames.
    pub(super) fn template(self, load: &Load) -> Result<Template> {
        let (source, destination) = match self.path {
            Path::Uplink | Path::Uplink6 | Path::Relay | Path::UplinkRuled(_) => {
                (cases::GNB_MAC, cases::POD_N3_MAC)
            }
            Path::Downlink | Path::Downlink6 | Path::DownlinkRuled(_) => {
                (cases::ROUTER_MAC, cases::POD_N6_MAC)
            }
            // For another host.
            Path::Pass => (cases::ROUTER_MAC, cases::HOST_MAC),
            Path::Echo => return Ok(Template::fixed(echo_request())),
            Path::Counted(_) => {
                let packet = self.path.case();
                return packet
                    .map(Template::fixed)
                    .with_context(|| format!("no packet is {}", self.path.name()));
            }
        };
        let templates = Templates::new(load, Mac(source), Mac(destination))?.templates;
        templates.into_iter().next().context("a scenario has a template")
    }
}

/// With two bytes of padding: as long as the answer, and no shorter than what the wrapper writes.
fn echo_request() -> Vec<u8> {
    let message = packet::gtpu(0x32, 1, 0, &[0, 1, 0, 0]);
    let outer = packet::Ipv4::new(cases::GNB, ECHO_ENDPOINT, packet::udp(2152, 2152, &message));
    let frame = packet::ethernet(cases::POD_N3_MAC, cases::GNB_MAC, packet::ETHERTYPE_IPV4, &outer.bytes());
    [&frame[..], &[0, 0]].concat()
}

/// An address of the pod for which the program answers Echo Requests.
pub(super) const ECHO_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_reasons_have_a_packet() {
        let counted: Vec<_> = Path::counted().into_iter().map(Path::name).collect();
        for reason in ["peer-not-allowed", "ue-spoofed", "ttl-expired", "session-drop", "malformed"] {
            assert!(counted.contains(&reason), "{counted:?}");
        }
    }
}
