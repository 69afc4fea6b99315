//! The demo: the main job end to end in a lab, with every claim checked. `cargo xtask demo` runs it.

mod report;
mod stage;

pub use report::Report;

use crate::lab::nads;
use crate::lab::signals;
use crate::lab::traffic::EchoServer;
use crate::lab::users::{self, UE_POOL};
use crate::lab::{Lab, SERVER};
use anyhow::{Context, Result, ensure};
use report::{FastPathReport, UserSpaceReport};
use stage::{Stage, figures};
use std::path::Path;

/// What the demo is asked for.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Static sessions; the three of the examples if fewer are asked for.
    pub sessions: u32,
    /// Leave the lab standing until a signal ends the program (see [`clean_up_on_signals`]): this gets the
    /// results first, as [`run`] does not return then.
    pub keep: Option<&'a dyn Fn(&Report)>,
}

/// Runs the demo. `say` gets a line for each step.
///
/// # Errors
/// The first thing that is not as it should be. The lab is removed all the same.
pub fn run(netplane: &Path, options: Options<'_>, say: &dyn Fn(&str)) -> Result<Report> {
    let lab = Lab::new(netplane)?;
    let played = play(&lab, options, say);
    let removed = lab.remove();
    let report = played?;
    removed?;
    Ok(report)
}

/// From now on Ctrl-C removes the lab before the process ends.
///
/// # Errors
/// No file descriptors left.
pub fn clean_up_on_signals() -> Result<()> {
    signals::listen()?.clean_up_and_exit(|| {});
    Ok(())
}

fn play(lab: &Lab, options: Options<'_>, say: &dyn Fn(&str)) -> Result<Report> {
    say("lab: a gNB host, a node with the masters n3 and n6, a data-network host, each a network namespace");
    nads::apply(lab, options.sessions)?;
    say("applied examples/nads: default-network, n3 (access), n6 (data)");
    let mut stage = Stage::attach(lab, options.sessions)?;
    say(&format!(
        "CNI ADD of pod core/upf-0 (networks: n3, n6): eth0, net1 {} {}, net2 {} {}; CHECK agrees",
        stage.pod().n3,
        stage.pod().n3_mac,
        stage.pod().n6,
        stage.pod().n6_mac
    ));
    stage.start_upf()?;
    say("in the pod runs a plain user-space UPF, unmodified");
    let agent = stage.start_agent()?;
    let sessions = stage.users.len();
    say(&format!(
        "netplane agent: native XDP on n3 and n6 as the kernel reports it, {sessions} sessions forwarding"
    ));
    lab.dn.ip(&format!("route add {UE_POOL} via {}", stage.pod().n6))?;
    stage.start_gnb()?;
    let echo = EchoServer::start(stage.server())?;

    say("\nwith the fast path");
    let fast_path = with_fast_path(&stage, say)?;
    say("\nkill -9 of the agent under traffic, and a new one");
    let (agent, restart) = stage.restart(agent)?;
    say(&format!(
        "  {} datagrams sent there and back, {} lost, longest gap {:.0} ms",
        restart.sent,
        restart.n_lost(),
        restart.longest_gap_ms
    ));
    ensure!(restart.n_lost() == 0, "the restart lost datagrams: {:?}", restart.lost);

    say("\nwithout it (netplane agent --detach): the same pod, the same UPF");
    agent.terminate()?;
    lab.detach_agent()?;
    let user_space = without_fast_path(&stage, say)?;
    drop(echo);

    say(&report::side_by_side(&fast_path.figures, &user_space.figures));
    let report = Report { sessions: u32::try_from(sessions)?, fast_path, restart, user_space };
    if let Some(show) = options.keep {
        let _agent = stage.start_agent()?;
        show(&report);
        say(&format!("the lab stands, with the fast path on, until Ctrl-C\n{}", lab.look_around()));
        loop {
            std::thread::park();
        }
    }
    stage.stop_endpoints();
    let left = stage.upf_pod.detach()?;
    ensure!(left.is_empty(), "left after CNI DEL: {}", left.join(", "));
    say("CNI DEL: no interface, no address, no record, no pin is left; removing the lab");
    Ok(report)
}

fn with_fast_path(stage: &Stage<'_>, say: &dyn Fn(&str)) -> Result<FastPathReport> {
    let wires = stage.watch_wires("fast-path")?;
    for line in wires.lines {
        say(&format!("  {line}"));
    }
    let judgement = wires.judgement;
    ensure!(judgement.problems.is_empty(), "tshark disagrees:\n{}", judgement.problems.join("\n"));
    ensure!(judgement.uplink > 0 && judgement.downlink > 0, "nothing was seen on the wires");
    say(&format!(
        "  tshark: {} packets up and {} down as they must be, byte for byte; users' addresses on both wires: no NAT",
        judgement.uplink, judgement.downlink
    ));
    let pod_before = stage.upf_pod.packets()?;
    let sessions_before = stage.upf_pod.session_packets()?;
    let figures = figures(stage)?;
    let pod = stage.upf_pod.packets()? - pod_before;
    let sessions = stage.upf_pod.session_packets()? - sessions_before;
    let upf = stage.upf_packets()?;
    say(&format!("  packets: {sessions} by the fast path, {pod} into the pod, {upf} by the UPF's process"));
    // What does reach the pod is ARP and the like.
    ensure!(sessions > 1000 && pod * 100 < sessions, "packets went through the pod: {pod} of {sessions}");
    ensure!(upf == 0, "the UPF's process forwarded {upf} packets");
    let clean = stage.upf_pod.counters()?;
    ensure!(clean.is_empty(), "honest traffic was dropped: {clean:?}");
    let counters = stage.misbehave()?;
    say("  honest traffic: no drops; then some that is not, counted by reason:");
    for (reason, count) in &counters {
        say(&format!("    {reason} {count}"));
    }
    Ok(FastPathReport {
        judgement,
        figures,
        packets: sessions,
        packets_into_pod: pod,
        packets_of_upf: upf,
        counters,
    })
}

fn without_fast_path(stage: &Stage<'_>, say: &dyn Fn(&str)) -> Result<UserSpaceReport> {
    let (pod_before, upf_before) = (stage.upf_pod.packets()?, stage.upf_packets()?);
    let figures = figures(stage)?;
    let (pod, upf) = (stage.upf_pod.packets()? - pod_before, stage.upf_packets()? - upf_before);
    say(&format!("  packets: none by the fast path, {pod} into the pod, {upf} by the UPF's process"));
    Ok(UserSpaceReport { figures, packets_into_pod: pod, packets_of_upf: upf })
}

/// Users that send traffic: the first, the last, and some between.
pub(crate) fn chosen(users: &[users::User]) -> Vec<&users::User> {
    let step = (users.len() / 5).max(1);
    let mut chosen: Vec<_> = users.iter().step_by(step).collect();
    chosen.extend(users.last());
    chosen.dedup();
    chosen
}

/// Where the server is, for messages.
pub(crate) fn server_name() -> String {
    format!("server {SERVER}")
}

/// The path of a binary beside this one.
///
/// # Errors
/// It is not there.
pub fn beside(name: &str) -> Result<std::path::PathBuf> {
    let own = std::env::current_exe().context("where is this binary?")?;
    let path = own.with_file_name(name);
    ensure!(path.is_file(), "{} is not there: run `cargo xtask demo`, which builds it", path.display());
    Ok(path)
}
