//! How large the tables of sessions are: as configured, unless they are pinned with another size.

use super::bpffs::Pins;
use aya::EbpfLoader;
use aya::maps::MapInfo;
use std::os::fd::{AsFd, AsRawFd};

/// Sessions that fit unless the agent is told otherwise.
pub const DEFAULT_SESSIONS: u32 = 1 << 17;

/// The tables of sessions: name, and elements for each session.
const TABLES: [(&str, u32); 5] =
    [("UPLINK", 1), ("UPLINK6", 1), ("DOWNLINK4", 1), ("DOWNLINK6", 1), ("SESSION_COUNTERS", 2)];

/// Rules that fit unless the agent is told otherwise: filters, meters, and usages.
pub const DEFAULT_RULES: u32 = 1 << 15;

/// The tables of what sessions have beside their entries, each of one size.
const OF_RULES: [&str; 4] = ["RULES", "METERS", "USAGES", "LIMITS"];

/// Bytes of the kernel's memory that the tables of sessions take, as it accounts for them; without those that it
/// does not tell.
pub(super) fn bytes(pins: &Pins) -> u64 {
    let of_one = |name: &str| {
        let fd = MapInfo::from_pin(pins.map(name)).ok()?.fd().ok()?;
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|it| it.strip_prefix("memlock:"))?;
        line.trim().parse::<u64>().ok()
    };
    TABLES.iter().map(|(name, _)| *name).chain(OF_RULES).filter_map(of_one).sum()
}

const KEPT: &str = "the pinned tables keep their size; another one takes `netplane agent --detach` first";

/// The arrays in which packets find sessions.
const ARRAYS: [&str; 3] = ["UPLINK_INDEX", "DOWNLINK4_INDEX", "DOWNLINK6_INDEX"];

/// What masks the slots of the arrays: as many as the tables fit sessions, and a power of two.
pub(super) fn index_mask(pins: &Pins, sessions: u32) -> u32 {
    let pinned = MapInfo::from_pin(pins.map("UPLINK")).ok().map(|it| it.max_entries());
    pinned.unwrap_or(sessions).clamp(1, 1 << 31).next_power_of_two() - 1
}

/// Tells the loader. A pinned table keeps its size, since its sessions forward.
pub(super) fn set<'m>(
    loader: &mut EbpfLoader<'m>,
    pins: &Pins,
    index_mask: &'m u32,
    (sessions, rules): (u32, u32),
) {
    for name in ARRAYS {
        loader.map_max_entries(name, index_mask + 1);
    }
    loader.override_global("INDEX_MASK", index_mask, true);
    for name in OF_RULES {
        let pinned = MapInfo::from_pin(pins.map(name)).ok().map(|it| it.max_entries());
        if let Some(kept) = pinned.filter(|it| *it != rules) {
            tracing::warn!(map = name, kept, asked = rules, "{KEPT}");
        }
        loader.map_max_entries(name, pinned.unwrap_or(rules));
    }
    let mut kept = None;
    for (name, each) in TABLES {
        let pinned = MapInfo::from_pin(pins.map(name)).ok().map(|it| it.max_entries());
        let wanted = sessions.saturating_mul(each);
        if let Some(pinned) = pinned.filter(|it| *it != wanted) {
            kept = Some(pinned / each);
        }
        loader.map_max_entries(name, pinned.unwrap_or(wanted));
    }
    if let Some(kept) = kept {
        tracing::warn!(sessions = kept, asked = sessions, "{KEPT}");
    }
}
