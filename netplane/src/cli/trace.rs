//! `netplane trace`: which entry, which next hop, which verdict a packet would get.

use super::TraceArguments;
use super::status::get;
use crate::agent::trace::Traced;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;

#[expect(clippy::print_stdout, reason = "the trace is what this command is for")]
pub(super) fn run(arguments: &TraceArguments) -> Result<()> {
    ensure!(arguments.teid.is_some() || arguments.ue.is_some(), "give --teid, --ue or both");
    let mut path = "/v1/trace?".to_owned();
    if let Some(teid) = arguments.teid {
        write!(path, "teid={teid}&")?;
    }
    if let Some(ue) = arguments.ue {
        write!(path, "ue={ue}&")?;
    }
    if let Some(to) = arguments.to {
        write!(path, "to={to}")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(get(&arguments.socket, &path))?;
    let traced: Vec<Traced> =
        serde_json::from_slice(&body).context("the agent's answer is of another version")?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&traced)?);
    } else {
        print!("{}", shown(&traced)?);
    }
    Ok(())
}

fn shown(traced: &[Traced]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for it in traced {
        writeln!(text, "{}", it.packet)?;
        let session = it.session.as_deref().map_or_else(String::new, |it| format!(", session {it}"));
        writeln!(text, "  network   {}{session}", it.network)?;
        writeln!(text, "  entry     {}", it.entry)?;
        if let Some(next_hop) = &it.next_hop {
            writeln!(text, "  next hop  {next_hop}")?;
        }
        writeln!(text, "  verdict   {}: {}", it.verdict, it.outcome)?;
    }
    Ok(text)
}

/// A TEID in decimal or with `0x`.
pub(super) fn teid(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "should be 0 to 4294967295, or such as 0x1001".to_owned())
}
