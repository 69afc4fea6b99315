//! Next hops: what a pod's own namespace says of the way to a gateway or peer, as bytes. Neighbours, routes
//! and link addresses are only here: when they change, an element is written and no session.

use crate::wire::{Be32, ethernet::Mac, ip};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Whether a next hop can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NextHopState {
    /// Free, or the neighbour is not resolved: packets are `next-hop-unresolved`.
    Unresolved = 0,
    Resolved = 1,
    /// Resolved, and a pod of this node under the same master: nothing that leaves by the master reaches it.
    Local = 2,
}

/// Flags of [`NextHop`].
pub mod next_hop_flags {
    /// Local and peer are IPv6 addresses.
    pub const IPV6: u8 = 1 << 0;
    /// The outer UDP checksum is computed instead of zero.
    pub const UDP_CHECKSUM: u8 = 1 << 1;
    /// The outer source port is from the inner flow's hash instead of 2152.
    pub const FLOW_SOURCE_PORT: u8 = 1 << 2;
    /// Default way: [`LookedUp`](super::LookedUp) says which destinations do not take it.
    pub const LOOK_UP: u8 = 1 << 3;
}

/// The way out: an element of the next-hop array, one cache line. To a neighbour of a data network, or to a
/// GTP-U peer: `way` is what sessions need to know beyond the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NextHop {
    /// Destination MAC and two bytes of the source, in the order of the wire. The kernel writes map values by
    /// words of eight bytes: a packet that looks while a neighbour changes sees the old MAC or the new one,
    /// never half of each, as long as it reads this word at once.
    pub macs: u64,
    /// The other four bytes of the source.
    pub macs_rest: u32,
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
    /// Bits of [`next_hop_flags`].
    pub flags: u8,
    pub reserved: u16,
    /// Default way of a data endpoint: its index in the route trie's keys and among the routers.
    pub scope: u32,
    /// Tunnel: local and peer address (IPv4 in the first word of each half). Default way: a [`LookedUp`].
    pub way: [Be32; 8],
}

/// Destinations that do not take a data endpoint's default way without a look at the route trie: those for
/// which `destination & mask == prefix`, IPv6 by its first 64 bits, IPv4 in the first word. So the common
/// pod (one subnet, one gateway) pays for the trie only when a user talks to a host on the data network's own
/// subnet. All zero: all are looked up; [`next_hop_flags::LOOK_UP`] says whether any are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookedUp {
    pub prefix: [Be32; 2],
    pub mask: [Be32; 2],
}

impl NextHop {
    /// The value of `macs` and `macs_rest`.
    pub const fn macs(destination: Mac, source: Mac) -> (u64, u32) {
        let [a, b, c, d, e, f] = destination.octets();
        let [g, h, i, j, k, l] = source.octets();
        (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes([i, j, k, l]))
    }

    pub const fn destination(&self) -> Mac {
        let [a, b, c, d, e, f, _, _] = self.macs.to_ne_bytes();
        Mac::new([a, b, c, d, e, f])
    }

    pub const fn source(&self) -> Mac {
        let [_, _, _, _, _, _, g, h] = self.macs.to_ne_bytes();
        let [i, j, k, l] = self.macs_rest.to_ne_bytes();
        Mac::new([g, h, i, j, k, l])
    }

    /// Whether packets can go there: out by the master, or, if it [is local](Self::is_local), into it.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.is_on_wire() || self.is_local()
    }

    /// Whether it is reached by the master's wire.
    #[inline(always)]
    pub const fn is_on_wire(&self) -> bool {
        self.state == NextHopState::Resolved as u8
    }

    /// Whether it is a pod under the master.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.state == NextHopState::Local as u8
    }

    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a destination is looked up, on a data endpoint's default way.
    #[inline(always)]
    pub const fn looks_up4(&self, destination: Be32) -> bool {
        self.has(next_hop_flags::LOOK_UP) && destination.raw() & self.way[2].raw() == self.way[0].raw()
    }

    #[inline(always)]
    pub const fn looks_up6(&self, destination: &[Be32; 4]) -> bool {
        let [a, b, c, d, ..] = self.way;
        self.has(next_hop_flags::LOOK_UP)
            && ip::matches64(&[destination[0], destination[1]], &[a, b], &[c, d])
    }

    /// The outer IPv4 addresses of a tunnel: local, peer.
    #[inline(always)]
    pub const fn tunnel4(&self) -> (Be32, Be32) {
        (self.way[0], self.way[4])
    }

    /// The outer IPv6 addresses of a tunnel: local, peer.
    #[inline(always)]
    pub const fn tunnel6(&self) -> ([Be32; 4], [Be32; 4]) {
        let [a, b, c, d, e, f, g, h] = self.way;
        ([a, b, c, d], [e, f, g, h])
    }

    /// `way` of a default way.
    pub const fn default_way(looked_up: LookedUp) -> [Be32; 8] {
        let LookedUp { prefix: [a, b], mask: [c, d] } = looked_up;
        let zero = Be32::from_raw(0);
        [a, b, c, d, zero, zero, zero, zero]
    }

    /// `way` of a tunnel over IPv4.
    pub const fn way4(local: Be32, peer: Be32) -> [Be32; 8] {
        let zero = Be32::from_raw(0);
        [local, zero, zero, zero, peer, zero, zero, zero]
    }

    /// `way` of a tunnel over IPv6; with [`next_hop_flags::IPV6`].
    pub const fn way6(local: [Be32; 4], peer: [Be32; 4]) -> [Be32; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (local, peer);
        [a, b, c, d, e, f, g, h]
    }
}

/// A pair of devices without offloads: what the kernel sends into the one comes out of the other as on a wire,
/// not merged and with finished checksums. Interface indices, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OffloadWire {
    pub near: u32,
    pub far: u32,
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
    /// IPv4 as IPv4-mapped ([`ip::mapped`]).
    pub destination: [Be32; 4],
}

/// The addresses under which a data endpoint speaks as the users' router (ICMP); zero for none. The index
/// in their array is the endpoint's scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Router {
    pub address4: Be32,
    pub address6: [Be32; 4],
}

const _: () = assert!(size_of::<NextHop>() == 64 && size_of::<Router>() == 20 && size_of::<RouteKey>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_in_the_order_of_the_wire() {
        let (destination, source) = (Mac::new([1, 2, 3, 4, 5, 6]), Mac::new([7, 8, 9, 10, 11, 12]));
        let (macs, macs_rest) = NextHop::macs(destination, source);
        let next_hop = NextHop { macs, macs_rest, ..NextHop::default() };
        assert_eq!((next_hop.destination(), next_hop.source()), (destination, source));
        assert_eq!(next_hop.as_bytes()[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn what_is_looked_up() {
        let with =
            |flags, looked_up| NextHop { flags, way: NextHop::default_way(looked_up), ..NextHop::default() };
        let address6 = |subnet| [Be32::new(0x2001_0db8), Be32::new(subnet), Be32::new(1), Be32::new(2)];
        let none = with(0, LookedUp::default());
        assert!(!none.looks_up4(Be32::new(7)) && !none.looks_up6(&address6(5)));
        let all = with(next_hop_flags::LOOK_UP, LookedUp::default());
        assert!(all.looks_up4(Be32::new(7)) && all.looks_up6(&address6(5)));
        let prefix = [Be32::new(0x2001_0db8), Be32::new(5)];
        let subnet = with(next_hop_flags::LOOK_UP, LookedUp { prefix, mask: [Be32::new(u32::MAX); 2] });
        assert!(subnet.looks_up6(&address6(5)) && !subnet.looks_up6(&address6(6)));
        let prefix = [Be32::new(0x0a28_0000), Be32::new(0)];
        let mask = [Be32::new(0xffff_ff00), Be32::new(0)];
        let subnet = with(next_hop_flags::LOOK_UP, LookedUp { prefix, mask });
        assert!(subnet.looks_up4(Be32::new(0x0a28_0009)) && !subnet.looks_up4(Be32::new(0x0a28_0109)));
    }
}
