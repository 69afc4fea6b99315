//! The plugin as a real container runtime calls it: containerd's CRI, its annotations, its Go plugins as
//! the default network, and pods that reach each other over their secondary networks.

use crate::harness::files;
use netplane_bench::lab::containerd::{Containerd, Pod, PodSpec};
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::Host;
use netplane_bench::lab::traffic::ping::ping;
use netplane_bench::lab::traffic::tcp;
use netplane_bench::lab::traffic::udp::{self, EchoServer};
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{Lab, SERVER, cni, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

fn lab() -> Lab {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    for (name, master, subnet) in [("n3", "n3", "10.30.0.0/24"), ("n6", "n6", "10.40.0.0/24")] {
        let config = json!({
            "cniVersion": "1.0.0", "type": "macvlan", "master": master, "mode": "bridge",
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet, "rangeStart": subnet.replace("0/24", "50") }]] },
        });
        let nad = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "core" }, "spec": { "config": config.to_string() },
        });
        lab.write_nad(&format!("{name}.json"), nad.to_string().as_bytes()).expect("a NAD");
    }
    lab
}

/// As `netplane install` would write it, with a plugin of Debian's as the default network.
pub(crate) fn configuration(lab: &Lab, default: &str) -> Value {
    let ipam = json!({ "type": "host-local", "subnet": "10.20.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] });
    let delegate = match default {
        "bridge" => json!({
            "cniVersion": "1.0.0", "name": "default", "plugins": [
                { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam },
                { "type": "tuning", "sysctl": { "net.ipv4.conf.all.log_martians": "0" } },
            ],
        }),
        _ => json!({ "cniVersion": "1.0.0", "name": "default", "type": "ptp", "ipam": ipam }),
    };
    json!({
        "cniVersion": "1.0.0", "name": "netplane", "type": "netplane", "nadDir": lab.nad_dir(),
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        "delegates": [delegate],
    })
}

fn address(pod: &Pod, interface: &str) -> Ipv4Addr {
    let addresses = cni::addresses(&pod.namespace, interface).expect("an interface");
    let [address] = addresses.as_slice() else { panic!("{interface} has {addresses:?}") };
    address.split('/').next().expect("an address").parse().expect("an address")
}

/// What there is of pods on the node: interfaces, records, addresses, sandboxes' namespaces.
fn left(lab: &Lab, containerd: &Containerd<'_>) -> Vec<String> {
    let mut left = files(&lab.record_dir());
    left.extend(files(&lab.var_lib().join("cni/networks")));
    left.retain(|it| !it.starts_with("last_reserved_ip") && it != "lock");
    left.extend(containerd.namespaces().expect("namespaces"));
    let links = lab.node.interfaces().expect("interfaces");
    left.extend(links.into_iter().filter(|it| it.starts_with("veth")));
    left
}

fn attach_two(default: &str) {
    let lab = lab();
    let mut containerd = Containerd::start(&lab, &configuration(&lab, default)).expect("containerd");
    let pod =
        |name| PodSpec { namespace: "core", name, annotations: &[(NETWORKS, "n3, n6@data0")], uid: None };
    let first = containerd.run(pod("first")).expect("a pod");
    let second = containerd.run(pod("second")).expect("another pod");
    for pod in [&first, &second] {
        assert_eq!(pod.namespace.interfaces().expect("interfaces"), ["lo", "eth0", "net1", "data0"]);
        assert_eq!(pod.ip, address(pod, "eth0"), "kubelet is told the default network's address");
    }
    for interface in ["eth0", "net1", "data0"] {
        let host = |pod: &'_ Pod| address(pod, interface);
        let near = Host { namespace: &first.namespace, address: host(&first) };
        let far = Host { namespace: &second.namespace, address: host(&second) };
        let pings = ping(near, far.address, 3, 1000).expect("ping");
        assert!(pings.is_complete(), "{interface}: {pings:?}");
        let server = EchoServer::start(far).expect("a server");
        let report = udp::bulk(near, far, 200, 1000, 8).expect("datagrams");
        assert_eq!(report.returned, report.sent, "{interface}");
        drop(server);
        tcp::echo(near, far, 1 << 20).expect("TCP");
    }
    containerd.restart().expect("containerd again");
    for Pod { id, namespace, .. } in [first, second] {
        // Else it would not go with the sandbox.
        drop(namespace);
        containerd.cri().stop(&id).expect("stopped");
        containerd.cri().stop(&id).expect("stopped twice");
        containerd.cri().remove(&id).expect("removed");
    }
    assert_eq!(left(&lab, &containerd), Vec::<String>::new());
}

#[test]
fn containerd_attaches_pods_with_bridge_as_default_network() {
    attach_two("bridge");
}

#[test]
fn containerd_attaches_pods_with_ptp_as_default_network() {
    attach_two("ptp");
}

#[test]
fn containerd_attaches_fifty_pods_at_once() {
    let lab = lab();
    let containerd = Containerd::start(&lab, &configuration(&lab, "bridge")).expect("containerd");
    let ids: Vec<String> = std::thread::scope(|scope| {
        let run = |number: u32| {
            let containerd = &containerd;
            scope.spawn(move || {
                let (name, annotations) = (format!("pod-{number}"), [(NETWORKS, "n3,n6")]);
                let pod = PodSpec { namespace: "core", name: &name, annotations: &annotations, uid: None };
                containerd.run_sandbox(pod).expect("a pod")
            })
        };
        let threads: Vec<_> = (0..50).map(run).collect();
        threads.into_iter().map(|it| it.join().expect("no panic")).collect()
    });
    let addresses: BTreeSet<_> = files(&lab.var_lib().join("cni/networks/n3")).into_iter().collect();
    let addresses = addresses.into_iter().filter(|it| it.parse::<Ipv4Addr>().is_ok()).count();
    assert_eq!(addresses, 50, "each pod has an address of its own on n3");
    std::thread::scope(|scope| {
        for id in &ids {
            let cri = containerd.cri();
            scope.spawn(move || cri.stop(id).expect("stopped"));
        }
    });
    assert_eq!(left(&lab, &containerd), Vec::<String>::new());
}

/// As the README says: the example configuration, the example NADs and the example sandbox, and the agent
/// beside it. Users reach the data network through a pod whose process never sees a packet.
#[test]
fn containerd_and_the_agent_run_the_examples_without_a_cluster() {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    lab.apply(&["n3.yaml", "n6.yaml"].map(|it| examples.join("nads").join(it))).expect("NADs");
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(examples.join(name)).expect(name);
        serde_json::from_str(&text).expect(name)
    };
    let mut configuration = read("cni/00-containerd.conf");
    configuration["nadDir"] = json!(lab.nad_dir());
    let containerd = Containerd::start(&lab, &configuration).expect("containerd");
    let sandbox = read("containerd/upf-0.json");
    let networks = sandbox["annotations"][NETWORKS].as_str().expect("networks");
    let annotations = [(NETWORKS, networks)];
    let (namespace, name) = (&sandbox["metadata"]["namespace"], &sandbox["metadata"]["name"]);
    let spec = PodSpec {
        namespace: namespace.as_str().expect("a namespace"),
        name: name.as_str().expect("a name"),
        annotations: &annotations,
        uid: None,
    };
    let pod = containerd.run(spec).expect("a pod");
    // In containerd's mount namespace, as on a node: there the pod's namespace has the path of its record.
    let agent = containerd.start_agent().expect("an agent");
    wait_for("sessions forward", Duration::from_secs(20), || {
        let status = lab.status().unwrap_or_default();
        let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok((sessions.len() == 3 && sessions.iter().all(|it| it["state"] == "forwarding")).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    lab.dn.ip(&format!("route add {UE_POOL} via {}", address(&pod, "net2"))).expect("a route to the users");
    let config = gnb(&users(3), address(&pod, "net1"));
    let endpoint = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let pings = ping(user, SERVER, 5, 1000).expect("ping");
    assert!(pings.is_complete(), "{pings:?}");
    let Pod { id, namespace, .. } = pod;
    drop((endpoint, namespace));
    containerd.cri().stop(&id).expect("stopped");
    wait_for("the agent sees it go", Duration::from_secs(20), || {
        let status = lab.status().unwrap_or_default();
        Ok((status["endpoints"].as_array().is_some_and(Vec::is_empty)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    assert_eq!(left(&lab, &containerd), Vec::<String>::new());
}

/// The runtime tells kubelet what the plugin said, and nothing is left of the sandbox's network.
#[test]
fn containerd_hands_on_why_a_pod_was_not_attached() {
    let lab = lab();
    let containerd = Containerd::start(&lab, &configuration(&lab, "bridge")).expect("containerd");
    let annotations = [(NETWORKS, "n3,no-such-network")];
    let error = containerd.run_sandbox(PodSpec {
        namespace: "core",
        name: "wrong",
        annotations: &annotations,
        uid: None,
    });
    let error = format!("{:#}", error.expect_err("no such network"));
    assert!(error.contains("core/no-such-network") && error.contains("no such NAD"), "{error}");
    assert_eq!(left(&lab, &containerd), Vec::<String>::new());
}
