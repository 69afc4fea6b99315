//! The plugin with a cluster behind it: the real binary against the API server double over TLS, in the
//! node's namespace.

mod agent;
mod faults;
mod names;
mod read;
mod write;

use crate::harness::{Node, Pod, files};
use netplane::netlink::netns::Netns;
use netplane_bench::lab::apiserver::{self, ApiServer, Options};
use serde_json::{Value, json};
use std::net::IpAddr;

/// A node with an API server and one pod `core/upf-0`.
pub(crate) struct Stage {
    node: Node,
    pub(crate) server: ApiServer,
    pod: Pod,
}

impl Stage {
    /// The server has the usual NADs, with fixed MACs, and the pod with these annotations. Requests of the
    /// preparation are not in its journal.
    fn new(annotations: &Value) -> Self {
        let mut node = Node::new();
        node.ip("link set lo up");
        let netns = Netns::open(node.netns()).expect("the node's namespace");
        let server =
            netns.run(|| ApiServer::start(&Options::default())).expect("a thread").expect("a server");
        for (name, master, subnet, mac) in [
            ("default-network", "n3", "10.20.0.0/24", "02:00:00:00:00:20"),
            ("n3", "n3", "10.30.0.0/24", "02:00:00:00:00:30"),
            ("n6", "n6", "10.40.0.0/24", "02:00:00:00:00:40"),
        ] {
            let mut config = node.macvlan(master, subnet);
            config["mac"] = json!(mac);
            server.put(apiserver::nad("core", name, &config)).expect("a NAD");
        }
        let pod = node.pod();
        let stage = Self { node, server, pod };
        stage.put_pod(annotations);
        stage
    }

    /// A pod that selects these networks.
    pub(crate) fn selecting(networks: &str) -> Self {
        Self::new(&json!({ "k8s.v1.cni.cncf.io/networks": networks }))
    }

    /// The pod anew; it is another one, with another UID.
    fn put_pod(&self, annotations: &Value) -> String {
        self.server.delete("pods", "core", "upf-0");
        let pod = self.server.put(apiserver::pod("core", "upf-0", "node-1", annotations)).expect("a pod");
        pod["metadata"]["uid"].as_str().expect("a UID").to_owned()
    }

    fn uid(&self) -> String {
        self.server.get("pods", "core", "upf-0").expect("the pod")["metadata"]["uid"]
            .as_str()
            .expect("a UID")
            .to_owned()
    }

    /// The runtime passes the pod's UID from now on.
    fn pass_uid(&mut self, uid: &str) {
        self.node.args = format!("K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0;K8S_POD_UID={uid}");
    }

    /// All from the cluster.
    pub(crate) fn configuration(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "test", "type": "netplane",
            "kubeconfig": self.server.kubeconfig(), "cniDir": self.node.records(),
            "clusterNetwork": "default-network", "multusNamespace": "core",
            "confDir": self.node.folder().join("conf"),
        })
    }

    /// As above, with annotations from the runtime.
    fn configuration_with_annotations(&self, networks: &str) -> Value {
        let mut configuration = self.configuration();
        configuration["runtimeConfig"] =
            json!({ "io.kubernetes.cri.pod-annotations": { "k8s.v1.cni.cncf.io/networks": networks } });
        configuration
    }

    fn call(&self, verb: &str, configuration: &Value) -> Result<Option<Value>, Value> {
        self.node.call(verb, &self.pod, configuration)
    }

    pub(crate) fn add(&self, configuration: &Value) -> Value {
        self.call("ADD", configuration).expect("attached").expect("a result")
    }

    /// An ADD that fails. Its code and message; nothing may be left.
    fn add_fails(&self, configuration: &Value) -> (u64, String) {
        let error = self.call("ADD", configuration).expect_err("nothing to attach with");
        self.assert_nothing_left();
        (
            error["code"].as_u64().expect("a code"),
            format!("{} {}", error["msg"].as_str().unwrap_or_default(), error["details"]),
        )
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.pod.interfaces(), [""; 0]);
        let mut reserved = files(&self.node.ipam());
        reserved.retain(|it| it.parse::<IpAddr>().is_ok());
        assert_eq!(reserved, [""; 0]);
        assert_eq!(files(&self.node.records()), [""; 0]);
    }

    /// The pod's `network-status`, if it has one.
    fn status(&self) -> Option<Value> {
        let pod = self.server.get("pods", "core", "upf-0")?;
        let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str()?.to_owned();
        Some(serde_json::from_str(&text).expect("network-status is JSON"))
    }

    /// Type, reason and message of the events on the pod, sorted: they are posted side by side.
    fn events(&self) -> Vec<(String, String, String)> {
        let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
        let events = self.server.all("events");
        let mut events: Vec<_> =
            events.iter().map(|it| (text(it, "type"), text(it, "reason"), text(it, "message"))).collect();
        events.sort();
        events
    }

    /// Verb and path of each request since the last call, but for events: `get pods/upf-0`.
    fn requests(&self) -> Vec<String> {
        let journal = self.server.take_journal();
        let requests = journal.iter().filter(|it| !it.path.ends_with("/events"));
        let short = |path: &str| path.rsplit("/namespaces/core/").next().unwrap_or_default().to_owned();
        requests.map(|it| format!("{} {}", it.verb, short(&it.path))).collect()
    }
}
