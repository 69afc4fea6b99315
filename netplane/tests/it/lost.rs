//! Packets that the kernel loses after the decision: each is made to fail for real, and seen in `status`, in metrics
//! and as a problem, across agents.

use crate::agent::{LIMIT, forwarding, lab, list, problems, until};
use crate::agent_metrics::{count, over_socket};
use crate::masters::{master, signal, start_gnb};
use crate::tc::attach_pod;
use netplane_bench::lab::cni::addresses;
use netplane_bench::lab::traffic::{Host, ping};
use netplane_bench::lab::users::{UE_POOL, users};
use netplane_bench::lab::{GNB, Lab, SERVER, wait_for};
use netplane_common::testing::packet;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

const PACKETS: u64 = 7;

/// The first user's packets to the server, of this many bytes of data.
fn send(lab: &Lab, upf: Ipv4Addr, data: usize) {
    let user = Ipv4Addr::new(10, 60, 0, 1);
    let inner = packet::Ipv4::new(user, SERVER, packet::udp(1, 9, &vec![0; data])).bytes();
    let message = packet::gtpu(0x30, 255, 0x1001, &inner);
    let sent = lab.gnb.run(|| {
        let socket = UdpSocket::bind((GNB, 0)).expect("the gNB's address");
        for _ in 0..PACKETS {
            socket.send_to(&message, (upf, 2152)).expect("sent");
        }
    });
    sent.expect("in the gNB's namespace");
}

/// Packets that came in by N3 and were lost, by the reason, at a master.
fn lost(status: &Value, name: &str) -> BTreeMap<String, u64> {
    let lost = list(master(status, name), "lost").iter();
    lost.map(|it| {
        assert_eq!(it["from"], "n3", "{status:#}");
        (it["reason"].as_str().unwrap_or_default().to_owned(), it["packets"].as_u64().unwrap_or(0))
    })
    .collect()
}

#[test]
fn redirects_that_fail_are_counted_by_reason() {
    let lab = lab();
    let upf = attach_pod(&lab);
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    assert_eq!((status["notes"].clone(), lost(&status, "n6")), (Value::Null, BTreeMap::new()));

    // The agent would follow: it is held meanwhile.
    signal(&agent, Signal::SIGSTOP);
    lab.dn.ethtool("n6", &["gro", "off"]).expect("no GRO");
    send(&lab, upf, 100);
    lab.dn.ethtool("n6", &["gro", "on"]).expect("GRO");
    lab.node.ip("link set n6 mtu 600").expect("a smaller MTU");
    send(&lab, upf, 1000);
    lab.node.ip("link set n6 mtu 1500").expect("the MTU of before");
    lab.dn.ip("link set n6 down").expect("the other end is down");
    send(&lab, upf, 100);
    lab.dn.ip("link set n6 up").expect("the other end is up");
    lab.node.ip("link set n6 down").expect("down");
    send(&lab, upf, 100);
    lab.node.ip("link set n6 up").expect("up");
    signal(&agent, Signal::SIGCONT);

    let all = ["link-down", "not-ready", "not-supported", "too-long"];
    let expected: BTreeMap<_, _> = all.iter().map(|it| ((*it).to_owned(), PACKETS)).collect();
    let status = until(&lab, &agent, "a problem for each", |it| {
        all.iter().all(|reason| problems(it).iter().any(|it| it.contains(reason)))
    });
    assert_eq!(lost(&status, "n6"), expected, "{status:#}");
    let said = problems(&status);
    let begin = format!("master n6: {PACKETS} packets from master n3 were lately lost");
    assert_eq!(said.iter().filter(|it| it.starts_with(&begin)).count(), all.len(), "{said:?}");
    let metrics = over_socket(&lab);
    for reason in all {
        let labels = format!("{{master=\"n6\",from=\"n3\",reason=\"{reason}\"}}");
        assert_eq!(count(&metrics, &format!("netplane_lost_packets_total{labels}")), PACKETS);
    }

    // What the pod's kernel has forgotten meanwhile, it knows again.
    let via = &addresses(&lab.pod, "net2").expect("net2")[0];
    let via = via.split('/').next().expect("an address");
    lab.dn.ip(&format!("route add {UE_POOL} via {via}")).expect("a route to the users");
    let _gnb = start_gnb(&lab, upf);
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let all_get_through = || Ok(ping(user, SERVER, 5, 100)?.is_complete().then_some(()));
    wait_for("packets get through again", LIMIT, all_get_through).expect("traffic");

    // The programs count without an agent, and the next one goes on from there.
    agent.kill().expect("kill -9");
    lab.dn.ethtool("n6", &["gro", "off"]).expect("no GRO");
    send(&lab, upf, 100);
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "the sum of both", |it| {
        lost(it, "n6").get("not-supported") == Some(&(2 * PACKETS))
    });
    assert!(
        problems(&status).iter().all(|it| !it.contains("lately lost")),
        "no news: {:?}",
        problems(&status)
    );
    send(&lab, upf, 100);
    let status = until(&lab, &agent, "it counts, once", |it| {
        lost(it, "n6").get("not-supported") >= Some(&(3 * PACKETS))
    });
    assert_eq!(lost(&status, "n6")["not-supported"], 3 * PACKETS, "{status:#}");
    agent.terminate().expect("a clean end");
    lab.detach_agent().expect("detached");
}

#[test]
fn a_kernel_that_does_not_describe_itself_forwards_and_has_a_note() {
    let lab = lab();
    attach_pod(&lab);
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let agent = lab.start_agent_under(&under).expect("an agent");
    let status = until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());
    let note = &list(&status, "notes")[0];
    assert_eq!(note["object"], "redirect failures");
    assert!(note["message"].as_str().is_some_and(|it| it.contains("/sys/kernel/btf/vmlinux")), "{note}");
}
