//! What is sent, what must become of it, and the frames themselves, byte by byte.

use super::{GNB6, nad};
use crate::lab::users::{UE_POOL, User, users};
use crate::lab::wires::Pod;
use crate::lab::{GNB, SERVER};
use netplane_common::testing::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, ethernet, gtpu, gtpu_with_container, udp,
};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const SERVER_PORT: u16 = 9;
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 1);

const N_USERS: u32 = 8;
/// One more, whose tunnel to the gNB is over IPv6.
const OVER_IPV6: u32 = N_USERS + 1;
const RELAY_TEID: u32 = 0x3001;
const RELAYED_TEID: u32 = 0x4001;
const UNKNOWN_TEID: u32 = 0x9999;

/// In front of a frame's kind and number, which are its last bytes whatever headers it has.
const MARK: [u8; 4] = *b"soak";
pub(super) const MARKED: usize = MARK.len() + 1 + 4;

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It comes out of N3 or N6, or there was no next hop for it.
    Forwarded { network: &'static str },
    /// It reaches the pod, and is counted under this name.
    ToPod(&'static str),
    /// An answer comes out of N3, and it is counted under this name.
    Answered(&'static str),
    /// It is counted under this name, and nothing else.
    Dropped(&'static str),
}

macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident, $name:literal, $from_gnb:literal, $every:literal, $fate:expr;)+) => {
        /// A kind of packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])+ $kind,)+ }

        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// For the account.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// Whether the gNB host sends it, else the data-network host.
            const fn is_from_gnb(self) -> bool {
                match self { $(Self::$kind => $from_gnb,)+ }
            }

            /// One is sent in every so many turns of its sender.
            const fn every(self) -> u64 {
                match self { $(Self::$kind => $every,)+ }
            }

            pub(super) const fn fate(self) -> Fate {
                match self { $(Self::$kind => $fate,)+ }
            }
        }
    };
}

kinds! {
    /// Users' packets to the server.
    Uplink, "uplink", true, 1, Fate::Forwarded { network: "core/n3" };
    /// The same with IPv6.
    Uplink6, "uplink, IPv6", true, 2, Fate::Forwarded { network: "core/n3" };
    /// Users' packets to the server in tunnels over IPv6.
    UplinkOver6, "uplink over IPv6", true, 2, Fate::Forwarded { network: "core/n3" };
    /// From one peer to another.
    Relay, "relay", true, 2, Fate::Forwarded { network: "core/n3" };
    /// Echo Requests.
    Echo, "echo", true, 8, Fate::Answered("core/n3 echo-answered");
    /// In tunnels that nobody knows.
    Unknown, "unknown TEID", true, 4, Fate::ToPod("core/n3 pass-unknown-teid");
    /// Under an address that is not the user's.
    Spoofed, "spoofed", true, 4, Fate::Dropped("core/n3 ue-spoofed");
    /// At the end of their life.
    Expired, "expired", true, 8, Fate::Dropped("core/n3 ttl-expired");
    /// With a length beyond their datagram.
    Malformed, "malformed", true, 4, Fate::Dropped("core/n3 malformed");
    /// The server's packets to users.
    Downlink, "downlink", false, 1, Fate::Forwarded { network: "core/n6" };
    /// The same with IPv6.
    Downlink6, "downlink, IPv6", false, 2, Fate::Forwarded { network: "core/n6" };
    /// The server's packets to a user whose tunnel is over IPv6.
    DownlinkOver6, "downlink over IPv6", false, 2, Fate::Forwarded { network: "core/n6" };
    /// Larger than the tunnel can carry.
    TooBig, "too big", false, 8, Fate::Dropped("core/n6 too-big");
}

/// The nodes at both ends.
pub(super) struct World {
    pub(super) pod: Pod,
    /// The pod on N3.
    pub(super) pod6: Ipv6Addr,
    pub(super) gnb_mac: [u8; 6],
    pub(super) gateway_mac: [u8; 6],
}

/// Frames of one kind, one for each user, to be numbered and sent in turn.
pub(super) struct Template {
    pub(super) kind: Kind,
    pub(super) every: u64,
    frames: Vec<Vec<u8>>,
}

impl Template {
    /// The frame with this number.
    pub(super) fn frame(&mut self, number: u32) -> &[u8] {
        let index = number as usize % self.frames.len();
        let frame = &mut self.frames[index];
        let at = frame.len() - 4;
        if self.kind == Kind::Echo {
            // The message is too short for a number: its own has 16 bits (TS 29.281 §5.1).
            frame[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
        } else {
            frame[at..].copy_from_slice(&number.to_be_bytes());
        }
        frame
    }
}

/// The kind and number of a frame.
pub(super) fn marked(frame: &[u8]) -> Option<(Kind, u32)> {
    let [m0, m1, m2, m3, kind, number @ ..] = frame.last_chunk::<MARKED>()?;
    let kind = Kind::ALL.get(usize::from(*kind)).filter(|_| [*m0, *m1, *m2, *m3] == MARK)?;
    Some((*kind, u32::from_be_bytes(*number)))
}

/// Whether it is an Echo Response over IPv4 (TS 29.281 §7.2.2).
pub(super) fn is_echo_response(frame: &[u8]) -> bool {
    const ECHO_RESPONSE: u8 = 2;
    frame.get(12..14) == Some(&[8, 0])
        && frame.get(34..36) == Some(&[8, 0x68])
        && frame.get(43) == Some(&ECHO_RESPONSE)
}

fn ue6(number: u32) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x60, number as u16, 0, 0, 0, 1)
}

/// What one of the hosts sends.
pub(super) fn templates(world: &World, from_gnb: bool) -> Vec<Template> {
    let kinds = Kind::ALL.iter().filter(|it| it.is_from_gnb() == from_gnb);
    let frames = |kind: Kind| {
        let all = users(OVER_IPV6);
        let users = all.iter().zip(1..);
        let only = |number: u32| (number == OVER_IPV6) == (kind == Kind::DownlinkOver6);
        users.filter(|it| only(it.1)).map(|(user, number)| frame(world, kind, user, number)).collect()
    };
    kinds.map(|kind| Template { kind: *kind, every: kind.every(), frames: frames(*kind) }).collect()
}

fn frame(world: &World, kind: Kind, user: &User, number: u32) -> Vec<u8> {
    let mark = [&MARK[..], &[kind as u8], &[0; 4]].concat();
    let data = |length: usize| udp(40_000, SERVER_PORT, &[vec![0; length], mark.clone()].concat());
    let up = || Ipv4::new(user.ue, SERVER, data(40));
    let tunnelled = |inner: &[u8]| match user.qfi {
        Some(qfi) => gtpu_with_container(user.uplink.0, 1, qfi, inner),
        None => gtpu(0x30, 255, user.uplink.0, inner),
    };
    match kind {
        Kind::Uplink => world.gnb_sends(&tunnelled(&up().bytes())),
        Kind::Uplink6 => world.gnb_sends(&tunnelled(&Ipv6::new(ue6(number), SERVER6, data(40)).bytes())),
        Kind::UplinkOver6 => world.gnb_sends6(&tunnelled(&up().bytes())),
        Kind::Relay => world.gnb_sends(&gtpu_with_container(RELAY_TEID, 1, 9, &up().bytes())),
        Kind::Echo => world.gnb_sends(&gtpu(0x32, 1, 0, &[0; 4])),
        Kind::Unknown => world.gnb_sends(&gtpu(0x30, 255, UNKNOWN_TEID, &up().bytes())),
        Kind::Spoofed => world.gnb_sends(&tunnelled(&Ipv4 { source: SERVER, ..up() }.bytes())),
        Kind::Expired => world.gnb_sends(&tunnelled(&Ipv4 { ttl: 1, ..up() }.bytes())),
        Kind::Malformed => {
            let mut message = tunnelled(&up().bytes());
            message[3] += 1;
            world.gnb_sends(&message)
        }
        Kind::Downlink | Kind::DownlinkOver6 => {
            world.gateway_sends(ETHERTYPE_IPV4, &Ipv4::new(SERVER, user.ue, data(40)).bytes())
        }
        Kind::Downlink6 => {
            world.gateway_sends(ETHERTYPE_IPV6, &Ipv6::new(SERVER6, ue6(number), data(40)).bytes())
        }
        Kind::TooBig => world.gateway_sends(ETHERTYPE_IPV4, &Ipv4::new(SERVER, user.ue, data(1440)).bytes()),
    }
}

impl World {
    fn gnb_sends(&self, message: &[u8]) -> Vec<u8> {
        let outer = Ipv4::new(GNB, self.pod.n3, udp(2152, 2152, message));
        ethernet(mac(&self.pod.n3_mac), self.gnb_mac, ETHERTYPE_IPV4, &outer.bytes())
    }

    /// With UDP checksum zero, which receivers of tunnels take (RFC 6935 §5).
    fn gnb_sends6(&self, message: &[u8]) -> Vec<u8> {
        let outer = Ipv6::new(GNB6, self.pod6, udp(2152, 2152, message));
        ethernet(mac(&self.pod.n3_mac), self.gnb_mac, ETHERTYPE_IPV6, &outer.bytes())
    }

    fn gateway_sends(&self, ether_type: u16, packet: &[u8]) -> Vec<u8> {
        ethernet(mac(&self.pod.n6_mac), self.gateway_mac, ether_type, packet)
    }
}

fn mac(text: &str) -> [u8; 6] {
    super::octets(text).unwrap_or_default()
}

/// Sessions of the users, and one relay to another peer.
pub(super) fn sessions(peer: Ipv4Addr) -> Vec<Value> {
    let user = |(user, number): (&User, u32)| {
        let gnb = if number == OVER_IPV6 { GNB6.to_string() } else { GNB.to_string() };
        let mut downlink = json!({ "peer": gnb, "teid": user.downlink.to_string() });
        if let Some(qfi) = user.qfi {
            downlink["qfi"] = json!(qfi);
        }
        json!({
            "name": format!("ue-{number}"),
            "ue": [user.ue, format!("{}/64", Ipv6Addr::from_bits(ue6(number).to_bits() & !1))],
            "uplink": { "teid": user.uplink.to_string(), "to": "core/n6" },
            "downlink": downlink,
        })
    };
    let mut sessions: Vec<_> = users(OVER_IPV6).iter().zip(1..).map(user).collect();
    let relay = json!({ "network": "core/n3", "peer": peer, "teid": RELAYED_TEID });
    sessions.push(json!({ "name": "relay", "uplink": { "teid": RELAY_TEID, "relay": relay } }));
    sessions
}

pub(super) fn n3(peer: Ipv4Addr) -> Value {
    let gtpu = json!({ "peers": ["10.30.0.0/24", "2001:db8:30::/64"], "echo": true });
    let metadata = json!({ "role": "access", "gtpu": gtpu, "sessions": sessions(peer) });
    let four = json!({ "subnet": "10.30.0.0/24", "rangeStart": "10.30.0.50" });
    let six = json!({ "subnet": "2001:db8:30::/64", "rangeStart": "2001:db8:30::50" });
    nad("n3", &metadata, &json!({ "type": "host-local", "ranges": [[four], [six]] }))
}

pub(super) fn n6(gateway: Ipv4Addr, gateway6: Ipv6Addr) -> Value {
    let metadata = json!({ "role": "data", "uePools": [UE_POOL, "2001:db8:60::/48"] });
    let four = json!({ "subnet": "10.40.0.0/24", "rangeStart": "10.40.0.50", "gateway": gateway });
    let six = json!({ "subnet": "2001:db8:40::/64", "rangeStart": "2001:db8:40::50", "gateway": gateway6 });
    let ipam = json!({
        "type": "host-local", "ranges": [[four], [six]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    nad("n6", &metadata, &ipam)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        let pod = Pod {
            n3: Ipv4Addr::new(10, 30, 0, 50),
            n3_mac: "02:00:00:00:00:31".to_owned(),
            n6: Ipv4Addr::new(10, 40, 0, 50),
            n6_mac: "02:00:00:00:00:61".to_owned(),
        };
        let pod6 = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 0x50);
        World { pod, pod6, gnb_mac: [2; 6], gateway_mac: [4; 6] }
    }

    #[test]
    fn every_frame_but_echo_carries_its_kind_and_number() {
        let mut templates = templates(&world(), true);
        templates.extend(super::templates(&world(), false));
        assert_eq!(templates.len(), Kind::ALL.len());
        for template in &mut templates {
            let kind = template.kind;
            let expected = (kind != Kind::Echo).then_some((kind, 0x0102_0304));
            assert_eq!(marked(template.frame(0x0102_0304)), expected);
        }
    }

    #[test]
    fn frames_fit_the_wire() {
        for template in templates(&world(), false) {
            assert!(template.frames.iter().all(|it| it.len() <= 1514), "{:?}", template.kind);
        }
    }
}
