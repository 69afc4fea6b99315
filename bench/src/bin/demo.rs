//! `netplane-demo`: shows the main job. `cargo xtask demo` builds and runs it.

use clap::Parser;
use netplane_bench::demo::{self, Options};
use std::process::ExitCode;

/// A pod attached from NADs, its GTP-U forwarded on the macvlan masters, in network namespaces.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Leave the lab standing, and print how to look around in it.
    #[arg(long)]
    keep: bool,
    /// Print the results for a program.
    #[arg(long)]
    json: bool,
    /// Static sessions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    sessions: u32,
}

#[expect(clippy::print_stdout, reason = "the show is what this program is for")]
#[expect(clippy::print_stderr, reason = "progress and errors are for the person who waits")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { sessions: arguments.sessions, keep: arguments.keep };
    let json = arguments.json;
    let say = move |line: &str| if json { eprintln!("{line}") } else { println!("{line}") };
    let played = demo::clean_up_on_signals()
        .and_then(|()| demo::beside("netplane"))
        .and_then(|netplane| demo::run(&netplane, options, &say));
    match played {
        Ok(report) if json => match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("netplane-demo: {error}");
                return ExitCode::FAILURE;
            }
        },
        Ok(_) => println!("\nall as it should be"),
        Err(error) => {
            eprintln!("netplane-demo: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
