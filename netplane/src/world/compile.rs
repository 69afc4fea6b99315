//! From the world to the tables. Cannot fail: what is wrong with one object is a problem that names it,
//! and everything else is in the tables.

use super::endpoint::Endpoint;
use super::session;
use super::slots::{HopKey, Slots};
use super::tables::{Master, PeerPrefix, RoutePrefix, Tables, XdpMode};
use super::{AttachmentKey, World};
use crate::nad::NetworkName;
use crate::nad::fast_path::{Role, UnknownTeid as Policy, Xdp};
use ipnet::{IpNet, Ipv4Net};
use netplane_common::map::{
    EndpointEntry, EndpointKey, NO_INDEX, NextHop, NextHopState, UnknownTeid, endpoint_flags,
};
use netplane_common::wire::Be32;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// `NAD core/n3`, `session gw-1 of NAD core/n3`, `pod core/upf-0, interface net1`, `master n3`.
    pub object: String,
    pub message: String,
}

/// A neighbour that a next hop needs: the pod's kernel is to resolve it and to keep it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedNeighbour {
    pub from: AttachmentKey,
    /// Index of the interface inside the pod.
    pub ifindex: u32,
    pub address: IpAddr,
    pub resolved: bool,
}

/// A network, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    pub name: NetworkName,
    pub role: Role,
    /// Absent while no pod on this node has it.
    pub index: Option<u16>,
    /// Name and interface index of each master.
    pub masters: BTreeMap<String, u32>,
    pub xdp: XdpMode,
}

/// An endpoint, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    pub pod: String,
    pub network: NetworkName,
    pub interface: String,
    pub master: String,
    pub mac: String,
    pub address: Ipv4Net,
}

/// A session, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    pub name: String,
    pub network: NetworkName,
    pub pod: String,
    pub ue: Vec<String>,
    pub teid: Option<u32>,
    pub peer: Option<String>,
    /// Counter indices.
    pub uplink: Option<u32>,
    pub downlink: Option<u32>,
    /// Whether every next hop that it needs is resolved.
    pub resolved: bool,
}

/// The outcome of a compilation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    pub tables: Tables,
    pub problems: Vec<Problem>,
    pub wanted: BTreeSet<WantedNeighbour>,
    pub networks: Vec<NetworkView>,
    pub endpoints: Vec<EndpointView>,
    pub sessions: Vec<SessionView>,
    /// Data endpoints by scope: who is asked when a packet wants a neighbour.
    pub scopes: BTreeMap<u32, (AttachmentKey, u32)>,
}

/// A compilation under way.
pub(super) struct Compilation<'a> {
    pub(super) slots: &'a mut Slots,
    pub(super) out: Compiled,
}

/// Compiles the world.
pub fn compile(world: &World, slots: &mut Slots) -> Compiled {
    let mut this = Compilation { slots, out: Compiled::default() };
    let endpoints = this.endpoints(world);
    this.networks(world, &endpoints);
    this.data_pools(&endpoints);
    session::compile(&mut this, world, &endpoints);
    this.out.problems.sort();
    this.out.problems.dedup();
    this.slots.end_round();
    this.out
}

impl Compilation<'_> {
    pub(super) fn problem(&mut self, object: String, message: impl Into<String>) {
        self.out.problems.push(Problem { object, message: message.into() });
    }

    fn endpoints<'w>(&mut self, world: &'w World) -> Vec<Endpoint<'w>> {
        let mut endpoints = Vec::new();
        for (key, attachment) in &world.attachments {
            let Some(fast_path) = world.networks.get(&attachment.network) else { continue };
            match Endpoint::find(world, key, attachment, fast_path) {
                Ok(endpoint) => endpoints.extend(endpoint),
                Err(message) => self
                    .problem(format!("{}, interface {}", pod_name(key, attachment), key.interface), message),
            }
        }
        endpoints
    }

    fn networks(&mut self, world: &World, endpoints: &[Endpoint<'_>]) {
        for (name, fast_path) in &world.networks {
            let own: Vec<_> = endpoints.iter().filter(|it| it.network() == name).collect();
            let xdp = mode(fast_path.xdp);
            let mut view = NetworkView {
                name: name.clone(),
                role: fast_path.role,
                index: None,
                masters: BTreeMap::new(),
                xdp,
            };
            if !own.is_empty() && fast_path.xdp != Xdp::Off {
                view.index = self.network_index(name);
            }
            for endpoint in own {
                view.masters.insert(endpoint.master.name.clone(), endpoint.master.index);
                if let Some(index) = view.index {
                    self.endpoint(endpoint, index);
                }
            }
            self.out.networks.push(view);
        }
    }

    fn network_index(&mut self, name: &NetworkName) -> Option<u16> {
        let index = self.slots.networks.get(&name.to_string(), None);
        match u16::try_from(index).ok().filter(|it| *it < MAX_NETWORKS) {
            Some(index) => {
                self.out.tables.networks.insert(index, name.to_string());
                Some(index)
            }
            None => {
                self.problem(
                    format!("NAD {name}"),
                    format!("more than {MAX_NETWORKS} fast-path networks on a node"),
                );
                None
            }
        }
    }

    /// Master, port and what happens to packets that no session takes.
    fn endpoint(&mut self, endpoint: &Endpoint<'_>, network: u16) {
        let master = Master { name: endpoint.master.name.clone(), mode: mode(endpoint.fast_path.xdp) };
        let ifindex = endpoint.master.index;
        match self.out.tables.masters.get(&ifindex).map(|it| it.mode) {
            Some(other) if other != master.mode => {
                let message =
                    format!("its networks ask for different ways of XDP; the first one's ({other:?}) counts");
                self.problem(format!("master {}", master.name), message);
            }
            Some(_) => {}
            None => {
                self.out.tables.masters.insert(ifindex, master);
            }
        }
        let port = self.slots.ports.get(&ifindex, None);
        self.out.tables.ports.insert(port, ifindex);
        self.out.endpoints.push(EndpointView {
            pod: pod_name(endpoint.key, endpoint.attachment),
            network: endpoint.network().clone(),
            interface: endpoint.key.interface.clone(),
            master: endpoint.master.name.clone(),
            mac: endpoint.mac.to_string(),
            address: endpoint.address,
        });
        if endpoint.fast_path.role != Role::Access {
            return;
        }
        let peers = self.peers(endpoint, network);
        let unknown = match endpoint.fast_path.gtpu.unknown_teid {
            Policy::Pass => UnknownTeid::Pass,
            Policy::Drop => UnknownTeid::Drop,
            Policy::ErrorIndication => UnknownTeid::ErrorIndication,
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let entry = EndpointEntry {
            unknown_teid: unknown as u8,
            flags: flag(peers.listed, endpoint_flags::PEER_LIST)
                | flag(endpoint.fast_path.gtpu.echo, endpoint_flags::ECHO),
            network,
            mac: endpoint.mac,
            reserved: 0,
            peer: peers.prefix,
            peer_mask: peers.mask,
        };
        let key = EndpointKey { port: endpoint.port(), address: endpoint.address.addr().into() };
        self.out.tables.endpoints.insert(key, entry);
    }

    /// One prefix goes into the entries, more go into the trie.
    pub(super) fn peers(&mut self, endpoint: &Endpoint<'_>, network: u16) -> Peers {
        match endpoint.fast_path.gtpu.peers.as_slice() {
            [] => Peers { prefix: Be32::new(0), mask: Be32::new(0), listed: false },
            [one] => Peers { prefix: one.network().into(), mask: one.netmask().into(), listed: false },
            many => {
                for peer in many {
                    let (prefix, prefix_len) = (peer.network(), peer.prefix_len());
                    self.out.tables.peers.insert(PeerPrefix { network, prefix, prefix_len });
                }
                Peers { prefix: Be32::new(0), mask: Be32::new(0), listed: true }
            }
        }
    }

    /// Two data networks on one master must not claim the same users.
    fn data_pools(&mut self, endpoints: &[Endpoint<'_>]) {
        let mut pools: BTreeMap<u32, Vec<(IpNet, &NetworkName)>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for endpoint in endpoints.iter().filter(|it| seen.insert((it.master.index, it.network()))) {
            let on_master = pools.entry(endpoint.master.index).or_default();
            for pool in &endpoint.fast_path.ue_pools {
                let overlaps = |it: &&(IpNet, &NetworkName)| it.0.contains(pool) || pool.contains(&it.0);
                if let Some((other, network)) = on_master.iter().find(overlaps) {
                    let message = format!(
                        "uePools: {pool} overlaps {other} of NAD {network} on master {}",
                        endpoint.master.name
                    );
                    self.out
                        .problems
                        .push(Problem { object: format!("NAD {}", endpoint.network()), message });
                }
                on_master.push((*pool, endpoint.network()));
            }
        }
    }

    /// The index of the next hop from `endpoint` to the neighbour `to`, and whether it is resolved.
    pub(super) fn next_hop(&mut self, endpoint: &Endpoint<'_>, to: IpAddr, hint: Option<u32>) -> (u32, bool) {
        let index = self.slots.next_hops.get(&HopKey { from: endpoint.key.clone(), to }, hint);
        let mac = endpoint.neighbour(to).filter(|_| endpoint.is_up());
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.out.tables.next_hops.entry(index) {
            let port = self.slots.ports.get(&endpoint.master.index, None);
            vacant.insert(NextHop {
                destination: mac.unwrap_or_default(),
                source: endpoint.mac,
                ifindex: endpoint.master.index,
                port,
                mtu: u16::try_from(endpoint.link.mtu).unwrap_or(u16::MAX),
                vlan: 0,
                state: if mac.is_some() { NextHopState::Resolved } else { NextHopState::Unresolved } as u8,
                reserved: [0; 3],
            });
            self.out.wanted.insert(WantedNeighbour {
                from: endpoint.key.clone(),
                ifindex: endpoint.link.index,
                address: to,
                resolved: mac.is_some(),
            });
        }
        (index, mac.is_some())
    }

    /// The routes of a data endpoint under its scope: its on-link subnets without a next hop, its known
    /// neighbours and its routes with gateways with theirs. Done once for each endpoint.
    pub(super) fn routes(&mut self, endpoint: &Endpoint<'_>, scope: u32) {
        if self.out.scopes.insert(scope, (endpoint.key.clone(), endpoint.link.index)).is_some() {
            return;
        }
        self.out.tables.routers.insert(scope, endpoint.router());
        for route in endpoint.routes() {
            let IpNet::V4(destination) = route.destination else { continue };
            let prefix =
                RoutePrefix { scope, prefix: destination.network(), prefix_len: destination.prefix_len() };
            if self.out.tables.routes4.contains_key(&prefix) {
                // A route of a higher metric.
                continue;
            }
            let next_hop = match route.gateway {
                None => NO_INDEX,
                Some(gateway) => {
                    let hint = self.slots.route_hint(&prefix);
                    self.next_hop(endpoint, gateway, hint).0
                }
            };
            self.out.tables.routes4.insert(prefix, next_hop);
        }
        let on_link: Vec<_> = endpoint.routes().into_iter().filter(|it| it.gateway.is_none()).collect();
        for neighbour in endpoint.neighbours4().collect::<Vec<_>>() {
            if !on_link.iter().any(|it| it.destination.contains(&IpAddr::V4(neighbour))) {
                continue;
            }
            let prefix = RoutePrefix { scope, prefix: neighbour, prefix_len: 32 };
            let hint = self.slots.route_hint(&prefix);
            let (index, _) = self.next_hop(endpoint, neighbour.into(), hint);
            self.out.tables.routes4.insert(prefix, index);
        }
    }
}

/// Networks that the counters have room for.
const MAX_NETWORKS: u16 = 256;

/// Allowed peers as entries hold them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peers {
    pub(super) prefix: Be32,
    pub(super) mask: Be32,
    pub(super) listed: bool,
}

fn mode(xdp: Xdp) -> XdpMode {
    match xdp {
        Xdp::Auto => XdpMode::Auto,
        Xdp::Native => XdpMode::Native,
        Xdp::Generic => XdpMode::Generic,
        Xdp::Off => XdpMode::Off,
    }
}

/// How people know a pod.
pub(super) fn pod_name(key: &AttachmentKey, attachment: &super::Attachment) -> String {
    match &attachment.pod {
        Some(pod) => format!("pod {pod}"),
        None => format!("container {}", key.container),
    }
}
