//! What was measured, for people and as JSON, and how it stands to the goals.

use super::Effort;
use super::call::Cost;
use super::shape::{Shape, Subject, Verb};
use std::collections::BTreeMap;
use std::fmt;

/// Shape, subject, verb, calls at a time.
type Key = (Shape, Subject, Verb, usize);

/// All costs by what was called.
#[derive(Debug, Default)]
pub(super) struct Samples {
    costs: BTreeMap<Key, Vec<Cost>>,
    /// Of all calls of a burst together, in bytes.
    memory: BTreeMap<Key, Vec<u64>>,
}

impl Samples {
    pub(super) fn add(&mut self, key: Key, costs: impl IntoIterator<Item = Cost>) {
        self.costs.entry(key).or_default().extend(costs);
    }

    pub(super) fn add_memory(&mut self, key: Key, bytes: u64) {
        self.memory.entry(key).or_default().push(bytes);
    }
}

/// One line of the table. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Row {
    pub shape: Shape,
    pub subject: Subject,
    pub verb: Verb,
    pub at_once: usize,
    /// Median wall time of a call.
    pub median: f64,
    pub p99: f64,
    /// Median of user and system time.
    pub cpu: f64,
    /// Largest resident set of a process in KiB, median over the calls.
    pub peak: f64,
    /// Of many at once: the most that all had together, for each of them, in KiB, median over the bursts. Pages
    /// of files that were in memory before do not count, the kernel's part does.
    pub share: Option<f64>,
    walls: Vec<f64>,
}

impl Row {
    fn new((shape, subject, verb, at_once): Key, costs: &[Cost], memory: &[u64]) -> Self {
        let shares: Vec<_> = memory.iter().map(|it| *it as f64 / at_once as f64 / 1024.0).collect();
        let walls: Vec<_> = costs.iter().map(|it| it.wall.as_secs_f64() * 1e3).collect();
        Self {
            shape,
            subject,
            verb,
            at_once,
            median: quantile(&walls, 0.5),
            p99: quantile(&walls, 0.99),
            cpu: quantile(&costs.iter().map(|it| it.cpu.as_secs_f64() * 1e3).collect::<Vec<_>>(), 0.5),
            peak: quantile(&costs.iter().map(|it| it.peak as f64).collect::<Vec<_>>(), 0.5),
            share: (!shares.is_empty()).then(|| quantile(&shares, 0.5)),
            walls,
        }
    }
}

/// The sample of this rank, nearest rank.
fn quantile(samples: &[f64], rank: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (rank * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1).min(last)).copied().unwrap_or(f64::NAN)
}

/// A goal and what was reached.
#[derive(Clone, Debug)]
pub struct Goal {
    pub what: &'static str,
    pub limit: f64,
    pub reached: f64,
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct Report {
    effort: Effort,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(effort: Effort, samples: Samples) -> Self {
        let row = |(key, costs): (&Key, &Vec<Cost>)| {
            Row::new(*key, costs, samples.memory.get(key).map_or(&[], Vec::as_slice))
        };
        let mut rows: Vec<_> = samples.costs.iter().map(row).collect();
        rows.sort_by_key(|it| (it.shape, it.at_once, it.verb, it.subject));
        Self { effort, rows }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Memory of one of many ADDs at once.
    fn share(&self, shape: Shape, subject: Subject) -> f64 {
        let row = |it: &&Row| (it.shape, it.subject, it.verb) == (shape, subject, Verb::Add);
        self.rows.iter().filter(row).find_map(|it| it.share).unwrap_or(f64::NAN)
    }

    fn row(&self, shape: Shape, subject: Subject, verb: Verb) -> Option<&Row> {
        self.rows.iter().find(|it| (it.shape, it.subject, it.verb, it.at_once) == (shape, subject, verb, 1))
    }

    /// The goals, one call at a time.
    pub fn goals(&self) -> Vec<Goal> {
        use {Shape::*, Subject::*, Verb::*};
        let get = |shape, subject, verb| self.row(shape, subject, verb);
        let ratio = |value: fn(&Row) -> f64, a: Option<&Row>, b: Option<&Row>| match (a, b) {
            (Some(a), Some(b)) => value(a) / value(b),
            _ => f64::NAN,
        };
        let add = |shape| ratio(|it| it.median, get(shape, Netplane, Add), get(shape, Reference, Add));
        // What an attachment costs a pod that has a first one.
        let further = |subject| match (get(One, subject, Add), get(Three, subject, Add)) {
            (Some(one), Some(three)) => (three.median - one.median) / 2.0,
            _ => f64::NAN,
        };
        // Round by round, so that a machine that is slower for a while does not move it.
        let overhead = |shape| match (get(shape, NetplaneExec, Add), get(shape, Reference, Add)) {
            (Some(a), Some(b)) => {
                quantile(&a.walls.iter().zip(&b.walls).map(|(a, b)| a - b).collect::<Vec<_>>(), 0.5)
            }
            _ => f64::NAN,
        };
        vec![
            Goal { what: "ADD of 1 macvlan: netplane / reference", limit: 0.25, reached: add(One) },
            Goal { what: "ADD of 2 macvlan: netplane / reference", limit: 0.25, reached: add(Two) },
            Goal { what: "ADD of 3 macvlan: netplane / reference", limit: 0.25, reached: add(Three) },
            Goal {
                what: "each further macvlan in an ADD: netplane / reference",
                limit: 0.25,
                reached: further(Netplane) / further(Reference),
            },
            Goal {
                what: "memory of many ADDs at once: netplane / reference",
                limit: 0.1,
                reached: self.share(One, Netplane) / self.share(One, Reference),
            },
            Goal {
                what: "DEL: 3 macvlan / 1 macvlan",
                limit: 1.3,
                reached: ratio(|it| it.median, get(Three, Netplane, Del), get(One, Netplane, Del)),
            },
            Goal { what: "own overhead over 1 program, ms", limit: 2.0, reached: overhead(One) },
            Goal { what: "own overhead over 3 programs, ms", limit: 2.0, reached: overhead(Three) },
        ]
    }

    /// As rows of a report.
    pub fn to_rows(&self) -> Vec<crate::report::model::Row> {
        use crate::report::model::{Better, Row as ReportRow};
        let one = |it: &Row, what: &str, unit: &str, samples: Vec<f64>| {
            let what = format!("{} {what}", it.verb.name());
            ReportRow::new("attach", &what, it.subject.name(), unit, Better::Lower, samples)
                .with("networks", it.shape.name())
                .with("calls", format!("{} at once", it.at_once))
        };
        let both = |it: &Row| {
            [one(it, "time", "ms", it.walls.clone()), one(it, "peak memory", "KiB", vec![it.peak])]
        };
        self.rows.iter().flat_map(both).collect()
    }

    /// The report with all samples.
    pub fn json(&self) -> serde_json::Value {
        let rows: Vec<_> = self.rows.iter().map(row_json).collect();
        let goal =
            |it: &Goal| serde_json::json!({ "goal": it.what, "limit": it.limit, "reached": it.reached });
        let kernel = nix::sys::utsname::uname().ok().map(|it| it.release().to_string_lossy().into_owned());
        serde_json::json!({
            "benchmark": "attach",
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": kernel,
            "rounds": self.effort.rounds,
            "bursts": self.effort.bursts,
            "rows": rows,
            "goals": self.goals().iter().map(goal).collect::<Vec<_>>(),
        })
    }
}

fn row_json(row: &Row) -> serde_json::Value {
    serde_json::json!({
        "shape": row.shape.name(),
        "subject": row.subject.name(),
        "verb": row.verb.name(),
        "atOnce": row.at_once,
        "medianMilliseconds": row.median,
        "p99Milliseconds": row.p99,
        "cpuMilliseconds": row.cpu,
        "peakKibibytes": row.peak,
        "shareKibibytes": row.share,
        "samples": row.walls,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "one call as the runtime sees it, first process's start to last one's exit")?;
        writeln!(f, "{} rounds of one call, {} bursts", self.effort.rounds, self.effort.bursts)?;
        writeln!(
            f,
            "{:<16} {:>7} {:<4} {:<15} {:>9} {:>9} {:>9} {:>10} {:>10}",
            "networks", "at once", "verb", "who", "median ms", "p99 ms", "CPU ms", "peak KiB", "share KiB"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<16} {:>7} {:<4} {:<15} {:>9.2} {:>9.2} {:>9.2} {:>10.0} {:>10}",
                row.shape.name(),
                row.at_once,
                row.verb.name(),
                row.subject.name(),
                row.median,
                row.p99,
                row.cpu,
                row.peak,
                row.share.map_or_else(String::new, |it| format!("{it:.0}"))
            )?;
        }
        for Goal { what, limit, reached } in self.goals() {
            let word = if reached <= limit { "reached" } else { "missed" };
            writeln!(f, "{what}: {reached:.2}, goal at most {limit}: {word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&samples, 0.5), quantile(&samples, 0.99)), (50.0, 99.0));
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn goals_compare_what_they_say() {
        let mut samples = Samples::default();
        let cost = |ms, peak| Cost { wall: Duration::from_millis(ms), cpu: Duration::ZERO, peak };
        for (subject, ms, peak) in
            [(Subject::Netplane, 2, 500), (Subject::NetplaneExec, 11, 4000), (Subject::Reference, 10, 5000)]
        {
            samples.add((Shape::One, subject, Verb::Add, 1), [cost(ms, peak)]);
        }
        samples.add((Shape::Three, Subject::Netplane, Verb::Add, 1), [cost(4, 1)]);
        samples.add((Shape::Three, Subject::Reference, Verb::Add, 1), [cost(30, 1)]);
        samples.add((Shape::One, Subject::Netplane, Verb::Del, 1), [cost(10, 1)]);
        samples.add((Shape::Three, Subject::Netplane, Verb::Del, 1), [cost(12, 1)]);
        for (subject, bytes) in [(Subject::Netplane, 10 << 20), (Subject::Reference, 40 << 20)] {
            samples.add((Shape::One, subject, Verb::Add, 50), [cost(1, 1)]);
            samples.add_memory((Shape::One, subject, Verb::Add, 50), bytes);
        }
        let report = Report::new(Effort { rounds: 1, bursts: 1, at_once: 50 }, samples);
        let reached: Vec<_> = report.goals().iter().map(|it| it.reached).collect();
        assert_eq!(reached[0], 0.2);
        assert_eq!(reached[3], 0.1);
        assert_eq!(reached[4], 0.25);
        assert_eq!(reached[5], 1.2);
        assert!((reached[6] - 1.0).abs() < 1e-9);
        assert!(report.to_string().contains("3 macvlan / 1 macvlan: 1.20, goal at most 1.3: reached"));
    }
}
