//! `netplane top`: asks the agent again and again, and draws what has changed.

mod rates;
mod view;

use super::TopArguments;
use super::status::get;
use crate::agent::top::Top;
use anyhow::{Context, Result, ensure};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rates::Rates;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};
use view::{Order, Screen};

pub(super) fn run(arguments: &TopArguments) -> Result<()> {
    ensure!(
        std::io::stdout().is_terminal(),
        "top draws on a terminal; `netplane status --json` is for programs"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = || runtime.block_on(ask(&arguments.socket));
    // Before the screen is taken: without an agent there is nothing to draw.
    let first = look()?;
    let mut terminal = ratatui::try_init().context("take the terminal")?;
    let result = draw(&mut terminal, first, look, Duration::from_secs_f64(arguments.interval));
    ratatui::restore();
    result
}

async fn ask(socket: &Path) -> Result<(Instant, Top)> {
    let body = get(socket, "/v1/top").await?;
    let top = serde_json::from_slice(&body).context("the agent's answer is of another version")?;
    Ok((Instant::now(), top))
}

fn draw(
    terminal: &mut ratatui::DefaultTerminal,
    first: (Instant, Top),
    look: impl Fn() -> Result<(Instant, Top)>,
    interval: Duration,
) -> Result<()> {
    let mut rates = Rates::new(first);
    let mut screen = Screen::default();
    loop {
        terminal.draw(|frame| view::draw(frame, &rates, &screen)).context("draw")?;
        let next = Instant::now() + interval;
        // Keys are answered at once, numbers come by the clock.
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if !event::poll(left).context("wait for a key")? {
                break;
            }
            match event::read().context("read a key")? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Char('p') => screen.order = Order::Packets,
                    KeyCode::Char('b') => screen.order = Order::Bits,
                    _ => {}
                },
                Event::Resize(..) => {}
                _ => continue,
            }
            terminal.draw(|frame| view::draw(frame, &rates, &screen)).context("draw")?;
        }
        match look() {
            Ok(top) => rates.take(top),
            // An agent that is being replaced is back in a moment; what is drawn stays, and says so.
            Err(error) => rates.fail(format!("{error:#}")),
        }
    }
}
