//! The compiled tables as the forwarding decision asks them: what the kernel does with a packet can be told
//! without one. Nothing is counted.

use super::tables::Tables;
use ipnet::IpNet;
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey, FramedUser, GtpuEvent,
    MeterUse, NextHop, PeerKey, RouteKey, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6,
    UsageKey,
};
use netplane_common::tables;
use netplane_common::wire::{Be32, ip};

/// Tables that are only looked at.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a>(pub &'a Tables);

/// The value of the longest prefix with the address.
fn longest<T>(prefixes: impl Iterator<Item = (IpNet, T)>, address: [Be32; 4]) -> Option<T> {
    let address = ip::unmapped(address);
    let matching = prefixes.filter(|(prefix, _)| prefix.contains(&address));
    matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, value)| value)
}

impl tables::Tables for Lookup<'_> {
    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry> {
        self.0.uplink.get(key)
    }

    fn uplink6(&self, key: &UplinkKey6) -> Option<&UplinkEntry> {
        self.0.uplink6.get(key)
    }

    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry> {
        self.0.downlink4.get(key)
    }

    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry> {
        self.0.downlink6.get(key)
    }

    fn framed(&self, key: &FramedKey) -> Option<&FramedUser> {
        let own = self.0.framed.iter().filter(|(it, _)| it.port == key.port);
        longest(own.map(|(it, user)| (it.prefix, user)), key.address)
    }

    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.0.next_hops.get(&index)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry> {
        self.0.endpoints.get(key)
    }

    fn peer_listed(&self, key: &PeerKey) -> bool {
        let own = self.0.peers.iter().filter(|it| u32::from(it.network) == key.network);
        longest(own.map(|it| (it.prefix, ())), key.address).is_some()
    }

    fn route(&self, key: &RouteKey) -> Option<u32> {
        let own = self.0.routes.iter().filter(|(it, _)| it.scope == key.scope);
        longest(own.map(|(it, next_hop)| (it.prefix, *next_hop)), key.destination)
    }

    fn want_neighbour(&self, _: &RouteKey) {}

    fn tell(&self, _: &GtpuEvent) {}

    fn router(&self, scope: u32) -> Option<&Router> {
        self.0.routers.get(&scope)
    }

    fn may_answer(&self) -> bool {
        true
    }

    fn count_session(&self, _: u32, _: u32) {}

    fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        self.0.rules.get(key)
    }

    /// Of one packet: within the rate.
    fn meter(&self, _: &MeterUse, _: u32, _: bool) -> bool {
        true
    }

    fn is_used_up(&self, _: &UsageKey, _: bool) -> bool {
        false
    }

    fn count_usage(&self, _: &UsageKey, _: u32, _: bool, _: bool) {}
}
