//! The plugin as a runtime calls it: the real binary, in namespaces.

use crate::harness::{Node, files};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Reserved addresses: host-local's files but its bookkeeping.
fn reserved(node: &Node) -> Vec<String> {
    let mut names = files(&node.ipam());
    names.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
    names
}

fn assert_nothing_left(node: &Node) {
    assert_eq!(reserved(node), Vec::<String>::new());
    assert_eq!(files(&node.records()), Vec::<String>::new());
}

#[test]
fn a_pod_gets_its_networks_and_loses_them() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3, n6@data0");
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][0]["name"], "eth0", "the result is the default network's: {result}");
    assert_eq!(result["ips"][0]["address"], "10.20.0.2/24");
    assert_eq!(pod.interfaces(), ["eth0", "net1", "data0"]);
    let addresses = pod.ip("-br address show");
    for part in ["10.20.0.2/24", "10.30.0.2/24", "10.40.0.2/24"] {
        assert!(addresses.contains(part), "{addresses}");
    }
    assert!(pod.ip("route show default").starts_with("default via 10.40.0.1 dev data0"));
    let kind: Value = serde_json::from_str(&pod.ip("-d -j link show net1")).expect("JSON of ip");
    assert_eq!(kind[0]["linkinfo"]["info_data"]["mode"], "bridge");
    node.call("CHECK", &pod, &configuration).expect("as it was");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    assert_nothing_left(&node);
    node.call("DEL", &pod, &configuration).expect("detached twice");
}

#[test]
fn errors_are_in_the_version_that_was_asked_for() {
    let mut node = Node::new();
    let pod = node.pod();
    let error = node.call("ADD", &pod, &node.configuration("0.4.0", "n3")).expect_err("no NAD");
    assert_eq!((&error["cniVersion"], &error["code"]), (&json!("0.4.0"), &json!(7)), "{error}");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains("core/default-network")), "{error}");
}

#[test]
fn check_sees_what_is_missing() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.0.0", "n3");
    node.call("ADD", &pod, &configuration).expect("attached");
    pod.ip("address del 10.30.0.2/24 dev net1");
    let error = node.call("CHECK", &pod, &configuration).expect_err("the address is gone");
    let message = error["msg"].as_str().unwrap_or_default();
    assert!(message.contains("core/n3") && message.contains("10.30.0.2/24 is gone"), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached all the same");
}

#[test]
fn del_needs_neither_namespace_nor_nads() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3, n6");
    node.call("ADD", &pod, &configuration).expect("attached");
    std::fs::remove_dir_all(node.nads()).expect("the NADs go");
    let name = pod.name.clone();
    drop(pod);
    node.call_in("DEL", &name, Path::new(""), &configuration.to_string()).expect("detached");
    assert_nothing_left(&node);
}

#[test]
fn a_failure_takes_down_what_came_before() {
    let mut node = Node::new();
    node.usual_nads();
    node.nad("n6", &node.macvlan("nowhere", "10.40.0.0/24"));
    let pod = node.pod();
    let error = node.call("ADD", &pod, &node.configuration("1.1.0", "n3, n6")).expect_err("no master");
    assert_eq!(error["code"], 7, "{error}");
    let message = error["msg"].as_str().unwrap_or_default();
    assert!(message.contains("network core/n6") && message.contains("\"nowhere\""), "{message}");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    assert_nothing_left(&node);
}

#[test]
fn an_interface_that_is_there_is_left_alone() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    pod.ip("link add net1 type veth peer name other");
    let error = node.call("ADD", &pod, &node.configuration("1.1.0", "n3")).expect_err("the name is taken");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains("interface net1 is already")), "{error}");
    assert_eq!(pod.interfaces(), ["other", "net1"]);
    assert_nothing_left(&node);
}

#[test]
fn wrong_nads_and_configurations_are_named() {
    let mut node = Node::new();
    node.usual_nads();
    node.nad("broken", &json!("{"));
    let pod = node.pod();
    for (networks, code, part) in [
        ("broken", 7, "network core/broken: spec.config"),
        ("absent", 7, "network core/absent: no such NAD"),
        ("n3@n3,n6@n3", 7, "interface n3 is asked for twice"),
        ("n3@way/too", 7, "\"way/too\""),
    ] {
        let error = node.call("ADD", &pod, &node.configuration("1.1.0", networks)).expect_err(networks);
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().is_some_and(|it| it.contains(part)), "{networks}: {error}");
    }
    let error = node.call_in("ADD", "x", &pod.path(), "{").expect_err("no JSON");
    assert_eq!(error["code"], 6, "{error}");
    let configuration = node.configuration("1.1.0", "").to_string();
    let error =
        node.call_in("ADD", "x", Path::new("/run/netns/absent"), &configuration).expect_err("no namespace");
    assert_eq!(error["code"], 3, "{error}");
    assert_nothing_left(&node);
}

#[test]
fn an_add_that_was_cut_off_is_cleaned_by_the_next() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3");
    node.call("ADD", &pod, &configuration).expect("attached");
    let record = node.records().join(format!("{}@eth0.json", pod.name));
    let text = std::fs::read_to_string(&record).expect("a record");
    std::fs::write(&record, text.replace("\"complete\":true", "\"complete\":false"))
        .expect("as after kill -9");
    node.call("ADD", &pod, &configuration).expect("attached anew");
    assert_eq!(pod.interfaces(), ["eth0", "net1"]);
    assert_eq!(reserved(&node).len(), 2);
    let error = node.call("ADD", &pod, &configuration).expect_err("attached already");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains("DEL comes first")), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_nothing_left(&node);
}

#[test]
fn without_a_default_network_the_results_come_together() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "n3, n6");
    configuration["clusterNetwork"] = json!("");
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    let names: Vec<_> =
        result["interfaces"].as_array().into_iter().flatten().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["net1", "net2"]);
    assert_eq!(result["ips"][1]["interface"], 1);
    node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn a_foreign_plugin_is_run_and_its_error_passed_on() {
    let mut node = Node::new();
    let bin = tempfile::tempdir().expect("a folder");
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = bin.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    };
    script(
        "good",
        r#"cat >/dev/null; [ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.1.1/24"}]}'; true"#,
    );
    script(
        "bad",
        r#"cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; echo '{"cniVersion":"0.4.0","code":123,"msg":"no luck"}'; exit 1"#,
    );
    node.nad("default-network", &json!({ "cniVersion": "0.4.0", "type": "good" }));
    node.nad("bad", &json!({ "cniVersion": "0.4.0", "plugins": [{ "type": "good" }, { "type": "bad" }] }));
    let pod = node.pod();
    let mut configuration = node.configuration("1.0.0", "");
    configuration["binDir"] = json!(bin.path());
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    assert_eq!(result["ips"], json!([{ "address": "10.1.1.1/24" }]), "converted to 1.0.0");
    node.call("DEL", &pod, &configuration).expect("detached");
    let mut configuration = node.configuration("1.0.0", "bad");
    configuration["binDir"] = json!(bin.path());
    let error = node.call("ADD", &pod, &configuration).expect_err("no luck");
    assert_eq!(error["code"], 123);
    assert_eq!(error["msg"], "network core/bad: no luck");
    assert_nothing_left(&node);
}

#[test]
fn many_at_once_get_different_addresses() {
    let mut node = Node::new();
    node.usual_nads();
    let pods: Vec<_> = (0..20).map(|_| node.pod()).collect();
    let configuration = node.configuration("1.1.0", "n3");
    std::thread::scope(|scope| {
        let add = |pod| {
            let (node, configuration) = (&node, &configuration);
            scope.spawn(move || node.call("ADD", pod, configuration).expect("attached"))
        };
        pods.iter()
            .map(add)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|it| drop(it.join().expect("no panic")));
    });
    let all = reserved(&node);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 40);
    for pod in &pods {
        node.call("DEL", pod, &configuration).expect("detached");
    }
    assert_nothing_left(&node);
}

#[test]
fn a_caller_without_annotations_selects_by_its_arguments() {
    let mut node = Node::new();
    node.usual_nads();
    node.args.push_str(";K8S_POD_NETWORKS=n6@data0");
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "");
    configuration["runtimeConfig"] = json!({});
    node.call("ADD", &pod, &configuration).expect("attached");
    assert_eq!(pod.interfaces(), ["eth0", "data0"]);
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_nothing_left(&node);
}

#[test]
fn a_default_route_that_is_asked_for_takes_the_others_place() {
    let mut node = Node::new();
    node.usual_nads();
    let mut default = node.macvlan("n3", "10.20.0.0/24");
    default["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
    node.nad("default-network", &default);
    let pod = node.pod();
    let networks = r#"[{"name":"n3","default-route":["10.30.0.1"]}]"#;
    let configuration = node.configuration("1.1.0", networks);
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    assert_eq!(pod.ip("route show default").trim(), "default via 10.30.0.1 dev net1");
    assert_eq!(result["routes"], Value::Null, "the default network's result has lost it: {result}");
    node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn a_default_route_that_is_asked_for_is_in_the_results() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let mut configuration =
        node.configuration("1.1.0", r#"[{"name":"n6"},{"name":"n3","default-route":["10.30.0.1"]}]"#);
    configuration["clusterNetwork"] = json!("");
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    assert_eq!(pod.ip("route show default").trim(), "default via 10.30.0.1 dev net2");
    assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.30.0.1" }]));
    node.call("CHECK", &pod, &configuration).expect("as it was");
    pod.ip("route del default");
    let error = node.call("CHECK", &pod, &configuration).expect_err("the route is gone");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains("route to 0.0.0.0/0 is gone")), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_nothing_left(&node);
}
