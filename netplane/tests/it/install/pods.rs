//! A whole node: install makes the configuration from a default network's, and a pod is attached with it,
//! called as libcni calls a plugin.

use super::{CONF, Host, LIST};
use crate::harness::Node;
use serde_json::{Map, Value, json};

/// What libcni hands to the plugin: of a list, its only plugin with the list's name and version; of what the
/// runtime knows, what the configuration has the capability for.
fn handed(config: &Value, runtime: &Value) -> Value {
    let mut plugin = match config["plugins"].as_array().map(Vec::as_slice) {
        Some([only]) => {
            let mut plugin = only.clone();
            plugin["name"] = config["name"].clone();
            plugin["cniVersion"] = config["cniVersion"].clone();
            plugin
        }
        Some(_) => panic!("one plugin: {config}"),
        None => config.clone(),
    };
    let able = |key: &&String| plugin["capabilities"][key.as_str()] == true;
    let runtime = runtime.as_object().expect("an object");
    let passed: Map<_, _> =
        runtime.keys().filter(able).map(|key| (key.clone(), runtime[key].clone())).collect();
    if let Some(plugin) = plugin.as_object_mut() {
        plugin.remove("capabilities");
        plugin.insert("runtimeConfig".to_owned(), passed.into());
    }
    plugin
}

fn attach_and_detach(name: &str, master: &Value, address: &str) {
    let (host, mut node) = (Host::new(), Node::new());
    node.usual_nads();
    // As kubelet has it: the reference plugins refuse what they do not know.
    node.args = format!("IgnoreUnknown=1;{}", node.args);
    host.write("10-default.conflist", master);
    let [nads, records] = [("nadDir", node.nads()), ("cniDir", node.records())]
        .map(|(key, path)| format!("--set={key}={}", path.display()));
    let flags = ["--skip-multus-binary-copy", "--additional-bin-dir=/usr/lib/cni", &nads, &records];
    let (done, log) = host.once(&flags);
    assert!(done, "{log}");
    let config = host.read(name).expect("a configuration");
    let runtime = json!({
        "io.kubernetes.cri.pod-annotations": { "k8s.v1.cni.cncf.io/networks": "n3, n6@data" },
        "unasked": 1,
    });
    let mut stdin = handed(&config, &runtime);
    // There is no cluster behind this node.
    assert!(stdin.as_object_mut().is_some_and(|it| it.remove("kubeconfig").is_some()));
    assert!(stdin["runtimeConfig"].get("unasked").is_none());
    let pod = node.pod();
    let result = node.call("ADD", &pod, &stdin).expect("attached").expect("a result");
    assert_eq!(result["cniVersion"], master["cniVersion"]);
    assert_eq!(result["ips"][0]["address"], address);
    assert_eq!(pod.interfaces(), ["eth0", "net1", "data"]);
    assert!(pod.ip("-4 addr show dev net1").contains("10.30.0."));
    let mut check = stdin.clone();
    check["prevResult"] = result;
    node.call("CHECK", &pod, &check).expect("as it was");
    node.call("DEL", &pod, &stdin).expect("detached");
    assert_eq!(pod.interfaces(), [""; 0]);
}

#[test]
fn a_pod_is_attached_with_what_is_made_from_a_list_with_ptp() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{
        "type": "ptp", "mtu": 1400,
        "ipam": { "type": "host-local", "dataDir": folder.path(), "subnet": "10.60.0.0/24" },
    }, { "type": "tuning" }] });
    attach_and_detach(LIST, &master, "10.60.0.2/24");
}

#[test]
fn a_pod_is_attached_with_what_is_made_from_one_plugin_with_bridge() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = json!({ "cniVersion": "0.4.0", "name": "pods", "type": "bridge", "bridge": "cni0",
        "ipam": { "type": "host-local", "dataDir": folder.path(), "subnet": "10.61.0.0/24" } });
    attach_and_detach(CONF, &master, "10.61.0.2/24");
}
