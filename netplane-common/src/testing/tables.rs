//! Tables in memory, and the numbers that cases and benches share.

use crate::map::{
    Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey, FramedUser,
    GtpuEvent, MeterKey, MeterUse, NextHop, PeerKey, Port, Rate, RouteKey, Router, Rule, RuleKey,
    UplinkEntry, UplinkKey, UplinkKey6, Usage, UsageKey, UsageLimits,
};
use crate::tables::Tables;
use crate::wire::{Be32, ip};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A prefix of a trie: 32 bits that always count, then so many of the address (IPv4 as IPv4-mapped).
pub type Prefix = (u32, u128, u8);

/// The prefix of an address of either family, as tries have it.
pub fn prefix(first: u32, address: IpAddr, len: u8) -> Prefix {
    match address {
        IpAddr::V4(address) => (first, address.to_ipv6_mapped().to_bits(), len + 96),
        IpAddr::V6(address) => (first, address.to_bits(), len),
    }
}

/// The key that an address and a prefix of it are in a trie.
pub fn words(bits: u128) -> [Be32; 4] {
    ip::words(bits.into())
}

/// Ordered maps in place of BPF maps.
#[derive(Clone, Debug, Default)]
pub struct MapTables {
    pub uplink: BTreeMap<UplinkKey, UplinkEntry>,
    pub uplink6: BTreeMap<UplinkKey6, UplinkEntry>,
    pub downlink4: BTreeMap<DownlinkKey4, DownlinkEntry>,
    pub downlink6: BTreeMap<DownlinkKey6, DownlinkEntry>,
    pub endpoints: BTreeMap<EndpointKey, EndpointEntry>,
    pub next_hops: BTreeMap<u32, NextHop>,
    /// (scope, address, length) → next hop's index.
    pub routes: BTreeMap<Prefix, u32>,
    /// (network, address, length).
    pub peers: BTreeMap<Prefix, ()>,
    /// (port, address, length) → the user.
    pub framed: BTreeMap<(Port, u128, u8), FramedUser>,
    pub routers: BTreeMap<u32, Router>,
    pub counters: RefCell<BTreeMap<u32, Counter>>,
    pub wanted: RefCell<Vec<RouteKey>>,
    pub told: RefCell<Vec<GtpuEvent>>,
    pub rules: BTreeMap<RuleKey, Rule>,
    /// States in ticks; the clock is `now`, in nanoseconds, and stands still by itself.
    pub meters: RefCell<BTreeMap<MeterKey, u64>>,
    pub now: Cell<u64>,
    pub usages: RefCell<BTreeMap<UsageKey, Usage>>,
    pub limits: BTreeMap<UsageKey, UsageLimits>,
    /// Usages that have reached a limit.
    pub reached: RefCell<Vec<UsageKey>>,
}

fn longest<T: Copy>(map: &BTreeMap<Prefix, T>, first: u32, address: [Be32; 4]) -> Option<T> {
    let address = bits(address);
    (0..=128_u8).rev().find_map(|len| map.get(&(first, address & mask(len), len)).copied())
}

fn bits(address: [Be32; 4]) -> u128 {
    address.iter().fold(0_u128, |bits, word| bits << 32 | u128::from(word.get()))
}

/// Of a prefix of so many bits.
pub(super) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl Tables for MapTables {
    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry> {
        self.uplink.get(key)
    }

    fn uplink6(&self, key: &UplinkKey6) -> Option<&UplinkEntry> {
        self.uplink6.get(key)
    }

    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry> {
        self.downlink4.get(key)
    }

    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry> {
        self.downlink6.get(key)
    }

    fn framed(&self, key: &FramedKey) -> Option<&FramedUser> {
        let address = bits(key.address);
        (0..=128_u8).rev().find_map(|len| self.framed.get(&(key.port, address & mask(len), len)))
    }

    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.next_hops.get(&index)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry> {
        self.endpoints.get(key)
    }

    fn peer_listed(&self, key: &PeerKey) -> bool {
        longest(&self.peers, key.network, key.address).is_some()
    }

    fn route(&self, key: &RouteKey) -> Option<u32> {
        longest(&self.routes, key.scope, key.destination)
    }

    fn want_neighbour(&self, key: &RouteKey) {
        self.wanted.borrow_mut().push(*key);
    }

    fn tell(&self, event: &GtpuEvent) {
        self.told.borrow_mut().push(*event);
    }

    fn router(&self, scope: u32) -> Option<&Router> {
        self.routers.get(&scope)
    }

    fn may_answer(&self) -> bool {
        true
    }

    fn count_session(&self, counter: u32, bytes: u32) {
        let mut counters = self.counters.borrow_mut();
        let counter = counters.entry(counter).or_default();
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }

    fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        self.rules.get(key)
    }

    fn meter(&self, meter: &MeterUse, bytes: u32, take: bool) -> bool {
        let mut meters = self.meters.borrow_mut();
        let Some(state) = meters.get_mut(&meter.key) else { return true };
        let new = meter.rate.take(*state, self.now.get() * Rate::TICKS_PER_NS, bytes);
        if let (Some(new), true) = (new, take) {
            *state = new;
        }
        new.is_some()
    }

    fn is_used_up(&self, usage: &UsageKey, is_uplink: bool) -> bool {
        let usages = self.usages.borrow();
        usages
            .get(usage)
            .zip(self.limits.get(usage))
            .is_some_and(|(it, limits)| limits.is_used_up(it, is_uplink))
    }

    fn count_usage(&self, usage: &UsageKey, bytes: u32, is_uplink: bool, limited: bool) {
        let mut usages = self.usages.borrow_mut();
        let Some(it) = usages.get_mut(usage) else { return };
        it.total_bytes += u64::from(bytes);
        let (own, packets) = match is_uplink {
            true => (&mut it.uplink_bytes, &mut it.uplink_packets),
            false => (&mut it.downlink_bytes, &mut it.downlink_packets),
        };
        (*own, *packets) = (*own + u64::from(bytes), *packets + 1);
        let after = (it.total_bytes, *own, *packets);
        if limited && self.limits.get(usage).is_some_and(|it| it.tells(after, bytes, is_uplink)) {
            self.reached.borrow_mut().push(*usage);
        }
    }
}
