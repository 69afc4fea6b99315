//! Typed handles of the maps, and the operations that write them.

use super::index::Index;
use super::nobodys::Nobodys;
use super::{KernelError, TABLE_FULL};
use crate::world::tables::{FramedPrefix, Operation, PeerPrefix, RoutePrefix, Tables};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::{DevMap, XdpMapError};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use ipnet::IpNet;
use netplane_common::map::{
    Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey, FramedUser,
    IndexedDownlink4, IndexedDownlink6, IndexedUplink, MeterKey, NetworkName, NextHop, PeerKey, PodKey,
    RouteKey, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6, Usage, UsageKey, UsageLimits,
};
use netplane_common::verdict::Reason;
use netplane_common::wire::{Be32, ip};
use std::collections::BTreeSet;

/// The maps that are pinned; the log's ring buffer belongs to one program and is not.
pub(super) const PINNED: [&str; 27] = [
    "UPLINK",
    "UPLINK6",
    "DOWNLINK4",
    "DOWNLINK6",
    "FRAMED",
    "ENDPOINTS",
    "NEXT_HOPS",
    "ROUTES",
    "PEERS",
    "PODS",
    "ROUTERS",
    "PORTS",
    "SESSION_COUNTERS",
    "NETWORK_COUNTERS",
    "NETWORKS",
    "EVENTS",
    "DEVICES",
    "WIRE",
    "FAILURES",
    // A program array forgets its programs with the last reference to it from outside.
    "XDP_ANSWER_FRAGS",
    "TC_ANSWER",
    "XDP_RULES",
    "TC_RULES",
    "RULES",
    "METERS",
    "USAGES",
    "LIMITS",
];

/// Bits of an LPM key in front of the address: the network or scope, which always counts.
const LPM_PREFIX: u32 = 32;

/// The same in the trie of framed routes: the port.
const FRAMED_PREFIX: u32 = 64;

/// Bits in front of an IPv4 address in an IPv4-mapped one.
const MAPPED_PREFIX: u32 = 96;

/// All maps of the object.
pub(super) struct Maps {
    pub(super) uplink: HashMap<MapData, UplinkKey, UplinkEntry>,
    pub(super) uplink6: HashMap<MapData, UplinkKey6, UplinkEntry>,
    pub(super) downlink4: HashMap<MapData, DownlinkKey4, DownlinkEntry>,
    pub(super) downlink6: HashMap<MapData, DownlinkKey6, DownlinkEntry>,
    pub(super) framed: LpmTrie<MapData, FramedKey, FramedUser>,
    pub(super) endpoints: HashMap<MapData, EndpointKey, EndpointEntry>,
    pub(super) next_hops: Array<MapData, NextHop>,
    pub(super) routes: LpmTrie<MapData, RouteKey, u32>,
    pub(super) peers: LpmTrie<MapData, PeerKey, u8>,
    pub(super) pods: HashMap<MapData, PodKey, u8>,
    pub(super) routers: Array<MapData, Router>,
    pub(super) ports: DevMap<MapData>,
    /// The same interface indices, for TC.
    pub(super) devices: Array<MapData, u32>,
    pub(super) session_counters: PerCpuArray<MapData, Counter>,
    pub(super) network_counters: PerCpuArray<MapData, Counter>,
    pub(super) networks: Array<MapData, NetworkName>,
    pub(super) events: RingBuf<MapData>,
    pub(super) rules: HashMap<MapData, RuleKey, Rule>,
    pub(super) meters: HashMap<MapData, MeterKey, u64>,
    pub(super) usages: HashMap<MapData, UsageKey, Usage>,
    pub(super) limits: HashMap<MapData, UsageKey, UsageLimits>,
    /// Not pinned.
    pub(super) nobodys: Nobodys,
    pub(super) index: Indices,
}

/// The tables of sessions that packets find by an index as well. IPv6 on the access side is rare enough to be hashed.
pub(super) struct Indices {
    pub(super) uplink: Index<IndexedUplink>,
    downlink4: Index<IndexedDownlink4>,
    downlink6: Index<IndexedDownlink6>,
}

impl Indices {
    /// All of these entries are to be found so.
    pub(super) fn know(&mut self, tables: &Tables) -> Result<(), MapError> {
        tables.uplink.keys().try_for_each(|it| self.uplink.change(it))?;
        tables.downlink4.keys().try_for_each(|it| self.downlink4.change(it))?;
        tables.downlink6.keys().try_for_each(|it| self.downlink6.change(it))
    }

    /// Before an operation is carried out.
    fn expect(&mut self, operation: &Operation) -> Result<(), MapError> {
        match operation {
            Operation::SetUplink { key, .. } => self.uplink.change(key),
            Operation::DeleteUplink { key } => self.uplink.remove(key),
            Operation::SetDownlink4 { key, .. } => self.downlink4.change(key),
            Operation::DeleteDownlink4 { key } => self.downlink4.remove(key),
            Operation::SetDownlink6 { key, .. } => self.downlink6.change(key),
            Operation::DeleteDownlink6 { key } => self.downlink6.remove(key),
            _ => Ok(()),
        }
    }

    /// A grace period is about to begin. Returns whether one is wanted.
    pub(super) fn begin(&mut self) -> bool {
        let wanted = [self.uplink.begin(), self.downlink4.begin(), self.downlink6.begin()];
        wanted.contains(&true)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.uplink.bytes() + self.downlink4.bytes() + self.downlink6.bytes()
    }

    /// Elements that packets find.
    pub(super) fn in_force(&self) -> u32 {
        self.uplink.in_force() + self.downlink4.in_force() + self.downlink6.in_force()
    }
}

impl Maps {
    /// The grace period is over.
    pub(super) fn settle(&mut self) -> Result<(), MapError> {
        self.index.uplink.settle(&self.uplink)?;
        self.index.downlink4.settle(&self.downlink4)?;
        self.index.downlink6.settle(&self.downlink6)
    }

    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            uplink: take(ebpf, "UPLINK")?,
            uplink6: take(ebpf, "UPLINK6")?,
            downlink4: take(ebpf, "DOWNLINK4")?,
            downlink6: take(ebpf, "DOWNLINK6")?,
            framed: take(ebpf, "FRAMED")?,
            endpoints: take(ebpf, "ENDPOINTS")?,
            next_hops: take(ebpf, "NEXT_HOPS")?,
            routes: take(ebpf, "ROUTES")?,
            peers: take(ebpf, "PEERS")?,
            pods: take(ebpf, "PODS")?,
            routers: take(ebpf, "ROUTERS")?,
            ports: take(ebpf, "PORTS")?,
            devices: take(ebpf, "DEVICES")?,
            session_counters: take(ebpf, "SESSION_COUNTERS")?,
            network_counters: take(ebpf, "NETWORK_COUNTERS")?,
            networks: take(ebpf, "NETWORKS")?,
            events: take(ebpf, "EVENTS")?,
            rules: take(ebpf, "RULES")?,
            meters: take(ebpf, "METERS")?,
            usages: take(ebpf, "USAGES")?,
            limits: take(ebpf, "LIMITS")?,
            nobodys: Nobodys::new(take(ebpf, "NOBODYS")?),
            index: Indices {
                uplink: Index::<IndexedUplink>::new(take(ebpf, "UPLINK_INDEX")?),
                downlink4: Index::<IndexedDownlink4>::new(take(ebpf, "DOWNLINK4_INDEX")?),
                downlink6: Index::<IndexedDownlink6>::new(take(ebpf, "DOWNLINK6_INDEX")?),
            },
        })
    }

    /// Carries out an operation on a map. Attaching and detaching are not among these. Session counters that
    /// are `kept` go on, whatever the operation says.
    pub(super) fn apply(&mut self, operation: &Operation, kept: &BTreeSet<u32>) -> Result<(), KernelError> {
        self.write(operation, kept).map_err(|source| KernelError {
            operation: describe(operation),
            remedy: remedy(&source),
            source: Box::new(source),
        })
    }

    /// Whether an element of the device map has this device. The kernel takes a device out that goes, to another
    /// namespace as well.
    pub(super) fn leads_to(&self, index: u32, ifindex: u32) -> bool {
        self.ports.get(index, 0).is_ok_and(|it| it.if_index == ifindex)
    }

    fn write(&mut self, operation: &Operation, kept: &BTreeSet<u32>) -> Result<(), MapError> {
        self.nobodys.expect(operation)?;
        self.index.expect(operation)?;
        match operation {
            Operation::Attach { .. } | Operation::Detach { .. } => Ok(()),
            Operation::SetPort { index, ifindex } => {
                self.devices.set(*index, *ifindex, 0)?;
                self.ports.set(*index, *ifindex, None, 0).map_err(map_error)
            }
            // A device map's element cannot be deleted through aya; one that no next hop names is never
            // used, and the kernel clears it when the device goes.
            Operation::ClearPort { .. } => Ok(()),
            Operation::SetNetwork { index, name } => self.name_network(*index, name),
            Operation::ClearNetwork { index } => self.networks.set(u32::from(*index), NetworkName::FREE, 0),
            Operation::SetNextHop { index, next_hop } => self.next_hops.set(*index, *next_hop, 0),
            Operation::SetUplink { key, entry, new_counter } => {
                self.start_counter(entry.counter, *new_counter && !kept.contains(&entry.counter))?;
                self.uplink.insert(key, entry, 0)
            }
            Operation::DeleteUplink { key } => gone_is_done(self.uplink.remove(key)),
            Operation::SetUplink6 { key, entry, new_counter } => {
                self.start_counter(entry.counter, *new_counter && !kept.contains(&entry.counter))?;
                self.uplink6.insert(key, entry, 0)
            }
            Operation::DeleteUplink6 { key } => gone_is_done(self.uplink6.remove(key)),
            Operation::SetDownlink4 { key, entry, new_counter } => {
                self.start_counter(entry.counter, *new_counter && !kept.contains(&entry.counter))?;
                self.downlink4.insert(key, entry, 0)
            }
            Operation::DeleteDownlink4 { key } => gone_is_done(self.downlink4.remove(key)),
            Operation::SetDownlink6 { key, entry, new_counter } => {
                self.start_counter(entry.counter, *new_counter && !kept.contains(&entry.counter))?;
                self.downlink6.insert(key, entry, 0)
            }
            Operation::DeleteDownlink6 { key } => gone_is_done(self.downlink6.remove(key)),
            Operation::SetFramed { key, user } => self.framed.insert(&framed_key(*key), user, 0),
            Operation::DeleteFramed { key } => gone_is_done(self.framed.remove(&framed_key(*key))),
            Operation::SetEndpoint { key, entry } => self.endpoints.insert(key, entry, 0),
            Operation::DeleteEndpoint { key } => gone_is_done(self.endpoints.remove(key)),
            Operation::SetRoute { route, next_hop } => self.routes.insert(&route_key(*route), next_hop, 0),
            Operation::DeleteRoute { route } => gone_is_done(self.routes.remove(&route_key(*route))),
            Operation::SetRouter { scope, router } => self.routers.set(*scope, *router, 0),
            Operation::AddPeer(peer) => self.peers.insert(&peer_key(*peer), 1, 0),
            Operation::RemovePeer(peer) => gone_is_done(self.peers.remove(&peer_key(*peer))),
            Operation::AddPod(pod) => self.pods.insert(pod, 1, 0),
            Operation::RemovePod(pod) => gone_is_done(self.pods.remove(pod)),
            Operation::SetRule { key, rule } => self.rules.insert(key, **rule, 0),
            Operation::DeleteRule { key } => gone_is_done(self.rules.remove(key)),
            Operation::StartMeter { key } => there_is_done(self.meters.insert(key, 0, NO_EXIST)),
            Operation::DeleteMeter { key } => gone_is_done(self.meters.remove(key)),
            Operation::StartUsage { key, limits } => {
                there_is_done(self.limits.insert(key, **limits, NO_EXIST))?;
                there_is_done(self.usages.insert(key, Usage::default(), NO_EXIST))
            }
            Operation::SetLimits { key, limits } => self.limits.insert(key, **limits, 0),
            Operation::DeleteUsage { key } => {
                gone_is_done(self.usages.remove(key))?;
                gone_is_done(self.limits.remove(key))
            }
        }
    }

    /// Before the entry that names it, so that no packet is counted and then forgotten.
    fn start_counter(&mut self, counter: u32, new: bool) -> Result<(), MapError> {
        if new { self.session_counters.set(counter, zero()?, 0) } else { Ok(()) }
    }

    /// Adds to a network's counter, in the element of the first CPU: of reasons that no program counts.
    pub(super) fn add_to_network(
        &mut self,
        network: u16,
        reason: Reason,
        more: Counter,
    ) -> Result<(), MapError> {
        let index = netplane_common::map::network_counter_index(network, reason as u8);
        let mut values: Vec<Counter> = self.network_counters.get(&index, 0)?.to_vec();
        if let Some(first) = values.first_mut() {
            first.packets = first.packets.wrapping_add(more.packets);
            first.bytes = first.bytes.wrapping_add(more.bytes);
        }
        self.network_counters.set(index, PerCpuValues::try_from(values).map_err(MapError::IoError)?, 0)
    }

    fn name_network(&mut self, index: u16, name: &str) -> Result<(), MapError> {
        // The compiler of tables has refused names that are longer than Kubernetes allows.
        let named = NetworkName::new(name).unwrap_or(NetworkName::FREE);
        if self.networks.get(&u32::from(index), 0)? == named {
            return Ok(());
        }
        for reason in Reason::ALL {
            let element = netplane_common::map::network_counter_index(index, *reason as u8);
            self.network_counters.set(element, zero()?, 0)?;
        }
        self.networks.set(u32::from(index), named, 0)
    }
}

/// A counter that has not counted, on every CPU.
fn zero() -> Result<PerCpuValues<Counter>, MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(MapError::IoError)
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, KernelError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| KernelError {
        operation: format!("open the map {name}"),
        remedy: None,
        source,
    };
    let map = ebpf.take_map(name).ok_or_else(|| failed("it is not in the object".into()))?;
    M::try_from(map).map_err(|source| failed(Box::new(source)))
}

/// Without a chained program there is only the plain map error.
fn map_error(error: XdpMapError) -> MapError {
    match error {
        XdpMapError::MapError(error) => error,
        other => MapError::IoError(std::io::Error::other(other)),
    }
}

/// `BPF_NOEXIST` of linux/bpf.h.
const NO_EXIST: u64 = 1;

/// What is there already stays.
fn there_is_done(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Deleting what is not there is no error: the state is the wanted one.
fn gone_is_done(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn route_key(route: RoutePrefix) -> Key<RouteKey> {
    let (bits, destination) = trie_prefix(route.prefix);
    Key::new(bits, RouteKey { scope: route.scope, destination })
}

fn framed_key(framed: FramedPrefix) -> Key<FramedKey> {
    let (bits, address) = trie_prefix(framed.prefix);
    Key::new(bits + FRAMED_PREFIX - LPM_PREFIX, FramedKey { port: framed.port, address })
}

/// The prefix behind a user that is in the trie.
pub(super) fn from_framed(key: &Key<FramedKey>) -> Option<FramedPrefix> {
    let FramedKey { port, address } = key.data();
    let bits = key.prefix_len().checked_sub(FRAMED_PREFIX - LPM_PREFIX)?;
    Some(FramedPrefix { port, prefix: from_trie(bits, address)? })
}

fn peer_key(peer: PeerPrefix) -> Key<PeerKey> {
    let (bits, address) = trie_prefix(peer.prefix);
    Key::new(bits, PeerKey { network: u32::from(peer.network), address })
}

/// Length of a trie's key in bits, and the address in it.
fn trie_prefix(prefix: IpNet) -> (u32, [Be32; 4]) {
    let mapped = if prefix.addr().is_ipv4() { MAPPED_PREFIX } else { 0 };
    (LPM_PREFIX + mapped + u32::from(prefix.prefix_len()), ip::mapped_address(prefix.network()))
}

/// The prefix of a trie's key; `None` for one that is none.
pub(super) fn from_trie(bits: u32, address: [Be32; 4]) -> Option<IpNet> {
    let address = ip::unmapped(address);
    let mapped = if address.is_ipv4() { MAPPED_PREFIX } else { 0 };
    let len = bits.checked_sub(LPM_PREFIX + mapped)?;
    IpNet::new(address, u8::try_from(len).ok()?).ok()
}

/// What was being done, for the person who reads the error.
fn describe(operation: &Operation) -> String {
    match operation {
        Operation::SetUplink { key, .. } => format!("program uplink TEID {:?}", key.teid),
        Operation::DeleteUplink { key } => format!("remove uplink TEID {:?}", key.teid),
        Operation::SetDownlink4 { key, .. } => {
            format!("program downlink to {}", std::net::Ipv4Addr::from(key.ue))
        }
        Operation::DeleteDownlink4 { key } => {
            format!("remove downlink to {}", std::net::Ipv4Addr::from(key.ue))
        }
        Operation::SetNetwork { name, .. } => format!("name network {name}"),
        Operation::SetRule { .. } => "program a rule".to_owned(),
        Operation::StartMeter { key } => format!("start the meter of QER {}", key.qer),
        Operation::StartUsage { key, .. } => format!("start the usage of URR {}", key.urr),
        other => format!("{other:?}"),
    }
}

fn remedy(error: &MapError) -> Option<String> {
    // ENOSPC is a trie's.
    let full = matches!(error, MapError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)));
    full.then(|| TABLE_FULL.to_owned())
}
