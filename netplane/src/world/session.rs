//! Sessions into entries: one for the uplink's F-TEID, one for each address of the user.

use super::World;
use super::compile::{Compilation, SessionView, half, pod_name};
use super::endpoint::Endpoint;
use super::slots::CounterKey;
use crate::nad::NetworkName;
use crate::nad::fast_path::{Downlink, Role, StaticSession, Target, Uplink, Xdp};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, NO_INDEX, Port, SessionAction, UplinkEntry, UplinkKey,
    UplinkKey6, downlink_flags, uplink_flags,
};
use netplane_common::wire::{Be32, ip};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// UDP and GTP-U headers in bytes, and what outer IP and a PDU Session Container add (TS 29.281 §5.1).
const TUNNEL_OVERHEAD: u32 = 8 + 8;
const IPV4_OVERHEAD: u32 = 20;
const IPV6_OVERHEAD: u32 = 40;
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
                one(this, &placed)
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
    teids: &mut Owners<(Port, IpAddr, u32)>,
    users: &mut Owners<(Port, IpAddr)>,
) -> Result<(), String> {
    let session = placed.session;
    let access = placed.access;
    // The tunnel ends at each address of the endpoint.
    let end = |it: &Uplink| {
        let ends = access.addresses().into_iter();
        ends.map(|address| (access.port(), address.addr(), it.teid)).collect::<Vec<_>>()
    };
    let ends = session.uplink.as_ref().map(end).unwrap_or_default();
    if let Some((owner, (_, _, teid))) = ends.iter().find_map(|it| Some((teids.get(it)?, it))) {
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
    teids.extend(ends.into_iter().map(|it| (it, object.to_owned())));
    users.extend(addresses.into_iter().map(|it| (it, object.to_owned())));
    Ok(())
}

fn one(this: &mut Compilation<'_>, placed: &Placed<'_, '_>) -> Result<SessionView, String> {
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
    // The downlink first: if its peer cannot be reached, the session is not half there.
    if let Some((downlink, data)) = session.downlink.as_ref().zip(placed.other) {
        let (counter, resolved) = encapsulate(this, placed, downlink, data)?;
        view.downlink = counter;
        view.resolved &= resolved;
    }
    if let Some((uplink, other)) = session.uplink.as_ref().zip(placed.other) {
        let (counter, resolved) = match &uplink.to {
            Target::Data(_) => decapsulate(this, placed, uplink, other),
            Target::Relay { peer, teid, .. } => relay(this, placed, uplink, other, *peer, *teid)?,
        };
        view.uplink = Some(counter);
        view.resolved &= resolved;
    }
    Ok(view)
}

fn user_names(session: &StaticSession) -> Vec<String> {
    let v4 = session.ue4.map(|it| it.to_string());
    let v6 = session.ue6.map(|it| format!("{it}/64"));
    v4.into_iter().chain(v6).collect()
}

/// Where a tunnel ends: at each address of the access endpoint.
#[derive(Clone, Copy)]
struct Ends {
    key4: Option<UplinkKey>,
    key6: Option<UplinkKey6>,
}

impl Ends {
    fn new(access: &Endpoint<'_>, uplink: &Uplink) -> Self {
        let (port, teid) = (access.port(), Be32::new(uplink.teid));
        Self {
            key4: access.address4.map(|it| UplinkKey { port, teid, local: it.addr().into() }),
            key6: access.address6.map(|it| UplinkKey6 { port, teid, local: ip::words(it.addr()) }),
        }
    }

    /// Both ends count together.
    fn counter(self, this: &mut Compilation<'_>) -> u32 {
        let key = self.key4.map(CounterKey::Uplink).or(self.key6.map(CounterKey::Uplink6));
        key.map_or(NO_INDEX, |it| this.slots.counters.get(&it, None))
    }

    /// Puts the entry in at both ends, with each family's peers.
    fn insert(self, this: &mut Compilation<'_>, access: &Endpoint<'_>, entry: UplinkEntry) {
        let mut with_peers = |v4| {
            let peers = this.peers(access, entry.network, v4);
            let listed = if peers.listed { uplink_flags::PEER_LIST } else { 0 };
            UplinkEntry { flags: entry.flags | listed, peer: peers.prefix, peer_mask: peers.mask, ..entry }
        };
        let entry4 = self.key4.map(|key| (key, with_peers(true)));
        let entry6 = self.key6.map(|key| (key, with_peers(false)));
        this.out.tables.uplink.extend(entry4);
        this.out.tables.uplink6.extend(entry6);
    }
}

/// What decapsulation and relay have in common; peers are the ends' own.
fn uplink_entry(this: &mut Compilation<'_>, placed: &Placed<'_, '_>, ends: Ends) -> UplinkEntry {
    let session = placed.session;
    UplinkEntry {
        action: SessionAction::Forward as u8,
        flags: 0,
        network: network_index(this, placed.access),
        mac: placed.access.mac,
        dscp: 0,
        qfi: 0,
        peer: [Be32::new(0); 2],
        peer_mask: [Be32::new(0); 2],
        ue4: session.ue4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        ue6: session.ue6.map_or([Be32::new(0); 2], half),
        next_hop4: NO_INDEX,
        next_hop6: NO_INDEX,
        counter: ends.counter(this),
        teid: Be32::new(0),
        reserved: [0; 2],
    }
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
    let session = placed.session;
    let ends = Ends::new(placed.access, uplink);
    let mut entry = uplink_entry(this, placed, ends);
    let hint = this.slots.uplink_hint(ends.key4.as_ref(), ends.key6.as_ref(), false);
    entry.flags |= uplink_flags::CHECK_UE;
    if let Some(qfi) = uplink.qfi {
        entry.flags |= uplink_flags::CHECK_QFI;
        entry.qfi = qfi;
    }
    let scope = this.slots.scopes.get(data.key, hint.scope);
    let mut resolved = true;
    for (v4, is_used) in [(true, session.ue4.is_some()), (false, session.ue6.is_some())] {
        if !is_used {
            continue;
        }
        if data.gateway(v4).is_none() {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let object = format!("{}, interface {}", pod_name(data.key, data.attachment), data.key.interface);
            let message = "default route with a gateway: users reach its own subnets only";
            this.problem(object, format!("no {family} {message}"));
        }
        let hint = if v4 { hint.next_hop4 } else { hint.next_hop6 };
        let (index, known) = this.default_way(data, v4, scope, hint);
        *(if v4 { &mut entry.next_hop4 } else { &mut entry.next_hop6 }) = index;
        resolved &= known || data.gateway(v4).is_none();
    }
    this.routes(data, scope);
    ends.insert(this, placed.access, entry);
    (entry.counter, resolved)
}

fn relay(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    uplink: &Uplink,
    other: &Endpoint<'_>,
    peer: IpAddr,
    teid: u32,
) -> Result<(u32, bool), String> {
    let ends = Ends::new(placed.access, uplink);
    let hint = this.slots.uplink_hint(ends.key4.as_ref(), ends.key6.as_ref(), true);
    let (next_hop4, resolved) = this.tunnel(other, peer, hint.next_hop4)?;
    let mut entry = uplink_entry(this, placed, ends);
    entry.action = SessionAction::Relay as u8;
    match other.fast_path.gtpu.dscp {
        None => entry.flags |= uplink_flags::COPY_DSCP,
        Some(dscp) => entry.dscp = dscp << 2,
    }
    entry.next_hop4 = next_hop4;
    entry.teid = Be32::new(teid);
    ends.insert(this, placed.access, entry);
    Ok((entry.counter, resolved))
}

fn encapsulate(
    this: &mut Compilation<'_>,
    placed: &Placed<'_, '_>,
    downlink: &Downlink,
    data: &Endpoint<'_>,
) -> Result<(Option<u32>, bool), String> {
    let (access, session) = (placed.access, placed.session);
    let gtpu = &access.fast_path.gtpu;
    let mut flags = 0;
    let mut overhead = TUNNEL_OVERHEAD;
    overhead += if downlink.peer.is_ipv4() { IPV4_OVERHEAD } else { IPV6_OVERHEAD };
    if downlink.qfi.is_some() {
        flags |= downlink_flags::QFI;
        overhead += CONTAINER_OVERHEAD;
    }
    if gtpu.dscp.is_none() {
        flags |= downlink_flags::COPY_DSCP;
    }
    let path = u16::try_from(access.link.mtu.saturating_sub(overhead)).unwrap_or(u16::MAX - 64);
    let mtu = [data.fast_path.mtu, access.fast_path.mtu].into_iter().flatten().fold(path, u16::min);
    let key4 = session.ue4.map(|ue| DownlinkKey4 { port: data.port(), ue: ue.into() });
    let key6 = session.ue6.map(|ue| DownlinkKey6 { port: data.port(), ue: half(ue) });
    let hint4 = key4.as_ref().and_then(|it| this.slots.downlink4_hint(it));
    let hint6 = key6.as_ref().and_then(|it| this.slots.downlink6_hint(it));
    let (next_hop, resolved) = this.tunnel(access, downlink.peer, hint4.or(hint6))?;
    let hint = this.slots.scope_hint(key4.as_ref(), key6.as_ref());
    let scope = this.slots.scopes.get(data.key, hint);
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
        teid: Be32::new(downlink.teid),
        next_hop,
        counter: counter.unwrap_or(NO_INDEX),
        mtu,
        reserved0: 0,
        scope,
        reserved1: [0; 2],
    };
    this.out.tables.downlink4.extend(key4.map(|it| (it, entry)));
    this.out.tables.downlink6.extend(key6.map(|it| (it, entry)));
    Ok((counter, resolved))
}
