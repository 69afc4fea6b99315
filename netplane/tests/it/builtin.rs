//! The built-in plugins' keys that the reference plugins of every age do not have, and what is done to
//! devices beside a pod's own.

use crate::harness::{Node, Pod};
use serde_json::{Value, json};

/// The pod's default network has this configuration; ADD's result.
fn add(node: &Node, pod: &Pod, config: &Value) -> Value {
    node.nad("default-network", config);
    let configuration = node.configuration("1.1.0", "");
    node.call("ADD", pod, &configuration).expect("attached").expect("a result")
}

#[test]
fn devices_of_others_survive_when_a_pods_own_are_removed_together() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3, n6").to_string();
    node.call_in("ADD", "one", &pod.path(), &configuration).expect("attached");
    // Another attachment of the same namespace, and devices of others: of a kind and in a group like ours.
    let mut other = node.configuration("1.1.0", "n3@b1, n6@b2");
    other["clusterNetwork"] = json!("");
    node.call_in("ADD", "two", &pod.path(), &other.to_string()).expect("attached");
    pod.ip("link add v0 type veth peer name v1");
    pod.ip("link add link v0 name m0 type macvlan");
    for (link, group) in [("v1", 0x6e70_0000_u32), ("m0", 0x6e70_0001), ("b1", 0x6e70_0002)] {
        pod.ip(&format!("link set {link} group {group}"));
    }
    node.call_in("DEL", "one", &pod.path(), &configuration).expect("detached");
    let mut left = pod.interfaces();
    left.sort();
    assert_eq!(left, ["b1", "b2", "m0", "v0", "v1"]);
    node.call_in("DEL", "two", &pod.path(), &other.to_string()).expect("detached");
    let mut left = pod.interfaces();
    left.sort();
    assert_eq!(left, ["m0", "v0", "v1"]);
}

#[test]
fn a_device_of_another_kind_that_took_the_name_is_left() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3, n6");
    node.call("ADD", &pod, &configuration).expect("attached");
    pod.ip("link del net1");
    pod.ip("link add net1 type veth peer name v1");
    node.call("DEL", &pod, &configuration).expect("detached");
    let mut left = pod.interfaces();
    left.sort();
    assert_eq!(left, ["net1", "v1"]);
}

#[test]
fn neighbours_learn_of_a_new_address_at_once() {
    let mut node = Node::new();
    let pod = node.pod();
    // The master's other end takes in addresses of its subnet that are announced to it, and asks for none.
    node.ip("address add 10.20.0.200/24 dev n3p");
    node.exec("busybox sysctl -w net.ipv4.conf.n3p.arp_accept=1").expect("set");
    let result = add(&node, &pod, &node.macvlan("n3", "10.20.0.0/24"));
    let mac = result["interfaces"][0]["mac"].as_str().expect("a MAC").to_owned();
    let known = || node.ip("neigh show dev n3p").contains(&format!("10.20.0.2 lladdr {mac}"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !known() {
        assert!(std::time::Instant::now() < deadline, "{}", node.ip("neigh show dev n3p"));
        std::thread::yield_now();
    }
}

#[test]
fn an_ipv6_address_is_usable_when_add_returns_and_one_that_is_taken_is_named() {
    let mut node = Node::new();
    let mut config = node.macvlan("n3", "");
    config["ipam"] =
        json!({"type": "host-local", "dataDir": node.ipam(), "ranges": [[{"subnet": "fd20::/64"}]]});
    let (pod, second) = (node.pod(), node.pod());
    add(&node, &pod, &config);
    let shown = pod.ip("-6 address show dev eth0");
    assert!(shown.contains("fd20::2/64") && !shown.contains("tentative"), "{shown}");
    // Somebody on the master's network has the next one.
    node.ip("address add fd20::3/64 dev n3p nodad");
    let error = node.call("ADD", &second, &node.configuration("1.1.0", "")).expect_err("it is taken");
    let message = error["msg"].as_str().expect("a message");
    assert!(message.contains("core/default-network") && message.contains("fd20::3"), "{error}");
    assert_eq!(second.interfaces(), Vec::<String>::new());
    assert!(!node.ipam().join("default-network/fd20::3").exists());
}

#[test]
fn the_master_may_be_in_the_container() {
    let mut node = Node::new();
    for master in [json!("v0"), json!(null)] {
        let pod = node.pod();
        pod.ip("link add v0 type veth peer name v1");
        for link in ["v0", "v1"] {
            pod.ip(&format!("link set {link} up"));
        }
        pod.ip("address add 10.50.0.1/24 dev v0");
        pod.ip("route add default via 10.50.0.9");
        let mut config = node.macvlan("v0", "10.20.0.0/24");
        config["master"] = master;
        config["linkInContainer"] = json!(true);
        let result = add(&node, &pod, &config);
        assert_eq!(result["ips"].as_array().map(Vec::len), Some(1), "{result}");
        let link: Value = serde_json::from_str(&pod.ip("-j link show eth0")).expect("JSON of ip");
        assert_eq!(link[0]["link"], "v0", "{link}");
        let configuration = node.configuration("1.1.0", "");
        node.call("CHECK", &pod, &configuration).expect("as it was");
        node.call("DEL", &pod, &configuration).expect("detached");
        assert!(!pod.interfaces().contains(&"eth0".to_owned()));
    }
    // On the node there is none of that name.
    let mut config = node.macvlan("v0", "10.20.0.0/24");
    let pod = node.pod();
    node.nad("default-network", &config);
    let error = node.call("ADD", &pod, &node.configuration("1.1.0", "")).expect_err("no master");
    assert!(
        error["msg"].as_str().is_some_and(|it| it.contains("\"v0\" does not exist on this node")),
        "{error}"
    );
    config["linkInContainer"] = json!(true);
    node.nad("default-network", &config);
    let error = node.call("ADD", &pod, &node.configuration("1.1.0", "")).expect_err("no master");
    assert!(
        error["msg"].as_str().is_some_and(|it| it.contains("\"v0\" does not exist in the container")),
        "{error}"
    );
}

#[test]
fn default_routes_of_two_networks_are_as_with_the_reference_plugins() {
    let mut node = Node::new();
    for (name, master, number) in [("default-network", "n3", 20), ("n6", "n6", 40)] {
        let mut config = node.macvlan(master, "");
        config["ipam"] = json!({"type": "host-local", "dataDir": node.ipam(),
            "ranges": [[{"subnet": format!("10.{number}.0.0/24")}], [{"subnet": format!("2001:db8:{number}::/64")}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
        node.nad(name, &config);
    }
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n6");
    node.call("ADD", &pod, &configuration).expect("attached");
    // For IPv4 the later one is asked first, for IPv6 it is one route of two hops.
    let routes = pod.ip("-4 route show default");
    let routes: Vec<_> = routes.lines().map(str::trim).collect();
    assert_eq!(routes, ["default via 10.40.0.1 dev net1", "default via 10.20.0.1 dev eth0"]);
    let routes = pod.ip("-6 route show default");
    let hops = routes.matches("nexthop via 2001:db8:").count();
    assert_eq!(hops, 2, "{routes}");
    node.call("CHECK", &pod, &configuration).expect("as it was");
    node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn keys_of_newer_and_other_versions() {
    let mut node = Node::new();
    let resolv_conf = node.folder().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 10.0.0.53\nsearch a.b\n").expect("written");
    let mut config = node.macvlan("n3", "10.20.0.0/24");
    config["promisc"] = json!(true);
    config["bcqueuelen"] = json!(2000);
    config["args"] = json!({"cni": {"mac": "02:00:0a:14:00:09"}});
    config["ipam"]["resolvConf"] = json!(resolv_conf);
    config["ipam"]["routes"] = json!([
        {"dst": "10.98.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 50},
        {"dst": "10.99.0.0/16", "gw": "10.20.0.7", "table": 1000},
    ]);
    let pod = node.pod();
    let result = add(&node, &pod, &config);
    assert_eq!(result["dns"], json!({"nameservers": ["10.0.0.53"], "search": ["a.b"]}));
    assert_eq!(result["routes"], config["ipam"]["routes"]);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:0a:14:00:09");
    let link: Value = serde_json::from_str(&pod.ip("-d -j link show eth0")).expect("JSON of ip");
    assert!(link[0]["flags"].as_array().is_some_and(|it| it.contains(&json!("PROMISC"))), "{link}");
    assert_eq!(link[0]["linkinfo"]["info_data"]["bcqueuelen"], 2000);
    let route = pod.ip("route show 10.98.0.0/16");
    assert_eq!(route.trim(), "10.98.0.0/16 via 10.20.0.1 dev eth0 metric 50 mtu 1300 advmss 1200");
    assert_eq!(pod.ip("route show 10.99.0.0/16"), "");
    let route = pod.ip("route show table 1000");
    assert_eq!(route.trim(), "10.99.0.0/16 via 10.20.0.7 dev eth0");
    let configuration = node.configuration("1.1.0", "");
    node.call("CHECK", &pod, &configuration).expect("as it was");
    pod.ip("route del 10.99.0.0/16 table 1000");
    let error = node.call("CHECK", &pod, &configuration).expect_err("the route is gone");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains("10.99.0.0/16 is gone")), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
}
