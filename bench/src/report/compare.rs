//! Two reports beside each other, with how sure one can be of each difference.

use super::model::{Better, Report, Row};
use super::stats::{Ratio, Runs, median};
use anyhow::{Result, ensure};
use std::fmt::Write as _;

/// What became of a quantity from A to B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Worse,
    Better,
    /// Not more than chance explains.
    None,
    /// Too few samples to say anything.
    Unknown,
}

/// One line of the comparison.
#[derive(Clone, Debug)]
pub struct Line {
    pub key: String,
    pub unit: String,
    pub a: f64,
    pub b: f64,
    pub ratio: Option<Ratio>,
    pub change: Change,
}

/// Least samples of a side that say anything of a difference.
const LEAST_SAMPLES: usize = 5;

/// Compares what both sides have. Several reports of a side are runs of the same thing.
///
/// # Errors
/// A side has no report, or they have nothing in common.
pub fn compare(a: &[Report], b: &[Report]) -> Result<Vec<Line>> {
    ensure!(!a.is_empty() && !b.is_empty(), "a comparison has at least one report on each side");
    let mut lines: Vec<_> =
        a[0].rows.iter().filter_map(|row| line(row, &runs(a, row), &runs(b, row))).collect();
    ensure!(!lines.is_empty(), "the reports have no quantity in common");
    lines.sort_by_key(|it| it.change);
    Ok(lines)
}

fn runs(reports: &[Report], wanted: &Row) -> Runs {
    let key = wanted.key();
    let of = |report: &Report| report.rows.iter().find(|it| it.key() == key).map(|it| it.samples.clone());
    reports.iter().filter_map(of).filter(|it| !it.is_empty()).collect()
}

fn line(row: &Row, a: &Runs, b: &Runs) -> Option<Line> {
    let (medians, ratio) = ((median(&a.concat())?, median(&b.concat())?), Ratio::of(a, b));
    let enough = |runs: &Runs| runs.concat().len() >= LEAST_SAMPLES;
    let change = match ratio {
        Some(ratio) if enough(a) && enough(b) && ratio.is_different() => {
            if (ratio.value > 1.0) == (row.better == Better::Higher) { Change::Better } else { Change::Worse }
        }
        Some(_) if enough(a) && enough(b) => Change::None,
        _ => Change::Unknown,
    };
    Some(Line { key: row.key(), unit: row.unit.clone(), a: medians.0, b: medians.1, ratio, change })
}

/// For people.
pub fn text(a: &[Report], b: &[Report], lines: &[Line]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "A: {} run(s) on a {}", a.len(), a[0].machine.line());
    let _ = writeln!(text, "B: {} run(s) on a {}", b.len(), b[0].machine.line());
    if (&a[0].machine.cpu, &a[0].machine.kernel) != (&b[0].machine.cpu, &b[0].machine.kernel) {
        text.push_str("The machines differ: so may everything below.\n");
    }
    if a.len() < 3 || b.len() < 3 {
        text.push_str(
            "Intervals hold what differs within the runs. What differs from run to run is in them from three \
             runs a side on.\n",
        );
    }
    text.push_str("Ratio of the medians, B to A, with its 99 % interval:\n\n");
    for line in lines {
        let said = match line.change {
            Change::Worse => "worse",
            Change::Better => "better",
            Change::None => "no difference",
            Change::Unknown => "too few samples",
        };
        let interval = match (line.ratio, line.change) {
            // Of one or two samples the bootstrap's interval is a point, which would look like certainty.
            (Some(ratio), Change::Unknown) => format!("{:.3}", ratio.value),
            (Some(ratio), _) => format!("{:.3} [{:.3}, {:.3}]", ratio.value, ratio.low, ratio.high),
            (None, _) => "-".to_owned(),
        };
        let (key, unit) = (&line.key, &line.unit);
        let _ =
            writeln!(text, "{said:<16} {interval:<24} {:>10.3} -> {:>10.3} {unit:<5} {key}", line.a, line.b);
    }
    let count = |change| lines.iter().filter(|it| it.change == change).count();
    let _ = writeln!(
        text,
        "\n{} worse, {} better, {} without a difference, {} with too few samples; of a hundred quantities that \
         are the same, one is said to differ by chance",
        count(Change::Worse),
        count(Change::Better),
        count(Change::None),
        count(Change::Unknown)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::machine::Machine;

    fn report(cost: f64, rate: f64) -> Report {
        let samples = |centre: f64| (0..21).map(|it| centre * (1.0 + f64::from(it % 7) / 300.0)).collect();
        let cost = Row::new("packets", "uplink", "netplane", "ns", Better::Lower, samples(cost));
        let rate = Row::new("rates", "overload", "netplane", "Mpps", Better::Higher, samples(rate));
        let few = Row::new("rates", "no-drop", "netplane", "Mpps", Better::Higher, vec![1.0]);
        Report {
            schema: 1,
            version: "0".to_owned(),
            machine: Machine::default(),
            started: 0,
            seconds: 1.0,
            note: None,
            rows: vec![cost, rate, few],
        }
    }

    #[test]
    fn worse_better_and_the_same_are_told_apart() {
        let (a, b) = ([report(100.0, 1.0)], [report(120.0, 1.2)]);
        let lines = compare(&a, &b).unwrap();
        let changes: Vec<_> = lines.iter().map(|it| (it.key.as_str(), it.change)).collect();
        assert_eq!(
            changes,
            [
                ("packets uplink, netplane", Change::Worse),
                ("rates overload, netplane", Change::Better),
                ("rates no-drop, netplane", Change::Unknown)
            ]
        );
        let same = compare(&a, &[report(100.0, 1.0)]).unwrap();
        assert!(same.iter().take(2).all(|it| it.change == Change::None), "{same:?}");
        let text = text(&a, &b, &lines);
        assert!(text.contains("1 worse, 1 better, 0 without a difference, 1 with too few samples"), "{text}");
        let unsure = text.lines().find(|it| it.starts_with("too few samples")).unwrap();
        assert!(unsure.contains(" 1.000 ") && !unsure.contains('['), "{unsure}");
    }
}
