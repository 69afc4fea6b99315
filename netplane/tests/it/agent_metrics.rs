//! The agent's metrics, as Prometheus scrapes them, beside the events that they count.

use crate::agent::lab;
use crate::agent_cluster::{Caller, api_server};
use netplane_bench::lab::apiserver::ApiServer;
use netplane_bench::lab::{Lab, wait_for};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// In the lab's own network namespace.
const ADDRESS: &str = "127.0.0.1:9469";

fn get(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: netplane\r\nConnection: close\r\n\r\n").expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

pub(crate) fn over_socket(lab: &Lab) -> String {
    let stream = UnixStream::connect(lab.socket()).expect("the socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    get(stream, "/metrics")
}

fn connect(lab: &Lab) -> std::io::Result<TcpStream> {
    let address: SocketAddr = ADDRESS.parse().expect("an address");
    let stream = lab.node.run(|| TcpStream::connect(address)).expect("the node's namespace")?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// The value of a counter.
#[track_caller]
pub(crate) fn count(answer: &str, sample: &str) -> u64 {
    let line = answer.lines().find_map(|it| it.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {answer}")).parse().expect("a number")
}

/// Of events, in the order of the table in docs/agent.md.
#[track_caller]
fn events(answer: &str) -> [u64; 4] {
    ["AddedInterface", "NoNetworkFound", "FailedAddInterface", "SelectionPassedOver"]
        .map(|it| count(answer, &format!("netplane_attach_events_total{{reason=\"{it}\"}}")))
}

/// Waits for an event on the pod.
#[track_caller]
pub(crate) fn until_posted(server: &ApiServer, reason: &str, text: &str) {
    let is_it = |it: &serde_json::Value| {
        it["reason"] == reason && it["message"].as_str().is_some_and(|it| it.contains(text))
    };
    let probe = || Ok(server.all("events").iter().any(is_it).then_some(()));
    wait_for(reason, LIMIT, probe).unwrap_or_else(|error| panic!("{error}: {:?}", server.all("events")));
}

#[test]
fn what_a_pod_did_not_get_is_an_event_and_a_counter() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    let agent = caller.agent_with(&server, &["--metrics", ADDRESS]);
    assert_eq!(events(&over_socket(&lab)), [0, 0, 0, 0]);

    // A capability that no plugin of the NAD has is passed over, as Multus does.
    caller.select(
        &server,
        &agent,
        r#"[{"name":"n3","bandwidth":{"ingressRate":1000000,"ingressBurst":1000000}}]"#,
    );
    caller.call("ADD", &agent);
    assert_eq!(events(&over_socket(&lab)), [2, 0, 0, 1]);
    until_posted(&server, "SelectionPassedOver", "core/n3: bandwidth");
    let written = || {
        let written = count(&over_socket(&lab), "netplane_network_status_written_total");
        Ok((written == 1).then_some(()))
    };
    wait_for("network-status", LIMIT, written)
        .unwrap_or_else(|it| panic!("{it}: {}\n{}", over_socket(&lab), agent.log_tail()));
    caller.call("DEL", &agent);

    caller.select(&server, &agent, "absent");
    assert!(!caller.run("ADD").status.success());
    assert_eq!(events(&over_socket(&lab)), [2, 1, 0, 1]);
    until_posted(&server, "NoNetworkFound", "core/absent");

    caller.select(&server, &agent, "n3@much-too-long-for-an-interface");
    assert!(!caller.run("ADD").status.success());
    until_posted(&server, "FailedAddInterface", "much-too-long");

    // The same over TCP, and nothing else there.
    let answer = get(connect(&lab).expect("a connection"), "/metrics");
    assert_eq!(events(&answer), [2, 1, 1, 1]);
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    for path in ["/v1/status", "/v1/pods/core/upf-0"] {
        let answer = get(connect(&lab).expect("a connection"), path);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    agent.terminate().expect("a clean end");

    let agent = caller.agent(&server);
    assert!(connect(&lab).is_err(), "TCP only where it is asked for");
    assert_eq!(events(&over_socket(&lab)), [0, 0, 0, 0]);
    agent.terminate().expect("a clean end");
}
