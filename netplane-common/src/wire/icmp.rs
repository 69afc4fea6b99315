//! ICMP (RFC 792, 1191) and ICMPv6 (RFC 4443) errors: what a router says of a packet that it does not
//! forward.

use super::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol numbers (IANA).
pub const PROTOCOL_V4: u8 = 1;
pub const PROTOCOL_V6: u8 = 58;

/// The header of an error; the start of the packet that it is about comes behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IcmpError {
    pub kind: u8,
    pub code: u8,
    pub checksum: Be16,
    /// The MTU of the next hop where the packet was too big, else zero.
    pub mtu: Be32,
}

impl IcmpError {
    pub const LEN: usize = size_of::<Self>();
}

/// Types and codes of ICMP.
pub mod v4 {
    pub const DESTINATION_UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Code of `DESTINATION_UNREACHABLE`.
    pub const FRAGMENTATION_NEEDED: u8 = 4;

    /// Whether a message of this type is an error itself: never answered by another one (RFC 1122 §3.2.2).
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// Types of ICMPv6.
pub mod v6 {
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    /// Types below this are errors (RFC 4443 §2.1).
    const FIRST_INFORMATIONAL: u8 = 128;

    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        kind < FIRST_INFORMATIONAL
    }
}

const _: () = assert!(IcmpError::LEN == 8);
