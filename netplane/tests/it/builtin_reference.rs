//! The built-in macvlan and host-local beside the reference plugins (Debian's package
//! containernetworking-plugins) with the same configurations: what is in the pod and in the result must
//! agree, and both use one store of addresses.

use crate::harness::{Node, Pod, files};
use netplane::plugins::ipam::host_local::{self, Config, Request};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PLUGINS: &str = "/usr/lib/cni";

/// One configuration: what is merged into the usual one, into `runtimeConfig`, and `CNI_ARGS`.
struct Case {
    name: &'static str,
    config: Value,
    runtime: Value,
    args: &'static str,
}

fn case(name: &'static str, config: Value) -> Case {
    Case { name, config, runtime: json!({}), args: "" }
}

const FIXED_MAC: &str = "02:00:0a:14:00:09";

fn cases() -> Vec<Case> {
    let ranges = json!([[{"subnet": "10.20.0.0/24"}], [{"subnet": "2001:db8:20::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.99.0.0/16", "gw": "10.20.0.7"},
                        {"dst": "2001:db8:99::/48", "gw": "2001:db8:20::7"}, {"dst": "10.20.0.0/24"}]);
    vec![
        case("plain", json!({})),
        case("no addresses", json!({"ipam": {}})),
        case("mode private", json!({"mode": "private"})),
        case("mode vepa", json!({"mode": "vepa"})),
        case("mode passthru", json!({"mode": "passthru"})),
        case("no mode", json!({"mode": ""})),
        case("mtu", json!({"mtu": 1400})),
        case("mtu 0", json!({"mtu": 0})),
        case("mac", json!({"mac": FIXED_MAC})),
        case("master by default route", json!({"master": ""})),
        case("dns", json!({"dns": {"nameservers": ["10.0.0.53"], "search": ["a.b"]}})),
        case(
            "routes",
            json!({"ipam": {"subnet": "10.20.0.0/24", "gateway": "10.20.0.254", "rangeStart": "10.20.0.9",
                            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16", "gw": "10.20.0.7"}]}}),
        ),
        case(
            "dual stack with routes",
            json!({"mac": FIXED_MAC, "ipam": {"ranges": ranges, "routes": routes}}),
        ),
        case("args", json!({"args": {"cni": {"ips": ["10.20.0.70"]}}})),
        Case {
            name: "capabilities",
            config: json!({"mac": "02:00:00:00:00:01", "capabilities": {"mac": true, "ips": true, "ipRanges": true}}),
            runtime: json!({"mac": FIXED_MAC, "ips": ["10.20.0.88/24"], "ipRanges": [[{"subnet": "10.21.0.0/24"}]]}),
            args: "",
        },
        Case { args: "IgnoreUnknown=1;MAC=02:00:0a:14:00:09;IP=10.20.0.99", ..case("CNI_ARGS", json!({})) },
    ]
}

/// Objects into each other, other values in place; an empty object removes what was there.
fn merge(into: &mut Value, with: &Value) {
    match (into, with) {
        (Value::Object(into), Value::Object(with)) if !with.is_empty() => {
            for (key, value) in with {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, with) => *into = with.clone(),
    }
}

#[test]
fn what_is_built_in_agrees_with_the_reference_plugins() {
    assert!(Path::new(PLUGINS).join("macvlan").is_file(), "install containernetworking-plugins");
    let mut node = Node::new();
    node.ip("address add 10.20.0.200/24 dev n3");
    node.ip("route add default via 10.20.0.1");
    for Case { name, config, runtime, args } in cases() {
        node.args = format!("{args};IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0");
        let mut seen = Vec::new();
        for builtin in [true, false] {
            let mut nad = node.macvlan("n3", "10.20.0.0/24");
            nad["cniVersion"] = json!("1.0.0");
            nad["ipam"]["dataDir"] = json!(node.folder().join(format!("{name}-{builtin}")));
            if config.pointer("/ipam/ranges").is_some() {
                nad["ipam"].as_object_mut().expect("an object").remove("subnet");
            }
            if config != json!({}) {
                merge(&mut nad, &config);
            }
            nad["netplane"] = json!({ "builtin": builtin });
            node.nad("default-network", &nad);
            let mut configuration = node.configuration("1.0.0", "");
            configuration["binDir"] = json!(PLUGINS);
            let capabilities = runtime.as_object().into_iter().flatten();
            for (capability, value) in capabilities {
                configuration["runtimeConfig"][capability] = value.clone();
            }
            // One after the other: the same addresses twice on one wire are duplicates.
            let pod = node.pod();
            let result = node.call("ADD", &pod, &configuration);
            let result = result.unwrap_or_else(|error| panic!("{name}, built in: {builtin}: {error}"));
            seen.push(seen_in(&pod, result.expect("a result")));
            node.call("CHECK", &pod, &configuration)
                .unwrap_or_else(|error| panic!("CHECK of {name}, built in: {builtin}: {error}"));
            node.call("DEL", &pod, &configuration).expect("detached");
            assert_eq!(pod.interfaces(), Vec::<String>::new(), "{name}");
        }
        let (ours, theirs) = (&seen[0], &seen[1]);
        for (key, value) in theirs.as_object().expect("an object") {
            assert_eq!(&ours[key], value, "{name}: {key}, ours and theirs");
        }
    }
}

/// What is comparable of a pod and a result: all but the device's index, random MACs and what is made of
/// them, where the pod is, and the length of a queue that the device does not have (the reference plugin
/// sets it to 0, here it stays the kernel's).
fn seen_in(pod: &Pod, mut result: Value) -> Value {
    let json_of = |arguments: &str| -> Vec<Value> {
        let text = pod.ip(&format!("-j -d {arguments}"));
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).expect("JSON of ip") }
    };
    let link = json_of("link show eth0").remove(0);
    let random = link["address"] != json!(FIXED_MAC);
    assert_eq!(result["interfaces"][0]["mac"], link["address"]);
    assert_eq!(result["interfaces"][0]["sandbox"], json!(pod.path()));
    result["interfaces"][0]["sandbox"] = json!("");
    if random {
        result["interfaces"][0]["mac"] = json!("");
    }
    let link = json!({
        "flags": link["flags"], "mtu": link["mtu"], "link": link["linkinfo"], "promiscuity": link["promiscuity"],
        "group": link["group"], "operstate": link["operstate"],
        "address": if random { Value::Null } else { link["address"].clone() },
    });
    let addresses = json_of("address show dev eth0").remove(0)["addr_info"].take();
    let addresses = addresses.as_array().cloned().unwrap_or_default();
    let addresses: Vec<_> = addresses.into_iter().filter(|it| it["scope"] != "link").collect();
    // Those of link-local addresses appear when their detection ends, which nobody waits for.
    let of_its_own = |route: &Value| {
        let text = route["dst"].as_str().unwrap_or_default();
        text.starts_with("fe80") || text.starts_with("ff00") || route["type"] == "anycast"
    };
    let routes = |family: &str| -> Vec<Value> {
        let routes = json_of(&format!("{family} route show table all"));
        routes.into_iter().filter(|it| !of_its_own(it)).collect()
    };
    let settings = |of: &str, left_out: &[&str]| -> Vec<String> {
        let all = pod.exec(&format!("busybox grep -r . /proc/sys/net/{of}/conf/eth0")).unwrap_or_default();
        let mut all: Vec<_> = all.lines().map(str::to_owned).collect();
        all.retain(|line| !left_out.iter().any(|it| line.contains(it)));
        all.sort();
        all
    };
    json!({
        "result": result, "link": link, "addresses": addresses,
        "IPv4 routes": routes("-4"), "IPv6 routes": routes("-6"),
        "IPv4 settings": settings("ipv4", &[]),
        // Later versions of the reference plugin than Debian's switch it on as we do; the secret is random.
        "IPv6 settings": settings("ipv6", &["ndisc_notify", "stable_secret"]),
    })
}

/// The reference host-local, called directly.
fn reference(verb: &str, container: &str, ipam: &Value) -> Vec<IpAddr> {
    let stdin = json!({"cniVersion": "1.0.0", "name": "shared", "type": "macvlan", "ipam": ipam}).to_string();
    let mut command = Command::new(Path::new(PLUGINS).join("host-local"));
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
    command.env("CNI_NETNS", "/nowhere").env("CNI_PATH", PLUGINS);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("containernetworking-plugins is installed");
    child.stdin.take().expect("stdin").write_all(stdin.as_bytes()).expect("stdin is read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{verb} {container}: {}", String::from_utf8_lossy(&output.stdout));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let addresses = result["ips"].as_array().into_iter().flatten().filter_map(|it| it["address"].as_str());
    addresses.map(|it| it.split('/').next().and_then(|it| it.parse().ok()).expect("an address")).collect()
}

fn request(container_id: &str) -> Request<'_> {
    Request { network: "shared", container_id, interface: "eth0", wait: Duration::from_secs(60) }
}

fn ours(container: &str, config: &Config) -> Vec<IpAddr> {
    let got = host_local::allocate(config, request(container), &[]).expect("addresses");
    got.into_iter().map(|it| it.address.addr()).collect()
}

fn shared_store(folder: &Path, size: u8) -> (Value, Config) {
    let ipam = json!({"type": "host-local", "dataDir": folder, "ranges": [
        [{"subnet": format!("10.20.0.0/{size}")}], [{"subnet": "2001:db8:20::/64", "rangeStart": "2001:db8:20::a:b"}],
    ]});
    let config = serde_json::from_value(ipam.clone()).expect("a configuration");
    (ipam, config)
}

#[test]
fn both_use_one_store_in_turn() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ipam, config) = shared_store(folder.path(), 29);
    let shown = |it: Vec<IpAddr>| it.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(ours("a", &config)), ["10.20.0.2", "2001:db8:20::a:b"]);
    assert_eq!(shown(reference("ADD", "b", &ipam)), ["10.20.0.3", "2001:db8:20::a:c"]);
    assert_eq!(shown(ours("c", &config)), ["10.20.0.4", "2001:db8:20::a:d"]);
    assert_eq!(shown(reference("ADD", "d", &ipam)), ["10.20.0.5", "2001:db8:20::a:e"]);
    assert_eq!(shown(ours("e", &config)), ["10.20.0.6", "2001:db8:20::a:f"]);
    host_local::allocate(&config, request("f"), &[]).expect_err("all are taken, the other's too");
    assert_eq!(shown(host_local::held(&config, request("b")).expect("held")).len(), 2, "by the other");
    // Each gives back what the other has given out.
    reference("DEL", "a", &ipam);
    host_local::release(&config, request("b")).expect("released");
    assert_eq!(shown(ours("f", &config)), ["10.20.0.2", "2001:db8:20::a:10"]);
    assert_eq!(shown(reference("ADD", "g", &ipam)), ["10.20.0.3", "2001:db8:20::a:11"]);
    for container in ["c", "d", "e", "f", "g"] {
        reference("DEL", container, &ipam);
    }
    let mut left = files(folder.path());
    left.sort();
    assert_eq!(left, ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
}

#[test]
fn both_use_one_store_at_the_same_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ipam, config) = shared_store(folder.path(), 24);
    let count = 12;
    let taken: Vec<IpAddr> = std::thread::scope(|scope| {
        let (ipam, config) = (&ipam, &config);
        let ours = (0..count).map(|it| scope.spawn(move || ours(&format!("o{it}"), config)));
        let theirs = (0..count).map(|it| scope.spawn(move || reference("ADD", &format!("t{it}"), ipam)));
        let threads: Vec<_> = ours.zip(theirs).flat_map(|(one, other)| [one, other]).collect();
        threads.into_iter().flat_map(|it| it.join().expect("no panic")).collect()
    });
    assert_eq!(taken.len(), 4 * count);
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "an address was given out twice");
    std::thread::scope(|scope| {
        for number in 0..count {
            let (ipam, config) = (&ipam, &config);
            // Crosswise.
            scope.spawn(move || reference("DEL", &format!("o{number}"), ipam));
            scope.spawn(move || {
                host_local::release(config, request(&format!("t{number}"))).expect("released")
            });
        }
    });
    let left = files(folder.path()).into_iter().filter(|it| it.parse::<IpAddr>().is_ok());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}
