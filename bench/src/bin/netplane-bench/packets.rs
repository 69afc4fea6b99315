//! `packets`: nanoseconds per packet.

use anyhow::{Result, ensure};
use clap::Args;
use netplane_bench::measure::{self, Plan};
use netplane_bench::report::model::Row;

#[derive(Args)]
pub(crate) struct PacketArguments {
    /// Sessions in the tables, one table of rows for each.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,100000,1000000")]
    sessions: Vec<u32>,
    /// Bytes of the users' IP packets; all but the first with a thousand sessions only.
    #[arg(long, value_delimiter = ',', default_value = "64,512,1400")]
    sizes: Vec<u16>,
    /// Leave out what is counted by reason, and a few sessions sending most packets (Zipf).
    #[arg(long)]
    short: bool,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Packets in each round.
    #[arg(long, default_value_t = 100_000)]
    packets: u32,
}

pub(crate) fn run(arguments: &PacketArguments) -> Result<Vec<Row>> {
    let most = measure::MAX_SESSIONS;
    for sessions in &arguments.sessions {
        ensure!((1..=most).contains(sessions), "--sessions {sessions}: must be 1 to {most}");
    }
    for size in &arguments.sizes {
        ensure!((64..=1456).contains(size), "--sizes {size}: must be 64 to 1456, which fits a tunnel");
    }
    let plan = Plan {
        sessions: arguments.sessions.clone(),
        sizes: arguments.sizes.clone(),
        with_zipf: !arguments.short,
        with_reasons: !arguments.short,
        rounds: arguments.rounds.max(1),
        packets: arguments.packets.max(1),
    };
    measure::run(&plan, crate::progress)
}
