//! Sessions into entries: one for the uplink's F-TEID, one for each address of the user. Sessions of NADs and of
//! the session API are the same here: [`Flat`].

use super::World;
use super::compile::{Compilation, SessionView, half, pod_name};
use super::directory::Directory;
use super::endpoint::Endpoint;
use super::entries::{Counters, Entries, Key, Keys};
use super::flat::{Flat, FlatDownlink, FlatRule, FlatUplink};
use super::programmed::Programmed;
use super::refusal::{Refusal, Spot};
use super::tables::FramedPrefix;
use crate::nad::NetworkName;
use crate::nad::fast_path::{Role, Target, Xdp};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, MAX_RULES, MeterUse, NO_INDEX, Rule, RuleKey, SessionAction,
    UplinkEntry, UplinkKey, UplinkKey6, downlink_flags, uplink_flags,
};
use netplane_common::wire::{Be32, ip};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::FromZeros;

/// UDP and GTP-U headers in bytes, and what outer IP and a PDU Session Container add (TS 29.281 §5.1).
const TUNNEL_OVERHEAD: u32 = 8 + 8;
const IPV4_OVERHEAD: u32 = 20;
const IPV6_OVERHEAD: u32 = 40;
const CONTAINER_OVERHEAD: u32 = 8;

/// Compiles all static sessions. What the session API holds is taken.
pub(super) fn compile<'w>(
    this: &mut Compilation<'_>,
    world: &'w World,
    directory: &Directory<'_, 'w>,
    held: &Programmed,
) {
    let mut owners = BTreeMap::new();
    for (network, fast_path) in &world.networks {
        if fast_path.role != Role::Access || fast_path.xdp == Xdp::Off {
            continue;
        }
        for session in &fast_path.sessions {
            let object = format!("session {} of NAD {network}", session.name);
            let pod = match directory.pod(session, network) {
                Ok(Some(pod)) => pod,
                Ok(None) => {
                    keep_counters(this, || Flat::of_nad(session, network));
                    continue;
                }
                Err(message) => {
                    keep_counters(this, || Flat::of_nad(session, network));
                    this.problem(object, message);
                    continue;
                }
            };
            let flat = Flat::of_nad(session, network);
            let (counters, resolved) =
                match one(this, world, directory, &flat, &pod, (&object, &mut owners, held)) {
                    Ok(compiled) => compiled,
                    Err(refusal) => {
                        keep_counters(this, || flat.clone());
                        this.problem(object, refusal.for_nad());
                        continue;
                    }
                };
            let tunnel = flat.downlink.as_ref().and_then(|it| it.tunnel.as_ref());
            let access = directory.endpoint(&pod, network);
            this.out.sessions.push(SessionView {
                name: session.name.clone(),
                network: network.clone(),
                pod: access.map_or(pod, |it| pod_name(it.key, it.attachment)),
                ue: user_names(&flat),
                teid: flat.uplink.as_ref().map(|it| it.teid),
                peer: tunnel.map(|it| format!("{} TEID {:#x}", it.peer, it.teid)),
                uplink: flat.uplink.as_ref().map(|_| counters.uplink),
                downlink: flat.downlink.as_ref().map(|_| counters.downlink),
                end_marker: tunnel.is_some_and(|it| it.end_marker),
                resolved,
            });
        }
    }
}

/// A static session is not in force: what it has counted stays. On a node that has no counter, as one without its
/// pod, there is nothing to do.
fn keep_counters(this: &mut Compilation<'_>, session: impl FnOnce() -> Flat) {
    if this.slots.has_counters() {
        this.idle.add(&session());
    }
}

type Owners = BTreeMap<Key, String>;

/// A static session into the tables.
fn one(
    this: &mut Compilation<'_>,
    world: &World,
    directory: &Directory<'_, '_>,
    flat: &Flat,
    pod: &str,
    (object, owners, held): (&str, &mut Owners, &Programmed),
) -> Result<(Counters, bool), Refusal> {
    let placed = Placed::find(world, directory, flat, pod)?;
    let keys = placed.keys();
    for key in keys.iter() {
        let owner = owners.get(&key).cloned().or_else(|| held.holder(&key));
        if let Some(owner) = owner {
            return Err(taken(flat, &key, &owner));
        }
    }
    let counters = keys.counters(this);
    let (entries, resolved) = placed.entries(this, &keys, counters)?;
    owners.extend(keys.iter().map(|it| (it, object.to_owned())));
    entries.insert(&mut this.out.tables);
    for (endpoint, peer) in placed.peers().filter(|(it, _)| it.fast_path.gtpu.path_check.is_some()) {
        this.out.peers.entry(endpoint.key.clone()).or_default().insert(peer);
    }
    Ok((counters, resolved))
}

/// That a key belongs to another session.
pub(super) fn taken(flat: &Flat, key: &Key, owner: &str) -> Refusal {
    match key {
        Key::Uplink(_) | Key::Uplink6(_) => {
            let teid = flat.uplink.as_ref().map_or(0, |it| it.teid);
            Refusal::taken(Spot::Teid, format!("{teid:#x} is that of {owner}"))
        }
        Key::Downlink4(_) => {
            let user = flat.ue4.unwrap_or(Ipv4Addr::UNSPECIFIED);
            Refusal::taken(Spot::User, format!("{user} is that of {owner}"))
        }
        Key::Framed(it) => {
            Refusal::taken(Spot::Framed, format!("{} overlaps what is that of {owner}", it.prefix))
        }
        Key::Downlink6(_) => {
            let user = flat.ue6.unwrap_or(Ipv6Addr::UNSPECIFIED);
            Refusal::taken(Spot::User, format!("{user} is that of {owner}"))
        }
    }
}

/// A session with its endpoints.
#[derive(Clone)]
pub(super) struct Placed<'f, 'e, 'w> {
    pub(super) flat: &'f Flat,
    /// Where the uplink arrives and where it leaves.
    pub(super) access: Option<&'e Endpoint<'w>>,
    pub(super) to: Option<&'e Endpoint<'w>>,
    /// Where the downlink arrives and where it leaves.
    pub(super) data: Option<&'e Endpoint<'w>>,
    pub(super) tunnel: Option<&'e Endpoint<'w>>,
    /// Its rules, with theirs.
    pub(super) rules: Vec<PlacedRule<'f, 'e, 'w>>,
}

#[derive(Clone)]
pub(super) struct PlacedRule<'f, 'e, 'w> {
    rule: &'f FlatRule,
    is_downlink: bool,
    pub(super) placed: Placed<'f, 'e, 'w>,
}

impl<'f, 'e, 'w> Placed<'f, 'e, 'w> {
    /// Finds the endpoints of a session in its pod.
    ///
    /// # Errors
    /// A network is not there, of another role, or not the pod's; or a user's address is none of the data
    /// network's.
    pub(super) fn find(
        world: &World,
        directory: &Directory<'e, 'w>,
        flat: &'f Flat,
        pod: &str,
    ) -> Result<Self, Refusal> {
        let mut placed = Self { flat, access: None, to: None, data: None, tunnel: None, rules: Vec::new() };
        for (is_downlink, rule) in flat.rules() {
            let of_rule = Self::find(world, directory, &rule.flat, pod)?;
            placed.rules.push(PlacedRule { rule, is_downlink, placed: of_rule });
        }
        let find = |network: &NetworkName, role: Role, spot: Spot| {
            let fast_path = world.networks.get(network);
            let fast_path = fast_path.ok_or_else(|| {
                Refusal::not_found(spot, format!("{network} is no network with fast-path metadata"))
            })?;
            if fast_path.role != role {
                let message = format!("{network} has role {:?}, should be {role:?}", fast_path.role);
                return Err(Refusal::invalid(spot, message));
            }
            let endpoint = directory.endpoint(pod, network);
            let endpoint = endpoint
                .ok_or_else(|| Refusal::denied(spot, format!("pod {pod} is not attached to {network}")))?;
            if role == Role::Data {
                for user in flat.users() {
                    if !fast_path.ue_pools.iter().any(|it| it.contains(&user)) {
                        let message = format!("{user} is in none of the uePools of {network}");
                        return Err(Refusal::denied(Spot::User, message));
                    }
                }
                for prefix in &flat.framed {
                    if !fast_path.ue_pools.iter().any(|it| it.contains(prefix)) {
                        let message = format!("{prefix} is in none of the uePools of {network}");
                        return Err(Refusal::denied(Spot::Framed, message));
                    }
                }
            }
            Ok(endpoint)
        };
        if let Some(uplink) = &flat.uplink {
            let access = find(&uplink.network, Role::Access, Spot::Access)?;
            placed.access = Some(access);
            if let Some(local) = uplink.local
                && !access.addresses().iter().any(|it| it.addr() == local)
            {
                let message = match directory.holder(&uplink.network, local) {
                    Some(other) => format!("{local} is an address of pod {other}"),
                    None => format!("{local} is no address of pod {pod} on {}", uplink.network),
                };
                return Err(Refusal::denied(Spot::Local, message));
            }
            placed.to = match &uplink.to {
                Some(Target::Data(network)) => Some(find(network, Role::Data, Spot::To)?),
                Some(Target::Relay { network, .. }) => Some(find(network, Role::Access, Spot::Relay)?),
                None => None,
            };
        }
        if let Some(downlink) = &flat.downlink {
            placed.data = Some(find(&downlink.network, Role::Data, Spot::Data)?);
            if let Some(tunnel) = &downlink.tunnel {
                placed.tunnel = Some(find(&tunnel.network, Role::Access, Spot::Tunnel)?);
            }
        }
        Ok(placed)
    }

    /// The data network to which the uplink goes.
    fn to_data(&self) -> Option<&'e Endpoint<'w>> {
        let is_data = self.flat.uplink.as_ref().is_some_and(|it| matches!(it.to, Some(Target::Data(_))));
        self.to.filter(|_| is_data)
    }

    /// The GTP-U peers that it sends to, without those of its rules, each with the endpoint that does.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&'e Endpoint<'w>, IpAddr)> + use<'e, 'w> {
        let relay = self.flat.uplink.as_ref().and_then(|it| it.relay_peer());
        let tunnel = self.flat.downlink.as_ref().and_then(|it| it.tunnel.as_ref()).map(|it| it.peer);
        self.to.zip(relay).into_iter().chain(self.tunnel.zip(tunnel))
    }

    /// Where its packets arrive.
    pub(super) fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        if let Some((access, uplink)) = self.access.zip(self.flat.uplink.as_ref()) {
            let (port, teid) = (access.port(), Be32::new(uplink.teid));
            let ends_at = |it: IpAddr| uplink.local.is_none_or(|local| local == it);
            let v4 = access.address4.map(|it| it.addr()).filter(|it| ends_at((*it).into()));
            let v6 = access.address6.map(|it| it.addr()).filter(|it| ends_at((*it).into()));
            keys.uplink = v4.map(|it| UplinkKey { port, teid, local: it.into() });
            keys.uplink6 = v6.map(|it| UplinkKey6 { port, teid, local: ip::words(it) });
        }
        if let Some(data) = self.data {
            let port = data.port();
            keys.downlink4 = self.flat.ue4.map(|ue| DownlinkKey4 { port, ue: ue.into() });
            keys.downlink6 = self.flat.ue6.map(|ue| DownlinkKey6 { port, ue: half(ue) });
        }
        let of_rules = self.rules.iter().filter_map(|it| it.placed.to_data());
        for data in self.data.into_iter().chain(self.to_data()).chain(of_rules) {
            for prefix in &self.flat.framed {
                let key = FramedPrefix { port: data.port(), prefix: *prefix };
                if !keys.framed.contains(&key) {
                    keys.framed.push(key);
                }
            }
        }
        keys
    }

    /// Its entries, and whether all next hops are resolved.
    ///
    /// # Errors
    /// A peer cannot be reached from its endpoint.
    pub(super) fn entries(
        &self,
        this: &mut Compilation<'_>,
        keys: &Keys,
        counters: Counters,
    ) -> Result<(Entries, bool), Refusal> {
        let mut entries = Entries {
            keys: keys.clone(),
            uplink: None,
            uplink6: None,
            downlink: None,
            framed: keys.framed.iter().map(|it| (*it, self.flat.behind(&it.prefix))).collect(),
            rules: BTreeMap::new(),
            belongings: counters.sets.belongings(self.flat),
        };
        let mut resolved = true;
        // The downlink first: if its peer cannot be reached, the session is not half there.
        if let Some((downlink, data)) = self.flat.downlink.as_ref().zip(self.data) {
            let (entry, known) = self.encapsulate(this, keys, downlink, data, counters.downlink)?;
            entries.downlink = Some(entry);
            resolved &= known;
        }
        if let Some((uplink, access)) = self.flat.uplink.as_ref().zip(self.access) {
            let entry = uplink_entry(this, self.flat, access, counters.uplink);
            let (entry, known) = match (&uplink.to, self.to) {
                (Some(Target::Data(_)), Some(data)) => self.decapsulate(this, keys, uplink, data, entry),
                (Some(Target::Relay { peer, teid, .. }), Some(other)) => {
                    relay(this, keys, other, (*peer, *teid), entry)?
                }
                _ => (entry, true),
            };
            resolved &= known;
            let mut with_peers = |v4| {
                let peers = this.peers(access, entry.network, v4);
                let listed = if peers.listed { uplink_flags::PEER_LIST } else { 0 };
                UplinkEntry {
                    flags: entry.flags | listed,
                    peer: peers.prefix,
                    peer_mask: peers.mask,
                    ..entry
                }
            };
            entries.uplink = keys.uplink.map(|_| with_peers(true));
            entries.uplink6 = keys.uplink6.map(|_| with_peers(false));
        }
        for placed in &self.rules {
            resolved &= placed.add_to(this, keys, counters, &mut entries)?;
        }
        if let Some((data, entry)) = self.data.zip(entries.downlink) {
            // It speaks as the users' router, whether or not an uplink goes there.
            this.routes(data, entry.scope);
        }
        Ok((entries, resolved))
    }

    fn decapsulate(
        &self,
        this: &mut Compilation<'_>,
        keys: &Keys,
        uplink: &FlatUplink,
        data: &Endpoint<'_>,
        mut entry: UplinkEntry,
    ) -> (UplinkEntry, bool) {
        let hint = this.slots.uplink_hint(keys.uplink.as_ref(), keys.uplink6.as_ref(), false);
        entry.action = SessionAction::Forward as u8;
        entry.flags |= uplink_flags::CHECK_UE;
        if let Some(qfi) = uplink.qfi {
            entry.flags |= uplink_flags::CHECK_QFI;
            entry.qfi = qfi;
        }
        if !self.flat.framed.is_empty() {
            let port = data.port();
            entry.flags |= uplink_flags::FRAMED;
            (entry.data_ifindex, entry.teid) = (port.ifindex, Be32::new(u32::from(port.vlan)));
        }
        let scope = this.slots.scopes.get(data.key, hint.scope);
        let mut resolved = true;
        for (v4, is_used) in [(true, self.flat.ue4.is_some()), (false, self.flat.ue6.is_some())] {
            if is_used {
                let hint = if v4 { hint.next_hop4 } else { hint.next_hop6 };
                let (index, known) = this.users_way(data, v4, scope, hint);
                *(if v4 { &mut entry.next_hop4 } else { &mut entry.next_hop6 }) = index;
                resolved &= known;
            }
        }
        this.routes(data, scope);
        (entry, resolved)
    }

    fn encapsulate(
        &self,
        this: &mut Compilation<'_>,
        keys: &Keys,
        downlink: &FlatDownlink,
        data: &Endpoint<'_>,
        counter: u32,
    ) -> Result<(DownlinkEntry, bool), Refusal> {
        let hint = this.slots.scope_hint(keys.downlink4.as_ref(), keys.downlink6.as_ref());
        let entry = DownlinkEntry {
            action: if downlink.buffers { SessionAction::Buffer } else { SessionAction::Drop } as u8,
            flags: 0,
            network: network_index(this, data),
            mac: data.mac,
            dscp: 0,
            qfi: 0,
            teid: Be32::new(0),
            next_hop: NO_INDEX,
            counter,
            mtu: u16::MAX,
            reserved0: 0,
            scope: this.slots.scopes.get(data.key, hint),
            rules: 0,
            reserved1: 0,
        };
        let Some((tunnel, access)) = downlink.tunnel.as_ref().zip(self.tunnel) else {
            return Ok((entry, true));
        };
        let gtpu = &access.fast_path.gtpu;
        let mut flags = 0;
        let mut overhead = TUNNEL_OVERHEAD;
        overhead += if tunnel.peer.is_ipv4() { IPV4_OVERHEAD } else { IPV6_OVERHEAD };
        if tunnel.qfi.is_some() {
            flags |= downlink_flags::QFI;
            overhead += CONTAINER_OVERHEAD;
        }
        if gtpu.dscp.is_none() {
            flags |= downlink_flags::COPY_DSCP;
        }
        let path = u16::try_from(access.link.mtu.saturating_sub(overhead)).unwrap_or(u16::MAX - 64);
        let mtu = [data.fast_path.mtu, access.fast_path.mtu].into_iter().flatten().fold(path, u16::min);
        let hint4 = keys.downlink4.as_ref().and_then(|it| this.slots.downlink4_hint(it));
        let hint6 = keys.downlink6.as_ref().and_then(|it| this.slots.downlink6_hint(it));
        let way = this.tunnel(access, tunnel.peer, hint4.or(hint6));
        let (next_hop, resolved) = way.map_err(|it| Refusal::invalid(Spot::Peer, it))?;
        let entry = DownlinkEntry {
            action: if downlink.buffers { SessionAction::Buffer } else { SessionAction::Forward } as u8,
            flags,
            dscp: gtpu.dscp.unwrap_or(0) << 2,
            qfi: tunnel.qfi.unwrap_or(0),
            teid: Be32::new(tunnel.teid),
            next_hop,
            mtu,
            ..entry
        };
        Ok((entry, resolved))
    }
}

impl PlacedRule<'_, '_, '_> {
    /// Adds the rule to its session's entries, and says in these that there are rules. Returns whether its next hops
    /// are resolved.
    fn add_to(
        &self,
        this: &mut Compilation<'_>,
        keys: &Keys,
        counters: Counters,
        entries: &mut Entries,
    ) -> Result<bool, Refusal> {
        let (own, resolved) = self.placed.entries(this, keys, counters)?;
        let set = counters.sets.set(self.is_downlink);
        let is_same = |it: &&RuleKey| it.set == set;
        let number = u32::try_from(entries.rules.keys().filter(is_same).count()).unwrap_or(MAX_RULES);
        let mut rule = Rule { filter: self.rule.filter, ..Rule::new_zeroed() };
        for (to, (qer, rate)) in rule.meters.iter_mut().zip(&self.rule.qers) {
            *to = MeterUse { key: counters.sets.meter(*qer, self.is_downlink), rate: *rate };
            rule.n_meters += 1;
        }
        for (to, (urr, is_limited)) in rule.usages.iter_mut().zip(&self.rule.urrs) {
            *to = counters.sets.usage(*urr);
            rule.limited |= u8::from(*is_limited) << rule.n_usages;
            rule.n_usages += 1;
        }
        if let (true, Some(entry), Some(head)) = (self.is_downlink, own.downlink, &mut entries.downlink) {
            rule.downlink = DownlinkEntry { rules: self.rule.pdr, ..entry };
            head.flags |= downlink_flags::RULES;
            head.rules = set;
            // Who is told that a packet is too big must be told of one that fits every rule.
            head.mtu = head.mtu.min(entry.mtu);
        }
        if let (false, Some(entry)) = (self.is_downlink, own.uplink.or(own.uplink6)) {
            rule.uplink = entry;
            let looks = if rule.filter.qfis == 0 { 0 } else { uplink_flags::CHECK_QFI };
            for head in entries.uplink.iter_mut().chain(&mut entries.uplink6) {
                head.flags |= uplink_flags::RULES | looks;
                head.rules = set;
            }
        }
        entries.rules.insert(RuleKey { set, number }, rule);
        Ok(resolved)
    }
}

pub(super) fn user_names(flat: &Flat) -> Vec<String> {
    let v4 = flat.ue4.map(|it| it.to_string());
    let v6 = flat.ue6.map(|it| format!("{it}/64"));
    v4.into_iter().chain(v6).collect()
}

/// What all uplinks have in common; peers are the ends' own.
fn uplink_entry(this: &mut Compilation<'_>, flat: &Flat, access: &Endpoint<'_>, counter: u32) -> UplinkEntry {
    UplinkEntry {
        action: SessionAction::Drop as u8,
        flags: 0,
        network: network_index(this, access),
        mac: access.mac,
        dscp: 0,
        qfi: 0,
        peer: [Be32::new(0); 2],
        peer_mask: [Be32::new(0); 2],
        ue4: flat.ue4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        ue6: flat.ue6.map_or([Be32::new(0); 2], half),
        next_hop4: NO_INDEX,
        next_hop6: NO_INDEX,
        counter,
        teid: Be32::new(0),
        rules: 0,
        data_ifindex: 0,
    }
}

fn network_index(this: &mut Compilation<'_>, endpoint: &Endpoint<'_>) -> u16 {
    this.network_of(endpoint)
}

fn relay(
    this: &mut Compilation<'_>,
    keys: &Keys,
    other: &Endpoint<'_>,
    (peer, teid): (IpAddr, u32),
    mut entry: UplinkEntry,
) -> Result<(UplinkEntry, bool), Refusal> {
    let hint = this.slots.uplink_hint(keys.uplink.as_ref(), keys.uplink6.as_ref(), true);
    let way = this.tunnel(other, peer, hint.next_hop4);
    let (next_hop4, resolved) = way.map_err(|it| Refusal::invalid(Spot::Peer, it))?;
    entry.action = SessionAction::Relay as u8;
    match other.fast_path.gtpu.dscp {
        None => entry.flags |= uplink_flags::COPY_DSCP,
        Some(dscp) => entry.dscp = dscp << 2,
    }
    entry.next_hop4 = next_hop4;
    entry.teid = Be32::new(teid);
    Ok((entry, resolved))
}
