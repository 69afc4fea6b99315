//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use super::{Be16, Be32, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol numbers (IANA) that the decision looks at.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const SCTP: u8 = 132;
    pub const UDP_LITE: u8 = 136;
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

    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

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

/// The IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2): the key of tables that hold both families.
#[inline(always)]
pub const fn mapped(address: Be32) -> [Be32; 4] {
    [Be32::from_raw(0), Be32::from_raw(0), Be32::new(0xffff), address]
}

/// The same for an address of either family.
pub fn mapped_address(address: core::net::IpAddr) -> [Be32; 4] {
    match address {
        core::net::IpAddr::V4(address) => mapped(address.into()),
        core::net::IpAddr::V6(address) => words(address),
    }
}

/// An IPv6 address as headers have it.
pub fn words(address: core::net::Ipv6Addr) -> [Be32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| Be32::new((bits >> shift) as u32))
}

/// The address behind [`mapped_address`].
pub fn unmapped(words: [Be32; 4]) -> core::net::IpAddr {
    let bits = words.iter().fold(0_u128, |bits, word| bits << 32 | u128::from(word.get()));
    core::net::Ipv6Addr::from_bits(bits).to_canonical()
}

/// Whether the first 64 bits of an IPv6 address are in a prefix of at most that length.
#[inline(always)]
pub const fn matches64(address: &[Be32; 2], prefix: &[Be32; 2], mask: &[Be32; 2]) -> bool {
    let first = address[0].raw() & mask[0].raw() ^ prefix[0].raw();
    let second = address[1].raw() & mask[1].raw() ^ prefix[1].raw();
    first | second == 0
}

/// Whether routers leave an IPv4 destination alone: multicast, reserved and broadcast addresses, 224.0.0.0
/// and above (RFC 1812 §5.3.7).
#[inline(always)]
pub const fn is_not_routable4(destination: Be32) -> bool {
    destination.raw().to_ne_bytes()[0] >= 224
}

/// The same for IPv6: multicast and link-local addresses (RFC 4291 §2.5.6, §2.7).
#[inline(always)]
pub const fn is_not_routable6(destination: &[Be32; 4]) -> bool {
    let [a, b, _, _] = destination[0].raw().to_ne_bytes();
    a == 0xff || a == 0xfe && b & 0xc0 == 0x80
}

/// The /64 of an IPv6 address.
#[inline(always)]
pub const fn prefix64(address: &[Be32; 4]) -> [Be32; 2] {
    let [a, b, _, _] = *address;
    [a, b]
}

/// An IPv6 address in two registers, for functions that take no more.
#[inline(always)]
pub const fn halves(address: [Be32; 4]) -> (u64, u64) {
    let [a, b, c, d] = address;
    ((a.raw() as u64) << 32 | b.raw() as u64, (c.raw() as u64) << 32 | d.raw() as u64)
}

/// The address behind [`halves`].
#[inline(always)]
pub const fn words_of(high: u64, low: u64) -> [Be32; 4] {
    [
        Be32::from_raw((high >> 32) as u32),
        Be32::from_raw(high as u32),
        Be32::from_raw((low >> 32) as u32),
        Be32::from_raw(low as u32),
    ]
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
