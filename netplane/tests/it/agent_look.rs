//! What a person sees of a running agent: `netplane trace`, and the status of one network.

use crate::agent::{forwarding, lab, list, sandbox, until};
use netplane_bench::lab::{GATEWAY, Lab};
use serde_json::Value;
use std::process::Output;

/// `netplane trace`, as a program reads it.
fn trace(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.netplane();
    command.arg("trace").args(arguments).arg("--json").arg("--socket").arg(lab.socket());
    command.output().expect("it runs")
}

#[track_caller]
fn traced(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let output = trace(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[track_caller]
fn verdicts(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let traced = traced(lab, arguments);
    traced.iter().map(|it| it["verdict"].as_str().expect("a verdict").to_owned()).collect()
}

#[test]
fn a_trace_tells_entry_next_hop_and_verdict_and_counts_nothing() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    let before = until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));

    let both = traced(&lab, &["--teid", "0x1001"]);
    let [up, down] = both.as_slice() else { panic!("{both:#?}") };
    for it in [up, down] {
        assert_eq!((&it["session"], &it["verdict"]), (&"ue-1".into(), &"forwarded".into()), "{it:#}");
        assert!(it["nextHop"].as_str().is_some_and(|it| it.starts_with("resolved: ")), "{it:#}");
    }
    let has = |it: &Value, key: &str, text: &str| it[key].as_str().is_some_and(|it| it.contains(text));
    assert!(
        has(up, "packet", "10.30.0.10 > 10.30.0.50 TEID 0x1001 [10.60.0.1 > 192.0.2.1 UDP] into n3"),
        "{up:#}"
    );
    assert!(has(up, "outcome", "10.60.0.1 > 192.0.2.1 TTL 63 out of n6"), "{up:#}");
    assert!(has(up, "entry", "forward, from 10.60.0.1"), "{up:#}");
    assert!(has(down, "packet", "192.0.2.1 > 10.60.0.1"), "{down:#}");
    assert!(
        has(down, "outcome", "10.30.0.50 > 10.30.0.10") && has(down, "outcome", "TEID 0x2001 out of n3"),
        "{down:#}"
    );
    assert!(has(down, "entry", "QFI 9"), "{down:#}");

    assert_eq!(verdicts(&lab, &["--teid", "0x1001", "--ue", "10.60.0.2"]), ["ue-spoofed", "forwarded"]);
    assert_eq!(verdicts(&lab, &["--ue", "10.60.0.3"]), ["forwarded"]);
    assert_eq!(verdicts(&lab, &["--teid", "9"]), ["pass-unknown-teid"]);
    let output = trace(&lab, &["--ue", "10.60.9.9"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("no session on this node has the user address 10.60.9.9"),
        "{said}"
    );
    // Made up packets are nobody's: no counter has moved.
    let after = lab.status().expect("a status");
    for key in ["sessions", "networks"] {
        assert_eq!(before[key], after[key]);
    }

    lab.dn.ip(&format!("address del {GATEWAY}/24 dev n6")).expect("the address goes");
    lab.pod.ip(&format!("neigh del {GATEWAY} dev net2")).expect("the entry goes");
    until(&lab, &agent, "sessions wait", |it| !forwarding(it, 3));
    let up = &traced(&lab, &["--teid", "0x1001"])[0];
    assert_eq!(up["verdict"], "next-hop-unresolved", "{up:#}");
    assert!(up["nextHop"].as_str().is_some_and(|it| it.starts_with("NOT RESOLVED")), "{up:#}");
    agent.terminate().expect("a clean end");
}

#[test]
fn the_status_of_one_network_leaves_out_the_others() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let status = |network: &str, more: &[&str]| {
        let mut command = lab.netplane();
        command.args(["status", "--network", network]).args(more).arg("--socket").arg(lab.socket());
        command.output().expect("it runs")
    };
    let output = status("core/n6", &["--json"]);
    let only: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names = |key: &str| list(&only, key).iter().map(|it| it["name"].clone()).collect::<Vec<_>>();
    assert_eq!((names("networks"), names("masters")), (vec!["core/n6".into()], vec!["n6".into()]));
    assert_eq!((list(&only, "endpoints").len(), list(&only, "sessions").len()), (1, 0));
    let text = String::from_utf8(status("core/n3", &[]).stdout).expect("UTF-8");
    assert!(text.contains("ue-2") && !text.contains("core/n6"), "{text}");
    let said = String::from_utf8(status("core/n9", &[]).stderr).expect("UTF-8");
    assert!(said.contains("no network core/n9 on the fast path; there are: core/n3, core/n6"), "{said}");
    agent.terminate().expect("a clean end");
}
