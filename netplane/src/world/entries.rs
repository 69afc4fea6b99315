//! A session as the tables have it: keys, entries and counters.

use super::compile::Compilation;
use super::slots::CounterKey;
use super::tables::Tables;
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, NO_INDEX, UplinkEntry, UplinkKey, UplinkKey6,
};

/// A key of any of the session tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Uplink(UplinkKey),
    Uplink6(UplinkKey6),
    Downlink4(DownlinkKey4),
    Downlink6(DownlinkKey6),
}

/// Where a session's packets arrive: the uplink at each address of its end, the downlink at each of the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) uplink: Option<UplinkKey>,
    pub(super) uplink6: Option<UplinkKey6>,
    pub(super) downlink4: Option<DownlinkKey4>,
    pub(super) downlink6: Option<DownlinkKey6>,
}

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> + use<> {
        let uplink = self.uplink.map(Key::Uplink).into_iter().chain(self.uplink6.map(Key::Uplink6));
        let downlink = self.downlink4.map(Key::Downlink4).into_iter();
        uplink.chain(downlink).chain(self.downlink6.map(Key::Downlink6))
    }

    /// A static session's counters: both ends of a tunnel, and both families of a user, count together.
    pub(super) fn counters(&self, this: &mut Compilation<'_>) -> Counters {
        let uplink = self.uplink.map(CounterKey::Uplink).or(self.uplink6.map(CounterKey::Uplink6));
        let downlink = self.downlink4.map(CounterKey::Downlink4);
        let downlink = downlink.or(self.downlink6.map(CounterKey::Downlink6));
        let mut get = |it: Option<CounterKey>| it.map_or(NO_INDEX, |it| this.slots.counters.get(&it, None));
        Counters { uplink: get(uplink), downlink: get(downlink) }
    }
}

/// Indices of a session's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) uplink: u32,
    pub(super) downlink: u32,
}

/// A session as the tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) keys: Keys,
    pub(super) uplink: Option<UplinkEntry>,
    pub(super) uplink6: Option<UplinkEntry>,
    pub(super) downlink: Option<DownlinkEntry>,
}

impl Entries {
    pub(super) fn insert(&self, tables: &mut Tables) {
        tables.uplink.extend(self.keys.uplink.zip(self.uplink));
        tables.uplink6.extend(self.keys.uplink6.zip(self.uplink6));
        tables.downlink4.extend(self.keys.downlink4.zip(self.downlink));
        tables.downlink6.extend(self.keys.downlink6.zip(self.downlink));
    }
}
