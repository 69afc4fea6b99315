//! The fast path for pods that netplane has not attached: a sandbox of containerd, macvlan by the reference
//! plugins as Multus calls them, and what Multus writes to the pod. The agent finds the pod's namespace by it.

use crate::agent::{forwarding, list, problems, until};
use crate::agent_cluster::api_server;
use crate::deploy::examples;
use netplane_bench::lab::apiserver::ApiServer;
use netplane_bench::lab::containerd::{Containerd, Pod, PodSpec};
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::Host;
use netplane_bench::lab::traffic::ping::ping;
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{Lab, Process, SERVER, cni};
use serde_json::{Value, json};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

const NODE: &str = "node-1";

/// Containerd with a default network that is none of netplane's, and an API server with the examples' NADs.
struct Stage<'a> {
    containerd: Containerd<'a>,
    server: ApiServer,
    nads: Vec<Value>,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab) -> Self {
        let default = json!({
            "cniVersion": "1.0.0", "name": "default", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": { "type": "host-local", "subnet": "10.20.0.0/24" },
        });
        let containerd = Containerd::start(lab, &default).expect("containerd");
        let server = api_server(lab);
        let nads: Vec<_> =
            examples().into_iter().filter(|it| it["kind"] == "NetworkAttachmentDefinition").collect();
        for nad in &nads {
            server.put(nad.clone()).expect("a NAD");
        }
        Self { containerd, server, nads }
    }

    fn sandbox(&self, name: &str) -> Pod {
        let pod = PodSpec { namespace: "core", name, annotations: &[], uid: None };
        self.containerd.run(pod).expect("a pod")
    }

    /// One network as Multus attaches it: the reference macvlan, and the entry of `network-status`.
    fn attach(&self, pod: &Pod, network: &str, interface: &str) -> Value {
        let nad = self.nads.iter().find(|it| it["metadata"]["name"] == network).expect("the NAD");
        let mut config: Value =
            serde_json::from_str(nad["spec"]["config"].as_str().expect("a text")).expect("JSON");
        config["name"] = json!(network);
        // As the host sees it; the plugin runs beside the runtime.
        let path = self.containerd.netns(&pod.id).expect("a namespace");
        let path = Path::new("/run/netns").join(path.file_name().expect("a name"));
        let mut command = self.containerd.command("/usr/lib/cni/macvlan");
        command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", &pod.id).env("CNI_NETNS", path);
        command.env("CNI_IFNAME", interface).env("CNI_PATH", "/usr/lib/cni");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        write!(child.stdin.take().expect("stdin"), "{config}").expect("read");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).expect("a result");
        let address = result["ips"][0]["address"].as_str().expect("an address");
        json!({
            "name": format!("core/{network}"), "interface": interface,
            "ips": [address.split('/').next()], "mac": result["interfaces"][0]["mac"], "dns": {},
        })
    }

    /// The pod in the cluster, with what Multus says of it.
    fn tell(&self, name: &str, status: &[Value]) {
        let default = json!({ "name": "default", "interface": "eth0", "ips": ["10.20.0.2"],
                              "mac": "0a:58:0a:14:00:02", "default": true, "dns": {} });
        let status = [&[default], status].concat();
        self.server
            .put(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "namespace": "core", "name": name, "uid": format!("uid-of-{name}"), "annotations": {
                    "k8s.v1.cni.cncf.io/networks": "n3, n6",
                    "k8s.v1.cni.cncf.io/network-status": json!(status).to_string(),
                } },
                "spec": { "nodeName": NODE, "containers": [{ "name": "upf", "image": "registry.example/upf" }] },
            }))
            .expect("a pod");
    }

    fn agent(&self) -> Process {
        let kubeconfig = self.server.kubeconfig();
        let kubeconfig = kubeconfig.to_str().expect("UTF-8");
        self.containerd
            .start_agent_with(&["--kubeconfig", kubeconfig, "--node-name", NODE])
            .expect("an agent")
    }
}

fn pods(status: &Value) -> Vec<&str> {
    list(status, "endpoints").iter().filter_map(|it| it["pod"].as_str()).collect()
}

fn address(pod: &Pod, interface: &str) -> Ipv4Addr {
    let addresses = cni::addresses(&pod.namespace, interface).expect("an interface");
    addresses[0].split('/').next().expect("an address").parse().expect("an address")
}

#[test]
fn a_pod_that_multus_attached_is_forwarded_for_from_its_network_status() {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let stage = Stage::new(&lab);
    // Others are there as well: without a network of the fast path, and without any.
    let (_other, upf) = (stage.sandbox("other"), stage.sandbox("upf-0"));
    let agent = stage.agent();
    until(&lab, &agent, "it is ready", |it| it["ready"] == true);
    let status = [stage.attach(&upf, "n3", "net1"), stage.attach(&upf, "n6", "net2")];
    stage.tell("upf-0", &status);
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));

    lab.dn.ip(&format!("route add {UE_POOL} via {}", address(&upf, "net2"))).expect("a route to the users");
    let config = gnb(&users(3), address(&upf, "net1"));
    let endpoint = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let pings = ping(user, SERVER, 5, 1000).expect("ping");
    assert!(pings.is_complete(), "{pings:?}");
    drop(endpoint);

    // Who claims what is another pod's is not believed.
    stage.tell("liar", &status[..1]);
    stage.tell("unknown", &[json!({ "name": "core/n3", "interface": "net1", "mac": "02:00:00:00:00:99" })]);
    let late = stage.sandbox("late");
    stage.tell("late", &[stage.attach(&late, "n3", "net1")]);
    let known = until(&lab, &agent, "the late one is known", |it| pods(it).contains(&"pod core/late"));
    assert_eq!(pods(&known).len(), 3, "{known:#}");

    // A new agent takes nothing down, neither while it learns nor afterwards.
    stage.containerd.kill(&agent).expect("kill -9");
    assert!(stage.server.delete("pods", "core", "liar"));
    let agent = stage.agent();
    until(&lab, &agent, "it has taken over", |it| forwarding(it, 3) && pods(it).len() == 3);
    assert!(!agent.log_tail().contains("failed=1"), "{}", agent.log_tail());

    let Pod { id, namespace, .. } = upf;
    drop(namespace);
    stage.containerd.cri().stop(&id).expect("stopped");
    let gone = until(&lab, &agent, "it is gone", |it| pods(it) == ["pod core/late"]);
    assert!(list(&gone, "sessions").is_empty(), "{:?}", problems(&gone));
    stage.containerd.kill(&agent).expect("kill -9");
}
