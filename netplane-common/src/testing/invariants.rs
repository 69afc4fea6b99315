//! What must be true of every packet, whatever the tables and the packet are. Unit tests, the fuzzer and the
//! differential run ask the same.

use super::cases::IFINDEX;
use super::known::{self, Tunnel};
use super::tables::MapTables;
use super::view::{ICMP, ICMPV6, Ip, Link, Message};
use crate::decide::decide;
use crate::frame::{Frame, SliceFrame};
use crate::map::{Counter, DownlinkEntry, NO_INDEX, RouteKey, SessionAction, UplinkEntry, uplink_flags};
use crate::verdict::{Reason, Verdict};
use crate::wire::Wire;
use std::collections::BTreeMap;

const GTPU_PORT: u16 = 2152;
const G_PDU: u8 = 255;
const END_MARKER: u8 = 254;
const CE: u8 = 3;

/// What the decision on slices made of a packet.
#[derive(Clone, Debug)]
pub struct Passage {
    pub verdict: Verdict,
    pub out: Vec<u8>,
    /// Session counters that went up.
    pub counted: BTreeMap<u32, Counter>,
    /// On-link neighbours that were asked for.
    pub wanted: Vec<RouteKey>,
}

/// Runs the decision on slices. What the tables had counted before is forgotten.
pub fn pass(tables: &MapTables, packet: &[u8]) -> Passage {
    let mut frame = SliceFrame::new(packet);
    run(tables, &mut frame, SliceFrame::bytes)
}

/// As [`pass`], where nothing can be delivered to pods under a master: as XDP has it.
pub fn pass_on_wire(tables: &MapTables, packet: &[u8]) -> Passage {
    let mut frame = OnWire(SliceFrame::new(packet));
    run(tables, &mut frame, |it| it.0.bytes())
}

fn run<F: Frame>(tables: &MapTables, frame: &mut F, bytes: fn(&F) -> &[u8]) -> Passage {
    tables.counters.borrow_mut().clear();
    tables.wanted.borrow_mut().clear();
    // Of meters and usages as well.
    let (meters, usages) = (tables.meters.clone(), tables.usages.clone());
    let verdict = decide(frame, tables, IFINDEX);
    let out = bytes(frame).to_vec();
    tables.meters.swap(&meters);
    tables.usages.swap(&usages);
    tables.reached.borrow_mut().clear();
    tables.told.borrow_mut().clear();
    Passage { verdict, out, counted: tables.counters.take(), wanted: tables.wanted.take() }
}

struct OnWire(SliceFrame);

impl Frame for OnWire {
    const DELIVERS: bool = false;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        self.0.load(offset)
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        self.0.store(offset, value)
    }

    fn move_head(&mut self, by: isize) -> Option<()> {
        self.0.move_head(by)
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        self.0.truncate(len)
    }

    fn sum(&self, from: usize, to: usize) -> Option<u32> {
        self.0.sum(from, to)
    }
}

type Judgement = Result<(), String>;

fn hold(condition: bool, rule: &str) -> Judgement {
    if condition { Ok(()) } else { Err(rule.to_owned()) }
}

/// Judges a passage.
///
/// # Errors
/// The rule that is broken.
pub fn judge(tables: &MapTables, packet: &[u8], passage: &Passage) -> Judgement {
    match passage.verdict {
        Verdict::Pass | Verdict::PassCounted { .. } => {
            hold(passage.out == packet, "a packet that is passed is as it came")?;
        }
        _ => {}
    }
    match passage.verdict {
        Verdict::Transmit | Verdict::Redirect { .. } | Verdict::Deliver { .. } => {
            return forwarded(tables, packet, passage);
        }
        Verdict::Answer { reason, .. } => answer(tables, packet, passage, reason)?,
        Verdict::Drop { reason, .. } => hold(reason.is_drop(), "a drop has a reason to drop")?,
        Verdict::PassCounted { reason, .. } => hold(!reason.is_drop(), "a pass has a reason to pass")?,
        Verdict::Pass => {}
        Verdict::Buffered => return hold(passage.counted.is_empty(), "nobody pays for what is kept"),
        Verdict::ToAnswer { .. } | Verdict::Unfinished | Verdict::ToRules { .. } => {
            return Err("a frame in memory is whole, and is answered at once".to_owned());
        }
    }
    hold(passage.counted.is_empty(), "only forwarded packets count for a session")
}

/// Whose packet it is, read from the packet as it came.
enum Flow<'a, 't> {
    Up { entry: &'t UplinkEntry, outer: Ip<'a>, message: Message<'a>, inner: Ip<'a> },
    Relay { entry: &'t UplinkEntry, outer: Ip<'a>, message: Message<'a> },
    Down { entry: &'t DownlinkEntry, ip: Ip<'a> },
}

impl<'a, 't> Flow<'a, 't> {
    fn of(tables: &'t MapTables, link: &Link<'a>) -> Option<Self> {
        let ip = Ip::read(link.rest)?;
        hold(link.ether_type == if ip.version == 4 { 0x0800 } else { 0x86dd }, "").ok()?;
        Self::tunnelled(tables, link, ip).or_else(|| {
            let entry = known::downlink(tables, link.vlan, &ip)?;
            (link.destination == entry.mac.octets()).then_some(Self::Down { entry, ip })
        })
    }

    fn tunnelled(tables: &'t MapTables, link: &Link<'a>, outer: Ip<'a>) -> Option<Self> {
        let plain = !outer.is_fragment && outer.header_len == if outer.version == 4 { 20 } else { 40 };
        let udp = outer.udp().filter(|it| plain && it.destination == GTPU_PORT)?;
        let message = udp.gtpu().filter(|it| matches!(it.kind, G_PDU | END_MARKER))?;
        let entry = known::uplink(tables, link.vlan, message.teid, &outer)?;
        if link.destination != entry.mac.octets() {
            return None;
        }
        let has_rules = message.kind == G_PDU && entry.flags & uplink_flags::RULES != 0;
        match SessionAction::from_number(entry.action) {
            SessionAction::Relay => Some(Self::Relay { entry, outer, message }),
            // A rule may relay what is no packet.
            _ if has_rules && message.t_pdu().and_then(Ip::read).is_none() => {
                Some(Self::Relay { entry, outer, message })
            }
            _ => Some(Self::Up { entry, outer, message, inner: Ip::read(message.t_pdu()?)? }),
        }
    }
}

impl<'t> Flow<'_, 't> {
    /// With the entry that the session's rules say, where it has some.
    fn ruled(self, tables: &'t MapTables) -> Result<Self, String> {
        let none = "a packet is forwarded by a rule that is for it";
        match self {
            Self::Up { entry, outer, message, .. } | Self::Relay { entry, outer, message }
                if message.kind == G_PDU =>
            {
                let inner = message.t_pdu().and_then(Ip::read);
                let Some(rule) = known::uplink_rule(tables, entry, inner.as_ref(), message.qfi()) else {
                    return Ok(self);
                };
                let rule = &rule.ok_or(none)?.uplink;
                hold(known::peer_is_allowed(tables, entry, &outer), "the peer is allowed")?;
                // Whose peers they are is the session's to say.
                let entry: &'t UplinkEntry = rule;
                Ok(match (SessionAction::from_number(entry.action), inner) {
                    (SessionAction::Relay, _) => Self::Relay { entry, outer, message },
                    (_, Some(inner)) => Self::Up { entry, outer, message, inner },
                    (_, None) => return Err("what is decapsulated is a packet".to_owned()),
                })
            }
            Self::Down { entry, ip } => match known::downlink_rule(tables, entry, &ip) {
                Some(rule) => Ok(Self::Down { entry: &rule.ok_or(none)?.downlink, ip }),
                None => Ok(self),
            },
            _ => Ok(self),
        }
    }
}

fn forwarded(tables: &MapTables, packet: &[u8], passage: &Passage) -> Judgement {
    let before = Link::read(packet).ok_or("a frame without a link header is not forwarded")?;
    let flow = Flow::of(tables, &before).ok_or("what no session takes is not forwarded")?;
    let flow = flow.ruled(tables)?;
    let (after, ip) = whole(&passage.out)?;
    let way = match &flow {
        Flow::Up { entry, inner, .. } => known::way_up(tables, entry, inner),
        Flow::Relay { entry, .. } => known::way_of_relay(tables, entry),
        Flow::Down { entry, .. } => known::way_down(tables, entry),
    };
    let taken = way.is_some_and(|it| known::takes(it, &after, passage.verdict, ip.whole.len()));
    hold(taken, "a frame leaves by its session's next hop, within its MTU, under its MACs and VLAN")?;
    let (counter, bytes) = match flow {
        Flow::Up { entry, outer, message, inner } => {
            hold(message.kind == G_PDU, "only G-PDUs are decapsulated")?;
            hold(entry.action == SessionAction::Forward as u8, "the session forwards")?;
            hold(known::peer_is_allowed(tables, entry, &outer), "the peer is allowed")?;
            hold(known::user_may(tables, entry, &inner), "a user sends under its own address")?;
            let qfi = known::checked_qfi(entry);
            hold(qfi.is_none() || message.qfi() == qfi, "the container has the session's QFI")?;
            one_hop(&inner, &ip, outer.class)?;
            (entry.counter, inner.whole.len())
        }
        Flow::Relay { entry, outer, message } => {
            hold(known::peer_is_allowed(tables, entry, &outer), "the peer is allowed")?;
            let tunnel = known::relayed_to(tables, entry).ok_or("a relay has a target")?;
            let new = tunnelled(&ip, &tunnel, outer.class)?;
            let same = (new.flags, new.kind, new.behind) == (message.flags, message.kind, message.behind);
            hold(same, "a relayed message is the same but for its TEID")?;
            (entry.counter, message.behind.len())
        }
        Flow::Down { entry, ip: inner } => {
            hold(entry.action == SessionAction::Forward as u8, "the session forwards")?;
            hold(inner.whole.len() <= usize::from(entry.mtu), "the packet fits the session's MTU")?;
            one_hop(&inner, &to_user(tables, entry, &ip, inner.class)?, 0)?;
            (entry.counter, inner.whole.len())
        }
    };
    let counted = BTreeMap::from([(counter, Counter { packets: 1, bytes: bytes as u64 })]);
    hold(passage.counted == counted, "a forwarded packet counts once, with its inner bytes")
}

/// A frame that is a link header and one IP packet, to the last byte.
fn whole(frame: &[u8]) -> Result<(Link<'_>, Ip<'_>), String> {
    let link = Link::read(frame).ok_or("there is a link header")?;
    let ip = Ip::read(link.rest).ok_or("there is an IP packet, whole")?;
    hold(ip.whole.len() == link.rest.len(), "the frame ends with its packet")?;
    let ether_type = if ip.version == 4 { 0x0800 } else { 0x86dd };
    hold(link.ether_type == ether_type, "the EtherType is the packet's")?;
    Ok((link, ip))
}

/// The same packet, one hop further: nothing but TTL, header sum and ECN may differ.
fn one_hop(before: &Ip<'_>, after: &Ip<'_>, outer_class: u8) -> Judgement {
    hold(after.whole.len() == before.whole.len(), "the inner packet keeps its length")?;
    hold(before.hops > 1 && after.hops == before.hops - 1, "TTL or hop limit goes down by one")?;
    hold(before.sum_is_right() == after.sum_is_right(), "the header's sum stays as right as it was")?;
    let marked = outer_class & CE == CE;
    hold(!marked || before.class & CE != 0, "congestion is not lost on who cannot be told (RFC 6040)")?;
    let class = if marked { before.class | CE } else { before.class };
    hold(after.class == class, "ECN is that of RFC 6040, DSCP stays")?;
    let masked = |ip: &Ip<'_>| {
        let mut bytes = ip.whole.to_vec();
        let changed: &[usize] = if ip.version == 4 { &[1, 8, 10, 11] } else { &[7] };
        changed.iter().for_each(|at| bytes[*at] = 0);
        if ip.version == 6 {
            bytes[1] &= 0xcf;
        }
        bytes
    };
    hold(masked(before) == masked(after), "nothing else of the inner packet changes")
}

/// A tunnelled packet as netplane makes it; returns the message inside.
fn tunnelled<'a>(ip: &Ip<'a>, tunnel: &Tunnel, class: u8) -> Result<Message<'a>, String> {
    hold(ip.source == tunnel.local, "the outer source is the endpoint's address")?;
    hold(ip.destination == tunnel.peer, "the outer destination is the peer's address")?;
    hold(ip.hops == 64, "a tunnelled packet starts with TTL 64")?;
    hold(ip.sum_is_right(), "the outer header's sum is right")?;
    let plain = ip.header_len == if ip.version == 4 { 20 } else { 40 };
    let whole = ip.version == 6 || ip.whole[6..8] == [0x40, 0];
    hold(plain && whole, "the outer header has no options and is not to be fragmented")?;
    hold(ip.class & CE == class & CE, "ECN is copied outside (RFC 6040)")?;
    let udp = ip.udp().ok_or("the UDP length is the packet's")?;
    let source = if tunnel.by_flow { udp.source >= 0xc000 } else { udp.source == GTPU_PORT };
    hold(source && udp.destination == GTPU_PORT, "the ports are GTP-U's")?;
    hold((udp.checksum != 0) == tunnel.checksum, "the UDP checksum is there where it is asked for")?;
    hold(udp.checksum == 0 || ip.transport_sum_is_right(), "the UDP checksum is zero or right")?;
    let message = udp.gtpu().ok_or("the GTP-U length is the datagram's")?;
    hold(message.teid == tunnel.teid, "the TEID is the tunnel's")?;
    Ok(message)
}

/// What a user gets through its tunnel.
fn to_user<'a>(tables: &MapTables, entry: &DownlinkEntry, ip: &Ip<'a>, class: u8) -> Result<Ip<'a>, String> {
    let tunnel = known::tunnel_to_user(tables, entry).ok_or("the session has a tunnel")?;
    let message = tunnelled(ip, &tunnel, class)?;
    hold(message.kind == G_PDU, "a user's packet goes in a G-PDU")?;
    let flags = if known::qfi(entry).is_some() { 0x34 } else { 0x30 };
    hold(message.flags == flags, "the GTP-U flags are those of what is there")?;
    if let Some(qfi) = known::qfi(entry) {
        let container = [0, 0, 0, 0x85, 1, 0, qfi, 0];
        hold(message.behind.starts_with(&container), "the container is that of TS 38.415 §5.5.2.1")?;
    }
    let inner = message.t_pdu().and_then(Ip::read).ok_or("there is a packet for the user, whole")?;
    hold(message.t_pdu().map(<[u8]>::len) == Some(inner.whole.len()), "the T-PDU ends with its packet")?;
    Ok(inner)
}

fn answer(tables: &MapTables, packet: &[u8], passage: &Passage, reason: Reason) -> Judgement {
    let before = Link::read(packet).ok_or("who sends no link header gets no answer")?;
    let (after, ip) = whole(&passage.out)?;
    hold(ip.sum_is_right() && ip.hops == 64, "an answer starts with TTL 64 and a right sum")?;
    let is_back = (after.destination, after.source, after.vlan)
        == (before.source, before.destination, before.vlan)
        && matches!(passage.verdict, Verdict::Answer { port: NO_INDEX, .. });
    match reason {
        Reason::EchoAnswered | Reason::UnknownTeid => {
            hold(is_back, "a GTP-U answer goes back")?;
            let asked = Ip::read(before.rest).ok_or("who is answered sent a packet")?;
            signalling(&asked, &ip, reason)
        }
        Reason::TtlExpired | Reason::TooBig => {
            let takes = |it| known::takes(it, &after, passage.verdict, ip.whole.len());
            hold(
                is_back || tables.next_hops.values().any(takes),
                "an answer goes back or leaves by a next hop",
            )?;
            about(tables, &before, &ip, reason)
        }
        _ => Err("there is no answer for this reason".to_owned()),
    }
}

fn signalling(asked: &Ip<'_>, ip: &Ip<'_>, reason: Reason) -> Judgement {
    let turned = (ip.source, ip.destination) == (asked.destination, asked.source);
    hold(turned, "an answer goes from who was asked to who asked")?;
    // Where the lengths disagree there is no answer, or only that the tunnel is unknown.
    let from = asked.payload();
    let udp = ip.udp().ok_or("the UDP length is the packet's")?;
    hold(udp.checksum == 0 || ip.transport_sum_is_right(), "the UDP checksum is zero or right")?;
    let message = udp.gtpu().ok_or("the GTP-U length is the datagram's")?;
    hold(message.flags == 0x32 && message.teid == 0, "signalling has a sequence number and TEID 0")?;
    let echo = reason == Reason::EchoAnswered;
    hold(message.kind == if echo { 2 } else { 26 }, "the message answers what was asked")?;
    hold(udp.source == GTPU_PORT, "an answer comes from the registered port")?;
    let port = if echo { u16::from_be_bytes([from[0], from[1]]) } else { GTPU_PORT };
    hold(
        udp.destination == port,
        "an Echo is answered to its port, an indication goes to the registered one",
    )?;
    if echo {
        let asked = asked.udp().and_then(|it| it.gtpu()).ok_or("an Echo Request is whole")?;
        hold(
            message.sequence() == Some(asked.sequence().unwrap_or(0)),
            "the sequence number is the request's",
        )
    } else {
        hold(message.behind[5..9] == from[12..16], "the indication names the TEID")
    }
}

/// ICMP about a packet: to its sender, or through the tunnel to the user who sent it.
fn about(tables: &MapTables, before: &Link<'_>, ip: &Ip<'_>, reason: Reason) -> Judgement {
    let flow = Flow::of(tables, before).ok_or("only sessions' packets are answered by ICMP")?;
    let (said, offending) = match &flow {
        Flow::Down { ip: offending, .. } => (*ip, *offending),
        Flow::Relay { outer, .. } => (*ip, *outer),
        Flow::Up { inner, .. } => {
            let downlink = tables.downlink4.values().chain(tables.downlink6.values());
            let mut tries = downlink.map(|entry| to_user(tables, entry, ip, ip.class));
            let found = tries.find_map(Result::ok);
            (found.ok_or("a user is told through a tunnel of a session")?, *inner)
        }
    };
    hold(said.destination == offending.source, "the sender is told")?;
    let own = known::is_router(tables, said.source)
        || matches!(&flow, Flow::Relay { outer, .. } if said.source == outer.destination);
    hold(own, "the pod's own address tells")?;
    hold(said.sum_is_right() && said.hops == 64, "an ICMP message starts with TTL 64 and a right sum")?;
    let body = said.payload();
    let (protocol, kind, quoted) = match (said.version, reason) {
        (4, Reason::TtlExpired) => (ICMP, [11, 0], 28),
        (4, _) => (ICMP, [3, 4], 28),
        (_, Reason::TtlExpired) => (ICMPV6, [3, 0], 48),
        _ => (ICMPV6, [2, 0], 48),
    };
    hold(said.protocol == protocol && body.starts_with(&kind), "the type says what is wrong")?;
    let sum =
        if said.version == 4 { super::packet::checksum(body) == 0 } else { said.transport_sum_is_right() };
    hold(sum, "the ICMP sum is right")?;
    hold(body.get(8..) == offending.whole.get(..quoted), "the packet's start is quoted")
}

#[cfg(test)]
mod tests {
    use super::super::mutate::mutated;
    use super::super::numbers::Numbers;
    use super::super::packet::hex;
    use super::super::{answers, cases};
    use super::*;

    #[track_caller]
    fn check(tables: &MapTables, packet: &[u8]) -> Verdict {
        let passage = pass(tables, packet);
        if let Err(rule) = judge(tables, packet, &passage) {
            panic!("{rule}: {:?}\nin  {}\nout {}", passage.verdict, hex(packet), hex(&passage.out));
        }
        passage.verdict
    }

    #[test]
    fn every_case_keeps_the_rules() {
        for case in cases::all() {
            assert_eq!(check(&case.tables, &case.packet), case.verdict, "{}", case.name);
        }
    }

    #[test]
    fn mutated_packets_keep_the_rules() {
        let cases = cases::all();
        let answering = answers::answering();
        let mut numbers = Numbers::new(7);
        let mut forwarded = 0;
        for _ in 0..30_000 {
            let case = &cases[numbers.below(cases.len())];
            let packet = mutated(&case.packet, &mut numbers);
            let tables = if numbers.one_in(3) { &answering } else { &case.tables };
            forwarded +=
                u32::from(matches!(check(tables, &packet), Verdict::Transmit | Verdict::Redirect { .. }));
        }
        // Else the mutations are so strong that only the first checks are tested.
        assert!(forwarded > 3_000, "{forwarded} of 30,000 were forwarded");
    }

    #[test]
    fn a_broken_rule_is_seen() {
        let tables = cases::standard();
        let packet = cases::from_gnb(&super::super::packet::gtpu(
            0x30,
            255,
            cases::TEID,
            &cases::user_packet().bytes(),
        ));
        let good = pass(&tables, &packet);
        assert_eq!(judge(&tables, &packet, &good), Ok(()));
        for at in 0..good.out.len() {
            let mut bad = good.clone();
            bad.out[at] ^= 1;
            assert!(judge(&tables, &packet, &bad).is_err(), "byte {at} changed and nobody saw it");
        }
        let mut uncounted = good;
        uncounted.counted.clear();
        assert!(judge(&tables, &packet, &uncounted).is_err());
    }
}
