//! Framed routes on a whole node: scapy's packets of hosts behind a user pass both ways, and nobody else's.

use crate::sessions::POD;
use crate::sessions_rules::{Node, PEER_TEID};
use netplane_bench::lab::{GNB, wait_for};
use netplane_client::Plain;
use netplane_client::v1::Session;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tonic::Code;

/// The first one is that of the packets of [`Node::send`].
fn framed(number: u32, routes: &[&str]) -> Session {
    let (access, data) = ("core/n3".to_owned(), "core/n6".to_owned());
    let ue = vec![format!("10.60.0.{}", number + 1)];
    let (teid, peer_teid, peer) = (0x1001 + number, PEER_TEID, GNB.to_string());
    let plain = Plain { ue, access, data, teid, peer, peer_teid, ..Plain::default() };
    let mut session = plain.session(format!("ue-{number}"));
    for pdi in session.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
        pdi.framed_routes = routes.iter().map(|it| (*it).to_owned()).collect();
    }
    session
}

/// The host 5 of a prefix, the user itself, and a host of nobody, both ways; what has arrived.
#[track_caller]
fn seen(node: &Node) -> BTreeSet<String> {
    let host = |way: &str, name: &str, user: &str| -> Value {
        json!({ "way": way, "name": format!("{name} {way}"), "user": user })
    };
    let mut packets = Vec::new();
    for way in ["up", "down"] {
        packets.push(host(way, "first", "10.60.70.5"));
        packets.push(host(way, "second", "10.60.80.5"));
        packets.push(host(way, "nobody", "10.60.90.5"));
        packets.push(json!({ "way": way, "name": format!("user {way}") }));
    }
    node.send(Value::Array(packets)).into_keys().collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn hosts_behind_a_user_are_reached_through_its_session_and_send_through_it() {
    let mut node = Node::with(&[]);
    node.forwards(&framed(0, &["10.60.70.0/24"]));
    assert_eq!(seen(&node), names(["first up", "first down", "user up", "user down"]));
    assert_eq!(node.dropped("ue-spoofed"), 2);

    // Whose they are, and what they may be.
    node.forwards(&framed(1, &["10.60.80.0/25", "10.60.80.128/25"]));
    let wrong = [
        (framed(2, &["10.60.0.0/16"]), Code::AlreadyExists, "10.60.0.0/16 overlaps what is that of session"),
        (framed(3, &["10.60.70.5/32"]), Code::AlreadyExists, "overlaps what is that of session ue-0"),
        (framed(4, &["10.60.0.2/31"]), Code::AlreadyExists, "overlaps what is that of session ue-1"),
        (framed(5, &["10.99.0.0/24"]), Code::PermissionDenied, "10.99.0.0/24 is in none of the uePools"),
        (framed(6, &["10.60.71.1/24"]), Code::InvalidArgument, "should be 10.60.71.0/24"),
        (framed(7, &["10.60.71.0"]), Code::InvalidArgument, "should be a prefix"),
        (framed(8, &["2001:db8:60::/48"]), Code::InvalidArgument, "the user has no IPv6 address"),
        (framed(9, &["10.60.71.0/24", "10.60.71.8/29"]), Code::InvalidArgument, "overlaps 10.60.71.0/24"),
    ];
    let sessions: Vec<_> = wrong.iter().map(|(it, ..)| it.clone()).collect();
    let refused = node.runtime.block_on(node.client.put(POD, 1, sessions)).expect("an answer");
    assert_eq!(refused.len(), wrong.len(), "{refused:#?}");
    for (said, (session, code, part)) in refused.iter().zip(&wrong) {
        let is_wanted = said.id == session.id && said.code == *code && said.message.contains(part);
        assert!(is_wanted, "{said:?}, not {code:?} {part:?}");
    }
    let mut user = framed(10, &[]);
    for pdi in user.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
        pdi.ue_ip_addresses = vec!["10.60.70.9".to_owned()];
    }
    assert_eq!(node.put(&user)[0].code, Code::AlreadyExists, "an address behind another user");

    // An agent that is killed leaves them to the next one, which knows whose they are.
    node.agent.kill().expect("killed");
    node.restart();
    let forwards = |node: &mut Node| {
        let wanted = names(["first up", "first down", "second down", "user up", "user down"]);
        wait_for("both forward", crate::agent::LIMIT, || Ok((seen(node) == wanted).then_some(())))
    };
    forwards(&mut node).expect("in time");
    assert_eq!(node.put(&framed(3, &["10.60.70.5/32"]))[0].code, Code::AlreadyExists);

    // Changed and gone: what was a user's is free again.
    node.forwards(&framed(0, &["10.60.71.0/24"]));
    node.forwards(&framed(1, &[]));
    assert_eq!(seen(&node), names(["user up", "user down"]));
    node.forwards(&framed(0, &["10.60.70.0/24", "10.60.80.0/24"]));
    let all = ["first up", "first down", "second up", "second down", "user up", "user down"];
    assert_eq!(seen(&node), names(all));
}
