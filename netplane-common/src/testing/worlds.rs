//! Random tables, and packets that are meant for them. What is drawn comes from small pools, so that packets
//! find sessions, and sessions next hops, often enough.

mod traffic;

use super::cases::{
    GNB, GNB6, IFINDEX, ON_LINK6, OTHER_IFINDEX, PEER, PEER6, POD_N3_6, SERVER, SERVER6, UE, UE6,
};
use super::numbers::Numbers;
use super::tables::{MapTables, Prefix, prefix};
use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, Filter, FramedUser, LookedUp,
    NO_INDEX, NextHop, Port, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6, downlink_flags,
    filter_has, next_hop_flags, uplink_flags,
};
use crate::wire::{Be32, ethernet::Mac, ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::FromZeros;

/// Networks, scopes and next hops have numbers below this, session counters below four times as many.
pub const INDICES: u32 = 8;
/// Indices in the device map that next hops name: all of them are to be filled.
pub const PORTS: u32 = 4;

const VLANS: [u16; 3] = [0, 100, 200];
const TEIDS: [u32; 6] = [0, 1, 0x1001, 0x1002, 0x9999, u32::MAX];
const LOCALS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 30, 0, 2), Ipv4Addr::new(10, 30, 0, 3), Ipv4Addr::new(10, 30, 1, 2)];
const LOCALS6: [Ipv6Addr; 2] = [POD_N3_6, Ipv6Addr::new(0x2001, 0xdb8, 0x30, 1, 0, 0, 0, 2)];
const PEERS6: [Ipv6Addr; 3] = [GNB6, PEER6, Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 0x77)];
const PEERS: [Ipv4Addr; 4] = [GNB, PEER, Ipv4Addr::new(10, 30, 0, 77), Ipv4Addr::new(10, 91, 0, 1)];
const USERS: [Ipv4Addr; 4] =
    [UE, Ipv4Addr::new(10, 60, 0, 2), Ipv4Addr::new(10, 60, 1, 1), Ipv4Addr::UNSPECIFIED];
const USERS6: [Ipv6Addr; 3] = [
    UE6,
    Ipv6Addr::new(0x2001, 0xdb8, 0x60, 2, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x61, 1, 0, 0, 0, 9),
];
const SERVERS: [Ipv4Addr; 5] = [
    SERVER,
    Ipv4Addr::new(10, 40, 0, 9),
    Ipv4Addr::new(10, 40, 0, 8),
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(224, 0, 0, 5),
];
const SERVERS6: [Ipv6Addr; 4] = [SERVER6, SERVER6, ON_LINK6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)];
/// Hosts behind users.
const BEHIND: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 61, 0, 5), Ipv4Addr::new(10, 61, 1, 5)];
const BEHIND6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0x62, 1, 0, 0, 0, 5), Ipv6Addr::new(0x2001, 0xdb8, 0x62, 2, 0, 0, 0, 5)];
const MTUS: [u16; 6] = [68, 576, 1280, 1400, 1500, 9000];

/// IPv6, UDP and GTP-U with a PDU Session Container.
const TUNNEL_HEADERS: u16 = 40 + 8 + 8 + 8;

/// Tables and what packets for them are made of.
#[derive(Clone, Debug)]
pub struct World {
    pub tables: MapTables,
}

fn mac(numbers: &mut Numbers) -> Mac {
    Mac::new([2, 0, 0, 0, 0, numbers.pick(&[0x31, 0x31, 0x31, 0x61])])
}

fn port_of(numbers: &mut Numbers) -> Port {
    let ifindex = if numbers.one_in(4) { OTHER_IFINDEX } else { IFINDEX };
    Port::new(ifindex, numbers.pick(&VLANS))
}

fn index(numbers: &mut Numbers) -> u32 {
    if numbers.one_in(20) { NO_INDEX } else { numbers.below(INDICES as usize) as u32 }
}

fn network(numbers: &mut Numbers) -> u16 {
    numbers.below(INDICES as usize) as u16
}

fn counter(numbers: &mut Numbers) -> u32 {
    numbers.below(4 * INDICES as usize) as u32
}

fn dscp(numbers: &mut Numbers) -> u8 {
    numbers.pick(&[0, 0xb8, 0x68])
}

/// Mostly 1 (forward), also drop, relay and a number that nobody knows.
fn action(numbers: &mut Numbers) -> u8 {
    numbers.pick(&[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 7])
}

fn prefix64(address: Ipv6Addr) -> [Be32; 2] {
    let bits = address.to_bits();
    [Be32::new((bits >> 96) as u32), Be32::new((bits >> 64) as u32)]
}

/// A host in a /64.
fn host(prefix: [Be32; 2]) -> Ipv6Addr {
    let [a, b] = prefix.map(|it| u128::from(it.get()));
    Ipv6Addr::from_bits(a << 96 | b << 64 | 1)
}

/// A prefix of allowed peers: all, some bits, or one that is not even a prefix.
fn peers(numbers: &mut Numbers, v4: bool) -> ([Be32; 2], [Be32; 2]) {
    let mask = numbers.pick(&[0, 0, 0, 0, 0xffff_ff00, 0xff00_ff00]);
    let peer = if v4 {
        [numbers.pick(&PEERS).into(), Be32::new(numbers.draw() as u32)]
    } else {
        prefix64(numbers.pick(&PEERS6))
    };
    (peer.map(|it| Be32::new(it.get() & mask)), [Be32::new(mask); 2])
}

/// A prefix around one of these addresses, of a length that often holds others of them too.
fn around(first: u32, address: IpAddr, numbers: &mut Numbers) -> Prefix {
    let len = match address {
        IpAddr::V4(_) => numbers.pick(&[0, 8, 24, 31, 32]),
        IpAddr::V6(_) => numbers.pick(&[0, 32, 64, 127, 128]),
    };
    let (first, address, len) = prefix(first, address, len);
    (first, address & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0), len)
}

fn server(numbers: &mut Numbers) -> IpAddr {
    if numbers.one_in(2) { numbers.pick(&SERVERS).into() } else { numbers.pick(&SERVERS6).into() }
}

fn peer(numbers: &mut Numbers) -> IpAddr {
    if numbers.one_in(2) { numbers.pick(&PEERS).into() } else { numbers.pick(&PEERS6).into() }
}

impl World {
    /// The world of a seed's numbers.
    #[must_use]
    pub fn random(numbers: &mut Numbers) -> Self {
        let mut tables = MapTables::default();
        for index in 0..INDICES {
            tables.next_hops.insert(index, next_hop(numbers));
            if !numbers.one_in(4) {
                tables.routers.insert(index, router(numbers));
            }
        }
        for _ in 0..12 {
            let (port, teid) = (port_of(numbers), Be32::new(numbers.pick(&TEIDS)));
            let key = UplinkKey { port, teid, local: numbers.pick(&LOCALS).into() };
            tables.uplink.insert(key, uplink(numbers, true));
            let (port, teid) = (port_of(numbers), Be32::new(numbers.pick(&TEIDS)));
            let key = UplinkKey6 { port, teid, local: ip::words(numbers.pick(&LOCALS6)) };
            tables.uplink6.insert(key, uplink(numbers, false));
            let key = DownlinkKey4 { port: port_of(numbers), ue: numbers.pick(&USERS).into() };
            tables.downlink4.insert(key, downlink(&tables, numbers));
            let key = DownlinkKey6 { port: port_of(numbers), ue: prefix64(numbers.pick(&USERS6)) };
            tables.downlink6.insert(key, downlink(&tables, numbers));
        }
        for _ in 0..6 {
            let (_, address, len) = around(0, numbers.pick(&BEHIND).into(), numbers);
            let ue = ip::mapped(numbers.pick(&USERS).into());
            tables.framed.insert((port_of(numbers), address, len), FramedUser { ue });
            let (_, address, len) = around(0, numbers.pick(&BEHIND6).into(), numbers);
            let [a, b] = prefix64(numbers.pick(&USERS6));
            let ue = [a, b, Be32::new(0), Be32::new(0)];
            tables.framed.insert((port_of(numbers), address, len), FramedUser { ue });
        }
        for _ in 0..6 {
            let address = ip::mapped(numbers.pick(&LOCALS).into());
            tables.endpoints.insert(EndpointKey { port: port_of(numbers), address }, endpoint(numbers, true));
            let address = ip::words(numbers.pick(&LOCALS6));
            tables
                .endpoints
                .insert(EndpointKey { port: port_of(numbers), address }, endpoint(numbers, false));
        }
        for _ in 0..16 {
            let (scope, server) = (u32::from(network(numbers)), server(numbers));
            tables.routes.insert(around(scope, server, numbers), index(numbers));
            let (network, peer) = (u32::from(network(numbers)), peer(numbers));
            tables.peers.insert(around(network, peer, numbers), ());
        }
        rules(&mut tables, numbers);
        Self { tables }
    }
}

/// Gives some sessions rules, as the agent has them: the entry says how packets go that no filter is for, and rules
/// differ from it in what answers do not look at.
fn rules(tables: &mut MapTables, numbers: &mut Numbers) {
    let mut set = 0;
    for entry in tables.uplink.values_mut().chain(tables.uplink6.values_mut()) {
        if !numbers.one_in(8) {
            continue;
        }
        set += 1;
        (entry.flags, entry.rules) = (entry.flags | uplink_flags::RULES, set);
        let flags = entry.flags & !(uplink_flags::RULES | uplink_flags::CHECK_QFI);
        let plain = UplinkEntry { flags, ..*entry };
        let looks = entry.flags & uplink_flags::CHECK_QFI != 0;
        for number in 0..1 + numbers.below(4) as u32 {
            let action = if numbers.one_in(4) { 0 } else { plain.action };
            let mut rule = Rule { filter: filter(numbers, looks), ..Rule::new_zeroed() };
            rule.uplink = UplinkEntry { action, counter: counter(numbers), ..plain };
            tables.rules.insert(RuleKey { set, number }, rule);
        }
    }
    for entry in tables.downlink4.values_mut().chain(tables.downlink6.values_mut()) {
        if !numbers.one_in(8) {
            continue;
        }
        set += 1;
        (entry.flags, entry.rules) = (entry.flags | downlink_flags::RULES, set);
        let plain = DownlinkEntry { flags: entry.flags & !downlink_flags::RULES, ..*entry };
        for number in 0..1 + numbers.below(4) as u32 {
            let action = if numbers.one_in(4) { 0 } else { plain.action };
            let (qfi, teid) = (numbers.draw() as u8, Be32::new(numbers.pick(&TEIDS)));
            let mut rule = Rule { filter: filter(numbers, false), ..Rule::new_zeroed() };
            rule.downlink = DownlinkEntry { action, qfi, teid, counter: counter(numbers), ..plain };
            tables.rules.insert(RuleKey { set, number }, rule);
        }
    }
}

/// One in three is for all packets.
fn filter(numbers: &mut Numbers, looks_at_qfis: bool) -> Filter {
    let mut filter = Filter::default();
    if looks_at_qfis && numbers.one_in(2) {
        filter.qfis = numbers.draw();
    }
    if numbers.one_in(3) {
        return filter;
    }
    let kinds = [
        filter_has::VERSION,
        filter_has::PROTOCOL,
        filter_has::PORTS,
        filter_has::SPI,
        filter_has::FLOW_LABEL,
        0,
    ];
    filter.has = numbers.pick(&kinds) | if numbers.one_in(3) { numbers.pick(&kinds) } else { 0 };
    filter.version = numbers.pick(&[4, 6]);
    filter.protocol = numbers.pick(&[1, 6, 17, 17, 50]);
    let port = |numbers: &mut Numbers| numbers.draw() as u16;
    let (a, b, c, d) = (port(numbers), port(numbers), port(numbers), port(numbers));
    filter.ports = [a.min(b), a.max(b), c.min(d), c.max(d)];
    filter.word = numbers.pick(&[0, 1, 0x1234]);
    if numbers.one_in(4) {
        filter.tos_mask = numbers.pick(&[3, 0xfc, 0xff]);
        filter.tos = numbers.draw() as u8 & filter.tos_mask;
    }
    if numbers.one_in(3) {
        let (_, address, len) = around(0, server(numbers), numbers);
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let (address, mask) = (ip::words(address.into()), ip::words(mask.into()));
        if numbers.one_in(2) {
            (filter.source, filter.source_mask) = (address, mask);
        } else {
            (filter.destination, filter.destination_mask) = (address, mask);
        }
    }
    filter
}

/// Sessions name it as a tunnel or as a default way, whatever it is.
fn next_hop(numbers: &mut Numbers) -> NextHop {
    let destination = Mac::new([2, 0, 0, 0, 1, numbers.draw() as u8]);
    let (macs, macs_rest) = NextHop::macs(destination, Mac::new([2, 0, 0, 0, 2, numbers.draw() as u8]));
    let is_way = numbers.one_in(2);
    let (flags, way) = if is_way {
        let mask = numbers.pick(&[0, 0xffff_ff00, u32::MAX]);
        let prefix = match server(numbers) {
            IpAddr::V4(it) => [it.into(), Be32::new(0)],
            IpAddr::V6(it) => prefix64(it),
        };
        let prefix = prefix.map(|it| Be32::new(it.get() & mask));
        let looked_up = LookedUp { prefix, mask: [Be32::new(mask); 2] };
        (numbers.pick(&[0, next_hop_flags::LOOK_UP]), NextHop::default_way(looked_up))
    } else {
        let flags = numbers.draw() as u8 & (next_hop_flags::UDP_CHECKSUM | next_hop_flags::FLOW_SOURCE_PORT);
        if numbers.one_in(2) {
            (flags, NextHop::way4(numbers.pick(&LOCALS).into(), numbers.pick(&PEERS).into()))
        } else {
            let way = NextHop::way6(ip::words(numbers.pick(&LOCALS6)), ip::words(numbers.pick(&PEERS6)));
            (flags | next_hop_flags::IPV6, way)
        }
    };
    NextHop {
        macs,
        macs_rest,
        ifindex: numbers.pick(&[IFINDEX, OTHER_IFINDEX]),
        port: numbers.below(PORTS as usize) as u32,
        mtu: numbers.pick(&MTUS),
        vlan: numbers.pick(&VLANS),
        // Mostly resolved; not, or a pod under the master.
        state: numbers.pick(&[1, 1, 1, 1, 1, 1, 1, 1, 0, 2]),
        flags,
        reserved: 0,
        scope: numbers.below(INDICES as usize) as u32,
        way,
    }
}

fn router(numbers: &mut Numbers) -> Router {
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 2).to_bits();
    let word = |shift: u32| Be32::new((six >> shift) as u32);
    Router {
        address4: if numbers.one_in(6) { Be32::new(0) } else { Ipv4Addr::new(10, 40, 0, 2).into() },
        address6: if numbers.one_in(6) {
            Default::default()
        } else {
            [word(96), word(64), word(32), word(0)]
        },
    }
}

fn uplink(numbers: &mut Numbers, v4: bool) -> UplinkEntry {
    let (peer, peer_mask) = peers(numbers, v4);
    // A third has framed routes, on a data network whose VLAN is one of these.
    let is_framed = numbers.one_in(3);
    let teid = if is_framed { u32::from(numbers.pick(&VLANS)) } else { numbers.pick(&TEIDS) };
    let framed = if is_framed { uplink_flags::FRAMED } else { 0 };
    UplinkEntry {
        action: action(numbers),
        // Checks of user and QFI and a copied DSCP in all combinations; a list of peers seldom.
        flags: numbers.pick(&[0, 1, 4, 5, 8, 9]) | if numbers.one_in(5) { 2 } else { 0 } | framed,
        network: network(numbers),
        mac: mac(numbers),
        dscp: dscp(numbers),
        qfi: numbers.pick(&[0, 9, 63]),
        peer,
        peer_mask,
        ue4: numbers.pick(&USERS).into(),
        ue6: prefix64(numbers.pick(&USERS6)),
        next_hop4: index(numbers),
        next_hop6: index(numbers),
        counter: counter(numbers),
        teid: Be32::new(teid),
        rules: 0,
        data_ifindex: IFINDEX,
    }
}

fn downlink(tables: &MapTables, numbers: &mut Numbers) -> DownlinkEntry {
    let next_hop = index(numbers);
    // As the agent has it: what fits the session fits the way with all headers.
    let room = tables.next_hops.get(&next_hop).map_or(u16::MAX, |it| it.mtu - TUNNEL_HEADERS);
    DownlinkEntry {
        action: action(numbers),
        flags: numbers.draw() as u8 & 0x03,
        network: network(numbers),
        mac: mac(numbers),
        dscp: dscp(numbers),
        qfi: numbers.draw() as u8,
        teid: Be32::new(numbers.pick(&TEIDS)),
        next_hop,
        counter: counter(numbers),
        mtu: numbers.pick(&MTUS).min(room),
        reserved0: 0,
        scope: numbers.below(INDICES as usize) as u32,
        rules: 0,
        reserved1: 0,
    }
}

fn endpoint(numbers: &mut Numbers, v4: bool) -> EndpointEntry {
    let (peer, peer_mask) = peers(numbers, v4);
    EndpointEntry {
        unknown_teid: numbers.pick(&[0, 1, 2, 2, 9]),
        flags: numbers.draw() as u8 & 0x03,
        network: network(numbers),
        mac: mac(numbers),
        reserved: 0,
        peer,
        peer_mask,
    }
}

#[cfg(test)]
mod tests {
    use super::super::invariants::{judge, pass};
    use super::super::packet::hex;
    use super::*;
    use crate::verdict::Verdict;
    use std::collections::BTreeMap;

    #[test]
    fn random_worlds_keep_the_rules_and_packets_come_far() {
        let mut verdicts = BTreeMap::<&str, u32>::new();
        for seed in 0..400 {
            let mut numbers = Numbers::new(seed);
            let world = World::random(&mut numbers);
            for round in 0..100 {
                let packet = world.packet(&mut numbers);
                let passage = pass(&world.tables, &packet);
                if let Err(rule) = judge(&world.tables, &packet, &passage) {
                    panic!("seed {seed} round {round}: {rule}: {:?}\n{}", passage.verdict, hex(&packet));
                }
                let kind = match passage.verdict {
                    Verdict::Pass | Verdict::Unfinished | Verdict::ToRules { .. } | Verdict::Buffered => {
                        "pass"
                    }
                    Verdict::Transmit => "transmit",
                    Verdict::Redirect { .. } => "redirect",
                    Verdict::Deliver { .. } => "deliver",
                    Verdict::PassCounted { reason, .. }
                    | Verdict::Answer { reason, .. }
                    | Verdict::ToAnswer { reason, .. }
                    | Verdict::Drop { reason, .. } => reason.name(),
                };
                *verdicts.entry(kind).or_default() += 1;
            }
        }
        // Every outcome that tables and packets can have is among them; frames in memory have room, are never
        // merged or in fragments, and reach pods under a master.
        let rare: Vec<_> = crate::verdict::Reason::ALL
            .iter()
            .map(|it| it.name())
            .chain(["pass", "transmit", "redirect"])
            .filter(|name| {
                let without_rules = [
                    "rate-exceeded",
                    "quota-exhausted",
                    "not-buffered",
                    "buffer-overflow",
                    "buffer-discarded",
                ];
                !["no-room", "merged", "pass-local", "pass-headers-hidden"].contains(name)
                    && !without_rules.contains(name)
                    && verdicts.get(name).is_none_or(|count| *count < 20)
            })
            .collect();
        assert!(rare.is_empty(), "{rare:?} of {verdicts:?}");
        let forwarded = verdicts["transmit"] + verdicts["redirect"] + verdicts["deliver"];
        assert!(forwarded > 4_000, "{forwarded} of 40,000 were forwarded: {verdicts:?}");
    }
}
