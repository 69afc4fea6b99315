//! What the kernel says of the packet programs and their maps.

use super::bpffs::Pins;
use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use std::time::Duration;

/// The pinned maps whose entries come and go, and their names as metrics have them.
const TABLES: [(&str, &str); 8] = [
    ("UPLINK", "uplink"),
    ("UPLINK6", "uplink6"),
    ("DOWNLINK4", "downlink4"),
    ("DOWNLINK6", "downlink6"),
    ("ENDPOINTS", "endpoints"),
    ("NEXT_HOPS", "next_hops"),
    ("ROUTES", "routes"),
    ("PEERS", "peers"),
];

/// Of programs and maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Entries that a table has room for.
    pub capacities: Vec<(&'static str, u32)>,
    /// Runs of the programs and the time in them; zero unless `kernel.bpf_stats_enabled` is set.
    pub runs: u64,
    pub run_time: Duration,
}

impl Statistics {
    /// What can be had; a map that cannot be asked is left out.
    pub(super) fn read(pins: &Pins, programs: &[ProgramInfo]) -> Self {
        let capacity = |(map, table): (&str, &'static str)| {
            MapInfo::from_pin(pins.map(map)).ok().map(|it| (table, it.max_entries()))
        };
        Self {
            capacities: TABLES.into_iter().filter_map(capacity).collect(),
            runs: programs.iter().map(ProgramInfo::run_count).sum(),
            run_time: programs.iter().map(ProgramInfo::run_time).sum(),
        }
    }
}
