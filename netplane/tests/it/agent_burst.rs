//! Many at the agent's socket at once, as when a node has started: how many are served at a time, and in how much
//! memory.

use crate::agent::{lab, until};
use crate::agent_cluster::{NODE, api_server, start, until_answer};
use netplane_bench::lab::Lab;
use netplane_bench::lab::apiserver::{nad, pod};
use netplane_bench::lab::cgroup::Cgroup;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// As in `agent/limit.rs`.
const SERVED: usize = 64;
const MANY: usize = 100;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(lab.socket()).expect("the agent's socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Whether there is an answer before the time is over. It stays there.
fn is_answered(stream: &mut UnixStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("a timeout");
    stream.read(&mut [0; 4]).is_ok_and(|it| it > 0)
}

#[test]
fn so_many_connections_are_served_at_a_time_and_the_others_wait() {
    let lab = lab();
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "the agent is ready", |it| it["ready"] == true);
    let mut callers: Vec<_> = (0..MANY).map(|_| connect(&lab)).collect();
    for caller in &mut callers {
        // It keeps its connection.
        write!(caller, "GET /healthz HTTP/1.1\r\nHost: netplane\r\n\r\n").expect("written");
    }
    let mut waiting = callers.split_off(SERVED);
    for (number, caller) in callers.iter_mut().enumerate() {
        caller.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let answer = caller.read(&mut [0; 4]);
        let served = answer.as_ref().is_ok_and(|it| *it > 0);
        assert!(served, "caller {number} of {SERVED}: {answer:?}\n{}", agent.log_tail());
    }
    for caller in &mut waiting {
        assert!(!is_answered(caller, Duration::from_millis(5)), "more than {SERVED} are served");
    }
    drop(callers);
    for caller in &mut waiting {
        assert!(is_answered(caller, PATIENCE), "{}", agent.log_tail());
    }
    agent.terminate().expect("a clean end");
}

/// One request on a connection of its own. The answer's status.
fn request(lab: &Lab, verb: &str, path: &str, body: &str) -> u16 {
    let mut stream = connect(lab);
    let head = format!(
        "{verb} {path} HTTP/1.1\r\nHost: netplane\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("written");
    // One that is refused is not read to its end.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[9..]).parse().expect("a status")
}

/// What the agent may need for them beside what it has: 200 reports of this size are 12 MiB.
const LIMIT: u64 = 8 << 20;
const BURST: usize = 200;

/// A report that says nothing, of so many bytes.
fn report(bytes: usize) -> String {
    json!({"containerId": "c", "interface": "eth0", "more": "x".repeat(bytes)}).to_string()
}

#[test]
fn a_burst_of_adds_needs_little_memory_of_the_agent() {
    let name = format!("netplane-agent-{}", std::process::id());
    let cgroup = Cgroup::new(&name, Some(LIMIT)).expect("a memory controller");
    let lab = lab();
    let server = api_server(&lab);
    server.put(pod("core", "upf-0", NODE, &json!({}))).expect("a pod");
    server.put(nad("core", "n3", &json!({"type": "macvlan"}))).expect("a NAD");
    let agent = start(&lab, &server);
    for path in ["/v1/pods/core/upf-0", "/v1/networks/core/n3"] {
        until_answer(&lab, &agent, path, |code, _| code == 200);
    }
    // What it has taken so far is counted elsewhere.
    std::fs::write(cgroup.procs(), agent.id().to_string()).expect("moved");
    let body = report(60 << 10);
    std::thread::scope(|scope| {
        for _ in 0..BURST {
            scope.spawn(|| {
                assert_eq!(request(&lab, "GET", "/v1/pods/core/upf-0", ""), 200);
                assert_eq!(request(&lab, "GET", "/v1/networks/core/n3", ""), 200);
                assert_eq!(request(&lab, "POST", "/v1/pods/core/upf-0/report", &body), 202);
            });
        }
    });
    assert_eq!(request(&lab, "POST", "/v1/pods/core/upf-0/report", &report(64 << 10)), 413, "too long");
    assert_eq!(request(&lab, "GET", "/v1/status", ""), 200, "{}", agent.log_tail());
    agent.terminate().expect("a clean end");
}
