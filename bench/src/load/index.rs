//! The arrays in which packets find sessions without a hash, filled as the agent does it.

use super::objects::map;
use anyhow::Result;
use aya::maps::Array;
use aya::{Ebpf, EbpfLoader, Pod};
use netplane_common::map::{Element, Slot};
use std::collections::BTreeSet;
use zerocopy::FromZeros;

/// Makes the arrays as long as this mask says, which is a power of two less one.
pub(crate) fn size<'a>(loader: &mut EbpfLoader<'a>, mask: &'a u32) {
    for name in ["UPLINK_INDEX", "DOWNLINK4_INDEX", "DOWNLINK6_INDEX"] {
        loader.map_max_entries(name, mask + 1);
    }
    loader.override_global("INDEX_MASK", mask, true);
}

/// Puts entries in; the first one that has a slot keeps it. Returns the slots.
pub(crate) fn fill<T: Element + Pod>(
    ebpf: &mut Ebpf,
    name: &str,
    mask: u32,
    entries: impl Iterator<Item = (T::Key, T::Entry)>,
) -> Result<BTreeSet<u32>> {
    let mut array: Array<_, T> = map(ebpf, name)?;
    let mut slots = BTreeSet::new();
    for (key, entry) in entries {
        let slot = key.slot(mask);
        if slots.insert(slot) {
            array.set(slot, T::new(key, entry), 0)?;
        }
    }
    Ok(slots)
}

/// Takes out what [`fill`] has put in.
pub(crate) fn empty<T: Element + Pod + FromZeros>(
    ebpf: &mut Ebpf,
    name: &str,
    slots: &BTreeSet<u32>,
) -> Result<()> {
    let mut array: Array<_, T> = map(ebpf, name)?;
    Ok(slots.iter().try_for_each(|it| array.set(*it, T::new_zeroed(), 0))?)
}
