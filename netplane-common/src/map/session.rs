//! Sessions compiled into flat entries: one for each uplink tunnel end, one for each user address.
//! One lookup gives a packet everything but its next hop's MAC.

use super::Port;
use crate::wire::{Be32, ethernet::Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is done with a packet of a session (TS 29.244 §8.2.26, Apply Action).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionAction {
    /// Counted as `session-drop`.
    Drop = 0,
    /// Uplink: decapsulate to the data network. Downlink: encapsulate to the peer.
    Forward = 1,
    /// Uplink only: to another GTP-U peer under a new F-TEID.
    Relay = 2,
    /// Downlink only, in rules: kept by the agent until the rule is another one (BUFF). An entry with a next hop
    /// forwards what the agent releases.
    Buffer = 3,
}

/// The local F-TEID at which a G-PDU arrives over IPv4, on the port that it arrives at.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct UplinkKey {
    pub port: Port,
    pub teid: Be32,
    pub local: Be32,
}

/// The same over IPv6.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct UplinkKey6 {
    pub port: Port,
    pub teid: Be32,
    pub local: [Be32; 4],
}

/// Flags of [`UplinkEntry`].
pub mod uplink_flags {
    /// The inner source must be `ue4` or in `ue6`; else `ue-spoofed`.
    pub const CHECK_UE: u8 = 1 << 0;
    /// The network has more peers than `peer`/`peer_mask` can say: look them up.
    pub const PEER_LIST: u8 = 1 << 1;
    /// Relay: outer DSCP is copied from the received outer header instead of `dscp`.
    pub const COPY_DSCP: u8 = 1 << 2;
    /// The G-PDU must carry `qfi` in a PDU Session Container; else `qfi-mismatch`.
    pub const CHECK_QFI: u8 = 1 << 3;
    /// The session has rules: what is done with a packet is what the first one says that is for it. The entry has
    /// what an End Marker or an answer needs.
    pub const RULES: u8 = 1 << 4;
    /// Forward: the session has framed routes. A source that is not the user's own is looked up in their trie, on the
    /// port of the data network, which `data_ifindex` and `teid` (its VLAN) name.
    pub const FRAMED: u8 = 1 << 5;
}

/// What to do with a G-PDU of a session. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UplinkEntry {
    /// A [`SessionAction`] as its number; unknown numbers count as `Drop`.
    pub action: u8,
    /// Bits of [`uplink_flags`].
    pub flags: u8,
    /// Index of the network, for its counters.
    pub network: u16,
    /// MAC of the endpoint: a frame to another one is not ours.
    pub mac: Mac,
    /// Outer DSCP of a relayed packet, already shifted into the upper six bits.
    pub dscp: u8,
    /// QoS flow identifier, 0 … 63 (TS 38.415 §5.5.3.3).
    pub qfi: u8,
    /// Outer sources allowed: `source & peer_mask == peer`, IPv4 in the first word, IPv6 by its first 64 bits.
    /// Mask 0 with peer 0 allows all.
    pub peer: [Be32; 2],
    pub peer_mask: [Be32; 2],
    /// The user's IPv4 address; 0.0.0.0 for none.
    pub ue4: Be32,
    /// The user's IPv6 /64 prefix; all zero for none.
    pub ue6: [Be32; 2],
    /// Forward: index of the data endpoint's default way for IPv4. Relay: of the tunnel.
    pub next_hop4: u32,
    /// Forward: index of the data endpoint's default way for IPv6.
    pub next_hop6: u32,
    /// Index of the session's uplink counter.
    pub counter: u32,
    /// Relay: TEID of the new tunnel. With [`uplink_flags::FRAMED`]: the data network's VLAN.
    pub teid: Be32,
    /// With [`uplink_flags::RULES`]: their set.
    pub rules: u32,
    /// With [`uplink_flags::FRAMED`]: the interface on which the data network's packets arrive.
    pub data_ifindex: u32,
}

impl UplinkEntry {
    /// The data network's port; with [`uplink_flags::FRAMED`].
    #[inline(always)]
    pub const fn data_port(&self) -> Port {
        Port::new(self.data_ifindex, self.teid.get() as u16)
    }
}

/// Key of the trie of framed routes (TS 29.244 §8.2.109, §8.2.111): prefixes behind users, by the port on which their
/// packets arrive. The first 64 bits (port) always count.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FramedKey {
    pub port: Port,
    /// IPv4 as IPv4-mapped.
    pub address: [Be32; 4],
}

/// The user behind whom a prefix is, on the same port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FramedUser {
    /// Of a prefix of IPv4 the user's address as IPv4-mapped, of IPv6 its /64 with zeros.
    pub ue: [Be32; 4],
}

impl FramedUser {
    /// The user's IPv4 address.
    #[inline(always)]
    pub const fn ue4(&self) -> Be32 {
        let [_, _, _, ue] = self.ue;
        ue
    }

    /// The user's IPv6 /64.
    #[inline(always)]
    pub const fn ue6(&self) -> [Be32; 2] {
        let [high, low, _, _] = self.ue;
        [high, low]
    }
}

/// An IPv4 user address behind a port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DownlinkKey4 {
    pub port: Port,
    pub ue: Be32,
}

/// An IPv6 user prefix (/64, as TS 23.501 §5.8.2.2 gives each PDU session) behind a port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DownlinkKey6 {
    pub port: Port,
    pub ue: [Be32; 2],
}

/// Flags of [`DownlinkEntry`].
pub mod downlink_flags {
    /// Put a PDU Session Container with `qfi` into the GTP-U header.
    pub const QFI: u8 = 1 << 0;
    /// Outer DSCP is copied from the inner header instead of `dscp`.
    pub const COPY_DSCP: u8 = 1 << 1;
    /// The session has rules, as [`super::uplink_flags::RULES`].
    pub const RULES: u8 = 1 << 2;
}

/// What to do with a packet to a user. Fits one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DownlinkEntry {
    /// A [`SessionAction`] as its number; unknown numbers count as `Drop`.
    pub action: u8,
    /// Bits of [`downlink_flags`].
    pub flags: u8,
    /// Index of the network, for its counters.
    pub network: u16,
    /// MAC of the endpoint: a frame to another one is not ours.
    pub mac: Mac,
    /// Outer DSCP, already shifted into the upper six bits.
    pub dscp: u8,
    /// QoS flow identifier, 0 … 63 (TS 38.415 §5.5.3.3).
    pub qfi: u8,
    /// The peer's TEID; its address is the next hop's.
    pub teid: Be32,
    /// Index of the tunnel to the peer; `NO_INDEX` for none.
    pub next_hop: u32,
    /// Index of the session's downlink counter.
    pub counter: u32,
    /// Largest inner packet in bytes; larger ones are `too-big`.
    pub mtu: u16,
    pub reserved0: u16,
    /// Index of the data endpoint, which speaks as the users' router.
    pub scope: u32,
    /// With [`downlink_flags::RULES`]: their set. In a rule: its PDR.
    pub rules: u32,
    pub reserved1: u32,
}

impl SessionAction {
    /// From an entry's number; a number that this version does not know is `Drop`.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Forward,
            2 => Self::Relay,
            3 => Self::Buffer,
            _ => Self::Drop,
        }
    }
}

const _: () = {
    assert!(size_of::<UplinkKey>() == 16);
    assert!(size_of::<UplinkKey6>() == 28);
    assert!(size_of::<UplinkEntry>() == 64);
    assert!(size_of::<DownlinkKey4>() == 12);
    assert!(size_of::<DownlinkKey6>() == 16);
    assert!(size_of::<DownlinkEntry>() == 40);
    assert!(size_of::<FramedKey>() == 24 && size_of::<FramedUser>() == 16);
};
