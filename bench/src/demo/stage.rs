//! The lab with a pod in it: what the demo does, and what it can see.

use super::chosen;
use super::report::{Figures, Flood};
use crate::lab::endpoint::{Endpoint, Gun, Shot};
use crate::lab::nads;
use crate::lab::traffic::{self, Host, Stream, StreamReport};
use crate::lab::tshark::CHECKSUM_ABSENT;
use crate::lab::upf_pod::{LIMIT, UpfPod, received};
use crate::lab::users::{self, User};
use crate::lab::wires::{Expectation, Judgement, Pod, Tap, mac};
use crate::lab::{GNB, Lab, Process, SERVER, wait_for};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// Of a bulk transfer.
const BULK: Duration = Duration::from_secs(2);
/// UDP port of RFC 863.
const DISCARD: u16 = 9;

/// The pod, its users and their endpoints.
pub(super) struct Stage<'a> {
    lab: &'a Lab,
    pub(super) upf_pod: UpfPod<'a>,
    pub(super) users: Vec<User>,
    gnb: Option<Endpoint>,
    upf: Option<Endpoint>,
}

/// What was seen on the wires.
pub(super) struct Watched {
    pub(super) lines: Vec<String>,
    pub(super) judgement: Judgement,
}

impl<'a> Stage<'a> {
    /// Attaches the pod.
    pub(super) fn attach(lab: &'a Lab, sessions: u32) -> Result<Self> {
        let upf_pod = UpfPod::attach(lab)?;
        let users = users::users(sessions.max(nads::EXAMPLE_SESSIONS));
        Ok(Self { lab, upf_pod, users, gnb: None, upf: None })
    }

    pub(super) fn pod(&self) -> &Pod {
        &self.upf_pod.pod
    }

    /// Starts the agent and waits until all sessions forward, natively.
    pub(super) fn start_agent(&self) -> Result<Process> {
        self.upf_pod.start_agent(self.users.len())
    }

    pub(super) fn start_gnb(&mut self) -> Result<()> {
        let config = users::gnb(&self.users, self.pod().n3);
        self.gnb = Some(self.lab.gnb.run(|| Endpoint::start(&config))??);
        Ok(())
    }

    /// The process of the UPF pod: a plain user-space UPF that knows all users. It forwards what reaches
    /// it, so without the fast path everything.
    pub(super) fn start_upf(&mut self) -> Result<()> {
        self.lab.pod.sysctl("net/ipv4/ip_forward", "1")?;
        let config = users::upf(&self.users, self.pod().n3);
        self.upf = Some(self.lab.pod.run(|| Endpoint::start(&config))??);
        Ok(())
    }

    /// Packets that the UPF pod's process has forwarded.
    pub(super) fn upf_packets(&self) -> Result<u64> {
        let counters = self.upf.as_ref().context("no UPF runs in the pod")?.counters();
        Ok(counters.encapsulated + counters.decapsulated)
    }

    /// Packets that no honest peer sends: from a user's tunnel under another address, at the end of their
    /// life, and in a tunnel that nobody knows. How they must be counted.
    pub(super) fn misbehave(&self) -> Result<BTreeMap<String, u64>> {
        let user = self.users.first().context("no users")?;
        let honest = Shot::of(user, SocketAddrV4::new(SERVER, DISCARD), 100);
        let shots = |shot: Shot, count: usize| vec![shot; count];
        let wrong = [
            ("core/n3 ue-spoofed", shots(Shot { source: Ipv4Addr::new(10, 60, 9, 9), ..honest }, 5)),
            ("core/n3 ttl-expired", shots(Shot { ttl: 1, ..honest }, 3)),
            ("core/n3 pass-unknown-teid", shots(Shot { teid: 0x7777_7777, ..honest }, 4)),
        ];
        let upf = self.pod().n3;
        for (_, shots) in &wrong {
            self.lab.gnb.run(|| Gun::load(GNB, upf, shots)?.fire())??;
        }
        let expected: BTreeMap<_, _> =
            wrong.into_iter().map(|(name, shots)| (name.to_owned(), shots.len() as u64)).collect();
        let counted = || {
            let counters = self.upf_pod.counters()?;
            let all = expected.iter().all(|(name, count)| counters.get(name).is_some_and(|it| it >= count));
            Ok(all.then_some(counters))
        };
        let counted = wait_for("drops are counted by reason", LIMIT, counted);
        let counted = counted.with_context(|| format!("counted: {:?}", self.upf_pod.counters().ok()))?;
        ensure!(counted == expected, "drop counters are {counted:?}, should be {expected:?}");
        Ok(counted)
    }

    /// As many G-PDUs as a socket can send, of many users, and how many come out on N6.
    pub(super) fn flood(&self) -> Result<Flood> {
        // Nobody reads the socket: it only keeps the server's kernel from answering by ICMP.
        let _sink = self.lab.dn.run(|| UdpSocket::bind((SERVER, DISCARD)))??;
        let to = SocketAddrV4::new(SERVER, DISCARD);
        let shots: Vec<_> = self.users.iter().take(64).map(|user| Shot::of(user, to, 100)).collect();
        let upf = self.pod().n3;
        let mut gun = self.lab.gnb.run(|| Gun::load(GNB, upf, &shots))??;
        let (before, busy, start) = (received(&self.lab.dn, "n6")?, busy_seconds()?, Instant::now());
        let sent = gun.fire_for(BULK);
        let came_out = received(&self.lab.dn, "n6")? - before;
        let (busy, seconds) = (busy_seconds()? - busy, start.elapsed().as_secs_f64());
        ensure!(came_out > 0, "of {sent} G-PDUs none came out on N6");
        Ok(Flood {
            sent_per_second: sent as f64 / seconds,
            came_out_per_second: came_out as f64 / seconds,
            processor_us_per_packet: busy * 1e6 / came_out as f64,
        })
    }

    pub(super) fn stop_endpoints(&mut self) {
        self.upf = None;
        self.gnb = None;
    }

    pub(super) fn server(&self) -> Host<'a> {
        Host { namespace: &self.lab.dn, address: SERVER }
    }

    fn user(&self, user: &User) -> Host<'a> {
        Host { namespace: &self.lab.gnb, address: user.ue }
    }

    fn first_user(&self) -> Result<Host<'a>> {
        self.users.first().map(|it| self.user(it)).context("no users")
    }

    /// Pings, TCP and UDP of several users while both wires are captured, judged by tshark.
    pub(super) fn watch_wires(&self, name: &str) -> Result<Watched> {
        let tap = Tap::start(self.lab)?;
        for user in chosen(&self.users) {
            let report = traffic::ping(self.user(user), SERVER, 3, 56)?;
            ensure!(report.is_complete(), "ping from {} to {}: {report:?}", user.ue, super::server_name());
        }
        traffic::tcp::echo(self.first_user()?, self.server(), 20_000)?;
        let wires = tap.stop(self.lab, name)?;
        let expectation = Expectation {
            pod: self.pod(),
            users: &self.users,
            gnb_mac: mac(&self.lab.gnb, "n3")?,
            gateway_mac: mac(&self.lab.dn, "n6")?,
            outer_udp_checksum: CHECKSUM_ABSENT,
        };
        let judgement = wires.judge(&expectation);
        let first = |wire: &str, frames: &[crate::lab::wires::Seen], outgoing: bool| {
            let found = frames
                .iter()
                .find(|it| it.frame.outgoing == outgoing && !it.fields.all("icmp.type").is_empty());
            found.map(|it| format!("{wire} {}", it.summary()))
        };
        let lines = [
            first("up   N3", &wires.n3, true),
            first("up   N6", &wires.n6, false),
            first("down N6", &wires.n6, true),
            first("down N3", &wires.n3, false),
        ];
        Ok(Watched { lines: lines.into_iter().flatten().collect(), judgement })
    }

    /// `kill -9` of the agent and a new one under a steady stream.
    pub(super) fn restart(&self, agent: Process) -> Result<(Process, StreamReport)> {
        let stream = Stream::start(self.first_user()?, self.server(), 2000)?;
        stream.wait_for_more(1000)?;
        agent.kill()?;
        stream.wait_for_more(1000)?;
        let agent = self.start_agent()?;
        stream.wait_for_more(2000)?;
        Ok((agent, stream.finish()?))
    }
}

/// Throughput and round trips with whatever forwards now.
pub(super) fn figures(stage: &Stage<'_>) -> Result<Figures> {
    let (user, server) = (stage.first_user()?, stage.server());
    let ping = traffic::ping(user, SERVER, 20, 56)?;
    ensure!(ping.is_complete(), "ping: {ping:?}");
    traffic::tcp::echo(user, server, 1 << 20)?;
    let up = traffic::tcp::bulk(user, server, true, BULK)?;
    let down = traffic::tcp::bulk(user, server, false, BULK)?;
    let udp = traffic::udp::bulk(user, server, 20_000, 1000, 64)?;
    ensure!(udp.sent == udp.returned, "UDP: {udp:?}");
    let flood = stage.flood()?;
    Ok(Figures {
        ping_ms: ping.mean_rtt_ms()?,
        tcp_up_mbit: up.mbit_per_second(),
        tcp_down_mbit: down.mbit_per_second(),
        udp_round_trips_per_second: udp.per_second(),
        flood,
    })
}

/// Time that this machine's processors have worked, interrupts included.
fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().and_then(|it| it.strip_prefix("cpu ")).context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|it| it.parse().ok()).collect();
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, in USER_HZ, which is 100.
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = &ticks[..] else {
        anyhow::bail!("/proc/stat: {line}");
    };
    Ok((user + nice + system + irq + softirq) / 100.0)
}
