//! The kernel's own GTP device as the gNB: its tunnels through netplane to a data network and back.

use anyhow::{Context, Result};
use netplane_bench::lab::gtp::{GtpDevice, GtpRole, PdpContext};
use netplane_bench::lab::polled::polled;
use netplane_bench::lab::traffic::{self, EchoServer, Host};
use netplane_bench::lab::upf_pod::UpfPod;
use netplane_bench::lab::users::{self, UE_POOL, User};
use netplane_bench::lab::{GNB, Lab, Process, SERVER, UE_MTU, nads};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

/// A lab whose gNB host is the kernel, with the examples' users.
struct Stage<'a> {
    lab: &'a Lab,
    upf_pod: UpfPod<'a>,
    device: GtpDevice<'a>,
    users: Vec<User>,
    _agent: Process,
}

fn lab() -> Lab {
    Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab")
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        nads::apply(lab, 3)?;
        let n3 = include_str!("../../../examples/nads/n3.yaml");
        let with_echo = n3.replace(r#""gtpu": { "#, r#""gtpu": { "echo": true, "#);
        lab.write_nad("n3.yaml", with_echo.as_bytes())?;
        let users = users::users(3);
        let device = GtpDevice::create(&lab.gnb, "gtp0", GtpRole::Sgsn, UE_MTU)?;
        let upf_pod = UpfPod::attach(lab)?;
        for user in &users {
            device.add(&PdpContext {
                ue: user.ue,
                local_teid: user.downlink.0,
                peer: upf_pod.pod.n3,
                peer_teid: user.uplink.0,
            })?;
            lab.gnb.ip(&format!("address add {}/32 dev gtp0", user.ue))?;
        }
        lab.gnb.ip(&format!("route add {SERVER}/32 dev gtp0 src {}", users[0].ue))?;
        lab.dn.ip(&format!("route add {UE_POOL} via {}", upf_pod.pod.n6))?;
        let agent = upf_pod.start_agent(users.len())?;
        Ok(Self { lab, upf_pod, device, users, _agent: agent })
    }

    fn user(&self, number: usize) -> Host<'_> {
        Host { namespace: &self.lab.gnb, address: self.users[number].ue }
    }

    fn server(&self) -> Host<'_> {
        Host { namespace: &self.lab.dn, address: SERVER }
    }
}

/// Ping, UDP and TCP both ways of a user; `echo` and `pair` check that the server sees the user's address.
fn exchange(stage: &Stage<'_>, user: usize) -> Result<()> {
    let ping = traffic::ping(stage.user(user), SERVER, 3, 1000)?;
    anyhow::ensure!(ping.is_complete(), "{ping:?}");
    anyhow::ensure!(ping.ttl == Some(63), "the pod is one router on the way: {ping:?}");
    let _echo = EchoServer::start(stage.server())?;
    let udp = traffic::udp::bulk(stage.user(user), stage.server(), 200, 1000, 8)?;
    anyhow::ensure!(udp.sent == udp.returned, "{udp:?}");
    traffic::tcp::echo(stage.user(user), stage.server(), 100_000)?;
    for uplink in [true, false] {
        let tcp = traffic::tcp::bulk(stage.user(user), stage.server(), uplink, Duration::from_millis(300))?;
        anyhow::ensure!(tcp.bytes > 50_000, "{tcp:?}");
    }
    Ok(())
}

fn exchanged_through(stage: &Stage<'_>, user: usize) -> Result<()> {
    let before = (stage.upf_pod.packets()?, stage.upf_pod.session_packets()?);
    exchange(stage, user).with_context(|| format!("user {}", stage.users[user].ue))?;
    let pod = stage.upf_pod.packets()? - before.0;
    let sessions = stage.upf_pod.session_packets()? - before.1;
    // What does reach the pod is ARP and the like.
    anyhow::ensure!(sessions > 600 && pod < 20, "{pod} packets into the pod, {sessions} by sessions");
    let counters = stage.upf_pod.counters()?;
    anyhow::ensure!(counters.is_empty(), "honest traffic was not forwarded: {counters:?}");
    Ok(())
}

/// Whether this kernel's GTP takes G-PDUs with extension headers. That of Linux 6.1 drops them.
fn takes_containers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    !release.starts_with("6.1.")
}

/// One test, since without KVM the verifier takes long for each agent.
#[test]
fn the_kernels_gnb_reaches_the_data_network_and_knows_echo() {
    let lab = lab();
    let stage = Stage::new(&lab).expect("a stage");
    // Its downlink has no QFI: plain G-PDUs both ways, which every kernel's GTP takes.
    exchanged_through(&stage, 2).expect("traffic of the third user");
    // This one's has, so there is a PDU Session Container on the way back.
    if takes_containers() {
        exchanged_through(&stage, 0).expect("traffic of the first user");
    } else {
        let ping = traffic::ping(stage.user(0), SERVER, 3, 100).expect("ping runs");
        assert_eq!((ping.sent, ping.received), (3, 0));
    }
    echo_goes_both_ways(&stage);
}

fn echo_goes_both_ways(stage: &Stage<'_>) {
    let (lab, pod) = (stage.lab, stage.upf_pod.pod.n3);
    // Else the answer waits in the wire until something else comes.
    let _polled = polled(&lab.gnb, "n3").expect("a program at the gNB");
    let answered = stage.device.echo(GNB, pod).expect("an Echo Response that the kernel takes");
    assert_eq!(answered, pod);
    let counters = stage.upf_pod.counters().expect("counters");
    assert_eq!(counters, BTreeMap::from([("core/n3 echo-answered".to_owned(), 1)]));

    // TS 29.281 §7.2.1: with a sequence number. What the kernel answers passes to the pod's process.
    let request = [0x32, 1, 0, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0];
    let socket = lab.pod.run(|| UdpSocket::bind((pod, 2152))).expect("the pod").expect("GTP-U's port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    socket.send_to(&request, (GNB, 2152)).expect("sent");
    let mut response = [0; 64];
    let (length, from) = socket.recv_from(&mut response).expect("an Echo Response");
    assert_eq!(from, (GNB, 2152).into());
    // The kernel does not repeat the sequence number.
    assert_eq!(response[..length], [0x32, 2, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 14, 0]);
}
