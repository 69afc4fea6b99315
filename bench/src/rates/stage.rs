//! A lab with one device under test in it, ready to forward.

use super::cores::{Cores, Priority, poll_on};
use super::counters::{Counters, Place};
use super::nads;
use super::subject::{Direction, Subject, Traffic};
use super::trial::{Port, Setup, Tester};
use crate::lab::cni::{Sandbox, addresses};
use crate::lab::endpoint::{Endpoint, EndpointConfig, Role, Teid, TunConfig, Tunnel};
use crate::lab::gtp::{GtpDevice, GtpRole, PdpContext};
use crate::lab::users::DATA_NETWORK;
use crate::lab::{GATEWAY, GNB, Lab, Namespace, Process, UE_MTU, wait_for, wires};
use crate::load::scenario::{Mac, Scenario};
use crate::load::{Kind, pin};
use anyhow::{Context, Result, ensure};
use aya::maps::xdp::DevMap;
use aya::programs::xdp::{Xdp, XdpMode};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The device under test, in its lab.
pub(super) struct Stage {
    pub(super) subject: Subject,
    direction: Direction,
    cores: Cores,
    pod: Ipv4Addr,
    destination: Mac,
    /// Until all sessions forwarded, where netplane has to learn them.
    pub loaded_in: Option<Duration>,
    upf: Option<Endpoint>,
    redirect: Option<aya::Ebpf>,
    agent: Option<Process>,
    lab: Lab,
}

impl Stage {
    /// Builds the lab and starts the device for this many sessions.
    ///
    /// # Errors
    /// Whatever of it fails.
    pub(super) fn new(
        netplane: &Path,
        subject: Subject,
        direction: Direction,
        sessions: u32,
        cores: Cores,
    ) -> Result<Self> {
        ensure!(
            subject != Subject::UserSpaceUpf || cores.sender != cores.device,
            "a user-space UPF shares its core with nobody: sender and device need two CPUs, not {cores}"
        );
        let lab = Lab::new(netplane)?;
        let (ingress, pod_interface) = match direction {
            Direction::Uplink => ("n3", "net1"),
            Direction::Downlink => ("n6", "net2"),
        };
        let (mut pod, mut mac) = (Ipv4Addr::UNSPECIFIED, wires::mac(&lab.node, ingress)?);
        if subject.has_pod() {
            nads::apply(&lab, sessions, subject.mode().unwrap_or("native"))?;
            let container_id = format!("{}-sandbox", lab.pod.name());
            Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab)?;
            pod = first_address(&lab.pod, "net1")?;
            mac = wires::mac(&lab.pod, pod_interface)?;
        } else if subject == Subject::KernelGtp {
            pod = NODE_N3;
        }
        let destination = mac.parse().map_err(anyhow::Error::msg)?;
        let (upf, redirect, agent) = (None, None, None);
        let mut stage =
            Self { subject, direction, cores, pod, destination, loaded_in: None, upf, redirect, agent, lab };
        stage.start(sessions)?;
        Ok(stage)
    }

    fn start(&mut self, sessions: u32) -> Result<()> {
        let node = &self.lab.node;
        match self.subject {
            Subject::Native | Subject::Generic | Subject::Tc => self.start_agent(sessions)?,
            Subject::UserSpaceUpf => self.start_upf(sessions)?,
            Subject::KernelForwarding => {
                self.route()?;
                node.ip(&format!("route add {} via {GNB}", nads::USERS))?;
            }
            Subject::KernelGtp => {
                self.route()?;
                start_gtp(node, sessions)?;
            }
            Subject::BareRedirect => self.redirect = Some(self.attach_redirect()?),
        }
        // Where no native program polls, GRO makes a veth poll: the frames of the generator come as XDP
        // frames, which only a polling veth takes.
        for master in ["n3", "n6"] {
            self.lab.node.ethtool(master, &["gro", "on"])?;
        }
        if self.cores.sender == self.cores.device {
            // The sender's core does the device's work after each of its batches.
            return Ok(());
        }
        poll_on(&self.lab.node, self.ingress(), self.cores.device, Priority::Device)
    }

    /// Makes the node the router between its masters.
    fn route(&self) -> Result<()> {
        self.lab.node.sysctl("net/ipv4/ip_forward", "1")?;
        self.lab.node.ip(&format!(
            "address add {NODE_N3}/24 dev n3\naddress add 10.40.0.2/24 dev n6\n\
             route add {DATA_NETWORK} via {GATEWAY}"
        ))
    }

    fn ingress(&self) -> &'static str {
        match self.direction {
            Direction::Uplink => "n3",
            Direction::Downlink => "n6",
        }
    }

    fn start_agent(&mut self, sessions: u32) -> Result<()> {
        let start = Instant::now();
        let agent = self.lab.start_agent()?;
        let wanted = self.subject.mode().unwrap_or_default();
        let limit = Duration::from_secs(60 + u64::from(sessions) / 1000);
        let ready = || {
            if let Some(status) = agent.status()? {
                anyhow::bail!("the agent ended: {status}\n{}", agent.log_tail());
            }
            // A status of all sessions is work for the agent too.
            std::thread::sleep(Duration::from_millis(20 + u64::from(sessions / 100)));
            // Until it listens, `netplane status` says that nobody answers.
            Ok(self.lab.status().ok().filter(|it| is_forwarding(it, sessions, wanted)))
        };
        wait_for("all sessions forward", limit, ready).with_context(|| agent.log_tail())?;
        self.loaded_in = Some(start.elapsed());
        self.agent = Some(agent);
        Ok(())
    }

    fn start_upf(&mut self, sessions: u32) -> Result<()> {
        let tunnel = |number| Tunnel {
            ue: Ipv4Addr::from_bits(nads::FIRST_USER.to_bits() + number),
            local_teid: Teid(nads::FIRST_UPLINK + number),
            peer: GNB,
            peer_teid: Teid(nads::FIRST_DOWNLINK + number),
            qfi: Some(nads::QFI),
        };
        let users = nads::USERS.parse().context("the users' prefix")?;
        let config = EndpointConfig {
            role: Role::Upf,
            local: self.pod,
            tun: TunConfig {
                name: "upf0".to_owned(),
                mtu: UE_MTU,
                local: Vec::new(),
                routes: vec![users],
                source: None,
            },
            tunnels: (0..sessions).map(tunnel).collect(),
        };
        let cpu = self.cores.device;
        // Its threads inherit the CPU and the priority.
        let start = || {
            pin(cpu)?;
            Priority::Device.give(nix::unistd::gettid())?;
            Endpoint::start_on_sockets(&config, "net2")
        };
        self.upf = Some(self.lab.pod.run(start)??);
        Ok(())
    }

    fn attach_redirect(&self) -> Result<aya::Ebpf> {
        let egress = match self.direction {
            Direction::Uplink => "n6",
            Direction::Downlink => "n3",
        };
        let ingress = self.ingress();
        self.lab.node.run(|| {
            let mut ebpf = crate::load::objects::load(&[])?;
            let index = nix::net::if_::if_nametoindex(egress)?;
            let mut port: DevMap<_> = crate::load::objects::map(&mut ebpf, "REDIRECT_PORT")?;
            port.set(0, index, None, 0)?;
            let program: &mut Xdp =
                ebpf.program_mut("bare_redirect").context("no program bare_redirect")?.try_into()?;
            program.load()?;
            program.attach(ingress, XdpMode::Driver)?;
            Ok(ebpf)
        })?
    }

    /// A tester for this traffic; with the time in each frame if `latency`.
    ///
    /// # Errors
    /// Sink or generator cannot be had, or nothing comes out.
    pub(super) fn tester(&self, kind: Kind, size: u16, sessions: u32, latency: bool) -> Result<Tester<'_>> {
        let mut scenario = self.scenario(size, sessions);
        scenario.send.latency = latency;
        if latency {
            // A frame waits for its batch; a small one, so that this is not what is counted.
            scenario.send.burst = 4;
        }
        scenario.check()?;
        let lab = &self.lab;
        let n3 = Port { namespace: Some(&lab.gnb), interface: "n3" };
        let n6 = Port { namespace: Some(&lab.dn), interface: "n6" };
        let (transmit, receive) = match self.direction {
            Direction::Uplink => (n3, n6),
            Direction::Downlink => (n6, n3),
        };
        let arrival = self.subject.arrival(self.direction);
        let setup = Setup { transmit, receive, kind, generic_sink: false, arrival };
        let mut tester = Tester::new(setup, &scenario)?;
        let receiver = receive.namespace.context("a lab's hosts are namespaces")?;
        if self.cores.sink != self.cores.device {
            poll_on(receiver, receive.interface, self.cores.sink, Priority::Sink)?;
        }
        // Not of the receiving host: there the sink drops all, as it should.
        let sender =
            Place { name: "tester", namespace: transmit.namespace, interfaces: &["n3", "n6"], with_ip: true };
        let node =
            Place { name: "node", namespace: Some(&lab.node), interfaces: &["n3", "n6"], with_ip: true };
        tester.places = vec![sender, node];
        let others = [self.cores.sender, self.cores.sink];
        tester.device_cpu = Some(self.cores.device).filter(|it| !others.contains(it));
        if self.subject.has_pod() {
            // What a macvlan cannot send is among its master's drops.
            tester.places.push(Place {
                name: "pod",
                namespace: Some(&lab.pod),
                interfaces: &[],
                with_ip: false,
            });
        }
        if let Some(upf) = &self.upf {
            tester.own_counters = Some(Box::new(move || Ok(upf_drops(upf))));
        }
        tester.warm_up().with_context(|| format!("{} {}", self.subject.name(), self.direction.name()))?;
        Ok(tester)
    }

    fn scenario(&self, size: u16, sessions: u32) -> Scenario {
        let traffic = Traffic { direction: self.direction, size, sessions };
        self.subject.scenario(traffic, self.pod, self.destination, self.cores.sender)
    }

    /// That netplane's own counters saw no honest packet as a dishonest one.
    ///
    /// # Errors
    /// The reasons that it counted.
    pub(super) fn check_reasons(&self) -> Result<()> {
        if self.agent.is_none() {
            return Ok(());
        }
        let status = self.lab.status()?;
        let networks = status["networks"].as_array().cloned().unwrap_or_default();
        let counted: Vec<_> = networks.iter().filter_map(|it| it["counters"].as_object()).flatten().collect();
        ensure!(counted.is_empty(), "netplane counted drops or passes: {counted:?}");
        Ok(())
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn remove(self) -> Result<()> {
        let Self { lab, upf, redirect, .. } = self;
        drop((upf, redirect));
        lab.remove()
    }
}

/// The kernel's tunnels of all users.
fn start_gtp(node: &Namespace, sessions: u32) -> Result<()> {
    let device = GtpDevice::create(node, "gtp0", GtpRole::Ggsn, UE_MTU)?;
    for number in 0..sessions {
        device.add(&PdpContext {
            ue: Ipv4Addr::from_bits(nads::FIRST_USER.to_bits() + number),
            local_teid: nads::FIRST_UPLINK + number,
            peer: GNB,
            peer_teid: nads::FIRST_DOWNLINK + number,
        })?;
    }
    node.ip(&format!("route add {} dev gtp0", nads::USERS))
}

/// The node's own address on its access master, where no pod has one.
const NODE_N3: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 1);

/// What a user-space UPF throws away itself.
fn upf_drops(upf: &Endpoint) -> Counters {
    let counters = upf.counters();
    [
        ("upf unknown address", counters.unknown_address),
        ("upf unknown TEID", counters.unknown_teid),
        ("upf spoofed", counters.spoofed),
        ("upf malformed", counters.malformed),
        ("upf errors", counters.errors),
        ("upf data socket", counters.lost),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}

fn first_address(namespace: &Namespace, interface: &str) -> Result<Ipv4Addr> {
    let all = addresses(namespace, interface)?;
    let first = all.first().and_then(|it| it.split('/').next()).and_then(|it| it.parse().ok());
    first.with_context(|| format!("{interface} of the pod has no IPv4 address: {all:?}"))
}

fn is_forwarding(status: &Value, sessions: u32, mode: &str) -> bool {
    let list = |key: &str| status[key].as_array().map(Vec::as_slice).unwrap_or_default();
    status["ready"] == true
        && list("sessions").len() == sessions as usize
        && list("sessions").iter().all(|it| it["state"] == "forwarding")
        && list("masters").len() == 2
        && list("masters").iter().all(|it| it["attached"] == mode)
}
