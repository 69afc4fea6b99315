//! GTP-U (TS 29.281) and the PDU Session Container (TS 38.415).

use super::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The registered port (TS 29.281 §4.4.2.3).
pub const PORT: Be16 = Be16::new(2152);

/// Message types (TS 29.281 §6.1).
pub mod message {
    pub const ECHO_REQUEST: u8 = 1;
    pub const ECHO_RESPONSE: u8 = 2;
    pub const ERROR_INDICATION: u8 = 26;
    pub const SUPPORTED_EXTENSION_HEADERS: u8 = 31;
    pub const END_MARKER: u8 = 254;
    pub const G_PDU: u8 = 255;
}

/// Extension header types (TS 29.281 §5.2.1).
pub mod extension {
    pub const NONE: u8 = 0;
    pub const PDU_SESSION_CONTAINER: u8 = 0x85;

    /// Whether a receiver that does not know the type must not go on (bits 8 and 7 are 10 or 11).
    #[inline(always)]
    pub const fn comprehension_required(kind: u8) -> bool {
        kind & 0x80 != 0
    }
}

/// Information elements of signalling messages (TS 29.281 §8.1).
pub mod element {
    pub const RECOVERY: u8 = 14;
    pub const TEID_DATA_I: u8 = 16;
    pub const PEER_ADDRESS: u8 = 133;
}

/// The mandatory part of the header (TS 29.281 §5.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gtpu {
    /// Version (3 bits), protocol type, spare, E, S, PN.
    pub flags: u8,
    pub message: u8,
    /// Bytes behind this mandatory part.
    pub length: Be16,
    pub teid: Be32,
}

impl Gtpu {
    pub const LEN: usize = size_of::<Self>();
    /// Version 1, protocol type GTP.
    pub const VERSION_1: u8 = 0x30;
    const VERSION_MASK: u8 = 0xf0;
    /// The sequence number means something.
    pub const S: u8 = 0x02;
    /// An extension header follows the optional part.
    pub const E: u8 = 0x04;
    /// Any of E, S and PN: the optional part is there, all four bytes of it.
    const OPTIONAL: u8 = 0x07;

    #[inline(always)]
    pub const fn is_version_1(&self) -> bool {
        self.flags & Self::VERSION_MASK == Self::VERSION_1
    }

    #[inline(always)]
    pub const fn has_optional(&self) -> bool {
        self.flags & Self::OPTIONAL != 0
    }

    #[inline(always)]
    pub const fn has_sequence(&self) -> bool {
        self.flags & Self::S != 0
    }

    #[inline(always)]
    pub const fn has_extension(&self) -> bool {
        self.flags & Self::E != 0
    }
}

/// The optional part: there if any of E, S and PN is set; what is not flagged is not evaluated.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GtpuOptional {
    pub sequence: Be16,
    pub n_pdu: u8,
    pub next_extension: u8,
}

impl GtpuOptional {
    pub const LEN: usize = size_of::<Self>();
}

/// The shortest PDU Session Container as an extension header (TS 38.415 §5.5.2, TS 29.281 §5.2.2.7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PduSessionContainer {
    /// Of the whole extension header, in units of 4 bytes.
    pub length: u8,
    /// PDU type in the upper four bits: 0 downlink, 1 uplink.
    pub pdu_type: u8,
    /// QFI in the lower six bits.
    pub qfi: u8,
    pub next_extension: u8,
}

impl PduSessionContainer {
    pub const LEN: usize = size_of::<Self>();
    pub const DOWNLINK: u8 = 0x00;
    pub const UPLINK: u8 = 0x10;
    /// QoS flow identifier (TS 38.415 §5.5.3.3).
    pub const QFI_MASK: u8 = 0x3f;
}

const _: () = assert!(Gtpu::LEN == 8 && GtpuOptional::LEN == 4 && PduSessionContainer::LEN == 4);
