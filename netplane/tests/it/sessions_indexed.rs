//! Sessions that packets find by an index, on a whole node: the array is what is looked at, it never says what is true no
//! more, and who has no slot is found by its hash.

use crate::agent::until;
use crate::sessions::POD;
use crate::sessions_rules::{Node, PEER_TEID, TEID};
use aya::maps::{HashMap, Map, MapData};
use netplane_bench::lab::GNB;
use netplane_client::Plain;
use netplane_client::v1::Session;
use netplane_common::map::{DownlinkEntry, DownlinkKey4, UplinkEntry, UplinkKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Slots of these tests' arrays.
const SLOTS: u32 = 64;

fn plain(number: u32, teid: u32) -> Session {
    let plain = Plain {
        ue: vec![format!("10.60.0.{}", number + 1)],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid,
        peer: GNB.to_string(),
        peer_teid: PEER_TEID,
        ..Plain::default()
    };
    plain.session(format!("ue-{number}"))
}

fn indexed(status: &Value) -> u64 {
    status["programmed"]["indexed"].as_u64().unwrap_or_default()
}

/// Waits until so many entries are found by an index.
#[track_caller]
fn settled(node: &Node, entries: u64) {
    until(&node.lab, &node.agent, "the sessions settle", |it| indexed(it) == entries);
}

/// What passes of the first user's packets. The other user's go behind them.
#[track_caller]
fn passes(node: &Node, ways: &[&str]) -> BTreeSet<String> {
    let mut packets: Vec<_> =
        ways.iter().map(|way| json!({ "way": way, "name": way, "user": "10.60.0.1" })).collect();
    packets.push(json!({ "way": "down", "name": "other", "user": "10.60.0.6" }));
    let mut seen: BTreeSet<_> = node.send(Value::Array(packets)).into_keys().collect();
    assert!(seen.remove("other"));
    seen
}

fn both() -> BTreeSet<String> {
    ["up", "down"].map(str::to_owned).into()
}

fn pinned(node: &Node, name: &str) -> Map {
    let path = node.lab.bpffs().join("v3/maps").join(name);
    let map = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Map::HashMap(map)
}

/// Takes everything out of the hashed tables, behind the agent's back.
fn empty_hashed(node: &Node) {
    let mut uplink: HashMap<_, UplinkKey, UplinkEntry> = pinned(node, "UPLINK").try_into().expect("UPLINK");
    let keys: Vec<_> = uplink.keys().collect::<Result<_, _>>().expect("keys");
    keys.iter().for_each(|it| uplink.remove(it).expect("removed"));
    let mut downlink: HashMap<_, DownlinkKey4, DownlinkEntry> =
        pinned(node, "DOWNLINK4").try_into().expect("DOWNLINK4");
    let keys: Vec<_> = downlink.keys().collect::<Result<_, _>>().expect("keys");
    keys.iter().for_each(|it| downlink.remove(it).expect("removed"));
}

#[test]
fn a_packet_finds_a_settled_session_without_its_hash_and_a_changed_one_at_once() {
    let mut node = Node::with(&["--max-sessions", "64"]);
    node.forwards(&plain(5, TEID + 5));
    node.forwards(&plain(0, TEID));
    assert_eq!(passes(&node, &["up", "down"]), both());
    settled(&node, 4);
    assert_eq!(passes(&node, &["up", "down"]), both());

    // Changed: no packet takes what the array had.
    let mut elsewhere = plain(0, TEID);
    for to in elsewhere.fars.iter_mut().filter_map(|it| it.forwarding_parameters.as_mut()) {
        to.outer_header_creation.iter_mut().for_each(|it| it.teid = PEER_TEID + 1);
    }
    assert_eq!(node.put(&elsewhere), []);
    assert_eq!(passes(&node, &["up", "down"]), ["up".to_owned()].into(), "down is in another tunnel");
    settled(&node, 4);
    assert_eq!(passes(&node, &["up", "down"]), ["up".to_owned()].into());
    node.forwards(&plain(0, TEID));
    settled(&node, 4);

    // The next agent has arrays of its own.
    node.agent.kill().expect("killed");
    node.restart();
    settled(&node, 4);
    empty_hashed(&node);
    assert_eq!(passes(&node, &["up", "down"]), both(), "found in the arrays");

    // Gone: an element that is left would forward.
    node.runtime.block_on(node.client.delete(POD, ["ue-0".to_owned()])).expect("deleted");
    assert_eq!(passes(&node, &["down"]), BTreeSet::new());
    assert_eq!(node.dropped("pass-unknown-teid"), 0);
    node.send(json!([
        { "way": "gtpu", "type": 255, "teid": TEID },
        { "way": "down", "name": "other", "user": "10.60.0.6" },
    ]));
    assert_eq!(node.dropped("pass-unknown-teid"), 1);
    settled(&node, 2);
}

#[test]
fn sessions_of_one_slot_all_forward_and_teids_that_the_agent_gives_have_slots() {
    let mut node = Node::with(&["--max-sessions", "64"]);
    // The same slot for the uplink, and others for the users.
    let given = 40;
    node.forwards(&plain(5, TEID + SLOTS));
    settled(&node, 2);
    node.forwards(&plain(0, TEID));
    settled(&node, 3);
    assert_eq!(passes(&node, &["up", "down"]), both(), "hashed up, indexed down");

    // A slot that has become free is the next one's to come.
    assert_eq!(node.put(&plain(5, TEID + SLOTS + 1)), []);
    assert_eq!(node.put(&plain(0, TEID + 2 * SLOTS)), []);
    settled(&node, 4);
    assert_eq!(passes(&node, &["down"]), ["down".to_owned()].into());

    let chosen = (10..10 + given).map(|it| plain(it, 0));
    assert_eq!(node.runtime.block_on(node.client.put(POD, 1, chosen)).expect("an answer"), []);
    settled(&node, 4 + 2 * u64::from(given));
}
