//! Taking over from pins of an older layout, without a moment in which nothing, or something half filled,
//! forwards. In this order, each step of which may be the last one of a process:
//!
//! 1. Maps whose layout is the same (counters, names, device map) are pinned in the new folder, too: both
//!    programs count in the same elements. All others are made anew, and are empty.
//! 2. The old programs forward with the old maps until the agent stands on firm ground and has compiled and
//!    written all tables ([`super::Kernel::apply`]). A session that had a counter keeps it.
//! 3. Each old link gets the new program (`BPF_LINK_UPDATE`), and its pin moves to the new folder.
//! 4. What is left of the old folder goes: first links on masters that nobody wants any more, then maps.
//!
//! Whoever finds the new folder without links starts again from 1; with some, from 3.

use super::KernelError;
use super::bpffs::{Older, Pins};
use super::maps::PINNED;
use crate::world::tables::Tables;
use aya::maps::{HashMap, Map, MapData, MapError};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, LAYOUT_VERSION, NO_INDEX, UplinkEntry, UplinkKey,
};
use std::collections::BTreeSet;
use std::path::Path;
use zerocopy::FromZeros;

/// Maps that older layouts had as they are now, with the first version that had them so. Only what has no
/// index of a map that is made anew can be here.
const KEPT: [(&str, u32); 4] =
    [("PORTS", 1), ("NETWORKS", 1), ("NETWORK_COUNTERS", 1), ("SESSION_COUNTERS", 2)];

/// What an older agent left.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    older: Vec<Older>,
    /// Nothing of this layout is in force yet.
    pub(super) is_fresh: bool,
    /// Indices of session counters that go on counting.
    pub(super) counters: BTreeSet<u32>,
}

impl Upgrade {
    /// Step 1. To be called before the object is loaded with the maps that are pinned.
    pub(super) fn begin(pins: &Pins) -> Result<Self, KernelError> {
        let older = pins.older();
        let is_fresh = !older.is_empty() && pins.masters()?.is_empty();
        if let (true, Some(from)) = (is_fresh, older.first()) {
            tracing::info!(from = from.version, to = LAYOUT_VERSION, "taking over from an older netplane");
            let kept = |name: &str| KEPT.iter().any(|(it, since)| *it == name && *since <= from.version);
            for name in PINNED {
                // What another agent had begun to fill.
                pins.forget_map(name)?;
                if kept(name) {
                    keep(&from.map(name), &pins.map(name))?;
                }
            }
        }
        Ok(Self { older, is_fresh, counters: BTreeSet::new() })
    }

    /// Adds to the tables what says which session has which counter: entries that are otherwise empty.
    pub(super) fn add_counters(&mut self, tables: &mut Tables) -> Result<(), KernelError> {
        let Some(from) = self.older.first().filter(|_| self.is_fresh) else { return Ok(()) };
        if from.version == v2::VERSION {
            v2::counters(from, tables).map_err(|source| KernelError {
                operation: format!("read the sessions of layout {}", from.version),
                remedy: Some(
                    "`netplane agent --detach` removes them; traffic then waits for the start".to_owned(),
                ),
                source: Box::new(source),
            })?;
        }
        let uplink = tables.uplink.values().map(|it| it.counter);
        let downlink = tables.downlink4.values().chain(tables.downlink6.values()).map(|it| it.counter);
        self.counters = uplink.chain(downlink).collect();
        Ok(())
    }

    /// Step 4. `waiting` are masters that are still to be taken over.
    pub(super) fn finish(&mut self, waiting: &BTreeSet<u32>) -> Result<Vec<u32>, KernelError> {
        self.counters.clear();
        self.is_fresh = false;
        let mut gone = Vec::new();
        for older in &self.older {
            for ifindex in older.linked()?.into_iter().filter(|it| !waiting.contains(it)) {
                older.unlink(ifindex)?;
                gone.push(ifindex);
            }
        }
        if !self.older.is_empty() && waiting.is_disjoint(&self.linked()?) {
            self.older.iter().try_for_each(Older::remove)?;
            self.older.clear();
            tracing::info!(layout = LAYOUT_VERSION, "nothing of an older netplane is left");
        }
        Ok(gone)
    }

    /// Masters that are still an older layout's.
    fn linked(&self) -> Result<BTreeSet<u32>, KernelError> {
        let linked = self.older.iter().map(Older::linked).collect::<Result<Vec<_>, _>>()?;
        Ok(linked.into_iter().flatten().collect())
    }
}

/// Pins a map in a second place. bpffs has hard links: no moment without a pin, and no file descriptor.
fn keep(from: &Path, to: &Path) -> Result<(), KernelError> {
    match std::fs::hard_link(from, to) {
        // Then it is made anew.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| KernelError {
            operation: format!("pin {} as {}", from.display(), to.display()),
            remedy: None,
            source: Box::new(source),
        }),
    }
}

/// Layout 2, as far as it matters: IPv4 between GTP-U peers, the same keys, other values.
mod v2 {
    use super::*;

    pub(super) const VERSION: u32 = 2;

    /// `UPLINK`; the counter's index stands behind action, flags, network, MAC, DSCP (12 bytes with padding),
    /// peer and mask, the user's addresses (4, 8), and two next hops.
    type Uplink = [u8; 64];
    const UPLINK_COUNTER: usize = 40;

    /// `DOWNLINK4`, `DOWNLINK6`; behind action, flags, network, MAC, DSCP, QFI, local and peer address, TEID
    /// and next hop.
    type Downlink = [u8; 48];
    const DOWNLINK_COUNTER: usize = 28;

    fn open<K: aya::Pod, V: aya::Pod>(from: &Older, name: &str) -> Result<HashMap<MapData, K, V>, MapError> {
        Map::HashMap(MapData::from_pin(from.map(name))?).try_into()
    }

    fn index(value: &[u8], at: usize) -> u32 {
        value.get(at..at + 4).and_then(|it| it.try_into().ok()).map_or(NO_INDEX, u32::from_ne_bytes)
    }

    pub(super) fn counters(from: &Older, tables: &mut Tables) -> Result<(), MapError> {
        for item in open::<UplinkKey, Uplink>(from, "UPLINK")?.iter() {
            let (key, value) = item?;
            let counter = index(&value, UPLINK_COUNTER);
            let (next_hop4, next_hop6) = (NO_INDEX, NO_INDEX);
            let entry = UplinkEntry { counter, next_hop4, next_hop6, ..UplinkEntry::new_zeroed() };
            tables.uplink.insert(key, entry);
        }
        for item in open::<DownlinkKey4, Downlink>(from, "DOWNLINK4")?.iter() {
            let (key, value) = item?;
            tables.downlink4.insert(key, downlink(&value));
        }
        for item in open::<DownlinkKey6, Downlink>(from, "DOWNLINK6")?.iter() {
            let (key, value) = item?;
            tables.downlink6.insert(key, downlink(&value));
        }
        Ok(())
    }

    fn downlink(value: &Downlink) -> DownlinkEntry {
        let counter = index(value, DOWNLINK_COUNTER);
        DownlinkEntry { counter, next_hop: NO_INDEX, ..DownlinkEntry::new_zeroed() }
    }
}
