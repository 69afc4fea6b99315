//! What the session API costs: a bulk load, single changes while all are loaded, the agent's memory and idle time,
//! and how long a new agent takes to have them back; with one pod or many, and other networks beside.

mod buffered;
mod check;

pub use buffered::Buffered;

use crate::lab::cni::Sandbox;
use crate::lab::{Lab, Namespace, Process, wait_for};
use anyhow::{Context, Result, ensure};
use netplane_client::{Client, Plain};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

const DEFAULT: &str = include_str!("../../examples/nads/default-network.yaml");
const N3: &str = include_str!("../../examples/nads/n3.yaml");
const N6: &str = include_str!("../../examples/nads/n6.yaml");
/// Where the users' addresses are from: four million.
const POOL: &str = "10.64.0.0/10";
const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 1]);
const FIRST_TEID: u32 = 0x1000;
/// Above those that single changes give.
const FIRST_PEER_TEID: u32 = 1 << 28;
const PEER: &str = "10.30.0.10";
const LIMIT: Duration = Duration::from_secs(120);

/// What is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub sessions: u32,
    /// Which share the sessions.
    pub pods: u32,
    /// Networks beside the two of the pods.
    pub nads: u32,
    /// Single changes once all are loaded.
    pub changes: u32,
    /// Send packets for some, once all are loaded and again after a restart.
    pub check: bool,
    /// Packets that are kept for an idle user and released, once all are loaded again; 0: that is not measured.
    pub buffered: u32,
}

/// What was measured.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub sessions: u32,
    pub pods: u32,
    pub nads: u32,
    pub load_seconds: f64,
    /// Until packets find all of them by an index, after the last change.
    pub settle_seconds: f64,
    /// Microseconds from the call to the answer of one change, when the kernel has it: median, 99th of 100, worst.
    pub change_us: [f64; 3],
    /// Resident memory of the agent before and after the load and after a restart, in MiB.
    pub agent_mib: [f64; 3],
    /// Part of a CPU that the new agent takes while nothing happens.
    pub idle_cpu: f64,
    /// Of the kernel, for the tables of sessions.
    pub tables_mib: f64,
    /// From the start of a new agent until it answers with all sessions.
    pub restart_seconds: f64,
    /// Sessions for which packets were sent; all of them arrived and were counted.
    pub forwarded: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffered: Option<Buffered>,
}

impl Figures {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let [median, p99, worst] = self.change_us;
        let [empty, full, again] = self.agent_mib;
        let Self { sessions, pods, nads, load_seconds, .. } = self;
        let _ = writeln!(
            text,
            "{sessions} sessions of {pods} pods loaded in {load_seconds:.2} s; {nads} more NADs"
        );
        let _ = writeln!(text, "found by an index {:.2} s after the last change", self.settle_seconds);
        let _ =
            writeln!(text, "one change then: median {median:.0} µs, p99 {p99:.0} µs, worst {worst:.0} µs");
        let _ = writeln!(text, "agent: {empty:.1} MiB empty, {full:.1} MiB loaded, {again:.1} MiB restarted");
        let _ = writeln!(text, "idle: {:.2} % of a CPU", self.idle_cpu * 100.0);
        let _ = writeln!(text, "tables in the kernel: {:.1} MiB", self.tables_mib);
        let _ = writeln!(text, "a new agent has all after {:.2} s", self.restart_seconds);
        if self.forwarded != 0 {
            let _ = writeln!(text, "{} sessions all over the table forward and count", self.forwarded);
        }
        if let Some(Buffered { packets, kept_us, released_us }) = self.buffered {
            let _ = writeln!(
                text,
                "{packets} packets of an idle user: {kept_us:.1} µs of the agent's CPU to keep one, {released_us:.1} to \
                 release it"
            );
        }
        text
    }
}

/// Measures in a lab of its own.
///
/// # Errors
/// Not root, or something is refused.
pub fn run(netplane: &Path, scale: Scale) -> Result<Figures> {
    let Scale { sessions, pods, nads, check, buffered, .. } = scale;
    let lab = Lab::new(netplane)?;
    write_nads(&lab, nads)?;
    let namespaces = attach(&lab, pods)?;
    let agent = start(&lab, sessions, buffered)?;
    let empty = resident(&agent)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = lab.session_folder().join("sessions.sock");
    // The last pod has the rest.
    let share = sessions / pods;
    let of_pod = |pod: u32| pod * share..if pod + 1 == pods { sessions } else { (pod + 1) * share };
    let load = runtime.block_on(async {
        let mut client = Client::connect(&socket).await?;
        let begun = Instant::now();
        for pod in 0..pods {
            let wanted = of_pod(pod).map(|it| session(it, FIRST_PEER_TEID + it));
            let refused = client.put(&name(pod), 1, wanted).await?;
            ensure!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused.first());
        }
        Ok::<_, anyhow::Error>(begun.elapsed())
    })?;
    let samples = if check { check::samples(of_pod(0).end) } else { Vec::new() };
    let forwards = |changed: &HashMap<u32, u32>, counted: u32| {
        let teids = |number: &u32| {
            let peer_teid = changed.get(number).copied().unwrap_or(FIRST_PEER_TEID + number);
            (*number, FIRST_TEID + number, peer_teid)
        };
        let sessions: Vec<_> = samples.iter().map(teids).collect();
        let mut client = runtime.block_on(Client::connect(&socket))?;
        if check { check::forwards(&lab, &runtime, &mut client, &sessions, counted) } else { Ok(()) }
    };
    forwards(&HashMap::new(), check::PACKETS)?;
    let (mut latencies, changed) = runtime.block_on(single_changes(&socket, scale))?;
    let settle = settled(&lab)?;
    let full = resident(&agent)?;
    agent.kill()?;
    let begun = Instant::now();
    let agent = start(&lab, sessions, buffered)?;
    let again = runtime.block_on(async {
        let mut client = Client::connect(&socket).await?;
        let mut again = 0;
        for pod in 0..pods {
            again += client.describe(&name(pod)).await?.sessions;
        }
        Ok::<_, anyhow::Error>(again)
    })?;
    let restart = begun.elapsed();
    ensure!(again == sessions, "{again} sessions after a restart");
    settled(&lab)?;
    let restarted = resident(&agent)?;
    // What was changed in its new tunnel, and all counters go on.
    forwards(&changed, 2 * check::PACKETS)?;
    let idle_cpu = idle(&agent)?;
    let buffered = match buffered {
        0 => None,
        packets => {
            let mut client = runtime.block_on(Client::connect(&socket))?;
            Some(buffered::measure(&lab, &agent, (&runtime, &mut client), packets)?)
        }
    };
    let status = lab.status()?;
    let bytes = status["programmed"]["tableBytes"].as_f64().unwrap_or_default();
    latencies.sort_by(f64::total_cmp);
    let nth = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let figures = Figures {
        sessions,
        pods,
        nads,
        load_seconds: load.as_secs_f64(),
        settle_seconds: settle.as_secs_f64(),
        change_us: [nth(0.5), nth(0.99), nth(1.0)],
        agent_mib: [empty, full, restarted],
        idle_cpu,
        tables_mib: bytes / f64::from(1 << 20),
        restart_seconds: restart.as_secs_f64(),
        forwarded: samples.len(),
        buffered,
    };
    drop(namespaces);
    lab.remove()?;
    Ok(figures)
}

/// Waits until no more entries come to be found by an index. Returns how long that took.
fn settled(lab: &Lab) -> Result<Duration> {
    let indexed = || Ok::<_, anyhow::Error>(lab.status()?["programmed"]["indexed"].as_u64());
    let begun = Instant::now();
    let (mut before, mut since) = (indexed()?, begun.elapsed());
    while begun.elapsed() < since + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
        let now = indexed()?;
        if now != before {
            (before, since) = (now, begun.elapsed());
        }
    }
    Ok(since)
}

/// Microseconds of each change, and the peer's TEIDs of what was changed.
async fn single_changes(socket: &Path, scale: Scale) -> Result<(Vec<f64>, HashMap<u32, u32>)> {
    let Scale { sessions, pods, changes, .. } = scale;
    let mut client = Client::connect(socket).await?;
    let (mut latencies, mut changed) = (Vec::new(), HashMap::new());
    for change in 0..changes {
        // All over the table.
        let number = change.wrapping_mul(7919) % sessions;
        let pod = (number / (sessions / pods).max(1)).min(pods - 1);
        // Below those of the load.
        let peer_teid = 1 + change;
        let begun = Instant::now();
        let refused = client.put(&name(pod), 1, [session(number, peer_teid)]).await?;
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
        ensure!(refused.is_empty(), "{refused:?}");
        changed.insert(number, peer_teid);
    }
    Ok((latencies, changed))
}

/// Of a pod, with its namespace.
fn name(pod: u32) -> String {
    format!("core/{}", short_name(pod))
}

fn short_name(pod: u32) -> String {
    format!("upf-{pod}")
}

/// The examples' networks, with room for many pods and without static sessions, and others that no pod has.
fn write_nads(lab: &Lab, others: u32) -> Result<()> {
    let (head, rest) = N3.split_once(",\n        \"sessions\"").context("n3.yaml has sessions")?;
    let (_, tail) = rest.split_once("] }").context("the end of its sessions")?;
    let n3 = format!("{head} }}{tail}").replace("10.30.0.0/24", "10.30.0.0/16");
    let n6 = N6.replace("10.60.0.0/16", POOL).replace("10.40.0.0/24", "10.40.0.0/16");
    for number in 0..others {
        let name = format!("other-{number}");
        let text = n6.replace("name: n6", &format!("name: {name}"));
        lab.write_nad(&format!("{name}.yaml"), text.as_bytes())?;
    }
    lab.write_nad("n3.yaml", n3.as_bytes())?;
    lab.write_nad("n6.yaml", n6.as_bytes())?;
    lab.write_nad("default-network.yaml", DEFAULT.as_bytes())
}

/// The pods on both networks. The first is in the lab's own namespace; those of the others are returned.
fn attach(lab: &Lab, pods: u32) -> Result<Vec<Namespace>> {
    let namespace = |pod: u32| lab.namespace(&format!("pod{pod}"));
    let others = (1..pods).map(namespace).collect::<Result<Vec<_>>>()?;
    for (pod, namespace) in (0..).zip([&lab.pod].into_iter().chain(&others)) {
        let container_id = format!("{}-sandbox", namespace.name());
        let sandbox = Sandbox { container_id, namespace, networks: "n3, n6" };
        sandbox.add_as(lab, &short_name(pod)).with_context(|| name(pod))?;
    }
    Ok(others)
}

fn start(lab: &Lab, sessions: u32, buffered: u32) -> Result<Process> {
    // Room for a few static ones beside.
    let (room, kept) = ((sessions + 64).to_string(), buffered.max(1).to_string());
    let mut arguments = vec!["--max-sessions", &room];
    if buffered > 0 {
        arguments.extend(["--max-buffered-packets", &kept, "--max-buffered-mib", "1024"]);
    }
    let agent = lab.start_agent_with(&arguments)?;
    wait_for("the agent", LIMIT, || {
        ensure!(agent.status()?.is_none(), "the agent has ended\n{}", agent.log_tail());
        Ok(lab.status().ok().filter(|it| it["ready"] == true))
    })?;
    Ok(agent)
}

fn ue(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST + number)
}

fn session(number: u32, peer_teid: u32) -> netplane_client::v1::Session {
    let plain = Plain {
        ue: vec![ue(number).to_string()],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: FIRST_TEID + number,
        local: String::new(),
        peer: PEER.to_owned(),
        peer_teid,
        qfi: Some(9),
    };
    plain.session(format!("{number:x}"))
}

/// Part of a CPU that the agent takes in ten seconds in which nothing happens.
fn idle(agent: &Process) -> Result<f64> {
    const WATCHED: Duration = Duration::from_secs(10);
    let ticks = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id()))?;
        // Behind the name in parentheses; user and system time are the 14th and the 15th (proc(5)).
        let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
        let times = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
        Ok(times.sum::<Result<u64, _>>()?)
    };
    let before = ticks()?;
    std::thread::sleep(WATCHED);
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((ticks()? - before) as f64 / a_second as f64 / WATCHED.as_secs_f64())
}

/// Resident memory in MiB.
fn resident(process: &Process) -> Result<f64> {
    let path = format!("/proc/{}/status", process.id());
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")?;
    Ok(kib / 1024.0)
}
