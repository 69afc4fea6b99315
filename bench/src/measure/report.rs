//! What was measured, for people and as JSON.

use super::{Effort, Scenario};
use std::fmt;

/// One row.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub scenario: Scenario,
    /// Median cost of the program above the empty one.
    pub nanoseconds: f64,
    /// The same of the floor program, where there is one.
    pub floor: Option<f64>,
    /// All rounds of the program with the wrapper, sorted, in nanoseconds.
    pub samples: Vec<f64>,
}

impl Measurement {
    /// Cost as a multiple of the floor's.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.nanoseconds / floor)
    }
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
        "nanoseconds": row.nanoseconds,
        "floorNanoseconds": row.floor,
        "ratio": row.ratio(),
        "samplesWithWrapper": row.samples,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ns per packet above an empty program, 68-byte user packets, one CPU")?;
        writeln!(f, "median of {} rounds of {} packets", self.effort.rounds, self.effort.packets)?;
        writeln!(f, "{:<10} {:>9} {:>10} {:>10} {:>8}", "path", "sessions", "netplane", "floor", "ratio")?;
        for row in &self.rows {
            let floor = row.floor.map_or("-".to_owned(), |it| format!("{it:.1}"));
            let ratio = row.ratio().map_or("-".to_owned(), |it| format!("{it:.2}"));
            let path = row.scenario.path.name();
            writeln!(
                f,
                "{path:<10} {:>9} {:>10.1} {floor:>10} {ratio:>8}",
                row.scenario.sessions, row.nanoseconds
            )?;
        }
        Ok(())
    }
}
