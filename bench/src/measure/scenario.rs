//! What is sent through which path.

use netplane_common::map::{DownlinkKey4, UplinkKey};
use netplane_common::testing::cases;
use netplane_common::testing::packet;
use netplane_common::wire::Be32;
use std::net::Ipv4Addr;

/// A way of a packet through the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Uplink,
    Downlink,
    Relay,
    /// A packet for nobody here.
    Pass,
}

impl Path {
    pub const ALL: [Self; 4] = [Self::Uplink, Self::Downlink, Self::Relay, Self::Pass];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Downlink => "downlink",
            Self::Relay => "relay",
            Self::Pass => "pass",
        }
    }

    /// The floor program beside it.
    pub(super) const fn floor(self) -> Option<&'static str> {
        match self {
            Self::Uplink => Some("floor_uplink"),
            Self::Downlink => Some("floor_downlink"),
            Self::Relay | Self::Pass => None,
        }
    }

    /// `enum xdp_action` that the program under test must return.
    pub(super) const fn action(self) -> u32 {
        match self {
            Self::Pass => 2,
            _ => 4,
        }
    }
}

/// One row of the report.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub path: Path,
    pub sessions: u32,
}

const UPLINK_TEIDS: u32 = 0x1000_0000;
const RELAY_TEIDS: u32 = 0x2000_0000;
const USERS: u32 = 0x6400_0000;

/// Spreads neighbouring sessions over the tables, the same way in each run: an odd number of a full
/// period modulo any power of two.
fn shuffled(session: u32, sessions: u32) -> u32 {
    let spread = u64::from(session) * 0x9e37_79b1 + 12_345;
    (spread % u64::from(sessions.next_power_of_two().max(1))) as u32 % sessions.max(1)
}

pub(super) fn user(session: u32) -> Ipv4Addr {
    Ipv4Addr::from(USERS + session)
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

impl Scenario {
    /// The packet of the n-th template: a 68-byte user packet, the shortest whose frame the wrapper can write anew.
    pub(super) fn packet(self, n: u32) -> Vec<u8> {
        let session = shuffled(n, self.sessions);
        let payload = packet::udp(40_000, 53, &[0x5a; 40]);
        let up = packet::Ipv4 {
            source: user(session),
            ..packet::Ipv4::new(user(session), cases::SERVER, payload.clone())
        };
        let gpdu = |teid| cases::from_gnb(&packet::gtpu_with_container(teid, 1, cases::QFI, &up.bytes()));
        match self.path {
            Path::Uplink => gpdu(UPLINK_TEIDS + session),
            Path::Relay => gpdu(RELAY_TEIDS + session),
            Path::Downlink => {
                cases::from_router(&packet::Ipv4::new(cases::SERVER, user(session), payload).bytes())
            }
            // For another host, to another address.
            Path::Pass => {
                let other = packet::Ipv4::new(cases::SERVER, cases::PEER, payload);
                packet::ethernet(cases::HOST_MAC, cases::ROUTER_MAC, packet::ETHERTYPE_IPV4, &other.bytes())
            }
        }
    }
}
