//! Selections and capabilities: what reaches the plugins of a pod's networks, and what is refused.

use crate::recorded::{Recorded, message};
use serde_json::{Value, json};

/// The keys that need a capability, and one that needs none.
fn greedy() -> Value {
    json!([{"name": "chain", "ips": ["10.0.0.9"], "mac": "02:00:00:00:00:09",
        "bandwidth": {"egressRate": 8000}, "cni-args": {"b": 2}, "ipam-claim-reference": null}])
}

#[test]
fn what_no_plugin_can_do_is_passed_over_unless_selections_are_strict() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", &greedy().to_string());
    lab.add(&pod, &configuration);
    assert_eq!(lab.given("ADD-net1-one")["runtimeConfig"], json!({"ips": ["10.0.0.9"]}));
    assert_eq!(lab.given("ADD-net1-two")["runtimeConfig"], json!({"mac": "02:00:00:00:00:09"}));
    lab.del(&pod, &configuration);
    let calls = lab.calls().len();
    configuration["strictSelections"] = json!(true);
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("nobody can do bandwidth");
    assert_eq!(error["code"], 7, "{error}");
    assert!(message(&error).starts_with("network core/chain: bandwidth is asked for, and no"), "{error}");
    assert_eq!(lab.calls().len(), calls, "before any plugin was called");
    assert!(lab.records().is_empty());
}

#[test]
fn each_key_that_needs_a_capability_is_an_error_without_it_where_selections_are_strict() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let port = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
    let rates = json!({"ingressRate": 8000, "ingressBurst": 9000});
    let guid = "02:00:00:00:00:00:00:01";
    // NPWG standard 4.1.2.1.3, .4, .7, .8 and .10; Multus's own beside them.
    for (key, value, capability) in [
        ("ips", json!(["10.0.0.9", "2001:db8::9/64"]), "ips"),
        ("mac", json!("02:00:00:00:00:09"), "mac"),
        ("portMappings", port, "portMappings"),
        ("bandwidth", rates, "bandwidth"),
        ("infiniband-guid", json!(guid), "infinibandGUID"),
        ("deviceID", json!("0000:03:02.1"), "deviceID"),
    ] {
        let able = json!({"cniVersion": "1.0.0", "type": "one", "capabilities": {capability: true}});
        lab.node.nad("able", &able);
        let selecting = |lab: &Recorded, network: &str, strict: bool| {
            let selection = json!([{"name": network, key: value}]);
            let mut configuration = lab.configuration("1.1.0", &selection.to_string());
            configuration["strictSelections"] = json!(strict);
            configuration
        };
        let error = lab.node.call("ADD", &pod, &selecting(&lab, "single", true)).expect_err(key);
        let expected = format!(
            "network core/single: {capability} is asked for, and no plugin of it has that capability \
             (strictSelections)"
        );
        assert_eq!((&error["code"], message(&error)), (&json!(7), expected.as_str()));
        assert!(lab.calls().is_empty() && lab.records().is_empty(), "{key}");
        for (network, strict, given) in [
            ("single", false, Value::Null),
            ("able", true, json!({capability: value})),
            ("able", false, json!({capability: value})),
        ] {
            let configuration = selecting(&lab, network, strict);
            lab.add(&pod, &configuration);
            assert_eq!(lab.given("ADD-net1-one")["runtimeConfig"], given, "{key}, {network}");
            lab.del(&pod, &configuration);
            std::fs::remove_dir_all(lab.path("calls")).expect("removed");
        }
    }
}

#[test]
fn what_contradicts_itself_is_an_error_whether_selections_are_strict_or_not() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    pod.ip("link add taken type veth peer name other");
    let both = "ipam-claim-reference: together with ips";
    // NPWG standard 4.1.2.1.5, .9 and .11. The third column: with strictSelections only.
    for (selection, part, strict_only) in [
        (json!([{"name": "single", "interface": "taken"}]), "interface taken is already in", false),
        (
            json!([{"name": "single"}, {"name": "chain", "interface": "net1"}]),
            "net1 is asked for twice",
            false,
        ),
        (
            json!([{"name": "single", "default-route": ["10.0.0.1"]}, {"name": "chain", "default-route": ["10.0.0.2"]}]),
            "default-route is asked for on network core/single, too; only one can have it",
            false,
        ),
        (
            json!([{"name": "single", "default-route": []}, {"name": "chain", "default-route": []}]),
            "only one can have it",
            false,
        ),
        (json!([{"name": "single", "ips": []}]), "ips is an empty list (strictSelections)", true),
        (json!([{"name": "chain", "ips": ["10.0.0.9"], "ipam-claim-reference": "vm.net"}]), both, false),
    ] {
        for strict in [true, false] {
            let mut configuration = lab.configuration("1.1.0", &selection.to_string());
            configuration["strictSelections"] = json!(strict);
            let answer = lab.node.call("ADD", &pod, &configuration);
            if strict_only && !strict {
                answer.expect("passed over");
                lab.del(&pod, &configuration);
                std::fs::remove_dir_all(lab.path("calls")).expect("removed");
                continue;
            }
            let error = answer.expect_err(part);
            assert!(message(&error).contains(part), "{selection}: {error}");
            assert!(lab.calls().is_empty() && lab.records().is_empty(), "{selection}");
        }
    }
    let claimed = json!([{"name": "chain", "ipam-claim-reference": "vm.net", "cni-args": {"b": 2}}]);
    lab.add(&pod, &lab.configuration("1.1.0", &claimed.to_string()));
    let cni = json!({"a": 1, "b": 2, "ipam-claim-reference": "vm.net"});
    assert_eq!(lab.given("ADD-net1-one")["args"]["cni"], cni, "the network's own, the pod's, and the claim");
}

#[test]
fn an_annotation_that_is_wrong_is_named_by_entry_and_key() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    for (selection, part) in [
        (json!([{"name": "single"}, {"name": "chain", "mac": "x"}]), "entry core/chain: mac: is \"x\""),
        (json!([{"name": "single", "ips": ["10.0.0.1"], "ipam-claim-reference": "a"}]), "together with ips"),
        (json!([{"name": "single", "interface": "eth0"}]), "interface eth0 is asked for twice"),
    ] {
        let configuration = lab.configuration("1.1.0", &selection.to_string());
        let mut configuration = configuration;
        configuration["clusterNetwork"] = json!("core/single");
        let error = lab.node.call("ADD", &pod, &configuration).expect_err("wrong");
        assert_eq!(error["code"], 7, "{error}");
        assert!(message(&error).contains(part), "{error}");
    }
    assert!(lab.calls().is_empty());
}

#[test]
fn one_nad_twice_is_two_attachments_each_with_its_own_values() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let networks = json!([{"name": "chain", "ips": ["10.0.0.8"]}, {"name": "chain", "ips": ["10.0.0.9"]}]);
    let configuration = lab.configuration("1.1.0", &networks.to_string());
    lab.add(&pod, &configuration);
    assert_eq!(lab.given("ADD-net1-one")["runtimeConfig"], json!({"ips": ["10.0.0.8"]}));
    assert_eq!(lab.given("ADD-net2-one")["runtimeConfig"], json!({"ips": ["10.0.0.9"]}));
    lab.del(&pod, &configuration);
    let down = ["DEL-net2-two", "DEL-net2-one", "DEL-net1-two", "DEL-net1-one"];
    assert_eq!(lab.calls()[4..], down, "the tuples of ADD");
    assert_eq!(lab.given("DEL-net1-one")["runtimeConfig"], json!({"ips": ["10.0.0.8"]}));
}

#[test]
fn what_the_runtime_passes_reaches_the_default_network_only() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let capable = json!({"cniVersion": "1.0.0", "name": "capable", "type": "one",
        "capabilities": {"portMappings": true, "dns": true, "ips": true}});
    lab.node.nad("capable", &capable);
    let networks = json!([{"name": "capable", "ips": ["10.0.0.9"]}]);
    let mut configuration = lab.configuration("1.1.0", &networks.to_string());
    configuration["clusterNetwork"] = json!("core/capable");
    configuration["defaultNetworks"] = json!(["core/capable"]);
    configuration["capabilities"] = json!({"portMappings": true, "bandwidth": true});
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    configuration["runtimeConfig"]["portMappings"] = ports.clone();
    configuration["runtimeConfig"]["dns"] = json!({"servers": ["10.0.0.53"]});
    configuration["runtimeConfig"]["bandwidth"] = json!({"ingressRate": 1, "ingressBurst": 1});
    lab.add(&pod, &configuration);
    let given = lab.given("ADD-eth0-one");
    assert_eq!(given["runtimeConfig"], json!({"portMappings": ports, "dns": {"servers": ["10.0.0.53"]}}));
    assert_eq!(lab.given("ADD-net1-one").get("runtimeConfig"), None);
    assert_eq!(lab.given("ADD-net2-one")["runtimeConfig"], json!({"ips": ["10.0.0.9"]}));
}
