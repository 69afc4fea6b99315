//! Foreign plugins: what they are called with, in which order, and what is left when they fail.

use crate::recorded::{Recorded, message};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn a_list_is_chained_and_gets_what_the_pod_asks_for() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let networks = json!([{"name": "chain", "interface": "n3", "ips": ["10.0.0.9/24"],
        "mac": "02:00:00:00:00:09", "cni-args": {"b": 2}}]);
    let mut configuration = lab.configuration("1.1.0", &networks.to_string());
    let result = lab.add(&pod, &configuration);
    assert_eq!(result["ips"], json!([{"interface": 0, "address": "10.0.0.7/24"}]));
    assert_eq!(lab.calls(), ["ADD-n3-one", "ADD-n3-two"]);
    assert_eq!(
        lab.given("ADD-n3-one"),
        json!({"cniVersion": "1.0.0", "name": "chain", "type": "one", "args": {"cni": {"a": 1, "b": 2}},
               "runtimeConfig": {"ips": ["10.0.0.9/24"]}}),
        "without capabilities, which the specification keeps from plugins"
    );
    let second = lab.given("ADD-n3-two");
    assert_eq!(second["runtimeConfig"], json!({"mac": "02:00:00:00:00:09"}));
    assert_eq!(second["prevResult"]["cniVersion"], "1.0.0", "converted from the 0.4.0 that it was in");
    assert_eq!(second["prevResult"]["ips"], json!([{"interface": 0, "address": "10.0.0.7/24"}]));
    configuration["prevResult"] = result;
    lab.node.call("CHECK", &pod, &configuration).expect("as it was");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[2..], ["CHECK-n3-one", "CHECK-n3-two", "DEL-n3-two", "DEL-n3-one"]);
    assert_eq!(lab.given("DEL-n3-one")["prevResult"]["dns"]["domain"], "two");
    assert!(lab.records().is_empty());
}

#[test]
fn the_selection_may_come_in_cni_args() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "");
    configuration.as_object_mut().expect("an object").remove("runtimeConfig");
    lab.node.args =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NETWORKS=single, core/single@x".to_owned();
    let result = lab.add(&pod, &configuration);
    assert_eq!(lab.calls(), ["ADD-net1-one", "ADD-x-one"]);
    assert_eq!(result["interfaces"][1]["name"], "x");
    let given = std::fs::read_to_string(lab.path("args")).expect("read");
    assert_eq!(given.trim(), "IgnoreUnknown=1;K8S_POD_NAMESPACE=core", "the selection is not the plugins'");
}

#[test]
fn all_default_networks_come_first_wherever_they_are_from() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let conf = tempfile::tempdir().expect("a folder");
    let write = |file: &str, config: &Value| {
        let path = conf.path().join(file);
        std::fs::write(&path, config.to_string()).expect("written");
        path
    };
    let cluster = json!({"cniVersion": "0.3.1", "name": "cluster", "type": "two"});
    let extra = json!({"cniVersion": "0.4.0", "name": "extra", "type": "one"});
    let file = write("10-cluster.conf", &cluster);
    write("20-extra.conf", &extra);
    for (key, value, default_networks) in [
        ("clusterNetwork", json!("cluster"), json!(["extra", "core/chain"])),
        ("clusterNetwork", json!(conf.path()), json!(["extra", "core/chain"])),
        ("clusterNetwork", json!(file), json!(["extra", "core/chain"])),
        ("delegates", json!([cluster, extra]), json!(["core/chain"])),
    ] {
        let mut configuration = lab.configuration("0.4.0", "single");
        configuration["confDir"] = json!(conf.path());
        configuration[key] = value;
        configuration["defaultNetworks"] = default_networks;
        let result = lab.add(&pod, &configuration);
        assert_eq!(result["dns"]["domain"], "two");
        assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
        let add = ["ADD-eth0-two", "ADD-net1-one", "ADD-net2-one", "ADD-net2-two", "ADD-net3-one"];
        assert_eq!(lab.calls(), add);
        lab.del(&pod, &configuration);
        let del = ["DEL-net3-one", "DEL-net2-two", "DEL-net2-one", "DEL-net1-one", "DEL-eth0-two"];
        assert_eq!(lab.calls()[5..], del);
        std::fs::remove_dir_all(lab.path("calls")).expect("removed");
    }
}

#[test]
fn a_failure_is_passed_on_and_undone_in_reverse() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let error = r#"{"cniVersion": "1.0.0", "code": 11, "msg": "pool is busy", "details": "later"}"#;
    std::fs::write(lab.path("fail-ADD-net2-two"), error).expect("written");
    let configuration = lab.configuration("1.1.0", "single,chain,single");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("busy");
    assert_eq!((&error["code"], &error["details"]), (&json!(11), &json!("later")));
    assert_eq!(message(&error), "network core/chain: pool is busy");
    let expected =
        ["ADD-net1-one", "ADD-net2-one", "ADD-net2-two", "DEL-net2-two", "DEL-net2-one", "DEL-net1-one"];
    assert_eq!(lab.calls(), expected);
    assert!(lab.records().is_empty());
}

#[test]
fn del_goes_on_after_errors_and_can_be_repeated() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "single,chain");
    lab.add(&pod, &configuration);
    let failure = lab.path("fail-DEL-net2-one");
    std::fs::write(&failure, r#"{"code": 5, "msg": "disk"}"#).expect("written");
    let error = lab.node.call("DEL", &pod, &configuration).expect_err("disk");
    assert_eq!((&error["code"], message(&error)), (&json!(5), "network core/chain: disk"));
    assert_eq!(lab.calls()[3..], ["DEL-net2-two", "DEL-net2-one", "DEL-net1-one"]);
    assert_eq!(lab.records().len(), 1);
    std::fs::remove_file(&failure).expect("removed");
    lab.del(&pod, &configuration);
    assert!(lab.records().is_empty());
}

#[test]
fn a_plugin_that_is_missing_is_found_out_before_anything_is_done() {
    let mut lab = Recorded::new();
    lab.node.nad("missing", &json!({"cniVersion": "1.0.0", "type": "ipvlan"}));
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "single,missing");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("no such plugin");
    assert_eq!(error["code"], 7, "{error}");
    assert!(message(&error).starts_with("network core/missing: no plugin \"ipvlan\" in CNI_PATH"), "{error}");
    assert!(lab.calls().is_empty());
    assert!(lab.records().is_empty());
}

#[test]
fn an_interface_that_is_there_is_never_given_to_a_plugin() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    pod.ip("link add net2 type veth peer name other");
    let configuration = lab.configuration("1.1.0", "single,single");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("the name is taken");
    assert!(message(&error).contains("interface net2 is already"), "{error}");
    assert!(lab.calls().is_empty(), "a plugin's DEL would have removed what is not its own");
}

#[test]
fn check_passes_over_those_that_have_none() {
    let mut lab = Recorded::new();
    lab.node.nad("old", &json!({"cniVersion": "0.3.1", "type": "one"}));
    let plugins = json!([{"type": "one"}, {"type": "two"}]);
    lab.node.nad("off", &json!({"cniVersion": "1.0.0", "disableCheck": true, "plugins": plugins}));
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "old,off,single");
    lab.add(&pod, &configuration);
    lab.node.call("CHECK", &pod, &configuration).expect("as it was");
    assert_eq!(lab.calls()[4..], ["CHECK-net3-one"]);
}

#[test]
fn a_damaged_record_is_set_aside_and_del_does_what_it_can() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "single");
    lab.add(&pod, &configuration);
    let record = lab.node.records().join(format!("{}@eth0.json", pod.name));
    std::fs::write(&record, "{").expect("written");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[1..], ["DEL-net1-one"]);
    assert_eq!(lab.records(), [format!("{}@eth0.corrupt", pod.name)]);
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls().len(), 2, "nothing is known any more");
}

#[test]
fn an_add_that_was_cut_off_is_undone_where_it_was() {
    let mut lab = Recorded::new();
    let (before, now) = (lab.node.pod(), lab.node.pod());
    let configuration = lab.configuration("1.1.0", "single");
    let add = |netns: &Path| lab.node.call_in("ADD", "same", netns, &configuration.to_string());
    add(&before.path()).expect("attached");
    let record = lab.node.records().join("same@eth0.json");
    let text = std::fs::read_to_string(&record).expect("a record");
    std::fs::write(&record, text.replace("\"complete\":true", "\"complete\":false"))
        .expect("as after kill -9");
    std::fs::write(lab.path("fail-ADD-net1-one"), r#"{"code": 11, "msg": "busy"}"#).expect("written");
    let first = lab.path("calls").join("01-DEL-net1-one");
    add(&now.path()).expect_err("busy");
    assert!(first.is_file(), "{:?}", lab.calls());
    assert_eq!(lab.calls(), ["ADD-net1-one", "DEL-net1-one", "ADD-net1-one", "DEL-net1-one"]);
}

#[test]
fn gc_takes_down_what_the_runtime_does_not_know() {
    let mut lab = Recorded::new();
    let (kept, gone) = (lab.node.pod(), lab.node.pod());
    for pod in [&kept, &gone] {
        lab.add(pod, &lab.configuration("1.1.0", "single"));
    }
    let mut configuration = lab.configuration("1.1.0", "");
    let error = lab.node.call("GC", &gone, &configuration).expect_err("the list is missing");
    assert!(message(&error).contains("cni.dev/valid-attachments"), "{error}");
    configuration["cni.dev/valid-attachments"] = json!([{"containerID": kept.name, "ifname": "eth0"}]);
    assert_eq!(lab.node.call("GC", &gone, &configuration).expect("done"), None);
    assert_eq!(lab.calls()[2..], ["DEL-net1-one"]);
    let netns = std::fs::read_to_string(lab.path("netns")).expect("read");
    assert_eq!(Path::new(netns.trim()), gone.path());
    assert_eq!(lab.records(), [format!("{}@eth0.json", kept.name)]);
}

#[test]
fn commands_are_refused_in_versions_before_theirs() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let error = lab.node.call(command, &pod, &lab.configuration(version, "")).expect_err(command);
        assert_eq!(error["code"], 1, "{error}");
        assert!(message(&error).contains(command), "{error}");
    }
    lab.node.call("STATUS", &pod, &lab.configuration("1.1.0", "")).expect("ready");
}

#[test]
fn namespace_isolation_keeps_pods_to_their_own() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "single");
    configuration["namespaceIsolation"] = json!(true);
    lab.node.args = "K8S_POD_NAMESPACE=stranger;K8S_POD_NAME=x".to_owned();
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] =
        json!({"k8s.v1.cni.cncf.io/networks": "core/single"});
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("isolated");
    assert!(message(&error).contains("namespaceIsolation"), "{error}");
    assert!(lab.calls().is_empty());
    configuration["globalNamespaces"] = json!("default");
    lab.node.call("ADD", &pod, &configuration).expect_err("only default, as where nothing is said");
    configuration["globalNamespaces"] = json!("shared, core");
    lab.add(&pod, &configuration);
}

#[test]
fn the_pod_may_name_another_default_network() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "");
    configuration["clusterNetwork"] = json!("core/chain");
    configuration["multusNamespace"] = json!("core");
    // As with Multus, isolation is about the pod's own selection only.
    lab.node.args = "K8S_POD_NAMESPACE=stranger;K8S_POD_NAME=x".to_owned();
    configuration["namespaceIsolation"] = json!(true);
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] =
        json!({"v1.multus-cni.io/default-network": "single"});
    lab.add(&pod, &configuration);
    assert_eq!(lab.calls(), ["ADD-eth0-one"]);
}

#[test]
fn behind_other_plugins_their_result_is_passed_on() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "single");
    let previous = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
                          "ips": [{"interface": 0, "address": "10.7.0.2/24"}]});
    configuration["prevResult"] = previous.clone();
    assert_eq!(lab.add(&pod, &configuration), previous);
    assert_eq!(lab.calls(), ["ADD-net1-one"]);
}
