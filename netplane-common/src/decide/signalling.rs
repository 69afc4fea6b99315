//! GTP-U messages that netplane answers itself where the network's metadata says so: Echo Request, and a
//! G-PDU for a tunnel that nobody knows (TS 29.281 §7.2, §7.3.1).

use super::Way;
use super::outer::Received;
use super::uplink::Request;
use crate::frame::Frame;
use crate::rewrite;
use crate::tables::Tables;
use crate::wire::ethernet::{Ethernet, VlanTag};
use crate::wire::gtpu::{self, Gtpu, GtpuOptional, element, message};
use crate::wire::ip::Ipv6;
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32, Wire};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The headers of an answer behind its IP header. Sequence numbers are always there (§5.1: S is 1 in these
/// messages).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Headers {
    udp: Udp,
    gtpu: Gtpu,
    optional: GtpuOptional,
}

const HEADERS: usize = size_of::<Headers>();

/// Recovery, whose value means nothing in GTP-U (§8.2).
const RECOVERY: [u8; 2] = [element::RECOVERY, 0];

/// Tunnel Endpoint Identifier Data I (§8.3), and GTP-U Peer Address (§8.4) without the address.
const ERROR_ELEMENTS: usize = 5 + 3;

/// Echo Response: from the port and address that were asked, to the port and address that asked (§4.4.2.2).
#[inline(always)]
pub(super) fn echo<F: Frame, O: Received>(frame: &mut F, packet: &Request<O>) -> Way {
    answer_echo(frame, packet).map_or(Way::NONE, |()| Way::BACK)
}

#[inline(always)]
fn answer_echo<F: Frame, O: Received>(frame: &mut F, packet: &Request<O>) -> Option<()> {
    if !is_whole(frame, packet) {
        return None;
    }
    let mut sequence = Be16::new(0);
    if packet.gtpu.has_optional() {
        // Part of the message, and not what happens to lie behind it.
        if usize::from(packet.gtpu.length.get()) < GtpuOptional::LEN {
            return None;
        }
        let optional: GtpuOptional = frame.load(packet.at + Gtpu::LEN)?;
        // Without the flag the field means nothing (§5.1).
        if packet.gtpu.has_sequence() {
            sequence = optional.sequence;
        }
    }
    turn_around(frame, packet.arrival.l3, O::LEN + HEADERS + RECOVERY.len())?;
    let answer = Answer { message: message::ECHO_RESPONSE, sequence, to: packet.udp.source };
    let at = headers(frame, packet, answer, RECOVERY.len())?;
    frame.store(at, RECOVERY)?;
    checked(frame, packet)
}

/// Whether all lengths and the frame agree.
#[inline(always)]
fn is_whole<F: Frame, O: Received>(frame: &F, packet: &Request<O>) -> bool {
    let udp_length = Udp::LEN + Gtpu::LEN + usize::from(packet.gtpu.length.get());
    usize::from(packet.udp.length.get()) == udp_length
        && packet.outer.carries(udp_length)
        && frame.reaches(packet.at - Udp::LEN + udp_length)
}

/// Error Indication for a tunnel that nobody knows. Never for TEID 0 or a packet whose lengths disagree, and
/// never more of them than the tables allow.
#[inline(always)]
pub(super) fn error_indication<F: Frame, T: Tables, O: Received>(
    frame: &mut F,
    tables: &T,
    packet: &Request<O>,
) -> Way {
    if packet.gtpu.teid.raw() == 0 || !is_whole(frame, packet) || !tables.may_answer() {
        return Way::NONE;
    }
    indicate(frame, packet).map_or(Way::NONE, |()| Way::BACK)
}

#[inline(always)]
fn indicate<F: Frame, O: Received>(frame: &mut F, packet: &Request<O>) -> Option<()> {
    // The address at which the tunnel was looked for.
    let local = packet.outer.destination();
    if O::LEN == Ipv6::LEN {
        with_address(frame, packet, local)
    } else {
        with_address(frame, packet, local[3])
    }
}

#[inline(always)]
fn with_address<F: Frame, O: Received, A: Wire>(frame: &mut F, packet: &Request<O>, local: A) -> Option<()> {
    let elements = ERROR_ELEMENTS + size_of::<A>();
    turn_around(frame, packet.arrival.l3, O::LEN + HEADERS + elements)?;
    // To the registered port, whatever port the G-PDU came from (§4.4.2.4).
    let answer = Answer { message: message::ERROR_INDICATION, sequence: Be16::new(0), to: gtpu::PORT };
    let at = headers(frame, packet, answer, elements)?;
    frame.store(at, element::TEID_DATA_I)?;
    frame.store(at + 1, packet.gtpu.teid)?;
    frame.store(at + 5, [element::PEER_ADDRESS, 0, size_of::<A>() as u8])?;
    frame.store(at + ERROR_ELEMENTS, local)?;
    checked(frame, packet)
}

/// Gives the frame `length` bytes behind its link header, all to be written, and turns that around. It grows
/// to the front: there drivers promise room, behind the frame they do not.
#[inline(always)]
fn turn_around<F: Frame>(frame: &mut F, l3: usize, length: usize) -> Option<()> {
    let ethernet: Ethernet = frame.load(0)?;
    let tag: Option<VlanTag> = if l3 > Ethernet::LEN { frame.load(Ethernet::LEN) } else { None };
    let (old, new) = (frame.len(), l3 + length);
    if new > old {
        frame.move_head((new - old) as isize)?;
    } else {
        frame.truncate(new)?;
    }
    frame.store(0, ethernet.turned())?;
    match tag {
        Some(tag) => frame.store(Ethernet::LEN, tag),
        None => Some(()),
    }
}

/// What tells answers apart.
#[derive(Clone, Copy)]
struct Answer {
    message: u8,
    sequence: Be16,
    /// UDP port.
    to: Be16,
}

/// Writes all headers of an answer. Returns the offset of its elements.
#[inline(always)]
fn headers<F: Frame, O: Received>(
    frame: &mut F,
    packet: &Request<O>,
    answer: Answer,
    elements: usize,
) -> Option<usize> {
    let udp_length = (HEADERS + elements) as u16;
    let headers = Headers {
        udp: Udp {
            source: gtpu::PORT,
            destination: answer.to,
            length: Be16::new(udp_length),
            checksum: Be16::new(0),
        },
        gtpu: Gtpu {
            flags: Gtpu::VERSION_1 | Gtpu::S,
            message: answer.message,
            length: Be16::new((GtpuOptional::LEN + elements) as u16),
            teid: Be32::new(0),
        },
        optional: GtpuOptional { sequence: answer.sequence, n_pdu: 0, next_extension: gtpu::extension::NONE },
    };
    let l3 = packet.arrival.l3;
    frame.store(l3, packet.outer.answer(udp_length))?;
    frame.store(l3 + O::LEN, headers)?;
    Some(l3 + O::LEN + HEADERS)
}

/// A UDP checksum where IPv6 asks for one; over IPv4 signalling has none, as G-PDUs have.
#[inline(always)]
fn checked<F: Frame, O: Received>(frame: &mut F, packet: &Request<O>) -> Option<()> {
    if O::LEN != Ipv6::LEN {
        return Some(());
    }
    let udp = packet.arrival.l3 + O::LEN;
    let length: Udp = frame.load(udp)?;
    // The answer's addresses are the request's, the other way round: the same sum.
    rewrite::store_udp_checksum(frame, udp, length.length, &packet.outer)
}
