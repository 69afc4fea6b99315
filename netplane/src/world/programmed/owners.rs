//! Which session holds which key of the tables. A map for each table, and in it for each place where packets arrive:
//! what is there for each session is no more than a TEID or a user's address.

use super::super::entries::{Key, user4, user6};
use super::super::tables::FramedPrefix;
use ipnet::IpNet;
use netplane_common::map::{DownlinkKey4, DownlinkKey6, Port, UplinkKey, UplinkKey6};
use netplane_common::wire::Be32;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

/// Handles by key.
#[derive(Debug, Default)]
pub(super) struct Owners {
    uplink: Table<UplinkKey>,
    uplink6: Table<UplinkKey6>,
    downlink4: Table<DownlinkKey4>,
    downlink6: Table<DownlinkKey6>,
    /// None overlaps another one of its port, but those of one session.
    framed: BTreeMap<FramedPrefix, u32>,
}

impl Owners {
    pub(super) fn get(&self, key: &Key) -> Option<u32> {
        match key {
            Key::Uplink(it) => self.uplink.get(it),
            Key::Uplink6(it) => self.uplink6.get(it),
            Key::Downlink4(it) => self.downlink4.get(it),
            Key::Downlink6(it) => self.downlink6.get(it),
            Key::Framed(it) => self.framed.get(it).copied(),
        }
    }

    /// Another session than `own` that has the key, or what the key would take packets from: a prefix behind a user
    /// has no other user in it, and no other prefix.
    pub(super) fn conflict(&self, key: &Key, own: Option<u32>) -> Option<u32> {
        let other = |handle: &u32| Some(*handle) != own;
        if let Some(handle) = self.get(key).filter(other) {
            return Some(handle);
        }
        let behind = |port, address| self.framed_at(port, address).filter(other);
        match key {
            Key::Uplink(_) | Key::Uplink6(_) => None,
            Key::Downlink4(it) => behind(it.port, user4(it)),
            Key::Downlink6(it) => behind(it.port, user6(it)),
            Key::Framed(it) => {
                let framed = self.framed.iter().find(|(key, handle)| key.overlaps(it) && other(handle));
                let user4 = || {
                    let mut users = self.downlink4.iter();
                    users.find(|(key, handle)| it.has(key.port, user4(key)) && other(handle)).map(|it| it.1)
                };
                let user6 = || {
                    let mut users = self.downlink6.iter();
                    users.find(|(key, handle)| it.has(key.port, user6(key)) && other(handle)).map(|it| it.1)
                };
                framed.map(|(_, handle)| *handle).or_else(user4).or_else(user6)
            }
        }
    }

    /// The session that has a prefix with this address: the last one that begins before it, since none overlap.
    fn framed_at(&self, port: Port, address: IpAddr) -> Option<u32> {
        let end = FramedPrefix { port, prefix: IpNet::from(address) };
        let (key, handle) = self.framed.range(..=end).next_back()?;
        key.has(port, address).then_some(*handle)
    }

    pub(super) fn insert(&mut self, key: Key, handle: u32) {
        match key {
            Key::Uplink(it) => self.uplink.insert(it, handle),
            Key::Uplink6(it) => self.uplink6.insert(it, handle),
            Key::Downlink4(it) => self.downlink4.insert(it, handle),
            Key::Downlink6(it) => self.downlink6.insert(it, handle),
            Key::Framed(it) => drop(self.framed.insert(it, handle)),
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        match key {
            Key::Uplink(it) => self.uplink.remove(it),
            Key::Uplink6(it) => self.uplink6.remove(it),
            Key::Downlink4(it) => self.downlink4.remove(it),
            Key::Downlink6(it) => self.downlink6.remove(it),
            Key::Framed(it) => drop(self.framed.remove(it)),
        }
    }

    /// Whose keys are wanted.
    pub(super) fn handles(&self, wanted: impl Fn(&Key) -> bool) -> Vec<u32> {
        self.of(|_| true).into_iter().filter(|(key, _)| wanted(key)).map(|(_, handle)| handle).collect()
    }

    /// All keys whose handle is wanted.
    pub(super) fn of(&self, wanted: impl Fn(u32) -> bool) -> Vec<(Key, u32)> {
        let uplink = self.uplink.iter().map(|(key, handle)| (Key::Uplink(key), handle));
        let uplink6 = self.uplink6.iter().map(|(key, handle)| (Key::Uplink6(key), handle));
        let downlink4 = self.downlink4.iter().map(|(key, handle)| (Key::Downlink4(key), handle));
        let downlink6 = self.downlink6.iter().map(|(key, handle)| (Key::Downlink6(key), handle));
        let framed = self.framed.iter().map(|(key, handle)| (Key::Framed(*key), *handle));
        let all = uplink.chain(uplink6).chain(downlink4).chain(downlink6).chain(framed);
        all.filter(|(_, handle)| wanted(*handle)).collect()
    }
}

/// A key in two parts.
trait Parts {
    /// Where packets arrive.
    type Place: Ord;
    /// Whose they are.
    type Whose: Copy + Eq + Hash;

    fn parts(&self) -> (Self::Place, Self::Whose);
    fn new(place: &Self::Place, whose: Self::Whose) -> Self;
}

impl Parts for UplinkKey {
    type Place = (Port, Be32);
    type Whose = Be32;

    fn parts(&self) -> (Self::Place, Be32) {
        ((self.port, self.local), self.teid)
    }

    fn new(place: &Self::Place, teid: Be32) -> Self {
        Self { port: place.0, teid, local: place.1 }
    }
}

impl Parts for UplinkKey6 {
    type Place = (Port, [Be32; 4]);
    type Whose = Be32;

    fn parts(&self) -> (Self::Place, Be32) {
        ((self.port, self.local), self.teid)
    }

    fn new(place: &Self::Place, teid: Be32) -> Self {
        Self { port: place.0, teid, local: place.1 }
    }
}

impl Parts for DownlinkKey4 {
    type Place = Port;
    type Whose = Be32;

    fn parts(&self) -> (Port, Be32) {
        (self.port, self.ue)
    }

    fn new(port: &Port, ue: Be32) -> Self {
        Self { port: *port, ue }
    }
}

impl Parts for DownlinkKey6 {
    type Place = Port;
    type Whose = [Be32; 2];

    fn parts(&self) -> (Port, [Be32; 2]) {
        (self.port, self.ue)
    }

    fn new(port: &Port, ue: [Be32; 2]) -> Self {
        Self { port: *port, ue }
    }
}

/// Handles by keys of one kind.
#[derive(Debug)]
struct Table<K: Parts>(BTreeMap<K::Place, HashMap<K::Whose, u32>>);

impl<K: Parts> Default for Table<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Parts> Table<K> {
    fn get(&self, key: &K) -> Option<u32> {
        let (place, whose) = key.parts();
        self.0.get(&place)?.get(&whose).copied()
    }

    fn insert(&mut self, key: K, handle: u32) {
        let (place, whose) = key.parts();
        self.0.entry(place).or_default().insert(whose, handle);
    }

    fn remove(&mut self, key: &K) {
        let (place, whose) = key.parts();
        let Some(handles) = self.0.get_mut(&place) else { return };
        handles.remove(&whose);
        if handles.is_empty() {
            self.0.remove(&place);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (K, u32)> + '_ {
        let of_place = |(place, handles)| {
            let handles: &HashMap<K::Whose, u32> = handles;
            handles.iter().map(move |(whose, handle)| (K::new(place, *whose), *handle))
        };
        self.0.iter().flat_map(of_place)
    }
}
