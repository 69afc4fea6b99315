//! A report as text, for the terminal.

use super::model::Report;
use super::targets::{described, targets};
use std::fmt::Write as _;

/// Medians and targets.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n\n", report.machine.line());
    for row in report.rows.iter().filter(|it| it.histogram.is_empty()) {
        let median = row.median().map_or("none".to_owned(), |it| format!("{it:.2}"));
        let (what, of) = (format!("{} {}", row.part, row.what), described(row));
        let _ = writeln!(text, "{what:<28} {:<30} {median:>10} {:<5} {of}", row.subject, row.unit);
    }
    let targets = targets(report);
    if !targets.is_empty() {
        text.push_str("\ntargets\n");
    }
    for target in targets {
        let sign = if target.is_least { "at least" } else { "at most" };
        let verdict = if target.is_met() {
            "met".to_owned()
        } else {
            format!("missed by {:.0} %", target.margin().abs())
        };
        let _ =
            writeln!(text, "  {:.2} ({sign} {}): {verdict}: {}", target.reached, target.limit, target.what);
    }
    text
}
