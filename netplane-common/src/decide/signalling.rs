//! GTP-U messages that netplane answers itself where the network's metadata says so: Echo Request, and a
//! G-PDU for a tunnel that nobody knows (TS 29.281 §7.2, §7.3.1). Not inlined, as in `icmp`.

use super::Way;
use super::uplink::GPdu;
use crate::frame::Frame;
use crate::rewrite;
use crate::tables::Tables;
use crate::wire::ethernet::{Ethernet, VlanTag};
use crate::wire::gtpu::{self, Gtpu, GtpuOptional, element, message};
use crate::wire::ip::Ipv4;
use crate::wire::udp::Udp;
use crate::wire::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The headers of an answer. Sequence numbers are always there (§5.1: S is 1 in these messages).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Headers {
    ip: Ipv4,
    udp: Udp,
    gtpu: Gtpu,
    optional: GtpuOptional,
}

const HEADERS: usize = size_of::<Headers>();

/// Recovery, whose value means nothing in GTP-U (§8.2).
const RECOVERY: [u8; 2] = [element::RECOVERY, 0];

/// Tunnel Endpoint Identifier Data I and GTP-U Peer Address (§8.3, §8.4).
const ERROR_ELEMENTS: usize = 5 + 7;

/// Echo Response: from the port and address that were asked, to the port and address that asked (§4.4.2.2).
#[inline(never)]
pub(super) fn echo<F: Frame>(frame: &mut F, packet: &GPdu) -> Way {
    answer_echo(frame, packet).map_or(Way::NONE, |()| Way::BACK)
}

#[inline(always)]
fn answer_echo<F: Frame>(frame: &mut F, packet: &GPdu) -> Option<()> {
    packet.end(frame).ok()?;
    let optional: Option<GtpuOptional> =
        if packet.gtpu.has_optional() { frame.load(packet.at + Gtpu::LEN) } else { None };
    // Without the flag the field means nothing (§5.1).
    let sequence = optional.filter(|_| packet.gtpu.has_sequence()).map_or(Be16::new(0), |it| it.sequence);
    let l3 = packet.arrival.l3;
    turn_around(frame, l3, HEADERS + RECOVERY.len())?;
    frame.store(l3, headers(packet, message::ECHO_RESPONSE, sequence, packet.udp.source, RECOVERY.len()))?;
    frame.store(l3 + HEADERS, RECOVERY)
}

/// Error Indication for a tunnel that nobody knows. Never for TEID 0, and never more of them than the
/// tables allow.
#[inline(never)]
pub(super) fn error_indication<F: Frame, T: Tables>(frame: &mut F, tables: &T, packet: &GPdu) -> Way {
    if packet.gtpu.teid.raw() == 0 || !tables.may_answer() {
        return Way::NONE;
    }
    indicate(frame, packet).map_or(Way::NONE, |()| Way::BACK)
}

#[inline(always)]
fn indicate<F: Frame>(frame: &mut F, packet: &GPdu) -> Option<()> {
    let l3 = packet.arrival.l3;
    turn_around(frame, l3, HEADERS + ERROR_ELEMENTS)?;
    // To the registered port, whatever port the G-PDU came from (§4.4.2.4).
    frame.store(l3, headers(packet, message::ERROR_INDICATION, Be16::new(0), gtpu::PORT, ERROR_ELEMENTS))?;
    let at = l3 + HEADERS;
    frame.store(at, element::TEID_DATA_I)?;
    frame.store(at + 1, packet.gtpu.teid)?;
    frame.store(at + 5, [element::PEER_ADDRESS, 0, size_of::<Be32>() as u8])?;
    // The address at which the tunnel was looked for.
    frame.store(at + 8, packet.outer.destination)
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

#[inline(always)]
fn headers(packet: &GPdu, message: u8, sequence: Be16, to: Be16, elements: usize) -> Headers {
    let length = |headers: usize| Be16::new((headers + elements) as u16);
    Headers {
        ip: rewrite::outer_ipv4(
            packet.outer.tos,
            length(HEADERS),
            packet.outer.destination,
            packet.outer.source,
        ),
        udp: Udp {
            source: gtpu::PORT,
            destination: to,
            length: length(HEADERS - Ipv4::LEN),
            checksum: Be16::new(0),
        },
        gtpu: Gtpu {
            flags: Gtpu::VERSION_1 | Gtpu::S,
            message,
            length: length(GtpuOptional::LEN),
            teid: Be32::new(0),
        },
        optional: GtpuOptional { sequence, n_pdu: 0, next_extension: gtpu::extension::NONE },
    }
}
