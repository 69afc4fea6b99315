//! Indices of the tables: the same thing keeps its index from one compilation to the next, and from one
//! agent to the next. An index that has become free rests for one round, so that nothing in the kernel
//! that still names it can mean something else meanwhile.

use super::AttachmentKey;
use super::compile::half;
use super::flat::Flat;
use super::tables::Tables;
use netplane_common::map::{
    DownlinkKey4, DownlinkKey6, NO_INDEX, SessionAction, UplinkEntry, UplinkKey, UplinkKey6,
};
use netplane_common::wire::Be32;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A next hop out of one interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HopKey {
    pub(super) from: AttachmentKey,
    pub(super) to: Way,
}

/// Where a next hop leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// A data endpoint's default way for IPv4 or IPv6, whoever the gateway is.
    Default4,
    Default6,
    Neighbour(IpAddr),
    /// A GTP-U peer from one of our addresses: in the element these never change.
    Tunnel {
        local: IpAddr,
        peer: IpAddr,
    },
}

/// What has a counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CounterKey {
    Uplink(UplinkKey),
    Uplink6(UplinkKey6),
    Downlink4(DownlinkKey4),
    Downlink6(DownlinkKey6),
}

/// Indices of one table.
#[derive(Clone, Debug)]
pub(super) struct Indices<K> {
    used: BTreeMap<K, u32>,
    taken: BTreeSet<u32>,
    /// Asked for in this round.
    touched: BTreeSet<u32>,
    /// Free after this round.
    resting: BTreeSet<u32>,
    /// Not asked for in the last round and kept all the same.
    kept: BTreeSet<u32>,
    /// Free, all below `next`.
    free: BTreeSet<u32>,
    next: u32,
}

impl<K> Default for Indices<K> {
    fn default() -> Self {
        let (taken, touched, resting, kept, free) = Default::default();
        Self { used: BTreeMap::new(), taken, touched, resting, kept, free, next: 0 }
    }
}

impl<K: Ord + Clone> Indices<K> {
    /// The index of `key`: its own, else `hint` if that is not another's, else the lowest free one.
    pub(super) fn get(&mut self, key: &K, hint: Option<u32>) -> u32 {
        let index = match self.used.get(key) {
            Some(index) => *index,
            None => {
                let hint = hint.filter(|it| *it != NO_INDEX && !self.taken.contains(it));
                let index = hint.unwrap_or_else(|| self.free.first().copied().unwrap_or(self.next));
                self.take(key.clone(), index);
                index
            }
        };
        self.touched.insert(index);
        index
    }

    fn take(&mut self, key: K, index: u32) {
        self.reach(index);
        self.free.remove(&index);
        self.resting.remove(&index);
        self.taken.insert(index);
        self.used.insert(key, index);
    }

    /// Makes `next` larger than `index`; what lies between is free.
    fn reach(&mut self, index: u32) {
        if index >= self.next {
            self.free.extend(self.next..=index);
            self.next = index + 1;
        }
    }

    /// Ends a round: what was not asked for is free after the next one.
    fn end_round(&mut self) {
        self.end_round_but(|_| false);
    }

    /// The same, but what this is true of keeps its index without being asked for. Returns the indices that were
    /// kept so before and were asked for now.
    fn end_round_but(&mut self, is_kept: impl Fn(&K) -> bool) -> BTreeSet<u32> {
        self.free.append(&mut self.resting);
        let touched = std::mem::take(&mut self.touched);
        let back = self.kept.intersection(&touched).copied().collect();
        self.kept.clear();
        let (taken, resting, kept) = (&mut self.taken, &mut self.resting, &mut self.kept);
        self.used.retain(|key, index| {
            if touched.contains(index) {
                return true;
            }
            let keep = is_kept(key);
            if keep {
                kept.insert(*index);
            } else {
                taken.remove(index);
                resting.insert(*index);
            }
            keep
        });
        back
    }

    /// Indices that something in the kernel still names.
    fn rest(&mut self, indices: impl IntoIterator<Item = u32>) {
        for index in indices.into_iter().filter(|it| *it != NO_INDEX) {
            if !self.taken.contains(&index) {
                self.reach(index);
                self.free.remove(&index);
                self.resting.insert(index);
            }
        }
    }

    /// All indices that were ever given are below this.
    pub(super) fn reached(&self) -> u32 {
        self.next
    }

    /// Forgets indices that are given by somebody else.
    fn release(&mut self, is_others: impl Fn(u32) -> bool) {
        self.used.retain(|_, index| !is_others(*index));
        self.taken.retain(|it| !is_others(*it));
        self.resting.retain(|it| !is_others(*it));
        self.kept.retain(|it| !is_others(*it));
        let last = self.taken.last().max(self.resting.last());
        self.next = last.map_or(0, |it| it + 1);
        drop(self.free.split_off(&self.next));
    }

    fn adopt(&mut self, key: K, index: u32) {
        if index != NO_INDEX && !self.taken.contains(&index) {
            self.take(key, index);
        }
    }
}

/// All indices of a node.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    pub(super) networks: Indices<String>,
    pub(super) ports: Indices<u32>,
    pub(super) scopes: Indices<AttachmentKey>,
    pub(super) next_hops: Indices<HopKey>,
    pub(super) counters: Indices<CounterKey>,
    /// The tables that an earlier agent left: whose entry named which scope and next hop.
    hints: Tables,
}

impl Slots {
    /// Starts from the tables in force. Networks, ports and counters are known by their keys; next hops and
    /// scopes by the entries that name them, when these are compiled for the first time.
    pub fn seed(tables: &Tables) -> Self {
        let mut slots = Self::default();
        for (index, name) in &tables.networks {
            slots.networks.adopt(name.clone(), u32::from(*index));
        }
        for (index, ifindex) in &tables.ports {
            slots.ports.adopt(*ifindex, *index);
        }
        for (key, entry) in &tables.uplink {
            slots.counters.adopt(CounterKey::Uplink(*key), entry.counter);
        }
        // After those over IPv4: where both are one tunnel's ends, the counter has that key.
        for (key, entry) in &tables.uplink6 {
            slots.counters.adopt(CounterKey::Uplink6(*key), entry.counter);
        }
        for (key, entry) in &tables.downlink4 {
            slots.counters.adopt(CounterKey::Downlink4(*key), entry.counter);
        }
        for (key, entry) in &tables.downlink6 {
            slots.counters.adopt(CounterKey::Downlink6(*key), entry.counter);
        }
        slots.next_hops.rest(tables.next_hops.keys().copied());
        slots.scopes.rest(tables.routers.keys().copied());
        slots.hints = Tables {
            uplink: tables.uplink.clone(),
            uplink6: tables.uplink6.clone(),
            next_hops: tables.next_hops.clone(),
            downlink4: tables.downlink4.clone(),
            downlink6: tables.downlink6.clone(),
            routes: tables.routes.clone(),
            ..Tables::default()
        };
        slots
    }

    /// Leaves the counters of the API's sessions to these: they have them by their handles.
    pub fn release_counters(&mut self, is_theirs: impl Fn(u32) -> bool) {
        self.counters.release(is_theirs);
    }

    /// The next hops and the scope that the uplink entry of a tunnel's end named, if it was one of that kind.
    pub(super) fn uplink_hint(
        &self,
        key: Option<&UplinkKey>,
        key6: Option<&UplinkKey6>,
        relay: bool,
    ) -> UplinkHint {
        let action = if relay { SessionAction::Relay } else { SessionAction::Forward };
        let entry = key.and_then(|it| self.hints.uplink.get(it));
        let entry = entry.or_else(|| self.hints.uplink6.get(key6?));
        let entry = entry.filter(|it: &&UplinkEntry| it.action == action as u8);
        entry.map_or(UplinkHint::default(), |it| UplinkHint {
            next_hop4: Some(it.next_hop4),
            next_hop6: Some(it.next_hop6),
            scope: self.hints.next_hops.get(&it.next_hop4).map(|it| it.scope).filter(|_| !relay),
        })
    }

    pub(super) fn downlink4_hint(&self, key: &DownlinkKey4) -> Option<u32> {
        self.hints.downlink4.get(key).map(|it| it.next_hop)
    }

    pub(super) fn downlink6_hint(&self, key: &DownlinkKey6) -> Option<u32> {
        self.hints.downlink6.get(key).map(|it| it.next_hop)
    }

    /// The data endpoint that a user's entry named.
    pub(super) fn scope_hint(&self, key4: Option<&DownlinkKey4>, key6: Option<&DownlinkKey6>) -> Option<u32> {
        let entry = key4.and_then(|it| self.hints.downlink4.get(it));
        entry.or_else(|| self.hints.downlink6.get(key6?)).map(|it| it.scope)
    }

    pub(super) fn route_hint(&self, route: &super::tables::RoutePrefix) -> Option<u32> {
        self.hints.routes.get(route).copied()
    }

    pub(super) fn has_counters(&self) -> bool {
        !self.counters.used.is_empty()
    }

    /// Ends a compilation. Sessions that are out of force keep their counters; returns those of sessions that
    /// are in force again.
    pub(super) fn end_round(&mut self, idle: &Idle) -> BTreeSet<u32> {
        self.networks.end_round();
        self.ports.end_round();
        self.scopes.end_round();
        self.next_hops.end_round();
        self.hints = Tables::default();
        self.counters.end_round_but(|key| match key {
            CounterKey::Uplink(key) => idle.teids.contains(&key.teid.get()),
            CounterKey::Uplink6(key) => idle.teids.contains(&key.teid.get()),
            CounterKey::Downlink4(key) => idle.users4.contains(&key.ue),
            CounterKey::Downlink6(key) => idle.users6.contains(&key.ue),
        })
    }
}

/// Static sessions that are there and not in force, as those of a pod whose interface is down: no address of
/// theirs may be known, so this is what tells their counters.
#[derive(Debug, Default)]
pub(super) struct Idle {
    teids: BTreeSet<u32>,
    users4: BTreeSet<Be32>,
    users6: BTreeSet<[Be32; 2]>,
}

impl Idle {
    pub(super) fn add(&mut self, flat: &Flat) {
        self.teids.extend(flat.uplink.as_ref().map(|it| it.teid));
        self.users4.extend(flat.ue4.map(Be32::from));
        self.users6.extend(flat.ue6.map(half));
    }
}

/// What an earlier agent's uplink entry named.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UplinkHint {
    pub(super) next_hop4: Option<u32>,
    pub(super) next_hop6: Option<u32>,
    pub(super) scope: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_and_a_freed_one_rests_for_a_round() {
        let mut indices = Indices::<&str>::default();
        assert_eq!((indices.get(&"a", None), indices.get(&"b", None), indices.get(&"c", Some(9))), (0, 1, 9));
        indices.end_round();
        assert_eq!((indices.get(&"b", None), indices.get(&"c", None)), (1, 9));
        indices.end_round();
        // `a` was not asked for: its 0 rests.
        assert_eq!((indices.get(&"b", None), indices.get(&"d", None)), (1, 2));
        indices.end_round();
        assert_eq!((indices.get(&"b", None), indices.get(&"d", None), indices.get(&"e", None)), (1, 2, 0));
    }

    #[test]
    fn what_is_anothers_is_not_reached() {
        let mut indices = Indices::<&str>::default();
        for (key, index) in [("a", 0), ("b", 2), ("y", 98), ("z", 99)] {
            indices.adopt(key, index);
        }
        indices.release(|it| it >= 90);
        assert_eq!(indices.reached(), 3);
        assert_eq!((indices.get(&"c", None), indices.get(&"d", None), indices.get(&"a", None)), (1, 3, 0));
        indices.release(|_| true);
        assert_eq!((indices.reached(), indices.get(&"e", None)), (0, 0));
    }

    #[test]
    fn a_hint_that_is_anothers_is_not_taken() {
        let mut indices = Indices::<&str>::default();
        indices.get(&"a", Some(4));
        assert_ne!(indices.get(&"b", Some(4)), 4);
    }
}
