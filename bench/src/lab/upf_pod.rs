//! The UPF pod of a lab, attached by the plugin, and what the agent says of its traffic.

use super::cni::{Sandbox, addresses};
use super::wires::{Pod, mac};
use super::{Lab, Namespace, Process, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// For what must happen soon, on however busy a machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// XDP_ATTACHED_DRV of linux/if_link.h.
const ATTACHED_NATIVE: u64 = 1;

/// The pod with its interfaces `net1` on N3 and `net2` on N6.
#[derive(Debug)]
pub struct UpfPod<'a> {
    lab: &'a Lab,
    sandbox: Sandbox<'a>,
    pub pod: Pod,
}

impl<'a> UpfPod<'a> {
    /// Attaches it to the networks n3 and n6 by ADD, and lets CHECK agree.
    ///
    /// # Errors
    /// The plugin's.
    pub fn attach(lab: &'a Lab) -> Result<Self> {
        let container_id = format!("{}-sandbox", lab.pod.name());
        let sandbox = Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" };
        let added = sandbox.add(lab)?;
        sandbox.check(lab, &added)?;
        let pod = Pod {
            n3: address(lab, "net1")?,
            n3_mac: mac(&lab.pod, "net1")?,
            n6: address(lab, "net2")?,
            n6_mac: mac(&lab.pod, "net2")?,
        };
        Ok(Self { lab, sandbox, pod })
    }

    /// Starts the agent and waits until so many sessions forward, natively on the masters `n3` and `n6`.
    ///
    /// # Errors
    /// It ends, has problems, or takes too long; then with its status and log.
    pub fn start_agent(&self, n_sessions: usize) -> Result<Process> {
        let agent = self.lab.start_agent()?;
        let ready = || {
            if let Some(status) = agent.status()? {
                anyhow::bail!("the agent ended: {status}\n{}", agent.log_tail());
            }
            // Until it listens, `netplane status` says that nobody answers.
            Ok(self.lab.status().ok().filter(|it| is_forwarding(it, n_sessions)))
        };
        let waited = wait_for("all sessions forward", LIMIT, ready);
        let status = waited.with_context(|| format!("{:?}\n{}", self.lab.status().ok(), agent.log_tail()))?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        ensure!(problems.is_empty(), "netplane status has problems: {problems:?}");
        for master in ["n3", "n6"] {
            let links = self.lab.node.ip_json(&["link", "show", master])?;
            let mode = links.first().and_then(|it| it["xdp"]["mode"].as_u64());
            ensure!(
                mode == Some(ATTACHED_NATIVE),
                "the kernel says that XDP on {master} is in mode {mode:?}, not native"
            );
        }
        Ok(agent)
    }

    /// Packets that the pod's interfaces on both networks have received.
    ///
    /// # Errors
    /// An interface is gone.
    pub fn packets(&self) -> Result<u64> {
        ["net1", "net2"].into_iter().map(|it| received(&self.lab.pod, it)).sum()
    }

    /// Packets that sessions have forwarded.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn session_packets(&self) -> Result<u64> {
        let status = self.lab.status()?;
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let packets = |it: &Value, way: &str| it[way]["packets"].as_u64().unwrap_or_default();
        Ok(sessions.iter().map(|it| packets(it, "uplink") + packets(it, "downlink")).sum())
    }

    /// Packets that were not forwarded, by network and reason: `core/n3 ue-spoofed`.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.lab.status()?;
        let mut counters = BTreeMap::new();
        for network in status["networks"].as_array().into_iter().flatten() {
            for (reason, count) in network["counters"].as_object().into_iter().flatten() {
                let name = format!("{} {reason}", network["name"].as_str().unwrap_or_default());
                counters.insert(name, count["packets"].as_u64().unwrap_or_default());
            }
        }
        Ok(counters)
    }

    /// CNI DEL, twice; what is left.
    ///
    /// # Errors
    /// The plugin's.
    pub fn detach(&self) -> Result<Vec<String>> {
        self.sandbox.del(self.lab)?;
        self.sandbox.del(self.lab)?;
        let mut left = self.lab.pod.interfaces()?;
        left.retain(|it| it != "lo");
        left.extend(files(&self.lab.record_dir()));
        left.extend(files(&self.lab.bpffs()));
        for network in ["default-network", "n3", "n6"] {
            let reserved = files(&self.lab.var_lib().join("cni/networks").join(network));
            left.extend(reserved.into_iter().filter(|it| it.parse::<Ipv4Addr>().is_ok()));
        }
        Ok(left)
    }
}

fn is_forwarding(status: &Value, n_sessions: usize) -> bool {
    let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let masters = status["masters"].as_array().map(Vec::as_slice).unwrap_or_default();
    status["ready"] == true
        && sessions.len() == n_sessions
        && sessions.iter().all(|it| it["state"] == "forwarding")
        && masters.len() == 2
        && masters.iter().all(|it| it["attached"] == "native")
}

fn address(lab: &Lab, interface: &str) -> Result<Ipv4Addr> {
    let addresses = addresses(&lab.pod, interface)?;
    let first = addresses.first().and_then(|it| it.split_once('/')?.0.parse().ok());
    first.with_context(|| format!("{interface} in the pod has no IPv4 address"))
}

/// Packets that an interface has received.
///
/// # Errors
/// There is no such interface.
pub fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    let links = namespace.ip_json(&["-statistics", "link", "show", interface])?;
    let packets = links.first().and_then(|it| it["stats64"]["rx"]["packets"].as_u64());
    packets.with_context(|| format!("statistics of {interface} in {}", namespace.name()))
}

/// Names in a folder that may not be there.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect()
}
