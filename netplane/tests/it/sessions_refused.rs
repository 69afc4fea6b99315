//! A batch of which most cannot be: each kind of refusal by code and name; the rest is carried out and forwards.

use crate::agent::LIMIT;
use crate::sessions::POD;
use crate::sessions_rules::Node;
use netplane_bench::lab::{GNB, wait_for};
use netplane_client::v1::{Session, State};
use netplane_client::{Plain, Refused};
use serde_json::json;
use tonic::Code;

/// The first one is that of the packets of [`Node::send`].
fn plain(number: u32) -> Session {
    let (access, data) = ("core/n3".to_owned(), "core/n6".to_owned());
    let ue = vec![format!("10.60.0.{}", number + 1)];
    let (teid, peer_teid, peer) = (0x1001 + number, 0x2001 + number, GNB.to_string());
    Plain { ue, access, data, teid, peer, peer_teid, ..Plain::default() }.session(format!("ue-{number}"))
}

#[track_caller]
fn put(node: &mut Node, sessions: Vec<Session>) -> Vec<Refused> {
    node.runtime.block_on(node.client.put(POD, 1, sessions)).expect("an answer")
}

#[track_caller]
fn listed(node: &mut Node) -> Vec<String> {
    let list = node.runtime.block_on(node.client.list(POD)).expect("a list");
    let mut ids: Vec<_> = list.into_iter().filter_map(|it| it.session).map(|it| it.id).collect();
    ids.sort();
    ids
}

/// A packet each way.
#[track_caller]
fn the_first_forwards(node: &mut Node) {
    let Node { runtime, client, .. } = node;
    let ready = || {
        let state = runtime.block_on(client.get(POD, "ue-0"))?.state();
        Ok((state == State::Forwarding).then_some(()))
    };
    wait_for("the session forwards", LIMIT, ready).expect("in time");
    let seen = node.send(json!([{ "way": "up", "name": "up" }, { "way": "down", "name": "down" }]));
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn each_refusal_has_its_code_and_the_rest_of_the_batch_is_done() {
    let mut node = Node::with(&[]);
    let with = |id: &str, change: &dyn Fn(&mut Session)| {
        let mut session = Session { id: id.to_owned(), ..plain(7) };
        change(&mut session);
        session
    };
    fn pdi(session: &mut Session, pdr: usize) -> &mut netplane_client::v1::Pdi {
        session.pdrs[pdr].pdi.as_mut().expect("a PDI")
    }
    let network = |it: &mut Session, name: &str| pdi(it, 0).network_instance = name.to_owned();
    let user = |it: &mut Session, ue: &str| {
        for pdr in 0..2 {
            pdi(it, pdr).ue_ip_addresses = vec![ue.to_owned()];
        }
    };
    let teid = |it: &mut Session, teid: u32| {
        pdi(it, 0).local_f_teid.as_mut().expect("an F-TEID").teid = teid;
    };
    let batch = vec![
        plain(1),
        with("unknown network", &|it| network(it, "core/n9")),
        with("wrong role", &|it| network(it, "core/n6")),
        with("no name", &|it| network(it, "n3")),
        with("user elsewhere", &|it| user(it, "10.99.0.1")),
        with("no address", &|it| user(it, "10.60.0.x")),
        with("user taken", &|it| user(it, "10.60.0.2")),
        with("teid taken", &|it| teid(it, 0x1002)),
        with("not local", &|it| {
            pdi(it, 0).local_f_teid.as_mut().expect("an F-TEID").address = "10.30.0.99".to_owned();
        }),
        with("precedence", &|it| {
            let again = it.pdrs[0].clone();
            it.pdrs.push(netplane_client::v1::Pdr { id: 9, ..again });
        }),
        with("no rule", &|it| it.pdrs.clear()),
        with("", &|_| ()),
        plain(0),
    ];
    let refused = put(&mut node, batch);
    let wanted = [
        ("unknown network", Code::NotFound, "core/n9 is no network with fast-path metadata"),
        ("wrong role", Code::InvalidArgument, "core/n6 has role Data, should be Access"),
        ("no name", Code::InvalidArgument, "n3"),
        ("user elsewhere", Code::PermissionDenied, "10.99.0.1 is in none of the uePools of core/n6"),
        ("no address", Code::InvalidArgument, "10.60.0.x"),
        ("user taken", Code::AlreadyExists, "10.60.0.2 is that of session ue-1"),
        ("teid taken", Code::AlreadyExists, "0x1002 is that of session ue-1"),
        ("not local", Code::PermissionDenied, "10.30.0.99 is no address of pod core/upf-0 on core/n3"),
        ("precedence", Code::InvalidArgument, "precedence: 100 is that of PDR 1, too"),
        ("no rule", Code::InvalidArgument, "pdrs"),
        ("", Code::InvalidArgument, "id"),
    ];
    assert_eq!(refused.len(), wanted.len(), "{refused:#?}");
    for (said, (id, code, part)) in refused.iter().zip(wanted) {
        assert!(said.id == id && said.code == code && said.message.contains(part), "{said:?}, not {part:?}");
    }
    assert_eq!(listed(&mut node), ["ue-0", "ue-1"]);
    the_first_forwards(&mut node);
}
