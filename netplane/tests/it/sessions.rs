//! The session API against a whole node: programmed sessions forward, outlive the agent, and count exactly.

use crate::agent::{LIMIT, N3, sandbox, until};
use netplane_bench::lab::command::NSENTER;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::Host;
use netplane_bench::lab::traffic::ping::ping;
use netplane_bench::lab::users::{UE_POOL, User, gnb, users};
use netplane_bench::lab::{GNB, Lab, Process, SERVER, cni, wait_for};
use serde_json::Value;
use std::net::Ipv4Addr;

pub(crate) const POD: &str = "core/upf-0";

/// Like the examples, without static sessions.
pub(crate) fn lab() -> Lab {
    let lab = crate::agent::lab();
    let (head, rest) = N3.split_once(",\n        \"sessions\"").expect("static sessions");
    let (_, tail) = rest.split_once("] }").expect("their end");
    lab.write_nad("n3.yaml", format!("{head} }}{tail}").as_bytes()).expect("a NAD");
    lab
}

/// `netplane session …` as root of the node: what it prints, or complains of.
fn session(lab: &Lab, arguments: &[&str]) -> Result<String, String> {
    session_of(lab, POD, arguments)
}

fn session_of(lab: &Lab, pod: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = lab.netplane();
    command.args(["session", "--socket"]).arg(lab.session_folder().join("sessions.sock"));
    command.args(["--pod", pod]).args(arguments);
    NSENTER.output(&mut command, "").map_err(|it| format!("{it:#}"))
}

fn add(lab: &Lab, user: &User, generation: &str) -> Result<String, String> {
    let (ue, teid, peer_teid) = (user.ue.to_string(), user.uplink.0.to_string(), user.downlink.0.to_string());
    let (name, peer, qfi) = (format!("ue-{}", user.ue), GNB.to_string(), user.qfi.map(|it| it.to_string()));
    let mut arguments = vec!["add", &name, "--ue", &ue, "--access", "core/n3", "--data", "core/n6"];
    arguments.extend(["--teid", &teid, "--peer", &peer, "--peer-teid", &peer_teid]);
    arguments.extend(["--generation", generation]);
    if let Some(qfi) = &qfi {
        arguments.extend(["--qfi", qfi]);
    }
    session(lab, &arguments)
}

fn show(lab: &Lab, user: &User) -> Value {
    let text = session(lab, &["show", &format!("ue-{}", user.ue)]).expect("the session");
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn forwarding(lab: &Lab, agent: &Process, users: &[User]) {
    let all = || Ok(users.iter().all(|it| show(lab, it)["state"] == "forwarding").then_some(()));
    wait_for("sessions forward", LIMIT, all).unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
}

/// Five echo requests of 1000 bytes and their replies.
#[track_caller]
fn pinged(lab: &Lab, user: &User) {
    let from = Host { namespace: &lab.gnb, address: user.ue };
    let report = ping(from, SERVER, 5, 1000).expect("ping");
    assert!(report.is_complete(), "{report:?}");
}

#[track_caller]
fn counted(lab: &Lab, user: &User, packets: u64) {
    let state = show(lab, user);
    // IP and ICMP headers and the data.
    let bytes = packets * (20 + 8 + 1000);
    for direction in ["uplink", "downlink"] {
        assert_eq!(state[direction]["packets"], packets, "{state:#}");
        assert_eq!(state[direction]["bytes"], bytes, "{state:#}");
    }
}

fn address(lab: &Lab, interface: &str) -> Ipv4Addr {
    let addresses = cni::addresses(&lab.pod, interface).expect("an interface");
    addresses[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address")
}

#[test]
fn sessions_of_the_api_forward_and_outlive_the_agent() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "the agent knows its pods", |it| it["ready"] == true);
    let users = users(3);
    for user in &users {
        add(&lab, user, "1").expect("a session");
    }
    forwarding(&lab, &agent, &users);
    lab.dn.ip(&format!("route add {UE_POOL} via {}", address(&lab, "net2"))).expect("a route to the users");
    let config = gnb(&users, address(&lab, "net1"));
    let _gnb = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    users.iter().for_each(|it| pinged(&lab, it));
    users.iter().for_each(|it| counted(&lab, it, 5));
    assert_eq!(lab.status().expect("a status")["programmed"]["sessions"], 3);
    let mut command = lab.netplane();
    command.args(["trace", "--socket"]).arg(lab.socket()).args(["--teid", "0x1001"]);
    let traced = NSENTER.output(&mut command, "").expect("traced");
    assert!(traced.contains("ue-10.60.0.1") && !traced.contains("unknown"), "{traced}");
    let before: Value = serde_json::from_str(&session(&lab, &["describe"]).expect("a pod")).expect("JSON");
    assert_eq!((before["sessions"].as_u64(), before["generation"].as_u64()), (Some(3), Some(1)));
    assert_eq!(before["endpoints"].as_array().map(Vec::len), Some(2), "{before:#}");

    // An agent that is killed leaves everything to the next one.
    agent.kill().expect("killed");
    pinged(&lab, &users[0]);
    let agent = lab.start_agent().expect("another agent");
    until(&lab, &agent, "it knows its pods", |it| it["ready"] == true);
    forwarding(&lab, &agent, &users);
    pinged(&lab, &users[0]);
    counted(&lab, &users[0], 15);
    counted(&lab, &users[1], 5);
    let after: Value = serde_json::from_str(&session(&lab, &["describe"]).expect("a pod")).expect("JSON");
    assert_eq!(before, after, "the same instance with the same sessions");

    // A UPF that starts anew puts what it wants under a new generation and sweeps the rest.
    add(&lab, &users[1], "2").expect("a session");
    assert_eq!(session(&lab, &["sweep", "2"]).as_deref().map(str::trim), Ok("2 removed"));
    let refused = session(&lab, &["show", &format!("ue-{}", users[0].ue)]).expect_err("swept");
    assert!(refused.contains("pod core/upf-0 has no session ue-10.60.0.1"), "{refused}");
    pinged(&lab, &users[1]);
    counted(&lab, &users[1], 10);
    let unknown = session_of(&lab, "core/upf-9", &["list"]).expect_err("no such pod");
    assert!(unknown.contains("pod core/upf-9 has no attachment on this node"), "{unknown}");

    // With the fast path go its sessions.
    agent.terminate().expect("a clean end");
    lab.detach_agent().expect("taken off");
    let agent = lab.start_agent().expect("a third agent");
    until(&lab, &agent, "it knows its pods", |it| it["ready"] == true);
    let text = session(&lab, &["describe"]).expect("a pod");
    let anew: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(anew["sessions"], 0, "{anew:#}");
    assert_ne!(anew["instance"], before["instance"], "program your sessions again");
}
