//! An agent that finds pins of an older layout, under traffic: nothing is lost, counters go on, and nothing
//! of the older one is left, wherever an agent is killed on the way.

mod v2;

use crate::agent::{forwarding, lab, list, problems, sandbox, until};
use netplane_bench::lab::cni::addresses;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{EchoServer, Host, Stream};
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::wires::mac;
use netplane_bench::lab::{Lab, Namespace, SERVER, wait_for};
use netplane_common::map::LAYOUT_VERSION;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A lab in which an older agent's fast path forwards, with a user's stream through it.
struct Older {
    stream: Stream,
    _server: EchoServer,
    _gnb: Endpoint,
    lab: Lab,
}

fn octets(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = mac(namespace, interface).expect("a MAC");
    let bytes: Vec<u8> = text.split(':').map(|it| u8::from_str_radix(it, 16).expect("hex")).collect();
    bytes.try_into().expect("six of them")
}

fn address(lab: &Lab, interface: &str) -> Ipv4Addr {
    let addresses = addresses(&lab.pod, interface).expect("an interface");
    addresses[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address")
}

impl Older {
    fn new() -> Self {
        let lab = lab();
        sandbox(&lab).add(&lab).expect("attached");
        let facts = v2::Facts {
            n3: address(&lab, "net1"),
            n3_mac: octets(&lab.pod, "net1"),
            n6_mac: octets(&lab.pod, "net2"),
            gnb_mac: octets(&lab.gnb, "n3"),
            gateway_mac: octets(&lab.dn, "n6"),
        };
        v2::leave(&lab, &facts);
        let n6 = address(&lab, "net2");
        lab.dn.ip(&format!("route add {UE_POOL} via {n6}")).expect("a route to the users");
        let config = gnb(&users(3), facts.n3);
        let gnb = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
        let server = Host { namespace: &lab.dn, address: SERVER };
        let echo = EchoServer::start(server).expect("an echo server");
        let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
        let stream = Stream::start(user, server, 1000).expect("a stream");
        stream.wait_for_more(300).expect("it goes on");
        Self { stream, _server: echo, _gnb: gnb, lab }
    }
}

/// Programs on the masters, by the kernel's numbers.
fn programs(lab: &Lab) -> Vec<Option<u64>> {
    let program = |master| {
        let links = lab.node.ip_json(&["link", "show", master]).expect("the master");
        links.first().and_then(|it| it.pointer("/xdp/prog/id")?.as_u64())
    };
    ["n3", "n6"].into_iter().map(program).collect()
}

/// Packets of the first user's session, up and down.
fn counted(status: &Value) -> (u64, u64) {
    let sessions = list(status, "sessions");
    let session = sessions.iter().find(|it| it["name"].as_str().is_some_and(|it| it.ends_with("ue-1")));
    let packets = |way: &str| session.and_then(|it| it[way]["packets"].as_u64()).unwrap_or_default();
    (packets("uplink"), packets("downlink"))
}

#[test]
fn layout_2_is_taken_over_without_a_lost_packet() {
    let older = Older::new();
    let lab = &older.lab;
    let before = programs(lab);
    assert!(before.iter().all(Option::is_some), "{before:?}");
    let agent = lab.start_agent().expect("an agent");
    let status = until(lab, &agent, "all sessions forward", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());
    older.stream.wait_for_more(500).expect("it goes on");
    let report = older.stream.finish().expect("a report");
    assert_eq!((report.n_lost(), report.returned), (0, report.sent), "{report:?}");
    let status = lab.status().expect("a status");
    assert_eq!(counted(&status), (report.sent, report.sent), "both agents' packets are counted, once");

    let after = programs(lab);
    assert!(before.iter().zip(&after).all(|(old, new)| new.is_some() && old != new), "{before:?} {after:?}");
    assert!(!v2::folder(lab).exists(), "nothing of the older layout is left");
    // One link of XDP for each master, named by its index.
    let links = std::fs::read_dir(lab.bpffs().join(format!("v{LAYOUT_VERSION}/links")));
    let names = links.expect("the new folder").flatten().map(|it| it.file_name());
    assert_eq!(names.filter(|it| it.to_str().is_some_and(|it| it.parse::<u32>().is_ok())).count(), 2);
    agent.terminate().expect("a clean end");
}

/// Kills before these system calls of the agent's main thread, each time a little later than before: maps
/// are kept, the object is loaded, links are moved one by one, and the old folder is removed.
const KILLS: [(&str, usize); 8] = [
    ("?linkat", 1),
    ("?linkat", 3),
    ("bpf", 40),
    ("?rename", 1),
    ("?rename", 2),
    ("?rename", 1),
    ("?unlinkat", 1),
    ("?unlinkat", 6),
];

#[test]
fn an_upgrade_that_is_killed_goes_on_where_it_was() {
    let older = Older::new();
    let lab = &older.lab;
    for (effect, number) in KILLS {
        let (trace, inject) =
            (format!("trace={effect}"), format!("inject={effect}:signal=SIGKILL:when={number}"));
        let strace = ["strace", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let agent = lab.start_agent_under(&strace).expect("strace is installed");
        let ended = wait_for("the agent is killed", LIMIT, || agent.status());
        let ended = ended.unwrap_or_else(|error| panic!("{effect} {number}: {error}\n{}", agent.log_tail()));
        assert_eq!(ended.signal(), Some(9), "{effect} {number}: {ended}\n{}", agent.log_tail());
        let programs = programs(lab);
        assert!(programs.iter().all(Option::is_some), "{effect} {number}: {programs:?}");
        older.stream.wait_for_more(100).expect("it goes on");
    }
    let agent = lab.start_agent().expect("an agent");
    until(lab, &agent, "all sessions forward", |it| forwarding(it, 3));
    let report = older.stream.finish().expect("a report");
    assert_eq!((report.n_lost(), report.returned), (0, report.sent), "{report:?}\n{}", agent.log_tail());
    assert_eq!(counted(&lab.status().expect("a status")), (report.sent, report.sent));
    assert!(!v2::folder(lab).exists(), "nothing of the older layout is left");
}

#[test]
fn detach_removes_an_older_layout_too() {
    let older = Older::new();
    let lab = &older.lab;
    lab.detach_agent().expect("detached");
    assert_eq!(programs(lab), [None, None]);
    let left = std::fs::read_dir(lab.bpffs()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no folder is left");
    let _lost = older.stream.finish().expect("a report");
}
