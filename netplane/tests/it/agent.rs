//! The agent as a process in a lab: what it makes of neighbours, records, NADs, signals and a crash.

use netplane_bench::lab::cni::Sandbox;
use netplane_bench::lab::{GATEWAY, GNB, Lab, Process, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

pub(crate) const N3: &str = include_str!("../../../examples/nads/n3.yaml");
const N6: &str = include_str!("../../../examples/nads/n6.yaml");
const DEFAULT: &str = include_str!("../../../examples/nads/default-network.yaml");
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn lab() -> Lab {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    for (name, text) in [("default-network.yaml", DEFAULT), ("n3.yaml", N3), ("n6.yaml", N6)] {
        lab.write_nad(name, text.as_bytes()).expect("a NAD");
    }
    lab
}

pub(crate) fn sandbox(lab: &Lab) -> Sandbox<'_> {
    let container_id = format!("{}-sandbox", lab.pod.name());
    Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }
}

/// Waits until the status is as wanted.
#[track_caller]
pub(crate) fn until(lab: &Lab, agent: &Process, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let probe = || Ok(lab.status().ok().filter(|it| wanted(it)));
    wait_for(what, LIMIT, probe).unwrap_or_else(|error| {
        panic!("{error}\n{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail())
    })
}

pub(crate) fn list<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn forwarding(status: &Value, sessions: usize) -> bool {
    status["ready"] == true
        && list(status, "sessions").len() == sessions
        && list(status, "sessions").iter().all(|it| it["state"] == "forwarding")
        && list(status, "masters").iter().all(|it| it["attached"] == "native")
}

pub(crate) fn problems(status: &Value) -> Vec<String> {
    let shown = |it: &Value| {
        format!("{}: {}", it["object"].as_str().unwrap_or(""), it["message"].as_str().unwrap_or(""))
    };
    list(status, "problems").iter().map(shown).collect()
}

/// Identifier of the XDP program on a master.
fn program(lab: &Lab, master: &str) -> Option<u64> {
    let links = lab.node.ip_json(&["link", "show", master]).expect("the master");
    links.first().and_then(|it| it.pointer("/xdp/prog/id")?.as_u64())
}

#[test]
fn neighbours_are_resolved_and_followed() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    // Nobody in the pod has ever sent a packet: the agent makes its kernel resolve gNB and gateway.
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    // The gateway is somebody else's for a while: the entry goes and nobody answers.
    lab.dn.ip(&format!("address del {GATEWAY}/24 dev n6")).expect("the address goes");
    lab.pod.ip(&format!("neigh del {GATEWAY} dev net2")).expect("the entry goes");
    until(&lab, &agent, "sessions wait for their next hop", |it| {
        list(it, "sessions").iter().all(|it| it["state"] == "next-hop-unresolved")
    });
    lab.dn.ip(&format!("address add {GATEWAY}/24 dev n6")).expect("the address comes back");
    until(&lab, &agent, "sessions forward again", |it| forwarding(it, 3));
    // The pod's interface goes down and up again.
    lab.pod.ip("link set net1 down").expect("down");
    until(&lab, &agent, "sessions wait for the interface", |it| !forwarding(it, 3));
    lab.pod.ip("link set net1 up").expect("up");
    until(&lab, &agent, "sessions forward once more", |it| forwarding(it, 3));
    assert_eq!(GNB.octets()[3], 10, "the peer of the examples");
    agent.terminate().expect("a clean end");
}

#[test]
fn what_is_wrong_is_named_and_the_rest_goes_on() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));

    let two_of_one_teid = N3.replace("\"0x1002\"", "\"0x1001\"");
    lab.write_nad("n3.yaml", two_of_one_teid.as_bytes()).expect("a NAD");
    let status = until(&lab, &agent, "a problem", |it| !problems(it).is_empty());
    assert!(
        problems(&status)[0].contains("session ue-2 of NAD core/n3: uplink.teid: 0x1001"),
        "{:?}",
        problems(&status)
    );
    until(&lab, &agent, "the two others forward", |it| forwarding(it, 2));

    // Metadata that cannot be read leaves the last good version in force.
    lab.write_nad("n3.yaml", N3.replace("\"access\"", "\"acess\"").as_bytes()).expect("a NAD");
    let status =
        until(&lab, &agent, "another problem", |it| problems(it).iter().any(|it| it.contains("acess")));
    assert!(forwarding(&status, 2), "{status:#}");

    lab.write_nad("n3.yaml", N3.as_bytes()).expect("a NAD");
    let status = until(&lab, &agent, "all is well", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());

    sandbox(&lab).del(&lab).expect("detached");
    until(&lab, &agent, "nothing is left", |it| {
        list(it, "sessions").is_empty() && list(it, "masters").is_empty()
    });
    assert_eq!((program(&lab, "n3"), program(&lab, "n6")), (None, None));
    agent.terminate().expect("a clean end");
}

#[test]
fn forwarding_outlives_the_agent_until_it_is_detached() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let second = lab.start_agent().expect("started");
    let ended = wait_for("the second agent's end", LIMIT, || second.status()).expect("it ends");
    assert!(!ended.success());
    assert!(second.log_tail().contains("another netplane agent is running"), "{}", second.log_tail());

    agent.terminate().expect("a clean end");
    assert!(program(&lab, "n3").is_some(), "pinned");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    agent.kill().expect("kill -9");
    assert!(program(&lab, "n6").is_some(), "pinned");
    lab.detach_agent().expect("detached");
    assert_eq!((program(&lab, "n3"), program(&lab, "n6")), (None, None));
}

#[test]
fn a_master_with_somebody_elses_program_is_a_problem_of_its_own() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    // Another owner: an agent of its own kind with pins elsewhere, killed so that its lock is free.
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    agent.kill().expect("kill -9");
    let before = program(&lab, "n3");
    let moved = lab.folder().join("bpf/elsewhere");
    std::fs::rename(lab.bpffs(), moved).expect("the pins are another's now");
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "a problem for each master", |it| problems(it).len() == 2);
    for (problem, master) in problems(&status).iter().zip(["n3", "n6"]) {
        assert!(problem.contains(&format!("attach XDP to master {master}")), "{problem}");
        assert!(problem.contains("somebody else"), "{problem}");
    }
    assert_eq!(program(&lab, "n3"), before, "left alone");
}

#[test]
fn a_drop_is_counted_and_some_are_logged() {
    use netplane_common::testing::packet;
    use netplane_common::verdict::Reason;
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let to = netplane_bench::lab::cni::addresses(&lab.pod, "net1").expect("net1");
    let to: std::net::Ipv4Addr = to[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address");
    // Under the server's address instead of the user's.
    let spoofed =
        packet::Ipv4::new([10, 50, 0, 1].into(), [10, 50, 0, 1].into(), packet::udp(1, 2, b"x")).bytes();
    let message = packet::gtpu(0x30, 255, 0x1001, &spoofed);
    let sent = lab.gnb.run(|| {
        let socket = std::net::UdpSocket::bind((GNB, 2152)).expect("the gNB's address");
        for _ in 0..5 {
            socket.send_to(&message, (to, 2152)).expect("sent");
        }
    });
    sent.expect("in the gNB's namespace");
    until(&lab, &agent, "five are counted", |it| {
        let counters = list(it, "networks").iter().filter_map(|it| it["counters"].get("ue-spoofed"));
        counters.filter_map(|it| it["packets"].as_u64()).sum::<u64>() == 5
    });
    let line = format!("drop: network 0 reason {} count 0", Reason::UeSpoofed as u8);
    let logged = || Ok(agent.log_tail().contains(&line).then_some(()));
    wait_for("the first drop is in the log", LIMIT, logged)
        .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
}

#[test]
fn a_record_whose_namespace_is_gone_is_a_problem_and_nothing_more() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let records = lab.record_dir();
    let record = std::fs::read_dir(&records).expect("records").flatten().next().expect("a record").path();
    let text = std::fs::read_to_string(record).expect("a record");
    let pod = lab.pod.path().display().to_string();
    let ghost = text.replace(&pod, "/run/netns/absent").replace("upf-0", "upf-1");
    std::fs::write(records.join("ghost@eth0.json"), ghost).expect("another record");
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "the pod that is there forwards", |it| forwarding(it, 3));
    let problems = problems(&status);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("container ghost@eth0: cannot open network namespace /run/netns/absent"),
        "{problems:?}"
    );
    agent.terminate().expect("a clean end");
}
