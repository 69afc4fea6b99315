//! `attach`: time and memory of ADD and DEL.

use anyhow::Result;
use clap::Args;
use netplane_bench::attach::{self, Effort, Programs};
use netplane_bench::demo;
use netplane_bench::report::model::Row;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct AttachArguments {
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
}

pub(crate) fn run(arguments: &AttachArguments) -> Result<Vec<Row>> {
    demo::clean_up_on_signals()?;
    let netplane = arguments.netplane.clone().map_or_else(attach::own_netplane, Ok)?;
    let programs = Programs { netplane, plugins: arguments.plugins.clone() };
    let effort = Effort {
        rounds: arguments.rounds.into(),
        bursts: arguments.bursts.into(),
        at_once: arguments.at_once.into(),
    };
    let report = attach::run(&programs, effort, |what| crate::progress(&format!("attach: {what}")))?;
    // With the goals of attaching, which are its own.
    crate::progress(&report.to_string());
    Ok(report.to_rows())
}
