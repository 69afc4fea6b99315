//! Packets per second, loss and latency through a master, one core: netplane beside what people use today,
//! in one run. Always one gNB's outer 5-tuple with many TEIDs behind it.

mod busy;

mod cores;

mod counters;

pub mod nads;

mod search;

mod stage;

mod subject;

mod trial;

pub use cores::Cores;
pub use counters::Counters;
pub use counters::Place;
pub use search::Effort;
pub use subject::{Direction, Subject};
pub use trial::{Port, Setup, Tester, Trial};

use crate::load::{Kind, Scenario};
use crate::report::model::{Better, Row};
use anyhow::{Context, Result};
use stage::Stage;
use std::path::PathBuf;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub netplane: PathBuf,
    pub subjects: Vec<Subject>,
    pub directions: Vec<Direction>,
    /// Bytes of the users' IP packets.
    pub sizes: Vec<u16>,
    pub sessions: Vec<u32>,
    pub generator: Kind,
    pub cores: Cores,
    pub effort: Effort,
}

/// Of the partial drop rate, where latency is measured.
const LATENCY_AT: [f64; 2] = [0.5, 0.9];

/// Measures everything of the plan. `progress` is told what is being measured.
///
/// # Errors
/// Not root, a tool is missing, a device that does not forward, or frames that vanish uncounted.
pub fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &sessions in &plan.sessions {
        for &direction in &plan.directions {
            progress(&format!("rates: labs for {}, {sessions} sessions", direction.name()));
            let stage = |subject: &Subject| {
                let stage = Stage::new(&plan.netplane, *subject, direction, sessions, plan.cores);
                stage.with_context(|| format!("{} with {sessions} sessions", subject.name()))
            };
            // All labs stand side by side, so that whatever the machine does meets all of them.
            let stages = plan.subjects.iter().map(stage).collect::<Result<Vec<_>>>()?;
            let case = Case { plan, direction, sessions };
            let measured = case.measure(&stages, &mut progress);
            let removed = stages.into_iter().try_for_each(Stage::remove);
            rows.extend(measured?);
            removed?;
        }
    }
    Ok(rows)
}

/// One kind of traffic for all subjects.
struct Case<'a> {
    plan: &'a Plan,
    direction: Direction,
    sessions: u32,
}

impl Case<'_> {
    fn row(&self, what: &str, subject: Subject, unit: &str, better: Better, samples: Vec<f64>) -> Row {
        Row::new("rates", what, subject.name(), unit, better, samples)
            .with("direction", self.direction.name())
            .with("sessions", self.sessions)
            .with("cpus", self.plan.cores)
    }

    fn measure(&self, stages: &[Stage], progress: &mut impl FnMut(&str)) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for stage in stages {
            let time = stage.loaded_in.map(|it| vec![it.as_secs_f64()]);
            rows.extend(time.map(|it| self.row("load-sessions", stage.subject, "s", Better::Lower, it)));
        }
        for &size in &self.plan.sizes {
            let name = format!("{}, {size} bytes, {} sessions", self.direction.name(), self.sessions);
            progress(&format!("rates: {name}, overload"));
            let most = self.overload(stages, size, &mut rows)?;
            for (stage, most) in stages.iter().zip(most).filter(|_| self.plan.effort.steps > 0) {
                progress(&format!("rates: {name}, {}", stage.subject.name()));
                self.search(stage, size, most, &mut rows)?;
            }
        }
        stages.iter().try_for_each(Stage::check_reasons)?;
        Ok(rows)
    }

    /// More than can pass, in rounds of all subjects. Returns what was offered at most.
    fn overload(&self, stages: &[Stage], size: u16, rows: &mut Vec<Row>) -> Result<Vec<f64>> {
        let mut testers = Vec::new();
        for stage in stages {
            testers.push(stage.tester(self.plan.generator, size, self.sessions, false)?);
        }
        let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); stages.len()];
        for round in 0..self.plan.effort.overloads.max(1) {
            for index in 0..stages.len() {
                // Another one first in each round.
                let index = (index + round) % stages.len();
                trials[index].push(search::trial(&mut testers[index], None, self.plan.effort)?);
            }
        }
        let mut most = Vec::new();
        for (stage, trials) in stages.iter().zip(&trials) {
            let offered = |it: &Trial| it.sent.frames as f64 / it.sent.seconds.max(1e-9);
            let row = |what, rate: &dyn Fn(&Trial) -> f64| {
                let samples = trials.iter().map(|it| rate(it) / 1e6).collect();
                self.row(what, stage.subject, "Mpps", Better::Higher, samples).with("size", size)
            };
            let mut passed = row("overload", &Trial::rate);
            for (place, count) in trials.iter().flat_map(|it| &it.drops) {
                *passed.drops.entry(place.clone()).or_default() += count;
            }
            rows.extend([passed, row("offered", &offered)]);
            let times: Vec<_> = trials.iter().filter_map(Trial::core_time).collect();
            if !times.is_empty() {
                let times = self.row("core-time", stage.subject, "ns", Better::Lower, times);
                rows.push(times.with("size", size));
            }
            most.push(trials.iter().map(offered).fold(0.0, f64::max));
        }
        Ok(most)
    }

    fn search(&self, stage: &Stage, size: u16, most: f64, rows: &mut Vec<Row>) -> Result<()> {
        let Plan { generator, effort, .. } = *self.plan;
        let mut tester = stage.tester(generator, size, self.sessions, false)?;
        let found = search::search(&mut tester, effort, most)?;
        drop(tester);
        // A rate that was not found is no sample, and the report shows that there is none.
        for (what, rate) in [("no-drop", found.no_drop), ("partial-drop", found.partial_drop)] {
            let samples = rate.map(|it| it / 1e6).into_iter().collect();
            let row = self.row(what, stage.subject, "Mpps", Better::Higher, samples).with("size", size);
            rows.push(Row { drops: found.drops.clone(), ..row });
        }
        let Some(rate) = found.partial_drop else { return Ok(()) };
        let mut tester = stage.tester(generator, size, self.sessions, true)?;
        for part in LATENCY_AT {
            let trial = search::trial(&mut tester, Some(rate * part), effort)?;
            self.latencies(stage.subject, size, part, &trial, rows);
        }
        Ok(())
    }

    fn latencies(&self, subject: Subject, size: u16, part: f64, trial: &Trial, rows: &mut Vec<Row>) {
        let row = |what: &str, samples| {
            let row = self.row(what, subject, "us", Better::Lower, samples).with("size", size);
            row.with("load", format!("{} %", (part * 100.0).round()))
        };
        let at = |part| trial.latencies.percentile(part).map(|it| it / 1000.0).into_iter().collect();
        for (what, part) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency p99.9", 0.999)] {
            rows.push(row(what, at(part)));
        }
        let buckets = trial.latencies.0.iter().map(|(bound, count)| (*bound as f64 / 1000.0, *count));
        rows.push(Row { histogram: buckets.collect(), ..row("latency", Vec::new()) });
    }
}

/// Measures a device between two interfaces of this machine. What the device itself drops is not known here,
/// so that frames that vanish are not an error.
///
/// # Errors
/// Sink or generator cannot be had, or nothing comes out of the device.
pub fn between(
    setup: Setup<'_>,
    scenario: &Scenario,
    effort: Effort,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Row>> {
    let row = |what: &str, unit: &str, better, samples| {
        Row::new("rates", what, &scenario.name, unit, better, samples).with("sessions", scenario.sessions)
    };
    let mut rows = Vec::new();
    let transmitting = [setup.transmit.interface];
    let mut tester = Tester::new(setup, scenario)?;
    tester.places = vec![Place { name: "tester", namespace: None, interfaces: &transmitting, with_ip: true }];
    tester.is_account_open = true;
    tester.warm_up()?;
    let (mut passed, mut offered) = (Vec::new(), Vec::new());
    for round in 0..effort.overloads.max(1) {
        progress(&format!("overload, round {}", round + 1));
        let trial = search::trial(&mut tester, None, effort)?;
        passed.push(trial.rate() / 1e6);
        offered.push(trial.sent.frames as f64 / trial.sent.seconds / 1e6);
    }
    let most = offered.iter().copied().fold(0.0, f64::max) * 1e6;
    rows.push(row("overload", "Mpps", Better::Higher, passed));
    rows.push(row("offered", "Mpps", Better::Higher, offered));
    progress("searching the rates without and with little loss");
    let found = search::search(&mut tester, effort, most)?;
    for (what, rate) in [("no-drop", found.no_drop), ("partial-drop", found.partial_drop)] {
        rows.push(row(what, "Mpps", Better::Higher, rate.map(|it| it / 1e6).into_iter().collect()));
    }
    drop(tester);
    let Some(rate) = found.partial_drop else { return Ok(rows) };
    let mut timed = scenario.clone();
    timed.send.latency = true;
    timed.send.burst = timed.send.burst.min(4);
    let mut tester = Tester::new(setup, &timed)?;
    tester.is_account_open = true;
    for part in LATENCY_AT {
        progress(&format!("latency at {:.0} %", part * 100.0));
        let trial = search::trial(&mut tester, Some(rate * part), effort)?;
        for (what, percentile) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency p99.9", 0.999)] {
            let time = trial.latencies.percentile(percentile).map(|it| it / 1000.0);
            let row = row(what, "us", Better::Lower, time.into_iter().collect());
            rows.push(row.with("load", format!("{} %", (part * 100.0).round())));
        }
    }
    Ok(rows)
}
