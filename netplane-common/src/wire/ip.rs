//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use super::{Be16, Be32, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol numbers (IANA) that the decision looks at.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const SCTP: u8 = 132;
}

/// Explicit congestion notification, the lower two bits of the traffic class (RFC 3168 §5).
pub mod ecn {
    pub const MASK: u8 = 0b11;
    pub const NOT_ECT: u8 = 0b00;
    /// Congestion experienced.
    pub const CE: u8 = 0b11;
}

/// The IPv4 header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4 {
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Header and payload in bytes.
    pub total_length: Be16,
    pub identification: Be16,
    /// Flags (3 bits) and fragment offset (13 bits).
    pub fragment: Be16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: Be16,
    pub source: Be32,
    pub destination: Be32,
}

impl Ipv4 {
    pub const LEN: usize = size_of::<Self>();
    /// Version 4, five words: no options.
    pub const VERSION_IHL: u8 = 0x45;
    /// Don't fragment.
    pub const DF: Be16 = Be16::new(0x4000);
    /// More fragments, or an offset: part of a fragmented packet.
    const FRAGMENT: Be16 = Be16::new(0x3fff);

    /// Header length in bytes as the header says, 0 … 60.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) << 2
    }

    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.raw() & Self::FRAGMENT.raw() != 0
    }

    /// The checksum of a header without options; the stored one does not count.
    #[inline(always)]
    pub const fn compute_checksum(&self) -> Be16 {
        let first = u16::from_ne_bytes([self.version_ihl, self.tos]);
        let fifth = u16::from_ne_bytes([self.ttl, self.protocol]);
        let sum = first as u32
            + self.total_length.raw() as u32
            + self.identification.raw() as u32
            + self.fragment.raw() as u32
            + fifth as u32
            + checksum::halves(self.source.raw())
            + checksum::halves(self.destination.raw());
        Be16::from_raw(checksum::finish(sum))
    }

    /// The header one hop further: TTL down by one, checksum to match.
    #[inline(always)]
    pub const fn next_hop(mut self) -> Self {
        let old = Be16::from_raw(u16::from_ne_bytes([self.ttl, self.protocol]));
        self.ttl = self.ttl.wrapping_sub(1);
        let new = Be16::from_raw(u16::from_ne_bytes([self.ttl, self.protocol]));
        self.checksum = checksum::replace(self.checksum, old, new);
        self
    }

    /// The header with other ECN bits, checksum to match.
    #[inline(always)]
    pub const fn with_ecn(mut self, ecn: u8) -> Self {
        let old = Be16::from_raw(u16::from_ne_bytes([self.version_ihl, self.tos]));
        self.tos = (self.tos & !ecn::MASK) | ecn;
        let new = Be16::from_raw(u16::from_ne_bytes([self.version_ihl, self.tos]));
        self.checksum = checksum::replace(self.checksum, old, new);
        self
    }
}

/// The IPv6 fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: Be32,
    /// Bytes behind this header.
    pub payload_length: Be16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [Be32; 4],
    pub destination: [Be32; 4],
}

impl Ipv6 {
    pub const LEN: usize = size_of::<Self>();

    /// DSCP (6 bits) and ECN (2 bits).
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The header with other ECN bits.
    #[inline(always)]
    pub const fn with_ecn(mut self, ecn: u8) -> Self {
        let word = self.version_class_flow.get() & !((ecn::MASK as u32) << 20);
        self.version_class_flow = Be32::new(word | ((ecn as u32) << 20));
        self
    }
}

/// The /64 of an IPv6 address.
#[inline(always)]
pub const fn prefix64(address: &[Be32; 4]) -> [Be32; 2] {
    let [a, b, _, _] = *address;
    [a, b]
}

const _: () = assert!(Ipv4::LEN == 20 && Ipv6::LEN == 40);

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Ipv4 {
        let mut header = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            tos: 0xb9,
            total_length: Be16::new(1400),
            identification: Be16::new(0x1234),
            fragment: Ipv4::DF,
            ttl: 64,
            protocol: protocol::UDP,
            checksum: Be16::new(0),
            source: Be32::new(0x0a3c_0001),
            destination: Be32::new(0x0a32_0001),
        };
        header.checksum = header.compute_checksum();
        header
    }

    #[test]
    fn incremental_updates_agree_with_a_full_computation() {
        for ttl in 1..=255 {
            let mut before = Ipv4 { ttl, ..header() };
            before.checksum = before.compute_checksum();
            let after = before.next_hop();
            assert_eq!(after.ttl, ttl - 1);
            assert_eq!(after.checksum, after.compute_checksum());
            let marked = after.with_ecn(ecn::CE);
            assert_eq!(marked.tos, 0xbb);
            assert_eq!(marked.checksum, marked.compute_checksum());
        }
    }

    #[test]
    fn fragments_are_known_by_flag_or_offset() {
        let with = |fragment| Ipv4 { fragment: Be16::new(fragment), ..header() }.is_fragment();
        assert!(!with(0x4000));
        assert!(!with(0x0000));
        assert!(with(0x2000));
        assert!(with(0x00b9));
    }

    #[test]
    fn ecn_of_ipv6_leaves_the_rest() {
        let header = Ipv6 {
            version_class_flow: Be32::new(0x6b91_2345),
            payload_length: Be16::new(0),
            next_header: 0,
            hop_limit: 64,
            source: [Be32::default(); 4],
            destination: [Be32::default(); 4],
        };
        assert_eq!(header.traffic_class(), 0xb9);
        assert_eq!(header.with_ecn(ecn::CE).version_class_flow, Be32::new(0x6bb1_2345));
    }
}
