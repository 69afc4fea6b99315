//! What the session API costs: a bulk load, single changes while all are loaded, the agent's memory, and how long
//! a new agent takes to have them back.

use crate::lab::cni::Sandbox;
use crate::lab::{Lab, Process, wait_for};
use anyhow::{Context, Result, ensure};
use netplane_client::{Client, Plain};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

const DEFAULT: &str = include_str!("../../examples/nads/default-network.yaml");
const N3: &str = include_str!("../../examples/nads/n3.yaml");
const N6: &str = include_str!("../../examples/nads/n6.yaml");
const POD: &str = "core/upf-0";
/// Where the users' addresses are from: four million.
const POOL: &str = "10.64.0.0/10";
const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 1]);
const PEER: &str = "10.30.0.10";
const LIMIT: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub sessions: u32,
    pub load_seconds: f64,
    /// Microseconds from the call to the answer of one change, when the kernel has it: median, 99th of 100, worst.
    pub change_us: [f64; 3],
    /// Resident memory of the agent before and after the load and after a restart, in MiB.
    pub agent_mib: [f64; 3],
    /// Of the kernel, for the tables of sessions.
    pub tables_mib: f64,
    /// From the start of a new agent until it answers with all sessions.
    pub restart_seconds: f64,
}

impl Figures {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let [median, p99, worst] = self.change_us;
        let [empty, full, again] = self.agent_mib;
        let _ = writeln!(text, "{} sessions loaded in {:.2} s", self.sessions, self.load_seconds);
        let _ =
            writeln!(text, "one change then: median {median:.0} µs, p99 {p99:.0} µs, worst {worst:.0} µs");
        let _ = writeln!(text, "agent: {empty:.1} MiB empty, {full:.1} MiB loaded, {again:.1} MiB restarted");
        let _ = writeln!(text, "tables in the kernel: {:.1} MiB", self.tables_mib);
        let _ = writeln!(text, "a new agent has all after {:.2} s", self.restart_seconds);
        text
    }
}

/// Measures in a lab of its own.
///
/// # Errors
/// Not root, or something is refused.
pub fn run(netplane: &Path, sessions: u32, changes: u32) -> Result<Figures> {
    let lab = Lab::new(netplane)?;
    let (head, rest) = N3.split_once(",\n        \"sessions\"").context("n3.yaml has sessions")?;
    let (_, tail) = rest.split_once("] }").context("the end of its sessions")?;
    lab.write_nad("n3.yaml", format!("{head} }}{tail}").as_bytes())?;
    lab.write_nad("n6.yaml", N6.replace("10.60.0.0/16", POOL).as_bytes())?;
    lab.write_nad("default-network.yaml", DEFAULT.as_bytes())?;
    let container_id = format!("{}-sandbox", lab.pod.name());
    Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab)?;
    let agent = start(&lab, sessions)?;
    let empty = resident(&agent)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = lab.session_folder().join("sessions.sock");
    let (load, mut latencies) = runtime.block_on(async {
        let mut client = Client::connect(&socket).await?;
        let begun = Instant::now();
        let refused = client.put(POD, 1, (0..sessions).map(|it| session(it, 1))).await?;
        let load = begun.elapsed();
        ensure!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused.first());
        let mut latencies = Vec::new();
        for change in 0..changes {
            // All over the table.
            let number = change.wrapping_mul(7919) % sessions;
            let begun = Instant::now();
            let refused = client.put(POD, 1, [session(number, 2 + change)]).await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1e6);
            ensure!(refused.is_empty(), "{refused:?}");
        }
        Ok((load, latencies))
    })?;
    let full = resident(&agent)?;
    agent.kill()?;
    let begun = Instant::now();
    let agent = start(&lab, sessions)?;
    let again = runtime.block_on(async { Client::connect(&socket).await?.describe(POD).await })?;
    let restart = begun.elapsed();
    ensure!(again.sessions == sessions, "{} sessions after a restart", again.sessions);
    let restarted = resident(&agent)?;
    let status = lab.status()?;
    let bytes = status["programmed"]["tableBytes"].as_f64().unwrap_or_default();
    latencies.sort_by(f64::total_cmp);
    let nth = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let figures = Figures {
        sessions,
        load_seconds: load.as_secs_f64(),
        change_us: [nth(0.5), nth(0.99), nth(1.0)],
        agent_mib: [empty, full, restarted],
        tables_mib: bytes / f64::from(1 << 20),
        restart_seconds: restart.as_secs_f64(),
    };
    lab.remove()?;
    Ok(figures)
}

fn start(lab: &Lab, sessions: u32) -> Result<Process> {
    // Room for a few static ones beside.
    let room = (sessions + 64).to_string();
    let agent = lab.start_agent_with(&["--max-sessions", &room])?;
    wait_for("the agent", LIMIT, || {
        ensure!(agent.status()?.is_none(), "the agent has ended\n{}", agent.log_tail());
        Ok(lab.status().ok().filter(|it| it["ready"] == true))
    })?;
    Ok(agent)
}

fn session(number: u32, peer_teid: u32) -> netplane_client::v1::Session {
    let plain = Plain {
        ue: vec![Ipv4Addr::from_bits(FIRST + number).to_string()],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: 0x1000 + number,
        local: String::new(),
        peer: PEER.to_owned(),
        peer_teid,
        qfi: Some(9),
    };
    plain.session(format!("{number:x}"))
}

/// Resident memory in MiB.
fn resident(process: &Process) -> Result<f64> {
    let path = format!("/proc/{}/status", process.id());
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")?;
    Ok(kib / 1024.0)
}
