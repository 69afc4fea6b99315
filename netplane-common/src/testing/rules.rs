//! Cases of sessions with rules: filters by precedence, meters and quotas.

use super::cases::*;
use super::packet::{self, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::tables::MapTables;
use crate::map::{
    DownlinkEntry, Filter, MeterKey, MeterUse, NO_INDEX, Rate, Rule, RuleKey, SessionAction, UplinkEntry,
    Usage, UsageKey, UsageLimits, downlink_flags, filter_has, uplink_flags,
};
use crate::verdict::{Reason, Verdict};
use crate::wire::{Be32, ip};
use std::net::{IpAddr, Ipv6Addr};
use zerocopy::FromZeros;

/// Sets of the user's session.
pub const UPLINK_SET: u32 = 40;
pub const DOWNLINK_SET: u32 = 41;
/// Of the flow of DNS, beside the session's own.
pub const DNS_QFI: u8 = 5;
pub const UPLINK_METER: MeterKey = MeterKey { session: 10, qer: 1 };
pub const DOWNLINK_METER: MeterKey = MeterKey { session: 10 | MeterKey::DOWNLINK, qer: 1 };
pub const URR: UsageKey = UsageKey { session: 10, urr: 3 };

/// UDP of a port of the server.
fn dns(is_uplink: bool) -> Filter {
    let (server, any) = ((53, 53), (0, u16::MAX));
    let [(a, b), (c, d)] = if is_uplink { [any, server] } else { [server, any] };
    let has = filter_has::PROTOCOL | filter_has::PORTS;
    Filter { has, protocol: 17, ports: [a, b, c, d], ..Filter::default() }
}

/// A rule for all packets that does as the session without rules would.
pub fn rule() -> Rule {
    Rule { uplink: uplink_entry(), downlink: downlink_entry(), ..Rule::new_zeroed() }
}

/// The standard tables, whose session has these rules in each direction.
pub fn with_rules(uplink: &[Rule], downlink: &[Rule]) -> MapTables {
    let mut tables = standard();
    let up = |it: &mut UplinkEntry| {
        it.flags |= uplink_flags::RULES;
        it.rules = UPLINK_SET;
        if uplink.iter().any(|it| it.filter.qfis != 0) {
            it.flags |= uplink_flags::CHECK_QFI;
        }
    };
    tables.uplink.get_mut(&uplink_key(TEID)).into_iter().for_each(up);
    tables.uplink6.get_mut(&uplink_key6(TEID)).into_iter().for_each(up);
    let down = |it: &mut DownlinkEntry| {
        it.flags |= downlink_flags::RULES;
        it.rules = DOWNLINK_SET;
    };
    tables.downlink4.values_mut().chain(tables.downlink6.values_mut()).for_each(down);
    for (set, rules) in [(UPLINK_SET, uplink), (DOWNLINK_SET, downlink)] {
        tables.rules.extend((0..).zip(rules).map(|(number, rule)| (RuleKey { set, number }, *rule)));
    }
    tables
}

/// DNS goes in a flow of its own, from another server nothing comes, all else as ever.
fn by_precedence() -> MapTables {
    let dropped_up = UplinkEntry { action: SessionAction::Drop as u8, ..uplink_entry() };
    let dropped_down = DownlinkEntry { action: SessionAction::Drop as u8, ..downlink_entry() };
    let dropped = Rule { uplink: dropped_up, downlink: dropped_down, ..rule() };
    let other = |is_uplink| prefix(IpAddr::V4(PEER), 24, is_uplink);
    let to_dns = DownlinkEntry { qfi: DNS_QFI, ..downlink_entry() };
    with_rules(
        &[Rule { filter: dns(true), ..rule() }, Rule { filter: other(true), ..dropped }, rule()],
        &[
            Rule { filter: dns(false), downlink: to_dns, ..rule() },
            Rule { filter: other(false), ..dropped },
            rule(),
        ],
    )
}

/// A prefix of the other end.
fn prefix(address: IpAddr, len: u32, is_uplink: bool) -> Filter {
    let bits = if address.is_ipv4() { len + 96 } else { len };
    let mask = ip::words((u128::MAX << (128 - bits)).into());
    let address = ip::mapped_address(address);
    let address = std::array::from_fn(|n| Be32::from_raw(address[n].raw() & mask[n].raw()));
    match is_uplink {
        true => Filter { destination: address, destination_mask: mask, ..Filter::default() },
        false => Filter { source: address, source_mask: mask, ..Filter::default() },
    }
}

fn case(
    name: &'static str,
    tables: MapTables,
    packet: Vec<u8>,
    verdict: Verdict,
    out: Option<Vec<u8>>,
) -> Case {
    Case { name, tables, packet, verdict, out }
}

fn one_hop(inner: &Ipv4) -> Ipv4 {
    Ipv4 { ttl: inner.ttl - 1, ..inner.clone() }
}

fn up(inner: &Ipv4) -> Vec<u8> {
    from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &inner.bytes()))
}

fn to_user(qfi: u8, inner: &Ipv4) -> Option<Vec<u8>> {
    to_gnb(inner.tos, &packet::gtpu_with_container(DOWNLINK_TEID, 0, qfi, &one_hop(inner).bytes()))
}

/// Filters and precedence.
pub(super) fn filters() -> Vec<Case> {
    let passes =
        |name, inner: &Ipv4| case(name, by_precedence(), up(inner), REDIRECT, to_router(&one_hop(inner)));
    let is_dropped =
        |name, inner: &Ipv4| case(name, by_precedence(), up(inner), drop(N3, Reason::SessionDrop), None);
    let comes = |name, inner: &Ipv4, qfi| {
        case(name, by_precedence(), from_router(&inner.bytes()), REDIRECT, to_user(qfi, inner))
    };
    let from =
        |source, port| Ipv4 { id: 7, ..Ipv4::new(source, UE, packet::udp(port, 40_000, b"to the user")) };
    let to_other = |port| Ipv4 { destination: PEER, payload: packet::udp(9, port, b"x"), ..user_packet() };
    // A test run has no agent. What is forwarded to the user has a rule of its own.
    let kept = |name, next_hop| {
        let buffers = DownlinkEntry { action: SessionAction::Buffer as u8, next_hop, ..downlink_entry() };
        let rules = [Rule { filter: dns(false), ..rule() }, Rule { downlink: buffers, ..rule() }];
        let packet = from_router(&from(SERVER, 54).bytes());
        case(name, with_rules(&[], &rules), packet, drop(N6, Reason::NotBuffered), None)
    };
    let fragment = Ipv4 { fragment: 0x2000, ..from(SERVER, 53) };
    let rest = Ipv4 { fragment: 0x00b9, ..from(SERVER, 53) };
    let options = Ipv4 { options: vec![1, 1, 1, 0], ..from(SERVER, 53) };
    vec![
        passes("rules: DNS goes up by the first rule", &user_packet()),
        passes("rules: the first rule goes before the one that drops", &to_other(53)),
        is_dropped("rules: dropped by the second rule", &to_other(54)),
        passes("rules: what no filter is for goes by the last", &Ipv4 { protocol: 99, ..user_packet() }),
        comes("rules: DNS comes in a flow of its own", &from(SERVER, 53), DNS_QFI),
        comes("rules: anything else comes in the session's", &from(SERVER, 54), QFI),
        comes("rules: a first fragment has ports", &fragment, DNS_QFI),
        comes("rules: later fragments have none", &rest, QFI),
        comes("rules: ports are behind options", &options, DNS_QFI),
        case(
            "rules: from the other server nothing comes",
            by_precedence(),
            from_router(&from(PEER, 99).bytes()),
            drop(N6, Reason::SessionDrop),
            None,
        ),
        kept("rules: to an idle user, where no agent keeps it", NO_INDEX),
        kept("rules: to an idle user whose way is known, and it was not kept before", TO_GNB),
        case(
            "rules: padding is no port",
            by_precedence(),
            from_router(&[Ipv4 { payload: vec![0], ..from(SERVER, 53) }.bytes(), vec![53; 18]].concat()),
            REDIRECT,
            to_user(QFI, &Ipv4 { payload: vec![0], ..from(SERVER, 53) }),
        ),
    ]
}

/// One filter alone: what it is not for is `no-rule`.
pub(super) fn what_filters_see() -> Vec<Case> {
    let seen = |name, filter: Filter, inner: &Ipv4, is_for: bool| {
        let tables = with_rules(&[], &[Rule { filter, ..rule() }]);
        let (verdict, out) =
            if is_for { (REDIRECT, to_user(QFI, inner)) } else { (drop(N6, Reason::NoRule), None) };
        case(name, tables, from_router(&inner.bytes()), verdict, out)
    };
    let with = |change: &dyn Fn(&mut Ipv4)| {
        let mut inner = Ipv4::new(SERVER, UE, packet::udp(5000, 6000, b"x"));
        change(&mut inner);
        inner
    };
    let has = |has, change: &dyn Fn(&mut Filter)| {
        let mut filter = Filter { has, ..Filter::default() };
        change(&mut filter);
        filter
    };
    let udp = with(&|_| {});
    let esp = with(&|it| (it.protocol, it.payload) = (50, vec![0, 1, 2, 3, 4, 5, 6, 7]));
    let ah = with(&|it| (it.protocol, it.payload) = (51, vec![4, 4, 0, 0, 0, 1, 2, 3, 9, 9]));
    let spi = |word| has(filter_has::SPI, &|it| it.word = word);
    let ports = |ports| has(filter_has::PORTS, &|it| it.ports = ports);
    let tos = |tos, tos_mask| has(0, &|it| (it.tos, it.tos_mask) = (tos, tos_mask));
    let version = |version| has(filter_has::VERSION, &|it| it.version = version);
    vec![
        seen("filter: a prefix of the other end", prefix(SERVER.into(), 24, false), &udp, true),
        seen("filter: another prefix", prefix(PEER.into(), 24, false), &udp, false),
        seen("filter: a port in its range", ports([4000, 5000, 6000, 6000]), &udp, true),
        seen("filter: a port above its range", ports([4000, 4999, 6000, 6000]), &udp, false),
        seen("filter: a port below its range", ports([4000, 5000, 6001, 7000]), &udp, false),
        seen("filter: no ports where none are", ports([0, u16::MAX, 0, u16::MAX]), &esp, false),
        seen("filter: traffic class under a mask", tos(0xb8, 0xfc), &with(&|it| it.tos = 0xb9), true),
        seen("filter: another traffic class", tos(0xb8, 0xfc), &with(&|it| it.tos = 0x68), false),
        seen("filter: SPI of ESP", spi(0x0001_0203), &esp, true),
        seen("filter: SPI of AH", spi(0x0001_0203), &ah, true),
        seen("filter: another SPI", spi(0x0001_0204), &esp, false),
        seen("filter: no SPI in UDP", spi(0x1388_1770), &udp, false),
        seen("filter: version 4", version(4), &udp, true),
        seen("filter: not version 6", version(6), &udp, false),
        seen("filter: no flow label in IPv4", has(filter_has::FLOW_LABEL, &|_| {}), &udp, false),
        case(
            "filter: flow label of IPv6",
            with_rules(&[], &[Rule { filter: has(filter_has::FLOW_LABEL, &|it| it.word = 0), ..rule() }]),
            to_user6(&six()),
            REDIRECT,
            to_gnb(0, &packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, &six_on().bytes())),
        ),
        case(
            "filter: an IPv6 prefix",
            with_rules(&[], &[Rule { filter: prefix(SERVER6.into(), 48, false), ..rule() }]),
            to_user6(&six()),
            REDIRECT,
            to_gnb(0, &packet::gtpu_with_container(DOWNLINK_TEID, 0, QFI, &six_on().bytes())),
        ),
        case(
            "filter: not an IPv4 prefix in IPv6",
            with_rules(&[], &[Rule { filter: prefix(SERVER.into(), 1, false), ..rule() }]),
            to_user6(&six()),
            drop(N6, Reason::NoRule),
            None,
        ),
    ]
}

fn six() -> Ipv6 {
    Ipv6::new(SERVER6, UE6, packet::udp(53, 40_000, b"six"))
}

fn six_on() -> Ipv6 {
    Ipv6 { hop_limit: 63, ..six() }
}

fn to_user6(inner: &Ipv6) -> Vec<u8> {
    packet::ethernet(POD_N6_MAC, ROUTER_MAC, ETHERTYPE_IPV6, &inner.bytes())
}

fn relayed(out: &[u8]) -> Option<Vec<u8>> {
    let outer = Ipv4 { fragment: 0x4000, ..Ipv4::new(POD_N3, PEER, packet::udp(2152, 2152, out)) };
    Some(packet::ethernet(ROUTER_MAC, POD_N6_MAC, packet::ETHERTYPE_IPV4, &outer.bytes()))
}

/// QFIs and relays.
pub(super) fn uplink() -> Vec<Case> {
    let of_qfi = Filter { qfis: 1 << QFI | 1 << 5, ..Filter::default() };
    let only_qfi = || with_rules(&[Rule { filter: of_qfi, ..rule() }], &[]);
    let inner = user_packet();
    let in_flow = |qfi| from_gnb(&packet::gtpu_with_container(TEID, 1, qfi, &inner.bytes()));
    let plain = from_gnb(&packet::gtpu(0x30, 255, TEID, &inner.bytes()));
    let relay = Rule { uplink: relay_entry(), ..rule() };
    let other_server = Ipv4 { source: PEER, ..user_packet() };
    let expired = Ipv4 { ttl: 1, ..user_packet() };
    vec![
        case("rules: one of several QFIs", only_qfi(), in_flow(5), REDIRECT, to_router(&one_hop(&inner))),
        case("rules: another QFI", only_qfi(), in_flow(6), drop(N3, Reason::NoRule), None),
        case("rules: no QFI where some are wanted", only_qfi(), plain, drop(N3, Reason::NoRule), None),
        case(
            "rules: relayed",
            with_rules(&[Rule { filter: dns(true), ..relay }], &[]),
            up(&inner),
            REDIRECT,
            relayed(&packet::gtpu_with_container(RELAYED_TEID, 1, QFI, &inner.bytes())),
        ),
        case(
            "rules: not relayed by another rule's filter",
            with_rules(&[Rule { filter: prefix(PEER.into(), 24, true), ..relay }], &[]),
            up(&inner),
            drop(N3, Reason::NoRule),
            None,
        ),
        case(
            "rules: a user sends under its own address only",
            with_rules(&[rule()], &[]),
            up(&other_server),
            drop(N3, Reason::UeSpoofed),
            None,
        ),
        case("rules: none at all", with_rules(&[], &[]), up(&inner), drop(N3, Reason::NoRule), None),
        case("rules: TTL 1", with_rules(&[rule()], &[]), up(&expired), drop(N3, Reason::TtlExpired), None),
        case(
            "rules: End Marker is the pod's",
            with_rules(&[rule()], &[]),
            from_gnb(&packet::gtpu(0x30, 254, TEID, &[])),
            passed(Reason::PassSignalling),
            None,
        ),
        case(
            "rules: an extension header that must be understood",
            with_rules(&[rule()], &[]),
            from_gnb(&packet::gtpu(
                0x34,
                255,
                TEID,
                &[&[0, 0, 0, 0xc1, 1, 0, 0, 0][..], &inner.bytes()].concat(),
            )),
            passed(Reason::PassExtensionHeader),
            None,
        ),
    ]
}

/// What is no packet, and a header that is not all there, in relayed G-PDUs.
pub(super) fn no_packets() -> Vec<Case> {
    let of_qfi = Filter { qfis: 1 << QFI | 1 << 5, ..Filter::default() };
    let relay = Rule { uplink: relay_entry(), ..rule() };
    // As of an unstructured PDU session (TS 23.501 §5.6.10.3).
    let unstructured = *b"\x0a\x01 neither IPv4 nor IPv6";
    let no_class = Filter { tos_mask: 0xff, ..Filter::default() };
    vec![
        case(
            "rules: relayed, though no packet, where no filter asks",
            with_rules(&[relay], &[]),
            from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &unstructured)),
            REDIRECT,
            relayed(&packet::gtpu_with_container(RELAYED_TEID, 1, QFI, &unstructured)),
        ),
        case(
            "rules: what is no packet has no traffic class, also not 0",
            with_rules(&[Rule { filter: no_class, ..relay }], &[]),
            from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &unstructured)),
            drop(N3, Reason::NoRule),
            None,
        ),
        case(
            "rules: nor an address, also not :: or 0.0.0.0",
            with_rules(&[Rule { filter: prefix(Ipv6Addr::UNSPECIFIED.into(), 64, true), ..relay }], &[]),
            from_gnb(&packet::gtpu_with_container(TEID, 1, QFI, &unstructured)),
            drop(N3, Reason::NoRule),
            None,
        ),
        case(
            "rules: a chain of extension headers that passes the message's end",
            with_rules(&[Rule { filter: of_qfi, ..relay }], &[]),
            // Four bytes of optional fields are in the message, and its PDU Session Container is not.
            {
                let datagram = packet::gtpu_with_container(TEID, 1, QFI, &[]);
                let length = [&datagram[..2], &[0, 4], &datagram[4..]].concat();
                from_gnb(&length)
            },
            drop(N3, Reason::Malformed),
            None,
        ),
    ]
}

/// A rule with a meter and a usage in each direction.
pub fn measured() -> MapTables {
    let rate = Rate::of_bits(1_000_000);
    let measured = |key| {
        let mut rule = rule();
        (rule.meters[0], rule.n_meters) = (MeterUse { key, rate }, 1);
        (rule.usages[0], rule.n_usages, rule.limited) = (URR, 1, 1);
        rule
    };
    let mut tables = with_rules(&[measured(UPLINK_METER)], &[measured(DOWNLINK_METER)]);
    tables.meters.borrow_mut().extend([(UPLINK_METER, 0), (DOWNLINK_METER, 0)]);
    tables.usages.borrow_mut().insert(URR, Usage::default());
    tables.limits.insert(URR, UsageLimits::NONE);
    tables
}

/// A meter that is far ahead of any clock: half a turn of it less an hour.
fn used_up(tables: MapTables, key: MeterKey) -> MapTables {
    let ahead = 1_u64 << 62;
    tables.meters.borrow_mut().insert(key, ahead);
    tables
}

fn with_limits(change: impl FnOnce(&mut UsageLimits, &mut Usage)) -> MapTables {
    let mut tables = measured();
    let (mut limits, mut usage) = (UsageLimits::NONE, Usage::default());
    change(&mut limits, &mut usage);
    tables.limits.insert(URR, limits);
    tables.usages.borrow_mut().insert(URR, usage);
    tables
}

/// Meters and quotas.
pub(super) fn enforced() -> Vec<Case> {
    let inner = user_packet();
    let back = Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"to the user"));
    let up_out = || to_router(&one_hop(&inner));
    let total = |it: u64| {
        move |limits: &mut UsageLimits, usage: &mut Usage| (limits.quotas[0], usage.total_bytes) = (1000, it)
    };
    vec![
        case("meter: an idle one lets a packet through", measured(), up(&inner), REDIRECT, up_out()),
        case(
            "meter: over the rate, uplink",
            used_up(measured(), UPLINK_METER),
            up(&inner),
            drop(N3, Reason::RateExceeded),
            None,
        ),
        case(
            "meter: one direction's is not the other's",
            used_up(measured(), DOWNLINK_METER),
            up(&inner),
            REDIRECT,
            up_out(),
        ),
        case(
            "meter: over the rate, downlink",
            used_up(measured(), DOWNLINK_METER),
            from_router(&back.bytes()),
            drop(N6, Reason::RateExceeded),
            None,
        ),
        case("quota: below it", with_limits(total(999)), up(&inner), REDIRECT, up_out()),
        case("quota: used up", with_limits(total(1000)), up(&inner), drop(N3, Reason::QuotaExhausted), None),
        case(
            "quota: used up, to the user",
            with_limits(total(1000)),
            from_router(&back.bytes()),
            drop(N6, Reason::QuotaExhausted),
            None,
        ),
        case(
            "quota: of the other direction",
            with_limits(|limits, usage| (limits.quotas[2], usage.downlink_bytes) = (5, 6)),
            up(&inner),
            REDIRECT,
            up_out(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::frame::SliceFrame;

    fn run(tables: &MapTables, packet: &[u8]) -> Verdict {
        decide(&mut SliceFrame::new(packet), tables, IFINDEX)
    }

    #[test]
    fn usage_counts_inner_bytes_of_what_is_forwarded_and_tells_once() {
        let mut tables = measured();
        let inner = user_packet().bytes().len() as u64;
        let limits = UsageLimits { thresholds: [3 * inner, u64::MAX, u64::MAX], ..UsageLimits::NONE };
        tables.limits.insert(URR, limits);
        let packet = up(&user_packet());
        for _ in 0..5 {
            assert_eq!(run(&tables, &packet), REDIRECT);
        }
        let spoofed = up(&Ipv4 { source: PEER, ..user_packet() });
        assert_eq!(run(&tables, &spoofed), drop(N3, Reason::UeSpoofed));
        let back = Ipv4::new(SERVER, UE, packet::udp(53, 40_000, b"to the user")).bytes();
        assert_eq!(run(&tables, &from_router(&back)), REDIRECT);
        let usage = tables.usages.borrow()[&URR];
        assert_eq!((usage.uplink_packets, usage.uplink_bytes), (5, 5 * inner));
        assert_eq!((usage.downlink_packets, usage.downlink_bytes), (1, back.len() as u64));
        assert_eq!(usage.total_bytes, 5 * inner + back.len() as u64);
        assert_eq!(*tables.reached.borrow(), [URR], "with the packet that reaches it");
    }

    #[test]
    fn a_packet_that_one_meter_refuses_costs_nothing_of_another() {
        let mut tables = used_up(measured(), DOWNLINK_METER);
        let set = RuleKey { set: UPLINK_SET, number: 0 };
        let rule = tables.rules.get_mut(&set).expect("the rule");
        (rule.meters[1], rule.n_meters) = (MeterUse { key: DOWNLINK_METER, ..rule.meters[0] }, 2);
        assert_eq!(run(&tables, &up(&user_packet())), drop(N3, Reason::RateExceeded));
        assert_eq!(tables.meters.borrow()[&UPLINK_METER], 0);
    }
}
