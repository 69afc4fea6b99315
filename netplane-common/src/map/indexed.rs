//! Session tables once more, where a packet finds its entry by an index instead of a hash: one element in one array, and
//! no bucket and chain before it. A key has one slot, and where two keys have the same, one of them is found in the
//! hashed table only.

use super::{DownlinkEntry, DownlinkKey4, DownlinkKey6, Port, UplinkEntry, UplinkKey};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Odd, with the golden ratio's bits: multiples of it are far apart.
const SPREAD: u32 = 0x9e37_79b1;

/// A key with a slot in an array of a power of two.
pub trait Slot {
    /// `mask` is the array's length less one. Neighbours have neighbouring slots, since TEIDs and addresses are given
    /// in rows; rows of different pods and ports begin anywhere.
    fn slot(&self, mask: u32) -> u32;
}

/// Where a row begins.
#[inline(always)]
const fn begin(of: u32) -> u32 {
    of.wrapping_mul(SPREAD) >> 12
}

#[inline(always)]
const fn begin_at(port: Port) -> u32 {
    begin(port.ifindex.wrapping_add((port.vlan as u32) << 16))
}

impl Slot for UplinkKey {
    #[inline(always)]
    fn slot(&self, mask: u32) -> u32 {
        self.teid.get().wrapping_add(begin(self.local.get())) & mask
    }
}

impl Slot for DownlinkKey4 {
    #[inline(always)]
    fn slot(&self, mask: u32) -> u32 {
        self.ue.get().wrapping_add(begin_at(self.port)) & mask
    }
}

impl Slot for DownlinkKey6 {
    #[inline(always)]
    fn slot(&self, mask: u32) -> u32 {
        let [_, low] = self.ue;
        low.get().wrapping_add(begin_at(self.port)) & mask
    }
}

macro_rules! element {
    ($name:ident, $key:ty, $entry:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            /// All zero in an element that is nobody's: no packet arrives at interface 0.
            pub key: $key,
            pub entry: $entry,
        }

        impl Element for $name {
            type Key = $key;
            type Entry = $entry;

            fn new(key: $key, entry: $entry) -> Self {
                Self { key, entry }
            }

            fn key(&self) -> &$key {
                &self.key
            }

            fn entry(&self) -> $entry {
                self.entry
            }
        }
    };
}

/// An element of any of the arrays.
pub trait Element: Copy {
    type Key: Slot + Copy + PartialEq + FromBytes;
    type Entry: Copy + FromBytes;

    fn new(key: Self::Key, entry: Self::Entry) -> Self;

    fn key(&self) -> &Self::Key;

    fn entry(&self) -> Self::Entry;
}

element!(IndexedUplink, UplinkKey, UplinkEntry, "What `UPLINK` has for a key.");
element!(IndexedDownlink4, DownlinkKey4, DownlinkEntry, "What `DOWNLINK4` has for a key.");
element!(IndexedDownlink6, DownlinkKey6, DownlinkEntry, "What `DOWNLINK6` has for a key.");

const _: () = {
    assert!(size_of::<IndexedUplink>() == 80);
    assert!(size_of::<IndexedDownlink4>() == 52);
    assert!(size_of::<IndexedDownlink6>() == 56);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Be32;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn rows_of_teids_and_addresses_have_slots_of_their_own() {
        let port = Port::new(7, 0);
        let teids = |local: [u8; 4]| {
            (1..=1000).map(move |teid| {
                let local = Ipv4Addr::from(local).into();
                UplinkKey { port, teid: Be32::new(teid), local }.slot((1 << 16) - 1)
            })
        };
        let all: BTreeSet<u32> = teids([10, 0, 0, 2]).chain(teids([10, 0, 0, 3])).collect();
        assert_eq!(all.len(), 2000);
        let users: BTreeSet<u32> = (0..1 << 16)
            .map(|number| DownlinkKey4 { port, ue: Be32::new(0x0a3c_0000 + number) }.slot((1 << 16) - 1))
            .collect();
        assert_eq!(users.len(), 1 << 16);
    }
}
