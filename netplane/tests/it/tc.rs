//! The TC programs on real devices: offloads, VLAN tags, pods under one master.

use crate::agent::{list, problems, until};
use netplane_bench::lab::cni::{Sandbox, addresses};
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{Host, tcp};
use netplane_bench::lab::tshark::CHECKSUM_GOOD;
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::wires::{Seen, Tap};
use netplane_bench::lab::{Lab, MTU, Process, SERVER};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::Path;

const N3: &str = include_str!("../../../examples/nads/n3.yaml");
const N6: &str = include_str!("../../../examples/nads/n6.yaml");
const DEFAULT: &str = include_str!("../../../examples/nads/default-network.yaml");

/// Bytes in front of the IP packet.
const ETHERNET: usize = 14;

/// A lab with both networks in this mode.
pub(crate) fn lab_with(mode: &str) -> Lab {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let with_mode = |nad: &str| {
        let changed = nad.replacen("\"role\":", &format!("\"xdp\": \"{mode}\", \"role\":"), 1);
        assert_ne!(changed, nad);
        changed
    };
    for (name, text) in
        [("default-network.yaml", DEFAULT.to_owned()), ("n3.yaml", with_mode(N3)), ("n6.yaml", with_mode(N6))]
    {
        lab.write_nad(name, text.as_bytes()).expect("a NAD");
    }
    lab
}

/// The UPF's pod attached, and its address on N3; the users' way back is known.
pub(crate) fn attach_pod(lab: &Lab) -> Ipv4Addr {
    let container_id = format!("{}-sandbox", lab.pod.name());
    Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(lab).expect("attached");
    let address = |interface| -> Ipv4Addr {
        let addresses = addresses(&lab.pod, interface).expect("an interface");
        addresses[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address")
    };
    lab.dn.ip(&format!("route add {UE_POOL} via {}", address("net2"))).expect("a route to the users");
    address("net1")
}

/// An agent whose sessions forward with the masters in this mode.
pub(crate) fn agent_in(lab: &Lab, mode: &str) -> (Process, Value) {
    let agent = lab.start_agent().expect("an agent");
    let status = until(lab, &agent, "sessions forward", |it| {
        let sessions = list(it, "sessions");
        sessions.len() == 3
            && sessions.iter().all(|it| it["state"] == "forwarding")
            && list(it, "masters").iter().all(|it| it["attached"] == mode)
    });
    (agent, status)
}

/// A captured TCP frame that is as on a wire: of the size that its headers say, with right checksums.
fn is_sound(seen: &Seen) -> Result<(), String> {
    let fields = &seen.fields;
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("\"{text}\" is no number"));
    let outer = number(fields.first("ip.len"))?;
    let mut wrong = Vec::new();
    let mut expect = |what: &str, right: bool| {
        if !right {
            wrong.push(what.to_owned());
        }
    };
    expect("frame length", seen.frame.bytes.len() == ETHERNET + outer && outer <= usize::from(MTU));
    if seen.is_gpdu() {
        expect("UDP length", number(fields.first("udp.length"))? == outer - 20);
        expect("GTP-U length", number(fields.first("gtp.length"))? == outer - 20 - 8 - 8);
        let optional = if fields.all("gtp.ext_hdr").is_empty() { 0 } else { 8 };
        expect("inner length", number(fields.last("ip.len"))? == outer - 20 - 8 - 8 - optional);
    }
    let good = |field: &str| fields.all(field).split(',').all(|it| it == CHECKSUM_GOOD);
    expect("IP checksum", good("ip.checksum.status"));
    // Linux writes 0xffff for 0 when it makes a checksum itself, as UDP has it: the same sum for every receiver, and
    // wrong for tshark alone (RFC 1624).
    let is_zero = fields.all("tcp.checksum") == "0xffff" && fields.all("tcp.checksum_calculated") == "0x0000";
    expect("TCP checksum", good("tcp.checksum.status") || is_zero);
    expect("dissection", fields.all("_ws.malformed").is_empty());
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}: {}", wrong.join(", "), seen.summary())) }
}

fn is_tcp(seen: &&Seen) -> bool {
    seen.fields.all("frame.protocols").split(':').any(|it| it == "tcp")
}

#[test]
fn tcp_with_all_offloads_leaves_tc_in_frames_as_on_a_wire() {
    let lab = lab_with("tc");
    // As hosts and pods come; what arrives must not be merged again before it is captured.
    let offloads = ["tx", "on", "sg", "on", "tso", "on", "gso", "on"];
    for (namespace, interface) in [(&lab.node, "n3"), (&lab.node, "n6"), (&lab.gnb, "n3"), (&lab.dn, "n6")] {
        namespace.ethtool(interface, &offloads).expect("offloads");
    }
    for (namespace, interface) in [(&lab.gnb, "n3"), (&lab.dn, "n6")] {
        namespace.ethtool(interface, &["gro", "off"]).expect("no merging");
    }
    let upf = attach_pod(&lab);
    let (agent, status) = agent_in(&lab, "tc");
    assert_eq!(problems(&status), Vec::<String>::new());
    let config = gnb(&users(3), upf);
    let _gnb = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let server = Host { namespace: &lab.dn, address: SERVER };

    let tap = Tap::start(&lab).expect("captures");
    tcp::echo(user, server, 2 << 20).unwrap_or_else(|error| {
        panic!("{error:#}\n{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail())
    });
    let wires = tap.stop(&lab, "offloads").expect("tshark");
    let merged =
        wires.n6.iter().filter(|it| it.frame.outgoing && it.frame.bytes.len() > 2 * usize::from(MTU));
    assert!(merged.count() > 10, "the server's kernel has sent merged segments");
    for (wire, seen) in [("n3", &wires.n3), ("n6", &wires.n6)] {
        let arrived: Vec<_> = seen.iter().filter(|it| !it.frame.outgoing).filter(is_tcp).collect();
        assert!(arrived.len() > 1000, "{wire}: {} frames", arrived.len());
        let wrong: Vec<_> = arrived.iter().filter_map(|it| is_sound(it).err()).take(5).collect();
        assert_eq!(wrong, Vec::<String>::new(), "on {wire}");
    }
    let status = lab.status().expect("a status");
    for network in list(&status, "networks") {
        assert_eq!(network["counters"]["merged"], Value::Null, "{network:#}");
    }
    agent.terminate().expect("a clean end");
    lab.detach_agent().expect("detached");
    assert!(lab.node.interfaces().expect("links").iter().all(|it| !it.starts_with("netplane")));
}
