//! A node as the manifests make it: image, DaemonSets and networks from `deploy/` and `examples/cluster` as they
//! are, run by containerd under the rights that they ask for, with an API server over TLS. A pod is attached by
//! what was installed, and users reach the data network through it.

use super::api::Api;
use super::manifests::{examples, kubectl, variant};
use crate::agent::{forwarding, list};
use crate::harness::files;
use netplane_bench::lab::containerd::kubelet::{NodePod, Running};
use netplane_bench::lab::containerd::{Containerd, Pod, PodSpec};
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::Host;
use netplane_bench::lab::traffic::ping::ping;
use netplane_bench::lab::traffic::udp::{EchoServer, Stream};
use netplane_bench::lab::users::{UE_POOL, gnb, users};
use netplane_bench::lab::{Lab, SERVER, cni, wait_for};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// The node and what runs on it.
struct Node<'a> {
    lab: &'a Lab,
    containerd: Containerd<'a>,
    api: &'a Api,
    /// Objects of `deploy/full`.
    objects: Vec<Value>,
}

impl<'a> Node<'a> {
    /// containerd with a default network and nothing of netplane, and the image in it.
    fn new(lab: &'a Lab, api: &'a Api) -> Self {
        let default = json!({
            "cniVersion": "1.0.0", "name": "default", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": { "type": "host-local", "subnet": "10.20.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        let containerd = Containerd::start(lab, &default).expect("containerd");
        // What the lab has put there for other tests.
        std::fs::remove_file(containerd.bin_dir().join("netplane")).expect("a link");
        let archive = lab.folder().join("netplane.tar");
        let version = env!("CARGO_PKG_VERSION");
        xtask::image::write(lab.binary(), version, &archive).expect("an image");
        let imported = containerd.import(&archive).expect("imported");
        assert!(imported.contains(&format!("netplane:{version}")), "{imported}");
        Self { lab, containerd, api, objects: variant("full") }
    }

    fn object(&self, kind: &str, name: &str) -> &Value {
        let is = |it: &&Value| it["kind"] == kind && it["metadata"]["name"] == name;
        self.objects.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Runs the pod of a DaemonSet; `change` may take something from it.
    fn run_changed(&self, name: &str, pod: &str, change: impl FnOnce(&mut Value)) -> Running {
        let mut spec = self.object("DaemonSet", name)["spec"]["template"]["spec"].clone();
        change(&mut spec);
        if name == "netplane-install" {
            // On a node the folder has one name, inside and outside.
            let path = self.containerd.conf_dir().join("multus.d/multus.kubeconfig");
            let argument = json!(format!("--multus-kubeconfig-file-host={}", path.display()));
            spec["containers"][0]["args"].as_array_mut().expect("a list").push(argument);
        }
        let account = self.lab.folder().join(format!("account-{name}"));
        self.api.write_service_account(&account, "netplane-system", name);
        let (folder, conf_dir) = (self.lab.folder(), self.containerd.conf_dir());
        let places = vec![
            ("/etc/cni/net.d", conf_dir),
            ("/opt/cni/bin", self.containerd.bin_dir()),
            ("/etc/cni/multus/net.d", folder.join("multus")),
            ("/sys/fs/bpf", folder.join("bpf")),
        ];
        std::fs::create_dir_all(folder.join("multus")).expect("a folder");
        let address = self.api.address();
        let services = vec![
            ("KUBERNETES_SERVICE_HOST".to_owned(), address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), address.port().to_string()),
        ];
        let pod = NodePod {
            spec: &spec,
            name: pod,
            config: [("netplane", self.object("ConfigMap", "netplane"))].into(),
            node: self.api.node(),
            services,
            account: Some(account),
            places,
        };
        self.containerd.run_node_pod(&pod).unwrap_or_else(|error| panic!("{name}: {error:#}"))
    }

    fn run(&self, name: &str, pod: &str) -> Running {
        self.run_changed(name, pod, |_| {})
    }

    fn stop(&self, running: &Running) {
        for id in running.containers.values() {
            self.containerd.cri().stop_container(id, 10).expect("stopped");
        }
        self.containerd.cri().stop(&running.sandbox).expect("stopped");
        self.containerd.cri().remove(&running.sandbox).expect("removed");
    }

    /// Until the runtime has the configuration that install made.
    fn until_installed(&self, install: &Running) {
        let probe = || Ok(self.containerd.cri().network().ok().filter(|it| it.contains("\"netplane\"")));
        wait_for("the configuration", LIMIT, probe)
            .unwrap_or_else(|error| panic!("{error}\n{}", install.log("install")));
    }

    fn until(&self, agent: &Running, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, LIMIT, || Ok(self.lab.status().ok().filter(|it| wanted(it)))).unwrap_or_else(|error| {
            panic!("{error}\n{:#}\n{}", self.lab.status().unwrap_or_default(), agent.log("agent"))
        })
    }

    /// The pod of an example's Deployment, as its controller, scheduler and kubelet bring it here.
    fn run_upf(&self, deployment: &str) -> Pod {
        let all = examples();
        let is = |it: &&Value| it["kind"] == "Deployment" && it["metadata"]["name"] == deployment;
        let template = &all.iter().find(is).expect("the example")["spec"]["template"];
        let networks = template["metadata"]["annotations"][NETWORKS].as_str().expect("networks");
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "core", "name": "upf-0", "annotations": { NETWORKS: networks } },
            "spec": template["spec"],
        });
        object["spec"]["nodeName"] = json!(self.api.node());
        let uid = self.api.create_pod(&object);
        let annotations = [(NETWORKS, networks)];
        let spec = PodSpec { namespace: "core", name: "upf-0", annotations: &annotations, uid: Some(&uid) };
        self.containerd.run(spec).expect("a pod")
    }
}

fn address(pod: &Pod, interface: &str) -> Ipv4Addr {
    let addresses = cni::addresses(&pod.namespace, interface).expect("an interface");
    let [address] = addresses.as_slice() else { panic!("{interface} has {addresses:?}") };
    address.split('/').next().expect("an address").parse().expect("an address")
}

fn lab() -> Lab {
    Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab")
}

/// Everything from the manifests; then the agent is replaced by a new container while users talk.
#[test]
fn the_manifests_make_a_node_that_forwards_and_agents_replace_each_other() {
    let lab = lab();
    let api = Api::start(&lab);
    let node = Node::new(&lab, &api);
    for objects in [&node.objects, &examples()] {
        kubectl(api.kubeconfig(), &["apply", "--validate=false", "-f", "-"], objects);
    }
    let install = node.run("netplane-install", "netplane-install-1");
    node.until_installed(&install);
    let agent = node.run("netplane-agent", "netplane-agent-1");
    let upf = node.run_upf("upf");
    assert_eq!(upf.namespace.interfaces().expect("interfaces"), ["lo", "eth0", "n3", "n4", "n6"]);
    node.until(&agent, "sessions forward", |it| forwarding(it, 3));
    wait_for("network-status", LIMIT, || Ok(api.network_status("core", "upf-0")))
        .unwrap_or_else(|error| panic!("{error}\n{}", agent.log("agent")));

    lab.dn.ip(&format!("route add {UE_POOL} via {}", address(&upf, "n6"))).expect("a route to the users");
    let config = gnb(&users(3), address(&upf, "n3"));
    let endpoint = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let pings = ping(user, SERVER, 5, 1000).expect("ping");
    assert!(pings.is_complete(), "{pings:?}");

    let server = EchoServer::start(Host { namespace: &lab.dn, address: SERVER }).expect("a server");
    let stream = Stream::start(user, Host { namespace: &lab.dn, address: SERVER }, 500).expect("a stream");
    stream.wait_for_more(100).expect("it flows");
    node.stop(&agent);
    stream.wait_for_more(100).expect("it flows without an agent");
    let agent = node.run("netplane-agent", "netplane-agent-2");
    node.until(&agent, "the new one has taken over", |it| forwarding(it, 3));
    stream.wait_for_more(100).expect("it flows with the new one");
    let report = stream.finish().expect("a report");
    assert_eq!(report.n_lost(), 0, "{report:?}");
    drop((server, endpoint));

    let Pod { id, namespace, .. } = upf;
    drop(namespace);
    node.containerd.cri().stop(&id).expect("detached");
    node.until(&agent, "nothing is left", |it| list(it, "endpoints").is_empty());
    assert_eq!(files(&lab.record_dir()), [""; 0]);
    node.stop(&agent);
    node.stop(&install);
}

/// Without one of its capabilities the agent cannot do its work: there is none too many.
#[test]
fn the_agent_needs_each_of_its_capabilities() {
    let lab = lab();
    let api = Api::start(&lab);
    let node = Node::new(&lab, &api);
    for objects in [&node.objects, &examples()] {
        kubectl(api.kubeconfig(), &["apply", "--validate=false", "-f", "-"], objects);
    }
    let install = node.run("netplane-install", "netplane-install-1");
    node.until_installed(&install);
    let upf = node.run_upf("upf");
    for (number, missing) in ["NET_ADMIN", "SYS_ADMIN"].into_iter().enumerate() {
        let agent = node.run_changed("netplane-agent", &format!("agent-{number}"), |spec| {
            let container = &mut spec["containers"][0];
            let environment = container["env"].as_array_mut().expect("a list");
            environment.push(json!({ "name": "RUST_LOG", "value": "netplane=debug" }));
            let add = &mut container["securityContext"]["capabilities"]["add"];
            let list = add.as_array_mut().expect("a list");
            let before = list.len();
            list.retain(|it| it != missing);
            assert_eq!(list.len() + 1, before);
        });
        let id = &agent.containers["agent"];
        // It ends, or says what it may not do.
        let refused = |text: &str| text.contains("EPERM") || text.contains("not permitted");
        wait_for("a refusal", LIMIT, || {
            let ended = node.containerd.cri().container(id)?.state == 2;
            let said = agent.log("agent");
            Ok((refused(&said) && (ended || lab.status().is_ok())).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{missing}: {error}\n{}", agent.log("agent")));
        if let Ok(status) = lab.status() {
            assert!(!forwarding(&status, 3), "without {missing}: {status:#}");
        }
        node.stop(&agent);
    }
    node.stop(&install);
    drop(upf);
}
