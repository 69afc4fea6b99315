//! The agent's metrics, as Prometheus scrapes them, beside the events that they count.

use crate::agent::{forwarding, lab, until};
use crate::agent_cluster::{Caller, api_server};
use netplane_bench::lab::apiserver::ApiServer;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::Host;
use netplane_bench::lab::traffic::ping::ping;
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{Lab, SERVER, cni, wait_for};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
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
    for path in ["/v1/status", "/v1/pods/core/upf-0", "/v1/networks/core/n3"] {
        let answer = get(connect(&lab).expect("a connection"), path);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    agent.terminate().expect("a clean end");

    let agent = caller.agent(&server);
    assert!(connect(&lab).is_err(), "TCP only where it is asked for");
    assert_eq!(events(&over_socket(&lab)), [0, 0, 0, 0]);
    agent.terminate().expect("a clean end");
}

/// Names of metrics in a text, without what the form of a sample adds.
fn names(text: &str) -> BTreeSet<String> {
    let word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = text.split(|it| !word(it));
    let ours = words.filter(|it| ["netplane_", "process_"].iter().any(|prefix| it.starts_with(prefix)));
    let plain = |it: &str| {
        let endings = ["_total", "_bucket", "_sum", "_count"];
        endings.iter().find_map(|ending| it.strip_suffix(ending)).unwrap_or(it).to_owned()
    };
    ours.map(plain).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Traffic, sessions and tables in the metrics; and what is documented, drawn and alerted on is what there is.
#[test]
fn what_is_forwarded_is_counted_and_every_metric_is_documented() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    let agent = caller.agent_with(&server, &["--metrics", ADDRESS, "--metrics-sessions", "2"]);
    caller.call("ADD", &agent);
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let address = |interface| -> Ipv4Addr {
        let addresses = cni::addresses(&lab.pod, interface).expect("an interface");
        addresses[0].split('/').next().expect("an address").parse().expect("an address")
    };
    lab.dn.ip(&format!("route add {UE_POOL} via {}", address("net2"))).expect("a route");
    let config = gnb(&users(4), address("net1"));
    let endpoint = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let before = over_socket(&lab);
    let of_endpoint = |it: &str| {
        format!(
            "netplane_forwarded_packets_total{{network=\"core/n3\",pod=\"core/upf-0\",direction=\"{it}\"}}"
        )
    };
    assert_eq!(count(&before, &of_endpoint("uplink")), 0);
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let pings = ping(user, SERVER, 5, 1000).expect("ping");
    assert!(pings.is_complete(), "{pings:?}");
    // Nobody has told the fast path of this one.
    let unknown = Host { namespace: &lab.gnb, address: users(4)[3].ue };
    assert!(!ping(unknown, SERVER, 1, 100).expect("ping").is_complete());
    drop(endpoint);
    // Sums are some seconds old.
    let both = |it: &str| ["uplink", "downlink"].map(|direction| count(it, &of_endpoint(direction)));
    wait_for("the pings in the sums", LIMIT, || Ok((both(&over_socket(&lab)) == [5, 5]).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {}", over_socket(&lab)));
    let answer = get(connect(&lab).expect("a connection"), "/metrics");
    for (sample, value) in [
        ("netplane_ready", 1),
        ("netplane_problems", 0),
        (r#"netplane_sessions{network="core/n3",state="forwarding"}"#, 3),
        (r#"netplane_sessions{network="core/n3",state="next-hop-unresolved"}"#, 0),
        (r#"netplane_endpoints{network="core/n6"}"#, 1),
        (r#"netplane_master_attached{master="n3",mode="native"}"#, 1),
        (r#"netplane_table_entries{table="uplink"}"#, 3),
        (r#"netplane_not_forwarded_packets_total{network="core/n3",reason="pass-unknown-teid"}"#, 1),
        ("netplane_sessions_without_series", 1),
        (
            r#"netplane_session_packets_total{network="core/n3",pod="core/upf-0",session="ue-1",direction="uplink"}"#,
            5,
        ),
        (r#"netplane_attach_duration_seconds_count{result="attached"}"#, 1),
        (r#"netplane_api_errors_total{what="pods"}"#, 0),
        ("netplane_operations_failed_total", 0),
    ] {
        assert_eq!(count(&answer, sample), value, "{sample}");
    }
    assert!(count(&answer, r#"netplane_table_capacity{table="uplink"}"#) >= 100_000);
    assert!(!answer.contains("session=\"ue-3\""), "two sessions at most have series");

    let there: BTreeSet<_> = answer
        .lines()
        .filter_map(|it| it.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    // Only while the kernel is told to measure, which concerns the whole machine; where it loses packets; and where
    // peers are asked.
    let measured = names(
        "netplane_program_runs netplane_program_run_seconds netplane_lost_packets netplane_gtpu_paths \
         netplane_gtpu_path_failures",
    );
    let documented = names(&read("docs/agent.md"));
    assert_eq!(there.union(&measured).cloned().collect::<BTreeSet<_>>(), documented);
    for file in ["deploy/monitoring/dashboard.json", "deploy/monitoring/alerts.yaml"] {
        let used = names(&read(file));
        assert!(used.len() >= 6, "{file}: {used:?}");
        assert!(used.is_subset(&documented), "{file}: {:?}", used.difference(&documented));
    }
    for (path, said) in [("/healthz", "HTTP/1.1 200"), ("/readyz", "HTTP/1.1 200")] {
        let answer = get(connect(&lab).expect("a connection"), path);
        assert!(answer.starts_with(said), "{path}: {answer}");
    }
    caller.call("DEL", &agent);
    agent.terminate().expect("a clean end");
}

/// An agent that cannot know yet is alive and not ready.
#[test]
fn an_agent_without_its_cluster_is_alive_and_not_ready() {
    let lab = lab();
    let server = api_server(&lab);
    server.down().expect("down");
    let kubeconfig = server.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("UTF-8");
    let arguments = ["--kubeconfig", kubeconfig, "--node-name", "node-1", "--metrics", ADDRESS];
    let agent = lab.start_agent_with(&arguments).expect("an agent");
    let first = |path: &str| Some(get(connect(&lab).ok()?, path).lines().next()?.to_owned());
    let alive = || Ok(first("/healthz").filter(|it| it.contains("200")));
    wait_for("it is alive", LIMIT, alive).unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    assert_eq!(first("/readyz").as_deref(), Some("HTTP/1.1 503 Service Unavailable"));
    assert_eq!(count(&over_socket(&lab), "netplane_ready"), 0);
    server.up().expect("up");
    let ready = || Ok(first("/readyz").filter(|it| it.contains("200")));
    wait_for("it is ready", LIMIT, ready).unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    let errors = r#"netplane_api_errors_total{what="pods"}"#;
    assert!(count(&over_socket(&lab), errors) > 0);
    agent.terminate().expect("a clean end");
}
