//! From the tables in force to the wanted ones: the operations, in an order in which no state on the way
//! forwards wrongly. What is pointed at is written before what points at it, and removed after.

use super::tables::{Operation, Tables, XdpMode};
use netplane_common::map::{NextHop, Router};
use std::collections::BTreeMap;

/// The operations that turn `current` into `wanted`.
pub fn diff(current: &Tables, wanted: &Tables) -> Vec<Operation> {
    diff_around(current, wanted, Vec::new()).0
}

/// The same with operations of sessions that are in neither, and where these stand.
pub fn diff_around(
    current: &Tables,
    wanted: &Tables,
    others: Vec<Operation>,
) -> (Vec<Operation>, std::ops::Range<usize>) {
    let mut operations = Vec::new();
    writes(current, wanted, &mut operations);
    sessions(current, wanted, &mut operations);
    let begin = operations.len();
    operations.extend(others);
    let range = begin..operations.len();
    masters(current, wanted, &mut operations);
    removals(current, wanted, &mut operations);
    (operations, range)
}

/// Elements of `wanted` that are new or different.
fn changed<'a, K: Ord, V: PartialEq>(
    current: &'a BTreeMap<K, V>,
    wanted: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    wanted.iter().filter(|(key, value)| current.get(key) != Some(value))
}

/// Keys of `current` that are not wanted any more.
fn gone<'a, K: Ord, V>(
    current: &'a BTreeMap<K, V>,
    wanted: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    current.keys().filter(|key| !wanted.contains_key(key))
}

pub(super) fn writes(current: &Tables, wanted: &Tables, operations: &mut Vec<Operation>) {
    let ports = changed(&current.ports, &wanted.ports);
    operations.extend(ports.map(|(index, ifindex)| Operation::SetPort { index: *index, ifindex: *ifindex }));
    let networks = changed(&current.networks, &wanted.networks);
    operations
        .extend(networks.map(|(index, name)| Operation::SetNetwork { index: *index, name: name.clone() }));
    let next_hops = changed(&current.next_hops, &wanted.next_hops);
    operations.extend(next_hops.map(|(index, it)| Operation::SetNextHop { index: *index, next_hop: *it }));
    let routes = changed(&current.routes, &wanted.routes);
    operations.extend(routes.map(|(route, it)| Operation::SetRoute { route: *route, next_hop: *it }));
    let routers = changed(&current.routers, &wanted.routers);
    operations.extend(routers.map(|(scope, it)| Operation::SetRouter { scope: *scope, router: *it }));
    let peers = wanted.peers.difference(&current.peers);
    operations.extend(peers.map(|it| Operation::AddPeer(*it)));
    operations.extend(wanted.pods.difference(&current.pods).map(|it| Operation::AddPod(*it)));
    let endpoints = changed(&current.endpoints, &wanted.endpoints);
    operations.extend(endpoints.map(|(key, entry)| Operation::SetEndpoint { key: *key, entry: *entry }));
}

fn sessions(current: &Tables, wanted: &Tables, operations: &mut Vec<Operation>) {
    let is_new = |old: Option<u32>, counter| old != Some(counter) && !wanted.resumed.contains(&counter);
    for (key, entry) in changed(&current.uplink, &wanted.uplink) {
        let old = current.uplink.get(key).map(|it| it.counter);
        let new_counter = is_new(old, entry.counter);
        operations.push(Operation::SetUplink { key: *key, entry: *entry, new_counter });
    }
    for (key, entry) in changed(&current.uplink6, &wanted.uplink6) {
        let old = current.uplink6.get(key).map(|it| it.counter);
        let new_counter = is_new(old, entry.counter);
        operations.push(Operation::SetUplink6 { key: *key, entry: *entry, new_counter });
    }
    for (key, entry) in changed(&current.downlink4, &wanted.downlink4) {
        let old = current.downlink4.get(key).map(|it| it.counter);
        let new_counter = is_new(old, entry.counter);
        operations.push(Operation::SetDownlink4 { key: *key, entry: *entry, new_counter });
    }
    for (key, entry) in changed(&current.downlink6, &wanted.downlink6) {
        let old = current.downlink6.get(key).map(|it| it.counter);
        let new_counter = is_new(old, entry.counter);
        operations.push(Operation::SetDownlink6 { key: *key, entry: *entry, new_counter });
    }
    let framed = changed(&current.framed, &wanted.framed);
    operations.extend(framed.map(|(key, user)| Operation::SetFramed { key: *key, user: *user }));
}

/// A master whose mode changed is attached anew. An empty name is a pin whose mode is not known: it stays.
fn masters(current: &Tables, wanted: &Tables, operations: &mut Vec<Operation>) {
    for (ifindex, master) in &wanted.masters {
        let old = current.masters.get(ifindex);
        let other_mode = old.is_some_and(|it| !it.name.is_empty() && it.mode != master.mode);
        if other_mode {
            operations.push(Operation::Detach { ifindex: *ifindex });
        }
        let off = master.mode == XdpMode::Off;
        // Attaching once more makes what has changed about it so.
        if old.is_none_or(|it| it != master || other_mode) && !off {
            operations.push(Operation::Attach { ifindex: *ifindex, master: master.clone() });
        }
    }
    let unwanted = gone(&current.masters, &wanted.masters);
    operations.extend(unwanted.map(|it| Operation::Detach { ifindex: *it }));
}

fn removals(current: &Tables, wanted: &Tables, operations: &mut Vec<Operation>) {
    operations.extend(gone(&current.uplink, &wanted.uplink).map(|it| Operation::DeleteUplink { key: *it }));
    operations
        .extend(gone(&current.uplink6, &wanted.uplink6).map(|it| Operation::DeleteUplink6 { key: *it }));
    let downlink4 = gone(&current.downlink4, &wanted.downlink4);
    operations.extend(downlink4.map(|it| Operation::DeleteDownlink4 { key: *it }));
    let downlink6 = gone(&current.downlink6, &wanted.downlink6);
    operations.extend(downlink6.map(|it| Operation::DeleteDownlink6 { key: *it }));
    operations.extend(gone(&current.framed, &wanted.framed).map(|it| Operation::DeleteFramed { key: *it }));
    // Left by an earlier agent, of sessions that are no more.
    operations.extend(gone(&current.rules, &wanted.rules).map(|it| Operation::DeleteRule { key: *it }));
    let meters = current.meters.difference(&wanted.meters);
    operations.extend(meters.map(|it| Operation::DeleteMeter { key: *it }));
    let usages = current.usages.difference(&wanted.usages);
    operations.extend(usages.map(|it| Operation::DeleteUsage { key: *it }));
    let endpoints = gone(&current.endpoints, &wanted.endpoints);
    operations.extend(endpoints.map(|it| Operation::DeleteEndpoint { key: *it }));
    let routes = gone(&current.routes, &wanted.routes);
    operations.extend(routes.map(|it| Operation::DeleteRoute { route: *it }));
    let peers = current.peers.difference(&wanted.peers);
    operations.extend(peers.map(|it| Operation::RemovePeer(*it)));
    operations.extend(current.pods.difference(&wanted.pods).map(|it| Operation::RemovePod(*it)));
    // An array's element cannot go; the default value is the free one.
    let next_hops = gone(&current.next_hops, &wanted.next_hops);
    operations.extend(next_hops.map(|it| Operation::SetNextHop { index: *it, next_hop: NextHop::default() }));
    let routers = gone(&current.routers, &wanted.routers);
    operations.extend(routers.map(|it| Operation::SetRouter { scope: *it, router: Router::default() }));
    let networks = gone(&current.networks, &wanted.networks);
    operations.extend(networks.map(|it| Operation::ClearNetwork { index: *it }));
    let ports = gone(&current.ports, &wanted.ports);
    operations.extend(ports.map(|it| Operation::ClearPort { index: *it }));
}

impl Tables {
    /// The tables after an operation, as the kernel will have them.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Attach { ifindex, master } => drop(self.masters.insert(*ifindex, master.clone())),
            Operation::Detach { ifindex } => drop(self.masters.remove(ifindex)),
            Operation::SetPort { index, ifindex } => drop(self.ports.insert(*index, *ifindex)),
            Operation::ClearPort { index } => drop(self.ports.remove(index)),
            Operation::SetNetwork { index, name } => drop(self.networks.insert(*index, name.clone())),
            Operation::ClearNetwork { index } => drop(self.networks.remove(index)),
            Operation::SetNextHop { index, next_hop } if *next_hop == NextHop::default() => {
                self.next_hops.remove(index);
            }
            Operation::SetNextHop { index, next_hop } => drop(self.next_hops.insert(*index, *next_hop)),
            Operation::SetUplink { key, entry, .. } => drop(self.uplink.insert(*key, *entry)),
            Operation::DeleteUplink { key } => drop(self.uplink.remove(key)),
            Operation::SetUplink6 { key, entry, .. } => drop(self.uplink6.insert(*key, *entry)),
            Operation::DeleteUplink6 { key } => drop(self.uplink6.remove(key)),
            Operation::SetDownlink4 { key, entry, .. } => drop(self.downlink4.insert(*key, *entry)),
            Operation::DeleteDownlink4 { key } => drop(self.downlink4.remove(key)),
            Operation::SetDownlink6 { key, entry, .. } => drop(self.downlink6.insert(*key, *entry)),
            Operation::DeleteDownlink6 { key } => drop(self.downlink6.remove(key)),
            Operation::SetFramed { key, user } => drop(self.framed.insert(*key, *user)),
            Operation::DeleteFramed { key } => drop(self.framed.remove(key)),
            Operation::SetEndpoint { key, entry } => drop(self.endpoints.insert(*key, *entry)),
            Operation::DeleteEndpoint { key } => drop(self.endpoints.remove(key)),
            Operation::SetRoute { route, next_hop } => drop(self.routes.insert(*route, *next_hop)),
            Operation::DeleteRoute { route } => drop(self.routes.remove(route)),
            Operation::SetRouter { scope, router } if *router == Router::default() => {
                self.routers.remove(scope);
            }
            Operation::SetRouter { scope, router } => drop(self.routers.insert(*scope, *router)),
            Operation::AddPeer(peer) => drop(self.peers.insert(*peer)),
            Operation::RemovePeer(peer) => drop(self.peers.remove(peer)),
            Operation::AddPod(pod) => drop(self.pods.insert(*pod)),
            Operation::RemovePod(pod) => drop(self.pods.remove(pod)),
            Operation::SetRule { key, rule } => drop(self.rules.insert(*key, **rule)),
            Operation::DeleteRule { key } => drop(self.rules.remove(key)),
            Operation::StartMeter { key } => drop(self.meters.insert(*key)),
            Operation::DeleteMeter { key } => drop(self.meters.remove(key)),
            Operation::StartUsage { key, .. } | Operation::SetLimits { key, .. } => {
                self.usages.insert(*key);
            }
            Operation::DeleteUsage { key } => drop(self.usages.remove(key)),
        }
    }
}
