//! `netplane-bench`: the benchmarks. `cargo xtask bench` builds and runs it.

use clap::Parser;
use netplane_bench::measure::{self, Effort};
use std::process::ExitCode;

/// Nanoseconds per packet of the packet programs, beside a floor program, in one run.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Sessions in the tables, one table of rows for each.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,100000")]
    sessions: Vec<u32>,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Packets in each round.
    #[arg(long, default_value_t = 100_000)]
    packets: u32,
    /// Print JSON with all samples.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
#[expect(clippy::print_stderr, reason = "progress and errors are for the person who waits")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let most = measure::MAX_SESSIONS;
    if let Some(sessions) = arguments.sessions.iter().find(|it| !(1..=most).contains(*it)) {
        eprintln!(
            "netplane-bench: --sessions {sessions}: must be 1 to {most}, which is what the tables hold"
        );
        return ExitCode::FAILURE;
    }
    let effort = Effort { rounds: arguments.rounds.max(1), packets: arguments.packets.max(1) };
    match measure::run(&arguments.sessions, effort, |what| eprintln!("measuring {what}")) {
        Ok(report) if arguments.json => println!("{:#}", report.json()),
        Ok(report) => print!("{report}"),
        Err(error) => {
            eprintln!("netplane-bench: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
