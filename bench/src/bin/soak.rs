//! `netplane-soak`: mixed traffic for minutes, with an account of every packet. `cargo xtask soak` builds and
//! runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use netplane_bench::{demo, soak};
use std::process::ExitCode;
use std::time::Duration;

/// Mixed traffic through a lab in which agents end and neighbours change, and an account of every packet.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How long traffic flows.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
}

#[expect(clippy::print_stderr, reason = "the error is for the person who waits")]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the account is what this program is for")]
fn run(arguments: &Arguments) -> Result<()> {
    demo::clean_up_on_signals()?;
    let time = Duration::from_secs(60 * arguments.minutes);
    let account = soak::run(&demo::beside("netplane")?, time, &|line| println!("{line}"))?;
    println!("{account}");
    ensure!(account.problems.is_empty(), "not every packet is accounted for");
    println!("every packet is accounted for");
    Ok(())
}
