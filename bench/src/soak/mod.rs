//! The soak: mixed traffic, honest and not, through a lab in which agents are killed and neighbours change, and
//! an account of every packet at the end. `cargo xtask soak` runs it.
//!
//! Frames are counted where they are sent and where they come out, each by its own number. What did not come out
//! must be in a counter of netplane's or of the kernel's, to the packet.

mod account;
mod kinds;
mod traffic;
mod trouble;

pub use account::{Account, Row};
pub use kinds::Kind;
pub use trouble::Trouble;

use crate::lab::capture::FrameSender;
use crate::lab::endpoint::GTPU_PORT;
use crate::lab::polled::polled;
use crate::lab::upf_pod::UpfPod;
use crate::lab::wires::mac;
use crate::lab::{GATEWAY, GNB, Lab, Namespace, Process, SERVER, nads, wait_for};
use anyhow::{Context, Result};
use kinds::World;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use traffic::{Sender, Sent, Sinks};

/// Another peer at the gNB host, to which a tunnel is relayed.
const OTHER_PEER: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 11);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 1);
/// The gNB host's other address.
const GNB6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 0x10);
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the soak for so long, and at least until each trouble was made once. `say` gets a line for each step.
///
/// # Errors
/// The lab or an agent fails. That packets are missing is not an error here but in the account.
pub fn run(netplane: &Path, time: Duration, say: &dyn Fn(&str)) -> Result<Account> {
    let lab = Lab::new(netplane)?;
    let soaked = soak(&lab, time, say);
    let removed = lab.remove();
    let account = soaked?;
    removed?;
    Ok(account)
}

fn soak(lab: &Lab, time: Duration, say: &dyn Fn(&str)) -> Result<Account> {
    prepare(lab)?;
    let upf_pod = UpfPod::attach(lab)?;
    let pod = upf_pod.pod.n3;
    // Hosts must not answer what only they know to be for nobody.
    let pod6 = address6(&lab.pod, "net1")?;
    // The interface that is down for a while keeps its addresses: they are the pod's as long as it runs.
    lab.pod.sysctl("net/ipv6/conf/net2/keep_addr_on_down", "1")?;
    let hosts: [(_, IpAddr); 5] = [
        (&lab.gnb, GNB.into()),
        (&lab.gnb, GNB6.into()),
        (&lab.gnb, OTHER_PEER.into()),
        (&lab.pod, pod.into()),
        (&lab.pod, pod6.into()),
    ];
    let _gtpu = hosts
        .map(|(host, address)| listen(host, address, GTPU_PORT))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let _server = listen(&lab.dn, SERVER.into(), kinds::SERVER_PORT)?;
    let n_sessions = kinds::sessions(pod).len();
    let mut agent = upf_pod.start_agent(n_sessions)?;
    say(&format!("the lab stands: {n_sessions} sessions forward, natively on n3 and n6"));

    let world = World {
        pod: upf_pod.pod.clone(),
        pod6,
        gnb_mac: octets(&mac(&lab.gnb, "n3")?)?,
        gateway_mac: octets(&mac(&lab.dn, "n6")?)?,
    };
    let _polled = [polled(&lab.gnb, "n3")?, polled(&lab.dn, "n6")?];
    let sent = Sent::new();
    let sinks = Sinks::start(lab)?;
    let before = account::Counters::read(lab, &upf_pod)?;
    let senders = [
        Sender::start(FrameSender::open(&lab.gnb, "n3")?, kinds::templates(&world, true), &sent)?,
        Sender::start(FrameSender::open(&lab.dn, "n6")?, kinds::templates(&world, false), &sent)?,
    ];
    let (start, mut troubles) = (Instant::now(), 0);
    while troubles < Trouble::ALL.len() || start.elapsed() < time {
        let trouble = Trouble::ALL[troubles % Trouble::ALL.len()];
        sent.wait_for_more(trouble::BETWEEN)?;
        say(&format!("{:>5} s: {}", start.elapsed().as_secs(), trouble.sentence()));
        agent = trouble.make(lab, &upf_pod, agent, n_sessions, &sent, &sinks)?;
        troubles += 1;
    }
    sent.wait_for_more(trouble::BETWEEN)?;
    for sender in senders {
        sender.stop()?;
    }
    settle(lab, &upf_pod)?;
    let seconds = start.elapsed().as_secs();
    let after = account::Counters::read(lab, &upf_pod)?;
    let account = Account::draw_up(seconds, troubles, &sent, sinks.stop()?, &before, &after);
    agent.terminate()?;
    Ok(account)
}

/// The lab with IPv6 on N6, another peer on N3, and hosts that announce a new MAC.
fn prepare(lab: &Lab) -> Result<()> {
    nads::apply(lab, 3)?;
    for (name, nad) in [("n3", kinds::n3(OTHER_PEER)), ("n6", kinds::n6(GATEWAY, GATEWAY6))] {
        lab.write_nad(&format!("{name}.yaml"), nad.to_string().as_bytes())?;
    }
    lab.gnb.ip(&format!("address add {OTHER_PEER}/24 dev n3\naddress add {GNB6}/64 dev n3 nodad"))?;
    lab.dn.ip(&format!("address add {GATEWAY6}/64 dev n6 nodad"))?;
    for (host, interface) in [(&lab.gnb, "n3"), (&lab.dn, "n6")] {
        host.sysctl(&format!("net/ipv4/conf/{interface}/arp_notify"), "1")?;
        host.sysctl(&format!("net/ipv6/conf/{interface}/ndisc_notify"), "1")?;
    }
    Ok(())
}

/// A socket that nobody reads: what is too much is dropped, and nobody is told by ICMP.
fn listen(namespace: &Namespace, address: IpAddr, port: u16) -> Result<UdpSocket> {
    namespace.run(|| UdpSocket::bind((address, port)))?.with_context(|| format!("bind to {address}:{port}"))
}

/// The global IPv6 address of an interface.
fn address6(namespace: &Namespace, interface: &str) -> Result<Ipv6Addr> {
    let links = namespace.ip_json(&["-6", "address", "show", "dev", interface, "scope", "global"])?;
    let address = links.first().and_then(|it| it["addr_info"][0]["local"].as_str()?.parse().ok());
    address.with_context(|| format!("{interface} has no IPv6 address"))
}

/// Waits until nothing is on its way any more.
fn settle(lab: &Lab, upf_pod: &UpfPod<'_>) -> Result<()> {
    let mut last = None;
    wait_for("counters that stand still", LIMIT, || {
        let now = account::Counters::read(lab, upf_pod)?;
        let same = last.as_ref() == Some(&now);
        last = Some(now);
        Ok(same.then_some(()))
    })
}

/// Of `02:00:00:00:00:01`.
fn octets(mac: &str) -> Result<[u8; 6]> {
    let octets: Option<Vec<u8>> = mac.split(':').map(|it| u8::from_str_radix(it, 16).ok()).collect();
    octets.and_then(|it| it.try_into().ok()).with_context(|| format!("MAC address {mac}"))
}

/// A NAD of the lab with this metadata and this configuration of macvlan.
fn nad(name: &str, metadata: &serde_json::Value, ipam: &serde_json::Value) -> serde_json::Value {
    let config =
        json!({ "cniVersion": "1.1.0", "type": "macvlan", "master": name, "mode": "bridge", "ipam": ipam });
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name, "namespace": "core",
            "annotations": { "netplane.dev/fast-path": metadata.to_string() },
        },
        "spec": { "config": config.to_string() },
    })
}

/// Starts an agent again, and waits until all sessions forward.
fn new_agent(upf_pod: &UpfPod<'_>, n_sessions: usize) -> Result<Process> {
    upf_pod.start_agent(n_sessions).context("the agent after a restart")
}
