//! Lookups and calls of each path, counted on slices: the decision is the same code as in the kernel.

use super::Counts;
use crate::load::scenario::Order;
use crate::measure::{Path, Scenario};
use netplane_common::decide::decide;
use netplane_common::frame::{Frame, SliceFrame};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey, FramedUser, GtpuEvent,
    MeterUse, NextHop, PeerKey, RouteKey, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6,
    UsageKey,
};
use netplane_common::tables::Tables;
use netplane_common::testing::cases::{self, Case};
use netplane_common::testing::tables::MapTables;
use netplane_common::verdict::Verdict;
use netplane_common::wire::Wire;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Looked at by packets of sessions with rules only.
const RULES: &str = "rules";

/// Counts what is asked of it and passes it on.
struct Counted<'a, T> {
    inner: T,
    counts: &'a RefCell<Counts>,
}

impl<T> Counted<'_, T> {
    fn note(&self, what: &str) {
        *self.counts.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }
}

impl Tables for Counted<'_, &MapTables> {
    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry> {
        self.note("hash lookups");
        self.inner.uplink(key)
    }

    fn uplink6(&self, key: &UplinkKey6) -> Option<&UplinkEntry> {
        self.note("hash lookups");
        self.inner.uplink6(key)
    }

    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry> {
        self.note("hash lookups");
        self.inner.downlink4(key)
    }

    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry> {
        self.note("hash lookups");
        self.inner.downlink6(key)
    }

    fn framed(&self, key: &FramedKey) -> Option<&FramedUser> {
        self.note("trie lookups");
        self.inner.framed(key)
    }

    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.note("array lookups");
        self.inner.next_hop(index)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry> {
        self.note("hash lookups");
        self.inner.endpoint(key)
    }

    fn peer_listed(&self, key: &PeerKey) -> bool {
        self.note("trie lookups");
        self.inner.peer_listed(key)
    }

    fn route(&self, key: &RouteKey) -> Option<u32> {
        self.note("trie lookups");
        self.inner.route(key)
    }

    fn want_neighbour(&self, key: &RouteKey) {
        self.note("events");
        self.inner.want_neighbour(key);
    }

    fn tell(&self, event: &GtpuEvent) {
        self.note("events");
        self.inner.tell(event);
    }

    fn router(&self, scope: u32) -> Option<&Router> {
        self.note("array lookups");
        self.inner.router(scope)
    }

    fn may_answer(&self) -> bool {
        self.note("array lookups");
        self.inner.may_answer()
    }

    fn count_session(&self, counter: u32, bytes: u32) {
        self.note("array lookups");
        self.inner.count_session(counter, bytes);
    }

    fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        self.note(RULES);
        self.inner.rule(key)
    }

    fn meter(&self, meter: &MeterUse, bytes: u32, take: bool) -> bool {
        self.note("meters");
        self.inner.meter(meter, bytes, take)
    }

    fn is_used_up(&self, usage: &UsageKey, is_uplink: bool) -> bool {
        self.note("usages");
        self.inner.is_used_up(usage, is_uplink)
    }

    fn count_usage(&self, usage: &UsageKey, bytes: u32, is_uplink: bool, limited: bool) {
        self.note("usages");
        self.inner.count_usage(usage, bytes, is_uplink, limited);
    }
}

impl Frame for Counted<'_, SliceFrame> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        self.inner.load(offset)
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        self.inner.store(offset, value)
    }

    fn move_head(&mut self, by: isize) -> Option<()> {
        self.note("head moves");
        self.inner.move_head(by)
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        self.note("tail moves");
        self.inner.truncate(len)
    }

    fn sum(&self, from: usize, to: usize) -> Option<u32> {
        self.note("sums over the payload");
        self.inner.sum(from, to)
    }
}

/// Runs a packet and adds what the verdict costs besides.
fn counts(packet: &[u8], tables: &MapTables) -> (Verdict, Counts) {
    let counts = RefCell::new(Counts::new());
    let mut frame = Counted { inner: SliceFrame::new(packet), counts: &counts };
    let counted = Counted { inner: tables, counts: &counts };
    let verdict = decide(&mut frame, &counted, cases::IFINDEX);
    match verdict {
        Verdict::Redirect { .. } | Verdict::Deliver { .. } => counted.note("redirects"),
        Verdict::PassCounted { .. } | Verdict::Drop { .. } => counted.note("array lookups"),
        Verdict::Answer { .. } => {
            counted.note("array lookups");
            counted.note("redirects");
        }
        Verdict::Pass | Verdict::Transmit => {}
        // Not of frames in memory: they can be answered, and are packets.
        Verdict::ToAnswer { .. } | Verdict::Unfinished | Verdict::ToRules { .. } | Verdict::Buffered => {}
    }
    (verdict, counts.take())
}

/// Every path of the benches, and every kind of forwarding and answering that the case table has.
pub(super) fn paths() -> BTreeMap<String, Counts> {
    let standard = cases::standard();
    let mut paths = BTreeMap::new();
    for path in Path::FORWARDED.into_iter().chain(Path::IPV6).chain(Path::counted()) {
        let scenario = Scenario { path, sessions: 1, size: 64, order: Order::Sequential };
        if let Some(packet) = scenario.standard_packet() {
            paths.insert(path.name().to_owned(), counts(&packet, &standard).1);
        }
    }
    // Of the cases, the dearest in each kind: a new case is no new line.
    for Case { packet, tables, .. } in cases::all() {
        let (verdict, counts) = counts(&packet, &tables);
        let kind = match verdict {
            Verdict::Redirect { .. } | Verdict::Deliver { .. } | Verdict::Transmit => {
                "any that is forwarded, at most"
            }
            Verdict::Answer { .. } => "any that is answered, at most",
            Verdict::Drop { .. } => "any that is dropped, at most",
            Verdict::Pass | Verdict::PassCounted { .. } => "any that is passed, at most",
            Verdict::ToAnswer { .. } | Verdict::Unfinished | Verdict::ToRules { .. } | Verdict::Buffered => {
                continue;
            }
        };
        let kind = if counts.contains_key(RULES) { format!("with rules: {kind}") } else { kind.to_owned() };
        let most: &mut Counts = paths.entry(kind).or_default();
        for (what, count) in counts {
            let seen = most.entry(what).or_default();
            *seen = (*seen).max(count);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_packet_makes_one_lookup_of_a_session_and_one_of_a_next_hop() {
        let paths = paths();
        for path in ["uplink", "downlink", "relay"] {
            let counts = &paths[path];
            assert_eq!(counts.get("hash lookups"), Some(&1), "{path}: {counts:?}");
            // The next hop and the counter.
            assert_eq!(counts.get("array lookups"), Some(&2), "{path}: {counts:?}");
            assert_eq!(counts.get("trie lookups"), None, "{path}: {counts:?}");
            assert_eq!(counts.get("redirects"), Some(&1), "{path}: {counts:?}");
        }
    }
}
