//! Sessions with rules: the first one that is for a packet says what is done with it, what it is measured by and
//! for whom it counts. From there on everything is as for other sessions.

use super::uplink::GPdu;
use super::{Arrival, downlink, not_forwarded, uplink};
use crate::frame::Frame;
use crate::map::{
    Buffered, DownlinkEntry, Filter, MAX_METERS, MAX_RULES, MAX_USAGES, NO_INDEX, Rule, RuleKey,
    SessionAction, UplinkEntry, filter_has, uplink_flags,
};
use crate::parse::{payload_offset, qfi};
use crate::tables::Tables;
use crate::verdict::{Packed, Reason};
use crate::wire::ip::{Ipv4, Ipv6, mapped, protocol};
use crate::wire::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is to be paid for a packet before it is rewritten, and when it has been.
pub(super) trait Dues: Copy {
    /// Whether a rule is for the packet.
    const OF_RULE: bool;

    /// Asked after all else: who pays is forwarded, unless there is no room.
    fn owe<T: Tables>(self, tables: &T, bytes: u32) -> Result<(), Reason>;
    fn paid<T: Tables>(self, tables: &T, bytes: u32);

    /// The bytes of a relayed packet that count, of those behind its GTP-U header.
    #[inline(always)]
    fn relayed(self, behind: u32) -> u32 {
        behind
    }
}

/// Of sessions without rules: nothing.
impl Dues for () {
    const OF_RULE: bool = false;

    #[inline(always)]
    fn owe<T: Tables>(self, _: &T, _: u32) -> Result<(), Reason> {
        Ok(())
    }

    #[inline(always)]
    fn paid<T: Tables>(self, _: &T, _: u32) {}
}

/// Of a rule: its meters and usages; and the bytes of the T-PDU.
#[derive(Clone, Copy)]
struct OfRule<'r, const UPLINK: bool>(&'r Rule, u32);

impl<const UPLINK: bool> Dues for OfRule<'_, UPLINK> {
    const OF_RULE: bool = true;

    #[inline(always)]
    fn owe<T: Tables>(self, tables: &T, bytes: u32) -> Result<(), Reason> {
        match owe(self.0, tables, bytes, UPLINK) {
            ADMITTED => Ok(()),
            USED_UP => Err(Reason::QuotaExhausted),
            _ => Err(Reason::RateExceeded),
        }
    }

    #[inline(always)]
    fn paid<T: Tables>(self, tables: &T, bytes: u32) {
        count(self.0, tables, bytes, UPLINK);
    }

    #[inline(always)]
    fn relayed(self, _: u32) -> u32 {
        self.1
    }
}

const ADMITTED: u32 = 0;
const USED_UP: u32 = 1;
const TOO_FAST: u32 = 2;

/// Functions of their own: each is in a program once, whatever packets it forwards.
#[inline(never)]
fn owe<T: Tables>(rule: &Rule, tables: &T, bytes: u32, is_uplink: bool) -> u32 {
    for n in 0..MAX_USAGES {
        let is_limited = n < usize::from(rule.n_usages) && rule.limited & 1 << n != 0;
        if is_limited && tables.is_used_up(&rule.usages[n], is_uplink) {
            return USED_UP;
        }
    }
    // All are asked before any is charged: what one refuses costs nothing of another.
    for take in [false, true] {
        for n in 0..MAX_METERS {
            if n < usize::from(rule.n_meters) && !tables.meter(&rule.meters[n], bytes, take) {
                return TOO_FAST;
            }
        }
    }
    ADMITTED
}

#[inline(never)]
fn count<T: Tables>(rule: &Rule, tables: &T, bytes: u32, is_uplink: bool) {
    for n in 0..MAX_USAGES {
        if n < usize::from(rule.n_usages) {
            tables.count_usage(&rule.usages[n], bytes, is_uplink, rule.limited & 1 << n != 0);
        }
    }
}

/// A G-PDU of a session with rules.
#[inline(always)]
pub(super) fn uplink<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &UplinkEntry,
    packet: GPdu,
) -> Packed {
    let at = match payload_offset(frame, packet.at, packet.gtpu) {
        Ok(at) => frame.opaque(at, arrival.port.ifindex),
        Err(reason) => return not_forwarded(entry.network, reason),
    };
    // A chain that goes on behind the message's end says nothing of a packet in it.
    if at > packet.end() {
        return not_forwarded(entry.network, Reason::Malformed);
    }
    let looks = entry.flags & uplink_flags::CHECK_QFI != 0;
    let qfi = if looks { qfi(frame, packet.at, packet.gtpu) } else { None };
    let qfi = qfi.map_or(0, |it| 1 << (it & 0x3f));
    let Some(rule) = find(frame, tables, entry.rules, place(at, packet.end()), qfi) else {
        return not_forwarded(entry.network, Reason::NoRule);
    };
    let t_pdu = (packet.end() as u32).wrapping_sub(at as u32);
    match uplink::session(frame, tables, arrival, &rule.uplink, packet, OfRule::<true>(rule, t_pdu)) {
        Ok(verdict) => verdict,
        Err(reason) => uplink::refused(frame, tables, arrival, entry, reason),
    }
}

/// A packet to a user whose session has rules.
#[inline(always)]
pub(super) fn downlink<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    arrival: Arrival,
    entry: &DownlinkEntry,
    user: downlink::User,
) -> Packed {
    let end = arrival.l3 + usize::from(user.total_length);
    let Some(rule) = find(frame, tables, entry.rules, place(arrival.l3, end), 0) else {
        return not_forwarded(entry.network, Reason::NoRule);
    };
    if rule.downlink.action == SessionAction::Buffer as u8 && !goes_on(frame, &rule.downlink) {
        let about = Buffered {
            ifindex: arrival.port.ifindex,
            counter: entry.counter,
            pdr: rule.downlink.rules,
            len: 0,
            network: entry.network,
            vlan: 0,
        };
        return if frame.keep(&about) {
            Packed::BUFFERED
        } else {
            not_forwarded(entry.network, Reason::NotBuffered)
        };
    }
    match downlink::forward(frame, tables, arrival, &rule.downlink, user, OfRule::<false>(rule, 0)) {
        Ok(verdict) => verdict,
        Err(reason) => downlink::refused(frame, tables, arrival, entry, reason),
    }
}

/// Whether a packet for which there is a rule to buffer is one that was, and there is a way for it by now.
#[inline(always)]
fn goes_on<F: Frame>(frame: &F, entry: &DownlinkEntry) -> bool {
    entry.next_hop != NO_INDEX && frame.is_released()
}

/// Where a packet begins and ends, in one argument: a BPF function has five.
#[inline(always)]
fn place(at: usize, end: usize) -> u64 {
    at as u64 | (end as u64) << 32
}

/// The first rule that is for the user's packet at this place; `qfi` is its QFI as a bit.
#[inline(never)]
fn find<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    set: u32,
    place: u64,
    qfi: u64,
) -> Option<&'t Rule> {
    // Else the compiler has the caller read the frame's ends and hand them over as numbers, which the verifier does
    // not take for pointers.
    let frame = core::hint::black_box(frame);
    let at = frame.opaque(place as u32 as usize, set);
    let flow = Flow::read(frame, at, (place >> 32) as usize);
    for number in 0..MAX_RULES {
        let rule = tables.rule(&RuleKey { set, number })?;
        if flow.differs(&rule.filter) == 0 && (rule.filter.qfis == 0 || rule.filter.qfis & qfi != 0) {
            return Some(rule);
        }
    }
    None
}

/// What filters look at. What is no IP packet, or not all of one, has none of it, and only filters that are for all
/// match.
#[derive(Clone, Copy)]
struct Flow {
    version: u8,
    protocol: u8,
    traffic_class: u8,
    /// Bits of [`filter_has`] that can be compared.
    has: u8,
    /// Source and destination port.
    ports: [u16; 2],
    spi: u32,
    label: u32,
    source: [Be32; 4],
    destination: [Be32; 4],
}

/// Source and destination port, wherever the transport protocol has them first.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Ports {
    source: Be16,
    destination: Be16,
}

impl Flow {
    #[inline(always)]
    fn read<F: Frame>(frame: &F, at: usize, end: usize) -> Self {
        let zero = [Be32::from_raw(0); 4];
        let mut flow = Self {
            version: 0,
            protocol: 0,
            traffic_class: 0,
            has: 0,
            ports: [0; 2],
            spi: 0,
            label: 0,
            source: zero,
            destination: zero,
        };
        match frame.load::<u8>(at).unwrap_or(0) >> 4 {
            4 => flow.read4(frame, at, end).unwrap_or(()),
            6 => flow.read6(frame, at, end).unwrap_or(()),
            _ => {}
        }
        flow
    }

    #[inline(always)]
    fn read4<F: Frame>(&mut self, frame: &F, at: usize, end: usize) -> Option<()> {
        let header: Ipv4 = frame.load(at)?;
        let total_length = usize::from(header.total_length.get());
        if header.header_len() < Ipv4::LEN || total_length < header.header_len() || at + total_length > end {
            return None;
        }
        self.version = 4;
        self.traffic_class = header.tos;
        (self.source, self.destination) = (mapped(header.source), mapped(header.destination));
        self.has = filter_has::VERSION | filter_has::PROTOCOL;
        self.protocol = header.protocol;
        // Behind an offset there is no header of the transport.
        if header.fragment.get() & 0x1fff == 0 {
            self.read_transport(frame, at + header.header_len(), total_length - header.header_len());
        }
        Some(())
    }

    #[inline(always)]
    fn read6<F: Frame>(&mut self, frame: &F, at: usize, end: usize) -> Option<()> {
        let header: Ipv6 = frame.load(at)?;
        if at + Ipv6::LEN + usize::from(header.payload_length.get()) > end {
            return None;
        }
        self.version = 6;
        self.traffic_class = header.traffic_class();
        (self.source, self.destination) = (header.source, header.destination);
        self.has = filter_has::VERSION | filter_has::PROTOCOL | filter_has::FLOW_LABEL;
        self.label = header.version_class_flow.get() & 0xf_ffff;
        // Extension headers are not walked through: then this is the first one's number.
        self.protocol = header.next_header;
        self.read_transport(frame, at + Ipv6::LEN, usize::from(header.payload_length.get()));
        Some(())
    }

    /// `behind`: bytes of the packet from `at` on.
    #[inline(always)]
    fn read_transport<F: Frame>(&mut self, frame: &F, at: usize, behind: usize) {
        let first = if behind >= 4 { frame.load::<Ports>(at) } else { None };
        match (self.protocol, first) {
            (
                protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE,
                Some(it),
            ) => {
                self.ports = [it.source.get(), it.destination.get()];
                self.has |= filter_has::PORTS;
            }
            (protocol::ESP, Some(it)) => {
                self.spi = u32::from(it.source.get()) << 16 | u32::from(it.destination.get());
                self.has |= filter_has::SPI;
            }
            (protocol::AH, _) if behind >= 8 => {
                if let Some(spi) = frame.load::<Be32>(at + 4) {
                    self.spi = spi.get();
                    self.has |= filter_has::SPI;
                }
            }
            _ => {}
        }
    }

    /// 0 where it is as the filter says. Without branches as far as that goes: the verifier walks through all.
    #[inline(always)]
    fn differs(&self, filter: &Filter) -> u32 {
        // What the filter looks at and the packet has not.
        let mut differs = u32::from(filter.has & !self.has);
        // What is no packet has no addresses and no traffic class, not those of zero.
        let no_packet = 0_u32.wrapping_sub(u32::from(self.version == 0));
        differs |= no_packet & u32::from(filter.tos_mask);
        for n in 0..4 {
            differs |= no_packet & (filter.source_mask[n].raw() | filter.destination_mask[n].raw());
            differs |= self.source[n].raw() & filter.source_mask[n].raw() ^ filter.source[n].raw();
            differs |=
                self.destination[n].raw() & filter.destination_mask[n].raw() ^ filter.destination[n].raw();
        }
        differs |= u32::from(self.traffic_class & filter.tos_mask ^ filter.tos);
        let looks = |at: u8| 0_u32.wrapping_sub(u32::from(filter.has & at != 0));
        differs |= looks(filter_has::VERSION) & u32::from(self.version ^ filter.version);
        differs |= looks(filter_has::PROTOCOL) & u32::from(self.protocol ^ filter.protocol);
        differs |= looks(filter_has::SPI) & (self.spi ^ filter.word);
        differs |= looks(filter_has::FLOW_LABEL) & (self.label ^ filter.word);
        let [from, to, from_other, to_other] = filter.ports.map(u32::from);
        let [source, destination] = self.ports.map(u32::from);
        // A difference below zero has its highest bits set.
        let outside = source.wrapping_sub(from) | to.wrapping_sub(source);
        let outside = outside | destination.wrapping_sub(from_other) | to_other.wrapping_sub(destination);
        differs | looks(filter_has::PORTS) & outside & 0x8000_0000
    }
}
