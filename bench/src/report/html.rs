//! The page for people: one file, with plots, targets and all figures.

use super::model::{Report, Row};
use super::svg::{Plot, Series, bars, escaped, number};
use super::targets::{described, targets};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .2rem; }
svg { width: 100%; max-width: 45rem; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: #333; }
svg polyline { fill: none; stroke-width: 2; } svg .grid { stroke: #e4e4e4; }
svg polyline.limit { stroke: #999; stroke-width: 1; stroke-dasharray: 5 4; } svg text.limit { fill: #777; }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .15rem .7rem .15rem 0; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #eee; }
.met { color: #00704f; } .missed { color: #b33; } .said { color: #555; } details { margin-top: .6rem; }
";

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    let _ = writeln!(page, "<title>netplane benchmark</title><style>{STYLE}</style></head><body>");
    head(report, &mut page);
    aims(report, &mut page);
    costs(report, &mut page);
    throughput(report, &mut page);
    baselines(report, &mut page);
    latencies(report, &mut page);
    attaching(report, &mut page);
    all_rows(report, &mut page);
    page + "</body></html>\n"
}

fn head(report: &Report, page: &mut String) {
    let machine = &report.machine;
    let _ = writeln!(page, "<h1>netplane benchmark</h1>\n<p>{}</p>", escaped(&machine.line()));
    let _ = writeln!(
        page,
        "<p class=\"said\">netplane {}, run of {:.0} s. Mitigations: {}.</p>",
        escaped(&report.version),
        report.seconds,
        escaped(if machine.mitigations.is_empty() { "none" } else { "" })
            + &escaped(&machine.mitigations.join("; "))
    );
    if let Some(note) = &report.note {
        let _ = writeln!(page, "<p>{}</p>", escaped(note));
    }
}

fn aims(report: &Report, page: &mut String) {
    let targets = targets(report);
    if targets.is_empty() {
        return;
    }
    page.push_str("<h2>Targets</h2>\n<table><tr><th>target</th><th class=\"n\">limit</th><th class=\"n\">reached</th><th></th></tr>\n");
    for target in targets {
        let (class, verdict) = if target.is_met() {
            ("met", "met".to_owned())
        } else {
            ("missed", format!("missed by {:.0} %", target.margin().abs()))
        };
        let sign = if target.is_least { "≥" } else { "≤" };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{sign} {}</td><td class=\"n\">{:.2}</td><td class=\"{class}\">{verdict}</td></tr>",
            escaped(&target.what),
            target.limit,
            target.reached
        );
    }
    page.push_str("</table>\n");
}

/// Rows by what they have in common, in the order in which they came.
fn grouped<'a>(
    rows: impl Iterator<Item = &'a Row>,
    key: impl Fn(&Row) -> String,
) -> Vec<(String, Vec<&'a Row>)> {
    let mut order = Vec::new();
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let key = key(row);
        if !groups.contains_key(&key) {
            order.push(key.clone());
        }
        groups.entry(key).or_default().push(row);
    }
    let take = |key: String| groups.remove(&key).map(|rows| (key, rows));
    order.into_iter().filter_map(take).collect()
}

fn parameter(row: &Row, key: &str) -> String {
    row.parameter(key).unwrap_or_default().to_owned()
}

/// One line for each group, of the rows' medians over a parameter.
fn lines(rows: &[&Row], over: &str, name: impl Fn(&Row) -> String) -> Vec<Series> {
    let line = |(name, rows): (String, Vec<&Row>)| {
        let mut points: Vec<_> =
            rows.iter().filter_map(|it| Some((it.number(over)?, it.median()?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name, points, is_limit: false }
    };
    grouped(rows.iter().copied(), name).into_iter().map(line).filter(|it| !it.points.is_empty()).collect()
}

fn costs(report: &Report, page: &mut String) {
    let rows: Vec<_> = report.rows.iter().filter(|it| it.part == "packets").collect();
    if rows.is_empty() {
        return;
    }
    page.push_str("<h2>Cost per packet against sessions</h2>\n<p class=\"said\">Nanoseconds above an empty program, one core; the floor is the least that a tunnel end can do.</p>\n");
    let varied = |it: &Row| format!("{}, {} bytes", parameter(it, "order"), parameter(it, "size"));
    for (title, rows) in grouped(rows.iter().copied().filter(|it| FORWARDED.contains(&&*it.what)), varied) {
        let _ = writeln!(page, "<h3>{}</h3>", escaped(&title));
        let series = lines(&rows, "sessions", |it| format!("{}, {}", it.what, it.subject));
        if series.iter().all(|it| it.points.len() < 2) {
            let name = |it: &Row| format!("{}: {}, {}", it.subject, it.what, described(it));
            page.push_str(&bars("ns", &medians(rows.iter().copied(), name)));
            continue;
        }
        let (x_label, y_label) = ("sessions".to_owned(), "ns per packet".to_owned());
        page.push_str(&Plot { x_label, y_label, x_is_log: true, y_is_log: false, series }.svg());
    }
    let counted = rows.iter().copied().filter(|it| !FORWARDED.contains(&&*it.what));
    let counted = medians(counted, |it| format!("netplane: {}", it.what));
    if !counted.is_empty() {
        let title = "<h3>packets that are not forwarded, by reason</h3>";
        let _ = writeln!(page, "{title}\n{}", bars("ns", &counted));
    }
}

/// Paths in the packets' part that are no reason for a drop.
const FORWARDED: [&str; 6] = ["uplink", "downlink", "relay", "pass", "uplink, IPv6", "downlink, IPv6"];

/// Names and medians, of the rows that have one.
fn medians<'a>(rows: impl Iterator<Item = &'a Row>, name: impl Fn(&Row) -> String) -> Vec<(String, f64)> {
    rows.filter_map(|it| Some((name(it), it.median()?))).collect()
}

/// Frames a second that fill a line, in millions: a G-PDU of IPv4 with a container, FCS, preamble and gap.
fn line_rate(gigabits: f64, size: f64) -> f64 {
    const OUTER: f64 = 14.0 + 20.0 + 8.0 + 16.0;
    const WIRE: f64 = 4.0 + 20.0;
    gigabits * 1e3 / ((size + OUTER + WIRE) * 8.0)
}

fn rates<'a>(report: &'a Report, what: &'a str) -> impl Iterator<Item = &'a Row> {
    report.rows.iter().filter(move |it| it.part == "rates" && it.what == what)
}

fn traffic(row: &Row) -> String {
    let of = |key| parameter(row, key);
    format!("{}, {} sessions, CPUs of sender, device, sink: {}", of("direction"), of("sessions"), of("cpus"))
}

fn throughput(report: &Report, page: &mut String) {
    let groups = grouped(rates(report, "overload"), traffic);
    if groups.is_empty() {
        return;
    }
    page.push_str("<h2>Throughput against size</h2>\n<p class=\"said\">What one core passes when more is offered; dashed, what fills a line with G-PDUs of that size.</p>\n");
    for (title, rows) in groups {
        let mut series = lines(&rows, "size", |it| it.subject.clone());
        let sizes: Vec<_> = rows.iter().filter_map(|it| it.number("size")).collect();
        let (low, high) = sizes.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), it| (a.min(*it), b.max(*it)));
        for gigabits in [10.0, 25.0, 100.0] {
            let at = |step: i32| low + (high - low) * f64::from(step) / 40.0;
            let points = (0..=40).map(|it| (at(it), line_rate(gigabits, at(it)))).collect();
            series.push(Series { name: format!("{gigabits} Gbit/s"), points, is_limit: true });
        }
        let _ = writeln!(page, "<h3>{}</h3>", escaped(&title));
        let (x_label, y_label) =
            ("bytes of the user's packet".to_owned(), "million packets a second".to_owned());
        page.push_str(&Plot { x_label, y_label, x_is_log: false, y_is_log: true, series }.svg());
    }
}

fn baselines(report: &Report, page: &mut String) {
    let key = |it: &Row| format!("{} bytes, {}", parameter(it, "size"), traffic(it));
    let passed = grouped(rates(report, "overload"), key);
    if passed.is_empty() {
        return;
    }
    page.push_str("<h2>Side by side</h2>\n");
    for (title, rows) in passed {
        let values = |what: &'static str| -> Vec<(String, f64)> {
            medians(rates(report, what).filter(|it| key(it) == title), |it| it.subject.clone())
        };
        let _ = writeln!(page, "<h3>{}</h3>", escaped(&title));
        for (what, said) in [
            ("overload", "passed when more was offered"),
            ("partial-drop", "passed with at most one in 200 lost"),
            ("no-drop", "passed with none lost (RFC 2544)"),
        ] {
            let values = values(what);
            if !values.is_empty() {
                let _ = writeln!(page, "<p class=\"said\">{said}</p>\n{}", bars("Mpps", &values));
            }
        }
        let _ = writeln!(page, "{}", limits(report, &rows));
    }
}

/// Where a subject was not the bottleneck, its figure is a least.
fn limits(report: &Report, rows: &[&Row]) -> String {
    let is_tester = |row: &&&Row| {
        let offered =
            rates(report, "offered").find(|it| it.subject == row.subject && it.parameters == row.parameters);
        let (passed, offered) = (row.median(), offered.and_then(Row::median));
        matches!((passed, offered), (Some(passed), Some(offered)) if passed > offered * 0.98)
    };
    let names: Vec<_> = rows.iter().filter(is_tester).map(|it| it.subject.as_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    let names = escaped(&names.join("; "));
    format!(
        "<p class=\"said\">The generator could not offer more than these pass, so that they are least values: {names}.</p>"
    )
}

fn latencies(report: &Report, page: &mut String) {
    let key = |it: &Row| {
        format!(
            "{} bytes, {}, at {} of the rate with one in 200 lost",
            parameter(it, "size"),
            traffic(it),
            parameter(it, "load")
        )
    };
    let rows = rates(report, "latency").filter(|it| !it.histogram.is_empty());
    let groups = grouped(rows, key);
    if groups.is_empty() {
        return;
    }
    page.push_str("<h2>Latency</h2>\n<p class=\"said\">Part of the packets that took longer than so many microseconds, from sender to sink. Each subject under its own load.</p>\n");
    for (title, rows) in groups {
        let series =
            rows.iter().map(|it| Series { name: it.subject.clone(), points: slower(it), is_limit: false });
        let _ = writeln!(page, "<h3>{}</h3>", escaped(&title));
        let (x_label, y_label) = ("microseconds".to_owned(), "part that took longer".to_owned());
        let plot = Plot { x_label, y_label, x_is_log: true, y_is_log: true, series: series.collect() };
        page.push_str(&plot.svg());
    }
}

/// Of a distribution, which part is above each bound.
fn slower(row: &Row) -> Vec<(f64, f64)> {
    let total: u64 = row.histogram.iter().map(|it| it.1).sum();
    let mut rest = total;
    let mut points = Vec::new();
    for (bound, count) in &row.histogram {
        points.push((*bound, rest as f64 / total as f64));
        rest -= count;
    }
    points
}

fn attaching(report: &Report, page: &mut String) {
    let rows = report.rows.iter().filter(|it| it.part == "attach" && it.what.ends_with(" time"));
    let groups = grouped(rows, |it| format!("{}: {}", it.what, described(it)));
    if groups.is_empty() {
        return;
    }
    page.push_str("<h2>Attaching</h2>\n<p class=\"said\">Wall time of a call, median.</p>\n");
    for (title, rows) in groups {
        let values = medians(rows.into_iter(), |it| it.subject.clone());
        let _ = writeln!(page, "<h3>{}</h3>\n{}", escaped(&title), bars("ms", &values));
    }
}

fn all_rows(report: &Report, page: &mut String) {
    page.push_str("<h2>All figures</h2>\n<details><summary>medians, spread, and where packets were dropped</summary>\n<table><tr><th>what</th><th>subject</th><th>of</th><th class=\"n\">median</th><th class=\"n\">least</th><th class=\"n\">most</th><th class=\"n\">samples</th><th>drops</th></tr>\n");
    for row in report.rows.iter().filter(|it| it.histogram.is_empty()) {
        let least = row.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = row.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shown = |value: Option<f64>| value.filter(|it| it.is_finite()).map_or("none".to_owned(), number);
        let drops: Vec<_> = row.drops.iter().map(|(place, count)| format!("{place} {count}")).collect();
        let _ = writeln!(
            page,
            "<tr><td>{} {}</td><td>{}</td><td>{}</td><td class=\"n\">{} {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            row.part,
            escaped(&row.what),
            escaped(&row.subject),
            escaped(&described(row)),
            shown(row.median()),
            row.unit,
            shown(Some(least)),
            shown(Some(most)),
            row.samples.len(),
            escaped(&drops.join(", "))
        );
    }
    page.push_str("</table></details>\n");
}
