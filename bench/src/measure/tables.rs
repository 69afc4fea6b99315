//! The tables of the programs under test: the case table's standard ones, and as many sessions as are asked
//! for.

use super::scenario::{
    ECHO_ENDPOINT, Extra, INDEX_MASK, downlink_key, downlink_key6, relay_key, ruled_uplink_key, ruled_user,
    uplink_key, uplink_key6, user, user_prefix,
};
use crate::load::index;
use crate::load::objects::map;
use anyhow::Result;
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, Filter, IndexedDownlink4,
    IndexedDownlink6, IndexedUplink, MeterKey, MeterUse, NextHop, PeerKey, Rate, RouteKey, Router, Rule,
    RuleKey, UplinkEntry, UplinkKey, UplinkKey6, Usage, UsageKey, downlink_flags, endpoint_flags, filter_has,
    uplink_flags,
};
use netplane_common::testing::tables::words;
use netplane_common::testing::{cases, rules};
use netplane_common::wire::ethernet::Mac;
use netplane_common::wire::{Be32, ip};

/// Sizes of the product's maps for so many sessions: each once as an uplink, a relay and a downlink.
pub(super) fn sizes(sessions: u32) -> [(&'static str, u32); 5] {
    // The case table's own sessions and counters have room beside them.
    let ruled = 3 * sessions.min(RULED);
    [
        ("UPLINK", 2 * sessions + ruled + 64),
        ("DOWNLINK4", sessions + ruled + 64),
        ("SESSION_COUNTERS", 2 * sessions + 64),
        ("UPLINK6", sessions.min(SESSIONS6) + 64),
        ("DOWNLINK6", sessions.min(SESSIONS6) + 64),
    ]
}

/// Sessions that IPv6 is measured with, at most.
pub(super) const SESSIONS6: u32 = 1000;

/// Fills the product's maps.
pub(super) fn fill(product: &mut Ebpf, sessions: u32) -> Result<()> {
    let standard = cases::standard();
    let mut next_hops: Array<_, NextHop> = map(product, "NEXT_HOPS")?;
    standard.next_hops.iter().try_for_each(|(index, it)| next_hops.set(*index, it, 0))?;
    let mut ports: DevMap<_> = map(product, "PORTS")?;
    ports.set(cases::OTHER_PORT, cases::IFINDEX, None, 0)?;
    map::<Array<_, u32>>(product, "DEVICES")?.set(cases::OTHER_PORT, cases::IFINDEX, 0)?;
    let mut endpoints: HashMap<_, EndpointKey, EndpointEntry> = map(product, "ENDPOINTS")?;
    standard.endpoints.iter().try_for_each(|(key, it)| endpoints.insert(key, it, 0))?;
    if let Some((key, entry)) = standard.endpoints.first_key_value() {
        let key = EndpointKey { address: ip::mapped_address(ECHO_ENDPOINT.into()), ..*key };
        let entry = EndpointEntry { flags: entry.flags | endpoint_flags::ECHO, ..*entry };
        endpoints.insert(key, entry, 0)?;
    }
    // As the agent does where these are the only MACs.
    let mut nobodys: Array<_, u64> = map(product, "NOBODYS")?;
    for index in 0..Mac::BIT_WORDS {
        let own = [cases::POD_N3_MAC, cases::POD_N6_MAC].map(|it| Mac::new(it).bit());
        let known = own.iter().filter(|(word, _)| *word == index);
        nobodys.set(index, known.fold(u64::MAX, |word, (_, mask)| word & !mask), 0)?;
    }
    let mut routes: LpmTrie<_, RouteKey, u32> = map(product, "ROUTES")?;
    for ((scope, address, length), next_hop) in &standard.routes {
        let key = RouteKey { scope: *scope, destination: words(*address) };
        routes.insert(&Key::new(32 + u32::from(*length), key), next_hop, 0)?;
    }
    let mut routers: Array<_, Router> = map(product, "ROUTERS")?;
    standard.routers.iter().try_for_each(|(scope, it)| routers.set(*scope, it, 0))?;
    let mut peers: LpmTrie<_, PeerKey, u8> = map(product, "PEERS")?;
    for (network, address, length) in standard.peers.keys() {
        let key = PeerKey { network: *network, address: words(*address) };
        peers.insert(&Key::new(32 + u32::from(*length), key), 1, 0)?;
    }
    fill_sessions(product, sessions)?;
    fill_ruled(product, sessions.min(RULED))?;
    fill_arrays(product)
}

/// All sessions once more, where packets find them without a hash.
fn fill_arrays(product: &mut Ebpf) -> Result<()> {
    let uplink: HashMap<_, UplinkKey, UplinkEntry> = map(product, "UPLINK")?;
    let uplink: Vec<_> = uplink.iter().collect::<Result<_, _>>()?;
    index::fill::<IndexedUplink>(product, "UPLINK_INDEX", INDEX_MASK, uplink.into_iter())?;
    let downlink: HashMap<_, DownlinkKey4, DownlinkEntry> = map(product, "DOWNLINK4")?;
    let downlink: Vec<_> = downlink.iter().collect::<Result<_, _>>()?;
    index::fill::<IndexedDownlink4>(product, "DOWNLINK4_INDEX", INDEX_MASK, downlink.into_iter())?;
    let downlink: HashMap<_, DownlinkKey6, DownlinkEntry> = map(product, "DOWNLINK6")?;
    let downlink: Vec<_> = downlink.iter().collect::<Result<_, _>>()?;
    index::fill::<IndexedDownlink6>(product, "DOWNLINK6_INDEX", INDEX_MASK, downlink.into_iter())?;
    Ok(())
}

/// Sessions that each kind of rule is measured with, at most.
const RULED: u32 = 1000;

/// Sessions with a rule of each kind.
fn fill_ruled(product: &mut Ebpf, sessions: u32) -> Result<()> {
    let mut set = 0;
    for (extra, session) in Extra::ALL.into_iter().flat_map(|it| (0..sessions).map(move |n| (it, n))) {
        let [up, down] = [set, set + 1];
        set += 2;
        let user = ruled_user(extra, session);
        let (key, plain) = (ruled_uplink_key(extra, session), cases::uplink_entry());
        let entry = UplinkEntry { ue4: user.into(), counter: session, ..plain };
        let with_rules = UplinkEntry { flags: plain.flags | uplink_flags::RULES, rules: up, ..entry };
        map::<HashMap<_, UplinkKey, UplinkEntry>>(product, "UPLINK")?.insert(key, with_rules, 0)?;
        let key = DownlinkKey4 { port: cases::port(), ue: user.into() };
        let plain = DownlinkEntry { counter: sessions + session, mtu: 1456, ..cases::downlink_entry() };
        let with_rules = DownlinkEntry { flags: plain.flags | downlink_flags::RULES, rules: down, ..plain };
        map::<HashMap<_, DownlinkKey4, DownlinkEntry>>(product, "DOWNLINK4")?.insert(key, with_rules, 0)?;
        for (set, direction) in [(up, 0), (down, MeterKey::DOWNLINK)] {
            let mut rule = Rule { uplink: entry, downlink: plain, ..rules::rule() };
            match extra {
                Extra::Filter => {
                    rule.filter = Filter {
                        has: filter_has::PROTOCOL | filter_has::PORTS,
                        protocol: 17,
                        ports: [0, u16::MAX, 0, u16::MAX],
                        ..Filter::default()
                    };
                }
                Extra::Meter => {
                    let key = MeterKey { session: session | direction, qer: 1 };
                    map::<HashMap<_, MeterKey, u64>>(product, "METERS")?.insert(key, 0, 0)?;
                    rule.meters[0] = MeterUse { key, rate: Rate::of_bits(100_000_000_000) };
                    rule.n_meters = 1;
                }
                Extra::Usage => {
                    let key = UsageKey { session, urr: 1 };
                    map::<HashMap<_, UsageKey, Usage>>(product, "USAGES")?.insert(
                        key,
                        Usage::default(),
                        0,
                    )?;
                    (rule.usages[0], rule.n_usages) = (key, 1);
                }
            }
            map::<HashMap<_, RuleKey, Rule>>(product, "RULES")?.insert(
                RuleKey { set, number: 0 },
                rule,
                0,
            )?;
        }
    }
    Ok(())
}

fn fill_sessions(product: &mut Ebpf, sessions: u32) -> Result<()> {
    let standard = cases::standard();
    let mut uplink: HashMap<_, UplinkKey, UplinkEntry> = map(product, "UPLINK")?;
    standard.uplink.iter().try_for_each(|(key, it)| uplink.insert(key, it, 0))?;
    for session in 0..sessions {
        let entry = UplinkEntry { ue4: user(session).into(), counter: session, ..cases::uplink_entry() };
        uplink.insert(uplink_key(session), entry, 0)?;
        let entry = UplinkEntry { counter: session, ..cases::relay_entry() };
        uplink.insert(relay_key(session), entry, 0)?;
    }
    let mut downlink: HashMap<_, DownlinkKey4, DownlinkEntry> = map(product, "DOWNLINK4")?;
    standard.downlink4.iter().try_for_each(|(key, it)| downlink.insert(key, it, 0))?;
    for session in 0..sessions {
        // The largest of the sizes that are measured fits.
        let entry = DownlinkEntry { counter: sessions + session, mtu: 1456, ..cases::downlink_entry() };
        downlink.insert(downlink_key(session), entry, 0)?;
    }
    fill_sessions6(product, sessions)
}

fn fill_sessions6(product: &mut Ebpf, sessions: u32) -> Result<()> {
    let standard = cases::standard();
    let mut uplink: HashMap<_, UplinkKey6, UplinkEntry> = map(product, "UPLINK6")?;
    standard.uplink6.iter().try_for_each(|(key, it)| uplink.insert(key, it, 0))?;
    for session in 0..sessions.min(SESSIONS6) {
        let ue6 = user_prefix(session);
        let entry = UplinkEntry { ue6, counter: session, ..cases::uplink_entry6() };
        uplink.insert(uplink_key6(session), entry, 0)?;
    }
    let mut downlink: HashMap<_, DownlinkKey6, DownlinkEntry> = map(product, "DOWNLINK6")?;
    standard.downlink6.iter().try_for_each(|(key, it)| downlink.insert(key, it, 0))?;
    for session in 0..sessions.min(SESSIONS6) {
        let entry = DownlinkEntry {
            counter: sessions + session,
            mtu: 1436,
            next_hop: cases::TO_GNB6,
            ..cases::downlink_entry()
        };
        downlink.insert(downlink_key6(session), entry, 0)?;
    }
    Ok(())
}

/// `FloorSession` of `netplane-ebpf/src/bench/floor.rs`: user, peer, local, TEID, next hop, counter.
type FloorSession = [u32; 6];

/// `FloorNextHop` of the same file: MACs, port.
type FloorNextHop = [u32; 4];

/// `FloorLine` of the same file: session, TEID, and nothing counted yet.
type FloorLine = [u32; 16];

/// An index for each value of a TEID's lowest 20 bits.
const FLOOR_LINES: u32 = 1 << 20;

/// Sizes of the floor's maps.
pub(super) fn floor_sizes(sessions: u32) -> [(&'static str, u32); 4] {
    [
        ("FLOOR_UPLINK", sessions),
        ("FLOOR_DOWNLINK", sessions),
        ("FLOOR_COUNTERS", 2 * sessions),
        ("FLOOR_LINES", FLOOR_LINES),
    ]
}

/// Fills the floor's maps with the same sessions.
pub(super) fn fill_floor(bench: &mut Ebpf, sessions: u32) -> Result<()> {
    let mut next_hops: Array<_, FloorNextHop> = map(bench, "FLOOR_NEXT_HOPS")?;
    next_hops.set(cases::TO_ROUTER, floor_next_hop(cases::ROUTER_MAC, cases::POD_N6_MAC), 0)?;
    next_hops.set(cases::TO_GNB, floor_next_hop(cases::GNB_MAC, cases::POD_N3_MAC), 0)?;
    let mut ports: DevMap<_> = map(bench, "FLOOR_PORTS")?;
    ports.set(cases::OTHER_PORT, cases::IFINDEX, None, 0)?;
    let raw = |address: std::net::Ipv4Addr| Be32::from(address).raw();
    let session = |session: u32, next_hop, counter| -> FloorSession {
        let teid = Be32::new(cases::DOWNLINK_TEID).raw();
        [raw(user(session)), raw(cases::GNB), raw(cases::POD_N3), teid, next_hop, counter]
    };
    let mut uplink: HashMap<_, [u32; 2], FloorSession> = map(bench, "FLOOR_UPLINK")?;
    for it in 0..sessions {
        let key = [uplink_key(it).teid.raw(), raw(cases::POD_N3)];
        uplink.insert(key, session(it, cases::TO_ROUTER, it), 0)?;
    }
    let mut lines: Array<_, FloorLine> = map(bench, "FLOOR_LINES")?;
    for it in 0..sessions {
        let teid = uplink_key(it).teid;
        let mut line = FloorLine::default();
        line[..6].copy_from_slice(&session(it, cases::TO_ROUTER, it));
        line[6] = teid.raw();
        lines.set(teid.get() % FLOOR_LINES, line, 0)?;
    }
    let mut downlink: HashMap<_, u32, FloorSession> = map(bench, "FLOOR_DOWNLINK")?;
    for it in 0..sessions {
        downlink.insert(raw(user(it)), session(it, cases::TO_GNB, sessions + it), 0)?;
    }
    Ok(())
}

fn floor_next_hop(to: [u8; 6], from: [u8; 6]) -> FloorNextHop {
    let [a, b, c, d, e, f] = to;
    let [g, h, i, j, k, l] = from;
    let word = u32::from_ne_bytes;
    [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), cases::OTHER_PORT]
}
