//! `netplane-bench`: the benchmarks. `cargo xtask bench` builds and runs it.

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use netplane_bench::attach::{self, Programs};
use netplane_bench::demo;
use netplane_bench::measure::{self, Effort};
use std::path::PathBuf;
use std::process::ExitCode;

/// Nanoseconds per packet of the packet programs, beside a floor program, in one run.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    packets: PacketArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Time and memory of ADD and DEL as a runtime sees them, beside the reference plugins, in one run.
    Attach(AttachArguments),
}

#[derive(Args)]
struct PacketArguments {
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

#[derive(Args)]
struct AttachArguments {
    /// The binary to measure; else the one beside this program.
    #[arg(long)]
    netplane: Option<PathBuf>,
    /// Folder of the reference plugins.
    #[arg(long, default_value = attach::DEFAULT_PLUGINS)]
    plugins: PathBuf,
    /// Rounds of one call at a time.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Rounds of many calls at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    bursts: u16,
    /// Calls at a time in a burst.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    at_once: u16,
    /// Print JSON with all samples.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stderr, reason = "errors are for the person who waits")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Attach(arguments)) => attach(arguments),
        None => packets(&arguments.packets),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn packets(arguments: &PacketArguments) -> Result<()> {
    let most = measure::MAX_SESSIONS;
    for sessions in &arguments.sessions {
        ensure!(
            (1..=most).contains(sessions),
            "--sessions {sessions}: must be 1 to {most}, which is what the tables hold"
        );
    }
    let effort = Effort { rounds: arguments.rounds.max(1), packets: arguments.packets.max(1) };
    let report = measure::run(&arguments.sessions, effort, progress)?;
    if arguments.json {
        println!("{:#}", report.json())
    } else {
        print!("{report}")
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn attach(arguments: &AttachArguments) -> Result<()> {
    demo::clean_up_on_signals()?;
    let netplane = arguments.netplane.clone().map_or_else(attach::own_netplane, Ok)?;
    let programs = Programs { netplane, plugins: arguments.plugins.clone() };
    let effort = attach::Effort {
        rounds: arguments.rounds.into(),
        bursts: arguments.bursts.into(),
        at_once: arguments.at_once.into(),
    };
    let report = attach::run(&programs, effort, progress)?;
    if arguments.json {
        println!("{:#}", report.json())
    } else {
        print!("{report}")
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
fn progress(what: &str) {
    eprintln!("measuring {what}");
}
