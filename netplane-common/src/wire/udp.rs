//! UDP (RFC 768).

use super::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The UDP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Udp {
    pub source: Be16,
    pub destination: Be16,
    /// Header and payload in bytes.
    pub length: Be16,
    /// Zero: not computed.
    pub checksum: Be16,
}

impl Udp {
    pub const LEN: usize = size_of::<Self>();
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 6;
}

const _: () = assert!(Udp::LEN == 8);
