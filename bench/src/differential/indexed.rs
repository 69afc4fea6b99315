//! The arrays in which packets find sessions without a hash, with some of the sessions of a world.

use crate::load::index;
use anyhow::Result;
use aya::Ebpf;
use netplane_common::map::{IndexedDownlink4, IndexedDownlink6, IndexedUplink, Slot};
use netplane_common::testing::tables::MapTables;
use std::collections::{BTreeMap, BTreeSet};

/// So few slots that some keys find theirs taken.
pub(super) const INDEX_MASK: u32 = 15;

/// The slots of the arrays that are in use.
#[derive(Default)]
pub(super) struct Indexed {
    uplink: BTreeSet<u32>,
    downlink4: BTreeSet<u32>,
    downlink6: BTreeSet<u32>,
}

impl Indexed {
    /// Sessions with odd slots are found by their hashes only.
    pub(super) fn set(&mut self, ebpf: &mut Ebpf, tables: &MapTables) -> Result<()> {
        fn even<K: Slot + Copy, E: Copy>(table: &BTreeMap<K, E>) -> impl Iterator<Item = (K, E)> {
            table.iter().filter(|(key, _)| key.slot(INDEX_MASK) % 2 == 0).map(|(key, it)| (*key, *it))
        }
        index::empty::<IndexedUplink>(ebpf, "UPLINK_INDEX", &self.uplink)?;
        index::empty::<IndexedDownlink4>(ebpf, "DOWNLINK4_INDEX", &self.downlink4)?;
        index::empty::<IndexedDownlink6>(ebpf, "DOWNLINK6_INDEX", &self.downlink6)?;
        let (uplink, downlink4, downlink6) =
            (even(&tables.uplink), even(&tables.downlink4), even(&tables.downlink6));
        self.uplink = index::fill::<IndexedUplink>(ebpf, "UPLINK_INDEX", INDEX_MASK, uplink)?;
        self.downlink4 = index::fill::<IndexedDownlink4>(ebpf, "DOWNLINK4_INDEX", INDEX_MASK, downlink4)?;
        self.downlink6 = index::fill::<IndexedDownlink6>(ebpf, "DOWNLINK6_INDEX", INDEX_MASK, downlink6)?;
        Ok(())
    }
}
