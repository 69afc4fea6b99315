//! Sessions into entries: one for the uplink's F-TEID, one for each address of the user.

use super::World;
use super::compile::{Compilation, SessionView, pod_name};
use super::endpoint::Endpoint;
use super::slots::CounterKey;
use crate::nad::NetworkName;
use crate::nad::fast_path::{Downlink, Role, StaticSession, Target, Uplink, Xdp};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, NO_INDEX, RelayTarget, RouteTarget, SessionAction,
    UplinkEntry, UplinkKey, downlink_flags, uplink_flags,
};
use netplane_common::wire::Be32;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Outer IPv4, UDP and GTP-U headers in bytes, and what a PDU Session Container adds (TS 29.281 §5.1).
const TUNNEL_OVERHEAD: u32 = 20 + 8 + 8;
const CONTAINER_OVERHEAD: u32 = 8;

/// The endpoints of this node by pod and network. Outside Kubernetes a container is its own pod.
struct Directory<'e, 'w> {
    by_pod: BTreeMap<String, BTreeMap<&'w NetworkName, &'e Endpoint<'w>>>,
    by_network: BTreeMap<&'w NetworkName, Vec<String>>,
}

impl<'e, 'w> Directory<'e, 'w> {
    fn new(endpoints: &'e [Endpoint<'w>]) -> Self {
        let mut this = Self { by_pod: BTreeMap::new(), by_network: BTreeMap::new() };
        for endpoint in endpoints {
            let pod = match &endpoint.attachment.pod {
                Some(pod) => pod.to_string(),
                None => endpoint.key.container.clone(),
            };
            // Of two attachments to one network the first one is used.
            this.by_pod.entry(pod.clone()).or_default().entry(endpoint.network()).or_insert(endpoint);
            let pods = this.by_network.entry(endpoint.network()).or_default();
            if !pods.contains(&pod) {
                pods.push(pod);
            }
        }
        this
    }

    fn endpoint(&self, pod: &str, network: &NetworkName) -> Option<&'e Endpoint<'w>> {
        self.by_pod.get(pod)?.get(network).copied()
    }

    /// The pod of a session: the named one, or the only one that has all its networks. `Ok(None)`: it is
    /// not on this node.
    fn pod(&self, session: &StaticSession, access: &NetworkName) -> Result<Option<String>, String> {
        let here = self.by_network.get(access).map(Vec::as_slice).unwrap_or_default();
        if let Some(pod) = &session.pod {
            let pod = pod.to_string();
            return Ok(here.contains(&pod).then_some(pod));
        }
        let needed = session.uplink.as_ref().map(|it| match &it.to {
            Target::Data(network) | Target::Relay { network, .. } => network,
        });
        let mut with_all = here.iter().filter(|pod| needed.is_none_or(|it| self.endpoint(pod, it).is_some()));
        match (with_all.next(), with_all.next()) {
            (Some(first), Some(second)) => {
                Err(format!("\"pod\" is left out, and both {first} and {second} have its networks"))
            }
            (Some(only), None) => Ok(Some(only.clone())),
            // A pod that has the access network alone: the missing one is worth a word.
            (None, _) => Ok(here.first().cloned()),
        }
    }
}

/// Compiles all static sessions.
pub(super) fn compile<'w>(this: &mut Compilation<'_>, world: &'w World, endpoints: &[Endpoint<'w>]) {
    let directory = Directory::new(endpoints);
    let mut teids = BTreeMap::new();
    let mut users = BTreeMap::new();
    for (network, fast_path) in &world.networks {
        if fast_path.role != Role::Access || fast_path.xdp == Xdp::Off {
            continue;
        }
        for session in &fast_path.sessions {
            let object = format!("session {} of NAD {network}", session.name);
            let placed = match directory.pod(session, network) {
                Ok(Some(pod)) => place(world, &directory, session, network, &pod),
                Ok(None) => continue,
                Err(message) => Err(message),
            };
            let compiled = placed.and_then(|placed| {
                check_unique(&placed, &object, &mut teids, &mut users)?;
                Ok(one(this, &placed))
            });
            match compiled {
                Ok(view) => this.out.sessions.push(view),
                Err(message) => this.problem(object, message),
            }
        }
    }
}

/// A session with its endpoints.
struct Placed<'e, 'w> {
    session: &'w StaticSession,
    access: &'e Endpoint<'w>,
    /// Data or relay network.
    other: Option<&'e Endpoint<'w>>,
}

fn place<'e, 'w>(
    world: &World,
    directory: &Directory<'e, 'w>,
    session: &'w StaticSession,
    network: &'w NetworkName,
    pod: &str,
) -> Result<Placed<'e, 'w>, String> {
    let access = directory.endpoint(pod, network).ok_or("its pod is not attached to this network")?;
    let Some(uplink) = &session.uplink else {
        return Ok(Placed { session, access, other: None });
    };
    let (key, name, role) = match &uplink.to {
        Target::Data(name) => ("to", name, Role::Data),
        Target::Relay { network, .. } => ("relay.network", network, Role::Access),
    };
    let fast_path = world.networks.get(name);
    let fast_path =
        fast_path.ok_or_else(|| format!("uplink.{key}: {name} is no network with fast-path metadata"))?;
    if fast_path.role != role {
        return Err(format!("uplink.{key}: {name} has role {:?}, should be {role:?}", fast_path.role));
    }
    let other = directory.endpoint(pod, name);
    let other = other.ok_or_else(|| format!("uplink.{key}: pod {pod} is not attached to {name}"))?;
    let users = [session.ue4.map(IpAddr::V4), session.ue6.map(IpAddr::V6)];
    if role == Role::Data {
        for user in users.into_iter().flatten() {
            if !fast_path.ue_pools.iter().any(|it| it.contains(&user)) {
                return Err(format!("ue: {user} is in none of the uePools of {name}"));
            }
        }
    }
    Ok(Placed { session, access, other: Some(other) })
}

type Owners<K> = BTreeMap<K, String>;

/// One TEID of an endpoint, and one user of a data network, belong to one session.
fn check_unique(
    placed: &Placed<'_, '_>,
    object: &str,
    teids: &mut Owners<(netplane_common::map::Port, Ipv4Addr, u32)>,
    users: &mut Owners<(netplane_common::map::Port, IpAddr)>,
) -> Result<(), String> {
    let session = placed.session;
    let teid =
        session.uplink.as_ref().map(|it| (placed.access.port(), placed.access.address.addr(), it.teid));
    if let Some((owner, (_, _, teid))) = teid.and_then(|it| Some((teids.get(&it)?, it))) {
        return Err(format!("uplink.teid: {teid:#x} is that of {owner}"));
    }
    let addresses: Vec<_> = match (placed.other, &session.downlink) {
        (Some(data), Some(_)) => {
            let addresses = [session.ue4.map(IpAddr::V4), session.ue6.map(IpAddr::V6)];
            addresses.into_iter().flatten().map(|it| (data.port(), it)).collect()
        }
        _ => Vec::new(),
    };
    if let Some((owner, (_, user))) = addresses.iter().find_map(|it| Some((users.get(it)?, it))) {
        return Err(format!("ue: {user} is that of {owner}"));
    }
    teids.extend(teid.map(|it| (it, object.to_owned())));
    users.extend(addresses.into_iter().map(|it| (it, object.to_owned())));
    Ok(())
}

fn one(this: &mut Compilation<'_>, placed: &Placed<'_, '_>) -> SessionView {
    let session = placed.session;
    let mut view = SessionView {
        name: session.name.clone(),
        network: placed.access.network().clone(),
        pod: pod_name(placed.access.key, placed.access.attachment),
        ue: user_names(session),
        teid: session.uplink.as_ref().map(|it| it.teid),
        peer: session.downlink.as_ref().map(|it| format!("{} TEID {:#x}", it.peer, it.teid)),
        uplink: None,
        downlink: None,
        resolved: true,
    };
    if let Some((uplink, other)) = session.uplink.as_ref().zip(placed.other) {
        let (counter, resolved) = match &uplink.to {
            Target::Data(_) => decapsulate(this, placed, uplink, other),
            Target::Relay { peer, teid, .. } => relay(this, placed, uplink, other, *peer, *teid),
        };
        view.uplink = Some(counter);
        view.resolved &= resolved;
    }
    if let Some((downlink, data)) = session.downlink.as_ref().zip(placed.other) {
        let (counter, resolved) = encapsulate(this, placed, downlink, data);
        view.downlink = counter;
        view.resolved &= resolved;
    }
    view
}

fn user_names(session: &StaticSession) -> Vec<String> {
    let v4 = session.ue4.map(|it| it.to_string());
    let v6 = session.ue6.map(|it| format!("{it}/64"));
    v4.into_iter().chain(v6).collect()
}

fn half(prefix: Option<Ipv6Addr>) -> [Be32; 2] {
    let bits = prefix.map_or(0, Ipv6Addr::to_bits);
    [Be32::new((bits >> 96) as u32), Be32::new((bits >> 64) as u32)]
}

/// What decapsulation and relay have in common.
fn uplink_entry(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    uplink: &Uplink,
) -> (UplinkKey, UplinkEntry) {
    let access = placed.access;
    let key =
        UplinkKey { port: access.port(), teid: Be32::new(uplink.teid), local: access.address.addr().into() };
    let network = network_index(this, access);
    let peers = this.peers(access, network);
    let counter = this.slots.counters.get(&CounterKey::Uplink(key), None);
    let entry = UplinkEntry {
        action: SessionAction::Forward as u8,
        flags: if peers.listed { uplink_flags::PEER_LIST } else { 0 },
        network,
        mac: access.mac,
        dscp: 0,
        reserved0: 0,
        peer: peers.prefix,
        peer_mask: peers.mask,
        ue4: placed.session.ue4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        ue6: half(placed.session.ue6),
        next_hop4: NO_INDEX,
        next_hop6: NO_INDEX,
        counter,
        target: [Be32::new(0); 3],
        reserved1: [0; 2],
    };
    (key, entry)
}

fn network_index(this: &mut Compilation<'_>, endpoint: &Endpoint<'_>) -> u16 {
    let index = this.slots.networks.get(&endpoint.network().to_string(), None);
    u16::try_from(index).unwrap_or(0)
}

fn decapsulate(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    uplink: &Uplink,
    data: &Endpoint<'_>,
) -> (u32, bool) {
    let (key, mut entry) = uplink_entry(this, placed, uplink);
    let hint = this.slots.uplink_hint(&key, false);
    entry.flags |= uplink_flags::CHECK_UE;
    let scope = this.slots.scopes.get(data.key, hint.scope);
    let mut resolved = true;
    if let Some(gateway) = data.gateway(true) {
        let (index, known) = this.next_hop(data, gateway, hint.next_hop4);
        entry.next_hop4 = index;
        resolved &= known || placed.session.ue4.is_none();
    }
    if let Some(gateway) = data.gateway(false).filter(|_| placed.session.ue6.is_some()) {
        let (index, known) = this.next_hop(data, gateway, hint.next_hop6);
        entry.next_hop6 = index;
        resolved &= known;
    }
    let users = [(true, placed.session.ue4.is_some()), (false, placed.session.ue6.is_some())];
    for (v4, _) in users.into_iter().filter(|(v4, is_used)| *is_used && data.gateway(*v4).is_none()) {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let object = format!("{}, interface {}", pod_name(data.key, data.attachment), data.key.interface);
        this.problem(
            object,
            format!("no {family} default route with a gateway: users reach its own subnets only"),
        );
    }
    entry.target = looked_up(data, scope).into();
    this.routes(data, scope);
    this.out.tables.uplink.insert(key, entry);
    (entry.counter, resolved)
}

/// Which destinations need the trie: those on the endpoint's own subnet, or all where it has more ways than
/// that subnet and a default route.
fn looked_up(data: &Endpoint<'_>, scope: u32) -> RouteTarget {
    let subnet = data.address.trunc();
    let ordinary = |it: &&&crate::netlink::route::Route| {
        let on_link = it.gateway.is_none() && it.destination == subnet.into();
        let default = it.is_default() && it.gateway.is_some();
        !(on_link || default)
    };
    let routes = data.routes();
    let others = routes.iter().filter(|it| it.destination.addr().is_ipv4()).filter(ordinary).count();
    if others == 0 {
        RouteTarget { prefix: subnet.network().into(), mask: subnet.netmask().into(), scope }
    } else {
        RouteTarget { prefix: Be32::new(0), mask: Be32::new(0), scope }
    }
}

fn relay(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    uplink: &Uplink,
    other: &Endpoint<'_>,
    peer: Ipv4Addr,
    teid: u32,
) -> (u32, bool) {
    let (key, mut entry) = uplink_entry(this, placed, uplink);
    let hint = this.slots.uplink_hint(&key, true);
    let gtpu = &other.fast_path.gtpu;
    entry.action = SessionAction::Relay as u8;
    if gtpu.flow_source_port {
        entry.flags |= uplink_flags::FLOW_SOURCE_PORT;
    }
    match gtpu.dscp {
        None => entry.flags |= uplink_flags::COPY_DSCP,
        Some(dscp) => entry.dscp = dscp << 2,
    }
    entry.target =
        RelayTarget { local: other.address.addr().into(), peer: peer.into(), teid: Be32::new(teid) }.into();
    let mut resolved = false;
    if let Some(to) = other.towards(peer.into()) {
        (entry.next_hop4, resolved) = this.next_hop(other, to, hint.next_hop4);
    }
    this.out.tables.uplink.insert(key, entry);
    (entry.counter, resolved)
}

fn encapsulate(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    downlink: &Downlink,
    data: &Endpoint<'_>,
) -> (Option<u32>, bool) {
    let (access, session) = (placed.access, placed.session);
    let gtpu = &access.fast_path.gtpu;
    let mut flags = 0;
    let mut overhead = TUNNEL_OVERHEAD;
    if downlink.qfi.is_some() {
        flags |= downlink_flags::QFI;
        overhead += CONTAINER_OVERHEAD;
    }
    if gtpu.flow_source_port {
        flags |= downlink_flags::FLOW_SOURCE_PORT;
    }
    if gtpu.dscp.is_none() {
        flags |= downlink_flags::COPY_DSCP;
    }
    let path = u16::try_from(access.link.mtu.saturating_sub(overhead)).unwrap_or(u16::MAX - 64);
    let mtu = [data.fast_path.mtu, access.fast_path.mtu].into_iter().flatten().fold(path, u16::min);
    let key4 = session.ue4.map(|ue| DownlinkKey4 { port: data.port(), ue: ue.into() });
    let key6 = session.ue6.map(|ue| DownlinkKey6 { port: data.port(), ue: half(Some(ue)) });
    let hint4 = key4.as_ref().and_then(|it| this.slots.downlink4_hint(it));
    let hint6 = key6.as_ref().and_then(|it| this.slots.downlink6_hint(it));
    let (next_hop, resolved) = match access.towards(downlink.peer.into()) {
        Some(to) => this.next_hop(access, to, hint4.or(hint6)),
        None => (NO_INDEX, false),
    };
    // Both families of a session count together.
    let counter = key4.map(CounterKey::Downlink4).or(key6.map(CounterKey::Downlink6));
    let counter = counter.map(|it| this.slots.counters.get(&it, None));
    let entry = DownlinkEntry {
        action: SessionAction::Forward as u8,
        flags,
        network: network_index(this, data),
        mac: data.mac,
        dscp: gtpu.dscp.unwrap_or(0) << 2,
        qfi: downlink.qfi.unwrap_or(0),
        local: access.address.addr().into(),
        peer: downlink.peer.into(),
        teid: Be32::new(downlink.teid),
        next_hop,
        counter: counter.unwrap_or(NO_INDEX),
        mtu,
        reserved0: 0,
        // The uplink, which every session with a downlink has, has found it.
        scope: this.slots.scopes.get(data.key, None),
        reserved1: [0; 2],
    };
    this.out.tables.downlink4.extend(key4.map(|it| (it, entry)));
    this.out.tables.downlink6.extend(key6.map(|it| (it, entry)));
    (counter, resolved)
}
