//! Tests of compile and diff, on worlds made in memory.

use super::diff::diff;
use super::tables::{Operation, Tables};
use super::*;
use crate::netlink::Mac;
use crate::netlink::addr::Address;
use crate::netlink::link::MacvlanMode;
use crate::netlink::neigh::Neighbour;
use crate::netlink::route::Route;
use ipnet::IpNet;
use netplane_common::map::{NextHopState, SessionAction, next_hop_flags, uplink_flags};
use netplane_common::wire::{Be32, ip};
use proptest::prelude::*;

mod counters;

const N3: &str = "core/n3";
const N6: &str = "core/n6";

pub(super) fn name(text: &str) -> NetworkName {
    NetworkName::try_from(text.to_owned()).expect("a name")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn link(index: u32, name: &str) -> Link {
    let mac = Some(Mac::new([2, 0, 0, 0, 0, index as u8]));
    Link {
        index,
        name: name.to_owned(),
        mac,
        mtu: 1500,
        up: true,
        kind: "veth".to_owned(),
        ..Link::default()
    }
}

/// net1 on 10.30.0.0/24, net2 on 10.40.0.0/24 with a default route.
fn snapshot(host: u8) -> Snapshot {
    let address =
        |index, text: String| Address { index, address: net(&text), tentative: false, duplicate: false };
    let route = |index, to: &str, gateway: Option<&str>| Route {
        destination: net(to),
        gateway: gateway.map(|it| it.parse().expect("an address")),
        index,
        metric: 0,
    };
    let neighbour = |index, text: &str| Neighbour {
        index,
        address: text.parse().expect("an address"),
        mac: Some(Mac::new([2, 0, 0, 0, 1, index as u8])),
    };
    Snapshot {
        links: vec![link(11, "net1"), link(12, "net2")],
        addresses: vec![address(11, format!("10.30.0.{host}/24")), address(12, format!("10.40.0.{host}/24"))],
        routes: vec![
            route(11, "10.30.0.0/24", None),
            route(12, "10.40.0.0/24", None),
            route(12, "0.0.0.0/0", Some("10.40.0.1")),
        ],
        neighbours: vec![neighbour(11, "10.30.0.10"), neighbour(12, "10.40.0.1")],
    }
}

pub(super) fn session(number: u32) -> String {
    format!(
        r#"{{"name":"s{number}","ue":["10.60.{}.{}"],"uplink":{{"teid":{},"to":"core/n6"}},
            "downlink":{{"peer":"10.30.0.10","teid":{},"qfi":9}}}}"#,
        number / 250,
        number % 250 + 1,
        0x1000 + number,
        0x2000 + number
    )
}

fn access(sessions: &[String]) -> FastPath {
    let text = format!(
        r#"{{"role":"access","gtpu":{{"peers":["10.30.0.0/24"]}},"sessions":[{}]}}"#,
        sessions.join(",")
    );
    FastPath::parse(&text).expect("an access network")
}

pub(super) fn attach(world: &mut World, container: &str, host: u8) {
    for (interface, network, master) in [("net1", N3, "n3"), ("net2", N6, "n6")] {
        let key = AttachmentKey { container: container.to_owned(), interface: interface.to_owned() };
        let pod = Some(name(&format!("core/{container}")));
        world
            .attachments
            .insert(key, Attachment { network: name(network), pod, master: Some(master.to_owned()) });
    }
    world.pods.insert(container.to_owned(), snapshot(host));
}

pub(super) fn world(sessions: &[String]) -> World {
    let data = FastPath::parse(r#"{"role":"data","uePools":["10.60.0.0/16"]}"#).expect("a data network");
    let mut world = World::default();
    world.networks.extend([(name(N3), access(sessions)), (name(N6), data)]);
    world.masters.extend([("n3".to_owned(), link(3, "n3")), ("n6".to_owned(), link(6, "n6"))]);
    attach(&mut world, "upf-0", 50);
    world
}

fn apply(tables: &mut Tables, operations: &[Operation]) {
    operations.iter().for_each(|it| tables.apply(it));
}

#[track_caller]
fn problem(world: &World, object: &str, part: &str) {
    let compiled = compile(world, &mut Slots::default());
    let found = compiled.problems.iter().any(|it| it.object == object && it.message.contains(part));
    assert!(found, "{object}: {part} is not in {:#?}", compiled.problems);
}

#[test]
fn a_session_becomes_two_entries_and_two_next_hops() {
    let compiled = compile(&world(&[session(1)]), &mut Slots::default());
    assert_eq!(compiled.problems, []);
    let tables = &compiled.tables;
    let (key, up) = tables.uplink.first_key_value().expect("an uplink");
    assert_eq!((key.port.ifindex, key.teid, key.local), (3, Be32::new(0x1001), Be32::new(0x0a1e_0032)));
    assert_eq!(up.action, SessionAction::Forward as u8);
    assert_eq!((up.peer[0], up.peer_mask[0]), (Be32::new(0x0a1e_0000), Be32::new(0xffff_ff00)));
    let hop = tables.next_hops.get(&up.next_hop4).expect("a next hop");
    assert!(hop.looks_up4(Be32::new(0x0a28_0009)), "the data network's own subnet");
    assert!(!hop.looks_up4(Be32::new(0x0a32_0001)), "everybody else");
    assert_eq!((hop.ifindex, hop.mtu, hop.state), (6, 1500, NextHopState::Resolved as u8));
    assert_eq!(
        (hop.source(), hop.destination()),
        (Mac::new([2, 0, 0, 0, 0, 12]), Mac::new([2, 0, 0, 0, 1, 12]))
    );
    assert_eq!(tables.ports.get(&hop.port), Some(&6));
    let (key, down) = tables.downlink4.first_key_value().expect("a downlink");
    assert_eq!((key.port.ifindex, key.ue), (6, Be32::new(0x0a3c_0002)));
    assert_eq!((down.teid, down.qfi, down.mtu), (Be32::new(0x2001), 9, 1500 - 44));
    let hop = tables.next_hops.get(&down.next_hop).expect("a next hop");
    assert_eq!(hop.tunnel4(), (Be32::new(0x0a1e_0032), Be32::new(0x0a1e_000a)));
    assert_eq!((hop.ifindex, hop.destination()), (3, Mac::new([2, 0, 0, 0, 1, 11])));
    assert!(compiled.sessions[0].resolved);
    assert_eq!(tables.masters.len(), 2);
    assert_eq!(tables.endpoints.len(), 1);
}

#[test]
fn a_relay_goes_to_the_other_peer() {
    let mut world = world(&[
        r#"{"name":"n9","uplink":{"teid":7,"relay":{"network":"core/n3","peer":"10.30.0.10","teid":9}}}"#
            .to_owned(),
    ]);
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!(compiled.problems, []);
    let entry = compiled.tables.uplink.values().next().expect("an uplink");
    assert_eq!(entry.action, SessionAction::Relay as u8);
    let hop = compiled.tables.next_hops.get(&entry.next_hop4).expect("a next hop");
    assert_eq!((hop.tunnel4().1, entry.teid), (Be32::new(0x0a1e_000a), Be32::new(9)));
    world.networks.insert(
        name(N3),
        access(&[
            r#"{"name":"n9","uplink":{"teid":7,"relay":{"network":"core/n6","peer":"10.30.0.10","teid":9}}}"#
                .to_owned(),
        ]),
    );
    problem(&world, "session n9 of NAD core/n3", "has role Data, should be Access");
}

/// Pods of two operators: the same addresses, TEIDs and users, on VLANs of the same parents.
#[test]
fn networks_on_different_vlans_of_one_parent_stay_apart() {
    let mut world = world(&[session(1)]);
    for (parent, index) in [("eth0", 3), ("eth1", 6)] {
        world.masters.insert(parent.to_owned(), link(index, parent));
    }
    for (name, index, parent, vlan) in
        [("n3", 30, 3, 100), ("n6", 60, 6, 101), ("n3b", 31, 3, 200), ("n6b", 61, 6, 201)]
    {
        let device =
            Link { vlan: Some(vlan), parent: Some(parent), kind: "vlan".to_owned(), ..link(index, name) };
        world.masters.insert(name.to_owned(), device);
    }
    let other = r#"{"role":"access","gtpu":{"peers":["10.30.0.0/24"]},"sessions":[SESSION]}"#;
    let session = session(1).replace("core/n6", "core/n6b");
    let other = FastPath::parse(&other.replace("SESSION", &session)).expect("an access network");
    world.networks.insert(name("core/n3b"), other);
    let data = world.networks[&name(N6)].clone();
    world.networks.insert(name("core/n6b"), data);
    world.pods.insert("upf-1".to_owned(), world.pods["upf-0"].clone());
    for (interface, network, master) in [("net1", "core/n3b", "n3b"), ("net2", "core/n6b", "n6b")] {
        let key = AttachmentKey { container: "upf-1".to_owned(), interface: interface.to_owned() };
        let pod = Some(name("core/upf-1"));
        world
            .attachments
            .insert(key, Attachment { network: name(network), pod, master: Some(master.to_owned()) });
    }
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!(compiled.problems, []);
    let tables = &compiled.tables;
    let ports: Vec<_> = tables.uplink.keys().map(|it| (it.port.ifindex, it.port.vlan)).collect();
    assert_eq!(ports, [(3, 100), (3, 200)]);
    let hops = tables.uplink.values().map(|it| &tables.next_hops[&it.next_hop4]);
    assert_eq!(hops.map(|it| (it.ifindex, it.vlan)).collect::<Vec<_>>(), [(6, 101), (6, 201)]);
    let down: Vec<_> = tables.downlink4.keys().map(|it| (it.port.ifindex, it.port.vlan)).collect();
    assert_eq!(down, [(6, 101), (6, 201)]);
    assert!(tables.masters.values().all(|it| it.tagged), "{:?}", tables.masters);
    assert_eq!(tables.masters.keys().copied().collect::<Vec<_>>(), [3, 6], "programs on the parents");
}

#[test]
fn a_neighbour_that_changes_is_one_operation() {
    let mut world = world(&(0..100).map(session).collect::<Vec<_>>());
    let mut slots = Slots::default();
    let before = compile(&world, &mut slots).tables;
    let pod = world.pods.get_mut("upf-0").expect("the pod");
    pod.neighbours[0].mac = Some(Mac::new([2, 9, 9, 9, 9, 9]));
    let changed = compile(&world, &mut slots);
    let operations = diff(&before, &changed.tables);
    assert!(matches!(operations.as_slice(), [Operation::SetNextHop { .. }]), "{operations:?}");
    let pod = world.pods.get_mut("upf-0").expect("the pod");
    pod.neighbours.clear();
    let lost = compile(&world, &mut slots);
    let unresolved =
        lost.tables.next_hops.values().filter(|it| it.state == NextHopState::Unresolved as u8).count();
    assert_eq!(unresolved, 2);
    assert!(!lost.sessions[0].resolved);
    let wanted: Vec<_> = lost.wanted.iter().map(|it| (it.address.to_string(), it.resolved)).collect();
    assert_eq!(wanted, [("10.30.0.10".to_owned(), false), ("10.40.0.1".to_owned(), false)]);
}

fn world_of_one() -> World {
    world(&[session(1)])
}

/// The pod speaks IPv6 on both networks, too; its router there has a link-local address, as routers do.
fn with_ipv6(world: &mut World, container: &str) {
    let pod = world.pods.get_mut(container).expect("the pod");
    let address =
        |index, text: &str| Address { index, address: net(text), tentative: false, duplicate: false };
    pod.addresses.extend([
        address(11, "fe80::b/64"),
        address(11, "2001:db8:30::32/64"),
        address(12, "fe80::c/64"),
        address(12, "2001:db8:40::32/64"),
    ]);
    let route = |index, to: &str, gateway: Option<&str>| Route {
        destination: net(to),
        gateway: gateway.map(|it| it.parse().expect("an address")),
        index,
        metric: 0,
    };
    pod.routes.extend([
        route(11, "fe80::/64", None),
        route(11, "2001:db8:30::/64", None),
        route(12, "fe80::/64", None),
        route(12, "2001:db8:40::/64", None),
        route(12, "::/0", Some("fe80::1")),
    ]);
    let neighbour = |index, text: &str| Neighbour {
        index,
        address: text.parse().expect("an address"),
        mac: Some(Mac::new([2, 0, 0, 0, 6, index as u8])),
    };
    pod.neighbours.extend([
        neighbour(11, "2001:db8:30::10"),
        neighbour(12, "fe80::1"),
        neighbour(12, "2001:db8:40::9"),
    ]);
}

#[test]
fn a_session_over_ipv6_ends_at_both_addresses_and_counts_once() {
    let session = r#"{"name":"six","ue":["10.60.0.2","2001:db8:60:1::/64"],
        "uplink":{"teid":1,"to":"core/n6","qfi":5},
        "downlink":{"peer":"2001:db8:30::10","teid":2}}"#;
    let mut world = world(&[session.to_owned()]);
    let text = format!(
        r#"{{"role":"access","gtpu":{{"peers":["2001:db8:30::/48","2001:db8:31::/48"]}},"sessions":[{session}]}}"#
    );
    world.networks.insert(name(N3), FastPath::parse(&text).expect("an access network"));
    let data = r#"{"role":"data","uePools":["10.60.0.0/16","2001:db8:60::/48"]}"#;
    world.networks.insert(name(N6), FastPath::parse(data).expect("a data network"));
    with_ipv6(&mut world, "upf-0");
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!(compiled.problems, []);
    let tables = &compiled.tables;
    let (up, up6) = (tables.uplink.values().next(), tables.uplink6.values().next());
    let (up, up6) = (up.expect("an uplink"), up6.expect("an uplink over IPv6"));
    assert_eq!(up.counter, up6.counter);
    assert_eq!((up6.qfi, up6.flags & uplink_flags::CHECK_QFI), (5, uplink_flags::CHECK_QFI));
    assert_eq!(up6.flags & uplink_flags::PEER_LIST, uplink_flags::PEER_LIST);
    assert_eq!((up.peer_mask[0], up.peer[0]), (Be32::new(0), Be32::new(u32::MAX)), "no peer over IPv4");
    let hop = |index| tables.next_hops.get(&index).expect("a next hop");
    let default6 = hop(up6.next_hop6);
    assert_eq!(default6.destination(), Mac::new([2, 0, 0, 0, 6, 12]), "by the link-local gateway");
    let words = |text: &str| ip::words(text.parse().expect("an address"));
    assert!(default6.looks_up6(&words("2001:db8:40::9")) && !default6.looks_up6(&words("2001:db8:50::1")));
    let on_link = tables.routes.iter().find(|(route, _)| route.prefix == net("2001:db8:40::9/128"));
    assert_eq!(on_link.map(|(_, it)| hop(*it).destination()), Some(Mac::new([2, 0, 0, 0, 6, 12])));
    assert!(tables.routes.keys().all(|it| it.prefix != net("fe80::/64")));
    let down = tables.downlink6.values().next().expect("a downlink");
    assert_eq!(down.mtu, 1500 - 56);
    assert_eq!(hop(down.next_hop).tunnel6(), (words("2001:db8:30::32"), words("2001:db8:30::10")));
    let flags = hop(down.next_hop).flags;
    assert_eq!(flags & next_hop_flags::UDP_CHECKSUM, next_hop_flags::UDP_CHECKSUM, "full by default");
    assert_eq!(tables.endpoints.len(), 2);
    assert!(compiled.sessions[0].resolved);
    let mut slots = Slots::seed(tables);
    assert_eq!(diff(tables, &compile(&world, &mut slots).tables), []);
}

#[test]
fn a_peer_that_no_address_reaches_is_a_problem() {
    let world = world(&[session(1).replace("10.30.0.10", "2001:db8:30::10"), session(2)]);
    problem(&world, "session s1 of NAD core/n3", "net1 has no IPv6 address to reach peer 2001:db8:30::10");
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!((compiled.sessions.len(), compiled.tables.uplink.len()), (1, 1));
}

#[test]
fn a_pod_with_more_routes_looks_all_destinations_up() {
    let mut world = world(&[session(1)]);
    let pod = world.pods.get_mut("upf-0").expect("the pod");
    pod.routes.push(Route {
        destination: net("10.99.0.0/16"),
        gateway: Some([10, 40, 0, 9].into()),
        index: 12,
        metric: 0,
    });
    let compiled = compile(&world, &mut Slots::default());
    let uplink = compiled.tables.uplink.values().next().expect("an uplink");
    let hop = compiled.tables.next_hops.get(&uplink.next_hop4).expect("a next hop");
    assert!(hop.looks_up4(Be32::new(0x0a32_0001)), "all destinations");
    // On link, default, the further one, and the one known neighbour.
    assert_eq!(compiled.tables.routes.len(), 4);
    let before = compile(&world_of_one(), &mut Slots::default()).tables;
    let operations = diff(&before, &compiled.tables);
    let of_sessions =
        |it: &&Operation| matches!(it, Operation::SetUplink { .. } | Operation::SetDownlink4 { .. });
    assert_eq!(operations.iter().filter(of_sessions).count(), 0, "no session is written: {operations:?}");
}

#[test]
fn problems_name_their_object_and_leave_the_rest() {
    let mut other = world(&[session(1)]);
    other
        .networks
        .insert(name(N3), access(&[session(1), session(2).replace("8194", "9").replace("4098", "4097")]));
    problem(&other, "session s2 of NAD core/n3", "uplink.teid: 0x1001 is that of session s1");
    let compiled = compile(&other, &mut Slots::default());
    assert_eq!(compiled.sessions.len(), 1, "s1 still works");

    let mut same_user = world(&[session(1), session(2).replace("10.60.0.3", "10.60.0.2")]);
    problem(&same_user, "session s2 of NAD core/n3", "ue: 10.60.0.2 is that of session s1");
    same_user.masters.remove("n6");
    problem(&same_user, "pod core/upf-0, interface net2", "master \"n6\" does not exist");

    let outside = world(&[session(1).replace("10.60.0.2", "10.61.0.2")]);
    problem(&outside, "session s1 of NAD core/n3", "10.61.0.2 is in none of the uePools of core/n6");
    let unknown = world(&[session(1).replace("core/n6", "core/n7")]);
    problem(&unknown, "session s1 of NAD core/n3", "core/n7 is no network with fast-path metadata");

    let mut ambiguous = world(&[session(1)]);
    attach(&mut ambiguous, "upf-1", 51);
    problem(&ambiguous, "session s1 of NAD core/n3", "both core/upf-0 and core/upf-1");

    let mut no_way_out = world(&[session(1)]);
    if let Some(pod) = no_way_out.pods.get_mut("upf-0") {
        pod.routes.retain(|it| !it.is_default());
    }
    problem(&no_way_out, "pod core/upf-0, interface net2", "no IPv4 default route");

    let mut vlan = world(&[]);
    if let Some(master) = vlan.masters.get_mut("n3") {
        (master.vlan, master.parent) = (Some(100), Some(7));
    }
    problem(
        &vlan,
        "pod core/upf-0, interface net1",
        "the parent of VLAN device \"n3\" is not in the node's own",
    );
    let parent = Link { vlan: Some(200), ..link(7, "eth0.200") };
    vlan.masters.insert("eth0.200".to_owned(), parent);
    problem(&vlan, "pod core/upf-0, interface net1", "frames with two tags are not forwarded");

    let mut pools = world(&[]);
    let data = FastPath::parse(r#"{"role":"data","uePools":["10.60.7.0/24"]}"#).expect("a data network");
    pools.networks.insert(name("core/n6b"), data);
    let key = AttachmentKey { container: "upf-0".to_owned(), interface: "net2".to_owned() };
    let again = Attachment {
        network: name("core/n6b"),
        pod: Some(name("core/upf-0")),
        master: Some("n6".to_owned()),
    };
    pools
        .attachments
        .insert(AttachmentKey { container: "upf-0".to_owned(), interface: "net1".to_owned() }, again);
    assert!(pools.attachments.contains_key(&key));
    let compiled = compile(&pools, &mut Slots::default());
    assert!(compiled.problems.iter().any(|it| it.message.contains("overlaps")), "{:?}", compiled.problems);
}

#[test]
fn a_pod_that_is_not_here_is_no_problem() {
    let mut world = world(&[session(1)]);
    world.attachments.clear();
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!((compiled.problems.len(), compiled.sessions.len()), (0, 0));
    assert_eq!(compiled.tables, Tables::default());
}

#[test]
fn a_hundred_thousand_sessions() {
    let mut many = world(&[]);
    let sessions: Vec<_> = (0..100_000_u32)
        .map(|it| {
            let ue = std::net::Ipv4Addr::from(0x0a3c_0001 + it);
            session(it).replace(&format!("10.60.{}.{}", it / 250, it % 250 + 1), &ue.to_string())
        })
        .collect();
    many.networks.insert(name(N3), access(&sessions));
    let data = FastPath::parse(r#"{"role":"data","uePools":["10.0.0.0/8"]}"#).expect("a data network");
    many.networks.insert(name(N6), data);
    let mut slots = Slots::default();
    let tables = compile(&many, &mut slots).tables;
    assert_eq!((tables.uplink.len(), tables.downlink4.len()), (100_000, 100_000));
    assert_eq!(diff(&tables, &compile(&many, &mut slots).tables), []);
}

/// What can be different between two worlds.
#[derive(Clone, Debug, Default)]
pub(super) struct Variant {
    sessions: Vec<u32>,
    second_pod: bool,
    neighbours: bool,
    more_routes: bool,
    master: bool,
}

pub(super) fn variant() -> impl Strategy<Value = Variant> {
    let sessions = proptest::collection::btree_set(0_u32..40, 0..20);
    (sessions, any::<[bool; 4]>()).prop_map(|(sessions, [second_pod, neighbours, more_routes, master])| {
        Variant { sessions: sessions.into_iter().collect(), second_pod, neighbours, more_routes, master }
    })
}

pub(super) fn build(variant: &Variant) -> World {
    let sessions: Vec<_> = variant
        .sessions
        .iter()
        .map(|it| session(*it).replacen("\"ue\"", "\"pod\":\"core/upf-0\",\"ue\"", 1))
        .collect();
    let mut world = world(&sessions);
    if variant.second_pod {
        attach(&mut world, "upf-1", 51);
    }
    let pod = world.pods.get_mut("upf-0").expect("the pod");
    if !variant.neighbours {
        pod.neighbours.clear();
    }
    if variant.more_routes {
        let gateway = Some([10, 40, 0, 9].into());
        pod.routes.push(Route { destination: net("10.99.0.0/16"), gateway, index: 12, metric: 0 });
    }
    if !variant.master {
        world.masters.remove("n6");
    }
    world
}

proptest! {
    /// Through any worlds in turn, the operations lead exactly to the wanted tables, and nothing that is
    /// still named changes its meaning on the way.
    #[test]
    fn differences_lead_to_what_is_wanted(variants in proptest::collection::vec(variant(), 1..6)) {
        let mut slots = Slots::default();
        let mut current = Tables::default();
        for variant in &variants {
            let world = build(variant);
            let mut wanted = compile(&world, &mut slots).tables;
            let mut names = std::collections::BTreeSet::new();
            let operations = diff(&current, &wanted);
            for operation in &operations {
                if let Operation::SetUplink { key, .. } | Operation::DeleteUplink { key } = operation {
                    prop_assert!(names.insert(*key), "{key:?} twice in {operations:?}");
                }
            }
            apply(&mut current, &operations);
            wanted.resumed.clear();
            prop_assert_eq!(&current, &wanted);
            prop_assert_eq!(diff(&current, &compile(&world, &mut slots).tables), vec![]);
        }
    }

    /// An agent that starts anew over the tables of another one changes nothing.
    #[test]
    fn a_new_agent_changes_nothing(first in variant(), second in variant()) {
        let mut slots = Slots::default();
        compile(&build(&first), &mut slots);
        let world = build(&second);
        let left = compile(&world, &mut slots).tables;
        let mut slots = Slots::seed(&left);
        let wanted = compile(&world, &mut slots).tables;
        prop_assert_eq!(diff(&left, &wanted), vec![]);
    }
}

/// A gateway or gNB that is a pod of this node: its MAC is that of an attachment under the outgoing master.
#[test]
fn next_hops_under_the_same_master_are_local() {
    let mut world = world(&[session(1)]);
    let bridge = |world: &mut World, container: &str, mode| {
        let links = &mut world.pods.get_mut(container).expect("a pod").links;
        links.iter_mut().for_each(|it| it.macvlan_mode = Some(mode));
    };
    attach(&mut world, "gnb-0", 10);
    let elsewhere = AttachmentKey { container: "gnb-0".to_owned(), interface: "net2".to_owned() };
    world.attachments.remove(&elsewhere);
    let gnb = Mac::new([2, 0, 0, 0, 1, 11]);
    world.pods.get_mut("gnb-0").expect("a pod").links[0].mac = Some(gnb);
    let states = |world: &World| {
        let compiled = compile(world, &mut Slots::default());
        let hops = compiled.tables.next_hops.values();
        let states: BTreeMap<_, _> = hops.map(|it| (it.ifindex, it.state)).collect();
        let local = compiled.tables.masters.values().all(|it| it.local);
        let pods = compiled.tables.pods.iter().filter(|it| (it.ifindex, it.mac) == (3, gnb)).count();
        assert_eq!(pods, usize::from(states.get(&3) == Some(&(NextHopState::Local as u8))), "a pod under N3");
        (states, local, compiled.sessions.iter().all(|it| it.resolved))
    };
    let on_wire = NextHopState::Resolved as u8;
    let local = NextHopState::Local as u8;
    bridge(&mut world, "upf-0", MacvlanMode::Bridge);
    bridge(&mut world, "gnb-0", MacvlanMode::Vepa);
    assert_eq!(states(&world).0, BTreeMap::from([(3, on_wire), (6, on_wire)]), "VEPA is by the wire");
    bridge(&mut world, "gnb-0", MacvlanMode::Bridge);
    assert_eq!(states(&world), (BTreeMap::from([(3, local), (6, on_wire)]), true, true));
    let other = AttachmentKey { container: "gnb-0".to_owned(), interface: "net1".to_owned() };
    world.attachments.get_mut(&other).expect("attached").master = Some("n6".to_owned());
    assert_eq!(states(&world).0, BTreeMap::from([(3, on_wire), (6, on_wire)]), "under another master");
}

/// A macvlan stays on its device, whatever the device and another one are called now.
#[test]
fn the_kernels_word_on_a_macvlans_master_goes_before_the_name() {
    let mut world = world(&[session(1)]);
    for pod in world.pods.values_mut() {
        for (link, parent) in pod.links.iter_mut().zip([3, 6]) {
            link.macvlan_mode = Some(MacvlanMode::Bridge);
            link.parent = Some(parent);
            link.parent_is_elsewhere = true;
        }
    }
    world.masters = [link(3, "renamed"), link(9, "n3"), link(6, "n6")].map(|it| (it.name.clone(), it)).into();
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!(compiled.problems, Vec::new());
    let masters: Vec<_> =
        compiled.tables.masters.iter().map(|(index, it)| (*index, it.name.as_str())).collect();
    assert_eq!(masters, [(3, "renamed"), (6, "n6")]);
    // Below a pod's own device (`linkInContainer`) there is none of the node's.
    for pod in world.pods.values_mut() {
        pod.links.iter_mut().for_each(|it| it.parent_is_elsewhere = false);
    }
    let compiled = compile(&world, &mut Slots::default());
    assert_eq!(compiled.tables.masters.keys().copied().collect::<Vec<_>>(), [6, 9], "by name");
    world.masters.remove("n6");
    let compiled = compile(&world, &mut Slots::default());
    assert!(
        compiled.problems.iter().any(|it| it.message.contains("\"n6\" does not exist")),
        "{:?}",
        compiled.problems
    );
}
