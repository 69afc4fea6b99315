//! The fast path as a router and as a GTP-U node that hosts notice: hops in traceroute, path MTU, Echo and
//! Error Indication, all with the kernels of the hosts at either end.

use netplane_bench::lab::cni::{Sandbox, addresses};
use netplane_bench::lab::command::BUSYBOX;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{Host, tcp};
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{GNB, Lab, Process, SERVER, wait_for};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

const N3: &str = include_str!("../../../examples/nads/n3.yaml");
const N6: &str = include_str!("../../../examples/nads/n6.yaml");
const DEFAULT: &str = include_str!("../../../examples/nads/default-network.yaml");
const LIMIT: Duration = Duration::from_secs(20);

/// A lab whose three sessions forward, with the kernel of the gNB host as the users'.
struct Forwarding {
    // The endpoint's threads end before its namespace goes.
    _gnb: Option<Endpoint>,
    _agent: Process,
    n3: Ipv4Addr,
    n6: Ipv4Addr,
    lab: Lab,
}

impl Forwarding {
    /// Without a gNB's process, its port is the test's.
    fn new(n3: &str, n6: &str, with_gnb: bool) -> Self {
        let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
        for (name, text) in [("default-network.yaml", DEFAULT), ("n3.yaml", n3), ("n6.yaml", n6)] {
            lab.write_nad(name, text.as_bytes()).expect("a NAD");
        }
        let container_id = format!("{}-sandbox", lab.pod.name());
        Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab).expect("attached");
        let agent = lab.start_agent().expect("an agent");
        wait_for("sessions forward", LIMIT, || {
            let status = lab.status().unwrap_or_default();
            let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok((sessions.len() == 3 && sessions.iter().all(|it| it["state"] == "forwarding")).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
        let address = |interface| {
            let addresses = addresses(&lab.pod, interface).expect("an interface");
            addresses[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address")
        };
        let (n3, n6) = (address("net1"), address("net2"));
        lab.dn.ip(&format!("route add {UE_POOL} via {n6}")).expect("a route to the users");
        let config = gnb(&users(3), n3);
        let start = || lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
        let endpoint = with_gnb.then(start);
        Self { _gnb: endpoint, _agent: agent, n3, n6, lab }
    }

    fn counted(&self, network: &str, reason: &str) -> u64 {
        let status = self.lab.status().expect("a status");
        let networks = status["networks"].as_array().cloned().unwrap_or_default();
        let network = networks.iter().find(|it| it["name"] == network).expect("the network");
        network["counters"][reason]["packets"].as_u64().unwrap_or(0)
    }
}

/// The hops that traceroute of busybox prints, the last one being the destination.
pub(crate) fn hops(from: Host<'_>, to: Ipv4Addr) -> Vec<String> {
    let source = from.address.to_string();
    let mut command = from.namespace.command(BUSYBOX.program);
    // Three tries a hop: on a busy machine an answer may come too late.
    command.args(["traceroute", "-n", "-q", "3", "-w", "3", "-m", "5", "-s", &source, &to.to_string()]);
    let printed = BUSYBOX.output(&mut command, "").expect("traceroute");
    let is_address = |word: &&str| word.parse::<Ipv4Addr>().is_ok();
    let hop = |line: &str| line.split_whitespace().find(is_address).map(str::to_owned);
    printed.lines().skip(1).filter_map(hop).collect()
}

#[test]
fn users_and_servers_see_the_pod_as_one_hop() {
    let forwarding = Forwarding::new(N3, N6, true);
    let lab = &forwarding.lab;
    let ue = users(1)[0].ue;
    let pod = forwarding.n6.to_string();
    let up = hops(Host { namespace: &lab.gnb, address: ue }, SERVER);
    assert_eq!(up, [pod.clone(), SERVER.to_string()], "from the user");
    let down = hops(Host { namespace: &lab.dn, address: SERVER }, ue);
    assert_eq!(down, [pod, ue.to_string()], "from the server");
    assert!(forwarding.counted("core/n3", "ttl-expired") >= 1);
    assert!(forwarding.counted("core/n6", "ttl-expired") >= 1);
}

/// The users' link says 1456, the network takes 1300: without the answers TCP would hang.
#[test]
fn tcp_finds_a_smaller_path_mtu_by_the_answers() {
    let n6 = N6.replace("\"role\": \"data\",", "\"role\": \"data\", \"mtu\": 1300,");
    let forwarding = Forwarding::new(N3, &n6, true);
    let lab = &forwarding.lab;
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let server = Host { namespace: &lab.dn, address: SERVER };
    tcp::echo(user, server, 1 << 20).expect("TCP");
    assert!(forwarding.counted("core/n6", "too-big") >= 1, "a packet was too big first");
    let route = lab.dn.ip_json(&["route", "get", &user.address.to_string()]).expect("a route");
    let metric = route[0].pointer("/metrics/0/mtu").and_then(serde_json::Value::as_u64);
    assert_eq!(metric, Some(1300), "the server's kernel has learned it: {route:?}");
}

#[test]
fn echo_and_unknown_tunnels_are_answered_as_metadata_says() {
    let n3 = N3.replace(
        "\"gtpu\": { \"peers\": [\"10.30.0.0/24\"] }",
        "\"gtpu\": { \"peers\": [\"10.30.0.0/24\"], \"echo\": true, \"unknownTeid\": \"errorIndication\" }",
    );
    assert_ne!(n3, N3);
    let forwarding = Forwarding::new(&n3, N6, false);
    let open = |port| {
        let socket = forwarding.lab.gnb.run(|| UdpSocket::bind((GNB, port))).expect("the namespace");
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket
    };
    let (registered, other) = (open(2152), open(0));
    let upf = (forwarding.n3, 2152);
    let receive = |socket: &UdpSocket| {
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).expect("an answer, although nobody listens");
        assert_eq!(from, upf.into());
        answer[..length].to_vec()
    };
    other.send_to(&[0x32, 1, 0, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0], upf).expect("an Echo Request");
    assert_eq!(receive(&other), [0x32, 2, 0, 6, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 14, 0]);
    other.send_to(&[0x30, 255, 0, 4, 0, 0, 0x99, 0x99, 1, 2, 3, 4], upf).expect("an unknown tunnel");
    let [a, b, c, d] = forwarding.n3.octets();
    let elements = [16, 0, 0, 0x99, 0x99, 133, 0, 4, a, b, c, d];
    let wanted = [&[0x32, 26, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0][..], &elements].concat();
    assert_eq!(receive(&registered), wanted, "to the registered port");
    assert_eq!(forwarding.counted("core/n3", "echo-answered"), 1);
    assert_eq!(forwarding.counted("core/n3", "unknown-teid"), 1);
}
