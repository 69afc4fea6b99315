//! Nanoseconds per packet of each program path, by the wrapper method: BPF_PROG_TEST_RUN repeats a small
//! program that restores the packet's head, writes the next template over its headers and tail-calls the
//! program under test. The cost is wrapper and program minus wrapper and empty program; the medians of many
//! interleaved rounds on one CPU count, for the ratio to the floor that of each round's own ratio.

mod programs;
mod report;
mod scenario;

pub use programs::Programs;
pub use report::{Measurement, Report, Round};
pub use scenario::{Path, Scenario};

/// Sessions that the tables of the objects hold, relays included.
pub const MAX_SESSIONS: u32 = 100_000;

use anyhow::Result;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Interleaved rounds; the median of them counts.
    pub rounds: usize,
    /// Packets in each round of each program.
    pub packets: u32,
}

/// Measures every path with so many sessions. `progress` is told what is being measured.
///
/// # Errors
/// No privilege, or a program or map that the kernel refuses.
pub fn run(sessions: &[u32], effort: Effort, mut progress: impl FnMut(&str)) -> Result<Report> {
    pin_to_one_cpu()?;
    let mut report = Report::new(effort);
    for &count in sessions {
        let mut programs = Programs::load(count)?;
        for path in Path::ALL {
            progress(&format!("{} with {count} sessions", path.name()));
            let scenario = Scenario { path, sessions: count };
            report.add(measure(&mut programs, scenario, effort)?);
        }
    }
    Ok(report)
}

/// Empty program, program under test and floor in turn, each round against its own empty program, so that
/// whatever the machine does meets all of them.
fn measure(programs: &mut Programs, scenario: Scenario, effort: Effort) -> Result<Measurement> {
    programs.load_templates(scenario)?;
    let mut rounds = Vec::with_capacity(effort.rounds);
    // One round that does not count fills caches and maps.
    for round in 0..=effort.rounds {
        let empty = programs.run(scenario, programs::EMPTY, effort.packets)?;
        let tested = programs.run(scenario, programs::TESTED, effort.packets)? - empty;
        let floor = match scenario.path.floor() {
            Some(floor) => Some(programs.run(scenario, floor, effort.packets)? - empty),
            None => None,
        };
        if round > 0 {
            rounds.push(Round { tested, floor });
        }
    }
    Ok(Measurement { scenario, rounds })
}

/// The last CPU: the first one tends to serve interrupts.
fn pin_to_one_cpu() -> Result<()> {
    let cpu = std::thread::available_parallelism()?.get() - 1;
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}
