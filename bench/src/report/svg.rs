//! Plots as SVG: lines over one or two logarithmic axes, and bars. Text is the reader's own sans-serif.

use std::fmt::Write as _;

/// Colours that people with any colour vision can tell apart (Okabe and Ito).
pub(super) const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 48.0;

/// A line through points.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Dashed and grey, with its name beside it and not in the legend: a limit.
    pub is_limit: bool,
}

/// A plot.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    pub x_label: String,
    pub y_label: String,
    pub x_is_log: bool,
    pub y_is_log: bool,
    pub series: Vec<Series>,
}

/// From values to places.
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, is_log: bool, from: f64, to: f64) -> Self {
        let kept = values.filter(|it| it.is_finite() && (!is_log || *it > 0.0));
        let (low, high) = kept.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), it| (a.min(it), b.max(it)));
        let (low, high) = match (low <= high, is_log) {
            (false, _) => (1.0, 10.0),
            (true, true) => (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil())),
            (true, false) => (0.0, if high > 0.0 { high * 1.08 } else { 1.0 }),
        };
        let high = if high > low { high } else { low * 10.0 };
        Self { low, high, is_log, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.is_log {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let (low, high) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
            return (low..=high).map(|it| 10_f64.powi(it)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|it| it * power).find(|it| *it >= rough);
        let step = step.unwrap_or(power * 10.0);
        (0..=12).map(|it| f64::from(it) * step).take_while(|it| *it <= self.high * 1.0001).collect()
    }
}

/// A number as people write it on an axis.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if magnitude >= 1e4 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 || it == 0.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 0.1 => 2,
        it => 2 + (-it.log10().ceil()) as usize,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text that means nothing to HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Plot {
    /// The plot with its legend below.
    pub fn svg(&self) -> String {
        let values = |axis: fn(&(f64, f64)) -> f64| self.series.iter().flat_map(|it| &it.points).map(axis);
        let x = Axis::new(values(|it| it.0), self.x_is_log, LEFT, WIDTH - RIGHT);
        // Limits far above do not press what was measured to the ground.
        let measured = self.series.iter().filter(|it| !it.is_limit).flat_map(|it| &it.points).map(|it| it.1);
        let y = Axis::new(measured, self.y_is_log, HEIGHT - BOTTOM, TOP);
        let shown = self.series.iter().filter(|it| !it.is_limit);
        let legend_rows = shown.count().div_ceil(2) as f64;
        let height = HEIGHT + legend_rows * 20.0;
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
        self.grid(&x, &y, &mut svg);
        let mut colours = COLOURS.iter().cycle();
        let mut entry = 0;
        for series in &self.series {
            let inside =
                series.points.iter().filter(|it| it.1.is_finite() && (it.1 <= y.high || !series.is_limit));
            let points: Vec<_> =
                inside.map(|it| format!("{:.1},{:.1}", x.place(it.0), y.place(it.1))).collect();
            if series.is_limit {
                let _ = writeln!(svg, "<polyline class=\"limit\" points=\"{}\"/>", points.join(" "));
                let last = points.last().and_then(|it| it.split_once(','));
                if let Some((at_x, at_y)) = last {
                    let at_y = at_y.parse::<f64>().unwrap_or_default() - 5.0;
                    let name = escaped(&series.name);
                    let _ = writeln!(
                        svg,
                        "<text class=\"limit\" x=\"{at_x}\" y=\"{at_y}\" text-anchor=\"end\">{name}</text>"
                    );
                }
                continue;
            }
            let colour = colours.next().unwrap_or(&COLOURS[0]);
            let _ = writeln!(svg, "<polyline points=\"{}\" style=\"stroke:{colour}\"/>", points.join(" "));
            if points.len() <= 24 {
                for point in &points {
                    let (cx, cy) = point.split_once(',').unwrap_or_default();
                    let _ =
                        writeln!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" style=\"fill:{colour}\"/>");
                }
            }
            let (at_x, at_y) =
                (LEFT + f64::from(entry % 2) * 330.0, HEIGHT + 6.0 + f64::from(entry / 2) * 20.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{at_x}\" y=\"{}\" width=\"14\" height=\"4\" style=\"fill:{colour}\"/>\
                 <text x=\"{}\" y=\"{at_y}\">{}</text>",
                at_y - 6.0,
                at_x + 20.0,
                escaped(&series.name)
            );
            entry += 1;
        }
        svg + "</svg>\n"
    }

    fn grid(&self, x: &Axis, y: &Axis, svg: &mut String) {
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                number(tick)
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
                number(tick)
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 14.0,
            escaped(&self.x_label),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escaped(&self.y_label)
        );
    }
}

/// A name's colour, the same in all bars.
fn colour(name: &str) -> &'static str {
    const KNOWN: [&str; 6] = ["netplane", "netplane, generic", "user-space", "kernel", "bare", "reference"];
    let known = KNOWN.iter().enumerate().filter(|it| name.starts_with(it.1)).max_by_key(|it| it.1.len());
    COLOURS[known.map_or(COLOURS.len() - 1, |it| it.0)]
}

/// Horizontal bars with their values, one below the other.
pub fn bars(unit: &str, values: &[(String, f64)]) -> String {
    const ROW: f64 = 26.0;
    const NAMES: f64 = 260.0;
    let height = values.len() as f64 * ROW + 6.0;
    let most = values.iter().map(|it| it.1).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for (index, (name, value)) in values.iter().enumerate() {
        let colour = colour(name);
        let top = index as f64 * ROW + 4.0;
        let width = value / most * (WIDTH - NAMES - 110.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" style=\"fill:{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{} {}</text>",
            NAMES - 8.0,
            top + 14.0,
            escaped(name),
            NAMES + width + 6.0,
            top + 14.0,
            number(*value),
            escaped(unit)
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.0, 0.05, 0.25, 12.5, 950.0, 12_000.0, 1e6].into_iter().map(number).collect();
        assert_eq!(shown, ["0", "0.05", "0.25", "12.5", "950", "12k", "1M"]);
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let axis = Axis::new([1.0, 1000.0].into_iter(), true, 0.0, 300.0);
        assert_eq!([1.0, 10.0, 1000.0].map(|it| axis.place(it).round()), [0.0, 100.0, 300.0]);
        let axis = Axis::new([50.0, 100.0].into_iter(), false, 0.0, 108.0);
        assert_eq!([0.0, 50.0, 100.0].map(|it| axis.place(it).round()), [0.0, 50.0, 100.0]);
        assert!(axis.ticks().len() >= 3);
    }

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        let svg = Plot::default().svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
