//! Two UPF pods under containerd, each with the session socket mounted and no privilege: each programs its own
//! sessions, and nothing of the other's is in its reach.

use crate::agent::LIMIT;
use crate::containerd::configuration;
use netplane_bench::lab::command::NSENTER;
use netplane_bench::lab::containerd::{Containerd, PodSpec};
use netplane_bench::lab::{Lab, wait_for};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const UIDS: [&str; 2] = ["8f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b", "0a1b2c3d-4e5f-4a6b-8c7d-8e9f0a1b2c3d"];

fn lab() -> Lab {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let data = r#"{ "role": "data", "uePools": ["10.60.0.0/16"] }"#;
    let networks = [
        ("n3", "n3", "10.30.0.0/24", r#"{ "role": "access" }"#),
        ("n6", "n6", "10.40.0.0/24", data),
        // Of the first pod alone.
        ("n6b", "n6", "10.41.0.0/24", r#"{ "role": "data", "uePools": ["10.61.0.0/16"] }"#),
    ];
    for (name, master, subnet, fast_path) in networks {
        let config = json!({
            "cniVersion": "1.0.0", "type": "macvlan", "master": master, "mode": "bridge",
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet, "rangeStart": subnet.replace("0/24", "50") }]] },
        });
        let nad = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "core", "annotations": { "netplane.dev/fast-path": fast_path } },
            "spec": { "config": config.to_string() },
        });
        lab.write_nad(&format!("{name}.json"), nad.to_string().as_bytes()).expect("a NAD");
    }
    lab
}

/// A UPF's container.
struct Upf<'c, 'l> {
    containerd: &'c Containerd<'l>,
    id: String,
}

impl Upf<'_, '_> {
    fn session(&self, arguments: &[&str]) -> Result<String, String> {
        let head = ["/netplane", "session", "--socket", "/sessions/sessions.sock"];
        let command: Vec<&str> = head.iter().chain(arguments).copied().collect();
        self.containerd.cri().exec(&self.id, &command).map_err(|it| format!("{it:#}"))
    }

    fn add(&self, id: &str, teid: &str, ue: &str, more: &[&str]) -> Result<String, String> {
        let mut arguments = vec!["add", id, "--ue", ue, "--access", "core/n3", "--teid", teid];
        arguments.extend(["--peer", "10.30.0.10", "--peer-teid", "0x2001"]);
        if !more.contains(&"--data") {
            arguments.extend(["--data", "core/n6"]);
        }
        arguments.extend(more);
        self.session(&arguments)
    }

    fn describe(&self) -> Value {
        let text = self.session(&["describe"]).expect("described");
        serde_json::from_str(&text).expect("JSON")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], part: &str) {
        let error = self.session(arguments).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
}

/// Its address on a network, as it is told.
fn address(described: &Value, network: &str) -> Ipv4Addr {
    let endpoints = described["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let endpoint = endpoints.iter().find(|it| it["networkInstance"] == network).expect("an endpoint");
    let address = endpoint["addresses"][0].as_str().and_then(|it| it.split('/').next());
    address.and_then(|it| it.parse().ok()).expect("an address")
}

#[test]
fn two_pods_program_their_own_sessions_and_nothing_else() {
    let lab = lab();
    let containerd = Containerd::start(&lab, &configuration(&lab, "bridge")).expect("containerd");
    let agent = containerd.start_agent_with(&["--max-sessions-per-pod", "2"]).expect("an agent");
    let folder = lab.session_folder();
    let socket = || Ok(folder.join("sessions.sock").exists().then_some(()));
    wait_for("the session socket", LIMIT, socket)
        .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    let pods = [("upf-a", UIDS[0], "n3, n6, n6b"), ("upf-b", UIDS[1], "n3, n6")];
    let [a, b] = pods.map(|(name, uid, networks)| {
        let annotations = [(NETWORKS, networks)];
        let spec = PodSpec { namespace: "core", name, annotations: &annotations, uid: Some(uid) };
        let sandbox = containerd.run_sandbox(spec).expect("a pod");
        let id = containerd.run_container(&sandbox, spec, &[(&folder, "/sessions")]).expect("a container");
        Upf { containerd: &containerd, id }
    });
    let known = || {
        let describe = |it: &Upf<'_, '_>| it.session(&["describe"]).unwrap_or_default();
        Ok((describe(&a).contains("core/n6b") && describe(&b).contains("core/n6")).then_some(()))
    };
    wait_for("the agent knows both pods", LIMIT, known).unwrap_or_else(|error| {
        panic!("{error}\n{:?} {:?}\n{}", a.session(&["describe"]), b.session(&["describe"]), agent.log_tail())
    });
    assert_eq!(a.describe()["pod"], "core/upf-a");
    assert_eq!(b.describe()["pod"], "core/upf-b");

    a.add("ue-1", "0x1001", "10.60.0.1", &[]).expect("a session of the first pod");
    b.add("ue-1", "0x1001", "10.60.0.2", &[]).expect("the same names and TEID at another address");
    let (at_a, at_b) = (address(&a.describe(), "core/n3"), address(&b.describe(), "core/n3"));
    assert_ne!(at_a, at_b);

    // Endpoints, TEIDs, users, networks, identifiers, all.
    let not_yours = "pod core/upf-b may not touch the sessions of pod core/upf-a";
    for arguments in [&["list"][..], &["show", "ue-1"], &["delete", "ue-1"], &["sweep", "7"], &["describe"]] {
        b.refused(&[&["--pod", "core/upf-a"], arguments].concat(), not_yours);
    }
    let refused = |result: Result<String, String>, parts: [&str; 2]| {
        let error = result.expect_err("refused");
        assert!(parts.iter().all(|it| error.contains(it)), "{error}");
    };
    let denied = "permission";
    let local = at_a.to_string();
    let is_a = format!("{at_a} is an address of pod core/upf-a");
    refused(b.add("x", "0x3001", "10.60.0.3", &["--local", &local]), [denied, &is_a]);
    let of_a = "10.60.0.1 is that of session ue-1 of pod core/upf-a";
    refused(b.add("x", "0x3001", "10.60.0.1", &[]), [denied, of_a]);
    let detached = "pod core/upf-b is not attached to core/n6b";
    refused(b.add("x", "0x3001", "10.61.0.3", &["--data", "core/n6b"]), [denied, detached]);
    let outside = "10.62.0.1 is in none of the uePools of core/n6";
    refused(b.add("x", "0x3001", "10.62.0.1", &[]), [denied, outside]);
    b.add("ue-2", "0x1002", "10.60.0.3", &[]).expect("its second session");
    let quota = "pod core/upf-b has 2 sessions, which is its quota";
    refused(b.add("ue-3", "0x1003", "10.60.0.4", &[]), ["exhausted", quota]);
    a.add("ue-2", "0x1002", "10.61.0.9", &["--data", "core/n6b"]).expect("another pod has its own quota");

    // Root of the node, outside of all pods, sees both; and none of that has changed anything.
    let root = |pod: &str| {
        let mut command = containerd.command(lab.binary());
        command.args(["session", "--socket"]).arg(folder.join("sessions.sock"));
        command.args(["--pod", pod, "list"]);
        NSENTER.output(&mut command, "").expect("root may").lines().count()
    };
    assert_eq!((root("core/upf-a"), root("core/upf-b")), (2, 2));
    assert_eq!(b.session(&["sweep", "1"]).as_deref().map(str::trim), Ok("2 removed"));
    assert_eq!((root("core/upf-a"), root("core/upf-b")), (2, 0));
}
