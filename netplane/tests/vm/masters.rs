//! VLAN devices and bonds as masters: networks that differ by their tag only, and tunnels over a bond whose port
//! goes down.

use anyhow::{Context, Result};
use netplane_bench::lab::capture::{Capture, Frame, FrameSender};
use netplane_bench::lab::cni::{Sandbox, addresses};
use netplane_bench::lab::command::IP;
use netplane_bench::lab::gtp::{GtpDevice, GtpRole, PdpContext};
use netplane_bench::lab::traffic::{self, EchoServer, Host};
use netplane_bench::lab::upf_pod::LIMIT;
use netplane_bench::lab::users::{UE_POOL, users};
use netplane_bench::lab::wires::mac;
use netplane_bench::lab::{GATEWAY, GNB, Lab, Namespace, Process, SERVER, UE_MTU, nads, wait_for};
use netplane_common::testing::packet::{ETHERTYPE_IPV4, Ipv4, gtpu, tagged, udp};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;

/// The two networks of a kind, by the last letter of their names, and their tags.
pub(crate) const NETWORKS: [(&str, u16); 2] = [("a", 100), ("b", 200)];
const UE: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
/// What host-local gives the first pod of each network.
const POD_N3: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 50);
const UPLINK: u32 = 0x1001;
const DOWNLINK: u32 = 0x2001;

fn lab() -> Lab {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    nads::apply(&lab, 3).expect("the default network");
    lab
}

/// A NAD of macvlan with host-local addresses.
pub(crate) fn nad(name: &str, master: &str, metadata: &Value, ipam: &Value) -> Vec<u8> {
    let config =
        json!({ "cniVersion": "1.1.0", "type": "macvlan", "master": master, "mode": "bridge", "ipam": ipam });
    let annotations = json!({ "netplane.dev/fast-path": metadata.to_string() });
    let nad = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": name, "namespace": "core", "annotations": annotations },
        "spec": { "config": config.to_string() },
    });
    nad.to_string().into_bytes()
}

/// One user's tunnel from an access network to a data network.
fn access(data: &str) -> Value {
    let session = json!({
        "name": "ue", "ue": [UE],
        "uplink": { "teid": UPLINK, "to": format!("core/{data}") },
        "downlink": { "peer": GNB, "teid": DOWNLINK },
    });
    json!({ "role": "access", "gtpu": { "peers": ["10.30.0.0/24"] }, "sessions": [session] })
}

pub(crate) fn n3_addresses() -> Value {
    json!({ "type": "host-local", "subnet": "10.30.0.0/24", "rangeStart": POD_N3 })
}

pub(crate) fn n6_addresses() -> Value {
    json!({
        "type": "host-local", "subnet": "10.40.0.0/24", "rangeStart": "10.40.0.50", "gateway": GATEWAY,
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

fn data() -> Value {
    json!({ "role": "data", "uePools": [UE_POOL] })
}

/// Waits until so many sessions forward.
fn forwarding(lab: &Lab, agent: &Process, n_sessions: usize) -> Result<Value> {
    let probe = || {
        let status = lab.status().unwrap_or_default();
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let all = sessions.len() == n_sessions && sessions.iter().all(|it| it["state"] == "forwarding");
        Ok(all.then_some(status))
    };
    wait_for("sessions forward", LIMIT, probe)
        .with_context(|| format!("{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail()))
}

/// Packets that sessions have forwarded.
fn forwarded(status: &Value) -> u64 {
    let sessions = status["sessions"].as_array().into_iter().flatten();
    let ways =
        sessions.flat_map(|it| ["uplink", "downlink"].map(|way| it[way]["packets"].as_u64().unwrap_or(0)));
    ways.sum()
}

/// A second pod's sandbox, which goes with the value.
struct OtherPod(Namespace);

impl OtherPod {
    fn new(lab: &Lab) -> Result<Self> {
        let name = format!("{}-upf2", lab.name());
        IP.run(["netns", "add", &name])?;
        Ok(Self(Namespace::open(&name, &Path::new("/run/netns").join(&name))?))
    }
}

impl Drop for OtherPod {
    fn drop(&mut self) {
        let _gone = IP.run(["netns", "del", self.0.name()]);
    }
}

fn octets(text: &str) -> [u8; 6] {
    let octets: Vec<_> = text.split(':').map(|it| u8::from_str_radix(it, 16).expect("hexadecimal")).collect();
    octets.try_into().expect("six octets")
}

/// Incoming frames with this source MAC, to this address.
fn count(frames: &[Frame], source: [u8; 6], destination: Ipv4Addr) -> usize {
    let is_it = |it: &&Frame| {
        !it.outgoing
            && it.bytes.get(6..12) == Some(&source)
            && it.bytes.get(30..34) == Some(&destination.octets())
    };
    frames.iter().filter(is_it).count()
}

/// VLAN devices on a parent of the node, and their other ends at a host, which has the address on each.
pub(crate) fn vlans(lab: &Lab, host: &Namespace, parent: &str, address: &str) -> Result<()> {
    // As on a wire: the tag in the frame.
    host.ethtool(parent, &["txvlan", "off"])?;
    for (letter, tag) in NETWORKS {
        lab.node.ip(&format!(
            "link add link {parent} name {parent}{letter} type vlan id {tag}\nlink set {parent}{letter} up"
        ))?;
        host.ip(&format!(
            "link add link {parent} name v{letter} type vlan id {tag}\naddress add {address} dev v{letter}\n\
             link set v{letter} up"
        ))?;
    }
    Ok(())
}

#[test]
fn networks_that_differ_by_their_tag_only_stay_apart() {
    let lab = lab();
    vlans(&lab, &lab.gnb, "n3", &format!("{GNB}/24")).expect("VLANs on N3");
    vlans(&lab, &lab.dn, "n6", &format!("{GATEWAY}/24")).expect("VLANs on N6");
    for (letter, _) in NETWORKS {
        let n3 = nad(
            &format!("n3{letter}"),
            &format!("n3{letter}"),
            &access(&format!("n6{letter}")),
            &n3_addresses(),
        );
        let n6 = nad(&format!("n6{letter}"), &format!("n6{letter}"), &data(), &n6_addresses());
        // The first take the examples' places.
        let file = |network: &str| {
            if letter == "a" { format!("{network}.yaml") } else { format!("{network}b.yaml") }
        };
        lab.write_nad(&file("n3"), &n3).expect("a NAD");
        lab.write_nad(&file("n6"), &n6).expect("a NAD");
    }
    let other = OtherPod::new(&lab).expect("a second pod");
    let pods = [&lab.pod, &other.0];
    for (pod, (letter, _)) in pods.iter().zip(NETWORKS) {
        let networks = format!("n3{letter}, n6{letter}");
        let sandbox = Sandbox { container_id: pod.name().to_owned(), namespace: pod, networks: &networks };
        sandbox.add(&lab).expect("attached");
        assert_eq!(
            addresses(pod, "net1").expect("net1"),
            [format!("{POD_N3}/24")],
            "the same in both networks"
        );
    }
    let agent = lab.start_agent().expect("an agent");
    let status = forwarding(&lab, &agent, 2).expect("one session on each network");
    let before = forwarded(&status);
    assert_eq!(status["notes"], Value::Null, "tracepoints are there");

    let capture = |host, name: &str| Capture::start(host, name).expect("a capture");
    let on_n6 = NETWORKS.map(|(letter, _)| capture(&lab.dn, &format!("v{letter}")));
    let on_n3 = NETWORKS.map(|(letter, _)| capture(&lab.gnb, &format!("v{letter}")));
    let [gnb, dn] =
        [(&lab.gnb, "n3"), (&lab.dn, "n6")].map(|(it, name)| FrameSender::open(it, name).expect("a wire"));
    let macs = pods.map(|pod| ["net1", "net2"].map(|it| octets(&mac(pod, it).expect("a MAC"))));
    let inner = Ipv4::new(UE, SERVER, udp(40_000, 9, b"up")).bytes();
    let outer = Ipv4::new(GNB, POD_N3, udp(2152, 2152, &gtpu(0x30, 255, UPLINK, &inner))).bytes();
    let down = Ipv4::new(SERVER, UE, udp(9, 40_000, b"down")).bytes();
    // Different numbers for each network and direction, so that nothing can be taken for another.
    let (ups, downs) = ([30, 20], [10, 15]);
    for (index, (_, tag)) in NETWORKS.into_iter().enumerate() {
        let [n3_mac, n6_mac] = macs[index];
        let up = tagged(n3_mac, [2; 6], tag, ETHERTYPE_IPV4, &outer);
        assert!((0..ups[index]).all(|_| gnb.send(&up)));
        let down = tagged(n6_mac, [4; 6], tag, ETHERTYPE_IPV4, &down);
        assert!((0..downs[index]).all(|_| dn.send(&down)));
        // The other network's tag with this one's MAC is for nobody.
        let wrong = tagged(n3_mac, [2; 6], NETWORKS[1 - index].1, ETHERTYPE_IPV4, &outer);
        assert!(gnb.send(&wrong));
    }
    let sent = (ups.iter().sum::<i32>() + downs.iter().sum::<i32>()) as u64;
    wait_for("sessions count", LIMIT, || Ok((forwarded(&lab.status()?) - before >= sent).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {:#}", lab.status().unwrap_or_default()));
    assert_eq!(forwarded(&lab.status().expect("a status")) - before, sent);
    let frames = |captures: [Capture; 2]| captures.map(|it| it.stop().expect("frames"));
    let (on_n6, on_n3) = (frames(on_n6), frames(on_n3));
    for (index, [n3_mac, n6_mac]) in macs.into_iter().enumerate() {
        let seen =
            |all: &[Vec<Frame>; 2], source, to| [count(&all[0], source, to), count(&all[1], source, to)];
        let mut wanted = [[0; 2]; 2];
        (wanted[0][index], wanted[1][index]) = (ups[index] as usize, downs[index] as usize);
        assert_eq!([seen(&on_n6, n6_mac, SERVER), seen(&on_n3, n3_mac, GNB)], wanted, "network {index}");
    }
    agent.terminate().expect("the agent ends");
}

/// A bond of two wires between the node and the gNB host, which takes over the gNB's address.
fn bond(lab: &Lab, mode: &str) -> Result<()> {
    for port in ["b0", "b1"] {
        lab.node.ip(&format!("link add {port} type veth peer name {port} netns {}", lab.gnb.name()))?;
    }
    lab.gnb.ip(&format!("address del {GNB}/24 dev n3"))?;
    for end in [&lab.node, &lab.gnb] {
        for port in ["b0", "b1"] {
            end.ethtool(port, &["tx", "off", "tso", "off", "gso", "off", "sg", "off"])?;
            end.ethtool(port, &["gro", "on"])?;
        }
        end.ip(&format!(
            "link add bond0 type bond mode {mode} miimon 50\nlink set b0 master bond0\nlink set b1 master bond0\n\
             link set bond0 up"
        ))?;
    }
    lab.gnb.ip(&format!("address add {GNB}/24 dev bond0"))
}

fn over_a_bond(mode: &str) {
    let lab = lab();
    bond(&lab, mode).expect("a bond");
    lab.write_nad("n3.yaml", &nad("n3", "bond0", &access("n6"), &n3_addresses())).expect("a NAD");
    let container_id = format!("{}-sandbox", lab.pod.name());
    Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab).expect("attached");
    let user = &users(1)[0];
    let device = GtpDevice::create(&lab.gnb, "gtp0", GtpRole::Sgsn, UE_MTU).expect("a GTP device");
    let context = PdpContext { ue: user.ue, local_teid: DOWNLINK, peer: POD_N3, peer_teid: UPLINK };
    device.add(&context).expect("a tunnel");
    lab.gnb
        .ip(&format!("address add {UE}/32 dev gtp0\nroute add {SERVER}/32 dev gtp0 src {UE}"))
        .expect("a route");
    lab.dn.ip(&format!("route add {UE_POOL} via 10.40.0.50")).expect("a route");
    let agent = lab.start_agent().expect("an agent");
    let before = forwarded(&forwarding(&lab, &agent, 1).expect("the session"));

    let [user, server] =
        [(&lab.gnb, UE), (&lab.dn, SERVER)].map(|(namespace, address)| Host { namespace, address });
    let answers = || Ok(traffic::ping(user, SERVER, 3, 500)?.is_complete().then_some(()));
    wait_for("answers over the bond", LIMIT, answers).expect("ping");
    let _echo = EchoServer::start(server).expect("a server");
    let udp = traffic::udp::bulk(user, server, 100, 1000, 4).expect("UDP");
    assert_eq!((udp.sent, udp.returned), (100, 100));
    // One port goes down; the other carries all.
    lab.gnb.ip("link set b0 down").expect("a port down");
    wait_for("answers over the other port", LIMIT, answers).expect("ping");
    let udp = traffic::udp::bulk(user, server, 100, 1000, 4).expect("UDP");
    assert_eq!((udp.sent, udp.returned), (100, 100));
    let all = forwarded(&lab.status().expect("a status")) - before;
    assert!(
        all >= 2 * (3 + 100 + 3 + 100),
        "{all} packets by the session: {:#}",
        lab.status().unwrap_or_default()
    );
    agent.terminate().expect("the agent ends");
}

#[test]
fn a_tunnel_over_an_active_backup_bond_outlives_its_port() {
    over_a_bond("active-backup");
}

#[test]
fn a_tunnel_over_a_balanced_bond_outlives_its_port() {
    over_a_bond("balance-xor");
}
