//! Endpoints: asked only where no session answers, so that the plain packet never pays for them.

use super::Port;
use crate::wire::{Be32, ethernet::Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An address of a pod on a fast-path network.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EndpointKey {
    pub port: Port,
    /// IPv4 as IPv4-mapped ([`crate::wire::ip::mapped`]).
    pub address: [Be32; 4],
}

/// What happens to a G-PDU for an endpoint with no session (`gtpu.unknownTeid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UnknownTeid {
    /// To the pod, which may know it.
    Pass = 0,
    /// Counted as `unknown-teid`.
    Drop = 1,
    /// The same, and the peer is told (TS 29.281 §7.3.1).
    ErrorIndication = 2,
}

/// Flags of [`EndpointEntry`].
pub mod endpoint_flags {
    /// The network has more peers than `peer`/`peer_mask` can say: look them up.
    pub const PEER_LIST: u8 = 1 << 0;
    /// Echo Requests are answered here and not by the pod.
    pub const ECHO: u8 = 1 << 1;
}

/// What the network's metadata says of packets that no session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EndpointEntry {
    /// An [`UnknownTeid`] as its number.
    pub unknown_teid: u8,
    /// Bits of [`endpoint_flags`].
    pub flags: u8,
    /// Index of the network, for its counters.
    pub network: u16,
    pub mac: Mac,
    pub reserved: u16,
    /// Outer sources allowed, as in [`super::UplinkEntry`].
    pub peer: [Be32; 2],
    pub peer_mask: [Be32; 2],
}

/// Key of the trie of allowed peers. The kernel's `bpf_lpm_trie_key` puts the length in bits before
/// these bytes; the first 32 bits (network) always count.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PeerKey {
    pub network: u32,
    /// IPv4 as IPv4-mapped.
    pub address: [Be32; 4],
}

/// A pod under a master that delivers to it by itself (macvlan in bridge mode): what answers its frames goes
/// there, and not out by the wire.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PodKey {
    /// Of the master.
    pub ifindex: u32,
    pub mac: Mac,
    reserved: u16,
}

impl PodKey {
    #[inline(always)]
    pub const fn new(ifindex: u32, mac: Mac) -> Self {
        Self { ifindex, mac, reserved: 0 }
    }
}

const _: () = {
    assert!(size_of::<EndpointKey>() == 24 && size_of::<EndpointEntry>() == 28);
    assert!(size_of::<PeerKey>() == 20);
};
