//! Both families in a lab: tunnels over IPv4 and IPv6 with users of either family in them, and the ways out of
//! the pod as its kernel has them. Sockets of the hosts are the judges: they take no wrong checksum.

use crate::agent::{forwarding, until};
use crate::jumbo::widen;
use netplane_bench::lab::cni::Sandbox;
use netplane_bench::lab::{GATEWAY, GNB, Lab, Process, SERVER, wait_for};
use netplane_common::testing::packet::{self, Ipv4, Ipv6};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

const DEFAULT: &str = include_str!("../../../examples/nads/default-network.yaml");
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const GNB6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 0, 0, 0, 0, 0x10);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 1);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 1);
const USER_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 7007;

/// Users 1 and 2, each with an address of both families; behind tunnels over IPv6 and over IPv4.
const SESSIONS: &str = r#""sessions": [
  { "name": "six", "ue": ["10.60.0.1", "2001:db8:60:1::/64"],
    "uplink": { "teid": 1, "to": "core/n6" }, "downlink": { "peer": "2001:db8:30::10", "teid": 101, "qfi": 9 } },
  { "name": "four", "ue": ["10.60.0.2", "2001:db8:60:2::/64"],
    "uplink": { "teid": 2, "to": "core/n6" }, "downlink": { "peer": "10.30.0.10", "teid": 102, "qfi": 9 } } ]"#;

pub(crate) fn nad(name: &str, fast_path: &str, subnets: [&str; 2], more: &str) -> String {
    let [four, six] = subnets;
    let ranges = format!(r#"[[{{"subnet":"{four}"}}],[{{"subnet":"{six}"}}]]"#);
    let config = format!(
        r#"{{"cniVersion":"1.1.0","type":"macvlan","master":"{name}","mode":"bridge","ipam":{{"type":"host-local","ranges":{ranges}{more}}}}}"#
    );
    serde_json::json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name, "namespace": "core",
            "annotations": { "netplane.dev/fast-path": fast_path },
        },
        "spec": { "config": config },
    })
    .to_string()
}

/// A lab with both families on both networks, and an agent that forwards.
struct DualStack {
    agent: Process,
    /// The pod on N3.
    pod: [IpAddr; 2],
    gnb: [UdpSocket; 2],
    /// The server and the gateway, by the address that users send to.
    servers: Vec<(IpAddr, UdpSocket)>,
    /// Bytes that every payload has behind its text.
    filler: usize,
    lab: Lab,
}

/// The addresses of an interface of the pod, IPv4 and global IPv6.
pub(crate) fn pod_addresses(lab: &Lab, interface: &str) -> [IpAddr; 2] {
    let links = lab.pod.ip_json(&["address", "show", "dev", interface]).expect("an interface");
    let infos = links[0]["addr_info"].as_array().expect("addresses");
    let of = |family: &str| {
        let info = infos.iter().find(|it| it["family"] == family && it["scope"] == "global").expect(family);
        info["local"].as_str().and_then(|it| it.parse().ok()).expect("an address")
    };
    [of("inet"), of("inet6")]
}

impl DualStack {
    fn new(gtpu: &str) -> Self {
        Self::with_filler(gtpu, 0)
    }

    /// With payloads that are larger than Ethernet's by so much, where it is more than 0.
    fn with_filler(gtpu: &str, filler: usize) -> Self {
        let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
        if filler > 0 {
            widen(&lab);
        }
        lab.gnb.ip(&format!("address add {GNB6}/64 dev n3 nodad")).expect("the gNB's address");
        lab.dn
            .ip(&format!("address add {GATEWAY6}/64 dev n6 nodad\naddress add {SERVER6}/128 dev lo nodad"))
            .expect("the data network's addresses");
        lab.dn.sysctl("net/ipv6/conf/all/forwarding", "1").expect("a router");
        let n3 = format!(
            r#"{{"role":"access","gtpu":{{"peers":["10.30.0.0/24","2001:db8:30::/64"]{gtpu}}},{SESSIONS}}}"#
        );
        let n6 = r#"{"role":"data","uePools":["10.60.0.0/16","2001:db8:60::/48"]}"#;
        let n3 = nad("n3", &n3, ["10.30.0.0/24", "2001:db8:30::/64"], "");
        let routes =
            r#","routes":[{"dst":"0.0.0.0/0","gw":"10.40.0.1"},{"dst":"::/0","gw":"2001:db8:40::1"}]"#;
        let n6 = nad("n6", n6, ["10.40.0.0/24", "2001:db8:40::/64"], routes);
        for (name, text) in [("default-network.yaml", DEFAULT), ("n3.json", &n3), ("n6.json", &n6)] {
            lab.write_nad(name, text.as_bytes()).expect("a NAD");
        }
        let container_id = format!("{}-sandbox", lab.pod.name());
        Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab).expect("attached");
        let pod = pod_addresses(&lab, "net1");
        let [n6, n6_6] = pod_addresses(&lab, "net2");
        lab.dn
            .ip(&format!("route add 10.60.0.0/16 via {n6}\nroute add 2001:db8:60::/48 via {n6_6}"))
            .expect("routes to the users");
        let agent = lab.start_agent().expect("an agent");
        until(&lab, &agent, "sessions forward", |it| forwarding(it, 2));
        let open = |in_dn: bool, address: IpAddr, port: u16| {
            let namespace = if in_dn { &lab.dn } else { &lab.gnb };
            let socket = namespace.run(|| UdpSocket::bind((address, port))).expect("the namespace");
            let socket = socket.expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
            socket
        };
        let gnb = [open(false, GNB.into(), 2152), open(false, GNB6.into(), 2152)];
        let addresses: [IpAddr; 4] = [SERVER.into(), SERVER6.into(), GATEWAY.into(), GATEWAY6.into()];
        let servers = addresses.map(|it| (it, open(true, it, SERVER_PORT))).into();
        Self { agent, pod, gnb, servers, filler, lab }
    }

    /// What a user sends, through its tunnel over the outer family.
    fn send(&self, user: u8, outer: usize, to: IpAddr, payload: &[u8]) {
        let udp = packet::udp(USER_PORT, SERVER_PORT, payload);
        let inner = match to {
            IpAddr::V4(to) => Ipv4::new(Ipv4Addr::new(10, 60, 0, user), to, udp).bytes(),
            IpAddr::V6(to) => {
                let source = user_address6(user);
                // The server's socket takes no datagram without a checksum over IPv6.
                let udp = packet::with_udp_checksum(&source.octets(), &to.octets(), udp);
                Ipv6::new(source, to, udp).bytes()
            }
        };
        let gpdu = packet::gtpu_with_container(user.into(), 1, 9, &inner);
        self.gnb[outer].send_to(&gpdu, (self.pod[outer], 2152)).expect("sent");
    }

    fn server(&self, address: IpAddr) -> &UdpSocket {
        &self.servers.iter().find(|(it, _)| *it == address).expect("a server").1
    }

    /// Whether a user's datagram reaches the server under the user's own address, and the answer the gNB, in
    /// the user's downlink tunnel. Not each try needs to: the first packet to a neighbour may ask for it.
    #[track_caller]
    fn there_and_back(&self, user: u8, outer: usize, to: IpAddr) {
        let server = self.server(to);
        let answers = &self.gnb[usize::from(user == 1)];
        let what = format!("user {user} by tunnel over family {outer} to {to}");
        let mut number = 0_u32;
        let probe = || {
            number += 1;
            let filler = (0..self.filler).map(|it| char::from(b'a' + (it % 26) as u8));
            let payload = format!("number {number}{}", filler.collect::<String>());
            self.send(user, outer, to, payload.as_bytes());
            let Some((text, from)) = receive(server) else { return Ok(None) };
            let source: IpAddr = match to {
                IpAddr::V4(_) => Ipv4Addr::new(10, 60, 0, user).into(),
                IpAddr::V6(_) => user_address6(user).into(),
            };
            assert_eq!((text.as_slice(), from), (payload.as_bytes(), (source, USER_PORT).into()), "{what}");
            server.send_to(&text, from).expect("an answer");
            let Some((gpdu, from)) = receive(answers) else { return Ok(None) };
            assert_eq!(from.ip(), self.pod[usize::from(user == 1)], "{what}: from the pod");
            let inner = gpdu.get(16..).expect("a G-PDU with a container");
            assert_eq!(gpdu, packet::gtpu_with_container(100 + u32::from(user), 0, 9, inner), "{what}");
            assert!(inner.ends_with(payload.as_bytes()), "{what}: {inner:02x?}");
            Ok(Some(()))
        };
        wait_for(&what, LIMIT, probe)
            .unwrap_or_else(|error| panic!("{error}\n{:#}", self.lab.status().unwrap_or(Value::Null)));
    }
}

fn user_address6(user: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x60, user.into(), 0, 0, 0, 5)
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

#[test]
fn users_of_either_family_get_through_tunnels_over_either() {
    let lab = DualStack::new("");
    for user in [1, 2] {
        for outer in [0, 1] {
            lab.there_and_back(user, outer, SERVER.into());
            lab.there_and_back(user, outer, SERVER6.into());
        }
    }
    // Hosts on the data network's own subnets.
    lab.there_and_back(1, 1, GATEWAY.into());
    lab.there_and_back(2, 0, GATEWAY6.into());
}

/// The outer checksum is over all fragments of a frame: the gNB's socket takes no wrong one.
#[test]
fn jumbo_frames_in_tunnels_over_ipv6_have_full_checksums() {
    let lab = DualStack::with_filler("", 8800);
    for outer in [0, 1] {
        lab.there_and_back(1, outer, SERVER.into());
        lab.there_and_back(1, outer, SERVER6.into());
    }
}

/// The pod's kernel decides where packets go, and says so while they flow.
#[test]
fn ways_out_follow_the_pods_routes_neighbours_and_addresses() {
    let mut it = DualStack::new("");
    it.there_and_back(1, 1, SERVER.into());
    // IPv4 by an IPv6 gateway (RFC 5549), and IPv6 by a link-local one.
    it.lab.pod.ip(&format!("route replace default via inet6 {GATEWAY6} dev net2")).expect("a route");
    let links = it.lab.dn.ip_json(&["address", "show", "dev", "n6"]).expect("n6");
    let infos = links[0]["addr_info"].as_array().expect("addresses");
    let info = infos.iter().find(|it| it["family"] == "inet6" && it["scope"] == "link");
    let link_local = info.and_then(|it| it["local"].as_str()).expect("a link-local address").to_owned();
    it.lab.pod.ip(&format!("route replace default via {link_local} dev net2")).expect("a route");
    it.there_and_back(1, 1, SERVER.into());
    it.there_and_back(2, 0, SERVER6.into());
    // A longer prefix than the default route, to nobody, and away again.
    it.lab.pod.ip(&format!("route add {SERVER}/32 via 10.40.0.99 dev net2")).expect("a route");
    let lost = || {
        it.send(1, 1, SERVER.into(), b"nowhere");
        Ok(receive(it.server(SERVER.into())).is_none().then_some(()))
    };
    wait_for("the longer prefix counts", LIMIT, lost).expect("nothing arrives");
    it.lab.pod.ip(&format!("route del {SERVER}/32")).expect("no route");
    it.there_and_back(1, 1, SERVER.into());
    // The gateway's card is replaced.
    it.lab.dn.sysctl("net/ipv4/conf/n6/arp_notify", "1").expect("gratuitous ARP");
    it.lab.dn.sysctl("net/ipv6/conf/n6/ndisc_notify", "1").expect("unsolicited advertisements");
    it.lab.dn.ip("link set n6 down\nlink set n6 address 02:00:00:00:06:66\nlink set n6 up").expect("a MAC");
    // IPv6 addresses go with the link. Once its duplicate address detection is over, the new one is announced
    // (`ndisc_notify`); an address without would be silent, and the pod's kernel right to keep what it knows.
    let back = format!(
        "address replace {GATEWAY6}/64 dev n6\nroute replace 10.60.0.0/16 via {}\n\
         route replace 2001:db8:60::/48 via {}",
        pod_addresses(&it.lab, "net2")[0],
        pod_addresses(&it.lab, "net2")[1]
    );
    it.lab.dn.ip(&back).expect("the routes that went with the link");
    it.lab.pod.ip(&format!("route replace default via {GATEWAY} dev net2")).expect("a route");
    it.lab.pod.ip(&format!("route replace default via {GATEWAY6} dev net2")).expect("a route");
    it.there_and_back(1, 1, SERVER.into());
    it.there_and_back(2, 0, SERVER6.into());
    // The pod's address on N3 is another one: the tunnels end there.
    let [_, old] = it.pod;
    it.lab
        .pod
        .ip(&format!("address del {old}/64 dev net1\naddress add 2001:db8:30::77/64 dev net1 nodad"))
        .expect("an address");
    it.pod[1] = "2001:db8:30::77".parse().expect("an address");
    it.there_and_back(1, 1, SERVER6.into());
    it.agent.terminate().expect("a clean end");
}

#[test]
fn a_checksum_of_zero_over_ipv6_is_for_those_who_ask_for_it() {
    let lab = DualStack::new(r#","udpChecksum":"zero""#);
    // An ordinary socket takes no datagram without a checksum over IPv6 (RFC 8200 §8.1), so nothing comes
    // back; over IPv4 it does.
    lab.there_and_back(2, 1, SERVER.into());
    lab.send(1, 1, SERVER.into(), b"there");
    let server = lab.server(SERVER.into());
    let (text, from) = receive(server).expect("uplinks are as ever");
    server.send_to(&text, from).expect("an answer");
    assert_eq!(receive(&lab.gnb[1]), None, "without a checksum");
}
