//! CHECK and DEL as the specification asks for them, and its error codes through the real binary.

use crate::harness::{Node, answer};
use crate::recorded::{Recorded, message};
use serde_json::{Value, json};
use std::path::Path;

/// Debian's containernetworking-plugins; they know CNI up to 1.0.0.
const PROGRAMS: &str = "/usr/lib/cni";

#[test]
fn check_needs_the_previous_result_and_obeys_it() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let mut configuration = node.configuration("1.0.0", "n3");
    let added = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
    let check =
        |configuration: &Value| node.call_in("CHECK", &pod.name, &pod.path(), &configuration.to_string());
    let error = check(&configuration).expect_err("no prevResult");
    assert_eq!(
        error,
        json!({"cniVersion": "1.0.0", "code": 7,
        "msg": "prevResult is missing: CHECK compares with it"})
    );
    configuration["prevResult"] = added.clone();
    assert_eq!(check(&configuration), Ok(None));
    // A plugin behind this one has taken an address away, and said so.
    pod.ip("address del 10.20.0.2/24 dev eth0");
    check(&configuration).expect_err("an address is gone");
    configuration["prevResult"]["ips"] = json!([]);
    assert_eq!(check(&configuration), Ok(None));
    configuration["prevResult"] = json!({"cniVersion": "9.0.0"});
    let error = check(&configuration).expect_err("a version of nobody");
    assert_eq!(error["code"], 1, "{error}");
    assert!(message(&error).starts_with("prevResult: "), "{error}");
    configuration["prevResult"] = added;
    pod.ip("address add 10.20.0.2/24 dev eth0");
    std::fs::remove_file(node.ipam().join("n3/10.30.0.2")).expect("removed");
    let error = check(&configuration).expect_err("IPAM is checked, too");
    assert!(message(&error).contains("10.30.0.2/24 is not reserved any more"), "{error}");
    let other = node.call_in("CHECK", "other", &pod.path(), &configuration.to_string());
    assert_eq!(other.expect_err("not attached")["code"], 3);
}

#[test]
fn del_tries_everything_and_reports_all() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "single,chain");
    lab.add(&pod, &configuration);
    for (file, code) in [("fail-DEL-net2-two", 11), ("fail-DEL-net2-one", 11), ("fail-DEL-net1-one", 11)] {
        let printed = json!({"code": code, "msg": file, "details": format!("{file}!")});
        std::fs::write(lab.path(file), printed.to_string()).expect("written");
    }
    let del = || lab.node.call_in("DEL", &pod.name, Path::new(""), &configuration.to_string());
    let error = del().expect_err("all of them");
    let expected = "network core/chain: fail-DEL-net2-two; network core/chain: fail-DEL-net2-one; \
                    network core/single: fail-DEL-net1-one";
    assert_eq!((&error["code"], message(&error)), (&json!(11), expected));
    assert_eq!(error["details"], "fail-DEL-net2-two!; fail-DEL-net2-one!; fail-DEL-net1-one!");
    assert_eq!(lab.calls()[3..], ["DEL-net2-two", "DEL-net2-one", "DEL-net1-one"]);
    std::fs::write(lab.path("fail-DEL-net2-one"), r#"{"code": 5, "msg": "disk"}"#).expect("written");
    assert_eq!(del().expect_err("all of them")["code"], 100, "they have not one code");
    for file in ["fail-DEL-net2-two", "fail-DEL-net2-one", "fail-DEL-net1-one"] {
        std::fs::remove_file(lab.path(file)).expect("removed");
    }
    for _ in 0..3 {
        assert_eq!(del(), Ok(None), "any number of times");
    }
    assert_eq!(lab.calls().len(), 12);
}

#[test]
fn plugins_get_the_previous_result_where_their_version_has_it() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    for (network, version) in [("v031", "0.3.1"), ("v040", "0.4.0"), ("v110", "1.1.0")] {
        lab.node.nad(network, &json!({"cniVersion": version, "type": "one"}));
    }
    lab.node.nad("unsaid", &json!({"type": "one"}));
    let configuration = lab.configuration("1.1.0", "v031,v040,v110,unsaid");
    lab.add(&pod, &configuration);
    lab.del(&pod, &configuration);
    assert_eq!(
        lab.given("ADD-net4-one")["cniVersion"],
        "0.1.0",
        "as libcni takes a version that is not said"
    );
    let previous = |interface: &str| lab.given(&format!("DEL-{interface}-one")).get("prevResult").cloned();
    assert_eq!(previous("net1"), None, "DEL has it since 0.4.0");
    assert_eq!(previous("net4"), None);
    let ips = |interface| previous(interface).expect("a result")["ips"].clone();
    assert_eq!(ips("net2"), json!([{"version": "4", "address": "10.0.0.7/24", "interface": 0}]));
    assert_eq!(ips("net3"), json!([{"address": "10.0.0.7/24", "interface": 0}]));
}

#[test]
fn programs_of_the_distribution_in_their_versions() {
    let mut node = Node::new();
    // As runtimes do: these programs refuse what they do not know.
    node.args.insert_str(0, "IgnoreUnknown=1;");
    let mut bridge = json!({"type": "bridge", "bridge": "br0",
        "ipam": {"type": "host-local", "dataDir": node.ipam(), "subnet": "10.60.0.0/24"}});
    let mut configuration = node.configuration("1.1.0", "");
    configuration["binDir"] = json!(PROGRAMS);
    for version in [None, Some("0.1.0"), Some("0.2.0"), Some("0.3.1"), Some("0.4.0"), Some("1.0.0")] {
        bridge["cniVersion"] = json!(version);
        node.nad("default-network", &bridge);
        let pod = node.pod();
        let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
        let shown = pod.ip("-br address show eth0");
        let address = result["ips"][0]["address"].as_str().expect("an address");
        assert!(shown.contains(address), "{version:?}: {result}, {shown}");
        let has_interfaces = version.is_some_and(|it| it >= "0.3");
        assert_eq!(result.get("interfaces").is_some(), has_interfaces, "{version:?}: {result}");
        node.call("CHECK", &pod, &configuration).expect("as it was");
        node.call("DEL", &pod, &configuration).expect("detached");
        assert!(pod.interfaces().is_empty());
    }
    bridge["cniVersion"] = json!("1.1.0");
    node.nad("default-network", &bridge);
    let pod = node.pod();
    let error = node.call("ADD", &pod, &configuration).expect_err("later than these programs");
    assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.1.0"), &json!(1)), "{error}");
    assert!(message(&error).starts_with("network core/default-network: "), "{error}");
    assert!(pod.interfaces().is_empty());
}

/// Over the usual environment.
type Env = &'static [(&'static str, &'static str)];

#[test]
fn each_code_of_the_specification() {
    let mut node = Node::new();
    node.usual_nads();
    node.nad("tomorrow", &json!({"cniVersion": "7.0.0", "type": "macvlan"}));
    let demand = json!({"cniVersion": "1.0.0", "type": "ipvlan", "netplane": {"builtin": true}});
    node.nad("demand", &demand);
    let pod = node.pod();
    let good = node.configuration("0.4.0", "n3").to_string();
    let with = |key: &str, value: Value| {
        let mut configuration = node.configuration("0.4.0", "n3");
        configuration[key] = value;
        configuration.to_string()
    };
    let selecting = |network: &str| node.configuration("0.4.0", network).to_string();
    let file = node.nads().join("n3.json");
    let cases: [(u32, &str, String, Env); 14] = [
        (
            1,
            "cniVersion \"3.0.0\" is not supported (supported: 0.1.0, ",
            with("cniVersion", json!("3.0.0")),
            &[],
        ),
        (1, "core/tomorrow: cniVersion: \"7.0.0\" is not supported", selecting("tomorrow"), &[]),
        (2, "network core/demand: type is \"ipvlan\": not built in", selecting("demand"), &[]),
        (3, "/run/netns/absent", good.clone(), &[("CNI_NETNS", "/run/netns/absent")]),
        (4, "environment: CNI_CONTAINERID", good.clone(), &[("CNI_CONTAINERID", "")]),
        (4, "CNI_CONTAINERID, CNI_NETNS", good.clone(), &[("CNI_CONTAINERID", ""), ("CNI_NETNS", "")]),
        (4, "CNI_COMMAND is \"DANCE\"", good.clone(), &[("CNI_COMMAND", "DANCE")]),
        (4, "CNI_COMMAND is \"add\"", good.clone(), &[("CNI_COMMAND", "add")]),
        (4, "CNI_ARGS: \"K8S\" is not KEY=VALUE", good.clone(), &[("CNI_ARGS", "K8S")]),
        (4, "CNI_IFNAME: ", good.clone(), &[("CNI_IFNAME", "a/b")]),
        (5, "n3.json", with("cniDir", json!(file)), &[]),
        (6, "stdin is not JSON", "{".to_owned(), &[]),
        (7, "binDir is 7", with("binDir", json!(7)), &[]),
        (7, "not a JSON object", "[]".to_owned(), &[]),
    ];
    for (code, part, stdin, env) in cases {
        let output = node.run_in("ADD", &pod.name, &pod.path(), &stdin, env);
        let error = answer(&output).expect_err(part);
        assert_eq!(error["code"], code, "{part}: {error}");
        assert!(message(&error).contains(part), "{part}: {error}");
        let asked: Option<Value> = serde_json::from_str(&stdin).ok();
        let asked = asked.and_then(|it| Some(it.get("cniVersion")?.clone())).unwrap_or(json!("1.1.0"));
        assert_eq!(error["cniVersion"], asked, "{error}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("ERROR"), "stderr has the log: {log}");
    }
    assert!(pod.interfaces().is_empty());
}
