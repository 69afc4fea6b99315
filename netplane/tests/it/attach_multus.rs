//! Pods that Multus attached, with its caches as it and libcni write them, are taken down and checked.

use crate::harness::{Pod, files};
use crate::recorded::{Recorded, message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// What Multus and libcni leave after an ADD with these networks: label, interface, configuration.
fn leave(lab: &Recorded, pod: &Pod, networks: &[(&str, &str, Value)]) {
    let results = lab.node.records().join("results");
    fs::create_dir_all(&results).expect("a folder");
    let mut delegates = Vec::new();
    for (number, (label, interface, config)) in networks.iter().enumerate() {
        let bytes = STANDARD.encode(config.to_string());
        let is_list = config.get("plugins").is_some();
        let none = json!({"cniVersion": "", "name": "", "type": "", "ipam": {}, "dns": {}});
        let mut delegate = json!({
            "Conf": if is_list { none } else { config.clone() },
            "ConfList": if is_list { config.clone() } else { json!({"plugins": null}) },
            "Name": label, "IsFilterV4Gateway": false, "IsFilterV6Gateway": false, "Bytes": bytes,
        });
        let position = if number == 0 { "eth0".to_owned() } else { format!("net{number}") };
        if *interface != position {
            delegate["ifnameRequest"] = json!(interface);
        }
        delegates.push(delegate);
        let cached = json!({
            "kind": "cniCacheV1", "containerId": pod.name, "config": bytes, "ifName": interface,
            "networkName": config["name"], "netns": pod.path(),
            "cniArgs": [["IgnoreUnknown", "true"], ["K8S_POD_NAME", "upf-0"]],
            "capabilityArgs": {"mac": "02:00:00:00:00:07"},
            "result": {"cniVersion": config["cniVersion"], "ips": [{"version": "4", "address": "10.0.0.7/24"}]},
        });
        let name = format!("{}-{}-{interface}", config["name"].as_str().expect("a name"), pod.name);
        fs::write(results.join(name), cached.to_string()).expect("written");
    }
    fs::write(cache(lab, pod), Value::Array(delegates).to_string()).expect("written");
}

fn cache(lab: &Recorded, pod: &Pod) -> PathBuf {
    lab.node.records().join(&pod.name)
}

/// A default network in the oldest version that has everything, a list with a capability, and one whose
/// version has no `prevResult` for DEL.
fn networks() -> [(&'static str, &'static str, Value); 3] {
    let mac = json!({"mac": true});
    [
        ("", "eth0", json!({"cniVersion": "0.4.0", "name": "default", "type": "one"})),
        (
            "core/chain",
            "net1",
            json!({"cniVersion": "1.0.0", "name": "chain",
                   "plugins": [{"type": "one", "capabilities": mac}, {"type": "two"}]}),
        ),
        ("core/old", "data0", json!({"cniVersion": "0.3.1", "name": "old", "type": "two"})),
    ]
}

#[test]
fn a_pod_of_multus_is_taken_down_in_reverse_order_with_its_own_configuration() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    leave(&lab, &pod, &networks());
    let configuration = lab.configuration("1.1.0", "");
    lab.node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(lab.calls(), ["DEL-data0-two", "DEL-net1-two", "DEL-net1-one", "DEL-eth0-one"]);
    assert_eq!(lab.given("DEL-data0-two").get("prevResult"), None, "0.3.1 has none");
    let first = lab.given("DEL-net1-one");
    assert_eq!((&first["name"], &first["cniVersion"]), (&json!("chain"), &json!("1.0.0")));
    assert_eq!(first["prevResult"]["ips"][0]["address"], "10.0.0.7/24");
    assert_eq!(first["runtimeConfig"], json!({"mac": "02:00:00:00:00:07"}), "as ADD got it");
    assert_eq!(files(&lab.node.records()), Vec::<String>::new());
}

#[test]
fn what_multus_left_stays_until_all_is_down() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    leave(&lab, &pod, &networks());
    let configuration = lab.configuration("1.1.0", "");
    let fails = lab.path("fail-DEL-net1-two");
    fs::write(&fails, r#"{"code": 11, "msg": "busy"}"#).expect("written");
    let error = lab.node.call("DEL", &pod, &configuration).expect_err("busy");
    assert!(message(&error).contains("core/chain: busy"), "{error}");
    assert_eq!(lab.calls().len(), 4, "the others are taken down all the same");
    fs::remove_file(&fails).expect("removed");
    lab.node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(lab.calls().len(), 8);
    assert_eq!(files(&lab.node.records()), Vec::<String>::new());
}

#[test]
fn where_multus_s_file_is_damaged_or_gone_libcni_s_results_are_enough() {
    for damage in [Some("[{\"Conf\":"), None] {
        let mut lab = Recorded::new();
        let pod = lab.node.pod();
        leave(&lab, &pod, &networks());
        match damage {
            Some(text) => fs::write(cache(&lab, &pod), text).expect("written"),
            None => fs::remove_file(cache(&lab, &pod)).expect("removed"),
        }
        // What the runtime has cached of its own call is no delegate.
        let own = json!({"cniVersion": "1.1.0", "name": "cluster", "plugins": [{"type": "multus"}]});
        let cached = json!({"kind": "cniCacheV1", "containerId": pod.name, "ifName": "eth0",
                            "networkName": "cluster", "config": STANDARD.encode(own.to_string())});
        let runtimes = lab.node.records().join("results").join(format!("cluster-{}-eth0", pod.name));
        fs::write(&runtimes, cached.to_string()).expect("written");
        // A network of the pod's of which libcni has nothing, and which the NADs know.
        let configuration = lab.configuration("1.1.0", "single@net7");
        lab.node.call("DEL", &pod, &configuration).expect("detached");
        let mut calls = lab.calls();
        calls.sort();
        let mut expected = vec!["DEL-data0-two", "DEL-eth0-one", "DEL-net1-one", "DEL-net1-two"];
        let mut kept = vec![format!("cluster-{}-eth0", pod.name)];
        if damage.is_some() {
            expected.push("DEL-net7-one");
            kept.push(format!("{}@multus.corrupt", pod.name));
        }
        assert_eq!(calls, expected);
        let mut left = files(&lab.node.records());
        left.sort();
        kept.sort();
        assert_eq!(left, kept);
    }
}

#[test]
fn a_pod_of_multus_is_checked_with_its_results() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    leave(&lab, &pod, &networks());
    let mut configuration = lab.configuration("1.1.0", "");
    configuration["prevResult"] = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.9.9.9/24"}]});
    lab.node.call("CHECK", &pod, &configuration).expect("as it was");
    assert_eq!(lab.calls(), ["CHECK-eth0-one", "CHECK-net1-one", "CHECK-net1-two"]);
    let default = lab.given("CHECK-eth0-one");
    assert_eq!(default["prevResult"]["ips"][0]["address"], "10.9.9.9/24", "the runtime's rules");
    let other = lab.given("CHECK-net1-one");
    assert_eq!(other["prevResult"]["ips"][0]["address"], "10.0.0.7/24");
}

#[test]
fn gc_takes_down_pods_of_multus_whose_namespace_is_gone() {
    let mut lab = Recorded::new();
    let (kept, elsewhere, gone) = (lab.node.pod(), lab.node.pod(), lab.node.pod());
    for pod in [&kept, &elsewhere, &gone] {
        leave(&lab, pod, &networks()[..1]);
    }
    let name = gone.name.clone();
    drop(gone);
    let mut configuration = lab.configuration("1.1.0", "");
    configuration["cni.dev/valid-attachments"] = json!([{"containerID": kept.name, "ifname": "eth0"}]);
    lab.node.call("GC", &kept, &configuration).expect("done");
    assert_eq!(lab.calls(), ["DEL-eth0-one"], "a namespace that is there may be another runtime's pod");
    let args = fs::read_to_string(lab.path("args")).expect("read");
    assert_eq!(args.trim(), "IgnoreUnknown=true;K8S_POD_NAME=upf-0", "as ADD had them");
    let left = files(&lab.node.records());
    assert!(!left.iter().any(|it| it.contains(&name)), "{left:?}");
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn what_multus_made_on_the_node_goes() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let network = |name: &str, master: &str, subnet: &str| {
        let mut config = lab.node.macvlan(master, subnet);
        (config["cniVersion"], config["name"]) = (json!("0.4.0"), json!(name));
        config
    };
    let networks = [
        ("", "eth0", network("default", "n3", "10.20.0.0/24")),
        ("core/n6", "net1", network("n6", "n6", "10.40.0.0/24")),
    ];
    // Made by the same plugins that Multus would call; then all that says so is Multus's.
    let mut configuration = lab.configuration("1.1.0", "n6");
    lab.node.nad("n6", &networks[1].2);
    configuration["clusterNetwork"] = Value::Null;
    configuration["delegates"] = json!([networks[0].2]);
    lab.node.call("ADD", &pod, &configuration).expect("attached");
    assert_eq!(pod.interfaces(), ["eth0", "net1"]);
    fs::remove_file(lab.node.records().join(format!("{}@eth0.json", pod.name))).expect("removed");
    leave(&lab, &pod, &networks);
    lab.node.call("DEL", &pod, &lab.configuration("1.1.0", "")).expect("detached");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    let mut addresses = files(&lab.node.ipam());
    addresses.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
    assert_eq!(addresses, Vec::<String>::new());
    assert_eq!(files(&lab.node.records()), Vec::<String>::new());
}

#[test]
fn where_multus_has_been_it_can_take_down_what_netplane_attached() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "chain, single@data0");
    lab.add(&pod, &configuration);
    assert!(!cache(&lab, &pod).exists(), "no Multus here");
    lab.del(&pod, &configuration);
    fs::create_dir(lab.node.records().join("results")).expect("a folder");
    lab.add(&pod, &configuration);
    let text = fs::read_to_string(cache(&lab, &pod)).expect("Multus's file");
    let delegates: Value = serde_json::from_str(&text).expect("JSON");
    let bytes = |number: usize| -> Value {
        let bytes = STANDARD.decode(delegates[number]["Bytes"].as_str().expect("base64")).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!(delegates[0]["ConfList"], bytes(0));
    assert_eq!(bytes(0)["plugins"][1]["type"], "two");
    assert_eq!(
        (&delegates[1]["Name"], &delegates[1]["ifnameRequest"]),
        (&json!("core/single"), &json!("data0"))
    );
    assert_eq!(bytes(1)["type"], "one");
    assert_eq!(delegates[1]["ConfList"]["plugins"], Value::Null);
    // It is enough by itself, as it is for Multus.
    fs::remove_file(lab.node.records().join(format!("{}@eth0.json", pod.name))).expect("removed");
    let before = lab.calls().len();
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[before..], ["DEL-data0-one", "DEL-net1-two", "DEL-net1-one"]);
    lab.add(&pod, &configuration);
    lab.del(&pod, &configuration);
    assert_eq!(files(&lab.node.records()), Vec::<String>::new(), "it goes with the record");
}
