//! Next hops that are pods under the same master: a gNB, and a gateway of the data network, on the UPF's node.

use crate::agent::{LIMIT, list, problems};
use crate::router::hops;
use crate::tc::{agent_in, attach_pod, lab_with};
use netplane_bench::lab::cni::Sandbox;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{Host, ping, tcp};
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{GATEWAY, GNB, Lab, Namespace, SERVER, wait_for};
use serde_json::Value;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Message types of TS 29.281 §6.1.
const ECHO_RESPONSE: u8 = 2;
const ERROR_INDICATION: u8 = 26;

const PINGS: u32 = 20;

/// A pod with the address of the host on the wire, which gives it up. Its network has no metadata.
fn instead_of(lab: &Lab, host: &Namespace, master: &str, address: &str) -> Namespace {
    host.ip(&format!("address flush dev {master}")).expect("flushed");
    let pod = lab.namespace(&format!("pod-{master}")).expect("a namespace");
    let network = address.rsplit_once('.').expect("an IPv4 address").0;
    let nad = format!(
        r#"apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: {master}-plain
  namespace: core
spec:
  config: |
    {{ "cniVersion": "1.1.0", "type": "macvlan", "master": "{master}", "mode": "bridge",
      "ipam": {{ "type": "host-local", "subnet": "{network}.0/24", "gateway": "{network}.254", "rangeStart": "{address}", "rangeEnd": "{address}",
                "dataDir": "/var/lib/cni/{master}-plain" }} }}
"#
    );
    lab.write_nad(&format!("{master}-plain.yaml"), nad.as_bytes()).expect("a NAD");
    let networks = format!("{master}-plain");
    let container_id = format!("{}-sandbox", pod.name());
    Sandbox { container_id, namespace: &pod, networks: &networks }.add(lab).expect("attached");
    pod
}

/// Packets that sessions have forwarded: uplink and downlink.
fn forwarded(status: &Value) -> (u64, u64) {
    let sum = |way: &str| {
        let packets = list(status, "sessions").iter().map(|it| it[way]["packets"].as_u64().unwrap_or(0));
        packets.sum()
    };
    (sum("uplink"), sum("downlink"))
}

/// Traffic between a user and the server, each of them behind a pod on the node or a host on the wire.
fn both_ways(xdp: &str, attached: &str, gnb_is_pod: bool, gateway_is_pod: bool) {
    let lab = lab_with(xdp);
    let upf = attach_pod(&lab);
    let gnb_pod = gnb_is_pod.then(|| instead_of(&lab, &lab.gnb, "n3", &GNB.to_string()));
    let gateway_pod = gateway_is_pod.then(|| instead_of(&lab, &lab.dn, "n6", &GATEWAY.to_string()));
    if let Some(pod) = &gateway_pod {
        lab.dn.ip(&format!("address del {SERVER}/32 dev lo")).expect("given up");
        let via = upf_on_n6(&lab);
        pod.ip(&format!("address add {SERVER}/32 dev lo\nroute add {UE_POOL} via {via} dev net1"))
            .expect("a server");
    }
    let (agent, status) = agent_in(&lab, attached);
    assert_eq!(problems(&status), Vec::<String>::new());
    let gnb_host = gnb_pod.as_ref().unwrap_or(&lab.gnb);
    let config = gnb(&users(3), upf);
    let _gnb = gnb_host.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: gnb_host, address: users(1)[0].ue };
    let server = Host { namespace: gateway_pod.as_ref().unwrap_or(&lab.dn), address: SERVER };

    let report = ping(user, SERVER, PINGS, 1000).expect("ping");
    let trouble = || format!("{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail());
    assert!(report.is_complete(), "{report:?}\n{}", trouble());
    let by_ping = forwarded(&lab.status().expect("a status"));
    assert_eq!(by_ping, (PINGS.into(), PINGS.into()), "each by the fast path, counted once\n{}", trouble());
    tcp::echo(user, server, 1 << 20).unwrap_or_else(|error| panic!("{error:#}\n{}", trouble()));
    let (up, down) = forwarded(&lab.status().expect("a status"));
    // At least so many segments of at most the users' MTU; no process in the pod has forwarded any.
    assert!(up > by_ping.0 + 700 && down > by_ping.1 + 700, "{up} up, {down} down");
}

fn upf_on_n6(lab: &Lab) -> String {
    let addresses = netplane_bench::lab::cni::addresses(&lab.pod, "net2").expect("an interface");
    addresses[0].split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn a_gateway_under_the_master_gets_what_xdp_hands_on() {
    both_ways("auto", "native", false, true);
}

#[test]
fn a_gnb_under_the_master_gets_what_xdp_hands_on() {
    both_ways("auto", "native", true, false);
}

#[test]
fn all_on_one_node_is_forwarded_by_tc_alone() {
    both_ways("tc", "tc", true, true);
}

/// An answer to an Echo Request, and one about a tunnel that nobody knows. Asked again until it comes: the agent may
/// not have seen yet who is under the master.
fn is_answered(gnb: &Namespace, upf: Ipv4Addr) {
    let socket = gnb.run(|| UdpSocket::bind((GNB, 2152))).expect("the namespace").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let messages = [
        (&[0x32, 1, 0, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0], ECHO_RESPONSE),
        (&[0x30, 255, 0, 4, 0, 0, 0x99, 0x99, 1, 2, 3, 4], ERROR_INDICATION),
    ];
    for (message, kind) in messages {
        wait_for("an answer, although nobody listens", LIMIT, || {
            socket.send_to(message, (upf, 2152))?;
            let mut answer = [0; 64];
            let came = socket.recv_from(&mut answer).ok().map(|(_, from)| (from, answer[1]));
            Ok(came.filter(|it| *it == ((upf, 2152).into(), kind)))
        })
        .expect("answered");
    }
}

/// No native XDP on the masters: what tells a pod's frames from those of the wire are the buffers alone.
#[test]
fn tc_alone_answers_pods_under_the_master_and_hosts_on_the_wire() {
    let lab = lab_with("tc");
    let gtpu = r#""gtpu": { "peers": ["10.30.0.0/24"] }"#;
    let answering =
        r#""gtpu": { "peers": ["10.30.0.0/24"], "echo": true, "unknownTeid": "errorIndication" }"#;
    let n3 = std::fs::read_to_string(lab.nad_dir().join("n3.yaml")).expect("a NAD").replace(gtpu, answering);
    assert!(n3.contains(answering));
    lab.write_nad("n3.yaml", n3.as_bytes()).expect("a NAD");
    let upf = attach_pod(&lab);
    let (agent, status) = agent_in(&lab, "tc");
    assert_eq!(problems(&status), Vec::<String>::new());
    is_answered(&lab.gnb, upf);
    let before = ["echo-answered", "unknown-teid"].map(|it| counted(&lab, "core/n3", it));
    assert!(before.iter().all(|it| *it > 0), "{before:?}");

    let pod = instead_of(&lab, &lab.gnb, "n3", &GNB.to_string());
    is_answered(&pod, upf);
    let after = ["echo-answered", "unknown-teid"].map(|it| counted(&lab, "core/n3", it));
    assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{after:?}");
    agent.terminate().expect("a clean end");
}

/// The hops to the server that a user behind a pod sees, where the pod's gateway is a pod, too.
#[test]
fn tc_alone_tells_pods_under_the_master_where_packets_end() {
    let lab = lab_with("tc");
    let upf = attach_pod(&lab);
    let gnb_pod = instead_of(&lab, &lab.gnb, "n3", &GNB.to_string());
    let gateway = instead_of(&lab, &lab.dn, "n6", &GATEWAY.to_string());
    let via = upf_on_n6(&lab);
    gateway.ip(&format!("route add {UE_POOL} via {via} dev net1")).expect("a route to the users");
    let (agent, _) = agent_in(&lab, "tc");
    let config = gnb(&users(3), upf);
    let _gnb = gnb_pod.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let ue = users(1)[0].ue;
    let trouble = || format!("{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail());
    let up = hops(Host { namespace: &gnb_pod, address: ue }, GATEWAY);
    assert_eq!(up, [via.clone(), GATEWAY.to_string()], "from the user\n{}", trouble());
    let down = hops(Host { namespace: &gateway, address: GATEWAY }, ue);
    assert_eq!(down, [via, ue.to_string()], "from the gateway\n{}", trouble());
    agent.terminate().expect("a clean end");
}

fn counted(lab: &Lab, network: &str, reason: &str) -> u64 {
    let status = lab.status().expect("a status");
    let network = list(&status, "networks").iter().find(|it| it["name"] == network).expect("the network");
    network["counters"][reason]["packets"].as_u64().unwrap_or(0)
}
