//! Which session holds which key of the tables. A map for each table: its keys are then no larger than they are.

use super::super::entries::Key;
use netplane_common::map::{DownlinkKey4, DownlinkKey6, UplinkKey, UplinkKey6};
use std::collections::HashMap;

/// Handles by key.
#[derive(Debug, Default)]
pub(super) struct Owners {
    uplink: HashMap<UplinkKey, u32>,
    uplink6: HashMap<UplinkKey6, u32>,
    downlink4: HashMap<DownlinkKey4, u32>,
    downlink6: HashMap<DownlinkKey6, u32>,
}

impl Owners {
    pub(super) fn get(&self, key: &Key) -> Option<u32> {
        match key {
            Key::Uplink(it) => self.uplink.get(it),
            Key::Uplink6(it) => self.uplink6.get(it),
            Key::Downlink4(it) => self.downlink4.get(it),
            Key::Downlink6(it) => self.downlink6.get(it),
        }
        .copied()
    }

    pub(super) fn insert(&mut self, key: Key, handle: u32) {
        match key {
            Key::Uplink(it) => drop(self.uplink.insert(it, handle)),
            Key::Uplink6(it) => drop(self.uplink6.insert(it, handle)),
            Key::Downlink4(it) => drop(self.downlink4.insert(it, handle)),
            Key::Downlink6(it) => drop(self.downlink6.insert(it, handle)),
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        match key {
            Key::Uplink(it) => drop(self.uplink.remove(it)),
            Key::Uplink6(it) => drop(self.uplink6.remove(it)),
            Key::Downlink4(it) => drop(self.downlink4.remove(it)),
            Key::Downlink6(it) => drop(self.downlink6.remove(it)),
        }
    }

    /// Whose keys are wanted.
    pub(super) fn handles(&self, wanted: impl Fn(&Key) -> bool) -> Vec<u32> {
        self.of(|_| true).into_iter().filter(|(key, _)| wanted(key)).map(|(_, handle)| handle).collect()
    }

    /// All keys whose handle is wanted.
    pub(super) fn of(&self, wanted: impl Fn(u32) -> bool) -> Vec<(Key, u32)> {
        let uplink = self.uplink.iter().map(|(key, handle)| (Key::Uplink(*key), *handle));
        let uplink6 = self.uplink6.iter().map(|(key, handle)| (Key::Uplink6(*key), *handle));
        let downlink4 = self.downlink4.iter().map(|(key, handle)| (Key::Downlink4(*key), *handle));
        let downlink6 = self.downlink6.iter().map(|(key, handle)| (Key::Downlink6(*key), *handle));
        let all = uplink.chain(uplink6).chain(downlink4).chain(downlink6);
        all.filter(|(_, handle)| wanted(*handle)).collect()
    }
}
