//! `netplane status`: asks the agent, and prints what it says.

use super::StatusArguments;
use crate::agent::status::{PathsStatus, SessionState, Status};
use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::fmt::Write;
use std::path::Path;
use tokio::net::UnixStream;

/// Sessions that are printed for a person; all are in `--json`.
const SHOWN: usize = 20;

#[expect(clippy::print_stdout, reason = "the status is what this command is for")]
pub(super) fn run(arguments: &StatusArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(get(&arguments.socket, "/v1/status"))?;
    if let Some(network) = &arguments.network {
        let mut status: Status =
            serde_json::from_slice(&body).context("the agent's answer is of another version")?;
        super::of_network::only(&mut status, network)?;
        let json = arguments.json.then(|| serde_json::to_string_pretty(&status)).transpose()?;
        print!("{}", json.map_or_else(|| shown(&status), |it| Ok(it + "\n"))?);
    } else if arguments.json {
        let value: serde_json::Value =
            serde_json::from_slice(&body).context("the agent's answer is not JSON")?;
        println!("{value:#}");
    } else {
        let status: Status =
            serde_json::from_slice(&body).context("the agent's answer is of another version")?;
        print!("{}", shown(&status)?);
    }
    Ok(())
}

pub(super) async fn get(socket: &Path, path: &str) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream
        .with_context(|| format!("no agent answers on {}: is `netplane agent` running?", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(path).header("host", "netplane").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let why = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "the agent answered {status}: {why}");
        Ok(body)
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => {
            ended?;
            anyhow::bail!("the agent closed the connection")
        }
    }
}

fn shown(status: &Status) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let out = &mut text;
    if !status.ready {
        writeln!(out, "not ready: still learning what is on this node")?;
    }
    writeln!(out, "masters")?;
    for it in &status.masters {
        let beside = if it.local { ", TC for what pods send each other" } else { "" };
        let why = it.why.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
        writeln!(out, "  {:<16} {}{beside}{why}", it.name, it.attached)?;
        if let Some(device) = &it.device {
            writeln!(out, "    {device}")?;
        }
        for it in &it.lost {
            writeln!(out, "    lost: {} packets from {}, {}", it.packets, it.from, it.reason)?;
        }
    }
    writeln!(out, "networks")?;
    for it in &status.networks {
        let role = format!("{:?}", it.role).to_lowercase();
        writeln!(out, "  {:<24} {role:<7} on {}", it.name, it.masters.join(", "))?;
        for (reason, count) in &it.counters {
            writeln!(out, "    {reason:<24} {:>12} packets {:>14} bytes", count.packets, count.bytes)?;
        }
    }
    writeln!(out, "endpoints")?;
    for it in &status.endpoints {
        let addresses = it.addresses.join(" ");
        writeln!(out, "  {} {} {} {addresses} {}", it.network, it.pod, it.interface, it.mac)?;
        if let Some(paths) = &it.paths {
            let PathsStatus { up, unknown, down } = paths;
            writeln!(out, "    paths: {up} up, {unknown} unknown, {} down", down.len())?;
            for peer in down.iter().take(SHOWN) {
                writeln!(out, "      {peer} does not answer")?;
            }
        }
    }
    let (programmed, bytes) = (&status.programmed, status.programmed.table_bytes >> 20);
    writeln!(
        out,
        "sessions: {} of NADs, {} programmed; {} entries indexed; {} fit in {bytes} MiB",
        status.sessions.len(),
        programmed.sessions,
        programmed.indexed,
        programmed.capacity
    )?;
    for it in status.sessions.iter().take(SHOWN) {
        let state = if it.state == SessionState::Forwarding { "" } else { "  NEXT HOP UNRESOLVED" };
        let teid = it.teid.as_deref().unwrap_or("-");
        let (up, down) = (it.uplink.packets, it.downlink.packets);
        writeln!(
            out,
            "  {:<16} TEID {teid:<12} {:<18} up {up} down {down} packets{state}",
            it.name,
            it.ue.join(" ")
        )?;
    }
    if status.sessions.len() > SHOWN {
        writeln!(out, "  … and {} more (--json shows all)", status.sessions.len() - SHOWN)?;
    }
    writeln!(out, "problems: {}", status.problems.len())?;
    for it in &status.problems {
        writeln!(out, "  {}: {}", it.object, it.message)?;
    }
    for it in &status.notes {
        writeln!(out, "note: {}: {}", it.object, it.message)?;
    }
    Ok(text)
}
