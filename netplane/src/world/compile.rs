//! From the world to the tables. Cannot fail: what is wrong with one object is a problem that names it,
//! and everything else is in the tables.

use super::directory::Directory;
use super::endpoint::{Endpoint, named};
use super::programmed::Programmed;
use super::session;
use super::slots::{HopKey, Idle, Slots, Way};
use super::tables::{Master, PeerPrefix, RoutePrefix, Tables, XdpMode};
use super::{AttachmentKey, World};
use crate::nad::NetworkName;
use crate::nad::fast_path::{Gtpu, Role, UdpChecksum, UnknownTeid as Policy, Xdp};
use crate::netlink::Mac;
use crate::netlink::link::MacvlanMode;
use crate::netlink::route::Route;
use ipnet::IpNet;
use netplane_common::map::{
    EndpointEntry, EndpointKey, LookedUp, NO_INDEX, NextHop, NextHopState, PodKey, Port, UnknownTeid,
    endpoint_flags, next_hop_flags,
};
use netplane_common::wire::{Be32, ip};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    pub addresses: Vec<IpNet>,
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
    /// The old peer is told when the downlink goes to another one.
    pub end_marker: bool,
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
    /// GTP-U peers of static sessions, of endpoints whose paths are looked after.
    pub peers: BTreeMap<AttachmentKey, BTreeSet<IpAddr>>,
    /// Data endpoints by scope: who is asked when a packet wants a neighbour.
    pub scopes: BTreeMap<u32, (AttachmentKey, u32)>,
}

/// A compilation under way.
pub(super) struct Compilation<'a> {
    pub(super) slots: &'a mut Slots,
    pub(super) out: Compiled,
    /// Pods' macvlans in bridge mode: the index of their master, and their MAC.
    local: BTreeSet<(u32, Mac)>,
    /// What was found for an endpoint, which is known by where its key lies: sessions ask the same again and
    /// again.
    ways: BTreeMap<(usize, Way), (u32, bool)>,
    networks: BTreeMap<usize, u16>,
    pub(super) idle: Idle,
}

/// Compiles the world without the sessions of the API.
pub fn compile(world: &World, slots: &mut Slots) -> Compiled {
    compile_beside(world, slots, &Programmed::default())
}

/// Compiles the world. Of the sessions of the API, which have their entries already, there are the next hops and
/// routes that they use.
pub fn compile_beside(world: &World, slots: &mut Slots, programmed: &Programmed) -> Compiled {
    let mut this = Compilation::new(slots, world);
    let endpoints = this.endpoints(world);
    this.networks(world, &endpoints);
    this.data_pools(&endpoints);
    let directory = Directory::new(&endpoints);
    session::compile(&mut this, world, &directory, programmed);
    programmed.keep_ways(&mut this, &endpoints);
    this.out.problems.sort();
    this.out.problems.dedup();
    this.out.tables.resumed = this.slots.end_round(&this.idle);
    this.out
}

impl<'a> Compilation<'a> {
    pub(super) fn new(slots: &'a mut Slots, world: &World) -> Self {
        let (ways, networks) = (BTreeMap::new(), BTreeMap::new());
        let idle = Idle::default();
        Self { slots, out: Compiled::default(), local: local(world), ways, networks, idle }
    }
}

impl Compilation<'_> {
    pub(super) fn problem(&mut self, object: String, message: impl Into<String>) {
        self.out.problems.push(Problem { object, message: message.into() });
    }

    pub(super) fn endpoints<'w>(&mut self, world: &'w World) -> Vec<Endpoint<'w>> {
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
        // From any master a session may lead to a pod under another one.
        let masters = &mut self.out.tables.masters;
        let local = masters.values().any(|it| it.local);
        masters.values_mut().for_each(|it| it.local = local);
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
        let master = Master {
            name: endpoint.master.name.clone(),
            mode: mode(endpoint.fast_path.xdp),
            local: endpoint.link.macvlan_mode == Some(MacvlanMode::Bridge),
            tagged: endpoint.port().vlan != 0,
            bond: endpoint.master.kind == "bond",
        };
        let ifindex = endpoint.master.index;
        match self.out.tables.masters.get_mut(&ifindex) {
            Some(other) => {
                let mode = other.mode;
                other.local |= master.local;
                other.tagged |= master.tagged;
                if mode != master.mode {
                    let message = format!(
                        "its networks ask for different ways of XDP; the first one's ({mode:?}) counts"
                    );
                    self.problem(format!("master {}", master.name), message);
                }
            }
            None => {
                self.out.tables.masters.insert(ifindex, master);
            }
        }
        let port = self.slots.ports.get(&ifindex, None);
        self.out.tables.ports.insert(port, ifindex);
        // What pods under a VLAN device send each other does not come by the master.
        if endpoint.named.index == ifindex {
            let own = self.local.iter().filter(|it| it.0 == ifindex);
            self.out.tables.pods.extend(own.map(|it| PodKey::new(ifindex, it.1)));
        }
        self.out.endpoints.push(EndpointView {
            pod: pod_name(endpoint.key, endpoint.attachment),
            network: endpoint.network().clone(),
            interface: endpoint.key.interface.clone(),
            master: endpoint.named.name.clone(),
            mac: endpoint.mac.to_string(),
            addresses: endpoint.addresses(),
        });
        if endpoint.fast_path.role != Role::Access {
            return;
        }
        let unknown = match endpoint.fast_path.gtpu.unknown_teid {
            Policy::Pass => UnknownTeid::Pass,
            Policy::Drop => UnknownTeid::Drop,
            Policy::ErrorIndication => UnknownTeid::ErrorIndication,
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        for address in endpoint.addresses() {
            let address = address.addr();
            let peers = self.peers(endpoint, network, address.is_ipv4());
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
            let key = EndpointKey { port: endpoint.port(), address: ip::mapped_address(address) };
            self.out.tables.endpoints.insert(key, entry);
        }
    }

    /// The peers of one family: one prefix that fits goes into the entries, anything else into the trie.
    pub(super) fn peers(&mut self, endpoint: &Endpoint<'_>, network: u16, v4: bool) -> Peers {
        let all = &endpoint.fast_path.gtpu.peers;
        let mut own = all.iter().filter(|it| it.addr().is_ipv4() == v4);
        match (own.next(), own.next()) {
            (None, _) if all.is_empty() => Peers::ANY,
            (None, _) => Peers::NONE,
            (Some(IpNet::V4(one)), None) => {
                Peers { prefix: first(one.network()), mask: first(one.netmask()), listed: false }
            }
            (Some(IpNet::V6(one)), None) if one.prefix_len() <= 64 => {
                Peers { prefix: half(one.network()), mask: half(one.netmask()), listed: false }
            }
            _ => {
                let own = all.iter().filter(|it| it.addr().is_ipv4() == v4);
                self.out.tables.peers.extend(own.map(|it| PeerPrefix { network, prefix: *it }));
                Peers { listed: true, ..Peers::ANY }
            }
        }
    }

    /// Two data networks on one master must not claim the same users.
    fn data_pools(&mut self, endpoints: &[Endpoint<'_>]) {
        let mut pools: BTreeMap<Port, Vec<(IpNet, &NetworkName)>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for endpoint in endpoints.iter().filter(|it| seen.insert((it.port(), it.network()))) {
            let on_master = pools.entry(endpoint.port()).or_default();
            for pool in &endpoint.fast_path.ue_pools {
                let overlaps = |it: &&(IpNet, &NetworkName)| it.0.contains(pool) || pool.contains(&it.0);
                if let Some((other, network)) = on_master.iter().find(overlaps) {
                    let message = format!(
                        "uePools: {pool} overlaps {other} of NAD {network} on master {}",
                        endpoint.named.name
                    );
                    self.out
                        .problems
                        .push(Problem { object: format!("NAD {}", endpoint.network()), message });
                }
                on_master.push((*pool, endpoint.network()));
            }
        }
    }

    /// The index of the next hop from `endpoint` to a neighbour, and whether it is resolved.
    fn neighbour(&mut self, endpoint: &Endpoint<'_>, to: IpAddr, hint: Option<u32>) -> u32 {
        let next_hop = self.link(endpoint, Some(to));
        self.next_hop(endpoint, Way::Neighbour(to), next_hop, hint).0
    }

    /// The way to a GTP-U peer.
    ///
    /// # Errors
    /// The endpoint has no address of the peer's family.
    pub(super) fn tunnel(
        &mut self,
        endpoint: &Endpoint<'_>,
        peer: IpAddr,
        hint: Option<u32>,
    ) -> Result<(u32, bool), String> {
        let local = endpoint.local(peer)?;
        let known = (address_of(endpoint), Way::Tunnel { local, peer });
        if let Some(known) = self.ways.get(&known) {
            return Ok(*known);
        }
        let (flags, way) = match (local, peer) {
            (IpAddr::V4(local), IpAddr::V4(peer)) => (0, NextHop::way4(local.into(), peer.into())),
            _ => {
                let way = NextHop::way6(ip::mapped_address(local), ip::mapped_address(peer));
                (next_hop_flags::IPV6, way)
            }
        };
        let flags = flags | tunnel_flags(&endpoint.fast_path.gtpu, peer);
        let link = self.link(endpoint, endpoint.towards(peer));
        let found =
            self.next_hop(endpoint, Way::Tunnel { local, peer }, NextHop { flags, way, ..link }, hint);
        self.ways.insert(known, found);
        Ok(found)
    }

    /// The default way of the users of a data endpoint, as [`Self::default_way`]. That there is none is a
    /// problem, but not for the session.
    pub(super) fn users_way(
        &mut self,
        endpoint: &Endpoint<'_>,
        v4: bool,
        scope: u32,
        hint: Option<u32>,
    ) -> (u32, bool) {
        let known = (address_of(endpoint), if v4 { Way::Default4 } else { Way::Default6 });
        if let Some(known) = self.ways.get(&known) {
            return *known;
        }
        let has_gateway = endpoint.gateway(v4).is_some();
        if !has_gateway {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let pod = pod_name(endpoint.key, endpoint.attachment);
            let message = "default route with a gateway: users reach its own subnets only";
            self.problem(
                format!("{pod}, interface {}", endpoint.key.interface),
                format!("no {family} {message}"),
            );
        }
        let (index, resolved) = self.default_way(endpoint, v4, scope, hint);
        let found = (index, resolved || !has_gateway);
        self.ways.insert(known, found);
        found
    }

    /// The index of an endpoint's network.
    pub(super) fn network_of(&mut self, endpoint: &Endpoint<'_>) -> u16 {
        let known = address_of(endpoint);
        if let Some(index) = self.networks.get(&known) {
            return *index;
        }
        let index = self.slots.networks.get(&endpoint.network().to_string(), None);
        let index = u16::try_from(index).unwrap_or(0);
        self.networks.insert(known, index);
        index
    }

    /// The default way of a data endpoint for one family, and whether it is resolved. Without a gateway it
    /// leads nowhere, but says which destinations are looked up.
    pub(super) fn default_way(
        &mut self,
        endpoint: &Endpoint<'_>,
        v4: bool,
        scope: u32,
        hint: Option<u32>,
    ) -> (u32, bool) {
        let link = self.link(endpoint, endpoint.gateway(v4));
        let way = NextHop::default_way(looked_up(endpoint, v4));
        let next_hop = NextHop { flags: next_hop_flags::LOOK_UP, scope, way, ..link };
        let to = if v4 { Way::Default4 } else { Way::Default6 };
        self.next_hop(endpoint, to, next_hop, hint)
    }

    fn next_hop(
        &mut self,
        endpoint: &Endpoint<'_>,
        to: Way,
        next_hop: NextHop,
        hint: Option<u32>,
    ) -> (u32, bool) {
        let index = self.slots.next_hops.get(&HopKey { from: endpoint.key.clone(), to }, hint);
        self.out.tables.next_hops.entry(index).or_insert(next_hop);
        (index, next_hop.is_resolved())
    }

    /// The link's part of a next hop. A neighbour that it needs is to be resolved and kept.
    fn link(&mut self, endpoint: &Endpoint<'_>, neighbour: Option<IpAddr>) -> NextHop {
        let mac = neighbour.and_then(|it| endpoint.neighbour(it)).filter(|_| endpoint.is_up());
        if let Some(address) = neighbour {
            self.out.wanted.insert(WantedNeighbour {
                from: endpoint.key.clone(),
                ifindex: endpoint.link.index,
                address,
                resolved: mac.is_some(),
            });
        }
        let is_bridge = endpoint.link.macvlan_mode == Some(MacvlanMode::Bridge);
        let is_local = |mac: Mac| is_bridge && self.local.contains(&(endpoint.named.index, mac));
        let state = match mac {
            None => NextHopState::Unresolved,
            Some(mac) if is_local(mac) => NextHopState::Local,
            Some(_) => NextHopState::Resolved,
        };
        let (macs, macs_rest) = NextHop::macs(mac.unwrap_or_default(), endpoint.mac);
        NextHop {
            macs,
            macs_rest,
            ifindex: endpoint.master.index,
            port: self.slots.ports.get(&endpoint.master.index, None),
            mtu: u16::try_from(endpoint.link.mtu).unwrap_or(u16::MAX),
            vlan: endpoint.port().vlan,
            state: state as u8,
            ..NextHop::default()
        }
    }

    /// The routes of a data endpoint under its scope: its on-link subnets without a next hop, its known
    /// neighbours and its routes with gateways with theirs. Done once for each endpoint.
    pub(super) fn routes(&mut self, endpoint: &Endpoint<'_>, scope: u32) {
        if self.out.scopes.contains_key(&scope) {
            return;
        }
        self.out.scopes.insert(scope, (endpoint.key.clone(), endpoint.link.index));
        self.out.tables.routers.insert(scope, endpoint.router());
        for route in endpoint.routes().into_iter().filter(|it| !is_of_link(it.destination)) {
            let prefix = RoutePrefix { scope, prefix: route.destination.trunc() };
            if self.out.tables.routes.contains_key(&prefix) {
                // A route of a higher metric.
                continue;
            }
            let next_hop = match route.gateway {
                None => NO_INDEX,
                Some(gateway) => {
                    let hint = self.slots.route_hint(&prefix);
                    let v4 = prefix.prefix.addr().is_ipv4();
                    if route.is_default() && endpoint.gateway(v4) == Some(gateway) {
                        self.default_way(endpoint, v4, scope, hint).0
                    } else {
                        self.neighbour(endpoint, gateway, hint)
                    }
                }
            };
            self.out.tables.routes.insert(prefix, next_hop);
        }
        let is_on_link = |it: &&Route| it.gateway.is_none() && !is_of_link(it.destination);
        let on_link: Vec<_> = endpoint.routes().into_iter().filter(is_on_link).collect();
        for neighbour in endpoint.neighbours().collect::<Vec<_>>() {
            if !on_link.iter().any(|it| it.destination.contains(&neighbour)) {
                continue;
            }
            let prefix = RoutePrefix { scope, prefix: neighbour.into() };
            let hint = self.slots.route_hint(&prefix);
            let index = self.neighbour(endpoint, neighbour, hint);
            self.out.tables.routes.insert(prefix, index);
        }
    }
}

/// Whom macvlan in bridge mode delivers to by itself: the attachments of all pods, with master and MAC.
fn local(world: &World) -> BTreeSet<(u32, Mac)> {
    let mut local = BTreeSet::new();
    for (key, attachment) in &world.attachments {
        let links = world.pods.get(&key.container).map(|it| it.links.as_slice()).unwrap_or_default();
        let own = links.iter().filter(|it| it.name == key.interface);
        let bridged = own.filter(|it| it.macvlan_mode == Some(MacvlanMode::Bridge));
        for link in bridged {
            let master = named(world, attachment, Some(link)).ok().map(|it| it.index);
            local.extend(master.zip(link.mac));
        }
    }
    local
}

/// What an endpoint is known by within a compilation.
fn address_of(endpoint: &Endpoint<'_>) -> usize {
    std::ptr::from_ref(endpoint.key).addr()
}

/// How a network's tunnels to peers of one family are written.
fn tunnel_flags(gtpu: &Gtpu, peer: IpAddr) -> u8 {
    let checksum = match gtpu.udp_checksum {
        None => peer.is_ipv6(),
        Some(it) => it == UdpChecksum::Full,
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    flag(checksum, next_hop_flags::UDP_CHECKSUM)
        | flag(gtpu.flow_source_port, next_hop_flags::FLOW_SOURCE_PORT)
}

/// Which destinations need the trie: those on the endpoint's own subnet, or all where it has more ways than
/// that subnet and a default route.
fn looked_up(endpoint: &Endpoint<'_>, v4: bool) -> LookedUp {
    let own = endpoint.addresses().into_iter().find(|it| it.addr().is_ipv4() == v4);
    let Some(subnet) = own.map(|it| it.trunc()) else {
        return LookedUp::default();
    };
    let is_other = |it: &&Route| {
        let on_link = it.gateway.is_none() && it.destination == subnet;
        let default = it.is_default() && it.gateway.is_some();
        it.destination.addr().is_ipv4() == v4 && !on_link && !default && !is_of_link(it.destination)
    };
    if endpoint.routes().into_iter().any(|it| is_other(&it)) {
        return LookedUp::default();
    }
    match subnet {
        IpNet::V4(it) => LookedUp { prefix: first(it.network()), mask: first(it.netmask()) },
        IpNet::V6(it) if it.prefix_len() <= 64 => {
            LookedUp { prefix: half(it.network()), mask: half(it.netmask()) }
        }
        // More hosts than the subnet are in its /64; the trie tells them apart.
        IpNet::V6(it) => LookedUp { prefix: half(it.network()), mask: [Be32::new(u32::MAX); 2] },
    }
}

/// A link's own fe80::/64 is nowhere that users could send to.
fn is_of_link(destination: IpNet) -> bool {
    matches!(destination, IpNet::V6(it) if it.network().is_unicast_link_local())
}

/// An IPv4 address where entries have the first words of either family.
fn first(address: Ipv4Addr) -> [Be32; 2] {
    [address.into(), Be32::new(0)]
}

/// The first 64 bits of an IPv6 address.
pub(super) fn half(address: Ipv6Addr) -> [Be32; 2] {
    let [a, b, _, _] = ip::words(address);
    [a, b]
}

/// Networks that the counters have room for.
const MAX_NETWORKS: u16 = 256;

/// Allowed peers as entries hold them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peers {
    pub(super) prefix: [Be32; 2],
    pub(super) mask: [Be32; 2],
    pub(super) listed: bool,
}

impl Peers {
    const ANY: Self = Self { prefix: [Be32::new(0); 2], mask: [Be32::new(0); 2], listed: false };
    /// Under this mask nothing has this prefix.
    const NONE: Self = Self { prefix: [Be32::new(u32::MAX); 2], ..Self::ANY };
}

fn mode(xdp: Xdp) -> XdpMode {
    match xdp {
        Xdp::Auto => XdpMode::Auto,
        Xdp::Native => XdpMode::Native,
        Xdp::Generic => XdpMode::Generic,
        Xdp::Tc => XdpMode::Tc,
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
