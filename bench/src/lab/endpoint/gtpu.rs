//! The few bytes of GTP-U version 1 that an endpoint needs (TS 29.281 §5, TS 38.415 §5.5.2).

use std::net::Ipv4Addr;

/// Version 1, protocol type GTP.
const FLAGS: u8 = 0x30;
const FLAG_EXTENSION: u8 = 0x04;
const FLAG_SEQUENCE: u8 = 0x02;
/// Any of E, S and PN: the four optional bytes are there (§5.1).
const OPTIONAL: u8 = 0x07;

const ECHO_REQUEST: u8 = 1;
const ECHO_RESPONSE: u8 = 2;
const G_PDU: u8 = 255;

const PDU_SESSION_CONTAINER: u8 = 0x85;
/// Information element Recovery (§8.2).
const RECOVERY: u8 = 14;

/// Bytes of the longest header that is sent: with a PDU Session Container.
pub(super) const HEADER_MAX: usize = 16;

/// Type of a PDU Session Container's frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum PduType {
    Downlink = 0,
    Uplink = 1,
}

/// The header of a G-PDU.
pub(super) struct Header {
    bytes: [u8; HEADER_MAX],
    length: usize,
}

impl Header {
    /// For a user packet of `packet_length` bytes.
    pub(super) fn new(teid: u32, container: Option<(PduType, u8)>, packet_length: usize) -> Self {
        let mut bytes = [0; HEADER_MAX];
        let length = if container.is_some() { 16 } else { 8 };
        bytes[0] = FLAGS;
        bytes[1] = G_PDU;
        // §5.1: what follows the first eight bytes.
        let following = u16::try_from(length - 8 + packet_length).unwrap_or(u16::MAX);
        bytes[2..4].copy_from_slice(&following.to_be_bytes());
        bytes[4..8].copy_from_slice(&teid.to_be_bytes());
        if let Some((pdu_type, qfi)) = container {
            bytes[0] |= FLAG_EXTENSION;
            bytes[11] = PDU_SESSION_CONTAINER;
            // One unit of four bytes: length, type, QFI, no next extension header.
            bytes[12..16].copy_from_slice(&[1, (pdu_type as u8) << 4, qfi & 0x3f, 0]);
        }
        Self { bytes, length }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A message as an endpoint sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    GPdu { teid: u32, packet: &'a [u8] },
    EchoRequest { sequence: [u8; 2] },
    Other,
    Malformed,
}

/// Reads a message. Extension headers are passed over.
pub(super) fn parse(bytes: &[u8]) -> Message<'_> {
    read(bytes).unwrap_or(Message::Malformed)
}

fn read(bytes: &[u8]) -> Option<Message<'_>> {
    let &[flags, kind, length0, length1, t0, t1, t2, t3, ..] = bytes else { return None };
    if flags & 0xf0 != FLAGS {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([length0, length1]));
    let mut rest = bytes.get(8..8 + length)?;
    let mut sequence = [0; 2];
    if flags & OPTIONAL != 0 {
        sequence = [*rest.first()?, *rest.get(1)?];
        let mut next = if flags & FLAG_EXTENSION == 0 { 0 } else { *rest.get(3)? };
        rest = rest.get(4..)?;
        while next != 0 {
            let size = usize::from(*rest.first()?) * 4;
            next = *rest.get(size.checked_sub(1)?)?;
            rest = rest.get(size..)?;
        }
    }
    Some(match kind {
        G_PDU => Message::GPdu { teid: u32::from_be_bytes([t0, t1, t2, t3]), packet: rest },
        ECHO_REQUEST => Message::EchoRequest { sequence },
        _ => Message::Other,
    })
}

/// The answer to an Echo Request: its sequence number, and Recovery with value 0 (§7.2.2).
pub(super) fn echo_response([high, low]: [u8; 2]) -> [u8; 14] {
    [FLAGS | FLAG_SEQUENCE, ECHO_RESPONSE, 0, 6, 0, 0, 0, 0, high, low, 0, 0, RECOVERY, 0]
}

/// Takes one from an IPv4 packet's TTL, with its checksum (RFC 1141); false if it is at its end.
pub(super) fn hop(packet: &mut [u8]) -> bool {
    let Some(header) = packet.get_mut(..20).filter(|header| header[0] >> 4 == 4 && header[8] > 1) else {
        return false;
    };
    header[8] -= 1;
    let sum = u32::from(u16::from_be_bytes([header[10], header[11]])) + 0x100;
    let folded = (sum + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&folded.to_be_bytes());
    true
}

/// Source of an IPv4 packet.
pub(super) fn source(packet: &[u8]) -> Option<Ipv4Addr> {
    address(packet, 12)
}

/// Destination of an IPv4 packet.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    address(packet, 16)
}

fn address(packet: &[u8], offset: usize) -> Option<Ipv4Addr> {
    let header = packet.get(..20).filter(|header| header[0] >> 4 == 4)?;
    Some(Ipv4Addr::new(header[offset], header[offset + 1], header[offset + 2], header[offset + 3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_the_specification_draws_it() {
        let plain = Header::new(0x1001, None, 84);
        assert_eq!(plain.bytes(), [0x30, 255, 0, 84, 0, 0, 0x10, 1]);
        let with_qfi = Header::new(0x1001, Some((PduType::Uplink, 9)), 84);
        let expected = [0x34, 255, 0, 92, 0, 0, 0x10, 1, 0, 0, 0, 0x85, 1, 0x10, 9, 0];
        assert_eq!(with_qfi.bytes(), expected);
    }

    #[test]
    fn what_is_sent_can_be_read() {
        for container in [None, Some((PduType::Downlink, 5))] {
            let message = [Header::new(7, container, 3).bytes(), b"abc"].concat();
            assert_eq!(parse(&message), Message::GPdu { teid: 7, packet: b"abc" });
        }
    }

    #[test]
    fn a_chain_of_extension_headers_is_passed_over() {
        let header = [0x34, 255, 0, 4 + 4 + 8 + 1, 0, 0, 0, 7, 0, 0, 0, 0x85, 1, 0, 9, 0xc0];
        let message = [&header[..], &[2, 0, 0, 0, 0, 0, 0, 0], b"x"].concat();
        assert_eq!(parse(&message), Message::GPdu { teid: 7, packet: b"x" });
    }

    #[test]
    fn an_echo_request_is_known_and_answered() {
        assert_eq!(
            parse(&[0x32, 1, 0, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0]),
            Message::EchoRequest { sequence: [0x12, 0x34] }
        );
        assert_eq!(echo_response([0x12, 0x34]), [0x32, 2, 0, 6, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 14, 0]);
    }

    #[test]
    fn a_hop_keeps_the_checksum_right() {
        let sum = |header: &[u8]| {
            let words = header.chunks_exact(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
            let sum: u32 = words.sum();
            (sum >> 16) + (sum & 0xffff)
        };
        for id in 0..=u16::MAX {
            let mut header = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 60, 0, 1, 10, 50, 0, 1];
            header[4..6].copy_from_slice(&id.to_be_bytes());
            let checksum = !(sum(&header) as u16);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert!(hop(&mut header));
            assert_eq!((header[8], sum(&header)), (63, 0xffff), "{id}");
        }
        assert!(!hop(&mut [0x45, 0, 0, 20, 0, 0, 0, 0, 1, 17, 0, 0, 10, 60, 0, 1, 10, 50, 0, 1]));
    }

    #[test]
    fn contradictions_are_malformed() {
        let too_long: &[u8] = &[0x30, 255, 0, 9, 0, 0, 0, 7, 1];
        let zero_extension: &[u8] = &[0x34, 255, 0, 8, 0, 0, 0, 7, 0, 0, 0, 0x85, 0, 0, 0, 0];
        let version_2: &[u8] = &[0x50, 255, 0, 0, 0, 0, 0, 7];
        for message in [too_long, zero_extension, version_2, &[0x30]] {
            assert_eq!(parse(message), Message::Malformed, "{message:?}");
        }
    }
}
