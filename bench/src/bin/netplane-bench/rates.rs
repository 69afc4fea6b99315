//! `rates`: packets per second, loss and latency, one core, in labs.

use anyhow::Result;
use clap::{Args, Parser as _};
use netplane_bench::load::Kind;
use netplane_bench::rates::{self, Cores, Direction, Effort, Plan, Subject};
use netplane_bench::report::model::Row;
use netplane_bench::{attach, demo};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct RatesArguments {
    /// The binary to measure; else the one beside this program.
    #[arg(long)]
    netplane: Option<PathBuf>,
    /// What is compared; unless given, everything that this kernel has.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Subject>,
    #[arg(long, value_delimiter = ',', default_value = "uplink,downlink")]
    directions: Vec<Direction>,
    /// Bytes of the users' IP packets.
    #[arg(long, value_delimiter = ',', default_value = "64,512,1400")]
    sizes: Vec<u16>,
    /// Sessions behind the one gNB.
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    sessions: Vec<u32>,
    #[arg(long, default_value = "live")]
    generator: Kind,
    /// CPUs of the sender, the device under test and the sink.
    #[arg(long)]
    cpus: Option<Cores>,
    /// Length of a trial in seconds; RFC 2544 asks for 60.
    #[arg(long, default_value_t = 0.5)]
    trial: f64,
    /// Trials at full load.
    #[arg(long, default_value_t = 3)]
    overloads: usize,
    /// Steps of each search.
    #[arg(long, default_value_t = 7)]
    steps: usize,
}

pub(crate) fn run(arguments: &RatesArguments) -> Result<Vec<Row>> {
    demo::clean_up_on_signals()?;
    let subjects =
        if arguments.subjects.is_empty() { Subject::of_this_kernel() } else { arguments.subjects.clone() };
    let plan = Plan {
        netplane: arguments.netplane.clone().map_or_else(attach::own_netplane, Ok)?,
        subjects,
        directions: arguments.directions.clone(),
        sizes: arguments.sizes.clone(),
        sessions: arguments.sessions.clone(),
        generator: arguments.generator,
        cores: arguments.cpus.map_or_else(Cores::of_this_machine, Ok)?,
        effort: Effort {
            trial: Duration::from_secs_f64(arguments.trial.clamp(0.05, 600.0)),
            overloads: arguments.overloads,
            steps: arguments.steps,
        },
    };
    rates::run(&plan, crate::progress)
}

/// What runs with all parts: everything with a thousand sessions, the fast path against the bare redirect with
/// one and with many, and on a machine with few cores the same with all on one, where the tester's part is
/// the same for both.
pub(crate) fn for_all() -> Result<Vec<RatesArguments>> {
    let parsed = |more: &[&str]| {
        let words = ["rates"].iter().chain(more);
        crate::Parsed::<RatesArguments>::parse_from(words).arguments
    };
    let fast = "native,bare-redirect";
    let mut runs = vec![
        parsed(&["--sessions", "1000"]),
        parsed(&["--sessions", "1,100000", "--subjects", fast, "--sizes", "64", "--steps", "0"]),
    ];
    let cores = Cores::of_this_machine()?;
    if cores.sink == cores.sender {
        let one = format!("{0},{0},{0}", cores.device);
        let sizes = "64,512,1400";
        let all = "native,generic,tc,kernel-forwarding,bare-redirect";
        runs.push(parsed(&[
            "--sessions",
            "1000",
            "--subjects",
            all,
            "--sizes",
            sizes,
            "--steps",
            "0",
            "--cpus",
            &one,
        ]));
    }
    Ok(runs)
}
