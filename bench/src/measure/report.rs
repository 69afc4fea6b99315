//! What was measured, for people and as JSON.

use super::{Effort, Scenario};
use std::fmt;

/// Nanoseconds per packet above the empty program in one round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub tested: f64,
    /// Of the floor program, where the path has one.
    pub floor: Option<f64>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub scenario: Scenario,
    pub rounds: Vec<Round>,
}

impl Measurement {
    /// Median cost of the program in nanoseconds.
    pub fn nanoseconds(&self) -> f64 {
        median(self.rounds.iter().map(|it| it.tested).collect())
    }

    /// Median cost of the floor.
    pub fn floor(&self) -> Option<f64> {
        let floors: Option<Vec<_>> = self.rounds.iter().map(|it| it.floor).collect();
        floors.map(median)
    }

    /// Cost as a multiple of the floor's: the median of the rounds' own ratios, which a machine that is
    /// slower for a while does not move.
    pub fn ratio(&self) -> Option<f64> {
        let ratios: Option<Vec<_>> =
            self.rounds.iter().map(|it| it.floor.map(|floor| it.tested / floor)).collect();
        ratios.map(median)
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct Report {
    effort: Effort,
    rows: Vec<Measurement>,
}

impl Report {
    pub(super) fn new(effort: Effort) -> Self {
        Self { effort, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Measurement) {
        self.rows.push(row);
    }

    pub fn rows(&self) -> &[Measurement] {
        &self.rows
    }

    /// The report with all samples.
    pub fn json(&self) -> serde_json::Value {
        let rows: Vec<_> = self.rows.iter().map(row_json).collect();
        let kernel = nix::sys::utsname::uname().ok().map(|it| it.release().to_string_lossy().into_owned());
        serde_json::json!({
            "benchmark": "nanoseconds-per-packet",
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": kernel,
            "rounds": self.effort.rounds,
            "packetsPerRound": self.effort.packets,
            "rows": rows,
        })
    }
}

fn row_json(row: &Measurement) -> serde_json::Value {
    serde_json::json!({
        "path": row.scenario.path.name(),
        "sessions": row.scenario.sessions,
        "nanoseconds": row.nanoseconds(),
        "floorNanoseconds": row.floor(),
        "ratio": row.ratio(),
        "samples": row.rounds.iter().map(|it| it.tested).collect::<Vec<_>>(),
        "floorSamples": row.rounds.iter().map(|it| it.floor).collect::<Vec<_>>(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ns per packet above an empty program, 68-byte user packets, one CPU")?;
        writeln!(f, "median of {} rounds of {} packets", self.effort.rounds, self.effort.packets)?;
        writeln!(f, "{:<10} {:>9} {:>10} {:>10} {:>8}", "path", "sessions", "netplane", "floor", "ratio")?;
        for row in &self.rows {
            let floor = row.floor().map_or("-".to_owned(), |it| format!("{it:.1}"));
            let ratio = row.ratio().map_or("-".to_owned(), |it| format!("{it:.2}"));
            let path = row.scenario.path.name();
            writeln!(
                f,
                "{path:<10} {:>9} {:>10.1} {floor:>10} {ratio:>8}",
                row.scenario.sessions,
                row.nanoseconds()
            )?;
        }
        Ok(())
    }
}
