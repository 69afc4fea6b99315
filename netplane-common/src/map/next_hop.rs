//! Next hops: what a pod's own namespace says of the way to a gateway or peer, as bytes.

use crate::wire::{Be32, ethernet::Mac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Whether a next hop can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NextHopState {
    /// Free, or the neighbour is not resolved: packets are `next-hop-unresolved`.
    Unresolved = 0,
    Resolved = 1,
}

/// The way out: an element of the next-hop array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NextHop {
    pub destination: Mac,
    pub source: Mac,
    /// Interface index of the master. Equal to where the packet came from: transmit back.
    pub ifindex: u32,
    /// Index of the master in the device map.
    pub port: u32,
    /// Largest IP packet in bytes on this way.
    pub mtu: u16,
    /// VLAN identifier, 0 for untagged.
    pub vlan: u16,
    /// A [`NextHopState`] as its number.
    pub state: u8,
    pub reserved: [u8; 3],
}

/// Key of the route trie of data endpoints: value is a next hop's index, or `NO_INDEX` for an on-link
/// subnet whose neighbour is not known. The kernel's `bpf_lpm_trie_key` puts the length in bits before
/// these bytes; the first 32 bits (scope) always count.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RouteKey {
    pub scope: u32,
    pub destination: Be32,
}

/// The addresses under which a data endpoint speaks as the users' router (ICMP); zero for none. The index
/// in their array is the endpoint's scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Router {
    pub address4: Be32,
    pub address6: [Be32; 4],
}

const _: () = assert!(size_of::<NextHop>() == 28 && size_of::<Router>() == 20);
