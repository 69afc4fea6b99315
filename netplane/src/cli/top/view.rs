//! The screen of `netplane top`.

use super::rates::{Rate, Rates};
use crate::agent::top::BusySession;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

/// By what sessions are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Packets,
    Bits,
}

/// What the keys have changed.
#[derive(Debug, Default)]
pub(super) struct Screen {
    pub(super) order: Order,
}

pub(super) fn draw(frame: &mut Frame<'_>, rates: &Rates, screen: &Screen) {
    let drops = rates.reasons.len().max(1);
    let height = |rows: usize| Constraint::Length(u16::try_from(rows + 3).unwrap_or(u16::MAX));
    let [head, endpoints, reasons, sessions, foot] = Layout::vertical([
        Constraint::Length(2),
        height(rates.top.endpoints.len().clamp(1, 6)),
        height(drops.min(8)),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(summary(rates)), head);
    draw_endpoints(frame, endpoints, rates);
    draw_reasons(frame, reasons, rates);
    draw_sessions(frame, sessions, rates, screen);
    frame.render_widget(Paragraph::new("q quit  p by packets  b by bits".dim()), foot);
}

fn summary(rates: &Rates) -> Vec<Line<'static>> {
    let status = &rates.top.status;
    let state = if status.ready { "ready".green() } else { "not ready".red() };
    let masters = status.masters.iter().map(|it| format!(" {} {:?}", it.name, it.attached).to_lowercase());
    let problems = format!("  problems {}", status.problems.len());
    let problems = if status.problems.is_empty() { problems.into() } else { problems.red() };
    let first = Line::from(vec![
        Span::from(format!("netplane {}  ", status.version)),
        state,
        Span::from(format!("  sessions {}", rates.top.sessions)),
        problems,
        Span::from(format!("  masters{}", masters.collect::<String>())),
    ]);
    let second = match (&rates.failed, status.problems.first()) {
        (Some(why), _) => Line::from(why.clone().red()),
        (None, Some(problem)) => Line::from(format!("{}: {}", problem.object, problem.message).red()),
        (None, None) => Line::default(),
    };
    vec![first, second]
}

fn table<'a>(title: &'a str, heads: &'a [&'a str], rows: Vec<Row<'a>>, widths: &[u16]) -> Table<'a> {
    let widths = widths.iter().map(|it| Constraint::Length(*it));
    let heads =
        Row::new(heads.iter().map(|it| Cell::from(*it))).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(heads).block(Block::bordered().title(title))
}

fn draw_endpoints(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let mut sorted: Vec<_> = rates
        .top
        .endpoints
        .iter()
        .map(|it| {
            let key = (it.network.clone(), it.pod.clone());
            (it, rates.endpoints.get(&key).copied().unwrap_or_default())
        })
        .collect();
    let packets = |it: &[Rate; 2]| it[0].packets + it[1].packets;
    sorted.sort_by(|a, b| packets(&b.1).total_cmp(&packets(&a.1)));
    let row = |(it, [up, down]): &(&crate::agent::top::EndpointTraffic, [Rate; 2])| {
        Row::new(vec![it.network.clone(), plain(&it.pod), pps(*up), bps(*up), pps(*down), bps(*down)])
    };
    let heads = ["network", "pod", "up pps", "up bit/s", "down pps", "down bit/s"];
    let rows = sorted.iter().map(row).collect();
    frame.render_widget(table(" endpoints ", &heads, rows, &[20, 28, 9, 10, 9, 10]), area);
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let mut sorted: Vec<_> = rates.reasons.iter().collect();
    sorted.sort_by(|a, b| b.1.packets.total_cmp(&a.1.packets).then_with(|| a.0.cmp(b.0)));
    let row = |((network, reason), rate): &(&(String, String), &Rate)| {
        Row::new(vec![network.clone(), reason.clone(), pps(**rate), bps(**rate)])
    };
    let rows = sorted.iter().map(row).collect();
    let heads = ["network", "not forwarded", "pps", "bit/s"];
    frame.render_widget(table(" not forwarded ", &heads, rows, &[20, 28, 9, 10]), area);
}

fn draw_sessions(frame: &mut Frame<'_>, area: Rect, rates: &Rates, screen: &Screen) {
    let mut sorted: Vec<_> =
        rates.top.busiest.iter().map(|it| (it, rates.of_session(it.uplink, it.downlink))).collect();
    let weight = |[up, down]: &[Rate; 2]| match screen.order {
        Order::Packets => up.packets + down.packets,
        Order::Bits => up.bits + down.bits,
    };
    sorted.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
    let row = |(it, [up, down]): &(&BusySession, [Rate; 2])| {
        Row::new(vec![
            it.name.clone(),
            it.teid.clone().unwrap_or_else(|| "-".to_owned()),
            it.ue.join(" "),
            // Without its TEID.
            it.peer.as_deref().and_then(|it| it.split(' ').next()).unwrap_or("-").to_owned(),
            plain(&it.pod),
            pps(*up),
            bps(*up),
            pps(*down),
            bps(*down),
        ])
    };
    let rows = sorted.iter().map(row).collect();
    let heads = ["session", "TEID", "UE", "peer", "pod", "up pps", "up bit/s", "down pps", "down bit/s"];
    let title = format!(" busiest sessions, of the last {:.0} s ", rates.top.seconds);
    frame.render_widget(table(&title, &heads, rows, &[16, 10, 16, 15, 20, 9, 10, 9, 10]), area);
}

/// A pod without the word in front.
fn plain(pod: &str) -> String {
    pod.strip_prefix("pod ").unwrap_or(pod).to_owned()
}

fn pps(rate: Rate) -> String {
    short(rate.packets)
}

fn bps(rate: Rate) -> String {
    short(rate.bits)
}

/// Three digits and a decimal prefix.
fn short(value: f64) -> String {
    let (scale, prefix) = match value {
        it if it < 1e3 => return format!("{it:.0}"),
        it if it < 1e6 => (1e3, "k"),
        it if it < 1e9 => (1e6, "M"),
        _ => (1e9, "G"),
    };
    let value = value / scale;
    if value < 10.0 { format!("{value:.2}{prefix}") } else { format!("{value:.1}{prefix}") }
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::top;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    fn drawn(rates: &Rates, screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        terminal.draw(|frame| draw(frame, rates, screen)).expect("drawn");
        terminal.backend().to_string()
    }

    /// The lines with these words, in order.
    fn with<'a>(text: &'a str, words: &[&str]) -> Vec<&'a str> {
        text.lines().filter(|line| words.iter().any(|it| line.contains(it))).collect()
    }

    #[test]
    fn networks_endpoints_drops_and_sessions_are_on_the_screen() {
        let start = Instant::now();
        let mut rates = Rates::new((start, top(1, 0, 0)));
        rates.take((start + Duration::from_secs(2), top(2, 4, 5_000_000)));
        let text = drawn(&rates, &Screen::default(), 140, 24);
        assert!(text.contains("ready  sessions 3  problems 0"), "{text}");
        let endpoint = with(&text, &["core/upf-0"])[0];
        for number in ["2.50M", "2.50G", "5.00M", "5.00G"] {
            assert!(endpoint.contains(number), "{endpoint}");
        }
        assert!(with(&text, &["ue-spoofed"])[0].contains("2 "), "{text}");
        // By packets the second one is busier.
        let sessions = with(&text, &["ue-1", "ue-2"]);
        assert!(sessions[0].contains("ue-2") && sessions[0].contains("15.0k"), "{text}");
        assert!(sessions[1].contains("ue-1") && sessions[1].contains("1.00k"), "{text}");

        rates.fail("no agent answers".to_owned());
        let text = drawn(&rates, &Screen::default(), 140, 24);
        assert!(text.contains("no agent answers") && text.contains("ue-1"), "{text}");
        // A small window is no reason to panic.
        drawn(&rates, &Screen { order: Order::Bits }, 20, 5);
        drawn(&rates, &Screen::default(), 1, 1);
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, shown) in
            [(0.0, "0"), (999.4, "999"), (1500.0, "1.50k"), (12_345_678.0, "12.3M"), (2e9, "2.00G")]
        {
            assert_eq!(short(value), shown);
        }
    }
}
