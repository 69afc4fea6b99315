//! Ethernet II (IEEE 802.3) and VLAN tags (IEEE 802.1Q).

use super::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A MAC address, kept as three half-words: frames are 2-byte aligned, and comparing three
/// half-words is cheaper on BPF than six bytes.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Mac([u16; 3]);

impl Mac {
    /// From the six octets in transmission order.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([octets[0], octets[1]]),
            u16::from_ne_bytes([octets[2], octets[3]]),
            u16::from_ne_bytes([octets[4], octets[5]]),
        ])
    }

    /// The six octets in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c] = self.0;
        let ([a0, a1], [b0, b1], [c0, c1]) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
        [a0, a1, b0, b1, c0, c1]
    }

    /// Words that [`Self::bit`] tells apart.
    pub const BIT_WORDS: u32 = 1 << 10;

    /// Where a set of MACs has this one: word and bit of it. Others share it.
    #[inline(always)]
    pub const fn bit(self) -> (u32, u64) {
        let [a, b, c] = self.0;
        let folded = (a ^ b ^ c) as u32;
        (folded >> 6, 1 << (folded & 63))
    }
}

impl core::fmt::Debug for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// EtherType (IEEE 802 numbers).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct EtherType(pub Be16);

impl EtherType {
    pub const IPV4: Self = Self(Be16::new(0x0800));
    pub const IPV6: Self = Self(Be16::new(0x86dd));
    /// Customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: Self = Self(Be16::new(0x8100));
    /// Service VLAN tag, IEEE 802.1ad.
    pub const QINQ: Self = Self(Be16::new(0x88a8));

    #[inline(always)]
    pub fn is_vlan(self) -> bool {
        self == Self::VLAN || self == Self::QINQ
    }
}

/// The Ethernet header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ether_type: EtherType,
}

impl Ethernet {
    pub const LEN: usize = size_of::<Self>();

    /// Back to where the frame came from.
    #[inline(always)]
    pub const fn turned(self) -> Self {
        Self { destination: self.source, source: self.destination, ether_type: self.ether_type }
    }
}

/// The four bytes that a VLAN tag puts behind the EtherType that announces it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub tci: Be16,
    pub ether_type: EtherType,
}

impl VlanTag {
    pub const LEN: usize = size_of::<Self>();

    /// The VLAN identifier, 0 … 4095.
    #[inline(always)]
    pub fn id(self) -> u16 {
        self.tci.get() & 0x0fff
    }
}

const _: () = assert!(Ethernet::LEN == 14 && VlanTag::LEN == 4);
