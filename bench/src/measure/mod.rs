//! Nanoseconds per packet of each program path, by the wrapper method: BPF_PROG_TEST_RUN repeats a small
//! program that restores the packet's head, writes the next session's headers over it and tail-calls the
//! program under test. The cost is wrapper and program minus wrapper and empty program; the medians of many
//! interleaved rounds on one CPU count, for the ratio to the floor that of each round's own ratio.

mod programs;

mod scenario;

mod tables;

pub use programs::Programs;
pub use scenario::{Extra, Path, Scenario};

use crate::load::pin;
use crate::load::scenario::Order;
use crate::report::model::{Better, Row};
use anyhow::Result;

/// Sessions that can be measured with.
pub const MAX_SESSIONS: u32 = 1_000_000;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each with the first of the sizes and sessions in no order.
    pub sessions: Vec<u32>,
    /// Bytes of the users' IP packets: each with a thousand sessions, or the most there are.
    pub sizes: Vec<u16>,
    /// Whether the most sessions are measured with a few of them sending most packets, too (Zipf).
    pub with_zipf: bool,
    /// Whether each reason for a drop is measured.
    pub with_reasons: bool,
    /// Interleaved rounds; the median of them counts.
    pub rounds: usize,
    /// Packets in each round of each program.
    pub packets: u32,
}

impl Plan {
    /// What is measured with so many sessions in the tables.
    fn scenarios(&self, sessions: u32) -> Vec<Scenario> {
        let size = self.sizes.first().copied().unwrap_or(64);
        let of = |path, size, order| Scenario { path, sessions, size, order };
        let most = self.sessions.iter().copied().max().unwrap_or(1);
        let mut scenarios: Vec<_> =
            Path::FORWARDED.iter().map(|path| of(*path, size, Order::Uniform)).collect();
        if sessions == most.min(tables::SESSIONS6) {
            scenarios.extend(Path::IPV6.iter().map(|path| of(*path, size, Order::Uniform)));
            let largest = self.sizes.iter().copied().filter(|it| *it <= 1436).max();
            // The checksum over the whole packet costs the more the longer it is.
            scenarios.extend(largest.map(|it| of(Path::Downlink6, it, Order::Uniform)));
            scenarios.extend(Path::ruled().chain([Path::Echo]).map(|path| of(path, size, Order::Uniform)));
            for size in self.sizes.iter().skip(1) {
                scenarios.extend([Path::Uplink, Path::Downlink].map(|path| of(path, *size, Order::Uniform)));
            }
        }
        if self.with_zipf && sessions == most && sessions > 1 {
            scenarios.extend([Path::Uplink, Path::Downlink].map(|path| of(path, size, Order::Zipf(1.0))));
        }
        if self.with_reasons && Some(&sessions) == self.sessions.first() {
            scenarios.extend(Path::counted().into_iter().map(|path| of(path, size, Order::Uniform)));
        }
        scenarios
    }
}

/// Measures everything of the plan. `progress` is told what is being measured.
///
/// # Errors
/// No privilege, or a program or map that the kernel refuses.
pub fn run(plan: &Plan, progress: impl FnMut(&str) + Send) -> Result<Vec<Row>> {
    // The last CPU: the first one tends to serve interrupts.
    let cpu = std::thread::available_parallelism()?.get() - 1;
    // In a thread of its own: the caller keeps all its CPUs for what it measures next.
    let measured = std::thread::scope(|scope| scope.spawn(|| run_on(cpu, plan, progress)).join());
    measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_on(cpu: usize, plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    pin(cpu)?;
    let mut rows = Vec::new();
    for &sessions in &plan.sessions {
        progress(&format!("packets: tables for {sessions} sessions"));
        let mut programs = Programs::load(sessions, cpu)?;
        for scenario in plan.scenarios(sessions) {
            let Scenario { path, size, order, .. } = scenario;
            progress(&format!(
                "packets: {}, {sessions} sessions, {size} bytes, {}",
                path.name(),
                order.name()
            ));
            rows.extend(measure(&mut programs, scenario, plan)?);
        }
    }
    Ok(rows)
}

/// Empty program, program under test and floor in turn, each round against its own empty program, so that
/// whatever the machine does meets all of them.
fn measure(programs: &mut Programs, scenario: Scenario, plan: &Plan) -> Result<Vec<Row>> {
    programs.use_scenario(scenario)?;
    let (mut tested, mut floors, mut indexed) = (Vec::new(), Vec::new(), Vec::new());
    // One round that does not count fills caches and maps.
    for round in 0..=plan.rounds {
        let empty = programs.run(scenario, programs::EMPTY, plan.packets)?;
        let cost = programs.run(scenario, programs::TESTED, plan.packets)? - empty;
        let mut beside = |floor: Option<&str>| -> Result<Option<f64>> {
            let run = floor.map(|it| programs.run(scenario, it, plan.packets)).transpose()?;
            Ok(run.map(|it| it - empty))
        };
        let floor = beside(scenario.path.floor())?;
        let other = beside(scenario.path.indexed_floor())?;
        if round > 0 {
            tested.push(cost);
            floors.extend(floor);
            indexed.extend(other);
        }
    }
    let on_tc = on_tc(programs, scenario, plan)?;
    let row = |subject: &str, samples| {
        Row::new("packets", scenario.path.name(), subject, "ns", Better::Lower, samples)
            .with("sessions", scenario.sessions)
            .with("size", scenario.size)
            .with("order", scenario.order.name())
    };
    let mut rows = vec![row("netplane", tested)];
    let others = [("floor", floors), ("indexed floor", indexed), ("netplane, TC", on_tc)];
    for (subject, samples) in others {
        if !samples.is_empty() {
            rows.push(row(subject, samples));
        }
    }
    Ok(rows)
}

/// The TC program's cost above the least that has to be done: nothing, or a packet that the kernel makes longer or
/// shorter, which takes it longer than all the rest.
fn on_tc(programs: &mut Programs, scenario: Scenario, plan: &Plan) -> Result<Vec<f64>> {
    let Some(least) = scenario.path.least_on_tc().filter(|_| scenario.order == Order::Uniform) else {
        return Ok(Vec::new());
    };
    let mut samples = Vec::with_capacity(plan.rounds);
    for round in 0..=plan.rounds {
        let least = programs.run(scenario, least, plan.packets)?;
        let cost = programs.run(scenario, programs::TC_TESTED, plan.packets)? - least;
        if round > 0 {
            samples.push(cost);
        }
    }
    Ok(samples)
}
