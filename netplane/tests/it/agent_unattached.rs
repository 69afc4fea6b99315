//! Pods that run without the networks that they select: nobody called the plugin for them, and the agent says so.

use crate::agent::{lab, problems, until};
use crate::agent_cluster::{Caller, api_server};
use crate::agent_metrics::{count, over_socket, until_posted};
use netplane_bench::lab::apiserver::pod;
use netplane_bench::lab::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const NODE: &str = "node-1";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// A pod that selects n3 and runs, as kubelet would have it.
fn running(name: &str) -> Value {
    let mut pod = pod("core", name, NODE, &json!({ NETWORKS: "n3" }));
    pod["status"] = json!({ "phase": "Running", "podIP": "10.20.0.99" });
    pod
}

#[test]
fn a_pod_that_runs_without_its_networks_is_an_event_a_metric_and_a_problem() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    // None of these is one. Pods are looked at in the order of their names.
    let mut host = running("a-host-network");
    host["spec"]["hostNetwork"] = json!(true);
    let mut done = running("a-finished");
    done["status"]["phase"] = json!("Succeeded");
    let mut multus = running("a-of-multus");
    multus["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = json!("[]");
    let mut waits = running("a-without-sandbox");
    waits["status"] = json!({ "phase": "Pending" });
    let mut nothing = running("a-selects-nothing");
    nothing["metadata"]["annotations"] = json!({});
    for pod in [host, done, multus, waits, nothing, running("z-early")] {
        server.put(pod).expect("a pod");
    }
    let agent = caller.agent_with(&server, &["--unattached-after", "1"]);
    caller.call("ADD", &agent);
    // Attached, whether or not its status has been written.
    server.put(running("upf-0")).expect("without a status");

    until_posted(&server, "NotAttached", "runs without the networks that it selects (\"n3\")");
    let told = |server: &netplane_bench::lab::apiserver::ApiServer| {
        let events = server.all("events");
        let of = events.iter().filter(|it| it["reason"] == "NotAttached");
        of.map(|it| it["involvedObject"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(&server), ["z-early"]);
    let status = until(&lab, &agent, "a problem", |it| !problems(it).is_empty());
    assert_eq!(problems(&status).len(), 1, "{:?}", problems(&status));
    assert!(problems(&status)[0].contains("core/z-early"), "{:?}", problems(&status));
    let metrics = over_socket(&lab);
    assert_eq!(count(&metrics, "netplane_unattached_pods"), 1);
    assert_eq!(count(&metrics, "netplane_attach_events_total{reason=\"NotAttached\"}"), 1);

    // Another agent sees the same pod, and the event is there once.
    agent.kill().expect("kill -9");
    let agent = caller.agent_with(&server, &["--unattached-after", "1"]);
    until(&lab, &agent, "the problem again", |it| !problems(it).is_empty());
    assert_eq!(told(&server), ["z-early"]);
    assert!(server.delete("pods", "core", "z-early"));
    until(&lab, &agent, "no problem", |it| problems(it).is_empty());
    let gone = || Ok((count(&over_socket(&lab), "netplane_unattached_pods") == 0).then_some(()));
    wait_for("the gauge", LIMIT, gone).expect("no pod is left");
    caller.call("DEL", &agent);
    agent.terminate().expect("a clean end");
}
