//! Nanoseconds per packet of each program path, by the wrapper method: BPF_PROG_TEST_RUN repeats a small
//! program that restores the packet's head, writes the next template over its headers and tail-calls the
//! program under test. The cost is wrapper and program minus wrapper and empty program, as the median of
//! many interleaved rounds on one CPU.

mod programs;
mod report;
mod scenario;

pub use programs::Programs;
pub use report::{Measurement, Report};
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

/// Empty program, program under test and floor in turn, so that whatever the machine does meets all.
fn measure(programs: &mut Programs, scenario: Scenario, effort: Effort) -> Result<Measurement> {
    programs.load_templates(scenario)?;
    let (mut empty, mut tested, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    // One round that does not count fills caches and maps.
    for round in 0..=effort.rounds {
        let samples = [
            (&mut empty, Some(programs::EMPTY)),
            (&mut tested, Some(programs::TESTED)),
            (&mut floor, scenario.path.floor()),
        ];
        for (times, target) in samples {
            let Some(target) = target else { continue };
            let time = programs.run(scenario, target, effort.packets)?;
            if round > 0 {
                times.push(time);
            }
        }
    }
    let base = median(&mut empty);
    let floor = (!floor.is_empty()).then(|| median(&mut floor) - base);
    Ok(Measurement { scenario, nanoseconds: median(&mut tested) - base, floor, samples: tested })
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The last CPU: the first one tends to serve interrupts.
fn pin_to_one_cpu() -> Result<()> {
    let cpu = std::thread::available_parallelism()?.get() - 1;
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}
