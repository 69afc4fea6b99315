//! `netplane-bench`: the benchmarks. `cargo xtask bench` builds and runs it.

mod attach;

mod packets;

mod rates;

mod traffic;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use netplane_bench::guard::{self, Table};
use netplane_bench::report::model::Row;
use netplane_bench::report::{self, Run, compare, text};
use netplane_bench::sessions::Scale;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// netplane beside what people use today, and beside itself. Without a command: all parts, about ten minutes.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the report goes.
#[derive(Args, Clone, Default)]
struct Output {
    /// Folder for report.json and report.html; for all parts, bench-report unless given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Print the report as JSON with all samples.
    #[arg(long)]
    json: bool,
    /// What is to be said of this run in its report.
    #[arg(long)]
    note: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Nanoseconds per packet of the packet program's paths, beside a floor program, in one run.
    Packets {
        #[command(flatten)]
        arguments: packets::PacketArguments,
        #[command(flatten)]
        output: Output,
    },
    /// Packets per second, loss and latency through a master, one core, beside what people use today.
    Rates {
        #[command(flatten)]
        arguments: rates::RatesArguments,
        #[command(flatten)]
        output: Output,
    },
    /// Time and memory of ADD and DEL as a runtime sees them, beside the reference plugins, in one run.
    Attach {
        #[command(flatten)]
        arguments: attach::AttachArguments,
        #[command(flatten)]
        output: Output,
    },
    /// What the session API costs: bulk load, single changes, the agent's memory, a restart.
    Sessions {
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        sessions: u32,
        /// Pods, which share the sessions.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        pods: u32,
        /// NADs beside those of the pods.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000))]
        nads: u32,
        /// Single changes once all are loaded.
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
        changes: u32,
        /// Send users' packets for some of the first pod's sessions, when they are loaded and after a restart, and fail
        /// if one does not arrive.
        #[arg(long)]
        check: bool,
        /// Packets that the agent keeps for an idle user and releases, each in microseconds of its CPU.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
        buffered: u32,
        #[arg(long)]
        json: bool,
    },
    /// Sends a scenario from an interface of this machine; with --receive, counts what comes back.
    Traffic(traffic::TrafficArguments),
    /// Measures a device between two interfaces of this machine: throughput search and latency.
    Throughput {
        #[command(flatten)]
        arguments: traffic::ThroughputArguments,
        #[command(flatten)]
        output: Output,
    },
    /// Writes NADs with the sessions that the scenarios of bench/scenarios use, for a node that is measured.
    Nads {
        /// Folder for n3.yaml and n6.yaml.
        folder: PathBuf,
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        sessions: u32,
        /// The metadata's key `xdp`.
        #[arg(long, default_value = "native")]
        xdp: String,
    },
    /// Makes the page of a report's JSON, or of several together.
    Report {
        /// Files of JSON; their rows are put into one report.
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Counts lookups, calls and sizes of the packet program, and says what has grown beyond bench/guard.json.
    Guard {
        /// Write what is counted into the table.
        #[arg(long)]
        renew: bool,
        #[arg(long, default_value = guard::TABLE)]
        table: PathBuf,
    },
    /// Says what became better or worse from A to B, and how sure that is.
    Compare {
        /// Reports of A: runs of the same thing.
        #[arg(required = true)]
        a: Vec<PathBuf>,
        /// Reports of B.
        #[arg(long = "with", short = 'w', required = true, num_args = 1..)]
        b: Vec<PathBuf>,
    },
}

#[expect(clippy::print_stderr, reason = "errors are for the person who waits")]
fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        None => all(arguments.output),
        Some(Command::Packets { arguments, output }) => part(&output, || packets::run(&arguments)),
        Some(Command::Rates { arguments, output }) => part(&output, || rates::run(&arguments)),
        Some(Command::Attach { arguments, output }) => part(&output, || attach::run(&arguments)),
        Some(Command::Sessions { sessions, pods, nads, changes, check, buffered, json }) => {
            of_sessions(Scale { sessions, pods, nads, changes, check, buffered }, json)
        }
        Some(Command::Traffic(arguments)) => traffic::send(&arguments),
        Some(Command::Throughput { arguments, output }) => part(&output, || traffic::throughput(&arguments)),
        Some(Command::Nads { folder, sessions, xdp }) => write_nads(&folder, sessions, &xdp),
        Some(Command::Report { reports, output }) => again(&reports, &output),
        Some(Command::Compare { a, b }) => compared(&a, &b),
        Some(Command::Guard { renew, table }) => guarded(renew, &table),
    }
}

#[expect(clippy::print_stdout, reason = "the figures are what this command is for")]
fn of_sessions(scale: Scale, json: bool) -> Result<()> {
    let netplane = std::env::current_exe()?.with_file_name("netplane");
    let figures = netplane_bench::sessions::run(&netplane, scale)?;
    let text = if json { serde_json::to_string_pretty(&figures)? } else { figures.text() };
    println!("{}", text.trim_end());
    Ok(())
}

/// All parts, each short: about ten minutes.
fn all(output: Output) -> Result<()> {
    let folder = output.output.clone().unwrap_or_else(|| "bench-report".into());
    let output = Output { output: Some(folder), ..output };
    part(&output, || {
        // First, while this process is small: those that it starts are counted from its size.
        let mut rows = attach::run(&Parsed::parse_from(["attach"]).arguments)?;
        rows.extend(packets::run(&Parsed::parse_from(["packets"]).arguments)?);
        for arguments in rates::for_all()? {
            rows.extend(rates::run(&arguments)?);
        }
        Ok(rows)
    })
}

/// Arguments of a part with nothing given: its defaults.
#[derive(Parser)]
struct Parsed<T: Args> {
    #[command(flatten)]
    arguments: T,
}

/// Measures, and hands the report out as asked.
fn part(output: &Output, measure: impl FnOnce() -> Result<Vec<Row>>) -> Result<()> {
    let run = Run::start();
    let rows = measure()?;
    hand_out(&run.finish(rows, output.note.clone()), output)
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn hand_out(report: &report::model::Report, output: &Output) -> Result<()> {
    if output.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", text::text(report));
    }
    if let Some(folder) = &output.output {
        report::write(report, folder)?;
        progress(&format!("{} has report.json and report.html", folder.display()));
    }
    Ok(())
}

fn again(paths: &[PathBuf], output: &Output) -> Result<()> {
    let mut reports = paths.iter().map(|it| report::read(it)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut first = reports.next().unwrap_or_else(|| Run::start().finish(Vec::new(), None));
    for other in reports {
        anyhow::ensure!(
            other.machine.cpu == first.machine.cpu && other.machine.kernel == first.machine.kernel,
            "reports of different machines do not go together; see `netplane-bench compare`"
        );
        first.seconds += other.seconds;
        first.rows.extend(other.rows);
    }
    first.note = output.note.clone().or(first.note);
    hand_out(&first, output)
}

#[expect(clippy::print_stdout, reason = "the comparison is what was asked for")]
fn compared(a: &[PathBuf], b: &[PathBuf]) -> Result<()> {
    let read = |paths: &[PathBuf]| paths.iter().map(|it| report::read(it)).collect::<Result<Vec<_>>>();
    let (a, b) = (read(a)?, read(b)?);
    let lines = compare::compare(&a, &b)?;
    print!("{}", compare::text(&a, &b, &lines));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
fn progress(what: &str) {
    eprintln!("{what}");
}

#[expect(clippy::print_stdout, reason = "the counts are what was asked for")]
fn guarded(renew: bool, path: &Path) -> Result<()> {
    let now = Table::measure()?;
    if renew {
        return now.renew(path);
    }
    println!("{}", serde_json::to_string_pretty(&now)?);
    let grown = Table::read(path)?.grown(&now);
    anyhow::ensure!(grown.is_empty(), "grown beyond {}:\n{}", path.display(), grown.join("\n"));
    Ok(())
}

fn write_nads(folder: &Path, sessions: u32, mode: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
    for (name, text) in netplane_bench::rates::nads::files(sessions, mode) {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
