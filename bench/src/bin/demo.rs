//! `netplane-demo`: shows the main job. `cargo xtask demo` builds and runs it.

use anyhow::{Context, Result};
use clap::Parser;
use clap::Subcommand;
use netplane_bench::demo::{self, Options, Report};
use netplane_bench::lab::endpoint::{Endpoint, EndpointConfig};
use netplane_bench::lab::signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A pod attached from NADs, its GTP-U forwarded on the macvlan masters, in network namespaces.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    demo: DemoArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct DemoArguments {
    /// Leave the lab standing until Ctrl-C, and print how to look around in it.
    #[arg(long)]
    keep: bool,
    /// Print the results for a program on stdout; the steps go to stderr.
    #[arg(long)]
    json: bool,
    /// Static sessions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    sessions: u32,
}

#[derive(Subcommand)]
enum Command {
    /// Run one GTP-U endpoint (a gNB with users, or a UPF) in this network namespace until a signal comes;
    /// then print its counters.
    Endpoint {
        /// Its configuration, JSON; see docs/demo.md.
        config: PathBuf,
    },
}

#[expect(clippy::print_stderr, reason = "the error is for the person who waits")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Endpoint { config }) => endpoint(config),
        None => play(&arguments.demo),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the show is what this program is for")]
#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
fn play(arguments: &DemoArguments) -> Result<()> {
    let json = arguments.json;
    let say = |line: &str| if json { eprintln!("{line}") } else { println!("{line}") };
    let show = |report: &Report| match serde_json::to_string_pretty(report) {
        Ok(text) if json => println!("{text}"),
        Ok(_) => println!("all as it should be"),
        Err(error) => eprintln!("netplane-demo: {error}"),
    };
    demo::clean_up_on_signals()?;
    let keep = arguments.keep.then_some(&show as &dyn Fn(&Report));
    let options = Options { sessions: arguments.sessions, keep };
    let report = demo::run(&demo::beside("netplane")?, options, &say)?;
    show(&report);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the counters are the result")]
fn endpoint(config: &Path) -> Result<()> {
    let mut listener = signals::listen()?;
    let text = std::fs::read_to_string(config).with_context(|| format!("read {}", config.display()))?;
    let config: EndpointConfig =
        serde_json::from_str(&text).with_context(|| format!("configuration {}", config.display()))?;
    let endpoint = Endpoint::start(&config)?;
    listener.wait()?;
    println!("{}", serde_json::to_string_pretty(&endpoint.counters())?);
    Ok(())
}
