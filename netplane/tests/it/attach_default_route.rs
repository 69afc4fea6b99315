//! `default-route` of a selection: both families, in the namespace and in the results, whoever made the routes.
//! Reference plugins add theirs without looking; two of them for IPv6 make one route with two hops.

use crate::attach_debian::Debian;
use crate::harness::Pod;
use crate::recorded::message;
use serde_json::{Value, json};

/// A node where the default network (ptp), `extra` (macvlan, for every pod) and `lan` (bridge) all set default
/// routes of both families; `last` (bridge) sets none.
fn lab() -> (Debian, Pod) {
    let mut lab = Debian::new();
    let all = ["0.0.0.0/0", "::/0"];
    let ptp = lab.ipam(&["10.71.0.0/24", "fd71::/64"], &all);
    lab.node.nad("default-network", &json!({"cniVersion": "1.0.0", "type": "ptp", "ipam": ptp}));
    let macvlan = lab.ipam(&["10.72.0.0/24", "fd72::/64"], &all);
    lab.node
        .nad("extra", &json!({"cniVersion": "1.0.0", "type": "macvlan", "master": "n3", "ipam": macvlan}));
    let bridge = |name: &str, ipam: Value| json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": name, "isGateway": true, "ipam": ipam});
    lab.node.nad("lan", &bridge("br0", lab.ipam(&["10.73.0.0/24", "fd73::/64"], &all)));
    lab.node.nad("last", &bridge("br1", lab.ipam(&["10.74.0.0/24", "fd74::/64"], &[])));
    let pod = lab.node.pod();
    (lab, pod)
}

/// `GATEWAY INTERFACE` of each default route of a family in the pod, hop by hop.
fn default_routes(pod: &Pod, family: &str) -> Vec<String> {
    let routes: Value =
        serde_json::from_str(&pod.ip(&format!("-j {family} route show default"))).expect("JSON of ip");
    let hop = |it: &Value| {
        let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("gateway"), text("dev"))
    };
    let mut hops = Vec::new();
    for route in routes.as_array().into_iter().flatten() {
        match route["nexthops"].as_array() {
            Some(more) => hops.extend(more.iter().map(hop)),
            None => hops.push(hop(route)),
        }
    }
    hops.sort();
    hops
}

/// Attaches `extra`, `lan` and `last` with these wishes, and checks what there is of default routes.
fn attached(lan: &Value, last: &Value, v4: &[&str], v6: &[&str]) {
    let (lab, pod) = lab();
    let mut selections = json!([{"name": "lan"}, {"name": "last"}]);
    for (number, wish) in [lan, last].into_iter().enumerate() {
        if !wish.is_null() {
            selections[number]["default-route"] = wish.clone();
        }
    }
    let mut configuration = lab.configuration(&selections);
    configuration["clusterNetwork"] = json!("core/default-network");
    configuration["defaultNetworks"] = json!(["core/extra"]);
    let result = lab.add(&pod, &configuration);
    assert_eq!(default_routes(&pod, "-4"), v4);
    assert_eq!(default_routes(&pod, "-6"), v6);
    let is_default = |it: &&Value| it["dst"] == "0.0.0.0/0" || it["dst"] == "::/0";
    let kept: Vec<_> = result["routes"].as_array().into_iter().flatten().filter(is_default).collect();
    assert_eq!(kept, Vec::<&Value>::new(), "the result is the default network's, and it has lost them");
    assert_eq!(recorded(&lab, &pod), [v4, v6].concat(), "the results that CHECK and the status use");
    configuration["prevResult"] = result;
    lab.check_and_del(&pod, &configuration);
}

/// `GATEWAY INTERFACE` of each default route in the record.
fn recorded(lab: &Debian, pod: &Pod) -> Vec<String> {
    let path = lab.node.records().join(format!("{}@eth0.json", pod.name));
    let record: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a record")).expect("JSON");
    let mut all = Vec::new();
    for family in ["0.0.0.0/0", "::/0"] {
        for attachment in record["attachments"].as_array().into_iter().flatten() {
            let routes = attachment["result"]["routes"].as_array().into_iter().flatten();
            let own = routes.filter(|it| it["dst"] == family);
            // A route without a gateway goes by that of the address.
            let of_address = |dst: &Value| {
                let is_v6 = |it: &Value| it.as_str().is_some_and(|it| it.contains(':'));
                let ips = attachment["result"]["ips"].as_array().into_iter().flatten();
                ips.map(|it| &it["gateway"]).find(|it| is_v6(it) == is_v6(dst)).cloned()
            };
            let line = |it: &Value| {
                let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
                let gateway = Some(&it["gw"]).filter(|it| !it.is_null()).cloned();
                let gateway = gateway.or_else(|| of_address(&it["dst"])).unwrap_or_default();
                format!("{} {}", text(&gateway), text(&attachment["interface"]))
            };
            all.extend(own.map(line));
        }
    }
    all
}

#[test]
fn gateways_of_both_families_replace_all_default_routes() {
    attached(&Value::Null, &json!(["10.74.0.1", "fd74::1"]), &["10.74.0.1 net3"], &["fd74::1 net3"]);
}

#[test]
fn its_own_gateways_are_replaced_too() {
    attached(&json!(["10.73.0.99", "fd73::99"]), &Value::Null, &["10.73.0.99 net2"], &["fd73::99 net2"]);
}

#[test]
fn an_empty_list_keeps_what_the_network_s_plugin_has_set() {
    attached(&json!([]), &Value::Null, &["10.73.0.1 net2"], &["fd73::1 net2"]);
}

#[test]
fn one_hop_of_a_route_goes_and_the_other_stays() {
    let (lab, pod) = lab();
    let configuration = lab.configuration(&json!([{"name": "lan", "default-route": []}, {"name": "lan"}]));
    lab.add(&pod, &configuration);
    assert_eq!(default_routes(&pod, "-4"), ["10.73.0.1 net1"]);
    assert_eq!(default_routes(&pod, "-6"), ["fd73::1 net1"]);
    assert_eq!(recorded(&lab, &pod), ["10.73.0.1 net1", "fd73::1 net1"]);
    lab.check_and_del(&pod, &configuration);
    // What it is about: without a wish, the second plugin's is another hop.
    let configuration = lab.configuration(&json!([{"name": "lan"}, {"name": "lan"}]));
    lab.add(&pod, &configuration);
    assert_eq!(default_routes(&pod, "-6"), ["fd73::1 net1", "fd73::1 net2"]);
    lab.node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn one_family_asked_for_leaves_the_other_to_the_network_s_plugin() {
    attached(&json!(["10.73.0.99"]), &Value::Null, &["10.73.0.99 net2"], &["fd73::1 net2"]);
    attached(&Value::Null, &json!(["fd74::1"]), &[], &["fd74::1 net3"]);
}

#[test]
fn two_networks_may_have_one_family_each_unless_selections_are_strict() {
    attached(&json!(["10.73.0.1"]), &json!(["fd74::1"]), &["10.73.0.1 net2"], &["fd74::1 net3"]);
    let (lab, pod) = lab();
    let selections = json!([{"name": "lan", "default-route": ["10.73.0.1"]},
                            {"name": "last", "default-route": ["fd74::1"]}]);
    let mut configuration = lab.configuration(&selections);
    configuration["strictSelections"] = json!(true);
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("strict");
    assert!(message(&error).contains("default-route is asked for on network core/lan, too"), "{error}");
}

#[test]
fn a_gateway_that_is_not_on_the_network_is_named() {
    let (lab, pod) = lab();
    let selections = json!([{"name": "last", "default-route": ["192.0.2.1"]}]);
    let error = lab.node.call("ADD", &pod, &lab.configuration(&selections)).expect_err("unreachable");
    assert!(message(&error).starts_with("network core/last: default route: "), "{error}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
}

#[test]
fn plugins_before_us_in_a_list_lose_theirs_as_well() {
    let (lab, pod) = lab();
    pod.ip("link add eth0 type veth peer name other");
    pod.ip("address add 10.75.0.2/24 dev eth0");
    pod.ip("link set other up");
    pod.ip("link set eth0 up");
    pod.ip("route add default via 10.75.0.1");
    let mut configuration = lab.configuration(&json!([{"name": "last", "default-route": ["10.74.0.1"]}]));
    let mut previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
        "ips": [{"interface": 0, "address": "10.75.0.2/24"}], "dns": {},
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.75.0.1"}, {"dst": "10.0.0.0/8", "gw": "10.75.0.1"}]});
    configuration["prevResult"] = previous.clone();
    let result = lab.add(&pod, &configuration);
    assert_eq!(default_routes(&pod, "-4"), ["10.74.0.1 net1"]);
    previous["routes"].as_array_mut().expect("a list").remove(0);
    assert_eq!(result, previous);
    lab.node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(pod.interfaces(), ["other", "eth0"]);
}

#[test]
fn a_default_route_of_the_annotation_s_default_network_counts_as_well() {
    let (lab, pod) = lab();
    let mut configuration = lab.configuration(&json!([{"name": "lan"}]));
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["v1.multus-cni.io/default-network"] =
        json!(r#"[{"name": "last", "namespace": "core", "default-route": ["10.74.0.1"]}]"#);
    let result = lab.add(&pod, &configuration);
    assert_eq!(default_routes(&pod, "-4"), ["10.74.0.1 eth0"]);
    assert_eq!(default_routes(&pod, "-6"), Vec::<String>::new());
    assert!(result["routes"].to_string().contains("10.74.0.1"), "{result}");
    configuration["prevResult"] = result;
    lab.check_and_del(&pod, &configuration);
}
