//! Packets of idle users that are not the usual ones: of an IPv6 user in a tunnel over IPv6, and in fragments.

use crate::ipv6::{GATEWAY6, GNB6, SERVER6, nad, pod_addresses};
use crate::sessions::lab;
use crate::sessions_buffer::{QFI, downlink, idle, keeps, numbers, plain};
use crate::sessions_rules::{Node, PEER_TEID, UE, address};
use netplane_bench::lab::{GNB, Lab, SERVER};
use netplane_client::v1::Session;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

const UE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x60, 1, 0, 0, 0, 7);
const LIMIT: Duration = Duration::from_secs(20);

/// Both networks with both families, and no static sessions.
fn dual_stack() -> Lab {
    let lab = lab();
    lab.gnb.ip(&format!("address add {GNB6}/64 dev n3 nodad")).expect("the gNB's address");
    lab.dn
        .ip(&format!("address add {GATEWAY6}/64 dev n6 nodad\naddress add {SERVER6}/128 dev lo nodad"))
        .expect("the data network's addresses");
    lab.dn.sysctl("net/ipv6/conf/all/forwarding", "1").expect("a router");
    let n3 = nad("n3", r#"{"role":"access"}"#, ["10.30.0.0/24", "2001:db8:30::/64"], "");
    let data = r#"{"role":"data","uePools":["10.60.0.0/16","2001:db8:60::/48"]}"#;
    let routes = r#","routes":[{"dst":"0.0.0.0/0","gw":"10.40.0.1"},{"dst":"::/0","gw":"2001:db8:40::1"}]"#;
    let n6 = nad("n6", data, ["10.40.0.0/24", "2001:db8:40::/64"], routes);
    for (name, text) in [("n3.yaml", &n3), ("n6.yaml", &n6)] {
        lab.write_nad(name, text.as_bytes()).expect("a NAD");
    }
    lab
}

/// The session is an IPv6 user's, and its tunnel goes over IPv6.
fn six(mut session: Session) -> Session {
    for pdi in session.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
        pdi.ue_ip_addresses = vec!["2001:db8:60:1::/64".to_owned()];
    }
    let parameters = session.fars.iter_mut().filter_map(|it| it.forwarding_parameters.as_mut());
    parameters
        .filter_map(|it| it.outer_header_creation.as_mut())
        .for_each(|it| it.address = GNB6.to_string());
    session
}

fn bound(lab: &Lab, in_dn: bool, address: IpAddr, port: u16) -> UdpSocket {
    let namespace = if in_dn { &lab.dn } else { &lab.gnb };
    let socket =
        namespace.run(|| UdpSocket::bind((address, port))).expect("the namespace").expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

#[test]
fn packets_of_an_ipv6_user_are_kept_and_released_over_ipv6() {
    let mut node = Node::on(dual_stack(), &[]);
    let [_, n6] = pod_addresses(&node.lab, "net2");
    node.lab.dn.ip(&format!("route add 2001:db8:60::/48 via {n6}")).expect("a route to the users");
    let gnb = bound(&node.lab, false, GNB6.into(), 2152);
    let server = bound(&node.lab, true, SERVER6.into(), 0);
    let send = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let mut payload = [0; 100];
            payload[96..].copy_from_slice(&number.to_be_bytes());
            server.send_to(&payload, (UE6, 9)).expect("sent");
        }
    };
    node.forwards(&six(plain()));
    send(0..5);
    assert_eq!(numbers(&node, &gnb, PEER_TEID, 5), (0..5).collect::<Vec<_>>());
    assert_eq!(node.put(&six(idle())), []);
    send(5..25);
    keeps(&node, 20);
    node.forwards(&six(plain()));
    assert_eq!(numbers(&node, &gnb, PEER_TEID, 20), (5..25).collect::<Vec<_>>());
    keeps(&node, 0);
    // 100 bytes behind UDP and IPv6, each once.
    assert_eq!(downlink(&mut node), (25, 25 * 148));
    assert_eq!(["buffer-overflow", "buffer-discarded", "not-buffered"].map(|it| node.dropped(it)), [0; 3]);
}

/// An inner IPv4 packet in a G-PDU with QFI: identification, offset in bytes, whether more follow, and the data.
fn fragment(gnb: &UdpSocket) -> (u16, usize, bool, Vec<u8>) {
    let mut buffer = [0; 4096];
    let length = gnb.recv(&mut buffer).expect("a packet in time");
    // The eight bytes of the header, four optional ones, and the container.
    let inner = &buffer[16..length];
    assert_eq!((inner[0], buffer[14]), (0x45, QFI as u8));
    let word = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
    assert_eq!(usize::from(word(2)), inner.len());
    (word(4), usize::from(word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0, inner[20..].to_vec())
}

/// Only the first has ports: the session's PDR is for all packets, and the others are kept behind it.
#[test]
fn fragments_are_kept_and_released_in_order() {
    let mut node = Node::on(lab(), &[]);
    // What the server sends is less than what fits the tunnel.
    let n6 = address(&node.lab, "net2");
    node.lab.dn.ip(&format!("route replace 10.60.0.0/16 via {n6} mtu lock 1300")).expect("a route");
    let gnb = bound(&node.lab, false, GNB.into(), 2152);
    let server = bound(&node.lab, true, SERVER.into(), 0);
    node.forwards(&plain());
    assert_eq!(node.put(&idle()), []);
    let datagrams: Vec<Vec<u8>> = (0_u8..4)
        .map(|number| (0..3000_u32).map(|it| number ^ it as u8 ^ (it >> 8) as u8).collect())
        .collect();
    for datagram in &datagrams {
        server.send_to(datagram, (UE, 9)).expect("sent");
    }
    keeps(&node, 12);
    node.forwards(&plain());
    for datagram in &datagrams {
        let (mut whole, mut identification) = (Vec::new(), None);
        loop {
            let (id, offset, more, data) = fragment(&gnb);
            assert_eq!(
                (offset, *identification.get_or_insert(id)),
                (whole.len(), id),
                "in order, of one datagram"
            );
            whole.extend(data);
            if !more {
                break;
            }
        }
        // Behind the UDP header.
        assert_eq!(whole[8..], datagram[..]);
    }
    assert_eq!(downlink(&mut node).0, 12);
    assert_eq!(["buffer-overflow", "buffer-discarded", "not-buffered"].map(|it| node.dropped(it)), [0; 3]);
}
