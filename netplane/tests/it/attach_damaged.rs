//! Records that are damaged, or of an earlier release: what ADD and DEL make of them.

use crate::harness::{Node, Pod, files};
use crate::recorded::{Recorded, message};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn record(node: &Node, pod: &Pod) -> PathBuf {
    node.records().join(format!("{}@eth0.json", pod.name))
}

fn damage(node: &Node, pod: &Pod) {
    std::fs::write(record(node, pod), "{\"version\":1,\"cont").expect("as after a power cut");
}

const UP: [&str; 3] = ["ADD-net1-one", "ADD-net1-two", "ADD-net2-one"];
const DOWN: [&str; 3] = ["DEL-net2-one", "DEL-net1-two", "DEL-net1-one"];

#[test]
fn an_add_over_a_damaged_record_takes_down_what_was_there_first() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "chain, single");
    lab.add(&pod, &configuration);
    damage(&lab.node, &pod);
    lab.add(&pod, &configuration);
    assert_eq!(lab.calls(), [UP, DOWN, UP].concat());
    let mut records = lab.records();
    records.sort_unstable();
    assert_eq!(records, [format!("{}@eth0.corrupt", pod.name), format!("{}@eth0.json", pod.name)]);
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[9..], DOWN);
}

#[test]
fn an_add_over_a_damaged_record_leaks_neither_devices_nor_addresses() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3, n6");
    node.call("ADD", &pod, &configuration).expect("attached");
    damage(&node, &pod);
    node.call("ADD", &pod, &configuration).expect("attached anew");
    assert_eq!(pod.interfaces(), ["eth0", "net1", "net2"]);
    let addresses = || {
        let mut names = files(&node.ipam());
        names.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
        names
    };
    assert_eq!(addresses().len(), 3, "{:?}", addresses());
    node.call("CHECK", &pod, &configuration).expect("all is there");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!((pod.interfaces(), addresses()), (vec![], vec![]));
}

#[test]
fn an_add_over_a_damaged_record_that_fails_leaves_all_to_del() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "chain, single");
    lab.add(&pod, &configuration);
    damage(&lab.node, &pod);
    // What is wrong with the request is found before anything is touched.
    let error = lab.node.call("ADD", &pod, &lab.configuration("1.1.0", "chain, absent")).expect_err("no NAD");
    assert!(message(&error).contains("core/absent"), "{error}");
    assert_eq!((lab.calls().len(), lab.records().len()), (3, 1));
    std::fs::write(lab.path("fail-DEL-net1-two"), r#"{"code": 11, "msg": "busy"}"#).expect("written");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("it does not go");
    assert_eq!((&error["code"], message(&error)), (&json!(11), "network core/chain: busy"));
    assert_eq!(lab.calls()[3..], DOWN, "nothing is attached beside what is still there");
    std::fs::remove_file(lab.path("fail-DEL-net1-two")).expect("removed");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[6..], DOWN);
    assert_eq!(lab.records(), [format!("{}@eth0.corrupt", pod.name)]);
}

#[test]
fn with_a_damaged_record_a_network_that_is_gone_keeps_no_other_one_up() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "chain, single");
    configuration["clusterNetwork"] = json!("core/single");
    lab.add(&pod, &configuration);
    damage(&lab.node, &pod);
    std::fs::remove_file(lab.node.nads().join("chain.json")).expect("the NAD goes");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[4..], ["DEL-net2-one", "DEL-eth0-one"], "under the names that they had");
}

/// A record as the first release writes it. To be written anew (`UPDATE_GOLDEN=1`) only before a release: pods
/// outlive the plugin that has attached them.
const GOLDEN: &str = "tests/it/golden/record-1.json";

/// Whether all of `part` is in `whole`.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(key, it)| whole.get(key).is_some_and(|whole| is_within(it, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(it, whole)| is_within(it, whole))
        }
        _ => part == whole,
    }
}

#[test]
fn a_record_of_an_earlier_release_is_understood() {
    let mut node = Node::new();
    node.args = "K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0;K8S_POD_UID=0b5a".to_owned();
    for (name, master, subnet, mac) in [
        ("default-network", "n3", "10.20.0.0/24", "02:00:00:00:00:20"),
        ("n6", "n6", "10.40.0.0/24", "02:00:00:00:00:40"),
    ] {
        let mut config = node.macvlan(master, subnet);
        config["mac"] = json!(mac);
        let list = json!({"cniVersion": "1.1.0", "disableGC": true, "plugins": [config]});
        node.nad(name, if name == "n6" { &list } else { &config });
    }
    let pod = node.pod();
    let networks = json!([{"name": "n6", "interface": "data", "default-route": ["10.40.0.1"],
        "cni-args": {"key": 1}}]);
    let configuration = node.configuration("1.1.0", &networks.to_string());
    let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    let names = [
        (pod.path().display().to_string(), "NETNS"),
        (pod.name.clone(), "CONTAINER"),
        (node.ipam().display().to_string(), "IPAM"),
    ];
    let written = std::fs::read_to_string(record(&node, &pod)).expect("a record");
    let written = names.iter().fold(written, |text, (own, name)| text.replace(own, name));
    let written: Value = serde_json::from_str(&written).expect("JSON");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&written).expect("JSON");
        std::fs::write(&file, format!("{text}\n")).expect("written");
    }
    let golden = std::fs::read_to_string(file).expect("a golden file");
    let earlier: Value = serde_json::from_str(&golden).expect("JSON");
    assert!(is_within(&earlier, &written), "an earlier release would not understand this one's: {written:#}");
    let own = names.iter().fold(golden, |text, (own, name)| text.replace(name, own));
    std::fs::write(record(&node, &pod), own).expect("written");
    std::fs::remove_dir_all(node.nads()).expect("the NADs go");
    let error = node.call("ADD", &pod, &configuration).expect_err("no NADs");
    assert_eq!(error["code"], 5, "{error}");
    let mut check = configuration.clone();
    check["prevResult"] = result;
    node.call("CHECK", &pod, &check).expect("all is there");
    pod.ip("address del 10.40.0.2/24 dev data");
    let error = node.call("CHECK", &pod, &check).expect_err("compared with the record");
    assert!(message(&error).contains("core/n6"), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    assert_eq!(files(&node.records()), Vec::<String>::new());
    let mut left = files(&node.ipam());
    left.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
    assert_eq!(left, Vec::<String>::new());
}
