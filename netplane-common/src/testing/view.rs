//! A frame taken apart by the standards, with the lengths that its own headers give and not with the
//! crate's wire types, so that one can check the other.

use super::packet::checksum;

pub(super) const ICMP: u8 = 1;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// An Ethernet header, with one VLAN tag or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) destination: &'a [u8],
    pub(super) source: &'a [u8],
    pub(super) vlan: u16,
    pub(super) ether_type: u16,
    pub(super) rest: &'a [u8],
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

impl<'a> Link<'a> {
    pub(super) fn read(frame: &'a [u8]) -> Option<Self> {
        let (mut vlan, mut ether_type, mut l3) = (0, be16(frame, 12)?, 14);
        if matches!(ether_type, 0x8100 | 0x88a8) {
            (vlan, ether_type, l3) = (be16(frame, 14)? & 0xfff, be16(frame, 16)?, 18);
        }
        let (destination, source) = (frame.get(..6)?, frame.get(6..12)?);
        Some(Self { destination, source, vlan, ether_type, rest: frame.get(l3..)? })
    }
}

/// An IP packet of either family: as long as its header says, which is no more than there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub(super) version: u8,
    /// DSCP and ECN.
    pub(super) class: u8,
    /// TTL or hop limit.
    pub(super) hops: u8,
    pub(super) protocol: u8,
    pub(super) is_fragment: bool,
    /// IPv4 as ::ffff:a.b.c.d.
    pub(super) source: u128,
    pub(super) destination: u128,
    pub(super) whole: &'a [u8],
    pub(super) header_len: usize,
}

/// An IPv4 address as IPv6 has it (RFC 4291 §2.5.5.2).
pub(super) fn mapped(address: u32) -> u128 {
    0xffff << 32 | u128::from(address)
}

impl<'a> Ip<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::read4(bytes),
            6 => Self::read6(bytes),
            _ => None,
        }
    }

    fn read4(bytes: &'a [u8]) -> Option<Self> {
        let header_len = usize::from(bytes[0] & 15) * 4;
        let total = usize::from(be16(bytes, 2)?);
        if header_len < 20 || total < header_len {
            return None;
        }
        let whole = bytes.get(..total)?;
        Some(Self {
            version: 4,
            class: whole[1],
            hops: whole[8],
            protocol: whole[9],
            is_fragment: be16(whole, 6)? & 0x3fff != 0,
            source: mapped(be32(whole, 12)?),
            destination: mapped(be32(whole, 16)?),
            whole,
            header_len,
        })
    }

    fn read6(bytes: &'a [u8]) -> Option<Self> {
        let whole = bytes.get(..40 + usize::from(be16(bytes, 4)?))?;
        let address = |at: usize| whole[at..at + 16].iter().fold(0, |sum, it| sum << 8 | u128::from(*it));
        Some(Self {
            version: 6,
            class: (be16(whole, 0)? >> 4) as u8,
            hops: whole[7],
            protocol: whole[6],
            is_fragment: false,
            source: address(8),
            destination: address(24),
            whole,
            header_len: 40,
        })
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        &self.whole[self.header_len..]
    }

    /// The sum of an IPv4 header; IPv6 has none.
    pub(super) fn sum_is_right(&self) -> bool {
        self.version == 6 || checksum(&self.whole[..self.header_len]) == 0
    }

    /// Whether the sum over the pseudo-header (RFC 768, RFC 8200 §8.1) and the payload comes out.
    pub(super) fn transport_sum_is_right(&self) -> bool {
        let length = (self.payload().len() as u32).to_be_bytes();
        let addresses = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        // ::ffff:0:0/96 adds ffff, which is zero in ones' complement.
        checksum(&[&addresses[..], &length, &[0, 0, 0, self.protocol], self.payload()].concat()) == 0
    }

    /// A UDP datagram whose length is that of the packet's payload.
    pub(super) fn udp(&self) -> Option<Udp<'a>> {
        let bytes = self.payload();
        let fits = self.protocol == UDP && usize::from(be16(bytes, 4)?) == bytes.len() && bytes.len() >= 8;
        let (source, destination, checksum) = (be16(bytes, 0)?, be16(bytes, 2)?, be16(bytes, 6)?);
        fits.then(|| Udp { source, destination, checksum, payload: &bytes[8..] })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Udp<'a> {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) checksum: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// A GTP-U message (TS 29.281 §5.1) that fills the datagram.
    pub(super) fn gtpu(&self) -> Option<Message<'a>> {
        let bytes = self.payload;
        let behind = bytes.get(8..)?;
        let fits = bytes[0] >> 4 == 3 && usize::from(be16(bytes, 2)?) == behind.len();
        let (flags, kind, teid) = (bytes[0], bytes[1], be32(bytes, 4)?);
        fits.then_some(Message { flags, kind, teid, behind })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) teid: u32,
    /// All that the length counts.
    pub(super) behind: &'a [u8],
}

impl<'a> Message<'a> {
    pub(super) fn sequence(&self) -> Option<u16> {
        if self.flags & 2 == 0 { None } else { be16(self.behind, 0) }
    }

    /// Of the first PDU Session Container (TS 38.415 §5.5.2).
    pub(super) fn qfi(&self) -> Option<u8> {
        let mut rest = self.behind.get(4..).filter(|_| self.flags & 4 != 0)?;
        let mut kind = self.behind[3];
        while kind != 0x85 {
            let len = usize::from(*rest.first().filter(|_| kind != 0)?) * 4;
            kind = *rest.get(len.checked_sub(1)?)?;
            rest = &rest[len..];
        }
        rest.get(2).map(|it| it & 0x3f)
    }

    /// What is behind the optional part and all extension headers (§5.2).
    pub(super) fn t_pdu(&self) -> Option<&'a [u8]> {
        if self.flags & 7 == 0 {
            return Some(self.behind);
        }
        let mut rest = self.behind.get(4..)?;
        let mut kind = if self.flags & 4 == 0 { 0 } else { self.behind[3] };
        while kind != 0 {
            let len = usize::from(*rest.first()?) * 4;
            kind = *rest.get(len.checked_sub(1)?)?;
            rest = &rest[len..];
        }
        Some(rest)
    }
}
