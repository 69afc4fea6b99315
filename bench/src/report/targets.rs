//! What was aimed at, and how far it was reached in this run.

use super::model::{Report, Row};
use super::stats::median;

/// A target and what was reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub what: String,
    pub limit: f64,
    pub reached: f64,
    /// Reached if not below the limit; else if not above.
    pub is_least: bool,
}

impl Target {
    pub fn is_met(&self) -> bool {
        if self.is_least { self.reached >= self.limit } else { self.reached <= self.limit }
    }

    /// By how much it was missed or is better, in per cent of the limit.
    pub fn margin(&self) -> f64 {
        (self.reached / self.limit - 1.0) * 100.0
    }
}

/// All targets of which the report has the figures.
pub fn targets(report: &Report) -> Vec<Target> {
    let mut targets = packets(report);
    targets.extend(rates(report));
    targets
}

fn packets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    let rows = |what: &str, subject: &str| -> Vec<&Row> {
        let is = |it: &&Row| it.part == "packets" && it.what == what && it.subject == subject;
        report.rows.iter().filter(is).collect()
    };
    for path in ["uplink", "downlink"] {
        for floor in rows(path, "floor") {
            let same = |it: &&Row| it.parameters == floor.parameters;
            // Round by round: a machine that is slower for a while does not move it.
            let ratio = rows(path, "netplane").into_iter().find(same).and_then(|row| {
                let pairs = row.samples.iter().zip(&floor.samples);
                median(&pairs.map(|(a, b)| a / b).collect::<Vec<_>>())
            });
            let parameters = described(floor);
            let what = format!("{path}, cost beside the floor's: {parameters}");
            targets.extend(ratio.map(|reached| Target { what, limit: 1.4, reached, is_least: false }));
        }
        let costs: Vec<_> = rows(path, "netplane")
            .into_iter()
            .filter(|it| it.parameter("order") == Some("uniform") && it.parameter("size") == Some("64"))
            .filter_map(|it| Some((it.number("sessions")?, it.median()?)))
            .collect();
        let (one, most) =
            (costs.iter().find(|it| it.0 == 1.0), costs.iter().max_by(|a, b| a.0.total_cmp(&b.0)));
        if let (Some(one), Some(most)) = (one, most.filter(|it| it.0 > 1.0)) {
            let what = format!("{path}, cost with {} sessions beside one", most.0);
            targets.push(Target { what, limit: 1.6, reached: most.1 / one.1, is_least: false });
        }
    }
    for row in rows("pass", "netplane") {
        let what = format!("a pass of foreign traffic, ns over an empty program: {}", described(row));
        targets.extend(row.median().map(|reached| Target { what, limit: 15.0, reached, is_least: false }));
    }
    for relay in rows("relay", "netplane") {
        let uplink = rows("uplink", "netplane").into_iter().find(|it| it.parameters == relay.parameters);
        if let (Some(relay_cost), Some(uplink)) = (relay.median(), uplink.and_then(Row::median)) {
            let what = format!("relay, cost beside the uplink's: {}", described(relay));
            targets.push(Target { what, limit: 1.0, reached: relay_cost / uplink, is_least: false });
        }
    }
    targets
}

fn rates(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    let rows = |what: &str, subject: &str| -> Vec<&Row> {
        let is = |it: &&Row| it.part == "rates" && it.what == what && it.subject == subject;
        report.rows.iter().filter(is).collect()
    };
    let ratio = |what: &str, native: &Row, other: &str| {
        let other = rows(what, other).into_iter().find(|it| it.parameters == native.parameters)?;
        Some(native.median()? / other.median()?)
    };
    for native in rows("overload", NATIVE) {
        let reached = ratio("overload", native, REDIRECT);
        let what = format!("native fast path's rate beside the {REDIRECT}'s: {}", described(native));
        targets.extend(reached.map(|reached| Target { what, limit: 0.7, reached, is_least: true }));
    }
    // By the time of a core: a sender cannot offer what ten of the other could take.
    for native in rows("core-time", NATIVE) {
        let reached = ratio("core-time", native, UPF);
        let what = format!("packets in a core's time beside the {UPF}'s: {}", described(native));
        targets.extend(reached.map(|it| Target { what, limit: 10.0, reached: 1.0 / it, is_least: true }));
    }
    targets
}

const NATIVE: &str = "netplane, native XDP";
const REDIRECT: &str = "bare XDP redirect";
const UPF: &str = "user-space UPF";

/// Parameters for people.
pub(super) fn described(row: &Row) -> String {
    let mut parts = Vec::new();
    for (key, value) in &row.parameters {
        parts.push(match key.as_str() {
            "sessions" => format!("{value} sessions"),
            "size" => format!("{value} bytes"),
            "cpus" => format!("CPUs {value}"),
            "load" => format!("{value} load"),
            _ => value.clone(),
        });
    }
    parts.join(", ")
}
