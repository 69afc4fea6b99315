//! The decision's tables as BPF maps.

use crate::maps;
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, Event, EventKind, FramedKey,
    FramedUser, GtpuEvent, MeterUse, NextHop, PeerKey, RouteKey, Router, Rule, RuleKey, Slot, UplinkEntry,
    UplinkKey, UplinkKey6, UsageKey,
};
use netplane_common::tables::Tables;
use netplane_common::wire::ethernet::Mac;

/// Bits of a trie's key: network or scope, and an address.
const WHOLE_KEY: u32 = 32 + 128;
/// Of the trie of framed routes: port and address.
const WHOLE_FRAMED_KEY: u32 = 64 + 128;

/// The maps of this object. A program that answers does without the arrays: it has no stack left for their keys.
pub(crate) struct Maps<const INDEXED: bool = true>;

impl<const INDEXED: bool> Tables for Maps<INDEXED> {
    #[inline(always)]
    fn is_nobodys(&self, mac: Mac) -> bool {
        let (word, mask) = mac.bit();
        maps::NOBODYS.get(word).is_some_and(|it| it & mask != 0)
    }

    #[inline(always)]
    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry> {
        if INDEXED
            && let Some(it) = maps::UPLINK_INDEX.get(key.slot(maps::index_mask()))
            && it.key == *key
        {
            return Some(&it.entry);
        }
        // SAFETY: the program only reads; the agent replaces whole elements, and one that is recycled
        // under a reader still holds a complete entry (of another session, for one packet at most).
        unsafe { maps::UPLINK.get(key) }
    }

    #[inline(always)]
    fn uplink6(&self, key: &UplinkKey6) -> Option<&UplinkEntry> {
        // SAFETY: as for `uplink`.
        unsafe { maps::UPLINK6.get(key) }
    }

    #[inline(always)]
    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry> {
        if INDEXED
            && let Some(it) = maps::DOWNLINK4_INDEX.get(key.slot(maps::index_mask()))
            && it.key == *key
        {
            return Some(&it.entry);
        }
        // SAFETY: as for `uplink`.
        unsafe { maps::DOWNLINK4.get(key) }
    }

    #[inline(always)]
    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry> {
        if INDEXED
            && let Some(it) = maps::DOWNLINK6_INDEX.get(key.slot(maps::index_mask()))
            && it.key == *key
        {
            return Some(&it.entry);
        }
        // SAFETY: as for `uplink`.
        unsafe { maps::DOWNLINK6.get(key) }
    }

    #[inline(always)]
    fn framed(&self, key: &FramedKey) -> Option<&FramedUser> {
        maps::FRAMED.get(maps::FramedTrieKey::new(WHOLE_FRAMED_KEY, *key))
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        maps::NEXT_HOPS.get(index)
    }

    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry> {
        // SAFETY: as for `uplink`.
        unsafe { maps::ENDPOINTS.get(key) }
    }

    #[inline(always)]
    fn peer_listed(&self, key: &PeerKey) -> bool {
        maps::PEERS.get(maps::PeerTrieKey::new(WHOLE_KEY, *key)).is_some()
    }

    #[inline(always)]
    fn route(&self, key: &RouteKey) -> Option<u32> {
        maps::ROUTES.get(maps::RouteTrieKey::new(WHOLE_KEY, *key)).copied()
    }

    #[inline(always)]
    fn want_neighbour(&self, key: &RouteKey) {
        let event =
            Event { kind: EventKind::NeighbourWanted as u32, scope: key.scope, address: key.destination };
        // A full buffer: the next packet asks again.
        let _ = maps::EVENTS.output::<Event>(event, 0);
    }

    #[inline(always)]
    fn tell(&self, event: &GtpuEvent) {
        // Nobody floods the agent, nor other events.
        if crate::counters::take(crate::counters::EVENTS) {
            let _ = maps::EVENTS.output::<GtpuEvent>(event, 0);
        }
    }

    #[inline(always)]
    fn router(&self, scope: u32) -> Option<&Router> {
        maps::ROUTERS.get(scope)
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        crate::counters::take(crate::counters::ANSWERS)
    }

    #[inline(always)]
    fn count_session(&self, counter: u32, bytes: u32) {
        crate::counters::count_session(counter, bytes);
    }

    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        // SAFETY: as for `uplink`.
        unsafe { maps::RULES.get(key) }
    }

    #[inline(always)]
    fn meter(&self, meter: &MeterUse, bytes: u32, take: bool) -> bool {
        crate::usage::meter(meter, bytes, take)
    }

    #[inline(always)]
    fn is_used_up(&self, usage: &UsageKey, is_uplink: bool) -> bool {
        crate::usage::is_used_up(usage, is_uplink)
    }

    #[inline(always)]
    fn count_usage(&self, usage: &UsageKey, bytes: u32, is_uplink: bool, limited: bool) {
        crate::usage::count(usage, bytes, is_uplink, limited);
    }
}
