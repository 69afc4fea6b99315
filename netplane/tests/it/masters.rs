//! Masters under a running agent: they appear later, are renamed, vanish and come back, and others put programs
//! there; with traffic before and after.

use crate::agent::{forwarding, lab, list, problems, sandbox, until};
use crate::tc::attach_pod;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{Host, ping};
use netplane_bench::lab::users::{gnb, users};
use netplane_bench::lab::{Lab, Process, SERVER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::Ipv4Addr;

const PINGS: u32 = 5;

/// The gNB with its users; dropped, it is gone.
pub(crate) fn start_gnb(lab: &Lab, upf: Ipv4Addr) -> Endpoint {
    let config = gnb(&users(3), upf);
    lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB")
}

/// A user reaches the server, and each packet goes the fast path: in the pod nobody forwards.
#[track_caller]
pub(crate) fn traffic_flows(lab: &Lab, agent: &Process) {
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let report = ping(user, SERVER, PINGS, 1000).expect("ping");
    let status = lab.status().unwrap_or_default();
    assert!(report.is_complete(), "{report:?}\n{status:#}\n{}", agent.log_tail());
}

/// Holds an agent: until the end nothing follows what happens.
pub(crate) fn signal(agent: &Process, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(agent.id()).expect("a process")), signal).expect("signalled");
}

/// An agent whose sessions forward, and the gNB.
fn started(lab: &Lab) -> (Process, Endpoint) {
    let upf = attach_pod(lab);
    let agent = lab.start_agent().expect("an agent");
    until(lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let gnb = start_gnb(lab, upf);
    traffic_flows(lab, &agent);
    (agent, gnb)
}

fn names(status: &Value) -> Vec<&str> {
    list(status, "masters").iter().filter_map(|it| it["name"].as_str()).collect()
}

pub(crate) fn master<'a>(status: &'a Value, name: &str) -> &'a Value {
    list(status, "masters").iter().find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn masters_that_appear_later_and_come_back_anew_are_taken() {
    let lab = lab();
    lab.node.ip("link del n3\nlink del n6").expect("no masters");
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "nothing to do", |it| it["ready"] == true);
    assert_eq!(names(&status), Vec::<&str>::new());

    let again = || {
        // Both at once.
        for master in ["n3", "n6"] {
            lab.wire_again(master).expect("a master");
        }
        let upf = attach_pod(&lab);
        until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
        let _gnb = start_gnb(&lab, upf);
        traffic_flows(&lab, &agent);
    };
    again();
    // With a master its macvlans go: the pod is attached anew when it is back.
    lab.node.ip("link del n3\nlink del n6").expect("no masters");
    let status = until(&lab, &agent, "no master is left", |it| names(it).is_empty());
    let said = problems(&status);
    assert!(said.iter().any(|it| it.contains("master \"n3\" does not exist on this node")), "{said:?}");
    sandbox(&lab).del(&lab).expect("detached");
    again();
    let status = until(&lab, &agent, "all is well", |it| problems(it).is_empty());
    assert_eq!(names(&status), ["n3", "n6"]);
    agent.terminate().expect("a clean end");
}

#[test]
fn a_master_under_another_name_is_the_same_master() {
    let lab = lab();
    let (agent, _gnb) = started(&lab);
    let rename = |from: &str, to: &str| {
        lab.node.ip(&format!("link set {from} down\nlink set {from} name {to} up")).expect("renamed");
    };
    rename("n3", "n3old");
    rename("n6", "n6old");
    // What has the names now are other devices.
    lab.node.ip("link add n3 type bridge\nlink add n6 type bridge").expect("bridges");
    let status =
        until(&lab, &agent, "sessions forward", |it| forwarding(it, 3) && names(it) == ["n3old", "n6old"]);
    assert_eq!(problems(&status), Vec::<String>::new());
    traffic_flows(&lab, &agent);
    // Also for an agent that has never heard of the old names.
    agent.kill().expect("kill -9");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    traffic_flows(&lab, &agent);
    lab.node.ip("link del n3\nlink del n6").expect("no bridges");
    rename("n3old", "n3");
    rename("n6old", "n6");
    until(&lab, &agent, "the names are back", |it| forwarding(it, 3) && names(it) == ["n3", "n6"]);
    traffic_flows(&lab, &agent);
    agent.terminate().expect("a clean end");
}

#[test]
fn masters_that_leave_the_namespace_and_come_back_forward_again() {
    let lab = lab();
    let (agent, _gnb) = started(&lab);
    let away = lab.namespace("away").expect("a namespace");
    let node = lab.node.name().to_owned();
    let leave = |master: &str| {
        lab.node.ip(&format!("link set {master} netns {}", away.name())).expect("gone");
    };
    let come_back = |master: &str| {
        away.ip(&format!("link set {master} netns {node}")).expect("back");
        lab.node.ip(&format!("link set {master} up")).expect("up");
    };
    for masters in [&["n6"][..], &["n3", "n6"]] {
        masters.iter().for_each(|it| leave(it));
        until(&lab, &agent, "they are gone", |it| masters.iter().all(|name| !names(it).contains(name)));
        masters.iter().for_each(|it| come_back(it));
        until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
        traffic_flows(&lab, &agent);
    }
    // Faster than anybody looks: the links are as they were, but the kernel has taken them out of the device map.
    signal(&agent, Signal::SIGSTOP);
    ["n3", "n6"].iter().for_each(|it| leave(it));
    ["n3", "n6"].iter().for_each(|it| come_back(it));
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let lost = ping(user, SERVER, 3, 100).expect("ping");
    signal(&agent, Signal::SIGCONT);
    // The pod's kernel has forgotten its neighbours as well.
    let repaired = || Ok(ping(user, SERVER, PINGS, 100)?.is_complete().then_some(()));
    netplane_bench::lab::wait_for("packets get through again", crate::agent::LIMIT, repaired).unwrap_or_else(
        |error| panic!("{error}\n{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail()),
    );
    assert_eq!(lost.received, 0, "nothing led to the devices: {lost:?}");
    let status = lab.status().expect("a status");
    let lost = list(master(&status, "n3"), "lost");
    assert_eq!(lost.len(), 1, "{status:#}");
    assert_eq!((&lost[0]["from"], &lost[0]["reason"]), (&"n3".into(), &"no-device".into()));
    assert!(lost[0]["packets"].as_u64() >= Some(3), "{status:#}");
    agent.terminate().expect("a clean end");
}

/// Puts a program of somebody else on a device of the node, or takes it off.
fn foreign(lab: &Lab, master: &'static str) -> aya::programs::xdp::XdpLink {
    lab.node
        .run(|| {
            let mut ebpf = aya::Ebpf::load(netplane::dataplane::object()).expect("programs");
            netplane::dataplane::load_xdp(&mut ebpf).expect("loaded");
            let program = ebpf.program_mut(netplane::dataplane::XDP_PROGRAM).expect("a program");
            let program: &mut aya::programs::Xdp = program.try_into().expect("an XDP program");
            let id = program.attach(master, aya::programs::xdp::XdpMode::Driver).expect("attached");
            program.take_link(id).expect("a link")
        })
        .expect("the namespace")
}

#[test]
fn native_xdp_is_back_soon_after_somebody_elses_program_has_left() {
    let lab = lab();
    let upf = attach_pod(&lab);
    // It knows no sessions and passes all.
    let link = foreign(&lab, "n3");
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "TC instead", |it| {
        let sessions = list(it, "sessions");
        master(it, "n3")["attached"] == "tc" && sessions.iter().all(|it| it["state"] == "forwarding")
    });
    let said = problems(&status);
    assert!(said.len() == 1 && said[0].contains("somebody else"), "{said:?}");
    let _gnb = start_gnb(&lab, upf);
    traffic_flows(&lab, &agent);
    drop(link);
    let status = until(&lab, &agent, "native again", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());
    traffic_flows(&lab, &agent);
    agent.terminate().expect("a clean end");
}

#[test]
fn somebody_elses_program_that_comes_later_is_told_of() {
    let lab = crate::tc::lab_with("tc");
    let upf = attach_pod(&lab);
    let (agent, status) = crate::tc::agent_in(&lab, "tc");
    assert_eq!((&master(&status, "n3")["why"], problems(&status)), (&Value::Null, Vec::new()));
    let _gnb = start_gnb(&lab, upf);
    let link = foreign(&lab, "n3");
    let status = lab.status().expect("a status");
    let why = master(&status, "n3")["why"].as_str().unwrap_or_default();
    assert!(why.contains("somebody else has packets before netplane"), "{status:#}");
    assert_eq!(master(&status, "n3")["attached"], "tc");
    traffic_flows(&lab, &agent);
    drop(link);
    until(&lab, &agent, "it has left", |it| master(it, "n3")["why"] == Value::Null);
    agent.terminate().expect("a clean end");
}

/// Detaches netplane's XDP links from both masters, as an administrator might.
fn detach_links(lab: &Lab) {
    let links = lab.node.ip_json(&["link", "show", "n3"]).expect("the master");
    let program = links[0].pointer("/xdp/prog/id").cloned().expect("a program");
    let bpftool = |arguments: &[&str]| {
        let mut command = lab.node.command("bpftool");
        let output = command.args(arguments).output().expect("bpftool is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let all: Value = serde_json::from_slice(&bpftool(&["-j", "link", "show"])).expect("JSON of bpftool");
    let is_its = |it: &&Value| it["type"] == "xdp" && it["prog_id"] == program;
    let own: Vec<_> = all.as_array().into_iter().flatten().filter(is_its).collect();
    assert_eq!(own.len(), 2, "{all:#}");
    for id in own.iter().filter_map(|it| it["id"].as_u64()) {
        bpftool(&["link", "detach", "id", &id.to_string()]);
    }
}

#[test]
fn what_somebody_detaches_is_attached_again() {
    let lab = lab();
    let (agent, _gnb) = started(&lab);
    detach_links(&lab);
    until(&lab, &agent, "attached again", |it| forwarding(it, 3));
    traffic_flows(&lab, &agent);
    // Somebody is there first.
    signal(&agent, Signal::SIGSTOP);
    detach_links(&lab);
    let link = foreign(&lab, "n3");
    signal(&agent, Signal::SIGCONT);
    let status = until(&lab, &agent, "TC instead", |it| master(it, "n3")["attached"] == "tc");
    let said = problems(&status);
    assert!(said.len() == 1 && said[0].contains("somebody else"), "{said:?}");
    traffic_flows(&lab, &agent);
    drop(link);
    until(&lab, &agent, "native again", |it| forwarding(it, 3) && problems(it).is_empty());
    traffic_flows(&lab, &agent);
    agent.terminate().expect("a clean end");
}

#[test]
fn the_state_of_a_master_is_what_kernel_and_driver_say() {
    let lab = lab();
    let (agent, _gnb) = started(&lab);
    let status = until(&lab, &agent, "a look at it", |it| master(it, "n6")["device"] != Value::Null);
    let device = &master(&status, "n6")["device"];
    assert_eq!((&device["driver"], &device["mtu"]), (&"veth".into(), &1500.into()), "{status:#}");
    assert_eq!((&device["nativeXdp"], &device["takesRedirects"]), (&true.into(), &true.into()), "{status:#}");
    assert_eq!((&device["lro"], &device["needsFragments"]), (&false.into(), &false.into()), "{status:#}");
    assert!(device["queues"].as_u64() >= Some(1), "{status:#}");
    // A veth takes redirects while its other end polls.
    lab.dn.ethtool("n6", &["gro", "off"]).expect("no GRO");
    let status =
        until(&lab, &agent, "it is seen", |it| master(it, "n6")["device"]["takesRedirects"] == false);
    let said = problems(&status);
    assert!(said.len() == 1 && said[0].starts_with("master n6: it takes no redirected frames"), "{said:?}");
    lab.dn.ethtool("n6", &["gro", "on"]).expect("GRO");
    until(&lab, &agent, "all is well", |it| problems(it).is_empty());
    traffic_flows(&lab, &agent);
    let mut command = lab.netplane();
    command.args(["status", "--socket"]).arg(lab.socket());
    let text = netplane_bench::lab::command::NSENTER.output(&mut command, "").expect("a status");
    assert!(text.contains("driver veth, MTU 1500"), "{text}");
    agent.terminate().expect("a clean end");
}
