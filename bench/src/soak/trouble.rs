//! What happens to a node meanwhile: agents that end, and neighbours that change.

use super::traffic::{Sent, Sink, Sinks};
use super::{GATEWAY6, new_agent};
use crate::lab::upf_pod::UpfPod;
use crate::lab::wires::mac;
use crate::lab::{GATEWAY, Lab, Namespace, Process, wait_for};
use anyhow::{Context, Result};

/// Packets between two troubles.
pub(super) const BETWEEN: u64 = 4_000;

/// One trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The agent is killed (SIGKILL); another is started a while later.
    Kill,
    /// The gateway on N6 gets another MAC, and says so.
    GatewayMac,
    /// The agent is ended (SIGTERM); another is started a while later.
    Terminate,
    /// The gNB gets another MAC, and says so.
    GnbMac,
    /// The pod's kernel forgets its neighbours.
    Forget,
    /// The pod's interface on N6 goes down, and up again a while later; who takes care of the pod gives it its
    /// default routes again.
    DataDown,
}

impl Trouble {
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::GatewayMac, Self::Terminate, Self::GnbMac, Self::DataDown, Self::Forget];

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the agent, and a new one",
            Self::Terminate => "SIGTERM to the agent, and a new one",
            Self::GatewayMac => "the gateway on N6 gets another MAC",
            Self::GnbMac => "the gNB gets another MAC",
            Self::DataDown => "the pod's interface on N6 goes down and up",
            Self::Forget => "the pod's kernel forgets its neighbours",
        }
    }

    /// Makes it, and waits until all is well again. Returns the agent that runs then.
    pub(super) fn make(
        self,
        lab: &Lab,
        upf_pod: &UpfPod<'_>,
        agent: Process,
        n_sessions: usize,
        sent: &Sent,
        sinks: &Sinks,
    ) -> Result<Process> {
        match self {
            Self::Kill | Self::Terminate => {
                if self == Self::Kill {
                    agent.kill()?
                } else {
                    agent.terminate()?
                }
                sent.wait_for_more(BETWEEN)?;
                return new_agent(upf_pod, n_sessions);
            }
            Self::GatewayMac => new_mac(&lab.dn, "n6", &sinks.gateway)?,
            Self::GnbMac => new_mac(&lab.gnb, "n3", &sinks.gnb)?,
            Self::DataDown => down(lab, sent, &sinks.gateway)?,
            Self::Forget => {
                lab.pod.ip("neigh flush dev net1\nneigh flush dev net2")?;
            }
        }
        Ok(agent)
    }
}

/// Takes the pod's interface on N6 down for a while, and waits until frames come out of it again.
fn down(lab: &Lab, sent: &Sent, gateway: &Sink) -> Result<()> {
    lab.pod.ip("link set net2 down")?;
    sent.wait_for_more(BETWEEN)?;
    lab.pod.ip(&format!(
        "link set net2 up\nroute replace default via {GATEWAY} dev net2\n\
         route replace ::/0 via {GATEWAY6} dev net2"
    ))?;
    let octets = super::octets(&mac(&lab.dn, "n6")?)?;
    let before = gateway.under(octets);
    let probe = || Ok((gateway.under(octets) > before).then_some(()));
    wait_for("frames out of the interface again", super::LIMIT, probe)
}

/// Gives a host's interface another address, and waits until frames come under it.
fn new_mac(host: &Namespace, interface: &str, sink: &Sink) -> Result<()> {
    // Locally administered (IEEE 802 §8.4.2), and never the same twice in a row.
    let links = host.ip_json(&["link", "show", interface])?;
    let old = links.first().and_then(|it| it["address"].as_str()).context("no address")?;
    let last = if old.ends_with("a1") { "a2" } else { "a1" };
    let mac = format!("02:00:5e:10:00:{last}");
    let octets = super::octets(&mac)?;
    let before = sink.under(octets);
    host.ip(&format!("link set {interface} address {mac}"))?;
    wait_for("frames under the new MAC", super::LIMIT, || Ok((sink.under(octets) > before).then_some(())))
}
