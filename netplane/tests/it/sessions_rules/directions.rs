//! What goes one way only on a whole node: closed gates, and tunnels that are relayed, as on N9, each way by a session
//! of its own.

use super::{DNS, Node, TCP, address, down, fars, filter, qfi, session, up};
use crate::agent::LIMIT;
use crate::sessions::{POD, lab};
use netplane_bench::lab::{GNB, SERVER};
use netplane_client::v1::{
    ApplyAction, FTeid, Far, ForwardingParameters, Gate, Interface, OuterHeaderCreation, Pdi, Pdr, Qer,
    SdfFilter, Session,
};
use netplane_common::testing::packet::{Ipv4, gtpu_with_container, udp};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

#[test]
fn a_closed_gate_drops_its_flow_in_its_direction_only() {
    let mut node = Node::new();
    let of_flow = |pdr: Pdr| Pdr { qer_ids: vec![5], ..pdr };
    let gated = |uplink_gate: Gate, downlink_gate: Gate| {
        let gates = Qer { uplink_gate: uplink_gate.into(), downlink_gate: downlink_gate.into(), ..qfi(5, 5) };
        let pdrs = vec![
            up(1, 0, 1, filter(TCP)),
            of_flow(up(2, 1, 1, filter(DNS))),
            up(3, 2, 1, Vec::new()),
            of_flow(down(4, 1, 2, filter(DNS))),
            down(5, 2, 2, Vec::new()),
        ];
        session(pdrs, vec![gates], Vec::new())
    };
    let packets = json!([
        { "way": "up", "name": "query", "port": 53, "times": 3 },
        { "way": "up", "name": "other" },
        { "way": "down", "name": "answer", "port": 53, "times": 4 },
        { "way": "down", "name": "other answer" },
        { "way": "up", "name": "last up", "protocol": "tcp" },
        { "way": "down", "name": "last down" },
    ]);
    let always = ["other", "other answer", "last up", "last down"].map(|it| (it.to_owned(), (1, None)));
    for (gates, passing, dropped) in [
        ((Gate::Closed, Gate::Open), Some(("answer", (4, Some(5)))), 3),
        ((Gate::Open, Gate::Closed), Some(("query", (3, None))), 3 + 4),
        ((Gate::Closed, Gate::Closed), None, 3 + 4 + 7),
    ] {
        node.forwards(&gated(gates.0, gates.1));
        let mut wanted = BTreeMap::from(always.clone());
        wanted.extend(passing.map(|(name, it)| (name.to_owned(), it)));
        assert_eq!(node.send(packets.clone()), wanted, "{gates:?}");
        assert_eq!(node.dropped("session-drop"), dropped, "{gates:?}");
    }
}

/// Another UPF on the same wire.
const OTHER_UPF: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 11);

/// Packets that arrive in one tunnel leave in another one.
fn relayed(id: &str, from: u32, (to, peer): (u32, Ipv4Addr), sdf_filters: Vec<SdfFilter>) -> Session {
    let pdi = Pdi {
        source_interface: Interface::Access.into(),
        network_instance: "core/n3".to_owned(),
        local_f_teid: Some(FTeid { teid: from, ..FTeid::default() }),
        sdf_filters,
        ..Pdi::default()
    };
    let parameters = ForwardingParameters {
        destination_interface: Interface::Core.into(),
        network_instance: "core/n3".to_owned(),
        outer_header_creation: Some(OuterHeaderCreation { teid: to, address: peer.to_string() }),
        send_end_marker: false,
    };
    let far = Far {
        id: 1,
        apply_action: ApplyAction::Forw.into(),
        forwarding_parameters: Some(parameters),
        ..fars().remove(0)
    };
    let pdr =
        Pdr { id: 1, precedence: 1, pdi: Some(pdi), outer_header_removal: true, far_id: 1, ..Pdr::default() };
    Session { id: id.to_owned(), pdrs: vec![pdr], fars: vec![far], ..Session::default() }
}

#[test]
fn tunnels_are_relayed_each_way_by_filters() {
    let lab = lab();
    lab.gnb.ip(&format!("addr add {OTHER_UPF}/24 dev n3")).expect("another address");
    let mut node = Node::on(lab, &[]);
    let bind = |address: Ipv4Addr| {
        let socket =
            node.lab.gnb.run(|| UdpSocket::bind((address, 2152))).expect("the namespace").expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket
    };
    let (gnb, other) = (bind(GNB), bind(OTHER_UPF));
    // Up only DNS, down all.
    node.forwards(&relayed("up", 0x5001, (0x6001, OTHER_UPF), filter(DNS)));
    node.forwards(&relayed("down", 0x5002, (0x6002, GNB), Vec::new()));
    let pod: Ipv4Addr = address(&node.lab, "net1").parse().expect("an address");
    let user = Ipv4Addr::new(10, 60, 0, 1);
    let send = |socket: &UdpSocket, teid: u32, inner: &[u8], kind: u8| {
        socket.send_to(&gtpu_with_container(teid, kind, 9, inner), (pod, 2152)).expect("sent");
    };
    let up = |port: u16, payload: &[u8]| Ipv4::new(user, SERVER, udp(40_000, port, payload)).bytes();
    let down = |port: u16, payload: &[u8]| Ipv4::new(SERVER, user, udp(port, 40_000, payload)).bytes();
    for number in 0..3 {
        send(&gnb, 0x5001, &up(53, &[number]), 1);
        send(&gnb, 0x5001, &up(54, &[number]), 1);
        send(&other, 0x5002, &down(54, &[number]), 0);
    }
    let arrived = |socket: &UdpSocket| {
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).expect("a packet in time");
        let teid = u32::from_be_bytes(buffer[4..8].try_into().expect("four bytes"));
        (teid, buffer[8..length].to_vec())
    };
    // All behind the TEID is as it was: the container and the user's packet with its TTL.
    for number in 0..3 {
        let rest = |kind: u8, inner: Vec<u8>| gtpu_with_container(0, kind, 9, &inner)[8..].to_vec();
        assert_eq!(arrived(&other), (0x6001, rest(1, up(53, &[number]))));
        assert_eq!(arrived(&gnb), (0x6002, rest(0, down(54, &[number]))));
    }
    assert_eq!(node.dropped("no-rule"), 3);
    for (id, packets) in [("up", 3), ("down", 3)] {
        let state = node.runtime.block_on(node.client.get(POD, id)).expect("the session");
        assert_eq!(state.uplink.unwrap_or_default().packets, packets, "{state:?}");
    }
}
