//! Destination MACs that no entry has: what is for them passes without a lookup.

use crate::world::tables::{Operation, Tables};
use aya::maps::{Array, MapData, MapError};
use netplane_common::wire::ethernet::Mac;

/// The map of one object, and what it should say. It is not pinned: each object's programs have their own, so that
/// they never follow what another agent, which may know nothing of it, has left.
pub(super) struct Nobodys {
    map: Array<MapData, u64>,
    /// Until the entries in force are known, each bit is zero and every frame is looked up.
    words: Vec<u64>,
}

impl Nobodys {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        let words = vec![0; map.len() as usize];
        Self { map, words }
    }

    /// From here on what is for none of these entries' MACs is for nobody.
    pub(super) fn know(&mut self, tables: &Tables) -> Result<(), MapError> {
        let uplink = tables.uplink.values().chain(tables.uplink6.values()).map(|it| it.mac);
        let downlink = tables.downlink4.values().chain(tables.downlink6.values()).map(|it| it.mac);
        let endpoints = tables.endpoints.values().map(|it| it.mac);
        let mut words = vec![u64::MAX; self.words.len()];
        for mac in uplink.chain(downlink).chain(endpoints) {
            let (word, mask) = mac.bit();
            if let Some(it) = words.get_mut(word as usize) {
                *it &= !mask;
            }
        }
        for (index, word) in (0_u32..).zip(&words) {
            self.map.set(index, *word, 0)?;
        }
        self.words = words;
        Ok(())
    }

    /// Before an entry is written: its MAC is somebody's. It stays so until the next agent; that costs frames to
    /// it a lookup and nothing else.
    pub(super) fn expect(&mut self, operation: &Operation) -> Result<(), MapError> {
        match operation {
            Operation::SetUplink { entry, .. } | Operation::SetUplink6 { entry, .. } => {
                self.is_somebodys(entry.mac)
            }
            Operation::SetDownlink4 { entry, .. } | Operation::SetDownlink6 { entry, .. } => {
                self.is_somebodys(entry.mac)
            }
            Operation::SetEndpoint { entry, .. } => self.is_somebodys(entry.mac),
            _ => Ok(()),
        }
    }

    fn is_somebodys(&mut self, mac: Mac) -> Result<(), MapError> {
        let (index, mask) = mac.bit();
        match self.words.get_mut(index as usize) {
            Some(word) if *word & mask != 0 => {
                self.map.set(index, *word & !mask, 0)?;
                *word &= !mask;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
