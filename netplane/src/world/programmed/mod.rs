//! The sessions of the API: what was asked for, in little memory, and which keys of the tables they hold. Their
//! entries are only in the kernel. A change compiles one session (`edit`); when endpoints change, the sessions of
//! their pods are compiled anew (`follow`).

mod edit;
mod follow;
mod owners;
mod packed;
#[cfg(test)]
mod tests;

pub use edit::{Editor, Planned, edit};
pub use follow::Followed;

use self::owners::Owners;
use self::packed::{Packed, Patterns};
use super::AttachmentKey;
use super::compile::Compilation;
use super::endpoint::Endpoint;
use super::entries::{Belongings, Counters, Key, Keys, Sets};
use super::flat::Flat;
use super::refusal::Refusal;
use super::rules;
use super::session::Placed;
use crate::nad::fast_path::{FastPath, Gtpu};
use ipnet::{Ipv4Net, Ipv6Net};
use netplane_client::v1::Session;
use netplane_common::map::Port;
use netplane_common::wire::ethernet::Mac;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// How many sessions there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elements of the table of session counters: two for each session.
    pub counters: u32,
    /// Sessions of one pod.
    pub per_pod: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { counters: 1 << 18, per_pod: u32::MAX }
    }
}

impl Limits {
    /// From the end of the table: static sessions take theirs from its beginning.
    fn counters_of(self, handle: u32) -> Counters {
        let from_end = handle.saturating_mul(2).saturating_add(1);
        Counters {
            uplink: self.counters.saturating_sub(from_end),
            downlink: self.counters.saturating_sub(from_end + 1),
            sets: Sets { session: handle, turn: false },
        }
    }

    /// The handle whose counter this is, if there is such a session.
    pub fn holder(self, counter: u32) -> Option<u32> {
        Some(self.counters.checked_sub(counter)?.checked_sub(1)? / 2)
    }
}

/// Sessions and what they hold.
#[derive(Debug, Default)]
pub struct Programmed {
    pub limits: Limits,
    pods: Vec<PodSessions>,
    by_name: BTreeMap<String, u16>,
    /// By handle, which is also where their counters are: the same for the life of a session, also from one agent
    /// to the next.
    records: Vec<Option<Record>>,
    free: BTreeSet<u32>,
    /// Why sessions are not in the tables, of those that were compiled.
    problems: BTreeMap<u32, Box<str>>,
    owners: Owners,
    hasher: RandomState,
    demand: BTreeMap<AttachmentKey, Use>,
    /// How often a GTP-U peer was used for the first time or is used no more.
    peers_changed: u64,
}

/// The sessions of one pod. A pod of the same name that comes later is another one.
#[derive(Debug)]
struct PodSessions {
    name: String,
    /// Of Kubernetes, else the container.
    uid: String,
    /// Handles, behind a hash of the identifier, which is only in the message.
    ids: BTreeSet<(u32, u32)>,
    /// What its messages are packed with.
    patterns: Patterns,
    /// What its sessions were compiled with; absent: compile them.
    facts: Option<Vec<Facts>>,
}

/// One session.
#[derive(Debug)]
struct Record {
    pod: u16,
    generation: u64,
    /// The message as it was given.
    session: Packed,
    is_in_tables: bool,
    /// Which of its two sets of rules is in force.
    turn: bool,
    /// What it would forward to the user is kept until what was kept before is on its way. Not written down: the next
    /// agent has nothing to release.
    is_held: bool,
}

/// There are very many: half a cache line, and what the message takes.
const _: () = assert!(size_of::<Option<Record>>() == 32);

impl PodSessions {
    fn handles(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|(_, handle)| *handle)
    }
}

/// What sessions need of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    /// Users by family, on a data network.
    v4: u32,
    v6: u32,
}

/// What an endpoint is used for, by how many sessions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Use {
    users: Need,
    peers: BTreeMap<IpAddr, u32>,
}

/// What of an endpoint is in its sessions' entries.
#[derive(Debug, PartialEq)]
struct Facts {
    key: AttachmentKey,
    port: Port,
    mac: Mac,
    address4: Option<Ipv4Net>,
    address6: Option<Ipv6Net>,
    mtu: u32,
    /// Without sessions.
    network: FastPath,
}

impl Facts {
    fn new(endpoint: &Endpoint<'_>) -> Self {
        let it = endpoint.fast_path;
        Self {
            key: endpoint.key.clone(),
            port: endpoint.port(),
            mac: endpoint.mac,
            address4: endpoint.address4,
            address6: endpoint.address6,
            mtu: endpoint.link.mtu,
            network: FastPath {
                role: it.role,
                xdp: it.xdp,
                // Whether peers are asked is in no entry.
                gtpu: Gtpu { path_check: None, ..it.gtpu.clone() },
                ue_pools: it.ue_pools.clone(),
                mtu: it.mtu,
                sessions: Vec::new(),
            },
        }
    }
}

/// A session as a journal keeps it.
#[derive(Clone, PartialEq, Message)]
pub struct Kept {
    #[prost(uint32, tag = "1")]
    pub handle: u32,
    #[prost(string, tag = "2")]
    pub pod: String,
    #[prost(string, tag = "3")]
    pub uid: String,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// Empty: the session with this handle is gone.
    #[prost(bytes = "vec", tag = "5")]
    pub session: Vec<u8>,
    /// Which of its two sets of rules is in force.
    #[prost(bool, tag = "6")]
    pub turn: bool,
}

/// The part of a session's message that tells it from others.
#[derive(Clone, PartialEq, Message)]
struct Identified {
    #[prost(string, tag = "1")]
    id: String,
}

/// A session for a reader.
#[derive(Debug)]
pub struct Shown {
    pub session: Session,
    pub generation: u64,
    pub problem: Option<String>,
    /// Counter indices.
    pub uplink: u32,
    pub downlink: u32,
}

impl Programmed {
    /// All sessions.
    pub fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in what an earlier agent has kept, the last word on a handle last. Their entries are compiled when the
    /// world is known.
    pub fn restore(&mut self, kept: Kept) {
        let handle = kept.handle;
        let place = usize::try_from(handle).unwrap_or(usize::MAX);
        if let Some(old) = self.records.get_mut(place).and_then(Option::take) {
            self.forget(&old, handle);
        }
        let Ok(session) = Session::decode(&*kept.session) else { return };
        if kept.session.is_empty() {
            return;
        }
        let pod = self.pod_index(&kept.pod, &kept.uid);
        while self.records.len() <= place {
            self.free.insert(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
            self.records.push(None);
        }
        self.free.remove(&handle);
        let entry = (self.hash(&session.id), handle);
        let own = &mut self.pods[usize::from(pod)];
        own.ids.insert(entry);
        let (generation, session) = (kept.generation, own.patterns.pack(&kept.session));
        self.records[place] =
            Some(Record { pod, generation, session, is_in_tables: false, turn: kept.turn, is_held: false });
    }

    /// What a journal must hold.
    pub fn kept(&self) -> impl Iterator<Item = Kept> + '_ {
        let records = self.records.iter().zip(0_u32..);
        records
            .filter_map(|(record, handle)| record.as_ref().map(|it| self.keep(handle, it, self.message(it))))
    }

    fn keep(&self, handle: u32, record: &Record, session: Vec<u8>) -> Kept {
        let pod = &self.pods[usize::from(record.pod)];
        Kept {
            handle,
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            generation: record.generation,
            session,
            turn: record.turn,
        }
    }

    /// Number of a pod's sessions and their highest generation.
    pub fn summary(&self, pod: &str) -> (u32, u64) {
        let Some(pod) = self.pod(pod) else { return (0, 0) };
        let generations = pod.handles().filter_map(|it| self.record(it)).map(|it| it.generation);
        (u32::try_from(pod.ids.len()).unwrap_or(u32::MAX), generations.max().unwrap_or(0))
    }

    fn sessions_of(&self, pod: &str) -> u32 {
        let sessions = self.pod(pod).map_or(0, |it| it.ids.len());
        u32::try_from(sessions).unwrap_or(u32::MAX)
    }

    /// GTP-U peers that sessions send to from an endpoint.
    pub(super) fn peers(&self, endpoint: &AttachmentKey) -> impl Iterator<Item = IpAddr> {
        self.demand.get(endpoint).into_iter().flat_map(|it| it.peers.keys().copied())
    }

    /// Another number than before: the peers may be others.
    pub fn peers_changed(&self) -> u64 {
        self.peers_changed
    }

    /// Handles of a pod's sessions.
    pub fn handles(&self, pod: &str) -> Vec<u32> {
        self.pod(pod).map(|it| it.handles().collect()).unwrap_or_default()
    }

    pub fn generation(&self, handle: u32) -> Option<u64> {
        Some(self.record(handle)?.generation)
    }

    pub fn handle(&self, pod: &str, id: &str) -> Option<u32> {
        let hash = self.hash(id);
        let alike = self.pod(pod)?.ids.range((hash, 0)..=(hash, u32::MAX)).map(|(_, handle)| *handle);
        let mut alike = alike.filter(|it| self.record(*it).is_some_and(|it| self.id(it) == id));
        alike.next()
    }

    pub fn show(&self, handle: u32) -> Option<Shown> {
        let record = self.record(handle)?;
        let counters = self.counters(handle);
        Some(Shown {
            session: self.decode(record),
            generation: record.generation,
            problem: self.problem(handle, record),
            uplink: counters.uplink,
            downlink: counters.downlink,
        })
    }

    /// A session and its pod.
    pub fn of_handle(&self, handle: u32) -> Option<(String, Session)> {
        let record = self.record(handle)?;
        Some((self.pods[usize::from(record.pod)].name.clone(), self.decode(record)))
    }

    /// Which session of the API has a key, for people.
    pub(super) fn holder(&self, key: &Key) -> Option<String> {
        self.name_of(self.owners.conflict(key, None)?)
    }

    fn name_of(&self, handle: u32) -> Option<String> {
        let record = self.record(handle)?;
        let pod = &self.pods[usize::from(record.pod)].name;
        Some(format!("session {} of pod {pod}", self.id(record)))
    }

    /// Whether a session is held back.
    pub fn is_held(&self, handle: u32) -> bool {
        self.record(handle).is_some_and(|it| it.is_held)
    }

    fn pod(&self, name: &str) -> Option<&PodSessions> {
        self.by_name.get(name).map(|it| &self.pods[usize::from(*it)])
    }

    fn pod_index(&mut self, name: &str, uid: &str) -> u16 {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = u16::try_from(self.pods.len()).unwrap_or(u16::MAX);
        let (name, uid) = (name.to_owned(), uid.to_owned());
        self.by_name.insert(name.clone(), index);
        let (ids, patterns) = Default::default();
        self.pods.push(PodSessions { name, uid, ids, patterns, facts: None });
        index
    }

    /// A session's message.
    fn message(&self, record: &Record) -> Vec<u8> {
        self.pods[usize::from(record.pod)].patterns.unpack(&record.session)
    }

    fn decode(&self, record: &Record) -> Session {
        // It was encoded here or checked when it was read.
        Session::decode(&*self.message(record)).unwrap_or_default()
    }

    fn id(&self, record: &Record) -> String {
        Identified::decode(&*self.message(record)).unwrap_or_default().id
    }

    fn flat(&self, record: &Record) -> Result<Flat, Refusal> {
        rules::flat(&self.decode(record), record.is_held)
    }

    /// Why it is not in the tables, if it is not.
    fn problem(&self, handle: u32, record: &Record) -> Option<String> {
        let problem = || self.problems.get(&handle).map_or("not compiled yet", |it| &**it).to_owned();
        (!record.is_in_tables).then(problem)
    }

    /// Pods choose identifiers: none can make others' lookups long.
    fn hash(&self, id: &str) -> u32 {
        let bytes = self.hasher.hash_one(id).to_ne_bytes();
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// A session is gone: its record was taken out.
    fn forget(&mut self, record: &Record, handle: u32) {
        let entry = (self.hash(&self.id(record)), handle);
        self.pods[usize::from(record.pod)].ids.remove(&entry);
        self.problems.remove(&handle);
        self.free.insert(handle);
    }

    fn record(&self, handle: u32) -> Option<&Record> {
        self.records.get(usize::try_from(handle).ok()?)?.as_ref()
    }

    fn record_mut(&mut self, handle: u32) -> Option<&mut Record> {
        self.records.get_mut(usize::try_from(handle).ok()?)?.as_mut()
    }

    fn counters(&self, handle: u32) -> Counters {
        let counters = self.limits.counters_of(handle);
        let turn = self.record(handle).is_some_and(|it| it.turn);
        Counters { sets: Sets { turn, ..counters.sets }, ..counters }
    }

    /// What a session has beside its entries.
    fn belongings(&self, handle: u32) -> Belongings {
        let flat = self.record(handle).and_then(|it| self.flat(it).ok());
        flat.map(|it| self.counters(handle).sets.belongings(&it)).unwrap_or_default()
    }

    /// Counts what a session needs of its endpoints, or counts it no more.
    fn need(&mut self, placed: &Placed<'_, '_, '_>, more: bool) {
        placed.rules.iter().for_each(|it| self.need(&it.placed, more));
        let flat: &Flat = placed.flat;
        let step = |it: &mut u32| *it = if more { *it + 1 } else { it.saturating_sub(1) };
        let relay = flat.uplink.as_ref().and_then(|it| it.relay_peer());
        for (endpoint, peer) in placed.peers() {
            let peers = &mut used(&mut self.demand, endpoint).peers;
            let count = peers.entry(peer).or_default();
            let is_other = *count == 0;
            step(count);
            if *count == 0 {
                peers.remove(&peer);
                self.peers_changed += 1;
            } else if is_other {
                self.peers_changed += 1;
            }
        }
        let to_data = placed.to.filter(|_| relay.is_none());
        for data in [to_data, placed.data].into_iter().flatten() {
            let used = used(&mut self.demand, data);
            if flat.ue4.is_some() {
                step(&mut used.users.v4);
            }
            if flat.ue6.is_some() {
                step(&mut used.users.v6);
            }
        }
    }

    /// The next hops and routes that the sessions use.
    pub(super) fn keep_ways(&self, this: &mut Compilation<'_>, endpoints: &[Endpoint<'_>]) {
        for endpoint in endpoints {
            let Some(used) = self.demand.get(endpoint.key) else { continue };
            for peer in used.peers.keys() {
                // A peer that cannot be reached any more: its sessions say so.
                let _ = this.tunnel(endpoint, *peer, None);
            }
            if used.users == Need::default() {
                continue;
            }
            let scope = this.slots.scopes.get(endpoint.key, None);
            for (v4, count) in [(true, used.users.v4), (false, used.users.v6)] {
                if count > 0 {
                    this.users_way(endpoint, v4, scope, None);
                }
            }
            this.routes(endpoint, scope);
        }
    }

    fn free_keys(&mut self, keys: &Keys) {
        keys.iter().for_each(|it| self.owners.remove(&it));
    }
}

fn used<'d>(demand: &'d mut BTreeMap<AttachmentKey, Use>, endpoint: &Endpoint<'_>) -> &'d mut Use {
    if !demand.contains_key(endpoint.key) {
        demand.insert(endpoint.key.clone(), Use::default());
    }
    demand.entry(endpoint.key.clone()).or_default()
}
