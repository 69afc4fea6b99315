//! A session as the tables have it: keys, entries and counters.

use super::compile::Compilation;
use super::flat::Flat;
use super::slots::CounterKey;
use super::tables::{FramedPrefix, Operation, Tables};
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, FramedUser, MeterKey, NO_INDEX, Rule, RuleKey, UplinkEntry,
    UplinkKey, UplinkKey6, UsageKey,
};
use netplane_common::wire::{Be32, ip};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// A key of any of the session tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Uplink(UplinkKey),
    Uplink6(UplinkKey6),
    Downlink4(DownlinkKey4),
    Downlink6(DownlinkKey6),
    Framed(FramedPrefix),
}

impl Key {
    /// Whether a session in these tables has it, or has what it would take packets from.
    pub(super) fn is_in(&self, tables: &Tables) -> bool {
        let behind = |port, address| tables.framed.keys().any(|it| it.has(port, address));
        match self {
            Self::Uplink(it) => tables.uplink.contains_key(it),
            Self::Uplink6(it) => tables.uplink6.contains_key(it),
            Self::Downlink4(it) => tables.downlink4.contains_key(it) || behind(it.port, user4(it)),
            Self::Downlink6(it) => tables.downlink6.contains_key(it) || behind(it.port, user6(it)),
            Self::Framed(it) => {
                tables.framed.keys().any(|other| other.overlaps(it))
                    || tables.downlink4.keys().any(|user| it.has(user.port, user4(user)))
                    || tables.downlink6.keys().any(|user| it.has(user.port, user6(user)))
            }
        }
    }
}

/// The address of a user.
pub(super) fn user4(key: &DownlinkKey4) -> IpAddr {
    Ipv4Addr::from(key.ue).into()
}

/// The first address of a user's /64.
pub(super) fn user6(key: &DownlinkKey6) -> IpAddr {
    let [a, b] = key.ue;
    ip::unmapped([a, b, Be32::new(0), Be32::new(0)])
}

/// Where a session's packets arrive: the uplink at each address of its end, the downlink at each of the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) uplink: Option<UplinkKey>,
    pub(super) uplink6: Option<UplinkKey6>,
    pub(super) downlink4: Option<DownlinkKey4>,
    pub(super) downlink6: Option<DownlinkKey6>,
    /// And at each prefix behind the user.
    pub(super) framed: Vec<FramedPrefix>,
}

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> + use<> {
        let uplink = self.uplink.map(Key::Uplink).into_iter().chain(self.uplink6.map(Key::Uplink6));
        let downlink = self.downlink4.map(Key::Downlink4).into_iter();
        let framed = self.framed.clone().into_iter().map(Key::Framed);
        uplink.chain(downlink).chain(self.downlink6.map(Key::Downlink6)).chain(framed)
    }

    /// A static session's counters: both ends of a tunnel, and both families of a user, count together.
    pub(super) fn counters(&self, this: &mut Compilation<'_>) -> Counters {
        let uplink = self.uplink.map(CounterKey::Uplink).or(self.uplink6.map(CounterKey::Uplink6));
        let downlink = self.downlink4.map(CounterKey::Downlink4);
        let downlink = downlink.or(self.downlink6.map(CounterKey::Downlink6));
        let mut get = |it: Option<CounterKey>| it.map_or(NO_INDEX, |it| this.slots.counters.get(&it, None));
        Counters { uplink: get(uplink), downlink: get(downlink), sets: Sets::default() }
    }
}

/// Where a session's rules, meters and usages are. Static sessions have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    /// The session's handle.
    pub(super) session: u32,
    /// Changes with each change of the session.
    pub(super) turn: bool,
}

impl Sets {
    /// The set of rules of a direction.
    pub(super) fn set(self, is_downlink: bool) -> u32 {
        self.session << 2 | u32::from(self.turn) << 1 | u32::from(is_downlink)
    }

    pub(super) fn meter(self, qer: u32, is_downlink: bool) -> MeterKey {
        MeterKey { session: self.session | if is_downlink { MeterKey::DOWNLINK } else { 0 }, qer }
    }

    pub(super) fn usage(self, urr: u32) -> UsageKey {
        UsageKey { session: self.session, urr }
    }

    /// All that a session has there.
    pub(super) fn belongings(self, flat: &Flat) -> Belongings {
        let mut all = Belongings::default();
        let rules = [(false, flat.uplink_rules.len()), (true, flat.downlink_rules.len())];
        for (is_downlink, rules) in rules {
            let set = self.set(is_downlink);
            all.rules.extend((0_u32..).take(rules).map(|number| RuleKey { set, number }));
        }
        for (is_downlink, rule) in flat.rules() {
            all.meters.extend(rule.qers.iter().map(|(qer, _)| self.meter(*qer, is_downlink)));
            all.usages.extend(rule.urrs.iter().map(|(urr, _)| self.usage(*urr)));
        }
        all
    }
}

/// Keys of what a session has beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Belongings {
    pub(super) rules: BTreeSet<RuleKey>,
    pub(super) meters: BTreeSet<MeterKey>,
    pub(super) usages: BTreeSet<UsageKey>,
}

impl Belongings {
    /// Takes away what is not among `others`.
    pub(super) fn delete_without(&self, others: &Self) -> Vec<Operation> {
        let rules = self.rules.difference(&others.rules).map(|key| Operation::DeleteRule { key: *key });
        let meters = self.meters.difference(&others.meters).map(|key| Operation::DeleteMeter { key: *key });
        let usages = self.usages.difference(&others.usages).map(|key| Operation::DeleteUsage { key: *key });
        rules.chain(meters).chain(usages).collect()
    }
}

/// Indices of a session's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) uplink: u32,
    pub(super) downlink: u32,
    pub(super) sets: Sets,
}

/// A session as the tables have it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entries {
    pub(super) keys: Keys,
    pub(super) uplink: Option<UplinkEntry>,
    pub(super) uplink6: Option<UplinkEntry>,
    pub(super) downlink: Option<DownlinkEntry>,
    pub(super) framed: Vec<(FramedPrefix, FramedUser)>,
    pub(super) rules: BTreeMap<RuleKey, Rule>,
    pub(super) belongings: Belongings,
}

impl Entries {
    pub(super) fn insert(&self, tables: &mut Tables) {
        tables.uplink.extend(self.keys.uplink.zip(self.uplink));
        tables.uplink6.extend(self.keys.uplink6.zip(self.uplink6));
        tables.downlink4.extend(self.keys.downlink4.zip(self.downlink));
        tables.downlink6.extend(self.keys.downlink6.zip(self.downlink));
        tables.framed.extend(self.framed.iter().copied());
        tables.rules.extend(self.rules.iter().map(|(key, rule)| (*key, *rule)));
    }
}
