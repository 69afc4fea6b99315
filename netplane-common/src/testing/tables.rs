//! Tables in memory, and the numbers that cases and benches share.

use crate::map::{
    Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, NextHop, PeerKey,
    RouteKey, Router, UplinkEntry, UplinkKey,
};
use crate::tables::Tables;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A prefix of a trie: 32 bits that always count, then so many of the address.
pub type Prefix = (u32, u32, u8);

/// Ordered maps in place of BPF maps.
#[derive(Clone, Debug, Default)]
pub struct MapTables {
    pub uplink: BTreeMap<UplinkKey, UplinkEntry>,
    pub downlink4: BTreeMap<DownlinkKey4, DownlinkEntry>,
    pub downlink6: BTreeMap<DownlinkKey6, DownlinkEntry>,
    pub endpoints: BTreeMap<EndpointKey, EndpointEntry>,
    pub next_hops: BTreeMap<u32, NextHop>,
    /// (scope, address, length) → next hop's index.
    pub routes4: BTreeMap<Prefix, u32>,
    /// (network, address, length).
    pub peers: BTreeMap<Prefix, ()>,
    pub routers: BTreeMap<u32, Router>,
    pub counters: RefCell<BTreeMap<u32, Counter>>,
    pub wanted: RefCell<Vec<RouteKey>>,
}

fn longest<T: Copy>(map: &BTreeMap<Prefix, T>, first: u32, address: u32) -> Option<T> {
    (0..=32_u8).rev().find_map(|len| {
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        map.get(&(first, address & mask, len)).copied()
    })
}

impl Tables for MapTables {
    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry> {
        self.uplink.get(key)
    }

    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry> {
        self.downlink4.get(key)
    }

    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry> {
        self.downlink6.get(key)
    }

    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.next_hops.get(&index)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry> {
        self.endpoints.get(key)
    }

    fn peer_listed(&self, key: &PeerKey) -> bool {
        longest(&self.peers, key.network, key.address.get()).is_some()
    }

    fn route4(&self, key: &RouteKey) -> Option<u32> {
        longest(&self.routes4, key.scope, key.destination.get())
    }

    fn want_neighbour(&self, key: &RouteKey) {
        self.wanted.borrow_mut().push(*key);
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
}
