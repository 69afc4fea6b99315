//! Headers as they are on the wire. Multi-byte fields are [`Be16`] and [`Be32`], so that a value in
//! network byte order cannot be taken for a number.
//!
//! The types have the natural alignment of their fields, not 1: on BPF an access of alignment 1 is
//! compiled to byte loads, which would cost several instructions a field. Frames copy them out of
//! and into packets, so that no reference to an unaligned field ever exists.

pub mod checksum;
pub mod ethernet;
pub mod gtpu;
pub mod icmp;
pub mod ip;
pub mod udp;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What may be read from and written to a frame: plain bytes, every pattern valid, no padding.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Wire for T {}

macro_rules! big_endian {
    ($name:ident, $int:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(
            Clone,
            Copy,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            FromBytes,
            IntoBytes,
            Immutable,
            KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name($int);

        impl $name {
            /// From a number in host byte order.
            #[inline(always)]
            pub const fn new(value: $int) -> Self {
                Self(value.to_be())
            }

            /// The number in host byte order.
            #[inline(always)]
            pub const fn get(self) -> $int {
                <$int>::from_be(self.0)
            }

            /// The stored bits, for sums that do not care for byte order.
            #[inline(always)]
            pub const fn raw(self) -> $int {
                self.0
            }

            /// From bits that are in network byte order already.
            #[inline(always)]
            pub const fn from_raw(raw: $int) -> Self {
                Self(raw)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.get())
            }
        }
    };
}

big_endian!(Be16, u16, "A 16-bit number in network byte order.");
big_endian!(Be32, u32, "A 32-bit number in network byte order; also an IPv4 address or a TEID.");

impl From<core::net::Ipv4Addr> for Be32 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self::new(address.to_bits())
    }
}

impl From<Be32> for core::net::Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from_bits(address.get())
    }
}
