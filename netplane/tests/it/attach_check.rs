//! CHECK with both families and with several plugins: what is compared, and with which result.

use crate::harness::Node;
use crate::recorded::{Recorded, message};
use serde_json::{Value, json};

#[test]
fn check_sees_what_is_missing_of_either_family() {
    let mut node = Node::new();
    let mut config = node.macvlan("n3", "");
    config["ipam"] = json!({"type": "host-local", "dataDir": node.ipam(),
        "ranges": [[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd20::/64"}]],
        "routes": [{"dst": "10.98.0.0/16"}, {"dst": "fd98::/48"}]});
    node.nad("default-network", &config);
    node.nad("dual", &config);
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "");
    node.call("ADD", &pod, &configuration).expect("attached");
    let check = |part: &str| {
        let error = node.call("CHECK", &pod, &configuration).expect_err(part);
        assert!(message(&error).contains("core/default-network"), "{error}");
        assert!(message(&error).contains(&format!("{part} is gone")), "{error}");
    };
    for (gone, back, part) in [
        ("route del 10.98.0.0/16", "route add 10.98.0.0/16 via 10.20.0.1", "10.98.0.0/16"),
        ("-6 route del fd98::/48", "-6 route add fd98::/48 via fd20::1", "fd98::/48"),
        ("address del fd20::2/64 dev eth0", "address add fd20::2/64 dev eth0 nodad", "fd20::2/64"),
    ] {
        node.call("CHECK", &pod, &configuration).expect("all is there");
        pod.ip(gone);
        check(part);
        pod.ip(back);
    }
    // Without the address its gateway is out of reach.
    pod.ip("-6 route replace fd98::/48 via fd20::1");
    node.call("CHECK", &pod, &configuration).expect("all is there again");
    std::fs::remove_file(node.ipam().join("default-network/fd20::2")).expect("removed");
    let error = node.call("CHECK", &pod, &configuration).expect_err("not reserved");
    assert!(message(&error).contains("fd20::2/64 is not reserved any more"), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn each_plugin_is_checked_with_the_result_of_its_network() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.0.0", "chain");
    configuration["clusterNetwork"] = json!("core/single");
    let mut previous = lab.add(&pod, &configuration);
    // A plugin behind this one has added an address.
    let more = json!({"interface": 0, "address": "10.9.9.9/32"});
    previous["ips"].as_array_mut().expect("a list").push(more);
    configuration["prevResult"] = previous;
    lab.node.call("CHECK", &pod, &configuration).expect("as it was");
    let ips = |call: &str| -> Vec<Value> {
        let ips = lab.given(call)["prevResult"]["ips"].as_array().cloned().unwrap_or_default();
        ips.into_iter().map(|it| it["address"].clone()).collect()
    };
    assert_eq!(lab.calls()[3..], ["CHECK-eth0-one", "CHECK-net1-one", "CHECK-net1-two"]);
    assert_eq!(ips("CHECK-eth0-one"), ["10.0.0.7/24", "10.9.9.9/32"], "the runtime's rules");
    assert_eq!(ips("CHECK-net1-one"), ["10.0.0.7/24"]);
    assert_eq!(lab.given("CHECK-net1-one")["prevResult"]["dns"]["domain"], "two", "the list's last result");
    let printed = json!({"code": 11, "msg": "not so"});
    std::fs::write(lab.path("fail-CHECK-net1-one"), printed.to_string()).expect("written");
    let error = lab.node.call("CHECK", &pod, &configuration).expect_err("one fails");
    assert_eq!((&error["code"], message(&error)), (&json!(11), "network core/chain: not so"));
    assert_eq!(lab.calls()[6..], ["CHECK-eth0-one", "CHECK-net1-one"], "the first failure ends it");
}

#[test]
fn a_damaged_record_that_check_or_gc_has_seen_is_still_taken_down_by_del() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "single");
    configuration["clusterNetwork"] = json!("core/single");
    lab.add(&pod, &configuration);
    let record = format!("{}@eth0.json", pod.name);
    std::fs::write(lab.node.records().join(&record), "{\"version\":1,").expect("as after a power cut");
    let error = lab.node.call("CHECK", &pod, &configuration).expect_err("nothing to compare with");
    assert_eq!(error["code"], 3, "{error}");
    let mut valid = configuration.clone();
    valid["cni.dev/valid-attachments"] = json!([{"containerID": pod.name, "ifname": "eth0"}]);
    lab.node.call("GC", &pod, &valid).expect("it is valid");
    assert_eq!(lab.records(), [record]);
    assert_eq!(lab.calls().len(), 2, "nobody was called");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[2..], ["DEL-net1-one", "DEL-eth0-one"]);
    // One that the runtime does not know goes with GC.
    lab.add(&pod, &configuration);
    std::fs::write(lab.node.records().join(format!("{}@eth0.json", pod.name)), "{").expect("written");
    valid["cni.dev/valid-attachments"] = json!([]);
    lab.node.call("GC", &pod, &valid).expect("done");
    assert_eq!(lab.records(), Vec::<String>::new());
}
